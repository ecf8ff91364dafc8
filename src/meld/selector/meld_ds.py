"""MELD-DS: greedy selection by diversity, quality and influence (section V)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from meld.backbone.language_model import Encoded, LanguageModel
from meld.errors import ConfigError, DataError
from meld.selector.base import Features, FloatArray, Material, Selection, budget, check_budget, check_ratio
from meld.selector.diversity.base import Diversity
from meld.selector.influence.base import Influence, complexity
from meld.selector.objective import NORMALIZATIONS, Modular, Objective, Term
from meld.selector.optimizer.base import Optimizer
from meld.selector.quality.base import MeasuredQuality, Quality

TERMS = ("diversity", "quality", "complexity")


class MeldDS:
    """Selection by F_div + F_qual + F_compl (Eq. 9), with S'_init by F_div + F_qual (Eq. 7).

    The order of use is: :meth:`measure` what :class:`Features` need; :meth:`score`; :meth:`pick`.

    Args:
        diversity: F_div.
        quality: F_qual.
        influence: I of Eq. 8.
        optimizer: How the sum is maximised.
        c: Share of the pool to select.
        init_ratio: Share of the pool that is S'_init, whatever ``c`` is, so that a sweep over ``c`` re-uses the
            influence scores.
        weights: a_1, a_2, a_3 by the terms' names; 1 each by default.
        normalize: ``gains`` (each term times the inverse spread of its singleton gains) or ``none`` (as printed).
        max_warm_up: Samples of S'_init that the proxy is warmed up on at most; None for all.
        terms: Which terms are used: some of ``diversity``, ``quality``, ``complexity`` (Table IV's ablations).

    Raises:
        ConfigError: If a ratio is not in (0, 1], a term or weight has an unknown name, a weight is negative, or the
            normalisation is unknown.
    """

    needs_features: ClassVar[bool] = True
    needs_texts: ClassVar[bool] = False

    def __init__(
        self,
        diversity: Diversity,
        quality: Quality,
        influence: Influence,
        optimizer: Optimizer,
        c: float,
        init_ratio: float = 0.3,
        weights: Mapping[str, float] | None = None,
        normalize: str = "gains",
        terms: Sequence[str] = TERMS,
        max_warm_up: int | None = None,
    ) -> None:
        self.max_warm_up = max_warm_up
        self.diversity = diversity
        self.quality = quality
        self.influence = influence
        self.optimizer = optimizer
        self.c = check_ratio(c)
        self.init_ratio = check_ratio(init_ratio, "selector.init_ratio")
        self.weights = {**dict.fromkeys(TERMS, 1.0), **(weights or {})}
        unknown = [name for name in (*terms, *self.weights) if name not in TERMS]
        if unknown or not terms or len(set(terms)) != len(terms):
            raise ConfigError(
                f"The terms of a selection are some of {', '.join(TERMS)}, each once; got {list(terms)}"
                + (f" and weights for {unknown}." if unknown else "."),
                where="selector.terms",
                fix=f"selector.terms=[{','.join(TERMS)}]",
            )
        if any(weight < 0.0 for weight in self.weights.values()):
            raise ConfigError(
                f"The weights of the terms must be at least 0; they are {self.weights}.",
                where="selector.weights",
                fix="use 0 to leave a term out",
            )
        if normalize not in NORMALIZATIONS:
            raise ConfigError(
                f"'{normalize}' is no normalisation.",
                where="selector.normalize",
                fix=f"one of {', '.join(NORMALIZATIONS)}",
            )
        self.normalize = normalize
        self.terms = tuple(terms)

    @property
    def needs_influence(self) -> bool:
        """Whether :meth:`pick` uses influence scores."""
        return "complexity" in self.terms and self.influence.needs_model

    @property
    def needs_losses(self) -> bool:
        """Whether the quality term is used, in Eq. 7 or Eq. 9."""
        return "quality" in (*self.terms, *self._initial_terms()) and self.quality.needs_losses

    def size(self, n_pool: int) -> int:
        """round(c * n), at least one.

        Raises:
            DataError: If the pool is empty.
        """
        return budget(self.c, n_pool)

    def measure(
        self, lm: LanguageModel, with_demonstrations: Sequence[Encoded], without: Sequence[Encoded]
    ) -> tuple[FloatArray, FloatArray]:
        """The losses that the quality term reads.

        Raises:
            DataError: If an item cannot be measured.
        """
        assert isinstance(self.quality, MeasuredQuality)
        return self.quality.measure(lm, with_demonstrations, without)

    def score(self, material: Material) -> FloatArray:
        """I of Eq. 8 as printed (negative helps): S'_init, warm-up on it, influence.

        Raises:
            DataError: If the pool, the few-shot set or one of their items cannot be used.
            UserError: If the proxy has no plain LoRA matrices.
        """
        with material.meter.step("initial subset"):
            initial = self.initial(material.features, seed=material.seed)
        with material.warm_up(initial.indices, self.max_warm_up) as lm:
            return self.influence.scores(
                lm,
                material.pool,
                material.validation,
                initial.indices,
                material.features.embeddings,
                material.dev,
                material.meter,
            )

    def initial(self, features: Features, n_select: int | None = None, seed: int = 0) -> Selection:
        """S'_init = greedy argmax of F_div + F_qual (Eq. 7); also what selects the auxiliary set.

        Of the two terms those are used that ``terms`` names, or both if it names neither.

        Args:
            features: The pool.
            n_select: How many; round(init_ratio * n) by default.
            seed: Seeds a stochastic optimizer.

        Raises:
            DataError: If the pool is empty, the budget does not fit it, or an embedding or loss is not finite.
        """
        size = budget(self.init_ratio, features.size) if n_select is None else n_select
        return self._maximize(features, self._initial_terms(), None, size, seed)

    def pick(self, features: Features, influence: FloatArray | None, n_select: int, seed: int) -> Selection:
        """Greedy argmax of F_div + F_qual + F_compl (Eq. 9).

        Args:
            features: The pool.
            influence: Shape (n,), I of Eq. 8; None where ``needs_influence`` is false.
            n_select: How many.
            seed: Seeds a stochastic optimizer.

        Raises:
            DataError: If the pool is empty, the budget does not fit it, influence scores are missing or do not belong
                to the pool, or a number is not finite.
        """
        terms = self.terms if self.needs_influence else tuple(name for name in self.terms if name != "complexity")
        return self._maximize(features, terms or self._initial_terms(), influence, n_select, seed)

    def _initial_terms(self) -> tuple[str, ...]:
        return tuple(name for name in TERMS[:2] if name in self.terms) or TERMS[:2]

    def _maximize(
        self, features: Features, names: Sequence[str], influence: FloatArray | None, n_select: int, seed: int
    ) -> Selection:
        check_budget(n_select, features.size)
        parts: dict[str, Term] = {name: self._term(name, features, influence) for name in names}
        objective = Objective(parts, self.weights, self.normalize)
        indices = self.optimizer.maximize(objective, n_select, seed)
        terms = {name: np.array(gains) for name, gains in objective.history.items()}
        total = np.zeros(len(indices))
        for name, gains in terms.items():
            total += objective.factors[name] * gains
        return Selection(indices, {**terms, "gain": total}, objective.factors, objective.standing())

    def _term(self, name: str, features: Features, influence: FloatArray | None) -> Term:
        if name == "diversity":
            return self.diversity.start(features.embeddings)
        if name == "quality":
            return Modular(self.quality.scores(features.loss_cond, features.loss_prior), "quality")
        if influence is None or len(influence) != features.size:
            got = "none" if influence is None else str(len(influence))
            raise DataError(
                f"The complexity term needs an influence score for each of the {features.size} items; there are {got}.",
                fix="compute them with the same pool, or leave 'complexity' out of selector.terms",
            )
        return Modular(complexity(influence), "complexity")
