"""Gradient inversion: a patient's record read back from the gradient that a hospital sends.

The gradient of a dense layer with bias is the input times the error of each unit, summed over the rows of a batch; that
of the bias is the sum of the errors. For one row the quotient of the two **is** the row, whatever the network behind
(Phong et al. 2018, doi 10.1109/TIFS.2017.2787987; Geiping et al. 2020, arXiv 2003.14053). For several rows, such as the
visits of a patient, the quotient is a mixture. But the kernel's gradient then has no more dimensions than there are
different rows, and rows of 0 and 1 within so few dimensions can be counted out: `invert_visits`. The order of rows is
not in a sum, and does not come back.

Clipping multiplies all by one factor, and hides nothing. A little noise hides nothing either: one row makes a matrix of
rank 1, whose best approximation averages the noise over all units (`invert_record`). Enough noise does.

What is attacked here is the gradient of **one** patient, sent once. Sums over many patients, and weights after many
steps, are other attacks, which are not made here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from dqc_lib.arguments import require_kind, require_number, require_whole
from dqc_lib.evaluation.metrics import measure_auroc
from dqc_lib.evaluation.resampling import make_generator
from dqc_lib.privacy.training import add_noise, clip_gradients

ROUNDING = 1e-5  # of the largest singular value: what is below it in a gradient of float32 is rounding
CLOSE = 0.05  # how far from 0 and 1 a code may lie that was read
MOST_DIMENSIONS = 16  # of which all 2^16 corners are tried
COLUMNS = ("setting", "repeat", "exact", "share_right", "jaccard", "auroc", "n_codes")


def invert_gradient(kernel_gradient: np.ndarray, bias_gradient: np.ndarray) -> np.ndarray:
    """Return the input that a dense layer's gradient comes from: exactly for one row, a weighted mixture for several.

    The quotient of both gradients, over all units by least squares. Under noise `invert_record`, for rows of 0 and 1,
    is the stronger attack: here the noise of the bias shrinks every quotient.

    Parameters
    ----------
    kernel_gradient : ndarray, shape (inputs, units)
        As Keras has it.
    bias_gradient : ndarray, shape (units,)

    Returns
    -------
    ndarray of float64, shape (inputs,)
        NaN if the gradient of the bias is zero: nothing was learnt from that row, and nothing can be read.

    Examples
    --------
    >>> record, error = np.array([1.0, 0.0, 1.0]), np.array([0.3, -0.7])
    >>> invert_gradient(np.outer(record, error), error)
    array([1., 0., 1.])
    """
    gradient = _stack_gradients(kernel_gradient, bias_gradient)
    sums = (gradient * gradient[-1]).sum(axis=1)  # in one go, so that equal rows have equal sums
    return sums[:-1] / sums[-1] if sums[-1] > 0 else np.full(len(gradient) - 1, math.nan)


def invert_record(kernel_gradient: np.ndarray, bias_gradient: np.ndarray) -> np.ndarray:
    """Return the row of 0 and 1 that a dense layer's gradient comes from, as numbers around 0 and 1, also under noise.

    Without noise kernel and bias are, one above the other, a matrix of rank 1: the row, with a one behind it for the
    bias, times the errors of the units. The leading left singular vector is the best approximation of it under noise
    (Eckart and Young 1936). Its entries are split in two groups, absent around 0 and present around one other number,
    so that the sum of squares within is smallest; that number is scaled to 1. Codes above 0.5 are present.

    Parameters
    ----------
    kernel_gradient, bias_gradient
        As in `invert_gradient`.

    Returns
    -------
    ndarray of float64, shape (inputs,)
        NaN if all gradients are zero.

    Examples
    --------
    >>> record, error = np.array([1.0, 0.0, 1.0]), np.array([0.3, -0.7])
    >>> invert_record(np.outer(record, error), error).round(6) + 0.0
    array([1., 0., 1.])
    """
    left, sizes = _decompose(kernel_gradient, bias_gradient)
    if not sizes[0] > 0:
        return np.full(len(left) - 1, math.nan)
    told = max(left[:, 0], -left[:, 0], key=lambda signed: _find_level(signed)[0])  # a vector comes with either sign
    return told[:-1] / _find_level(told)[1]


def invert_visits(kernel_gradient: np.ndarray, bias_gradient: np.ndarray) -> np.ndarray:
    """Return all rows of 0 and 1 that the gradient of a dense layer, summed over several rows, can be made of.

    With the gradient of the bias, which has a row of ones for its input, the kernel's gradient spans the rows that it
    is a sum of. All corners of the cube within that span are counted out. The rows are among them, if the errors of
    the different rows, one vector over the units for each, are linearly independent; others can be that are sums and
    differences of rows (a + b - c).

    Parameters
    ----------
    kernel_gradient, bias_gradient
        As in `invert_gradient`.

    Returns
    -------
    ndarray of float32, shape (candidates, inputs)
        Each once, in no order of time; empty where the span has more than `MOST_DIMENSIONS` dimensions, such as that of
        noise, or holds no corner.
    """
    from scipy.linalg import qr

    basis, sizes = _decompose(kernel_gradient, bias_gradient)
    rank = int((sizes > ROUNDING * sizes[0]).sum())
    if not 0 < rank <= MOST_DIMENSIONS:
        return np.zeros((0, len(basis) - 1), dtype=np.float32)
    basis = basis[:, :rank]
    told = qr(basis.T, pivoting=True)[2][:rank]  # the rows of the basis that best tell a point of the span
    corners = (np.arange(2**rank)[:, None] >> np.arange(rank)) & 1
    points = corners @ np.linalg.inv(basis[told]).T @ basis.T
    near = np.abs(points - np.round(points)).max(axis=1) <= CLOSE
    found = np.round(points[near]) + 0.0  # no zero of rounding is a negative one
    right = np.isin(found, (0, 1)).all(axis=1) & (found[:, -1] == 1)
    return np.unique(found[right, :-1], axis=0).astype(np.float32)


def measure_jaccard(record: np.ndarray, found: np.ndarray) -> float:
    """Return how many of the codes that either has both have, from 0 to 1 (the record itself); NaN where none has any.

    Most codes of most visits are absent, so a share of all codes is high for a guess of none; this is not.
    """
    record, found = np.asarray(record) > 0.5, np.asarray(found) > 0.5
    either = int((record | found).sum())
    return float((record & found).sum() / either) if either else math.nan


def protect_gradient(
    gradients: Sequence[np.ndarray], *, clipping_norm: float, noise_multiplier: float, seed: int | Sequence[int] = 0
) -> list[np.ndarray]:
    """Return a patient's gradient as private training would send it, if no other patient took part: clipped as a whole,
    with noise.

    Parameters
    ----------
    gradients : sequence of ndarray
        One for each variable of the network.
    clipping_norm : float
        Above 0; infinite leaves it as it is.
    noise_multiplier : float
        As in `PrivateRecipe`.
    seed : int or sequence of int
    """
    require_number("clipping_norm", clipping_norm)
    require_number("noise_multiplier", noise_multiplier)
    if not clipping_norm > 0 or not 0 <= noise_multiplier < math.inf:
        raise ValueError(
            f"expected a clipping_norm > 0 and a noise_multiplier >= 0, got {clipping_norm!r}, {noise_multiplier!r}"
        )
    if noise_multiplier and math.isinf(clipping_norm):
        raise ValueError("clipping_norm is infinite; expected a finite one for noise to go by")
    flat = np.concatenate([np.asarray(part, dtype=np.float64).ravel() for part in gradients])
    clipped = clip_gradients(flat[None], clipping_norm)[0]
    asked = {"noise_multiplier": noise_multiplier, "clipping_norm": clipping_norm}
    noisy = add_noise(clipped, **asked, generator=np.random.default_rng(seed))
    ends = np.cumsum([np.size(part) for part in gradients])[:-1]
    return [own.reshape(np.shape(part)) for own, part in zip(np.split(noisy, ends), gradients, strict=True)]


def measure_inversion(
    gradients: Sequence[np.ndarray],
    record: np.ndarray,
    *,
    settings: Mapping[str, tuple[float, float]],
    others: np.ndarray,
    repeats: int = 20,
    seed: int = 0,
) -> pd.DataFrame:
    """Return how much of a record comes back from its gradient under each setting, and what a guess would give.

    Parameters
    ----------
    gradients : sequence of ndarray
        Of a network by one row, such as a patient with all visits flattened; first those of kernel and bias of the
        first layer.
    record : ndarray of 0 and 1
        The patient; as many numbers as the layer has inputs.
    settings : mapping of str to (float, float)
        Clipping norm and noise multiplier, see `protect_gradient`.
    others : ndarray of 0 and 1, (patients, ...)
        Other patients of the same hospital: to put forward one of them is the guess without the gradient, setting
        "another patient".
    repeats : int
        Draws of the noise, and guesses at most.
    seed : int

    Returns
    -------
    DataFrame
        Columns `COLUMNS`, one row per setting and repeat: whether all codes are right, which share is, their Jaccard
        similarity to the record, the area under the ROC curve of codes that are there against those that are not
        (chance: 0.5; NaN where the record has none or all), and how many codes there are.
    """
    require_kind("settings", settings, Mapping, such_as='{"clipped": (1.0, 0.0)}')
    require_whole("repeats", repeats, least=1)
    require_whole("seed", seed, least=0)
    record, others = np.asarray(record).ravel(), np.asarray(others).reshape(len(others), -1)
    if len(record) != len(gradients[0]) or others.shape[1] != len(record) or not len(others):
        raise ValueError(
            f"the layer has {len(gradients[0])} inputs, the record {len(record)}, others {others.shape}; expected alike"
        )
    rows = []
    for setting, (norm, noise) in settings.items():
        for repeat in range(repeats):
            drawn = int(make_generator(seed, "inversion", setting, str(repeat)).integers(2**63))
            sent = protect_gradient(gradients, clipping_norm=norm, noise_multiplier=noise, seed=drawn)
            rows.append((setting, repeat, *_compare(record, invert_record(*sent[:2]))))
    order = make_generator(seed, "inversion", "another patient").permutation(len(others))[:repeats]
    rows += [("another patient", at, *_compare(record, others[who])) for at, who in enumerate(order)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _find_level(values: np.ndarray) -> tuple[float, float]:
    """Return how much of the values' squares two groups explain, around 0 and around their largest, and that level."""
    falling = np.sort(values)[::-1]
    sums, counts = falling.cumsum(), np.arange(1, len(values) + 1)
    explained = np.where(sums > 0, sums**2 / counts, 0.0)
    at = int(explained.argmax())
    return float(explained[at]), float(sums[at] / counts[at])


def _compare(record: np.ndarray, found: np.ndarray) -> tuple[bool, float, float, float, int]:
    truth = record > 0.5
    right = truth == (found > 0.5)
    area = measure_auroc(truth, found) if 0 < truth.sum() < len(truth) else math.nan
    return bool(right.all()), float(right.mean()), measure_jaccard(record, found), area, len(record)


def _stack_gradients(kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Return the gradient of the kernel above that of the bias, (inputs + 1, units) in float64."""
    kernel, bias = np.asarray(kernel), np.asarray(bias)
    if kernel.ndim != 2 or bias.shape != kernel.shape[1:] or not kernel.size:
        raise ValueError(f"expected gradients of (inputs, units) and (units,), got {kernel.shape} and {bias.shape}")
    if not (np.isfinite(kernel).all() and np.isfinite(bias).all()):
        raise ValueError("the gradients must be finite")
    return np.vstack([kernel, bias]).astype(np.float64)


def _decompose(kernel: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the left singular vectors, as columns, and the singular values of both gradients, one above the other."""
    from scipy.linalg import svd

    left, sizes, _ = svd(_stack_gradients(kernel, bias), full_matrices=False)
    return left, sizes
