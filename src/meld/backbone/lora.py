"""LoRA updates of a frozen model: attaching, listing, saving and loading them in PEFT's own layout."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from meld.backbone.language_model import Encoded, LanguageModel
from meld.errors import UserError

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"

_NOT_PLAIN = (
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
    "lora_bias",
    "use_qalora",
    "use_bdlora",
    "alora_invocation_tokens",
    "trainable_token_indices",
    "target_parameters",
    "layer_replication",
)
"""Settings of PEFT under which an adapter is more than one update B A per layer, all of one rank and scale."""


@dataclass(frozen=True)
class LoraLayer:
    """One low-rank update: delta W = scale * B @ A.

    Attributes:
        name: Module name of the linear layer in the base model.
        a: Shape (rank, d_in).
        b: Shape (d_out, rank).
        scale: alpha / rank.
    """

    name: str
    a: Tensor
    b: Tensor
    scale: float


def attach_lora(
    lm: LanguageModel, targets: Sequence[str], rank: int, alpha: float, dropout: float, seed: int
) -> LanguageModel:
    """Wrap the model with one fresh, trainable LoRA adapter (zero update at the start).

    Args:
        lm: A frozen model; its linear layers are wrapped in place.
        targets: Names (suffixes) of the linear layers to adapt.
        rank: Rank r of the updates.
        alpha: Scale numerator; the update is multiplied by alpha / r.
        dropout: Dropout on the adapter's input during training.
        seed: Seeds the initialisation of A.

    Returns:
        A language model over the same weights whose trainable parameters are the adapter's.

    Raises:
        UserError: If no layer of the model has one of the target names.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # declared int, used as a factor
        lora_dropout=dropout,
        target_modules=list(targets),
        bias="none",
        task_type=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            wrapped = get_peft_model(lm.model, config)
        except ValueError as error:
            raise UserError(
                f"None of the LoRA targets {list(targets)} is a layer of {lm.name}.",
                where="backbone.lora_targets",
                fix=f"name linear layers of this architecture ({str(error).splitlines()[0][:160]})",
            ) from error
    return LanguageModel(wrapped, lm.tokenizer, lm.name, lm.relative)


def check_targets(lm: LanguageModel, targets: Sequence[str], key: str) -> None:
    """Check that every LoRA target is a linear layer of a model.

    Args:
        lm: The model.
        targets: Names (suffixes) of layers.
        key: Where the targets stand in the configuration.

    Raises:
        UserError: Naming the targets that are missing, and layers that are there.
    """
    linear = [name for name, module in lm.model.named_modules() if isinstance(module, nn.Linear)]
    missing = [t for t in targets if not any(name == t or name.endswith(f".{t}") for name in linear)]
    if missing or not targets:
        known = sorted({name.rpartition(".")[2] for name in linear})
        raise UserError(
            f"{lm.name} has no linear layers named {', '.join(missing) or 'anything: no target is given'}.",
            where=key,
            fix=f"{key}=[...] with some of: {', '.join(known)}",
        )


def detach_lora(lm: LanguageModel) -> LanguageModel:
    """Take the adapter off again, so that the base model can be used for the next one.

    Args:
        lm: What :func:`attach_lora` returned.

    Returns:
        The base model, unwrapped and in evaluation mode.
    """
    base = lm.model.unload()
    if getattr(base, "is_gradient_checkpointing", False):
        base.gradient_checkpointing_disable()
    base.eval()  # training may have been cut short by an error, and dropout would stay on
    return LanguageModel(base, lm.tokenizer, lm.name, lm.relative)


@contextmanager
def with_lora(
    lm: LanguageModel, targets: Sequence[str], rank: int, alpha: float, dropout: float, seed: int
) -> Iterator[LanguageModel]:
    """:func:`attach_lora` for the length of a block; the base model is clean again afterwards, also after an error."""
    wrapped = attach_lora(lm, targets, rank, alpha, dropout, seed)
    try:
        yield wrapped
    finally:
        detach_lora(wrapped)


def lora_parameters(lm: LanguageModel) -> dict[str, nn.Parameter]:
    """The adapter's trainable parameters by name, in a stable order."""
    return {name: parameter for name, parameter in sorted(lm.model.named_parameters()) if parameter.requires_grad}


def train_adapter(lm: LanguageModel, checkpointing: bool = False) -> None:
    """Put the adapter into training mode and leave the frozen base in evaluation mode.

    The base then computes in training what it computes in inference; dropout acts on the adapter's input alone. (The
    papers' decoders have no dropout of their own; BERT-style ones do, which would also double the time of a step.)

    Args:
        lm: What :func:`attach_lora` returned.
        checkpointing: Keep only the input of every layer for the backward pass and compute the rest of it again there.
            The gradients are the same. :func:`detach_lora` switches it off.

    Raises:
        UserError: If the architecture does not support checkpointing.
    """
    lm.model.eval()
    for name, module in lm.model.named_modules():
        if "lora_" in name:
            module.train()
    if not checkpointing:
        return
    base = lm.model.get_base_model()
    try:
        base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    except ValueError as error:
        raise UserError(
            f"{lm.name} does not support gradient checkpointing.",
            where="expert.gradient_checkpointing",
            fix="expert.gradient_checkpointing=false, and a smaller expert.batch_size with expert.accumulate",
        ) from error
    for module in base.modules():
        # Layers checkpoint in training mode only. The flag of the layer itself is enough, and what has dropout inside
        # it stays in evaluation mode.
        if getattr(module, "gradient_checkpointing", False) and hasattr(module, "_gradient_checkpointing_func"):
            module.training = True


