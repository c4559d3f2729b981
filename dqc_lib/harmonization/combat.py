"""ComBat: the shift and the scale that a site gives to every feature are estimated, and taken out.

Johnson, Li and Rabinovic 2007 (doi 10.1093/biostatistics/kxj037), for images Fortin et al. 2018 (doi
10.1016/j.neuroimage.2017.11.024). The numbers are those of neuroCombat 0.2.12, with which tests compare them; they are
computed from site summaries (`dqc_lib.harmonization.summaries`), never from pooled subjects.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dqc_lib.arguments import require_kind
from dqc_lib.harmonization.covariates import agree_coding, encode_known, encode_rows
from dqc_lib.harmonization.measurements import check_measurements, restore
from dqc_lib.harmonization.shrinkage import SiteEffect, find_site_effect
from dqc_lib.harmonization.summaries import (
    Coefficients,
    SiteSummary,
    pool_variance,
    solve_coefficients,
    sum_squared_residuals,
    summarize_site,
)

SMALLEST_GROUP = 5  # subjects below which a sum says much about one of them


@dataclass(frozen=True, eq=False)
class Combat:
    """A fitted ComBat, from `fit_combat`.

    Parameters
    ----------
    coefficients : Coefficients
        The linear model that sites share.
    variance : ndarray, shape (features,)
        Pooled over sites.
    site_effects : mapping of str to SiteEffect
        What is taken from each site.
    sent : DataFrame
        What sites sent for it, and what came back to each: round, direction ("to the server" or "to the site"), site,
        what, n_numbers, n (subjects that it sums up), smallest_group (of subjects that it tells of), note ("" or why
        that is too few).
    """

    coefficients: Coefficients
    variance: np.ndarray
    site_effects: Mapping[str, SiteEffect]
    sent: pd.DataFrame

    @property
    def effects(self) -> pd.DataFrame:
        """One row per site and feature: site, feature, n, shift_found, shift, scale_found, scale.

        Shifts are in the feature's units, scales ratios of standard deviations; `found` before shrinkage.
        """
        spread, tables = np.sqrt(self.variance), []
        for site, n in zip(self.coefficients.sites, self.coefficients.counts.tolist(), strict=True):
            effect = self.site_effects[site]
            columns = {"site": site, "feature": self.coefficients.features, "n": n}
            columns |= {"shift_found": effect.shift_found * spread, "shift": effect.shift * spread}
            columns |= {"scale_found": np.sqrt(effect.scale_found), "scale": np.sqrt(effect.scale)}
            tables.append(pd.DataFrame(columns))
        return pd.concat(tables, ignore_index=True)

    def apply(
        self,
        values: pd.DataFrame | np.ndarray,
        sites: Sequence[str],
        covariates: pd.DataFrame | None = None,
        *,
        unknown: Sequence[str] = (),
    ) -> pd.DataFrame | np.ndarray:
        """Return values without the effects of their sites, in the form in which they came.

        Parameters
        ----------
        values, sites, covariates
            As in `fit_combat`; of the same subjects, or of others of the same sites.
        unknown : sequence of str
            Covariates that are not known of these subjects, such as the diagnosis that a model shall find: they count
            as the mean of the subjects of the fit. A label that goes in here comes out again where scales differ.

        Raises
        ------
        KeyError, TypeError, ValueError
            If a site was not in the fit, features are others, or a covariate is not there.
        """
        measured = check_measurements(values, sites)
        if measured.features != self.coefficients.features:
            raise ValueError(f"features must be the {len(self.variance)} of the fit, in their order")
        if strange := [site for site in dict.fromkeys(measured.sites) if site not in self.site_effects]:
            raise ValueError(
                f"sites must be among {list(self.coefficients.sites)}, those of the fit; got {strange[0]!r}"
            )
        coding, means = self.coefficients.coding, self.coefficients.mean_covariates
        columns = encode_known(coding, covariates, measured, unknown=unknown, means=means)
        expected = self.coefficients.grand_mean + columns @ self.coefficients.slopes
        effects = [self.site_effects[site] for site in measured.sites]
        shift = np.stack([effect.shift for effect in effects]) * np.sqrt(self.variance)
        scale = np.sqrt(np.stack([effect.scale for effect in effects]))
        found = (measured.values - expected - shift) / scale + expected
        kept = measured.sites == self.coefficients.reference
        found[kept] = measured.values[kept]
        return restore(found, like=values)

    def _repr_html_(self) -> str:
        counts = self.coefficients.counts
        sent = self.sent[self.sent["direction"] == "to the server"]
        few, numbers = sent.loc[sent["note"] != "", "site"].unique(), sent["n_numbers"].sum()
        named = ", ".join(map(html.escape, self.coefficients.coding.names)) or "nothing"
        warning = f"; <b>few subjects behind a sum of {html.escape(', '.join(few))}</b>" if len(few) else ""
        return (
            f"<b>Combat</b>: {len(self.variance)} features, {counts.sum()} subjects of {len(counts)} sites, smallest"
            f" {counts.min()}; keeps {named}; {numbers:,} numbers sent{warning}"
        )


def fit_combat(
    values: pd.DataFrame | np.ndarray,
    sites: Sequence[str],
    covariates: pd.DataFrame | None = None,
    *,
    categorical: Sequence[str] = (),
    empirical_bayes: bool = True,
    parametric: bool = True,
    mean_only: bool = False,
    reference: str | None = None,
) -> Combat:
    """Return ComBat fitted to subjects of several sites, each of which only sends summaries.

    Fit it on training subjects and apply it to those that test a model: if test subjects, or labels of theirs, are in
    the fit, what the model is tested on has been shaped by them (leakage), and the figures flatter.

    Parameters
    ----------
    values : DataFrame or array, shape (n, features)
        Finite, none constant.
    sites : sequence of str, of length n
    covariates : DataFrame, optional
        One row per subject: what shall be kept (age, sex, diagnosis). Texts, categories and booleans are groups,
        numbers are numbers. A covariate that is left out and differs between sites is taken out with them.
    categorical : sequence of str
        Covariates that are groups though they are numbers.
    empirical_bayes : bool
        Whether a site's effects on single features are shrunk towards its mean effect, which is what small sites need.
        Shifts of single features of a site with n subjects are known to about 1 / sqrt(n) standard deviations without.
    parametric : bool
        Whether priors are a normal and an inverse gamma distribution, or the other features themselves.
    mean_only : bool
        Whether only the shift is taken out: the only way for a site with one subject.
    reference : str, optional
        The site that all others are made comparable to, and that stays as it is.

    Returns
    -------
    Combat

    Raises
    ------
    KeyError, TypeError, ValueError
        The message names subject, feature, covariate or site: see `check_measurements`, `agree_coding`,
        `solve_coefficients`, `pool_variance` and `find_site_effect`.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> values = rng.normal(size=(60, 3)) + np.repeat([[0.0], [4.0]], 30, axis=0)
    >>> combat = fit_combat(values, ["A"] * 30 + ["B"] * 30)
    >>> even = combat.apply(values, ["A"] * 30 + ["B"] * 30)
    >>> bool(abs(even[:30].mean() - even[30:].mean()) < 0.1)
    True
    """
    measured = check_measurements(values, sites)
    for name, value in {"empirical_bayes": empirical_bayes, "parametric": parametric, "mean_only": mean_only}.items():
        require_kind(name, value, bool, such_as="True")
    coding = agree_coding(covariates, categorical=categorical)
    encode_rows(coding, covariates, measured)
    covariates = None if covariates is None else covariates.set_axis(measured.subjects)
    table = pd.DataFrame(measured.values, index=measured.subjects, columns=list(measured.features))
    held = {}
    for site in sorted(set(measured.sites)):
        own = measured.sites == site
        held[site] = {"values": table[own], "covariates": None if covariates is None else covariates[own], "site": site}
    summaries = [summarize_site(**held[site], coding=coding) for site in held]
    coefficients = solve_coefficients(summaries, reference=reference)
    sums = {site: sum_squared_residuals(**held[site], coefficients=coefficients) for site in held}
    variance = pool_variance(coefficients, sums)
    way = {"empirical_bayes": empirical_bayes, "parametric": parametric, "mean_only": mean_only}
    effects = {
        site: find_site_effect(sums[site], site=site, coefficients=coefficients, variance=variance, **way)
        for site in held
    }
    return Combat(coefficients, variance, effects, _list_sent(summaries, coefficients))


def _list_sent(summaries: Sequence[SiteSummary], coefficients: Coefficients) -> pd.DataFrame:
    """Return what the sites sent in both rounds, and what they were sent."""
    n, n_features = int(coefficients.counts.sum()), len(coefficients.features)
    arrays = (coefficients.intercepts, coefficients.slopes, coefficients.grand_mean, coefficients.mean_covariates)
    n_back, rows = coefficients.counts.size + sum(array.size for array in arrays), []
    for summary in summaries:
        others = min(one.n for one in summaries if one is not summary)
        up = {"direction": "to the server", "site": summary.site, "n": summary.n}
        up |= {"smallest_group": summary.smallest_group, "note": _note_few("a group", summary.smallest_group)}
        down = {"direction": "to the site", "site": summary.site, "n": n, "smallest_group": others}
        down |= {"note": _note_few("another site", others)}
        back = "coefficients, counts and intercepts of all sites"
        rows.append({"round": 1, "what": "count, means and sums of products", "n_numbers": summary.n_numbers, **up})
        rows.append({"round": 2, "what": "sums of squared residuals", "n_numbers": n_features, **up})
        rows.append({"round": 1, "what": back, "n_numbers": n_back, **down})
        rows.append({"round": 2, "what": "pooled variance", "n_numbers": n_features, **down})
    columns = ["round", "direction", "site", "what", "n_numbers", "n", "smallest_group", "note"]
    order = ["round", "direction"]  # by which "to the server" comes first
    return pd.DataFrame(rows)[columns].sort_values(order, kind="stable", ignore_index=True)


def _note_few(whom: str, n: int) -> str:
    return f"tells of {whom} of {n}, fewer than {SMALLEST_GROUP} subjects" if n < SMALLEST_GROUP else ""
