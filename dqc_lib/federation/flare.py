"""The link over NVIDIA FLARE, and what FLARE runs at the server and at each site.

What goes over the wire are texts, numbers, lists of them and bytes: FLARE packs these with msgpack, and neither side
unpickles anything.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nvflare.collab import CollabRecipe, collab
from nvflare.collab.api.exceptions import CollabCallError, RunAborted
from nvflare.recipe import PocEnv, SimEnv
from nvflare.recipe.spec import ExecEnv

from dqc_lib.federation.answers import SiteError
from dqc_lib.federation.premises import SETTINGS, find_cohort, may_pretrain, write_policy, write_settings
from dqc_lib.federation.project import write_project
from dqc_lib.federation.server import conduct
from dqc_lib.federation.site import Site
from dqc_lib.federation.task import Terms
from dqc_lib.networks import import_keras

PRETRAINING = ("sum_features", "name_verification", "sum_squares", "measure_images")
"""Calls that tell of single persons; a site answers them where it says so itself, see `may_pretrain`."""
LIFETIME = 1e9
"""Seconds after which FLARE may end a run of which a site has died: never. That is decided by `on_fault`."""


class FlareLink:
    """Calls sites through FLARE; made within the server's main function."""

    def __init__(self, terms: Terms) -> None:
        self.sites, self._clients = list(terms.sites), {client.name: client for client in collab.clients}
        self._seconds, self._opening = terms.seconds, terms.opening

    def ask(self, site: str, name: str, **arguments: Any) -> Any:
        """Return a site's answer."""
        answer = self.ask_all([site], name, **arguments)[site]
        if isinstance(answer, SiteError):
            raise answer
        return answer

    def ask_all(self, sites: Sequence[str], name: str, **arguments: Any) -> dict[str, Any]:
        """Return the answers of sites, which work on them at the same time, or why there is none."""
        joined = [site for site in sites if site in self._clients]
        found = {site: SiteError([site], "has not joined") for site in sites if site not in joined}
        if not joined:
            return found
        wait = self._opening if name == "open" else self._seconds
        try:
            answers = getattr(collab.get_clients(joined)(timeout=wait), name)(**arguments)
        except RunAborted:  # which FLARE takes for an end in good order
            return {site: SiteError([site], f"no answer to {name!r}: FLARE ended the run") for site in sites}
        found |= {site: _explain(site, name, error) for site, error in answers.failures.items()}
        return found | {site: _open_answer(site, name, answer) for site, answer in answers}


def _open_answer(site: str, name: str, answer: Any) -> Any:
    if not isinstance(answer, dict) or len(answer) != 1 or not {"answer", "fault"} & set(answer):
        return SiteError([site], f"answers {name!r} with something else than an answer or a fault")
    if "fault" in answer:
        kind = answer["fault"] if isinstance(answer["fault"], str) and answer["fault"].isidentifier() else "an error"
        return SiteError([site], f"{name!r} ended in {kind}; what it says is in the log of the site")
    return answer["answer"]


def _explain(site: str, name: str, error: CollabCallError) -> SiteError:
    return SiteError([site], f"no answer to {name!r}: {error.cause}")


