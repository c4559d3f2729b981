"""One image made comparable: its bias field corrected by N4, its intensities brought to a standard of several sites.

Both work on one image at a time. N4 needs nothing of the others. The standard is learnt from eleven numbers a site, the
mean landmarks of its training images: matching to the histogram of a reference image (SimpleITK's HistogramMatching)
would send somebody's image to every site, and a joint histogram would need them all in one place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dqc_lib.arguments import require_kind, require_whole

if TYPE_CHECKING:
    import SimpleITK

PERCENTILES = (1.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 99.0)
"""Landmarks of the foreground, as Nyul, Udupa and Zhang (2000) take them."""
TOP = 200.0
"""Where the standard has the last landmark: below 255, so that 8 bits hold what is brighter."""


@dataclass(frozen=True)
class IntensityStandard:
    """Where the landmarks of an image belong.

    Parameters
    ----------
    landmarks : tuple of float
        For each of `PERCENTILES`, from above 0 to `TOP`, never falling.
    n : int
        Images it rests on.
    """

    landmarks: tuple[float, ...]
    n: int

    def __post_init__(self) -> None:
        require_whole("IntensityStandard.n", self.n, least=1)
        marks = np.asarray(self.landmarks, dtype=float)
        if marks.shape != (len(PERCENTILES),) or not np.isfinite(marks).all():
            raise ValueError(f"expected {len(PERCENTILES)} finite landmarks, one a percentile; came {self.landmarks!r}")
        if marks[0] <= 0 or (np.diff(marks) < 0).any():
            raise ValueError(f"expected landmarks above 0 that never fall; came {self.landmarks!r}")


def measure_landmarks(array: np.ndarray) -> np.ndarray:
    """Return the percentiles of an image's foreground, the voxels above 0 that Otsu's threshold leaves, shape (11,).

    Parameters
    ----------
    array : ndarray of shape (I, J, K)
        Intensities from 0 up, 0 for air; in any unit.

    Raises
    ------
    ValueError
        If an intensity is negative or not finite, or all are the same.
    """
    import SimpleITK as sitk

    _check_array(array)
    mask = sitk.GetArrayFromImage(_mask_foreground(_make_image(array))).transpose(2, 1, 0) > 0
    return np.percentile(np.asarray(array, dtype=np.float64)[mask], PERCENTILES)


def summarize_landmarks(landmarks: Iterable[np.ndarray]) -> dict[str, object]:
    """Return what a site sends of its training images: their mean landmarks, each image's last one being 1, and n.

    Raises
    ------
    ValueError
        If there is no image.
    """
    rows = [np.asarray(row, dtype=np.float64) for row in landmarks]
    if not rows:
        raise ValueError("expected the landmarks of at least one image, came none")
    return {"n": len(rows), "landmarks": tuple((np.mean([row / row[-1] for row in rows], axis=0)).tolist())}


def combine_landmarks(summaries: Mapping[str, Mapping[str, object]]) -> IntensityStandard:
    """Return the standard of several sites from what each of them sent; the same as from all images pooled.

    Parameters
    ----------
    summaries : mapping of str to mapping
        By site, as `summarize_landmarks` gives.

    Notes
    -----
    The mean of the landmarks of all images, as in Nyul, Udupa and Zhang (2000), doi 10.1109/42.836373. Deviation: air
    stays 0 and the 99th percentile becomes `TOP`, where they fix a percentile at either end; so an image's unit falls
    out, and what is darker than the first landmark keeps its share of it.

    Examples
    --------
    >>> marks = np.arange(10.0, 21.0)
    >>> standard = combine_landmarks({"A": summarize_landmarks([marks]), "B": summarize_landmarks([2 * marks])})
    >>> standard.n, standard.landmarks[0], standard.landmarks[-1]
    (2, 100.0, 200.0)
    """
    require_kind("summaries", summaries, Mapping, such_as="{'A': summarize_landmarks(...)}")
    if not summaries:
        raise ValueError("expected the summary of at least one site, came none")
    n = sum(int(summary["n"]) for summary in summaries.values())
    total = sum(int(summary["n"]) * np.asarray(summary["landmarks"]) for summary in summaries.values())
    return IntensityStandard(tuple((TOP * total / n).tolist()), n)


def standardize_intensity(array: np.ndarray, standard: IntensityStandard) -> np.ndarray:
    """Return the image with its landmarks where the standard has them, float64; order of intensities and air stay.

    Between two landmarks, and from 0 to the first, the map is a straight line; above the last it goes on as before.
    """
    require_kind("standard", standard, IntensityStandard, such_as="combine_landmarks gives")
    found = np.r_[0.0, measure_landmarks(array)]
    wanted = np.r_[0.0, standard.landmarks]
    own, at = np.unique(found, return_index=True)  # of landmarks that coincide the first, as in images of few levels
    target = wanted[at]
    values = np.asarray(array, dtype=np.float64)
    slope = (target[-1] - target[-2]) / (own[-1] - own[-2])
    return np.where(values > own[-1], target[-1] + slope * (values - own[-1]), np.interp(values, own, target))


def correct_bias(array: np.ndarray, *, shrink: int = 3, levels: int = 2, iterations: int = 30) -> np.ndarray:
    """Return the image divided by its bias field, float64; air stays 0.

    Parameters
    ----------
    array : ndarray of shape (I, J, K)
        Intensities from 0 up.
    shrink : int
        The field is found on every so many-th voxel along each axis: it is smooth, and that is faster.
    levels : int
        Of detail, each twice as fine as the one before. More follow the anatomy: against phantoms without a bias field
        two left half of it, one and three left three quarters.
    iterations : int
        At most so many at each level.

    Notes
    -----
    N4 (Tustison et al. 2010, doi 10.1109/TMI.2010.2046908) as in SimpleITK, in the voxels above Otsu's threshold.
    Deviation: the log of the field has mean 0 there, so that the image keeps its brightness.
    """
    import SimpleITK as sitk

    _check_array(array)
    for name, value in (("shrink", shrink), ("levels", levels), ("iterations", iterations)):
        require_whole(name, value, least=1)
    image = _make_image(array)
    mask = _mask_foreground(image)
    factors = [max(1, min(int(shrink), size // 8)) for size in image.GetSize()]  # a field needs some voxels to be seen
    corrector = sitk.N4BiasFieldCorrectionImageFilter()
    corrector.SetMaximumNumberOfIterations([int(iterations)] * int(levels))
    corrector.SetNumberOfThreads(1)  # the same sums in the same order, whatever the machine
    corrector.Execute(sitk.Shrink(image, factors), sitk.Shrink(mask, factors))
    field = sitk.GetArrayFromImage(corrector.GetLogBiasFieldAsImage(image)).transpose(2, 1, 0).astype(np.float64)
    inside = sitk.GetArrayFromImage(mask).transpose(2, 1, 0) > 0
    return np.asarray(array, dtype=np.float64) / np.exp(field - field[inside].mean())


def _check_array(array: np.ndarray) -> None:
    if np.ndim(array) != 3 or not np.isfinite(array).all():
        raise ValueError(f"expected finite intensities of shape (I, J, K); came shape {np.shape(array)}")
    if np.min(array) < 0 or np.min(array) == np.max(array):
        came = f"from {np.min(array):g} to {np.max(array):g}"
        raise ValueError(f"expected intensities from 0 up that are not all the same; came {came}")


def _make_image(array: np.ndarray) -> SimpleITK.Image:
    import SimpleITK as sitk

    return sitk.GetImageFromArray(np.ascontiguousarray(np.asarray(array, dtype=np.float32).transpose(2, 1, 0)))


def _mask_foreground(image: SimpleITK.Image) -> SimpleITK.Image:
    import SimpleITK as sitk

    return sitk.And(sitk.OtsuThreshold(image, 0, 1), sitk.Cast(image > 0, sitk.sitkUInt8))
