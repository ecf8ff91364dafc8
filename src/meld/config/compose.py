"""From overrides to a configuration, and from Hydra's errors to one screen that says what to change."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from meld.config.presets import register_presets, shipped
from meld.config.schema import COMPONENT_GROUPS, MeldConfig, register_schema
from meld.config.targets import nearest
from meld.config.tree import config_hash, plain, redact
from meld.errors import ConfigError, UserError

__all__ = [
    "PRIMARY",
    "Composed",
    "compose_config",
    "config_hash",
    "friendly",
    "load_config",
    "origin_of",
    "plain",
    "preset_sweep",
    "redact",
]

PRIMARY = "meld"
"""Name of the primary configuration, ``conf/meld.yaml``."""

_OPTIONS = re.compile(
    r"Could not (?:find|load) '(?P<option>[^']*)'(?:.*?Available options in '[^']*':\n(?P<known>.*?)\nConfig search)?",
    re.DOTALL,
)
_NO_GROUP = re.compile(
    r"Could not override '(?P<group>[^']*)'\.\s*"
    r"(?:No match in the defaults|Did you mean to override one of (?P<known>[^?]*))"
    r"|Key '(?P<path>[^']*/[^']*)' (?:is not in struct|not in)"
)
_AMBIGUOUS = re.compile(r"Ambiguous value for argument '(?P<override>[^']*)'")
_NO_KEY = re.compile(r"Key '(?P<key>[^']*)' (?:is not in struct|not in '[^']*')")
_WITHIN = re.compile(r"In '(?P<config>[^']*)'")
_FULL_KEY = re.compile(r"full_key: (?P<key>\S+)")
_NOT_MEANT = re.compile(r"\n(See https|To append|Set the env)[^\n]*|\n\s*(full_key|object_type|reference_type)[^\n]*")


_PRESET_GROUPS = ("suite", "method", "scale", "experiment", "variant", "sweep")


@dataclass(frozen=True)
class Composed:
    """A composed configuration and where it comes from.

    Attributes:
        config: The configuration, without Hydra's own node; not yet validated.
        choices: Group to chosen option, strongest first.
        origin: See ``origin_of``.
    """

    config: DictConfig
    choices: Mapping[str, str | None]
    origin: Callable[[str], str | None]


def load_config(overrides: Sequence[str] = (), config_dir: Path | None = None) -> DictConfig:
    """The configuration that a command line with these overrides composes. Not yet validated.

    Args:
        overrides: As on the command line: ``k=2``, ``method=meld_ds``, ``experiment=...``.
        config_dir: A folder that takes part as Hydra's ``--config-dir`` does; if it has a ``meld.yaml``, it stands in
            for ``conf/``.

    Raises:
        UserError: If the overrides or a file do not compose, see ``friendly``.
    """
    return compose_config(overrides, config_dir).config


def compose_config(overrides: Sequence[str] = (), config_dir: Path | None = None) -> Composed:
    """``load_config``, together with what was chosen and where keys were set."""
    given = None if config_dir is None else Path(config_dir).absolute()
    config = _with_hydra(overrides, given)
    choices = {str(group): option for group, option in config.hydra.runtime.choices.items()}
    OmegaConf.set_readonly(config, False)
    with open_dict(config):
        del config["hydra"]
    return Composed(config, choices, origin_of(choices, overrides, given))


def preset_sweep(
    overrides: Sequence[str], config_dir: Path | None = None
) -> tuple[bool, dict[str, str], dict[str, Any]]:
    """What the presets among some overrides ask Hydra to sweep, and what they are compared with.

    Args:
        overrides: Single-valued overrides, presets among them.
        config_dir: As for ``load_config``.

    Returns:
        Whether they ask for a sweep; their grid, key to comma-separated values; their ``paper`` node.

    Raises:
        UserError: As ``load_config``.
    """
    config = _with_hydra(overrides, None if config_dir is None else Path(config_dir).absolute())
    params = OmegaConf.to_container(config.hydra.sweeper.get("params") or OmegaConf.create({}))
    paper = OmegaConf.to_container(config.paper) if "paper" in config else {}
    assert isinstance(params, dict)
    assert isinstance(paper, dict)
    params |= paper.pop("by_scale", {}).get(config.hydra.runtime.choices.get("scale"), {})
    asked = config.hydra.mode == RunMode.MULTIRUN
    return asked, {str(key): str(value) for key, value in params.items()}, {str(k): v for k, v in paper.items()}


def _with_hydra(overrides: Sequence[str], given: Path | None) -> DictConfig:
    """The composed configuration together with Hydra's own node."""
    register_schema()
    register_presets()
    if given is not None and not given.is_dir():
        raise ConfigError(
            "the folder of private configuration does not exist", where=str(given), fix="--config-dir FOLDER"
        )
    stands_in = given is not None and (given / f"{PRIMARY}.yaml").is_file()
    primary = given if given is not None and stands_in else shipped("conf")
    search = [] if given is None or stands_in else [f"hydra.searchpath=[file://{given}]"]
    try:
        with initialize_config_dir(str(primary), version_base="1.3", job_name=PRIMARY):
            return compose(PRIMARY, [*overrides, *search], return_hydra_config=True)
    except Exception as error:
        raise friendly(error) from error


