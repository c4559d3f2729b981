"""What a federated run costs beside the same run in one process: `python -m benchmarks.federation`.

Sites are processes on this machine, over FLARE's simulator or over mutual TLS. Each federated run and the same run in
one process take turns, so that a slow moment of the machine meets both, and have to decide the same. Cohorts: that of
data_samples, harmed as in notebook 04, and phantoms of 83 small centers, ten of them and five other images harmful.
Images and pre-trainings are kept in the folder `--build`; runs are always new. `--quick` does one small run.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import psutil

import dqc_lib as dqc
from benchmarks.cost import SAMPLES
from benchmarks.detection.store import describe_maker
from benchmarks.detection.tables import RESULTS
from dqc_lib.federation import FederatedRun, Task, federate, spread_cohort
from dqc_lib.federation.guard import list_marked
from dqc_lib.federation.runs import mark_folder
from dqc_lib.federation.server import read_sessions
from dqc_lib.federation.weights import unpack_scale
from dqc_lib.travelling import group_by_center, plan_cycles, travel

TABLE = RESULTS / "federation.csv"
COLUMNS = ("configuration", "turn", "quantity", "unit", "value")
LOOK_EVERY = 0.25  # seconds between two looks at the memory of a run
N_CENTERS = 83


@dataclass(frozen=True)
class Configuration:
    """A cohort ("sample", "83 centers" or "quick"), over how many sites it is spread, FLARE's environment, and how many
    cycles are controlled."""

    cohort: str
    n_sites: int
    environment: str = "simulated"
    cycles: int = 3


CONFIGURATIONS = {
    "sample, 1 site": Configuration("sample", 1),
    "sample, 2 sites": Configuration("sample", 2),
    "sample, 3 sites": Configuration("sample", 3),
    "sample, 2 sites, mutual TLS": Configuration("sample", 2, "processes"),
    "83 centers, 2 sites": Configuration("83 centers", 2, cycles=1),
}
QUICK = {"quick": Configuration("quick", 2, cycles=1)}


def make_cohort(name: str, build: Path) -> tuple[dqc.Cohort, dqc.Schedule]:
    """Return a cohort with roles, and how a study trains on it."""
    if name == "83 centers":
        recipe = dqc.Recipe(shape=(20, 24, 20), seed=83)
        cohort = dqc.write_phantoms(build / "phantoms-83", sites=[(2, 2)] * N_CENTERS, recipe=recipe, progress=False)
        cohort = dqc.split_by_subject(cohort, verification=0.25, test=0.25)
        marked = dqc.place_harm(cohort, kind="inversion", centers=cohort.centers[7::8], n_single=5, seed=4)
        short = dqc.Schedule(warm_cycles=2, calm_cycles=1, control_cycles=1, width=0.25)
        return dqc.write_harmful(marked, build / "harmful-83"), short
    cohort = dqc.split_by_subject(dqc.read_bids(SAMPLES), seed=4)
    if name == "quick":
        few = cohort.select(centers=cohort.centers[:4]).table.groupby(["center", "role", "diagnosis"]).head(2)
        short = dqc.Schedule(warm_cycles=1, calm_cycles=1, control_cycles=1, width=0.0625)
        return dqc.Cohort(few.sort_index(), SAMPLES), short
    marked = dqc.place_harm(cohort, kind="inversion", centers=["center-02"], n_single=5, seed=4)
    return dqc.write_harmful(marked, build / "harmful"), dqc.Schedule(seed=4)


def prepare(configuration: Configuration, build: Path) -> tuple[dqc.Cohort, Task, dict[str, Path]]:
    """Return the cohort, the task, and the folder of each site."""
    cohort, schedule = make_cohort(configuration.cohort, build)
    task = Task.of(dqc.Study(cohort, schedule=schedule, folder=build / "runs", progress=False))
    name = f"sites-{configuration.cohort.replace(' ', '-')}-{configuration.n_sites}"
    last = task.first + configuration.cycles
    sites = spread_cohort(cohort, build / name, configuration.n_sites)
    return cohort, replace(task, learning_rates=task.learning_rates[:last]), sites


def run_alone(cohort: dqc.Cohort, task: Task, folder: Path) -> tuple[float, pd.DataFrame]:
    """Return the seconds that the travel takes in one process, from its first step to its last, and its ledger."""
    engine = dqc.LocalCenters(cohort, task.start.build(), batch_size=task.batch_size)
    engine.scale = unpack_scale(task.scale)
    options = {"learning_rates": task.learning_rates, "batch_size": task.batch_size, "seed": task.seed}
    cycles = plan_cycles(group_by_center(cohort), **options)[task.first :]
    options = {"rule": task.rule, "revisit_after": task.revisit_after, "progress": False}
    started = time.perf_counter()
    ledger, _ = travel(engine, cycles, ledger=dqc.Ledger(folder / "ledger.jsonl"), **options)
    return time.perf_counter() - started, ledger.to_frame()


@contextmanager
def watching_memory(folder: Path) -> Iterator[list[tuple[int, float]]]:
    """Yield a list that grows by how many processes the run of a folder has and what they take together, in GB."""
    seen, over = [(0, 0.0)], threading.Event()

    def watch() -> None:
        while not over.wait(LOOK_EVERY):
            seen.append(measure_memory(folder))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()


def measure_memory(folder: Path) -> tuple[int, float]:
    """Return how many processes the run of a folder has, and what they take together, in GB; what several of them share
    counts once."""
    n, total = 0, 0
    for process in list_marked(mark_folder(folder.resolve())):
        with suppress(psutil.Error):  # gone meanwhile
            memory = process.memory_full_info()
            n, total = n + 1, total + getattr(memory, "pss", memory.uss)  # what is shared, by halves: on Linux alone
    return n, total / 1e9


def list_costs(run: FederatedRun, alone: float, seen: Sequence[tuple[int, float]]) -> dict[tuple[str, str], float]:
    """Return what a run cost, by quantity and unit."""
    whole, travelled = sum(run.seconds.values()), run.traffic[run.traffic["cycle"] > 0]
    costs = {(name, "s"): seconds for name, seconds in run.seconds.items()}
    costs |= {("whole run", "s"): whole, ("travel in one process", "s"): alone}
    costs |= {("travel over one process", "ratio"): run.seconds["travel"] / alone}
    costs |= {("whole run over one process", "ratio"): whole / alone, ("attempts", "n"): len(run.ledger)}
    costs |= {("verifications", "n"): int(run.ledger["fp"].notna().sum())}
    costs |= {("taken back", "n"): int((run.ledger["decision"] != "accepted").sum())}
    calls = run.traffic.groupby("call")["calls"].sum()
    for call, seconds in read_sessions(run.folder)[-1]["waited"].items():
        costs[f"{call}, each", "s"] = seconds / calls[call]
    for call, rows in travelled.groupby("call", sort=False):
        sent = (rows["out_mb"] + rows["back_mb"]).sum()
        costs[f"{call}, a cycle", "MB"] = sent / travelled["cycle"].nunique()
    return costs | {("processes", "n"): max(n for n, _ in seen), ("memory", "GB"): max(total for _, total in seen)}


def check_decisions(configuration: str, mine: pd.DataFrame, other: pd.DataFrame) -> None:
    """Raise a RuntimeError unless both ledgers have the same attempts with the same decisions."""
    kept = ["cycle", "level", "center", "subjects", "decision"]
    if mine[kept].values.tolist() != other[kept].values.tolist():
        raise RuntimeError(f"{configuration}: the federated run decides otherwise than the one in one process")


def measure(name: str, configuration: Configuration, *, build: Path, turns: int) -> list[tuple]:
    """Return the rows of a configuration."""
    cohort, task, sites = prepare(configuration, build)
    rows: list[tuple] = []
    for turn in range(turns):
        with tempfile.TemporaryDirectory() as scratch:
            seconds, folder = math.nan, Path(scratch) / "server"
            if turn % 2 == 0:
                seconds, ledger = run_alone(cohort, task, Path(scratch))
            with watching_memory(folder) as seen:
                run = federate(task, sites, folder=folder, environment=configuration.environment, progress=False)
            if turn % 2:
                seconds, ledger = run_alone(cohort, task, Path(scratch))
            check_decisions(name, run.ledger, ledger)
            costs = list_costs(run, seconds, seen)
        rows += [(name, turn, quantity, unit, value) for (quantity, unit), value in costs.items()]
    return rows


def summarize(table: pd.DataFrame) -> pd.DataFrame:
    """Return median, lowest and highest over the turns, by configuration, quantity and unit."""
    groups = table.groupby(["configuration", "quantity", "unit"], sort=False)["value"]
    return groups.agg(["median", "min", "max"]).reset_index()


def describe(summary: pd.DataFrame) -> str:
    """Return the summary as text."""
    lines = []
    for name, rows in summary.groupby("configuration", sort=False):
        lines += ["", name]
        for row in rows.itertuples():
            spread = f"[{row.min:.3g}, {row.max:.3g}]"
            lines.append(f"  {row.quantity:32} {row.median:8.3g} {row.unit:5} {spread}")
    return "\n".join(lines)


def write_table(path: Path, table: pd.DataFrame, notes: Sequence[str]) -> None:
    """Write the rows as CSV below what made them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        stream.writelines(f"# {note}\n" for note in notes)
        table.round(4).to_csv(stream, index=False, lineterminator="\n")


