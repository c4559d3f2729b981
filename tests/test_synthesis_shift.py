"""Shift between hospitals: distances against SciPy and exact kernels, and a classifier against the pooled one."""

import math
from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import cdist, jensenshannon
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from dqc_lib.simulation import HospitalRecipe, simulate_hospitals
from dqc_lib.synthesis import (
    LogisticSums,
    count_scores,
    describe_patients,
    embed_patients,
    fit_federated_logistic,
    measure_counted_auroc,
    measure_divergence,
    measure_mmd,
    measure_shift,
    report_shift,
    sum_logistic,
    summarize_records,
    tell_apart,
)
from dqc_lib.synthesis.shift import SHIFT_COLUMNS
from dqc_lib.synthesis.twosample import _bound_share


def simulate(shift, *patients, **more):
    return simulate_hospitals(HospitalRecipe(patients=patients or (80, 60, 40), shift=shift, **more)).visits


# records


def test_a_patient_is_described_by_shares_of_visits_and_of_steps_that_stay():
    visits = np.array([[[1, 0], [1, 1], [0, 1], [1, 1]]], dtype=np.float32)
    np.testing.assert_allclose(describe_patients(visits), [[0.75, 0.75, 1 / 3, 2 / 3]])
    np.testing.assert_allclose(describe_patients(visits[:, :1]), [[1, 0, 0, 0]])


# distances


@pytest.mark.parametrize("seed", range(5))
def test_the_divergence_is_the_square_of_scipys_distance(seed):
    first, second = np.random.default_rng(seed).integers(0, 9, (2, 12)).astype(float)
    assert measure_divergence(first, second) == pytest.approx(jensenshannon(first, second, base=2) ** 2)


def test_the_divergence_is_0_for_the_same_shares_1_for_none_in_common_and_nan_for_no_records():
    assert measure_divergence(np.array([1.0, 3.0]), np.array([2.0, 6.0])) == pytest.approx(0)
    assert measure_divergence(np.array([1.0, 0.0]), np.array([0.0, 6.0])) == 1
    assert math.isnan(measure_divergence(np.zeros(2), np.ones(2)))


def measure_exact_mmd(first, second, bandwidth):
    """Return the unbiased squared MMD from every pair of patients."""

    def kernel(a, b):
        return np.exp(-cdist(a, b, "sqeuclidean") / (2 * bandwidth**2))

    n, m = len(first), len(second)
    within = (kernel(first, first).sum() - n) / (n * (n - 1)) + (kernel(second, second).sum() - m) / (m * (m - 1))
    return within - 2 * kernel(first, second).mean()


def test_with_many_features_the_mmd_is_that_of_the_exact_kernel():
    rng = np.random.default_rng(0)
    first, second = rng.normal(0, 1, (60, 4)), rng.normal(0.7, 1.2, (40, 4))
    means = [embed_patients(part, n_features=20_000, bandwidth=1.5, seed=1).mean(axis=0) for part in (first, second)]
    found = measure_mmd(*means, n_first=60, n_second=40)
    assert found == pytest.approx(measure_exact_mmd(first, second, 1.5), abs=0.01)
    assert found > 0.05


def test_every_embedded_patient_has_length_1():
    rng = np.random.default_rng(0)
    embedded = embed_patients(rng.normal(size=(9, 3)), n_features=7, bandwidth=0.5, seed=2)
    np.testing.assert_allclose((embedded**2).sum(axis=1), 1)
    assert embedded.shape == (9, 14)


def test_the_mmd_of_one_patient_is_not_defined():
    assert math.isnan(measure_mmd(np.ones(2), np.ones(2), n_first=1, n_second=5))


def test_without_a_shift_the_mmd_is_0_on_average_and_as_noisy_as_is_said():
    found, divergences = [], []
    for seed in range(30):
        table = report_shift({name: summarize_records(part) for name, part in simulate(0, 60, 30, seed=seed).items()})
        table = table.set_index("measure")
        found.append(table.at["mmd_squared", "z"])
        divergences.append(table.at["jensen_shannon", "z"])
    assert abs(np.mean(found)) < 0.7 and 0.5 < np.std(found) < 1.7
    assert abs(np.mean(divergences)) < 0.7 and 0.5 < np.std(divergences) < 1.7


def test_a_shift_is_seen_far_beyond_the_noise():
    table = report_shift({name: summarize_records(part) for name, part in simulate(1.0, 300, 200).items()})
    assert (table["z"] > 10).all()


def test_a_summary_holds_sums_and_no_array_as_long_as_the_patients():
    visits = simulate(0, 77)["hospital-1"]
    summary = summarize_records(visits, n_features=16)
    np.testing.assert_allclose(summary.code_counts, visits.sum(axis=(0, 1)))
    assert (summary.n_patients, summary.n_visits, summary.embedding.shape) == (77, 12, (32,))
    arrays = [value for value in vars(summary).values() if isinstance(value, np.ndarray)]
    assert all(77 not in array.shape for array in arrays)


