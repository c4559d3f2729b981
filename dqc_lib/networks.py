"""The SFCN classifier and its normalization.

Written against the backend-neutral Keras API: TensorFlow, JAX and PyTorch run it alike. Importing this module does
not import Keras.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dqc_lib.arguments import require_number, require_path, require_sizes, require_text, require_whole
from dqc_lib.checkpoints import DAMAGES, check_model, describe_error

if TYPE_CHECKING:
    import keras

WIDTHS = (32, 64, 128, 256, 256, 64)
"""Filters of the six convolutions, as published (Souza et al. 2025; the architecture is that of Peng et al. 2021, doi
10.1016/j.media.2020.101871)."""
PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
"""What the layers compute in, and Keras's name for it; weights, normalization and the last layer stay float32."""
_STARTING = threading.Lock()


def import_keras():
    """Return keras, its backend started without the messages that TensorFlow's C++ parts write past Python's logging.

    They say that no GPU was found and the like; in a notebook they would stand above the first result.
    """
    with _STARTING:  # a thread that comes meanwhile must not take a module that is half there
        if "keras" not in sys.modules:
            _start_keras()
    return sys.modules["keras"]


def _start_keras() -> None:
    with open(os.devnull, "wb") as nowhere:
        before = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            import keras

            keras.ops.zeros(1)  # the backend looks for its devices now, not later
            # Several models in one process are no mistake, but TensorFlow's log takes them for one.
            logging.getLogger("tensorflow").addFilter(lambda record: "retracing" not in record.getMessage())
        finally:
            os.dup2(before, 2)
            os.close(before)


def name_backend() -> str:
    """Return the backend that Keras runs on or will, without starting it, which takes seconds."""
    if "keras" in sys.modules:
        return sys.modules["keras"].backend.backend()
    home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    try:
        chosen = json.loads((home / "keras.json").read_text(encoding="utf-8")).get("backend")
    except (OSError, ValueError, AttributeError):
        chosen = None
    return os.environ.get("KERAS_BACKEND") or chosen or "tensorflow"


@lru_cache(maxsize=1)
def _layer_classes() -> tuple[type, type]:
    """Normalization whose statistics can be frozen (FixBN; Zhong et al. 2023), and dropout whose seed is saved with
    the model."""
    keras = import_keras()

    @keras.saving.register_keras_serializable(package="dqc_lib")
    class FreezableNormalization(keras.layers.BatchNormalization):
        def __init__(self, *, frozen: bool = False, **options) -> None:
            super().__init__(**options)
            self.frozen = frozen

        def call(self, inputs, training=None, mask=None):
            return super().call(inputs, training=bool(training) and not self.frozen, mask=mask)

        def get_config(self) -> dict:
            return {**super().get_config(), "frozen": self.frozen}

    @keras.saving.register_keras_serializable(package="dqc_lib")
    class ReplayableDropout(keras.layers.Dropout):
        def save_own_variables(self, store) -> None:
            store["seed"] = keras.ops.convert_to_numpy(self.seed_generator.state)

        def load_own_variables(self, store) -> None:
            self.seed_generator.state.assign(store["seed"])

    return FreezableNormalization, ReplayableDropout


def _find_normalization(model: keras.Model) -> list:
    return [layer for layer in model.layers if isinstance(layer, _layer_classes()[0])]


