"""How much memory training an expert and answering with all experts will take, before any weight is loaded.

What stays, in bytes (P parameters of the base, A of one adapter, n experts, e bytes of the base's number format):

* weights: P e; under ``4bit`` a linear layer takes 0.5 + 1 / 64 + 4 / (64 * 256) per weight (NF4 with doubly
  quantised scales), under ``8bit`` 1 per weight and 4 per output row;
* training: adapter 4 A, gradients 4 A, AdamW's two moments 8 A (adapters are trained in fp32 whatever the base is in);
* answering: experts n A e, and where answers are written a cache of 2 * layers * kv_heads * head_dim * e per token.

What comes and goes (activations, logits, masks, gradients on the way) is not put into a formula of each architecture:
the step itself is run, by the code that trains and answers, on tensors that have a shape and no content
(``FakeTensorMode``), and the bytes of all tensors alive are counted after every operation. Not seen are temporary
memory inside a kernel and what an allocator keeps in reserve.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from meld.backbone.huggingface import HuggingFaceBackbone, number_format
from meld.backbone.language_model import Encoded, LanguageModel
from meld.backbone.lora import attach_lora, lora_parameters, train_adapter
from meld.backbone.weights import explain_load_failure, resolve

CONSUMER_GPU = 24 * 2**30
"""One consumer GPU of at most 24 GB: what *low-resource* means (method section 1)."""


_DEEP = 6
"""Layers up to which a step is run at full depth; deeper models repeat the same layer."""


@dataclass(frozen=True)
class MemoryPlan:
    """A prediction of peak memory.

    Attributes:
        what: What it is about, for display.
        batch: Rows of the batch.
        tokens: Tokens of each row, prompt and answers.
        parts: Bytes by what they are for.
    """

    what: str
    batch: int
    tokens: int
    parts: Mapping[str, int]

    @property
    def total(self) -> int:
        """Predicted peak in bytes."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class Shape:
    """Of what size a batch is assumed to be.

    Attributes:
        batch: Rows.
        prompt: Tokens of every prompt.
        answers: Tokens of each answer to a prompt; one answer per entry.
    """

    batch: int
    prompt: int
    answers: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Tokens of a row."""
        return self.prompt + sum(self.answers)

    def items(self) -> list[Encoded]:
        """A batch of this size."""
        options = tuple((3,) * max(1, length) for length in self.answers)
        return [Encoded((3,) * self.prompt, options)] * self.batch


def training_plan(
    backbone: HuggingFaceBackbone,
    shape: Shape,
    rank: int,
    dropout: float = 0.0,
    checkpointing: bool = False,
    precision: str = "32-true",
    config: Any = None,
) -> MemoryPlan:
    """Peak memory of training an expert.

    Args:
        backbone: The recipe of the base model; only its configuration is read.
        shape: One batch on one device.
        rank: LoRA rank.
        dropout: Dropout on the adapter's input.
        checkpointing: Whether layers are computed again in the backward pass.
        precision: The trainer's precision; ``*-mixed`` computes in half precision.
        config: A Transformers configuration, instead of the one that ``backbone.path`` names.

    Raises:
        UserError: If the model's configuration cannot be had, or it has no layer that is to be adapted.
    """
    half = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)

    def step(layers: int) -> int:
        wrapped = attach_lora(_sized(backbone, config, layers), backbone.lora_targets, rank, rank, dropout, 0)
        train_adapter(wrapped, checkpointing)
        with _without_content(wrapped.model, torch.float32), _Live() as live:
            with nullcontext() if half is None else torch.autocast("cpu", half):
                scores = wrapped.option_log_probs(shape.items())
                loss = torch.stack([row.log_softmax(0)[0] for row in scores]).mean()
            loss.backward()
        return int(live.peak)

    config = _configuration(backbone) if config is None else config
    base = _sized(backbone, config)
    weights = weight_bytes(base.model, number_format(backbone), backbone.quantization)
    wrapped = attach_lora(base, backbone.lora_targets, rank, rank, dropout, 0)
    trained = sum(p.numel() for p in lora_parameters(wrapped).values())
    parts = {
        "weights": weights,
        "adapter": 4 * trained,
        "gradients": 4 * trained,
        "optimizer": 8 * trained,
        "activations": _by_depth(step, config.num_hidden_layers),
    }
    return MemoryPlan("train an expert", shape.batch, shape.tokens, parts)


def inference_plan(
    backbone: HuggingFaceBackbone, shape: Shape, rank: int, experts: int, writes: int = 0, config: Any = None
) -> MemoryPlan:
    """Peak memory of answering with all experts on the base model (``engine=stacked``).

    Args:
        backbone: The recipe of the base model; only its configuration is read.
        shape: One batch.
        rank: LoRA rank of an expert.
        experts: How many experts there are.
        writes: Tokens that are written to each prompt; 0 where options are ranked.
        config: A Transformers configuration, instead of the one that ``backbone.path`` names.

    Raises:
        UserError: If the model's configuration cannot be had, or it has no layer that is to be adapted.
    """
    dtype = number_format(backbone)

    def with_experts(base: LanguageModel) -> LanguageModel:
        # One adapter of the summed rank does what the stack does: the same two products.
        return attach_lora(base, backbone.lora_targets, rank * experts, rank, 0.0, 0)

    def batch(layers: int) -> int:
        wrapped = with_experts(_sized(backbone, config, layers))
        wrapped.model.eval()
        with _without_content(wrapped.model, dtype), _Live() as live, torch.no_grad():
            wrapped.option_log_probs(shape.items())
        return int(live.peak)

    config = _configuration(backbone) if config is None else config
    base = _sized(backbone, config)
    weights = weight_bytes(base.model, dtype, backbone.quantization)
    held = sum(p.numel() for p in lora_parameters(with_experts(base)).values()) * dtype.itemsize
    parts = {"weights": weights, "experts": held, "activations": _by_depth(batch, config.num_hidden_layers)}
    if writes:
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        per_token = 2 * config.num_hidden_layers * heads * width * dtype.itemsize
        parts["cache"] = shape.batch * (shape.prompt + writes) * per_token
    return MemoryPlan("answer with all experts", shape.batch, shape.tokens, parts)


def weight_bytes(model: nn.Module, dtype: torch.dtype, quantization: str | None) -> int:
    """Bytes of a model's weights in a number format, with or without quantised linear layers.

    Tied weights count once; the embedding and the language-model head are never quantised.
    """
    head = getattr(model, "get_output_embeddings", lambda: None)()
    quantised = {
        id(module.weight): module.weight
        for module in model.modules()
        if quantization is not None and isinstance(module, nn.Linear) and module is not head
    }
    total = 0.0
    for parameter in model.parameters():
        if id(parameter) not in quantised:
            total += parameter.numel() * (dtype.itemsize if parameter.is_floating_point() else parameter.element_size())
        elif quantization == "4bit":
            total += parameter.numel() * (0.5 + 1 / 64 + 4 / (64 * 256))
        else:
            total += parameter.numel() + 4 * parameter.shape[0]
    return round(total)


def _by_depth(peak: Callable[[int], int], layers: int) -> int:
    """The peak at a number of layers; for deep models from what the second pair of four layers adds.

    Args:
        peak: Runs the step at a number of layers.
        layers: How many there are.
    """
    if layers <= _DEEP:
        return peak(layers)
    two, four = peak(2), peak(4)
    return four + (layers - 4) * (four - two) // 2


def _configuration(backbone: HuggingFaceBackbone) -> Any:
    """The model's configuration; no weight is read."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(resolve(backbone.path), revision=backbone.revision)
    except (OSError, ValueError) as error:
        raise explain_load_failure(backbone.path, backbone.config_key, error) from error


