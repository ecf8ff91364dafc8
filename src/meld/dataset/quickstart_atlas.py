"""A made-up atlas: a small knowledge graph of towns, rivers, firms, teams and people, and web tables about it.

What ``quickstart_tables`` is to tuples, this is to columns, column pairs and cells. Nothing here exists.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from meld.dataset import noise
from meld.dataset import quickstart_words as vocabulary
from meld.dataset.few_shot import choose
from meld.dataset.labelled import Item, show_values

COUNTRIES = ("Ardenia", "Belmora", "Cassavia", "Dorrinland", "Esperra", "Fennmark")
RIVERS = (
    "Alder Water",
    "Brisk River",
    "Cold Beck",
    "Dusk River",
    "Ember Stream",
    "Fallow River",
    "Grey Beck",
    "Hollow Water",
)
FIRM_KINDS = ("Works", "Foods", "Shipping", "Instruments", "Textiles")
TEAM_KINDS = ("Rovers", "Hawks", "United", "Wanderers", "Lions")
GENRES = ("ballad", "jazz", "folk", "march", "polka")

TYPES = ("city", "country", "river", "person", "company", "sports team", "population", "year", "length", "genre")
RELATIONS = (
    "city in country",
    "mayor of city",
    "river through country",
    "company based in city",
    "director of company",
    "team plays in city",
    "captain of team",
    "city population",
)

_HEADERS = {
    "city": ("city", "town", "place"),
    "country": ("country", "state", "land"),
    "river": ("river", "waterway"),
    "person": ("name", "person", "who"),
    "company": ("company", "firm", "name"),
    "sports team": ("team", "club", "name"),
    "population": ("population", "inhabitants"),
    "year": ("year", "founded", "since"),
    "length": ("length", "km"),
    "genre": ("genre", "style"),
}
_PERSON_HEADERS = {"mayor": ("mayor", "head"), "director": ("director", "head"), "captain": ("captain", "leader")}


@dataclass(frozen=True)
class Town:
    """A town of the atlas; the same name may be used in two countries.

    Attributes:
        name: Its name.
        country: Its country.
        mayor: Its mayor.
        population: Inhabitants.
        founded: Year.
    """

    name: str
    country: str
    mayor: str
    population: str
    founded: str

    @property
    def entity(self) -> str:
        """The town among candidate entities: its name, and what tells it from its namesakes."""
        return f"{self.name} - town in {self.country}, founded {self.founded}, mayor {self.mayor}"


def make_towns(rng: random.Random) -> list[Town]:
    """Every town name, each in one to three countries."""
    names = sorted({city for state in vocabulary.STATES for city in state.towns})
    return [
        Town(
            name, country, _person(rng), str(1000 * (4 + int(rng.random() * 400))), str(1200 + int(rng.random() * 700))
        )
        for name in names
        for country in choose(COUNTRIES, 1 + int(rng.random() * 3), rng)
    ]


def _person(rng: random.Random) -> str:
    return f"{noise.pick(vocabulary.FIRST_NAMES, rng)} {noise.pick(vocabulary.LAST_NAMES, rng)}"


def _row(kind: str, towns: Sequence[Town], rng: random.Random) -> dict[str, str]:
    """A row of a table of a kind: role to value; the first role is the table's subject."""
    town = towns[int(rng.random() * len(towns))]
    if kind == "towns":
        return {"city": town.name, "country": town.country, "mayor": town.mayor, "population": town.population}
    if kind == "rivers":
        length = f"{20 + int(rng.random() * 900)} km"
        return {"river": noise.pick(RIVERS, rng), "country": noise.pick(COUNTRIES, rng), "length": length}
    year = str(1850 + int(rng.random() * 150))
    if kind == "firms":
        name = f"{noise.pick(vocabulary.LAST_NAMES, rng)} {noise.pick(FIRM_KINDS, rng)}"
        return {"company": name, "city": town.name, "director": _person(rng), "year": year}
    if kind == "teams":
        name = f"{town.name} {noise.pick(TEAM_KINDS, rng)}"
        return {"sports team": name, "city": town.name, "captain": _person(rng), "year": year}
    return {
        "person": _person(rng),
        "genre": noise.pick(GENRES, rng),
        "country": noise.pick(COUNTRIES, rng),
        "year": year,
    }


