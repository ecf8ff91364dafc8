"""Files that MELD wrote, read again: one that is damaged, or says something else, is named."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
from safetensors import SafetensorError

from meld.errors import DataError

_DAMAGED = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, pa.ArrowException)
"""What reading and taking apart raises, where a file is not what it should be. JSON's and Unicode's are ValueErrors."""

_FIX = "of a bundle: export the run again, or copy the whole folder again"


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Read a file and take it apart inside.

    Args:
        path: The file.

    Raises:
        DataError: Naming it, where what is done inside fails as it does on a damaged file.
    """
    try:
        yield
    except (*_DAMAGED, SafetensorError) as error:
        if isinstance(error, FileNotFoundError):
            raise DataError(f"{path.name} is missing.", where=str(path), fix=_FIX) from error
        said = (str(error).strip().splitlines() or [""])[0][:200]
        raise DataError(
            f"{path.name} is damaged, or was written by another version of meld: {type(error).__name__} {said}",
            where=str(path),
            fix=_FIX,
        ) from error
