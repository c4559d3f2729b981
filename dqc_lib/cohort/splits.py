"""Roles: which subjects train, verify and test, drawn by subject and checked."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from dqc_lib.arguments import require_kind, require_number, require_whole
from dqc_lib.cohort.table import Cohort, quote_values


def check_roles(cohort: Cohort) -> list[str]:
    """Return notes on the roles, one sentence each; empty where there is nothing to say.

    A center without verification subjects is allowed: it trains the model and the other centers judge it.

    Raises
    ------
    ValueError
        If there are no roles, no subject at all for training or for verification, or one class only to train on.
    """
    require_kind("cohort", cohort, Cohort, such_as="read_cohort gives")
    table = cohort.table
    if "role" not in table:
        raise ValueError(
            "column 'role' is missing; expected train, verification or test for every subject (see split_by_subject)"
        )
    for role in ("train", "verification"):
        if not (table["role"] == role).any():
            raise ValueError(
                f"no subject has the role {role!r}; expected at least one, came {quote_values(table['role'].unique())}"
            )
    verification, train = table[table["role"] == "verification"], table[table["role"] == "train"]
    if train["diagnosis"].nunique() == 1:
        known = "disease" if train["diagnosis"].iloc[0] else "control"
        raise ValueError(
            f"all {len(train)} training subjects have the diagnosis {known}; expected both classes (are the words for "
            "disease and control the right ones?)"
        )
    silent = table.loc[(table["role"] == "train") & ~table["center"].isin(verification["center"]), "center"].unique()
    notes = []
    if train["center"].nunique() == 1:
        notes.append(f"Only one center trains, {train['center'].iloc[0]}: the model has nowhere to travel to.")
    if len(silent):
        noun = "center trains" if len(silent) == 1 else "centers train"
        notes.append(
            f"{len(silent)} {noun} without verification subjects, judged by the other centers: {', '.join(silent)}."
        )
    for value, rate in ((0, "false-positive"), (1, "false-negative")):
        if value not in set(verification["diagnosis"]):
            notes.append(f"No verification subject has diagnosis {value}, so the {rate} rate is undefined.")
    if not (table["role"] == "test").any():
        notes.append("No subject has the role 'test', so there are no test figures.")
    return notes


def split_by_subject(cohort: Cohort, *, verification: float = 0.2, test: float = 0.2, seed: int = 0) -> Cohort:
    """Return the cohort with a `role` for every subject, stratified by center and diagnosis.

    A center with at least three subjects gets every role that has a share, one with two trains and verifies, one with
    one trains. The totals come as close to the shares as that allows: a subject goes, one at a time, to the center that
    is furthest below its share (largest remainder). The result does not depend on the order of the rows.

    Parameters
    ----------
    verification, test : float
        Shares of all subjects, at least 0, less than 1 together.
    seed : int
        Decides who gets which role, never how many.

    Raises
    ------
    ValueError
        If the cohort has roles already, or the shares or the seed are out of range.
    """
    require_kind("cohort", cohort, Cohort, such_as="read_cohort gives")
    require_number("verification", verification)
    require_number("test", test)
    require_whole("seed", seed, least=0)
    table = cohort.table
    if "role" in table:
        raise ValueError(
            f"the cohort has roles already ({quote_values(table['role'].unique())}); expected a table without them"
        )
    if min(verification, test) < 0 or not verification + test < 1:
        raise ValueError(f"verification {verification} and test {test}; expected shares from 0, less than 1 together")
    priority = _draw_priority(table, seed)
    sizes = _describe_centers(table, priority).sort_values("priority")["n"]
    role = pd.Series("train", index=table.index)
    free = sizes - 1
    for name, share in (("verification", verification), ("test", test)):
        counts = _allot_to_centers(sizes, free, share)
        free = free - counts
        role[_draw_subjects(table[role == "train"], counts, priority)] = name
    return cohort.replace(table.assign(role=role))


def _allot_to_centers(sizes: pd.Series, free: pd.Series, share: float) -> pd.Series:
    """Return how many of each center's subjects take the role: one where it can be, then largest remainder first."""
    counts = ((free > 0) & (share > 0)).astype(int)
    for _ in range(min(round(share * sizes.sum()), free.sum()) - counts.sum()):
        lack = (share * sizes - counts).where(counts < free)
        counts[lack.idxmax()] += 1
    return counts


