"""Other ways to find harmful training images, to compare with quality control by counts and update norms.

Each detector gives every training image one score, higher for what is more likely harmful, and says what has to be
looked at for it and what leaves a center. All judge one and the same trained model; none trains it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from time import perf_counter
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from dqc_lib.cohort import Cohort
from dqc_lib.detection.images import standardize
from dqc_lib.detection.material import Material
from dqc_lib.volumes import VolumeCache

if TYPE_CHECKING:
    import keras

SIGHTS = ("pixels", "features", "labels", "scores", "gradients", "verification images")
NEIGHBORS = 5
"""Verification images that an image is compared with; on the sample cohort 5 found more than cleanlab's 10."""


def score_loss(material: Material) -> np.ndarray:
    """Return the cross-entropy of each training image, at least 0.

    What a model finds hard to fit is more often wrong (Arpit et al. 2017, arXiv 1706.05394; the small-loss rule of
    co-teaching, Han et al. 2018, arXiv 1804.06872).
    """
    return np.logaddexp(0.0, (1 - 2 * material.labels) * material.logits)


def score_label_quality(material: Material) -> np.ndarray:
    """Return 1 - cleanlab's label quality, 0 to 1; NaN for all unless both diagnoses occur.

    Confident learning (Northcutt, Jiang and Chuang 2021, doi 10.1613/jair.1.12125): the probability of the label, less
    the mean that images of this label get. Without that adjustment and with two classes, all scores of cleanlab order
    the images as the loss does.
    """
    if len(np.unique(material.labels)) < 2:
        return np.full(len(material.labels), np.nan)
    probability = np.exp(-np.logaddexp(0.0, -material.logits))
    both = np.column_stack([1.0 - probability, probability])
    rank = _import_cleanlab()[1]
    return 1.0 - rank.get_label_quality_scores(material.labels, both, adjust_pred_probs=True)


def score_outlier(material: Material) -> np.ndarray:
    """Return 1 - cleanlab's typicality of the features, 0 to 1: how far the nearest verification images are.

    Mean cosine distance to the `NEIGHBORS` nearest (Kuan and Mueller 2022, arXiv 2207.03061; Euclidean with up to
    three features). The neighbors are verification images since a harmful center, scanned alike, would be its own
    neighborhood and pass for typical.
    """
    outlier, _ = _import_cleanlab()
    if len(material.verification) < 2:  # cleanlab sets its scale by the distances between them
        return np.full(len(material.train), np.nan)
    known = material.verification_features
    scorer = outlier.OutOfDistribution({"k": min(NEIGHBORS, len(known) - 1)})
    scorer.fit(features=known, verbose=False)
    return 1.0 - scorer.score(features=material.features)


def score_image_quality(material: Material) -> np.ndarray:
    """Return how far the image's most unusual measure of quality lies from the median of the training images, in
    robust standard deviations; NaN with fewer than two images.

    The largest of the measures and not their mean: one defect changes few of them (a head that lies on its back only
    the smoothness), and the others would hide it. See `dqc_lib.detection.images`.
    """
    away = np.abs(standardize(material.qualities))
    known = np.isfinite(away).any(axis=1) & (len(away) > 1)
    return np.where(known, np.max(away, axis=1, initial=0.0, where=np.isfinite(away)), np.nan)


def score_influence(material: Material) -> np.ndarray:
    """Return minus the dot product of the image's loss gradient with the mean loss gradient of the verification images.

    To first order, how much a step on the image raises the verification loss (TracIn with one checkpoint; Pruthi et al.
    2020, arXiv 2002.08484). In a trained model patients and controls pull against each other (cosine of their mean
    gradients -0.97 to -0.99 on the sample cohort). What remains is the side that wins by chance, so this tells
    diagnoses apart rather than harm.
    """
    return -material.gradients["product"].to_numpy()


def score_alignment(material: Material) -> np.ndarray:
    """Return minus the mean cosine of the image's loss gradient with those of the verification images of the same
    diagnosis, -1 to 1; NaN where there is none.

    By diagnosis nothing cancels, unlike in `score_influence`, and the cosine leaves the misfit out. What remains is
    whether the image moves the weights that images of its diagnosis move; a flipped label hardly changes that.
    """
    return -material.gradients["cosine"].to_numpy()


def score_center_influence(material: Material) -> np.ndarray:
    """Return, for every image, the sum of `score_influence` over its center: to first order, how much the verification
    loss falls if the center is left out."""
    return _spread(material, score_influence(material), lambda scores: scores.sum(min_count=1))


def score_center_alignment(material: Material) -> np.ndarray:
    """Return, for every image, the mean of `score_alignment` over its center."""
    return _spread(material, score_alignment(material), "mean")


def _spread(material: Material, scores: np.ndarray, how: str | Callable[[pd.Series], float]) -> np.ndarray:
    """Return for each image what its center's scores give together."""
    return pd.Series(scores).groupby(material.train["center"]).transform(how).to_numpy()


def _import_cleanlab() -> tuple:
    try:
        from cleanlab import outlier, rank
    except ModuleNotFoundError as error:
        raise ImportError("this detector needs the package cleanlab: pip install dqc-lib[detectors]") from error
    return outlier, rank


