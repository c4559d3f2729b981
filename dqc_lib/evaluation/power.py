"""How often the published rule accuses a step, computed before any model is trained: false alarms and power.

A step makes some verification subjects wrong and some right again. If each does so on its own, the change of an error
count is a sum of independent -1, 0 and 1, and its distribution is exact. Subjects of one model do not move on their
own: a step that shifts all outputs moves them together, and then large changes are more frequent than here. What comes
out is the least that fluctuation does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np
import pandas as pd

from dqc_lib.arguments import require_kind, require_number
from dqc_lib.evaluation.groups import require_columns

ROUNDING = 1e-9  # so that 0.02 * 1 * 50 counts as 1, which a rise by one subject does not pass


@dataclass(frozen=True)
class StepEffect:
    """What one step does to a verification subject.

    Parameters
    ----------
    wrong, right : float or (float, float)
        Probability that the subject becomes misdiagnosed, or rightly diagnosed, by the step; together at most 1. A
        pair is for controls and for patients.

    Examples
    --------
    >>> StepEffect(wrong=0.01, right=(0.01, 0.0)).right
    (0.01, 0.0)
    """

    wrong: float | tuple[float, float]
    right: float | tuple[float, float] = 0.0

    def __post_init__(self) -> None:
        for name in ("wrong", "right"):
            value = getattr(self, name)
            pair = tuple(value) if isinstance(value, Iterable) else (value, value)
            if len(pair) != 2 or not all(isinstance(part, Real) and 0 <= part <= 1 for part in pair):
                raise ValueError(
                    f"{name} must be a probability, or one for controls and one for patients; came {value!r}"
                )
            object.__setattr__(self, name, (float(pair[0]), float(pair[1])))
        for who, wrong, right in zip(("controls", "patients"), self.wrong, self.right, strict=True):
            if wrong + right > 1 + ROUNDING:
                raise ValueError(f"wrong and right must be at most 1 together; came {wrong:g} and {right:g} for {who}")


def compute_alarm(effect: StepEffect, *, tolerance: float, n_neg: int, n_pos: int, n: int = 1) -> float:
    """Return the probability, 0 to 1, that the published rule calls a step harmful.

    Parameters
    ----------
    effect : StepEffect
        Of a harmless step: the result is the chance of a false alarm. Of a harmful one: the power.
    tolerance : float
        Of the rule: a rate may rise by as much per image of the attempt, at least 0.
    n_neg, n_pos : int
        Verification controls and patients. A rate of none is undefined and accuses nobody.
    n : int
        Images in the attempt, at least 1.

    Raises
    ------
    TypeError, ValueError
        If a number lies outside its range.

    Examples
    --------
    One of ten controls more passes a tolerance of 0.02, so the step is accused unless nobody becomes wrong:

    >>> round(compute_alarm(StepEffect(wrong=(0.1, 0.0)), tolerance=0.02, n_neg=10, n_pos=10), 4)
    0.6513
    """
    require_kind("effect", effect, StepEffect, such_as="StepEffect(wrong=0.01)")
    if isinstance(tolerance, bool) or not isinstance(tolerance, Real) or not 0 <= tolerance < math.inf:
        raise ValueError(f"tolerance must be a finite number of at least 0; came {tolerance!r}")
    _check_count("n_neg", n_neg, least=0)
    _check_count("n_pos", n_pos, least=0)
    _check_count("n", n, least=1)
    calm = 1.0
    for size, wrong, right in zip((n_neg, n_pos), effect.wrong, effect.right, strict=True):
        rises = np.arange(-size, size + 1)
        calm *= 1.0 - float(_convolve(wrong, right, size)[rises > tolerance * n * size + ROUNDING].sum())
    return min(1.0, max(0.0, 1.0 - calm))


def repeat_alarm(chance: float, *, attempts: int, needed: int = 1) -> float:
    """Return the probability, 0 to 1, that at least `needed` of so many attempts are accused, each with this chance.

    Parameters
    ----------
    chance : float
        Of one attempt (`compute_alarm`).
    attempts : int
        At least 0, each as good as new given the others. Repeated attempts of one image are less than that.
    needed : int
        At least 1; an elimination needs two.

    Examples
    --------
    >>> round(repeat_alarm(0.05, attempts=20), 3)
    0.642
    """
    from scipy.stats import binom

    require_number("chance", chance)
    if not 0 <= chance <= 1:
        raise ValueError(f"chance must lie from 0 to 1; came {chance!r}")
    _check_count("attempts", attempts, least=0)
    _check_count("needed", needed, least=1)
    return float(binom.sf(needed - 1, attempts, chance))


def tabulate_alarms(
    subjects: Iterable[int],
    *,
    tolerances: Iterable[float],
    harmless: StepEffect,
    harmful: StepEffect,
    n: int = 1,
    patients: float = 0.5,
) -> pd.DataFrame:
    """Return false alarms and power of the published rule by number of verification subjects and tolerance.

    Parameters
    ----------
    subjects : iterable of int
        Verification subjects of all centers together.
    tolerances : iterable of float
    harmless, harmful : StepEffect
        What a step does on a good image and on a harmful one.
    n : int
        Images in the attempt.
    patients : float
        Share of patients among the verification subjects, 0 to 1; their number is rounded.

    Returns
    -------
    DataFrame
        Columns tolerance, subjects, n_neg, n_pos, false_alarm (lower is better), detection (higher is better).
    """
    require_number("patients", patients)
    if not 0 <= patients <= 1:
        raise ValueError(f"patients must be a share from 0 to 1; came {patients!r}")
    sizes, rows = sorted({_check_count("subjects", size, least=0) for size in subjects}), []
    for tolerance in tolerances:
        for size in sizes:
            n_pos = math.floor(size * patients + 0.5)
            held = {"tolerance": tolerance, "n_neg": size - n_pos, "n_pos": n_pos}
            chances = [compute_alarm(effect, n=n, **held) for effect in (harmless, harmful)]
            rows.append({**held, "subjects": size, "false_alarm": chances[0], "detection": chances[1]})
    return pd.DataFrame(rows, columns=["tolerance", "subjects", "n_neg", "n_pos", "false_alarm", "detection"])


def find_fewest(table: pd.DataFrame, *, false_alarm: float, detection: float) -> pd.DataFrame:
    """Return for every tolerance how many verification subjects keep both promises, from which number on.

    Chances rise and fall with every subject more, as counts are whole: a number counts if all larger ones of the table
    keep the promises too.

    Parameters
    ----------
    table : DataFrame
        Of `tabulate_alarms`.
    false_alarm, detection : float
        At most and at least so much, 0 to 1.

    Returns
    -------
    DataFrame
        One row per tolerance, in their order: tolerance, subjects (missing where none of the table is enough).
    """
    require_columns(table, ("tolerance", "subjects", "false_alarm", "detection"))
    fewest = {}
    for tolerance, part in table.groupby("tolerance", sort=False):
        part = part.sort_values("subjects", ascending=False)
        kept = (part["false_alarm"] <= false_alarm) & (part["detection"] >= detection)
        fewest[tolerance] = part.loc[kept.cummin(), "subjects"].min()
    return pd.DataFrame({"tolerance": fewest.keys(), "subjects": pd.array(list(fewest.values()), dtype="Int64")})


def _convolve(wrong: float, right: float, size: int) -> np.ndarray:
    """Return the probabilities of a change by -size to size, shape (2 size + 1,); only sums of positive numbers."""
    power, result = np.array([right, max(0.0, 1.0 - wrong - right), wrong]), np.ones(1)
    while size:
        if size % 2:
            result = np.convolve(result, power)
        size //= 2
        power = np.convolve(power, power) if size else power
    return result


def _check_count(name: str, value: int, *, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}; came {value!r}")
    return int(value)
