"""Run the study, or a part of it, and write its tables.

`python -m benchmarks.detection` goes on where it was stopped; one call at a time in a folder, for two would work on
the same tasks and overwrite each other's runs. The tables of the whole study go into benchmarks/results, those of a
part of it beside its cells. `--quick` does a handful of small tasks on one seed, in a folder of its own; `--tables`
gathers what is there.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from benchmarks.detection.grid import SEEDS, choose_tasks, list_tasks
from benchmarks.detection.running import run_all
from benchmarks.detection.store import list_missing, read_cells
from benchmarks.detection.summary import describe_results
from benchmarks.detection.tables import RESULTS, describe_source, tabulate, write_tables


def read_options(arguments: list[str] | None = None) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """Return the parser, and the options with `seeds` filled in."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detection", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", help="0 to 9 if not given, 0 with --quick")
    parser.add_argument("--scenarios", nargs="+", help="run only these, such as 'clean start'")
    parser.add_argument("--kinds", nargs="+", help="run only these kinds of harm, 'none' among them")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--build", type=Path, default=Path("build/detection"), help="where images and cells go")
    parser.add_argument("--results", type=Path, help="where the tables go")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--tables", action="store_true", help="run nothing")
    options = parser.parse_args(arguments)
    options.seeds = list(dict.fromkeys(options.seeds or (SEEDS[:1] if options.quick else SEEDS)))
    if min(options.seeds) < 0 or options.processes < 1:
        parser.error(f"expected seeds from 0 and processes from 1, got {options.seeds} and {options.processes}")
    return parser, options


def main(arguments: list[str] | None = None) -> None:
    """Run, gather, write, print."""
    parser, options = read_options(arguments)
    build = options.build / "quick" if options.quick else options.build
    try:
        tasks = list_tasks(options.seeds, quick=options.quick)
        tasks = choose_tasks(tasks, scenarios=options.scenarios, kinds=options.kinds)
        if not options.tables:
            run_all(tasks, build, processes=options.processes)
        cells = read_cells(build)
    except (ValueError, FileNotFoundError) as error:
        if getattr(error, "__notes__", None):  # it comes from within a task
            raise
        parser.error(str(error))
    study = list_tasks(options.seeds if options.quick else SEEDS, quick=options.quick)
    whole = not options.quick and not any(list_missing(task, build) for task in study)
    command = f"python -m benchmarks.detection{' --quick' * options.quick}"
    source = describe_source(cells, command=command, n_expected=sum(len(task.rules) for task in study))
    tables, folder = tabulate(cells), options.results or (RESULTS if whole else build)
    write_tables(tables, source=source, folder=folder)
    print(describe_results(tables), f"Tables in {folder}: {source[1]}", sep="\n\n")


if __name__ == "__main__":
    sys.exit(main())
