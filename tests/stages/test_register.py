"""An adapter's layers are checked against the model before anything is asked."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from meld.backbone.language_model import LanguageModel
from meld.backbone.lora import save_adapter, with_lora
from meld.errors import UserError
from meld.stages.register import check_adapter, check_layers


class _Ids:
    eos_token_id, bos_token_id, pad_token_id = 2, 1, 0


def model() -> LanguageModel:
    net = nn.Sequential()
    net.add_module("query", nn.Linear(6, 4))
    net.add_module("value", nn.Linear(4, 4))
    return LanguageModel(net, _Ids(), "tiny")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with with_lora(model(), ("query", "value"), 2, 4.0, 0.0, 0) as wrapped:
        save_adapter(wrapped, tmp_path / "adapter")
    return tmp_path / "adapter"


def test_what_the_project_trains_fits(folder: Path) -> None:
    check_adapter("new", folder, "tiny", None, 2)
    check_layers("new", folder, model())


def test_layers_that_are_absent_or_of_another_shape_are_named(folder: Path) -> None:
    other = model()
    other.model.value = nn.Linear(4, 5)
    with pytest.raises(UserError, match=r"adapts value, which tiny has as \(5, 4\), not \(4, 4\)"):
        check_layers("new", folder, other)
    del other.model.value
    with pytest.raises(UserError, match="adapts value, which tiny does not have") as caught:
        check_layers("new", folder, other)
    assert "adapters.new" in str(caught.value)


def test_an_adapter_without_layers_is_refused(folder: Path) -> None:
    weights = folder / "adapter_model.safetensors"
    assert load_file(weights)
    save_file({"other": torch.zeros(1)}, weights)
    with pytest.raises(UserError, match="adapts no layer"):
        check_adapter("new", folder, "tiny", None, 2)
