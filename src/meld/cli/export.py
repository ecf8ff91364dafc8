"""``meld export RUN DIR``: what a run has learnt, as a folder that answers elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from meld.bundle.export import export_run
from meld.bundle.manifest import MANIFEST
from meld.errors import UserError
from meld.stages.base import read_json


def export_verb(words: Sequence[str]) -> int:
    """Carry out ``meld export``.

    Raises:
        UserError: For wrong arguments, or a run that cannot be exported.
    """
    if len(words) != 2 or any(word.startswith("-") for word in words):
        raise UserError("meld export takes a run and a new folder.", fix="meld export outputs/runs/NAME my_bundle")
    folder = export_run(Path(words[0]), Path(words[1]))
    manifest = read_json(folder / MANIFEST)
    size = sum((folder / name).stat().st_size for name in manifest["files"])
    print(f"{folder}: {size / 1e6:.1f} MB, {len(manifest['files'])} files")
    if "base" in manifest:
        print(f"base model, not included: {manifest['base']['name']}")
    for unit, line in manifest["units"].items():
        if line["answers"]:
            print(f"  {unit}" + (f"  after {' > '.join(line['path'])}" if line["path"] else ""))
    return 0
