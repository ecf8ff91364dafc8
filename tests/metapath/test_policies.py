"""The search for a path on made-up Evals."""

from __future__ import annotations

from meld.metapath.policies import FixedMetaPath, GreedyMetaPath, NoMetaPath
from meld.metapath.steps import FillMissing, apply_path
from meld.types import Query

STEPS = ("d.blk", "e.di", "f.di")


def test_greedy_extends_while_eval_rises_and_stops() -> None:
    worth = {(): 0.0, ("d.blk",): 1.0, ("e.di",): 2.0, ("f.di",): 0.5, ("d.blk", "e.di"): 3.0, ("d.blk", "f.di"): 0.9}
    worth |= {("d.blk", "e.di", "f.di"): 2.9}
    found = GreedyMetaPath(3, {"em": ["blk"]}).search("em", STEPS, worth.__getitem__)
    assert found.path == ("d.blk", "e.di")
    assert found.tried["d.blk>e.di>f.di"] == 2.9


def test_no_path_wins_when_steps_harm() -> None:
    assert GreedyMetaPath(3, {"em": ["blk"]}).search("em", STEPS, lambda path: -float(len(path))).path == ()


def test_length_and_number_of_evaluations_are_bounded() -> None:
    seen: list[tuple[str, ...]] = []

    def longer_is_better(path: tuple[str, ...]) -> float:
        seen.append(path)
        return float(len(path))

    assert len(GreedyMetaPath(2).search("em", STEPS, longer_is_better).path) == 2
    seen.clear()
    GreedyMetaPath(3, max_evaluations=2).search("em", STEPS, longer_is_better)
    assert len(seen) <= 2


def test_fixed_and_none() -> None:
    assert FixedMetaPath(3, {"em": ["blk"]}).search("em", STEPS, lambda path: 0.0).path == ("d.blk",)
    assert FixedMetaPath(0, {"em": ["blk"]}).search("em", STEPS, lambda path: 0.0).path == ()
    assert NoMetaPath().search("em", STEPS, lambda path: 1.0).path == ()


def test_filling_changes_gaps_only_and_never_the_asked_attribute() -> None:
    asked: list[Query] = []

    def ask(queries: object) -> list[str | None]:
        asked.extend(queries)  # type: ignore[arg-type]
        return ["Aville" for _ in asked]

    step = FillMissing("p.di", ["City"], ask)
    gap = Query("1", "x.em", "em", ({"name": "a", "city": ""}, {"name": "b", "city": "Btown"}))
    own = Query("2", "x.di", "di", ({"name": "a", "city": ""},), target="city")
    filled, kept = apply_path(["p.di"], {"p.di": step}, [gap, own])
    assert [dict(e) for e in filled.entities] == [{"name": "a", "city": "Aville"}, {"name": "b", "city": "Btown"}]
    assert kept == own
    assert len(asked) == 1
