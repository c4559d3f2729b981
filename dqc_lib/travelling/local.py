"""All centers in one process: the engine that simulations and notebooks run on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from dqc_lib.arguments import require_number
from dqc_lib.cohort import Cohort, check_roles
from dqc_lib.fisher import GradientScale, LogitProbe, average_norms, forget_momentum
from dqc_lib.networks import freeze_normalization, recalibrate_normalization
from dqc_lib.quality import Counts
from dqc_lib.snapshots import Snapshot, restore_snapshot, take_snapshot
from dqc_lib.travelling.batches import Batches, fits, make_batches, predict_batches, predict_subjects, train_on
from dqc_lib.travelling.engine import Update
from dqc_lib.travelling.outlook import Outlook, look_ahead
from dqc_lib.travelling.plan import group_by_center
from dqc_lib.volumes import VolumeCache

if TYPE_CHECKING:
    import keras

VERIFYING = {"full": None, "certain": math.inf, "nearest": 8.0}
"""How to verify: every image; or as few as leave no doubt that the attempt is harmful, if it is; or as few as say which
way the verdict goes, where a call that is this many standard errors from the threshold is taken as foreseen. Six images
tell little of how far others depart from them, hence so many."""


def check_verifying(name: str) -> str:
    """Return the name of a way to verify, or raise a ValueError that lists them."""
    if name not in VERIFYING:
        raise ValueError(f"verifying must be one of {tuple(VERIFYING)}, got {name!r}")
    return name


@dataclass(frozen=True)
class State:
    """A model and its optimizer, the last known scores of verification images, and whether it has moved since."""

    variables: Snapshot
    outlook: Outlook | None
    moved: bool


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
    verifying : "full", "certain" or "nearest"
        Whether `verify` looks at every image when it is told what the counts are for (see `VERIFYING`). "certain"
        decides as "full" does, up to scores so near to the threshold that rounding decides; the counts of an attempt
        that it rejects are foreseen in part. With "nearest" those of any attempt may be, and a decision may be another.
        Either compares the scores of all centers in one place, which centers that share counts alone could not do, and
        takes it that the model is changed by nobody but this class.
    batch_size : int
        How many images a step is expected to have at most: where a backend compiles for every number of them (JAX),
        fewer are filled up to it. Unless it is given, the largest step so far counts.
    part_of_cohort : bool
        Other processes hold the other centers: that these have one diagnosis only, say, is no fault.

    Attributes
    ----------
    verification : dict of str to list of str
        The verification subjects of each center.
    notes : list of str
        What `check_roles` found worth saying, such as centers that cannot verify.
    scale : GradientScale or None
        What images are measured against; None until a cycle was watched, and until then nothing is measured.
    passes : int
        How many verification images the network has looked at so far.

    Notes
    -----
    Verification images of up to 512 MiB, at 4 bytes a voxel, stay where the network is once they have been passed, on a
    GPU with memory of its own up to 8 GiB. More are read anew, one batch ahead of the network.
    """

    def __init__(
        self,
        cohort: Cohort,
        model: keras.Model,
        *,
        volumes: VolumeCache | None = None,
        threshold: float = 0.5,
        verifying: str = "full",
        batch_size: int = 1,
        part_of_cohort: bool = False,
    ) -> None:
        require_number("threshold", threshold)
        if not math.isfinite(threshold):
            raise ValueError(f"threshold must be a finite number, got {threshold!r}")
        self.notes = [] if part_of_cohort else check_roles(cohort)
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
        self._verifying = [name for members in self.verification.values() for name in members]
        self._truth = np.array([self._diagnosis[name] for name in self._verifying])
        self._reach = VERIFYING[check_verifying(verifying)]
        self._resident: list | None = None
        self._outlook: Outlook | None = None
        self._moved = True  # since the outlook was made
        self._most = batch_size
        self.passes = 0
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
        self._moved = True
        labels = np.array([[self._diagnosis[subject]] for subject in subjects], dtype=np.float32)
        self._most = max(self._most, len(labels))
        loss = train_on(self.model, self.volumes.batch(subjects), labels, most=self._most)
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

    def sum_squares(self, images: Iterable[tuple[str, str]]) -> np.ndarray:
        """Return the sum of the squared gradients of images, each given by its center and subject."""
        return sum(self.read_gradient(name) ** 2 for _, name in images)

    def measure_images(
        self, images: Iterable[tuple[str, str]], *, scale: GradientScale, without: int | None = None
    ) -> Iterator[float]:
        """Yield the update norms of images, see `GradientScale.measure`."""
        return (scale.measure(self.read_gradient(name), without=without) for _, name in images)

    def _open_probe(self) -> LogitProbe:
        self._probe = self._probe or LogitProbe(self.model)  # not before it is needed: it is compiled
        return self._probe

    def verify(
        self, asks: frozenset[str] = frozenset(), harmful: Callable[[Counts], bool | None] | None = None
    ) -> dict[str, Counts]:
        """Return each center's counts on its verification subjects, and its sum of losses if `asks` holds "loss".

        With `harmful`, which says of the sum of the counts whether they make the attempt harmful (None: it does not
        say), and unless every image is to be looked at (see `verifying`), looking ends when that is settled or
        everything can be foreseen; what was not looked at is counted as foreseen.
        """
        if not self.verification:  # a part of a cohort may hold training subjects alone
            return {}
        if self._reach is None or harmful is None or "loss" in asks or self._outlook is None:
            self._look_at_all()
        elif not self.exact:
            self._look_ahead(harmful)
        wrong = (self._outlook.score >= self.threshold) != (self._truth == 1)
        losses = _measure_losses(self._truth, self._outlook.score) if "loss" in asks else None
        ends = np.cumsum([len(members) for members in self.verification.values()])[:-1]
        return {
            center: _count(self._truth[own], wrong[own], None if losses is None else losses[own])
            for center, own in zip(self.verification, np.split(np.arange(len(wrong)), ends), strict=True)
        }

    @property
    def exact(self) -> bool:
        """Whether the network has looked at every verification image since the model last moved."""
        return self._outlook is not None and not self._moved and self._outlook.exact

    def _look_at_all(self) -> None:
        self._outlook, self._moved = Outlook.of(self._look(np.arange(len(self._verifying)))), False

    def _look_ahead(self, harmful: Callable[[Counts], bool | None]) -> None:
        """Look at as few images as settle whether the attempt is harmful, or foresee the others."""

        def settled(best: np.ndarray, worst: np.ndarray) -> bool:
            if harmful(_count(self._truth, best)) is True:
                return True
            # where only a look counts, the next attempt is to be compared with the counts of all images
            return math.isfinite(self._reach) and harmful(_count(self._truth, worst)) is False

        options = {"threshold": self.threshold, "reach": self._reach, "settled": settled}
        self._outlook, self._moved = look_ahead(self._outlook, self._look, self._truth, **options), False

    def _look(self, numbers: np.ndarray) -> np.ndarray:
        self.passes += len(numbers)
        if len(numbers) == len(self._verifying) and fits(self.volumes, len(numbers)):
            self._resident = self._resident or list(make_batches(self.volumes, self._verifying))
            return predict_batches(self.model, self._resident, len(numbers)).astype(np.float64)[numbers]
        return self._predict([self._verifying[number] for number in numbers]).astype(np.float64)

    def score(self, role: str = "test") -> pd.DataFrame:
        """Return the rows of the subjects in a role, with column `score`: the model's probability of the disease."""
        rows = self.cohort.table[self.cohort.table["role"] == role].drop(columns="path").reset_index(drop=True)
        return rows.assign(score=self._predict(rows["subject"]))

    def _predict(self, subjects: Iterable[str]) -> np.ndarray:
        return predict_subjects(self.model, self.volumes, list(subjects))

    def rehearse(self, sizes: Iterable[int]) -> None:
        """Have graphs made for steps on so many images, in this order, and leave the model as it is.

        TensorFlow makes one graph for the first number of images that it meets and one for all others, which rounds
        otherwise. So a process that goes on where another stopped has to have met the same ones first.
        """
        state = take_snapshot(self.model)
        for n in list(dict.fromkeys(sizes))[:2]:
            blank = np.zeros((n, *self.volumes.shape, 1), dtype=np.float32)
            train_on(self.model, blank, np.zeros((n, 1), dtype=np.float32), most=self._most)
        restore_snapshot(self.model, state)

    def snapshot(self) -> State:
        """Return a copy of the model and its optimizer, and what is known of its scores."""
        return State(take_snapshot(self.model), self._outlook, self._moved)

    def restore(self, state: State) -> None:
        """Put the model and its optimizer back."""
        restore_snapshot(self.model, state.variables)
        self._moved = state.moved
        if not state.moved:  # otherwise scores that were known later serve better to foresee its own
            self._outlook = state.outlook

    def set_learning_rate(self, rate: float) -> None:
        """Set Adam's learning rate."""
        self.model.optimizer.learning_rate.assign(rate)

    def freeze(self, *, exclude: Iterable[str] = ()) -> None:
        """Recalibrate the normalization on the training images of all centers but the excluded, and freeze it."""
        out = set(exclude)
        groups = [
            [subject for subject in members if subject not in out] for members in group_by_center(self.cohort).values()
        ]
        recalibrate_normalization(self.model, Batches(self.volumes, groups))
        freeze_normalization(self.model)
        self._moved = True

    def save(self, path: Path) -> None:
        """Write the model and its optimizer to a `.keras` file."""
        self.model.save(path)


def _count(truth: np.ndarray, wrong: np.ndarray, losses: np.ndarray | None = None) -> Counts:
    positive = truth == 1
    fp, fn = np.sum(wrong & ~positive), np.sum(wrong & positive)
    loss = None if losses is None else float(np.sum(losses))
    return Counts(int(fp), int(np.sum(~positive)), int(fn), int(np.sum(positive)), loss)


def _measure_losses(truth: np.ndarray, score: np.ndarray) -> np.ndarray:
    sure = np.clip(score, 1e-7, 1 - 1e-7)
    return -(truth * np.log(sure) + (1 - truth) * np.log(1 - sure))
