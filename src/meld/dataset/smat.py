"""The SMAT layout of schema matching: one sheet of attribute pairs with descriptions and labels, and no split."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from meld.dataset.base import Source, check_tasks, find_files
from meld.dataset.csv_text import TextFrame, read_csv_text
from meld.dataset.few_shot import choose, choose_stratified, derive_rng, unknown_few_shot
from meld.dataset.pairs import Pair, assemble_pairs, sample_pairs
from meld.dataset.records import settle_pairs
from meld.errors import ConfigError, DataError, UserError
from meld.types import Entity, Query, Sample, Table, UnitData

TASKS = ("sm",)
_FEW_SHOT = ("balanced", "stratified", "ids")
_LABELS = {"0": False, "1": True}
# For each side: its attribute, both descriptions in one, and the descriptions of the table and of the attribute.
_SIDES = (("omop", "des1", "d1", "d2"), ("table", "des2", "d3", "d4"))
_COLUMNS = ("name", "table", "description", "table description")


class Smat:
    """CMS, Synthea and their siblings (Zhang et al., ADBIS 2021; github.com/JZCS2018/SMAT).

    The sheet has the columns ``omop`` and ``table`` (the two attributes, ``person-gender_concept_id``), ``des1`` and
    ``des2`` (their descriptions), ``label``, and maybe ``d1`` to ``d4`` (the descriptions taken apart: of the table and
    the attribute, of either side). There is no split file, so the pairs are split by ``data_seed``.

    Args:
        name: The dataset's name.
        root: The folder of all benchmark data; None is reported when the data is wanted.
        folder: The dataset's folder below ``root``.
        tasks: ``[sm]``.
        pairs: File name of the pairs: ``.xlsx`` (needs the extra ``xlsx``) or ``.csv``.
        train_fraction: Share of the pairs that is for training.
        valid_fraction: Share that is kept aside and never shown; the rest is for testing.
        stratify: Split each label in the same proportions, as the maker of a benchmark does, who knows all labels.
            Without it the split depends on no label, and a small test part may have hardly a match.
        title: What the schemas are about; reaches prompts.
        publisher: Where the file can be had, for messages.
        few_shot: ``balanced`` | ``stratified`` | ``ids`` (see ``meld.dataset.pairs.sample_pairs``).
        n_few_shot: How many labelled pairs, for the first two.
        few_shot_ids: CSV or JSON file of frozen ids, for ``ids``.
        encoding: The encoding of a ``.csv``.
        max_train: Limit on pool pairs; None for all.
        max_test: Limit on test pairs; None for all.
        data_seed: Seed of the split, the sample, the dev split and the limits.
    """

    synthetic: ClassVar[bool] = False
    EXECUTION_ONLY: ClassVar[frozenset[str]] = frozenset({"root", "folder", "publisher", "few_shot_ids"})

    def __init__(
        self,
        name: str,
        root: str | None,
        folder: str,
        pairs: str,
        tasks: Sequence[str] = TASKS,
        train_fraction: float = 0.8,
        valid_fraction: float = 0.1,
        stratify: bool = True,
        title: str = "",
        publisher: str = "",
        few_shot: str = "stratified",
        n_few_shot: int = 1000,
        few_shot_ids: str | None = None,
        encoding: str = "utf-8",
        max_train: int | None = None,
        max_test: int | None = None,
        data_seed: int = 0,
    ) -> None:
        if not (0 < train_fraction < 1 and 0 <= valid_fraction < 1 and train_fraction + valid_fraction < 1):
            raise ConfigError(
                f"Dataset '{name}' cannot be split into {train_fraction} for training, {valid_fraction} for validation "
                "and the rest for testing.",
                where=f"datasets.{name}.train_fraction",
                fix="choose fractions between 0 and 1 that leave some pairs for testing",
            )
        self.name = name
        self.root = root
        self.folder = folder
        self.pairs = pairs
        self.tasks = check_tasks(name, tasks, TASKS)
        self.train_fraction = train_fraction
        self.valid_fraction = valid_fraction
        self.stratify = stratify
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
        """The file of pairs, and the few-shot file in use.

        Raises:
            DataError: If the data folder is not set, or a file is not there.
        """
        found = find_files(self.name, self.root, self.folder, (self.pairs,), self.publisher)
        return (*found, Path(self.few_shot_ids)) if self.few_shot == "ids" and self.few_shot_ids is not None else found

    def load(self) -> Source:
        """Read the pairs, split, sample, and assemble the unit.

        Raises:
            UserError: For anything in the file or options that cannot be used, naming the place, and for an ``.xlsx``
                without the package that reads it.
        """
        if self.few_shot not in _FEW_SHOT:
            raise unknown_few_shot(self.name, self.few_shot, _FEW_SHOT)
        path = self.files()[0]
        frame = read_xlsx_text(path) if path.suffix.lower() == ".xlsx" else read_csv_text(path, self.encoding)
        frame.require(*(column for attribute, described, _, _ in _SIDES for column in (attribute, described)), "label")
        left, right = (
            Table(label, self.title, _COLUMNS, _attributes(frame, *side))
            for label, side in zip("AB", _SIDES, strict=True)
        )
        notes: list[str] = []
        # Repeated pairs go before the split, so that none is on both sides of it.
        pairs, _, _ = settle_pairs(self.name, _pairs(frame), (), (), notes)
        train, valid, test = self._split(pairs)
        few_shot = sample_pairs(
            self.name, train, self.few_shot, self.n_few_shot, self.data_seed, ids_path=self.few_shot_ids
        )
        return as_schema_matching(
            assemble_pairs(
                name=self.name,
                tasks=("em",),
                left=left,
                right=right,
                train=train,
                valid=valid,
                test=test,
                few_shot=few_shot,
                data_seed=self.data_seed,
                title=self.title,
                max_train=self.max_train,
                max_test=self.max_test,
                notes=notes,
            )
        )

    def _split(self, pairs: Sequence[Pair]) -> tuple[list[Pair], list[Pair], list[Pair]]:
        n_train, n_valid = int(self.train_fraction * len(pairs)), int(self.valid_fraction * len(pairs))
        if not 0 < n_train < len(pairs) - n_valid:
            raise DataError(
                f"The {len(pairs)} pairs of {self.pairs} are too few to split.",
                where=f"{Path(self.root or '') / self.folder / self.pairs}",
                fix="use the publisher's file",
            )
        places = range(len(pairs))
        train = self._draw(pairs, places, n_train, "train")
        rest = sorted(set(places).difference(train))
        valid = self._draw(pairs, rest, n_valid, "valid")
        test = sorted(set(rest).difference(valid))
        parts = [[pairs[place] for place in part] for part in (train, valid, test)]
        return parts[0], parts[1], parts[2]

    def _draw(self, pairs: Sequence[Pair], places: Sequence[int], count: int, part: str) -> list[int]:
        rng = derive_rng(self.data_seed, f"split {part}", self.name)
        if not self.stratify:
            return choose(places, count, rng)
        return choose_stratified(places, [pairs[place].match for place in places], count, rng)


def read_xlsx_text(path: Path | str) -> TextFrame:
    """Read the first sheet of an ``.xlsx`` file as text, its first row being the header; whole numbers get no ``.0``.

    Blank rows are left out. The ``lines`` of the frame are the sheet's rows, counted from 1.

    Raises:
        UserError: If the package that reads such files is not installed.
        DataError: For a file that is no such workbook, an empty sheet, or a header that lacks or repeats a name.
    """
    path = Path(path)
    try:
        from openpyxl import load_workbook
        from openpyxl.utils.exceptions import InvalidFileException
    except ImportError:
        raise UserError(
            f"{path.name} is an Excel workbook, and the package that reads it is not installed.",
            where=str(path),
            fix="pip install 'meld-dp[xlsx]', or save the sheet as CSV and name that file",
        ) from None
    try:
        workbook = load_workbook(path, read_only=True, data_only=True)
        try:
            sheet = workbook.worksheets[0]
            content = [(line, values) for line, values in enumerate(sheet.iter_rows(values_only=True), start=1)]
        finally:
            workbook.close()
    # A damaged workbook fails in whichever of its parts is broken: the archive, its index, or the XML inside.
    except (
        InvalidFileException,
        zipfile.BadZipFile,
        KeyError,
        IndexError,
        ValueError,
        TypeError,
        SyntaxError,
        OSError,
    ) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise DataError(
            f"{path.name} is not a readable workbook: {reason.rstrip('.')}.",
            where=str(path),
            fix="fetch it again, or save the sheet as CSV and name that file",
        ) from None
    rows = [(line, [_cell_text(value) for value in values]) for line, values in content]
    rows = [(line, values) for line, values in rows if any(values)]
    if len(rows) < 2:
        raise DataError(
            f"{path.name} has no rows.", where=str(path), fix="its first sheet needs a header and at least one row"
        )
    header = rows[0][1]
    while header and not header[-1]:
        header.pop()
    twice = sorted({column for column in header if header.count(column) > 1})
    if twice:
        raise DataError(
            f"{path.name} names {', '.join(map(repr, twice))} more than once in its header.",
            where=f"{path}, row {rows[0][0]} of the sheet",
            fix="give every column a name of its own",
        )
    found = []
    for line, values in rows[1:]:
        if any(values[len(header) :]):
            raise DataError(
                f"{path.name} has a row with values beyond the {len(header)} columns of its header.",
                where=f"{path}, row {line} of the sheet",
                fix="name the column, or empty the cell",
            )
        found.append(tuple([*values, *[""] * len(header)][: len(header)]))
    return TextFrame(path, tuple(header), tuple(found), tuple(line for line, _ in rows[1:]))


def _cell_text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _attributes(
    frame: TextFrame, attribute: str, described: str, table_text: str, attribute_text: str
) -> dict[str, Entity]:
    """The distinct attributes of one side by their full names."""
    apart = table_text in frame.columns and attribute_text in frame.columns
    texts = [described, *([table_text, attribute_text] if apart else [])]
    found: dict[str, Entity] = {}
    first: dict[str, int] = {}
    values = zip(frame.column(attribute), *(frame.column(column) for column in texts), strict=True)
    for row, (full_name, whole, *parts) in enumerate(values):
        if not full_name.strip():
            raise DataError(
                f"{frame.path.name} has a pair without an attribute.",
                where=frame.at(row, attribute),
                fix="name the attribute as table-attribute",
            )
        table, dash, name = full_name.partition("-")
        about_table, about = parts if apart else ("", whole)
        entity = dict(
            zip(
                _COLUMNS,
                (name if dash else table, table if dash else "", about.strip(), about_table.strip()),
                strict=True,
            )
        )
        if found.setdefault(full_name, entity) != entity:
            raise DataError(
                f"{frame.path.name} describes the attribute '{full_name}' in two ways.",
                where=f"{frame.at(row, texts[-1])}; first on line {frame.lines[first[full_name]]}",
                fix="describe an attribute the same in every row",
            )
        first.setdefault(full_name, row)
    return found


def _pairs(frame: TextFrame) -> list[Pair]:
    columns = (frame.column("omop"), frame.column("table"), frame.column("label"))
    pairs = []
    for row, (left, right, label) in enumerate(zip(*columns, strict=True)):
        if label.strip() not in _LABELS:
            raise DataError(
                f"{frame.path.name} has the label '{label}', which is neither 0 nor 1.",
                where=frame.at(row, "label"),
                fix="write 1 for a match and 0 for a mismatch",
            )
        pairs.append(Pair(left, right, _LABELS[label.strip()]))
    return pairs


def as_schema_matching(source: Source) -> Source:
    """The unit of entity matching, asked as one of schema matching: the same pairs, labels and sample."""
    (unit, data), (_, gold) = next(iter(source.units.items())), next(iter(source.gold.items()))
    name = f"{source.dataset}.sm"

    def asked(query: Query) -> Query:
        return replace(query, id=name + query.id.removeprefix(unit), unit=name, task="sm")

    def samples(given: Sequence[Sample]) -> tuple[Sample, ...]:
        return tuple(replace(sample, query=asked(sample.query)) for sample in given)

    turned = UnitData(
        unit=name,
        dataset=source.dataset,
        task="sm",
        tables=data.tables,
        train=samples(data.train),
        dev=samples(data.dev),
        pool=tuple(map(asked, data.pool)),
        test=tuple(map(asked, data.test)),
    )
    answers: Mapping[str, tuple[str, ...]] = {name + key.removeprefix(unit): value for key, value in gold.items()}
    return Source(source.dataset, {name: turned}, {name: answers}, source.notes)
