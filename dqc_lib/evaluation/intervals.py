"""Intervals of the metrics of groups and of the gaps between them, for one way to group and all arms and cycles."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral

import numpy as np
import pandas as pd

from dqc_lib.evaluation.metrics import COUNTS, METRICS, check_confidence, check_threshold
from dqc_lib.evaluation.resampling import resample_group, shuffle_groups

FEWEST_RESAMPLES = 1000
EXACT = "exact interval: all resamples agree"
NO_INTERVAL = "no interval: all resamples agree"
ROUNDING = 1e-9


@dataclass(frozen=True)
class Settings:
    """How intervals are made; the parameters of `subgroup_report`, checked."""

    threshold: float
    n_resamples: int
    confidence: float
    min_n: int
    min_class: int
    seed: int

    def __post_init__(self) -> None:
        check_threshold(self.threshold)
        check_confidence(self.confidence)
        least = {"n_resamples": FEWEST_RESAMPLES, "min_n": 1, "min_class": 1, "seed": 0}
        for name, smallest in least.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Integral) or value < smallest:
                raise ValueError(f"{name} must be a whole number of at least {smallest:,}; came {value!r}")


@dataclass(frozen=True, eq=False)
class Cases:
    """The subjects of one grouping, with the scores that every run gives them.

    Parameters
    ----------
    label : str
        "sex x age band".
    groups : list of str
        Names of the groups.
    members : ndarray of int, of length n
        Number of the group of every subject.
    truth : ndarray of bool, of length n
        Who has the disease.
    scores : ndarray, shape (runs, n)
    """

    label: str
    groups: list[str]
    members: np.ndarray
    truth: np.ndarray
    scores: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """n, n_positive and n_negative of every group, shape (groups, 3)."""
        classes = [np.bincount(self.members[of], minlength=len(self.groups)) for of in (self.truth, ~self.truth)]
        return np.stack([sum(classes), *classes], axis=1)

    def select(self, group: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the scores of the patients and of the controls of a group, both (runs, subjects)."""
        inside = self.members == group
        return self.scores[:, inside & self.truth], self.scores[:, inside & ~self.truth]


def list_reasons(cases: Cases, settings: Settings) -> np.ndarray:
    """Return by group and metric why there is no value, "" where there is one; object (groups, 5)."""
    rows = []
    for n, n_positive, n_negative in cases.sizes.tolist():
        subjects = _count_short(n, settings.min_n, "subject")
        patients = _count_short(n_positive, settings.min_class, "patient")
        controls = _count_short(n_negative, settings.min_class, "control")
        both = "; ".join(filter(None, (patients, controls)))
        rows.append([subjects] * len(METRICS) if subjects else ["", patients, controls, patients, both])
    return np.array(rows, dtype=object).reshape(-1, len(METRICS))


def _count_short(count: int, least: int, noun: str) -> str:
    """Return "" for enough, "no patients", "1 patient, fewer than 5", "3 patients, fewer than 5"."""
    if count >= least:
        return ""
    return f"{count} {noun}{'s' * (count > 1)}, fewer than {least}" if count else f"no {noun}s"


