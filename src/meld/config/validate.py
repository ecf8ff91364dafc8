"""Checks of a composed configuration before any work starts: signatures, and the rules between fields.

All errors come in one message.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeGuard

from omegaconf import DictConfig

from meld.config.build import target_errors
from meld.config.engines import engine_errors
from meld.config.roster import roster_errors
from meld.config.schema import COMPONENT_GROUPS, MeldConfig, Paths
from meld.config.targets import nearest, resolve
from meld.config.transfer import SETTINGS
from meld.config.tree import plain
from meld.errors import ConfigError, ConfigErrors

STAGES = (
    "data",
    "serialize",
    "encode",
    "annotate",
    "init",
    "metapath",
    "select",
    "refine",
    "route",
    "infer",
    "evaluate",
    "report",
)
"""The stages in their order, as ``until`` and ``force`` name them."""

LOGGERS = ("csv", "tensorboard", "wandb", "wandb_offline", "none")
"""What a logger may call itself."""

FIGURES = ("bars", "line", "heatmap", "tsne", "cost", "throughput")
"""What the figure of an experiment may be."""


def validate(
    cfg: Mapping[str, Any] | DictConfig,
    stages: Sequence[str] = STAGES,
    origin: Callable[[str], str | None] | None = None,
) -> None:
    """Check a composed configuration.

    Imports the classes it names (of allowed packages only) and builds none.

    Args:
        cfg: The configuration.
        stages: The known stages in their order.
        origin: Where a key path was set (a file), if that is known; see ``compose.origin_of``.

    Raises:
        ConfigErrors: With everything that is wrong, each error with the override that mends it.
        ConfigError: If a value is missing or an interpolation cannot be resolved.
    """
    tree = plain(cfg)
    allow = tuple(str(name) for name in tree.get("allow") or ())
    errors = [*_shape_errors(tree), *target_errors(tree, allow)]
    errors.extend(_number_errors(tree))
    errors.extend(_stage_errors(tree, stages))
    errors.extend(_unit_errors(tree, allow))
    errors.extend(_named_errors(tree))
    errors.extend(_mixture_errors(tree, allow))
    errors.extend(engine_errors(tree, allow))
    errors.extend(_precision_errors(tree))
    if errors:
        raise ConfigErrors([_located(error, origin) for error in errors])


def units(cfg: Mapping[str, Any] | DictConfig) -> tuple[str, ...]:
    """The units ``<dataset>.<task>`` a configuration is about, in its order."""
    tree = plain(cfg)
    return tuple(
        f"{name}.{task}"
        for name, dataset in (tree.get("datasets") or {}).items()
        for task in (dataset.get("tasks") or () if isinstance(dataset, Mapping) else ())
    )


def expert_units(cfg: Mapping[str, Any] | DictConfig) -> tuple[str, ...]:
    """The units that have an expert: those whose task is solved by the language model."""
    tree = plain(cfg)
    tasks = tree.get("tasks") or {}
    allow = tuple(str(name) for name in tree.get("allow") or ())
    return tuple(unit for unit in units(tree) if _solver(tasks.get(unit.rpartition(".")[2]), allow) == "llm")


def _shape_errors(tree: Mapping[str, Any]) -> list[ConfigError]:
    known = [field.name for field in fields(MeldConfig)]
    errors = []
    for key in tree:
        if key not in known:
            guess = nearest(str(key), known)
            errors.append(
                ConfigError(
                    f"there is no key {key!r} at the top level",
                    where=str(key),
                    fix=f"did you mean {guess}?" if guess else "remove it",
                )
            )
    errors.extend(
        ConfigError(f"the key {key!r} is missing", where=key, fix=f"give {COMPONENT_GROUPS.get(key, key)}=...")
        for key in known
        if key not in tree
    )
    for key, group in COMPONENT_GROUPS.items():
        if key in tree and not isinstance(tree[key], Mapping):
            errors.append(
                ConfigError(
                    f"{key} is {tree[key]!r}, not the content of an option",
                    where=key,
                    fix=f"choose the option with {group}={tree[key] or 'OPTION'}",
                )
            )
        elif key in tree and key != "transfer" and "_target_" not in tree[key]:
            errors.append(
                ConfigError(f"{key} names no class", where=key, fix=f"choose an option of the group: {group}=OPTION")
            )
    errors.extend(
        ConfigError(f"{group}s.{name} names no class", where=f"{group}s.{name}", fix=f"+{group}@{group}s.{name}={name}")
        for group in ("dataset", "task")
        for name, node in (tree.get(f"{group}s") or {}).items()
        if not isinstance(node, Mapping) or "_target_" not in node
    )
    paths = tree.get("paths")
    if isinstance(paths, Mapping):
        errors.extend(
            ConfigError(f"paths.{field.name} is empty", where=f"paths.{field.name}", fix=f"paths.{field.name}=FOLDER")
            for field in fields(Paths)
            if not paths.get(field.name)
        )
    return errors


def _number_errors(tree: Mapping[str, Any]) -> list[ConfigError]:
    rules: tuple[tuple[str, Callable[[Any], bool], str, str], ...] = (
        ("seed", lambda v: v >= 0, "at least 0", "0"),
        ("data_seed", lambda v: v >= 0, "at least 0", "0"),
        ("k", lambda v: v >= 1, "at least 1", "1"),
        ("B", lambda v: v >= 1, "at least 1", "8"),
        ("c", lambda v: 0 < v <= 1, "in (0, 1]", "0.3"),
        ("n_demos", lambda v: v >= 0, "at least 0", "0"),
        ("sigma", lambda v: v >= 0, "at least 0", "0"),
        ("tau", lambda v: v > 0, "above 0", "0.02"),
        ("lambda1", lambda v: v >= 0, "at least 0", "2"),
        ("lambda2", lambda v: v >= 0, "at least 0", "1"),
        ("damping", lambda v: v > 0, "above 0", "0.01"),
        ("max_path", lambda v: 0 <= v <= 3, "0, 1, 2 or 3", "3"),
    )
    errors = []
    for key, holds, words, example in rules:
        value = tree.get(key)
        if not _number(value):
            if key in tree:
                errors.append(
                    ConfigError(f"{key} is {value!r}, which is not a number", where=key, fix=f"{key}={example}")
                )
        elif not holds(value):
            errors.append(ConfigError(f"{key} is {value}, and must be {words}", where=key, fix=f"{key}={example}"))
    first, second = tree.get("lambda1"), tree.get("lambda2")
    if _number(first) and _number(second) and first < 2 * second:
        errors.append(
            ConfigError(
                f"lambda1 = {first} is below 2 * lambda2 = {2 * second}: F_div would not be monotone",
                where="lambda1",
                fix=f"lambda1={2 * second}",
            )
        )
    return errors


def _stage_errors(tree: Mapping[str, Any], stages: Sequence[str]) -> list[ConfigError]:
    until, force = tree.get("until"), tree.get("force")
    asked = [("until", until)] if until is not None else []
    forced = force if isinstance(force, (list, tuple)) else [] if force is None else [force]
    asked.extend(("force", stage) for stage in forced)
    errors = []
    for key, stage in asked:
        if stage not in stages:
            guess = nearest(str(stage), stages) or stages[-1]
            errors.append(
                ConfigError(
                    f"{key} names {stage!r}; the stages are {', '.join(stages)}", where=key, fix=f"{key}={guess}"
                )
            )
    return errors


def _unit_errors(tree: Mapping[str, Any], allow: Sequence[str]) -> list[ConfigError]:
    datasets, tasks = tree.get("datasets") or {}, tree.get("tasks") or {}
    if not datasets:
        return [ConfigError("there is no dataset", where="datasets", fix="suite=quickstart")]
    errors = []
    for name, dataset in datasets.items():
        if not isinstance(dataset, Mapping):
            continue
        of_dataset = dataset.get("tasks")
        place = f"datasets.{name}.tasks"
        if not isinstance(of_dataset, (list, tuple)) or not of_dataset:
            errors.append(
                ConfigError(f"{name} lists no tasks", where=place, fix=f"{place}=[{next(iter(tasks), 'em')}]")
            )
            continue
        for task in (task for task in of_dataset if task not in tasks):
            guess = nearest(str(task), list(tasks)) or next(iter(tasks), "em")
            errors.append(
                ConfigError(
                    f"{name} asks for the task {task!r}; the tasks are {', '.join(tasks) or 'none'}",
                    where=place,
                    fix=f"{place}=[{guess}], or +task@tasks.{task}={task}",
                )
            )
    if errors:
        return errors
    return roster_errors(tree, units(tree), expert_units(tree), allow)


def _named_errors(tree: Mapping[str, Any]) -> list[ConfigError]:
    errors = []
    for group, known in (("logger", LOGGERS), ("transfer", SETTINGS)):
        node = tree.get(group)
        name = node.get("name") if isinstance(node, Mapping) else None
        if name is not None and name not in known:
            guess = nearest(str(name), known) or known[0]
            errors.append(
                ConfigError(
                    f"{group} is {name!r}; known are {', '.join(known)}", where=f"{group}.name", fix=f"{group}={guess}"
                )
            )
    figure = str((tree.get("paper") or {}).get("figure") or FIGURES[0])
    if figure not in FIGURES:
        errors.append(
            ConfigError(
                f"there is no figure {figure!r}; known are {', '.join(FIGURES)}",
                where="paper.figure",
                fix=f"paper.figure={nearest(figure, FIGURES) or FIGURES[0]}",
            )
        )
    return errors


def _mixture_errors(tree: Mapping[str, Any], allow: Sequence[str]) -> list[ConfigError]:
    """What mixer, engine, expert and k ask of each other."""
    errors = []
    engine, expert, mixer, k = tree.get("engine"), tree.get("expert"), tree.get("mixer"), tree.get("k")
    known, asked = _declared(engine, "MIXERS", allow), _mixer_name(mixer, allow)
    if isinstance(known, frozenset) and asked is not None and asked not in known:
        errors.append(
            ConfigError(
                f"the engine cannot carry out the mixer {asked!r}, only {', '.join(sorted(map(str, known)))}",
                where="mixer",
                fix="engine=hf, or mixer=cat",
            )
        )
    for flag, name in (("use_rslora", "rsLoRA"), ("use_dora", "DoRA")):
        if isinstance(expert, Mapping) and expert.get(flag):
            errors.append(
                ConfigError(
                    f"expert.{flag} is set, and {name} updates cannot be summed with a router's weights",
                    where=f"expert.{flag}",
                    fix=f"expert.{flag}=false",
                )
            )
    limit: object = engine.get("max_lora_rank") if isinstance(engine, Mapping) else None
    rank: object = expert.get("rank") if isinstance(expert, Mapping) else None
    if _number(limit) and _number(rank) and _number(k):
        # Only the exact sum of k updates has the sum of their ranks; every other mixture keeps the rank.
        adds = asked == "cat"
        mixed = rank * k if adds else rank
        if mixed > limit:
            fits = int(limit // rank)
            errors.append(
                ConfigError(
                    f"a mixture has rank {mixed} (expert.rank = {rank}{f', k = {k}' if adds else ''}), "
                    f"and the engine takes at most {limit}",
                    where="engine.max_lora_rank",
                    fix=f"k={fits}, or expert.rank={limit // k}" if adds and fits >= 1 else f"expert.rank={limit}",
                )
            )
    return errors


def _precision_errors(tree: Mapping[str, Any]) -> list[ConfigError]:
    """What the trainer's precision and the format of the frozen weights ask of each other."""
    trainer = tree.get("trainer")
    precision = str(trainer.get("precision", "")) if isinstance(trainer, Mapping) else ""
    errors = []
    if precision in {"16-true", "bf16-true"}:
        errors.append(
            ConfigError(
                f"trainer.precision={precision} would round the small steps of adapters and encoder away; "
                "the format of the frozen base is backbone.dtype",
                where="trainer.precision",
                fix="trainer.precision=bf16-mixed",
            )
        )
    clash = {"16-mixed": "bfloat16", "bf16-mixed": "float16"}.get(precision)
    for key in ("backbone", "proxy"):
        node = tree.get(key)
        if not isinstance(node, Mapping):
            continue
        if clash is not None and node.get("dtype") == clash:
            mended = "bf16-mixed" if clash == "bfloat16" else "16-mixed"
            errors.append(
                ConfigError(
                    f"{key}.dtype is {clash}, and trainer.precision={precision} computes in the other half precision",
                    where="trainer.precision",
                    fix=f"trainer.precision={mended}",
                )
            )
        if node.get("quantization") and isinstance(trainer, Mapping) and trainer.get("accelerator") == "cpu":
            errors.append(
                ConfigError(
                    f"{key}.quantization={node['quantization']} needs a CUDA device, and the trainer uses the CPU",
                    where=f"{key}.quantization",
                    fix=f"{key}.quantization=null, or trainer=gpu",
                )
            )
    return errors


