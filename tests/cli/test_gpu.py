"""GPUs of a sweep on one machine: one for each process, none twice."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from meld.cli.gpu import VISIBLE, visible_devices

CLAIM = """
import sys
from pathlib import Path
from meld.cli.gpu import pin_gpu
print(pin_gpu(["0", "1"], Path(sys.argv[1])), pin_gpu(["0", "1"], Path(sys.argv[1])), flush=True)
sys.stdin.readline()
"""


def test_processes_claim_different_devices_and_free_them(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CLAIM, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    claimed = []
    alive = []
    for _ in range(3):
        process = subprocess.Popen(command, **pipes)  # type: ignore[call-overload]
        claimed.append(process.stdout.readline().split())
        alive.append(process)
    # A second claim of the same process changes nothing; the third process shares one.
    assert [second for _, second in claimed] == ["None"] * 3
    assert {first for first, _ in claimed[:2]} == {"0", "1"}
    assert claimed[2][0] in {"0", "1"}
    alive[0].communicate("\n")
    process = subprocess.Popen(command, **pipes)  # type: ignore[call-overload]
    assert process.stdout.readline().split()[0] == claimed[0][0]
    for one in (process, *alive[1:]):
        one.communicate("\n")


def test_visible_devices_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE, "2, GPU-ab/c,")
    assert visible_devices() == ["2", "GPU-ab/c"]
    monkeypatch.setenv(VISIBLE, "-1")
    assert visible_devices() == []
    monkeypatch.delenv(VISIBLE)
    monkeypatch.setenv("PATH", "")
    assert visible_devices() == []
