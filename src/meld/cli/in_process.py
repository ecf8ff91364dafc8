"""Dry runs of sweeps: the jobs are planned in this process, whichever launcher is configured, to be added up."""

from __future__ import annotations

from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write


class InProcess(Callback):
    """Replaces the launcher, with all its options, by Hydra's own before a sweep begins.

    An override of the group ``hydra/launcher`` could not: it meets options that only the other launcher knows.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Called by Hydra with the configuration that its sweeper is about to be made from."""
        basic = OmegaConf.create({"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"})
        with read_write(config), open_dict(config):
            config.hydra.launcher = basic
