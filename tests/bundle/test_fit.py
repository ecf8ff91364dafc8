"""Training from frames: what comes back answers, and the same call again computes nothing."""

from __future__ import annotations

import random
from pathlib import Path

import pandas as pd
import pytest

import meld
from meld.errors import UserError

FAST = (
    "logger=none",
    "backbone=minilm_2layer",
    "backbone@proxy=minilm_2layer",
    "encoder=none",
    "sigma=1",
    "expert.epochs=1",
    "router.epochs=1",
    "limits.samples=16",
    "limits.transformed=8",
    "limits.router_queries=4",
)
CODES = {"Rome": "06", "Milan": "02", "Turin": "011", "Naples": "081"}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def people(n: int = 40) -> pd.DataFrame:
    """An address book in which the dialling code tells the city; every eighth city is missing."""
    rng = random.Random(1)
    rows = []
    for number in range(n):
        city = rng.choice(sorted(CODES))
        rows.append({"name": f"person {number}", "phone": f"{CODES[city]}-{rng.randrange(10**6)}", "city": city})
    frame = pd.DataFrame(rows, index=[f"p{number}" for number in range(n)], dtype=object)
    frame.loc[frame.index[::8], "city"] = None
    return frame


def test_a_model_is_trained_on_a_frame_and_opened_again(tmp_path: Path) -> None:
    frame = people()
    options = {"table": frame, "target": "city", "name": "people", "folder": tmp_path / "made", "overrides": FAST}
    model = meld.fit("di", **options)
    assert model.units == ("people.di",)
    missing = frame[frame["city"].isna()]
    found = model.predict(missing, "di", progress=False)
    assert list(found.index) == list(missing.index)
    assert set(found["prediction"]) <= set(CODES)
    assert (tmp_path / "made" / "run" / "report.html").is_file()
    again = meld.load(tmp_path / "made" / "bundle").predict(missing, task="di", target="city", progress=False)
    pd.testing.assert_frame_equal(again, found)
    # The same call again: nothing is computed, and the bundle takes the place of the first.
    repeated = meld.fit("di", **options)
    pd.testing.assert_frame_equal(repeated.predict(missing, "di", progress=False), found)
    assert not list((tmp_path / "made").glob(".bundle*"))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "made" / "store").glob("*/*/manifest.json")}
    same = meld.fit("di", **options, out=tmp_path / "second")
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "made" / "store").glob("*/*/manifest.json")}
    assert after == before
    pd.testing.assert_frame_equal(same.predict(missing, "di", progress=False), found)
    with pytest.raises(UserError, match="second is there already"):
        meld.fit("di", **{**options, "folder": tmp_path / "unused"}, out=tmp_path / "second")
    assert not (tmp_path / "unused").exists(), "something was written before the refusal"


def test_two_tasks_share_their_frames(tmp_path: Path) -> None:
    rng = random.Random(2)
    words = ["red", "blue", "large", "small", "steel", "oak", "chair", "table", "lamp", "shelf"]
    titles = [" ".join(rng.sample(words, 4)) + f" {number}" for number in range(24)]
    left = pd.DataFrame({"title": titles}, index=[f"a{i}" for i in range(24)], dtype=object)
    right = pd.DataFrame({"title": [f"the {t}" for t in titles]}, index=[f"b{i}" for i in range(24)], dtype=object)
    pairs = [(f"a{i}", f"b{i}", 1) for i in range(24)] + [(f"a{i}", f"b{(i + 5) % 24}", 0) for i in range(24)]
    labels = pd.DataFrame(pairs, columns=["left", "right", "label"])
    model = meld.fit(["em", "blk"], left=left, right=right, labels=labels, folder=tmp_path, overrides=FAST)
    assert set(model.units) == {"own.em", "own.blk"}
    some = left.head(4)
    found = model.match(some, right, candidates=2, progress=False)
    assert list(found["left"]) == ["a0", "a0", "a1", "a1", "a2", "a2", "a3", "a3"]
    for number in range(4):
        assert f"b{number}" in set(found["right"][2 * number : 2 * number + 2])
    blocked = model.predict(some, "blk", progress=False)
    assert [str(answer).partition(":")[2] for answer in blocked["prediction"]] == ["b0", "b1", "b2", "b3"]


def test_what_does_not_fit_is_said_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no column 'town'(.|\n)*its columns are name, phone, city"):
        meld.fit("di", table=people(), target="town", folder=tmp_path, overrides=FAST)
    with pytest.raises(UserError, match="k = 2"):
        meld.fit("di", table=people(), target="city", folder=tmp_path, overrides=[*FAST, "k=2"])
    with pytest.raises(UserError, match="backbone"):
        meld.fit("di", table=people(), target="city", folder=tmp_path, overrides=["backbone=nothing"])
    assert not list((tmp_path / "store").glob("[a-z]*")), "an artifact was made"
