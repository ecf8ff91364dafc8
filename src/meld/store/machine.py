"""What a manifest says about the machine: package versions, hardware, and the peak memory of a block of code."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import threading
from importlib import metadata
from pathlib import Path
from types import TracebackType

import psutil

PACKAGES = (
    "meld-dp",
    "torch",
    "transformers",
    "peft",
    "sentence-transformers",
    "lightning",
    "safetensors",
    "tokenizers",
    "numpy",
    "pandas",
    "pyarrow",
    "scikit-learn",
    "hydra-core",
    "omegaconf",
)
"""The distributions whose versions a manifest records."""


def versions() -> dict[str, str]:
    """Version of Python and of every installed distribution in ``PACKAGES``."""
    installed = ((name, _version(name)) for name in PACKAGES)
    return {
        "python": platform.python_version(),
        **{name: version for name, version in installed if version is not None},
    }


def dependencies(distribution: str = "meld-dp") -> dict[str, str]:
    """Version of Python, of a distribution and of everything installed that it declares, extras included."""
    try:
        declared = metadata.requires(distribution) or []
    except metadata.PackageNotFoundError:
        declared = []
    names = {re.split(r"[\s\[<>=!~;(]", need, maxsplit=1)[0].lower() for need in declared}
    installed = ((name, _version(name)) for name in sorted({*PACKAGES, *names}))
    return {
        "python": platform.python_version(),
        **{name: version for name, version in installed if version is not None},
    }


def code_version() -> dict[str, object]:
    """What identifies the program's code: its version and, in a checkout, the commit and whether files differ from it.

    Returns:
        ``version`` (None if the package is not installed), ``commit`` and ``dirty`` (both None outside a checkout, or
        without git).
    """
    checkout = Path(__file__).resolve().parents[3]
    found: dict[str, object] = {"version": _version("meld-dp"), "commit": None, "dirty": None}
    if (checkout / ".git").exists():
        commit = _git(checkout, "rev-parse", "HEAD")
        changed = _git(checkout, "status", "--porcelain", "--untracked-files=no")
        found |= {"commit": commit, "dirty": None if changed is None else bool(changed)}
    return found


def hardware() -> dict[str, object]:
    """Architecture, cores this process may use, memory in GB, and GPUs (only if torch is loaded already)."""
    affinity = getattr(os, "sched_getaffinity", None)
    found: dict[str, object] = {
        "machine": platform.machine(),
        "system": platform.system(),
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
    }
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        found["gpus"] = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return found


def cpu_seconds() -> float:
    """Processor time of this process, its threads and its finished children since they began."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


class PeakMemory:
    """Context manager: the largest resident memory of this process and its children while the block ran.

    Sampled by a thread, because the kernel's own high-water mark belongs to the process's whole life and not to the
    block.

    Args:
        interval: Seconds between samples. A peak shorter than that can be missed.
    """

    def __init__(self, interval: float = 0.1) -> None:
        self._interval = interval
        self._peak = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="meld-peak-memory", daemon=True)

    @property
    def mb(self) -> float:
        """The peak so far in MB (1e6 bytes)."""
        return round(self._peak / 1e6, 1)

    def __enter__(self) -> PeakMemory:
        self._sample()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._sample()

    def _watch(self) -> None:
        while not self._stop.wait(self._interval):
            self._sample()

    def _sample(self) -> None:
        me = psutil.Process()
        self._peak = max(self._peak, sum(_resident(process) for process in (me, *me.children(recursive=True))))


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, check=False, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0  # a worker that ended between being listed and being asked
