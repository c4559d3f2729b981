"""Whether an accuracy is more than chance, and whether two pipelines differ, with subjects kept whole."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from dqc_lib.arguments import require_whole
from dqc_lib.evaluation.groups import require_columns
from dqc_lib.evaluation.metrics import check_confidence
from dqc_lib.harmonization.crossvalidation import Prepare, predict_held_out, require_metric, score_folds
from dqc_lib.harmonization.records import check_records, check_split, require_one_label

if TYPE_CHECKING:
    from sklearn.base import BaseEstimator

VERDICTS = ("first better", "second better", "not distinguishable")
ROUNDING = 1e-9


def permute_labels(
    labels: Sequence, subjects: Sequence[str], *, seed: int | np.random.SeedSequence, strata: Sequence | None = None
) -> np.ndarray:
    """Return labels shuffled among subjects: all records of a subject keep one label, and classes keep their subjects.

    As many subjects are of every class as before; records as many only where all subjects have the same number.

    Parameters
    ----------
    labels, subjects : sequences of length n
        One entry per record.
    seed : int or SeedSequence
    strata : sequence of length n, optional
        Labels are exchanged only among subjects of the same stratum, such as a site.

    Returns
    -------
    ndarray of length n

    Examples
    --------
    >>> permute_labels([1, 1, 0, 0], ["a", "a", "b", "b"], seed=1).tolist() in ([1, 1, 0, 0], [0, 0, 1, 1])
    True
    """
    _, truth, whose = check_records(np.zeros((len(labels), 1)), labels, subjects)
    require_one_label(truth, whose)
    names, first, of_row = np.unique(whose, return_index=True, return_inverse=True)
    layers = np.zeros(len(truth), dtype=int)
    if strata is not None:
        _, given, _ = check_records(np.zeros((len(labels), 1)), strata, subjects, names=("", "strata", "subjects"))
        require_one_label(given, whose)
        layers = np.unique(given, return_inverse=True)[1]
    generator, own = np.random.default_rng(seed), truth[first]
    for layer in np.unique(layers):
        inside = np.flatnonzero(layers[first] == layer)
        own[inside] = own[generator.permutation(inside)]
    return own[of_row]


@dataclass(frozen=True, eq=False)
class ChanceComparison:
    """An accuracy beside what shuffled labels give, from `compare_to_chance`.

    Parameters
    ----------
    observed : float
        Mean over folds.
    null : ndarray, shape (permutations,)
        The same with labels shuffled among subjects.
    p_value : float
        (1 + permutations at least as high) / (1 + permutations): never 0. NaN where one of them, or what was observed,
        is undefined.
    metric, split : str
    n_subjects, n_records : int
    """

    observed: float
    null: np.ndarray
    p_value: float
    metric: str
    split: str
    n_subjects: int
    n_records: int

    def _repr_html_(self) -> str:
        low, high = np.quantile(self.null, [0.025, 0.975])
        return (
            f"<b>ChanceComparison</b>: {html.escape(self.metric)} {self.observed:.2f} split by"
            f" {html.escape(self.split)}, {low:.2f} to {high:.2f} with labels shuffled among {self.n_subjects} subjects"
            f" ({self.n_records} records), p = {self.p_value:.3f} from {len(self.null)} permutations"
        )


def compare_to_chance(
    records: pd.DataFrame | np.ndarray,
    labels: Sequence,
    subjects: Sequence[str],
    *,
    split: str = "subject",
    model: BaseEstimator | None = None,
    folds: int = 5,
    seed: int,
    metric: str = "accuracy",
    permutations: int = 200,
    strata: Sequence | None = None,
    prepare: Prepare | None = None,
) -> ChanceComparison:
    """Return an accuracy beside those of the whole cross-validation repeated on labels shuffled among subjects.

    Split by record, shuffled labels are found as well as true ones: the null then lies far above chance, and says so.

    Parameters
    ----------
    records, labels, subjects, split, model, folds, seed
        As in `cross_validate`.
    metric : str
        One of accuracy, balanced_accuracy and auroc: the mean over folds in which it is defined.
    permutations : int
        At least 1; the smallest p-value is 1 / (1 + permutations).
    strata : sequence, optional
        As in `permute_labels`.
    prepare : callable, optional
        As in `cross_validate`. It is not told the shuffled labels: one that uses labels makes the null too low.
    """
    require_metric(metric)
    require_whole("permutations", permutations, least=1)
    _, truth, whose = check_records(records, labels, subjects)
    require_one_label(truth, whose)
    check_split(truth, whose, split=split, folds=folds, seed=seed)

    def measure(given: Sequence) -> float:
        options = {"split": split, "model": model, "folds": folds, "seed": seed, "prepare": prepare}
        made = predict_held_out(records, given, whose, **options)
        return float(score_folds(made)[metric].mean())

    # one stream for every permutation: more of them do not change the first ones
    streams = np.random.SeedSequence(seed).spawn(permutations)
    null = np.array([measure(permute_labels(truth, whose, seed=stream, strata=strata)) for stream in streams])
    observed = measure(truth)
    defined = not np.isnan([observed, *null]).any()
    p_value = (1 + int((null >= observed - ROUNDING).sum())) / (1 + permutations) if defined else float("nan")
    return ChanceComparison(observed, null, p_value, metric, split, len(np.unique(whose)), len(truth))


@dataclass(frozen=True)
class FoldComparison:
    """Two pipelines on the same folds, from `compare_folds`.

    Parameters
    ----------
    difference : float
        Mean over folds of the second minus the first.
    low, high : float
        Its interval; NaN where all folds differ by the same.
    t, p_value : float
        Of the corrected resampled t-test; NaN as the interval.
    n_folds, n_subjects : int
        Folds with a value for both, and subjects in the tests of one repeat.
    metric, verdict : str
        The verdict is "first better", "second better" or "not distinguishable".
    """

    difference: float
    low: float
    high: float
    t: float
    p_value: float
    n_folds: int
    n_subjects: int
    metric: str
    verdict: str

    def _repr_html_(self) -> str:
        return (
            f"<b>FoldComparison</b>: {html.escape(self.metric)} of the second minus the first {self.difference:+.3f}"
            f" ({self.low:+.3f} to {self.high:+.3f}), {self.n_folds} folds of {self.n_subjects} subjects:"
            f" {html.escape(self.verdict)}"
        )


def compare_folds(
    first: pd.DataFrame, second: pd.DataFrame, *, metric: str = "accuracy", confidence: float = 0.95
) -> FoldComparison:
    """Return whether two pipelines differ by more than their folds scatter.

    Training sets of folds overlap, so their differences scatter less than those of new studies would: the variance is
    multiplied by 1 / J + n_test / n_train instead of 1 / J (Nadeau and Bengio 2003, doi 10.1023/A:1024068626366). Where
    every fold differs by the same there is no scatter to judge by: of few folds that is chance, not certainty.

    Parameters
    ----------
    first, second : DataFrame
        Of `cross_validate`, with the same records, split, folds, repeats and seed. The tables tell the seed and the
        sizes of the folds, which are compared; whether the records were the same they do not tell.
    metric : str
        One of accuracy, balanced_accuracy and auroc.
    confidence : float
        The pipelines are distinguishable if the interval leaves out 0.

    Raises
    ------
    KeyError, ValueError
        If split, seed or sizes of the folds are not the same, or fewer than two folds have a value for both.
    """
    from scipy.stats import t as student

    check_confidence(confidence)
    require_metric(metric)
    folds = ["repeat", "fold", "split", "seed", "n_train", "n_test", "n_subjects_train", "n_subjects_test"]
    for table in (first, second):
        require_columns(table, [*folds, metric])
    if not first[folds].reset_index(drop=True).equals(second[folds].reset_index(drop=True)):
        raise ValueError("both pipelines must have been tried on the same folds: same records, split, folds and seed")
    apart = second[metric].to_numpy() - first[metric].to_numpy()
    apart = apart[~np.isnan(apart)]
    if len(apart) < 2:
        raise ValueError(f"expected two or more folds with a {metric} for both, got {len(apart)}")
    ratio = float((first["n_test"] / first["n_train"]).mean())
    scatter = apart.std(ddof=1) if apart.std(ddof=1) > ROUNDING else float("nan")
    error = float(scatter * np.sqrt(1 / len(apart) + ratio))
    mean, freedom = float(apart.mean()), len(apart) - 1
    reach, t = float(student.ppf((1 + confidence) / 2, freedom)) * error, mean / error
    verdict = VERDICTS[int(mean > 0)] if abs(mean) > reach + ROUNDING else VERDICTS[2]
    n_subjects = int(first.loc[first["repeat"] == first["repeat"].iloc[0], "n_subjects_test"].sum())
    p_value = float(2 * student.sf(abs(t), freedom))
    return FoldComparison(mean, mean - reach, mean + reach, t, p_value, len(apart), n_subjects, metric, verdict)
