"""Many rows, answered some at a time: of frames or files of any length, resumable, checked before the first answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

from meld.bundle.files import STREAM, TableWriter, check_output, format_of
from meld.bundle.opened import Opened
from meld.bundle.parts import Parts
from meld.bundle.rows import Request, check_frame, check_lengths, request
from meld.dataset.table_pieces import TableFile
from meld.errors import UserError
from meld.types import Prediction, Query

if TYPE_CHECKING:
    from pandas import DataFrame

COLUMNS = ("prediction", "score", "experts", "weights", "status")
"""The columns of a frame of predictions."""

_TYPES = (pa.string(), pa.float64(), pa.list_(pa.string()), pa.list_(pa.float64()), pa.string())


class Rows(Protocol):
    """Rows that can be gone through more than once."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def pieces(self, size: int) -> Iterator[DataFrame]:
        """The rows in order, ``size`` at a time; one empty piece where there are none."""
        ...

    def schema(self) -> pa.Schema:
        """Types of the columns in Parquet."""
        ...

    @property
    def source(self) -> Path | None:
        """The file that they are in, if they are in one."""
        ...


@dataclass(frozen=True)
class FrameRows:
    """The rows of a frame."""

    frame: DataFrame

    def __post_init__(self) -> None:
        check_frame(self.frame)

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def source(self) -> Path | None:
        """None: they are in memory."""
        return None

    def pieces(self, size: int) -> Iterator[DataFrame]:
        """The rows in order, ``size`` at a time; one empty piece where there are none."""
        for start in range(0, max(1, len(self.frame)), size):
            yield self.frame.iloc[start : start + size]

    def schema(self) -> pa.Schema:
        """Types of the columns in Parquet.

        Raises:
            UserError: If a column holds what no type takes.
        """
        named = self.frame.set_axis([str(column) for column in self.frame.columns], axis=1)
        try:
            return pa.Schema.from_pandas(named, preserve_index=False)
        except pa.ArrowException as error:
            raise UserError(
                f"The rows cannot be written as Parquet: {str(error).splitlines()[0]}",
                fix="make text of the column, or write CSV or JSON lines",
            ) from error


@dataclass(frozen=True)
class FileRows:
    """The rows of a file, which is never in memory as a whole."""

    table: TableFile

    def __len__(self) -> int:
        return len(self.table)

    @property
    def source(self) -> Path | None:
        """The file."""
        return self.table.path

    def pieces(self, size: int) -> Iterator[DataFrame]:
        """The rows in order, ``size`` at a time; one empty piece where there are none."""
        import pandas as pd

        for piece in self.table.pieces(size) if len(self) else [[]]:
            yield pd.DataFrame(piece, columns=list(self.table.columns), dtype=object)

    def schema(self) -> pa.Schema:
        """Types of the columns in Parquet: everything is text."""
        return pa.schema([(name, pa.string()) for name in self.table.columns])


@dataclass(frozen=True)
class Target:
    """Where answers go.

    Attributes:
        name: The file, or ``-`` for standard output.
        kind: Its format, where the suffix does not say.
        restart: Throw away what an interrupted job left, instead of going on.
    """

    name: str
    kind: str | None = None
    restart: bool = False


