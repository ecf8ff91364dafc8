"""The shipped configuration: every method, scale and suite is valid, and every option fits the class it names."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from meld.config.build import target_errors
from meld.config.compose import load_config
from meld.config.presets import shipped
from meld.config.tree import plain
from meld.config.validate import validate
from meld.errors import ConfigErrors

CONF = shipped("conf")
# Groups that set keys of the whole configuration, and hold no component.
WITHOUT_COMPONENT = {"suite", "method", "scale", "transfer", "variant"}


def options(*groups: str) -> list[str]:
    """Options as `group/option`, of the given groups."""
    return sorted(
        path.relative_to(CONF).with_suffix("").as_posix() for group in groups for path in (CONF / group).rglob("*.yaml")
    )


def component_groups() -> list[str]:
    """Groups whose options name a class."""
    return [path.name for path in sorted(CONF.iterdir()) if path.is_dir() and path.name not in WITHOUT_COMPONENT]


@pytest.mark.parametrize("scale", options("scale"))
@pytest.mark.parametrize("method", options("method"))
def test_every_method_and_scale_is_valid(method: str, scale: str) -> None:
    validate(load_config([f"method={Path(method).name}", f"scale={Path(scale).name}"]))


@pytest.mark.parametrize("option", [o for o in options("suite", "transfer") if o != "suite/none"])
def test_every_suite_and_transfer_setting_is_valid(option: str) -> None:
    group, _, name = option.partition("/")
    overrides = ["suite=quickstart", f"{group}={name}"] if group != "suite" else [f"suite={name}"]
    validate(load_config(overrides))


def test_a_table_of_ones_own_joins_the_empty_suite() -> None:
    with pytest.raises(ConfigErrors, match="there is no dataset"):
        validate(load_config(["suite=none"]))
    own = ["+dataset@datasets.shops=csv_pairs", "datasets.shops.name=shops", "datasets.shops.pairs=p.csv"]
    validate(load_config(["suite=none", "k=1", *own]))


@pytest.mark.parametrize("option", options(*component_groups()))
def test_every_option_says_what_it_is_and_names_a_class(option: str) -> None:
    text = (CONF / f"{option}.yaml").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("# @package")]
    assert lines[0].startswith("# ")
    assert "_target_" in yaml.safe_load(text)


@pytest.mark.parametrize("option", options(*component_groups()))
def test_every_option_fits_its_class_in_the_default_configuration(option: str) -> None:
    group, _, name = option.rpartition("/")
    key = {"task": "+task@tasks.other", "dataset": "+dataset@datasets.other"}.get(group, group)
    parts = ["selector=meld_ds"] if group.startswith("selector/") else []
    assert target_errors(plain(load_config([*parts, f"{key}={name}"]))) == []