def origin_of(
    choices: Mapping[str, str | None], overrides: Sequence[str] = (), config_dir: Path | None = None
) -> Callable[[str], str | None]:
    """A function from a key path to where it was set: ``the command line`` or a file; None if that is not known.

    Args:
        choices: Group to chosen option, strongest first (Hydra's ``hydra.runtime.choices``).
        overrides: The command line's overrides.
        config_dir: A folder of private configuration.
    """
    presets = register_presets()
    folders = [shipped("conf"), *([] if config_dir is None else [Path(config_dir)])]
    said = [override.lstrip("+~").partition("=")[0] for override in overrides]

    def origin(key: str) -> str | None:
        if any(key == name or key.startswith(f"{name}.") for name in said if name not in choices):
            return "the command line"
        for choice, option in choices.items():
            group, _, package = choice.partition("@")
            file = _option_file(group, option, presets, folders)
            if file is None:
                continue
            text = file.read_text(encoding="utf-8")
            if group in presets or text.startswith("# @package _global_"):
                inner = key
            else:
                package = package or group.replace("/", ".")
                if key != package and not key.startswith(f"{package}."):
                    continue
                inner = key[len(package) + 1 :]
            if _has(yaml.safe_load(text), inner):
                return str(file)
        return None

    return origin


def friendly(error: Exception) -> UserError:
    """What an exception of Hydra or OmegaConf means for the person at the keyboard.

    Args:
        error: The exception.

    Returns:
        One message that names the key or option, the nearest known one, and the remedy. A ``UserError`` is returned as
        it is.

    Raises:
        Exception: ``error`` itself if it is not about configuration: a defect keeps its traceback.
    """
    if isinstance(error, UserError):
        return error
    if isinstance(error, MissingConfigException):
        return _unknown_option(str(error))
    if isinstance(error, OverrideParseException):
        return ConfigError(
            f"the override {error.override!r} cannot be read",
            where="the command line",
            fix=f"write key=value, and quote what holds spaces, commas or brackets ({_first_line(error)})",
        )
    if isinstance(error, yaml.YAMLError):
        mark = getattr(error, "problem_mark", None)
        place = f"{mark.name}, line {mark.line + 1}" if mark is not None else ""
        return ConfigError(
            f"the file is not valid YAML: {getattr(error, 'problem', error)}", where=place, fix="correct it"
        )
    if isinstance(error, ValueError) and "Config group override must be a string" in str(error):
        return ConfigError(
            "a group was set to null",
            where="the command line",
            fix="choose an option; what does nothing is called none",
        )
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        return _composition(error)
    raise error


