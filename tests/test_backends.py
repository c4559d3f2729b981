"""Backends: TensorFlow, JAX and PyTorch run the same library and agree."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest

from dqc_lib.cohort import Cohort
from dqc_lib.fisher import LogitProbe
from dqc_lib.ledger import Ledger
from dqc_lib.networks import build_sfcn, freeze_normalization, load_sfcn
from dqc_lib.quality import PublishedRule
from dqc_lib.travelling import LocalCenters, Schedule, Study, group_by_center, plan_cycles, travel
from dqc_lib.travelling.batches import RESIDENT, fill_up, fits, predict_subjects, train_on
from dqc_lib.volumes import VolumeCache, write_volume

SHAPE = (16, 16, 16)
WIDTH = 0.0625
BACKENDS = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            importlib.util.find_spec(package) is None, reason=f"{package} is not installed (an optional backend)"
        ),
    )
    for name, package in (("tensorflow", "tensorflow"), ("jax", "jax"), ("torch", "torch"))
]
OTHERS = [parameter for parameter in BACKENDS if parameter.values != ("tensorflow",)]


def write_cohort(folder):
    """Return 18 subjects of 3 centers, brighter for the diseased."""
    rng, rows = np.random.default_rng(3), []
    for number in range(18):
        name, diagnosis = f"sub-{number:02d}", number % 2
        path = write_volume(
            folder / f"{name}.nii.gz",
            rng.integers(0, 120, SHAPE).astype(np.uint8) + np.uint8(70 * diagnosis),
            affine=np.eye(4),
        )
        role = ("train", "train", "verification", "verification", "train", "test")[number // 3]
        rows.append((name, f"center-{number % 3}", diagnosis, "F", 60.0, "vendor A", str(path), role))
    columns = ["subject", "center", "diagnosis", "sex", "age", "scanner", "path", "role"]
    return Cohort(pd.DataFrame(rows, columns=columns), folder)


def read_variables(model):
    import keras

    variables = (*model.variables, *model.optimizer.variables)
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]


def start_alike(model, weights_path):
    """Load the initial weights from the file, or write them if they are not there."""
    import keras

    trainable = model.trainable_variables
    if weights_path.exists():
        with np.load(weights_path) as weights:
            for at, variable in enumerate(trainable):
                variable.assign(weights[str(at)])
    else:
        np.savez(weights_path, **{str(at): keras.ops.convert_to_numpy(v) for at, v in enumerate(trainable)})


def count_all(engine):
    return {center: [c.fp, c.n_neg, c.fn, c.n_pos] for center, c in engine.verify().items()}


def repeat_steps(engine, snapshot):
    """Return whether steps after each of two restores are the same bit for bit, dropout included."""
    train = group_by_center(engine.cohort)
    engine.restore(snapshot)
    first = [engine.train(center, members[:1]).loss for center, members in train.items()]
    after = read_variables(engine.model)
    count_all(engine)
    engine.restore(snapshot)
    second = [engine.train(center, members[:1]).loss for center, members in train.items()]
    same = [bool((a == b).all()) for a, b in zip(after, read_variables(engine.model), strict=True)]
    return first == second and all(same)


def read_between(engine):
    """Return whether a reading repeats bit for bit and leaves model and optimizer as they were."""
    before, (name, other) = read_variables(engine.model), ("sub-00", "sub-01")
    first = engine.read_gradient(name)
    engine.read_gradient(other)
    again = engine.read_gradient(name)
    same = [bool((a == b).all()) for a, b in zip(before, read_variables(engine.model), strict=True)]
    return bool(first.any()) and first.tobytes() == again.tobytes() and all(same)


def read_alike(cohort, weights_path):
    """Return the gradient of one image's logit by a frozen model with the initial weights."""
    model = build_sfcn(SHAPE, width=WIDTH)
    start_alike(model, weights_path)
    freeze_normalization(model)
    return LogitProbe(model).read(LocalCenters(cohort, model).volumes.batch(["sub-00"])).tolist()


def fill_alike(cohort):
    """Return what a step on two images, and the scores of three, come to where batches may be filled up to five."""
    volumes, names, found = VolumeCache(cohort.table.set_index("subject")["path"].to_dict()), ["sub-00", "sub-01"], []
    for most in (2, 5):
        model = build_sfcn(SHAPE, width=WIDTH, dropout=0.0, learning_rate=1e-3)
        freeze_normalization(model)
        loss = train_on(model, volumes.batch(names), np.array([[0.0], [1.0]], dtype=np.float32), most=most)
        found.append([loss, *predict_subjects(model, volumes, [*names, "sub-02"]).tolist()])
    return np.array(found)


