"""What the server does: the loop, the rule and the ledger, in a folder of its own that a run cut short resumes from."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import takewhile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dqc_lib.aside import write_json
from dqc_lib.federation.answers import Declared, SiteError
from dqc_lib.federation.link import ClockedLink, Link, join_errors
from dqc_lib.federation.remote import RemoteCenters
from dqc_lib.federation.task import Task, Terms, read_task
from dqc_lib.federation.weights import Start
from dqc_lib.fisher import GradientScale
from dqc_lib.ledger import Ledger
from dqc_lib.travelling import CenterError, Cycle, plan_cycles, travel

LEDGER, DECLARED, SESSIONS = "ledger.jsonl", "declared.json", "sessions.json"
FAULT, END = "fault.json", "end.npz"


def conduct(folder: Path, connect: Callable[[Terms], Link]) -> None:
    """Travel until the plan is done.

    The folder keeps every attempt in `ledger.jsonl`, the model of each finished cycle, `sessions.json`, in which each
    time that the run was under way has its times and traffic, and in the end `end.npz`, the last model, which says that
    all is there. What ended a run before its time is in `fault.json`.

    Parameters
    ----------
    folder : path
        From `write_task`. One that holds part of the run is continued: finished cycles from their model, the one under
        way is gone through again and compared with the ledger.
    connect : callable
        Returns the link to the sites.
    """
    (folder / FAULT).unlink(missing_ok=True)
    try:
        _travel(folder, connect)
    except CenterError as error:
        _note_fault(folder, error.place, str(error).removeprefix(f"{error.place}: "))
        raise
    except Exception as error:
        _note_fault(folder, None, f"{type(error).__name__}: {error}")
        raise


def _travel(folder: Path, connect: Callable[[Terms], Link]) -> None:
    session = _Session(folder)
    task, terms = read_task(folder)
    numbers = range(task.first, len(task.learning_rates))
    behind = list(takewhile(lambda number: model_path(folder, number).exists(), numbers))
    start = Start.load(model_path(folder, behind[-1])) if behind else task.start
    patient = terms.on_fault == "continue"
    declared = _read_declared(folder)
    options = {"batch_size": task.batch_size, "declared": declared, "patient": patient}
    link = ClockedLink(connect(terms))
    engine = RemoteCenters(link, start, **options, **_read_scale(task))
    session.watch(engine, link)
    _check_parties(engine)
    # who was not there when the run began is not in its plan, whatever is to become of faults from here on
    cycles = _plan(task, engine, patient=patient or declared is not None)
    write_json(folder / DECLARED, {center: asdict(of) for center, of in engine.centers.items()})
    ledger = Ledger(folder / LEDGER)
    _note_missing(task, engine, ledger)
    session.write(opened=time.time(), batches=sum(len(visit.batches) for cycle in cycles for visit in cycle.visits))
    engine.cycle = len(behind)
    engine.rehearse(len(cycles[0].visits[0].batches[0]))

    def keep(cycle: int, counts: object) -> None:
        path = model_path(folder, cycle)
        if not path.exists():  # it does after the closing revisit, whose model is that of the end
            with (folder / LEDGER).open("r+b") as stream:  # no model without the lines that led to it
                os.fsync(stream.fileno())
            replace(start, arrays=engine.arrays).save(path)
        session.write()

    options = {"rule": task.rule, "revisit_after": task.revisit_after, "completed": len(behind)}
    options["on_fault"] = terms.on_fault
    try:
        travel(engine, cycles, ledger=ledger, after_cycle=keep, progress=False, **options)
    finally:
        session.write(ended=time.time())
    replace(start, arrays=engine.arrays).save(folder / END)


def model_path(folder: Path, cycle: int) -> Path:
    """Return the file of the model after a cycle."""
    return folder / f"cycle-{cycle:03d}.npz"


def read_sessions(folder: Path) -> list[dict[str, Any]]:
    """Return what is known of each time that the run was under way: `begun`, `opened` and `ended`, in seconds since
    1970, `batches` of the plan, `traffic` as `count_traffic` counts it, and by call the seconds `waited` for answers;
    what was not reached is missing."""
    path = folder / SESSIONS
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


class _Session:
    """One time that the run is under way, kept with those before it."""

    def __init__(self, folder: Path) -> None:
        self._path, self._rows, self._watched = folder / SESSIONS, [*read_sessions(folder), {}], {}
        self.write(begun=time.time())

    def watch(self, engine: RemoteCenters, link: ClockedLink) -> None:
        self._watched = {"traffic": engine.traffic, "waited": link.seconds}

    def write(self, **known: float) -> None:
        self._rows[-1] |= known | self._watched
        write_json(self._path, self._rows)


def _read_scale(task: Task) -> dict[str, Any]:
    if task.scale is None:
        return {"scale": None, "reference": math.nan}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "scale.npz"
        path.write_bytes(task.scale)
        return {"scale": task.scale, "reference": GradientScale.load(path).reference}


def _read_declared(folder: Path) -> dict[str, Declared] | None:
    """Return what the centers declared when the run began; None where it begins."""
    path = folder / DECLARED
    if not path.exists():
        return None
    note = json.loads(path.read_text(encoding="utf-8"))
    return {center: Declared(**of | {"train": tuple(of["train"])}) for center, of in note.items()}


def _note_missing(task: Task, engine: RemoteCenters, ledger: Ledger) -> None:
    """Write down, as a run begins, which centers it begins without: they are not in its plan."""
    if len(ledger) or ledger.presences:
        return
    reason = "; ".join(str(error) for error in engine.missing.values()) or "no site declares training subjects of it"
    names = engine.missing if task.centers is None else [name for name in task.centers if name not in engine.centers]
    for name in names:
        ledger.note_presence(cycle=task.first, stage="control", center=name, present=False, reason=reason)


def _check_parties(engine: RemoteCenters) -> None:
    """Raise the error of the sites that did not open unless the others can do without them: nothing is settled yet, and
    another time all may be there."""
    n_train = sum(len(of.train) for of in engine.centers.values())
    n_neg, n_pos = (sum(getattr(of, name) for of in engine.centers.values()) for name in ("n_neg", "n_pos"))
    if engine.missing and not (n_train and n_neg and n_pos):
        error = join_errors(engine.missing.values())
        left = f"{n_train} training subjects, and {n_neg} controls and {n_pos} diseased subjects to verify the model"
        raise SiteError(error.sites, f"{error.what}; without them there are {left}")


def _plan(task: Task, engine: RemoteCenters, *, patient: bool) -> list[Cycle]:
    """Return the cycles to travel through, drawn from the centers in the order of the task."""
    subjects = engine.group_subjects()
    if task.centers is not None:
        for center in task.centers:
            if center not in subjects and not patient:
                raise CenterError(f"center {center!r}", "no site declares training subjects of it")
        for center in subjects:
            if center not in task.centers:
                raise CenterError(f"center {center!r}", f"{engine.centers[center].site!r} declares it, the task not")
        subjects = {center: subjects[center] for center in task.centers if center in subjects}
    options = {"learning_rates": task.learning_rates, "batch_size": task.batch_size, "seed": task.seed}
    return [cycle for cycle in plan_cycles(subjects, **options) if cycle.number >= task.first]


def _note_fault(folder: Path, place: str | None, what: str) -> None:
    write_json(folder / FAULT, {"place": place, "what": what})
