"""The ledger: an append-only record of attempts and decisions, one JSON line each.

An attempt is one optimizer step on a batch or a single image, followed by what a rule decided about it. Rows are
written as they happen, so that a killed run loses the attempt under way and nothing else.
"""

from __future__ import annotations

import html
import json
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import pandas as pd

from dqc_lib.arguments import is_writable, require_path, show_value

STAGES = ("pretraining", "watch", "control", "closing")
LEVELS = ("batch", "single", "revisit")
DECISIONS = ("accepted", "split", "deferred", "eliminated")
WORDS = {"stage": STAGES, "level": LEVELS, "decision": DECISIONS}
COUNTS = ("fp", "n_neg", "fn", "n_pos")
REFERENCE_COUNTS = tuple(f"reference_{name}" for name in COUNTS)
MEASURES = ("update_norm", "loss", "reference_loss", "tolerance", "norm_limit")
COLUMNS = (
    *("cycle", "stage", "level", "center", "subjects", "n", "update_norm"),
    *(*COUNTS, "loss", *REFERENCE_COUNTS, "reference_loss", "exact"),
    *("tolerance", "norm_limit", "decision", "seconds"),
)
"""Keys of every row. Counts are of the verification subjects after the attempt (a rule that isolates: after the step as
it would have been without momentum), `reference_...` what it was held against, `loss` their mean cross-entropy, `exact`
whether the model looked at all of those subjects, or some of both counts were foreseen (True, False),
`tolerance` the allowed increase of a rate, `norm_limit` the update norm above which an attempt was suspicious; None is
what was not asked for. `seconds` is the time that the attempt took."""
START = b'{"cycle":'  # of every line that was written here
LARGEST = 2**63 - 1  # what a column of whole numbers holds
RATES = {
    f"{prefix}{rate}": (f"{prefix}{count}", f"{prefix}{total}")
    for prefix in ("", "reference_")
    for rate, count, total in (("false_positive_rate", "fp", "n_neg"), ("false_negative_rate", "fn", "n_pos"))
}


class Ledger:
    """Rows of attempts, kept in memory and, where a path is given, in a file that grows with them.

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
        if self.path is None:
            return
        if self.path.is_dir():
            raise IsADirectoryError(f"{self.path} is a folder; expected a ledger of JSON lines, or no file yet")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.touch()
        self._rows, end = _read_rows(self.path)
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
        ledger._rows = _read_rows(path)[0]
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
        if self.path is not None:
            with self.path.open("a", encoding="utf-8", newline="\n") as stream:
                stream.write(json.dumps(checked) + "\n")
        self._rows.append(checked)

    @property
    def rows(self) -> tuple[dict[str, Any], ...]:
        """The rows in the order in which they were written."""
        return tuple(self._rows)

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

    def _repr_html_(self) -> str:
        decisions = Counter(row["decision"] for row in self._rows)
        counts = ", ".join(f"{decisions[name]} {name}" for name in DECISIONS if decisions[name])
        where = "in memory" if self.path is None else html.escape(self.path.name)
        return f"<b>Ledger</b> {where}: {len(self)} attempts" + (f" ({counts})" if counts else "")


def check_row(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with its keys in the order of `COLUMNS` and plain Python values.

    Raises
    ------
    ValueError
        If a key is unknown or missing, a word is not one of its column's, or counts contradict each other.
    TypeError
        If a value is of another type than its column's.
    """
    for name in row:
        if name not in COLUMNS:
            raise ValueError(f"unknown key {name!r}; expected {', '.join(COLUMNS)}")
    for name in COLUMNS:
        if name not in row:
            raise ValueError(f"key {name!r} is missing; expected every one of {', '.join(COLUMNS)}")
    checked = {name: _check_value(name, row[name]) for name in COLUMNS}
    if checked["n"] != len(checked["subjects"]):
        raise ValueError(f"n is {checked['n']}; expected {len(checked['subjects'])}, the number of subjects")
    for count, total in RATES.values():
        if (checked[count] is None) != (checked[total] is None) or (checked[count] or 0) > (checked[total] or 0):
            came = f"{count} is {checked[count]} and {total} is {checked[total]}"
            raise ValueError(f"{came}; expected both or neither, and {count} at most {total}")
    return checked


