"""Perplexities of labels: batched by length against one item at a time.

OMP_NUM_THREADS=1 python benchmarks/quality.py [--pool 256]
"""

from __future__ import annotations

import argparse
import os
import time

import numpy as np
import torch
from selection_common import write_table
from selection_models import items, small_llama

from meld.selector.losses import label_losses


def plain_loop(lm, pool) -> np.ndarray:
    """The ordinary forward pass, one item at a time, logits of the whole sequence."""
    losses = []
    with torch.no_grad():
        for item in pool:
            label = item.options[0]
            logits = lm.model(input_ids=torch.tensor([[*item.prompt, *label]])).logits[0, len(item.prompt) - 1 : -1]
            losses.append(float(torch.nn.functional.cross_entropy(logits.float(), torch.tensor(label))))
    return np.array(losses)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pool", type=int, default=256)
    options = parser.parse_args()
    lm = small_llama()
    rows = []
    for longest in (48, 128, 256):
        pool = items(options.pool, 1, longest)
        plain_loop(lm, pool[:4])
        label_losses(lm, pool[:4])
        started = time.process_time()
        loop = plain_loop(lm, pool)
        one = time.process_time() - started
        started = time.process_time()
        batched = label_losses(lm, pool)
        many = time.process_time() - started
        rows.append(
            {
                "longest prompt": longest,
                "loop, CPU ms an item": round(1000 * one / len(pool), 3),
                "batched, CPU ms an item": round(1000 * many / len(pool), 3),
                "times faster": round(one / many, 2),
                "largest difference": float(f"{np.abs(loop - batched).max():.1e}"),
            }
        )
        print(rows[-1], flush=True)
    config = {**vars(options), "threads": os.environ.get("OMP_NUM_THREADS", "default")}
    print(write_table("quality", "Perplexities of a pool: batched by length against a loop", rows, config))


if __name__ == "__main__":
    main()
