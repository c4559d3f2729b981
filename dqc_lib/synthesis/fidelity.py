"""How like real records synthetic ones are: codes, pairs of codes, and time, each beside a copy without time.

A measure that gives the same for real records and for the same records with their visits shuffled cannot see time, and
a good value of it says nothing of it. So every table can stand beside the shuffled copy as a control, and beside a
second sample of real patients as what chance alone gives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
import pandas as pd

from dqc_lib.arguments import require_whole
from dqc_lib.evaluation.metrics import check_confidence
from dqc_lib.evaluation.resampling import draw_weights
from dqc_lib.synthesis.moments import (
    Moments,
    count_lags,
    get_autocorrelation,
    get_cooccurrence,
    get_onset,
    get_order,
    get_persistence,
    get_prevalence,
    get_trend,
    sum_moments,
)
from dqc_lib.synthesis.records import require_alike, require_visits

LAGS = 6
FIDELITY_COLUMNS = ("measure", "value", "direction", "best", "sees_time", "n", "n_real", "n_synthetic")
BLOCK = 50  # resamples at a time; their sums for 24 codes over 12 visits take a megabyte


def shuffle_visits(visits: np.ndarray, *, seed: int) -> np.ndarray:
    """Return the records with the visits of every patient in random order: the control without time.

    What was recorded at one visit stays together, so prevalences and co-occurrence are kept exactly; only the order is
    lost. What a patient has at most visits is still there at most visits.

    Examples
    --------
    >>> visits = np.arange(6).reshape(1, 3, 2) % 2
    >>> shuffle_visits(visits, seed=1).shape
    (1, 3, 2)
    """
    visits = require_visits("visits", visits)
    require_whole("seed", seed, least=0)
    rng = np.random.default_rng([seed, crc32(b"shuffle")])
    order = np.argsort(rng.random(visits.shape[:2]), axis=1)
    return np.take_along_axis(visits, order[:, :, np.newaxis], axis=1)


@dataclass(frozen=True)
class _Measure:
    """One row: what is compared, how it is summed up, and whether order matters to it."""

    describe: Callable[[Moments], np.ndarray]
    compare: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
    sees_time: bool
    best: float = 0.0


def _gap(real: np.ndarray, synthetic: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean absolute difference of every resample and how many it rests on; NaN if none."""
    apart = np.abs(real - synthetic).reshape(len(real), -1)
    n = (~np.isnan(apart)).sum(axis=1)
    return np.where(n > 0, np.nansum(apart, axis=1) / np.maximum(n, 1), np.nan), n


