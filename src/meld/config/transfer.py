"""Masked settings: which units a run must not learn from (method section 2, Masked settings).

*Cross-dataset* withholds the target's own expert, labels and unlabelled pool; *cross-task* every expert and label of
the target's task besides. All units of a target's dataset are withheld, because they are about the same records:
blocking is learnt from the very pairs that matching labels. Elsewhere, units that share their labels fall together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SETTINGS = ("none", "cross_dataset", "cross_task")
"""The options of ``transfer``."""

SHARED_LABELS = (frozenset({"em", "blk"}), frozenset({"ed", "dc"}))
"""Tasks that read one dataset's labels in two ways: true pairs, and true cells."""


@dataclass(frozen=True)
class Masking:
    """What a run withholds.

    Attributes:
        targets: The units that are answered without having been learnt from; empty for a run without masking.
        withheld: Units whose expert, labels and pool are absent, the targets among them.
    """

    targets: tuple[str, ...] = ()
    withheld: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.targets)


def masking(
    setting: str,
    units: Sequence[str],
    experts: Sequence[str],
    targets: Sequence[str] | None = None,
    also: Sequence[str] = (),
) -> Masking:
    """What a setting withholds.

    Args:
        setting: One of ``SETTINGS``.
        units: Units of the suite.
        experts: Those that have an expert.
        targets: Units to answer without having learnt from them; None for the first unit with an expert.
        also: Further units or datasets to withhold, because they hold records of the targets under another name.
    """
    if setting == "none" or not experts:
        return Masking()
    chosen = tuple(experts[:1]) if targets is None else tuple(targets)
    datasets = {_dataset(target) for target in chosen}
    tasks = {_task(target) for target in chosen}
    withheld = {unit for unit in units if _dataset(unit) in datasets or unit in also or _dataset(unit) in also}
    if setting == "cross_task":
        withheld |= {unit for unit in units if _task(unit) in tasks}
        for family in (family for family in SHARED_LABELS if family & tasks):
            known = {_dataset(unit) for unit in units if _task(unit) in tasks}
            withheld |= {unit for unit in units if _task(unit) in family and _dataset(unit) in known}
    return Masking(chosen, frozenset(withheld))


def _dataset(unit: str) -> str:
    return unit.rpartition(".")[0]


def _task(unit: str) -> str:
    return unit.rpartition(".")[2]
