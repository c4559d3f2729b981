"""Making one set of weights of several hospitals' sets: by their numbers of patients, and by how far off they lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real

import numpy as np

from dqc_lib.arguments import require_number, require_whole


def average_weights(weights: Mapping[str, Sequence[np.ndarray]], shares: Mapping[str, float]) -> list[np.ndarray]:
    """Return the mean of hospitals' weights, each counted by its share (FedAvg; McMahan et al. 2017).

    Parameters
    ----------
    weights : mapping of str to sequence of ndarray
        Arrays of the same shapes, by hospital.
    shares : mapping of str to float
        Patients of each hospital, or the shares of `weigh_by_distribution`; at least 0, not all 0. They are divided by
        their sum.

    Returns
    -------
    list of ndarray
        With the type of the first hospital's arrays; summed up as float64.

    Raises
    ------
    KeyError, ValueError
        If the hospitals differ, or their arrays do.
    """
    if not weights:
        raise ValueError("weights must be of at least one hospital, got none")
    parts = _check_shares(shares, list(weights), name="shares")
    first, *others = ([np.asarray(array) for array in weights[name]] for name in weights)
    for name, arrays in zip(list(weights)[1:], others, strict=True):
        if [array.shape for array in arrays] != [array.shape for array in first]:
            raise ValueError(f"weights of {name!r} have other shapes than those of {next(iter(weights))!r}")
    total = sum(parts)
    return [
        sum(part / total * array.astype(np.float64) for part, array in zip(parts, column, strict=True)).astype(
            column[0].dtype
        )
        for column in zip(first, *others, strict=True)
    ]


def weigh_by_distribution(
    marginals: Mapping[str, np.ndarray], sizes: Mapping[str, int], *, strength: float = 10.0
) -> dict[str, float]:
    """Return shares of hospitals, lower (or higher) the farther a hospital's codes lie from everybody's.

    A hospital with n patients whose codes have the marginals p gets the share n exp(-strength d), divided by the sum of
    all. Here d is the mean over codes of |p - pooled p|, and pooled p the mean of all p by numbers of patients: 0.1
    means that a code differs by ten percentage points on average. Equal marginals give plain federated averaging, and
    so does a strength of 0; below 0 those who are unlike the others count more.

    What it costs: every hospital reveals how frequent each code is there, and for a code of few patients that may be
    about one of them. What it cannot do: tell another case mix, which is true, from another way of coding, which is
    not, nor see time, which marginals do not hold. A small hospital lies off by chance alone.

    Parameters
    ----------
    marginals : mapping of str to ndarray
        Share of visits with each code, 0 to 1, the same shape everywhere.
    sizes : mapping of str to int
        Patients.
    strength : float

    Returns
    -------
    dict of str to float
        By hospital; they sum to 1.
    """
    require_number("strength", strength)
    if not np.isfinite(strength):
        raise ValueError(f"strength must be a finite number, got {strength!r}")
    held = {name: np.asarray(values, dtype=np.float64) for name, values in marginals.items()}
    if not held:
        raise ValueError("marginals must be of at least one hospital, got none")
    for name, values in held.items():
        if values.shape != next(iter(held.values())).shape or not values.size:
            raise ValueError(f"marginals of {name!r} have the shape {values.shape}; expected the same, not empty")
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
            raise ValueError(f"marginals of {name!r} must be from 0 to 1")
    counts = _check_shares(sizes, list(held), name="sizes")
    pooled = sum(count * values for count, values in zip(counts, held.values(), strict=True)) / sum(counts)
    apart = np.array([np.abs(values - pooled).mean() for values in held.values()])
    raw = np.array(counts) * np.exp(-strength * (apart - apart.min() if strength >= 0 else apart - apart.max()))
    return dict(zip(held, (raw / raw.sum()).tolist(), strict=True))


def _check_shares(shares: Mapping[str, float], names: list[str], *, name: str) -> list[float]:
    """Return the shares in the order of the hospitals' names."""
    if set(shares) != set(names):
        raise KeyError(f"{name} are of {sorted(shares)}; expected {sorted(names)}")
    for hospital, value in shares.items():
        require_number(f"{name}[{hospital!r}]", value)
        if not (isinstance(value, Real) and np.isfinite(value) and value >= 0):
            raise ValueError(f"{name}[{hospital!r}] must be a finite number >= 0, got {value!r}")
    if not sum(shares.values()):
        raise ValueError(f"{name} must not all be 0")
    return [float(shares[hospital]) for hospital in names]


def split_steps(sizes: Mapping[str, int], *, rows: int, batch: int) -> dict[str, int]:
    """Return the gradient steps of each hospital that make up one pass over its patients, at least 1.

    Parameters
    ----------
    sizes : mapping of str to int
        Patients.
    rows : int
        Rows of training data per patient.
    batch : int
        Rows to a step.
    """
    for name, value in (("rows", rows), ("batch", batch)):
        require_whole(name, value, least=1)
    return {name: max(1, round(size * rows / batch)) for name, size in sizes.items()}
