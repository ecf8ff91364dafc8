"""One progress display for a whole run; components report through this small protocol."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """Where a stage reports how far it is."""

    def begin(self, what: str, total: int | None) -> None:
        """Start a step inside the current stage; ``total`` None means unknown length."""
        ...

    def advance(self, amount: int = 1) -> None:
        """Report work done in the current step."""
        ...

    def say(self, message: str) -> None:
        """Print a line above the bars: a decision or a fact that users should see."""
        ...


class Silent:
    """Reports to nobody."""

    def begin(self, what: str, total: int | None) -> None:
        """Ignore."""

    def advance(self, amount: int = 1) -> None:
        """Ignore."""

    def say(self, message: str) -> None:
        """Ignore."""


def track(items: Iterable[T], progress: Progress, what: str) -> Iterator[T]:
    """Iterate and report each item."""
    progress.begin(what, len(items) if isinstance(items, Sized) else None)
    for item in items:
        yield item
        progress.advance()


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence the progress bars and load reports of transformers and huggingface_hub for a block."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
