"""``meld rerun RUN [key=value ...]``: a run again, from its record."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig
from rich.console import Console
from rich.text import Text

from meld.cli.words import Words
from meld.config.compose import compose_config
from meld.config.presets import register_presets
from meld.config.schema import register_schema
from meld.config.tree import HIDDEN, config_hash, plain, redact
from meld.config.validate import validate
from meld.errors import UserError
from meld.report.record import CONFIG, Origin, read_config, read_origin
from meld.report.results import RESULTS, read_json
from meld.store.why import differing, flat

_STEERING = ("force", "dry_run")


def run_rerun(words: Sequence[str]) -> int:
    """Carry out ``meld rerun ...``.

    Without overrides the recorded configuration is carried out as it stands, whatever the options' files say today.
    Overrides are composed with the recorded ones from today's files, since a resolved configuration no longer says what
    follows from what; options that have changed since are named.

    Args:
        words: What follows the verb.

    Returns:
        Exit code: 0 done, 1 if units failed, or if results.json is another although nothing that matters was changed.

    Raises:
        UserError: If the directory holds no record, or the record does not compose any more.
    """
    given = _parser().parse_intermixed_args(words)
    wrong = [word for word in given.overrides if "=" not in word and not word.startswith("~")]
    if wrong:
        raise UserError(f"{wrong[0]!r} is no override.", where="meld rerun", fix="give key=value")
    run, overrides = Path(given.run), tuple(given.overrides)
    origin = read_origin(run)
    if origin is None or not (run / CONFIG).is_file():
        raise UserError(
            "There is no record of a run here (run.json and config.yaml).",
            where=str(run),
            fix="give a directory below outputs/runs, or a job's below outputs/sweeps",
        )
    register_schema()
    register_presets()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    folder = Path(given.into) if given.into else rerun_folder(run, overrides)
    if folder.resolve() == run.resolve():
        raise UserError("A rerun does not overwrite its record.", where=str(run), fix="--into ANOTHER_DIRECTORY")
    command = shlex.join(["meld", "rerun", *words])
    console = Console()
    if overrides:
        config, choices = _changed(run, origin, overrides, console)
        tree, shown = plain(config), redact(config)
    else:
        choices = dict(origin.choices)
        tree, shown = recorded(run, origin)
        tree, shown = {**tree, "force": None}, {**shown, "force": None}
    validate(tree)
    from meld.cli.job import carry_out

    said = Origin(command, (*origin.overrides, *overrides), choices, origin.config_dir)
    console.print(Text(f"rerun of {run} into {folder}"), soft_wrap=True)
    failures = carry_out(tree, shown, said, folder)
    same = tree["dry_run"] or _compare(run, folder, config_hash(tree), console)
    return 1 if failures or not same else 0


def rerun_folder(run: Path, overrides: Sequence[str]) -> Path:
    """Where a rerun goes: beside the run, always the same for the same changes, so that it continues when repeated."""
    kept = sorted(word for word in overrides if word.lstrip("+~").partition("=")[0] not in _STEERING)
    mark = f"-{hashlib.sha256(','.join(kept).encode()).hexdigest()[:8]}" if kept else ""
    resolved = run.resolve()
    return resolved.with_name(f"{resolved.name}-rerun{mark}")


def recorded(run: Path, origin: Origin) -> tuple[dict[str, Any], dict[str, Any]]:
    """A run's recorded configuration, with and without secrets; these come from where they came from then.

    Raises:
        DataError: If the record cannot be read.
        UserError: If a secret is needed and the recorded overrides do not compose any more.
    """
    shown = read_config(run)
    hidden = [path for path, value in _leaves(shown) if isinstance(value, str) and HIDDEN in value]
    if not hidden:
        return shown, shown
    today = plain(_composed(origin, ()))
    tree = yaml.safe_load(yaml.safe_dump(shown))
    for path in hidden:
        there: Any = today
        here: Any = tree
        try:
            for key in path:
                there = there[key]
            for key in path[:-1]:
                here = here[key]
        except (KeyError, IndexError, TypeError):
            place = ".".join(map(str, path))
            raise UserError(
                "A secret was left out of the record, and the options that held it have none any more.",
                where=f"{run / CONFIG}: {place}",
                fix=f"meld rerun {run} {place}=VALUE",
            ) from None
        here[path[-1]] = there
    return tree, shown


def _parser() -> Words:
    parser = Words(prog="meld rerun")
    parser.add_argument("run", metavar="RUN", help="a run directory")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="what to change")
    parser.add_argument("--into", metavar="DIR", help="the new run directory (default: RUN-rerun)")
    return parser


def _composed(origin: Origin, overrides: Sequence[str]) -> DictConfig:
    return compose_config(_task(origin, overrides), _folder(origin)).config


def _task(origin: Origin, overrides: Sequence[str]) -> list[str]:
    """Recorded overrides and new ones; steering ones belong to the call they were given in."""
    old = [word for word in origin.overrides if word.lstrip("+~").partition("=")[0] not in _STEERING]
    return [*old, *overrides]


def _folder(origin: Origin) -> Path | None:
    return Path(origin.config_dir.removeprefix("file://")) if origin.config_dir else None


def _changed(
    run: Path, origin: Origin, overrides: Sequence[str], console: Console
) -> tuple[DictConfig, dict[str, str]]:
    """The configuration with changes, composed from today's options."""
    before = flat({key: value for key, value in read_config(run).items() if key not in _STEERING})
    today = redact(_composed(origin, ()))
    after = flat({key: value for key, value in today.items() if key not in _STEERING})
    for leaf in differing(before, after):
        console.print(Text(f"since the run: {leaf}", style="yellow"))
    made = compose_config(_task(origin, overrides), _folder(origin))
    choices = {group: str(option) for group, option in made.choices.items() if not group.startswith("hydra/")}
    return made.config, choices


def _leaves(node: object, above: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], object]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _leaves(value, (*above, key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _leaves(value, (*above, index))
    else:
        yield above, node


def _compare(run: Path, again: Path, hash_: str, console: Console) -> bool:
    """Say whether a rerun gave the same results, if it should: no change but in where and how it executes."""
    files = [run / RESULTS, again / RESULTS]
    if not all(file.is_file() for file in files) or read_json(files[0]).get("config_hash") != hash_:
        return True
    if files[0].read_bytes() == files[1].read_bytes():
        console.print("results.json is the same, byte for byte", style="green")
        return True
    console.print(Text(f"results.json differs; meld diff {run} {again} says in what"), style="red", soft_wrap=True)
    return False
