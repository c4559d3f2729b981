"""How well features tell the site they come from, and how well a model does at a site that it has never seen."""

from __future__ import annotations

import html
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from dqc_lib.arguments import require_whole
from dqc_lib.evaluation.metrics import check_confidence, divide
from dqc_lib.harmonization.crossvalidation import (
    Prepare,
    deal_folds,
    make_classifier,
    measure_labels,
    predict_with,
)
from dqc_lib.harmonization.intervals import estimate_intervals
from dqc_lib.harmonization.records import check_records, require_one_label

if TYPE_CHECKING:
    from sklearn.base import BaseEstimator


@dataclass(frozen=True, eq=False)
class SiteDecoding:
    """How well sites are told apart, from `decode_sites`; lower is better for harmonized features.

    Not where harmonization was fitted on the records that are told apart here, on all or on the training records of a
    fold: chance, or less, is an artefact then, see `decode_sites`.

    Parameters
    ----------
    accuracy, accuracy_low, accuracy_high : float
        Share of records whose site was found, and its interval over subjects.
    balanced_accuracy, balanced_low, balanced_high : float
        Mean over sites, each weighing the same.
    majority : float
        The accuracy of always naming the largest site: what chance gives an accuracy.
    uniform : float
        1 / number of sites: what chance gives a balanced accuracy.
    n, n_subjects : int
        Records and subjects.
    note : str
        What is wrong with the interval of the balanced accuracy, or "".
    sites : DataFrame
        One row per site: site, n, n_subjects, found (share of its records whose site was found), taken_for (the site
        that the others were called most often, "" if none).
    predictions : DataFrame
        Per record, as of `predict_held_out`.
    """

    accuracy: float
    accuracy_low: float
    accuracy_high: float
    balanced_accuracy: float
    balanced_low: float
    balanced_high: float
    majority: float
    uniform: float
    n: int
    n_subjects: int
    note: str
    sites: pd.DataFrame
    predictions: pd.DataFrame

    def _repr_html_(self) -> str:
        named = ", ".join(f"{html.escape(str(row.site))} {row.found:.2f}" for row in self.sites.itertuples())
        note = f"; {html.escape(self.note)}" if self.note else ""
        return (
            f"<b>SiteDecoding</b>: accuracy {self.accuracy:.2f} ({self.accuracy_low:.2f} to {self.accuracy_high:.2f};"
            f" chance {self.majority:.2f}), balanced {self.balanced_accuracy:.2f} ({self.balanced_low:.2f} to"
            f" {self.balanced_high:.2f}; chance {self.uniform:.2f}{note}), {self.n} records of {self.n_subjects}"
            f" subjects; found: {named}"
        )


def decode_sites(
    features: pd.DataFrame | np.ndarray,
    sites: Sequence[str],
    *,
    groups: Sequence[str] | None = None,
    folds: int = 5,
    seed: int,
    model: BaseEstimator | None = None,
    n_resamples: int = 2000,
    confidence: float = 0.95,
    prepare: Prepare | None = None,
) -> SiteDecoding:
    """Return how well a model names the site of records that it has not seen.

    Whether harmonization took the sites out is told by records that it was not fitted on: fit it on one half of every
    site, apply it to the other half, and decode inside that. Fitted on all records it leads to less than chance, for
    the sites are centred with the test records; fitted on the training records of a fold, by `prepare`, to about
    chance, for the sites that the model learns from are centred, and it learns little but which of them are large.
    Neither says that nothing of the site is left.

    Parameters
    ----------
    features : DataFrame or array, shape (n, features)
        Finite.
    sites : sequence of str, of length n
    groups : sequence of str, of length n, optional
        Subjects, none of whom is on both sides of a fold; without, every record is a subject of its own.
    folds : int
    seed : int
    model : scikit-learn classifier, optional
        If not given, logistic regression on standardized features: it sees that sites lie apart, and not that one
        scatters more than the other, for which another model is needed.
    n_resamples, confidence
        Of the intervals.
    prepare : callable, optional
        What makes the features of a fold, as in `cross_validate`. A harmonization in it makes this test pass whatever
        it leaves of the sites, as said above.

    Raises
    ------
    TypeError, ValueError
        If there are fewer than two sites, a site has one subject, no site has as many subjects as folds, or a value is
        missing.
    """
    if groups is None:
        groups = np.arange(len(features)) if hasattr(features, "__len__") else []
    values, truth, whose = check_records(features, sites, groups, names=("features", "sites", "groups"))
    require_whole("folds", folds, least=2)
    require_whole("seed", seed, least=0)
    counts = pd.Series(whose).groupby(truth).nunique()
    if len(counts) < 2:
        raise ValueError(f"expected records of two or more sites, got {counts.index.tolist()}")
    if counts.min() < 2 or counts.max() < folds:
        raise ValueError(
            f"every site needs two subjects and one of them {folds}, as many as folds; {counts.idxmin()!r} has"
            f" {counts.min()} and {counts.idxmax()!r} {counts.max()}"
        )
    way = {"model": model or make_classifier(), "prepare": prepare}
    predictions = _predict_sites(values, truth, whose, folds=folds, seed=seed, **way)
    settings = {"units": ("subject",), "confidence": confidence, "n_resamples": n_resamples, "seed": seed}
    metrics = ("accuracy", "balanced_accuracy")
    bounds = [estimate_intervals(predictions, metric=metric, **settings).iloc[0] for metric in metrics]
    found = [float(bound[name]) for bound in bounds for name in ("value", "low", "high")]
    majority = float(pd.Series(truth).value_counts(normalize=True).max())
    table = _describe_sites(predictions)
    sizes = (len(truth), len(np.unique(whose)))
    return SiteDecoding(*found, majority, 1 / len(counts), *sizes, bounds[1]["note"], table, predictions)


