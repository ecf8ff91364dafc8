"""infer without experts: a model as it came from its makers answers every test query, with demonstrations alone."""

from __future__ import annotations

import numpy as np

from meld.backbone.huggingface import HuggingFaceBackbone
from meld.backbone.language_model import LanguageModel
from meld.dataset.io import save_predictions
from meld.engine.base import AloneEngine
from meld.metapath.record import Asked, save_asked
from meld.stages.answering import answer_fully
from meld.stages.base import Context, write_json
from meld.stages.infer import split_queries
from meld.stages.questions import Questions

VERSION = 1


def run(
    context: Context, questions: Questions, engine: AloneEngine, backbone: HuggingFaceBackbone, lm: LanguageModel
) -> None:
    """Write what *infer* writes: ``predictions.parquet``, ``asked.parquet`` and ``routing.json``.

    Nothing of the method but retrieval takes part: no expert, no meta-path, no evidence prior.

    Args:
        context: Inputs of the unit and, for data cleaning of flagged cells, ``flags`` (predictions of error detection).
        questions: Questions of the unit.
        engine: Asks the model.
        backbone: For the length of answers.
        lm: The pipeline's base model, which only measures the length of prompts.
    """
    unit = questions.unit
    asked, skipped = split_queries(unit, context.inputs.get("flags"))
    # Whatever the experts' base model does, this one writes: it can be told no prior and no candidates.
    written = Questions(unit, questions.writer, rank=False, max_demos=questions.max_demos)
    model = engine.open_alone(lm)
    try:
        gates = np.zeros((len(asked), 0))
        answers = answer_fully(written, asked, model, gates, backbone, context.progress, what=f"answer {unit.name}")
    finally:
        model.close()
    record = [
        Asked(q, (), a.prompt.text, a.prompt.n_demos, a.prompt.shortened) for q, a in zip(asked, answers, strict=True)
    ]
    save_asked(record, context.out / "asked.parquet")
    predictions = [*(a.prediction for a in answers), *skipped]
    save_predictions(sorted(predictions, key=lambda p: p.query_id), context.out / "predictions.parquet")
    write_json(context.out / "routing.json", {"experts": [], "queries": len(asked), "path": []})
