"""Rows of any length take the memory of a chunk; what is asked is looked at before anything is answered."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from tests.bundle.test_rows import cells

from meld.bundle.export import card_of
from meld.bundle.files import rows_in
from meld.bundle.job import COLUMNS
from meld.bundle.model import Model
from meld.dataset.io import save_predictions
from meld.errors import UserError
from meld.types import Prediction, Query

DATA = cells("ed")
UNIT = DATA.unit


class Opened:
    """A bundle of one unit that answers with what it is asked."""

    identity = "a bundle"
    names = (UNIT,)

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.cards = {UNIT: card_of(DATA)}

    def unit(self, name: str) -> Any:
        return type("Unit", (), {"data": DATA})

    def answer(self, name: str, queries: Sequence[Query]) -> list[tuple[Prediction, None]]:
        self.asked.append(len(queries))
        told = []
        for query in queries:
            output = query.entities[0]["name"]
            told.append(
                (Prediction(query.id, output or None, 0.5, "ok" if output else "invalid", ("e",), (1.0,)), None)
            )
        return told


def write(place: Path, rows: int) -> None:
    if place.suffix == ".parquet":
        frame = pd.DataFrame({"name": [f"person {i}" for i in range(rows)], "city": "Rome", "note": "kept"}, dtype=str)
        frame.to_parquet(place, row_group_size=500)
        return
    with place.open("w", encoding="utf-8") as file:
        file.write("name,city,note\n" if place.suffix == ".csv" else "")
        for i in range(rows):
            row = {"name": f"person {i}", "city": "Rome", "note": "kept"}
            file.write(f"person {i},Rome,kept\n" if place.suffix == ".csv" else json.dumps(row) + "\n")


def answer(place: Path, out: Path | str, opened: Any = None, **options: Any) -> Any:
    opened = opened or Opened()
    with rows_in(str(place)) as rows:
        return Model(opened).predict_file(rows, out, "ed", "city", progress=False, **options)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_memory_does_not_grow_with_the_rows(suffix: str, tmp_path: Path) -> None:
    """Frames, questions and predictions of all rows took over 1 kB a row."""
    peaks = []
    for rows in (500, 1_000, 9_000):
        write(tmp_path / f"in{suffix}", rows)
        tracemalloc.start()
        found = answer(tmp_path / f"in{suffix}", tmp_path / f"out{suffix}", chunk=128)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert found == {"ok": rows}
    assert peaks[2] - peaks[1] < 8_000 * 40, peaks
    reads = {".csv": pd.read_csv, ".jsonl": lambda p: pd.read_json(p, lines=True), ".parquet": pd.read_parquet}
    written = reads[suffix](tmp_path / f"out{suffix}")
    assert list(written["prediction"]) == [f"person {i}" for i in range(9_000)]
    assert list(written["note"].unique()) == ["kept"]


def test_every_row_is_looked_at_before_the_first_is_answered(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("name,city,target\n" + "ann,Rome,city\n" * 300 + "bob,Rome,\n")
    opened = Opened()
    data = cells("ed", targets=("name", "city"))
    opened.cards = {UNIT: card_of(data)}
    with rows_in(str(tmp_path / "in.csv")) as rows, pytest.raises(UserError, match="Row 300"):
        Model(opened).predict_file(rows, tmp_path / "out.csv", "ed", chunk=50, progress=False)  # type: ignore[arg-type]
    assert opened.asked == []
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


@pytest.mark.parametrize(("chunk", "rest"), [(3, [3, 1]), (4, [2, 2]), (2, [2, 2]), (1, [1] * 4), (100, [4])])
def test_a_job_that_fails_goes_on_behind_its_last_chunk(tmp_path: Path, chunk: int, rest: list[int]) -> None:
    """With chunks of any size, since a row's answer does not depend on it."""
    write(tmp_path / "in.csv", 10)

    class Fails(Opened):
        def answer(self, name: str, queries: Sequence[Query]) -> list[tuple[Prediction, None]]:
            if len(self.asked) == 2:
                raise RuntimeError("no power")
            return super().answer(name, queries)

    with pytest.raises(RuntimeError):
        answer(tmp_path / "in.csv", tmp_path / "out.csv", Fails(), chunk=3)
    assert not (tmp_path / "out.csv").exists()
    names = sorted(path.name for path in (tmp_path / "out.csv.parts").iterdir())
    assert [name.partition("-")[0] for name in names] == ["00000000", "00000003", "job.json"]
    opened = Opened()
    answer(tmp_path / "in.csv", tmp_path / "out.csv", opened, chunk=chunk)
    assert opened.asked == rest
    assert list(pd.read_csv(tmp_path / "out.csv")["prediction"]) == [f"person {i}" for i in range(10)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "out.csv"]


def test_rows_that_change_meanwhile_are_noticed(tmp_path: Path) -> None:
    write(tmp_path / "in.csv", 2_000)

    class Meddles(Opened):
        def answer(self, name: str, queries: Sequence[Query]) -> list[tuple[Prediction, None]]:
            text = (tmp_path / "in.csv").read_text()
            (tmp_path / "in.csv").write_text(text.replace("person 1999", "person 199X"))
            return super().answer(name, queries)

    with pytest.raises(UserError, match="changed"):
        answer(tmp_path / "in.csv", tmp_path / "out.csv", Meddles(), chunk=50)
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


