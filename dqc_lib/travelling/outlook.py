"""What is known of the verification scores of a model before, or without, passing every image through it.

One training step moves the logits of all images nearly alike: the shift that they have in common made up 99 % of the
squared changes in the 173 attempts of a run that we looked at. So a few images tell where the others went, and only
those whose call that leaves open need a look.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

import numpy as np

FIRST, NEXT = 6, 2  # images read at once: to see the shift, then those that matter most, each time twice as many
UNEVEN = 0.15  # of the shift: by so much do images depart from it at least (0.15 was the median in that run)
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
        """Return the fewest and the most errors, boolean (n,) each: an open call is none at best and one at worst."""
        wrong = (self.score >= threshold) != (diagnosis == 1)
        is_open = self.list_open(threshold=threshold, reach=reach)
        return wrong & ~is_open, wrong | is_open

    def list_open(self, *, threshold: float, reach: float) -> np.ndarray:
        """Return whether each image might lie on the other side of the threshold than foreseen, boolean (n,)."""
        foreseen = self.spread > 0
        if np.isinf(reach):
            return foreseen
        return foreseen & (np.abs(_measure_margin(self.score, threshold)) <= reach * self.spread)


def look_ahead(
    before: Outlook,
    read: Callable[[np.ndarray], np.ndarray],
    diagnosis: np.ndarray,
    *,
    threshold: float,
    reach: float,
    settled: Callable[[np.ndarray, np.ndarray], bool],
) -> Outlook:
    """Return the outlook of a model that has taken steps since `before`, reading as few scores as settle the question.

    The scores nearest to the threshold are read first. From them comes the shift of the logits since `before`, and how
    far images depart from it; the others are foreseen. Then those are read whose calls are open, until the question is
    settled or no call is open: the least certain first, or with an infinite reach, where only a look counts, those
    that are most likely errors. Where a score is not finite nothing can be foreseen, and all are read.

    Parameters
    ----------
    before : Outlook
        Of the same images in the same order.
    read : callable
        Returns the scores of the images with these numbers.
    diagnosis : ndarray of int, shape (n,)
        1 if diseased.
    threshold : float
        A score of at least this is called diseased.
    reach : float
        In standard errors.
    settled : callable
        Whether the fewest and the most errors (see `Outlook.bound`) answer the question.
    """
    start = _measure_margin(before.score, threshold)
    score, known = before.score.copy(), np.zeros(len(start), dtype=bool)
    wanted = np.argsort(np.abs(start), kind="stable")[:FIRST]
    for turn in count():
        score[wanted], known[wanted] = read(wanted), True
        if not np.isfinite(score).all():
            score[~known] = read(np.flatnonzero(~known))
            return Outlook.of(score)
        after = _foresee(before, score, known)
        is_open = after.list_open(threshold=threshold, reach=reach)
        if not is_open.any() or settled(*after.bound(diagnosis, threshold=threshold, reach=reach)):
            return after
        margin, spread = _measure_margin(after.score[is_open], threshold), after.spread[is_open]
        order = np.where(diagnosis[is_open] == 1, margin, -margin) if np.isinf(reach) else np.abs(margin) / spread
        wanted = np.flatnonzero(is_open)[np.argsort(order, kind="stable")[: NEXT * 2**turn]]


def _foresee(before: Outlook, score: np.ndarray, known: np.ndarray) -> Outlook:
    """Return the outlook in which the scores not known moved as those known did."""
    start = _measure_margin(before.score, 0.5)
    moved = _measure_margin(score[known], 0.5) - start[known]
    weight = 1 / (before.spread[known] ** 2 + SMALLEST**2)  # what was itself foreseen tells less
    n = weight.sum() ** 2 / np.sum(weight**2)  # as many alike would tell as much
    shift = np.average(moved, weights=weight)
    apart = np.sqrt(np.average((moved - shift) ** 2, weights=weight) * n / max(n - 1, 0.5))
    error = max(apart, UNEVEN * abs(shift), SMALLEST) * np.sqrt(1 + 1 / n)
    foreseen = 1 / (1 + np.exp(-(start + shift)))
    spread = np.sqrt(before.spread**2 + error**2)
    return Outlook(np.where(known, score, foreseen), np.where(known, 0.0, spread))


def _measure_margin(score: np.ndarray, threshold: float) -> np.ndarray:
    """Return by how much the logits lie above that of the threshold."""
    sure = np.clip(score, 1e-12, 1 - 1e-12)
    return np.log(sure / (1 - sure)) - np.log(threshold / (1 - threshold))
