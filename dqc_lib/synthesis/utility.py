"""What synthetic records are good for: train on them, test on real patients, hospital by hospital."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from dqc_lib.arguments import require_number, require_whole, show_value
from dqc_lib.evaluation.metrics import METRICS, check_confidence, measure_auroc
from dqc_lib.evaluation.resampling import draw_weights, make_generator, measure_weighted
from dqc_lib.synthesis.records import require_alike, require_hospitals, require_visits

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

FEWEST = 5
"""Patients of either class below which drawing them again tells nothing: there is no interval."""
REFERENCES = ("own", "pooled")
UTILITY_COLUMNS = (
    *("hospital", "tstr", "tstr_low", "tstr_high", "trtr", "trtr_low", "trtr_high", "gap", "gap_low", "gap_high"),
    *("n_positive", "n_negative", "n_synthetic", "n_real", "note"),
)


@dataclass(frozen=True)
class Task:
    """What is predicted: whether one of some codes is recorded in the last visits, from the visits before.

    Parameters
    ----------
    outcome : tuple of int
        Positions of the codes, from 0.
    horizon : int
        How many last visits count.
    new_only : bool
        Leave out patients who had one of the codes before. What is left cannot be guessed from persistence.
    """

    outcome: tuple[int, ...]
    horizon: int = 3
    new_only: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.outcome, str) or not isinstance(self.outcome, Sequence | np.ndarray):
            raise TypeError(f"Task.outcome must be positions of codes, got {show_value(self.outcome)}")
        for code in self.outcome:
            require_whole("each code of Task.outcome", code, least=0)
        object.__setattr__(self, "outcome", tuple(int(code) for code in self.outcome))
        if not self.outcome:
            raise ValueError("Task.outcome must hold at least one code, got none")
        require_whole("Task.horizon", self.horizon, least=1)
        if not isinstance(self.new_only, bool):
            raise TypeError(f"Task.new_only must be True or False, got {show_value(self.new_only)}")


def prepare_task(visits: np.ndarray, task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Return features and labels of the patients that a task is about.

    Parameters
    ----------
    visits : ndarray, shape (patients, visits, codes)
    task : Task

    Returns
    -------
    features : float64 ndarray, shape (patients of the task, 3 * codes)
        Of the visits before the horizon, by code: the share that has it, whether the last one has it, and the slope
        (of a straight line through 0 and 1 over the visits from -1 to 1; 0 with one visit).
    labels : bool ndarray, shape (patients of the task,)

    Raises
    ------
    ValueError
        If there is no visit before the horizon, or no such code.

    Examples
    --------
    >>> features, labels = prepare_task(np.array([[[0.0], [1.0], [1.0]]]), Task(outcome=(0,), horizon=1))
    >>> features.tolist(), labels.tolist()
    ([[0.5, 1.0, 0.5]], [True])
    """
    visits = require_visits("visits", visits)
    _check_task(visits, task)
    before, last = visits[:, : -task.horizon].astype(np.float64), visits[:, -task.horizon :]
    codes = list(task.outcome)
    labels = last[:, :, codes].any(axis=(1, 2))
    features = np.concatenate([before.mean(axis=1), before[:, -1], _measure_slope(before)], axis=1)
    kept = ~before[:, :, codes].any(axis=(1, 2)) if task.new_only else np.ones(len(visits), dtype=bool)
    return features[kept], labels[kept]


def _check_task(visits: np.ndarray, task: Task) -> None:
    if task.horizon >= visits.shape[1]:
        raise ValueError(f"Task.horizon must leave a visit of {visits.shape[1]} to predict from, got {task.horizon}")
    if max(task.outcome) >= visits.shape[2]:
        raise ValueError(f"Task.outcome must be codes below {visits.shape[2]}, got {max(task.outcome)}")


def _measure_slope(before: np.ndarray) -> np.ndarray:
    if before.shape[1] == 1:
        return np.zeros((len(before), before.shape[2]))
    time = np.linspace(-1, 1, before.shape[1])
    return np.einsum("t,ptc->pc", time, before) / (time @ time)


