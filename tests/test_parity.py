"""Parity: from the recorded state, our loop decides as the published implementation did."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dqc_lib.cohort import Cohort
from dqc_lib.networks import build_sfcn
from dqc_lib.quality import PublishedRule
from dqc_lib.travelling import Cycle, LocalCenters, Visit, travel
from dqc_lib.volumes import write_volume

RECORDED = Path(__file__).parent / "data" / "parity"
WIDTHS = (8, 16, 32, 64, 64, 32)
COMPARED = 30  # attempts; later ones differ by rounding between Keras 2 and Keras 3


def read_attempts():
    return json.loads((RECORDED / "attempts.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def golden():
    with np.load(RECORDED / "golden.npz") as arrays:
        return dict(arrays)


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


def count_wanted(rows):
    return [(row["cycle"], row["level"], row["site"], row["ids"], row["fp"], row["fn"], bool(row["ignored"])) for row in rows]


@pytest.fixture(scope="module")
def ledger(tmp_path_factory, golden):
    """Return our ledger over the first three recorded cycles."""
    cohort = write_cohort(tmp_path_factory.mktemp("parity"), golden)
    model = build_sfcn((40, 48, 40), width=WIDTHS, dropout=0.0)
    load_recorded(model, golden)
    rule = PublishedRule(tolerance=0.05, denominators="published")
    plan = [cycle for cycle in make_plan(read_attempts()) if cycle.number <= 12]
    engine = LocalCenters(cohort, model)
    return travel(engine, plan, rule=rule, revisit_after=1, closing_revisit=False, progress=False)[0]


def test_the_first_thirty_attempts_count_and_decide_as_the_published_implementation_did(ledger):
    ours = [
        (row["cycle"], row["level"], row["center"], row["subjects"], row["fp"], row["fn"], row["decision"] != "accepted")
        for row in ledger.rows
    ]
    assert ours[:COMPARED] == count_wanted(read_attempts()[1 : COMPARED + 1])


def test_the_model_we_start_from_answers_as_the_recorded_one_did(ledger):
    baseline = read_attempts()[0]
    first = ledger.rows[0]
    assert [first[name] for name in ("reference_fp", "reference_n_neg", "reference_fn", "reference_n_pos")] == [
        baseline["fp"],
        15,
        baseline["fn"],
        9,
    ]


def test_the_compared_attempts_hold_a_rejected_batch_and_its_images_one_by_one():
    recorded = read_attempts()[1 : COMPARED + 1]
    assert [row["level"] for row in recorded].count("single") == 5
    assert sum(row["ignored"] for row in recorded) == 1
