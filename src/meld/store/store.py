"""The artifact store: one directory per (stage, key), whole or absent, safe for several processes and machines.

Layout below the root::

    <stage>/<key>/                     a finished artifact with its manifest.json
    <stage>/.<key>.<token>.tmp/        being written (renamed to the above when finished)
    .work/<stage>-<key>/               what survives a kill: checkpoints of the stage that makes the artifact
    .leases/                           who is working on what
    .runs/                             the run directories that use the store
    .trash/                            what is being removed
"""

from __future__ import annotations

import errno
import filecmp
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from meld.errors import UserError
from meld.store.keys import canonical
from meld.store.lease import Lease
from meld.store.machine import PeakMemory, cpu_seconds, hardware, versions

MANIFEST = "manifest.json"

FIELDS = ("unit", "config", "inputs", "seeds", "code", "origin")
"""What the caller says in a manifest: the unit, the bound configuration, ``{name: "stage/key"}`` of what was read, the
seeds by name, what identifies the code (stage VERSION), and where content that only its digest names came from. The
store adds the rest; ``remade`` counts how often an artifact got another content (``force``), ``remade_inputs`` says
from which of these it was made."""

TOOK = frozenset({"search.json", "steps.json"})
"""Files of an artifact that say what its making took: no two are equal, and no stage reads them."""

_STAGE = re.compile(r"[a-z][a-z0-9_]*")
_KEY = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class Draft:
    """An artifact in the making.

    Attributes:
        out: An empty directory of this attempt's own; what is in it becomes the artifact.
        work: A directory that belongs to the key and survives a kill: checkpoints go here. Removed once the artifact is
            finished.
    """

    out: Path
    work: Path


@dataclass(frozen=True)
class Outcome:
    """What ``Store.compute`` did.

    Attributes:
        path: The artifact.
        reused: Whether it was there already (or another process made it while we waited).
    """

    path: Path
    reused: bool


@dataclass(frozen=True)
class Entry:
    """One finished artifact, for listings."""

    stage: str
    key: str
    path: Path
    manifest: Mapping[str, object]
    size_bytes: int


