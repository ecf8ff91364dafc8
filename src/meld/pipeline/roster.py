"""Plans beside the usual one: a joint expert, registered adapters, and units whose labels are withheld."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from meld.config.roster import JOINT, masking_of
from meld.config.transfer import Masking
from meld.pipeline.workshop import Workshop
from meld.stages import annotate, init, joint, masked, metapath, refine, register
from meld.stages.base import Context
from meld.store.keys import weights_digest

if TYPE_CHECKING:
    from meld.pipeline.plan import _Planner as Planner


def mask(plan: Planner) -> tuple[Masking, tuple[str, ...]]:
    """What is withheld, and which withheld units are in the plan all the same, without their labels and pool.

    The latter are the targets, and blocking of their datasets, which attaches neighbours and learns from nothing.
    """
    units = tuple(plan.found.digests)
    found = masking_of(plan.tree, units, tuple(u for u in units if plan.task(u).solver == "llm"))
    datasets = {target.rpartition(".")[0] for target in found.targets}
    blocking = {u for u in found.withheld if u.rpartition(".")[0] in datasets and u.endswith(".blk")}
    return found, tuple(u for u in units if u in found.targets or u in blocking)


def notes(plan: Planner) -> list[str]:
    """What is withheld, and what k and the router come down to."""
    said = []
    if plan.masking:
        said.append(
            f"answered without their own expert, labels and pool: {', '.join(plan.masking.targets)}; "
            f"withheld from every stage: {', '.join(sorted(plan.masking.withheld))}"
        )
    mixed = plan.at("refine", plan.experts)
    if plan.joint and mixed:
        return [*said, "expert=joint: one adapter answers everything; router and k play no part"]
    left = [e for e in (*mixed, *(plan.tree.get("adapters") or {})) if e not in plan.exclude]
    if mixed and int(plan.tree["k"]) > len(left):
        said.append(f"k = {plan.tree['k']} is lowered to the {len(left)} experts left: {', '.join(left)}")
    return said


def add_masked_annotate(plan: Planner, unit: str) -> None:
    """Stands in for *annotate* where labels and pool are withheld."""

    def run(context: Context, shop: Workshop) -> None:
        masked.run_annotate(context, shop.unit(context, unit), plan.c.retriever)

    inputs = plan.unit_inputs(unit, annotated=False)
    inputs |= {f"annotate:{lender}": plan.get("annotate", lender) for lender in plan.lenders.get(unit, ())}
    config = {
        "masked": masked.VERSION,
        "retriever": plan.spec["retriever"],
        "serializer": plan.spec["serializer"],
        "tasks": {unit: plan.task_spec(unit)},
    }
    plan.add("annotate", unit, annotate.VERSION, inputs, config, run)


def add_masked_path(plan: Planner, unit: str) -> None:
    """The user's seed path for a unit without a dev set; its steps learn from other units, or from nothing."""
    found = plan.c.metapath.seeds.paths(unit, plan.steps(unit, llm=True))
    path = list(found[0]) if found else []

    def run(context: Context, shop: Workshop) -> None:
        masked.run_path(context, path, plan.c.metapath.rules.chase)

    plan.add("metapath", unit, metapath.VERSION, {}, {"masked": masked.VERSION, "path": path}, run, seed=0)


def add_joint_init(plan: Planner) -> None:
    """One adapter on X_i of all units."""
    experts = plan.at("init", plan.experts)
    steps = {unit: plan.steps(unit, llm=False) for unit in experts}

    def run(context: Context, shop: Workshop) -> None:
        joint.run_init(
            context,
            {u: shop.questions(context, u, plan.c.backbone) for u in experts},
            {u: {step: shop.unit(context, step) for step in steps[u]} for u in experts},
            plan.c.metapath,
            plan.c.expert,
            plan.c.backbone,
            shop.model(plan.c.backbone),
            plan.c.trainer,
        )

    config = {
        **plan.asking(*experts),
        "joint": joint.VERSION,
        "expert": plan.spec["expert"],
        "trainer": plan.spec["trainer"],
        **plan.seed_config(*experts),
    }
    behind = dict.fromkeys(step for unit in experts for step in steps[unit])
    inputs = plan.unit_inputs(*experts, *(step for step in behind if step not in experts))
    plan.add("init", JOINT, init.VERSION, inputs, config, run, trains=True)


def add_joint_refine(plan: Planner) -> None:
    """The joint adapter, refined on X_aug of all units."""
    experts = plan.at("refine", plan.experts)

    def run(context: Context, shop: Workshop) -> None:
        joint.run_refine(
            context,
            {u: shop.questions(context, u, plan.c.backbone) for u in experts},
            plan.c.refine,
            plan.c.expert,
            plan.c.backbone,
            shop.model(plan.c.backbone),
            plan.c.trainer,
        )

    inputs = plan.unit_inputs(*experts)
    inputs |= {f"metapath:{u}": plan.get("metapath", u) for u in experts}
    inputs |= {f"pick:{u}": plan.get("pick", u) for u in experts if f"pick:{u}" in plan.nodes}
    inputs["init"] = plan.get("init", JOINT)
    config = {
        **plan.asking(*experts),
        "joint": joint.VERSION,
        "refine": plan.spec["refine"],
        "expert": plan.spec["expert"],
        "trainer": plan.spec["trainer"],
    }
    plan.add("refine", JOINT, refine.VERSION, inputs, config, run, trains=True)


def add_register(plan: Planner, name: str) -> None:
    """One more expert from an adapter trained elsewhere.

    Raises:
        UserError: If it does not belong beside the experts.
    """
    experts = plan.at("refine", plan.experts)
    entry = plan.tree["adapters"][name]
    folder = Path(str(entry["path"]))
    register.check_adapter(name, folder, plan.c.backbone.path, entry.get("base"), plan.c.expert.rank)

    def run(context: Context, shop: Workshop) -> None:
        register.run(
            context,
            name,
            folder,
            {u: shop.questions(context, u, plan.c.backbone) for u in experts},
            plan.router,
            plan.c.backbone,
            shop.model(plan.c.backbone),
        )

    inputs = {**plan.unit_inputs(*experts), "route": plan.get("route")}
    inputs |= {f"metapath:{u}": plan.get("metapath", u) for u in experts}
    config = {
        **plan.asking(*experts),
        "router": plan.router_spec(False),
        "adapter": weights_digest(folder, plan.store.root / ".sources"),
    }
    plan.add("register", name, register.VERSION, inputs, config, run)
