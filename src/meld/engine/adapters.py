"""Which adapters may be mixed on a base model: the checks that every engine makes before it opens them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meld.backbone.language_model import LanguageModel
from meld.backbone.lora import ADAPTER_WEIGHTS, LoraLayer, lora_layers, read_adapter
from meld.engine.base import check_base
from meld.errors import UserError
from meld.store.keys import file_digest


@dataclass(frozen=True)
class Expert:
    """An adapter that has passed the checks.

    Attributes:
        layers: Its updates by the name of the layer they belong to.
        digest: Identity of its weights.
    """

    layers: dict[str, LoraLayer]
    digest: str


def load_experts(lm: LanguageModel, adapters: Mapping[str, Path]) -> dict[str, Expert]:
    """Read the adapters that are to be mixed on a base model.

    Experts may adapt different layers (an absent update is zero), as long as each has all the layers that its own
    configuration says it has.

    Args:
        lm: The frozen base model.
        adapters: Expert name to adapter folder (PEFT layout).

    Returns:
        The experts in the order given.

    Raises:
        UserError: If there is none; if one was trained on another base, is not plain LoRA (rsLoRA, DoRA, a rank of its
            own for some layers), lacks layers, or has layers that the base does not have or has in another shape; or if
            ranks differ from expert to expert.
    """
    if not adapters:
        raise UserError("There is no expert to open.", fix="give at least one adapter folder")
    modules = lm.modules
    experts = {}
    for name, folder in adapters.items():
        config, _ = read_adapter(folder)
        check_base(name, str(config.get("base_model_name_or_path")), lm)
        layers = {layer.name: layer for layer in lora_layers(folder)}
        _check_layers(name, folder, lm, modules, layers)
        experts[name] = Expert(layers, file_digest(folder / ADAPTER_WEIGHTS))
    ranks = {name: sorted({layer.a.shape[0] for layer in expert.layers.values()}) for name, expert in experts.items()}
    if len({rank for of_one in ranks.values() for rank in of_one}) > 1:
        said = ", ".join(f"{name}: {'/'.join(map(str, of_one))}" for name, of_one in ranks.items())
        raise UserError(
            f"The experts have different ranks ({said}); they cannot be mixed.",
            fix="train them with one expert.rank",
        )
    return experts


def _check_layers(
    name: str, folder: Path, lm: LanguageModel, modules: Mapping[str, Any], layers: Mapping[str, LoraLayer]
) -> None:
    absent = sorted(set(layers) - set(modules))
    if absent:
        raise UserError(
            f"The expert {name!r} adapts layers that {lm.name} does not have, e.g. {absent[0]}.",
            where=str(folder),
            fix="use the base model the expert was trained on",
        )
    missing = sorted(_promised(folder, modules) - set(layers))
    if missing or not layers:
        raise UserError(
            f"The expert {name!r} lacks the updates of {len(missing)} layers that its configuration names"
            f"{f', e.g. {missing[0]}' if missing else ''}: its file is incomplete.",
            where=str(folder),
            fix="write the adapter again (train it again, or copy both its files)",
        )
    for layer_name, layer in layers.items():
        module = modules[layer_name]
        expected = (getattr(module, "out_features", None), getattr(module, "in_features", None))
        found = (layer.b.shape[0], layer.a.shape[1])
        if expected != found:
            raise UserError(
                f"The expert {name!r} updates {layer_name} as a {found[0]} x {found[1]} matrix; "
                f"in {lm.name} it is {expected[0]} x {expected[1]}.",
                where=str(folder),
                fix="use the base model the expert was trained on",
            )


def _promised(folder: Path, modules: Mapping[str, Any]) -> set[str]:
    """Layers of the base that an adapter's own configuration targets, by PEFT's own rule of matching."""
    from peft import LoraConfig
    from peft.tuners.tuners_utils import check_target_module_exists

    config = LoraConfig.from_pretrained(str(folder))
    return {
        name
        for name, module in modules.items()
        if name and hasattr(module, "in_features") and check_target_module_exists(config, name)
    }
