"""``meld data``: what it lists, describes and finds, and how it fails."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from meld.cli.data import run_data
from meld.cli.data_options import read_options
from meld.cli.main import main
from meld.config.presets import shipped
from meld.dataset.leaks import find_leaks
from meld.types import Query, Sample, UnitData

OPTIONS = {path.stem: path for path in (shipped("conf") / "dataset").glob("*.yaml")}
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run ``meld data`` with an empty data folder, wide enough for no word to be cut."""

    def call(*words: str) -> tuple[int, str]:
        out = io.StringIO()
        code = run_data([*words, f"paths.data={tmp_path / 'data'}"], Console(file=out, width=240, color_system=None))
        return code, out.getvalue()

    return call


def magellan(root: Path, test: str = "1,1,1\n2,0,0\n") -> None:
    """A tiny Abt-Buy."""
    base = root / "data" / "em" / "Abt-Buy"
    base.mkdir(parents=True)
    for side in "AB":
        rows = "".join(f"{row},Thing {row if row < 3 else 1},d,{row}\n" for row in range(8))
        (base / f"table{side}.csv").write_text(f"id,name,description,price\n{rows}")
    head = "ltable_id,rtable_id,label\n"
    (base / "train.csv").write_text(head + "".join(f"{row},{row},1\n{row},{row - 1},0\n" for row in range(1, 8)))
    (base / "valid.csv").write_text(f"{head}1,3,0\n")
    (base / "test.csv").write_text(head + test)


def sample(values: str, label: str = "match", task: str = "em", target: str | None = None) -> Sample:
    return Sample(Query(f"u/{values}", "d.em", task, ({"name": values},), target=target), label)


def unit(train: list[Sample], test: list[Query], task: str = "em") -> UnitData:
    return UnitData(f"d.{task}", "d", task, {}, tuple(train), (), (), tuple(test))


def test_list_names_every_option(run: Run) -> None:
    code, text = run("list")
    assert code == 0
    for name, path in OPTIONS.items():
        line = next(line for line in text.splitlines() if f"│ {name} " in line)
        node = yaml.safe_load(path.read_text())
        assert ", ".join(node["tasks"]) in line
        if node.get("publisher"):
            assert "missing" in line
            assert node["publisher"] in line
    assert "your own files" in text
    assert "made by code" in text


def test_a_dataset_that_fails_does_not_take_the_others_down(run: Run, tmp_path: Path) -> None:
    magellan(tmp_path, test="1,99,1\n")
    code, text = run("check")
    assert code == 1
    failed = text.partition("failed ──")[2]
    assert "record '99'" in failed
    assert "quickstart_people.di" in text.partition("failed ──")[0]
    missing = text.partition("missing ──")[2].partition("failed ──")[0]
    assert "rayyan" in missing
    assert "https://github.com/SeegerM/baran" in missing


def test_missing_files_are_no_failure(run: Run) -> None:
    code, text = run("check")
    assert code == 0
    assert "failed ──" not in text
    assert run("check", "rayyan")[0] == 0


def test_check_counts_and_finds_what_is_tested_and_known(run: Run, tmp_path: Path) -> None:
    magellan(tmp_path)
    code, text = run("check", "abt_buy")
    assert code == 0
    line = next(line for line in text.splitlines() if "abt_buy.em" in line)
    # Of the 14 training pairs one is a test pair as well, and is left out.
    cells = [cell.strip() for cell in line.strip("│").split("│")]
    assert cells[:5] == ["abt_buy.em", "10", "3", "0", "2"]
    assert cells[6] in ("match 1, mismatch 1", "mismatch 1, match 1")
    assert run("check", "abt_buy", "datasets.abt_buy.max_test=1")[1] != text


def test_leaks_by_hand() -> None:
    train = [sample("Sony TV-1"), sample("x")]
    test = [sample(value).query for value in ("Sony TV-1", "sony  tv 1", "SÔNY tv1", "Sony TV-2", "x")]
    leaks = find_leaks(unit(train, test))
    assert (leaks.equal, leaks.near) == (2, 2)
    assert not leaks.columns
    # The same tuple asked about another attribute is another question.
    asked = [sample("x", task="ed", target="name").query]
    assert find_leaks(unit([sample("x", task="ed", target="zip")], asked, "ed")).equal == 0


