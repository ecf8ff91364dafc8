"""Columns, relations and entities: what is shown, hidden, split and refused; on small files of each layout."""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meld.dataset import web_tables
from meld.dataset.base import Dataset, Source
from meld.dataset.column_files import ColumnFiles
from meld.dataset.column_tables import AnnotatedTables, TableArchive
from meld.dataset.entities import NIL, EntityPairs, TurlEntities, fill_candidates
from meld.dataset.labelled import Item, assemble_labelled, read_labels, sample_items, show_values, split_items
from meld.dataset.relations import HeaderRelations, TurlRelations
from meld.dataset.web_tables import parse_table, read_members, read_truth
from meld.errors import ConfigError, DataError, UserError
from meld.types import Query, UnitData

from .conftest import write_csv

TYPES = ("city", "person", "year")
Label = Callable[[str, str, int], str]
"""The label of (part, table, column); tests poison hidden ones."""


def truth(part: str, table: str, column: int) -> str:
    """The right label of the small files: by column, so that values tell it."""
    return TYPES[column]


def values(table: str, column: int) -> list[str]:
    return [f"{TYPES[column]} {row} of {table}" for row in range(6)]


def tables(part: str) -> list[str]:
    return [f"{part[:2]}{number}" for number in range(12 if part == "train" else 5)]


def write_columns(folder: Path, label: Label) -> None:
    for part in ("train", "test"):
        rows = [
            (table, str(place), label(part, table, place), "7", " ".join(values(table, place)))
            for table in tables(part)
            for place in range(3)
        ]
        write_csv(folder / f"{part}.csv", ("table_id", "col_idx", "class", "class_id", "data"), rows)
    (folder / "labels.json").write_text(json.dumps({"City": 0, "Person": 1, "Year": 2, "Never": 3}))


def write_annotated(folder: Path, label: Label) -> None:
    lines = []
    for number, table in enumerate(tables("train")):
        header, rows = (
            [f"head{place}" for place in range(3)],
            [*zip(*(values(table, p) for p in range(3)), strict=True)],
        )
        if number % 2:
            write_csv(folder / "tables" / f"{table}.csv", header, rows)
        else:
            (folder / "tables").mkdir(parents=True, exist_ok=True)
            (folder / "tables" / f"{table}.json").write_text(json.dumps({"header": header, "content": rows}))
        lines += [f"{table},{place},http://dbpedia.org/ontology/{label('train', table, place)}" for place in range(3)]
    (folder / "gt.csv").write_text("\n".join([*lines, "absent,0,http://dbpedia.org/ontology/city", ""]))


def archive_members(label: Label) -> dict[str, bytes]:
    made: dict[str, bytes] = {"Set/README.md": b"hello"}
    lines = []
    for number, table in enumerate(tables("train")):
        shown = [[f"head{place}", *values(table, place)] for place in range(3)]
        web = {"relation": shown, "title": f"title of {table}", "pageTitle": "Caf\u00e9", "hasHeader": True}
        text = json.dumps({**web, "headerRowIndex": 0}, ensure_ascii=False)
        made[f"Set/tables/{table}.json"] = text.encode("latin-1" if number % 2 else "utf-8")
        lines += [f'"{table} {place}","{label("train", table, place)}","thing"' for place in range(3)]
    made["Set/truth.csv"] = "\n".join(lines).encode()
    return made


