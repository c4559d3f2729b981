"""The study of detection: its grid, its cohorts, its tables, and a small one from end to end."""

import io
import itertools
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import dqc_lib as dqc
from benchmarks.detection import cells, cohorts, running
from benchmarks.detection.__main__ import main
from benchmarks.detection.grid import RULES, Task, choose_tasks, list_tasks
from benchmarks.detection.store import find_cell, list_missing, read_cells, write_cell
from benchmarks.detection.summary import describe_results
from benchmarks.detection.tables import (
    check_goals,
    compare_arms,
    describe_source,
    summarize_detectors,
    summarize_images,
    tabulate,
    write_tables,
)

ROOT = Path(__file__).parent.parent
KEPT = ["auroc", "attempts", "verified", "images"]  # of a cell, that another run has to give again


# The small study, from end to end.


def run_quick(folder, *more):
    command = [sys.executable, "-m", "benchmarks.detection", "--quick", "--processes", "1", "--build", str(folder)]
    return subprocess.run([*command, *more], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """The folder of a quick run and what it printed."""
    folder = tmp_path_factory.mktemp("study")
    committed = {path: path.read_bytes() for path in (ROOT / "benchmarks" / "results").glob("*")}
    done = run_quick(folder)
    assert done.returncode == 0, done.stderr
    assert {path: path.read_bytes() for path in (ROOT / "benchmarks" / "results").glob("*")} == committed
    return folder / "quick", done.stdout


def read_table(folder, name):
    text = (folder / f"detection_{name}.csv").read_text(encoding="utf-8")
    comments = [line for line in text.splitlines() if line.startswith("#")]
    return pd.read_csv(io.StringIO(text), comment="#"), comments


def test_a_quick_run_has_the_rows_it_promises(quick):
    images, _ = read_table(quick[0], "images")
    runs, _ = read_table(quick[0], "runs")
    detectors, _ = read_table(quick[0], "detectors")
    assert set(zip(runs["scenario"], runs["rule"], strict=True)) == {
        ("no harm", "clean"),
        ("no harm", "calibrated"),
        ("clean start", "dirty"),
        ("clean start", "calibrated"),
        ("clean start", "guaranteed"),
        ("clean start", "published 0.02"),
        ("adversary", "calibrated"),
        ("screened centers", "calibrated"),
    }
    assert set(images["rule"]) == {"calibrated", "guaranteed", "published 0.02"}
    good = {"known", "one class", "one image", "new scanner"}
    assert set(images.query("scenario == 'no harm'")["group"]) == good | {"not met"}
    counts = images[images["rule"] == "calibrated"].groupby(["scenario", "group"])["n"].sum()
    harmful = counts["clean start", "center"] + counts["clean start", "single"]
    assert counts["no harm", "not met"] == harmful, "the places of harm, without it"
    assert set(images.query("scenario == 'clean start'")["group"]) == good | {"center", "single"}
    for scenario in ("no harm", "clean start"):
        own = detectors[detectors["scenario"] == scenario].groupby("placement")
        assert own["detector"].agg(set).to_dict() == dict.fromkeys(
            ["center", "single"], {"update norm", *dqc.DETECTORS}
        )
        assert own["n"].first().to_dict() == {"center": 6, "single": 5}
    assert (detectors["auroc"].between(0, 1) & detectors["average_precision"].between(0, 1)).all()


def test_every_table_says_which_command_seeds_and_versions_made_it(quick):
    for name in ("images", "runs", "detectors"):
        comments = "\n".join(read_table(quick[0], name)[1])
        assert "# python -m benchmarks.detection --quick\n# seeds [0]; 10 of the 10 cells" in comments
        assert "# 10 cells by Python 3" in comments
        assert re.search(r"numpy 2.*tensorflow .*keras .*scikit-learn .*cleanlab .*dqc-lib .*method \d", comments)


def test_the_summary_gives_goals_shares_arms_and_detectors(quick):
    for head in ("Goals: the calibrated rule", "Images eliminated", "Test AUROC", "Detectors"):
        assert f"\n{head}" in f"\n{quick[1]}"
    lines = [line for line in quick[1].splitlines() if "images of harmful centers eliminated" in line]
    assert [line.split()[-1] for line in lines] in (["met", "measured"], ["missed", "measured"])


def test_the_same_images_are_harmed_in_every_scenario(quick):
    rows = {}
    for cell in read_cells(quick[0]):
        if "images" in cell:
            table = pd.DataFrame(cell["images"])
            rows.setdefault(cell["task"]["scenario"], set()).add(
                frozenset(table.loc[table["group"].isin(("center", "single")), "subject"])
            )
    assert rows.pop("no harm") == {frozenset()}
    assert len(rows) == 3
    assert all(found == rows["clean start"] for found in rows.values())
    assert len(next(iter(rows["clean start"]))) > 5


def test_a_second_call_computes_nothing_and_says_the_same(quick):
    before = {path: path.stat().st_mtime_ns for path in quick[0].rglob("*.json")}
    again = run_quick(quick[0].parent)
    assert again.returncode == 0, again.stderr
    assert again.stdout == quick[1]
    assert {path: path.stat().st_mtime_ns for path in quick[0].rglob("*.json")} == before


def test_a_killed_study_is_finished_with_the_same_result(quick, tmp_path):
    build = shutil.copytree(quick[0], tmp_path / "quick")
    lost = find_cell(Task("no harm", "none", 0, (), 0), "calibrated", build)
    wanted = json.loads(lost.read_text())
    lost.rename(lost.with_suffix(".partial")).write_text('{"task": {"scen')
    others = {path: path.stat().st_mtime_ns for path in (build / "cells").glob("*.json")}
    done = run_quick(tmp_path)
    assert done.returncode == 0, done.stderr
    assert {name: json.loads(lost.read_text())[name] for name in KEPT} == {name: wanted[name] for name in KEPT}
    assert {path: path.stat().st_mtime_ns for path in others} == others
    assert not list((build / "cells").glob("*.partial"))


def test_an_adversary_takes_the_strongest_blend_that_stays_below_the_limit(quick, tmp_path):
    build = shutil.copytree(quick[0], tmp_path / "quick")
    task = Task("adversary", "inversion", 0, ("calibrated",), quick=True)
    study = cells.prepare_study(task, build)
    limit, engine = study.make_rule("calibrated").limit, study.open_engine(measure=True)
    good = cohorts.make_cohort(0, build, quick=True).table.set_index("subject")["path"]
    rows = study.cohort.table[study.cohort.table["harm"] != ""]
    probe = dqc.LogitProbe(engine.model)
    below = 0
    for subject, mark in zip(rows["subject"], rows["harm"], strict=True):
        strength = float(mark.partition(" @ ")[2])
        norm = engine.scale.measure(engine.read_gradient(subject))  # of the image as it was written
        assert norm <= 0.95 * limit or strength == min(cells.STEALTH)
        below += norm <= limit
        if strength < max(cells.STEALTH):
            stronger = min(value for value in cells.STEALTH if value > strength)
            image = dqc.read_volume(good[subject]).array.astype(float)
            harmed = np.rint((1 - stronger) * image + stronger * (255 - image)).astype(np.float32)
            assert engine.scale.measure(probe.read(harmed[None, ..., None])) > 0.95 * limit
    assert below > 0


# The command line.


def refuse(capsys, *arguments):
    """Return the message with which the command refuses its arguments."""
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    assert caught.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_tables_of_an_empty_folder_are_refused_with_one_error(tmp_path, capsys):
    message = refuse(capsys, "--tables", "--build", str(tmp_path))
    assert f"no cells in {tmp_path / 'cells'}" in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", ["--scenarios", "--kinds"])
def test_an_unknown_scenario_or_kind_is_refused_and_the_known_ones_are_listed(option, tmp_path, capsys):
    message = refuse(capsys, option, "<img src=x onerror=alert(1)>", "--build", str(tmp_path))
    assert f"unknown {option[2:-1]} '<img src=x onerror=alert(1)>'; expected one of [" in message
    assert ("'harm from the first cycle'" if option == "--scenarios" else "'cropped field of view'") in message


@pytest.mark.parametrize("arguments", [["--seeds", "-1"], ["--processes", "0"]])
def test_negative_seeds_and_no_process_are_refused(arguments, capsys):
    assert "expected seeds from 0 and processes from 1" in refuse(capsys, *arguments)


def test_a_scenario_without_the_kind_is_refused_and_its_kinds_are_listed():
    with pytest.raises(ValueError, match=r"no task has .*'adversary'.*'blank'.*there are \['inversion'\]"):
        choose_tasks(list_tasks(), scenarios=["adversary"], kinds=["blank"])


def test_tables_of_a_part_of_the_study_leave_the_committed_ones_alone(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("benchmarks.detection.__main__.RESULTS", tmp_path / "committed")
    write_cell(Task("no harm", "none", 3, (), 0), "calibrated", tmp_path, make_content([("known", "a", 0, 0)]))
    main(["--tables", "--build", str(tmp_path)])
    assert "1 of the" in read_table(tmp_path, "images")[1][1]
    assert not (tmp_path / "committed").exists()
    assert "(nothing yet)" in capsys.readouterr().out, "there are no detectors"
    for task in list_tasks():
        for rule in list_missing(task, tmp_path):
            shutil.copy(find_cell(Task("no harm", "none", 3, (), 0), "calibrated", tmp_path), tmp_path / "one")
            (tmp_path / "one").rename(find_cell(task, rule, tmp_path))
    main(["--tables", "--build", str(tmp_path)])
    assert (tmp_path / "committed" / "detection_images.csv").exists()


# How tasks are spread over processes.


def test_tasks_of_one_cohort_never_share_a_moment_and_keep_their_order(tmp_path, monkeypatch):
    started, running_now, done = [], set(), []

    def pretend(process, task, build):
        name = running.name_cohort(task)
        assert name not in running_now
        running_now.add(name)
        started.append(task)
        time.sleep(0.002)  # long enough for others to come across
        running_now.discard(name)
        done.append(task.name)
        return task.name

    monkeypatch.setattr(running, "_wait_for", pretend)
    tasks = list_tasks((0, 1, 2))
    running.run_all(tasks, tmp_path, processes=4)
    assert sorted(done) == sorted(task.name for task in tasks)
    for seed in (0, 1, 2):
        own = [task for task in tasks if task.seed == seed and not task.large]
        assert [task for task in started if task.seed == seed and not task.large] == own


def test_an_error_names_its_task_and_starts_no_more(tmp_path, monkeypatch):
    started = []

    class Failing:
        def submit(self, run, task, build):
            started.append(task.name)
            raise ValueError("broken")

    monkeypatch.setattr(running, "ProcessPoolExecutor", lambda *_, **__: Pretending(Failing()))
    with pytest.raises(ValueError, match="broken") as caught:
        running.run_all(list_tasks((0, 1, 2)), tmp_path, processes=1)
    assert caught.value.__notes__ == [f"in task {started[0]}"]
    assert len(started) < 4, "lanes that wait end at once"


class Pretending:
    """A pool that hands itself out as another object."""

    def __init__(self, inner):
        self.inner = inner

    def __enter__(self):
        return self.inner

    def __exit__(self, *_):
        return None


# The grid.


def test_the_grid_has_every_kind_under_every_rule_on_ten_seeds():
    tasks = list_tasks()
    for kind in dqc.HARMS:
        for seed in range(10):
            own = [task for task in tasks if (task.scenario, task.kind, task.seed) == ("clean start", kind, seed)]
            assert len(own) == 1
            assert own[0].n_centers == 2
            assert {"dirty", "detectors", "calibrated", "guaranteed"} | set(RULES) == set(own[0].rules)
    assert {rule for rule in RULES if rule.startswith("published")} == {f"published 0.0{n}" for n in (1, 2, 5)}


def test_the_grid_has_rows_without_harm_of_83_centers_and_of_fractions():
    tasks = list_tasks()
    quiet = [task for task in tasks if task.scenario == "no harm"]
    assert [task.seed for task in quiet] == list(range(10))
    assert all(set(task.rules) == {"clean", "detectors", *RULES} and task.kind == "none" for task in quiet)
    large = [task for task in tasks if task.scenario == "83 centers"]
    assert {(task.seed, task.n_centers) for task in large} == {(seed, count) for seed in range(10) for count in (1, 4)}
    sized = [task for task in tasks if task.scenario in ("fraction", "83 centers")]
    shares = [task.n_centers / (83 if task.large else 19) for task in sized]
    assert min(shares) == pytest.approx(0.01, abs=0.003), "from 1 ..."
    assert max(shares) == pytest.approx(0.3, abs=0.02), "... to 30 %"
    for scenario in ("harm from the first cycle", "trusted centers", "screened centers", "second pass"):
        assert {task.kind for task in tasks if task.scenario == scenario} == {"inversion", "noise only"}


def test_no_two_tasks_share_a_name_and_no_two_cells_a_file():
    tasks = list_tasks()
    assert len({task.name for task in tasks}) == len(tasks)
    files = [find_cell(task, rule, Path("build")) for task in tasks for rule in task.rules]
    assert len(set(files)) == len(files)


def test_other_seeds_are_asked_for_without_those_of_the_large_cohort():
    assert {task.seed for task in list_tasks((5, 7))} == {5, 7}


# The cohorts.


@pytest.fixture
def unpainted(monkeypatch, tmp_path):
    """A function that makes a cohort of the study without its images."""
    monkeypatch.setattr(dqc, "paint_phantom", lambda *_, **__: None)
    monkeypatch.setattr(cohorts, "write_volume", lambda *_, **__: None)
    return lambda seed, **options: cohorts.make_cohort(seed, tmp_path, **options)


def test_the_places_of_harm_are_those_of_the_cohort_whatever_its_folder(unpainted):
    for seed in (0, 7):
        slots = cohorts.mark_slots(unpainted(seed), seed=seed)
        assert cohorts.find_places(seed) == set(slots["subject"])


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("seed", range(10))
def test_harm_has_its_places_at_known_centers_and_more_of_it_keeps_the_earlier_ones(unpainted, seed, small):
    cohort = unpainted(seed, quick=small)
    train = cohort.table[cohort.table["role"] == "train"]
    before = set()
    for n in (2, 4, 6):
        slots = cohorts.mark_slots(cohort, seed=seed, n_centers=n)
        assert set(slots["subject"]) <= set(train["subject"])
        whole = slots[slots["placement"] == "center"]
        assert whole["center"].nunique() == n
        assert before <= set(whole["center"])
        before = set(whole["center"])
        assert whole["subject"].nunique() == train["center"].isin(before).sum(), "all images of the center"
        singles = slots[slots["placement"] == "single"]
        assert len(singles) == min(5, 10 - n)
        assert singles["center"].is_unique
        assert not set(singles["center"]) & before
        both = train[train["center"].isin(slots["center"])].groupby("center")["subject"].agg("size")
        assert (both >= 2).all()
        assert (train.loc[train["center"].isin(slots["center"]), "scanner"].str[:8] != "vendor N").all()


@pytest.mark.parametrize("seed", range(10))
def test_groups_are_what_the_training_rows_say(unpainted, seed):
    table = unpainted(seed).table
    train = table[table["role"] == "train"].groupby("center")
    groups = pd.Series(cohorts.find_groups(table))
    assert groups.value_counts().to_dict() == {"known": 10, "one class": 3, "one image": 4, "new scanner": 2}
    assert (train.size()[groups == "one image"] == 1).all()
    assert (train["diagnosis"].nunique()[groups == "one class"] == 1).all()
    assert (train.size()[groups == "one class"] >= 2).all()
    assert (train["diagnosis"].nunique()[groups.isin(["known", "new scanner"])] == 2).all()
    scanners = table.groupby("center")["scanner"].agg(set)
    elsewhere = set().union(*scanners[groups != "new scanner"])
    assert not set().union(*scanners[groups == "new scanner"]) & elsewhere
    assert set(table["role"]) == {"train", "verification", "test"}


def test_two_seeds_share_no_subject(unpainted):
    names = [set(unpainted(seed).table["subject"]) for seed in range(10)]
    for one, other in itertools.combinations(names, 2):
        assert not one & other


@pytest.mark.parametrize("seed", range(3))
def test_the_pre_training_of_a_clean_start_holds_neither_harm_nor_a_new_scanner(unpainted, seed, tmp_path):
    cohort = unpainted(seed)
    slots = cohorts.mark_slots(cohort, seed=seed)
    table = cohort.table.set_index("subject")
    new = set(table.index[table["scanner"].str.startswith("vendor N")])
    train = set(table.index[table["role"] == "train"])
    start = {}
    for scenario in ("clean start", "harm from the first cycle", "trusted centers"):
        task = Task(scenario, "inversion", seed, ())
        start[scenario] = cells.choose_start(task, cohort, slots, dqc.Schedule(), tmp_path)
    assert set(start["clean start"]) == train - new - set(slots["subject"])
    assert set(start["harm from the first cycle"]) == train - new
    trusted = set(start["trusted centers"])
    assert table.loc[list(trusted), "center"].nunique() == 3
    assert not set(table.loc[list(trusted), "center"]) & set(slots["center"])
    assert trusted <= train - new


def test_one_harmful_center_is_the_larger_of_the_two_and_keeps_the_single_images(unpainted):
    slots = cohorts.mark_slots(unpainted(1), seed=1)
    fewer = cells._keep_largest(slots, 1)
    sizes = slots[slots["placement"] == "center"].groupby("center").size()
    left = fewer[fewer["placement"] == "center"]
    assert len(left) == sizes.max()
    assert left["center"].nunique() == 1
    assert set(fewer.loc[fewer["placement"] == "single", "subject"]) == set(
        slots.loc[slots["placement"] == "single", "subject"]
    )
    assert len(cells._keep_largest(slots, 2)) == len(slots)


@pytest.mark.parametrize("n_centers", [1, 4])
def test_of_the_83_centers_all_marked_places_are_harmed_and_none_else_kept_out(
    n_centers, unpainted, tmp_path, monkeypatch
):
    cohort, marked = unpainted(1), []
    monkeypatch.setattr(cells, "make_large_cohort", lambda *_: cohort)
    monkeypatch.setattr(cells, "write_marked", lambda cohort, slots, **_: marked.append(slots) or cohort)
    study = cells.prepare_study(Task("83 centers", "inversion", 1, (), n_centers), tmp_path)
    (slots,) = marked
    assert slots.loc[slots["placement"] == "center", "center"].nunique() == n_centers
    train = cohort.table[cohort.table["role"] == "train"]
    new = train[train["center"].map(cohorts.find_groups(cohort.table)) == "new scanner"]
    assert study.held_back == {*slots["subject"], *new["subject"]}


# The tables, on cells made by hand.


def make_content(rows, *, auroc=0.8):
    """Return what a cell holds; rows are group, center, eliminated (0 or 1), rejections."""
    images = [
        {"subject": f"s{at}", "center": center, "group": group, "eliminated": bool(gone), "rejections": rejections}
        for at, (group, center, gone, rejections) in enumerate(rows)
    ]
    costs = {"attempts": 10, "verified": 4, "seconds": 2.5, "drifted": False}
    return {"auroc": auroc, **costs, "images": pd.DataFrame(images).to_dict("list")}


def make_cell(
    rows=(("known", "a", 0, 0),),
    *,
    scenario="clean start",
    kind="inversion",
    seed=0,
    rule="calibrated",
    n_centers=2,
    **more,
):
    task = {"scenario": scenario, "kind": kind, "seed": seed, "n_centers": n_centers}
    return {"task": task, "rule": rule, **make_content(rows, **more)}


ROWS = [
    *[("center", "a", gone, 1) for gone in (1, 1, 0)],
    *[("center", "b", gone, 0) for gone in (1, 0)],  # half of its images is not more than half
    *[("single", center, gone, gone) for center, gone in (("c", 1), ("d", 0))],
    *[("known", "c", 0, 0), ("known", "d", 1, 2), ("one class", "e", 0, 0), ("new scanner", "f", 1, 2)],
]


def test_images_are_counted_by_group_and_centers_by_more_than_half_of_theirs():
    table = tabulate([make_cell(ROWS)])["images"].set_index("group")
    assert table.loc["center", ["n", "eliminated", "rejected", "centers", "centers_lost"]].tolist() == [5, 3, 3, 2, 1]
    assert table.loc["single", ["n", "eliminated", "rejected"]].tolist() == [2, 1, 1]
    assert table.loc["known", ["n", "eliminated", "rejected"]].tolist() == [2, 1, 1]
    shares = summarize_images(tabulate([make_cell(ROWS)])["images"]).set_index("group")
    assert shares["share"].to_dict() == pytest.approx(
        {
            "center": 3 / 5,
            "centers found": 1 / 2,
            "single": 1 / 2,
            "good": 2 / 4,
            "known": 1 / 2,
            "one class": 0,
            "new scanner": 1,
            "new scanners lost": 1,
        }
    )
    assert shares.loc["good", ["eliminated", "n"]].tolist() == [2, 4]


def test_arms_that_nobody_guards_are_no_rule_that_eliminated_nothing():
    tables = tabulate([make_cell(ROWS, rule="clean"), make_cell(ROWS, rule="dirty"), make_cell(ROWS)])
    assert set(tables["images"]["rule"]) == {"calibrated"}
    assert set(tables["runs"]["rule"]) == {"clean", "dirty", "calibrated"}


def test_the_median_strength_of_the_harm_goes_with_its_images():
    cell = make_cell(ROWS[:3])
    cell["images"]["strength"] = [0.1, 0.4, 0.05]
    assert tabulate([cell])["images"]["strength"].tolist() == [0.1]
    assert tabulate([make_cell(ROWS[:3])])["images"]["strength"].isna().all()


def seeds_of(counts):
    """Return one cell per pair of eliminated and spared single images."""
    return [
        make_cell([("single", f"c{at}", at < gone, 0) for at in range(gone + spared)], seed=seed)
        for seed, (gone, spared) in enumerate(counts)
    ]


def find_share(counts):
    return summarize_images(tabulate(seeds_of(counts))["images"]).iloc[0]


def test_where_all_seeds_agree_the_interval_has_no_width():
    for counts, share in (([(0, 4)] * 5, 0.0), ([(4, 0)] * 5, 1.0), ([(1, 3)] * 5, 0.25)):
        assert find_share(counts)[["share", "low", "high"]].tolist() == [share] * 3


def test_one_seed_has_no_interval():
    row = find_share([(1, 3)])
    assert row["share"] == 0.25
    assert np.isnan(row["low"])
    assert np.isnan(row["high"])


def test_intervals_of_shares_are_those_of_all_resamples_of_seeds():
    counts = np.array([(0, 10), (2, 6), (1, 1), (5, 0), (3, 3)])
    resamples = counts[list(itertools.product(range(5), repeat=5))].sum(axis=1)
    shares = resamples[:, 0] / resamples.sum(axis=1)
    row = find_share(counts)
    assert row["share"] == pytest.approx(11 / 31)
    assert [row["low"], row["high"]] == pytest.approx(np.quantile(shares, (0.025, 0.975)), abs=0.04)
    assert row["seeds"] == 5


def test_the_difference_to_the_clean_arm_is_that_of_the_same_seed():
    quiet = [
        make_cell(scenario="no harm", kind="none", rule="clean", seed=seed, auroc=auroc)
        for seed, auroc in ((0, 0.8), (1, 0.9))
    ]
    guarded = [make_cell(seed=seed, auroc=auroc) for seed, auroc in ((0, 0.75), (1, 0.88), (2, 0.1))]
    row = compare_arms(tabulate(quiet + guarded)["runs"]).set_index("scenario").loc["clean start"]
    assert row["difference"] == pytest.approx((-0.05 - 0.02) / 2)
    assert row["seeds"] == 2, "seed 2 has no clean arm"
    assert [row["low"], row["high"]] == pytest.approx([-0.05, -0.02]), "either seed alone is a quarter of resamples"
    assert row["auroc"] == pytest.approx((0.75 + 0.88) / 2)


def test_the_83_centers_are_compared_with_their_own_clean_arm():
    rows = [
        make_cell(scenario="no harm", kind="none", rule="clean", auroc=0.9),
        make_cell(scenario="83 centers", rule="clean", auroc=0.7),
        make_cell(scenario="83 centers", auroc=0.69),
        make_cell(scenario="83 centers", rule="published 0.02", n_centers=1, auroc=0.6),
    ]
    found = compare_arms(tabulate(rows)["runs"]).set_index(["scenario", "rule"])["difference"]
    assert found["83 centers", "calibrated"] == pytest.approx(-0.01)
    assert ("83 centers", "published 0.02") not in found, "its clean arm would do without another center's images"


def make_scores(scores, *, seed=0):
    """Return a cell of one detector; scores are pairs of placement and score."""
    rows = [{"subject": f"s{at}", "placement": where, "score": score} for at, (where, score) in enumerate(scores)]
    table = pd.DataFrame(rows).assign(detector="loss", seconds=0.25)
    task = {"scenario": "clean start", "kind": "inversion", "seed": seed, "n_centers": 2}
    return json.loads(json.dumps({"task": task, "rule": "detectors", "scores": table.to_dict("list")}))


def test_detectors_are_scored_by_order_against_the_good_images_alone():
    scores = [("center", np.inf), ("", 2.0), ("center", 1.0), ("", 0.0), ("single", -5.0)]
    rows = tabulate([make_scores(scores)])["detectors"].set_index("placement")
    assert rows.loc["center", "auroc"] == 0.75  # inf > 2, inf > 0, 1 < 2, 1 > 0
    assert rows.loc["center", "average_precision"] == pytest.approx((1 / 1 + 2 / 3) / 2, abs=1e-4)
    assert rows.loc["single", "auroc"] == 0
    assert rows.loc["single", "average_precision"] == pytest.approx(1 / 3, abs=1e-4)
    assert rows["n"].to_dict() == {"center": 2, "single": 1}
    assert rows["n_good"].to_dict() == {"center": 2, "single": 2}
    assert set(rows["seconds_per_image"]) == {0.25}


@pytest.mark.parametrize(
    "scores", [[("center", np.nan), ("", 1.0)], [("", 1.0), ("", 2.0)], [("center", 1.0), ("single", 2.0)]]
)
def test_a_detector_without_a_score_or_a_side_has_neither_measure(scores):
    rows = tabulate([make_scores(scores)])["detectors"]
    assert rows.loc[rows["placement"] == "center", ["auroc", "average_precision"]].isna().all(axis=None)


def test_means_of_detectors_say_on_how_many_seeds_they_are_defined():
    known, unknown = [("center", 1.0), ("", 0.0)], [("center", np.nan), ("", 0.0)]
    tables = tabulate([make_scores(known), make_scores(unknown, seed=1), make_scores(known[::-1], seed=2)])
    row = summarize_detectors(tables["detectors"]).set_index("placement").loc["center"]
    assert [row["seeds"], row["n"], row["n_good"], row["auroc"]] == [2, 2, 2, 1.0]


def test_goals_are_met_missed_or_not_measured():
    sixty = [("center", "a", at < 59, 0) for at in range(60)] + [("single", "b", 1, 0)]  # 98.3 %
    harm = [
        make_cell([*sixty, ("new scanner", "n", 1, 2), ("known", "k", 0, 0)], seed=seed, auroc=0.8) for seed in (0, 1)
    ]
    quiet = [make_cell(scenario="no harm", kind="none", rule="clean", seed=seed, auroc=0.8095) for seed in (0, 1)]
    goals = check_goals(tabulate(harm + quiet)).set_index(["kind", "goal"])
    found = goals.loc["inversion"]
    assert found["verdict"].tolist() == ["met", "met", "met", "missed", "missed", "met"]
    assert found["measured"].tolist() == pytest.approx([1, 59 / 60, 1, 0.5, 1, -0.0095])
    assert found.loc["images of harmful centers eliminated", ["n", "seeds"]].tolist() == [120, 2]
    assert set(goals.loc["noise only", "verdict"]) == {"not measured"}


def test_a_share_that_is_the_goal_itself_meets_it():
    rows = [("center", "a", at < 98, 0) for at in range(100)] + [("known", "k", at < 1, 0) for at in range(200)]
    goals = check_goals(tabulate([make_cell(rows)])).query("kind == 'inversion'").set_index("goal")["verdict"]
    assert goals["images of harmful centers eliminated"] == "met"
    assert goals["good images eliminated"] == "met"


def test_cells_made_by_several_versions_are_told_apart_in_the_tables(tmp_path):
    several = [{"made_by": "numpy 1"} | make_cell(seed=3), make_cell(seed=1), make_cell(seed=0)]
    source = describe_source(several, command="a command", n_expected=7)
    write_tables(tabulate(several), source=source, folder=tmp_path)
    table, comments = read_table(tmp_path, "images")
    assert comments == [
        "# a command",
        "# seeds [0, 1, 3]; 3 of the 7 cells of the study",
        "# 1 cells by numpy 1",
        "# 2 cells by versions that were not noted",
    ]
    assert table["seed"].tolist() == [0, 1, 3]


def test_tables_read_back_give_the_same_summary(tmp_path):
    tables = tabulate([*seeds_of([(0, 4), (3, 1)]), make_scores([("center", 1.0), ("", 0.0)])])
    write_tables(tables, source=["made by hand"], folder=tmp_path)
    back = {name: read_table(tmp_path, name)[0] for name in tables}
    assert describe_results(back) == describe_results(tables)
    assert "37.5 % [0.0, 75.0]" in describe_results(tables)
