"""Run directories as a finished run leaves them, made up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from meld.report.results import (
    Cost,
    Row,
    rows_of,
    write_costs,
    write_environment,
    write_json,
    write_results,
)
from meld.types import Score

MakeRun = Callable[..., Path]

UNITS = [
    ("abt_buy", "em", "f1", [0.712, 0.681, 0.443, 0.194], 1916),
    ("abt_buy", "blk", "recall@1", [0.743, None, None, 0.001], 1028),
    ("restaurant", "di", "accuracy", [0.793, None, None, 0.241], 29),
    ("hospital", "ed", "f1", [0.861, None, None, 0.051], 19600),
    ("hospital", "dc", "f1", [0.604, None, None, 0.012], 19600),
    ("quick_products", "em", "f1", [0.955, 0.9, 0.81, 0.3], 120),
]
SYSTEMS = ["meld", "mutual_nn", "similarity_lr", "majority"]
CONFIG: dict[str, Any] = {
    "method": "meld",
    "suite": "real_small",
    "seed": 0,
    "data_seed": 0,
    "k": 3,
    "B": 8,
    "c": 0.3,
    "backbone": "minilm",
    "encoder": "minilm",
    "selector": "none",
    "router": "contrastive",
    "mixer": "cat",
    "engine": "hf",
    "synthetic": ["quick_products"],
}


def result_rows(shift: float = 0.0, config_hash: str = "0123456789abcdef", own: str = "meld") -> list[Row]:
    rows: list[Row] = []
    for dataset, task, metric, values, n in UNITS:
        for system, value in zip(SYSTEMS, values, strict=True):
            if value is None:
                continue
            value = min(1.0, value + (shift if system == "meld" else 0.0))
            width = 1.0 / n**0.5
            scores = [Score(metric, value, n, max(0, value - width), min(1, value + width), main=True)]
            if metric == "f1":
                parts = ("precision", "recall")
                scores += [Score(m, value * 0.9, n, value / 2, value) for m in parts]
            rows += rows_of(dataset, task, own if system == "meld" else system, scores, config_hash)
    return rows


@pytest.fixture(scope="session")
def make_run() -> MakeRun:
    def make(run: Path, *, shift: float = 0.0, hostile: str = "", parts: bool = True, **changes: Any) -> Path:
        config = {**CONFIG, **changes}
        write_results(run, config, "0123456789abcdef", result_rows(shift))
        if not parts:
            return run
        stages = [
            ("data", 2.1), ("serialize", 0.6), ("encode", 214.0), ("annotate", 18.3), ("init", 611.0),
            ("metapath", 92.0), ("refine", 388.0), ("route", 140.0), ("infer", 171.0),
            ("evaluate", 5.0), ("report", 0.4),
        ]  # fmt: skip
        costs = [
            Cost(stage, unit, f"{i:016x}", seconds / 2, 900 + 7 * i, i < 4)
            for i, (stage, seconds) in enumerate(stages)
            for unit in ("abt_buy.em", "hospital.dc")
        ]
        write_costs(run, costs, 1411.3)
        experts = ["abt_buy.em", "restaurant.di", "hospital.dc", "quick_products.em"]
        weights = [[0.71, 0.08, 0.05, 0.16], [0.12, 0.66, 0.2, 0.02], [0.01, 0.17, 0.8, 0.02], [0.35, 0.04, 0.03, 0.58]]
        lines = {e: {"mean_weights": w, "entropy": 0.9} for e, w in zip(experts, weights, strict=True)}
        write_json(run / "routing.json", {"experts": experts, "units": lines})
        (run / "predictions").mkdir()
        for unit in ("abt_buy.em", "hospital.dc"):
            pd.DataFrame(
                {
                    "query_id": [f"{unit}/A:{i}|B:{i * 7}" for i in range(40)],
                    "output": [None if i == 3 else hostile or ("match" if i % 3 else "mismatch") for i in range(40)],
                    "score": [(i % 10) / 10 for i in range(40)],
                    "status": ["invalid" if i == 3 else "ok" for i in range(40)],
                    "experts": [["abt_buy.em", "hospital.dc"]] * 40,
                    "weights": [[0.75, 0.25]] * 40,
                    "options": [["match", "mismatch"]] * 40,
                    "raw": [hostile] * 40,
                    "gold": [["match"]] * 40,
                    "correct": [bool(i % 3) and i != 3 for i in range(40)],
                }
            ).to_parquet(run / "predictions" / f"{unit}.parquet")
        write_json(
            run / "selection.json",
            {
                "selector": "meld_ds",
                "units": {
                    "abt_buy.em": {
                        "pool": 1200, "selected": 360, "auxiliary": 180,
                        "provenance": {
                            "pseudo": {"pool": 900, "selected": 240},
                            "labelled": {"pool": 300, "selected": 120},
                        },
                    }
                },
            },
        )  # fmt: skip
        write_json(
            run / "status.json",
            {
                "state": "done", "stage": "report", "done": 11, "total": 11, "started": "2026-11-20T10:00:00+00:00",
                "updated": "2026-11-20T10:23:31+00:00", "command": "meld suite=real_small method=meld", "error": None,
                "pid": 1, "host": "elsewhere",
            },
        )  # fmt: skip
        write_environment(run)
        (run / "config.yaml").write_text(f"k: 3\nsuite: real_small\nnote: '{hostile}'\n", encoding="utf-8")
        return run

    return make
