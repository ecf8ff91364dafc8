"""Selection when there is nothing to select from."""

from __future__ import annotations

from pathlib import Path

from meld.dataset.io import save_samples
from meld.progress import Silent
from meld.selector.random import RandomSelector
from meld.stages.base import Context, read_json
from meld.stages.select import run_pick
from meld.types import Query, Sample


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
    run_pick(Context(tmp_path / "out", tmp_path, inputs, 0, said, lambda name: None), RandomSelector(0.3), [labelled])
    picked = read_json(tmp_path / "out" / "selected.json")
    assert (picked["pool"], picked["ids"], picked["pool_provenance"]) == (0, [], [])
    assert said.messages == ["nothing to select from: the expert is refined on its few-shot samples"]
