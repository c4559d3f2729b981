"""How well a model diagnoses: overall, in subgroups and over cycles, and how well quality control found the harm.

One row per group, one column per metric. A metric without cases to compute it from is NaN, never 0, and every metric
travels with the counts it rests on: sensitivity with ``n_positive``, specificity with ``n_negative``.
"""

from dqc_lib.evaluation.elimination import compare_to_truth, elimination_report
from dqc_lib.evaluation.groups import AGE_EDGES, add_age_band
from dqc_lib.evaluation.metrics import COUNTS, METRICS, score_predictions
from dqc_lib.evaluation.power import StepEffect, compute_alarm, find_fewest, repeat_alarm, tabulate_alarms
from dqc_lib.evaluation.report import SubgroupReport, subgroup_report
from dqc_lib.evaluation.subgroups import evaluate_cycles, evaluate_subgroups

__all__ = [
    "AGE_EDGES",
    "COUNTS",
    "METRICS",
    "StepEffect",
    "SubgroupReport",
    "add_age_band",
    "compare_to_truth",
    "compute_alarm",
    "elimination_report",
    "evaluate_cycles",
    "evaluate_subgroups",
    "find_fewest",
    "repeat_alarm",
    "score_predictions",
    "subgroup_report",
    "tabulate_alarms",
]
