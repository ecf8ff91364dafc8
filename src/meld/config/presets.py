"""Where the shipped configuration lies, and how experiment and sweep presets reach Hydra.

Presets are registered from the package's data, because that is the one way that works in a wheel, in an editable
install and in a source tree alike, and it makes each of them ``@package _global_``: their first line is free for the
command that runs them.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import yaml
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, ListConfig, OmegaConf

from meld.errors import ConfigError, UserError

PRESET_GROUPS = {"experiment": "experiments", "sweep": "sweeps"}
"""Group on the command line to folder (and subpackage of ``meld``)."""


def shipped(folder: str) -> Path:
    """A folder of the shipped configuration.

    Args:
        folder: ``conf``, ``experiments`` or ``sweeps``. Looked for as the subpackage ``meld.<folder>`` (wheel, editable
            install), then beside ``src/`` (source tree).

    Returns:
        Its absolute path; ``hydra.main(config_path=...)`` takes that of ``conf``.

    Raises:
        UserError: If it is in neither place.
    """
    try:
        return Path(str(resources.files(f"meld.{folder}"))).absolute()
    except ModuleNotFoundError:
        beside = Path(__file__).absolute().parents[3] / folder
    if not beside.is_dir():
        raise UserError(
            f"the configuration folder {folder}/ is missing from this installation",
            where=f"looked for the package meld.{folder} and for {beside}",
            fix="install again: pip install --force-reinstall meld-dp",
        )
    return beside


def register_presets() -> dict[str, dict[str, Path]]:
    """Register every YAML of experiments/ and sweeps/ with Hydra. May be called again.

    Returns:
        For each group, preset name to file.

    Raises:
        ConfigError: If a preset is not valid YAML.
    """
    found: dict[str, dict[str, Path]] = {}
    for group, folder in PRESET_GROUPS.items():
        root = shipped(folder)
        files = sorted(root.rglob("*.yaml"))
        found[group] = {file.relative_to(root).with_suffix("").as_posix(): file for file in files}
        for name, file in found[group].items():
            below, _, stem = f"{group}/{name}".rpartition("/")
            ConfigStore.instance().store(
                group=below, name=stem, node=_read(file), package="_global_", provider=f"{folder}/{name}.yaml"
            )
    return found


def _read(file: Path) -> DictConfig | ListConfig:
    try:
        return OmegaConf.create(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(
            "the preset is not valid YAML", where=str(file), fix=f"correct it: {' '.join(str(error).split())}"
        ) from error
