"""Metrics of many resamples and of shuffled groups at once, as products of weights.

A resample draws subjects with replacement, so it is a weight per subject: how often it was drawn. Counts of decisions
are then a matrix product, and nothing is copied or sorted again. Arrays have the subjects of one class in their rows:
scores are (runs, subjects), weights (subjects, resamples), and metrics (runs, 5, resamples) in the order of `METRICS`.
"""

from __future__ import annotations

from collections.abc import Iterator
from zlib import crc32

import numpy as np

from dqc_lib.evaluation.metrics import METRICS

MOST_WEIGHTS = 4_000_000  # of one block: 16 MB as float32


def measure_weighted(
    positive: np.ndarray, negative: np.ndarray, *, weights: tuple[np.ndarray, np.ndarray], threshold: float
) -> np.ndarray:
    """Return the metrics of every run and resample, NaN where undefined.

    Parameters
    ----------
    positive, negative : ndarray, shapes (runs, n_positive) and (runs, n_negative)
        Scores of the subjects with disease and of the controls.
    weights : two float32 ndarrays, shapes (n_positive, resamples) and (n_negative, resamples)
        Whole numbers. Every resample has the same sum of weights.
    threshold : float
        As in `score_predictions`.

    Returns
    -------
    ndarray, shape (runs, 5, resamples)
    """
    of_positive, of_negative = weights
    tp = ((positive >= threshold).astype(np.float32) @ of_positive).astype(np.float64)
    fp = ((negative >= threshold).astype(np.float32) @ of_negative).astype(np.float64)
    n_positive, n_negative = (of.sum(axis=0, dtype=np.float64) for of in weights)
    wins = np.stack([_sum_wins(*scores, weights=weights) for scores in zip(positive, negative, strict=True)])
    with np.errstate(invalid="ignore", divide="ignore"):
        found = (
            (tp + n_negative - fp) / (n_positive + n_negative),
            tp / n_positive,
            (n_negative - fp) / n_negative,
            2 * tp / (tp + fp + n_positive),
            wins / (n_positive * n_negative),
        )
    return np.stack(found, axis=1)


