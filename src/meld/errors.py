"""Errors meant for the person at the keyboard: what is wrong, where, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence


class UserError(Exception):
    """Something the user can mend. The command line prints it on one screen and exits with code 2.

    Args:
        what: What is wrong, in one sentence.
        where: The place (file, row, column, config key); empty if the sentence names it.
        fix: What to do about it, ideally the override or command that mends it.
    """

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        self.what = what
        self.where = where
        self.fix = fix
        super().__init__(str(self))

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.fix:
            lines.append(f"  fix:   {self.fix}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions with keyword arguments do not survive pickling by default; parallel launchers need it.
        return (_rebuild, (type(self), self.what, self.where, self.fix))


class ConfigError(UserError):
    """One thing wrong in the configuration."""


class DataError(UserError):
    """A data file or frame that cannot be used as it is."""


class ConfigErrors(UserError):
    """Several configuration errors, reported at once.

    Args:
        errors: The single errors, in the order they were found.
    """

    def __init__(self, errors: Sequence[UserError]) -> None:
        self.errors = tuple(errors)
        count = len(self.errors)
        super().__init__(
            f"{count} problem{'s' if count != 1 else ''} in the configuration:\n\n"
            + "\n\n".join(f"{number}. {error}" for number, error in enumerate(self.errors, start=1))
        )

    def __reduce__(self) -> tuple[object, ...]:
        return (ConfigErrors, (self.errors,))


def _rebuild(kind: type[UserError], what: str, where: str, fix: str) -> UserError:
    return kind(what, where=where, fix=fix)
