"""The table: its columns, what a row may hold, and the cohort that carries it."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from unicodedata import category

import numpy as np
import pandas as pd

from dqc_lib.arguments import is_writable, require_kind, show_value

REQUIRED = ("subject", "center", "diagnosis", "sex", "age", "scanner", "path")
OPTIONAL = ("role", "harm", "placement")
COLUMNS = REQUIRED + OPTIONAL
ROLES = ("train", "verification", "test")
PLACEMENTS = ("", "center", "single")
MAX_AGE = 130.0
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""Characters that change how others are shown: control characters, line ends, and those that turn text round."""
UNSEEN = frozenset({"Cc", "Cf", "Zl", "Zp"})
"""Unicode's categories of those that are not seen, so that two names could look the same: all of `CONTROL`, and those
of no width."""
NO_HARM = ("none", "no", "0", "false", "good", "clean", "n/a", "nan", "na")  # words for a good image, which is ""


@dataclass(frozen=True, eq=False)
class Cohort:
    """A checked participants table and the folder it came from.

    Parameters
    ----------
    table : pandas.DataFrame
        Columns `REQUIRED` and any of `OPTIONAL`; `diagnosis` is 1 for disease and 0 for control, `sex` "F" or "M",
        `age` in years, `path` the subject's image. The cohort keeps a copy, columns in that order, rows from 0.
    root : pathlib.Path
        Folder the cohort was read from.

    Raises
    ------
    ValueError
        If `check_table` finds a fault.

    Examples
    --------
    >>> rows = [("sub-1", "A", 1, "F", 61.0, "unknown", "/1.nii.gz"), ("sub-2", "B", 0, "M", 58.5, "unknown", "/2.nii")]
    >>> cohort = Cohort(pd.DataFrame(rows, columns=REQUIRED), Path("."))
    >>> len(cohort), cohort.centers
    (2, ['A', 'B'])
    """

    table: pd.DataFrame
    root: Path

    def __post_init__(self) -> None:
        check_table(self.table)
        table = self.table[[name for name in COLUMNS if name in self.table]].reset_index(drop=True)
        object.__setattr__(self, "table", table.astype({"diagnosis": "int8", "age": "float64"}))
        object.__setattr__(self, "root", Path(self.root))

    def __len__(self) -> int:
        return len(self.table)

    @property
    def centers(self) -> list[str]:
        """The centers, in the order in which the table first names them."""
        return list(self.table["center"].unique())

    @property
    def harmful(self) -> frozenset[str]:
        """Subjects that carry harm, the ground truth; empty where the table has no `harm` column."""
        if "harm" not in self.table:
            return frozenset()
        return frozenset(self.table.loc[self.table["harm"] != "", "subject"])

    def replace(self, table: pd.DataFrame) -> Cohort:
        """Return a cohort with another table and the same root, checked anew."""
        return Cohort(table, self.root)

    def blinded(self) -> Cohort:
        """Return the cohort without `harm` and `placement`: what the loop and the rules may see."""
        return self.replace(self.table.drop(columns=["harm", "placement"], errors="ignore"))

    def select(
        self,
        *,
        role: str | Iterable[str] | None = None,
        subjects: Iterable[str] | None = None,
        centers: str | Iterable[str] | None = None,
    ) -> Cohort:
        """Return the subjects that meet every condition given, in the order of the table.

        Raises
        ------
        ValueError
            For a role, subject or center that the cohort does not have, and when nobody meets all conditions.
        """
        keep = np.ones(len(self.table), dtype=bool)
        for column, wanted in (("role", role), ("subject", subjects), ("center", centers)):
            if wanted is None:
                continue
            if column not in self.table:
                raise ValueError(
                    f"the cohort has no column {column!r}; expected one, for instance from split_by_subject"
                )
            names = [wanted] if isinstance(wanted, str) else list(wanted)
            unknown = sorted(set(names) - set(self.table[column]))
            if unknown:
                known = quote_values(self.table[column].unique())
                raise ValueError(f"no row has {column} {quote_values(unknown)}; expected among {known}")
            keep &= self.table[column].isin(names).to_numpy()
        if not keep.any():
            raise ValueError("no subject meets all conditions of the selection together; expected at least one")
        return self.replace(self.table[keep])

    def by_center(self) -> pd.DataFrame:
        """Return one row per center: n, n_positive, n_negative, share_female (0 to 1), mean_age (years), scanner."""
        groups = self.table.groupby("center", sort=False)
        table = groups.agg(n=("diagnosis", "size"), n_positive=("diagnosis", "sum")).astype(int)
        return table.assign(
            n_negative=table["n"] - table["n_positive"],
            share_female=groups["sex"].agg(lambda sex: (sex == "F").mean()),
            mean_age=groups["age"].mean(),
            scanner=groups["scanner"].agg(lambda scanner: ", ".join(scanner.unique())),
        )

    def _repr_html_(self) -> str:
        n_positive = int(self.table["diagnosis"].sum())
        roles = "".join(
            f", {n} {role}" for role, n in self.table.get("role", pd.Series(dtype=str)).value_counts().items()
        )
        return (
            f"<b>Cohort</b> {html.escape(self.root.name)}: {len(self)} subjects ({n_positive} disease, "
            f"{len(self) - n_positive} control), {len(self.centers)} centers{html.escape(roles)}"
        )


