"""Why an artifact was not re-used: what differs from the nearest one that was there, down to the first cause.

A key is a hash of a stage's version, configuration, inputs and seed, and the manifest holds all of these. Two artifacts
of one stage and unit are compared leaf by leaf; where they read different inputs, these are compared in turn, until a
difference is found that no input explains.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from meld.store.store import Entry

ABSENT = "absent"
"""What a difference says of a leaf that one side does not have."""


@dataclass(frozen=True)
class Leaf:
    """One leaf that differs.

    Attributes:
        name: Its path: ``annotator.precision``, ``seed``, ``stage version``.
        old: What the other artifact has.
        new: What this one has.
    """

    name: str
    old: object
    new: object

    def __str__(self) -> str:
        return f"{self.name}: {_shown(self.old)} → {_shown(self.new)}"


@dataclass(frozen=True)
class Cause:
    """A difference that no input explains.

    Attributes:
        path: From the artifact asked about to the one that differs, ``<stage>:<unit>`` each.
        leaf: What differs there.
    """

    path: tuple[str, ...]
    leaf: Leaf


@dataclass(frozen=True)
class Explanation:
    """What an answer to *why* says.

    Attributes:
        entry: The artifact asked about.
        nearest: The one it is compared with; None if there is no other of its stage and unit.
        earlier: Whether that one was there before this one was made.
        own: Leaves of its own configuration, version and seeds that differ.
        inputs: Inputs that differ, as leaves of ``stage/key``.
        causes: The first causes, each once, nearest first.
    """

    entry: Entry
    nearest: Entry | None = None
    earlier: bool = False
    own: tuple[Leaf, ...] = ()
    inputs: tuple[Leaf, ...] = ()
    causes: tuple[Cause, ...] = ()

    @property
    def forced(self) -> str:
        """Where ``force`` had its part: what it changed, this artifact or what it was made from; else empty."""
        changed = self.entry.manifest.get("remade_inputs")
        if isinstance(changed, Mapping) and changed:
            return f"made again, because force had changed its input: {', '.join(sorted(changed))}"
        return "made again by force, with another content" if self.entry.manifest.get("remade") else ""


class Archive:
    """The artifacts of a store, for comparison.

    Args:
        entries: What is in it.
    """

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._entries = {(entry.stage, entry.key): entry for entry in entries}

    def find(self, name: str) -> list[Entry]:
        """Artifacts named by a key, the beginning of one, or ``stage/key``."""
        stage, _, key = name.rpartition("/")
        return [e for e in self._entries.values() if e.key.startswith(key) and stage in ("", e.stage)]

    def get(self, stage: str, key: str) -> Entry | None:
        """The artifact of a stage with a key; None if it is not there."""
        return self._entries.get((stage, key))

    def nearest(self, entry: Entry) -> tuple[Entry | None, bool]:
        """The artifact of the same stage and unit that differs in the fewest leaves, and whether it was there before.

        Those that were there when this one was made come first; of equals the latest.
        """
        others = [e for e in self._entries.values() if e.stage == entry.stage and e.key != entry.key]
        others = [e for e in others if e.manifest.get("unit") == entry.manifest.get("unit")]
        earlier = [e for e in others if _created(e) <= _created(entry)]
        pool = sorted(earlier or others, key=lambda e: (_created(e), e.key), reverse=True)
        best = min(pool, key=lambda e: sum(map(len, _compare(e, entry))), default=None)
        return best, bool(earlier)

    def explain(self, entry: Entry) -> Explanation:
        """Compare an artifact with the nearest one."""
        nearest, earlier = self.nearest(entry)
        if nearest is None:
            return Explanation(entry)
        own, inputs = _compare(nearest, entry)
        causes: dict[str, Cause] = {}
        for cause in sorted(self._causes(nearest, entry, (), set()), key=lambda cause: len(cause.path)):
            causes.setdefault(str(cause.leaf), cause)
        ordered = causes.values()
        return Explanation(entry, nearest, earlier, tuple(own), tuple(inputs), tuple(ordered))

    def _causes(self, old: Entry, new: Entry, above: tuple[str, ...], seen: set[tuple[str, str]]) -> list[Cause]:
        """First causes, own ones first; every pair of artifacts is compared once."""
        if (old.key, new.key) in seen:
            return []
        seen.add((old.key, new.key))
        path = (*above, f"{new.stage}:{new.manifest.get('unit')}")
        own, inputs = _compare(old, new)
        found = [Cause(path, leaf) for leaf in own]
        for leaf in inputs:
            before, after = self._input(leaf.old), self._input(leaf.new)
            if before is not None and after is not None:
                found += self._causes(before, after, path, seen)
            elif ABSENT not in (leaf.old, leaf.new):
                found.append(Cause(path, Leaf(f"{leaf.name}, of which one has been removed", leaf.old, leaf.new)))
            elif not own:
                found.append(Cause(path, leaf))
        if not own and not inputs:
            found.append(Cause(path, Leaf("what the older manifest does not record, as the stage version", "?", "?")))
        return found

    def _input(self, name: object) -> Entry | None:
        stage, _, key = str(name).partition("/")
        return self.get(stage, key)


def flat(tree: object, place: str = "") -> dict[str, object]:
    """A tree's leaves by dotted path; an empty list or mapping is a leaf."""
    items: Iterable[tuple[Any, object]]
    if isinstance(tree, Mapping):
        items = tree.items()
    elif isinstance(tree, (list, tuple)):
        items = enumerate(tree)
    else:
        return {place: tree}
    found: dict[str, object] = {}
    for key, value in items:
        found |= flat(value, f"{place}.{key}" if place else str(key))
    return found or {place: tree}


