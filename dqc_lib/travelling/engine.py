"""The seam between the loop and the centers: what an engine answers, in one process or across a network."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from dqc_lib.quality import Counts


@dataclass(frozen=True)
class Update:
    """What a center sends with the trained model: the training loss (None where it is not told: that of one image
    alone gives away how the model scores it), and where the engine measures it the update norm of the most unusual
    image (see `dqc_lib.fisher`)."""

    loss: float | None
    norm: float | None = None


class CenterError(RuntimeError):
    """A center that did not answer, or whose answer cannot be used.

    Attributes
    ----------
    place : str
        The center, or the machine that holds it.
    what : str
        What came in place of an answer.
    centers : tuple of str
        Those that cannot take part for it.
    """

    def __init__(self, place: str, what: str, centers: Iterable[str] = ()) -> None:
        super().__init__(f"{place}: {what}")
        self.place, self.what, self.centers = place, what, tuple(centers)


class Engine(Protocol):
    """How the loop reaches the centers; `LocalCenters` is the one in a single process."""

    def train(self, center: str, subjects: Iterable[str], *, alone: bool = False) -> Update:
        """Take one step at the center and return the evidence of the update; `alone` leaves momentum out of it."""

    def verify(self, asks: frozenset[str], harmful: Callable[[Counts], bool | None] | None = None) -> dict[str, Counts]:
        """Return every center's counts. `harmful` says which sums of them make the attempt harmful, or None where there
        is no attempt yet: an engine need not look further than to know that. More errors never make an attempt less
        harmful."""

    @property
    def exact(self) -> bool:
        """Whether the counts of the model as it stands are known of every verification subject."""

    def snapshot(self) -> Any:
        """Return a copy of the model and its optimizer."""

    def restore(self, snapshot: Any) -> None:
        """Put the model and its optimizer back."""

    def set_learning_rate(self, rate: float) -> None:
        """Set the learning rate of the steps to come."""

    def adjust_unit(self) -> float:
        """Make update norms comparable with those of the watched cycle, and return the unit."""


class DistributedEngine(Engine, Protocol):
    """An engine whose centers may fail: any call may raise a `CenterError`, and leaves the model as it was unless it
    is said otherwise."""

    def leave_out(self, centers: Iterable[str]) -> None:
        """Do without these centers from now on."""

    def call_back(self) -> list[str]:
        """Return those of the centers that were left out that could take part again."""

    def take_back(self, centers: Iterable[str]) -> None:
        """Count on these centers again."""
