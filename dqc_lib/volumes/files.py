"""Volume files: NIfTI in and out, with the orientation that is asked for."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dqc_lib.arguments import require_path, require_sizes, require_text, require_whole, show_value
from dqc_lib.aside import write_aside
from dqc_lib.volumes.header import ENDINGS, MAX_VOXELS, VOXEL_TYPES, check_file

if TYPE_CHECKING:
    import SimpleITK

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])
AXES = "LR", "PA", "IS"


@dataclass(frozen=True, eq=False)
class Volume:
    """A volume and where it lies.

    Parameters
    ----------
    array : numpy.ndarray
        (I, J, K), in the real type of the file.
    affine : numpy.ndarray
        (4, 4) float64; voxel indices to millimetres in RAS axes.

    Examples
    --------
    >>> volume = Volume(np.zeros((2, 3, 4)), np.diag([-2.0, 1.0, 1.5, 1.0]))
    >>> volume.spacing, volume.orientation
    ((2.0, 1.0, 1.5), 'LAS')
    """

    array: np.ndarray
    affine: np.ndarray

    def __post_init__(self) -> None:
        for name in ("array", "affine"):
            if not isinstance(getattr(self, name), np.ndarray):
                raise TypeError(f"{name} must be a NumPy array, got {show_value(getattr(self, name))}")
        if np.ndim(self.array) != 3 or np.shape(self.affine) != (4, 4):
            came = f"{np.shape(self.array)} and {np.shape(self.affine)}"
            raise ValueError(f"expected an array (I, J, K) and an affine (4, 4), came shapes {came}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along each axis."""
        return self.array.shape

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between voxel centers along each axis, in mm."""
        return tuple(float(length) for length in np.linalg.norm(self.affine[:3, :3], axis=0).round(6))

    @property
    def orientation(self) -> str:
        """Where each axis runs to, as three letters: "RAS" is right, anterior, superior."""
        columns = self.affine[:3, :3].T
        largest = np.abs(columns).argmax(axis=1)
        return "".join(AXES[row][int(column[row] > 0)] for row, column in zip(largest, columns, strict=True))

    def _repr_html_(self) -> str:
        low, high = self.array.min(), self.array.max()
        spacing = " x ".join(f"{length:g}" for length in self.spacing)
        shape = " x ".join(str(n) for n in self.shape)
        return f"<b>Volume</b> {shape} {self.array.dtype}, {spacing} mm, {self.orientation}, values {low:g} to {high:g}"


def read_volume(
    path: str | os.PathLike,
    *,
    shape: tuple[int, int, int] | None = None,
    orientation: str | None = "RAS",
    max_voxels: int = MAX_VOXELS,
    subject: str | None = None,
    allow_constant: bool = False,
) -> Volume:
    """Return the volume of a NIfTI file, its axes reordered and flipped to `orientation`; nothing is resampled.

    Header and payload are checked before anything is allocated, and no more is ever unpacked than the header claims and
    `max_voxels` allows: a damaged file, or one made to fill the memory, costs an error. Reading takes about three times
    the memory of the volume.

    Parameters
    ----------
    path : path
        A single-file NIfTI-1, `.nii` or `.nii.gz`, with one real value per voxel.
    shape : tuple of int, optional
        The (I, J, K) that the volume must have after reorientation.
    orientation : str or None
        Where the axes run to, "RAS" unless given; None keeps the axes as stored.
    max_voxels : int
        More voxels than this are refused; 512 x 512 x 512 unless given, 1 GiB in the widest type.
    subject : str, optional
        Named in the error messages.
    allow_constant : bool
        Accept a volume whose voxels are all equal, such as a blank one.

    Returns
    -------
    Volume
        Type as stored (float32 or float64 where the header scales the values); float64 becomes float32.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is unreadable or truncated, its header absurd (sizes, spacing, place in space, scaling, start of the
        voxels), not 3-D or real, too large, of another shape, holds NaN or infinite voxels, or is constant.
    """
    path = require_path("path", path)
    require_whole("max_voxels", max_voxels, least=1)
    shape = None if shape is None else require_sizes("shape", shape)
    if orientation is not None:
        require_text("orientation", orientation)
    where = f"{path}" if subject is None else f"subject {subject!r}: {path}"
    if not path.is_file():
        raise FileNotFoundError(f"{where}: no such file; expected a NIfTI image")
    check_file(path, where, max_voxels)
    array, affine = _read_image(path, where, orientation)
    if array.dtype == np.float64:
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
    if shape is not None and array.shape != shape:
        raise ValueError(f"{where}: shape {array.shape} in orientation {orientation}; expected {shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{where}: voxels beyond the range of float32; expected finite values")
    if not allow_constant and (array == array.flat[0]).all():
        raise ValueError(f"{where}: constant volume, every voxel is {array.flat[0]:g}; expected an image")
    return Volume(array, affine)


@contextlib.contextmanager
def _without_warnings():
    """Keep ITK's C++ warnings off stderr."""
    import SimpleITK as sitk

    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)


