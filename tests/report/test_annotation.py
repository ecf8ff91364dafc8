"""The report's section on annotation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from meld.report.annotation import annotation_lines
from meld.report.sweep import build

CONTENT: dict[str, Any] = {
    "annotator": "self",
    "units": {
        "a.em": {
            "counts": {"labelled": 64, "pseudo": 30},
            "pseudo": {
                "precision_wanted": 0.9, "threshold": 0.0625, "fitted_on": 40, "above": 31, "few_shot_precision": 0.935,
                "matches": 10, "mismatches": 20,
            },
            "quality": {
                "pseudo": {
                    "count": 30, "checked": 25, "right": 24, "precision": 0.96, "confidence": 0.91,
                    "by_label": {
                        "match": {"count": 10, "checked": 5, "right": 4, "precision": 0.8, "confidence": 0.9},
                        "mismatch": {"count": 20, "checked": 20, "right": 20, "precision": 1.0, "confidence": 0.92},
                    },
                },
            },
        },
        "b.di": {
            "counts": {"labelled": 8},
            "pseudo": {"precision_wanted": 0.9, "threshold": None, "fitted_on": 3, "above": 0, "reason": "too <b>few"},
            "quality": {},
        },
        "c.dc": {
            "counts": {"labelled": 8, "transformed:ed": 4},
            "pseudo": {"precision_wanted": 0.9, "threshold": None, "fitted_on": 3, "above": 0, "reason": "too few"},
            "quality": {"transformed:ed": {"count": 4, "checked": 0, "right": 0, "precision": None, "confidence": 0.8}},
        },
        "d.em": {"counts": {"labelled": 5}, "quality": {}},
    },
}  # fmt: skip


def test_lines() -> None:
    rows = [(x.unit, x.source, x.part, x.count, x.checked, x.precision) for x in annotation_lines(CONTENT)]
    assert rows == [
        ("a.em", "few-shot training samples", False, 64, "", ""),
        ("", "pseudo", False, 30, "25", "0.960"),
        ("", "match", True, 10, "5", "0.800"),
        ("", "mismatch", True, 20, "20", "1.000"),
        ("b.di", "few-shot training samples", False, 8, "", ""),
        ("c.dc", "few-shot training samples", False, 8, "", ""),
        ("", "transformed:ed", False, 4, "0", ""),
        ("", "pseudo", False, 0, "", ""),
        ("d.em", "few-shot training samples", False, 5, "", ""),
    ]
    notes = [line.note for line in annotation_lines(CONTENT)]
    assert notes[1] == "margin ≥ 0.062, which 31 of 40 few-shot questions pass, 0.94 of them rightly (wanted 0.9)"
    assert notes[4] == "nothing added: too <b>few"
    assert notes[7] == "none: too few"
    assert notes[8] == "nothing added: the annotator is off"
    assert annotation_lines(None) == []


def test_the_report_shows_them(tmp_path: Path, make_run: Callable[..., Path]) -> None:
    run = make_run(tmp_path / "r")
    assert "Annotated training data" not in build(run).read_text(encoding="utf-8")
    (run / "annotation.json").write_text(json.dumps(CONTENT))
    text = build(run).read_text(encoding="utf-8")
    assert "Annotated training data" in text
    assert "0.960" in text
    assert "too &lt;b&gt;few" in text
