"""Nothing of a guarded command is left, whoever is killed; small programs stand for FLARE's."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from dqc_lib.federation import guard as module
from dqc_lib.federation.guard import MARK, end_marked, list_marked, run_guarded

pytestmark = pytest.mark.skipif(os.name != "posix", reason="sessions and signals are those of POSIX")

# leaves a grandchild in a session of its own, whose parent has ended; each notes its number
COMMAND = """
import os, pathlib, signal, subprocess, sys, tempfile, time
folder, depth, status = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
if depth == 0 and status == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if depth:
    subprocess.Popen([sys.executable, "-c", sys.argv[4], str(folder), str(depth - 1), *sys.argv[3:]],
                     start_new_session=True)
pathlib.Path(tempfile.mkdtemp(), "left").touch()
(folder / f"{depth}.half").write_text(f"{os.getpid()} {tempfile.gettempdir()}")
(folder / f"{depth}.half").replace(folder / f"{depth}.txt")
if depth == 1 or depth == 2 and status.isdigit():
    while not (folder / "0.txt").exists():
        time.sleep(0.01)
    sys.exit(int(status) if depth == 2 else 0)
time.sleep(600)
"""
PARENT = """
import os, signal, sys, time
from pathlib import Path
from dqc_lib.federation.guard import run_guarded

signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell takes from what runs in its background
with run_guarded(sys.argv[3:], mark=sys.argv[2], output=Path(os.devnull)):
    if sys.argv[1] == "forks" and not os.fork():
        time.sleep(600)  # with a copy of the end of the guard's pipe
    time.sleep(600)
"""


def make_command(folder, *, status="0", depth=2):
    return [sys.executable, "-c", COMMAND, str(folder), str(depth), str(status), COMMAND]


def wait_for(true):
    """Return when the condition holds; what never comes is ended by the limit of every test."""
    while not (found := true()):
        time.sleep(0.01)
    return found


def read_numbers(folder, n=3):
    """Return the processes that the command and its descendants are, once all of them have begun, and where their
    temporary files are."""
    paths = [folder / f"{depth}.txt" for depth in range(n)]
    wait_for(lambda: all(path.exists() for path in paths))
    pairs = [path.read_text().split() for path in paths]
    return [int(number) for number, _ in pairs], Path(pairs[0][1])


def runs(number):
    try:
        return psutil.Process(number).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def start_parent(folder, mark, how="waits"):
    command = [sys.executable, "-c", PARENT, how, mark, *make_command(folder, status="waits")]
    return subprocess.Popen(command, cwd=Path(__file__).parent.parent, start_new_session=True)


@pytest.fixture
def mark(tmp_path):
    """A mark of this test; what bears it after a failure is ended."""
    yield str(tmp_path)
    end_marked(str(tmp_path))


def test_when_the_command_ends_what_it_left_running_ends_too_and_its_status_is_known(tmp_path, mark):
    with run_guarded(make_command(tmp_path, status=3), mark=mark, output=tmp_path / "log") as guard:
        numbers, scratch = read_numbers(tmp_path)
        assert guard.wait() == 3
    assert not any(map(runs, numbers)) and not scratch.exists()


def test_a_guard_that_has_ended_has_ended_everything_before(tmp_path, mark):
    with run_guarded(make_command(tmp_path), mark=mark, output=tmp_path / "log") as guard:
        numbers, scratch = read_numbers(tmp_path)
        guard.wait()
        assert not any(map(runs, numbers)) and not scratch.exists()


def test_an_interrupt_ends_everything_and_goes_on(tmp_path, mark):
    with pytest.raises(KeyboardInterrupt):
        with run_guarded(make_command(tmp_path, status="waits"), mark=mark, output=tmp_path / "log"):
            numbers, scratch = read_numbers(tmp_path)
            assert runs(numbers[0]) and list(scratch.rglob("left")), "else there is nothing to end"
            raise KeyboardInterrupt
    assert not any(map(runs, numbers)) and not scratch.exists()


@pytest.mark.parametrize("how", ["waits", "forks"])
def test_when_the_process_that_runs_it_is_killed_nothing_is_left(tmp_path, mark, how):
    parent = start_parent(tmp_path, mark, how)
    numbers, scratch = read_numbers(tmp_path)
    before = {process.pid for process in list_marked(mark)}
    parent.kill()
    parent.wait()
    wait_for(lambda: not list_marked(mark) and not scratch.exists())
    assert before > {numbers[0], numbers[2]}, "the guard bears the mark too"
    assert not any(map(runs, before))
    if how == "forks":
        os.killpg(parent.pid, signal.SIGKILL)


def test_a_signal_to_the_process_that_runs_it_leaves_nothing(tmp_path, mark):
    parent = start_parent(tmp_path, mark)
    numbers, scratch = read_numbers(tmp_path)
    parent.send_signal(signal.SIGINT)
    assert parent.wait() == -signal.SIGINT, "Python ends so when nobody catches the interrupt"
    assert not any(map(runs, numbers)) and not list_marked(mark) and not scratch.exists()


def test_when_the_guard_is_killed_the_process_that_runs_it_ends_what_is_left(tmp_path, mark, monkeypatch):
    monkeypatch.setattr(module, "GRACE", 0.2)
    command = make_command(tmp_path, status="stubborn")
    with run_guarded(command, mark=mark, output=tmp_path / "log") as guard:
        numbers, scratch = read_numbers(tmp_path)
        guard.kill()
        assert guard.wait() == -signal.SIGKILL
        assert runs(numbers[0]), "it does not heed the request to end"
    assert not any(map(runs, numbers)) and not scratch.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_guard_that_is_asked_to_end_ends_everything_first(tmp_path, mark, number):
    with run_guarded(make_command(tmp_path, status="waits"), mark=mark, output=tmp_path / "log") as guard:
        numbers, scratch = read_numbers(tmp_path)
        guard.send_signal(number)
        assert guard.wait() != 0
        assert not any(map(runs, numbers)) and not scratch.exists()


def test_a_command_that_cannot_be_started_fails_and_says_so_in_the_log(tmp_path, mark):
    with run_guarded([str(tmp_path / "missing")], mark=mark, output=tmp_path / "log") as guard:
        assert guard.wait() == 1
    assert "FileNotFoundError" in (tmp_path / "log").read_text()


def test_processes_of_another_mark_are_left_alone(tmp_path, mark):
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], env=os.environ | {MARK: "other"})
    wait_for(lambda: [process.pid for process in list_marked("other")] == [other.pid])
    with run_guarded(make_command(tmp_path), mark=mark, output=tmp_path / "log") as guard:
        guard.wait()
    assert other.poll() is None
    end_marked("other")
    assert other.wait() == -signal.SIGTERM
