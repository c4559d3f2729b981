"""Image quality of one volume, in the manner of MRIQC, and how far it lies from that of the other images.

MRIQC (Esteban et al. 2017, doi 10.1371/journal.pone.0184661) measures a scan without a reference, on a segmentation
of its tissues. Here three classes of intensity take the place of tissues, so that the volume alone is enough: a
T1-weighted brain on a black background splits into the background with the fluid, grey matter and white matter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

CLASSES = ("dark", "middle", "bright")
TO_SD = 1.4826  # median absolute deviation to standard deviation, for a normal distribution
TO_SD_OF_MEAN = 1.2533  # the same for the mean absolute deviation


def measure_image(array: np.ndarray) -> dict[str, float]:
    """Return the measures of image quality of one volume, by the names of `MEASURES`.

    Parameters
    ----------
    array : numpy.ndarray
        (I, J, K), RAS axes, finite, at least two voxels along every axis. No measure depends on the scale of its
        intensities.

    Returns
    -------
    dict of str to float
        NaN where undefined: for instance what compares three classes, with two different intensities.

    Examples
    --------
    >>> found = measure_image(np.arange(60.0).reshape(3, 4, 5))
    >>> round(found["head_share"], 2), round(found["border"], 2)
    (0.67, 0.53)
    """
    array = np.asarray(array, dtype=np.float64)
    classes = _split_intensities(array)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = {name: float(measure(array, classes)) for name, measure in MEASURES.items()}
    return {name: value if np.isfinite(value) else float("nan") for name, value in found.items()}


def _split_intensities(array: np.ndarray) -> dict[str, np.ndarray]:
    """Return the voxels of the three classes that vary least within (Otsu 1979, doi 10.1109/TSMC.1979.4310076)."""
    import SimpleITK as sitk

    if array.min() == array.max():
        return dict.fromkeys(CLASSES, np.empty(0))
    image = sitk.GetImageFromArray(array.astype(np.float32))
    labels = sitk.GetArrayFromImage(sitk.OtsuMultipleThresholds(image, len(CLASSES) - 1))
    return {name: array[labels == label] for label, name in enumerate(CLASSES)}


def _mean(values: np.ndarray) -> float:
    return values.mean() if values.size else np.nan


def _sd(values: np.ndarray) -> float:
    return values.std(ddof=1) if values.size > 1 else np.nan


def measure_signal_to_noise(array: np.ndarray, classes: Mapping[str, np.ndarray]) -> float:
    """Return mean over standard deviation of the bright class, MRIQC's SNR of white matter."""
    return np.divide(_mean(classes["bright"]), _sd(classes["bright"]))


def measure_contrast_to_noise(array: np.ndarray, classes: Mapping[str, np.ndarray]) -> float:
    """Return the difference of bright and middle class over the root of all three variances (CNR; Magnotta and
    Friedman 2006, doi 10.1007/s10278-006-0264-x)."""
    noise = np.sqrt(sum(_sd(values) ** 2 for values in classes.values()))
    return np.divide(_mean(classes["bright"]) - _mean(classes["middle"]), noise)


def measure_joint_variation(array: np.ndarray, classes: Mapping[str, np.ndarray]) -> float:
    """Return the sum of the standard deviations of bright and middle class over the difference of their means (CJV;
    Ganzetti et al. 2016, doi 10.3389/fninf.2016.00010)."""
    bright, middle = classes["bright"], classes["middle"]
    return np.divide(_sd(bright) + _sd(middle), _mean(bright) - _mean(middle))


def measure_focus_entropy(array: np.ndarray, classes: Mapping[str, np.ndarray]) -> float:
    """Return the entropy focus criterion: 0 if one voxel holds all energy, 1 if all hold the same (EFC; Atkinson et
    al. 1997, doi 10.1109/42.650886, over its maximum as in MRIQC)."""
    if not array.any():
        return np.nan
    share = np.abs(array).ravel() / np.sqrt(np.sum(array**2))
    entropy = -np.sum(share[share > 0] * np.log(share[share > 0]))
    return entropy / (np.sqrt(array.size) * np.log(np.sqrt(array.size)))


