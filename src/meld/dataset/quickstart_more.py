"""The rest of the built-in synthetic suite: column types, relations, entities, schemas and listings, made by code.

Scores on them say nothing about real data; see ``quickstart`` for the other five tasks.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from meld.dataset import noise, pairs
from meld.dataset.base import Source, check_tasks
from meld.dataset.few_shot import choose, derive_rng
from meld.dataset.labelled import Item, assemble_labelled, frozen_files
from meld.dataset.quickstart import made
from meld.dataset.quickstart_atlas import (
    RELATIONS,
    TYPES,
    column_items,
    entity_items,
    make_tables,
    make_towns,
    relation_items,
)
from meld.dataset.quickstart_tables import Product, make_products, shuffled
from meld.dataset.smat import as_schema_matching
from meld.errors import ConfigError
from meld.task.ave import ABSENT
from meld.types import Table

_CONCEPTS = (
    (
        "date of birth",
        ("birth_date", "dob", "born_on"),
        ("day on which the person was born", "the patient's date of birth"),
    ),
    ("family name", ("last_name", "surname", "fam_nm"), ("family name of the person", "surname as in the register")),
    (
        "given name",
        ("first_name", "given_nm", "forename"),
        ("given name of the person", "the first name used at admission"),
    ),
    ("sex", ("gender", "sex_code", "sx"), ("sex of the person as a code", "administrative gender")),
    ("post code", ("zip", "postal_code", "plz"), ("postal code of the home address", "zip of the place of residence")),
    ("town", ("city", "town_nm", "residence"), ("town of the home address", "place where the person lives")),
    (
        "telephone",
        ("phone", "tel_no", "contact"),
        ("telephone number for calls", "number under which to call the person"),
    ),
    ("admission", ("admit_date", "adm_dt", "visit_start"), ("day the stay began", "date of admission to the ward")),
    ("discharge", ("discharge_date", "dis_dt", "visit_end"), ("day the stay ended", "date of leaving the ward")),
    ("ward", ("ward", "unit_cd", "department"), ("ward in which the stay took place", "department of the clinic")),
    ("diagnosis", ("diagnosis", "icd_code", "dx"), ("main diagnosis of the stay", "code of the disease treated")),
    ("drug", ("drug", "med_nm", "medication"), ("name of the medicine given", "substance that was prescribed")),
    ("dose", ("dose", "dosage", "qty_mg"), ("amount of the medicine per day", "quantity prescribed in milligrams")),
    ("physician", ("doctor", "phys_id", "attending"), ("physician in charge", "doctor who signed the record")),
    ("weight", ("weight_kg", "wt", "body_mass"), ("weight of the body in kilograms", "how heavy the patient is")),
    ("height", ("height_cm", "ht", "stature"), ("height of the body in centimetres", "how tall the patient is")),
    ("pulse", ("pulse", "heart_rate", "hr_bpm"), ("heart beats per minute", "pulse at rest")),
    ("temperature", ("temp_c", "body_temp", "fever"), ("temperature of the body", "reading of the thermometer")),
    (
        "insurer",
        ("insurance", "payer", "ins_cd"),
        ("company that pays for the stay", "health insurance of the patient"),
    ),
    ("cost", ("cost", "amount", "charge_total"), ("sum charged for the stay", "total price of the treatment")),
)
"""Concept, names for it, descriptions of it."""

_SLOTS = ("brand", "colour", "size", "category", "model number", "material")


class QuickstartAtlas:
    """Web tables about a made-up atlas, for column types, relations and entity linking.

    Tables are about towns, rivers, firms, teams or musicians; people, towns and years occur in several kinds, so that a
    column is told by its values and its neighbours. Town names recur in several countries. Noise: see
    ``quickstart_atlas``.

    Args:
        name: The dataset's name.
        tasks: Some of ``cta``, ``re`` and ``el``.
        n_tables: Web tables.
        n_cells: Cells to link.
        n_candidates: Candidate entities of a cell.
        noise: Strength of the noise; 0 for none.
        test_fraction: Share of tables (of cells) for testing.
        few_shot: ``stratified`` | ``uniform``.
        few_shot_fraction: Share of the training items that are labelled.
        max_train: Limit on pool items; None for all.
        max_test: Limit on test items; None for all.
        data_seed: Seed of everything.
    """

    synthetic: ClassVar[bool] = True
    EXECUTION_ONLY: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self,
        name: str = "quickstart_atlas",
        tasks: Sequence[str] = ("cta", "re", "el"),
        n_tables: int = 60,
        n_cells: int = 110,
        n_candidates: int = 8,
        noise: float = 1.0,
        test_fraction: float = 0.4,
        few_shot: str = "stratified",
        few_shot_fraction: float = 0.4,
        max_train: int | None = None,
        max_test: int | None = None,
        data_seed: int = 0,
    ) -> None:
        self.name = name
        self.tasks = check_tasks(name, tasks, ("cta", "re", "el"))
        self.n_tables = n_tables
        self.n_cells = n_cells
        self.n_candidates = n_candidates
        self.noise = noise
        self.test_fraction = test_fraction
        self.few_shot = few_shot
        self.few_shot_fraction = few_shot_fraction
        self.max_train = max_train
        self.max_test = max_test
        self.data_seed = data_seed
        if few_shot == "ids":
            raise ConfigError(
                f"Dataset '{name}' cannot freeze ids.", where=f"datasets.{name}.few_shot", fix="choose data_seed"
            )

    def files(self) -> tuple[Path, ...]:
        """None: the data is made."""
        return ()

    def load(self) -> Source:
        """Make the tables and assemble the units."""
        rng = derive_rng(self.data_seed, "tables", self.name)
        towns = make_towns(rng)
        tables = make_tables(self.n_tables, self.noise, towns, rng)
        made = {
            "cta": (column_items(tables), TYPES),
            "re": (relation_items(tables), RELATIONS),
            "el": (entity_items(self.n_cells, self.noise, towns, rng, self.n_candidates), None),
        }
        sources = []
        for task in self.tasks:
            items, labels = made[task]
            sources.append(
                assemble_labelled(
                    name=self.name,
                    task=task,
                    train=items,
                    test=None,
                    data_seed=self.data_seed,
                    split="stratified" if labels else "uniform",
                    test_fraction=self.test_fraction,
                    few_shot=self.few_shot if labels else "uniform",
                    few_shot_fraction=self.few_shot_fraction,
                    labels=labels,
                    closed=labels is not None,
                    max_train=self.max_train,
                    max_test=self.max_test,
                )
            )
        return _joined(self.name, sources)


class QuickstartSchemas:
    """Attributes of two clinics' schemas with descriptions, for schema matching.

    Either schema has two attributes for each of twenty concepts, with one of three names and one of two descriptions.
    Matches pair attributes of one concept, mismatches those of two. Noise, times ``noise``: a description left out 0.2,
    each word of it dropped 0.2.

    Args:
        name: The dataset's name.
        tasks: ``[sm]``.
        n_train: Training pairs.
        n_test: Test pairs.
        positive_fraction: Share of matches.
        noise: Strength of the noise; 0 for none.
        title: What the schemas are about; reaches prompts.
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
        name: str = "quickstart_schemas",
        tasks: Sequence[str] = ("sm",),
        n_train: int = 120,
        n_test: int = 100,
        positive_fraction: float = 0.3,
        noise: float = 1.0,
        title: str = "patient records",
        few_shot: str = "balanced",
        n_few_shot: int = 60,
        few_shot_ids: str | None = None,
        max_train: int | None = None,
        max_test: int | None = None,
        data_seed: int = 0,
    ) -> None:
        self.name = name
        self.tasks = check_tasks(name, tasks, ("sm",))
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
        most = 4 * len(_CONCEPTS)
        if round(positive_fraction * n_train) + round(positive_fraction * n_test) > most:
            raise ConfigError(
                f"Dataset '{name}' has {most} matches at most.",
                where=f"datasets.{name}.n_train",
                fix="ask for fewer pairs, or a smaller positive_fraction",
            )

    def files(self) -> tuple[Path, ...]:
        """The few-shot file in use, if any; the data itself is made."""
        return frozen_files(self.few_shot, self.few_shot_ids)

    def load(self) -> Source:
        """Make the schemas and the pairs, sample, and assemble the unit."""
        rng = derive_rng(self.data_seed, "tables", self.name)
        sides: list[dict[str, dict[str, str]]] = [{}, {}]
        concept_of: list[dict[str, int]] = [{}, {}]
        for concept, (_, names, descriptions) in enumerate(_CONCEPTS):
            for side, (rows, concepts) in enumerate(zip(sides, concept_of, strict=True)):
                for name in choose(names, 2, rng):
                    text = descriptions[side] if rng.random() < 0.7 else noise.pick(descriptions, rng)
                    record = str(len(rows))
                    rows[record] = {"name": name, "description": self._blurred(text, rng)}
                    concepts[record] = concept
        every = [(a, b) for a in sides[0] for b in sides[1]]
        same = shuffled([p for p in every if concept_of[0][p[0]] == concept_of[1][p[1]]], rng)
        different = shuffled([p for p in every if concept_of[0][p[0]] != concept_of[1][p[1]]], rng)
        parts: list[list[pairs.Pair]] = []
        for count in (self.n_train, self.n_test):
            positives = round(self.positive_fraction * count)
            found = [pairs.Pair(*same.pop(), True) for _ in range(positives)]
            found += [pairs.Pair(*different.pop(), False) for _ in range(count - positives)]
            parts.append(shuffled(found, rng))
        left, right = (
            Table(label, self.title, ("name", "description"), rows) for label, rows in zip("AB", sides, strict=True)
        )
        return as_schema_matching(
            pairs.assemble_pairs(
                name=self.name,
                tasks=("em",),
                left=left,
                right=right,
                train=parts[0],
                valid=(),
                test=parts[1],
                few_shot=pairs.sample_pairs(
                    self.name, parts[0], self.few_shot, self.n_few_shot, self.data_seed, ids_path=self.few_shot_ids
                ),
                data_seed=self.data_seed,
                title=self.title,
                max_train=self.max_train,
                max_test=self.max_test,
                notes=(made(self.name),),
            )
        )

    def _blurred(self, text: str, rng: random.Random) -> str:
        if rng.random() < 0.2 * self.noise:
            return ""
        return " ".join(noise.drop_words(text.split(), min(0.9, 0.2 * self.noise), rng))


