"""The usual chain: the node of every stage for a unit, or for the suite."""

from __future__ import annotations

from meld.dataset.io import digest_unit, save_gold, save_unit
from meld.dataset.withheld import withhold
from meld.pipeline import alone
from meld.pipeline.draft import Draft
from meld.pipeline.node import Run
from meld.pipeline.sources import DATA_VERSION, Sources
from meld.pipeline.workshop import Workshop
from meld.refine.mixture import MixtureRefinement
from meld.seeds import derive
from meld.selector.base import ScoringSelector
from meld.selector.meld_ds import MeldDS
from meld.selector.qurating import QuRating
from meld.stages import annotate, balance, encode, evaluate, infer, init, metapath, refine, route, select, serialize
from meld.stages.base import Context


def add_data(draft: Draft) -> None:
    """One ``data`` and one ``gold`` node per unit, keyed by content: hidden labels change only ``gold``'s key."""
    for unit in draft.at("data"):
        visible, hidden = draft.found.digests[unit]
        if unit in draft.masked:
            content = {"content": digest_unit(withhold(draft.found.of(unit).units[unit]))}
            draft.add("data", unit, DATA_VERSION, {}, content, _save_withheld(draft.found, unit), seed=0)
        else:
            draft.add("data", unit, DATA_VERSION, {}, {"content": visible}, _save_data(draft.found, unit), seed=0)
        if draft.reaches(unit, "gold"):
            draft.add("gold", unit, DATA_VERSION, {}, {"content": hidden}, _save_gold(draft.found, unit), seed=0)


def add_serialize(draft: Draft, unit: str) -> None:
    """The queries and labelled samples of a unit as text."""

    def run(context: Context, shop: Workshop) -> None:
        serialize.run(context, draft.c.serializer, draft.task(unit))

    config = {"serializer": draft.spec["serializer"], "task": draft.task_spec(unit)}
    draft.add("serialize", unit, serialize.VERSION, {"data": draft.get("data", unit)}, config, run)


def add_encode(draft: Draft) -> None:
    """M_RAG, trained on the alignments of every unit that is not withheld."""

    def run(context: Context, shop: Workshop) -> None:
        encode.run(context, draft.c.encoder, draft.c.trainer)

    trained_on = [u for u in draft.at("serialize", draft.open) if draft.c.encoder.trains_on(u)]
    inputs = {f"serialize:{u}": draft.get("serialize", u) for u in trained_on}
    config = {"encoder": draft.spec["encoder"], "weights": draft.weights["encoder"], "trainer": draft.spec["trainer"]}
    draft.add("encode", "suite", encode.VERSION, inputs, config, run, trains=True)


def add_index(draft: Draft, unit: str) -> None:
    """A unit's queries and entities as M_RAG's vectors."""

    def run(context: Context, shop: Workshop) -> None:
        encode.run_index(context, shop.table_embedder(context.inputs["encode"]))

    inputs = {"serialize": draft.get("serialize", unit), "encode": draft.get("encode")}
    draft.add("index", unit, encode.INDEX_VERSION, inputs, {"max_length": draft.c.encoder.max_length}, run, seed=0)


def add_annotate(draft: Draft, unit: str) -> None:
    """X_i: the unit's labelled samples and those that annotation adds."""

    def run(context: Context, shop: Workshop) -> None:
        encoded = context.inputs["encode"]
        annotate.run(
            context,
            shop.unit(context, unit),
            draft.c.annotator,
            draft.c.retriever,
            draft.tasks,
            lambda: shop.embedder(encoded),
        )

    inputs = draft.unit_inputs(unit, annotated=False)
    donors = annotate.donors(unit, draft.at("data", draft.open))
    inputs |= {f"donor:{donor}": draft.get("data", donor) for donor in donors}
    config = {
        "annotator": draft.spec["annotator"],
        "retriever": draft.spec["retriever"],
        "serializer": draft.spec["serializer"],
        "tasks": {u: draft.task_spec(u) for u in sorted({unit, *donors})},
    }
    draft.add("annotate", unit, annotate.VERSION, inputs, config, run)


def add_balance(draft: Draft, unit: str) -> None:
    """How common matches are among the questions of a unit."""

    def run(context: Context, shop: Workshop) -> None:
        balance.run(context, shop.unit(context, unit))

    config = {"serializer": draft.spec["serializer"]}
    draft.add("balance", unit, balance.VERSION, draft.unit_inputs(unit), config, run, seed=0)


def add_init(draft: Draft, unit: str) -> None:
    """The expert's first adapter, trained on X_i."""
    steps = draft.steps(unit, llm=False)

    def run(context: Context, shop: Workshop) -> None:
        init.run(
            context,
            shop.questions(context, unit, draft.c.backbone),
            {u: shop.unit(context, u) for u in steps},
            steps,
            draft.c.metapath,
            draft.c.expert,
            draft.c.backbone,
            shop.model(draft.c.backbone),
            draft.c.trainer,
        )

    config = {
        **draft.asking(unit),
        "expert": draft.spec["expert"],
        "trainer": draft.spec["trainer"],
        **draft.seed_config(unit),
    }
    draft.add("init", unit, init.VERSION, draft.unit_inputs(unit, *steps), config, run, trains=True)


