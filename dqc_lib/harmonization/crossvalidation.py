"""Cross-validation that says what was split: subjects, or records of subjects that are then on both sides.

Records of one subject (windows of an EEG, scans of an eye) resemble each other whatever the subject's diagnosis. Split
by record, a model can know a test record by its subject; split by subject, it cannot. Every table tells how many
subjects the two sides shared, and every rate comes with its subjects and its records. After Saeb et al. 2017 (doi
10.1093/gigascience/gix019).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dqc_lib.arguments import require_whole, show_value
from dqc_lib.evaluation.metrics import divide, measure_auroc
from dqc_lib.harmonization.records import check_records, check_split, require_one_label

if TYPE_CHECKING:
    from sklearn.base import BaseEstimator
    from threadpoolctl import ThreadpoolController

METRICS = ("accuracy", "balanced_accuracy", "auroc")

Prepare = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""What makes features of a fold: given the rows of its training and of its test records, it returns the values of
both. What it learns, such as a harmonization, it learns from the training rows."""


def cross_validate(
    records: pd.DataFrame | np.ndarray,
    labels: Sequence,
    subjects: Sequence[str],
    *,
    split: str = "subject",
    model: BaseEstimator | None = None,
    folds: int = 5,
    seed: int,
    repeats: int = 1,
    prepare: Prepare | None = None,
) -> pd.DataFrame:
    """Return how well a model finds the labels of records that it was not trained on, one row per fold.

    Parameters
    ----------
    records : DataFrame or array, shape (n, features)
        Finite.
    labels : sequence of length n
        All records of a subject have the same.
    subjects : sequence of str, of length n
        Whose record it is.
    split : "subject" or "record"
        What is dealt to the folds, with the classes even among them.
    model : scikit-learn classifier, optional
        Copied and fitted anew in every fold. All that learns from data belongs into it: scaling and selection of
        features as a `Pipeline`, tuning as `tune_inside(pipeline, ...)` does it, around the whole. A search that splits
        by record is refused where subjects have several. If not given: logistic regression on standardized
        features.
    folds : int
        At least 2.
    seed : int
        Of the folds.
    repeats : int
        How often the folds are dealt anew.
    prepare : callable, optional
        What harmonizes inside the folds. Called in every fold with two arrays, the row numbers of the training and of
        the test records, it returns the values that the model is given of either, in their order. It holds values,
        sites and covariates of all records itself, and fits on the training rows alone: see the example.

    Returns
    -------
    DataFrame
        repeat, fold, split, seed, n_train, n_test (records), n_subjects_train, n_subjects_test, n_subjects_shared (on
        both sides), accuracy, balanced_accuracy, auroc (0 to 1, higher is better; NaN with one class in the fold, or
        with more than two).

    Raises
    ------
    TypeError, ValueError
        If a value is missing, lengths differ, a subject has two labels, there is one class, or a class has fewer
        subjects (or records) than folds.

    Examples
    --------
    Subjects of two sites that measure 5 apart, harmonized in every fold by what its training subjects show:

    >>> from dqc_lib.harmonization import fit_combat
    >>> rng = np.random.default_rng(0)
    >>> sites, labels = np.repeat(["A", "B"], 40), np.tile([0, 1], 40)
    >>> values = rng.normal(size=(80, 3)) + 5 * (sites == "B")[:, None] + labels[:, None]
    >>> def harmonize(train, test):
    ...     combat = fit_combat(values[train], sites[train])
    ...     return combat.apply(values[train], sites[train]), combat.apply(values[test], sites[test])
    >>> found = cross_validate(values, labels, range(80), seed=0, prepare=harmonize)
    >>> bool(found["accuracy"].mean() > 0.7)
    True
    """
    options = {"split": split, "model": model, "folds": folds, "seed": seed, "repeats": repeats, "prepare": prepare}
    return score_folds(predict_held_out(records, labels, subjects, **options))


