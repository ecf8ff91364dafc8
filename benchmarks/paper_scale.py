"""The papers' scale without the papers' weights: train a LoRA expert on Mistral-7B's shape, and serve 16 experts.

    python benchmarks/paper_scale.py                       # one GPU, its memory capped at 24 GB
    OMP_NUM_THREADS=1 python benchmarks/paper_scale.py     # without a GPU: the same script on a scaled-down shape

Random weights (bf16), prompts of 1,024 tokens, the expert trained by the same classes as in a run (``LoraExpert``,
``LitExpert``, ``LightningTrainer``), 16 experts served by the stacked engine, a different top-3 mixture in every row.
Prints tokens a second and peak memory beside what the memory plan predicts, and writes docs/results/paper_scale.md.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from shapes import ROOT, machine, random_experts, random_model, table
from stacked_engine import different_top3

from meld.backbone.huggingface import HuggingFaceBackbone
from meld.backbone.language_model import Encoded, LanguageModel
from meld.backbone.memory import CONSUMER_GPU, Shape, inference_plan, training_plan
from meld.engine.stacked import StackedEngine
from meld.expert.lora import Lesson, LoraExpert
from meld.progress import Silent
from meld.trainer.fit import LightningTrainer
from meld.types import Prompt

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")
MISTRAL_7B = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}
SMALL = {
    "vocab_size": 2000,
    "hidden_size": 256,
    "intermediate_size": 896,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
}


def lessons(n: int, prompt: int, answer: int) -> list[Lesson]:
    """Training examples of random tokens."""
    draw = np.random.default_rng(0)
    ids = draw.integers(4, 900, size=(n, prompt + answer))
    return [Lesson(Encoded(tuple(map(int, row[:prompt])), (tuple(map(int, row[prompt:])),))) for row in ids]


def measured(run: Callable[[], object], gpu: bool) -> tuple[float, float]:
    """Wall-clock seconds, and peak memory in GB: allocated on a GPU, of the process on a CPU."""
    if gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    run()
    if gpu:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return seconds, torch.cuda.max_memory_allocated() / 2**30 if gpu else kilobytes / 2**20


def train(lm: LanguageModel, args: argparse.Namespace, gpu: bool, folder: Path) -> dict[str, Any]:
    """Train one expert through the classes of a run."""
    expert = LoraExpert(
        rank=args.rank,
        alpha=2.0 * args.rank,
        epochs=1,
        batch_size=args.train_batch,
        gradient_checkpointing=args.checkpointing,
    )
    precision = "bf16-mixed" if gpu else "32-true"
    trainer = LightningTrainer(accelerator="gpu" if gpu else "cpu", precision=precision)
    examples = lessons(args.steps * args.train_batch, args.sequence - args.answer, args.answer)

    def run() -> object:
        return expert.fit(lm, TARGETS, examples, [], folder / "out", folder / "work", trainer, 0, "train", Silent())

    seconds, peak = measured(run, gpu)
    shape = Shape(args.train_batch, args.sequence - args.answer, (args.answer,))
    backbone = HuggingFaceBackbone(lm.name, dtype=dtype_name(gpu), lora_targets=TARGETS)
    plan = training_plan(backbone, shape, args.rank, 0.05, args.checkpointing, precision, lm.model.config)
    return row("train an expert", len(examples) * args.sequence / seconds, peak, plan.total)


def serve(lm: LanguageModel, args: argparse.Namespace, gpu: bool, folder: Path) -> list[dict[str, Any]]:
    """Rank and write with 16 experts, a different mixture in every row."""
    gates = different_top3(args.experts, args.batch)
    items = [lesson.encoded for lesson in lessons(args.batch, args.sequence - args.answer, args.answer)]
    prompts = [Prompt(str(i), " ".join(f"w{t}" for t in item.prompt)) for i, item in enumerate(items)]
    model = StackedEngine().open(lm, random_experts(lm, TARGETS, args.experts, args.rank, folder))
    try:
        ranking, ranking_peak = measured(lambda: model.option_log_probs(items, gates), gpu)
        writing, writing_peak = measured(lambda: model.generate(prompts, gates, args.new_tokens), gpu)
    finally:
        model.close()
    backbone = HuggingFaceBackbone(lm.name, dtype=dtype_name(gpu), lora_targets=TARGETS)
    plans = [
        inference_plan(
            backbone, Shape(args.batch, len(items[0].prompt), length), args.rank, args.experts, writes, config
        )
        for length, writes, config in (
            ((args.answer,), 0, lm.model.config),
            ((1,), args.new_tokens, lm.model.config),
        )
    ]
    return [
        row(f"rank, {args.experts} experts", args.batch * args.sequence / ranking, ranking_peak, plans[0].total),
        row(
            f"read and write {args.new_tokens} tokens, {args.experts} experts",
            args.batch * (len(items[0].prompt) + args.new_tokens) / writing,
            writing_peak,
            plans[1].total,
        ),
    ]


def dtype_name(gpu: bool) -> str:
    """The number format of the base: what the papers' scale uses on a GPU, fp32 on a CPU."""
    return "bfloat16" if gpu else "float32"


def row(what: str, speed: float, peak: float, predicted: int) -> dict[str, Any]:
    """One line of the result."""
    return {
        "what": what,
        "tokens a second": round(speed, 1),
        "peak GB": round(peak, 2),
        "predicted GB": round(predicted / 2**30, 2),
    }


def main() -> None:
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory-gb", type=float, default=CONSUMER_GPU / 2**30, help="cap of GPU memory")
    parser.add_argument("--sequence", type=int, default=1024 if gpu else 128, help="tokens of prompt and answer")
    parser.add_argument("--answer", type=int, default=16)
    parser.add_argument("--train-batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=16 if gpu else 4)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--experts", type=int, default=16)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--new-tokens", type=int, default=32 if gpu else 4)
    parser.add_argument("--checkpointing", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results")
    args = parser.parse_args()
    if gpu:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, args.memory_gb * 2**30 / total))
    shape = MISTRAL_7B if gpu else SMALL
    dtype = torch.bfloat16 if gpu else torch.float32
    lm = random_model("mistral", "cuda" if gpu else "cpu", dtype, max_position_embeddings=4096, **shape)
    parameters = sum(p.numel() for p in lm.model.parameters())
    with tempfile.TemporaryDirectory() as place:
        rows = [train(lm, args, gpu, Path(place) / "train"), *serve(lm, args, gpu, Path(place) / "experts")]
    save(rows, args, gpu, parameters)


def save(rows: list[dict[str, Any]], args: argparse.Namespace, gpu: bool, parameters: int) -> None:
    """Write the result."""
    if gpu:
        what = f"Mistral-7B's shape ({parameters / 1e9:.2f} billion weights), bf16, capped at {args.memory_gb:.0f} GB"
        memory = "allocated on the GPU"
    else:
        what = (
            f"**A CPU: a scaled-down Mistral shape ({parameters / 1e6:.1f} million parameters), fp32.** "
            "These numbers say that the script runs, not how fast the papers' scale is"
        )
        memory = "of the whole process, Python and PyTorch included (the plan leaves them out)"
    config = {name: value for name, value in vars(args).items() if name != "out"}
    text = f"""# Papers' scale with random weights

Written by `python benchmarks/paper_scale.py`. {what}.

{machine().replace("processor seconds", "wall-clock seconds")}; peak memory is {memory}.

{table(rows)}

Configuration: `{json.dumps(config)}`
"""
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "paper_scale.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
