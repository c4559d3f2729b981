"""A model judged on harmonized features: on whom the harmonization was fitted, and whether it was told the labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from dqc_lib.arguments import require_kind, require_whole
from dqc_lib.harmonization.combat import fit_combat
from dqc_lib.harmonization.crossvalidation import deal_folds, make_classifier, predict_with
from dqc_lib.harmonization.measurements import check_measurements, match_rows
from dqc_lib.harmonization.records import check_split

FITTED_ON = ("nobody", "everybody", "training")
LABEL = "label"


def predict_harmonized(
    values: pd.DataFrame,
    labels: Sequence[int],
    sites: Sequence[str],
    covariates: pd.DataFrame | None = None,
    *,
    fitted_on: str = "training",
    keep_labels: bool = False,
    folds: int = 5,
    seed: int,
) -> pd.DataFrame:
    """Return the prediction for every subject by the model of the fold that it was held out from, after ComBat.

    Parameters
    ----------
    values : DataFrame, shape (n, features)
        One row a subject.
    labels : sequence of int, of length n
        Two classes.
    sites : sequence of str, of length n
    covariates : DataFrame, optional
        What ComBat keeps, see `fit_combat`.
    fitted_on : "training", "everybody" or "nobody"
        "training": ComBat is fitted in every fold, on the subjects that the model learns from, and applied to all: the
        way to do it. "everybody": fitted once, on all subjects, those that the model is tested on included; as is
        often done. "nobody": values stay as they came.
    keep_labels : bool
        Whether ComBat is told the labels, as a covariate to keep. Of test subjects it is told them only with
        "everybody", which is how an answer gets into the question.
    folds, seed : int
        As in `cross_validate`; the same folds whatever is done to the values.

    Returns
    -------
    DataFrame
        fold, record, subject, label, predicted, score.

    Raises
    ------
    KeyError, TypeError, ValueError
        If `fitted_on` is none of these, a fold's training subjects are not of all sites, or as in `fit_combat`.
    """
    if fitted_on not in FITTED_ON:
        raise ValueError(f"fitted_on must be one of {FITTED_ON}, got {fitted_on!r}")
    require_kind("values", values, pd.DataFrame, such_as="one row a subject, one column a feature")
    require_kind("keep_labels", keep_labels, bool, such_as="True")
    require_whole("seed", seed, least=0)
    check_measurements(values, sites)
    truth, where, whose = np.asarray(labels), np.asarray(sites), np.asarray(values.index)
    match_rows("labels", labels, values.index, named=True)
    check_split(truth, whose, split="subject", folds=folds, seed=seed)
    kept = _add_labels(covariates, truth, values.index) if keep_labels else covariates
    features = values.to_numpy(dtype=float)
    if fitted_on == "everybody":
        features = fit_combat(values, where, kept, **_name_groups(keep_labels)).apply(values, where, kept).to_numpy()
    parts = []
    for fold, (train, test) in enumerate(deal_folds(truth, whose, split="subject", folds=folds, seed=seed)):
        if fitted_on == "training":
            features = _harmonize(values, where, kept, train=train, keep_labels=keep_labels)
        predicted, score = predict_with(make_classifier(), features, truth, whose, train=train, test=test)
        columns = {"fold": fold, "record": test, "subject": whose[test], "label": truth[test]}
        parts.append(pd.DataFrame(columns | {"predicted": predicted, "score": score}))
    return pd.concat(parts, ignore_index=True)


def _harmonize(
    values: pd.DataFrame, where: np.ndarray, kept: pd.DataFrame | None, *, train: np.ndarray, keep_labels: bool
) -> np.ndarray:
    """Return all values without the effects of sites that the training subjects show, their labels alone known."""
    learnt = None if kept is None else kept.iloc[train]
    combat = fit_combat(values.iloc[train], where[train], learnt, **_name_groups(keep_labels))
    unknown = (LABEL,) if keep_labels else ()
    return combat.apply(values, where, kept, unknown=unknown).to_numpy()


def _name_groups(keep_labels: bool) -> dict[str, tuple[str, ...]]:
    return {"categorical": (LABEL,) if keep_labels else ()}


def _add_labels(covariates: pd.DataFrame | None, truth: np.ndarray, subjects: pd.Index) -> pd.DataFrame:
    table = pd.DataFrame(index=subjects) if covariates is None else covariates.copy()
    if LABEL in table:
        raise ValueError(f"covariates must not have a column {LABEL!r} of their own, which labels are kept as")
    return table.assign(**{LABEL: truth})