class TravellingServer:
    """What runs at the server, see `conduct`.

    Parameters
    ----------
    folder : str
        From `write_task`.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder

    @collab.main
    def travel(self) -> None:
        """Travel until the plan is done."""
        conduct(Path(self.folder), FlareLink)


class TravellingClient:
    """What runs at a site: the published calls, each handed to `Site`. Where its images lie is its own affair, see
    `find_cohort`: no job and no server has a hand in it."""

    def __init__(self) -> None:
        self._site: Site | None = None
        self._turn = threading.Lock()
        self._pretrains = False

    @collab.init
    def get_ready(self) -> None:
        """Begin to load what the first call needs, while FLARE still waits for the others: seconds of every run."""
        threading.Thread(target=import_keras, daemon=True).start()

    @collab.publish
    def open(self, design, threshold, batch_size, scale):
        """Read the table of the site's cohort, and see `Site.open`."""
        try:
            local = collab.workspace.get_site_config_dir()
            self._site = Site(find_cohort(local, site=collab.site_name), turn=self._turn)
            self._pretrains = may_pretrain(local)
        except (OSError, ValueError) as error:
            # a fault of the site's own files, not of the code: one line for its log, the kind alone for the server
            logging.getLogger(__name__).error(f"the images of this site cannot be used: {error}")
            return {"fault": type(error).__name__}
        return self._answer("open", design=design, threshold=threshold, batch_size=batch_size, scale=scale)

    @collab.publish
    def train(self, weights, center, subjects, alone, sizes):
        """See `Site.train`."""
        return self._answer("train", weights=weights, center=center, subjects=subjects, alone=alone, sizes=sizes)

    @collab.publish
    def verify(self, weights, loss):
        """See `Site.verify`."""
        return self._answer("verify", weights=weights, loss=loss)

    @collab.publish
    def measure(self, weights):
        """See `Site.measure`."""
        return self._answer("measure", weights=weights)

    @collab.publish
    def sum_features(self, weights, layer, exclude):
        """See `Site.sum_features`."""
        return self._answer("sum_features", weights=weights, layer=layer, exclude=exclude)

    @collab.publish
    def name_verification(self):
        """See `Site.name_verification`."""
        return self._answer("name_verification")

    @collab.publish
    def sum_squares(self, weights, subjects):
        """See `Site.sum_squares`."""
        return self._answer("sum_squares", weights=weights, subjects=subjects)

    @collab.publish
    def measure_images(self, weights, subjects, scale):
        """See `Site.measure_images`."""
        return self._answer("measure_images", weights=weights, subjects=subjects, scale=scale)

    def _answer(self, name: str, **arguments: Any) -> dict[str, Any]:
        """Return the answer, or the kind of error alone: FLARE would send what it says and where it arose, and that may
        name a path or a file of the center."""
        try:
            # the sum of losses of one verification subject is this person's score
            if (name in PRETRAINING or arguments.get("loss")) and not self._pretrains:
                raise PermissionError(f"{SETTINGS} of this site does not say that it takes part in a pre-training")
            return {"answer": getattr(self._site, name)(**arguments)}
        except Exception as error:
            # no error to the log: FLARE's start-up kits send a site's error log to the server unless told not to
            logging.getLogger(__name__).warning(f"the call {name!r} failed", exc_info=True)
            return {"fault": type(error).__name__}


class TravellingRecipe(CollabRecipe):
    """A job that holds settings alone: dqc_lib is installed at the server and at every site, and no code travels.

    FLARE then treats it as a job without code of its own, which a site can permit class by class, see `write_policy`.
    """

    def __init__(self, folder: Path, data: Mapping[str, Path] | None, *, name: str, min_clients: int) -> None:
        super().__init__(name, server=TravellingServer(str(folder)), client=TravellingClient(), min_clients=min_clients)
        self.add_server_config({"dead_client_grace_period": LIFETIME})
        self._job.set_app_packages(["dqc_lib"])  # FLARE copies the modules that a class imports, but for these
        self._folder, self._data = folder, data

    @staticmethod
    def _user_source_entries(objs: Sequence[object]) -> list[tuple[str, str | None]]:
        return []

    def process_env(self, env: ExecEnv) -> None:
        """Have the sites of a rehearsal on this machine find their images, as centers see to it themselves."""
        if isinstance(env, SimEnv):
            local = Path(env.workspace_root) / self.job_name / "local"
            local.mkdir(parents=True, exist_ok=True)
            write_policy(local)
            write_settings(local, self._get_data(env))
        elif isinstance(env, PocEnv):
            members = {"host": "localhost", "port": find_port(), "sites": list(self._get_data(env))}
            members |= {"admin": env.username, "folders": self._get_data(env), "storage": self._folder / "flare"}
            env.project_conf_path = str(write_project(self._folder / "project.yml", **members))
        elif self._data is not None:
            raise ValueError("data is given; in production each site says itself where its images lie")

    def _get_data(self, env: ExecEnv) -> Mapping[str, Path]:
        if self._data is None:
            raise ValueError(f"no data is given; in a {type(env).__name__} the images of all sites are on this machine")
        return self._data


def find_port() -> int:
    """Return the number of a port of this machine that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def make_recipe(
    folder: Path, data: Mapping[str, Path] | None = None, *, name: str = "travelling", min_clients: int | None = None
) -> TravellingRecipe:
    """Return the recipe of a run, for `SimEnv`, `PocEnv` and `ProdEnv` alike.

    Parameters
    ----------
    folder : path
        From `write_task`, as the server sees it.
    data : mapping of str to path
        Where each site's images lie; only where one machine plays all of them.
    min_clients : int, optional
        So many sites must have joined before the run begins; all of `data` unless given.
    """
    expected = min_clients or len(data or ()) or 1
    return TravellingRecipe(Path(folder).absolute(), data, name=name, min_clients=expected)
