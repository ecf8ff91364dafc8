"""What a configuration may call: the allowlist of ``_target_``, and whether the arguments fit the class it names.

``_target_`` is code execution. Hence it may name only classes, and only classes *defined* in an allowed package:
``meld.x.os.system`` passes through an allowed package and is refused all the same.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import types
import typing
from collections.abc import Iterator, Mapping, Sequence

from meld.errors import ConfigError

THIRD_PARTY = (
    "lightning.pytorch.Trainer",
    "lightning.pytorch.callbacks.EarlyStopping",
    "lightning.pytorch.loggers.CSVLogger",
    "lightning.pytorch.loggers.TensorBoardLogger",
    "lightning.pytorch.loggers.WandbLogger",
    "peft.LoraConfig",
    "torch.optim.AdamW",
    "transformers.BitsAndBytesConfig",
)
"""The classes of other packages that a configuration may name."""

DIRECTIVES = frozenset({"_target_", "_partial_", "_convert_", "_recursive_"})
"""Hydra's own keys in a node. ``_args_`` is not among them: arguments have names here."""


def walk(node: object, place: str = "") -> Iterator[tuple[str, Mapping[str, object]]]:
    """Every mapping of a plain tree with its key path, parents first."""
    if isinstance(node, Mapping):
        yield place, node
        for key, value in node.items():
            yield from walk(value, f"{place}.{key}" if place else str(key))
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            yield from walk(value, f"{place}[{index}]")


def nearest(name: str, known: Sequence[str]) -> str | None:
    """The known name most like a misspelt one, if any is like it."""
    found = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return found[0] if found else None


def refusal(target: object, place: str, allow: Sequence[str] = ()) -> ConfigError | None:
    """Why a ``_target_`` may not be used, judged by its name alone; nothing is imported.

    Args:
        target: The value of ``_target_``.
        place: Its key path.
        allow: The user's own packages.
    """
    where = f"{place}._target_".lstrip(".")
    if not isinstance(target, str) or not all(part.isidentifier() for part in target.split(".")) or "." not in target:
        return ConfigError(
            f"_target_ is {target!r}, which names no class", where=where, fix="write package.module.Class"
        )
    package = target.split(".")[0]
    if package in ("meld", *allow) or target in THIRD_PARTY:
        return None
    return ConfigError(
        f"_target_ names {target}, and a configuration may not call that",
        where=where,
        fix=f"use a class of meld; if {package} is your own package and you trust it: allow=[{package}]",
    )


def resolve(target: str, place: str, allow: Sequence[str] = ()) -> type:
    """The class an allowed ``_target_`` names.

    Raises:
        ConfigError: If the target is not allowed, does not exist, or is not a class defined in an allowed package.
    """
    refused = refusal(target, place, allow)
    if refused is not None:
        raise refused
    where = f"{place}._target_".lstrip(".")
    module_name, _, name = target.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(
            f"cannot import {module_name}: {error}", where=where, fix="correct the module, or install what it needs"
        ) from error
    found = getattr(module, name, None)
    if found is None:
        classes = [key for key, value in vars(module).items() if inspect.isclass(value)]
        guess = nearest(name, classes)
        raise ConfigError(
            f"{module_name} has no class {name}",
            where=where,
            fix=f"did you mean {module_name}.{guess}?" if guess else f"look into {module.__file__}",
        )
    home = str(getattr(found, "__module__", "")).split(".")[0]
    if not inspect.isclass(found) or (home not in ("meld", *allow) and target not in THIRD_PARTY):
        raise ConfigError(
            f"_target_ names {target}, which is not a class defined in an allowed package",
            where=where,
            fix="name a class where it is defined",
        )
    return found


def binding_errors(component: type, node: Mapping[str, object], place: str) -> list[ConfigError]:
    """What does not fit between a node's keys and the constructor it names.

    Args:
        component: The class.
        node: The node, with or without directives.
        place: Its key path.

    Returns:
        One error per unknown argument, per missing one, and per mapping without ``_target_`` where an object is
        expected.
    """
    parameters = {
        name: parameter
        for name, parameter in inspect.signature(component).parameters.items()
        if parameter.kind not in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    }
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in inspect.signature(component).parameters.values())
    label = f"{component.__name__} ({_file(component)})"
    errors = []
    for key in node:
        if key in DIRECTIVES or key in parameters or takes_any:
            continue
        missing = [name for name in parameters if name not in node]
        guess = nearest(key, missing) or nearest(key, list(parameters))
        known = ", ".join(parameters) or "none"
        where = f"{place}.{key}".lstrip(".")
        fix = f"did you mean {place}.{guess}? " if guess else "remove the key; "
        errors.append(ConfigError(f"{label} takes no argument {key!r}", where=where, fix=f"{fix}(arguments: {known})"))
    if not node.get("_partial_"):
        for name, parameter in parameters.items():
            if parameter.default is inspect.Parameter.empty and name not in node:
                errors.append(
                    ConfigError(f"{label} needs the argument {name!r}", where=place, fix=f"+{place}.{name}=VALUE")
                )
    hints = _hints(component)
    for name, value in node.items():
        if (
            name in parameters
            and isinstance(value, Mapping)
            and "_target_" not in value
            and _is_object(hints.get(name))
        ):
            guess = nearest("_target_", [str(key) for key in value])
            errors.append(
                ConfigError(
                    f"{label} expects an object as {name!r}, but the mapping there names no class",
                    where=f"{place}.{name}".lstrip("."),
                    fix=f"rename the key {guess!r} to '_target_'" if guess else "add the key '_target_'",
                )
            )
    return errors


def misspelt_target(node: Mapping[str, object]) -> str | None:
    """The key of a node that was probably meant to be ``_target_``: alike, and holding a dotted name."""
    if "_target_" in node:
        return None
    for key, value in node.items():
        dotted = isinstance(value, str) and "." in value and all(part.isidentifier() for part in value.split("."))
        if dotted and nearest(str(key), ["_target_"]) is not None:
            return str(key)
    return None


def _is_object(annotation: object) -> bool:
    """Whether a parameter so annotated wants a built object, not plain data."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        members = [member for member in typing.get_args(annotation) if member is not type(None)]
        return bool(members) and all(_is_object(member) for member in members)
    if typing.get_origin(annotation) is not None or not inspect.isclass(annotation):
        return False
    return annotation.__module__ != "builtins" and not issubclass(annotation, Mapping)


def _hints(component: type) -> dict[str, object]:
    try:
        return typing.get_type_hints(vars(component).get("__init__", component))
    except (NameError, TypeError):
        return {}  # annotations that exist for type checkers only say nothing here


def _file(component: type) -> str:
    try:
        return inspect.getsourcefile(component) or component.__module__
    except TypeError:
        return component.__module__
