"""The components of a configuration, built from their options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from meld.annotator.base import Annotator
from meld.backbone.huggingface import HuggingFaceBackbone
from meld.config.build import build
from meld.encoder.contrastive import ContrastiveEncoder
from meld.engine.base import Engine
from meld.expert.lora import LoraExpert
from meld.metapath.base import MetaPathPolicy
from meld.refine.base import Refiner
from meld.retriever.base import Retriever
from meld.router.base import Router
from meld.selector.base import Selector
from meld.serializer.base import Serializer
from meld.stages.panel import Mixer
from meld.trainer.fit import LightningTrainer


@dataclass(frozen=True)
class Components:
    """Everything the configuration builds, apart from datasets and tasks."""

    serializer: Serializer
    encoder: ContrastiveEncoder
    retriever: Retriever
    annotator: Annotator
    backbone: HuggingFaceBackbone
    proxy: HuggingFaceBackbone
    expert: LoraExpert
    metapath: MetaPathPolicy
    selector: Selector
    refine: Refiner
    router: Router
    mixer: Mixer
    engine: Engine
    trainer: LightningTrainer


def build_components(tree: Mapping[str, Any]) -> Components:
    """Build the components of a configuration.

    Args:
        tree: The resolved configuration as plain containers.
    """
    allow = tuple(tree.get("allow") or ())
    names = list(Components.__dataclass_fields__)
    built = {name: build(tree[name], allow=allow, place=name) for name in names}
    return Components(**built)
