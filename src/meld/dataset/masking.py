"""From a table and a split with masked cells to the unit of data imputation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from meld.dataset.base import Source
from meld.dataset.few_shot import choose, choose_stratified, derive_rng, pick_ids, read_ids, split_dev, unknown_few_shot
from meld.types import Entity, Query, Sample, Table, UnitData

TASKS = ("di",)
FEW_SHOT = ("published", "stratified", "uniform", "ids")
TABLE = "T"


@dataclass(frozen=True)
class Split:
    """Which records are for what.

    Attributes:
        train: Ids of training records, in order.
        test: Test record id to the attributes masked in it (possibly none), in order.
        few_shot: Ids of the published few-shot records; empty without a published split.
    """

    train: tuple[str, ...]
    test: Mapping[str, tuple[str, ...]]
    few_shot: tuple[str, ...] = ()


def mask_seeded(
    name: str, records: Sequence[str], targets: Sequence[str], n_test: int, mask_fraction: float, data_seed: int
) -> Split:
    """Make a split where none is published. Nothing depends on a value.

    Args:
        name: The dataset's name, part of the seed.
        records: The record ids.
        targets: The attributes to impute.
        n_test: How many records are for testing.
        mask_fraction: Chance of a test record's target to be masked; each test record has at least one masked.
        data_seed: The seed.
    """
    rng = derive_rng(data_seed, "mask", name)
    test: dict[str, tuple[str, ...]] = {}
    for record in choose(records, n_test, rng):
        masked = tuple(target for target in targets if rng.random() < mask_fraction)
        test[record] = masked or tuple(choose(targets, 1, rng))
    return Split(tuple(record for record in records if record not in test), test)


def sample_records(
    name: str,
    split: Split,
    strata: Mapping[str, str],
    few_shot: str,
    n_few_shot: int,
    data_seed: int,
    *,
    id_column: str = "row",
    ids_path: str | None = None,
) -> list[str]:
    """Choose the training records whose target values may be read.

    Args:
        name: The dataset's name, part of the seed.
        split: The split.
        strata: For each training record the value of the first target.
        few_shot: ``published`` (the split file's, without test records), ``stratified`` (by the first target's value),
            ``uniform``, or ``ids`` (frozen).
        n_few_shot: How many, for ``stratified`` and ``uniform``.
        data_seed: The seed of the sample.
        id_column: The column of ids in a CSV of frozen ids.
        ids_path: The file of frozen ids, for ``ids``.

    Returns:
        Record ids, in the order of ``split.train``.

    Raises:
        ConfigError: For an unknown ``few_shot``, or one that lacks its file.
        DataError: For ids outside the training records.
    """
    rng = derive_rng(data_seed, "few_shot", name)
    if few_shot == "published" and split.few_shot:
        readable = set(split.few_shot)
        return [record for record in split.train if record in readable]
    if few_shot == "stratified":
        return choose_stratified(split.train, [strata[record] for record in split.train], n_few_shot, rng)
    if few_shot == "uniform":
        return choose(split.train, n_few_shot, rng)
    if few_shot == "ids":
        return [
            split.train[place]
            for place in pick_ids(read_ids(ids_path, (id_column,), name), split.train, ids_path, name)
        ]
    raise unknown_few_shot(name, few_shot, FEW_SHOT if split.few_shot else FEW_SHOT[1:])


def assemble_imputation(
    *,
    name: str,
    columns: Sequence[str],
    records: Mapping[str, Entity],
    targets: Sequence[str],
    split: Split,
    few_shot: Sequence[str],
    data_seed: int,
    title: str = "",
    max_train: int | None = None,
    max_test: int | None = None,
    notes: Sequence[str] = (),
) -> Source:
    """Build ``<name>.di``.

    The visible table holds the few-shot records whole, the other training records without any target value, and the
    test records without their masked cells; records in neither part are left out.

    Args:
        name: The dataset's name.
        columns: The attributes, in order.
        records: Record id to its true values.
        targets: The attributes to impute.
        split: Which records are for what.
        few_shot: Ids of the training records that are labelled.
        data_seed: Seed of the train/dev split and of the limits.
        title: Metadata of every query.
        max_train: Limit on pool cells, seeded.
        max_test: Limit on test records that have a masked cell, seeded.
        notes: Carried into the source.
    """
    unit = f"{name}.di"
    readable = set(few_shot)
    unlabelled = [record for record in split.train if record not in readable]
    hidden: dict[str, tuple[str, ...]] = dict.fromkeys(few_shot, ())
    hidden.update(dict.fromkeys(unlabelled, tuple(targets)))
    hidden.update(split.test)
    shown = {record: _blank(values, hidden[record]) for record, values in records.items() if record in hidden}
    table = Table(TABLE, title, tuple(columns), shown)

    def query(record: str, target: str) -> Query:
        entity = shown[record]
        return Query(
            id=f"{unit}/{record}/{target}",
            unit=unit,
            task="di",
            entities=(_blank(entity, (target,)) if entity[target] else entity,),
            rows=(f"{TABLE}:{record}",),
            target=target,
            title=title,
        )

    def samples(chosen: Sequence[str]) -> tuple[Sample, ...]:
        # A labelled record that lacks the value itself teaches nothing.
        return tuple(
            Sample(query(record, target), records[record][target])
            for record in chosen
            for target in targets
            if records[record][target]
        )

    fit, held_out = split_dev(
        few_shot, [records[record][targets[0]] for record in few_shot], derive_rng(data_seed, "dev", name)
    )
    cells = [(record, target) for record in unlabelled for target in targets]
    pool = choose(cells, max_train, derive_rng(data_seed, "pool", name))
    masked = [record for record, attributes in split.test.items() if attributes]
    scored = choose(masked, max_test, derive_rng(data_seed, "test", name))
    test = [(record, target) for record in scored for target in split.test[record]]
    data = UnitData(
        unit=unit,
        dataset=name,
        task="di",
        tables={TABLE: table},
        train=samples(fit),
        dev=samples(held_out),
        pool=tuple(query(*cell) for cell in pool),
        test=tuple(query(*cell) for cell in test),
    )
    # Whether a hidden cell has a value must not show in the queries, so all are asked and only those with an answer are
    # scored.
    gold = {
        f"{unit}/{record}/{target}": (records[record][target],)
        for record, target in (*pool, *test)
        if records[record][target]
    }
    said = (
        f"{name}: {len(few_shot)} few-shot records, {len(fit)} for training and {len(held_out)} held out; "
        f"{len(pool)} unlabelled cells in the pool, {len(test)} test cells in {len(scored)} records."
    )
    return Source(name, {unit: data}, {unit: gold}, (*notes, said))


def _blank(entity: Entity, attributes: Sequence[str]) -> dict[str, str]:
    return {column: "" if column in attributes else value for column, value in entity.items()}
