"""Counts and metrics of one set of predictions, undefined ones as NaN."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Real

import numpy as np

from dqc_lib.arguments import show_value

COUNTS = ("n", "n_positive", "n_negative")
METRICS = ("accuracy", "sensitivity", "specificity", "f1", "auroc")


def score_predictions(diagnosis: Sequence[int], score: Sequence[float], *, threshold: float = 0.5) -> dict[str, float]:
    """Return counts and metrics of one set of predictions; for all metrics higher is better.

    Parameters
    ----------
    diagnosis : sequence of int, of length n
        1 = disease, 0 = control.
    score : sequence of float, of length n
        Finite, higher means disease.
    threshold : float
        The decision is disease where ``score >= threshold``.

    Returns
    -------
    dict
        ``n``, ``n_positive``, ``n_negative`` (int); ``accuracy``, ``sensitivity``, ``specificity``, ``f1`` and
        ``auroc`` (from 0 to 1). NaN where undefined: sensitivity without disease, specificity without controls,
        F1 without disease and without a decision for disease, AUROC with one class, everything with n = 0.

    Raises
    ------
    TypeError, ValueError
        If lengths differ, a diagnosis is neither 0 nor 1, or a score is not finite; if the threshold is NaN or no
        number.

    Examples
    --------
    >>> found = score_predictions([1, 1, 0, 0], [0.9, 0.2, 0.1, 0.6])
    >>> found["sensitivity"], found["specificity"], found["auroc"]
    (0.5, 0.5, 0.75)
    >>> score_predictions([0, 0], [0.1, 0.2])["sensitivity"]
    nan
    """
    check_threshold(threshold)
    truth, score = check_predictions(diagnosis, score)
    return {name: measure(truth, score) for name, measure in list_measures(threshold).items()}


def check_predictions(diagnosis: Sequence[int], score: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Return diagnosis as bool and score as float64, or say what is wrong with them."""
    try:
        diagnosis, score = np.asarray(diagnosis), np.asarray(score, dtype=np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"score must be a sequence of numbers; came {show_value(score)}") from None
    if diagnosis.ndim != 1 or diagnosis.shape != score.shape:
        raise ValueError(
            f"diagnosis and score must be sequences of one length; came shapes {diagnosis.shape} and {score.shape}"
        )
    unknown = diagnosis[~np.isin(diagnosis, (0, 1))]
    if unknown.size:
        raise ValueError(f"diagnosis must be 1 (disease) or 0 (control); came {unknown[0]}")
    if n_bad := int((~np.isfinite(score)).sum()):
        raise ValueError(f"scores must be finite; {n_bad} of {score.size} are NaN or infinite")
    return diagnosis.astype(bool), score


def list_measures(threshold: float) -> dict[str, Callable[[np.ndarray, np.ndarray], float]]:
    """Return the functions behind `COUNTS` and `METRICS`: each takes truth (bool) and scores, both of length n.

    They are what fairlearn's MetricFrame is given in place of its own, which return 0.0 for an undefined rate.
    """

    def measure_accuracy(truth: np.ndarray, score: np.ndarray) -> float:
        return divide(int(((score >= threshold) == truth).sum()), truth.size)

    def measure_sensitivity(truth: np.ndarray, score: np.ndarray) -> float:
        return divide(int((score[truth] >= threshold).sum()), int(truth.sum()))

    def measure_specificity(truth: np.ndarray, score: np.ndarray) -> float:
        return divide(int((score[~truth] < threshold).sum()), int((~truth).sum()))

    def measure_f1(truth: np.ndarray, score: np.ndarray) -> float:
        decision = score >= threshold
        return divide(2 * int((decision & truth).sum()), int(decision.sum()) + int(truth.sum()))

    return {
        "n": lambda truth, score: truth.size,
        "n_positive": lambda truth, score: int(truth.sum()),
        "n_negative": lambda truth, score: int((~truth).sum()),
        "accuracy": measure_accuracy,
        "sensitivity": measure_sensitivity,
        "specificity": measure_specificity,
        "f1": measure_f1,
        "auroc": measure_auroc,
    }


def divide(numerator: float, denominator: float) -> float:
    """Return the ratio, NaN where the denominator is 0."""
    return numerator / denominator if denominator else float("nan")


def measure_auroc(truth: np.ndarray, score: np.ndarray) -> float:
    """Return the share of pairs of a patient and a control in which the patient scores higher, ties counting half.

    That is the area under the ROC curve (Hanley & McNeil 1982, doi 10.1148/radiology.143.1.7063747); NaN with one
    class. By a sorted search: scikit-learn's function, 50 times slower, would be most of the time of a report.
    """
    positive, negative = score[truth], np.sort(score[~truth])
    wins = np.searchsorted(negative, positive, "left") + np.searchsorted(negative, positive, "right")
    return divide(float(wins.sum()) / 2, positive.size * negative.size)


def check_threshold(threshold: float) -> None:
    """Raise unless the threshold is a number other than NaN, which no score reaches: it would call nobody diseased."""
    _require_number("threshold", threshold)
    if np.isnan(threshold):
        raise ValueError(f"threshold must be a number that scores can reach, for instance 0.5; came {threshold}")


def check_confidence(confidence: float) -> None:
    """Raise unless the confidence of an interval is a number between 0 and 1."""
    _require_number("confidence", confidence)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, for instance 0.95; came {confidence}")


def _require_number(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number; came {value!r}")
