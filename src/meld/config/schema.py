"""The typed root of the configuration: what may stand at the top level, and of which type.

The values live in ``conf/meld.yaml`` alone; a field without a value there is reported as missing. Group nodes are
``Any``: their content is checked against the signature of the class they name (``validate.py``), so that a component
declares its arguments once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

ROOT_SCHEMA = "base_meld"
"""The schema's name in the defaults list of ``conf/meld.yaml``."""

COMPONENT_GROUPS: dict[str, str] = {
    "serializer": "serializer",
    "encoder": "encoder",
    "retriever": "retriever",
    "annotator": "annotator",
    "backbone": "backbone",
    "proxy": "backbone@proxy",
    "expert": "expert",
    "metapath": "metapath",
    "selector": "selector",
    "refine": "refine",
    "router": "router",
    "mixer": "mixer",
    "engine": "engine",
    "trainer": "trainer",
    "logger": "logger",
    "transfer": "transfer",
}
"""Where in the configuration each group's option lands, and how the group is written on the command line."""


@dataclass
class Paths:
    """Where things lie on this machine. Never part of a key.

    Attributes:
        data: Benchmark data, one folder per dataset.
        store: Artifacts.
        runs: Run directories.
    """

    data: str = MISSING
    store: str = MISSING
    runs: str = MISSING


@dataclass
class Limits:
    """How much of everything is read at most; None for all. They bound time, not memory.

    Attributes:
        alignments: Alignments of each unit that train M_RAG.
        transformed: Samples of each unit that come from other tasks' labels.
        samples: Samples an expert is trained on.
        warm_up: Samples whose gradients estimate the curvature of the influence.
        router_queries: Labelled queries of each unit that every expert answers for the router.
    """

    alignments: int | None = None
    transformed: int | None = None
    samples: int | None = None
    warm_up: int = MISSING
    router_queries: int = MISSING


@dataclass
class Paper:
    """What an experiment compares, set by its preset. Read by reports alone.

    Attributes:
        title: Title of the table or figure.
        table: File of ``experiments/published`` (without ``.csv``) with the papers' numbers; None for none.
        rows: Swept keys whose values tell the rows apart, in their order.
        each: A swept key whose value names the only units that a job is scored on.
        by_scale: Scale to further keys of the grid with their values: what the scales cannot have in common.
        reference: The row that the others are compared with, its values joined by commas; None for the first.
        labels: What a row's value is called in the table.
        figure: What is drawn: ``bars`` | ``line`` | ``heatmap`` | ``tsne`` | ``cost`` | ``throughput``.
        note: What to know when comparing with the published numbers.
    """

    title: str = ""
    table: str | None = None
    rows: list[str] = field(default_factory=list)
    each: str | None = None
    by_scale: dict[str, dict[str, str]] = field(default_factory=dict)
    reference: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    figure: str = "bars"
    note: str = ""


@dataclass
class MeldConfig:
    """The resolved configuration of one run; the numbers are explained in ``conf/meld.yaml``.

    Attributes:
        system: Name under which results are reported, set by ``method``.
        seed: Seed of everything but the few-shot sample.
        data_seed: Seed of the few-shot sample.
        k: Experts mixed per query.
        B: Batch size |B| of influence clusters.
        c: Share of the augmented pool that selection keeps, in (0, 1].
        n_demos: Demonstrations per prompt.
        sigma: Rounds of refinement.
        tau: Temperature of the contrastive losses.
        lambda1: Weight of coverage in F_div.
        lambda2: Weight of redundancy in F_div.
        damping: Damping of the inverse Hessian.
        max_path: Most steps of a meta-path before the dataset's own expert.
        path_steps: Tasks whose experts may be steps of a meta-path.
        path_align: Cosine from which two attributes' names are taken for one attribute; None compares spellings only.
        until: Last stage to run; None for all.
        force: Stage or stages to compute again; None for none.
        dry_run: Print what would be done.
        paper: What an experiment is compared with.
        allow: The user's own packages that ``_target_`` may name.
        limits: How much is read at most.
        paths: Where things lie.
        datasets: Datasets of the suite by name.
        tasks: Tasks by short name.
        adapters: Adapters trained elsewhere, by the name they get as experts: ``{path, base}`` each.
        exclude: Experts that answer nothing, of the suite or registered.
    """

    system: str = "meld"
    seed: int = MISSING
    data_seed: int = MISSING
    k: int = MISSING
    B: int = MISSING
    c: float = MISSING
    n_demos: int = MISSING
    sigma: int = MISSING
    tau: float = MISSING
    lambda1: float = MISSING
    lambda2: float = MISSING
    damping: float = MISSING
    max_path: int = MISSING
    path_steps: list[str] = MISSING
    path_align: float | None = MISSING
    until: str | None = None
    force: Any = None
    dry_run: bool = False
    paper: Paper = field(default_factory=Paper)
    allow: list[str] = field(default_factory=list)
    limits: Limits = field(default_factory=Limits)
    paths: Paths = field(default_factory=Paths)
    datasets: dict[str, Any] = field(default_factory=dict)
    tasks: dict[str, Any] = field(default_factory=dict)
    adapters: dict[str, Any] = field(default_factory=dict)
    exclude: list[str] = field(default_factory=list)
    serializer: Any = MISSING
    encoder: Any = MISSING
    retriever: Any = MISSING
    annotator: Any = MISSING
    backbone: Any = MISSING
    proxy: Any = MISSING
    expert: Any = MISSING
    metapath: Any = MISSING
    selector: Any = MISSING
    refine: Any = MISSING
    router: Any = MISSING
    mixer: Any = MISSING
    engine: Any = MISSING
    trainer: Any = MISSING
    logger: Any = MISSING
    transfer: Any = MISSING


def register_schema() -> None:
    """Make the schema known to Hydra as ``base_meld``. May be called again."""
    ConfigStore.instance().store(name=ROOT_SCHEMA, node=MeldConfig, provider="meld schema")
