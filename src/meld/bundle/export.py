"""``meld export RUN DIR``: everything a finished run needs to answer, in one folder."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml

from meld.bundle.components import PARTS, describe, make
from meld.bundle.manifest import MANIFEST, write_manifest
from meld.config.build import build
from meld.config.roster import JOINT
from meld.dataset.io import load_unit, save_unit
from meld.errors import UserError
from meld.metapath.base import MetaPathPolicy
from meld.stages.balance import BALANCE
from meld.stages.base import read_json, write_json
from meld.stages.metapath import load_path
from meld.stages.paths import SAME_TABLE
from meld.store.uses import ARTIFACTS, all_linked
from meld.types import Query, UnitData


def export_run(run: Path, folder: Path, *, replace_bundle: bool = False) -> Path:
    """Write a run's bundle.

    Layout: ``manifest.json``; ``encoder/`` (sentence-transformers); ``router/``; ``adapters/<expert>/`` and
    ``steps/<unit>/`` (PEFT); ``added/<expert>/`` (what the router knows of a registered expert);
    ``templates/<style>/<task>.j2``; ``units/<unit>/`` with ``card.json``, ``data/`` (tables and few-shot samples; no
    test queries, and of the pool the entities that linking offers), ``index/`` and ``annotate/``: candidates and
    evidence priors are made from those, and so are the same as in the run. Units of other datasets that are steps of a
    path are there as well.

    Args:
        run: A finished run directory.
        folder: Where to write; must not exist yet, or be empty. It is whole or absent.
        replace_bundle: Take the place of a bundle that is there.

    Returns:
        The folder.

    Raises:
        UserError: If the run has not finished, answers units whose labels were withheld, or uses a component that is
            not MELD's own; or if the folder holds something.
    """
    config = _config(run)
    made = _artifacts(run)
    units = sorted(name.partition(":")[2] for name in made if name.startswith("infer:"))
    if not units:
        raise UserError("The run has answered nothing.", where=str(run), fix="carry it through: leave until= out")
    check_free(folder, replace_bundle=replace_bundle)
    draft = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
    draft.mkdir(parents=True)
    try:
        write_manifest(draft, _write(config, made, units, draft))
        _put(draft, folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return folder


def _put(draft: Path, folder: Path) -> None:
    """Give the draft the folder's place; if that fails, what was there is there again."""
    aside = draft.with_suffix(".old")
    if folder.exists():
        folder.rename(aside)
    try:
        draft.rename(folder)
    except BaseException:
        if aside.exists():
            aside.rename(folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def check_free(folder: Path, *, replace_bundle: bool = False) -> None:
    """Check that a bundle can be written to a folder.

    Args:
        folder: The folder.
        replace_bundle: Whether a bundle may be there.

    Raises:
        UserError: If it holds something else.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (replace_bundle and (folder / MANIFEST).is_file()):
        raise UserError(f"{folder} is there already.", fix="name a new folder, or remove it")


def _write(config: Mapping[str, Any], made: Mapping[str, Path], units: Sequence[str], draft: Path) -> dict[str, Any]:
    """Write everything but the manifest, and return what it says."""
    parts = {part: describe(part, config[part]) for part in PARTS}
    joint = f"refine:{JOINT}" in made
    if joint:
        parts["router"] = {"option": "own", "arguments": {}}
    tasks = {task: describe("task", node) for task, node in config["tasks"].items()}
    solvers = {task: make("task", spec).solver for task, spec in tasks.items()}
    shutil.copytree(made["encode:suite"] / "model", draft / "encoder")
    policy: MetaPathPolicy = build(config["metapath"], allow=tuple(config.get("allow") or ()), place="metapath")
    content: dict[str, Any] = {"parts": parts, "experts": [], "registered": [], "exclude": []}
    content["rules"] = {**asdict(policy.rules), "kinds": list(policy.rules.kinds)}
    paths = {unit: load_path(made[f"metapath:{unit}"]) for unit in units if f"metapath:{unit}" in made}
    if "route:suite" in made:
        experts = read_json(made["route:suite"] / "experts.json")
        added = sorted(name.partition(":")[2] for name in made if name.startswith("register:"))
        router = made["route:suite"] / "router"
        # A rule that learns nothing leaves an empty folder, which no archive keeps.
        if router.is_dir() and any(router.iterdir()):
            shutil.copytree(router, draft / "router")
        for expert in experts:
            _copy_adapter(made[f"refine:{expert}"] / "adapter", draft / "adapters" / expert)
        for name in added:
            _copy_adapter(made[f"register:{name}"] / "adapter", draft / "adapters" / name)
            if any((made[f"register:{name}"] / "row").iterdir()):
                shutil.copytree(made[f"register:{name}"] / "row", draft / "added" / name)
        content |= {"experts": experts, "registered": added, "exclude": sorted(config.get("exclude") or ())}
        backbone = make("backbone", parts["backbone"])
        content["base"] = {
            "name": backbone.path,
            "revision": backbone.revision,
            "fingerprint": backbone.fingerprint(),
        }
    _copy_steps(paths, solvers, made, draft, joint)
    needed = sorted({*units, *(step for path in paths.values() for step in path)})
    used = {unit.rpartition(".")[2] for unit in needed}
    style = str(make("serializer", parts["serializer"]).template)
    _copy_templates(draft / "templates" / style, style)
    content["tasks"] = {task: tasks[task] for task in sorted(used)}
    content["units"] = {
        unit: {"task": unit.rpartition(".")[2], "path": list(paths.get(unit, ())), "answers": unit in units}
        for unit in needed
    }
    for unit in needed:
        _write_unit(unit, made, draft / "units" / unit)
    return content


def _config(run: Path) -> dict[str, Any]:
    path = run / "config.yaml"
    if not path.is_file() or not (run / ARTIFACTS).is_dir():
        raise UserError(f"{run} is not a finished run.", where=str(path), fix="name a directory below outputs/runs")
    config: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    transfer = config.get("transfer")
    if isinstance(transfer, Mapping) and transfer.get("name", "none") != "none":
        raise UserError(
            "The run withheld the labels of the units that it answered; such a run measures transfer.",
            where="transfer",
            fix="export a run with transfer=none",
        )
    return config


def _artifacts(run: Path) -> dict[str, Path]:
    """The run's artifacts by ``<stage>:<unit>``.

    Raises:
        UserError: If one is no longer in the store.
    """
    found = {}
    for name, folder in all_linked(run).items():
        stage, _, unit = name.partition(".")
        if not folder.is_dir():
            raise UserError(
                f"The artifact {name} of the run is not in the store any more.",
                where=str(folder),
                fix="repeat the run's command (status.json has it), then export again",
            )
        found[f"{stage}:{unit}"] = folder
    return found


def _copy_adapter(source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copyfile(source / name, target / name)


def _copy_steps(
    paths: Mapping[str, Sequence[str]],
    solvers: Mapping[str, str],
    made: Mapping[str, Path],
    draft: Path,
    joint: bool,
) -> None:
    """The initial adapters of the units that paths ask: the search used those, not the refined ones."""
    steps = {step: step.rpartition(".")[2] for path in paths.values() for step in path}
    asked = {step for step, kind in steps.items() if solvers[kind] == "llm" and kind not in SAME_TABLE}
    for step in sorted(asked):
        _copy_adapter(made[f"init:{JOINT if joint else step}"] / "adapter", draft / "steps" / step)


def _copy_templates(folder: Path, style: str) -> None:
    """The templates of a style; those of tasks include the others."""
    from importlib.resources import files

    folder.mkdir(parents=True)
    for template in (files("meld.task") / "templates" / style).iterdir():
        if template.name.endswith(".j2"):
            (folder / template.name).write_text(template.read_text(encoding="utf-8"), encoding="utf-8")


def _write_unit(unit: str, made: Mapping[str, Path], folder: Path) -> None:
    data = load_unit(made[f"data:{unit}"])
    save_unit(replace(data, pool=_offered(data), test=()), folder / "data")
    for name in ("texts.parquet", "vectors.safetensors"):
        (folder / "index").mkdir(exist_ok=True)
        shutil.copyfile(made[f"index:{unit}"] / name, folder / "index" / name)
    annotate = made[f"annotate:{unit}"]
    (folder / "annotate").mkdir()
    shutil.copyfile(annotate / "samples.parquet", folder / "annotate" / "samples.parquet")
    if (annotate / "extra").is_dir():
        shutil.copytree(annotate / "extra", folder / "annotate" / "extra")
    if f"balance:{unit}" in made:
        shutil.copyfile(made[f"balance:{unit}"] / BALANCE, folder / BALANCE)
    write_json(folder / "card.json", card_of(data))


def _offered(data: UnitData) -> tuple[Query, ...]:
    """Of the pool no more than the entities that linking offers, as candidates of one empty question."""
    offered = sorted({option for query in data.pool for option in query.options}) if data.task == "el" else []
    if not offered:
        return ()
    target = next((query.target for query in data.pool if query.target), "cell")
    entity = {target: ""}
    return (Query(f"{data.unit}/offered", data.unit, data.task, (entity,), target=target, options=tuple(offered)),)


def card_of(data: UnitData) -> dict[str, Any]:
    """What a unit's card says: what it is about and what a question to it has to bring.

    Returns:
        ``unit``, ``dataset``, ``task``; ``title`` (None where it differs from query to query); ``sides``: for each
        tuple of a question its columns (None where they differ); ``targets``: the attributes it can be asked about
        (none where the task asks about no attribute); ``own_options``: whether every question brings its options;
        ``domain``: the dataset's own; ``tables``; ``linked``: whether questions name records of the tables;
        ``labelled``: how many labelled samples there are.
    """
    known: list[Query] = [*(s.query for s in (*data.train, *data.dev)), *data.pool, *data.test]
    titles = {query.title for query in known}
    width = max((len(query.entities) for query in known), default=1)
    sides: list[list[str] | None] = []
    for side in range(width):
        shapes = {tuple(query.entities[side]) for query in known}
        sides.append(list(next(iter(shapes))) if len(shapes) == 1 else None)
    return {
        "unit": data.unit,
        "dataset": data.dataset,
        "task": data.task,
        "title": next(iter(titles)) if len(titles) == 1 else None,
        "sides": sides,
        "targets": sorted({query.target for query in known if query.target}),
        "own_options": any(query.options for query in known),
        "domain": list(data.options),
        "tables": {
            table.name: {"title": table.title, "columns": list(table.columns), "rows": len(table.rows)}
            for table in data.tables.values()
        },
        "linked": any(query.rows for query in known),
        "labelled": len(data.train) + len(data.dev),
    }
