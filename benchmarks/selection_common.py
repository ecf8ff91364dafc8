"""What the selection benchmarks share: made-up pools, timing in a process of its own, and the tables they leave."""

from __future__ import annotations

import csv
import platform
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from meld.store.machine import hardware, versions

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"


FLOOR_GB = 2.0
"""What a measured process must leave to the other programs of the machine."""


def pool_in_a_cone(n: int, d: int, seed: int = 0, groups: int = 40) -> NDArray[np.float32]:
    """Embeddings as encoders make them: a common direction, groups around it, and noise. Made in blocks.

    Returns:
        Shape (n, d), float32.
    """
    rng = np.random.default_rng(seed)
    base = rng.normal(size=d)
    centres = rng.normal(size=(groups, d))
    rows = np.empty((n, d), np.float32)
    for at in range(0, n, 8192):
        m = min(8192, n - at)
        rows[at : at + m] = base + 0.7 * centres[rng.integers(0, groups, m)] + 0.7 * rng.normal(size=(m, d))
    return rows


def measured(
    function: Callable[..., Any], *arguments: Any, limit: float = 600.0, memory_gb: float | None = None
) -> dict[str, Any]:
    """Run a function of a module in a fresh process; what it returns, with its own seconds and the process's peak.

    Args:
        function: Returns a mapping; ``seconds`` in it replaces the measured time (which includes imports).
        arguments: Its arguments.
        limit: Seconds after which it is stopped.
        memory_gb: Resident memory above which it is stopped, before it takes what the machine needs.

    Returns:
        The mapping with ``seconds`` and ``peak_mb``, or with ``failed`` saying why there is none.
    """
    context = get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(theirs, function, arguments))
    process.start()
    theirs.close()
    try:
        ends = time.monotonic() + limit
        while not ours.poll(min(0.2, max(ends - time.monotonic(), 0.0))):
            if time.monotonic() >= ends:
                return {"failed": f"more than {limit:.0f} s ({_worked(process.pid):.0f} CPU s)"}
            taken = _resident(process.pid) / 1e9
            if taken > (memory_gb or float("inf")):
                return {"failed": f"more than {memory_gb:g} GB"}
            if taken > 1.0 and psutil.virtual_memory().available < FLOOR_GB * 1e9:
                return {"failed": f"more than {taken:.1f} GB, all that was free"}
        return dict(ours.recv())
    except EOFError:
        process.join()
        return {"failed": f"ended with code {process.exitcode}"}
    finally:
        process.kill()
        process.join()


def _resident(pid: int | None) -> int:
    """Bytes that a process has in memory; 0 for one that has just ended."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def _worked(pid: int | None) -> float:
    """Seconds of processor time that a process has used."""
    try:
        used = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(used.user + used.system)


def _child(pipe: Any, function: Callable[..., Any], arguments: Sequence[Any]) -> None:
    try:
        started = time.perf_counter()
        found = function(*arguments)
        # The process is fresh, so that its high-water mark is this function's; a sampling thread would slow it down.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e3 if sys.platform != "darwin" else 1e6)
        pipe.send({"seconds": time.perf_counter() - started, "peak_mb": peak, **found})
    except Exception as error:  # the table says what happened, and the other rows go on
        pipe.send({"failed": f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"})


def read_table(name: str) -> list[dict[str, str]]:
    """The rows that ``docs/results/<name>.csv`` holds; none where it is not there."""
    path = RESULTS / f"{name}.csv"
    if not path.is_file():
        return []
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def write_table(
    name: str, title: str, rows: Sequence[Mapping[str, Any]], config: Mapping[str, Any], notes: Sequence[str] = ()
) -> Path:
    """Write ``docs/results/<name>.md`` and ``.csv``.

    Args:
        name: Of the benchmark.
        title: First line of the page.
        rows: The table; every row has the same keys.
        config: What was run.
        notes: Sentences below the table.
    """
    RESULTS.mkdir(parents=True, exist_ok=True)
    heads = list(rows[0])
    with (RESULTS / f"{name}.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, heads, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    machine = hardware()
    lines = [f"# {title}", "", "| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(_cell(row[head]) for head in heads) + " |" for row in rows]
    lines += ["", *(f"- {note}" for note in notes), ""]
    lines.append(f"Run on {date.today().isoformat()}: " + ", ".join(f"{k} = {v}" for k, v in config.items()) + ".")
    packages = {k: v for k, v in versions().items() if k in {"python", "torch", "numpy"}}
    lines.append(
        f"Machine: {machine['cores']} cores ({platform.machine()}), {machine['memory_gb']} GB; "
        + ", ".join(f"{k} {v}" for k, v in packages.items())
        + "."
    )
    path = RESULTS / f"{name}.md"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)
