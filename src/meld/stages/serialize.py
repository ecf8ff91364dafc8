"""serialize: from queries to the texts that the encoder embeds, and to the alignments it is trained on."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from meld.dataset.io import load_unit
from meld.seeds import generator
from meld.serializer.base import Serializer
from meld.stages.base import Context, read_json, write_json
from meld.task.base import Alignment, Render, Task
from meld.task.di import value_text
from meld.text import normalise
from meld.types import Entity

VERSION = 2


def run(context: Context, serializer: Serializer, task: Task) -> None:
    """Write ``texts.json`` and ``alignments.json`` (P_q and N_q, and where to mine).

    The texts are what is to be embedded, in parts: the tuples of each table, then the rest.

    Args:
        context: Input ``data``.
        serializer: Writes entities.
        task: The unit's task.
    """
    data = load_unit(context.inputs["data"])
    render = _once_each(serializer.text)
    parts: list[list[str]] = []
    texts: set[str] = set()
    for table in data.tables.values():
        parts.append(sorted({render(entity) for entity in table.rows.values()} - texts))
        texts.update(parts[-1])
    in_tables = frozenset(texts)
    samples = (*data.train, *data.dev)
    asked = (*(sample.query for sample in samples), *data.pool, *data.test)
    for query in asked:
        texts.update(task.encoder_texts(query, render))
    if data.task in {"di", "cta", "re"}:
        texts.update(value_text(s.query.target or "", normalise(s.label)) for s in data.train)
    texts.update(value_text("", normalise(option)) for option in data.options)
    texts.update(value_text("", normalise(option)) for query in asked for option in query.options)
    alignments = task.alignments(data, render, generator(context.seed, "alignments"))
    write_json(context.out / "texts.json", [*parts, sorted(texts - in_tables)])
    write_json(
        context.out / "alignments.json",
        {
            "alignments": [asdict(alignment) for alignment in alignments],
            "mining": {group: sorted(set(found)) for group, found in task.mining_texts(data, render).items()},
        },
    )


def _once_each(render: Render) -> Render:
    """Render each entity once: all queries about a tuple share its object, and there may be hundreds of them."""
    known: dict[int, tuple[Entity, str]] = {}

    def once(entity: Entity) -> str:
        found = known.get(id(entity))
        if found is None:
            # The entity is kept beside its text, so that its id cannot become another's.
            found = known[id(entity)] = (entity, render(entity))
        return found[1]

    return once


def load_alignments(folder: Path) -> tuple[list[Alignment], dict[str, list[str]]]:
    """Alignments and mining texts by group, as :func:`run` wrote them."""
    content = read_json(folder / "alignments.json")
    made = [
        Alignment(a["anchor"], tuple(a["positives"]), tuple(a["negatives"]), a["group"], tuple(a["excluded"]))
        for a in content["alignments"]
    ]
    return made, content["mining"]
