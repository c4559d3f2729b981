"""A run that is cut short, at whatever moment, is continued to the end that it would have had."""

import json
import resource
import subprocess
import sys
import time
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_travelling import NARROW, ScriptedCenters, count_harm, make_plan, read_state, run_loop, write_cohort

from dqc_lib import aside
from dqc_lib.aside import name_aside
from dqc_lib.cohort import read_bids, split_by_subject
from dqc_lib.ledger import Ledger
from dqc_lib.networks import build_sfcn, load_sfcn
from dqc_lib.quality import CalibratedRule, PublishedRule
from dqc_lib.travelling import LocalCenters, RunFolder, Schedule, Study, group_by_center, runs, travel


class CutError(Exception):
    """What ends a run in these tests, in place of SIGKILL (`benchmarks.kill_resume` sends that)."""


def cut_at(monkeypatch, owner, name, at, *, after=False):
    """Let the call number `at` of a function fail, before or after it has done its work."""
    calls, original = count(), getattr(owner, name)

    def cut(*arguments, **options):
        last = next(calls) == at
        if last and not after:
            raise CutError
        original(*arguments, **options)
        if last:
            raise CutError

    monkeypatch.setattr(owner, name, cut)


# the loop


PLAN = make_plan(
    ["A: a1 bad", "B: b1 worse"], ["A: a1 bad", "B: worse b1"], ["B: b1 worse", "A: bad a1"], ["B: b1", "A: bad"]
)


def make_engine(rule):
    norms = {("a1", "bad"): 9.0, ("bad",): 8.0, ("bad", "a1"): 8.5, ("b1", "worse"): 7.0, ("worse", "b1"): 7.5}
    norms |= {("worse",): 1.2} | dict.fromkeys((("a1",), ("b1",)), 0.5)
    return ScriptedCenters(count_harm("bad", "worse"), norms=norms if "update norm" in rule.asks else None)


def travel_to(engine, ledger, rule, *, saved, completed=0):
    """Travel on from the model saved last; note the model of each completed cycle, as a run does."""
    engine.steps = saved[completed - 1] if completed else ()

    def save(cycle, counts):
        if len(saved) == cycle:
            saved.append(engine.steps)

    return run_loop(engine, PLAN, rule=rule, ledger=ledger, completed=completed, after_cycle=save)


def list_rows(ledger):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in ledger]


@pytest.mark.parametrize(
    "rule", [PublishedRule(tolerance=0.05), CalibratedRule(limit=1.0)], ids=["published", "calibrated"]
)
def test_a_run_cut_at_any_attempt_goes_on_to_the_same_ledger_docket_and_model(rule, tmp_path, monkeypatch):
    engine, whole = make_engine(rule), Ledger()
    _, docket = travel_to(engine, whole, rule, saved=[])
    decisions = {row["decision"] for row in whole}
    assert decisions == {"accepted", "split", "deferred", "eliminated"} and len(whole) > 12
    for at in range(len(whole)):
        for after in (False, True):
            path, saved = tmp_path / f"{at}-{after}.jsonl", []
            with monkeypatch.context() as patched, pytest.raises(CutError):
                cut_at(patched, Ledger, "append", at, after=after)
                travel_to(make_engine(rule), Ledger(path), rule, saved=saved)
            assert len(Ledger.read(path)) == at + after
            again = make_engine(rule)
            ledger, resumed = travel_to(again, Ledger(path), rule, saved=saved, completed=len(saved))
            assert list_rows(ledger) == list_rows(Ledger.read(path)) == list_rows(whole)
            assert (resumed.due, resumed.eliminated) == (docket.due, docket.eliminated)
            assert again.steps == engine.steps


