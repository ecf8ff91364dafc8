"""How two runs differ: made-up runs whose differences are known."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from meld.cli.main import main
from meld.errors import UserError
from meld.report.diff import diff_json, diff_runs, diff_text
from meld.report.results import rows_of, write_environment, write_json, write_results
from meld.store.machine import code_version, dependencies
from meld.store.store import Draft, Store
from meld.store.uses import link_artifacts
from meld.types import Score

N = 40
Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def run(
        name: str, correct: Sequence[bool], *, k: int = 3, content: str = "aa", data: int = 1, own: str = "meld"
    ) -> Path:
        folder = tmp_path / name
        value = float(np.mean(correct))
        scores = [Score("accuracy", value, N, max(0, value - 0.1), min(1, value + 0.1), main=True)]
        rows = rows_of("restaurant", "di", own, scores, "0" * 16)
        rows += rows_of("restaurant", "di", "majority", [Score("accuracy", 0.2, N, 0.1, 0.3, main=True)], "0" * 16)
        write_results(folder, {"k": k}, "0" * 16, rows)
        (folder / "config.yaml").write_text(f"k: {k}\nforce: null\nmixer: {{k: {k}}}\nseed: 0\n")
        write_environment(folder, {"seed": 0, "data_seed": 0})
        (folder / "predictions").mkdir()
        pd.DataFrame(
            {
                "query_id": [f"q{i}" for i in range(N)],
                "output": ["x" if right else "y" for right in correct],
                "score": [0.5] * N,
                "status": ["ok"] * N,
                "experts": [[]] * N,
                "weights": [[]] * N,
                "options": [["x", "y"]] * N,
                "raw": [""] * N,
                "gold": [["x"]] * N,
                "correct": list(correct),
            }
        ).to_parquet(folder / "predictions" / "restaurant.di.parquet")
        store = Store(tmp_path / "store")

        def fill(draft: Draft) -> None:
            (draft.out / "value").touch()

        store.compute("data", f"{data:016x}", {"unit": "restaurant.di", "config": {"content": content}}, fill)
        link_artifacts(folder, {"data.restaurant.di": store.path("data", f"{data:016x}")})
        return folder

    return run


def printed(thing: Any) -> str:
    out = io.StringIO()
    Console(file=out, width=160).print(thing, soft_wrap=True)
    return out.getvalue()


def test_equal_runs(make: Make) -> None:
    right = [i % 2 == 0 for i in range(N)]
    found = diff_runs(make("a", right), make("b", right))
    assert (found.config, found.data, found.code, found.environment, found.notes) == ((), (), (), (), ())
    assert found.identical
    (change,) = found.results
    assert change.same
    assert change.paired is not None
    assert (change.paired.value, change.paired.low, change.paired.high) == (0.0, 0.0, 0.0)
    assert "configuration: the same" in printed(diff_text(found))


def test_what_differs_is_named(make: Make) -> None:
    few, many = [i < 10 for i in range(N)], [i < 30 for i in range(N)]
    found = diff_runs(make("a", few), make("b", many, k=2, content="bb", data=2, own="meld_ds"))
    assert [str(leaf) for leaf in found.config] == ["k: 3 → 2", "mixer.k: 3 → 2"]
    assert [str(leaf) for leaf in found.data] == ["data.restaurant.di: aa → bb"]
    assert found.identical is False
    (change,) = found.results  # methods of two names are both the runs' own; the baseline is equal and left out
    assert (change.system, change.old, change.new) == ("own", 0.25, 0.75)
    assert change.paired is not None
    # Twenty of forty queries change from wrong to right and none back: half, with the spread of a proportion.
    assert change.paired.value == pytest.approx(0.5)
    assert change.paired.low == pytest.approx(0.5 - 1.96 * (0.25 / N) ** 0.5, abs=0.04)
    assert change.paired.high == pytest.approx(0.5 + 1.96 * (0.25 / N) ** 0.5, abs=0.04)
    text = printed(diff_text(found))
    assert "+0.500" in text
    assert "not equal" in text
    assert json.loads(json.dumps(diff_json(found)))["config"][0] == {"name": "k", "old": 3, "new": 2}


def test_code_dependencies_and_seeds(make: Make) -> None:
    right = [True] * N
    first, second = make("a", right), make("b", right)
    content = json.loads((second / "environment.json").read_text())
    content["code"]["commit"] = "f" * 40
    content["dependencies"]["torch"] = "9.9"
    content["seeds"]["data_seed"] = 4
    write_json(second / "environment.json", content)
    found = diff_runs(first, second)
    assert [leaf.name for leaf in found.code] == ["code.commit"]
    assert [(leaf.name, leaf.new) for leaf in found.environment] == [
        ("dependencies.torch", "9.9"),
        ("seeds.data_seed", 4),
    ]


def test_what_is_missing_is_said(make: Make, tmp_path: Path) -> None:
    first, second = make("a", [True] * N), make("b", [True] * N)
    (second / "results.json").unlink()
    (second / "environment.json").unlink()
    found = diff_runs(first, second)
    assert found.identical is None
    assert found.results == ()
    assert len(found.notes) == 2
    (first / "predictions" / "restaurant.di.parquet").unlink()
    (change,) = diff_runs(first, make("c", [True] * N)).results
    assert change.paired is None
    with pytest.raises(UserError, match="no such directory"):
        diff_runs(first, tmp_path / "nowhere")
    with pytest.raises(UserError, match="configuration cannot be read"):
        diff_runs(first, tmp_path)


def test_the_verb(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(make("a", [True] * N)), str(make("b", [True] * N, k=1))]
    assert main(["diff", *runs, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["identical"] is False
    assert main(["diff", *runs]) == 0
    assert "mixer.k: 3 → 1" in capsys.readouterr().out
    assert main(["diff", runs[0]]) == 2
    assert "meld diff" in capsys.readouterr().err


def test_the_environment_is_recorded(tmp_path: Path) -> None:
    content = json.loads(write_environment(tmp_path, {"seed": 3}).read_text())
    assert content["seeds"] == {"seed": 3}
    assert content["code"] == code_version()
    assert content["dependencies"] == dependencies()
    assert {"torch", "hydra-core", "rich", "filelock", "python"} <= content["dependencies"].keys()
    assert content["hardware"]["cores"] >= 1
    assert set(content["code"]) == {"version", "commit", "dirty"}
