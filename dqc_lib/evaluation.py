"""How well a model diagnoses: overall, in subgroups and over cycles, and how well quality control found the harm.

One row per group, one column per metric. A metric without cases to compute it from is NaN, never 0, and every metric
travels with the counts it rests on: sensitivity with ``n_positive``, specificity with ``n_negative``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise, product

import numpy as np
import pandas as pd

from dqc_lib.cohort import Cohort

COUNTS = ("n", "n_positive", "n_negative")
METRICS = ("accuracy", "sensitivity", "specificity", "f1", "auroc")
AGE_EDGES = (0, 55, 65, 75, 130)


def score_predictions(diagnosis: Sequence[int], score: Sequence[float], *, threshold: float = 0.5) -> dict[str, float]:
    """Return counts and metrics of one set of predictions; for all metrics higher is better.

    Parameters
    ----------
    diagnosis : sequence of int, of length n
        1 = disease, 0 = control.
    score : sequence of float, of length n
        Finite, higher means disease.
    threshold : float
        The decision is disease where ``score >= threshold``.

    Returns
    -------
    dict
        ``n``, ``n_positive``, ``n_negative`` (int); ``accuracy``, ``sensitivity``, ``specificity``, ``f1`` and
        ``auroc`` (from 0 to 1). NaN where undefined: sensitivity without disease, specificity without controls,
        F1 without disease and without a decision for disease, AUROC with one class, everything with n = 0.

    Raises
    ------
    ValueError
        If lengths differ, a diagnosis is neither 0 nor 1, or a score is not finite.

    Examples
    --------
    >>> found = score_predictions([1, 1, 0, 0], [0.9, 0.2, 0.1, 0.6])
    >>> found["sensitivity"], found["specificity"], found["auroc"]
    (0.5, 0.5, 0.75)
    >>> score_predictions([0, 0], [0.1, 0.2])["sensitivity"]
    nan
    """
    truth, score = _check_predictions(diagnosis, score)
    decision = score >= threshold
    n_positive, n_negative = int(truth.sum()), int((~truth).sum())
    tp, fp = int((decision & truth).sum()), int((decision & ~truth).sum())
    fn, tn = n_positive - tp, n_negative - fp
    return {
        "n": truth.size,
        "n_positive": n_positive,
        "n_negative": n_negative,
        "accuracy": _divide(tp + tn, truth.size),
        "sensitivity": _divide(tp, n_positive),
        "specificity": _divide(tn, n_negative),
        "f1": _divide(2 * tp, 2 * tp + fp + fn),
        "auroc": _rank_auroc(truth, score),
    }


def _check_predictions(diagnosis: Sequence[int], score: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Return diagnosis as bool and score as float64, or say what is wrong with them."""
    diagnosis, score = np.asarray(diagnosis), np.asarray(score, dtype=np.float64)
    if diagnosis.ndim != 1 or diagnosis.shape != score.shape:
        raise ValueError(
            f"diagnosis and score must be sequences of one length; came shapes {diagnosis.shape} and {score.shape}"
        )
    unknown = diagnosis[~np.isin(diagnosis, (0, 1))]
    if unknown.size:
        raise ValueError(f"diagnosis must be 1 (disease) or 0 (control); came {unknown[0]}")
    if n_bad := int((~np.isfinite(score)).sum()):
        raise ValueError(f"scores must be finite; {n_bad} of {score.size} are NaN or infinite")
    return diagnosis.astype(bool), score


def _divide(numerator: int, denominator: int) -> float:
    """Return the ratio, NaN where the denominator is 0."""
    return numerator / denominator if denominator else float("nan")


