"""How far the runs of a directory are (running, done, failed, killed, waiting) and what continues them."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from meld.errors import DataError, UserError
from meld.report.console import duration
from meld.report.record import JOB, read_job, read_record
from meld.report.results import COSTS, RESULTS, STATUS, read_json

_CONFIG = "config.yaml"
_STYLES = {"done": "green", "running": "cyan", "waiting": "dim", "failed": "bold red", "killed": "bold red"}


@dataclass(frozen=True)
class JobState:
    """Where one job stands.

    Attributes:
        name: The job's directory relative to the one asked about, ``.`` for itself.
        state: ``done`` | ``running`` | ``failed`` | ``killed`` (its process is gone) | ``waiting`` (not started).
        stage: The stage it is in or ended in.
        done: Finished stages.
        total: Stages of the run; 0 where unknown.
        started: ISO time; empty where unknown.
        updated: Last sign of life, ISO time.
        seconds: From start to the last sign of life; to now while it runs.
        left: Seconds it may still take, a guess from other jobs of the sweep or from its own pace; None if unknown.
        error: What went wrong; empty if nothing did.
        command: The command that runs it, which also continues it.
        host: Machine it runs on.
    """

    name: str
    state: str
    stage: str = ""
    done: int = 0
    total: int = 0
    started: str = ""
    updated: str = ""
    seconds: float = 0.0
    error: str = ""
    command: str = ""
    host: str = ""
    left: float | None = None

    @property
    def open(self) -> bool:
        """Whether the command has to be given again for it."""
        return self.state in ("failed", "killed", "waiting")


def job_states(directory: Path) -> list[JobState]:
    """The state of a run directory or of every job of a sweep directory, in the order of the jobs.

    Jobs that a sweep's record names and that have no directory yet are waiting.

    Raises:
        UserError: If the directory does not exist or holds no run.
    """
    if not directory.is_dir():
        raise UserError("There is no such directory.", where=str(directory), fix="give a run or sweep directory")
    states = []
    record = read_record(directory)
    begun: set[tuple[tuple[str, str], ...]] = set()
    for folder, below, files in os.walk(directory):
        below.sort()
        if {STATUS, RESULTS, _CONFIG} & set(files):
            below.clear()
            states.append(_job(Path(folder), Path(folder).relative_to(directory).as_posix()))
            begun.add(tuple(sorted(_swept(Path(folder)).items())))
    states.sort(key=lambda job: _natural(job.name))
    if record is not None:
        there = {state.name for state in states}
        for values in record.combinations():
            name = ",".join(f"{key}={value}" for key, value in values.items()) or "run"
            if tuple(sorted(values.items())) not in begun and name not in there:
                states.append(JobState(name, "waiting", command=record.command))
    if not states:
        raise UserError(
            "No run was found here: no status.json, results.json or config.yaml in it or below.",
            where=str(directory),
            fix="give a directory below outputs/runs or outputs/sweeps",
        )
    return _with_guesses(states)


def has_failed(directory: Path) -> bool:
    """Whether a job of a sweep directory has failed or was killed."""
    return any(_job(file.parent, "").state in ("failed", "killed") for file in directory.rglob(STATUS))


def show_status(directory: Path, console: Console | None = None) -> None:
    """Print the states of :func:`job_states` with errors and the commands that continue unfinished jobs.

    Raises:
        UserError: As :func:`job_states`.
    """
    console = console or Console()
    jobs = job_states(directory)
    console.print(_table(directory, jobs))
    for command in _commands(jobs):
        # Never broken into lines: it is there to be pasted.
        console.print(Text("continue with: ", style="bold").append(command, style="not bold"), soft_wrap=True)


def _table(directory: Path, jobs: list[JobState]) -> Table:
    table = Table(title=Text(str(directory)), title_style="bold", caption_justify="left")
    for heading in ("job", "state", "stage", "started", "last sign of life"):
        table.add_column(heading, overflow="fold")
    for heading in ("time", "left"):
        table.add_column(heading, justify="right", no_wrap=True)
    for job in jobs:
        progress = f"{job.stage} {job.done}/{job.total}".strip() if job.total else job.stage
        elsewhere = job.state == "running" and job.host not in ("", socket.gethostname())
        table.add_row(
            Text(job.name),
            Text(job.state + (f" on {job.host}" if elsewhere else ""), style=_STYLES.get(job.state, "")),
            Text(progress),
            _clock(job.started),
            _clock(job.updated),
            duration(job.seconds) if job.seconds else "",
            f"≈ {duration(job.left)}" if job.left is not None else "",
        )
    table.caption = _caption(jobs)
    return table


def _caption(jobs: list[JobState]) -> Text:
    counts = [f"{count} {state}" for state in _STYLES if (count := sum(job.state == state for job in jobs))]
    text = Text(" · ".join(counts), style="not italic")
    left = _left(jobs)
    if left is not None:
        text.append(f" · about {duration(left)} left")
    for job in jobs:
        if job.error:
            text.append(f"\n{job.name}: ", style="bold red not italic").append(job.error, style="not italic")
    return text


def status_json(directory: Path) -> dict[str, Any]:
    """The states of :func:`job_states` as plain data: ``jobs``, ``counts``, ``seconds_left``, ``continue_with``.

    Raises:
        UserError: As :func:`job_states`.
    """
    jobs = job_states(directory)
    return {
        "jobs": [asdict(job) for job in jobs],
        "counts": {state: sum(job.state == state for job in jobs) for state in _STYLES},
        "seconds_left": _left(jobs),
        "continue_with": _commands(jobs),
    }


def _commands(jobs: Sequence[JobState]) -> list[str]:
    """What continues jobs; while some run, those that wait will most likely come to their turn by themselves."""
    lively = any(job.state == "running" for job in jobs)
    waits = ("failed", "killed") if lively else ("failed", "killed", "waiting")
    return list(dict.fromkeys(job.command for job in jobs if job.state in waits and job.command))


def _with_guesses(jobs: Sequence[JobState]) -> list[JobState]:
    """Jobs with the seconds they may still take: as long as the median of those done, else by their own pace."""
    done = [job.seconds for job in jobs if job.state == "done" and job.seconds]
    usual = median(done) if done else None
    found = []
    for job in jobs:
        left = None
        if job.state == "running" and usual is not None:
            left = max(0.0, usual - job.seconds)
        elif job.state == "running" and 0 < job.done < job.total:
            left = job.seconds / job.done * (job.total - job.done)
        elif job.open:
            left = usual
        found.append(replace(job, left=left))
    return found


def _left(jobs: Sequence[JobState]) -> float | None:
    """Seconds until all is done, with as many at a time as run now; None if that cannot be guessed."""
    unfinished = [job for job in jobs if job.state != "done"]
    if not unfinished or any(job.left is None for job in unfinished):
        return None
    at_once = max(1, sum(job.state == "running" for job in jobs))
    guesses = [job.left or 0.0 for job in unfinished]
    return max(*guesses, sum(guesses) / at_once)


def _swept(folder: Path) -> dict[str, str]:
    """What is swept in a job; nothing where its note of that is damaged, so that the others are still told."""
    try:
        return read_job(folder)
    except DataError:
        return {}


def _damaged(folder: Path) -> str:
    """What is wrong with the files of a job that reports read; empty if nothing is."""
    for name in (RESULTS, COSTS, JOB):
        if (folder / name).is_file():
            try:
                read_json(folder / name)
            except DataError as problem:
                return f"{name}: {problem.what}"
    return ""


def _job(folder: Path, name: str) -> JobState:
    if not (folder / STATUS).is_file():
        damage = _damaged(folder)
        if damage:
            return JobState(name, "failed", error=damage)
        return JobState(name, "done" if (folder / RESULTS).is_file() else "waiting")
    try:
        content = read_json(folder / STATUS)
    except DataError as problem:
        return JobState(name, "failed", error=f"{STATUS}: {problem.what}")
    state = str(content.get("state", ""))
    started, updated = str(content.get("started") or ""), str(content.get("updated") or "")
    host = str(content.get("host") or "")
    error = str(content.get("error") or "")
    if state == "running" and host == socket.gethostname() and not _alive(content.get("pid"), _moment(updated)):
        state, error = "killed", error or f"process {content.get('pid')} is gone"
    if state == "done" and (damage := _damaged(folder)):
        state, error = "failed", damage
    begin, end = _moment(started), _moment(updated)
    if state == "running" and end is not None:
        end = max(end, datetime.now(timezone.utc))
    return JobState(
        name=name,
        state=state or "waiting",
        stage=str(content.get("stage") or ""),
        # The last report of progress comes before the end.
        done=int(content.get("total" if state == "done" else "done") or 0),
        total=int(content.get("total") or 0),
        started=started,
        updated=updated,
        seconds=max(0.0, (end - begin).total_seconds()) if begin and end else 0.0,
        error=error,
        command=str(content.get("command") or ""),
        host=host,
    )


def _alive(pid: Any, updated: datetime | None) -> bool:
    """Whether the process still runs and is the one that wrote: numbers are reused, and a zombie holds its number."""
    try:
        os.kill(int(pid), 0)
    except PermissionError:
        pass
    except (OSError, TypeError, ValueError, OverflowError):
        return False
    try:
        fields = Path(f"/proc/{int(pid)}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        booted = float(Path("/proc/uptime").read_text(encoding="utf-8").split()[0])
    except OSError:
        return True  # no /proc on this system, or not readable
    age = booted - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    born = datetime.now(timezone.utc).timestamp() - age
    return fields[0] not in "ZX" and (updated is None or born <= updated.timestamp() + 5)


def _moment(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def _clock(text: str) -> str:
    moment = _moment(text)
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S") if moment else text


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """Sort key under which job 10 follows job 9."""
    parts = name.replace("=", "/").replace(",", "/").split("/")
    return [(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]
