"""The program ``meld``."""

from __future__ import annotations

import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from meld.errors import UserError

_VERBS = ("data", "report", "status", "explain")
_CONTROL = ("dry_run", "force", "until")

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
meld status DIR           what the jobs of a run or sweep are doing, and how to go on
meld explain RUN QUERY_ID why a prediction is what it is; a part of the id will do; --json for programs
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
        if words and words[0] == "data":
            from meld.cli.data import run_data

            return run_data(words[1:])
        if words and words[0] == "explain":
            from meld.cli.explain import run_explain

            return run_explain(words[1:])
        if words and words[0] in _VERBS:
            from meld.cli.verbs import run_verb

            return run_verb(words[0], words[1:])
        if words and "=" not in words[0] and not words[0].startswith(("-", "~", "+")):
            raise UserError(
                f"There is no command {words[0]!r}.",
                fix=f"use one of {', '.join(_VERBS)}, or key=value to run the pipeline",
            )
        return _run_hydra(words)
    except UserError as error:
        print(f"meld: {error}", file=sys.stderr)
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
    from meld.cli.names import constant_keys, directory_name, is_multirun, overrides_of
    from meld.config.compose import friendly

    overrides = overrides_of(words)
    multirun = is_multirun(words)
    given = {word.partition("=")[0] for word in overrides}
    extra = []
    try:
        constant = constant_keys(overrides)
        if multirun and "hydra.sweep.dir" not in given:
            extra.append(f"hydra.sweep.dir='outputs/sweeps/{directory_name(overrides, _CONTROL)}'")
        if multirun and "hydra.sweep.subdir" not in given:
            extra.append("hydra.sweep.subdir='${hydra.job.override_dirname}'")
            keys = ",".join(f"'{key}'" for key in constant)
            extra.append(f"hydra.job.config.override_dirname.exclude_keys=[{keys}]")
        if not multirun and "hydra.run.dir" not in given:
            extra.append(f"hydra.run.dir='${{paths.runs}}/{directory_name(overrides, _CONTROL)}'")
        sys.argv = ["meld", *words, *extra]
        state = hydra_entry(command=shlex.join(["meld", *words]), multirun=multirun)
    except UserError:
        raise
    except KeyboardInterrupt:
        raise
    except Exception as error:
        cause: BaseException = error
        while not isinstance(cause, UserError) and cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, UserError):
            raise cause from None
        try:
            friendlier = friendly(error)
        except Exception:
            traceback.print_exception(error)
            return 1
        raise friendlier from None
    if multirun and state.folder is not None:
        from meld.cli.verbs import show_sweep

        show_sweep(Path(state.folder))
    return 1 if state.failed else 0


if __name__ == "__main__":
    sys.exit(main())
