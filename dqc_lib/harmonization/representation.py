"""Features of images, learnt without labels, with few, or not at all; and what few labelled subjects make of them.

Contrastive pre-training after SimCLR (Chen et al. 2020, arXiv:2002.05709), with a small convolutional encoder on the
backend-neutral API of Keras. It is compared with the same encoder trained on the labels there are, with principal
components, and with the same encoder untrained: a comparison without the last two says little.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dqc_lib.arguments import require_number, require_sizes, require_whole, show_value
from dqc_lib.networks import import_keras

if TYPE_CHECKING:
    import keras
    from sklearn.decomposition import PCA

WIDTHS = (8, 16, 32, 64)
"""Filters of the four convolutions of the encoder; the last is the number of features."""
PROJECTED = 32  # numbers that the contrastive loss sees, made of the features and thrown away


def measure_nt_xent(first: Any, second: Any, *, temperature: float) -> Any:
    """Return the normalized temperature-scaled cross entropy of every pair, lower is better.

    Parameters
    ----------
    first, second : tensor or array, (pairs, numbers)
        Two views of the same things, in the same order; only their directions count.
    temperature : float
        Above 0; the smaller, the more the nearest wrong partners count.

    Returns
    -------
    tensor, (pairs,)
        Mean over the two views of a pair of minus the log probability of its partner among all other views (equation
        1 of the paper).
    """
    ops = import_keras().ops

    views = ops.concatenate([first, second], axis=0)
    views = views / ops.sqrt(ops.maximum(ops.sum(views**2, axis=1, keepdims=True), 1e-12))
    n = ops.shape(first)[0]
    alike = ops.matmul(views, ops.transpose(views)) / temperature
    alike = alike - 1e9 * ops.eye(2 * n)  # nothing is its own partner
    partner = ops.sum(views[:n] * views[n:], axis=1) / temperature
    everyone = ops.logsumexp(alike, axis=1)
    return (everyone[:n] + everyone[n:]) / 2 - partner


def build_encoder(shape: Sequence[int], *, widths: Sequence[int] = WIDTHS, seed: int = 0) -> keras.Model:
    """Return an untrained encoder of images: convolutions of stride 2, then the mean over what is left.

    Parameters
    ----------
    shape : two ints
        Pixels of an image, (deep, across).
    widths : sequence of int
        Filters of the convolutions.
    seed : int
        Of the weights.

    Returns
    -------
    keras.Model
        From (n, deep, across, 1) to (n, widths[-1]).
    """
    sizes, filters = require_sizes("shape", shape), require_sizes("widths", widths)
    require_whole("seed", seed, least=0)
    if len(sizes) != 2 or min(sizes) < 1 or not filters or min(filters) < 1:
        raise ValueError(f"shape must be two sizes and widths at least one number, got {sizes} and {filters}")
    keras = import_keras()
    seeds = iter(np.random.SeedSequence(seed).generate_state(len(filters)).tolist())
    image = keras.Input((*sizes, 1), name="image")
    x = image
    for count in filters:
        start = keras.initializers.HeNormal(seed=next(seeds))
        x = keras.layers.Conv2D(count, 3, strides=2, padding="same", activation="relu", kernel_initializer=start)(x)
    return keras.Model(image, keras.layers.GlobalAveragePooling2D(name="features")(x), name="encoder")


def pretrain_contrastive(
    images: np.ndarray,
    *,
    subjects: Sequence[str] | None = None,
    epochs: int = 20,
    batch: int = 32,
    temperature: float = 0.2,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> keras.Model:
    """Return an encoder that has learnt, without labels, which views belong together.

    Views of an image are made by `augment_scans`. The head that the loss is computed on, one hidden layer, is thrown
    away.

    Parameters
    ----------
    images : ndarray, (n, deep, across)
        From 0 to 1; of no subject that a model is tested on.
    subjects : sequence of str, of length n, optional
        If given, a pair is two different scans of one subject, who is in a batch once at most: what a subject's scans
        have in common is what is learnt. If not, a pair is two views of one scan.
    epochs : int
        Passes over the images, or over the subjects.
    batch : int
        Pairs to a step, at least 2; the others in the batch are what a view is told from.
    temperature, learning_rate : float
        Of the loss, and of Adam.
    seed : int
        Of weights, order and views.
    """
    values = _check_images(images)
    for name, value, least in (("epochs", epochs, 1), ("batch", batch, 2), ("seed", seed, 0)):
        require_whole(name, value, least=least)
    for name, value in (("temperature", temperature), ("learning_rate", learning_rate)):
        _require_positive(name, value)
    keras = import_keras()
    rng = np.random.default_rng(seed)
    groups = _group_images(len(values), subjects)
    if len(groups) < 2:
        raise ValueError(f"expected two or more {'images' if subjects is None else 'subjects'}, got {len(groups)}")
    encoder = build_encoder(values.shape[1:], seed=seed)
    pairs = _pair_views(encoder, seed=seed)
    pairs.compile(
        optimizer=keras.optimizers.Adam(learning_rate),
        loss=lambda _, views: measure_nt_xent(views[:, 0], views[:, 1], temperature=temperature),
        jit_compile=keras.backend.backend() == "jax",
    )
    for _ in range(epochs):
        for chosen in _deal(len(groups), batch, rng):
            first, second = _draw_pairs([groups[number] for number in chosen], rng)
            views = [augment_scans(values[which], rng)[..., np.newaxis] for which in (first, second)]
            pairs.train_on_batch(views, np.zeros(len(chosen), dtype=np.float32))
    return encoder


def _pair_views(encoder: keras.Model, *, seed: int) -> keras.Model:
    """Return a model from two views to their projections, (n, 2, PROJECTED)."""
    keras = import_keras()

    seeds = np.random.SeedSequence([seed, 1]).generate_state(2).tolist()
    hidden, last = (
        keras.layers.Dense(size, activation=how, kernel_initializer=keras.initializers.GlorotUniform(seed=number))
        for size, how, number in zip((encoder.output.shape[-1], PROJECTED), ("relu", None), seeds, strict=True)
    )
    views = [keras.Input(encoder.input.shape[1:]) for _ in range(2)]
    projected = [keras.layers.Reshape((1, PROJECTED))(last(hidden(encoder(view)))) for view in views]
    return keras.Model(views, keras.layers.Concatenate(axis=1)(projected))


def _group_images(n: int, subjects: Sequence[str] | None) -> list[np.ndarray]:
    """Return the rows that may be paired with each other: of one image, or of one subject."""
    if subjects is None:
        return [np.array([row]) for row in range(n)]
    names = np.asarray(list(subjects))
    if len(names) != n:
        raise ValueError(f"subjects must have one entry for each of {n} images, got {len(names)}")
    return [np.flatnonzero(names == name) for name in np.unique(names)]


def _deal(n: int, batch: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield all numbers below n in batches of about the same size, at least 2, in random order."""
    yield from np.array_split(rng.permutation(n), max(1, min(-(-n // batch), n // 2)))


def _draw_pairs(groups: list[np.ndarray], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return two rows of every group, different ones where there are two."""
    drawn = [rng.choice(group, size=2, replace=len(group) < 2) for group in groups]
    return tuple(np.array(drawn).T)


def augment_scans(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return another view of every image: mirrored, moved, brighter or darker, with speckle.

    No crop is enlarged, as SimCLR does with photographs: thickness is what a B-scan is read for. Nothing is moved by
    more than an eighth of the image; what leaves it on one side comes back on the other.

    Parameters
    ----------
    images : ndarray, (n, deep, across)
        From 0 to 1.
    rng : numpy Generator

    Returns
    -------
    ndarray of float32, same shape
        From 0 to 1.
    """
    n, deep, across = images.shape
    mirrored = np.where((rng.uniform(size=n) < 0.5)[:, np.newaxis, np.newaxis], images[:, :, ::-1], images)
    moves = rng.integers([-(deep // 8), -(across // 8)], [deep // 8 + 1, across // 8 + 1], size=(n, 2))
    moved = np.stack([np.roll(image, tuple(move), (0, 1)) for image, move in zip(mirrored, moves, strict=True)])
    gamma, gain = np.exp(rng.uniform(-0.4, 0.4, size=(2, n, 1, 1)))
    looks = np.exp(rng.uniform(np.log(8), np.log(60), size=(n, 1, 1)))
    return np.clip(gain * moved**gamma * rng.gamma(looks, 1 / looks, size=moved.shape), 0, 1).astype(np.float32)


def train_supervised(
    images: np.ndarray,
    labels: Sequence,
    *,
    epochs: int = 30,
    batch: int = 32,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> keras.Model:
    """Return an encoder trained on labels, from the same start and on the same views as the contrastive one.

    Parameters
    ----------
    images : ndarray, (n, deep, across)
        From 0 to 1.
    labels : sequence of 0 and 1, of length n
    epochs, batch, learning_rate, seed
        As in `pretrain_contrastive`; the loss is binary cross-entropy.
    """
    values, truth = _check_images(images), np.asarray(labels, dtype=np.float32)
    if truth.shape != (len(values),) or set(truth.tolist()) != {0.0, 1.0}:
        raise ValueError(f"labels must be 0 or 1, both among them, for each of {len(values)} images")
    for name, value, least in (("epochs", epochs, 1), ("batch", batch, 2), ("seed", seed, 0)):
        require_whole(name, value, least=least)
    _require_positive("learning_rate", learning_rate)
    keras = import_keras()
    rng = np.random.default_rng(seed)
    encoder = build_encoder(values.shape[1:], seed=seed)
    start = keras.initializers.GlorotUniform(seed=int(np.random.SeedSequence([seed, 2]).generate_state(1)[0]))
    head = keras.layers.Dense(1, activation="sigmoid", kernel_initializer=start)
    model = keras.Model(encoder.input, head(encoder.output))
    model.compile(
        optimizer=keras.optimizers.Adam(learning_rate),
        loss="binary_crossentropy",
        jit_compile=keras.backend.backend() == "jax",
    )
    for _ in range(epochs):
        for chosen in _deal(len(values), batch, rng):
            views = augment_scans(values[chosen], rng)[..., np.newaxis]
            model.train_on_batch(views, truth[chosen, np.newaxis])
    return encoder


def fit_components(images: np.ndarray, *, n_components: int = WIDTHS[-1], seed: int = 0) -> PCA:
    """Return the principal components of images, scikit-learn's, fitted without labels; at most as many as images."""
    from sklearn.decomposition import PCA

    values = _check_images(images)
    require_whole("n_components", n_components, least=1)
    require_whole("seed", seed, least=0)
    flat = values.reshape(len(values), -1)
    return PCA(min(n_components, *flat.shape), random_state=seed).fit(flat)


def encode(encoder: keras.Model | PCA, images: np.ndarray) -> np.ndarray:
    """Return the features of images, float64 (n, features)."""
    values = _check_images(images)
    if hasattr(encoder, "components_"):
        return encoder.transform(values.reshape(len(values), -1)).astype(np.float64)
    parts = [encoder.predict_on_batch(part[..., np.newaxis]) for part in np.array_split(values, -(-len(values) // 256))]
    return np.concatenate(parts).astype(np.float64)


def _check_images(images: np.ndarray) -> np.ndarray:
    values = np.asarray(images)
    if values.ndim != 3 or values.dtype.kind not in "iuf" or len(values) == 0:
        raise ValueError(f"images must be numbers, (n, deep, across), n above 0; got {values.dtype} of {values.shape}")
    values = values.astype(np.float32)
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        raise ValueError(f"images must be from 0 to 1, got {show_value(values.min())} to {show_value(values.max())}")
    return values


def _require_positive(name: str, value: float) -> None:
    require_number(name, value)
    if not (np.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be a finite number > 0, got {value!r}")
