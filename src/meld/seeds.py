"""Random numbers that depend on what they are for, not on when they are drawn."""

from __future__ import annotations

import hashlib

import numpy as np


def derive(*parts: object) -> int:
    """A 63-bit seed from anything printable, e.g. ``derive(seed, "init", unit)``.

    The same parts give the same seed in every process, so that a stage taken from the store changes nothing downstream.
    """
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(*parts: object) -> np.random.Generator:
    """A NumPy generator seeded by :func:`derive`."""
    return np.random.default_rng(derive(*parts))
