"""Every experiment and sweep: the first line is its command, it composes at both scales, its whole grid is valid."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from meld.cli.sweeps import arrange
from meld.config.compose import load_config
from meld.config.presets import register_presets, shipped
from meld.config.validate import validate
from meld.report.paper import row_name
from meld.report.published import published_files, read_published

PRESETS = register_presets()
TABLES = (
    "tab1_main", "tab2_selection", "tab3_selection_cost", "tab4_selection_ablation", "tab5_batch_size", "tab6_transfer",
    "tab7_ablation", "fig2_tsne", "fig6_efficiency", "fig7_ratio", "fig8_num_experts", "fig10_heatmap", "ext_gpt4",
    "ext_backbone",
    "ext_objective",
)  # fmt: skip
SCALES = ("cpu", "paper")
SWEEPS = sorted(PRESETS["sweep"])
LAUNCHERS = {
    "joblib": "hydra_joblib_launcher",
    "slurm": "hydra_submitit_launcher",
    "submitit_local": "hydra_submitit_launcher",
}
# What a sweep sweeps may need a method that has it.
METHODS = {"B": "meld_ds", "c": "meld_ds", "k_c": "meld_ds", "selector": "meld_ds", "metrics": "meld_ds"}


def test_every_table_and_figure_has_a_preset() -> None:
    assert sorted(PRESETS["experiment"]) == sorted(TABLES)


@pytest.mark.parametrize("name", [*PRESETS["experiment"], *PRESETS["sweep"]])
def test_the_first_line_is_the_command(name: str) -> None:
    group = "experiment" if name in PRESETS["experiment"] else "sweep"
    lines = PRESETS[group][name].read_text(encoding="utf-8").splitlines()
    words = shlex.split(lines[0].removeprefix("# "))
    assert words[0] == "meld"
    assert lines[1].startswith("# ")
    assert any(word in (f"{group}={name}", f"sweep=[seeds,{name}]") for word in words)


def _grid(group: str, name: str, scale: str) -> dict[str, list[str]]:
    """A preset's grid as its file says: composing all of them would make every collection of tests slow."""
    content = yaml.safe_load(PRESETS[group][name].read_text(encoding="utf-8"))
    params = dict(content["hydra"].get("sweeper", {}).get("params", {}))
    params |= content.get("paper", {}).get("by_scale", {}).get(scale, {})
    overrides = OverridesParser.create().parse_overrides([f"{key}={value}" for key, value in params.items()])
    return {
        str(o.get_key_element()): list(o.sweep_string_iterator()) if o.is_sweep_override() else [str(o.value())]
        for o in overrides
    }


def _cases() -> Iterator[tuple[str, ...]]:
    """The first job of every preset at both scales, and once every other value that a preset sweeps over."""
    presets = [("experiment", name, scale) for name in TABLES for scale in SCALES]
    presets += [("sweep", name, "cpu") for name in SWEEPS]
    seen: set[tuple[str, ...]] = set()
    for group, name, scale in presets:
        grid = _grid(group, name, scale)
        first = {key: values[0] for key, values in grid.items()}
        fixed = [f"{group}={name}", f"scale={scale}"]
        fixed += [f"method={METHODS[name]}"] if group == "sweep" and name in METHODS else []
        yield (*fixed, *(f"{key}={value}" for key, value in first.items()))
        for key, values in grid.items():
            for value in values[1:]:
                if (key, value) not in seen:
                    seen.add((key, value))
                    yield (*fixed, *(f"{k}={v}" for k, v in {**first, key: value}.items()))


def _lacking(words: tuple[str, ...]) -> str:
    """The option or plugin that this installation lacks for a command; empty for none."""
    for word in words:
        key, _, value = word.partition("=")
        if key == "sweep" and value in LAUNCHERS and find_spec(f"hydra_plugins.{LAUNCHERS[value]}") is None:
            return f"the launcher of {word}"
        folder = shipped("conf") / key
        if folder.is_dir() and value and not (folder / f"{value}.yaml").is_file():
            return f"the option {word}"
    return ""


