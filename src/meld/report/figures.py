"""Figures of a sweep: scores by row, curves, the router's heat map, vectors in two dimensions, costs, throughput."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from meld.errors import DataError
from meld.report.paper import COSTS, Cell, Column, Job, PaperTable, row_keys
from meld.report.results import ROUTING, read_json, write_text
from meld.store.uses import all_linked, linked

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIGURE = "figure"
COLOURS = ("#0067a5", "#d9722e", "#00705a", "#8a4fa3", "#8a6d3b", "#b3470a", "#4f6d7a", "#c0417c")
_OWN, _PUBLISHED, _SOFT = COLOURS[0], "#8a6d3b", "#5b6670"
_SAMPLE = 60
"""Texts of a unit that are drawn in two dimensions."""


def draw(table: PaperTable) -> Figure | None:
    """The figure that the preset asks for; None where the finished jobs have nothing to draw.

    Raises:
        DataError: If the record asks for a figure that does not exist.
    """
    kind = str(table.record.paper.get("figure") or ("line" if _numeric(table) else "bars"))
    known = drawings()
    if kind not in known:
        raise DataError(
            f"There is no figure {kind!r}.", where="paper.figure of sweep.json", fix=f"one of {', '.join(known)}"
        )
    return known[kind](table)


def drawings() -> Mapping[str, Callable[[PaperTable], Figure | None]]:
    """Every kind of figure by its name in ``paper.figure``."""
    return {
        "bars": bars,
        "line": curves,
        "heatmap": heat_map,
        "tsne": tsne,
        "cost": costs,
        "throughput": throughput,
    }


def save(figure: Figure, directory: Path) -> str:
    """Write ``figure.png`` and ``figure.svg``; return the SVG element for a page.

    The SVG holds text as text and no date, so that the same numbers give the same file.
    """
    import matplotlib as mpl

    part = directory / f".{FIGURE}.{os.getpid()}.png"
    figure.savefig(part, dpi=160)
    part.replace(directory / f"{FIGURE}.png")
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "meld"}):
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    write_text(directory / f"{FIGURE}.svg", text)
    return text[text.index("<svg") :]


def bars(table: PaperTable) -> Figure | None:
    """One panel for each score: rows as dots with their intervals, published numbers as hollow diamonds."""
    columns = _scored(table)
    if not columns:
        return None
    rows = [row for row in table.rows if row in table.expected or _any(table, row, columns)]
    figure, axes = _panels(len(columns), height=0.34 * len(rows) + 1.1)
    for place, (column, axis) in enumerate(zip(columns, axes, strict=True)):
        for y, row in enumerate(rows):
            cell = table.cells.get((row, column), Cell())
            if cell.value is not None:
                axis.plot([cell.low, cell.high], [y, y], color=_OWN, alpha=0.45, linewidth=3, solid_capstyle="round")
                axis.plot(cell.value, y, "o", color=_OWN, markersize=6)
            for number in cell.published:
                axis.plot(number.value, y, "D", markeredgecolor=_PUBLISHED, markerfacecolor="none", markersize=6)
        axis.set(xlim=(-2, 102), ylim=(len(rows) - 0.5, -0.5), title=_title(table, column))
        first = place % 3 == 0
        axis.set_yticks(range(len(rows)), [table.rows[row] for row in rows] if first else [""] * len(rows))
        axis.grid(axis="x", color="#e1e4e7")
    papers = any(
        table.cells[row, column].published for row in rows for column in columns if (row, column) in table.cells
    )
    said = "round: measured with 95 % interval" + ("; hollow: published" if papers else "")
    figure.supxlabel(said, fontsize=8, color=_SOFT)
    return figure


def curves(table: PaperTable) -> Figure | None:
    """One panel for each score: a curve over the last swept number, one line for each value of the key before it."""
    keys = row_keys(table.record)
    columns = _scored(table)
    numeric = next((key for key in reversed(keys) if _numbers(table.record.grid[key])), None)
    if numeric is None or not columns:
        return bars(table)
    at = keys.index(numeric)
    figure, axes = _panels(len(columns), height=2.6)
    series: dict[str, list[tuple[float, str]]] = {}
    for row in table.rows:
        parts = table.values(row)
        if len(parts) == len(keys) and _numbers([parts[at]]):
            series.setdefault(",".join(parts[:at] + parts[at + 1 :]), []).append((float(parts[at]), row))
    labels = {str(k): str(v) for k, v in (table.record.paper.get("labels") or {}).items()}
    for column, axis in zip(columns, axes, strict=True):
        for colour, (name, points) in zip(_cycle(len(series)), series.items(), strict=True):
            _curve(table, column, axis, sorted(points), colour, labels.get(name, name) or "measured")
        axis.set(title=_title(table, column), xlabel=numeric)
        axis.set_xticks([float(value) for value in table.record.grid[numeric]], list(table.record.grid[numeric]))
        axis.grid(color="#eceef0")
    handles, names = axes[0].get_legend_handles_labels()
    if len(handles) > 1:
        figure.legend(handles, names, loc="outside lower center", ncols=min(4, len(names)), frameon=False, fontsize=8)
    return figure


def _curve(
    table: PaperTable, column: Column, axis: Axes, points: Sequence[tuple[float, str]], colour: str, label: str
) -> None:
    found = [(x, cell) for x, row in points if (cell := table.cells.get((row, column))) is not None]
    own = [(x, cell.value, cell.low, cell.high) for x, cell in found if cell.value is not None]
    if own:
        x, y, low, high = zip(*own, strict=True)
        axis.fill_between(x, low, high, color=colour, alpha=0.13, linewidth=0)
        axis.plot(x, y, "o-", color=colour, markersize=4, label=label)
    theirs = [(x, number.value) for x, cell in found for number in cell.published]
    if theirs:
        axis.plot(
            *zip(*theirs, strict=True), "D--", color=_PUBLISHED, fillstyle="none", markersize=5, label="published"
        )


def heat_map(table: PaperTable) -> Figure | None:
    """The router's mean weights: units by experts, averaged over the jobs of the reference row."""
    jobs = table.jobs.get(table.reference) or next(iter(table.jobs.values()), ())
    found = [read_json(job.folder / ROUTING) for job in jobs if (job.folder / ROUTING).is_file()]
    found = [routing for routing in found if routing["experts"] == found[0]["experts"]]
    if not found:
        return None
    from matplotlib.figure import Figure

    experts = [str(expert) for expert in found[0]["experts"]]
    # A withheld unit has no expert, and a router that weighs layer by layer gives no weights per query.
    weighed = [{unit for unit, line in routing["units"].items() if "mean_weights" in line} for routing in found]
    units = sorted(
        set.intersection(*weighed), key=lambda unit: (unit not in experts, [*experts, unit].index(unit), unit)
    )
    if not units:
        return None
    weights = np.mean([[r["units"][unit]["mean_weights"] for unit in units] for r in found], axis=0)
    size = 0.42 * len(experts) + 2.2
    figure = Figure(figsize=(size + 1.0, size), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(weights, cmap="viridis", vmin=0.0, vmax=max(1e-9, float(weights.max())))
    axis.set_xticks(range(len(experts)), experts, rotation=60, ha="right", fontsize=8)
    axis.set_yticks(range(len(units)), units, fontsize=8)
    axis.set(xlabel="expert", ylabel="questions of")
    for y, x in np.ndindex(weights.shape):
        bright = weights[y, x] > 0.6 * weights.max()
        axis.text(
            x, y, f"{weights[y, x]:.2f}", ha="center", va="center", fontsize=6, color="black" if bright else "white"
        )
    figure.colorbar(image, ax=axis, shrink=0.8, label=f"mean weight, {len(found)} job{'s' if len(found) > 1 else ''}")
    return figure


def tsne(table: PaperTable) -> Figure | None:
    """Texts of every unit in two dimensions: as M_RAG sees them with each unit's mean (its task vector), and as the
    router does with its vector of each expert. Needs the job's artifacts.
    """
    jobs = table.jobs.get(table.reference) or next(iter(table.jobs.values()), ())
    job = next((job for job in jobs if linked(job.folder, "route.suite")), None)
    if job is None:
        return None
    from matplotlib.figure import Figure

    units, texts, vectors = _sampled(job)
    merged = _merged(units, texts)
    units = [merged[unit] for unit in units]
    panels: list[tuple[str, NDArray[Any], NDArray[Any], list[str]]] = []
    if len(texts) > 3:
        names = sorted(set(units))
        means = np.stack([vectors[[u == name for u in units]].mean(axis=0) for name in names])
        panels.append(("M_RAG, with task vectors", vectors, means, names))
    routed = _routed(job, texts)
    if routed is not None:
        panels.append(("router, with expert vectors", *routed))
    if not panels:
        return None
    figure = Figure(figsize=(6.0 * len(panels), 5.6), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(panels)))
    every = sorted({*units, *(merged.get(name, name) for panel in panels for name in panel[3])})
    colours = dict(zip(every, _cycle(len(every)), strict=True))
    for axis, (title, points, marks, names) in zip(axes, panels, strict=True):
        flat = _flatten(np.concatenate([points, marks]))
        for unit in sorted(set(units)):
            mine = flat[: len(points)][[u == unit for u in units]]
            # Opaque: two colours on one another would look like a third.
            axis.plot(mine[:, 0], mine[:, 1], "o", markersize=4, markeredgewidth=0, color=colours[unit], label=unit)
        for name, place in zip(names, flat[len(points) :], strict=True):
            colour = colours[merged.get(name, name)]
            axis.plot(*place, "*", markersize=15, color=colour, markeredgecolor="black", markeredgewidth=0.8)
        axis.set(title=title, xticks=[], yticks=[])
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure


