"""Whether verification that looks at fewer images decides as the full one does: `python -m benchmarks.verification`.

On the cohorts of the study of detection, after its clean start, each rule runs with full verification; at every attempt
verification by the nearest images is asked as well, and its verdict noted. Then runs of their own with the nearest
images, and with as many as make a rejection certain, are compared with the full one attempt by attempt. A seed that was
done before is not done again. `--quick` does one small seed in a folder of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from itertools import takewhile
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
from tqdm import tqdm

import dqc_lib as dqc
from benchmarks.detection.cells import prepare_study
from benchmarks.detection.grid import SEEDS, Task
from benchmarks.detection.running import settle_process
from benchmarks.detection.store import describe_maker
from benchmarks.detection.tables import RESULTS
from dqc_lib.quality import Counts
from dqc_lib.travelling import travel

RULES = ("published 0.01", "published 0.02", "published 0.05", "calibrated")
FEWER, EQUAL = 5.0, 0.995  # what issue 5 asks for
KEYS = ["rule", "verifying"]


class ShadowedCenters(dqc.LocalCenters):
    """Centers that verify in full, and note whether looking at the nearest images would have given the same verdict."""

    def __init__(self, cohort: dqc.Cohort, model, *, volumes) -> None:
        super().__init__(cohort, model, volumes=volumes, verifying="nearest")
        self._plain = dqc.LocalCenters(cohort, model, volumes=volumes)
        self.equal: list[bool] = []

    def verify(
        self, asks: frozenset[str] = frozenset(), harmful: Callable[[Counts], bool | None] | None = None
    ) -> dict[str, Counts]:
        """Return the counts of all images."""
        near, full = super().verify(asks, harmful), self._plain.verify(asks)
        if harmful is not None and harmful(dqc.quality.add_counts(full)) is not None:
            self.equal.append(harmful(dqc.quality.add_counts(near)) == harmful(dqc.quality.add_counts(full)))
        return full


def run_seed(seed: int, build: Path, *, quick: bool) -> list[dict]:
    """Return one row per rule and way to verify; read from its file if the seed was done before."""
    path = build / f"{'quick' if quick else 'seed'}-{seed}.json"
    if not path.exists():
        study = prepare_study(Task("clean start", "inversion", seed, (), quick=quick), build)
        rows = [row for rule in (RULES[2:3] if quick else RULES) for row in run_rule(study, rule)]
        aside = path.with_suffix(".partial")
        aside.write_text(json.dumps({"made_by": describe_maker(), "rows": rows}) + "\n", encoding="utf-8")
        aside.replace(path)
    return json.loads(path.read_text(encoding="utf-8"))["rows"]


def run_rule(study: dqc.Study, name: str) -> list[dict]:
    """Return the rows of a rule."""
    tolerance = name.removeprefix("published ")
    rule = study.make_rule(name) if tolerance == name else study.make_rule("published", tolerance=float(tolerance))
    shadowed, runs = make_centers(study, rule), {}
    control(study, rule, shadowed)
    for way in ("full", "certain", "nearest"):
        engine = make_centers(study, rule, verifying=way)
        started = time.perf_counter()
        ledger = control(study, rule, engine)
        runs[way] = (ledger, engine.passes, time.perf_counter() - started)
    plain, all_passes, in_full = runs["full"]
    n = sum(len(members) for members in shadowed.verification.values())
    rows = []
    for way in ("certain", "nearest"):
        ledger, passes, seconds = runs[way]
        pairs = zip(list_decisions(plain), list_decisions(ledger), strict=False)
        alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        rows.append(
            {"rule": name, "verifying": way, "seed": study.schedule.seed, "subjects": n, "attempts": len(plain)}
            | {"passes_in_full": all_passes, "passes": passes, "alike_from_the_start": alike}
            | {"same_run": list_decisions(plain) == list_decisions(ledger), "seconds_over_full": seconds / in_full}
            | ({"asked": len(shadowed.equal), "equal": sum(shadowed.equal)} if way == "nearest" else {})
        )
    return rows


def make_centers(study: dqc.Study, rule: dqc.quality.Rule, *, verifying: str | None = None) -> dqc.LocalCenters:
    """Return the centers of a study, shadowed if no way to verify is named."""
    start = study.open_engine(measure="update norm" in rule.asks)
    if verifying is None:
        engine = ShadowedCenters(study.cohort, start.model, volumes=study.volumes)
    else:
        engine = dqc.LocalCenters(study.cohort, start.model, volumes=study.volumes, verifying=verifying)
    engine.scale = start.scale
    return engine


def control(study: dqc.Study, rule: dqc.quality.Rule, engine: dqc.LocalCenters) -> pd.DataFrame:
    """Return the ledger of the control cycles."""
    cycles = study.plan[study.schedule.pretraining_cycles :]
    ledger, _ = travel(engine, cycles, rule=rule, revisit_after=study.schedule.revisit_after, progress=False)
    return ledger.to_frame()


def list_decisions(ledger: pd.DataFrame) -> list[tuple]:
    """Return what was tried and what came of it, one for each attempt."""
    return [
        (row.cycle, row.level, row.center, tuple(row.subjects), row.decision)
        for row in ledger[["cycle", "level", "center", "subjects", "decision"]].itertuples()
    ]


def run_alone(seed: int, build: Path, quick: bool) -> list[dict]:
    """Run a seed in a process of its own, with one core: what TensorFlow keeps of each model adds up."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=settle_process) as process:
        return process.submit(run_seed, seed, build, quick=quick).result()


