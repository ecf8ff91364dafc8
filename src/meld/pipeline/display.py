"""The one progress display of a run: stage i of n, and the step inside it."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


class Display:
    """Two bars on a terminal; one line per finished stage elsewhere.

    Args:
        console: Where to draw.
        total: Stages of the run.
    """

    def __init__(self, console: Console, total: int) -> None:
        self.console = console
        self.total = total
        self.done = 0
        self._live = console.is_terminal
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not self._live,
        )
        self._stages = self._progress.add_task("stages", total=total)
        self._step = self._progress.add_task("", total=None, visible=False)

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def expect(self, total: int) -> None:
        """How many stages there are to be, where a unit was left out on the way."""
        self.total = total
        self._progress.update(self._stages, total=total)

    def stage(self, name: str) -> None:
        """A stage begins."""
        self._progress.update(self._stages, description=name)
        self._progress.reset(self._step, visible=False)

    def finished(self, name: str, seconds: float | None) -> None:
        """A stage is done; ``seconds`` None if it was taken from the store."""
        self.done += 1
        self._progress.update(self._stages, completed=self.done)
        if seconds is not None:
            place = f"[dim]{self.done:>3}/{self.total}[/dim]"
            self.console.print(f"{place} {name} [dim]{seconds:.1f} s[/dim]", highlight=False)
            self.console.file.flush()  # whoever follows a log file sees how far it is

    def begin(self, what: str, total: int | None) -> None:
        """Start a step inside the current stage."""
        self._progress.reset(self._step, total=total, description=f"  {what}", visible=True)

    def advance(self, amount: int = 1) -> None:
        """Report work done in the current step."""
        self._progress.advance(self._step, amount)

    def say(self, message: str) -> None:
        """Print a line above the bars."""
        self.console.print(message, highlight=False)
