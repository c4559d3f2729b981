"""The cycle that only watches: how unusual good images are to the pre-trained model."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import TYPE_CHECKING

import pandas as pd

from dqc_lib.fisher import average_norms
from dqc_lib.ledger import COLUMNS, Ledger
from dqc_lib.travelling.plan import Cycle

if TYPE_CHECKING:
    from dqc_lib.travelling.local import LocalCenters

FOLDS = 10  # parts of the watched images, each measured against the others


def watch(
    engine: LocalCenters,
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
    engine : LocalCenters
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
    tries = [(center, name, fold) for fold in range(FOLDS) for center, name in trained[fold::FOLDS]]
    with tqdm(total=2 * len(tries) + len(unseen), desc="watch", unit="image", disable=not progress) as bar:
        for _, name, fold in tries:
            scale.add(engine.read_gradient(name), fold=fold)
            bar.update()
        known, norms = sum(row["stage"] == "watch" for row in ledger), []
        for center, name, fold in [*tries, *((*image, None) for image in unseen)]:
            started = time.perf_counter()
            norms.append(scale.measure(engine.read_gradient(name), without=fold))
            row = {"cycle": cycle.number, "stage": "watch", "level": "single", "center": center, "subjects": [name]}
            row |= {"n": 1, "update_norm": norms[-1], "decision": "accepted", "seconds": time.perf_counter() - started}
            if len(norms) > known:  # a run that was cut short has written the others
                ledger.append(**dict.fromkeys(COLUMNS) | row)
            bar.update()
    scale.reference = average_norms(norms[len(tries) :])
    engine.scale = scale
    frame = ledger.to_frame()
    return frame[frame["stage"] == "watch"]
