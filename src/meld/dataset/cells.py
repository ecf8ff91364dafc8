"""From a dirty table and its clean version to the units of error detection and data cleaning."""

from __future__ import annotations

from collections.abc import Sequence

from meld.dataset.base import Source
from meld.dataset.few_shot import choose, derive_rng, pick_ids, read_ids, split_dev, unknown_few_shot
from meld.types import Entity, Gold, Query, Sample, Table, UnitData

TASKS = ("ed", "dc")
FEW_SHOT = ("uniform", "ids")
TABLE = "T"


def sample_tuples(
    name: str, n_rows: int, few_shot: str, n_few_shot: int, data_seed: int, *, ids_path: str | None = None
) -> list[int]:
    """Choose the tuples whose cells are labelled: uniformly, since where the errors are is not known beforehand.

    Args:
        name: The dataset's name, part of the seed.
        n_rows: How many tuples there are.
        few_shot: ``uniform``, or ``ids`` (frozen row positions, counted from 0).
        n_few_shot: How many tuples, for ``uniform``.
        data_seed: The seed of the sample.
        ids_path: The file of frozen ids, for ``ids``.

    Returns:
        Row positions, ascending.

    Raises:
        ConfigError: For an unknown ``few_shot``, or one that lacks its file.
        DataError: For positions that are not in the table.
    """
    if few_shot == "uniform":
        return choose(range(n_rows), n_few_shot, derive_rng(data_seed, "few_shot", name))
    if few_shot == "ids":
        return pick_ids(read_ids(ids_path, ("row",), name), [str(row) for row in range(n_rows)], ids_path, name)
    raise unknown_few_shot(name, few_shot, FEW_SHOT)


def assemble_dirty_clean(
    *,
    name: str,
    tasks: Sequence[str],
    columns: Sequence[str],
    dirty: Sequence[Entity],
    clean: Sequence[Sequence[str]],
    few_shot: Sequence[int],
    data_seed: int,
    title: str = "",
    max_train: int | None = None,
    max_test: int | None = None,
    notes: Sequence[str] = (),
) -> Source:
    """Build ``<name>.ed`` and ``<name>.dc``.

    Args:
        name: The dataset's name.
        tasks: Which of ``ed`` and ``dc``.
        columns: The attributes, in order.
        dirty: The tuples as they are shown; all queries of a tuple share its object.
        clean: For each tuple its true values, aligned with ``columns``.
        few_shot: Positions of the tuples whose cells are all labelled.
        data_seed: Seed of the train/dev split and of the limits.
        title: Metadata of every query.
        max_train: Limit on pool cells, seeded.
        max_test: Limit on test *tuples*, seeded; all their cells are scored.
        notes: Carried into the source.
    """
    wrong = [
        any(row[column] != value for column, value in zip(columns, truth, strict=True))
        for row, truth in zip(dirty, clean, strict=True)
    ]
    fit, held_out = split_dev(few_shot, [wrong[row] for row in few_shot], derive_rng(data_seed, "dev", name))
    chosen = set(few_shot)
    others = [row for row in range(len(dirty)) if row not in chosen]
    scored = choose(others, max_test, derive_rng(data_seed, "test", name))
    cells = [(row, place) for row in others for place in range(len(columns))]
    pool = choose(cells, max_train, derive_rng(data_seed, "pool", name))
    table = Table(TABLE, title, tuple(columns), {str(row): entity for row, entity in enumerate(dirty)})
    units: dict[str, UnitData] = {}
    gold: dict[str, Gold] = {}
    for task in tasks:
        unit = f"{name}.{task}"

        def query(row: int, place: int, unit: str = unit, task: str = task) -> Query:
            return Query(
                id=f"{unit}/{row}/{columns[place]}",
                unit=unit,
                task=task,
                entities=(dirty[row],),
                rows=(f"{TABLE}:{row}",),
                target=columns[place],
                title=title,
            )

        def label(row: int, place: int, task: str = task) -> str:
            if task == "dc":
                return clean[row][place]
            return "error" if dirty[row][columns[place]] != clean[row][place] else "correct"

        def samples(rows: Sequence[int]) -> tuple[Sample, ...]:
            return tuple(Sample(query(row, place), label(row, place)) for row in rows for place in range(len(columns)))

        test_cells = [(row, place) for row in scored for place in range(len(columns))]
        units[unit] = UnitData(
            unit=unit,
            dataset=name,
            task=task,
            tables={TABLE: table},
            train=samples(fit),
            dev=samples(held_out),
            pool=tuple(query(*cell) for cell in pool),
            test=tuple(query(*cell) for cell in test_cells),
        )
        gold[unit] = {
            f"{unit}/{row}/{columns[place]}": (label(row, place),) for row, place in dict.fromkeys([*pool, *test_cells])
        }
    said = (
        f"{name}: {len(few_shot)} few-shot tuples ({sum(wrong[row] for row in few_shot)} with an error), "
        f"{len(fit)} for training and {len(held_out)} held out; {len(pool)} unlabelled cells in the pool, "
        f"{len(scored)} test tuples of {len(columns)} cells."
    )
    return Source(name, units, gold, (*notes, said))
