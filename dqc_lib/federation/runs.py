"""A federated run on this machine: started, followed, ended, and read back from its folder."""

from __future__ import annotations

import html
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from dqc_lib.arguments import require_kind, require_path
from dqc_lib.aside import write_json
from dqc_lib.cohort import read_bids
from dqc_lib.federation.guard import end_marked, run_guarded
from dqc_lib.federation.server import END, FAULT, LEDGER, SESSIONS, read_sessions
from dqc_lib.federation.spread import check_site, fingerprint_cohort
from dqc_lib.federation.task import START, Task, Terms, check_folder, read_task, write_task
from dqc_lib.federation.traffic import AVERAGING, compare_traffic, count_traffic
from dqc_lib.federation.weights import Start
from dqc_lib.ledger import Ledger, summarize_subjects
from dqc_lib.notes import read_note
from dqc_lib.travelling import CenterError

if TYPE_CHECKING:
    import keras

ENVIRONMENTS = ("simulated", "processes")
LOCK, NOTE, LOG = "run.lock", "run.json", "flare.log"
LAUNCH = (sys.executable, "-m", "dqc_lib.federation.launch")
TICK = 0.25  # seconds between two looks at the ledger
FAREWELL = 2.0  # seconds that FLARE has to end by itself after a fault


@dataclass(frozen=True)
class FederatedRun:
    """What a federated run came to.

    Parameters
    ----------
    folder : Path
        The server's: ledger, the model of each cycle, logs.
    ledger : DataFrame
        `Ledger.to_frame()`.
    presences : DataFrame
        Which centers could not take part, since and until when, and why: `Ledger.list_presences()`.
    traffic : DataFrame
        What the server sent and got back by cycle (1 is the run's first) and call, see `compare_traffic`. A cycle that
        was gone through again counts again, but for what a server sent that was killed in the middle of it.
    seconds : dict of str to float
        "start-up" until the server began, "opening" until all sites were ready, "travel", and "shut-down" after the
        last attempt; the sum over all times that the run was under way, but for what was cut short.
    """

    folder: Path
    ledger: pd.DataFrame
    presences: pd.DataFrame
    traffic: pd.DataFrame
    seconds: dict[str, float]

    @classmethod
    def read(cls, folder: str | os.PathLike) -> FederatedRun:
        """Return what the folder of a finished run holds.

        Raises
        ------
        FileNotFoundError
            If the run did not come to its end.
        """
        folder = require_path("folder", folder).resolve()
        if not (folder / END).exists():
            raise FileNotFoundError(f"{folder} has no {END}; expected the folder of a finished run")
        sessions = read_sessions(folder)
        ledger, (_, terms) = Ledger.read(folder / LEDGER), read_task(folder)
        traffic = compare_traffic(_sum_traffic(sessions), Start.load(folder / START), n_sites=len(terms.sites))
        return cls(folder, ledger.to_frame(), ledger.list_presences(), traffic, _sum_seconds(sessions))

    @property
    def eliminated(self) -> frozenset[str]:
        """Subjects eliminated for good."""
        summary = summarize_subjects(self.ledger)
        return frozenset(summary.index[summary["eliminated"]])

    def model(self) -> keras.Model:
        """Return the model after the last cycle and its closing revisit."""
        return Start.load(self.folder / END).build()

    def _repr_html_(self) -> str:
        out, back = self.traffic.loc[self.traffic["call"] != AVERAGING, ["out_mb", "back_mb"]].sum()
        return (
            f"<b>FederatedRun</b> {html.escape(self.folder.name)}: {len(self.ledger)} attempts, "
            f"{len(self.eliminated)} subjects eliminated, {out:.1f} MB sent to the sites and {back:.1f} MB back"
        )


