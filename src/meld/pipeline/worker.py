"""``python -m meld.pipeline.worker SPEC``: one training stage in a process of its own.

Under DDP, Lightning starts this very command again for every further rank; a whole run or a sweep would be started
again otherwise. Ranks above zero write to a scratch directory: their weights are the same, and only one process may
fill an artifact.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

from meld.pipeline.node import artifact
from meld.pipeline.plan import make_plan
from meld.progress import Silent
from meld.report.results import Failure
from meld.stages.base import Context
from meld.store.store import Store


def main(spec_file: str) -> None:
    """Carry out one node of a plan.

    Args:
        spec_file: JSON with ``tree`` (the resolved configuration), ``failures`` (units left out), ``node`` (its id),
            ``out`` and ``work``.
    """
    spec = json.loads(Path(spec_file).read_text(encoding="utf-8"))
    store = Store(Path(spec["tree"]["paths"]["store"]))
    plan = make_plan(spec["tree"], store, [Failure(**failure) for failure in spec["failures"]])
    node = plan.node(spec["node"])
    inputs = {name: artifact(store, source) for name, source in node.inputs.items()}
    first = int(os.environ.get("LOCAL_RANK", "0")) == 0
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(spec["out"]) if first else Path(scratch)
        node.run(Context(out, Path(spec["work"]), inputs, node.seed, Silent(), lambda name: None), plan.workshop)


if __name__ == "__main__":
    main(sys.argv[1])
