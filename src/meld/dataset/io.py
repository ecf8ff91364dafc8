"""Units, samples, labels and predictions as Parquet, and the digest of what a unit shows.

Files hold no times or paths, so the same content gives the same bytes. Queries name the rows of their tables instead of
repeating them, and loaded queries share the entity objects of their tables (or of each other, where there is no table).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from meld.dataset.reading import reading
from meld.errors import DataError
from meld.types import Entity, Gold, Prediction, Query, Sample, Table, UnitData

_TEXTS = pa.list_(pa.string())
_QUERY = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("unit", pa.string()),
        pa.field("task", pa.string()),
        # One JSON list of [attribute, value] pairs per entity; null where it is the table's row that `rows` names.
        pa.field("entities", _TEXTS),
        pa.field("rows", _TEXTS),
        pa.field("target", pa.string()),
        pa.field("title", pa.string()),
        pa.field("context", pa.list_(pa.struct([("name", pa.string()), ("value", pa.string())]))),
        pa.field("options", _TEXTS),
    ]
)
_SAMPLE = pa.schema(
    [*_QUERY, pa.field("label", pa.string()), pa.field("provenance", pa.string()), pa.field("confidence", pa.float64())]
)
_GOLD = pa.schema([pa.field("query_id", pa.string()), pa.field("answers", _TEXTS)])
_TABLE = pa.schema([pa.field("id", pa.string()), pa.field("values", _TEXTS)])
_PREDICTION = pa.schema(
    [
        pa.field("query_id", pa.string()),
        pa.field("output", pa.string()),
        pa.field("score", pa.float64()),
        pa.field("status", pa.string()),
        pa.field("experts", _TEXTS),
        pa.field("weights", pa.list_(pa.float64())),
        pa.field("options", _TEXTS),
        pa.field("raw", pa.string()),
    ]
)
_PARTS = ("train", "dev", "pool", "test")
_Asked = TypeVar("_Asked", Query, Sample)


def save_unit(data: UnitData, folder: Path | str) -> None:
    """Write a unit into a folder: ``unit.json``, ``table_<n>.parquet``, and ``train``, ``dev``, ``pool`` and ``test``
    as Parquet.

    Raises:
        DataError: If a row of a table does not have exactly the table's columns, in their order.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    described = []
    for number, (key, table) in enumerate(data.tables.items()):
        for record, entity in table.rows.items():
            if tuple(entity) != table.columns:
                raise DataError(
                    f"A row of table {table.name} does not have the table's columns {list(table.columns)}.",
                    where=f"{data.unit}, record {record}: {list(entity)}",
                    fix="give every row every column, the empty string for a missing value",
                )
        values = [list(entity.values()) for entity in table.rows.values()]
        _write({"id": list(table.rows), "values": values}, _TABLE, folder / f"table_{number}.parquet")
        described.append({"key": key, "name": table.name, "title": table.title, "columns": list(table.columns)})
    head = {"unit": data.unit, "dataset": data.dataset, "task": data.task, "tables": described}
    head["options"] = list(data.options)
    (folder / "unit.json").write_text(json.dumps(head, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    by_name = {table.name: table for table in data.tables.values()}
    _write(_sample_columns(data.train, by_name), _SAMPLE, folder / "train.parquet")
    _write(_sample_columns(data.dev, by_name), _SAMPLE, folder / "dev.parquet")
    _write(_query_columns(data.pool, by_name), _QUERY, folder / "pool.parquet")
    _write(_query_columns(data.test, by_name), _QUERY, folder / "test.parquet")


def load_unit(folder: Path | str) -> UnitData:
    """Read what ``save_unit`` wrote.

    Raises:
        DataError: Naming the file that is damaged.
    """
    folder = Path(folder)
    with reading(folder / "unit.json"):
        head = json.loads((folder / "unit.json").read_text(encoding="utf-8"))
        unit, dataset, task, options = head["unit"], head["dataset"], head["task"], tuple(head["options"])
        described = [(one["key"], one["name"], one["title"], tuple(one["columns"])) for one in head["tables"]]
    tables: dict[str, Table] = {}
    for number, (key, name, title, columns) in enumerate(described):
        file = folder / f"table_{number}.parquet"
        with reading(file):
            content = _read(file, _TABLE)
            rows = {
                record: dict(zip(columns, values, strict=True))
                for record, values in zip(content["id"], content["values"], strict=True)
            }
            tables[key] = Table(name, title, columns, rows)
    by_name = {table.name: table for table in tables.values()}
    seen: dict[str, Entity] = {}
    train, dev = (tuple(_load(folder / f"{part}.parquet", _SAMPLE, _samples, by_name, seen)) for part in _PARTS[:2])
    pool, test = (tuple(_load(folder / f"{part}.parquet", _QUERY, _queries, by_name, seen)) for part in _PARTS[2:])
    return UnitData(unit, dataset, task, tables, train, dev, pool, test, options)


def save_gold(gold: Gold, path: Path | str) -> None:
    """Write hidden labels: columns ``query_id`` and ``answers``."""
    _write({"query_id": list(gold), "answers": [list(answers) for answers in gold.values()]}, _GOLD, Path(path))


def load_gold(path: Path | str) -> dict[str, tuple[str, ...]]:
    """Read what ``save_gold`` wrote."""
    content = _read(Path(path), _GOLD)
    return {query: tuple(answers) for query, answers in zip(content["query_id"], content["answers"], strict=True)}


def save_samples(samples: Sequence[Sample], path: Path | str) -> None:
    """Write samples with their queries' entities, readable without any table."""
    _write(_sample_columns(samples, {}), _SAMPLE, Path(path))


def load_samples(path: Path | str) -> list[Sample]:
    """Read what ``save_samples`` wrote; equal entities become one object.

    Raises:
        DataError: If the file is damaged.
    """
    return _load(Path(path), _SAMPLE, _samples, {}, {})


def save_queries(queries: Sequence[Query], path: Path | str) -> None:
    """Write queries with their entities, readable without any table."""
    _write(_query_columns(queries, {}), _QUERY, Path(path))


def load_queries(path: Path | str) -> list[Query]:
    """Read what ``save_queries`` wrote; equal entities become one object."""
    return _queries(_read(Path(path), _QUERY), {}, {})


def save_predictions(predictions: Sequence[Prediction], path: Path | str) -> None:
    """Write predictions, one row each, in the order given."""
    columns: dict[str, list[Any]] = {
        "query_id": [prediction.query_id for prediction in predictions],
        "output": [prediction.output for prediction in predictions],
        "score": [prediction.score for prediction in predictions],
        "status": [prediction.status for prediction in predictions],
        "experts": [list(prediction.experts) for prediction in predictions],
        "weights": [list(prediction.weights) for prediction in predictions],
        "options": [list(prediction.options) for prediction in predictions],
        "raw": [prediction.raw for prediction in predictions],
    }
    _write(columns, _PREDICTION, Path(path))


def load_predictions(path: Path | str) -> list[Prediction]:
    """Read predictions; further columns, such as ``gold`` and ``correct``, are passed over."""
    content = _read(Path(path), _PREDICTION)
    return [
        Prediction(query, output, score, status, tuple(experts), tuple(weights), tuple(options), raw)
        for query, output, score, status, experts, weights, options, raw in zip(
            *(content[name] for name in _PREDICTION.names), strict=True
        )
    ]


def digest_unit(data: UnitData) -> str:
    """SHA-256 of everything the unit shows, as 64 hex digits.

    The order of rows, samples and queries counts, since results may depend on it; the order in which tables are listed
    does not. Hidden labels are not in a unit, so they cannot change the digest.
    """
    digest = hashlib.sha256()

    def add(*parts: object) -> None:
        digest.update(json.dumps(parts, ensure_ascii=True, separators=(",", ":")).encode())
        digest.update(b"\n")

    by_name = {table.name: table for table in data.tables.values()}
    add("unit", data.unit, data.dataset, data.task)
    for key in sorted(data.tables):
        table = data.tables[key]
        add("table", key, table.name, table.title, table.columns)
        for record, entity in table.rows.items():
            add(record, list(entity.items()))
    for part, samples in (("train", data.train), ("dev", data.dev)):
        add(part)
        for sample in samples:
            add(_query_key(sample.query, by_name), sample.label, sample.provenance, sample.confidence)
    for part, queries in (("pool", data.pool), ("test", data.test)):
        add(part)
        for query in queries:
            add(_query_key(query, by_name))
    if data.options:
        add("options", data.options)
    return digest.hexdigest()


def _query_key(query: Query, tables: Mapping[str, Table]) -> list[object]:
    return [
        query.id,
        query.unit,
        query.task,
        _lean(query, tables),
        query.rows,
        query.target,
        query.title,
        query.context,
        *([query.options] if query.options else []),
    ]


def _lean(query: Query, tables: Mapping[str, Table]) -> list[str | None]:
    """The query's entities as JSON, None for each that is exactly the row it names."""
    found: list[str | None] = []
    for place, entity in enumerate(query.entities):
        row = _row(query.rows[place], tables) if place < len(query.rows) else None
        same = row is entity or (row is not None and list(row.items()) == list(entity.items()))
        found.append(None if same else json.dumps(list(entity.items()), ensure_ascii=False))
    return found


def _row(reference: str, tables: Mapping[str, Table]) -> Entity | None:
    name, _, record = reference.partition(":")
    return tables[name].rows.get(record) if name in tables else None


def _query_columns(queries: Sequence[Query], tables: Mapping[str, Table]) -> dict[str, list[Any]]:
    return {
        "id": [query.id for query in queries],
        "unit": [query.unit for query in queries],
        "task": [query.task for query in queries],
        "entities": [_lean(query, tables) for query in queries],
        "rows": [list(query.rows) for query in queries],
        "target": [query.target for query in queries],
        "title": [query.title for query in queries],
        "context": [[{"name": name, "value": value} for name, value in query.context] for query in queries],
        "options": [list(query.options) for query in queries],
    }


def _sample_columns(samples: Sequence[Sample], tables: Mapping[str, Table]) -> dict[str, list[Any]]:
    return {
        **_query_columns([sample.query for sample in samples], tables),
        "label": [sample.label for sample in samples],
        "provenance": [sample.provenance for sample in samples],
        "confidence": [sample.confidence for sample in samples],
    }


def _queries(content: Mapping[str, list[Any]], tables: Mapping[str, Table], seen: dict[str, Entity]) -> list[Query]:
    found = []
    for identifier, unit, task, entities, rows, target, title, context, options in zip(
        *(content[name] for name in _QUERY.names), strict=True
    ):
        restored: list[Entity] = []
        for place, text in enumerate(entities):
            if text is None:
                row = _row(rows[place], tables)
                if row is None:
                    raise DataError(
                        f"Query {identifier} names row {rows[place]}, which its tables do not have.",
                        fix="load the whole unit",
                    )
                restored.append(row)
            else:
                if text not in seen:
                    seen[text] = dict(json.loads(text))
                restored.append(seen[text])
        facts = tuple((fact["name"], fact["value"]) for fact in context)
        found.append(Query(identifier, unit, task, tuple(restored), tuple(rows), target, title, facts, tuple(options)))
    return found


def _samples(content: Mapping[str, list[Any]], tables: Mapping[str, Table], seen: dict[str, Entity]) -> list[Sample]:
    extras = zip(content["label"], content["provenance"], content["confidence"], strict=True)
    return [
        Sample(query, label, provenance, confidence)
        for query, (label, provenance, confidence) in zip(_queries(content, tables, seen), extras, strict=True)
    ]


def _load(
    path: Path,
    schema: pa.Schema,
    restore: Callable[[Mapping[str, list[Any]], Mapping[str, Table], dict[str, Entity]], list[_Asked]],
    tables: Mapping[str, Table],
    seen: dict[str, Entity],
) -> list[_Asked]:
    """Queries or samples of a file, which is named if it is damaged."""
    with reading(path):
        return restore(_read(path, schema), tables, seen)


def _write(columns: Mapping[str, list[Any]], schema: pa.Schema, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(dict(columns), schema=schema), path, compression="zstd")


def _read(path: Path, schema: pa.Schema) -> dict[str, list[Any]]:
    file = pq.ParquetFile(path)
    lacking = [name for name in schema.names if name not in file.schema_arrow.names]
    if lacking:
        raise DataError(
            f"{path.name} lacks the column {lacking[0]}.",
            where=str(path),
            fix="write it again with the same version of meld",
        )
    content = file.read(columns=schema.names)
    return {name: _plain(content.column(name).combine_chunks()) for name in schema.names}


def _plain(array: pa.Array) -> list[Any]:
    """What ``array.to_pylist()`` gives, several times faster: that makes an Arrow object of every single value."""
    if isinstance(array, pa.ListArray) and not array.null_count:
        # Offsets count from the start of the values whatever part of them the array is.
        ends, flat = array.offsets.to_pylist(), _plain(array.values)
        return [flat[start:end] for start, end in pairwise(ends)]
    if pa.types.is_string(array.type):
        made: list[Any] = array.to_numpy(zero_copy_only=False).tolist()
        return made
    found: list[Any] = array.to_pylist()
    return found