KINDS = ("towns", "rivers", "firms", "teams", "musicians")
_ROLE_TYPES = {"mayor": "person", "director": "person", "captain": "person"}
_PAIRS: Mapping[tuple[str, str, str], str] = {
    ("towns", "city", "country"): "city in country",
    ("towns", "mayor", "city"): "mayor of city",
    ("towns", "city", "population"): "city population",
    ("rivers", "river", "country"): "river through country",
    ("firms", "company", "city"): "company based in city",
    ("firms", "director", "company"): "director of company",
    ("teams", "sports team", "city"): "team plays in city",
    ("teams", "captain", "sports team"): "captain of team",
}


@dataclass(frozen=True)
class WebTable:
    """A table of the atlas.

    Attributes:
        id: Its number.
        kind: One of ``KINDS``.
        headers: Role to the header shown, empty where it is hidden.
        rows: Role to value, row by row.
    """

    id: str
    kind: str
    headers: Mapping[str, str]
    rows: tuple[Mapping[str, str], ...]

    def column(self, role: str) -> list[str]:
        """The values of a column."""
        return [row[role] for row in self.rows]


def make_tables(count: int, strength: float, towns: Sequence[Town], rng: random.Random) -> list[WebTable]:
    """Tables of four to eight rows. Noise, times ``strength``: a header hidden 0.35, a cell with a typo 0.08, a cell
    missing 0.05.
    """
    tables = []
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        rows = []
        for _ in range(4 + int(rng.random() * 5)):
            row = _row(kind, towns, rng)
            rows.append({role: _blur(value, strength, rng) for role, value in row.items()})
        headers = {}
        for role in rows[0]:
            names = _PERSON_HEADERS.get(role) or _HEADERS[role]
            headers[role] = "" if rng.random() < 0.35 * strength else noise.pick(names, rng)
        tables.append(WebTable(f"t{number}", kind, headers, tuple(rows)))
    return tables


def _blur(value: str, strength: float, rng: random.Random) -> str:
    lot = rng.random()
    if lot < 0.05 * strength:
        return ""
    return noise.typo(value, rng) if lot < 0.13 * strength else value


def column_items(tables: Sequence[WebTable], max_values: int = 6) -> list[Item]:
    """CTA: every column with its type."""
    return [
        Item(
            f"{table.id}/{role}",
            table.id,
            {
                "column": table.headers[role],
                "values": show_values(table.column(role), max_values),
                "other columns": ", ".join(h for r, h in table.headers.items() if r != role and h),
            },
            (_ROLE_TYPES.get(role, role),),
        )
        for table in tables
        for role in table.headers
    ]


def relation_items(tables: Sequence[WebTable], max_values: int = 4) -> list[Item]:
    """RE: the column pairs that stand in a relation."""
    return [
        Item(
            f"{table.id}/{subject}/{object_}",
            table.id,
            {
                "subject column": table.headers[subject],
                "object column": table.headers[object_],
                "subject values": show_values(table.column(subject), max_values),
                "object values": show_values(table.column(object_), max_values),
            },
            (relation,),
        )
        for table in tables
        for (kind, subject, object_), relation in _PAIRS.items()
        if table.kind == kind
    ]


def entity_items(count: int, strength: float, towns: Sequence[Town], rng: random.Random, candidates: int) -> list[Item]:
    """EL: a town mentioned in a row, its namesakes and other towns as candidates.

    Noise, times ``strength``: a typo in the mention 0.25, the country left out of the row 0.3 (the mayor or the year of
    founding then has to tell namesakes apart).
    """
    items = []
    for number in range(count):
        town = towns[int(rng.random() * len(towns))]
        row = {"country": town.country, "mayor": town.mayor, "founded": town.founded}
        if rng.random() < 0.3 * strength:
            row["country"] = ""
        hidden = noise.pick(("mayor", "founded"), rng)
        row[hidden] = ""
        namesakes = [other for other in towns if other.name == town.name]
        others = choose([o for o in towns if o.name != town.name], max(0, candidates - len(namesakes)), rng)
        options = tuple(sorted(other.entity for other in (*namesakes, *others)))
        mention = noise.typo(town.name, rng) if rng.random() < 0.25 * strength else town.name
        items.append(Item(f"c{number}", f"c{number}", {"cell": mention, **row}, (town.entity,), "", "cell", options))
    return items
