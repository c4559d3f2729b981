"""The seam between the loop and the centers: what an engine answers, in one process or across a network."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from dqc_lib.quality import Counts


@dataclass(frozen=True)
class Update:
    """What a center sends with the trained model: the training loss, and where the engine measures it the update norm
    of the most unusual image (see `dqc_lib.fisher`)."""

    loss: float
    norm: float | None = None


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
