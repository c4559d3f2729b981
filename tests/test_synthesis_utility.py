"""Utility of records: features and labels by hand, an AUROC by scikit-learn, and what is said where there is none."""

import math

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from dqc_lib.simulation import HospitalRecipe, simulate_hospitals
from dqc_lib.synthesis import Task, evaluate_utility, prepare_task, shuffle_visits
from dqc_lib.synthesis.utility import UTILITY_COLUMNS

TASK = Task(outcome=(16, 17, 18, 19))
TRAIN, TEST, SYNTHETIC = (
    simulate_hospitals(HospitalRecipe(patients=(150, 60), sample=number)).visits for number in range(3)
)
POOLED = np.concatenate(list(SYNTHETIC.values()))


def test_features_are_shares_the_last_visit_and_the_slope_before_the_horizon():
    visits = np.array([[[0, 1], [1, 1], [1, 0], [0, 0], [1, 0]]])
    features, labels = prepare_task(visits, Task(outcome=(0,), horizon=2))
    np.testing.assert_allclose(features, [[2 / 3, 2 / 3, 1, 0, 0.5, -0.5]])
    assert labels.tolist() == [True]
    assert prepare_task(visits, Task(outcome=(1,), horizon=2))[1].tolist() == [False]


def test_the_slope_is_that_of_a_straight_line():
    before = np.random.default_rng(0).integers(0, 2, (7, 9, 3))
    features, _ = prepare_task(np.concatenate([before, before[:, :1]], axis=1), Task(outcome=(0,), horizon=1))
    expected = [np.polyfit(np.linspace(-1, 1, 9), part, 1)[0] for part in before.astype(float)]
    np.testing.assert_allclose(features[:, 6:], expected, atol=1e-12)


def test_with_one_visit_before_the_horizon_there_is_no_slope():
    features, _ = prepare_task(np.ones((1, 2, 1)), Task(outcome=(0,), horizon=1))
    assert features.tolist() == [[1, 1, 0]]


def test_new_outcomes_alone_leave_out_who_had_one_before():
    visits = np.array([[[1], [0], [1]], [[0], [0], [1]], [[0], [0], [0]]])
    features, labels = prepare_task(visits, Task(outcome=(0,), horizon=1, new_only=True))
    assert (len(features), labels.tolist()) == (2, [True, False])


def test_the_aurocs_are_those_of_scikit_learn():
    table = evaluate_utility(POOLED, TRAIN, TEST, task=TASK, n_resamples=5).set_index("hospital")
    for name, visits in TEST.items():
        features, labels = prepare_task(visits, TASK)
        for kind, source in (("tstr", POOLED), ("trtr", TRAIN[name])):
            fitted = LogisticRegression(max_iter=2000).fit(*prepare_task(source, TASK))
            expected = roc_auc_score(labels, fitted.predict_proba(features)[:, 1])
            assert table.at[name, kind] == pytest.approx(expected, abs=1e-6)
        assert table.at[name, "n_positive"] == labels.sum()
        assert table.at[name, "n_negative"] == (~labels).sum()
    np.testing.assert_allclose(table["gap"], table["tstr"] - table["trtr"])
    assert list(table.reset_index().columns) == list(UTILITY_COLUMNS)


def test_intervals_hold_the_values_and_are_the_same_again():
    first, again = (evaluate_utility(POOLED, TRAIN, TEST, task=TASK, n_resamples=200, seed=3) for _ in range(2))
    pd.testing.assert_frame_equal(first, again)
    for kind in ("tstr", "trtr", "gap"):
        assert ((first[f"{kind}_low"] <= first[kind]) & (first[kind] <= first[f"{kind}_high"])).all()
    assert (first["note"] == "").all()


def test_records_of_the_training_patients_themselves_have_no_gap():
    table = evaluate_utility(TRAIN, TRAIN, TEST, task=TASK, n_resamples=20)
    assert table[["gap", "gap_low", "gap_high"]].eq(0).all(axis=None)
    assert table["n_synthetic"].tolist() == table["n_real"].tolist() == [150, 60]


def test_the_reference_may_be_all_hospitals_together():
    table = evaluate_utility(
        np.concatenate(list(TRAIN.values())), TRAIN, TEST, task=TASK, reference="pooled", n_resamples=5
    )
    np.testing.assert_array_equal(table["gap"], 0)
    assert table["n_real"].tolist() == [210, 210]


