"""Membership inference: rates by hand, curves by scikit-learn, a control that must be found and one that cannot be."""

import math

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from dqc_lib.privacy import (
    bound_true_positive_rate,
    find_members,
    measure_membership,
    score_distances,
    score_losses,
)

RNG = np.random.default_rng(0)
RECORD = np.array([[[1, 0], [0, 1]], [[0, 0], [1, 1]]], dtype=np.float32)  # two patients, two visits, two codes


# scores


def test_a_score_is_the_log_likelihood_summed_over_all_visits_and_codes():
    probabilities = np.array([[[0.9, 0.2], [0.5, 0.5]], [[0.1, 0.1], [0.8, 0.8]]])
    by_hand = [math.log(0.9 * 0.8 * 0.5 * 0.5), math.log(0.9 * 0.9 * 0.8 * 0.8)]
    assert score_losses(RECORD, probabilities).tolist() == pytest.approx(by_hand)
    calibrated = score_losses(RECORD, probabilities, reference=np.full((2, 2, 2), 0.5))
    assert calibrated.tolist() == pytest.approx([value - 4 * math.log(0.5) for value in by_hand])


def test_a_network_that_is_sure_and_wrong_has_a_finite_score():
    found = score_losses(RECORD, 1 - RECORD)
    assert np.isfinite(found).all() and (found < -4 * 13).all()
    assert score_losses(RECORD, RECORD) == pytest.approx([0, 0], abs=1e-4)


def test_a_distance_is_the_number_of_codes_in_which_the_nearest_synthetic_patient_differs():
    synthetic = np.array([[[1, 1], [0, 1]], [[1, 0], [0, 0]], [[1, 1], [0, 0]]])
    brute = [-min(int((own != other).sum()) for other in synthetic) for own in RECORD]
    assert score_distances(RECORD, synthetic).tolist() == brute == [-1, -3]
    assert score_distances(RECORD, synthetic, reference=RECORD[1:]).tolist() == [2 - 1, 0 - 3]


# rates


def test_the_limit_is_the_score_that_one_in_a_hundred_others_is_above():
    nonmembers = np.arange(200.0)  # two of 200 may be accused: 199 and 198, so the limit is 197
    members = np.array([197.0, 197.5, 198.0, 500.0])
    assert find_members(members, nonmembers) == 3 / 4
    assert find_members(members, nonmembers, false_positive_rate=0.005) == 1 / 4


def test_whoever_ties_with_the_limit_is_not_accused():
    nonmembers = np.array([1.0] * 5 + [0.0] * 95)  # one may be accused, and five are alike
    assert find_members(np.array([1.0, 1.0, 2.0, 0.0]), nonmembers) == 1 / 4
    assert find_members(np.zeros(5), np.zeros(100)) == 0.0


def test_with_fewer_than_a_hundred_others_one_percent_of_them_is_nobody():
    assert math.isnan(find_members(np.ones(5), np.zeros(99)))
    found = measure_membership(np.ones(5), np.zeros(99), n_resamples=100)
    assert math.isnan(found.true_positive_rate) and math.isnan(found.tpr_low) and math.isnan(found.tpr_high)
    assert found.auroc == 1.0 and "not defined" in found._repr_html_()


def test_the_area_is_that_of_scikit_learn_with_ties():
    members, nonmembers = RNG.integers(0, 6, 80) + 1, RNG.integers(0, 6, 120)
    found = measure_membership(members, nonmembers, n_resamples=500)
    expected = roc_auc_score([1] * 80 + [0] * 120, [*members, *nonmembers])
    assert found.auroc == pytest.approx(expected)
    assert found.auroc_low < expected < found.auroc_high
    assert (found.n_members, found.n_nonmembers) == (80, 120)


def test_the_bootstrap_is_that_of_a_loop():
    members, nonmembers = RNG.normal(1, 1, 60), RNG.normal(0, 1, 150)
    found = measure_membership(members, nonmembers, n_resamples=2000)
    areas, rates = [], []
    for _ in range(600):
        drawn = RNG.choice(members, 60), RNG.choice(nonmembers, 150)
        areas.append(roc_auc_score([1] * 60 + [0] * 150, np.concatenate(drawn)))
        rates.append(np.mean(drawn[0] > np.sort(drawn[1])[-2]))
    np.testing.assert_allclose([found.auroc_low, found.auroc_high], np.quantile(areas, [0.025, 0.975]), atol=0.02)
    assert found.tpr_low <= np.quantile(rates, 0.025) + 0.03 and found.tpr_high >= np.quantile(rates, 0.975) - 0.03


def test_intervals_hold_what_would_be_found_with_everybody():
    area, rate = norm.cdf(0.5 / math.sqrt(2)), 1 - norm.cdf(norm.ppf(0.99) - 0.5)
    held = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        found = measure_membership(rng.normal(0.5, 1, 200), rng.normal(0, 1, 400), n_resamples=300, seed=seed)
        held.append((found.auroc_low <= area <= found.auroc_high, found.tpr_low <= rate <= found.tpr_high))
    assert (np.mean(held, axis=0) >= 0.85).all()


def test_all_found_and_nobody_found_have_intervals_with_a_width():
    all_found = measure_membership(np.ones(30), np.zeros(200), n_resamples=100)
    assert (all_found.auroc, all_found.true_positive_rate, all_found.tpr_high) == (1.0, 1.0, 1.0)
    assert all_found.tpr_low == pytest.approx(0.025 ** (1 / 30)) and all_found.auroc_low == all_found.tpr_low
    nobody = measure_membership(np.zeros(30), np.ones(200), n_resamples=100)
    assert nobody.true_positive_rate == 0.0 and nobody.tpr_high == pytest.approx(1 - 0.025 ** (1 / 30))