def federate(
    task: Task,
    sites: Mapping[str, str | os.PathLike],
    *,
    folder: str | os.PathLike,
    environment: str = "simulated",
    on_fault: str = "stop",
    seconds: float = 120.0,
    opening: float = 300.0,
    after_attempt: Callable[[int], None] | None = None,
    progress: bool = True,
) -> FederatedRun:
    """Run a task over sites that are processes on this machine, and return what it came to.

    It is computed once and read from its folder the next time. One that was cut short, by an interrupt, a fault or a
    machine that failed, is continued when this is called again: finished cycles are kept, and the one under way is gone
    through again. Whichever way this ends, no process is left.

    Parameters
    ----------
    task : Task
        `Task.of(study, rule="calibrated")` for what the arm "qc" of a study does.
    sites : mapping of str to path
        The BIDS folder of each site, with roles, as from `spread_cohort`.
    folder : path
        The server's, in which everything is kept.
    environment : "simulated" or "processes"
        FLARE's simulator; or FLARE's processes as in production, which speak mutual TLS, of a project that is
        provisioned for this run (start-up takes longer).
    on_fault, seconds, opening
        See `Terms`; they may be others when a run is continued.
    after_attempt : callable, optional
        Called with the number of attempts in the ledger when it has grown; the run does not wait for it.
    progress : bool
        Show a progress bar.

    Raises
    ------
    CenterError
        If a site or center ended the run; it names the site, and what is kept.
    RuntimeError
        If anything else did, or if another process has the folder open.
    ImportError
        If NVIDIA FLARE is not installed.
    ValueError, TypeError, FileNotFoundError
        If an argument cannot be, a center is at two sites, or the folder holds another run.
    """
    require_kind("task", task, Task, such_as="Task.of(study)")
    if environment not in ENVIRONMENTS:
        raise ValueError(f"environment must be one of {ENVIRONMENTS}, got {environment!r}")
    require_kind("sites", sites, Mapping, such_as="spread_cohort gives")
    data = {site: require_path(f"the folder of site {site!r}", path).resolve() for site, path in sites.items()}
    terms = Terms(list(data), on_fault=on_fault, seconds=seconds, opening=opening)
    folder = require_path("folder", folder).resolve()
    marks = _fingerprint_centers(data)
    if not _is_finished(folder, task, marks):
        with _lock(folder):
            if not _is_finished(folder, task, marks):  # by the process that had it open
                write_task(folder, task, terms)
                write_json(folder / NOTE, {"data": marks})
                _run(folder, environment, data, after_attempt=after_attempt, progress=progress)
    return FederatedRun.read(folder)


def _fingerprint_centers(data: Mapping[str, Path]) -> dict[str, str]:
    """Return the fingerprint of each center's table and images."""
    marks: dict[str, str] = {}
    for site, path in data.items():
        check_site(site)
        cohort = read_bids(path)
        if "role" not in cohort.table:
            raise ValueError(f"site {site!r}: {path} has no column 'role'; expected a folder as from spread_cohort")
        for center in cohort.centers:
            if center in marks:
                raise ValueError(f"site {site!r} holds the center {center!r}, as a site before it; expected one")
            marks[center] = fingerprint_cohort(cohort.blinded().select(centers=center))
    return marks


def _is_finished(folder: Path, task: Task, marks: Mapping[str, str]) -> bool:
    """Return whether the folder holds the end of this run; raise a ValueError if it is that of another."""
    if check_folder(folder, task) and (folder / NOTE).exists():
        found = read_note(folder / NOTE, of="a federated run", keys={"data": dict})["data"]
        differ = [center for center in sorted({*found, *marks}) if found.get(center) != marks.get(center)]
        if differ:
            raise ValueError(
                f"{folder} holds another run, with other tables or images of {', '.join(differ)}; choose another folder"
            )
    return (folder / END).exists()


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / LOCK, timeout=0):
            yield
    except Timeout:
        raise RuntimeError(
            f"{folder}: another process is computing this run; wait for it, or choose another folder"
        ) from None


def mark_folder(folder: Path) -> str:
    """Return the mark that all processes of a folder's run bear, see `run_guarded`."""
    return sha256(str(folder).encode()).hexdigest()


