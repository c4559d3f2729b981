"""The benchmarks of cost: what they count is what was done, and what they print is what they counted."""

import io
import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import dqc_lib as dqc
from benchmarks import cost, published_scale, verification

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def printed():
    """What a short run of `make bench` prints."""
    command = [sys.executable, "-m", "benchmarks.cost", "--turns", "1", "--width", "0.05", "--attempts", "640"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_each_ratio_is_a_line_for_readers_and_one_of_json(printed):
    records = [json.loads(line) for line in printed if line.startswith("{")]
    assert [list(record) for record in records] == [["name", "ratio", "low", "high"]] * len(records)
    assert records[0]["name"] == "qc_over_floor"
    shares = {record["name"]: record["ratio"] for record in records}
    assert 1 <= shares["verifications_of_attempts"] < 1.1, "each attempt once, and the model before the first"
    told = {line.split()[0]: float(line.split()[1]) for line in printed[2:] if not line.startswith("{")}
    assert told == pytest.approx({record["name"]: record["ratio"] for record in records}, abs=1e-3)
    shares = {record["name"]: record["ratio"] for record in records if record["name"].endswith("_of_run")}
    assert set(shares) == {f"{name}_of_run" for name in ("data", "step", "forward_passes", "snapshot", "rest")}
    assert sum(shares.values()) == pytest.approx(1.0, abs=1e-3)
    assert all(record["low"] <= record["ratio"] <= record["high"] for record in records)


def test_a_goal_is_said_to_be_met_or_missed():
    lines = cost.describe({"qc_over_floor": [1.0, 1.05, 1.3], "data_of_run": [0.5]})
    assert lines[0].split() == ["qc_over_floor", "1.050", "[1.000,", "1.300]", "goal", "1.10:", "met"]
    assert cost.describe({"qc_over_floor": [1.11]})[0].endswith("missed")
    assert "goal" not in lines[1]


def test_the_floor_does_the_steps_and_passes_of_the_run_and_nothing_else(tmp_path):
    engine = cost.open_centers(width=0.05, seed=0)
    cycle = cost.plan(engine, cycles=1, seed=0)
    parts = cost.Parts(engine)
    cost.run_control(engine, cycle, tmp_path)
    model, done = engine.model, {"run": [[], []], "floor": [[], []]}
    for name in done:
        train, predict = model.train_on_batch, model.predict_on_batch
        steps, passes = done[name]
        model.train_on_batch = lambda x, y, steps=steps, train=train: steps.append(len(x)) or train(x, y)
        model.predict_on_batch = lambda x, passes=passes, predict=predict: passes.append(len(x)) or predict(x)
        if name == "run":
            parts.batches.clear()
            parts.looks = 0
            cost.run_control(engine, cycle, tmp_path)
        else:
            cost.run_floor(engine, parts.batches, parts.looks)
        model.train_on_batch, model.predict_on_batch = train, predict
    assert len(done["run"][0]) > 10
    assert done["floor"] == done["run"]


def test_book_keeping_is_timed_attempt_by_attempt():
    each = cost.time_book_keeping(attempts=640, seed=0)
    assert each.shape == (639,)
    assert (each > 0).all()


# Verification that looks at fewer images.


def test_the_small_comparison_runs_and_its_table_holds_what_it_prints(tmp_path):
    command = [sys.executable, "-m", "benchmarks.verification", "--quick", "--processes", "1", "--build", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "verification.csv").read_text(encoding="utf-8")
    assert text.startswith("# python -m benchmarks.verification --quick\n# seeds [0]\n# Python 3.")
    table = pd.read_csv(io.StringIO(text), comment="#")
    assert table[verification.KEYS].to_records(index=False).tolist() == [
        ("published 0.05", "bfloat16"),
        ("published 0.05", "certain"),
        ("published 0.05", "nearest"),
    ]
    reduced, certain, nearest = table.to_dict("records")
    assert reduced["passes"] >= reduced["attempts"] > 20 and reduced["asked"] > 20
    assert reduced["equal"] == reduced["asked"] - reduced["missed"] - reduced["accused"] > 0
    assert certain["eliminated_otherwise"] == 0
    assert certain["same_run"], "a certain rejection is one"
    assert certain["alike_from_the_start"] == certain["attempts"] > 20
    assert certain["passes"] <= certain["passes_in_full"] >= certain["subjects"] * certain["attempts"]
    assert nearest["passes"] < nearest["passes_in_full"]
    assert nearest["equal"] == nearest["asked"] - nearest["missed"] - nearest["accused"]
    assert nearest["asked"] > 10 and nearest["missed"] <= nearest["harmful_in_full"]
    assert f"{nearest['passes_in_full'] / nearest['passes']:.1f} times fewer" in done.stdout
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert again.stdout == done.stdout, "a seed that is done is not done again"


def make_rows(passes, equal, *, way="nearest"):
    rows = [
        {
            "rule": "published 0.02",
            "verifying": way,
            "seed": seed,
            "subjects": 40,
            "attempts": 100,
            "same_run": seed == 0,
        }
        | {"passes_in_full": 4000, "passes": used, "alike_from_the_start": 50, "seconds_over_full": 0.5}
        | {"eliminated_in_full": 3, "eliminated_otherwise": seed}
        | {"asked": 100, "equal": same, "harmful_in_full": 20, "missed": 100 - same, "accused": 0}
        for seed, (used, same) in enumerate(zip(passes, equal, strict=True))
    ]
    return pd.DataFrame(rows)


def test_the_comparison_is_summed_over_seeds_and_held_against_the_goal():
    summary = verification.summarize(make_rows([500, 1000], [100, 99]))
    (row,) = summary.to_dict("records")
    assert (row["fewer"], row["fewer_at_least"], row["equal"]) == (8000 / 1500, 4.0, 0.995)
    assert row["fewer_than_always"] == 2 * 100 * 40 / 1500
    assert (row["seeds"], row["same_runs"], row["asked"]) == (2, 1, 200)
    assert (row["eliminated_in_full"], row["eliminated_otherwise"]) == (6, 1)
    assert verification.describe(summary).endswith(
        "99.50% of 200 verdicts equal (missed 1 of 40 harmful, accused 0 others)  goal 5 x, 99.5%: met"
    )
    assert verification.describe(verification.summarize(make_rows([500, 1000], [100, 98]))).endswith("missed")
    assert verification.describe(verification.summarize(make_rows([900, 1000], [100, 100]))).endswith("missed")
    unknown = dict.fromkeys(("asked", "equal", "harmful_in_full", "missed", "accused"), np.nan)
    certain = make_rows([500], [0], way="certain").assign(**unknown)
    assert "goal" not in verification.describe(verification.summarize(certain))


def test_the_committed_comparison_is_of_ten_seeds_and_what_is_certain_decides_the_same():
    table = pd.read_csv(verification.TABLE, comment="#")
    ways = [(rule, way) for rule in verification.RULES for way in verification.WAYS]
    expected = {(rule, way) for rule, way in ways if way != "bfloat16" or rule in verification.REDUCED}
    seeds = table.groupby(verification.KEYS)["seed"].agg(set).to_dict()
    assert seeds == dict.fromkeys(expected, set(verification.SEEDS))
    certain = table[table["verifying"] == "certain"]
    assert certain["same_run"].all() and (certain["eliminated_otherwise"] == 0).all()
    assert (certain["passes"] <= certain["passes_in_full"]).all()


def test_the_committed_comparison_says_of_the_nearest_what_the_readme_says():
    summary = verification.summarize(pd.read_csv(verification.TABLE, comment="#"))
    nearest = summary[summary["verifying"] == "nearest"].set_index("rule")
    published = nearest.filter(like="published", axis=0)
    assert (published["fewer"] >= verification.FEWER).all()
    assert nearest.loc["calibrated", "fewer_than_always"] > 2 * verification.FEWER > nearest.loc["calibrated", "fewer"]
    assert (nearest["equal"] >= verification.EQUAL).all() and (nearest["missed"] == 0).all()
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    for row in nearest.itertuples():
        assert f"{row.fewer:.1f}" in readme and f"{row.equal * row.asked:,.0f} of {row.asked:,.0f}" in readme


# The published scale.


def test_the_operations_of_the_network_are_those_of_its_convolutions():
    import keras

    from dqc_lib.networks import build_sfcn

    for shape, width in (((16, 20, 16), 0.25), ((9, 11, 9), 0.0625)):
        layers = [layer for layer in build_sfcn(shape, width=width).layers if isinstance(layer, keras.layers.Conv3D)]
        total = sum(2 * np.prod(layer.kernel.shape) * np.prod(layer.output.shape[1:4]) for layer in layers)
        assert published_scale.count_operations(shape, width) == total
        listed = [(layer.input.shape[1:], tuple(layer.kernel.shape)) for layer in layers]
        assert published_scale.list_convolutions(shape, width) == listed


def test_bare_convolutions_are_timed_one_by_one_and_their_times_added(monkeypatch):
    import keras

    shape, width, clock, conv, done = (9, 11, 9), 0.0625, itertools.count(), keras.ops.conv, []
    monkeypatch.setattr(published_scale.time, "perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(keras.ops, "conv", lambda x, k, **more: done.append((*x.shape, *k.shape)) or conv(x, k, **more))
    found = published_scale.measure_convolutions(shape, width, precision="float32", repeats=3)
    listed = [(64, *sizes, *kernel) for sizes, kernel in published_scale.list_convolutions(shape, width)]
    assert done == [each for each in listed for _ in range(4)]
    assert found == 64 * published_scale.count_operations(shape, width) / 6, "each took a second"


def test_twenty_cycles_at_full_size_follow_from_the_throughput():
    run = {"passes": 100, "steps": 10, "gradients": 20, "parts": {"forward passes": 2.0, "step": 2.5, "gradients": 0.5}}
    here = published_scale.count_operations((40, 48, 40), 0.25) * 190
    full = published_scale.count_operations((160, 192, 160), 1.0) * 190
    measured = published_scale.project(run, shape=(40, 48, 40), width=0.25, throughput=None)
    assert measured["operations_per_second"] == pytest.approx(here / 5)
    assert measured["hours"] == pytest.approx(20 * full / (here / 5) / 3600)
    named = published_scale.project(run, shape=(40, 48, 40), width=0.25, throughput=1e12)
    assert named["hours"] == pytest.approx(20 * full / 1e12 / 3600)


def test_random_images_need_no_files_and_are_the_same_each_time(tmp_path):
    cohort, volumes = published_scale.make_cohort("random", (4, 5, 6), tmp_path)
    roles = cohort.table["role"].value_counts().to_dict()
    assert roles == {"train": 1410, "verification": 407}
    again = published_scale.make_cohort("random", (4, 5, 6), tmp_path)[1]
    names = list(cohort.table["subject"].iloc[[0, 5]])
    np.testing.assert_array_equal(volumes.batch(names), again.batch(names))
    assert volumes.batch(names).shape == (2, 4, 5, 6, 1)
    assert not list(tmp_path.iterdir())
    assert isinstance(cohort, dqc.Cohort)
