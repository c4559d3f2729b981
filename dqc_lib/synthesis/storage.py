"""Trained arms as files, so that one notebook trains and another reads."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

import numpy as np

from dqc_lib.arguments import require_kind, require_path
from dqc_lib.aside import write_aside
from dqc_lib.networks import import_keras
from dqc_lib.synthesis.arms import TrainedArm, TrainingSchedule, train_arm
from dqc_lib.synthesis.networks import Generator, GeneratorShape
from dqc_lib.synthesis.records import require_hospitals
from dqc_lib.synthesis.traffic import Traffic
from dqc_lib.synthesis.training import LEARNING_RATE

FORMAT = 2
"""Of files and of what a training does: another number trains anew, whatever lies in the folder."""
STAGE_ARRAYS = 8
"""Arrays of a stage: kernel and bias of four layers."""


def save_arm(trained: TrainedArm, path: str | Path) -> Path:
    """Write a trained arm as one file of NumPy's (.npz), whole or not at all, and return its path."""
    require_kind("trained", trained, TrainedArm, such_as="that of train_arm")
    path = require_path("path", path)
    note = {name: getattr(trained, name) for name in ("arm", "sizes", "n_steps", "seconds")}
    note |= {"schedule": asdict(trained.schedule), "traffic": asdict(trained.traffic)}
    note |= {"shape": asdict(next(iter(trained.generators.values())).shape), "generators": list(trained.generators)}
    arrays = {
        f"{number}-{at}": array
        for number, one in enumerate(trained.generators.values())
        for at, array in enumerate([*one.autoencoder, *one.temporal])
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_aside(path, lambda aside: np.savez(aside, note=np.array(json.dumps(note)), **arrays))


def load_arm(path: str | Path) -> TrainedArm:
    """Return the trained arm of a file; a ValueError names the file if it is not one of `save_arm`."""
    path = require_path("path", path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; expected one of save_arm")
    try:
        with path.open("rb") as stream, np.load(stream) as held:  # on a damaged file NumPy leaves its own open
            note = json.loads(str(held["note"]))
            shape, generators = GeneratorShape(**note["shape"]), {}
            for number, name in enumerate(note["generators"]):
                arrays = [held[f"{number}-{at}"] for at in range(2 * STAGE_ARRAYS)]
                generators[name] = Generator(shape, arrays[:STAGE_ARRAYS], arrays[STAGE_ARRAYS:])
        schedule, traffic = TrainingSchedule(**note["schedule"]), Traffic(**note["traffic"])
        return TrainedArm(
            note["arm"], schedule, generators, note["sizes"], traffic, note["n_steps"], note["seconds"]
        )
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: not a file of save_arm ({type(error).__name__})") from None


def train_or_load(
    arm: str, visits: Mapping[str, np.ndarray], *, folder: str | Path, schedule: TrainingSchedule | None = None
) -> TrainedArm:
    """Return a trained arm: from the folder if the same was trained before, else by `train_arm`, and keep it there.

    The file's name holds a digest of the records, the schedule, the generator's shape, the learning rate, Keras's
    backend and `FORMAT`, so that other records, or another training of them, are never answered with an old
    arm. Its seconds are those of the training, whenever it was.
    """
    records, schedule = require_hospitals("visits", visits), schedule or TrainingSchedule()
    n_visits, n_codes = next(iter(records.values())).shape[1:]
    shape, backend = asdict(GeneratorShape(n_codes, n_visits)), import_keras().backend.backend()
    digest = sha256(json.dumps([arm, asdict(schedule), shape, LEARNING_RATE, backend, FORMAT]).encode())
    for name, values in records.items():
        digest.update(f"{name} {values.shape}".encode() + np.packbits(values.astype(bool)).tobytes())
    path = require_path("folder", folder) / f"{arm.replace(' ', '-')}-{digest.hexdigest()[:16]}.npz"
    if path.exists():
        return load_arm(path)
    trained = train_arm(arm, records, schedule=schedule)
    save_arm(trained, path)
    return trained
