"""Files written aside: whole or not there, whoever else writes beside them, and no leftovers."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dqc_lib.aside import is_aside, name_aside, write_aside, write_json

ROOT = Path(__file__).parent.parent
GONE = 2**22 + 1  # no process has this number: Linux ends at 2**22


def list_names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_put_in_its_place_when_it_is_whole(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    seen = []

    def write(place):
        seen.append((place.parent, place.suffix, path.read_text()))
        place.write_text("new")

    assert write_aside(path, write) == path
    assert seen == [(tmp_path, ".json", "old")]
    assert path.read_text() == "new" and list_names(tmp_path) == ["a.json"]


def test_all_endings_are_kept_for_those_who_go_by_them(tmp_path):
    assert name_aside(tmp_path / "sub-1_T1w.nii.gz").name.endswith(".nii.gz")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt], ids=lambda kind: kind.__name__)
def test_an_error_leaves_the_older_file_and_nothing_beside_it(tmp_path, error):
    path = tmp_path / "a.json"
    path.write_text("old")

    def write(place):
        place.write_text("ne")
        raise error

    with pytest.raises(error):
        write_aside(path, write)
    assert path.read_text() == "old" and list_names(tmp_path) == ["a.json"]


def test_a_full_disk_found_out_late_leaves_the_older_file(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text("old")

    def fail(number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_aside(path, lambda place: place.write_text("new"))
    assert path.read_text() == "old" and list_names(tmp_path) == ["a.json"]


def test_two_files_of_one_folder_never_share_the_place_they_are_written_to(tmp_path):
    names = ["run.json", "harm.json", "json", "1.json", "a.csv", "b.csv", "a.csv.gz"]
    assert len({name_aside(tmp_path / name) for name in names}) == len(names)

    def write(place):
        write_aside(tmp_path / "b.csv", lambda other: other.write_text("b"))
        place.write_text("a")

    write_aside(tmp_path / "a.csv", write)
    assert [(tmp_path / name).read_text() for name in ("a.csv", "b.csv")] == ["a", "b"]


@pytest.mark.skipif(os.name != "posix", reason="Windows does not tell which processes are gone")
def test_what_killed_processes_left_of_this_file_is_removed_and_of_no_other(tmp_path):
    path, other = tmp_path / "run.json", tmp_path / "a.run.json"
    leftovers = [name_aside(path, process=GONE), name_aside(path, process=GONE + 1)]
    kept = [name_aside(other, process=GONE), name_aside(path, process=os.getppid()), tmp_path / "partial.x.run.json"]
    for place in [*leftovers, *kept]:
        place.write_text("half")
    write_aside(path, lambda place: place.write_text("whole"))
    assert list_names(tmp_path) == sorted(["run.json", *(place.name for place in kept)])


KILLED = """
import os, signal, sys
from pathlib import Path
from dqc_lib.aside import write_aside
def write(place):
    place.write_text("ha")
    os.kill(os.getpid(), signal.SIGKILL)
write_aside(Path(sys.argv[1]), write)
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is of POSIX")
def test_a_process_killed_in_the_middle_leaves_the_older_file_and_the_next_clears_up(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    (left,) = [place for place in tmp_path.iterdir() if place != path]
    assert is_aside(left) and left.read_text() == "ha"
    write_aside(path, lambda place: place.write_text("new"))
    assert path.read_text() == "new" and list_names(tmp_path) == ["a.json"]


def test_the_disk_has_file_and_name_before_the_call_returns_where_that_is_asked_for(tmp_path, monkeypatch):
    synced, fsync, replace = [], os.fsync, Path.replace

    def note(number):
        synced.append(Path(f"/proc/self/fd/{number}").resolve())
        fsync(number)

    def rename(self, target):
        synced.append("renamed")
        return replace(self, target)

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("which file a number stands for is told by /proc, which Linux has")
    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(Path, "replace", rename)
    path = tmp_path / "a.json"
    write_aside(path, lambda place: place.write_text("x"))
    assert synced == [name_aside(path), "renamed", tmp_path]
    synced.clear()
    write_aside(path, lambda place: place.write_text("y"), durable=False)
    assert synced == ["renamed"] and path.read_text() == "y"


def test_a_folder_that_cannot_be_synced_is_no_error(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "open", refuse)
    assert write_aside(tmp_path / "a.json", lambda place: place.write_text("x")).read_text() == "x"


def test_json_is_written_whole_in_utf_8(tmp_path):
    path = write_json(tmp_path / "a.json", {"name": "Süd", "n": [1, 2]})
    assert json.loads(path.read_bytes().decode("utf-8")) == {"name": "Süd", "n": [1, 2]}
    with pytest.raises(TypeError):
        write_json(path, {"name": {1}})
    assert json.loads(path.read_text())["n"] == [1, 2] and list_names(tmp_path) == ["a.json"]
