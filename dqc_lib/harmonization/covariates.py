"""Covariates, what harmonization shall keep, as columns of numbers, and whether they can be told from the sites."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dqc_lib.arguments import require_kind, require_names, show_value
from dqc_lib.harmonization.measurements import Measurements, require_same_rows

DEPENDENT = 1e-10  # share of a covariate's variation below which it counts as none


@dataclass(frozen=True)
class Coding:
    """How covariates become columns of numbers: all sites agree on it before anything is computed.

    Parameters
    ----------
    terms : tuple of (str, tuple or None)
        Name of each covariate with its levels, of which the first has no column, or None for a number.

    Examples
    --------
    >>> coding = agree_coding(pd.DataFrame({"age": [61.5, 70.0], "sex": ["M", "F"]}))
    >>> coding.columns
    ('age', 'sex=M')
    >>> coding.encode(pd.DataFrame({"age": [50.0], "sex": ["M"]})).tolist()
    [[50.0, 1.0]]
    """

    terms: tuple[tuple[str, tuple | None], ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the covariates."""
        return tuple(name for name, _ in self.terms)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns, "age" or "sex=M"."""
        found: list[str] = []
        for name, levels in self.terms:
            found += [name] if levels is None else [f"{name}={level}" for level in levels[1:]]
        return tuple(found)

    def encode(self, covariates: pd.DataFrame) -> np.ndarray:
        """Return the columns of these subjects, float64 (n, columns).

        Numbers are rounded to float32, as neuroCombat does, so that both give the same.

        Raises
        ------
        KeyError, TypeError, ValueError
            If a covariate is not there, is missing for a subject, or has a level that was not agreed on.
        """
        require_kind("covariates", covariates, pd.DataFrame, such_as="a table with one row per subject")
        if absent := [name for name in self.names if name not in covariates]:
            raise KeyError(f"missing covariates {absent}; the table has {list(covariates.columns)}")
        blocks = [np.zeros((len(covariates), 0))]
        for name, levels in self.terms:
            column = covariates[name]
            _require_known(name, column)
            blocks.append(_encode_number(name, column) if levels is None else _encode_levels(name, column, levels))
        return np.hstack(blocks)


def agree_coding(covariates: pd.DataFrame | None, *, categorical: Sequence[str] = ()) -> Coding:
    """Return the coding of a table of covariates: numbers as they are, texts, categories and booleans by level.

    Parameters
    ----------
    covariates : DataFrame or None
        One row per subject. Sites that do not pool agree on the levels beforehand and write the `Coding` down.
    categorical : sequence of str
        Columns of numbers that are names of groups.

    Raises
    ------
    KeyError, TypeError, ValueError
        If a column is not there, holds neither numbers nor groups, or is missing for a subject.
    """
    if covariates is None:
        return Coding()
    require_kind("covariates", covariates, pd.DataFrame, such_as="a table with one row per subject")
    grouped = require_names("categorical", categorical)
    if absent := [name for name in grouped if name not in covariates]:
        raise KeyError(f"missing covariates {absent}; the table has {list(covariates.columns)}")
    if twice := covariates.columns[covariates.columns.duplicated()].tolist():
        raise ValueError(f"every covariate must come once; {twice[0]!r} comes several times")
    terms = []
    for name in require_names("names of covariates", covariates.columns):
        _require_known(name, covariates[name])
        number = pd.api.types.is_numeric_dtype(covariates[name]) and not pd.api.types.is_bool_dtype(covariates[name])
        terms.append((name, None if number and name not in grouped else _list_levels(name, covariates[name])))
    return Coding(tuple(terms))


def _list_levels(name: str, column: pd.Series) -> tuple:
    """Return the distinct values of a column, sorted."""
    try:
        levels = tuple(sorted(column.unique().tolist()))
    except TypeError:
        raise TypeError(f"covariate {name!r} must hold values of one type, got several") from None
    if len(levels) < 2:
        raise ValueError(f"covariate {name!r} is {levels[0]!r} for all subjects; expected one that varies")
    return levels


def _require_known(name: str, column: pd.Series) -> None:
    """Raise a ValueError that names the first subject whose covariate is missing."""
    if (missing := column.isna().to_numpy()).any():
        first = column.index[missing.argmax()]
        raise ValueError(
            f"covariate {name!r} is missing for {int(missing.sum())} of {len(column)} subjects, first for {first!r}"
        )


def _encode_number(name: str, column: pd.Series) -> np.ndarray:
    if not pd.api.types.is_numeric_dtype(column):
        raise TypeError(f"covariate {name!r} must hold numbers, got {column.dtype}")
    # neuroCombat keeps numbers as float32; left as they are, the same data would give other values in the 7th digit
    with np.errstate(over="ignore"):  # what gets infinite is refused below
        numbers = column.to_numpy(dtype=np.float32)[:, np.newaxis].astype(np.float64)
    if not np.isfinite(numbers).all():
        culprit = column.index[(~np.isfinite(numbers)).ravel().argmax()]
        raise ValueError(f"covariate {name!r} must be finite, also as float32; that of subject {culprit!r} is not")
    return numbers


def _encode_levels(name: str, column: pd.Series, levels: tuple) -> np.ndarray:
    for subject, value in column.items():
        if value not in levels:
            raise ValueError(
                f"covariate {name!r} of subject {subject!r} must be one of {', '.join(map(repr, levels))},"
                f" got {show_value(value)}"
            )
    return np.array([[value == level for level in levels[1:]] for value in column], dtype=np.float64).reshape(
        len(column), len(levels) - 1
    )


def encode_rows(coding: Coding, covariates: pd.DataFrame | None, measured: Measurements) -> np.ndarray:
    """Return the columns of the covariates of measured subjects, (n, columns)."""
    if covariates is None and not coding.terms:
        return np.zeros((len(measured.values), 0))
    columns = coding.encode(covariates)
    if len(columns) != len(measured.values):
        raise ValueError(f"covariates must be of the {len(measured.values)} subjects of values, got {len(columns)}")
    if measured.named:
        require_same_rows("covariates", covariates.index, measured.subjects)
    return columns


def encode_known(
    coding: Coding,
    covariates: pd.DataFrame | None,
    measured: Measurements,
    *,
    unknown: Sequence[str],
    means: np.ndarray,
) -> np.ndarray:
    """Return the columns of the covariates, those of the covariates that are `unknown` at their means, (n, columns)."""
    absent = require_names("unknown", unknown)
    if strange := [name for name in absent if name not in coding.names]:
        raise KeyError(f"unknown must be among the covariates {list(coding.names)}, got {strange[0]!r}")
    known = Coding(tuple(term for term in coding.terms if term[0] not in absent))
    columns = np.tile(means, (len(measured.values), 1))
    columns[:, [name in known.columns for name in coding.columns]] = encode_rows(known, covariates, measured)
    return columns


def require_separable(
    within: np.ndarray, means: np.ndarray, *, counts: np.ndarray, sites: Sequence[str], columns: Sequence[str]
) -> None:
    """Raise a ValueError that names the covariate which sites, or other covariates, determine.

    Parameters
    ----------
    within : ndarray, shape (columns, columns)
        Sums of products of the covariates about the means of their sites.
    means : ndarray, shape (sites, columns)
    counts : ndarray of int, shape (sites,)
    sites, columns : sequence of str
    """
    raw = np.diag(within) + counts @ means**2
    overall = raw - (counts @ means) ** 2 / counts.sum()
    for at, name in enumerate(columns):
        if overall[at] <= DEPENDENT**2 * raw[at]:
            raise ValueError(f"covariate {name!r} is {means[0, at]:g} for all subjects; expected one that varies")
        if within[at, at] <= DEPENDENT * overall[at]:
            held = ", ".join(f"{site!r}: {mean:g}" for site, mean in zip(sites, means[:, at], strict=True))
            raise ValueError(
                f"covariate {name!r} does not vary within any site ({held}), so its effect cannot be told from that of"
                " the site; leave it out, or add subjects"
            )
        explained = within[at, :at] @ np.linalg.solve(within[:at, :at], within[:at, at])
        if within[at, at] - explained <= DEPENDENT * within[at, at]:
            before = ", ".join(columns[:at])
            raise ValueError(f"covariate {name!r} is determined by the site and by {before}; leave it out")
