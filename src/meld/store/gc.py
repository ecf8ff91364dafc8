"""Removing what no kept run needs: first aside, all at once, then for good."""

from __future__ import annotations

import errno
import os
import shutil
import time
import uuid
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from meld.store.lease import Lease
from meld.store.store import Store

_TRASH = ".trash"


@dataclass(frozen=True)
class Waste:
    """Something that can go.

    Attributes:
        kind: ``artifact`` | ``draft`` (of a dead process) | ``checkpoints`` (of an artifact nobody needs) | ``trash``
            (of a removal that was cut short).
        name: ``stage/key``, or what there is of it.
        path: Where it is.
        size_bytes: Its size on disk.
    """

    kind: str
    name: str
    path: Path
    size_bytes: int


def find_waste(store: Store, needed: Collection[tuple[str, str]], keep_days: float = 0.0) -> list[Waste]:
    """What can be removed. Nothing under a live lease is, nor what an artifact that stays was made from.

    Args:
        store: The store.
        needed: ``(stage, key)`` of what kept runs use.
        keep_days: Artifacts and checkpoints younger than this stay, whoever needs them.
    """
    entries = {(entry.stage, entry.key): entry for entry in store.entries()}
    young = time.time() - keep_days * 86400
    recent = {name for name, entry in entries.items() if keep_days and _changed(entry.path) > young}
    kept = _with_inputs({*needed, *recent}, {n: e.manifest.get("inputs") for n, e in entries.items()})
    waste = [
        Waste("artifact", f"{stage}/{key}", entry.path, entry.size_bytes)
        for (stage, key), entry in entries.items()
        if (stage, key) not in kept and not store.lease(stage, key).held
    ]
    waste += [
        Waste("draft", f"{path.parent.name}/{path.name.split('.')[1]}", path, size_of(path))
        for path in store.abandoned_drafts()
    ]
    for path in sorted((store.root / ".work").glob("*-*")):
        stage, _, key = path.name.rpartition("-")
        if (stage, key) in needed or (keep_days and _changed(path) > young) or store.lease(stage, key).held:
            continue
        waste.append(Waste("checkpoints", f"{stage}/{key}", path, size_of(path)))
    waste += [Waste("trash", path.name, path, size_of(path)) for path in sorted((store.root / _TRASH).glob("*"))]
    return waste


def remove(store: Store, waste: Iterable[Waste], needed: Callable[[], Collection[tuple[str, str]]]) -> list[Waste]:
    """Remove what was found.

    Everything is set aside first, then it is asked again what is needed. A run that claimed something before gets it
    back; one that claims later finds that it is gone and makes it. A kill at any time leaves every artifact whole or in
    the trash, where the next call looks.

    Args:
        store: The store.
        waste: What :func:`find_waste` found.
        needed: Says what kept runs use now.

    Returns:
        What was removed: not what somebody has begun to work on or claimed since, or what has gone already.
    """
    trash = store.root / _TRASH
    trash.mkdir(parents=True, exist_ok=True)
    aside = []
    for item in waste:
        place = item.path if item.kind == "trash" else trash / uuid.uuid4().hex
        if item.kind == "trash" or _set_aside(store, item, place):
            aside.append((item, place))
    claimed = needed()
    removed = []
    for item, place in aside:
        stage, _, key = item.name.partition("/")
        if item.kind != "trash" and (stage, key) in claimed and _renamed(place, item.path):
            continue
        shutil.rmtree(place, ignore_errors=True)
        removed.append(item)
    return removed


def size_of(path: Path) -> int:
    """Bytes of the files below a path."""
    return sum(file.lstat().st_size for file in path.rglob("*") if file.is_file())


def _set_aside(store: Store, item: Waste, place: Path) -> bool:
    """Rename into the trash, under the claim on the key where there is one."""
    if item.kind == "draft":
        return _renamed(item.path, place)
    stage, _, key = item.name.partition("/")
    lease: Lease = store.lease(stage, key)
    if not lease.acquire(wait=False):
        return False
    try:
        return _renamed(item.path, place)
    finally:
        lease.release()


def _renamed(source: Path, target: Path) -> bool:
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False  # gone, or made again meanwhile
    return True


def _with_inputs(names: set[tuple[str, str]], inputs: dict[tuple[str, str], object]) -> set[tuple[str, str]]:
    """Names, and of the artifacts among them what they were made from."""
    found: set[tuple[str, str]] = set()
    left = list(names)
    while left:
        name = left.pop()
        if name in found:
            continue
        found.add(name)
        read = inputs.get(name)
        for source in read.values() if isinstance(read, dict) else ():
            stage, _, key = str(source).partition("/")
            left.append((stage, key))
    return found


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