def _rank_auroc(truth: np.ndarray, score: np.ndarray) -> float:
    """Return the area under the ROC curve, NaN with one class (scikit-learn warns there)."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(truth, score)) if truth.any() and not truth.all() else float("nan")


def add_age_band(table: pd.DataFrame, edges: Sequence[int] = AGE_EDGES) -> pd.DataFrame:
    """Return the table with a column ``age_band``, an ordered category such as "<55", "55-64", "65-74", "75+".

    Parameters
    ----------
    table : DataFrame
        With a column ``age`` in years.
    edges : sequence of int
        At least three, increasing. A band holds its lower edge and not its upper one, except the last, which holds
        both. Every band is a category, also where nobody is in it.

    Returns
    -------
    DataFrame
        A copy; the table given is not changed.

    Raises
    ------
    KeyError, ValueError
        If there is no column ``age``; if the edges are not as said, or an age is missing or lies outside them.

    Examples
    --------
    >>> list(add_age_band(pd.DataFrame({"age": [54.9, 55.0, 81.0]}))["age_band"])
    ['<55', '55-64', '75+']
    """
    _require_columns(table, ["age"])
    edges = list(edges)
    if len(edges) < 3 or any(edge != int(edge) for edge in edges) or sorted(set(edges)) != edges:
        raise ValueError(f"edges must be three or more increasing whole numbers; came {edges}")
    age = table["age"].to_numpy(dtype=np.float64)
    outside = ~((age >= edges[0]) & (age <= edges[-1]))
    if outside.any():
        raise ValueError(f"ages must lie from {edges[0]} to {edges[-1]} years; came {age[outside][0]}")
    middle = [f"{low}-{high - 1}" for low, high in pairwise(edges[1:-1])]
    labels = [f"<{edges[1]}", *middle, f"{edges[-2]}+"]
    band = pd.Categorical.from_codes(np.digitize(age, edges[1:-1]), categories=labels, ordered=True)
    return table.assign(age_band=band)


def evaluate_subgroups(
    table: pd.DataFrame,
    *,
    by: Iterable[str | tuple[str, ...]],
    score: str = "score",
    diagnosis: str = "diagnosis",
    threshold: float = 0.5,
    min_n: int = 1,
) -> pd.DataFrame:
    """Return one row of counts and metrics for every group of every way to group the subjects.

    Parameters
    ----------
    table : DataFrame
        One row per subject, with the columns named in the other arguments.
    by : iterable of str or tuple of str
        Column names; a tuple crosses its columns, so ``("sex", "age_band")`` gives F in every age band, then M.
    score, diagnosis : str
        Names of the columns with the score (higher means disease) and the diagnosis (1 = disease).
    threshold : float
        As in `score_predictions`.
    min_n : int
        Groups with fewer subjects keep their counts and get NaN for all metrics.

    Returns
    -------
    DataFrame
        Columns ``subgroup`` ("sex", "age band", "sex x age band"), ``group`` ("F", "<55", "F, <55"), then those of
        `score_predictions`. Groups are sorted, categories in their own order; those that hold nobody have n = 0.

    Raises
    ------
    KeyError, TypeError, ValueError
        If a column is not there; if `by` is a single string; if a group is missing (NaN) for a subject.
    """
    groupings = _list_groupings(by)
    _require_columns(table, [score, diagnosis, *(name for names in groupings for name in names)])
    truth, scores = table[diagnosis].to_numpy(), table[score].to_numpy()
    rows = []
    for names in groupings:
        subgroup = " x ".join(name.replace("_", " ") for name in names)
        for levels in product(*(_list_levels(table, name) for name in names)):
            inside = np.ones(len(table), dtype=bool)
            for name, level in zip(names, levels, strict=True):
                inside &= (table[name] == level).to_numpy()
            found = score_predictions(truth[inside], scores[inside], threshold=threshold)
            if found["n"] < min_n:
                found.update(dict.fromkeys(METRICS, float("nan")))
            rows.append({"subgroup": subgroup, "group": ", ".join(map(str, levels)), **found})
    return pd.DataFrame(rows, columns=["subgroup", "group", *COUNTS, *METRICS])


def _list_groupings(by: Iterable[str | tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Return every grouping as a tuple of column names."""
    if isinstance(by, str):
        raise TypeError(f"by must be a list of column names or tuples of names; came the string {by!r}")
    return [(names,) if isinstance(names, str) else tuple(names) for names in by]


def _require_columns(table: pd.DataFrame, names: Iterable[str]) -> None:
    """Raise a KeyError that names the columns which are not there and those that are."""
    if missing := [name for name in dict.fromkeys(names) if name not in table.columns]:
        raise KeyError(f"missing columns {missing}; the table has {list(table.columns)}")


def _list_levels(table: pd.DataFrame, name: str) -> list:
    """Return the categories of a column in their order, or its distinct values sorted."""
    column = table[name]
    if column.isna().any():
        raise ValueError(f"column {name!r} is missing for {int(column.isna().sum())} of {len(column)} subjects")
    return list(column.cat.categories) if hasattr(column, "cat") else sorted(column.unique())


