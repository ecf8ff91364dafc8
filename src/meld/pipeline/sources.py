"""The datasets of a run: which can be loaded, and what their units' content digests are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from meld.dataset.base import Dataset, Source
from meld.dataset.io import digest_unit
from meld.errors import ConfigError, DataError, UserError
from meld.report.results import Failure
from meld.stages.base import read_json, write_json
from meld.store.keys import component_spec, digest, file_digest
from meld.store.store import Store

DATA_VERSION = 2

Load = Callable[[], Source]


@dataclass(frozen=True)
class Sources:
    """What is known of the datasets before anything is computed.

    Attributes:
        digests: Digests of the visible data and of the hidden labels by unit, in the order of the suite.
        load: Loads a dataset by its name, once.
        notes: What loading had to handle.
        failures: The units of the datasets that cannot be loaded.
    """

    digests: Mapping[str, tuple[str, str]]
    load: Mapping[str, Load]
    notes: tuple[str, ...]
    failures: tuple[Failure, ...]

    def of(self, unit: str) -> Source:
        """The dataset a unit belongs to."""
        return self.load[unit.rpartition(".")[0]]()


def find_sources(datasets: Mapping[str, Dataset], nodes: Mapping[str, Mapping[str, Any]], store: Store) -> Sources:
    """Digest every dataset, loading those whose content is not remembered.

    One that cannot be loaded does not take the others down: its units are named as failures.

    Args:
        datasets: Datasets by name.
        nodes: Their configurations.
        store: Remembers digests.

    Raises:
        ConfigError: If a dataset does not take its options.
        DataError: If no dataset can be loaded.
    """
    digests: dict[str, tuple[str, str]] = {}
    loads: dict[str, Load] = {}
    notes: list[str] = []
    errors: dict[str, Exception] = {}
    for name, dataset in datasets.items():
        load = _once(dataset)
        try:
            content = _content(load, dataset, nodes[name], store)
        except ConfigError:
            raise
        except Exception as error:
            errors[name] = error
            continue
        digests |= {unit: (visible, hidden) for unit, (visible, hidden) in content["units"].items()}
        loads[name] = load
        notes += content["notes"]
    if errors and not digests:
        raise _nothing_loaded(errors)
    failures = tuple(
        Failure.of(f"{name}.{task}", "data", error) for name, error in errors.items() for task in nodes[name]["tasks"]
    )
    return Sources(digests, loads, tuple(notes), failures)


def _once(dataset: Dataset) -> Load:
    loaded: list[Source] = []

    def load() -> Source:
        if not loaded:
            loaded.append(dataset.load())
        return loaded[0]

    return load


def _content(load: Load, dataset: Dataset, node: Mapping[str, Any], store: Store) -> Any:
    """Digests of a dataset's units and its notes, remembered by configuration and file contents."""
    cache = store.root / ".sources"
    files = [file_digest(path, cache) for path in dataset.files()]
    key = digest("source", DATA_VERSION, component_spec(node), files)
    remembered = cache / f"{key}.json"
    if remembered.is_file():
        return read_json(remembered)
    source = load()
    content = {
        "units": {u: [digest_unit(d), digest("gold", _plain_gold(source, u))] for u, d in source.units.items()},
        "notes": list(source.notes),
    }
    cache.mkdir(parents=True, exist_ok=True)
    partial = remembered.with_suffix(".partial")
    write_json(partial, content)
    partial.replace(remembered)
    return content


def _plain_gold(source: Source, unit: str) -> dict[str, Sequence[str]]:
    return {id_: list(answers) for id_, answers in sorted(source.gold[unit].items())}


def _nothing_loaded(errors: Mapping[str, Exception]) -> Exception:
    """What to raise when no dataset can be loaded: the error itself if it is one, else all of them."""
    first = next(iter(errors.values()))
    if len(errors) == 1 or not isinstance(first, UserError):
        return first
    said = "\n".join(f"  {name}: {getattr(error, 'what', error)}" for name, error in errors.items())
    return DataError(f"None of the {len(errors)} datasets can be loaded:\n{said}", where=first.where, fix=first.fix)