def add_metapath(draft: Draft, unit: str) -> None:
    """The unit's path, searched with the first adapters, and X_aug along it."""
    steps = draft.steps(unit, llm=True)

    def run(context: Context, shop: Workshop) -> None:
        questions = {u: shop.questions(context, u, draft.c.backbone) for u in (unit, *steps)}
        metapath.run(context, questions, unit, steps, draft.c.metapath, draft.c.backbone, shop.model(draft.c.backbone))

    inputs = draft.unit_inputs(unit, *steps)
    inputs |= {f"init:{u}": draft.adapter("init", u) for u in (unit, *steps) if u in draft.experts}
    config = {**draft.asking(unit, *steps), "metapath": draft.spec["metapath"]}
    draft.add("metapath", unit, metapath.VERSION, inputs, config, run)


def add_select(draft: Draft, unit: str) -> None:
    """The three steps of a selection from X_aug; only the last depends on c."""
    selector = draft.c.selector
    without_c = {name: value for name, value in draft.spec["selector"].items() if name != "c"}
    proxy = {
        "serializer": draft.spec["serializer"],
        "proxy": draft.spec["proxy"],
        "weights": draft.weights["proxy"],
        "task": draft.task_spec(unit),
    }

    def features(context: Context, shop: Workshop) -> None:
        model = shop.model(draft.c.proxy) if selector.needs_losses else None
        select.run_features(
            context,
            selector,
            shop.questions(context, unit, draft.c.proxy),
            shop.questions(context, unit, draft.c.proxy, with_demos=False),
            model,
            shop.embedder(context.inputs["encode"]),
            draft.c.expert.max_samples,
        )

    def influence(context: Context, shop: Workshop) -> None:
        assert isinstance(selector, ScoringSelector)
        select.run_influence(
            context,
            selector,
            shop.questions(context, unit, draft.c.proxy),
            draft.c.proxy,
            shop.model(draft.c.proxy),
            draft.c.expert,
            draft.c.trainer,
        )

    def pick(context: Context, shop: Workshop) -> None:
        select.run_pick(context, selector, shop.unit(context, unit).data, draft.c.expert.max_samples)

    base = {**draft.unit_inputs(unit), "metapath": draft.get("metapath", unit)}
    limit = {"max_samples": draft.c.expert.max_samples}
    needs = {
        "embeddings": selector.needs_features,
        "losses": selector.needs_losses,
        "quality": draft.spec["selector"].get("quality", without_c) if selector.needs_losses else None,
    }
    measured = draft.add("features", unit, select.VERSION, base, {**proxy, **needs, **limit}, features)
    inputs = {**base, "features": measured}
    if selector.needs_influence:
        config = {
            **proxy,
            "selector": without_c,
            "expert": draft.spec["expert"],
            "trainer": draft.spec["trainer"],
        }
        if isinstance(selector, QuRating):
            config["rater"] = selector.fingerprint()
        inputs["influence"] = draft.add("influence", unit, select.VERSION, inputs, config, influence, trains=True)
    draft.add("pick", unit, select.VERSION, inputs, {"selector": draft.spec["selector"], **limit}, pick)


def add_refine(draft: Draft, unit: str) -> None:
    """The expert, refined on X_aug or on what was selected of it."""
    others = draft.at("metapath", draft.experts)
    selector = draft.c.selector
    # The auxiliary set re-uses what selection measured of the other units' pools.
    reuses = isinstance(draft.c.refine, MixtureRefinement) and selector.needs_features
    quality = selector.quality if reuses and isinstance(selector, MeldDS) and selector.needs_losses else None

    def run(context: Context, shop: Workshop) -> None:
        questions = {u: shop.questions(context, u, draft.c.backbone) for u in others}
        refine.run(
            context,
            questions,
            unit,
            draft.c.refine,
            draft.c.expert,
            draft.c.backbone,
            shop.model(draft.c.backbone),
            draft.c.trainer,
            quality.scores if quality is not None else None,
        )

    inputs = draft.unit_inputs(*others)
    inputs |= {f"metapath:{u}": draft.get("metapath", u) for u in others}
    if reuses:
        inputs |= {f"features:{u}": draft.get("features", u) for u in draft.at("pick", others) if u != unit}
    inputs["init"] = draft.get("init", unit)
    if f"pick:{unit}" in draft.nodes:
        inputs["pick"] = draft.get("pick", unit)
    config = {
        **draft.asking(*others),
        "refine": draft.spec["refine"],
        "expert": draft.spec["expert"],
        "trainer": draft.spec["trainer"],
        "quality": draft.spec["selector"]["quality"] if quality is not None else None,
    }
    draft.add("refine", unit, refine.VERSION, inputs, config, run, trains=True)


