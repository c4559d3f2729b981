"""Privacy: what an accountant of noise proves of a training, and what attackers find."""

from dqc_lib.privacy.accounting import choose_delta, find_noise, measure_epsilon, tabulate_epsilons
from dqc_lib.privacy.gradients import PatientGradients
from dqc_lib.privacy.inversion import (
    invert_gradient,
    invert_record,
    invert_visits,
    measure_inversion,
    measure_jaccard,
    protect_gradient,
)
from dqc_lib.privacy.membership import (
    MembershipAttack,
    bound_true_positive_rate,
    find_members,
    measure_membership,
    score_distances,
    score_losses,
)
from dqc_lib.privacy.training import PrivateRecipe, add_noise, clip_gradients, draw_patients, train_privately

__all__ = [
    "MembershipAttack",
    "PatientGradients",
    "PrivateRecipe",
    "add_noise",
    "bound_true_positive_rate",
    "choose_delta",
    "clip_gradients",
    "draw_patients",
    "find_members",
    "find_noise",
    "invert_gradient",
    "invert_record",
    "invert_visits",
    "measure_epsilon",
    "measure_inversion",
    "measure_jaccard",
    "measure_membership",
    "protect_gradient",
    "score_distances",
    "score_losses",
    "tabulate_epsilons",
    "train_privately",
]
