"""Which runs use which artifacts: run directories link theirs, and a store remembers the runs that were made with it.

A run links everything it plans to use before it computes anything, so a link may lead to an artifact that is not there
yet. Such a link is a claim: what a killed run will need when it continues is kept.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from meld.store.keys import digest
from meld.store.store import Store

ARTIFACTS = "artifacts"
"""The folder of a run directory that holds the links."""

_PATH_SUFFIX = ".path.txt"
_RUNS = ".runs"


@dataclass(frozen=True)
class Link:
    """A run's link to an artifact.

    Attributes:
        name: ``<stage>.<unit>``, unique within the run.
        stage: The artifact's stage.
        key: Its key.
    """

    name: str
    stage: str
    key: str

    @property
    def unit(self) -> str:
        """The unit the run made it for."""
        return self.name.partition(".")[2]


def link_artifacts(run: Path, made: Mapping[str, Path]) -> None:
    """Make a run's links exactly these.

    Args:
        run: The run directory.
        made: ``<stage>.<unit>`` to the place where the artifact is or will be.
    """
    folder = run / ARTIFACTS
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {name: os.path.relpath(path, folder) for name, path in made.items()}
    # Links that stay are left alone: at no time does a run claim less than it needs.
    for link in list(folder.iterdir()):
        known = _read(link)
        if known is not None and wanted.get(known[0]) == known[1]:
            del wanted[known[0]]
        else:
            link.unlink()
    for name, target in wanted.items():
        link = folder / name
        try:
            link.symlink_to(target)
        except OSError:
            # File systems without symbolic links get a file that names the place.
            link.with_name(name + _PATH_SUFFIX).write_text(target + "\n", encoding="utf-8")


def read_links(run: Path) -> list[Link]:
    """The artifacts a run links, whether they are there or not, ordered by name."""
    return [Link(name, target.parent.name, target.name) for name, target in _targets(run)]


def linked(run: Path, name: str) -> Path | None:
    """The artifact that a run links under a name; None where it links none, or it is no longer in the store.

    Args:
        run: The run directory.
        name: ``<stage>.<unit>``.
    """
    path = all_linked(run).get(name)
    return path if path is not None and path.is_dir() else None


def all_linked(run: Path) -> dict[str, Path]:
    """Where each of a run's links leads, by ``<stage>.<unit>``, whether something is there or not."""
    return dict(_targets(run))


def note_run(store: Store, run: Path) -> None:
    """Remember that a run uses a store, wherever its directory is."""
    run = run.resolve()
    note = store.root / _RUNS / digest(str(run))
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(f"{run}\n", encoding="utf-8")


def find_uses(store: Store, places: Iterable[Path]) -> dict[tuple[str, str], list[str]]:
    """Which run directories use which artifacts of a store.

    Args:
        store: The store.
        places: Directories below which run directories are looked for, besides those the store remembers.

    Returns:
        ``(stage, key)`` to the directories of the runs that link it, ordered.
    """
    root = Path(os.path.realpath(store.root))
    uses: dict[tuple[str, str], list[str]] = {}
    for run in sorted(_runs(store, places)):
        for _, target in _targets(run):
            if target.parent.parent == root:
                uses.setdefault((target.parent.name, target.name), []).append(str(run))
    return uses


def _runs(store: Store, places: Iterable[Path]) -> set[Path]:
    found = {Path(note.read_text(encoding="utf-8").strip()) for note in (store.root / _RUNS).glob("*")}
    for place in places:
        for folder, below, _ in os.walk(place):
            if ARTIFACTS in below:
                found.add(Path(folder).resolve())
                below.remove(ARTIFACTS)
    return {run for run in found if (run / ARTIFACTS).is_dir()}


def _targets(run: Path) -> Iterator[tuple[str, Path]]:
    folder = run / ARTIFACTS
    known = (_read(link) for link in folder.iterdir()) if folder.is_dir() else iter(())
    for name, target in sorted(filter(None, known)):
        yield name, Path(os.path.realpath(folder / target))


def _read(link: Path) -> tuple[str, str] | None:
    """Name and target of a link, or of the file that stands in for one; None for anything else."""
    if link.is_symlink():
        return link.name, os.readlink(link)
    if link.name.endswith(_PATH_SUFFIX):
        return link.name.removesuffix(_PATH_SUFFIX), link.read_text(encoding="utf-8").strip()
    return None
