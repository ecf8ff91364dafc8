"""What a plan is made of: nodes, one for every artifact, and the order in which they can be made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meld.backbone.huggingface import HuggingFaceBackbone
from meld.config.validate import STAGES
from meld.pipeline.workshop import Workshop
from meld.report.results import Failure
from meld.stages.base import Context
from meld.store.store import Store
from meld.trainer.fit import LightningTrainer
from meld.types import UnitData

Run = Callable[[Context, Workshop], None]

PART_OF = {
    "index": "encode",
    "balance": "annotate",
    "features": "select",
    "influence": "select",
    "pick": "select",
    "register": "route",
    "gold": "evaluate",
    "baseline": "evaluate",
}
"""Artifacts that belong to a stage of the chain under a name of their own."""


ORDER = (
    "data",
    "serialize",
    "encode",
    "index",
    "annotate",
    "balance",
    "init",
    "metapath",
    "features",
    "influence",
    "pick",
    "refine",
    "route",
    "infer",
    "gold",
    "baseline",
    "evaluate",
)
"""Kinds of artifacts in the order in which a unit goes through them; a unit that fails at one has none from it on."""


@dataclass(frozen=True)
class Node:
    """One artifact to be made.

    Attributes:
        stage: Kind of the artifact, the folder below the store.
        unit: The unit it is about; ``suite`` for artifacts of all units.
        key: Hash of everything below.
        inputs: Nodes it reads, by the name under which the stage finds them.
        config: What of the configuration it depends on.
        seed: Seed derived from the run's seed, the stage and the unit.
        run: Makes it.
        trains: Whether it trains with Lightning, so that ``trainer.isolate`` runs it in a process of its own.
        version: The stage's version.
        origin: The options behind a configuration that is only a digest of content, for explanations; no part of the
            key.
    """

    stage: str
    unit: str
    key: str
    inputs: Mapping[str, Node]
    config: Mapping[str, Any]
    seed: int
    run: Run = field(repr=False, compare=False)
    trains: bool = False
    version: int = 0
    origin: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """``<stage>:<unit>``, unique within a plan."""
        return f"{self.stage}:{self.unit}"

    @property
    def sources(self) -> dict[str, str]:
        """Its inputs as a manifest names them: ``stage/key`` by name."""
        return {name: f"{node.stage}/{node.key}" for name, node in self.inputs.items()}

    @property
    def chain_stage(self) -> str:
        """The stage of the chain it belongs to, as ``until`` and ``force`` name it."""
        return PART_OF.get(self.stage, self.stage)


@dataclass(frozen=True)
class Plan:
    """All nodes of a run in an order in which they can be made.

    Attributes:
        nodes: Inputs come before the nodes that read them.
        units: The units that are answered, in the order of the suite; with masking the targets alone.
        experts: Those of them that experts answer.
        synthetic: Datasets that the project made itself.
        workshop: Shared models.
        trainer: Fits modules.
        backbone: The experts' base model.
        notes: What loading the data had to handle.
        load_data: Loads a unit's visible data without the store.
        failures: Units that are left out, and why.
        without: The plan in which one more unit is left out, from the stage at which it failed.
    """

    nodes: tuple[Node, ...]
    units: tuple[str, ...]
    experts: tuple[str, ...]
    synthetic: tuple[str, ...]
    workshop: Workshop
    trainer: LightningTrainer
    backbone: HuggingFaceBackbone
    notes: tuple[str, ...]
    load_data: Callable[[str], UnitData]
    failures: tuple[Failure, ...]
    without: Callable[[Failure], Plan]

    @property
    def scored(self) -> tuple[str, ...]:
        """The units that come to be scored: those that have not failed."""
        failed = {failure.unit for failure in self.failures}
        return tuple(unit for unit in self.units if unit not in failed)

    def node(self, id_: str) -> Node:
        """The node with an id."""
        return next(node for node in self.nodes if node.id == id_)

    def wanted(self, until: str | None) -> tuple[Node, ...]:
        """Nodes up to and including a stage of the chain, without those that nothing wanted reads."""
        if until is None:
            return self.nodes
        last = STAGES.index(until)
        return tuple(node for node in self.nodes if STAGES.index(node.chain_stage) <= last)


def artifact(store: Store, node: Node) -> Path:
    """Where a node's artifact is or will be."""
    return store.path(node.stage, node.key)
