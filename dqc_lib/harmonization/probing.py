"""What features are worth with few labelled subjects: a linear reader, tested on subjects it has not learnt from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dqc_lib.arguments import require_kind, require_whole, show_value
from dqc_lib.evaluation.groups import require_columns
from dqc_lib.evaluation.metrics import check_confidence, measure_auroc
from dqc_lib.harmonization.crossvalidation import make_classifier, require_one_label
from dqc_lib.harmonization.representation import encode

if TYPE_CHECKING:
    import keras

VERDICTS = ("first better", "second better", "not distinguishable")


@dataclass(frozen=True, eq=False)
class LabelledScans:
    """Images with the label of their subject.

    Parameters
    ----------
    images : ndarray, (n, deep, across)
        From 0 to 1.
    labels : sequence of 0 and 1, of length n
        All images of a subject have the same.
    subjects : sequence of str, of length n
    """

    images: np.ndarray
    labels: Sequence
    subjects: Sequence[str]

    def __post_init__(self) -> None:
        for name in ("labels", "subjects"):
            object.__setattr__(self, name, np.asarray(getattr(self, name)))
            if getattr(self, name).shape != (len(self.images),):
                n = len(self.images)
                raise ValueError(f"{name} must have one entry for each of {n} images, got {getattr(self, name).shape}")
        if not set(self.labels.tolist()) <= {0, 1}:
            raise ValueError(f"labels must be 0 or 1, got {show_value(sorted(set(self.labels.tolist())))}")
        require_one_label(self.labels, self.subjects)

    def select(self, subjects: Sequence[str]) -> LabelledScans:
        """Return the images of the subjects named."""
        inside = np.isin(self.subjects, list(subjects))
        return LabelledScans(self.images[inside], self.labels[inside], self.subjects[inside])

    def draw(self, n: int, *, seed: int | Sequence[int]) -> LabelledScans:
        """Return the images of n subjects drawn without replacement, half of either class (one more of class 1)."""
        rng, chosen = np.random.default_rng(seed), []
        for label, count in ((1, -(-n // 2)), (0, n // 2)):
            names = np.unique(self.subjects[self.labels == label])
            if not 1 <= count <= len(names):
                raise ValueError(f"cannot draw {count} of {len(names)} subjects with label {label}; expected 1 or more")
            chosen += rng.choice(names, size=count, replace=False).tolist()
        return self.select(chosen)


def probe_encoders(
    encoders: Mapping[str, Any | Callable[[LabelledScans, int], keras.Model]],
    train: LabelledScans,
    test: LabelledScans,
    *,
    n_labelled: Sequence[int] = (6, 12, 24, 48),
    repeats: int = 5,
    seed: int = 0,
) -> pd.DataFrame:
    """Return what a linear reader of each encoder's features says of test subjects, by the number of labelled ones.

    The reader is logistic regression on standardized features of the labelled subjects' images, in every image; a
    subject's score is the mean over the images. All encoders get the same subjects, drawn anew in every repeat.

    Parameters
    ----------
    encoders : mapping of str to encoder
        What `encode` takes, fitted on no test subject; or a function of (LabelledScans, seed) that trains one on the
        labelled subjects, anew for each draw.
    train, test : LabelledScans
        Without a subject in common.
    n_labelled : sequence of int
        Numbers of labelled subjects to try, half of either class.
    repeats : int
        Draws of them.
    seed : int
        Of the draws.

    Returns
    -------
    DataFrame
        One row per encoder, n_labelled, repeat and test subject: n_images, label, score (0 to 1, higher means 1).
    """
    if not encoders:
        raise ValueError("encoders must name at least one, got none")
    for name, value in (("train", train), ("test", test)):
        require_kind(name, value, LabelledScans, such_as="LabelledScans(images, labels, subjects)")
    shared = sorted(set(train.subjects.tolist()) & set(test.subjects.tolist()))
    if shared:
        raise ValueError(f"train and test must share no subject; {shared[0]!r} is in both, {len(shared)} such in all")
    require_whole("repeats", repeats, least=1)
    require_whole("seed", seed, least=0)
    fitted = {name: encoder for name, encoder in encoders.items() if _is_fitted(encoder)}
    known = {name: [encode(encoder, part.images) for part in (train, test)] for name, encoder in fitted.items()}
    tables = []
    for count in n_labelled:
        require_whole("each of n_labelled", count, least=2)
        for repeat in range(repeats):
            drawn = train.draw(count, seed=[seed, count, repeat])
            for name, encoder in encoders.items():
                if name in known:
                    features, tested = known[name][0][np.isin(train.subjects, drawn.subjects)], known[name][1]
                else:
                    learnt = encoder(drawn, seed + repeat)
                    features, tested = encode(learnt, drawn.images), encode(learnt, test.images)
                scores = make_classifier().fit(features, drawn.labels).predict_proba(tested)[:, 1]
                columns = {"encoder": name, "n_labelled": count, "repeat": repeat}
                tables.append(_average_images(test, scores).assign(**columns)[[*columns, *AVERAGED]])
    return pd.concat(tables, ignore_index=True)


AVERAGED = ("subject", "n_images", "label", "score")


def _is_fitted(encoder: Any) -> bool:
    """Return whether it is an encoder, and not a function that trains one; a Keras model can be called, too."""
    return hasattr(encoder, "components_") or hasattr(encoder, "predict_on_batch")


def _average_images(scans: LabelledScans, scores: np.ndarray) -> pd.DataFrame:
    rows = pd.DataFrame({"subject": scans.subjects, "label": scans.labels, "score": scores})
    found = rows.groupby("subject", sort=True).agg(
        n_images=("score", "size"), label=("label", "first"), score=("score", "mean")
    )
    return found.reset_index()


def summarize_probes(
    predictions: pd.DataFrame, *, n_resamples: int = 500, confidence: float = 0.95, seed: int = 0
) -> pd.DataFrame:
    """Return the AUROC of every encoder by the number of labelled subjects, with intervals.

    A resample draws test subjects, class by class, and one of the repeats: the interval holds who was tested and who
    was labelled.

    Parameters
    ----------
    predictions : DataFrame
        Of `probe_encoders`.

    Returns
    -------
    DataFrame
        One row per encoder and n_labelled: n_repeats, n_subjects, n_positive, n_negative (of the test), auroc (mean
        over repeats, higher is better), low, high; NaN with one class.
    """
    rows = []
    for (name, count), cube in _stack_scores(predictions).items():
        found = _resample(cube, n_resamples=n_resamples, seed=seed)
        row = {"encoder": name, "n_labelled": count, "n_repeats": len(cube.scores), "n_subjects": len(cube.truth)}
        row |= {"n_positive": int(cube.truth.sum()), "n_negative": int((~cube.truth).sum())}
        row |= {"auroc": float(np.mean([measure_auroc(cube.truth, scores) for scores in cube.scores]))}
        rows.append(row | _bound(found, confidence))
    return pd.DataFrame(rows)


def contrast_probes(
    predictions: pd.DataFrame,
    first: str,
    second: str,
    *,
    n_resamples: int = 500,
    confidence: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Return by how much the second encoder's AUROC is above the first's, on the same resamples of subjects and draws.

    Returns
    -------
    DataFrame
        One row per n_labelled: difference, low, high, verdict ("not distinguishable" if the interval holds 0).
    """
    cubes, rows = _stack_scores(predictions), []
    for name in (first, second):
        if name not in predictions["encoder"].unique():
            raise KeyError(f"no encoder {name!r}; expected one of {predictions['encoder'].unique().tolist()}")
    for count in predictions["n_labelled"].unique():
        pair = [cubes[name, count] for name in (first, second)]
        found = [_resample(cube, n_resamples=n_resamples, seed=seed) for cube in pair]
        means = [np.mean([measure_auroc(cube.truth, scores) for scores in cube.scores]) for cube in pair]
        bounds = _bound(found[1] - found[0], confidence)
        apart = bounds["low"] > 0 or bounds["high"] < 0
        verdict = VERDICTS[int(bounds["low"] > 0)] if apart else VERDICTS[2]
        row = {"first": first, "second": second, "n_labelled": count, "difference": float(means[1] - means[0])}
        rows.append(row | bounds | {"verdict": verdict})
    return pd.DataFrame(rows)


