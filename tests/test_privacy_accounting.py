"""The accountant: held against the closed forms of the Gaussian mechanism, and what it is told against what it says."""

import math

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from dqc_lib.privacy import choose_delta, find_noise, measure_epsilon, tabulate_epsilons
from dqc_lib.privacy.accounting import COLUMNS, ORDERS

WHOLE = {"sampling_rate": 1.0, "steps": 1, "delta": 1e-3}


def solve_gaussian(noise, delta, most=200):
    """Return the epsilon of one release of a sum with Gaussian noise, by theorem 8 of Balle and Wang (2018)."""

    def exceed(epsilon):
        first = norm.cdf(1 / (2 * noise) - epsilon * noise)
        return first - math.exp(epsilon) * norm.cdf(-1 / (2 * noise) - epsilon * noise) - delta

    return brentq(exceed, 0, most)


@pytest.mark.parametrize(("noise", "delta"), [(1.0, 1e-3), (0.7, 1e-5), (3.0, 1e-4), (0.2, 1e-3)])
def test_one_release_to_all_has_the_epsilon_of_the_closed_form(noise, delta):
    found = measure_epsilon(noise, sampling_rate=1.0, steps=1, delta=delta)
    assert found == pytest.approx(solve_gaussian(noise, delta), abs=3e-3)
    assert found >= solve_gaussian(noise, delta) - 1e-6, "rounded up, never down"


@pytest.mark.parametrize("steps", [4, 25])
def test_k_steps_are_one_step_with_the_noise_divided_by_the_root_of_k(steps):
    found = measure_epsilon(5.0, sampling_rate=1.0, steps=steps, delta=1e-4)
    assert found == pytest.approx(solve_gaussian(5.0 / math.sqrt(steps), 1e-4), abs=2e-3 * steps)


@pytest.mark.parametrize(("noise", "steps", "delta"), [(2.0, 1, 1e-5), (1.0, 3, 1e-3)])
def test_the_renyi_accountant_is_that_of_alpha_over_twice_the_variance(noise, steps, delta):
    orders = np.array(ORDERS, dtype=float)
    divergence = steps * orders / (2 * noise**2)  # proposition 7 of Mironov (2017)
    turned = divergence + np.log1p(-1 / orders) - np.log(delta * orders) / (orders - 1)  # Canonne et al. (2020), 12
    found = measure_epsilon(noise, sampling_rate=1.0, steps=steps, delta=delta, accountant="rdp")
    assert found == pytest.approx(turned.min(), rel=1e-6)


def test_drawing_a_tenth_of_the_patients_costs_less_than_all_and_more_than_nothing():
    # one step with rate q: exp(epsilon') = 1 + q (exp(epsilon) - 1) at delta' = q delta (Balle, Barthe, Gaboardi 2018)
    rate, delta = 0.1, 1e-3
    expected = math.log1p(rate * math.expm1(solve_gaussian(1.0, delta)))
    found = measure_epsilon(1.0, sampling_rate=rate, steps=1, delta=rate * delta)
    assert found == pytest.approx(expected, abs=0.01)


def compose_by_fourier(noise, *, rate, steps, delta, width=1e-3, reach=40.0):
    """Return epsilon of several steps with sampled Gaussian noise: the distribution of the privacy loss of one step, on
    a grid, is convolved with itself by a fast Fourier transform; for removing and for adding a patient, the larger."""
    cells = np.arange(-reach, reach, width)
    found = []
    for sign in (1, -1):
        x = np.linspace(-12 * noise, 12 * noise + 1, 2_000_001)
        without = norm.pdf(x, 0, noise)
        mixed = (1 - rate) * without + rate * norm.pdf(x, 1, noise)
        mass = mixed if sign == 1 else without
        loss = sign * np.log((1 - rate) + rate * np.exp((2 * x - 1) / (2 * noise**2)))
        one, _ = np.histogram(loss, bins=np.append(cells, reach), weights=mass * (x[1] - x[0]))
        spectrum = np.fft.fft(np.fft.ifftshift(one)) ** steps
        total = np.fft.fftshift(np.fft.ifft(spectrum).real)
        at = cells + steps * width / 2  # a mass stands in the middle of its cell

        def exceed(epsilon, at=at, total=total):
            above = at > epsilon
            return (total[above] * -np.expm1(epsilon - at[above])).sum() - delta

        found.append(brentq(exceed, 0, reach / 2))
    return max(found)


@pytest.mark.parametrize(("rate", "noise"), [(0.1, 1.0), (0.3, 2.0)])
def test_twenty_steps_with_drawn_patients_are_those_of_a_convolution_of_our_own(rate, noise):
    asked = {"steps": 20, "delta": 1e-4}
    expected = compose_by_fourier(noise, rate=rate, **asked)
    assert measure_epsilon(noise, sampling_rate=rate, **asked) == pytest.approx(expected, rel=0.01)


def test_little_noise_is_told_tightly_too():
    asked = {"sampling_rate": 1.0, "steps": 1, "delta": 1e-4}
    expected = solve_gaussian(0.05, 1e-4, most=700)
    assert expected > 250
    assert expected - 1e-6 <= measure_epsilon(0.05, **asked) <= expected + 0.05
    assert measure_epsilon(0.05, **asked, accountant="rdp") > 1.3 * expected


@pytest.mark.parametrize(("rate", "noise"), [(0.05, 1.0), (0.2, 3.0)])
def test_the_fast_accountant_is_an_upper_bound_of_the_tight_one(rate, noise):
    asked = {"sampling_rate": rate, "steps": 100, "delta": 1e-4}
    tight, fast = (measure_epsilon(noise, **asked, accountant=name) for name in ("pld", "rdp"))
    assert 0 < tight < fast < 1.6 * tight


