"""What detectors look at: the training images of a cohort, and what a model makes of them.

The model is left as it was found, and nothing of this reads the ground truth on harm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dqc_lib.cohort import Cohort
from dqc_lib.detection.images import measure_image
from dqc_lib.fisher import LogitProbe
from dqc_lib.networks import import_keras
from dqc_lib.volumes import VolumeCache

if TYPE_CHECKING:
    import keras

CHUNK_VOXELS = 64 * 40 * 48 * 40  # per forward pass, so that memory is bounded
ROLES = ("train", "verification")


class Material:
    """The images that detectors score, and what they may look at; each kind is computed when first asked for.

    Parameters
    ----------
    model : keras.Model
        From `build_sfcn`, trained.
    cohort : Cohort
        With training subjects, and verification subjects where a detector asks for them.
    volumes : VolumeCache, optional
        By subject; made from the cohort's paths if not given.

    Attributes
    ----------
    train : pandas.DataFrame
        The training subjects, the images to score, in the order of the table, rows from 0; without the marks of harm.
    verification : pandas.DataFrame
        The verification subjects, taken to be good; may be empty.
    labels : numpy.ndarray
        Diagnoses of the training images as the table has them, int (n,).
    seconds : dict of str to float
        What each kind took to compute.
    read : set of str
        The kinds asked for; `score_images` empties it before every detector.
    """

    def __init__(self, model: keras.Model, cohort: Cohort, *, volumes: VolumeCache | None = None) -> None:
        self.model = model
        table = cohort.blinded().table
        if "role" not in table or not (table["role"] == "train").any():
            raise ValueError("the cohort has no training subjects; expected the role 'train' (see split_by_subject)")
        self.train, self.verification = (table[table["role"] == role].reset_index(drop=True) for role in ROLES)
        self.labels = self.train["diagnosis"].to_numpy().astype(int)
        both = pd.concat([self.train, self.verification])
        self.volumes = volumes or VolumeCache(dict(zip(both["subject"], both["path"], strict=True)))
        self.seconds: dict[str, float] = {}
        self.read: set[str] = set()
        self._kept: dict[str, Any] = {}
        _check_model(model, self.volumes)

    @property
    def qualities(self) -> np.ndarray:
        """Measures of image quality of the training images (`measure_image`), float64 (n, measures)."""
        return self._keep("qualities", lambda: np.array([self._measure(name) for name in self.train["subject"]]))

    def _measure(self, subject: str) -> list[float]:
        return list(measure_image(self.volumes[subject]).values())

    @property
    def features(self) -> np.ndarray:
        """What the last layer of the model gets for each training image, float64 (n, features)."""
        return self._keep("features", lambda: compute_features(self.model, self.volumes, self.train["subject"]))

    @property
    def verification_features(self) -> np.ndarray:
        """The same for the verification images."""
        names = self.verification["subject"]
        return self._keep("verification features", lambda: compute_features(self.model, self.volumes, names))

    @property
    def logits(self) -> np.ndarray:
        """Logits of the training images, float64 (n,): from the features, so that no probability is rounded to 1."""
        return compute_logits(self.model, self.features)

    @property
    def gradients(self) -> pd.DataFrame:
        """How the gradient of each training image stands to those of the verification images (`compare_gradients`)."""
        tried = self.train.assign(logit=self.logits)
        known = self.verification.assign(logit=compute_logits(self.model, self.verification_features))
        return self._keep("gradients", lambda: compare_gradients(self.model, self.volumes, tried, known))

    def _keep(self, kind: str, compute: Callable[[], Any]) -> Any:
        self.read.add(kind)
        if kind not in self._kept:
            start = perf_counter()
            self._kept[kind] = compute()
            self.seconds[kind] = perf_counter() - start
        return self._kept[kind]


def _check_model(model: keras.Model, volumes: VolumeCache) -> None:
    keras = import_keras()

    last = model.layers[-1]
    if not isinstance(last, keras.layers.Dense) or last.units != 1 or last.activation is not keras.activations.sigmoid:
        raise ValueError(f"expected a model from build_sfcn, which ends in one sigmoid; came {model.name!r}")
    if not all(np.isfinite(weights).all() for weights in model.get_weights()):
        raise ValueError(f"the model {model.name!r} has weights that are not finite; has it diverged?")
    expected = tuple(model.input_shape[1:4])
    if tuple(volumes.shape) != expected:
        raise ValueError(f"the model expects volumes of {expected}, those of the cohort have {volumes.shape}")


def compute_features(model: keras.Model, volumes: VolumeCache, subjects: pd.Series) -> np.ndarray:
    """Return what the last layer of the model gets for each subject's image, float64 (n, features)."""
    keras = import_keras()

    network = keras.Model(model.input, model.layers[-1].input)
    network.compile(jit_compile=keras.backend.backend() == "jax")  # see networks: XLA is slow on a CPU
    size = max(1, CHUNK_VOXELS // math.prod(volumes.shape))
    chunks = [subjects[at : at + size] for at in range(0, len(subjects), size)]
    features = [network.predict_on_batch(volumes.batch(chunk)) for chunk in chunks]
    return np.concatenate(features).astype(np.float64)


def compute_logits(model: keras.Model, features: np.ndarray) -> np.ndarray:
    """Return the logit of each row of features, float64 (n,)."""
    kernel, bias = model.layers[-1].get_weights()
    return (features @ kernel.astype(np.float64) + bias)[:, 0]


def compare_gradients(
    model: keras.Model, volumes: VolumeCache, train: pd.DataFrame, verification: pd.DataFrame
) -> pd.DataFrame:
    """Return how the gradient of each training image's loss stands to those of the verification images.

    The gradient of the cross-entropy is the gradient of the logit times score - label. The two are kept apart, so that
    an image that the model is sure of has a direction too. Two passes, one image at a time and without dropout; no more
    than five vectors as large as the model are held.

    Parameters
    ----------
    model, volumes
        As for `Material`.
    train, verification : pandas.DataFrame
        With columns ``subject``, ``diagnosis`` and ``logit``.

    Returns
    -------
    pandas.DataFrame
        A row per training image, float64: ``product``, the dot product of its gradient with the mean gradient of all
        verification images; ``cosine``, -1 to 1, its mean cosine with each verification image of the same diagnosis,
        NaN where there is none. Higher: a step on this image lowers their loss more.

    Raises
    ------
    ValueError
        If the normalization of the model is not frozen: reading gradients would move its statistics.
    """
    if not all(getattr(layer, "frozen", True) for layer in model.layers):
        raise ValueError("gradients of single images need a model with frozen normalization (freeze_normalization)")
    probe = LogitProbe(model)
    mean, units, counts = 0.0, {0: 0.0, 1: 0.0}, {0: 0, 1: 0}
    for label, misfit, direction in _read_gradients(probe, volumes, verification):
        mean = mean + misfit * direction / len(verification)
        units[label] = units[label] + direction / np.linalg.norm(direction)
        counts[label] += 1
    rows = []
    for label, misfit, direction in _read_gradients(probe, volumes, train):
        cosine = direction @ units[label] / np.linalg.norm(direction) / counts[label] if counts[label] else np.nan
        rows.append((misfit * direction @ mean, cosine))
    return pd.DataFrame(rows, columns=["product", "cosine"])


def _read_gradients(
    probe: LogitProbe, volumes: VolumeCache, table: pd.DataFrame
) -> Iterator[tuple[int, float, np.ndarray]]:
    """Yield each row's diagnosis, misfit (score - label) and gradient of the logit, float64 (parameters,)."""
    for subject, label, logit in zip(table["subject"], table["diagnosis"], table["logit"], strict=True):
        sign = 1.0 if label == 0 else -1.0
        misfit = sign * np.exp(-np.logaddexp(0.0, -sign * logit))
        yield label, float(misfit), probe.read(volumes.batch([subject])).astype(np.float64)
