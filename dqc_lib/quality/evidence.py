"""From update norms to evidence: conformal p-values, and e-values that may be looked at again and again.

A conformal p-value is a rank among good attempts (Vovk, Gammerman and Shafer 2005, doi 10.1007/b106715; as a test for
outliers Bates et al. 2023, doi 10.1214/22-AOS2244). It needs no distribution, only that a new good attempt could as
well have been one of the watched ones (exchangeability). An e-value is a number whose mean is at most 1 for good
attempts (Vovk and Wang 2021, doi 10.1214/20-AOS2020); by Markov's and Ville's inequalities (Ville 1939; Ramdas et al.
2023, doi 10.1214/23-STS894) the chance that it ever reaches 1 / alpha is at most alpha, however often one looks.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from dqc_lib.arguments import require_number, require_whole, show_value

COMBINATIONS = ("average", "product")


def rank_among(norms: Iterable[float], watched: Iterable[float]) -> np.ndarray:
    """Return the conformal p-value of each update norm among watched ones, from 1 / (m + 1) to 1, shape (n,).

    Parameters
    ----------
    norms : iterable of float, n of them
        Update norms; one that is not a number is as unusual as can be.
    watched : iterable of float, m of them
        Update norms of good attempts of the same size.

    Raises
    ------
    ValueError
        If there is no finite watched norm.

    Examples
    --------
    >>> rank_among([0.5, 2.0, 9.0], watched=[1.0, 2.0, 3.0]).tolist()
    [1.0, 0.75, 0.25]
    """
    known = _list_numbers("watched", watched)
    known = np.sort(known[np.isfinite(known)])
    if not len(known):
        raise ValueError("p-values are ranks among watched update norms, and no finite one came")
    values = _list_numbers("norms", norms)
    below = np.searchsorted(known, values)  # which puts what is not a number last
    return (1.0 + len(known) - below) / (1.0 + len(known))


def accumulate_evidence(
    p_values: Iterable[float], *, level: float, combine: str = "average", planned: int | None = None
) -> np.ndarray:
    """Return the e-value of one subject after each of its looks, shape (looks,): higher speaks more for harm.

    Parameters
    ----------
    p_values : iterable of float
        Of the subject's attempts alone, in order.
    level : float
        Above 0, at most 1. With "average", a look counts 1 / level if its p-value is at most `level`, else 0. With
        "product", it counts p**(k - 1) * k with k = -1 / log(level), the power that rises fastest at that level.
    combine : {"average", "product"}
        "average" is the sum so far over the number of planned looks: an e-value whatever ties one look to the next.
        "product" is one only if each p-value is as good as new given the earlier ones. An image that looks unusual once
        looks so again, so that does not hold here; it is offered to show what it costs.
    planned : int, optional
        Looks in all, needed for the average of a subject that is still under way; the number of p-values if not given.

    Examples
    --------
    >>> accumulate_evidence([0.01, 0.30, 0.02], level=0.05).round(2).tolist()
    [6.67, 6.67, 13.33]
    """
    if combine not in COMBINATIONS:
        raise ValueError(f"combine must be one of {COMBINATIONS}, got {combine!r}")
    require_number("level", level)
    if planned is not None:
        require_whole("planned", planned)
    if not 0 < level <= 1:
        raise ValueError(f"level must be above 0 and at most 1, got {level!r}")
    values = _list_numbers("p_values", p_values)
    if not ((values > 0) & (values <= 1)).all():
        raise ValueError(f"p-values must be above 0 and at most 1, got {values.tolist()}")
    if combine == "product":
        power = min(1.0, -1.0 / np.log(level)) if level < 1 else 1.0
        return np.cumprod(power * values ** (power - 1.0))
    planned = len(values) if planned is None else planned
    if planned < len(values):
        raise ValueError(f"{planned} looks were planned, and {len(values)} p-values came")
    return np.cumsum((values <= level) / level) / max(planned, 1)


def _list_numbers(name: str, values: Iterable[float]) -> np.ndarray:
    try:
        return np.asarray(list(values), dtype=np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a list of numbers, got {show_value(values)}") from None
