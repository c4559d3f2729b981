"""A study: one pre-training, and the arms that start from it; every run in a folder of its own, computed once."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import file_digest, sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from dqc_lib.cohort import Cohort, check_roles
from dqc_lib.evaluation import COUNTS, METRICS, evaluate_cycles
from dqc_lib.fisher import GradientScale
from dqc_lib.ledger import Ledger, summarize_subjects
from dqc_lib.networks import build_sfcn, load_sfcn
from dqc_lib.quality import CalibratedRule, PublishedRule, Rule
from dqc_lib.travelling.local import LocalCenters, predict_subjects
from dqc_lib.travelling.loop import travel, watch
from dqc_lib.travelling.plan import Schedule
from dqc_lib.volumes import VolumeCache

ARMS = ("clean", "dirty", "qc")
RULES = ("calibrated", "published")
METHOD = 2
"""Raised whenever the same settings would give another run, so that folders of before are not taken for it."""
FAR = 10  # times the largest watched update norm, from where on limits are worth a warning
SCALE = "scale.npz"  # of the watched cycle, in the folder of the pre-training


class RunFolder:
    """Everything one run leaves: settings, ledger, predictions on the test subjects and the model of each cycle.

    Parameters
    ----------
    path : path
        Made if missing.
    settings : mapping
        JSON-compatible description of the run. A folder that holds a run with other settings is refused; one that
        holds this run unfinished is begun anew; one that holds it finished is left as it is.

    Raises
    ------
    ValueError
        If the folder holds another run, or files that are none.
    """

    def __init__(self, path: str | Path, settings: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self._note = self.path / "run.json"
        wanted = json.loads(json.dumps(settings))
        if self._note.exists():
            found = json.loads(self._note.read_text(encoding="utf-8"))["settings"]
            if found != wanted:
                keys = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
                raise ValueError(
                    f"{self.path} holds another run, with other {', '.join(keys)}; choose another folder or remove it"
                )
        elif self.path.exists() and any(file.name != "run.partial" for file in self.path.iterdir()):
            raise ValueError(f"{self.path} holds files that are not a run (no run.json); choose an empty folder")
        self._settings = wanted
        if not self.finished:
            self._begin()

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return self._note.exists() and json.loads(self._note.read_text(encoding="utf-8"))["finished"]

    def _begin(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        for name in ("ledger.jsonl", "predictions.csv", *(file.name for file in self.path.glob("cycle-*.keras"))):
            (self.path / name).unlink(missing_ok=True)
        self._write_note(finished=False)

    def finish(self) -> None:
        """Mark the run as complete."""
        self._write_note(finished=True)

    def _write_note(self, *, finished: bool) -> None:
        aside = self._note.with_suffix(".partial")
        aside.write_text(
            json.dumps({"finished": finished, "settings": self._settings}, indent=2) + "\n", encoding="utf-8"
        )
        aside.replace(self._note)

    @property
    def ledger_path(self) -> Path:
        """The ledger's file."""
        return self.path / "ledger.jsonl"

    def model_path(self, cycle: int) -> Path:
        """Return the file of the model after a cycle."""
        return self.path / f"cycle-{cycle:03d}.keras"

    def record_cycle(self, engine: LocalCenters, *, arm: str, cycle: int) -> None:
        """Save the model after a cycle and its scores on the test subjects; a cycle recorded again replaces itself."""
        engine.save(self.model_path(cycle))
        rows = engine.score("test").assign(arm=arm, cycle=cycle)
        before = self.read_predictions().query("cycle != @cycle")
        pd.concat([before, rows] if len(before) else [rows]).to_csv(self.path / "predictions.csv", index=False)

    def read_predictions(self) -> pd.DataFrame:
        """Return the scores on the test subjects by arm and cycle; empty before the first cycle."""
        path = self.path / "predictions.csv"
        if not path.exists():
            return pd.DataFrame({"cycle": pd.Series(dtype=int)})
        names = dict.fromkeys(("subject", "center", "scanner", "arm"), str)  # "007" and "NA" are names too
        return pd.read_csv(path, dtype=names, keep_default_na=False, na_values={"score": [""]})


@dataclass(frozen=True)
class Arm:
    """What one arm of a study came to.

    Parameters
    ----------
    name : str
        "clean", "dirty", "qc", or the name given to the run.
    ledger : DataFrame
        `Ledger.to_frame()`.
    predictions : DataFrame
        Scores on the test subjects by cycle.
    folder : Path
        Where it lies, models of each cycle included.
    """

    name: str
    ledger: pd.DataFrame
    predictions: pd.DataFrame
    folder: Path

    @property
    def history(self) -> pd.DataFrame:
        """Metrics on the test subjects by cycle and subgroup, see `evaluate_cycles`; no rows without test subjects."""
        if self.predictions.empty:
            return pd.DataFrame(columns=["arm", "cycle", "subgroup", "group", *COUNTS, *METRICS])
        return evaluate_cycles(self.predictions)

    @property
    def eliminated(self) -> frozenset[str]:
        """Subjects eliminated for good."""
        summary = summarize_subjects(self.ledger[self.ledger["stage"] != "watch"])
        return frozenset(summary.index[summary["eliminated"]])

    def auroc(self) -> float:
        """Return the test AUROC after the last cycle; NaN where the cohort has no test subjects."""
        rows = self.history.query("subgroup == 'overall'")
        return float(rows.loc[rows["cycle"].idxmax(), "auroc"]) if len(rows) else float("nan")

    def score(self, cohort: Cohort) -> pd.DataFrame:
        """Return how the arm's model of each cycle scores other subjects than those of the study.

        Parameters
        ----------
        cohort : Cohort
            Volumes of the shape that the model was trained on.

        Returns
        -------
        DataFrame
            The columns of `predictions`: one row per subject and cycle of the arm's own, without those before it.

        Raises
        ------
        ValueError, FileNotFoundError
            If the arm trained on one of the subjects, the volumes have another shape, or its models are gone.
        """
        volumes = VolumeCache(cohort.table.set_index("subject")["path"].to_dict())
        rows = cohort.table.drop(columns=["path", "harm", "placement"], errors="ignore")
        met = set(self.ledger["subjects"].explode()) & set(rows["subject"])
        if met:
            raise ValueError(f"the arm {self.name!r} has met {len(met)} of the subjects, {min(met)!r} first")
        paths = sorted(self.folder.glob("cycle-*.keras"))
        if not paths:
            raise FileNotFoundError(f"{self.folder} holds no model of any cycle; expected the folder of a finished run")
        model = load_sfcn(paths[0])
        if tuple(model.input_shape[1:4]) != tuple(volumes.shape):
            raise ValueError(f"the arm's model expects volumes of {model.input_shape[1:4]}, came {volumes.shape}")
        parts = []
        for path in paths:
            model.load_weights(path)  # into the same model, whose graph is built once
            scores = predict_subjects(model, volumes, list(rows["subject"]))
            parts.append(rows.assign(score=scores, arm=self.name, cycle=int(path.stem.removeprefix("cycle-"))))
        return pd.concat(parts, ignore_index=True)


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
