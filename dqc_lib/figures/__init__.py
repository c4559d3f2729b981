"""Figures: functions that take tables and arrays and return plotly Figures.

The title of a figure is its finding, in the caller's words. Colours are those of Okabe and Ito (2008), safe for
colour-blind readers, and an arm or a decision has the same one everywhere. Every figure carries its alternative text
in `layout.meta["alt"]`, and none offers to send itself to a cloud.
"""

from dqc_lib.figures.attempts import draw_decisions, draw_rates, draw_update_norms
from dqc_lib.figures.centers import draw_centers
from dqc_lib.figures.images import draw_histograms, draw_slices
from dqc_lib.figures.outcomes import draw_history, draw_truth
from dqc_lib.figures.style import ARM_COLORS, DECISION_COLORS, DIAGNOSIS_COLORS, PALETTE, get_arm_color

__all__ = [
    "ARM_COLORS",
    "DECISION_COLORS",
    "DIAGNOSIS_COLORS",
    "PALETTE",
    "draw_centers",
    "draw_decisions",
    "draw_histograms",
    "draw_history",
    "draw_rates",
    "draw_slices",
    "draw_truth",
    "draw_update_norms",
    "get_arm_color",
]
