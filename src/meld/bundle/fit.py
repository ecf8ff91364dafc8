"""``meld.fit``: train from frames, by the very pipeline of the experiments, and open what came out."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meld.bundle.export import check_free, export_run
from meld.bundle.model import Model, load
from meld.dataset.frames import frames_config

if TYPE_CHECKING:
    from pandas import DataFrame


def fit(
    task: str | Sequence[str],
    *,
    left: DataFrame | None = None,
    right: DataFrame | None = None,
    labels: DataFrame | None = None,
    test: DataFrame | None = None,
    table: DataFrame | None = None,
    clean: DataFrame | None = None,
    tables: Mapping[str, DataFrame] | None = None,
    target: str | Sequence[str] | None = None,
    name: str = "own",
    out: str | Path | None = None,
    folder: str | Path | None = None,
    overrides: Sequence[str] = (),
    **options: Any,
) -> Model:
    """Train on frames and return the model.

    The frames are those of :func:`meld.from_frames`; everything else is what ``meld`` on the command line would do,
    with the same defaults. Given a ``folder``, the same call again computes nothing twice; another call on the same
    folder takes the place of what the first one left there.

    Args:
        task: The task, or several that share their frames.
        left: The left table.
        right: The right table.
        labels: What is known.
        test: What is held out; None to hold out a share, on which the run's report is about.
        table: The table.
        clean: The table without errors.
        tables: Several tables by name.
        target: The column or columns to fill.
        name: The dataset's name; the model's units are ``<name>.<task>``.
        out: Where the bundle goes, a folder that does not exist; None for ``bundle`` below ``folder``, where a bundle
            may be.
        folder: Where frames, run and artifacts go; None for a temporary folder.
        overrides: As on the command line: ``["backbone=qwen2_5_0_5b", "k=2"]``. Without a ``k``, no more experts are
            mixed than there are.
        **options: Further arguments of the dataset, such as ``title`` or ``n_few_shot``.

    Raises:
        UserError: For frames, options or overrides that do not fit, or if
            ``out`` holds something (before anything is trained).
    """
    from rich.console import Console

    from meld.config.compose import compose_config
    from meld.config.tree import plain, redact
    from meld.config.validate import expert_units, validate
    from meld.pipeline.run import execute

    place = Path(tempfile.mkdtemp(prefix="meld-")) if folder is None else Path(folder)
    bundle = place / "bundle" if out is None else Path(out)
    check_free(bundle, replace_bundle=out is None)
    dataset = frames_config(
        task,
        left=left,
        right=right,
        labels=labels,
        test=test,
        table=table,
        clean=clean,
        tables=tables,
        target=target,
        name=name,
        folder=place / "frames",
        **options,
    )
    paths = (f"paths.store={place / 'store'}", f"paths.runs={place / 'runs'}")
    composed = compose_config([*paths, *overrides])
    composed.config.datasets = {name: dataset}
    if not any(word.partition("=")[0].lstrip("+") == "k" for word in overrides):
        experts = len(expert_units(composed.config)) + len(composed.config.adapters)
        composed.config.k = max(1, min(int(composed.config.k), experts))
    validate(composed.config, origin=composed.origin)
    choices = {group: str(option) for group, option in composed.choices.items()} | {"suite": name}
    run = place / "run"
    shown = redact(composed.config)
    execute(plain(composed.config), shown, choices, run, f"meld.fit({task!r})", Console(stderr=True))
    return load(export_run(run, bundle, replace_bundle=out is None))
