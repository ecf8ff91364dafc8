"""``metapath=none``: no paths."""

from __future__ import annotations

from collections.abc import Sequence

from meld.metapath.base import Evaluate, Found, Seeds, StepRules


class NoMetaPath:
    """No path: the papers' "w/o meta-path"."""

    max_path = 0

    def __init__(self) -> None:
        self.rules = StepRules()
        self.seeds = Seeds(None, 0)

    def search(self, unit: str, available: Sequence[str], evaluate: Evaluate, seed: int) -> Found:
        """The empty path."""
        return Found()