def test_a_norm_that_is_no_number_comes_out_as_it_is_written(tmp_path, monkeypatch):
    rule, path, saved = CalibratedRule(limit=1.0), tmp_path / "ledger.jsonl", []

    def make_diverged():
        engine = make_engine(rule)
        engine.norms = dict.fromkeys(engine.norms, float("nan"))
        return engine

    whole, _ = travel_to(make_diverged(), Ledger(), rule, saved=[])
    with monkeypatch.context() as patched, pytest.raises(CutError):
        cut_at(patched, Ledger, "append", 4, after=True)
        travel_to(make_diverged(), Ledger(path), rule, saved=saved)
    assert np.isnan(Ledger.read(path).rows[0]["update_norm"])
    again, _ = travel_to(make_diverged(), Ledger(path), rule, saved=saved, completed=len(saved))
    pd.testing.assert_frame_equal(again.to_frame().drop(columns="seconds"), whole.to_frame().drop(columns="seconds"))


@pytest.mark.parametrize("lines", [slice(0, -1), slice(1, None), slice(0, 0)], ids=["last", "first", "all"])
def test_a_ledger_without_lines_of_a_cycle_whose_model_is_there_is_refused(lines, tmp_path):
    rule, path, saved = PublishedRule(tolerance=0.05), tmp_path / "ledger.jsonl", []
    travel_to(make_engine(rule), Ledger(path), rule, saved=saved)
    rows = [line for line in path.read_text().splitlines(keepends=True) if json.loads(line)["cycle"] == 0]
    path.write_text("".join(rows[lines]))
    before, engine = path.read_bytes(), make_engine(rule)
    with pytest.raises(ValueError, match=r"ledger.jsonl: the attempts of cycle 0 are not all there, or others are"):
        travel_to(engine, Ledger(path), rule, saved=saved, completed=1)
    assert path.read_bytes() == before and "train" not in engine.names()


def test_what_the_ledger_has_counts_of_is_not_verified_again(tmp_path, monkeypatch):
    rule, path, saved = PublishedRule(tolerance=0.05), tmp_path / "ledger.jsonl", []
    with monkeypatch.context() as patched, pytest.raises(CutError):
        cut_at(patched, Ledger, "append", 5, after=True)
        travel_to(make_engine(rule), Ledger(path), rule, saved=saved)
    assert len(saved) == 0, "all of it in the first cycle"
    engine, ahead = make_engine(rule), []
    original = Ledger.append
    monkeypatch.setattr(Ledger, "append", lambda self, **row: ahead.append(len(engine.calls)) or original(self, **row))
    travel_to(engine, Ledger(path), rule, saved=saved)
    before_new = engine.names()[: ahead[0]]
    assert before_new.count("train") == 7, "six attempts once more, and a new one"
    assert before_new.count("verify") == 1


def test_a_ledger_that_does_not_come_out_again_is_refused_and_left_as_it_is(tmp_path):
    rule, path = PublishedRule(tolerance=0.05), tmp_path / "ledger.jsonl"
    travel_to(make_engine(rule), Ledger(path), rule, saved=[])
    lines = path.read_text().splitlines()
    row = json.loads(lines[1])
    lines[1] = json.dumps(row | {"fp": row["fp"] + 3})
    path.write_text("\n".join(lines[:4]) + "\n")
    before = path.read_bytes()
    message = r"ledger.jsonl: attempt on \['a1'\] in cycle 0: decision is 'accepted' in the ledger and 'deferred' now"
    with pytest.raises(ValueError, match=message):
        travel_to(make_engine(rule), Ledger(path), rule, saved=[])
    assert path.read_bytes() == before


# a study


SCHEDULE = Schedule(
    warm_cycles=2,
    calm_cycles=1,
    control_cycles=3,
    learning_rate=1e-2,
    calm_learning_rate=3e-2,
    batch_size=3,
    revisit_after=1,
    width=NARROW,
)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return write_cohort(tmp_path_factory.mktemp("cohort"))


def open_study(cohort, folder, **options):
    return Study(cohort, schedule=SCHEDULE, folder=folder, progress=False, **options)


@pytest.fixture(scope="module")
def whole(cohort, tmp_path_factory):
    """Return the folder of a study that was never cut short."""
    folder = tmp_path_factory.mktemp("whole")
    open_study(cohort, folder).pretrain()
    return folder


