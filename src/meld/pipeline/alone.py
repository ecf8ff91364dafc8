"""The plan where a model answers without experts: retrieval, then answers; nothing of a base model is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meld.engine.base import AloneEngine
from meld.pipeline.workshop import Workshop
from meld.stages import alone
from meld.stages.base import Context

if TYPE_CHECKING:
    from meld.pipeline.plan import _Planner as Planner


def add_infer(plan: Planner, unit: str) -> None:
    """Stands in for *infer* where no expert answers."""
    engine = plan.c.engine
    assert isinstance(engine, AloneEngine)

    def run(context: Context, shop: Workshop) -> None:
        questions = shop.questions(context, unit, plan.c.backbone)
        alone.run(context, questions, engine, plan.c.backbone, shop.model(plan.c.backbone))

    inputs = {**plan.unit_inputs(unit), **plan.flags(unit)}
    config = {**plan.asking(unit), "engine": plan.spec["engine"]}
    plan.add("infer", unit, alone.VERSION, inputs, config, run)
