"""``meld predict BUNDLE in.csv -o out.csv``: answers to the rows of a file."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from meld.cli.words import Words, in_shell_words

_NAMES = {
    **{name: f"--{name}" for name in ("task", "target", "unit", "right", "restart", "base", "device", "chunk")},
    "given": "--format",
    "file_format": "--out-format",
}
"""The option behind each argument of :func:`meld.load`, ``predict_file`` and ``rows_in``."""


@in_shell_words(_NAMES)
def predict_verb(words: Sequence[str]) -> int:
    """Carry out ``meld predict``.

    Returns:
        0 if every row is answered, 1 if some have no usable answer (their ``status`` is ``invalid``).

    Raises:
        UserError: For wrong arguments, files or bundles (exit code 2).
    """
    given = _parser().parse_args(list(words))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from meld.bundle.files import STREAM, check_output, format_of, rows_in
    from meld.bundle.job import names_beside
    from meld.bundle.model import load

    # Told before anything is loaded.
    out_format = format_of(given.out, given.out_format)
    check_output(given.out, [Path(name) for name in (given.rows, given.right) if name not in (None, STREAM)])
    with ExitStack() as held:
        rows = held.enter_context(rows_in(given.rows, given.format))
        right = None if given.right is None else held.enter_context(rows_in(given.right, given.format))
        names_beside(rows.columns)
        if not len(rows):
            print("meld: there is a header but no row; the output has none either", file=sys.stderr)
        model = load(given.bundle, base=given.base, device=given.device)
        try:
            found = model.predict_file(
                rows,
                given.out,
                given.task,
                given.target,
                unit=given.unit,
                right=right,
                restart=given.restart,
                file_format=out_format,
                progress=not given.quiet,
                chunk=given.chunk,
            )
        except BrokenPipeError:
            # Whoever read has seen enough; without this Python complains once more when it closes the stream.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
    return 1 if found["invalid"] else 0


def _parser() -> Words:
    parser = Words(
        prog="meld predict",
        description="Answer the rows of a table (CSV, Parquet or JSON lines). Every cell is read as it is written; the "
        "output has all columns of the input and the columns prediction, score, experts, weights and status.",
        epilog="After an interrupt the same command goes on where it stopped. Exit codes: 0 all answered, 1 some rows "
        "have no usable answer, 2 something to mend, 130 interrupted.",
    )
    parser.add_argument("bundle", help="folder that meld export wrote")
    parser.add_argument("rows", help="file with the rows, or - for standard input")
    parser.add_argument("-o", "--out", default="-", help="file to write, or - for standard output (the default)")
    parser.add_argument("--task", help="em, blk, di, ed, dc, cta, re, el, sm or ave")
    parser.add_argument("--target", help="the column that is asked about")
    parser.add_argument("--unit", help="DATASET.TASK, where the bundle has several units of the task")
    parser.add_argument("--right", metavar="FILE", help="the right tuples of pairs, row by row")
    parser.add_argument("--format", metavar="F", help="of the input where its suffix does not say: csv, parquet, jsonl")
    parser.add_argument("--out-format", metavar="F", help="of the output where its suffix does not say")
    parser.add_argument("--base", metavar="NAME", help="folder of the base model, if it is not under its own name")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--chunk", type=int, default=256, metavar="N", help="rows at a time (256)")
    parser.add_argument("--restart", action="store_true", help="throw away what an interrupted job left")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser
