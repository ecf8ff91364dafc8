"""What selection chooses from: nothing, and no more than an expert may be trained on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from meld.dataset.io import save_samples
from meld.progress import Silent
from meld.selector.random import RandomSelector
from meld.stages.base import Context, read_json
from meld.stages.refine import own_samples
from meld.stages.select import pool_of, run_pick
from meld.types import Query, Sample, UnitData


class Said(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def say(self, message: str) -> None:
        self.messages.append(message)


def test_an_empty_pool_leaves_the_few_shot_samples_and_is_said(tmp_path: Path) -> None:
    labelled = Sample(Query("d.sm/1", "d.sm", "sm", ({"a": "x"}, {"a": "y"})), "match")
    for name in ("metapath", "features", "out"):
        (tmp_path / name).mkdir()
    save_samples([labelled], tmp_path / "metapath" / "samples.parquet")
    said = Said()
    inputs = {name: tmp_path / name for name in ("metapath", "features")}
    run_pick(
        Context(tmp_path / "out", tmp_path, inputs, 0, said, lambda name: None), RandomSelector(0.3), [labelled], None
    )
    picked = read_json(tmp_path / "out" / "selected.json")
    assert (picked["pool"], picked["ids"], picked["pool_provenance"]) == (0, [], [])
    assert said.messages == ["nothing to select from: the expert is refined on its few-shot samples"]


def _place(tmp_path: Path, n_labelled: int, n_pool: int, n_measured: int) -> Said:
    query = Query("d.sm/1", "d.sm", "sm", ({"a": "x"}, {"a": "y"}))
    samples = [Sample(replace(query, id=f"d.sm/{i}"), "match") for i in range(n_labelled)]
    samples += [Sample(replace(query, id=f"d.sm/p{i}"), "mismatch", "pseudo") for i in range(n_pool)]
    for name in ("metapath", "features", "out"):
        (tmp_path / name).mkdir()
    save_samples(samples, tmp_path / "metapath" / "samples.parquet")
    none = np.zeros(n_measured)
    save_file(
        {"embeddings": none[:, None], "loss_cond": none, "loss_prior": none}, tmp_path / "features/features.safetensors"
    )
    return Said()


@pytest.mark.parametrize("limit", [None, 40, 25, 12])
def test_all_that_was_chosen_is_trained_on(tmp_path: Path, limit: int | None) -> None:
    """The limit cuts what is chosen from, never what was chosen; a choice that is cut again would not be one."""
    room = 50 if limit is None else limit - 10
    said = _place(tmp_path, 10, 50, room)
    data = UnitData("d.sm", "d", "sm", {}, (), (), (), (), ())
    inputs = {name: tmp_path / name for name in ("metapath", "features")}
    run_pick(Context(tmp_path / "out", tmp_path, inputs, 0, said, lambda name: None), RandomSelector(0.5), data, limit)
    picked = read_json(tmp_path / "out" / "selected.json")
    assert picked["pool"] == room
    assert len(picked["ids"]) == round(0.5 * room)
    pool = [sample.id for sample in pool_of(tmp_path / "metapath", limit)]
    assert len(pool) == room
    assert set(picked["ids"]) <= set(pool)
    refining = Context(tmp_path / "x", tmp_path, {"metapath:d.sm": tmp_path / "metapath"}, 7, said, lambda name: None)
    own = own_samples(refining, "d.sm", tmp_path / "out", limit)
    assert [s.id for s in own if s.provenance == "labelled"] == [f"d.sm/{i}" for i in range(10)]
    assert {s.id for s in own if s.provenance != "labelled"} == set(picked["ids"])


def test_no_room_beside_the_few_shot_samples_is_said(tmp_path: Path) -> None:
    said = _place(tmp_path, 10, 50, 0)
    data = UnitData("d.sm", "d", "sm", {}, (), (), (), (), ())
    inputs = {name: tmp_path / name for name in ("metapath", "features")}
    run_pick(Context(tmp_path / "out", tmp_path, inputs, 0, said, lambda name: None), RandomSelector(0.5), data, 10)
    assert read_json(tmp_path / "out" / "selected.json")["ids"] == []
    assert said.messages == [
        "limits.samples=10 leaves no room for the 50 samples beside the few-shot ones, so nothing to select from: "
        "the expert is refined on its few-shot samples"
    ]
