"""Membership inference: can somebody tell from a model, or from synthetic patients, who was trained on?

An attack gives every patient a score, higher where the attacker rather takes them for a member, and is judged on
members and on non-members of the same kind. A mean over all patients hides the few who can be told for certain, so the
true-positive rate at 1 % false positives stands beside the area under the curve (Carlini et al. 2022, arXiv
2112.03570). Attacks bound privacy from one side only: one that fails proves nothing, since another may succeed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dqc_lib.arguments import require_number, require_whole, show_value
from dqc_lib.evaluation.metrics import check_confidence, measure_auroc
from dqc_lib.evaluation.resampling import draw_weights, make_generator, measure_weighted, split_resamples
from dqc_lib.privacy.accounting import require_delta

FEWEST_RESAMPLES = 100
LEAST = 1e-6  # a probability that a network is sure of; its logarithm is bounded by it


@dataclass(frozen=True)
class MembershipAttack:
    """What an attack finds, with intervals over patients.

    Attributes
    ----------
    auroc, auroc_low, auroc_high : float
        Share of pairs of a member and a non-member in which the member scores higher, ties counting half; chance: 0.5.
    true_positive_rate, tpr_low, tpr_high : float
        Members found at a limit that at most `false_positive_rate` of the non-members pass; NaN where those are too few
        to say so, 100 for 1 %.
    false_positive_rate : float
        The rate that was asked for.
    n_members, n_nonmembers : int
    confidence : float
    """

    auroc: float
    auroc_low: float
    auroc_high: float
    true_positive_rate: float
    tpr_low: float
    tpr_high: float
    false_positive_rate: float
    n_members: int
    n_nonmembers: int
    confidence: float

    def _repr_html_(self) -> str:
        rate = f"{self.true_positive_rate:.1%} ({self.tpr_low:.1%} to {self.tpr_high:.1%})"
        found = "not defined with so few non-members" if math.isnan(self.true_positive_rate) else rate
        return (
            f"<b>MembershipAttack</b>: AUROC {self.auroc:.2f} ({self.auroc_low:.2f} to {self.auroc_high:.2f}), members"
            f" found at {self.false_positive_rate:.1%} false positives: {found}; {self.n_members} members,"
            f" {self.n_nonmembers} non-members"
        )


def score_losses(visits: np.ndarray, probabilities: np.ndarray, *, reference: np.ndarray | None = None) -> np.ndarray:
    """Return every patient's log-likelihood, summed over all visits and codes; higher is more likely a member.

    Parameters
    ----------
    visits : ndarray of 0 and 1, shape (patients, visits, codes)
    probabilities : ndarray, same shape
        What the model gives each code, from 0 to 1, such as the reconstruction of an autoencoder.
    reference : ndarray, optional
        Probabilities of a model that none of these patients was trained on. Its log-likelihood is subtracted, so that
        a common patient does not pass for a member (Watson et al. 2022, arXiv 2111.08440).
        Two such models differ by luck as well, and AUROC with them: score some that saw nobody beside the one attacked.

    Returns
    -------
    ndarray of float64, shape (patients,)
    """
    visits = _check_visits("visits", visits)
    found = _sum_log_likelihood(visits, _check_probabilities("probabilities", probabilities, visits))
    if reference is None:
        return found
    return found - _sum_log_likelihood(visits, _check_probabilities("reference", reference, visits))


def _sum_log_likelihood(visits: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    sure = np.clip(probabilities, LEAST, 1 - LEAST)
    return (visits * np.log(sure) + (1 - visits) * np.log1p(-sure)).sum(axis=(1, 2))


def score_distances(visits: np.ndarray, synthetic: np.ndarray, *, reference: np.ndarray | None = None) -> np.ndarray:
    """Return minus the number of codes in which every patient's nearest synthetic patient differs; higher is more
    likely a member.

    Parameters
    ----------
    visits : ndarray of 0 and 1, shape (patients, visits, codes)
    synthetic : ndarray of 0 and 1, shape (synthetic patients, visits, codes)
    reference : ndarray, optional
        Patients who are neither asked about nor trained on. The distance to the nearest of them is taken off, so that a
        common patient does not pass for a member (after Chen et al. 2020, GAN-Leaks, arXiv 1909.03935).

    Returns
    -------
    ndarray of float64, shape (patients,)
    """
    visits, synthetic = _check_visits("visits", visits), _check_visits("synthetic", synthetic, like=visits)
    nearest = _find_nearest(visits, synthetic)
    if reference is None:
        return -nearest
    return _find_nearest(visits, _check_visits("reference", reference, like=visits)) - nearest


def _find_nearest(visits: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return how many codes differ in the nearest of the others, shape (patients,)."""
    own, others = (part.reshape(len(part), -1) for part in (visits, others))
    return (own.sum(axis=1)[:, None] + others.sum(axis=1) - 2 * own @ others.T).min(axis=1)