def find_ends(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of the groups with the highest and with the lowest value, each (runs, 5).

    `values` are (runs, groups, 5), NaN where there is none. Of groups that are level the highest is the first and the
    lowest the last, so that the two differ wherever two groups have a value.
    """
    known = ~np.isnan(values)
    highest = np.where(known, values, -np.inf).argmax(axis=1)
    from_last = np.where(known, values, np.inf)[:, ::-1].argmin(axis=1)
    return highest, values.shape[1] - 1 - from_last


def estimate_groups(cases: Cases, values: np.ndarray, settings: Settings) -> tuple[pd.DataFrame, np.ndarray]:
    """Return one row per run, group and metric, with intervals, and how far the ends lie apart in every resample.

    `values` are the metrics of the groups, (runs, groups, 5), NaN where there is a reason for none. The second array,
    (runs, 5, resamples), is the value of the group that is highest as observed minus that of the lowest: below 0 where
    a resample turns them round, NaN for metrics for which fewer than two groups have a value.
    """
    reasons = list_reasons(cases, settings)
    usable = reasons == ""
    notes = np.broadcast_to(reasons, values.shape).copy()
    low, high = np.full_like(values, np.nan), np.full_like(values, np.nan)
    highest, lowest = find_ends(values)
    enough = usable.sum(axis=0) > 1
    apart = np.zeros((*highest.shape, settings.n_resamples))
    apart[:, ~enough] = np.nan
    for at in np.flatnonzero(usable.any(axis=1)):
        found = resample_group(
            *cases.select(at),
            names=(cases.label, cases.groups[at]),
            threshold=settings.threshold,
            n_resamples=settings.n_resamples,
            seed=settings.seed,
        )
        for sign, end in ((1, highest), (-1, lowest)):
            apart[end == at] += sign * found[end == at]
        low[:, at], high[:, at] = np.where(usable[at], bound_resamples(found, settings.confidence), np.nan)
        for run, metric in np.argwhere(usable[at] & np.isnan(low[:, at])):
            end = (run, at, metric)
            low[end], high[end], notes[end] = _bound_exactly(metric, values[end], cases.sizes[at], settings.confidence)
    runs, groups, metrics = (at.ravel() for at in np.indices(values.shape))
    columns = {"run": runs, "subgroup": cases.label, "group": np.array(cases.groups, dtype=object)[groups]}
    columns |= dict(zip(COUNTS, cases.sizes[groups].T, strict=True)) | {"metric": np.array(METRICS)[metrics]}
    columns |= {"value": values.ravel(), "low": low.ravel(), "high": high.ravel(), "note": notes.ravel()}
    return pd.DataFrame(columns), apart


def bound_resamples(found: np.ndarray, confidence: float) -> np.ndarray:
    """Return lower and upper percentiles over the last axis, stacked first; NaN where all resamples agree."""
    bounds = np.quantile(found, [(1 - confidence) / 2, (1 + confidence) / 2], axis=-1)
    return np.where(np.ptp(found, axis=-1) > 0, bounds, np.nan)


def _bound_exactly(metric: int, value: float, sizes: np.ndarray, confidence: float) -> tuple[float, float, str]:
    """Return the interval and the note where all resamples agree; Clopper and Pearson's for shares of subjects."""
    from scipy.stats import binomtest

    if METRICS[metric] in ("f1", "auroc"):
        return float("nan"), float("nan"), NO_INTERVAL
    n = int(sizes[metric])  # accuracy is a share of n, sensitivity of n_positive, specificity of n_negative
    low, high = binomtest(round(value * n), n).proportion_ci(confidence, method="exact")
    return float(low), float(high), EXACT


def estimate_gaps(cases: Cases, values: np.ndarray, apart: np.ndarray, settings: Settings) -> pd.DataFrame:
    """Return one row per run and metric with the gap between groups, its interval, and what chance alone would give.

    `values` as in `estimate_groups`, which `apart` comes from.
    """
    usable = list_reasons(cases, settings) == ""
    enough = usable.sum(axis=0) > 1
    ends = find_ends(values)
    top, bottom = (np.take_along_axis(values, end[:, np.newaxis], axis=1)[:, 0] for end in ends)
    gaps = np.where(enough, top - bottom, np.nan)
    shuffled = shuffle_groups(
        cases.scores[:, cases.truth],
        cases.scores[:, ~cases.truth],
        members=(cases.members[cases.truth], cases.members[~cases.truth]),
        usable=usable & enough,
        name=cases.label,
        threshold=settings.threshold,
        n_resamples=settings.n_resamples,
        seed=settings.seed,
    )
    as_large = (shuffled >= gaps[..., np.newaxis] - ROUNDING).sum(axis=-1)
    p_values = np.where(enough, (1 + as_large) / (1 + settings.n_resamples), np.nan)
    low, high = bound_resamples(apart, settings.confidence)
    names = np.array(cases.groups, dtype=object)
    # Where all groups are level, none is the highest.
    highest, lowest = (np.where(gaps > ROUNDING, names[end], "") for end in ends)
    runs, metrics = (at.ravel() for at in np.indices(gaps.shape))
    columns = {"run": runs, "subgroup": cases.label, "metric": np.array(METRICS)[metrics]}
    columns |= {"gap": gaps.ravel(), "low": low.ravel(), "high": high.ravel()}
    columns |= {"highest": highest.ravel(), "lowest": lowest.ravel(), "n_groups": usable.sum(axis=0)[metrics]}
    columns |= {"by_chance": shuffled.mean(axis=-1).ravel(), "p_value": p_values.ravel()}
    return pd.DataFrame(columns)
