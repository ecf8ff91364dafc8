"""Which expert answered what, over a whole run: ``routing.json``, and the same for the metric logger."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from meld.logger.base import MetricSink
from meld.pipeline.node import Plan
from meld.report.results import ROUTING, write_json
from meld.router.load import suite_usage
from meld.stages.base import read_json


def write_routing(plan: Plan, made: Mapping[str, Path], folder: Path, sink: MetricSink) -> None:
    """Write ``routing.json`` (dataset x expert matrix, entropy, load balance) and log it.

    Args:
        plan: The plan.
        made: Artifact directories by node id.
        folder: The run directory.
        sink: Where metrics go: ``routing/<unit>/entropy`` and the like, and the matrix as the table ``routing``.
    """
    lines = {
        unit: read_json(made[f"infer:{unit}"] / "routing.json") for unit in plan.experts if f"infer:{unit}" in made
    }
    lines = {unit: line for unit, line in lines.items() if line["experts"]}
    if not lines:
        return
    content = suite_usage(lines)
    write_json(folder / ROUTING, content)
    weighed = {unit: line for unit, line in content["units"].items() if "mean_weights" in line}
    if not weighed:
        return
    import pandas as pd

    metrics = {f"routing/{unit}/entropy": float(line["entropy"]) for unit, line in weighed.items()}
    for name, value in content.get("balance", {}).items():
        metrics[f"routing/load_{name}"] = float(value)
    for expert, share in zip(content["experts"], content.get("load", ()), strict=False):
        metrics[f"routing/load/{expert}"] = float(share)
    sink.summary(metrics)
    rows = [[unit, *line["mean_weights"]] for unit, line in weighed.items()]
    sink.table("routing", pd.DataFrame(rows, columns=["unit", *content["experts"]]))
