"""Every way of asking a bundle gives the same answers; what does not fit is named; a killed job goes on."""

from __future__ import annotations

import csv
import gc
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from meld.bundle.manifest import MANIFEST, write_manifest
from meld.bundle.model import Model, load
from meld.errors import UserError


@pytest.mark.slow
def test_the_shell_says_what_python_says_and_keeps_every_cell(made: Any, model: Model, tmp_path: Path) -> None:
    rows = made.rows("quickstart_people.di").reset_index(drop=True).drop(columns="target").head(4)
    rows.insert(0, "kept", ["NA", "06000", "1e5", 'a "b",\nc'])
    with (tmp_path / "in.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(rows.columns)
        writer.writerows(rows.itertuples(index=False))
    done = made.meld(
        *("predict", str(made.bundle), "in.csv", "-o", "out.csv", "--task", "di", "--target", "city"), folder=tmp_path
    )
    assert done.returncode == 0, done.stderr.decode()
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        written = list(csv.DictReader(file))
    assert [line["kept"] for line in written] == ["NA", "06000", "1e5", 'a "b",\nc']
    expected = model.predict(rows, "di", "city", progress=False)
    assert [line["prediction"] for line in written] == list(expected["prediction"])
    assert [json.loads(line["experts"]) for line in written] == [list(names) for names in expected["experts"]]
    assert not (tmp_path / "out.csv.parts").exists()


def test_the_order_of_rows_and_a_repeated_index_survive(made: Any, model: Model) -> None:
    rows = made.rows("quickstart_people.di").head(5)
    straight = model.predict(rows, "di", progress=False)
    turned = rows.iloc[::-1].set_axis(["x", "x", "y", "z", "z"])
    found = model.predict(turned, "di", chunk=2, progress=False)
    assert list(found.index) == ["x", "x", "y", "z", "z"]
    assert list(found["prediction"]) == list(straight["prediction"])[::-1]


@pytest.mark.slow
def test_rows_that_no_table_has_are_answered(made: Any, model: Model) -> None:
    pairs = made.rows("quickstart_products.em").head(2).copy()
    pairs["left_title"] = ["something nobody sells", "a second thing"]
    cells = made.rows("quickstart_hospitals.ed").head(3).copy()
    cells["city"] = "Nowhere"
    for rows, task in ((pairs, "em"), (cells, "ed"), (cells, "dc")):
        found = model.predict(rows, task, progress=False)
        assert set(found["status"]) <= {"ok", "skipped"}
        assert found["prediction"].notna().all()
        # What was admitted for these rows leaves nothing behind.
        again = model.predict(rows.iloc[::-1], task, progress=False)
        assert list(again["prediction"])[::-1] == list(found["prediction"])


@pytest.mark.slow
def test_match_blocks_then_matches(made: Any, model: Model) -> None:
    rows = made.rows("quickstart_products.em")
    left = rows[[c for c in rows if c.startswith("left_")]].rename(columns=lambda c: c.removeprefix("left_")).head(4)
    right = rows[[c for c in rows if c.startswith("right_")]].rename(columns=lambda c: c.removeprefix("right_"))
    found = model.match(left, right, candidates=3, progress=False)
    assert len(found) == 12
    assert found["left"].value_counts().to_dict() == dict.fromkeys(left.index, 3)
    assert set(found["right"]) <= set(right.index)
    assert set(found["prediction"]) <= {"match", "mismatch"}
    with pytest.raises(UserError, match="title"):
        model.match(left.drop(columns="title"), right, progress=False)


def test_an_answer_is_explained(made: Any, model: Model) -> None:
    rows = made.rows("quickstart_products.em")
    said = model.explain(rows.iloc[[0]], "em")
    answered = model.predict(rows.iloc[[0]], "em", progress=False).iloc[0]
    assert (said.prediction.output, said.prediction.experts) == (answered["prediction"], answered["experts"])
    assert said.path == model.opened.paths["quickstart_products.em"] == ("quickstart_products.blk",)
    assert {edit.step for edit in said.asked.edits} == set(said.path)
    assert [share for _, share in said.ranked] == sorted((share for _, share in said.ranked), reverse=True)
    assert said.ranked[0] == (answered["prediction"], answered["score"])
    assert sum(share for _, share in said.evidence) == pytest.approx(1.0, abs=1e-5)
    assert rows["left_title"].iloc[0].split()[0].lower() in said.prompt.lower()
    for shown in (said.prediction.experts[0], "path: quickstart_products.blk", "retrieval alone", "attach "):
        assert shown in str(said)
    cell = model.explain(made.rows("quickstart_hospitals.ed").iloc[0], "ed")
    assert (cell.prompt, cell.path, cell.evidence) == ("", (), ())
    assert {name for name, _ in cell.ranked} == {"error", "correct"}
    with pytest.raises(UserError, match="2 rows"):
        model.explain(rows.head(2), "em")


@pytest.mark.parametrize("unit", ["quickstart_products.em", "quickstart_hospitals.dc", "quickstart_hospitals.ed"])
def test_an_answer_does_not_depend_on_the_rows_beside_it(made: Any, model: Model, unit: str) -> None:
    rows = made.rows(unit).head(12).copy()
    first = next(column for column in rows if column not in {"title", "target"})
    rows.iloc[::2, list(rows).index(first)] = "something new"
    whole = model.predict(rows, unit=unit, progress=False)
    for chunk in (1, 5):
        parts = model.predict(rows, unit=unit, chunk=chunk, progress=False)
        assert list(parts["prediction"]) == list(whole["prediction"])
        assert list(parts["experts"]) == list(whole["experts"])
        assert np.allclose(parts["score"], whole["score"], atol=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_limit_on_the_questions_of_steps_is_the_runs_and_not_of_the_rows(made_ten: Any, tmp_path: Path) -> None:
    """A path whose step asked the first question only would treat the first row of every chunk unlike the others."""
    shutil.copytree(made_ten.bundle, tmp_path / "limited")
    content = json.loads((tmp_path / "limited" / MANIFEST).read_text())
    content["rules"]["max_queries"] = 1
    write_manifest(tmp_path / "limited", content)
    rows = made_ten.rows("quickstart_products.em").head(3)
    limited, free = load(tmp_path / "limited"), load(made_ten.bundle)
    expected = free.predict(rows, "em", progress=False)
    for chunk in (2, 3):
        found = limited.predict(rows, "em", chunk=chunk, progress=False)
        assert list(found["prediction"]) == list(expected["prediction"])
        assert np.allclose(found["score"], expected["score"], atol=1e-4)
    assert limited.explain(rows.iloc[[2]], "em").asked.edits == free.explain(rows.iloc[[2]], "em").asked.edits


def test_a_bundle_is_refused_over_another_base_model(made: Any, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

    from meld.backbone.weights import EMBEDDED_MINILM, resolve

    AutoTokenizer.from_pretrained(resolve(EMBEDDED_MINILM)).save_pretrained(tmp_path / "other")
    BertForMaskedLM(
        BertConfig(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8)
    ).save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match="not the one the experts were trained on"):
        load(made.bundle, base=str(tmp_path / "other"))
    same = shutil.copytree(resolve(EMBEDDED_MINILM), tmp_path / "same")
    moved = load(made.bundle, base=str(same))
    rows = made.rows("quickstart_people.di").head(2)
    assert list(moved.predict(rows, "di", progress=False)["status"]) == ["ok", "ok"]


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.pop("rules"),
        lambda c: c["rules"].update(chase="backwards"),
        lambda c: c["rules"].update(more=1),
        lambda c: c["rules"].update(kinds=None),
        lambda c: c.pop("tasks"),
        lambda c: c["parts"].pop("engine"),
        lambda c: c.update(units=list(c["units"])),
        lambda c: c["units"].update({"quickstart_people.di": None}),
        lambda c: c["units"]["quickstart_people.di"].update(path=["../x"]),
        lambda c: c["units"]["quickstart_people.di"].update(path=[[]]),
        lambda c: c["units"]["quickstart_people.di"].update(task="cta"),
        lambda c: c["units"]["quickstart_people.di"].update(answers="no"),
        lambda c: c["parts"].update(more={"option": "cat", "arguments": {}}),
        lambda c: c.pop("exclude"),
        lambda c: c.update(base=None),
        lambda c: c.update(base="embedded:minilm"),
        lambda c: c["base"].update(fingerprint=1),
    ],
)
def test_a_manifest_that_says_something_else_is_refused(made: Any, tmp_path: Path, change: Any) -> None:
    shutil.copytree(made.bundle, tmp_path / "b")
    content = json.loads((tmp_path / "b" / MANIFEST).read_text())
    change(content)
    (tmp_path / "b" / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(UserError, match="does not say what it should"):
        load(tmp_path / "b")


def test_a_template_cannot_leave_its_sandbox(made: Any, tmp_path: Path) -> None:
    shutil.copytree(made.bundle, tmp_path / "b")
    template = next((tmp_path / "b" / "templates").glob("*/di.j2"))
    template.write_text("{{ ''.__class__.__mro__[1].__subclasses__() }}")
    write_manifest(tmp_path / "b", json.loads((tmp_path / "b" / MANIFEST).read_text()))
    with pytest.raises(UserError, match="template"):
        load(tmp_path / "b").predict(made.rows("quickstart_people.di").head(1), "di", progress=False)


_DI = "units/quickstart_people.di"


@pytest.mark.parametrize(
    ("pattern", "content"),
    [
        (f"{_DI}/card.json", b"[]"),
        (f"{_DI}/card.json", b"{}"),
        (f"{_DI}/card.json", None),
        (f"{_DI}/data/unit.json", b"{}"),
        (f"{_DI}/data/unit.json", b"7"),
        (f"{_DI}/data/table_0.parquet", "train.parquet"),
        (f"{_DI}/data/train.parquet", "table_0.parquet"),
        (f"{_DI}/data/table_0.parquet", None),
        (f"{_DI}/annotate/samples.parquet", "../data/table_0.parquet"),
        (f"{_DI}/index/texts.parquet", "../data/table_0.parquet"),
        (f"{_DI}/index/vectors.safetensors", "../../../router/head.safetensors"),
        ("units/quickstart_products.em/balance.json", b"{}"),
        ("templates/*/di.j2", b"{% if %}"),
        ("templates/*/di.j2", b"{{ range(10**9) | list }}"),
        ("templates/*/di.j2", b"{{ 1 / 0 }}"),
        ("templates/*/di.j2", b"\xff"),
    ],
)
def test_a_damaged_file_is_named_when_all_are_opened(made: Any, tmp_path: Path, pattern: str, content: Any) -> None:
    """Their checksums are right: somebody wrote such a bundle, or a version of MELD that is not this one."""
    shutil.copytree(made.bundle, tmp_path / "b")
    (file,) = (tmp_path / "b").glob(pattern)
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content if isinstance(content, bytes) else (file.parent / content).read_bytes())
    write_manifest(tmp_path / "b", json.loads((tmp_path / "b" / MANIFEST).read_text()))
    with pytest.raises(UserError, match=r"damaged|missing|lacks the column|cannot be rendered") as caught:
        load(tmp_path / "b").opened.open_all()
    assert caught.value.where == str(file)


