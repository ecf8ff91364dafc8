"""Predictions in parts on disk, so that an interrupted job goes on where it stopped.

Beside the output ``out.csv`` lies the folder ``out.csv.parts`` while a job runs: ``job.json`` says which job it is, and
every finished chunk of rows is one file that appears whole or not at all. No row can be lost or doubled, whenever the
process is killed: a chunk counts when its file is there. Its name has the number of its first row and the digest of the
job, so that no other job can take it for its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from meld.bundle.files import said, write_whole
from meld.dataset.io import load_predictions, save_predictions
from meld.errors import UserError
from meld.types import Prediction

_JOB, _LOCK = "job.json", "lock"
_OWN = re.compile(r"\d{8,}(-[0-9a-f]{16})?\.parquet|.*\.partial")
"""Files that jobs leave; whatever else lies in the folder is somebody else's, and stays."""

_SPOKEN = {"target": "asked column", "rows": "number of rows", "content": "rows"}


class Parts:
    """The finished chunks of a job, which are one process's alone inside the ``with`` block.

    Args:
        out: The file that the job is to write.
        job: What identifies the job: the bundle, the question, the rows.
        restart: Throw away what another or the same job left, instead of going on.

    Raises:
        UserError: On entering: if a process is writing the same file, if another job was interrupted while it did, or
            if the folder cannot be written to.
    """

    def __init__(self, out: Path, job: Mapping[str, object], restart: bool = False) -> None:
        self.out, self.folder = out, out.with_name(f"{out.name}.parts")
        self._job, self._restart = dict(job), restart
        self._digest = hashlib.sha256(self._text.encode()).hexdigest()[:16]
        # The operating system frees it when the process ends, however it ends.
        self._lock = FileLock(self.folder / _LOCK, thread_local=False)

    def __enter__(self) -> Parts:
        with said(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire(timeout=0)
            except Timeout:
                raise UserError(
                    f"Another process is writing {self.out.name} at this moment.",
                    where=str(self.folder),
                    fix="wait until it has ended, or write another file",
                ) from None
        try:
            with said(self.folder):
                self._begin()
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()

    def finished(self) -> Iterator[Prediction]:
        """The predictions of the finished chunks, one by one, from the first row to the first that has none."""
        row = 0
        while self._path(row).is_file():
            chunk = load_predictions(self._path(row))
            yield from chunk
            row += len(chunk)

    def write(self, row: int, predictions: Sequence[Prediction]) -> None:
        """Keep a finished chunk.

        Args:
            row: The number of its first row.
            predictions: At least one.
        """
        partial = self.folder / f".{row}.{os.getpid()}.partial"
        save_predictions(predictions, partial)
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(partial, self._path(row))

    def discard(self) -> None:
        """Remove all chunks.

        The note goes first: chunks without one count for nobody, so that a process killed in the middle leaves nothing
        that this job or another one would go on with.
        """
        (self.folder / _JOB).unlink(missing_ok=True)
        for path in self.folder.iterdir():
            if _OWN.fullmatch(path.name):
                path.unlink()

    def _begin(self) -> None:
        """Go on with the job that the note names, or begin."""
        noted = None if self._restart else self._noted()
        if noted is None:
            self.discard()
            write_whole(self.folder / _JOB, self._text.encode())
        elif noted != self._job:
            raise UserError(
                f"Another job was interrupted while it wrote this file; it differs in {self._difference(noted)}.",
                where=str(self.folder),
                fix="go on with that job, write another file, or begin anew: restart=True",
            )

    def _noted(self) -> dict[str, object] | None:
        """The job of the note; None without one that can be read."""
        try:
            found = json.loads((self.folder / _JOB).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def _difference(self, noted: Mapping[str, object]) -> str:
        """What tells the noted job from this one, for the message."""
        differ = [key for key in {**self._job, **noted} if self._job.get(key) != noted.get(key)]
        # Another question, or another number of rows, is another content as well.
        if len(differ) > 1 and differ != ["bundle", "content"]:
            differ = [key for key in differ if key != "content"]
        return " and ".join(f"the {_SPOKEN.get(key, key)}" for key in differ)

    def _leave(self) -> None:
        """Free the folder; without content it goes. A process that waits for the removed lock notices that."""
        with suppress(OSError):
            (self.folder / _LOCK).unlink()
            self.folder.rmdir()
        self._lock.release()

    @property
    def _text(self) -> str:
        return json.dumps(self._job, sort_keys=True, ensure_ascii=False)

    def _path(self, row: int) -> Path:
        return self.folder / f"{row:08d}-{self._digest}.parquet"
