"""Run the study, or a part of it, and write its tables.

`python -m benchmarks.detection` goes on where it was stopped; `--quick` does two tasks on one seed and writes no
table into the project; `--tables` only gathers what is there.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import pandas as pd

from benchmarks.detection.grid import list_tasks
from benchmarks.detection.running import run_all
from benchmarks.detection.tables import RESULTS, compare_arms, read_cells, summarize_images, tabulate, write_tables


def print_summary(tables: dict[str, pd.DataFrame]) -> None:
    """Print the shares with their intervals, the arms and the detectors."""
    pd.set_option("display.width", 160, "display.max_rows", None)
    shares = summarize_images(tables["images"])
    print(shares.round(4).to_string(index=False))
    print(compare_arms(tables["runs"]).round(4).to_string(index=False))
    by = ["scenario", "kind", "placement", "detector"]
    print(tables["detectors"].groupby(by)[["auroc", "average_precision"]].mean().round(3).to_string())


def main() -> None:
    """Read the command line, run, gather, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detection", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--scenarios", nargs="+", help="only these, such as 'clean start'")
    parser.add_argument("--kinds", nargs="+", help="only these kinds of harm")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--build", type=Path, default=Path("build/detection"))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--tables", action="store_true", help="run nothing")
    options = parser.parse_args()
    tasks = list_tasks(tuple(options.seeds), quick=options.quick)
    tasks = [task for task in tasks if not options.scenarios or task.scenario in options.scenarios]
    tasks = [task for task in tasks if not options.kinds or task.kind in options.kinds]
    build = options.build / "quick" if options.quick else options.build
    if not options.tables:
        run_all(tasks, build, processes=options.processes)
    tables = tabulate(read_cells(build))
    write_tables(tables, command="python -m benchmarks.detection", folder=build if options.quick else RESULTS)
    print_summary(tables)


if __name__ == "__main__":
    sys.exit(main())
