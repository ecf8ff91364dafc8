"""Hard negatives for alignments that lack negatives, found with the initial encoder (journal version, section IV-A)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from meld.encoder.vectors import Embeds, Vectors
from meld.progress import Progress
from meld.task.base import Alignment


def mine(
    alignments: Sequence[Alignment],
    groups: Mapping[str, Sequence[str]],
    embedder: Embeds,
    n_negatives: int,
    progress: Progress | None = None,
) -> list[Alignment | None]:
    """Fill N_q up to a size with the nearest texts of the same group.

    Texts that are aligned with the anchor, that must not be mined (``excluded``), or that equal the anchor are never
    taken.

    Args:
        alignments: What is to be completed.
        groups: Texts to mine among, by group.
        embedder: The initial encoder.
        n_negatives: Wanted size of N_q; given negatives come first.
        progress: Where to report.

    Returns:
        Completed alignments in the given order; None for those that end without any negative, for they teach nothing.
    """
    wanted = {a.group for a in alignments if len(a.negatives) < n_negatives}
    texts = {text for group in wanted for text in groups.get(group, ())}
    texts |= {a.anchor for a in alignments if a.group in wanted}
    vectors = Vectors.of(texts, embedder, progress) if texts else None
    pools = {group: sorted(set(groups.get(group, ()))) for group in wanted}
    arrays = {group: vectors.get(pool) for group, pool in pools.items() if pool and vectors is not None}
    made: list[Alignment | None] = []
    for alignment in alignments:
        negatives = list(alignment.negatives[:n_negatives])
        if len(negatives) < n_negatives and alignment.group in arrays and vectors is not None:
            pool = pools[alignment.group]
            barred = {alignment.anchor, *alignment.positives, *alignment.excluded, *negatives}
            similarity = arrays[alignment.group] @ vectors.get([alignment.anchor])[0]
            for index in np.argsort(-similarity, kind="stable"):
                if len(negatives) >= n_negatives:
                    break
                if pool[index] not in barred:
                    negatives.append(pool[index])
        made.append(replace(alignment, negatives=tuple(negatives)) if negatives else None)
    return made
