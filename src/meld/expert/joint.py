"""``expert=joint``: the dense single model of Theorem 2, one adapter for all units."""

from __future__ import annotations

from typing import ClassVar

from meld.expert.lora import LoraExpert


class JointExpert(LoraExpert):
    """A LoRA expert that all units share, trained on the union of what the units' own experts would be trained on.

    There is then nothing to route: ``router`` and ``k`` play no part. It takes the arguments of
    :class:`meld.expert.lora.LoraExpert`; ``max_samples`` limits each unit's share.
    """

    shared: ClassVar[bool] = True
