"""The cells on disk: one JSON file each, which says what made it."""

from __future__ import annotations

import json
import os
import platform
from functools import lru_cache
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

from benchmarks.detection.grid import Task

PACKAGES = ("numpy", "tensorflow", "keras", "scikit-learn", "cleanlab")
ROOT = Path(__file__).parent.parent.parent


def find_cell(task: Task, rule: str, build: Path) -> Path:
    """Return the file of a cell."""
    return build / "cells" / f"{task.name}-{rule.replace(' ', '_')}.json"


def list_missing(task: Task, build: Path) -> list[str]:
    """Return the rules of a task whose cells are not there yet."""
    return [rule for rule in task.rules if not find_cell(task, rule, build).exists()]


def write_cell(task: Task, rule: str, build: Path, content: dict) -> None:
    """Write a cell aside and rename it, so that a killed study leaves whole ones."""
    path = find_cell(task, rule, build)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".partial")
    cell = {"task": vars(task) | {"rules": None}, "rule": rule, "made_by": describe_maker()} | content
    aside.write_text(json.dumps(cell) + "\n", encoding="utf-8")
    aside.replace(path)


def read_cells(build: Path) -> list[dict]:
    """Return all cells that are there, in the order of their names.

    Raises
    ------
    FileNotFoundError
        If there is none.
    """
    paths = sorted((build / "cells").glob("*.json"))
    if not paths:
        raise FileNotFoundError(f"no cells in {build / 'cells'}; expected those of a run that was at least begun")
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


@lru_cache(maxsize=1)
def describe_maker() -> str:
    """Return the versions, and a fingerprint of the sources, that a cell comes from."""
    from dqc_lib.travelling.study import METHOD

    own = [Path(__file__).with_name(name) for name in ("cells.py", "cohorts.py")]
    sources = sha256(b"".join(path.read_bytes() for path in [*sorted((ROOT / "dqc_lib").rglob("*.py")), *own]))
    parts = [f"{name} {version(name)}" for name in PACKAGES]
    parts = [f"Python {platform.python_version()}", *parts, f"dqc-lib {version('dqc-lib')}, method {METHOD}"]
    return ", ".join([*parts, f"sources {sources.hexdigest()[:8]}", f"{os.cpu_count()} cores"])
