"""Users' own tables: what is shown, asked, scored and refused, in CSV, Parquet, JSON lines and pandas frames."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

import meld
from meld.config.build import build
from meld.dataset.base import Dataset, Source
from meld.dataset.frames import INDEX, frames_config, from_frames
from meld.dataset.io import digest_unit
from meld.dataset.judged import word_candidates
from meld.dataset.own_cells import CsvCells, CsvDirty
from meld.dataset.own_columns import CsvColumns
from meld.dataset.own_pairs import CsvPairs, CsvTables
from meld.dataset.table_files import read_table
from meld.errors import ConfigError, DataError, UserError
from meld.types import Query, Table, UnitData

AWKWARD = (
    "NA",
    "06000",
    "1e5",
    "",
    " padded ",
    'say "hi", twice',
    "two\nlines",
    "crlf\r\n",
    "名前 имя اسم",
    "nan",
    "None",
)


def put(path: Path, text: str | bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


def queries(data: UnitData) -> list[Query]:
    return [*(sample.query for sample in (*data.train, *data.dev)), *data.pool, *data.test]


def shops(folder: Path) -> dict[str, str]:
    """Two tables of 20 records and 60 labelled pairs, every third a match, the last four without a label."""
    lines = [f"{row},{(row + shift) % 20},{int(not shift)}" for row in range(20) for shift in (0, 1, 7)]
    lines[-4:] = [line.rsplit(",", 1)[0] + "," for line in lines[-4:]]
    return {
        "left": put(folder / "a.csv", "code,name,price\n" + "".join(f"x{i},thing {i},0{i}\n" for i in range(20))),
        "right": put(folder / "b.csv", "name,price\n" + "".join(f"thing no {i},{i}.0\n" for i in range(20))),
        "pairs": put(folder / "pairs.csv", "left,right,label\n" + "".join(f"x{line}\n" for line in lines)),
    }


class TestReading:
    def test_three_forms_give_the_same_text(self, tmp_path: Path) -> None:
        rows = [{"key": str(place), "text": value} for place, value in enumerate(AWKWARD)]
        frame = pd.DataFrame(rows)
        frame.to_csv(tmp_path / "t.csv", index=False)
        frame.to_parquet(tmp_path / "t.parquet")
        put(tmp_path / "t.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        read = [read_table(tmp_path / f"t.{suffix}") for suffix in ("csv", "parquet", "jsonl")]
        assert {frame.columns for frame in read} == {("key", "text")}
        assert read[0].column("text") == read[1].column("text") == read[2].column("text") == AWKWARD

    def test_typed_parquet(self, tmp_path: Path) -> None:
        table = pa.table(
            {
                "int": pa.array([6000, None], pa.int64()),
                "single": pa.array([0.1, math.nan], pa.float32()),
                "double": pa.array([0.1, math.inf], pa.float64()),
                "list": pa.array([["a", "é"], None]),
            }
        )
        pq.write_table(table, tmp_path / "t.parquet")
        assert read_table(tmp_path / "t.parquet").rows == (("6000", "0.1", "0.1", '["a", "é"]'), ("", "", "inf", ""))

    def test_a_saved_index_is_not_shown(self, tmp_path: Path) -> None:
        pd.DataFrame({"name": ["a", "b"]}, index=["x", "y"]).to_parquet(tmp_path / "t.parquet")
        assert read_table(tmp_path / "t.parquet").entities()[0] == ("name",)

    def test_json_numbers_stay_as_written(self, tmp_path: Path) -> None:
        path = put(
            tmp_path / "t.jsonl",
            '\ufeff{"a": 1.50, "b": 1e5, "c": NaN, "d": null}\r\n\n{"b": true, "a": [1.0, {"k": "é"}], "e": "é"}\n',
        )
        frame = read_table(path)
        assert frame.columns == ("a", "b", "c", "d", "e")
        assert frame.rows == (("1.50", "1e5", "", "", ""), ('[1.0, {"k": "é"}]', "true", "", "", "é"))
        assert frame.lines == (1, 3)

    @pytest.mark.parametrize(
        ("name", "content", "said"),
        [
            ("t.jsonl", '{"a": 1}\n{"a": \n', r"not JSON[\s\S]*row 1 \(line 2\)"),
            ("t.jsonl", '{"a": 1}\n[1]\n', r"no JSON object[\s\S]*line 2"),
            ("t.jsonl", '{"a": 1, "a": 2}\n', r"names 'a' more than once[\s\S]*line 1"),
            ("t.jsonl", '{"a": "\\ud800"}\n', r"not text[\s\S]*line 1\), column 'a'"),
            ("t.jsonl", "[" * 200_000, r"not JSON|nested too deeply"),
            ("t.jsonl", "", "no rows"),
            ("t.jsonl", "{}\n", "no rows"),
            ("t.jsonl", b'{"a": "caf\xe9"}\n', r"byte 0xe9[\s\S]*line 1[\s\S]*encoding=latin-1"),
            ("t.parquet", b"PAR1 not really PAR1", "not a readable Parquet file"),
            ("t.csv", "a,a\n1,2\n", "'a' more than once"),
            ("t.csv", "a,b\n1\n", r"row 0 \(line 2\)"),
        ],
    )
    def test_bad_files_name_the_place(self, tmp_path: Path, name: str, content: str | bytes, said: str) -> None:
        path = put(tmp_path / name, content)
        with pytest.raises(DataError, match=said) as caught:
            read_table(path)
        assert path in str(caught.value)
        assert caught.value.fix

    def test_parquet_with_repeated_columns(self, tmp_path: Path) -> None:
        pq.write_table(pa.table([pa.array(["1"]), pa.array(["2"])], names=["a", "a"]), tmp_path / "t.parquet")
        with pytest.raises(DataError, match="'a' more than once"):
            read_table(tmp_path / "t.parquet")

    def test_large_cells_and_many_columns(self, tmp_path: Path) -> None:
        before = csv.field_size_limit()
        large = 'x,"' * 350_000
        header = ",".join(f"c{place}" for place in range(200))
        text = f'{header}\n"{large.replace(chr(34), chr(34) * 2)}"{",1" * 199}\n'
        frame = read_table(put(tmp_path / "t.csv", text))
        assert frame.rows[0][0] == large
        assert len(frame.columns) == 200
        # The csv module's limit is the process's: others must find it as it was.
        assert csv.field_size_limit() == before

    @given(st.sampled_from(["csv", "jsonl", "parquet"]), st.binary(max_size=60))
    @settings(max_examples=150, deadline=None)
    def test_any_bytes_are_read_or_refused(
        self, tmp_path_factory: pytest.TempPathFactory, suffix: str, content: bytes
    ) -> None:
        path = put(tmp_path_factory.mktemp("any") / f"t.{suffix}", content)
        try:
            frame = read_table(path)
        except DataError as error:
            assert path in str(error)  # noqa: PT017 - an error is one of two right outcomes
            return
        assert len(frame)
        assert all(len(row) == len(frame.columns) for row in frame.rows)

    @given(
        st.lists(
            st.dictionaries(
                st.text(max_size=3),
                st.recursive(
                    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
                    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
                    max_leaves=4,
                ),
                max_size=3,
            ),
            max_size=4,
        )
    )
    @settings(max_examples=100, deadline=None)
    def test_any_json_lines_are_read_or_refused(
        self, tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
    ) -> None:
        path = put(tmp_path_factory.mktemp("any") / "t.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        try:
            frame = read_table(path)
        except DataError:
            return
        for row, texts in zip(rows, frame.rows, strict=True):
            for column, text in zip(frame.columns, texts, strict=True):
                if isinstance(row.get(column), str):
                    assert text == row[column]


class TestCsvPairs:
    def test_units(self, tmp_path: Path, check_sound: Callable[[Source], None]) -> None:
        component = CsvPairs("mine", **shops(tmp_path), left_id="code", tasks=["em", "blk"], n_few_shot=20)
        assert isinstance(component, Dataset)
        source = component.load()
        check_sound(source)
        data = source.units["mine.em"]
        # 56 labelled pairs, 11 held out; the four without a label are asked as well, and never scored.
        assert (len(data.train) + len(data.dev), len(data.pool), len(data.test)) == (20, 25, 15)
        assert len(source.gold["mine.em"]) == 25 + 11
        assert {query.id for query in data.test} - set(source.gold["mine.em"]) == {
            f"mine.em/test/x{left}-{right}" for left, right in ((18, 5), (19, 19), (19, 0), (19, 6))
        }
        assert data.tables["A"].columns == ("name", "price")
        assert list(data.tables["A"].rows) == [f"x{row}" for row in range(20)]
        assert list(data.tables["B"].rows) == [str(row) for row in range(20)]
        assert data.tables["A"].rows["x7"]["price"] == "07"
        assert "4 pairs without a label" in " ".join(source.notes)

    def test_one_file_of_pairs(self, tmp_path: Path, check_sound: Callable[[Source], None]) -> None:
        path = put(
            tmp_path / "p.csv",
            "left_name,left_zip,right_name,right_zip,label,left_key\n"
            "a,06000,b,1,Yes,k1\na,06000,c,2,no,k1\nz,NA,b,1,TRUE,k2\nz,NA,b,1,,k2\n",
        )
        source = CsvPairs("mine", pairs=path, drop_columns=["left_key"], test_fraction=0).load()
        check_sound(source)
        data = source.units["mine.em"]
        assert data.tables["A"].columns == ("name", "zip")
        assert data.tables["A"].rows == {"0": {"name": "a", "zip": "06000"}, "2": {"name": "z", "zip": "NA"}}
        assert sorted(sample.id for sample in (*data.train, *data.dev)) == [
            "mine.em/train/0-0",
            "mine.em/train/0-1",
            "mine.em/train/2-0",
        ]
        assert not data.test
        assert "repeated" in " ".join(source.notes)
        with_ids = CsvPairs("mine", pairs=path, left_id="left_key").load().units["mine.em"]
        assert set(with_ids.tables["A"].rows) == {"k1", "k2"}

    def test_one_id_for_two_records_is_refused(self, tmp_path: Path) -> None:
        path = put(tmp_path / "p.csv", "left_name,right_name,label,key\na,b,1,k\nc,b,1,k\n")
        with pytest.raises(DataError, match=r"'k' in two different ways[\s\S]*row 1 \(line 3\), column 'key'"):
            CsvPairs("mine", pairs=path, left_id="key").load()

    def test_a_test_file(self, tmp_path: Path, check_sound: Callable[[Source], None]) -> None:
        files = shops(tmp_path)
        test = put(tmp_path / "test.csv", "left,right\nx0,0\nx1,9\n")
        source = CsvPairs("mine", **files, test=test, left_id="code", n_few_shot=None).load()
        check_sound(source)
        data = source.units["mine.em"]
        assert [query.id for query in data.test][:2] == ["mine.em/test/x0-0", "mine.em/test/x1-9"]
        assert source.gold["mine.em"] == {}
        # All labels may be read, but for the one that is now tested.
        assert len(data.train) + len(data.dev) == 55
        assert "1 training pairs that are also test pairs" in " ".join(source.notes)

    def test_hidden_labels_change_nothing_visible(self, tmp_path: Path) -> None:
        files = shops(tmp_path)
        frozen = put(tmp_path / "ids.json", json.dumps([f"x{row}-{row}" for row in range(4)]))
        options = {"left_id": "code", "few_shot": "ids", "few_shot_ids": frozen, "tasks": ["em", "blk"]}
        component = CsvPairs("mine", **files, **options, test_fraction=0)
        readable = {sample.query.rows for sample in component.load().units["mine.em"].train}
        before = component.load()
        lines = Path(files["pairs"]).read_text().splitlines()
        for place, line in enumerate(lines[1:], start=1):
            left, right, label = line.split(",")
            if label and int(left[1:]) >= 4:
                lines[place] = f"{left},{right},{1 - int(label)}"
        put(Path(files["pairs"]), "\n".join(lines) + "\n")
        after = component.load()
        assert readable
        for unit in before.units:
            assert digest_unit(before.units[unit]) == digest_unit(after.units[unit])
            assert before.gold[unit] != after.gold[unit]

    def test_one_class_is_said(self, tmp_path: Path) -> None:
        path = put(tmp_path / "p.csv", "left_a,right_a,label\n" + "".join(f"{i},{i},match\n" for i in range(6)))
        assert "no readable label is mismatch" in " ".join(CsvPairs("mine", pairs=path).load().notes)

    @pytest.mark.parametrize(
        ("file", "old", "new", "said"),
        [
            (
                "pairs",
                "x3,3,1",
                "x99,3,1",
                r"record 'x99', which the left table[\s\S]*row 9 \(line 11\), column 'left'",
            ),
            ("pairs", "x3,3,1", "x3,-1,1", r"record '-1', which the right table[\s\S]*column 'right'"),
            ("pairs", "x3,3,1", "x3,3,maybe", r"label 'maybe'[\s\S]*row 9 \(line 11\), column 'label'"),
            ("pairs", "x3,3,1", "x3,3,1\nx3,3,0", r"both match and mismatch[\s\S]*row 10 \(line 12\)"),
            ("pairs", "label", "gold", r"no column 'label'"),
            ("left", "x3,", "x4,", r"two rows with code 'x4'[\s\S]*line 6"),
            ("left", "x3,", ",", r"without an id[\s\S]*row 3 \(line 5\), column 'code'"),
            ("left", "code", "key", "no column 'code'"),
        ],
    )
    def test_bad_files(self, tmp_path: Path, file: str, old: str, new: str, said: str) -> None:
        files = shops(tmp_path)
        text = Path(files[file]).read_text()
        assert old in text
        put(Path(files[file]), text.replace(old, new, 1))
        with pytest.raises(DataError, match=said) as caught:
            CsvPairs("mine", **files, left_id="code").load()
        assert files[file] in str(caught.value)

    def test_bad_options(self, tmp_path: Path) -> None:
        files = shops(tmp_path)
        with pytest.raises(ConfigError, match=r"pairs is not given[\s\S]*datasets.mine.pairs=FILE"):
            CsvPairs("mine").files()
        with pytest.raises(ConfigError, match="right is not given"):
            CsvPairs("mine", left=files["left"], pairs=files["pairs"]).files()
        with pytest.raises(DataError, match=r"cannot find none.csv[\s\S]*datasets.mine.pairs=none.csv"):
            CsvPairs("mine", pairs="none.csv").files()
        with pytest.raises(DataError, match="begin with 'left_'"):
            CsvPairs("mine", pairs=files["pairs"]).load()
        with pytest.raises(DataError, match="no column 'colour'"):
            CsvPairs("mine", **files, left_id="code", drop_columns=["colour"]).load()
        with pytest.raises(ConfigError, match="few_shot='paper_index'"):
            CsvPairs("mine", **files, left_id="code", few_shot="paper_index").load()
        with pytest.raises(ConfigError, match="test_fraction=2"):
            CsvPairs("mine", test_fraction=2)


class TestCsvTables:
    def test_without_labels_everything_is_asked(self, tmp_path: Path, check_sound: Callable[[Source], None]) -> None:
        files = shops(tmp_path)
        source = CsvTables("mine", files["left"], files["right"], left_id="code", candidates=2).load()
        check_sound(source)
        em, blk = source.units["mine.em"], source.units["mine.blk"]
        assert not em.train
        assert not em.dev
        assert [query.rows[0] for query in blk.test] == [f"A:x{row}" for row in range(20)]
        assert not any(source.gold.values())
        assert "few-shot set is empty" in " ".join(source.notes)
        # "thing" is everywhere, the number is not.
        assert "mine.em/test/x7-7" in {query.id for query in em.test}

    def test_matches_alone_and_the_rest_mismatches(self, tmp_path: Path, check_sound: Callable[[Source], None]) -> None:
        files = shops(tmp_path)
        labels = put(tmp_path / "gold.csv", "left,right\n" + "".join(f"x{row},{row}\n" for row in range(20)))
        options = {"labels": labels, "label": None, "left_id": "code", "candidates": 3}
        known = CsvTables("mine", files["left"], files["right"], **options).load()
        check_sound(known)
        assert "no readable label is mismatch" in " ".join(known.notes)
        assert set(known.gold["mine.em"].values()) == {("match",)}
        complete = CsvTables("mine", files["left"], files["right"], **options, others="mismatch").load()
        check_sound(complete)
        data = complete.units["mine.em"]
        assert {sample.label for sample in (*data.train, *data.dev)} == {"match", "mismatch"}
        assert len(complete.gold["mine.em"]) == len(data.pool) + len(data.test)

    def test_candidates_by_hand(self) -> None:
        def table(name: str, values: Sequence[str]) -> Table:
            return Table(name, "", ("t",), {str(row): {"t": value} for row, value in enumerate(values)})

        left = table("A", ["sony red tv", "zzz", ""])
        right = table("B", ["lg red tv", "sony tv", "red red red", "tv"])
        # Of 4: tv is in 3, red in 2, sony in 1: {red, tv} weighs ln 3 + ln 7/3 = 1.95, {sony, tv} ln 5 + ln 7/3 = 2.46,
        # {red} ln 3 = 1.10, {tv} 0.85.
        found = word_candidates(left, right, 3)
        assert found == [("0", "1"), ("0", "0"), ("0", "2"), ("1", "1"), ("2", "2")]

    def test_bad_options(self) -> None:
        with pytest.raises(ConfigError, match="others='maybe'"):
            CsvTables("mine", others="maybe")  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="0 candidates"):
            CsvTables("mine", candidates=0)
        with pytest.raises(ConfigError, match="left and right are not given"):
            CsvTables("mine").files()


DIRTY = "id,city,zip\n" + "".join(f"r{row},town{row % 3}{'x' * (row % 4 == 0)},0{row}\n" for row in range(12))
CLEAN = DIRTY.replace("x,", ",")


class TestCsvDirty:
    def test_with_a_clean_table_in_another_order(self, tmp_path: Path, check_sound: Callable[[Source], None]) -> None:
        head, *rows = CLEAN.splitlines()
        files = (put(tmp_path / "d.csv", DIRTY), put(tmp_path / "c.csv", "\n".join([head, *reversed(rows)]) + "\n"))
        source = CsvDirty("mine", *files, id="id", n_few_shot=3).load()
        check_sound(source)
        data = source.units["mine.ed"]
        assert data.tables["T"].columns == ("city", "zip")
        assert len(data.test) == 9 * 2
        labels = {**source.gold["mine.ed"], **{s.id: (s.label,) for s in (*data.train, *data.dev)}}
        assert {query for query, label in labels.items() if label == ("error",)} == {
            f"mine.ed/{row}/city" for row in (0, 4, 8)
        }

    def test_with_known_cells(self, tmp_path: Path, check_sound: Callable[[Source], None]) -> None:
        dirty = put(tmp_path / "d.csv", DIRTY)
        known = "row,column,value\nr0,city,town0\nr1,city,town1\nr2,zip,02\nr4,city,town1\nr5,zip,05\n"
        source = CsvDirty("mine", dirty, labels=put(tmp_path / "l.csv", known), id="id", test_fraction=0.2).load()
        check_sound(source)
        for task, truth in (("ed", {0: "error", 4: "error"}), ("dc", {0: "town0", 4: "town1"})):
            data = source.units[f"mine.{task}"]
            samples = {sample.id: sample.label for sample in (*data.train, *data.dev)}
            assert len(samples) == 4
            assert data.dev
            # All other cells are asked, and of those only the held-out one is scored.
            assert len(data.test) == 24 - 4
            assert len(source.gold[f"mine.{task}"]) == 1
            found = {**samples, **{query: answers[0] for query, answers in source.gold[f"mine.{task}"].items()}}
            assert all(found[f"mine.{task}/{row}/city"] == label for row, label in truth.items())
            assert found[f"mine.{task}/2/zip"] == {"ed": "correct", "dc": "02"}[task]

    def test_nothing_known(self, tmp_path: Path) -> None:
        source = CsvDirty("mine", put(tmp_path / "d.csv", DIRTY), id="id", tasks=["ed"]).load()
        assert len(source.units["mine.ed"].test) == 24
        assert not source.gold["mine.ed"]
        assert "few-shot set is empty" in " ".join(source.notes)

    def test_held_out_values_change_nothing_visible(self, tmp_path: Path) -> None:
        dirty = put(tmp_path / "d.csv", DIRTY)

        def load(value: str) -> Source:
            rows = "".join(f"r{row},zip,{value if row else '00'}\n" for row in range(12))
            labels = put(tmp_path / "l.csv", f"row,column,value\n{rows}")
            return CsvDirty("mine", dirty, labels=labels, id="id", test_fraction=1.0).load()

        before, after = load("1"), load("2")
        for unit in before.units:
            assert digest_unit(before.units[unit]) == digest_unit(after.units[unit])
        assert before.gold["mine.dc"] != after.gold["mine.dc"]

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ("r77,city,x", r"names row 'r77'[\s\S]*row 0 \(line 2\), column 'row'"),
            ("r1,town,x", r"names column 'town'[\s\S]*column 'column'"),
            ("r1,id,x", r"names column 'id'"),
            ("r1,city,x\nr1,city,y", r"two different values[\s\S]*row 1 \(line 3\), column 'value'"),
        ],
    )
    def test_bad_labels(self, tmp_path: Path, line: str, said: str) -> None:
        labels = put(tmp_path / "l.csv", f"row,column,value\n{line}\n")
        with pytest.raises(DataError, match=said):
            CsvDirty("mine", put(tmp_path / "d.csv", DIRTY), labels=labels, id="id").load()

    def test_tables_that_do_not_fit(self, tmp_path: Path) -> None:
        dirty = put(tmp_path / "d.csv", DIRTY)
        short = put(tmp_path / "c.csv", CLEAN.replace("r3,town0,03\n", ""))
        with pytest.raises(DataError, match=r"12 rows, c[.]csv has 11"):
            CsvDirty("mine", dirty, short).load()
        with pytest.raises(DataError, match=r"lacks record 'r3'[\s\S]*d.csv, row 3"):
            CsvDirty("mine", dirty, short, id="id").load()
        with pytest.raises(DataError, match="no column 'zip'"):
            CsvDirty("mine", dirty, put(tmp_path / "e.csv", "id,city\nr0,a\n"), id="id").load()
        with pytest.raises(ConfigError, match="both a clean table and known cells"):
            CsvDirty("mine", dirty, short, dirty)


PEOPLE = "key,name,city\n" + "".join(
    f"k{row},person {row % 7},{'' if row % 5 == 0 else 'NA' if row == 1 else f'city{row % 3}'}\n" for row in range(20)
)


class TestCsvCells:
    def test_empty_cells_are_asked_and_some_known_ones_tested(
        self, tmp_path: Path, check_sound: Callable[[Source], None]
    ) -> None:
        source = CsvCells("mine", put(tmp_path / "t.csv", PEOPLE), ["city"], id="key", test_fraction=0.25).load()
        check_sound(source)
        data = source.units["mine.di"]
        empty = {f"mine.di/k{row}/city" for row in range(0, 20, 5)}
        asked = {query.id for query in data.test}
        assert empty < asked
        assert asked - empty == set(source.gold["mine.di"]) & asked
        assert len(asked - empty) == 4
        assert all(not query.entities[0]["city"] for query in queries(data))
        assert list(data.tables["T"].rows) == [f"k{row}" for row in range(20)]
        labels = {s.id: s.label for s in (*data.train, *data.dev)}
        known = {**labels, **{query: answer for query, (answer,) in source.gold["mine.di"].items()}}
        assert known["mine.di/k1/city"] == "NA"

    def test_missing_texts_are_named(self, tmp_path: Path) -> None:
        source = CsvCells("mine", put(tmp_path / "t.csv", PEOPLE), ["city"], id="key", missing=["NA"]).load()
        assert "mine.di/k1/city" in {query.id for query in source.units["mine.di"].test}
        assert "mine.di/k1/city" not in source.gold["mine.di"]

    def test_a_test_file_by_row_number(self, tmp_path: Path) -> None:
        test = put(tmp_path / "test.csv", "row\n2\n3\n")
        source = CsvCells("mine", put(tmp_path / "t.csv", PEOPLE), ["city"], test=test, drop_columns=["key"]).load()
        asked = {query.id for query in source.units["mine.di"].test}
        assert asked == {f"mine.di/{row}/city" for row in (0, 2, 3, 5, 10, 15)}
        put(tmp_path / "test.csv", "row\n2\n99\n")
        with pytest.raises(DataError, match=r"names row '99'[\s\S]*row 1 \(line 3\), column 'row'"):
            CsvCells("mine", str(tmp_path / "t.csv"), ["city"], test=test).load()

    def test_a_target_without_any_value(self, tmp_path: Path) -> None:
        path = put(tmp_path / "t.csv", "a,b\n" + "x,\n" * 5)
        source = CsvCells("mine", path, ["b"]).load()
        assert len(source.units["mine.di"].test) == 5
        said = " ".join(source.notes)
        assert "columns without any value: 'b'" in said
        assert "few-shot set is empty" in said
        assert "4 rows of t.csv repeat another" in said

    def test_bad_targets(self, tmp_path: Path) -> None:
        path = put(tmp_path / "t.csv", PEOPLE)
        with pytest.raises(ConfigError, match="no target column"):
            CsvCells("mine", path).load()
        with pytest.raises(DataError, match="no column 'town'"):
            CsvCells("mine", path, ["town"]).load()
        with pytest.raises(ConfigError, match="'city', which is not shown"):
            CsvCells("mine", path, ["city"], drop_columns=["city"]).load()
        with pytest.raises(ConfigError, match="names a target twice"):
            CsvCells("mine", path, ["city", "city"]).load()


class TestCsvColumns:
    def files(self, folder: Path) -> dict[str, Any]:
        tables = [
            put(folder / f"shop_{number}.csv", "name,zip,note\n" + f"n{number},0{number},\nm{number},0{number},\n")
            for number in range(6)
        ]
        labels = "table,column,type\n" + "".join(
            f"shop_{n}{'.csv' * (n % 2)},{column},{label}\n"
            for n in range(6)
            for column, label in (("name", "person"), ("zip", "postcode"))
        )
        return {"tables": tables, "labels": put(folder / "labels.csv", labels)}

    def test_units(self, tmp_path: Path) -> None:
        source = CsvColumns("mine", **self.files(tmp_path), n_few_shot=4, test_fraction=0.25).load()
        data = source.units["mine.cta"]
        assert (len(data.train) + len(data.dev), len(data.pool), len(data.test)) == (4, 5, 3 + 6)
        assert data.options == ("person", "postcode")
        found = {query.id: query for query in queries(data)}
        query = found["mine.cta/test/shop_2.csv-note"]
        assert query.entities == ({"column": "note", "values": "", "other columns": "name, zip"},)
        assert query.title == "shop 2"
        # Known columns are scored, the six notes are only asked.
        assert set(source.gold["mine.cta"]) == {q.id for q in (*data.pool, *data.test)} - {
            f"mine.cta/test/shop_{number}.csv-note" for number in range(6)
        }
        values = {query.entities[0]["values"] for query in found.values()}
        assert {"n3 | m3", "03"} <= values

    def test_hidden_types_change_nothing_visible(self, tmp_path: Path) -> None:
        files = self.files(tmp_path)
        ids = put(tmp_path / "ids.json", json.dumps([["shop_0.csv", "name"], ["shop_0.csv", "zip"]]))
        component = CsvColumns("mine", **files, few_shot="ids", few_shot_ids=ids, test_fraction=0)
        before = component.load()
        text = Path(files["labels"]).read_text()
        head, *rest = text.splitlines()
        put(tmp_path / "labels.csv", "\n".join([head, *rest[:2], *(line + "X" for line in rest[2:])]) + "\n")
        after = component.load()
        assert before.units["mine.cta"] == after.units["mine.cta"]
        assert before.gold["mine.cta"] != after.gold["mine.cta"]

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ("attic,name,x", r"table 'attic'[\s\S]*row 12 \(line 14\), column 'table'"),
            ("shop_1,town,x", r"column 'town', which shop_1.csv does not have"),
            ("shop_1,name,x", r"two different types[\s\S]*column 'type'"),
        ],
    )
    def test_bad_labels(self, tmp_path: Path, line: str, said: str) -> None:
        files = self.files(tmp_path)
        put(tmp_path / "labels.csv", Path(files["labels"]).read_text() + line + "\n")
        with pytest.raises(DataError, match=said):
            CsvColumns("mine", **files).load()

    def test_bad_options(self, tmp_path: Path) -> None:
        files = self.files(tmp_path)
        with pytest.raises(ConfigError, match="no tables"):
            CsvColumns("mine").files()
        with pytest.raises(ConfigError, match=r"two tables called shop_0[.]csv"):
            CsvColumns("mine", [files["tables"][0]] * 2).files()
        with pytest.raises(DataError, match="which is not among the types"):
            CsvColumns("mine", **files, types=["person"]).load()


class TestFrames:
    @pytest.fixture(autouse=True)
    def _elsewhere(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)

    def test_pairs_keep_their_index(self, check_sound: Callable[[Source], None]) -> None:
        left = pd.DataFrame({"name": ["a", "b", "c"], "zip": [6000, 7000, 8000]}, index=["x", "y", "z"])
        right = pd.DataFrame({"name": ["a", None, "c"], "when": [pd.NaT, pd.Timestamp("2020-01-02"), pd.NaT]})
        labels = pd.DataFrame({"left": ["x", "y", "z"], "right": [0, 1, 2], "label": [True, False, None]})
        source = meld.from_frames("em", left=left, right=right, labels=labels, name="mine", test_fraction=0).load()
        check_sound(source)
        data = source.units["mine.em"]
        assert data.tables["A"].rows["y"] == {"name": "b", "zip": "7000"}
        assert data.tables["B"].rows["1"] == {"name": "", "when": "2020-01-02 00:00:00"}
        assert {sample.query.rows: sample.label for sample in (*data.train, *data.dev)} == {
            ("A:x", "B:0"): "match",
            ("A:y", "B:1"): "mismatch",
        }
        assert [query.rows for query in data.test] == [("A:z", "B:2")]

    def test_the_mapping_builds_the_same_and_is_deterministic(self) -> None:
        table = pd.DataFrame({"name": list("abcdefgh"), "city": ["u", "v"] * 4})
        config = frames_config("di", table=table, target="city", name="mine", n_few_shot=4)
        assert config == frames_config("di", table=table.copy(), target=["city"], name="mine", n_few_shot=4)
        assert config["table"].startswith("outputs/frames/")
        component = build(config, Dataset)  # type: ignore[type-abstract]
        again = from_frames("di", table=table, target="city", name="mine", n_few_shot=4)
        assert component.load() == again.load()
        other = frames_config("di", table=table.assign(city="w"), target="city")
        assert other["table"] != config["table"]

    def test_every_task(self, tmp_path: Path) -> None:
        table = pd.DataFrame({"a": ["1", "2", "x"], "b": ["p", "q", "r"]}, index=[5, 6, 7])
        clean = table.replace("x", "3").iloc[::-1]
        cells = pd.DataFrame({"row": [7], "column": ["a"], "value": ["3"]})
        types = pd.DataFrame({"table": ["t", "t"], "column": ["a", "b"], "type": ["n", "l"]})
        gold = from_frames(["ed", "dc"], table=table, clean=clean, n_few_shot=2).load().gold["own.dc"]
        made = {
            "dirty": from_frames(["ed", "dc"], table=table, labels=cells, test_fraction=1, folder=tmp_path / "f"),
            "tables": from_frames(["em", "blk"], left=table, right=table),
            "columns": from_frames("cta", tables={"t": table}, labels=types),
            "pairs": from_frames("em", labels=pd.DataFrame({"left_a": ["1"], "right_a": ["2"], "label": [1]})),
        }
        # The clean table is upside down: it is aligned by its index.
        assert {answers for query, answers in gold.items() if query.endswith("/b")} <= {("p",), ("q",), ("r",)}
        assert made["dirty"].load().gold["own.dc"] == {"own.dc/2/a": ("3",)}
        assert (tmp_path / "f" / "table.csv").is_file()
        assert [query.rows[0] for query in made["tables"].load().units["own.blk"].test] == ["A:5", "A:6", "A:7"]
        assert len(queries(made["columns"].load().units["own.cta"])) == 2
        assert len(queries(made["pairs"].load().units["own.em"])) == 1

    def test_an_index_with_repeated_labels_becomes_row_numbers(self) -> None:
        table = pd.DataFrame({"a": ["1", "2", ""], "b": ["p", "q", "r"]}, index=[5, 5, 6])
        config = frames_config("di", table=table, target="a")
        assert "id" not in config
        assert INDEX not in Path(config["table"]).read_text()
        data = from_frames("di", table=table, target="a").load().units["own.di"]
        assert list(data.tables["T"].rows) == ["0", "1", "2"]

    @given(
        st.lists(
            st.one_of(
                st.text(st.characters(exclude_characters="\0"), max_size=8),
                st.integers(),
                st.floats(),
                st.none(),
                st.just(pd.NA),
                st.just(pd.NaT),
                st.sampled_from(AWKWARD),
            ),
            min_size=1,
            max_size=6,
        )
    )
    @settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_values_become_text_unchanged(self, tmp_path: Path, values: list[Any]) -> None:
        frame = pd.DataFrame({"v": pd.Series(values, dtype=object), "w": "1"})
        try:
            config = frames_config("di", table=frame, target="w", folder=tmp_path / "f")
        except DataError as error:
            assert "column 'v'" in str(error)  # noqa: PT017 - an error is one of two right outcomes
            assert any(isinstance(value, str) and not value.isprintable() for value in values)
            return
        for value, text in zip(values, read_table(config["table"]).column("v"), strict=True):
            if isinstance(value, str):
                assert text == value
            elif isinstance(value, (int, float)) and not math.isnan(value):
                assert text == repr(value)
            else:
                assert text == ""

    def test_single_precision_and_large_numbers(self) -> None:
        frame = pd.DataFrame(
            {"f": np.array([0.1, 1e20], np.float32), "i": [2**62, 1], "b": [True, False], "t": ["", "1"]}
        )
        text = Path(frames_config("di", table=frame, target="t")["table"]).read_bytes().decode()
        assert "0,0.1,4611686018427387904,True,\r\n" in text
        assert "1,1e+20,1,False,1\r\n" in text

    def test_what_does_not_belong_together(self) -> None:
        table = pd.DataFrame({"a": ["1"], "b": ["2"]})
        with pytest.raises(ConfigError, match="needs right here"):
            from_frames("blk", left=table)
        with pytest.raises(ConfigError, match="no use for clean"):
            from_frames("di", table=table, clean=table, target="a")
        with pytest.raises(ConfigError, match=r"no option 'n_few_shots'[\s\S]*n_few_shot\?"):
            from_frames("di", table=table, target="a", n_few_shots=3)
        with pytest.raises(ConfigError, match="need different frames"):
            from_frames(["em", "di"], table=table)
        with pytest.raises(ConfigError, match="cannot make a dataset for"):
            from_frames("sm", table=table)
        with pytest.raises(DataError, match=r"frame is empty[\s\S]*table=\.\.\."):
            from_frames("di", table=table.iloc[:0], target="a")
        with pytest.raises(ConfigError, match=r"cannot be called '\.\./x'"):
            from_frames("cta", tables={"../x": table})
        with pytest.raises(ConfigError, match="no target column"):
            from_frames("di", table=table).load()

    def test_import_stays_fast(self) -> None:
        code = "import sys, meld; print([m for m in ('pandas', 'pyarrow', 'torch', 'hydra') if m in sys.modules])"
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert found.stdout.strip() == "[]"
        with pytest.raises(AttributeError, match="no attribute 'frames'"):
            _ = meld.frames


CELL = st.sampled_from(["", "1", "0", "x1", "x2", "a", "NA", 'q"q', "ü", "x\ny", "match", "-1", "1e400", "inf"])
HEADERS = st.sampled_from(
    [
        ("left", "right", "label"),
        ("left_a", "right_a", "label"),
        ("row", "column", "value"),
        ("table", "column", "type"),
        ("code", "name", "price"),
        ("name", "price"),
        ("a",),
        ("name", "name"),
        ("", "a"),
    ]
)


@given(
    HEADERS.flatmap(
        lambda header: st.lists(st.lists(CELL, min_size=len(header), max_size=len(header)), max_size=5).map(
            lambda rows: [list(header), *rows]
        )
    ),
    st.booleans(),
    st.sampled_from(["pairs", "left", "right"]),
)
@settings(max_examples=150, deadline=None)
def test_any_table_in_any_role_is_used_or_refused(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]], ragged: bool, role: str
) -> None:
    folder = tmp_path_factory.mktemp("any")
    if ragged:
        rows = [*rows, rows[0][:-1]]
    quoted = [",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in rows]
    files = {**shops(folder), role: put(folder / "any.csv", "\n".join(quoted))}
    components: list[Dataset] = [
        CsvPairs("p", **files, left_id="code"),
        CsvPairs("q", pairs=files["pairs"]),
        CsvTables("t", files["left"], files["right"], files["pairs"], left_id="code"),
        CsvTables("u", files["left"], files["right"]),
        CsvDirty("d", files["left"], files["right"]),
        CsvDirty("e", files["left"], labels=files["pairs"]),
        CsvDirty("f", files[role]),
        CsvCells("c", files[role], ["name"], test=files["pairs"]),
        CsvCells("b", files[role], ["a"]),
        CsvColumns("k", [files[role]], files["pairs"]),
        CsvColumns("l", [files[role]]),
    ]
    for component in components:
        try:
            source = component.load()
        except UserError as error:
            assert str(folder) in str(error) or error.where.startswith("datasets."), error  # noqa: PT017
            continue
        for unit, data in source.units.items():
            assert len({query.id for query in data.test}) == len(data.test)
            assert set(source.gold[unit]) <= {query.id for query in (*data.pool, *data.test)}
            event(f"{unit} loaded")


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 4), st.sampled_from(["1", "0", "Match", "no", ""])), min_size=1
    ),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.sampled_from(["stratified", "balanced"]),
)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_pair_has_one_place(
    tmp_path: Path, pairs: list[tuple[int, int, str]], fraction: float, few_shot: str
) -> None:
    files = shops(tmp_path)
    put(Path(files["pairs"]), "left,right,label\n" + "".join(f"x{a},{b},{label}\n" for a, b, label in pairs))
    truth: dict[str, set[str]] = {}
    for a, b, label in pairs:
        meant = {"1": "match", "Match": "match", "": ""}.get(label, "mismatch")
        truth.setdefault(f"x{a}-{b}", set()).update({meant} - {""})
    component = CsvPairs("m", **files, left_id="code", test_fraction=fraction, few_shot=few_shot, n_few_shot=4)
    if any(len(labels) > 1 for labels in truth.values()):
        with pytest.raises(DataError, match="both match and mismatch"):
            component.load()
        return
    source = component.load()
    data = source.units["m.em"]
    labels = {s.id: (s.label,) for s in (*data.train, *data.dev)} | dict(source.gold["m.em"])
    placed = [query.id for query in queries(data)]
    assert sorted(name.rsplit("/", 1)[1] for name in placed) == sorted(truth)
    for name in placed:
        assert set(labels.get(name, ())) == truth[name.rsplit("/", 1)[1]]
    known = sum(map(bool, truth.values()))
    assert len(data.test) == round(fraction * known) + len(truth) - known
