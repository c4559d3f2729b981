"""How much hospitals differ, from summaries that they can share: no patient leaves.

Two distances from one summary each (`summarize_records`, `report_shift`), and how well a classifier that is trained on
sums tells two hospitals apart (`dqc_lib.synthesis.twosample`). Every number comes with what would be found if there
were no shift, as a small hospital differs from all others by chance alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from zlib import crc32

import numpy as np
import pandas as pd

from dqc_lib.arguments import require_kind, require_number, require_whole
from dqc_lib.synthesis.records import describe_patients, require_hospitals, require_visits
from dqc_lib.synthesis.twosample import FEWEST, tell_apart

SHIFT_COLUMNS = ("first", "second", "measure", "value", "low", "high", "no_shift", "noise", "z", "n_first", "n_second")


@dataclass(frozen=True, eq=False)
class RecordSummary:
    """What one hospital sends: sums over all its patients.

    It tells how many patients have been seen and how often each code was recorded, which a hospital of few patients may
    not want to tell of rare codes. The embedding is the mean of functions of single patients: with as many functions as
    here and few patients it does hold information on them, and it is no guarantee of privacy.

    Parameters
    ----------
    n_patients, n_visits : int
    code_counts : ndarray, shape (codes,)
        Records of every code, over all patients and visits.
    embedding : ndarray, shape (2 * features,)
        Mean over patients of cosines and sines of random projections; see `embed_patients`.
    bandwidth : float
    seed : int
        With the bandwidth, what all hospitals agreed on: summaries are comparable only where both are the same.
    noise : tuple of four floats
        Mean and standard deviation over random halvings of this hospital, for Jensen-Shannon divergence and for squared
        MMD, times the harmonic size of the halves: how much two hospitals of the same kind differ by chance. Single
        numbers, computed at home.
    """

    n_patients: int
    n_visits: int
    code_counts: np.ndarray
    embedding: np.ndarray
    bandwidth: float
    seed: int
    noise: tuple[float, float, float, float]


def summarize_records(
    visits: np.ndarray, *, n_features: int = 256, bandwidth: float = 1.5, n_halvings: int = 40, seed: int = 2025
) -> RecordSummary:
    """Return the summary of one hospital's records, which is all that leaves it.

    Parameters
    ----------
    visits : ndarray, shape (patients, visits, codes)
        0 and 1; at least 10 patients.
    n_features : int
        Random projections; the error of the MMD falls with their square root.
    bandwidth : float
        Of the Gaussian kernel, in units of `describe_patients`; a typical distance of two patients is a good one.
    n_halvings : int
        Random halvings behind the noise, at least 2.
    seed : int
        Of the projections, agreed by all.

    Raises
    ------
    ValueError
        For fewer than 10 patients, and for settings out of range.
    """
    visits = require_visits("visits", visits)
    require_whole("n_features", n_features, least=1)
    require_whole("n_halvings", n_halvings, least=2)
    require_whole("seed", seed, least=0)
    require_number("bandwidth", bandwidth)
    if not (np.isfinite(bandwidth) and bandwidth > 0):
        raise ValueError(f"bandwidth must be a positive number, got {bandwidth!r}")
    if len(visits) < FEWEST:
        raise ValueError(f"visits must hold at least {FEWEST} patients to be summed up, got {len(visits)}")
    embedded = embed_patients(describe_patients(visits), n_features=n_features, bandwidth=bandwidth, seed=seed)
    counts = visits.sum(axis=1, dtype=np.float64)
    noise = _measure_noise(counts, embedded, n_halvings=n_halvings, seed=seed)
    return RecordSummary(*visits.shape[:2], counts.sum(axis=0), embedded.mean(axis=0), float(bandwidth), seed, noise)


def embed_patients(described: np.ndarray, *, n_features: int, bandwidth: float, seed: int) -> np.ndarray:
    """Return random Fourier features, whose inner products are those of a Gaussian kernel in the limit.

    Parameters
    ----------
    described : ndarray, shape (patients, numbers)
    n_features : int
        Projections, each of which gives a cosine and a sine.
    bandwidth : float
        s of the kernel exp(-|x - y|^2 / (2 s^2)).
    seed : int

    Returns
    -------
    ndarray, shape (patients, 2 * n_features)
        Every row has length 1 exactly, so that sums of them are enough for the unbiased estimate of a squared MMD.
        Rahimi and Recht 2007, Random features for large-scale kernel machines (with paired cosines and sines).
    """
    rng = np.random.default_rng([seed, crc32(b"embedding")])
    angles = described @ (rng.standard_normal((described.shape[1], n_features)) / bandwidth)
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1) / np.sqrt(n_features)


def measure_divergence(first: np.ndarray, second: np.ndarray) -> float:
    """Return the Jensen-Shannon divergence of two counts, in bits: 0 for the same shares, 1 for no code in common.

    The square of the distance of that name. It compares which codes are recorded and not how many, and is NaN for a
    hospital that recorded none.

    Examples
    --------
    >>> measure_divergence(np.array([3.0, 0.0]), np.array([0.0, 7.0]))
    1.0
    """
    if not (first.sum() > 0 and second.sum() > 0):
        return float("nan")
    p, q = first / first.sum(), second / second.sum()
    return float((_sum_bits(p, (p + q) / 2) + _sum_bits(q, (p + q) / 2)) / 2)


def _sum_bits(p: np.ndarray, middle: np.ndarray) -> float:
    there = p > 0
    return float((p[there] * np.log2(p[there] / middle[there])).sum())


def measure_mmd(first: np.ndarray, second: np.ndarray, *, n_first: int, n_second: int) -> float:
    """Return the squared maximum mean discrepancy of two mean embeddings, unbiased: 0 on average without a shift.

    Gretton et al. 2012, A kernel two-sample test, equation 3, from means instead of patients: the kernel of a patient
    with itself is 1, so it can be taken out of the sums. Because it is unbiased it may be negative.

    Parameters
    ----------
    first, second : ndarray, shape (2 * features,)
        Means of `embed_patients`.
    n_first, n_second : int
        Patients behind them; with one patient it is NaN.
    """
    if min(n_first, n_second) < 2:
        return float("nan")
    within = [(n * (mean @ mean) - 1) / (n - 1) for mean, n in ((first, n_first), (second, n_second))]
    return float(within[0] + within[1] - 2 * first @ second)


def _measure_noise(counts: np.ndarray, embedded: np.ndarray, *, n_halvings: int, seed: int) -> tuple[float, ...]:
    """Return mean and standard deviation of both distances between random halves, times their harmonic size."""
    rng, n = np.random.default_rng([seed, crc32(b"halves")]), len(counts)
    found = []
    for _ in range(n_halvings):
        order = rng.permutation(n)
        halves = order[: n // 2], order[n // 2 :]
        divergence = measure_divergence(*(counts[half].sum(axis=0) for half in halves))
        sizes = {"n_first": len(halves[0]), "n_second": len(halves[1])}
        found.append((divergence, measure_mmd(*(embedded[half].mean(axis=0) for half in halves), **sizes)))
    scaled = np.array(found) * _get_harmonic(n // 2, n - n // 2)
    means, spreads = scaled.mean(axis=0), np.sqrt((scaled**2).mean(axis=0))
    return float(means[0]), float(scaled[:, 0].std(ddof=1)), 0.0, float(spreads[1])


def _get_harmonic(n_first: int, n_second: int) -> float:
    """Return the size that the chance differences of two samples go with, in reverse: n m / (n + m)."""
    return n_first * n_second / (n_first + n_second)


def report_shift(summaries: Mapping[str, RecordSummary]) -> pd.DataFrame:
    """Return how far every two hospitals are apart, from their summaries alone; higher is further.

    Parameters
    ----------
    summaries : mapping of str to RecordSummary
        Of `summarize_records`, by hospital, all with the same bandwidth, seed, features, visits and codes.

    Returns
    -------
    DataFrame
        Two rows a pair: first, second (hospitals), measure ("jensen_shannon", in bits of 0 to 1; "mmd_squared"), value,
        low, high (NaN: a summary cannot be drawn again), no_shift (what is found on average between hospitals of the
        same kind and of these sizes), noise (its standard deviation; of both, the mean over the two hospitals), z
        (value less no_shift, in units of noise: beyond 3 is hardly chance), n_first, n_second (patients).
    """
    require_kind("summaries", summaries, Mapping, such_as='{"A": summarize_records(visits)}')
    for name, summary in summaries.items():
        require_kind(f"summaries[{name!r}]", summary, RecordSummary, such_as="summarize_records(visits)")
    _require_agreed(summaries)
    rows = []
    for first, second in combinations(summaries, 2):
        one, two = summaries[first], summaries[second]
        sizes = {"n_first": one.n_patients, "n_second": two.n_patients}
        noise = (np.array(one.noise) + np.array(two.noise)) / 2 / _get_harmonic(*sizes.values())
        values = {
            "jensen_shannon": measure_divergence(one.code_counts, two.code_counts),
            "mmd_squared": measure_mmd(one.embedding, two.embedding, **sizes),
        }
        for at, (measure, value) in enumerate(values.items()):
            expected, spread = noise[2 * at : 2 * at + 2]
            z = (value - expected) / spread if spread > 0 else np.nan
            row = {"first": first, "second": second, "measure": measure, "value": value, "low": np.nan, "high": np.nan}
            rows.append(row | {"no_shift": expected, "noise": spread, "z": z, **sizes})
    return pd.DataFrame(rows, columns=list(SHIFT_COLUMNS))


def _require_agreed(summaries: Mapping[str, RecordSummary]) -> None:
    settings = {
        name: (one.bandwidth, one.seed, len(one.embedding), one.n_visits, len(one.code_counts))
        for name, one in summaries.items()
    }
    if len(set(settings.values())) > 1:
        first = next(iter(settings))
        other = next(name for name in settings if settings[name] != settings[first])
        raise ValueError(
            "summaries must agree on (bandwidth, seed, embedding, visits, codes), got"
            f" {settings[first]} of {first!r} and {settings[other]} of {other!r}"
        )


def measure_shift(
    hospitals: Mapping[str, np.ndarray], *, seed: int = 2025, n_features: int = 256, bandwidth: float = 1.5
) -> pd.DataFrame:
    """Return how far every two hospitals are apart by all four measures, each hospital in turn in one process.

    What would cross between hospitals is what `report_shift` and `tell_apart` say. Every hospital needs at least 20
    patients, of whom half train the classifier.

    Parameters
    ----------
    hospitals : mapping of str to ndarray, shape (patients, visits, codes)
    seed, n_features, bandwidth
        As in `summarize_records`.

    Returns
    -------
    DataFrame
        As of `report_shift`, with two more rows a pair, "classifier_auroc" and "classifier_accuracy", which have an
        interval (95 %) and for which no_shift is 0.5.
    """
    hospitals = require_hospitals("hospitals", hospitals)
    settings = {"n_features": n_features, "bandwidth": bandwidth, "seed": seed}
    summaries = {name: summarize_records(visits, **settings) for name, visits in hospitals.items()}
    parts = [report_shift(summaries)]
    for first, second in combinations(hospitals, 2):
        found = tell_apart(hospitals[first], hospitals[second], seed=seed)
        sizes = {"n_first": len(hospitals[first]), "n_second": len(hospitals[second])}
        parts.append(found.assign(first=first, second=second, **sizes)[list(SHIFT_COLUMNS)])
    table = pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)
    order = {pair: at for at, pair in enumerate(combinations(hospitals, 2))}
    pairs = [order[pair] for pair in zip(table["first"], table["second"], strict=True)]
    return table.assign(pair=pairs).sort_values("pair", kind="stable").drop(columns="pair").reset_index(drop=True)
