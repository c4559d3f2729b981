"""Parity: from the recorded state, our loop decides as the published implementation did."""

import json
import math
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dqc_lib.cohort import Cohort
from dqc_lib.ledger import Ledger
from dqc_lib.networks import build_sfcn
from dqc_lib.quality import PublishedRule
from dqc_lib.travelling import Cycle, LocalCenters, Visit, travel
from dqc_lib.volumes import write_volume

RECORDED = Path(__file__).parent / "data" / "parity"
WIDTHS = (8, 16, 32, 64, 64, 32)
CPU_FLAGS = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
COMPARED = 30 if "avx512f" in CPU_FLAGS else 29  # attempts; rounding decides the next one, see tests/data/README.md
SETTING = {  # rounding depends on these
    "KERAS_BACKEND": "tensorflow",
    "TF_NUM_INTRAOP_THREADS": "2",
    "TF_ENABLE_ONEDNN_OPTS": "1",
    "CUDA_VISIBLE_DEVICES": "-1",
}
on_x86 = pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"),
    reason="recorded on an x86 processor; others round differently, and the runs part after a few attempts",
)


def read_attempts():
    return json.loads((RECORDED / "attempts.json").read_text(encoding="utf-8"))


def write_cohort(folder, golden):
    """Return the recorded cohort, its images written as they are: 8 bits, not rescaled."""
    table = pd.read_csv(RECORDED / "subjects.csv", dtype={"subject": str, "site": str})
    table["path"] = [str(folder / f"{subject}.nii.gz") for subject in table["subject"]]
    for row in table.itertuples():
        write_volume(row.path, golden[f"img/{row.subject}"], affine=np.diag([4.0, 4.0, 4.0, 1.0]))
    table = table.rename(columns={"site": "center"}).assign(
        scanner="unknown",
        role=table["role"].replace("verify", "verification"),
        harm=np.where(table["harmful"] == 1, "inversion", ""),
    )
    return Cohort(table.drop(columns="harmful"), folder)


def find_recorded(golden, variable):
    """Return a variable's recorded value and its two Adam moments, by their names in Keras 2."""
    layer, name = variable.path.split("/")
    part, adam = ("cls", "Adam_1") if layer == "dense" else ("enc", "Adam")
    moments = [golden.get(f"{part}/optimizer_weights/{adam}/{layer}/{name}/{moment}:0") for moment in "mv"]
    return golden[f"{part}/model_weights/{layer}/{layer}/{name}:0"], *moments


def load_recorded(model, golden):
    """Put the recorded weights and the state of the two recorded optimizers into our model and its one optimizer."""
    moments = {variable.path.removeprefix("adam/"): variable for variable in model.optimizer.variables}
    for variable in model.variables:
        if variable.path.startswith(("conv", "norm", "dense")):
            value, mean, square = find_recorded(golden, variable)
            variable.assign(value)
            if variable.trainable:
                name = variable.path.replace("/", "_")
                moments[f"{name}_momentum"].assign(mean)
                moments[f"{name}_velocity"].assign(square)
    steps = {int(golden["enc/optimizer_weights/Adam/iter:0"]), int(golden["cls/optimizer_weights/Adam_1/iter:0"])}
    assert len(steps) == 1, "one optimizer can stand for two only if both took the same number of steps"
    moments["iteration"].assign(steps.pop())


def make_plan(attempts):
    """Return the recorded visits of the regular batches as a plan, one batch a visit, with the recorded rates."""
    batches = [row for row in attempts if row["level"] == "batch"]
    return [
        Cycle(
            number,
            1e-3 * math.exp(-1.0) if number == 10 else 3e-4 * math.exp(-0.1 * (number - 10)),
            tuple(Visit(row["site"], (tuple(row["ids"]),)) for row in batches if row["cycle"] == number),
        )
        for number in sorted({row["cycle"] for row in batches})
    ]


def replay_recorded(folder):
    """Let our loop travel through the recorded cycles 10 to 12, its ledger written to the folder."""
    with np.load(RECORDED / "golden.npz") as arrays:
        golden = dict(arrays)
    model = build_sfcn((40, 48, 40), width=WIDTHS, dropout=0.0)
    load_recorded(model, golden)
    travel(
        LocalCenters(write_cohort(folder, golden), model),
        [cycle for cycle in make_plan(read_attempts()) if cycle.number <= 12],
        rule=PublishedRule(tolerance=0.05, denominators="published"),
        ledger=Ledger(folder / "ledger.jsonl"),
        revisit_after=1,
        closing_revisit=False,
        progress=False,
    )


@pytest.fixture(scope="module")
def ledger(tmp_path_factory):
    """Return our ledger, made in a process of its own so that the number of threads can be set."""
    folder = tmp_path_factory.mktemp("parity")
    done = subprocess.run(
        [sys.executable, "-W", "error", __file__, str(folder)],
        env=os.environ | SETTING,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Ledger.read(folder / "ledger.jsonl")


@on_x86
def test_the_first_attempts_count_and_decide_as_the_published_implementation_did(ledger):
    recorded = [
        (row["cycle"], row["level"], row["site"], row["ids"], row["fp"], row["fn"], bool(row["ignored"]))
        for row in read_attempts()[1 : COMPARED + 1]
    ]
    ours = [
        (
            row["cycle"],
            row["level"],
            row["center"],
            row["subjects"],
            row["fp"],
            row["fn"],
            row["decision"] != "accepted",
        )
        for row in ledger.rows[:COMPARED]
    ]
    assert ours == recorded


@on_x86
def test_the_model_we_start_from_answers_as_the_recorded_one_did(ledger):
    baseline = read_attempts()[0]
    reference = {name: ledger.rows[0][f"reference_{name}"] for name in ("fp", "n_neg", "fn", "n_pos")}
    assert reference == {"fp": baseline["fp"], "n_neg": 15, "fn": baseline["fn"], "n_pos": 9}


def test_the_compared_attempts_hold_a_rejected_batch_and_its_images_one_by_one():
    recorded = read_attempts()[1 : COMPARED + 1]
    assert [row["level"] for row in recorded].count("single") == 5
    assert [row["ids"] for row in recorded if row["ignored"]] == [["s263", "s243", "s210", "s206", "s225"]]


if __name__ == "__main__":
    replay_recorded(Path(sys.argv[1]))
