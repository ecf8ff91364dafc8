"""In-batch negatives for M_RAG that are never of the query's own class (method section 2, M_RAG).

In one batch another query's positives can serve as negatives at no cost, but a column of the same type, a pair of the
same relation or a record of the same entity would be a false negative. Two alignments count as being of one class when
a chain of known alignments joins them, or when they share any text that either says is aligned with it or must not be a
negative.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from meld.task.base import Alignment

Families = Mapping[Alignment, int]
"""Alignments of one number speak of the same class, as far as the few-shot labels tell."""


def families(alignments: Mapping[str, Sequence[Alignment]]) -> dict[Alignment, int]:
    """Number the classes that alignments are about: connected components of anchors and their positives.

    Components stay within a unit and, where groups name an attribute (``value:city``, ``row:city``), within it: a tuple
    goes with its city and with its state, which does not make two cities of that state one class.

    Args:
        alignments: By unit, with all positives that are known.
    """
    parent: dict[tuple[str, str, str], tuple[str, str, str]] = {}

    def root(node: tuple[str, str, str]) -> tuple[str, str, str]:
        parent.setdefault(node, node)
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    nodes = {}
    for unit in sorted(alignments):
        for alignment in alignments[unit]:
            attribute = alignment.group.partition(":")[2]
            start = (unit, attribute, alignment.anchor)
            for text in alignment.positives:
                parent[root((unit, attribute, text))] = root(start)
            nodes[alignment] = start
    numbers: dict[tuple[str, str, str], int] = {}
    return {a: numbers.setdefault(root(node), len(numbers)) for a, node in nodes.items()}


def with_in_batch_negatives(batch: Sequence[Alignment], numbers: Families) -> list[Alignment]:
    """The alignments with the positives of the batch's other classes added to N_q.

    Args:
        batch: Completed alignments.
        numbers: Their classes; an alignment without a number is compared by its texts alone.
    """
    known = [{a.anchor, *a.positives, *a.excluded} for a in batch]
    made = []
    for i, alignment in enumerate(batch):
        own = numbers.get(alignment)
        extra: dict[str, None] = {}
        for j, other in enumerate(batch):
            same = own is not None and own == numbers.get(other)
            if i != j and not same and known[i].isdisjoint(known[j]):
                extra.update(dict.fromkeys(other.positives))
        # A text may be a positive of several queries, one of them of this class.
        barred = {
            text for j, texts in enumerate(known) if own is not None and own == numbers.get(batch[j]) for text in texts
        }
        added = (text for text in extra if text not in barred and text not in alignment.negatives)
        made.append(replace(alignment, negatives=(*alignment.negatives, *added)))
    return made
