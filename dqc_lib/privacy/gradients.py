"""The gradient of every patient on its own, many in one call: what private training clips, and what an attacker reads.

Every patient gets a copy of the dense layers in one wide model: a kernel per patient, multiplied in one batched product
with the rows, such as visits, of that patient alone. The sum of all losses then has a gradient by each copy, which is
the gradient of its patient. An optimizer that keeps gradients and moves nothing hands them over, on any backend of
Keras.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from dqc_lib.arguments import require_whole
from dqc_lib.fisher import get_keeper_class
from dqc_lib.networks import import_keras

if TYPE_CHECKING:
    import keras

MEANS = ("sum_over_batch_size", "mean", "mean_with_sample_weight")
"""Reductions of a loss of Keras that are means over rows."""


class PatientGradients:
    """Computes the gradient of each patient's mean loss over all of their rows, and leaves the model as it is.

    Parameters
    ----------
    model : keras.Model
        Functional or sequential, compiled with one loss that is a mean over rows, without regularizers. All layers with
        weights are Dense; the others work row by row. Layers that keep statistics of a batch, such as batch
        normalization, are refused: in them one patient changes the gradient of another, and clipping bounds nothing.
    at_once : int
        Patients in one call; more are computed in several, fewer are filled up.
    """

    def __init__(self, model: keras.Model, *, at_once: int = 64) -> None:
        require_whole("at_once", at_once, least=1)
        self.model, self._at_once = model, int(at_once)
        self._dense = _find_dense(model)
        self._wide = _widen(model, self._at_once)

    @property
    def n_weights(self) -> int:
        """Numbers that a gradient has: those of `model.trainable_variables`, one after the other."""
        return sum(int(np.prod(variable.shape)) for variable in self.model.trainable_variables)

    def compute(self, inputs: np.ndarray | Sequence[np.ndarray], targets: np.ndarray) -> np.ndarray:
        """Return the gradients, shape (patients, weights), float32; in the order of `model.trainable_variables`.

        Parameters
        ----------
        inputs : ndarray, or one for each input of the model; shape (patients, rows, ...)
            The rows of a patient, such as visits; (patients, ...) if a patient is one row of the model.
        targets : ndarray, shape (patients, rows, ...)

        Raises
        ------
        ValueError
            If arrays do not fit each other or the model.
        """
        inputs = list(inputs) if isinstance(inputs, list | tuple) else [inputs]
        inputs, targets = [np.asarray(part, dtype=np.float32) for part in inputs], np.asarray(targets, dtype=np.float32)
        _check_inputs(self.model, inputs, targets)
        self._write()
        parts = [np.zeros((0, self.n_weights), dtype=np.float32)]
        for first in range(0, len(targets), self._at_once):
            chosen = slice(first, first + self._at_once)
            parts.append(self._compute_some([part[chosen] for part in inputs], targets[chosen]))
        return np.concatenate(parts)

    def _write(self) -> None:
        """Hand the weights of the model to the wide one, which adds each patient's copy, zeros, to them."""
        keras = import_keras()

        for layer in self._dense:
            wide = self._wide.get_layer(layer.name)
            for shared, own in zip(wide.shared, layer.trainable_variables, strict=True):
                shared.assign(keras.ops.copy(own.value))  # JAX gives the memory away in the step

    def _compute_some(self, inputs: list[np.ndarray], targets: np.ndarray) -> np.ndarray:
        n, ranks = len(targets), [len(tensor.shape) for tensor in self.model.inputs]
        rows = [self._fill_up(part, rank) for part, rank in zip(inputs, ranks, strict=True)]
        self._wide.train_on_batch(rows if len(rows) > 1 else rows[0], self._fill_up(targets, ranks[0]))
        read = zip(self._wide.trainable_variables, self._wide.optimizer.kept, strict=True)
        kept = {id(variable): gradient.numpy().reshape(self._at_once, -1)[:n] for variable, gradient in read}
        offsets = [offset for layer in self._dense for offset in self._wide.get_layer(layer.name).offsets]
        gradients = [kept[id(offset)] for offset in offsets]
        return np.concatenate(gradients, axis=1) * self._at_once  # the loss is a mean over all patients

    def _fill_up(self, part: np.ndarray, rank: int) -> np.ndarray:
        missing = np.zeros((self._at_once - len(part), *part.shape[1:]), dtype=np.float32)
        filled = np.concatenate([part, missing])
        return filled.reshape(-1, *part.shape[2:]) if part.ndim > rank else filled


