"""``meld diff A B``: how two runs differ."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from meld.cli.words import Words
from meld.report.diff import diff_json, diff_runs, diff_text


def run_diff(words: Sequence[str]) -> int:
    """Carry out ``meld diff ...``.

    Args:
        words: What follows the verb.

    Returns:
        Exit code.

    Raises:
        UserError: If a directory is not there or holds no run.
    """
    parser = Words(prog="meld diff")
    parser.add_argument("first", metavar="A", type=Path, help="a run directory")
    parser.add_argument("second", metavar="B", type=Path, help="another")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(words)
    found = diff_runs(given.first, given.second)
    if given.json:
        print(json.dumps(diff_json(found), indent=1))
    else:
        Console().print(diff_text(found), soft_wrap=True, highlight=False)
    return 0
