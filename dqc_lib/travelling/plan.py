"""Who is visited when: the order of centers and batches, drawn once and the same for every arm."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from dqc_lib.arguments import require_kind, require_names, require_number, require_text, require_whole, show_value
from dqc_lib.cohort import Cohort
from dqc_lib.networks import PRECISIONS


@dataclass(frozen=True)
class Visit:
    """The model at one center: its name and the batches to train on, each a tuple of subjects."""

    center: str
    batches: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        require_text("Visit.center", self.center)
        if not isinstance(self.batches, tuple | list):
            raise TypeError(f"Visit.batches must be a list of batches, got {show_value(self.batches)}")
        for batch in self.batches:
            if not require_names("a batch of Visit.batches", batch):
                raise ValueError(f"a batch at center {self.center!r} is empty; expected at least one subject")


@dataclass(frozen=True)
class Cycle:
    """One round of visits; `number` counts from 0, `learning_rate` is Adam's for the whole round."""

    number: int
    learning_rate: float
    visits: tuple[Visit, ...]

    def __post_init__(self) -> None:
        require_whole("Cycle.number", self.number, least=0)
        require_number("Cycle.learning_rate", self.learning_rate)
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(f"Cycle.learning_rate must be a finite number > 0, got {self.learning_rate!r}")
        for visit in self.visits:
            require_kind("each of Cycle.visits", visit, Visit, such_as="Visit('A', (('sub-1',),))")
        _check_homes((visit.center, name) for visit in self.visits for batch in visit.batches for name in batch)


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a study trains.

    Pre-training has two parts: `warm_cycles` with the statistics of each batch and a high learning rate, then, with
    the normalization recalibrated and frozen, `calm_cycles` at a lower one. The arms go on from there for
    `control_cycles` with the learning rate where the calm cycles left it.

    Parameters
    ----------
    warm_cycles, calm_cycles, control_cycles : int
    learning_rate, decay : float
        In warm cycle c the learning rate is learning_rate * exp(-decay * c).
    calm_learning_rate, calm_decay : float
        The same from the first calm cycle on, through the control cycles.
    batch_size : int
        Images per step; the last batch of a center holds what is left.
    revisit_after : int
        Cycles from deferral to revisit.
    width : float
        Of the network, see `build_sfcn`.
    dropout : float
    seed : int
        Of the order, the initial weights and dropout.
    precision : "float32" or "bfloat16"
        What the network computes in, see `build_sfcn`.
    """

    warm_cycles: int = 14
    calm_cycles: int = 8
    control_cycles: int = 8
    learning_rate: float = 1e-3
    decay: float = 0.03
    calm_learning_rate: float = 1e-4
    calm_decay: float = 0.1
    batch_size: int = 5
    revisit_after: int = 2
    width: float = 0.25
    dropout: float = 0.2
    seed: int = 0
    precision: str = "float32"

    def __post_init__(self) -> None:
        for name in ("warm_cycles", "calm_cycles", "control_cycles", "batch_size", "revisit_after"):
            require_whole(f"Schedule.{name}", getattr(self, name))
        for name in ("learning_rate", "decay", "calm_learning_rate", "calm_decay", "width", "dropout"):
            require_number(f"Schedule.{name}", getattr(self, name))
        require_whole("Schedule.seed", self.seed, least=0)
        for name, value in vars(self).items():
            if isinstance(value, np.generic):  # JSON, in which a run notes its schedule, knows Python's own numbers
                object.__setattr__(self, name, value.item())
        require_text("Schedule.precision", self.precision)
        for name in ("warm_cycles", "calm_cycles", "control_cycles"):
            if getattr(self, name) < 0:
                raise ValueError(f"Schedule.{name} must be >= 0, got {getattr(self, name)!r}")
        if self.pretraining_cycles + self.control_cycles == 0:
            raise ValueError("Schedule needs at least one cycle, got none")
        for name in ("decay", "calm_decay", "dropout"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"Schedule.{name} must be a finite number >= 0, got {getattr(self, name)!r}")
        if not self.dropout < 1:
            raise ValueError(f"Schedule.dropout must be below 1, got {self.dropout!r}")
        for name in ("batch_size", "revisit_after"):
            if getattr(self, name) < 1:
                raise ValueError(f"Schedule.{name} must be >= 1, got {getattr(self, name)!r}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"Schedule.precision must be one of {tuple(PRECISIONS)}, got {self.precision!r}")
        for name in ("learning_rate", "calm_learning_rate", "width"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"Schedule.{name} must be a finite number > 0, got {getattr(self, name)!r}")

    @property
    def pretraining_cycles(self) -> int:
        """Cycles before the arms part."""
        return self.warm_cycles + self.calm_cycles

    @property
    def looks(self) -> int:
        """How often an arm can try one image alone: once per control cycle, and in the closing revisit."""
        return self.control_cycles + 1

    def rate(self, cycle: int) -> float:
        """Return the learning rate of a cycle."""
        if cycle < self.warm_cycles:
            return self.learning_rate * math.exp(-self.decay * cycle)
        return self.calm_learning_rate * math.exp(-self.calm_decay * (cycle - self.warm_cycles))

    def plan(self, cohort: Cohort) -> tuple[Cycle, ...]:
        """Return the visits of all cycles, pre-training and control, over the training subjects of the cohort."""
        total = self.pretraining_cycles + self.control_cycles
        rates = [self.rate(cycle) for cycle in range(total)]
        return plan_cycles(group_by_center(cohort), learning_rates=rates, batch_size=self.batch_size, seed=self.seed)


def group_by_center(cohort: Cohort, *, role: str = "train") -> dict[str, list[str]]:
    """Return the subjects of a role by center, in the order of the table."""
    rows = cohort.table[cohort.table["role"] == role]
    return {str(center): list(group) for center, group in rows.groupby("center", sort=False)["subject"]}


def plan_cycles(
    subjects: Mapping[str, Iterable[str]], *, learning_rates: Iterable[float], batch_size: int = 5, seed: int = 0
) -> tuple[Cycle, ...]:
    """Return cycles in which every center is visited once, centers and subjects in an order drawn anew each time.

    Parameters
    ----------
    subjects : mapping of str to iterable of str
        Training subjects by center.
    learning_rates : iterable of float
        One per cycle.
    batch_size : int
    seed : int
        Each cycle has a generator of its own, so that a longer plan begins like a shorter one.

    Raises
    ------
    ValueError
        If there is no subject, or one stands at two centers; if the batch size, the seed or a learning rate is out of
        range.
    TypeError
        If the subjects are no lists of names by center, or a number is none.
    """
    require_kind("subjects", subjects, Mapping, such_as="{'A': ['sub-1', 'sub-2']}")
    require_whole("batch_size", batch_size, least=1)
    require_whole("seed", seed, least=0)
    if not isinstance(learning_rates, Iterable) or isinstance(learning_rates, str):
        raise TypeError(f"learning_rates must be a list of numbers, got {show_value(learning_rates)}")
    names = {center: require_names(f"subjects of center {center!r}", members) for center, members in subjects.items()}
    names = {center: members for center, members in names.items() if members}
    if not names:
        raise ValueError("a plan needs at least one training subject, got none")
    _check_homes((center, name) for center, members in names.items() for name in members)
    cycles = []
    for number, rate in enumerate(learning_rates):
        rng = np.random.default_rng([seed, number])
        visits = []
        for center in rng.permutation(list(names)):
            order = [str(subject) for subject in rng.permutation(names[str(center)])]
            visits.append(
                Visit(str(center), tuple(tuple(order[at : at + batch_size]) for at in range(0, len(order), batch_size)))
            )
        require_number("each of learning_rates", rate)
        cycles.append(Cycle(number, float(rate), tuple(visits)))
    return tuple(cycles)


def _check_homes(pairs: Iterable[tuple[str, str]]) -> None:
    """Raise if a subject stands at two centers: where it is revisited would depend on the order."""
    homes: dict[str, str] = {}
    for center, subject in pairs:
        if homes.setdefault(subject, center) != center:
            raise ValueError(f"subject {subject!r} is at the centers {homes[subject]!r} and {center!r}; expected one")
