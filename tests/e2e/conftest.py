"""The command as a user runs it: a subprocess over tiny made-up tables."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tests.tiny import SIZES

TINY = (
    "suite=quickstart",
    "logger=none",
    *SIZES,
    "limits.alignments=10",
    "limits.transformed=16",
    "limits.samples=32",
    "limits.warm_up=8",
    "limits.router_queries=6",
    "backbone.max_prompt_tokens=128",
    "proxy.max_prompt_tokens=128",
)
"""Everything small, nothing switched off: every stage runs, trains and resumes as it does at full size."""

Start = Callable[..., "subprocess.Popen[str]"]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def _command(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "meld", *arguments]


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "160", "NO_COLOR": "1"}


def run_meld(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run ``meld`` in a folder and wait for it."""
    return subprocess.run(
        _command(arguments), cwd=folder, env=_environment(), capture_output=True, text=True, check=False
    )


@pytest.fixture
def tiny() -> tuple[str, ...]:
    """Overrides that make everything small."""
    return TINY


@pytest.fixture
def meld(tmp_path: Path) -> Run:
    """Run ``meld`` in a folder of the test's own and wait for it."""

    def run(*arguments: str, folder: Path = tmp_path) -> subprocess.CompletedProcess[str]:
        return run_meld(*arguments, folder=folder)

    return run


@pytest.fixture
def start_meld(tmp_path: Path) -> Start:
    """Start ``meld`` in a folder of the test's own and come back at once."""

    def start(*arguments: str, folder: Path = tmp_path, start_new_session: bool = False) -> subprocess.Popen[str]:
        return subprocess.Popen(
            _command(arguments),
            cwd=folder,
            env=_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=start_new_session,
        )

    return start
