"""Counts of sequencing reads made comparable between sites: ComBat-seq, and the plain z-score to compare it with.

ComBat-seq (Zhang, Parmigiani and Johnson 2020, doi 10.1093/nargab/lqaa078) takes a gene's counts as negative binomial,
with a mean and a dispersion for every site, and gives each count the value that has the same quantile without the
site. Counts stay whole numbers, as methods for differential expression need them. It is written after the paper; the
authors' program takes dispersions from edgeR, gene by gene, and here they are estimated otherwise and lean on those of
the other genes (`estimate_dispersions`). It pools: unlike `fit_combat` it needs the counts of all sites in one place.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dqc_lib.harmonization.covariates import (
    Coding,
    agree_coding,
    encode_known,
    encode_rows,
    require_separable,
)
from dqc_lib.harmonization.measurements import Measurements, check_measurements, match_rows, restore
from dqc_lib.harmonization.negative_binomial import estimate_dispersions, fit_means, map_counts

START = 0.1  # dispersion of the first fit
ROUNDS = 2  # dispersions are found from means, and means from dispersions, so often


@dataclass(frozen=True, eq=False)
class CombatSeq:
    """A fitted ComBat-seq, from `fit_combat_seq`.

    Parameters
    ----------
    sites : tuple of str
    counts : ndarray of int, shape (sites,)
        Samples of each.
    genes : tuple of str
    coding : Coding
    intercepts : ndarray, shape (genes,)
        Mean of the sites' intercepts, weighted by their samples; logarithm of the share of the library.
    shifts : ndarray, shape (sites, genes)
        What a site adds to it.
    slopes : ndarray, shape (columns, genes)
        Of the covariates.
    dispersions : ndarray, shape (sites, genes)
    mean_covariates : ndarray, shape (columns,)
    unchanged : ndarray of bool, shape (genes,)
        Genes that were never counted at some site, of which nothing can be estimated there: they stay as they are.
    """

    sites: tuple[str, ...]
    counts: np.ndarray
    genes: tuple[str, ...]
    coding: Coding
    intercepts: np.ndarray
    shifts: np.ndarray
    slopes: np.ndarray
    dispersions: np.ndarray
    mean_covariates: np.ndarray
    unchanged: np.ndarray

    @property
    def effects(self) -> pd.DataFrame:
        """One row per site and gene: site, gene, n, fold_change (1 = none), dispersion, dispersion_without (the mean
        over sites); NaN for genes that stay as they are."""
        n_sites, n_genes = self.shifts.shape
        columns = {"site": np.repeat(self.sites, n_genes), "gene": np.tile(self.genes, n_sites)}
        columns |= {"n": np.repeat(self.counts, n_genes), "fold_change": np.exp(self.shifts).ravel()}
        columns |= {"dispersion": self.dispersions.ravel()}
        return pd.DataFrame(columns | {"dispersion_without": np.tile(self.dispersions.mean(axis=0), n_sites)})

    def apply(
        self,
        counts: pd.DataFrame | np.ndarray,
        sites: Sequence[str],
        covariates: pd.DataFrame | None = None,
        *,
        library_sizes: Sequence[float] | None = None,
        unknown: Sequence[str] = (),
    ) -> pd.DataFrame | np.ndarray:
        """Return counts without the effects of their sites: whole numbers, zeros where zeros were.

        Parameters
        ----------
        counts, sites, covariates, library_sizes
            As in `fit_combat_seq`; of the same samples, or of others of the same sites.
        unknown : sequence of str
            Covariates that are not known of these samples, as in `Combat.apply`.

        Raises
        ------
        KeyError, TypeError, ValueError
            If a site was not in the fit, genes are others, or a covariate is not there.
        """
        measured = check_counts(counts, sites)
        if measured.features != self.genes:
            raise ValueError(f"genes must be the {len(self.genes)} of the fit, in their order")
        if strange := [site for site in dict.fromkeys(measured.sites) if site not in self.sites]:
            raise ValueError(f"sites must be among {list(self.sites)}, those of the fit; got {strange[0]!r}")
        offset = check_libraries(library_sizes, measured)
        columns = encode_known(self.coding, covariates, measured, unknown=unknown, means=self.mean_covariates)
        kept = ~self.unchanged
        even = np.exp(offset[:, np.newaxis] + self.intercepts[kept] + columns @ self.slopes[:, kept])
        at = [self.sites.index(site) for site in measured.sites]
        found = measured.values.astype(np.int64)
        found[:, kept] = map_counts(
            found[:, kept],
            even * np.exp(self.shifts[:, kept])[at],
            even,
            dispersion=self.dispersions[:, kept][at],
            dispersion_without=self.dispersions[:, kept].mean(axis=0),
        )
        return restore(found, like=counts)

    def _repr_html_(self) -> str:
        named = ", ".join(map(html.escape, self.coding.names)) or "nothing"
        return (
            f"<b>CombatSeq</b>: {len(self.genes)} genes, {int(self.unchanged.sum())} of them left as they are,"
            f" {self.counts.sum()} samples of {len(self.sites)} sites, smallest {self.counts.min()}; keeps {named}"
        )


def fit_combat_seq(
    counts: pd.DataFrame | np.ndarray,
    sites: Sequence[str],
    covariates: pd.DataFrame | None = None,
    *,
    categorical: Sequence[str] = (),
    library_sizes: Sequence[float] | None = None,
) -> CombatSeq:
    """Return ComBat-seq fitted to the counts of several sites.

    Fit it on training samples only, as `fit_combat`.

    Parameters
    ----------
    counts : DataFrame or array, shape (n, genes)
        Whole numbers of at least 0, as counted: no logarithms, nothing per million.
    sites : sequence of str, of length n
        At least two samples more than covariates have columns at each.
    covariates, categorical
        As in `fit_combat`.
    library_sizes : sequence of float, of length n, optional
        Reads of each sample; if not given, the sum of its counts.

    Returns
    -------
    CombatSeq

    Raises
    ------
    KeyError, TypeError, ValueError
        The message names sample, gene, covariate or site.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> sites = ["A"] * 20 + ["B"] * 20
    >>> counts = rng.poisson(np.repeat([[50.0, 80.0, 70.0], [150.0, 80.0, 70.0]], 20, axis=0))
    >>> combat = fit_combat_seq(counts, sites, library_sizes=[1000.0] * 40)
    >>> even = combat.apply(counts, sites, library_sizes=[1000.0] * 40)
    >>> bool(abs(even[:20, 0].mean() / even[20:, 0].mean() - 1) < 0.05)
    True
    """
    measured = check_counts(counts, sites)
    offset = check_libraries(library_sizes, measured)
    coding = agree_coding(covariates, categorical=categorical)
    columns = encode_rows(coding, covariates, measured)
    names = tuple(sorted(set(measured.sites)))
    if len(names) < 2:
        raise ValueError(f"expected two or more sites to make comparable, got {list(names)}")
    member = np.stack([measured.sites == site for site in names], axis=1).astype(np.float64)
    sizes = member.sum(axis=0)
    means = (member.T @ columns) / sizes[:, np.newaxis]
    centered = columns - member @ means
    require_separable(centered.T @ centered, means, counts=sizes, sites=names, columns=coding.columns)
    absent = ((member.T @ measured.values) == 0).any(axis=0)
    if absent.all():
        raise ValueError(f"every one of {absent.size} genes is 0 throughout a site; expected one that all sites count")
    own = [_design_site(columns[measured.sites == site], site=site) for site in names]
    design = np.hstack([member, columns])
    found, spreads = _alternate(measured.values[:, ~absent], design, offset, member=member, own=own)
    center = (sizes / sizes.sum()) @ found[: len(names)]
    full = {"intercepts": center, "shifts": found[: len(names)] - center, "slopes": found[len(names) :]}
    full |= {"dispersions": spreads}
    filled = {name: np.full((*array.shape[:-1], absent.size), np.nan) for name, array in full.items()}
    for name, array in full.items():
        filled[name][..., ~absent] = array
    return CombatSeq(
        names,
        sizes.astype(int),
        measured.features,
        coding,
        mean_covariates=columns.mean(axis=0),
        unchanged=absent,
        **filled,
    )


def _design_site(columns: np.ndarray, *, site: str) -> np.ndarray:
    """Return the design of one site, (n, columns): a constant, and the covariates that vary there on their own."""
    design = np.ones((len(columns), 1))
    for column in columns.T:
        wider = np.column_stack([design, column - column.mean()])
        if np.linalg.matrix_rank(wider) == wider.shape[1]:
            design = wider
    if len(columns) <= design.shape[1]:
        raise ValueError(
            f"site {site!r} needs more samples than {design.shape[1]}, its coefficients, for a dispersion; it has"
            f" {len(columns)}"
        )
    return design


def _alternate(
    counts: np.ndarray, design: np.ndarray, offset: np.ndarray, *, member: np.ndarray, own: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Return coefficients, (sites + columns, genes), and dispersions, (sites, genes), each found from the other."""
    spreads = np.full((member.shape[1], counts.shape[1]), START)
    for _ in range(ROUNDS):
        _, means = fit_means(counts, design, offset=offset, dispersion=member @ spreads)
        inside = [of_site == 1 for of_site in member.T]
        parts = [estimate_dispersions(counts[at], means[at], part) for at, part in zip(inside, own, strict=True)]
        spreads = np.stack(parts)
    coefficients, _ = fit_means(counts, design, offset=offset, dispersion=member @ spreads)
    return coefficients, spreads


def check_counts(counts: pd.DataFrame | np.ndarray, sites: Sequence[str]) -> Measurements:
    """Return counts as float64 and the site of each sample; errors name the sample and the gene."""
    measured = check_measurements(counts, sites)
    bad = (measured.values < 0) | (measured.values != np.round(measured.values)) | (measured.values > 2**53)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise ValueError(
            f"counts must be whole numbers of at least 0; gene {measured.features[column]!r} of sample"
            f" {measured.subjects[row]!r} is {measured.values[row, column]:g}, {int(bad.sum())} such in all"
        )
    return measured


def check_libraries(library_sizes: Sequence[float] | None, measured: Measurements) -> np.ndarray:
    """Return the logarithm of the library sizes, shape (n,); an error names a sample without reads."""
    sizes = measured.values.sum(axis=1)
    if library_sizes is not None:
        given = match_rows("library_sizes", library_sizes, measured.subjects, named=measured.named)
        sizes = given.astype(np.float64)
    wrong = ~(np.isfinite(sizes) & (sizes > 0))
    if wrong.any():
        at = wrong.argmax()
        raise ValueError(f"the library of sample {measured.subjects[at]!r} must have reads, got {sizes[at]:g}")
    return np.log(sizes)
