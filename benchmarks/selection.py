"""Greedy selection: ours against submodlib and apricot, in one run.

    OMP_NUM_THREADS=1 python benchmarks/selection.py [--sizes 2000 5000 20000] [--large 100000] [--huge 1000000]
        [--apricot PYTHON]   # a Python that has apricot-select; without it those rows are left out

Every row runs in a process of its own and is given the same made-up pool. Times count everything from the embeddings to
the picks (kernels included), not imports and not making the pool; ratios are of processor time, which other work on the
machine disturbs little. A program that takes longer than ``--limit`` or more memory than ``--memory`` is stopped, and
its row says so. The table is written anew after every row; ``--resume`` goes on with one that was cut short, size by
size, so that programs that are compared are measured in one run.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from selection_common import measured, pool_in_a_cone, read_table, write_table

from meld.selector.diversity.graph_cut import GraphCut
from meld.selector.objective import Objective
from meld.selector.optimizer.incremental import Incremental
from meld.selector.optimizer.lazy import Lazy
from meld.selector.optimizer.stochastic import Stochastic

C = 0.3
KNOWN = {"lazy": Lazy, "incremental": Incremental, "stochastic": Stochastic}
WANTED = {"times faster at 20,000": 15.0, "GB at 100,000": 4.0, "GB at 1,000,000": 20.0}
HEADS = ("n", "d", "method", "seconds", "CPU s", "peak MB", "times ours", "same picks")


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


class CosineRows:
    """Rows of the cosine kernel, each made when it is asked for: what submodlib's compiled part takes instead of lists.

    Args:
        units: Unit vectors, shape (n, d).
    """

    def __init__(self, units: NDArray[np.float32]) -> None:
        self._units = units

    def __len__(self) -> int:
        return len(self._units)

    def __getitem__(self, row: int) -> list[float]:
        if row >= len(self._units):
            raise IndexError(row)
        found: list[float] = (self._units @ self._units[row]).tolist()
        return found


def submodlib_lean(n: int, d: int) -> dict[str, Any]:
    """submodlib's compiled greedy, spared its Python lists: the kernel comes row by row from NumPy."""
    import submodlib_cpp

    pool = pool_in_a_cone(n, d)
    started, worked = time.perf_counter(), time.process_time()
    units = pool / np.linalg.norm(pool, axis=1, keepdims=True)
    function = submodlib_cpp.GraphCut(n, CosineRows(units), False, {-1}, 0.5)
    picks = function.maximize("LazyGreedy", round(C * n), False, False, 0.1, False, False, [], False)
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


def row_of(n: int, d: int, method: str, found: dict[str, Any], base: dict[str, Any] | None) -> dict[str, Any]:
    """A row of the table; compared with ``base`` where both have run."""
    row: dict[str, Any] = dict.fromkeys(HEADS, "") | {"n": n, "d": d, "method": method}
    if "failed" in found:
        return row | {"seconds": found["failed"]}
    row |= {
        "seconds": round(found["seconds"], 3),
        "CPU s": round(found["cpu"], 3),
        "peak MB": round(found["peak_mb"]),
    }
    if base and "cpu" in base:
        row["times ours"] = round(found["cpu"] / base["cpu"], 1)
        if found.get("picks") and base.get("picks"):
            row["same picks"] = f"{len(set(found['picks']) & set(base['picks']))} of {len(base['picks'])}"
    return row


@dataclass(frozen=True)
class Method:
    """One row to measure: its name, what runs, and the row of the same size that it is compared with."""

    name: str
    run: Callable[[], dict[str, Any]]
    base: str = ""


def methods(n: int, options: argparse.Namespace) -> list[Method]:
    """What is measured at a size."""

    def apart(function: Callable[..., Any], *arguments: Any) -> Callable[[], dict[str, Any]]:
        return lambda: measured(function, *arguments, limit=options.limit, memory_gb=options.memory)

    d = dimension(n, options)
    if n in options.huge:
        return [Method("stochastic (ours)", apart(ours, "stochastic", "shifted_cosine", n, d))]
    mine = Method("lazy, shifted_cosine (ours)", apart(ours, "lazy", "shifted_cosine", n, d))
    if n == options.large:
        return [mine]
    raw = Method("lazy, cosine (ours)", apart(ours, "lazy", "cosine", n, d))
    found = [mine, raw]
    if n <= 5000:
        found.append(Method("incremental (ours)", apart(ours, "incremental", "shifted_cosine", n, d), mine.name))
    found.append(Method("submodlib, cosine", apart(submodlib_own, n, d), raw.name))
    found.append(Method("submodlib, cosine, kernel row by row", apart(submodlib_lean, n, d), raw.name))
    if options.apricot:
        run = partial(apricot, options.apricot, n, d, options.limit)
        found.append(Method("apricot, squared cosine", run, mine.name))
    return found


