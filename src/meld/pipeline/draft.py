"""A plan being drawn up: the units of a run, its components, and the nodes so far, each with its key."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from meld.config.build import build
from meld.config.roster import JOINT, masking_of
from meld.config.transfer import Masking
from meld.config.validate import units as declared_units
from meld.dataset.base import Dataset
from meld.engine.base import asks_alone
from meld.pipeline.components import Components, build_components
from meld.pipeline.node import ORDER, Node, Run
from meld.pipeline.sources import find_sources
from meld.pipeline.workshop import Workshop
from meld.report.results import Failure
from meld.router.fixed import OwnExpert
from meld.seeds import derive
from meld.stages.paths import check_seeds, possible_steps
from meld.store.keys import component_spec, digest
from meld.store.store import Store
from meld.task.base import Task


class Draft:
    """What every stage asks when its node is drawn up, and where the node goes.

    Args:
        tree: The resolved, validated configuration as plain containers.
        store: Where artifacts are.
    """

    def __init__(self, tree: Mapping[str, Any], store: Store) -> None:
        self.tree = tree
        self.store = store
        self.seed = int(tree["seed"])
        self.c = build_components(tree)
        allow = tuple(tree.get("allow") or ())
        self.tasks: dict[str, Task] = {
            n: build(cfg, allow=allow, place=f"tasks.{n}") for n, cfg in tree["tasks"].items()
        }
        self.datasets: dict[str, Dataset] = {
            n: build(cfg, allow=allow, place=f"datasets.{n}") for n, cfg in tree["datasets"].items()
        }
        self.alone = asks_alone(self.c.engine)
        self.joint = bool(getattr(self.c.expert, "shared", False))
        self.exclude = tuple(tree.get("exclude") or ())
        self.lenders: dict[str, tuple[str, ...]] = {}
        self.workshop = Workshop(self.tasks, self.c.serializer, self.c.encoder, lambda unit: self.lenders.get(unit, ()))
        self.nodes: dict[str, Node] = {}
        self.spec = {
            name: component_spec(tree[name])
            for name in Components.__dataclass_fields__
            if isinstance(tree[name], Mapping)
        }
        self.weights = {name: getattr(self.c, name).fingerprint() for name in ("encoder", "backbone", "proxy")}
        self.router = OwnExpert() if self.joint else self.c.router
        if self.joint:
            self.spec["router"] = component_spec({"_target_": "meld.router.fixed.OwnExpert"})
        self.found = find_sources(self.datasets, tree["datasets"], store)
        self.masking, self.masked = _mask(tree, tuple(self.found.digests), self.task)
        self.units = tuple(u for u in self.found.digests if u not in self.masking.withheld or u in self.masked)
        self.open = tuple(u for u in self.units if u not in self.masked)
        self.experts = tuple(u for u in self.open if self.task(u).solver == "llm")
        self.failures: dict[str, Failure] = {}
        # Units that are withheld or whose data cannot be read are units all the same.
        every = declared_units(tree)
        check_seeds(self.c.metapath.seeds, every, tuple(u for u in every if self.task(u).solver == "llm"))

    def add(
        self,
        stage: str,
        unit: str,
        version: int,
        inputs: Mapping[str, Node],
        config: Mapping[str, Any],
        run: Run,
        trains: bool = False,
        seed: int | None = None,
    ) -> Node:
        """Give a stage its node.

        Args:
            stage: Kind of artifact.
            unit: What it is of.
            version: Of the stage's code; another one is another key.
            inputs: Artifacts it reads, by the names under which it finds them.
            config: Everything else its content depends on.
            run: Computes it.
            trains: Whether a trainer runs in it.
            seed: Instead of the one derived from the run's, for what no run's seed may change.
        """
        seed = derive(self.seed, stage, unit) if seed is None else seed
        key = digest(stage, version, dict(config), {name: node.key for name, node in inputs.items()}, seed)
        # Content has a digest for a configuration; the options it was read with explain it.
        name = unit.rpartition(".")[0]
        origin = {"datasets": {name: component_spec(self.tree["datasets"][name])}} if "content" in config else {}
        node = Node(stage, unit, key, dict(inputs), dict(config), seed, run, trains, version, origin)
        self.nodes[node.id] = node
        return node

    def get(self, stage: str, unit: str = "suite") -> Node:
        """A stage's node."""
        return self.nodes[f"{stage}:{unit}"]

    def reaches(self, unit: str, stage: str) -> bool:
        """Whether a unit has an artifact of a kind: it has not failed before or at it."""
        failure = self.failures.get(unit)
        return failure is None or ORDER.index(stage) < ORDER.index(failure.stage)

    def at(self, stage: str, units: Sequence[str] | None = None) -> tuple[str, ...]:
        """The units that have an artifact of a kind, of those given."""
        return tuple(unit for unit in (self.units if units is None else units) if self.reaches(unit, stage))

    def adapter(self, stage: str, unit: str) -> Node:
        """The *init* or *refine* node whose adapter answers for a unit."""
        return self.get(stage, JOINT if self.joint else unit)

    def asks_flagged(self, unit: str) -> bool:
        """Whether a unit asks about the cells that error detection flags."""
        return getattr(self.task(unit), "cells", None) == "flagged"

    def flags(self, unit: str) -> dict[str, Node]:
        """The answers of error detection, as an input of the data cleaning that asks about the cells it flags.

        Empty for other units, and where detection is not among the units that answer (masked settings): every cell is
        asked about there.
        """
        detection = f"{unit.rpartition('.')[0]}.ed"
        if not self.asks_flagged(unit) or detection not in (self.masking.targets or self.units):
            return {}
        return {"flags": self.get("infer", detection)}

    def task(self, unit: str) -> Task:
        """The unit's task."""
        return self.tasks[unit.rpartition(".")[2]]

    def task_spec(self, unit: str) -> dict[str, Any]:
        """What of the task's configuration matters before questions are answered."""
        late: frozenset[str] = getattr(self.task(unit), "AT_INFERENCE", frozenset())
        spec = component_spec(self.tree["tasks"][unit.rpartition(".")[2]])
        return {name: value for name, value in spec.items() if name not in late}

    def unit_inputs(self, *units: str, annotated: bool = True) -> dict[str, Node]:
        """What :meth:`Workshop.unit` needs for units, those that lend them their labels included."""
        inputs = {"encode": self.get("encode")}
        for unit in (*units, *(lender for borrower in units for lender in self.lenders.get(borrower, ()))):
            inputs[f"data:{unit}"] = self.get("data", unit)
            inputs[f"index:{unit}"] = self.get("index", unit)
            if annotated:
                inputs[f"annotate:{unit}"] = self.get("annotate", unit)
        return inputs

    def asking(self, *units: str) -> dict[str, Any]:
        """What prompts and answers of units depend on."""
        return {
            "serializer": self.spec["serializer"],
            "backbone": self.spec["backbone"],
            "weights": self.weights["backbone"],
            "tasks": {u: self.task_spec(u) for u in sorted(units)},
        }

    def steps(self, unit: str, llm: bool) -> tuple[str, ...]:
        """Possible steps of a unit's path: with or without those that ask a language model."""
        if not self.c.metapath.max_path:
            return ()
        policy = self.c.metapath
        known = self.at("annotate", self.units if unit in self.masked else self.open)
        known = tuple(u for u in known if u not in self.experts or self.reaches(u, "init"))
        found = possible_steps(unit, known, self.experts, policy.rules, policy.seeds, llm)
        return tuple(u for u in found if u in self.experts or self.task(u).solver == "encoder")

    def seed_config(self, *units: str) -> dict[str, Any]:
        """The seed paths whose facts experts are trained to read, and their order where it can matter."""
        policy = self.c.metapath
        first = {u: policy.seeds.paths(u, self.steps(u, llm=False))[:1] for u in units}
        longer = any(len(path) > 1 for paths in first.values() for path in paths)
        chase = {"chase": policy.rules.chase} if longer else {}
        return {"seed_paths": first[units[0]] if len(units) == 1 else first, **chase}

    def refined(self) -> dict[str, Node]:
        """Every expert's adapter, by the name it has as an expert."""
        experts = self.at("refine", self.experts)
        names = (JOINT,) if self.joint and experts else experts
        return {f"refine:{name}": self.get("refine", name) for name in names}

    def router_spec(self, at_inference: bool) -> dict[str, Any]:
        """The router's arguments that enter at inference, or all others."""
        late: frozenset[str] = getattr(self.router, "AT_INFERENCE", frozenset())
        return {name: value for name, value in self.spec["router"].items() if (name in late) == at_inference}


def _mask(
    tree: Mapping[str, Any], units: tuple[str, ...], task: Callable[[str], Task]
) -> tuple[Masking, tuple[str, ...]]:
    """What is withheld, and which withheld units are in the plan all the same, without their labels and pool.

    The latter are the targets, and blocking of their datasets, which attaches neighbours and learns from nothing.
    """
    found = masking_of(tree, units, tuple(u for u in units if task(u).solver == "llm"))
    datasets = {target.rpartition(".")[0] for target in found.targets}
    blocking = {u for u in found.withheld if u.rpartition(".")[0] in datasets and u.endswith(".blk")}
    return found, tuple(u for u in units if u in found.targets or u in blocking)
