"""The built-in synthetic suite: products, people and hospitals made by code, for trying everything without a download.

The words are invented (``quickstart_words``), the noise is documented (below and in ``noise``), and each set is a
function of its arguments. They show that the chain works; a score on them says nothing about real data.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from meld.dataset import cells, masking, pairs
from meld.dataset.base import Source, check_tasks
from meld.dataset.few_shot import derive_rng
from meld.dataset.labelled import frozen_files
from meld.dataset.quickstart_tables import (
    make_dirty,
    make_hospitals,
    make_mismatches,
    make_person,
    make_products,
    shuffled,
)
from meld.errors import ConfigError
from meld.types import Table


class QuickstartProducts:
    """Two shops' product tables for matching and blocking.

    A *family* is a brand, a line and a category; it has two to four models, which differ in model number, size, colour
    and price only, so that telling them apart is what matching is about. Table A is a catalogue: title (brand, line,
    model number, features, category, colour), description, price. Table B lists some of the same products with noise,
    each with the base chance below times ``noise`` (at most 0.95):

    - a word abbreviated 0.35, a word of the title dropped 0.15, the words rotated 0.20, a typo in the title 0.25;
    - the model number written otherwise 0.50, left out of the title 0.12;
    - the price missing 0.25, in another format 0.40, a few per cent off 0.30; the description missing 0.25.

    Of the mismatching pairs, 60 % are models of one family (as far as there are any), 25 % share brand or category, the
    rest is random.

    Args:
        name: The dataset's name.
        tasks: Which of ``em`` and ``blk``.
        n_rows: Rows of each table.
        n_train: Training pairs.
        n_test: Test pairs.
        positive_fraction: Share of matches among the pairs.
        noise: Strength of the noise; 0 for none.
        title: What the tables are about; reaches prompts.
        few_shot: ``balanced`` | ``stratified`` | ``ids``.
        n_few_shot: How many labelled pairs.
        few_shot_ids: CSV or JSON file of frozen ids, for ``ids``.
        max_train: Limit on pool pairs; None for all.
        max_test: Limit on test pairs; None for all.
        data_seed: Seed of everything.
    """

    synthetic: ClassVar[bool] = True
    EXECUTION_ONLY: ClassVar[frozenset[str]] = frozenset({"few_shot_ids"})

    def __init__(
        self,
        name: str = "quickstart_products",
        tasks: Sequence[str] = pairs.TASKS,
        n_rows: int = 120,
        n_train: int = 180,
        n_test: int = 120,
        positive_fraction: float = 0.25,
        noise: float = 1.0,
        title: str = "products of two shops",
        few_shot: str = "balanced",
        n_few_shot: int = 80,
        few_shot_ids: str | None = None,
        max_train: int | None = None,
        max_test: int | None = None,
        data_seed: int = 0,
    ) -> None:
        self.name = name
        self.tasks = check_tasks(name, tasks, pairs.TASKS)
        self.n_rows = n_rows
        self.n_train = n_train
        self.n_test = n_test
        self.positive_fraction = positive_fraction
        self.noise = noise
        self.title = title
        self.few_shot = few_shot
        self.n_few_shot = n_few_shot
        self.few_shot_ids = few_shot_ids
        self.max_train = max_train
        self.max_test = max_test
        self.data_seed = data_seed
        n_matches = round(positive_fraction * n_train) + round(positive_fraction * n_test)
        if not 0 < n_matches <= n_rows or n_train + n_test - n_matches > n_rows * (n_rows - 1) // 2:
            enough = max(n_matches, 2 * int((n_train + n_test) ** 0.5) + 2)
            raise ConfigError(
                f"Dataset '{name}' cannot have {n_train + n_test} pairs, {n_matches} of them matches, "
                f"over tables of {n_rows} rows.",
                where=f"datasets.{name}.n_rows",
                fix=f"set n_rows to at least {enough}, or ask for fewer pairs",
            )

    def files(self) -> tuple[Path, ...]:
        """The few-shot file in use, if any; the data itself is made."""
        return frozen_files(self.few_shot, self.few_shot_ids)

    def load(self) -> Source:
        """Make the tables and the pairs, sample, and assemble the units."""
        rng = derive_rng(self.data_seed, "tables", self.name)
        train_matches = round(self.positive_fraction * self.n_train)
        test_matches = round(self.positive_fraction * self.n_test)
        products = make_products(2 * self.n_rows - train_matches - test_matches, rng)
        order = shuffled(range(len(products)), rng)
        shared = order[: train_matches + test_matches]
        left = shared + order[len(shared) : self.n_rows]
        right = shared + order[self.n_rows :]
        left, right = shuffled(left, rng), shuffled(right, rng)
        left_row = {product: str(row) for row, product in enumerate(left)}
        right_row = {product: str(row) for row, product in enumerate(right)}
        matches = shuffled(shared, rng)
        mismatches = make_mismatches(products, left, right, self.n_train + self.n_test - len(shared), rng)
        n_train_mismatches = self.n_train - train_matches

        def labelled(same: Sequence[int], different: Sequence[tuple[int, int]]) -> list[pairs.Pair]:
            found = [pairs.Pair(left_row[product], right_row[product], True) for product in same]
            found += [pairs.Pair(left_row[one], right_row[other], False) for one, other in different]
            return shuffled(found, rng)

        train = labelled(matches[:train_matches], mismatches[:n_train_mismatches])
        test = labelled(matches[train_matches:], mismatches[n_train_mismatches:])
        columns = ("title", "description", "price")
        tables = (
            Table("A", self.title, columns, {left_row[product]: products[product].clean() for product in left}),
            Table(
                "B",
                self.title,
                columns,
                {right_row[product]: products[product].noisy(self.noise, rng) for product in right},
            ),
        )
        return pairs.assemble_pairs(
            name=self.name,
            tasks=self.tasks,
            left=tables[0],
            right=tables[1],
            train=train,
            valid=(),
            test=test,
            few_shot=pairs.sample_pairs(
                self.name, train, self.few_shot, self.n_few_shot, self.data_seed, ids_path=self.few_shot_ids
            ),
            data_seed=self.data_seed,
            title=self.title,
            max_train=self.max_train,
            max_test=self.max_test,
            notes=(made(self.name),),
        )


class QuickstartPeople:
    """An address book with missing towns and states, for imputation.

    A town has one or two zip codes, a zip code determines the town, its first two digits the state, and the telephone's
    area code the state. Large towns are frequent (Zipf). Noise, each with the base chance times ``noise``: zip missing
    0.15, telephone missing 0.15, telephone in another format 0.40, street kind abbreviated 0.30; never both zip and
    telephone missing.

    Args:
        name: The dataset's name.
        tasks: ``[di]``.
        targets: Some of ``city`` and ``state``.
        n_rows: Rows of the table.
        n_test: Rows for testing.
        mask_fraction: Chance of a test row's target to be masked; each test row has at least one masked.
        noise: Strength of the noise; 0 for none.
        title: What the table is about; reaches prompts.
        few_shot: ``stratified`` (by the first target's value) | ``uniform`` | ``ids``.
        n_few_shot: How many labelled rows.
        few_shot_ids: CSV (column ``row``) or JSON file of frozen row positions, for ``ids``.
        max_train: Limit on pool cells; None for all.
        max_test: Limit on test rows; None for all.
        data_seed: Seed of everything.
    """

    synthetic: ClassVar[bool] = True
    EXECUTION_ONLY: ClassVar[frozenset[str]] = frozenset({"few_shot_ids"})

    def __init__(
        self,
        name: str = "quickstart_people",
        tasks: Sequence[str] = masking.TASKS,
        targets: Sequence[str] = ("city", "state"),
        n_rows: int = 130,
        n_test: int = 50,
        mask_fraction: float = 0.6,
        noise: float = 1.0,
        title: str = "address book",
        few_shot: str = "stratified",
        n_few_shot: int = 50,
        few_shot_ids: str | None = None,
        max_train: int | None = None,
        max_test: int | None = None,
        data_seed: int = 0,
    ) -> None:
        self.name = name
        self.tasks = check_tasks(name, tasks, masking.TASKS)
        self.targets = tuple(targets)
        self.n_rows = n_rows
        self.n_test = n_test
        self.mask_fraction = mask_fraction
        self.noise = noise
        self.title = title
        self.few_shot = few_shot
        self.n_few_shot = n_few_shot
        self.few_shot_ids = few_shot_ids
        self.max_train = max_train
        self.max_test = max_test
        self.data_seed = data_seed
        if not self.targets or not set(self.targets) <= {"city", "state"}:
            raise ConfigError(
                f"Dataset '{name}' cannot impute {list(targets)}.",
                where=f"datasets.{name}.targets",
                fix="choose some of ['city', 'state']",
            )

    def files(self) -> tuple[Path, ...]:
        """The few-shot file in use, if any; the data itself is made."""
        return frozen_files(self.few_shot, self.few_shot_ids)

    def load(self) -> Source:
        """Make the table, mask cells, sample, and assemble the unit."""
        rng = derive_rng(self.data_seed, "tables", self.name)
        records = {str(row): make_person(self.noise, rng) for row in range(self.n_rows)}
        split = masking.mask_seeded(
            self.name, list(records), self.targets, self.n_test, self.mask_fraction, self.data_seed
        )
        few_shot = masking.sample_records(
            self.name,
            split,
            {record: records[record][self.targets[0]] for record in split.train},
            self.few_shot,
            self.n_few_shot,
            self.data_seed,
            ids_path=self.few_shot_ids,
        )
        return masking.assemble_imputation(
            name=self.name,
            columns=tuple(records["0"]),
            records=records,
            targets=self.targets,
            split=split,
            few_shot=few_shot,
            data_seed=self.data_seed,
            title=self.title,
            max_train=self.max_train,
            max_test=self.max_test,
            notes=(made(self.name),),
        )


class QuickstartHospitals:
    """A quality report of clinics with errors, for detection and cleaning.

    Each clinic has one row per measure. Dependencies: provider → name, city, county, phone; city → county; measure code
    → measure. Of all cells the share ``error_rate`` (exactly, rounded) is wrong, chosen uniformly: 45 % a typo, 20 %
    the value of another row of the column, 20 % a missing marker (empty, ``n/a``, ``-``, ``unknown``), 15 % a broken
    format.

    Args:
        name: The dataset's name.
        tasks: Which of ``ed`` and ``dc``.
        n_rows: Rows of the table.
        error_rate: Share of wrong cells, the strength of the noise.
        title: What the table is about; reaches prompts.
        few_shot: ``uniform`` | ``ids``.
        n_few_shot: How many labelled tuples.
        few_shot_ids: CSV (column ``row``) or JSON file of frozen row positions, for ``ids``.
        max_train: Limit on pool cells; None for all.
        max_test: Limit on test tuples; None for all.
        data_seed: Seed of everything.
    """

    synthetic: ClassVar[bool] = True
    EXECUTION_ONLY: ClassVar[frozenset[str]] = frozenset({"few_shot_ids"})

    def __init__(
        self,
        name: str = "quickstart_hospitals",
        tasks: Sequence[str] = cells.TASKS,
        n_rows: int = 100,
        error_rate: float = 0.06,
        title: str = "quality measures of hospitals",
        few_shot: str = "uniform",
        n_few_shot: int = 14,
        few_shot_ids: str | None = None,
        max_train: int | None = None,
        max_test: int | None = None,
        data_seed: int = 0,
    ) -> None:
        self.name = name
        self.tasks = check_tasks(name, tasks, cells.TASKS)
        self.n_rows = n_rows
        self.error_rate = error_rate
        self.title = title
        self.few_shot = few_shot
        self.n_few_shot = n_few_shot
        self.few_shot_ids = few_shot_ids
        self.max_train = max_train
        self.max_test = max_test
        self.data_seed = data_seed

    def files(self) -> tuple[Path, ...]:
        """The few-shot file in use, if any; the data itself is made."""
        return frozen_files(self.few_shot, self.few_shot_ids)

    def load(self) -> Source:
        """Make the clean table, dirty it, sample, and assemble the units."""
        rng = derive_rng(self.data_seed, "tables", self.name)
        clean = make_hospitals(self.n_rows, rng)
        return cells.assemble_dirty_clean(
            name=self.name,
            tasks=self.tasks,
            columns=tuple(clean[0]),
            dirty=make_dirty(clean, self.error_rate, rng),
            clean=[list(row.values()) for row in clean],
            few_shot=cells.sample_tuples(
                self.name, self.n_rows, self.few_shot, self.n_few_shot, self.data_seed, ids_path=self.few_shot_ids
            ),
            data_seed=self.data_seed,
            title=self.title,
            max_train=self.max_train,
            max_test=self.max_test,
            notes=(made(self.name),),
        )


def made(name: str) -> str:
    """What is said whenever such a dataset is loaded."""
    return f"{name}: synthetic data made by the project; its scores say nothing about real data."
