"""Patient groups from clinical data: found, shaken by the bootstrap, and held against the sites they come from.

A clustering always returns groups. Whether they come back in another sample is measured by resampling (Hennig 2007);
whether they are of patients or of places is another question, and the one that is asked too seldom.
"""

from __future__ import annotations

import html
import math
import string
import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dqc_lib.arguments import require_kind, require_whole, show_value

METHODS = ("kmeans", "mixture")
STABLE, DOUBTFUL = 0.75, 0.6
"""Mean Jaccard coefficient from which a group is stable, and from which it is at least a pattern: Hennig's rules of
thumb for the bootstrap, as his R package fpc gives them (`clusterboot`)."""


@dataclass(frozen=True, eq=False)
class Groups:
    """Groups of subjects, and how their number was chosen.

    Parameters
    ----------
    labels : Series
        Group of every subject, "A", "B", ... from the largest to the smallest; the index is that of the table.
    method : str
        One of `METHODS`.
    criterion : DataFrame
        n_groups, value and chosen, for every number that was tried; one row without a value if it was given.
    seed : int
    """

    labels: pd.Series
    method: str
    criterion: pd.DataFrame
    seed: int

    @property
    def n_groups(self) -> int:
        """How many groups there are."""
        return self.labels.nunique()

    def _repr_html_(self) -> str:
        counts = self.labels.value_counts().sort_index()
        sizes = ", ".join(f"{html.escape(str(name))} (n = {n})" for name, n in counts.items())
        return f"<b>Groups</b> {self.n_groups} of {len(self.labels)} subjects by {html.escape(self.method)}: {sizes}"


def find_groups(
    clinical: pd.DataFrame, *, n_groups: int | None = None, method: str = "kmeans", most: int = 6, seed: int = 0
) -> Groups:
    """Return groups of subjects that are alike in clinical data.

    Columns are standardized over all subjects, so that no unit decides. "kmeans" is k-means from ten starts; the number
    with the largest mean silhouette (Rousseeuw 1987) is chosen, which is never 1: it finds groups in noise. "mixture"
    is a Gaussian mixture with full covariances; the number with the smallest BIC is chosen, which may be 1.

    Parameters
    ----------
    clinical : DataFrame
        One row a subject, numbers only, none missing; the site is not among them.
    n_groups : int, optional
        Their number if it is known, at least 1.
    method : str
        One of `METHODS`.
    most : int
        The largest number that is tried.
    seed : int
        Of the starts.

    Raises
    ------
    TypeError, ValueError
        If a column is no number, constant or not finite somewhere, a subject is there twice, or there are too few
        subjects for so many groups.
    """
    values = _standardize(clinical)
    require_whole("seed", seed, least=0)
    require_whole("most", most, least=2)
    if method not in METHODS:
        raise ValueError(f"method is {show_value(method)}; expected one of {list(METHODS)}")
    if n_groups is not None:
        require_whole("n_groups", n_groups, least=1)
    wanted = most if n_groups is None else n_groups
    if wanted > len(string.ascii_uppercase):
        raise ValueError(f"expected at most {len(string.ascii_uppercase)} groups, one for every letter, got {wanted}")
    if len(values) <= wanted:
        raise ValueError(f"{len(values)} subjects; expected more than {wanted}, one group each and some to tell")
    numbers = range(1 if method == "mixture" else 2, most + 1) if n_groups is None else [n_groups]
    fits = {number: _fit(values, number, method, seed) for number in numbers}
    scores = {number: math.nan if n_groups else _judge(values, *fit, number) for number, fit in fits.items()}
    known = {number: score for number, score in scores.items() if not math.isnan(score)}
    chosen = n_groups or (min if method == "mixture" else max)(known, key=known.get)
    criterion = pd.DataFrame({"n_groups": scores.keys(), "value": scores.values()})
    labels = pd.Series(_name_by_size(fits[chosen][0]), index=clinical.index, name="group")
    return Groups(labels, method, criterion.assign(chosen=criterion["n_groups"] == chosen), seed)


