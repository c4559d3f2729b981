"""A generator of patients' visits in two stages: an autoencoder of one visit, and what comes after what.

Stage 1 makes a visit's codes few numbers (latents) and codes of them again. Stage 2 is a conditional variational
autoencoder of the next visit, given the latents of the visit before, those of the mean of all earlier visits, and the
visit's number. The shape is that of FedEHR-Gen (arXiv 2605.27892), much smaller, and of dense layers only: teacher
forcing turns a patient into one row per visit, a step is a few matrix products, and hidden units can be matched.

Keras computes the gradients, on any of its backends. What a trained network computes is written out here in NumPy: a
few lines, the same everywhere, and patients are drawn all at once, visit by visit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dqc_lib.arguments import require_number, require_whole
from dqc_lib.networks import import_keras
from dqc_lib.synthesis.matching import Layer

if TYPE_CHECKING:
    import keras

FIXED = {"autoencoder": ("codes",), "temporal": ("latent", "history")}
"""Groups of units that mean the same in all networks of a stage; temporal ones share one autoencoder."""


@dataclass(frozen=True)
class GeneratorShape:
    """How large a generator is.

    Parameters
    ----------
    n_codes, n_visits : int
        Of the records.
    latent : int
        Numbers that a visit is made into.
    hidden : int
        Units of every hidden layer.
    noise : int
        Numbers drawn for every visit from a standard normal distribution.
    """

    n_codes: int
    n_visits: int
    latent: int = 16
    hidden: int = 48
    noise: int = 8

    def __post_init__(self) -> None:
        for name in ("n_codes", "n_visits", "latent", "hidden", "noise"):
            require_whole(f"GeneratorShape.{name}", getattr(self, name), least=1)

    @property
    def history(self) -> int:
        """Numbers that tell the earlier visits: two sets of latents, the visit's number and whether it is the first."""
        return 2 * self.latent + 2

    def list_layers(self, stage: str) -> tuple[Layer, ...]:
        """Return the layers of a stage, "autoencoder" or "temporal", in the order of their weights."""
        codes, latent, noise = ("codes", self.n_codes), ("latent", self.latent), ("noise", self.noise)
        read, write, infer, tell = ((name, self.hidden) for name in ("read", "write", "infer", "tell"))
        history = ("history", self.history)
        if stage == "autoencoder":
            ends = (codes, read, latent, write, codes)
            names = ("read", "encode", "write", "decode")
            return tuple(Layer(name, (ends[at],), (ends[at + 1],)) for at, name in enumerate(names))
        return (
            Layer("infer", (latent, history), (infer,)),
            Layer("posterior", (infer,), (noise, noise)),
            Layer("tell", (noise, history), (tell,)),
            Layer("next", (tell,), (latent,)),
        )


@dataclass(frozen=True, eq=False)
class Generator:
    """A generator of patients: its shape and the weights of both stages, kernel and bias of every layer.

    Parameters
    ----------
    shape : GeneratorShape
    autoencoder, temporal : sequence of ndarray
    """

    shape: GeneratorShape
    autoencoder: Sequence[np.ndarray]
    temporal: Sequence[np.ndarray]

    def _repr_html_(self) -> str:
        n = sum(array.size for array in (*self.autoencoder, *self.temporal))
        return f"<b>Generator</b>: {self.shape.n_visits} visits with {self.shape.n_codes} codes, {n:,} weights"


def draw_weights(shape: GeneratorShape, stage: str, *, seed: int | Sequence[int]) -> list[np.ndarray]:
    """Return untrained weights of a stage: uniform after Glorot and Bengio (2010), biases 0; a seed gives the same."""
    rng = np.random.default_rng(seed)
    weights = []
    for layer in shape.list_layers(stage):
        reach = np.sqrt(6 / sum(layer.shape))
        weights += [rng.uniform(-reach, reach, layer.shape), np.zeros(layer.shape[1])]
    return [array.astype(np.float32) for array in weights]


def build_autoencoder(shape: GeneratorShape, *, learning_rate: float = 3e-3, seed: int = 0) -> keras.Model:
    """Return the autoencoder of one visit, compiled: from codes (n, codes) to their log odds.

    The loss is minus the log likelihood of the codes, in nats per visit.
    """
    keras, learning_rate = _start(learning_rate, seed)
    codes = keras.Input((shape.n_codes,), name="codes")
    x = codes
    for layer in shape.list_layers("autoencoder"):
        bends = None if layer.name == "decode" else "elu"
        x = keras.layers.Dense(layer.shape[1], activation=bends, name=layer.name)(x)
    model = keras.Model(codes, x, name="autoencoder")
    _compile(model, measure_surprise, learning_rate)
    write_weights(model, shape, "autoencoder", draw_weights(shape, "autoencoder", seed=[seed, 1]))
    return model


