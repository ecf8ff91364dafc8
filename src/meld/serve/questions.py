"""Between requests and the model: which rows may be answered together, and answers as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from meld.serve.limits import Limits, TooLarge, check_rows
from meld.serve.schema import ExplainRequest, PredictRequest, Question

if TYPE_CHECKING:
    from pandas import DataFrame


class Model(Protocol):
    """What is served: what ``meld.load`` returns, or anything that answers like it."""

    @property
    def units(self) -> tuple[str, ...]:
        """What can be asked: ``<dataset>.<task>``."""
        ...

    def card(self, unit: str) -> dict[str, Any]:
        """What a unit is about."""
        ...

    def predict(
        self,
        frame: DataFrame,
        task: str | None = None,
        target: str | None = None,
        *,
        unit: str | None = None,
        right: DataFrame | None = None,
        progress: bool = True,
    ) -> DataFrame:
        """Columns ``prediction``, ``score``, ``experts``, ``weights`` and ``status``, one line per row, in order."""
        ...

    def explain(
        self, row: DataFrame, task: str | None = None, target: str | None = None, *, unit: str | None = None
    ) -> Any:
        """How the answer to one row comes about (:class:`meld.bundle.model.Explanation`)."""
        ...


@dataclass(frozen=True)
class Form:
    """What rows have in common that may be answered together.

    The columns belong to it: a row that lacks one must be refused, and not be filled up because a neighbour has it.

    Attributes:
        unit: The unit asked, None if the model is to find it, or to say why it cannot.
        task: The task.
        target: The column asked about.
        columns: The columns, in order.
        right: The columns of the right tuples; None if they are not apart.
        lone: Set for a row that is explained, alone.
    """

    unit: str | None
    task: str | None
    target: str | None
    columns: tuple[str, ...]
    right: tuple[str, ...] | None = None
    lone: bool = False


Line = tuple[tuple[Any, ...], tuple[Any, ...] | None]
"""The values of a row in the order of its form's columns, and those of its right tuple."""


def check_sizes(asked: PredictRequest | ExplainRequest, limits: Limits) -> None:
    """Refuse what is above a limit.

    Raises:
        TooLarge: Naming it.
    """
    for name in ("unit", "task", "target"):
        value = getattr(asked, name)
        if value is not None and len(value) > limits.name_chars:
            raise TooLarge(f"The {name} has {len(value)} characters.", where=name, fix="a shorter one")
    if isinstance(asked, ExplainRequest):
        check_rows([asked.row], limits, "row")
        return
    check_rows(asked.rows, limits)
    check_rows(asked.right or (), limits, "right")


def form_of(asked: PredictRequest | ExplainRequest, units: Sequence[str]) -> Form:
    """The form of a request; a unit that only its task names is found if there is one."""
    unit, task = _unit(asked, units)
    if isinstance(asked, ExplainRequest):
        return Form(unit, task, asked.target, tuple(asked.row), lone=True)
    right = None if asked.right is None else _columns(asked.right)
    return Form(unit, task, asked.target, _columns(asked.rows), right)


def _unit(asked: Question, units: Sequence[str]) -> tuple[str | None, str | None]:
    if asked.unit is None and asked.task is not None:
        found = [unit for unit in units if unit.rpartition(".")[2] == asked.task]
        if len(found) == 1:
            return found[0], None
    if asked.unit is not None and asked.unit in units and asked.task == asked.unit.rpartition(".")[2]:
        return asked.unit, None
    return asked.unit, asked.task


def _columns(rows: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for row in rows for name in row))


def lines_of(asked: PredictRequest | ExplainRequest, form: Form) -> list[Line]:
    """The rows of a request as lines of its form; what a row leaves out is missing."""
    if isinstance(asked, ExplainRequest):
        return [(tuple(asked.row.values()), None)]
    left = [tuple(row.get(name) for name in form.columns) for row in asked.rows]
    if asked.right is None or form.right is None:
        return [(line, None) for line in left]
    right = [tuple(row.get(name) for name in form.right) for row in asked.right]
    return list(zip(left, right, strict=True))


def answer(model: Model, form: Form, lines: Sequence[Line]) -> list[dict[str, Any]]:
    """Answer lines of one form.

    Args:
        model: The model.
        form: Their form.
        lines: The lines.

    Returns:
        One JSON object per line, in order: :class:`meld.serve.schema.Answer`, or of a lone line
        :class:`meld.serve.schema.ExplainAnswer`.

    Raises:
        UserError: If the model refuses them.
    """
    frame = _frame(form.columns, [left for left, _ in lines])
    if form.lone:
        return [explanation(model.explain(frame, form.task, form.target, unit=form.unit))]
    right = None if form.right is None else _frame(form.right, [line or () for _, line in lines])
    found = model.predict(frame, form.task, form.target, unit=form.unit, right=right, progress=False)
    columns = (found[name] for name in ("prediction", "score", "experts", "weights", "status"))
    return [_answer(*values) for values in zip(*columns, strict=True)]


def _frame(columns: Sequence[str], lines: Sequence[tuple[Any, ...]]) -> DataFrame:
    """Values stay the objects they are, so that 6000 is not read as 6000.0 because a neighbour has none."""
    import pandas as pd

    if not columns:
        return pd.DataFrame(index=pd.RangeIndex(len(lines)))
    return pd.DataFrame(
        {name: pd.Series([line[place] for line in lines], dtype=object) for place, name in enumerate(columns)}
    )


def explanation(said: Any) -> dict[str, Any]:
    """An explanation as JSON (:class:`meld.serve.schema.ExplainAnswer`)."""
    made = said.prediction
    return {
        "answer": _answer(made.output, made.score, made.experts, made.weights, made.status),
        "path": list(said.path),
        "changes": [
            {
                "step": edit.step,
                "kind": edit.kind,
                "attribute": edit.attribute,
                "before": edit.before,
                "after": edit.after,
                "confidence": float(edit.confidence),
            }
            for edit in said.asked.edits
        ],
        "ranked": _weighed(said.ranked),
        "evidence": _weighed(said.evidence),
        "prompt": said.prompt,
    }


def _answer(output: Any, score: Any, experts: Iterable[Any], weights: Iterable[Any], status: Any) -> dict[str, Any]:
    return {
        # A missing answer beside others may have become NaN in a column of text.
        "prediction": output if isinstance(output, str) else None,
        "score": float(score) if math.isfinite(score) else None,
        "experts": [str(name) for name in experts],
        "weights": [float(weight) for weight in weights],
        "status": str(status),
    }


def _weighed(pairs: Iterable[tuple[str, float]]) -> list[dict[str, Any]]:
    return [{"option": option, "probability": float(share)} for option, share in pairs]