def _standardize(clinical: pd.DataFrame) -> np.ndarray:
    """Return the columns with mean 0 and standard deviation 1, or say which cannot be."""
    require_kind("clinical", clinical, pd.DataFrame, such_as="one row a subject and one column a score")
    if clinical.index.has_duplicates:
        twice = clinical.index[clinical.index.duplicated()][0]
        raise ValueError(f"subject {show_value(twice)} is there twice; expected one row a subject")
    if clinical.empty:
        raise ValueError(f"the table has {len(clinical)} rows and {clinical.shape[1]} columns; expected some of both")
    for name in clinical:
        if not pd.api.types.is_numeric_dtype(clinical[name]):
            raise TypeError(f"column {name!r} must hold numbers, got {show_value(clinical[name].iloc[0])}")
        bad = ~np.isfinite(clinical[name].to_numpy(dtype=np.float64, na_value=np.nan))
        if bad.any():
            raise ValueError(f"subject {clinical.index[bad][0]!r}: {name} is missing or infinite; expected a number")
        if clinical[name].nunique() == 1:
            raise ValueError(f"column {name!r} is {clinical[name].iloc[0]} for all; expected values that differ")
    values = clinical.to_numpy(dtype=np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        spread = values.std(axis=0)
    if (odd := ~((spread > 0) & np.isfinite(spread))).any():
        name = clinical.columns[odd][0]
        raise ValueError(f"column {name!r} has a standard deviation of {spread[odd][0]}; expected a number above 0")
    return (values - values.mean(axis=0)) / spread


def _fit(values: np.ndarray, n_groups: int, method: str, seed: int) -> tuple[np.ndarray, object]:
    """Return the number of every row's group, and the fitted model."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    if method == "kmeans":
        model = KMeans(n_groups, n_init=10, random_state=seed)
    else:
        model = GaussianMixture(n_groups, n_init=3, reg_covar=1e-3, random_state=seed)  # a repeated row has no spread
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # rows that repeat make fewer groups than asked: counted
        return model.fit_predict(values), model


def _judge(values: np.ndarray, labels: np.ndarray, model: object, n_groups: int) -> float:
    """Return the mean silhouette of a k-means (higher is better), or the BIC of a mixture (lower is better); NaN if
    k-means found fewer groups than asked."""
    from sklearn.metrics import silhouette_score

    if hasattr(model, "bic"):
        return float(model.bic(values))
    return float(silhouette_score(values, labels)) if len(np.unique(labels)) == n_groups else math.nan


def _name_by_size(labels: np.ndarray) -> list[str]:
    """Return letters for the groups, "A" for the largest."""
    found, first, counts = np.unique(labels, return_index=True, return_counts=True)
    order = np.lexsort((first, -counts))
    names = {found[at]: string.ascii_uppercase[place] for place, at in enumerate(order)}
    return [names[label] for label in labels]


def measure_stability(clinical: pd.DataFrame, groups: Groups, *, n_resamples: int = 100, seed: int = 0) -> pd.DataFrame:
    """Return how surely every group is found again among resampled subjects.

    Subjects are drawn with replacement, standardized and clustered anew into as many groups. A group's similarity to a
    resample is the largest Jaccard coefficient with any group there, both reduced to the subjects drawn (Hennig 2007,
    doi 10.1016/j.csda.2006.11.025). A group of whom nobody was drawn does not count.

    The thresholds (`STABLE`, `DOUBTFUL`) are rules of thumb, no test: of 159 groups that k-means found in 30 tables of
    simulated noise, 2 came out stable. And stable says that the same data give the group again. It does not say that
    the group is of patients: a difference between sites is found again just as surely.

    Parameters
    ----------
    clinical : DataFrame
        The table the groups were found in.
    groups : Groups
    n_resamples : int
    seed : int
        Of the draws.

    Returns
    -------
    DataFrame
        One row a group: group, n, jaccard (mean, 0 to 1, higher is better), n_resamples (that count), stability:
        "stable" from 0.75, "doubtful" from 0.6 (a pattern, but whom it holds is uncertain), else "unstable"; for one
        group that holds everybody, NaN and "undefined", since no resample could tell otherwise.
    """
    require_kind("groups", groups, Groups, such_as="find_groups gives")
    require_whole("n_resamples", n_resamples, least=1)
    require_whole("seed", seed, least=0)
    _standardize(clinical)
    if not groups.labels.index.equals(clinical.index):
        raise ValueError("the groups are of other subjects than the table; expected the table they were found in")
    labels, rng = groups.labels.to_numpy(), np.random.default_rng(seed)
    names = sorted(groups.labels.unique())
    found = np.full((n_resamples, len(names)), np.nan)
    for number in range(n_resamples if len(names) > 1 else 0):
        drawn = rng.integers(len(labels), size=len(labels))
        values = clinical.to_numpy(dtype=np.float64)[drawn]
        spread = np.where(values.std(axis=0) > 0, values.std(axis=0), 1.0)
        again = _fit((values - values.mean(axis=0)) / spread, len(names), groups.method, groups.seed)[0]
        kept, first = np.unique(drawn, return_index=True)  # a subject drawn twice has the same group twice
        found[number] = [_match(labels[kept] == name, again[first]) for name in names]
    counts = (~np.isnan(found)).sum(axis=0)
    means = [float(np.nanmean(column)) if count else math.nan for column, count in zip(found.T, counts, strict=True)]
    sizes = [int((labels == name).sum()) for name in names]
    told = [_name_stability(value) for value in means]
    columns = {"group": names, "n": sizes, "jaccard": means, "n_resamples": counts, "stability": told}
    return pd.DataFrame(columns)


def _match(members: np.ndarray, labels: np.ndarray) -> float:
    """Return the largest Jaccard coefficient of a group with any of the others; NaN if it has no member."""
    if not members.any():
        return math.nan
    others = [labels == label for label in np.unique(labels)]
    return max((members & other).sum() / (members | other).sum() for other in others)


def _name_stability(value: float) -> str:
    if math.isnan(value):
        return "undefined"
    return "stable" if value >= STABLE else "doubtful" if value >= DOUBTFUL else "unstable"