def test_the_report_names_every_pair_with_its_n():
    table = report_shift({name: summarize_records(part) for name, part in simulate(0).items()})
    assert list(table.columns) == list(SHIFT_COLUMNS)
    pairs = table[["first", "second", "n_first", "n_second"]].drop_duplicates().to_numpy().tolist()
    assert pairs == [
        ["hospital-1", "hospital-2", 80, 60],
        ["hospital-1", "hospital-3", 80, 40],
        ["hospital-2", "hospital-3", 60, 40],
    ]


def test_one_hospital_has_no_pair():
    assert report_shift({"A": summarize_records(simulate(0, 20)["hospital-1"])}).empty
    assert measure_shift(simulate(0, 20)).empty


def test_summaries_of_other_settings_are_not_compared():
    visits = simulate(0, 20)["hospital-1"]
    with pytest.raises(ValueError, match="must agree.*'A'.*'B'"):
        report_shift({"A": summarize_records(visits), "B": summarize_records(visits, seed=1)})


def test_sums_of_few_patients_are_not_given_away():
    with pytest.raises(ValueError, match="at least 10 patients.*got 9"):
        summarize_records(simulate(0, 9)["hospital-1"])


def test_hospitals_without_a_record_have_no_divergence_and_no_z():
    empty = np.zeros((12, 3, 4), dtype=np.float32)
    table = report_shift({name: summarize_records(empty) for name in "AB"}).set_index("measure")
    assert math.isnan(table.at["jensen_shannon", "value"]) and math.isnan(table.at["jensen_shannon", "z"])
    assert table.at["mmd_squared", "value"] == pytest.approx(0)


# logistic regression from sums


def make_problem(n=150, p=4):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(n, p))
    labels = (features @ np.linspace(-1, 2, p) + rng.logistic(size=n) > 0.5).astype(int)
    return features, labels, rng.uniform(0.5, 2, n)


@pytest.mark.parametrize("ridge", [0.1, 1.0, 20.0])
def test_sums_of_hospitals_give_the_pooled_regression_of_scikit_learn(ridge):
    features, labels, weights = make_problem()
    ask = [
        lambda place, part=part: sum_logistic(features[part], labels[part], place, weights=weights[part])
        for part in (slice(0, 20), slice(20, 100), slice(100, 150))
    ]
    found, rounds = fit_federated_logistic(ask, n_features=4, ridge=ridge)
    pooled = LogisticRegression(C=1 / ridge, tol=1e-10, max_iter=10_000).fit(features, labels, sample_weight=weights)
    np.testing.assert_allclose(found, [*pooled.intercept_, *pooled.coef_[0]], atol=1e-5)
    assert rounds < 15


def test_hospitals_that_a_line_separates_still_have_an_optimum():
    features, labels = np.array([[-1.0], [-2.0], [1.0], [2.0]]), np.array([0, 0, 1, 1])
    found, _ = fit_federated_logistic([lambda place: sum_logistic(features, labels, place)], n_features=1)
    pooled = LogisticRegression(C=1.0, tol=1e-10).fit(features, labels)
    np.testing.assert_allclose(found, [*pooled.intercept_, *pooled.coef_[0]], atol=1e-5)


def test_gradient_and_hessian_are_the_derivatives_of_the_loss():
    features, labels, weights = make_problem(30, 2)
    place, step = np.array([0.3, -0.2, 0.5]), 1e-5

    def ask(at) -> LogisticSums:
        return sum_logistic(features, labels, at, weights=weights)

    for number, move in enumerate(np.eye(3) * step):
        up, down = ask(place + move), ask(place - move)
        assert (up.loss - down.loss) / (2 * step) == pytest.approx(ask(place).gradient[number], rel=1e-5)
        np.testing.assert_allclose((up.gradient - down.gradient) / (2 * step), ask(place).hessian[number], rtol=1e-5)


@pytest.mark.parametrize(
    ("ask", "ridge", "words"), [([], 1.0, "at least one hospital"), ([print], 0.0, "ridge must be a positive")]
)
def test_a_regression_of_nobody_and_one_without_a_ridge_are_refused(ask, ridge, words):
    with pytest.raises(ValueError, match=words):
        fit_federated_logistic(ask, n_features=1, ridge=ridge)


# scores


def test_a_regression_that_does_not_converge_says_so():
    rows, labels = np.array([[1.0], [-1.0]]), np.array([1, 0])

    def lie(place):
        told = sum_logistic(rows, labels, place)
        return LogisticSums(told.loss, told.gradient + 1, told.hessian, told.weight)  # never at rest

    with pytest.raises(RuntimeError, match="did not converge in 50 rounds"):
        fit_federated_logistic([lie], n_features=1)