def read_run(folder):
    """Return everything that a run has left, bit for bit, but the seconds."""
    frame = pd.read_json(folder / "ledger.jsonl", lines=True).drop(columns="seconds")
    models = {path.name: load_sfcn(path) for path in sorted(folder.glob("*.keras"))}
    weights = {
        f"{name}, {number}": variable.numpy()
        for name, model in models.items()
        for number, variable in enumerate([*model.variables, *model.optimizer.variables])
    }
    tables = {path.name: path.read_text() for path in sorted(folder.glob("*.csv"))}
    return frame, weights, tables, sorted(path.name for path in folder.iterdir())


def assert_same_run(one, other):
    (frame, weights, tables, names), expected = read_run(one), read_run(other)
    pd.testing.assert_frame_equal(frame, expected[0])
    assert weights.keys() == expected[1].keys()
    for name, values in weights.items():
        np.testing.assert_array_equal(values, expected[1][name], err_msg=name)
    assert (tables, names) == expected[2:]


def insist(work, monkeypatch, owner, name, *, step=1, after=False):
    """Do the work, cut short at each call of a function, each time some calls later, until it comes to its end; return
    how often it was cut."""
    for cuts in count():
        with monkeypatch.context() as patched:
            cut_at(patched, owner, name, cuts * step, after=after)
            try:
                work()
            except CutError:
                continue
        return cuts


@pytest.mark.parametrize(
    ("rule", "verifying"),
    [(PublishedRule(tolerance=0.0), "full"), (PublishedRule(tolerance=0.0), "nearest")]
    + [("calibrated", "full"), ("calibrated", "nearest")],
)
def test_an_arm_cut_at_its_attempts_ends_as_one_that_was_not(rule, verifying, cohort, whole, monkeypatch):
    arm = open_study(cohort, whole, verifying=verifying).run("qc", rule=rule, name="undisturbed")

    def work():
        open_study(cohort, whole, verifying=verifying).run("qc", rule=rule, name="disturbed")

    cuts = insist(work, monkeypatch, Ledger, "append", step=5)
    assert cuts >= 2 and arm.ledger["cycle"].nunique() == 3
    (folder,) = [path for path in whole.glob("disturbed-*") if not (path / "compared").exists()]
    frame, weights, tables, names = read_run(folder)
    expected = read_run(arm.folder)
    pd.testing.assert_frame_equal(frame, expected[0])
    for name, values in weights.items():
        np.testing.assert_array_equal(values, expected[1][name], err_msg=name)
    assert [text.replace("undisturbed", "disturbed") for text in expected[2].values()] == list(tables.values())
    assert names == expected[3]
    (folder / "compared").touch()


@pytest.mark.parametrize(("name", "after"), [("append", True), ("write_aside", False), ("write_aside", True)])
def test_a_pretraining_cut_anywhere_ends_as_one_that_was_not(name, after, cohort, whole, tmp_path, monkeypatch):
    def work():
        open_study(cohort, tmp_path).pretrain()

    owner = Ledger if name == "append" else runs
    if owner is runs:
        monkeypatch.setattr("dqc_lib.travelling.study.write_aside", lambda *arguments: runs.write_aside(*arguments))
    cuts = insist(work, monkeypatch, owner, name, step=7 if owner is Ledger else 1, after=after)
    assert cuts >= 3
    (folder,), (expected,) = tmp_path.glob("pretraining-*"), whole.glob("pretraining-*")
    assert_same_run(folder, expected)


def test_a_model_rounds_in_another_process_as_it_would_have_in_the_first(tmp_path):
    samples = split_by_subject(read_bids(Path(__file__).parent.parent / "data_samples"), seed=0)
    engine = LocalCenters(samples, build_sfcn((40, 48, 40), width=NARROW))
    center, members = max(group_by_center(samples).items(), key=lambda item: len(item[1]))
    assert len(members) >= 5
    engine.train(center, members[:5])
    engine.train(center, members[:3])
    engine.save(tmp_path / "model.keras")
    engine.train(center, members[:2])
    again = LocalCenters(samples, load_sfcn(tmp_path / "model.keras"), volumes=engine.volumes)
    before = read_state(again)
    again.rehearse([5, 5, 3, 2])
    assert all(np.array_equal(a, b) for a, b in zip(read_state(again), before, strict=True))
    again.train(center, members[:2])
    assert all(np.array_equal(a, b) for a, b in zip(read_state(again), read_state(engine), strict=True))


