"""Gradient inversion: records that come back exactly, visits too, and what clipping and noise make of them."""

import math

import numpy as np
import pytest

from dqc_lib.privacy import (
    invert_gradient,
    invert_record,
    invert_visits,
    measure_inversion,
    measure_jaccard,
    protect_gradient,
)

RNG = np.random.default_rng(0)
UNITS = 16


def backpropagate(rows, *, act="tanh", seed=1, dtype=np.float32):
    """Return the gradient of a network of one hidden layer that tells its input again, in NumPy, and its kernels."""
    rng = np.random.default_rng(seed)
    width = rows.shape[1]
    kernel, last = (rng.normal(0, 0.4, shape).astype(dtype) for shape in ((width, UNITS), (UNITS, width)))
    rows = rows.astype(dtype)
    before = rows @ kernel
    hidden = np.tanh(before) if act == "tanh" else np.maximum(before, 0)
    slope = 1 - hidden**2 if act == "tanh" else (before > 0).astype(dtype)
    error = 1 / (1 + np.exp(-(hidden @ last))) - rows
    inner = (error @ last.T) * slope
    return [rows.T @ inner, inner.sum(axis=0), hidden.T @ error, error.sum(axis=0)]


def make_rows(n, codes=20, seed=2):
    """Return n rows of 0 and 1, none of zeros alone, in no order."""
    rows = (np.random.default_rng(seed).random((n, codes)) < 0.3).astype(np.float32)
    rows[np.arange(n), np.arange(n) % codes] = 1
    return rows


@pytest.mark.parametrize("act", ["tanh", "relu"])
@pytest.mark.parametrize("seed", range(5))
def test_the_record_of_one_patient_comes_back_to_the_last_bit(act, seed):
    record = make_rows(1, codes=60, seed=seed)
    kernel, bias, *_ = backpropagate(record, act=act, seed=seed)
    np.testing.assert_array_equal(invert_gradient(kernel, bias), record[0])


def test_numbers_other_than_0_and_1_come_back_but_for_rounding():
    record = RNG.normal(size=(1, 30)).astype(np.float32)
    kernel, bias, *_ = backpropagate(record)
    np.testing.assert_allclose(invert_gradient(kernel, bias), record[0], rtol=1e-4, atol=1e-5)


def test_clipping_leaves_the_record_exact():
    record = make_rows(1, codes=60)
    gradients = backpropagate(record)
    length = math.sqrt(sum(float((part.astype(float) ** 2).sum()) for part in gradients))
    kernel, bias, *_ = sent = protect_gradient(gradients, clipping_norm=0.01, noise_multiplier=0.0)
    assert length > 0.1
    assert math.sqrt(sum((part**2).sum() for part in sent)) == pytest.approx(0.01)
    np.testing.assert_allclose(invert_gradient(kernel, bias), record[0], atol=1e-12)
    np.testing.assert_array_equal(invert_visits(kernel, bias), record)


def test_noise_hides_the_record():
    record = make_rows(1, codes=60)
    sent = protect_gradient(backpropagate(record), clipping_norm=1.0, noise_multiplier=1.0, seed=3)
    found = invert_gradient(*sent[:2])
    assert not np.array_equal(found > 0.5, record[0] > 0.5)
    assert len(invert_visits(*sent[:2])) == 0, "noise leaves no span of few dimensions, or none with corners"


@pytest.mark.parametrize("act", ["tanh", "relu"])
@pytest.mark.parametrize("seed", range(3))
def test_without_noise_the_leading_direction_is_the_record(act, seed):
    record = make_rows(1, codes=60, seed=seed)
    np.testing.assert_allclose(invert_record(*backpropagate(record, act=act, seed=seed)[:2]), record[0], atol=1e-5)


@pytest.mark.parametrize("record", [np.zeros(6), np.ones(6), np.eye(6)[2]])
@pytest.mark.parametrize("error", [np.array([0.5, 2.0]), np.array([-0.5, 0.1])])
def test_a_record_of_no_code_of_all_and_of_one_comes_back_too(record, error):
    np.testing.assert_allclose(invert_record(np.outer(record, error), error), record, atol=1e-12)


def test_a_little_noise_hides_nothing_from_the_leading_direction_and_more_from_the_quotient():
    rng, record = np.random.default_rng(6), make_rows(1, codes=200)[0]
    error = rng.normal(size=48)
    kernel, bias = np.outer(record, error), error
    noise = 0.15 * np.linalg.norm(error)  # of every number; a row of the kernel is as long as error, of 48 of them
    by_rank, by_quotient = [], []
    for _ in range(20):
        sent = kernel + noise * rng.normal(size=kernel.shape), bias + noise * rng.normal(size=48)
        by_rank.append(((invert_record(*sent) > 0.5) == (record > 0.5)).mean())
        by_quotient.append(((invert_gradient(*sent) > 0.5) == (record > 0.5)).mean())
    assert np.mean(by_rank) > 0.97 and np.mean(by_rank) > np.mean(by_quotient) + 0.05


def test_two_patients_in_one_gradient_come_back_as_a_mixture_of_both():
    rows = make_rows(2, codes=30)
    kernel, bias, *_ = backpropagate(rows)
    found = invert_gradient(kernel, bias)
    alike = rows[0] == rows[1]
    np.testing.assert_allclose(found[alike], rows[0][alike], atol=1e-5)
    assert np.ptp(found[~alike & (rows[0] == 1)]) < 1e-5 and np.ptp(found[~alike & (rows[1] == 1)]) < 1e-5
    share = found[~alike & (rows[0] == 1)][0]
    assert found[~alike & (rows[1] == 1)][0] == pytest.approx(1 - share, abs=1e-5), "weights that sum to one"


