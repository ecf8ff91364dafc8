"""Every cell comes out as it went in, in every format; a file is whole or absent."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meld.bundle.files import STREAM, format_of, read_frame, write_frame
from meld.bundle.model import COLUMNS, check_columns, with_answers
from meld.errors import UserError

SUFFIXES = (".csv", ".jsonl", ".parquet")
CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12)


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


def test_streams(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    class Stdin:
        buffer = io.BytesIO(b'{"a": "NA", "n": 06}\n'.replace(b"06", b"6") + b'{"a": null, "n": 1.50}\n')

    monkeypatch.setattr("sys.stdin", Stdin)
    frame = read_frame(STREAM, "jsonl")
    assert frame.values.tolist() == [["NA", "6"], ["", "1.50"]]
    write_frame(frame, STREAM)
    assert capfdbinary.readouterr().out == b"a,n\r\nNA,6\r\n,1.50\r\n"


def test_the_suffix_tells_the_format_unless_it_is_given(tmp_path: Path) -> None:
    assert [format_of(name, None) for name in ("a.CSV", "a.pq", "a.ndjson", "a.dat", STREAM)] == [
        *("csv", "parquet", "jsonl", "csv", "csv"),
    ]
    (tmp_path / "rows.dat").write_text('{"a": "1"}\n')
    assert read_frame(str(tmp_path / "rows.dat"), "jsonl")["a"].tolist() == ["1"]
    with pytest.raises(UserError, match="xlsx"):
        format_of("a.csv", "xlsx")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b'a,b\n"1'])
def test_broken_files_are_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "broken.csv").write_bytes(content)
    with pytest.raises(UserError, match=r"broken\.csv"):
        read_frame(str(tmp_path / "broken.csv"))


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "out.csv"
    place.write_text("old")

    def full(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("meld.bundle.files.os.replace", full)
    with pytest.raises(UserError, match="no space"):
        write_frame(pd.DataFrame({"a": ["1"]}), str(place))
    assert place.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]


def test_rows_with_a_column_of_the_answers_are_refused() -> None:
    with pytest.raises(UserError, match="'score'"):
        check_columns(pd.DataFrame({"score": [1]}))