def test_a_study_that_goes_on_rehearses_the_steps_of_the_cycles_behind_it(cohort, whole, monkeypatch):
    tiny, rehearsed = open_study(cohort, whole), []
    monkeypatch.setattr(LocalCenters, "rehearse", lambda self, sizes: rehearsed.append(list(sizes)))
    with monkeypatch.context() as patched, pytest.raises(CutError):
        cut_at(patched, RunFolder, "record_cycle", 1, after=True)
        tiny.run("dirty", name="rehearsed")
    assert rehearsed == []
    ledger = tiny.run("dirty", name="rehearsed").ledger
    first, second, *_ = sorted(set(ledger["cycle"]))
    assert rehearsed == [ledger.loc[ledger["cycle"] <= second, "n"].tolist()] and first < second


def test_a_file_cut_in_the_middle_is_not_taken_for_a_whole_one(cohort, whole, monkeypatch):
    """The closing revisit too: its model takes the place of the last cycle's when everything is written."""
    short = replace(SCHEDULE, warm_cycles=1, calm_cycles=0, control_cycles=1)
    options = {"schedule": short, "folder": whole, "progress": False}
    everybody = CalibratedRule(limit=1e-9)  # is suspicious, waits when the only cycle ends, and is tried again then
    arm = Study(cohort, **options).run("qc", rule=everybody, name="plain")
    assert "closing" in set(arm.ledger["stage"])

    def tear(path, write):
        torn = name_aside(path)
        write(torn)
        torn.write_bytes(torn.read_bytes()[:100])
        raise CutError

    original = runs.write_aside
    for limit in count():
        calls = count()

        def write(*arguments, calls=calls, limit=limit):
            return (tear if next(calls) == limit else original)(*arguments)

        with monkeypatch.context() as patched:
            for owner in (runs, aside):
                patched.setattr(owner, "write_aside", write)
            try:
                Study(cohort, **options).run("qc", rule=everybody, name=f"torn {limit}")
            except CutError:
                pass
            else:
                break
        again = Study(cohort, **options).run("qc", rule=everybody, name=f"torn {limit}")
        pd.testing.assert_frame_equal(again.ledger.drop(columns="seconds"), arm.ledger.drop(columns="seconds"))
        one, other = (read_run(run.folder)[1] for run in (again, arm))
        for name, values in one.items():
            np.testing.assert_array_equal(values, other[name], err_msg=name)
    assert limit == 8, "the first note, two tables and a model of the cycle and of the closing revisit, the last note"


CELL = """
import sys
sys.path.insert(0, {tests!r})
from test_resume import SCHEDULE
from dqc_lib import PublishedRule, Study, read_bids
study = Study(read_bids({cohort!r}), schedule=SCHEDULE, folder={folder!r})
arm = study.run("qc", rule=PublishedRule(tolerance=0.0), name="interrupted")
"""


def test_a_cell_interrupted_in_the_middle_of_a_cycle_goes_on_when_it_is_called_again(cohort, whole):
    from jupyter_client.manager import start_new_kernel

    expected = open_study(cohort, whole).run("qc", rule=PublishedRule(tolerance=0.0), name="unhindered")
    n_first = int((expected.ledger["cycle"] == expected.ledger["cycle"].min()).sum())
    code = CELL.format(tests=str(Path(__file__).parent), cohort=str(cohort.root), folder=str(whole))
    manager, client = start_new_kernel()
    try:
        asked = client.execute(code)
        while not any(count_lines(path) > n_first for path in whole.glob("interrupted-*/ledger.jsonl")):
            assert manager.is_alive()
            time.sleep(0.001)
        manager.interrupt_kernel()
        reply = client.get_shell_msg(timeout=120)
        while reply["parent_header"]["msg_id"] != asked:  # what the kernel said of itself before
            reply = client.get_shell_msg(timeout=120)
        assert reply["content"].get("ename") == "KeyboardInterrupt", reply["content"]
        (folder,) = whole.glob("interrupted-*")
        assert n_first < count_lines(folder / "ledger.jsonl") < len(expected.ledger)
        shown = []
        hook = {"output_hook": lambda message: shown.append(json.dumps(message["content"]))}
        reply = client.execute_interactive(code, **hook)
        assert reply["content"]["status"] == "ok", shown
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    n_batches = sum(len(visit.batches) for cycle in open_study(cohort, whole).plan[3:] for visit in cycle.visits)
    assert any(f"{n_batches // 3}/{n_batches}" in text for text in shown), "the bar begins after the first cycle"
    frame, weights, _, _ = read_run(folder)
    pd.testing.assert_frame_equal(frame, read_run(expected.folder)[0])
    for name, values in read_run(expected.folder)[1].items():
        np.testing.assert_array_equal(weights[name], values, err_msg=name)


