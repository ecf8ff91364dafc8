"""select: MELD-DS chooses a share of X_aug, in three steps of which only the last depends on c.

*features* measures embeddings and perplexities, *influence* warms the proxy up on S'_init and scores every sample,
*pick* maximises Eq. 9 (journal version, section V).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from meld.backbone.huggingface import HuggingFaceBackbone
from meld.backbone.language_model import Encoded, LanguageModel
from meld.backbone.lora import read_adapter, set_adapter_state, with_lora
from meld.dataset.io import load_samples
from meld.encoder.vectors import Embedder
from meld.expert.lora import LoraExpert
from meld.refine.mixture import text_of
from meld.seeds import derive
from meld.selector.base import Features, Selector
from meld.selector.meld_ds import MeldDS
from meld.selector.quality.base import MeasuredQuality
from meld.stages.base import Context, write_json
from meld.stages.init import limited
from meld.stages.unit import Questions
from meld.trainer.fit import LightningTrainer
from meld.types import Sample

VERSION = 1


def pool_of(metapath: Path) -> list[Sample]:
    """X_aug without the few-shot samples, which are always trained on, outside the budget."""
    return [s for s in load_samples(metapath / "samples.parquet") if s.provenance != "labelled"]


def run_features(
    context: Context,
    selector: Selector,
    questions: Questions,
    bare: Questions,
    lm: LanguageModel | None,
    embedder: Embedder,
) -> None:
    """Write ``features.safetensors``: embeddings, losses with and without demonstrations.

    Args:
        context: Input ``metapath``.
        selector: Says what it needs.
        questions: The unit's questions under the proxy, with demonstrations.
        bare: The same without demonstrations.
        lm: The proxy; None if no losses are needed.
        embedder: The trained encoder, for labels.
    """
    pool = pool_of(context.inputs["metapath"])
    content = {
        "embeddings": np.zeros((len(pool), 0), dtype=np.float32),
        "loss_cond": np.full(len(pool), np.nan),
        "loss_prior": np.full(len(pool), np.nan),
    }
    if selector.needs_features and pool:
        content["embeddings"] = _embeddings(pool, questions, embedder)
    if selector.needs_losses and pool:
        assert isinstance(selector, MeldDS)
        assert isinstance(selector.quality, MeasuredQuality)
        assert lm is not None
        context.progress.begin("perplexities", 2 * len(pool))
        cond, prior = selector.quality.measure(lm, _encoded(pool, questions, lm), _encoded(pool, bare, lm))
        content["loss_cond"], content["loss_prior"] = np.asarray(cond), np.asarray(prior)
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


def load_features(folder: Path, pool: Sequence[Sample], target: Sequence[Sample]) -> Features:
    """Features of a pool, as :func:`run_features` wrote them."""
    content = load_file(folder / "features.safetensors")
    return Features(
        content["embeddings"],
        content["loss_cond"],
        content["loss_prior"],
        [text_of(s) for s in pool],
        [text_of(s) for s in target],
    )


def run_influence(
    context: Context,
    selector: MeldDS,
    questions: Questions,
    proxy: HuggingFaceBackbone,
    lm: LanguageModel,
    expert: LoraExpert,
    trainer: LightningTrainer,
    max_warm_up: int | None = None,
) -> None:
    """Warm the proxy up on S'_init and write ``influence.safetensors``: I of Eq. 8 for every sample of the pool.

    Args:
        context: Inputs ``features`` and ``metapath``.
        selector: Diversity, quality and influence.
        questions: The unit's questions under the proxy.
        proxy: Names the layers to adapt.
        lm: The frozen proxy.
        expert: How the warm-up trains.
        trainer: Fits it.
        max_warm_up: Samples of the warm-up at most.
    """
    pool = pool_of(context.inputs["metapath"])
    data = questions.unit.data
    if not pool:
        save_file({"influence": np.zeros(0)}, context.out / "influence.safetensors")
        return
    features = load_features(context.inputs["features"], pool, data.train)
    initial = selector.initial(features, seed=derive(context.seed, "initial"))
    warm = limited([pool[int(i)] for i in initial.indices], max_warm_up, context.seed)
    expert.fit(
        lm,
        proxy.lora_targets,
        questions.lessons(warm, lm, expert.train_candidates),
        (),
        context.work / "warm",
        context.work / "training",
        trainer,
        context.seed,
        "warm up the proxy",
        context.progress,
        context.logger("warm_up"),
        epochs=1,
    )
    _, state = read_adapter(context.work / "warm")
    context.progress.begin("influence", None)
    with with_lora(lm, proxy.lora_targets, expert.rank, expert.alpha, 0.0, 0) as warmed:
        set_adapter_state(warmed, state)
        warmed.model.eval()
        scores = selector.influence.scores(
            warmed,
            _encoded(pool, questions, lm),
            _encoded(data.train, questions, lm),
            initial.indices,
            features.embeddings,
        )
    save_file({"influence": np.asarray(scores, dtype=np.float64)}, context.out / "influence.safetensors")


def run_pick(context: Context, selector: Selector, unit_train: Sequence[Sample]) -> None:
    """Write ``selected.json``: ids in the order of picking, with each term's gain.

    Args:
        context: Inputs ``metapath``, ``features`` and, where needed, ``influence``.
        selector: Picks.
        unit_train: Few-shot training samples, the target of DSIR.

    An empty pool (fully labelled sets, annotation that finds nothing, donors withheld) leaves the few-shot samples, and
    is said.
    """
    pool = pool_of(context.inputs["metapath"])
    if not pool:
        context.progress.say("nothing to select from: the expert is refined on its few-shot samples")
        empty: dict[str, object] = {"pool": 0, "ids": [], "provenance": [], "pool_provenance": []}
        write_json(context.out / "selected.json", {**empty, "terms": {}, "factors": {}})
        return
    features = load_features(context.inputs["features"], pool, unit_train)
    influence = None
    if selector.needs_influence:
        influence = load_file(context.inputs["influence"] / "influence.safetensors")["influence"]
    n_select = selector.size(len(pool))
    selection = selector.pick(features, influence, n_select, derive(context.seed, "pick"))
    write_json(
        context.out / "selected.json",
        {
            "pool": len(pool),
            "ids": [pool[int(i)].id for i in selection.indices],
            "provenance": [pool[int(i)].provenance for i in selection.indices],
            "terms": {name: [round(float(v), 6) for v in values] for name, values in selection.terms.items()},
            "factors": {name: float(f) for name, f in selection.factors.items()},
            "pool_provenance": sorted(s.provenance for s in pool),
        },
    )
