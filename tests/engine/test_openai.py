"""The openai engine against a server in this process: no network, and every way in which an endpoint can misbehave."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from meld.backbone.language_model import Encoded, LanguageModel
from meld.engine.answer_log import AnswerLog
from meld.engine.base import AloneEngine, WritesOnly, asks_alone
from meld.engine.endpoint import Endpoint, is_local
from meld.engine.hf import HuggingFaceEngine
from meld.engine.openai import OpenAIEngine
from meld.engine.stacked import StackedEngine
from meld.errors import UserError
from meld.types import Prompt

Fresh = Callable[..., LanguageModel]
Adapters = Callable[..., dict[str, Path]]
Answer = Callable[[str, dict[str, Any]], tuple[int, Any, dict[str, str]]]

SECRET = "sk-very-secret-0123456789"


class Server:
    """A server on this machine that answers as it is told and remembers what it was asked.

    Attributes:
        url: Its root.
        seen: Path, body and headers of every request, in order.
        answer: Makes status, content and headers from path and body.
        most: Requests under way at once, at most.
    """

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, Any], Mapping[str, str]]] = []
        self.answer: Answer = lambda path, body: (200, chat("match"), {})
        self.most = self._now = 0
        lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._handle({})

            def do_POST(self) -> None:
                self._handle(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def _handle(self, body: dict[str, Any]) -> None:
                with lock:
                    outer.seen.append((self.path, body, dict(self.headers)))
                    outer._now += 1
                    outer.most = max(outer.most, outer._now)
                status, content, headers = outer.answer(self.path, body)
                with lock:
                    outer._now -= 1
                sent = content.encode() if isinstance(content, str) else json.dumps(content).encode()
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(sent))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(sent)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()


def chat(text: str | None, tokens: tuple[int, int] = (100, 10)) -> dict[str, Any]:
    usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}
    return {"choices": [{"message": {"role": "assistant", "content": text}}], "usage": usage}


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.stop()


@pytest.fixture
def lm(fresh: Fresh) -> LanguageModel:
    return fresh("llama")


def prompts(n: int) -> list[Prompt]:
    return [Prompt(str(i), f"question {i}") for i in range(n)]


def ask_alone(engine: OpenAIEngine, lm: LanguageModel, asked: list[Prompt]) -> list[str]:
    model = engine.open_alone(lm)
    try:
        return model.generate(asked, np.zeros((len(asked), 0)), 7)
    finally:
        model.close()


def quick(server: Server, folder: Path, **more: Any) -> OpenAIEngine:
    return OpenAIEngine("big", server.url, answers=str(folder), **{"retries": 2, **more})


# -- a hosted model ---------------------------------------------------------------------------------------------------


def test_answers_come_back_in_order_several_at_a_time(server: Server, lm: LanguageModel, tmp_path: Path) -> None:
    def answer(path: str, body: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        time.sleep(0.05)
        return 200, chat(body["messages"][0]["content"].upper()), {}

    server.answer = answer
    engine = quick(server, tmp_path, concurrency=4)
    assert ask_alone(engine, lm, prompts(12)) == [f"QUESTION {i}" for i in range(12)]
    assert 2 <= server.most <= 4
    path, body, _ = server.seen[0]
    assert path == "/v1/chat/completions"
    assert {name: body[name] for name in ("model", "max_tokens", "temperature", "seed")} == {
        "model": "big",
        "max_tokens": 7,
        "temperature": 0.0,
        "seed": 0,
    }


def test_what_was_answered_is_never_asked_again(server: Server, lm: LanguageModel, tmp_path: Path) -> None:
    assert ask_alone(quick(server, tmp_path), lm, prompts(3)) == ["match"] * 3
    server.answer = lambda path, body: (200, chat("mismatch"), {})
    assert ask_alone(quick(server, tmp_path), lm, prompts(5)) == ["match"] * 3 + ["mismatch"] * 2
    assert len(server.seen) == 5
    assert ask_alone(quick(server, tmp_path), lm, [*prompts(7)[5:], *prompts(7)[5:]]) == ["mismatch"] * 4
    assert len(server.seen) == 7
    # Another model, length or field is another question.
    assert ask_alone(quick(server, tmp_path, body={"top_p": 0.5}), lm, prompts(1)) == ["mismatch"]
    assert ask_alone(OpenAIEngine("other", server.url, answers=str(tmp_path)), lm, prompts(1)) == ["mismatch"]


def test_fields_can_be_added_and_taken_out(server: Server, lm: LanguageModel, tmp_path: Path) -> None:
    body = {"max_tokens": None, "max_completion_tokens": 9}
    ask_alone(quick(server, tmp_path, body=body), lm, prompts(1))
    assert "max_tokens" not in server.seen[0][1]
    assert server.seen[0][1]["max_completion_tokens"] == 9


def test_a_text_can_be_continued_instead_of_a_chat(server: Server, lm: LanguageModel, tmp_path: Path) -> None:
    server.answer = lambda path, body: (200, {"choices": [{"text": body["prompt"][::-1]}]}, {})
    assert ask_alone(quick(server, tmp_path, chat=False), lm, prompts(1)) == ["0 noitseuq"]
    assert server.seen[0][0] == "/v1/completions"


def test_an_empty_answer_is_an_empty_text(server: Server, lm: LanguageModel, tmp_path: Path) -> None:
    server.answer = lambda path, body: (200, chat(None), {})
    assert ask_alone(quick(server, tmp_path), lm, prompts(1)) == [""]


def test_errors_that_may_pass_are_tried_again(
    server: Server, lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = {"question 0": [503, 429], "question 1": [500]}

    def answer(path: str, body: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        text = body["messages"][0]["content"]
        if left.get(text):
            return left[text].pop(), {"error": {"message": "later"}}, {"Retry-After": "0.01"}
        return 200, chat(text), {}

    server.answer = answer
    assert ask_alone(quick(server, tmp_path), lm, prompts(3)) == [f"question {i}" for i in range(3)]
    assert len(server.seen) == 6


def test_waits_grow_and_stay_within_a_minute(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answer = lambda path, body: (503, "down", {})
    endpoint = Endpoint(server.url, "NO_KEY", 5.0, 9, None)
    waits: list[float] = []
    monkeypatch.setattr(endpoint._stopped, "wait", lambda seconds: waits.append(seconds) or False)
    with pytest.raises(UserError, match="did not answer, after 10 attempts"):
        endpoint.post("/completions", {})
    slept = [w for w in waits if w > 0]
    assert len(slept) == 9
    for number, wait in enumerate(slept):
        assert min(60, 2**number) / 2 <= wait <= min(60, 2**number)


@pytest.mark.parametrize(
    ("status", "message", "words"),
    [
        (401, f"Incorrect API key provided: {SECRET}", "engine.key_env"),
        (404, "no such model", "engine.model"),
        (400, "max_tokens is not supported", "engine.body"),
        (429, "insufficient_quota", "quota"),
    ],
)
def test_a_refusal_is_not_repeated_and_shows_no_key(
    server: Server,
    lm: LanguageModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    message: str,
    words: str,
) -> None:
    monkeypatch.setenv("MY_KEY", SECRET)
    server.answer = lambda path, body: (status, {"error": {"message": message}}, {})
    with pytest.raises(UserError) as caught:
        ask_alone(quick(server, tmp_path, key_env="MY_KEY"), lm, prompts(1))
    assert words in caught.value.fix
    assert len(server.seen) == 1
    assert server.seen[0][2]["Authorization"] == f"Bearer {SECRET}"
    assert SECRET not in str(caught.value)


def test_the_key_is_written_nowhere(
    server: Server, lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MY_KEY", SECRET)
    caplog.set_level(0)
    engine = quick(server, tmp_path, key_env="MY_KEY")
    ask_alone(engine, lm, prompts(2))
    assert SECRET not in "".join(path.read_text() for path in tmp_path.iterdir())
    assert SECRET not in caplog.text
    assert SECRET not in repr(vars(engine))


def test_no_answer_in_time_and_no_server_at_all(server: Server, lm: LanguageModel, tmp_path: Path) -> None:
    def slow(path: str, body: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        time.sleep(0.6)
        return 200, chat("late"), {}

    server.answer = slow
    with pytest.raises(UserError, match="did not answer") as caught:
        ask_alone(quick(server, tmp_path, timeout=0.1, retries=0), lm, prompts(1))
    assert "Timeout" in caught.value.where
    server.stop()
    with pytest.raises(UserError, match="did not answer"):
        ask_alone(quick(server, tmp_path, retries=0), lm, prompts(1))


@pytest.mark.parametrize("content", ["<html>", {"choices": []}, {"error": "?"}, {"choices": [{"message": {}}]}, [1]])
def test_what_is_no_answer_is_said(server: Server, lm: LanguageModel, tmp_path: Path, content: Any) -> None:
    server.answer = lambda path, body: (200, content, {})
    with pytest.raises(UserError, match="does not answer as an OpenAI-compatible endpoint does"):
        ask_alone(quick(server, tmp_path), lm, prompts(1))
    assert not list(tmp_path.iterdir())


def test_requests_keep_the_rate(server: Server, lm: LanguageModel, tmp_path: Path) -> None:
    began = time.monotonic()
    ask_alone(quick(server, tmp_path, requests_per_minute=600, concurrency=8), lm, prompts(6))
    assert time.monotonic() - began >= 0.5


def test_the_cap_is_never_exceeded_and_keeps_what_was_answered(
    server: Server, lm: LanguageModel, tmp_path: Path
) -> None:
    def engine(cap: float) -> OpenAIEngine:
        return quick(server, tmp_path, price_in=1000.0, price_out=2000.0, max_cost=cap, concurrency=3)

    server.answer = lambda path, body: (200, chat("match", (4, 5)), {})  # 0.004 + 0.010
    with pytest.raises(UserError, match=r"cost cap is reached.* answers so far are kept") as caught:
        ask_alone(engine(0.1), lm, prompts(20))
    answered = len(server.seen)
    assert 0 < answered * 0.014 <= 0.1
    assert "engine.max_cost" in caught.value.fix
    with pytest.raises(UserError, match="cost cap"):  # a repetition does not spend it again
        ask_alone(engine(0.1), lm, prompts(20))
    assert len(server.seen) * 0.014 <= 0.1
    assert ask_alone(engine(10.0), lm, prompts(20)) == ["match"] * 20
    assert len(server.seen) == 20


def test_an_error_keeps_what_the_others_brought(server: Server, lm: LanguageModel, tmp_path: Path) -> None:
    def answer(path: str, body: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        text = body["messages"][0]["content"]
        if text == "question 0":
            return 400, "no", {}
        time.sleep(0.1)
        return 200, chat(text), {}

    server.answer = answer
    with pytest.raises(UserError, match="refused"):
        ask_alone(quick(server, tmp_path, concurrency=4), lm, prompts(30))
    under_way = len(server.seen) - 1
    assert under_way < 29
    (file,) = tmp_path.iterdir()
    assert len(file.read_text().splitlines()) == under_way


def test_an_interrupt_keeps_what_was_answered(server: Server, lm: LanguageModel, tmp_path: Path) -> None:
    """Ctrl-C arrives in the thread that waits for the answers."""
    import _thread
    import signal

    once = iter(
        [True]
    )  # requests come two at a time: each may see that ten were there, and none that there were just ten

    def answer(path: str, body: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        if len(server.seen) >= 10 and next(once, False):
            _thread.interrupt_main()
        return 200, chat("match"), {}

    server.answer = answer
    # Whoever starts the tests in the background may have them ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            ask_alone(quick(server, tmp_path, concurrency=2, requests_per_minute=3000), lm, prompts(500))
    finally:
        signal.signal(signal.SIGINT, before)
    asked = len(server.seen)
    assert asked < 500
    (file,) = tmp_path.iterdir()
    assert len(file.read_text().splitlines()) == asked
    server.answer = lambda path, body: (200, chat("match"), {})
    assert ask_alone(quick(server, tmp_path), lm, prompts(500)) == ["match"] * 500
    assert len(server.seen) == 500


def test_another_machine_needs_a_key_and_prices(
    lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    far = "https://models.example/v1"
    with pytest.raises(UserError, match="may cost") as caught:
        OpenAIEngine("big", far, answers=str(tmp_path)).open_alone(lm)
    assert "engine.price_in" in caught.value.fix
    with pytest.raises(UserError, match="OPENAI_API_KEY is not set"):
        OpenAIEngine("big", far, price_in=1, price_out=1, max_cost=1, answers=str(tmp_path)).open_alone(lm)


@pytest.mark.parametrize(
    "wrong",
    [
        {"adapters": "some"},
        {"url": "ftp://x/v1"},
        {"url": "http://me:secret@host/v1"},
        {"concurrency": 0},
        {"timeout": 0},
        {"retries": -1},
    ],
    ids=str,
)
def test_wrong_arguments(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError) as caught:
        OpenAIEngine("big", **wrong)
    assert "secret" not in str(caught.value)


def test_httpx_missing_is_said(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="httpx") as caught:
        Endpoint(server.url, "NO_KEY", 1.0, 0, None)
    assert "meld-dp[openai]" in caught.value.fix


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://localhost:8000/v1", True),
        ("http://127.0.0.1/v1", True),
        ("http://[::1]:8000/v1", True),
        ("http://10.0.0.1/v1", False),
        ("https://localhost.example/v1", False),
    ],
)
def test_which_endpoints_are_on_this_machine(url: str, local: bool) -> None:
    assert is_local(url) is local


def test_it_asks_alone_only_without_adapters(lm: LanguageModel) -> None:
    hosted, served = OpenAIEngine("big"), OpenAIEngine("big", adapters="served")
    assert isinstance(hosted, AloneEngine)
    assert asks_alone(hosted)
    assert not asks_alone(served)
    assert not asks_alone(StackedEngine())
    assert isinstance(hosted.open_alone(lm), WritesOnly)
    with pytest.raises(UserError, match="without experts"):
        hosted.open(lm, {})


# -- the file of answers ----------------------------------------------------------------------------------------------


def test_a_line_that_was_cut_off_is_asked_again(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    log = AnswerLog(file, 1.0, 1.0, None)
    for key in ("a", "b"):
        log.keep(key, {"text": key}, {"prompt_tokens": 10}, log.reserve(0, 0))
    file.write_bytes(file.read_bytes()[:-7])
    log = AnswerLog(file, 1.0, 1.0, None)
    assert log.get("a") == {"text": "a"}
    assert log.get("b") is None
    log.keep("c", {"text": "ü\u2028"}, {}, log.reserve(0, 0))
    again = AnswerLog(file, 1.0, 1.0, None)
    assert again.get("a") == {"text": "a"}
    assert again.get("c") == {"text": "ü\u2028"}
    assert again.spent == pytest.approx(10 / 1e6)


@given(st.lists(st.tuples(st.floats(0, 1e5), st.floats(0, 1e5), st.booleans()), max_size=30), st.floats(0, 0.2))
def test_whatever_is_reserved_the_cap_holds(
    tmp_path_factory: pytest.TempPathFactory, questions: list[tuple[float, float, bool]], cap: float
) -> None:
    log = AnswerLog(tmp_path_factory.mktemp("log") / "a.jsonl", 1.0, 3.0, cap)
    for number, (tokens_in, tokens_out, answered) in enumerate(questions):
        try:
            amount = log.reserve(tokens_in, tokens_out)
        except UserError:
            continue
        if answered:
            usage = {"prompt_tokens": tokens_in, "completion_tokens": tokens_out}
            log.keep(str(number), {}, usage, amount)
        else:
            log.release(amount)
        assert log.spent <= cap + 1e-12


# -- a server with experts --------------------------------------------------------------------------------------------


class FakeVllm:
    """Answers ``/completions`` as a vLLM server does: names are adapters, loaded from folders by PEFT itself."""

    def __init__(self, lm: LanguageModel, experts: Mapping[str, Path]) -> None:
        self.lm = lm
        self.folders = dict(experts)
        self.loads: list[str] = []
        self.lock = threading.Lock()

    def __call__(self, path: str, body: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        with self.lock:
            if path.endswith("/models"):
                return 200, {"data": [{"id": name} for name in ("base", *self.folders)]}, {}
            if path.endswith("/load_lora_adapter"):
                self.folders[body["lora_name"]] = Path(body["lora_path"])
                self.loads.append(body["lora_name"])
                return 200, "Success", {}
            if path.endswith("/unload_lora_adapter"):
                del self.folders[body["lora_name"]]
                return 200, "Success", {}
            return self._complete(body)

    def _complete(self, body: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        from peft import PeftModel

        name, ids = body["model"], torch.tensor([body["prompt"]])
        model = self.lm.model
        wrapped = None if name == "base" else PeftModel.from_pretrained(model, str(self.folders[name]))
        try:
            run = model if wrapped is None else wrapped.eval()
            with torch.no_grad():
                if "prompt_logprobs" in body:
                    scores = run(input_ids=ids, use_cache=False).logits[0].log_softmax(-1)
                    told = [{str(t): {"logprob": float(scores[i, t])}} for i, t in enumerate(ids[0, 1:].tolist())]
                    return 200, {"choices": [{"text": "", "prompt_logprobs": [None, *told]}]}, {}
                written = run.generate(
                    input_ids=ids, max_new_tokens=body["max_tokens"], do_sample=False, eos_token_id=2, pad_token_id=0
                )
                new = written[0, ids.shape[1] :].tolist()
                return 200, {"choices": [{"text": "not looked at", "token_ids": new}]}, {}
        finally:
            if wrapped is not None:
                wrapped.unload()


ITEMS = [
    Encoded((1, 5, 6, 7, 8), ((9, 2), (10, 11, 2))),
    Encoded((1, 12, 13), ((9, 2), (14, 2), (15, 16, 2))),
    Encoded((1, 20, 21, 22), ((9, 30, 31, 2), (9, 2))),
    Encoded((1, 5, 6, 7, 8), ((9, 2), (10, 11, 2))),
]
MIXED = np.array([[0.5, 0.3, 0.2], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.4, 0.6]])
ALONE = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])


@pytest.mark.parametrize(("adapters_are", "gates"), [("served", ALONE), ("loaded", MIXED), ("loaded", ALONE)])
def test_a_server_with_experts_answers_as_peft(
    server: Server, fresh: Fresh, adapters: Adapters, tmp_path: Path, adapters_are: str, gates: np.ndarray
) -> None:
    lm = fresh("llama")
    folders = adapters(lm, ("q_proj", "v_proj"), (4, 4, 4))
    fake = FakeVllm(fresh("llama"), folders if adapters_are == "served" else {})
    server.answer = fake
    engine = OpenAIEngine(
        "base", server.url, adapters=adapters_are, answers=str(tmp_path / "answers"), max_mixtures=2, retries=0
    )
    texts = [Prompt(str(i), text) for i, text in enumerate(("w1 w2 w3", "w4", "w5 w6 w7", "w1 w2 w3"))]
    model = engine.open(lm, folders)
    ranked, written = model.option_log_probs(ITEMS, gates), model.generate(texts, gates, 6)
    model.close()
    assert set(fake.folders) == (set(folders) if adapters_are == "served" else set())
    peft = HuggingFaceEngine().open(lm, folders)
    assert written == peft.generate(texts, gates, 6)
    for ours, theirs in zip(ranked, peft.option_log_probs(ITEMS, gates), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=0)
    assert written[0] != written[3]


def test_a_server_that_has_experts_by_name_cannot_mix_them(
    server: Server, lm: LanguageModel, adapters: Adapters, tmp_path: Path
) -> None:
    folders = adapters(lm, ("q_proj", "v_proj"), (4, 4, 4))
    server.answer = FakeVllm(lm, dict(list(folders.items())[:2]))
    engine = OpenAIEngine("base", server.url, adapters="served", answers=str(tmp_path), retries=0)
    with pytest.raises(UserError, match=r"does not have set2.em; it has base, set0.em, set1.em") as caught:
        engine.open(lm, folders)
    assert "--lora-modules" in caught.value.fix
    model = engine.open(lm, dict(list(folders.items())[:2]))
    with pytest.raises(UserError, match=r"cannot mix them \(set0.em, set1.em\)"):
        model.generate(prompts(1), np.array([[0.5, 0.5]]), 3)


def test_a_server_that_loads_nothing_or_tells_no_log_probabilities(
    server: Server, lm: LanguageModel, adapters: Adapters, tmp_path: Path
) -> None:
    folders = adapters(lm, ("q_proj", "v_proj"), (4, 4))
    server.answer = lambda path, body: (404, {"detail": "Not Found"}, {})
    model = OpenAIEngine("base", server.url, adapters="loaded", answers=str(tmp_path)).open(lm, folders)
    with pytest.raises(UserError) as caught:
        model.option_log_probs(ITEMS[:1], np.array([[0.5, 0.5]]))
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" in caught.value.fix
    server.answer = lambda path, body: (200, {"choices": [{"text": "x"}]}, {})
    with pytest.raises(UserError, match="does not tell the log-probabilities"):
        model.option_log_probs(ITEMS[:1], np.array([[0.5, 0.5]]))


def test_a_newly_trained_expert_of_the_same_name_is_asked_again(
    server: Server, lm: LanguageModel, adapters: Adapters, tmp_path: Path
) -> None:
    first, second = adapters(lm, ("q_proj", "v_proj"), (4,)), adapters(lm, ("q_proj", "v_proj"), (4,), size=0.3)
    texts, gates = [Prompt("0", "w1 w2 w3")], np.array([[1.0]])
    for folders in (first, second, second):
        server.answer = FakeVllm(lm, folders)
        engine = OpenAIEngine("base", server.url, adapters="served", answers=str(tmp_path / "answers"))
        engine.open(lm, folders).generate(texts, gates, 4)
    assert sum(path.endswith("/completions") for path, _, _ in server.seen) == 2
