"""The words every part of MELD uses: tables, queries, samples, predictions.

A *unit* is one dataset seen through one task, written ``<dataset>.<task>`` (``abt_buy.em``, ``hospital.dc``). Units are
what experts, artifacts and result rows are about.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

Entity = Mapping[str, str]
"""A tuple of a table: attribute to value in column order; the empty string is a missing value."""


@dataclass(frozen=True)
class Table:
    """A table as text.

    Attributes:
        name: Short name, unique within its dataset (``A``, ``B``, ``T``).
        title: What the table is about, shown to models as metadata.
        columns: Attribute names in order, without ids and labels.
        rows: Record id to entity. Record ids never reach a prompt.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: Mapping[str, Entity]


@dataclass(frozen=True)
class Query:
    """One question q = (Ins, D, t, C) of method section 1, without the parts that are found later (Ins, D, C).

    Attributes:
        id: Unique within the suite: ``<unit>/<what the question is about>``.
        unit: The unit it belongs to.
        task: The task's short name (``em``, ``di``, ...).
        entities: The tuple(s) the question is about, in the order the task defines.
        rows: For each entity its record as ``<table name>:<record id>``; empty for entities that come from no table.
        target: The attribute asked about (DI, ED, DC, AVE), else None.
        title: Metadata: the table's title.
        context: Facts attached by meta-path steps, as (name, value), in the order they were attached.
        options: C where it differs from query to query (the candidate entities of a cell); empty where the unit or the
            task has one domain, or none.
    """

    id: str
    unit: str
    task: str
    entities: tuple[Entity, ...]
    rows: tuple[str, ...] = ()
    target: str | None = None
    title: str = ""
    context: tuple[tuple[str, str], ...] = ()
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sample:
    """A query together with a label that may be read.

    Attributes:
        query: The query.
        label: Its answer, as the model should write it.
        provenance: ``labelled`` | ``pseudo`` | ``transformed:<task>`` | ``path:<e1>><e2>``.
        confidence: 1.0 for human labels, otherwise the annotator's confidence in (0, 1].
    """

    query: Query
    label: str
    provenance: str = "labelled"
    confidence: float = 1.0

    @property
    def id(self) -> str:
        """The id of the query."""
        return self.query.id


@dataclass(frozen=True)
class UnitData:
    """Everything about a unit that a component may read. Hidden labels are not in here.

    Attributes:
        unit: ``<dataset>.<task>``.
        dataset: The dataset's name.
        task: The task's short name.
        tables: Tables by name, with every hidden value masked.
        train: Few-shot samples to learn from.
        dev: Few-shot samples for early stopping, thresholds, meta-path Eval and router correctness.
        pool: Unlabelled queries of the training split.
        test: Queries that evaluation scores.
        options: C where the dataset defines it (its column types or relations); empty where the task does, or nobody.
    """

    unit: str
    dataset: str
    task: str
    tables: Mapping[str, Table]
    train: tuple[Sample, ...]
    dev: tuple[Sample, ...]
    pool: tuple[Query, ...]
    test: tuple[Query, ...]
    options: tuple[str, ...] = ()


Gold = Mapping[str, tuple[str, ...]]
"""Query id to the acceptable answers. Only evaluation reads it. Blocking lists every true partner's record."""


@dataclass(frozen=True)
class Prediction:
    """The answer to one query.

    Attributes:
        query_id: The query.
        output: The answer; None where nothing usable came back.
        score: Confidence in the answer in [0, 1]; for encoder-only tasks a similarity or probability.
        status: ``ok`` | ``invalid`` (unparseable: counts as wrong) | ``skipped`` (not asked; the answer is the task's
            default).
        experts: The experts that answered, highest weight first; empty for encoder-only tasks.
        weights: Their weights, which sum to one.
        options: The options or candidates that were ranked, best first (all of them for closed domains, at most 50
            else).
        raw: What the model wrote, where it wrote.
    """

    query_id: str
    output: str | None
    score: float
    status: str = "ok"
    experts: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    options: tuple[str, ...] = ()
    raw: str = ""


@dataclass(frozen=True)
class Score:
    """One measured number.

    Attributes:
        metric: Name as printed, e.g. ``f1``, ``recall@1``, ``accuracy``.
        value: In [0, 1].
        n: How many queries (or cells) it was computed over.
        low: Lower end of the 95 % bootstrap interval.
        high: Upper end.
        main: Whether this is the task's headline metric.
    """

    metric: str
    value: float
    n: int
    low: float
    high: float
    main: bool = False


@dataclass(frozen=True)
class Prompt:
    """A rendered question, ready for a language model.

    Attributes:
        query_id: The query it asks.
        text: The prompt, up to and including the opening of the answer form.
        options: Answers to rank; None to generate.
        log_prior: Log-probability of each option by the retrieved evidence alone; empty for none.
        json_form: Whether the answer is the value of a JSON object that ``text`` has opened (``{"answer": "``).
        n_demos: Demonstrations that found room.
        shortened: Values that were shortened or left out to fit the token budget.
    """

    query_id: str
    text: str
    options: tuple[str, ...] | None = None
    log_prior: tuple[float, ...] = ()
    json_form: bool = False
    n_demos: int = 0
    shortened: int = 0

    def answer_text(self, answer: str) -> str:
        """What the model has to write after ``text`` to give an answer."""
        return json.dumps(answer, ensure_ascii=False)[1:-1] + '"}' if self.json_form else answer
