"""Parity for the other ways to train, route, mix, retrieve and answer: each is a run over the store of the tiny one."""

from __future__ import annotations

from typing import Any

import pytest

from meld.bundle.export import export_run
from meld.bundle.model import load

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

VARIANTS = {
    "excluded expert, answers mixed": ("exclude=[quickstart_people.di]", "mixer=logits"),
    "every token routed": ("router=arrow", "engine=hf"),
    "one adapter for all": ("expert=joint",),
    "registered adapter, classifier": ("+adapters.foreign.path={adapter}", "router=classifier"),
    "own experts, svd": ("router=own", "mixer=svd", "engine=hf", "expert.strengths=[0.5,1.0]"),
    "written answers after demonstrations": (
        "backbone.decode=generate",
        "backbone.max_demos=2",
        "backbone.evidence_prior=false",
        "backbone.max_prompt_tokens=256",
        "tasks.ed.solver=llm",
        "serializer=sentences",
    ),
    "demonstrations by words": ("retriever=hybrid", "backbone.max_demos=1", "backbone.max_prompt_tokens=192"),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_way_gives_the_answers_that_were_scored(
    made: Any, five: tuple[str, ...], name: str, tmp_path: Any
) -> None:
    if name == "demonstrations by words":
        pytest.importorskip("bm25s")
    adapter = (made.run / "artifacts" / "refine.quickstart_people.di" / "adapter").resolve()
    overrides = [word.format(adapter=adapter) for word in VARIANTS[name]]
    untrained = any(word in overrides for word in ("router=arrow", "router=own"))
    base = [word for word in five if not (untrained and word.startswith("router."))]
    run = made.again(*base, *overrides, f"paths.runs={tmp_path}")
    variant = type(made)(run, export_run(run, tmp_path / "bundle"))
    model = load(variant.bundle)
    assert list(model.units) == made.units
    for unit in made.units:
        variant.check(model.predict(variant.rows(unit), unit=unit, chunk=9, progress=False), unit)
    demos = model.explain(variant.rows("quickstart_people.di").iloc[[0]], "di").asked.n_demos
    assert (demos > 0) == ("demonstrations" in name)
