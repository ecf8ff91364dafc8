"""k-centre clusters: a partition, within capacity, the same every time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meld.errors import ConfigError, DataError
from meld.selector.cluster import k_centre_clusters


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(1, 12), st.integers(0, 1000), st.booleans())
def test_partition_within_capacity(n: int, size: int, seed: int, clumped: bool) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3)).astype(np.float32)
    if clumped:  # most items identical: the nearest centre is full at once
        x[: n // 2] = x[0]
    first = rng.permutation(n)[: n // 3]
    clusters = k_centre_clusters(x, size, first)
    again = k_centre_clusters(x, size, first)
    count = -(-n // size)
    assert clusters.labels.tolist() == again.labels.tolist()
    assert clusters.centres.tolist() == again.centres.tolist()
    assert len(set(clusters.centres.tolist())) == count
    assert np.bincount(clusters.labels, minlength=count).max() <= size
    assert clusters.labels.min() >= 0
    assert clusters.labels[clusters.centres].tolist() == list(range(count))
    members = clusters.members()
    assert sorted(np.concatenate(members).tolist()) == list(range(n))
    assert all((clusters.labels[part] == index).all() for index, part in enumerate(members))


def test_centres_are_the_first_picks_then_farthest_points() -> None:
    angles = np.radians([0, 5, 90, 95, 180, 185])
    x = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    assert k_centre_clusters(x, 2, [3]).centres.tolist() == [3, 0, 5]  # 185 is 90 from 95, 180 only 85
    assert k_centre_clusters(x, 2, [5, 1, 0, 2]).centres.tolist() == [5, 1, 0]  # no more than needed
    clusters = k_centre_clusters(x, 2, [0, 2, 4])
    assert clusters.labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_a_full_centre_keeps_the_nearest() -> None:
    angles = np.radians([0, 20, 10, 30, 90, 100])
    x = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    clusters = k_centre_clusters(x, 3, [0, 4])
    # Three items propose to item 0, which has room for two: 10 and 20 degrees; 30 degrees goes to item 4.
    assert clusters.labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_similar_items_share_clusters() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.eye(5), 8, axis=0) + 0.01 * rng.normal(size=(40, 5))
    order = rng.permutation(40)
    clusters = k_centre_clusters(groups[order].astype(np.float32), 8)
    for members in clusters.members():
        assert len({int(order[item]) // 8 for item in members}) == 1


def test_single_items_and_bad_input() -> None:
    x = np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32)
    assert k_centre_clusters(x, 1).labels.tolist() == [0, 1, 2, 3]
    assert k_centre_clusters(x, 99).labels.tolist() == [0, 0, 0, 0]
    with pytest.raises(ConfigError, match="hold 0"):
        k_centre_clusters(x, 0)
    with pytest.raises(DataError):
        k_centre_clusters(np.zeros((0, 2), np.float32), 8)
