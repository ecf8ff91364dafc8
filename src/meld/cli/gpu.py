"""One GPU for each process of a sweep on one machine."""

from __future__ import annotations

import getpass
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock, Timeout

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""What tells CUDA which devices there are; read when CUDA starts, hence set before the first model is built."""

_pinned: dict[str, FileLock | None] = {}
"""This process's device and its claim on it (None where it shares): kept until it ends, as CUDA keeps its device."""


def pin_gpu(devices: Sequence[str] | None = None, folder: Path | None = None) -> str | None:
    """Claim a GPU for this process and hide the others from it, and from the processes it starts.

    A claim is a lock on a file that the operating system frees when the process ends. Where more processes ask than
    there are GPUs, the surplus share them in turn.

    Args:
        devices: Names as ``CUDA_VISIBLE_DEVICES`` lists them; those of this machine by default.
        folder: Where the locks are; one for each user by default.

    Returns:
        The device; None where there is none to claim, or if this process has one already.
    """
    if _pinned:
        return None
    names = visible_devices() if devices is None else list(devices)
    if not names:
        return None
    place = folder or Path(tempfile.gettempdir()) / f"meld-gpus-{getpass.getuser()}"
    place.mkdir(parents=True, exist_ok=True)
    chosen, claim = names[os.getpid() % len(names)], None
    for name in names:
        lock = FileLock(place / f"{name.replace('/', '_')}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        chosen, claim = name, lock
        break
    _pinned[chosen] = claim
    os.environ[VISIBLE] = chosen
    return chosen


def visible_devices() -> list[str]:
    """The GPUs this process may use, without starting CUDA."""
    listed = os.environ.get(VISIBLE)
    if listed is not None:
        return [name for name in (part.strip() for part in listed.split(",")) if name and name != "-1"]
    try:
        found = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in found.stdout.splitlines() if line.strip()]
