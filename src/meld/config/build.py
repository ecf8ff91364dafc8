"""Building objects from configuration: the only place where a ``_target_`` is called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, overload

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from meld.config.targets import binding_errors, misspelt_target, refusal, resolve, walk
from meld.config.tree import plain as resolved
from meld.errors import ConfigError, ConfigErrors, UserError

T = TypeVar("T")


@overload
def build(
    cfg: Mapping[str, Any] | DictConfig, expected: type[T], allow: Sequence[str] = (), *, place: str = ""
) -> T: ...


@overload
def build(
    cfg: Mapping[str, Any] | DictConfig, expected: None = None, allow: Sequence[str] = (), *, place: str = ""
) -> Any: ...


def build(
    cfg: Mapping[str, Any] | DictConfig, expected: type | None = None, allow: Sequence[str] = (), *, place: str = ""
) -> Any:
    """Build the object a node describes, and the objects inside it.

    Every ``_target_`` of the tree is checked by name before the first one is imported, and every signature before the
    first one is called. Lists and mappings reach constructors as plain lists and dicts.

    Args:
        cfg: A node with ``_target_``; interpolations are resolved.
        expected: The class the result must be an instance of. A protocol must be ``runtime_checkable``.
        allow: The user's own packages that may be called besides ``meld``.
        place: The node's key path, for messages.

    Raises:
        ConfigErrors: If targets are not allowed, do not exist, or do not take the arguments given.
        ConfigError: If the node names no class, a constructor refuses a value, or the result is of another type.
    """
    plain: Any = resolved(cfg) if isinstance(cfg, DictConfig) else cfg
    if not isinstance(plain, Mapping):
        raise ConfigError(
            f"a mapping with '_target_' is needed, not {plain!r}", where=place, fix="choose an option of the group"
        )
    errors = target_errors(plain, allow, place)
    if errors:
        raise ConfigErrors(errors)
    if "_target_" not in plain:
        raise ConfigError("this node names no class to build", where=place, fix="add the key '_target_'")
    try:
        built = instantiate(dict(plain), _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, UserError):
            raise cause from None
        if isinstance(cause, (ValueError, TypeError)):
            raise ConfigError(
                str(cause), where=f"{place} ({plain['_target_']})", fix="correct the value named"
            ) from error
        if isinstance(cause, Exception):
            raise cause from error
        raise
    if expected is not None and not plain.get("_partial_") and not isinstance(built, expected):
        raise ConfigError(
            f"{plain['_target_']} is a {type(built).__name__}, and a {expected.__name__} is needed",
            where=place,
            fix="choose another option of the group",
        )
    return built


def target_errors(node: Mapping[str, Any], allow: Sequence[str] = (), place: str = "") -> list[ConfigError]:
    """Everything wrong with the ``_target_`` nodes of a plain tree.

    Imports the classes named, but only if no target of the tree is refused; calls none of them.
    """
    # A fixed order of checks: names first, over the whole tree, so that nothing is imported beside a refused target.
    nodes = [(inner, found) for inner, found in walk(node, place)]
    errors: list[ConfigError] = []
    for inner, found in nodes:
        key = misspelt_target(found)
        if key is not None:
            errors.append(
                ConfigError(
                    f"the key {key!r} looks like a misspelt '_target_'",
                    where=inner,
                    fix=f"rename {key!r} to '_target_'",
                )
            )
        if "_args_" in found:
            errors.append(ConfigError("'_args_' is not used here", where=inner, fix="give arguments by name"))
    for inner, found in nodes:
        if "_target_" in found:
            refused = refusal(found["_target_"], inner, allow)
            if refused is not None:
                errors.append(refused)
    if errors:
        return errors
    for inner, found in nodes:
        if "_target_" not in found:
            continue
        try:
            component = resolve(str(found["_target_"]), inner, allow)
        except ConfigError as error:
            errors.append(error)
            continue
        errors.extend(binding_errors(component, found, inner))
    return errors
