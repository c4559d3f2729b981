"""The tasks of the study, spread over processes."""

from __future__ import annotations

import os
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from tqdm import tqdm

from benchmarks.detection.grid import Task

TASKS = 3  # per process: what TensorFlow keeps of each model adds up


def settle_process() -> None:
    """Give each process one core; two of them finish sooner than one that has both."""
    os.environ |= {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1", "OMP_NUM_THREADS": "1"}
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3"}


def run_one(task: Task, build: Path) -> str:
    """Run a task in a process of its own kind, without the library's notes on every cohort."""
    import logging

    logging.disable(logging.WARNING)
    from benchmarks.detection.cells import run_task

    return run_task(task, build)


def run_all(tasks: list[Task], build: Path, *, processes: int) -> None:
    """Run the tasks; those of the same seed share a pre-training, so its first one runs before the others."""
    first = {task.seed: task for task in reversed(tasks) if task.scenario in ("clean start", "no harm")}
    waves = [list(first.values()), [task for task in tasks if task not in first.values()]]
    with (
        get_context("spawn").Pool(processes, initializer=settle_process, maxtasksperchild=TASKS) as pool,
        tqdm(total=len(tasks), unit="task") as bar,
    ):
        for wave in waves:
            for name in pool.imap_unordered(partial(run_one, build=build), wave):
                bar.set_postfix_str(name)
                bar.update()
