"""Is a trained adapter better than what it started from? What is asked, of which questions, and how sure one can be.

A dev set of a dozen questions decides little. Two things help without a second training: labelled questions that the
expert is not trained on join dev until there are enough of them (the out-of-fold part of cross-fitting, with one fold),
and the decision compares the losses question by question, with their standard error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meld.seeds import generator
from meld.types import Sample

_LARGEST_SHARE = 0.25
"""Of the labelled questions, at most this part is kept from training."""


@dataclass(frozen=True)
class Verdict:
    """Whether training helped on held-out questions.

    Attributes:
        kept: Whether the trained adapter is to be used.
        gain: Mean loss before minus mean loss after; nan without questions.
        error: Standard error of the gain, from the differences question by question; nan for fewer than two.
    """

    kept: bool
    gain: float
    error: float


def judge(before: NDArray[np.float64], after: NDArray[np.float64], tolerance: float) -> Verdict:
    """Keep a trained adapter unless it is worse by more than noise explains.

    Args:
        before: Shape (n,), loss of each held-out question under the weights that training started from.
        after: Shape (n,), loss of the same questions afterwards.
        tolerance: How many standard errors the loss may rise before the adapter is given up; 0 compares the means.

    Returns:
        ``kept`` is True without questions: there is then nothing that speaks against the training.
    """
    differences = before - after
    if not len(differences):
        return Verdict(True, float("nan"), float("nan"))
    gain = float(differences.mean())
    error = float(differences.std(ddof=1) / np.sqrt(len(differences))) if len(differences) > 1 else float("nan")
    slack = tolerance * error if len(differences) > 1 else 0.0
    return Verdict(gain >= -slack, gain, error)


def held_out(samples: Sequence[Sample], n_dev: int, wanted: int, seed: int) -> frozenset[str]:
    """Ids of labelled samples that join a dev set that is too small, and that no expert of the unit is trained on.

    Questions about the same records go together (so there may be a few more than wanted), and labels take turns, so
    that the rare one is among them. At most a quarter of the labelled samples is taken, however small dev is.

    Args:
        samples: X_i; only ``labelled`` ones are taken.
        n_dev: Questions in dev.
        wanted: Questions there should be.
        seed: Seeds the draw.
    """
    labelled = [s for s in samples if s.provenance == "labelled"]
    missing, most = wanted - n_dev, int(_LARGEST_SHARE * len(labelled))
    groups: dict[tuple[str, ...], list[Sample]] = {}
    for sample in labelled:
        groups.setdefault(_records(sample), []).append(sample)
    queues: dict[str, list[list[Sample]]] = {}
    keys = sorted(groups)
    for place in generator(seed, "held out").permutation(len(keys)):
        group = groups[keys[place]]
        queues.setdefault(group[0].label, []).append(group)
    turns = sorted((turn, label) for label, queue in queues.items() for turn in range(len(queue)))
    taken: list[str] = []
    for turn, label in turns:
        group = queues[label][turn]
        if len(taken) < missing and len(taken) + len(group) <= most:
            taken += [sample.id for sample in group]
    return frozenset(taken)


def without(samples: Sequence[Sample], ids: frozenset[str]) -> list[Sample]:
    """Samples that are neither held out nor made from a held-out one, be it for another task.

    Args:
        samples: All samples of the unit, the held-out ones among them.
        ids: As :func:`held_out` gives them.
    """
    records = {_records(s) for s in samples if s.id in ids}
    return [s for s in samples if _records(s) not in records and s.id.partition(">")[0] not in ids]


def _records(sample: Sample) -> tuple[str, ...]:
    """What a question is about: its records, or itself."""
    return sample.query.rows or (sample.id.partition(">")[0],)
