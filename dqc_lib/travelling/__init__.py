"""The travelling model: plan, loop, centers in one process, and studies that compare the arms."""

from dqc_lib.travelling.engine import CenterError, Engine, Update
from dqc_lib.travelling.features import read_features
from dqc_lib.travelling.local import LocalCenters
from dqc_lib.travelling.loop import travel
from dqc_lib.travelling.plan import Cycle, Schedule, Visit, group_by_center, plan_cycles
from dqc_lib.travelling.runs import Arm, RunFolder
from dqc_lib.travelling.screening import screen_centers
from dqc_lib.travelling.study import Study
from dqc_lib.travelling.watching import watch

__all__ = [
    "Arm",
    "CenterError",
    "Cycle",
    "Engine",
    "LocalCenters",
    "RunFolder",
    "Schedule",
    "Study",
    "Update",
    "Visit",
    "group_by_center",
    "plan_cycles",
    "read_features",
    "screen_centers",
    "travel",
    "watch",
]