def test_telling_columns_are_found() -> None:
    entity = {"record_id": "1", "Label": "0", "identity": "a", "price": "2", "ean": "3"}
    data = unit([], [Query("q", "d.em", "em", (entity,))])
    assert find_leaks(data).columns == ("record_id", "Label")
    assert find_leaks(data, ["ean"]).columns == ("record_id", "Label", "ean")
    filled = Query("q", "d.di", "di", ({"city": "Rome"},), target="city")
    assert find_leaks(unit([], [filled], "di")).filled == 1


def test_own_tables(run: Run, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("id,name,city\n" + "".join(f"{row},n{row},c{row % 2}\n" for row in range(10)))
    given = (f"datasets.csv_cells.table={table}", "datasets.csv_cells.targets=[city]")
    code, text = run("check", "csv_cells", *given)
    assert code == 0
    assert "shows id" in text
    assert "shows id" not in run("check", "csv_cells", *given, "datasets.csv_cells.id=id")[1]
    named = [word.replace("csv_cells", "mine") for word in given]
    code, text = run("check", "mine", "+dataset@datasets.mine=csv_cells", "datasets.mine.name=mine", *named)
    assert code == 0
    assert "mine.di" in text
    # A file that the user names and that is not there is a failure, not a data set to be had elsewhere.
    code, text = run("check", "csv_cells", "datasets.csv_cells.table=none.csv")
    assert code == 1
    assert "cannot find none.csv" in text


def test_describe(run: Run, tmp_path: Path) -> None:
    magellan(tmp_path)
    code, text = run("describe", "abt_buy")
    assert code == 0
    assert OPTIONS["abt_buy"].read_text().splitlines()[0].lstrip("# ") in text
    assert "https://github.com/ZJU-DAILY/CollaborEM" in text
    assert "columns of table A (8 rows): name, description, price" in text
    assert "tokens of abt_buy.em (15 queries" in text
    assert "a query of abt_buy.em" in text
    assert "same?" in text
    code, text = run("describe", "beers" if "beers" in OPTIONS else "rayyan")
    assert code == 0
    assert "put dirty.csv" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "needs a command"),
        (("lst",), r"no command 'lst'[\s\S]*meld data list"),
        (("describe",), "takes one name"),
        (("describe", "a", "b"), "takes one name"),
        (("list", "abt_buy"), "takes no 'abt_buy'"),
        (("check", "--all"), "takes no '--all'"),
        (("check", "hospitl"), "did you mean hospital"),
        (
            ("check", "hospital", "datasets.hospital.max_tst=3"),
            r"max_tst[\s\S]*did you mean datasets.hospital.max_test",
        ),
        (("check", "hospital", "seeed=3"), "seeed"),
        (("check", "hospital", "datasets.hospital.max_test=[1"), "cannot be read"),
    ],
)
def test_wrong_words_are_one_screen_and_code_2(
    words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", *words]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("meld: ")
    assert re.search(said, shown)
    assert "Traceback" not in shown


def test_options_resolve_against_the_configuration() -> None:
    options, tree = read_options(["data_seed=7", "datasets.rayyan.max_test=5", "paths.data=elsewhere"])
    assert set(options) == set(OPTIONS)
    node = options["rayyan"].node
    assert node is not None
    assert (node["root"], node["data_seed"], node["max_test"]) == ("elsewhere", 7, 5)
    assert tree["data_seed"] == 7


@pytest.mark.data
def test_published_counts(data_root: Path) -> None:
    counts = {"abt_buy": "1,916", "amazon_google": "2,293", "hospital": "980 test tuples", "walmart": "104 test cells"}
    for name, count in counts.items():
        out = io.StringIO()
        code = run_data(["check", name, f"paths.data={data_root}"], Console(file=out, width=240, color_system=None))
        if "missing ──" in out.getvalue():
            continue
        assert code == 0
        assert count in out.getvalue()