def _check_value(name: str, value: Any) -> Any:
    if name in WORDS:
        if not isinstance(value, str) or value not in WORDS[name]:
            raise ValueError(f"{name} is {value!r}; expected one of {', '.join(WORDS[name])}")
        return value
    if name == "center":
        return _check_text(name, value)
    if name == "subjects":
        if not isinstance(value, (list, tuple)) or not value:
            raise TypeError(f"subjects is {value!r}; expected a list of at least one name")
        return [_check_text("subjects", subject) for subject in value]
    if value is None and name not in ("cycle", "n", "seconds"):
        return None
    if name == "exact":
        if not isinstance(value, bool):
            raise TypeError(f"{name} is {value!r}; expected True or False")
        return value
    kind, words = (Real, "a number") if name in (*MEASURES, "seconds") else (Integral, "an integer from 0")
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}; expected {words}")
    if kind is Integral and not 0 <= value <= LARGEST:
        raise ValueError(f"{name} is {show_value(value)}; expected {words}")
    try:
        return int(value) if kind is Integral else float(value)
    except OverflowError:
        raise ValueError(f"{name} is {show_value(value)}; expected {words} that a computer holds") from None


def _check_text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value or not is_writable(value):
        raise TypeError(f"{name} holds {show_value(value)}; expected a name")
    return str(value)


def _read_rows(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Return the rows of a file and the number of bytes they take; a last line cut short is left out with a warning."""
    rows, end = [], 0
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
            rows.append(check_row(row if isinstance(row, dict) else {}))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
        end += len(line)
    return rows, end


def require_rows(frame: pd.DataFrame, names: Iterable[str]) -> None:
    """Raise a TypeError unless this is a table, and a KeyError that names a column of `Ledger.to_frame` it lacks."""
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(f"the ledger must be a table, as Ledger.to_frame gives, got {show_value(frame)}")
    for name in names:
        if name not in frame:
            raise KeyError(f"the ledger has no column {name!r}; expected a table as Ledger.to_frame gives")


def summarize_centers(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row per center, in order of first attempt, of the table that `Ledger.to_frame` gives.

    Returns
    -------
    pandas.DataFrame
        Index `center`; `attempts`; `rejected`, attempts with a decision other than accepted; `share_rejected` (0 to 1);
        `subjects`, `deferred` and `eliminated`, numbers of distinct subjects.
    """
    require_rows(frame, ("center", "decision", "subjects"))
    groups = frame.groupby("center", sort=False)
    summary = pd.DataFrame({"attempts": groups.size()})
    summary["rejected"] = (frame["decision"] != "accepted").groupby(frame["center"]).sum().astype("int64")
    summary["share_rejected"] = summary["rejected"] / summary["attempts"]
    long = frame.explode("subjects")
    for name, rows in (
        ("subjects", long),
        ("deferred", long[long["decision"] == "deferred"]),
        ("eliminated", long[long["decision"] == "eliminated"]),
    ):
        summary[name] = (
            rows.groupby("center")["subjects"].nunique().reindex(summary.index, fill_value=0).astype("int64")
        )
    return summary


def summarize_subjects(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row per subject, in order of first attempt, of the table that `Ledger.to_frame` gives.

    Returns
    -------
    pandas.DataFrame
        Index `subject`; `center`; `visits`, attempts that contained the subject; `singles`, those of level single or
        revisit; `deferred`, how often it was put on the revisit list; `eliminated`; `eliminated_cycle` (NA
        where not eliminated); `last_decision`.
    """
    require_rows(frame, ("cycle", "level", "center", "decision", "subjects"))
    long = frame.explode("subjects").rename(columns={"subjects": "subject"})
    long = long.assign(
        single=long["level"] != "batch",
        deferral=long["decision"] == "deferred",
        elimination=long["decision"] == "eliminated",
    )
    summary = long.groupby("subject", sort=False).agg(
        center=("center", "first"),
        visits=("cycle", "size"),
        singles=("single", "sum"),
        deferred=("deferral", "sum"),
        eliminated=("elimination", "any"),
        last_decision=("decision", "last"),
    )
    cycles = long[long["elimination"]].groupby("subject")["cycle"].min().astype("Int64")
    summary = summary.astype({"visits": "int64", "singles": "int64", "deferred": "int64", "eliminated": bool})
    summary.insert(5, "eliminated_cycle", cycles)
    return summary
