"""What a different mixture of experts in every row costs: the stacked engine, one adapter, and merging each mixture.

    OMP_NUM_THREADS=1 python benchmarks/stacked_engine.py

16 experts (r = 8) on a Llama shape of hidden size 1,024 (query and value projections) and on the embedded MiniLM (its
own four targets); every row of the batch has its own top-3 mixture. In one run, interleaved, medians:

* ``single``: the whole batch under one adapter, as PEFT runs it (no mixture at all): the yardstick;
* ``stacked``: the stacked engine, a mixture per row;
* ``adapters``: PEFT ``cat``, one new adapter per mixture, its row alone (what ``engine=hf`` does with new mixtures);
* ``merged``: the same, merged into the weights of the layers and taken out again.

Ranking reads one answer after a prompt; writing also generates tokens greedily. Batches and written tokens make a grid,
since the ratio to merging depends on both. Prints n, r, d, batch and lengths, and writes its files anew after every row
(docs/results/stacked_engine.md, .csv, .json).
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from shapes import ROOT, interleaved, machine, medians, random_experts, random_model, table

from meld.backbone.huggingface import HuggingFaceBackbone
from meld.backbone.language_model import Encoded, LanguageModel
from meld.engine.hf import HuggingFaceEngine, PeftMixtures
from meld.engine.stacked import StackedEngine, StackedModel
from meld.types import Prompt

LIMITS = {"stacked / single": 1.3, "merging / stacked": 5.0}


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        batch: Rows of the batch.
        new_tokens: Tokens written after the prompt; 0 for ranking.
    """

    batch: int
    new_tokens: int

    @property
    def mode(self) -> str:
        """What is asked of the model."""
        return "writing" if self.new_tokens else "ranking"


def different_top3(n: int, rows: int) -> NDArray[np.float64]:
    """Gates of rows that all differ, three experts each."""
    draw = np.random.default_rng(0)
    seen: dict[tuple[int, ...], None] = {}
    while len(seen) < rows:
        seen[tuple(sorted(int(i) for i in draw.choice(n, 3, replace=False)))] = None
    gates = np.zeros((rows, n))
    for row, chosen in enumerate(seen):
        gates[row, list(chosen)] = (0.5, 0.3, 0.2)
    return gates


def merged(model: PeftMixtures, gates: NDArray[np.float64], run: Callable[[int], object]) -> None:
    """Each row alone, its mixture merged into the weights and taken out again."""
    for row in range(len(gates)):
        with model._activate(gates[row]), torch.no_grad():
            model._model.merge_adapter()
            run(row)
            model._model.unmerge_adapter()


def measure(
    make: Callable[[], LanguageModel],
    targets: tuple[str, ...],
    args: argparse.Namespace,
    shape: str,
    cases: Sequence[Case],
) -> Iterator[dict[str, Any]]:
    """Rows of the result for one shape, as they are measured."""
    lm = make()
    most = max(case.batch for case in cases)
    gates = different_top3(args.experts, most)
    draw = np.random.default_rng(1)
    ids = draw.integers(4, 900, size=(most, args.sequence))
    items = [Encoded(tuple(int(i) for i in row[:-2]), ((int(row[-2]), int(row[-1]), 2),)) for row in ids]
    prompts = [Prompt(str(i), " ".join(f"w{token}" for token in row)) for i, row in enumerate(ids)]
    with tempfile.TemporaryDirectory() as place:
        folders = random_experts(lm, targets, args.experts, args.rank, Path(place))
        stacked = StackedEngine().open(lm, folders)
        peft = HuggingFaceEngine(max_mixtures=1).open(make(), folders)
        for case in cases:
            kept: dict[str, Any] = {}
            systems = _systems(stacked, peft, items, prompts, gates[: case.batch], case, kept)
            seconds = medians(interleaved(systems, args.repetitions))
            yield {
                "shape": shape,
                "mode": case.mode,
                "n": args.experts,
                "r": args.rank,
                "d": int(lm.model.config.hidden_size),
                "batch": case.batch,
                "sequence": args.sequence,
                "new tokens": case.new_tokens,
                **{f"{name} s": round(value, 4) for name, value in seconds.items()},
                "stacked / single": round(seconds["stacked"] / seconds["single"], 3),
                "adapters / stacked": round(seconds["adapters"] / seconds["stacked"], 2),
                "merged / stacked": round(seconds["merged"] / seconds["stacked"], 2),
                "equal answers": _equal(kept["stacked"], kept["adapters"]),
            }


def _systems(
    stacked: StackedModel,
    peft: PeftMixtures,
    items: Sequence[Encoded],
    prompts: Sequence[Prompt],
    gates: NDArray[np.float64],
    case: Case,
    kept: dict[str, Any],
) -> dict[str, Callable[[], object]]:
    """The four ways to answer a batch; those that mix leave their answers in ``kept``."""
    size = case.batch
    one = np.zeros_like(gates)
    one[:, 0] = 1.0

    def read(model: Any, rows: NDArray[np.float64], name: str = "") -> None:
        if case.new_tokens:
            kept[name] = model.generate(prompts[:size], rows, case.new_tokens)
        else:
            kept[name] = model.option_log_probs(items[:size], rows)

    def alone(row: int) -> Any:
        if case.new_tokens:
            return peft.lm.generate(prompts[row : row + 1], case.new_tokens)
        return peft.lm.option_log_probs(items[row : row + 1])

    return {
        "single": lambda: read(peft, one),
        "stacked": lambda: read(stacked, gates, "stacked"),
        "adapters": lambda: read(peft, gates, "adapters"),
        "merged": lambda: merged(peft, gates, alone),
    }


