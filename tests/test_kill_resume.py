"""The benchmark that kills runs: what it kills, tells and fails at; a small program stands for the study."""

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import kill_resume
from benchmarks.kill_resume import PARTS, disturb, kill_at, main
from dqc_lib.aside import name_aside

ROOT = Path(__file__).parent.parent
N_ROWS = 12
STUDY = """
import json, sys, time
from pathlib import Path
from dqc_lib.aside import write_aside

def write(place):
    place.write_text("half")
    time.sleep(0.03)
    place.write_text("whole")

folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
ledger = folder / "ledger.jsonl"
done = len(ledger.read_text().splitlines()) if ledger.exists() else 0
{extra}
for at in range(done, {n_rows}):
    with ledger.open("a") as stream:
        row = {{"at": at, "decision": "split" if at else "accepted", "seconds": time.time()}}
        stream.write(json.dumps(row) + "\\n")
    time.sleep(0.005)
    write_aside(folder / "run.json", write)
write_aside(folder / "run.json", write)
"""


def start_program(code, *arguments):
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT)


def replace_study(monkeypatch, *, n_rows=N_ROWS, extra=""):
    """Let a program that writes rows and a file, and goes on where it was, stand for every part of the study."""
    code = STUDY.format(n_rows=n_rows, extra=extra)
    monkeypatch.setattr(kill_resume, "start", lambda folder, part, **options: start_program(code, folder / f"{part}-1"))


def test_what_an_earlier_kill_left_is_not_taken_for_a_file_that_is_being_written(tmp_path):
    run = tmp_path / "clean-1"
    run.mkdir()
    process = start_program("import time; time.sleep(0.5)")
    for left in (run / "partial.json", name_aside(run / "run.json"), name_aside(run / "a.csv", process=2**22 + 1)):
        left.write_text("half")
    assert kill_at(process, tmp_path / "clean-*", n_rows=0, last=0, seconds=0, passed_by=0) is None


def test_a_process_is_killed_while_it_writes_and_the_file_is_named(tmp_path):
    code = "import os, sys, time; open(f'{sys.argv[1]}/partial.{os.getpid()}.a.csv', 'w').close(); time.sleep(600)"
    (tmp_path / "clean-1").mkdir()
    process = start_program(code, tmp_path / "clean-1")
    doing = kill_at(process, tmp_path / "clean-*", n_rows=0, last=9, seconds=0, passed_by=0)
    assert doing == "writing a.csv"
    assert process.returncode == -signal.SIGKILL


def test_a_process_is_killed_at_its_attempt(tmp_path, monkeypatch):
    replace_study(monkeypatch, n_rows=10_000)
    process = kill_resume.start(tmp_path, "clean")
    assert kill_at(process, tmp_path / "clean-*", n_rows=4, last=10_000, seconds=0) == "at work"
    assert process.returncode == -signal.SIGKILL
    assert kill_resume.count_rows(tmp_path / "clean-*") >= 4


def test_files_before_the_one_asked_for_are_let_through(tmp_path):
    code = """
import os, sys, time
for name in "abc":
    place = f"{sys.argv[1]}/partial.{os.getpid()}.{name}.csv"
    open(place, "w").close()
    time.sleep(0.2 if name != "c" else 600)
    os.remove(place)
"""
    (tmp_path / "clean-1").mkdir()
    process = start_program(code, tmp_path / "clean-1")
    doing = kill_at(process, tmp_path / "clean-*", n_rows=0, last=9, seconds=0, passed_by=2)
    assert doing == "writing c.csv"


def test_when_all_attempts_are_there_no_more_time_is_let_pass(tmp_path, monkeypatch):
    (tmp_path / "clean-1").mkdir()
    (tmp_path / "clean-1" / "ledger.jsonl").write_text("{}\n{}\n")
    process = start_program("import time; time.sleep(600)")
    assert kill_at(process, tmp_path / "clean-*", n_rows=1, last=2, seconds=600) == "at work"


def test_a_process_that_fails_ends_all(tmp_path):
    with pytest.raises(SystemExit, match="a process ended with 3"):
        kill_at(start_program("raise SystemExit(3)"), tmp_path / "clean-*", n_rows=1, last=1, seconds=0)


def test_kills_are_spread_over_all_attempts_and_every_other_one_falls_into_a_file(tmp_path, monkeypatch):
    replace_study(monkeypatch)
    asked, original = [], kill_at

    def note(*arguments, **options):
        asked.append((options["n_rows"], options["passed_by"] is not None))
        return original(*arguments, **options)

    monkeypatch.setattr(kill_resume, "kill_at", note)
    killed = disturb(tmp_path, "clean", kills=4, rows=N_ROWS, pace=0.001, generator=random.Random(0), seed=0)
    assert [at // 3 for at, _ in asked] == [0, 1, 2, 3], "one in each quarter of the attempts"
    assert [while_writing for _, while_writing in asked] == [False, True, False, True]
    assert len(killed) == 4 and (tmp_path / "clean-1" / "run.json").read_text() == "whole"


def test_every_part_of_the_study_is_killed_and_what_is_the_same_passes(monkeypatch, capsys):
    replace_study(monkeypatch)
    with pytest.raises(SystemExit) as caught:
        main(["--kills", str(len(PARTS) + 2)])
    printed = capsys.readouterr().out
    assert caught.value.code == 0, printed
    assert {options.get("arm") for options in PARTS.values()} == {None, "clean", "dirty", "qc"}
    for number, part in enumerate(PARTS):
        assert f"{part}: {N_ROWS} attempts (1 accepted, 11 split), undisturbed" in printed
        assert f"killed {1 + (number < 2)} times" in printed.splitlines()[number]
    assert "identical" in printed


def test_a_run_that_goes_on_otherwise_fails(monkeypatch, capsys):
    replace_study(monkeypatch, extra="(folder / 'trace').write_text(str(done))")
    with pytest.raises(SystemExit) as caught:
        main(["--kills", "2", "--parts", "dirty"])
    assert caught.value.code == 1
    assert "DIFFERENT: dirty-1/trace" in capsys.readouterr().out


def test_fewer_kills_than_asked_for_fail_and_are_told(monkeypatch, capsys):
    replace_study(monkeypatch)
    monkeypatch.setattr(kill_resume, "kill_at", lambda process, run, **options: kill_resume.finish(process))
    with pytest.raises(SystemExit) as caught:
        main(["--kills", "3", "--parts", "clean"])
    printed = capsys.readouterr().out
    assert caught.value.code == 1
    assert "3 of 3 kills are MISSING: a run came to its end before them" in printed and "identical" in printed
