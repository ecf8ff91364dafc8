"""``manifest.json``: what a bundle says of itself, and the check that its files are those that were written.

A bundle may come from anywhere, so that nothing in it is trusted: every file is listed with its checksum, only text,
JSON, Parquet, safetensors and templates are let in, and nothing is read through a link or from outside the folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from importlib.metadata import distributions
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open

from meld.errors import UserError

MANIFEST = "manifest.json"
FORMAT = 1
SUFFIXES = frozenset({".json", ".safetensors", ".parquet", ".j2", ".txt"})
"""What a bundle may hold; all of it is data."""

_PACKAGES = ("meld-dp", "torch", "transformers", "peft", "sentence-transformers", "safetensors", "pyarrow")
_PICKLE = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")
_ENCODER_MODULES = frozenset({"Transformer", "Pooling", "Normalize"})
"""Modules of sentence-transformers that read nothing but numbers from their configuration."""

_CODE_KEYS = frozenset({"auto_map", "trust_remote_code", "custom_pipelines", "_target_"})
"""Keys of a JSON file that name code to be run."""

_SAYS = frozenset(
    {"base", "exclude", "experts", "files", "format", "parts", "registered", "rules", "tasks", "units", "versions"}
)
"""What a manifest says (:func:`meld.bundle.export.export_run`)."""

_NAME = re.compile(r"[^./\\:\x00][^/\\:\x00]*")


def versions() -> dict[str, str]:
    """Versions of the packages that answers depend on, as far as they are installed."""
    installed = {d.metadata["Name"]: d.version for d in distributions() if d.metadata["Name"] in _PACKAGES}
    return dict(sorted(installed.items()))


def write_manifest(folder: Path, content: Mapping[str, Any]) -> None:
    """Write the manifest of a finished folder: ``content``, the format, versions and the checksum of every file.

    Raises:
        UserError: If the folder holds something that no bundle may hold.
    """
    files = _files(folder)
    for name in files:
        _check_kind(folder, name)
    whole = {
        **content,
        "format": FORMAT,
        "versions": versions(),
        "files": {name: sha256(folder / name) for name in files},
    }
    text = json.dumps(whole, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read and check a bundle: its files are exactly those the manifest lists, unchanged, and of harmless kinds.

    Raises:
        UserError: If there is no bundle, it is of another format, a path leaves the folder, a file is missing, was
            added or changed, is a link, or is not data.
    """
    path = folder / MANIFEST
    if not folder.is_dir() or not path.is_file():
        raise UserError(
            f"There is no bundle at {folder}.", where=str(path), fix="write one: meld export RUN DIR, then name DIR"
        )
    if path.is_symlink():
        raise _refused(folder, f"{MANIFEST} is a link")
    content = _json(folder, MANIFEST)
    if not isinstance(content, dict) or not isinstance(content.get("files"), dict):
        raise _refused(folder, f"{MANIFEST} lists no files")
    if content.get("format") != FORMAT:
        raise UserError(
            f"The bundle has format {content.get('format')!r}, and this version of meld reads format {FORMAT}.",
            where=str(path),
            fix="export the run again with the version that is installed here",
        )
    _check_no_code(folder, MANIFEST, content)
    unknown = sorted(content.keys() - _SAYS)
    if unknown:
        raise _refused(folder, f"{MANIFEST} says {unknown[0]!r}, which belongs to no bundle")
    listed = content["files"]
    for name in listed:
        path_parts = PurePosixPath(name).parts
        plain = name == "/".join(path_parts) and ".." not in path_parts
        # A backslash or a colon means another folder, or another drive, on Windows.
        if not plain or name.startswith("/") or any(mark in name for mark in "\\:"):
            raise _refused(folder, f"{MANIFEST} names a path outside the folder: {name!r}")
    found = _files(folder)
    missing, extra = sorted(set(listed) - set(found)), sorted(set(found) - set(listed))
    if missing:
        raise _refused(folder, f"{missing[0]} is missing")
    if extra:
        raise _refused(folder, f"{extra[0]} does not belong to it")
    for name in found:
        _check_kind(folder, name)
        if sha256(folder / name) != listed[name]:
            raise _refused(folder, f"{name} has been changed: its checksum is another one")
    for name in found:
        if name.endswith("/modules.json"):
            _check_encoder(folder, name)
        elif name.endswith(".json"):
            said = _json(folder, name)
            if name.endswith("/adapter_config.json") and not isinstance(said, dict):
                raise _refused(folder, f"{name} does not describe an adapter")
            _check_no_code(folder, name, said)
    _check_names(folder, content)
    return content


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _files(folder: Path) -> list[str]:
    """Every file below a folder but its manifest, as relative POSIX paths, sorted.

    Raises:
        UserError: For a link, or anything else that is neither a file nor a folder.
    """
    found = []
    for place, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(place) / name
            relative = path.relative_to(folder).as_posix()
            if path.is_symlink():
                raise _refused(folder, f"{relative} is a link")
            if name in names:
                if not path.is_file():
                    raise _refused(folder, f"{relative} is not a plain file")
                if relative != MANIFEST:
                    found.append(relative)
    return sorted(found)


