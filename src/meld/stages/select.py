"""select: MELD-DS chooses a share of X_aug, in three steps of which only the last depends on c.

*features* measures embeddings and perplexities, *influence* warms the proxy up on S'_init and scores every sample,
*pick* maximises Eq. 9 (journal version, section V).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from meld.backbone.huggingface import HuggingFaceBackbone
from meld.backbone.language_model import Encoded, LanguageModel
from meld.backbone.lora import check_targets, read_adapter, set_adapter_state, with_lora
from meld.dataset.io import load_samples
from meld.encoder.vectors import Embedder
from meld.expert.lora import LoraExpert
from meld.refine.mixture import query_text, text_of
from meld.seeds import derive
from meld.selector.base import Features, IntArray, Material, MeasuringSelector, ScoringSelector, Selection, Selector
from meld.selector.costs import BACKWARD, FORWARD, Meter, layer_parameters
from meld.selector.explain import explain
from meld.stages.base import Context, write_json
from meld.stages.init import limited
from meld.stages.questions import Questions
from meld.trainer.fit import LightningTrainer
from meld.types import Sample, UnitData

VERSION = 2
STEPS = "steps.json"
"""What each step of an artifact took; never part of a result."""


def pool_of(metapath: Path, limit: int | None) -> list[Sample]:
    """X_aug without the few-shot samples, which are always trained on, outside the budget.

    Args:
        metapath: The artifact that holds X_aug.
        limit: Samples that an expert is trained on at most; None for all. Where X_aug has more, selection chooses from
            what an expert without selection might be given, and nothing that it chose is cut afterwards.
    """
    samples = load_samples(metapath / "samples.parquet")
    return [s for s in limited(samples, limit, derive(metapath.name, "pool")) if s.provenance != "labelled"]


def run_features(
    context: Context,
    selector: Selector,
    questions: Questions,
    bare: Questions,
    lm: LanguageModel | None,
    embedder: Embedder,
    limit: int | None,
) -> None:
    """Write ``features.safetensors``: embeddings, losses with and without demonstrations.

    Args:
        context: Input ``metapath``.
        selector: Says what it needs.
        questions: The unit's questions under the proxy, with demonstrations.
        bare: The same without demonstrations.
        lm: The proxy; None if no losses are needed.
        embedder: The trained encoder, for labels.
        limit: See :func:`pool_of`.
    """
    pool = pool_of(context.inputs["metapath"], limit)
    content = {
        "embeddings": np.zeros((len(pool), 0), dtype=np.float32),
        "loss_cond": np.full(len(pool), np.nan),
        "loss_prior": np.full(len(pool), np.nan),
    }
    meter = Meter()
    if selector.needs_features and pool:
        with meter.step("embeddings"):
            content["embeddings"] = _embeddings(pool, questions, embedder)
    if selector.needs_losses and pool:
        assert isinstance(selector, MeasuringSelector)
        assert lm is not None
        context.progress.begin("perplexities", None)
        shown, plain = _encoded(pool, questions, lm), _encoded(pool, bare, lm)
        with meter.step("perplexities") as step:
            differing = [one for one, other in zip(shown, plain, strict=True) if one.prompt != other.prompt]
            step.work(lm, [*plain, *differing], FORWARD)
            cond, prior = selector.measure(lm, shown, plain)
        content["loss_cond"], content["loss_prior"] = np.asarray(cond), np.asarray(prior)
    write_json(context.out / STEPS, meter.plain())
    save_file({k: np.ascontiguousarray(v) for k, v in content.items()}, context.out / "features.safetensors")


def _embeddings(pool: Sequence[Sample], questions: Questions, embedder: Embedder) -> NDArray[np.float32]:
    """emb(q) = concat[emb(query), emb(retrieved demonstrations), emb(label)], three M_RAG vectors."""
    unit = questions.unit
    query = unit.query_vectors([s.query for s in pool])
    by_id = {s.id: i for i, s in enumerate(unit.samples)}
    every = unit.query_vectors([s.query for s in unit.samples])
    demos = np.zeros_like(query)
    for row, sample in enumerate(pool):
        found = unit.demonstrations.get(sample.id)
        known = [by_id[id_] for id_ in (found.ids if found else ()) if id_ in by_id]
        if known:
            mean = every[known].mean(axis=0)
            demos[row] = mean / max(float(np.linalg.norm(mean)), 1e-12)
    labels = sorted({s.label for s in pool})
    vectors = dict(zip(labels, embedder.embed(labels), strict=True))
    label = np.stack([vectors[s.label] for s in pool])
    return np.concatenate([query, demos, label], axis=1).astype(np.float32)


def _encoded(samples: Sequence[Sample], questions: Questions, lm: LanguageModel) -> list[Encoded]:
    return [lesson.encoded for lesson in questions.lessons(samples, lm, 0)]


def load_features(folder: Path, pool: Sequence[Sample], data: UnitData, target: str = "few_shot") -> Features:
    """Features of a pool, as :func:`run_features` wrote them.

    Args:
        folder: The artifact.
        pool: Its samples.
        data: The unit's visible data, which holds the target domain.
        target: ``few_shot`` (training samples with their labels) or ``test_inputs`` (test queries; labels are left out
            everywhere).
    """
    content = load_file(folder / "features.safetensors")
    if target == "test_inputs":
        texts, targets = [query_text(s.query) for s in pool], [query_text(q) for q in data.test]
    else:
        texts, targets = [text_of(s) for s in pool], [text_of(s) for s in data.train]
    return Features(content["embeddings"], content["loss_cond"], content["loss_prior"], texts, targets)


def run_influence(
    context: Context,
    selector: ScoringSelector,
    questions: Questions,
    proxy: HuggingFaceBackbone,
    lm: LanguageModel,
    expert: LoraExpert,
    trainer: LightningTrainer,
) -> None:
    """Let the selector score the pool with the proxy; writes ``influence.safetensors``, a score for every sample.

    Args:
        context: Inputs ``features`` and ``metapath``.
        selector: Scores.
        questions: The unit's questions under the proxy.
        proxy: Names the layers to adapt.
        lm: The frozen proxy.
        expert: How a warm-up trains.
        trainer: Fits it.

    Raises:
        UserError: If the proxy lacks a layer that is to be adapted, or the selector cannot use the pool.
    """
    check_targets(lm, proxy.lora_targets, "proxy.lora_targets")
    pool = pool_of(context.inputs["metapath"], expert.max_samples)
    data = questions.unit.data
    meter = Meter()
    scores = np.zeros(0)
    if pool:
        warming = _WarmUp(context, pool, questions, proxy, lm, expert, trainer, meter)
        material = Material(
            features=load_features(context.inputs["features"], pool, data),
            pool=_encoded(pool, questions, lm),
            validation=_encoded(data.train, questions, lm),
            dev=_encoded(data.dev, questions, lm),
            texts=lambda: _texts(pool, questions),
            attach=lambda: with_lora(lm, proxy.lora_targets, expert.rank, expert.alpha, 0.0, context.seed),
            warm_up=warming.adapter,
            seed=derive(context.seed, "initial"),
            meter=meter,
        )
        context.progress.begin("score the pool", None)
        scores = selector.score(material)
    save_file({"influence": np.asarray(scores, dtype=np.float64)}, context.out / "influence.safetensors")
    write_json(context.out / STEPS, meter.plain())


class _WarmUp:
    """Trains the proxy's adapter on items of the pool as experts are trained, and resumes after a kill."""

    def __init__(
        self,
        context: Context,
        pool: Sequence[Sample],
        questions: Questions,
        proxy: HuggingFaceBackbone,
        lm: LanguageModel,
        expert: LoraExpert,
        trainer: LightningTrainer,
        meter: Meter,
    ) -> None:
        self.context, self.pool, self.questions = context, pool, questions
        self.proxy, self.lm, self.expert, self.trainer, self.meter = proxy, lm, expert, trainer, meter

    @contextmanager
    def adapter(self, positions: IntArray, most: int | None) -> Iterator[LanguageModel]:
        """The proxy with the trained adapter, see :class:`Material`."""
        warm = limited([self.pool[int(i)] for i in positions], most, self.context.seed)
        lessons = self.questions.lessons(warm, self.lm, self.expert.train_candidates)
        with self.meter.step("warm-up") as step:
            step.model, step.parameters = "proxy", layer_parameters(self.lm)
            step.tokens = sum(lesson.encoded.length for lesson in lessons)
            step.passes = BACKWARD + FORWARD * (self.lm.relative and self.expert.objective != "answer")
            self.expert.fit(
                self.lm,
                self.proxy.lora_targets,
                lessons,
                (),
                self.context.work / "warm",
                self.context.work / "training",
                self.trainer,
                self.context.seed,
                "warm up the proxy",
                self.context.progress,
                self.context.logger("warm_up"),
                epochs=1,
            )
        _, state = read_adapter(self.context.work / "warm")
        with with_lora(self.lm, self.proxy.lora_targets, self.expert.rank, self.expert.alpha, 0.0, 0) as warmed:
            set_adapter_state(warmed, state)
            warmed.model.eval()
            yield warmed


