"""Who was eliminated, by group, with Wilson intervals."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import NormalDist

import pandas as pd
import pytest

from dqc_lib.cohort import Cohort
from dqc_lib.evaluation import elimination_report

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture
def cohort():
    """Two training subjects of a harmful center, three of a good one, one of them harmful, and a test subject."""
    table = pd.DataFrame(
        {
            "subject": ["sub-a", "sub-b", "sub-c", "sub-d", "sub-e", "sub-f"],
            "center": [HOSTILE, HOSTILE, "B", "B", "B", "B"],
            "diagnosis": [1, 0, 1, 0, 1, 0],
            "sex": ["F", "M", "F", "M", "M", "F"],
            "age": [50.0, 60.0, 70.0, 80.0, 56.0, 57.0],
            "scanner": "unknown",
            "path": "/nowhere.nii.gz",
            "role": ["train"] * 5 + ["test"],
            "harm": ["inversion", "inversion", "additive noise @ 2", "", "", ""],
            "placement": ["center", "center", "single", "", "", ""],
        }
    )
    return Cohort(table, Path("/nowhere"))


def bound_by_hand(k, n, confidence=0.95):
    """Wilson 1927: center and half width from k of n."""
    z, p = NormalDist().inv_cdf((1 + confidence) / 2), k / n
    half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return [(p + z**2 / (2 * n) - half) / (1 + z**2 / n), (p + z**2 / (2 * n) + half) / (1 + z**2 / n)]


def pick(found, images, subgroup):
    rows = found[(found["images"] == images) & (found["subgroup"] == subgroup)]
    return rows.set_index("group")[["n", "eliminated", "share", "low", "high"]]


def test_shares_and_intervals_equal_hand_counts(cohort):
    found = elimination_report(["sub-a", "sub-d", "sub-a"], cohort)
    assert list(found.columns) == ["images", "subgroup", "group", "n", "eliminated", "share", "low", "high"]
    assert list(pick(found, "all", "overall").loc["all"]) == pytest.approx([5, 2, 0.4, *bound_by_hand(2, 5)])
    assert list(pick(found, "all", "sex").loc["F"]) == pytest.approx([2, 1, 0.5, *bound_by_hand(1, 2)])
    assert list(pick(found, "all", "sex").loc["M"]) == pytest.approx([3, 1, 1 / 3, *bound_by_hand(1, 3)])
    assert list(pick(found, "all", "center").loc[HOSTILE]) == pytest.approx([2, 1, 0.5, *bound_by_hand(1, 2)])
    assert list(pick(found, "all", "diagnosis").index) == ["control", "disease"]
    assert list(pick(found, "all", "diagnosis")["eliminated"]) == [1, 1]


def test_good_and_harmful_images_are_counted_apart(cohort):
    found = elimination_report(["sub-a", "sub-d"], cohort)
    assert list(dict.fromkeys(found["images"])) == ["all", "good", "harmful"]
    assert list(pick(found, "good", "overall").loc["all"])[:3] == [2, 1, 0.5]
    assert list(pick(found, "harmful", "overall").loc["all"])[:3] == [3, 1, 1 / 3]
    assert list(pick(found, "harmful", "sex")["n"]) == [2, 1]


def test_a_group_without_images_has_no_share_and_no_interval(cohort):
    found = elimination_report([], cohort)
    nobody = pick(found, "good", "center").loc[HOSTILE]
    assert list(nobody[["n", "eliminated"]]) == [0, 0]
    assert nobody[["share", "low", "high"]].isna().all()


def test_nobody_eliminated_is_a_share_of_zero_with_a_width(cohort):
    overall = pick(elimination_report([], cohort), "all", "overall").loc["all"]
    assert list(overall) == pytest.approx([5, 0, 0.0, 0.0, bound_by_hand(0, 5)[1]])
    assert overall["high"] > 0.4


def test_a_blinded_cohort_is_counted_as_a_whole(cohort):
    found = elimination_report(["sub-a"], cohort.blinded(), by=[("sex", "age_band")])
    assert set(found["images"]) == {"all"}
    crossed = pick(found, "all", "sex x age band")
    assert len(crossed) == 8 and crossed["n"].sum() == 5
    assert crossed.loc["F, <55", "share"] == 1.0


def test_all_subjects_count_where_there_are_no_roles(cohort):
    found = elimination_report(["sub-f"], cohort.replace(cohort.table.drop(columns="role")), by=())
    assert list(found[found["images"] == "all"].iloc[0][["n", "eliminated"]]) == [6, 1]


def test_more_confidence_asks_for_wider_intervals(cohort):
    overall = pick(elimination_report(["sub-a"], cohort, by=(), confidence=0.5), "all", "overall").loc["all"]
    assert list(overall[["low", "high"]]) == pytest.approx(bound_by_hand(1, 5, 0.5))


def test_strangers_strings_and_impossible_settings_are_refused(cohort):
    with pytest.raises(ValueError, match=r"these are not: \['sub-f', 'sub-z'\]"):
        elimination_report(["sub-z", "sub-f", "sub-a"], cohort)
    with pytest.raises(TypeError, match="came the string 'sub-a'"):
        elimination_report("sub-a", cohort)
    with pytest.raises(TypeError, match="came the string 'sex'"):
        elimination_report([], cohort, by="sex")
    with pytest.raises(KeyError, match="vendor"):
        elimination_report([], cohort, by=["vendor"])
    with pytest.raises(ValueError, match="confidence must lie between 0 and 1.*came 1"):
        elimination_report([], cohort, confidence=1)