def costs(table: PaperTable) -> Figure | None:
    """Seconds of selecting and training by row."""
    return _horizontal(table, {"select_s": "select", "train_s": "train"}, "seconds, mean over seeds")


def throughput(table: PaperTable) -> Figure | None:
    """Questions a second by row."""
    return _horizontal(table, {"queries_per_s": ""}, "questions a second")


def _horizontal(table: PaperTable, names: Mapping[str, str], what: str) -> Figure | None:
    rows = [row for row in table.measured if any((row, name) in table.costs for name in names)]
    if not rows:
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 0.4 * len(rows) + 1.4), layout="constrained")
    axis = figure.subplots()
    left = np.zeros(len(rows))
    for colour, (name, label) in zip(COLOURS, names.items(), strict=False):
        if not any((row, name) in table.costs for row in rows):
            continue
        widths = np.array([table.costs.get((row, name), 0.0) for row in rows])
        axis.barh(range(len(rows)), widths, left=left, color=colour, label=label or COSTS[name], height=0.62)
        left += widths
    for y, total in enumerate(left):
        axis.text(total, y, f" {total:,.1f}", va="center", fontsize=8, color=_SOFT)
    axis.set_yticks(range(len(rows)), [table.rows[row] for row in rows])
    axis.invert_yaxis()
    axis.set(xlabel=what)
    axis.margins(x=0.12)
    if len(names) > 1:
        figure.legend(loc="outside lower center", ncols=len(names), frameon=False, fontsize=8)
    return figure


