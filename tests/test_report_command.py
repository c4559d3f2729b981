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

from dqc_lib.cohort import read_bids, write_bids
from dqc_lib.ledger import COLUMNS, Ledger
from dqc_lib.report.__main__ import main
from dqc_lib.report.reading import SETTINGS, open_study, read_arm, read_settings
from dqc_lib.tables import read_table, write_table
from dqc_lib.travelling import Study

ROOT = Path(__file__).parent.parent
VERIFIED = pd.DataFrame({"cycle": [1, 2], "fp": [1, 0], "n_neg": [3, 3], "fn": [0, 1], "n_pos": [3, 3]})


def fingerprint(cohort):
    """Return the fingerprint of a cohort: that of its table, with each image's own in place of its path."""
    images = [sha256(Path(path).read_bytes()).hexdigest() for path in cohort.table["path"]]
    return sha256(cohort.table.drop(columns="path").assign(image=images).to_csv(index=False).encode()).hexdigest()


def write_run(folder, cohort, *, name="qc", finished=True, **more):
    """Write the folder of a run as `Study.run` leaves it; return its path."""
    order = sha256(repr(SCHEDULE.plan(cohort)).encode()).hexdigest()
    settings = {"held_back": [], "order": order} | more
    arm = make_arm(folder, cohort, name=name, arm=name if name in ("qc", "dirty") else None, **settings)
    note = json.loads((arm.folder / "run.json").read_text())
    settings = note["settings"] | {"cohort": fingerprint(cohort)}
    (arm.folder / "run.json").write_text(json.dumps({"finished": finished, "settings": settings}))
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
    cohort = read_bids(tmp_path / "study")
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


def test_a_pre_training_by_other_code_is_not_that_of_the_arm(runs, tmp_path):
    other = {"dqc-lib": "0.1.0", "keras": "3.15.1", "method": 1}
    write_run(tmp_path / "runs", runs, name="pretraining-0", versions=other)
    assert read_arm(tmp_path / "runs" / "qc").floor is None
    write_run(tmp_path / "runs", runs, name="pretraining-1")
    assert read_arm(tmp_path / "runs" / "qc").floor.fn == 1
    same = write_run(tmp_path / "runs", runs, name="later", versions=other)
    assert read_arm(same).floor.fn == 1


def test_an_arm_that_can_have_started_from_several_pre_trainings_is_refused(runs, tmp_path):
    for name in ("pretraining-0", "pretraining-1"):
        write_run(tmp_path / "runs", runs, name=name)
    write_run(tmp_path / "runs", runs, name="pretraining-2", finished=False)
    with pytest.raises(ValueError, match="qc: it can have started from each of pretraining-0, pretraining-1; expected"):
        read_arm(tmp_path / "runs" / "qc")


def change_image(cohort):
    path = Path(cohort.table["path"].iloc[-1])
    path.write_bytes(path.read_bytes() + b"\0")
    return cohort


def change_age(cohort):
    return cohort.replace(cohort.table.assign(age=cohort.table["age"].where(cohort.table["subject"] != "sub-5", 51.5)))


def lose_test_subject(cohort):
    return cohort.replace(cohort.table.iloc[:-1])


@pytest.mark.parametrize("change", [change_image, change_age, lose_test_subject])
def test_a_run_of_a_cohort_that_was_another_is_refused(runs, tmp_path, change):
    run = tmp_path / "runs" / "qc"
    assert open_study(runs, run).cohort is runs
    with pytest.raises(ValueError, match=r"qc: a run of another cohort, whose table or images are not those in"):
        open_study(change(runs), run)


def test_the_folder_of_a_run_by_a_study_is_opened(runs, tmp_path):
    """Not one that the tests wrote: what a study notes of its cohort is what is compared."""
    study = Study(runs, schedule=SCHEDULE, folder=tmp_path / "own", progress=False)
    for arm, refused in (("dirty", None), (None, "a pre-training; expected the folder of an arm")):
        folder = study._open(arm or "pretraining", arm=arm)
        folder.finish()
        if refused is None:
            assert open_study(runs, folder.path).plan == study.plan
        else:
            with pytest.raises(ValueError, match=refused):
                open_study(runs, folder.path)


