"""What a dataset component is, and how it finds its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

from meld.dataset.csv_text import read_csv_text
from meld.errors import ConfigError, DataError
from meld.types import Gold, UnitData

__all__ = ["Dataset", "Source", "check_tasks", "find_files", "read_csv_text"]


@dataclass(frozen=True)
class Source:
    """A loaded dataset: what components may read, and apart from it what only evaluation may.

    Attributes:
        dataset: The dataset's name.
        units: Visible data by unit name.
        gold: Hidden labels of pool and test queries by unit name. Pool labels serve to report pseudo-label precision
            only.
        notes: What was handled on the way, one sentence each, for the log.
    """

    dataset: str
    units: Mapping[str, UnitData]
    gold: Mapping[str, Gold]
    notes: tuple[str, ...] = ()


@runtime_checkable
class Dataset(Protocol):
    """A dataset component. ``synthetic`` says whether the project made the data itself."""

    synthetic: ClassVar[bool]

    @property
    def name(self) -> str:
        """The dataset's name, the first half of its units' names."""
        ...

    def files(self) -> tuple[Path, ...]:
        """Every file that ``load`` reads, checked to exist; their contents belong into artifact keys."""
        ...

    def load(self) -> Source:
        """Read, sample and split. The same arguments and files always give the same source."""
        ...


def check_tasks(name: str, tasks: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """Return ``tasks`` as a tuple after checking them against what the layout offers.

    Raises:
        ConfigError: For an empty list, a repeated or an unknown task.
    """
    wrong = [task for task in tasks if task not in known]
    if not tasks or wrong or len(set(tasks)) != len(tasks):
        raise ConfigError(
            f"Dataset '{name}' cannot be read as tasks {list(tasks)}.",
            where=f"datasets.{name}.tasks",
            fix=f"choose some of {list(known)}, each once",
        )
    return tuple(tasks)


def find_files(name: str, root: str | None, folder: str, files: Sequence[str], publisher: str) -> tuple[Path, ...]:
    """Locate a published dataset's files.

    Args:
        name: The dataset's name, for messages.
        root: The folder of all benchmark data (``paths.data``); None when it was not given.
        folder: The dataset's folder below it.
        files: File names below the folder.
        publisher: Where the files can be had.

    Raises:
        DataError: If no data folder is set, or the folder or a file is not there.
    """
    origin = f"; the files come from {publisher}" if publisher else ""
    if root is None:
        raise DataError(
            f"Dataset '{name}' is read from published files, and no data folder is set.",
            where=f"{folder}/{{{','.join(files)}}} below paths.data",
            fix=f"pass paths.data=FOLDER{origin}",
        )
    base = Path(root) / folder
    if not base.is_dir():
        raise DataError(
            f"The folder of dataset '{name}' does not exist.",
            where=str(base),
            fix=f"put {', '.join(files)} there or pass paths.data=FOLDER{origin}",
        )
    paths = tuple(base / file for file in files)
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise DataError(
            f"Dataset '{name}' lacks {', '.join(path.name for path in missing)}.",
            where=str(base),
            fix=f"put the file{'s' if len(missing) > 1 else ''} there{origin}",
        )
    return paths
