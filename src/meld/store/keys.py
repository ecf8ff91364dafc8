"""What names an artifact: canonical text of plain data, digests of it, of files and of weights.

Two configurations that mean the same must give the same text, and two that differ in anything that changes a result
must not. Hence a component's arguments are bound to its signature first: a default that is written out equals one that
is not.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import os
import time
import typing
import uuid
from collections.abc import Mapping
from pathlib import Path

from hydra.utils import get_object

from meld.errors import ConfigError, DataError

DIGITS = 16
"""Length of a key in hexadecimal digits (64 bits)."""

WEIGHT_FILES = ("*.safetensors", "*.bin", "*.model", "*.json", "*.txt")
"""What belongs to a model folder: weights, tokenizer, configuration."""

_DIRECTIVES = frozenset({"_target_", "_partial_", "_convert_", "_recursive_"})
_SETTLED_NS = 2_000_000_000


def canonical(value: object) -> str:
    """Plain data as one stable line of JSON.

    Keys are sorted, tuples equal lists, floats are written by ``repr`` (the shortest text that reads back the same).

    Args:
        value: None, bool, int, finite float, str, and lists, tuples and mappings (with str keys) of them.

    Raises:
        TypeError: For anything else, naming the place. A path or an object in a key would tie it to one machine.
    """
    return json.dumps(_plain(value, "value"), sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(*parts: object) -> str:
    """The first 16 hexadecimal digits of the sha256 of the parts' canonical text.

    Raises:
        TypeError: If a part is not plain data.
    """
    return hashlib.sha256(canonical(list(parts)).encode("ascii")).hexdigest()[:DIGITS]


def component_spec(cfg: Mapping[str, object]) -> dict[str, object]:
    """What identifies the components in a configuration tree.

    Every node with a ``_target_`` is bound to the signature it names: defaults are filled in, whole numbers given to
    parameters annotated ``float`` become floats, and the arguments in the class's ``EXECUTION_ONLY`` are dropped.

    Args:
        cfg: A resolved, plain tree. Its targets are imported, so it must have passed validation.

    Returns:
        The same tree, bound; ``_target_`` stays.

    Raises:
        ConfigError: If a target cannot be imported or does not take the arguments given.
    """
    return _spec_mapping(cfg, "")


def file_digest(path: Path, cache: Path | None = None) -> str:
    """Digest of a file's content.

    Args:
        path: The file.
        cache: A folder in which digests are remembered, one small JSON file per path, valid while size and mtime stay
            the same. A file changed within the last two seconds is not remembered: the next change could leave size and
            mtime as they are.

    Raises:
        DataError: If the file cannot be read.
    """
    path = Path(path).resolve()
    try:
        before = path.stat()
        seen = {"path": str(path), "size": before.st_size, "mtime_ns": before.st_mtime_ns}
        note = None if cache is None else Path(cache) / f"{digest(str(path))}.json"
        remembered = _read_note(note, seen)
        if remembered is not None:
            return remembered
        result = _sha256(path)
    except OSError as error:
        raise DataError(
            f"cannot read the file: {error.strerror}", where=str(path), fix="check the path and its permissions"
        ) from error
    if note is not None and time.time_ns() - before.st_mtime_ns > _SETTLED_NS:
        note.parent.mkdir(parents=True, exist_ok=True)
        # One file per path and a rename: several processes can remember at once without losing each other's notes.
        fresh = note.with_name(f"{note.name}.{uuid.uuid4().hex}")
        fresh.write_text(json.dumps({**seen, "digest": result}))
        os.replace(fresh, note)
    return result


def weights_digest(folder: Path, cache: Path | None = None) -> str:
    """Digest of a model folder: names and contents of its weights, tokenizer and configuration (see ``WEIGHT_FILES``).

    Hidden files and folders are left out (download caches write there).

    Args:
        folder: A model folder, or a single file.
        cache: See ``file_digest``.

    Raises:
        DataError: If there is nothing of a model in it.
    """
    folder = Path(folder)
    if folder.is_file():
        return file_digest(folder, cache)
    files = {
        path.relative_to(folder).as_posix(): path
        for pattern in WEIGHT_FILES
        for path in folder.rglob(pattern)
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }
    if not files:
        raise DataError(
            "the folder holds no model",
            where=str(folder),
            fix=f"point to a folder with {', '.join(WEIGHT_FILES)} files",
        )
    return digest({name: file_digest(path, cache) for name, path in files.items()})


def _plain(value: object, place: str) -> object:
    if value is None or isinstance(value, (bool, str)):
        return value
    if type(value) is int:
        return value
    if type(value) is float:
        if not math.isfinite(value):
            raise TypeError(f"{place} is {value}: a key is made of finite numbers")
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{place}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, Mapping):
        for key in value:
            if type(key) is not str:
                raise TypeError(f"{place} has the key {key!r} of type {type(key).__name__}: keys are text")
        return {key: _plain(item, f"{place}.{key}") for key, item in value.items()}
    raise TypeError(f"{place} is a {type(value).__name__}: a key is made of plain data only")


def _spec(value: object, place: str) -> object:
    if isinstance(value, Mapping):
        return _spec_mapping(value, place)
    if isinstance(value, (list, tuple)):
        return [_spec(item, f"{place}[{index}]") for index, item in enumerate(value)]
    return value


def _spec_mapping(node: Mapping[str, object], place: str) -> dict[str, object]:
    if "_target_" not in node:
        return {key: _spec(value, f"{place}.{key}".lstrip(".")) for key, value in node.items()}
    target = str(node["_target_"])
    try:
        component = get_object(target)
        signature = inspect.signature(component)
        given = {key: value for key, value in node.items() if key not in _DIRECTIVES}
        partial = bool(node.get("_partial_"))
        bound = signature.bind_partial(**given) if partial else signature.bind(**given)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{target} does not fit its arguments: {error}", where=place, fix="correct the key named"
        ) from error
    bound.apply_defaults()
    arguments = dict(bound.arguments)
    for name, parameter in signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            arguments.update(arguments.pop(name, {}))
        elif parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            arguments.pop(name, None)
    hints = _hints(component)
    ignored: frozenset[str] = getattr(component, "EXECUTION_ONLY", frozenset())
    spec: dict[str, object] = {"_target_": target}
    if partial:
        spec["_partial_"] = True
    for name, value in arguments.items():
        if name in ignored:
            continue
        if hints.get(name) is float and type(value) is int:
            value = float(value)
        spec[name] = _spec(value, f"{place}.{name}".lstrip("."))
    return spec


def _hints(component: object) -> dict[str, object]:
    try:
        return typing.get_type_hints(
            vars(component).get("__init__", component) if inspect.isclass(component) else component
        )
    except (NameError, TypeError):
        # Annotations that only exist for type checkers; without them a number keeps the type it was written with.
        return {}


def _sha256(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            found.update(block)
    return found.hexdigest()[:DIGITS]


def _read_note(note: Path | None, seen: Mapping[str, object]) -> str | None:
    if note is None:
        return None
    try:
        remembered = json.loads(note.read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(remembered, dict) or any(remembered.get(name) != value for name, value in seen.items()):
        return None
    return str(remembered["digest"])
