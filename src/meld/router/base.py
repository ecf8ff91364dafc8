"""What every router offers, and what it learns from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from lightning.pytorch.loggers import Logger
from numpy.typing import NDArray

from meld.progress import Progress
from meld.trainer.fit import LightningTrainer


@dataclass(frozen=True)
class RoutedQuery:
    """One labelled query with what every expert made of it.

    Attributes:
        unit: The query's unit.
        text: The query for the encoder.
        losses: Shape (experts,), loss of the gold label under each expert.
        right: Shape (experts,), whether each expert's best option is the gold label.
        agreement: Shape (experts, experts), how much two experts agree off the gold label, in [0, 1].
    """

    unit: str
    text: str
    losses: NDArray[np.float64]
    right: NDArray[np.bool_]
    agreement: NDArray[np.float64]

    @property
    def positives(self) -> NDArray[np.bool_]:
        """Experts to attract: those that are right, or the one with the lowest loss if none is."""
        if self.right.any():
            return self.right
        lowest: NDArray[np.bool_] = np.arange(len(self.losses)) == int(np.argmin(self.losses))
        return lowest


class Routing(Protocol):
    """A fitted router."""

    def weights(self, units: Sequence[str], texts: Sequence[str], progress: Progress) -> NDArray[np.float64]:
        """Expert weights of queries.

        Args:
            units: Unit of each query.
            texts: Encoder text of each query.
            progress: The display.

        Returns:
            Shape (n, experts), rows sum to one.
        """
        ...


class Router(Protocol):
    """A way to route."""

    needs_answers: bool
    """Whether :meth:`fit` learns from experts' answers, which cost a pass of every expert over the labelled queries."""
    token_wise: bool
    """Whether it routes every token inside every layer. Such a router yields no weights per query: :meth:`open` is
    never called, the engine routes."""

    def fit(
        self,
        experts: Sequence[str],
        queries: Sequence[RoutedQuery],
        encoder: Path,
        out: Path,
        work: Path,
        trainer: LightningTrainer,
        seed: int,
        progress: Progress,
        logger: Logger | None = None,
    ) -> dict[str, float]:
        """Learn to route and write the router.

        Args:
            experts: Names, in the order of the weights' columns.
            queries: Labelled queries of all units.
            encoder: M_RAG's folder.
            out: Folder for the router.
            work: Folder for checkpoints.
            trainer: Fits the module.
            seed: Seeds everything random.
            progress: The display.
            logger: Where metrics go.

        Returns:
            Numbers worth knowing about the fit.
        """
        ...

    def register(
        self,
        folder: Path,
        experts: Sequence[str],
        queries: Sequence[RoutedQuery],
        out: Path,
        progress: Progress,
    ) -> dict[str, float]:
        """Fit what the router has to know about one more expert, with everything it learnt before frozen.

        Args:
            folder: The fitted router.
            experts: The experts it was fitted for.
            queries: Labelled queries answered by those experts and, in the last column, the new one.
            out: Folder for what was fitted.
            progress: The display.

        Returns:
            Numbers worth knowing about the fit.
        """
        ...

    def open(self, folder: Path, experts: Sequence[str], added: Sequence[Path] = ()) -> Routing:
        """Load a fitted router.

        Args:
            folder: What :meth:`fit` wrote.
            experts: The experts it was fitted for.
            added: What :meth:`register` wrote, one folder for each further expert, in the order of their columns.
        """
        ...


def routed_query(unit: str, text: str, probabilities: NDArray[np.float64], scores: NDArray[np.float64]) -> RoutedQuery:
    """What experts made of one labelled query. Written answers are judged by the label's score alone.

    Args:
        unit: The query's unit.
        text: The query for the encoder.
        probabilities: Shape (experts, options), each expert's distribution over the options, the label first.
        scores: Shape (experts,), each expert's score of the label.
    """
    n, several = len(probabilities), probabilities.shape[1] > 1
    return RoutedQuery(
        unit,
        text,
        -np.log(np.maximum(probabilities[:, 0], 1e-12)) if several else -scores,
        (probabilities.argmax(axis=1) == 0) & several,
        off_gold_agreement(probabilities, 0) if several else np.zeros((n, n)),
    )


def off_gold_agreement(probabilities: NDArray[np.float64], gold: int) -> NDArray[np.float64]:
    """How much pairs of experts agree on wrong answers: sum over wrong options o of q_i(o) * q_j(o).

    Two experts that are both right do not agree in this sense, so the diversity term does not push them apart.

    Args:
        probabilities: Shape (experts, options), each expert's distribution over the options.
        gold: Index of the label among the options.

    Returns:
        Shape (experts, experts), in [0, 1], zero diagonal.
    """
    wrong = probabilities.copy()
    wrong[:, gold] = 0.0
    agreement = wrong @ wrong.T
    np.fill_diagonal(agreement, 0.0)
    return agreement
