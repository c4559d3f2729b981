"""The tasks of the study, spread over processes."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from itertools import groupby
from multiprocessing import get_context
from pathlib import Path
from threading import Event, Lock

from tqdm import tqdm

from benchmarks.detection.grid import Task
from benchmarks.detection.store import list_missing

TASKS = 4  # per process: what TensorFlow keeps of each model adds up


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


def name_cohort(task: Task) -> str:
    """Return what tasks share that must not run at the same time: they write the same images and pre-trainings."""
    return "83 centers" if task.large else f"seed {task.seed}"


def run_all(tasks: list[Task], build: Path, *, processes: int) -> None:
    """Run what is missing of the tasks, in their order but for tasks of one cohort, which wait for each other.

    Raises
    ------
    RuntimeError
        If the process of a task dies. That, and any other error, lets the tasks that run finish, and starts no more.
    """
    waiting = [task for task in tasks if list_missing(task, build)]
    lanes = [(name, list(lane)) for name, lane in groupby(waiting, key=name_cohort)]
    locks, stop = defaultdict(Lock), Event()
    with (
        tqdm(total=len(tasks), initial=len(tasks) - len(waiting), unit="task") as bar,
        ThreadPoolExecutor(processes) as threads,
    ):

        def tell(name: str) -> None:
            bar.set_postfix_str(name, refresh=False)
            bar.update()

        futures = [threads.submit(_run_lane, lane, build, locks[name], stop, tell) for name, lane in lanes]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            stop.set()
            raise


def _run_lane(tasks: list[Task], build: Path, lock: Lock, stop: Event, tell: Callable[[str], None]) -> None:
    """Run tasks of one cohort one after the other, a few to a process."""
    with lock:
        for at in range(0, len(tasks), TASKS):
            if stop.is_set():
                return
            with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=settle_process) as process:
                for task in tasks[at : at + TASKS]:
                    if not stop.is_set():
                        tell(_wait_for(process, task, build))


def _wait_for(process: ProcessPoolExecutor, task: Task, build: Path) -> str:
    """Return the name of the task when it is done; errors say which task they come from."""
    try:
        return process.submit(run_one, task, build).result()
    except BrokenProcessPool as error:
        raise RuntimeError(
            f"the process of task {task.name} died, for want of memory perhaps; the same command goes on from here"
        ) from error
    except Exception as error:
        error.add_note(f"in task {task.name}")
        raise