def evaluate_cycles(
    predictions: pd.DataFrame,
    *,
    by: Iterable[str | tuple[str, ...]] = ("sex", "age_band", ("sex", "age_band")),
    threshold: float = 0.5,
    min_n: int = 1,
) -> pd.DataFrame:
    """Return counts and metrics for every arm and cycle, over all subjects and in subgroups.

    Parameters
    ----------
    predictions : DataFrame
        Tidy: one row per arm, cycle and subject, with columns arm, cycle, subject, diagnosis, score and those that
        `by` asks for; ``age_band`` is made from ``age`` where it is not there.
    by, threshold, min_n
        As in `evaluate_subgroups`; an empty `by` gives the overall rows alone.

    Returns
    -------
    DataFrame
        Columns arm, cycle, subgroup, group, then those of `score_predictions`. Arms come in order of first
        appearance, cycles ascending; the first row of each has subgroup "overall" and group "all".

    Raises
    ------
    KeyError, ValueError
        If a column is not there; if there are no predictions, or a subject has two in one arm and cycle.
    """
    groupings = _list_groupings(by)
    _require_columns(predictions, ["arm", "cycle", "subject", "diagnosis", "score"])
    if predictions.empty:
        raise ValueError("expected at least one prediction, came an empty table")
    _refuse_repeats(predictions)
    if "age_band" not in predictions and any("age_band" in names for names in groupings):
        predictions = add_age_band(predictions)
    everybody = predictions.assign(overall="all")
    parts = []
    for arm, of_arm in everybody.groupby("arm", sort=False, observed=True):
        for cycle, part in of_arm.groupby("cycle"):
            found = evaluate_subgroups(part, by=["overall", *groupings], threshold=threshold, min_n=min_n)
            found.insert(0, "arm", arm)
            found.insert(1, "cycle", cycle)
            parts.append(found)
    return pd.concat(parts, ignore_index=True)


def _refuse_repeats(predictions: pd.DataFrame) -> None:
    """Raise where a subject has several predictions in one arm and cycle."""
    repeated = predictions[predictions.duplicated(["arm", "cycle", "subject"])]
    if len(repeated):
        arm, cycle, subject = repeated[["arm", "cycle", "subject"]].iloc[0]
        raise ValueError(f"expected one prediction; subject {subject!r} has several in arm {arm!r}, cycle {cycle}")


def compare_to_truth(eliminated: Iterable[str], cohort: Cohort) -> pd.DataFrame:
    """Return how many of the harmful and of the good training images were eliminated.

    Parameters
    ----------
    eliminated : iterable of str
        Subjects that quality control eliminated; naming one twice counts once.
    cohort : Cohort
        With the columns ``harm`` and ``placement``. Where there are roles, the training subjects count.

    Returns
    -------
    DataFrame
        Index ``images``: "harmful in whole centers", "harmful single images", "good images". Columns ``n``,
        ``eliminated`` and ``share`` (NaN where n = 0): wanted high in the first two rows and low in the third.

    Raises
    ------
    KeyError, TypeError, ValueError
        If the cohort is blinded; if `eliminated` is a string; if an eliminated subject is no training subject of it.
    """
    if isinstance(eliminated, str):
        raise TypeError(f"eliminated must be a collection of subjects; came the string {eliminated!r}")
    table = cohort.table
    _require_columns(table, ["harm", "placement"])
    table = table[table["role"] == "train"] if "role" in table else table
    out = set(eliminated)
    if unknown := sorted(out - set(table["subject"])):
        raise ValueError(f"eliminated subjects must be training subjects of the cohort; these are not: {unknown}")
    harmful, whole = table["harm"] != "", table["placement"] == "center"
    groups = {"harmful in whole centers": harmful & whole, "harmful single images": harmful & ~whole}
    groups["good images"] = ~harmful
    n, gone = ([int((mask & of).sum()) for mask in groups.values()] for of in (True, table["subject"].isin(out)))
    share = [_divide(count, total) for count, total in zip(gone, n, strict=True)]
    return pd.DataFrame({"n": n, "eliminated": gone, "share": share}, index=pd.Index(groups, name="images"))
