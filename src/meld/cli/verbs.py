"""``meld report`` and ``meld status``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from meld.cli.words import Words
from meld.errors import UserError
from meld.report.console import results_table
from meld.report.kept import kept_page
from meld.report.paper import paper_table
from meld.report.paper_text import rich_table
from meld.report.record import read_record
from meld.report.results import find_runs, read_results
from meld.report.status import show_status, status_json
from meld.report.sweep import build


def run_report(words: Sequence[str]) -> int:
    """``meld report DIR [--page FILE]``: write its report again and print its results.

    With ``--page`` what a sweep measured is also written as one Markdown page that names no folder of the machine.

    Args:
        words: What follows the verb.

    Raises:
        UserError: For wrong arguments or a directory that holds nothing of the kind.
    """
    parser = Words(prog="meld report", description="Write a report again and print its results.")
    parser.add_argument("directory", nargs="*", metavar="DIR", help="a run or sweep directory")
    parser.add_argument(
        "--page", type=Path, metavar="FILE", help="also write what a sweep measured as one page to keep"
    )
    given = parser.parse_intermixed_args(words)
    page: Path | None = given.page
    directory = _directory("report", given.directory)
    if page is not None and read_record(directory) is None:
        raise UserError("--page is for sweeps.", where=str(directory), fix="give the directory of one sweep")
    show_report(directory)
    if page is not None:
        text = kept_page(directory)
        try:
            page.parent.mkdir(parents=True, exist_ok=True)
            page.write_text(text, encoding="utf-8")
        except OSError as error:
            raise UserError(f"The page cannot be written: {error}.", where=str(page), fix="--page FILE.md") from error
        Console().print(f"page: {page}", highlight=False, soft_wrap=True)
    return 0


def run_status(words: Sequence[str]) -> int:
    """``meld status DIR [--json]``: what its jobs are doing, and how to go on.

    Args:
        words: What follows the verb.

    Raises:
        UserError: For wrong arguments or a directory that holds nothing of the kind.
    """
    parser = Words(prog="meld status", description="What the jobs of a run or sweep are doing, and how to go on.")
    parser.add_argument("directory", nargs="*", metavar="DIR", help="a run or sweep directory")
    parser.add_argument("--json", action="store_true", help="for programs")
    given = parser.parse_intermixed_args(words)
    directory = _directory("status", given.directory)
    if given.json:
        print(json.dumps(status_json(directory), indent=1))
    else:
        show_status(directory)
    return 0


def _directory(verb: str, words: Sequence[str]) -> Path:
    if len(words) != 1:
        raise UserError(f"meld {verb} takes one directory.", fix=f"meld {verb} outputs/runs/NAME")
    directory = Path(words[0])
    if not directory.is_dir():
        what = f"{directory} is a file." if directory.exists() else f"There is no directory {directory}."
        raise UserError(what, fix="give a run or sweep directory below outputs/")
    return directory


def show_report(directory: Path) -> None:
    """Write a directory's report again, print its results and where the report is."""
    page = build(directory)
    console = Console()
    table = paper_table(directory)
    if table is not None:
        console.print(rich_table(table))
    else:
        for run in find_runs(directory):
            if run != directory:  # several tables that differ in nothing a reader could tell them by
                console.print(Text(f"\n{run.relative_to(directory)}", style="bold"), soft_wrap=True)
            console.print(results_table(read_results(run), all_metrics=False))
    console.print(f"report: {page}", highlight=False, soft_wrap=True)


def show_sweep(directory: Path) -> None:
    """After a sweep: the comparison of its jobs, or what became of them if none finished."""
    if any((job / "results.json").is_file() for job in directory.iterdir()):
        show_report(directory)
    elif any((job / "status.json").is_file() for job in directory.iterdir()):
        show_status(directory)
