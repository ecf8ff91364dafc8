"""The YAML options of datasets and suites: complete, described, and bound to their classes."""

from __future__ import annotations

import inspect
from pathlib import Path

import hydra.utils
import pytest
from omegaconf import OmegaConf

from meld.dataset.base import Dataset
from meld.errors import DataError

CONF = Path(__file__).parents[2] / "conf"
OPTIONS = sorted((CONF / "dataset").glob("*.yaml"))
PUBLISHED = [path for path in OPTIONS if not path.stem.startswith(("quickstart", "csv_"))]
SUITES = sorted((CONF / "suite").glob("*.yaml"))


def build(path: Path, data: str | None) -> Dataset:
    """Resolve an option as the root config would, and build it."""
    config = OmegaConf.create({"paths": {"data": data}, "data_seed": 3, "it": OmegaConf.load(path)})
    component = hydra.utils.instantiate(config.it, _convert_="all")
    assert isinstance(component, Dataset)
    return component


@pytest.mark.parametrize("path", OPTIONS, ids=lambda path: path.stem)
def test_options_name_every_argument(path: Path) -> None:
    assert path.read_text().startswith("# ")
    component = build(path, None)
    assert component.name == path.stem
    assert component.data_seed == 3  # type: ignore[attr-defined]
    given = set(OmegaConf.load(path)) - {"_target_"}
    assert given == set(inspect.signature(type(component)).parameters)
    assert set(type(component).EXECUTION_ONLY) < given  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_without_a_data_folder_the_remedy_is_said(path: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"paths\.data=FOLDER; the files come from https://"):
        build(path, None).files()
    with pytest.raises(DataError, match="does not exist"):
        build(path, str(tmp_path)).load()


@pytest.mark.data
@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_options_read_the_published_files(path: Path, real_data: str) -> None:
    component = build(path, real_data)
    try:
        component.files()
    except DataError as error:
        pytest.skip(error.what)
    source = component.load()
    for data in source.units.values():
        assert data.train
        assert data.dev
        assert data.test
        # Schema matching is fully labelled in the papers, so nothing is left for a pool.
        assert data.pool or data.task == "sm"


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_suites_name_existing_options(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert lines[0] == "# @package _global_"
    assert lines[1].startswith("# ")
    for entry in OmegaConf.load(path).get("defaults", ()):
        if isinstance(entry, str):  # another suite, whole
            assert (CONF / "suite" / f"{entry}.yaml").is_file()
            continue
        ((group, option),) = entry.items()
        assert group == f"/dataset@datasets.{option}"
        assert (CONF / "dataset" / f"{option}.yaml").is_file()
