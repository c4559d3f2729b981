"""The rule of quality control: from counts and the size of an update to a decision, and who is tried again when.

Everything here is pure: no image, no model, no ground truth. A rule sees what an attempt did and answers whether it
looks harmful; the `Docket` remembers who waits for a revisit and who is out. The published rule is that of Souza et
al. 2025, doi 10.1038/s41746-025-01499-0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import pandas as pd

DENOMINATORS = ("standard", "published")


@dataclass(frozen=True)
class Counts:
    """What centers answer when the model is verified: four integers, and a sum of losses where a rule asks for it.

    Parameters
    ----------
    fp, n_neg : int
        False positives, and the controls they are out of.
    fn, n_pos : int
        False negatives, and the diseased subjects they are out of.
    loss_sum : float, optional
        Summed cross-entropy. It reveals more than counts: from a center with one verification subject it is that
        subject's score.

    Examples
    --------
    >>> Counts(fp=1, n_neg=4, fn=0, n_pos=0).rates()
    (0.25, nan)
    """

    fp: int
    n_neg: int
    fn: int
    n_pos: int
    loss_sum: float | None = None

    def __post_init__(self) -> None:
        if not (0 <= self.fp <= self.n_neg and 0 <= self.fn <= self.n_pos):
            raise ValueError(f"expected 0 <= fp <= n_neg and 0 <= fn <= n_pos, got {self}")

    def __add__(self, other: Counts) -> Counts:
        known = self.loss_sum is not None and other.loss_sum is not None
        loss = self.loss_sum + other.loss_sum if known else None
        return Counts(self.fp + other.fp, self.n_neg + other.n_neg, self.fn + other.fn, self.n_pos + other.n_pos, loss)

    @property
    def loss(self) -> float | None:
        """Mean cross-entropy per verification subject; None where it was not asked for."""
        return None if self.loss_sum is None else self.loss_sum / max(1, self.n_neg + self.n_pos)

    def rates(self, denominators: str = "standard") -> tuple[float, float]:
        """Return the false-positive and false-negative rate, NaN where the denominator is 0.

        "standard" divides false positives by controls and false negatives by diseased subjects; "published" has the
        two denominators the other way round, as the authors' code does.
        """
        below_fp, below_fn = (self.n_neg, self.n_pos) if denominators == "standard" else (self.n_pos, self.n_neg)
        return (self.fp / below_fp if below_fp else math.nan, self.fn / below_fn if below_fn else math.nan)


def add_counts(by_center: Mapping[str, Counts]) -> Counts:
    """Return the sum over the centers: all that the server keeps of a verification."""
    return sum(by_center.values(), Counts(0, 0, 0, 0, 0.0))


@dataclass(frozen=True)
class Verdict:
    """Whether an attempt looks harmful, and the limits it was held against (None: no such limit)."""

    harmful: bool
    tolerance: float | None = None
    norm_limit: float | None = None


class Rule(Protocol):
    """What the travelling loop asks of a rule.

    `asks` names what each center must answer beyond its four integers: nothing, or "loss" (see `Counts`). `isolates`
    says that the step is to be verified without the momentum of earlier steps, as if these images alone moved the
    model.
    """

    asks: frozenset[str]
    isolates: bool

    def suspects(self, *, n: int, update_norm: float | None) -> bool:
        """Return whether the centers must verify this attempt; if not, it is accepted at once."""

    def judge(self, *, n: int, update_norm: float | None, before: Counts, after: Counts) -> Verdict:
        """Return the verdict on an attempt with n images, from the counts of the last accepted model and of the
        candidate."""


@dataclass(frozen=True)
class WatchingRule:
    """Accepts everything: with `verifies`, every attempt is verified and recorded; without, the model travels
    unguarded."""

    verifies: bool = True
    asks: frozenset[str] = frozenset()
    isolates: bool = False

    def suspects(self, *, n: int, update_norm: float | None) -> bool:
        """Return whether attempts are to be verified for the record."""
        return self.verifies

    def judge(self, *, n: int, update_norm: float | None, before: Counts, after: Counts) -> Verdict:
        """Return that it is harmless."""
        return Verdict(False)


@dataclass(frozen=True)
class PublishedRule:
    """Harmful if either error rate rises by more than the tolerance times the number of images, strictly.

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
        if not (math.isfinite(self.tolerance) and self.tolerance >= 0):
            raise ValueError(f"tolerance must be a finite number >= 0, got {self.tolerance!r}")
        if self.denominators not in DENOMINATORS:
            raise ValueError(f"denominators must be one of {DENOMINATORS}, got {self.denominators!r}")

    def suspects(self, *, n: int, update_norm: float | None) -> bool:
        """Return True: every attempt is verified."""
        return True

    def judge(self, *, n: int, update_norm: float | None, before: Counts, after: Counts) -> Verdict:
        """Return the verdict of the published rule; an undefined rate accuses nobody."""
        allowed = self.tolerance * n
        pairs = zip(before.rates(self.denominators), after.rates(self.denominators), strict=True)
        return Verdict(any(new > old + allowed for old, new in pairs), tolerance=allowed)


