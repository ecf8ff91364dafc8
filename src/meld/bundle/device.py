"""Where models run: which names of devices are taken, and whether this machine has them."""

from __future__ import annotations

import re

from meld.errors import UserError

_DEVICE = re.compile(r"auto|cpu|mps|cuda(?::(\d+))?")


def check_device(device: object) -> None:
    """Refuse a device that is none, or that this machine lacks, before anything is loaded.

    Args:
        device: ``auto`` | ``cpu`` | ``cuda`` | ``cuda:N`` | ``mps``.

    Raises:
        UserError: Naming it.
    """
    import torch

    fits = _DEVICE.fullmatch(device) if isinstance(device, str) else None
    if fits is None:
        raise UserError(
            f"There is no device {device!r}.", where="device", fix="auto, cpu, cuda, cuda:N (N counts from 0) or mps"
        )
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    absent = fits[0].startswith("cuda") and int(fits[1] or 0) >= count
    if absent or (fits[0] == "mps" and not torch.backends.mps.is_available()):
        raise UserError(
            f"This machine has no device {device!r} that PyTorch can use.",
            where="device",
            fix="auto takes what there is; meld doctor says what that is",
        )
