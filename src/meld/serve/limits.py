"""What the server takes, and from whom: limits, the bearer token, and which addresses are this machine's alone."""

from __future__ import annotations

import hmac
import ipaddress
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from meld.errors import UserError

TOKEN = "MELD_SERVE_TOKEN"
"""The environment variable that holds the bearer token."""

SHORTEST_TOKEN = 16
"""Characters a token needs at least; a shorter one can be guessed."""


@dataclass(frozen=True)
class Limits:
    """What a client may ask for, and how much is kept waiting.

    Attributes:
        body_bytes: Bytes of a request's body.
        rows: Rows of a request.
        columns: Columns of a row.
        cell_chars: Characters of a cell; of a list, all of its items together.
        name_chars: Characters of a column's name, a unit, a task or a target.
        seconds: Time for a body to arrive, and again for its rows to be answered.
        requests: Requests that are read, waiting or being answered at a time. Times ``body_bytes`` it bounds what
            waiting requests can take up.
        batch_rows: Rows of different requests that are answered together; one request of more is answered as it is.
        batch_seconds: How long an idle server waits for more rows after the first.
    """

    body_bytes: int = 1_048_576
    rows: int = 256
    columns: int = 256
    cell_chars: int = 20_000
    name_chars: int = 200
    seconds: float = 60.0
    requests: int = 256
    batch_rows: int = 64
    batch_seconds: float = 0.01

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name == "batch_seconds" else 1 if field.type == "int" else 0.001
            if not least <= value < float("inf"):
                raise UserError(f"The limit {field.name} is {value}.", where=field.name, fix=f"at least {least}")


class TooLarge(UserError):
    """A request above a limit."""


def check_rows(rows: Iterable[Mapping[str, object]], limits: Limits, where: str = "rows") -> None:
    """Refuse rows that are too many, too wide or too long.

    Raises:
        TooLarge: Naming the first that is.
    """
    for number, row in enumerate(rows):
        place = f"{where}[{number}]"
        if number >= limits.rows:
            raise TooLarge(f"There are more than {limits.rows} rows.", where=where, fix="send them in several requests")
        if len(row) > limits.columns:
            raise TooLarge(f"A row has {len(row)} columns; {limits.columns} are taken.", where=place, fix="fewer")
        for name, value in row.items():
            if len(name) > limits.name_chars:
                raise TooLarge(f"A column's name has {len(name)} characters.", where=place, fix="a shorter name")
            length = _length(value)
            if length > limits.cell_chars:
                raise TooLarge(
                    f"A cell has {length} characters; {limits.cell_chars} are taken.",
                    where=f"{place}, column {name!r}",
                    fix="a shorter value",
                )


def _length(value: object) -> int:
    if isinstance(value, list):
        return sum(_length(item) + 1 for item in value)
    # Without writing a long integer: four bits make more than one digit.
    return value.bit_length() // 4 if isinstance(value, int) else len(value) if isinstance(value, str) else 0


class Token:
    """A bearer token that never shows: not in logs, not in a representation.

    Args:
        text: The token.

    Raises:
        UserError: If it is too short, or has characters that a header cannot carry.
    """

    def __init__(self, text: str) -> None:
        if len(text) < SHORTEST_TOKEN or not text.isascii() or not text.isprintable() or " " in text:
            raise UserError(
                f"The token is no token: it needs {SHORTEST_TOKEN} characters, ASCII and without spaces.",
                where="token",
                fix='python -c "import secrets; print(secrets.token_urlsafe())"',
            )
        self._expected = f"Bearer {text}".encode("ascii")

    def __repr__(self) -> str:
        return "<Token>"

    def admits(self, header: bytes | None) -> bool:
        """Whether an ``Authorization`` header carries the token; takes as long for a wrong one as for the right one."""
        scheme, _, rest = (header or b"").partition(b" ")
        said = (b"Bearer" if scheme.lower() == b"bearer" else b"none") + b" " + rest.strip()
        return hmac.compare_digest(said, self._expected)


def read_token(file: str | None, environment: Mapping[str, str] | None = None) -> Token | None:
    """The token from a file, else from the environment, else none.

    Raises:
        UserError: If the file cannot be read, both are given, or what is there is no token.
    """
    given = (os.environ if environment is None else environment).get(TOKEN)
    if file is None:
        return None if given is None else Token(given)
    if given is not None:
        raise UserError(f"There are two tokens: {TOKEN} and a file.", where="--token-file", fix=f"unset {TOKEN}")
    try:
        return Token(Path(file).read_text(encoding="utf-8").strip())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"The file with the token cannot be read: {type(error).__name__}.", where=file, fix="check the path"
        ) from None


def is_loopback(host: str) -> bool:
    """Whether an address reaches this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def host_of(header: str) -> str:
    """The name in a ``Host`` header, without its port."""
    name, _, port = header.strip().rpartition(":")
    return name if name and port.isdigit() else header.strip()
