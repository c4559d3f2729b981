"""What ComBat makes of a site's shift and spread: priors over all features of the site, and the posterior of each.

A site needs nothing for this but its own count, means and variances, in units of the pooled standard deviation: each
finishes alone. Equations of Johnson, Li and Rabinovic 2007 (doi 10.1093/biostatistics/kxj037), supplement; stopping
rule and degrees of freedom of neuroCombat 0.2.12.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dqc_lib.harmonization.measurements import ROUNDING

if TYPE_CHECKING:
    from dqc_lib.harmonization.summaries import Coefficients

CLOSE = 1e-4  # relative change between two steps of the iteration below which it ends, as in neuroCombat
MOST_STEPS = 10_000
MOST_PAIRS = 4_000_000  # of features at once: 32 MB


@dataclass(frozen=True, eq=False)
class SiteEffect:
    """What ComBat takes from a site, in units of the pooled standard deviation; arrays of shape (features,).

    Parameters
    ----------
    shift_found, scale_found : ndarray
        As estimated from the site: mean and variance of standardized values.
    shift, scale : ndarray
        After empirical Bayes: gamma* and delta* of the paper.
    """

    shift_found: np.ndarray
    scale_found: np.ndarray
    shift: np.ndarray
    scale: np.ndarray


def find_site_effect(
    sum_of_squares: np.ndarray,
    *,
    site: str,
    coefficients: Coefficients,
    variance: np.ndarray,
    empirical_bayes: bool = True,
    parametric: bool = True,
    mean_only: bool = False,
) -> SiteEffect:
    """Return the shift and scale of a site, which it computes by itself.

    Parameters
    ----------
    sum_of_squares : ndarray, shape (features,)
        Its own, of round 2.
    site : str
    coefficients : Coefficients
    variance : ndarray, shape (features,)
    empirical_bayes, parametric, mean_only : bool
        As in `fit_combat`.

    Raises
    ------
    ValueError
        If the site has one subject, or there are too few features for a prior.
    """
    at = coefficients.sites.index(site)
    n, ones = int(coefficients.counts[at]), np.ones_like(variance)
    if site == coefficients.reference:
        return SiteEffect(0 * ones, ones, 0 * ones, ones)
    shift = (coefficients.intercepts[at] - coefficients.grand_mean) / np.sqrt(variance)
    squares = sum_of_squares / variance
    if n < 2 and not mean_only:
        raise ValueError(f"site {site!r} has one subject, which has no spread; expected two or more, or mean_only=True")
    flat = np.sqrt(sum_of_squares / n) <= ROUNDING * np.abs(coefficients.intercepts[at])
    # a feature that is constant at this site has nothing to be scaled by
    scale = ones if mean_only else np.where(flat, 1.0, squares / max(n - 1, 1))
    if not empirical_bayes:
        return SiteEffect(shift, scale, shift, scale)
    if shift.size < 2:
        raise ValueError("priors are over features: expected two or more of them, or empirical_bayes=False")
    if mean_only and parametric:
        return SiteEffect(shift, scale, shrink_shift(shift), scale)
    try:
        shrink = shrink_parametric if parametric else shrink_by_others
        return SiteEffect(shift, scale, *shrink(shift, scale, squares=squares, n=n))
    except ValueError as error:
        raise ValueError(f"site {site!r}: {error}") from None


def shrink_parametric(
    shift: np.ndarray, scale: np.ndarray, *, squares: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the posterior of a site's shifts and variances under a normal and an inverse gamma prior.

    Parameters
    ----------
    shift, scale : ndarray, shape (features,)
        Means of the site's standardized values and their variances (n - 1 in the denominator).
    squares : ndarray, shape (features,)
        Sums of squares about these means.
    n : int
        Subjects of the site, at least 2.

    Returns
    -------
    shift, scale : ndarray, shape (features,)

    Raises
    ------
    ValueError
        If all features vary alike, so that there is no prior, or the iteration does not end.
    """
    mean, spread = scale.mean(), scale.var(ddof=1)
    if not spread > (ROUNDING * mean) ** 2:
        raise ValueError("all features vary alike; expected features that differ, or empirical_bayes=False")
    # the prior's moments are those of the found variances over the features
    shape, rate = (2 * spread + mean**2) / spread, (mean * spread + mean**3) / spread
    center, width = shift.mean(), shift.var(ddof=1)
    found = (shift, scale)
    for _ in range(MOST_STEPS):
        old = found
        moved = (width * n * shift + old[1] * center) / (width * n + old[1])
        scaled = (0.5 * (squares + n * (shift - moved) ** 2) + rate) / (n / 2 + shape - 1)
        found = (moved, scaled)
        with np.errstate(invalid="ignore", divide="ignore"):
            # without the sign of the old value taken off, as neuroCombat has it: where shifts below 0 still move it
            # stops a step early, and so do we
            changes = [(np.abs(new - before) / before).max() for new, before in zip(found, old, strict=True)]
        if not max(changes) > CLOSE:
            return found
    raise ValueError(f"the posterior still moves after {MOST_STEPS:,} steps")


def shrink_shift(shift: np.ndarray) -> np.ndarray:
    """Return the posterior of a site's shifts where variances stay as they are (neuroCombat's `mean_only`, n as 1)."""
    center, width = shift.mean(), shift.var(ddof=1)
    return (width * shift + center) / (width + 1)


def shrink_by_others(
    shift: np.ndarray, scale: np.ndarray, *, squares: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the posterior where the prior is the set of all other features of the site (the non-parametric way).

    Every other feature's shift and variance is weighed by the likelihood that it gives to the values of this one.
    Computed in logarithms: neuroCombat's likelihoods underflow to 0 / 0 in sites of some hundred subjects.

    Parameters
    ----------
    shift, scale, squares : ndarray, shape (features,)
        As in `shrink_parametric`; `scale` is 1 for all where variances stay as they are.
    n : int

    Returns
    -------
    shift, scale : ndarray, shape (features,)
    """
    found = np.empty((2, shift.size))
    step = max(1, MOST_PAIRS // shift.size)
    for first in range(0, shift.size, step):
        block = slice(first, first + step)
        apart = squares[block, np.newaxis] + n * (shift[block, np.newaxis] - shift) ** 2
        fit = -0.5 * (n * np.log(scale) + apart / scale)
        rows = np.arange(fit.shape[0])
        fit[rows, first + rows] = -np.inf  # a feature is no prior of its own
        weights = np.exp(fit - fit.max(axis=1, keepdims=True))
        found[:, block] = np.stack([weights @ shift, weights @ scale]) / weights.sum(axis=1)
    return found[0], found[1]
