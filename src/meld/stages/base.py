"""What a stage gets to work with."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from meld.progress import Progress


@dataclass(frozen=True)
class Context:
    """Where a stage reads, writes and reports.

    Attributes:
        out: Empty directory that becomes the artifact.
        work: Directory that survives a kill; checkpoints go there.
        inputs: Artifact directories by name, as the pipeline declared them.
        seed: Seed of this stage, derived from the run's seed, the stage and the unit.
        progress: The display.
        logger: Opens a Lightning logger for a training inside this stage, given its name; None for no logging.
    """

    out: Path
    work: Path
    inputs: Mapping[str, Path]
    seed: int
    progress: Progress
    logger: Callable[[str], Logger | None]

    def group(self, prefix: str) -> dict[str, Path]:
        """Inputs named ``<prefix>:<unit>``, by unit."""
        return {name.partition(":")[2]: path for name, path in self.inputs.items() if name.startswith(f"{prefix}:")}


def write_json(path: Path, content: Any) -> None:
    """Write JSON in a canonical form: sorted keys, indented, newline at the end."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read what :func:`write_json` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))
