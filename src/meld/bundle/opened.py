"""An opened bundle: units, models and experts, and the answers to queries. Frames and files are others' business."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from meld.backbone.huggingface import HuggingFaceBackbone
from meld.backbone.language_model import LanguageModel
from meld.bundle.card import read_card
from meld.bundle.components import PARTS, make
from meld.bundle.device import check_device
from meld.bundle.manifest import MANIFEST, read_manifest, sha256
from meld.dataset.reading import reading
from meld.encoder.contrastive import ContrastiveEncoder
from meld.encoder.vectors import Embedder
from meld.engine.base import Engine, MixtureModel
from meld.engine.stacked import StackedEngine, StackedModel
from meld.errors import UserError
from meld.metapath.base import StepRules
from meld.metapath.edits import Step, Walk
from meld.metapath.record import Asked
from meld.progress import Progress, Silent, quiet_libraries
from meld.retriever.base import Retriever
from meld.retriever.detect import Detector
from meld.router.base import Router
from meld.serializer.base import Serializer
from meld.serializer.prompt import PromptWriter
from meld.stages.annotate import demonstrate
from meld.stages.balance import BALANCE, Odds, load_odds
from meld.stages.infer import answer_encoder, asked_of, detector_of, kept_as_it_is
from meld.stages.panel import Mixer, Panel, follow_path, step_experts
from meld.stages.paths import SAME_TABLE, build_steps
from meld.stages.questions import Questions
from meld.stages.unit import Unit
from meld.task.base import Task
from meld.task.ed import ERROR
from meld.types import Prediction, Query

Told = tuple[Prediction, Asked]
"""A prediction with what was asked for it."""


class Opened:
    """A checked bundle.

    Args:
        folder: The bundle.
        base: Where the base model is on this machine, if not under the name it was trained by: a folder with the very
            same weights.
        engine: What runs the experts, in the place of the engine the run used.
        device: ``auto`` | ``cpu`` | ``cuda`` | ``cuda:N`` | ``mps``.

    Raises:
        UserError: If the bundle is refused (:func:`meld.bundle.manifest.read_manifest`), the base model differs, or
            there is no such device.
    """

    def __init__(
        self, folder: Path, base: str | None = None, engine: Engine | None = None, device: str = "auto"
    ) -> None:
        check_device(device)
        self.folder = folder
        self.manifest = read_manifest(folder)
        self.identity = sha256(folder / MANIFEST)
        try:
            parts, tasks, units = self.manifest["parts"], self.manifest["tasks"], self.manifest["units"]
            _check_shape(self.manifest)
            self.cards: dict[str, dict[str, Any]] = {
                unit: read_card(folder / "units" / unit / "card.json", line["task"]) for unit, line in units.items()
            }
            self.paths = {unit: tuple(line["path"]) for unit, line in units.items()}
            self.names = tuple(unit for unit, line in units.items() if line["answers"])
            self.rules = _rules(self.manifest["rules"])
            self.tasks: dict[str, Task] = {name: make("task", spec) for name, spec in tasks.items()}
            self.serializer: Serializer = make("serializer", parts["serializer"])
            encoder_device = None if device == "auto" else device
            self.encoder: ContrastiveEncoder = make("encoder", parts["encoder"], device=encoder_device)
            self.retriever: Retriever = make("retriever", parts["retriever"])
            self.router: Router = make("router", parts["router"])
            self.mixer: Mixer = make("mixer", parts["mixer"])
            self.engine: Engine = engine or make("engine", parts["engine"])
            given = {"device": device, "config_key": "base", **({} if base is None else {"path": str(base)})}
            self.backbone: HuggingFaceBackbone = make("backbone", parts["backbone"], **given)
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"The bundle does not say what it should: {type(error).__name__} {error}.",
                where=str(folder / MANIFEST),
                fix="export the run again",
            ) from error
        if "base" in self.manifest:
            self._check_base(base)
        self._units: dict[str, Unit] = {}
        self._detectors: dict[str, Detector | None] = {}
        self._steps: dict[str, dict[str, Step]] = {}
        self._panel: Panel | None = None
        self._asked: dict[tuple[str, ...], StackedModel] = {}

    def _check_base(self, given: str | None) -> None:
        trained = self.manifest["base"]
        found = self.backbone.fingerprint()
        if found != trained["fingerprint"]:
            theirs = f"{trained['fingerprint']} ({trained['name']}, revision {trained['revision']})"
            if found.startswith("hub:"):
                raise UserError(
                    f"There is no folder {self.backbone.path!r} here, and the hub's model of that name is not the one "
                    f"the experts were trained on: theirs is {theirs}.",
                    where="base" if given else str(self.folder / MANIFEST),
                    fix=f"name the folder where {trained['name']} is: meld.load(DIR, base=...), --base FOLDER",
                )
            raise UserError(
                f"The base model {self.backbone.path} is not the one the experts were trained on: its weights are "
                f"{found}, and theirs {theirs}.",
                where="base" if given else str(self.folder / MANIFEST),
                fix=f"name the folder or hub name of {trained['name']} as it was: meld.load(DIR, base=...)",
            )

    @cached_property
    def embedder(self) -> Embedder:
        """The trained encoder."""
        with reading(self.folder / "encoder"):
            return self.encoder.open(self.folder / "encoder")

    @cached_property
    def lm(self) -> LanguageModel:
        """The frozen base model, under the name that the adapters know it by."""
        with quiet_libraries():
            lm = self.backbone.open()
        lm.name = self.manifest["base"]["name"]
        return lm

    @cached_property
    def writer(self) -> PromptWriter:
        """Writes prompts with the bundle's own templates."""
        budget = self.backbone.max_prompt_tokens
        return PromptWriter(self.serializer, self.tasks, self.lm.count, budget, self.folder / "templates")

    def unit(self, name: str) -> Unit:
        """A unit, with what it learnt from."""
        if name not in self._units:
            place = self.folder / "units" / name
            found = Unit(
                name,
                self.tasks[self.cards[name]["task"]],
                self.serializer,
                place / "data",
                place / "index",
                place / "annotate",
                lambda: self.embedder,
                temperature=self.encoder.tau,
            )
            found.demonstrations = {}
            self._units[name] = found
        return self._units[name]

    def open_all(self) -> None:
        """Read every file that questions may need, so that what is wrong with one is said before the first is asked.

        Raises:
            UserError: Naming the file.
        """
        _ = self.embedder
        if "base" in self.manifest:
            # Engines that cannot hold both put the panel's experts aside for those of steps.
            for name in self.names:
                if adapters := self._step_adapters(self.path(name)):
                    with self._step_experts(adapters):
                        pass
            self.panel()
        for name in self.cards:
            unit = self.unit(name)
            _ = unit.data, unit.vectors
            self._odds(unit)
            if unit.samples and unit.task.solver == "llm" and "base" in self.manifest:
                # Some faults of a template show in a prompt only.
                self.writer.write(unit.samples[0].query, unit.samples[:1])

    def questions(self, unit: Unit) -> Questions:
        """A unit's questions."""
        return Questions(
            unit,
            self.writer,
            rank=self.backbone.decode == "rank",
            max_demos=self.backbone.max_demos,
            evidence_prior=self.backbone.evidence_prior,
        )

    def panel(self) -> Panel:
        """The experts on the base model, opened once."""
        if self._panel is None:
            registered = self.manifest["registered"]
            self._panel = Panel(
                self.router,
                self.folder / "router",
                {name: self.folder / "adapters" / name for name in (*self.manifest["experts"], *registered)},
                [self.folder / "added" / name for name in registered],
                self.mixer,
                self.engine,
                self.lm,
                self.manifest["exclude"],
            )
        return self._panel

    def close(self) -> None:
        """Take the experts off the base model."""
        if self._panel is not None:
            self._panel.close()
            self._panel = None
        for model in self._asked.values():
            model.close()
        self._asked.clear()

    def answer(self, name: str, queries: Sequence[Query], progress: Progress | None = None) -> list[Told]:
        """Answer queries to a unit, as the run's evaluation answered its test queries.

        Args:
            name: The unit.
            queries: Their ``rows`` name records of the unit's tables, or new ones.
            progress: The display.

        Returns:
            For each query, in order, its prediction and what was asked.
        """
        unit = self.unit(name)
        try:
            return self.answer_in(unit, queries, progress or Silent())
        finally:
            unit.forget()

    def answer_in(self, unit: Unit, queries: Sequence[Query], progress: Progress) -> list[Told]:
        """:meth:`answer` for a unit that may be over other tables than the bundle's (:meth:`Unit.over`)."""
        unit.admit(queries)
        if unit.task.solver == "encoder":
            predictions, asked = answer_encoder(unit, queries, self._detector(unit), self._odds(unit))
            return list(zip(predictions, asked, strict=True))
        wanted, kept = self._flagged(unit, queries, progress)
        told = {prediction.query_id: (prediction, Asked(query)) for query, prediction in kept}
        if wanted:
            texts = [unit.query_text(query) for query in wanted]
            walked = self._walk(unit, wanted, progress)
            odds = self._odds(unit)
            found = self.panel().answer(self.questions(unit), texts, walked.queries, self.backbone, progress, odds)
            asked = asked_of(walked, found.answers)
            told |= {p.query_id: (p, one) for p, one in zip(found.predictions, asked, strict=True)}
        return [told[query.id] for query in queries]

    def _odds(self, unit: Unit) -> Odds | None:
        """What is added to the log-odds of a unit's answers."""
        place = self.folder / "units" / unit.name
        with reading(place / BALANCE):
            return load_odds(place)

    def path(self, name: str) -> tuple[str, ...]:
        """The steps before a unit's own expert; those of excluded experts are skipped."""
        return tuple(step for step in self.paths[name] if step not in self.manifest["exclude"])

    def _walk(self, unit: Unit, queries: Sequence[Query], progress: Progress) -> Walk:
        """Queries with their demonstrations found and the unit's path followed."""
        path = self.path(unit.name)
        adapters = self._step_adapters(path)
        if self.backbone.max_demos != 0:
            unit.demonstrations = demonstrate(unit, self.retriever, queries, unit.samples, 0)
        return follow_path(
            path,
            unit,
            {step: self.unit(step) for step in path},
            {step: self.questions(self.unit(step)) for step in adapters},
            adapters,
            queries,
            self.rules,
            self.backbone,
            self._step_experts,
            progress,
            self._ready(unit, [step for step in path if step.rpartition(".")[2] in SAME_TABLE]),
        )

    def _step_experts(self, adapters: Mapping[str, Path]) -> AbstractContextManager[MixtureModel]:
        """The experts that steps ask; kept open where they do not disturb those of the panel, nor these them."""
        if not isinstance(self.engine, StackedEngine):
            self.close()
            return step_experts(self.lm, adapters)
        names = tuple(adapters)
        if names not in self._asked:
            self._asked[names] = self.engine.open(self.lm, adapters)
        return nullcontext(self._asked[names])

    def _step_adapters(self, path: Sequence[str]) -> dict[str, Path]:
        """The adapters of the steps that ask a language model."""
        return {step: self.folder / "steps" / step for step in path if self._asks(step)}

    def _asks(self, step: str) -> bool:
        """Whether a step asks a language model; blocking and detection attach what the encoder knows in any case."""
        return self.tasks[self.cards[step]["task"]].solver == "llm" and step.rpartition(".")[2] not in SAME_TABLE

    def _ready(self, unit: Unit, names: Sequence[str]) -> dict[str, Step]:
        """Steps that remember no questions, built once; a detector is fitted for one of them."""
        if unit is not self._units.get(unit.name):
            return build_steps(names, unit, {name: self.unit(name) for name in names}, None, self.rules)
        if unit.name not in self._steps:
            others = {name: self.unit(name) for name in names}
            self._steps[unit.name] = build_steps(names, unit, others, None, self.rules)
        return self._steps[unit.name]

    def _detector(self, unit: Unit) -> Detector | None:
        if unit.name not in self._detectors:
            self._detectors[unit.name] = detector_of(unit)
        return self._detectors[unit.name]

    def _flagged(
        self, unit: Unit, queries: Sequence[Query], progress: Progress
    ) -> tuple[list[Query], list[tuple[Query, Prediction]]]:
        """Data cleaning asks about the cells that error detection flags, unless the run asked about others."""
        detection = f"{unit.name.rpartition('.')[0]}.ed"
        if getattr(unit.task, "cells", None) != "flagged" or detection not in self.names:
            return list(queries), []
        verdicts = self.answer(detection, [replace(q, unit=detection, task="ed") for q in queries], progress)
        flags = {verdict.query_id for verdict, _ in verdicts if verdict.output == ERROR}
        kept = [(query, kept_as_it_is(query)) for query in queries if query.id not in flags]
        return [query for query in queries if query.id in flags], kept


