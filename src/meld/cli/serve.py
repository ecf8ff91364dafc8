"""``meld serve BUNDLE``: a bundle behind HTTP."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Sequence

from meld.cli.words import Words, in_shell_words
from meld.errors import UserError


@in_shell_words({"base": "--base", "device": "--device"})
def serve_verb(words: Sequence[str]) -> int:
    """Carry out ``meld serve``: until SIGTERM or SIGINT; what is in flight then is still answered.

    Returns:
        0 when it has ended.

    Raises:
        UserError: For wrong arguments or bundles, a taken port, or packages that are not installed (exit code 2).
    """
    given = _parser().parse_args(list(words))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        import uvicorn

        from meld.serve.app import make_app
        from meld.serve.limits import Limits, is_loopback, read_token
    except ImportError as error:
        raise UserError(
            f"meld serve needs packages that are not installed: {error.name}.", fix="pip install 'meld-dp[serve]'"
        ) from error
    limits = Limits(
        body_bytes=given.max_body,
        rows=given.max_rows,
        seconds=given.timeout,
        requests=given.max_requests,
        batch_rows=given.batch_rows,
        batch_seconds=given.batch_wait / 1000,
    )
    # Told before anything is loaded.
    token, local = read_token(given.token_file), is_loopback(given.host)
    with _bound(given.host, given.port) as listening:
        from meld.bundle.model import load

        model = load(given.bundle, base=given.base, device=given.device)
        # The first question need not wait, and no question finds what is wrong with a file.
        model.opened.open_all()
        app = make_app(model, limits, token, local_only=local and token is None)
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="on",
            ws="none",
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=int(limits.seconds) + 5,
        )
        if not local and token is None:
            print(
                "meld: WARNING: whoever reaches this address can ask the bundle, and read from its tables; set "
                "MELD_SERVE_TOKEN or --token-file, or bind to 127.0.0.1",
                file=sys.stderr,
            )
        host, port = listening.getsockname()[:2]
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        guarded = "with a token" if token else "without a token"
        print(f"meld: {', '.join(model.units)} at http://{place} {guarded}", file=sys.stderr, flush=True)
        # uvicorn ends when it gets one of these, and then raises it again for whoever held it before.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, frame: None)
        uvicorn.Server(config).run(sockets=[listening])
    return 0


def _bound(host: str, port: int) -> socket.socket:
    """A socket that is bound, but does not listen yet.

    Raises:
        UserError: If the address is not ours, or taken.
    """
    found = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host.strip("[]"), port))
    except (OSError, OverflowError) as error:
        found.close()
        raise UserError(
            f"{host}:{port} cannot be served: {getattr(error, 'strerror', None) or error}.",
            where="--host, --port",
            fix="another port; 0 takes a free one",
        ) from None
    return found


def _parser() -> Words:
    parser = Words(
        prog="meld serve",
        description="Answer rows over HTTP: POST /v1/predict and /v1/explain, GET /v1/units, /health, /ready, "
        "/metrics, /docs and /openapi.json.",
        epilog="The bearer token is read from MELD_SERVE_TOKEN or --token-file. SIGTERM and Ctrl-C end the server "
        "when what is in flight is answered.",
    )
    parser.add_argument("bundle", help="folder that meld export wrote")
    parser.add_argument("--host", default="127.0.0.1", help="address to bind to (127.0.0.1: this machine alone)")
    parser.add_argument("--port", type=int, default=8000, help="port (8000); 0 takes a free one and says which")
    parser.add_argument("--token-file", metavar="FILE", help="file that holds the bearer token")
    parser.add_argument("--base", metavar="NAME", help="folder of the base model, if it is not under its own name")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--max-body", type=int, default=1_048_576, metavar="BYTES", help="of a request (1048576)")
    parser.add_argument("--max-rows", type=int, default=256, metavar="N", help="rows of a request (256)")
    parser.add_argument("--max-requests", type=int, default=256, metavar="N", help="in flight at a time (256)")
    parser.add_argument("--timeout", type=float, default=60.0, metavar="S", help="seconds to wait for an answer (60)")
    parser.add_argument("--batch-rows", type=int, default=64, metavar="N", help="rows answered together (64)")
    parser.add_argument("--batch-wait", type=float, default=10.0, metavar="MS", help="to wait for more rows (10 ms)")
    return parser