def test_answers_of_other_rows_left_beside_the_output_are_not_used(tmp_path: Path) -> None:
    """Chunks of a killed ``--restart`` had no note and went out as answers to whatever was asked next."""
    write(tmp_path / "in.csv", 4)
    parts = tmp_path / "out.csv.parts"
    parts.mkdir()
    wrong = [Prediction(f"{UNIT}/row/{row}", "wrong", 1.0) for row in range(2)]
    for name in ("00000000", "00000001"):
        save_predictions(wrong, parts / f"{name}.parquet")
    answer(tmp_path / "in.csv", tmp_path / "out.csv", chunk=2)
    assert list(pd.read_csv(tmp_path / "out.csv")["prediction"]) == [f"person {i}" for i in range(4)]
    assert not parts.exists()


@pytest.mark.parametrize("alias", ["in.csv", "sub/../in.csv", "link.csv", "folder/in.csv"])
def test_the_answers_do_not_take_the_place_of_the_rows(tmp_path: Path, alias: str) -> None:
    write(tmp_path / "in.csv", 3)
    (tmp_path / "sub").mkdir()
    (tmp_path / "link.csv").symlink_to(tmp_path / "in.csv")
    (tmp_path / "folder").symlink_to(tmp_path)
    before, opened = (tmp_path / "in.csv").read_bytes(), Opened()
    with pytest.raises(UserError, match="is the file with the rows"):
        answer(tmp_path / "in.csv", tmp_path / alias, opened)
    assert (tmp_path / "in.csv").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "in.csv", "link.csv", "sub"]
    assert opened.asked == []


def test_an_output_that_can_be_no_file_is_said_before_the_first_answer(tmp_path: Path) -> None:
    write(tmp_path / "in.csv", 3)
    (tmp_path / "o.csv").mkdir()
    opened = Opened()
    for wrong, words in (("o.csv", "is a folder"), ("in.csv/o.csv", "no folder that you may write to")):
        with pytest.raises(UserError, match=words):
            answer(tmp_path / "in.csv", tmp_path / wrong, opened)
    with pytest.raises(UserError, match="no ordinary file"):
        answer(tmp_path / "in.csv", "/dev/null", opened, file_format="csv")
    assert opened.asked == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "o.csv"]


@pytest.mark.parametrize("name", ["api.json", "out.txt.gz", "out"])
def test_a_suffix_that_names_no_format_is_refused_before_the_first_answer(tmp_path: Path, name: str) -> None:
    frame, opened = pd.DataFrame({"name": ["ann"], "city": "Rome"}), Opened()
    model = Model(opened)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="format") as found:
        model.predict(frame, "ed", "city", out=tmp_path / name)
    assert ".jsonl" in found.value.fix
    assert opened.asked == []
    assert list(tmp_path.iterdir()) == []
    model.predict(frame, "ed", "city", out=tmp_path / name, file_format="jsonl")
    assert json.loads((tmp_path / name).read_text())["prediction"] == "ann"


@pytest.mark.parametrize("source", [".csv", ".parquet"])
@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
def test_a_header_without_rows_is_answered_with_a_header(source: str, suffix: str, tmp_path: Path) -> None:
    place, out = tmp_path / f"in{source}", tmp_path / f"out{suffix}"
    write(place, 0)
    opened = Opened()
    assert answer(place, out, opened) == {}
    assert opened.asked == []
    expected = ["name", "city", "note", *COLUMNS]
    if suffix == ".csv":
        assert out.read_text() == ",".join(expected) + "\n"
    elif suffix == ".parquet":
        table = pq.read_table(out)
        assert (table.column_names, table.num_rows) == (expected, 0)
        assert table.schema.field("score").type == "double"
    else:
        assert out.read_bytes() == b""
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([place.name, out.name])


def test_rows_come_out_of_standard_output_as_they_are_answered(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    write(tmp_path / "in.csv", 5)
    seen = []

    class Watched(Opened):
        def answer(self, name: str, queries: Sequence[Query]) -> list[tuple[Prediction, None]]:
            seen.append(capfdbinary.readouterr().out.count(b"\n"))
            return super().answer(name, queries)

    answer(tmp_path / "in.csv", "-", Watched(), chunk=2)
    assert seen == [0, 3, 2]
    assert capfdbinary.readouterr().out == b'person 4,Rome,kept,person 4,0.5,"[""e""]",[1.0],ok\r\n'


def test_a_frame_is_answered_as_its_file_is(tmp_path: Path) -> None:
    frame = pd.DataFrame({"name": ["ann", "", "bob"], "city": "Rome"}, index=["x", "x", "y"])
    model = Model(Opened())  # type: ignore[arg-type]
    plain = model.predict(frame, "ed", "city", chunk=2)
    kept = model.predict(frame, "ed", "city", chunk=2, out=tmp_path / "frame.csv")
    pd.testing.assert_frame_equal(plain, kept)
    assert list(plain.index) == ["x", "x", "y"]
    assert list(plain["status"]) == ["ok", "invalid", "ok"]
    frame.to_csv(tmp_path / "in.csv", index=False)
    assert answer(tmp_path / "in.csv", tmp_path / "out.csv") == {"ok": 2, "invalid": 1}
    assert (tmp_path / "out.csv").read_text() == (tmp_path / "frame.csv").read_text()
    with pytest.raises(UserError, match="list"):
        model.predict([{"name": "ann"}], "ed")  # type: ignore[arg-type]
