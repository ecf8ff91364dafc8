"""What clients send and get, as pydantic models: they check requests and make the OpenAPI document."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    StrictBool,
    StrictInt,
    StrictStr,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from meld.dataset.table_files import writable


def _writable(text: str) -> str:
    if not text.isascii() and not writable(text):
        raise ValueError("half of a surrogate pair is no text")
    return text


def _plainly(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    """One plain sentence about a cell, instead of one for each kind of value that it is not."""
    try:
        return check(value)
    except ValidationError:
        raise ValueError(_wrong(value)) from None


def _wrong(value: Any) -> str:
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, float) and not math.isfinite(item):
            return "NaN and infinity are no values; null is a missing one"
        if isinstance(item, str) and not writable(item):
            return "half of a surrogate pair is no text"
    return "a value is text, a number, true, false or null, or a list of these"


Text = Annotated[StrictStr, AfterValidator(_writable)]
Plain = Text | StrictInt | FiniteFloat | StrictBool | None
Cell = Annotated[Plain | list[Plain], WrapValidator(_plainly)]
"""A value, read as text as it is written; null is a missing value, a list the options of a row."""

Row = dict[Text, Cell]
Rows = Annotated[list[Row], Field(min_length=1)]


class Question(BaseModel):
    """What is asked about the rows."""

    model_config = ConfigDict(extra="forbid")

    unit: Text | None = Field(None, description="<dataset>.<task>, one of GET /v1/units")
    task: Text | None = Field(None, description="the task, where one unit of the bundle has it")
    target: Text | None = Field(None, description="the column asked about, where the task asks about one")


class PredictRequest(Question):
    """Rows to answer."""

    rows: Rows = Field(description="the rows; of pairs the left ones, or columns left_... and right_...")
    right: Rows | None = Field(None, description="the right tuples of pairs, row by row")


class ExplainRequest(Question):
    """One row to explain."""

    row: Row = Field(description="the row; of a pair with columns left_... and right_...")


class Answer(BaseModel):
    """The answer to one row."""

    prediction: str | None = Field(description="null where nothing usable came back")
    score: float | None = Field(description="confidence in [0, 1]")
    experts: list[str] = Field(description="who answered, the heaviest first; none where the encoder answers alone")
    weights: list[float] = Field(description="their weights")
    status: str = Field(description="ok | invalid (no usable answer) | skipped (cleaning keeps the cell)")


class PredictAnswer(BaseModel):
    """One answer per row, in the order of the rows."""

    predictions: list[Answer]


class Weighed(BaseModel):
    """An option with its probability."""

    option: str
    probability: float


class Change(BaseModel):
    """What a step of the path changed before the question was asked."""

    step: str
    kind: str = Field(description="fill | add | revise | attach")
    attribute: str
    before: str
    after: str
    confidence: float


class ExplainAnswer(BaseModel):
    """How an answer came about."""

    answer: Answer
    path: list[str] = Field(description="the steps before the expert")
    changes: list[Change]
    ranked: list[Weighed] = Field(description="the options, most probable first")
    evidence: list[Weighed] = Field(description="the options by retrieval alone")
    prompt: str = Field(description="what the language model read; empty where the encoder answers")


class Unit(BaseModel):
    """What a unit is about, and what a question to it has to bring."""

    model_config = ConfigDict(extra="allow")

    unit: str
    task: str


class Units(BaseModel):
    """The units of the bundle."""

    units: list[Unit]


class Health(BaseModel):
    """A state."""

    status: str


class Problem(BaseModel):
    """What is wrong."""

    what: str
    where: str
    fix: str


class Refusal(BaseModel):
    """Every error."""

    error: Problem
