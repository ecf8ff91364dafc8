"""Packages that only some retrievers need."""

from __future__ import annotations

from importlib.util import find_spec

from meld.errors import UserError


def need(package: str, extra: str, instead: str) -> None:
    """Check, before any work starts, that an optional package is installed.

    Args:
        package: Name under which it is imported.
        extra: The extra of this project that installs it.
        instead: The override that does without.

    Raises:
        UserError: If it is not.
    """
    if find_spec(package) is None:
        raise UserError(
            f"This retriever needs the package {package}, which is not installed.",
            where="retriever",
            fix=f"pip install 'meld-dp[{extra}]', or {instead}",
        )
