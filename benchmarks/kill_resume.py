"""Whether a run survives anything: `python -m benchmarks.kill_resume --kills 25`.

Each part of a small study, the pre-training and every arm, runs once undisturbed, and once in processes that are killed
with SIGKILL, one after the other, at moments spread over all of its attempts, or in the middle of writing a file; the
next goes on where it was. In the end ledger (but the seconds), predictions, counts and every bit of the weights are
compared. The exit status is 1 if anything differs, and if a part came to its end before all of its kills.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

import dqc_lib as dqc
from dqc_lib.aside import name_aside
from dqc_lib.networks import import_keras, load_sfcn

SAMPLES = Path(__file__).parent.parent / "data_samples"
SCHEDULE = {"warm_cycles": 2, "calm_cycles": 1, "control_cycles": 4, "revisit_after": 1, "width": 0.0625}
PARTS = {
    "pretraining": {},
    "clean": {"arm": "clean"},
    "dirty": {"arm": "dirty"},
    "published": {"arm": "qc", "rule": dqc.PublishedRule(tolerance=0.02)},
    "nearest": {"arm": "qc", "rule": "calibrated", "verifying": "nearest"},
}
"""What is killed: the run's name, which its folder begins with, and what is asked of the study."""
FILES = 3  # that the end of a cycle writes
REACH = 0.0  # of the calibrated rule, so that it suspects some in a study as small as this


def run_part(folder: Path, part: str, *, seed: int) -> None:
    """Run a part of the study, or go on with it."""
    cohort, options = dqc.split_by_subject(dqc.read_bids(SAMPLES), seed=seed), dict(PARTS[part])
    schedule, verifying = dqc.Schedule(seed=seed, **SCHEDULE), options.pop("verifying", "full")
    study = dqc.Study(cohort, schedule=schedule, folder=folder, verifying=verifying, progress=False)
    import_keras()  # which takes its time
    print("begun", flush=True)
    if options.get("rule") == "calibrated":
        options["rule"] = study.make_rule("calibrated", reach=REACH)
    study.run(**options, name=part) if options else study.pretrain()


