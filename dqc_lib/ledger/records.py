"""The append-only record of attempts and decisions, one JSON line each."""

from __future__ import annotations

import html
import json
import os
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from dqc_lib.arguments import require_path
from dqc_lib.ledger.schema import (
    COLUMNS,
    COUNTS,
    DECISIONS,
    MEASURES,
    PRESENCE,
    RATES,
    REFERENCE_COUNTS,
    Presence,
    check_presence,
    check_row,
)

START = b'{"cycle":'  # of every line that was written here


class Ledger:
    """Rows of attempts, kept in memory and, where a path is given, in a file that grows with them.

    Where centers are machines of their own and some could not take part, the ledger says so between the attempts (see
    `presences`).

    Parameters
    ----------
    path : path, optional
        File of JSON lines. One that holds rows already is continued; a last line that a killed run cut short is
        removed with a warning.

    Raises
    ------
    ValueError
        If the file holds a line that is not a row of a ledger; it is left as it is then.
    IsADirectoryError
        If the path is that of a folder.

    Examples
    --------
    >>> ledger = Ledger()
    >>> empty = dict.fromkeys(COLUMNS)
    >>> ledger.append(**empty | {"cycle": 0, "stage": "control", "level": "batch", "center": "A", "subjects": ["sub-1"],
    ...                          "n": 1, "fp": 1, "n_neg": 4, "decision": "accepted", "seconds": 0.1})
    >>> len(ledger), ledger.to_frame()["false_positive_rate"].tolist()
    (1, [0.25])
    """

    def __init__(self, path: str | os.PathLike | None = None) -> None:
        self.path = None if path is None else require_path("path", path)
        self._rows: list[dict[str, Any]] = []
        self._presences: list[Presence] = []
        if self.path is None:
            return
        if self.path.is_dir():
            raise IsADirectoryError(f"{self.path} is a folder; expected a ledger of JSON lines, or no file yet")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.touch()
        self._rows, self._presences, end = _read_rows(self.path)
        with self.path.open("r+b") as stream:
            stream.truncate(end)
            if end and not self.path.read_bytes()[:end].endswith(b"\n"):
                stream.seek(end)
                stream.write(b"\n")

    @classmethod
    def read(cls, path: str | os.PathLike) -> Ledger:
        """Return the rows of a file as a ledger in memory; the file is left as it is.

        A last line that was cut short is left out with a warning.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If any other line is not a row of a ledger; the message names the file and the line's number.
        """
        path = require_path("path", path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; expected a ledger of JSON lines")
        ledger = cls()
        ledger._rows, ledger._presences, _ = _read_rows(path)
        return ledger

    def append(self, **row: Any) -> None:
        """Add one row, written and flushed before this returns.

        Parameters
        ----------
        **row
            Every key of `COLUMNS` and no other.

        Raises
        ------
        ValueError, TypeError
            If a key is missing or unknown, or a value is not what its column holds; nothing is written then.
        """
        checked = check_row(row)
        self._write(checked)
        self._rows.append(checked)

    def note_presence(self, *, cycle: int, stage: str, center: str, present: bool, reason: str = "") -> None:
        """Write down that a center cannot take part from here on, and why, or that it can again, or that the run ends
        for its fault; see `Presence`.

        Raises
        ------
        ValueError, TypeError
            As `append`.
        """
        row = {"cycle": cycle, "stage": stage, "center": center, "present": present, "reason": reason}
        checked = check_presence(len(self), row)
        self._write(row)
        self._presences.append(checked)

    def _write(self, row: dict[str, Any]) -> None:
        if self.path is not None:
            with self.path.open("a", encoding="utf-8", newline="\n") as stream:
                stream.write(json.dumps(row) + "\n")

    @property
    def rows(self) -> tuple[dict[str, Any], ...]:
        """The attempts in the order in which they were written."""
        return tuple(self._rows)

    @property
    def presences(self) -> tuple[Presence, ...]:
        """Which centers could not take part, and since when or until when, and whose faults ended the run for a time;
        none where all took part throughout."""
        return tuple(self._presences)

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)

    def to_frame(self) -> pd.DataFrame:
        """Return the rows as a table: `COLUMNS`, then the rates derived from the counts (0 to 1, higher is worse).

        Counts that were not asked for are NA; a rate whose count is NA or whose denominator is 0 is NaN.
        """
        frame = pd.DataFrame(self._rows, columns=list(COLUMNS), dtype=object)
        types = dict.fromkeys((*COUNTS, *REFERENCE_COUNTS), "Int64")
        types |= dict.fromkeys((*MEASURES, "seconds"), "float64")
        types |= {"cycle": "int64", "n": "int64", "exact": "boolean"}
        frame = frame.astype(types)
        for rate, (count, total) in RATES.items():
            denominators = frame[total].astype("Float64").astype("float64")
            frame[rate] = frame[count].astype("Float64").astype("float64") / denominators.where(denominators > 0)
        return frame

    def list_presences(self) -> pd.DataFrame:
        """Return `presences` as a table with their attributes as columns."""
        types = {"after": "int64", "cycle": "int64", "present": "bool"}
        return pd.DataFrame(map(asdict, self._presences), columns=list(PRESENCE)).astype(types)

    def _repr_html_(self) -> str:
        decisions = Counter(row["decision"] for row in self._rows)
        counts = ", ".join(f"{decisions[name]} {name}" for name in DECISIONS if decisions[name])
        where = "in memory" if self.path is None else html.escape(self.path.name)
        missed = len({presence.center for presence in self._presences if not presence.present})
        parts = [counts] if counts else []
        parts += [f"{missed} {'center' if missed == 1 else 'centers'} absent for a time"] if missed else []
        return f"<b>Ledger</b> {where}: {len(self)} attempts" + (f" ({'; '.join(parts)})" if parts else "")


def _read_rows(path: Path) -> tuple[list[dict[str, Any]], list[Presence], int]:
    """Return the attempts and presences in a file and the number of bytes they take; a last line cut short is left out
    with a warning."""
    rows, presences, end = [], [], 0
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            head = line.strip(b"\0")[: len(START)]  # a machine that fails may leave zeros
            if line.endswith(b"\n") or head != START[: len(head)]:
                raise ValueError(
                    f"{path}, line {number}: not JSON ({line[:40]!r}); expected a row of a ledger"
                ) from None
            message = f"{path}, line {number}: cut short and left out; the attempt under way when the run ended is lost"
            warnings.warn(message, stacklevel=3)
            break
        try:
            if isinstance(row, dict) and "present" in row:
                presences.append(check_presence(len(rows), row))
            else:
                rows.append(check_row(row if isinstance(row, dict) else {}))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
        end += len(line)
    return rows, presences, end
