"""Directory names from overrides, so that the same command finds its own work again."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from omegaconf import OmegaConf

_LONGEST = 80


MULTIRUN = frozenset({"-m", "--multirun"})
"""Hydra's flag for a multirun."""


def is_multirun(argv: Sequence[str]) -> bool:
    """Whether Hydra is asked for a multirun."""
    return any(word in MULTIRUN for word in argv)


def overrides_of(argv: Sequence[str]) -> list[str]:
    """The ``key=value`` words of a command line, without flags and their arguments."""
    return [word for word in _arguments(argv) if "=" in word or word.startswith("~")]


def strays_of(argv: Sequence[str]) -> list[str]:
    """Words of a command line that are neither flags nor overrides, such as a value behind a space."""
    return [word for word in _arguments(argv) if "=" not in word and not word.startswith("~")]


def _arguments(argv: Sequence[str]) -> list[str]:
    takes_argument = {
        "--config-dir",
        "-cd",
        "--config-path",
        "-cp",
        "--config-name",
        "-cn",
        "--package",
        "-p",
        "--info",
        "-i",
    }
    found = []
    skip = False
    for word in argv:
        if skip:
            skip = False
        elif word in takes_argument:
            skip = True
        elif not word.startswith("-"):
            found.append(word)
    return found


def directory_name(overrides: Sequence[str], ignored: Sequence[str] = (), first: Sequence[str] = ()) -> str:
    """A readable, unique name: the overrides in order of their keys, and a short hash.

    Args:
        overrides: As on the command line.
        ignored: Keys that do not belong in the name.
        first: Keys that tell most; they come first, since a long name is cut.
    """
    kept = sorted(o for o in overrides if not _key(o).startswith(("hydra.", "hydra/", "paths.", *ignored)))
    whole = ",".join(sorted(kept, key=lambda override: _key(override) not in first))
    slug = re.sub(r"[^A-Za-z0-9._=,+-]+", "_", whole).strip("_")[:_LONGEST] or "default"
    return f"{slug}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"


def job_directory(overrides: str) -> str:
    """The directory of a sweep's job, of one level: a group or a value that holds a slash would make several."""
    return overrides.replace("/", ".")


JOB_DIRECTORY = "${meld_job_directory:${hydra.job.override_dirname}}"
"""Hydra's name of a job from what is swept, as :func:`job_directory` writes it."""
# At import, because workers of parallel launchers resolve it too.
OmegaConf.register_new_resolver("meld_job_directory", job_directory, replace=True)


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]
