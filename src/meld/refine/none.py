"""``refine=none``: the initial expert answers."""

from __future__ import annotations

from meld.refine.base import Material, Round


class NoRefinement:
    """Trains nothing."""

    epochs = 0
    lr_factor = 1.0
    start = "init"

    def rounds(self, material: Material, seed: int) -> list[Round]:
        """None."""
        return []
