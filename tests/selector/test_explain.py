"""Explanations: ranks, terms at the time of picking or after it, and the term that decided."""

from __future__ import annotations

import numpy as np

from meld.selector.base import Features
from meld.selector.diversity.graph_cut import GraphCut
from meld.selector.dsir import Dsir
from meld.selector.explain import NOT_DRAWN, REASONS, WORTHLESS, explain
from meld.selector.influence.batch import BatchInfluence
from meld.selector.meld_ds import MeldDS
from meld.selector.optimizer.lazy import Lazy
from meld.selector.quality.perplexity_ratio import PerplexityRatio
from meld.selector.random import RandomSelector


def test_every_item_has_its_terms_a_rank_or_a_reason() -> None:
    rng = np.random.default_rng(0)
    pool = Features(rng.normal(size=(20, 5)).astype(np.float32), rng.random(20), rng.random(20))
    influence = rng.normal(size=20)
    selector = MeldDS(GraphCut(), PerplexityRatio(), BatchInfluence(), Lazy(), 0.3)
    selection = selector.pick(pool, influence, 6, 0)
    found = explain(selection, 20)
    rank = found.columns["rank"]
    assert [rank[i] for i in selection.indices] == [1, 2, 3, 4, 5, 6]
    assert sum(r is None for r in rank) == 14
    for position, item in enumerate(selection.indices):
        assert found.columns["diversity"][item] == selection.terms["diversity"][position]
        assert found.columns["reason"][item] == ""
    term = GraphCut().start(pool.embeddings)
    for item in selection.indices:
        term.add(int(item))
    dropped = [i for i in range(20) if rank[i] is None]
    after = term.gains()
    np.testing.assert_allclose([found.columns["diversity"][i] for i in dropped], after[dropped])
    assert sum(found.reasons.values()) == 14
    for item in dropped:
        if found.columns["quality"][item] == 0.0:
            assert found.columns["reason"][item] == WORTHLESS
            continue
        behind = {
            name: selection.factors[name]
            * (found.columns[name][item] - np.mean([found.columns[name][i] for i in selection.indices]))
            for name in REASONS
        }
        assert found.columns["reason"][item] == REASONS[min(behind, key=behind.__getitem__)]


def test_selectors_with_one_score_or_none() -> None:
    drawn = explain(RandomSelector(0.5).pick(Features.unmeasured(4), None, 2, 0), 4)
    assert drawn.reasons == {NOT_DRAWN: 2}
    texts = ["red shoe", "annual report", "blue shoe", "x"]
    scored = explain(Dsir(0.5).pick(Features.unmeasured(4, texts, ["red shoe"]), None, 2, 0), 4)
    assert scored.reasons == {"log_weight below the cut": 2}
    assert all(isinstance(value, float) for value in scored.columns["log_weight"])