def write_archive(path: Path, members: Mapping[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def write_turl_relations(folder: Path, label: Label) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("train", "test"):
        records = []
        for table in tables(part):
            cells = [
                [[[row, place], [9, value]] for row, value in enumerate(values(table, place)) if (row, place) != (0, 0)]
                for place in range(3)
            ]
            relations = [[label(part, table, place), "alt"] for place in (1, 2)]
            records.append([table, "Page", 12, "Section", "", ["subject", "h1", "h2"], cells, relations])
        (folder / f"{part}.table_rel_extraction.json").write_text(json.dumps(records))
    (folder / "relation_vocab.txt").write_text("0\tperson\t17\n1\tyear\t4\n2\talt\t4\n3\tother\t1\n")


def write_header_relations(folder: Path, label: Label) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("train", "test"):
        records = [
            {
                "id": f"{part}{table}",
                "table_title": f"about {table}",
                "headers": [f"s{place}", f"o{place}", "-"][: 2 + place % 2],
                "relation": label(part, table, place),
            }
            for table in tables(part)
            for place in range(3)
        ]
        (folder / f"{part}.jsonl").write_text("\n".join(json.dumps(record) for record in records) + "\n")


def write_turl_entities(folder: Path, label: Label) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("train", "test"):
        records = []
        for table in tables(part):
            cells = [[[row, place], f"mention {row}.{place} {table}"] for row in range(2) for place in range(2)]
            known = [["Ann", "singer", ["Person"]], ["Ann", "singer", ["Band"]], ["Bob", None, None], ["Cid", "x", []]]
            right = [TYPES.index(label(part, table, place)) for place in (0, 1, 2)]
            candidates = [[0, 1, 2], [2, 0, 1], [1, 2, 0], [2, 3]]
            records.append([table, "Page", "Part", "Part", ["", "name"], cells, known, [*right, -1], candidates])
        (folder / f"{part}.table_entity_linking.json").write_text(json.dumps(records))


def write_entity_pairs(folder: Path, label: Label) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("train", "test"):
        pairs: list[list[object]] = []
        for table in tables(part):
            right = TYPES.index(label(part, table, 0))
            pairs += [
                [f"cell &amp; {table}", f"entity {number} of {table}", int(number == right)] for number in range(3)
            ]
            pairs.append([f"lost {table}", f"no entity of {table}", 0])
        (folder / f"{part}.json").write_text(json.dumps(pairs))


def build(kind: str, base: Path, label: Label = truth, **options: Any) -> Dataset:
    """Write the small files of a layout below ``base`` and return the component that reads them."""
    folder = base / "set"
    given: dict[str, Any] = {"name": "mini", "root": str(base), "folder": "set", "publisher": "https://example.org"}
    if kind == "columns":
        write_columns(folder, label)
        return ColumnFiles(
            **{**given, "train": ["train.csv"], "test": ["test.csv"], "labels": "labels.json", **options}
        )
    if kind == "annotated":
        write_annotated(folder, label)
        return AnnotatedTables(**{**given, "truth": ["gt.csv"], "tables": ["tables"], "split": "uniform", **options})
    if kind == "archive":
        write_archive(folder / "set.tar.gz", archive_members(label))
        files = {"archive": "set.tar.gz", "truth": "Set/truth.csv", "tables": "Set/tables", "split": "uniform"}
        return TableArchive(**{**given, **files, **options})
    if kind == "turl_re":
        write_turl_relations(folder, label)
        return TurlRelations(**{**given, "few_shot_fraction": 0.5, **options})
    if kind == "headers":
        write_header_relations(folder, label)
        return HeaderRelations(**{**given, "few_shot_fraction": 0.3, **options})
    if kind == "turl_el":
        write_turl_entities(folder, label)
        return TurlEntities(**{**given, "few_shot_fraction": 0.3, **options})
    write_entity_pairs(folder, label)
    return EntityPairs(**{**given, "few_shot_fraction": 0.5, **options})


KINDS = ("columns", "annotated", "archive", "turl_re", "headers", "turl_el", "pairs")


def poison_of(kind: str, kept: Collection[str]) -> Label:
    """A label function that is wrong for everything but the items of a layout that are kept."""
    line = {table: 3 * number for number, table in enumerate(tables("train"))}
    # How (table, column) of the small files is named by each layout.
    names: dict[str, Callable[[str, int], str]] = {
        "headers": lambda table, place: str(line[table] + place + 1),
        "turl_el": lambda table, place: f"{table}/{('0,0', '0,1', '1,0')[place]}",
        "pairs": lambda table, place: f"cell & {table}",
    }
    names.setdefault(kind, lambda table, place: f"{table}/{place}")

    def poison(part: str, table: str, place: int) -> str:
        if part == "train" and names[kind](table, place) in kept:
            return truth(part, table, place)
        return TYPES[(place + 1) % 3]

    return poison


def unit(source: Source) -> UnitData:
    (data,) = source.units.values()
    return data


def readable(data: UnitData) -> list[Query]:
    return [sample.query for sample in (*data.train, *data.dev)]


def queries(data: UnitData) -> list[Query]:
    return [*readable(data), *data.pool, *data.test]


def item_id(query: Query) -> str:
    return query.id.split("/", 2)[2]


def table_of(query: Query) -> str:
    return item_id(query).split("/")[0]


@pytest.mark.parametrize("kind", KINDS)
class TestEveryLayout:
    def test_the_unit_is_sound(self, kind: str, tmp_path: Path) -> None:
        component = build(kind, tmp_path)
        assert isinstance(component, Dataset)
        assert not component.synthetic
        source = component.load()
        data = unit(source)
        assert data.train
        assert data.dev
        assert data.pool
        assert data.test
        everything = queries(data)
        assert len({query.id for query in everything}) == len(everything)
        assert set(source.gold[data.unit]) == {query.id for query in (*data.pool, *data.test)}
        for query in everything:
            assert query.unit == data.unit == f"mini.{query.task}"
            assert query.rows == ()
            assert len(query.entities) == 1
            assert query.target is None or query.target in query.entities[0]
        for sample in (*data.train, *data.dev):
            assert sample.label in (sample.query.options or data.options)
        for query in (*data.pool, *data.test):
            assert source.gold[data.unit][query.id]
        assert component.load() == source

    def test_limits_and_seeds(self, kind: str, tmp_path: Path) -> None:
        whole = unit(build(kind, tmp_path).load())
        some = unit(build(kind, tmp_path, max_train=3, max_test=2).load())
        assert (len(some.pool), len(some.test)) == (3, 2)
        assert {q.id for q in some.pool} < {q.id for q in whole.pool}
        assert {q.id for q in some.test} < {q.id for q in whole.test}
        assert some.train == whole.train
        other = unit(build(kind, tmp_path, data_seed=1).load())
        assert {q.id for q in readable(other)} != {q.id for q in readable(whole)}

    def test_hidden_labels_change_nothing_visible(self, kind: str, tmp_path: Path) -> None:
        before = unit(build(kind, tmp_path / "a").load())
        frozen = tmp_path / "ids.json"
        frozen.write_text(json.dumps([item_id(query) for query in readable(before)]))
        kept = {item_id(query) for query in readable(before)}
        poison = poison_of(kind, kept)
        options: dict[str, Any] = {"few_shot": "ids", "few_shot_ids": str(frozen)}
        same = build(kind, tmp_path / "a", **options).load()
        wrong = build(kind, tmp_path / "b", poison, **options).load()
        assert unit(same) == unit(wrong) == before
        changed = [
            query for query in same.gold[before.unit] if same.gold[before.unit][query] != wrong.gold[before.unit][query]
        ]
        assert len(changed) > 3

    def test_missing_files_are_named(self, kind: str, tmp_path: Path) -> None:
        component = build(kind, tmp_path)
        victim = component.files()[0]
        victim.unlink()
        with pytest.raises(DataError, match=victim.name):
            component.load()
        with pytest.raises(DataError, match=r"paths\.data=FOLDER; the files come from https://example\.org"):
            build(kind, tmp_path, root=None).files()

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"few_shot": "some"}, "few_shot='some'"),
            ({"few_shot": "ids"}, "no file of ids"),
            ({"few_shot_fraction": 0.0}, "few_shot_fraction"),
            ({"tasks": ["em"]}, "cannot be read as tasks"),
        ],
    )
    def test_bad_options(self, kind: str, tmp_path: Path, options: dict[str, Any], said: str) -> None:
        with pytest.raises(ConfigError, match=said):
            build(kind, tmp_path, **options).load()


