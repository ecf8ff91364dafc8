"""Reads what wandb writes offline: the records of a ``.wandb`` file, a LevelDB log of protocol buffers."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from wandb.proto import wandb_internal_pb2

BLOCK = 32768
HEADER = struct.Struct("<IHB")
"""Checksum, length and kind (1 whole, 2 first, 3 middle, 4 last) of a piece of a record."""


def records(file: Path) -> Iterator[Any]:
    """The records of a run, in the order in which they were logged.

    Args:
        file: ``run-<id>.wandb``.
    """
    data = file.read_bytes()
    assert data[:4] == b":W&B"
    at, pieces = 7, b""
    while at + HEADER.size <= len(data):
        left = BLOCK - at % BLOCK
        if left < HEADER.size:
            at += left
            continue
        _, length, kind = HEADER.unpack(data[at : at + HEADER.size])
        at += HEADER.size
        pieces += data[at : at + length]
        at += length
        if kind in {1, 4}:
            record = wandb_internal_pb2.Record()
            record.ParseFromString(pieces)
            pieces = b""
            yield record


def of_kind(file: Path, kind: str) -> list[Any]:
    """The records of one kind (``run``, ``history``, ``summary``, ``artifact``).

    wandb's background process may still be writing when the run has been finished, so its last record is waited for.
    """
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not _ended(file):
        time.sleep(0.1)
    return [getattr(record, kind) for record in records(file) if record.WhichOneof("record_type") == kind]


def _ended(file: Path) -> bool:
    """Whether the run's last record is there; a file caught in mid-write ends with half a record."""
    try:
        return any(record.WhichOneof("record_type") == "exit" for record in records(file))
    except DecodeError:
        return False
