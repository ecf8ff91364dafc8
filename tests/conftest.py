"""What all tests share: no network, one thread, fixed seeds, and the benchmark data where it exists."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

# Libraries read these when they are imported, so they are set before any test module is. Tests never download, and
# the workers of one test run must not fight over the cores.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import numpy as np
import pytest
from hypothesis import settings

# What a property is tried with is the same in every run, so that a failure is one for everybody.
settings.register_profile("fixed", derandomize=True)
settings.load_profile("fixed")


def _data_root() -> tuple[Path | None, str]:
    """The folder of benchmark data, or None and the reason."""
    value = os.environ.get("MELD_DATA", "")
    if not value:
        return None, "MELD_DATA is not set; it names the folder of the published benchmark data"
    path = Path(value).expanduser().resolve()
    if not path.is_dir():
        return None, f"MELD_DATA={value} is not a folder"
    return path, ""


def _without_gpu() -> str:
    """Why there is no CUDA device to test on; empty if there is one."""
    import torch

    return "" if torch.cuda.is_available() else "no CUDA device"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine cannot run, each with its reason."""
    missing_data = _data_root()[1]
    missing_gpu: str | None = None
    for item in items:
        if missing_data and item.get_closest_marker("data"):
            item.add_marker(pytest.mark.skip(reason=missing_data))
        if item.get_closest_marker("gpu"):
            # Asked only where a test needs it: importing torch takes seconds.
            missing_gpu = _without_gpu() if missing_gpu is None else missing_gpu
            if missing_gpu:
                item.add_marker(pytest.mark.skip(reason=missing_gpu))


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of published benchmark data; skips the test where there is none."""
    path, reason = _data_root()
    if path is None:
        pytest.skip(reason)
    return path


@pytest.fixture(autouse=True)
def _deterministic() -> None:
    """Every test starts from the same random state, in whatever order and worker it runs."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - third-party code draws from the global state
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(0)
        torch.set_num_threads(1)