def try_everything(folder, weights_path):
    """Return what the library does on this backend, as plain values.

    All steps are of one image: JAX compiles anew for every other number.
    """
    cohort = write_cohort(folder)
    model = build_sfcn(SHAPE, width=WIDTH, dropout=0.3, learning_rate=1e-3)
    start_alike(model, weights_path)
    engine = LocalCenters(cohort, model)
    found = {
        "initial scores": engine.score("verification")["score"].tolist(),
        "initial counts": count_all(engine),
    }
    found["gradient"] = read_alike(cohort, weights_path)
    short, filled = fill_alike(cohort)
    found["filling up changes nothing"] = len(filled) == 4 and bool(np.allclose(short, filled, rtol=1e-4, atol=1e-6))
    with patch.dict(RESIDENT, shared=0):
        found["images share the processor's memory"] = not fits(engine.volumes, 1)
    found["most at once"] = len(fill_up(np.zeros((3, 1)), (2, 5, 8)))
    plan = plan_cycles(group_by_center(cohort), learning_rates=[1e-3, 1e-3], batch_size=1)
    travel(engine, plan[:1], progress=False)
    engine.freeze()
    found["a reading repeats and changes nothing"] = read_between(engine)
    snapshot = engine.snapshot()
    found["a restored snapshot repeats steps"] = all(repeat_steps(engine, snapshot) for _ in range(2))
    ledger, _ = travel(engine, plan[1:], rule=PublishedRule(tolerance=0.0), ledger=Ledger(), progress=False)
    found["decisions"] = sorted({row["decision"] for row in ledger.rows})
    found["verified"] = all(row["fp"] is not None for row in ledger.rows)
    engine.save(folder / "model.keras")
    kept = read_variables(model)
    loaded = LocalCenters(cohort, load_sfcn(folder / "model.keras"))
    found["a saved model is the same"] = all(
        bool((a == b).all()) for a, b in zip(kept, read_variables(loaded.model), strict=True)
    )
    found["a saved model counts the same"] = count_all(engine) == count_all(loaded)
    found["a loaded model repeats steps"] = repeat_steps(loaded, loaded.snapshot())
    schedule = Schedule(warm_cycles=0, calm_cycles=1, control_cycles=1, width=WIDTH, batch_size=1)
    arm = Study(cohort, schedule=schedule, folder=folder / "runs", progress=False).run("qc", rule="calibrated")
    found["attempts in a study"] = len(arm.ledger)
    norms = arm.ledger["update_norm"]  # 0 where a network as narrow as this leaves every filter silent
    found["norms in a study"] = bool((norms >= 0).all() and (norms > 0).any())
    return found


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Return a function that tries everything in a process with its own backend, once each, TensorFlow first."""
    folder, known = tmp_path_factory.mktemp("backends"), {}

    def try_on(backend):
        if backend not in known:
            own = folder / backend
            own.mkdir(exist_ok=True)
            done = subprocess.run(
                [sys.executable, "-W", "error::UserWarning", __file__, str(own), str(folder / "weights.npz")],
                env=os.environ | {"KERAS_BACKEND": backend, "CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            known[backend] = json.loads((own / "found.json").read_text(encoding="utf-8"))
            assert known[backend]["backend"] == backend
        return known[backend]

    try_on("tensorflow")
    return try_on


@pytest.mark.parametrize("backend", BACKENDS)
def test_steps_repeat_bit_for_bit_after_a_restore_and_after_a_file(outcomes, backend):
    found = outcomes(backend)
    for claim in (
        "a restored snapshot repeats steps",
        "a saved model is the same",
        "a saved model counts the same",
        "a loaded model repeats steps",
        "a reading repeats and changes nothing",
    ):
        assert found[claim], claim


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_batch_that_is_filled_up_counts_as_it_was(outcomes, backend):
    found = outcomes(backend)
    assert found["filling up changes nothing"]
    assert found["images share the processor's memory"]
    assert found["most at once"] == (5 if backend == "jax" else 3), "JAX alone compiles for every size"


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_loop_decides_on_verified_attempts(outcomes, backend):
    found = outcomes(backend)
    assert found["verified"]
    assert "accepted" in found["decisions"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_study_with_the_calibrated_rule_runs_to_its_end(outcomes, backend):
    found = outcomes(backend)
    assert found["attempts in a study"] >= 9, "three centers with three training subjects each, one at a time"
    assert found["norms in a study"]


@pytest.mark.parametrize("backend", OTHERS)
def test_from_the_same_weights_a_backend_counts_as_tensorflow_does(outcomes, backend):
    ours, theirs = outcomes("tensorflow"), outcomes(backend)
    scores = np.array(ours["initial scores"])
    np.testing.assert_allclose(theirs["initial scores"], scores, atol=1e-5)
    assert np.abs(scores - 0.5).min() > 1e-4, "no subject is so close to the threshold that rounding decides"
    assert theirs["initial counts"] == ours["initial counts"]


@pytest.mark.parametrize("backend", OTHERS)
def test_from_the_same_weights_a_backend_reads_the_gradient_that_tensorflow_reads(outcomes, backend):
    ours, theirs = (np.array(outcomes(name)["gradient"]) for name in ("tensorflow", backend))
    assert np.linalg.norm(ours) > 0
    assert np.linalg.norm(theirs - ours) < 1e-3 * np.linalg.norm(ours)


if __name__ == "__main__":
    import keras

    target = Path(sys.argv[1])
    outcome = {"backend": keras.backend.backend(), **try_everything(target, Path(sys.argv[2]))}
    (target / "found.json").write_text(json.dumps(outcome), encoding="utf-8")
