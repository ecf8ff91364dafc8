"""The program ``meld``."""

from __future__ import annotations

import errno
import importlib
import os
import shlex
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from meld.errors import UserError

_VERBS = {
    "data": "data:run_data",
    "explain": "explain:run_explain",
    "report": "verbs:run_report",
    "status": "verbs:run_status",
    "store": "store:run_store",
    "rerun": "rerun:run_rerun",
    "diff": "diff:run_diff",
    "export": "export:export_verb",
    "predict": "predict:predict_verb",
    "serve": "serve:serve_verb",
    "doctor": "doctor:doctor_verb",
}
"""Module and function behind each verb, below ``meld.cli``; imported when asked for, so that help stays fast."""

_REFUSALS = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR})
"""What an operating system says about places that cannot be written."""

_HELP = """\
meld key=value ...        run the pipeline; see the README for recipes
  -m, --multirun          sweep: meld -m k=1,2,3
  --cfg job               print the configuration and stop
  dry_run=true            print the stages and what is missing, compute nothing
  until=STAGE             stop after a stage
  force=STAGE             compute a stage again
meld data list            the datasets there are, and whether their files are there
meld data describe NAME   what is in a dataset: columns, counts, tokens, a query
meld data check [NAME]    load what is there; label balance, leakage, what is missing and where to get it
meld report DIR           write the report of a run or sweep directory again and print its results
                          --page FILE.md also writes what a sweep measured as one page to keep
meld status DIR           what the jobs of a run or sweep are doing, and how to go on
meld explain RUN QUERY_ID why a prediction is what it is; a part of the id will do; --json for programs
meld store ls             what the store holds: size, time, memory, which runs use it
meld store why RUN|KEY    why something was computed again: what differs from the nearest artifact
meld store gc [--yes]     what no run needs; remove it
meld rerun RUN [k=v ...]  run a run again from its record, as it was or with changes
meld diff A B             how two runs differ in configuration, data, code and results
meld export RUN DIR       write what a run has learnt as one folder, the bundle
meld predict DIR FILE     answer the rows of a file with a bundle; meld predict --help
meld serve DIR            answer rows over HTTP with a bundle; meld serve --help
meld doctor               what this machine can run, and why not
meld --version
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        argv: Command-line words without the program's name; those of the process by default.

    Returns:
        Exit code: 0 done, 1 something failed, 2 the user can mend it, 130 interrupted.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if words and words[0] in {"help", "--help", "-h"}:
            print(_HELP, end="")
            return 0
        if words and words[0] == "--version":
            from meld import __version__

            print(f"meld {__version__}")
            return 0
        if words and words[0] in _VERBS:
            module, _, function = _VERBS[words[0]].partition(":")
            code: int = getattr(importlib.import_module(f"meld.cli.{module}"), function)(words[1:])
            return code
        if words and "=" not in words[0] and not words[0].startswith(("-", "~", "+")):
            raise UserError(
                f"There is no command {words[0]!r}.",
                fix=f"use one of {', '.join(_VERBS)}, or key=value to run the pipeline",
            )
        return _run_hydra(words)
    except UserError as error:
        print(f"meld: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        refused = _refused(error)
        if refused is None:
            raise
        print(f"meld: {refused}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nmeld: interrupted; the same command continues where it stopped", file=sys.stderr)
        return 130


def _run_hydra(words: list[str]) -> int:
    """Compose with Hydra and run one job or a sweep."""
    # Errors come to us instead of being printed by Hydra; models never phone home unless asked to.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from meld.cli.job import hydra_entry
    from meld.cli.sweeps import arrange
    from meld.config.compose import friendly
    from meld.report.record import withdraw_record, write_record
    from meld.report.status import has_failed

    command = shlex.join(["meld", *words])
    begun: Path | None = None
    try:
        plan = arrange(words, command)
        if plan.record is not None and plan.folder is not None and not plan.dry:
            write_record(plan.folder, plan.record)
            begun = plan.folder
        swept = tuple(plan.record.grid) if plan.record else ()
        with _elsewhere(plan.words) if plan.dry else nullcontext(list(plan.words)) as arguments:
            sys.argv = ["meld", *arguments]
            outcome = hydra_entry(command, plan.multirun, swept)
    except UserError:
        raise
    except KeyboardInterrupt:
        raise
    except Exception as error:
        if begun is not None:
            withdraw_record(begun)
        cause: BaseException = error
        while not isinstance(cause, UserError) and cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, UserError):
            raise cause from None
        if isinstance(cause, OSError) and _refused(cause) is not None:
            raise cause from None
        try:
            friendlier = friendly(error)
        except Exception:
            traceback.print_exception(error)
            return 1
        raise friendlier from None
    if plan.folder is None:
        return 1 if outcome.failed else 0
    if plan.dry:
        from meld.pipeline.sweep_plan import show_sweep_plan

        show_sweep_plan(outcome.plans)
        return 1 if outcome.failed else 0
    from meld.cli.verbs import show_sweep

    show_sweep(plan.folder)
    # Jobs in processes of their own cannot count in ours.
    return 1 if outcome.failed or has_failed(plan.folder) else 0


def _refused(error: OSError) -> UserError | None:
    """What the user can mend about a place: no permission, a read-only or full file system; None for anything else."""
    if error.errno not in _REFUSALS or not error.filename:
        return None
    return UserError(
        f"{os.strerror(error.errno or 0)}.",
        where=str(error.filename),
        fix="make it writable or free space, or choose another place: paths.store=, paths.runs=, hydra.sweep.dir=",
    )


@contextmanager
def _elsewhere(words: Sequence[str]) -> Iterator[list[str]]:
    """The same words with directories that vanish: Hydra makes one for every job, also where nothing is computed."""
    with tempfile.TemporaryDirectory(prefix="meld-dry-run-") as folder:
        places = ("hydra.run.dir", "hydra.sweep.dir")
        kept = [word for word in words if word.partition("=")[0] not in places]
        yield [*kept, *(f"{place}='{folder}'" for place in places)]


if __name__ == "__main__":
    sys.exit(main())
