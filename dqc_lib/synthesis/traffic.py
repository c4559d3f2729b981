"""What is sent between hospitals and a server, counted in the bytes of the arrays that are sent."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

WAYS = ("up", "down", "across")


@dataclass(frozen=True)
class Traffic:
    """Bytes and transfers by way: up to the server, down to hospitals, across from hospital to hospital.

    Examples
    --------
    >>> traffic = Traffic()
    >>> traffic.record("up", [np.zeros(250_000, dtype=np.float32)])
    >>> traffic.megabytes
    1.0
    """

    sent: dict[str, int] = field(default_factory=lambda: dict.fromkeys(WAYS, 0))
    transfers: dict[str, int] = field(default_factory=lambda: dict.fromkeys(WAYS, 0))

    def record(self, way: str, arrays: Iterable[np.ndarray], *, times: int = 1) -> None:
        """Add arrays that are sent, to so many receivers."""
        self.sent[way] += times * sum(array.nbytes for array in arrays)
        self.transfers[way] += times

    @property
    def megabytes(self) -> float:
        """All that was sent, in MB of 10^6 bytes."""
        return sum(self.sent.values()) / 1e6
