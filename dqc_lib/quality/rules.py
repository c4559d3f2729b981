"""What a rule is, the one that only watches, and the published one."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields, is_dataclass
from typing import Protocol

from dqc_lib.arguments import require_number, require_text, show_value
from dqc_lib.quality.counts import DENOMINATORS, Counts


@dataclass(frozen=True)
class Verdict:
    """Whether an attempt looks harmful, and the limits it was held against (None: no such limit)."""

    harmful: bool
    tolerance: float | None = None
    norm_limit: float | None = None


class Rule(Protocol):
    """What the travelling loop asks of a rule.

    `pooled` tells it that most images of the attempt's center are flagged already, see `Docket.pools`.

    `asks` names what each center must answer beyond its four integers: nothing, "loss" (see `Counts`) or "update norm"
    (of the images it trains on). `isolates` says that the step is to be verified without the momentum of earlier
    steps, as if these images alone moved the model.
    """

    asks: frozenset[str]
    isolates: bool

    def suspects(self, *, n: int, update_norm: float | None, pooled: bool = False) -> bool:
        """Return whether the centers must verify this attempt; if not, it is accepted at once."""

    def judge(
        self, *, n: int, update_norm: float | None, before: Counts, after: Counts, pooled: bool = False
    ) -> Verdict:
        """Return the verdict on an attempt with n images, from the counts of the last accepted model and of the
        candidate. More errors of the candidate must never turn a harmful attempt into a harmless one: verification may
        end when the errors counted so far are enough."""


def check_rule(rule: object) -> None:
    """Raise a TypeError that names what the loop needs of a rule and does not find."""
    for name in ("asks", "isolates", "suspects", "judge"):
        if isinstance(rule, type) or not hasattr(rule, name):
            raise TypeError(f"rule must be one such as PublishedRule(), with {name!r}, got {show_value(rule)}")


def describe_rule(rule: object) -> str:
    """Return a rule as a text that every process gives it, by which its run is found again.

    Raises
    ------
    ValueError
        If its `repr` tells where it lies in memory instead of what it is.

    Examples
    --------
    >>> describe_rule(WatchingRule(asks=frozenset({"update norm", "loss"})))
    "WatchingRule(verifies=True, asks=frozenset({'loss', 'update norm'}), isolates=False)"
    """
    text = repr(rule)
    if is_dataclass(rule):
        parts = [f"{field.name}={_describe(getattr(rule, field.name))}" for field in fields(rule)]
        text = f"{type(rule).__qualname__}({', '.join(parts)})"
    if re.search(r" at 0x[0-9a-fA-F]", text):
        raise ValueError(
            f"the rule is {text}, which says where it lies and not what it is, so that its run would not be found "
            "again; make it a dataclass, or give it a __repr__"
        )
    return text


def _describe(value: object) -> str:
    if not isinstance(value, frozenset | set) or not value:
        return repr(value)
    return f"{type(value).__name__}({{{', '.join(sorted(map(repr, value)))}}})"  # a set prints in any order


@dataclass(frozen=True)
class WatchingRule:
    """Accepts everything: with `verifies`, every attempt is verified and recorded; without, the model travels
    unguarded."""

    verifies: bool = True
    asks: frozenset[str] = frozenset()
    isolates: bool = False

    def suspects(self, *, n: int, update_norm: float | None, pooled: bool = False) -> bool:
        """Return whether attempts are to be verified for the record."""
        return self.verifies

    def judge(
        self, *, n: int, update_norm: float | None, before: Counts, after: Counts, pooled: bool = False
    ) -> Verdict:
        """Return that it is harmless."""
        return Verdict(False)


@dataclass(frozen=True)
class PublishedRule:
    """Harmful if either error rate rises by more than the tolerance times the number of images, strictly.

    Rates are compared as floating-point numbers, as the published code does, so a rise that equals the tolerance may
    by rounding be taken for one that exceeds it.

    Parameters
    ----------
    tolerance : float
        Allowed increase of a rate per image, at least 0; 0.02 is the authors' example.
    denominators : {"standard", "published"}
        See `Counts.rates`.

    Examples
    --------
    >>> rule = PublishedRule(tolerance=0.02)
    >>> before, after = Counts(2, 10, 1, 10), Counts(3, 10, 1, 10)
    >>> rule.judge(n=1, update_norm=None, before=before, after=after).harmful
    True
    >>> rule.judge(n=5, update_norm=None, before=before, after=after).harmful
    False
    """

    tolerance: float = 0.02
    denominators: str = "standard"
    asks: frozenset[str] = frozenset()
    isolates: bool = False

    def __post_init__(self) -> None:
        require_number("tolerance", self.tolerance)
        require_text("denominators", self.denominators)
        if not (math.isfinite(self.tolerance) and self.tolerance >= 0):
            raise ValueError(f"tolerance must be a finite number >= 0, got {self.tolerance!r}")
        if self.denominators not in DENOMINATORS:
            raise ValueError(f"denominators must be one of {DENOMINATORS}, got {self.denominators!r}")

    def suspects(self, *, n: int, update_norm: float | None, pooled: bool = False) -> bool:
        """Return True: every attempt is verified."""
        return True

    def judge(
        self, *, n: int, update_norm: float | None, before: Counts, after: Counts, pooled: bool = False
    ) -> Verdict:
        """Return the verdict of the published rule; an undefined rate accuses nobody."""
        allowed = self.tolerance * n
        pairs = zip(before.rates(self.denominators), after.rates(self.denominators), strict=True)
        return Verdict(any(new > old + allowed for old, new in pairs), tolerance=allowed)
