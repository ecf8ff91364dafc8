"""Samples for tasks about text and columns, made of other units' tuples (method section 2, self-annotation (b)).

A tuple whose attribute stands in its title becomes a question of attribute value extraction; a column whose name is one
of the wanted types becomes a question of column type annotation. Neither needs a new label. Names have to agree:
what another dataset calls by another name says nothing here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from meld.dataset.columns import column_entity
from meld.dataset.labelled import show_values
from meld.task.ave import ave_from_tuples
from meld.text import fold
from meld.types import Query, Sample, UnitData

DONOR_TASKS = ("em", "di")
"""Tasks whose tuples are taken at their word: a cell that detection or cleaning asks about may be wrong."""

_VALUES = 10
"""Values of a column that are shown."""

_PER_COLUMN = 3
"""Questions made of a column, each with values of its own."""

_CONFIDENCE = 0.9


def made_of_tuples(given: UnitData, data: UnitData, rng: np.random.Generator) -> list[Sample]:
    """Samples for a unit of AVE or CTA from another unit; none for other tasks.

    Args:
        given: A unit of matching or imputation.
        data: The unit that is to be enlarged.
        rng: Draws attributes and values.
    """
    if data.task == "ave":
        return extractions(given.train, data, rng)
    if data.task == "cta":
        return columns(given, data, rng)
    return []


def extractions(samples: Sequence[Sample], data: UnitData, rng: np.random.Generator) -> list[Sample]:
    """Extraction samples about attributes that the unit's own labelled samples ask for, in their spelling.

    Args:
        samples: Labelled samples of matching or imputation.
        data: A unit of attribute value extraction.
        rng: Draws the attributes.
    """
    wanted = {fold(s.query.target or ""): s.query.target for s in data.train}
    made = ave_from_tuples(samples, rng, per_tuple=len(wanted))
    return [
        replace(sample, query=replace(sample.query, target=wanted[fold(sample.query.target or "")]))
        for sample in made
        if fold(sample.query.target or "") in wanted
    ]


def columns(given: UnitData, data: UnitData, rng: np.random.Generator) -> list[Sample]:
    """Column-type samples from the columns of a unit's tables that are named as a type; the name is not shown.

    Args:
        given: A unit of matching or imputation.
        data: A unit of column type annotation with types of its own.
        rng: Draws the values.
    """
    types = {fold(option): option for option in data.options}
    made = []
    for table in given.tables.values():
        for attribute in (a for a in table.columns if fold(a) in types):
            values = sorted({row[attribute] for row in table.rows.values() if row[attribute]})
            others = [name for name in table.columns if name != attribute]
            for number in range(min(_PER_COLUMN, len(values) // 2)):
                drawn = [values[i] for i in rng.permutation(len(values))[:_VALUES]]
                query = Query(
                    id=f"{given.unit}/{table.name}>cta/{attribute}/{number}",
                    unit=data.unit,
                    task="cta",
                    entities=(column_entity("", show_values(drawn, _VALUES), others),),
                    title=table.title,
                )
                made.append(Sample(query, types[fold(attribute)], f"transformed:{given.task}", _CONFIDENCE))
    return made