def choose(names: Sequence[str] | None, *, quick: bool) -> Mapping[str, Configuration]:
    """Return the configurations of these names; all of them unless given."""
    known = QUICK if quick else CONFIGURATIONS
    return {name: known[name] for name in names or known}


def main(arguments: list[str] | None = None) -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.federation", description=__doc__)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=tuple(CONFIGURATIONS), metavar="CONFIGURATION", help="not all")
    parser.add_argument("--build", type=Path, default=Path("build/federation-cost"), help="where images and models go")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--table", action="store_true", help="measure nothing, tell what the committed table says")
    options = parser.parse_args(arguments)
    if options.table:
        print(describe(summarize(pd.read_csv(TABLE, comment="#"))))
        return
    rows: list[tuple] = []
    for name, configuration in choose(options.only, quick=options.quick).items():
        print(f"{name} ...", flush=True)
        rows += measure(name, configuration, build=options.build, turns=1 if options.quick else options.turns)
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    path = options.build / TABLE.name if options.quick or options.only else TABLE
    command = f"python -m benchmarks.federation{' --quick' * options.quick}"
    write_table(path, table, [command, f"{describe_maker()}, nvflare {version('nvflare')}"])
    print(describe(summarize(table)), f"\nTable: {path}", sep="\n")


if __name__ == "__main__":
    main()
