"""``backbone=...``: any Hugging Face causal language model, by folder, hub name or embedded package."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch

from meld.backbone.language_model import LanguageModel
from meld.backbone.weights import explain_load_failure, fingerprint, resolve
from meld.errors import UserError
from meld.progress import quiet_libraries

Decode = Literal["rank", "generate"]
Quantization = Literal["8bit", "4bit"]
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class HuggingFaceBackbone:
    """A recipe for a frozen base model; :meth:`load` makes the model.

    Args:
        path: Folder, hub name or ``embedded:minilm``.
        revision: Hub revision.
        dtype: ``float32`` | ``bfloat16`` | ``float16``.
        max_prompt_tokens: Budget of a rendered prompt (method section 2, Prompt budget).
        max_demos: Demonstrations in a prompt at most; None for as many as were retrieved and fit. 0 suits a model too
            small to learn from them.
        decode: How open answers are found: ``rank`` candidates or ``generate`` and parse.
        max_new_tokens: Length limit of a generated answer.
        lora_targets: Names of the linear layers that get LoRA updates.
        as_decoder: Run a BERT-style encoder as a causal decoder (``is_decoder``); the language-model head's dense
            layer, which such checkpoints lack, starts at the identity.
        layers: Keep the first so many transformer layers of the checkpoint; None for all. A cheap proxy of a model.
        relative: Compare answers by how much experts raise their log-probability over the base model's own. For bases
            whose own preference means nothing, such as a sentence encoder run as a decoder.
        evidence_prior: Add the log-probability that retrieval alone gives an option (``meld.retriever.prior``): the
            experts then correct the evidence instead of learning to read it. For bases too small to do that.
        attention: Attention implementation handed to transformers (``sdpa`` | ``eager``).
        quantization: ``8bit`` (LLM.int8) | ``4bit`` (NF4, doubly quantised, computing in ``dtype``), by bitsandbytes;
            None for weights as they are. The frozen base alone is quantised; adapters are trained in full precision on
            it (QLoRA).
        device: ``auto`` takes a GPU when there is one. Execution only.
        batch_tokens: Token budget of an inference batch. Execution only.
        config_key: Where this recipe stands in the configuration, for messages. Execution only.
    """

    EXECUTION_ONLY: ClassVar[frozenset[str]] = frozenset({"device", "batch_tokens", "config_key", "path", "revision"})
    # path and revision are represented in keys by the fingerprint of the weights instead

    def __init__(
        self,
        path: str,
        revision: str | None = None,
        dtype: str = "float32",
        max_prompt_tokens: int = 1024,
        max_demos: int | None = None,
        decode: Decode = "generate",
        max_new_tokens: int = 64,
        lora_targets: Sequence[str] = ("q_proj", "v_proj"),
        as_decoder: bool = False,
        layers: int | None = None,
        relative: bool = False,
        evidence_prior: bool = False,
        attention: str = "sdpa",
        quantization: Quantization | None = None,
        device: str = "auto",
        batch_tokens: int = 4096,
        config_key: str = "backbone.path",
    ) -> None:
        self.path = path
        self.revision = revision
        self.dtype = dtype
        self.max_prompt_tokens = max_prompt_tokens
        self.max_demos = max_demos
        self.decode = decode
        self.max_new_tokens = max_new_tokens
        self.lora_targets = tuple(lora_targets)
        self.as_decoder = as_decoder
        self.layers = layers
        self.relative = relative
        self.evidence_prior = evidence_prior
        self.attention = attention
        self.quantization = quantization
        self.device = device
        self.batch_tokens = batch_tokens
        self.config_key = config_key

    def fingerprint(self) -> str:
        """Identity of the weights, part of every key that depends on them."""
        return fingerprint(self.path, self.revision)

    def tokenizer(self) -> Any:
        """The tokenizer alone.

        Raises:
            UserError: If the model cannot be found.
        """
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(resolve(self.path), revision=self.revision)
        except (OSError, ValueError) as error:
            raise explain_load_failure(self.path, self.config_key, error) from error

    def load(self) -> LanguageModel:
        """Load the frozen model.

        Returns:
            The model in evaluation mode, all parameters frozen.

        Raises:
            UserError: If the model is neither a folder nor reachable, the number format is unknown, it has fewer layers
                than are to be kept, or quantised weights are asked for where they cannot be had.
        """
        lm = self.open()
        assert lm.model is not None
        return lm

    def open(self) -> LanguageModel:
        """The frozen model, whose weights are loaded when they are first asked for.

        Raises:
            UserError: As :meth:`load`; for weights that cannot be read, when they are asked for.
        """
        number_format(self)
        if self.quantization is not None:
            self._quantised(self._device())
        return LanguageModel(None, self.tokenizer(), name=self.path, relative=self.relative, recipe=self)

    def configuration(self) -> Any:
        """The Transformers configuration the model is made with; no weight is read.

        Raises:
            UserError: If the model cannot be found, or has fewer layers than are to be kept.
        """
        from transformers import AutoConfig

        try:
            config = AutoConfig.from_pretrained(resolve(self.path), revision=self.revision)
        except (OSError, ValueError) as error:
            raise explain_load_failure(self.path, self.config_key, error) from error
        if self.as_decoder:
            config.is_decoder = True
        if self.layers is not None:
            _keep_layers(config, self.layers, self.config_key.rpartition(".")[0] or "backbone")
        return config

    def skeleton(self) -> Any:
        """The model without weights: its modules have names and shapes.

        Raises:
            UserError: As :meth:`configuration`.
        """
        from transformers import AutoModelForCausalLM

        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(
                self.configuration(), dtype=number_format(self), attn_implementation=self.attention
            )

    def load_model(self) -> Any:
        """The model itself, in evaluation mode, all parameters frozen.

        Raises:
            UserError: As :meth:`load`.
        """
        from transformers import AutoModelForCausalLM

        dtype, device = number_format(self), self._device()
        quantised = {} if self.quantization is None else self._quantised(device)
        config = self.configuration()
        try:
            with quiet_libraries():
                loaded: Any = AutoModelForCausalLM.from_pretrained(
                    resolve(self.path),
                    revision=self.revision,
                    config=config,
                    dtype=dtype,
                    attn_implementation=self.attention,
                    output_loading_info=True,
                    **quantised,
                )
        except (OSError, ValueError) as error:
            raise explain_load_failure(self.path, self.config_key, error) from error
        model, info = loaded
        if self.as_decoder and any("predictions.transform.dense" in name for name in info["missing_keys"]):
            _start_head_at_identity(model)
        model.requires_grad_(False)
        model.eval()
        # Quantised weights were put on their device when they were loaded, and may not be moved.
        return model if quantised else model.to(device)

    def _device(self) -> str:
        return ("cuda" if torch.cuda.is_available() else "cpu") if self.device == "auto" else self.device

    def _quantised(self, device: str) -> dict[str, Any]:
        """What ``from_pretrained`` needs to load quantised weights.

        Raises:
            UserError: If the format is unknown, the model is an encoder run as a decoder, or bitsandbytes or a CUDA
                device is missing.
        """
        key = f"{self.config_key.rpartition('.')[0]}.quantization"
        if self.quantization not in ("8bit", "4bit"):
            raise UserError(
                f"{self.quantization!r} is no quantisation.", where=key, fix=f"{key}=8bit, {key}=4bit or {key}=null"
            )
        if self.as_decoder:
            raise UserError(
                "An encoder run as a decoder starts with a head that cannot be made from quantised weights.",
                where=key,
                fix=f"{key}=null; such models are small",
            )
        if not device.startswith("cuda") or not torch.cuda.is_available():
            raise UserError(
                f"{self.quantization} weights need a CUDA device, and {self.path} is to run on {device}.",
                where=key,
                fix=f"{key}=null, or a machine with an NVIDIA GPU and the extra: pip install 'meld-dp[gpu]'",
            )
        if importlib.util.find_spec("bitsandbytes") is None:
            raise UserError(
                f"{self.quantization} weights need the package bitsandbytes, which is not installed.",
                where=key,
                fix=f"pip install 'meld-dp[gpu]', or {key}=null",
            )
        from transformers import BitsAndBytesConfig

        how = BitsAndBytesConfig(
            load_in_8bit=self.quantization == "8bit",
            load_in_4bit=self.quantization == "4bit",
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=_DTYPES[self.dtype],
        )
        return {"quantization_config": how, "device_map": {"": device}}


def number_format(backbone: HuggingFaceBackbone) -> torch.dtype:
    """The number format of a recipe's weights.

    Raises:
        UserError: If it is unknown.
    """
    if backbone.dtype not in _DTYPES:
        raise UserError(
            f"{backbone.dtype!r} is no number format for weights.",
            where=f"{backbone.config_key.rpartition('.')[0]}.dtype",
            fix=f"choose one of {', '.join(_DTYPES)}",
        )
    return _DTYPES[backbone.dtype]


def _keep_layers(config: Any, layers: int, key: str) -> None:
    """Make a configuration describe the model without its later layers; their weights are then not read.

    Raises:
        UserError: If the model does not have so many.
    """
    total = int(config.num_hidden_layers)
    if not 1 <= layers <= total:
        raise UserError(
            f"The model has {total} layers, of which {layers} cannot be kept.",
            where=f"{key}.layers",
            fix=f"1 to {total}",
        )
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = list(config.layer_types)[:layers]


def _start_head_at_identity(model: Any) -> None:
    """Replace the randomly initialised dense layer of a BERT language-model head by the identity.

    Sentence encoders are published without the head; a random layer would also differ from process to process.
    """
    head = model.cls.predictions
    dense = head.transform.dense
    with torch.no_grad():
        dense.weight.copy_(torch.eye(dense.out_features, dense.in_features))
        dense.bias.zero_()
        head.transform.LayerNorm.weight.fill_(1.0)
        head.transform.LayerNorm.bias.zero_()
        head.bias.zero_()
        if getattr(head, "decoder", None) is not None and head.decoder.bias is not None:
            head.decoder.bias.zero_()
