"""Ditto, Machamp, SMAT and ExtractGPT layouts: what is shown, hidden and refused; on small files and the real ones."""

from __future__ import annotations

import csv
import json
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meld.dataset.base import Dataset, Source
from meld.dataset.ditto import Ditto, parse_record
from meld.dataset.extract import ExtractGPT
from meld.dataset.few_shot import few_shot_ids
from meld.dataset.io import digest_unit
from meld.dataset.lines import flat_text, read_json_objects, read_lines
from meld.dataset.machamp import Machamp
from meld.dataset.pairs import Pair
from meld.dataset.records import even_columns, merge_equal, settle_pairs
from meld.dataset.smat import Smat, read_xlsx_text
from meld.errors import ConfigError, DataError, UserError
from meld.types import Query, UnitData

Load = Callable[[Path], Source]
SHARED = settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


def as_lines(records: Sequence[object]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def same_visible(before: Source, after: Source) -> None:
    for unit in before.units:
        assert before.units[unit] == after.units[unit]
        assert digest_unit(before.units[unit]) == digest_unit(after.units[unit])


def freeze(folder: Path, *parts: UnitData) -> str:
    path = folder / "few_shot.json"
    path.write_text(json.dumps(few_shot_ids([sample for data in parts for sample in (*data.train, *data.dev)])))
    return str(path)


def lot(*parts: object) -> int:
    return zlib.crc32(repr(parts).encode())


# ---------------------------------------------------------------------------------------------------------------- Ditto


def ditto_line(left: int, right: int, match: bool) -> str:
    sides = (f"COL title VAL  left {left} COL price VAL {left}.50", f"COL title VAL right {right} COL price VAL ")
    return "\t".join((*sides, str(int(match)))) + "\n"


def ditto_folder(base: Path, flip: Callable[[int, int], bool] = lambda left, right: False) -> Path:
    """24 records a side; 60 training, 16 validation and 20 test pairs, every fourth a match."""
    pairs = [(left, (left + shift) % 24, shift == 0) for left in range(24) for shift in (0, 3, 7, 11)]
    pairs = [pairs[(place * 37) % len(pairs)] for place in range(len(pairs))]
    for name, part in (("train", pairs[:60]), ("valid", pairs[60:76]), ("test", pairs[76:96])):
        lines = [ditto_line(left, right, match != flip(left, right)) for left, right, match in part]
        write(base / f"em/Mini/{name}.txt", "".join(lines))
    return base


def mini_ditto(root: Path, **options: Any) -> Ditto:
    return Ditto("mini", str(root), "em/Mini", **{"n_few_shot": 12, **options})


class TestParseRecord:
    @pytest.mark.parametrize(
        ("text", "record"),
        [
            ("COL title VAL sony tv COL price VAL 9.50", {"title": "sony tv", "price": "9.50"}),
            ("COL title VAL  COL price VAL ", {"title": "", "price": ""}),
            ("COL beer name VAL Pub Beer", {"beer name": "Pub Beer"}),
            ("COL title VAL COL 5 oil COL price VAL 3", {"title": "COL 5 oil", "price": "3"}),
            ("COL title VAL 9 VAL 8 PROTOCOL x COL y VALUE", {"title": "9 VAL 8 PROTOCOL x COL y VALUE"}),
            ("COL title VAL one\u2028two\u0085three", {"title": "one\u2028two\u0085three"}),
            ("title VAL sony", None),
            ("sony COL title VAL tv", None),
            ("COL title sony", None),
            ("COL a VAL 1 COL a VAL 2", None),
            ("", None),
        ],
    )
    def test_examples(self, text: str, record: dict[str, str] | None) -> None:
        assert parse_record(text) == record

    @given(
        st.dictionaries(
            st.text("abz _9é", min_size=1, max_size=6).map(str.strip).filter(bool),
            st.text("abz 9.\u2028'\"-", max_size=8).map(str.strip),
            min_size=1,
            max_size=4,
        )
    )
    def test_reads_back_what_was_written(self, record: dict[str, str]) -> None:
        assert parse_record(" ".join(f"COL {column} VAL {value}" for column, value in record.items())) == record

    def test_a_long_value_is_read_in_linear_time(self) -> None:
        value = "COL " * 100_000 + "x"
        assert parse_record(f"COL a VAL {value}") == {"a": value}


class TestDitto:
    def test_units_of_the_layout(self, tmp_path: Path, check_sound: Callable[[Source], None]) -> None:
        component = mini_ditto(ditto_folder(tmp_path))
        assert isinstance(component, Dataset)
        source = component.load()
        check_sound(source)
        em, blk = source.units["mini.em"], source.units["mini.blk"]
        assert {name: (len(table.rows), table.columns) for name, table in em.tables.items()} == {
            "A": (24, ("title", "price")),
            "B": (24, ("title", "price")),
        }
        assert (len(em.train) + len(em.dev), len(em.pool), len(em.test)) == (12, 48, 20)
        for query in em.test:
            left, right = (entity["title"].split()[1] for entity in query.entities)
            assert source.gold["mini.em"][query.id] == ("match" if left == right else "mismatch",)
        for query in blk.test:
            if query.id in source.gold["mini.blk"]:
                partners = [row.removeprefix("B:") for row in source.gold["mini.blk"][query.id]]
                title = query.entities[0]["title"].replace("left", "right")
                assert [blk.tables["B"].rows[partner]["title"] for partner in partners] == [title]

    def test_sides_may_have_other_columns_and_lack_some(self, tmp_path: Path) -> None:
        root = ditto_folder(tmp_path)
        with (root / "em/Mini/train.txt").open("a") as file:
            file.write("COL title VAL new COL colour VAL red\tCOL name VAL other\t0\n")
        tables = mini_ditto(root).load().units["mini.em"].tables
        assert tables["A"].columns == ("title", "price", "colour")
        assert tables["B"].columns == ("title", "price", "name")
        assert {"title": "new", "price": "", "colour": "red"} in tables["A"].rows.values()

    def test_dropped_columns_are_not_shown(self, tmp_path: Path) -> None:
        source = mini_ditto(ditto_folder(tmp_path), drop_columns=["price"]).load()
        assert source.units["mini.em"].tables["A"].columns == ("title",)
        with pytest.raises(DataError, match="no columns besides"):
            mini_ditto(tmp_path, drop_columns=["price", "title"]).load()

    def test_repeated_and_leaked_pairs(self, tmp_path: Path, check_sound: Callable[[Source], None]) -> None:
        root = ditto_folder(tmp_path)
        folder = root / "em/Mini"
        test = (folder / "test.txt").read_text().splitlines(keepends=True)
        flipped = test[0][:-2] + ("0" if test[0][-2] == "1" else "1") + "\n"
        (folder / "test.txt").write_text("".join([*test, flipped]))
        with (folder / "train.txt").open("a") as file:
            file.write(test[1])
        plain, handled = mini_ditto(ditto_folder(tmp_path / "plain")).load(), mini_ditto(root).load()
        check_sound(handled)
        assert handled.units["mini.em"].test == plain.units["mini.em"].test
        assert handled.gold["mini.em"] == plain.gold["mini.em"]
        assert "1 of 21 test pairs repeat another; the first of each was kept (1 contradict it)" in handled.notes[0]
        assert "1 training pairs that are also test pairs were left out" in handled.notes[1]

    def test_windows_lines_blank_lines_and_odd_separators(self, tmp_path: Path) -> None:
        root = ditto_folder(tmp_path)
        path = root / "em/Mini/train.txt"
        before = mini_ditto(root).load()
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
        same_visible(before, mini_ditto(root).load())
        path.write_bytes(path.read_bytes().replace(b"left 3 ", "left\u2028\u00853 ".encode()))
        assert len(mini_ditto(root).load().units["mini.em"].pool) == 48

    @pytest.mark.parametrize(
        ("old", "new", "said"),
        [
            ("\t0\n", "\t2\n", r"label '2'[\s\S]*row \d+ \(line \d+\), column 'label'"),
            ("\t1\n", "\tTrue\n", r"label 'True'[\s\S]*column 'label'"),
            ("\tCOL", " COL", r"2 parts instead of three[\s\S]*line 1\)"),
            ("COL title VAL  left", "title left", r"left record[\s\S]*line 1\), column 'left'"),
            ("\tCOL title", "\tCOL price", r"right record[\s\S]*line 1\), column 'right'"),
        ],
    )
    def test_bad_lines(self, tmp_path: Path, old: str, new: str, said: str) -> None:
        path = ditto_folder(tmp_path) / "em/Mini/train.txt"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))
        with pytest.raises(DataError, match=said) as caught:
            mini_ditto(tmp_path).load()
        assert str(path) in str(caught.value)
        assert caught.value.fix

    def test_bad_files(self, tmp_path: Path) -> None:
        path = ditto_folder(tmp_path) / "em/Mini/valid.txt"
        text = path.read_text()
        path.write_bytes(text.replace("left", "léft", 1).encode("latin-1"))
        with pytest.raises(DataError, match=r"not utf-8[\s\S]*line 1[\s\S]*encoding=latin-1"):
            mini_ditto(tmp_path).load()
        assert mini_ditto(tmp_path, encoding="latin-1").load()
        path.write_text("\n\n")
        with pytest.raises(DataError, match=r"valid.txt is empty"):
            mini_ditto(tmp_path).load()
        path.unlink()
        with pytest.raises(DataError, match=r"lacks valid.txt"):
            mini_ditto(tmp_path).files()

    def test_paper_index_counts_lines(self, tmp_path: Path) -> None:
        root = ditto_folder(tmp_path)
        lines = (root / "em/Mini/train.txt").read_text().splitlines(keepends=True)
        matching = [place for place, line in enumerate(lines) if line.endswith("\t1\n")][2:6]
        # The index may count the lines of a file whose pairs are a part of the training file.
        part = write(root / "em/Part/train.txt", "".join(lines[matching[0] :]))
        for of, shift in ((None, 0), ("em/Part/train.txt", matching[0])):
            rows = "".join(f"{n},{place - shift},{place - shift},1\n" for n, place in enumerate(matching))
            index = write(root / "index.csv", ",ltable_id,rtable_id,label\n" + rows)
            options = {"few_shot": "paper_index", "few_shot_index": "index.csv", "few_shot_index_of": of}
            component = mini_ditto(root, **options)
            assert index in component.files()
            assert (part in component.files()) == (of is not None)
            data = component.load().units["mini.em"]
            positives = {
                sample.query.entities[0]["title"] for sample in (*data.train, *data.dev) if sample.label == "match"
            }
            assert positives == {str(parse_record(lines[place].split("\t")[0])["title"]) for place in matching}  # type: ignore[index]
            assert Counter(s.label for s in (*data.train, *data.dev)) == {"match": 4, "mismatch": 4}
        negative = next(place for place, line in enumerate(lines) if line.endswith("\t0\n"))
        for wrong in (f"{negative},{negative}", "999,999", f"{matching[0]},{matching[1]}", "-1,-1"):
            write(root / "index.csv", f"ltable_id,rtable_id\n{wrong}\n")
            with pytest.raises(DataError, match=r"no matching pair[\s\S]*line 2\), column 'ltable_id'"):
                mini_ditto(root, few_shot="paper_index", few_shot_index="index.csv").load()
        with pytest.raises(ConfigError, match="few_shot_index"):
            mini_ditto(root, few_shot="paper_index").files()

    @SHARED
    @given(seed=st.integers(0, 10**6))
    def test_poisoned_labels_change_nothing_visible(self, tmp_path: Path, seed: int) -> None:
        root = ditto_folder(tmp_path / "data")
        data = mini_ditto(root).load().units["mini.em"]
        options = {"few_shot": "ids", "few_shot_ids": freeze(tmp_path, data), "max_test": 15, "max_train": 20}
        kept = {tuple(s.query.entities[n]["title"].split()[1] for n in (0, 1)) for s in (*data.train, *data.dev)}
        before = mini_ditto(root, **options).load()

        def flip(left: int, right: int) -> bool:
            return (str(left), str(right)) not in kept and lot(seed, left, right) % 2 == 0

        after = mini_ditto(ditto_folder(tmp_path / "poisoned", flip), **options).load()
        assert before.gold != after.gold
        same_visible(before, after)


