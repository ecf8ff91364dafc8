"""What has been tampered with is refused, and a bundle names no code."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from meld.bundle.components import KNOWN, describe, make
from meld.bundle.manifest import MANIFEST, read_manifest, write_manifest
from meld.errors import UserError


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A folder with one file of some kinds."""
    folder = tmp_path / "bundle"
    (folder / "encoder").mkdir(parents=True)
    (folder / "encoder" / "modules.json").write_text(
        json.dumps([{"type": "sentence_transformers.models.Transformer", "path": ""}])
    )
    (folder / "card.json").write_text("{}")
    write_manifest(folder, {"units": {}})
    return folder


def _edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    change(content)
    (folder / MANIFEST).write_text(json.dumps(content))


def _relabel(folder: Path, name: str, content: bytes) -> None:
    """A file of the attacker's, listed with the right checksum."""
    import hashlib

    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    _edit(folder, lambda c: c["files"].update({name: hashlib.sha256(content).hexdigest()}))


def test_an_untouched_bundle_is_read(bundle: Path) -> None:
    content = read_manifest(bundle)
    assert sorted(content["files"]) == ["card.json", "encoder/modules.json"]
    assert "torch" in content["versions"]


@pytest.mark.parametrize(
    ("tamper", "words"),
    [
        (lambda b: (b / "card.json").write_text("{ }"), "checksum"),
        (lambda b: (b / "card.json").unlink(), "missing"),
        (lambda b: (b / "more.json").write_text("{}"), "does not belong"),
        (lambda b: _edit(b, lambda c: c["files"].update({"../x.json": "0"})), "outside"),
        (lambda b: _edit(b, lambda c: c["files"].update({"/etc/passwd": "0"})), "outside"),
        (lambda b: _edit(b, lambda c: c["files"].update({"a/../b.json": "0"})), "outside"),
        (lambda b: _edit(b, lambda c: c["files"].update({"..\\x.json": "0"})), "outside"),
        (lambda b: (b / "link.json").symlink_to(b / "card.json"), "link"),
        (lambda b: (b / "folder").symlink_to(b.parent), "link"),
        (lambda b: _relabel(b, "model.pkl", pickle.dumps({})), "pickles"),
        (lambda b: _relabel(b, "innocent.json", pickle.dumps({})), "pickles"),
        (lambda b: _relabel(b, "pytorch_model.bin", b"x"), "pickles"),
        (lambda b: _relabel(b, "code.py", b"x = 1"), "pickles"),
        (lambda b: _relabel(b, "x.safetensors", b"not at all what it says"), "safetensors"),
        (lambda b: _relabel(b, "x.parquet", b"nor is this"), "Parquet"),
        (lambda b: _relabel(b, "x.parquet", b"PAR1garbage"), "x.parquet is damaged"),
        (lambda b: _relabel(b, "x.safetensors", b"\x10\0\0\0\0\0\0\0{garbage"), "x.safetensors is damaged"),
        (lambda b: _relabel(b, "adapters/adapter_config.json", b"[]"), "does not describe an adapter"),
        (lambda b: _edit(b, lambda c: c.update({"_target_": "os.system"})), "manifest.json asks for code: _target_"),
        (lambda b: _edit(b, lambda c: c.update({"parts": {"x": {"_target_": "os.system"}}})), "asks for code"),
        (lambda b: _edit(b, lambda c: c.update({"more": 1})), "'more', which belongs to no bundle"),
        (lambda b: _relabel(b, "encoder/modules.json", b'[{"type": "os.system", "path": ""}]'), "os.system"),
        (lambda b: _relabel(b, "encoder/modules.json", b'[{"type": "sentence_transformers.Do", "path": ""}]'), "Do"),
        (
            lambda b: _relabel(
                b, "encoder/modules.json", b'[{"type": "sentence_transformers.models.Pooling", "path": "../x"}]'
            ),
            "outside",
        ),
        (lambda b: _relabel(b, "encoder/modules.json", b'{"type": 1}'), "describe"),
        (lambda b: _relabel(b, "encoder/config.json", b'{"auto_map": {"AutoModel": "evil/repo--x.Y"}}'), "auto_map"),
        (lambda b: _relabel(b, "encoder/config.json", b'{"a": [{"trust_remote_code": true}]}'), "trust_remote_code"),
        (lambda b: _relabel(b, "router/head.json", b'{"head": {"_target_": "os.system"}}'), "_target_"),
        (lambda b: _relabel(b, "router/head.json", b"{"), "not JSON"),
        (lambda b: _relabel(b, "router/head.json", b"[" * 100_000), "not JSON"),
        (lambda b: _relabel(b, "model.safetensors", b"PK\x03\x04 a zip archive of pickles"), "pickles"),
        (lambda b: _edit(b, lambda c: c["units"].update({"../../etc": {}})), "names a path"),
        (lambda b: _edit(b, lambda c: c.update({"experts": ["/etc"]})), "names a path"),
        (lambda b: _edit(b, lambda c: c.update({"registered": ["..\\x"]})), "names a path"),
        (lambda b: _edit(b, lambda c: c.update({"units": ["."]})), "names a path"),
        (lambda b: _edit(b, lambda c: c.update({"files": ["card.json"]})), "lists no files"),
        (lambda b: _edit(b, lambda c: c.update({"units": 7})), "lists no units"),
        (lambda b: _edit(b, lambda c: c.update({"format": 99})), "format"),
        (lambda b: (b / MANIFEST).write_text("]"), "not JSON"),
        (lambda b: (b / MANIFEST).write_text("[" * 100_000), "not JSON"),
        (lambda b: ((b / MANIFEST).rename(b.parent / "m"), (b / MANIFEST).symlink_to(b.parent / "m")), "is a link"),
        (lambda b: os.mkfifo(b / "pipe.json"), "not a plain file"),
        (lambda b: (b / MANIFEST).unlink(), "no bundle"),
    ],
)
def test_a_tampered_bundle_is_refused(bundle: Path, tamper: Callable[[Path], object], words: str) -> None:
    tamper(bundle)
    with pytest.raises(UserError, match=words):
        read_manifest(bundle)