@dataclass(frozen=True, eq=False)
class _Cube:
    truth: np.ndarray  # bool (subjects,)
    scores: np.ndarray  # (repeats, subjects)


def _stack_scores(predictions: pd.DataFrame) -> dict[tuple[str, int], _Cube]:
    require_columns(predictions, ("encoder", "n_labelled", "repeat", "subject", "label", "score"))
    cubes = {}
    for key, part in predictions.groupby(["encoder", "n_labelled"], sort=False):
        wide = part.pivot(index="repeat", columns="subject", values="score")
        truth = part.drop_duplicates("subject").set_index("subject")["label"][wide.columns]
        cubes[key] = _Cube(truth.to_numpy() == 1, wide.to_numpy())
    return cubes


def _resample(cube: _Cube, *, n_resamples: int, seed: int) -> np.ndarray:
    """Return the AUROC in every resample, (n_resamples,); the same subjects and repeats for the same seed."""
    require_whole("n_resamples", n_resamples, least=1)
    rng, classes = np.random.default_rng(seed), [np.flatnonzero(cube.truth), np.flatnonzero(~cube.truth)]
    found = np.full(n_resamples, np.nan)
    if not all(map(len, classes)):
        return found
    for number in range(n_resamples):
        drawn = np.concatenate([rng.choice(members, size=len(members)) for members in classes])
        found[number] = measure_auroc(cube.truth[drawn], cube.scores[rng.integers(len(cube.scores)), drawn])
    return found


def _bound(found: np.ndarray, confidence: float) -> dict[str, float]:
    check_confidence(confidence)
    low, high = np.quantile(found, [(1 - confidence) / 2, (1 + confidence) / 2])
    return {"low": float(low), "high": float(high)}
