"""The subgroup report: how well a model diagnoses each group, how sure that is, and how far groups lie apart."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dqc_lib.evaluation.groups import Grouping
from dqc_lib.evaluation.intervals import (
    Cases,
    Settings,
    bound_resamples,
    estimate_gaps,
    estimate_groups,
    list_reasons,
)
from dqc_lib.evaluation.metrics import COUNTS, METRICS, check_predictions
from dqc_lib.evaluation.subgroups import RUN_KEYS, measure_groups, name_run, number_runs, prepare_predictions

COLUMNS = {
    "groups": (*RUN_KEYS, "subgroup", "group", *COUNTS, "metric", "value", "low", "high", "note"),
    "gaps": (
        *(*RUN_KEYS, "subgroup", "metric", "gap", "low", "high"),
        *("highest", "lowest", "n_groups", "by_chance", "p_value"),
    ),
    "changes": ("cycle", "subgroup", "metric", "arm", "reference", "change", "low", "high"),
}


@dataclass(frozen=True, eq=False)
class SubgroupReport:
    """What `subgroup_report` found; arm and cycle are columns only where the predictions had them.

    Parameters
    ----------
    groups : DataFrame
        One row per arm, cycle, group and metric: arm, cycle, subgroup, group, n, n_positive, n_negative, metric,
        value, low, high (0 to 1, higher is better), note. The first subgroup is "overall". `note` says why a value is
        NaN, and where the interval is an exact one or there is none.
    gaps : DataFrame
        One row per arm, cycle, subgroup and metric: gap (0 to 1, higher is less fair), low, high (-1 to 1, of the group
        `highest` minus `lowest`), highest, lowest (names of the groups at the ends, "" without a gap), n_groups (that
        were large enough), by_chance, p_value.
    changes : DataFrame
        One row per cycle, subgroup, metric and arm but the reference: arm, reference, change, low, high: gap of the
        arm minus gap of the reference (-1 to 1, below 0 the arm is fairer). No rows with one arm.
    confidence : float
        Of all intervals.
    n_resamples : int
        That they rest on.
    """

    groups: pd.DataFrame
    gaps: pd.DataFrame
    changes: pd.DataFrame
    confidence: float
    n_resamples: int

    @property
    def too_small(self) -> pd.DataFrame:
        """Groups without a value: subgroup, group, n, n_positive, n_negative, metrics ("all" or names), reason."""
        names = ["subgroup", "group", *COUNTS]
        missing = self.groups[self.groups["value"].isna()].drop_duplicates([*names, "metric"])
        rows = []
        for key, part in missing.groupby(names, sort=False):
            metrics = "all" if len(part) == len(METRICS) else ", ".join(part["metric"])
            rows.append((*key, metrics, "; ".join(dict.fromkeys("; ".join(part["note"]).split("; ")))))
        return pd.DataFrame(rows, columns=[*names, "metrics", "reason"])

    def table(self, *, metrics: Sequence[str] = METRICS, cycle: int | None = None) -> pd.DataFrame:
        """Return the groups as text, arms below each other: "0.82 (0.71 to 0.90)", or why there is no value.

        Parameters
        ----------
        metrics : sequence of str
            Some of `METRICS`, one column each.
        cycle : int, optional
            The last one if not given; has no meaning where the predictions had no cycle.

        Returns
        -------
        DataFrame
            Columns subgroup, group, arm (where there are arms), n, n_positive, n_negative, then the metrics.

        Raises
        ------
        ValueError
            If a metric or the cycle is not in the report.
        """
        if unknown := [name for name in metrics if name not in METRICS]:
            raise ValueError(f"metrics must be among {', '.join(METRICS)}; came {', '.join(map(str, unknown))}")
        groups = self.groups
        if "cycle" in groups:
            cycles = list(groups["cycle"].unique())
            cycle = max(cycles) if cycle is None else cycle
            if cycle not in cycles:
                raise ValueError(f"cycle must be one of {', '.join(map(str, sorted(cycles)))}; came {cycle}")
            groups = groups[groups["cycle"] == cycle]
        names = ["subgroup", "group", *(["arm"] if "arm" in groups else []), *COUNTS]
        texts = [_describe(*row) for row in groups[["value", "low", "high", "note"]].itertuples(index=False)]
        wide = groups.iloc[:: len(METRICS)][names].reset_index(drop=True)
        wide[list(METRICS)] = np.array(texts, dtype=object).reshape(-1, len(METRICS))
        n_arms = groups["arm"].nunique() if "arm" in groups else 1
        order = np.arange(len(wide)).reshape(n_arms, -1).T.ravel()
        return wide.loc[order, [*names, *metrics]].reset_index(drop=True)

    def _repr_html_(self) -> str:
        groups = self.groups.drop_duplicates(["subgroup", "group"])
        subgroups = ", ".join(groups["subgroup"].unique()[1:]) or "nothing"
        n_small = int((self.too_small["subgroup"] != "overall").sum())
        return (
            f"<b>SubgroupReport</b>: {groups['n'].iloc[0]} subjects; {len(groups) - 1} groups by "
            f"{html.escape(subgroups)}, {n_small} of them too small for a metric; "
            f"{100 * self.confidence:g} % intervals from {self.n_resamples:,} resamples"
        )


def _describe(value: float, low: float, high: float, note: str) -> str:
    """Return the text of one cell: never "nan", and never a 0 in place of what is not known."""
    if np.isnan(value):
        return note
    return f"{value:.2f} (no interval)" if np.isnan(low) else f"{value:.2f} ({low:.2f} to {high:.2f})"


def subgroup_report(
    predictions: pd.DataFrame,
    *,
    by: Iterable[str | tuple[str, ...]] = ("sex", "age_band", ("sex", "age_band"), "scanner"),
    threshold: float = 0.5,
    n_resamples: int = 2000,
    confidence: float = 0.95,
    min_n: int = 10,
    min_class: int = 5,
    seed: int = 0,
    reference: str | None = None,
) -> SubgroupReport:
    """Return metrics by group, the gaps between groups and how arms change them, all with bootstrap intervals.

    Parameters
    ----------
    predictions : DataFrame
        Tidy: columns subject, diagnosis (1 = disease), score (higher means disease) and those of `by` (``age_band`` is
        made from ``age``), and arm, cycle or both, in which case every arm and cycle is reported side by side. All of
        them must hold the same subjects, in the same groups.
    by : iterable of str or tuple of str
        As in `evaluate_subgroups`.
    threshold : float
        The decision is disease where ``score >= threshold``.
    n_resamples : int
        Bootstrap resamples, and as many shuffles; at least 1,000.
    confidence : float
        Of the intervals, above 0 and below 1.
    min_n : int
        Groups of fewer subjects get no metric.
    min_class : int
        Sensitivity and F1 need as many patients, specificity as many controls, AUROC both.
    seed : int
        Not negative. Results depend on it and on the data, not on the order of rows, of `by` or of calls.
    reference : str, optional
        The arm that the others are compared with; the first one if not given.

    Returns
    -------
    SubgroupReport

    Raises
    ------
    KeyError, TypeError
        If a column is not there; if `by` is a single string, or a setting no number; if the values of a column cannot
        be sorted.
    ValueError
        If a setting lies outside its range, a subject has several predictions in an arm and cycle, or arms and
        cycles do not hold the same subjects with the same diagnosis and groups; if a group is missing for a subject,
        or two crossed groups would share a name.

    Notes
    -----
    Values come from fairlearn's MetricFrame with measures that are NaN where undefined. Its own bootstrap is not used:
    it draws all subjects at once, so that a small group may lose a class or vanish in some resamples.

    Intervals are percentiles of a bootstrap (Efron & Tibshirani 1993) that draws within group and diagnosis, with the
    same draws for all arms and cycles. Where all resamples agree, as with 5 of 5 right, their interval of zero width
    would be a lie: accuracy, sensitivity and specificity then get the exact one of Clopper & Pearson (1934, doi
    10.1093/biomet/26.4.404), F1, AUROC, gaps and changes none (NaN). In groups of few patients or controls percentile
    intervals are somewhat too narrow.

    A gap is the largest value of a group minus the smallest. It is never negative and grows with the number of groups
    and with their smallness, also if all groups are alike. Its interval is that of the difference between the two
    groups that are highest and lowest as observed, the same two in every resample; it reaches below 0 where resamples
    turn them round. (Of groups that are all level it is that of the first minus the last.) With two groups this is an
    ordinary interval of a difference. With more, the two were chosen because they lie furthest apart, so the interval
    lies too far from 0, and one above 0 is no evidence of unfairness: compare the gap with ``by_chance``, the mean gap
    when the groups are shuffled among subjects of the same diagnosis, and see ``p_value``, the share of shuffles with
    a gap as large, (1 + count) / (1 + shuffles). Groups keep their share of patients when shuffled, so what that share
    alone does to accuracy and F1 counts as chance. There is a p-value for every subgroup and metric: of twenty, one is
    below 0.05 by chance. A change is the gap of the arm minus that of the reference, each between its own two groups,
    on the same resamples.

    Examples
    --------
    >>> table = pd.DataFrame({"subject": range(20), "diagnosis": [0, 1] * 10, "sex": ["F"] * 12 + ["M"] * 8})
    >>> report = subgroup_report(table.assign(score=table["diagnosis"] * 0.5 + 0.2), by=["sex"])
    >>> report.table(metrics=["accuracy", "auroc"])[["group", "n", "accuracy", "auroc"]]
      group   n                     accuracy                        auroc
    0   all  20          1.00 (0.83 to 1.00)           1.00 (no interval)
    1     F  12          1.00 (0.74 to 1.00)           1.00 (no interval)
    2     M   8  8 subjects, fewer than 10  8 subjects, fewer than 10
    """
    settings = Settings(threshold, n_resamples, confidence, min_n, min_class, seed)
    table, groupings = prepare_predictions(predictions, by=by)
    truth, scores = check_predictions(table["diagnosis"], table["score"])
    runs, keys = number_runs(table, [name for name in RUN_KEYS if name in table])
    pairs = _pair_with_reference(keys, reference)
    rows = _align_runs(table, groupings, truth=truth, runs=runs, keys=keys)
    measured = measure_groups(groupings, truth=truth, scores=scores, runs=runs, threshold=threshold)
    values = measured[list(METRICS)].to_numpy().reshape(len(keys), -1, len(METRICS))
    last = np.cumsum([len(grouping.groups) for grouping in groupings])
    parts = {"groups": [], "gaps": [], "changes": []}
    for grouping, of_groups in zip(groupings, np.split(values, last[:-1], axis=1), strict=True):
        cases = Cases(grouping.label, grouping.groups, grouping.members[rows[0]], truth[rows[0]], scores[rows])
        kept = np.where(list_reasons(cases, settings) == "", of_groups, np.nan)
        groups, apart = estimate_groups(cases, kept, settings)
        parts["groups"].append(groups)
        if grouping is not groupings[0]:
            gaps = estimate_gaps(cases, kept, apart, settings)
            parts["gaps"].append(gaps)
            parts["changes"] += [_compare_runs(gaps, apart, pair, confidence) for pair in pairs]
    tables = {name: _name_runs(of_name, COLUMNS[name], keys) for name, of_name in parts.items()}
    return SubgroupReport(**tables, confidence=confidence, n_resamples=n_resamples)


def _pair_with_reference(keys: pd.DataFrame, reference: str | None) -> list[tuple[int, int]]:
    """Return the numbers of every run of another arm and of the run of the reference in the same cycle."""
    arms = list(keys["arm"].unique()) if "arm" in keys else []
    if reference is not None and reference not in arms:
        raise ValueError(f"reference must be one of the arms {arms}; came {reference!r}")
    if not arms:
        return []
    cycles = keys["cycle"] if "cycle" in keys else pd.Series(0, keys.index)
    is_reference = keys["arm"] == (arms[0] if reference is None else reference)
    base = {cycle: run for run, cycle in cycles[is_reference].items()}
    return [(run, base[cycle]) for run, cycle in cycles[~is_reference].items() if cycle in base]


def _align_runs(
    table: pd.DataFrame, groupings: Sequence[Grouping], *, truth: np.ndarray, runs: np.ndarray, keys: pd.DataFrame
) -> np.ndarray:
    """Return the row of every run and subject, (runs, n), subjects sorted; raise where runs hold different ones."""
    subjects = table["subject"].to_numpy()
    ranks = pd.factorize(table["subject"].astype(str), sort=True)[0]
    order = np.lexsort((ranks, runs))
    rows = np.split(order, np.cumsum(np.bincount(runs))[:-1])
    described = {"diagnosis": truth.astype(int).astype(object)}
    described |= {of.label: np.array(of.groups, dtype=object)[of.members] for of in groupings[1:]}
    for run, of_run in enumerate(rows):
        here, there = (name_run(keys.loc[at]) for at in (run, 0))
        if strangers := set(subjects[of_run]) ^ set(subjects[rows[0]]):
            culprit = min(strangers, key=str)
            has, lacks = (here, there) if culprit in set(subjects[of_run]) else (there, here)
            raise ValueError(f"expected the same subjects everywhere; {culprit!r} is in {has} and not in {lacks}")
        for name, values in described.items():
            if (differs := values[of_run] != values[rows[0]]).any():
                at = int(np.argmax(differs))
                came = f"{values[rows[0]][at]!r} in {there} and {values[of_run][at]!r} in {here}"
                raise ValueError(f"expected one {name} for a subject; that of {subjects[of_run][at]!r} is {came}")
    return np.stack(rows)


def _compare_runs(gaps: pd.DataFrame, apart: np.ndarray, pair: tuple[int, int], confidence: float) -> pd.DataFrame:
    """Return by metric the gap of the first run of the pair minus that of the second, each between its own ends."""
    run, base = pair
    low, high = bound_resamples(apart[run] - apart[base], confidence)
    ours, theirs = (gaps.loc[gaps["run"] == at, "gap"].to_numpy() for at in pair)
    rows = gaps.loc[gaps["run"] == run, ["run", "subgroup", "metric"]]
    return rows.assign(base=base, change=ours - theirs, low=low, high=high)


def _name_runs(parts: list[pd.DataFrame], columns: Sequence[str], keys: pd.DataFrame) -> pd.DataFrame:
    """Return the parts as one table with these columns, arm and cycle in place of the number of the run."""
    absent = {"cycle"} if "reference" in columns else set(RUN_KEYS)
    names = [name for name in columns if name not in absent - set(keys)]
    if not parts:
        return pd.DataFrame(columns=names)
    table = pd.concat(parts).sort_values("run", kind="stable", ignore_index=True)
    named = {name: keys[name].loc[table["run"]].to_numpy() for name in keys}
    if "base" in table:
        named["reference"] = keys["arm"].loc[table["base"]].to_numpy()
    return table.assign(**named)[names]