def evaluate_utility(
    synthetic: np.ndarray | Mapping[str, np.ndarray],
    real_train: Mapping[str, np.ndarray],
    real_test: Mapping[str, np.ndarray],
    *,
    task: Task,
    reference: str = "own",
    ridge: float = 1.0,
    n_resamples: int = 500,
    confidence: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Return, for every hospital, the AUROC of a model that was trained on synthetic records and of one on real ones.

    Both are logistic regressions, tested on the same real patients of the hospital.

    Parameters
    ----------
    synthetic : ndarray, or mapping of str to ndarray, shape (patients, visits, codes)
        Records for all hospitals, or a hospital's own.
    real_train, real_test : mapping of str to ndarray
        Different patients, by hospital; the hospitals of `real_test` are evaluated.
    task : Task
    reference : "own" or "pooled"
        The real patients of the second model: the hospital's own, or those of all hospitals, which they could not pool.
    ridge : float
        Penalty, as scikit-learn's 1 / C.
    n_resamples, confidence, seed
        Of the intervals: test patients are drawn again, class by class, the same for both models.

    Returns
    -------
    DataFrame
        One row a hospital: tstr (train on synthetic, test on real), trtr (train on real, test on real) and gap (tstr
        less trtr, negative where synthetic records are worse), each with low and high; n_positive, n_negative (test
        patients), n_synthetic, n_real (training patients), note. An AUROC is NaN where the test patients or the
        training patients are of one class, an interval where a class has fewer than 5 test patients; the note says so.
        The intervals are of the test patients: what another training would have given is not in them.
    """
    train, test = require_hospitals("real_train", real_train), require_hospitals("real_test", real_test)
    _check_settings(task, reference, ridge, n_resamples, confidence, seed)
    if missing := [name for name in test if name not in train]:
        raise KeyError(f"real_train lacks hospital {missing[0]!r}; it has {list(train)}")
    made = _spread(synthetic, list(test))
    first = next(iter(test))
    for name in test:
        require_alike(f"real_train[{name!r}]", train[name], f"real_test[{first!r}]", test[first])
        require_alike(f"synthetic for {name!r}", made[name], f"real_test[{first!r}]", test[first])
    pooled = np.concatenate(list(train.values())) if reference == "pooled" else None
    rows = []
    for name, visits in test.items():
        sources = {"synthetic": made[name], "real": train[name] if pooled is None else pooled}
        features, labels = prepare_task(visits, task)
        scores, notes = [], []
        for kind, source in sources.items():
            known = _fit(*prepare_task(source, task), ridge=ridge)
            unknown = known is None or not len(labels)
            scores.append(np.full(len(labels), np.nan) if unknown else known.decision_function(features))
            notes += [f"{kind} training patients of one class"] if known is None else []
        found, said = _judge(labels, np.array(scores), (name, n_resamples, confidence, seed))
        sizes = {f"n_{kind}": len(prepare_task(source, task)[1]) for kind, source in sources.items()}
        rows.append({"hospital": name, **found, **sizes, "note": "; ".join([*notes, *said])})
    return pd.DataFrame(rows, columns=list(UTILITY_COLUMNS))


def _check_settings(task: Task, reference: str, ridge: float, n_resamples: int, confidence: float, seed: int) -> None:
    if not isinstance(task, Task):
        raise TypeError(f"task must be a Task, such as Task(outcome=(16,)), got {show_value(task)}")
    if reference not in REFERENCES:
        raise ValueError(f"reference must be one of {', '.join(REFERENCES)}, got {reference!r}")
    require_number("ridge", ridge)
    if not (np.isfinite(ridge) and ridge > 0):
        raise ValueError(f"ridge must be a positive number, got {ridge!r}")
    require_whole("n_resamples", n_resamples, least=1)
    require_whole("seed", seed, least=0)
    check_confidence(confidence)


def _spread(synthetic: np.ndarray | Mapping[str, np.ndarray], hospitals: list[str]) -> dict[str, np.ndarray]:
    """Return the synthetic records that every hospital trains on."""
    if not isinstance(synthetic, Mapping):
        return dict.fromkeys(hospitals, require_visits("synthetic", synthetic))
    found = require_hospitals("synthetic", synthetic)
    if missing := [name for name in hospitals if name not in found]:
        raise KeyError(f"synthetic lacks hospital {missing[0]!r}; it has {list(found)}")
    return found


def _fit(features: np.ndarray, labels: np.ndarray, *, ridge: float) -> LogisticRegression | None:
    """Return a fitted logistic regression, or None where there is but one class."""
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(labels)) < 2:
        return None
    return LogisticRegression(C=1 / ridge, max_iter=2000).fit(features, labels)


def _judge(labels: np.ndarray, scores: np.ndarray, drawing: tuple) -> tuple[dict[str, float], list[str]]:
    """Return AUROCs, their difference and intervals, shape of scores (2, patients), and what there is to say."""
    name, n_resamples, confidence, seed = drawing
    counts = {"n_positive": int(labels.sum()), "n_negative": int((~labels).sum())}
    values = [np.nan if np.isnan(part).any() else measure_auroc(labels, part) for part in scores]
    ends, notes = np.full((3, 2), np.nan), []
    if min(counts.values()) == 0:
        notes.append("test patients of one class")
    elif min(counts.values()) < FEWEST:
        notes.append(f"no interval: {min(counts.values())} test patients of a class, fewer than {FEWEST}")
    else:
        drawn = _draw_again(labels, scores, make_generator(seed, "utility", name), n_resamples)
        tails = [(1 - confidence) / 2, (1 + confidence) / 2]
        ends = np.array([np.quantile(part, tails) for part in (*drawn, drawn[0] - drawn[1])])
    found = {}
    for at, (key, value) in enumerate(zip(("tstr", "trtr", "gap"), (*values, values[0] - values[1]), strict=True)):
        bounds = ends[at] if not np.isnan(value) else (np.nan, np.nan)
        found |= {key: value, f"{key}_low": bounds[0], f"{key}_high": bounds[1]}
    return found | counts, notes


def _draw_again(labels: np.ndarray, scores: np.ndarray, generator: np.random.Generator, n_resamples: int) -> np.ndarray:
    """Return the AUROC of both models in every resample of test patients, shape (2, n_resamples)."""
    sizes = (int(labels.sum()), int((~labels).sum()))
    weights = tuple(draw_weights(n, n_resamples, generator) for n in sizes)
    found = measure_weighted(scores[:, labels], scores[:, ~labels], weights=weights, threshold=0.0)
    return found[:, METRICS.index("auroc")]
