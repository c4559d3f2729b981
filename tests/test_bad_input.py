"""Bad input: one error of the right type that names the culprit, and every file stays as it was.

The catalogue: what is wrong, who is asked, which error comes and which words it must hold. `prepare` writes what is
malformed into an empty folder, and `ask` is called with that folder.
"""

import gzip
import json
import math
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import dqc_lib as dqc
from dqc_lib.fisher import GradientScale
from dqc_lib.harmonization import (
    LabelledScans,
    Protocol,
    associate_with_site,
    find_groups,
    fit_components,
    harmonize_images,
    measure_landmarks,
    prepare_eeg,
    prepare_scans,
    read_acquisition,
)
from dqc_lib.ledger import COLUMNS
from dqc_lib.phantom import Recipe
from dqc_lib.privacy import (
    PatientGradients,
    PrivateRecipe,
    clip_gradients,
    draw_patients,
    find_members,
    find_noise,
    invert_gradient,
    measure_epsilon,
    measure_membership,
    protect_gradient,
    score_distances,
    score_losses,
    tabulate_epsilons,
)
from dqc_lib.quality import Counts
from dqc_lib.simulation import HospitalRecipe, RegionRecipe
from dqc_lib.synthesis import (
    Finding,
    Layer,
    Task,
    TrainingSchedule,
    apply_permutations,
    average_weights,
    estimate_fidelity_intervals,
    evaluate_utility,
    load_arm,
    measure_fidelity,
    measure_shift,
    measure_with_sdmetrics,
    report_shift,
    shuffle_visits,
    summarize_records,
    tabulate_autocorrelation,
    tabulate_codes,
    tabulate_criteria,
    tell_apart,
    train_arm,
    weigh_by_distribution,
)
from dqc_lib.travelling import RunFolder, Schedule, Study, Visit

HEADER = "participant_id\tsite\tdiagnosis\tsex\tage\tscanner"
LINES = ("sub-1\tA\tPD\tF\t61\tX", "sub-2\tA\tHC\tM\t58\tX")
CSV_HEADER = "Subject,Study,Path,Group_bin,Sex,Age"
SHAPE = (8, 8, 8)


def do_nothing(folder):
    """Prepare nothing."""


@dataclass(frozen=True)
class Case:
    """One kind of bad input."""

    what: str
    ask: Callable[[Path], object]
    error: type[Exception]
    words: tuple[str, ...]
    prepare: Callable[[Path], object] = do_nothing


def case(what, ask, error, *words, prepare=do_nothing):
    return Case(what, ask, error, words, prepare)