def _run(
    folder: Path,
    environment: str,
    data: Mapping[str, Path],
    *,
    after_attempt: Callable[[int], None] | None,
    progress: bool,
) -> None:
    """Have the run played, and raise what kept it from its end."""
    mark = mark_folder(folder)
    end_marked(mark)  # what a process that was killed left a moment ago
    (folder / FAULT).unlink(missing_ok=True)
    before, launched = len(read_sessions(folder)), time.time()
    places = json.dumps({site: str(path) for site, path in data.items()})
    command = [*LAUNCH, str(folder), environment, places]
    try:
        with run_guarded(command, mark=mark, output=folder / LOG) as guard:
            _follow(guard, folder, after_attempt=after_attempt, progress=progress)
    finally:
        sessions = read_sessions(folder)
        if len(sessions) > before:
            sessions[-1] |= {"launched": launched, "closed": time.time()}
            write_json(folder / SESSIONS, sessions)
    if not (folder / END).exists():  # whatever status FLARE ends with
        raise _explain(folder)


def _follow(
    guard: subprocess.Popen, folder: Path, *, after_attempt: Callable[[int], None] | None, progress: bool
) -> None:
    """Show and tell how far the ledger is until the guard ends."""
    from tqdm.auto import tqdm

    with tqdm(desc="federated", unit="batch", disable=not progress) as bar:
        running, end, decisions = True, 0, {}
        while running:
            with suppress(subprocess.TimeoutExpired):
                guard.wait(TICK)
                running = False
            running = running and not _is_over(folder)
            end, rows = _read_on(folder / LEDGER, end)
            for row in rows:
                if "decision" not in row:  # a center that came or went
                    continue
                decisions[row["decision"]] = decisions.get(row["decision"], 0) + 1
                bar.set_postfix({"cycle": row["cycle"], "center": row["center"], **decisions}, refresh=False)
            if bar.total is None:
                bar.total = next((known["batches"] for known in read_sessions(folder)[-1:] if "batches" in known), None)
            bar.update(sum(row.get("level") == "batch" for row in rows))
            if rows and after_attempt is not None:
                after_attempt(sum(decisions.values()))
        if (folder / END).exists() and bar.total is not None:
            bar.update(bar.total - bar.n)  # batches of whom all were eliminated


def _is_over(folder: Path) -> bool:
    """Return whether the server has come to an end. FLARE takes its leave for seconds more, and for ever where a site
    hangs; of a fault it may still have something to say to its log."""
    with suppress(FileNotFoundError):
        return (folder / END).exists() or time.time() - (folder / FAULT).stat().st_mtime > FAREWELL
    return False


def _read_on(path: Path, at: int) -> tuple[int, list[dict[str, Any]]]:
    """Return the rows of whole lines from that byte on, and where they end."""
    if not path.exists():
        return at, []
    with path.open("rb") as stream:
        stream.seek(at)
        whole = stream.read().rpartition(b"\n")[0]
    return at + len(whole) + bool(whole), [json.loads(line) for line in whole.splitlines()]


def _explain(folder: Path) -> Exception:
    """Return the error that says what ended the run, and what is kept."""
    n = sum("decision" in row for row in _read_on(folder / LEDGER, 0)[1])  # the others are about presence
    kept = f"{n} attempts and the models of {len(list(folder.glob('cycle-*.npz')))} cycles are kept in {folder}"
    advice = f"{kept}, where the run goes on when it is started again; FLARE's log is {folder / LOG}"
    if find_spec("nvflare") is None:
        return ImportError("a federated run needs NVIDIA FLARE: pip install dqc-lib[federation]")
    if not (folder / FAULT).exists():
        return RuntimeError(f"FLARE ended before the run did, and the server did not say why. {advice}")
    fault = read_note(folder / FAULT, of="a fault", keys={"what": str})
    if fault["place"] is None:
        return RuntimeError(f"the server ended the run: {fault['what']}. {advice}")
    return CenterError(fault["place"], f"{fault['what']}. {advice}")


def _sum_traffic(sessions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the traffic of all times that the run was under way, as `count_traffic` counts it."""
    total: list[dict[str, Any]] = []
    for session in sessions:
        for row in session.get("traffic", []):
            count_traffic(total, **row)
    return total


def _sum_seconds(sessions: list[dict[str, Any]]) -> dict[str, float]:
    steps = {"start-up": ("launched", "begun"), "opening": ("begun", "opened"), "travel": ("opened", "ended")}
    steps["shut-down"] = ("ended", "closed")
    return {
        name: sum(session[end] - session[begin] for session in sessions if begin in session and end in session)
        for name, (begin, end) in steps.items()
    }
