"""A unit's questions under one backbone: prompts for its queries, lessons for its samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from meld.backbone.language_model import LanguageModel
from meld.expert.lora import Lesson
from meld.retriever.base import Demonstrations
from meld.retriever.candidates import Candidates
from meld.retriever.prior import UNKNOWN
from meld.serializer.prompt import PromptWriter
from meld.stages.unit import Unit
from meld.text import normalise
from meld.types import Prompt, Query, Sample


class Questions:
    """Turns a unit's queries into prompts and its samples into lessons.

    Args:
        unit: The unit.
        writer: Writes prompts for the backbone.
        rank: Whether open questions are answered by ranking candidates.
        max_demos: Demonstrations in a prompt at most; None for all that were retrieved and fit.
        evidence_prior: Whether options carry the log-probability that retrieval alone gives them.
    """

    def __init__(
        self,
        unit: Unit,
        writer: PromptWriter,
        rank: bool,
        max_demos: int | None = None,
        evidence_prior: bool = False,
    ) -> None:
        self.unit = unit
        self.writer = writer
        self.rank = rank
        self.max_demos = max_demos
        self.evidence_prior = evidence_prior

    def prompts(self, queries: Sequence[Query]) -> list[Prompt]:
        """Prompts with options where answers are ranked, without where they are written.

        An open question without any candidate gets an empty tuple: it cannot be answered by ranking.
        """
        return [self._prompt(query, found) for query, found in zip(queries, self._options(queries), strict=True)]

    def labelled_prompts(self, samples: Sequence[Sample], n_wrong: int | None = None) -> list[Prompt]:
        """Prompts whose first option is the label, then up to ``n_wrong`` wrong ones, the likeliest first.

        Where answers are written the label is the only option.
        """
        closed = self.unit.task.options
        found = self._options([s.query for s in samples]) if n_wrong != 0 else [None] * len(samples)
        return [
            self._prompt(sample.query, _label_first(sample, options, n_wrong, closed))
            for sample, options in zip(samples, found, strict=True)
        ]

    def lessons(self, samples: Sequence[Sample], lm: LanguageModel, n_wrong: int) -> list[Lesson]:
        """Training examples: the label first, then up to ``n_wrong`` wrong options or candidates."""
        prompts = self.labelled_prompts(samples, n_wrong)
        return [Lesson(lm.encode(prompt), s.confidence) for prompt, s in zip(prompts, samples, strict=True)]

    def _options(self, queries: Sequence[Query]) -> Sequence[Candidates | None]:
        """Options of each query; None where the answer is written."""
        closed = self.unit.task.options
        if closed is None and not self.rank:
            return [None] * len(queries)
        if closed is not None and not self.evidence_prior:
            return [Candidates(tuple(closed))] * len(queries)
        return self.unit.candidates(queries)

    def _prompt(self, query: Query, found: Candidates | None) -> Prompt:
        domain = query.options or self.unit.data.options
        prompt = self.writer.write(query, self._demos(query), None if found is None else found.values, domain)
        prior = found.log_prior if found is not None and self.evidence_prior else ()
        return replace(prompt, options=None if found is None else found.values, log_prior=prior)

    def _demos(self, query: Query) -> list[Sample]:
        if self.max_demos == 0:
            return []
        found = self.unit.demonstrations.get(query.id, Demonstrations())
        known = [self.unit.sample_by_id[id_] for id_ in found.ids if id_ in self.unit.sample_by_id]
        return known[: self.max_demos]


def _label_first(
    sample: Sample, found: Candidates | None, n_wrong: int | None, closed: Sequence[str] | None
) -> Candidates:
    """The label, then the other options; at most ``n_wrong`` of them."""
    if found is None:
        return Candidates((sample.label,), (0.0,))
    label = sample.label if closed is not None else normalise(sample.label)
    same = [(o if closed is not None else normalise(o)) == label for o in found.values]
    prior = found.log_prior or (0.0,) * len(found.values)
    own = next((p for p, is_label in zip(prior, same, strict=True) if is_label), max(prior, default=0.0) + UNKNOWN)
    wrong = [(o, p) for o, p, is_label in zip(found.values, prior, same, strict=True) if not is_label][:n_wrong]
    return Candidates((sample.label, *(o for o, _ in wrong)), (own, *(p for _, p in wrong)))
