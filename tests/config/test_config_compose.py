"""Composing: precedence, one-screen messages for slips, presets in every kind of install, secrets, and the hash."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from meld.config.compose import compose_config, config_hash, friendly, load_config, plain, redact
from meld.config.presets import register_presets, shipped
from meld.errors import ConfigError, UserError

ROOT = Path(__file__).resolve().parents[2]

Preset = Callable[..., Path]


def composed(toy: Path, *overrides: str) -> dict[str, Any]:
    return plain(load_config(overrides, toy / "conf"))


def failure(toy: Path, *overrides: str) -> UserError:
    with pytest.raises(UserError) as caught:
        plain(load_config(overrides, toy / "conf"))
    message = str(caught.value)
    assert len(message.splitlines()) <= 4
    assert len(message) < 700
    assert "Traceback" not in message
    return caught.value


def test_defaults_are_the_papers_numbers_with_the_scale_on_top(toy: Path) -> None:
    found = composed(toy)
    assert [found[key] for key in ("seed", "data_seed", "k", "B", "c", "n_demos", "sigma", "tau", "max_path")] == [
        0, 0, 3, 8, 0.3, 1, 2, 0.02, 3,
    ]  # fmt: skip
    assert (found["lambda1"], found["lambda2"], found["damping"]) == (2.0, 1.0, 0.01)
    assert (found["until"], found["force"], found["dry_run"]) == (None, None, False)
    assert set(found["datasets"]) == {"shop", "people", "clinic"}
    assert set(found["tasks"]) == {"em", "blk", "di", "ed", "dc", "cta", "re", "el", "sm", "ave"}
    assert found["proxy"]["name"] == "minilm"
    assert found["paths"] == {"data": "data", "store": "outputs/store", "runs": "outputs/runs"}
    assert "hydra" not in found


def test_method_and_scale_choose_options_and_numbers(toy: Path) -> None:
    found = composed(toy, "method=meld_ds", "scale=paper")
    assert (found["selector"]["name"], found["refine"]["name"]) == ("meld_ds", "mixture")
    assert [found[group]["name"] for group in ("encoder", "backbone", "proxy", "logger", "trainer")] == [
        "bge_large", "mistral_7b", "qwen2_5_0_5b", "wandb", "gpu",
    ]  # fmt: skip
    assert (found["sigma"], found["n_demos"]) == (3, 8)


def test_precedence(toy: Path, presets: Preset) -> None:
    chosen = {"method": "meld_ds", "scale": "paper", "backbone": "qwen2_5_0_5b"}
    defaults = [{f"override /{group}": option} for group, option in chosen.items()]
    presets("x", {"defaults": defaults, "n_demos": 5, "k": 2, "expert": {"rank": 4}})
    presets("grid", {"k": 1, "hydra": {"mode": "MULTIRUN", "sweeper": {"params": {"seed": "1,2"}}}}, "sweeps")
    found = composed(toy, "experiment=x")
    # experiment over scale over method over meld.yaml
    assert (found["n_demos"], found["sigma"], found["k"], found["expert"]["rank"]) == (5, 3, 2, 4)
    assert found["backbone"]["name"] == "qwen2_5_0_5b"
    assert found["encoder"]["name"] == "bge_large"
    assert found["refine"]["name"] == "mixture"
    # sweep over experiment, command line over all
    assert composed(toy, "experiment=x", "sweep=grid")["k"] == 1
    found = composed(
        toy, "experiment=x", "sweep=grid", "k=3", "n_demos=7", "backbone=minilm", "method=meld", "scale=cpu"
    )
    assert (found["k"], found["n_demos"], found["backbone"]["name"], found["refine"]["name"], found["sigma"]) == (
        3, 7, "minilm", "iterative", 2,
    )  # fmt: skip


def test_private_folder_adds_options(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meld.config.compose.shipped", lambda folder: toy / folder)
    private = toy / "private"
    (private / "expert").mkdir(parents=True)
    (private / "expert" / "mine.yaml").write_text("_target_: toy.parts.Part\nrank: 2\n")
    assert plain(load_config(["expert=mine"], private))["expert"]["rank"] == 2
    with pytest.raises(ConfigError, match="does not exist"):
        load_config([], toy / "absent")


@pytest.mark.parametrize(
    ("override", "what", "fix"),
    [
        ("kk=3", "'kk'", "did you mean k?"),
        ("encodr=minilm", "'encodr'", "did you mean encoder?"),
        ("expert.rnak=3", "'expert.rnak'", "did you mean expert.rank? (known there: _target_, rank)"),
        ("paths.dta=x", "'paths.dta'", "did you mean paths.data?"),
        ("backbone=minilmm", "options are: minilm, mistral_7b, qwen2_5_0_5b", "backbone=minilm"),
        ("method=zzz", "options are: gpt4, meld, meld_ds", "method=OPTION"),
        ("backbone@proxi=minilm", "'backbone@proxi'", "backbone@proxy"),
        ("selector/quality=ppl", "'selector/quality'", "below it"),
        ("k=abc", "'abc'", "correct the value"),
        ("k=[1", "'k=[1'", "key=value"),
        ("k", "'k'", "key=value"),
        ("k=1,2", "several values", "meld -m k=1,2"),
        ("method=null", "null", "none"),
        ("k=${nothing}", "nothing", "${"),
        ("expert.rank=${oc.env:NO_SUCH_VARIABLE}", "NO_SUCH_VARIABLE", "environment variable"),
        ("seed=???", "missing", "seed=VALUE"),
    ],
)
def test_slips_on_the_command_line(toy: Path, override: str, what: str, fix: str) -> None:
    error = failure(toy, override)
    assert what in error.what
    assert fix in error.fix


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"n_demoz": 5}, ["n_demoz", "did you mean n_demos?"]),
        ({"k": "many"}, ["'many'", "key k"]),
        ({"paths": {"stroe": "x"}}, ["paths.stroe", "paths.store"]),
        ({"defaults": [{"override /methd": "meld"}]}, ["methd", "did you mean method?"]),
        ("k: [1\n", ["not valid YAML"]),
    ],
)
def test_slips_inside_a_preset_name_its_file(toy: Path, presets: Preset, content: Any, words: list[str]) -> None:
    file = presets("tab1", content)
    error = failure(toy, "experiment=tab1")
    for word in [*words, str(file)]:
        assert word in str(error)


def test_unknown_presets_and_options_in_presets(toy: Path, presets: Preset) -> None:
    presets("tab1_main", {"k": 2})
    presets("broken", {"defaults": [{"override /method": "meld_dz"}]})
    assert failure(toy, "experiment=tab1_mian").fix == "experiment=tab1_main"
    assert failure(toy, "experiment=broken").fix.startswith("method=meld")


def test_origin_names_the_file_or_the_command_line(toy: Path, presets: Preset) -> None:
    file = presets("x", {"expert": {"rnak": 4}})
    (toy / "private").mkdir()
    found = compose_config(["experiment=x", "+tasks.em.solvr=llm"], toy / "conf")
    assert found.choices["experiment"] == "x"
    assert found.origin("expert.rnak") == str(file)
    assert found.origin("tasks.em.solvr") == "the command line"
    assert found.origin("tasks.em.nothing") is None


def test_a_defect_is_not_dressed_up() -> None:
    with pytest.raises(ZeroDivisionError):
        friendly(ZeroDivisionError())
    known = UserError("x")
    assert friendly(known) is known


def test_redact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "s3cr3t")
    monkeypatch.setenv("MELD_DATA", "/data")
    cfg = OmegaConf.create(
        {
            "paths": {"data": "${oc.env:MELD_DATA}"},
            "root": "${paths.data}/abt",
            "fallback": "${oc.env:NOT_SET,plain}",
            "logger": {"api_key": "abc", "note": "abc", "url": "https://x/${logger.api_key}", "project": "meld"},
            "copy": ["${oc.env:MY_KEY}", {"again": "${copy.0}"}, "text"],
            "engine": {"max_prompt_tokens": 512, "tokenizer": "fast", "hf_token": "${oc.env:MY_KEY}", "token": None},
            "secrets": {"a": "hush", "n": 1},
            "whole": "${secrets}",
            "none": None,
        }
    )
    assert redact(cfg) == {
        "paths": {"data": "/data"},
        "root": "/data/abt",
        "fallback": "***",
        "logger": {"api_key": "***", "note": "abc", "url": "***", "project": "meld"},
        "copy": ["***", {"again": "***"}, "text"],
        "engine": {"max_prompt_tokens": 512, "tokenizer": "fast", "hf_token": "***", "token": None},
        "secrets": {"a": "***", "n": 1},
        "whole": {"a": "***", "n": 1},
        "none": None,
    }
    assert plain(cfg)["copy"][1]["again"] == "s3cr3t"


def test_config_hash_ignores_execution_and_nothing_else(toy: Path) -> None:
    def of(*overrides: str) -> str:
        return config_hash(composed(toy, *overrides))

    base = of()
    assert len(base) == 16
    same = [
        "trainer=gpu",
        "logger=wandb",
        "until=infer",
        "force=encode",
        "dry_run=true",
        "paths.store=/x",
        "+expert.device=cuda",
    ]
    assert {of(override) for override in same} == {base}
    other = ["k=2", "c=0.2", "seed=1", "data_seed=1", "expert.rank=4", "mixer=svd", "suite=pairs", "method=meld_ds"]
    assert len({base, *(of(override) for override in other)}) == len(other) + 1


def test_presets_are_found_in_a_wheel_and_in_a_source_tree(tmp_path: Path) -> None:
    code = (
        "from meld.config.compose import load_config; from meld.config.presets import register_presets, shipped\n"
        "print(shipped('conf'), sorted(register_presets()['experiment']), load_config(['experiment=below/x']).k)"
    )
    conf = tmp_path / "conf"
    conf.mkdir()
    (conf / "meld.yaml").write_text("defaults: [base_meld, _self_, {experiment: null}, {sweep: null}]\nk: 3\n")
    presets = {"experiments": "# meld experiment=below/x\nk: 7\n", "sweeps": "seed: 1\n"}
    for folder, text in presets.items():
        (tmp_path / folder / "below").mkdir(parents=True)
        (tmp_path / folder / "below" / "x.yaml").write_text(text)
    source, wheel = tmp_path / "src" / "meld", tmp_path / "site-packages" / "meld"
    ignored = shutil.ignore_patterns("__pycache__")
    for target in (source, wheel):
        for part in ("config", "store"):
            shutil.copytree(ROOT / "src" / "meld" / part, target / part, ignore=ignored)
        for part in ("errors.py", "types.py"):
            shutil.copy(ROOT / "src" / "meld" / part, target / part)
        (target / "__init__.py").touch()
    for folder in ("conf", *presets):
        shutil.copytree(tmp_path / folder, wheel / folder)
        (wheel / folder / "__init__.py").touch()
    for path, expected in ((source.parent, conf), (wheel.parent, wheel / "conf")):
        # -S leaves out site-packages' editable finders, which would offer another meld; dependencies come by path.
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(path), *(p for p in sys.path if "packages" in p)])}
        done = subprocess.run([sys.executable, "-S", "-c", code], env=env, capture_output=True, text=True, check=False)
        assert done.stdout.strip() == f"{expected} ['below/x'] 7", done.stderr


def test_a_missing_folder_is_said() -> None:
    with pytest.raises(UserError, match="missing from this installation"):
        shipped("recipes")


@pytest.mark.parametrize("overrides", [[], ["method=meld_ds"], ["scale=paper"], ["suite=real_small"]])
def test_the_shipped_configuration_composes(overrides: list[str]) -> None:
    assert plain(load_config(overrides))["k"] == 3


def test_shipped_presets_register() -> None:
    assert set(register_presets()) == {"experiment", "sweep"}