def _check_kind(folder: Path, name: str) -> None:
    """Refuse what is not data, by name and by what the file begins with; of safetensors and Parquet by all they say of
    themselves."""
    path = folder / name
    with path.open("rb") as stream:
        start = stream.read(16)
    if start.startswith(_PICKLE) or path.suffix.lower() not in SUFFIXES:
        raise _refused(folder, f"{name} is not one of {', '.join(sorted(SUFFIXES))}; pickles and programs are not read")
    if path.suffix == ".safetensors" and start[8:9] != b"{":
        raise _refused(folder, f"{name} is not a safetensors file")
    if path.suffix == ".parquet" and start[:4] != b"PAR1":
        raise _refused(folder, f"{name} is not a Parquet file")
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="numpy"):
                pass
        elif path.suffix == ".parquet":
            pq.read_metadata(path)
    except (SafetensorError, pa.ArrowException, OSError, ValueError) as error:
        raise _refused(folder, f"{name} is damaged ({type(error).__name__})") from error


def _check_encoder(folder: Path, name: str) -> None:
    """The layout of sentence-transformers names classes: only that library's own are let through."""
    try:
        modules = json.loads((folder / name).read_text(encoding="utf-8"))
        types = [str(module["type"]) for module in modules]
        paths = [str(module["path"]) for module in modules]
    except (ValueError, KeyError, TypeError):
        raise _refused(folder, f"{name} does not describe an encoder") from None
    foreign = [
        kind
        for kind in types
        if not kind.startswith("sentence_transformers.") or kind.rpartition(".")[2] not in _ENCODER_MODULES
    ]
    if foreign:
        raise _refused(folder, f"{name} names the class {foreign[0]}")
    if any(".." in path or path.startswith("/") for path in paths):
        raise _refused(folder, f"{name} names a path outside the folder")


def _json(folder: Path, name: str) -> Any:
    try:
        return json.loads((folder / name).read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise _refused(folder, f"{name} is not JSON") from None


def _check_no_code(folder: Path, name: str, content: object) -> None:
    """Configurations of transformers can ask for code that lies beside them, or on the hub."""
    waiting = [content]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            asked = _CODE_KEYS & node.keys()
            if asked:
                raise _refused(folder, f"{name} asks for code: {min(asked)}")
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node


def _check_names(folder: Path, content: Mapping[str, Any]) -> None:
    """Names of units and experts are names of folders, and must not lead out of the bundle."""
    for group in ("units", "experts", "registered", "exclude"):
        names = content.get(group) or ()
        if not isinstance(names, (list, dict, tuple)):
            raise _refused(folder, f"{MANIFEST} lists no {group}")
        for name in names:
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise _refused(folder, f"{MANIFEST} names a path instead of one of the {group}: {name!r}")


def _refused(folder: Path, why: str) -> UserError:
    return UserError(
        f"The bundle is refused: {why}.", where=str(folder), fix="export the run again, or copy the whole folder again"
    )