def _predict_sites(
    values: np.ndarray, truth: np.ndarray, whose: np.ndarray, *, folds: int, seed: int, **way: object
) -> pd.DataFrame:
    """Return the site that each record was taken for when it was held out."""
    tables = []
    with warnings.catch_warnings():
        # a small site is in the test of some folds only, and its n stands beside it
        warnings.filterwarnings("ignore", "The least populated class in y has only", UserWarning)
        dealt = list(deal_folds(truth, whose, split="subject", folds=folds, seed=seed))
    for fold, (train, test) in enumerate(dealt):
        predicted, score = predict_with(values=values, truth=truth, whose=whose, train=train, test=test, **way)
        columns = {"fold": fold, "record": test, "subject": whose[test], "label": truth[test]}
        tables.append(pd.DataFrame(columns | {"predicted": predicted, "score": score}))
    return pd.concat(tables, ignore_index=True)


def _describe_sites(predictions: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for site, part in predictions.groupby("label", sort=True):
        missed = part.loc[part["predicted"] != site, "predicted"]
        row = {"site": site, "n": len(part), "n_subjects": part["subject"].nunique()}
        row |= {"found": divide(len(part) - len(missed), len(part))}
        rows.append(row | {"taken_for": missed.mode().iloc[0] if len(missed) else ""})
    return pd.DataFrame(rows)


def evaluate_leave_site_out(
    features: pd.DataFrame | np.ndarray,
    labels: Sequence,
    sites: Sequence[str],
    *,
    subjects: Sequence[str] | None = None,
    model: BaseEstimator | None = None,
    n_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int,
    prepare: Prepare | None = None,
) -> pd.DataFrame:
    """Return how well a model that was trained at all other sites does at each site.

    What sites and labels have in common does not help here, for the site is new, and so are its subjects: what they
    left at other sites is not trained on. Harmonization needs subjects of every site: features that were harmonized
    together with the site that is left out have seen it.

    Parameters
    ----------
    features : DataFrame or array, shape (n, features)
    labels : sequence of length n
        Two classes; the second in order is the positive one (1 of 0 and 1).
    sites : sequence of str, of length n
    subjects : sequence of str, of length n, optional
        Whose record it is, with one label each; without, every record is a subject of its own. Intervals are over
        subjects, of either class apart.
    model : scikit-learn classifier, optional
        As in `cross_validate`.
    n_resamples, confidence, seed
        Of the intervals.
    prepare : callable, optional
        As in `cross_validate`. No training record is of the site of the test records: what needs subjects of every site
        refuses.

    Returns
    -------
    DataFrame
        One row per site: site, n, n_subjects, n_positive, n_negative, n_train (records), n_subjects_travelled (those of
        the site who were at others, too, and are not trained on), accuracy, auroc (higher is better), low, high (of the
        AUROC), note. NaN with one class at the site or in training, and an interval also with fewer than five subjects
        of a class; the note says so.
    """
    if subjects is None:
        subjects = np.arange(len(features)) if hasattr(features, "__len__") else []
    values, truth, whose = check_records(features, labels, subjects, names=("features", "labels", "subjects"))
    require_one_label(truth, whose)
    _, where, _ = check_records(features, sites, subjects, names=("features", "sites", "subjects"))
    require_whole("seed", seed, least=0)
    check_confidence(confidence)
    classes, names = np.unique(truth), np.unique(where)
    if len(classes) != 2 or len(names) < 2:
        raise ValueError(f"expected two classes and two or more sites, got {classes.tolist()} at {names.tolist()}")
    rows = []
    for site in names:
        test, others = np.flatnonzero(where == site), np.flatnonzero(where != site)
        known = np.isin(whose[others], whose[test])
        train = others[~known]
        positive = truth[test] == classes[1]
        row = {"site": site, "n": len(test), "n_subjects": len(np.unique(whose[test]))}
        row |= {"n_positive": int(positive.sum()), "n_negative": int((~positive).sum()), "n_train": len(train)}
        row |= {"n_subjects_travelled": len(np.unique(whose[others[known]]))}
        nothing = {name: float("nan") for name in ("accuracy", "auroc", "low", "high")}
        if len(np.unique(truth[train])) < 2:
            note = "one class at all other sites" if len(train) else "everybody at other sites was at this one, too"
            rows.append(row | nothing | {"note": note})
            continue
        rows_of = {"train": train, "test": test, "prepare": prepare}
        predicted, score = predict_with(model or make_classifier(), values, truth, whose, **rows_of)
        columns = {"record": test, "subject": whose[test], "label": truth[test], "predicted": predicted, "score": score}
        made = pd.DataFrame(columns)
        bounds = estimate_intervals(
            made, metric="auroc", units=("subject",), confidence=confidence, n_resamples=n_resamples, seed=seed
        ).iloc[0]
        row |= nothing | {"accuracy": measure_labels(made)["accuracy"]}
        row |= {"auroc": float(bounds["value"]), "low": float(bounds["low"]), "high": float(bounds["high"])}
        mixed = positive.any() and not positive.all()
        rows.append(row | {"note": bounds["note"] if mixed else "one class at the site"})
    return pd.DataFrame(rows)
