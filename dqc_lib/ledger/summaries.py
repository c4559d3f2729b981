"""What a ledger says of each center and of each subject."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from dqc_lib.arguments import show_value


def require_rows(frame: pd.DataFrame, names: Iterable[str]) -> None:
    """Raise a TypeError unless this is a table, and a KeyError that names a column of `Ledger.to_frame` it lacks."""
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(f"the ledger must be a table, as Ledger.to_frame gives, got {show_value(frame)}")
    for name in names:
        if name not in frame:
            raise KeyError(f"the ledger has no column {name!r}; expected a table as Ledger.to_frame gives")


def summarize_centers(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row per center, in order of first attempt, of the table that `Ledger.to_frame` gives.

    Returns
    -------
    pandas.DataFrame
        Index `center`; `attempts`; `rejected`, attempts with a decision other than accepted; `share_rejected` (0 to 1);
        `subjects`, `deferred` and `eliminated`, numbers of distinct subjects.
    """
    require_rows(frame, ("center", "decision", "subjects"))
    groups = frame.groupby("center", sort=False)
    summary = pd.DataFrame({"attempts": groups.size()})
    summary["rejected"] = (frame["decision"] != "accepted").groupby(frame["center"]).sum().astype("int64")
    summary["share_rejected"] = summary["rejected"] / summary["attempts"]
    long = frame.explode("subjects")
    for name, rows in (
        ("subjects", long),
        ("deferred", long[long["decision"] == "deferred"]),
        ("eliminated", long[long["decision"] == "eliminated"]),
    ):
        summary[name] = (
            rows.groupby("center")["subjects"].nunique().reindex(summary.index, fill_value=0).astype("int64")
        )
    return summary


def summarize_subjects(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row per subject, in order of first attempt, of the table that `Ledger.to_frame` gives.

    Returns
    -------
    pandas.DataFrame
        Index `subject`; `center`; `visits`, attempts that contained the subject; `singles`, those of level single or
        revisit; `deferred`, how often it was put on the revisit list; `eliminated`; `eliminated_cycle` (NA
        where not eliminated); `last_decision`.
    """
    require_rows(frame, ("cycle", "level", "center", "decision", "subjects"))
    long = frame.explode("subjects").rename(columns={"subjects": "subject"})
    long = long.assign(
        single=long["level"] != "batch",
        deferral=long["decision"] == "deferred",
        elimination=long["decision"] == "eliminated",
    )
    summary = long.groupby("subject", sort=False).agg(
        center=("center", "first"),
        visits=("cycle", "size"),
        singles=("single", "sum"),
        deferred=("deferral", "sum"),
        eliminated=("elimination", "any"),
        last_decision=("decision", "last"),
    )
    cycles = long[long["elimination"]].groupby("subject")["cycle"].min().astype("Int64")
    summary = summary.astype({"visits": "int64", "singles": "int64", "deferred": "int64", "eliminated": bool})
    summary.insert(5, "eliminated_cycle", cycles)
    return summary
