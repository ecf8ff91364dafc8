"""The wheel carries what the program reads at run time, and an installed copy finds it from anywhere."""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
PINS = ROOT / "constraints.txt"
# What the repository holds -> where the wheel puts it.
SHIPPED = {"src/meld": "meld", "conf": "meld/conf", "experiments": "meld/experiments", "sweeps": "meld/sweeps"}
SUFFIXES = {".py", ".yaml", ".j2", ".css", ".html", ".csv", ".typed"}


def project() -> dict[str, object]:
    """The `[project]` table."""
    table: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return table


def expected_files() -> set[str]:
    """What the wheel has to hold, from what is in the working tree now."""
    found = set()
    for folder, target in SHIPPED.items():
        base = ROOT / folder
        for path in base.rglob("*"):
            inside = path.relative_to(base)
            if path.suffix in SUFFIXES and "__pycache__" not in inside.parts:
                found.add(f"{target}/{inside.as_posix()}")
    return found


def run(*command: str, cwd: Path, **env: str) -> str:
    """Standard output of a command that has to succeed, run apart from this checkout's import path."""
    clean = {key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "MELD_DATA"}}
    done = subprocess.run(command, cwd=cwd, env={**clean, **env}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built from a copy so that no stale build folder of the checkout can fill its gaps."""
    source = tmp_path_factory.mktemp("source")
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for folder in ("src", "conf", "experiments", "sweeps"):
        shutil.copytree(ROOT / folder, source / folder, ignore=ignore)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    target = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    run(*pip, "--wheel-dir", str(target), str(source), cwd=target)
    (built,) = target.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the wheel was installed, without its dependencies."""
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    run(*pip, "--target", str(target), str(wheel), cwd=target)
    return target


def test_wheel_holds_exactly_what_the_repository_ships(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if not re.match(r"[^/]*\.dist-info/", name)}
    assert expected_files() - names == set(), "missing from the wheel"
    assert names - expected_files() == set(), "in the wheel, but not in the repository"


@pytest.mark.parametrize(
    "name",
    [
        "meld/py.typed",
        "meld/__main__.py",
        "meld/conf/__init__.py",
        "meld/conf/meld.yaml",
        "meld/experiments/__init__.py",
        "meld/sweeps/__init__.py",
    ],
)
def test_wheel_holds(wheel: Path, name: str) -> None:
    assert name in zipfile.ZipFile(wheel).namelist()


def test_wheel_holds_options_and_templates(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert any(re.fullmatch(r"meld/conf/\w+/\w+\.yaml", name) for name in names)
    assert any(name.endswith(".j2") for name in names)


def test_wheel_declares_the_program_and_the_licence(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    names = archive.namelist()
    entry_points = configparser.ConfigParser()
    (path,) = (name for name in names if name.endswith(".dist-info/entry_points.txt"))
    entry_points.read_string(archive.read(path).decode())
    assert dict(entry_points["console_scripts"]) == {"meld": "meld.cli.main:main"}
    assert any(name.endswith("/LICENSE") for name in names)


FIND = """
import json
from importlib.resources import files

found = {"meld": __import__("meld").__file__}
for package in ("meld.conf", "meld.experiments", "meld.sweeps"):
    root = files(package)
    pending, names = [("", root)], []
    while pending:
        prefix, folder = pending.pop()
        for entry in folder.iterdir():
            if entry.is_dir():
                pending.append((prefix + entry.name + "/", entry))
            elif entry.name.endswith(".yaml"):
                entry.read_text(encoding="utf-8")
                names.append(prefix + entry.name)
    found[package] = sorted(names)
print(json.dumps(found))
"""


def yamls(folder: str) -> list[str]:
    """The YAML files below a folder of the repository, by relative path."""
    return sorted(path.relative_to(ROOT / folder).as_posix() for path in (ROOT / folder).rglob("*.yaml"))


def test_installed_copy_finds_its_yaml_from_anywhere(installed: Path, tmp_path: Path) -> None:
    # `-S` leaves out site-packages, and with it an editable install of this checkout that would answer instead; what
    # `import meld` itself needs is passed on by path.
    packages = os.pathsep.join([str(installed), *(path for path in sys.path if "site-packages" in path)])
    found = json.loads(run(sys.executable, "-S", "-c", FIND, cwd=tmp_path, PYTHONPATH=packages))
    assert Path(found["meld"]).is_relative_to(installed)
    for folder in ("conf", "experiments", "sweeps"):
        assert found[f"meld.{folder}"] == yamls(folder)


def test_this_environment_finds_its_yaml_from_anywhere(tmp_path: Path) -> None:
    # The environment the tests run in: an editable install for developers.
    found = json.loads(run(sys.executable, "-c", FIND, cwd=tmp_path))
    for folder in ("conf", "experiments", "sweeps"):
        assert found[f"meld.{folder}"] == yamls(folder)


def pins() -> list[str]:
    """The lines of constraints.txt that pin something."""
    lines = (line.partition("#")[0].strip() for line in PINS.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


def test_pins_are_plain_versions() -> None:
    # No hosts, paths or options, no local versions (`+cpu`), no CUDA packages; a marker may follow.
    for pin in pins():
        assert re.fullmatch(r"[a-z0-9][a-z0-9._-]*==[0-9][A-Za-z0-9.]*( ; .+)?", pin), pin
        assert not re.match(r"nvidia-|cuda-|triton", pin), pin
    assert pins()[0].startswith("torch=="), "torch comes first: it decides which build everything else gets"


def test_every_dependency_is_pinned_within_its_bounds() -> None:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    table = project()
    extras = table["optional-dependencies"]
    assert isinstance(extras, dict)
    needs = [*table["dependencies"], *extras["dev"], *extras["tensorboard"], *extras["sweep"]]  # type: ignore[misc]
    for python in ("3.10", "3.11", "3.12", "3.13"):
        environment = {"python_version": python, "python_full_version": f"{python}.9"}
        pinned: dict[str, str] = {}
        for line in pins():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate(environment):
                (version,) = requirement.specifier
                name = canonicalize_name(requirement.name)
                assert name not in pinned, f"{name} is pinned twice for Python {python}"
                pinned[name] = version.version
        for need in map(Requirement, needs):
            version = pinned.get(canonicalize_name(need.name))
            assert version is not None, f"{need.name} is not pinned for Python {python}"
            assert need.specifier.contains(version), f"{need} excludes the pin {version} for Python {python}"