def summarize(table: pd.DataFrame) -> pd.DataFrame:
    """Return by rule and way: how many times fewer images were looked at, over all seeds and in the seed that gained
    least, the share of equal verdicts, and in how many seeds the whole run was the same."""
    groups = table.groupby(KEYS, sort=False)
    each = (table["passes_in_full"] / table["passes"]).groupby([table[key] for key in KEYS], sort=False)
    sums = groups[["attempts", "passes_in_full", "passes", "asked", "equal"]].sum()
    return pd.DataFrame(
        {
            "seeds": groups.size(),
            "attempts": sums["attempts"],
            "fewer": sums["passes_in_full"] / sums["passes"],
            "fewer_at_least": each.min(),
            "asked": sums["asked"],
            "equal": sums["equal"] / sums["asked"].where(sums["asked"] > 0),
            "same_runs": groups["same_run"].sum(),
            "seconds_over_full": groups["seconds_over_full"].median(),
        }
    ).reset_index()


def describe(summary: pd.DataFrame) -> str:
    """Return the summary as text, and whether the goal is met."""
    lines = []
    for row in summary.itertuples():
        met = row.fewer >= FEWER and row.equal >= EQUAL
        goal = "" if row.verifying == "certain" else f"  goal {FEWER:g} x, {EQUAL:.1%}: {'met' if met else 'missed'}"
        verdicts = "" if pd.isna(row.equal) else f", {row.equal:.2%} of {row.asked:.0f} verdicts equal"
        fewer = f"{row.fewer:4.1f} times fewer (least {row.fewer_at_least:.1f})"
        same = f"same run in {row.same_runs} of {row.seeds} seeds, {row.seconds_over_full:.2f} of the seconds"
        lines.append(f"{row.rule:15} {row.verifying:8} {fewer}, {same}{verdicts}{goal}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Run, gather, write, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.verification", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", help="0 to 9 if not given, 0 with --quick")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--build", type=Path, default=Path("build/verification"), help="where images and results go")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(arguments)
    seeds = options.seeds or (SEEDS[:1] if options.quick else SEEDS)
    options.build.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(options.processes) as threads:
        futures = [threads.submit(run_alone, seed, options.build, options.quick) for seed in seeds]
        table = pd.DataFrame([row for future in tqdm(futures, unit="seed") for row in future.result()])
    table = table.sort_values([*KEYS, "seed"], kind="stable").reset_index(drop=True)
    whole = not options.quick and set(seeds) >= set(SEEDS)
    path = (RESULTS if whole else options.build) / "verification.csv"
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        stream.write(f"# python -m benchmarks.verification{' --quick' * options.quick}\n# seeds {sorted(seeds)}\n")
        stream.writelines(f"# {maker}\n" for maker in sorted(read_makers(options.build, seeds, quick=options.quick)))
        table.round(4).to_csv(stream, index=False, lineterminator="\n")
    print(describe(summarize(table)), f"Table: {path}", sep="\n\n")


def read_makers(build: Path, seeds: list[int], *, quick: bool) -> set[str]:
    """Return what made the files of the seeds."""
    paths = [build / f"{'quick' if quick else 'seed'}-{seed}.json" for seed in seeds]
    return {json.loads(path.read_text(encoding="utf-8"))["made_by"] for path in paths}


if __name__ == "__main__":
    main()
