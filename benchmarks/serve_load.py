"""``meld serve`` under load: are all answers given, each to its own question, and does memory stay bounded?

    OMP_NUM_THREADS=1 python benchmarks/serve_load.py --out docs/results/serve_load.md

A bundle is made from a small run on the synthetic suite and served by the command, in a process of its own. Clients,
each with a connection of its own, ask questions of one to four rows about three units, and the next when the answer is
there. What ``Model.predict`` answers to the same rows, asked one by one beforehand, is what must come back. After the
storm fewer clients ask the same server for longer, and its memory is read minute by minute.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import platform
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from predict_rows import made_up, make_bundle
from shapes import command

from meld.bundle.model import Model, load
from meld.serve.limits import Limits

UNITS = ("quickstart_people.di", "quickstart_hospitals.ed", "quickstart_products.em")
SAME = 1e-4
"""Scores of one row differ by less, however it is batched."""


@dataclass(frozen=True)
class Question:
    """A row and its answer."""

    unit: str
    target: str | None
    row: dict[str, str]
    answer: dict[str, Any]


@dataclass
class Tally:
    """What the clients saw.

    Attributes:
        seconds: Of every answered request.
        codes: Status codes that are no 200, and names of errors.
        rows: Rows that came back with their own answer.
        crossed: Rows that came back with another one.
        lost: Rows that did not come back.
        elapsed: Seconds from the first question to the last answer.
        memory: Seconds since the start and resident memory of the server, in MB.
        after: The memory when all clients have gone.
    """

    seconds: list[float] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    crossed: int = 0
    lost: int = 0
    elapsed: float = 0.0
    memory: list[tuple[float, float]] = field(default_factory=list)
    after: float = 0.0


def questions(model: Model, rows: int) -> dict[str, list[Question]]:
    """Made-up rows of each unit with the answers that Python gets."""
    import pandas as pd

    found = {}
    for unit in UNITS:
        card = model.card(unit)
        pairs = len(card["sides"]) == 2
        sides = zip(("left_", "right_") if pairs else ("",), card["sides"], strict=True)
        columns = [f"{side}{name}" for side, names in sides for name in names]
        target = card["targets"][0] if card["targets"] else None
        frame = pd.DataFrame(list(made_up(columns, rows)), columns=columns, dtype=object)
        said = model.predict(frame, unit=unit, target=target, chunk=1, progress=False)
        found[unit] = [
            Question(unit, target, dict(row), dict(line))
            for (_, row), (_, line) in zip(frame.iterrows(), said.iterrows(), strict=True)
        ]
    return found


def same(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Whether an answer is that of the question."""
    return (
        found["prediction"] == expected["prediction"]
        and found["status"] == expected["status"]
        and found["experts"] == list(expected["experts"])
        and np.allclose(found["weights"], expected["weights"], atol=SAME)
        and abs(found["score"] - expected["score"]) < SAME
    )


async def client(number: int, url: str, asked: dict[str, list[Question]], until: float, tally: Tally) -> None:
    """One client: asks, waits, checks, asks again."""
    rng = random.Random(number)
    async with httpx.AsyncClient(base_url=url, timeout=180, verify=False) as http:
        while time.monotonic() < until:
            some = rng.sample(asked[rng.choice(UNITS)], rng.randint(1, 4))
            body = {"unit": some[0].unit, "target": some[0].target, "rows": [question.row for question in some]}
            started = time.monotonic()
            try:
                response = await http.post("/v1/predict", json=body)
            except httpx.HTTPError as error:
                tally.codes[type(error).__name__] += 1
                tally.lost += len(some)
                continue
            if response.status_code != 200:
                tally.codes[str(response.status_code)] += 1
                tally.lost += len(some)
                continue
            tally.seconds.append(time.monotonic() - started)
            answers = response.json()["predictions"]
            right = sum(same(answer, question.answer) for answer, question in zip(answers, some, strict=False))
            tally.rows += right
            tally.crossed += min(len(answers), len(some)) - right
            tally.lost += max(0, len(some) - len(answers))


