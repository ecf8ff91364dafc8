"""What masked settings withhold, by hand and as properties."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meld.config.transfer import SETTINGS, SHARED_LABELS, masking

UNITS = (
    "abt.em",
    "abt.blk",
    "goo.em",
    "goo.blk",
    "rest.di",
    "walm.di",
    "hosp.ed",
    "hosp.dc",
    "beer.ed",
    "beer.dc",
    "oa.ave",
)
EXPERTS = ("abt.em", "goo.em", "rest.di", "walm.di", "hosp.dc", "beer.dc", "oa.ave")


def test_without_a_setting_nothing_is_withheld() -> None:
    assert not masking("none", UNITS, EXPERTS, ["abt.em"])
    assert not masking("cross_task", UNITS[1:2], ())


def test_the_default_target_is_the_first_unit_with_an_expert() -> None:
    assert masking("cross_dataset", ("hosp.ed", *UNITS), EXPERTS).targets == ("abt.em",)


def test_cross_dataset_withholds_the_whole_dataset() -> None:
    assert masking("cross_dataset", UNITS, EXPERTS, ["abt.em"]).withheld == {"abt.em", "abt.blk"}
    assert masking("cross_dataset", UNITS, EXPERTS, ["hosp.dc"]).withheld == {"hosp.dc", "hosp.ed"}


def test_cross_task_withholds_the_task_and_labels_that_are_the_same_facts() -> None:
    # goo.blk is learnt from the pairs that goo.em labels as match.
    assert masking("cross_task", UNITS, EXPERTS, ["abt.em"]).withheld == {"abt.em", "abt.blk", "goo.em", "goo.blk"}
    assert masking("cross_task", UNITS, EXPERTS, ["rest.di"]).withheld == {"rest.di", "walm.di"}
    assert masking("cross_task", UNITS, EXPERTS, ["hosp.dc"]).withheld == {"hosp.dc", "hosp.ed", "beer.dc", "beer.ed"}


def test_further_units_and_datasets() -> None:
    found = masking("cross_dataset", UNITS, EXPERTS, ["rest.di"], also=["oa", "goo.em"])
    assert found.withheld == {"rest.di", "oa.ave", "goo.em"}


@given(st.sampled_from(SETTINGS[1:]), st.sets(st.sampled_from(EXPERTS), min_size=1, max_size=3))
def test_no_label_of_a_target_survives(setting: str, targets: set[str]) -> None:
    found = masking(setting, UNITS, EXPERTS, sorted(targets))
    assert targets <= found.withheld <= set(UNITS)
    for target in targets:
        dataset, _, task = target.rpartition(".")
        for unit in set(UNITS) - found.withheld:
            other, _, kind = unit.rpartition(".")
            assert other != dataset
            assert setting == "cross_dataset" or kind != task
            assert setting == "cross_dataset" or not any(
                {task, kind} <= family and f"{other}.{task}" in UNITS for family in SHARED_LABELS
            )
    assert (
        masking("cross_dataset", UNITS, EXPERTS, sorted(targets)).withheld
        <= masking("cross_task", UNITS, EXPERTS, sorted(targets)).withheld
    )
