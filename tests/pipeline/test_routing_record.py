"""What a run records about routing."""

from __future__ import annotations

import pytest

from meld.pipeline.run import weights_in_order


def test_mean_weights_follow_their_experts() -> None:
    routing = {"experts": ["a.dc", "b.di", "c.em"], "mean_weights": [0.7, 0.1, 0.2]}
    assert weights_in_order(routing, ("c.em", "a.dc", "b.di")) == [0.2, 0.7, 0.1]
    with pytest.raises(KeyError):
        weights_in_order(routing, ("d.em",))