def test_an_untouched_bundle_opens_whole_and_then_answers(made: Any) -> None:
    opened = load(made.bundle)
    opened.opened.open_all()
    made.check_some(
        opened.predict(made.rows("quickstart_products.em").head(2), "em", progress=False), "quickstart_products.em"
    )


def test_a_base_that_is_nowhere_is_said_to_be(made: Any) -> None:
    with pytest.raises(UserError, match="There is no folder 'nope' here"):
        load(made.bundle, base="nope")


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:99", "CPU", "", 0, None])
def test_a_device_that_is_none_is_refused_before_anything_is_loaded(tmp_path: Path, device: Any) -> None:
    with pytest.raises(UserError, match="no device"):
        load(tmp_path / "absent", device=device)


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_devices_that_every_machine_has(tmp_path: Path, device: str) -> None:
    with pytest.raises(UserError, match="no bundle"):
        load(tmp_path / "absent", device=device)


def test_no_rows_have_no_answers(made: Any, model: Model, tmp_path: Path) -> None:
    rows = made.rows("quickstart_people.di").head(0).drop(columns="target")
    found = model.predict(rows, "di", "city", out=tmp_path / "out.csv", progress=False)
    assert found.empty
    assert (tmp_path / "out.csv").read_text().strip().endswith("prediction,score,experts,weights,status")