def test_a_run_of_other_subjects_is_refused(runs, tmp_path):
    fewer = runs.replace(runs.table.iloc[1:])
    with pytest.raises(ValueError, match="qc: a run of other training subjects; expected one of the cohort in"):
        open_study(fewer, tmp_path / "runs" / "qc")
    assert asdict(open_study(runs, tmp_path / "runs" / "qc").schedule) == asdict(SCHEDULE)


def test_what_is_wrong_ends_in_one_sentence(runs, tmp_path, capsys):
    write_run(tmp_path / "runs", runs, name="late", finished=False)
    (tmp_path / "runs" / "broken").mkdir()
    (tmp_path / "runs" / "broken" / "run.json").write_text("{")
    write_run(tmp_path / "runs", runs, name="strange", schedule=asdict(SCHEDULE) | {"haste": 1})
    for run, message in (
        ("late", "late: the run is not finished; expected one that came to its end"),
        ("nowhere", "nowhere: no run.json; expected the folder of a run of Study.run"),
        ("broken", "run.json: damaged, not JSON in UTF-8 ("),
        ("strange", "run.json: its schedule has the unknown settings ['haste']; expected that of this version"),
        ("dirty", "arm 'dirty' is under no rule; expected the one under quality control"),
    ):
        with pytest.raises(SystemExit) as caught:
            main([str(tmp_path / "study"), str(tmp_path / "runs" / run), "--output", str(tmp_path / "no.html")])
        assert caught.value.code == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "no.html").exists()


def edit_settings(**changes):
    """Return the text of a note with these settings changed, or left out where None is given."""
    settings = {"name": "qc", "arm": "qc", "rule": "PublishedRule()", "schedule": asdict(SCHEDULE), "held_back": []}
    settings |= {"versions": {}, "cohort": "c0ffee", "order": "cafe"} | changes
    return json.dumps({"finished": True, "settings": {name: value for name, value in settings.items() if value != "-"}})


LATE = {name: value for name, value in asdict(SCHEDULE).items() if name != "seed"}
NOTES = {
    "a list": ("[]", "damaged, no 'settings' in it; expected the note of a run"),
    "another encoding": ('{"finished": true}'.encode("utf-16"), "damaged, not JSON in UTF-8"),
    "settings that are a text": ('{"finished": true, "settings": "all"}', "damaged, no 'settings' in it"),
    "an end in words": ('{"finished": "yes", "settings": {}}', "damaged, no 'finished' in it"),
    **{f"no {key}": (edit_settings(**{key: "-"}), f"damaged, no '{key}' in its settings") for key in SETTINGS},
    "a number as a name": (edit_settings(name=3), "damaged, no 'name' in its settings; expected the note of a run"),
    "no arm": (edit_settings(arm="-"), "an unknown arm ''"),
    "an unknown arm": (edit_settings(arm="filthy"), "an unknown arm 'filthy'; expected one of ('clean', "),
    "a list of arms": (edit_settings(arm=["qc"]), "an unknown arm ['qc']"),
    "half a schedule": (edit_settings(schedule=LATE), "its schedule lacks ['seed']; expected that of this version"),
    "a seed in words": (edit_settings(schedule=LATE | {"seed": "x"}), "damaged (Schedule.seed must be a whole number"),
    "a seed below zero": (edit_settings(schedule=LATE | {"seed": -1}), "damaged (Schedule.seed must be a whole number"),
}


@pytest.mark.parametrize(("content", "message"), NOTES.values(), ids=NOTES)
def test_a_note_that_is_not_whole_is_named(tmp_path, content, message):
    (tmp_path / "run.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError) as caught:
        read_settings(tmp_path)
    assert type(caught.value) is ValueError and str(caught.value).startswith(f"{tmp_path / 'run.json'}: {message}")
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
