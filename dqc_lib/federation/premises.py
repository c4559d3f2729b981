"""What is settled on a center's own machine, and by nobody else: where its images lie, and what a job may do there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from dqc_lib.aside import write_json
from dqc_lib.cohort import Cohort, read_bids
from dqc_lib.notes import read_note

SETTINGS = "dqc.json"
CLASSES = (
    "dqc_lib.federation.flare.TravellingClient",
    "dqc_lib.federation.flare.TravellingServer",
    "nvflare.collab.runtime.controller.CollabController",
    "nvflare.collab.runtime.executor.CollabExecutor",
)
# FLARE's rights. Nobody brings code along (byoc) or reads files of a site from a console (shell_commands).
NEVER = {"byoc": "none", "shell_commands": "none", "clone_job": "none", "server-predeployed-flwr": "none"}
OWN_JOBS = {"submit_job": "any", "manage_job": "n:submitter", "download_job": "n:submitter", "view": "any"}
PERMISSIONS = {
    "project_admin": {**OWN_JOBS, "manage_job": "any", "operate": "any", **NEVER},
    "lead": {**OWN_JOBS, "operate": "o:site", **NEVER},
    "org_admin": {"submit_job": "none", "manage_job": "o:submitter", "view": "any", "operate": "o:site", **NEVER},
    "member": {"view": "any"},
}


def find_cohort(local: Path, *, site: str) -> Cohort:
    """Return the cohort that a site holds, as the file `dqc.json` in the `local` folder of its startup kit says.

    Parameters
    ----------
    local : path
        Holds `dqc.json`: {"folder": "/path/of/the/BIDS/folder"}. Where one machine plays several sites, "folder" is
        an object of such paths by the name of the site.
    site : str
        Whose images are looked for.

    Raises
    ------
    FileNotFoundError
        If there is no `dqc.json`, or no `participants.tsv` or image in the folder.
    NotADirectoryError
        If the folder does not exist.
    ValueError
        If `dqc.json` is damaged or says nothing of this site, or the table is wrong.
    """
    path = Path(local) / SETTINGS
    folder = read_note(path, of=f"where the images of {site!r} lie", keys={"folder": (str, dict)})["folder"]
    folder = folder.get(site) if isinstance(folder, dict) else folder
    if not isinstance(folder, str) or not Path(folder).is_absolute():
        raise ValueError(f"{path}: expected the whole path of the folder of {site!r}, came {folder!r}")
    if not Path(folder).is_dir():
        raise NotADirectoryError(f"{folder}: no such folder; {path} says that the images of {site!r} lie there")
    return read_bids(folder)


def may_pretrain(local: Path) -> bool:
    """Return whether a site answers the calls of a pre-training, which tell of single persons (see `gathering`): where
    its `dqc.json` says "pretraining": true."""
    return json.loads((Path(local) / SETTINGS).read_text(encoding="utf-8")).get("pretraining") is True


def write_settings(local: Path, folder: Path | Mapping[str, Path]) -> None:
    """Write `dqc.json`, see `find_cohort`."""
    several = isinstance(folder, Mapping)
    paths = {site: str(Path(path).absolute()) for site, path in folder.items()} if several else None
    write_json(Path(local) / SETTINGS, {"folder": paths if several else str(Path(folder).absolute())})


def write_policy(local: Path) -> None:
    """Write into a `local` folder what FLARE lets a job and a console do: jobs bring no code and are made of the
    travelling model's classes alone, logs stay where they are written, and no console reads files.

    Where there are `resources.json.default` and `authorization.json.default`, as in a startup kit, these are changed;
    a file of the same name without "default" that the site made goes before them.
    """
    local = Path(local)
    given = local / "resources.json.default"
    resources = json.loads(given.read_text(encoding="utf-8")) if given.exists() else {"format_version": 2}
    resources |= {"class_list_enforcement_mode": "enforce", "class_allow_list": list(CLASSES)}
    write_json(given, resources | {"allow_log_streaming": False})
    write_json(local / "authorization.json.default", {"format_version": "1.0", "permissions": PERMISSIONS})
