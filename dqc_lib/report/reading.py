"""Runs from their folders, for a report without the notebook or the session that made them."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd

from dqc_lib.cohort import Cohort, split_by_subject
from dqc_lib.ledger import COUNTS, Ledger
from dqc_lib.notes import read_note
from dqc_lib.quality import Counts
from dqc_lib.travelling import Arm, RunFolder, Schedule, Study
from dqc_lib.travelling.runs import NOTE
from dqc_lib.travelling.study import ARMS

SETTINGS = dict.fromkeys(("name", "rule", "cohort", "order"), str)
SETTINGS |= {"schedule": dict, "held_back": list, "versions": dict}
"""What a run notes, beside its arm."""
SHARED = ("schedule", "held_back", "order", "versions")
"""What an arm and the pre-training that it started from have in common."""


def read_settings(folder: str | Path) -> dict[str, Any]:
    """Return what a finished run noted about itself.

    Raises
    ------
    FileNotFoundError, ValueError
        If the folder holds no run, or one that is not finished; if the note is damaged, or lacks a setting or holds one
        that is unknown here.
    """
    note = Path(folder) / "run.json"
    if not note.is_file():
        raise FileNotFoundError(f"{folder}: no run.json; expected the folder of a run of Study.run")
    found = read_note(note, of="a run", keys=NOTE)
    if not found["finished"]:
        raise ValueError(f"{folder}: the run is not finished; expected one that came to its end")
    _check_settings(found["settings"], note)
    return found["settings"]


def _check_settings(settings: dict[str, Any], note: Path) -> None:
    for name, kind in SETTINGS.items():
        if not isinstance(settings.get(name), kind):
            raise ValueError(f"{note}: damaged, no {name!r} in its settings; expected the note of a run")
    arm = settings.get("arm", "")
    if not (arm is None or arm in ARMS):
        raise ValueError(f"{note}: an unknown arm {arm!r}; expected one of {ARMS}, or none for a pre-training")
    _read_schedule(settings, note)


def _read_schedule(settings: dict[str, Any], note: Path) -> Schedule:
    known, came = {field.name for field in fields(Schedule)}, set(settings["schedule"])
    for problem, names in (("lacks", known - came), ("has the unknown settings", came - known)):
        if names:
            raise ValueError(f"{note}: its schedule {problem} {sorted(names)[:12]}; expected that of this version")
    try:
        return Schedule(**settings["schedule"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{note}: damaged ({error}); expected the note of a run") from None


def read_arm(folder: str | Path) -> Arm:
    """Return the arm that a finished run left in a folder, with the pre-training it started from where that lies beside
    it.

    Raises
    ------
    FileNotFoundError, ValueError
        As `read_settings`; if a file of the run is damaged; if several pre-trainings beside it can be the one.
    """
    folder, settings = Path(folder), read_settings(folder)
    arm, starts = _read_run(folder, settings), {}
    for other in sorted(folder.resolve().parent.glob("pretraining-*")):
        try:
            theirs = read_settings(other)
        except (FileNotFoundError, ValueError):
            continue  # the start of another study, left half-way
        if all(theirs[key] == settings[key] for key in SHARED):
            starts[other] = theirs
    if len(starts) > 1:
        raise ValueError(
            f"{folder}: it can have started from each of {', '.join(path.name for path in starts)}; expected one "
            "pre-training of its schedule, order and versions beside it, the others elsewhere"
        )
    for start, theirs in starts.items():
        arm = _join(arm, _read_run(start, theirs))
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
        As `read_settings`; and if the run is a pre-training, or one of another cohort, be it that an image or a cell of
        the table is another, or of another split.
    """
    settings = read_settings(folder)
    if settings["arm"] is None:
        raise ValueError(f"{folder}: a pre-training; expected the folder of an arm")
    schedule = _read_schedule(settings, Path(folder) / "run.json")
    if "role" not in cohort.table:
        cohort = split_by_subject(cohort, seed=schedule.seed)
    study = Study(cohort, schedule=schedule, folder=Path(folder).parent, progress=False)
    if study.fingerprint_order() != settings["order"]:
        raise ValueError(f"{folder}: a run of other training subjects; expected one of the cohort in {cohort.root}")
    if study.fingerprint_cohort(settings["arm"]) != settings["cohort"]:
        raise ValueError(
            f"{folder}: a run of another cohort, whose table or images are not those in {cohort.root}; expected one "
            "of this cohort as it is now"
        )
    return study