def build_sfcn(
    shape: Sequence[int] = (160, 192, 160),
    *,
    width: float | Sequence[int] = 1.0,
    dropout: float = 0.2,
    learning_rate: float = 1e-4,
    seed: int = 0,
    precision: str = "float32",
) -> keras.Model:
    """Return a compiled SFCN for binary classification of one-channel volumes.

    Parameters
    ----------
    shape : three ints
        Voxels along i, j, k.
    width : float or six ints
        Factor on the published numbers of filters (32, 64, 128, 256, 256, 64), rounded, at least 1 (0.25 gives
        8-16-32-64-64-16), or the numbers.
    dropout : float
        Rate before the last layer.
    learning_rate : float
        Of Adam; the loss is binary cross-entropy.
    seed : int
        Of the initial weights and of dropout.
    precision : "float32" or "bfloat16"
        What the layers compute in, see `PRECISIONS`; where the first axis is down to two voxels they compute in float32
        at either. On CPUs with instructions for bfloat16 that took a quarter off the time at the published width, and
        made a network of a quarter of it slower.

    Returns
    -------
    keras.Model
        From (n, I, J, K, 1) to (n, 1), the probability of the disease. With the published shape and width it has
        2,952,705 parameters.
    """
    keras = import_keras()

    if len(require_sizes("shape", shape)) != 3 or min(shape) < 1:
        raise ValueError(f"shape must be three positive sizes, got {tuple(shape)!r}")
    require_number("dropout", dropout)
    require_number("learning_rate", learning_rate)
    require_whole("seed", seed, least=0)
    require_text("precision", precision)
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be a rate from 0 to below 1, got {dropout!r}")
    if not 0 < learning_rate < np.inf:
        raise ValueError(f"learning_rate must be a finite number > 0, got {learning_rate!r}")
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {tuple(PRECISIONS)}, got {precision!r}")
    filters = _count_filters(width)
    seeds = iter(np.random.SeedSequence(seed).generate_state(8).tolist())
    normalization, dropout_layer = _layer_classes()
    volume = keras.Input((*shape, 1), name="volume")
    x = volume
    for block, count in enumerate(filters, start=1):
        kernel = 3 if block < len(filters) else 1
        start = keras.initializers.GlorotUniform(seed=next(seeds))
        options = {"padding": "same", "kernel_initializer": start, "name": f"conv{block}"}
        # On CPUs with instructions for bfloat16, TensorFlow 2.21's gradient of filters of 3 voxels holds memory that
        # nobody wrote (up to 1e37, or NaN) where the first axis has two voxels; so small a layer costs next to nothing.
        compute = {"dtype": PRECISIONS["float32" if x.shape[1] == 2 else precision]}
        x = keras.layers.Conv3D(count, kernel, **options, **compute)(x)
        x = normalization(name=f"norm{block}", **compute)(x)
        if block < len(filters):
            x = keras.layers.MaxPooling3D(2, padding="same", name=f"pool{block}", **compute)(x)
        x = keras.layers.ReLU(name=f"relu{block}", **compute)(x)
    # as published; below 33 voxels nothing is left to average, and "valid" would leave nothing at all
    x = keras.layers.AveragePooling3D(2, padding="valid" if min(x.shape[1:4]) > 1 else "same", name="average")(x)
    x = keras.layers.Flatten(name="flatten")(dropout_layer(dropout, seed=next(seeds), name="dropout")(x))
    head = keras.initializers.GlorotUniform(seed=next(seeds))
    model = keras.Model(
        volume, keras.layers.Dense(1, activation="sigmoid", kernel_initializer=head, name="dense")(x), name="sfcn"
    )
    _compile(model, keras.optimizers.Adam(learning_rate))
    return model


def _count_filters(width: float | Sequence[int]) -> list[int]:
    if isinstance(width, str) or not isinstance(width, Sequence):
        require_number("width", width)
    else:
        for count in width:
            require_whole("each number of filters in width", count)
    good = len(width) == len(WIDTHS) and min(width) >= 1 if isinstance(width, Sequence) else 0 < width < np.inf
    if not good:
        raise ValueError(f"width must be a factor greater than 0 or six numbers of filters, got {width!r}")
    return list(width) if isinstance(width, Sequence) else [max(1, round(width * count)) for count in WIDTHS]


