"""Startup kits of a consortium: what `nvflare provision` makes of `project.yml`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

import yaml
from nvflare.lighter.entity import Project
from nvflare.lighter.spec import Builder, ProvisionContext
from nvflare.lighter.utils import update_storage_locations

from dqc_lib.aside import write_aside
from dqc_lib.federation.premises import write_policy, write_settings


class PolicyBuilder(Builder):
    """Puts what `write_policy` writes into the kits of the server and of every site.

    Parameters
    ----------
    storage : str
        Where the server keeps the jobs, a whole path on its machine; FLARE's own choice is below /tmp.
    folders : dict of str to str, optional
        Where the images of a site lie; only where all sites are on this machine. In production each site says so
        itself, in a file that it makes.
    """

    def __init__(self, storage: str, folders: dict[str, str] | None = None) -> None:
        self.storage, self.folders = storage, folders or {}

    def build(self, project: Project, ctx: ProvisionContext) -> None:
        """Write the files, once FLARE's own are there."""
        for participant in [project.get_server(), *project.get_clients()]:
            write_policy(Path(ctx.get_local_dir(participant)))
            if participant.name in self.folders:
                write_settings(Path(ctx.get_local_dir(participant)), Path(self.folders[participant.name]))
        update_storage_locations(ctx.get_local_dir(project.get_server()), self.storage)


def write_project(
    path: Path,
    *,
    host: str,
    port: int,
    sites: Sequence[str],
    admin: str,
    storage: Path,
    folders: Mapping[str, Path] | None = None,
) -> Path:
    """Write the shipped `project.yml` with these members in it, and return the path.

    Parameters
    ----------
    host : str
        The name that sites reach the server by.
    admin : str
        Who submits runs, named like an address of e-mail.
    storage, folders
        See `PolicyBuilder`.
    """
    content = yaml.safe_load(files("dqc_lib.federation").joinpath("project.yml").read_text(encoding="utf-8"))
    server, *_, user = content["participants"]
    clients = [{"name": site, "type": "client", "org": re.sub(r"\W", "_", site)} for site in sites]
    content["participants"] = [server | {"name": host, "fed_learn_port": port}, *clients, user | {"name": admin}]
    policy = next(part for part in content["builders"] if part["path"].startswith("dqc_lib."))
    policy["args"] = {"storage": str(Path(storage).absolute())}
    if folders:
        policy["args"]["folders"] = {site: str(Path(folder).absolute()) for site, folder in folders.items()}
    text = yaml.safe_dump(content, sort_keys=False)
    return write_aside(Path(path), lambda aside: aside.write_text(text, encoding="utf-8"))
