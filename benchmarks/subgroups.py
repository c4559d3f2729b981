"""What the intervals of a subgroup report cost, against a plain loop over resamples: `python -m benchmarks.subgroups`.

The loop draws indices and calls `evaluate_subgroups` for each resample, as one would write it first. It does a small
part of the resamples, and its time is scaled up.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import pandas as pd

import dqc_lib as dqc

BY = ("sex", "age_band", ("sex", "age_band"), "scanner")
LOOPED = 20  # resamples that the plain loop does


def draw_predictions(n: int, *, seed: int) -> pd.DataFrame:
    """Return predictions on n subjects, half of them diseased, with an AUROC of about 0.84."""
    rng = np.random.default_rng(seed)
    diagnosis = np.arange(n) % 2
    score = 1 / (1 + np.exp(-rng.normal(1.4 * diagnosis - 0.7)))
    table = pd.DataFrame({"subject": [f"sub-{at:05d}" for at in range(n)], "diagnosis": diagnosis, "score": score})
    return table.assign(
        sex=rng.choice(["F", "M"], n), age=rng.uniform(45, 85, n), scanner=rng.choice(["A", "B", "C"], n)
    )


def time_once(work) -> float:
    """Return the seconds that a call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def loop(table: pd.DataFrame, *, resamples: int, seed: int) -> None:
    """Evaluate resamples one by one."""
    rng = np.random.default_rng(seed)
    banded = dqc.add_age_band(table)
    for _ in range(resamples):
        dqc.evaluate_subgroups(banded.iloc[rng.integers(len(table), size=len(table))], by=BY)


def main() -> None:
    """Print one row per repetition, then the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subjects", type=int, default=400)
    parser.add_argument("--resamples", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    table = draw_predictions(options.subjects, seed=options.seed)
    rows = []
    for _ in range(options.repeats):
        report = time_once(lambda: dqc.subgroup_report(table, by=BY, n_resamples=options.resamples))
        looped = time_once(lambda: loop(table, resamples=LOOPED, seed=options.seed)) * options.resamples / LOOPED
        rows.append({"report_s": report, "loop_s": looped, "loop_over_report": looped / report})
    frame = pd.DataFrame(rows)
    print(frame.round(2).to_string(index=False))
    print("median", frame.median().round(2).to_dict())


if __name__ == "__main__":
    main()
