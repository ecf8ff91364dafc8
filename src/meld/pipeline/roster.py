"""Plans beside the usual one: a joint expert, registered adapters, and units whose labels are withheld."""

from __future__ import annotations

from pathlib import Path

from meld.config.roster import JOINT
from meld.pipeline.draft import Draft
from meld.pipeline.workshop import Workshop
from meld.stages import annotate, init, joint, masked, metapath, refine, register
from meld.stages.base import Context
from meld.store.keys import weights_digest


def notes(draft: Draft) -> list[str]:
    """What is withheld, and what k and the router come down to."""
    said = []
    if draft.masking:
        said.append(
            f"answered without their own expert, labels and pool: {', '.join(draft.masking.targets)}; "
            f"withheld from every stage: {', '.join(sorted(draft.masking.withheld))}"
        )
        for target in draft.masking.targets:
            lenders = draft.lenders.get(target)
            said.append(f"{target} is lent labels by {', '.join(lenders) if lenders else 'nobody'}")
    mixed = draft.at("refine", draft.experts)
    if draft.joint and mixed:
        return [*said, "expert=joint: one adapter answers everything; router and k play no part"]
    left = [e for e in (*mixed, *(draft.tree.get("adapters") or {})) if e not in draft.exclude]
    if mixed and int(draft.tree["k"]) > len(left):
        said.append(f"k = {draft.tree['k']} is lowered to the {len(left)} experts left: {', '.join(left)}")
    return said


def add_masked_annotate(draft: Draft, unit: str) -> None:
    """Stands in for *annotate* where labels and pool are withheld."""

    def run(context: Context, shop: Workshop) -> None:
        masked.run_annotate(context, shop.unit(context, unit), draft.c.retriever)

    inputs = draft.unit_inputs(unit, annotated=False)
    inputs |= {f"annotate:{lender}": draft.get("annotate", lender) for lender in draft.lenders.get(unit, ())}
    config = {
        "masked": masked.VERSION,
        "retriever": draft.spec["retriever"],
        "serializer": draft.spec["serializer"],
        "tasks": {unit: draft.task_spec(unit)},
    }
    draft.add("annotate", unit, annotate.VERSION, inputs, config, run)


def add_masked_path(draft: Draft, unit: str) -> None:
    """The user's seed path for a unit without a dev set; its steps learn from other units, or from nothing."""
    found = draft.c.metapath.seeds.paths(unit, draft.steps(unit, llm=True))
    path = list(found[0]) if found else []

    def run(context: Context, shop: Workshop) -> None:
        masked.run_path(context, path, draft.c.metapath.rules.chase)

    draft.add("metapath", unit, metapath.VERSION, {}, {"masked": masked.VERSION, "path": path}, run, seed=0)


def add_joint_init(draft: Draft) -> None:
    """One adapter on X_i of all units."""
    experts = draft.at("init", draft.experts)
    steps = {unit: draft.steps(unit, llm=False) for unit in experts}

    def run(context: Context, shop: Workshop) -> None:
        joint.run_init(
            context,
            {u: shop.questions(context, u, draft.c.backbone) for u in experts},
            {u: {step: shop.unit(context, step) for step in steps[u]} for u in experts},
            draft.c.metapath,
            draft.c.expert,
            draft.c.backbone,
            shop.model(draft.c.backbone),
            draft.c.trainer,
        )

    config = {
        **draft.asking(*experts),
        "joint": joint.VERSION,
        "expert": draft.spec["expert"],
        "trainer": draft.spec["trainer"],
        **draft.seed_config(*experts),
    }
    behind = dict.fromkeys(step for unit in experts for step in steps[unit])
    inputs = draft.unit_inputs(*experts, *(step for step in behind if step not in experts))
    draft.add("init", JOINT, init.VERSION, inputs, config, run, trains=True)


def add_joint_refine(draft: Draft) -> None:
    """The joint adapter, refined on X_aug of all units."""
    experts = draft.at("refine", draft.experts)

    def run(context: Context, shop: Workshop) -> None:
        joint.run_refine(
            context,
            {u: shop.questions(context, u, draft.c.backbone) for u in experts},
            draft.c.refine,
            draft.c.expert,
            draft.c.backbone,
            shop.model(draft.c.backbone),
            draft.c.trainer,
        )

    inputs = draft.unit_inputs(*experts)
    inputs |= {f"metapath:{u}": draft.get("metapath", u) for u in experts}
    inputs |= {f"pick:{u}": draft.get("pick", u) for u in experts if f"pick:{u}" in draft.nodes}
    inputs["init"] = draft.get("init", JOINT)
    config = {
        **draft.asking(*experts),
        "joint": joint.VERSION,
        "refine": draft.spec["refine"],
        "expert": draft.spec["expert"],
        "trainer": draft.spec["trainer"],
    }
    draft.add("refine", JOINT, refine.VERSION, inputs, config, run, trains=True)


def add_register(draft: Draft, name: str) -> None:
    """One more expert from an adapter trained elsewhere.

    Raises:
        UserError: If it does not belong beside the experts.
    """
    experts = draft.at("refine", draft.experts)
    entry = draft.tree["adapters"][name]
    folder = Path(str(entry["path"]))
    register.check_adapter(name, folder, draft.c.backbone.path, entry.get("base"), draft.c.expert.rank)

    def run(context: Context, shop: Workshop) -> None:
        register.run(
            context,
            name,
            folder,
            {u: shop.questions(context, u, draft.c.backbone) for u in experts},
            draft.router,
            draft.c.backbone,
            shop.model(draft.c.backbone),
        )

    inputs = {**draft.unit_inputs(*experts), "route": draft.get("route")}
    inputs |= {f"metapath:{u}": draft.get("metapath", u) for u in experts}
    config = {
        **draft.asking(*experts),
        "router": draft.router_spec(False),
        "adapter": weights_digest(folder, draft.store.root / ".sources"),
    }
    draft.add("register", name, register.VERSION, inputs, config, run)
