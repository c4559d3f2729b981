"""All centers in one process: the engine that simulations and notebooks run on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from dqc_lib.cohort import Cohort, check_roles
from dqc_lib.fisher import GradientScale, LogitProbe, average_norms, forget_momentum
from dqc_lib.networks import Snapshot, freeze_normalization, recalibrate_normalization, restore_snapshot, take_snapshot
from dqc_lib.quality import Counts
from dqc_lib.travelling.plan import group_by_center
from dqc_lib.volumes import VolumeCache

if TYPE_CHECKING:
    import keras

CHUNK = 64  # images per forward pass, at most
CHUNK_VOXELS = CHUNK * 40 * 48 * 40  # and voxels: of 160 x 192 x 160 that is one image, so that memory is bounded


@dataclass(frozen=True)
class Update:
    """What a center sends with the trained model: the training loss, and where the engine measures it the update norm
    of the most unusual image (see `dqc_lib.fisher`)."""

    loss: float
    norm: float | None = None


class LocalCenters:
    """The centers of a cohort, simulated: the model stays where it is, and each call acts for the center it names.

    Parameters
    ----------
    cohort : Cohort
        With roles. The ground truth on harm is dropped at once.
    model : keras.Model
        From `build_sfcn`.
    volumes : VolumeCache, optional
        By subject; made from the cohort's paths if not given.
    threshold : float
        A score of at least this is called diseased.

    Attributes
    ----------
    verification : dict of str to list of str
        The verification subjects of each center.
    notes : list of str
        What `check_roles` found worth saying, such as centers that cannot verify.
    scale : GradientScale or None
        What images are measured against; None until a cycle was watched, and until then nothing is measured.
    """

    def __init__(
        self, cohort: Cohort, model: keras.Model, *, volumes: VolumeCache | None = None, threshold: float = 0.5
    ) -> None:
        self.notes = check_roles(cohort)
        self.cohort, self.model, self.threshold = cohort.blinded(), model, threshold
        table = self.cohort.table.set_index("subject")
        self.volumes = volumes or VolumeCache(table["path"].to_dict())
        expected = tuple(model.input_shape[1:4])
        if tuple(self.volumes.shape) != expected:
            raise ValueError(f"the model expects volumes of {expected}, those of the cohort have {self.volumes.shape}")
        self.scale: GradientScale | None = None
        self._trains_at = table.loc[table["role"] == "train", "center"].to_dict()
        self._diagnosis = table["diagnosis"].to_dict()
        self.verification = group_by_center(self.cohort, role="verification")
        self._probe: LogitProbe | None = None
        self._unit = 1.0

    def train(self, center: str, subjects: Sequence[str], *, alone: bool = False) -> Update:
        """Measure the subjects' images at their center, if there is a scale, and take one optimizer step on them.

        Parameters
        ----------
        center : str
        subjects : sequence of str
            Training subjects of that center.
        alone : bool
            Forget the momentum of earlier steps first, so that these images alone decide where the model moves.
        """
        strangers = [subject for subject in subjects if self._trains_at.get(subject) != center]
        if strangers:
            raise ValueError(f"center {center!r} does not hold {strangers} as training subjects")
        norms = [] if self.scale is None else [self._measure(name) / self._unit for name in subjects]
        if alone:
            forget_momentum(self.model)
        labels = np.array([[self._diagnosis[subject]] for subject in subjects], dtype=np.float32)
        loss = float(np.asarray(self.model.train_on_batch(self.volumes.batch(subjects), labels)))
        return Update(loss, float(np.max(norms)) if norms else None)

    def adjust_unit(self) -> float:
        """Measure the verification images, and return how much larger their update norms have become since the cycle
        that watched: the unit of the norms to come.

        While the model learns on, all images move it more. Verification images are never trained on, whatever the
        attempts before were, so they show that and nothing else. Each center answers with a sum of logarithms. Without
        a scale the unit is 1.
        """
        if self.scale is not None:
            typical = self.measure_verification()
            known = np.isfinite(self.scale.reference) and np.isfinite(typical)
            self._unit = typical / self.scale.reference if known else 1.0
        return self._unit

    def measure_verification(self) -> float:
        """Return the mean of the update norms of all verification images, before any unit; see `average_norms`."""
        return average_norms(self._measure(name) for members in self.verification.values() for name in members)

    def _measure(self, subject: str) -> float:
        return self.scale.measure(self.read_gradient(subject))

    def read_gradient(self, subject: str) -> np.ndarray:
        """Return the gradient of the logit of a subject's image by the weights, shape (trainable parameters,)."""
        return self._open_probe().read(self.volumes.batch([subject]))

    def make_scale(self) -> GradientScale:
        """Return an empty scale for gradients of this model."""
        return GradientScale(self._open_probe().parts)

    def _open_probe(self) -> LogitProbe:
        self._probe = self._probe or LogitProbe(self.model)  # not before it is needed: it is compiled
        return self._probe

    def verify(self, asks: frozenset[str] = frozenset()) -> dict[str, Counts]:
        """Return each center's counts on its verification subjects, and its sum of losses if `asks` holds "loss"."""
        names = [subject for members in self.verification.values() for subject in members]
        scores = dict(zip(names, self._predict(names), strict=True))
        return {
            center: self._count(members, scores, with_loss="loss" in asks)
            for center, members in self.verification.items()
        }

    def _count(self, members: list[str], scores: dict[str, float], *, with_loss: bool) -> Counts:
        truth = np.array([self._diagnosis[subject] for subject in members])
        score = np.array([scores[subject] for subject in members])
        called = score >= self.threshold
        loss = None
        if with_loss:
            sure = np.clip(score.astype(np.float64), 1e-7, 1 - 1e-7)
            loss = float(-np.sum(truth * np.log(sure) + (1 - truth) * np.log(1 - sure)))
        return Counts(
            int(np.sum(called & (truth == 0))),
            int(np.sum(truth == 0)),
            int(np.sum(~called & (truth == 1))),
            int(np.sum(truth == 1)),
            loss,
        )

    def score(self, role: str = "test") -> pd.DataFrame:
        """Return the rows of the subjects in a role, with column `score`: the model's probability of the disease."""
        rows = self.cohort.table[self.cohort.table["role"] == role].drop(columns="path").reset_index(drop=True)
        return rows.assign(score=self._predict(rows["subject"]))

    def _predict(self, subjects: Iterable[str]) -> np.ndarray:
        return predict_subjects(self.model, self.volumes, list(subjects))

    def snapshot(self) -> Snapshot:
        """Return a copy of the model and its optimizer."""
        return take_snapshot(self.model)

    def restore(self, snapshot: Snapshot) -> None:
        """Put the model and its optimizer back."""
        restore_snapshot(self.model, snapshot)

    def set_learning_rate(self, rate: float) -> None:
        """Set Adam's learning rate."""
        self.model.optimizer.learning_rate.assign(rate)

    def freeze(self, *, exclude: Iterable[str] = ()) -> None:
        """Recalibrate the normalization on the training images of all centers but the excluded, and freeze it."""
        out = set(exclude)
        groups = [
            [subject for subject in members if subject not in out] for members in group_by_center(self.cohort).values()
        ]
        chunks = [chunk for group in groups for chunk in _cut_into_chunks(group, self.volumes.shape)]
        recalibrate_normalization(self.model, _Batches(self.volumes, chunks))
        freeze_normalization(self.model)

    def save(self, path: Path) -> None:
        """Write the model and its optimizer to a `.keras` file."""
        self.model.save(path)


def predict_subjects(model: keras.Model, volumes: VolumeCache, subjects: list[str]) -> np.ndarray:
    """Return the model's scores of the subjects, 0 to 1, float32 (n,), in chunks that bound the memory."""
    chunks = [model.predict_on_batch(volumes.batch(chunk))[:, 0] for chunk in _cut_into_chunks(subjects, volumes.shape)]
    return np.concatenate(chunks) if chunks else np.empty(0, dtype=np.float32)


def _cut_into_chunks(names: list[str], shape: tuple[int, int, int]) -> list[list[str]]:
    size = min(CHUNK, max(1, CHUNK_VOXELS // math.prod(shape)))
    return [names[at : at + size] for at in range(0, len(names), size)]


class _Batches(Sequence):
    """Batches of volumes, read when asked for."""

    def __init__(self, volumes: VolumeCache, chunks: list[list[str]]) -> None:
        self._volumes, self._chunks = volumes, chunks

    def __len__(self) -> int:
        return len(self._chunks)

    def __getitem__(self, index: int) -> np.ndarray:
        return self._volumes.batch(self._chunks[index])