class Store:
    """Artifacts below a root directory.

    Args:
        root: The directory; made when first written to.
        stale_after: Seconds without a heartbeat after which a process on another machine is taken for dead.
    """

    def __init__(self, root: Path, *, stale_after: float = 60.0) -> None:
        self.root = Path(root).absolute()
        self._stale_after = stale_after

    def path(self, stage: str, key: str) -> Path:
        """Where the artifact is or will be.

        Raises:
            ValueError: If the stage is not a lower-case word or the key not 16 hexadecimal digits.
        """
        if not _STAGE.fullmatch(stage) or not _KEY.fullmatch(key):
            raise ValueError(f"no artifact can be named {stage!r}/{key!r}")
        return self.root / stage / key

    def has(self, stage: str, key: str) -> bool:
        """Whether the artifact is finished."""
        return (self.path(stage, key) / MANIFEST).is_file()

    def current(self, stage: str, key: str, inputs: object) -> bool:
        """Whether the artifact is finished and none of its inputs got another content after it.

        Args:
            stage: Name of the stage.
            key: Key of the artifact.
            inputs: What it is made from, ``{name: "stage/key"}``.

        Raises:
            UserError: If a manifest cannot be read.
        """
        found = self._peek(stage, key)
        return found is not None and found.get("remade_inputs", {}) == self._remade(inputs)

    def manifest(self, stage: str, key: str) -> dict[str, object]:
        """What is known about a finished artifact.

        Raises:
            UserError: If the artifact is not there or its manifest cannot be read.
        """
        return _read_manifest(self.path(stage, key))

    def lease(self, stage: str, key: str) -> Lease:
        """The claim to make this artifact. It saves double work; ``writing`` is safe without it."""
        self.path(stage, key)
        return self._lease(f"{stage}-{key}")

    def compute(
        self,
        stage: str,
        key: str,
        fields: Mapping[str, object],
        work: Callable[[Draft], None],
        *,
        force: bool = False,
        on_wait: Callable[[str, float], None] | None = None,
    ) -> Outcome:
        """The artifact, made now if it is not there. Of several processes asking at once, one works, the others wait.

        Args:
            stage: Name of the stage.
            key: Key of the artifact.
            fields: What goes into the manifest, see ``FIELDS``.
            work: Fills ``draft.out``.
            force: Make it again although it is there. If that changes its content, what was made from it is made again
                when it is next asked for, in this run or another.
            on_wait: Told who is at work and for how many seconds we have waited, several times a second.
        """

        def done() -> bool:
            return not force and self.current(stage, key, fields.get("inputs"))

        if done():
            return Outcome(self.path(stage, key), reused=True)
        lease = self.lease(stage, key)
        held = lease.acquire(done=None if force else done, on_wait=on_wait)
        try:
            # Held or not: it may have been finished between the first look and now.
            if done():
                return Outcome(self.path(stage, key), reused=True)
            with self.writing(stage, key, fields, replace=self.has(stage, key)) as draft:
                work(draft)
        finally:
            if held:
                lease.release()
        return Outcome(self.path(stage, key), reused=False)

    @contextmanager
    def writing(
        self, stage: str, key: str, fields: Mapping[str, object] | None = None, *, replace: bool = False
    ) -> Iterator[Draft]:
        """Make an artifact: on a clean exit the draft gets its manifest and is renamed into place, all at once.

        If the artifact has appeared meanwhile, the draft is dropped (equal keys mean equal content). After an exception
        the draft is removed and the work directory stays.

        Args:
            stage: Name of the stage.
            key: Key of the artifact.
            fields: What goes into the manifest, see ``FIELDS``.
            replace: Put the draft in the place of an artifact that is there.

        Raises:
            ValueError: If ``fields`` has an unknown name.
            TypeError: If ``fields`` holds anything but plain data.
        """
        target = self.path(stage, key)
        said = {"unit": "", "config": {}, "inputs": {}, "seeds": {}, "code": "", "origin": {}, **(fields or {})}
        unknown = sorted(set(said) - set(FIELDS))
        if unknown:
            raise ValueError(f"a manifest has no field {', '.join(unknown)}; fields are {', '.join(FIELDS)}")
        canonical(said)  # fails before the work, not after it
        inputs = self._remade(said["inputs"])  # as they are now, not as somebody else makes them meanwhile
        self._sweep(stage, key)
        token = uuid.uuid4().hex
        draft = Draft(out=target.parent / f".{key}.{token}.tmp", work=self.root / ".work" / f"{stage}-{key}")
        # The draft's own claim says that its writer lives, also when the claim on the key has been lost to somebody
        # else.
        with self._lease(f"draft-{token}"):
            try:
                draft.out.mkdir(parents=True)
                draft.work.mkdir(parents=True, exist_ok=True)
                started, used = time.perf_counter(), cpu_seconds()
                with PeakMemory() as memory:
                    yield draft
                manifest = {
                    "stage": stage,
                    "key": key,
                    **said,
                    "versions": versions(),
                    "hardware": hardware(),
                    "seconds": round(time.perf_counter() - started, 3),
                    "cpu_seconds": round(cpu_seconds() - used, 3),
                    "peak_memory_mb": memory.mb,
                    "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                }
                times = self._times_remade(stage, key)
                if replace and self.has(stage, key) and not _same_content(draft.out, target):
                    times += 1
                manifest |= {"remade": times} if times else {}
                manifest |= {"remade_inputs": inputs} if inputs else {}
                (draft.out / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
                self._publish(draft.out, target, replace=replace)
                shutil.rmtree(draft.work, ignore_errors=True)
            finally:
                shutil.rmtree(draft.out, ignore_errors=True)

    def _times_remade(self, stage: str, key: str) -> int:
        """How often the artifact was made again with another content."""
        return int(str((self._peek(stage, key) or {}).get("remade", 0)))

    def _peek(self, stage: str, key: str) -> dict[str, object] | None:
        """The manifest of an artifact; None if it is not there, be it that somebody is just exchanging it."""
        try:
            return self.manifest(stage, key)
        except UserError:
            if self.has(stage, key):
                raise
            return None

    def _remade(self, inputs: object) -> dict[str, int]:
        """Which of the inputs, as a manifest names them, have been remade, and how often."""
        places = inputs if isinstance(inputs, Mapping) else {}
        times = {name: self._times_remade(*str(place).split("/")) for name, place in places.items()}
        return {name: n for name, n in times.items() if n}

    def entries(self) -> Iterator[Entry]:
        """Every finished artifact, ordered by stage and key.

        Raises:
            UserError: If a manifest cannot be read.
        """
        for manifest in sorted(self.root.glob(f"[a-z]*/*/{MANIFEST}")):
            path = manifest.parent
            if _KEY.fullmatch(path.name) is None or not manifest.is_file():
                continue  # no artifact, or removed since it was listed
            size = sum(file.lstat().st_size for file in path.rglob("*") if file.is_file())
            yield Entry(path.parent.name, path.name, path, _read_manifest(path), size)

    def _lease(self, name: str) -> Lease:
        return Lease(self.root / ".leases" / name, stale_after=self._stale_after)

    def _publish(self, out: Path, target: Path, *, replace: bool) -> None:
        aside = out.with_suffix(".old")
        if replace or (target.exists() and not (target / MANIFEST).is_file()):
            # A directory cannot be exchanged in one step. A kill between the two renames costs one recomputation,
            # nothing else.
            _rename(target, aside, unless=(errno.ENOENT,))
        # Taken: another process was faster with the same content.
        _rename(out, target, unless=(errno.ENOTEMPTY, errno.EEXIST))
        shutil.rmtree(aside, ignore_errors=True)

    def _sweep(self, stage: str, key: str) -> None:
        """Remove what killed processes left of this artifact; a writer that lives keeps its draft."""
        for left in self.abandoned_drafts(f"{stage}/.{key}.*"):
            shutil.rmtree(left, ignore_errors=True)
            self._draft_lease(left).path.unlink(missing_ok=True)

    def abandoned_drafts(self, pattern: str = "[a-z]*/.*.*.*") -> list[Path]:
        """What killed processes left of artifacts in the making.

        Args:
            pattern: Which, as a glob below the root.
        """
        return [left for left in sorted(self.root.glob(pattern)) if not self._draft_lease(left).held]

    def _draft_lease(self, draft: Path) -> Lease:
        return self._lease(f"draft-{draft.name.split('.')[2]}")


def _same_content(one: Path, other: Path) -> bool:
    """Whether two artifacts hold the same files byte for byte, those left out that no other artifact is made from."""
    aside = {Path(name) for name in (MANIFEST, *TOOK)}
    here, there = ({f.relative_to(top) for f in top.rglob("*") if f.is_file()} - aside for top in (one, other))
    return here == there and all(filecmp.cmp(one / name, other / name, shallow=False) for name in here)


def _rename(source: Path, target: Path, *, unless: tuple[int, ...]) -> None:
    """Rename a directory; errors with one of the given numbers mean that there is nothing to do."""
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno not in unless:
            raise


def _read_manifest(path: Path) -> dict[str, object]:
    try:
        found = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError("this artifact does not exist", where=str(path), fix="run the command that makes it") from error
    except ValueError as error:
        raise UserError(
            "this artifact's manifest cannot be read", where=str(path / MANIFEST), fix=f"delete {path} and run again"
        ) from error
    if not isinstance(found, dict):
        raise UserError("this artifact's manifest is not one", where=str(path), fix=f"delete {path} and run again")
    return found