@pytest.mark.parametrize("act", ["tanh", "relu"])
@pytest.mark.parametrize("n", [1, 2, 6, 12])
def test_all_visits_come_back_from_the_sum_of_their_gradients(n, act):
    rows = make_rows(n, codes=40)
    kernel, bias, *_ = backpropagate(rows, act=act)
    found = invert_visits(kernel, bias)
    np.testing.assert_array_equal(found, np.unique(rows, axis=0))
    assert not np.signbit(found).any(), "0 is 0 also where bytes are compared"


def test_candidates_are_all_corners_of_the_span_by_brute_force():
    rows = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 1, 1]], dtype=np.float32)
    kernel, bias, *_ = backpropagate(rows, dtype=np.float64)
    corners = np.array([[(at >> code) & 1 for code in range(4)] for at in range(16)])
    one = np.column_stack([rows, np.ones(3)])
    inside = [
        corner
        for corner in corners
        if np.linalg.matrix_rank(np.vstack([one, [*corner, 1]]), tol=1e-9) == np.linalg.matrix_rank(one)
    ]
    found = invert_visits(kernel, bias)
    np.testing.assert_array_equal(found, np.unique(inside, axis=0))
    assert len(found) == 4, "the three visits, and 1100 - 1010 + 0011 = 0101, which nobody had"


def test_a_visit_that_repeats_comes_back_once_and_one_without_codes_too():
    rows = np.vstack([make_rows(2), make_rows(2)[:1], np.zeros((1, 20))]).astype(np.float32)
    kernel, bias, *_ = backpropagate(rows)
    np.testing.assert_array_equal(invert_visits(kernel, bias), np.unique(rows, axis=0))


def test_visits_whose_errors_depend_on_each_other_do_not_all_come_back():
    rows = np.array([[1, 1, 0, 0], [1, 0, 1, 1]], dtype=float)
    errors = np.array([[1.0, 2.0, -1.0], [2.0, 4.0, -2.0]])  # one twice the other: the sum is one row of a mixture
    assert len(invert_visits(rows.T @ errors, errors.sum(axis=0))) == 0


def test_more_visits_than_can_be_counted_out_give_nothing():
    rows = make_rows(17, codes=40)
    kernel, bias = RNG.normal(size=(17, 30)), None
    kernel, bias = rows.T @ kernel, kernel.sum(axis=0)
    assert invert_visits(kernel, bias).shape == (0, 40)


def test_a_gradient_of_zero_tells_nothing():
    assert np.isnan(invert_gradient(np.zeros((3, 2)), np.zeros(2))).all()
    assert np.isnan(invert_record(np.zeros((3, 2)), np.zeros(2))).all()
    assert invert_visits(np.zeros((3, 2)), np.zeros(2)).shape == (0, 3)


def test_jaccard_is_the_share_of_codes_of_either_by_hand():
    assert measure_jaccard([1, 1, 0, 0], [1, 0, 1, 0]) == pytest.approx(1 / 3)
    assert measure_jaccard([1, 0], [1, 0]) == 1.0
    assert math.isnan(measure_jaccard([0, 0], [0, 0]))


def test_what_comes_back_is_told_by_setting_beside_a_guess():
    record, others = make_rows(1, codes=60)[0], make_rows(30, codes=60, seed=9)
    settings = {"as it is": (math.inf, 0.0), "clipped": (0.1, 0.0), "noise": (0.1, 1.0)}
    table = measure_inversion(backpropagate(record[None]), record, settings=settings, others=others, repeats=10)
    means = table.groupby("setting")[["exact", "share_right", "jaccard", "auroc"]].mean()
    assert means.loc["as it is"].tolist() == means.loc["clipped"].tolist() == [1.0, 1.0, 1.0, 1.0]
    assert means.loc["noise", "exact"] == 0 and means.loc["noise", "jaccard"] < 0.6
    assert abs(means.loc["noise", "auroc"] - 0.5) < 0.15, "as a coin would"
    by_hand = [measure_jaccard(record, other) for other in others]
    assert min(by_hand) <= means.loc["another patient", "jaccard"] <= max(by_hand)
    assert table["n_codes"].unique().tolist() == [60] and table.groupby("setting").size().unique().tolist() == [10]
    again = measure_inversion(backpropagate(record[None]), record, settings=settings, others=others, repeats=10)
    assert table.equals(again)


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda: invert_gradient(np.zeros((3, 2)), np.zeros(3)), r"got \(3, 2\) and \(3,\)"),
        (lambda: invert_gradient([[math.nan]], [0.0]), "must be finite"),
        (lambda: protect_gradient([np.ones(2)], clipping_norm=0, noise_multiplier=1), "clipping_norm > 0"),
        (lambda: protect_gradient([np.ones(2)], clipping_norm=math.inf, noise_multiplier=1), "clipping_norm is infin"),
        (
            lambda: measure_inversion([np.ones((3, 2)), np.ones(2)], [1, 0], settings={}, others=np.ones((1, 2))),
            "the layer has 3 inputs, the record 2",
        ),
    ],
)
def test_what_cannot_be_inverted_is_refused_by_name(ask, words):
    with pytest.raises(ValueError, match=words):
        ask()
