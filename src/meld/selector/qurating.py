"""QuRating: a rater model's opinion of each text, sampled with a temperature (Wettig et al., 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from meld.backbone.language_model import batches_by_length
from meld.backbone.weights import explain_load_failure, fingerprint, resolve
from meld.errors import ConfigError, UserError
from meld.progress import quiet_libraries
from meld.selector.base import (
    Features,
    FloatArray,
    Material,
    Selection,
    budget,
    check_budget,
    check_ratio,
    check_scored,
)
from meld.selector.dsir import resample


class QuRating:
    """Rates every item's text (prompt and label) and draws with probability proportional to exp(rating / temperature).

    Ratings are standardised over the pool first. The published rater was trained on judgements of a large model; any
    sequence classifier serves. There is no default: a rating says something only if the rater has learnt what quality
    is.

    Args:
        c: Share of the pool to select.
        rater: Folder or hub name of a sequence-classification model.
        revision: Hub revision.
        criterion: Which of the rater's outputs is the rating; None for their mean.
        temperature: 0 takes the best, the paper's 2.0 keeps variety.
        max_length: Tokens of a text that are read.
        max_tokens: Tokens of one batch.
        max_rows: Texts of one batch.
        device: ``auto`` takes a GPU when there is one. Execution only.

    Raises:
        ConfigError: If ``c`` is not in (0, 1], or the temperature is negative.
    """

    EXECUTION_ONLY: ClassVar[frozenset[str]] = frozenset({"rater", "revision", "max_tokens", "max_rows", "device"})
    # rater and revision are represented in keys by the fingerprint of the weights instead
    needs_features: ClassVar[bool] = False
    needs_losses: ClassVar[bool] = False
    needs_texts: ClassVar[bool] = False
    needs_influence: ClassVar[bool] = True

    def __init__(
        self,
        c: float,
        rater: str | None = None,
        revision: str | None = None,
        criterion: int | None = None,
        temperature: float = 2.0,
        max_length: int = 512,
        max_tokens: int = 8192,
        max_rows: int = 64,
        device: str = "auto",
    ) -> None:
        if temperature < 0.0:
            raise ConfigError(
                f"The temperature is {temperature}; it must be at least 0.", where="selector.temperature", fix="2.0"
            )
        self.c = check_ratio(c)
        self.rater = rater
        self.revision = revision
        self.criterion = criterion
        self.temperature = temperature
        self.max_length = max_length
        self.max_tokens = max_tokens
        self.max_rows = max_rows
        self.device = device

    def fingerprint(self) -> str:
        """Identity of the rater's weights, part of every key that depends on them.

        Raises:
            UserError: If no rater is named, or its folder is not there.
        """
        return fingerprint(self._rater(), self.revision)

    def size(self, n_pool: int) -> int:
        """round(c * n), at least one.

        Raises:
            DataError: If the pool is empty.
        """
        return budget(self.c, n_pool)

    def score(self, material: Material) -> FloatArray:
        """Ratings, shape (n,).

        Raises:
            UserError: If the rater cannot be loaded, or has no such output.
        """
        with material.meter.step("ratings") as step:
            model, tokenizer = self._load()
            texts = material.texts()
            ids = tokenizer(list(texts), truncation=True, max_length=self.max_length, verbose=False)["input_ids"]
            step.model, step.passes = "rater", 1.0
            step.tokens = sum(map(len, ids))
            step.parameters = sum(p.numel() for p in model.parameters()) - sum(
                p.numel() for p in model.get_input_embeddings().parameters()
            )
            return self._rate(model, tokenizer, ids)

    def pick(self, features: Features, influence: FloatArray | None, n_select: int, seed: int) -> Selection:
        """Draw by rating.

        Raises:
            DataError: If the budget does not fit the pool, or ratings are missing or not finite.
        """
        check_budget(n_select, features.size)
        ratings = check_scored(influence, features.size, "rating")
        spread = float(ratings.std())
        standard = (ratings - ratings.mean()) / spread if spread > 0.0 else np.zeros_like(ratings)
        if self.temperature == 0.0:
            chosen = np.argsort(-standard, kind="stable")[:n_select].astype(np.int64)
        else:
            chosen = resample(standard / self.temperature, n_select, seed)
        return Selection(chosen, {"rating": ratings[chosen]}, every={"rating": ratings})

    def _rater(self) -> str:
        if not self.rater:
            raise UserError(
                "QuRating needs a rater, and there is none by default.",
                where="selector.rater",
                fix="selector.rater=FOLDER with a sequence-classification model, e.g. princeton-nlp/QuRater-1.3B",
            )
        return self.rater

    def _load(self) -> tuple[Any, Any]:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        source = resolve(self._rater())
        try:
            with quiet_libraries():
                model: Any = AutoModelForSequenceClassification.from_pretrained(source, revision=self.revision)
                tokenizer: Any = AutoTokenizer.from_pretrained(source, revision=self.revision)
        except (OSError, ValueError) as error:
            raise explain_load_failure(self._rater(), "selector.rater", error) from error
        outputs = int(model.config.num_labels)
        if self.criterion is not None and not 0 <= self.criterion < outputs:
            raise UserError(
                f"The rater has {outputs} outputs; there is no number {self.criterion}.",
                where="selector.criterion",
                fix=f"selector.criterion=0 to {outputs - 1}, or null for their mean",
            )
        device = ("cuda" if torch.cuda.is_available() else "cpu") if self.device == "auto" else self.device
        return model.to(device).eval(), tokenizer

    def _rate(self, model: Any, tokenizer: Any, ids: Sequence[Sequence[int]]) -> FloatArray:
        import torch

        ratings = np.zeros(len(ids))
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        model.config.pad_token_id = pad
        with torch.no_grad():
            for batch in batches_by_length([len(row) for row in ids], self.max_tokens, self.max_rows):
                width = max(len(ids[index]) for index in batch)
                tokens = torch.full((len(batch), width), pad, dtype=torch.long)
                mask = torch.zeros_like(tokens)
                for row, index in enumerate(batch):
                    tokens[row, : len(ids[index])] = torch.tensor(ids[index])
                    mask[row, : len(ids[index])] = 1
                out = model(input_ids=tokens.to(model.device), attention_mask=mask.to(model.device)).logits.float()
                ratings[batch] = (out.mean(dim=1) if self.criterion is None else out[:, self.criterion]).cpu().numpy()
        return ratings
