"""Greedy selection: ours against submodlib and apricot, in one run.

    OMP_NUM_THREADS=1 python benchmarks/selection.py [--sizes 2000 5000 20000] [--large 100000] [--huge 1000000]
        [--apricot PYTHON]   # a Python that has apricot-select; without it those rows are left out

Every row runs in a process of its own and is given the same made-up pool. Times count everything from the embeddings to
the picks (kernels included), not imports and not making the pool; ratios are of processor time, which other work on the
machine disturbs little.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from selection_common import measured, pool_in_a_cone, write_table

from meld.selector.diversity.graph_cut import GraphCut
from meld.selector.objective import Objective
from meld.selector.optimizer.incremental import Incremental
from meld.selector.optimizer.lazy import Lazy
from meld.selector.optimizer.stochastic import Stochastic

C = 0.3
KNOWN = {"lazy": Lazy, "incremental": Incremental, "stochastic": Stochastic}


def ours(optimizer: str, kernel: str, n: int, d: int) -> dict[str, Any]:
    """Our own greedy by an optimizer."""
    pool = pool_in_a_cone(n, d)
    started, worked = time.perf_counter(), time.process_time()
    objective = Objective({"diversity": GraphCut(2.0, 1.0, kernel).start(pool)}, {"diversity": 1.0}, "none")
    picks = KNOWN[optimizer]().maximize(objective, round(C * n), 0)
    spent = {"seconds": time.perf_counter() - started, "cpu": time.process_time() - worked}
    return {**spent, "picks": picks.tolist() if n <= 20_000 else []}


def submodlib_own(n: int, d: int) -> dict[str, Any]:
    """submodlib as its documentation uses it: its own dense kernel, lazy greedy."""
    import submodlib

    pool = pool_in_a_cone(n, d)
    started, worked = time.perf_counter(), time.process_time()
    function = submodlib.GraphCutFunction(n=n, mode="dense", lambdaVal=0.5, data=pool, metric="cosine")
    picks = function.maximize(budget=round(C * n), optimizer="LazyGreedy", show_progress=False)
    spent = {"seconds": time.perf_counter() - started, "cpu": time.process_time() - worked}
    return {**spent, "picks": [int(item) for item, _ in picks]}


APRICOT = """
import json, resource, sys, time
import numpy as np
from apricot import GraphCutSelection
pool = np.load(sys.argv[1]).astype(np.float64)
GraphCutSelection(4, metric="cosine", alpha=2.0, optimizer="lazy").fit(pool[:64])  # compiles
started, worked = time.perf_counter(), time.process_time()
picks = GraphCutSelection(int(sys.argv[2]), metric="cosine", alpha=2.0, optimizer="lazy").fit(pool).ranking
seconds, cpu = time.perf_counter() - started, time.process_time() - worked
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
print(json.dumps({"seconds": seconds, "cpu": cpu, "peak_mb": peak, "picks": [int(i) for i in picks]}))
"""


def apricot(python: str, n: int, d: int, limit: float) -> dict[str, Any]:
    """apricot (its cosine is the squared one), in the environment that has it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pool.npy"
        np.save(path, pool_in_a_cone(n, d))
        command = [python, "-c", APRICOT, str(path), str(round(C * n))]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
        except subprocess.TimeoutExpired:
            return {"failed": f"more than {limit:.0f} s"}
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["no message"])[-1][:120]}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", type=int, nargs="*", default=[2000, 5000, 20_000])
    parser.add_argument("--large", type=int, default=100_000)
    parser.add_argument("--huge", type=int, default=1_000_000)
    parser.add_argument("--d", type=int, default=1152)
    parser.add_argument("--huge-d", type=int, default=384)
    parser.add_argument("--apricot", default="")
    parser.add_argument("--limit", type=float, default=600.0)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []

    def add(n: int, d: int, method: str, found: dict[str, Any], base: dict[str, Any] | None) -> None:
        row = {
            "n": n,
            "d": d,
            "method": method,
            "seconds": "",
            "CPU s": "",
            "peak MB": "",
            "times ours": "",
            "same picks": "",
        }
        if "failed" in found:
            row["seconds"] = found["failed"]
        else:
            row |= {
                "seconds": round(found["seconds"], 3),
                "CPU s": round(found["cpu"], 3),
                "peak MB": round(found["peak_mb"]),
            }
            if base and "cpu" in base:
                row["times ours"] = round(found["cpu"] / base["cpu"], 1)
                if found.get("picks") and base.get("picks"):
                    row["same picks"] = f"{len(set(found['picks']) & set(base['picks']))} of {len(base['picks'])}"
        rows.append(row)
        print({k: v for k, v in row.items() if v != ""}, flush=True)

    for n in options.sizes:
        mine = measured(ours, "lazy", "shifted_cosine", n, options.d, limit=options.limit)
        add(n, options.d, "lazy, shifted_cosine (ours)", mine, None)
        raw = measured(ours, "lazy", "cosine", n, options.d, limit=options.limit)
        add(n, options.d, "lazy, cosine (ours)", raw, None)
        if n <= 5000:
            add(n, options.d, "incremental (ours)", measured(ours, "incremental", "shifted_cosine", n, options.d), mine)
        peer = measured(submodlib_own, n, options.d, limit=options.limit)
        add(n, options.d, "submodlib, cosine", peer, raw)
        if options.apricot:
            add(n, options.d, "apricot, squared cosine", apricot(options.apricot, n, options.d, options.limit), mine)
    if options.large:
        found = measured(ours, "lazy", "shifted_cosine", options.large, options.d, limit=options.limit)
        add(options.large, options.d, "lazy, shifted_cosine (ours)", found, None)
    if options.huge:
        found = measured(ours, "stochastic", "shifted_cosine", options.huge, options.huge_d, limit=options.limit)
        add(options.huge, options.huge_d, "stochastic (ours)", found, None)
    config = {"c": C, "lambda1": 2, "lambda2": 1, "threads": os.environ.get("OMP_NUM_THREADS", "default")}
    notes = [
        "The pool is made up: a common direction, 40 groups, noise. *times ours*: CPU time over that of lazy on the "
        "same kernel (apricot: over shifted_cosine; its kernel is another, so its picks are too).",
        "Peak memory is the whole process's, with imports and the pool itself.",
    ]
    print(write_table("selection", "Greedy selection at 30 %: seconds and memory", rows, config, notes))


if __name__ == "__main__":
    main()