def test_what_does_not_fit_is_named(made: Any, model: Model) -> None:
    rows = made.rows("quickstart_people.di").drop(columns="target")
    for wrong, words in (
        (lambda: model.predict(rows.drop(columns="phone"), "di", "city"), "'phone'"),
        (lambda: model.predict(rows, "di"), "city, state"),
        (lambda: model.predict(rows, "di", "name"), "'name'"),
        (lambda: model.predict(rows, "cta"), "'cta'"),
        (lambda: model.predict(rows), "Several units"),
        (lambda: model.predict(rows, unit="quickstart_person.di"), "quickstart_people.di"),
        (lambda: model.predict(rows, "di", 5), "A target is the name of a column, not int"),
        (lambda: model.predict(rows, 5), "A task is named as text, not as int"),
        (lambda: model.predict(rows, unit=5), "A unit is named as text, not as int"),
        (lambda: model.predict(rows.assign(target="city"), "di", "state"), "named twice"),
        (
            lambda: model.predict(rows.assign(target="town"), "di"),
            "Row 0: .* has not learnt .*'town'",
        ),
        (lambda: model.explain("eve", "di"), "not str"),
        (lambda: model.explain(None, "di"), "not NoneType"),
        (lambda: model.card("quickstart_people"), r"no unit 'quickstart_people'\.\n"),
        (lambda: model.predict(rows.assign(score=1, meld_score=1), "di", "city", out="x.csv"), "'meld_score'"),
    ):
        with pytest.raises(UserError, match=words):
            wrong()


