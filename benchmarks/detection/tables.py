"""From cells to tidy tables, and from those to shares with intervals over the seeds."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd

RESULTS = Path(__file__).parent.parent / "results"
KEYS = ["scenario", "kind", "n_centers", "rule", "seed"]
RESAMPLES = 2000


def read_cells(build: Path) -> list[dict]:
    """Return all cells that are there."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted((build / "cells").glob("*.json"))]


def tabulate(cells: list[dict]) -> dict[str, pd.DataFrame]:
    """Return the tidy tables by name.

    Returns
    -------
    dict
        "images": one row per cell, group of images and center with n and eliminated, and for harmful ones how many
        were rejected at least once. "runs": one row per cell with test AUROC, attempts, verified, seconds. "detectors":
        one row per scenario, kind, seed, detector and placement with AUROC and average precision against good images.
    """
    images, runs, detectors = [], [], []
    for cell in cells:
        key = {name: cell["task"][name] for name in KEYS if name != "rule"} | {"rule": cell["rule"]}
        if "scores" in cell:
            detectors.append(_score_detectors(pd.DataFrame(cell["scores"])).assign(**key))
            continue
        runs.append({**key, **{name: value for name, value in cell.items() if name not in ("task", "rule", "images")}})
        table = pd.DataFrame(cell["images"])
        rejected = table["rejections"] > 0
        counts = table.assign(rejected=rejected).groupby(["group", "center"])
        images.append(
            counts.agg(n=("eliminated", "size"), eliminated=("eliminated", "sum"), rejected=("rejected", "sum"))
            .reset_index()
            .assign(**key)
        )
    order = lambda frame, *more: frame[[*KEYS, *more]].sort_values([*KEYS, *more[:2]]).reset_index(drop=True)  # noqa: E731
    measures = ("auroc", "attempts", "verified", "seconds", "pretraining_seconds", "drifted")
    return {
        "images": order(pd.concat(images), "group", "center", "n", "eliminated", "rejected"),
        "runs": order(pd.DataFrame(runs), *measures).round(4),
        "detectors": order(
            pd.concat(detectors), "detector", "placement", "n", "auroc", "average_precision", "seconds_per_image"
        ).round(4),
    }


def _score_detectors(scores: pd.DataFrame) -> pd.DataFrame:
    """Return AUROC and average precision of each detector for each placement against the good images; NaN where the
    scores are."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    rows = []
    for detector, own in scores.groupby("detector", sort=False):
        for placement in ("center", "single"):
            part = own[own["placement"].isin(("", placement))]
            truth, score = part["placement"] == placement, part["score"].astype(float)
            known = score.notna().all() and truth.any()
            rows.append(
                {
                    "detector": detector,
                    "placement": placement,
                    "n": int(truth.sum()),
                    "auroc": roc_auc_score(truth, score) if known else np.nan,
                    "average_precision": average_precision_score(truth, score) if known else np.nan,
                    "seconds_per_image": float(own["seconds"].astype(float).iloc[0]),
                }
            )
    return pd.DataFrame(rows)


def write_tables(tables: dict[str, pd.DataFrame], *, command: str, folder: Path = RESULTS) -> None:
    """Write the tables as CSV, each with the command, seeds and versions that made it in its first lines."""
    import os

    packages = ("numpy", "tensorflow", "keras", "scikit-learn", "cleanlab")
    made_by = ", ".join(f"{name} {version(name)}" for name in packages)
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        seeds = sorted(int(seed) for seed in table["seed"].unique())
        with (folder / f"detection_{name}.csv").open("w", encoding="utf-8", newline="\n") as stream:
            stream.write(f"# {command}\n# seeds {seeds}; {os.cpu_count()} cores; {made_by}\n")
            table.to_csv(stream, index=False)


def summarize_images(images: pd.DataFrame) -> pd.DataFrame:
    """Return the share of images eliminated by scenario, kind, rule and group, with 95 % intervals.

    Seeds are resampled, not images: those of one run share a model. The good images together are the group "good".
    """
    harmful = images["group"].isin(("center", "single"))
    rows = pd.concat([images, images[~harmful].assign(group="good")])
    whole = rows[rows["group"] == "center"].assign(group="centers found", n=1)
    whole["eliminated"] = (images.loc[whole.index, "eliminated"] * 2 > images.loc[whole.index, "n"]).astype(int)
    counts = pd.concat([rows, whole]).groupby([*KEYS, "group"])[["n", "eliminated"]].sum().reset_index()
    summary = [
        dict(zip([*KEYS[:-1], "group"], names, strict=True)) | _resample(part["eliminated"], part["n"])
        for names, part in counts.groupby([*KEYS[:-1], "group"])
    ]
    return pd.DataFrame(summary)


def _resample(part: pd.Series, total: pd.Series) -> dict[str, float]:
    """Return the share of sums and its percentile interval over resampled seeds."""
    part, total = part.to_numpy(), total.to_numpy()
    picks = np.random.default_rng(0).integers(len(part), size=(RESAMPLES, len(part)))
    shares = part[picks].sum(axis=1) / total[picks].sum(axis=1)
    low, high = np.quantile(shares, (0.025, 0.975))
    return {
        "seeds": len(part),
        "n": int(total.sum()),
        "eliminated": int(part.sum()),
        "share": part.sum() / total.sum(),
        "low": low,
        "high": high,
    }


def compare_arms(runs: pd.DataFrame) -> pd.DataFrame:
    """Return by how much the test AUROC of each cell differs from that of the clean arm of its seed: mean over the
    seeds and 95 % interval."""
    clean = runs[(runs["rule"] == "clean") & (runs["scenario"] == "no harm")].set_index("seed")["auroc"]
    rows = runs[runs["scenario"] != "83 centers"].assign(
        difference=lambda table: table["auroc"] - table["seed"].map(clean)
    )
    out = []
    for names, part in rows.dropna(subset="difference").groupby(KEYS[:-1]):
        values = part["difference"].to_numpy()
        means = np.random.default_rng(0).choice(values, size=(RESAMPLES, len(values))).mean(axis=1)
        low, high = np.quantile(means, (0.025, 0.975))
        out.append(
            dict(zip(KEYS[:-1], names, strict=True))
            | {
                "seeds": len(values),
                "auroc": part["auroc"].mean(),
                "difference": values.mean(),
                "low": low,
                "high": high,
            }
        )
    return pd.DataFrame(out)
