"""The section of a run's report on self-annotation: how many samples, from where, and how right they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ANNOTATION = "annotation.json"


@dataclass(frozen=True)
class Line:
    """One row of the table.

    Attributes:
        unit: The unit; empty where it is that of the row above.
        source: Provenance of the samples, and their label where labels are told apart.
        part: Whether the row is a part of the one above it.
        count: Samples.
        confidence: Their mean confidence.
        checked: How many of them a hidden label covers.
        precision: Share of right ones among those; empty if none is covered.
        note: The threshold that decided, or why there is nothing.
    """

    unit: str
    source: str
    part: bool
    count: int
    confidence: str
    checked: str
    precision: str
    note: str


def annotation_lines(content: Mapping[str, Any] | None) -> list[Line]:
    """Rows of the table, unit by unit: few-shot samples, what was added by provenance and label.

    Args:
        content: ``annotation.json`` of a run; None for none.
    """
    lines: list[Line] = []
    for unit, report in sorted((content or {}).get("units", {}).items()):
        counts, quality = report.get("counts", {}), report.get("quality", {})
        pseudo = report.get("pseudo", {})
        nothing = "" if quality else f"nothing added: {pseudo.get('reason', 'the annotator is off')}"
        lines.append(Line(unit, "few-shot training samples", False, counts.get("labelled", 0), "", "", "", nothing))
        for provenance, found in quality.items():
            note = _threshold(pseudo) if provenance == "pseudo" else ""
            lines.append(_line(provenance, found, False, note))
            lines += [_line(label, part, True, "") for label, part in found.get("by_label", {}).items()]
        if quality and "pseudo" not in quality and pseudo.get("reason"):
            lines.append(Line("", "pseudo", False, 0, "", "", "", f"none: {pseudo['reason']}"))
    return lines


def _line(source: str, found: Mapping[str, Any], part: bool, note: str) -> Line:
    checked, precision = found["checked"], found["precision"]
    return Line(
        "",
        source,
        part,
        found["count"],
        f"{found['confidence']:.2f}",
        f"{checked:,}",
        "" if precision is None else f"{precision:.3f}",
        note,
    )


def _threshold(pseudo: Mapping[str, Any]) -> str:
    """What decided which pseudo-labels were kept, in a few words."""
    threshold = pseudo.get("threshold")
    if threshold is None:
        return ""
    return (
        f"margin ≥ {threshold:.3f}, which {pseudo['above']} of {pseudo['fitted_on']} few-shot questions pass, "
        f"{pseudo['few_shot_precision']:.2f} of them rightly (wanted {pseudo['precision_wanted']:g})"
    )