def differing(old: Mapping[str, object], new: Mapping[str, object]) -> list[Leaf]:
    """Leaves of two flat trees that are not equal, in the new one's order, then those only the old one has."""
    names = [*new, *(name for name in old if name not in new)]
    pairs = [Leaf(name, old.get(name, ABSENT), new.get(name, ABSENT)) for name in names]
    return [leaf for leaf in pairs if leaf.old != leaf.new or type(leaf.old) is not type(leaf.new)]


def _compare(old: Entry, new: Entry) -> tuple[list[Leaf], list[Leaf]]:
    """What differs in two artifacts' own specification, and in their inputs."""
    before, after = (flat(entry.manifest.get("config") or {}) for entry in (old, new))
    own = differing(before, after)
    # Where content differs, the options it was read with say more than its digest does.
    origins = [flat(entry.manifest.get("origin") or {}) for entry in (old, new)]
    if own and all(origins):
        own = differing(*origins) or own
    own += _seed_leaves(old, new)
    versions = [_code(entry).get("version") for entry in (old, new)]
    if None not in versions and versions[0] != versions[1]:
        own.append(Leaf("stage version", *versions))
    inputs = [entry.manifest.get("inputs") for entry in (old, new)]
    return own, differing(*(flat(side, "input") if isinstance(side, Mapping) and side else {} for side in inputs))


def _seed_leaves(old: Entry, new: Entry) -> list[Leaf]:
    """The seed, if it entered the key: the run's, from which the stage's was derived, where that tells them apart."""
    seeds = [entry.manifest.get("seeds") for entry in (old, new)]
    if not isinstance(seeds[0], Mapping) or not isinstance(seeds[1], Mapping):
        return []
    if seeds[0].get("stage") == seeds[1].get("stage"):
        return []
    leaves = differing({"seed": seeds[0].get("run")}, {"seed": seeds[1].get("run")})
    return leaves or [Leaf("seed of the stage", seeds[0].get("stage"), seeds[1].get("stage"))]


def _code(entry: Entry) -> Mapping[str, object]:
    code = entry.manifest.get("code")
    return code if isinstance(code, Mapping) else {}


def _created(entry: Entry) -> str:
    return str(entry.manifest.get("created"))


def _shown(value: object) -> str:
    return repr(value) if isinstance(value, str) and not value.strip() else str(value)