@dataclass(frozen=True)
class Detector:
    """One way to find harmful images, and what it asks of the centers.

    Attributes
    ----------
    name : str
    sees : tuple of str
        What has to be looked at, among `SIGHTS`.
    leaves : str
        What leaves a center.
    score : callable
        Takes `Material`, returns one score per training image in its order, float (n,); higher is more likely harmful,
        NaN undefined.
    """

    name: str
    sees: tuple[str, ...]
    leaves: str
    score: Callable[[Material], np.ndarray] = field(repr=False)

    def __post_init__(self) -> None:
        unknown = [sight for sight in self.sees if sight not in SIGHTS]
        if unknown:
            raise ValueError(f"detector {self.name!r} sees {unknown}; expected among {SIGHTS}")


_GRADIENTS = ("gradients", "labels", "verification images")
_ALL = (
    Detector("loss", ("scores", "labels"), "one loss per image", score_loss),
    Detector(
        "cleanlab label quality", ("scores", "labels"), "one score and the label of every image", score_label_quality
    ),
    Detector(
        "cleanlab outlier",
        ("features", "verification images"),
        "the features of verification images, one distance per image",
        score_outlier,
    ),
    Detector("image quality", ("pixels",), "ten measures of quality per image", score_image_quality),
    Detector("influence", _GRADIENTS, "one gradient of the verification images, one number per image", score_influence),
    Detector(
        "gradient alignment",
        _GRADIENTS,
        "two gradients of the verification images, one number per image",
        score_alignment,
    ),
    Detector(
        "center influence",
        _GRADIENTS,
        "one gradient of the verification images, one number per center",
        score_center_influence,
    ),
    Detector(
        "center alignment",
        _GRADIENTS,
        "two gradients of the verification images, one number per center",
        score_center_alignment,
    ),
)
DETECTORS: Mapping[str, Detector] = MappingProxyType({detector.name: detector for detector in _ALL})
"""The detectors by name. The two of cleanlab need that package (Apache License 2.0), an optional extra."""


def score_images(
    model: keras.Model,
    cohort: Cohort,
    *,
    volumes: VolumeCache | None = None,
    detectors: Iterable[str | Detector] = DETECTORS,
) -> pd.DataFrame:
    """Return the score of every training image by every detector; the model stays as it is.

    Parameters
    ----------
    model : keras.Model
        From `build_sfcn`, trained on images taken to be good, its normalization frozen.
    cohort : Cohort
        With training subjects, which are scored with the diagnosis that the table has, and verification subjects for
        the detectors that see verification images. The ground truth on harm is dropped at once.
    volumes : VolumeCache, optional
        By subject; made from the cohort's paths if not given.
    detectors : iterable of str or Detector
        All `DETECTORS` unless given.

    Returns
    -------
    pandas.DataFrame
        A row per detector and image: ``subject``, ``center``, ``detector``, ``score`` (higher is more likely harmful,
        NaN where undefined; scales differ between detectors) and ``seconds``, what the detector took for all images,
        over their number. What detectors share, such as a pass of the model, is computed once and counted for each.

    Raises
    ------
    ImportError
        If a detector needs a package that is not installed.
    KeyError, ValueError
        If a detector is unknown, asked for twice, or gives another number of scores than there are images; if there
        are no training subjects, or no verification subjects where a detector needs them; if the model is not from
        `build_sfcn`, expects another shape, has diverged, or has no frozen normalization where gradients are seen.
    """
    chosen = _choose(detectors)
    material = Material(model, cohort, volumes=volumes)
    blind = [detector.name for detector in chosen if "verification images" in detector.sees]
    if blind and material.verification.empty:
        raise ValueError(f"detectors {blind} need verification images; no subject has the role 'verification'")
    return pd.concat([_apply(detector, material) for detector in chosen], ignore_index=True)


def _choose(detectors: Iterable[str | Detector]) -> list[Detector]:
    asked = [detectors] if isinstance(detectors, str | Detector) else list(detectors)
    unknown = [name for name in asked if not isinstance(name, Detector) and name not in DETECTORS]
    if unknown:
        raise KeyError(f"unknown detectors {unknown}; expected among {list(DETECTORS)}")
    chosen = [one if isinstance(one, Detector) else DETECTORS[one] for one in asked]
    names = [detector.name for detector in chosen]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"expected one detector or more, each once; came {names}")
    return chosen


def _apply(detector: Detector, material: Material) -> pd.DataFrame:
    made = dict(material.seconds)
    material.read.clear()
    start = perf_counter()
    scores = np.asarray(detector.score(material), dtype=np.float64)
    seconds = perf_counter() - start + sum(made.get(kind, 0.0) for kind in material.read)
    if scores.shape != (len(material.train),):
        raise ValueError(
            f"detector {detector.name!r} gave scores of shape {scores.shape}; expected ({len(material.train)},)"
        )
    rows = material.train[["subject", "center"]]
    return rows.assign(detector=detector.name, score=scores, seconds=seconds / len(rows))
