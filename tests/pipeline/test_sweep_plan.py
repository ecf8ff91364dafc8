"""The dry run of a sweep: what is shared, what is new, how long."""

from __future__ import annotations

import io

from rich.console import Console

from meld.pipeline.sweep_plan import JobPlan, Piece, show_sweep_plan


def _shown(*plans: JobPlan) -> list[str]:
    buffer = io.StringIO()
    show_sweep_plan(plans, Console(file=buffer, width=160))
    return buffer.getvalue().splitlines()


def _numbers(lines: list[str], head: str) -> list[str]:
    line = next(line for line in lines if f"│ {head} " in line)
    return [part.strip() for part in line.split("│")[2:-1]]


def test_shared_artifacts_are_counted_once() -> None:
    data, encode = Piece("data", "a" * 16, True, None), Piece("encode", "b" * 16, False, 60.0)
    first = JobPlan("k=1", {"k": "1"}, (data, encode, Piece("infer", "c" * 16, False, 5.0)))
    second = JobPlan("k=2", {"k": "2"}, (data, encode, Piece("infer", "d" * 16, False, None)))
    lines = _shown(first, second)
    assert _numbers(lines, "data") == ["1", "1", "1", "0", ""]
    assert _numbers(lines, "encode") == ["1", "1", "0", "1", "≈ 60"]
    assert _numbers(lines, "infer") == ["2", "0", "0", "2", "≈ 5 + ?"]
    assert _numbers(lines, "k=1") == ["3", "2", "≈ 65"]
    assert _numbers(lines, "k=2") == ["3", "1", "?"]
    end = " ".join(lines[-2:])
    assert "4 artifacts, 3 to be computed: about 65 s" in end
    assert "1 of them without an estimate" in end
    assert "would compute 4" in end


def test_a_finished_sweep_has_nothing_to_do() -> None:
    lines = _shown(JobPlan("k=1", {"k": "1"}, (Piece("data", "a" * 16, True, None),)))
    assert "1 artifacts, 0 to be computed: nothing to do" in " ".join(lines)
    assert _shown() == []
