"""Rendering a query into a prompt that fits a token budget.

Over the budget, demonstrations go first (the least similar one first), then the longest values are shortened, and
where that is not enough (tables of hundreds of columns) the last attributes are left out, never the asked one. How many
values it cost is recorded in the prompt (method section 2, Prompt budget).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jinja2 import BaseLoader, FileSystemLoader, PackageLoader, StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from meld.errors import UserError
from meld.serializer.base import Serializer
from meld.task.base import Task
from meld.types import Entity, Prompt, Query, Sample

_SHORTEST = 24
"""Characters below which a value is not shortened any more."""


class PromptWriter:
    """Writes prompts for one backbone.

    Args:
        serializer: Writes the entities.
        tasks: The tasks by short name.
        count: Counts tokens of a text with the backbone's tokenizer.
        budget: Most tokens a prompt may have (``max_prompt_tokens``).
        templates: Folder of templates in the place of MELD's own, laid out alike. They run in Jinja's sandbox.
    """

    def __init__(
        self,
        serializer: Serializer,
        tasks: dict[str, Task],
        count: Callable[[str], int],
        budget: int,
        templates: Path | None = None,
    ) -> None:
        self.serializer = serializer
        self.tasks = tasks
        self.count = count
        self.budget = budget
        self._templates = templates
        loader: BaseLoader = (
            PackageLoader("meld.task", "templates") if templates is None else FileSystemLoader(templates)
        )
        self._environment = ImmutableSandboxedEnvironment(
            loader=loader,
            undefined=StrictUndefined,
            autoescape=False,  # prompts are plain text, never markup
            keep_trailing_newline=False,
        )

    def write(
        self,
        query: Query,
        demos: Sequence[Sample] = (),
        options: Sequence[str] | None = None,
        domain: Sequence[str] = (),
    ) -> Prompt:
        """Render a question.

        Args:
            query: What is asked.
            demos: Demonstrations, most similar first.
            options: Candidates to rank. They are not shown: in an open domain they would tell what was retrieved.
            domain: C where it is the dataset's or the query's own; the task's by default. Shown if it is short.

        Returns:
            The prompt; its ``n_demos`` and ``shortened`` say what the budget left.

        Raises:
            UserError: If a template of another folder cannot be rendered.
        """
        answers = tuple(options) if options is not None else self.tasks[query.task].options
        kept = list(demos)
        entities = list(query.entities)
        asked = [*(value for entity in entities for value in entity.values()), *(value for _, value in query.context)]
        limit = max(map(len, asked), default=0)
        width = max(map(len, entities), default=0)
        shortened = 0
        while True:
            text = self._render(query, entities, limit, kept, tuple(domain) or self.tasks[query.task].options)
            if self.count(text) <= self.budget:
                break
            if kept:
                kept.pop()
                continue
            if limit > _SHORTEST:
                limit = max(_SHORTEST, int(limit * 0.7))
            elif width > 1:
                width = max(1, int(width * 0.7))
            else:
                break
            narrow = [_narrow(entity, width, query.target) for entity in query.entities]
            entities = [_cut(entity, limit) for entity in narrow]
            left = [*(value for entity in narrow for value in entity.values()), *(value for _, value in query.context)]
            shortened = sum(len(value) > limit for value in left) + len(asked) - len(left)
        return Prompt(
            query_id=query.id,
            text=text,
            options=answers,
            json_form=self.serializer.template == "full",
            n_demos=len(kept),
            shortened=shortened,
        )

    def _render(
        self,
        query: Query,
        entities: Sequence[Entity],
        context_limit: int,
        demos: Sequence[Sample],
        domain: Sequence[str] | None,
    ) -> str:
        form = Prompt("", "", json_form=self.serializer.template == "full")
        shown = [
            {**self._item(demo.query, demo.query.entities, 200), "answer": form.answer_text(demo.label)}
            for demo in demos
        ]
        asked = self._item(query, entities, context_limit)
        try:
            template = self._environment.get_template(f"{self.serializer.template}/{query.task}.j2")
            text: str = template.render(asked=asked, demos=shown, options=domain)
        except Exception as error:
            # A template from elsewhere is a program: it may raise whatever its expressions raise.
            if self._templates is None:
                raise
            raise UserError(
                f"The template of {query.task} cannot be rendered: {type(error).__name__} {str(error).rstrip('.')}.",
                where=str(self._templates / self.serializer.template / f"{query.task}.j2"),
                fix="take the templates that the bundle was exported with",
            ) from error
        return text.rstrip("\n")

    def _item(self, query: Query, entities: Sequence[Entity], context_limit: int) -> dict[str, Any]:
        asks_value = query.task in {"ed", "dc"}
        return {
            "title": query.title,
            "entities": [self.serializer.entity(entity) for entity in entities],
            "target": query.target or "",
            "value": entities[0].get(query.target, "") if asks_value and query.target else "",
            "context": [(name, value[: max(context_limit, _SHORTEST)]) for name, value in query.context],
        }


def _narrow(entity: Entity, width: int, target: str | None) -> Entity:
    """The first attributes of an entity, and the asked one."""
    return {name: value for place, (name, value) in enumerate(entity.items()) if place < width or name == target}


def _cut(entity: Entity, limit: int) -> Entity:
    return {name: value if len(value) <= limit else value[: limit - 1] + "…" for name, value in entity.items()}
