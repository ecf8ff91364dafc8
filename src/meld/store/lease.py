"""Who is working on a key right now: a lease with a heartbeat, so that two processes do not do the same work twice.

A lease only saves work. What keeps artifacts whole is the atomic rename in ``store.py``: when a lease is lost (its
holder was suspended for longer than ``stale_after``), two processes compute the same artifact and one of the two equal
results is dropped.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import psutil
from filelock import SoftFileLease, Timeout

POLL_SECONDS = 0.2

ABANDONED_SECONDS = 3600.0
"""Silence after which nobody is taken to hold a claim, whatever the clocks of the machines say."""


class Lease:
    """An exclusive claim on a path, shared between processes and between machines on one file system.

    The claim is a file created with O_EXCL that names host, process and token; a thread touches it three times per
    ``stale_after``. A process that dies loses its claim at once on its own host; elsewhere when no heartbeat was seen
    for ``stale_after`` seconds, measured by the waiting process's own clock, so that skewed clocks do not matter.

    Args:
        path: The lease file. Its folder is made on acquiring.
        stale_after: Seconds without a heartbeat after which the holder is taken for dead. Equal for everybody using the
            path.
    """

    def __init__(self, path: Path, *, stale_after: float = 60.0) -> None:
        self.path = Path(path)
        self._lock = SoftFileLease(str(self.path), lease_duration=stale_after, thread_local=False)

    def acquire(
        self,
        *,
        wait: bool = True,
        done: Callable[[], bool] | None = None,
        on_wait: Callable[[str, float], None] | None = None,
    ) -> bool:
        """Take the claim.

        Args:
            wait: Whether to wait while somebody else holds it.
            done: Asked at every poll; once it says True there is nothing left to do and waiting ends.
            on_wait: Told at every poll who holds the claim and for how many seconds we have waited.

        Returns:
            Whether the claim is held now. False if ``wait`` is false and somebody else has it, or if ``done`` said
            True.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()

        def finished() -> bool:
            if on_wait is not None:
                on_wait(self.holder, time.monotonic() - started)
            return done is not None and done()

        try:
            self._lock.acquire(timeout=-1 if wait else 0, poll_interval=POLL_SECONDS, cancel_check=finished)
        except Timeout:
            return False
        return True

    def release(self) -> None:
        """Give the claim back; nothing happens if it is not held."""
        self._lock.release()

    @property
    def holder(self) -> str:
        """Who holds the claim, as ``process <pid> on <host>``; ``nobody`` if it is free."""
        owner = self._lock.owner
        if owner is None:
            return "nobody"
        here = " (this machine)" if owner.hostname == socket.gethostname() else ""
        return f"process {owner.pid} on {owner.hostname}{here}"

    @property
    def abandoned(self) -> bool:
        """Whether the holder was a process of this machine that no longer runs; False if nobody holds the claim."""
        owner = self._lock.owner
        if owner is None or owner.hostname != socket.gethostname():
            return False
        try:
            return bool(psutil.Process(owner.pid).status() == psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return True

    @property
    def held(self) -> bool:
        """Whether somebody who may be alive holds the claim.

        A dead process of this machine is known at once. Another machine's gets an hour, which no clock skew reaches.
        """
        try:
            silent = time.time() - self.path.stat().st_mtime
        except FileNotFoundError:
            return False
        return not self.abandoned and silent <= ABANDONED_SECONDS

    def __enter__(self) -> Lease:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
