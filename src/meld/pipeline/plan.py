"""The plan of a run: every stage for every unit as a node with its key, known before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from meld.config.validate import STAGES
from meld.errors import UserError
from meld.pipeline import chain, roster
from meld.pipeline.draft import Draft
from meld.pipeline.node import Plan
from meld.report.results import Failure
from meld.store.store import Store


def make_plan(tree: Mapping[str, Any], store: Store, failures: Sequence[Failure] = ()) -> Plan:
    """Plan a run.

    Loads datasets whose content is not known yet (their digests are remembered in the store), computes nothing else.
    A dataset that cannot be loaded is left out as long as another one can, and named in ``Plan.failures``.

    Args:
        tree: The resolved, validated configuration as plain containers.
        store: Where artifacts are.
        failures: Units to leave out, each from the stage on at which it failed: what they gave to other units before
            that, these keep.

    Raises:
        ConfigError: If a dataset does not take its options.
        UserError: If weights are missing, or no dataset can be loaded.
    """
    return _plan(Draft(tree, store), tuple(failures))


def _plan(draft: Draft, failures: tuple[Failure, ...] = ()) -> Plan:
    """All nodes, apart from those of units that failed, from the stage on at which they did."""
    draft.nodes = {}
    draft.failures = {failure.unit: failure for failure in (*draft.found.failures, *failures)}
    _fail_those_who_wait(draft)
    chain.add_data(draft)
    for target in draft.masking.targets:
        task = target.rpartition(".")[2]
        draft.lenders[target] = tuple(u for u in draft.at("annotate", draft.open) if u.rpartition(".")[2] == task)
    for unit in draft.at("serialize"):
        chain.add_serialize(draft, unit)
    chain.add_encode(draft)
    for unit in draft.at("index"):
        chain.add_index(draft, unit)
    for unit in draft.at("annotate", draft.open):
        chain.add_annotate(draft, unit)
    for unit in draft.at("annotate", draft.masked):
        roster.add_masked_annotate(draft, unit)
    for unit in draft.at("balance", draft.open):
        if getattr(draft.task(unit), "match_share", None) == "pool" and not draft.alone:
            chain.add_balance(draft, unit)
    if not draft.alone:
        _add_experts(draft)
    for target in () if draft.alone else draft.at("metapath", draft.masking.targets):
        roster.add_masked_path(draft, target)
    if draft.at("refine", draft.experts) and not draft.alone:
        chain.add_route(draft)
        for name in sorted(draft.tree.get("adapters") or {}):
            roster.add_register(draft, name)
    answered = draft.masking.targets or draft.units
    # Error detection, whoever answers it, comes before data cleaning (see `flags`).
    first = {unit: (draft.task(unit).solver != "encoder", draft.task(unit).name != "ed") for unit in answered}
    for unit in sorted(draft.at("infer", answered), key=first.__getitem__):
        chain.add_infer(draft, unit)
    for unit in draft.at("evaluate", answered):
        chain.add_evaluate(draft, unit)
    synthetic = tuple(name for name, dataset in draft.datasets.items() if dataset.synthetic)
    order = {stage: i for i, stage in enumerate(STAGES)}
    nodes = sorted(draft.nodes.values(), key=lambda node: order[node.chain_stage])
    return Plan(
        tuple(nodes),
        answered,
        draft.masking.targets or draft.experts,
        synthetic,
        draft.workshop,
        draft.c.trainer,
        draft.c.backbone,
        (*draft.found.notes, *roster.notes(draft)),
        lambda unit: draft.found.of(unit).units[unit],
        tuple(draft.failures.values()),
        lambda failure: _plan(draft, (*failures, failure)),
    )


def _add_experts(draft: Draft) -> None:
    """The experts: one per unit, or one for all."""
    if draft.joint and draft.at("init", draft.experts):
        roster.add_joint_init(draft)
    for unit in () if draft.joint else draft.at("init", draft.experts):
        chain.add_init(draft, unit)
    for unit in draft.at("metapath", draft.experts):
        chain.add_metapath(draft, unit)
    if draft.spec["selector"]["_target_"] != "meld.selector.none.NoSelector":
        for unit in draft.at("pick", draft.experts):
            chain.add_select(draft, unit)
    if draft.joint and draft.at("refine", draft.experts):
        roster.add_joint_refine(draft)
    for unit in () if draft.joint else draft.at("refine", draft.experts):
        chain.add_refine(draft, unit)


def _fail_those_who_wait(draft: Draft) -> None:
    """Data cleaning of flagged cells cannot do without the detection that flags them: it would ask other cells."""
    for unit in draft.units:
        flags = f"{unit.rpartition('.')[0]}.ed"
        waits = draft.asks_flagged(unit) and flags in draft.units and draft.reaches(unit, "infer")
        if waits and not draft.reaches(flags, "infer"):
            error = UserError(
                f"{unit} asks about the cells that {flags} flags, and {flags} failed.",
                fix=f"mend {flags}, or tasks.dc.cells=all",
            )
            draft.failures[unit] = Failure.of(unit, "infer", error)
