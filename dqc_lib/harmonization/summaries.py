"""ComBat in two rounds of site summaries: no site shows a subject's values, and nobody approximates.

Round 1: each site sends its count, its means and its sums of products (`summarize_site`); the server solves for the
coefficients that all sites share (`solve_coefficients`). Round 2: each site sends the sum of its squared residuals
(`sum_squared_residuals`); the server pools the variance (`pool_variance`). Then each site finds its own shift and scale
(`find_site_effect`) and sends nothing more. One round would do if sites sent sums of squared values at first, but then
large numbers would be subtracted from each other. After Chen et al. 2022 (doi 10.1016/j.neuroimage.2021.118822); here
products are taken about a site's own means, which says the same as X'X and X'Y and loses fewer digits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from dqc_lib.harmonization.covariates import Coding, encode_rows, require_separable
from dqc_lib.harmonization.measurements import ROUNDING, check_measurements

FEW_VALUES = 10  # up to as many values, two subjects or more to each on average, a number counts as levels


@dataclass(frozen=True, eq=False)
class SiteSummary:
    """What a site sends in round 1; its size depends on features and covariates, not on subjects.

    Parameters
    ----------
    site : str
    n : int
        Subjects.
    smallest_group : int
        Subjects in the smallest group that its sums tell of: the site, those with one level of a covariate, or with a
        pair of levels of two. Numbers that take few values count as levels, and one subject whose number makes up most
        of its variation at the site is a group of one. Groups of three levels are not in the sums.
    features : tuple of str
    coding : Coding
        Of the covariates.
    mean_covariates, mean_values : ndarray, shapes (columns,) and (features,)
    products : ndarray, shape (columns, columns)
        X'X of the covariates about their means.
    cross_products : ndarray, shape (columns, features)
        X'Y about the means.
    """

    site: str
    n: int
    smallest_group: int
    features: tuple[str, ...]
    coding: Coding
    mean_covariates: np.ndarray
    mean_values: np.ndarray
    products: np.ndarray
    cross_products: np.ndarray

    @property
    def n_numbers(self) -> int:
        """How many numbers the site sends."""
        arrays = (self.mean_covariates, self.mean_values, self.products, self.cross_products)
        return 2 + sum(array.size for array in arrays)


@dataclass(frozen=True, eq=False)
class Coefficients:
    """What the server sends back after round 1: the linear model that all sites share.

    It goes to every site, with what others have in it: their counts and intercepts, which for a site with few subjects
    is close to their values (and for one subject of a `mean_only` fit is that subject). Of two sites each can find the
    other's means of the covariates from `mean_covariates`.

    Parameters
    ----------
    sites : tuple of str
    counts : ndarray of int, shape (sites,)
    features : tuple of str
    coding : Coding
    intercepts : ndarray, shape (sites, features)
        Of every site, in the features' units.
    slopes : ndarray, shape (columns, features)
        Of the covariates.
    grand_mean : ndarray, shape (features,)
        Mean of the intercepts, weighted by n, or the intercept of the reference.
    mean_covariates : ndarray, shape (columns,)
    reference : str or None
        The site that stays as it is.
    """

    sites: tuple[str, ...]
    counts: np.ndarray
    features: tuple[str, ...]
    coding: Coding
    intercepts: np.ndarray
    slopes: np.ndarray
    grand_mean: np.ndarray
    mean_covariates: np.ndarray
    reference: str | None = None


def summarize_site(
    values: pd.DataFrame | np.ndarray,
    covariates: pd.DataFrame | None = None,
    *,
    site: str,
    coding: Coding | None = None,
) -> SiteSummary:
    """Return what a site sends in round 1, from its own subjects alone.

    Parameters
    ----------
    values : DataFrame or array, shape (n, features)
    covariates : DataFrame, optional
        One row per subject.
    site : str
    coding : Coding, optional
        That the sites agreed on (`agree_coding`); none without covariates.

    Examples
    --------
    >>> summary = summarize_site(np.array([[1.0, 5.0], [3.0, 9.0]]), site="A")
    >>> summary.n, summary.mean_values.tolist(), summary.n_numbers
    (2, [2.0, 7.0], 4)
    """
    measured = check_measurements(values, [site] * len(values))
    coding = coding or Coding()
    columns = encode_rows(coding, covariates, measured)
    centered = columns - columns.mean(axis=0)
    return SiteSummary(
        site,
        len(columns),
        _find_smallest(coding, covariates, len(columns)),
        measured.features,
        coding,
        columns.mean(axis=0),
        measured.values.mean(axis=0),
        centered.T @ centered,
        centered.T @ measured.values,
    )


def _find_smallest(coding: Coding, covariates: pd.DataFrame | None, n: int) -> int:
    """Return the size of the smallest group of subjects that sums tell apart."""
    sizes, grouped = [n], {}
    for name, levels in coding.terms:
        column = covariates[name].astype(object)  # of categories, only those that somebody has
        if levels is not None or 2 * column.nunique() <= min(2 * FEW_VALUES, n) or column.nunique() == 2:
            grouped[name] = column.to_numpy()
            sizes.append(int(column.value_counts().min()))
        elif _is_dominated(column.to_numpy(dtype=np.float64)):
            sizes.append(1)
    cells = (pd.DataFrame({"one": one, "other": other}) for one, other in combinations(grouped.values(), 2))
    return min([*sizes, *(int(cell.value_counts().min()) for cell in cells)])


def _is_dominated(numbers: np.ndarray) -> bool:
    """Return whether one subject makes up more than half of the sum of squares about the mean."""
    squares = (numbers - numbers.mean()) ** 2
    return bool(squares.max() > squares.sum() / 2)


def solve_coefficients(summaries: Sequence[SiteSummary], *, reference: str | None = None) -> Coefficients:
    """Return the coefficients of the least squares fit to all subjects, from the sums of the sites.

    Raises
    ------
    ValueError
        If there are fewer than two sites, a site comes twice, sites disagree about features or coding, subjects are
        fewer than coefficients, or a covariate cannot be told from the sites or from other covariates.
    """
    first = _require_alike(summaries)
    if reference is not None and reference not in [summary.site for summary in summaries]:
        raise ValueError(f"reference must be one of {[summary.site for summary in summaries]}, got {reference!r}")
    within = sum(summary.products for summary in summaries)
    counts = np.array([summary.n for summary in summaries])
    means = np.stack([summary.mean_covariates for summary in summaries])
    sites = tuple(summary.site for summary in summaries)
    require_separable(within, means, counts=counts, sites=sites, columns=first.coding.columns)
    # scaled to unit diagonal: years and volumes in one matrix would cost digits
    width = np.sqrt(np.diag(within))
    cross = sum(summary.cross_products for summary in summaries)
    slopes = np.linalg.solve(within / np.outer(width, width), cross / width[:, np.newaxis]) / width[:, np.newaxis]
    intercepts = np.stack([summary.mean_values for summary in summaries]) - means @ slopes
    shares = counts / counts.sum()
    grand_mean = shares @ intercepts if reference is None else intercepts[sites.index(reference)]
    return Coefficients(
        sites, counts, first.features, first.coding, intercepts, slopes, grand_mean, shares @ means, reference
    )


def _require_alike(summaries: Sequence[SiteSummary]) -> SiteSummary:
    """Return the first summary, or say how the others do not go with it."""
    sites = [summary.site for summary in summaries]
    if twice := [site for site in sites if sites.count(site) > 1]:
        raise ValueError(f"every site must send one summary; {twice[0]!r} sent {sites.count(twice[0])}")
    if len(sites) < 2:
        raise ValueError(f"expected two or more sites to make comparable, got {sites}")
    first = summaries[0]
    for summary in summaries:
        if summary.features != first.features or summary.coding != first.coding:
            raise ValueError(f"sites must have the same features and coding; {summary.site!r} and {sites[0]!r} differ")
    n, needed = sum(summary.n for summary in summaries), len(sites) + len(first.coding.columns)
    if n <= needed:
        raise ValueError(f"expected more subjects than coefficients ({needed}: sites and covariates), got {n}")
    return first


def sum_squared_residuals(
    values: pd.DataFrame | np.ndarray,
    covariates: pd.DataFrame | None = None,
    *,
    site: str,
    coefficients: Coefficients,
) -> np.ndarray:
    """Return what a site sends in round 2: the sum of its squared residuals, shape (features,)."""
    measured = check_measurements(values, [site] * len(values))
    columns = encode_rows(coefficients.coding, covariates, measured)
    expected = coefficients.intercepts[coefficients.sites.index(site)] + columns @ coefficients.slopes
    return ((measured.values - expected) ** 2).sum(axis=0)


def pool_variance(coefficients: Coefficients, sums: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the variance of each feature about the shared model, shape (features,), from the sums of round 2.

    Over all subjects, or over those of the reference; divided by n, as in neuroCombat.

    Raises
    ------
    KeyError, ValueError
        If a site sent nothing, or a feature does not vary within sites.
    """
    if silent := [site for site in coefficients.sites if site not in sums]:
        raise KeyError(f"missing sums of squared residuals of {silent}; came those of {list(sums)}")
    kept = [coefficients.reference] if coefficients.reference is not None else list(coefficients.sites)
    n = sum(int(coefficients.counts[coefficients.sites.index(site)]) for site in kept)
    variance = sum(sums[site] for site in kept) / n
    size = np.abs(coefficients.intercepts).max(axis=0)
    flat = np.sqrt(variance) <= ROUNDING * size
    if flat.any():
        where = "the reference" if coefficients.reference is not None else "any site"
        raise ValueError(
            f"feature {coefficients.features[flat.argmax()]!r} does not vary within {where} beyond its covariates,"
            f" {int(flat.sum())} such features in all; leave it out"
        )
    return variance
