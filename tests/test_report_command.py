"""`python -m dqc_lib.report`: a report from the folders of finished runs, with a switch for pseudonyms."""

import json
import re
import subprocess
import sys
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

import pandas as pd
import pytest
from test_report import SCHEDULE, list_attempts, make_arm, make_cohort, read_words

from dqc_lib.cohort import write_bids
from dqc_lib.ledger import COLUMNS, Ledger
from dqc_lib.report.__main__ import main
from dqc_lib.report.reading import open_study, read_arm
from dqc_lib.tables import read_table, write_table

ROOT = Path(__file__).parent.parent
VERIFIED = pd.DataFrame({"cycle": [1, 2], "fp": [1, 0], "n_neg": [3, 3], "fn": [0, 1], "n_pos": [3, 3]})


def write_run(folder, cohort, *, name="qc", finished=True, **more):
    """Write the folder of a run as `Study.run` leaves it; return its path."""
    order = sha256(repr(SCHEDULE.plan(cohort)).encode()).hexdigest()
    settings = {"held_back": [], "order": order} | more
    arm = make_arm(folder, cohort, name=name, arm=name if name in ("qc", "dirty") else None, **settings)
    note = json.loads((arm.folder / "run.json").read_text())
    (arm.folder / "run.json").write_text(json.dumps(note | {"finished": finished}))
    ledger = Ledger(arm.folder / "ledger.jsonl")
    usual = {"cycle": 1, "stage": "control", "level": "batch", "decision": "accepted", "seconds": 0.1}
    for row in list_attempts(cohort):
        ledger.append(**dict.fromkeys(COLUMNS) | usual | row | {"n": len(row["subjects"])})
    write_table(arm.predictions, arm.folder / "predictions.csv")
    write_table(VERIFIED, arm.folder / "verification.csv")
    return arm.folder


@pytest.fixture
def runs(tmp_path):
    """A BIDS cohort, a run of it under quality control and one without, and their pre-training, in `tmp_path`."""
    cohort = make_cohort(tmp_path)
    for subject, path in zip(cohort.table["subject"], cohort.table["path"], strict=True):
        image = tmp_path / "study" / subject / "anat" / f"{subject}_T1w.nii.gz"
        image.parent.mkdir(parents=True)
        Path(path).rename(image)
    write_bids(cohort, tmp_path / "study")
    folder = tmp_path / "runs"
    folder.mkdir()
    for name in ("qc", "dirty"):
        write_run(folder, cohort, name=name, rule="PublishedRule(tolerance=0.02)" if name == "qc" else "None")
    return cohort


def read_folder(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_command_writes_a_report_from_folders_and_leaves_them_as_they_were(runs, tmp_path):
    before = read_folder(tmp_path / "runs") | read_folder(tmp_path / "study")
    output = tmp_path / "out" / "report.html"
    options = [
        tmp_path / "study",
        tmp_path / "runs" / "qc",
        "--others",
        tmp_path / "runs" / "dirty",
        "--output",
        output,
    ]
    main([str(option) for option in options])
    said = read_words(output.read_text(encoding="utf-8"))
    assert "3 of 12 training images were eliminated, at 2 of 3 centers, under the published rule." in said
    assert "Test AUROC of dirty, cycle 2: 1.00" in said and "sub-1 " in said
    assert read_folder(tmp_path / "runs") | read_folder(tmp_path / "study") == before


def test_the_switch_leaves_no_names_and_writes_the_key_apart(runs, tmp_path):
    output, key = tmp_path / "out" / "report.html", tmp_path / "safe" / "key.csv"
    command = [sys.executable, "-m", "dqc_lib.report", tmp_path / "study", tmp_path / "runs" / "qc", "--output", output]
    done = subprocess.run([*command, "--pseudonymize", "--key", key], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = read_words(output.read_text(encoding="utf-8"))
    assert "sub-0001" in said and "center-01" in said
    assert not re.search(r"\bsub-1\b|\b(north|south|west)\b", said)
    assert read_table(key).query("kind == 'center'")["name"].tolist() == ["north", "south", "west"]


def test_an_arm_that_is_read_continues_its_pre_training(runs, tmp_path):
    alone = read_arm(tmp_path / "runs" / "qc")
    assert alone.floor is None and len(alone.ledger) == 15 and len(alone.eliminated) == 3
    write_run(tmp_path / "runs", runs, name="pretraining-0")
    write_run(tmp_path / "runs", runs, name="pretraining-1", held_back=["sub-1"])
    arm = read_arm(tmp_path / "runs" / "qc")
    assert (arm.floor.fp, arm.floor.n_neg, arm.floor.fn, arm.floor.n_pos) == (0, 3, 1, 3), "of its last cycle"
    assert len(arm.predictions) == 2 * len(alone.predictions) and set(arm.predictions["arm"]) == {"qc"}


def test_a_run_of_other_subjects_is_refused(runs, tmp_path):
    fewer = runs.replace(runs.table.iloc[1:])
    with pytest.raises(ValueError, match="qc: a run of other training subjects; expected one of the cohort in"):
        open_study(fewer, tmp_path / "runs" / "qc")
    assert asdict(open_study(runs, tmp_path / "runs" / "qc").schedule) == asdict(SCHEDULE)


def test_what_is_wrong_ends_in_one_sentence(runs, tmp_path, capsys):
    write_run(tmp_path / "runs", runs, name="late", finished=False)
    (tmp_path / "runs" / "broken").mkdir()
    (tmp_path / "runs" / "broken" / "run.json").write_text("{")
    for run, message in (
        ("late", "late: the run is not finished; expected one that came to its end"),
        ("nowhere", "nowhere: no run.json; expected the folder of a run of Study.run"),
        ("broken", "run.json: damaged; expected the note of a run"),
        ("dirty", "arm 'dirty' is under no rule; expected the one under quality control"),
    ):
        with pytest.raises(SystemExit) as caught:
            main([str(tmp_path / "study"), str(tmp_path / "runs" / run), "--output", str(tmp_path / "no.html")])
        assert caught.value.code == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "no.html").exists()