def label_nll(lm: LanguageModel, batch: Sequence[Encoded]) -> Tensor:
    """Mean negative log-likelihood per answer token of the *first* option of each item, its end included.

    Only answer tokens are scored; the prompt's vocabulary logits are never built.

    Args:
        lm: The model.
        batch: Encoded prompts; ``options[0]`` is the label.

    Returns:
        Shape (batch,), in nats per token; its exponential is the label's perplexity.
    """
    only_label = [Encoded(item.prompt, item.options[:1]) for item in batch]
    totals = torch.stack([scores[0] for scores in lm.option_log_probs(only_label)])
    lengths = torch.tensor([len(item.options[0]) for item in batch], device=totals.device, dtype=totals.dtype)
    return -totals / lengths


def adapter_state(lm: LanguageModel) -> dict[str, Tensor]:
    """A copy of the adapter's weights under PEFT's file names, on the CPU; further training does not change it."""
    from peft import get_peft_model_state_dict

    state: dict[str, Tensor] = get_peft_model_state_dict(lm.model)
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in sorted(state.items())}


def set_adapter_state(lm: LanguageModel, state: dict[str, Tensor]) -> None:
    """Load adapter weights into a model that :func:`attach_lora` wrapped.

    Raises:
        UserError: If the weights do not fit the wrapped layers (another base model, rank or target list).
    """
    from peft import set_peft_model_state_dict

    expected = {name: tensor.shape for name, tensor in adapter_state(lm).items()}
    given = {name: tensor.shape for name, tensor in state.items()}
    if expected != given:
        odd = sorted(set(expected) ^ set(given)) or sorted(n for n in expected if expected[n] != given[n])
        raise UserError(
            f"The adapter does not fit {lm.name}: {len(odd)} tensors differ, the first is {odd[0]}.",
            fix="use an adapter trained on this base model with the same rank and target layers",
        )
    set_peft_model_state_dict(lm.model, state)


def save_adapter(lm: LanguageModel, folder: Path) -> None:
    """Write the adapter in PEFT's layout (``adapter_config.json``, ``adapter_model.safetensors``).

    The base model is recorded by its portable name, so that the files do not depend on where weights lie.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = next(iter(lm.model.peft_config.values())).to_dict()
    config["base_model_name_or_path"] = lm.name
    config["inference_mode"] = True
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    (folder / ADAPTER_CONFIG).write_text(json.dumps(plain, indent=2, sort_keys=True, default=str) + "\n")
    save_file(adapter_state(lm), folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})


def read_adapter(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read an adapter's configuration and weights.

    Raises:
        UserError: If the folder holds no adapter in PEFT's layout.
    """
    config, weights = folder / ADAPTER_CONFIG, folder / ADAPTER_WEIGHTS
    if not config.is_file() or not weights.is_file():
        raise UserError(
            f"{folder} holds no adapter.",
            fix=f"give a folder with {ADAPTER_CONFIG} and {ADAPTER_WEIGHTS} (PEFT layout)",
        )
    return json.loads(config.read_text()), load_file(weights)


def lora_layers(folder: Path) -> list[LoraLayer]:
    """An adapter's updates, layer by layer.

    Raises:
        UserError: If the adapter is not a plain LoRA of one rank and scale (rsLoRA and DoRA updates are not additive at
            these scales), trains more than its low-rank updates, or lacks one factor of an update.
    """
    config, state = read_adapter(folder)
    if config.get("use_rslora") or config.get("use_dora"):
        raise UserError(
            f"The adapter in {folder} uses rsLoRA or DoRA, whose updates cannot be summed.",
            fix="train it as plain LoRA",
        )
    uneven = [key for key in _NOT_PLAIN if config.get(key)]
    if config.get("bias", "none") != "none":
        uneven.append("bias")
    if uneven:
        raise UserError(
            f"The adapter in {folder} is not one low-rank update per layer at one scale ({', '.join(uneven)} set).",
            fix="train it as plain LoRA, with one rank and alpha for all layers and no other trained weights",
        )
    scale = float(config["lora_alpha"]) / int(config["r"])
    prefix = "base_model.model."
    layers = []
    for name in sorted(state):
        if not name.endswith(".lora_A.weight"):
            continue
        stem = name.removesuffix(".lora_A.weight")
        if f"{stem}.lora_B.weight" not in state:
            raise UserError(
                f"The adapter in {folder} has only one factor of the update of {stem.removeprefix(prefix)}.",
                fix="write the adapter again: its file is incomplete",
            )
        layers.append(LoraLayer(stem.removeprefix(prefix), state[name], state[f"{stem}.lora_B.weight"], scale))
    return layers
