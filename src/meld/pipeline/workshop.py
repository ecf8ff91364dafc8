"""Things that stages share inside one process: loaded models, encoders, units. Nothing here changes a result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from meld.backbone.huggingface import HuggingFaceBackbone
from meld.backbone.language_model import LanguageModel
from meld.encoder.contrastive import ContrastiveEncoder
from meld.encoder.vectors import Embedder, Repeats
from meld.progress import quiet_libraries
from meld.serializer.base import Serializer
from meld.serializer.prompt import PromptWriter
from meld.stages.base import Context
from meld.stages.questions import Questions
from meld.stages.unit import Unit
from meld.task.base import Task


class Workshop:
    """Loads each model once.

    Args:
        tasks: Tasks by name.
        serializer: Writes entities.
        encoder: Opens encoders.
        lenders: Says for a unit whose own labels are withheld which units lend it theirs. Asked whenever a unit is
            opened, because the plan is made later than this, and anew where a unit fails.
    """

    def __init__(
        self,
        tasks: Mapping[str, Task],
        serializer: Serializer,
        encoder: ContrastiveEncoder,
        lenders: Callable[[str], Sequence[str]] = lambda unit: (),
    ) -> None:
        self.tasks = dict(tasks)
        self.serializer = serializer
        self.encoder = encoder
        self.lenders = lenders
        self._models: dict[str, LanguageModel] = {}
        self._embedders: dict[str, Embedder] = {}
        self._repeats: dict[str, Repeats] = {}
        self._units: dict[tuple[str, str], Unit] = {}
        self._writers: dict[int, PromptWriter] = {}

    def model(self, backbone: HuggingFaceBackbone) -> LanguageModel:
        """The base model, loaded when its weights are needed; recipes that load the same way share it."""
        same = "|".join(
            str(v)
            for v in (
                backbone.path,
                backbone.revision,
                backbone.dtype,
                backbone.as_decoder,
                backbone.layers,
                backbone.relative,
                backbone.attention,
                backbone.quantization,
                backbone.device,
            )
        )
        if same not in self._models:
            with quiet_libraries():
                self._models[same] = backbone.open()
        return self._models[same]

    def embedder(self, encode: Path | None) -> Embedder:
        """The trained encoder, or the untouched one for None."""
        place = "" if encode is None else str(encode)
        if place not in self._embedders:
            self._embedders[place] = self.encoder.open(None if encode is None else encode / "model")
        return self._embedders[place]

    def table_embedder(self, encode: Path) -> Repeats:
        """The trained encoder, which remembers whole tables for the next unit that has them."""
        return self._repeats.setdefault(str(encode), Repeats(self.embedder(encode)))

    def unit(self, context: Context, name: str) -> Unit:
        """A unit from a stage's inputs ``data:<unit>``, ``index:<unit>`` and, if declared, ``annotate:<unit>``."""
        parts = ("data", "index", "annotate")
        paths = {part: context.inputs.get(f"{part}:{name}") for part in parts}
        lenders = [self.unit(context, lender) for lender in self.lenders(name)]
        behind = [context.inputs.get(f"{part}:{lender.name}") for lender in lenders for part in parts]
        same = (name, "|".join(map(str, (*paths.values(), *behind))))
        if same not in self._units:
            data, index = paths["data"], paths["index"]
            assert data is not None
            assert index is not None
            self._units[same] = Unit(
                name,
                self.tasks[name.rpartition(".")[2]],
                self.serializer,
                data,
                index,
                paths["annotate"],
                self._opener(context),
                lenders,
                temperature=self.encoder.tau,
            )
        return self._units[same]

    def _opener(self, context: Context) -> Callable[[], Embedder]:
        encode = context.inputs["encode"]
        return lambda: self.embedder(encode)

    def questions(
        self, context: Context, name: str, backbone: HuggingFaceBackbone, with_demos: bool = True
    ) -> Questions:
        """A unit's questions under a backbone."""
        if id(backbone) not in self._writers:
            lm = self.model(backbone)
            self._writers[id(backbone)] = PromptWriter(
                self.serializer, self.tasks, lm.count, backbone.max_prompt_tokens
            )
        return Questions(
            self.unit(context, name),
            self._writers[id(backbone)],
            rank=backbone.decode == "rank",
            max_demos=backbone.max_demos if with_demos else 0,
            evidence_prior=backbone.evidence_prior,
        )
