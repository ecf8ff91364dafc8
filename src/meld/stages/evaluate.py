"""evaluate: score predictions and baselines. The only stage that reads hidden labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import pyarrow as pa
import pyarrow.parquet as pq

from meld.dataset.io import load_gold, load_predictions, load_samples, load_unit, save_predictions
from meld.encoder.vectors import Embedder, Memory
from meld.evaluate.annotation import annotation_quality
from meld.evaluate.baselines import knn_label, majority, mutual_nn, nearest_name, similarity_lr
from meld.evaluate.compat import compat_scores
from meld.evaluate.metrics import is_correct, score
from meld.stages.base import Context, read_json, write_json
from meld.types import Gold, Prediction, Query, UnitData

VERSION = 4
BASELINE_VERSION = 2


def run_baselines(context: Context, embedder: Embedder) -> None:
    """Answer the unit's test queries with the simple methods that belong beside every result. Reads no hidden label.

    Args:
        context: Input ``data``.
        embedder: The *untouched* encoder.
    """
    data = load_unit(context.inputs["data"])
    embed = Memory(embedder).embed
    made: dict[str, list[Prediction]] = {"majority": majority(data)}
    if data.task in {"em", "sm"}:
        made["similarity_lr"] = similarity_lr(data, embed)
    if data.task == "em":
        made["mutual_nn"] = mutual_nn(data, embed)
    if data.task in {"di", "cta", "re"}:
        made["knn"] = knn_label(data, embed)
    if data.task == "el":
        made["nearest_name"] = nearest_name(data)
    for system, predictions in made.items():
        if predictions:
            save_predictions(predictions, context.out / f"{system}.parquet")
    write_json(context.out / "systems.json", sorted(s for s, p in made.items() if p))


def run(context: Context, seed: int) -> None:
    """Write ``scores.json`` (system to scores), ``predictions.parquet`` with gold, and ``annotation.json``.

    Args:
        context: Inputs ``data``, ``gold``, ``infer``, ``baseline`` and, for a unit that was annotated, ``annotate``.
        seed: Seeds the bootstrap.
    """
    data = load_unit(context.inputs["data"])
    hidden = load_gold(context.inputs["gold"] / "gold.parquet")
    asked = {query.id for query in data.test}
    gold: Gold = {id_: answers for id_, answers in hidden.items() if id_ in asked}
    dirty = {q.id: q.entities[0][q.target] for q in data.test if q.target is not None} if data.task == "dc" else {}
    records = len(next(reversed(list(data.tables.values()))).rows) if data.task == "blk" else None
    predictions = load_predictions(context.inputs["infer"] / "predictions.parquet")
    systems: dict[str, Sequence[Prediction]] = {"own": predictions}
    for file in sorted(context.inputs["baseline"].glob("*.parquet")):
        systems[file.stem] = load_predictions(file)
    scores = {}
    for system, given in systems.items():
        kept = given if data.task == "blk" else [p for p in given if p.query_id in gold]
        strict = score(data.task, kept, gold, dirty, seed, records=records)
        scores[system] = [asdict(s) for s in (*strict, *compat_scores(data.task, kept, gold, dirty, seed))]
    write_json(context.out / "scores.json", scores)
    _write_predictions(context, data, predictions, gold)
    if "annotate" in context.inputs:
        samples = load_samples(context.inputs["annotate"] / "samples.parquet")
        report = read_json(context.inputs["annotate"] / "report.json")
        report["quality"] = annotation_quality(data.task, samples, data.pool, hidden)
        write_json(context.out / "annotation.json", report)


def _write_predictions(context: Context, data: UnitData, predictions: Sequence[Prediction], gold: Gold) -> None:
    queries: Mapping[str, Query] = {query.id: query for query in data.test}
    table = pq.read_table(context.inputs["infer"] / "predictions.parquet")
    ordered = {p.query_id: p for p in predictions}
    ids = table.column("query_id").to_pylist()
    extra = {
        "gold": pa.array([list(gold.get(i, ())) for i in ids], pa.list_(pa.string())),
        "correct": pa.array(
            [is_correct(data.task, ordered[i], gold[i]) if i in gold else None for i in ids], pa.bool_()
        ),
        "query": pa.array([_describe(queries[i]) for i in ids], pa.string()),
    }
    for name, column in extra.items():
        table = table.append_column(name, column)
    pq.write_table(table, context.out / "predictions.parquet")


def _describe(query: Query) -> str:
    """The query in one line, for people."""
    shown = " | ".join(", ".join(f"{a}: {v}" for a, v in e.items() if v)[:300] for e in query.entities)
    return f"{query.target}? {shown}" if query.target else shown
