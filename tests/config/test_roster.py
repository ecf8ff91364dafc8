"""Rules about who is there and who answers, each with its message, on the shipped configuration."""

from __future__ import annotations

import pytest

from meld.config.compose import load_config
from meld.config.validate import validate
from meld.errors import ConfigError, ConfigErrors


def problems(*overrides: str) -> list[ConfigError]:
    """The single errors of a configuration; empty if it is valid."""
    try:
        validate(load_config(overrides))
    except ConfigErrors as error:
        return list(error.errors)
    return []


RULES = [
    (["k=4"], "k", "only 3", "k=3"),
    (["router=arrow"], "router", "only engine=hf", "engine=hf"),
    (["router=arrow", "engine=hf", "mixer=logits"], "mixer", "no mixer has a say", "mixer=cat"),
    (["+adapters.legal.path=x", "k=5"], "k", "only 4", "k=4"),
    (["+adapters.legal.pth=x"], "adapters.legal", "has no path", "+adapters.legal.path=FOLDER"),
    (["+adapters.legal={path: x, bse: y}"], "adapters.legal.bse", "no key 'bse'", "adapters.legal.base"),
    (["+adapters={a.b: {path: x}}"], "adapters.a.b", "cannot be called 'a.b'", "letters"),
    (["+adapters.joint.path=x"], "adapters.joint", "cannot be called 'joint'", "letters"),
    (["+adapters.legal.path=x", "expert=joint"], "adapters", "with one adapter", "expert=lora"),
    (["exclude=[people.di]"], "exclude", "the experts are quickstart_products.em", "quickstart_people.di"),
    (
        ["exclude=[quickstart_products.em,quickstart_people.di,quickstart_hospitals.dc]"],
        "exclude",
        "leaves none",
        "exclude=[quickstart_people.di, quickstart_hospitals.dc]",
    ),
    (
        ["transfer=cross_dataset", "transfer.targets=[quickstart_product.em]"],
        "transfer.targets",
        "is no unit of this suite",
        "transfer.targets=[quickstart_products.em]",
    ),
    (
        ["transfer=cross_dataset", "transfer.targets=[quickstart_products.blk]"],
        "transfer.targets",
        "no expert of its own",
        "transfer.targets=",
    ),
    (["transfer=cross_dataset", "transfer.targets=[]"], "transfer.targets", "not a list of units", "products.em"),
    (["transfer=cross_task", "transfer.also=[nothing]"], "transfer.also", "neither a unit nor a dataset", "also="),
    (["+transfer.target=[x]"], "transfer.target", "no key 'target'", "remove"),
    (
        ["transfer=cross_dataset", "transfer.also=[quickstart_people,quickstart_hospitals]"],
        "transfer",
        "no expert of another dataset is left",
        "transfer=none",
    ),
]


@pytest.mark.parametrize(("overrides", "where", "what", "fix"), RULES, ids=[" ".join(rule[0]) for rule in RULES])
def test_each_rule(overrides: list[str], where: str, what: str, fix: str) -> None:
    found = problems(*overrides)
    assert [error.where for error in found] == [where], [str(error) for error in found]
    assert what in found[0].what
    assert fix in found[0].fix


@pytest.mark.parametrize(
    "overrides",
    [
        ["router=arrow", "engine=hf"],
        ["expert=joint", "k=9"],
        ["expert=joint", "router=arrow"],
        ["+adapters.legal.path=x", "k=4"],
        ["+adapters.legal.path=x", "+adapters.legal.base=y", "exclude=[legal]"],
        # Masking and excluding leave fewer experts than k; the run lowers k and says so.
        ["transfer=cross_dataset", "k=3"],
        ["exclude=[quickstart_people.di]", "k=3"],
        ["transfer=cross_task", "transfer.targets=[quickstart_people.di]", "method=meld_ds"],
    ],
)
def test_what_lies_on_the_boundary_is_valid(overrides: list[str]) -> None:
    assert [str(error) for error in problems(*overrides)] == []
