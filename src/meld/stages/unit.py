"""A unit as later stages see it: its data, vectors, annotated samples, demonstrations, and the evidence they give."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from meld.dataset.io import load_samples, load_unit
from meld.encoder.vectors import Embedder, Vectors
from meld.retriever.base import Demonstrations
from meld.retriever.candidates import Candidates, ValueCandidates, repair_candidates
from meld.retriever.cells import CellEvidence, is_judged
from meld.retriever.partners import Partners, assumed_pairs, is_linked, pair_links, pair_partners
from meld.retriever.prior import RANKS, ConditionalLogit, by_similarity, pair_features, repair_features
from meld.retriever.spans import SpanCandidates, choice_features, spans
from meld.serializer.base import Serializer
from meld.task.base import Task
from meld.task.di import value_text
from meld.task.em import MATCH, MISMATCH
from meld.text import normalise
from meld.types import Query, Sample, Table, UnitData

_ASSUMED, _FEWEST = 400, 5
"""Pairs that are taken for matches where nobody has labelled one: at most, and the fewest of either kind to go by."""
_REMEMBERED = 20_000
"""Texts that a unit embeds on the way and remembers, as long as it is not told to forget."""


class Unit:
    """What the stages up to *annotate* found out about a unit, loaded when asked for.

    Args:
        name: The unit.
        task: Its task.
        serializer: Writes entities.
        data: Artifact of *data*.
        index: Artifact of the index.
        annotate: Artifact of *annotate*; None before that stage.
        embedder: Opens the trained encoder, for texts that nobody has embedded yet.
        lenders: Units of the same task that a unit without labels of its own learns from (masked settings): their
            samples are its demonstrations and fit its evidence priors, as far as its own tables do not.
        temperature: Of the encoder's contrastive loss: where there is no label at all, options are weighed by their
            similarity to the query.
    """

    def __init__(
        self,
        name: str,
        task: Task,
        serializer: Serializer,
        data: Path,
        index: Path,
        annotate: Path | None,
        embedder: Callable[[], Embedder],
        lenders: Sequence[Unit] = (),
        *,
        temperature: float,
    ) -> None:
        self.name = name
        self.temperature = temperature
        self.lenders = tuple(lenders)
        self.task = task
        self.serializer = serializer
        self._data, self._index, self._annotate = data, index, annotate
        self._embedder = embedder
        self._extra: Vectors | None = None
        # Whose tables and labels fit the prior over pairs: another unit's where this one is that over other tables.
        self._source = self
        # One prior for queries with, one for queries without what blocking or error detection attaches.
        self._pair_priors: dict[bool, ConditionalLogit] = {}
        self._repair_priors: dict[bool, ConditionalLogit] = {}

    @cached_property
    def data(self) -> UnitData:
        """Visible data."""
        return load_unit(self._data)

    @cached_property
    def vectors(self) -> Vectors:
        """Vectors of the unit's texts and of its annotated samples' texts."""
        annotate = self._annotate
        base = Vectors.load(self._index)
        if annotate is None or not (annotate / "extra").is_dir():
            return base
        extra = Vectors.load(annotate / "extra")
        if not extra.texts:
            return base
        return Vectors([*base.texts, *extra.texts], np.concatenate([base.array, extra.array]))

    @cached_property
    def samples(self) -> tuple[Sample, ...]:
        """Annotated samples X_i."""
        assert self._annotate is not None
        return tuple(load_samples(self._annotate / "samples.parquet"))

    @cached_property
    def demonstrations(self) -> dict[str, Demonstrations]:
        """Retrieved demonstrations by query id."""
        assert self._annotate is not None
        return load_demonstrations(self._annotate / "demonstrations.parquet")

    @cached_property
    def sample_by_id(self) -> dict[str, Sample]:
        """Annotated samples by id, lent ones included."""
        return {sample.id: sample for unit in (*self.lenders, self) for sample in unit.samples}

    @cached_property
    def _has_labels(self) -> bool:
        return any(sample.provenance == "labelled" for sample in self.samples)

    @property
    def _teachers(self) -> tuple[Unit, ...]:
        """Units whose labels fit the evidence priors: the unit itself, or those that lend theirs to it."""
        return self.lenders or (self,)

    @cached_property
    def partners(self) -> Partners | None:
        """Nearest neighbours across the dataset's two tables."""
        return pair_partners(self.data.tables, self.vectors, self.serializer.text)

    @cached_property
    def cells(self) -> CellEvidence | None:
        """Statistics of the dataset's only table."""
        if len(self.data.tables) != 1:
            return None
        return CellEvidence(next(iter(self.data.tables.values())), self.vectors, self.serializer.text)

    def query_vectors(self, queries: Sequence[Query]) -> NDArray[np.float32]:
        """Vectors of queries, shape (n, d); texts without a vector are embedded now."""
        groups = [self.task.encoder_texts(query, self.serializer.text) for query in queries]
        return self._with({text for group in groups for text in group}).mean(groups)

    def vectors_of(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of texts, shape (n, d); those without one are embedded now."""
        return self._with(set(texts)).get(texts)

    def _with(self, texts: Iterable[str]) -> Vectors:
        known = self._extra or self.vectors
        if any(text not in known for text in texts):
            known = known.extended(texts, self._embedder())
            self._extra = known
        return known

    def query_text(self, query: Query) -> str:
        """One text for the router's encoder."""
        return " | ".join(self.task.encoder_texts(query, self.serializer.text))

    def over(self, tables: Mapping[str, Table]) -> Unit:
        """What this unit has learnt, over other tables of its kind: its labels still fit the evidence priors."""
        moved = Unit(
            self.name,
            self.task,
            self.serializer,
            self._data,
            self._index,
            self._annotate,
            self._embedder,
            [self],
            temperature=self.temperature,
        )
        moved._source = self._source
        moved.data = replace(self.data, tables=dict(tables), pool=(), test=())
        texts = {self.serializer.text(entity) for table in tables.values() for entity in table.rows.values()}
        moved.vectors = Vectors.of(texts, self._embedder())
        moved.demonstrations = {}
        return moved

    def admit(self, queries: Sequence[Query]) -> None:
        """Make tuples that the unit's tables lack known to what judges tuples by their place among others.

        Args:
            queries: Their ``rows`` name the tuples: a record that the table does not have is a new one.
        """
        rows = {table.name: table.rows for table in self.data.tables.values()}
        new = {
            reference: entity
            for query in queries
            for reference, entity in zip(query.rows, query.entities, strict=False)
            if reference.partition(":")[2] not in rows.get(reference.partition(":")[0], {})
        }
        places = (self.partners, self.cells if self.task.name in {"ed", "dc"} else None)
        if not new or not any(places):
            return
        vectors = self.vectors_of([self.serializer.text(entity) for entity in new.values()])
        for reference, vector in zip(new, vectors, strict=True):
            for place in places:
                if place is not None:
                    place.admit(reference, vector)
        if places[1] is not None:
            places[1].vectors = self._with({value_text(a, v) for entity in new.values() for a, v in entity.items()})

    def forget(self) -> None:
        """Forget admitted tuples and, where they have become many, vectors of texts seen since the unit was opened."""
        for place in (self.partners, self.cells if self.task.name in {"ed", "dc"} else None):
            if place is not None:
                place.forget()
                place.vectors = self.vectors
        if self._extra is not None and len(self._extra.texts) > len(self.vectors.texts) + _REMEMBERED:
            self._extra = None

    @cached_property
    def _choice_prior(self) -> ConditionalLogit:
        """Fitted on labelled cells and their candidate entities."""
        groups, chosen = [], []
        for teacher in self._teachers:
            for sample in teacher.samples:
                options = sample.query.options
                if sample.provenance == "labelled" and sample.label in options and len(options) > 1:
                    groups.append(teacher._choices(sample.query))
                    chosen.append(options.index(sample.label))
        return ConditionalLogit().fit(groups, chosen, [1.0] * len(groups))

    def _choices(self, query: Query) -> NDArray[np.float64]:
        """Evidence for each option of a query that brings its own."""
        texts = [value_text("", normalise(option)) for option in query.options]
        cosines = self.vectors_of(texts) @ self.query_vectors([query])[0]
        entity = query.entities[0]
        mention = entity.get(query.target or "", "")
        context = " ".join(value for name, value in entity.items() if name != query.target)
        return choice_features(mention, context, query.options, [float(c) for c in cosines])

    @cached_property
    def _values(self) -> ValueCandidates:
        labelled = [s for s in self.samples if s.provenance in {"labelled", "pseudo"}]
        texts = {value_text(s.query.target or "", normalise(s.label)) for s in labelled}
        texts |= {value_text("", normalise(option)) for option in self.data.options}
        vectors = {text: self.vectors.get([text])[0] for text in sorted(texts) if text in self.vectors}
        arrays = self.query_vectors([s.query for s in labelled])
        return ValueCandidates(labelled, arrays, vectors, self._limit, self.data.options)

    @cached_property
    def _spans(self) -> SpanCandidates:
        known = [s for teacher in self._teachers for s in teacher.samples if s.provenance != "pseudo"]
        return SpanCandidates(known, self._limit)

    @property
    def _limit(self) -> int:
        return int(getattr(self.task, "max_candidates", 24))

    def _repair_prior(self, judged: bool) -> ConditionalLogit:
        if judged not in self._repair_priors:
            self._repair_priors[judged] = self._fit_repair_prior(judged)
        return self._repair_priors[judged]

    def _fit_repair_prior(self, judged: bool) -> ConditionalLogit:
        """Fitted on labelled cells and corrupted ones; pseudo-labels follow the same evidence and teach nothing."""
        groups, chosen, weights = [], [], []
        for teacher in self._teachers:
            for sample in teacher.samples if teacher.cells is not None else ():
                if sample.provenance == "pseudo":
                    continue
                values, features = teacher._repairs(sample.query, judged)
                if sample.label in values and len(values) > 1:
                    groups.append(features)
                    chosen.append(values.index(sample.label))
                    weights.append(sample.confidence)
        return ConditionalLogit().fit(groups, chosen, weights)

    def _repairs(self, query: Query, judged: bool) -> tuple[tuple[str, ...], NDArray[np.float64]]:
        assert self.cells is not None
        values = repair_candidates(query, self.cells, self._limit)
        return values, repair_features(values[0], self.cells.of(query), values, judged)

    def _pair_prior(self, linked: bool) -> ConditionalLogit:
        if linked not in self._pair_priors:
            self._pair_priors[linked] = self._source._fit_pair_prior(linked)
        return self._pair_priors[linked]

    def _fit_pair_prior(self, linked: bool) -> ConditionalLogit:
        """Fitted on labelled pairs; *mismatch* has no features, so that the features speak for *match*.

        Entity matching without a label of its own goes by what its tables suggest: how far apart matches and mismatches
        are differs between datasets by more than the suggestion errs. Where they suggest nothing, lent labels count.
        """
        assumes = self.task.name == "em" and not self._has_labels
        groups, chosen = self._assumed_pairs(linked) if assumes else ([], [])
        for teacher in self._teachers if not groups else ():
            labelled = [s for s in teacher.samples if s.provenance == "labelled"]
            chosen += [(self.task.options or ()).index(s.label) for s in labelled]
            groups += [teacher._pair(s.query, linked) for s in labelled]
        return ConditionalLogit().fit(groups, chosen, [1.0] * len(groups))

    def _assumed_pairs(self, linked: bool) -> tuple[list[NDArray[np.float64]], list[int]]:
        """Evidence for the options of pairs whose label the two tables suggest, and the options that they suggest.

        The ranks teach nothing: with them the fit would repeat what the suggestion was read off. The margin, from which
        the same follows, stays, as it also says how sure that is.
        """
        if self.partners is None:
            return [], []
        options = list(self.task.options or ())
        matches, mismatches = assumed_pairs(self.partners, _ASSUMED)
        if min(len(matches), len(mismatches)) < _FEWEST:
            return [], []
        tables = self.data.tables
        groups, chosen = [], []
        for label, pairs in ((MATCH, matches), (MISMATCH, mismatches)):
            for rows in pairs:
                parts = [reference.partition(":") for reference in rows]
                entities = tuple(tables[table].rows[record] for table, _, record in parts)
                query = Query(f"{self.name}/assumed/{'|'.join(rows)}", self.name, self.task.name, entities, rows)
                features = self._pair(query, linked)
                features[:, RANKS] = 0.0
                groups.append(features)
                chosen.append(options.index(label))
        return groups, chosen

    def _pair(self, query: Query, linked: bool) -> NDArray[np.float64]:
        """Evidence for each option of a pair: of its place among all tuples (``linked``), or of the pair by itself."""
        link = pair_links([query], self.partners)[0] if linked and self.partners is not None else None
        left, right = query.entities
        cosine = 0.0
        if link is None:
            sides = self.vectors_of([self.serializer.text(left), self.serializer.text(right)])
            cosine = float(sides[0] @ sides[1])
        features = pair_features(link, left, right, cosine)
        return np.stack([features * (option == MATCH) for option in self.task.options or ()])

    def match_odds(self, queries: Sequence[Query], linked: bool) -> NDArray[np.float64]:
        """Log-odds of *match* by the evidence alone, shape (n,).

        Args:
            queries: Pairs.
            linked: Whether their places among all tuples count.
        """
        options = list(self.task.options or ())
        found = [self._pair_prior(linked).log_prior(self._pair(query, linked)) for query in queries]
        return np.array([2 * p[options.index(MATCH)] - p.sum() for p in found], dtype=np.float64)

    def candidates(self, queries: Sequence[Query]) -> list[Candidates]:
        """Options of every query, with their log-probabilities by the retrieved evidence alone.

        Closed tasks have the task's options in the task's order; open ones have candidates, best first, perhaps none.
        What blocking and error detection know counts for the queries to which a meta-path has attached it.
        """
        if self.task.name in {"em", "sm"}:
            seen = [(query, is_linked(query)) for query in queries]
            prior = [self._pair_prior(linked).log_prior(self._pair(query, linked)) for query, linked in seen]
            return [Candidates(tuple(self.task.options or ()), tuple(map(float, p))) for p in prior]
        if self.task.options is not None:
            even = (-float(np.log(len(self.task.options))),) * len(self.task.options)
            return [Candidates(tuple(self.task.options), even)] * len(queries)
        if self.task.name == "dc" and self.cells is not None:
            views = [is_judged(query) for query in queries]
            found = [self._repairs(query, judged) for query, judged in zip(queries, views, strict=True)]
            return [
                Candidates(values, tuple(map(float, self._repair_prior(judged).log_prior(features))))
                for (values, features), judged in zip(found, views, strict=True)
            ]
        if self.task.name == "ave":
            return [self._spans.of(query) for query in queries]
        if any(query.options for query in queries):
            evidence = [self._choice_prior.log_prior(self._choices(query)) for query in queries]
            return [
                Candidates(query.options, tuple(map(float, prior)))
                for query, prior in zip(queries, evidence, strict=True)
            ]
        if not self._has_labels:
            return self._unlabelled(queries)
        vectors = self.query_vectors(queries)
        return [self._values.of(query, vector) for query, vector in zip(queries, vectors, strict=True)]

    def _unlabelled(self, queries: Sequence[Query]) -> list[Candidates]:
        """Candidates where no answer of any question is known (withheld labels, or none given).

        They are the dataset's own domain, weighed by similarity alone. Without one they are spans of what the query
        itself says, none likelier than another: the longest are the most similar to it, whatever was asked.
        """
        if not self.data.options:
            return [_spans_of(query, self._limit) for query in queries]
        texts = [value_text("", normalise(option)) for option in self.data.options]
        cosines = self.query_vectors(queries) @ self.vectors_of(texts).T
        found = []
        for row in cosines.astype(np.float64):
            prior = by_similarity(row, self.temperature)
            order = np.argsort(-prior, kind="stable")[: self._limit]
            found.append(Candidates(tuple(self.data.options[i] for i in order), tuple(float(prior[i]) for i in order)))
        return found


def _spans_of(query: Query, limit: int) -> Candidates:
    """The first spans of a query's text."""
    cells = (value for name, value in query.entities[0].items() if name != query.target)
    values = tuple(spans(" ".join(cells))[:limit])
    return Candidates(values, (-float(np.log(len(values))),) * len(values)) if values else Candidates()


def save_demonstrations(found: Mapping[str, Demonstrations], path: Path) -> None:
    """Write demonstrations as Parquet: query_id, ids, similarities."""
    table = pa.table(
        {
            "query_id": pa.array(list(found), pa.string()),
            "ids": pa.array([list(d.ids) for d in found.values()], pa.list_(pa.string())),
            "similarities": pa.array([list(d.similarities) for d in found.values()], pa.list_(pa.float64())),
        }
    )
    pq.write_table(table, path)


def load_demonstrations(path: Path) -> dict[str, Demonstrations]:
    """Read what :func:`save_demonstrations` wrote."""
    rows = pq.read_table(path).to_pylist()
    return {row["query_id"]: Demonstrations(tuple(row["ids"]), tuple(row["similarities"])) for row in rows}
