"""Synthetic patients across hospitals: how far hospitals are apart, generators of patients, what these
keep of real ones, and what it costs.

Records of a hospital are an array of 0 and 1, shape (patients, visits, codes); those of several are a dictionary of
such arrays by the hospital's name.
"""

from dqc_lib.synthesis.arms import ARMS, EVERYBODY, TrainedArm, TrainingSchedule, sample_arm, train_arm
from dqc_lib.synthesis.averaging import average_weights, weigh_by_distribution
from dqc_lib.synthesis.criteria import CRITERIA, Finding, measure_change, summarize_repeats, tabulate_criteria
from dqc_lib.synthesis.fidelity import (
    estimate_fidelity_intervals,
    measure_fidelity,
    shuffle_visits,
    tabulate_autocorrelation,
    tabulate_codes,
    tabulate_with_control,
)
from dqc_lib.synthesis.library import measure_with_sdmetrics
from dqc_lib.synthesis.matching import Layer, apply_permutations, match_units
from dqc_lib.synthesis.networks import Generator, GeneratorShape, build_autoencoder, build_generator, sample_patients
from dqc_lib.synthesis.records import describe_patients, require_hospitals, require_visits
from dqc_lib.synthesis.shift import (
    RecordSummary,
    embed_patients,
    measure_divergence,
    measure_mmd,
    measure_shift,
    report_shift,
    summarize_records,
)
from dqc_lib.synthesis.storage import load_arm, save_arm, train_or_load
from dqc_lib.synthesis.traffic import Traffic
from dqc_lib.synthesis.twosample import (
    LogisticSums,
    count_scores,
    fit_federated_logistic,
    measure_counted_auroc,
    sum_logistic,
    tell_apart,
)
from dqc_lib.synthesis.utility import Task, evaluate_utility, prepare_task

__all__ = [
    "ARMS",
    "CRITERIA",
    "EVERYBODY",
    "Finding",
    "Generator",
    "GeneratorShape",
    "Layer",
    "LogisticSums",
    "RecordSummary",
    "Task",
    "Traffic",
    "TrainedArm",
    "TrainingSchedule",
    "apply_permutations",
    "average_weights",
    "build_autoencoder",
    "build_generator",
    "count_scores",
    "describe_patients",
    "embed_patients",
    "estimate_fidelity_intervals",
    "evaluate_utility",
    "fit_federated_logistic",
    "load_arm",
    "match_units",
    "measure_change",
    "measure_counted_auroc",
    "measure_divergence",
    "measure_fidelity",
    "measure_mmd",
    "measure_shift",
    "measure_with_sdmetrics",
    "prepare_task",
    "report_shift",
    "require_hospitals",
    "require_visits",
    "sample_arm",
    "sample_patients",
    "save_arm",
    "shuffle_visits",
    "sum_logistic",
    "summarize_records",
    "summarize_repeats",
    "tabulate_autocorrelation",
    "tabulate_codes",
    "tabulate_criteria",
    "tabulate_with_control",
    "tell_apart",
    "train_arm",
    "train_or_load",
    "weigh_by_distribution",
]
