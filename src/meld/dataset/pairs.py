"""From two tables and labelled pairs to the units of entity matching and blocking."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from meld.dataset.base import Source
from meld.dataset.few_shot import (
    choose,
    choose_balanced,
    choose_stratified,
    derive_rng,
    pair_id,
    pick_ids,
    read_ids,
    split_dev,
    unknown_few_shot,
)
from meld.types import Gold, Query, Sample, Table, UnitData

TASKS = ("em", "blk")
FEW_SHOT = ("balanced", "stratified", "paper_index", "ids")


class Pair(NamedTuple):
    """A left record, a right record, and whether they are the same entity."""

    left: str
    right: str
    match: bool


def sample_pairs(
    name: str,
    train: Sequence[Pair],
    few_shot: str,
    n_few_shot: int,
    data_seed: int,
    *,
    index: Sequence[str] | None = None,
    ids_path: str | None = None,
) -> list[int]:
    """Choose the pairs whose labels may be read.

    Args:
        name: The dataset's name, part of the seed.
        train: The training pairs.
        few_shot: ``balanced`` (half match, half mismatch), ``stratified`` (as the labels are distributed),
            ``paper_index`` (the published positives and as many sampled negatives) or ``ids`` (frozen).
        n_few_shot: How many, for the first two.
        data_seed: The seed of the sample.
        index: Ids of the published positives, for ``paper_index``.
        ids_path: The file of frozen ids, for ``ids``.

    Returns:
        Places in ``train``, ascending.

    Raises:
        ConfigError: For an unknown ``few_shot``, or one that lacks its file.
        DataError: For ids outside the training pairs.
    """
    rng = derive_rng(data_seed, "few_shot", name)
    places = range(len(train))
    negatives = [place for place in places if not train[place].match]
    known = [pair_id(pair.left, pair.right) for pair in train]
    if few_shot == "balanced":
        positives, sampled = choose_balanced(
            [place for place in places if train[place].match], negatives, n_few_shot, rng
        )
        return sorted(positives + sampled)
    if few_shot == "stratified":
        return choose_stratified(list(places), [pair.match for pair in train], n_few_shot, rng)
    if few_shot == "paper_index":
        published = pick_ids(index or (), known, "the published few-shot index", name)
        rest = [place for place in negatives if place not in set(published)]
        return sorted(published + choose(rest, len(published), rng))
    if few_shot == "ids":
        return pick_ids(read_ids(ids_path, ("ltable_id", "rtable_id"), name), known, ids_path, name)
    raise unknown_few_shot(name, few_shot, FEW_SHOT)


def assemble_pairs(
    *,
    name: str,
    tasks: Sequence[str],
    left: Table,
    right: Table,
    train: Sequence[Pair],
    valid: Sequence[Pair],
    test: Sequence[Pair],
    few_shot: Sequence[int],
    data_seed: int,
    title: str = "",
    max_train: int | None = None,
    max_test: int | None = None,
    notes: Sequence[str] = (),
) -> Source:
    """Build ``<name>.em`` and ``<name>.blk``.

    Args:
        name: The dataset's name.
        tasks: Which of ``em`` and ``blk``.
        left: The table of the pairs' left records.
        right: The table of the pairs' right records, in which blocking searches.
        train: Training pairs; those not in ``few_shot`` become the pool, without labels.
        valid: Published validation pairs: never shown, their positives only complete blocking's gold.
        test: Test pairs.
        few_shot: Places in ``train`` whose labels may be read.
        data_seed: Seed of the train/dev split and of the limits.
        title: Metadata of every query.
        max_train: Limit on pool pairs, seeded.
        max_test: Limit on test pairs, seeded.
        notes: Carried into the source.
    """
    readable = [train[place] for place in few_shot]
    fit, held_out = split_dev(readable, [pair.match for pair in readable], derive_rng(data_seed, "dev", name))
    chosen = set(few_shot)
    unlabelled = [pair for place, pair in enumerate(train) if place not in chosen]
    pool = choose(unlabelled, max_train, derive_rng(data_seed, "pool", name))
    scored = choose(test, max_test, derive_rng(data_seed, "test", name))
    positives = sum(pair.match for pair in readable)
    said = [
        *notes,
        f"{name}: {len(readable)} few-shot pairs ({positives} match), {len(fit)} for training "
        f"and {len(held_out)} held out; {len(pool)} unlabelled pairs in the pool, {len(scored)} test pairs.",
    ]
    parts = _Parts(name, left, right, title, fit, held_out, pool, scored)
    made: list[tuple[UnitData, Gold]] = []
    if "em" in tasks:
        made.append(_matching(parts))
    if "blk" in tasks:
        made.append(_blocking(parts, _partners((*train, *valid, *test), right.name)))
    units = {data.unit: data for data, _ in made}
    return Source(name, units, {data.unit: gold for data, gold in made}, tuple(said))


@dataclass(frozen=True)
class _Parts:
    """A dataset of pairs, split; see :func:`assemble_pairs`.

    Attributes:
        name: The dataset's name.
        left: The table of the pairs' left records.
        right: The table of the pairs' right records.
        title: Metadata of every query.
        fit: Readable pairs for training.
        held_out: Readable pairs for decisions.
        pool: Unlabelled training pairs.
        scored: Test pairs.
    """

    name: str
    left: Table
    right: Table
    title: str
    fit: Sequence[Pair]
    held_out: Sequence[Pair]
    pool: Sequence[Pair]
    scored: Sequence[Pair]

    @property
    def tables(self) -> dict[str, Table]:
        """Both tables by name."""
        return {self.left.name: self.left, self.right.name: self.right}


def _matching(parts: _Parts) -> tuple[UnitData, Gold]:
    """``<name>.em`` and its hidden labels."""
    unit, left, right = f"{parts.name}.em", parts.left, parts.right

    def query(pair: Pair, part: str) -> Query:
        return Query(
            id=f"{unit}/{part}/{pair_id(pair.left, pair.right)}",
            unit=unit,
            task="em",
            entities=(left.rows[pair.left], right.rows[pair.right]),
            rows=(f"{left.name}:{pair.left}", f"{right.name}:{pair.right}"),
            title=parts.title,
        )

    data = UnitData(
        unit=unit,
        dataset=parts.name,
        task="em",
        tables=parts.tables,
        train=tuple(Sample(query(pair, "train"), _label(pair)) for pair in parts.fit),
        dev=tuple(Sample(query(pair, "train"), _label(pair)) for pair in parts.held_out),
        pool=tuple(query(pair, "train") for pair in parts.pool),
        test=tuple(query(pair, "test") for pair in parts.scored),
    )
    gold = {
        query(pair, part).id: (_label(pair),)
        for part, pairs in (("train", parts.pool), ("test", parts.scored))
        for pair in pairs
    }
    return data, gold


def _blocking(parts: _Parts, partners: Mapping[str, tuple[str, ...]]) -> tuple[UnitData, Gold]:
    """``<name>.blk`` and its hidden labels.

    Args:
        parts: The dataset.
        partners: All partners of each left record that has some.
    """
    unit, left, right = f"{parts.name}.blk", parts.left, parts.right

    def query(record: str, what: str) -> Query:
        return Query(
            id=f"{unit}/{what}",
            unit=unit,
            task="blk",
            entities=(left.rows[record],),
            rows=(f"{left.name}:{record}",),
            title=parts.title,
        )

    def samples(pairs: Iterable[Pair]) -> tuple[Sample, ...]:
        # One record may have several labelled partners, so the sample is named by the pair.
        return tuple(
            Sample(query(pair.left, f"few_shot/{pair_id(pair.left, pair.right)}"), f"{right.name}:{pair.right}")
            for pair in pairs
            if pair.match
        )

    data = UnitData(
        unit=unit,
        dataset=parts.name,
        task="blk",
        tables=parts.tables,
        train=samples(parts.fit),
        dev=samples(parts.held_out),
        pool=tuple(query(record, f"train/{record}") for record in _lefts(parts.pool)),
        test=tuple(query(record, f"test/{record}") for record in _lefts(parts.scored)),
    )
    gold = {
        f"{unit}/{part}/{record}": partners[record]
        for part, pairs in (("train", parts.pool), ("test", parts.scored))
        for record in _lefts(pair for pair in pairs if pair.match)
    }
    return data, gold


def _label(pair: Pair) -> str:
    return "match" if pair.match else "mismatch"


def _lefts(pairs: Iterable[Pair]) -> list[str]:
    """Distinct left records in order of appearance; choosing them by label would leak it."""
    return list(dict.fromkeys(pair.left for pair in pairs))


def _partners(pairs: Iterable[Pair], table: str) -> Mapping[str, tuple[str, ...]]:
    found: dict[str, dict[str, None]] = {}
    for pair in pairs:
        if pair.match:
            found.setdefault(pair.left, {})[f"{table}:{pair.right}"] = None
    return {record: tuple(rows) for record, rows in found.items()}
