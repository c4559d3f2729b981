"""A study: one pre-training, and the arms that start from it; every run in a folder of its own, computed once."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection
from dataclasses import asdict, replace
from hashlib import file_digest, sha256
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from dqc_lib.arguments import require_kind, require_names, require_path, require_text
from dqc_lib.cohort import Cohort, check_roles
from dqc_lib.fisher import GradientScale
from dqc_lib.ledger import Ledger
from dqc_lib.networks import build_sfcn, load_sfcn, name_backend
from dqc_lib.quality import CalibratedRule, Counts, PublishedRule, Rule
from dqc_lib.quality.rules import check_rule, describe_rule
from dqc_lib.travelling.local import LocalCenters, check_verifying
from dqc_lib.travelling.loop import travel
from dqc_lib.travelling.plan import Schedule
from dqc_lib.travelling.runs import Arm, RunFolder, write_aside
from dqc_lib.travelling.watching import watch
from dqc_lib.volumes import VolumeCache

if TYPE_CHECKING:
    import keras

ARMS = ("clean", "dirty", "qc")
RULES = ("calibrated", "guaranteed", "published")
STARTS = ("good", "all")
METHOD = 7
"""Raised whenever the same settings would give another run, so that folders of before are not taken for it."""
FAR = 10  # times the largest watched update norm, from where on limits are worth a warning
PRETRAINING = "pretraining"
LONGEST_NAME = 200  # bytes; file systems allow 255 for it and the fingerprint
SCALE = "scale.npz"  # of the watched cycle, in the folder of the pre-training


class Study:
    """One cohort, one schedule; a pre-training and the arms that start from it.

    The pre-training, and the watched cycle that ends it, from which the calibrated rule takes its limit, use the
    subjects that `pretrain_on` says. All arms share order, schedule and seeds. Each run is computed once and read from
    its folder the next time; one that was cut short is continued, to the same end. After every cycle all centers verify
    the model, and an arm whose errors stand beyond chance above those of the pre-training in the end is warned of
    (`Arm.drift` tells every cycle).

    What `check_roles` finds worth saying, such as centers that cannot verify, is logged as a warning when the study is
    made.

    Parameters
    ----------
    cohort : Cohort
        With roles, and with the column `harm` where harm is known.
    schedule : Schedule
    folder : path
        Runs go into subfolders named after the arm and a fingerprint of all that determines it.
    pretrain_on : "good", "all" or collection of str
        Training subjects of the pre-training. "good": all but those that the column `harm` marks, as in the paper;
        that, and the clean arm, is all the ground truth is used for. "all": whatever harm there is, is there from the
        first cycle on; so it is too where the cohort has no column `harm`. Or the subjects themselves: those of
        centers that are trusted, or all but those that an earlier study eliminated.
    verifying : "full", "certain" or "nearest"
        How an arm's attempts are verified, see `LocalCenters`; centers that share counts alone can only do "full".
    progress : bool
        Show progress bars.
    """

    def __init__(
        self,
        cohort: Cohort,
        *,
        schedule: Schedule | None = None,
        folder: str | Path = "build/runs",
        pretrain_on: str | Collection[str] = "good",
        verifying: str = "full",
        progress: bool = True,
    ) -> None:
        if schedule is not None:
            require_kind("schedule", schedule, Schedule, such_as="Schedule(control_cycles=8)")
        folder = require_path("folder", folder)
        for note in check_roles(cohort):
            logging.getLogger(__name__).warning(note)
        self.cohort, self.schedule, self.folder, self.progress = cohort, schedule or Schedule(), folder, progress
        self.plan = self.schedule.plan(cohort)
        self.held_back, self.verifying = _hold_back(cohort, pretrain_on), check_verifying(verifying)
        self.volumes = VolumeCache(cohort.table.set_index("subject")["path"].to_dict())
        self._contents: dict[tuple[str, int, int], str] = {}

    def pretrain(self) -> Arm:
        """Return the pre-training: warm cycles, frozen normalization, calm cycles, and a watched cycle for the
        calibrated rule."""
        run = self._open(PRETRAINING)
        if not run.finished:
            with run.open():
                self._compute_pretraining(run)
        return self._read(PRETRAINING, run)

    def _compute_pretraining(self, run: RunFolder) -> None:
        if run.finished:  # by the process that had it open
            return
        self.volumes.check()
        schedule, ledger, start = self.schedule, Ledger(run.ledger_path), self._start_path(run)
        cycles = self.plan[: schedule.pretraining_cycles]
        warm, done = schedule.warm_cycles, run.count_completed(cycles)
        options = {"ledger": ledger, "stage": PRETRAINING, "arm": PRETRAINING, "exclude": self.held_back}
        if start.exists():
            engine = self._make_engine(load_sfcn(start))
        else:
            engine = self._make_engine(load_sfcn(run.model_path(cycles[done - 1].number)) if done else self._build())
            self._travel(run, engine, cycles[:warm], completed=min(done, warm), **options)
            if done <= warm:
                engine.freeze(exclude=self.held_back)
            self._travel(run, engine, cycles[warm:], completed=max(done - warm, 0), **options)
            if cycles and not schedule.calm_cycles:  # the last cycle came before the normalization was frozen
                run.record_cycle(engine, arm=PRETRAINING, cycle=cycles[-1].number)
            write_aside(start, engine.save)
        watch(engine, self.plan[-1], exclude=self.held_back, ledger=ledger, progress=self.progress)
        write_aside(run.path / SCALE, engine.scale.save)
        run.finish()

    def _build(self) -> keras.Model:
        options = {name: getattr(self.schedule, name) for name in ("width", "dropout", "seed", "precision")}
        return build_sfcn(self.volumes.shape, **options)

    def run(self, arm: str, *, rule: Rule | str | None = None, name: str | None = None) -> Arm:
        """Return an arm, computed if its folder does not hold it yet.

        Parameters
        ----------
        arm : {"clean", "dirty", "qc"}
            Without the harmful subjects; with them, unguarded; with them under quality control.
        rule : Rule or "calibrated" or "guaranteed" or "published"
            Of the arm "qc"; see `make_rule`. "calibrated" is the one to use.
        name : str, optional
            What figures and tables call it, and its folder begins with; the arm's name if not given.

        Raises
        ------
        ValueError, TypeError
            If the arm, the rule or the name cannot be; if a file of a finished run is damaged, which it names.
        """
        if arm not in ARMS:
            raise ValueError(f"arm must be one of {ARMS}, got {arm!r}")
        if (rule is None) == (arm == "qc"):
            raise ValueError(f"arm {arm!r} needs {'a rule' if arm == 'qc' else 'no rule'}, got {rule!r}")
        if isinstance(rule, str) and rule not in RULES:
            raise ValueError(f"rule must be a rule or one of {RULES}, got {rule!r}")
        if not (rule is None or isinstance(rule, str)):
            check_rule(rule)
        if name is not None:
            _check_name(name)
        start = self.pretrain()
        floor = _read_floor(start)
        if arm == "qc" and floor is not None and floor.one_call:
            logging.getLogger(__name__).warning(
                f"The pre-trained model calls every verification subject {floor.one_call}: it has not settled, and "
                "what is unusual to it can change as it moves on, so that harmful images are missed. Another length of "
                "the pre-training, or another learning rate, may help."
            )
        rule = self.make_rule(rule) if isinstance(rule, str) else rule
        run = self._open(name or arm, arm=arm, rule=rule)
        if not run.finished:
            with run.open():
                exclude = self.cohort.harmful if arm == "clean" else ()
                self._compute_arm(run, arm=name or arm, rule=rule, exclude=exclude)
        read = self._read(name or arm, run)
        predictions = pd.concat([start.predictions.assign(arm=read.name), read.predictions])
        arm = replace(read, predictions=predictions, floor=floor)
        for row in arm.drift.tail(1).query("risen != ''").itertuples():  # what rose and fell again is no decay
            logging.getLogger(__name__).warning(
                f"The model of the arm {arm.name!r} has drifted: after the last cycle, {row.cycle}, it makes more "
                f"{row.risen} than the pre-trained model, beyond chance."
            )
        return arm

    def _compute_arm(self, run: RunFolder, *, arm: str, rule: Rule | None, exclude: Collection[str]) -> None:
        if run.finished:  # by the process that had it open
            return
        cycles = self.plan[self.schedule.pretraining_cycles :]
        done = run.count_completed(cycles)
        start = run.model_path(cycles[done - 1].number) if done else None
        engine = self.open_engine(measure=rule is not None and "update norm" in rule.asks, path=start)
        options = {"exclude": exclude, "completed": done, "look_again": self.verifying != "full"}
        self._travel(
            run, engine, cycles, ledger=Ledger(run.ledger_path), stage="control", arm=arm, rule=rule, **options
        )
        run.finish()

    def make_rule(self, name: str, **options: Any) -> Rule:
        """Return a rule by name.

        "calibrated" has its limits from the watched cycle (`CalibratedRule.from_watch`), "guaranteed" that of a bound
        on the chance to eliminate a good image (`CalibratedRule.with_guarantee`), and "published" a tolerance
        (`PublishedRule`). Options are handed on.
        """
        if name not in RULES:
            raise ValueError(f"rule must be one of {RULES}, got {name!r}")
        if name == "published":
            return PublishedRule(**options)
        ledger = self.pretrain().ledger
        watched = ledger[ledger["stage"] == "watch"]
        if name == "guaranteed":
            return CalibratedRule.with_guarantee(watched, **{"looks": self.schedule.looks} | options)
        rule = CalibratedRule.from_watch(watched, **options)
        above = rule.limit / watched["update_norm"].max()
        if above > FAR:
            logging.getLogger(__name__).warning(
                f"The limit of the calibrated rule lies {above:.0f} times above the largest watched update: it can "
                "hardly flag anything; a longer pre-training or more subjects would steady it."
            )
        return rule

    def open_engine(self, *, measure: bool = False, path: Path | None = None) -> LocalCenters:
        """Return the centers with the pre-trained model, or the one saved at `path`, ready for an arm; with `measure`,
        updates are measured."""
        self.pretrain()
        run = self._open(PRETRAINING)
        engine = self._make_engine(load_sfcn(path or self._start_path(run)), verifying=self.verifying)
        if measure:
            engine.scale = GradientScale.load(run.path / SCALE)
        return engine

    def _make_engine(self, model: keras.Model, *, verifying: str = "full") -> LocalCenters:
        options = {"verifying": verifying, "batch_size": self.schedule.batch_size}
        return LocalCenters(self.cohort, model, volumes=self.volumes, **options)

    def _travel(
        self, run: RunFolder, engine: LocalCenters, cycles, *, arm: str, ledger: Ledger, completed: int, **options
    ) -> None:
        behind = {cycle.number for cycle in cycles[:completed]}
        if behind:
            engine.rehearse(row["n"] for row in ledger if row["stage"] == options["stage"] and row["cycle"] in behind)
        travel(
            engine,
            cycles,
            ledger=ledger,
            completed=completed,
            revisit_after=self.schedule.revisit_after,
            after_cycle=lambda cycle, counts: run.record_cycle(engine, arm=arm, cycle=cycle, counts=counts),
            progress=self.progress,
            **options,
        )

    def _start_path(self, run: RunFolder) -> Path:
        return run.path / "pretrained.keras"

    def _open(self, name: str, *, arm: str | None = None, rule: Rule | None = None) -> RunFolder:
        settings = {
            "name": name,
            "arm": arm,
            "rule": repr(rule) if rule is None else describe_rule(rule),
            "schedule": asdict(self.schedule),
            "held_back": sorted(self.held_back),
            "versions": {name: version(name) for name in ("dqc-lib", "keras")} | {"method": METHOD},
            "backend": name_backend(),
            "cohort": self.fingerprint_cohort(arm),
            "order": self.fingerprint_order(),
        }
        if rule is not None:
            settings["verifying"] = self.verifying
        mark = sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
        return RunFolder(self.folder / f"{name}-{mark}", settings)

    def fingerprint_cohort(self, arm: str | None) -> str:
        """Return the fingerprint (SHA-256) of all that an arm, or for None the pre-training, can see of the cohort:
        table and images."""
        table = self.cohort.table
        if arm is None:
            # what it does not see does not change it, so that cohorts with other harm share it
            table = table[~table["subject"].isin(self.held_back)].drop(columns=["harm", "placement"], errors="ignore")
        images = [self._hash_file(Path(path)) for path in table["path"]]
        return sha256(table.drop(columns="path").assign(image=images).to_csv(index=False).encode()).hexdigest()

    def fingerprint_order(self) -> str:
        """Return the fingerprint (SHA-256) of who is visited when."""
        return sha256(repr(self.plan).encode()).hexdigest()

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
        ledger = Ledger.read(run.ledger_path).to_frame()
        return Arm(name, ledger, run.read_predictions(), run.read_verification(), run.path)


def _check_name(name: str) -> None:
    """Raise unless a folder's name can begin with the name of a run."""
    require_text("name", name)
    if name != name.strip() or name[:1] in ("", ".") or not name.isprintable() or {"/", "\\"} & set(name):
        raise ValueError(
            "name must be one that a folder can have, without '/', '\\' or control characters, and beginning neither "
            f"with a dot nor with a space, got {name!r}"
        )
    if len(name.encode()) > LONGEST_NAME:
        raise ValueError(f"name must take at most {LONGEST_NAME} bytes, as a folder's, got {len(name.encode())}")


def _read_floor(start: Arm) -> Counts | None:
    """Return the verification counts of the pre-trained model, None if there was no pre-training."""
    if start.verification.empty:
        return None
    last = start.verification.iloc[-1]
    return Counts(*(int(last[name]) for name in ("fp", "n_neg", "fn", "n_pos")))


def _hold_back(cohort: Cohort, pretrain_on: str | Collection[str]) -> frozenset[str]:
    """Return the training subjects that the pre-training leaves out."""
    train = frozenset(cohort.table.loc[cohort.table["role"] == "train", "subject"])
    if isinstance(pretrain_on, str):
        if pretrain_on not in STARTS:
            raise ValueError(f"pretrain_on must be one of {STARTS} or a collection of subjects, got {pretrain_on!r}")
        return cohort.harmful & train if pretrain_on == "good" else frozenset()
    named = frozenset(require_names("pretrain_on", pretrain_on))
    if unknown := sorted(named - train):
        raise ValueError(f"pretrain_on must name training subjects of the cohort; these are not: {unknown[:12]}")
    if not named:
        raise ValueError("pretrain_on must name at least one training subject, got none")
    return train - named
