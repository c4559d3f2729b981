"""A floor under the model: slow decay that no single attempt shows."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dqc_lib.arguments import require_kind, require_number
from dqc_lib.quality.counts import Counts


@dataclass(frozen=True)
class DriftGuard:
    """Compares the model with the pre-trained one, however many accepted attempts lie between them.

    The published reference is the last accepted attempt, so a model that gets worse by a little every time is never
    noticed. The guard counts from the beginning: subjects that are misdiagnosed now and were not before, less the
    converse, in standard errors (McNemar 1947, doi 10.1007/BF02295996). Which subjects changed sides is not known, as
    centers send counts only, but no more can have done so than are misdiagnosed before and after together. So the true
    score is at least as large as the one computed here.

    Parameters
    ----------
    floor : Counts
        Of the pre-trained model.
    limit : float
        Standard errors from which on a rise is drift; 3 is passed by chance about once in 700 looks.

    Examples
    --------
    >>> guard = DriftGuard(Counts(fp=4, n_neg=60, fn=10, n_pos=60))
    >>> guard.find_drift(Counts(fp=5, n_neg=60, fn=12, n_pos=60))
    ()
    >>> guard.find_drift(Counts(fp=30, n_neg=60, fn=2, n_pos=60))
    ('false positives',)
    """

    floor: Counts
    limit: float = 3.0

    def __post_init__(self) -> None:
        require_kind("floor", self.floor, Counts, such_as="Counts(fp=4, n_neg=60, fn=10, n_pos=60)")
        require_number("limit", self.limit)
        if not self.limit > 0:
            raise ValueError(f"limit must be a positive number of standard errors, got {self.limit!r}")

    def find_drift(self, now: Counts) -> tuple[str, ...]:
        """Return which errors have risen beyond chance: "false positives", "false negatives", both or none.

        Raises
        ------
        ValueError
            If the counts are out of other numbers of subjects than those of the floor.
        """
        if (now.n_neg, now.n_pos) != (self.floor.n_neg, self.floor.n_pos):
            raise ValueError(f"drift needs counts of the same subjects; the floor is {self.floor}, now {now}")
        pairs = {"false positives": (self.floor.fp, now.fp), "false negatives": (self.floor.fn, now.fn)}
        return tuple(name for name, (before, after) in pairs.items() if self._score(before, after) >= self.limit)

    @staticmethod
    def _score(before: int, after: int) -> float:
        return (after - before) / math.sqrt(after + before) if after > before else 0.0
