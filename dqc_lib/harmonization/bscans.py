"""OCT B-scans on the way to a table of features: SimpleITK brings them to one grid, scikit-image describes them.

Every scan is prepared and described by itself. Nothing is learnt from one for another, so that doing it before subjects
are split leaks nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from dqc_lib.arguments import require_sizes, show_value

if TYPE_CHECKING:
    import SimpleITK

SMOOTHING = ("none", "median", "curvature flow")
GRID = (64, 48)  # pixels across and deep
BELOW = 56  # pixels of a profile, at the depth that `PROFILE_STEP` gives
PROFILE_STEP = 0.008  # mm


def prepare_scans(
    images: Sequence[SimpleITK.Image],
    *,
    grid: Sequence[int] = GRID,
    smoothing: str = "median",
    standardize: bool = True,
) -> np.ndarray:
    """Return B-scans on one grid, so that scans of different machines can stand in one array.

    Parameters
    ----------
    images : sequence of SimpleITK.Image
        Two-dimensional; first axis across the retina, second into it; spacing in mm. They stay as they are.
    grid : two ints
        Pixels across and deep that the whole of every scan is brought to.
    smoothing : "none", "median" or "curvature flow"
        Against speckle, before the scan is brought to the grid: SimpleITK's median over 3 x 3 pixels, or its curvature
        flow (Sethian 1999), which smooths along edges rather than across.
    standardize : bool
        Whether each scan's own 1st and 99th percentile become 0 and 1. What a machine's scale and offset add is gone
        then, but not its contrast curve, nor its speckle.

    Returns
    -------
    ndarray of float32, (scans, deep, across)
    """
    sizes = require_sizes("grid", grid)
    if len(sizes) != 2 or min(sizes) < 8:
        raise ValueError(f"grid must be two sizes of at least 8 pixels, got {show_value(sizes)}")
    if smoothing not in SMOOTHING:
        raise ValueError(f"smoothing must be one of {SMOOTHING}, got {show_value(smoothing)}")
    prepared = [_resample(_smooth(image, smoothing), sizes) for image in _check_images(images)]
    return np.stack([_standardize(array) if standardize else array for array in prepared])


def _check_images(images: Sequence[SimpleITK.Image]) -> list[SimpleITK.Image]:
    import SimpleITK as sitk

    listed = list(images)
    if not listed:
        raise ValueError("images must hold at least one B-scan, got none")
    for number, image in enumerate(listed):
        if not isinstance(image, sitk.Image):
            raise TypeError(f"image {number} must be a SimpleITK image, got {show_value(image)}")
        if image.GetDimension() != 2:
            raise ValueError(f"image {number} must have two dimensions, got {image.GetDimension()}")
    return listed


def _smooth(image: SimpleITK.Image, smoothing: str) -> SimpleITK.Image:
    import SimpleITK as sitk

    image = sitk.Cast(image, sitk.sitkFloat32)
    if smoothing == "median":
        return sitk.Median(image, (1, 1))
    if smoothing == "curvature flow":
        # steps are in pixels: the filter's stable step assumes a spacing of 1
        plain = sitk.GetImageFromArray(sitk.GetArrayViewFromImage(image))
        plain = sitk.CurvatureFlow(plain, timeStep=0.1, numberOfIterations=10)
        plain.CopyInformation(image)
        return plain
    return image


def _resample(image: SimpleITK.Image, size: tuple[int, ...]) -> np.ndarray:
    """Return the whole scan on `size` pixels, float32 (deep, across)."""
    import SimpleITK as sitk

    extent = np.array(image.GetSize()) * image.GetSpacing()
    spacing = extent / size
    # pixels are areas: the middle of the first one moves with its size
    origin = image.TransformContinuousIndexToPhysicalPoint((-0.5 + spacing / image.GetSpacing() / 2).tolist())
    if (spacing > image.GetSpacing()).any():  # fewer pixels: average first, or the speckle would be aliased
        image = sitk.DiscreteGaussian(image, variance=((spacing / 3) ** 2).tolist())
    grid = sitk.Image(size, sitk.sitkFloat32)
    grid.SetOrigin(origin)
    grid.SetSpacing(spacing.tolist())
    grid.SetDirection(image.GetDirection())
    resampler = sitk.ResampleImageFilter()
    resampler.SetReferenceImage(grid)
    resampler.SetInterpolator(sitk.sitkLinear)
    resampler.UseNearestNeighborExtrapolatorOn()  # for the rim, outside the middles of the outermost pixels
    return sitk.GetArrayFromImage(resampler.Execute(image)).astype(np.float32)


def _standardize(array: np.ndarray) -> np.ndarray:
    """Return the scan with its 1st and 99th percentile at 0 and 1, cut there; all 0 if they are the same."""
    low, high = np.percentile(array, [1, 99])
    return np.clip((array - low) / (high - low), 0, 1) if high > low else np.zeros_like(array)


def measure_profiles(arrays: np.ndarray, *, depth: float) -> pd.DataFrame:
    """Return how bright every scan is at each depth below its surface, averaged along the surface.

    The surface is where a column, smoothed, brightens most in its upper two thirds. Columns in which it lies far from
    those beside it are measured all the same.

    Parameters
    ----------
    arrays : ndarray, (scans, deep, across)
        From `prepare_scans`.
    depth : float
        Of the whole scan, mm.

    Returns
    -------
    DataFrame
        Columns "depth 8 um" and so on, one row per scan; the last value of a column goes on where it ends.
    """
    from scipy.ndimage import gaussian_filter, map_coordinates

    deep = arrays.shape[1]
    surface = np.diff(gaussian_filter(arrays, (0, 1.0, 2.0)), axis=1)[:, : deep * 2 // 3].argmax(axis=1) + 1
    below = np.arange(BELOW) * PROFILE_STEP / (depth / deep)
    rows = []
    for array, top in zip(arrays, surface, strict=True):
        places = gaussian_filter(top.astype(np.float64), 2.0) + below[:, np.newaxis]
        columns = np.broadcast_to(np.arange(array.shape[1]), places.shape)
        rows.append(map_coordinates(array, [places, columns], order=1, mode="nearest").mean(axis=1))
    return pd.DataFrame(np.array(rows), columns=[f"depth {round(1000 * PROFILE_STEP * at)} um" for at in range(BELOW)])


def describe_texture(arrays: np.ndarray) -> pd.DataFrame:
    """Return the texture of every scan: local binary patterns and oriented gradients.

    Parameters
    ----------
    arrays : ndarray, (scans, deep, across)
        From 0 to 1, from `prepare_scans`.

    Returns
    -------
    DataFrame
        Columns "pattern 0" to "pattern 9" (share of pixels; Ojala et al. 2002, doi 10.1109/TPAMI.2002.1017623) and
        "gradient 0" and so on (Dalal and Triggs 2005, doi 10.1109/CVPR.2005.177), one row per scan.
    """
    from skimage.feature import hog, local_binary_pattern

    rows = []
    for array in arrays:
        grey = np.rint(255 * np.clip(array, 0, 1)).astype(np.uint8)
        patterns = np.bincount(local_binary_pattern(grey, 8, 1, "uniform").astype(int).ravel(), minlength=10)
        cell = tuple(size // 4 for size in array.shape)
        rows.append([*(patterns / grey.size), *hog(grey, 8, pixels_per_cell=cell, cells_per_block=(1, 1))])
    names = [f"pattern {number}" for number in range(10)]
    return pd.DataFrame(rows, columns=[*names, *(f"gradient {number}" for number in range(len(rows[0]) - 10))])
