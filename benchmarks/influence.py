"""Influence estimators: batch, dot and fd against per-sample gradients, DataInf and LESS at their full cost.

    OMP_NUM_THREADS=1 python benchmarks/influence.py [--pool 96] [--validation 16] [--warmup 32]

All in one process, one after the other, on a small random Llama. Seconds are processor time, which other programs
disturb little, and count everything a method needs for its scores: validation gradient, curvature, warm-up of its own
where it has one, gradients, projection, closed form.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from selection_common import write_table
from selection_models import items, small_llama, with_adapter

from meld.backbone.lora import lora_parameters, with_lora
from meld.selector.base import Features, Material
from meld.selector.costs import Meter, Step
from meld.selector.datainf import DataInf
from meld.selector.influence.batch import BatchInfluence
from meld.selector.influence.dot import DotInfluence
from meld.selector.influence.fd import FiniteDifferenceInfluence
from meld.selector.influence.per_sample import PerSampleInfluence
from meld.selector.less import Less

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj"]


class CpuMeter(Meter):
    """Steps in processor time."""

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """As :meth:`Meter.step`."""
        started = time.process_time()
        with super().step(name) as step:
            yield step
        step.seconds = time.process_time() - started


def spearman(left: np.ndarray, right: np.ndarray) -> float:
    """Rank correlation."""
    ranks = [np.argsort(np.argsort(x)).astype(float) for x in (left, right)]
    return float(np.corrcoef(*ranks)[0, 1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pool", type=int, default=96)
    parser.add_argument("--validation", type=int, default=16)
    parser.add_argument("--warmup", type=int, default=32)
    options = parser.parse_args()
    pool, validation = items(options.pool, 1), items(options.validation, 2)
    initial = np.arange(options.warmup)
    embeddings = np.random.default_rng(0).normal(size=(options.pool, 32)).astype(np.float32)
    lm = with_adapter(small_llama())
    rows, reference = [], None
    methods = {
        "per_sample": PerSampleInfluence(),
        "batch, B = 8 (the paper)": BatchInfluence(B=8),
        "dot": DotInfluence(),
        "fd": FiniteDifferenceInfluence(),
        "dot, woodbury": DotInfluence(preconditioner="woodbury"),
        "dot, damping auto": DotInfluence(damping="auto"),
    }
    DotInfluence().scores(lm, pool[:8], validation[:2], initial[:2], embeddings[:8])  # the first call compiles things
    for name, method in methods.items():
        meter = CpuMeter()
        started = time.process_time()
        scores = method.scores(lm, pool, validation, initial, embeddings, dev=items(16, 3), meter=meter)
        seconds = time.process_time() - started
        reference = (scores, seconds, meter.steps[-1].seconds) if reference is None else reference
        rows.append(_row(name, options.pool, seconds, meter, reference, scores))
        print(rows[-1], flush=True)
    assert reference is not None

    bare = small_llama()

    @contextmanager
    def none(positions, most):
        raise RuntimeError("these baselines warm up themselves")
        yield

    for name, selector in (("DataInf (full)", DataInf(0.3)), ("LESS (full, 2048 dimensions)", Less(0.3))):
        meter = CpuMeter()
        material = Material(
            Features.unmeasured(options.pool),
            pool,
            validation,
            (),
            tuple,
            lambda: with_lora(bare, TARGETS, 8, 16, 0.0, 0),
            none,
            0,
            meter,
        )
        started = time.process_time()
        scores = selector.score(material)
        rows.append(_row(name, options.pool, time.process_time() - started, meter, reference, None))
        print(rows[-1], flush=True)
    config = {
        **vars(options),
        "LoRA parameters": sum(p.numel() for p in lora_parameters(lm).values()),
        "threads": os.environ.get("OMP_NUM_THREADS", "default"),
    }
    notes = [
        "*pass over the pool*: the last step alone, against per_sample's. *Spearman*: with per_sample's scores; "
        "DataInf and LESS stand on another warm-up, so that theirs say nothing about fidelity.",
        "*kept*: gradients, factors or features held at the same time.",
    ]
    print(write_table("influence", "Influence of a pool: processor time and fidelity", rows, config, notes))


def _row(name, n, seconds, meter, reference, scores):
    last = meter.steps[-1].seconds
    same = "" if scores is None else round(spearman(scores, reference[0]), 4)
    return {
        "method": name,
        "CPU ms a sample": round(1000 * seconds / n, 2),
        "times per_sample": round(seconds / reference[1], 3),
        "pass over the pool": round(last / reference[2], 3) if scores is not None else "",
        "Spearman": same,
        "kept MB": round(max(step.stored_mb for step in meter.steps), 3),
    }


if __name__ == "__main__":
    main()
