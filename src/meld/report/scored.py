"""What a finished run's metrics were computed from, read back from its predictions."""

from __future__ import annotations

from pathlib import Path

from meld.dataset.io import load_predictions, load_unit
from meld.errors import DataError
from meld.evaluate.counting import Counted
from meld.evaluate.metrics import counted
from meld.store.uses import linked


def counted_unit(run: Path, unit: str) -> Counted:
    """The counts of a unit of a run.

    Args:
        run: The run directory.
        unit: ``<dataset>.<task>``.

    Raises:
        DataError: If its predictions are not there; for cleaning, if its data artifact is not (it holds the values
            before cleaning).
        ValueError: If the task is unknown.
    """
    import pyarrow.parquet as pq

    path = run / "predictions" / f"{unit}.parquet"
    if not path.is_file():
        raise DataError(f"There are no predictions of {unit}.", where=str(run), fix="run the same command again")
    task = unit.rpartition(".")[2]
    table = pq.read_table(path, columns=["query_id", "gold", "correct"])
    # Queries that are not scored (blocking of a record without a partner) have no correctness.
    gold = {
        str(query): tuple(str(answer) for answer in answers or ())
        for query, answers, correct in zip(*(table.column(i).to_pylist() for i in range(3)), strict=True)
        if correct is not None
    }
    predictions = load_predictions(path)
    if task != "blk":
        predictions = [prediction for prediction in predictions if prediction.query_id in gold]
    return counted(task, predictions, gold, _dirty(run, unit) if task == "dc" else {})


def _dirty(run: Path, unit: str) -> dict[str, str]:
    folder = linked(run, f"data.{unit}")
    if folder is None:
        raise DataError(
            f"The data of {unit} is no longer in the store.", where=str(run), fix="run the same command again"
        )
    return {q.id: q.entities[0][q.target] for q in load_unit(folder).test if q.target is not None}