def build_generator(shape: GeneratorShape, *, learning_rate: float = 3e-3, seed: int = 0) -> keras.Model:
    """Return the temporal conditional variational autoencoder, compiled, around a decoder that does not learn.

    From latents of a visit (n, latent), history (n, history) and noise (n, noise) to the log odds of the visit's codes
    and, behind them, mean and log variance of the posterior. The loss is minus the evidence lower bound, in nats per
    visit. The decoder's layers, "write" and "decode", wait for an autoencoder's weights.
    """
    keras, learning_rate = _start(learning_rate, seed)
    inputs = {name: keras.Input((getattr(shape, name),), name=name) for name in ("latent", "history", "noise")}
    infer, posterior, tell, last = shape.list_layers("temporal")
    dense = keras.layers.Dense
    x = keras.layers.Concatenate()([inputs["latent"], inputs["history"]])
    x = dense(infer.shape[1], activation="elu", name="infer")(x)
    told = dense(posterior.shape[1], name="posterior")(x)
    drawn = _sampling_layer(shape.noise)([told, inputs["noise"]])
    x = keras.layers.Concatenate()([drawn, inputs["history"]])
    x = dense(last.shape[1], name="next")(dense(tell.shape[1], activation="elu", name="tell")(x))
    x = dense(shape.hidden, activation="elu", name="write", trainable=False)(x)
    x = dense(shape.n_codes, name="decode", trainable=False)(x)
    model = keras.Model(list(inputs.values()), keras.layers.Concatenate()([x, told]), name="temporal")
    _compile(model, lambda codes, told: measure_bound(codes, told, n_codes=shape.n_codes), learning_rate)
    write_weights(model, shape, "temporal", draw_weights(shape, "temporal", seed=[seed, 2]))
    return model


def _start(learning_rate: float, seed: int) -> tuple[Any, float]:
    require_number("learning_rate", learning_rate)
    require_whole("seed", seed, least=0)
    if not (np.isfinite(learning_rate) and learning_rate > 0):
        raise ValueError(f"learning_rate must be a finite number > 0, got {learning_rate!r}")
    return import_keras(), float(learning_rate)


def _compile(model: keras.Model, loss: Any, learning_rate: float) -> None:
    keras = import_keras()
    compiled = keras.backend.backend() == "jax"  # on a CPU, XLA makes TensorFlow slower
    model.compile(optimizer=keras.optimizers.Adam(learning_rate), loss=loss, jit_compile=compiled)


def _sampling_layer(noise: int) -> Any:
    """Return a layer that makes noise a draw from the posterior: mean + standard deviation x noise."""
    keras = import_keras()

    def draw(inputs):
        told, noise_drawn = inputs
        return told[:, :noise] + keras.ops.exp(0.5 * told[:, noise:]) * noise_drawn

    return keras.layers.Lambda(draw, output_shape=(noise,), name="draw")


def measure_surprise(codes: Any, logits: Any) -> Any:
    """Return minus the log likelihood of every visit's codes, in nats, lower is better; (n,)."""
    ops = import_keras().ops

    return ops.sum(ops.softplus(logits) - codes * logits, axis=1)


def measure_bound(codes: Any, told: Any, *, n_codes: int) -> Any:
    """Return minus the evidence lower bound of every visit, in nats, lower is better; (n,).

    That is the surprise, plus the Kullback-Leibler divergence of the posterior from the standard normal distribution:
    half the sum of mean² + variance - log variance - 1 (Kingma and Welling 2014, appendix B).

    Parameters
    ----------
    codes : tensor, (n, codes)
    told : tensor, (n, codes + 2 noise)
        Log odds, means and log variances, side by side.
    n_codes : int
    """
    ops = import_keras().ops

    logits, posterior = told[:, :n_codes], told[:, n_codes:]
    mean, log_variance = ops.split(posterior, 2, axis=1)
    divergence = 0.5 * ops.sum(mean**2 + ops.exp(log_variance) - log_variance - 1, axis=1)
    return measure_surprise(codes, logits) + divergence


