"""Images on their way through the network, in batches that bound the memory.

Where a backend compiles anew for every number of images, as JAX does, batches are filled up to one of a few sizes, and
what the filling came to is dropped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from dqc_lib.networks import is_frozen
from dqc_lib.volumes import VolumeCache

if TYPE_CHECKING:
    import keras

CHUNK = 64  # images per forward pass, at most
FEW = 8  # images per forward pass where some are looked at; see `dqc_lib.travelling.outlook`
CHUNK_VOXELS = CHUNK * 40 * 48 * 40  # and voxels: of 160 x 192 x 160 that is one image, so that memory is bounded
RESIDENT = {"shared": 512 * 1024**2, "own": 8 * 1024**3}
"""Bytes of verification images that stay where the network is, ready to be passed: where it shares the memory with
everything else, and where it has its own, as on a GPU, which the 407 of the paper at 160 x 192 x 160 just fit."""


class Batches(Sequence):
    """Batches of the volumes of groups of subjects, read when asked for, cut where they are too large."""

    def __init__(self, volumes: VolumeCache, groups: Iterable[list[str]]) -> None:
        self._volumes = volumes
        self._chunks = [chunk for group in groups for chunk in _cut_into_chunks(group, volumes.shape)]

    def __len__(self) -> int:
        return len(self._chunks)

    def __getitem__(self, index: int) -> np.ndarray:
        return self._volumes.batch(self._chunks[index])


def predict_subjects(model: keras.Model, volumes: VolumeCache, subjects: list[str]) -> np.ndarray:
    """Return the model's scores of the subjects, 0 to 1, float32 (n,)."""
    return predict_batches(model, make_batches(volumes, subjects), len(subjects))


def predict_batches(model: keras.Model, batches: Iterable, n: int) -> np.ndarray:
    """Return the scores of the first n images of the batches, float32 (n,)."""
    scores = [model.predict_on_batch(batch)[:, 0] for batch in batches]
    return np.concatenate(scores)[:n] if scores else np.empty(0, dtype=np.float32)


def make_batches(volumes: VolumeCache, subjects: list[str]) -> Iterator:
    """Yield the images in batches, kept where the backend keeps its tensors; only the last may have been filled up."""
    import keras

    most = count_at_once(volumes.shape)
    for images in volumes.stream(_cut_into_chunks(subjects, volumes.shape)):
        yield keras.ops.convert_to_tensor(fill_up(images, (min(FEW, most), most)))


def count_at_once(shape: tuple[int, int, int]) -> int:
    """Return how many images of a shape are passed at once."""
    return min(CHUNK, max(1, CHUNK_VOXELS // math.prod(shape)))


def fits(volumes: VolumeCache, n: int) -> bool:
    """Return whether n images may stay where the network is."""
    import keras

    where = str(keras.ops.convert_to_tensor(0.0).device).lower()  # named alike by all backends
    return 4 * n * math.prod(volumes.shape) <= RESIDENT["shared" if "cpu" in where else "own"]


def train_on(model: keras.Model, images: np.ndarray, labels: np.ndarray, *, most: int) -> float:
    """Take one step and return its loss; batches of fewer than `most` images are filled up if the backend compiles for
    every size, and count as if they were not.

    While the normalization still goes by the images of each batch they are left as they are.
    """
    n = len(images)
    if not _compiles_each_size() or not is_frozen(model):
        return float(np.asarray(model.train_on_batch(images, labels)))
    images, labels = fill_up(images, (1, most)), fill_up(labels, (1, most))
    weights = np.where(np.arange(len(images)) < n, len(images) / n, 0.0).astype(np.float32)
    return float(np.asarray(model.train_on_batch(images, labels, sample_weight=weights)))


def fill_up(array: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """Return the array, its first row repeated at the end until it has the next of the sizes, if the backend compiles
    for every size."""
    size = next((size for size in sizes if size >= len(array)), len(array)) if _compiles_each_size() else len(array)
    return np.concatenate([array, np.repeat(array[:1], size - len(array), axis=0)]) if size > len(array) else array


def _compiles_each_size() -> bool:
    import keras

    return keras.backend.backend() == "jax"


def _cut_into_chunks(names: list[str], shape: tuple[int, int, int]) -> list[list[str]]:
    size = count_at_once(shape)
    return [names[at : at + size] for at in range(0, len(names), size)]
