"""A site that goes down in the middle of a run, on purpose."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from dqc_lib.arguments import require_path
from dqc_lib.federation.guard import list_marked
from dqc_lib.federation.runs import mark_folder
from dqc_lib.federation.task import TASK
from dqc_lib.notes import read_note


def pull_out(folder: str | os.PathLike, site: str) -> bool:
    """End the processes of a site on this machine, as if its machine lost power, and return whether there were any.

    It answers nothing from then on and does not come back. To be called while `federate` is under way, see its
    `after_attempt`.

    Parameters
    ----------
    folder : path
        The server's, as given to `federate`.
    site : str

    Raises
    ------
    ValueError
        If the run has no such site, or the folder holds no run.
    """
    import psutil

    folder = require_path("folder", folder).resolve()
    sites = read_note(folder / TASK, of="a federated run", keys={"terms": dict})["terms"]["sites"]
    if site not in sites:
        raise ValueError(f"no site {site!r} in {folder}; expected one of {sites}")
    ended = []
    for process in list_marked(mark_folder(folder)):
        with suppress(psutil.NoSuchProcess):
            if _is_of(site, process.cmdline()):
                process.kill()
                ended.append(process)
    return bool(ended)


def _is_of(site: str, command: Sequence[str]) -> bool:
    """Return whether a command plays a site: FLARE's simulator names it after an option, and in the environment
    "processes" the client, the job's process and the script that starts them anew all name the site's startup kit."""
    kits = any(("prod_00", site) in pairwise(Path(part).parts) for part in command)
    return kits or ("--client", site) in pairwise(command)