def predict_held_out(
    records: pd.DataFrame | np.ndarray,
    labels: Sequence,
    subjects: Sequence[str],
    *,
    split: str = "subject",
    model: BaseEstimator | None = None,
    folds: int = 5,
    seed: int,
    repeats: int = 1,
    prepare: Prepare | None = None,
) -> pd.DataFrame:
    """Return the prediction for every record by the model of the fold that it was held out from.

    Parameters as in `cross_validate`.

    Returns
    -------
    DataFrame
        repeat, fold, split, seed, n_train, n_subjects_train, n_subjects_shared, record (row number), subject, label,
        predicted, score (of the second class of two, higher means that class; NaN with more classes).
    """
    values, truth, whose = check_records(records, labels, subjects)
    require_one_label(truth, whose)
    check_split(truth, whose, split=split, folds=folds, seed=seed, repeats=repeats)
    model, tables = model or make_classifier(), []
    for repeat, own in enumerate(_spread_seeds(seed, repeats)):
        dealt = deal_folds(truth, whose, split=split, folds=folds, seed=own)
        for fold, (train, test) in enumerate(dealt):
            sides = {"repeat": repeat, "fold": fold, "split": split, "seed": seed, "n_train": len(train)}
            known = np.unique(whose[train])
            sides |= {"n_subjects_train": len(known)}
            sides |= {"n_subjects_shared": int(np.isin(np.unique(whose[test]), known).sum())}
            rows = {"train": train, "test": test, "prepare": prepare}
            predicted, score = predict_with(model, values, truth, whose, **rows)
            columns = {"record": test, "subject": whose[test], "label": truth[test], "predicted": predicted}
            tables.append(pd.DataFrame(sides | columns | {"score": score}))
    return pd.concat(tables, ignore_index=True)


def _spread_seeds(seed: int, repeats: int) -> list[int]:
    """Return a seed for every repeat: the first is the one given, others are not those of a neighbouring seed."""
    streams = np.random.SeedSequence(seed).spawn(repeats - 1)
    return [seed, *(int(stream.generate_state(1)[0]) for stream in streams)]


