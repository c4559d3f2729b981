"""The cycle that only watches: how unusual good images are to the pre-trained model."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
import pandas as pd

from dqc_lib.fisher import GradientScale, average_norms
from dqc_lib.ledger import COLUMNS, Ledger
from dqc_lib.travelling.plan import Cycle

FOLDS = 10  # parts of the watched images, each measured against the others
Images = Sequence[tuple[str, str]]  # each by its center and its subject


class WatchedCenters(Protocol):
    """How `watch` reaches the centers, in one process or on machines of their own.

    Attributes
    ----------
    verification : mapping of str to sequence of str
        The verification subjects of each center.
    scale : GradientScale or None
        What updates are measured against from then on.
    """

    verification: Mapping[str, Sequence[str]]
    scale: GradientScale | None

    def make_scale(self) -> GradientScale:
        """Return an empty scale for gradients of the model."""

    def sum_squares(self, images: Images) -> np.ndarray:
        """Return the sum of the squared gradients of these images, see `LogitProbe.read`."""

    def measure_images(self, images: Images, *, scale: GradientScale, without: int | None = None) -> Iterator[float]:
        """Yield the update norm of each of these images, see `GradientScale.measure`."""


def watch(
    engine: WatchedCenters,
    cycle: Cycle,
    *,
    exclude: Collection[str] = (),
    ledger: Ledger | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Measure how unusual good images are to the model, and leave the model as it was.

    Training images teach the scale of the gradients (`engine.scale`), and are measured against it with their own tenth
    left out, so that no image vouches for itself. Verification images, which the model has never trained on, are
    measured as a new image would be.

    Parameters
    ----------
    engine : LocalCenters or another that can be watched
        After pre-training, with frozen normalization.
    cycle : Cycle
        Its images are watched.
    exclude : collection of str
        Subjects left out.
    ledger : Ledger, optional
        Receives one row of stage "watch" per image, but for those that it has from a run that was cut short.
    progress : bool
        Show a progress bar.

    Returns
    -------
    DataFrame
        Those rows, ready for `CalibratedRule.from_watch`.
    """
    from tqdm.auto import tqdm

    ledger, scale, out = Ledger() if ledger is None else ledger, engine.make_scale(), set(exclude)
    trained = [(visit.center, name) for visit in cycle.visits for batch in visit.batches for name in batch]
    trained = [(center, name) for center, name in trained if name not in out]
    unseen = [(center, name) for center, names in engine.verification.items() for name in names]
    # every tenth image in the order of visits, so that a fold has a few of each center and the scale changes rarely
    folds = [(fold, images) for fold in range(FOLDS) if (images := trained[fold::FOLDS])]
    with tqdm(total=2 * len(trained) + len(unseen), desc="watch", unit="image", disable=not progress) as bar:
        for fold, images in folds:
            scale.add_squares(engine.sum_squares(images), count=len(images), fold=fold)
            bar.update(len(images))
        known, norms = sum(row["stage"] == "watch" for row in ledger), []
        for fold, images in [*folds, (None, unseen)]:
            started = time.perf_counter()
            measured = engine.measure_images(images, scale=scale, without=fold)
            for (center, name), norm in zip(images, measured, strict=True):
                norms.append(norm)
                ended = time.perf_counter()
                row = {"cycle": cycle.number, "stage": "watch", "level": "single", "center": center, "subjects": [name]}
                row |= {"n": 1, "update_norm": norm, "decision": "accepted", "seconds": ended - started}
                if len(norms) > known:  # a run that was cut short has written the others
                    ledger.append(**dict.fromkeys(COLUMNS) | row)
                started = ended
                bar.update()
    scale.reference = average_norms(norms[len(trained) :])
    engine.scale = scale
    frame = ledger.to_frame()
    return frame[frame["stage"] == "watch"]