def count_lines(path):
    return path.read_bytes().count(b"\n")


# one folder, one process


def test_a_second_process_is_refused(cohort, whole):
    tiny = open_study(cohort, whole)
    with tiny._open("other", arm="dirty").open():
        (folder,) = whole.glob("other-*")
        with pytest.raises(RuntimeError, match="another process is computing this run; wait for it"):
            open_study(cohort, whole).run("dirty", name="other")
    code = "import sys; from filelock import FileLock\nwith FileLock(sys.argv[1]): print('held', flush=True); input()"
    command = [sys.executable, "-c", code, str(folder / "run.lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RuntimeError, match="other-.*: another process is computing this run"):
            tiny.run("dirty", name="other")
        other.kill()
    assert tiny.run("dirty", name="other").folder == folder, "whoever held it is gone"


def test_a_full_disk_says_what_is_kept_and_the_run_goes_on_when_there_is_room(cohort, whole):
    tiny, limits = open_study(cohort, whole), resource.getrlimit(resource.RLIMIT_FSIZE)
    expected = tiny.run("dirty", name="roomy")
    rows = (expected.folder / "ledger.jsonl").read_bytes()
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(rows) // 2, limits[1]))
    try:
        with pytest.raises(
            OSError, match=r"cramped-.*: .*File too large.* [1-9]\d* attempts and the models of 0 cycles are kept"
        ):
            tiny.run("dirty", name="cramped")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    arm = tiny.run("dirty", name="cramped")
    pd.testing.assert_frame_equal(arm.ledger.drop(columns="seconds"), expected.ledger.drop(columns="seconds"))


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    with pytest.raises(
        OSError, match=r"run: .*Read-only file system.*; 0 attempts and the models of 0 cycles are kept"
    ):
        RunFolder(tmp_path / "run", {"name": "qc"})


def refuse(self, *arguments, **options):
    raise OSError(30, "Read-only file system", str(self))


def test_an_image_that_cannot_be_read_is_no_matter_of_the_folder(tmp_path):
    run = RunFolder(tmp_path / "run", {"name": "qc"})
    with pytest.raises(PermissionError, match="^.Errno 13. Permission denied: '/elsewhere/image.nii'$"), run.open():
        raise PermissionError(13, "Permission denied", "/elsewhere/image.nii")


def test_an_image_on_a_failing_disk_is_no_matter_of_the_folder_either(tmp_path):
    run = RunFolder(tmp_path / "run", {"name": "qc"})
    with pytest.raises(OSError, match="^.Errno 5. Input/output error$"), run.open():
        raise OSError(5, "Input/output error")
    with pytest.raises(OSError, match=r"run: .*No space left on device; 0 attempts and .* are kept"), run.open():
        raise OSError(28, "No space left on device")


def test_the_progress_bar_goes_on_where_the_run_was(capsys):
    rule, saved, ledger = PublishedRule(tolerance=0.05), [], Ledger()
    travel_to(make_engine(rule), ledger, rule, saved=saved)
    early = Ledger()
    for row in ledger:
        if row["cycle"] < 2:
            early.append(**row)
    engine = make_engine(rule)
    engine.steps = saved[1]
    travel(engine, PLAN, rule=rule, ledger=early, completed=2)
    first = capsys.readouterr().err.split("\r")[1:3]
    assert any("4/8" in text for text in first), first
