"""Differentially private training: one patient, with all visits, changes little of what is learnt.

Differentially private gradient descent (Abadi et al. 2016, arXiv 1607.00133). The unit is the patient: the gradient is
that of the mean over all visits of a patient, and is clipped once, so that a patient with many visits has no more say
than another. What the accountant assumes is done: every patient takes part in a step with the same probability,
independently, so that batches differ in size and may be empty; and the sum is divided by the size that is *expected*,
since the true one would tell who took part.

Noise is drawn from NumPy's generators, so that a lesson repeats. They can be predicted: for real patients noise has to
come from a cryptographically secure source, and the floating-point numbers of the sum are a leak of their own (Mironov
2012, doi 10.1145/2382196.2382264). This module teaches; it does not protect.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from dqc_lib.arguments import require_number, require_whole
from dqc_lib.networks import import_keras
from dqc_lib.privacy.accounting import measure_epsilon, require_noise, require_rate
from dqc_lib.privacy.gradients import PatientGradients

if TYPE_CHECKING:
    import keras

Examples = Callable[[np.ndarray, np.random.Generator], tuple[Sequence[np.ndarray] | np.ndarray, np.ndarray]]
"""From the numbers of the patients who take part, and a generator, to inputs and targets, (patients, rows, ...)."""
COLUMNS = ("step", "n_patients", "n_clipped", "median_norm")


@dataclass(frozen=True)
class PrivateRecipe:
    """How training is kept private.

    Parameters
    ----------
    noise_multiplier : float
        Standard deviation of the noise as a multiple of the clipping norm, at least 0.
    clipping_norm : float
        Greatest length of a patient's gradient, above 0; infinite clips nobody, and then no noise protects.
    sampling_rate : float
        Probability of each patient to take part in a step, above 0, at most 1.
    steps : int
    """

    noise_multiplier: float
    clipping_norm: float = 1.0
    sampling_rate: float = 0.1
    steps: int = 200

    def __post_init__(self) -> None:
        for name in ("noise_multiplier", "clipping_norm", "sampling_rate"):
            require_number(f"PrivateRecipe.{name}", getattr(self, name))
        require_whole("PrivateRecipe.steps", self.steps, least=0)
        if not 0 <= self.noise_multiplier < math.inf:
            raise ValueError(f"PrivateRecipe.noise_multiplier must be finite and >= 0, got {self.noise_multiplier!r}")
        if not self.clipping_norm > 0:
            raise ValueError(f"PrivateRecipe.clipping_norm must be > 0, got {self.clipping_norm!r}")
        if not 0 < self.sampling_rate <= 1:
            raise ValueError(f"PrivateRecipe.sampling_rate must be > 0 and <= 1, got {self.sampling_rate!r}")
        if self.noise_multiplier and math.isinf(self.clipping_norm):
            raise ValueError("PrivateRecipe.clipping_norm is infinite; expected a finite one for noise to go by")

    def measure_epsilon(self, delta: float) -> float:
        """Return the epsilon of the whole training at a delta; infinite without noise."""
        asked = {"sampling_rate": self.sampling_rate, "steps": self.steps, "delta": delta}
        return measure_epsilon(self.noise_multiplier, **asked)


def draw_patients(n_patients: int, *, sampling_rate: float, generator: np.random.Generator) -> np.ndarray:
    """Return the numbers of the patients who take part in a step: each with the same probability, from 0 to 1,
    independently."""
    require_whole("n_patients", n_patients, least=0)
    require_rate("sampling_rate", sampling_rate)
    return np.flatnonzero(generator.random(n_patients) < sampling_rate)


def clip_gradients(gradients: np.ndarray, norm: float) -> np.ndarray:
    """Return gradients, float64 (patients, weights), none longer than `norm`; directions stay, shorter ones too.

    Raises
    ------
    ValueError
        If a gradient is not finite, and cannot be bounded; if the norm is not above 0.
    """
    _require_norm(norm)
    gradients = np.asarray(gradients, dtype=np.float64)
    lengths = np.linalg.norm(gradients, axis=-1, keepdims=True)
    if not np.isfinite(lengths).all():
        at = int(np.flatnonzero(~np.isfinite(lengths))[0])
        raise ValueError(f"the gradient of patient {at} of the batch is not finite, and cannot be clipped")
    return gradients / np.maximum(1.0, lengths / norm)


def add_noise(
    total: np.ndarray, *, noise_multiplier: float, clipping_norm: float, generator: np.random.Generator
) -> np.ndarray:
    """Return a sum of clipped gradients with Gaussian noise of standard deviation noise multiplier x clipping norm."""
    require_noise(noise_multiplier)
    _require_norm(clipping_norm)
    if noise_multiplier and math.isinf(clipping_norm):
        raise ValueError("clipping_norm is infinite; expected a finite one for noise to go by")
    noise = generator.standard_normal(np.shape(total))
    return total + (noise_multiplier * clipping_norm) * noise if noise_multiplier else np.array(total, dtype=np.float64)


def _require_norm(value: float) -> None:
    require_number("clipping_norm", value)
    if not value > 0:
        raise ValueError(f"clipping_norm must be > 0, got {value!r}")


def train_privately(
    model: keras.Model,
    examples: Examples,
    *,
    n_patients: int,
    recipe: PrivateRecipe,
    gradients: PatientGradients | None = None,
    seed: int | Sequence[int] = 0,
) -> pd.DataFrame:
    """Train the model in place, and return what happened in every step.

    Parameters
    ----------
    model : keras.Model
        As in `PatientGradients`. Its own optimizer takes the noisy gradient: what is made of it costs no privacy.
    examples : callable
        See `Examples`. What it makes of one patient must not depend on another.
    n_patients : int
        Known to all: a hospital's size is not protected.
    recipe : PrivateRecipe
    gradients : PatientGradients, optional
        Of the model, made before, so that what takes a second is done once for several trainings of it.
    seed : int or sequence of int
        Of who takes part, of the noise and of the examples, each drawn apart.

    Returns
    -------
    DataFrame
        Columns step, n_patients (who took part), n_clipped, median_norm (before clipping; NaN in an empty step). **Not
        private**: it is read from the patients without noise, and has to stay at the hospital.
    """
    require_whole("n_patients", n_patients, least=1)
    gradients = PatientGradients(model) if gradients is None else gradients
    if gradients.model is not model:
        raise ValueError("gradients are of another model; expected PatientGradients(model)")
    who, noise, own = (np.random.default_rng(part) for part in np.random.SeedSequence(seed).spawn(3))
    rows = []
    for step in range(recipe.steps):
        chosen = draw_patients(n_patients, sampling_rate=recipe.sampling_rate, generator=who)
        found = np.zeros((0, gradients.n_weights))
        if len(chosen):
            found = gradients.compute(*examples(chosen, own))
        total = clip_gradients(found, recipe.clipping_norm).sum(axis=0)
        asked = {"noise_multiplier": recipe.noise_multiplier, "clipping_norm": recipe.clipping_norm}
        told = add_noise(total, **asked, generator=noise) / (recipe.sampling_rate * n_patients)
        _step(model, told)
        lengths = np.linalg.norm(found, axis=1)
        middle = float(np.median(lengths)) if len(lengths) else math.nan
        rows.append((step, len(chosen), int((lengths > recipe.clipping_norm).sum()), middle))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _step(model: keras.Model, gradient: np.ndarray) -> None:
    """Let the optimizer of the model take one gradient, shape (weights,)."""
    ops = import_keras().ops

    variables = model.trainable_variables
    ends = np.cumsum([int(np.prod(variable.shape)) for variable in variables])[:-1]
    parts = np.split(gradient.astype(np.float32), ends)
    shaped = [ops.convert_to_tensor(part.reshape(own.shape)) for part, own in zip(parts, variables, strict=True)]
    model.optimizer.apply(shaped, variables)