def _sampled(job: Job) -> tuple[list[str], list[str], NDArray[np.float32]]:
    """Evenly spaced texts of each unit's index, with the unit and the vector of each."""
    import pyarrow.parquet as pq
    from safetensors.numpy import load_file

    units: list[str] = []
    texts: list[str] = []
    parts = []
    for name, folder in all_linked(job.folder).items():
        stage, _, unit = name.partition(".")
        if stage != "index" or not folder.is_dir():
            continue
        known = [str(text) for text in pq.read_table(folder / "texts.parquet").column(0).to_pylist()]
        found = next(iter(load_file(folder / "vectors.safetensors").values()))
        picks = np.unique(np.linspace(0, len(known) - 1, min(_SAMPLE, len(known))).astype(int))
        units += [unit] * len(picks)
        texts += [known[pick] for pick in picks]
        parts.append(found[picks])
    return units, texts, np.concatenate(parts) if parts else np.zeros((0, 1), dtype=np.float32)


def _merged(units: Sequence[str], texts: Sequence[str]) -> dict[str, str]:
    """Units to names under which those of one dataset that read the very same texts are one: ``people.dc, ed``."""
    alike: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for unit in dict.fromkeys(units):
        mine = tuple(text for text, of in zip(texts, units, strict=True) if of == unit)
        alike.setdefault((unit.rpartition(".")[0], mine), []).append(unit)
    names: dict[str, str] = {}
    for (dataset, _), same in alike.items():
        name = f"{dataset}.{', '.join(unit.rpartition('.')[2] for unit in same)}"
        names |= dict.fromkeys(same, name)
    return names