def _read_image(path: Path, where: str, orientation: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Return array (I, J, K) and RAS affine of a file that SimpleITK reads."""
    import SimpleITK as sitk

    if orientation is not None and not _is_orientation(orientation):
        raise ValueError(f"orientation is {orientation!r}; expected three letters such as 'RAS', one of each axis")
    try:
        with _without_warnings():
            # by name: otherwise whichever reader knows the file comes first, and HDF5 allows a NIfTI header before it
            image = sitk.ReadImage(str(path), imageIO="NiftiImageIO")
            if orientation is not None:
                image = sitk.DICOMOrient(image, orientation)
    except RuntimeError as error:
        reason = " ".join(re.split(r"ERROR: ", str(error))[-1].split())
        raise ValueError(f"{where}: unreadable, SimpleITK says: {reason}; expected a NIfTI volume") from None
    affine = np.eye(4)
    affine[:3, :3] = LPS_TO_RAS @ np.reshape(image.GetDirection(), (3, 3)) @ np.diag(image.GetSpacing())
    affine[:3, 3] = LPS_TO_RAS @ image.GetOrigin()
    return np.ascontiguousarray(sitk.GetArrayFromImage(image).transpose(2, 1, 0)), affine


def _is_orientation(letters: str) -> bool:
    return len(letters) == 3 and all(sum(letter in axis for letter in letters) == 1 for axis in AXES)


def write_volume(path: str | os.PathLike, array: np.ndarray, *, affine: np.ndarray, dtype: Any = None) -> Path:
    """Write a volume as NIfTI and return the path; the same input gives the same bytes.

    The file is written aside and renamed, so that a killed run leaves either the whole file or none. It does not wait
    for the disk: a power cut can leave a file that is cut short, which `read_volume` refuses.

    Parameters
    ----------
    path : path
        Ends in `.nii` or `.nii.gz`; missing folders are made.
    array : numpy.ndarray
        (I, J, K), real and finite.
    affine : numpy.ndarray
        (4, 4), voxel indices to millimetres in RAS axes; without shear, which SimpleITK cannot store.
    dtype : data type, optional
        What to store, the array's own type unless given. Integers are rounded to, never wrapped.

    Raises
    ------
    ValueError
        If the ending, array, affine or type cannot be stored.
    """
    import SimpleITK as sitk

    path = require_path("path", path)
    if not path.name.endswith(ENDINGS):
        raise ValueError(f"{path}: expected the ending {' or '.join(ENDINGS)}")
    volume = Volume(_make_array("array", array), _make_array("affine", affine, dtype=float))
    image = _make_image(_convert(volume.array, dtype, path), volume.affine, path)
    path.parent.mkdir(parents=True, exist_ok=True)

    def write(aside: Path) -> None:
        with _without_warnings():
            sitk.WriteImage(image, str(aside), useCompression=path.name.endswith(".gz"))

    return write_aside(path, write, durable=False)  # thousands of small files, and what reads them checks each


def _make_array(name: str, values: Any, dtype: Any = None) -> np.ndarray:
    try:
        return np.asarray(values, dtype=dtype)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be numbers in rows of one length, got {show_value(values)}") from None


def _convert(array: np.ndarray, dtype: Any, path: Path) -> np.ndarray:
    try:
        target = np.dtype(array.dtype if dtype is None else dtype)
    except TypeError:
        raise TypeError(f"{path}: dtype must be a data type of NumPy, got {show_value(dtype)}") from None
    if array.dtype.kind not in "biuf" or f"{target.kind}{target.itemsize}" not in VOXEL_TYPES.values():
        raise ValueError(
            f"{path}: {array.dtype} to be stored as {target}; expected real values stored as integer or float"
        )
    if array.size == 0 or not np.isfinite(array).all():
        raise ValueError(
            f"{path}: array of shape {array.shape} is empty or holds NaN or infinite values; expected finite voxels"
        )
    if target.kind in "iu" and target != array.dtype:
        limits = np.iinfo(target)
        array = np.rint(array) if array.dtype.kind == "f" else array
        if array.min() < limits.min or array.max() > limits.max:
            came = f"values from {array.min():g} to {array.max():g}"
            raise ValueError(f"{path}: {came}; expected {limits.min} to {limits.max} for {target}")
    return array.astype(target)


def _make_image(array: np.ndarray, affine: np.ndarray, path: Path) -> SimpleITK.Image:
    """Return what SimpleITK writes for an array (I, J, K) and a RAS affine."""
    import SimpleITK as sitk

    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or spacing.min() <= 0:
        raise ValueError(f"{path}: affine {affine.tolist()}; expected finite values and spacing above 0")
    direction = affine[:3, :3] / spacing
    if not np.allclose(direction.T @ direction, np.eye(3), atol=1e-4):
        raise ValueError(f"{path}: the affine {affine.tolist()} has shear; expected axes at right angles")
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
    image.SetSpacing(spacing.tolist())
    image.SetDirection((LPS_TO_RAS @ direction).ravel().tolist())
    image.SetOrigin((LPS_TO_RAS @ affine[:3, 3]).tolist())
    return image
