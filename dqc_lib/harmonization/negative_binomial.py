"""Negative binomial regression of many genes at once, how much more than Poisson they scatter, and their quantiles.

A count has mean mu = exp(offset + design @ coefficients) and variance mu + dispersion * mu**2. All genes share the
design, so one step of the fit is one product of matrices for all of them.
"""

from __future__ import annotations

import numpy as np

GRID = np.geomspace(1e-4, 30.0, 56)
"""Dispersions that are tried; between them a parabola finds the best."""
CLOSE = 1e-10  # relative change of the deviance below which a fit ends
MOST_STEPS = 200
PRIOR_FREEDOM = 10.0
"""Degrees of freedom with which all genes of a site weigh in the dispersion of each: edgeR's default. The authors'
ComBat-seq sets it to 0, so that genes of a small site each have a dispersion from a few samples."""
SAME = 1e-9  # relative: what rounding does to a quantile, which must not turn a count into the next
OUTLIER = 1e-4  # share of the old distribution at or above a count below which it stays, as in the authors' code
LARGEST = 50.0  # of a linear predictor: exp of more has no use


def fit_means(
    counts: np.ndarray, design: np.ndarray, *, offset: np.ndarray, dispersion: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the coefficients of every gene and the mean of every count, by iteratively reweighted least squares.

    Parameters
    ----------
    counts : ndarray, shape (n, genes)
    design : ndarray, shape (n, columns)
        Of full rank.
    offset : ndarray, shape (n,)
        Logarithm of the library sizes.
    dispersion : ndarray, shape (n, genes)

    Returns
    -------
    coefficients : ndarray, shape (columns, genes)
    means : ndarray, shape (n, genes)

    Raises
    ------
    ValueError
        If a fit does not end.
    """
    means = np.where(counts > 0, counts, 1 / 6).astype(np.float64)
    predictor = np.log(means) - offset[:, np.newaxis]
    coefficients, deviance = None, np.full(counts.shape[1], np.inf)
    for _ in range(MOST_STEPS):
        weights = means / (1 + dispersion * means)
        target = predictor + (counts - means) / means
        found = _solve_weighted(design, weights, target)
        predictor, means, new = _measure_fit(found, counts, design, offset=offset, dispersion=dispersion)
        for _ in range(10):  # halve steps that went too far
            worse = new > deviance * (1 + CLOSE) + CLOSE
            if coefficients is None or not worse.any():
                break
            found[:, worse] = (found[:, worse] + coefficients[:, worse]) / 2
            predictor, means, new = _measure_fit(found, counts, design, offset=offset, dispersion=dispersion)
        with np.errstate(invalid="ignore"):
            moved = np.abs(new - deviance) > CLOSE * (np.abs(new) + 0.1)
        coefficients, deviance = found, new
        if not moved.any():
            return coefficients, means
    raise ValueError(f"{int(moved.sum())} of {moved.size} genes still move after {MOST_STEPS} steps")


def _solve_weighted(design: np.ndarray, weights: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the weighted least squares coefficients of every gene, shape (columns, genes)."""
    columns = design.shape[1]
    pairs = (design[:, :, np.newaxis] * design[:, np.newaxis, :]).reshape(len(design), -1)
    products = (pairs.T @ weights).T.reshape(-1, columns, columns)
    right = (design.T @ (weights * target)).T[..., np.newaxis]
    return np.linalg.solve(products, right)[..., 0].T


def _measure_fit(
    coefficients: np.ndarray, counts: np.ndarray, design: np.ndarray, *, offset: np.ndarray, dispersion: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return linear predictors, means, both (n, genes), and deviances, (genes,)."""
    predictor = np.clip(design @ coefficients, -LARGEST, LARGEST)
    means = np.exp(predictor + offset[:, np.newaxis])
    ratio = np.log((1 + dispersion * counts) / (1 + dispersion * means))
    parts = np.where(counts > 0, counts * np.log(np.where(counts > 0, counts, 1) / means), 0)
    return predictor, means, 2 * (parts - (counts + 1 / dispersion) * ratio).sum(axis=0)


def estimate_dispersions(counts: np.ndarray, means: np.ndarray, design: np.ndarray) -> np.ndarray:
    """Return the dispersion of every gene among samples of one site, shape (genes,).

    The likelihood with the adjustment of Cox and Reid for fitted means, plus that of the average gene, which weighs as
    much as `PRIOR_FREEDOM` samples (McCarthy, Chen and Smyth 2012, doi 10.1093/nar/gks042). Other than in edgeR means
    are not fitted anew for every dispersion that is tried, and the average is over all genes, whatever their mean.

    Parameters
    ----------
    counts, means : ndarray, shape (n, genes)
    design : ndarray, shape (n, columns)
        Of the site, of full rank and with fewer columns than samples.
    """
    profile = np.stack([_adjust_likelihood(counts, means, design, dispersion=value) for value in GRID])
    freedom = len(counts) - design.shape[1]
    profile = profile + PRIOR_FREEDOM / freedom * profile.mean(axis=1, keepdims=True)
    return _find_peaks(profile)


def _adjust_likelihood(counts: np.ndarray, means: np.ndarray, design: np.ndarray, *, dispersion: float) -> np.ndarray:
    """Return the adjusted profile likelihood of every gene at one dispersion, shape (genes,), up to a constant."""
    from scipy.special import gammaln

    size = 1 / dispersion
    spread = np.log1p(dispersion * means)
    logs = gammaln(counts + size) - gammaln(size) - size * spread
    logs += counts * (np.log(dispersion * means) - spread)
    weights = means / (1 + dispersion * means)
    pairs = (design[:, :, np.newaxis] * design[:, np.newaxis, :]).reshape(len(design), -1)
    products = (pairs.T @ weights).T.reshape(-1, design.shape[1], design.shape[1])
    return logs.sum(axis=0) - 0.5 * np.linalg.slogdet(products)[1]


def _find_peaks(profile: np.ndarray) -> np.ndarray:
    """Return where each column of a profile over `GRID` is highest, by a parabola in the logarithm; shape (genes,)."""
    best = profile.argmax(axis=0)
    inner = np.clip(best, 1, len(GRID) - 2)
    genes = np.arange(profile.shape[1])
    before, at, after = (profile[inner + step, genes] for step in (-1, 0, 1))
    bend = before - 2 * at + after
    step = np.where(bend < 0, 0.5 * (before - after) / np.where(bend < 0, bend, 1), 0)
    place = np.log(GRID)[inner] + step * (np.log(GRID[1]) - np.log(GRID[0]))
    return np.where(best == inner, np.exp(place), GRID[best])


def map_counts(
    counts: np.ndarray,
    means: np.ndarray,
    means_without: np.ndarray,
    *,
    dispersion: np.ndarray,
    dispersion_without: np.ndarray,
) -> np.ndarray:
    """Return the counts of the same quantile under other means and dispersions; arrays of shape (n, genes).

    A count y becomes 1 plus the quantile that y - 1 has, so that none becomes 0. As in the authors' code, counts of 0
    and 1 stay, and so do outliers, of which the old distribution has fewer than `OUTLIER` at or above them: a far tail
    mapped onto a wider one would blow them up. Where that begins, a larger count may come out below a smaller one.
    Beyond the median tails are computed from above, where fewer digits are lost.
    """
    from scipy.stats import nbinom

    old, new = (
        (1 / spread, 1 / (1 + spread * mean))
        for spread, mean in ((dispersion, means), (dispersion_without, means_without))
    )
    found = counts.copy()
    old, new = ([np.broadcast_to(part, counts.shape) for part in pair] for pair in (old, new))
    below = nbinom.cdf(counts - 1, *old)
    moved = (counts > 1) & (nbinom.sf(counts - 1, *old) >= OUTLIER)
    lower, upper = moved & (below <= 0.5), moved & (below > 0.5)
    found[lower] = 1 + nbinom.ppf(below[lower] * (1 - SAME), *(part[lower] for part in new))
    above = nbinom.sf(counts[upper] - 1, *(part[upper] for part in old))
    found[upper] = 1 + nbinom.isf(np.minimum(above * (1 + SAME), 1), *(part[upper] for part in new))
    return found