def start(folder: Path, part: str, *, seed: int) -> subprocess.Popen:
    """Start a process that runs a part of the study, and return it when it begins."""
    command = [sys.executable, "-m", "benchmarks.kill_resume", "--child", str(folder), "--parts", part]
    process = subprocess.Popen([*command, "--seed", str(seed)], stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    return process


def finish(process: subprocess.Popen) -> None:
    """Wait until the process comes to its end by itself; one that failed ends all."""
    if process.wait():
        raise SystemExit(f"a process ended with {process.returncode}, see above")


def kill_at(
    process: subprocess.Popen, run: Path, *, n_rows: int, last: int, seconds: float, passed_by: int | None = None
) -> str | None:
    """Kill the process some time after its run has so many attempts, or from then on while it writes a file aside.

    Return what it was doing, or None if it came to its end first.

    Parameters
    ----------
    process : Popen
    run : path
        With a pattern in its last part, for the folder need not be there yet.
    n_rows, last : int
        From how many attempts on, and how many there will be: when they are all there, nothing is waited for but a
        file.
    seconds : float
    passed_by : int, optional
        Kill while a file is written, and let so many others be written before.
    """
    until, met = math.inf, set()
    while process.poll() is None:
        n_found = count_rows(run)
        if until == math.inf and n_found >= n_rows:
            until = time.monotonic() + seconds
        ripe, written = time.monotonic() >= until or n_found >= last, None
        if ripe and passed_by is not None:
            written = find_written(process, run)
            met |= {written} if written else set()
            ripe = written is not None and (len(met) > passed_by or n_found >= last)
        if ripe:
            process.kill()
            process.wait()
            half = written is not None and written.exists()  # and not renamed since it was found
            return f"writing {written.name.split('.', 2)[2]}" if half else "at work"
        time.sleep(0.0005)
    finish(process)
    return None


def count_rows(run: Path) -> int:
    """Return how many attempts the ledger of a run has."""
    return sum(path.read_bytes().count(b"\n") for path in run.parent.glob(f"{run.name}/ledger.jsonl"))


def count_decisions(run: Path) -> dict[str, int]:
    """Return how often the ledger of a run has each decision."""
    lines = [line for path in run.parent.glob(f"{run.name}/ledger.jsonl") for line in path.read_text().splitlines()]
    return dict(sorted(Counter(json.loads(line)["decision"] for line in lines).items()))


def find_written(process: subprocess.Popen, run: Path) -> Path | None:
    """Return the file that this very process is writing, not one that was killed before it."""
    own = name_aside(run / "*", process=process.pid).name
    return next(run.parent.glob(f"{run.name}/{own}"), None)


def disturb(
    folder: Path, part: str, *, kills: int, rows: int, pace: float, generator: random.Random, seed: int
) -> list[str]:
    """Run a part in processes that are killed, then to its end; return what each was doing when it was killed.

    Parameters
    ----------
    folder : path
    part : str
    kills : int
        One in each of as many equal shares of the rows, every other one while a file is written.
    rows : int
        Attempts of the undisturbed run.
    pace : float
        Its seconds per attempt.
    generator : Random
    seed : int
    """
    killed, run = [], folder / f"{part}-*"
    for at in range(kills):
        n_rows, seconds = int((at + generator.random()) / kills * rows), generator.uniform(0, 2 * pace)
        process = start(folder, part, seed=seed)
        passed_by = generator.randrange(FILES) if at % 2 else None
        doing = kill_at(process, run, n_rows=n_rows, last=rows, seconds=seconds, passed_by=passed_by)
        if doing is None:
            return killed
        killed.append(doing)
    finish(start(folder, part, seed=seed))
    return killed


def list_differences(one: Path, other: Path) -> list[str]:
    """Return the files in which two folders of runs differ."""
    ours, theirs = ({path.relative_to(root) for path in root.rglob("*") if path.is_file()} for root in (one, other))
    alike = {name for name in ours & theirs if is_same_file(one / name, other / name)}
    return sorted(str(name) for name in (ours | theirs) - alike)


def is_same_file(one: Path, other: Path) -> bool:
    """Return whether two files hold the same: models bit for bit, ledgers but for the seconds."""
    if one.suffix == ".keras":
        return all(np.array_equal(a, b) for a, b in zip(read_variables(one), read_variables(other), strict=True))
    if one.suffix == ".jsonl":
        rows = ([json.loads(line) | {"seconds": 0} for line in path.read_text().splitlines()] for path in (one, other))
        return next(rows) == next(rows)
    if one.suffix == ".npz":  # holds the time it was written at
        with np.load(one) as ours, np.load(other) as theirs:
            return ours.files == theirs.files and all(np.array_equal(ours[name], theirs[name]) for name in ours)
    return one.read_bytes() == other.read_bytes()


def read_variables(path: Path) -> list[np.ndarray]:
    """Return the weights of a saved model and the state of its optimizer."""
    model = load_sfcn(path)
    return [np.asarray(variable.value) for variable in (*model.variables, *model.optimizer.variables)]


def main(arguments: list[str] | None = None) -> None:
    """Run undisturbed, run and kill, compare, print; the exit status is 1 unless all was killed and nothing differs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kill_resume", description=__doc__)
    parser.add_argument("--kills", type=int, default=25, help="shared by the parts")
    parser.add_argument("--parts", nargs="+", choices=tuple(PARTS), default=list(PARTS), help="all unless given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child is not None:
        for part in options.parts:
            run_part(options.child, part, seed=options.seed)
        return
    generator, missing = random.Random(options.seed), 0
    with TemporaryDirectory() as build:
        plain, disturbed = Path(build) / "plain", Path(build) / "disturbed"
        for number, part in enumerate(options.parts):
            kills = len(range(number, options.kills, len(options.parts)))
            process, began = start(plain, part, seed=options.seed), time.monotonic()
            finish(process)
            whole, decisions = time.monotonic() - began, count_decisions(plain / f"{part}-*")
            rows = sum(decisions.values())
            plan = {"kills": kills, "rows": rows, "pace": whole / max(rows, 1)}
            killed = disturb(disturbed, part, **plan, generator=generator, seed=options.seed)
            writing = [doing for doing in killed if doing != "at work"]
            told = ", ".join(f"{n} {decision}" for decision, n in decisions.items())
            print(f"{part}: {rows} attempts ({told}), undisturbed {whole:.0f} s, killed {len(killed)} times", end="")
            print(f", {len(writing)} of them while {', '.join(writing)}" if writing else "", flush=True)
            missing += kills - len(killed)
        differences = list_differences(plain, disturbed)
    if missing:
        print(f"{missing} of {options.kills} kills are MISSING: a run came to its end before them")
    print("ledger, decisions, predictions, counts and weights: ", end="")
    print("identical" if not differences else "DIFFERENT: " + "; ".join(differences))
    raise SystemExit(bool(differences or missing))


if __name__ == "__main__":
    main()
