"""The components of a bundle, by option name: a fixed table, so that a bundle can name no class of its own."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from meld.errors import UserError

KNOWN: Mapping[str, Mapping[str, str]] = {
    "serializer": {
        "json_dict": "meld.serializer.json_dict.JsonDict",
        "col_val": "meld.serializer.col_val.ColVal",
        "sentences": "meld.serializer.sentences.Sentences",
    },
    "encoder": {"contrastive": "meld.encoder.contrastive.ContrastiveEncoder"},
    "retriever": {
        "bm25": "meld.retriever.bm25.Bm25Retriever",
        "dense": "meld.retriever.dense.DenseRetriever",
        "hybrid": "meld.retriever.hybrid.HybridRetriever",
        "none": "meld.retriever.none.NoRetriever",
        "random": "meld.retriever.random.RandomRetriever",
    },
    "backbone": {"huggingface": "meld.backbone.huggingface.HuggingFaceBackbone"},
    "router": {
        "contrastive": "meld.router.contrastive.ContrastiveRouter",
        "classifier": "meld.router.classifier.ClassifierRouter",
        "arrow": "meld.router.arrow.ArrowRouter",
        "own": "meld.router.fixed.OwnExpert",
        "uniform": "meld.router.fixed.Uniform",
    },
    "mixer": {
        "cat": "meld.mixer.mixers.CatMixer",
        "svd": "meld.mixer.mixers.SvdMixer",
        "logits": "meld.mixer.mixers.LogitsMixer",
        "top1": "meld.mixer.mixers.Top1Mixer",
        "peft": "meld.mixer.mixers.PeftMixer",
    },
    "engine": {
        "stacked": "meld.engine.stacked.StackedEngine",
        "hf": "meld.engine.hf.HuggingFaceEngine",
        "vllm": "meld.engine.vllm.VllmEngine",
    },
    "task": {
        "em": "meld.task.em.EntityMatching",
        "blk": "meld.task.blk.Blocking",
        "di": "meld.task.di.Imputation",
        "ed": "meld.task.ed.ErrorDetection",
        "dc": "meld.task.dc.DataCleaning",
        "cta": "meld.task.cta.ColumnTypeAnnotation",
        "re": "meld.task.re.RelationExtraction",
        "el": "meld.task.el.EntityLinking",
        "sm": "meld.task.sm.SchemaMatching",
        "ave": "meld.task.ave.AttributeValueExtraction",
    },
}
"""Kind of component to option name to class. The openai engine is not among them: a bundle from elsewhere could name an
address, and the key in the environment would be sent there."""

_OF_MACHINE = frozenset({"cache"})
"""Arguments that name places on a machine: never recorded, and never taken from a record."""

PARTS = ("serializer", "encoder", "retriever", "backbone", "router", "mixer", "engine")
"""The components that answer queries, besides the tasks."""


def describe(kind: str, node: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration node as a bundle records it: ``{"option": name, "arguments": {...}}``.

    Args:
        kind: A key of :data:`KNOWN`.
        node: A node with ``_target_``.

    Raises:
        UserError: If the component is not one of MELD's own.
    """
    target = node["_target_"]
    option = next((name for name, known in KNOWN[kind].items() if known == target), None)
    if option is None:
        raise UserError(
            f"The {kind} of this run is {target}, and a bundle can only name MELD's own components.",
            where=kind,
            fix=f"train with one of {', '.join(KNOWN[kind])}",
        )
    arguments = {name: value for name, value in node.items() if not name.startswith("_") and name not in _OF_MACHINE}
    return {"option": option, "arguments": arguments}


def make(kind: str, spec: object, **given: Any) -> Any:
    """Build a component from what :func:`describe` recorded.

    Args:
        kind: A key of :data:`KNOWN`.
        spec: The record.
        **given: Arguments of this machine's own, in the place of recorded ones.

    Raises:
        UserError: If the record names no known option, has arguments that are not plain data or that the option does
            not take.
    """
    if not isinstance(spec, Mapping) or set(spec) != {"option", "arguments"} or not isinstance(spec["arguments"], dict):
        raise _broken(kind, "is not an option with its arguments")
    target = KNOWN[kind].get(str(spec["option"]))
    if target is None:
        raise _broken(kind, f"names the unknown option {spec['option']!r}")
    module, _, name = target.rpartition(".")
    component = getattr(importlib.import_module(module), name)
    arguments = {**{n: v for n, v in spec["arguments"].items() if n not in _OF_MACHINE}, **given}
    known = inspect.signature(component).parameters
    for argument, value in arguments.items():
        if argument not in known:
            raise _broken(kind, f"gives {spec['option']} the argument {argument!r}, which it does not take")
        if not _plain(value):
            raise _broken(kind, f"gives {spec['option']} an argument {argument!r} that is not plain data")
    try:
        return component(**arguments)
    except (TypeError, ValueError) as error:
        raise _broken(kind, f"cannot be built: {error}") from error


def _plain(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def _broken(kind: str, what: str) -> UserError:
    return UserError(
        f"The bundle's {kind} {what}.",
        where=f"manifest.json, {kind}",
        fix="export the run again with the version of meld that is installed here",
    )
