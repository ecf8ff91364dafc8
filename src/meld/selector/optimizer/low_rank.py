"""Exact greedy for objectives that are sums of vectors: only a window of promising items is followed step by step.

All gains are computed once for a *round*. The largest ones form the window, whose inner products are computed in one
matrix product, so that following a pick costs one vector addition. The other items' gains are bounded: with S the sum
of the vectors picked in the round, split into its parts along the pool's centroid and across it,
<S, u> >= along_S along_u - across_S across_u (Cauchy and Schwarz). The round ends when an item outside the window could
be the best. With shifted cosines every gain falls at every pick, so that lazy evaluation (Minoux, 1978), which keeps
old gains as bounds, would evaluate nearly everything again and again; these bounds fall with the gains.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from meld.selector.base import FloatArray, IntArray
from meld.selector.objective import LowRank
from meld.selector.optimizer.base import TIE

_SMALLEST, _LARGEST = 16, 2048
_GROWTH = 1.3


@dataclass(frozen=True, eq=False)
class _Outside:
    """Items outside the window, in groups of similar gain.

    Attributes:
        gain: Shape (groups,); the largest gain at the round's beginning.
        along: Shape (groups,); the smallest component along the centroid.
        across: Shape (groups,); the largest length across it.
    """

    gain: FloatArray
    along: FloatArray
    across: FloatArray

    def bound(self, double_curvature: float, along: float, across: float) -> float:
        """No item outside has a larger gain (without the offset), given the parts of what was picked since."""
        if not len(self.gain):
            return -math.inf
        # `along` may be negative where a pool has no direction: then the bound keeps the items' full length.
        fall = along * self.along if along >= 0.0 else along * np.hypot(self.along, self.across)
        return float((self.gain - double_curvature * (fall - across * self.across)).max())


def low_rank_greedy(form: LowRank, n_select: int) -> Iterator[int]:
    """The picks of greedy, in order; of equals the first.

    Time O(n d) a round; memory O(n + window^2) besides the vectors.

    Args:
        form: The objective.
        n_select: How many, at most n.
    """
    if form.vectors is None:
        yield from _sorted_picks(form.linear, form.offset, n_select)
        return
    rows = form.vectors
    n = len(rows)
    axis = _centroid_direction(rows)
    along = rows @ axis
    squares = np.einsum("nd,nd->n", rows, rows)
    across = np.sqrt(np.maximum(squares - along * along, 0.0))
    alone = form.linear - form.curvature * squares
    free = np.ones(n, dtype=bool)
    total = np.zeros(rows.shape[1])
    # The products of the window then cost about what a round's own pass over the pool does. A window that shrank with
    # few picks a round would keep them few.
    size = int(min(max(math.sqrt(8.0 * n), _SMALLEST), _LARGEST))
    done = 0
    while done < n_select:
        gains = np.where(free, alone - 2.0 * form.curvature * (rows @ total), -np.inf)
        order = np.argsort(-gains, kind="stable")[: n - done]
        window, rest = np.sort(order[:size]), order[size:]
        outside = _groups(rest, gains, along, across)
        moved = np.zeros_like(total)
        picks = 0
        for item in _round(form, rows, gains, window, outside, axis, moved, done):
            free[item] = False
            picks += 1
            yield item
            if done + picks == n_select:
                return
        if not picks:  # equal gains inside and outside the window: decided over all of them
            item = _first_of_equals(gains, form.offset, done)
            free[item] = False
            moved += rows[item]
            picks = 1
            yield item
        total += moved
        done += picks


def _round(
    form: LowRank,
    rows: FloatArray,
    gains: FloatArray,
    window: IntArray,
    outside: _Outside,
    axis: FloatArray,
    moved: FloatArray,
    done: int,
) -> Iterator[int]:
    """Picks from the window while no item outside can be better or equal; ``moved`` collects their vectors."""
    inside = rows[window]
    products = inside @ inside.T
    now = gains[window]
    along = across = 0.0
    for step in range(len(window)):
        best = float(now.max())
        # The offset shifts all gains, and with them what counts as equal.
        margin = TIE * max(1.0, abs(best - form.offset * (2 * (done + step) + 1)))
        if outside.bound(2.0 * form.curvature, along, across) >= best - 2.0 * margin:
            return
        chosen = int(np.argmax(now >= best - margin))
        moved += inside[chosen]
        along = float(moved @ axis)
        across = math.sqrt(max(float(moved @ moved) - along * along, 0.0))
        now -= 2.0 * form.curvature * products[chosen]
        now[chosen] = -np.inf
        yield int(window[chosen])


def _groups(rest: IntArray, gains: FloatArray, along: FloatArray, across: FloatArray) -> _Outside:
    """Items in falling order of gain, cut into groups that grow geometrically: the first decide."""
    if not len(rest):
        return _Outside(np.zeros(0), np.zeros(0), np.zeros(0))
    starts, width = [0], 8.0
    while starts[-1] + int(width) < len(rest):
        starts.append(starts[-1] + int(width))
        width *= _GROWTH
    return _Outside(
        gains[rest[starts]],
        np.minimum.reduceat(along[rest], starts),
        np.maximum.reduceat(across[rest], starts),
    )


def _centroid_direction(rows: FloatArray) -> FloatArray:
    """Unit vector of the rows' sum; zeros if they cancel."""
    centroid = rows.sum(axis=0)
    length = float(np.linalg.norm(centroid))
    return np.asarray(centroid / length if length > 0.0 else np.zeros_like(centroid))


def _first_of_equals(gains: FloatArray, offset: float, done: int) -> int:
    best = float(gains.max())
    margin = TIE * max(1.0, abs(best - offset * (2 * done + 1)))
    return int(np.argmax(gains >= best - margin))


def _sorted_picks(linear: FloatArray, offset: float, n_select: int) -> Iterator[int]:
    """Without vectors gains never change but by the offset."""
    rest = linear.copy()
    for done in range(n_select):
        item = _first_of_equals(rest, offset, done)
        rest[item] = -np.inf
        yield item
