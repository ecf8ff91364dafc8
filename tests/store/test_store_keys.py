"""Keys: equal where the meaning is equal, different where it is not, and refusing what would tie them to a machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meld.errors import ConfigError, DataError
from meld.store.keys import canonical, component_spec, digest, file_digest, weights_digest

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
PLAIN = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12
)


class Inner:
    def __init__(self, alpha: float = 0.5) -> None:
        self.alpha = alpha


class Outer:
    EXECUTION_ONLY: ClassVar[frozenset[str]] = frozenset({"device"})

    def __init__(self, rank: int, inner: Any = None, device: str = "cpu", rate: float = 1.0) -> None:
        self.rank = rank


class Open:
    def __init__(self, first: int, **rest: Any) -> None:
        self.first = first


def shuffled(value: Any) -> Any:
    """The same data with every mapping in the opposite order and lists as tuples."""
    if isinstance(value, dict):
        return {key: shuffled(value[key]) for key in reversed(list(value))}
    return tuple(map(shuffled, value)) if isinstance(value, list) else value


@given(PLAIN)
def test_canonical_reads_back_and_ignores_order(value: Any) -> None:
    assert json.loads(canonical(value)) == value
    assert canonical(value) == canonical(shuffled(value))


@given(PLAIN, PLAIN)
def test_different_text_for_different_data(left: Any, right: Any) -> None:
    # Compare through json, where 1, 1.0 and True are three things, as they are in a key.
    assert (canonical(left) == canonical(right)) == (
        json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)
    )


def test_digest_is_known_and_keeps_parts_apart() -> None:
    # sha256 of '["a",{"x":0.1}]', computed with the sha256sum program.
    assert digest("a", {"x": 0.1}) == "714a4716a5091f2a"
    assert digest("ab", "c") != digest("a", "bc") != digest(["a", "bc"])
    assert digest(1) != digest(1.0) != digest("1") != digest(True)


def test_digest_does_not_depend_on_the_hash_seed() -> None:
    code = "from meld.store.keys import digest; print(digest({'b': 1, 'a': [None, 'ü', 1e-7]}))"
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1")
    }
    assert found == {digest({"b": 1, "a": [None, "ü", 1e-7]}) + "\n"}


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"a": [1, Path("x")]}, "value.a[1]"),
        ({"a": {1: 2}}, "value.a"),
        (float("nan"), "value"),
        ([float("inf")], "value[0]"),
        (np.float64(1.0), "value"),
        ({"a": {1, 2}}, "value.a"),
        (b"x", "value"),
    ],
)
def test_refuses_what_is_not_plain(value: Any, place: str) -> None:
    with pytest.raises(TypeError) as caught:
        canonical(value)
    assert str(caught.value).startswith(f"{place} ")


def outer(**arguments: Any) -> dict[str, Any]:
    return {"_target_": f"{__name__}.Outer", **arguments}


def test_a_written_default_equals_an_unwritten_one() -> None:
    inner = {"_target_": f"{__name__}.Inner"}
    assert component_spec(outer(rank=4, inner=inner)) == component_spec(
        outer(rate=1, inner={**inner, "alpha": 0.5}, rank=4, _convert_="all")
    )


def test_execution_only_is_left_out_and_the_rest_counts() -> None:
    base = digest(component_spec(outer(rank=4)))
    assert digest(component_spec(outer(rank=4, device="cuda:1"))) == base
    changed = [
        outer(rank=5),
        outer(rank=4, rate=0.9),
        outer(rank=4, inner={"x": 1}),
        {**outer(rank=4), "_partial_": True},
    ]
    assert len({base, *(digest(component_spec(node)) for node in changed)}) == 5


def test_spec_walks_lists_and_mappings_without_targets() -> None:
    tree = {"em": [outer(rank=1, device="x")], "n": 3}
    found = component_spec(tree)
    assert found["n"] == 3
    assert found["em"] == [{"_target_": f"{__name__}.Outer", "rank": 1, "inner": None, "rate": 1.0}]
    assert component_spec({"_target_": f"{__name__}.Open", "first": 1, "zeta": 2})["zeta"] == 2


@pytest.mark.parametrize("node", [outer(), outer(rank=1, rnak=2), {"_target_": "meld.no.such.Thing"}])
def test_a_node_that_does_not_bind_names_its_place(node: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        component_spec({"expert": {"below": node}})
    assert caught.value.where == "expert.below"


def test_file_digest_follows_content_not_name(tmp_path: Path) -> None:
    one, two = tmp_path / "one.csv", tmp_path / "two.csv"
    one.write_text("a,b\n")
    two.write_text("a,b\n")
    assert file_digest(one) == file_digest(two) == "5be08c9684a1d25e"
    two.write_text("a,c\n")
    assert file_digest(one) != file_digest(two)
    with pytest.raises(DataError, match="absent"):
        file_digest(tmp_path / "absent.csv")


def test_file_digest_is_remembered_until_the_file_changes(tmp_path: Path) -> None:
    file, cache = tmp_path / "data.csv", tmp_path / "cache"
    file.write_text("old")
    os.utime(file, ns=(10**18, 10**18))
    old = file_digest(file, cache)
    (note,) = cache.iterdir()
    note.write_text(note.read_text().replace(old, "f" * 16))
    assert file_digest(file, cache) == "f" * 16, "the note was not used"
    file.write_text("new")
    os.utime(file, ns=(10**18 + 1, 10**18 + 1))
    assert file_digest(file, cache) == file_digest(file) != old
    note.write_text("{broken")
    assert file_digest(file, cache) == file_digest(file)


def test_a_file_changed_just_now_is_not_remembered(tmp_path: Path) -> None:
    file, cache = tmp_path / "data.csv", tmp_path / "cache"
    file.write_text("aaa")
    before = file.stat()
    first = file_digest(file, cache)
    file.write_text("bbb")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # a coarse clock: same size, same mtime
    assert file_digest(file, cache) != first


def test_weights_digest(tmp_path: Path) -> None:
    model = tmp_path / "model"
    (model / "1_Pooling").mkdir(parents=True)
    (model / "model.safetensors").write_bytes(b"\0" * 8)
    (model / "1_Pooling" / "config.json").write_text("{}")
    base = weights_digest(model)
    (model / "README.md").write_text("not a weight")
    (model / ".cache").mkdir()
    (model / ".cache" / "download.json").write_text("{}")
    assert weights_digest(model) == base, "what does not belong to the model counts"
    (model / "1_Pooling" / "config.json").rename(model / "config.json")
    moved = weights_digest(model)
    (model / "model.safetensors").write_bytes(b"\0" * 7 + b"\1")
    assert len({base, moved, weights_digest(model)}) == 3
    assert weights_digest(model / "model.safetensors") == file_digest(model / "model.safetensors")
    with pytest.raises(DataError, match="holds no model"):
        weights_digest(model / ".cache" / "nothing")
