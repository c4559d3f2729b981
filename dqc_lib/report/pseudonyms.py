"""Reports without names: subjects, centers and scanners numbered in the order of the cohort's table."""

from __future__ import annotations

import os
from collections.abc import Iterable
from copy import copy
from dataclasses import replace
from pathlib import Path

import pandas as pd

from dqc_lib.cohort import Cohort
from dqc_lib.tables import write_table
from dqc_lib.travelling import Arm, Study

KINDS = {"subject": ("sub", 4), "center": ("center", 2), "scanner": ("scanner", 2)}
"""Columns of names: what a pseudonym begins with, and the least number of digits after it."""


def list_pseudonyms(cohort: Cohort) -> pd.DataFrame:
    """Return which pseudonym stands for whom.

    Names are numbered in the order in which the table first has them: no secret, and the same every time for the same
    table; subjects added at its end leave the others their numbers. Who knows the table's order knows who is who.

    Returns
    -------
    pandas.DataFrame
        Columns kind ("subject", "center" or "scanner"), name and pseudonym.

    Examples
    --------
    >>> row = {"diagnosis": 1, "sex": "F", "age": 61.0, "scanner": "Prisma 167024", "path": "/1.nii.gz"}
    >>> table = pd.DataFrame([row | {"subject": "Doe^Jane", "center": "Ward 7"}])
    >>> list_pseudonyms(Cohort(table, "."))["pseudonym"].tolist()
    ['sub-0001', 'center-01', 'scanner-01']
    """
    rows = []
    for kind, (word, digits) in KINDS.items():
        names = list(cohort.table[kind].unique())
        width = max(digits, len(str(len(names))))
        rows += [(kind, name, f"{word}-{number:0{width}d}") for number, name in enumerate(names, start=1)]
    return pd.DataFrame(rows, columns=["kind", "name", "pseudonym"])


def rename_study(study: Study, arms: Iterable[Arm]) -> tuple[Study, list[Arm]]:
    """Return copies of a study and its arms in which pseudonyms stand for all names; paths stay, to read images by.

    Raises
    ------
    ValueError
        If an arm names a subject, center or scanner that the cohort does not have.
    """
    pairs = list_pseudonyms(study.cohort)
    known = {kind: dict(part[["name", "pseudonym"]].to_numpy()) for kind, part in pairs.groupby("kind")}
    renamed = copy(study)
    renamed.cohort = study.cohort.replace(_rename(study.cohort.table, known, whose="the cohort"))
    return renamed, [_rename_arm(arm, known) for arm in arms]


def _rename_arm(arm: Arm, known: dict[str, dict[str, str]]) -> Arm:
    whose = f"arm {arm.name!r}"
    ledger = _rename(arm.ledger, known, whose=whose)
    _check(ledger["subjects"].explode(), known["subject"], "subject", whose)
    ledger = ledger.assign(subjects=[[known["subject"][name] for name in names] for names in ledger["subjects"]])
    return replace(arm, ledger=ledger, predictions=_rename(arm.predictions, known, whose=whose))


def _rename(table: pd.DataFrame, known: dict[str, dict[str, str]], *, whose: str) -> pd.DataFrame:
    """Return a table with the names in its columns of names replaced."""
    there = [kind for kind in KINDS if kind in table]
    for kind in there:
        _check(table[kind], known[kind], kind, whose)
    return table.assign(**{kind: table[kind].map(known[kind]) for kind in there})


def _check(names: pd.Series, known: dict[str, str], kind: str, whose: str) -> None:
    strangers = sorted(set(names) - set(known))
    if strangers:
        raise ValueError(f"{whose} names the {kind} {strangers[0]!r}; expected those of the study's cohort alone")


def check_key(path: Path, *, report: Path) -> None:
    """Raise unless the key can have this path: that of a new file, anywhere but beside the report.

    Raises
    ------
    ValueError
        If it would lie in the folder of the report, or in one below, where it would be handed on with it.
    FileExistsError
        If there is anything at the path, be it an older key: it is not replaced.
    """
    if path.resolve().is_relative_to(report.resolve().parent):
        raise ValueError(f"the key {path} would lie with the report {report}; expected a place that is kept apart")
    if os.path.lexists(path):
        raise FileExistsError(
            f"{path} is there already and is not replaced; expected the name of a new file for the key"
        )


def write_key(cohort: Cohort, path: Path) -> None:
    """Write which pseudonym stands for whom, as CSV, to a path that `check_key` has let pass."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(list_pseudonyms(cohort), path)
