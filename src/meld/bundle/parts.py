"""Predictions in parts on disk, so that an interrupted job goes on where it stopped.

Beside the output ``out.csv`` lies the folder ``out.csv.parts`` while a job runs: ``job.json`` says which job it is, and
every finished chunk of rows is one file that appears whole or not at all. No row can be lost or doubled, whenever the
process is killed: a chunk counts when its file is there.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from meld.bundle.files import write_whole
from meld.dataset.io import load_predictions, save_predictions
from meld.errors import UserError
from meld.types import Prediction

_JOB = "job.json"


class Parts:
    """The finished chunks of a job.

    Args:
        out: The file that the job is to write.
        job: What identifies the job: the bundle, the question, the rows, the size of a chunk.
        restart: Throw away what another or the same job left, instead of going on.

    Raises:
        UserError: If another job was interrupted while it wrote the same file, or the folder cannot be written to.
    """

    def __init__(self, out: Path, job: Mapping[str, object], restart: bool = False) -> None:
        self.folder = out.with_name(f"{out.name}.parts")
        if restart:
            shutil.rmtree(self.folder, ignore_errors=True)
        note = self.folder / _JOB
        said = json.dumps(dict(job), sort_keys=True, ensure_ascii=False)
        if note.is_file():
            if note.read_text(encoding="utf-8") != said:
                raise UserError(
                    "Another job was interrupted while it wrote this file: its rows, question or bundle differ.",
                    where=str(self.folder),
                    fix="go on with that job, write another file, or begin anew: --restart (restart=True)",
                )
            return
        write_whole(note, said.encode())

    def has(self, chunk: int) -> bool:
        """Whether a chunk is finished."""
        return self._path(chunk).is_file()

    def write(self, chunk: int, predictions: Sequence[Prediction]) -> None:
        """Keep a finished chunk."""
        partial = self.folder / f".{chunk}.{os.getpid()}.partial"
        save_predictions(predictions, partial)
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(partial, self._path(chunk))

    def read(self, chunk: int) -> list[Prediction]:
        """A finished chunk."""
        return load_predictions(self._path(chunk))

    def discard(self) -> None:
        """Remove the folder; the output is whole."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, chunk: int) -> Path:
        return self.folder / f"{chunk:08d}.parquet"