async def watch(process: psutil.Process, until: float, tally: Tally) -> None:
    """Note the server's memory."""
    started = time.monotonic()
    while True:
        tally.memory.append((time.monotonic() - started, process.memory_info().rss / 1e6))
        if time.monotonic() >= until:
            return
        await asyncio.sleep(min(1.0, max(0.0, until - time.monotonic())))


async def storm(
    url: str, process: psutil.Process, asked: dict[str, list[Question]], clients: int, seconds: float
) -> Tally:
    """All clients at once; those who wait at the end are still answered."""
    started = time.monotonic()
    tally, until = Tally(), started + seconds
    watching = asyncio.create_task(watch(process, until, tally))
    await asyncio.gather(*(client(number, url, asked, until, tally) for number in range(clients)))
    await watching
    tally.elapsed = time.monotonic() - started
    tally.after = process.memory_info().rss / 1e6
    return tally


def warm(url: str, asked: dict[str, list[Question]]) -> None:
    """Ask every unit for a full batch, so that memory is first read of a server that holds all it works with."""
    for some in asked.values():
        some = [some[place % len(some)] for place in range(Limits().batch_rows)]
        body = {"unit": some[0].unit, "target": some[0].target, "rows": [question.row for question in some]}
        httpx.post(f"{url}/v1/predict", json=body, timeout=180).raise_for_status()


def batches(url: str) -> tuple[float, float]:
    """Rows and requests of a batch, on average over all that the server has answered."""
    text = httpx.get(f"{url}/metrics").text

    def total(name: str) -> float:
        return sum(float(value) for value in re.findall(rf"^{name}{{.*}} (\S+)$", text, re.MULTILINE))

    number = max(1.0, total("meld_batch_rows_count"))
    return total("meld_batch_rows_sum") / number, total("meld_batch_requests_sum") / number


def highest(memory: list[tuple[float, float]], part: int, parts: int = 3) -> float:
    """The highest memory in one of several equal parts of the time."""
    length = memory[-1][0] / parts
    return max(amount for at, amount in memory if part * length <= at <= (part + 1) * length)