def test_no_noise_is_no_privacy_and_no_look_is_perfect_privacy():
    assert measure_epsilon(0.0, **WHOLE) == math.inf
    assert measure_epsilon(0.0, **WHOLE | {"steps": 0}) == 0.0
    assert measure_epsilon(0, **WHOLE | {"sampling_rate": 0.0}) == 0.0
    assert 1e4 < measure_epsilon(1e-3, **WHOLE) < math.inf


def test_more_noise_fewer_steps_and_fewer_patients_a_step_cost_less():
    def ask(noise=1.0, rate=0.1, steps=50):
        return measure_epsilon(noise, sampling_rate=rate, steps=steps, delta=1e-3)

    assert ask(noise=2.0) < ask() and ask(rate=0.05) < ask() and ask(steps=25) < ask()


@pytest.mark.parametrize("epsilon", [0.5, 3.0, 40.0, 70.0, 99.0])
def test_the_noise_that_is_found_is_enough_and_hardly_more(epsilon):
    asked = {"sampling_rate": 0.1, "steps": 50, "delta": 1e-3}
    noise = find_noise(epsilon, **asked)
    assert measure_epsilon(noise, **asked) <= epsilon < measure_epsilon(0.98 * noise, **asked)


def test_an_infinite_epsilon_needs_no_noise_and_neither_does_no_step():
    assert find_noise(math.inf, **WHOLE) == 0.0
    assert find_noise(1.0, **WHOLE | {"steps": 0}) == 0.0
    with pytest.raises(ValueError, match="needs a noise multiplier above 1e"):
        find_noise(1e-9, **WHOLE | {"delta": 1e-12})


def test_with_the_same_batch_everywhere_the_smallest_hospital_has_the_maximum():
    table = tabulate_epsilons({"A": 400, "B": 40, "C": 10}, noise_multiplier=2.0, steps=20, expected_batch=20)
    assert tuple(table) == COLUMNS
    assert table["sampling_rate"].tolist() == [0.05, 0.5, 1.0], "a hospital of ten cannot draw twenty"
    assert table["delta"].tolist() == [0.1 / 450] * 3
    assert table["maximum"].tolist() == [False, False, True]
    assert table["epsilon"].is_monotonic_increasing
    expected = solve_gaussian(2.0 / math.sqrt(20), 0.1 / 450)
    assert table["epsilon"].iloc[2] == pytest.approx(expected, abs=0.03)


def test_with_the_same_rate_everywhere_all_hospitals_are_alike():
    table = tabulate_epsilons({"A": 400, "B": 40}, noise_multiplier=2.0, steps=20, sampling_rate=0.1, delta=1e-4)
    assert table["epsilon"].nunique() == 1 and table["maximum"].all()


def test_without_noise_every_hospital_is_at_infinity():
    table = tabulate_epsilons({"A": 9}, noise_multiplier=0, steps=1, sampling_rate=1.0)
    assert table["epsilon"].tolist() == [math.inf] and table["maximum"].tolist() == [True]


def test_delta_is_a_tenth_of_a_patient():
    assert choose_delta(50) == pytest.approx(1 / 500)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"noise_multiplier": -1}, ValueError, "noise_multiplier must be a finite number >= 0, got -1"),
        ({"noise_multiplier": math.nan}, ValueError, "got nan"),
        ({"noise_multiplier": "much"}, TypeError, "noise_multiplier must be a number, got 'much'"),
        ({"sampling_rate": 20}, ValueError, "sampling_rate must lie between 0 and 1, got 20"),
        ({"steps": -1}, ValueError, "steps must be a whole number of at least 0"),
        ({"steps": 0.5}, TypeError, "steps must be a whole number"),
        ({"delta": 0}, ValueError, "delta must be above 0 and below 1"),
        ({"accountant": "guess"}, ValueError, "accountant must be one of pld, rdp, got 'guess'"),
    ],
)
def test_what_cannot_be_accounted_for_is_refused_by_name(change, error, words):
    asked = {"noise_multiplier": 1.0, **WHOLE, **change}
    with pytest.raises(error, match=words):
        measure_epsilon(asked.pop("noise_multiplier"), **asked)


@pytest.mark.parametrize(
    ("sizes", "options", "error", "words"),
    [
        ({}, {}, ValueError, "at least one hospital"),
        ([3, 4], {}, TypeError, "sizes must be a Mapping"),
        ({"A": 0}, {}, ValueError, "sizes of hospital 'A' must be a whole number of at least 1"),
        ({1: 5}, {}, TypeError, "a hospital of sizes must be a text"),
        ({"A": 5}, {"expected_batch": 2}, ValueError, "either expected_batch or sampling_rate, got both or none"),
        ({"A": 5}, {"sampling_rate": None}, ValueError, "either expected_batch or sampling_rate"),
        ({"A": 5}, {"sampling_rate": None, "expected_batch": 0}, ValueError, "expected_batch must be a finite number"),
    ],
)
def test_hospitals_that_cannot_be_are_refused_by_name(sizes, options, error, words):
    with pytest.raises(error, match=words):
        tabulate_epsilons(sizes, **{"noise_multiplier": 1.0, "steps": 1, "sampling_rate": 0.1, **options})


def test_an_epsilon_of_zero_cannot_be_bought():
    with pytest.raises(ValueError, match="epsilon and tolerance must be above 0"):
        find_noise(0, **WHOLE)
