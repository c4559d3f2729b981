"""Records of subjects with their labels, as cross-validation is given them: checked once, and whether they split."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from dqc_lib.arguments import require_text, require_whole, show_value
from dqc_lib.harmonization.measurements import require_same_rows

SPLITS = ("subject", "record")


def check_records(
    records: pd.DataFrame | np.ndarray,
    labels: Sequence,
    subjects: Sequence[str],
    *,
    names: tuple[str, str, str] = ("records", "labels", "subjects"),
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return records as float64 (n, features), labels and subjects as arrays, or say which record is wrong.

    `names` are what the arguments are called where they come from. Rows belong together by their place; where a table
    and a Series both name their rows, the names must agree, in the levels that both have.
    """
    values, called = np.asarray(records), names[0]
    if values.ndim != 2 or values.dtype.kind not in "iuf":
        raise TypeError(f"{called} must be numbers, (records, features), got {values.dtype} of shape {values.shape}")
    values = values.astype(np.float64)
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        raise ValueError(f"{called} must be finite; record {bad.argmax()} is not, {int(bad.sum())} such in all")
    found = [_read_entries(*given, n=len(values)) for given in zip(names[1:], (labels, subjects), strict=True)]
    named = {called: records} if isinstance(records, pd.DataFrame) else {}
    named |= {name: own for name, own in zip(names[1:], (labels, subjects), strict=True) if isinstance(own, pd.Series)}
    for name, own in list(named.items())[1:]:
        first = next(iter(named))
        require_same_rows(name, own.index, named[first].index, like=first)
    return values, *found


def _read_entries(name: str, given: Sequence, *, n: int) -> np.ndarray:
    """Return one entry per record as an array, or say what is wrong with them."""
    if isinstance(given, str) or not hasattr(given, "__len__"):
        raise TypeError(f"{name} must be a sequence with one entry per record, got {show_value(given)}")
    if len(given) != n:
        raise ValueError(f"{name} must have one entry for each of {n} records, got {len(given)}")
    # values of Python, not of NumPy, whose kind would show in messages
    entries = pd.Series(pd.Series(given).tolist()).to_numpy()
    if (missing := pd.isna(entries)).any():
        raise ValueError(f"{name} must have an entry for every record; record {missing.argmax()} has none")
    try:
        np.unique(entries)
    except TypeError:
        raise TypeError(f"{name} must be of one type, got several") from None
    return entries


def require_one_label(truth: np.ndarray, whose: np.ndarray) -> None:
    """Raise a ValueError that names a subject whose records have two labels."""
    counts = pd.Series(truth).groupby(whose).nunique()
    if several := counts.index[counts > 1].tolist():
        raise ValueError(f"all records of a subject must have one label; those of {several[0]!r} have several")


def check_split(truth: np.ndarray, whose: np.ndarray, *, split: str, folds: int, seed: int, repeats: int = 1) -> None:
    """Raise a TypeError or ValueError unless every class has enough subjects, or records, for the folds."""
    require_text("split", split)
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    for name, value, least in (("folds", folds, 2), ("seed", seed, 0), ("repeats", repeats, 1)):
        require_whole(name, value, least=least)
    units = pd.DataFrame({"label": truth, "unit": whose if split == "subject" else np.arange(len(whose))})
    counts = units.drop_duplicates()["label"].value_counts()
    if len(counts) < 2:
        raise ValueError(f"labels must be of two or more classes, got {counts.index.tolist()}")
    if counts.min() < folds:
        rarest = counts.index.tolist()[-1]
        raise ValueError(f"every class must have as many {split}s as folds, {folds}; {rarest!r} has {counts.min()}")