def read_tree(folder):
    """Return the bytes of every file below a folder, None for folders, by path."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


# what is malformed


def make_table(**columns):
    """Return eight good rows in two centers, all roles in each."""
    rows = []
    for number in range(8):
        rows.append(
            {
                "subject": f"sub-{number}",
                "center": "AB"[number // 4],
                "diagnosis": number % 2,
                "sex": "FM"[number % 2],
                "age": 60.0 + number,
                "scanner": "X",
                "path": f"/nowhere/sub-{number}.nii.gz",
                "role": ("train", "train", "verification", "test")[number % 4],
            }
        )
    return pd.DataFrame(rows).assign(**columns)


def change(column, value):
    """Return the table with one value changed, that of sub-1."""
    table = make_table(harm="", placement="").astype({column: object})
    table.at[1, column] = value
    return table


def make_cohort(**columns):
    return dqc.Cohort(make_table(**columns), Path("study"))


def without_roles():
    return dqc.Cohort(make_table().drop(columns="role"), Path("study"))


def build(table):
    """Ask for a cohort of the table."""
    return lambda folder: dqc.Cohort(table, folder)


def write_bids_folder(folder, *lines, header=HEADER, encoding="utf-8"):
    (folder / "participants.tsv").write_bytes("\n".join([header, *lines, ""]).encode(encoding))
    for name in ("sub-1", "sub-2"):
        (folder / name / "anat").mkdir(parents=True)
        (folder / name / "anat" / f"{name}_T1w.nii.gz").touch()


def bids(*lines, **options):
    return partial(lambda folder: write_bids_folder(folder, *lines, **options))


def csv(*lines):
    def prepare(folder):
        (folder / "cohort.csv").write_text("\n".join([CSV_HEADER, *lines, ""]))
        (folder / "a.nii.gz").touch()

    return prepare


def write(name, content):
    """Prepare one file of these bytes."""

    def prepare(folder):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return prepare


def nifti(*, name="a.nii", cut=None, sizes=(3, 4, 4, 4), voxel=2, offset=352.0, magic=b"n+1\0", fill=1):
    """Prepare a NIfTI file with this header, its bytes after `cut` left out."""
    header = bytearray(352)
    header[0:4] = np.int32(348).tobytes()
    header[40:56] = np.array([*sizes, *[1] * (8 - len(sizes))], dtype="<i2").tobytes()
    header[70:74] = np.array([voxel, {2: 8, 16: 32, 32: 64, 128: 24}[voxel]], dtype="<i2").tobytes()
    header[76:108] = np.array([1.0] * 8, dtype="<f4").tobytes()
    header[108:112] = np.float32(offset).tobytes()
    header[344:348] = magic
    voxels = np.full(4 * 4 * 4, fill, dtype={16: "<f4"}.get(voxel, "u1"))
    if np.isfinite(fill):
        voxels[0] += 1
    content = bytes(header) + voxels.tobytes()
    return write(name, (gzip.compress(content) if name.endswith("gz") else content)[:cut])


def make_row(**changes):
    row = dict.fromkeys(COLUMNS) | {"cycle": 0, "stage": "control", "level": "single", "center": "A"}
    return row | {"subjects": ["sub-1"], "n": 1, "decision": "accepted", "seconds": 0.5} | changes


def ledger_lines(*rows):
    return write("ledger.jsonl", "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))


def append(**changes):
    return lambda folder: dqc.Ledger(folder / "new.jsonl").append(**make_row(**changes))


def make_frame(**changes):
    ledger = dqc.Ledger()
    ledger.append(**make_row(**changes))
    return ledger.to_frame()


@cache
def saved_model(path):
    """Save a small model once, and return its bytes."""
    dqc.build_sfcn(SHAPE, width=0.03).save(path)
    return Path(path).read_bytes()


@pytest.fixture(scope="module", autouse=True)
def model_bytes(tmp_path_factory):
    """The bytes of a good checkpoint, where `checkpoint` finds them."""
    checkpoint.good = saved_model(tmp_path_factory.mktemp("good") / "good.keras")


def checkpoint(damage, name="model.keras"):
    """Prepare a checkpoint that was damaged."""
    return lambda folder: (folder / name).write_bytes(damage(checkpoint.good))


def strip_member(name):
    """Return a damage that leaves a member of the archive out."""

    def damage(content):
        import io

        target = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(target, "w") as new:
            for info in old.infolist():
                if info.filename != name:
                    new.writestr(info.filename, old.read(info))
        return target.getvalue()

    return damage


def save_other_network(folder):
    import keras

    values = keras.Input((2,))
    keras.Model(values, keras.layers.Dense(1)(values)).save(folder / "model.keras")


def load_model(folder):
    return dqc.load_sfcn(folder / "model.keras")


def load_scale(folder):
    return GradientScale.load(folder / "scale.npz")


def save_arrays(**arrays):
    return lambda folder: np.savez(folder / "scale.npz", **arrays)


def make_run(folder, *, note=None, finish=True, **files):
    """Prepare the folder of a run, with these texts in its files."""
    run = RunFolder(folder / "run", {"name": "qc"})
    if finish:
        run.finish()
    if note is not None:
        (run.path / "run.json").write_bytes(note)
    for name, text in files.items():
        (run.path / f"{name}.csv").write_bytes(text if isinstance(text, bytes) else text.encode())


def run_with(**options):
    return lambda folder: make_run(folder, **options)


def open_run(folder):
    return RunFolder(folder / "run", {"name": "qc"})


def read_predictions(folder):
    return open_run(folder).read_predictions()


def read_verification(folder):
    return open_run(folder).read_verification()


def open_study(folder, cohort=None, **options):
    return Study(make_cohort() if cohort is None else cohort, folder=folder / "runs", progress=False, **options)


def run_arm(*arguments, **options):
    """Ask a study with finished pre-training, of which no byte may change, for an arm."""
    return lambda folder: open_study(folder).run(*arguments, **options)


def prepare_study(folder, damage=None):
    """Prepare the folder of a finished pre-training without a network, and damage it."""
    run = open_study(folder)._open("pretraining")
    dqc.Ledger(run.ledger_path).append(**make_row(stage="pretraining"))
    (run.path / "predictions.csv").write_text("subject,diagnosis,score,arm,cycle\nsub-3,1,0.5,pretraining,0\n")
    (run.path / "verification.csv").write_text("cycle,fp,n_neg,fn,n_pos\n0,0,1,0,1\n")
    (run.path / "pretrained.keras").write_bytes(checkpoint.good)
    np.savez(run.path / "scale.npz", total=np.ones(3), count=1, reference=1.0)
    run.finish()
    if damage is not None:
        damage(run.path)


def study_with(damage):
    return lambda folder: prepare_study(folder, damage)


def plan(subjects, **options):
    return lambda folder: dqc.plan_cycles(subjects, **{"learning_rates": [1e-3]} | options)


def schedule(**options):
    return lambda folder: Schedule(**options)


def call(function, *arguments, **options):
    return lambda folder: function(*arguments, **options)


def watched(n=3):
    return pd.DataFrame({"n": [1] * n, "update_norm": [1.0] * n})


STEP = dqc.StepEffect(wrong=0.1)
IMAGE = np.ones((2, 2, 2))
PREDICTIONS = "subject,diagnosis,score,arm,cycle\n"

TABLES = [
    case("a list in place of a table", build([1, 2]), TypeError, "table must be a DataFrame", "got [1, 2]"),
    case("a table without ages", build(make_table().drop(columns="age")), ValueError, "column 'age' is missing"),
    case("a table with an unknown column", build(make_table(colour="red")), ValueError, "column 'colour' is unknown"),
    case(
        "a table with a column twice",
        build(pd.concat([make_table(), make_table()[["age"]]], axis=1)),
        ValueError,
        "column 'age' is there more than once",
    ),
    case("a table without rows", build(make_table().iloc[:0]), ValueError, "no rows; expected at least one subject"),
    case(
        "a subject listed twice", build(change("subject", "sub-0")), ValueError, "subject 'sub-0'", "expected one row"
    ),
    case("a number as a subject", build(change("subject", 7)), ValueError, "row 2", "(7)", "expected a name"),
    case(
        "a list as a subject", build(change("subject", ["sub-1"])), ValueError, "row 2", "['sub-1']", "expected a name"
    ),
    case("a center without a name", build(change("center", "  ")), ValueError, "'sub-1'", "center is '  '", "expected"),
    case("a third diagnosis", build(change("diagnosis", 2)), ValueError, "'sub-1'", "diagnosis is 2", "expected 1"),
    case(
        "a list as a diagnosis", build(change("diagnosis", [1])), ValueError, "'sub-1'", "diagnosis is [1]", "expected"
    ),
    case("a missing diagnosis", build(change("diagnosis", pd.NA)), ValueError, "'sub-1'", "diagnosis is missing"),
    case("a set as a sex", build(change("sex", {"F"})), ValueError, "'sub-1'", "sex is {'F'}", "expected 'F'"),
    case("an age in words", build(change("age", "old")), ValueError, "'sub-1'", "age is 'old'", "from 0 to 130"),
    case("a complex age", build(change("age", 61j)), ValueError, "'sub-1'", "age is 61j", "from 0 to 130"),
    case("a list as an age", build(change("age", [61])), ValueError, "'sub-1'", "age is [61]", "from 0 to 130"),
    case("an age below 0", build(change("age", -1)), ValueError, "'sub-1'", "age is -1", "from 0 to 130"),
    case("an age that is not finite", build(change("age", math.inf)), ValueError, "'sub-1'", "age is inf"),
    case("a number as a path", build(change("path", 3)), ValueError, "'sub-1'", "path is 3", "expected a text"),
    case("an unknown role", build(change("role", "dev")), ValueError, "'sub-1'", "role is 'dev'", "'verification'"),
    case("a word for no harm", build(change("harm", "n/a")), ValueError, "'sub-1'", "harm is 'n/a'", "expected ''"),
    case(
        "an unknown placement", build(change("placement", "x")), ValueError, "'sub-1'", "placement is 'x'", "'single'"
    ),
]

FILES = [
    case(
        "a cohort that is nowhere", lambda f: dqc.read_cohort(f / "no"), FileNotFoundError, "no: no such file or folder"
    ),
    case("a number as a cohort's path", call(dqc.read_cohort, 3), TypeError, "path must be a path", "got 3"),
    case("nothing as a cohort's path", call(dqc.read_cohort, None), TypeError, "path must be a path", "got None"),
    case("a folder without a table", dqc.read_bids, FileNotFoundError, "participants.tsv: no such file", "'site'"),
    case(
        "a folder in place of the table",
        dqc.read_bids,
        FileNotFoundError,
        "participants.tsv: no such file",
        prepare=lambda folder: (folder / "participants.tsv").mkdir(),
    ),
    case(
        "an empty table",
        dqc.read_bids,
        ValueError,
        "participants.tsv: column 'participant_id' is missing",
        prepare=write("participants.tsv", ""),
    ),
    case("a header alone", dqc.read_bids, ValueError, "participants.tsv: the table has no rows", prepare=bids()),
    case(
        "a table of zeros",
        dqc.read_bids,
        ValueError,
        "participants.tsv: column 'participant_id' is missing",
        prepare=write("participants.tsv", b"\0" * 4096),
    ),
    case(
        "a table in UTF-16",
        dqc.read_bids,
        ValueError,
        "participants.tsv: not a table in UTF-8",
        prepare=bids(*LINES, encoding="utf-16"),
    ),
    case(
        "a table in Latin-1",
        dqc.read_bids,
        ValueError,
        "participants.tsv: not a table in UTF-8",
        prepare=bids(LINES[0].replace("A", "Å"), encoding="latin-1"),
    ),
    case(
        "commas in place of tabs",
        dqc.read_bids,
        ValueError,
        "column 'participant_id' is missing",
        prepare=bids(*LINES, header=HEADER.replace("\t", ",")),
    ),
    case(
        "a column under another name",
        dqc.read_bids,
        ValueError,
        "column 'site' is missing",
        "came",
        "'center'",
        prepare=bids(*LINES, header=HEADER.replace("site", "center")),
    ),
    case(
        "a column twice in the file",
        dqc.read_bids,
        ValueError,
        "column 'age' is there more than once",
        prepare=bids(*LINES, header=HEADER + "\tage"),
    ),
    case(
        "a column spelled in capitals",
        dqc.read_bids,
        ValueError,
        "column 'Role' is not spelled",
        "'role'",
        prepare=bids(*LINES, header=HEADER + "\tRole"),
    ),
    case(
        "a line that ends too early",
        dqc.read_bids,
        ValueError,
        "participants.tsv, line 3: 2 values",
        "expected 6",
        prepare=bids(LINES[0], "sub-2\tA"),
    ),
    case(
        "a line with a value too many",
        dqc.read_bids,
        ValueError,
        "participants.tsv, line 2: 7 values",
        prepare=bids(LINES[0] + "\tX"),
    ),
    case(
        "a quotation that never ends",
        dqc.read_bids,
        ValueError,
        "participants.tsv, line ",
        "expected 6",
        prepare=bids(LINES[0].replace("\tA", '\t"A'), LINES[1]),
    ),
    case(
        "a value of a million letters",
        dqc.read_bids,
        ValueError,
        "participants.tsv: not a table",
        "field limit",
        prepare=bids(LINES[0] + "X" * 1_000_000),
    ),
    case(
        "an unknown word for a diagnosis",
        dqc.read_bids,
        ValueError,
        "'sub-1': diagnosis is 'AD'",
        "positive=",
        prepare=bids(LINES[0].replace("PD", "AD")),
    ),
    case(
        "an age with an underscore",
        dqc.read_bids,
        ValueError,
        "participants.tsv",
        "'sub-1'",
        "age is '6_1'",
        prepare=bids(LINES[0].replace("61", "6_1")),
    ),
    case(
        "a subject that climbs out of the folder",
        dqc.read_bids,
        ValueError,
        "participant_id is '../sub-1'",
        prepare=bids(LINES[0].replace("sub-1", "../sub-1")),
    ),
    case(
        "a subject without an image",
        dqc.read_bids,
        FileNotFoundError,
        "subject 'sub-3': no image",
        "exactly one",
        prepare=bids(LINES[0].replace("sub-1", "sub-3")),
    ),
    case(
        "one word for both diagnoses",
        lambda f: dqc.read_bids(f, positive="HC"),
        ValueError,
        "positive",
        "'HC'",
        "two different words",
        prepare=bids(*LINES),
    ),
    case(
        "0 as the word for disease",
        lambda f: dqc.read_bids(f, positive="0"),
        ValueError,
        "positive is '0'",
        prepare=bids(*LINES),
    ),
    case(
        "a number as the word for disease",
        lambda f: dqc.read_bids(f, positive=1),
        TypeError,
        "positive must be a text",
        "got 1",
        prepare=bids(*LINES),
    ),
    case(
        "a published table with a third group",
        lambda f: dqc.read_published_csv(f / "cohort.csv"),
        ValueError,
        "cohort.csv: subject 'P1': diagnosis is '2'",
        prepare=csv("P1,S1,a.nii.gz,2,F,61"),
    ),
    case(
        "a published table without an image",
        lambda f: dqc.read_published_csv(f / "cohort.csv"),
        FileNotFoundError,
        "subject 'P1': no image",
        "b.nii.gz",
        "cohort.csv",
        prepare=csv("P1,S1,b.nii.gz,1,F,61"),
    ),
    case(
        "a code for the sex without a meaning",
        lambda f: dqc.read_published_csv(f / "cohort.csv"),
        ValueError,
        "subject 'P1': sex is '1'",
        "sex_codes=",
        prepare=csv("P1,S1,a.nii.gz,1,1,61"),
    ),
    case(
        "a list of codes for the sex",
        lambda f: dqc.read_published_csv(f / "cohort.csv", sex_codes=["F", "M"]),
        TypeError,
        "sex_codes must be a Mapping",
        "got ['F', 'M']",
        prepare=csv("P1,S1,a.nii.gz,1,1,61"),
    ),
    case(
        "a code for the sex that means another word",
        lambda f: dqc.read_published_csv(f / "cohort.csv", sex_codes={1: "woman"}),
        ValueError,
        "sex_codes",
        "'woman'",
        "expected 'F' or 'M'",
        prepare=csv("P1,S1,a.nii.gz,1,1,61"),
    ),
    case(
        "a center that a file would not keep",
        lambda f: dqc.write_bids(make_cohort(center="n/a"), f / "new"),
        ValueError,
        "'sub-0'",
        "center is 'n/a'",
        "expected a text that a file keeps",
    ),
    case(
        "a line break in a scanner",
        lambda f: dqc.write_bids(make_cohort(scanner="a\rb"), f / "new"),
        ValueError,
        "'sub-0'",
        "scanner is 'a\\rb'",
        "without control characters",
    ),
    case(
        "a name that is not BIDS",
        lambda f: dqc.write_bids(make_cohort(subject=list("abcdefgh")), f / "new"),
        ValueError,
        "subject 'a'",
        "expected 'sub-'",
    ),
    case(
        "a folder that holds a cohort",
        lambda f: dqc.write_bids(make_cohort(), f),
        FileExistsError,
        "participants.tsv: exists already",
        "overwrite=True",
        prepare=bids(*LINES),
    ),
    case(
        "a table in place of a cohort",
        lambda f: dqc.write_bids(make_table(), f),
        TypeError,
        "cohort must be a Cohort",
        "a value of type DataFrame",
    ),
]

COHORTS = [
    case("a cohort without roles", call(dqc.check_roles, without_roles()), ValueError, "column 'role' is missing"),
    case("nobody who verifies", call(dqc.check_roles, make_cohort(role="train")), ValueError, "role 'verification'"),
    case("one diagnosis to train on", call(dqc.check_roles, make_cohort(diagnosis=1)), ValueError, "diagnosis disease"),
    case(
        "a path in place of a cohort", call(dqc.check_roles, "study"), TypeError, "cohort must be a Cohort", "'study'"
    ),
    case(
        "shares of more than everybody",
        call(dqc.split_by_subject, without_roles(), verification=0.6, test=0.4),
        ValueError,
        "verification 0.6 and test 0.4",
        "less than 1 together",
    ),
    case("a share in words", call(dqc.split_by_subject, without_roles(), test="half"), TypeError, "test", "'half'"),
    case("a cohort that is split already", call(dqc.split_by_subject, make_cohort()), ValueError, "roles already"),
    case("a seed below 0", call(dqc.split_by_subject, without_roles(), seed=-1), ValueError, "seed", "got -1"),
    case("a seed in words", call(dqc.divide_held_out, make_cohort(), seed="0"), TypeError, "seed", "got '0'"),
    case(
        "a share of more than all",
        call(dqc.divide_held_out, make_cohort(), verification=1.5),
        ValueError,
        "verification is 1.5",
        "from 0 to 1",
    ),
    case(
        "a center that nobody is in", lambda f: make_cohort().select(centers="C"), ValueError, "center 'C'", "'A', 'B'"
    ),
]

VOLUMES = [
    case("a volume that is nowhere", lambda f: dqc.read_volume(f / "a.nii"), FileNotFoundError, "a.nii: no such file"),
    case(
        "a folder in place of a volume",
        lambda f: dqc.read_volume(f / "a.nii"),
        FileNotFoundError,
        "a.nii: no such",
        prepare=lambda folder: (folder / "a.nii").mkdir(),
    ),
    case("a number as a volume's path", call(dqc.read_volume, 7), TypeError, "path must be a path", "got 7"),
    case(
        "a picture in place of a volume",
        lambda f: dqc.read_volume(f / "a.png"),
        ValueError,
        "a.png: not named as",
        prepare=write("a.png", b"\x89PNG"),
    ),
    case(
        "an empty volume",
        lambda f: dqc.read_volume(f / "a.nii"),
        ValueError,
        "a.nii: truncated, 0 bytes",
        prepare=write("a.nii", b""),
    ),
    case(
        "a text in place of a volume",
        lambda f: dqc.read_volume(f / "a.nii"),
        ValueError,
        "a.nii: unreadable",
        prepare=write("a.nii", b"years of work " * 100),
    ),
    case(
        "a header that ends too early",
        lambda f: dqc.read_volume(f / "a.nii"),
        ValueError,
        "a.nii: truncated, 100",
        prepare=nifti(cut=100),
    ),
    case(
        "voxels that end too early",
        lambda f: dqc.read_volume(f / "a.nii"),
        ValueError,
        "truncated, 48 bytes",
        "expected 64",
        prepare=nifti(cut=400),
    ),
    case(
        "compressed data that end too early",
        lambda f: dqc.read_volume(f / "a.nii.gz", subject="sub-1"),
        ValueError,
        "subject 'sub-1'",
        "a.nii.gz: truncated",
        prepare=nifti(name="a.nii.gz", cut=40),
    ),
    case(
        "two files in place of one",
        lambda f: dqc.read_volume(f / "a.nii"),
        ValueError,
        "a.nii: unreadable",
        prepare=nifti(magic=b"ni1\0"),
    ),
    case(
        "a volume of two axes",
        lambda f: dqc.read_volume(f / "a.nii"),
        ValueError,
        "a.nii: 2-D",
        "expected one 3-D",
        prepare=nifti(sizes=(2, 4, 4)),
    ),
    case(
        "a volume of four axes",
        lambda f: dqc.read_volume(f / "a.nii"),
        ValueError,
        "a.nii: 4-D, sizes (4, 4, 2, 2)",
        prepare=nifti(sizes=(4, 4, 4, 2, 2)),
    ),
    case(
        "a size below 0",
        lambda f: dqc.read_volume(f / "a.nii"),
        ValueError,
        "a.nii: damaged header",
        "(4, -4, 4)",
        prepare=nifti(sizes=(3, 4, -4, 4)),
    ),
    case(
        "colours in place of intensities",
        lambda f: dqc.read_volume(f / "a.nii"),
        ValueError,
        "voxel type 128",
        prepare=nifti(voxel=128),
    ),
    case(
        "complex voxels", lambda f: dqc.read_volume(f / "a.nii"), ValueError, "voxel type 32", prepare=nifti(voxel=32)
    ),
    case(
        "voxels that are no numbers",
        lambda f: dqc.read_volume(f / "a.nii"),
        ValueError,
        "64 of 64 voxels are NaN",
        prepare=nifti(voxel=16, fill=math.nan),
    ),
    case(
        "more voxels than allowed",
        lambda f: dqc.read_volume(f / "a.nii", max_voxels=63),
        ValueError,
        "64 voxels",
        "at most 63",
        prepare=nifti(),
    ),
    case(
        "another shape than expected",
        lambda f: dqc.read_volume(f / "a.nii", shape=(4, 4, 5)),
        ValueError,
        "a.nii: shape (4, 4, 4)",
        "expected (4, 4, 5)",
        prepare=nifti(),
    ),
    case(
        "one number as a shape",
        lambda f: dqc.read_volume(f / "a.nii", shape=4),
        TypeError,
        "shape must be",
        "got 4",
        prepare=nifti(),
    ),
    case(
        "an orientation of no axis",
        lambda f: dqc.read_volume(f / "a.nii", orientation="RAX"),
        ValueError,
        "orientation is 'RAX'",
        prepare=nifti(),
    ),
    case(
        "a number as an orientation",
        lambda f: dqc.read_volume(f / "a.nii", orientation=5),
        TypeError,
        "orientation must be a text",
        "got 5",
        prepare=nifti(),
    ),
    case(
        "voxels in words",
        lambda f: dqc.read_volume(f / "a.nii", max_voxels="many"),
        TypeError,
        "max_voxels must be a whole number",
        "got 'many'",
        prepare=nifti(),
    ),
    case(
        "rows of other lengths as a volume",
        lambda f: dqc.write_volume(f / "a.nii", [[[1], [1, 2]]], affine=np.eye(4)),
        TypeError,
        "array must be numbers",
        "[[[1], [1, 2]]]",
    ),
    case(
        "words as an affine", lambda f: dqc.write_volume(f / "a.nii", IMAGE, affine="RAS"), TypeError, "affine", "'RAS'"
    ),
    case(
        "an unknown type of voxels",
        lambda f: dqc.write_volume(f / "a.nii", IMAGE, affine=np.eye(4), dtype="colour"),
        TypeError,
        "a.nii: dtype",
        "'colour'",
    ),
    case(
        "infinite voxels to write",
        lambda f: dqc.write_volume(f / "a.nii", IMAGE * math.inf, affine=np.eye(4)),
        ValueError,
        "a.nii: array of shape (2, 2, 2)",
        "infinite",
    ),
    case("a list in place of an array", call(dqc.Volume, [[[1]]], np.eye(4)), TypeError, "array must be a NumPy array"),
    case("a list of paths", call(dqc.VolumeCache, ["a.nii"]), TypeError, "paths must be a Mapping", "got ['a.nii']"),
    case(
        "memory in words", call(dqc.VolumeCache, {"a": "a.nii"}, max_bytes="2 GiB"), TypeError, "max_bytes", "'2 GiB'"
    ),
    case(
        "a subject without a path", lambda f: dqc.VolumeCache({"a": f / "a.nii"})["b"], KeyError, "no path for", "'b'"
    ),
    case("words as intensities", call(dqc.rescale_to_uint8, ["dark"]), TypeError, "must hold numbers", "['dark']"),
    case("an upper end that is the lower", call(dqc.rescale_to_uint8, IMAGE, upper=0), ValueError, "upper is 0"),
]

LEDGERS = [
    case("a ledger that is nowhere", lambda f: dqc.Ledger.read(f / "no"), FileNotFoundError, "no: no such file"),
    case("a folder in place of a ledger", dqc.Ledger, IsADirectoryError, "is a folder; expected a ledger"),
    case("a number as a ledger's path", call(dqc.Ledger, 5), TypeError, "path must be a path", "got 5"),
    case(
        "a letter in place of a ledger",
        lambda f: dqc.Ledger(f / "thesis.txt"),
        ValueError,
        "thesis.txt, line 1",
        "years of work",
        prepare=write("thesis.txt", "years of work"),
    ),
    case(
        "a line that is no row",
        lambda f: dqc.Ledger(f / "ledger.jsonl"),
        ValueError,
        "ledger.jsonl, line 2: not JSON",
        prepare=ledger_lines(make_row(), "nonsense", make_row()),
    ),
    case(
        "a row with brackets without end",
        lambda f: dqc.Ledger(f / "ledger.jsonl"),
        ValueError,
        "ledger.jsonl, line 1: not JSON",
        prepare=ledger_lines("[" * 100_000),
    ),
    case(
        "a ledger in another encoding",
        lambda f: dqc.Ledger.read(f / "ledger.jsonl"),
        ValueError,
        "line 1: not JSON",
        prepare=write("ledger.jsonl", b'{"center": "\xe9"}\n'),
    ),
    case(
        "a list in place of a row",
        lambda f: dqc.Ledger.read(f / "ledger.jsonl"),
        ValueError,
        "line 1",
        "'cycle'",
        prepare=ledger_lines("[1, 2]"),
    ),
    case(
        "a row without a key",
        lambda f: dqc.Ledger.read(f / "ledger.jsonl"),
        ValueError,
        "line 2",
        "'n' is missing",
        prepare=ledger_lines(make_row(), {name: make_row()[name] for name in COLUMNS if name != "n"}),
    ),
    case(
        "a row with a key too many",
        lambda f: dqc.Ledger.read(f / "ledger.jsonl"),
        ValueError,
        "unknown key 'colour'",
        prepare=ledger_lines(make_row() | {"colour": "red"}),
    ),
    case(
        "an unknown decision",
        append(decision="ignored"),
        ValueError,
        "decision is 'ignored'",
        "expected one of",
        prepare=write("new.jsonl", ""),
    ),
    case(
        "a cycle that no column holds",
        append(cycle=2**63),
        ValueError,
        "cycle is 9223372036854775808",
        "an integer",
        prepare=write("new.jsonl", ""),
    ),
    case(
        "a duration of four hundred digits",
        lambda f: dqc.Ledger.read(f / "ledger.jsonl"),
        ValueError,
        "line 1: seconds is a value of type int",
        prepare=ledger_lines(make_row(seconds=10**400)),
    ),
    case(
        "half a character as a center",
        append(center="\ud800"),
        TypeError,
        "center holds '\\ud800'",
        prepare=write("new.jsonl", ""),
    ),
    case(
        "a list as a stage",
        append(stage=["control"]),
        ValueError,
        "stage is ['control']",
        "expected one of",
        prepare=write("new.jsonl", ""),
    ),
    case(
        "a cycle of a half", append(cycle=1.5), TypeError, "cycle is 1.5", "an integer", prepare=write("new.jsonl", "")
    ),
    case(
        "one subject as a text",
        append(subjects="sub-1"),
        TypeError,
        "subjects is 'sub-1'",
        "expected a list",
        prepare=write("new.jsonl", ""),
    ),
    case(
        "more errors than subjects",
        append(fp=3, n_neg=2),
        ValueError,
        "fp is 3 and n_neg is 2",
        prepare=write("new.jsonl", ""),
    ),
    case("a list in place of a ledger's table", call(dqc.summarize_subjects, [1]), TypeError, "ledger", "got [1]"),
    case(
        "a table without decisions",
        call(dqc.summarize_centers, make_frame().drop(columns="decision")),
        KeyError,
        "no column 'decision'",
    ),
    case(
        "a ledger to replay without stages",
        call(dqc.replay, pd.DataFrame({"n": [1]}), dqc.PublishedRule()),
        KeyError,
        "no column 'cycle'",
    ),
    case(
        "a class in place of a rule", call(dqc.replay, make_frame(), dqc.PublishedRule), TypeError, "rule must be one"
    ),
    case(
        "a ledger without norms for a rule that needs them",
        call(dqc.replay, make_frame(), dqc.CalibratedRule(5.0)),
        ValueError,
        "needs the update norm",
    ),
]

CHECKPOINTS = [
    case("a checkpoint that is nowhere", load_model, FileNotFoundError, "model.keras: no such file"),
    case(
        "a folder in place of a checkpoint",
        load_model,
        FileNotFoundError,
        "model.keras: no such file",
        prepare=lambda folder: (folder / "model.keras").mkdir(),
    ),
    case(
        "an empty checkpoint",
        load_model,
        ValueError,
        "model.keras: damaged",
        prepare=checkpoint(lambda good: b""),
    ),
    case(
        "a text in place of a checkpoint",
        load_model,
        ValueError,
        "model.keras: damaged",
        prepare=checkpoint(lambda good: b"years of work"),
    ),
    case(
        "half a checkpoint",
        load_model,
        ValueError,
        "model.keras: damaged",
        prepare=checkpoint(lambda good: good[: len(good) // 2]),
    ),
    case(
        "a checkpoint with a hole",
        load_model,
        ValueError,
        "model.keras: damaged",
        prepare=checkpoint(lambda good: good[:2000] + bytes(2000) + good[4000:]),
    ),
    case(
        "a checkpoint without weights",
        load_model,
        ValueError,
        "model.keras: it holds",
        "expected ['config.json'",
        prepare=checkpoint(strip_member("model.weights.h5")),
    ),
    case(
        "a checkpoint without a network",
        load_model,
        ValueError,
        "model.keras: it holds",
        "expected ['config.json'",
        prepare=checkpoint(strip_member("config.json")),
    ),
    case(
        "a checkpoint of another network",
        load_model,
        ValueError,
        "model.keras",
        "it holds another network",
        prepare=save_other_network,
    ),
    case("a number as a checkpoint's path", call(dqc.load_sfcn, 3), TypeError, "path must be a path", "got 3"),
    case("a scale that is nowhere", load_scale, FileNotFoundError, "scale.npz: no such file"),
    case("an empty scale", load_scale, ValueError, "scale.npz: damaged", prepare=write("scale.npz", b"")),
    case(
        "a text in place of a scale",
        load_scale,
        ValueError,
        "scale.npz: damaged",
        prepare=write("scale.npz", b"x" * 99),
    ),
    case(
        "a scale cut short", load_scale, ValueError, "scale.npz: damaged", prepare=write("scale.npz", b"PK\x03\x04" * 9)
    ),
    case(
        "a scale without a count",
        load_scale,
        ValueError,
        "scale.npz: damaged",
        "count",
        prepare=save_arrays(total=np.ones(3), reference=1.0),
    ),
    case(
        "a scale whose parts are of another model",
        load_scale,
        ValueError,
        "scale.npz: damaged",
        "do not fit",
        prepare=save_arrays(total=np.ones(3), count=1, reference=1.0, parts=np.ones(4, int)),
    ),
    case(
        "a scale with code in it",
        load_scale,
        ValueError,
        "scale.npz: damaged",
        "pickle",
        prepare=save_arrays(total=np.array([{}], dtype=object), count=1, reference=1.0),
    ),
]

RUNS = [
    case(
        "a note that ends too early",
        open_run,
        ValueError,
        "run.json: damaged, not JSON",
        "expected the note of a run",
        prepare=run_with(note=b'{"finished": tr'),
    ),
    case("an empty note", open_run, ValueError, "run.json: damaged, not JSON", prepare=run_with(note=b"")),
    case(
        "a note in another encoding",
        open_run,
        ValueError,
        "run.json: damaged, not JSON",
        prepare=run_with(note=b"\xff"),
    ),
    case(
        "a list in place of a note",
        open_run,
        ValueError,
        "run.json: damaged, no 'settings'",
        prepare=run_with(note=b"[]"),
    ),
    case(
        "a note without an end",
        open_run,
        ValueError,
        "run.json: damaged, no 'finished'",
        prepare=run_with(note=b'{"settings": {"name": "qc"}}'),
    ),
    case(
        "a run of other settings",
        lambda f: RunFolder(f / "run", {"name": "dirty"}),
        ValueError,
        "another run",
        "name",
        prepare=run_with(),
    ),
    case(
        "files that are no run",
        lambda f: RunFolder(f, {"name": "qc"}),
        ValueError,
        "not a run",
        "empty folder",
        prepare=write("thesis.txt", "years of work"),
    ),
    case(
        "a file in place of a run's folder",
        lambda f: RunFolder(f / "a" / "b", {"name": "qc"}),
        NotADirectoryError,
        "a is a file",
        "expected a folder",
        prepare=write("a", "x"),
    ),
    case(
        "settings that JSON cannot hold",
        lambda f: RunFolder(f / "run", {"rates": {1, 2}}),
        TypeError,
        "'rates'",
        "JSON",
    ),
    case(
        "empty predictions",
        read_predictions,
        ValueError,
        "predictions.csv: damaged",
        "subject, arm",
        prepare=run_with(predictions=""),
    ),
    case(
        "predictions without scores",
        read_predictions,
        ValueError,
        "predictions.csv: damaged, column 'score'",
        prepare=run_with(predictions="subject,diagnosis,arm,cycle\na,1,qc,0\n"),
    ),
    case(
        "predictions that end too early",
        read_predictions,
        ValueError,
        "predictions.csv: damaged, column 'cycle'",
        prepare=run_with(predictions=PREDICTIONS + "a,1,0.5,qc,0\nb,0,0.5\n"),
    ),
    case(
        "scores in words",
        read_predictions,
        ValueError,
        "predictions.csv: damaged, column 'score'",
        "numbers",
        prepare=run_with(predictions=PREDICTIONS + "a,1,high,qc,0\n"),
    ),
    case(
        "predictions in another encoding",
        read_predictions,
        ValueError,
        "predictions.csv: damaged",
        prepare=run_with(predictions=PREDICTIONS.encode() + b"\xff,1,0.5,qc,0\n"),
    ),
    case(
        "a verification without a column",
        read_verification,
        ValueError,
        "verification.csv: damaged, column 'n_pos'",
        prepare=run_with(verification="cycle,fp,n_neg,fn\n0,1,2,1\n"),
    ),
    case(
        "half a false positive",
        read_verification,
        ValueError,
        "verification.csv: damaged, column 'fp'",
        "whole",
        prepare=run_with(verification="cycle,fp,n_neg,fn,n_pos\n0,0.5,2,1,2\n"),
    ),
    case(
        "a pre-training whose note is damaged",
        lambda f: open_study(f).pretrain(),
        ValueError,
        "run.json: damaged",
        prepare=study_with(lambda path: (path / "run.json").write_text('{"finished": true, "sett')),
    ),
    case(
        "a pre-training without its ledger",
        lambda f: open_study(f).pretrain(),
        FileNotFoundError,
        "ledger.jsonl",
        prepare=study_with(lambda path: (path / "ledger.jsonl").unlink()),
    ),
    case(
        "a pre-training whose model is damaged",
        lambda f: open_study(f).open_engine(),
        ValueError,
        "pretrained.keras",
        prepare=study_with(lambda path: (path / "pretrained.keras").write_bytes(b"PK")),
    ),
    case(
        "a run's name that climbs",
        run_arm("dirty", name="../mine"),
        ValueError,
        "name",
        "'../mine'",
        prepare=prepare_study,
    ),
    case(
        "a run's name with a slash",
        run_arm("dirty", name="a/b"),
        ValueError,
        "name",
        "without '/'",
        "'a/b'",
        prepare=prepare_study,
    ),
    case("a run without a name", run_arm("dirty", name=""), ValueError, "name", "got ''", prepare=prepare_study),
    case(
        "a run's name with a line break",
        run_arm("dirty", name="a\nb"),
        ValueError,
        "name",
        "'a\\nb'",
        prepare=prepare_study,
    ),
    case(
        "a run's name too long for a folder",
        run_arm("dirty", name="x" * 300),
        ValueError,
        "name",
        "at most 200 bytes",
        prepare=prepare_study,
    ),
    case(
        "a number as a run's name",
        run_arm("dirty", name=3),
        TypeError,
        "name must be a text",
        "got 3",
        prepare=prepare_study,
    ),
    case("an unknown arm", run_arm("filthy"), ValueError, "arm must be one of", "'filthy'", prepare=prepare_study),
    case("an arm without its rule", run_arm("qc"), ValueError, "arm 'qc' needs a rule", prepare=prepare_study),
    case(
        "an unknown rule", run_arm("qc", rule="strict"), ValueError, "rule must be", "'strict'", prepare=prepare_study
    ),
    case(
        "a number as a rule",
        run_arm("qc", rule=0.02),
        TypeError,
        "rule must be one such as PublishedRule()",
        "'asks'",
        "got 0.02",
        prepare=prepare_study,
    ),
    case(
        "a dictionary in place of a schedule",
        lambda f: open_study(f, schedule={"seed": 1}),
        TypeError,
        "schedule must be a Schedule",
        "{'seed': 1}",
    ),
    case("a table in place of a study's cohort", lambda f: open_study(f, make_table()), TypeError, "cohort must be"),
    case("trust in strangers", lambda f: open_study(f, pretrain_on=["sub-9"]), ValueError, "pretrain_on", "['sub-9']"),
    case("trust in a number", lambda f: open_study(f, pretrain_on=5), TypeError, "pretrain_on must be a list", "got 5"),
    case("an unknown way to verify", lambda f: open_study(f, verifying="fast"), ValueError, "verifying", "'fast'"),
    case(
        "an arm whose model is damaged",
        lambda f: dqc.Arm("qc", make_frame(), pd.DataFrame(), pd.DataFrame(), f).score(
            dqc.Cohort(make_table(path=str(f / "a.nii"), subject=[f"new-{at}" for at in range(8)]), f)
        ),
        ValueError,
        "cycle-000.keras: damaged",
        prepare=lambda folder: (nifti()(folder), (folder / "cycle-000.keras").write_bytes(b"PK")),
    ),
]

PLANS = [
    case("a plan for nobody", plan({"A": []}), ValueError, "at least one training subject"),
    case("a plan for a list", plan(["sub-1"]), TypeError, "subjects must be a Mapping", "['sub-1']"),
    case("a plan for one subject as a text", plan({"A": "sub-1"}), TypeError, "subjects of center 'A'", "'sub-1'"),
    case("a plan for numbers", plan({"A": [1, 2]}), TypeError, "subjects of center 'A'", "got 1 among them"),
    case("a subject at two centers", plan({"A": ["x"], "B": ["x"]}), ValueError, "subject 'x'", "'A' and 'B'"),
    case("batches of none", plan({"A": ["x"]}, batch_size=0), ValueError, "batch_size", "at least 1", "got 0"),
    case("batches in words", plan({"A": ["x"]}, batch_size="5"), TypeError, "batch_size", "got '5'"),
    case("one learning rate in place of a list", plan({"A": ["x"]}, learning_rates=1e-3), TypeError, "learning_rates"),
    case(
        "a learning rate in words", plan({"A": ["x"]}, learning_rates=["fast"]), TypeError, "learning_rates", "'fast'"
    ),
    case("a learning rate of 0", plan({"A": ["x"]}, learning_rates=[0.0]), ValueError, "learning_rate", "got 0.0"),
    case("a plan's seed below 0", plan({"A": ["x"]}, seed=-1), ValueError, "seed", "got -1"),
    case(
        "subjects in place of batches", call(Visit, "A", ("sub-1",)), TypeError, "a batch of Visit.batches", "'sub-1'"
    ),
    case("an empty batch", call(Visit, "A", ((),)), ValueError, "center 'A'", "empty"),
    case("a number as a center", call(Visit, 3, ()), TypeError, "Visit.center", "got 3"),
    case("a cycle before the first", call(dqc.Cycle, -1, 1e-3, ()), ValueError, "Cycle.number", "got -1"),
    case("a center's name in place of a visit", call(dqc.Cycle, 0, 1e-3, ("A",)), TypeError, "Cycle.visits", "'A'"),
    case("a learning rate that is none", call(dqc.Cycle, 0, math.nan, ()), ValueError, "Cycle.learning_rate", "nan"),
]

SCHEDULES = [
    case("cycles below 0", schedule(warm_cycles=-1), ValueError, "Schedule.warm_cycles must be >= 0", "-1"),
    case("cycles in words", schedule(control_cycles="8"), TypeError, "Schedule.control_cycles", "whole", "'8'"),
    case("half a cycle", schedule(calm_cycles=0.5), TypeError, "Schedule.calm_cycles", "whole number", "0.5"),
    case("no cycle at all", schedule(warm_cycles=0, calm_cycles=0, control_cycles=0), ValueError, "at least one cycle"),
    case("a learning rate without end", schedule(learning_rate=math.inf), ValueError, "Schedule.learning_rate", "inf"),
    case("nothing as a learning rate", schedule(calm_learning_rate=None), TypeError, "Schedule.calm_learning_rate"),
    case("all dropped out", schedule(dropout=1.0), ValueError, "Schedule.dropout", "got 1.0"),
    case("a batch of two and a half", schedule(batch_size=2.5), TypeError, "Schedule.batch_size", "got 2.5"),
    case("yes in place of a number", schedule(revisit_after=True), TypeError, "Schedule.revisit_after", "True"),
    case("a width in words", schedule(width="wide"), TypeError, "Schedule.width", "'wide'"),
    case("a schedule's seed below 0", schedule(seed=-5), ValueError, "Schedule.seed", "-5"),
    case("a precision of half", schedule(precision="half"), ValueError, "Schedule.precision", "'bfloat16'", "'half'"),
    case("a decay that is none", schedule(decay=math.nan), ValueError, "Schedule.decay", "nan"),
]

RULES = [
    case("a tolerance in words", call(dqc.PublishedRule, "0.02"), TypeError, "tolerance must be a number", "'0.02'"),
    case("a tolerance below 0", call(dqc.PublishedRule, -0.1), ValueError, "tolerance", ">= 0", "-0.1"),
    case("unknown denominators", call(dqc.PublishedRule, 0.1, "other"), ValueError, "denominators", "'other'"),
    case("a limit in words", call(dqc.CalibratedRule, "5"), TypeError, "limit must be a number", "'5'"),
    case("a limit of 0", call(dqc.CalibratedRule, 0.0), ValueError, "limit must be a positive", "0.0"),
    case("a pooled limit above the limit", call(dqc.CalibratedRule, 1.0, 2.0), ValueError, "pooled_limit", "got 2.0"),
    case("half a subject to acquit", call(dqc.CalibratedRule, 1.0, acquittal=0.5), TypeError, "acquittal", "0.5"),
    case("nothing watched", call(dqc.CalibratedRule.from_watch, watched(0)), ValueError, "needs a watched cycle"),
    case(
        "a watched cycle without norms",
        call(dqc.CalibratedRule.from_watch, watched()[["n"]]),
        KeyError,
        "'update_norm'",
    ),
    case("a list as a watched cycle", call(dqc.CalibratedRule.from_watch, [1.0]), TypeError, "table", "[1.0]"),
    case("a reach in words", call(dqc.CalibratedRule.from_watch, watched(), reach="far"), TypeError, "reach", "'far'"),
    case(
        "too few watched for a guarantee",
        call(dqc.CalibratedRule.with_guarantee, watched()),
        ValueError,
        "needs at least 89 watched images",
        "got 3",
    ),
    case(
        "a guarantee of nothing", call(dqc.CalibratedRule.with_guarantee, watched(), alpha=1), ValueError, "alpha", "1"
    ),
    case("looks and a half", call(dqc.CalibratedRule.with_guarantee, watched(), looks=2.5), TypeError, "looks", "2.5"),
    case("more errors than there are subjects", call(Counts, 3, 2, 0, 0), ValueError, "fp=3", "expected 0 <= fp"),
    case("half an error", call(Counts, 0.5, 2, 0, 0), TypeError, "fp must be a whole number", "0.5"),
    case("counts in words", call(Counts, 0, "2", 0, 0), TypeError, "n_neg must be a whole number", "'2'"),
    case("no cycle until a revisit", call(dqc.Docket, 0), ValueError, "revisit_after", "got 0"),
    case("cycles until a revisit in words", call(dqc.Docket, "2"), TypeError, "revisit_after", "'2'"),
    case("a revisit of somebody who does not wait", call(dqc.Docket().close, "a", harmful=True), KeyError, "'a'"),
    case("a drift from no counts", call(dqc.DriftGuard, (1, 2, 3, 4)), TypeError, "floor must be a Counts"),
    case("drift from the first error on", call(dqc.DriftGuard, Counts(0, 1, 0, 1), 0.0), ValueError, "limit", "0.0"),
    case("a p-value of 0", call(dqc.accumulate_evidence, [0.0], level=0.1), ValueError, "p-values", "[0.0]"),
    case("p-values in words", call(dqc.accumulate_evidence, ["low"], level=0.1), TypeError, "p_values", "['low']"),
    case("a level in words", call(dqc.accumulate_evidence, [0.1], level="5 %"), TypeError, "level", "'5 %'"),
    case("ranks among nothing", call(dqc.rank_among, [1.0], [math.nan]), ValueError, "no finite one came"),
    case("ranks among words", call(dqc.rank_among, [1.0], ["a"]), TypeError, "watched", "['a']"),
]

PARAMETERS = [
    case("a network for a plane", call(dqc.build_sfcn, (16, 16)), ValueError, "shape must be three", "(16, 16)"),
    case("a network for one number", call(dqc.build_sfcn, 16), TypeError, "shape", "got 16"),
    case("sizes in words", call(dqc.build_sfcn, (16, 16, "16")), TypeError, "shape", "'16'"),
    case("a width for five layers", call(dqc.build_sfcn, SHAPE, width=[1] * 5), ValueError, "width", "[1, 1, 1, 1, 1]"),
    case("a width that is a word", call(dqc.build_sfcn, SHAPE, width="narrow"), TypeError, "width", "'narrow'"),
    case("more dropout than all", call(dqc.build_sfcn, SHAPE, dropout=1.5), ValueError, "dropout", "1.5"),
    case(
        "a learning rate below 0", call(dqc.build_sfcn, SHAPE, learning_rate=-1.0), ValueError, "learning_rate", "-1.0"
    ),
    case("a network's seed below 0", call(dqc.build_sfcn, SHAPE, seed=-1), ValueError, "seed", "-1"),
    case("a threshold in words", call(dqc.LocalCenters, make_cohort(), None, threshold="0.5"), TypeError, "threshold"),
    case(
        "a threshold that is none",
        call(dqc.LocalCenters, make_cohort(), None, threshold=math.nan),
        ValueError,
        "threshold",
        "nan",
    ),
    case("an unknown harm", call(dqc.apply_harm, IMAGE, "rust"), KeyError, "'rust'", "'inversion'"),
    case(
        "a strength in words",
        call(dqc.apply_harm, IMAGE, "inversion", strength="full"),
        TypeError,
        "strength",
        "'full'",
    ),
    case("a strength above all", call(dqc.apply_harm, IMAGE, "inversion", strength=7), ValueError, "from 0 to 1", "7"),
    case("a scale in words", call(dqc.apply_harm, IMAGE, "inversion", maximum="255"), TypeError, "maximum", "'255'"),
    case("a mark with a strength in words", call(dqc.parse_harm, "inversion @ full"), ValueError, "'inversion @ full'"),
    case("a number as a mark", call(dqc.parse_harm, 3), TypeError, "mark must be a text", "got 3"),
    case(
        "harm at an unknown center", call(dqc.place_harm, make_cohort(), kind="blank", centers=["C"]), ValueError, "'C'"
    ),
    case(
        "harm at one center as a text", call(dqc.place_harm, make_cohort(), kind="blank", centers="A"), TypeError, "'A'"
    ),
    case("harm at half a center", call(dqc.place_harm, make_cohort(), kind="blank", centers=0.5), TypeError, "centers"),
    case(
        "half a harmful image", call(dqc.place_harm, make_cohort(), kind="blank", n_single=1.5), TypeError, "n_single"
    ),
    case(
        "harm in a folder that holds other notes",
        lambda f: dqc.write_harmful(dqc.place_harm(make_cohort(), kind="blank", centers=["A"]), f),
        ValueError,
        "harm.json: damaged",
        prepare=write("harm.json", '{"seed": '),
    ),
    case(
        "harm in a folder whose note is a list",
        lambda f: dqc.write_harmful(dqc.place_harm(make_cohort(), kind="blank", centers=["A"]), f),
        ValueError,
        "harm.json: damaged, not a JSON object",
        prepare=write("harm.json", "[]"),
    ),
    case(
        "a folder in place of a note",
        lambda f: dqc.write_phantoms(f, progress=False),
        ValueError,
        "recipe.json: damaged",
        "it is a folder",
        prepare=lambda folder: (folder / "recipe.json").mkdir(),
    ),
    case(
        "phantoms in a folder whose note is damaged",
        lambda f: dqc.write_phantoms(f, progress=False),
        ValueError,
        "recipe.json: damaged",
        prepare=write("recipe.json", "{"),
    ),
    case("a recipe in words", call(Recipe, disease="strong"), TypeError, "Recipe.disease", "'strong'"),
    case("phantoms at unknown sites", call(dqc.draw_subjects, "everywhere"), ValueError, "sites", "'everywhere'"),
    case("fewer than no patients", call(dqc.draw_subjects, [(1, -1)]), ValueError, "each count of sites", "-1"),
    case("numbers in place of pairs", call(dqc.draw_subjects, [3, 4]), ValueError, "sites must hold pairs", "(3,)"),
    case("scores in place of diagnoses", call(dqc.score_predictions, [0.5], [0.5]), ValueError, "diagnosis", "0.5"),
    case("a score in words", call(dqc.score_predictions, [1], ["high"]), TypeError, "score", "['high']"),
    case("a score that is none", call(dqc.score_predictions, [1], [math.nan]), ValueError, "1 of 1 are NaN"),
    case(
        "a threshold for scores in words",
        call(dqc.score_predictions, [1], [0.5], threshold="x"),
        TypeError,
        "threshold",
    ),
    case("a list in place of predictions", call(dqc.evaluate_subgroups, [1], by=["sex"]), TypeError, "table", "[1]"),
    case("predictions without a column", call(dqc.evaluate_cycles, pd.DataFrame({"arm": ["a"]})), KeyError, "'cycle'"),
    case(
        "eliminated strangers", call(dqc.compare_to_truth, ["x"], make_cohort(harm="", placement="")), ValueError, "'x'"
    ),
    case("a truth that is hidden", call(dqc.compare_to_truth, [], make_cohort()), KeyError, "'harm'"),
    case(
        "a number in place of an effect",
        call(dqc.compute_alarm, 0.1, tolerance=0.1, n_neg=1, n_pos=1),
        TypeError,
        "effect must be a StepEffect",
        "0.1",
    ),
    case("chances of more than 1", call(dqc.StepEffect, 0.6, 0.6), ValueError, "at most 1 together"),
    case("a chance in words", call(dqc.repeat_alarm, "often", attempts=2), TypeError, "chance", "'often'"),
    case(
        "half a verification subject",
        call(dqc.compute_alarm, STEP, tolerance=0.1, n_neg=0.5, n_pos=1),
        ValueError,
        "n_neg must be a whole number",
        "0.5",
    ),
]
HARMONIZATION = [
    case(
        "a step of harmonization that is none",
        lambda f: harmonize_images(make_cohort(), f / "even", steps=["blur"]),
        *(ValueError, "steps must be some of ('bias', 'intensity')", "blur"),
    ),
    case("an image of one intensity", call(measure_landmarks, np.ones((4, 4, 4))), ValueError, "came from 1 to 1"),
    case("regions with a confounding above 1", call(RegionRecipe, confounding=2), ValueError, "from 0 to 1", "got 2"),
    case(
        "a sidecar that is a list",
        read_acquisition,
        ValueError,
        *("T1w.json", "not a JSON object", "expected the note of an acquisition"),
        prepare=lambda f: (write_bids_folder(f, *LINES), write("T1w.json", "[]")(f)),
    ),
    case(
        "a folder of headers that is none",
        lambda f: read_acquisition(make_cohort(), headers=f / "nowhere"),
        *(FileNotFoundError, "nowhere: no such folder", "expected one with sidecars"),
    ),
    case("a protocol in ms", call(Protocol, {"echo_time": (3, 1)}), ValueError, "'echo_time'", "to 0.5 s", "got 3"),
    case("a score that is the same for all", call(find_groups, pd.DataFrame({"mood": [1] * 9})), ValueError, "'mood'"),
    case(
        "groups and sites of other subjects",
        call(associate_with_site, pd.Series(["A"], index=["s1"]), pd.Series(["X"], index=["s2"])),
        *(ValueError, "subject 's1'", "expected the same subjects"),
    ),
    case("an array for a recording", call(prepare_eeg, np.zeros((2, 9))), TypeError, "raw must be one of MNE's"),
    case("an array for a B-scan", call(prepare_scans, [np.zeros((9, 9))]), TypeError, "image 0 must be a SimpleITK"),
    case("images brighter than 1", call(fit_components, np.full((2, 9, 9), 255)), ValueError, "from 0 to 1", "255"),
    case(
        "a subject with two labels",
        call(LabelledScans, np.zeros((2, 9, 9)), [0, 1], ["s1", "s1"]),
        *(ValueError, "one label", "'s1' have several"),
    ),
]

RECORDS = np.zeros((12, 4, 3), dtype=np.float32)
SYNTHESIS = [
    case("hospitals with a shift above 1", call(HospitalRecipe, shift=2), ValueError, "from 0 to 1", "got 2"),
    case("a hospital of nobody", call(HospitalRecipe, patients=(3, 0)), ValueError, "hospital 2 must be", "got 0"),
    case("records in a list", call(measure_fidelity, [[[0]]], RECORDS), TypeError, "real must be an array", "[[[0]]]"),
    case("records without visits", call(summarize_records, RECORDS[:, 0]), ValueError, "(patients, visits", "(12, 3)"),
    case(
        "counts in place of codes",
        call(shuffle_visits, RECORDS + 2, seed=1),
        *(ValueError, "0 and 1 alone", "got 2.0", "patient 0, visit 0, code 0"),
    ),
    case("a shuffle's seed in words", call(shuffle_visits, RECORDS, seed="1"), TypeError, "seed", "'1'"),
    case("too few patients to be summed up", call(summarize_records, RECORDS[:9]), ValueError, "at least 10", "got 9"),
    case("a bandwidth of 0", call(summarize_records, RECORDS, bandwidth=0), ValueError, "bandwidth", "got 0"),
    case("records in place of summaries", call(report_shift, {"A": RECORDS}), TypeError, "'A'", "a RecordSummary"),
    case(
        "a hospital with other visits",
        call(measure_shift, {"A": RECORDS, "B": RECORDS[:, :3]}),
        *(ValueError, "hospitals['B']", "(4, 3)", "(3, 3)"),
    ),
    case("a list in place of hospitals", call(measure_shift, [RECORDS]), TypeError, "hospitals must be a Mapping"),
    case("a hospital of one to be told apart", call(tell_apart, RECORDS[:1], RECORDS), ValueError, "20 patients", "1"),
    case(
        "synthetic records of other codes", call(measure_fidelity, RECORDS, RECORDS[:, :, :2]), ValueError, "synthetic"
    ),
    case("no resample", call(estimate_fidelity_intervals, RECORDS, RECORDS, n_resamples=0), ValueError, "n_resamples"),
    case("names of other codes", call(tabulate_codes, RECORDS, RECORDS, ["a"]), ValueError, "of 3 codes", "got 1"),
    case("no lag", call(tabulate_autocorrelation, {"A": RECORDS}, lags=0), ValueError, "lags", "got 0"),
    case("no pair of codes", call(measure_with_sdmetrics, RECORDS, RECORDS, most_pairs=0), ValueError, "most_pairs"),
    case("a task without codes", call(Task, ()), ValueError, "Task.outcome", "got none"),
    case(
        "a code that no record has",
        call(evaluate_utility, RECORDS, {"A": RECORDS}, {"A": RECORDS}, task=Task((7,))),
        *(ValueError, "Task.outcome", "below 3", "got 7"),
    ),
    case(
        "a hospital without training patients",
        call(evaluate_utility, RECORDS, {"A": RECORDS}, {"B": RECORDS}, task=Task((0,))),
        *(KeyError, "real_train lacks hospital 'B'"),
    ),
]
TINY = {"A": np.zeros((2, 3, 4))}
LAYER = Layer("in", (("a", 1),), (("b", 2),))
GENERATORS = [
    case("an arm that is none", call(train_arm, "federated", TINY), KeyError, "arm must be one of", "'federated'"),
    case("rounds as a text", call(TrainingSchedule, rounds="12"), TypeError, "TrainingSchedule.rounds", "'12'"),
    case("a start that is none", call(TrainingSchedule, starts="own"), ValueError, "TrainingSchedule.starts", "'own'"),
    case("a file that is no trained arm", lambda f: load_arm(f / "arm.npz"), FileNotFoundError, "arm.npz", "save_arm"),
    case(
        "half of a trained arm",
        lambda f: load_arm(f / "arm.npz"),
        *(ValueError, "arm.npz: damaged", "a zip archive"),
        prepare=lambda f: (f / "arm.npz").write_bytes(b"PK\x03\x04"),
    ),
    case(
        "shares of another hospital",
        call(average_weights, {"A": [np.zeros(2)]}, {"B": 1}),
        *(KeyError, "shares are of ['B']", "expected ['A']"),
    ),
    case(
        "marginals in percent",
        call(weigh_by_distribution, {"A": np.array([30.0])}, {"A": 60}),
        *(ValueError, "marginals of 'A' must be from 0 to 1"),
    ),
    case(
        "an order of units that names one twice",
        call(apply_permutations, [np.zeros((1, 2)), np.zeros(2)], {"b": [0, 0]}, [LAYER]),
        *(ValueError, "permutations['b']", "[0, 0]"),
    ),
    case(
        "a criterion that is none",
        call(tabulate_criteria, {"local": {"speed": Finding(1.0)}}),
        *(KeyError, "'local'", "'speed'"),
    ),
]
ONE = np.zeros((1, 2, 3))
PRIVACY = [
    case(
        "a sampling rate in patients",
        call(measure_epsilon, 1.0, sampling_rate=20, steps=1, delta=1e-3),
        *(ValueError, "sampling_rate must lie between 0 and 1", "20"),
    ),
    case(
        "an epsilon in words", call(find_noise, "low", sampling_rate=0.1, steps=1, delta=1e-3), TypeError, "epsilon"
    ),
    case(
        "a hospital without patients",
        call(tabulate_epsilons, {"A": 0}, noise_multiplier=1, steps=1, sampling_rate=0.1),
        *(ValueError, "hospital 'A'", "at least 1, got 0"),
    ),
    case("noise without a clipping norm", call(PrivateRecipe, 1.0, math.inf), ValueError, "clipping_norm is infinite"),
    case("a text for a network", call(PatientGradients, "model"), TypeError, "model must be", "str"),
    case("scores of no member", call(measure_membership, [], [0.5]), ValueError, "members must hold", "(0,)"),
    case("counts for codes", call(score_losses, 2 + ONE, ONE), ValueError, "visits must hold 0 and 1 alone"),
    case(
        "synthetic patients with other codes",
        call(score_distances, ONE, np.zeros((1, 2, 4))),
        *(ValueError, "synthetic has (2, 4)", "expected (2, 3)"),
    ),
    case(
        "gradients of two layers",
        call(invert_gradient, np.ones((3, 2)), np.ones(3)),
        *(ValueError, "(3, 2)", "(3,)"),
    ),
    case(
        "a clipping norm below 0",
        call(clip_gradients, np.ones((1, 2)), -1),
        *(ValueError, "clipping_norm must be > 0", "-1"),
    ),
    case(
        "patients drawn by a number",
        call(draw_patients, 5, sampling_rate=20, generator=np.random.default_rng(0)),
        *(ValueError, "sampling_rate must lie between 0 and 1", "20"),
    ),
    case(
        "all accused",
        call(find_members, [1.0], [0.5], false_positive_rate=1.0),
        *(ValueError, "false_positive_rate must be above 0", "1.0"),
    ),
    case(
        "a clipping norm of 0",
        call(protect_gradient, [np.ones(2)], clipping_norm=0, noise_multiplier=1),
        *(ValueError, "clipping_norm > 0", "got 0"),
    ),
]

CATALOGUE = [
    *TABLES, *FILES, *COHORTS, *VOLUMES, *LEDGERS, *CHECKPOINTS, *RUNS, *PLANS, *SCHEDULES, *RULES, *PARAMETERS,
    *HARMONIZATION, *SYNTHESIS, *GENERATORS, *PRIVACY,
]  # fmt: skip


@pytest.mark.parametrize("case", CATALOGUE, ids=[case.what for case in CATALOGUE])
def test_bad_input_gives_one_error_that_names_the_culprit_and_leaves_the_files_alone(case, tmp_path):
    case.prepare(tmp_path)
    before = read_tree(tmp_path)
    with pytest.raises(Exception) as caught:
        case.ask(tmp_path)
    assert type(caught.value) is case.error, f"came {caught.value!r}"
    said = str(caught.value)
    assert not [word for word in case.words if word not in said], said
    hidden = caught.value.__suppress_context__ or caught.value.__context__ is None
    assert hidden, f"the error of {caught.value.__context__!r} shows too"
    assert read_tree(tmp_path) == before, "no file may change"


def test_the_catalogue_says_each_thing_once_and_never_leaves_the_culprit_out():
    names = [case.what for case in CATALOGUE]
    assert len(set(names)) == len(names)
    assert all(case.words for case in CATALOGUE)
    assert {case.error for case in CATALOGUE} <= {
        ValueError, TypeError, KeyError, FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError
    }  # fmt: skip
