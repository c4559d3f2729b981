"""Metrics by group of subjects, and by group over arms and cycles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from dqc_lib.evaluation.groups import Grouping, band_ages, group_subjects, list_ways, require_columns
from dqc_lib.evaluation.metrics import COUNTS, METRICS, check_predictions, check_threshold, list_measures

RUN_KEYS = ("arm", "cycle")


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
        If a column is not there; if `by` is a single string; if a group is missing (NaN) for a subject, the values of
        a column cannot be sorted, or two crossed groups would share a name; if the threshold is NaN or no number.

    Notes
    -----
    The groups are those of fairlearn's MetricFrame, the measures ours: fairlearn's own give 0.0 where one is undefined.
    """
    check_threshold(threshold)
    ways = list_ways(by)
    require_columns(table, [score, diagnosis, *(name for names in ways for name in names)])
    truth, scores = check_predictions(table[diagnosis], table[score])
    runs = np.zeros(len(table), dtype=int)
    groupings = [group_subjects(table, names) for names in ways]
    found = measure_groups(groupings, truth=truth, scores=scores, runs=runs, threshold=threshold, min_n=min_n)
    return found.drop(columns="run")


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
    KeyError, TypeError, ValueError
        If a column is not there; if there are no predictions, or a subject has two in one arm and cycle; and as
        `evaluate_subgroups` says.
    """
    check_threshold(threshold)
    require_columns(predictions, RUN_KEYS)
    table, groupings = prepare_predictions(predictions, by=by)
    truth, scores = check_predictions(table["diagnosis"], table["score"])
    runs, keys = number_runs(table, RUN_KEYS)
    found = measure_groups(groupings, truth=truth, scores=scores, runs=runs, threshold=threshold, min_n=min_n)
    named = keys.loc[found["run"]].reset_index(drop=True)
    return pd.concat([named, found.drop(columns="run")], axis=1)


def measure_groups(
    groupings: Sequence[Grouping],
    *,
    truth: np.ndarray,
    scores: np.ndarray,
    runs: np.ndarray,
    threshold: float,
    min_n: int = 1,
) -> pd.DataFrame:
    """Return `COUNTS` and `METRICS` by run, subgroup and group, from fairlearn's MetricFrame.

    `truth`, `scores` and `runs` have one value per row of the table that was grouped; `runs` numbers its arm and cycle
    from 0. Rows are sorted by run, and below it groupings and groups keep their order.
    """
    parts = []
    for grouping in groupings:
        index = pd.MultiIndex.from_product([range(runs.max(initial=0) + 1), *map(range, grouping.sizes)])
        if truth.size:
            found = _measure_present(grouping, truth=truth, scores=scores, runs=runs, threshold=threshold)
        else:
            found = pd.DataFrame(columns=[*COUNTS, *METRICS], dtype=np.float64)
        found = found.reindex(index).fillna(dict.fromkeys(COUNTS, 0)).astype(dict.fromkeys(COUNTS, int))
        found.loc[found["n"] < min_n, list(METRICS)] = np.nan
        groups = grouping.groups * (runs.max(initial=0) + 1)
        names = pd.DataFrame({"run": index.get_level_values(0), "subgroup": grouping.label, "group": groups})
        parts.append(pd.concat([names, found.reset_index(drop=True)], axis=1))
    empty = pd.DataFrame(columns=["run", "subgroup", "group", *COUNTS, *METRICS])
    return pd.concat(parts).sort_values("run", kind="stable", ignore_index=True) if parts else empty


def _measure_present(
    grouping: Grouping, *, truth: np.ndarray, scores: np.ndarray, runs: np.ndarray, threshold: float
) -> pd.DataFrame:
    """Return measures of the groups that hold somebody, indexed by run and codes; our measures, so undefined is NaN."""
    from fairlearn.metrics import MetricFrame

    return MetricFrame(
        metrics=list_measures(threshold),
        y_true=truth,
        y_pred=scores,
        sensitive_features=grouping.codes,
        control_features=pd.Series(runs, name="run"),
    ).by_group


def number_runs(table: pd.DataFrame, names: Sequence[str]) -> tuple[np.ndarray, pd.DataFrame]:
    """Return the number of the run of every row, and the runs in order: arms as they first appear, cycles ascending.

    `names` are those of the columns arm and cycle that tell runs apart; without any there is one run.
    """
    if not names:
        return np.zeros(len(table), dtype=int), pd.DataFrame(index=[0])
    for name in names:
        if table[name].isna().any():
            raise ValueError(f"column {name!r} is missing for {int(table[name].isna().sum())} of {len(table)} rows")
    ranks = [pd.factorize(table[name], sort=name == "cycle")[0] for name in names]
    _, first, runs = np.unique(np.column_stack(ranks), axis=0, return_index=True, return_inverse=True)
    return runs, table[list(names)].iloc[first].reset_index(drop=True)


def prepare_predictions(
    predictions: pd.DataFrame, *, by: Iterable[str | tuple[str, ...]]
) -> tuple[pd.DataFrame, list[Grouping]]:
    """Return the predictions, with ``age_band`` where `by` asks for it, and how to group them: first all in one."""
    ways = list_ways(by)
    require_columns(predictions, ["subject", "diagnosis", "score"])
    if predictions.empty:
        raise ValueError("expected at least one prediction, came an empty table")
    keys = [name for name in RUN_KEYS if name in predictions]
    repeated = predictions[predictions.duplicated([*keys, "subject"])]
    if len(repeated):
        first = repeated.iloc[0]
        where = f" in {name_run(first[keys])}" if keys else ""
        raise ValueError(f"expected one prediction; subject {first['subject']!r} has several{where}")
    table = band_ages(predictions, ways)
    require_columns(table, [name for names in ways for name in names])
    return table, [group_subjects(table, names) for names in ((), *ways)]


def name_run(keys: Mapping[str, object]) -> str:
    """Return "arm 'clean', cycle 3" for an error message."""
    return ", ".join(f"arm {value!r}" if name == "arm" else f"{name} {value}" for name, value in keys.items())
