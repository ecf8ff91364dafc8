"""A small configuration folder: the shipped primary file and presets over made-up components."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from hydra.core.config_store import ConfigStore

from meld.config.presets import shipped

PARTS = '''
from __future__ import annotations
from typing import ClassVar

class Part:
    """Takes what the made-up options give."""
    EXECUTION_ONLY: ClassVar[frozenset[str]] = frozenset({"device"})
    def __init__(
        self, name: str = "", rank: int = 8, max_lora_rank: int = 64, device: str = "cpu", inner: Other | None = None
    ):
        self.name, self.rank, self.inner = name, rank, inner
        if rank < 1:
            raise ValueError("rank must be at least 1")

class Task:
    def __init__(self, solver: str = "llm"):
        self.solver = solver

class Data:
    def __init__(self, tasks: list[str], root: str = ""):
        self.tasks, self.root = tasks, root

class Other:
    def __init__(self, sizes: list[int] | None = None):
        self.sizes = sizes

import shutil
'''

OPTIONS = {
    "serializer": ["json_dict"],
    "encoder": ["minilm", "bge_large"],
    "retriever": ["dense"],
    "annotator": ["self"],
    "backbone": ["minilm", "mistral_7b", "qwen2_5_0_5b"],
    "expert": ["lora"],
    "metapath": ["greedy"],
    "selector": ["none", "meld_ds"],
    "refine": ["iterative", "mixture"],
    "router": ["contrastive"],
    "mixer": ["cat", "svd"],
    "engine": ["stacked", "hf"],
    "trainer": ["cpu", "gpu"],
    "logger": ["csv", "wandb"],
}


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the package ``toy`` on the import path and a full ``conf/`` of options made of it.

    Tasks: blk, ed and el are solved by the encoder, the others by the language model.
    """
    package = tmp_path / "toy"
    package.mkdir()
    (package / "__init__.py").touch()
    for module in ("parts", "cat"):
        (package / f"{module}.py").write_text(PARTS + f"\nPart.NAME = {module!r}\n")
    conf = tmp_path / "conf"
    conf.mkdir()
    for name in ("meld.yaml", "method", "scale", "transfer", "variant"):
        source = shipped("conf") / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, conf / name)
    text = (conf / "meld.yaml").read_text()
    (conf / "meld.yaml").write_text(text.replace("allow: []", "allow: [toy]"))
    # The shipped laptop scale is tuned to its model; what it says is no matter of composition.
    write(conf / "scale" / "cpu.yaml", {"n_demos": 1, "sigma": 2}, header="# @package _global_\n")
    for group, options in OPTIONS.items():
        for option in options:
            module = "cat" if option == "cat" else "parts"
            write(conf / group / f"{option}.yaml", {"_target_": f"toy.{module}.Part", "name": option})
    write(conf / "expert" / "lora.yaml", {"_target_": "toy.parts.Part", "rank": 8})
    write(conf / "engine" / "stacked.yaml", {"_target_": "toy.parts.Part", "max_lora_rank": 64})
    for task in ("em", "di", "dc", "cta", "re", "sm", "ave"):
        write(conf / "task" / f"{task}.yaml", {"_target_": "toy.parts.Task"})
    for task in ("blk", "ed", "el"):
        write(conf / "task" / f"{task}.yaml", {"_target_": "toy.parts.Task", "solver": "encoder"})
    for data, tasks in (("shop", ["em", "blk"]), ("people", ["di"]), ("clinic", ["ed", "dc"])):
        write(
            conf / "dataset" / f"{data}.yaml", {"_target_": "toy.parts.Data", "tasks": tasks, "root": "${paths.data}"}
        )
    for suite, datasets in (("quickstart", ["shop", "people", "clinic"]), ("pairs", ["shop"])):
        defaults = [{f"/dataset@datasets.{name}": name} for name in datasets]
        write(conf / "suite" / f"{suite}.yaml", {"defaults": defaults}, header="# @package _global_\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("MELD_DATA", raising=False)
    for name in [name for name in sys.modules if name == "toy" or name.startswith("toy.")]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


@pytest.fixture
def presets(toy: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """A function that writes an experiment (or sweep) preset where the program looks for shipped ones."""
    for folder in ("experiments", "sweeps"):
        (toy / folder).mkdir()
    monkeypatch.setattr("meld.config.presets.shipped", lambda folder: toy / folder)
    store = ConfigStore.instance()
    before = {group: dict(store.repo.get(group, {})) for group in ("experiment", "sweep")}

    def preset(name: str, content: dict[str, object] | str, folder: str = "experiments") -> Path:
        file = toy / folder / f"{name}.yaml"
        file.write_text(content if isinstance(content, str) else "# meld experiment=x\n" + yaml.safe_dump(content))
        return file

    yield preset
    store.repo.update(before)


def write(file: Path, content: dict[str, object], header: str = "") -> None:
    """Write one YAML file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(header + yaml.safe_dump(content, sort_keys=False))
