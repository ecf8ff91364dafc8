"""From which cosine are two attributes' names one attribute? The encoder's cosines of names that are and are not.

    python benchmarks/name_alignment.py [--encoder outputs/store/encode/KEY/encoder]

Names that mean one attribute under two spellings, and names that stand side by side in tables and must be kept apart,
as column titles of the benchmark tables and of their like. For the initial encoder, and a trained one where given.
Writes docs/results/name_alignment.md, with what every threshold would take and miss.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from shapes import ROOT, command, machine, table

from meld.encoder.contrastive import ContrastiveEncoder

ALIKE = (
    ("colour", "color"),
    ("author", "authors"),
    ("phone", "telephone"),
    ("city", "town"),
    ("cost", "price"),
    ("brand", "manufacturer"),
    ("model number", "modelno"),
    ("zip code", "postal code"),
    ("address", "street address"),
    ("title", "name"),
    ("genre", "category"),
    ("year", "publication year"),
)
UNLIKE = (
    ("song", "album"),
    ("street", "city"),
    ("material", "colour"),
    ("state", "city"),
    ("county", "country"),
    ("location", "state"),
    ("author", "title"),
    ("journal", "volume"),
    ("phone", "fax"),
    ("brand", "model"),
    ("price", "discount"),
    ("start date", "end date"),
)
THRESHOLDS = (0.5, 0.6, 0.7, 0.75, 0.8, 0.9)


def cosines(pairs: Sequence[tuple[str, str]], folder: Path | None) -> list[float]:
    """The cosine of every pair of names under the embedded encoder, or a trained one."""
    embedder = ContrastiveEncoder("embedded:minilm", device="cpu").open(folder)
    sides = [np.asarray(embedder.embed([pair[side] for pair in pairs])) for side in (0, 1)]
    return [float(value) for value in (sides[0] * sides[1]).sum(axis=1)]


def main() -> int:
    """Embed, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", type=Path, help="a trained encoder: the folder in an artifact of the stage encode")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results")
    options = parser.parse_args()
    encoders: dict[str, Path | None] = {"initial": None}
    if options.encoder is not None:
        encoders["trained"] = options.encoder
    lines: list[dict[str, str]] = []
    summary: list[dict[str, object]] = []
    found = {name: (cosines(ALIKE, folder), cosines(UNLIKE, folder)) for name, folder in encoders.items()}
    for side, (what, pairs) in enumerate((("one attribute", ALIKE), ("two", UNLIKE))):
        for i in np.argsort([-value for value in found["initial"][side]]):
            values = {name: f"{pair[side][int(i)]:.2f}" for name, pair in found.items()}
            lines.append({"names": ", ".join(pairs[int(i)]), "are": what, **values})
    for threshold in THRESHOLDS:
        counts: dict[str, int] = {}
        for name, (alike, unlike) in found.items():
            taken, wrong = sum(v >= threshold for v in alike), sum(v >= threshold for v in unlike)
            counts |= {f"{name}: aligned of {len(alike)}": taken, f"{name}: mixed up of {len(unlike)}": wrong}
        summary.append({"threshold": f"{threshold:.2f}", **counts})
    text = "\n".join(
        [
            "# Cosines of attribute names",
            "",
            f"Written by `{command()}`, MiniLM.",
            "",
            machine(timed=False),
            "",
            table(summary),
            "",
            "In the chase a pair must also be each other's nearest among the attributes that are there, so that fewer",
            "are mixed up than the last column counts.",
            "",
            table(lines),
            "",
        ]
    )
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "name_alignment.md").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
