"""Leases between real processes: one holder at a time, a killed holder is replaced, a suspended one expires."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from meld.store.lease import Lease

HOLD = """
import sys, time
from pathlib import Path
from meld.store.lease import Lease
with Lease(Path(sys.argv[1]), stale_after=float(sys.argv[2])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds ``tmp_path/lease`` (stale after 1.5 s)."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "lease"), "1.5"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_free_lease_is_taken_and_given_back(tmp_path: Path) -> None:
    lease = Lease(tmp_path / "below" / "lease")
    assert lease.holder == "nobody"
    assert lease.acquire(wait=False)
    other = Lease(tmp_path / "below" / "lease")
    assert not other.acquire(wait=False)
    other.release()
    assert not other.acquire(wait=False), "releasing what one does not hold took it from its holder"
    lease.release()
    assert other.acquire(wait=False)
    other.release()
    assert not other.path.exists()


def test_waiting_tells_who_works_and_ends_when_the_work_is_done(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    heard: list[tuple[str, float]] = []
    lease = Lease(tmp_path / "lease", stale_after=1.5)
    assert not lease.acquire(wait=False)
    assert not lease.acquire(done=lambda: len(heard) >= 2, on_wait=lambda who, seconds: heard.append((who, seconds)))
    assert f"process {holder.pid} on" in heard[0][0]
    assert heard[-1][1] >= heard[0][1] >= 0


def test_a_living_holder_is_not_displaced(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 3.5  # more than twice stale_after: only the heartbeat keeps the claim
    lease = Lease(tmp_path / "lease", stale_after=1.5)
    assert not lease.acquire(done=lambda: time.monotonic() > until)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_dead_or_suspended_holder_is_replaced(
    tmp_path: Path, holder: subprocess.Popen[str], how: signal.Signals
) -> None:
    holder.send_signal(how)
    started = time.monotonic()
    lease = Lease(tmp_path / "lease", stale_after=1.5)
    assert lease.acquire(done=lambda: time.monotonic() - started > 20)
    lease.release()


def test_a_dead_process_of_this_host_is_replaced_at_once(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    lease = Lease(tmp_path / "lease", stale_after=1.5)
    assert not lease.abandoned
    holder.kill()
    holder.wait()
    assert lease.abandoned
    started = time.monotonic()
    assert lease.acquire(done=lambda: time.monotonic() - started > 20)
    assert time.monotonic() - started < 1.4
    assert not lease.abandoned
    lease.release()
    assert not lease.abandoned
