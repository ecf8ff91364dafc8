"""A hosted model through the command line, answered by a server in this process."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow.parquet as pq
import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]


@pytest.fixture
def hosted() -> Iterator[tuple[str, list[str]]]:
    """The address of a server, and the prompts that it has answered: with nonsense, every fifth with ``match``."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(body["messages"][0]["content"])
            text = "match" if len(asked) % 5 == 0 else "I would not know; there is no telling"
            sent = json.dumps(
                {
                    "choices": [{"message": {"content": text}}],
                    "usage": {"prompt_tokens": 10, "completion_tokens": 2},
                }
            ).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1", asked
    server.shutdown()
    server.server_close()


def test_a_hosted_model_answers_and_what_it_answered_outlives_the_store(
    meld: Run, tiny: tuple[str, ...], tmp_path: Path, hosted: tuple[str, list[str]]
) -> None:
    url, asked = hosted
    command = ("trainer=debug", *tiny, "method=gpt4", f"engine.url={url}")
    capped = meld(*command, "engine.price_in=1000", "engine.price_out=1000", "engine.max_cost=0.5")
    assert capped.returncode != 0
    assert "cost cap" in capped.stdout + capped.stderr
    few = len(asked)
    assert 0 < few * 0.012 <= 0.5

    done = meld(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    many = len(asked)
    assert many > few
    assert len(set(asked)) == many  # nothing was asked twice, over both commands
    run = max((tmp_path / "outputs" / "runs").iterdir(), key=lambda folder: folder.stat().st_mtime)
    rows = pq.read_table(run / "predictions" / "quickstart_products.em.parquet").to_pylist()
    assert {row["status"] for row in rows} <= {"ok", "invalid"}
    assert {row["output"] for row in rows if row["status"] == "invalid"} == {None}
    assert all(not row["experts"] for row in rows)
    results = json.loads((run / "results.json").read_text())
    assert {row["system"] for row in results["rows"]} >= {"gpt4"}
    assert (run / "report.html").is_file()
    assert not (run / "routing.json").exists()

    again = meld(*command, "force=infer")
    assert again.returncode == 0, again.stdout + again.stderr
    assert len(asked) == many
    dry = meld(*command, "dry_run=true")
    assert dry.returncode == 0
    assert "sample prompt" in dry.stdout
