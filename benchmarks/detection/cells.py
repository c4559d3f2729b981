"""What one cell of the study does: a run of one rule on one harmed cohort, and what came of every training image."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd

import dqc_lib as dqc
from benchmarks.detection.cohorts import find_groups, make_cohort, make_large_cohort, mark_slots, write_marked
from benchmarks.detection.grid import Task

SMALL = {"warm_cycles": 14, "calm_cycles": 8, "control_cycles": 5}
LARGE = {"warm_cycles": 8, "calm_cycles": 4, "control_cycles": 5, "learning_rate": 3e-4}
TRUSTED = 4  # mixed centers that the pre-training may rely on
STEALTH = (0.4, 0.3, 0.25, 0.2, 0.15, 0.1, 0.07, 0.05, 0.03, 0.02, 0.01)
MARGIN = 0.95  # of the limit, which the adversary knows


def run_task(task: Task, build: Path) -> str:
    """Run the cells of a task that are not there yet; return its name."""
    wanted = [rule for rule in task.rules if not find_cell(task, rule, build).exists()]
    if wanted:
        study = prepare_study(task, build)
        for rule in wanted:
            row = run_detectors(study) if rule == "detectors" else run_rule(study, rule)
            write_cell(find_cell(task, rule, build), {"task": vars(task) | {"rules": None}, "rule": rule} | row)
        shutil.rmtree(build / "harmful" / task.name, ignore_errors=True)
    return task.name


def find_cell(task: Task, rule: str, build: Path) -> Path:
    """Return the file of a cell."""
    return build / "cells" / f"{task.name}-{rule.replace(' ', '_')}.json"


def write_cell(path: Path, cell: dict) -> None:
    """Write a cell aside and rename it, so that a killed study leaves whole ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".partial")
    aside.write_text(json.dumps(cell) + "\n", encoding="utf-8")
    aside.replace(path)


def prepare_study(task: Task, build: Path) -> dqc.Study:
    """Return the study of a task: cohort harmed, pre-training chosen."""
    large = task.scenario == "83 centers"
    cohort = (make_large_cohort if large else make_cohort)(task.seed, build)
    schedule = dqc.Schedule(seed=task.seed, **(LARGE if large else SMALL))
    slots = mark_slots(cohort, seed=task.seed, n_centers=max(task.n_centers, 2))
    strengths = tune_adversary(cohort, slots, schedule, build) if task.scenario == "adversary" else None
    if task.kind == "none":
        harmed = cohort
    else:
        wanted = slots if task.n_centers >= 2 else _drop_last_center(slots)
        folder = build / "harmful" / task.name
        harmed = write_marked(cohort, wanted, kind=task.kind, folder=folder, strengths=strengths)
    start = choose_start(task, harmed, slots, schedule, build)
    return open_study(harmed, schedule, build, start)


def _drop_last_center(slots: pd.DataFrame) -> pd.DataFrame:
    """Return the slots without those of the smaller of the two harmful centers."""
    whole = slots[slots["placement"] == "center"]
    smaller = whole.groupby("center").size().sort_values().index[0]
    return slots[slots["center"] != smaller]


def open_study(cohort: dqc.Cohort, schedule: dqc.Schedule, build: Path, start: str | list[str]) -> dqc.Study:
    """Return a study in the folder of all studies."""
    return dqc.Study(cohort, schedule=schedule, folder=build / "runs", pretrain_on=start, progress=False)


def choose_start(
    task: Task, cohort: dqc.Cohort, slots: pd.DataFrame, schedule: dqc.Schedule, build: Path
) -> str | list[str]:
    """Return what the pre-training uses: never the new scanners, and the harmful places only where the row says so."""
    table = cohort.table[cohort.table["role"] == "train"]
    groups = table["center"].map(find_groups(cohort.table))
    met = table[groups != "new scanner"]
    good = met[~met["subject"].isin(slots["subject"])]
    if task.scenario == "harm from the first cycle":
        return list(met["subject"])
    if task.scenario == "trusted centers":
        mixed = good[~good["center"].isin(slots["center"]) & (groups == "known")]
        trusted = mixed.groupby("center").size().sort_values(ascending=False).index[:TRUSTED]
        return list(mixed.loc[mixed["center"].isin(trusted), "subject"])
    if task.scenario == "screened centers":
        screened = dqc.screen_centers(cohort, schedule=schedule, folder=build / "runs", progress=False)
        calm = set(screened.loc[~screened["suspicious"], "subject"])
        return [subject for subject in met["subject"] if subject in calm]
    if task.scenario == "second pass":
        first = open_study(cohort, schedule, build, list(met["subject"]))
        gone = first.run("qc", rule="calibrated", name="first pass").eliminated
        return [subject for subject in met["subject"] if subject not in gone]
    return list(good["subject"])


def tune_adversary(cohort: dqc.Cohort, slots: pd.DataFrame, schedule: dqc.Schedule, build: Path) -> dict[str, float]:
    """Return for every marked image the strongest blend with its inverse whose update norm stays below the limit: the
    adversary knows the model, the scale and the rule."""
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
    if rule in ("clean", "dirty"):
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
    """Return one row per training image: its group, whether it was eliminated, and how often it was tried alone and
    rejected."""
    table = study.cohort.table[study.cohort.table["role"] == "train"]
    harmed = table["harm"] != "" if "harm" in table else pd.Series(False, index=table.index)
    placement = table["placement"] if "placement" in table else pd.Series("", index=table.index)
    alone = arm.ledger[(arm.ledger["level"] != "batch") & arm.ledger["stage"].isin(("control", "closing"))]
    alone = alone.assign(subject=[names[0] for names in alone["subjects"]], rejected=alone["decision"] != "accepted")
    counts = alone.groupby("subject")["rejected"].agg(["size", "sum"]).reindex(table["subject"], fill_value=0)
    group = table["center"].map(find_groups(study.cohort.table)).mask(harmed, placement)
    return pd.DataFrame(
        {
            "subject": table["subject"],
            "center": table["center"],
            "group": group,
            "eliminated": table["subject"].isin(arm.eliminated),
            "looks": counts["size"].to_numpy(),
            "rejections": counts["sum"].to_numpy(),
        }
    )


def run_detectors(study: dqc.Study) -> dict:
    """Return how every detector, and the update norm, scores the training images with the pre-trained model."""
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
    known = table.set_index("subject")
    placement = known["placement"].mask(known["harm"] == "", "")
    return {"scores": scores.assign(placement=scores["subject"].map(placement)).to_dict("list")}
