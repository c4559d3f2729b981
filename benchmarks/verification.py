"""Whether verification that computes less decides as the full one does: `python -m benchmarks.verification`.

On the cohorts of the study of detection, after its clean start, each rule runs with full verification, with as few
images as make a rejection certain, with the nearest ones, and (some rules) in bfloat16, and the runs are compared
attempt by attempt. In another run with the nearest images, and in bfloat16, every verdict is held against the one that
full verification in float32, of the same model before and after the same step, would have given. A seed that was done
before is not done again: remove the folder after a change. `--quick` does one small seed.
"""

from __future__ import annotations

import argparse
import json
import math
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
from dqc_lib.networks import build_sfcn, freeze_normalization
from dqc_lib.quality import Counts
from dqc_lib.travelling import travel

TABLE = RESULTS / "verification.csv"
RULES = ("published 0.01", "published 0.02", "published 0.05", "calibrated")
WAYS = ("certain", "nearest", "bfloat16")
REDUCED = ("published 0.05", "calibrated")  # rules that run in bfloat16 too
FEWER, EQUAL = 5.0, 0.995  # what issue 5 asks for
KEYS = ["rule", "verifying"]


class ShadowedCenters(dqc.LocalCenters):
    """Centers that note at each attempt what a full verification of the model before and after it would have said.

    Parameters
    ----------
    cohort, model, **options
        See `LocalCenters`.
    plain : LocalCenters
        Verify in full; with the same model or with one that takes its variables over each time.
    rule : Rule

    Attributes
    ----------
    verdicts : list of (bool, bool)
        Whether the attempt was called harmful, and whether it should have been.
    """

    def __init__(self, cohort: dqc.Cohort, model, *, plain: dqc.LocalCenters, rule: dqc.quality.Rule, **options):
        super().__init__(cohort, model, **options)
        self._plain, self._rule = plain, rule
        self._before: Counts | None = None  # of the model that the last step began from
        self._now: Counts | None = None
        self._n = 0
        self.verdicts: list[tuple[bool, bool]] = []

    def train(self, center: str, subjects, *, alone: bool = False):
        """Take a step."""
        self._before, self._now, self._n = self._now, None, len(subjects)
        return super().train(center, subjects, alone=alone)

    def verify(
        self, asks: frozenset[str] = frozenset(), harmful: Callable[[Counts], bool | None] | None = None
    ) -> dict[str, Counts]:
        """Return the counts as these centers find them."""
        if self._plain.model is not self.model:
            copy_variables(self.model, self._plain.model)
        found, self._now = super().verify(asks, harmful), dqc.quality.add_counts(self._plain.verify(asks))
        said = None if harmful is None else harmful(dqc.quality.add_counts(found))
        if said is None:  # it was asked for as the reference of a step that was taken already
            self._before = self._now
        else:
            evidence = {"n": self._n, "update_norm": math.inf, "before": self._before, "after": self._now}
            self.verdicts.append((said, self._rule.judge(**evidence).harmful))
        return found

    def snapshot(self):
        """Return a copy of the model, with what is known of it."""
        return super().snapshot(), self._now

    def restore(self, state) -> None:
        """Put the model back."""
        super().restore(state[0])
        self._now = state[1]


def copy_variables(source, target) -> None:
    """Give a model the variables of another of the same layers."""
    for old, new in zip(target.variables, source.variables, strict=True):
        old.assign(new)


def reduce_precision(model, schedule: dqc.Schedule):
    """Return a copy of a model with frozen normalization and its optimizer that computes in bfloat16."""
    reduced = build_sfcn(model.input_shape[1:4], width=schedule.width, dropout=schedule.dropout, precision="bfloat16")
    freeze_normalization(reduced)
    reduced.optimizer.build(reduced.trainable_variables)
    copy_variables(model, reduced)
    copy_variables(model.optimizer, reduced.optimizer)
    return reduced


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
    plain, ledger, in_full = run_way(study, rule, "full")
    n, rows, known, eliminated = sum(map(len, plain.verification.values())), [], *list_decisions(ledger)
    for way in WAYS if name in REDUCED else WAYS[:2]:
        engine, ledger, seconds = run_way(study, rule, way)
        decisions, gone = list_decisions(ledger)
        alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(known, decisions, strict=False)))
        rows.append(
            {"rule": name, "verifying": way, "seed": study.schedule.seed, "subjects": n}
            | {"attempts": len(known), "passes_in_full": plain.passes, "passes": engine.passes}
            | {"alike_from_the_start": alike, "same_run": known == decisions, "seconds_over_full": seconds / in_full}
            | {"eliminated_in_full": len(eliminated), "eliminated_otherwise": len(eliminated ^ gone)}
            | ({} if way == "certain" else judge(run_way(study, rule, way, shadowed=True)[0].verdicts))
        )
    return rows


def run_way(study: dqc.Study, rule: dqc.quality.Rule, way: str, *, shadowed: bool = False) -> tuple:
    """Return the engine of a run, its ledger and its seconds."""
    start = study.open_engine(measure="update norm" in rule.asks)
    model = reduce_precision(start.model, study.schedule) if way == "bfloat16" else start.model
    options = {"volumes": study.volumes, "verifying": "full" if way == "bfloat16" else way}
    shadow = {"plain": start, "rule": rule} if shadowed else {}
    engine = (ShadowedCenters if shadowed else dqc.LocalCenters)(study.cohort, model, **options, **shadow)
    engine.scale = start.scale
    began = time.perf_counter()
    ledger = control(study, rule, engine)
    return engine, ledger, time.perf_counter() - began


