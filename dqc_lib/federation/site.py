"""What a center's machine does when it is asked: train, verify, measure, and before that tell sums of features and of
squared gradients; nothing else leaves it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from dqc_lib.cohort import Cohort
from dqc_lib.federation.weights import Arrays, Layout, build_design, list_arrays, unpack_scale
from dqc_lib.networks import sum_features
from dqc_lib.snapshots import Snapshot
from dqc_lib.travelling import LocalCenters, group_by_center
from dqc_lib.travelling.batches import Batches
from dqc_lib.travelling.local import State


class Site:
    """One or several centers whose images lie on this machine.

    Every call brings the model along, so that a site remembers nothing of the calls before: one that died and came
    back, or that answered too late, goes on with the next. `train` brings the optimizer's numbers too; the others need
    none, and leave the optimizer as that of a new model.

    Parameters
    ----------
    cohort : Cohort
        Of these centers alone, with roles.
    turn : Lock, optional
        Held while a call is answered: one that timed out may still be running when the next one comes, to this site or
        to the one that takes its place when it is opened again.
    """

    def __init__(self, cohort: Cohort, *, turn: threading.Lock | None = None) -> None:
        self._cohort = cohort.blinded()
        self._one_at_a_time = turn or threading.Lock()
        self._engine: LocalCenters | None = None
        self._met: list[int] = []

    def open(self, design: dict, *, threshold: float, batch_size: int, scale: bytes | None = None) -> dict[str, Any]:
        """Build the network, take over what update norms are measured against, and declare the centers.

        Returns
        -------
        dict
            By center, in the order of the table: "train", the names of the training subjects, and "verification", how
            many controls and diseased subjects verify.
        """
        with self._one_at_a_time:
            model = build_design(design)
            self._engine = LocalCenters(
                self._cohort, model, threshold=threshold, batch_size=batch_size, part_of_cohort=True
            )
            arrays, n_own = list_arrays(model), len(model.variables)
            self._layout, self._new_optimizer, self._met = Layout.of(arrays), arrays[n_own:], []
            self._own_layout = self._layout.first(n_own)
            self._engine.scale = None if scale is None else unpack_scale(scale)
        return self.declare()

    def declare(self) -> dict[str, Any]:
        """Return what `open` returns."""
        table, declared = self._cohort.table, {}
        for center in self._cohort.centers:
            own = table[table["center"] == center]
            truth = own.loc[own["role"] == "verification", "diagnosis"]
            declared[center] = {
                "train": list(own.loc[own["role"] == "train", "subject"]),
                "verification": [int((truth == 0).sum()), int((truth == 1).sum())],
            }
        return declared

    def train(
        self, weights: bytes, center: str, subjects: Sequence[str], *, alone: bool = False, sizes: Sequence[int] = ()
    ) -> dict[str, Any]:
        """Take one step, and return the weights after it and the update norm of the most unusual image (None without
        a scale); not the loss, from which the score of an image that is alone could be computed.

        `sizes` are the numbers of images that the run took its first steps on, see `LocalCenters.rehearse`.
        """
        with self._one_at_a_time:
            if sizes and not self._met:
                self._engine.rehearse(sizes)
                self._met = list(sizes)
            self._take_over(self._layout.unpack(weights))
            update = self._engine.train(center, list(subjects), alone=alone)
            return {"weights": self._layout.pack(list_arrays(self._engine.model)), "norm": update.norm}

    def verify(self, weights: bytes, *, loss: bool = False) -> dict[str, list]:
        """Return, by center, fp, n_neg, fn, n_pos, and the sum of losses if it is asked for (None otherwise)."""
        with self._one_at_a_time:
            self._look_with(weights)
            counts = self._engine.verify(frozenset({"loss"} if loss else ()))
        return {name: [of.fp, of.n_neg, of.fn, of.n_pos, of.loss_sum] for name, of in counts.items()}

    def measure(self, weights: bytes) -> dict[str, list]:
        """Return, by center, the sum of the logarithms of its verification images' update norms, and how many of them
        it is the sum of."""
        with self._one_at_a_time:
            self._look_with(weights)
            sums = {}
            for center, members in self._engine.verification.items():
                norms = np.array([self._engine.scale.measure(self._engine.read_gradient(name)) for name in members])
                logs = np.log(norms[np.isfinite(norms) & (norms > 0)])
                sums[center] = [float(logs.sum()), int(logs.size)]
        return sums

    def sum_features(self, weights: bytes, layer: int, exclude: Sequence[str] = ()) -> dict[str, list]:
        """Return, by center, what its training images but the excluded come to at a layer of normalization (see
        `FeatureSums`): sums of means and of mean squares, one number per filter, and how many images they are of.

        At a center with one training image they are this one person's own, 1,600 numbers over all layers at the
        published width: no image, but they tell how bright and how sharp it is, and may tell more of the person.
        """
        with self._one_at_a_time:
            self._look_with(weights)
            sums = {}
            for center, members in group_by_center(self._cohort).items():
                if kept := [name for name in members if name not in exclude]:
                    batches = Batches(self._engine.volumes, [kept])
                    of = sum_features(self._engine.model, batches, layer=layer)
                    sums[center] = [of.mean.tolist(), of.square.tolist(), of.count]
        return sums

    def name_verification(self) -> dict[str, list[str]]:
        """Return the names of the verification subjects by center, without their diagnosis; the watched cycle tells how
        unusual each of them is."""
        return group_by_center(self._cohort, role="verification")

    def sum_squares(self, weights: bytes, subjects: Sequence[str]) -> bytes:
        """Return the sum of the squared gradients of training images, float32, one number per trained weight.

        Of one image alone it is that image's gradient but for the signs. That is no more than a step on one image
        reveals: the server has Adam's moments before and after, which give its gradient whole.
        """
        with self._one_at_a_time:
            images = self._find(subjects, "train")
            self._look_with(weights)
            squares = self._engine.sum_squares(images)
        return np.asarray(squares, dtype="<f4").tobytes()

    def measure_images(self, weights: bytes, subjects: Sequence[str], scale: bytes) -> list[float]:
        """Return the update norm of each of these images, of training or verification subjects, against a scale that
        comes along: how unusual this one person's image is to the model."""
        with self._one_at_a_time:
            images = self._find(subjects, "train", "verification")
            self._look_with(weights)
            return list(self._engine.measure_images(images, scale=unpack_scale(scale)))

    def _find(self, subjects: Sequence[str], *roles: str) -> list[tuple[str, str]]:
        """Return the center and the name of each subject; an error unless all have one of the roles."""
        groups = [pair for role in roles for pair in group_by_center(self._cohort, role=role).items()]
        homes = {name: center for center, names in groups for name in names}
        if strangers := sorted(set(subjects) - set(homes)):
            raise ValueError(f"expected subjects for {' or '.join(roles)} at this site, got {strangers[:12]}")
        return [(homes[name], name) for name in subjects]

    def _look_with(self, weights: bytes) -> None:
        self._take_over(self._own_layout.unpack(weights) + self._new_optimizer)

    def _take_over(self, arrays: Arrays) -> None:
        self._engine.restore(State(Snapshot(arrays), None, True))
