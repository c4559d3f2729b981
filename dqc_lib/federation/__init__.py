"""The same loop with the centers on machines of their own: the server holds the model and the rule, and no image."""

from dqc_lib.federation.answers import SiteError
from dqc_lib.federation.link import Link
from dqc_lib.federation.outage import pull_out
from dqc_lib.federation.remote import RemoteCenters
from dqc_lib.federation.runs import FederatedRun, federate
from dqc_lib.federation.server import conduct
from dqc_lib.federation.site import Site
from dqc_lib.federation.spread import spread_cohort
from dqc_lib.federation.task import Task, Terms, write_task
from dqc_lib.federation.traffic import compare_traffic
from dqc_lib.federation.weights import Layout, Start
from dqc_lib.travelling import CenterError

__all__ = [
    "CenterError",
    "FederatedRun",
    "Layout",
    "Link",
    "RemoteCenters",
    "Site",
    "SiteError",
    "Start",
    "Task",
    "Terms",
    "compare_traffic",
    "conduct",
    "federate",
    "pull_out",
    "spread_cohort",
    "write_task",
]
