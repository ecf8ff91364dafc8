"""The plan of a run: every stage for every unit as a node with its key, known before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from meld.config.build import build
from meld.config.roster import JOINT
from meld.config.validate import STAGES
from meld.config.validate import units as declared_units
from meld.dataset.base import Dataset
from meld.dataset.io import digest_unit, save_gold, save_unit
from meld.dataset.withheld import withhold
from meld.engine.base import asks_alone
from meld.errors import UserError
from meld.pipeline import alone, roster
from meld.pipeline.components import Components, build_components
from meld.pipeline.node import ORDER, Node, Plan, Run
from meld.pipeline.sources import DATA_VERSION, Sources, find_sources
from meld.pipeline.workshop import Workshop
from meld.refine.mixture import MixtureRefinement
from meld.report.results import Failure
from meld.router.fixed import OwnExpert
from meld.seeds import derive
from meld.selector.base import ScoringSelector
from meld.selector.meld_ds import MeldDS
from meld.selector.qurating import QuRating
from meld.stages import annotate, encode, evaluate, infer, init, metapath, refine, route, select, serialize
from meld.stages.base import Context
from meld.stages.paths import check_seeds, possible_steps
from meld.store.keys import component_spec, digest
from meld.store.store import Store
from meld.task.base import Task


def make_plan(tree: Mapping[str, Any], store: Store, failures: Sequence[Failure] = ()) -> Plan:
    """Plan a run.

    Loads datasets whose content is not known yet (their digests are remembered in the store), computes nothing else.
    A dataset that cannot be loaded is left out as long as another one can, and named in ``Plan.failures``.

    Args:
        tree: The resolved, validated configuration as plain containers.
        store: Where artifacts are.
        failures: Units to leave out, each from the stage on at which it failed: what they gave to other units before
            that, these keep.

    Raises:
        ConfigError: If a dataset does not take its options.
        UserError: If weights are missing, or no dataset can be loaded.
    """
    return _Planner(tree, store).plan(tuple(failures))


class _Planner:
    def __init__(self, tree: Mapping[str, Any], store: Store) -> None:
        self.tree = tree
        self.store = store
        self.seed = int(tree["seed"])
        self.c = build_components(tree)
        allow = tuple(tree.get("allow") or ())
        self.tasks: dict[str, Task] = {
            n: build(cfg, allow=allow, place=f"tasks.{n}") for n, cfg in tree["tasks"].items()
        }
        self.datasets: dict[str, Dataset] = {
            n: build(cfg, allow=allow, place=f"datasets.{n}") for n, cfg in tree["datasets"].items()
        }
        self.alone = asks_alone(self.c.engine)
        self.joint = bool(getattr(self.c.expert, "shared", False))
        self.exclude = tuple(tree.get("exclude") or ())
        self.lenders: dict[str, tuple[str, ...]] = {}
        self.workshop = Workshop(self.tasks, self.c.serializer, self.c.encoder, self.lenders)
        self.nodes: dict[str, Node] = {}
        self.spec = {
            name: component_spec(tree[name])
            for name in Components.__dataclass_fields__
            if isinstance(tree[name], Mapping)
        }
        self.weights = {name: getattr(self.c, name).fingerprint() for name in ("encoder", "backbone", "proxy")}
        self.router = OwnExpert() if self.joint else self.c.router
        if self.joint:
            self.spec["router"] = component_spec({"_target_": "meld.router.fixed.OwnExpert"})
        self.found = find_sources(self.datasets, tree["datasets"], store)
        self.masking, self.masked = roster.mask(self)
        self.units = tuple(u for u in self.found.digests if u not in self.masking.withheld or u in self.masked)
        self.open = tuple(u for u in self.units if u not in self.masked)
        self.experts = tuple(u for u in self.open if self.task(u).solver == "llm")
        self.failures: dict[str, Failure] = {}
        # Units that are withheld or whose data cannot be read are units all the same.
        every = declared_units(tree)
        check_seeds(self.c.metapath.seeds, every, tuple(u for u in every if self.task(u).solver == "llm"))

    def add(
        self,
        stage: str,
        unit: str,
        version: int,
        inputs: Mapping[str, Node],
        config: Mapping[str, Any],
        run: Run,
        trains: bool = False,
        seed: int | None = None,
    ) -> Node:
        seed = derive(self.seed, stage, unit) if seed is None else seed
        key = digest(stage, version, dict(config), {name: node.key for name, node in inputs.items()}, seed)
        # Content has a digest for a configuration; the options it was read with explain it.
        name = unit.rpartition(".")[0]
        origin = {"datasets": {name: component_spec(self.tree["datasets"][name])}} if "content" in config else {}
        node = Node(stage, unit, key, dict(inputs), dict(config), seed, run, trains, version, origin)
        self.nodes[node.id] = node
        return node

    def get(self, stage: str, unit: str = "suite") -> Node:
        return self.nodes[f"{stage}:{unit}"]

    # -- data ---------------------------------------------------------------------------------------------------------

    def data(self) -> None:
        """One ``data`` and one ``gold`` node per unit, keyed by content: hidden labels change only ``gold``'s key."""
        for unit in self.at("data"):
            visible, hidden = self.found.digests[unit]
            if unit in self.masked:
                content = {"content": digest_unit(withhold(self.found.of(unit).units[unit]))}
                self.add("data", unit, DATA_VERSION, {}, content, _save_withheld(self.found, unit), seed=0)
            else:
                self.add("data", unit, DATA_VERSION, {}, {"content": visible}, _save_data(self.found, unit), seed=0)
            if self.reaches(unit, "gold"):
                self.add("gold", unit, DATA_VERSION, {}, {"content": hidden}, _save_gold(self.found, unit), seed=0)

    # -- chain --------------------------------------------------------------------------------------------------------

    def reaches(self, unit: str, stage: str) -> bool:
        """Whether a unit has an artifact of a kind: it has not failed before or at it."""
        failure = self.failures.get(unit)
        return failure is None or ORDER.index(stage) < ORDER.index(failure.stage)

    def at(self, stage: str, units: Sequence[str] | None = None) -> tuple[str, ...]:
        """The units that have an artifact of a kind, of those given."""
        return tuple(unit for unit in (self.units if units is None else units) if self.reaches(unit, stage))

    def plan(self, failures: tuple[Failure, ...] = ()) -> Plan:
        """All nodes, apart from those of units that failed, from the stage on at which they did."""
        self.nodes = {}
        self.failures = {failure.unit: failure for failure in (*self.found.failures, *failures)}
        self._fail_those_who_wait()
        self.data()
        for target in self.masking.targets:
            task = target.rpartition(".")[2]
            self.lenders[target] = tuple(u for u in self.at("annotate", self.open) if u.rpartition(".")[2] == task)
        for unit in self.at("serialize"):
            self.serialize(unit)
        self.encode()
        for unit in self.at("index"):
            self.index(unit)
        for unit in self.at("annotate", self.open):
            self.annotate(unit)
        for unit in self.at("annotate", self.masked):
            roster.add_masked_annotate(self, unit)
        if not self.alone:
            self.train()
        for target in () if self.alone else self.at("metapath", self.masking.targets):
            roster.add_masked_path(self, target)
        if self.at("refine", self.experts) and not self.alone:
            self.route()
            for name in sorted(self.tree.get("adapters") or {}):
                roster.add_register(self, name)
        answered = self.masking.targets or self.units
        # Error detection, whoever answers it, comes before data cleaning (see `flags`).
        first = {unit: (self.task(unit).solver != "encoder", self.task(unit).name != "ed") for unit in answered}
        for unit in sorted(self.at("infer", answered), key=first.__getitem__):
            self.infer(unit)
        for unit in self.at("evaluate", answered):
            self.evaluate(unit)
        synthetic = tuple(name for name, dataset in self.datasets.items() if dataset.synthetic)
        order = {stage: i for i, stage in enumerate(STAGES)}
        nodes = sorted(self.nodes.values(), key=lambda node: order[node.chain_stage])
        return Plan(
            tuple(nodes),
            answered,
            self.masking.targets or self.experts,
            synthetic,
            self.workshop,
            self.c.trainer,
            self.c.backbone,
            (*self.found.notes, *roster.notes(self)),
            lambda unit: self.found.of(unit).units[unit],
            tuple(self.failures.values()),
            lambda failure: self.plan((*failures, failure)),
        )

    def train(self) -> None:
        """The experts: one per unit, or one for all."""
        if self.joint and self.at("init", self.experts):
            roster.add_joint_init(self)
        for unit in () if self.joint else self.at("init", self.experts):
            self.init(unit)
        for unit in self.at("metapath", self.experts):
            self.metapath(unit)
        if self.spec["selector"]["_target_"] != "meld.selector.none.NoSelector":
            for unit in self.at("pick", self.experts):
                self.select(unit)
        if self.joint and self.at("refine", self.experts):
            roster.add_joint_refine(self)
        for unit in () if self.joint else self.at("refine", self.experts):
            self.refine(unit)

    def adapter(self, stage: str, unit: str) -> Node:
        """The *init* or *refine* node whose adapter answers for a unit."""
        return self.get(stage, JOINT if self.joint else unit)

    def _fail_those_who_wait(self) -> None:
        """Data cleaning of flagged cells cannot do without the detection that flags them: it would ask other cells."""
        for unit in self.units:
            flags = f"{unit.rpartition('.')[0]}.ed"
            waits = self.asks_flagged(unit) and flags in self.units and self.reaches(unit, "infer")
            if waits and not self.reaches(flags, "infer"):
                error = UserError(
                    f"{unit} asks about the cells that {flags} flags, and {flags} failed.",
                    fix=f"mend {flags}, or tasks.dc.cells=all",
                )
                self.failures[unit] = Failure.of(unit, "infer", error)

    def asks_flagged(self, unit: str) -> bool:
        """Whether a unit asks about the cells that error detection flags."""
        return getattr(self.task(unit), "cells", None) == "flagged"

    def flags(self, unit: str) -> dict[str, Node]:
        """The answers of error detection, as an input of the data cleaning that asks about the cells it flags.

        Empty for other units, and where detection is not among the units that answer (masked settings): every cell is
        asked about there.
        """
        detection = f"{unit.rpartition('.')[0]}.ed"
        if not self.asks_flagged(unit) or detection not in (self.masking.targets or self.units):
            return {}
        return {"flags": self.get("infer", detection)}

    def task(self, unit: str) -> Task:
        """The unit's task."""
        return self.tasks[unit.rpartition(".")[2]]

    def task_spec(self, unit: str) -> dict[str, Any]:
        """What of the task's configuration matters."""
        return component_spec(self.tree["tasks"][unit.rpartition(".")[2]])

    def unit_inputs(self, *units: str, annotated: bool = True) -> dict[str, Node]:
        """What :meth:`Workshop.unit` needs for units, those that lend them their labels included."""
        inputs = {"encode": self.get("encode")}
        for unit in (*units, *(lender for borrower in units for lender in self.lenders.get(borrower, ()))):
            inputs[f"data:{unit}"] = self.get("data", unit)
            inputs[f"index:{unit}"] = self.get("index", unit)
            if annotated:
                inputs[f"annotate:{unit}"] = self.get("annotate", unit)
        return inputs

    def serialize(self, unit: str) -> None:
        def run(context: Context, shop: Workshop) -> None:
            serialize.run(context, self.c.serializer, self.task(unit))

        config = {"serializer": self.spec["serializer"], "task": self.task_spec(unit)}
        self.add("serialize", unit, serialize.VERSION, {"data": self.get("data", unit)}, config, run)

    def encode(self) -> None:
        def run(context: Context, shop: Workshop) -> None:
            encode.run(context, self.c.encoder, self.c.trainer)

        trained_on = [u for u in self.at("serialize", self.open) if self.c.encoder.trains_on(u)]
        inputs = {f"serialize:{u}": self.get("serialize", u) for u in trained_on}
        config = {"encoder": self.spec["encoder"], "weights": self.weights["encoder"], "trainer": self.spec["trainer"]}
        self.add("encode", "suite", encode.VERSION, inputs, config, run, trains=True)

    def index(self, unit: str) -> None:
        def run(context: Context, shop: Workshop) -> None:
            encode.run_index(context, shop.table_embedder(context.inputs["encode"]))

        inputs = {"serialize": self.get("serialize", unit), "encode": self.get("encode")}
        self.add("index", unit, encode.INDEX_VERSION, inputs, {"max_length": self.c.encoder.max_length}, run, seed=0)

    def annotate(self, unit: str) -> None:
        def run(context: Context, shop: Workshop) -> None:
            encoded = context.inputs["encode"]
            annotate.run(
                context,
                shop.unit(context, unit),
                self.c.annotator,
                self.c.retriever,
                self.tasks,
                lambda: shop.embedder(encoded),
            )

        inputs = self.unit_inputs(unit, annotated=False)
        donors = annotate.donors(unit, self.at("data", self.open))
        inputs |= {f"donor:{donor}": self.get("data", donor) for donor in donors}
        config = {
            "annotator": self.spec["annotator"],
            "retriever": self.spec["retriever"],
            "serializer": self.spec["serializer"],
            "tasks": {u: self.task_spec(u) for u in sorted({unit, *donors})},
        }
        self.add("annotate", unit, annotate.VERSION, inputs, config, run)

    def asking(self, *units: str) -> dict[str, Any]:
        """What prompts and answers of units depend on."""
        return {
            "serializer": self.spec["serializer"],
            "backbone": self.spec["backbone"],
            "weights": self.weights["backbone"],
            "tasks": {u: self.task_spec(u) for u in sorted(units)},
        }

    def steps(self, unit: str, llm: bool) -> tuple[str, ...]:
        """Possible steps of a unit's path: with or without those that ask a language model."""
        if not self.c.metapath.max_path:
            return ()
        policy = self.c.metapath
        known = self.at("annotate", self.units if unit in self.masked else self.open)
        known = tuple(u for u in known if u not in self.experts or self.reaches(u, "init"))
        found = possible_steps(unit, known, self.experts, policy.rules, policy.seeds, llm)
        return tuple(u for u in found if u in self.experts or self.task(u).solver == "encoder")

    def seed_config(self, *units: str) -> dict[str, Any]:
        """The seed paths whose facts experts are trained to read, and their order where it can matter."""
        policy = self.c.metapath
        first = {u: policy.seeds.paths(u, self.steps(u, llm=False))[:1] for u in units}
        longer = any(len(path) > 1 for paths in first.values() for path in paths)
        chase = {"chase": policy.rules.chase} if longer else {}
        return {"seed_paths": first[units[0]] if len(units) == 1 else first, **chase}

    def init(self, unit: str) -> None:
        steps = self.steps(unit, llm=False)

        def run(context: Context, shop: Workshop) -> None:
            init.run(
                context,
                shop.questions(context, unit, self.c.backbone),
                {u: shop.unit(context, u) for u in steps},
                steps,
                self.c.metapath,
                self.c.expert,
                self.c.backbone,
                shop.model(self.c.backbone),
                self.c.trainer,
            )

        config = {
            **self.asking(unit),
            "expert": self.spec["expert"],
            "trainer": self.spec["trainer"],
            **self.seed_config(unit),
        }
        self.add("init", unit, init.VERSION, self.unit_inputs(unit, *steps), config, run, trains=True)

    def metapath(self, unit: str) -> None:
        steps = self.steps(unit, llm=True)

        def run(context: Context, shop: Workshop) -> None:
            questions = {u: shop.questions(context, u, self.c.backbone) for u in (unit, *steps)}
            metapath.run(context, questions, unit, steps, self.c.metapath, self.c.backbone, shop.model(self.c.backbone))

        inputs = self.unit_inputs(unit, *steps)
        inputs |= {f"init:{u}": self.adapter("init", u) for u in (unit, *steps) if u in self.experts}
        config = {**self.asking(unit, *steps), "metapath": self.spec["metapath"]}
        self.add("metapath", unit, metapath.VERSION, inputs, config, run)

    def select(self, unit: str) -> None:
        selector = self.c.selector
        without_c = {name: value for name, value in self.spec["selector"].items() if name != "c"}
        proxy = {
            "serializer": self.spec["serializer"],
            "proxy": self.spec["proxy"],
            "weights": self.weights["proxy"],
            "task": self.task_spec(unit),
        }

        def features(context: Context, shop: Workshop) -> None:
            model = shop.model(self.c.proxy) if selector.needs_losses else None
            select.run_features(
                context,
                selector,
                shop.questions(context, unit, self.c.proxy),
                shop.questions(context, unit, self.c.proxy, with_demos=False),
                model,
                shop.embedder(context.inputs["encode"]),
            )

        def influence(context: Context, shop: Workshop) -> None:
            assert isinstance(selector, ScoringSelector)
            select.run_influence(
                context,
                selector,
                shop.questions(context, unit, self.c.proxy),
                self.c.proxy,
                shop.model(self.c.proxy),
                self.c.expert,
                self.c.trainer,
            )

        def pick(context: Context, shop: Workshop) -> None:
            select.run_pick(context, selector, shop.unit(context, unit).data)

        base = {**self.unit_inputs(unit), "metapath": self.get("metapath", unit)}
        needs = {
            "embeddings": selector.needs_features,
            "losses": selector.needs_losses,
            "quality": self.spec["selector"].get("quality", without_c) if selector.needs_losses else None,
        }
        measured = self.add("features", unit, select.VERSION, base, {**proxy, **needs}, features)
        inputs = {**base, "features": measured}
        if selector.needs_influence:
            config = {
                **proxy,
                "selector": without_c,
                "expert": self.spec["expert"],
                "trainer": self.spec["trainer"],
            }
            if isinstance(selector, QuRating):
                config["rater"] = selector.fingerprint()
            inputs["influence"] = self.add("influence", unit, select.VERSION, inputs, config, influence, trains=True)
        self.add("pick", unit, select.VERSION, inputs, {"selector": self.spec["selector"]}, pick)

    def refine(self, unit: str) -> None:
        others = self.at("metapath", self.experts)
        selector = self.c.selector
        # The auxiliary set re-uses what selection measured of the other units' pools.
        reuses = isinstance(self.c.refine, MixtureRefinement) and selector.needs_features
        quality = selector.quality if reuses and isinstance(selector, MeldDS) and selector.needs_losses else None

        def run(context: Context, shop: Workshop) -> None:
            questions = {u: shop.questions(context, u, self.c.backbone) for u in others}
            refine.run(
                context,
                questions,
                unit,
                self.c.refine,
                self.c.expert,
                self.c.backbone,
                shop.model(self.c.backbone),
                self.c.trainer,
                quality.scores if quality is not None else None,
            )

        inputs = self.unit_inputs(*others)
        inputs |= {f"metapath:{u}": self.get("metapath", u) for u in others}
        if reuses:
            inputs |= {f"features:{u}": self.get("features", u) for u in self.at("pick", others) if u != unit}
        inputs["init"] = self.get("init", unit)
        if f"pick:{unit}" in self.nodes:
            inputs["pick"] = self.get("pick", unit)
        config = {
            **self.asking(*others),
            "refine": self.spec["refine"],
            "expert": self.spec["expert"],
            "trainer": self.spec["trainer"],
            "quality": self.spec["selector"]["quality"] if quality is not None else None,
        }
        self.add("refine", unit, refine.VERSION, inputs, config, run, trains=True)

    def refined(self) -> dict[str, Node]:
        """Every expert's adapter, by the name it has as an expert."""
        experts = self.at("refine", self.experts)
        names = (JOINT,) if self.joint and experts else experts
        return {f"refine:{name}": self.get("refine", name) for name in names}

    def router_spec(self, at_inference: bool) -> dict[str, Any]:
        """The router's arguments that enter at inference, or all others."""
        late: frozenset[str] = getattr(self.router, "AT_INFERENCE", frozenset())
        return {name: value for name, value in self.spec["router"].items() if (name in late) == at_inference}

    def route(self) -> None:
        router = self.router
        experts = self.at("refine", self.experts)

        def run(context: Context, shop: Workshop) -> None:
            if router.needs_answers:
                questions = {u: shop.questions(context, u, self.c.backbone) for u in experts}
                model = shop.model(self.c.backbone)
            else:
                questions, model = {}, None
            route.run(
                context,
                questions,
                router,
                self.c.backbone,
                model,
                self.c.trainer,
                getattr(router, "queries_per_unit", 0),
            )

        inputs = {**self.unit_inputs(*experts), **self.refined()}
        inputs |= {f"metapath:{u}": self.get("metapath", u) for u in experts}
        config = {**self.asking(*experts), "router": self.router_spec(False), "trainer": self.spec["trainer"]}
        self.add("route", "suite", route.VERSION, inputs, config, run, trains=True)

    def infer(self, unit: str) -> None:
        if self.task(unit).solver == "encoder":

            def encoder(context: Context, shop: Workshop) -> None:
                infer.run_encoder(context, shop.unit(context, unit))

            self.add("infer", unit, infer.VERSION, self.unit_inputs(unit), {"task": self.task_spec(unit)}, encoder)
            return
        if self.alone:
            alone.add_infer(self, unit)
            return
        steps = self.steps(unit, llm=True)

        def run(context: Context, shop: Workshop) -> None:
            asked = (unit, *(step for step in steps if step in self.experts))
            questions = {u: shop.questions(context, u, self.c.backbone) for u in asked}
            infer.run_llm(
                context,
                questions,
                {u: shop.unit(context, u) for u in steps},
                unit,
                self.c.metapath.rules,
                self.router,
                self.c.mixer,
                self.c.engine,
                self.c.backbone,
                shop.model(self.c.backbone),
                self.exclude,
            )

        inputs = {**self.unit_inputs(unit, *steps), **self.refined()}
        inputs |= {f"register:{n}": self.get("register", n) for n in sorted(self.tree.get("adapters") or {})}
        inputs |= {f"init:{u}": self.adapter("init", u) for u in steps if u in self.experts}
        inputs |= {"route": self.get("route"), "metapath": self.get("metapath", unit)}
        inputs |= self.flags(unit)
        config = {**self.asking(unit, *steps), "mixer": self.spec["mixer"], "engine": self.spec["engine"]}
        late = self.router_spec(True)
        config |= {"router": late} if late else {}
        config |= {"exclude": sorted(self.exclude)} if self.exclude else {}
        self.add("infer", unit, infer.VERSION, inputs, config, run)

    def evaluate(self, unit: str) -> None:
        def baselines(context: Context, shop: Workshop) -> None:
            evaluate.run_baselines(context, shop.embedder(None))

        def run(context: Context, shop: Workshop) -> None:
            evaluate.run(context, context.seed % 2**32)

        data = {"data": self.get("data", unit)}
        config = {"weights": self.weights["encoder"], "max_length": self.c.encoder.max_length}
        simple = self.add("baseline", unit, evaluate.BASELINE_VERSION, data, config, baselines, seed=0)
        inputs = {**data, "gold": self.get("gold", unit), "infer": self.get("infer", unit), "baseline": simple}
        if f"annotate:{unit}" in self.nodes:
            inputs["annotate"] = self.get("annotate", unit)
        # The bootstrap's seed does not depend on the run's, so that intervals of several seeds are comparable.
        self.add("evaluate", unit, evaluate.VERSION, inputs, {}, run, seed=derive("bootstrap", unit))


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