@pytest.mark.slow
def test_a_killed_job_goes_on_without_losing_or_doubling_a_row(made: Any, model: Model, tmp_path: Path) -> None:
    rows = made.rows("quickstart_people.di").reset_index(drop=True).drop(columns="target")
    many = pd.concat([rows] * 6, ignore_index=True)
    many.insert(0, "number", [str(i) for i in range(len(many))])
    many.to_csv(tmp_path / "in.csv", index=False)
    words = ("predict", str(made.bundle), "in.csv", "-o", "out.csv", "--task", "di", "--target", "city", "--chunk", "2")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "meld", *words], cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL
    )
    parts = tmp_path / "out.csv.parts"
    deadline = time.monotonic() + 240
    while len(list(parts.glob("0*.parquet"))) < 2 and time.monotonic() < deadline:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {path.name: path.stat().st_mtime_ns for path in parts.glob("0*.parquet")}
    assert 2 <= len(kept) < len(many) / 2
    assert not (tmp_path / "out.csv").exists()
    other = made.meld(*words, "--target", "state", folder=tmp_path)
    assert other.returncode == 2
    assert b"differs in the asked column" in other.stderr
    assert b"--restart" in other.stderr
    assert {path.name: path.stat().st_mtime_ns for path in parts.glob("0*.parquet")} == kept
    done = made.meld(*words, folder=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    written = pd.read_csv(tmp_path / "out.csv", dtype=str, keep_default_na=False)
    assert list(written["number"]) == list(many["number"])
    expected = list(model.predict(rows, "di", "city", progress=False)["prediction"])
    assert list(written["prediction"]) == expected * 6


@pytest.mark.slow
def test_streams_and_exit_codes(made: Any, tmp_path: Path) -> None:
    rows = made.rows("quickstart_hospitals.ed").drop(columns="target").head(2)
    lines = "".join(json.dumps(dict(row)) + "\n" for _, row in rows.iterrows()).encode()
    words = ["predict", str(made.bundle), "-", "--format", "jsonl", "--out-format", "jsonl"]
    words += ["--task", "ed", "--target", "city"]
    done = subprocess.run(
        [sys.executable, "-m", "meld", *words],
        input=lines,
        capture_output=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    answers = [json.loads(line) for line in io.BytesIO(done.stdout)]
    assert [{k: a[k] for k in rows} for a in answers] == [dict(row) for _, row in rows.iterrows()]
    assert all(answer["prediction"] in {"error", "correct"} for answer in answers)
    refused = made.meld("predict", str(made.bundle), "absent.csv", folder=tmp_path)
    assert refused.returncode == 2
    assert b"absent.csv" in refused.stderr
    assert b"Traceback" not in refused.stderr


def test_numbers_in_frames_are_read_as_they_are_written(made: Any, model: Model) -> None:
    rows = made.rows("quickstart_people.di").drop(columns="target").head(2)
    name = next(c for c in rows if c not in {"city", "state"})
    as_text = model.predict(rows.assign(**{name: ["6000", ""]}), "di", "city", progress=False)
    numbers = pd.Series([6000, np.nan], index=rows.index, dtype=object)  # without it pandas makes 6000.0 of it
    as_values = model.predict(rows.assign(**{name: numbers}), "di", "city", progress=False)
    assert list(as_text["score"]) == list(as_values["score"])


@pytest.mark.slow
def test_asking_again_and_again_keeps_nothing(made: Any, model: Model) -> None:
    """A server asks for ever: what grows by a little with every question ends it."""
    asked = [(unit, made.rows(unit).head(3).to_dict("records")) for unit in model.units]

    def round_trip() -> None:
        for unit, rows in asked:
            # A new frame each time: pandas notes in an old one which pieces were cut from it.
            frame = pd.DataFrame(rows, dtype=object)
            model.predict(frame, unit=unit, progress=False)
            model.explain(frame.iloc[[0]], unit=unit)

    def held() -> Counter[str]:
        gc.collect()
        return Counter(type(thing).__name__ for thing in gc.get_objects())

    round_trip()
    before = held()
    for _ in range(4):
        round_trip()
    kept = {kind: number for kind, number in (held() - before).items() if number > 4}
    assert not kept, "a little more after every question"
