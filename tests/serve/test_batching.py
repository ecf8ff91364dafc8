"""Batches change nothing and cross nothing; what nobody waits for is not begun."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meld.serve.batching import Batcher, Closed

Jobs = list[tuple[str, list[int]]]


def _echo(key: str, rows: Sequence[int]) -> list[tuple[str, int]]:
    if 13 in rows:
        raise ValueError("13")
    return [(key, row) for row in rows]


@settings(deadline=None, max_examples=60)
@given(
    jobs=st.lists(st.tuples(st.sampled_from("abc"), st.lists(st.integers(0, 20), min_size=1, max_size=5)), max_size=30),
    batch_rows=st.integers(1, 12),
    wait=st.sampled_from([0.0, 0.002]),
)
def test_everyone_gets_the_answers_to_their_own_rows(jobs: Jobs, batch_rows: int, wait: float) -> None:
    seen: list[tuple[str, int, int]] = []
    batcher = Batcher(_echo, batch_rows, wait, lambda key, number, rows, seconds: seen.append((key, number, rows)))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda job: batcher.submit(*job).future, jobs))
    for (key, rows), future in zip(jobs, found, strict=True):
        if 13 in rows:
            assert isinstance(future.exception(10), ValueError)
        else:
            assert future.result(10) == [(key, row) for row in rows]
    batcher.close()
    assert sum(number for _, number, _ in seen) == len(jobs)
    assert all(rows <= batch_rows for _, number, rows in seen if number > 1)


class _Held:
    """Answers after it is let go, and notes its batches."""

    def __init__(self) -> None:
        self.go, self.begun = threading.Event(), threading.Event()
        self.batches: list[tuple[str, list[int]]] = []

    def __call__(self, key: str, rows: Sequence[int]) -> list[int]:
        self.begun.set()
        assert self.go.wait(10)
        self.batches.append((key, list(rows)))
        return list(rows)


def test_what_waits_together_is_answered_together_and_the_oldest_first() -> None:
    held = _Held()
    batcher = Batcher(held, 4, 0.0, lone=lambda key: key == "lone")
    first = batcher.submit("x", [0])
    assert held.begun.wait(10)
    jobs = [batcher.submit(*job) for job in [("a", [1]), ("b", [2, 3]), ("lone", [4]), ("a", [5, 6]), ("lone", [7])]]
    jobs += [batcher.submit("a", [8, 9]), batcher.submit("b", [10, 11]), batcher.submit("b", [12])]
    assert batcher.waiting() == (8, 12)
    held.go.set()
    assert [job.future.result(10) for job in (first, *jobs)] == [
        [0], [1], [2, 3], [4], [5, 6], [7], [8, 9], [10, 11], [12],
    ]  # fmt: skip
    assert held.batches == [
        ("x", [0]), ("a", [1, 5, 6]), ("b", [2, 3, 10, 11]), ("lone", [4]), ("lone", [7]), ("a", [8, 9]), ("b", [12]),
    ]  # fmt: skip
    batcher.close()


def test_dropped_jobs_are_never_begun() -> None:
    held = _Held()
    batcher = Batcher(held, 8, 0.0)
    running, dropped, kept = batcher.submit("a", [1]), batcher.submit("b", [2]), batcher.submit("b", [3])
    assert held.begun.wait(10)
    assert not batcher.drop(running)
    assert batcher.drop(dropped)
    assert batcher.waiting() == (1, 1)
    held.go.set()
    assert running.future.result(10) == [1]
    assert kept.future.result(10) == [3]
    assert held.batches == [("a", [1]), ("b", [3])]
    batcher.close()


def test_a_batch_stays_open_for_more_but_not_when_it_is_full() -> None:
    batches: list[int] = []
    batcher = Batcher(lambda key, rows: rows, 4, 0.5, lambda key, jobs, rows, seconds: batches.append(rows))
    jobs = [batcher.submit("a", [1]), batcher.submit("a", [2])]
    started = time.monotonic()
    jobs += [batcher.submit("a", [3]), batcher.submit("a", [4])]
    assert [job.future.result(10) for job in jobs] == [[1], [2], [3], [4]]
    assert time.monotonic() - started < 0.4
    assert batches == [4]
    batcher.close()


def test_closing_answers_what_waits_and_takes_no_more() -> None:
    held = _Held()
    batcher = Batcher(held, 1, 0.0)
    jobs = [batcher.submit("a", [number]) for number in range(5)]
    assert held.begun.wait(10)
    threading.Timer(0.05, held.go.set).start()
    batcher.close()
    assert [job.future.result(0) for job in jobs] == [[0], [1], [2], [3], [4]]
    assert not batcher.alive
    with pytest.raises(Closed):
        batcher.submit("a", [1])


def test_closing_gives_up_what_cannot_be_begun_in_time() -> None:
    held = _Held()
    batcher = Batcher(held, 1, 0.0)
    begun, left = batcher.submit("a", [1]), batcher.submit("a", [2])
    assert held.begun.wait(10)
    batcher.close(0.05)
    with pytest.raises(CancelledError):
        left.future.result(0)
    held.go.set()
    assert begun.future.result(10) == [1]


def test_answers_of_another_number_are_a_fault() -> None:
    batcher: Batcher[str, int, int] = Batcher(lambda key, rows: rows[:-1], 4, 0.0)
    assert isinstance(batcher.submit("a", [1, 2]).future.exception(10), RuntimeError)
    batcher.close()
