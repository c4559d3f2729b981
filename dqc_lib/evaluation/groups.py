"""Ways to group subjects: by a column, by several crossed, by age band."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
import pandas as pd

from dqc_lib.arguments import show_value

AGE_EDGES = (0, 55, 65, 75, 130)


def add_age_band(table: pd.DataFrame, edges: Sequence[int] = AGE_EDGES) -> pd.DataFrame:
    """Return the table with a column ``age_band``, an ordered category such as "<55", "55-64", "65-74", "75+".

    Parameters
    ----------
    table : DataFrame
        With a column ``age`` in years.
    edges : sequence of int
        At least three, increasing. A band holds its lower edge and not its upper one, except the last, which holds
        both. Every band is a category, also where nobody is in it.

    Returns
    -------
    DataFrame
        A copy; the table given is not changed.

    Raises
    ------
    KeyError, ValueError
        If there is no column ``age``; if the edges are not as said, or an age is missing or lies outside them (the
        message names the first ``subject``, where the table has such a column).

    Examples
    --------
    >>> list(add_age_band(pd.DataFrame({"age": [54.9, 55.0, 81.0]}))["age_band"])
    ['<55', '55-64', '75+']
    """
    require_columns(table, ["age"])
    edges = list(edges)
    if len(edges) < 3 or any(edge != int(edge) for edge in edges) or sorted(set(edges)) != edges:
        raise ValueError(f"edges must be three or more increasing whole numbers; came {edges}")
    age = table["age"].to_numpy(dtype=np.float64, na_value=np.nan)
    outside = ~((age >= edges[0]) & (age <= edges[-1]))
    if outside.any():
        came = f"{age[outside][0]}{_name_first(table, outside)}"
        raise ValueError(f"ages must lie from {edges[0]} to {edges[-1]} years; came {came}")
    middle = [f"{low}-{high - 1}" for low, high in pairwise(edges[1:-1])]
    labels = [f"<{edges[1]}", *middle, f"{edges[-2]}+"]
    band = pd.Categorical.from_codes(np.digitize(age, edges[1:-1]), categories=labels, ordered=True)
    return table.assign(age_band=band)


def band_ages(table: pd.DataFrame, ways: Iterable[tuple[str, ...]]) -> pd.DataFrame:
    """Return the table with ``age_band``, made from ``age``, where it is asked for and not there."""
    wanted = "age_band" not in table and any("age_band" in names for names in ways)
    return add_age_band(table) if wanted else table


@dataclass(frozen=True, eq=False)
class Grouping:
    """One way to group the rows of a table.

    Parameters
    ----------
    label : str
        "overall", "sex", "sex x age band".
    groups : list of str
        Names of all groups, also of those that hold nobody: "all", "F", "F, <55".
    codes : DataFrame
        Per row the number of its level in every column that is crossed.
    sizes : tuple of int
        How many levels each column has; their product is the number of groups.
    """

    label: str
    groups: list[str]
    codes: pd.DataFrame
    sizes: tuple[int, ...]

    @property
    def members(self) -> np.ndarray:
        """Number of the group of every row, an index of `groups`."""
        return np.ravel_multi_index(self.codes.to_numpy().T, self.sizes) if len(self.codes) else np.zeros(0, dtype=int)


def group_subjects(table: pd.DataFrame, names: Sequence[str]) -> Grouping:
    """Return the grouping by the columns `names`, crossed; without names, everybody in one group "all"."""
    if not names:
        return Grouping("overall", ["all"], pd.DataFrame({"0": np.zeros(len(table), dtype=int)}), (1,))
    levels = [list_levels(table, name) for name in names]
    codes = {str(at): pd.Categorical(table[name], levels[at]).codes.astype(int) for at, name in enumerate(names)}
    label = label_grouping(names)
    groups = _name_groups(label, list(product(*levels)))
    return Grouping(label, groups, pd.DataFrame(codes), tuple(len(of_column) for of_column in levels))


def list_ways(by: Iterable[str | tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Return every way to group as a tuple of column names."""
    if isinstance(by, str):
        raise TypeError(f"by must be a list of column names or tuples of names; came the string {by!r}")
    ways = [(names,) if isinstance(names, str) else tuple(names) for names in by]
    labels = [label_grouping(names) for names in ways]
    for names, label in zip(ways, labels, strict=True):
        if not names or labels.count(label) > 1:
            raise ValueError(f"by must name at least one column at a time, and nothing twice; came {names} in {ways}")
    return ways


def label_grouping(names: Sequence[str]) -> str:
    """Return "sex x age band"."""
    return " x ".join(name.replace("_", " ") for name in names)


def require_columns(table: pd.DataFrame, names: Iterable[str]) -> None:
    """Raise a KeyError that names the columns which are not there and those that are."""
    if not isinstance(table, pd.DataFrame):
        raise TypeError(f"expected a table with the columns {list(names)}; came {show_value(table)}")
    if missing := [name for name in dict.fromkeys(names) if name not in table.columns]:
        raise KeyError(f"missing columns {missing}; the table has {list(table.columns)}")


def list_levels(table: pd.DataFrame, name: str) -> list:
    """Return the categories of a column in their order, or its distinct values sorted."""
    column = table[name]
    if (missing := column.isna()).any():
        first = _name_first(table, missing.to_numpy())
        raise ValueError(f"column {name!r} is missing for {int(missing.sum())} of {len(column)} rows{first}")
    if hasattr(column, "cat"):
        return list(column.cat.categories)
    try:
        return sorted(column.unique())
    except TypeError:
        kinds = {type(value).__name__: value for value in column.unique()}
        came = ", ".join(f"{value!r} ({kind})" for kind, value in kinds.items())
        raise TypeError(f"column {name!r} must hold values of one type, to be sorted; came {came}") from None


def _name_groups(label: str, crossed: list[tuple]) -> list[str]:
    """Return "F, <55" for every group; no two alike, for tables and figures know groups by their names."""
    named: dict[str, tuple] = {}
    for values in crossed:
        name = ", ".join(map(str, values))
        if name in named:
            raise ValueError(
                f"two groups of {label!r} would both be called {name!r}: {named[name]} and {values}; expected values"
                " that differ as text, without ', ' where columns are crossed"
            )
        named[name] = values
    return list(named)


def _name_first(table: pd.DataFrame, culprits: np.ndarray) -> str:
    """Return ", first for subject 'sub-1'", or nothing where the table names no subjects."""
    return f", first for subject {table['subject'].to_numpy()[culprits.argmax()]!r}" if "subject" in table else ""
