"""What does a sweep cost beyond its parts? k = 1..6, and c = 0.1, 0.2, 0.3, by processor time, from costs.json.

    OMP_NUM_THREADS=1 python benchmarks/sweep_sharing.py [OVERRIDE ...]

`meld -m k=1,2,3,4,5,6` should cost one training and six inferences, within 10 %; `meld -m method=meld_ds c=0.1,0.2,0.3`
should embed, score and compute influence once. Runs both in a store of their own (suite=quickstart10, whose seven
experts allow k = 6, or what the overrides say), reads what every job computed and what it found, and writes
docs/results/sweep_sharing.md. Exit code 1 if a claim does not hold. The parts are those of the first job: everything it
computed, and five times its inference and evaluation again. The whole command adds composing, planning, loading models
and writing reports, job by job. Processor time, because other work on the machine does not lengthen it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from shapes import ROOT, machine, table

from meld.store.machine import cpu_seconds

LIMIT = 0.10
PER_K = ("infer", "evaluate")
ONCE_FOR_ALL_C = ("data", "serialize", "encode", "index", "annotate", "init", "metapath", "features", "influence")


def sweep(words: list[str], store: Path, folder: Path) -> float:
    """Run a sweep and return its seconds of processor time."""
    command = [sys.executable, "-m", "meld", "-m", *words, "logger=none"]
    command += [f"paths.store={store}", f"hydra.sweep.dir={folder}"]
    before = cpu_seconds()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return cpu_seconds() - before


def spent(folder: Path) -> dict[str, list[dict[str, object]]]:
    """What every job of a sweep computed itself, by the job's name, in the order in which they ran."""
    jobs = sorted(folder.glob("*/costs.json"), key=lambda file: file.stat().st_mtime)
    costs = {file.parent.name: json.loads(file.read_text())["stages"] for file in jobs}
    return {name: [cost for cost in stages if not cost["reused"]] for name, stages in costs.items()}


def seconds(costs: list[dict[str, object]], stages: tuple[str, ...] | None = None) -> float:
    """Processor seconds of the given stages, or of all."""
    return sum(float(str(cost["cpu_seconds"])) for cost in costs if stages is None or cost["stage"] in stages)


def main() -> int:
    """Run both sweeps and write what they shared."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", default=["suite=quickstart10"])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        store = Path(place) / "store"
        whole = sweep(["k=1,2,3,4,5,6", *options.overrides], store, Path(place) / "k")
        by_k = spent(Path(place) / "k")
        sweep(["c=0.1,0.2,0.3", "method=meld_ds", *options.overrides], store, Path(place) / "c")
        by_c = spent(Path(place) / "c")
    first, *others = by_k.values()
    training = seconds(first) - seconds(first, PER_K)
    parts = training + 6 * seconds(first, PER_K)
    computed = sum(map(seconds, by_k.values()))
    again = sorted({str(cost["stage"]) for costs in others for cost in costs} - set(PER_K))
    rows = [
        {
            "job": name,
            "artifacts computed": len(costs),
            "seconds training": f"{seconds(costs) - seconds(costs, PER_K):.1f}",
            "seconds inference": f"{seconds(costs, PER_K):.1f}",
        }
        for name, costs in by_k.items()
    ]
    counts = Counter((str(cost["stage"]), str(cost["unit"])) for costs in by_c.values() for cost in costs)
    by_stage = Counter(stage for (stage, _), n in counts.items() for _ in range(n))
    twice = sorted({stage for (stage, _), n in counts.items() if n > 1 and stage in ONCE_FOR_ALL_C})
    fine = computed <= (1 + LIMIT) * parts and not again and not twice
    text = "\n".join(
        [
            "# What a sweep shares",
            "",
            f"Written by `python benchmarks/sweep_sharing.py {' '.join(options.overrides)}`.",
            "",
            machine(timed=False),
            "",
            "## `meld -m k=1,2,3,4,5,6`",
            "",
            table(rows),
            "",
            f"Seconds of processor time. One training and six inferences like the first job's: {parts:.1f}. Computed: "
            f"{computed:.1f}, a ratio of {computed / parts:.2f} (wanted: at most {1 + LIMIT:.2f}). The whole command: "
            f"{whole:.1f}, a ratio of {whole / parts:.2f}. Stages other than inference and evaluation that a later job "
            "computed: "
            f"{', '.join(again) or 'none'}.",
            "",
            "## `meld -m method=meld_ds c=0.1,0.2,0.3`, after it",
            "",
            table([{"stage": stage, "artifacts computed by the three jobs": n} for stage, n in by_stage.items()]),
            "",
            f"Of embedding, scoring and influence computed more than once for a unit: {', '.join(twice) or 'none'}.",
            "",
            f"Both claims {'hold' if fine else 'do not hold'}.",
            "",
        ]
    )
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "sweep_sharing.md").write_text(text)
    print(text)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