@dataclass(frozen=True)
class CalibratedRule:
    """Suspicious by the size of the update, harmful unless verification acquits.

    An attempt is suspicious if its update norm (see `dqc_lib.fisher`) passes the limit for its number of images. Only
    then is it verified, without the momentum of earlier steps, and it is acquitted if the candidate misdiagnoses
    clearly less than the model before it: neither error count rises, and together they fall by at least `acquittal`.
    Novel but useful images get that chance while the model still errs; one that makes fewer errors than that acquits
    nobody. The model that is kept is the one that took the step with momentum, as everywhere in training; that one is
    not verified. A harmful step can be acquitted too, when its label happens to push the output in the direction the
    model needs just then: a gain of one or two subjects is common, one of five was rare (five fair coins agree once in
    16; but counts are net, and one step moves all outputs together, so that is a rough guide).

    Parameters
    ----------
    limits : mapping of int to float
        Update norm above which an attempt with that many images is suspicious. Sizes between or beyond the known ones
        use the nearest smaller one, or else the smallest.
    acquittal : int
        How many fewer verification subjects a suspicious step must leave misdiagnosed to be accepted, at least 1.
    """

    limits: Mapping[int, float] = field(hash=False)
    acquittal: int = 5
    asks: frozenset[str] = frozenset()
    isolates: bool = True

    def __post_init__(self) -> None:
        if not self.limits or min(self.limits) < 1 or not all(limit > 0 for limit in self.limits.values()):
            raise ValueError(f"limits must give a positive update norm for attempt sizes >= 1, got {self.limits!r}")
        if self.acquittal < 1:
            raise ValueError(f"acquittal must be at least 1 verification subject, got {self.acquittal!r}")

    @classmethod
    def from_watch(
        cls, watched: pd.DataFrame, *, reach: float = 2.0, at_least: int = 24, acquittal: int = 5
    ) -> CalibratedRule:
        """Return the rule whose limits come from a cycle that only watched.

        With m the median and q the 90th percentile of the log update norms of a size, its limit is exp(q + reach * (q
        - m)). Update norms are skewed, so the upper half alone says how far good ones spread; and what lies beyond
        the 90th percentile, a few harmful attempts in the watched cycle for example, hardly moves the limit. Sizes
        watched fewer than `at_least` times are taken together with the smaller ones before them.

        No limit exceeds that of a smaller size: among several images an unusual one is diluted, so that a batch needs
        no higher limit than a single image.

        Parameters
        ----------
        watched : DataFrame
            Rows of a ledger (columns n, update_norm), such as those of stage "watch".
        reach : float
            How far beyond the 90th percentile, in distances between it and the median.
        at_least : int
            Attempts that a size needs for a limit of its own; `watch` tries every batch three times.
        acquittal : int
            Handed on to the rule.

        Raises
        ------
        ValueError
            If there is no attempt with a positive, finite update norm.
        """
        norms = watched["update_norm"].astype(float)
        norms = norms[np.isfinite(norms) & (norms > 0)]
        sizes = watched["n"].astype(int).loc[norms.index]
        if norms.empty:
            raise ValueError(
                "a calibrated rule needs a watched cycle: no attempt with a positive, finite update norm came"
            )
        limits, pool = {}, np.empty(0)
        for size in sorted(sizes.unique()):
            own = np.log(norms[sizes == size].to_numpy())
            pool = own if len(own) >= at_least else np.concatenate([pool, own])
            median, high = np.quantile(pool, (0.5, 0.9))
            limit = float(np.exp(high + reach * (high - median)))
            limits[int(size)] = min([limit, *limits.values()])
        return cls(limits, acquittal)

    def limit(self, n: int) -> float:
        """Return the update norm above which an attempt with n images is suspicious."""
        known = [size for size in self.limits if size <= n]
        return self.limits[max(known) if known else min(self.limits)]

    def suspects(self, *, n: int, update_norm: float | None) -> bool:
        """Return whether the update is unusually large; one that is not a number is."""
        if update_norm is None:
            raise ValueError("the calibrated rule needs the update norm: call watch() on the engine first")
        return not update_norm <= self.limit(n)

    def judge(self, *, n: int, update_norm: float | None, before: Counts, after: Counts) -> Verdict:
        """Return harmful if the update is suspicious and the candidate does not misdiagnose clearly less."""
        suspicious = self.suspects(n=n, update_norm=update_norm)
        righted = (before.fp - after.fp, before.fn - after.fn)
        acquitted = min(righted) >= 0 and sum(righted) >= self.acquittal
        return Verdict(suspicious and not acquitted, tolerance=0.0, norm_limit=self.limit(n))


