"""Reading the words behind a verb: wrong ones are errors for the user like any other."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NoReturn

from meld.errors import ConfigErrors, UserError


@contextmanager
def in_shell_words(options: Mapping[str, str]) -> Iterator[None]:
    """The block, or the decorated function, whose errors name options of the shell where they name Python's arguments.

    ``chunk=256`` becomes ``--chunk 256``; ``restart=True`` and ``load(DIR, base=...)`` become ``--restart`` and
    ``--base``. Only the place and the advice are read so: a sentence may quote anything.

    Args:
        options: The option behind each argument.

    Raises:
        UserError: The same, so worded.
    """
    try:
        yield
    except ConfigErrors:
        raise
    except UserError as error:
        where, fix = (_shell_words(text, options) for text in (error.where, error.fix))
        raise type(error)(error.what, where=where, fix=fix) from error


def _shell_words(text: str, options: Mapping[str, str]) -> str:
    if text in options:  # a place that is an argument
        return options[text]
    names = "|".join(map(re.escape, options))
    found = re.sub(rf"\b[\w.]+\([^()]*?\b((?:{names})=\.\.\.)\)", r"\1", text)

    def option(match: re.Match[str]) -> str:
        value = match["value"]
        if value[0] in "'\"":
            value = shlex.quote(value[1:-1])
        return options[match["name"]] + ("" if value in ("True", "...") else f" {value}")

    return re.sub(rf"(?<![\w'\"./-])(?P<name>{names})=(?P<value>'[^']*'|\"[^\"]*\"|[^\s,;)]+)", option, found)


class Words(argparse.ArgumentParser):
    """An argument parser that raises instead of ending the program."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong.

        Raises:
            UserError: Always.
        """
        raise UserError(f"{self.prog}: {message}", fix=f"{self.prog} --help lists what it takes")
