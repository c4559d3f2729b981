"""What one cell of the study does: a run of one rule on one harmed cohort, and what came of every training image."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd

import dqc_lib as dqc
from benchmarks.detection.cohorts import find_groups, make_cohort, make_large_cohort, mark_slots, write_marked
from benchmarks.detection.grid import UNGUARDED, Task
from benchmarks.detection.store import list_missing, write_cell
from dqc_lib.harm import parse_harm

SMALL = {"warm_cycles": 14, "calm_cycles": 8, "control_cycles": 5}
QUICK = {"warm_cycles": 1, "calm_cycles": 0, "control_cycles": 1, "width": 0.05}
LARGE = {"warm_cycles": 8, "calm_cycles": 4, "control_cycles": 5, "learning_rate": 3e-4}
TRUSTED = 3  # mixed centers that the pre-training may rely on: all that hold no harm
STEALTH = (0.4, 0.3, 0.25, 0.2, 0.15, 0.1, 0.07, 0.05, 0.03, 0.02, 0.01)
MARGIN = 0.95  # of the limit, which the adversary knows


def run_task(task: Task, build: Path) -> str:
    """Run the cells of a task that are not there yet; return its name."""
    wanted = list_missing(task, build)
    if wanted:
        study = prepare_study(task, build)
        for rule in wanted:
            write_cell(task, rule, build, run_detectors(study) if rule == "detectors" else run_rule(study, rule))
        shutil.rmtree(build / "harmful" / task.name, ignore_errors=True)
    return task.name


def prepare_study(task: Task, build: Path) -> dqc.Study:
    """Return the study of a task: cohort harmed, pre-training chosen."""
    if task.large:
        cohort, settings = make_large_cohort(task.seed, build), LARGE
    else:
        cohort, settings = make_cohort(task.seed, build, quick=task.quick), QUICK if task.quick else SMALL
    schedule = dqc.Schedule(seed=task.seed, **settings)
    places = task.n_centers if task.large else max(task.n_centers, 2)  # two at least, as in the rows they stand beside
    slots = mark_slots(cohort, seed=task.seed, n_centers=places)
    strengths = tune_adversary(cohort, slots, schedule, build) if task.scenario == "adversary" else None
    if task.kind == "none":
        harmed = cohort
    else:
        wanted = _keep_largest(slots, task.n_centers)
        folder = build / "harmful" / task.name
        harmed = write_marked(cohort, wanted, kind=task.kind, folder=folder, strengths=strengths)
    start = choose_start(task, harmed, slots, schedule, build)
    return open_study(harmed, schedule, build, start)


def _keep_largest(slots: pd.DataFrame, n: int) -> pd.DataFrame:
    """Return the slots without those of whole centers beyond the n largest."""
    sizes = slots[slots["placement"] == "center"].groupby("center").size().sort_values()
    return slots[~slots["center"].isin(sizes.index[:-n])]


def open_study(cohort: dqc.Cohort, schedule: dqc.Schedule, build: Path, start: str | list[str]) -> dqc.Study:
    """Return a study in the folder of all studies."""
    return dqc.Study(cohort, schedule=schedule, folder=build / "runs", pretrain_on=start, progress=False)


def choose_start(
    task: Task, cohort: dqc.Cohort, slots: pd.DataFrame, schedule: dqc.Schedule, build: Path
) -> str | list[str]:
    """Return what the pre-training uses: never the new scanners, and the harmful places only where the row says so."""
    table = cohort.table[cohort.table["role"] == "train"]
    table = table.assign(group=table["center"].map(find_groups(cohort.table)))
    met = table[table["group"] != "new scanner"]
    good = met[~met["subject"].isin(slots["subject"])]
    if task.scenario == "harm from the first cycle":
        return list(met["subject"])
    if task.scenario == "trusted centers":
        mixed = good[~good["center"].isin(slots["center"]) & (good["group"] == "known")]
        trusted = mixed.groupby("center").size().sort_values(ascending=False).index[:TRUSTED]
        return list(mixed.loc[mixed["center"].isin(trusted), "subject"])
    if task.scenario == "screened centers":
        groups = 2 if task.quick else 3
        screened = dqc.screen_centers(cohort, schedule=schedule, groups=groups, folder=build / "runs", progress=False)
        calm = set(screened.loc[~screened["suspicious"], "subject"])
        return [subject for subject in met["subject"] if subject in calm]
    if task.scenario == "second pass":
        first = open_study(cohort, schedule, build, list(met["subject"]))
        gone = first.run("qc", rule="calibrated", name="first pass").eliminated
        return [subject for subject in met["subject"] if subject not in gone]
    return list(good["subject"])


def tune_adversary(cohort: dqc.Cohort, slots: pd.DataFrame, schedule: dqc.Schedule, build: Path) -> dict[str, float]:
    """Return for every marked image the strongest blend with its inverse whose update norm stays below the limit, or
    the weakest if none does: the adversary knows the model, the scale and the rule."""
    good = cohort.table[(cohort.table["role"] == "train") & ~cohort.table["subject"].isin(slots["subject"])]
    groups = good["center"].map(find_groups(cohort.table))
    study = open_study(cohort, schedule, build, list(good.loc[groups != "new scanner", "subject"]))
    engine, limit = study.open_engine(measure=True), study.make_rule("calibrated").limit
    probe = dqc.LogitProbe(engine.model)
    strengths = {}
    for subject in slots["subject"]:
        image = engine.volumes[subject]
        for strength in STEALTH:
            harmed = dqc.apply_harm(image, "inversion", strength=strength)
            norm = engine.scale.measure(probe.read(harmed[None, ..., None].astype(np.float32)))
            strengths[subject] = strength
            if norm <= MARGIN * limit:
                break
    return strengths


def run_rule(study: dqc.Study, rule: str) -> dict:
    """Return what a rule, or an unguarded arm, came to; its folder is removed afterwards."""
    started = time.perf_counter()
    study.pretrain()
    trained = time.perf_counter()
    if rule in UNGUARDED:
        arm = study.run(rule)
    elif rule.startswith("published"):
        arm = study.run("qc", rule=study.make_rule("published", tolerance=float(rule.split()[1])), name="published")
    else:
        arm = study.run("qc", rule=rule, name=rule)
    seconds = time.perf_counter() - trained
    attempts = arm.ledger[arm.ledger["stage"].isin(("control", "closing"))]
    row = {
        "auroc": arm.auroc(),
        "attempts": len(attempts),
        "verified": int(attempts["fp"].notna().sum()),
        "seconds": seconds,
        "pretraining_seconds": trained - started,
        "drifted": bool((arm.drift["risen"] != "").any()),
        "images": describe_images(study, arm).to_dict("list"),
    }
    shutil.rmtree(arm.folder)
    return row


def describe_images(study: dqc.Study, arm: dqc.Arm) -> pd.DataFrame:
    """Return one row per training image: its group, how strong the harm is (NaN: none), whether it was eliminated, and
    how often it was tried alone and rejected."""
    table = study.cohort.table[study.cohort.table["role"] == "train"]
    marks = table["harm"] if "harm" in table else pd.Series("", index=table.index)
    placement = table["placement"] if "placement" in table else pd.Series("", index=table.index)
    alone = arm.ledger[(arm.ledger["level"] != "batch") & arm.ledger["stage"].isin(("control", "closing"))]
    alone = alone.assign(subject=[names[0] for names in alone["subjects"]], rejected=alone["decision"] != "accepted")
    counts = alone.groupby("subject")["rejected"].agg(["size", "sum"]).reindex(table["subject"], fill_value=0)
    group = table["center"].map(find_groups(study.cohort.table)).mask(marks != "", placement)
    return pd.DataFrame(
        {
            "subject": table["subject"],
            "center": table["center"],
            "group": group,
            "strength": [parse_harm(mark)[1] if mark else float("nan") for mark in marks],
            "eliminated": table["subject"].isin(arm.eliminated),
            "looks": counts["size"].to_numpy(),
            "rejections": counts["sum"].to_numpy(),
        }
    )


def run_detectors(study: dqc.Study) -> dict:
    """Return how every detector, and the update norm, scores the training images with the pre-trained model.

    Without harm its places stand in for it: what a score makes of them it owes to their being new to the model.
    """
    from dqc_lib.detection import score_images

    engine = study.open_engine(measure=True)
    table = study.cohort.table[study.cohort.table["role"] == "train"]
    started = time.perf_counter()
    norms = [engine.scale.measure(engine.read_gradient(name)) for name in table["subject"]]
    own = pd.DataFrame({"subject": table["subject"], "score": norms}).assign(
        detector="update norm", seconds=(time.perf_counter() - started) / len(table)
    )
    others = score_images(engine.model, study.cohort, volumes=engine.volumes)
    scores = pd.concat([own, others[["subject", "score", "detector", "seconds"]]])
    marked = table[table["harm"] != ""] if "harm" in table else mark_slots(study.cohort, seed=study.schedule.seed)
    placement = scores["subject"].map(marked.set_index("subject")["placement"]).fillna("")
    return {"scores": scores.assign(placement=placement).to_dict("list")}
