"""Values of subjects at sites as harmonization is given them: checked once, rows that belong together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dqc_lib.arguments import show_value

ROUNDING = 1e-12  # relative: standard deviations below this share of the values, and variances closer than it, are none


@dataclass(frozen=True, eq=False)
class Measurements:
    """Values of subjects at sites, checked.

    Parameters
    ----------
    values : ndarray of float64, shape (n, features)
        Finite.
    sites : ndarray of str, of length n
    subjects : Index, of length n
        Each once.
    features : tuple of str
        Each once.
    named : bool
        Whether subjects have names, or are the rows of an array.
    """

    values: np.ndarray
    sites: np.ndarray
    subjects: pd.Index
    features: tuple[str, ...]
    named: bool


def check_measurements(values: pd.DataFrame | np.ndarray, sites: Sequence[str]) -> Measurements:
    """Return the values of subjects, (n, features), and the site of each; errors name the subject and the feature.

    Rows of a DataFrame are subjects by its index, and where sites are a Series, its index has to be the same. Rows of
    an array are subjects by their number, which nothing is compared with.

    Raises
    ------
    TypeError, ValueError
        If values are no numbers or not finite, a subject or feature comes twice, or lengths or indices differ.
    """
    table = values if isinstance(values, pd.DataFrame) else _name_rows(values)
    if twice := table.index[table.index.duplicated()].tolist():
        raise ValueError(f"every subject must come once; {twice[0]!r} comes {list(table.index).count(twice[0])} times")
    features = tuple(map(str, table.columns))
    if len(set(features)) < len(features):
        twice = next(name for name in features if features.count(name) > 1)
        raise ValueError(f"every feature must come once; {twice!r} comes {features.count(twice)} times")
    numbers = _read_numbers(table)
    named = isinstance(values, pd.DataFrame)
    names = match_rows("sites", sites, table.index, named=named)
    for subject, name in zip(table.index, names, strict=True):
        if not isinstance(name, str) or not name:
            raise TypeError(f"the site of subject {subject!r} must be a name, got {show_value(name)}")
    if not numbers.size:
        raise ValueError(f"values must have subjects and features, got shape {numbers.shape}")
    # NumPy's own kind of text would show in messages
    names = np.array([str(name) for name in names], dtype=object)
    return Measurements(numbers, names, table.index, features, named)


def restore(values: np.ndarray, *, like: object) -> pd.DataFrame | np.ndarray:
    """Return values in the form of those that were given: a DataFrame with its names, or an array."""
    if isinstance(like, pd.DataFrame):
        return pd.DataFrame(values, index=like.index, columns=like.columns)
    return values


def match_rows(name: str, given: object, subjects: pd.Index, *, named: bool) -> np.ndarray:
    """Return one entry per subject as an array of objects; a Series must have the index of subjects with names."""
    if isinstance(given, str) or not hasattr(given, "__len__"):
        raise TypeError(f"{name} must be a sequence with one entry per subject, got {show_value(given)}")
    if len(given) != len(subjects):
        raise ValueError(f"{name} must have one entry for each of {len(subjects)} subjects, got {len(given)}")
    if isinstance(given, pd.Series) and named:
        require_same_rows(name, given.index, subjects)
    return pd.Series(list(given), dtype=object).to_numpy()


def require_same_rows(name: str, index: pd.Index, rows: pd.Index, *, like: str = "values") -> None:
    """Raise a ValueError that names the first row at which two indices of one length name different subjects.

    Windows may be named by subject and number, and what belongs to them by subject: names that both have are compared.
    """
    if index.nlevels != rows.nlevels and (both := {*index.names} & {*rows.names} - {None}):
        index, rows = (one.droplevel([level for level in one.names if level not in both]) for one in (index, rows))
    for at, (found, expected) in enumerate(zip(index, rows, strict=True)):
        if found != expected:
            raise ValueError(f"{name} and {like} must be of the same subjects; row {at}: {found!r} and {expected!r}")


def _name_rows(values: object) -> pd.DataFrame:
    """Return an array (n, features) as a DataFrame."""
    array = np.asarray(values)
    if array.ndim != 2:
        raise TypeError(f"values must be a DataFrame or an array (subjects, features), got shape {array.shape}")
    return pd.DataFrame(array)


def _read_numbers(table: pd.DataFrame) -> np.ndarray:
    """Return the values as float64, or name the first that is no finite number."""
    for name in table.columns:
        if not pd.api.types.is_numeric_dtype(table[name]) or pd.api.types.is_bool_dtype(table[name]):
            raise TypeError(f"feature {str(name)!r} must hold numbers, got {table[name].dtype}")
    numbers = table.to_numpy(dtype=np.float64, na_value=np.nan)
    if (bad := np.argwhere(~np.isfinite(numbers))).size:
        row, column = bad[0]
        raise ValueError(
            f"values must be finite; feature {str(table.columns[column])!r} of subject {table.index[row]!r} is"
            f" {numbers[row, column]}, {len(bad)} such values in all"
        )
    return numbers
