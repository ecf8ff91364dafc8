"""``meld doctor``: what this machine can run, and why not."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from meld.errors import UserError

EXTRAS = {
    "openai": "asking hosted models and servers that speak OpenAI's protocol",
    "vllm": "inference with vLLM on a GPU",
    "vllm-cpu": "inference with vLLM without a GPU",
    "gpu": "base models in 8 and 4 bits",
    "tensorboard": "logger=tensorboard",
    "bm25": "retriever=bm25 and retriever=hybrid",
    "faiss": "retriever.index=faiss",
    "serve": "meld serve",
    "xlsx": "data sets that are published as Excel files",
    "sweep": "sweeps over several processes or a cluster",
}
"""Extras of the package, and what needs them."""

_PAPER_MEMORY = 20e9
"""Bytes of GPU memory for the papers' base model of 7 billion parameters in 16 bits, its adapters and a batch."""


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's.

    Attributes:
        what: What was looked at.
        state: ``yes`` | ``no`` | ``missing``; only ``missing`` keeps MELD itself from running.
        said: What was found, or what follows from its absence.
        fix: What to do about it; empty where there is nothing to do.
    """

    what: str
    state: str
    said: str
    fix: str = ""


def doctor_verb(words: Sequence[str]) -> int:
    """Carry out ``meld doctor``.

    Returns:
        0 if the default configuration can run here, 1 if not.

    Raises:
        UserError: If words follow.
    """
    if words:
        raise UserError("meld doctor takes no arguments.", fix="meld doctor")
    found = examine()
    table = Table(box=None, pad_edge=False)
    for name in ("", "here", "", "to have it"):
        table.add_column(name, overflow="fold")
    styles = {"yes": "green", "no": "yellow", "missing": "bold red"}
    for line in found:
        table.add_row(line.what, Text(line.state, styles[line.state]), Text(line.said), Text(line.fix))
    Console().print(table)
    return 1 if any(line.state == "missing" for line in found) else 0


def examine() -> list[Finding]:
    """Everything the doctor looks at; nothing is downloaded, and what fails to load is a finding."""
    checks: tuple[Callable[[], list[Finding]], ...] = (_python, _torch, _weights, _memory, _scales, _packages, _data)
    return [finding for check in checks for finding in check()]


def _python() -> list[Finding]:
    said = f"Python {sys.version.split()[0]}"
    try:
        return [Finding("meld", "yes", f"{version('meld-dp')}, {said}")]
    except PackageNotFoundError:
        return [Finding("meld", "yes", f"a source tree, {said}")]


def _torch() -> list[Finding]:
    try:
        import torch
    except (ImportError, OSError) as error:
        return [Finding("torch", "missing", str(error).splitlines()[0], "pip install torch")]
    lines = [Finding("torch", "yes", f"{torch.__version__}, {torch.get_num_threads()} threads")]
    if torch.cuda.is_available():
        names = []
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            names.append(f"{torch.cuda.get_device_name(index)} ({free / 1e9:.0f} of {total / 1e9:.0f} GB free)")
        lines.append(Finding("CUDA", "yes", "; ".join(names)))
    elif torch.version.cuda is None:
        lines.append(Finding("CUDA", "no", "this torch is built without CUDA: small base models only"))
    else:
        lines.append(Finding("CUDA", "no", f"torch is built for CUDA {torch.version.cuda}, and no device was found"))
    return lines


def _weights() -> list[Finding]:
    from meld.backbone.weights import EMBEDDED_MINILM, resolve

    try:
        where = resolve(EMBEDDED_MINILM)
    except UserError as error:
        return [Finding("embedded MiniLM", "missing", "the default backbone and encoder need it", error.fix)]
    hub = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface")) / "hub"
    cached = sorted(p.name.removeprefix("models--").replace("--", "/") for p in hub.glob("models--*"))
    said = ", ".join(cached) if cached else "none"
    return [
        Finding("embedded MiniLM", "yes", where),
        Finding("models of the hub", "yes" if cached else "no", f"in {hub}: {said}"),
    ]


def _memory() -> list[Finding]:
    import psutil

    memory, disk = psutil.virtual_memory(), shutil.disk_usage(Path.cwd())
    said = f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB free, {os.cpu_count()} cores"
    enough = memory.total > 4e9
    return [
        Finding("memory", "yes" if enough else "no", said, "" if enough else "the default run needs about 4 GB"),
        Finding("disk", "yes" if disk.free > 5e9 else "no", f"{disk.free / 1e9:.0f} GB free here"),
    ]


def _scales() -> list[Finding]:
    """Which sizes of model this machine has room for."""
    try:
        import torch
    except (ImportError, OSError):
        return [Finding("scale=cpu", "missing", "it needs torch", "pip install torch")]
    lines = [Finding("scale=cpu", "yes", "the default; it needs nothing else")]
    gpu = "a CUDA device with about 24 GB"
    if not torch.cuda.is_available():
        return [*lines, Finding("scale=paper", "no", "no CUDA device", f"{gpu}, and the papers' models")]
    most = max(torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count()))
    if most < _PAPER_MEMORY:
        said = f"the largest device has {most / 1e9:.0f} GB"
        return [*lines, Finding("scale=paper", "no", said, f"{gpu}, or backbone.quantization=4bit")]
    return [*lines, Finding("scale=paper", "yes", "where its models are reachable: meld scale=paper dry_run=true")]


def _packages() -> list[Finding]:
    """What the package requires, and what its extras bring, by its own record."""
    try:
        required = requires("meld-dp") or []
    except PackageNotFoundError:
        return [Finding("packages", "no", "meld is not installed, so that its requirements are not known")]
    needed: dict[str, list[str]] = {"": []}
    for line in required:
        name = re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0]
        marked = re.search(r"extra == ['\"]([^'\"]+)['\"]", line)
        needed.setdefault(marked[1] if marked else "", []).append(name)
    absent = [name for name in needed[""] if not _installed(name)]
    lines = [
        Finding("packages", "missing", f"not installed: {', '.join(absent)}", f"pip install {' '.join(absent)}")
        if absent
        else Finding("packages", "yes", f"all {len(needed[''])} that meld requires")
    ]
    for extra, what in EXTRAS.items():
        absent = [name for name in needed.get(extra, ()) if not _installed(name)]
        if absent:
            lines.append(Finding(extra, "no", f"no {what}: {', '.join(absent)}", f"pip install 'meld-dp[{extra}]'"))
        else:
            lines.append(Finding(extra, "yes", what))
    return lines


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def _data() -> list[Finding]:
    place = Path(os.environ.get("MELD_DATA", "data"))
    if not place.is_dir():
        fix = "export MELD_DATA=FOLDER; the quickstart suites need none"
        return [Finding("benchmark data", "no", f"there is no folder {place}", fix)]
    folders = sorted(path.name for path in place.iterdir() if path.is_dir() and not path.name.startswith("."))
    return [Finding("benchmark data", "yes", f"{place}: {len(folders)} folders; meld data check says more")]