def _unknown_option(message: str) -> ConfigError:
    found = _OPTIONS.search(message)
    if found is None:
        return ConfigError(message.splitlines()[0], fix="see conf/ for what there is")
    group, _, option = found["option"].rpartition("/")
    known = found["known"].split() if found["known"] else _shipped_options(group)
    guess = nearest(option, known)
    remedy = f"{group}={guess}" if guess else f"choose one of them: {group}=OPTION"
    return ConfigError(
        f"there is no option {option!r} in the group {group}; "
        + (f"options are: {', '.join(known)}" if known else "the group is empty"),
        where=f"{group}={option}",
        fix=remedy,
    )


def _shipped_options(group: str) -> list[str]:
    """A group's options, for a list of options (``sweep=[seeds,k]``), of which Hydra does not say what there is."""
    presets = register_presets()
    return sorted(presets[group] if group in presets else (f.stem for f in (shipped("conf") / group).glob("*.yaml")))


def _composition(error: Exception) -> ConfigError:
    message, cause = str(error), error.__cause__
    whole = f"{message}\n{cause}" if cause is not None else message
    within = _WITHIN.match(message)
    place = _file_of(within["config"]) if within else "the command line"
    full_key = _FULL_KEY.search(whole)
    key_path = full_key["key"] if full_key else ""
    swept = _AMBIGUOUS.search(message)
    if swept is not None:
        return ConfigError(
            f"{swept['override']!r} lists several values, but this is a single run",
            where=place,
            fix=f"to run once for each of them: meld -m {swept['override']}",
        )
    no_group = _NO_GROUP.search(whole)
    if no_group is not None:
        group = no_group["group"] or no_group["path"]
        known = no_group["known"].split(", ") if no_group["known"] else [*COMPONENT_GROUPS.values(), *_PRESET_GROUPS]
        guess = None if "/" in group else nearest(group, known)
        fix = f"did you mean {guess}?" if guess else "choose an option that has this group below it, or leave it out"
        return ConfigError(f"there is no group {group!r} to choose from here", where=place, fix=fix)
    key = _NO_KEY.search(whole)
    if key is not None:
        above = key_path.rpartition(".")[0]
        siblings = _siblings(cause, above)
        guess = nearest(key["key"], siblings)
        prefix = f"{above}." if above else ""
        there = f" (known there: {', '.join(siblings)})" if above and siblings else ""
        return ConfigError(
            f"there is no key {key_path or key['key']!r}",
            where=place,
            fix=(f"did you mean {prefix}{guess}?" if guess else "correct or remove it") + there,
        )
    detail = _clean(str(cause) if cause is not None else message.partition(":\n")[2] or message)
    where = f"{place}, key {key_path}" if key_path else place
    return ConfigError(
        detail, where=where, fix="correct the value" if key_path else "correct the override or the file named"
    )


def _siblings(cause: BaseException | None, above: str) -> list[str]:
    """The keys known where an unknown one was used: of the node itself, else of the schema."""
    node: object = getattr(cause, "parent_node", None)
    if not isinstance(node, DictConfig):
        schema = OmegaConf.structured(MeldConfig)
        node = OmegaConf.select(schema, above, throw_on_missing=False) if above else schema
    known = [str(key) for key in node] if isinstance(node, DictConfig) else []
    return known if above else [*known, *_PRESET_GROUPS]


def _file_of(config: str) -> str:
    """The file of a configuration that Hydra names as ``group/option``."""
    group, _, name = config.partition("/")
    file = register_presets().get(group, {}).get(name)
    return str(file) if file is not None else str(shipped("conf") / f"{config}.yaml")


def _option_file(
    group: str, option: str | None, presets: Mapping[str, Mapping[str, Path]], folders: Sequence[Path]
) -> Path | None:
    if not isinstance(option, str):
        return None
    if option in presets.get(group, {}):
        return presets[group][option]
    candidates = (folder / group / f"{option}.yaml" for folder in folders)
    return next((file for file in candidates if file.is_file()), None)


def _has(node: object, key: str) -> bool:
    for part in key.split(".") if key else ():
        if not isinstance(node, Mapping) or part not in node:
            return False
        node = node[part]
    return True


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _clean(message: str) -> str:
    return " ".join(_NOT_MEANT.sub("", message).split())
