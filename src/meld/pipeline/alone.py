"""The plan where a model answers without experts: retrieval, then answers; nothing of a base model is trained."""

from __future__ import annotations

from meld.engine.base import AloneEngine
from meld.pipeline.draft import Draft
from meld.pipeline.workshop import Workshop
from meld.stages import alone
from meld.stages.base import Context


def add_infer(draft: Draft, unit: str) -> None:
    """Stands in for *infer* where no expert answers."""
    engine = draft.c.engine
    assert isinstance(engine, AloneEngine)

    def run(context: Context, shop: Workshop) -> None:
        questions = shop.questions(context, unit, draft.c.backbone)
        alone.run(context, questions, engine, draft.c.backbone, shop.model(draft.c.backbone))

    inputs = {**draft.unit_inputs(unit), **draft.flags(unit)}
    config = {**draft.asking(unit), "engine": draft.spec["engine"]}
    draft.add("infer", unit, alone.VERSION, inputs, config, run)