def _compile(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> None:
    keras = import_keras()

    # XLA makes 3-D convolutions several times slower on a CPU; JAX cannot do without it
    model.compile(optimizer=optimizer, loss="binary_crossentropy", jit_compile=keras.backend.backend() == "jax")
    optimizer.build(model.trainable_variables)


def load_sfcn(path) -> keras.Model:
    """Return a model saved with `model.save(path)`, optimizer state included; nothing in the file is executed.

    The file may name the layers of an SFCN and no other code, and holds its weights itself (see `check_model`); Keras's
    safe mode is on besides.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, is no model from `build_sfcn`, or would run code.
    """
    keras = import_keras()

    _layer_classes()  # registers them
    with _naming(path) as path:
        model = keras.saving.load_model(path, safe_mode=True)
        missing = {"average", "dense"} - {layer.name for layer in model.layers}
        if missing or not _find_normalization(model) or model.optimizer is None:
            raise ValueError("it holds another network")
    _compile(model, model.optimizer)
    return model


def load_weights(model: keras.Model, path) -> None:
    """Set the model's weights to those of a model saved with `model.save(path)`, in place; errors are those of
    `load_sfcn`."""
    with _naming(path) as path:
        model.load_weights(path)


@contextmanager
def _naming(path) -> Iterator[Path]:
    """Give the path of a model's file, and name it in whatever goes wrong with it."""
    path = require_path("path", path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a model from build_sfcn, saved as .keras")
    check_model(path)
    try:
        yield path
    except DAMAGES as error:
        raise ValueError(
            f"{path}: cannot be read as a model ({describe_error(error)}); expected one from build_sfcn, saved as "
            ".keras"
        ) from None


@dataclass(frozen=True)
class FeatureSums:
    """What centers tell of the features that reach a layer of normalization: sums over images, float64 (filters,) each,
    of the mean over an image's voxels and of the mean square, and how many images that is of. Of a single image they
    are its own.

    Examples
    --------
    >>> both = FeatureSums(np.array([1.0]), np.array([2.0]), 1) + FeatureSums(np.array([3.0]), np.array([10.0]), 1)
    >>> [float(number[0]) for number in both.average()]
    [2.0, 2.0]
    """

    mean: np.ndarray
    square: np.ndarray
    count: int

    def __add__(self, other: FeatureSums) -> FeatureSums:
        return FeatureSums(self.mean + other.mean, self.square + other.square, self.count + other.count)

    def average(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and variance of the features over all images and voxels.

        Raises
        ------
        ValueError
            If there was no image.
        """
        if self.count == 0:
            raise ValueError("recalibration needs at least one image, got none")
        mean = self.mean / self.count
        return mean, np.maximum(self.square / self.count - mean**2, 0.0)


def sum_features(model: keras.Model, batches: Sequence[np.ndarray], *, layer: int) -> FeatureSums:
    """Return the sums of the features of images as they reach a layer of normalization, numbered from 0 on."""
    keras = import_keras()

    reached = keras.Model(model.input, _find_normalization(model)[layer].input)
    zeros = np.zeros(reached.output.shape[-1])
    sums = FeatureSums(zeros, zeros, 0)
    for batch in batches:
        value = keras.ops.convert_to_numpy(reached(batch, training=False)).astype(np.float64)
        axes, n = tuple(range(value.ndim - 1)), len(batch)
        sums += FeatureSums(value.mean(axes) * n, (value**2).mean(axes) * n, n)
    return sums


def recalibrate_normalization(model: keras.Model, batches: Sequence[np.ndarray]) -> None:
    """Set the moving statistics of every normalization layer to the mean over the given batches, in place.

    Each center computes the mean and variance of its images' features, and only these numbers travel. Layers are
    treated one after the other, from the input on, each seeing the already recalibrated ones before it.

    Parameters
    ----------
    model : keras.Model
    batches : sequence of ndarray, each (n, I, J, K, 1)
        One per center or part of one; weighted by their number of images.
    """
    for number, layer in enumerate(_find_normalization(model)):
        mean, variance = sum_features(model, batches, layer=number).average()
        layer.moving_mean.assign(mean)
        layer.moving_variance.assign(variance)


def is_frozen(model: keras.Model) -> bool:
    """Return whether the normalization is frozen: batches do not change it any more, nor go by their own statistics."""
    return all(layer.frozen for layer in _find_normalization(model))


def freeze_normalization(model: keras.Model) -> None:
    """Let every normalization layer use its moving statistics in training too, in place; scale and shift go on
    learning.

    With batches of 1 to 5 images, batch statistics make the error rates swing from step to step, and a rule that
    reads rates is blind.
    """
    for layer in _find_normalization(model):
        layer.frozen = True
    _compile(model, model.optimizer)  # so that the training step is traced anew