def _texts(samples: Sequence[Sample], questions: Questions) -> list[str]:
    """Prompts with their labels, as text."""
    prompts = questions.labelled_prompts(samples, 0)
    return [prompt.text + prompt.answer_text(s.label) for prompt, s in zip(prompts, samples, strict=True)]


def run_pick(context: Context, selector: Selector, data: UnitData, limit: int | None) -> None:
    """Write ``selected.json``: ids in the order of picking, with each term's gain; ``items.parquet``: the whole pool.

    Args:
        context: Inputs ``metapath``, ``features`` and, where needed, ``influence``.
        selector: Picks.
        data: The unit's visible data; DSIR aims at part of it.
        limit: See :func:`pool_of`.

    An empty pool (fully labelled sets, annotation that finds nothing, donors withheld, a limit that the few-shot
    samples reach alone) leaves the few-shot samples, and is said.
    """
    pool = pool_of(context.inputs["metapath"], limit)
    meter = Meter()
    if pool:
        selection = _pick(context, selector, pool, data, meter)
    else:
        there = len(pool_of(context.inputs["metapath"], None))
        why = (
            f"limits.samples={limit} leaves no room for the {there} samples beside the few-shot ones, so "
            if there
            else ""
        )
        context.progress.say(f"{why}nothing to select from: the expert is refined on its few-shot samples")
        selection = Selection(np.zeros(0, dtype=np.int64))
    write_json(context.out / STEPS, meter.plain())
    explained = explain(selection, len(pool))
    columns = {"id": [s.id for s in pool], "provenance": [s.provenance for s in pool]}
    pq.write_table(pa.table({**columns, **explained.columns}), context.out / "items.parquet")
    write_json(
        context.out / "selected.json",
        {
            "pool": len(pool),
            "ids": [pool[int(i)].id for i in selection.indices],
            "provenance": [pool[int(i)].provenance for i in selection.indices],
            "terms": {name: [round(float(v), 6) for v in values] for name, values in selection.terms.items()},
            "factors": {name: float(f) for name, f in selection.factors.items()},
            "pool_provenance": sorted(s.provenance for s in pool),
            "dropped": explained.reasons,
        },
    )


def _pick(context: Context, selector: Selector, pool: Sequence[Sample], data: UnitData, meter: Meter) -> Selection:
    """The selector's choice from a pool that holds something."""
    features = load_features(context.inputs["features"], pool, data, getattr(selector, "target", "few_shot"))
    influence = None
    if selector.needs_influence:
        influence = load_file(context.inputs["influence"] / "influence.safetensors")["influence"]
    with meter.step("greedy"):
        return selector.pick(features, influence, selector.size(len(pool)), derive(context.seed, "pick"))
