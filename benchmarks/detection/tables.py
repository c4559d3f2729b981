"""From cells to tidy tables, and from those to shares with intervals over the seeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.detection.cohorts import find_places
from benchmarks.detection.grid import MAIN_KINDS, UNGUARDED

RESULTS = Path(__file__).parent.parent / "results"
KEYS = ["scenario", "kind", "n_centers", "rule", "seed"]
IMAGES = ["group", "n", "eliminated", "rejected", "centers", "centers_lost", "strength"]
RUNS = ["auroc", "attempts", "verified", "seconds", "drifted"]
DETECTORS = ["detector", "placement", "n", "n_good", "auroc", "average_precision", "seconds_per_image"]
RESAMPLES = 2000
GOALS = (
    ("harmful centers found", "centers found", "at least", 1.0),
    ("images of harmful centers eliminated", "center", "at least", 0.98),
    ("single harmful images eliminated", "single", "at least", 0.95),
    ("good images eliminated", "good", "at most", 0.005),
    ("good centers with a new scanner lost", "new scanners lost", "at most", 0.0),
    ("test AUROC less that of the clean arm", "auroc", "at least", -0.01),
)
"""What issue 4 asks of the rule to be used: of which group, and what share or difference."""


def tabulate(cells: list[dict]) -> dict[str, pd.DataFrame]:
    """Return the tidy tables by name.

    Returns
    -------
    dict
        "images": one row per cell under a rule and group of images, with n, how many were eliminated and how many
        rejected at least once when tried alone, the number of centers they come from and of those that lost more than
        half of them, and the median strength of the harm (NaN where there is none, or older cells do not say). The
        group "not met" are good images where other rows have harm, see `_tell_unmet`.
        "runs": one row per cell with test AUROC, attempts, attempts verified, seconds without the pre-training and
        what came before it, and whether the model drifted. "detectors": one row per scenario, kind, seed, detector and
        placement with AUROC and average precision for n harmful against n_good images, NaN where the scores are.
    """
    images, runs, detectors = [], [], []
    for cell in cells:
        key = {name: cell["task"][name] for name in KEYS if name != "rule"} | {"rule": cell["rule"]}
        if "scores" in cell:
            detectors.append(_score_detectors(pd.DataFrame(cell["scores"])).assign(**key))
            continue
        runs.append(pd.DataFrame([key | {name: cell[name] for name in RUNS}]))
        if cell["rule"] not in UNGUARDED:  # nothing could have been eliminated there
            images.append(_count_images(_tell_unmet(cell)).assign(**key))
    return {
        "images": _stack(images, IMAGES),
        "runs": _stack(runs, RUNS),
        "detectors": _stack(detectors, DETECTORS),
    }


def _stack(frames: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    """Return the rows of all frames in order of their keys."""
    table = pd.concat(frames) if frames else pd.DataFrame(columns=KEYS + columns)
    return table[KEYS + columns].sort_values(KEYS + columns[:2]).reset_index(drop=True).round(4)


def _tell_unmet(cell: dict) -> pd.DataFrame:
    """Return the images of a cell. Good ones at the places of harm, which the pre-training never met, become a group of
    their own: what happens to them, the rule does to what is new and not to what is harmful."""
    images, task = pd.DataFrame(cell["images"]), cell["task"]
    if task["scenario"] not in ("no harm", "fraction"):
        return images
    unmet = images["subject"].isin(find_places(task["seed"], quick=task.get("quick", False)))
    return images.assign(group=images["group"].mask(unmet & (images["group"] == "known"), "not met"))


def _count_images(images: pd.DataFrame) -> pd.DataFrame:
    """Return one row per group of images; a center is lost if more than half of its images of that group are."""
    if "strength" not in images:
        images = images.assign(strength=np.nan)
    images = images.assign(rejected=images["rejections"] > 0, strength=images["strength"].astype(float))
    centers = images.groupby(["group", "center"])["eliminated"].mean().gt(0.5).groupby("group").agg(["size", "sum"])
    groups = images.groupby("group")
    counts = groups.agg(n=("eliminated", "size"), eliminated=("eliminated", "sum"), rejected=("rejected", "sum"))
    counts = counts.assign(centers=centers["size"], centers_lost=centers["sum"], strength=groups["strength"].median())
    return counts.reset_index()


def _score_detectors(scores: pd.DataFrame) -> pd.DataFrame:
    """Return AUROC and average precision of each detector for each placement against the good images; NaN where a score
    is, or one side is missing."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    rows = []
    for detector, own in scores.groupby("detector", sort=False):
        for placement in ("center", "single"):
            part = own[own["placement"].isin(("", placement))]
            truth, score = part["placement"] == placement, part["score"].astype(float)
            known = score.notna().all() and truth.any() and not truth.all()
            order = score.rank()  # both measures go by order alone, and sklearn takes no infinite score
            rows.append(
                {
                    "detector": detector,
                    "placement": placement,
                    "n": int(truth.sum()),
                    "n_good": int((~truth).sum()),
                    "auroc": roc_auc_score(truth, order) if known else np.nan,
                    "average_precision": average_precision_score(truth, order) if known else np.nan,
                    "seconds_per_image": float(own["seconds"].astype(float).iloc[0]),
                }
            )
    return pd.DataFrame(rows)


