"""Steps of training of one stage, with the optimizer's state in sight: it may stay, travel, or begin anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from dqc_lib.networks import import_keras
from dqc_lib.synthesis.networks import (
    GeneratorShape,
    build_autoencoder,
    build_generator,
    make_rows,
    read_weights,
    write_weights,
)

LEARNING_RATE = 1e-2
"""Of Adam at the beginning of training; it falls to 0 along half a cosine, over all rounds (`span`)."""


@dataclass(frozen=True, eq=False)
class State:
    """What training goes on from: the weights of a stage, and what Adam remembers, None for nothing yet.

    Parameters
    ----------
    weights : sequence of ndarray
    moments : sequence of ndarray or None
        The optimizer's variables, in its own order.
    """

    weights: Sequence[np.ndarray]
    moments: Sequence[np.ndarray] | None = None

    def forget(self) -> State:
        """Return the state without the optimizer's memory."""
        return replace(self, moments=None)


@dataclass(frozen=True, eq=False)
class Rows:
    """What a stage learns from, a row for each visit of each patient.

    Parameters
    ----------
    codes : ndarray, (n, codes)
    latents, history : ndarray or None
        For stage 2: what the autoencoder makes of the visit, and of those before.
    autoencoder : sequence of ndarray or None
        Its weights, for stage 2.
    """

    codes: np.ndarray
    latents: np.ndarray | None = None
    history: np.ndarray | None = None
    autoencoder: Sequence[np.ndarray] | None = None


def prepare_rows(visits: np.ndarray, autoencoder: Sequence[np.ndarray] | None = None) -> Rows:
    """Return the rows of records, (patients, visits, codes), for stage 1, or with an autoencoder for stage 2."""
    if autoencoder is None:
        return Rows(visits.reshape(-1, visits.shape[2]).astype(np.float32))
    return Rows(*make_rows(autoencoder, visits), autoencoder)


class Trainer:
    """A compiled network of one stage, into which weights are put and from which they are taken.

    Compiling takes longer than a hundred steps, so that one network serves all hospitals, arms and seeds (see
    `open_trainer`); nothing of one use is left for the next. It is done when the trainer is made, by a step on zeros.
    """

    def __init__(self, shape: GeneratorShape, stage: str, *, batch: int) -> None:
        self.shape, self.stage, self.batch = shape, stage, batch
        build = build_autoencoder if stage == "autoencoder" else build_generator
        self._model = build(shape, learning_rate=LEARNING_RATE)
        self._model.optimizer.build(self._model.trainable_variables)
        ops = import_keras().ops
        self._fresh = [np.array(ops.convert_to_numpy(value)) for value in self._model.optimizer.variables]
        zeros = (np.zeros((1, width), dtype=np.float32) for width in (shape.n_codes, shape.latent, shape.history))
        self.train(State(read_weights(self._model, shape, stage)), Rows(*zeros), n_steps=1, seed=[0])

    def train(
        self,
        state: State,
        rows: Rows,
        *,
        n_steps: int,
        seed: Sequence[int],
        span: tuple[float, float] = (0.0, 1.0),
    ) -> State:
        """Return the state after steps on the rows of `prepare_rows`.

        Every step has as many rows, a visit of a patient each; all rows have had their turn before one has its second.
        The span says which part of all training this is, from 0 to 1: the learning rate falls with it.
        """
        ops, rng = import_keras().ops, np.random.default_rng(seed)
        self._load(state, rows.autoencoder)
        places = np.linspace(*span, n_steps, endpoint=False)
        for chosen, place in zip(_deal(len(rows.codes), self.batch, n_steps, rng), places, strict=True):
            self._model.optimizer.learning_rate.assign(LEARNING_RATE * (1 + np.cos(np.pi * place)) / 2)
            given = rows.codes[chosen]
            if self.stage == "temporal":
                noise = rng.standard_normal((self.batch, self.shape.noise), dtype=np.float32)
                given = [rows.latents[chosen], rows.history[chosen], noise]
            self._model.train_on_batch(given, rows.codes[chosen])
        moments = [np.array(ops.convert_to_numpy(value)) for value in self._model.optimizer.variables]
        return State(read_weights(self._model, self.shape, self.stage), moments)

    def _load(self, state: State, autoencoder: Sequence[np.ndarray] | None) -> None:
        write_weights(self._model, self.shape, self.stage, state.weights)
        if autoencoder is not None:
            write_weights(self._model, self.shape, "autoencoder", autoencoder)  # its decoder, which does not learn
        values = self._fresh if state.moments is None else state.moments
        for variable, value in zip(self._model.optimizer.variables, values, strict=True):
            variable.assign(value)


def _deal(n: int, batch: int, n_steps: int, rng: np.random.Generator) -> np.ndarray:
    """Return the rows of every step, (n_steps, batch): one random order of all rows after the other."""
    needed = n_steps * batch
    orders = [rng.permutation(n) for _ in range(-(-needed // n))]
    return np.concatenate(orders)[:needed].reshape(n_steps, batch) if needed else np.zeros((0, batch), dtype=int)


@lru_cache(maxsize=8)
def open_trainer(shape: GeneratorShape, stage: str, *, batch: int) -> Trainer:
    """Return the trainer of a stage, compiled once for each shape and size of batch."""
    return Trainer(shape, stage, batch=batch)