# -------------------------------------------------------------------------------------------------------------- Machamp


def machamp_folder(base: Path, flip: Callable[[int, int], bool] = lambda left, right: False) -> Path:
    """20 records a side, 60 training, 10 validation and 10 test pairs; every fourth a match."""
    left = [
        {
            "id_left": f"id{row}",
            "cluster_id_left": f"cluster{row}",
            "brand_left": f"brand {row}",
            "price": None if row % 2 else 9.50,
            "pairs_left": "{'Width - mm': '3.00', 'Case:': ['steel', None]}" if row % 3 else "None",
            "specs": {"size": {"inch": row}, "parts": ["a", "b"], "none": []},
        }
        for row in range(20)
    ]
    write(base / "em/Mini/left.json", json.dumps(left))
    write(base / "em/Mini/right.txt", "".join(f"thing {row}\n" for row in range(20)))
    pairs = [(row, (row + shift) % 20, shift == 0) for row in range(20) for shift in (0, 3, 7, 11)]
    pairs = [pairs[(place * 37) % len(pairs)] for place in range(len(pairs))]
    for name, part in (("train", pairs[:60]), ("valid", pairs[60:70]), ("test", pairs[70:80])):
        lines = [f"{left},{right},{int(match != flip(left, right))}\n" for left, right, match in part]
        write(base / f"em/Mini/{name}.csv", "".join(lines))
    return base


