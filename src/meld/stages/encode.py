"""encode: train M_RAG on the alignments of the suite, and embed every unit's texts with it (the index)."""

from __future__ import annotations

import numpy as np

from meld.encoder.contrastive import ContrastiveEncoder
from meld.encoder.vectors import Embeds, Vectors
from meld.stages.base import Context, read_json, write_json
from meld.stages.serialize import load_alignments
from meld.trainer.fit import LightningTrainer

VERSION = 2
INDEX_VERSION = 2


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


def run_index(context: Context, embedder: Embeds) -> None:
    """Embed a unit's texts, part by part.

    A part shares no pass with another, so that a table's vectors are the same in every unit that has the table, and an
    embedder that remembers them embeds the table once.

    Args:
        context: Input ``serialize``.
        embedder: The trained encoder.
    """
    parts = read_json(context.inputs["serialize"] / "texts.json")
    arrays = [embedder.embed(part, context.progress) for part in parts]
    Vectors([text for part in parts for text in part], np.concatenate(arrays)).save(context.out)