def minutes(memory: list[tuple[float, float]]) -> list[float]:
    """The highest memory in each minute."""
    found: dict[int, float] = {}
    for at, amount in memory:
        found[int(at // 60)] = max(amount, found.get(int(at // 60), 0.0))
    return [found[minute] for minute in sorted(found)]


def failures(tally: Tally) -> str:
    """Requests that were refused or failed, by what they met."""
    kinds = f" ({', '.join(f'{code}: {n}' for code, n in tally.codes.items())})" if tally.codes else ""
    return f"{sum(tally.codes.values()):,}{kinds}"


def steadily(tally: Tally, given: Any) -> list[str]:
    """The part of the page about the longer load."""
    found = minutes(tally.memory)
    return [
        "",
        "## For longer",
        "",
        f"Then {given.steady_clients} clients for {given.steady_seconds:g} s, over the same server.",
        "",
        "| | |",
        "|---|--:|",
        f"| requests answered | {len(tally.seconds):,} |",
        f"| rows with their own answer | {tally.rows:,} |",
        f"| rows with another's answer, rows lost | {tally.crossed:,}, {tally.lost:,} |",
        f"| requests refused or failed | {failures(tally)} |",
        f"| memory of the server before, after | {tally.memory[0][1]:,.0f}, {tally.after:,.0f} MB |",
        f"| its highest minute by minute | {', '.join(f'{amount:,.0f}' for amount in found)} MB |",
    ]


def page(
    tally: Tally,
    steady: Tally,
    asked: dict[str, list[Question]],
    batch: tuple[float, float],
    given: Any,
    load: float,
) -> str:
    """The results."""
    distinct = {
        unit: len({(q.answer["prediction"], round(q.answer["score"] / (2 * SAME))) for q in some})
        for unit, some in asked.items()
    }
    quantiles = np.quantile(tally.seconds, [0.5, 0.95, 0.99]) if tally.seconds else [math.nan] * 3
    thirds = ", ".join(f"{highest(tally.memory, part):,.0f}" for part in range(3))
    lines = [
        "# The server under load",
        "",
        f"Written by `{command()}` on {date.today()}; {platform.system()} {platform.machine()}, "
        f"{os.cpu_count()} CPU cores, {psutil.virtual_memory().total / 2**30:.0f} GB, Python "
        f"{platform.python_version()}, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')}, load average at "
        f"the start {load:.1f}.",
        "",
        f"`meld serve` with its default limits over a bundle on two layers of MiniLM; {given.clients} clients for "
        f"{given.seconds:g} s on loopback,",
        f"each with one to four rows about one of {', '.join(f'`{unit}`' for unit in asked)}.",
        "An answer counts as the question's own if prediction, status, experts, weights and score (to "
        f"{SAME:g}) are those of `Model.predict` for that row alone. Of {given.rows} rows a unit, "
        + ", ".join(f"{n} of `{unit}`" for unit, n in distinct.items())
        + " can be told apart by prediction and score; the clients and the server share the cores.",
        "",
        "| | |",
        "|---|--:|",
        f"| requests answered | {len(tally.seconds):,} |",
        f"| rows with their own answer | {tally.rows:,} |",
        f"| rows with another's answer | {tally.crossed:,} |",
        f"| rows lost | {tally.lost:,} |",
        f"| requests refused or failed | {failures(tally)} |",
        f"| rows a second | {tally.rows / tally.elapsed:,.1f} |",
        f"| seconds to an answer: median, 95 %, 99 % | {quantiles[0]:.2f}, {quantiles[1]:.2f}, {quantiles[2]:.2f} |",
        f"| rows, requests of a batch (mean) | {batch[0]:.1f}, {batch[1]:.1f} |",
        f"| memory of the server before, after | {tally.memory[0][1]:,.0f}, {tally.after:,.0f} MB |",
        f"| its highest in the first, second, last third | {thirds} MB |",
        *steadily(steady, given),
    ]
    return "\n".join(lines) + "\n"


def serve(bundle: Path, folder: Path) -> tuple[subprocess.Popen[str], str]:
    """Start the command on a free port.

    Raises:
        RuntimeError: If it ends instead.
    """
    words = [sys.executable, "-m", "meld", "serve", str(bundle), "--port", "0"]
    process = subprocess.Popen(words, cwd=folder, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = ""
    while not (found := re.search(r"http://\S+", said)):
        line = process.stderr.readline()
        if not line:
            raise RuntimeError(f"meld serve ended: {said}")
        said += line
    return process, found[0]


def main() -> int:
    """Measure, write, and fail if an answer was lost or crossed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--steady-clients", type=int, default=20, help="clients after the storm")
    parser.add_argument("--steady-seconds", type=float, default=600.0)
    parser.add_argument("--rows", type=int, default=40, help="distinct rows of each unit")
    parser.add_argument("--bundle", type=Path, help="a bundle made before; by default one is trained")
    parser.add_argument("--out", type=Path, help="Markdown file; by default the table is printed")
    given = parser.parse_args()
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        bundle = (given.bundle or make_bundle(folder)).resolve()
        asked = questions(load(bundle), given.rows)
        process, url = serve(bundle, folder)
        try:
            warm(url, asked)
            served = psutil.Process(process.pid)
            tally = asyncio.run(storm(url, served, asked, given.clients, given.seconds))
            batch = batches(url)
            steady = asyncio.run(storm(url, served, asked, given.steady_clients, given.steady_seconds))
        finally:
            process.terminate()
            code = process.wait(120)
    text = page(tally, steady, asked, batch, given, load_before)
    if given.out is None:
        print(text)
    else:
        given.out.write_text(text, encoding="utf-8")
    return 1 if code or any(found.crossed or found.lost for found in (tally, steady)) else 0


if __name__ == "__main__":
    sys.exit(main())
