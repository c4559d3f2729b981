"""The classifier two-sample test without pooling: a logistic regression of hospital on record, from sums alone.

If nothing tells two hospitals' patients apart, no classifier beats a coin on patients it was not trained on (Lopez-Paz
and Oquab 2017, Revisiting classifier two-sample tests). Every round of Newton's method asks both hospitals for sums
over their patients, and the sum of their answers is the answer of the pooled patients: the result is the pooled one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
import pandas as pd

from dqc_lib.arguments import require_number, require_whole
from dqc_lib.synthesis.records import describe_patients, require_alike, require_visits

FEWEST = 10
"""Patients of a hospital behind sums that it shares; the sums of fewer would tell on them."""
N_BINS = 50
MOST_ROUNDS = 50
CLOSE = 1e-9  # of the gradient, per patient: nearer than that to the optimum no digit that is shown moves
NORMAL = 1.959963984540054  # 97.5th percentile of the normal distribution


@dataclass(frozen=True, eq=False)
class LogisticSums:
    """What one hospital answers in one round: sums over its patients.

    With the coefficients known, the gradient of one patient is that patient's row, and the gradients of many rounds can
    give single patients away where they are fewer than coefficients. That they are sums is no guarantee of privacy.

    Parameters
    ----------
    loss : float
        Weighted negative log-likelihood.
    gradient : ndarray, shape (coefficients,)
    hessian : ndarray, shape (coefficients, coefficients)
    weight : float
        Sum of weights.
    """

    loss: float
    gradient: np.ndarray
    hessian: np.ndarray
    weight: float


def sum_logistic(
    features: np.ndarray, labels: np.ndarray, coefficients: np.ndarray, *, weights: np.ndarray | None = None
) -> LogisticSums:
    """Return one hospital's part of loss, gradient and Hessian of a logistic regression.

    Parameters
    ----------
    features : ndarray, shape (patients, numbers)
    labels : ndarray, shape (patients,)
        0 or 1.
    coefficients : ndarray, shape (numbers + 1,)
        The intercept first.
    weights : ndarray, shape (patients,), optional
    """
    rows = np.column_stack([np.ones(len(features)), features])
    weights = np.ones(len(rows)) if weights is None else weights
    scores = rows @ coefficients
    chance = 1 / (1 + np.exp(-np.clip(scores, -500, 500)))
    loss = float((weights * (np.logaddexp(0, scores) - labels * scores)).sum())
    gradient = rows.T @ (weights * (chance - labels))
    hessian = (rows * (weights * chance * (1 - chance))[:, np.newaxis]).T @ rows
    return LogisticSums(loss, gradient, hessian, float(weights.sum()))


def fit_federated_logistic(
    ask: Sequence[Callable[[np.ndarray], LogisticSums]], *, n_features: int, ridge: float = 1.0
) -> tuple[np.ndarray, int]:
    """Return the coefficients of a logistic regression on all hospitals' patients, and the rounds that it took.

    Parameters
    ----------
    ask : sequence of callables
        One a hospital: coefficients in, its `LogisticSums` out.
    n_features : int
        Numbers a patient; there is one coefficient more, the intercept, and it comes first.
    ridge : float
        Weight of half the squared length of the coefficients but the intercept (scikit-learn's 1 / C); positive, so
        that there is an optimum even where a line separates the hospitals.

    Raises
    ------
    ValueError
        Without a hospital or a positive ridge.
    RuntimeError
        If 50 rounds were not enough.
    """
    require_whole("n_features", n_features, least=1)
    require_number("ridge", ridge)
    if not (np.isfinite(ridge) and ridge > 0):
        raise ValueError(f"ridge must be a positive number, got {ridge!r}")
    if not ask:
        raise ValueError("ask must hold at least one hospital, got none")
    penalty = np.r_[0.0, np.full(n_features, float(ridge))]
    place, step = np.zeros(n_features + 1), np.zeros(n_features + 1)
    best = np.inf
    for n_rounds in range(1, MOST_ROUNDS + 1):
        answers = [one(place) for one in ask]
        loss = sum(one.loss for one in answers) + penalty @ place**2 / 2
        if not loss <= best + 1e-9 * abs(best):  # too far: half way back, by the loss that they send anyway
            step = step / 2
            place = place - step
            continue
        best = loss
        gradient = sum(one.gradient for one in answers) + penalty * place
        if np.abs(gradient).max() <= CLOSE * sum(one.weight for one in answers):
            return place, n_rounds
        hessian = sum(one.hessian for one in answers) + np.diag(np.maximum(penalty, 1e-12))
        step = -np.linalg.solve(hessian, gradient)
        place = place + step
    raise RuntimeError(
        f"the regression did not converge in {MOST_ROUNDS} rounds; a larger ridge, or features of one scale, would help"
    )


def count_scores(features: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """Return how many of a hospital's patients score in each of 50 equal bins from 0 to 1; int (50,).

    All that leaves the hospital after training; an edge belongs to the bin above it, so 0.5 begins the 26th. The bins
    are coarse so that most hold several patients; a bin of one still tells that there is such a patient.
    """
    scores = coefficients[0] + features @ coefficients[1:]
    chance = 1 / (1 + np.exp(-np.clip(scores, -500, 500)))
    return np.bincount(np.minimum((chance * N_BINS).astype(int), N_BINS - 1), minlength=N_BINS)


def measure_counted_auroc(positive: np.ndarray, negative: np.ndarray) -> tuple[float, float]:
    """Return the AUROC and its standard error from two counts of scores, ties within a bin counting half.

    DeLong et al. 1988 (doi 10.2307/2531595), whose placements are the same for all patients of a bin. NaN without
    patients on either side; the error is NaN with fewer than two on either side.

    Examples
    --------
    >>> measure_counted_auroc(np.array([0, 1, 1]), np.array([2, 0, 0]))
    (1.0, 0.0)
    """
    n_positive, n_negative = int(positive.sum()), int(negative.sum())
    if not (n_positive and n_negative):
        return float("nan"), float("nan")
    above = (np.cumsum(negative) - negative / 2) / n_negative
    below = 1 - (np.cumsum(positive) - positive / 2) / n_positive
    auroc = float(above @ positive / n_positive)
    if min(n_positive, n_negative) < 2:
        return auroc, float("nan")
    spread = [
        counts @ (places - auroc) ** 2 / (n - 1) / n
        for counts, places, n in ((positive, above, n_positive), (negative, below, n_negative))
    ]
    return auroc, float(np.sqrt(sum(spread)))


def tell_apart(first: np.ndarray, second: np.ndarray, *, seed: int = 0, ridge: float = 1.0) -> pd.DataFrame:
    """Return how well a classifier tells two hospitals' patients apart; 0.5 is not at all, 1 entirely.

    Either hospital trains with one random half and is tested with the other. Both count equally however many patients
    they have. (Testing on both halves in turn would add next to nothing without a shift: what the first half happens
    to hold against the second is what the second holds against the first.)

    Parameters
    ----------
    first, second : ndarray, shape (patients, visits, codes)
        Of at least 20 patients each, so that 10 train. Seen by their hospital alone: `LogisticSums` in every round and
        `count_scores` at the end are what crosses. Neither is a guarantee of privacy: there are more coefficients than
        patients of a small hospital, and who keeps all rounds can solve for some of their rows.
    seed : int
        Of the halves.
    ridge : float
        As in `fit_federated_logistic`, for weights that sum to the number of training patients.

    Returns
    -------
    DataFrame
        Rows classifier_auroc and classifier_accuracy (balanced: the mean over the two hospitals); columns measure,
        value, low, high (95 %: DeLong's on the logit scale, NaN where no score is out of place; Wilson's, combined),
        no_shift (0.5), noise (standard deviation without a shift), z, n_train, n_test, n_rounds.

    Raises
    ------
    ValueError
        For fewer than 20 patients at either hospital.
    """
    parts = [require_visits("first", first), require_visits("second", second)]
    require_alike("second", parts[1], "first", parts[0])
    require_whole("seed", seed, least=0)
    described = [describe_patients(visits) for visits in parts]
    halves = [_halve(len(rows), seed, name) for rows, name in zip(described, ("first", "second"), strict=True)]
    if min(len(train) for train, _ in halves) < FEWEST:
        words = f"expected at least {2 * FEWEST} patients at either hospital, half of them to train"
        raise ValueError(f"{words}, got {len(first)} and {len(second)}")
    n_train = sum(len(train) for train, _ in halves)
    ask = [
        _answer(rows[train], label, weight=n_train / 2 / len(train))
        for label, (rows, (train, _)) in enumerate(zip(described, halves, strict=True))
    ]
    place, n_rounds = fit_federated_logistic(ask, n_features=described[0].shape[1], ridge=ridge)
    counts = [count_scores(rows[test], place) for rows, (_, test) in zip(described, halves, strict=True)]
    table = pd.DataFrame([_judge_auroc(*counts), _judge_accuracy(*counts)])
    return table.assign(n_train=n_train, n_test=int(sum(map(np.sum, counts))), n_rounds=n_rounds)


def _halve(n: int, seed: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    order = np.random.default_rng([seed, crc32(name.encode())]).permutation(n)
    return order[: n // 2], order[n // 2 :]


def _answer(features: np.ndarray, label: int, *, weight: float) -> Callable[[np.ndarray], LogisticSums]:
    """Return what a hospital does when it is asked: it never sends more than `LogisticSums`."""
    labels, weights = np.full(len(features), label), np.full(len(features), weight)
    return lambda place: sum_logistic(features, labels, place, weights=weights)


def _judge_auroc(negative: np.ndarray, positive: np.ndarray) -> dict[str, float | str]:
    value, error = measure_counted_auroc(positive, negative)
    low, high = np.nan, np.nan
    if 0 < value < 1 and error > 0:
        odds, reach = np.log(value / (1 - value)), NORMAL * error / (value * (1 - value))
        low, high = (1 / (1 + np.exp(-(odds + side * reach))) for side in (-1, 1))
    n, m = int(positive.sum()), int(negative.sum())
    noise = np.sqrt((n + m + 1) / (12 * n * m))  # of Mann and Whitney's U, in shares of pairs
    row = {"measure": "classifier_auroc", "value": value, "low": low, "high": high}
    return row | {"no_shift": 0.5, "noise": noise, "z": (value - 0.5) / noise}


def _judge_accuracy(negative: np.ndarray, positive: np.ndarray) -> dict[str, float | str]:
    """Return the balanced accuracy; its interval combines the two hospitals' as Newcombe 1998 does for differences."""
    hits = (int(negative[: N_BINS // 2].sum()), int(positive[N_BINS // 2 :].sum()))
    sizes = (int(negative.sum()), int(positive.sum()))
    shares = [hit / n for hit, n in zip(hits, sizes, strict=True)]
    bounds = [_bound_share(share, n) for share, n in zip(shares, sizes, strict=True)]
    value = sum(shares) / 2
    down, up = (
        np.sqrt(sum((share - bound[side]) ** 2 for share, bound in zip(shares, bounds, strict=True))) / 2
        for side in (0, 1)
    )
    noise = np.sqrt(sum(0.25 / n for n in sizes)) / 2
    row = {"measure": "classifier_accuracy", "value": value, "low": value - down, "high": value + up}
    return row | {"no_shift": 0.5, "noise": noise, "z": (value - 0.5) / noise}


def _bound_share(share: float, n: int) -> tuple[float, float]:
    """Return Wilson's interval of a share of n."""
    middle = (share + NORMAL**2 / (2 * n)) / (1 + NORMAL**2 / n)
    reach = NORMAL * np.sqrt(share * (1 - share) / n + NORMAL**2 / (4 * n**2)) / (1 + NORMAL**2 / n)
    return middle - reach, middle + reach
