"""How sure an accuracy is: intervals from subjects drawn again, beside those from records.

Records of a subject are not so many witnesses: the interval over records is there to be compared with, as too many
papers print it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from dqc_lib.arguments import require_whole
from dqc_lib.evaluation.groups import require_columns
from dqc_lib.evaluation.intervals import EXACT, NO_INTERVAL, bound_resamples
from dqc_lib.evaluation.metrics import METRICS as ORDER
from dqc_lib.evaluation.metrics import check_confidence
from dqc_lib.evaluation.resampling import draw_weights, measure_weighted
from dqc_lib.harmonization.crossvalidation import measure_labels, require_metric
from dqc_lib.harmonization.records import SPLITS

FEWEST = 5  # units of a class that can be drawn again

def estimate_intervals(
    predictions: pd.DataFrame,
    *,
    metric: str = "accuracy",
    units: Sequence[str] = ("subject", "record"),
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Return a metric of all held-out predictions with its interval, once for each unit that is drawn again.

    Parameters
    ----------
    predictions : DataFrame
        Of `predict_held_out`.
    metric : str
        One of accuracy, balanced_accuracy and auroc.
    units : sequence of "subject" and "record"
        What a resample draws, class by class and with replacement. By subject all records of one come together; the
        interval by record is right only where every subject has one record.
    confidence : float
    n_resamples : int
    seed : int

    Returns
    -------
    DataFrame
        One row per unit: unit, metric, value, low, high, n_subjects, n_records, note. Where all resamples agree, the
        interval of an accuracy of 0 or 1 is Clopper and Pearson's of as many units, and there is none otherwise. A
        class with fewer than five units repeats itself when it is drawn again: then an AUROC has no interval, and a
        note says of a balanced accuracy that its own is too narrow.
    """
    require_columns(predictions, ("subject", "label", "predicted", "score", "record"))
    require_metric(metric)
    check_confidence(confidence)
    require_whole("n_resamples", n_resamples, least=1)
    rows = []
    for unit in units:
        if unit not in SPLITS:
            raise ValueError(f"units must be among subject and record, got {unit!r}")
        value = measure_labels(predictions)[metric]
        found = resample_units(predictions, predictions[unit], metric=metric, n_resamples=n_resamples, seed=seed)
        low, high = (float(bound) for bound in bound_resamples(found, confidence))
        note = NO_INTERVAL if np.isnan(low) and not np.isnan(value) else ""
        if note and metric != "auroc" and value in (0.0, 1.0):
            low, high = _bound_exactly(value, predictions[unit].nunique(), confidence)
            note = EXACT
        if metric != "accuracy" and (few := _name_rare(predictions, unit)):
            low, high = (float("nan"), float("nan")) if metric == "auroc" else (low, high)
            note = f"no interval: {few}" if metric == "auroc" else f"interval too narrow: {few}"
        counts = {"n_subjects": predictions["subject"].nunique(), "n_records": predictions["record"].nunique()}
        rows.append({"unit": unit, "metric": metric, "value": value, "low": low, "high": high, **counts, "note": note})
    return pd.DataFrame(rows)


def _name_rare(predictions: pd.DataFrame, unit: str) -> str:
    """Return "2 subjects of class 'B', fewer than 5" of the rarest class, "" if there are enough."""
    counts = predictions.groupby("label")[unit].nunique()
    if len(counts) < 2 or counts.min() >= FEWEST:
        return ""
    rarest, n = counts.index.tolist()[counts.argmin()], int(counts.min())
    return f"{n} {unit}{'s' * (n > 1)} of class {rarest!r}, fewer than {FEWEST}"


def _bound_exactly(value: float, n: int, confidence: float) -> tuple[float, float]:
    from scipy.stats import binomtest

    low, high = binomtest(round(value * n), n).proportion_ci(confidence, method="exact")
    return float(low), float(high)


def resample_units(
    predictions: pd.DataFrame, units: pd.Series, *, metric: str, n_resamples: int, seed: int
) -> np.ndarray:
    """Return the metric in every resample of units, drawn class by class, shape (n_resamples,)."""
    names, of_row = np.unique(units.to_numpy(), return_inverse=True)
    classes, truth = np.unique(predictions["label"].to_numpy(), return_inverse=True)
    own = np.zeros(len(names), dtype=int)
    own[of_row] = truth
    generator = np.random.default_rng(seed)
    weights = np.zeros((len(names), n_resamples), dtype=np.float32)
    for number in range(len(classes)):
        weights[own == number] = draw_weights(int((own == number).sum()), n_resamples, generator)
    right = (predictions["label"] == predictions["predicted"]).to_numpy()
    if metric == "auroc":
        return _weigh_auroc(predictions["score"].to_numpy(dtype=np.float64), truth, weights, of_row)
    cells = [of_row * len(classes) + truth, len(names) * len(classes)]
    total, hits = (
        np.bincount(cells[0], weights=part, minlength=cells[1]).reshape(len(names), -1)
        for part in (np.ones(len(right)), right)
    )
    if metric == "accuracy":
        return (hits.sum(axis=1) @ weights) / (total.sum(axis=1) @ weights)
    drawn = total.T @ weights
    with np.errstate(invalid="ignore"):
        shares = np.where(drawn > 0, (hits.T @ weights) / drawn, np.nan)
    return np.nanmean(shares, axis=0)


def _weigh_auroc(score: np.ndarray, truth: np.ndarray, weights: np.ndarray, of_row: np.ndarray) -> np.ndarray:
    """Return the AUROC of weighted units; NaN with one class, with three, and without scores."""
    if set(truth) != {0, 1} or np.isnan(score).any():
        return np.full(weights.shape[1], np.nan)
    parts = [(score[truth == number][np.newaxis], weights[of_row[truth == number]]) for number in (1, 0)]
    (positive, of_positive), (negative, of_negative) = parts
    found = measure_weighted(positive, negative, weights=(of_positive, of_negative), threshold=0.5)
    return found[0, ORDER.index("auroc")]
