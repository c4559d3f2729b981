"""How far values lie from those of their own site: means and spreads of a site's subjects, and z-scores by them."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dqc_lib.harmonization.measurements import check_measurements, restore


@dataclass(frozen=True, eq=False)
class SiteScores:
    """Means and standard deviations of sites, from `fit_site_scores`.

    Parameters
    ----------
    sites : tuple of str
    counts : ndarray of int, shape (sites,)
        Subjects.
    features : tuple of str
    means, spreads : ndarray, shape (sites, features)
        In the features' units, n - 1 in the denominator of the squared spread. A spread is NaN where a site has one
        subject or a feature is constant there.
    """

    sites: tuple[str, ...]
    counts: np.ndarray
    features: tuple[str, ...]
    means: np.ndarray
    spreads: np.ndarray

    def apply(self, values: pd.DataFrame | np.ndarray, sites: Sequence[str]) -> pd.DataFrame | np.ndarray:
        """Return how many of its site's standard deviations each value lies from its site's mean.

        Parameters
        ----------
        values, sites
            As in `fit_site_scores`; of the same subjects, or of others of the same sites.

        Raises
        ------
        TypeError, ValueError
            If a site was not in the fit, or features are others.
        """
        measured = check_measurements(values, sites)
        if measured.features != self.features:
            raise ValueError(f"features must be the {len(self.features)} of the fit, in their order")
        if strange := [site for site in dict.fromkeys(measured.sites) if site not in self.sites]:
            raise ValueError(f"sites must be among {list(self.sites)}, those of the fit; got {strange[0]!r}")
        at = [self.sites.index(site) for site in measured.sites]
        return restore((measured.values - self.means[at]) / self.spreads[at], like=values)

    def _repr_html_(self) -> str:
        named = ", ".join(f"{html.escape(site)} {n}" for site, n in zip(self.sites, self.counts, strict=True))
        return f"<b>SiteScores</b>: {len(self.features)} features; subjects by site: {named}"


def fit_site_scores(values: pd.DataFrame | np.ndarray, sites: Sequence[str]) -> SiteScores:
    """Return the means and standard deviations of the subjects of every site.

    Fit them to training subjects and apply them to those that test a model, as `fit_combat`. Nothing is shared between
    sites, and nothing is kept: a site that examines more patients loses what makes them patients.

    Parameters
    ----------
    values : DataFrame or array, shape (n, features)
    sites : sequence of str, of length n

    Examples
    --------
    >>> scores = fit_site_scores(np.array([[1.0], [3.0]]), ["A", "A"])
    >>> scores.apply(np.array([[6.0]]), ["A"]).round(3).tolist()
    [[2.828]]
    """
    measured = check_measurements(values, sites)
    names = tuple(sorted(set(measured.sites)))
    parts = [measured.values[measured.sites == site] for site in names]
    spreads = [_find_spread(part) for part in parts]
    counts, means = np.array([len(part) for part in parts]), np.stack([part.mean(axis=0) for part in parts])
    return SiteScores(names, counts, measured.features, means, np.stack(spreads))


def _find_spread(part: np.ndarray) -> np.ndarray:
    """Return the standard deviation of every feature, NaN where it is constant or of one subject."""
    if len(part) < 2:
        return np.full(part.shape[1], np.nan)
    return np.where(np.ptp(part, axis=0) > 0, part.std(axis=0, ddof=1), np.nan)


def score_within_sites(values: pd.DataFrame | np.ndarray, sites: Sequence[str]) -> pd.DataFrame | np.ndarray:
    """Return z-scores of subjects by their own site: `fit_site_scores` applied to those that it was fitted to.

    To describe subjects. A model that is tested on some of them needs the two steps.

    Parameters
    ----------
    values : DataFrame or array, shape (n, features)
    sites : sequence of str, of length n

    Returns
    -------
    DataFrame or ndarray, shape (n, features)
        NaN where a site has one subject or a feature is constant there.

    Examples
    --------
    >>> score_within_sites(np.array([[1.0], [3.0], [10.0]]), ["A", "A", "B"]).ravel().round(3).tolist()
    [-0.707, 0.707, nan]
    """
    return fit_site_scores(values, sites).apply(values, sites)