class TestColumns:
    def test_columns_of_a_file(self, tmp_path: Path) -> None:
        component = build("columns", tmp_path, max_values=7)
        source = component.load()
        data = unit(source)
        assert data.options == ("City", "Person", "Year", "Never")
        assert {sample.label for sample in (*data.train, *data.dev)} == {"City", "Person", "Year"}
        query = next(query for query in data.test if item_id(query) == "te0/1")
        assert query.entities == ({"column": "", "values": "person 0 of te0 person 1 of", "other columns": ""},)
        assert source.gold["mini.cta"][query.id] == ("Person",)
        assert (len(data.train) + len(data.dev), len(data.pool), len(data.test)) == (9, 27, 15)

    def test_separated_values_are_distinct_and_limited(self, tmp_path: Path) -> None:
        write_csv(
            tmp_path / "set/train.csv",
            ("table_id", "col_idx", "class", "data"),
            [(f"t{row}", "0", "city", "Rome|Rome||New  York|Oslo") for row in range(9)],
        )
        component = ColumnFiles("mini", str(tmp_path), "set", ["train.csv"], value_separator="|", max_values=2)
        assert {query.entities[0]["values"] for query in queries(unit(component.load()))} == {"Rome | New York"}

    def test_training_columns_of_tested_tables_are_left_out(self, tmp_path: Path) -> None:
        component = build("columns", tmp_path)
        with (tmp_path / "set/train.csv").open("a") as file:
            file.write("te0,9,city,7,Rome\nte1,8,city,7,Oslo\nTR0,9,city,7,Rome\ntr0,0,city,7,twice\n")
        source = component.load()
        assert not {"te0/9", "te1/8"} & {item_id(query) for query in queries(unit(source))}
        assert "TR0/9" in {item_id(query) for query in queries(unit(source))}
        assert any("2 training items of tables that are tested" in note for note in source.notes)
        assert any("1 columns occur more than once" in note for note in source.notes)

    def test_folder_of_tables(self, tmp_path: Path) -> None:
        component = build("annotated", tmp_path)
        files = component.files()
        assert {path.suffix for path in files} == {".csv", ".json"}
        assert len(files) == 1 + len(tables("train"))
        source = component.load()
        found = {item_id(query): query for query in queries(unit(source))}
        for table in ("tr0", "tr1"):  # one JSON, one CSV
            assert found[f"{table}/1"].entities[0] == {
                "column": "head1",
                "values": " | ".join(values(table, 1)),
                "other columns": "head0, head2",
            }
        assert any("1 labelled columns belong to tables that are not there" in note for note in source.notes)

    def test_rounds_may_share_table_names(self, tmp_path: Path) -> None:
        for name in ("one", "two"):
            write_annotated(tmp_path / "set" / name, truth)
        component = AnnotatedTables(
            "mini", str(tmp_path), "set", ["one/gt.csv", "two/gt.csv"], ["one/tables", "two/tables"]
        )
        assert len(queries(unit(component.load()))) == 2 * 3 * len(tables("train"))
        with pytest.raises(ConfigError, match="2 ground truth files and 1 folders"):
            AnnotatedTables("mini", str(tmp_path), "set", ["a", "b"], ["a"])

    def test_archive(self, tmp_path: Path) -> None:
        before = sorted(tmp_path.rglob("*"))
        component = build("archive", tmp_path, title="unused")
        source = component.load()
        assert len(sorted(tmp_path.rglob("*"))) == len(before) + 2  # the folder and the archive: nothing was extracted
        data = unit(source)
        for table in ("tr0", "tr1"):  # UTF-8 and latin-1
            query = next(query for query in queries(data) if item_id(query) == f"{table}/2")
            assert query.title == f"title of {table} - Café"
            assert query.entities[0]["column"] == "head2"
            assert query.entities[0]["values"].startswith(f"year 0 of {table} | year 1")
        assert all(answers[1:] == ("thing",) for answers in source.gold["mini.cta"].values())
        assert all(sample.label != "thing" for sample in (*data.train, *data.dev))
        assert any("6 tables are not UTF-8" in note for note in source.notes)
        assert any("no published label list" in note for note in source.notes)
        assert data.options == ("city", "person", "thing", "year")

    def test_a_frozen_stratified_split_survives_other_hidden_labels(self, tmp_path: Path) -> None:
        before = unit(build("archive", tmp_path / "a", split="stratified").load())
        kept = {item_id(query) for query in readable(before)}
        for name, ids in (("items", sorted(kept)), ("tables", sorted({table_of(query) for query in before.test}))):
            (tmp_path / f"{name}.json").write_text(json.dumps(ids))

        def poison(part: str, table: str, place: int) -> str:
            return truth(part, table, place) if f"{table}/{place}" in kept else "poison"

        frozen: dict[str, Any] = {
            "few_shot": "ids",
            "few_shot_ids": str(tmp_path / "items.json"),
            "split": "ids",
            "split_ids": str(tmp_path / "tables.json"),
        }
        component = build("archive", tmp_path / "b", poison, **frozen)
        assert {path.name for path in component.files()} == {"set.tar.gz", "items.json", "tables.json"}
        assert unit(component.load()) == before

    def test_web_tables_by_rows(self) -> None:
        text = json.dumps({"contents": [[{"data": "a &amp; b"}, {"data": 1.50}], [{"data": "c"}], []]})
        table = parse_table(text, ".json", "t", "t")
        assert table == ("", ("", ""), (("a & b", "c", ""), ("1.5", "", "")))
        assert parse_table('h\n"a\nb",c\n', ".csv", "t", "t") == ("", ("h", ""), (("a\nb",), ("c",)))
        assert parse_table("h\na\n", ".csv", "t", "t", header=False).columns == (("h", "a"),)
        ragged = {"relation": [["x", "1"], ["y"]], "hasHeader": False, "headerRowIndex": 0}
        assert parse_table(json.dumps(ragged), ".json", "t", "t").columns == (("x", "1"), ("y", ""))

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("[]", "is no table"),
            ('{"relation": [1]}', r"no list there[\s\S]*field relation, entry 0"),
            ('{"relation": [[["x"]]]}', r"a cell that is no text[\s\S]*entry 0"),
            ('{"contents": {}}', "no list there"),
            ('{"relation": [["x"]', r"not well-formed JSON[\s\S]*line 1, column 20"),
        ],
    )
    def test_bad_tables(self, text: str, said: str) -> None:
        with pytest.raises(DataError, match=said):
            parse_table(text, ".json", "t.json", "t.json")

    def test_half_a_surrogate_pair_can_be_written(self) -> None:
        table = parse_table('{"relation": [["a\\ud800b"]]}', ".json", "t", "t")
        assert table.columns[0][0].encode("utf-8") == b"a?b"

    def test_bad_csv_table_names_the_line(self) -> None:
        with pytest.raises(DataError, match=r"not well-formed CSV[\s\S]*line 2"):
            parse_table('a,b\n"x"y,1\n', ".csv", "t.csv", "t.csv")

    @pytest.mark.parametrize(
        ("line", "joined"),
        [
            ("t,x,city", False),
            ("t," + "9" * 5000 + ",city", False),
            ("t,0", False),
            ("t,0, ", False),
            (",0,city", False),
            ("t 0", True),
            ("t,city", True),
        ],
    )
    def test_bad_truth_names_the_line(self, line: str, joined: bool) -> None:
        good = '"t 0","city"' if joined else "t,0,city"
        with pytest.raises(DataError, match=r"does not name a table[\s\S]*gt\.csv, line 2"):
            read_truth(f"{good}\n{line}\n", "gt.csv", "gt.csv", joined=joined)

    def test_truth(self) -> None:
        (line,) = read_truth('"a b 12","City","Place"\n', "gt", "gt", joined=True)
        assert line[:3] == ("a b", 12, ("City", "Place"))
        (line,) = read_truth("t,3,http://x.org/ontology/City http://x.org/y#Place\n", "gt", "gt", joined=False)
        assert line[:3] == ("t", 3, ("City", "Place"))

    def test_columns_outside_the_table_are_refused(self, tmp_path: Path) -> None:
        component = build("annotated", tmp_path)
        with (tmp_path / "set/gt.csv").open("a") as file:
            file.write("tr0,3,city\n")
        with pytest.raises(DataError, match=r"column 3 of table 'tr0', which has 3 columns[\s\S]*line 38"):
            component.load()

    @pytest.mark.parametrize("table", ["../../secret", "a/b", ".."])
    def test_tables_stay_in_their_folder(self, tmp_path: Path, table: str) -> None:
        component = build("annotated", tmp_path)
        with (tmp_path / "set/gt.csv").open("a") as file:
            file.write(f"{table},0,city\n")
        with pytest.raises(DataError, match="no file name"):
            component.files()

    @pytest.mark.parametrize("member", ["../escape", "/etc/passwd", "Set/../../x", "a\\b"])
    def test_members_outside_the_archive_are_refused(self, tmp_path: Path, member: str) -> None:
        path = write_archive(tmp_path / "x.tar.gz", {"fine": b"1", member: b"2"})
        with pytest.raises(DataError, match=r"outside the archive[\s\S]*member"):
            read_members(path, lambda name: True)

    def test_links_are_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "x.tar.gz"
        with tarfile.open(path, "w:gz") as archive:
            info = tarfile.TarInfo("link")
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(info)
        with pytest.raises(DataError, match=r"no plain file[\s\S]*member link"):
            read_members(path, lambda name: True)

    def test_large_and_broken_archives_are_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = write_archive(tmp_path / "x.tar.gz", {"a": b"1" * 600, "b": b"2" * 600})
        assert read_members(path, lambda name: name == "b") == {"b": b"2" * 600}
        for limit, value in (("MAX_MEMBER_BYTES", 599), ("MAX_ARCHIVE_BYTES", 1199), ("MAX_MEMBERS", 1)):
            with monkeypatch.context() as patch:
                patch.setattr(web_tables, limit, value)
                with pytest.raises(DataError, match="larger than expected"):
                    read_members(path, lambda name: True)
        for content in (b"", b"no archive", path.read_bytes()[:60]):
            path.write_bytes(content)
            with pytest.raises(DataError, match=r"no readable \.tar\.gz"):
                read_members(path, lambda name: True)

    def test_an_archive_without_truth_or_tables(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no member 'other'"):
            build("archive", tmp_path, truth="other").load()
        with pytest.raises(DataError, match="None of the tables"):
            build("archive", tmp_path, tables="Set/elsewhere").load()


class TestRelations:
    def test_turl(self, tmp_path: Path) -> None:
        source = build("turl_re", tmp_path, max_values=2).load()
        data = unit(source)
        assert data.options == ("person", "year", "alt", "other")
        assert len(data.test) == 2 * len(tables("test"))
        query = next(query for query in data.test if item_id(query) == "te0/2")
        # Row 0 has no subject, so the rows that have both come first.
        assert query.entities[0] == {
            "subject column": "subject",
            "object column": "h2",
            "subject values": "city 1 of te0 | city 2 of te0",
            "object values": "year 1 of te0 | year 2 of te0",
        }
        assert query.title == "Page - Section"
        assert source.gold["mini.re"][query.id] == ("year", "alt")

    def test_pairs_without_a_relation_are_left_out(self, tmp_path: Path) -> None:
        component = build("turl_re", tmp_path)
        path = tmp_path / "set/train.table_rel_extraction.json"
        records = json.loads(path.read_text())
        records[0][7][0] = []
        path.write_text(json.dumps(records))
        source = component.load()
        assert "tr0/1" not in {item_id(query) for query in queries(unit(source))}
        assert any("1 column pairs without a relation in train" in note for note in source.notes)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda table: table.pop(), r"no list of 8 fields[\s\S]*table 1"),
            (lambda table: table[5].pop(), r"2 headers, 3 columns of entities and 2 lists[\s\S]*table 1"),
            (lambda table: table.__setitem__(7, "x"), r"no list there[\s\S]*table 1, field relations"),
            (
                lambda table: table[6][2].append([[0], "x"]),
                r"a cell that is not[\s\S]*table 1, field entities, column 2",
            ),
        ],
    )
    def test_bad_turl_files(self, tmp_path: Path, change: Callable[[list[Any]], Any], said: str) -> None:
        component = build("turl_re", tmp_path)
        path = tmp_path / "set/train.table_rel_extraction.json"
        records = json.loads(path.read_text())
        change(records[1])
        path.write_text(json.dumps(records))
        with pytest.raises(DataError, match=said):
            component.load()

    def test_headers(self, tmp_path: Path) -> None:
        source = build("headers", tmp_path).load()
        data = unit(source)
        query = data.test[1]
        assert query.entities[0]["subject column"] == "s1"
        assert query.entities[0]["object column"] == "o1"  # the third header is a dash
        assert query.title == "about te0"
        assert source.gold["mini.re"][query.id] == ("person",)
        assert any("12 lines of train.jsonl have more than two headers" in note for note in source.notes)

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ("{", "not well-formed JSON"),
            ("[]", "without the field 'table_title'"),
            ('{"table_title": "x", "headers": ["a"], "relation": "r"}', "without two headers"),
            ('{"table_title": "x", "headers": ["a", "b"], "relation": ""}', "without a relation"),
            ('{"table_title": "x", "headers": "ab", "relation": "r"}', "no list there"),
        ],
    )
    def test_bad_lines(self, tmp_path: Path, line: str, said: str) -> None:
        component = build("headers", tmp_path)
        path = tmp_path / "set/test.jsonl"
        path.write_text(path.read_text() + "\n" + line + "\n")
        with pytest.raises(DataError, match=rf"{said}[\s\S]*test\.jsonl, line 17"):
            component.load()