class QuickstartListings:
    """Titles of a shop's listings, for attribute value extraction.

    Every listing is asked for brand, colour, size, kind of product, model number and material. Noise, times ``noise``:
    the model number left out 0.3, the colour left out 0.3, the words of the title rotated 0.3. What is left out and
    the material are ``n/a``.

    Args:
        name: The dataset's name.
        tasks: ``[ave]``.
        n_train: Listings for training.
        n_test: Listings for testing.
        noise: Strength of the noise; 0 for none.
        few_shot: ``stratified`` | ``uniform`` | ``ids``.
        few_shot_fraction: Share of the training slots that are labelled.
        few_shot_ids: CSV (column ``id``) or JSON file, for ``ids``.
        max_train: Limit on pool slots; None for all.
        max_test: Limit on test slots; None for all.
        data_seed: Seed of everything.
    """

    synthetic: ClassVar[bool] = True
    EXECUTION_ONLY: ClassVar[frozenset[str]] = frozenset({"few_shot_ids"})

    def __init__(
        self,
        name: str = "quickstart_listings",
        tasks: Sequence[str] = ("ave",),
        n_train: int = 40,
        n_test: int = 25,
        noise: float = 1.0,
        few_shot: str = "uniform",
        few_shot_fraction: float = 0.5,
        few_shot_ids: str | None = None,
        max_train: int | None = None,
        max_test: int | None = None,
        data_seed: int = 0,
    ) -> None:
        self.name = name
        self.tasks = check_tasks(name, tasks, ("ave",))
        self.n_train = n_train
        self.n_test = n_test
        self.noise = noise
        self.few_shot = few_shot
        self.few_shot_fraction = few_shot_fraction
        self.few_shot_ids = few_shot_ids
        self.max_train = max_train
        self.max_test = max_test
        self.data_seed = data_seed

    def files(self) -> tuple[Path, ...]:
        """The few-shot file in use, if any; the data itself is made."""
        return frozen_files(self.few_shot, self.few_shot_ids)

    def load(self) -> Source:
        """Make the listings, sample, and assemble the unit."""
        rng = derive_rng(self.data_seed, "tables", self.name)
        products = shuffled(make_products(self.n_train + self.n_test, rng), rng)
        items = [item for number, product in enumerate(products) for item in self._slots(number, product, rng)]
        cut = self.n_train * len(_SLOTS)
        return assemble_labelled(
            name=self.name,
            task="ave",
            train=items[:cut],
            test=items[cut:],
            data_seed=self.data_seed,
            few_shot=self.few_shot,
            few_shot_fraction=self.few_shot_fraction,
            few_shot_ids=self.few_shot_ids,
            closed=False,
            max_train=self.max_train,
            max_test=self.max_test,
            notes=(made(self.name),),
        )

    def _slots(self, number: int, product: Product, rng: random.Random) -> list[Item]:
        shown = {
            "brand": product.brand,
            "model number": "" if rng.random() < 0.3 * self.noise else product.code,
            "features": " ".join(product.features[:2]),
            "size": product.size,
            "category": product.category.noun,
            "colour": "" if rng.random() < 0.3 * self.noise else product.colour,
        }
        words = [product.line, *(value for value in shown.values() if value)]
        title = " ".join(noise.rotate(words, rng) if rng.random() < 0.3 * self.noise else words)
        entity = {"title": title, "category": "shop listing"}
        return [
            Item(f"{number}/{slot}", str(number), entity, (shown.get(slot) or ABSENT,), "", slot) for slot in _SLOTS
        ]


def _joined(name: str, sources: Sequence[Source]) -> Source:
    """One source of several units of a dataset."""
    return Source(
        name,
        {unit: data for source in sources for unit, data in source.units.items()},
        {unit: gold for source in sources for unit, gold in source.gold.items()},
        (made(name), *(note for source in sources for note in source.notes)),
    )
