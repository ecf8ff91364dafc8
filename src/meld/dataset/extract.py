"""The ExtractGPT layout of attribute value extraction: JSON lines of titles with the values of their attributes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from meld.dataset.base import Source, check_tasks, find_files
from meld.dataset.few_shot import choose, derive_rng, split_dev
from meld.dataset.lines import JsonObject, encodable, read_json_objects
from meld.dataset.masking import Split, sample_records
from meld.errors import ConfigError, DataError
from meld.types import Query, Sample, Table, UnitData

TASKS = ("ave",)
SLOTS = ("given", "all")
TABLE = "T"
ABSENT = "n/a"
_COLUMNS = ("title", "category")


@dataclass(frozen=True)
class _Product:
    """A title with its slots: attribute to the acceptable answers, best first."""

    record: str
    title: str
    category: str
    slots: Mapping[str, tuple[str, ...]]


class ExtractGPT:
    """OA-Mine and its siblings (Brinkmann et al., 2023; github.com/wbsg-uni-mannheim/ExtractGPT).

    A line reads ``{"input": title, "category": c, "target_scores": {attribute: {value: score}}}``. One query is asked
    for each title and attribute. A slot without a value, or whose value is ``n/a``, has the answer ``n/a``.

    Args:
        name: The dataset's name.
        root: The folder of all benchmark data; None is reported when the data is wanted.
        folder: The dataset's folder below ``root``.
        tasks: ``[ave]``.
        train: File name of the training titles.
        test: File name of the test titles.
        few_shot_file: File name of the published few-shot titles, which are training titles; None where there is none.
        slots: ``given`` asks for the attributes that a line lists; ``all`` for every attribute that any training title
            of its category lists, where those that the line does not list have the answer ``n/a``.
        title: What the titles are about; reaches prompts.
        publisher: Where the files can be had, for messages.
        few_shot: ``published`` | ``stratified`` (by category) | ``uniform`` | ``ids``.
        n_few_shot: How many labelled titles, for ``stratified`` and ``uniform``.
        few_shot_ids: CSV (column ``row``) or JSON file of frozen training titles (``train/12``), for ``ids``.
        encoding: The files' encoding.
        max_train: Limit on pool slots; None for all.
        max_test: Limit on test slots; None for all.
        data_seed: Seed of the sample, the dev split and the limits.
    """

    synthetic: ClassVar[bool] = False
    EXECUTION_ONLY: ClassVar[frozenset[str]] = frozenset({"root", "folder", "publisher", "few_shot_ids"})

    def __init__(
        self,
        name: str,
        root: str | None,
        folder: str,
        tasks: Sequence[str] = TASKS,
        train: str = "train.jsonl",
        test: str = "test.jsonl",
        few_shot_file: str | None = None,
        slots: str = "given",
        title: str = "",
        publisher: str = "",
        few_shot: str = "published",
        n_few_shot: int = 286,
        few_shot_ids: str | None = None,
        encoding: str = "utf-8",
        max_train: int | None = None,
        max_test: int | None = None,
        data_seed: int = 0,
    ) -> None:
        if slots not in SLOTS:
            raise ConfigError(
                f"Dataset '{name}' has no slots='{slots}'.",
                where=f"datasets.{name}.slots",
                fix=f"choose one of {list(SLOTS)}",
            )
        self.name = name
        self.root = root
        self.folder = folder
        self.tasks = check_tasks(name, tasks, TASKS)
        self.train = train
        self.test = test
        self.few_shot_file = few_shot_file
        self.slots = slots
        self.title = title
        self.publisher = publisher
        self.few_shot = few_shot
        self.n_few_shot = n_few_shot
        self.few_shot_ids = few_shot_ids
        self.encoding = encoding
        self.max_train = max_train
        self.max_test = max_test
        self.data_seed = data_seed

    def files(self) -> tuple[Path, ...]:
        """Training and test titles, and the few-shot file in use.

        Raises:
            DataError: If the data folder is not set, or a file is not there.
        """
        names = [self.train, self.test]
        if self.few_shot == "published" and self.few_shot_file is not None:
            names.append(self.few_shot_file)
        found = find_files(self.name, self.root, self.folder, names, self.publisher)
        return (*found, Path(self.few_shot_ids)) if self.few_shot == "ids" and self.few_shot_ids is not None else found

    def load(self) -> Source:
        """Read the titles, sample, and assemble the unit.

        Raises:
            UserError: For anything in the files or options that cannot be used, naming the place.
        """
        paths = self.files()
        notes: list[str] = []
        everything = self._read(paths[0], "train", notes)
        test = self._read(paths[1], "test", notes)
        tested = {_key(product) for product in test}
        train = [product for product in everything if _key(product) not in tested]
        if len(train) < len(everything):
            notes.append(
                f"{self.name}: {len(everything) - len(train)} training titles that are also test titles were left out."
            )
        if self.slots == "all":
            schema = _schema(everything)
            train, test = ([_complete(product, schema) for product in part] for part in (train, test))
        published = (
            self._published(paths[2], everything, train, notes)
            if len(paths) > 2 and self.few_shot == "published"
            else ()
        )
        few_shot = sample_records(
            self.name,
            Split(tuple(product.record for product in train), {}, tuple(published)),
            {product.record: product.category for product in train},
            self.few_shot,
            self.n_few_shot,
            self.data_seed,
            ids_path=self.few_shot_ids,
        )
        return self._assemble(train, test, few_shot, notes)

    def _read(self, path: Path, part: str, notes: list[str]) -> list[_Product]:
        """The titles of a file; one that is repeated within a category gives the slots that it adds."""
        found: dict[tuple[str, str], _Product] = {}
        lines = read_json_objects(path, self.encoding)
        for number, (place, item) in enumerate(lines):
            title, category = (_text(item, key, path, place) for key in ("input", "category"))
            slots = _slots(item, path, place)
            before = found.get((category, title))
            if before is None:
                found[category, title] = _Product(f"{part}/{number}", title, category, slots)
            else:
                # The order and the answers of the first; behind them the slots that only the repetition has.
                merged = {**before.slots, **slots, **before.slots}
                found[category, title] = _Product(before.record, title, category, merged)
        if len(found) < len(lines):
            notes.append(f"{self.name}: {len(lines) - len(found)} repeated titles in {path.name}; each was kept once.")
        return list(found.values())

    def _published(
        self, path: Path, everything: Sequence[_Product], train: Sequence[_Product], notes: list[str]
    ) -> list[str]:
        wanted = {_key(product): product for product in self._read(path, "few_shot", notes)}
        known = {_key(product) for product in everything}
        for key, product in wanted.items():
            if key not in known:
                raise DataError(
                    f"{path.name} has the title '{product.title[:60]}', which {self.train} does not have.",
                    where=f"{path}, record {product.record.removeprefix('few_shot/')}, column 'input'",
                    fix="use the few-shot file of the same release, or few_shot=stratified",
                )
        found = [product.record for product in train if _key(product) in wanted]
        if len(found) < len(wanted):
            notes.append(
                f"{self.name}: {len(wanted) - len(found)} published few-shot titles are test titles; they are tested, "
                "not learnt from."
            )
        return found

    def _assemble(
        self, train: Sequence[_Product], test: Sequence[_Product], few_shot: Sequence[str], notes: list[str]
    ) -> Source:
        unit = f"{self.name}.ave"
        products = {product.record: product for product in (*train, *test)}
        rows = {
            record: dict(zip(_COLUMNS, (product.title, product.category), strict=True))
            for record, product in products.items()
        }

        def query(record: str, attribute: str) -> Query:
            return Query(
                id=f"{unit}/{record}/{attribute}",
                unit=unit,
                task="ave",
                entities=(rows[record],),
                rows=(f"{TABLE}:{record}",),
                target=attribute,
                title=self.title,
            )

        def slots(records: Iterable[str]) -> list[tuple[str, str]]:
            return [(record, attribute) for record in records for attribute in products[record].slots]

        def samples(records: Sequence[str]) -> tuple[Sample, ...]:
            return tuple(
                Sample(query(record, attribute), products[record].slots[attribute][0])
                for record, attribute in slots(records)
            )

        categories = [products[record].category for record in few_shot]
        fit, held_out = split_dev(few_shot, categories, derive_rng(self.data_seed, "dev", self.name))
        readable = set(few_shot)
        unlabelled = slots(product.record for product in train if product.record not in readable)
        pool = choose(unlabelled, self.max_train, derive_rng(self.data_seed, "pool", self.name))
        asked = slots(product.record for product in test)
        scored = choose(asked, self.max_test, derive_rng(self.data_seed, "test", self.name))
        data = UnitData(
            unit=unit,
            dataset=self.name,
            task="ave",
            tables={TABLE: Table(TABLE, self.title, _COLUMNS, rows)},
            train=samples(fit),
            dev=samples(held_out),
            pool=tuple(query(*slot) for slot in pool),
            test=tuple(query(*slot) for slot in scored),
        )
        gold = {
            f"{unit}/{record}/{attribute}": products[record].slots[attribute] for record, attribute in (*pool, *scored)
        }
        said = (
            f"{self.name}: {len(few_shot)} few-shot titles, {len(fit)} for training and {len(held_out)} held out; "
            f"{len(pool)} unlabelled slots in the pool, {len(scored)} test slots."
        )
        return Source(self.name, {unit: data}, {unit: gold}, (*notes, said))


def _key(product: _Product) -> tuple[str, str]:
    return product.category, product.title


def _schema(products: Iterable[_Product]) -> dict[str, dict[str, None]]:
    found: dict[str, dict[str, None]] = {}
    for product in products:
        found.setdefault(product.category, {}).update(dict.fromkeys(product.slots))
    return found


def _complete(product: _Product, schema: Mapping[str, Mapping[str, None]]) -> _Product:
    # In the schema's order, so that the order of the questions does not tell which attributes have a value.
    asked = {**schema.get(product.category, {}), **dict.fromkeys(product.slots)}
    slots = {attribute: product.slots.get(attribute, (ABSENT,)) for attribute in asked}
    return _Product(product.record, product.title, product.category, slots)


def _text(item: JsonObject, key: str, path: Path, place: str) -> str:
    value = item.get(key)
    if not isinstance(value, str) or not value.strip():
        raise DataError(
            f"{path.name} has a line without a text under '{key}'; it has {', '.join(map(repr, item)) or 'nothing'}.",
            where=f"{place}, column '{key}'",
            fix='write {"input": title, "category": category, "target_scores": {attribute: {value: 1}}}',
        )
    return encodable(value)


def _slots(item: JsonObject, path: Path, place: str) -> dict[str, tuple[str, ...]]:
    targets = item.get("target_scores")
    if not isinstance(targets, Mapping):
        raise _target_error(path, place, "is no object")
    slots = {}
    for attribute, scores in targets.items():
        if not isinstance(scores, Mapping):
            raise _target_error(path, place, f"has no object of values under '{attribute}'")
        ranked = [(_score(score, attribute, path, place), value) for value, score in scores.items()]
        # Equal scores stay in the file's order.
        ranked.sort(key=lambda pair: -pair[0])
        answers = [encodable(value).strip() for score, value in ranked if score > 0]
        slots[encodable(attribute)] = tuple(dict.fromkeys(answer for answer in answers if answer)) or (ABSENT,)
    return slots


def _score(score: object, attribute: str, path: Path, place: str) -> float:
    try:
        return float(str(score))
    except ValueError:
        raise _target_error(path, place, f"has the score '{score}' under '{attribute}', which is no number") from None


def _target_error(path: Path, place: str, what: str) -> DataError:
    return DataError(
        f"{path.name} has a line whose target_scores {what}.",
        where=f"{place}, column 'target_scores'",
        fix='write {"target_scores": {attribute: {value: 1}}}',
    )
