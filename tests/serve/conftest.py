"""A model that echoes what it is asked, and the tiny bundle of the bundles' tests."""

from __future__ import annotations

import importlib.util
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from starlette.testclient import TestClient

from meld.dataset.table_files import cell_text
from meld.errors import UserError
from meld.serve.app import make_app
from meld.serve.limits import Limits, Token

_PLACE = Path(__file__).parents[1] / "bundle" / "conftest.py"
_SPEC = importlib.util.spec_from_file_location("meld_tests_bundle_conftest", _PLACE)
assert _SPEC is not None
assert _SPEC.loader is not None
_bundles = importlib.util.module_from_spec(_SPEC)
sys.modules[_SPEC.name] = _bundles
_SPEC.loader.exec_module(_bundles)

made = _bundles.made
model = _bundles.model


class Echo:
    """Answers every row with the row itself, and notes what came together.

    A value ``wrong`` makes it refuse the rows it is in, ``fault`` makes it fail; until ``gate`` is set it waits.
    """

    units = ("a.di", "a.em", "b.em")

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.threads: set[int] = set()
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Event()
        self.seconds = 0.0

    def card(self, unit: str) -> dict[str, Any]:
        return {"unit": unit, "task": unit.rpartition(".")[2], "targets": ["x"]}

    def predict(
        self,
        frame: pd.DataFrame,
        task: str | None = None,
        target: str | None = None,
        *,
        unit: str | None = None,
        right: pd.DataFrame | None = None,
        progress: bool = True,
    ) -> pd.DataFrame:
        self.begun.set()
        assert self.gate.wait(60)
        time.sleep(self.seconds)
        self.batches.append(len(frame))
        self.threads.add(threading.get_ident())
        if unit not in self.units:
            raise UserError(f"There is no unit {unit!r}.", where="unit", fix="another")
        said = []
        for place in range(len(frame)):
            parts = {"unit": unit, "target": target, "left": _texts(frame, place)}
            said.append(parts | ({} if right is None else {"right": _texts(right, place)}))
        values = [value for parts in said for value in parts["left"].values()]
        if "fault" in values:
            raise RuntimeError("a secret of the inside")
        if "wrong" in values:
            raise UserError("A row is wrong.", where=f"row {values.index('wrong')}", fix="mend it")
        return pd.DataFrame(
            {
                "prediction": pd.Series([json.dumps(parts) for parts in said], dtype=object),
                "score": [0.5] * len(said),
                "experts": pd.Series([("e", "f")] * len(said), dtype=object),
                "weights": pd.Series([(0.75, 0.25)] * len(said), dtype=object),
                "status": "ok",
            },
            index=frame.index,
        )

    def explain(
        self, row: pd.DataFrame, task: str | None = None, target: str | None = None, *, unit: str | None = None
    ) -> Any:
        line = self.predict(row, task, target, unit=unit).iloc[0]
        prediction = SimpleNamespace(output=line["prediction"], score=0.5, experts=("e",), weights=(1.0,), status="ok")
        edit = SimpleNamespace(step="a.ed", kind="fill", attribute="x", before="", after="y", confidence=0.5)
        return SimpleNamespace(
            prediction=prediction,
            asked=SimpleNamespace(edits=(edit,)),
            path=("a.ed",),
            ranked=(("y", 1.0),),
            evidence=(),
            prompt="asked",
        )


def _texts(frame: pd.DataFrame, place: int) -> dict[str, str]:
    return {str(name): cell_text(frame[name].iloc[place]) for name in frame.columns}


@pytest.fixture
def echo() -> Echo:
    """The model that echoes."""
    return Echo()


@pytest.fixture(scope="session")
def echo_class() -> type[Echo]:
    """For tests that need a new one for every example."""
    return Echo


Opens = Callable[..., TestClient]


@pytest.fixture
def opened() -> Iterator[Opens]:
    """Opens an application over a model, with limits."""
    clients: list[TestClient] = []

    def begin(model: Any, token: str | None = None, local_only: bool = False, **limits: Any) -> TestClient:
        app = make_app(model, Limits(**limits), None if token is None else Token(token), local_only)
        client = TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)
        clients.append(client.__enter__())
        return client

    yield begin
    for client in clients:
        client.__exit__(None, None, None)
