"""Which datasets there are, what the command line makes of their options, and whether their files are there."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from meld.config.build import build
from meld.config.compose import compose_config, friendly
from meld.config.presets import shipped
from meld.config.targets import nearest
from meld.config.tree import plain
from meld.dataset.base import Dataset
from meld.errors import ConfigError, DataError, UserError


@dataclass(frozen=True)
class Option:
    """An option of the group ``dataset``, or a dataset that overrides define.

    Attributes:
        name: The option's or dataset's name.
        node: Its configuration; None if it could not be read.
        about: The comment at the head of its file.
        error: Why it could not be read.
    """

    name: str
    node: Mapping[str, Any] | None
    about: tuple[str, ...]
    error: UserError | None = None

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks it is read as."""
        return tuple((self.node or {}).get("tasks") or ())


@dataclass(frozen=True)
class State:
    """Whether a dataset can be read.

    Attributes:
        kind: ``synthetic`` | ``present`` | ``missing`` | ``own`` (no file given yet) | ``broken``.
        component: The dataset, if it could be built.
        error: What is wrong, for all but the first two kinds.
    """

    kind: str
    component: Dataset | None
    error: Exception | None = None


def read_options(overrides: Sequence[str], names: Sequence[str] = ()) -> tuple[dict[str, Option], dict[str, Any]]:
    """Every dataset there is: the options of ``conf/dataset``, and what the overrides define besides.

    Args:
        overrides: As on the command line; ``datasets.NAME.key=value`` also sets keys of options outside the suite.
        names: Datasets asked for by name; an unreadable option is an error only if it is one of them.

    Returns:
        Options by name, and the whole configuration as plain data.

    Raises:
        UserError: For an override that does not compose.
    """
    files = {path.stem: path for path in sorted((shipped("conf") / "dataset").glob("*.yaml"))}
    own = [word for word in overrides if _dataset_of(word) in files]
    # A dataset that overrides add under an option's name is the user's, and composed as a run would compose it.
    added = {match[1] for match in (re.match(r"\+dataset@datasets\.([^.=]+)=", word) for word in overrides) if match}
    composed = compose_config([word for word in overrides if word not in own or _dataset_of(word) in added]).config
    tree = plain(composed)
    whole = OmegaConf.create({key: value for key, value in tree.items() if key != "datasets"})
    found: dict[str, Option] = {}
    for name, path in files.items():
        if name in added:
            continue
        text = path.read_text(encoding="utf-8")
        about = _head(text)
        try:
            node = _resolved(text, name, whole, [word for word in own if _dataset_of(word) == name])
        except UserError as error:
            if name in names:
                raise
            found[name] = Option(name, None, about, error)
        else:
            found[name] = Option(name, node, about)
    for name in added:
        option = str(_choice(overrides, name))
        about = _head(files[option].read_text(encoding="utf-8")) if option in files else ()
        found[name] = Option(name, tree["datasets"][name], about)
    return found, tree


def _choice(overrides: Sequence[str], name: str) -> str:
    """The option that ``+dataset@datasets.NAME=OPTION`` chooses for a dataset."""
    prefix = f"+dataset@datasets.{name}="
    return next(word.removeprefix(prefix) for word in overrides if word.startswith(prefix))


def look(option: Option, allow: Sequence[str] = ()) -> State:
    """Build a dataset and see whether its files are there; reads none of them."""
    if option.node is None:
        return State("broken", None, option.error)
    try:
        component: Dataset = build(option.node, allow=allow, place=f"datasets.{option.name}")
    except UserError as error:
        return State("broken", None, error)
    if component.synthetic:
        return State("synthetic", component)
    try:
        component.files()
    except DataError as error:
        return State("missing", component, error)
    except ConfigError as error:
        return State("own" if _is_own(option) else "broken", component, error)
    return State("present", component)


def _dataset_of(override: str) -> str:
    """The dataset whose key an override sets; empty if it is about something else."""
    match = re.match(r"\+{0,2}datasets\.([^.=]+)\.", override)
    return match[1] if match else ""


def _head(text: str) -> tuple[str, ...]:
    """The comment that a file begins with."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# ").rstrip())
    return tuple(lines)


def _resolved(text: str, name: str, whole: DictConfig, overrides: Sequence[str]) -> dict[str, Any]:
    """An option's configuration with overrides applied and interpolations resolved against the whole one."""
    place = f"datasets.{name}"
    try:
        node = OmegaConf.create(text)
        for override in OverridesParser.create().parse_overrides(list(overrides)):
            key = override.key_or_group.removeprefix(f"{place}.")
            if key not in node and not override.is_add():
                guess = nearest(key, [str(known) for known in node])
                raise ConfigError(
                    f"there is no key '{place}.{key}'",
                    where="the command line",
                    fix=f"did you mean {place}.{guess}?" if guess else f"keys are {', '.join(map(str, node))}",
                )
            OmegaConf.update(node, key, override.value())
        whole["datasets"] = {name: node}
        # Only this part: resolving all of the configuration for each of many options would take seconds.
        found = plain(whole["datasets"])[name]
    except (ConfigError, yaml.YAMLError) as error:
        raise friendly(error) from None
    except Exception as error:
        raise friendly(error) from error
    if not isinstance(found, dict) or "_target_" not in found:
        raise ConfigError(f"{place} names no class", where=f"conf/dataset/{name}.yaml", fix="add the key '_target_'")
    return found


def _is_own(option: Option) -> bool:
    return ".dataset.own" in str((option.node or {}).get("_target_"))


def where_from(option: Option) -> str:
    """Where a dataset can be had."""
    node = option.node or {}
    if node.get("publisher"):
        return str(node["publisher"])
    if _is_own(option):
        return "your own files"
    found = re.search(r"https?://[^\s)]+", " ".join(option.about))
    return found[0] if found else "made by the project" if "quickstart" in option.name else ""
