"""Figures: functions that take tables and arrays and return plotly Figures.

The title of a figure is its finding, in the caller's words. Colours are those of Okabe and Ito (2008), safe for
colour-blind readers, and an arm or a decision has the same one everywhere. Every figure carries its alternative text
in `layout.meta["alt"]`, and none offers to send itself to a cloud.
"""

from dqc_lib.figures.acquisition import draw_compliance, draw_parameter
from dqc_lib.figures.arms import draw_fidelity, draw_utility
from dqc_lib.figures.attempts import draw_decisions, draw_rates, draw_update_norms
from dqc_lib.figures.centers import draw_centers
from dqc_lib.figures.confounding import draw_knob, draw_trade
from dqc_lib.figures.criteria import draw_criteria
from dqc_lib.figures.fairness import draw_elimination, draw_forest, draw_gaps
from dqc_lib.figures.folds import draw_fold_differences, draw_folds, draw_interval_rows
from dqc_lib.figures.groups import draw_groups_by_site, draw_stability
from dqc_lib.figures.harmonization import draw_effects, draw_site_distributions, draw_ways
from dqc_lib.figures.images import draw_histograms, draw_slices
from dqc_lib.figures.outcomes import draw_history, draw_truth
from dqc_lib.figures.overview import draw_center_overview
from dqc_lib.figures.privacy import draw_epsilons, draw_inversion, draw_membership, draw_privacy_utility
from dqc_lib.figures.rules import draw_alarms, draw_evidence, draw_roc
from dqc_lib.figures.signals import draw_bscans, draw_probes, draw_spectra
from dqc_lib.figures.studies import draw_detectors, draw_study
from dqc_lib.figures.style import ARM_COLORS, DECISION_COLORS, DIAGNOSIS_COLORS, PALETTE, get_arm_color
from dqc_lib.figures.synthesis import draw_arms_by_shift, draw_autocorrelation, draw_persistence, draw_shift
from dqc_lib.figures.timeline import draw_center_timeline
from dqc_lib.figures.traffic import draw_traffic
from dqc_lib.figures.verification import draw_verification_surface
from dqc_lib.figures.viewer import draw_viewer

__all__ = [
    "ARM_COLORS",
    "DECISION_COLORS",
    "DIAGNOSIS_COLORS",
    "PALETTE",
    "draw_alarms",
    "draw_arms_by_shift",
    "draw_autocorrelation",
    "draw_bscans",
    "draw_center_overview",
    "draw_center_timeline",
    "draw_centers",
    "draw_compliance",
    "draw_criteria",
    "draw_decisions",
    "draw_detectors",
    "draw_effects",
    "draw_elimination",
    "draw_epsilons",
    "draw_evidence",
    "draw_fidelity",
    "draw_fold_differences",
    "draw_folds",
    "draw_forest",
    "draw_gaps",
    "draw_groups_by_site",
    "draw_histograms",
    "draw_history",
    "draw_interval_rows",
    "draw_inversion",
    "draw_knob",
    "draw_membership",
    "draw_parameter",
    "draw_persistence",
    "draw_privacy_utility",
    "draw_probes",
    "draw_rates",
    "draw_roc",
    "draw_shift",
    "draw_site_distributions",
    "draw_slices",
    "draw_spectra",
    "draw_stability",
    "draw_study",
    "draw_trade",
    "draw_traffic",
    "draw_truth",
    "draw_update_norms",
    "draw_utility",
    "draw_verification_surface",
    "draw_viewer",
    "draw_ways",
    "get_arm_color",
]
