"""annotate: self-annotation of a unit's pool, and the demonstrations of all its queries."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from meld.annotator.across import DONOR_TASKS, made_of_tuples
from meld.annotator.base import Annotator, Surroundings, nothing_added
from meld.dataset.io import load_unit, save_samples
from meld.encoder.vectors import Embedder, Vectors
from meld.retriever.base import Demonstrations, Retriever
from meld.seeds import derive, generator
from meld.stages.base import Context, write_json
from meld.stages.unit import Unit, save_demonstrations
from meld.task.base import Task
from meld.types import Query, Sample

VERSION = 4


def donors(unit: str, units: tuple[str, ...]) -> tuple[str, ...]:
    """Units whose labelled samples may be transformed into samples of a unit (method section 2, self-annotation (b)).

    Cells are corrupted within a dataset; a matching pair with a masked attribute becomes an imputation query anywhere,
    and so do tuples whose title holds an attribute (AVE) and columns that are named as a type (CTA).
    """
    dataset, _, task = unit.rpartition(".")
    if task in {"ed", "dc"}:
        return tuple(u for u in units if u in {f"{dataset}.ed", f"{dataset}.dc"})
    if task == "di":
        return tuple(u for u in units if u.endswith(".em"))
    if task in {"ave", "cta"}:
        return tuple(u for u in units if u.rpartition(".")[2] in DONOR_TASKS)
    return ()


def run(
    context: Context,
    unit: Unit,
    annotator: Annotator,
    retriever: Retriever,
    tasks: Mapping[str, Task],
    embedder: Callable[[], Embedder],
) -> None:
    """Write ``samples.parquet`` (X_i), ``extra/`` (their new vectors), ``demonstrations.parquet`` and ``report.json``.

    Args:
        context: Inputs ``donor:<unit>`` (data of units that donate transformed samples).
        unit: The unit, before annotation.
        annotator: Makes samples.
        retriever: Finds demonstrations among them.
        tasks: All tasks by name, for the donors' transforms.
        embedder: Opens the trained encoder.
    """
    data = unit.data
    donated: dict[str, Sample] = {}
    for donor, path in sorted(context.group("donor").items()):
        given = load_unit(path)
        rng = generator(context.seed, "transform", donor)
        made = made_of_tuples(given, data, rng) or tasks[given.task].transforms(given.train, given, rng)
        for sample in made:
            if sample.query.task == data.task:
                donated[sample.id] = replace(sample, query=replace(sample.query, unit=data.unit))
    few_shot = (*data.train, *data.dev)
    queries: list[Query] = [*(s.query for s in few_shot), *data.pool]
    vectors = unit.query_vectors(queries) if data.task in {"di", "cta", "re"} else None
    around = Surroundings(
        partners=unit.partners,
        cells=unit.cells if data.task in {"ed", "dc"} else None,
        vectors={} if vectors is None else {q.id: v for q, v in zip(queries, vectors, strict=True)},
    )
    annotated = annotator.annotate(data, around, list(donated.values()), derive(context.seed, "annotate"))
    samples = annotated.samples
    message = nothing_added(data, annotated)
    if message and unit.task.solver == "llm":
        context.progress.say(message)
    save_samples(samples, context.out / "samples.parquet")
    texts = {t for s in samples for t in unit.task.encoder_texts(s.query, unit.serializer.text)}
    missing = sorted(text for text in texts if text not in unit.vectors)
    extra = Vectors.of(missing, embedder(), context.progress) if missing else Vectors([], unit.vectors.array[:0])
    extra.save(context.out / "extra")
    if unit.task.solver == "llm":
        asked = {q.id: q for q in (*(s.query for s in samples), *(s.query for s in few_shot), *data.test)}
        found = demonstrate(unit, retriever, list(asked.values()), samples, derive(context.seed, "retrieve"))
        save_demonstrations(found, context.out / "demonstrations.parquet")
    write_json(context.out / "report.json", dict(annotated.report))


def demonstrate(
    unit: Unit, retriever: Retriever, queries: Sequence[Query], samples: Sequence[Sample], seed: int
) -> dict[str, Demonstrations]:
    """Demonstrations of queries, by query id.

    Args:
        unit: Knows the vectors.
        retriever: Finds demonstrations.
        queries: What is asked.
        samples: The unit's annotated samples; transformed ones demonstrate only where there are no others.
        seed: For retrievers that draw.
    """
    corpus = [s for s in samples if not s.provenance.startswith("transformed")] or list(samples)
    found = retriever.retrieve(
        queries, unit.query_vectors(queries), corpus, unit.query_vectors([s.query for s in corpus]), seed
    )
    return {query.id: demos for query, demos in zip(queries, found, strict=True)}
