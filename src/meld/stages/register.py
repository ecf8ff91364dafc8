"""register: make an adapter that was trained elsewhere one more expert.

Only what the router has to know about it is fitted. The other experts, their vectors and the encoder stay as they are,
and so do all artifacts: this stage comes after *route*, and *infer* reads both.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from meld.backbone.huggingface import HuggingFaceBackbone
from meld.backbone.language_model import LanguageModel
from meld.backbone.lora import ADAPTER_CONFIG, ADAPTER_WEIGHTS, lora_layers, read_adapter
from meld.dataset.io import load_samples
from meld.engine.stacked import StackedEngine
from meld.errors import UserError
from meld.router.base import Router
from meld.stages.base import Context, read_json, write_json
from meld.stages.questions import Questions
from meld.stages.route import ask_experts, load_answers, routed_from

VERSION = 1


def check_adapter(name: str, folder: Path, base: str, alias: str | None, rank: int) -> None:
    """Refuse an adapter that cannot be mixed with the experts; reads its files only.

    Args:
        name: The name it gets.
        folder: PEFT's layout.
        base: Name of the experts' base model (``backbone.path``).
        alias: Another name under which the adapter may have recorded the very same base.
        rank: The experts' rank.

    Raises:
        UserError: If there is no adapter, it is not plain LoRA, or its base or rank is another.
    """
    place = f"adapters.{name}"
    config, _ = read_adapter(folder)
    recorded = str(config.get("base_model_name_or_path"))
    if recorded not in {base, alias}:
        raise UserError(
            f"The adapter {name} was trained on {recorded}, and the experts are on {base}.",
            where=place,
            fix=f"backbone.path={recorded}; if both are the same model: +{place}.base={recorded}",
        )
    layers = lora_layers(folder)
    if not layers:
        raise UserError(f"The adapter {name} adapts no layer.", where=str(folder), fix="give a LoRA adapter")
    found = sorted({layer.a.shape[0] for layer in layers})
    if found != [rank]:
        raise UserError(
            f"The adapter {name} has rank {', '.join(map(str, found))}, and the experts have rank {rank}: they cannot "
            "be stacked.",
            where=place,
            fix=f"train it with rank {rank}, or the experts with expert.rank={found[0]}",
        )


def check_layers(name: str, folder: Path, lm: LanguageModel) -> None:
    """Refuse an adapter whose layers the base model does not have, or has in another shape.

    Raises:
        UserError: Naming the first such layer.
    """
    modules = dict(lm.model.named_modules())
    for layer in lora_layers(folder):
        weight = getattr(modules.get(layer.name), "weight", None)
        shape = (layer.b.shape[0], layer.a.shape[1])
        if weight is None or tuple(weight.shape) != shape:
            has = "does not have" if weight is None else f"has as {tuple(weight.shape)}, not {shape}"
            raise UserError(
                f"The adapter {name} adapts {layer.name}, which {lm.name} {has}.",
                where=f"adapters.{name}",
                fix="use an adapter that was trained on this base model",
            )


def run(
    context: Context,
    name: str,
    folder: Path,
    questions: Mapping[str, Questions],
    router: Router,
    backbone: HuggingFaceBackbone,
    lm: LanguageModel,
) -> None:
    """Write ``adapter/`` (a copy, its base under the name used here), ``row/`` and ``report.json``.

    Args:
        context: Inputs ``route`` and ``metapath:<unit>`` of all units with an expert.
        name: The name of the new expert.
        folder: The adapter.
        questions: Questions of those units.
        router: Fits what it has to know.
        backbone: For batch size.
        lm: The frozen base model.

    Raises:
        UserError: If the adapter's layers do not fit.
    """
    check_layers(name, folder, lm)
    adapter = context.out / "adapter"
    adapter.mkdir()
    shutil.copyfile(folder / ADAPTER_WEIGHTS, adapter / ADAPTER_WEIGHTS)
    config = {**json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8")), "base_model_name_or_path": lm.name}
    write_json(adapter / ADAPTER_CONFIG, config)
    known = load_answers(context.inputs["route"])
    routed = []
    if known:
        model = StackedEngine().open(lm, {name: adapter})
        try:
            for unit, place in sorted(context.group("metapath").items()):
                ids = [answer["id"] for answer in known if answer["unit"] == unit]
                samples = {s.id: s for part in ("samples", "dev") for s in load_samples(place / f"{part}.parquet")}
                new = ask_experts(questions[unit], [samples[id_] for id_ in ids], model, (name,), backbone, context)
                old = [answer for answer in known if answer["unit"] == unit]
                routed += [routed_from(*pair) for pair in zip(old, new, strict=True)]
        finally:
            model.close()
    (context.out / "row").mkdir()
    experts = tuple(read_json(context.inputs["route"] / "experts.json"))
    numbers = router.register(
        context.inputs["route"] / "router", experts, routed, context.out / "row", context.progress
    )
    by_unit = {unit: [bool(q.right[-1]) for q in routed if q.unit == unit] for unit in sorted({q.unit for q in routed})}
    right = {unit: round(sum(found) / len(found), 4) for unit, found in by_unit.items()}
    write_json(context.out / "report.json", {"fit": numbers, "right_by_unit": right})
