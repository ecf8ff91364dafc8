"""``meld serve`` as a process over a real bundle, and a real bundle behind the application."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from meld.bundle.manifest import MANIFEST, write_manifest
from meld.cli.main import main

TOKEN = "a-token-of-some-length"


def _rows(made: Any, unit: str, count: int) -> list[dict[str, Any]]:
    return [dict(row) for _, row in made.rows(unit).head(count).iterrows()]


def _same(answers: list[dict[str, Any]], expected: Any) -> None:
    assert len(answers) == len(expected)
    for answer, (_, line) in zip(answers, expected.iterrows(), strict=True):
        assert (answer["prediction"], answer["status"]) == (line["prediction"], line["status"])
        assert answer["experts"] == list(line["experts"])
        assert answer["weights"] == pytest.approx(list(line["weights"]))
        assert answer["score"] == pytest.approx(line["score"], abs=1e-4)


@pytest.mark.slow
def test_answers_are_those_of_python_however_they_are_batched(made: Any, model: Any, opened: Any) -> None:
    client = opened(model, batch_seconds=0.05)
    asked = {unit: _rows(made, unit, 4) for unit in model.units}
    bodies = [{"unit": unit, "rows": [row]} for unit, rows in asked.items() for row in rows]
    with ThreadPoolExecutor(len(bodies)) as pool:
        alone = list(pool.map(lambda body: client.post("/v1/predict", json=body).json()["predictions"][0], bodies))
    for unit in model.units:
        expected = model.predict(made.rows(unit).head(4), unit=unit, progress=False)
        found = client.post("/v1/predict", json={"unit": unit, "rows": asked[unit]})
        assert found.status_code == 200, found.text
        _same(found.json()["predictions"], expected)
        _same([answer for body, answer in zip(bodies, alone, strict=True) if body["unit"] == unit], expected)
    batches = client.app.state.server.metrics.registry
    together = sum(batches.get_sample_value("meld_batch_requests_count", {"unit": unit}) or 0 for unit in model.units)
    assert together < len(bodies), "nothing was batched"


@pytest.mark.slow
def test_explanations_and_refusals_are_those_of_python(made: Any, model: Any, opened: Any) -> None:
    client = opened(model)
    for unit in model.units:
        row = _rows(made, unit, 1)[0]
        said = model.explain(row, unit=unit)
        found = client.post("/v1/explain", json={"unit": unit, "row": row}).json()
        assert found["answer"]["prediction"] == said.prediction.output
        assert found["prompt"] == said.prompt
        assert found["path"] == list(said.path)
        assert [option["option"] for option in found["ranked"]] == [option for option, _ in said.ranked]
    rows = [{"name": "x"}]
    found = client.post("/v1/predict", json={"task": "di", "target": "city", "rows": rows})
    assert found.status_code == 422
    assert "'street'" in found.json()["error"]["what"]
    many = client.post("/v1/predict", json={"rows": rows})
    assert "Several units" in many.json()["error"]["what"]


@contextmanager
def _serving(
    bundle: Path, folder: Path, *words: str, **environment: str
) -> Iterator[tuple[subprocess.Popen[str], httpx.Client, str]]:
    """A server of its own on a free port; what it has said until it was ready."""
    command = [sys.executable, "-m", "meld", "serve", str(bundle), "--port", "0", *words]
    settings = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    process = subprocess.Popen(
        command, cwd=folder, env=settings, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        said = ""
        assert process.stderr is not None
        while not (found := re.search(r"at http://([\w.:\[\]]+)", said)):
            line = process.stderr.readline()
            assert line, said
            said += line
        address = found[1].replace("0.0.0.0", "127.0.0.1")
        with httpx.Client(base_url=f"http://{address}", timeout=120) as client:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                try:
                    if client.get("/ready").status_code == 200:
                        break
                except httpx.ConnectError:
                    time.sleep(0.05)
            yield process, client, said
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.slow
def test_the_process_answers_and_ends_after_what_is_in_flight(made: Any, model: Any, tmp_path: Path) -> None:
    unit = "quickstart_people.di"
    rows = _rows(made, unit, 8) * 20
    with _serving(made.bundle, tmp_path) as (process, client, said):
        assert "127.0.0.1" in said
        assert "WARNING" not in said
        with ThreadPoolExecutor(1) as pool:
            held = pool.submit(
                httpx.post, f"{client.base_url}/v1/predict", json={"unit": unit, "rows": rows}, timeout=120
            )
            # Its rows have begun, or are about to, when the server is told to end.
            deadline = time.monotonic() + 30
            while "meld_active_requests 2.0" not in client.get("/metrics").text:
                assert time.monotonic() < deadline
                assert not held.done(), "it ended before the signal"
            process.send_signal(signal.SIGTERM)
            found = held.result()
        assert found.status_code == 200
        expected = model.predict(made.rows(unit).head(8), unit=unit, progress=False)
        for start in range(0, len(rows), 8):
            _same(found.json()["predictions"][start : start + 8], expected)
        assert process.wait(60) == 0
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{client.base_url}/health")


@pytest.mark.slow
def test_a_server_for_others_warns_without_a_token_and_asks_for_one_with_it(made: Any, tmp_path: Path) -> None:
    with _serving(made.bundle, tmp_path, "--host", "0.0.0.0") as (process, client, said):
        assert "WARNING" in said
        assert client.get("/v1/units").status_code == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    with _serving(made.bundle, tmp_path, "--host", "0.0.0.0", MELD_SERVE_TOKEN=TOKEN) as (process, client, said):
        assert "WARNING" not in said
        assert client.get("/v1/units").status_code == 401
        assert client.get("/v1/units", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
        process.send_signal(signal.SIGTERM)
        out, error = process.communicate(timeout=60)
        assert TOKEN not in said + out + error


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "bundle"),
        (("{bundle}", "--port", "none"), "--port"),
        (("{bundle}", "--port", "99999"), "cannot be served"),
        (("{bundle}", "--host", "198.51.100.1"), "cannot be served"),
        (("{bundle}", "--host", "no such host"), "cannot be served"),
        (("{bundle}", "--max-rows", "0", "--port", "0"), "rows"),
        (("{bundle}", "--timeout", "nan", "--port", "0"), "seconds"),
        (("{bundle}", "--token-file", "{bundle}/none", "--port", "0"), "token"),
        (("{bundle}", "--port", "0"), "bundle"),
    ],
)
def test_what_cannot_be_served_is_said(
    words: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", *(word.format(bundle=tmp_path) for word in words)]) == 2
    assert said in capsys.readouterr().err


def test_a_bundle_with_a_damaged_file_is_not_served(
    made: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Although questions to the other units could be answered."""
    shutil.copytree(made.bundle, tmp_path / "b")
    data = tmp_path / "b" / "units" / "quickstart_people.di" / "data"
    shutil.copyfile(data / "train.parquet", data / "table_0.parquet")
    write_manifest(tmp_path / "b", json.loads((tmp_path / "b" / MANIFEST).read_text()))
    assert main(["serve", str(tmp_path / "b"), "--port", "0"]) == 2
    assert str(data / "table_0.parquet") in capsys.readouterr().err


def test_a_taken_port_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", str(tmp_path), "--port", str(port)]) == 2
    assert f"127.0.0.1:{port}" in capsys.readouterr().err


def test_missing_packages_are_named(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['uvicorn'] = None\n"
        "from meld.cli.main import main\n"
        "sys.exit(main(['serve', 'nowhere']))"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert "meld-dp[serve]" in found.stderr
    assert "Traceback" not in found.stderr