def divide_held_out(cohort: Cohort, *, verification: float = 0.5, seed: int = 0) -> Cohort:
    """Return the cohort with its test subjects divided between verification and test, by center and diagnosis.

    A center with at least two test subjects keeps at least one in either role. Centers with one take turns, those of
    the same diagnosis after one another, so that both roles end up with centers and diagnoses alike.

    Parameters
    ----------
    verification : float
        Share of the test subjects that become verification subjects, 0 to 1.
    seed : int
        Decides who, and which of the single ones come first.

    Raises
    ------
    ValueError
        If nobody has the role "test", or the share or the seed is out of range.
    """
    require_number("verification", verification)
    require_whole("seed", seed, least=0)
    if not 0 <= verification <= 1:
        raise ValueError(f"verification is {verification}; expected a share from 0 to 1")
    held_out = cohort.select(role="test").table
    priority = _draw_priority(held_out, seed)
    centers = _describe_centers(held_out, priority)
    centers["single"] = centers["n"] == 1
    sizes = centers.sort_values(["single", "diagnosis", "priority"])["n"]
    edge = np.where(sizes == 1, 0, int(0 < verification < 1))
    counts = _round_in_turn(verification * sizes, low=edge, high=sizes - edge)
    chosen = held_out.loc[_draw_subjects(held_out, counts, priority), "subject"]
    role = cohort.table["role"].mask(cohort.table["subject"].isin(chosen), "verification")
    return cohort.replace(cohort.table.assign(role=role))


def _draw_priority(table: pd.DataFrame, seed: int) -> pd.Series:
    """Return one random number per row that depends on the subjects' names and the seed, not on the order of rows."""
    order = table["subject"].sort_values().index
    return pd.Series(np.random.default_rng(seed).random(len(table)), index=order).reindex(table.index)


def _describe_centers(table: pd.DataFrame, priority: pd.Series) -> pd.DataFrame:
    """Return one row per center: n, lowest diagnosis (1 where all are diseased), first priority."""
    groups = table.assign(priority=priority).groupby("center")
    return groups.agg(n=("subject", "size"), diagnosis=("diagnosis", "min"), priority=("priority", "min"))


def _round_in_turn(exact: pd.Series, *, low: Iterable[int], high: Iterable[int]) -> pd.Series:
    """Return whole numbers within the bounds; what rounding one adds or takes away is made up for at the next."""
    whole, carry = [], 0.0
    for wish, least, most in zip(exact, low, high, strict=True):
        wish += carry
        whole.append(int(np.clip(np.floor(wish + 0.5), least, most)))
        carry = wish - whole[-1]
    return pd.Series(whole, index=exact.index)


def _draw_subjects(table: pd.DataFrame, counts: pd.Series, priority: pd.Series) -> list:
    """Return the rows of `counts[center]` subjects of each center, its diagnoses in proportion.

    What rounding leaves to choose goes to the diagnosis that has had less than its due in the centers before.
    """
    rows, due = [], {0: 0.0, 1: 0.0}
    for center, count in counts.items():
        own = table[table["center"] == center]
        cells = {value: own.index[own["diagnosis"] == value] for value in due}
        exact = {value: count * len(cell) / len(own) for value, cell in cells.items()}
        taken = {value: int(exact[value] + 1e-9) for value in due}
        due = {value: due[value] + exact[value] for value in due}
        if sum(taken.values()) < count:
            taken[max(due, key=lambda value: due[value] - taken[value])] += 1
        due = {value: due[value] - taken[value] for value in due}
        rows += [row for value, cell in cells.items() for row in priority[cell].sort_values().index[: taken[value]]]
    return rows
