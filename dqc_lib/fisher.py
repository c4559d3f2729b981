"""The size of an update as evidence: how unusual the gradient of a batch is, measured against gradients of good images.

After a training step, Adam's first moment tells the gradient g that made it: m = beta * m_before + (1 - beta) * g.
Nothing is computed twice, no label of a verifying center is needed, and nothing travels that a travelling model does
not carry anyway. It is divided by the misfit, how far the answer was from the label: for one image the gradient of
the loss is (score - label) times the gradient of the logit, and the latter says how unusual the image is, whatever its
label. The update norm is the length sqrt(sum(g**2 / (F + floor))), with F the mean of g**2 over good images one at a
time (as the diagonal of the empirical Fisher information). Weights that good images hardly move count much: an inverted
or noisy image moves just these. Related: GradNorm (Huang et al. 2021, arXiv 2110.00218) and natural
gradient lengths (Amari 1998, doi 10.1162/089976698300017746).
"""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import keras

FLOOR = 1e-4
"""The floor under F, as a share of its median over the weights that any good image moved; without it, the weights
that none did would decide alone."""
LEAST_MISFIT = 0.05
"""A smaller misfit counts as this one: the gradient of an image that fits is small and noisy."""


def read_moments(model: keras.Model) -> np.ndarray:
    """Return Adam's first moments, one after the other, shape (trainable parameters,), float32."""
    import keras

    return np.concatenate([keras.ops.convert_to_numpy(variable).ravel() for variable in _find_moments(model)])


def forget_momentum(model: keras.Model) -> None:
    """Set Adam's first moments to zero, in place: the next step follows its own gradient alone."""
    import keras

    for variable in _find_moments(model):
        variable.assign(keras.ops.zeros_like(variable))


def _find_moments(model: keras.Model) -> list:
    moments = [variable for variable in model.optimizer.variables if variable.path.endswith("momentum")]
    if len(moments) != len(model.trainable_variables):
        raise ValueError(f"update norms need Adam, got {model.optimizer.__class__.__name__}")
    return moments


def read_gradient(model: keras.Model, moments_before: np.ndarray) -> np.ndarray:
    """Return the gradient of the last training step, from the first moments before and after it, shape (trainable
    parameters,)."""
    beta = model.optimizer.beta_1
    return (read_moments(model) - beta * moments_before) / (1.0 - beta)


def divide_by_misfit(gradient: np.ndarray, loss: float) -> np.ndarray:
    """Return the gradient per unit of misfit, 1 - exp(-loss).

    For one image and the cross-entropy that is |score - label|; for a batch, with the mean loss, 1 minus the geometric
    mean of the probabilities given to the right labels.

    Parameters
    ----------
    gradient : numpy.ndarray
        Of the mean loss, any shape.
    loss : float
        The training loss that it is the gradient of, at least 0.

    Examples
    --------
    >>> bool(divide_by_misfit(np.array([0.2]), -np.log(0.8)).round(6) == [1.0])  # the score was 0.8, the label 1
    True
    """
    return gradient / max(-np.expm1(-loss), LEAST_MISFIT)


class GradientScale:
    """The mean squared gradient of good images, kept by fold so that no image is measured against itself.

    Examples
    --------
    >>> scale = GradientScale()
    >>> for center, gradient in (("A", [3.0, 1.0]), ("B", [3.0, 1.0])):
    ...     scale.add(np.array(gradient), fold=center)
    >>> round(scale.measure(np.array([3.0, 0.0])), 3)
    1.0
    """

    def __init__(self) -> None:
        self._sums: dict[Hashable, np.ndarray] = {}
        self._counts: dict[Hashable, int] = {}
        self._ready: dict[Hashable, np.ndarray] = {}

    def add(self, gradient: np.ndarray, *, fold: Hashable) -> None:
        """Take in the gradient of one good image; `fold` is whatever must not be measured against itself, such as its
        center."""
        self._ready.clear()
        if fold not in self._sums:
            self._sums[fold], self._counts[fold] = np.zeros_like(gradient), 0
        self._sums[fold] += gradient**2
        self._counts[fold] += 1

    def save(self, path: Path) -> None:
        """Write the scale over all folds together to an `.npz` file."""
        total, count = sum(self._sums.values()), sum(self._counts.values())
        np.savez(path, total=total, count=count)

    @classmethod
    def load(cls, path: Path) -> GradientScale:
        """Return the scale that `save` wrote; its folds cannot be told apart any more."""
        scale = cls()
        with np.load(path, allow_pickle=False) as stored:
            scale._sums["all"], scale._counts["all"] = stored["total"], int(stored["count"])
        return scale

    def measure(self, gradient: np.ndarray, *, without: Hashable = None) -> float:
        """Return the update norm, against all folds or all but one; where only that one is known, against it. Higher
        is more unusual.

        Raises
        ------
        ValueError
            If no gradient has been added.
        """
        if without not in self._ready:
            self._ready = {without: self._invert(without)}  # one at a time: each is as large as the model
        return float(np.sqrt(np.sum(gradient.astype(np.float64) ** 2 * self._ready[without])))

    def _invert(self, without: Hashable) -> np.ndarray:
        folds = [fold for fold in self._sums if fold != without] or list(self._sums)
        if not folds:
            raise ValueError("no gradient of a good image has been added yet, so there is nothing to measure against")
        mean = sum(self._sums[fold] for fold in folds) / sum(self._counts[fold] for fold in folds)
        moved = mean[mean > 0]
        return 1.0 / (mean.astype(np.float64) + FLOOR * (np.median(moved) if moved.size else 1.0))