def _find_dense(model: keras.Model) -> list[keras.layers.Dense]:
    """Return the layers that learn, in the order of their weights, or raise."""
    keras = import_keras()

    if not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
        raise TypeError(f"model must be a functional or sequential keras.Model, got {type(model).__name__}")
    if getattr(model, "optimizer", None) is None:
        raise ValueError("the model is not compiled; expected one with a loss and an optimizer")
    _check_loss(model)
    for layer in model.layers:
        _refuse_penalty(layer)
        if type(layer) is not keras.layers.Dense:
            _refuse_weights(layer)
    learning = [layer for layer in model.layers if layer.trainable_variables]
    ours = [id(variable) for layer in learning for variable in layer.trainable_variables]
    if ours != [id(variable) for variable in model.trainable_variables]:
        raise ValueError("the model has weights outside its layers, or in another order; expected Dense layers alone")
    if not learning:
        raise ValueError("no layer of the model learns; expected at least one Dense layer")
    return learning


def _check_loss(model: keras.Model) -> None:
    """Raise if the loss is no mean over rows: the gradient of a patient is read as a share of one."""
    for loss in import_keras().tree.flatten(model.loss):
        if (reduction := getattr(loss, "reduction", MEANS[0])) not in MEANS:
            raise ValueError(f"the loss has reduction={reduction!r}; expected a mean over rows, one of {MEANS}")


def _refuse_penalty(layer: keras.layers.Layer) -> None:
    """Raise if a layer adds a penalty to the loss, which the gradients would leave out without a word."""
    for name in ("kernel_regularizer", "bias_regularizer", "activity_regularizer"):
        if getattr(layer, name, None) is not None:
            words = "a penalty that gradients of patients leave out; expected layers without"
            raise ValueError(f"layer {layer.name!r} has a {name}, {words}")


def _refuse_weights(layer: keras.layers.Layer) -> None:
    """Raise if a layer that is no Dense one has weights, or statistics of a batch that mix its patients."""
    kind = type(layer).__name__
    if layer.trainable_variables:
        raise ValueError(f"layer {layer.name!r} is a {kind} that learns; expected Dense alone")
    if layer.non_trainable_weights:  # seeds are variables, and no weights
        raise ValueError(
            f"layer {layer.name!r} is a {kind} that keeps numbers, such as statistics of a batch, by which patients "
            "mix; expected weights in Dense alone"
        )


def _widen(model: keras.Model, n_patients: int) -> keras.Model:
    """Return the model with a copy of each learning layer for every patient; the others are shared."""
    keras = import_keras()

    def copy(layer):
        return _wide_class()(layer, n_patients) if layer.trainable_variables else layer

    bare = keras.Model(model.inputs, model.outputs)  # cloning a compiled model would write down its loss and read it
    wide = keras.models.clone_model(bare, clone_function=copy)
    on_jax = keras.backend.backend() == "jax"
    wide.compile(optimizer=get_keeper_class()(), loss=model.loss, jit_compile=on_jax)
    wide.optimizer.build(wide.trainable_variables)
    return wide


@cache
def _wide_class() -> type:
    keras = import_keras()

    class WideDense(keras.layers.Layer):
        """A Dense layer with a copy for every patient: shared weights that rest, and offsets, zeros, that are read."""

        def __init__(self, dense, n_patients) -> None:
            super().__init__(name=dense.name)
            self.n_patients, self.activation, self.units = n_patients, dense.activation, dense.units
            kernel = tuple(dense.kernel.shape)
            shapes = [kernel, (1, dense.units)] if dense.use_bias else [kernel]
            rest = {"initializer": "zeros", "trainable": False}
            flat = [shapes[0], (dense.units,)][: len(shapes)]
            self.shared = [self.add_weight(shape=shape, name=f"shared{at}", **rest) for at, shape in enumerate(flat)]
            self.offsets = [
                self.add_weight(shape=(n_patients, *shape), initializer="zeros", name=f"offset{at}")
                for at, shape in enumerate(shapes)
            ]

        def call(self, rows):
            ops = keras.ops
            own = ops.reshape(rows, (self.n_patients, -1, self.shared[0].shape[0]))
            told = ops.matmul(own, self.shared[0] + self.offsets[0])
            if len(self.shared) > 1:
                told = told + self.shared[1] + self.offsets[1]
            return self.activation(ops.reshape(told, (-1, *rows.shape[1:-1], self.units)))

        def compute_output_shape(self, shape):
            return (*shape[:-1], self.units)

    return WideDense


def _check_inputs(model: keras.Model, inputs: list[np.ndarray], targets: np.ndarray) -> None:
    if len(inputs) != len(model.inputs):
        raise ValueError(f"the model has {len(model.inputs)} inputs, got {len(inputs)} arrays")
    for tensor, part in zip(model.inputs, inputs, strict=True):
        if part.ndim - len(tensor.shape) not in (0, 1) or part.shape[-1] != tensor.shape[-1]:
            raise ValueError(f"an input has shape {part.shape}; expected (patients, rows, {tensor.shape[-1]})")
        if len(part) != len(targets):
            raise ValueError(f"an input has {len(part)} patients and the targets {len(targets)}; expected as many")
        if part.ndim > 1 and not part.shape[1]:
            raise ValueError(f"an input has shape {part.shape}; expected at least one row for every patient")
