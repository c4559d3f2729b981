"""Groups held against sites: whether patient groups are places in disguise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dqc_lib.arguments import require_kind, require_number, require_whole
from dqc_lib.evaluation.groups import require_columns

NOTABLE = 0.3
"""Cramer's V from which a group counts as tied to sites: Cohen's medium effect (w, for two groups)."""


@dataclass(frozen=True, eq=False)
class SiteAssociation:
    """How far groups follow sites.

    Parameters
    ----------
    counts : DataFrame
        Subjects by site (index) and group (columns).
    n : int
    chi2 : float
        Pearson's statistic, without continuity correction; NaN with one site or one group.
    p_value : float
        Share of permutations that reach it, with one added above and below (Phipson and Smyth 2010); never 0.
    n_permutations : int
    cramers_v : float
        Corrected for bias (Bergsma 2013, doi 10.1016/j.jkss.2012.10.002), 0 to 1, higher is more alike; NaN as chi2.
    """

    counts: pd.DataFrame
    n: int
    chi2: float
    p_value: float
    n_permutations: int
    cramers_v: float

    def _repr_html_(self) -> str:
        sizes = f"{self.counts.shape[1]} groups, {self.counts.shape[0]} sites, n = {self.n}"
        return f"<b>SiteAssociation</b> {sizes}: Cramer's V {self.cramers_v:.2f}, p = {self.p_value:.3g}"


def associate_with_site(
    labels: pd.Series, sites: pd.Series, *, n_permutations: int = 999, seed: int = 0
) -> SiteAssociation:
    """Return how far groups of subjects follow the sites the subjects come from.

    The sites are dealt anew among the subjects, so small sites need no large-sample theory. One row is one subject:
    several records of a subject would make any association look certain.

    Parameters
    ----------
    labels, sites : Series
        Group and site of every subject, with the subjects as index.
    n_permutations : int
    seed : int

    Raises
    ------
    ValueError
        If subjects are there twice or differ between the two, or a group or site is missing.
    """
    require_whole("n_permutations", n_permutations, least=1)
    require_whole("seed", seed, least=0)
    sites = _align(labels, sites)
    (group, groups), (site, places) = pd.factorize(labels), pd.factorize(sites)
    counts = _cross(group, site, len(groups), len(places))
    table = pd.DataFrame(counts.T, index=pd.Index(places, name="site"), columns=pd.Index(groups, name="group"))
    for axis in ("index", "columns"):
        table = table.sort_index(axis=axis, key=lambda names: names.map(str))
    if min(counts.shape) < 2:
        return SiteAssociation(table, len(labels), math.nan, math.nan, n_permutations, math.nan)
    rng, chi2 = np.random.default_rng(seed), _find_chi2(counts)
    dealt = (_cross(group, rng.permutation(site), *counts.shape) for _ in range(n_permutations))
    reached = sum(_find_chi2(one) >= chi2 * (1 - 1e-9) for one in dealt)  # sums of the same numbers round differently
    p_value = (reached + 1) / (n_permutations + 1)
    return SiteAssociation(table, len(labels), chi2, p_value, n_permutations, _find_v(chi2, *counts.shape, len(labels)))


def judge_groups(
    stability: pd.DataFrame,
    labels: pd.Series,
    sites: pd.Series,
    *,
    level: float = 0.05,
    n_permutations: int = 999,
    seed: int = 0,
) -> pd.DataFrame:
    """Return a verdict on every group: whether it is found again, and whether it can be told from sites.

    Every group is held against all others together; p values are corrected for their number (Holm 1979). A group that
    follows sites may still be one of patients, who are not the same everywhere: the verdict is that these data cannot
    tell, not that it is false.

    Parameters
    ----------
    stability : DataFrame
        Of `measure_stability`.
    labels, sites : Series
        As in `associate_with_site`.
    level : float
        Corrected p value up to which an association counts, if its Cramer's V is at least `NOTABLE`.
    n_permutations, seed : int
        With g groups no corrected p value lies below g / (n_permutations + 1).

    Returns
    -------
    DataFrame
        The rows of `stability` with largest_site, share (of the group's subjects from there), expected (share of all
        subjects from there), cramers_v, p_value (corrected) and verdict: "not found again" (unstable), "cannot be told
        from sites", "found again, not tied to sites", "a doubtful pattern, not tied to sites", "too few subjects to
        tell" where Cramer's V reaches `NOTABLE` and p does not reach `level`, or "undefined" where something was.

    Raises
    ------
    ValueError
        If no p value could reach `level` after so few permutations, or the tables do not match.
    """
    require_kind("stability", stability, pd.DataFrame, such_as="measure_stability gives")
    require_number("level", level)
    require_whole("n_permutations", n_permutations, least=1)
    require_columns(stability, ("group", "n", "jaccard", "stability"))
    if (least := len(stability) / (n_permutations + 1)) > level:
        came = f"{n_permutations} permutations give {len(stability)} groups a p value of at least {least:.3g}"
        raise ValueError(f"{came}, and level is {level!r}; expected more permutations")
    sites = _align(labels, sites)
    if set(stability["group"]) != set(labels):
        came = f"{sorted(set(stability['group']))} and {sorted(set(labels))}"
        raise ValueError(f"stability and labels must have the same groups, got {came}")
    frequent, rows, spread = sites.value_counts(normalize=True), [], {"n_permutations": n_permutations, "seed": seed}
    for name in stability["group"]:
        inside = labels == name
        own = sites[inside].value_counts(normalize=True)
        found = associate_with_site(inside.map({True: "in", False: "out"}), sites, **spread)
        row = {"largest_site": own.index[0], "share": own.iloc[0], "expected": frequent[own.index[0]]}
        rows.append(row | {"cramers_v": found.cramers_v, "p_value": found.p_value})
    table = pd.concat([stability.reset_index(drop=True), pd.DataFrame(rows)], axis="columns")
    table["p_value"] = _correct(table["p_value"].to_numpy())
    return table.assign(verdict=[_decide(row, level) for row in table.itertuples()])


def _align(labels: pd.Series, sites: pd.Series) -> pd.Series:
    """Return the sites in the order of the labels, or say where the two do not match."""
    for name, series in (("labels", labels), ("sites", sites)):
        require_kind(name, series, pd.Series, such_as="one value a subject, with the subjects as index")
        if series.empty:
            raise ValueError(f"{name} has no subject; expected at least one")
        if series.index.has_duplicates:
            raise ValueError(f"{name}: subject {series.index[series.index.duplicated()][0]!r} is there twice")
        if series.isna().any():
            raise ValueError(f"{name}: subject {series.index[series.isna()][0]!r} has none; expected one for everybody")
    if len(odd := labels.index.symmetric_difference(sites.index)):
        raise ValueError(f"subject {odd[0]!r} is in one of labels and sites only; expected the same subjects in both")
    return sites.loc[labels.index]


def _cross(group: np.ndarray, site: np.ndarray, n_groups: int, n_sites: int) -> np.ndarray:
    """Return how many subjects of every group (rows) come from every site (columns)."""
    return np.bincount(group * n_sites + site, minlength=n_groups * n_sites).reshape(n_groups, n_sites)


def _find_chi2(counts: np.ndarray) -> float:
    expected = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / counts.sum()
    return float(((counts - expected) ** 2 / expected).sum())


def _find_v(chi2: float, n_groups: int, n_sites: int, n: int) -> float:
    """Return Cramer's V corrected for bias; NaN where the correction leaves no freedom."""
    if n < 2:
        return math.nan
    phi2 = max(0.0, chi2 / n - (n_groups - 1) * (n_sites - 1) / (n - 1))
    smaller = min(size - (size - 1) ** 2 / (n - 1) for size in (n_groups, n_sites)) - 1
    return math.sqrt(phi2 / smaller) if smaller > 0 else math.nan


def _correct(p_values: np.ndarray) -> np.ndarray:
    """Return Holm's p values; those that are NaN stay so and do not count."""
    corrected, known = np.full(len(p_values), np.nan), np.flatnonzero(~np.isnan(p_values))
    order = known[np.argsort(p_values[known])]
    stepped = p_values[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(stepped)) if len(order) else []
    return corrected


def _decide(row: tuple, level: float) -> str:
    if math.isnan(row.jaccard) or math.isnan(row.p_value) or math.isnan(row.cramers_v):
        return "undefined"
    if row.stability == "unstable":
        return "not found again"
    if row.cramers_v >= NOTABLE:
        return "cannot be told from sites" if row.p_value <= level else "too few subjects to tell"
    found = "found again" if row.stability == "stable" else "a doubtful pattern"
    return f"{found}, not tied to sites"
