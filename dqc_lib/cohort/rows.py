"""Rows of a table file: texts under our names, from files no longer than agreed."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from dqc_lib.arguments import require_whole
from dqc_lib.cohort.table import OPTIONAL, quote_values
from dqc_lib.tables import unguard_text

MAX_BYTES = 64 * 1024**2
"""Of a table's file: some hundred thousand subjects."""
MISSING = ("", "n/a", "nan", "na")


def read_rows(source: Path, columns: Mapping[str, str], *, delimiter: str, max_bytes: int = MAX_BYTES) -> pd.DataFrame:
    """Return a file's columns under our names, every value a stripped text and n/a ""; refuse uneven lines.

    Parameters
    ----------
    source : path
        UTF-8, with or without a byte order mark.
    columns : mapping of str to str
        Our name for each column of the file; those in `OPTIONAL` may be missing, others than these are left aside.
    delimiter : str
    max_bytes : int
        A longer file is refused before it is read.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file; if it is longer, no table, lacks a column or has one twice, or a line is uneven.
    """
    require_whole("max_bytes", max_bytes, least=1)
    required = [name for name in columns if name not in OPTIONAL]
    if not source.is_file():
        raise FileNotFoundError(f"{source}: no such file; expected a table with the columns {quote_values(required)}")
    if (size := source.stat().st_size) > max_bytes:
        raise ValueError(f"{source}: {size} bytes; expected a table of at most {max_bytes} (max_bytes)")
    try:
        with source.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, delimiter=delimiter)
            lines = [(reader.line_num, [value.strip() for value in line]) for line in reader if any(line)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{source}: not a table in UTF-8 text ({error})") from None
    header = lines[0][1] if lines else []
    _check_header(header, required, source)
    if len(lines) == 1:
        raise ValueError(f"{source}: the table has no rows; expected at least one subject")
    for number, line in lines[1:]:
        if len(line) != len(header):
            raise ValueError(
                f"{source}, line {number}: {len(line)} values; expected {len(header)}, one for each column"
            )
    values = [["" if value.lower() in MISSING else unguard_text(value) for value in line] for _, line in lines[1:]]
    table = pd.DataFrame(values, columns=header, dtype=object)
    return table[[name for name in columns if name in header]].rename(columns=columns)


def _check_header(header: list[str], required: list[str], source: Path) -> None:
    expected = f"expected {quote_values(required)}, came {quote_values(header)}"
    for name in required:
        if name not in header:
            raise ValueError(f"{source}: column {name!r} is missing; {expected}")
    counts = Counter(header)
    for name in header:
        if counts[name] > 1:
            raise ValueError(f"{source}: column {name!r} is there more than once; {expected}")
        if name not in OPTIONAL and name.lower() in OPTIONAL:
            raise ValueError(f"{source}: column {name!r} is not spelled as expected, {name.lower()!r}")
