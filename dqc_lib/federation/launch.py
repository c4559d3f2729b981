"""The program that plays a federation on this machine: FLARE's server and a client per site, as the guard starts it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from nvflare.recipe import PocEnv, SimEnv
from nvflare.recipe.spec import ExecEnv

from dqc_lib.federation.flare import make_recipe

LOGS = "logs"
LOGIN = 180.0
"""Seconds until FLARE's server must be up; FLARE's own ten are too few for a machine under load."""


def simulate(sites: Sequence[str], workspace: Path) -> ExecEnv:
    """Return FLARE's simulator: a process per site, which trust one another."""
    return SimEnv(clients=list(sites), workspace_root=str(workspace), log_config="concise")


def prove(sites: Sequence[str], workspace: Path) -> ExecEnv:
    """Return a federation as in production, processes that speak mutual TLS; their kits are those of `project.yml`."""
    os.environ["NVFLARE_POC_WORKSPACE"] = str(workspace)  # or all runs on a machine share one, and end each other
    return PocEnv(clients=list(sites), num_clients=len(sites), extra={"login_timeout": LOGIN})


ENVIRONMENTS = {"simulated": simulate, "processes": prove}


def main(folder: str, environment: str, sites: str) -> None:
    """Play the run of a folder; `sites` are the sites' folders by name, as JSON."""
    data = {site: Path(path) for site, path in json.loads(sites).items()}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that logs are kept
    os.environ.pop("NVFLARE_SIMULATOR_WORKSPACE_ROOT", None)
    workspace = Path(tempfile.mkdtemp(prefix="flare-"))
    try:
        run = make_recipe(Path(folder), data).execute(ENVIRONMENTS[environment](list(data), workspace))
        run.get_result(clean_up=False)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough
        keep_logs(workspace, Path(folder) / LOGS)


def keep_logs(workspace: Path, folder: Path) -> None:
    """Copy what FLARE's processes logged, each file under a name that says whose it is."""
    folder.mkdir(exist_ok=True)
    for log in workspace.rglob("*log*.txt"):
        with suppress(OSError):  # FLARE may be clearing up meanwhile; the others are wanted all the same
            shutil.copyfile(log, folder / "-".join(log.relative_to(workspace).parts))


if __name__ == "__main__":
    main(*sys.argv[1:])
