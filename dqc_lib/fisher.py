"""How unusual an image is to the model: the gradient of its logit, measured against gradients of good images.

For one image the gradient of the loss is (score - label) times the gradient of the logit. The first factor says how
wrong the answer is, and depends on the label; the second says in which weights the image would move the model, whatever
its label. Only the second is measured, so an image that the model is sure of shows as well as any other. It is measured
one image at a time and without dropout, so that it repeats exactly and that no image hides behind others of its batch.
The update norm is the length sqrt(sum(g**2 / (F + floor))), with F the mean of g**2 over good images (as the diagonal
of the Fisher information). Weights that good images hardly move count much: an inverted or noisy image moves just
these, in many filters at once. A filter that was silent and begins to answer while the model learns on moves them
too, for a good image; so the few filters that an image moves most are left out of the sum. Related: GradNorm (Huang
et al. 2021, arXiv 2110.00218) and natural gradient lengths (Amari 1998, doi 10.1162/089976698300017746).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from dqc_lib.checkpoints import name_file, open_archive, read_array

if TYPE_CHECKING:
    import keras

FLOOR = 1e-4
"""The floor under F, as a share of its median over the weights that any good image moved; without it, the weights
that none did would decide alone."""
LEFT_OUT = 4
"""Parts (see `LogitProbe.parts`) left out of an update norm. With none, single good images stood at up to 8 times the
limit in some cycles; with four none did, and inverted ones kept three quarters of their distance."""


class LogitProbe:
    """Reads the gradient of the logit of single images, and leaves the model as it is.

    The probe is the model without its dropout and its last activation; both share their weights, but for the last
    layer, which is copied. An optimizer that keeps the gradient and moves nothing works alike on every backend of
    Keras, and leaves the weights as they are even where the gradient is not finite.

    Parameters
    ----------
    model : keras.Model
        From `build_sfcn`, with frozen normalization: otherwise reading would move its statistics.
    """

    def __init__(self, model: keras.Model) -> None:
        import keras

        self._last = model.get_layer("dense")
        self._copy = keras.layers.Dense(1, name="logit")
        features = keras.layers.Flatten()(model.get_layer("average").output)
        self._probe = keras.Model(model.input, self._copy(features), name="probe")
        self._probe.compile(
            optimizer=get_keeper_class()(),
            loss=lambda sign, logit: keras.ops.mean(sign * logit),
            jit_compile=keras.backend.backend() == "jax",
        )
        self._probe.optimizer.build(self._probe.trainable_variables)

    @property
    def parts(self) -> np.ndarray:
        """The part that each weight belongs to, see `number_parts`."""
        return number_parts([tuple(variable.shape) for variable in self._probe.trainable_variables])

    def read(self, image: np.ndarray) -> np.ndarray:
        """Return the gradient of the logit by the weights.

        Parameters
        ----------
        image : numpy.ndarray of shape (1, I, J, K, 1)

        Returns
        -------
        numpy.ndarray of shape (trainable parameters,), float32
            One weight after the other, in the order of `model.trainable_variables`.
        """
        import keras

        for copy, original in zip(self._copy.variables, self._last.variables, strict=True):
            copy.assign(keras.ops.copy(original.value))  # JAX gives the memory away in the step
        self._probe.train_on_batch(image, np.ones((1, 1), dtype=np.float32))
        kept = self._probe.optimizer.kept
        return np.concatenate([gradient.numpy().ravel() for gradient in kept])


def number_parts(shapes: Sequence[tuple[int, ...]]) -> np.ndarray:
    """Return the part that each weight belongs to, numbered from 0, shape (all weights,): the weights of a tensor that
    lead to the same filter are one part.

    Examples
    --------
    >>> number_parts([(2, 3), (3,)]).tolist()
    [0, 1, 2, 0, 1, 2, 3, 4, 5]
    """
    starts = np.cumsum([0, *(shape[-1] for shape in shapes)])
    numbers = [start + np.arange(np.prod(shape)) % shape[-1] for start, shape in zip(starts, shapes, strict=False)]
    return np.concatenate(numbers).astype(np.int32)


@cache
def get_keeper_class() -> type:
    """Return the class of an optimizer that keeps the gradient of every variable in `kept`, and moves nothing."""
    import keras

    class GradientKeeper(keras.optimizers.Optimizer):
        def __init__(self) -> None:
            super().__init__(learning_rate=0.0)

        def build(self, variables) -> None:
            if not self.built:
                super().build(variables)
                self.kept = [self.add_variable_from_reference(variable, name="gradient") for variable in variables]

        def update_step(self, gradient, variable, learning_rate) -> None:
            self.assign(self.kept[self._get_variable_index(variable)], gradient)

    return GradientKeeper


def average_norms(norms: Iterable[float]) -> float:
    """Return the geometric mean of update norms; those that are 0, as where all filters are silent, or not finite do
    not count, and NaN is that of none."""
    norms = np.array(list(norms), dtype=np.float64)
    logs = np.log(norms[np.isfinite(norms) & (norms > 0)])
    return float(np.exp(np.mean(logs))) if logs.size else float("nan")


def forget_momentum(model: keras.Model) -> None:
    """Set Adam's first moments to zero, in place: the next step follows its own gradient alone.

    Raises
    ------
    ValueError
        If the optimizer is not Adam.
    """
    import keras

    moments = [variable for variable in model.optimizer.variables if variable.path.endswith("momentum")]
    if len(moments) != len(model.trainable_variables):
        raise ValueError(f"only Adam's momentum can be forgotten, got {model.optimizer.__class__.__name__}")
    for variable in moments:
        variable.assign(keras.ops.zeros_like(variable.value))


class GradientScale:
    """The mean squared gradient of good images, kept by fold so that no image is measured against itself.

    Parameters
    ----------
    parts : ndarray of int, optional
        The part of each weight, `LogitProbe.parts`. If given, the `LEFT_OUT` parts with the largest share of an update
        norm are left out of it; otherwise all weights count.

    Examples
    --------
    >>> scale = GradientScale()
    >>> for center, gradient in (("A", [3.0, 1.0]), ("B", [3.0, 1.0])):
    ...     scale.add(np.array(gradient), fold=center)
    >>> round(scale.measure(np.array([3.0, 0.0])), 3)
    1.0

    Attributes
    ----------
    reference : float
        The typical update norm of verification images when the scale was made; NaN where there was none.
    """

    def __init__(self, parts: np.ndarray | None = None) -> None:
        self._parts = parts
        self.reference = float("nan")
        self._sums: dict[Hashable, np.ndarray] = {}
        self._counts: dict[Hashable, int] = {}
        self._ready: dict[Hashable, np.ndarray] = {}

    def add(self, gradient: np.ndarray, *, fold: Hashable) -> None:
        """Take in the gradient of one good image; `fold` is whatever must not be measured against itself, such as its
        center."""
        self.add_squares(gradient**2, count=1, fold=fold)

    def add_squares(self, squares: np.ndarray, *, count: int, fold: Hashable) -> None:
        """Take in the sum of the squared gradients of so many good images."""
        self._ready.clear()
        if fold not in self._sums:
            self._sums[fold], self._counts[fold] = np.zeros_like(squares), 0
        self._sums[fold] += squares
        self._counts[fold] += count

    def save(self, path: Path | BinaryIO, *, without: Hashable = None) -> None:
        """Write the scale over all folds together, or over those that `measure` uses, to an `.npz` file."""
        total, count = self._sum_up(without)
        parts = {} if self._parts is None else {"parts": self._parts}
        np.savez(path, total=total, count=count, reference=self.reference, **parts)

    @classmethod
    def load(cls, path: Path) -> GradientScale:
        """Return the scale that `save` wrote; its folds cannot be told apart any more.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file is damaged, claims more than `MAX_BYTES` of `dqc_lib.checkpoints`, or holds anything else.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; expected the scale of a watched cycle")
        with open_archive(path) as archive, name_file(path, expected="the scale of a watched cycle"):
            total, count, reference = (read_array(archive, name) for name in ("total", "count", "reference"))
            parts = read_array(archive, "parts") if "parts.npy" in archive.namelist() else None
            if total.ndim != 1 or int(count) < 1 or not (parts is None or _fits(parts, total.size)):
                raise ValueError("its parts do not fit each other")
            scale = cls(parts)
            scale._sums["all"], scale._counts["all"], scale.reference = total, int(count), float(reference)
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
        shares = gradient.astype(np.float64) ** 2 * self._ready[without]
        if self._parts is not None and np.isfinite(shares).all():
            shares = np.sort(np.bincount(self._parts, weights=shares))[:-LEFT_OUT]
        return float(np.sqrt(np.sum(shares)))

    def _invert(self, without: Hashable) -> np.ndarray:
        total, count = self._sum_up(without)
        mean = total / count
        moved = mean[mean > 0]
        return 1.0 / (mean.astype(np.float64) + FLOOR * (np.median(moved) if moved.size else 1.0))

    def _sum_up(self, without: Hashable) -> tuple[np.ndarray, int]:
        folds = [fold for fold in self._sums if fold != without] or list(self._sums)
        if not folds:
            raise ValueError("no gradient of a good image has been added yet, so there is nothing to measure against")
        return sum(self._sums[fold] for fold in folds), sum(self._counts[fold] for fold in folds)


def _fits(parts: np.ndarray, n_weights: int) -> bool:
    """Return whether every weight has a part, numbered from 0."""
    numbered = parts.dtype.kind in "iu" and parts.shape == (n_weights,)
    return numbered and (not parts.size or 0 <= parts.min() and parts.max() < n_weights)