def mini_machamp(root: Path, **options: Any) -> Machamp:
    given = {
        "right": "right.txt",
        "n_few_shot": 12,
        "drop_columns": ["id_left", "cluster_id_left"],
        "null_values": ["None"],
    }
    return Machamp("mini", str(root), "em/Mini", **{**given, **options})


class TestMachamp:
    def test_units_of_the_layout(self, tmp_path: Path, check_sound: Callable[[Source], None]) -> None:
        source = mini_machamp(machamp_folder(tmp_path)).load()
        check_sound(source)
        em = source.units["mini.em"]
        assert em.tables["A"].columns == ("brand", "price", "pairs", "specs")
        assert em.tables["A"].rows["2"] == {
            "brand": "brand 2",
            "price": "9.5",
            "pairs": "Width - mm: 3.00; Case: steel",
            "specs": "size: inch: 2; parts: a, b",
        }
        assert em.tables["A"].rows["3"]["pairs"] == em.tables["A"].rows["3"]["price"] == ""
        assert em.tables["B"].rows["7"] == {"text": "thing 7"}
        assert (len(em.train) + len(em.dev), len(em.pool), len(em.test)) == (12, 48, 10)
        shown = repr(em.tables)
        assert "cluster" not in shown
        assert "'id" not in shown

    def test_every_kind_of_file_gives_the_same(self, tmp_path: Path) -> None:
        root = machamp_folder(tmp_path)
        folder = root / "em/Mini"
        before = mini_machamp(root).load()
        right = [{"text": f"thing {row}"} for row in range(20)]
        write(folder / "right.json", json.dumps(right, indent=1))
        write(folder / "right.jsonl", as_lines(right))
        write(folder / "right.csv", "text\r\n" + "".join(f"thing {row}\r\n" for row in range(20)))
        for kind in ("json", "jsonl", "csv"):
            same_visible(before, mini_machamp(root, right=f"right.{kind}").load())
        (folder / "test.csv").write_text((folder / "test.csv").read_text().replace(",", "\t"))
        same_visible(before, mini_machamp(root).load())
        write(folder / "right.xml", "<a/>")
        with pytest.raises(ConfigError, match=r"right.xml is of no kind"):
            mini_machamp(root, right="right.xml").load()

    def test_a_blank_line_of_text_is_a_record(self, tmp_path: Path) -> None:
        root = machamp_folder(tmp_path)
        path = root / "em/Mini/right.txt"
        path.write_text(path.read_text().replace("thing 4\n", "\n"))
        rows = mini_machamp(root).load().units["mini.em"].tables["B"].rows
        assert (rows["4"]["text"], rows["5"]["text"]) == ("", "thing 5")

    def test_some_of_the_rows(self, tmp_path: Path, check_sound: Callable[[Source], None]) -> None:
        root = machamp_folder(tmp_path)
        held = [row for row in range(20) if row % 5]
        write(root / "em/Mini/some.jsonl", as_lines([{"row": row, "text": f"thing {row}"} for row in held[::-1]]))
        source = mini_machamp(root, right="some.jsonl", right_row="row").load()
        check_sound(source)
        em = source.units["mini.em"]
        assert em.tables["B"].columns == ("text",)
        assert em.tables["B"].rows["7"] == {"text": "thing 7"}
        lines = {name: (root / f"em/Mini/{name}.csv").read_text().splitlines() for name in ("train", "test")}
        here = {name: sum(int(line.split(",")[1]) % 5 > 0 for line in part) for name, part in lines.items()}
        assert len(em.test) == here["test"] < 10
        assert len(em.train) + len(em.dev) + len(em.pool) == here["train"] < 60
        assert (
            f"{10 - here['test']} of 10 pairs in test.csv name a record that the files do not hold" in source.notes[2]
        )

    def test_a_file_without_any_record_of_the_pairs(self, tmp_path: Path) -> None:
        root = machamp_folder(tmp_path)
        write(root / "em/Mini/some.jsonl", as_lines([{"row": 99, "text": "thing"}]))
        with pytest.raises(DataError, match=r"No pair of train.csv has both of its records"):
            mini_machamp(root, right="some.jsonl", right_row="row").load()

    @pytest.mark.parametrize(
        ("records", "said"),
        [
            ([{"row": 1, "text": "a"}, {"text": "b"}], r"without 'row'[\s\S]*line 2, column 'row'"),
            ([{"row": 1, "text": "a"}, {"row": 1, "text": "b"}], r"has before[\s\S]*line 1[\s\S]*line 2, column 'row'"),
            ([{"row": -1, "text": "a"}], r"row number '-1', which is none[\s\S]*line 1"),
            ([{"row": 1.5, "text": "a"}], r"row number '1.5'"),
            ([{"row": 1}], r"no columns besides"),
            ([["a"]], r"record 0"),
        ],
    )
    def test_bad_row_columns(self, tmp_path: Path, records: list[object], said: str) -> None:
        root = machamp_folder(tmp_path)
        write(root / "em/Mini/some.jsonl", as_lines(records))
        with pytest.raises(DataError, match=said):
            mini_machamp(root, right="some.jsonl", right_row="row").load()

    def test_equal_records_are_one(self, tmp_path: Path, check_sound: Callable[[Source], None]) -> None:
        root = machamp_folder(tmp_path)
        # Rows 10 to 19 show the same as rows 0 to 9; their ids and clusters differ.
        write(root / "em/Mini/right.txt", "".join(f"thing {row % 10}\n" for row in range(20)))
        merged = mini_machamp(root).load()
        check_sound(merged)
        assert list(merged.units["mini.em"].tables["B"].rows) == [str(row) for row in range(10)]
        assert "right.txt holds 20 records, of which 10 show something different" in merged.notes[0]
        for answers in merged.gold["mini.blk"].values():
            assert all(int(answer.removeprefix("B:")) < 10 for answer in answers)
        kept = mini_machamp(root, merge_equal=False).load()
        assert len(kept.units["mini.em"].tables["B"].rows) == 20
        assert len(kept.units["mini.em"].test) == 10

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ("3,20,0", r"right row 20, and right.txt has 20 rows[\s\S]*row 0 \(line 1\), column 'right'"),
            ("-1,3,0", r"left row '-1'[\s\S]*column 'left'"),
            ("ltable_id,rtable_id,label", r"left row 'ltable_id'[\s\S]*no header"),
            ("1,2", r"2 values instead of three[\s\S]*line 1\)"),
            ("1,2,match", r"label 'match'[\s\S]*column 'label'"),
            ("1,2,0,4", r"4 values instead of three"),
            ("٣,2,0", r"left row '٣'"),
        ],
    )
    def test_bad_pairs(self, tmp_path: Path, line: str, said: str) -> None:
        path = machamp_folder(tmp_path) / "em/Mini/test.csv"
        path.write_text(line + "\n" + path.read_text(), encoding="utf-8")
        with pytest.raises(DataError, match=said) as caught:
            mini_machamp(tmp_path).load()
        assert str(path) in str(caught.value)

    def test_bad_json(self, tmp_path: Path) -> None:
        root = machamp_folder(tmp_path)
        path = root / "em/Mini/left.json"
        path.write_text('[{"a": 1},\n {"a": }]')
        with pytest.raises(DataError, match=r"left.json is not JSON[\s\S]*line 2, character 8"):
            mini_machamp(root).load()
        path.write_text("[]")
        with pytest.raises(DataError, match=r"left.json has no records"):
            mini_machamp(root).load()

    def test_bad_options(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"few_shot='paper_index'[\s\S]*balanced"):
            mini_machamp(machamp_folder(tmp_path), few_shot="paper_index").load()
        with pytest.raises(ConfigError, match=r"\['em', 'blk'\]"):
            mini_machamp(tmp_path, tasks=["sm"])

    def test_names_without_suffix_do_not_collide(self, tmp_path: Path) -> None:
        root = machamp_folder(tmp_path)
        records = [{"size_left": f"l{row}", "size_right": "r", "_left": "x"} for row in range(20)]
        write(root / "em/Mini/left.json", json.dumps(records))
        assert mini_machamp(root).load().units["mini.em"].tables["A"].columns == ("size_left", "size_right", "_left")

    @SHARED
    @given(seed=st.integers(0, 10**6))
    def test_poisoned_labels_change_nothing_visible(self, tmp_path: Path, seed: int) -> None:
        root = machamp_folder(tmp_path / "data")
        data = mini_machamp(root).load().units["mini.em"]
        options = {"few_shot": "ids", "few_shot_ids": freeze(tmp_path, data), "max_test": 8, "max_train": 20}
        kept = {tuple(row.split(":")[1] for row in sample.query.rows) for sample in (*data.train, *data.dev)}
        before = mini_machamp(root, **options).load()

        def flip(left: int, right: int) -> bool:
            return (str(left), str(right)) not in kept and lot(seed, left, right) % 2 == 0

        after = mini_machamp(machamp_folder(tmp_path / "poisoned", flip), **options).load()
        assert before.gold != after.gold
        same_visible(before, after)


