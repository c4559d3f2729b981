"""Averages of hospitals' weights and shares of hospitals: by hand."""

import numpy as np
import pytest

from dqc_lib.synthesis import average_weights, weigh_by_distribution
from dqc_lib.synthesis.averaging import split_steps


def test_weights_are_averaged_by_numbers_of_patients():
    weights = {"A": [np.array([[1.0, 2.0]]), np.array([0.0])], "B": [np.array([[5.0, 10.0]]), np.array([4.0])]}
    kernel, bias = average_weights(weights, {"A": 30, "B": 10})
    assert kernel.tolist() == [[2.0, 4.0]]
    assert bias.tolist() == [1.0]


def test_the_order_of_the_shares_is_of_no_account_and_types_are_kept():
    weights = {"A": [np.float32([1])], "B": [np.float32([3])]}
    (found,) = average_weights(weights, {"B": 0.75, "A": 0.25})
    assert found.tolist() == [2.5]
    assert found.dtype == np.float32


def test_one_hospital_and_a_hospital_of_no_account():
    array = np.array([1.25, -3.0])
    assert (average_weights({"A": [array]}, {"A": 7})[0] == array).all()
    both = {"A": [array], "B": [array + 1000]}
    assert (average_weights(both, {"A": 5, "B": 0})[0] == array).all()


def test_equal_weights_stay_as_they_are():
    array = np.float32([0.1, 0.7])
    (found,) = average_weights({name: [array] for name in "ABC"}, {"A": 600, "B": 7, "C": 1})
    np.testing.assert_allclose(found, array, rtol=1e-7)


@pytest.mark.parametrize(
    ("weights", "shares", "error", "said"),
    [
        ({}, {}, ValueError, "at least one hospital"),
        ({"A": [np.zeros(1)]}, {"B": 1}, KeyError, r"shares are of \['B'\]; expected \['A'\]"),
        ({"A": [np.zeros(1)]}, {"A": -1}, ValueError, r"shares\['A'\] must be a finite number >= 0, got -1"),
        ({"A": [np.zeros(1)]}, {"A": 0}, ValueError, "must not all be 0"),
        ({"A": [np.zeros(1)], "B": [np.zeros(2)]}, {"A": 1, "B": 1}, ValueError, "weights of 'B' have other shapes"),
    ],
)
def test_what_does_not_fit_is_refused(weights, shares, error, said):
    with pytest.raises(error, match=said):
        average_weights(weights, shares)


def test_equal_marginals_give_shares_by_patients():
    marginals = {name: np.array([0.1, 0.4]) for name in "AB"}
    assert weigh_by_distribution(marginals, {"A": 300, "B": 100}) == pytest.approx({"A": 0.75, "B": 0.25})


def test_a_hospital_that_lies_off_counts_less_by_the_formula():
    marginals = {"A": np.array([0.2, 0.4]), "B": np.array([0.6, 0.0])}
    # pooled: (0.2 * 3 + 0.6) / 4 = 0.3 and (0.4 * 3 + 0) / 4 = 0.3; A lies 0.1 off on average, B 0.3
    raw = {"A": 3 * np.exp(-2 * 0.1), "B": 1 * np.exp(-2 * 0.3)}
    expected = {name: value / sum(raw.values()) for name, value in raw.items()}
    found = weigh_by_distribution(marginals, {"A": 3, "B": 1}, strength=2)
    assert found == pytest.approx(expected)
    assert found["B"] < 0.25


def test_a_strength_of_zero_is_plain_and_below_zero_raises_the_unlike():
    marginals = {"A": np.array([0.2, 0.4]), "B": np.array([0.6, 0.0])}
    assert weigh_by_distribution(marginals, {"A": 3, "B": 1}, strength=0) == pytest.approx({"A": 0.75, "B": 0.25})
    assert weigh_by_distribution(marginals, {"A": 3, "B": 1}, strength=-2)["B"] > 0.25


def test_an_enormous_strength_leaves_the_nearest_alone_and_gives_no_nan():
    marginals = {"A": np.array([0.2]), "B": np.array([0.9]), "C": np.array([0.25])}
    found = weigh_by_distribution(marginals, {"A": 1, "B": 1, "C": 1}, strength=1e6)
    assert found == pytest.approx({"A": 0.0, "B": 0.0, "C": 1.0})
    found = weigh_by_distribution(marginals, {"A": 1, "B": 1, "C": 1}, strength=-1e6)
    assert found == pytest.approx({"A": 0.0, "B": 1.0, "C": 0.0})


def test_one_hospital_has_it_all():
    assert weigh_by_distribution({"A": np.array([0.3])}, {"A": 60}) == {"A": 1.0}


def test_marginals_that_are_none_are_refused():
    with pytest.raises(ValueError, match="marginals of 'A' must be from 0 to 1"):
        weigh_by_distribution({"A": np.array([1.5])}, {"A": 60})
    with pytest.raises(ValueError, match=r"marginals of 'B' have the shape \(2,\)"):
        weigh_by_distribution({"A": np.array([0.5]), "B": np.array([0.5, 0.5])}, {"A": 60, "B": 1})
    with pytest.raises(KeyError, match="sizes are of"):
        weigh_by_distribution({"A": np.array([0.5])}, {"B": 60})


def test_every_hospital_makes_a_step_and_larger_ones_more():
    # 600 patients of 12 visits are 7,200 rows, 14.06 batches of 512; 3 patients are far from one
    assert split_steps({"A": 600, "B": 300, "C": 3}, rows=12, batch=512) == {"A": 14, "B": 7, "C": 1}
