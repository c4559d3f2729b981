"""What a run leaves: its folder, and the arm that is read from it."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import pandas as pd

from dqc_lib.arguments import require_kind, require_path
from dqc_lib.aside import is_aside, write_aside, write_json
from dqc_lib.cohort import Cohort
from dqc_lib.evaluation import COUNTS, METRICS, evaluate_cycles
from dqc_lib.ledger import COUNTS as VERIFICATION_COUNTS
from dqc_lib.ledger import summarize_subjects
from dqc_lib.networks import load_sfcn, load_weights
from dqc_lib.notes import read_note
from dqc_lib.quality import Counts, DriftGuard, add_counts
from dqc_lib.tables import read_table, write_table
from dqc_lib.travelling.batches import predict_subjects
from dqc_lib.travelling.local import LocalCenters
from dqc_lib.travelling.plan import Cycle
from dqc_lib.volumes import VolumeCache

CLOSING, LOCK = "closing.keras", "run.lock"
NOTE = {"settings": dict, "finished": bool}  # what run.json holds
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
UNWRITABLE = FULL | {errno.EACCES, errno.EPERM, errno.EIO}


class RunFolder:
    """Everything one run leaves: settings, ledger, predictions on the test subjects and the model of each cycle.

    Parameters
    ----------
    path : path
        Made if missing.
    settings : mapping
        JSON-compatible description of the run. A folder that holds a run with other settings is refused; what there is
        of this run is left as it is.

    Raises
    ------
    ValueError
        If the folder holds another run, files that are none, or a damaged run.json.
    NotADirectoryError
        If the path, or what should be a folder on the way to it, is a file.
    TypeError
        If a setting is not JSON-compatible.

    Notes
    -----
    Whatever moment a run is cut short at, its folder holds every cycle whose model is there and every attempt whose
    line in the ledger is whole: each file but the ledger is written aside and renamed, a cycle's model last.
    """

    def __init__(self, path: str | Path, settings: Mapping[str, Any]) -> None:
        self.path = require_path("path", path)
        self._note = self.path / "run.json"
        wanted = _copy_settings(settings)
        for place in (self.path, *self.path.parents):
            if place.exists() and not place.is_dir():
                raise NotADirectoryError(f"{place} is a file; expected a folder for runs, or nothing there yet")
        if self._note.exists():
            found = self._read_note()["settings"]
            if found != wanted:
                keys = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
                raise ValueError(
                    f"{self.path} holds another run, with other {', '.join(keys)}; choose another folder or remove it"
                )
        elif self.path.exists() and any(not is_aside(file) and file.name != LOCK for file in self.path.iterdir()):
            raise ValueError(f"{self.path} holds files that are not a run (no run.json); choose an empty folder")
        self._settings = wanted
        if self.finished:
            self._promote_last_model()
        else:
            with self._explain():
                self.path.mkdir(parents=True, exist_ok=True)

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return self._note.exists() and self._read_note()["finished"]

    def _read_note(self) -> dict[str, Any]:
        return read_note(self._note, of="a run", keys=NOTE)

    @contextmanager
    def open(self) -> Iterator[None]:
        """Keep other processes off the folder, and say what is kept if it cannot be written any more.

        Raises
        ------
        RuntimeError
            If another process is computing this run.
        OSError
            If a file cannot be written; the message says what is kept.
        """
        from filelock import FileLock, Timeout

        try:
            with self._explain(), FileLock(self.path / LOCK, timeout=0):
                if not self._note.exists():
                    self._write_note(finished=False)
                yield
        except Timeout:
            raise RuntimeError(
                f"{self.path}: another process is computing this run; wait for it, or choose another folder"
            ) from None

    @contextmanager
    def _explain(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            unnamed = error.filename is None and error.errno in FULL  # which can only be of something written
            if not (unnamed or error.errno in UNWRITABLE and self._holds(error.filename)):
                raise  # an image that cannot be read, say
            n = self.ledger_path.read_bytes().count(b"\n") if self.ledger_path.is_file() else 0
            kept = f"{n} attempts and the models of {len(list_models(self.path))} cycles are kept"
            raise OSError(
                error.errno, f"{self.path}: {error}; {kept}: run it again when the folder can be written"
            ) from error

    def _holds(self, path: str | None) -> bool:
        return path is not None and Path(path).absolute().is_relative_to(self.path.absolute())

    def count_completed(self, cycles: Sequence[Cycle]) -> int:
        """Return how many of the cycles, from the first on, have left their model."""
        return sum(1 for _ in takewhile(lambda cycle: self.model_path(cycle.number).exists(), cycles))

    def finish(self) -> None:
        """Mark the run as complete."""
        self._write_note(finished=True)
        self._promote_last_model()

    def _promote_last_model(self) -> None:
        """Give the model of the closing revisit the place of the last cycle's, which had to stay until the end: from it
        the closing revisit could be gone through again."""
        for last in list_models(self.path)[-1:]:
            with suppress(FileNotFoundError):  # there was none, or another process that reads the run was first
                (self.path / CLOSING).replace(last)

    def _write_note(self, *, finished: bool) -> None:
        write_json(self._note, {"finished": finished, "settings": self._settings})

    @property
    def ledger_path(self) -> Path:
        """The ledger's file."""
        return self.path / "ledger.jsonl"

    def model_path(self, cycle: int) -> Path:
        """Return the file of the model after a cycle."""
        return self.path / f"cycle-{cycle:03d}.keras"

    def record_cycle(self, engine: LocalCenters, *, arm: str, cycle: int, counts: Counts | None = None) -> None:
        """Save the scores of the test subjects after a cycle, the sum of the centers' counts, verified here where it is
        not given, and the model; a cycle recorded again replaces itself."""
        counts = asdict(counts or add_counts(engine.verify()))
        verified = pd.DataFrame([{"cycle": cycle} | {name: counts[name] for name in VERIFICATION_COUNTS}])
        for name, before, rows in (
            ("predictions.csv", self.read_predictions(), engine.score("test").assign(arm=arm, cycle=cycle)),
            ("verification.csv", self.read_verification(), verified),
        ):
            before = before.query("cycle != @cycle")
            table = pd.concat([before, rows] if len(before) else [rows])
            write_aside(self.path / name, partial(write_table, table))
        if self.ledger_path.exists():  # no model without the lines that led to it, not even after a power cut
            with self.ledger_path.open("r+b") as stream:
                os.fsync(stream.fileno())
        path = self.model_path(cycle)
        write_aside(self.path / CLOSING if path.exists() else path, engine.save)

    def read_verification(self) -> pd.DataFrame:
        """Return the verification counts by cycle: columns cycle, fp, n_neg, fn, n_pos; empty before the first."""
        path = self.path / "verification.csv"
        if not path.exists():
            return pd.DataFrame(columns=["cycle", *VERIFICATION_COUNTS], dtype=int)
        return _read_table(path, whole=("cycle", *VERIFICATION_COUNTS))

    def read_predictions(self) -> pd.DataFrame:
        """Return the scores on the test subjects by arm and cycle; empty before the first cycle."""
        path = self.path / "predictions.csv"
        if not path.exists():
            return pd.DataFrame({"cycle": pd.Series(dtype=int)})
        names = dict.fromkeys(("subject", "center", "scanner", "arm"), str)  # "007" and "NA" are names too
        options = {"dtype": names, "keep_default_na": False, "na_values": {"score": [""]}}
        return _read_table(path, whole=("cycle", "diagnosis"), real=("score",), texts=("subject", "arm"), **options)


