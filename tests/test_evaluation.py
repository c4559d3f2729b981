"""Metrics, subgroups, cycles and the comparison with the truth on harm."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics

from dqc_lib.cohort import Cohort
from dqc_lib.evaluation import (
    add_age_band,
    compare_to_truth,
    evaluate_cycles,
    evaluate_subgroups,
    score_predictions,
    subgroup_report,
)

RATES = ["accuracy", "sensitivity", "specificity", "f1", "auroc"]


@pytest.fixture
def table():
    """Six subjects whose metrics are easy to count: all women right, of four men two right."""
    return pd.DataFrame(
        {
            "subject": [f"sub-{at}" for at in range(6)],
            "sex": ["F", "F", "M", "M", "M", "M"],
            "age": [50.0, 80.0, 55.0, 64.9, 65.0, 75.0],
            "diagnosis": [1, 0, 1, 1, 0, 0],
            "score": [0.9, 0.1, 0.8, 0.3, 0.6, 0.2],
        }
    )


def test_metrics_equal_hand_counts(table):
    found = score_predictions(table["diagnosis"], table["score"])
    # tp: 0.9, 0.8; fn: 0.3; fp: 0.6; tn: 0.1, 0.2. Pairs ranked right: 3 + 3 + 2 of 9.
    expected = {"n": 6, "n_positive": 3, "n_negative": 3, "accuracy": 4 / 6, "sensitivity": 2 / 3}
    expected |= {"specificity": 2 / 3, "f1": 2 / 3, "auroc": 8 / 9}
    assert found == pytest.approx(expected)
    assert list(found) == ["n", "n_positive", "n_negative", *RATES]


def test_metrics_equal_scikit_learn_on_random_scores_with_ties():
    rng = np.random.default_rng(1)
    truth, score = rng.integers(0, 2, 200), rng.integers(0, 11, 200) / 10
    found, decision = score_predictions(truth, score, threshold=0.3), score >= 0.3
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(truth, decision))
    assert found["sensitivity"] == pytest.approx(metrics.recall_score(truth, decision))
    assert found["specificity"] == pytest.approx(metrics.recall_score(truth, decision, pos_label=0))
    assert found["f1"] == pytest.approx(metrics.f1_score(truth, decision))
    above = np.subtract.outer(score[truth == 1], score[truth == 0])
    assert found["auroc"] == pytest.approx(((above > 0) + 0.5 * (above == 0)).mean())


def test_a_score_at_the_threshold_is_a_decision_for_disease():
    assert score_predictions([1], [0.5])["sensitivity"] == 1.0
    assert score_predictions([1], [0.5], threshold=0.5000001)["sensitivity"] == 0.0


@pytest.mark.parametrize(("threshold", "sensitivity", "specificity"), [(0, 1.0, 0.0), (1.1, 0.0, 1.0)])
def test_extreme_thresholds_call_everybody_or_nobody(table, threshold, sensitivity, specificity):
    found = score_predictions(table["diagnosis"], table["score"], threshold=threshold)
    assert (found["sensitivity"], found["specificity"]) == (sensitivity, specificity)


def test_without_disease_sensitivity_and_auroc_are_undefined():
    found = score_predictions([0, 0], [0.1, 0.2])
    assert (found["specificity"], found["accuracy"]) == (1.0, 1.0)
    assert all(math.isnan(found[name]) for name in ("sensitivity", "f1", "auroc"))


def test_f1_is_zero_where_only_false_alarms_exist():
    assert score_predictions([0, 0], [0.1, 0.9])["f1"] == 0.0


def test_without_controls_specificity_and_auroc_are_undefined():
    found = score_predictions([1, 1], [0.9, 0.1])
    assert (found["sensitivity"], found["n_negative"]) == (0.5, 0)
    assert math.isnan(found["specificity"]) and math.isnan(found["auroc"])


def test_nobody_gives_counts_of_zero_and_no_metric():
    found = score_predictions([], [])
    assert (found["n"], found["n_positive"], found["n_negative"]) == (0, 0, 0)
    assert all(math.isnan(found[name]) for name in RATES)


@pytest.mark.parametrize(
    ("diagnosis", "score", "words"),
    [
        ([1, 0], [0.5], r"one length; came shapes \(2,\) and \(1,\)"),
        ([[1, 0]], [[0.5, 0.1]], "one length"),
        ([1, 2], [0.5, 0.5], "came 2"),
        ([1, 0], [0.5, float("nan")], "1 of 2 are NaN or infinite"),
        ([1, 0], [float("inf"), 0.5], "1 of 2 are NaN or infinite"),
    ],
)
def test_predictions_that_make_no_sense_are_refused(diagnosis, score, words):
    with pytest.raises(ValueError, match=words):
        score_predictions(diagnosis, score)


@pytest.mark.parametrize(
    ("threshold", "error"),
    [
        (float("nan"), ValueError),
        (np.float32("nan"), ValueError),
        ("0.5", TypeError),
        (None, TypeError),
        (True, TypeError),
    ],
)
def test_a_threshold_that_no_score_can_reach_is_refused(table, threshold, error):
    predictions = table.assign(arm="clean", cycle=0)
    for call in (
        lambda: score_predictions([1, 0], [0.9, 0.1], threshold=threshold),
        lambda: evaluate_subgroups(table, by=["sex"], threshold=threshold),
        lambda: evaluate_cycles(predictions, by=(), threshold=threshold),
    ):
        with pytest.raises(error, match="threshold must be a number"):
            call()


def test_age_bands_hold_their_lower_edge(table):
    table["age"] = [0.0, 54.99, 55.0, 64.9, 65.0, 130.0]
    banded = add_age_band(table)
    assert list(banded["age_band"]) == ["<55", "<55", "55-64", "55-64", "65-74", "75+"]
    assert banded["age_band"].cat.ordered and "age_band" not in table


def test_age_bands_follow_other_edges():
    banded = add_age_band(pd.DataFrame({"age": [39.0, 40.0]}), edges=(18, 40, 99))
    assert list(banded["age_band"]) == ["<40", "40+"]


@pytest.mark.parametrize("age", [-1.0, 131.0, float("nan")])
def test_ages_outside_the_edges_are_refused(age):
    with pytest.raises(ValueError, match=f"from 0 to 130 years; came {age}"):
        add_age_band(pd.DataFrame({"age": [60.0, age]}))
    with pytest.raises(ValueError, match=f"came {age}, first for subject 'sub-2'"):
        add_age_band(pd.DataFrame({"subject": ["sub-1", "sub-2"], "age": [60.0, age]}, index=[7, 7]))


def test_an_age_that_pandas_knows_to_be_missing_is_refused_too():
    with pytest.raises(ValueError, match="came nan, first for subject 'a'"):
        add_age_band(pd.DataFrame({"subject": ["a"], "age": pd.array([None], dtype="Int64")}))


@pytest.mark.parametrize("edges", [(0, 55), (0, 65, 55, 130), (0, 55.5, 130), (0, 55, 55, 130), (0, 130, 65)])
def test_edges_that_make_no_bands_are_refused(edges):
    with pytest.raises(ValueError, match="three or more increasing whole numbers"):
        add_age_band(pd.DataFrame({"age": [60.0]}), edges)


def test_subgroups_equal_hand_counts(table):
    found = evaluate_subgroups(table, by=["sex"])
    assert list(found.columns) == ["subgroup", "group", "n", "n_positive", "n_negative", *RATES]
    women, men = found.iloc[0], found.iloc[1]
    assert (women["group"], women["n"], women["accuracy"], women["auroc"]) == ("F", 2, 1.0, 1.0)
    assert (men["group"], men["n"], men["accuracy"], men["sensitivity"], men["auroc"]) == ("M", 4, 0.5, 0.5, 0.75)


def test_crossed_subgroups_list_every_pair_also_where_nobody_is(table):
    found = evaluate_subgroups(add_age_band(table), by=["age_band", ("sex", "age_band")])
    assert list(found["subgroup"]) == ["age band"] * 4 + ["sex x age band"] * 8
    crossed = found[found["subgroup"] == "sex x age band"].set_index("group")
    assert list(crossed.index[:4]) == ["F, <55", "F, 55-64", "F, 65-74", "F, 75+"]
    assert list(crossed["n"]) == [1, 0, 0, 1, 0, 2, 1, 1]
    assert crossed.loc["F, 55-64", RATES].isna().all()


def test_groups_below_min_n_keep_counts_and_lose_metrics(table):
    found = evaluate_subgroups(table, by=["sex"], min_n=3).set_index("group")
    assert found.loc["F", "n"] == 2 and found.loc["F", RATES].isna().all()
    assert found.loc["M", "accuracy"] == 0.5


def test_subgroups_say_what_is_wrong_with_the_table(table):
    with pytest.raises(KeyError, match="missing columns.*scanner"):
        evaluate_subgroups(table, by=["scanner"])
    with pytest.raises(TypeError, match="came the string 'sex'"):
        evaluate_subgroups(table, by="sex")
    missing = table.assign(sex=["F", "M", None, "M", None, "M"])
    with pytest.raises(ValueError, match="'sex' is missing for 2 of 6 rows, first for subject 'sub-2'"):
        evaluate_subgroups(missing, by=["sex"])
    with pytest.raises(ValueError, match="'sex' is missing for 2 of 6 rows$"):
        evaluate_subgroups(missing.drop(columns="subject"), by=["sex"])


def test_a_column_of_numbers_and_texts_is_refused_by_name(table):
    mixed = table.assign(scanner=[1, "2", 1, "2", 1, 1.5])
    with pytest.raises(TypeError, match=r"column 'scanner'.*one type.*came 1 \(int\), '2' \(str\), 1.5 \(float\)"):
        evaluate_subgroups(mixed, by=["scanner"])


@pytest.mark.parametrize(
    ("by", "columns", "words"),
    [
        (("a", "b"), {"a": ["x, y", "x"], "b": ["z", "y, z"]}, r"'a x b' would both be called 'x, y, z'"),
        ("a", {"a": pd.Categorical([1, "1"], [1, "1"])}, r"'a' would both be called '1': \(1,\) and \('1',\)"),
    ],
)
def test_two_groups_that_would_share_a_name_are_refused(by, columns, words):
    table = pd.DataFrame({"subject": ["s", "t"], "diagnosis": [0, 1], "score": [0.1, 0.9], **columns})
    for call in (evaluate_subgroups, subgroup_report):
        with pytest.raises(ValueError, match=words):
            call(table, by=[by])


def test_commas_in_names_are_fine_where_no_two_groups_share_a_name(table):
    crossed = evaluate_subgroups(table.assign(scanner=["x, y", "x"] * 3), by=[("scanner", "sex")])
    assert list(crossed["group"]) == ["x, F", "x, M", "x, y, F", "x, y, M"]
    assert list(crossed["n"]) == [1, 2, 1, 2]


def test_subgroups_do_not_depend_on_the_index_or_the_type_of_the_levels(table):
    numbered = table.assign(sex=[0, 0, 1, 1, 1, 1]).set_index(pd.Index([9, 9, 4, 4, 0, 1])).iloc[::-1]
    found = evaluate_subgroups(numbered, by=["sex"]).set_index("group")
    assert list(found.loc["0", ["n", "accuracy"]]) == [2, 1.0]
    assert list(found.loc["1", ["n", "accuracy", "auroc"]]) == [4, 0.5, 0.75]


def test_a_group_without_patients_has_no_sensitivity_where_fairlearn_says_zero(table):
    from fairlearn.metrics import MetricFrame, true_positive_rate

    healthy = table.assign(sex=["M", "F", "M", "M", "M", "M"])
    theirs = MetricFrame(
        metrics=true_positive_rate,
        y_true=healthy["diagnosis"],
        y_pred=(healthy["score"] >= 0.5).astype(int),
        sensitive_features=healthy["sex"],
    ).by_group
    ours = evaluate_subgroups(healthy, by=["sex"]).set_index("group")["sensitivity"]
    assert theirs["F"] == 0.0 and math.isnan(ours["F"])
    assert ours["M"] == pytest.approx(theirs["M"])


def test_ways_to_group_that_name_nothing_or_the_same_twice_are_refused(table):
    for by in ([()], ["sex", "sex"], ["age_band", "age band"]):
        with pytest.raises(ValueError, match="at least one column at a time, and nothing twice"):
            evaluate_subgroups(add_age_band(table), by=by)


def test_an_empty_table_gives_an_empty_report_with_its_columns(table):
    found = evaluate_subgroups(table.iloc[:0], by=["sex"])
    assert len(found) == 0 and "auroc" in found


def test_cycles_hold_an_overall_row_and_subgroups_for_every_arm(table):
    turned = table.assign(score=1 - table["score"])
    predictions = pd.concat(
        [table.assign(arm="dirty", cycle=10), table.assign(arm="clean", cycle=2), turned.assign(arm="clean", cycle=1)]
    )
    found = evaluate_cycles(predictions)
    assert len(found) == 3 * (1 + 2 + 4 + 8)
    overall = found[found["subgroup"] == "overall"]
    assert list(zip(overall["arm"], overall["cycle"], strict=True)) == [("dirty", 10), ("clean", 1), ("clean", 2)]
    assert list(overall["auroc"]) == pytest.approx([8 / 9, 1 / 9, 8 / 9])
    assert set(overall["group"]) == {"all"}
    assert list(found.columns[:4]) == ["arm", "cycle", "subgroup", "group"]


def test_arms_may_have_other_cycles_and_other_subjects(table):
    predictions = pd.concat([table.assign(arm="clean", cycle=3), table.iloc[2:].assign(arm="dirty", cycle=5)])
    found = evaluate_cycles(predictions, by=["sex"])
    assert list(zip(found["arm"], found["cycle"], found["group"], found["n"], strict=True)) == [
        *[("clean", 3, "all", 6), ("clean", 3, "F", 2), ("clean", 3, "M", 4)],
        *[("dirty", 5, "all", 4), ("dirty", 5, "F", 0), ("dirty", 5, "M", 4)],
    ]


def test_groups_of_cycles_are_as_small_as_they_are_unless_a_least_number_is_asked_for(table):
    predictions = table.assign(arm="clean", cycle=0)
    pd.testing.assert_frame_equal(evaluate_cycles(predictions), evaluate_cycles(predictions, threshold=0.5, min_n=1))
    found = evaluate_cycles(predictions, by=["sex"], min_n=3).set_index("group")
    assert found["n"].to_dict() == {"all": 6, "F": 2, "M": 4}
    assert math.isnan(found.loc["F", "accuracy"]) and not math.isnan(found.loc["M", "accuracy"])
    assert not math.isnan(evaluate_cycles(predictions, by=["sex"], min_n=2).set_index("group").loc["F", "accuracy"])


def test_cycles_without_subgroups_need_no_age(table):
    predictions = table.drop(columns=["sex", "age"]).assign(arm="clean", cycle=0)
    assert len(evaluate_cycles(predictions, by=())) == 1


def test_cycles_refuse_what_they_cannot_count(table):
    predictions = table.assign(arm="clean", cycle=0)
    with pytest.raises(ValueError, match="subject 'sub-5' has several in arm 'clean', cycle 0"):
        evaluate_cycles(pd.concat([predictions, predictions.tail(1)]))
    with pytest.raises(ValueError, match="came an empty table"):
        evaluate_cycles(predictions.iloc[:0])
    with pytest.raises(KeyError, match="arm"):
        evaluate_cycles(table)
    with pytest.raises(TypeError, match="came the string"):
        evaluate_cycles(predictions, by="sex")
    with pytest.raises(ValueError, match="column 'arm' is missing for 6 of 6 rows"):
        evaluate_cycles(predictions.assign(arm=None))


@pytest.fixture
def cohort():
    """A harmful center of two, a good one of three training subjects, one of them harmful, and a test subject."""
    table = pd.DataFrame(
        {
            "subject": ["sub-a", "sub-b", "sub-c", "sub-d", "sub-e", "sub-f"],
            "center": ["A", "A", "B", "B", "B", "B"],
            "diagnosis": [1, 0, 1, 0, 1, 0],
            "sex": "F",
            "age": 60.0,
            "scanner": "unknown",
            "path": "/nowhere.nii.gz",
            "role": ["train"] * 5 + ["test"],
            "harm": ["inversion", "inversion", "additive noise @ 2", "", "", ""],
            "placement": ["center", "center", "single", "", "", ""],
        }
    )
    return Cohort(table, Path("/nowhere"))


def test_the_truth_counts_centers_singles_and_good_images_apart(cohort):
    found = compare_to_truth(["sub-a", "sub-d", "sub-a"], cohort)
    assert list(found.index) == ["harmful in whole centers", "harmful single images", "good images"]
    assert found.index.name == "images"
    assert list(found["n"]) == [2, 1, 2]
    assert list(found["eliminated"]) == [1, 0, 1]
    assert list(found["share"]) == [0.5, 0.0, 0.5]


def test_the_share_of_no_images_is_undefined(cohort):
    good = cohort.replace(cohort.table.assign(harm="", placement=""))
    found = compare_to_truth([], good)
    assert list(found["n"]) == [0, 0, 5]
    assert found["share"].isna().tolist() == [True, True, False]


def test_all_subjects_count_where_there_are_no_roles(cohort):
    found = compare_to_truth([], cohort.replace(cohort.table.drop(columns="role")))
    assert found["n"].sum() == 6


def test_the_truth_refuses_strangers_and_blinded_cohorts(cohort):
    with pytest.raises(ValueError, match=r"these are not: \['sub-f', 'sub-z'\]"):
        compare_to_truth(["sub-z", "sub-f", "sub-a"], cohort)
    with pytest.raises(TypeError, match="came the string 'sub-a'"):
        compare_to_truth("sub-a", cohort)
    with pytest.raises(KeyError, match="harm"):
        compare_to_truth([], cohort.blinded())
