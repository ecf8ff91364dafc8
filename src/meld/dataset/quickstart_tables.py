"""How the tables of the quickstart sets are made: products and their noisy twins, people, hospitals and their
errors.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from meld.dataset import noise
from meld.dataset import quickstart_words as vocabulary
from meld.dataset.few_shot import choose

T = TypeVar("T")


@dataclass(frozen=True)
class Product:
    """A made-up product: what table A lists, and what its noisy twin in table B is made from."""

    brand: str
    line: str
    category: vocabulary.Category
    code: str
    features: tuple[str, ...]
    size: str
    colour: str
    price: int

    @property
    def family(self) -> tuple[str, str, str]:
        """What its sister models share: brand, line and category."""
        return self.brand, self.line, self.category.noun

    def clean(self) -> dict[str, str]:
        """The product as table A lists it."""
        words = [self.brand, self.line, self.code, *self.features[:2], self.category.noun, self.colour]
        about = f"{self.brand} {self.line} {self.category.noun}, {', '.join(self.features)}, {self.size}, {self.colour}"
        return {"title": " ".join(words), "description": about, "price": f"{self.price}.00"}

    def noisy(self, strength: float, rng: random.Random) -> dict[str, str]:
        """The product as table B lists it."""

        def happens(chance: float) -> bool:
            return rng.random() < min(0.95, chance * strength)

        table = vocabulary.ABBREVIATIONS
        abbreviated, dropped = min(0.95, 0.35 * strength), min(0.95, 0.15 * strength)
        features = " ".join(reversed(self.features[1:])).split()
        tail = noise.drop_words([*features, *self.size.split(), self.category.noun, self.colour], dropped, rng)
        words = [self.brand.lower() if happens(0.5) else self.brand, self.line]
        if not happens(0.12):
            words.append(noise.recode(self.code, rng) if happens(0.5) else self.code)
        words += noise.abbreviate(tail, table, abbreviated, rng)
        title = " ".join(noise.rotate(words, rng) if happens(0.2) else words)
        if happens(0.25):
            title = noise.typo(title, rng)
        about = noise.abbreviate(
            [*self.size.split(), *self.features[0].split(), self.category.noun], table, abbreviated, rng
        )
        amount = round(self.price * (0.95 + 0.1 * rng.random())) if happens(0.3) else self.price
        price = f"{amount}.00"
        price = "" if happens(0.25) else noise.reprice(price, rng) if happens(0.4) else price
        return {"title": title, "description": "" if happens(0.25) else " ".join(about), "price": price}


def make_products(count: int, rng: random.Random) -> list[Product]:
    """Families of two to four models, until there are ``count`` products with distinct model numbers."""
    found: list[Product] = []
    used: set[str] = set()
    while len(found) < count:
        brand = noise.pick(vocabulary.BRANDS, rng)
        line = noise.pick(vocabulary.LINES, rng)
        category = vocabulary.CATEGORIES[int(rng.random() * len(vocabulary.CATEGORIES))]
        features = tuple(choose(category.features, 3, rng))
        number = 1000 + 10 * int(rng.random() * 890)
        for step in range(2 + int(rng.random() * 3)):
            suffix = noise.pick(("", "B", "S", "X"), rng)
            code = f"{brand[0]}{line[0]}-{number + 5 * step}{suffix}"
            if code in used or len(found) == count:
                continue
            used.add(code)
            size, colour = noise.pick(category.sizes, rng), noise.pick(vocabulary.COLOURS, rng)
            price = max(5, round(category.price * (0.7 + 0.6 * rng.random())))
            found.append(Product(brand, line, category, code, features, size, colour, price))
    return found


def make_mismatches(
    products: Sequence[Product], left: Sequence[int], right: Sequence[int], count: int, rng: random.Random
) -> list[tuple[int, int]]:
    """Distinct pairs of different products, in random order: near ones first filled up to their share, then random
    ones.
    """
    family = [
        (one, other)
        for one in left
        for other in right
        if one != other and products[one].family == products[other].family
    ]
    akin = [
        (one, other)
        for one in left
        for other in right
        if products[one].family != products[other].family
        and (products[one].brand == products[other].brand or products[one].category == products[other].category)
    ]
    taken = dict.fromkeys(choose(family, round(0.6 * count), rng))
    taken.update(dict.fromkeys(choose(akin, round(0.25 * count), rng)))
    while len(taken) < count:
        one, other = left[int(rng.random() * len(left))], right[int(rng.random() * len(right))]
        if one != other:
            taken[one, other] = None
    return shuffled(list(taken), rng)[:count]


def make_person(strength: float, rng: random.Random) -> dict[str, str]:
    """One row of the address book; ``strength`` scales the base chances of its noise."""

    def happens(chance: float) -> bool:
        return rng.random() < min(0.95, chance * strength)

    state = vocabulary.STATES[int(rng.random() * len(vocabulary.STATES))]
    weights = [1 / (rank + 1) for rank in range(len(state.towns))]
    draw, place = rng.random() * sum(weights), 0
    while draw > weights[place] and place < len(weights) - 1:
        draw -= weights[place]
        place += 1
    kind = noise.pick(list(vocabulary.STREET_KINDS), rng)
    kind = vocabulary.STREET_KINDS[kind] if happens(0.3) else kind
    street = f"{1 + int(rng.random() * 240)} {noise.pick(vocabulary.STREETS, rng)} {kind}"
    digits = _phone(state.area, rng)
    lost = "zip" if happens(0.15) else "phone" if happens(0.15) else ""
    return {
        "name": f"{noise.pick(vocabulary.FIRST_NAMES, rng)} {noise.pick(vocabulary.LAST_NAMES, rng)}",
        "street": street,
        "zip": "" if lost == "zip" else f"{state.zip_prefix}{place}{noise.pick(('10', '40'), rng)}",
        "city": state.towns[place],
        "state": state.name,
        "phone": "" if lost == "phone" else f"({digits[:3]}) {digits[4:]}" if happens(0.4) else digits,
    }


def _phone(area: str, rng: random.Random) -> str:
    return f"{area}-{200 + int(rng.random() * 700)}-{1000 + int(rng.random() * 9000)}"


def make_hospitals(count: int, rng: random.Random) -> list[dict[str, str]]:
    """``count`` clean rows: clinic after clinic, each with a row per measure."""
    rows: list[dict[str, str]] = []
    towns, measures = list(vocabulary.COUNTIES), list(vocabulary.MEASURES)
    number = 0
    while len(rows) < count:
        number += 1
        town = noise.pick(towns, rng)
        clinic = {
            "provider": str(10000 + 37 * number),
            "name": f"{noise.pick(vocabulary.CLINIC_NAMES, rng)} {noise.pick(vocabulary.CLINIC_KINDS, rng)}",
            "city": town,
            "county": vocabulary.COUNTIES[town],
            "phone": "-".join(
                str(low + int(rng.random() * span)) for low, span in ((200, 700), (200, 700), (1000, 9000))
            ),
        }
        rows += [{**clinic, "measure_code": code, "measure": vocabulary.MEASURES[code]} for code in measures]
    return rows[:count]


def make_dirty(clean: Sequence[Mapping[str, str]], error_rate: float, rng: random.Random) -> list[dict[str, str]]:
    """A copy in which exactly ``round(error_rate * cells)`` cells are wrong, uniformly chosen; the kinds are as
    ``QuickstartHospitals`` says.
    """
    dirty = [dict(row) for row in clean]
    places = [(row, column) for row in range(len(clean)) for column in clean[row]]
    for row, column in choose(places, round(error_rate * len(places)), rng):
        value = clean[row][column]
        others = list(dict.fromkeys(other[column] for other in clean if other[column] != value))
        kind = rng.random()
        if kind < 0.45:
            dirty[row][column] = noise.typo(value, rng)
        elif kind < 0.65 and others:
            dirty[row][column] = noise.pick(others, rng)
        elif kind < 0.85:
            dirty[row][column] = noise.pick(noise.MISSING_MARKERS, rng)
        else:
            dirty[row][column] = noise.reformat(value, rng)
    return dirty


def shuffled(items: Sequence[T], rng: random.Random) -> list[T]:
    """The items in random order, from ``rng.random`` only."""
    keys = [rng.random() for _ in items]
    return [items[place] for place in sorted(range(len(items)), key=keys.__getitem__)]