def list_models(folder: Path) -> list[Path]:
    """Return the models of a run's cycles, in their order."""
    return sorted(folder.glob("cycle-*.keras"), key=_read_number)


def _read_number(path: Path) -> int:
    return int(path.stem.removeprefix("cycle-"))


def _copy_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings as JSON gives them back."""
    require_kind("settings", settings, Mapping, such_as="{'name': 'qc'}")
    for name, value in settings.items():
        try:
            json.dumps({name: value})
        except (TypeError, ValueError) as error:
            raise TypeError(f"the setting {name!r} cannot be written as JSON: {error}") from None
    return json.loads(json.dumps(settings))


def _read_table(
    path: Path, *, whole: Iterable[str], real: Iterable[str] = (), texts: Iterable[str] = (), **options: Any
) -> pd.DataFrame:
    """Return a table that a run wrote, or say what is wrong with the file: it must hold these columns of whole numbers,
    real numbers and texts."""
    columns = (*texts, *whole, *real)
    try:
        table = read_table(path, **options)
    except ValueError as error:  # also what pandas raises for empty files, and Python for other encodings
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: damaged ({reason}); expected a table with {', '.join(columns)}") from None
    for name in columns:
        if name not in table:
            raise ValueError(f"{path}: damaged, column {name!r} is missing; expected {', '.join(columns)}")
        good = pd.api.types.is_integer_dtype if name in whole else pd.api.types.is_numeric_dtype
        if len(table) and name not in texts and not good(table[name]):
            kind = "whole numbers" if name in whole else "numbers"
            raise ValueError(f"{path}: damaged, column {name!r} holds other values than {kind}; expected a whole file")
    return table


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
    verification : DataFrame
        Counts of all verification subjects together, by cycle: cycle, fp, n_neg, fn, n_pos.
    folder : Path
        Where it lies, models of each cycle included.
    floor : Counts, optional
        Verification counts of the pre-trained model that it started from.
    """

    name: str
    ledger: pd.DataFrame
    predictions: pd.DataFrame
    verification: pd.DataFrame
    folder: Path
    floor: Counts | None = None

    @property
    def drift(self) -> pd.DataFrame:
        """The verification counts with a column `risen`: the errors that stand beyond chance above the pre-trained
        model's, see `DriftGuard`; "" is none."""
        rows = self.verification
        guard = DriftGuard(self.floor) if self.floor is not None else None
        risen = [
            " and ".join(guard.find_drift(Counts(row.fp, row.n_neg, row.fn, row.n_pos))) if guard else ""
            for row in rows.itertuples()
        ]
        return rows.assign(risen=pd.Series(risen, index=rows.index, dtype=str))

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
        require_kind("cohort", cohort, Cohort, such_as="read_cohort gives")
        volumes = VolumeCache(cohort.table.set_index("subject")["path"].to_dict())
        rows = cohort.table.drop(columns=["path", "harm", "placement"], errors="ignore")
        met = set(self.ledger["subjects"].explode()) & set(rows["subject"])
        if met:
            raise ValueError(f"the arm {self.name!r} has met {len(met)} of the subjects, {min(met)!r} first")
        paths = list_models(self.folder)
        if not paths:
            raise FileNotFoundError(f"{self.folder} holds no model of any cycle; expected the folder of a finished run")
        model = load_sfcn(paths[0])
        if tuple(model.input_shape[1:4]) != tuple(volumes.shape):
            raise ValueError(f"the arm's model expects volumes of {model.input_shape[1:4]}, came {volumes.shape}")
        parts = []
        for path in paths:
            load_weights(model, path)  # into the same model, whose graph is built once
            scores = predict_subjects(model, volumes, list(rows["subject"]))
            parts.append(rows.assign(score=scores, arm=self.name, cycle=_read_number(path)))
        return pd.concat(parts, ignore_index=True)
