"""Random models of a given shape, random experts for them, and what a result says about the machine it was made on."""

from __future__ import annotations

import datetime
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch

from meld.backbone.language_model import LanguageModel
from meld.backbone.lora import save_adapter, with_lora

ROOT = Path(__file__).resolve().parents[1]


def word_tokenizer(size: int = 1000) -> Any:
    """A tokenizer that makes one token of each word ``w0`` ... ``w<size - 1>``; no files, no network."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<s>", "</s>", "<unk>", *(f"w{i}" for i in range(size - 4))]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def random_model(kind: str, device: str = "cpu", dtype: torch.dtype = torch.float32, **shape: Any) -> LanguageModel:
    """A frozen model with random weights, made where it will stay."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(kind, bos_token_id=1, eos_token_id=2, pad_token_id=0, **shape)
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=dtype)
    return LanguageModel(model.requires_grad_(False).eval(), word_tokenizer(), f"random-{kind}")


def random_experts(lm: LanguageModel, targets: Sequence[str], n: int, rank: int, folder: Path) -> dict[str, Path]:
    """Adapters with random weights, as folders in PEFT's layout."""
    folders = {}
    for number in range(n):
        with with_lora(lm, targets, rank, 2.0 * rank, 0.0, number) as wrapped:
            with torch.no_grad():
                for name, parameter in wrapped.model.named_parameters():
                    if "lora_B" in name:
                        parameter.normal_(std=0.02)
            folders[f"expert{number}"] = folder / f"expert{number}"
            save_adapter(wrapped, folders[f"expert{number}"])
    return folders


def interleaved(systems: Mapping[str, Callable[[], object]], repetitions: int) -> dict[str, list[float]]:
    """Seconds of each system, all of them once in every repetition, after one that does not count.

    On a CPU, seconds of processor time of this one-threaded process: other programs on the machine do not count. On a
    GPU, wall-clock seconds between synchronisations.
    """
    on_gpu = torch.cuda.is_available()
    clock = time.perf_counter if on_gpu else time.process_time
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    for repetition in range(repetitions + 1):
        for name, run in systems.items():
            if on_gpu:
                torch.cuda.synchronize()
            start = clock()
            run()
            if on_gpu:
                torch.cuda.synchronize()
            if repetition:
                seconds[name].append(clock() - start)
    return seconds


def medians(seconds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The median of each system."""
    return {name: statistics.median(values) for name, values in seconds.items()}


def command(folders: Sequence[str] = ("--bundle", "--encoder")) -> str:
    """The command that is running, as a page quotes it: without ``--out``, and with dots for folders of this machine.

    Args:
        folders: Options whose values are folders.
    """
    words = ["python", f"benchmarks/{Path(sys.argv[0]).name}"]
    given = iter(sys.argv[1:])
    for word in given:
        name, equals, _ = word.partition("=")
        if name == "--out":
            if not equals:
                next(given, None)
        elif name in folders:
            if not equals:
                next(given, None)
            words += [name, "..."]
        else:
            words.append(word)
    return " ".join(words)


def machine(timed: bool = True) -> str:
    """One line about where and when a result was made, and what seconds mean in it."""
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
    clock = "wall-clock seconds" if torch.cuda.is_available() else "processor seconds, one thread"
    memory = psutil.virtual_memory().total / 2**30
    today = datetime.date.today().isoformat()
    return (
        f"{where}, {psutil.cpu_count()} cores, {memory:.0f} GB, Python {platform.python_version()}, "
        f"torch {torch.__version__}, {clock + ', ' if timed else ''}{today}"
    )


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.is_file() else []
    return names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as a Markdown table."""
    head = list(rows[0])
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(_cell(row[name]) for name in head) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
