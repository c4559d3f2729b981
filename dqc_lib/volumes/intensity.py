"""Intensities: scanner units to 8 bits."""

from __future__ import annotations

import numpy as np

from dqc_lib.arguments import require_number, show_value


def rescale_to_uint8(array: np.ndarray, *, lower: float = 0.0, upper: float | None = None) -> np.ndarray:
    """Return the array mapped linearly from [lower, upper] to [0, 255], clipped and rounded, as uint8.

    Parameters
    ----------
    array : numpy.ndarray
        Intensities, finite, in any unit.
    lower, upper : float
        What becomes 0 and 255; `upper` is the 99.9th percentile of the positive voxels unless given.

    Raises
    ------
    ValueError
        If a value is not finite, `upper` is not above `lower`, or no voxel is positive and `upper` is not given.

    Examples
    --------
    >>> rescale_to_uint8(np.array([-1.0, 0.0, 50.0, 100.0, 200.0]), upper=100.0)
    array([  0,   0, 128, 255, 255], dtype=uint8)
    """
    try:
        values = np.asarray(array, dtype=np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"the array must hold numbers, got {show_value(array)}") from None
    require_number("lower", lower)
    if upper is not None:
        require_number("upper", upper)
    if not np.isfinite(values).all():
        raise ValueError("the array holds NaN or infinite values; expected finite intensities")
    if upper is None:
        positive = values[values > 0]
        if positive.size == 0:
            raise ValueError("the array has no positive value to take the upper limit from; expected one, or `upper`")
        upper = float(np.percentile(positive, 99.9))
    if not upper > lower:
        raise ValueError(f"upper is {upper} and lower {lower}; expected upper above lower")
    return np.rint((values - lower).clip(0, upper - lower) * 255.0 / (upper - lower)).astype(np.uint8)