def predict_with(
    model: BaseEstimator,
    values: np.ndarray,
    truth: np.ndarray,
    whose: np.ndarray,
    *,
    train: np.ndarray,
    test: np.ndarray,
    prepare: Prepare | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and scores of the test records, by a copy of the model that has seen the training records only."""
    from sklearn.base import BaseEstimator, clone, is_classifier

    if not isinstance(model, BaseEstimator) or not is_classifier(model):
        raise TypeError(f"model must be a scikit-learn classifier, got {show_value(model)}")
    fitted = clone(model)
    with_groups = {"groups": whose[train]} if _splits_by_subject(fitted, whose[train]) else {}
    known, new = (values[train], values[test]) if prepare is None else _prepare_fold(prepare, train=train, test=test)
    # fits are small: two threads spend eight times the processor time of one, mostly waiting for each other
    with _find_threads().limit(limits=1, user_api="blas"):
        fitted.fit(known, truth[train], **with_groups)
        return fitted.predict(new), _score(fitted, new)


def _splits_by_subject(model: BaseEstimator, whose: np.ndarray) -> bool:
    """Return whether the model is a search that needs to be told the subjects.

    Whatever splits once more inside the training records has to split by subject, too, if subjects have several.

    Raises
    ------
    ValueError
        If something splits by record, or lies where scikit-learn does not tell it the subjects.
    """
    from sklearn.base import BaseEstimator
    from sklearn.model_selection import (
        GridSearchCV,
        GroupKFold,
        GroupShuffleSplit,
        LeaveOneGroupOut,
        LeavePGroupsOut,
        RandomizedSearchCV,
        StratifiedGroupKFold,
    )

    inside = [part for part in model.get_params(deep=True).values() if isinstance(part, BaseEstimator)]
    by_group = (GroupKFold, StratifiedGroupKFold, GroupShuffleSplit, LeaveOneGroupOut, LeavePGroupsOut)
    searches = isinstance(model, (GridSearchCV, RandomizedSearchCV)) and isinstance(model.cv, by_group)
    wrong = [part for part in [*([] if searches else [model]), *inside] if "cv" in part.get_params(deep=False)]
    if wrong and len(np.unique(whose)) < len(whose):
        raise ValueError(
            f"{type(wrong[0]).__name__} splits the training records once more, and not by subject; tune the whole model"
            " as tune_inside(pipeline, grid, seed=...) does"
        )
    return searches


def _prepare_fold(prepare: Prepare, *, train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of a fold's training and test records as they are made for it, or say what is wrong."""
    if not callable(prepare):
        raise TypeError(f"prepare must be a function of training and test rows, got {show_value(prepare)}")
    made = prepare(train, test)
    if not isinstance(made, tuple) or len(made) != 2:
        raise TypeError(f"prepare must return the values of training and of test records, got {show_value(made)}")
    checked = []
    for name, values, rows in zip(("training", "test"), made, (train, test), strict=True):
        called = f"{name} values of prepare"
        checked.append(check_records(values, rows, rows, names=(called, f"{name} rows", f"{name} rows"))[0])
    return checked[0], checked[1]


@cache
def _find_threads() -> ThreadpoolController:
    """Return what sets the number of threads; finding the libraries takes longer than a small fit."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def _score(fitted: BaseEstimator, values: np.ndarray) -> np.ndarray:
    """Return the score of the second of two classes, NaN with more."""
    if len(fitted.classes_) != 2:
        return np.full(len(values), np.nan)
    if hasattr(fitted, "predict_proba"):
        return fitted.predict_proba(values)[:, 1]
    return fitted.decision_function(values)


def score_folds(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return the table of `cross_validate` from predictions of `predict_held_out`."""
    rows = []
    for (repeat, fold), part in predictions.groupby(["repeat", "fold"], sort=True):
        first = part.iloc[0]
        row = {"repeat": repeat, "fold": fold, "split": first["split"], "seed": first["seed"]}
        row |= {"n_train": first["n_train"], "n_test": len(part)}
        row |= {"n_subjects_train": first["n_subjects_train"], "n_subjects_test": part["subject"].nunique()}
        rows.append(row | {"n_subjects_shared": first["n_subjects_shared"]} | measure_labels(part))
    return pd.DataFrame(rows)


def measure_labels(predictions: pd.DataFrame) -> dict[str, float]:
    """Return accuracy, balanced accuracy and AUROC of predictions, NaN where undefined."""
    truth, right = predictions["label"], (predictions["label"] == predictions["predicted"])
    classes, score = np.unique(truth), predictions["score"].to_numpy(dtype=np.float64)
    binary = len(classes) == 2 and not np.isnan(score).any()
    return {
        "accuracy": divide(float(right.sum()), len(right)),
        "balanced_accuracy": float(right.groupby(truth).mean().mean()),
        "auroc": measure_auroc((truth == classes[1]).to_numpy(), score) if binary else float("nan"),
    }


def deal_folds(
    truth: np.ndarray, whose: np.ndarray, *, split: str, folds: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Return the rows of the training and of the test records of every fold, classes even among the folds."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    if split == "record":
        return StratifiedKFold(folds, shuffle=True, random_state=seed).split(truth, truth)
    return StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(truth, truth, whose)


def make_classifier() -> BaseEstimator:
    """Return logistic regression on standardized features, as a scikit-learn pipeline."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))


def tune_inside(model: BaseEstimator, grid: Mapping[str, Sequence[Any]], *, folds: int = 3, seed: int) -> BaseEstimator:
    """Return a model that chooses its settings anew on the training subjects of every fold, split by subject.

    Parameters
    ----------
    model : scikit-learn classifier
        Such as a `Pipeline`: the search goes around the whole, not into it.
    grid : mapping of str to sequence
        Settings to try, as for `GridSearchCV`.
    folds : int
        Of the training subjects.
    seed : int

    Returns
    -------
    GridSearchCV
        To be given to `cross_validate` as the model.
    """
    from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold

    require_whole("folds", folds, least=2)
    require_whole("seed", seed, least=0)
    return GridSearchCV(model, dict(grid), cv=StratifiedGroupKFold(folds, shuffle=True, random_state=seed))


def require_metric(metric: object) -> None:
    """Raise a ValueError unless the metric is one that folds are scored by."""
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {show_value(metric)}")
