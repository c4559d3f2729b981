"""What a row of a ledger holds, and the check of one."""

from __future__ import annotations

from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any

from dqc_lib.arguments import is_writable, show_value

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
LARGEST = 2**63 - 1  # what a column of whole numbers holds
RATES = {
    f"{prefix}{rate}": (f"{prefix}{count}", f"{prefix}{total}")
    for prefix in ("", "reference_")
    for rate, count, total in (("false_positive_rate", "fp", "n_neg"), ("false_negative_rate", "fn", "n_pos"))
}


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


@dataclass(frozen=True)
class Presence:
    """A center that could not take part from here on, or could again, or whose fault ended the run here for a time.

    Attributes
    ----------
    after : int
        How many attempts the ledger held then.
    cycle, stage : int, str
        As those of attempts.
    center : str
    present : bool
    reason : str
        What kept it away, or ended the run; empty when it is back.
    """

    after: int
    cycle: int
    stage: str
    center: str
    present: bool
    reason: str = ""


PRESENCE = tuple(part.name for part in fields(Presence))


def check_presence(after: int, row: dict[str, Any]) -> Presence:
    """Return a row about the presence of a center, after so many attempts.

    Raises
    ------
    ValueError, TypeError
        As `check_row`.
    """
    if set(row) != set(PRESENCE) - {"after"}:
        raise ValueError(f"keys are {', '.join(map(str, row))}; expected {', '.join(PRESENCE[1:])}")
    if not isinstance(row["present"], bool):
        raise TypeError(f"present is {show_value(row['present'])}; expected True or False")
    if not isinstance(row["reason"], str) or not is_writable(row["reason"]) or not (row["reason"] or row["present"]):
        raise TypeError(f"reason is {show_value(row['reason'])}; expected a text, empty for a center that is back")
    cycle, stage, center = (_check_value(name, row[name]) for name in ("cycle", "stage", "center"))
    return Presence(after, cycle, stage, center, row["present"], row["reason"])


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
