"""Which samples an expert is trained on when there are more than it may read."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from meld.stages.init import limited
from meld.types import Query, Sample


def samples(labels: list[str], others: int) -> list[Sample]:
    made = [Sample(Query(f"l{i}", "d.sm", "sm", ()), label) for i, label in enumerate(labels)]
    return [*made, *(Sample(Query(f"p{i}", "d.sm", "sm", ()), "no", "pseudo", 0.9) for i in range(others))]


@given(
    st.lists(st.sampled_from(["yes", "no", "?"]), max_size=40), st.integers(0, 20), st.integers(0, 30), st.integers()
)
def test_never_more_than_asked_and_labelled_ones_first(labels: list[str], others: int, limit: int, seed: int) -> None:
    given_ = samples(labels, others)
    kept = limited(given_, limit, seed)
    assert kept == limited(given_, limit, seed)
    assert len(kept) == min(limit, len(given_))
    assert len({s.id for s in kept}) == len(kept)
    n_labelled = sum(s.provenance == "labelled" for s in kept)
    assert n_labelled == min(limit, len(labels))
    assert limited(given_, None, seed) == given_


def test_a_rare_label_is_not_lost() -> None:
    kept = Counter(s.label for s in limited(samples(["no"] * 500 + ["yes"] * 7, 0), 20, 0))
    assert kept == {"yes": 7, "no": 13}
    assert Counter(s.label for s in limited(samples(["no"] * 50 + ["yes"] * 50, 9), 20, 0)) == {"yes": 10, "no": 10}