def add_route(draft: Draft) -> None:
    """The router, trained on how the experts answer labelled queries."""
    router = draft.router
    experts = draft.at("refine", draft.experts)

    def run(context: Context, shop: Workshop) -> None:
        if router.needs_answers:
            questions = {u: shop.questions(context, u, draft.c.backbone) for u in experts}
            model = shop.model(draft.c.backbone)
        else:
            questions, model = {}, None
        route.run(
            context,
            questions,
            router,
            draft.c.backbone,
            model,
            draft.c.trainer,
            getattr(router, "queries_per_unit", 0),
        )

    inputs = {**draft.unit_inputs(*experts), **draft.refined()}
    inputs |= {f"metapath:{u}": draft.get("metapath", u) for u in experts}
    config = {**draft.asking(*experts), "router": draft.router_spec(False), "trainer": draft.spec["trainer"]}
    draft.add("route", "suite", route.VERSION, inputs, config, run, trains=True)


def add_infer(draft: Draft, unit: str) -> None:
    """The answers to a unit's test queries."""
    balanced = {"balance": draft.get("balance", unit)} if f"balance:{unit}" in draft.nodes else {}
    if draft.task(unit).solver == "encoder":

        def encoder(context: Context, shop: Workshop) -> None:
            infer.run_encoder(context, shop.unit(context, unit))

        inputs = {**draft.unit_inputs(unit), **balanced}
        draft.add("infer", unit, infer.VERSION, inputs, {"task": draft.task_spec(unit)}, encoder)
        return
    if draft.alone:
        alone.add_infer(draft, unit)
        return
    steps = draft.steps(unit, llm=True)

    def run(context: Context, shop: Workshop) -> None:
        asked = (unit, *(step for step in steps if step in draft.experts))
        questions = {u: shop.questions(context, u, draft.c.backbone) for u in asked}
        infer.run_llm(
            context,
            questions,
            {u: shop.unit(context, u) for u in steps},
            unit,
            draft.c.metapath.rules,
            draft.router,
            draft.c.mixer,
            draft.c.engine,
            draft.c.backbone,
            shop.model(draft.c.backbone),
            draft.exclude,
        )

    inputs = {**draft.unit_inputs(unit, *steps), **draft.refined()}
    inputs |= {f"register:{n}": draft.get("register", n) for n in sorted(draft.tree.get("adapters") or {})}
    inputs |= {f"init:{u}": draft.adapter("init", u) for u in steps if u in draft.experts}
    inputs |= {"route": draft.get("route"), "metapath": draft.get("metapath", unit)}
    inputs |= {**draft.flags(unit), **balanced}
    config = {**draft.asking(unit, *steps), "mixer": draft.spec["mixer"], "engine": draft.spec["engine"]}
    late = draft.router_spec(True)
    config |= {"router": late} if late else {}
    config |= {"exclude": sorted(draft.exclude)} if draft.exclude else {}
    draft.add("infer", unit, infer.VERSION, inputs, config, run)


def add_evaluate(draft: Draft, unit: str) -> None:
    """The scores of a unit's answers, and of simple baselines beside them."""

    def baselines(context: Context, shop: Workshop) -> None:
        evaluate.run_baselines(context, shop.embedder(None))

    def run(context: Context, shop: Workshop) -> None:
        evaluate.run(context, context.seed % 2**32)

    data = {"data": draft.get("data", unit)}
    config = {"weights": draft.weights["encoder"], "max_length": draft.c.encoder.max_length}
    simple = draft.add("baseline", unit, evaluate.BASELINE_VERSION, data, config, baselines, seed=0)
    inputs = {**data, "gold": draft.get("gold", unit), "infer": draft.get("infer", unit), "baseline": simple}
    if f"annotate:{unit}" in draft.nodes:
        inputs["annotate"] = draft.get("annotate", unit)
    # The bootstrap's seed does not depend on the run's, so that intervals of several seeds are comparable.
    draft.add("evaluate", unit, evaluate.VERSION, inputs, {}, run, seed=derive("bootstrap", unit))


def _save_data(found: Sources, unit: str) -> Run:
    def run(context: Context, shop: Workshop) -> None:
        save_unit(found.of(unit).units[unit], context.out)

    return run


def _save_withheld(found: Sources, unit: str) -> Run:
    def run(context: Context, shop: Workshop) -> None:
        save_unit(withhold(found.of(unit).units[unit]), context.out)

    return run


def _save_gold(found: Sources, unit: str) -> Run:
    def run(context: Context, shop: Workshop) -> None:
        save_gold(found.of(unit).gold[unit], context.out / "gold.parquet")

    return run