class TestEntities:
    def test_turl(self, tmp_path: Path) -> None:
        source = build("turl_el", tmp_path).load()
        data = unit(source)
        assert len(data.test) == 3 * len(tables("test"))
        found = {item_id(query): query for query in data.test}
        query = found["te0/0,1"]
        assert query.target == "cell"
        assert query.entities[0] == {"cell": "mention 0.1 te0", "column": "name", "column 1": "mention 0.0 te0"}
        # Equal texts are told apart by their types; the published order tells nothing.
        assert query.options == ("Ann - singer (Band)", "Ann - singer (Person)", "Bob")
        assert [source.gold["mini.el"][found[f"te0/{cell}"].id] for cell in ("0,0", "0,1", "1,0")] == [
            ("Ann - singer (Person)",),
            ("Ann - singer (Band)",),
            ("Bob",),
        ]
        assert query.title == "Page - Part"
        assert any("5 cells of test.table_entity_linking.json have no right candidate" in note for note in source.notes)

    def test_unlinkable_cells_may_be_asked(self, tmp_path: Path) -> None:
        for kind, query_id in (("turl_el", "mini.el/test/te0/1,1"), ("pairs", "mini.el/test/lost te0")):
            source = build(kind, tmp_path / kind, unlinkable="nil").load()
            data = unit(source)
            assert source.gold["mini.el"][query_id] == (NIL,)
            assert all(query.options[-1] == NIL and query.options.count(NIL) == 1 for query in queries(data))
        with pytest.raises(ConfigError, match="min_candidates"):
            build("pairs", tmp_path, unlinkable="nil", min_candidates=3)
        with pytest.raises(ConfigError, match="unlinkable='ask'"):
            build("pairs", tmp_path, unlinkable="ask")

    @pytest.mark.parametrize(
        ("field", "value", "said"),
        [
            (5, [[[0, 0], "x"]], "1 cells, 4 labels and 4 lists"),
            (7, [0, 1, 9, -1], r"names candidate 9 of 4[\s\S]*cell \[1, 0\]"),
            (8, [[0], [0], [0], [-1]], "names candidate -1 of 4"),
            (6, [["Ann"]], r"a candidate that is not[\s\S]*candidate 0"),
            (4, ["one"], r"a cell \[0, 1\] that is there twice or under no header"),
            (5, None, "no list of cells"),
        ],
    )
    def test_bad_turl_files(self, tmp_path: Path, field: int, value: object, said: str) -> None:
        component = build("turl_el", tmp_path)
        path = tmp_path / "set/test.table_entity_linking.json"
        records = json.loads(path.read_text())
        records[2][field] = value
        path.write_text(json.dumps(records))
        with pytest.raises(DataError, match=rf"{said}[\s\S]*fix") as caught:
            component.load()
        assert "table 2" in caught.value.where

    def test_pairs(self, tmp_path: Path) -> None:
        source = build("pairs", tmp_path).load()
        data = unit(source)
        query = next(query for query in data.test if item_id(query) == "cell & te0")
        assert query.entities == ({"cell": "cell & te0"},)
        assert query.options == tuple(f"entity {number} of te0" for number in range(3))
        assert source.gold["mini.el"][query.id] == ("entity 0 of te0",)
        assert any("17 cells of the files have no right candidate; they were left out" in note for note in source.notes)

    def test_cells_of_both_files_are_one_cell(self, tmp_path: Path) -> None:
        component = build("pairs", tmp_path)
        path = tmp_path / "set/train.json"
        path.write_text(json.dumps([*json.loads(path.read_text()), ["cell & te0", "only in train", 0]]))
        source = component.load()
        (query,) = [query for query in queries(unit(source)) if item_id(query) == "cell & te0"]
        assert query in unit(source).test
        assert "only in train" in query.options

    def test_filling_reads_no_label(self, tmp_path: Path) -> None:
        data = unit(build("pairs", tmp_path, min_candidates=4).load())
        assert all(len(query.options) >= 4 for query in queries(data))
        assert all(list(query.options) == sorted(query.options) for query in queries(data))
        filled = fill_candidates({"red fox": ["a fox"], "blue": ["blue sky"], "x": ["red wine", "the fox red"]}, 2)
        assert filled == {
            "red fox": ["a fox", "the fox red"],
            "blue": ["blue sky"],  # no other entity shares a word
            "x": ["red wine", "the fox red"],
        }

    def test_long_candidates_are_shortened_unless_they_become_equal(self, tmp_path: Path) -> None:
        component = build("pairs", tmp_path, max_option_chars=9)
        path = tmp_path / "set/test.json"
        pairs = [["c", "alpha beta gamma", 1], ["c", "alpha other", 0], ["c", "zeta eta theta", 0]]
        path.write_text(json.dumps(pairs))
        (query,) = unit(component.load()).test
        assert query.options == ("alpha beta gamma", "alpha other", "zeta eta ...")

    @pytest.mark.parametrize("entry", [["a", "b"], ["a", "b", 2], "abc", ["", "b", 1], ["a", "", 0]])
    def test_bad_pairs(self, tmp_path: Path, entry: object) -> None:
        component = build("pairs", tmp_path)
        path = tmp_path / "set/test.json"
        path.write_text(json.dumps([*json.loads(path.read_text()), entry]))
        with pytest.raises(DataError, match=r"test\.json, entry 20"):
            component.load()


