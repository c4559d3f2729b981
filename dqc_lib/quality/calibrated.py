"""The calibrated rule: suspicious by how unusual an image is to the model, harmful unless verification acquits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dqc_lib.arguments import require_number, require_whole
from dqc_lib.ledger import require_rows
from dqc_lib.quality.counts import Counts
from dqc_lib.quality.evidence import rank_among
from dqc_lib.quality.rules import Verdict

TAIL = 0.1  # share of watched images whose norms are beyond the percentile that limits start from
SPARED = 0.03  # share of watched images that may be harmful, and are not heard on where the limit has to be
ROUNDING = 1e-9  # so that 2 * 0.05 / 9 * 90 counts as 1


@dataclass(frozen=True)
class CalibratedRule:
    """Suspicious if an image is unusual to the model, harmful unless verification acquits it.

    An attempt is suspicious if the update norm of its most unusual image (see `dqc_lib.fisher`) passes the limit, a
    lower one at a center where most images are flagged. Only then is it verified, without the momentum of earlier
    steps, and it is acquitted if the candidate misdiagnoses clearly less than the model before it: neither error count
    rises, and together they fall by at least `acquittal`. Unusual but useful images get that chance while the model
    still errs; one that makes fewer errors than that acquits nobody. The model that is kept is the one that took the
    step with momentum, as everywhere in training; that one is not verified. A harmful step can be acquitted too, when
    its label happens to push the output in the direction the model needs just then: a gain of one or two subjects is
    common, one of five was rare (five fair coins agree once in 16; but counts are net, and one step moves all outputs
    together, so that is a rough guide).

    Parameters
    ----------
    limit : float
        Update norm above which an image is suspicious.
    pooled_limit : float, optional
        The limit at a center where at least half of the images, and three of them, wait for a revisit or are
        eliminated; `limit` if not given, and never above it.
    acquittal : int
        How many fewer verification subjects a suspicious step must leave misdiagnosed to be accepted, at least 1.
    level : float
        Share of good images that may pass the limit, as far as the watched cycle can tell (see `bound`); NaN if it was
        not made from one.
    """

    limit: float
    pooled_limit: float | None = None
    acquittal: int = 5
    level: float = math.nan
    asks: frozenset[str] = frozenset({"update norm"})
    isolates: bool = True

    def __post_init__(self) -> None:
        require_number("limit", self.limit)
        require_whole("acquittal", self.acquittal)
        if self.pooled_limit is not None:
            require_number("pooled_limit", self.pooled_limit)
        if not self.limit > 0:
            raise ValueError(f"limit must be a positive update norm, got {self.limit!r}")
        if self.pooled_limit is not None and not 0 < self.pooled_limit <= self.limit:
            raise ValueError(f"pooled_limit must be positive and at most limit, {self.limit}; got {self.pooled_limit}")
        if self.acquittal < 1:
            raise ValueError(f"acquittal must be at least 1 verification subject, got {self.acquittal!r}")

    @classmethod
    def from_watch(cls, watched: pd.DataFrame, *, reach: float = 4.0, acquittal: int = 5) -> CalibratedRule:
        """Return the rule whose limits come from a cycle that only watched.

        With m the median and q the 90th percentile of the log update norms, the limit is exp(q + reach * (q - m)), or
        the largest watched norm but for 3 % of them where that is larger; at a center most of whose images are flagged
        it is halfway between that and exp(q), in logs. Update norms are skewed, so the upper half alone says how far
        good ones spread; and a few harmful images in the watched cycle hardly move the limit.

        Parameters
        ----------
        watched : DataFrame
            Rows of a ledger (columns n, update_norm), such as those of stage "watch"; those with one image count.
        reach : float
            How far beyond the 90th percentile, in distances between it and the median, at least 0.
        acquittal : int
            Handed on to the rule.

        Raises
        ------
        ValueError
            If there is no image with a positive, finite update norm, or `reach` is negative.
        """
        require_number("reach", reach)
        if not reach >= 0:
            raise ValueError(f"reach must be at least 0, got {reach!r}")
        norms = _list_norms(watched)
        median, high = np.quantile(np.log(norms), (0.5, 1 - TAIL))
        tail = np.sort(norms)[::-1][math.floor(SPARED * len(norms))]
        limit = max(float(np.exp(high + reach * (high - median))), float(tail))
        return cls(limit, math.sqrt(limit * np.exp(high)), acquittal, float(rank_among([limit], norms)[0]))

    @classmethod
    def with_guarantee(
        cls, watched: pd.DataFrame, *, alpha: float = 0.05, looks: int = 9, acquittal: int = 5
    ) -> CalibratedRule:
        """Return the rule that ever eliminates a given good image with probability at most alpha.

        A look at an image alone counts as an e-value: 1 / level if its conformal p-value is at most `level`, else 0.
        The evidence against the image is the sum of its e-values over the number of looks that the run has room for
        (`accumulate_evidence`). An image is eliminated when a second look passes the limit, and with level = 2 * alpha
        / looks that is when its evidence reaches 1 / alpha. By Markov's inequality that happens to a good image with
        probability at most alpha, however much its looks resemble each other. Centers are not pooled. What is assumed
        is that at each look a good image is exchangeable with the watched ones, which were measured without vouching
        for themselves (`dqc_lib.travelling.watch`), before the model travelled on.

        Parameters
        ----------
        watched : DataFrame
            As in `from_watch`.
        alpha : float
            Above 0, below 1.
        looks : int
            How often an image can be looked at alone in the whole run, at least 1: `Schedule.looks`.
        acquittal : int
            Handed on to the rule.

        Raises
        ------
        ValueError
            If too few images were watched: with m of them no p-value is below 1 / (m + 1).
        """
        require_number("alpha", alpha)
        require_whole("looks", looks)
        if not 0 < alpha < 1:
            raise ValueError(f"alpha must be above 0 and below 1, got {alpha!r}")
        if looks < 1:
            raise ValueError(f"looks must be at least 1, got {looks!r}")
        norms = np.sort(_list_norms(watched))[::-1]
        # how many watched norms may lie at or above one that is suspicious: p = (1 + exceeded) / (m + 1) <= level
        exceeded = min(math.floor(2 * alpha / looks * (len(norms) + 1) + ROUNDING), len(norms)) - 1
        if exceeded < 0:
            needed = math.ceil(looks / alpha / 2 - ROUNDING) - 1
            raise ValueError(
                f"alpha = {alpha:g} over {looks} looks needs at least {needed} watched images, "
                f"got {len(norms)}; choose a larger alpha, or watch more images"
            )
        return cls(float(norms[exceeded]), None, acquittal, (1 + exceeded) / (len(norms) + 1))

    def bound(self, looks: int) -> float:
        """Return the largest chance, at most 1, that a given good image is ever eliminated in a run with so many looks;
        NaN where the level is.

        Two of its own looks must pass the limit: at most looks / 2 * level (see `with_guarantee`). If centers are
        pooled, it may also go because half of its center's images are flagged, by one look each: at most twice looks *
        level, as long as the center holds good images only. The acquittal only lowers it.
        """
        own = looks / 2 * self.level
        return float(np.minimum(1.0, own if self.pooled_limit is None else own + 2 * looks * self.level))

    def _find_limit(self, pooled: bool) -> float:
        return self.pooled_limit if pooled and self.pooled_limit is not None else self.limit

    def suspects(self, *, n: int, update_norm: float | None, pooled: bool = False) -> bool:
        """Return whether the update is unusually large; one that is not a number is."""
        if update_norm is None:
            raise ValueError("the calibrated rule needs the update norm: call watch() on the engine first")
        return not update_norm <= self._find_limit(pooled)

    def judge(
        self, *, n: int, update_norm: float | None, before: Counts, after: Counts, pooled: bool = False
    ) -> Verdict:
        """Return harmful if the update is suspicious and the candidate does not misdiagnose clearly less."""
        suspicious = self.suspects(n=n, update_norm=update_norm, pooled=pooled)
        righted = (before.fp - after.fp, before.fn - after.fn)
        acquitted = min(righted) >= 0 and sum(righted) >= self.acquittal
        return Verdict(suspicious and not acquitted, tolerance=0.0, norm_limit=self._find_limit(pooled))


def _list_norms(watched: pd.DataFrame) -> np.ndarray:
    """Return the update norms of single images that can be compared."""
    require_rows(watched, ("n", "update_norm"))
    norms = watched.loc[watched["n"] == 1, "update_norm"].astype(float).to_numpy()
    norms = norms[np.isfinite(norms) & (norms > 0)]
    if not len(norms):
        raise ValueError(
            "a calibrated rule needs a watched cycle: no image alone with a positive, finite update norm came"
        )
    return norms