class Job:
    """Rows, and what is asked about them.

    Args:
        opened: The bundle.
        unit: The unit asked.
        known: The records of its tables (:func:`meld.bundle.rows.known_records`).
        rows: The rows; of pairs the left ones if ``right`` is given.
        right: The right tuples of pairs.
        target: The column asked about.
        chunk: Rows that are answered, and kept, together.

    Raises:
        UserError: For a missing column (named), or a target that the unit cannot be asked about.
    """

    def __init__(
        self,
        opened: Opened,
        unit: str,
        known: Mapping[str, Mapping[tuple[str, ...], str]],
        rows: Rows,
        right: Rows | None,
        target: str | None,
        chunk: int,
    ) -> None:
        if chunk < 1:
            raise UserError(f"A chunk of {chunk} rows holds nothing.", where="chunk", fix="chunk=256")
        if right is not None:
            check_lengths(len(rows), len(right))
        self._opened, self._unit, self._known = opened, unit, known
        self._rows, self._right, self._chunk = rows, right, chunk
        self._asked = target
        self._target = next(self._pieces())[1].target

    def answers(self, progress: bool) -> Iterator[list[Prediction]]:
        """Answer all rows, chunk by chunk.

        Args:
            progress: Show a progress bar.
        """
        with bar(f"predict {self._unit}", len(self._rows), progress) as advance:
            for _, asked in self._pieces():
                yield self._answer(self._queries(asked))
                advance(len(asked))

    def write(self, to: Target, progress: bool) -> Iterator[list[Prediction]]:
        """Answer all rows, chunk by chunk, and write them with their answers.

        Every row is looked at before the first is answered. With a file, finished chunks are kept beside it, and the
        same job goes on behind them, also with chunks of another size.

        Args:
            to: Where to.
            progress: Show a progress bar.

        Raises:
            UserError: If the file cannot be written or is that of the rows, for a row that does not fit, a column named
                as one of the answers', another job on the file that was interrupted or is running, or if the rows
                change meanwhile.
        """
        sources = [rows.source for rows in (self._rows, self._right) if rows is not None]
        check_output(to.name, [source for source in sources if source is not None])
        names_beside(next(self._pieces())[0].columns)
        kind = format_of(to.name, to.kind)
        schema = self._schema() if kind == "parquet" else None
        content = self._digest()
        with nullcontext() if to.name == STREAM else Parts(Path(to.name), self._note(content), to.restart) as parts:
            partial = None if parts is None else parts.folder / "out.partial"
            with (
                bar(f"predict {self._unit}", len(self._rows), progress) as advance,
                TableWriter(to.name, kind, schema, partial) as writer,
            ):
                for piece, made in self._answered(parts, content):
                    writer.add(with_answers(piece, frame_of(made, piece.index)))
                    advance(len(piece))
                    yield made
            if parts is not None:
                with suppress(OSError):  # the output is whole
                    parts.discard()

    def _answered(self, parts: Parts | None, content: str) -> Iterator[tuple[DataFrame, list[Prediction]]]:
        """The rows with their answers, chunk by chunk, of which ``parts`` has the first and gets the others.

        Raises:
            UserError: Behind the last, if the rows are not those of the digest ``content``.
        """
        seen, row = hashlib.sha256(), 0
        finished = iter(()) if parts is None else parts.finished()
        for piece, asked in self._pieces():
            queries = self._queries(asked)
            _add_to(seen, queries)
            made = list(islice(finished, len(queries)))
            left = queries[len(made) :]
            if left:
                answers = self._answer(left)
                if parts is not None:
                    parts.write(row + len(made), answers)
                made += answers
            row += len(queries)
            yield piece, made
        if seen.hexdigest() != content:
            if parts is not None:
                parts.discard()  # who asks about the former rows again must not get answers to these
            raise UserError("The rows changed while they were answered.", fix="leave the file alone until then")

    def _note(self, content: str) -> dict[str, object]:
        """What identifies the job."""
        job = {"bundle": self._opened.identity, "unit": self._unit, "target": self._target}
        return {**job, "rows": len(self._rows), "content": content}

    def _schema(self) -> pa.Schema:
        own = self._rows.schema()
        for name, kind in zip(names_beside(own.names), _TYPES, strict=True):
            own = own.append(pa.field(name, kind))
        return own

    def _pieces(self) -> Iterator[tuple[DataFrame, Request]]:
        """The rows, chunk by chunk, with their questions."""
        tables, card = self._opened.unit(self._unit).data.tables, self._opened.cards[self._unit]
        rights = None if self._right is None else self._right.pieces(self._chunk)
        first = 0
        for piece in self._rows.pieces(self._chunk):
            right = None if rights is None else next(rights)
            yield piece, request(self._unit, card, tables, piece, right, self._asked, first)
            first += len(piece)

    def _queries(self, asked: Request) -> list[Query]:
        return asked.queries(0, len(asked), self._known)

    def _answer(self, queries: Sequence[Query]) -> list[Prediction]:
        # Ranked options are for explanations; of many rows they would fill the memory.
        return [replace(told, options=(), raw="") for told, _ in self._opened.answer(self._unit, queries)]

    def _digest(self) -> str:
        """Identity of what is asked: the same rows give the same."""
        found = hashlib.sha256()
        for _, asked in self._pieces():
            _add_to(found, self._queries(asked))
        return found.hexdigest()


def _add_to(digest: Any, queries: Sequence[Query]) -> None:
    for query in queries:
        said = [[list(entity.items()) for entity in query.entities], query.target, query.title, query.options]
        digest.update(json.dumps(said, ensure_ascii=True).encode())


def frame_of(predictions: Sequence[Prediction], index: Any) -> DataFrame:
    """Predictions as a frame with the columns of :data:`COLUMNS`."""
    import pandas as pd

    columns = {
        "prediction": pd.Series([p.output for p in predictions], dtype=object),
        "score": pd.Series([p.score for p in predictions], dtype=float),
        "experts": pd.Series([p.experts for p in predictions], dtype=object),
        "weights": pd.Series([p.weights for p in predictions], dtype=object),
        "status": pd.Series([p.status for p in predictions], dtype=object),
    }
    frame = pd.DataFrame(columns)
    frame.index = index
    return frame


def names_beside(columns: Iterable[object]) -> tuple[str, ...]:
    """The columns of answers behind rows of these columns: a name that the rows have gets ``meld_`` before it.

    Raises:
        UserError: If that is taken as well.
    """
    taken = {str(column) for column in columns}
    names = tuple(f"meld_{name}" if name in taken else name for name in COLUMNS)
    twice = next((name for name in names if name in taken), None)
    if twice is not None:
        raise UserError(
            f"The rows have the columns {twice.removeprefix('meld_')!r} and {twice!r}; the answers need one.",
            where=f"column {twice!r}",
            fix="rename it",
        )
    return names


def with_answers(frame: DataFrame, answers: DataFrame) -> DataFrame:
    """The rows with their answers behind them."""
    import pandas as pd

    named = answers.set_axis(list(names_beside(frame.columns)), axis=1)
    return pd.concat([frame.reset_index(drop=True), named.reset_index(drop=True)], axis=1)


@contextmanager
def bar(what: str, total: int, shown: bool) -> Iterator[Any]:
    """A progress bar over rows on standard error; what it yields takes how many more are done."""
    from rich.console import Console
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    with Bars(console=console, transient=True, disable=not (shown and console.is_terminal)) as bars:
        task = bars.add_task(what, total=total)
        yield lambda amount: bars.advance(task, amount)
