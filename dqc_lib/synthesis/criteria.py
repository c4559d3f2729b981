"""The table of arms by criteria, filled with what was measured: a value, its interval, and of how many.

The source of the comparison sets three ways of working together (pooling, federated averaging, alignment of a latent
space) beside three criteria: a mathematical guarantee of privacy, statistical heterogeneity, and fidelity in time.
There the cells are words. Here a cell is a finding that was handed in, or says that nothing was measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import pandas as pd

from dqc_lib.arguments import require_kind, require_number, require_text, require_whole, show_value

CRITERIA = MappingProxyType(
    {
        "privacy": "privacy: epsilon",
        "membership": "attack: AUROC",
        "heterogeneity": "loss by shift",
        "time": "persistence gap",
        "autocorrelation": "autocorr. gap",
        "traffic": "traffic: MB",
        "seconds": "training: seconds",
    }
)
"""What is asked of an arm, and how it is headed; of all of them lower is better. An epsilon of infinity is no guarantee
at all, and an attack's AUROC of 0.5 is a coin."""
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Finding:
    """A measured value with its interval.

    Parameters
    ----------
    value : float
        NaN if it was not measured, infinity where there is no bound.
    low, high : float
        Of its interval; NaN if it has none.
    n : int
        How many patients, runs or whatever the unit says are behind it; 0 for what follows without counting.
    unit : str
        What n counts, such as "seeds".

    Examples
    --------
    >>> str(Finding(0.0312, 0.02, 0.051, n=5, unit="seeds"))
    '0.03 [0.02, 0.05]'
    >>> str(Finding(float("inf"))), str(Finding())
    ('∞', 'not measured')
    """

    value: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    n: int = 0
    unit: str = ""

    def __post_init__(self) -> None:
        for name in ("value", "low", "high"):
            require_number(f"Finding.{name}", getattr(self, name))
        require_whole("Finding.n", self.n, least=0)
        require_text("Finding.unit", self.unit)
        if np.isnan(self.low) != np.isnan(self.high):
            raise ValueError(f"Finding needs both ends of its interval or none, got {self.low!r} and {self.high!r}")
        if self.low > self.high or (np.isnan(self.value) and not np.isnan(self.low)):
            raise ValueError(f"Finding must have low <= high around a value, got {self.low!r}, {self.high!r}")

    def __str__(self) -> str:
        if np.isnan(self.value):
            return NOT_MEASURED
        if np.isinf(self.value):
            return "∞"
        digits = choose_digits([self.value, self.low, self.high])
        span = "" if np.isnan(self.low) else f" [{self.low:z.{digits}f}, {self.high:z.{digits}f}]"
        return f"{self.value:z.{digits}f}{span}"


def choose_digits(values: Sequence[float]) -> int:
    """Return how many decimals show the largest of some values: 3 below 0.01, 2 below 10, 1 below 100, else none."""
    held = [abs(value) for value in values if np.isfinite(value)]
    largest = max(held, default=0.0)
    return next((digits for end, digits in ((0.01, 3), (10, 2), (100, 1)) if 0 < largest < end), 0 if largest else 2)


def summarize_repeats(values: Sequence[float], *, unit: str = "seeds", confidence: float = 0.95) -> Finding:
    """Return the mean of independent repetitions with the interval of Student's t; no interval for one.

    Parameters
    ----------
    values : sequence of float
        One for each repetition; a NaN makes the mean NaN.
    unit : str
        What is repeated.
    confidence : float
        Above 0 and below 1.
    """
    from scipy import stats

    held = np.asarray(values, dtype=float)
    if held.ndim != 1 or not len(held):
        raise ValueError(f"values must be a list of at least one number, got {show_value(values)}")
    require_number("confidence", confidence)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be above 0 and below 1, got {confidence!r}")
    mean = float(held.mean())
    if len(held) < 2 or not np.isfinite(mean):
        return Finding(mean, n=len(held), unit=unit)
    reach = stats.t.ppf((1 + confidence) / 2, len(held) - 1) * held.std(ddof=1) / np.sqrt(len(held))
    return Finding(mean, mean - float(reach), mean + float(reach), n=len(held), unit=unit)


def measure_change(before: Sequence[float], after: Sequence[float], *, unit: str = "seeds") -> Finding:
    """Return by how much a value rises from before to after, repetition by repetition; the interval is of the pairs."""
    if len(before) != len(after):
        raise ValueError(f"before and after must be of the same repetitions, got {len(before)} and {len(after)}")
    return summarize_repeats(np.subtract(after, before), unit=unit)


def tabulate_criteria(findings: Mapping[str, Mapping[str, Finding]]) -> pd.DataFrame:
    """Return the table in words: a row for each arm, a column for each criterion of `CRITERIA` that any arm has.

    Parameters
    ----------
    findings : mapping of str to mapping of str to Finding
        By arm and by criterion. What is missing is "not measured".

    Returns
    -------
    DataFrame
        Texts such as "0.03 [0.02, 0.05]"; index arm, columns the headings of the criteria.

    Raises
    ------
    KeyError, TypeError, ValueError
        If a criterion is unknown, a cell is no finding, or there is none.
    """
    held = check_findings(findings)
    asked = list_criteria(held)
    cells = {CRITERIA[name]: [str(held[arm].get(name, Finding())) for arm in held] for name in asked}
    return pd.DataFrame(cells, index=pd.Index(list(held), name="arm"))


def list_criteria(findings: Mapping[str, Mapping[str, Finding]]) -> list[str]:
    """Return the criteria that any arm has, in the order of `CRITERIA`."""
    return [name for name in CRITERIA if any(name in row for row in findings.values())]


def check_findings(findings: Mapping[str, Mapping[str, Finding]]) -> dict[str, dict[str, Finding]]:
    """Return findings by arm and criterion, or say what is wrong with them."""
    require_kind("findings", findings, Mapping, such_as='{"averaging": {"time": Finding(0.03)}}')
    for arm, row in findings.items():
        require_kind(f"findings[{arm!r}]", row, Mapping, such_as='{"time": Finding(0.03)}')
        for name, finding in row.items():
            if name not in CRITERIA:
                raise KeyError(f"findings[{arm!r}] has {name!r}; expected some of {list(CRITERIA)}")
            require_kind(f"findings[{arm!r}][{name!r}]", finding, Finding, such_as="Finding(0.03, 0.02, 0.05)")
    if not any(findings.values()):
        raise ValueError("findings must hold at least one finding, got none")
    return {arm: dict(row) for arm, row in findings.items()}
