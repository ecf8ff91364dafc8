"""Training the embedded encoder for real, briefly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from meld.encoder.contrastive import ContrastiveEncoder
from meld.encoder.vectors import Embedder, Vectors
from meld.errors import UserError
from meld.progress import Silent
from meld.task.base import Alignment
from meld.trainer.fit import LightningTrainer

PAIRS = [("red apple", "zx-100"), ("green pear", "zx-200"), ("blue plum", "zx-300"), ("ripe fig", "zx-400")]


def fit(out: Path, work: Path, **options: object) -> dict[str, int]:
    alignments = {"d.di": [Alignment(a, (b,), (), "codes") for a, b in PAIRS]}
    groups = {"d.di": {"codes": [b for _, b in PAIRS]}}
    encoder = ContrastiveEncoder("embedded:minilm", batch_size=2, device="cpu", **{"lr": 2e-4, **options})  # type: ignore[arg-type]
    return encoder.fit(alignments, groups, out, work, LightningTrainer(), 0, Silent())


def hits(vectors: Vectors) -> float:
    """Mean lead of the aligned text over the best other one."""
    scores = vectors.get([a for a, _ in PAIRS]) @ vectors.get([b for _, b in PAIRS]).T
    others = np.where(np.eye(len(PAIRS), dtype=bool), -1, scores).max(axis=1)
    return float((np.diag(scores) - others).mean())


def test_training_moves_positives_above_negatives(tmp_path: Path) -> None:
    texts = [text for pair in PAIRS for text in pair]
    untouched = Vectors.of(texts, ContrastiveEncoder("embedded:minilm", device="cpu").open())
    counts = fit(tmp_path / "out", tmp_path / "work", epochs=6)
    assert counts == {"d.di": 4}
    encoder = ContrastiveEncoder("embedded:minilm", device="cpu").open(tmp_path / "out")
    trained = Vectors.of(texts, encoder)
    assert hits(untouched) < 0.02 < 0.1 < hits(trained)
    assert (tmp_path / "out" / "modules.json").is_file()  # sentence-transformers reads it back
    from sentence_transformers import SentenceTransformer

    plain = SentenceTransformer(str(tmp_path / "out"), device="cpu").encode(texts)
    np.testing.assert_allclose(plain, trained.get(texts), atol=1e-5)


def test_training_repeats(tmp_path: Path) -> None:
    weights = []
    for name in ("1", "2"):
        fit(tmp_path / name / "out", tmp_path / name / "work", epochs=1, max_alignments=2)
        weights.append((tmp_path / name / "out" / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_no_epochs_leave_it_untouched(tmp_path: Path) -> None:
    fit(tmp_path / "out", tmp_path / "work", epochs=0)
    texts = ["red apple", "zx-100"]
    first, second = (
        ContrastiveEncoder("embedded:minilm", device="cpu").open(folder).embed(texts)
        for folder in (None, tmp_path / "out")
    )
    assert np.array_equal(first, second)


def test_embeddings_are_unit_vectors_in_the_order_asked() -> None:
    embedder = Embedder("embedded:minilm", batch_size=2, device="cpu")
    texts = ["a", "a much longer text about many things", "", "a"]
    array = embedder.embed(texts)
    np.testing.assert_allclose(np.linalg.norm(array, axis=1), 1, atol=1e-5)
    for text, row in zip(texts, array, strict=True):
        np.testing.assert_allclose(embedder.embed([text])[0], row, atol=1e-5)
    assert embedder.embed([]).shape == (0, 384)


def test_an_unknown_encoder_is_a_user_error() -> None:
    with pytest.raises(UserError, match="no-such") as caught:
        ContrastiveEncoder("nobody/no-such-encoder").open()
    assert "encoder.path" in str(caught.value)


def test_in_batch_negatives_train_without_any_mined_one(tmp_path: Path) -> None:
    """The four pairs have no text to mine among; the batch alone supplies what they must differ from."""
    alignments = {"d.em": [Alignment(a, (b,), ("an unrelated text",), "B") for a, b in PAIRS]}
    texts = [text for pair in PAIRS for text in pair]
    leads = {}
    for in_batch in (False, True):
        encoder = ContrastiveEncoder(
            "embedded:minilm", batch_size=4, epochs=6, lr=2e-4, device="cpu", in_batch_negatives=in_batch
        )
        out = tmp_path / str(in_batch)
        counts = encoder.fit(alignments, {"d.em": {}}, out, tmp_path / f"w{in_batch}", LightningTrainer(), 0, Silent())
        assert counts == {"d.em": 4}
        leads[in_batch] = hits(Vectors.of(texts, encoder.open(out)))
    assert leads[True] > leads[False] + 0.02
