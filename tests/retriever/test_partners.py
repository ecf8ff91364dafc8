"""Ranks and margins between two tables, against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meld.encoder.vectors import Vectors
from meld.retriever.partners import Link, Partners, link_facts, pair_links, pair_partners
from meld.types import Entity, Query, Table


def render(entity: Entity) -> str:
    return entity["t"]


def make(seed: int, n: int, m: int, d: int = 3) -> tuple[Partners, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    array = rng.normal(size=(n + m, d)).astype(np.float32)
    array /= np.linalg.norm(array, axis=1, keepdims=True)
    vectors = Vectors([f"t{i}" for i in range(n + m)], array)
    # The same record ids on both sides: only the table tells them apart.
    left = Table("A", "", ("t",), {str(i): {"t": f"t{i}"} for i in range(n)})
    right = Table("B", "", ("t",), {str(j): {"t": f"t{n + j}"} for j in range(m)})
    partners = pair_partners({"A": left, "B": right}, vectors, render)
    assert partners is not None
    return partners, array[:n], array[n:]


@settings(max_examples=40)
@given(st.integers(0, 2**31), st.integers(1, 25), st.integers(1, 25))
def test_links_equal_brute_force(seed: int, n: int, m: int) -> None:
    partners, left, right = make(seed, n, m)
    similarity = left @ right.T
    for i in range(n):
        order = sorted(range(m), key=lambda j: -similarity[i, j])
        near = partners.nearest(f"A:{i}")
        assert len(near) == min(10, m)
        assert [s for _, s in near] == pytest.approx([float(similarity[i, j]) for j in order[:10]], abs=1e-6)
        for j in range(m):
            link = partners.link(f"A:{i}", f"B:{j}")
            assert link.similarity == pytest.approx(float(similarity[i, j]), abs=1e-6)
            assert link.rank_right == min(11, 1 + int((similarity[i] > similarity[i, j]).sum()))
            assert link.rank_left == min(11, 1 + int((similarity[:, j] > similarity[i, j]).sum()))
            rivals = [0.0] * ((n == 1) + (m == 1))
            rivals += [max(similarity[i, k] for k in range(m) if k != j)] if m > 1 else []
            rivals += [max(similarity[k, j] for k in range(n) if k != i)] if n > 1 else []
            assert link.margin == pytest.approx(float(similarity[i, j] - max(rivals)), abs=1e-5)


def test_neighbours_from_the_right_side() -> None:
    partners, left, right = make(1, 12, 4)
    best = int(np.argmax(left @ right[2]))
    assert partners.nearest("B:2")[0][0] == f"A:{best}"


def test_only_pairs_of_left_and_right_have_links() -> None:
    partners, _, _ = make(0, 5, 5)

    def ask(*rows: str) -> Query:
        return Query("q", "d.em", "em", (), rows)

    queries = [ask("A:1", "B:2"), ask("B:2", "A:1"), ask("A:1", "A:2"), ask("A:1"), ask(), ask("A:1", "C:2")]
    links = pair_links(queries, partners)
    assert links[0] == partners.link("A:1", "B:2")
    assert links[1:] == [None] * 5


def test_other_numbers_of_tables_have_no_partners() -> None:
    table = Table("A", "", ("t",), {"1": {"t": "t0"}})
    assert pair_partners({"A": table}, Vectors(["t0"], np.ones((1, 1), np.float32)), render) is None


@pytest.mark.parametrize(
    ("link", "left", "right", "facts"),
    [
        (Link(0.9, 1, 1, 0.2), "sony kdl-32", "kdl32 tv", ("both", "ahead", "same")),
        (Link(0.9, 1, 2, -0.01), "sony kdl-32", "kdl33", ("one", "even", "different")),
        (Link(0.9, 3, 9, -0.1), "sony", "kdl33", ("close", "behind", "unknown")),
        (Link(0.1, 11, 11, -0.5), "", "", ("none", "far", "unknown")),
    ],
)
def test_link_facts(link: Link, left: str, right: str, facts: tuple[str, ...]) -> None:
    assert tuple(value for _, value in link_facts(link, {"t": left}, {"t": right})) == facts
