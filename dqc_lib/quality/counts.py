"""What a verification answers: counts of errors, and the rates made from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from dqc_lib.arguments import require_number, require_whole

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
        for name in ("fp", "n_neg", "fn", "n_pos"):
            require_whole(name, getattr(self, name))
        if self.loss_sum is not None:
            require_number("loss_sum", self.loss_sum)
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

    @property
    def one_call(self) -> str:
        """What the model calls every verification subject, "healthy" or "diseased"; "" if it tells them apart at all,
        or they are of one diagnosis."""
        if not (self.n_neg and self.n_pos):
            return ""
        return {(0, self.n_pos): "healthy", (self.n_neg, 0): "diseased"}.get((self.fp, self.fn), "")

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