ITEMS = st.lists(st.tuples(st.integers(0, 12), st.sampled_from("abc")), min_size=4, max_size=60).map(
    lambda drawn: [Item(str(n), f"t{group}", {}, (label,)) for n, (group, label) in enumerate(drawn)]
)


class TestSplit:
    @given(items=ITEMS, split=st.sampled_from(["stratified", "uniform"]), seed=st.integers(0, 5))
    @settings(max_examples=80, deadline=None)
    def test_no_table_is_on_both_sides(self, items: list[Item], split: str, seed: int) -> None:
        try:
            train, test = split_items("mini", items, split, 0.3, seed)
        except DataError:
            return  # too few tables for both sides, which is said
        assert not {item.group for item in train} & {item.group for item in test}
        assert sorted([*train, *test]) == sorted(items)

    def test_each_label_gets_its_share(self) -> None:
        items = [Item(str(n), f"t{n // 2}", {}, ("abbbccccc"[n % 9],)) for n in range(900)]
        _, test = split_items("mini", items, "stratified", 0.2, 0)
        counts = Counter(item.answers[0] for item in test)
        assert all(abs(counts[label] - share) <= 6 for label, share in (("a", 20), ("b", 60), ("c", 100)))

    def test_a_single_item_is_tested_as_often_as_any(self) -> None:
        items = [Item("rare", "r", {}, ("rare",)), *(Item(str(n), f"t{n}", {}, ("often",)) for n in range(20))]
        tested = sum("rare" in {i.id for i in split_items("mini", items, "stratified", 0.3, s)[1]} for s in range(200))
        assert 35 < tested < 85  # 60 on average

    @given(items=ITEMS)
    @settings(max_examples=40, deadline=None)
    def test_uniform_split_reads_no_label(self, items: list[Item]) -> None:
        other = [item._replace(answers=("z",)) for item in items]
        try:
            first, second = (split_items("mini", them, "uniform", 0.4, 1) for them in (items, other))
        except DataError:
            return
        assert [[item.id for item in side] for side in first] == [[item.id for item in side] for side in second]

    def test_frozen_tables(self, tmp_path: Path) -> None:
        items = [Item(str(n), f"t{n // 2}", {}, ("a",)) for n in range(8)]
        path = tmp_path / "test.csv"
        path.write_text("table\nt2\nt0\n")
        _, test = split_items("mini", items, "ids", 0.5, 0, ids_path=str(path))
        assert [item.id for item in test] == ["0", "1", "4", "5"]
        path.write_text("table\nt9\n")
        with pytest.raises(DataError, match="the first is 't9'"):
            split_items("mini", items, "ids", 0.5, 0, ids_path=str(path))
        with pytest.raises(ConfigError, match="split_ids"):
            split_items("mini", items, "ids", 0.5, 0)

    @pytest.mark.parametrize(("split", "fraction"), [("other", 0.2), ("uniform", 0.0), ("stratified", 1.0)])
    def test_bad_options(self, split: str, fraction: float) -> None:
        with pytest.raises(ConfigError):
            split_items("mini", [Item("0", "t", {}, ("a",))], split, fraction, 0)

    def test_one_table_cannot_be_split(self) -> None:
        with pytest.raises(DataError, match="of 1 tables"):
            split_items("mini", [Item(str(n), "t", {}, ("a",)) for n in range(9)], "uniform", 0.2, 0)


