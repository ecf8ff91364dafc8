"""A unit as later stages see it: its data, vectors, annotated samples, demonstrations, and questions made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from meld.backbone.language_model import LanguageModel
from meld.dataset.io import load_samples, load_unit
from meld.encoder.vectors import Embedder, Vectors
from meld.expert.lora import Lesson
from meld.retriever.base import Demonstrations
from meld.retriever.candidates import ValueCandidates, repair_candidates
from meld.retriever.cells import CellEvidence
from meld.retriever.partners import Partners, pair_partners
from meld.serializer.base import Serializer
from meld.serializer.prompt import PromptWriter
from meld.task.base import Task
from meld.task.di import value_text
from meld.text import normalise
from meld.types import Prompt, Query, Sample, UnitData


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
    ) -> None:
        self.name = name
        self.task = task
        self.serializer = serializer
        self._paths = {"data": data, "index": index, "annotate": annotate}
        self._embedder = embedder
        self._extra: Vectors | None = None

    @cached_property
    def data(self) -> UnitData:
        """Visible data."""
        path = self._paths["data"]
        assert path is not None
        return load_unit(path)

    @cached_property
    def vectors(self) -> Vectors:
        """Vectors of the unit's texts and of its annotated samples' texts."""
        index, annotate = self._paths["index"], self._paths["annotate"]
        assert index is not None
        base = Vectors.load(index)
        if annotate is None or not (annotate / "extra").is_dir():
            return base
        extra = Vectors.load(annotate / "extra")
        if not extra.texts:
            return base
        return Vectors([*base.texts, *extra.texts], np.concatenate([base.array, extra.array]))

    @cached_property
    def samples(self) -> tuple[Sample, ...]:
        """Annotated samples X_i."""
        path = self._paths["annotate"]
        assert path is not None
        return tuple(load_samples(path / "samples.parquet"))

    @cached_property
    def demonstrations(self) -> dict[str, Demonstrations]:
        """Retrieved demonstrations by query id."""
        path = self._paths["annotate"]
        assert path is not None
        return load_demonstrations(path / "demonstrations.parquet")

    @cached_property
    def sample_by_id(self) -> dict[str, Sample]:
        """Annotated samples by id."""
        return {sample.id: sample for sample in self.samples}

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
        known = self._extra or self.vectors
        if any(text not in known for group in groups for text in group):
            known = known.extended((text for group in groups for text in group), self._embedder())
            self._extra = known
        return known.mean(groups)

    def query_text(self, query: Query) -> str:
        """One text for the router's encoder."""
        return " | ".join(self.task.encoder_texts(query, self.serializer.text))

    @cached_property
    def _values(self) -> ValueCandidates:
        labelled = [s for s in self.samples if s.provenance in {"labelled", "pseudo"}]
        texts = {value_text(s.query.target or "", normalise(s.label)) for s in labelled}
        vectors = {text: self.vectors.get([text])[0] for text in sorted(texts) if text in self.vectors}
        limit = getattr(self.task, "max_candidates", 24)
        return ValueCandidates(labelled, self.query_vectors([s.query for s in labelled]), vectors, limit)

    def candidates(self, queries: Sequence[Query]) -> list[tuple[str, ...] | None]:
        """Candidate answers of open questions; None for closed tasks."""
        if self.task.options is not None:
            return [None] * len(queries)
        if self.task.name == "dc" and self.cells is not None:
            limit = getattr(self.task, "max_candidates", 24)
            return [repair_candidates(query, self.cells, limit) for query in queries]
        vectors = self.query_vectors(queries)
        return [self._values.of(query, vector) for query, vector in zip(queries, vectors, strict=True)]


class Questions:
    """Turns a unit's queries into prompts and its samples into lessons.

    Args:
        unit: The unit.
        writer: Writes prompts for the backbone.
        rank: Whether open questions are answered by ranking candidates.
        with_demos: Whether prompts carry demonstrations.
    """

    def __init__(self, unit: Unit, writer: PromptWriter, rank: bool, with_demos: bool = True) -> None:
        self.unit = unit
        self.writer = writer
        self.rank = rank
        self.with_demos = with_demos

    def prompts(self, queries: Sequence[Query]) -> list[Prompt]:
        """Prompts with options where answers are ranked, without where they are written.

        An open question without any candidate gets an empty tuple: it cannot be answered by ranking.
        """
        candidates = self.unit.candidates(queries) if self.rank else [None] * len(queries)
        return [self.writer.write(q, self._demos(q), c) for q, c in zip(queries, candidates, strict=True)]

    def lessons(self, samples: Sequence[Sample], lm: LanguageModel, n_wrong: int) -> list[Lesson]:
        """Training examples: the label first, then up to ``n_wrong`` wrong options or candidates."""
        queries = [sample.query for sample in samples]
        candidates = self.unit.candidates(queries) if self.rank and n_wrong else [None] * len(queries)
        made = []
        for sample, found in zip(samples, candidates, strict=True):
            closed = self.unit.task.options
            others = closed if closed is not None else found or ()
            label = normalise(sample.label)
            wrong = [o for o in others if (o != sample.label if closed is not None else normalise(o) != label)]
            options = (sample.label, *wrong[:n_wrong])
            prompt = self.writer.write(sample.query, self._demos(sample.query), options if closed is None else None)
            made.append(Lesson(lm.encode(prompt, options), sample.confidence))
        return made

    def _demos(self, query: Query) -> list[Sample]:
        if not self.with_demos:
            return []
        found = self.unit.demonstrations.get(query.id, Demonstrations())
        return [self.unit.sample_by_id[id_] for id_ in found.ids if id_ in self.unit.sample_by_id]


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