def measure_background_energy(array: np.ndarray, classes: Mapping[str, np.ndarray]) -> float:
    """Return the mean square of the dark class over that of the rest, the inverse of MRIQC's FBER: a black background
    gives 0 there and not infinity."""
    head = np.concatenate([classes["middle"], classes["bright"]])
    return np.divide(_mean(classes["dark"] ** 2), _mean(head**2))


def measure_border(array: np.ndarray, classes: Mapping[str, np.ndarray]) -> float:
    """Return the median of the six faces of the volume over its 95th percentile: MRIQC's median of the background,
    which is taken to be where the field of view ends."""
    inside = np.zeros(array.shape, dtype=bool)
    inside[1:-1, 1:-1, 1:-1] = True
    return np.divide(np.median(array[~inside]), np.percentile(array, 95))


def measure_kurtosis(array: np.ndarray, classes: Mapping[str, np.ndarray]) -> float:
    """Return the excess kurtosis of all but the dark class, as in the summary statistics of MRIQC."""
    head = np.concatenate([classes["middle"], classes["bright"]])
    if head.size == 0 or np.ptp(head) == 0:
        return np.nan
    from scipy.stats import kurtosis

    return kurtosis(head)


def measure_smoothness(array: np.ndarray, classes: Mapping[str, np.ndarray]) -> float:
    """Return the full width at half maximum in voxels, mean of the three axes, from differences of neighbours (Forman
    et al. 1995, doi 10.1002/mrm.1910330508); 0 where neighbours are not alike, as in white noise."""
    alike = [1.0 - np.var(np.diff(array, axis=axis)) / (2.0 * np.var(array)) for axis in range(array.ndim)]
    return np.mean([np.sqrt(-2.0 * np.log(2.0) / np.log(r)) if r > 0 else 0.0 * r for r in alike])


def measure_head_share(array: np.ndarray, classes: Mapping[str, np.ndarray]) -> float:
    """Return the share of voxels that are not of the dark class, as MRIQC's fractions of tissue volumes."""
    head = classes["middle"].size + classes["bright"].size
    return np.divide(head, head + classes["dark"].size)


def measure_symmetry(array: np.ndarray, classes: Mapping[str, np.ndarray]) -> float:
    """Return the correlation of the volume with its mirror image, left for right; not in MRIQC, a plain test of
    position and shading."""
    centered = array - array.mean()
    return np.divide(np.sum(centered * centered[::-1]), np.sum(centered**2))


MEASURES: Mapping[str, Callable[[np.ndarray, Mapping[str, np.ndarray]], float]] = MappingProxyType(
    {
        "signal_to_noise": measure_signal_to_noise,
        "contrast_to_noise": measure_contrast_to_noise,
        "joint_variation": measure_joint_variation,
        "focus_entropy": measure_focus_entropy,
        "background_energy": measure_background_energy,
        "border": measure_border,
        "kurtosis": measure_kurtosis,
        "smoothness": measure_smoothness,
        "head_share": measure_head_share,
        "symmetry": measure_symmetry,
    }
)


def standardize(values: np.ndarray) -> np.ndarray:
    """Return robust z values of each column: distance from its median over its median absolute deviation, in units of
    a standard deviation (Iglewicz and Hoaglin 1993).

    Where more than half of a column is alike, the mean absolute deviation takes over; where all is alike, z is 0.

    Parameters
    ----------
    values : numpy.ndarray
        (n, m); NaN is left out of median and deviation and stays NaN.

    Examples
    --------
    >>> standardize(np.array([[1.0], [2.0], [3.0], [4.0], [12.0]])).ravel().round(2).tolist()
    [-1.35, -0.67, 0.0, 0.67, 6.07]
    """
    z = np.full(values.shape, np.nan)
    for column in np.flatnonzero(np.isfinite(values).any(axis=0)):
        away = values[:, column] - np.nanmedian(values[:, column])
        scale = TO_SD * np.nanmedian(np.abs(away)) or TO_SD_OF_MEAN * np.nanmean(np.abs(away)) or 1.0
        z[:, column] = away / scale
    return z