@pytest.mark.parametrize("words", list(_cases()), ids=" ".join)
def test_every_value_of_every_grid_is_valid(words: tuple[str, ...]) -> None:
    lacking = _lacking(words)
    if lacking:
        pytest.skip(f"needs {lacking}")
    validate(load_config([*words, "paths.data=data"]))


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("scale", SCALES)
def test_rows_are_labelled_and_the_reference_is_one_of_them(name: str, scale: str) -> None:
    record = arrange([f"experiment={name}", f"scale={scale}"], "").record
    assert record is not None
    assert record.paper["title"]
    keys = list(record.grid)
    first = row_name({key: record.grid[key][0] for key in keys}, record)
    reference = record.paper["reference"] or first
    if "," in str(reference) and len(record.rows) > 1:
        made = dict(zip(record.rows, str(reference).split(","), strict=True))
        assert all(value in record.grid[key] for key, value in made.items())
    elif record.rows:
        assert any(reference in record.grid[key] for key in record.rows) or first == reference
    else:
        assert first == reference


@pytest.mark.parametrize("path", published_files(), ids=lambda path: path.stem)
def test_published_numbers_belong_to_a_preset_and_to_known_datasets(path: Path) -> None:
    numbers = read_published(path.stem)
    record = arrange([f"experiment={path.stem}"], "").record
    assert record is not None
    assert record.paper["table"] == path.stem
    labelled = set(record.paper["labels"])
    datasets = {option.stem for option in (shipped("conf") / "dataset").glob("*.yaml")}
    for number in numbers:
        assert number.paper in {"journal", "conference"}
        assert number.source
        assert set(number.datasets) <= datasets
        assert number.row in labelled
        assert number.value >= 0
        assert number.metric.endswith(("_s", "_gb")) or number.value <= 100
    unique = {(n.paper, n.source, n.task, n.datasets, n.metric, n.row) for n in numbers}
    assert len(unique) == len(numbers)


@pytest.mark.parametrize(
    ("table", "paper", "dataset", "task", "metric", "row", "value"),
    [
        ("tab1_main", "journal", "semtab19", "cta", "macro_f1", "llm", 56.65),
        ("tab1_main", "conference", "turl_re", "re", "micro_f1", "full", 89.30),
        ("tab1_main", "journal", "wdc_all", "blk", "recall@1", "non_llm", 1.70),
        ("tab2_selection", "journal", "amazon_google", "em", "f1", "superfilter", 0.85),
        ("tab2_selection", "journal", "beers", "dc", "selected_share", "meld_ds", 34.64),
        ("tab4_selection_ablation", "journal", "rayyan", "dc", "f1", "[diversity,quality]", 84.79),
        ("tab5_batch_size", "journal", "amazon_google", "em", "select_s", "16", 126),
        ("tab6_transfer", "journal", "webtables", "cta", "micro_f1", "cross_task", 88.95),
        ("tab7_ablation", "journal", "walmart_amazon", "em", "f1", "wo_metapath", 79.55),
        ("tab7_ablation", "journal", "abt_buy", "em", "f1", "full", 91.12),
        ("ext_gpt4", "conference", "synthea", "sm", "f1", "gpt4", 66.67),
    ],
)
def test_published_numbers_are_those_of_the_papers(
    table: str, paper: str, dataset: str, task: str, metric: str, row: str, value: float
) -> None:
    (found,) = (
        n.value
        for n in read_published(table)
        if (n.paper, n.task, n.metric, n.row) == (paper, task, metric, row) and dataset in n.datasets
    )
    assert found == value


def test_costs_are_in_seconds_and_gigabytes() -> None:
    found = {(n.row, n.metric): n.value for n in read_published("tab3_selection_cost")}
    assert found["less", "gradient_gb"] == 0.7
    assert found["less", "total_s"] == 27503
    assert found["meld_ds (2 GPUs)", "select_s"] == 217
