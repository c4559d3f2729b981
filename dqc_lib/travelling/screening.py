"""A start that needs no clean images: centers judged by models that never met them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from dqc_lib.cohort import Cohort
from dqc_lib.travelling.plan import Schedule
from dqc_lib.travelling.study import Study


def screen_centers(
    cohort: Cohort,
    *,
    schedule: Schedule | None = None,
    groups: int = 3,
    folder: str | Path = "build/runs",
    progress: bool = True,
) -> pd.DataFrame:
    """Return how unusual every training image is to models that were pre-trained without its center.

    A model that has learnt from harmful images finds them ordinary, and then no update norm shows them. Here the
    centers are divided into groups, each group pre-trains a model of its own, and every image is measured by the models
    of the other groups against their own limits (`CalibratedRule.from_watch`). It costs little more than one
    pre-training, as each sees a part of the images. Who is suspicious is not eliminated, only left out of the
    pre-training that follows, and tried like all others when the arms begin.

    Parameters
    ----------
    cohort : Cohort
        With roles; what it says about harm is not read.
    schedule : Schedule, optional
    groups : int
        At least 2. Centers are dealt out by size, the largest first.
    folder : path
        Where the pre-trainings go, as in `Study`.
    progress : bool
        Show progress bars.

    Returns
    -------
    DataFrame
        One row per training image: subject, center, group, ``excess`` (its largest update norm over the limit of the
        model that says so; above 1 is suspicious) and ``suspicious``.

    Raises
    ------
    ValueError
        If there are fewer centers than groups, or a group would train on one diagnosis only.

    Examples
    --------
    >>> screened = screen_centers(cohort)  # doctest: +SKIP
    >>> study = Study(cohort, pretrain_on=screened.loc[~screened["suspicious"], "subject"])  # doctest: +SKIP
    """
    blinded = cohort.blinded()
    table = blinded.table[blinded.table["role"] == "train"]
    parts = _deal_centers(table, groups)
    excess = {}
    for part, members in parts.items():
        study = Study(blinded, schedule=schedule, folder=folder, pretrain_on=members, progress=progress)
        limit, engine = study.make_rule("calibrated").limit, study.open_engine(measure=True)
        others = [subject for subject in table["subject"] if subject not in set(members)]
        excess[part] = pd.Series(
            {subject: engine.scale.measure(engine.read_gradient(subject)) / limit for subject in others}
        )
    largest = pd.DataFrame(excess).max(axis=1)
    home = {subject: part for part, members in parts.items() for subject in members}
    screened = table[["subject", "center"]].reset_index(drop=True)
    screened = screened.assign(group=screened["subject"].map(home), excess=screened["subject"].map(largest))
    return screened.assign(suspicious=screened["excess"] > 1)


def _deal_centers(table: pd.DataFrame, groups: int) -> dict[int, list[str]]:
    """Return the subjects of each group of centers."""
    sizes = (
        table.groupby("center").size().rename("n").reset_index().sort_values(["n", "center"], ascending=[False, True])
    )
    if not 2 <= groups <= len(sizes):
        raise ValueError(f"groups must be from 2 to {len(sizes)}, the number of centers that train, got {groups!r}")
    parts = {}
    for part in range(groups):
        rows = table[table["center"].isin(sizes["center"].iloc[part::groups])]
        if rows["diagnosis"].nunique() < 2:
            raise ValueError(
                f"the group of {', '.join(rows['center'].unique())} would train on one diagnosis only; choose fewer "
                f"groups than {groups}"
            )
        parts[part] = list(rows["subject"])
    return parts
