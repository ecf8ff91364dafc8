"""What says that two records match where a dataset's own labels are withheld? F1 of the evidence alone, by its source.

    MELD_DATA=FOLDER python benchmarks/withheld_pairs.py

Abt-Buy is answered over all its test pairs by the evidence that blocking attaches, fitted on what its own two tables
suggest (docs/design.md, "Masked settings"), on the labels that another dataset lends, or on both. And for how many
matches of each dataset one record is among the other's ten nearest, without which the tables suggest nothing. The
untouched encoder; no expert takes part.
Writes docs/results/withheld_pairs.md.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from shapes import ROOT, command, machine, table

from meld.config.build import build
from meld.config.compose import load_config, plain
from meld.encoder.contrastive import ContrastiveEncoder
from meld.encoder.vectors import Vectors
from meld.retriever.partners import Link, Partners, assumed_pairs
from meld.retriever.prior import RANKS, ConditionalLogit, pair_features
from meld.task.em import MATCH
from meld.types import Entity

TARGET = "abt_buy"
LENDERS = ("amazon_google", "semi_text_watch")
PAIRS = 400

Examples = tuple[NDArray[np.float64], NDArray[np.bool_]]


class Matching:
    """A matching dataset with its test labels, which only this comparison reads.

    Args:
        name: Option of the group ``dataset``.
    """

    def __init__(self, name: str) -> None:
        tree = plain(load_config(["suite=quickstart", f"+dataset@datasets.{name}={name}", "scale=cpu"]))
        source = build(tree["datasets"][name], place=f"datasets.{name}").load()
        self.data = source.units[f"{name}.em"]
        serializer = build(tree["serializer"], place="serializer")
        texts = {serializer.text(e) for part in self.data.tables.values() for e in part.rows.values()}
        vectors = Vectors.of(texts, ContrastiveEncoder("embedded:minilm", device="cpu").open())
        self.partners = Partners(*self.data.tables.values(), vectors, serializer.text)
        gold = source.gold[f"{name}.em"]
        self.truth = np.array([gold[query.id][0] == MATCH for query in self.data.test])
        self.links = [self.partners.link(*query.rows) for query in self.data.test]
        self.test = np.stack([self._features(q.rows, q.entities) for q in self.data.test])

    def _features(self, rows: tuple[str, ...], entities: tuple[Entity, ...]) -> NDArray[np.float64]:
        return pair_features(self.partners.link(*rows), *entities)

    def labelled(self) -> Examples:
        """Its few-shot pairs."""
        found = [self._features(s.query.rows, s.query.entities) for s in self.data.train]
        return np.stack(found), np.array([s.label == MATCH for s in self.data.train])

    def suggested(self, ranks: bool) -> Examples:
        """What its tables suggest, with or without who is whose nearest neighbour."""
        matches, mismatches = assumed_pairs(self.partners, PAIRS)
        found = np.stack([self._features(rows, tuple(map(self._record, rows))) for rows in (*matches, *mismatches)])
        if not ranks:
            found[:, RANKS] = 0.0
        return found, np.arange(len(found)) < len(matches)

    def _record(self, reference: str) -> Entity:
        name, _, record = reference.partition(":")
        return self.data.tables[name].rows[record]

    def near(self) -> list[Link]:
        """Links of the test's matches whose records are among each other's ten nearest, on one side at least."""
        found = [link for link, match in zip(self.links, self.truth, strict=True) if match]
        return [link for link in found if min(link.rank_left, link.rank_right) <= 10]


def f1(said: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """F1 of *match*, in per cent."""
    return float(200 * (said & truth).sum() / max(1, said.sum() + truth.sum()))


def fitted(examples: Examples, asked: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which pairs the evidence calls matches, fitted on examples; *mismatch* has no features."""
    groups = [np.stack([np.zeros_like(row), row]) for row in examples[0]]
    logit = ConditionalLogit().fit(groups, [int(match) for match in examples[1]], [1.0] * len(groups))
    priors = [logit.log_prior(np.stack([np.zeros_like(row), row])) for row in asked]
    return np.array([prior[1] > prior[0] for prior in priors])


def main() -> int:
    """Fit, count, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results")
    options = parser.parse_args()
    if not Path(os.environ.get("MELD_DATA", "")).is_dir() or not os.environ.get("MELD_DATA"):
        print("skipped: MELD_DATA names no folder; it should hold the published benchmark data")
        return 0
    sets = {name: Matching(name) for name in (TARGET, *LENDERS)}
    target = sets[TARGET]
    own = target.suggested(ranks=False)
    rows = [
        ("mutual nearest neighbours, no fit", np.array([link.mutual for link in target.links])),
        ("own tables, ranks left out", fitted(own, target.test)),
        ("own tables, ranks left in", fitted(target.suggested(ranks=True), target.test)),
    ]
    for name in LENDERS:
        lent = sets[name].labelled()
        both = (np.concatenate([own[0], lent[0]]), np.concatenate([own[1], lent[1]]))
        rows += [
            (f"labels lent by {name}", fitted(lent, target.test)),
            (f"own tables and labels lent by {name}", fitted(both, target.test)),
        ]
    scores = [{"evidence": what, "F1": f"{f1(said, target.truth):.1f}"} for what, said in rows]
    counts = [
        {
            "dataset": name,
            "test matches": int(one.truth.sum()),
            "partner among the ten nearest": len(one.near()),
            "mutual nearest": sum(link.mutual for link in one.near()),
        }
        for name, one in sets.items()
    ]
    text = "\n".join(
        [
            "# Evidence for a withheld matching dataset",
            "",
            f"Written by `{command()}`, MiniLM untouched; {TARGET}, {len(target.truth):,} test pairs, data seed 0.",
            "",
            machine(timed=False),
            "",
            table(scores),
            "",
            table(counts),
            "",
        ]
    )
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "withheld_pairs.md").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