# ----------------------------------------------------------------------------------------------------------------- SMAT

SMAT_HEADER = ["omop", "table", "des1", "des2", "label", "d1", "d2", "d3", "d4"]


def smat_rows(flip: Callable[[int, int], bool] = lambda left, right: False) -> list[list[str]]:
    """20 attributes against 10, of which every tenth pair is a match."""
    return [
        [
            f"person-field_{left}",
            f"claims-col-{right}",
            f"people;field {left}",
            f"bills;column {right}",
            str(int((left % 10 == right) != flip(left, right))),
            "people",
            f"field {left}",
            "bills",
            f"column {right}",
        ]
        for left in range(20)
        for right in range(10)
    ]


def smat_folder(base: Path, flip: Callable[[int, int], bool] = lambda left, right: False) -> Path:
    path = base / "sm/Mini/pairs.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([SMAT_HEADER, *smat_rows(flip)])
    return base


def mini_smat(root: Path, **options: Any) -> Smat:
    return Smat("mini", str(root), "sm/Mini", **{"pairs": "pairs.csv", "n_few_shot": 50, **options})


class TestSmat:
    def test_unit_of_the_layout(self, tmp_path: Path, check_sound: Callable[[Source], None]) -> None:
        source = mini_smat(smat_folder(tmp_path)).load()
        check_sound(source)
        assert list(source.units) == list(source.gold) == ["mini.sm"]
        data = source.units["mini.sm"]
        assert {name: len(table.rows) for name, table in data.tables.items()} == {"A": 20, "B": 10}
        assert data.test[0].entities[1].keys() == {"name", "table", "description", "table description"}
        row = data.tables["B"].rows["claims-col-3"]
        assert row == {"name": "col-3", "table": "claims", "description": "column 3", "table description": "bills"}
        # 160 for training, 20 kept aside, 20 for testing; a tenth of each matches.
        assert (len(data.train) + len(data.dev), len(data.pool), len(data.test)) == (50, 110, 20)
        assert Counter(source.gold["mini.sm"][query.id] for query in data.test) == {("mismatch",): 18, ("match",): 2}
        assert Counter(sample.label for sample in (*data.train, *data.dev)) == {"mismatch": 45, "match": 5}
        for query in data.test:
            left, right = (entity["name"] for entity in query.entities)
            match = int(left.removeprefix("field_")) % 10 == int(right.removeprefix("col-"))
            assert source.gold["mini.sm"][query.id] == ("match" if match else "mismatch",)
        assert "'label'" not in repr(data)

    def test_parts_are_disjoint_and_fully_labelled_sets_have_no_pool(self, tmp_path: Path) -> None:
        data = mini_smat(smat_folder(tmp_path), n_few_shot=160).load().units["mini.sm"]
        readable = {sample.query.rows for sample in (*data.train, *data.dev)}
        assert (len(readable), len(data.pool)) == (160, 0)
        assert not readable & {query.rows for query in data.test}

    def test_seeds_and_fractions(self, tmp_path: Path) -> None:
        root = smat_folder(tmp_path)
        digests = [digest_unit(mini_smat(root, data_seed=seed).load().units["mini.sm"]) for seed in (0, 0, 1)]
        assert digests[0] == digests[1] != digests[2]
        data = mini_smat(root, train_fraction=0.5, valid_fraction=0.0).load().units["mini.sm"]
        assert (len(data.train) + len(data.dev) + len(data.pool), len(data.test)) == (100, 100)
        for wrong in (
            {"train_fraction": 0.9, "valid_fraction": 0.1},
            {"train_fraction": 0.0},
            {"valid_fraction": -0.1},
        ):
            with pytest.raises(ConfigError, match="train_fraction"):
                mini_smat(root, **wrong)
        with pytest.raises(ConfigError, match=r"few_shot='published'"):
            mini_smat(root, few_shot="published").load()

    def test_descriptions_in_one(self, tmp_path: Path) -> None:
        rows = [[*row[:3], row[3], row[4]] for row in smat_rows()]
        rows = [["field", *row[1:]] if row[0] == "person-field_0" else row for row in rows]
        write(tmp_path / "sm/Mini/pairs.csv", "\n".join(",".join(row) for row in [SMAT_HEADER[:5], *rows]))
        row = mini_smat(tmp_path).load().units["mini.sm"].tables["A"].rows["field"]
        assert row == {"name": "field", "table": "", "description": "people;field 0", "table description": ""}

    def test_repeated_pairs_are_not_split_apart(self, tmp_path: Path) -> None:
        path = smat_folder(tmp_path) / "sm/Mini/pairs.csv"
        lines = path.read_text().splitlines()
        path.write_text("\n".join([*lines, *lines[1:31]]))
        source = mini_smat(tmp_path).load()
        assert "30 of 230 train pairs repeat another" in source.notes[0]
        same_visible(mini_smat(smat_folder(tmp_path / "plain")).load(), source)

    @pytest.mark.parametrize(
        ("old", "new", "said"),
        [
            (",des2,", ",text,", r"no column 'des2'; its columns are"),
            (",0,people", ",maybe,people", r"label 'maybe'[\s\S]*row \d+ \(line \d+\), column 'label'"),
            ("bills,column 3", "bills,colum 3", r"'claims-col-3' in two ways[\s\S]*column 'd4'; first on line \d+"),
            ("person-field_0,", ",", r"without an attribute[\s\S]*line 2\), column 'omop'"),
            (",bills,column 0\r\n", ",bills\r\n", r"8 values where the header names 9[\s\S]*line 2\)"),
        ],
    )
    def test_bad_files(self, tmp_path: Path, old: str, new: str, said: str) -> None:
        path = smat_folder(tmp_path) / "sm/Mini/pairs.csv"
        text = path.read_bytes().decode()
        assert old in text
        path.write_bytes(text.replace(old, new, 1).encode())
        with pytest.raises(DataError, match=said) as caught:
            mini_smat(tmp_path).load()
        assert str(path) in str(caught.value)

    def test_too_few_pairs(self, tmp_path: Path) -> None:
        write(tmp_path / "sm/Mini/pairs.csv", ",".join(SMAT_HEADER) + "\n" + ",".join(smat_rows()[0]) + "\n")
        with pytest.raises(DataError, match=r"1 pairs of pairs\.csv are too few"):
            mini_smat(tmp_path).load()

    def test_xlsx_without_its_package(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write(tmp_path / "sm/Mini/pairs.xlsx", "PK")
        monkeypatch.setitem(sys.modules, "openpyxl", None)
        component = mini_smat(tmp_path, pairs="pairs.xlsx")
        assert component.files()
        with pytest.raises(UserError, match=r"meld-dp\[xlsx\]") as caught:
            component.load()
        assert str(tmp_path / "sm/Mini/pairs.xlsx") in str(caught.value)

    @SHARED
    @given(seed=st.integers(0, 10**6))
    def test_poisoned_labels_change_nothing_visible(self, tmp_path: Path, seed: int) -> None:
        """A stratified split knows all labels by its nature, so this is about the other one."""
        root = smat_folder(tmp_path / "data")
        data = mini_smat(root, stratify=False).load().units["mini.sm"]
        options = {"stratify": False, "few_shot": "ids", "few_shot_ids": freeze(tmp_path, data), "max_test": 15}
        kept = {sample.query.rows for sample in (*data.train, *data.dev)}
        before = mini_smat(root, **options).load()

        def flip(left: int, right: int) -> bool:
            return (f"A:person-field_{left}", f"B:claims-col-{right}") not in kept and lot(seed, left, right) % 2 == 0

        after = mini_smat(smat_folder(tmp_path / "poisoned", flip), **options).load()
        assert before.gold != after.gold
        same_visible(before, after)


class TestXlsx:
    def workbook(self, path: Path, rows: Sequence[Sequence[object]]) -> Path:
        openpyxl = pytest.importorskip("openpyxl", reason="needs the extra xlsx")
        book = openpyxl.Workbook()
        for row in rows:
            book.active.append(list(row))
        path.parent.mkdir(parents=True, exist_ok=True)
        book.save(path)
        return path

    def test_same_as_csv(self, tmp_path: Path) -> None:
        rows = [[*row[:4], int(row[4]), *row[5:]] for row in smat_rows()]
        self.workbook(tmp_path / "sm/Mini/pairs.xlsx", [SMAT_HEADER, *rows])
        same_visible(mini_smat(smat_folder(tmp_path)).load(), mini_smat(tmp_path, pairs="pairs.xlsx").load())

    def test_cells_are_text(self, tmp_path: Path) -> None:
        rows = [["a", "b", None], [1, 0.5, None], [None, None, None], ["06000", " NA ", None], [2.0, None, None]]
        frame = read_xlsx_text(self.workbook(tmp_path / "a.xlsx", rows))
        assert frame.columns == ("a", "b")
        assert frame.rows == (("1", "0.5"), ("06000", "NA"), ("2", ""))
        assert frame.lines == (2, 4, 5)

    @pytest.mark.parametrize(
        ("rows", "said"),
        [
            ([["a", "a"], [1, 2]], r"'a' more than once"),
            ([["a"], [1, 2]], r"beyond the 1 columns[\s\S]*row 2 of the sheet"),
            ([["a", "b"]], "has no rows"),
            ([], "has no rows"),
        ],
    )
    def test_bad_sheets(self, tmp_path: Path, rows: list[list[object]], said: str) -> None:
        with pytest.raises(DataError, match=said):
            read_xlsx_text(self.workbook(tmp_path / "a.xlsx", rows))

    def test_damaged_files(self, tmp_path: Path) -> None:
        whole = self.workbook(tmp_path / "whole.xlsx", [["a"], [1]])
        write(tmp_path / "text.xlsx", "omop,table\n")
        (tmp_path / "cut.xlsx").write_bytes(whole.read_bytes()[: len(whole.read_bytes()) // 2])
        with zipfile.ZipFile(tmp_path / "other.xlsx", "w") as archive:
            archive.writestr("a.txt", "a")
        with zipfile.ZipFile(whole) as archive, zipfile.ZipFile(tmp_path / "broken.xlsx", "w") as copy:
            for name in archive.namelist():
                copy.writestr(name, b"<broken" if "sheet1" in name else archive.read(name))
        for name in ("text", "cut", "other", "broken"):
            with pytest.raises(DataError, match=rf"{name}.xlsx is not a readable workbook"):
                read_xlsx_text(tmp_path / f"{name}.xlsx")


# ----------------------------------------------------------------------------------------------------------- ExtractGPT


def extract_records(truth: Callable[[int, str, str], str]) -> list[dict[str, object]]:
    """40 titles in two categories; Colour is asked of every other one."""
    return [
        {
            "input": f"Acme {row} red",
            "category": "Shoes" if row % 2 else "Tea",
            "target_scores": {
                "Brand": {truth(row, "Brand", "Acme"): 1},
                **({"Colour": {truth(row, "Colour", "red"): 1}} if row % 4 < 2 else {}),
            },
        }
        for row in range(40)
    ]


def extract_folder(base: Path, truth: Callable[[int, str, str], str] = lambda row, attribute, value: value) -> Path:
    records = extract_records(truth)
    write(base / "ave/mini/train.jsonl", as_lines(records[:30]))
    write(base / "ave/mini/few.jsonl", as_lines(records[2:12]))
    write(base / "ave/mini/test.jsonl", as_lines(records[30:]))
    return base


def mini_extract(root: Path, **options: Any) -> ExtractGPT:
    return ExtractGPT("mini", str(root), "ave/mini", **{"few_shot_file": "few.jsonl", **options})


class TestExtract:
    def test_unit_of_the_layout(self, tmp_path: Path, check_sound: Callable[[Source], None]) -> None:
        source = mini_extract(extract_folder(tmp_path)).load()
        check_sound(source)
        data = source.units["mini.ave"]
        titles = {sample.query.entities[0]["title"] for sample in (*data.train, *data.dev)}
        assert titles == {f"Acme {row} red" for row in range(2, 12)}
        assert len(data.train) + len(data.dev) == 15 - 1
        assert not {s.query.rows for s in data.train} & {s.query.rows for s in data.dev}
        assert [query.id for query in data.test[:3]] == [
            "mini.ave/test/0/Brand",
            "mini.ave/test/1/Brand",
            "mini.ave/test/2/Brand",
        ]
        assert data.test[0].entities == ({"title": "Acme 30 red", "category": "Tea"},)
        assert data.test[0].target == "Brand"
        assert source.gold["mini.ave"]["mini.ave/test/2/Colour"] == ("red",)
        assert len(data.test) == len({q.id for q in data.test}) == sum(1 + (row % 4 < 2) for row in range(30, 40))

    def test_all_slots_of_a_category(self, tmp_path: Path) -> None:
        source = mini_extract(extract_folder(tmp_path), slots="all").load()
        data = source.units["mini.ave"]
        assert len(data.test) == 20
        assert source.gold["mini.ave"]["mini.ave/test/0/Colour"] == ("n/a",)
        assert Counter(s.label for s in (*data.train, *data.dev) if s.query.target == "Colour") == {"red": 4, "n/a": 6}
        orders = {tuple(q.target for q in data.test if q.rows == (f"T:test/{row}",)) for row in range(10)}
        assert orders == {("Brand", "Colour")}
        with pytest.raises(ConfigError, match="slots='some'"):
            mini_extract(tmp_path, slots="some")

    def test_several_answers_and_none(self, tmp_path: Path) -> None:
        root = extract_folder(tmp_path)
        targets = {"A": {"red": 0.5, "blue": 1, "no": 0}, "B": {}, "C": {"n/a": 1}, "D": {" ": 1}, "E": {"\ud800x": 1}}
        write(root / "ave/mini/test.jsonl", as_lines([{"input": "t", "category": "c", "target_scores": targets}]))
        gold = mini_extract(root).load().gold["mini.ave"]
        answers = {key.rsplit("/", 1)[1]: value for key, value in gold.items() if "/test/" in key}
        assert answers == {"A": ("blue", "red"), "B": ("n/a",), "C": ("n/a",), "D": ("n/a",), "E": ("?x",)}

    def test_repeated_and_leaked_titles(self, tmp_path: Path, check_sound: Callable[[Source], None]) -> None:
        root = extract_folder(tmp_path)
        records = extract_records(lambda row, attribute, value: value)
        again = {**records[4], "target_scores": {"Size": {"9": 1}, "Brand": {"other": 1}}}
        write(root / "ave/mini/train.jsonl", as_lines([*records[:30], again]))
        write(root / "ave/mini/test.jsonl", as_lines([*records[30:], records[5]]))
        source = mini_extract(root).load()
        check_sound(source)
        slots = {s.query.id: s.label for s in (*source.units["mini.ave"].train, *source.units["mini.ave"].dev)}
        assert {key: value for key, value in slots.items() if key.startswith("mini.ave/train/4/")} == {
            "mini.ave/train/4/Brand": "Acme",
            "mini.ave/train/4/Colour": "red",
            "mini.ave/train/4/Size": "9",
        }
        assert not any(key.startswith("mini.ave/train/5/") for key in slots)
        said = " ".join(source.notes)
        assert "1 repeated titles in train.jsonl" in said
        assert "1 training titles that are also test titles were left out" in said
        assert "1 published few-shot titles are test titles" in said

    def test_other_samples_and_limits(self, tmp_path: Path, check_sound: Callable[[Source], None]) -> None:
        root = extract_folder(tmp_path)
        for few_shot in ("stratified", "uniform"):
            source = mini_extract(root, few_shot=few_shot, n_few_shot=8, max_train=7, max_test=4).load()
            check_sound(source)
            data = source.units["mini.ave"]
            assert len({s.query.rows for s in (*data.train, *data.dev)}) == 8
            assert (len(data.pool), len(data.test), len(source.gold["mini.ave"])) == (7, 4, 11)
        component = mini_extract(root, few_shot="uniform")
        assert not any(path.name == "few.jsonl" for path in component.files())
        with pytest.raises(ConfigError, match=r"few_shot='published'"):
            mini_extract(root, few_shot_file=None).load()

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ('{"input": "a"', r"not JSON[\s\S]*line 1, character"),
            ("[1]", r"record 0"),
            ('"text"', r"no JSON object[\s\S]*line 1"),
            ('{"category": "c", "target_scores": {}}', r"without a text under 'input'[\s\S]*line 1, column 'input'"),
            ('{"input": "a", "category": null, "target_scores": {}}', r"column 'category'"),
            ('{"input": "a", "category": "c"}', r"is no object[\s\S]*column 'target_scores'"),
            ('{"input": "a", "category": "c", "target_scores": {"B": "x"}}', r"no object of values under 'B'"),
            ('{"input": "a", "category": "c", "target_scores": {"B": {"x": "y"}}}', r"score 'y' under 'B'"),
            ("[" * 100_000, r"nested too deeply|not JSON"),
        ],
    )
    def test_bad_lines(self, tmp_path: Path, line: str, said: str) -> None:
        path = extract_folder(tmp_path) / "ave/mini/test.jsonl"
        path.write_text(line + "\n" + ("" if line.startswith("[") else path.read_text()))
        with pytest.raises(DataError, match=said) as caught:
            mini_extract(tmp_path).load()
        assert str(path) in str(caught.value)

    def test_few_shot_titles_must_be_training_titles(self, tmp_path: Path) -> None:
        root = extract_folder(tmp_path)
        few = {"input": "unknown", "category": "Tea", "target_scores": {}}
        write(root / "ave/mini/few.jsonl", as_lines([few]))
        with pytest.raises(DataError, match=r"'unknown', which train.jsonl does not have[\s\S]*record 0"):
            mini_extract(root).load()

    @SHARED
    @given(seed=st.integers(0, 10**6), slots=st.sampled_from(["given", "all"]))
    def test_poisoned_values_change_nothing_visible(self, tmp_path: Path, seed: int, slots: str) -> None:
        root = extract_folder(tmp_path / "data")
        data = mini_extract(root).load().units["mini.ave"]
        options = {"few_shot": "ids", "few_shot_ids": freeze(tmp_path, data), "slots": slots, "max_test": 12}
        before = mini_extract(root, **options).load()

        def poison(row: int, attribute: str, value: str) -> str:
            return value if 2 <= row < 12 or lot(seed, row, attribute) % 3 == 0 else f"poison{row}"

        after = mini_extract(extract_folder(tmp_path / "poisoned", poison), **options).load()
        assert before.gold != after.gold
        same_visible(before, after)
        assert "poison" not in repr(after.units)


# -------------------------------------------------------------------------------------------------------------- helpers


class TestHelpers:
    def test_lines(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.txt", "\ufeffone\r\n\r\ntwo\u2028x\u0085y\x0bz\n")
        assert read_lines(path) == ["one", "", "two\u2028x\u0085y\x0bz"]
        with pytest.raises(DataError, match="does not exist"):
            read_lines(tmp_path / "b.txt")
        with pytest.raises(ConfigError, match="encoding 'klingon'"):
            read_lines(path, "klingon")

    def test_numbers_stay_as_they_are_written(self, tmp_path: Path) -> None:
        path = write(
            tmp_path / "a.jsonl", '{"a": 12.50, "b": 1e5, "c": NaN, "d": true, "e": 007}\n'.replace("007", '"007"')
        )
        ((place, item),) = read_json_objects(path)
        assert place == f"{path}, line 1"
        assert {key: flat_text(value) for key, value in item.items()} == {
            "a": "12.50",
            "b": "1e5",
            "c": "NaN",
            "d": "true",
            "e": "007",
        }

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
            max_leaves=10,
        )
    )
    def test_flat_text_can_be_written(self, value: object) -> None:
        text = flat_text(json.loads(json.dumps(value), parse_int=str))
        assert text.encode().decode() == text
        assert "None" not in text or "None" in json.dumps(value)

    @given(st.lists(st.dictionaries(st.sampled_from("abc"), st.sampled_from(["", "x", "y"]), min_size=1), max_size=8))
    def test_merged_records_show_the_same(self, records: list[dict[str, str]]) -> None:
        columns, even = even_columns(records)
        assert all(tuple(record) == columns for record in even)
        rows = {str(place): record for place, record in enumerate(even)}
        kept, stands_for = merge_equal(rows)
        assert all(kept[stands_for[row]] == rows[row] for row in rows)
        assert len({tuple(record.values()) for record in kept.values()}) == len(kept)
        assert all(int(stands_for[row]) <= int(row) for row in rows)

    @given(
        *[st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"), st.booleans()), max_size=8)] * 2,
        st.randoms(use_true_random=False),
    )
    def test_which_pairs_are_kept_depends_on_no_label(
        self, train: list[tuple[str, str, bool]], test: list[tuple[str, str, bool]], random: Any
    ) -> None:
        def keys(flipped: bool) -> list[list[tuple[str, str]]]:
            parts = [
                [Pair(left, right, match != (flipped and random.random() < 0.5)) for left, right, match in part]
                for part in (train, test)
            ]
            kept = settle_pairs("mini", parts[0], [], parts[1], [])
            return [[(pair.left, pair.right) for pair in part] for part in kept]

        plain = keys(flipped=False)
        assert plain == keys(flipped=True)
        assert not set(plain[0]) & set(plain[2])
        assert all(len(set(part)) == len(part) for part in plain)


# ------------------------------------------------------------------------------------------------------------ real data


def sizes(data: UnitData) -> tuple[int, int, int]:
    return len(data.train) + len(data.dev), len(data.pool), len(data.test)


def need(component: Dataset) -> None:
    try:
        component.files()
    except UserError as error:
        pytest.skip(error.what)


@pytest.mark.data
class TestRealData:
    """Counts of the published files: as they are, less what is said to be left out."""

    @pytest.mark.parametrize(
        ("part", "train", "leaked", "test", "repeated", "records"),
        [
            ("all", 7230, 28, 4398, 65, (7437, 8091)),
            ("computers", 2231, 9, 1098, 17, (2204, 2443)),
            ("cameras", 1409, 5, 1057, 8, (1561, 1743)),
            ("shoes", 1611, 11, 1084, 20, (1600, 1767)),
            ("watches", 1756, 3, 1012, 18, (1821, 1991)),
        ],
    )
    def test_wdc(
        self,
        check_sound: Callable[[Source], None],
        real_data: str,
        part: str,
        train: int,
        leaked: int,
        test: int,
        repeated: int,
        records: tuple[int, int],
    ) -> None:
        files = {"train": "train.txt.small", "valid": "valid.txt.small"}
        component = Ditto("wdc", real_data, f"em/WDC/{part}", **files)
        need(component)
        source = component.load()
        check_sound(source)
        em = source.units["wdc.em"]
        assert sizes(em) == (100, train - leaked - 100, test - repeated)
        assert (len(em.tables["A"].rows), len(em.tables["B"].rows)) == records
        if part in ("all", "cameras"):
            # The published index of WDC-All counts lines of the cameras' file: every one of them is a match there.
            index = {
                "few_shot": "paper_index",
                "few_shot_index": "em/fewshot_index/WDC-All.csv",
                "few_shot_index_of": "em/WDC/cameras/train.txt.small",
            }
            paper = Ditto("wdc", real_data, f"em/WDC/{part}", **files, **index).load().units["wdc.em"]  # type: ignore[arg-type]
            assert Counter(s.label for s in (*paper.train, *paper.dev)) == {"match": 99, "mismatch": 99}

    def test_semi_text_watch(self, check_sound: Callable[[Source], None], real_data: str) -> None:
        component = Machamp(
            "watch",
            real_data,
            "em/semi-text-w",
            right="right_description_from_meld_release.jsonl",
            right_row="row",
            drop_columns=["id_left", "cluster_id_left", "pair_id"],
            null_values=["None", "not found"],
        )
        need(component)
        source = component.load()
        check_sound(source)
        em = source.units["watch.em"]
        assert em.tables["A"].columns == ("category", "identifiers", "brand", "keyValuePairs", "price")
        assert not any(value in ("None", "not found") for row in em.tables["A"].rows.values() for value in row.values())
        # 1,238 and 1,845 pairs have both records; 26 and 54 of them repeat another, and 28 are in both.
        assert sizes(em) == (80, 1238 - 26 - 28 - 80, 1845 - 54)
        component.merge_equal = False
        kept = component.load()
        assert sizes(kept.units["watch.em"]) == (80, 1238 - 80, 1845)
        answers = Counter(kept.gold["watch.em"][query.id][0] for query in kept.units["watch.em"].test)
        assert answers["match"] == 211

    def test_cms(self, check_sound: Callable[[Source], None], real_data: str) -> None:
        pytest.importorskip("openpyxl", reason="needs the extra xlsx")
        component = Smat("cms", real_data, "sm/CMS", pairs="omop_cms_data.xlsx", n_few_shot=20505)
        need(component)
        source = component.load()
        check_sound(source)
        data = source.units["cms.sm"]
        assert sizes(data) == (20505, 0, 25632 - 20505 - 2563)
        labels = Counter(sample.label for sample in (*data.train, *data.dev))
        answers = Counter(source.gold["cms.sm"][query.id][0] for query in data.test)
        assert (labels["match"], answers["match"]) == (157, 20)  # of 196, with 19 kept aside
        assert (len(data.tables["A"].rows), len(data.tables["B"].rows)) == (267, 96)

    def test_oa_mine(self, check_sound: Callable[[Source], None], real_data: str) -> None:
        component = ExtractGPT("oa", real_data, "ave/oa-mine", few_shot_file="train_0.2.jsonl")
        need(component)
        source = component.load()
        check_sound(source)
        data = source.units["oa.ave"]
        queries: list[Query] = [sample.query for sample in (*data.train, *data.dev)]
        assert len({query.rows for query in queries}) == 286
        assert len(queries) == 1467
        assert len(data.test) == 2451
        assert len({query.rows for query in data.test}) == 491
        assert len({query.rows for query in data.pool}) == 1452 - 2 - 3 - 286
        for query in data.test:
            assert source.gold["oa.ave"][query.id][0] in query.entities[0]["title"]
