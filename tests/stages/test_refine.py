"""Where the refinement of MELD-DS starts: from the base model, or on request from the initial expert."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from meld.progress import Silent
from meld.refine.base import Material
from meld.refine.mixture import MixtureRefinement
from meld.stages.base import Context
from meld.stages.refine import train_rounds
from meld.types import Query, Sample


class Recorder:
    """In the place of an expert: keeps what a training is given."""

    train_candidates = 1

    def __init__(self) -> None:
        self.given: dict[str, Any] = {}

    def fit(
        self, lm: Any, targets: Any, lessons: Any, dev: Any, out: Path, *rest: Any, **options: Any
    ) -> dict[str, Any]:
        self.given = options
        out.mkdir(parents=True)
        (out / "adapter_config.json").write_text('{"r": 1}')
        save_file({"a": torch.ones(1)}, out / "adapter_model.safetensors")
        return {"kept": True}


@pytest.mark.parametrize("start", [None, "fresh", "init"])
def test_mixture_trains_the_base_model_unless_told_to_go_on(tmp_path: Path, start: str | None) -> None:
    initial = tmp_path / "init" / "adapter"
    initial.mkdir(parents=True)
    (initial / "adapter_config.json").write_text('{"r": 1}')
    save_file({"a": torch.full((1,), 7.0)}, initial / "adapter_model.safetensors")
    sample = Sample(Query("d.sm/1", "d.sm", "sm", ({"a": "x"}, {"a": "y"})), "match")
    none = np.zeros((0, 2), dtype=np.float32)
    material = Material(
        own=[sample], own_vectors=np.ones((1, 2), dtype=np.float32), others=[], other_vectors=none, target=none
    )
    chosen: dict[str, Any] = {} if start is None else {"start": start}
    refiner = MixtureRefinement(2.0, 1.0, epochs=5, **chosen)
    expert: Any = Recorder()
    questions: Any = {"d.sm": SimpleNamespace(lessons=lambda samples, lm, n: list(samples))}
    backbone: Any = SimpleNamespace(lora_targets=("a",))
    unused: Any = None
    (tmp_path / "out").mkdir()
    context = Context(tmp_path / "out", tmp_path / "work", {"init": tmp_path / "init"}, 0, Silent(), lambda name: None)
    train_rounds(
        context, questions, "d.sm", refiner, material, {id(sample): "d.sm"}, [], expert, backbone, unused, unused
    )
    if start == "init":
        assert expert.given["start"]["a"].tolist() == [7.0]
    else:
        assert expert.given["start"] is None
    assert expert.given["epochs"] == 5
