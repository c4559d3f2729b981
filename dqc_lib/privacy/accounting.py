"""How much a training with noise can tell about one patient: epsilon and delta, from dp-accounting.

A mechanism is (epsilon, delta)-differentially private if adding or removing one patient, with all visits, changes the
probability of no outcome by more than a factor of exp(epsilon), but for a probability delta (Dwork and Roth 2014, doi
10.1561/0400000042). What is accounted is differentially private gradient descent (Abadi et al. 2016, arXiv 1607.00133):
in every step each patient takes part with the same probability, independently (Poisson sampling); a patient's gradient
has at most the length C; to the sum Gaussian noise of standard deviation noise multiplier x C is added.

Training that is accounted for, and is done otherwise (batches of a fixed size, clipping by visit), is not covered.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd

from dqc_lib.arguments import require_kind, require_number, require_text, require_whole

ACCOUNTANTS = ("pld", "rdp")
ORDERS = (*range(2, 129), 160, 192, 256, 384, 512, 768, 1024)
"""Orders of the Rényi divergences; fractional ones below 2 take long and serve only where epsilon is huge."""
TIGHT = 5000.0
"""Above this epsilon of the Rényi accountant nothing is promised, and the tighter one is not asked any more."""
INTERVALS = {100.0: 1e-3, TIGHT: 1e-2}
"""Grid of the privacy loss up to each epsilon of the Rényi accountant; it is rounded up, so epsilon never is too small.
"""
MOST_NOISE = 1e6
COLUMNS = (
    "hospital", "n_patients", "sampling_rate", "noise_multiplier", "steps", "delta", "epsilon", "maximum",
)  # fmt: skip


def measure_epsilon(
    noise_multiplier: float, *, sampling_rate: float, steps: int, delta: float, accountant: str = "pld"
) -> float:
    """Return the epsilon of training with noise: 0 is perfect privacy, infinity is none.

    Parameters
    ----------
    noise_multiplier : float
        Standard deviation of the noise as a multiple of the clipping norm, at least 0; without noise epsilon is
        infinite. Where k visits of a patient are clipped one by one, a patient can move the sum by k times the norm:
        divide the multiplier by k.
    sampling_rate : float
        Probability of each patient to take part in a step, from 0 to 1.
    steps : int
        How often the patients were looked at; every look counts.
    delta : float
        Above 0, below 1; below 1 / patients, or else publishing one of them whole would be allowed.
    accountant : str
        "pld" (privacy loss distributions, Koskela et al. 2020, arXiv 1906.03049: an upper bound that is tight but for
        its grid, `INTERVALS`), or "rdp" (Rényi divergences, Mironov 2017, arXiv 1702.07476: an upper bound that can be
        several times too large where there is little noise). Where the second says more than `TIGHT`, its answer is
        returned.

    Returns
    -------
    float

    Examples
    --------
    >>> round(measure_epsilon(1.0, sampling_rate=1.0, steps=1, delta=1e-3), 2)
    3.14
    >>> measure_epsilon(0.0, sampling_rate=0.1, steps=1, delta=1e-3)
    inf
    """
    require_rate("sampling_rate", sampling_rate)
    require_noise(noise_multiplier)
    require_whole("steps", steps, least=0)
    require_delta(delta)
    if accountant not in ACCOUNTANTS:
        raise ValueError(f"accountant must be one of {', '.join(ACCOUNTANTS)}, got {accountant!r}")
    if sampling_rate == 0 or steps == 0:
        return 0.0
    if noise_multiplier == 0:
        return math.inf
    return _account(float(noise_multiplier), float(sampling_rate), int(steps), float(delta), accountant)


def _account(noise_multiplier: float, rate: float, steps: int, delta: float, accountant: str) -> float:
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
    from dp_accounting.pld import PLDAccountant
    from dp_accounting.rdp import RdpAccountant

    event = GaussianDpEvent(noise_multiplier)
    if rate < 1:
        event = PoissonSampledDpEvent(rate, event)
    bound = float(RdpAccountant(ORDERS).compose(event, steps).get_epsilon(delta))
    if accountant == "rdp" or not bound <= TIGHT:
        return bound
    interval = next(width for end, width in INTERVALS.items() if bound <= end)
    return float(PLDAccountant(value_discretization_interval=interval).compose(event, steps).get_epsilon(delta))


def find_noise(
    epsilon: float, *, sampling_rate: float, steps: int, delta: float, accountant: str = "pld", tolerance: float = 0.01
) -> float:
    """Return the smallest noise multiplier that keeps training within epsilon, too large by `tolerance` (relative) at
    most.

    Parameters
    ----------
    epsilon : float
        Above 0; infinite asks for no noise.
    sampling_rate, steps, delta, accountant
        As in `measure_epsilon`.
    tolerance : float
        Above 0.

    Raises
    ------
    ValueError
        If no noise multiplier up to `MOST_NOISE` is enough.
    """
    require_number("epsilon", epsilon)
    require_number("tolerance", tolerance)
    if not epsilon > 0 or not tolerance > 0:
        raise ValueError(f"epsilon and tolerance must be above 0, got {epsilon!r} and {tolerance!r}")
    asked = {"sampling_rate": sampling_rate, "steps": steps, "delta": delta, "accountant": accountant}
    if measure_epsilon(0.0, **asked) <= epsilon:
        return 0.0
    low, high = 0.0, 1.0
    while measure_epsilon(high, **asked) > epsilon:
        low, high = high, 2 * high
        if high > MOST_NOISE:
            raise ValueError(f"epsilon {epsilon!r} needs a noise multiplier above {MOST_NOISE:g}; expected less")
    while high - low > tolerance * high:
        middle = (low + high) / 2
        low, high = (low, middle) if measure_epsilon(middle, **asked) <= epsilon else (middle, high)
    return high


def choose_delta(n_patients: int) -> float:
    """Return a delta for so many patients: a tenth of one of them."""
    require_whole("n_patients", n_patients, least=1)
    return 0.1 / int(n_patients)


def tabulate_epsilons(
    sizes: Mapping[str, int],
    *,
    noise_multiplier: float,
    steps: int,
    expected_batch: float | None = None,
    sampling_rate: float | None = None,
    delta: float | None = None,
    accountant: str = "pld",
) -> pd.DataFrame:
    """Return the epsilon of every hospital, each of which trains on its own patients with noise of its own.

    A patient of one hospital is protected by that hospital's epsilon, whatever the others do; so what holds for all
    patients is the **maximum**. With the same batch everywhere that is the smallest hospital's, whose patients are
    drawn most often. A patient who is known at two hospitals has the sum of their epsilons at the sum of their deltas.

    Parameters
    ----------
    sizes : mapping of str to int
        Patients of every hospital.
    noise_multiplier, steps, accountant
        As in `measure_epsilon`; the same at all hospitals.
    expected_batch : float
        Mean number of patients in a step, the same at all hospitals; where there are fewer, all take part.
    sampling_rate : float
        In its place: the same rate at all hospitals.
    delta : float, optional
        The same at all hospitals; unless given, a tenth of one of all patients (`choose_delta`).

    Returns
    -------
    DataFrame
        Columns `COLUMNS`; `maximum` marks the largest epsilon.
    """
    require_kind("sizes", sizes, Mapping, such_as='{"A": 100, "B": 40}')
    if not sizes:
        raise ValueError("sizes must have at least one hospital, got none")
    for hospital, n in sizes.items():
        require_text("a hospital of sizes", hospital)
        require_whole(f"sizes of hospital {hospital!r}", n, least=1)
    if (expected_batch is None) == (sampling_rate is None):
        raise ValueError("expected either expected_batch or sampling_rate, got both or none")
    if expected_batch is not None:
        require_number("expected_batch", expected_batch)
        if not 0 < expected_batch < math.inf:
            raise ValueError(f"expected_batch must be a finite number > 0, got {expected_batch!r}")
    delta = choose_delta(sum(sizes.values())) if delta is None else delta
    rows = []
    for hospital, n in sizes.items():
        rate = sampling_rate if expected_batch is None else min(1.0, expected_batch / n)
        asked = {"sampling_rate": rate, "steps": steps, "delta": delta}
        epsilon = measure_epsilon(noise_multiplier, **asked, accountant=accountant)
        rows.append(
            {"hospital": hospital, "n_patients": n, "noise_multiplier": noise_multiplier, "epsilon": epsilon, **asked}
        )
    table = pd.DataFrame(rows)
    return table.assign(maximum=table["epsilon"] == table["epsilon"].max())[list(COLUMNS)]


def require_rate(name: str, value: float) -> None:
    """Raise unless the value is a number from 0 to 1."""
    require_number(name, value)
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must lie between 0 and 1, got {value!r}")


def require_noise(value: float) -> None:
    """Raise unless the value is a finite noise multiplier of at least 0."""
    require_number("noise_multiplier", value)
    if not 0 <= value < math.inf:
        raise ValueError(f"noise_multiplier must be a finite number >= 0, got {value!r}")


def require_delta(value: float) -> None:
    """Raise unless the value is a number between 0 and 1."""
    require_number("delta", value)
    if not 0 < value < 1:
        raise ValueError(f"delta must be above 0 and below 1, for instance 0.1 / patients, got {value!r}")
