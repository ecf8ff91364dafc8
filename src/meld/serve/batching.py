"""Micro-batches: one thread owns the model and answers rows of several requests together, each to its own asker."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Generic, TypeVar

K = TypeVar("K")
R = TypeVar("R")
A = TypeVar("A")


@dataclass(eq=False)
class Job(Generic[K, R, A]):
    """Rows of one request.

    Attributes:
        key: Jobs of equal keys may be answered together; the batcher's ``lone`` tells which are not.
        rows: The rows, or what stands for them; ``len`` of it counts.
        future: Gets one answer per row.
        since: When it was submitted, by the monotonic clock.
    """

    key: K
    rows: Sequence[R]
    future: Future[list[A]] = field(default_factory=Future)
    since: float = field(default_factory=time.monotonic)


class Closed(Exception):
    """The batcher takes nothing any more."""


class Batcher(Generic[K, R, A]):
    """Collects jobs and has one thread answer them, the longest waiting first.

    A batch is the longest waiting job and, in their order, others of its key while they fit. If the answering of
    several jobs fails, each is answered alone, so that nobody gets an error that another caused.

    Args:
        answer: Called by the one thread, with a key and rows; returns one answer per row, in order.
        batch_rows: Rows to answer together at most; a job of more is a batch of its own.
        batch_seconds: How long after the first job a batch stays open for more.
        observe: Told of every batch: its key, jobs, rows and seconds.
        lone: Says of a key whether its jobs are answered one by one.
    """

    def __init__(
        self,
        answer: Callable[[K, Sequence[R]], Sequence[A]],
        batch_rows: int,
        batch_seconds: float,
        observe: Callable[[K, int, int, float], None] = lambda key, jobs, rows, seconds: None,
        lone: Callable[[K], bool] = lambda key: False,
    ) -> None:
        self._answer, self._observe, self._lone = answer, observe, lone
        self._batch_rows, self._batch_seconds = batch_rows, batch_seconds
        self._jobs: deque[Job[K, R, A]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._row_seconds = 0.0
        self._thread = threading.Thread(target=self._work, name="meld-model", daemon=True)
        self._thread.start()

    def submit(self, key: K, rows: Sequence[R]) -> Job[K, R, A]:
        """Queue rows.

        Raises:
            Closed: After :meth:`close`.
        """
        job: Job[K, R, A] = Job(key, rows)
        with self._changed:
            if self._closed:
                raise Closed
            self._jobs.append(job)
            self._changed.notify()
        return job

    def drop(self, job: Job[K, R, A]) -> bool:
        """Forget a job that nobody waits for any more.

        Returns:
            Whether it will never be answered; False if it has begun or is done.
        """
        if not job.future.cancel():
            return False
        with self._changed, suppress(ValueError):
            self._jobs.remove(job)
        return True

    def waiting(self) -> tuple[int, int]:
        """Jobs and rows that have not begun."""
        with self._changed:
            return len(self._jobs), sum(len(job.rows) for job in self._jobs)

    def patience(self) -> int:
        """Seconds after which what waits now should be answered, as far as one can tell: 1 to 60."""
        return max(1, min(60, math.ceil(self.waiting()[1] * self._row_seconds)))

    @property
    def alive(self) -> bool:
        """Whether jobs are taken and answered."""
        return not self._closed and self._thread.is_alive()

    def close(self, seconds: float | None = None) -> None:
        """Take nothing any more, answer what waits, and end.

        Args:
            seconds: How long to wait for that; what has not begun by then is cancelled.
        """
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(seconds)
        with self._changed:
            left = list(self._jobs)
            self._jobs.clear()
        for job in left:
            job.future.cancel()

    def _work(self) -> None:
        while batch := self._next():
            # A cancelled job is one nobody waits for.
            begun = [job for job in batch if job.future.set_running_or_notify_cancel()]
            if not begun:
                continue
            rows = sum(len(job.rows) for job in begun)
            started = time.monotonic()
            self._finish(begun)
            seconds = time.monotonic() - started
            self._row_seconds += 0.2 * (seconds / max(1, rows) - self._row_seconds)
            self._observe(begun[0].key, len(begun), rows, seconds)

    def _next(self) -> list[Job[K, R, A]]:
        """The next batch; empty when there will be none."""
        with self._changed:
            while True:
                while not self._jobs and not self._closed:
                    self._changed.wait()
                if not self._jobs:
                    return []
                first = self._jobs[0]
                batch, full = self._fitting(first)
                left = first.since + self._batch_seconds - time.monotonic()
                if full or left <= 0 or self._closed or self._lone(first.key):
                    taken = set(map(id, batch))
                    self._jobs = deque(job for job in self._jobs if id(job) not in taken)
                    return batch
                self._changed.wait(left)

    def _fitting(self, first: Job[K, R, A]) -> tuple[list[Job[K, R, A]], bool]:
        """The jobs that go with the first, and whether no more would fit."""
        batch, rows = [first], len(first.rows)
        if self._lone(first.key):
            return batch, True
        for job in self._jobs:
            if job is first or job.key != first.key:
                continue
            if rows + len(job.rows) > self._batch_rows:
                return batch, True
            batch.append(job)
            rows += len(job.rows)
        return batch, rows >= self._batch_rows

    def _finish(self, jobs: Sequence[Job[K, R, A]]) -> None:
        """Answer jobs of one key, and hand every one its own answers."""
        try:
            rows = [row for job in jobs for row in job.rows]
            found = list(self._answer(jobs[0].key, rows))
            if len(found) != len(rows):
                raise RuntimeError(f"{len(found)} answers to {len(rows)} rows")
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].future.set_exception(error)
                return
            for job in jobs:
                self._finish([job])
            return
        start = 0
        for job in jobs:
            job.future.set_result(found[start : start + len(job.rows)])
            start += len(job.rows)
