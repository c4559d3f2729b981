"""What quality control eliminates on several draws of notebook 04's experiment: `python -m benchmarks.draws`.

Each draw is a seed (of split, single images, order, weights and dropout) and the center that is inverted as a whole.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

import dqc_lib as dqc

DRAWS = ("4:center-02", "2:center-05", "2:center-02", "0:center-05", "3:center-02", "2:center-01")


def run_draw(draw: str, *, rule: str, build: Path) -> dict:
    """Return what one draw came to; runs are read from `build` where they are there already."""
    seed, center = int(draw.split(":")[0]), draw.split(":")[1]
    cohort = dqc.split_by_subject(dqc.read_bids("data_samples"), seed=seed)
    marked = dqc.place_harm(cohort, kind="inversion", centers=[center], n_single=5, seed=seed)
    harmed = dqc.write_harmful(marked, build / "harmful" / f"inversion-{center}-5-{seed}")
    study = dqc.Study(harmed, schedule=dqc.Schedule(seed=seed), folder=build / "runs", progress=False)
    arms = {arm: study.run(arm) for arm in ("clean", "dirty")}
    arms["qc"] = study.run("qc", rule=rule, name="qc" if rule == "calibrated" else rule)
    found = dqc.compare_to_truth(arms["qc"].eliminated, harmed)
    shares = {row.Index: f"{row.eliminated} of {row.n}" for row in found.itertuples()}
    return {"seed": seed, "center": center, **shares} | {f"AUROC {name}": arm.auroc() for name, arm in arms.items()}


def main() -> None:
    """Print one row per draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("draws", nargs="*", default=DRAWS, help="seed:center, such as 4:center-02")
    parser.add_argument("--rule", default="calibrated", choices=("calibrated", "published"))
    parser.add_argument("--build", type=Path, default=Path("build"))
    options = parser.parse_args()
    rows = [run_draw(draw, rule=options.rule, build=options.build) for draw in options.draws]
    print(pd.DataFrame(rows).round(3).to_string(index=False))


if __name__ == "__main__":
    main()