def _mixer_name(mixer: object, allow: Sequence[str]) -> str | None:
    """What an engine's ``MIXERS`` would call a mixer: PEFT's combination types by their own names."""
    if not isinstance(mixer, Mapping):
        return None
    name = mixer.get("combination_type") or _declared(mixer, "NAME", allow)
    return name if isinstance(name, str) else None


def _declared(node: object, attribute: str, allow: Sequence[str]) -> object:
    """An attribute of the class that a node names; None without one."""
    if not isinstance(node, Mapping) or "_target_" not in node:
        return None
    try:
        return getattr(resolve(str(node["_target_"]), "", allow), attribute, None)
    except ConfigError:
        return None  # reported where the targets are checked


def _solver(task: object, allow: Sequence[str]) -> object:
    """How a task is solved: as its node says, else as its class's constructor does by default."""
    if not isinstance(task, Mapping):
        return None
    if "solver" in task or "_target_" not in task:
        return task.get("solver")
    try:
        parameter = inspect.signature(resolve(str(task["_target_"]), "tasks", allow)).parameters.get("solver")
    except ConfigError:
        return None  # reported where the targets are checked
    return None if parameter is None else parameter.default


def _number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _located(error: ConfigError, origin: Callable[[str], str | None] | None) -> ConfigError:
    found = origin(error.where) if origin is not None and error.where else None
    if found is None:
        return error
    return ConfigError(error.what, where=f"{error.where}, set in {found}", fix=error.fix)