def test_a_component_is_an_option_and_plain_arguments() -> None:
    node = {"_target_": KNOWN["mixer"]["cat"], "k": 2, "gate_levels": 20}
    spec = describe("mixer", node)
    assert spec == {"option": "cat", "arguments": {"k": 2, "gate_levels": 20}}
    assert make("mixer", json.loads(json.dumps(spec))).k == 2
    with pytest.raises(UserError, match="own components"):
        describe("mixer", {"_target_": "my_package.Mixer"})


@pytest.mark.parametrize(
    "spec",
    [
        {"option": "os.system", "arguments": {}},
        {"_target_": "os.system", "arguments": {}},
        {"option": "cat", "arguments": {"k": {"_target_": "os.system"}}},
        {"option": "cat", "arguments": {"_target_": "os.system", "k": 1}},
        {"option": "cat", "arguments": {}},
        {"option": ["cat"], "arguments": {"k": 1}},
        "cat",
    ],
)
def test_a_bundle_cannot_name_a_class_of_its_own(spec: object) -> None:
    with pytest.raises(UserError):
        make("mixer", spec)


@pytest.mark.parametrize("kind", KNOWN)
def test_every_option_can_be_named_by_a_bundle(kind: str) -> None:
    """A new option has to be entered in the table, and a removed one taken out.

    A bundle must not name the address to which this machine's key would be sent: engine=openai is left out.
    """
    shipped = files("meld.conf") / kind
    targets = {yaml.safe_load(file.read_text())["_target_"] for file in shipped.iterdir() if file.name != "__init__.py"}
    assert set(KNOWN[kind].values()) == targets - {"meld.engine.openai.OpenAIEngine"}


def test_a_bundle_names_neither_an_endpoint_nor_a_place_on_this_machine(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="only name MELD's own components"):
        describe("engine", {"_target_": "meld.engine.openai.OpenAIEngine", "model": "m", "url": "http://elsewhere/v1"})
    with pytest.raises(UserError, match="unknown option 'openai'"):
        make("engine", {"option": "openai", "arguments": {"model": "m"}})
    node = {"_target_": "meld.engine.vllm.VllmEngine", "max_loras": 2, "cache": str(tmp_path / "cache")}
    record = describe("engine", node)
    assert record == {"option": "vllm", "arguments": {"max_loras": 2}}
    engine = make("engine", {"option": "vllm", "arguments": {"max_loras": 2, "cache": str(tmp_path / "cache")}})
    assert (engine.max_loras, engine.cache) == (2, None)


@pytest.mark.parametrize("kind", KNOWN)
def test_every_known_class_exists(kind: str) -> None:
    import importlib

    for target in KNOWN[kind].values():
        module, _, name = target.rpartition(".")
        assert isinstance(getattr(importlib.import_module(module), name), type)