def _explain(real: np.ndarray, synthetic: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return R squared of the synthetic prevalences as predictions of the real ones, NaN if these are all the same."""
    left = ((real - synthetic) ** 2).sum(axis=1)
    total = ((real - real.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 0, 1 - left / total, np.nan), np.full(len(real), real.shape[1])


MEASURES = {
    "prevalence_gap": _Measure(get_prevalence, _gap, sees_time=False),
    "prevalence_r2": _Measure(get_prevalence, _explain, sees_time=False, best=1.0),
    "cooccurrence_gap": _Measure(get_cooccurrence, _gap, sees_time=False),
    "persistence_gap": _Measure(get_persistence, _gap, sees_time=True),
    "autocorrelation_gap": _Measure(get_autocorrelation, _gap, sees_time=True),
    "onset_gap": _Measure(get_onset, _gap, sees_time=True),
    "order_gap": _Measure(get_order, _gap, sees_time=True),
    "trend_gap": _Measure(get_trend, _gap, sees_time=True),
}
"""Prevalence: share of visits with a code. Co-occurrence: correlation of two codes within a visit. Persistence:
probability that a code is there again at the next visit. Autocorrelation: correlation of a code with itself 1 to 6
visits later. Onset: probability that another code begins at the next visit. Order: which of two codes a patient has
first. Trend: prevalence of a visit less the mean over visits."""


def _compare(real: Moments, synthetic: Moments) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return values and n of every measure, each of shape (resamples,)."""
    return {name: one.compare(one.describe(real), one.describe(synthetic)) for name, one in MEASURES.items()}


def _require_pair(real: np.ndarray, synthetic: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    real, synthetic = require_visits("real", real), require_visits("synthetic", synthetic)
    require_alike("synthetic", synthetic, "real", real)
    if real.shape[1] < 2:
        raise ValueError("real must have at least 2 visits, so that there is time to compare, got 1")
    return real, synthetic


def _sum_pair(real: np.ndarray, synthetic: np.ndarray) -> tuple[Moments, Moments]:
    lags = count_lags(real.shape[1], LAGS)
    return sum_moments(real, lags=lags), sum_moments(synthetic, lags=lags)


def measure_fidelity(real: np.ndarray, synthetic: np.ndarray) -> pd.DataFrame:
    """Return how far synthetic records are from real ones, by eight measures.

    Parameters
    ----------
    real, synthetic : ndarray, shapes (patients, visits, codes) and (others, visits, codes)
        0 and 1, at least 2 visits.

    Returns
    -------
    DataFrame
        One row a measure of `MEASURES`: measure, value (a gap is a mean absolute difference over codes or pairs of
        codes; R squared is 1 at best and may be negative), direction ("lower" or "higher" is better), best, sees_time
        (whether the order of visits matters to it), n (numbers compared; codes with fewer than 10 records on either
        side have no correlation and no persistence and are left out, and with none left the value is NaN), n_real,
        n_synthetic (patients). A gap is above 0 by chance alone: see `tabulate_with_control`.
    """
    real, synthetic = _require_pair(real, synthetic)
    found = _compare(*_sum_pair(real, synthetic))
    rows = []
    for name, (values, n) in found.items():
        best, sees = MEASURES[name].best, MEASURES[name].sees_time
        row = {"measure": name, "value": float(values[0]), "direction": "higher" if best else "lower", "best": best}
        rows.append(row | {"sees_time": sees, "n": int(n[0]), "n_real": len(real), "n_synthetic": len(synthetic)})
    return pd.DataFrame(rows, columns=list(FIDELITY_COLUMNS))


def tabulate_with_control(
    real: np.ndarray, synthetic: np.ndarray, *, seed: int = 0, other_real: np.ndarray | None = None
) -> pd.DataFrame:
    """Return the table of `measure_fidelity` with what real records without time would get, and what real ones do.

    Parameters
    ----------
    real, synthetic : ndarray
        As in `measure_fidelity`.
    seed : int
        Of the shuffle.
    other_real : ndarray, shape (others, visits, codes), optional
        A second sample of real patients, at best as many as there are synthetic ones.

    Returns
    -------
    DataFrame
        As of `measure_fidelity`, with control (the value of `shuffle_visits(real)`: a measure that is perfect there
        cannot see time) and floor (the value of `other_real`; NaN without one).
    """
    table = measure_fidelity(real, synthetic)
    control = measure_fidelity(real, shuffle_visits(real, seed=seed))["value"]
    floor = np.nan if other_real is None else measure_fidelity(real, other_real)["value"]
    return table.assign(control=control, floor=floor)


def estimate_fidelity_intervals(
    real: np.ndarray, synthetic: np.ndarray, *, n_resamples: int = 300, seed: int = 0, confidence: float = 0.95
) -> pd.DataFrame:
    """Return the table of `measure_fidelity` with intervals: patients, real and synthetic, are drawn again.

    An absolute difference of two samples is above 0 by chance, and of two resamples more so. The percentiles are
    therefore moved so that their mean is the value: the interval says how much the value would be another with other
    patients, and not how much of it is chance. That is the floor of `tabulate_with_control`.

    Parameters
    ----------
    real, synthetic : ndarray
        As in `measure_fidelity`.
    n_resamples : int
        At least 1.
    seed : int
    confidence : float

    Returns
    -------
    DataFrame
        As of `measure_fidelity`, with low and high; NaN where fewer than 5 patients could be drawn.
    """
    table = measure_fidelity(real, synthetic)
    real, synthetic = _require_pair(real, synthetic)
    require_whole("n_resamples", n_resamples, least=1)
    require_whole("seed", seed, least=0)
    check_confidence(confidence)
    if min(len(real), len(synthetic)) < 5:
        return table.assign(low=np.nan, high=np.nan)
    lags = count_lags(real.shape[1], LAGS)
    generators = [np.random.default_rng([seed, crc32(name)]) for name in (b"real", b"synthetic")]
    blocks = []
    for first in range(0, n_resamples, BLOCK):
        size = min(BLOCK, n_resamples - first)
        sums = [
            sum_moments(visits, lags=lags, weights=draw_weights(len(visits), size, generator))
            for visits, generator in zip((real, synthetic), generators, strict=True)
        ]
        blocks.append([values for values, _ in _compare(*sums).values()])
    return table.assign(**_bound(table, np.concatenate(blocks, axis=1), confidence))


def _bound(table: pd.DataFrame, drawn: np.ndarray, confidence: float) -> dict[str, np.ndarray]:
    """Return low and high of every measure, within what it can be."""
    lows, highs = np.full(len(table), np.nan), np.full(len(table), np.nan)
    for at, (value, best) in enumerate(zip(table["value"], table["best"], strict=True)):
        values = drawn[at][~np.isnan(drawn[at])]
        if np.isnan(value) or not len(values):
            continue
        tails = [(1 - confidence) / 2, (1 + confidence) / 2]
        low, high = np.quantile(values, tails) - values.mean() + value
        lows[at], highs[at] = (min(low, value), min(high, 1.0)) if best else (max(low, 0.0), high)
    return {"low": lows, "high": highs}


def tabulate_codes(real: np.ndarray, synthetic: np.ndarray, codes: Sequence[str] | None = None) -> pd.DataFrame:
    """Return prevalence and persistence of every code on both sides.

    Parameters
    ----------
    real, synthetic : ndarray
        As in `measure_fidelity`.
    codes : sequence of str, optional
        Names; numbers from 1 unless given.

    Returns
    -------
    DataFrame
        One row a code: code, prevalence_real, prevalence_synthetic, persistence_real, persistence_synthetic (NaN for
        fewer than 10 records that another visit follows), n_real, n_synthetic (such records).
    """
    real, synthetic = _require_pair(real, synthetic)
    names = [f"code {number}" for number in range(1, real.shape[2] + 1)] if codes is None else list(codes)
    if len(names) != real.shape[2]:
        raise ValueError(f"codes must be the names of {real.shape[2]} codes, got {len(names)}")
    columns = {"code": names}
    for side, sums in zip(("real", "synthetic"), _sum_pair(real, synthetic), strict=True):
        columns[f"prevalence_{side}"] = get_prevalence(sums)[0]
        columns[f"persistence_{side}"] = get_persistence(sums)[0]
        columns[f"n_{side}"] = sums.codes[0, :-1].sum(axis=0).astype(int)
    return pd.DataFrame(columns)


def tabulate_autocorrelation(samples: Mapping[str, np.ndarray], *, lags: int = LAGS) -> pd.DataFrame:
    """Return the mean autocorrelation of codes over lags, of several records by name.

    Parameters
    ----------
    samples : mapping of str to ndarray, shape (patients, visits, codes)
    lags : int
        At least 1; no more than there are visits less one.

    Returns
    -------
    DataFrame
        One row a sample and lag: sample, lag (visits), value (mean over codes with at least 10 records), low, high
        (the quartiles over those codes), n_codes, n_patients.
    """
    require_whole("lags", lags, least=1)
    rows = []
    for name, visits in samples.items():
        visits = require_visits(f"samples[{name!r}]", visits)
        found = get_autocorrelation(sum_moments(visits, lags=count_lags(visits.shape[1], lags)))[0]
        for lag, values in enumerate(found, start=1):
            values = values[~np.isnan(values)]
            spread = np.quantile(values, [0.25, 0.75]) if len(values) else (np.nan, np.nan)
            row = {"sample": name, "lag": lag, "value": values.mean() if len(values) else np.nan}
            counts = {"n_codes": len(values), "n_patients": len(visits)}
            rows.append(row | {"low": spread[0], "high": spread[1]} | counts)
    return pd.DataFrame(rows, columns=["sample", "lag", "value", "low", "high", "n_codes", "n_patients"])
