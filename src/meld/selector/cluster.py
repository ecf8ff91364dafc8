"""k-centre clusters of bounded size: the batches of batch-level influence (method section 3, Clusters)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meld.errors import ConfigError
from meld.selector.base import IntArray
from meld.selector.diversity.base import unit_rows

_BLOCK = 1024


@dataclass(frozen=True, eq=False)
class Clusters:
    """A partition of a pool.

    Attributes:
        labels: Shape (n,); the cluster of every item.
        centres: Shape (k,); the item that is the centre of every cluster.
    """

    labels: IntArray
    centres: IntArray

    def members(self) -> list[IntArray]:
        """The items of every cluster, ascending."""
        order = np.argsort(self.labels, kind="stable")
        counts = np.bincount(self.labels, minlength=len(self.centres))
        return [part.astype(np.int64) for part in np.split(order, np.cumsum(counts)[:-1])]


def k_centre_clusters(embeddings: NDArray[np.floating], size: int, first: Sequence[int] | IntArray = ()) -> Clusters:
    """Partition a pool into ceil(n / size) clusters of at most ``size`` items.

    Centres are the first items of ``first``, then always the item farthest from all centres (cosine distance; of
    equals the first). Items join in rounds: each proposes to its nearest centre that has room, and a centre with more
    proposals than room takes the nearest ones (of equals the first). Time O(n d k), memory O(n + block * k).

    Args:
        embeddings: Shape (n, d).
        size: Capacity |B| of a cluster.
        first: Items to be centres first, in this order: the picks of S'_init.

    Returns:
        The partition.

    Raises:
        ConfigError: If the capacity is below one.
        DataError: If the pool is empty or an embedding is not finite.
    """
    if size < 1:
        raise ConfigError(f"A cluster cannot hold {size} items.", where="B", fix="B=8")
    # Single precision halves the time of the many matrix products, and distances need no more.
    rows = unit_rows(embeddings).astype(np.float32)
    n = len(rows)
    if size == 1:
        return Clusters(np.arange(n), np.arange(n))
    count = -(-n // size)
    centres = _centres(rows, count, list(dict.fromkeys(int(item) for item in first))[:count])
    labels = np.full(n, -1, dtype=np.int64)
    labels[centres] = np.arange(count)
    room = np.full(count, size - 1)
    waiting = np.flatnonzero(labels < 0)
    while len(waiting):
        open_centres = np.flatnonzero(room > 0)
        nearest, similarity = _nearest(rows, waiting, centres[open_centres])
        wanted = open_centres[nearest]
        # By centre, then by closeness, then by index: the first `room` of every group are let in.
        order = np.lexsort((waiting, -similarity, wanted))
        groups = wanted[order]
        starts = np.searchsorted(groups, groups, side="left")
        admitted = order[np.arange(len(order)) - starts < room[groups]]
        labels[waiting[admitted]] = wanted[admitted]
        room -= np.bincount(wanted[admitted], minlength=count)
        waiting = np.flatnonzero(labels < 0)
    return Clusters(labels, centres)


def _centres(rows: NDArray[np.float32], count: int, first: list[int]) -> IntArray:
    """``first``, filled up by farthest points, shape (count,)."""
    closeness = np.full(len(rows), -np.inf)  # to the nearest centre; centres themselves are +inf
    centres: list[int] = []
    while len(centres) < count:
        item = first[len(centres)] if len(centres) < len(first) else int(np.argmin(closeness))
        centres.append(item)
        np.maximum(closeness, rows @ rows[item], out=closeness)
        closeness[item] = np.inf
    return np.array(centres, dtype=np.int64)


def _nearest(rows: NDArray[np.float32], items: IntArray, centres: IntArray) -> tuple[IntArray, NDArray[np.float32]]:
    """For every item the position of its nearest centre, and the cosine."""
    nearest = np.empty(len(items), dtype=np.int64)
    similarity = np.empty(len(items), dtype=np.float32)
    for at in range(0, len(items), _BLOCK):
        part = rows[items[at : at + _BLOCK]] @ rows[centres].T
        nearest[at : at + _BLOCK] = part.argmax(axis=1)
        similarity[at : at + _BLOCK] = part.max(axis=1)
    return nearest, similarity
