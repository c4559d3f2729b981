"""What a federated run is to do, as a value and as the files that the server finds it in."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

from dqc_lib.arguments import require_kind, require_names, require_number
from dqc_lib.aside import is_aside, write_aside, write_json
from dqc_lib.federation.weights import Start
from dqc_lib.notes import read_note
from dqc_lib.quality import CalibratedRule, PublishedRule, Rule
from dqc_lib.travelling import Study, group_by_center
from dqc_lib.travelling.study import SCALE

RULES = {"published": PublishedRule, "calibrated": CalibratedRule}
TASK, START = "task.json", "start.npz"
BESIDE = ("run.lock", "run.json", "flare.log")
"""What may lie in a folder before the task does."""
FAULTS = ("stop", "continue")


@dataclass(frozen=True, eq=False)
class Task:
    """The model to set out with, the rule, and who is visited when.

    Parameters
    ----------
    start : Start
    rule : PublishedRule or CalibratedRule
    learning_rates : sequence of float
        One per cycle, from cycle 0 on.
    first : int
        The cycle to begin with; those before it are the pre-training's.
    batch_size, seed
        See `plan_cycles`.
    revisit_after : int
        See `travel`.
    scale : bytes, optional
        The file of the `GradientScale` that update norms are measured against; without it nothing is measured.
    centers : sequence of str, optional
        All that train, in the order that the plan is drawn from; if not given, that of the sites and their tables.
    """

    start: Start
    rule: Rule
    learning_rates: Sequence[float]
    first: int = 0
    batch_size: int = 5
    seed: int = 0
    revisit_after: int = 2
    scale: bytes | None = None
    centers: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if type(self.rule) not in RULES.values():
            names = " or ".join(kind.__name__ for kind in RULES.values())
            raise TypeError(f"rule must be a {names}, which the server can be told of, got {self.rule!r}")
        if "update norm" in self.rule.asks and self.scale is None:
            raise ValueError("the rule asks for update norms; expected a scale to measure them against, got none")

    @classmethod
    def of(cls, study: Study, rule: Rule | str = "calibrated", **options: Any) -> Task:
        """Return what the arm "qc" of a study does, which is pre-trained if it is not yet.

        Parameters
        ----------
        study : Study
            With `verifying="full"`, as centers that share counts alone can only do.
        rule : Rule or str
            A rule, or the name of one for `Study.make_rule`, which gets the options.
        """
        require_kind("study", study, Study, such_as="Study(cohort)")
        if study.verifying != "full":
            raise ValueError(f"verifying must be 'full' where centers share counts alone, got {study.verifying!r}")
        rule = study.make_rule(rule, **options) if isinstance(rule, str) else rule
        measures = "update norm" in rule.asks
        schedule = study.schedule
        return cls(
            Start.of(study.open_engine().model),
            rule,
            learning_rates=[cycle.learning_rate for cycle in study.plan],
            first=schedule.pretraining_cycles,
            batch_size=schedule.batch_size,
            seed=schedule.seed,
            revisit_after=schedule.revisit_after,
            scale=(study.pretrain().folder / SCALE).read_bytes() if measures else None,
            centers=list(group_by_center(study.cohort)),
        )

    def describe(self) -> dict[str, Any]:
        """Return all that determines the run, JSON-compatible; model and scale by their fingerprints (SHA-256)."""
        plain = ("learning_rates", "first", "batch_size", "seed", "revisit_after", "centers")
        described = {name: getattr(self, name) for name in plain}
        described["rule"] = {"name": _name_rule(self.rule), "options": _list_options(self.rule)}
        described["scale"] = None if self.scale is None else sha256(self.scale).hexdigest()
        mark = sha256(json.dumps(self.start.design, sort_keys=True).encode())
        for array in self.start.arrays:
            mark.update(array.tobytes())
        return json.loads(json.dumps(described | {"start": mark.hexdigest()}))


@dataclass(frozen=True)
class Terms:
    """How the server deals with the sites. All but the sites may be otherwise when a run is continued.

    Parameters
    ----------
    sites : sequence of str
    on_fault : "stop" or "continue"
        What to do when a center does not answer, or answers with what cannot be used: end the run, which can be
        resumed, or go on without the center.
    seconds, opening : float
        How long a site may take to answer a call, and to make itself ready.
    """

    sites: Sequence[str]
    on_fault: str = "stop"
    seconds: float = 120.0
    opening: float = 300.0

    def __post_init__(self) -> None:
        if not require_names("sites", self.sites):
            raise ValueError("sites must name at least one site, got none")
        if self.on_fault not in FAULTS:
            raise ValueError(f"on_fault must be one of {FAULTS}, got {self.on_fault!r}")
        for name in ("seconds", "opening"):
            require_number(name, getattr(self, name))
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"{name} must be a finite number > 0, got {getattr(self, name)!r}")


def check_folder(folder: Path, task: Task) -> bool:
    """Return whether a folder holds this task already; raise a ValueError if it holds another, or other files."""
    if (folder / TASK).exists():
        found = read_note(folder / TASK, of="a federated run", keys={"task": dict, "terms": dict})["task"]
        wanted = task.describe()
        keys = [key for key in sorted({*found, *wanted}) if _as_text(found.get(key)) != _as_text(wanted.get(key))]
        if keys:
            raise ValueError(f"{folder} holds another run, with other {', '.join(keys)}; choose another folder")
        return True
    if folder.exists() and any(not is_aside(file) and file.name not in BESIDE for file in folder.iterdir()):
        raise ValueError(f"{folder} holds files that are not a federated run (no {TASK}); choose an empty folder")
    return False


def write_task(folder: Path, task: Task, terms: Terms) -> None:
    """Write what the server needs for a run into its folder, made if missing.

    Raises
    ------
    ValueError
        If the folder holds another run, or files that are none.
    """
    check_folder(folder, task)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / TASK, {"task": task.describe(), "terms": asdict(terms)})
    task.start.save(folder / START)
    if task.scale is not None:
        write_aside(folder / SCALE, lambda aside: aside.write_bytes(task.scale))


def read_task(folder: Path) -> tuple[Task, Terms]:
    """Return what `write_task` wrote."""
    note = read_note(folder / TASK, of="a federated run", keys={"task": dict, "terms": dict})
    described = {key: value for key, value in note["task"].items() if key not in ("start", "scale", "rule")}
    options, name = note["task"]["rule"]["options"], note["task"]["rule"]["name"]
    options |= {key: frozenset(value) for key, value in options.items() if isinstance(value, list)}
    scale = None if note["task"]["scale"] is None else (folder / SCALE).read_bytes()
    return Task(Start.load(folder / START), RULES[name](**options), scale=scale, **described), Terms(**note["terms"])


def _name_rule(rule: Rule) -> str:
    return next(name for name, kind in RULES.items() if type(rule) is kind)


def _list_options(rule: Rule) -> dict[str, Any]:
    values = {field.name: getattr(rule, field.name) for field in fields(rule)}
    return {name: sorted(value) if isinstance(value, frozenset) else value for name, value in values.items()}


def _as_text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)  # in which what is not a number equals itself