def judge(verdicts: list[tuple[bool, bool]]) -> dict[str, int]:
    """Return how many verdicts there were, and how many as they should be."""
    return {
        "asked": len(verdicts),
        "equal": sum(said == full for said, full in verdicts),
        "harmful_in_full": sum(full for _, full in verdicts),
        "missed": sum(full and not said for said, full in verdicts),
        "accused": sum(said and not full for said, full in verdicts),
    }


def control(study: dqc.Study, rule: dqc.quality.Rule, engine: dqc.LocalCenters) -> pd.DataFrame:
    """Return the ledger of the control cycles; as in a study, the model is verified when a cycle ends."""
    cycles = study.plan[study.schedule.pretraining_cycles :]
    options = {"revisit_after": study.schedule.revisit_after, "progress": False}
    ledger, _ = travel(
        engine, cycles, rule=rule, after_cycle=lambda cycle, counts: counts or engine.verify(), **options
    )
    return ledger.to_frame()


def list_decisions(ledger: pd.DataFrame) -> tuple[list[tuple], set[str]]:
    """Return what was tried and what came of it, one for each attempt, and who was eliminated."""
    decisions = [
        (row.cycle, row.level, row.center, tuple(row.subjects), row.decision)
        for row in ledger[["cycle", "level", "center", "subjects", "decision"]].itertuples()
    ]
    return decisions, set(ledger.loc[ledger["decision"] == "eliminated", "subjects"].explode())


def run_alone(seed: int, build: Path, quick: bool) -> list[dict]:
    """Run a seed in a process of its own, with one core: what TensorFlow keeps of each model adds up."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=settle_process) as process:
        return process.submit(run_seed, seed, build, quick=quick).result()


def summarize(table: pd.DataFrame) -> pd.DataFrame:
    """Return by rule and way: how many times fewer images were looked at than in full under the same rule, over all
    seeds and in the seed that gained least, and than if every attempt were verified in full; the share of equal
    verdicts, and in how many seeds the whole run was the same."""
    groups = table.groupby(KEYS, sort=False)
    each = (table["passes_in_full"] / table["passes"]).groupby([table[key] for key in KEYS], sort=False)
    names = ["attempts", "passes_in_full", "passes", "asked", "equal", "harmful_in_full", "missed", "accused"]
    every = (table["attempts"] * table["subjects"]).groupby([table[key] for key in KEYS], sort=False).sum()
    sums = groups[[*names, "eliminated_in_full", "eliminated_otherwise"]].sum()
    return pd.DataFrame(
        {
            "seeds": groups.size(),
            "attempts": sums["attempts"],
            "fewer": sums["passes_in_full"] / sums["passes"],
            "fewer_at_least": each.min(),
            "fewer_than_always": every / sums["passes"],
            "asked": sums["asked"],
            "equal": sums["equal"] / sums["asked"].where(sums["asked"] > 0),
            "harmful_in_full": sums["harmful_in_full"],
            "missed": sums["missed"],
            "accused": sums["accused"],
            "same_runs": groups["same_run"].sum(),
            "eliminated_in_full": sums["eliminated_in_full"],
            "eliminated_otherwise": sums["eliminated_otherwise"],
            "seconds_over_full": groups["seconds_over_full"].median(),
        }
    ).reset_index()


def describe(summary: pd.DataFrame) -> str:
    """Return the summary as text, and whether the goal is met."""
    lines = []
    for row in summary.itertuples():
        met = row.fewer >= FEWER and row.equal >= EQUAL
        goal = f"  goal {FEWER:g} x, {EQUAL:.1%}: {'met' if met else 'missed'}" if row.verifying == "nearest" else ""
        wrong = f"missed {row.missed:.0f} of {row.harmful_in_full:.0f} harmful, accused {row.accused:.0f} others"
        verdicts = "" if pd.isna(row.equal) else f", {row.equal:.2%} of {row.asked:.0f} verdicts equal ({wrong})"
        more = f"least {row.fewer_at_least:.1f}; than always {row.fewer_than_always:.1f}"
        fewer = f"{row.fewer:4.1f} times fewer ({more})"
        same = f"same run in {row.same_runs} of {row.seeds} seeds, {row.seconds_over_full:.2f} of the seconds"
        gone = f"{row.eliminated_otherwise} eliminated otherwise ({row.eliminated_in_full} in full)"
        lines.append(f"{row.rule:15} {row.verifying:8} {fewer}, {same}, {gone}{verdicts}{goal}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Run, gather, write, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.verification", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", help="0 to 9 if not given, 0 with --quick")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--build", type=Path, default=Path("build/verification"), help="where images and results go")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--table", action="store_true", help="compute nothing, tell what the committed table says")
    options = parser.parse_args(arguments)
    if options.table:
        print(describe(summarize(pd.read_csv(TABLE, comment="#"))))
        return
    seeds = options.seeds or (SEEDS[:1] if options.quick else SEEDS)
    options.build.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(options.processes) as threads:
        futures = [threads.submit(run_alone, seed, options.build, options.quick) for seed in seeds]
        table = pd.DataFrame([row for future in tqdm(futures, unit="seed") for row in future.result()])
    table = table.sort_values([*KEYS, "seed"], kind="stable").reset_index(drop=True)
    whole = not options.quick and set(seeds) >= set(SEEDS)
    path = TABLE if whole else options.build / TABLE.name
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
