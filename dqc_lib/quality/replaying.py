"""What another rule would have said."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pandas as pd

from dqc_lib.ledger import COLUMNS, require_rows
from dqc_lib.quality.counts import Counts
from dqc_lib.quality.docket import Docket
from dqc_lib.quality.rules import Rule, check_rule


def replay(ledger: pd.DataFrame, rule: Rule) -> pd.DataFrame:
    """Return what another rule would have said of every recorded attempt, given the same model before it.

    Each attempt is judged on its own: had the other rule run, later attempts would have started from another model. So
    is a center pooled where the recorded decisions say so, see `Docket.pools`.

    Parameters
    ----------
    ledger : DataFrame
        `Ledger.to_frame()`.
    rule : Rule

    Returns
    -------
    DataFrame
        Rows of stage "control" and "closing" with columns cycle, level, center, subjects, n, decision (as recorded),
        harmful (as recorded), replayed_harmful (boolean, NA where the rule would have verified but the counts were
        not recorded, or were foreseen in part).

    Raises
    ------
    ValueError
        If the rule needs update norms and the run that wrote the ledger did not measure them.
    KeyError, TypeError
        If the ledger is no such table; if the rule is none.
    """
    require_rows(ledger, COLUMNS)
    check_rule(rule)
    rows = ledger[ledger["stage"].isin(("control", "closing"))]
    replayed = rows[["cycle", "level", "center", "subjects", "n", "decision"]].copy()
    replayed["harmful"] = rows["decision"] != "accepted"
    records = rows.to_dict("records")
    # a diverged norm is NaN in the table, as one that was not measured is; a run measures all or none
    absent = math.nan if rows[["update_norm", "norm_limit"]].notna().any(axis=None) else None
    pairs = zip(records, _list_pooled(records), strict=True)
    said = [_replay_row(row, rule, pooled=pooled, absent=absent) for row, pooled in pairs]
    replayed["replayed_harmful"] = pd.array(said, dtype="boolean")
    return replayed


def _list_pooled(records: list[dict]) -> Iterator[bool]:
    """Yield for every attempt whether most images of its center were flagged before it."""
    docket = Docket(homes={subject: row["center"] for row in records for subject in row["subjects"]})
    for row in records:
        yield docket.pools(row["center"])
        if row["decision"] == "deferred":
            docket.due |= dict.fromkeys(row["subjects"], row["cycle"])
        elif row["level"] == "revisit":
            for subject in row["subjects"]:
                docket.due.pop(subject, None)
        if row["decision"] == "eliminated":
            docket.eliminated |= set(row["subjects"])


def _replay_row(row: dict, rule: Rule, *, pooled: bool, absent: float | None) -> bool | None:
    norm = absent if pd.isna(row["update_norm"]) else float(row["update_norm"])
    if not rule.suspects(n=row["n"], update_norm=norm, pooled=pooled):
        return False
    foreseen = pd.notna(row["exact"]) and not row["exact"]
    if foreseen or any(pd.isna(row[name]) for name in ("fp", "reference_fp")):
        return None
    before, after = (
        Counts(*(int(row[f"{prefix}{name}"]) for name in ("fp", "n_neg", "fn", "n_pos")))
        for prefix in ("reference_", "")
    )
    return rule.judge(n=row["n"], update_norm=norm, before=before, after=after, pooled=pooled).harmful
