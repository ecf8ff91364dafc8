"""``meld.load``: a bundle as a Python object that answers frames."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meld.bundle.files import STREAM
from meld.bundle.job import COLUMNS, FileRows, FrameRows, Job, Rows, Target, bar, frame_of
from meld.bundle.opened import Opened
from meld.bundle.rows import known_records, request
from meld.config.targets import nearest
from meld.dataset.table_pieces import TableFile
from meld.engine.base import Engine
from meld.errors import UserError
from meld.metapath.edits import Edit
from meld.metapath.record import Asked
from meld.progress import Silent
from meld.types import Prediction, Query, Table

if TYPE_CHECKING:
    from pandas import DataFrame, Series

CHUNK = 256
"""Rows that are answered, and kept, together."""


@dataclass(frozen=True)
class Explanation:
    """How one answer came about.

    Attributes:
        prediction: The answer, with all ranked options.
        asked: The question as it was asked, what steps of the path changed in it, and its prompt.
        path: The steps before the expert.
    """

    prediction: Prediction
    asked: Asked
    path: tuple[str, ...]

    @property
    def query(self) -> Query:
        """The question, with what the path changed."""
        return self.asked.query

    @property
    def prompt(self) -> str:
        """What the language model read; empty for units that the encoder answers."""
        return self.asked.prompt

    @property
    def ranked(self) -> tuple[tuple[str, float], ...]:
        """Options with their probabilities, most probable first (similarities for blocking); none if it was written."""
        return tuple(zip(self.asked.options, self.asked.probabilities, strict=False))

    @property
    def evidence(self) -> tuple[tuple[str, float], ...]:
        """Options with what retrieval alone gives them, most probable first; empty where it was not asked apart."""
        found = zip(self.asked.options, self.asked.evidence, strict=False)
        return tuple(sorted(found, key=lambda pair: -pair[1]))

    def __str__(self) -> str:
        said = self.prediction
        lines = [f"{said.output!r} (score {said.score:.3f}, {said.status})"]
        lines += [f"  {weight:.2f}  {name}" for name, weight in zip(said.experts, said.weights, strict=True)]
        lines += [f"path: {' > '.join(self.path)}"] if self.path else []
        lines += [f"  {_change(edit)}" for edit in self.asked.edits]
        evidence = dict(self.evidence)
        lines += ["options:"] if self.ranked else []
        lines += [
            f"  {share:.3f}  {option}" + (f"  (retrieval alone {evidence[option]:.3f})" if option in evidence else "")
            for option, share in self.ranked[:10]
        ]
        return "\n".join(lines)


def _change(edit: Edit) -> str:
    change = f"{edit.before!r} -> {edit.after!r}" if edit.before else repr(edit.after)
    return f"{edit.kind} {edit.attribute}: {change}  ({edit.step}, confidence {edit.confidence:.2f})"


class Model:
    """A trained MELD that answers a user's own rows. Made by :func:`meld.load` and :func:`meld.fit`.

    Args:
        opened: The bundle.
    """

    def __init__(self, opened: Opened) -> None:
        self.opened = opened
        self._known: dict[str, dict[str, dict[tuple[str, ...], str]]] = {}

    def __repr__(self) -> str:
        return f"<meld.Model {self.opened.folder}: {', '.join(self.units)}>"

    @property
    def units(self) -> tuple[str, ...]:
        """What can be asked: ``<dataset>.<task>``."""
        return self.opened.names

    def card(self, unit: str) -> dict[str, Any]:
        """What a unit is about, and what a question to it needs: columns, targets, domain."""
        return dict(self.opened.cards[self._unit(None, unit)])

    def predict(
        self,
        frame: DataFrame,
        task: str | None = None,
        target: str | None = None,
        *,
        unit: str | None = None,
        right: DataFrame | None = None,
        out: str | Path | None = None,
        restart: bool = False,
        file_format: str | None = None,
        progress: bool = True,
        chunk: int = CHUNK,
    ) -> DataFrame:
        """Answer every row.

        Every task is asked in one form: ``predict(rows, task)``, with ``target`` where the task is about a column
        (``di``, ``ed``, ``dc``, ``el``, ``ave``; or a column ``target`` that names it row by row). Pair tasks (``em``,
        ``sm``) take columns ``left_...`` and ``right_...``, or two frames of one length. Values are read as text; None
        and NaN are missing values. Other columns are passed over. A tuple that the bundle's tables hold is recognised
        by its values; any other one is judged by its place among them.

        Args:
            frame: The rows; of pairs the left ones if ``right`` is given.
            task: The task; may be left out where ``unit`` says it.
            target: The column asked about; may be left out if the unit knows one only.
            unit: Which dataset's expert knowledge to use, ``<dataset>.<task>``; needed where several have the task.
            right: The right tuples of pairs.
            out: A file to write as well: the rows with their answers (CSV, Parquet or JSON lines by its suffix).
                Finished chunks are kept beside it, so that after an interrupt the same call goes on where it stopped.
            restart: Begin anew instead.
            file_format: The format of ``out`` where its suffix does not say: ``csv`` | ``parquet`` | ``jsonl``.
            progress: Show a progress bar.
            chunk: Rows at a time.

        Returns:
            A frame with the same index in the same order: ``prediction`` (None where nothing usable came back),
            ``score`` in [0, 1], ``experts`` and ``weights`` (highest first; empty where the encoder answers) and
            ``status`` (``ok`` | ``invalid`` | ``skipped``: data cleaning keeps a cell that is not suspicious).

        Raises:
            UserError: For an unknown task or unit, a missing column (named), a target that the unit cannot be asked
                about, or an ``out`` that would hold two columns of one name.
        """
        name = self._unit(task, unit)
        job = self._job(name, FrameRows(frame), None if right is None else FrameRows(right), target, chunk)
        told = job.answers(progress) if out is None else job.write(Target(str(out), file_format, restart), progress)
        return frame_of([prediction for made in told for prediction in made], frame.index)

    def predict_file(
        self,
        rows: TableFile,
        out: str | Path = STREAM,
        task: str | None = None,
        target: str | None = None,
        *,
        unit: str | None = None,
        right: TableFile | None = None,
        restart: bool = False,
        file_format: str | None = None,
        progress: bool = True,
        chunk: int = CHUNK,
    ) -> Counter[str]:
        """Answer the rows of a file of any length into another file; no more than a chunk of them is in memory.

        Args:
            rows: The file (:func:`meld.bundle.files.rows_in`); of pairs the left ones if ``right`` is given.
            out: The file to write, or ``-`` for standard output. Of a file, finished chunks are kept beside it.
            task: As for :meth:`predict`.
            target: As for :meth:`predict`.
            unit: As for :meth:`predict`.
            right: The right tuples of pairs.
            restart: Begin anew instead of going on where the same call was interrupted.
            file_format: The format of ``out`` where its suffix does not say: ``csv`` | ``parquet`` | ``jsonl``.
            progress: Show a progress bar.
            chunk: Rows at a time.

        Returns:
            How many rows came to which status.

        Raises:
            UserError: As :meth:`predict`.
        """
        name = self._unit(task, unit)
        job = self._job(name, FileRows(rows), None if right is None else FileRows(right), target, chunk)
        told = job.write(Target(str(out), file_format, restart), progress)
        return Counter(prediction.status for made in told for prediction in made)

    def match(
        self,
        left: DataFrame,
        right: DataFrame,
        *,
        unit: str | None = None,
        candidates: int = 5,
        progress: bool = True,
        chunk: int = CHUNK,
    ) -> DataFrame:
        """Find the pairs of two tables: block (the nearest right tuples of every left one), then match.

        Args:
            left: The left table, with the unit's left columns.
            right: The right table.
            unit: Which matching unit; needed where the bundle has several.
            candidates: Right tuples that are asked about for every left one, at most ten.
            progress: Show a progress bar.
            chunk: Pairs at a time.

        Returns:
            One row per pair asked about, the most probable match of a left tuple first: ``left`` and ``right`` (index
            labels) and the columns of :meth:`predict`. ``score`` is the confidence in ``prediction``.

        Raises:
            UserError: If there is no matching unit, a column is missing, or ``candidates`` is out of range.
        """
        if not 1 <= candidates <= 10:
            raise UserError(f"candidates is {candidates}.", where="match(candidates=...)", fix="1 to 10")
        name = self._unit("em", unit)
        card = self.opened.cards[name]
        trained = self.opened.unit(name)
        names = [table.name for table in trained.data.tables.values()]
        if len(names) != 2:
            raise UserError(f"{name} was trained on pairs without tables; nothing tells how to block.", fix="predict")
        tables, keys = {}, list(trained.data.tables)
        for side, (key, frame) in enumerate(zip(keys, (left, right), strict=True)):
            one = {**card, "sides": [card["sides"][side]], "linked": False}
            rows = request(name, one, {}, frame, None, None).queries(0, len(frame), {})
            known = trained.data.tables[key]
            entities = {str(row): query.entities[0] for row, query in enumerate(rows)}
            tables[key] = Table(known.name, known.title, tuple(card["sides"][side]), entities)
        if not len(left) or not len(right):
            return frame_of([], left.index[:0]).assign(left=[], right=[])[["left", "right", *COLUMNS]]
        over = trained.over(tables)
        assert over.partners is not None
        pairs = [
            (row, int(reference.partition(":")[2]))
            for row in range(len(left))
            for reference, _ in over.partners.nearest(f"{names[0]}:{row}")[:candidates]
        ]
        found: list[Prediction] = []
        with bar(f"match {name}", len(pairs), progress) as advance:
            for start in range(0, len(pairs), chunk):
                some = pairs[start : start + chunk]
                queries = [
                    Query(
                        id=f"{name}/pair/{i}/{j}",
                        unit=name,
                        task="em",
                        entities=(tables[keys[0]].rows[str(i)], tables[keys[1]].rows[str(j)]),
                        rows=(f"{names[0]}:{i}", f"{names[1]}:{j}"),
                        title=card["title"] or "",
                    )
                    for i, j in some
                ]
                found += [prediction for prediction, _ in self.opened.answer_in(over, queries, Silent())]
                advance(len(some))
        return _matches(found, pairs, left, right)

    def explain(
        self,
        row: Series[Any] | DataFrame | dict[str, Any],
        task: str | None = None,
        target: str | None = None,
        *,
        unit: str | None = None,
    ) -> Explanation:
        """How the answer to one row comes about: facts, evidence, experts, prompt.

        Args:
            row: One row: a mapping, a series, or a frame of one row.
            task: As for :meth:`predict`.
            target: As for :meth:`predict`.
            unit: As for :meth:`predict`.

        Raises:
            UserError: As :meth:`predict`, and for anything but one row.
        """
        import pandas as pd

        if not isinstance(row, (Mapping, pd.Series, pd.DataFrame)):
            raise UserError(
                f"One row is explained: a mapping, a series or a frame of one row, not {type(row).__name__}.",
                where="explain(row)",
                fix="explain(df.iloc[0], ...)",
            )
        frame = row if isinstance(row, pd.DataFrame) else pd.DataFrame([dict(row)], dtype=object)
        if len(frame) != 1:
            raise UserError(f"There are {len(frame)} rows; one is explained at a time.", fix="explain(df.iloc[0], ...)")
        name = self._unit(task, unit)
        tables, card = self.opened.unit(name).data.tables, self.opened.cards[name]
        queries = request(name, card, tables, frame, None, target).queries(0, 1, self._records(name))
        prediction, asked = self.opened.answer(name, queries)[0]
        return Explanation(prediction, asked, self.opened.path(name))

    def _unit(self, task: str | None, unit: str | None) -> str:
        """The unit that is meant.

        Raises:
            UserError: If there is none, or several.
        """
        for what, name in (("task", task), ("unit", unit)):
            if name is not None and not isinstance(name, str):
                raise UserError(f"A {what} is named as text, not as {type(name).__name__}.", where=what)
        if unit is not None:
            if unit not in self.units or (task is not None and unit.rpartition(".")[2] != task):
                guess = nearest(unit, list(self.units))
                raise UserError(
                    f"The bundle has no unit {unit!r}" + (f" for the task {task}." if task else "."),
                    where="unit",
                    fix=f"did you mean {guess}?" if guess else f"it has {', '.join(self.units)}",
                )
            return unit
        found = [name for name in self.units if task is None or name.rpartition(".")[2] == task]
        if len(found) == 1:
            return found[0]
        if not found:
            known = sorted({name.rpartition(".")[2] for name in self.units})
            raise UserError(
                f"The bundle cannot answer the task {task!r}.", where="task", fix=f"it answers {', '.join(known)}"
            )
        raise UserError(
            f"Several units {'answer ' + task if task else 'are there'}: {', '.join(found)}.",
            where="unit",
            fix=f"say which one the rows are like: unit={found[0]!r}",
        )

    def _job(self, name: str, rows: Rows, right: Rows | None, target: str | None, chunk: int) -> Job:
        return Job(self.opened, name, self._records(name), rows, right, target, chunk)

    def _records(self, name: str) -> dict[str, dict[tuple[str, ...], str]]:
        if name not in self._known:
            tables = self.opened.unit(name).data.tables.values()
            self._known[name] = known_records({table.name: table for table in tables})
        return self._known[name]


def _matches(
    found: Sequence[Prediction], pairs: Sequence[tuple[int, int]], left: DataFrame, right: DataFrame
) -> DataFrame:
    """Pairs in the order of the left tuples, the most probable match first."""
    probable = [p.score if p.output == "match" else 1.0 - p.score for p in found]
    order = sorted(range(len(pairs)), key=lambda place: (pairs[place][0], -probable[place]))
    import pandas as pd

    frame = frame_of([found[place] for place in order], pd.RangeIndex(len(order)))
    frame.insert(0, "left", [left.index[pairs[place][0]] for place in order])
    frame.insert(1, "right", [right.index[pairs[place][1]] for place in order])
    return frame


def load(folder: str | Path, *, base: str | None = None, engine: Engine | None = None, device: str = "auto") -> Model:
    """Open a bundle that ``meld export`` wrote; the configuration it was trained with is not needed.

    Args:
        folder: The bundle.
        base: Where the base model is on this machine, if not under the name it was trained by.
        engine: What runs the experts, in the place of the engine the run used.
        device: ``auto`` | ``cpu`` | ``cuda`` | ``cuda:N`` | ``mps``.

    Raises:
        UserError: If there is no bundle, it has been tampered with, the base model differs, or there is no such device.
    """
    return Model(Opened(Path(folder), base, engine, device))
