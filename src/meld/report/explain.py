"""Why a prediction is what it is, told from the artifacts of a run: nothing is computed again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rapidfuzz import fuzz, process

from meld.dataset.io import load_samples, load_unit
from meld.errors import UserError
from meld.metapath.edits import Edit
from meld.metapath.record import Asked, load_asked
from meld.report.results import read_json
from meld.retriever.partners import is_linked
from meld.store.uses import all_linked, linked
from meld.types import Entity, Query, Sample, Table, UnitData

PREDICTIONS = "predictions"
_LISTED = 8
_WRONG, _RIGHT = 3, 2


@dataclass(frozen=True)
class Demonstration:
    """A demonstration that was retrieved.

    Attributes:
        id: Its query.
        similarity: To the query explained; cosine for a dense retriever.
        label: Its answer.
        provenance: Where the label comes from.
        entities: What it shows.
        target: The attribute it asks about.
        shown: Whether it found room in the prompt; None where the prompt is not kept.
    """

    id: str
    similarity: float
    label: str
    provenance: str
    entities: tuple[Entity, ...]
    target: str | None
    shown: bool | None


@dataclass(frozen=True)
class Choice:
    """An answer that was ranked.

    Attributes:
        value: The answer.
        probability: Its probability; for blocking its similarity in [0, 1].
        evidence: What retrieval alone gives it; None where that was not asked apart.
        record: The tuple it names, where an answer is a tuple (blocking); else empty.
    """

    value: str
    probability: float
    evidence: float | None
    record: str = ""


@dataclass(frozen=True)
class Explanation:
    """A prediction and what led to it.

    Attributes:
        unit: The unit.
        query_id: The query.
        entities: The tuples as they were given.
        target: The attribute asked about.
        title: The table's title.
        path: The unit's meta-path.
        edits: What its steps changed in this query.
        context: Facts that the experts saw beside the tuples.
        demonstrations: Retrieved ones, the most similar first.
        experts: Experts with their weights, highest first; empty where the encoder alone answered, or where experts
            are mixed token by token.
        choices: Answers that were ranked, best first.
        output: The answer.
        score: Confidence in it.
        status: ``ok`` | ``invalid`` | ``skipped``.
        raw: What the experts wrote, where they wrote.
        gold: Acceptable answers; None where nothing was evaluated.
        correct: Whether the answer is right; None where nothing was evaluated.
        prompt: What the experts read; empty where it is not kept or nobody was prompted.
        notes: What is not known, and why.
    """

    unit: str
    query_id: str
    entities: tuple[Entity, ...]
    target: str | None
    title: str
    path: tuple[str, ...]
    edits: tuple[Edit, ...]
    context: tuple[tuple[str, str], ...]
    demonstrations: tuple[Demonstration, ...]
    experts: tuple[tuple[str, float], ...]
    choices: tuple[Choice, ...]
    output: str | None
    score: float
    status: str
    raw: str
    gold: tuple[str, ...] | None
    correct: bool | None
    prompt: str
    notes: tuple[str, ...]


def query_ids(run: Path) -> dict[str, str]:
    """Every query that a run answered, with its unit.

    Raises:
        UserError: If the run has no predictions.
    """
    found: dict[str, str] = {}
    for unit, path in prediction_files(run).items():
        found |= dict.fromkeys(pq.read_table(path, columns=["query_id"]).column("query_id").to_pylist(), unit)
    if not found:
        raise UserError(
            "There are no predictions.",
            where=str(run),
            fix="`meld status RUN` says how far the run is",
        )
    return found


def prediction_files(run: Path) -> dict[str, Path]:
    """Predictions by unit: evaluated ones, else what inference wrote (a run that stopped there)."""
    files = {path.stem: path for path in sorted((run / PREDICTIONS).glob("*.parquet"))}
    for name, folder in all_linked(run).items():
        stage, _, unit = name.partition(".")
        if stage == "infer" and unit not in files and (folder / "predictions.parquet").is_file():
            files[unit] = folder / "predictions.parquet"
    return files


def artifact(run: Path, stage: str, unit: str) -> Path | None:
    """The artifact of a stage that a run used; None where there is none, or it was removed from the store."""
    return linked(run, f"{stage}.{unit}")


def find_query(ids: Sequence[str], wanted: str) -> str:
    """The query that a whole id, its unique end or a unique part of it names.

    Raises:
        UserError: If there is none, or more than one; near ones are listed.
    """
    if wanted in ids:
        return wanted
    for fits in (str.endswith, str.__contains__):
        found = [id_ for id_ in ids if fits(id_, wanted)]
        if len(found) == 1:
            return found[0]
        if found:
            more = f"\n  ... and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
            listed = "\n  ".join(found[:_LISTED])
            raise UserError(
                f"{wanted!r} is part of {len(found)} query ids:\n  {listed}{more}", fix="give more of one of them"
            )
    near = [id_ for id_, _, _ in process.extract(wanted, list(ids), scorer=fuzz.partial_ratio, limit=5)]
    listed = "\n  ".join(near)
    raise UserError(
        f"No query id holds {wanted!r}. The nearest ones are\n  {listed}",
        fix="ids stand in the column query_id of RUN/predictions/*.parquet",
    )


def explain(run: Path, wanted: str) -> Explanation:
    """Explain one prediction of a run.

    Args:
        run: The run directory.
        wanted: A query id or a part of one.

    Raises:
        UserError: If the run has no predictions, or the id names no query or several.
    """
    units = query_ids(run)
    id_ = find_query(list(units), wanted)
    (found,) = Explainer(run, units[id_]).explain([id_])
    return found


class Explainer:
    """What a run's artifacts hold about one unit, loaded when asked for.

    Args:
        run: The run directory.
        unit: The unit.
    """

    def __init__(self, run: Path, unit: str) -> None:
        self.run = run
        self.unit = unit
        self._samples: dict[str, dict[str, Sample]] = {}

    def explain(self, ids: Sequence[str]) -> list[Explanation]:
        """Explain predictions of the unit, in the order given."""
        rows = {row["query_id"]: row for row in self._predictions(ids)}
        folder = artifact(self.run, "infer", self.unit)
        asked: dict[str, Asked] = {}
        if folder is not None and (folder / "asked.parquet").is_file():
            asked = load_asked(folder / "asked.parquet", ids, self.unit)
        demonstrations = self._demonstrations(ids)
        return [self._one(rows[id_], asked.get(id_), demonstrations.get(id_, ())) for id_ in ids]

    def _predictions(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        path = prediction_files(self.run)[self.unit]
        rows: list[dict[str, Any]] = pq.read_table(path, filters=[("query_id", "in", list(ids))]).to_pylist()
        return rows

    @cached_property
    def _data(self) -> UnitData | None:
        folder = artifact(self.run, "data", self.unit)
        return None if folder is None else load_unit(folder)

    @cached_property
    def _balance(self) -> Mapping[str, Mapping[str, float]]:
        folder = artifact(self.run, "balance", self.unit)
        return {} if folder is None else read_json(folder / "balance.json")

    @cached_property
    def _queries(self) -> Mapping[str, Query]:
        return {} if self._data is None else {query.id: query for query in self._data.test}

    @cached_property
    def _tables(self) -> Mapping[str, Table]:
        """Tables whose tuples are answers."""
        of_blocking = self._data is not None and self._data.task == "blk"
        return {t.name: t for t in self._data.tables.values()} if of_blocking and self._data is not None else {}

    def _record(self, answer: str) -> str:
        """The tuple that an answer of blocking names."""
        table, _, record = answer.partition(":")
        return as_line(self._tables[table].rows.get(record, {})) if table in self._tables else ""

    def _sample(self, id_: str) -> Sample | None:
        """A demonstration: a sample of the unit, or one lent by the unit in whose name its id begins."""
        for unit in dict.fromkeys((self.unit, id_.partition("/")[0])):
            if unit not in self._samples:
                folder = artifact(self.run, "annotate", unit)
                found = [] if folder is None else load_samples(folder / "samples.parquet")
                self._samples[unit] = {sample.id: sample for sample in found}
            if id_ in self._samples[unit]:
                return self._samples[unit][id_]
        return None

    @cached_property
    def _path(self) -> tuple[str, ...]:
        folder = artifact(self.run, "metapath", self.unit)
        return () if folder is None else tuple(read_json(folder / "path.json")["path"])

    def _demonstrations(self, ids: Sequence[str]) -> dict[str, tuple[Demonstration, ...]]:
        folder = artifact(self.run, "annotate", self.unit)
        path = None if folder is None else folder / "demonstrations.parquet"
        if path is None or not path.is_file():
            return {}
        found = {}
        for row in pq.read_table(path, filters=[("query_id", "in", list(ids))]).to_pylist():
            pairs = zip(row["ids"], row["similarities"], strict=True)
            known = [(self._sample(id_), similarity) for id_, similarity in pairs]
            found[row["query_id"]] = tuple(
                Demonstration(s.id, similarity, s.label, s.provenance, s.query.entities, s.query.target, None)
                for s, similarity in known
                if s is not None
            )
        return found

    def _one(self, row: Mapping[str, Any], asked: Asked | None, demonstrations: Sequence[Demonstration]) -> Explanation:
        id_ = row["query_id"]
        given = self._queries.get(id_) or (Query(id_, self.unit, "", ()) if asked is None else asked.query)
        options, probabilities = (row["options"], ()) if asked is None else (asked.options, asked.probabilities)
        evidence = asked.evidence if asked is not None else ()
        choices = tuple(
            Choice(value, probability, evidence[place] if evidence else None, self._record(value))
            for place, (value, probability) in enumerate(zip(options, probabilities, strict=False))
        )
        room = None if asked is None else asked.n_demos
        return Explanation(
            unit=self.unit,
            query_id=id_,
            entities=given.entities,
            target=given.target,
            title=given.title,
            path=self._path,
            edits=() if asked is None else asked.edits,
            context=() if asked is None else asked.query.context,
            demonstrations=tuple(
                replace(d, shown=None if room is None else place < room) for place, d in enumerate(demonstrations)
            ),
            experts=tuple(zip(row["experts"], row["weights"], strict=True)),
            choices=choices,
            output=row["output"],
            score=row["score"],
            status=row["status"],
            raw=row["raw"],
            gold=tuple(row["gold"]) if "gold" in row and row["correct"] is not None else None,
            correct=row.get("correct"),
            prompt="" if asked is None else asked.prompt,
            notes=tuple(self._notes(row, asked, demonstrations)),
        )

    def _notes(self, row: Mapping[str, Any], asked: Asked | None, demonstrations: Sequence[Demonstration]) -> list[str]:
        notes = []
        if row["status"] == "skipped":
            notes.append("Not asked: error detection did not flag the cell, so it keeps its value.")
        elif asked is None:
            notes.append("The question as it was asked is not kept: of large test sets every n-th one is, or the "
                         "artifact is gone from the store.")  # fmt: skip
        elif asked.shortened:
            notes.append(f"{asked.shortened} values were shortened to fit the prompt.")
        if not self._queries:
            notes.append("The unit's data is gone from the store; the query is shown as it was asked.")
        if asked is not None and asked.prompt and not len(row["experts"]):
            notes.append("The experts are mixed layer by layer and token by token: a whole query has no weights.")
        if self._balance and asked is not None:
            found = self._balance["linked" if is_linked(asked.query) else "bare"]
            notes.append(
                f"Matches are taken to be {100 * found['share']:.1f} % of the questions, estimated on the pool, and "
                f"{100 * found['labelled']:.0f} % of the labels: {found['shift']:+.2f} on the log-odds of a match."
            )
        if row["status"] == "invalid":
            notes.append("Nothing usable came back, which counts as wrong.")
        if asked is not None and demonstrations and asked.n_demos < len(demonstrations):
            notes.append(f"{asked.n_demos} of {len(demonstrations)} retrieved demonstrations were put into the prompt.")
        if row.get("correct") is None and row["status"] != "skipped":
            notes.append("Nothing is known about what is right here: the query was not evaluated.")
        return notes


def explained(run: Path) -> list[tuple[str, list[Explanation]]]:
    """A few predictions of each evaluated unit for the report: the most confident mistakes, then right answers.

    Units whose artifacts are gone, or were made by another version, are left out.
    """
    found = []
    for unit, path in prediction_files(run).items():
        if path.parent.name != PREDICTIONS or artifact(run, "infer", unit) is None:
            continue
        table = pq.read_table(path, columns=["query_id", "score", "correct", "status"]).to_pylist()
        asked = [row for row in table if row["status"] != "skipped" and row["correct"] is not None]
        asked.sort(key=lambda row: (-row["score"], row["query_id"]))
        wrong = [row["query_id"] for row in asked if not row["correct"]][:_WRONG]
        right = [row["query_id"] for row in asked if row["correct"]][:_RIGHT]
        if wrong or right:
            found.append((unit, Explainer(run, unit).explain([*wrong, *right])))
    return found


def as_line(entity: Entity) -> str:
    """A tuple in one line; empty attributes are left out."""
    return ", ".join(f"{name}: {value}" for name, value in entity.items() if value)