def _sized(backbone: HuggingFaceBackbone, config: Any, layers: int | None = None) -> LanguageModel:
    """The model on the meta device, with all its layers or some."""
    from transformers import AutoModelForCausalLM

    config = copy.deepcopy(config)
    if backbone.as_decoder:
        config.is_decoder = True
    if layers is not None:
        config.num_hidden_layers = layers
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            config, dtype=number_format(backbone), attn_implementation=backbone.attention
        )
    model.requires_grad_(False)
    model.eval()
    ids = SimpleNamespace(eos_token_id=2, bos_token_id=1, pad_token_id=0)
    return LanguageModel(model, ids, backbone.path)


@contextmanager
def _without_content(model: nn.Module, adapter_dtype: torch.dtype) -> Iterator[None]:
    """The block in which a model on the meta device has CPU tensors without content, so that CPU kernels are chosen.

    Args:
        model: A model with an adapter; not usable afterwards.
        adapter_dtype: Number format of the adapter.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    made: dict[int, Tensor] = {}
    with FakeTensorMode():
        for name, module in model.named_modules():
            for slot in (module._parameters, module._buffers):
                for key, tensor in slot.items():
                    if tensor is None:
                        continue
                    if id(tensor) not in made:  # tied weights stay tied
                        dtype = adapter_dtype if "lora_" in name else tensor.dtype
                        empty = torch.empty(tensor.shape, dtype=dtype, device="cpu")
                        parameter = isinstance(tensor, nn.Parameter)
                        made[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if parameter else empty
                    slot[key] = made[id(tensor)]
        yield


class _Live(TorchDispatchMode):
    """Counts the bytes of all tensors that the operations of its block have made and that are still alive.

    Attributes:
        now: Bytes alive.
        peak: The most there were at a time.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Views, and what was there before, share a storage with an argument: they are not new memory.
        old = {leaf.untyped_storage()._cdata for leaf in _tensors((args, kwargs))}
        out = func(*args, **(kwargs or {}))
        for leaf in _tensors(out):
            storage = leaf.untyped_storage()
            key = storage._cdata
            if key not in old and key not in self._known:
                size = storage.nbytes()
                self._known.add(key)
                self.now += size
                weakref.finalize(storage, self._gone, key, size)
        self.peak = max(self.peak, self.now)
        return out

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def _tensors(tree: Any) -> Sequence[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def over_budget(plan: MemoryPlan, device_bytes: int | None, device: str) -> str:
    """A warning if a plan does not fit a device, or one consumer GPU; empty if it does.

    Args:
        plan: The prediction.
        device_bytes: Memory of the device it is to run on; None if there is none to ask.
        device: Its name, for the message.
    """
    need = f"{plan.total / 2**30:.1f} GB are predicted to {plan.what}"
    if device_bytes is not None and plan.total > device_bytes:
        return f"{need}, and {device} has {device_bytes / 2**30:.1f} GB"
    if plan.total > CONSUMER_GPU:
        return f"{need}, more than the {CONSUMER_GPU / 2**30:.0f} GB of one consumer GPU"
    return ""