def check_table(table: pd.DataFrame) -> None:
    """Raise at the first fault of a participants table; return nothing.

    Raises
    ------
    ValueError
        For a missing or unknown column, no rows, an empty subject or center, a subject listed twice or in two roles,
        and for a value of any column that is missing or not allowed. The message names the subject or column, what
        was expected and what came.
    """
    require_kind("table", table, pd.DataFrame, such_as="Cohort.table")
    for name in REQUIRED:
        if name not in table:
            raise ValueError(
                f"column {name!r} is missing; expected {quote_values(REQUIRED)}, came {quote_values(table.columns)}"
            )
    for name in table.columns:
        if name not in COLUMNS:
            raise ValueError(
                f"column {name!r} is unknown; expected {quote_values(REQUIRED)} and any of {quote_values(OPTIONAL)}"
            )
        if list(table.columns).count(name) > 1:
            raise ValueError(f"column {name!r} is there more than once; expected every column once")
    if table.empty:
        raise ValueError("the table has no rows; expected at least one subject")
    _check_names(table)
    _check_subjects_are_unique(table)
    check_column(table, "diagnosis", _is_among(table["diagnosis"], [0, 1]), "1 (disease) or 0 (control)")
    check_column(table, "sex", _is_among(table["sex"], ["F", "M"]), "'F' or 'M'")
    age = pd.to_numeric(_drop_composites(table["age"]), errors="coerce")
    check_column(table, "age", age.between(0, MAX_AGE), f"a number of years from 0 to {MAX_AGE:.0f}")
    for name in ("scanner", "path", "harm"):
        if name in table:
            check_column(table, name, [_is_text(value) for value in table[name]], "a text in Unicode")
    for name in ("subject", "center", "scanner", "harm"):
        if name in table:
            seen = [UNSEEN.isdisjoint(map(category, value)) for value in table[name]]
            check_column(table, name, seen, "a text without control characters or others that are not seen")
    plain = [CONTROL.search(value) is None for value in table["path"]]  # folders may be named with zero-width joiners
    check_column(table, "path", plain, "a path without control characters")
    if "harm" in table:
        named = table["harm"].str.strip().str.lower()
        check_column(table, "harm", ~named.isin(NO_HARM), "'' (n/a in a file) for a good image, or the kind of harm")
    for name, allowed in (("role", ROLES), ("placement", PLACEMENTS)):
        if name in table:
            check_column(table, name, _is_among(table[name], allowed), quote_values(allowed))


def _check_names(table: pd.DataFrame) -> None:
    for row, subject in enumerate(table["subject"], start=1):
        if not _is_name(subject):
            raise ValueError(f"row {row}: subject is empty or not a text ({subject!r}); expected a name for every row")
    check_column(table, "center", [_is_name(value) for value in table["center"]], "the name of a center")


def _drop_composites(column: pd.Series) -> pd.Series:
    """Return the column with lists, complex numbers and the like as None: pandas cannot look for them."""
    return column.where([pd.api.types.is_scalar(value) and not isinstance(value, complex) for value in column], None)


def _is_among(column: pd.Series, allowed: Iterable) -> pd.Series:
    return _drop_composites(column).isin(allowed)


def _is_name(value: object) -> bool:
    return _is_text(value) and bool(value.strip())


def _is_text(value: object) -> bool:
    return isinstance(value, str) and is_writable(value)


def _check_subjects_are_unique(table: pd.DataFrame) -> None:
    twice = table[table["subject"].duplicated(keep=False)]
    if twice.empty:
        return
    rows = twice[twice["subject"] == twice["subject"].iloc[0]]
    roles = rows["role"].unique() if "role" in table else []
    what = f"is in {len(roles)} roles, {quote_values(roles)}" if len(roles) > 1 else f"is listed {len(rows)} times"
    raise ValueError(f"subject {rows['subject'].iloc[0]!r} {what}; expected one row with one role for every subject")


def check_column(table: pd.DataFrame, column: str, good: Iterable[bool], expected: str) -> None:
    """Raise a ValueError that names the subject of the first row that is not good, what came and what was expected."""
    bad = ~np.asarray(good, dtype=bool)
    if bad.any():
        row = table.iloc[int(np.argmax(bad))]
        value = row[column].item() if isinstance(row[column], np.generic) else row[column]
        came = "is missing" if pd.api.types.is_scalar(value) and pd.isna(value) else f"is {show_value(value)}"
        raise ValueError(f"subject {row['subject']!r} (center {row['center']!r}): {column} {came}; expected {expected}")


def quote_values(values: Iterable, *, most: int = 12) -> str:
    """Return the values for an error message, quoted and separated by commas; those after `most` are only counted."""
    values = iter(values)
    shown = ", ".join(repr(value) for value in islice(values, most))
    left = sum(1 for _ in values)
    return shown + (f" and {left} more" if left else "")
