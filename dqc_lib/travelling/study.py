"""A study: one pre-training, and the arms that start from it; every run in a folder of its own, computed once."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from hashlib import file_digest, sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from dqc_lib.cohort import Cohort, check_roles
from dqc_lib.fisher import GradientScale
from dqc_lib.ledger import Ledger
from dqc_lib.networks import build_sfcn, load_sfcn
from dqc_lib.quality import CalibratedRule, PublishedRule, Rule
from dqc_lib.travelling.local import LocalCenters
from dqc_lib.travelling.loop import travel, watch
from dqc_lib.travelling.plan import Schedule
from dqc_lib.travelling.runs import Arm, RunFolder
from dqc_lib.volumes import VolumeCache

ARMS = ("clean", "dirty", "qc")
RULES = ("calibrated", "published")
METHOD = 2
"""Raised whenever the same settings would give another run, so that folders of before are not taken for it."""
FAR = 10  # times the largest watched update norm, from where on limits are worth a warning
SCALE = "scale.npz"  # of the watched cycle, in the folder of the pre-training


class Study:
    """One cohort, one schedule; a pre-training and the arms that start from it.

    Harmful subjects are left out of the pre-training, as in the paper, of the watched cycle that ends it, from which
    the calibrated rule takes its limits, and of the clean arm; that is all the ground truth is used for. A cohort
    without the column `harm` is pre-trained and watched with whatever harm it holds. All arms share order, schedule
    and seeds. Each run is computed once and read from its folder the next time.

    What `check_roles` finds worth saying, such as centers that cannot verify, is logged as a warning when the study is
    made.

    Parameters
    ----------
    cohort : Cohort
        With roles, and with the column `harm` where harm is known.
    schedule : Schedule
    folder : path
        Runs go into subfolders named after the arm and a fingerprint of all that determines it.
    progress : bool
        Show progress bars.
    """

    def __init__(
        self,
        cohort: Cohort,
        *,
        schedule: Schedule | None = None,
        folder: str | Path = "build/runs",
        progress: bool = True,
    ) -> None:
        for note in check_roles(cohort):
            logging.getLogger(__name__).warning(note)
        self.cohort, self.schedule, self.folder, self.progress = cohort, schedule or Schedule(), Path(folder), progress
        self.plan = self.schedule.plan(cohort)
        self.volumes = VolumeCache(cohort.table.set_index("subject")["path"].to_dict())
        self._contents: dict[tuple[str, int, int], str] = {}

    def pretrain(self) -> Arm:
        """Return the pre-training: warm cycles, frozen normalization, calm cycles, and a watched cycle for the
        calibrated rule."""
        run = self._open("pretraining")
        if not run.finished:
            self.volumes.check()
            schedule = self.schedule
            model = build_sfcn(self.volumes.shape, width=schedule.width, dropout=schedule.dropout, seed=schedule.seed)
            engine = LocalCenters(self.cohort, model, volumes=self.volumes)
            ledger = Ledger(run.ledger_path)
            cycles = self.plan[: schedule.pretraining_cycles]
            self._travel(
                run, engine, cycles[: schedule.warm_cycles], ledger=ledger, stage="pretraining", arm="pretraining"
            )
            engine.freeze(exclude=self.cohort.harmful)
            self._travel(
                run, engine, cycles[schedule.warm_cycles :], ledger=ledger, stage="pretraining", arm="pretraining"
            )
            engine.save(self._start_path(run))
            watch(engine, self.plan[-1], exclude=self.cohort.harmful, ledger=ledger, progress=self.progress)
            engine.scale.save(run.path / SCALE)
            run.finish()
        return self._read("pretraining", run)

    def run(self, arm: str, *, rule: Rule | str | None = None, name: str | None = None) -> Arm:
        """Return an arm, computed if its folder does not hold it yet.

        Parameters
        ----------
        arm : {"clean", "dirty", "qc"}
            Without the harmful subjects; with them, unguarded; with them under quality control.
        rule : Rule or "calibrated" or "published"
            Of the arm "qc". "calibrated" takes its limits from the watched cycle.
        name : str, optional
            What figures and tables call it; the arm's name if not given.
        """
        if arm not in ARMS:
            raise ValueError(f"arm must be one of {ARMS}, got {arm!r}")
        if (rule is None) == (arm == "qc"):
            raise ValueError(f"arm {arm!r} needs {'a rule' if arm == 'qc' else 'no rule'}, got {rule!r}")
        if isinstance(rule, str) and rule not in RULES:
            raise ValueError(f"rule must be 'calibrated', 'published' or a rule, got {rule!r}")
        start = self.pretrain()
        rule = self.make_rule(rule) if isinstance(rule, str) else rule
        run = self._open(name or arm, arm=arm, rule=rule)
        if not run.finished:
            engine = self.open_engine(measure=rule is not None)
            ledger = Ledger(run.ledger_path)
            exclude = self.cohort.harmful if arm == "clean" else ()
            cycles = self.plan[self.schedule.pretraining_cycles :]
            self._travel(
                run, engine, cycles, ledger=ledger, stage="control", arm=name or arm, rule=rule, exclude=exclude
            )
            run.finish()
        read = self._read(name or arm, run)
        return Arm(
            read.name, read.ledger, pd.concat([start.predictions.assign(arm=read.name), read.predictions]), read.folder
        )

    def make_rule(self, name: str, **options: Any) -> Rule:
        """Return a rule by name: "calibrated", with limits from the watched cycle, or "published"."""
        if name not in RULES:
            raise ValueError(f"rule must be 'calibrated' or 'published', got {name!r}")
        if name == "published":
            return PublishedRule(**options)
        ledger = self.pretrain().ledger
        watched = ledger[ledger["stage"] == "watch"]
        rule = CalibratedRule.from_watch(watched, **options)
        above = min(rule.limits.values()) / watched["update_norm"].max()
        if above > FAR:
            logging.getLogger(__name__).warning(
                f"The limits of the calibrated rule lie {above:.0f} times above the largest watched update: they can "
                "hardly flag anything; a longer pre-training or more subjects would steady them."
            )
        return rule

    def open_engine(self, *, measure: bool = False) -> LocalCenters:
        """Return the centers with the pre-trained model, ready for an arm; with `measure`, updates are measured."""
        self.pretrain()
        run = self._open("pretraining")
        engine = LocalCenters(self.cohort, load_sfcn(self._start_path(run)), volumes=self.volumes)
        if measure:
            engine.scale = GradientScale.load(run.path / SCALE)
        return engine

    def _travel(self, run: RunFolder, engine: LocalCenters, cycles, *, arm: str, exclude=None, **options) -> None:
        travel(
            engine,
            cycles,
            exclude=self.cohort.harmful if exclude is None else exclude,
            revisit_after=self.schedule.revisit_after,
            after_cycle=lambda cycle: run.record_cycle(engine, arm=arm, cycle=cycle),
            progress=self.progress,
            **options,
        )

    def _start_path(self, run: RunFolder) -> Path:
        return run.path / "pretrained.keras"

    def _open(self, name: str, *, arm: str | None = None, rule: Rule | None = None) -> RunFolder:
        table = self.cohort.table.drop(columns="path").assign(
            image=[self._hash_file(Path(path)) for path in self.cohort.table["path"]]
        )
        settings = {
            "name": name,
            "arm": arm,
            "rule": repr(rule),
            "schedule": asdict(self.schedule),
            "versions": {name: version(name) for name in ("dqc-lib", "keras")} | {"method": METHOD},
            "cohort": sha256(table.to_csv(index=False).encode()).hexdigest(),
        }
        mark = sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
        return RunFolder(self.folder / f"{name}-{mark}", settings)

    def _hash_file(self, path: Path) -> str:
        """Return the fingerprint of an image's bytes, computed anew only when the file was written again."""
        if not path.is_file():
            return "missing"
        state = path.stat()
        key = (str(path), state.st_size, state.st_mtime_ns)
        if key not in self._contents:
            with path.open("rb") as stream:
                self._contents[key] = file_digest(stream, "sha256").hexdigest()
        return self._contents[key]

    def _read(self, name: str, run: RunFolder) -> Arm:
        return Arm(name, Ledger.read(run.ledger_path).to_frame(), run.read_predictions(), run.path)
