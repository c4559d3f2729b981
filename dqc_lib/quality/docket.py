"""Who waits for a revisit and who is out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from dqc_lib.arguments import require_whole

LEAST_FLAGGED = 3  # images; fewer say little about a center, however small it is


class Docket:
    """Who waits for a revisit and who has been eliminated.

    Parameters
    ----------
    revisit_after : int
        Cycles from deferral to revisit, at least 1: deferred in cycle c, left out of cycles c + 1 to c +
        revisit_after, tried again at the end of the last of these.
    homes : mapping of str to str, optional
        The center of every subject that may be trained on.
    """

    def __init__(self, revisit_after: int = 2, homes: Mapping[str, str] | None = None) -> None:
        require_whole("revisit_after", revisit_after)
        if revisit_after < 1:
            raise ValueError(f"revisit_after must be at least 1 cycle, got {revisit_after!r}")
        self.revisit_after = revisit_after
        self.homes = dict(homes or {})
        self._sizes = Counter(self.homes.values())
        self.due: dict[str, int] = {}
        self.eliminated: set[str] = set()

    def admit(self, subjects: Iterable[str]) -> tuple[str, ...]:
        """Return those of the subjects that may be trained on in a regular visit."""
        return tuple(subject for subject in subjects if subject not in self.due and subject not in self.eliminated)

    def defer(self, subject: str, *, cycle: int) -> None:
        """Put a subject on the list for a revisit."""
        self._refuse_eliminated(subject)
        self.due[subject] = cycle + self.revisit_after

    def pools(self, center: str) -> bool:
        """Return whether at least half of the center's subjects, and three of them, wait for a revisit or are out."""
        flagged = sum(self.homes.get(subject) == center for subject in (*self.due, *self.eliminated))
        return flagged >= max(LEAST_FLAGGED, self._sizes[center] / 2)

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
