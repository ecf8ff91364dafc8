"""A changed stage must say whether its stored artifacts are still right: raise its VERSION, or bless the change."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from pathlib import Path

import pytest

STAGES = (
    *("serialize", "encode", "annotate", "init", "metapath", "select", "refine", "route", "infer", "evaluate"),
    *("alone", "balance", "joint", "masked", "register"),
)
RECORD = Path(__file__).parent / "fingerprints.json"


def fingerprint(stage: str) -> dict[str, str]:
    """The versions a stage declares, and a digest of its source."""
    module = importlib.import_module(f"meld.stages.{stage}")
    source = Path(str(module.__file__)).read_text(encoding="utf-8")
    versions = {name: str(getattr(module, name)) for name in sorted(vars(module)) if name.endswith("VERSION")}
    return {**versions, "source": hashlib.sha256(source.encode()).hexdigest()[:16]}


@pytest.mark.parametrize("stage", STAGES)
def test_a_changed_stage_raises_its_version_or_is_blessed(stage: str) -> None:
    record = json.loads(RECORD.read_text()) if RECORD.is_file() else {}
    now = fingerprint(stage)
    if os.environ.get("MELD_BLESS") == "1":
        RECORD.write_text(json.dumps({**record, stage: now}, indent=2, sort_keys=True) + "\n")
        return
    assert record.get(stage) == now, (
        f"src/meld/stages/{stage}.py has changed. If its results change, raise its VERSION. Then, or if they do not, "
        "record the new source: MELD_BLESS=1 pytest -n 0 tests/stages/test_versions.py"
    )


def test_every_stage_with_a_version_is_watched() -> None:
    folder = Path(str(importlib.import_module("meld.stages").__file__)).parent
    versioned = {file.stem for file in folder.glob("*.py") if "\nVERSION = " in file.read_text(encoding="utf-8")}
    assert versioned == set(STAGES)