class TestAssembly:
    def test_sample_sizes(self) -> None:
        items = [Item(str(n), str(n), {}, ("ab"[n % 4 == 0],)) for n in range(40)]
        assert len(sample_items("mini", items, "stratified", None, 0.25, 0)) == 10
        chosen = sample_items("mini", items, "stratified", 8, 0.25, 0)
        assert Counter(items[place].answers[0] for place in chosen) == {"a": 6, "b": 2}
        assert len(sample_items("mini", items, "uniform", 99, 0.25, 0)) == 40

    def test_options_do_not_tell_hidden_labels(self) -> None:
        train = [Item(str(n), f"t{n}", {}, ("hidden" if n else "seen",)) for n in range(10)]
        test = [Item("x", "x", {}, ("other",))]
        seen = next(n for n in range(50) if sample_items("mini", train, "uniform", 1, 1.0, n) == [0])
        source = assemble_labelled(
            name="mini", task="cta", train=train, test=test, data_seed=seen, few_shot="uniform", n_few_shot=1
        )
        assert unit(source).options == ("seen",)
        listed = assemble_labelled(
            name="mini",
            task="cta",
            train=train,
            test=test,
            data_seed=seen,
            few_shot="uniform",
            n_few_shot=1,
            labels=["B"],
        )
        assert unit(listed).options == ("B", "seen")
        assert listed.gold["mini.cta"]["mini.cta/test/x"] == ("other",)

    def test_case_follows_the_list_only_where_it_is_clear(self) -> None:
        train = [Item(str(n), f"t{n}", {}, (("birthDate", "CITY", "Year")[n % 3],)) for n in range(9)]
        source = assemble_labelled(
            name="mini", task="cta", train=train, test=[Item("x", "x", {}, ("BIRTHDATE",))], data_seed=0,
            labels=["birthdate", "city", "City", "Year"], n_few_shot=6,
        )  # fmt: skip
        labels = {sample.label for sample in (*unit(source).train, *unit(source).dev)}
        assert labels == {"birthdate", "CITY", "Year"}
        assert source.gold["mini.cta"]["mini.cta/test/x"] == ("birthdate",)

    def test_no_items(self) -> None:
        with pytest.raises(DataError, match="no labelled items"):
            assemble_labelled(name="mini", task="cta", train=[], test=None, data_seed=0)

    @pytest.mark.parametrize(
        ("name", "text", "expected"),
        [
            ("a.json", '{"x": 0, "y": 1}', ("x", "y")),
            ("a.json", '["y", "x"]', ("y", "x")),
            ("a.txt", "\ufeff0\tx y\t5\r\n1\tz\r\n\r\n", ("x y", "z")),
            ("a.txt", "x\nx\ny\tignored\n", ("x", "y")),
        ],
    )
    def test_label_lists(self, tmp_path: Path, name: str, text: str, expected: tuple[str, ...]) -> None:
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert read_labels(tmp_path / name) == expected

    @pytest.mark.parametrize(
        ("name", "text"), [("a.json", "3"), ("a.json", "[1, [2]]"), ("a.json", "[]"), ("a.txt", "\n")]
    )
    def test_bad_label_lists(self, tmp_path: Path, name: str, text: str) -> None:
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match="no list of labels"):
            read_labels(tmp_path / name)

    def test_wrong_encoding_names_the_line(self, tmp_path: Path) -> None:
        path = tmp_path / "labels.txt"
        path.write_bytes(b"x\ncaf\xe9\n")
        with pytest.raises(DataError, match=r"not utf-8[\s\S]*line 2"):
            read_labels(path)
        assert read_labels(path, "latin-1") == ("x", "café")
        with pytest.raises(ConfigError, match="no encoding 'utf-9'"):
            read_labels(path, "utf-9")

    @given(cells=st.lists(st.text("ab \n", max_size=5), max_size=12), limit=st.integers(1, 5))
    def test_shown_values(self, cells: list[str], limit: int) -> None:
        shown = [part for part in show_values(cells, limit).split(" | ") if part]
        known = {" ".join(cell.split()) for cell in cells} - {""}
        assert len(shown) == min(limit, len(known))
        assert len(set(shown)) == len(shown)
        assert set(shown) <= known