def test_without_time_a_new_outcome_is_not_predicted():
    task = Task(outcome=TASK.outcome, new_only=True)
    train, test = (
        simulate_hospitals(HospitalRecipe(patients=(1500,), sample=number)).visits["hospital-1"] for number in (0, 1)
    )
    real, shuffled = (
        evaluate_utility(records, {"A": train}, {"A": test}, task=task, n_resamples=5).at[0, "tstr"]
        for records in (train, shuffle_visits(train, seed=1))
    )
    assert real > 0.62 and shuffled < real - 0.08


def make_outcome(*, test=0.5, train=0.5, n=40):
    """Return training and test records with a share that has the outcome, predicted by the other code half of it."""
    rng = np.random.default_rng(0)
    parts = []
    for share in (train, test):
        visits = np.zeros((n, 3, 2), dtype=np.float32)
        visits[: int(share * n), 2, 0] = 1
        visits[:, 0, 1] = rng.random(n) < 0.5
        parts.append({"A": visits})
    return parts


def test_test_patients_of_one_class_have_no_auroc_and_their_n():
    train, test = make_outcome(test=0)
    row = evaluate_utility(train, train, test, task=Task((0,), horizon=1)).iloc[0]
    assert row[["tstr", "trtr", "gap", "tstr_low", "gap_high"]].isna().all()
    assert (row["n_positive"], row["n_negative"], row["note"]) == (0, 40, "test patients of one class")


def test_synthetic_patients_of_one_class_leave_the_real_reference():
    train, test = make_outcome()
    synthetic, _ = make_outcome(train=1.0)
    row = evaluate_utility(synthetic, train, test, task=Task((0,), horizon=1), n_resamples=9).iloc[0]
    assert math.isnan(row["tstr"]) and math.isnan(row["gap_low"]) and not math.isnan(row["trtr_low"])
    assert row["note"] == "synthetic training patients of one class"


def test_few_test_patients_of_a_class_have_an_auroc_and_no_interval():
    train, test = make_outcome(test=0.1)
    row = evaluate_utility(train, train, test, task=Task((0,), horizon=1)).iloc[0]
    assert not math.isnan(row["tstr"]) and math.isnan(row["tstr_low"])
    assert row["note"] == "no interval: 4 test patients of a class, fewer than 5"


def test_nobody_is_left_where_all_had_the_outcome_before():
    train, test = make_outcome()
    test["A"][:, 0, 0] = 1
    row = evaluate_utility(train, train, test, task=Task((0,), horizon=1, new_only=True)).iloc[0]
    assert (row["n_positive"], row["n_negative"], row["note"]) == (0, 0, "test patients of one class")


@pytest.mark.parametrize(
    ("more", "error", "words"),
    [
        ({"task": Task((24,))}, ValueError, "codes below 24, got 24"),
        ({"task": Task((0,), horizon=12)}, ValueError, "leave a visit of 12"),
        ({"task": (0,)}, TypeError, "task must be a Task"),
        ({"reference": "best"}, ValueError, "reference must be one of own, pooled, got 'best'"),
        ({"ridge": 0}, ValueError, "ridge must be a positive number"),
        ({"synthetic": {"hospital-1": POOLED}}, KeyError, "synthetic lacks hospital 'hospital-2'"),
        ({"real_train": {"hospital-1": POOLED}}, KeyError, "real_train lacks hospital 'hospital-2'"),
        ({"synthetic": POOLED[:, :5]}, ValueError, "synthetic for 'hospital-1' must have the visits"),
        ({"real_test": {}}, ValueError, "real_test must hold the records of at least one hospital"),
        ({"real_test": POOLED}, TypeError, "real_test must be a Mapping"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(more, error, words):
    given = {"synthetic": POOLED, "real_train": TRAIN, "real_test": TEST, "task": TASK} | more
    with pytest.raises(error, match=words):
        evaluate_utility(**given)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"outcome": ()}, ValueError, "at least one code"),
        ({"outcome": "16"}, TypeError, "outcome must be positions"),
        ({"outcome": 16}, TypeError, "outcome must be positions"),
        ({"outcome": (-1,)}, ValueError, "at least 0"),
        ({"outcome": (1,), "horizon": 0}, ValueError, "horizon"),
        ({"outcome": (1,), "new_only": 1}, TypeError, "new_only"),
    ],
)
def test_a_task_that_cannot_be_is_refused(arguments, error, words):
    with pytest.raises(error, match=words):
        Task(**arguments)