def test_scores_are_counted_in_fifty_bins():
    counts = count_scores(np.array([[0.0], [0.0], [800.0], [-800.0]]), np.array([0.0, 1.0]))
    assert len(counts) == 50
    assert (counts[25], counts[49], counts[0], counts.sum()) == (2, 1, 1, 4)


def test_the_auroc_of_counts_is_that_of_the_scores():
    rng = np.random.default_rng(0)
    positive, negative = rng.integers(0, 1000, 40), rng.integers(0, 800, 60)
    counts = [np.bincount(scores, minlength=1000) for scores in (positive, negative)]
    expected = roc_auc_score([1] * 40 + [0] * 60, [*positive, *negative])
    assert measure_counted_auroc(*counts)[0] == pytest.approx(expected)


def test_the_error_of_the_auroc_is_delongs_by_hand():
    # positives in bins 0, 1, 2; negatives in bins 0, 1: every pair is won, lost, or a tie
    wins = np.array([[(p > n) + (p == n) / 2 for n in (0, 1)] for p in (0, 1, 2)])
    expected = math.sqrt(wins.mean(axis=1).var(ddof=1) / 3 + wins.mean(axis=0).var(ddof=1) / 2)
    auroc, error = measure_counted_auroc(np.array([1, 1, 1]), np.array([1, 1, 0]))
    assert (auroc, error) == (pytest.approx(wins.mean()), pytest.approx(expected))


def test_without_patients_on_a_side_there_is_no_auroc_and_with_one_no_error():
    assert math.isnan(measure_counted_auroc(np.array([0, 0]), np.array([1, 0]))[0])
    auroc, error = measure_counted_auroc(np.array([0, 1]), np.array([4, 0]))
    assert auroc == 1 and math.isnan(error)


def test_wilsons_interval_is_that_of_scipy():
    from scipy.stats import binomtest

    for hits, n in product((0, 3, 10), (10, 25)):
        expected = binomtest(hits, n).proportion_ci(0.95, method="wilson")
        assert _bound_share(hits / n, n) == pytest.approx((expected.low, expected.high))


# the two-sample test


def test_without_a_shift_the_interval_of_the_classifier_mostly_holds_a_half():
    held = []
    for seed in range(30):
        table = tell_apart(*simulate(0, 60, 40, seed=seed).values(), seed=seed)
        held.append((table["low"] <= 0.5) & (table["high"] >= 0.5))
    assert np.mean(held) > 0.8


def test_hospitals_that_write_other_codes_are_told_apart_entirely():
    first, second = np.zeros((2, 30, 5, 2), dtype=np.float32)
    first[:, :, 0], second[:, :, 1] = 1, 1
    table = tell_apart(first, second).set_index("measure")
    assert table["value"].tolist() == [1.0, 1.0]
    assert math.isnan(table.at["classifier_auroc", "low"]), "no score is out of place: DeLong's error is 0"
    low = table.at["classifier_accuracy", "low"]
    assert low == pytest.approx(1 - math.sqrt(2) / 2 * (1 - _bound_share(1.0, 15)[0]))


def test_time_alone_is_enough_to_tell_hospitals_apart():
    rng = np.random.default_rng(0)
    visits = np.zeros((200, 8, 3), dtype=np.float32)
    visits[:, :4] = rng.random((200, 1, 3)) < 0.7  # four visits on end
    mixed = np.stack([part[rng.permutation(8)] for part in visits])
    table = tell_apart(visits, mixed).set_index("measure")
    assert table.at["classifier_auroc", "low"] > 0.75


def test_the_report_of_all_measures_keeps_pairs_together():
    table = measure_shift(simulate(0.5))
    assert table["measure"].tolist() == [
        *("jensen_shannon", "mmd_squared", "classifier_auroc", "classifier_accuracy") * 3
    ]
    assert table["first"].tolist() == ["hospital-1"] * 8 + ["hospital-2"] * 4
    pd.testing.assert_frame_equal(table, measure_shift(simulate(0.5)))


@pytest.mark.parametrize("n", [1, 19])
def test_sums_of_fewer_than_ten_training_patients_are_not_asked_for(n):
    few, many = np.ones((n, 3, 2), dtype=np.float32), np.ones((20, 3, 2), dtype=np.float32)
    assert len(tell_apart(many, many)) == 2
    for pair, words in (((few, many), f"got {n} and 20"), ((many, few), f"got 20 and {n}")):
        with pytest.raises(
            ValueError, match=f"at least 20 patients at either hospital, half of them to train, {words}"
        ):
            tell_apart(*pair)
    with pytest.raises(ValueError, match="at least"):
        measure_shift({"A": many, "B": few})
