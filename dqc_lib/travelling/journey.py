"""What the loop carries along, and how it goes on from a ledger or without a center."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from dqc_lib.ledger import COLUMNS, COUNTS, Ledger, Presence
from dqc_lib.quality import Counts, Docket, Rule, add_counts
from dqc_lib.travelling.engine import CenterError, Engine

Outcome = TypeVar("Outcome")


@dataclass(frozen=True)
class Reading:
    """What a verification came to, and whether every verification subject was looked at for it."""

    counts: Counts
    exact: bool


@dataclass
class Journey:
    """What the loop carries along: the parties, the books, a copy of the last accepted model and its counts (None: not
    copied, not verified), whether the model has moved since the unit of the norms was measured, whether others are
    present than measured it, who is absent, and the attempts and absences that the ledger has of a run that was cut
    short and the model has not."""

    engine: Engine
    rule: Rule
    ledger: Ledger
    docket: Docket
    stage: str
    bar: Any
    goes_on: bool = False
    look_again: bool = False
    resumed: bool = False
    saved: Any = None
    accepted: Reading | None = None
    moved: bool = True
    regrouped: bool = False
    cycle: int = 0
    decisions: Counter = field(default_factory=Counter)
    absent: set[str] = field(default_factory=set)
    written: deque[Mapping[str, Any]] = field(default_factory=deque)
    presences: deque[Presence] = field(default_factory=deque)

    def verify(self, harmful: Callable[[Counts], bool | None] | None = None) -> Reading:
        """Have the model verified by all who are present."""
        counts = add_counts(self.engine.verify(self.rule.asks, harmful))
        if self.absent and not (counts.n_neg and counts.n_pos):
            left = f"{counts.n_neg} controls and {counts.n_pos} diseased subjects are left to verify the model"
            raise CenterError(", ".join(sorted(self.absent)), f"absent, and without them {left}")
        return Reading(counts, self.engine.exact)

    def adjust_unit(self) -> None:
        """Have the unit of update norms measured on the model as it stands, by all who are present."""
        self.engine.adjust_unit()
        self.moved = self.regrouped = False

    def insist(self, act: Callable[[], Outcome]) -> Outcome:
        """Return what something comes to that asks all centers, without those who cannot answer."""
        while True:
            try:
                return act()
            except CenterError as error:
                self.go_on_without(error)

    def go_on_without(self, error: CenterError) -> None:
        """Leave out the centers that could not take part; raise the error if that is not wanted or cannot be. Either
        way the ledger says so."""
        lost = [center for center in error.centers if center not in self.absent]
        if not self.goes_on:
            for center in lost:
                self._note(center, present=True, reason=str(error))
        if not (self.goes_on and lost):
            raise error
        if self.written:
            raise CenterError(
                error.place,
                f"{error.what}; attempts of cycle {self.cycle} that the ledger holds are gone through again, which "
                "needs every center that took part in them: start the run again when it is back",
            ) from None
        for center in lost:
            self._set_presence(center, present=False)
            self._note(center, present=False, reason=str(error))
        if self.absent.issuperset(self.docket.homes.values()):
            raise CenterError(
                ", ".join(sorted(self.absent)), "absent, and nobody is left to train the model"
            ) from error

    def call_roll(self) -> None:
        """Take back, as a cycle begins, those who had been left out and are there again."""
        self.follow_presences(ask=True)

    def follow_presences(self, *, ask: bool = False) -> None:
        """Do without those, or take back those, of whom the ledger of a run that was cut short says so here. At its
        end, those who are absent are asked again, whatever the hour: the run may have ended for them."""
        gone = len(self.ledger) - len(self.written)
        while self.presences:
            at = self.presences[0]
            if (at.after, at.stage, at.cycle) != (gone, self.stage, self.cycle):
                return
            self._set_presence(at.center, present=at.present)
            self.presences.popleft()
        if self.written or not (ask or self.resumed):
            return
        self.resumed = False
        for center in self.engine.call_back() if self.absent else ():
            self._set_presence(center, present=True)
            self._note(center, present=True)

    def catch_up_presences(self, presences: list[Presence]) -> set[str]:
        """Take over who came and went in a completed cycle, and return all who missed some of it."""
        missed = set(self.absent)
        for at in presences:
            self._set_presence(at.center, present=at.present)
            missed |= self.absent
        return missed

    def _set_presence(self, center: str, *, present: bool) -> None:
        if present is (center not in self.absent):
            return  # its fault ended the run, which goes on with it
        if present:
            self.absent.discard(center)
            self.engine.take_back([center])
        else:
            self.absent.add(center)
            self.engine.leave_out([center])
        self.accepted, self.regrouped = None, True  # counts and unit are of other subjects than those to come

    def _note(self, center: str, *, present: bool, reason: str = "") -> None:
        self.ledger.note_presence(cycle=self.cycle, stage=self.stage, center=center, present=present, reason=reason)

    def make_row(
        self, center: str, subjects: tuple[str, ...], *, level: str, norm: float | None, decision: str
    ) -> dict[str, Any]:
        """Return a row of the ledger in which nothing is known yet of verification."""
        known = {
            "cycle": self.cycle,
            "stage": self.stage,
            "level": level,
            "center": center,
            "subjects": list(subjects),
        }
        return dict.fromkeys(COLUMNS) | known | {"n": len(subjects), "update_norm": norm, "decision": decision}

    def show(self, center: str, *, step: int = 1) -> None:
        """Move the progress bar on."""
        if not self.bar.disable:
            self.bar.set_postfix({"cycle": self.cycle, "center": center, **self.decisions}, refresh=False)
            self.bar.update(step)


def read_counts(row: Mapping[str, Any]) -> tuple[Reading, Reading] | None:
    """Return what a row of a ledger says of the model before the step and after it; None where it does not say all."""
    if not row["exact"] or row["loss"] is not None:  # a mean does not give back the sum bit for bit
        return None
    before, after = (Counts(*(row[f"{of}{name}"] for name in COUNTS)) for of in ("reference_", ""))
    return Reading(before, True), Reading(after, True)


def list_columns(reading: Reading | None) -> dict[str, Any]:
    """Return what a row of the ledger says of a verification."""
    if reading is None:
        return dict.fromkeys((*COUNTS, "loss"))
    return {name: getattr(reading.counts, name) for name in (*COUNTS, "loss")}


def compare(row: Mapping[str, Any], written: Mapping[str, Any], ledger: Ledger) -> None:
    """Raise a ValueError unless the attempt came out as it is written."""
    for name, value in row.items():
        if name != "seconds" and not _is_same(value, written[name]):
            raise ValueError(
                f"{name_ledger(ledger)}attempt on {row['subjects']} in cycle {row['cycle']}: {name} is "
                f"{written[name]!r} in the ledger and {value!r} now; the run was begun by other code or on another "
                "kind of machine and cannot be continued here: choose another folder"
            )


def name_ledger(ledger: Ledger) -> str:
    """Return how an error about a ledger begins."""
    return "" if ledger.path is None else f"{ledger.path}: "


def _is_same(value: Any, other: Any) -> bool:
    return value == other or value != value and other != other  # no norm of a model that diverged is a number