@pytest.mark.data
class TestPublishedFiles:
    def test_webtables(self, real_data: str) -> None:
        component = ColumnFiles(
            "webtables", real_data, "cta/WebTables", ["VizNet_chorus_test.csv"], labels="label_dict.json"
        )
        _need(component)
        source = component.load()
        data = unit(source)
        assert len(data.options) == 77
        # 1,000 rows of 10 types; some columns were drawn more than once.
        assert len(queries(data)) == 840
        assert any("160 columns occur more than once" in note for note in source.notes)
        labels = {label for answers in source.gold["webtables.cta"].values() for label in answers}
        assert labels <= set(data.options)
        assert len(labels) == 10

    @pytest.mark.parametrize(
        ("folder", "archive", "truth_member", "members", "count"),
        [
            ("cta/T2Dv2", "T2D.tar.gz", "T2D/col_cls.csv", "T2D/tables", 394),
            ("cta/Limaye", "Limaye.tar.gz", "Limaye/Limaye_col_cls.csv", "Limaye/table_instance_json", 214),
        ],
    )
    def test_archives(
        self, real_data: str, folder: str, archive: str, truth_member: str, members: str, count: int
    ) -> None:
        component = TableArchive("web", real_data, folder, archive, truth_member, members)
        _need(component)
        data = unit(component.load())
        assert len(queries(data)) == count
        assert all(query.entities[0]["values"] for query in queries(data))
        assert not {table_of(query) for query in data.test} & {
            table_of(query) for query in (*readable(data), *data.pool)
        }

    def test_wikigs_re(self, real_data: str) -> None:
        component = HeaderRelations("wikigs_re", real_data, "re/WikiGS-RE")
        _need(component)
        source = component.load()
        data = unit(source)
        assert len(data.test) == 2072
        assert len(readable(data)) + len(data.pool) == 2140 - 33
        assert len({answers for query, answers in source.gold["wikigs_re.re"].items() if "/test/" in query}) == 108

    def test_limaye(self, real_data: str) -> None:
        component = EntityPairs("limaye_el", real_data, "el/Limaye", test="valid.json")
        _need(component)
        source = component.load()
        data = unit(source)
        assert (len(readable(data)) + len(data.pool), len(data.test)) == (327, 147)
        assert all(source.gold["limaye_el.el"][query.id][0] in query.options for query in (*data.pool, *data.test))


def _need(component: Dataset) -> None:
    try:
        component.files()
    except UserError as error:
        pytest.skip(error.what)
