"""encode: train M_RAG on the alignments of the suite, and embed every unit's texts with it (the index)."""

from __future__ import annotations

from meld.encoder.contrastive import ContrastiveEncoder
from meld.encoder.vectors import Vectors
from meld.stages.base import Context, read_json, write_json
from meld.stages.serialize import load_alignments
from meld.trainer.fit import LightningTrainer

VERSION = 1
INDEX_VERSION = 1


def run(context: Context, encoder: ContrastiveEncoder, trainer: LightningTrainer) -> None:
    """Train M_RAG and write it in sentence-transformers layout under ``model/``.

    Args:
        context: Inputs ``serialize:<unit>`` of the units that train the encoder.
        encoder: How it is trained.
        trainer: Fits it.
    """
    loaded = {unit: load_alignments(path) for unit, path in context.group("serialize").items()}
    counts = encoder.fit(
        {unit: found for unit, (found, _) in loaded.items()},
        {unit: groups for unit, (_, groups) in loaded.items()},
        context.out / "model",
        context.work,
        trainer,
        context.seed,
        context.progress,
        context.logger("M_RAG"),
    )
    write_json(context.out / "alignments.json", counts)


def run_index(context: Context, encoder: ContrastiveEncoder) -> None:
    """Embed a unit's texts.

    Args:
        context: Inputs ``serialize`` and ``encode``.
        encoder: Opens the trained encoder.
    """
    texts = read_json(context.inputs["serialize"] / "texts.json")
    embedder = encoder.open(context.inputs["encode"] / "model")
    Vectors.of(texts, embedder, context.progress).save(context.out)