def _routed(job: Job, texts: Sequence[str]) -> tuple[NDArray[Any], NDArray[Any], list[str]] | None:
    """The router's vectors of texts and of its experts; None for a router without an encoder."""
    from safetensors.numpy import load_file

    from meld.encoder.vectors import Embedder

    folder = linked(job.folder, "route.suite")
    if folder is None or not (folder / "router" / "encoder").is_dir() or not texts:
        return None
    state = load_file(folder / "router" / "head.safetensors")
    if "experts" not in state:
        return None
    found = Embedder(str(folder / "router" / "encoder"), device="cpu").embed(list(texts))
    if "map.weight" in state:
        found = found @ state["map.weight"].T + state.get("map.bias", np.float32(0.0))
    experts = json.loads((folder / "experts.json").read_text(encoding="utf-8"))
    return _unit(found), _unit(state["experts"]), [str(expert) for expert in experts]


def _unit(vectors: NDArray[Any]) -> NDArray[Any]:
    norms = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    scaled: NDArray[Any] = vectors / norms
    return scaled


def _flatten(points: NDArray[Any]) -> NDArray[Any]:
    from sklearn.manifold import TSNE

    perplexity = min(30.0, max(2.0, (len(points) - 1) / 4))
    flat: NDArray[Any] = TSNE(perplexity=perplexity, init="pca", random_state=0, metric="cosine").fit_transform(points)
    return flat


def _panels(count: int, height: float) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    wide = min(3, count)
    deep = -(-count // wide)
    figure = Figure(figsize=(3.7 * wide + 1.2, height * deep + 0.4), layout="constrained")
    axes = list(np.atleast_1d(figure.subplots(deep, wide)).flat)
    for spare in axes[count:]:
        spare.set_visible(False)
    return figure, axes[:count]


def _title(table: PaperTable, column: Column) -> str:
    mark = "*" if column.dataset in table.synthetic else ""
    return f"{column.dataset}{mark} {column.task}\n{column.metric}"


def _scored(table: PaperTable) -> list[Column]:
    """Score columns in which something was measured."""
    measured = {column for (_, column), cell in table.cells.items() if cell.values and column.metric not in COSTS}
    return [column for column in table.columns if column in measured]


def _any(table: PaperTable, row: str, columns: Sequence[Column]) -> bool:
    return any((row, column) in table.cells for column in columns)


def _numeric(table: PaperTable) -> bool:
    return any(_numbers(table.record.grid[key]) for key in table.record.rows if key in table.record.grid)


def _numbers(values: Sequence[str]) -> bool:
    try:
        return bool([float(value) for value in values])
    except ValueError:
        return False


def _cycle(count: int) -> list[str]:
    """As many colours as asked for, told apart as well as may be."""
    if count <= len(COLOURS):
        return list(COLOURS[:count])
    import matplotlib as mpl
    from matplotlib.colors import to_hex

    if count <= 20:
        # Ten hues, then the same ten paler: neighbours on a rainbow of a dozen look alike.
        paired = mpl.colormaps["tab20"](range(20))
        return [to_hex(colour) for colour in (*paired[::2], *paired[1::2])][:count]
    return [to_hex(colour) for colour in mpl.colormaps["turbo"](np.linspace(0.05, 0.95, count))]
