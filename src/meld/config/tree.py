"""A composed configuration as plain data: resolved, without secrets, and as the hash that identifies a run."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, MissingMandatoryValue, OmegaConfBaseException

from meld.config.targets import resolve
from meld.errors import ConfigError

EXECUTION_KEYS = frozenset(
    {"paths", "logger", "trainer", "until", "force", "dry_run", "paper", "allow", "hydra", "experiment", "sweep"}
)
"""Top-level keys that say where and how a run executes, not what it computes."""

HIDDEN = "***"

_SECRET_KEY = re.compile(r"(^|[_.-])(token|secret|secrets|password|passwd|api_?key)($|[_.-])", re.IGNORECASE)
_ENV = re.compile(r"\$\{\s*oc\.env\s*:")


def plain(cfg: Mapping[str, Any] | DictConfig) -> dict[str, Any]:
    """The configuration as plain dicts and lists, every interpolation resolved.

    Raises:
        ConfigError: If a mandatory value is missing or an interpolation leads nowhere.
    """
    if not isinstance(cfg, DictConfig):
        return dict(cfg)
    try:
        found = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        key = str(error.full_key or error.key or "")
        raise ConfigError("a value is missing", where=key, fix=f"{key}=VALUE") from error
    except InterpolationResolutionError as error:
        raise ConfigError(
            str(error).splitlines()[0],
            where=str(error.full_key or ""),
            fix="correct the name between ${ and }, or set the environment variable it reads",
        ) from error
    except OmegaConfBaseException as error:
        raise ConfigError(
            str(error).splitlines()[0], where=str(error.full_key or ""), fix="correct the value"
        ) from error
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}


def redact(cfg: DictConfig) -> dict[str, Any]:
    """The resolved configuration with every secret replaced by ``***``: what may be written, logged or sent.

    Secret are texts that come from the environment (``${oc.env:...}``), texts below a key like ``token``, ``secret``,
    ``password`` or ``api_key``, and every text that interpolates one of those. Folders below ``paths`` are no secrets,
    even if the environment names
    them: without them nobody can tell what a run has read.

    Raises:
        ConfigError: As ``plain``.
    """
    found = plain(cfg)
    secrets: set[str] = set()
    for keys, raw in _leaves(cfg):
        value = _get(found, keys)
        from_env = isinstance(raw, str) and _ENV.search(raw) is not None and keys[0] != "paths"
        if isinstance(value, str) and value and (from_env or any(_SECRET_KEY.search(str(key)) for key in keys)):
            secrets.add(value)
    for keys, raw in _leaves(cfg):
        value = _get(found, keys)
        if isinstance(raw, str) and "${" in raw:
            _set(found, keys, _hide(value, secrets, anywhere=keys[0] != "paths"))
        elif any(_SECRET_KEY.search(str(key)) for key in keys):
            _set(found, keys, _hide(value, secrets, anywhere=True))
    return found


def config_hash(tree: Mapping[str, Any]) -> str:
    """16 hexadecimal digits that identify what a run computes.

    Left out are the keys in ``EXECUTION_KEYS`` and, in every component, the arguments its class declares
    ``EXECUTION_ONLY``.

    Args:
        tree: The plain configuration, valid. Redacted or not gives different hashes if a secret identifies something;
            use ``plain``.
    """
    allow = tuple(str(name) for name in tree.get("allow") or ())
    identity = {key: _identity(value, allow) for key, value in tree.items() if key not in EXECUTION_KEYS}
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:16]


def _identity(node: object, allow: tuple[str, ...]) -> object:
    if isinstance(node, (list, tuple)):
        return [_identity(value, allow) for value in node]
    if not isinstance(node, Mapping):
        return node
    ignored: frozenset[str] = frozenset()
    if "_target_" in node:
        ignored = getattr(resolve(str(node["_target_"]), "", allow), "EXECUTION_ONLY", ignored)
    return {key: _identity(value, allow) for key, value in node.items() if key not in ignored}


def _leaves(node: DictConfig | ListConfig, above: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], object]]:
    """Key path and unresolved content of everything that holds no nodes itself; an interpolated node counts as one."""
    children = (
        ((key, node._get_node(key)) for key in node)
        if isinstance(node, DictConfig)
        else ((index, node._get_node(index)) for index in range(len(node)))
    )
    for key, child in children:
        if isinstance(child, (DictConfig, ListConfig)) and not child._is_interpolation() and not child._is_none():
            yield from _leaves(child, (*above, key))
        else:
            yield (*above, key), child._value() if child is not None and not isinstance(child, list) else None


def _hide(value: object, secrets: set[str], *, anywhere: bool) -> object:
    if isinstance(value, str):
        return HIDDEN if anywhere and any(secret in value for secret in secrets) else value
    if isinstance(value, Mapping):
        return {key: _hide(item, secrets, anywhere=anywhere) for key, item in value.items()}
    if isinstance(value, list):
        return [_hide(item, secrets, anywhere=anywhere) for item in value]
    return value


def _get(tree: Any, keys: tuple[Any, ...]) -> Any:
    for key in keys:
        tree = tree[key]
    return tree


def _set(tree: Any, keys: tuple[Any, ...], value: object) -> None:
    _get(tree, keys[:-1])[keys[-1]] = value