def describe_source(cells: list[dict], *, command: str, n_expected: int) -> list[str]:
    """Return the lines that say where tables come from: the command, the seeds, how much of the study there is, and
    what made the cells, one line for each version of it."""
    seeds = sorted({int(cell["task"]["seed"]) for cell in cells})
    makers = Counter(cell.get("made_by", "versions that were not noted") for cell in cells)
    by = [f"{count} cells by {maker}" for maker, count in sorted(makers.items())]
    return [command, f"seeds {seeds}; {len(cells)} of the {n_expected} cells of the study", *by]


def write_tables(tables: dict[str, pd.DataFrame], *, source: Iterable[str], folder: Path) -> None:
    """Write the tables as CSV, each with the lines of its source as comments before it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        with (folder / f"detection_{name}.csv").open("w", encoding="utf-8", newline="\n") as stream:
            stream.writelines(f"# {line}\n" for line in source)
            table.to_csv(stream, index=False, lineterminator="\n")


def summarize_images(images: pd.DataFrame) -> pd.DataFrame:
    """Return the share of images eliminated by scenario, kind, rule and group, with 95 % intervals.

    Beside the groups of the table there are "good", all good images together; "centers found", the wholly harmful
    centers that lost more than half of their images; and "new scanners lost", the good ones with a new scanner that
    did. Seeds are resampled, not images: those of one run share a model. See `_resample` on what intervals say.
    """
    good = images[~images["group"].isin(("center", "single"))].assign(group="good")
    parts = [images, good]
    for group, name in (("center", "centers found"), ("new scanner", "new scanners lost")):
        own = images[images["group"] == group]
        parts.append(own.assign(group=name, n=own["centers"], eliminated=own["centers_lost"]))
    counts = pd.concat(parts).groupby([*KEYS, "group"])[["n", "eliminated"]].sum().reset_index()
    by = [*KEYS[:-1], "group"]
    summary = [
        dict(zip(by, names, strict=True)) | _resample_share(part["eliminated"], part["n"])
        for names, part in counts.groupby(by)
    ]
    return pd.DataFrame(summary, columns=[*by, "seeds", "n", "eliminated", "share", "low", "high"])


def _resample_share(part: pd.Series, total: pd.Series) -> dict[str, float]:
    """Return the share of sums and its interval."""
    part, total = part.to_numpy(dtype=float), total.to_numpy(dtype=float)
    low, high = _resample(len(part), lambda picks: part[picks].sum(axis=-1) / total[picks].sum(axis=-1))
    counts = {"seeds": len(part), "n": int(total.sum()), "eliminated": int(part.sum())}
    return counts | {"share": part.sum() / total.sum(), "low": low, "high": high}


def _resample(n: int, measure) -> tuple[float, float]:
    """Return the 95 % percentile interval of a measure over resampled seeds; NaN with one seed, which says nothing of
    others. Where all seeds agree its width is 0, and then it says no more than that they agree."""
    if n < 2:
        return np.nan, np.nan
    values = measure(np.random.default_rng(0).integers(n, size=(RESAMPLES, n)))
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)


def compare_arms(runs: pd.DataFrame) -> pd.DataFrame:
    """Return by how much the test AUROC of each cell differs from that of the clean arm of its seed: mean over the
    seeds and 95 % interval.

    The clean arm is that of "no harm": it trains on all images, before they were harmed. On the cohort of 83 centers
    there is none of that, and it is the one without the images harmed in the same row. Cells without a clean arm are
    left out.
    """
    large = runs["scenario"] == "83 centers"
    runs = runs.assign(without=runs["n_centers"].where(large, 0))  # whose harm the clean arm does without
    clean = runs[(runs["rule"] == "clean") & ((runs["scenario"] == "no harm") | large)]
    clean = clean[["without", "seed", "auroc"]].rename(columns={"auroc": "clean"})
    rows = runs.merge(clean, on=["without", "seed"], how="inner")
    rows["difference"] = rows["auroc"].astype(float) - rows["clean"].astype(float)
    out = []
    for names, part in rows.dropna(subset="difference").groupby(KEYS[:-1]):
        values = part["difference"].to_numpy()
        low, high = _resample(len(values), lambda picks, values=values: values[picks].mean(axis=-1))
        measured = {"seeds": len(values), "auroc": part["auroc"].mean(), "difference": values.mean()}
        out.append(dict(zip(KEYS[:-1], names, strict=True)) | measured | {"low": low, "high": high})
    return pd.DataFrame(out, columns=[*KEYS[:-1], "seeds", "auroc", "difference", "low", "high"])


def summarize_detectors(detectors: pd.DataFrame) -> pd.DataFrame:
    """Return AUROC and average precision by scenario, kind, detector and placement: means over the seeds in which they
    are defined, how many those are, and the 95 % interval of the AUROC."""
    by = ["scenario", "kind", "n_centers", "detector", "placement"]
    out = []
    for names, part in detectors.groupby(by):
        known = part.dropna(subset=["auroc", "average_precision"])
        values = known["auroc"].to_numpy(dtype=float)
        low, high = _resample(len(values), lambda picks, values=values: values[picks].mean(axis=-1))
        means = {name: known[name].astype(float).mean() for name in ("auroc", "average_precision")}
        counts = {"seeds": len(known), "n": int(known["n"].sum()), "n_good": int(known["n_good"].sum())}
        out.append(dict(zip(by, names, strict=True)) | counts | means | {"low": low, "high": high})
    return pd.DataFrame(out, columns=[*by, "seeds", "n", "n_good", "auroc", "average_precision", "low", "high"])


def check_goals(tables: dict[str, pd.DataFrame], *, rule: str = "calibrated") -> pd.DataFrame:
    """Return the goals of the study, for a clean start and the main kinds of harm: what is wanted, what was measured
    with its interval, out of how many, and whether the goal is met ("met", "missed", "not measured").

    What counts is the measured value; where the interval reaches beyond the goal, other seeds may say otherwise.
    """
    shares, arms = summarize_images(tables["images"]), compare_arms(tables["runs"])
    arms = arms.assign(group="auroc", share=arms["difference"], n=arms["seeds"])
    rows = pd.concat([frame for frame in (shares, arms) if len(frame)] or [shares])
    rows = rows[(rows["scenario"] == "clean start") & (rows["rule"] == rule)]
    measured = {(row["kind"], row["group"]): row for row in rows.to_dict("records")}
    out = []
    for goal, group, direction, limit in GOALS:
        for kind in MAIN_KINDS:
            found = measured.get((kind, group), {})
            share = float(found.get("share", np.nan))
            met = share >= limit if direction == "at least" else share <= limit
            verdict = "not measured" if np.isnan(share) else "met" if met else "missed"
            wanted = {"goal": goal, "kind": kind, "rule": rule, "wanted": direction, "limit": limit}
            more = {name: found.get(name, np.nan) for name in ("low", "high", "n", "seeds")}
            out.append(wanted | {"measured": share} | more | {"verdict": verdict})
    return pd.DataFrame(out)
