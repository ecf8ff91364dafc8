"""Limits, tokens and addresses."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meld.errors import UserError
from meld.serve.limits import TOKEN, Limits, Token, host_of, is_loopback, read_token

GOOD = "0123456789abcdef"


@pytest.mark.parametrize("wrong", [{"rows": 0}, {"seconds": 0.0}, {"batch_seconds": -1.0}, {"seconds": float("inf")}])
def test_limits_limit(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        Limits(**wrong)  # type: ignore[arg-type]


@given(st.binary(max_size=40))
def test_no_other_header_opens(header: bytes) -> None:
    token = Token(GOOD)
    assert token.admits(f"Bearer {GOOD}".encode())
    assert not token.admits(header)
    assert not token.admits(None)
    assert not token.admits(GOOD.encode())
    assert GOOD not in repr(token)


@pytest.mark.parametrize("wrong", ["", "short", "a b" * 10, "é" * 20, "a\n" * 20])
def test_tokens_that_are_none(wrong: str) -> None:
    with pytest.raises(UserError, match="token") as caught:
        Token(wrong)
    assert not wrong or wrong not in str(caught.value)


def test_where_tokens_come_from(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{GOOD}\n")
    assert read_token(None, {}) is None
    for token in (read_token(str(file), {}), read_token(None, {TOKEN: GOOD})):
        assert token is not None
        assert token.admits(f"Bearer {GOOD}".encode())
    for name, environment in ((str(file), {TOKEN: GOOD}), (str(tmp_path / "absent"), {}), (None, {TOKEN: ""})):
        with pytest.raises(UserError):
            read_token(name, environment)


def test_addresses_of_this_machine_alone() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost", "LocalHost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "example.org", "localhost.example.org", "")))
    assert host_of("a.b:80") == "a.b"
    assert host_of("[::1]:80") == "[::1]"
    assert host_of("[::1]") == "[::1]"
    assert host_of("a.b") == "a.b"
