"""Checking and building: every rule with its message, all errors at once, and nothing foreign imported or called."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from meld.config.build import build
from meld.config.compose import compose_config, load_config, plain
from meld.config.validate import STAGES, expert_units, units, validate
from meld.errors import ConfigError, ConfigErrors, DataError


def problems(toy: Path, *overrides: str) -> list[ConfigError]:
    """The single errors of a configuration; empty if it is valid."""
    try:
        validate(load_config(overrides, toy / "conf"))
    except ConfigErrors as error:
        return list(error.errors)
    return []


def test_the_defaults_are_valid(toy: Path) -> None:
    cfg = load_config([], toy / "conf")
    validate(cfg)
    assert units(cfg) == ("shop.em", "shop.blk", "people.di", "clinic.ed", "clinic.dc")
    assert expert_units(cfg) == ("shop.em", "people.di", "clinic.dc")


# Override(s), key path, words of the message, the override that mends it.
RULES = [
    (["k=0"], "k", "at least 1", "k=1"),
    (["k=4"], "k", "only 3: shop.em, people.di, clinic.dc", "k=3"),
    (["suite=pairs"], "k", "only 1: shop.em", "k=1"),
    (["c=0"], "c", "in (0, 1]", "c=0.3"),
    (["c=1.1"], "c", "in (0, 1]", "c=0.3"),
    (["B=0"], "B", "at least 1", "B=8"),
    (["sigma=-1"], "sigma", "at least 0", "sigma=0"),
    (["tau=0"], "tau", "above 0", "tau=0.02"),
    (["lambda1=1.9"], "lambda1", "below 2 * lambda2 = 2.0", "lambda1=2.0"),
    (["lambda2=3"], "lambda1", "below 2 * lambda2 = 6.0", "lambda1=6.0"),
    (["lambda1=-6", "lambda2=-3"], "lambda1", "at least 0", "lambda1=2"),
    (["damping=0"], "damping", "above 0", "damping=0.01"),
    (["max_path=4"], "max_path", "0, 1, 2 or 3", "max_path=3"),
    (["max_path=-1"], "max_path", "0, 1, 2 or 3", "max_path=3"),
    (["n_demos=-1"], "n_demos", "at least 0", "n_demos=0"),
    (["seed=-1"], "seed", "at least 0", "seed=0"),
    (["until=infr"], "until", "data, serialize, encode", "until=infer"),
    (["force=[encode,rout]"], "force", "'rout'", "force=route"),
    (["force=zzz"], "force", "'zzz'", "force=report"),
    (["expert.rank=32"], "engine.max_lora_rank", "rank 96 (expert.rank = 32, k = 3)", "k=2, or expert.rank=21"),
    (["mixer=svd", "expert.rank=65"], "engine.max_lora_rank", "rank 65 (expert.rank = 65)", "expert.rank=64"),
    (["transfer.name=cross_task", "suite=pairs", "k=1"], "transfer", "no expert of another task", "transfer=none"),
    (["transfer.name=cross_dataset", "suite=pairs", "k=1"], "transfer", "expert of another dataset", "transfer=none"),
    (["transfer.name=crosstask"], "transfer.name", "none, cross_dataset, cross_task", "transfer=cross_task"),
    (["paper.figure=lines"], "paper.figure", "bars, line, heatmap", "paper.figure=line"),
    (["logger.name=wandbb"], "logger.name", "csv, tensorboard, wandb", "logger=wandb"),
    (["~datasets"], "datasets", "no dataset", "suite=quickstart"),
    (["datasets.shop.tasks=[]"], "datasets.shop.tasks", "lists no tasks", "datasets.shop.tasks=[em]"),
    (["datasets.shop.tasks=[em,bkl]"], "datasets.shop.tasks", "'bkl'; the tasks are em", "=[blk], or +task@tasks.bkl"),
    (["proxy=minilm"], "proxy", "not the content of an option", "backbone@proxy=minilm"),
    (["+zz=1"], "zz", "no key 'zz'", "remove it"),
    (["+encodr=1"], "encodr", "no key 'encodr'", "did you mean encoder?"),
    (["~k"], "k", "missing", "k=..."),
    (["paths.store=''"], "paths.store", "empty", "paths.store=FOLDER"),
    (["+expert.rnak=4", "~expert.rank"], "expert.rnak", "takes no argument 'rnak'", "did you mean expert.rank?"),
    (["~datasets.people.tasks"], "datasets.people", "needs the argument 'tasks'", "+datasets.people.tasks=VALUE"),
    (["expert._target_=os.system"], "expert._target_", "os.system", "allow=[os]"),
    (["expert._target_=toy.parts.Prat"], "expert._target_", "no class Prat", "toy.parts.Part?"),
    (["expert._target_=toy.prts.Part"], "expert._target_", "cannot import toy.prts", "correct the module"),
    (["expert._target_=toy.parts.shutil.rmtree"], "expert._target_", "cannot import", "correct the module"),
    (["expert._target_=toy.parts.shutil"], "expert._target_", "not a class defined in", "where it is defined"),
    (["expert._target_=7"], "expert._target_", "names no class", "package.module.Class"),
    (["expert._target_='toy.parts.Part()'"], "expert._target_", "names no class", "package.module.Class"),
    (["+expert._args_=[1]"], "expert", "'_args_'", "by name"),
    (["+expert.inner.sizes=[1]"], "expert.inner", "expects an object as 'inner'", "add the key '_target_'"),
    (["+expert.inner._taget_=toy.parts.Other"], "expert.inner", "looks like a misspelt '_target_'", "rename '_taget_'"),
    (["~expert._target_"], "expert", "names no class", "expert=OPTION"),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "where", "what", "fix"), RULES, ids=[" ".join(rule[0]) for rule in RULES])
def test_each_rule(toy: Path, overrides: list[str], where: str, what: str, fix: str) -> None:
    found = [error for error in problems(toy, *overrides) if error.where == where and what in error.what]
    assert found, [str(error) for error in problems(toy, *overrides)]
    assert fix in found[0].fix


@pytest.mark.parametrize(
    "overrides",
    [
        ["c=1"], ["sigma=0"], ["max_path=0"], ["n_demos=0"], ["k=1", "suite=pairs"], ["expert.rank=21"],
        ["lambda1=2", "lambda2=1"], ["mixer=svd", "expert.rank=64"], ["until=report"], ["force=data"],
        ["force=[infer,evaluate]"], ["transfer.name=cross_task"], ["datasets.shop.tasks=[blk]", "k=2"],
    ],
)  # fmt: skip
def test_what_lies_on_the_boundary_is_valid(toy: Path, overrides: list[str]) -> None:
    assert [str(error) for error in problems(toy, *overrides)] == []


def test_a_suite_without_experts_needs_none(toy: Path) -> None:
    assert problems(toy, "suite=pairs", "datasets.shop.tasks=[blk]", "k=3") == []


def test_all_errors_come_at_once_and_survive_pickling(toy: Path) -> None:
    with pytest.raises(ConfigErrors) as caught:
        validate(load_config(["k=0", "c=2", "+expert.rnak=1", "until=x"], toy / "conf"))
    assert len(caught.value.errors) == 4
    assert str(caught.value).startswith("4 problems in the configuration:")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_other_stages_can_be_given(toy: Path) -> None:
    cfg = load_config(["until=cook"], toy / "conf")
    validate(cfg, stages=("shop", "cook"))
    assert STAGES[0] == "data"
    assert STAGES[-1] == "report"
    with pytest.raises(ConfigErrors, match="the stages are shop, eat"):
        validate(cfg, stages=("shop", "eat"))


def test_a_slip_inside_a_preset_names_file_and_key(toy: Path, presets: Callable[..., Path]) -> None:
    file = presets("tab1", {"expert": {"rnak": 4}})
    found = compose_config(["experiment=tab1"], toy / "conf")
    with pytest.raises(ConfigErrors) as caught:
        validate(found.config, origin=found.origin)
    (error,) = caught.value.errors
    assert error.where == f"expert.rnak, set in {file}"
    assert f"toy{'/'}parts.py" in error.what
    assert "did you mean expert.rank?" in error.fix


def test_validation_builds_nothing(toy: Path) -> None:
    (toy / "toy" / "bomb.py").write_text("class Bomb:\n    def __init__(self):\n        raise SystemExit('built')\n")
    assert problems(toy, "retriever._target_=toy.bomb.Bomb", "~retriever.name") == []


def part(**arguments: Any) -> dict[str, Any]:
    return {"_target_": "toy.parts.Part", **arguments}


def test_build_converts_and_nests(toy: Path) -> None:
    node = OmegaConf.create({"n": 3, "x": part(rank="${n}", inner={"_target_": "toy.parts.Other", "sizes": [1, 2]})})
    built = build(node.x, allow=["toy"])
    assert built.rank == 3
    assert type(built.inner.sizes) is list
    partial = build(part(_partial_=True, rank=5), Mapping, allow=["toy"])
    assert partial().rank == 5


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (part(inner={"_target_": "os.system", "command": "touch {}"}), "os.system"),
        (part(inner={"deep": [{"_target_": "evil.payload.Run"}]}), "evil.payload.Run"),
        ({"_target_": "builtins.open", "file": "{}", "mode": "w"}, "builtins.open"),
        ({"_target_": "toy.parts.shutil.rmtree", "path": "{}"}, "toy.parts.shutil"),
        ({"_target_": "hydra.utils.call", "x": 1}, "hydra.utils.call"),
        ({"_target_": "meldx.Thing"}, "meldx.Thing"),
    ],
)
def test_nothing_foreign_is_imported_or_called(toy: Path, node: dict[str, Any], words: str) -> None:
    (toy / "evil").mkdir()
    (toy / "evil" / "__init__.py").touch()
    (toy / "evil" / "payload.py").write_text(f"open({str(toy / 'pwned')!r}, 'w')\nclass Run: pass\n")
    before = sorted(path.name for path in toy.iterdir())
    with pytest.raises(ConfigErrors, match=words):
        build(node, allow=["toy"])
    assert "evil.payload" not in sys.modules
    assert sorted(path.name for path in toy.iterdir()) == before


def test_a_refused_target_stops_the_import_of_allowed_ones(toy: Path) -> None:
    (toy / "toy" / "loud.py").write_text(f"open({str(toy / 'imported')!r}, 'w')\nclass Loud: pass\n")
    with pytest.raises(ConfigErrors):
        build({"_target_": "toy.loud.Loud", "x": {"_target_": "os.system"}}, allow=["toy"])
    assert not (toy / "imported").exists()


def test_a_package_is_allowed_only_by_name(toy: Path) -> None:
    with pytest.raises(ConfigErrors, match=r"allow=\[toy\]"):
        build(part())
    assert build(part(), allow=["toy"]).rank == 8


def test_build_checks_the_type(toy: Path) -> None:
    assert isinstance(build(part(), object, allow=["toy"]), object)
    with pytest.raises(ConfigError, match="is a Part, and a Path is needed") as caught:
        build(part(), Path, allow=["toy"], place="expert")
    assert caught.value.where == "expert"
    with pytest.raises(ConfigErrors, match="misspelt '_target_'"):
        build({"_taget_": "toy.parts.Part"}, allow=["toy"])
    with pytest.raises(ConfigError, match="names no class"):
        build({"rank": 3}, place="expert")
    with pytest.raises(ConfigError, match="a mapping with '_target_' is needed"):
        build("minilm", place="proxy")  # type: ignore[call-overload]


def test_what_a_constructor_refuses_names_the_key(toy: Path) -> None:
    with pytest.raises(ConfigError, match="rank must be at least 1") as caught:
        build(part(rank=0), allow=["toy"], place="expert")
    assert caught.value.where.startswith("expert")
    (toy / "toy" / "sad.py").write_text(
        "from meld.errors import DataError\n"
        "class Sad:\n    def __init__(self):\n        raise DataError('no file', where='x.csv')\n"
        "class Defect:\n    def __init__(self):\n        {}['gone']\n"
    )
    with pytest.raises(DataError, match="no file"):
        build({"_target_": "toy.sad.Sad"}, allow=["toy"])
    with pytest.raises(KeyError, match="gone"):
        build({"_target_": "toy.sad.Defect"}, allow=["toy"])


@pytest.mark.parametrize("overrides", [[], ["method=meld_ds"], ["scale=paper"], ["suite=real_small"]])
def test_the_shipped_configuration_is_valid(overrides: list[str]) -> None:
    found = compose_config(overrides)
    validate(found.config, origin=found.origin)
    assert expert_units(plain(found.config))