def measure_membership(
    members: np.ndarray,
    nonmembers: np.ndarray,
    *,
    false_positive_rate: float = 0.01,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> MembershipAttack:
    """Return how well scores tell members from non-members, with intervals from a bootstrap over patients.

    The limit is the lowest score that no more than the allowed share of non-members is **above**; whoever ties with it
    is not accused. The interval of the rate of members found holds the bootstrap's (which moves the limit too) and that
    of Clopper and Pearson (which has a width where all or none are found). Where all members score above all
    non-members, the bootstrap of the AUROC has no width; its lower end is then that of as many independent pairs as
    there are.

    Parameters
    ----------
    members, nonmembers : ndarray of float
        Scores of the patients trained on and of others, one each; higher is more likely a member.
    false_positive_rate : float
        Above 0, below 1. With fewer than its inverse of non-members nobody may be accused, and the rate is NaN.
    confidence : float
    n_resamples : int
        At least 100.
    seed : int
    """
    members, nonmembers = _check_scores("members", members), _check_scores("nonmembers", nonmembers)
    _require_share(false_positive_rate)
    check_confidence(confidence)
    require_whole("n_resamples", n_resamples, least=FEWEST_RESAMPLES)
    require_whole("seed", seed, least=0)
    truth = np.repeat([True, False], [len(members), len(nonmembers)])
    auroc = measure_auroc(truth, np.concatenate([members, nonmembers]))
    rate = find_members(members, nonmembers, false_positive_rate=false_positive_rate)
    drawn = _resample(members, nonmembers, false_positive_rate, n_resamples=n_resamples, seed=seed)
    (auroc_low, tpr_low), (auroc_high, tpr_high) = np.quantile(
        drawn, [(1 - confidence) / 2, (1 + confidence) / 2], axis=1
    )
    if auroc in (0.0, 1.0):
        ends = _bound_share(auroc, min(len(members), len(nonmembers)), confidence)
        auroc_low, auroc_high = min(auroc_low, ends[0]), max(auroc_high, ends[1])
    if not math.isnan(rate):
        ends = _bound_share(rate, len(members), confidence)
        tpr_low, tpr_high = min(tpr_low, ends[0]), max(tpr_high, ends[1])
    values = (auroc, float(auroc_low), float(auroc_high), rate, float(tpr_low), float(tpr_high))
    return MembershipAttack(*values, float(false_positive_rate), len(members), len(nonmembers), float(confidence))


def find_members(members: np.ndarray, nonmembers: np.ndarray, *, false_positive_rate: float = 0.01) -> float:
    """Return the share of members above the limit that at most this share of non-members is above; NaN where that would
    be less than one non-member. Scores as in `measure_membership`."""
    members, nonmembers = _check_scores("members", members), _check_scores("nonmembers", nonmembers)
    _require_share(false_positive_rate)
    allowed = math.floor(false_positive_rate * len(nonmembers) + 1e-9)
    if allowed < 1:
        return math.nan
    return float(np.mean(members > np.sort(nonmembers)[::-1][allowed]))


def _resample(
    members: np.ndarray, nonmembers: np.ndarray, rate: float, *, n_resamples: int, seed: int
) -> np.ndarray:
    """Return AUROC and true-positive rate of every resample, shape (2, resamples)."""
    kinds = [make_generator(seed, "membership", kind) for kind in ("members", "nonmembers")]
    scores, found = (members, nonmembers), np.empty((2, n_resamples))
    order = np.argsort(-nonmembers, kind="stable")
    allowed = math.floor(rate * len(nonmembers) + 1e-9)
    for block in split_resamples(n_resamples, n=sum(map(len, scores))):
        n = block.stop - block.start
        weights = tuple(draw_weights(len(part), n, own) for part, own in zip(scores, kinds, strict=True))
        found[0, block] = measure_weighted(members[None], nonmembers[None], weights=weights, threshold=0.0)[0, -1]
        at = (np.cumsum(weights[1][order], axis=0) > allowed).argmax(axis=0)  # the first who may not be accused
        above = members[:, None] > nonmembers[order][at]
        found[1, block] = (weights[0] * above).sum(axis=0) / len(members) if allowed else math.nan
    return found


def _bound_share(share: float, n: int, confidence: float) -> tuple[float, float]:
    from scipy.stats import binomtest

    interval = binomtest(round(share * n), n).proportion_ci(confidence, method="exact")
    return float(interval.low), float(interval.high)


def bound_true_positive_rate(
    false_positive_rate: float | np.ndarray, *, epsilon: float, delta: float
) -> float | np.ndarray:
    """Return the largest true-positive rate that any attack can have on a mechanism that keeps epsilon and delta.

    The smaller of exp(epsilon) x false-positive rate + delta and 1 - exp(-epsilon) x (1 - delta - false-positive rate),
    and at most 1 (Kairouz, Oh and Viswanath 2015, arXiv 1311.0776). It holds for what an attacker expects over the
    noise and the draw of one patient, not for the figure of one experiment.

    Examples
    --------
    >>> round(bound_true_positive_rate(0.01, epsilon=1.0, delta=0.001), 4)
    0.0282
    """
    require_number("epsilon", epsilon)
    require_delta(delta)
    if not epsilon >= 0:
        raise ValueError(f"epsilon must be at least 0, got {epsilon!r}")
    rates = np.asarray(false_positive_rate, dtype=np.float64)
    if not ((rates >= 0) & (rates <= 1)).all():
        raise ValueError(f"false_positive_rate must lie between 0 and 1, got {show_value(false_positive_rate)}")
    if epsilon > 700:  # where exp would overflow
        bound = np.ones_like(rates)
    else:
        bound = np.minimum(math.exp(epsilon) * rates + delta, 1 - math.exp(-epsilon) * (1 - delta - rates))
    bound = np.minimum(bound, 1.0)
    return float(bound) if rates.ndim == 0 else bound


def _require_share(value: float) -> None:
    require_number("false_positive_rate", value)
    if not 0 < value < 1:
        raise ValueError(f"false_positive_rate must be above 0 and below 1, got {value!r}")


def _check_scores(name: str, scores: np.ndarray) -> np.ndarray:
    scores = np.asarray(scores)
    if scores.ndim != 1 or not len(scores) or scores.dtype.kind not in "fiu":
        raise ValueError(f"{name} must hold one number for each patient, at least one; got shape {scores.shape}")
    if np.isnan(scores).any():
        raise ValueError(f"{name}: {np.isnan(scores).sum()} of {len(scores)} scores are NaN; expected numbers")
    return scores.astype(np.float64)


def _check_visits(name: str, visits: np.ndarray, *, like: np.ndarray | None = None) -> np.ndarray:
    visits = np.asarray(visits)
    if visits.ndim != 3 or not len(visits) or visits.dtype.kind not in "fiub":
        raise ValueError(f"{name} must have the shape (patients, visits, codes), got {visits.shape}")
    if not np.isin(visits, (0, 1)).all():
        raise ValueError(f"{name} must hold 0 and 1 alone")
    if like is not None and visits.shape[1:] != like.shape[1:]:
        raise ValueError(f"{name} has {visits.shape[1:]} visits and codes; expected {like.shape[1:]}")
    return visits.astype(np.float64)


def _check_probabilities(name: str, probabilities: np.ndarray, visits: np.ndarray) -> np.ndarray:
    probabilities = np.asarray(probabilities)
    if probabilities.shape != visits.shape:
        raise ValueError(f"{name} has the shape {probabilities.shape}; expected that of visits, {visits.shape}")
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError(f"{name} must lie between 0 and 1")
    return probabilities.astype(np.float64)
