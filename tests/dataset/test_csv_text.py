"""Reading CSV as text: what must survive, and what must be said."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meld.dataset.csv_text import read_csv_text
from meld.errors import ConfigError, DataError


def put(folder: Path, content: bytes) -> Path:
    path = folder / "some.csv"
    path.write_bytes(content)
    return path


def test_nothing_is_parsed(tmp_path: Path) -> None:
    frame = read_csv_text(put(tmp_path, b"id,zip,note\n1,06000,NA\n2,null,\n3,1e5, nan \n"))
    assert frame.column("zip") == ("06000", "null", "1e5")
    assert frame.column("note") == ("NA", "", " nan ")


def test_bom_crlf_quotes_and_blank_lines(tmp_path: Path) -> None:
    frame = read_csv_text(put(tmp_path, b'\xef\xbb\xbfid,text\r\n1,"a, ""b""\r\nc"\r\n\r\n2,\xc3\xa9\r\n'))
    assert frame.columns == ("id", "text")
    assert frame.rows == (("1", 'a, "b"\r\nc'), ("2", "é"))
    assert frame.lines == (3, 5)


@given(
    st.integers(1, 4).flatmap(
        lambda width: st.lists(
            st.lists(
                st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6),
                min_size=width,
                max_size=width,
            ),
            min_size=1,
            max_size=5,
        )
    )
)
def test_what_csv_writes_is_read(tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]]) -> None:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, quoting=csv.QUOTE_ALL).writerows([[f"c{place}" for place in range(len(rows[0]))], *rows])
    frame = read_csv_text(put(tmp_path_factory.mktemp("csv"), buffer.getvalue().encode()))
    assert [list(row) for row in frame.rows] == rows


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"id,name\n", "a header but no rows"),
        (b"id,name,id\n1,2,3\n", "'id' more than once"),
        (b"id,name\n1,a\n2\n", r"1 values where the header names 2 columns; 'name'[\s\S]*row 1 \(line 3\)"),
        (b"id,name\n1,a,b\n", r"3 values[\s\S]*row 0 \(line 2\)"),
        (b'id,name\n1,"a\n', "not well-formed"),
        ("id,name\n1,a\n2,café\n".encode("latin-1"), r"byte 0xe9 at offset 17[\s\S]*line 3[\s\S]*encoding=latin-1"),
        ("id,name\n1,a\n".encode("utf-16"), r"offset 0[\s\S]*encoding=utf-16"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, content: bytes, said: str) -> None:
    path = put(tmp_path, content)
    with pytest.raises(DataError, match=said) as caught:
        read_csv_text(path)
    assert str(path) in str(caught.value)
    assert caught.value.fix


def test_missing_file_and_unknown_encoding(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_csv_text(tmp_path / "none.csv")
    with pytest.raises(DataError, match="cannot be read"):
        read_csv_text(tmp_path)
    with pytest.raises(ConfigError, match="no encoding 'utf-88'"):
        read_csv_text(put(tmp_path, b"a\n1\n"), "utf-88")


def test_latin_1_is_read_when_asked(tmp_path: Path) -> None:
    assert read_csv_text(put(tmp_path, "a\ncafé\n".encode("latin-1")), "latin-1").rows == (("café",),)


def test_missing_column_lists_those_present(tmp_path: Path) -> None:
    frame = read_csv_text(put(tmp_path, b"id,name\n1,a\n"))
    with pytest.raises(DataError, match="no column 'label'; its columns are 'id', 'name'"):
        frame.require("id", "label")
    semicolons = read_csv_text(put(tmp_path, b"id;name\n1;a\n"))
    with pytest.raises(DataError, match="not to be separated by commas"):
        semicolons.require("id")


def test_repeated_id_names_both_lines(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"two rows with id '7'[\s\S]*line 4[\s\S]*first on line 2"):
        read_csv_text(put(tmp_path, b"id,name\n7,a\n8,b\n7,c\n")).unique("id")


def test_entities_have_no_ids_and_no_saved_index(tmp_path: Path) -> None:
    frame = read_csv_text(put(tmp_path, b",id,name\n0,1,a\n"))
    assert frame.entities(drop=("id",)) == (("name",), [{"name": "a"}])
    with pytest.raises(DataError, match="besides ids"):
        frame.entities(drop=("id", "name"))