def test_the_same_seed_gives_the_same_interval():
    members, nonmembers = RNG.normal(size=20), RNG.normal(size=120)
    first, again = (measure_membership(members, nonmembers, n_resamples=100) for _ in range(2))
    assert first == again
    assert first != measure_membership(members, nonmembers, n_resamples=100, seed=1)


# what is bound to be found, and what is not


def make_patients(n, seed):
    return (np.random.default_rng(seed).random((n, 6, 20)) < 0.3).astype(np.float32)


def remember(members, asked, *, strength):
    """Return what a model that knows its members by heart gives them, and others the rates of all."""
    known = {record.tobytes() for record in members}
    sure = np.array([record.tobytes() in known for record in asked])[:, None, None]
    return np.where(sure, strength * asked + (1 - strength) * 0.3, 0.3)


def test_a_model_that_knows_thirty_patients_by_heart_is_found_and_one_never_trained_is_not():
    members, others = make_patients(30, 1), make_patients(300, 2)
    for strength, low, high in ((0.9, 0.999, 1.0), (0.0, 0.35, 0.65)):
        scores = [score_losses(part, remember(members, part, strength=strength)) for part in (members, others)]
        assert low <= measure_membership(*scores, n_resamples=100).auroc <= high


def test_a_generator_that_copies_is_found_by_distance_and_one_that_knows_the_rates_is_not():
    members, others = make_patients(30, 1), make_patients(300, 2)
    copied = measure_membership(*(score_distances(part, members) for part in (members, others)), n_resamples=100)
    assert copied.auroc == 1.0 and copied.true_positive_rate == 1.0
    fresh = make_patients(200, 3)
    drawn = measure_membership(*(score_distances(part, fresh) for part in (members, others)), n_resamples=100)
    assert drawn.auroc_low <= 0.5 <= drawn.auroc_high


# the bound


def test_the_bound_is_that_of_the_two_lines_by_hand():
    rate = bound_true_positive_rate(0.01, epsilon=1.0, delta=0.001)
    assert rate == pytest.approx(math.e * 0.01 + 0.001)
    assert bound_true_positive_rate(0.5, epsilon=1.0, delta=0.0001) == pytest.approx(1 - (0.4999) / math.e)
    assert bound_true_positive_rate(0.3, epsilon=0.0, delta=1e-9) == pytest.approx(0.3)
    np.testing.assert_allclose(bound_true_positive_rate(np.array([0.0, 1.0]), epsilon=2, delta=0.1), [0.1, 1.0])
    assert bound_true_positive_rate(0.0, epsilon=math.inf, delta=0.1) == 1.0


def test_the_best_attack_on_the_gaussian_mechanism_keeps_below_the_bound_and_touches_it():
    noise, delta = 1.0, 1e-2
    rates = np.linspace(1e-4, 0.999, 4000)
    best = norm.cdf(norm.ppf(rates) + 1 / noise)  # the likelihood ratio test of N(0, 1) against N(1, 1)

    def exceed(epsilon):  # theorem 8 of Balle and Wang (2018)
        return norm.cdf(0.5 - epsilon) - math.exp(epsilon) * norm.cdf(-0.5 - epsilon)

    epsilon = next(value for value in np.arange(0, 5, 1e-4) if exceed(value) <= delta)
    gap = bound_true_positive_rate(rates, epsilon=float(epsilon), delta=delta) - best
    assert gap.min() >= -1e-4 and gap.min() < 1e-3


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda: measure_membership([], [1.0]), r"members must hold one number for each patient"),
        (lambda: measure_membership([1.0], [math.nan, 0.0]), "nonmembers: 1 of 2 scores are NaN"),
        (lambda: measure_membership([1.0], [0.0], false_positive_rate=1), "false_positive_rate must be above 0"),
        (lambda: find_members([1.0], [0.0], false_positive_rate=1.0), "false_positive_rate must be above 0"),
        (lambda: find_members([math.nan], [0.0]), "members: 1 of 1 scores are NaN"),
        (lambda: measure_membership([1.0], [0.0], n_resamples=5), "n_resamples must be a whole number of at least 100"),
        (lambda: measure_membership([1.0], [0.0], confidence=95), "confidence must lie between 0 and 1"),
        (lambda: score_losses(RECORD[0], RECORD[0]), r"visits must have the shape \(patients, visits, codes\)"),
        (lambda: score_losses(2 * RECORD, RECORD), "visits must hold 0 and 1 alone"),
        (lambda: score_losses(RECORD, RECORD[:1]), "probabilities has the shape"),
        (lambda: score_losses(RECORD, RECORD, reference=3 * RECORD), "reference must lie between 0 and 1"),
        (lambda: score_distances(RECORD, RECORD[:, :1]), "synthetic has"),
        (lambda: score_distances(RECORD, RECORD[:0]), "synthetic must have the shape"),
        (lambda: bound_true_positive_rate(2, epsilon=1, delta=0.1), "false_positive_rate must lie between 0 and 1"),
        (lambda: bound_true_positive_rate(0.1, epsilon=-1, delta=0.1), "epsilon must be at least 0"),
    ],
)
def test_what_cannot_be_judged_is_refused_by_name(ask, words):
    with pytest.raises(ValueError, match=words):
        ask()