def _sum_wins(positive: np.ndarray, negative: np.ndarray, *, weights: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return per resample the weight of pairs in which the diseased subject scores higher, ties counting half.

    Below every diseased subject lies a stretch of the sorted controls, so cumulated weights answer for all of them;
    the (n_positive, n_negative) matrix of pairs would give the same and take n times as long.
    """
    of_positive, of_negative = weights
    order = np.argsort(negative)
    below = np.zeros((len(negative) + 1, of_negative.shape[1]), dtype=np.float32)
    np.cumsum(of_negative[order], axis=0, out=below[1:])
    lost = below[np.searchsorted(negative[order], positive, "left")]
    lost += below[np.searchsorted(negative[order], positive, "right")]
    return np.einsum("pr,pr->r", of_positive, lost, dtype=np.float64) / 2


def resample_group(
    positive: np.ndarray, negative: np.ndarray, *, names: tuple[str, str], threshold: float, n_resamples: int, seed: int
) -> np.ndarray:
    """Return the metrics of a group in every resample, drawn from either class apart; shape (runs, 5, resamples).

    `names` are those of the subgroup and of the group: they and `seed` alone decide what is drawn, the same for all
    runs.
    """
    classes = [make_generator(seed, *names, kind) for kind in ("disease", "control")]
    found = np.empty((len(positive), len(METRICS), n_resamples))
    for block in split_resamples(n_resamples, n=positive.shape[1] + negative.shape[1]):
        sizes = zip((positive.shape[1], negative.shape[1]), classes, strict=True)
        weights = tuple(draw_weights(n, block.stop - block.start, generator) for n, generator in sizes)
        found[..., block] = measure_weighted(positive, negative, weights=weights, threshold=threshold)
    return found


def draw_weights(n: int, n_resamples: int, generator: np.random.Generator) -> np.ndarray:
    """Return how often each of `n` subjects is drawn in `n` draws with replacement; float32 (n, n_resamples)."""
    if n == 0:
        return np.zeros((0, n_resamples), dtype=np.float32)
    drawn = generator.integers(n, size=(n, n_resamples)) * n_resamples + np.arange(n_resamples)
    return np.bincount(drawn.ravel(), minlength=n * n_resamples).reshape(n, n_resamples).astype(np.float32)


def shuffle_groups(
    positive: np.ndarray,
    negative: np.ndarray,
    *,
    members: tuple[np.ndarray, np.ndarray],
    usable: np.ndarray,
    name: str,
    threshold: float,
    n_resamples: int,
    seed: int,
) -> np.ndarray:
    """Return the gaps between groups when their labels are shuffled among subjects of the same diagnosis.

    Parameters
    ----------
    positive, negative : ndarray, shapes (runs, n_positive) and (runs, n_negative)
        Scores of all subjects.
    members : two ndarrays of int, of length n_positive and n_negative
        Number of the group of each subject. Shuffled, so every group keeps its counts of either class.
    usable : ndarray of bool, shape (groups, 5)
        The groups that count for a metric.
    name, threshold, n_resamples, seed
        Of the subgroup; the rest as in `resample_group`.

    Returns
    -------
    ndarray, shape (runs, 5, n_resamples)
        Largest minus smallest value; NaN where fewer than two groups count.
    """
    classes = [make_generator(seed, name, "shuffled", kind) for kind in ("disease", "control")]
    spread = Spread(len(positive), n_resamples)
    for block in split_resamples(n_resamples, n=positive.shape[1] + negative.shape[1]):
        copies = [np.repeat(labels[:, np.newaxis], block.stop - block.start, axis=1) for labels in members]
        shuffled = [generator.permuted(labels, axis=0) for generator, labels in zip(classes, copies, strict=True)]
        for group in np.flatnonzero(usable.any(axis=1)):
            weights = tuple((labels == group).astype(np.float32) for labels in shuffled)
            found = measure_weighted(positive, negative, weights=weights, threshold=threshold)
            spread.add(found, usable[group], block)
    return spread.gaps(usable)


class Spread:
    """The largest and the smallest value that groups reach, by run, metric and resample; groups are added in turn."""

    def __init__(self, n_runs: int, n_resamples: int) -> None:
        self.highest = np.full((n_runs, len(METRICS), n_resamples), -np.inf)
        self.lowest = np.full((n_runs, len(METRICS), n_resamples), np.inf)

    def add(self, values: np.ndarray, usable: np.ndarray, block: slice) -> None:
        """Take in the values of one group, (runs, 5, resamples of the block), for the metrics that are usable."""
        at = (slice(None), usable, block)
        self.highest[at] = np.maximum(self.highest[at], values[:, usable])
        self.lowest[at] = np.minimum(self.lowest[at], values[:, usable])

    def gaps(self, usable: np.ndarray) -> np.ndarray:
        """Return largest minus smallest, NaN for metrics for which fewer than two groups are `usable` (groups, 5)."""
        enough = usable.sum(axis=0) > 1
        found = np.full_like(self.highest, np.nan)
        found[:, enough] = self.highest[:, enough] - self.lowest[:, enough]
        return found


def split_resamples(n_resamples: int, *, n: int) -> Iterator[slice]:
    """Yield the resamples in blocks whose weights for `n` subjects fit in `MOST_WEIGHTS`."""
    step = max(1, MOST_WEIGHTS // max(n, 1))
    for first in range(0, n_resamples, step):
        yield slice(first, min(first + step, n_resamples))


def make_generator(seed: int, *names: str) -> np.random.Generator:
    """Return the generator that belongs to a seed and names, whatever was drawn before and in whatever order."""
    return np.random.default_rng(np.random.SeedSequence([seed, *(crc32(name.encode()) for name in names)]))
