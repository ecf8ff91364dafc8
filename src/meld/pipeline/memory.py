"""What a dry run says about memory: training an expert, and answering with all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psutil
import torch
from rich.console import Console
from rich.table import Table

from meld.backbone.huggingface import HuggingFaceBackbone
from meld.backbone.memory import MemoryPlan, Shape, inference_plan, over_budget, training_plan

_ANSWER_TOKENS = 8
"""Tokens assumed of an answer that is one of several candidates."""

_SHOWN = 2**20 * 5
"""Parts below this many bytes are left out of the display."""

_MAX_ROWS = 64
"""Rows of an inference batch at most (``batches_by_length``)."""


def predict(tree: Mapping[str, Any], backbone: HuggingFaceBackbone, experts: int) -> list[MemoryPlan]:
    """Predicted peaks at the longest prompts that the configuration allows.

    Args:
        tree: The resolved, validated configuration as plain containers.
        backbone: The experts' base model.
        experts: Experts of the run.

    Raises:
        UserError: If the model's configuration cannot be had.
    """
    expert, trainer = tree["expert"], tree["trainer"]
    ranked = backbone.decode == "rank"
    candidates = 1 + (int(expert.get("train_candidates", 7)) if expert.get("objective", "answer") != "answer" else 0)
    answer = _ANSWER_TOKENS if ranked else backbone.max_new_tokens
    shape = Shape(int(expert.get("batch_size", 8)), backbone.max_prompt_tokens, (answer,) * candidates)
    rank = int(expert.get("rank", 16))
    plans = [
        training_plan(
            backbone,
            shape,
            rank,
            float(expert.get("dropout", 0.05)),
            bool(expert.get("gradient_checkpointing", False)),
            str(trainer.get("precision", "32-true")),
        )
    ]
    answers = (_ANSWER_TOKENS,) * candidates if ranked else (1,)
    tokens = backbone.max_prompt_tokens + sum(answers)
    rows = max(1, min(_MAX_ROWS, backbone.batch_tokens // tokens))
    shape = Shape(rows, backbone.max_prompt_tokens, answers)
    plans.append(inference_plan(backbone, shape, rank, experts, 0 if ranked else backbone.max_new_tokens))
    return plans


def show_memory(tree: Mapping[str, Any], backbone: HuggingFaceBackbone, experts: int, console: Console) -> None:
    """Print the predicted peaks, with a warning for each that does not fit.

    Args:
        tree: The resolved, validated configuration as plain containers.
        backbone: The experts' base model.
        experts: Experts of the run.
        console: Where to print.
    """
    if not experts:
        return
    plans = predict(tree, backbone, experts)
    table = Table(title="predicted peak memory", title_justify="left")
    for column in ("to", "batch", "tokens a row", "GB", "of which"):
        table.add_column(column, justify="left" if column in {"to", "of which"} else "right")
    for plan in plans:
        parts = ", ".join(f"{name} {size / 2**30:.2f}" for name, size in plan.parts.items() if size >= _SHOWN)
        table.add_row(plan.what, str(plan.batch), str(plan.tokens), f"{plan.total / 2**30:.2f}", parts)
    console.print(table)
    console.print(
        "at the longest prompts that backbone.max_prompt_tokens allows; without the program itself, and on a GPU "
        "without its context (about 0.5 GB) and what the allocator keeps in reserve",
        style="dim",
        highlight=False,
    )
    device, size = _device(str(tree["trainer"].get("accelerator", "cpu")))
    for plan in plans:
        warning = over_budget(plan, size, device)
        if warning:
            console.print(
                f"[yellow]warning:[/yellow] {warning}; smaller: expert.batch_size with expert.accumulate, "
                "expert.gradient_checkpointing=true, backbone.quantization=4bit, backbone.max_prompt_tokens, "
                "backbone.batch_tokens",
                highlight=False,
            )


def _device(accelerator: str) -> tuple[str, int | None]:
    """Name and memory of the device that the trainer would use; None if it is not here."""
    if accelerator == "cpu":
        return "this machine", psutil.virtual_memory().total
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        return properties.name, properties.total_memory
    return "", None
