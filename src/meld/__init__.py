"""MELD and MELD-DS: one framework for low-resource data preprocessing with a mixture of LoRA experts."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame

    from meld.bundle.fit import fit
    from meld.bundle.model import load
    from meld.dataset.frames import frames_config, from_frames

try:
    __version__ = version("meld-dp")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0+source"

__all__ = ["__version__", "fit", "frames_config", "from_frames", "load", "load_results"]


def __getattr__(name: str) -> Any:
    # Datasets import pyarrow and more; `import meld` alone stays fast.
    if name in {"frames_config", "from_frames"}:
        from meld.dataset import frames

        return getattr(frames, name)
    # Bundles import torch.
    if name == "load":
        from meld.bundle import model

        return model.load
    if name == "fit":
        from meld.bundle.fit import fit

        return fit
    raise AttributeError(f"module 'meld' has no attribute {name!r}")


def load_results(pattern: str) -> DataFrame:
    """Results of runs as a frame: one row per result, with the run's configuration in columns.

    Args:
        pattern: Glob of run or sweep directories, e.g. ``outputs/sweeps/*``.

    Raises:
        UserError: If nothing matches.
    """
    from meld.report.results import load_results as load

    return load(pattern)
