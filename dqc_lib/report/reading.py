"""Runs from their folders, for a report without the notebook or the session that made them."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pandas as pd

from dqc_lib.cohort import Cohort, split_by_subject
from dqc_lib.ledger import COUNTS, Ledger
from dqc_lib.quality import Counts
from dqc_lib.travelling import Arm, RunFolder, Schedule, Study


def read_settings(folder: str | Path) -> dict[str, Any]:
    """Return what a finished run noted about itself.

    Raises
    ------
    FileNotFoundError, ValueError
        If the folder holds no run, or one that is not finished.
    """
    note = Path(folder) / "run.json"
    if not note.is_file():
        raise FileNotFoundError(f"{folder}: no run.json; expected the folder of a run of Study.run")
    try:
        found = json.loads(note.read_text(encoding="utf-8"))
        finished, settings = found["finished"], found["settings"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{note}: damaged; expected the note of a run") from None
    if not finished:
        raise ValueError(f"{folder}: the run is not finished; expected one that came to its end")
    return settings


def read_arm(folder: str | Path) -> Arm:
    """Return the arm that a finished run left in a folder, with the pre-training it started from where that lies beside
    it.

    Raises
    ------
    FileNotFoundError, ValueError
        As `read_settings`; and if a file of the run is damaged.
    """
    folder, settings = Path(folder), read_settings(folder)
    arm = _read_run(folder, settings)
    for other in sorted(folder.resolve().parent.glob("pretraining-*")):
        try:
            theirs = read_settings(other)
        except (FileNotFoundError, ValueError):
            continue  # the start of another study, left half-way
        if all(theirs.get(key) == settings.get(key) for key in ("schedule", "held_back", "order")):
            return _join(arm, _read_run(other, theirs))
    return arm


def _read_run(folder: Path, settings: dict[str, Any]) -> Arm:
    run = RunFolder(folder, settings)
    ledger = Ledger.read(run.ledger_path).to_frame()
    return Arm(settings["name"], ledger, run.read_predictions(), run.read_verification(), folder)


def _join(arm: Arm, start: Arm) -> Arm:
    """Return the arm with the pre-training's predictions before its own, and its last verification as the floor."""
    predictions = pd.concat([start.predictions.assign(arm=arm.name), arm.predictions])
    last = start.verification.tail(1).to_dict("records")
    floor = Counts(*(int(last[0][name]) for name in COUNTS)) if last else None
    return Arm(arm.name, arm.ledger, predictions, arm.verification, arm.folder, floor)


def open_study(cohort: Cohort, folder: str | Path) -> Study:
    """Return the study of a finished run; nothing is computed.

    A cohort without roles is split by the seed of the run's schedule, as in the notebook your_own_cohort.

    Raises
    ------
    FileNotFoundError, ValueError
        As `read_settings`; and if the run is one of another cohort, or of another split.
    """
    settings = read_settings(folder)
    schedule = Schedule(**settings["schedule"])
    if "role" not in cohort.table:
        cohort = split_by_subject(cohort, seed=schedule.seed)
    study = Study(cohort, schedule=schedule, folder=Path(folder).parent, progress=False)
    if sha256(repr(study.plan).encode()).hexdigest() != settings["order"]:
        raise ValueError(f"{folder}: a run of other training subjects; expected one of the cohort in {cohort.root}")
    return study
