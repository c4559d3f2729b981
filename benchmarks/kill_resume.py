"""Whether a run survives anything: `python -m benchmarks.kill_resume --kills 25`.

A small study under quality control runs once undisturbed, and once in processes that are killed with SIGKILL, each as
soon as it has gone some random time into its work, or in the middle of writing a file; the next goes on where it was.
In the end ledger (but the seconds), predictions, counts and every bit of the weights are compared.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

import dqc_lib as dqc
from dqc_lib.networks import import_keras, load_sfcn

SAMPLES = Path(__file__).parent.parent / "data_samples"
SCHEDULE = {"warm_cycles": 2, "calm_cycles": 1, "control_cycles": 4, "revisit_after": 1, "width": 0.0625}
RULES = {"published": dqc.PublishedRule(tolerance=0.02), "calibrated": "calibrated"}


def run_study(folder: Path, *, rule: str, verifying: str, seed: int) -> None:
    """Run the study, or go on with it."""
    cohort = dqc.split_by_subject(dqc.read_bids(SAMPLES), seed=seed)
    schedule = dqc.Schedule(seed=seed, **SCHEDULE)
    study = dqc.Study(cohort, schedule=schedule, folder=folder, verifying=verifying, progress=False)
    import_keras()  # which takes its time
    print("begun", flush=True)
    study.run("qc", rule=RULES[rule])


def start(folder: Path, options: argparse.Namespace) -> subprocess.Popen:
    """Start a process that runs the study, and return it when it begins."""
    command = [sys.executable, "-m", "benchmarks.kill_resume", "--child", str(folder), "--seed", str(options.seed)]
    command += ["--rule", options.rule, "--verifying", options.verifying]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    return process


def kill_after(process: subprocess.Popen, seconds: float, folder: Path, *, while_writing: bool) -> str | None:
    """Kill the process after some time, or from then on when it writes a file aside; return what it was doing, or None
    if it came to its end first."""
    until = time.monotonic() + seconds
    while process.poll() is None:
        written = next(folder.glob("*/partial.*"), None) if while_writing else None
        if time.monotonic() >= until and (written or not while_writing):
            process.send_signal(signal.SIGKILL)
            process.wait()
            return f"writing {written.parent.name}/{written.name}" if written else "at work"
        time.sleep(0.0005)
    if process.returncode:
        raise SystemExit(f"a process ended with {process.returncode}, see above")
    return None


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
    """Run undisturbed, run and kill, compare, print; the exit status is 1 if anything differs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kill_resume", description=__doc__)
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--rule", choices=tuple(RULES), default="published")
    parser.add_argument("--verifying", choices=("full", "certain", "nearest"), default="full")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child is not None:
        run_study(options.child, rule=options.rule, verifying=options.verifying, seed=options.seed)
        return
    generator, killed = random.Random(options.seed), []
    with TemporaryDirectory() as build:
        plain, disturbed = Path(build) / "plain", Path(build) / "disturbed"
        process, began = start(plain, options), time.monotonic()
        kill_after(process, float("inf"), plain, while_writing=False)
        whole = time.monotonic() - began
        while True:
            process = start(disturbed, options)
            # such that the kills are spread over the whole run, though each process does some of its work once more
            seconds = generator.uniform(0, 2 * whole / options.kills) if len(killed) < options.kills else float("inf")
            doing = kill_after(process, seconds, disturbed, while_writing=len(killed) % 2 == 1)
            if doing is None:
                break
            killed.append(doing)
        differences = list_differences(plain, disturbed)
    writing = sum(doing != "at work" for doing in killed)
    print(f"{options.rule}, verification {options.verifying}, seed {options.seed}: undisturbed {whole:.0f} s")
    print(f"killed {len(killed)} times, {writing} of them in the middle of writing a file")
    if len(killed) < options.kills:
        print(f"the run came to its end before the other {options.kills - len(killed)} kills")
    print("ledger, decisions, predictions, counts and weights: ", end="")
    print("identical" if not differences else "DIFFERENT: " + "; ".join(differences))
    raise SystemExit(bool(differences))


if __name__ == "__main__":
    main()
