"""Harmonization: what several sites measured made comparable without pooling it, and evaluation split by subject."""

from dqc_lib.harmonization.acquisition import ACQUISITION_COLUMNS, read_acquisition, summarize_acquisition
from dqc_lib.harmonization.bscans import describe_texture, measure_profiles, prepare_scans
from dqc_lib.harmonization.combat import Combat, fit_combat
from dqc_lib.harmonization.comparison import (
    ChanceComparison,
    FoldComparison,
    compare_folds,
    compare_to_chance,
    permute_labels,
)
from dqc_lib.harmonization.compliance import ALL, Admission, admit, check_compliance, summarize_compliance
from dqc_lib.harmonization.counts import CombatSeq, fit_combat_seq
from dqc_lib.harmonization.covariates import Coding, agree_coding
from dqc_lib.harmonization.crossvalidation import cross_validate, predict_held_out, score_folds, tune_inside
from dqc_lib.harmonization.decoding import SiteDecoding, decode_sites, evaluate_leave_site_out
from dqc_lib.harmonization.groups import Groups, find_groups, measure_stability
from dqc_lib.harmonization.headers import PARAMETERS, Parameter
from dqc_lib.harmonization.images import IMAGE_STEPS, describe_intensities, harmonize_images
from dqc_lib.harmonization.intensity import (
    IntensityStandard,
    combine_landmarks,
    correct_bias,
    measure_landmarks,
    standardize_intensity,
    summarize_landmarks,
)
from dqc_lib.harmonization.intervals import estimate_intervals
from dqc_lib.harmonization.leakage import predict_harmonized
from dqc_lib.harmonization.probing import LabelledScans, contrast_probes, probe_encoders, summarize_probes
from dqc_lib.harmonization.protocol import TOLERANCES, Protocol
from dqc_lib.harmonization.representation import (
    augment_scans,
    build_encoder,
    encode,
    fit_components,
    measure_nt_xent,
    pretrain_contrastive,
    train_supervised,
)
from dqc_lib.harmonization.scores import SiteScores, fit_site_scores, score_within_sites
from dqc_lib.harmonization.shrinkage import SiteEffect, find_site_effect
from dqc_lib.harmonization.signals import BANDS, measure_bands, prepare_eeg, tabulate_bands
from dqc_lib.harmonization.sites import SiteAssociation, associate_with_site, judge_groups
from dqc_lib.harmonization.summaries import (
    Coefficients,
    SiteSummary,
    pool_variance,
    solve_coefficients,
    sum_squared_residuals,
    summarize_site,
)

__all__ = [
    "ACQUISITION_COLUMNS",
    "ALL",
    "Admission",
    "BANDS",
    "ChanceComparison",
    "Coding",
    "Coefficients",
    "Combat",
    "CombatSeq",
    "FoldComparison",
    "Groups",
    "IMAGE_STEPS",
    "IntensityStandard",
    "LabelledScans",
    "PARAMETERS",
    "Parameter",
    "Protocol",
    "SiteAssociation",
    "SiteDecoding",
    "SiteEffect",
    "SiteScores",
    "SiteSummary",
    "TOLERANCES",
    "admit",
    "agree_coding",
    "associate_with_site",
    "augment_scans",
    "build_encoder",
    "check_compliance",
    "combine_landmarks",
    "compare_folds",
    "compare_to_chance",
    "contrast_probes",
    "correct_bias",
    "cross_validate",
    "decode_sites",
    "describe_intensities",
    "describe_texture",
    "encode",
    "estimate_intervals",
    "evaluate_leave_site_out",
    "find_groups",
    "find_site_effect",
    "fit_combat",
    "fit_combat_seq",
    "fit_components",
    "fit_site_scores",
    "harmonize_images",
    "judge_groups",
    "measure_bands",
    "measure_landmarks",
    "measure_nt_xent",
    "measure_profiles",
    "measure_stability",
    "permute_labels",
    "pool_variance",
    "predict_harmonized",
    "predict_held_out",
    "prepare_eeg",
    "prepare_scans",
    "pretrain_contrastive",
    "probe_encoders",
    "read_acquisition",
    "score_folds",
    "score_within_sites",
    "solve_coefficients",
    "standardize_intensity",
    "sum_squared_residuals",
    "summarize_acquisition",
    "summarize_compliance",
    "summarize_landmarks",
    "summarize_probes",
    "summarize_site",
    "tabulate_bands",
    "train_supervised",
    "tune_inside",
]
