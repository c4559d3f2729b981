"""Who was eliminated: how much of the harm, and which groups of subjects."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from dqc_lib.cohort import Cohort
from dqc_lib.evaluation.groups import band_ages, group_subjects, list_ways, require_columns
from dqc_lib.evaluation.metrics import check_confidence, divide


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
    require_columns(cohort.table, ["harm", "placement"])
    table, out = _mark_eliminated(eliminated, cohort)
    harmful, whole = table["harm"] != "", table["placement"] == "center"
    groups = {"harmful in whole centers": harmful & whole, "harmful single images": harmful & ~whole}
    groups["good images"] = ~harmful
    n, gone = ([int((mask & of).sum()) for mask in groups.values()] for of in (True, out))
    share = [divide(count, total) for count, total in zip(gone, n, strict=True)]
    return pd.DataFrame({"n": n, "eliminated": gone, "share": share}, index=pd.Index(groups, name="images"))


def elimination_report(
    eliminated: Iterable[str],
    cohort: Cohort,
    *,
    by: Iterable[str | tuple[str, ...]] = ("center", "sex", "age_band", "diagnosis", "scanner"),
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Return how many training images of every group were eliminated, with intervals: elimination can be unfair too.

    Parameters
    ----------
    eliminated : iterable of str
        Subjects that quality control eliminated; naming one twice counts once.
    cohort : Cohort
        Where there are roles, the training subjects count.
    by : iterable of str or tuple of str
        As in `evaluate_subgroups`; ``age_band`` is made from ``age``, and diagnosis reads "control" or "disease".
    confidence : float
        Of the intervals, above 0 and below 1.

    Returns
    -------
    DataFrame
        Columns ``images``, ``subgroup``, ``group``, ``n``, ``eliminated``, ``share`` (0 to 1), ``low``, ``high``.
        `images` is "all", and where the cohort knows its harm also "good" (a high share is a loss) and "harmful" (a
        high share is wanted). The first subgroup of each is "overall". A group without such images has n = 0 and NaN.

    Raises
    ------
    KeyError, TypeError, ValueError
        If a column is not there; if `eliminated` or `by` is a string; if an eliminated subject is no training subject
        of the cohort, or the confidence lies outside its range; if a group is missing for a subject, the values of a
        column cannot be sorted, or two crossed groups would share a name.

    Notes
    -----
    Wilson's score interval (1927, doi 10.1080/01621459.1927.10502953), which stays within 0 and 1 and keeps a width
    where nobody or everybody was eliminated. It takes images as independent. A center that is eliminated whole is one
    event, not many: intervals by sex, age or diagnosis are then too narrow, the more so the fewer centers there are.
    """
    check_confidence(confidence)
    ways = list_ways(by)
    table, out = _mark_eliminated(eliminated, cohort)
    table = band_ages(table, ways).assign(diagnosis=table["diagnosis"].map({0: "control", 1: "disease"}))
    require_columns(table, [name for names in ways for name in names])
    kinds = {"all": pd.Series(True, table.index)}
    if "harm" in table:
        kinds |= {"good": table["harm"] == "", "harmful": table["harm"] != ""}
    rows = []
    for images, counted in kinds.items():
        for grouping in (group_subjects(table, names) for names in ((), *ways)):
            for at, group in enumerate(grouping.groups):
                inside = counted & (grouping.members == at)
                row = {"images": images, "subgroup": grouping.label, "group": group}
                rows.append(row | _count_share(int(inside.sum()), int((inside & out).sum()), confidence))
    return pd.DataFrame(rows)


def _mark_eliminated(eliminated: Iterable[str], cohort: Cohort) -> tuple[pd.DataFrame, pd.Series]:
    """Return the training subjects and whether each was eliminated, or say which names are none of them."""
    if isinstance(eliminated, str):
        raise TypeError(f"eliminated must be a collection of subjects; came the string {eliminated!r}")
    table = cohort.table
    table = table[table["role"] == "train"] if "role" in table else table
    out = set(eliminated)
    if unknown := sorted(out - set(table["subject"])):
        raise ValueError(f"eliminated subjects must be training subjects of the cohort; these are not: {unknown}")
    return table, table["subject"].isin(out)


def _count_share(n: int, eliminated: int, confidence: float) -> dict[str, float]:
    """Return the counts, the share and its interval, NaN where n = 0."""
    from scipy.stats import binomtest

    counts = {"n": n, "eliminated": eliminated, "share": divide(eliminated, n)}
    if n == 0:
        return counts | {"low": float("nan"), "high": float("nan")}
    low, high = binomtest(eliminated, n).proportion_ci(confidence, method="wilson")
    return counts | {"low": float(low), "high": float(high)}
