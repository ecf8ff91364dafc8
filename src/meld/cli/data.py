"""``meld data list | describe NAME | check [NAME]``: which datasets there are, what is in them, and what leaks."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from jinja2 import TemplateNotFound
from rich.console import Console
from rich.table import Table
from rich.text import Text

from meld.cli.data_options import Option, look, read_options, where_from
from meld.config.build import build
from meld.config.targets import nearest
from meld.dataset.base import Source
from meld.dataset.card import Card, load_card
from meld.dataset.leaks import find_leaks
from meld.errors import ConfigError, UserError
from meld.types import Entity, Gold, Query, UnitData

USAGE = "meld data list | describe NAME | check [NAME]   [key=value ...], such as paths.data=FOLDER"

_MEASURED = 200
"""Queries of a unit whose tokens are counted."""

_ID_ROLES = ("id", "left_id", "right_id", "label", "id_columns", "drop_columns")
"""Arguments of datasets that name columns which must not be shown."""


def run_data(words: Sequence[str], console: Console | None = None) -> int:
    """Carry out ``meld data ...``.

    Args:
        words: What follows ``data``.
        console: Where to print; the terminal by default.

    Returns:
        Exit code: 1 if a dataset that is there cannot be used, else 0.

    Raises:
        UserError: For a wrong command, name or override.
    """
    console = console or Console()
    overrides = [word for word in words if "=" in word]
    names = [word for word in words if "=" not in word]
    action = names.pop(0) if names else ""
    most = {"list": 0, "describe": 1, "check": 1}
    if action not in most:
        guess = nearest(action, list(most))
        raise UserError(
            f"meld data has no command {action!r}." if action else "meld data needs a command.",
            fix=f"meld data {guess}" if guess else USAGE,
        )
    flag = next((name for name in names if name.startswith("-")), None)
    if flag is not None or len(names) > most[action] or (action == "describe" and not names):
        raise UserError(
            f"meld data {action} takes " + ("one name." if action == "describe" else f"no {names[-1]!r} there."),
            fix=USAGE,
        )
    options, tree = read_options(overrides, names)
    wanted = options
    if names:
        if names[0] not in options:
            guess = nearest(names[0], list(options))
            raise ConfigError(
                f"There is no dataset {names[0]!r}.",
                where=f"meld data {action} {names[0]}",
                fix=f"did you mean {guess}?" if guess else f"datasets are {', '.join(options)}",
            )
        wanted = {names[0]: options[names[0]]}
    allow = tuple(str(name) for name in tree.get("allow") or ())
    if action == "list":
        return _list(wanted, allow, console)
    if action == "describe":
        return _show(wanted[names[0]], tree, allow, console)
    mentioned = {match[1] for match in (re.match(r"\+{0,2}datasets\.([^.=]+)", word) for word in overrides) if match}
    return _check(wanted, allow, console, insist=mentioned)


_SHOWN = {
    "synthetic": Text("made by code", style="cyan"),
    "present": Text("there", style="green"),
    "missing": Text("missing", style="yellow"),
    "own": Text("to be given", style="dim"),
    "broken": Text("broken", style="red"),
}


def _list(options: Mapping[str, Option], allow: Sequence[str], console: Console) -> int:
    table = Table(title="Datasets", title_justify="left")
    for heading in ("dataset", "tasks", "files", "where to get it"):
        table.add_column(heading, overflow="fold", no_wrap=heading in ("tasks", "files"))
    broken: list[tuple[str, Exception]] = []
    for option in options.values():
        state = look(option, allow)
        if state.kind == "broken" and state.error is not None:
            broken.append((option.name, state.error))
        table.add_row(option.name, ", ".join(option.tasks), _SHOWN[state.kind], Text(where_from(option)))
    console.print(table)
    for name, error in broken:
        _print_error(console, name, error)
    console.print("meld data describe NAME says more about one; paths.data=FOLDER says where files are", style="dim")
    return 1 if broken else 0


def _show(option: Option, tree: Mapping[str, Any], allow: Sequence[str], console: Console) -> int:
    state = look(option, allow)
    for line in option.about:
        console.print(line, markup=False, highlight=False)
    node = option.node or {}
    facts = Table.grid(padding=(0, 2))
    facts.add_row("tasks", Text(", ".join(option.tasks)))
    facts.add_row("files", _SHOWN[state.kind])
    facts.add_row("where to get it", Text(where_from(option) or "-"))
    facts.add_row("shown title", Text(str(node.get("title") or "-")))
    card = load_card(option.name)
    if card is not None:
        facts.add_row("licence", Text(card.licence))
        if card.few_shot is not None:
            facts.add_row("in the papers", Text(f"{card.few_shot:,} labelled of {card.instances:,} instances"))
    console.print(facts)
    if card is not None:
        if card.published:
            console.print(_published(card))
        for name in card.other_files(node.get("root")):
            console.print(_other_file(name), style="yellow", markup=False, highlight=False)
    if state.error is not None or state.component is None:
        # Nothing is wrong with the question: what is missing, and where to get it, is the answer.
        if state.error is not None:
            _print_error(console, option.name, state.error)
        return 1 if state.kind == "broken" else 0
    source = state.component.load()
    console.print(_counts(option.name, source))
    for name, shown in _columns(source).items():
        console.print(f"columns of {name}: {', '.join(shown)}", markup=False, highlight=False, soft_wrap=True)
    _balances(source, console)
    _tokens(source, tree, allow, console)
    for note in source.notes:
        console.print(f"· {note}", markup=False, highlight=False)
    return 0


def _check(options: Mapping[str, Option], allow: Sequence[str], console: Console, insist: set[str]) -> int:
    """Load what is there; one that fails does not take the others down.

    Args:
        options: What to check.
        allow: The user's own packages.
        console: Where to print.
        insist: Datasets that overrides are about: those must be usable.
    """
    table = Table(title="Checked datasets", title_justify="left")
    for heading in ("unit", "train", "dev", "pool", "test", "few-shot labels", "test labels", "leakage"):
        right = heading in ("train", "dev", "pool", "test")
        table.add_column(heading, justify="right" if right else "left", no_wrap=right or heading == "unit")
    absent: list[tuple[str, Exception]] = []
    failed: list[tuple[str, Exception]] = []
    notes: list[str] = []
    to_give = []
    for option in options.values():
        state = look(option, allow)
        if state.kind == "own" and option.name not in insist:
            to_give.append(option.name)
            continue
        if state.error is not None:
            bad = state.kind == "broken" or option.name in insist
            (failed if bad else absent).append((option.name, state.error))
            continue
        assert state.component is not None
        try:
            source = state.component.load()
            rows = [_checked(data, source.gold[unit], option.node or {}) for unit, data in source.units.items()]
        except Exception as error:
            failed.append((option.name, error))
            continue
        for row in rows:
            table.add_row(*row)
        notes += source.notes
        card = load_card(option.name)
        root = (option.node or {}).get("root")
        notes += [f"{option.name}: {_other_file(name)}" for name in (card.other_files(root) if card else ())]
    if table.row_count:
        console.print(table)
        console.print(
            "test = labelled: the query of a labelled sample word for word; ≈: but for case, accents, spaces and "
            "punctuation",
            style="dim",
        )
    for note in notes:
        console.print(f"· {note}", markup=False, highlight=False)
    if to_give:
        console.print(f"for your own files: {', '.join(to_give)} (meld data describe NAME)", highlight=False)
    if absent:
        console.rule("missing", align="left")
        for name, problem in absent:
            _print_error(console, name, problem)
    if failed:
        console.rule("failed", align="left", style="red")
        for name, problem in failed:
            _print_error(console, name, problem)
    return 1 if failed else 0


def _checked(data: UnitData, gold: Gold, node: Mapping[str, Any]) -> tuple[Text, ...]:
    leaks = find_leaks(data, tuple(_hidden_columns(node))).words()
    counts = (len(data.train), len(data.dev), len(data.pool), len(data.test))
    return (
        Text(data.unit),
        *(Text(f"{count:,}") for count in counts),
        Text(_balance(data.task, [sample.label for sample in (*data.train, *data.dev)])),
        Text(_balance(data.task, _test_labels(data, gold))),
        Text(leaks or "none found", style="yellow" if leaks else "green"),
    )


def _hidden_columns(node: Mapping[str, Any]) -> Iterator[str]:
    for role in _ID_ROLES:
        value = node.get(role)
        yield from [value] if isinstance(value, str) else value or ()


def _test_labels(data: UnitData, gold: Gold) -> list[str]:
    return [answer for query in data.test for answer in gold.get(query.id, ())[:1]]


def _balance(task: str, labels: Sequence[str]) -> str:
    """How labels are distributed: each where there are few, else how many different ones there are."""
    if not labels:
        return "none"
    if task == "blk":
        return f"{len(labels):,} with a partner"
    counts = Counter(labels)
    if len(counts) <= 3:
        return ", ".join(f"{_short(label)} {count:,}" for label, count in counts.most_common())
    label, count = counts.most_common(1)[0]
    return f"{len(counts):,} different; most often {_short(label)} ({count / len(labels):.0%})"


def _short(value: str, width: int = 24) -> str:
    flat = " ".join(value.split()) or "(empty)"
    return flat if len(flat) <= width else flat[: width - 1] + "…"


def _published(card: Card) -> Table:
    """The papers' scores, 0 to 100; their settings are not this program's."""
    systems = list(dict.fromkeys(system for entry in card.published for system in entry.scores))
    table = Table(title="published scores", title_justify="left")
    for heading in ("task", "metric", "source"):
        table.add_column(heading)
    for system in systems:
        table.add_column(system, justify="right")
    for entry in card.published:
        values = (f"{entry.scores[name]:.2f}" if name in entry.scores else "" for name in systems)
        table.add_row(entry.task, entry.metric, entry.source, *values)
    return table


def _other_file(name: str) -> str:
    return f"{name} is not the file its card describes; scores need not compare with those of others"


def _counts(name: str, source: Source) -> Table:
    table = Table(title=name, title_justify="left")
    table.add_column("unit")
    for heading in ("train", "dev", "pool", "test", "scored"):
        table.add_column(heading, justify="right")
    for unit, data in source.units.items():
        scored = sum(query.id in source.gold[unit] for query in data.test)
        counts = (len(data.train), len(data.dev), len(data.pool), len(data.test), scored)
        table.add_row(Text(unit), *(f"{count:,}" for count in counts))
    return table


def _columns(source: Source) -> dict[str, tuple[str, ...]]:
    """What models see of each table, or of a query where there is no table."""
    found: dict[str, tuple[str, ...]] = {}
    for unit, data in source.units.items():
        for table in data.tables.values():
            found[f"table {table.name} ({len(table.rows):,} rows)"] = table.columns
        if not data.tables:
            queries = _queries(data)
            found[f"the queries of {unit}"] = tuple(
                dict.fromkeys(name for query in queries for entity in query.entities for name in entity)
            )
    return found


def _queries(data: UnitData) -> list[Query]:
    return [*(sample.query for sample in (*data.train, *data.dev)), *data.test, *data.pool]


def _balances(source: Source, console: Console) -> None:
    for unit, data in source.units.items():
        few_shot = _balance(data.task, [sample.label for sample in (*data.train, *data.dev)])
        test = _balance(data.task, _test_labels(data, source.gold[unit]))
        console.print(
            f"labels of {unit}: few-shot {few_shot}; test {test}", markup=False, highlight=False, soft_wrap=True
        )


def _tokens(source: Source, tree: Mapping[str, Any], allow: Sequence[str], console: Console) -> None:
    """Token lengths of serialised queries under the configured backbone, and one of them."""
    serializer = build(tree["serializer"], allow=allow, place="serializer")
    backbone = build(tree["backbone"], allow=allow, place="backbone")
    tokenizer = backbone.tokenizer()
    count = partial(_count, tokenizer)
    write = _writer(tree, allow, serializer, count)
    budget = int(backbone.max_prompt_tokens)
    samples = []
    for unit, data in source.units.items():
        queries = _queries(data)
        # Evenly over all parts, so that neither the labelled nor the longest ones alone speak for the unit.
        some = queries[:: max(1, len(queries) // _MEASURED)][:_MEASURED]
        if not some:
            continue
        lengths = sorted(count(write(query, data)) for query in some)
        over = sum(length > budget for length in lengths) / len(lengths)
        console.print(
            f"tokens of {unit} ({len(lengths)} queries, no demonstrations): median {statistics.median(lengths):.0f}, "
            f"95 % up to {lengths[int(0.95 * (len(lengths) - 1))]}, longest {lengths[-1]}; "
            f"{over:.0%} above the budget of {budget}, where the longest values are shortened",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        samples.append((unit, write(some[0], data)))
    for unit, text in samples:
        console.rule(f"a query of {unit}", align="left")
        console.print(text if len(text) <= 3000 else f"{text[:3000]}…", markup=False, highlight=False)


def _count(tokenizer: Any, text: str) -> int:
    return len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _writer(
    tree: Mapping[str, Any], allow: Sequence[str], serializer: Any, count: Callable[[str], int]
) -> Callable[[Query, UnitData], str]:
    """The whole prompt, uncut, where the task asks a language model; else the text of the entities."""
    from meld.serializer.prompt import PromptWriter

    tasks = {name: build(node, allow=allow, place=f"tasks.{name}") for name, node in tree["tasks"].items()}
    writer = PromptWriter(serializer, tasks, count, budget=1 << 60)

    def write(query: Query, data: UnitData) -> str:
        if query.task in tasks:
            try:
                return writer.write(query, options=query.options or data.options or None).text
            except TemplateNotFound:
                pass  # blocking, for one, is never asked of a language model
        return "\n".join(_entity_texts(serializer, query.entities))

    return write


def _entity_texts(serializer: Any, entities: Iterable[Entity]) -> list[str]:
    return [str(serializer.entity(entity)) for entity in entities]


def _print_error(console: Console, name: str, error: Exception) -> None:
    shown = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    console.print(f"{name}: {shown}", markup=False, highlight=False, soft_wrap=True)