def _check_shape(manifest: Mapping[str, Any]) -> None:
    """Whether a manifest names what it should, and nothing that it does not have.

    Raises:
        KeyError: For something that is missing.
        TypeError: For something else, or of another kind.
    """
    parts, units = manifest["parts"], manifest["units"]
    if set(parts) - set(PARTS):
        raise TypeError(f"parts: {min(map(str, set(parts) - set(PARTS)))} is none")
    for unit, line in units.items():
        if not isinstance(line["path"], list) or not isinstance(line["answers"], bool):
            raise TypeError(f"units: {unit} has no path, or does not say whether it answers")
        unknown = [step for step in line["path"] if not isinstance(step, str) or step not in units]
        if unknown:
            raise TypeError(f"units: the path of {unit} names {unknown[0]!r}, which is no unit")
        if line["task"] not in manifest["tasks"]:
            raise TypeError(f"units: {unit} has the task {line['task']!r}, which is not among the tasks")
    for group in ("experts", "registered", "exclude"):
        if not isinstance(manifest[group], list):
            raise TypeError(f"{group} is no list")
    if "base" in manifest:
        base = manifest["base"]
        if not isinstance(base["name"], str) or not isinstance(base["fingerprint"], str):
            raise TypeError("base: its name or its fingerprint is no text")
        _ = base["revision"]


def _rules(recorded: dict[str, Any]) -> StepRules:
    """How steps act, with no limit on their questions: a row's answer must not depend on the rows beside it.

    Raises:
        TypeError: If something else is recorded.
    """
    try:
        rules = StepRules(**{**recorded, "kinds": tuple(recorded["kinds"])})
    except ValueError as error:
        raise TypeError(f"rules: {error}") from error
    return replace(rules, max_queries=sys.maxsize)
