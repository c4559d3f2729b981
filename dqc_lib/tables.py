"""Tables as files that a spreadsheet may open: no cell is a formula there, and we read back what was written."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import pandas as pd

STARTS = "=+\\-@\t\r\n＝＋－＠"
"""What a cell begins with that a spreadsheet takes for a formula (OWASP, CSV Injection), full-width forms included."""
_AS_IS = re.compile(f"'*[{STARTS}]")
_GUARDED = re.compile(f"'+[{STARTS}]")


def guard_text(text: str) -> str:
    """Return a text with an apostrophe before it if a spreadsheet would compute it, or if it looks guarded already.

    `unguard_text` takes the apostrophe off again, whatever the text: no two texts are written alike.

    Examples
    --------
    >>> guard_text("=1+1"), guard_text("sub-1"), guard_text("'=1+1")
    ("'=1+1", 'sub-1', "''=1+1")
    """
    return f"'{text}" if _AS_IS.match(text) else text


def unguard_text(text: str) -> str:
    """Return the text that `guard_text` was given.

    Examples
    --------
    >>> unguard_text("'=1+1"), unguard_text("'tis"), unguard_text("=1+1")
    ('=1+1', "'tis", '=1+1')
    """
    return text[1:] if _GUARDED.match(text) else text


def write_table(table: pd.DataFrame, path: Path, *, separator: str = ",") -> Path:
    """Write a table as UTF-8 text without its index, texts guarded and numbers as they are; return its path.

    Anything but a text, such as -0.5, stays what it is. Names of columns are texts too.
    """
    guarded = table.map(lambda value: guard_text(value) if isinstance(value, str) else value)
    guarded.columns = [guard_text(str(name)) for name in table.columns]
    # Python's csv leaves a carriage return bare, which readers take for the end of a line
    bare = any(
        "\r" in value for row in [guarded.columns, *guarded.to_numpy()] for value in row if isinstance(value, str)
    )
    quoting = csv.QUOTE_NONNUMERIC if bare else csv.QUOTE_MINIMAL
    guarded.to_csv(path, sep=separator, index=False, lineterminator="\n", encoding="utf-8", quoting=quoting)
    return path


def read_table(path: Path, **options: Any) -> pd.DataFrame:
    """Return a table that `write_table` wrote, its texts as they were.

    Parameters
    ----------
    path : path
    **options
        Of `pandas.read_csv`, such as the columns that are texts whatever they look like.
    """
    table = pd.read_csv(path, float_precision="round_trip", **options)
    table.columns = [unguard_text(name) for name in table.columns]
    return table.map(lambda value: unguard_text(value) if isinstance(value, str) else value)
