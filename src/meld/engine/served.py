"""Experts on a vLLM server: ``engine=openai`` with ``adapters=served`` or ``loaded``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meld.backbone.language_model import Encoded, LanguageModel
from meld.engine.adapters import Expert
from meld.engine.asking import Asker, Job
from meld.engine.endpoint import Endpoint
from meld.engine.mixture_files import NOTHING, MixtureFolder, Shares, in_turns, shares_of
from meld.errors import UserError
from meld.mixer.combination import CAT, mixture_name
from meld.types import Prompt


def check_served(endpoint: Endpoint, names: Sequence[str]) -> None:
    """Check that a server has models and adapters under these names.

    Raises:
        UserError: Naming those that it has not, and those that it has.
    """
    listed = endpoint.get("/models")
    data = listed.get("data", []) if isinstance(listed, dict) else []
    there = {str(entry.get("id")) for entry in data if isinstance(entry, dict)}
    absent = [name for name in names if name not in there]
    if absent:
        raise UserError(
            f"The server does not have {', '.join(absent)}; it has {', '.join(sorted(there)) or 'nothing'}.",
            where=f"{endpoint.url}/models",
            fix="vllm serve MODEL --enable-lora --lora-modules NAME=FOLDER ... with every expert (docs/engines.md)",
        )


class ServedMixtures:
    """A vLLM server with experts.

    Args:
        lm: The language model, for tokenising.
        asker: Sends requests.
        model: The base model's name at the server.
        experts: Checked experts by name.
        folder: Where mixtures are written for the server to load; None if it has the experts by name.
    """

    def __init__(
        self,
        lm: LanguageModel,
        asker: Asker,
        model: str,
        experts: Mapping[str, Expert],
        folder: MixtureFolder | None,
    ) -> None:
        self.experts = tuple(experts)
        self.lm = lm
        self.rows_at_once = 512
        self._known = dict(experts)
        self._asker = asker
        self._model = model
        self._folder = folder
        self._loaded: set[str] = set()

    def option_log_probs(self, batch: Sequence[Encoded], gates: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """Total log-probabilities of each item's options under its own mixture."""
        asked = [
            (item.prompt, option, shares_of(self.experts, row))
            for item, row in zip(batch, gates, strict=True)
            for option in item.options
        ]
        bodies = [{"prompt": [*p, *o], "max_tokens": 1, "prompt_logprobs": 0} for p, o, _ in asked]
        replies = self._run(bodies, [shares for _, _, shares in asked], [len(option) for _, option, _ in asked])
        scores = iter([_score(reply, option) for reply, (_, option, _) in zip(replies, asked, strict=True)])
        return [np.array([next(scores) for _ in item.options]) for item in batch]

    def generate(self, prompts: Sequence[Prompt], gates: NDArray[np.float64], max_new_tokens: int) -> list[str]:
        """Texts written greedily, each under its own mixture."""
        how = {
            "max_tokens": max_new_tokens,
            "stop_token_ids": [self.lm.end_id],
            "ignore_eos": True,
            "skip_special_tokens": True,
            "return_token_ids": True,
        }
        bodies = [{"prompt": list(self.lm.encode(prompt, ()).prompt), **how} for prompt in prompts]
        replies = self._run(bodies, [shares_of(self.experts, row) for row in gates], [0] * len(bodies))
        return [
            str(self.lm.tokenizer.decode(reply["token_ids"], skip_special_tokens=True))
            if "token_ids" in reply
            else str(reply["text"])
            for reply in replies
        ]

    def close(self) -> None:
        """Take the mixtures out of the server's memory."""
        for name in sorted(self._loaded):
            self._unload(name)
        if self._folder is not None:
            self._folder.close()
        self._asker.endpoint.close()

    def _run(
        self, bodies: Sequence[Mapping[str, Any]], shares: Sequence[Shares], scored: Sequence[int]
    ) -> list[Mapping[str, Any]]:
        out: list[Mapping[str, Any]] = [{}] * len(bodies)
        limit = len(bodies) if self._folder is None else self._folder.limit
        for some, rows in in_turns(shares, limit):
            names = {one: self._name(one) for one in some}
            jobs = [self._job({"model": names[shares[row]], **bodies[row]}, shares[row], scored[row]) for row in rows]
            for row, reply in zip(rows, self._asker.run(jobs), strict=True):
                out[row] = reply
        return out

    def _job(self, body: Mapping[str, Any], shares: Shares, scored: int) -> Job:
        # Adapters are known by content in the file of answers: a name outlives a training.
        identity = mixture_name([(self._known[expert].digest, gate) for expert, gate in shares], CAT) if shares else ""
        whole = {**body, "temperature": 0.0, "seed": 0}
        size, writes = len(body["prompt"]), int(body["max_tokens"])
        return Job("/completions", whole, f"{self.lm.name} {identity}", size, writes, scored)

    def _name(self, shares: Shares) -> str:
        """Under which name the server answers with a mixture; loaded now if it is not there."""
        if self._folder is None:
            if not shares:
                return self._model
            if len(shares) == 1 and shares[0][1] == 1.0:
                return shares[0][0]
            raise UserError(
                f"A server that has the experts by name cannot mix them ({', '.join(e for e, _ in shares)}).",
                where="engine.adapters",
                fix="engine.adapters=loaded, or mixer=top1 or mixer=logits",
            )
        if not shares:
            # As in engine=vllm: a row without an adapter would get another one's where the server runs on a CPU.
            return self._load(NOTHING, self._folder.nothing(self._known.values()))
        name, place, gone = self._folder.get([(self._known[expert], gate) for expert, gate in shares])
        for old in gone:
            self._unload(old)
        return self._load(name, place)

    def _load(self, name: str, place: Path) -> str:
        if name not in self._loaded:
            try:
                self._asker.endpoint.post("/load_lora_adapter", {"lora_name": name, "lora_path": str(place)})
            except UserError as error:
                if "already" not in str(error):
                    raise UserError(
                        error.what,
                        where=error.where,
                        fix="start the server with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1, --enable-lora and a "
                        "--max-lora-rank of k * expert.rank or more, on a machine that can read engine.cache",
                    ) from error
            self._loaded.add(name)
        return name

    def _unload(self, name: str) -> None:
        self._loaded.discard(name)
        try:
            self._asker.endpoint.post("/unload_lora_adapter", {"lora_name": name})
        except UserError:
            return  # the server may have been restarted: it is gone


def _score(reply: Mapping[str, Any], answer: Sequence[int]) -> float:
    """Sum of the log-probabilities of an answer's tokens."""
    return float(sum(told[str(token)]["logprob"] for told, token in zip(reply["log_probs"], answer, strict=True)))
