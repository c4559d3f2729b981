"""What is known of the verification scores of a model before, or without, passing every image through it.

One training step moves the logits of all images nearly alike: a common shift made up 99 % of the squared changes where
we looked. So a few images tell where the others went, and only those whose call that leaves open need a look.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

import numpy as np

FIRST, NEXT, OFTEN = 6, 2, 2  # images read to see the shift, then the least certain, and how often, before all the open
UNEVEN = 0.15  # of the shift: images differ by at least so much in how far a step moves them (median measured: 0.15)
SMALLEST = 1e-3  # standard error of a logit that was foreseen


@dataclass(frozen=True)
class Outlook:
    """Scores of all verification images, some of them foreseen.

    Parameters
    ----------
    score : ndarray, float64, shape (n,)
        As the model gave them, 0 to 1, or as foreseen.
    spread : ndarray, float64, shape (n,)
        Standard error of the logit of a foreseen score; 0 where the model gave it.
    """

    score: np.ndarray
    spread: np.ndarray

    @classmethod
    def of(cls, score: np.ndarray) -> Outlook:
        """Return the outlook of scores that the model gave."""
        return cls(np.asarray(score, dtype=np.float64), np.zeros(len(score)))

    @property
    def exact(self) -> bool:
        """Whether the model gave all scores."""
        return not self.spread.any()

    def bound(self, diagnosis: np.ndarray, *, threshold: float, reach: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the fewest and the most errors, each of shape (n,) and 0 or 1: those of an open call are 0 and 1."""
        wrong = (self.score >= threshold) != (diagnosis == 1)
        is_open = self.list_open(threshold=threshold, reach=reach)
        return wrong & ~is_open, wrong | is_open

    def list_open(self, *, threshold: float, reach: float) -> np.ndarray:
        """Return whether each image might lie on the other side of the threshold than foreseen, boolean (n,)."""
        foreseen = self.spread > 0
        if np.isinf(reach):
            return foreseen
        return foreseen & (np.abs(_logit(self.score) - _logit(np.float64(threshold))) <= reach * self.spread)


def look_ahead(
    before: Outlook,
    read: Callable[[np.ndarray], np.ndarray],
    *,
    threshold: float,
    reach: float,
    settled: Callable[[Outlook], bool],
) -> Outlook:
    """Return the outlook of a model that has taken steps since `before`, reading as few scores as settle the question.

    The scores nearest to the threshold are read first. From them comes the shift of the logits since `before`, and how
    far images depart from it; the others are foreseen. Then those are read whose calls are open, the least certain
    first, until the question is settled or no call is open. Where a score is not finite nothing can be foreseen, and
    all are read.

    Parameters
    ----------
    before : Outlook
        Of the same images in the same order.
    read : callable
        Returns the scores of the images with these numbers.
    threshold : float
        A score of at least this is called diseased.
    reach : float
        In standard errors; infinite leaves every call open that was not read.
    settled : callable
        Whether an outlook answers the question.
    """
    start = _logit(before.score)
    score, known = before.score.copy(), np.zeros(len(start), dtype=bool)
    wanted = np.argsort(np.abs(start - _logit(np.float64(threshold))), kind="stable")[:FIRST]
    for turn in count():
        score[wanted], known[wanted] = read(wanted), True
        if not np.isfinite(score).all():
            score[~known] = read(np.flatnonzero(~known))
            return Outlook.of(score)
        after = _foresee(before, score, known)
        is_open = after.list_open(threshold=threshold, reach=reach)
        if not is_open.any() or settled(after):
            return after
        distance = np.abs(_logit(after.score) - _logit(np.float64(threshold))) / np.where(is_open, after.spread, np.nan)
        wanted = np.argsort(distance, kind="stable")[: is_open.sum()]  # NaN comes last
        wanted = wanted[:NEXT] if turn < OFTEN else wanted


def _foresee(before: Outlook, score: np.ndarray, known: np.ndarray) -> Outlook:
    """Return the outlook in which the scores not known moved as those known did."""
    start = _logit(before.score)
    moved = _logit(score[known]) - start[known]
    weight = 1 / (before.spread[known] ** 2 + SMALLEST)  # what was itself foreseen tells less
    shift = np.average(moved, weights=weight)
    n = len(moved)
    apart = np.sqrt(np.average((moved - shift) ** 2, weights=weight) * n / max(n - 1, 1))
    error = max(apart, UNEVEN * abs(shift), SMALLEST) * np.sqrt(1 + 1 / n)
    foreseen = 1 / (1 + np.exp(-(start + shift)))
    spread = np.sqrt(before.spread**2 + error**2)
    return Outlook(np.where(known, score, foreseen), np.where(known, 0.0, spread))


def _logit(score: np.ndarray) -> np.ndarray:
    sure = np.clip(score, 1e-12, 1 - 1e-12)
    return np.log(sure / (1 - sure))
