"""A protocol: the reference value and the tolerance of every parameter of an acquisition that counts."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from dqc_lib.arguments import require_kind, require_number, show_value
from dqc_lib.evaluation.groups import require_columns
from dqc_lib.harmonization.acquisition import VOXEL_AXES
from dqc_lib.harmonization.headers import PARAMETERS

TOLERANCES: Mapping[str, float] = MappingProxyType(
    {"repetition_time": 0.1, "echo_time": 0.0005, "flip_angle": 1.0}
    | dict.fromkeys(VOXEL_AXES, 0.1)
    | {"field_strength": 0.3}
)
"""As wide as those of the T1-weighted acquisition in dicompare's schema of the ABCD study; units of `PARAMETERS`."""


@dataclass(frozen=True)
class Protocol:
    """Reference value and tolerance of every parameter that counts, in the units of `PARAMETERS`.

    Parameters
    ----------
    limits : mapping of str to (float, float)
        Reference and tolerance by parameter; an image is within if it lies at most the tolerance away.

    Raises
    ------
    TypeError, ValueError
        For an unknown parameter, a reference it cannot have, or a tolerance that is not a finite number from 0.

    Examples
    --------
    >>> Protocol({"repetition_time": (2.3, 0.1)}).limits["repetition_time"]
    (2.3, 0.1)
    """

    limits: Mapping[str, tuple[float, float]]

    def __post_init__(self) -> None:
        require_kind("limits", self.limits, Mapping, such_as="{'repetition_time': (2.3, 0.1)}")
        if not self.limits:
            raise ValueError("limits must hold at least one parameter, came none")
        kept = {name: _check_limits(name, pair) for name, pair in self.limits.items()}
        object.__setattr__(self, "limits", MappingProxyType(kept))

    @classmethod
    def from_summary(cls, summary: pd.DataFrame, *, tolerances: Mapping[str, float] = TOLERANCES) -> Protocol:
        """Return the median of the centers' medians, with the tolerances given.

        Of an even number of centers the lower of the two in the middle, since no scanner has a value between them.
        Every center has one voice, however large, since a protocol belongs to a center; and nothing but what centers
        send is needed. If most centers share a fault, it becomes the reference: look at the values, or name your own.

        Parameters
        ----------
        summary : DataFrame
            Of `summarize_acquisition`.
        tolerances : mapping of str to float
            Of the parameters that count. One that no center knows is left out.
        """
        require_kind("tolerances", tolerances, Mapping, such_as="{'repetition_time': 0.1}")
        require_columns(summary, ("parameter", "median"))
        medians = summary.groupby("parameter")["median"].quantile(0.5, interpolation="lower")
        return cls({name: (medians[name], width) for name, width in tolerances.items() if medians.notna().get(name)})

    @classmethod
    def from_dicompare(cls, acquisition: Mapping[str, Any]) -> Protocol:
        """Return what a dicompare schema asks of an acquisition, such as `schema["acquisitions"]["T1-weighted"]`.

        Numbers with a tolerance are taken over, times from ms to s. In-plane spacing and slice thickness become voxel
        sizes only if all are equal, since a NIfTI file need not keep the axes of DICOM. All else is left aside.
        """
        require_kind("acquisition", acquisition, Mapping, such_as="an acquisition of dicompare.load_bundled_schema")
        asked = {field["field"]: field for field in acquisition.get("fields", ()) if field.get("tolerance") is not None}
        limits = {}
        for name, parameter in PARAMETERS.items():
            if parameter.key in asked:
                field = asked[parameter.key]
                limits[name] = (field["value"] * parameter.per_dicom, field["tolerance"] * parameter.per_dicom)
        sizes = [asked[key] for key in ("PixelSpacing", "SliceThickness") if key in asked]
        if len(sizes) == 2 and len({*np.ravel([*sizes[0]["value"], sizes[1]["value"]])}) == 1:
            limits |= dict.fromkeys(VOXEL_AXES, (sizes[1]["value"], min(field["tolerance"] for field in sizes)))
        return cls(limits)

    def _repr_html_(self) -> str:
        told = (
            f"{html.escape(name.replace('_', ' '))} {reference:g} ± {width:g} {PARAMETERS[name].unit}"
            for name, (reference, width) in self.limits.items()
        )
        return f"<b>Protocol</b> {', '.join(told)}"


def _check_limits(name: str, pair: object) -> tuple[float, float]:
    """Return reference and tolerance of a parameter, or say what is wrong with them."""
    if name not in PARAMETERS:
        raise ValueError(f"limits has the parameter {show_value(name)}; expected some of {list(PARAMETERS)}")
    parts = tuple(pair) if isinstance(pair, Iterable) and not isinstance(pair, str) else (pair,)
    if len(parts) != 2:
        raise ValueError(f"limits of {name!r} must be a reference and a tolerance, got {show_value(pair)}")
    for part in parts:
        require_number(f"limits of {name!r}", part)
    low, high, unit = PARAMETERS[name].low, PARAMETERS[name].high, PARAMETERS[name].unit
    if not low <= parts[0] <= high:
        raise ValueError(f"the reference of {name!r} must lie from {low:g} to {high:g} {unit}, got {parts[0]!r}")
    if not 0 <= parts[1] < math.inf:
        raise ValueError(f"the tolerance of {name!r} must be a finite number of at least 0, got {parts[1]!r}")
    return float(parts[0]), float(parts[1])