def _equal(mine: Sequence[Any], theirs: Sequence[Any]) -> str:
    """How many answers are equal: the same text, or log-probabilities within 1e-4 of a token each."""
    same = sum(
        one == other if isinstance(one, str) else bool(np.allclose(one, other, atol=3e-4, rtol=0))
        for one, other in zip(mine, theirs, strict=True)
    )
    return f"{same} of {len(mine)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experts", type=int, default=16)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--new-tokens", type=int, nargs="+", default=[0, 8, 32])
    parser.add_argument("--sequence", type=int, default=32)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def llama() -> LanguageModel:
        return random_model(
            "llama",
            device,
            vocab_size=1000,
            hidden_size=1024,
            intermediate_size=2816,
            num_hidden_layers=args.layers,
            num_attention_heads=16,
            num_key_value_heads=16,
        )

    def minilm() -> LanguageModel:
        return HuggingFaceBackbone("embedded:minilm", as_decoder=True, device=device).load()

    grid = [Case(batch, tokens) for tokens in args.new_tokens for batch in args.batches]
    ranking = [Case(batch, 0) for batch in args.batches]
    rows: list[dict[str, Any]] = []
    for row in chain(
        measure(llama, ("q_proj", "v_proj"), args, f"llama, {args.layers} layers", grid),
        measure(minilm, ("query", "key", "value", "transform.dense"), args, "minilm, 6 layers", ranking),
    ):
        rows.append(row)
        print(table(rows[-1:]), flush=True)
        save(rows, args)  # what is measured is not lost if the rest is stopped


def wants(row: dict[str, Any]) -> tuple[float, bool, float, bool]:
    """The ratio to one adapter and to the faster way of merging, each with whether it is as wanted."""
    fast, slow = row["stacked / single"], min(row["adapters / stacked"], row["merged / stacked"])
    return fast, fast <= LIMITS["stacked / single"], slow, slow >= LIMITS["merging / stacked"]


def called(row: dict[str, Any]) -> str:
    """What a row is about, in words."""
    what = f"writing {row['new tokens']} tokens" if row["new tokens"] else "ranking"
    return f"{row['shape']}, batch {row['batch']}, {what}"


def verdict(row: dict[str, Any]) -> str:
    """Whether a row meets what is wanted."""
    fast, fast_met, slow, slow_met = wants(row)
    return (
        f"- {called(row)}: {fast} times one adapter (wanted: at most {LIMITS['stacked / single']}: "
        f"{'met' if fast_met else 'missed'}); {slow} times faster than the faster way of merging (wanted: at least "
        f"{LIMITS['merging / stacked']:g}: {'met' if slow_met else 'missed'})"
    )


def summary(rows: list[dict[str, Any]]) -> str:
    """Which rows meet both."""
    met = [called(row) for row in rows if wants(row)[1] and wants(row)[3]]
    return f"Both are met by {len(met)} of {len(rows)} rows" + (f": {'; '.join(met)}." if met else ".")


def save(rows: list[dict[str, Any]], args: argparse.Namespace) -> None:
    """Write the result as Markdown, CSV and JSON."""
    args.out.mkdir(parents=True, exist_ok=True)
    where = machine()
    text = f"""# The stacked engine against one adapter and against merging

Written by `python benchmarks/stacked_engine.py` ({args.repetitions} interleaved repetitions in one process, medians).
A different top-3 mixture in every row; random weights, fp32 on a CPU.

{where}

{table(rows)}

{chr(10).join(map(verdict, rows))}

{summary(rows)}

`single` runs the batch under one PEFT adapter; `stacked` is the stacked engine; `adapters` makes a PEFT adapter (`cat`)
of each mixture and runs its row alone; `merged` also merges it into the weights and takes it out again. *equal answers*
compares what `stacked` and `adapters` answered, row by row: the same text, or log-probabilities within 1e-4 a token.

How much merging loses depends on what a row costs alone. Where tokens are written one at a time, every row alone reads
all weights for every token, and a batch reads them once: the more tokens and the more rows, the larger the ratio, up
to where the batch's arithmetic takes longer than reading the weights. Where only prompts are read, a processor's time
is arithmetic, of which a row alone needs nearly as much as a row of a batch; then merging costs the making of the
mixture and little else. The less arithmetic there is beside it (the small model), the more that is.
"""
    (args.out / "stacked_engine.md").write_text(text)
    with (args.out / "stacked_engine.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    config = {name: value for name, value in vars(args).items() if name != "out"}
    result = {"machine": where, "config": config, "rows": rows}
    (args.out / "stacked_engine.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
