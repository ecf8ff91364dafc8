"""Why an artifact is new: made-up manifests whose differences are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meld.store.store import Draft, Entry, Store
from meld.store.why import ABSENT, Archive, Leaf, differing, flat

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1, max_size=2), inner, max_size=3)
    ),
    max_leaves=8,
)


def key(number: int) -> str:
    return f"{number:016x}"


def made(
    stage: str,
    number: int,
    config: dict[str, Any],
    inputs: dict[str, str] | None = None,
    *,
    unit: str = "abt_buy.em",
    minute: int = 0,
    seed: int = 0,
    stage_seed: int | None = None,
    version: int | None = 1,
    **more: Any,
) -> Entry:
    manifest = {
        "unit": unit,
        "config": config,
        "inputs": inputs or {},
        "seeds": {"run": seed, "data": 0, "stage": seed if stage_seed is None else stage_seed},
        "code": {} if version is None else {"version": version},
        "created": f"2026-11-25T10:{minute:02d}:00+00:00",
        **more,
    }
    return Entry(stage, key(number), Path("store") / stage / key(number), manifest, 0)


def chain(first: int, precision: float, minute: int) -> list[Entry]:
    """annotate → refine → infer; only annotate knows the precision."""
    return [
        made("annotate", first, {"annotator": {"precision": precision}}, minute=minute),
        made("refine", first + 1, {"rank": 8}, {"annotate:abt_buy.em": f"annotate/{key(first)}"}, minute=minute),
        made("infer", first + 2, {"k": 3}, {"refine": f"refine/{key(first + 1)}"}, minute=minute),
    ]


def test_the_first_cause_is_found_through_the_inputs() -> None:
    entries = [*chain(1, 0.9, 0), *chain(11, 0.8, 5)]
    said = Archive(entries).explain(entries[-1])
    assert said.nearest is entries[2]
    assert said.earlier
    (cause,) = said.causes
    assert str(cause.leaf) == "annotator.precision: 0.9 → 0.8"
    assert cause.path == ("infer:abt_buy.em", "refine:abt_buy.em", "annotate:abt_buy.em")
    assert said.own == ()
    assert [leaf.name for leaf in said.inputs] == ["input.refine"]


def test_a_cause_that_many_inputs_share_is_said_once() -> None:
    entries = [*chain(1, 0.9, 0), *chain(11, 0.8, 5)]
    both = [f"annotate/{key(n)}" for n in (1, 11)]
    refined = [f"refine/{key(n)}" for n in (2, 12)]
    entries.append(made("route", 21, {"tau": 0.02}, {"annotate": both[0], "refine": refined[0]}, minute=1))
    entries.append(made("route", 22, {"tau": 0.02}, {"annotate": both[1], "refine": refined[1]}, minute=6))
    (cause,) = Archive(entries).explain(entries[-1]).causes
    assert cause.path == ("route:abt_buy.em", "annotate:abt_buy.em")


def test_the_nearest_has_the_fewest_differences_and_was_there_before() -> None:
    one = made("init", 1, {"rank": 8, "lr": 0.1}, minute=1)
    two = made("init", 2, {"rank": 4, "lr": 0.2}, minute=2)
    later = made("init", 3, {"rank": 16, "lr": 0.2, "new": True}, minute=9)
    other = made("init", 4, {"rank": 16, "lr": 0.2}, unit="beer.em", minute=1)
    asked = made("init", 5, {"rank": 16, "lr": 0.2}, minute=3)
    archive = Archive([one, two, later, other, asked])
    assert archive.nearest(asked) == (two, True)
    assert archive.nearest(one) == (asked, False)  # nothing was there before it; of equals the latest
    assert archive.nearest(other) == (None, False)
    assert archive.explain(other).causes == ()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 2}, "stage version: 1 → 2"),
        ({"seed": 3}, "seed: 0 → 3"),
        ({"stage_seed": 7}, "seed of the stage: 0 → 7"),
        ({"version": None}, "what the older manifest does not record, as the stage version: ? → ?"),
        ({"config": {"lora": {"rank": 4}}}, "lora.rank: 8 → 4"),
        ({"config": {"lora": {"rank": 8.0}}}, "lora.rank: 8 → 8.0"),
        ({"config": {}}, f"lora.rank: 8 → {ABSENT}"),
        ({"inputs": {"donor:x": "data/1"}}, f"input.donor:x: {ABSENT} → data/1"),
    ],
)
def test_what_can_differ_in_one_artifact(change: dict[str, Any], said: str) -> None:
    old = made("init", 1, {"lora": {"rank": 8}})
    new = made("init", 2, **{"config": {"lora": {"rank": 8}}, "minute": 1, **change})
    assert said in [str(cause.leaf) for cause in Archive([old, new]).explain(new).causes]


def test_content_is_explained_by_the_options_it_was_read_with() -> None:
    old = made("data", 1, {"content": "aa"}, origin={"datasets": {"abt_buy": {"seed": 0, "root": "d"}}})
    new = made("data", 2, {"content": "bb"}, origin={"datasets": {"abt_buy": {"seed": 1, "root": "d"}}}, minute=1)
    assert [str(c.leaf) for c in Archive([old, new]).explain(new).causes] == ["datasets.abt_buy.seed: 0 → 1"]
    # Same options, other content: the files have changed, and all there is to say is the digest.
    same = made("data", 3, {"content": "cc"}, origin=new.manifest["origin"], minute=2)
    assert [str(c.leaf) for c in Archive([new, same]).explain(same).causes] == ["content: bb → cc"]


def test_an_input_that_was_removed_is_named() -> None:
    old = made("infer", 1, {}, {"refine": f"refine/{key(8)}"})
    new = made("infer", 2, {}, {"refine": f"refine/{key(9)}"}, minute=1)
    (cause,) = Archive([old, new]).explain(new).causes
    assert cause.leaf.name == "input.refine, of which one has been removed"


def test_artifacts_are_found_by_the_beginning_of_their_key() -> None:
    entries = [made("init", 0xABC << 52, {}), made("infer", 0xABD << 52, {})]
    archive = Archive(entries)
    assert archive.find("abc") == [entries[0]]
    assert archive.find("ab") == entries
    assert archive.find("infer/ab") == [entries[1]]
    assert archive.find("refine/ab") == []


@given(PLAIN, PLAIN)
def test_flat_trees_differ_where_the_trees_do(old: Any, new: Any) -> None:
    assert differing(flat(old), flat(old)) == []
    leaves = differing(flat(old), flat(new))
    assert all(isinstance(leaf, Leaf) for leaf in leaves)
    mirrored = {(leaf.name, repr(leaf.new), repr(leaf.old)) for leaf in differing(flat(new), flat(old))}
    assert {(leaf.name, repr(leaf.old), repr(leaf.new)) for leaf in leaves} == mirrored


def test_the_store_keeps_what_is_asked_for(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def fill(draft: Draft) -> None:
        (draft.out / "value").write_text("42")

    fields = {"unit": "a.em", "code": {"version": 3}, "origin": {"datasets": {"a": {"n": 1}}}}
    store.compute("data", key(1), fields, fill)
    (entry,) = store.entries()
    assert entry.manifest["code"] == {"version": 3}
    assert entry.manifest["origin"] == {"datasets": {"a": {"n": 1}}}