def read_weights(model: keras.Model, shape: GeneratorShape, stage: str) -> list[np.ndarray]:
    """Return kernel and bias of every layer of a stage, in the order of its layers."""
    ops = import_keras().ops

    layers = [model.get_layer(layer.name) for layer in shape.list_layers(stage)]
    return [np.array(ops.convert_to_numpy(value)) for layer in layers for value in (layer.kernel, layer.bias)]


def write_weights(model: keras.Model, shape: GeneratorShape, stage: str, weights: Sequence[np.ndarray]) -> None:
    """Set kernel and bias of every layer of a stage that the model has, in place."""
    names = {layer.name for layer in model.layers}
    for number, layer in enumerate(shape.list_layers(stage)):
        if layer.name in names:
            own = model.get_layer(layer.name)
            own.kernel.assign(weights[2 * number])
            own.bias.assign(weights[2 * number + 1])


def encode_visits(autoencoder: Sequence[np.ndarray], codes: np.ndarray) -> np.ndarray:
    """Return the latents of visits, (n, codes) to (n, latent)."""
    return _elu(_elu(codes @ autoencoder[0] + autoencoder[1]) @ autoencoder[2] + autoencoder[3])


def decode_latents(autoencoder: Sequence[np.ndarray], latents: np.ndarray) -> np.ndarray:
    """Return the log odds of codes, (n, latent) to (n, codes)."""
    return _elu(latents @ autoencoder[4] + autoencoder[5]) @ autoencoder[6] + autoencoder[7]


def _elu(values: np.ndarray) -> np.ndarray:
    return np.where(values > 0, values, np.expm1(np.minimum(values, 0)))


def tell_history(
    autoencoder: Sequence[np.ndarray], previous: np.ndarray, mean: np.ndarray, *, visit: int, n_visits: int
) -> np.ndarray:
    """Return what the temporal network is told of earlier visits, float32 (n, history).

    Parameters
    ----------
    autoencoder : sequence of ndarray
    previous, mean : ndarray, (n, codes)
        The visit before, and the mean of all earlier ones; of no account at the first visit.
    visit : int
        From 0 on.
    n_visits : int
    """
    later = float(visit > 0)
    place = np.tile([visit / max(n_visits - 1, 1), 1 - later], (len(previous), 1))
    latents = [later * encode_visits(autoencoder, codes) for codes in (previous, mean)]
    return np.concatenate([*latents, place], axis=1).astype(np.float32)


def make_rows(autoencoder: Sequence[np.ndarray], visits: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return codes, their latents and their history of every visit of every patient, one row each, visits first."""
    n_visits = visits.shape[1]
    means = np.cumsum(visits, axis=1) / np.arange(1, n_visits + 1)[:, np.newaxis]
    told = [
        tell_history(autoencoder, visits[:, max(at - 1, 0)], means[:, max(at - 1, 0)], visit=at, n_visits=n_visits)
        for at in range(n_visits)
    ]
    codes = np.concatenate([visits[:, at] for at in range(n_visits)]).astype(np.float32)
    return codes, encode_visits(autoencoder, codes).astype(np.float32), np.concatenate(told)


def sample_patients(generator: Generator, n: int, *, seed: int | Sequence[int] = 0) -> np.ndarray:
    """Return n patients drawn from a generator, float32 of 0 and 1, (n, visits, codes); a seed gives the same ones."""
    require_whole("n", n, least=0)
    shape, rng = generator.shape, np.random.default_rng(seed)
    noise = rng.standard_normal((shape.n_visits, n, shape.noise))
    uniform = rng.random((shape.n_visits, n, shape.n_codes))
    drawn = np.zeros((n, shape.n_visits, shape.n_codes), dtype=np.float32)
    previous = total = np.zeros((n, shape.n_codes))
    kernel, bias, last_kernel, last_bias = generator.temporal[4:]
    for at in range(shape.n_visits):
        mean = total / max(at, 1)
        told = tell_history(generator.autoencoder, previous, mean, visit=at, n_visits=shape.n_visits)
        hidden = _elu(np.concatenate([noise[at], told], axis=1) @ kernel + bias)
        logits = decode_latents(generator.autoencoder, hidden @ last_kernel + last_bias)
        previous = (np.log(uniform[at]) - np.log1p(-uniform[at]) < logits).astype(np.float64)
        drawn[:, at], total = previous, total + previous
    return drawn
