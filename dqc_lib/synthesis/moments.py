"""What measures of fidelity rest on: sums over patients, so that drawing patients again is one matrix product."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LEAST = 10
"""Records of a code, or of a code that is followed by another visit, below which a rate of them is NaN."""
LEAST_BOTH = 30
"""Patients with both of two codes, below which there is no saying which comes first."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over patients; the first axis holds resamples, of which there is one if none was drawn again.

    Parameters
    ----------
    n : ndarray, shape (resamples,)
        Patients.
    codes : ndarray, shape (resamples, visits, codes)
        Records of every visit and code.
    together : ndarray, shape (resamples, codes, codes)
        Visits with both codes.
    without : ndarray, shape (resamples, codes, codes)
        Steps from a visit to the next with the first code and without the second at the earlier one.
    begun : ndarray, shape (resamples, codes, codes)
        Those of them with the second code at the later one.
    first : ndarray, shape (resamples, codes, codes)
        Patients whose first record of the first code is at an earlier visit than that of the second; both have some.
    both : ndarray, shape (resamples, codes, codes)
        Patients with some record of either code.
    again : ndarray, shape (resamples, lags, codes)
        Pairs of visits 1, 2, ... apart with the code at both.
    """

    n: np.ndarray
    codes: np.ndarray
    together: np.ndarray
    without: np.ndarray
    begun: np.ndarray
    first: np.ndarray
    both: np.ndarray
    again: np.ndarray


def count_lags(n_visits: int, most: int) -> int:
    """Return the lags there are, at most so many: two visits must be left to make a pair at two places."""
    return min(most, n_visits - 1)


def sum_moments(visits: np.ndarray, *, lags: int, weights: np.ndarray | None = None) -> Moments:
    """Return the sums of records, once for every column of weights.

    Parameters
    ----------
    visits : float32 ndarray, shape (patients, visits, codes)
    lags : int
        At least 0, at most visits - 1.
    weights : ndarray, shape (patients, resamples), optional
        How often a patient is drawn; once each unless given.
    """
    n, n_visits, n_codes = visits.shape
    weights = np.ones((n, 1), dtype=np.float32) if weights is None else weights
    drawn = weights.T.astype(np.float64)

    def add(parts: np.ndarray) -> np.ndarray:
        return (drawn @ parts.reshape(n, -1).astype(np.float64)).reshape(len(drawn), *parts.shape[1:])

    earlier, later = visits[:, :-1].transpose(0, 2, 1), visits[:, 1:]
    absent = 1 - visits[:, :-1]
    ever = visits.any(axis=1)
    both = ever[:, :, np.newaxis] & ever[:, np.newaxis]
    begins = visits.argmax(axis=1)
    again = [(visits[:, lag:] * visits[:, : n_visits - lag]).sum(axis=1) for lag in range(1, lags + 1)]
    return Moments(
        drawn.sum(axis=1),
        add(visits),
        add(np.matmul(visits.transpose(0, 2, 1), visits)),
        add(np.matmul(earlier, absent)),
        add(np.matmul(earlier, absent * later)),
        add(both & (begins[:, :, np.newaxis] < begins[:, np.newaxis])),
        add(both),
        add(np.stack(again, axis=1) if again else np.zeros((n, 0, n_codes))),
    )


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Return the ratio, NaN where the denominator is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(denominator > 0, numerator / denominator, np.nan)


def _correlate(product: np.ndarray, first: np.ndarray, second: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Return the correlation of two variables of 0 and 1 from their sums; NaN for one that is the same everywhere."""
    spread = (first * (n - first)) * (second * (n - second))
    return _divide(n * product - first * second, np.sqrt(np.maximum(spread, 0)))


def get_prevalence(sums: Moments) -> np.ndarray:
    """Return the share of visits that have each code, shape (resamples, codes)."""
    return sums.codes.sum(axis=1) / (sums.n * sums.codes.shape[1])[:, np.newaxis]


def get_trend(sums: Moments) -> np.ndarray:
    """Return the share of patients with each code at a visit less its mean over visits; (resamples, visits, codes)."""
    shares = sums.codes / sums.n[:, np.newaxis, np.newaxis]
    return shares - shares.mean(axis=1, keepdims=True)


def get_cooccurrence(sums: Moments) -> np.ndarray:
    """Return correlations of different codes within a visit, shape (resamples, codes, codes); NaN on the diagonal."""
    total = sums.codes.sum(axis=1)
    n = (sums.n * sums.codes.shape[1])[:, np.newaxis, np.newaxis]
    found = _correlate(sums.together, total[:, :, np.newaxis], total[:, np.newaxis], n)
    return np.where(_see_pairs(total), found, np.nan)


def get_persistence(sums: Moments) -> np.ndarray:
    """Return the probability that a code is there again at the next visit, shape (resamples, codes).

    NaN for a code with fewer than 10 records that another visit follows.
    """
    before = sums.codes[:, :-1].sum(axis=1)
    return np.where(before >= LEAST, _divide(sums.again[:, 0], before), np.nan)


def get_onset(sums: Moments) -> np.ndarray:
    """Return the probability that the second code, not there, begins at the next visit given the first at this.

    Shape (resamples, codes, codes); NaN on the diagonal, and for fewer than 10 such visits.
    """
    return np.where(sums.without >= LEAST, _divide(sums.begun, sums.without), np.nan)


def get_order(sums: Moments) -> np.ndarray:
    """Return how much more often the first code comes first, shape (resamples, codes, codes).

    Among patients with both codes: the share whose first record of the first is at an earlier visit, less the share of
    the reverse; antisymmetric, from -1 to 1. NaN on the diagonal, and for fewer than 30 such patients.
    """
    found = _divide(sums.first - sums.first.transpose(0, 2, 1), sums.both)
    same = np.eye(sums.both.shape[1], dtype=bool)
    return np.where((sums.both >= LEAST_BOTH) & ~same, found, np.nan)


def get_autocorrelation(sums: Moments) -> np.ndarray:
    """Return the correlation of a code with itself 1, 2, ... visits later, shape (resamples, lags, codes)."""
    n_visits, parts = sums.codes.shape[1], []
    for lag in range(1, sums.again.shape[1] + 1):
        first, second = sums.codes[:, : n_visits - lag].sum(axis=1), sums.codes[:, lag:].sum(axis=1)
        parts.append(_correlate(sums.again[:, lag - 1], first, second, (sums.n * (n_visits - lag))[:, np.newaxis]))
    found = np.stack(parts, axis=1) if parts else np.zeros(sums.again.shape)
    return np.where((sums.codes.sum(axis=1) >= LEAST)[:, np.newaxis], found, np.nan)


def _see_pairs(total: np.ndarray) -> np.ndarray:
    """Return whether two different codes have enough records, shape (resamples, codes, codes)."""
    seen = total >= LEAST
    return seen[:, :, np.newaxis] & seen[:, np.newaxis] & ~np.eye(total.shape[1], dtype=bool)
