"""Trained arms as files, so that one notebook trains and another reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

import numpy as np

from dqc_lib.arguments import require_kind, require_path
from dqc_lib.aside import write_aside
from dqc_lib.checkpoints import name_file, open_archive, read_array
from dqc_lib.networks import import_keras
from dqc_lib.synthesis.arms import STAGES, TrainedArm, TrainingSchedule, train_arm
from dqc_lib.synthesis.networks import Generator, GeneratorShape
from dqc_lib.synthesis.records import require_hospitals
from dqc_lib.synthesis.traffic import Traffic
from dqc_lib.synthesis.training import LEARNING_RATE

FORMAT = 3
"""Of files and of what a training does: another number trains anew, whatever lies in the folder."""
MOST_BYTES = 256 * 1024**2
"""Of a file unpacked; five generators of these lessons take half a megabyte."""


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
    told = np.frombuffer(json.dumps(note).encode(), dtype=np.uint8)
    return write_aside(path, lambda aside: np.savez(aside, note=told, **arrays))


def load_arm(path: str | Path) -> TrainedArm:
    """Return the trained arm of a file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, claims more than `MOST_BYTES`, or is not one of `save_arm`.
    """
    path = require_path("path", path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected one of save_arm")
    with (
        open_archive(path, max_bytes=MOST_BYTES) as archive,
        name_file(path, expected="a file of save_arm"),
    ):
        note = json.loads(read_array(archive, "note").tobytes())
        shape = GeneratorShape(**note["shape"])
        layers = [layer for stage in STAGES for layer in shape.list_layers(stage)]
        expected = [size for layer in layers for size in (layer.shape, layer.shape[1:])]
        generators, half = {}, len(expected) // 2
        for number, name in enumerate(note["generators"]):
            arrays = [read_array(archive, f"{number}-{at}") for at in range(len(expected))]
            if [array.shape for array in arrays] != expected:
                raise ValueError(f"the weights of {name!r} have other shapes than {note['shape']} says")
            generators[name] = Generator(shape, arrays[:half], arrays[half:])
        schedule, traffic = TrainingSchedule(**note["schedule"]), Traffic(**note["traffic"])
        return TrainedArm(
            note["arm"], schedule, generators, note["sizes"], traffic, note["n_steps"], note["seconds"]
        )


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
