"""Every cell comes out as it went in, in every format; a file is whole or absent."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meld.bundle.files import STREAM, TableWriter, format_of, rows_in
from meld.bundle.job import COLUMNS, FileRows, FrameRows, names_beside, with_answers
from meld.errors import DataError, UserError

SUFFIXES = (".csv", ".jsonl", ".parquet")
CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12)


def read_frame(name: str, given: str | None = None, size: int = 3) -> pd.DataFrame:
    """A table, read piece by piece, as a whole."""
    with rows_in(name, given) as table:
        pieces = list(FileRows(table).pieces(size))
        assert len(table) == sum(map(len, pieces))
        assert {len(piece) for piece in pieces[:-1]} <= {size}
        return pd.concat(pieces, ignore_index=True)


def write_frame(frame: pd.DataFrame, name: str, given: str | None = None, size: int = 2) -> None:
    """A whole table, written piece by piece."""
    rows = FrameRows(frame)
    with TableWriter(name, format_of(name, given)) as writer:
        for piece in rows.pieces(size):
            writer.add(piece)


@pytest.mark.parametrize("suffix", SUFFIXES)
@given(rows=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=6))
def test_any_text_survives(suffix: str, rows: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory) -> None:
    place = str(tmp_path_factory.mktemp("files") / f"t{suffix}")
    frame = pd.DataFrame(rows, columns=["a", "b c"], dtype=object)
    write_frame(frame, place)
    again = read_frame(place)
    assert list(again.columns) == ["a", "b c"]
    assert again.values.tolist() == [list(row) for row in rows]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_pandas_would_make_numbers_of_stays_text(suffix: str, tmp_path: Path) -> None:
    cells = ["NA", "06000", "1e5", "null", "-", "0.10", "True", ' a, "b"\r\n', "é"]
    write_frame(pd.DataFrame({"x": cells}, dtype=object), str(tmp_path / f"t{suffix}"))
    assert list(read_frame(str(tmp_path / f"t{suffix}"))["x"]) == cells


def test_answers_are_lists_where_the_format_has_lists(tmp_path: Path) -> None:
    answers = pd.DataFrame(
        {
            "prediction": pd.Series(["x", None], dtype=object),
            "score": [0.5, 0.0],
            "experts": pd.Series([("a", "b"), ()], dtype=object),
            "weights": pd.Series([(0.6, 0.4), ()], dtype=object),
            "status": ["ok", "invalid"],
        }
    )
    whole = with_answers(pd.DataFrame({"n": ["1", "2"]}, index=["r", "r"]), answers)
    for suffix in SUFFIXES:
        write_frame(whole, str(tmp_path / f"t{suffix}"))
    lines = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    assert lines[0] == {
        "n": "1",
        "prediction": "x",
        "score": 0.5,
        "experts": ["a", "b"],
        "weights": [0.6, 0.4],
        "status": "ok",
    }
    assert lines[1]["prediction"] is None
    table = pd.read_parquet(tmp_path / "t.parquet")
    assert [list(names) for names in table["experts"]] == [["a", "b"], []]
    assert table["prediction"].isna().tolist() == [False, True]
    text = (tmp_path / "t.csv").read_text().splitlines()
    assert text == [",".join(["n", *COLUMNS]), '1,x,0.5,"[""a"", ""b""]","[0.6, 0.4]",ok', "2,,0.0,[],[],invalid"]


def _break_off(name: str, kind: Any) -> None:
    """Begin to write a table, and fail."""

    def fail() -> None:
        with TableWriter(name, kind) as writer:
            writer.add(pd.DataFrame({"a": ["1"]}))
            raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        fail()


def test_streams(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    class Stdin:
        buffer = io.BytesIO(b'{"a": "NA", "n": 06}\n'.replace(b"06", b"6") + b'{"a": null, "n": 1.50}\n')

    monkeypatch.setattr("sys.stdin", Stdin)
    frame = read_frame(STREAM, "jsonl")
    assert frame.values.tolist() == [["NA", "6"], ["", "1.50"]]
    write_frame(frame, STREAM)
    assert capfdbinary.readouterr().out == b"a,n\r\nNA,6\r\n,1.50\r\n"
    write_frame(frame, STREAM, "parquet", size=1)
    assert pd.read_parquet(io.BytesIO(capfdbinary.readouterr().out)).values.tolist() == frame.values.tolist()
    _break_off(STREAM, "parquet")
    assert capfdbinary.readouterr().out == b""


def test_the_suffix_tells_the_format_unless_it_is_given(tmp_path: Path) -> None:
    assert [format_of(name, None) for name in ("a.CSV", "a.pq", "a.ndjson", STREAM)] == [
        "csv",
        "parquet",
        "jsonl",
        "csv",
    ]
    (tmp_path / "rows.dat").write_text('{"a": "1"}\n')
    assert read_frame(str(tmp_path / "rows.dat"), "jsonl")["a"].tolist() == ["1"]
    for name in ("a.json", "a.txt.gz", "a.tsv", "a"):
        with pytest.raises(UserError, match=r"\.ndjson.*file_format='csv'"):
            format_of(name, None)
    with pytest.raises(UserError, match="given='csv'"):
        read_frame(str(tmp_path / "rows.dat"))
    with pytest.raises(UserError, match="xlsx"):
        format_of("a.csv", "xlsx")


@pytest.mark.parametrize(("mark", "named"), [(";", "semicolons"), ("\t", "tabs")])
def test_what_is_separated_by_something_else_is_named(mark: str, named: str, tmp_path: Path) -> None:
    lines = [("id", "name", "price"), ("1", "ann", "1,5"), ("2", "bob", "2,5")]
    (tmp_path / "in.csv").write_text("\n".join(mark.join(line) for line in lines))
    with pytest.raises(DataError, match=f"looks separated by {named}"):
        read_frame(str(tmp_path / "in.csv"))


@pytest.mark.skipif(shutil.which("iconv") is None, reason="needs iconv")
@pytest.mark.parametrize("name", ["in.csv", "in.jsonl"])
def test_advice_about_an_encoding_can_be_followed(name: str, tmp_path: Path) -> None:
    text = "a\ncafé\n" if name.endswith("csv") else '{"a": "café"}\n'
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match="not utf-8") as found:
        read_frame(str(tmp_path / name))
    assert "encoding=" not in found.value.fix
    command = found.value.fix.partition("for example: ")[2].replace("OLD", name).replace("NEW", f"new_{name}")
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    assert read_frame(str(tmp_path / f"new_{name}"))["a"].tolist() == ["café"]


@pytest.mark.parametrize("content", [b"", b"a,b\n1\n"])
def test_standard_input_is_called_so(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", type("Stdin", (), {"buffer": io.BytesIO(content)}))
    with pytest.raises(DataError, match=r"^Standard input (is empty|has a row)") as found:
        read_frame(STREAM)
    assert found.value.where.startswith("standard input")
    assert "stdin" not in str(found.value)


@pytest.mark.parametrize("name", ["t.jsonl", "t.csv"])
def test_an_empty_file_is_no_table(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("\n\n")
    with pytest.raises(DataError, match=r"is empty|has no rows"):
        read_frame(str(tmp_path / name))


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b'a,b\n"1'])
def test_broken_files_are_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "broken.csv").write_bytes(content)
    with pytest.raises(UserError, match=r"broken\.csv"):
        read_frame(str(tmp_path / "broken.csv"))


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "out.csv"
    place.write_text("old")

    def full(*_: Any) -> None:
        raise OSError(28, "no space left on device")

    for step in ("replace", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(f"meld.bundle.files.os.{step}", full)
            with pytest.raises(UserError, match="no space"):
                write_frame(pd.DataFrame({"a": ["1"]}), str(place))
        assert place.read_text() == "old"
        assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_table_whose_rows_stop_coming_is_not_written(suffix: str, tmp_path: Path) -> None:
    place = tmp_path / f"out{suffix}"
    place.write_text("old")
    _break_off(str(place), format_of(place.name, None))
    assert place.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == [place.name]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("late.csv", "a,b\n" + "1,2\n" * 500 + '1,"2\n'),
        ("late.csv", "a,b\n" + "1,2\n" * 500 + "1\n"),
        ("late.csv", b"a,b\n" + b"1,2\n" * 5000 + b"1,\xff\n"),
        ("late.jsonl", '{"a": 1}\n' * 500 + '{"a": 1\n'),
        ("late.jsonl", '{"a": 1}\n' * 500 + '{"a": "\\ud800"}\n'),
    ],
)
def test_what_is_wrong_at_the_end_is_said_before_the_beginning_is_used(
    name: str, content: str | bytes, tmp_path: Path
) -> None:
    place = tmp_path / name
    place.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(DataError, match=r"late\.") as found, rows_in(str(place)):
        raise AssertionError("it was opened")
    number = 5002 if isinstance(content, bytes) else 502 if name.endswith("csv") else 501
    assert f"line {number}" in found.value.where


def test_a_key_that_only_the_last_object_has_is_a_column(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n\n{"a": null}\n{"b": "x"}')
    found = read_frame(str(tmp_path / "rows.jsonl"), size=1)
    assert list(found.columns) == ["a", "b"]
    assert found.values.tolist() == [["1", ""], ["", ""], ["", "x"]]


def test_types_of_parquet_do_not_depend_on_the_first_piece(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "n": pd.array([None, None, 3], dtype="Int64"),
            "text": pd.Series([None, None, "x"], dtype=object),
            7: [1.5] * 3,
        }
    )
    place = tmp_path / "t.parquet"
    with TableWriter(str(place), "parquet", FrameRows(frame).schema()) as writer:
        for piece in FrameRows(frame).pieces(1):
            writer.add(piece)
    again = pd.read_parquet(place)
    assert str(again["n"].dtype) == "Int64"
    assert [column.dropna().tolist() for _, column in again.items()] == [[3], ["x"], [1.5] * 3]
    assert list(again.columns) == ["n", "text", "7"]
    with pytest.raises(UserError, match="Parquet"):
        FrameRows(pd.DataFrame({"mixed": pd.Series([1, "x"], dtype=object)})).schema()


def test_answers_beside_a_column_of_their_name_get_another() -> None:
    """Hospital has a column ``score``, which its questions need."""
    assert names_beside(["a", "score"]) == ("prediction", "meld_score", "experts", "weights", "status")
    with pytest.raises(UserError, match="'meld_score'"):
        names_beside(["score", "meld_score"])