class Docket:
    """Who waits for a revisit and who has been eliminated.

    Parameters
    ----------
    revisit_after : int
        Cycles from deferral to revisit, at least 1: deferred in cycle c, left out of cycles c + 1 to c +
        revisit_after, tried again at the end of the last of these.
    """

    def __init__(self, revisit_after: int = 2) -> None:
        if revisit_after < 1:
            raise ValueError(f"revisit_after must be at least 1 cycle, got {revisit_after!r}")
        self.revisit_after = revisit_after
        self.due: dict[str, int] = {}
        self.eliminated: set[str] = set()

    def admit(self, subjects: Iterable[str]) -> tuple[str, ...]:
        """Return those of the subjects that may be trained on in a regular visit."""
        return tuple(subject for subject in subjects if subject not in self.due and subject not in self.eliminated)

    def defer(self, subject: str, *, cycle: int) -> None:
        """Put a subject on the list for a revisit."""
        self._refuse_eliminated(subject)
        self.due[subject] = cycle + self.revisit_after

    def call(self, cycle: int | None = None) -> tuple[str, ...]:
        """Return the subjects whose revisit is due at the end of the cycle, in order of deferral; without a cycle,
        all that wait."""
        return tuple(subject for subject, due in self.due.items() if cycle is None or due <= cycle)

    def close(self, subject: str, *, harmful: bool) -> None:
        """Settle a revisit: harmful again means eliminated for good, otherwise the subject returns to visits."""
        self._refuse_eliminated(subject)
        if subject not in self.due:
            raise KeyError(f"subject {subject!r} is not waiting for a revisit")
        del self.due[subject]
        if harmful:
            self.eliminated.add(subject)

    def _refuse_eliminated(self, subject: str) -> None:
        if subject in self.eliminated:
            raise ValueError(f"subject {subject!r} has been eliminated and cannot be tried again")


def replay(ledger: pd.DataFrame, rule: Rule) -> pd.DataFrame:
    """Return what another rule would have said of every recorded attempt, given the same model before it.

    Each attempt is judged on its own: had the other rule run, later attempts would have started from another model.

    Parameters
    ----------
    ledger : DataFrame
        `Ledger.to_frame()`.
    rule : Rule

    Returns
    -------
    DataFrame
        Rows of stage "control" and "closing" with columns cycle, level, center, subjects, n, decision (as recorded),
        harmful (as recorded), replayed_harmful (boolean, NA where the rule would have verified but the counts were
        not recorded).

    Raises
    ------
    ValueError
        If the rule needs update norms and the run that wrote the ledger did not measure them.
    """
    rows = ledger[ledger["stage"].isin(("control", "closing"))]
    replayed = rows[["cycle", "level", "center", "subjects", "n", "decision"]].copy()
    replayed["harmful"] = rows["decision"] != "accepted"
    replayed["replayed_harmful"] = pd.array(
        [_replay_row(row, rule) for row in rows.to_dict("records")], dtype="boolean"
    )
    return replayed


def _replay_row(row: dict, rule: Rule) -> bool | None:
    norm = None if pd.isna(row["update_norm"]) else float(row["update_norm"])
    if not rule.suspects(n=row["n"], update_norm=norm):
        return False
    if any(pd.isna(row[name]) for name in ("fp", "reference_fp")):
        return None
    before, after = (
        Counts(*(int(row[f"{prefix}{name}"]) for name in ("fp", "n_neg", "fn", "n_pos")))
        for prefix in ("reference_", "")
    )
    return rule.judge(n=row["n"], update_norm=norm, before=before, after=after).harmful