def dimension(n: int, options: argparse.Namespace) -> int:
    """Length of the embeddings at a size."""
    return int(options.huge_d if n in options.huge else options.d)


def rows_of(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """All rows, as they are measured; of an earlier run those of the sizes that it finished."""
    known = read_table("selection") if options.resume else []
    for n in [*options.sizes, *([options.large] if options.large else []), *options.huge]:
        wanted = methods(n, options)
        kept = [row for row in known if int(row["n"]) == n]
        if {row["method"] for row in kept} == {method.name for method in wanted}:
            yield from ({head: number(value) for head, value in row.items()} for row in kept)
            continue
        found: dict[str, dict[str, Any]] = {}
        for method in wanted:
            found[method.name] = method.run()
            yield row_of(n, dimension(n, options), method.name, found[method.name], found.get(method.base))


def number(cell: str) -> Any:
    """A cell of the table as it was before it was written."""
    return int(cell) if cell.isdigit() else float(cell) if re.fullmatch(r"\d+\.\d+", cell) else cell


def verdicts(rows: list[dict[str, Any]]) -> list[str]:
    """What was wanted, and whether it was met."""
    said = []
    for row in rows:
        peer, ratio, peak = "(ours)" not in row["method"], row["times ours"], row["peak MB"]
        if row["n"] == 20_000 and peer:
            least = WANTED["times faster at 20,000"]
            met = f"{ratio} times our time: {'met' if ratio >= least else 'missed'}" if ratio else f"{row['seconds']}"
            said.append(
                f"Wanted: at least {least:g} times faster than {row['method'].split(',')[0]} at 20,000. "
                f"{row['method']}: {met}."
            )
        for n, name in ((100_000, "GB at 100,000"), (1_000_000, "GB at 1,000,000")):
            if row["n"] == n and peak:
                most = WANTED[name]
                met = "met" if peak <= most * 1e3 else "missed"
                said.append(
                    f"Wanted: at most {name.replace('GB', f'{most:g} GB')}. {row['method']}: {peak / 1e3:.1f} "
                    f"GB: {met}."
                )
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="*", default=[2000, 5000, 20_000])
    parser.add_argument("--large", type=int, default=100_000)
    parser.add_argument("--huge", type=int, nargs="*", default=[300_000, 1_000_000])
    parser.add_argument("--d", type=int, default=1152)
    parser.add_argument("--huge-d", type=int, default=384)
    parser.add_argument("--apricot", default="")
    parser.add_argument("--limit", type=float, default=1800.0)
    parser.add_argument("--memory", type=float, default=14.0)
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    config = {
        "c": C,
        "lambda1": 2,
        "lambda2": 1,
        "threads": os.environ.get("OMP_NUM_THREADS", "default"),
        "limit": f"{options.limit:.0f} s",
        "memory": f"{options.memory:g} GB",
    }
    notes = [
        "The pool is made up: a common direction, 40 groups, noise. *times ours*: CPU time over that of lazy on the "
        "same kernel (apricot: over shifted_cosine; its kernel is another, so its picks are too).",
        "Peak memory is the whole process's, with imports and the pool itself.",
        "*submodlib, cosine* is the package as documented, which holds its kernel as Python lists; *kernel row by row* "
        "hands the same compiled greedy its kernel from NumPy, which spares it those lists.",
    ]
    rows: list[dict[str, Any]] = []
    for row in rows_of(options):
        rows.append(row)
        print({head: value for head, value in row.items() if value != ""}, flush=True)
        write_table(
            "selection", "Greedy selection at 30 %: seconds and memory", rows, config, [*notes, *verdicts(rows)]
        )


if __name__ == "__main__":
    main()
