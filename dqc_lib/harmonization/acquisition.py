"""The acquisition of a cohort's images: a table with one row an image, and what a center sends of it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from dqc_lib.arguments import require_kind, require_path, show_value
from dqc_lib.cohort import Cohort, read_bids
from dqc_lib.cohort.paths import list_allowed
from dqc_lib.evaluation.groups import require_columns
from dqc_lib.harmonization.headers import PARAMETERS, TEXTS, check_number, check_text, read_dicom, read_sidecars
from dqc_lib.volumes import read_spacing

ACQUISITION_COLUMNS = ("subject", "center", "source", *PARAMETERS, *TEXTS, "remark")
VOXEL_AXES = ("voxel_i", "voxel_j", "voxel_k")


def read_acquisition(
    cohort: Cohort | str | os.PathLike,
    *,
    headers: str | os.PathLike | None = None,
    trusted_folders: Iterable[str | os.PathLike] = (),
) -> pd.DataFrame:
    """Return how every image of a cohort was acquired, as far as its headers say.

    Times and angles come from BIDS JSON sidecars (those higher up apply too) and, where a sidecar lacks them, from
    DICOM files in `sourcedata/<subject>`; voxel sizes from the header of the NIfTI image. No other tag is kept: neither
    names nor dates nor identifiers of patients. A value that is missing, or cannot be in its unit, is NaN; the remark
    then names the file, what came and what was expected.

    Parameters
    ----------
    cohort : Cohort or path
        A path is read by `read_bids`.
    headers : path, optional
        Folder that has the sidecars and `sourcedata` as a BIDS folder would; the images' own BIDS folder unless given.
        An image that `write_harmful` wrote has none beside it: read the cohort before, or name the folder.
    trusted_folders : iterable of path
        Where else headers may lie, by symbolic links; nowhere else unless given.

    Returns
    -------
    DataFrame
        One row an image, in the order of the cohort, columns `ACQUISITION_COLUMNS`: subject, center, source (the
        header files, "" if none), repetition_time and echo_time (s), flip_angle (degrees), voxel_i, voxel_j, voxel_k
        (mm along the axes of the file), field_strength (T), manufacturer and model ("unknown" if missing), remark.

    Raises
    ------
    FileNotFoundError
        If `headers` is no folder.
    ValueError
        If a header lies outside, is damaged or too long, or two sidecars of one folder apply.

    Notes
    -----
    The rows are for the center that holds the images. What it sends is `summarize_acquisition`.
    """
    cohort = cohort if isinstance(cohort, Cohort) else read_bids(require_path("cohort", cohort))
    folder = None if headers is None else Path(os.path.abspath(require_path("headers", headers)))
    if folder is not None and not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; expected one with sidecars or DICOM files")
    rows = []
    for row in cohort.table.itertuples():
        root = folder or _find_root(row.path, row.subject)
        allowed = list_allowed(root, trusted_folders)
        rows.append({"subject": row.subject, "center": row.center} | _read_image(row.path, row.subject, root, allowed))
    return pd.DataFrame(rows, columns=ACQUISITION_COLUMNS).astype(dict.fromkeys(PARAMETERS, np.float64))


def _find_root(image: str, subject: str) -> Path:
    """Return the folder that holds the subject's, or the image's own folder where none is named after the subject."""
    parents = Path(image).parents
    return next((folder.parent for folder in parents if folder.name == subject), parents[0])


def _read_image(image: str, subject: str, root: Path, allowed: list[Path]) -> dict:
    """Return one image's parameters, texts, source and remark."""
    sidecar, files = read_sidecars(image, subject, root, allowed)
    dicom, slices, remarks = read_dicom(root / "sourcedata" / subject, subject, allowed)
    spacing = dict(zip(VOXEL_AXES, read_spacing(Path(image), f"subject {subject!r}: {image}"), strict=True))
    values = {}
    for name, parameter in PARAMETERS.items():
        given, source, scale = *sidecar.get(parameter.key, (spacing.get(name), Path(image).name)), 1.0
        if given is None and name in dicom:
            given, source, scale = dicom[name], slices[0], parameter.per_dicom
        values[name], remark = check_number(name, given, source=source, scale=scale)
        remarks += [remark] if remark else []
    texts = {name: check_text(sidecar.get(key, (dicom.get(name),))[0]) for name, key in TEXTS.items()}
    return values | texts | {"source": ", ".join(files + slices), "remark": "; ".join(remarks)}


def summarize_acquisition(table: pd.DataFrame) -> pd.DataFrame:
    """Return medians and counts of the parameters at every center: what a center sends, and no row of an image.

    How many rows are sent does not depend on how many images there are. At a center with one image the median is that
    image's value: it tells of the scanner's protocol, not of the patient.

    Parameters
    ----------
    table : DataFrame
        Of `read_acquisition`.

    Returns
    -------
    DataFrame
        One row per center and parameter, in the order of the table: center, parameter, unit, n (images), n_known,
        median (of those known, a value that some image has: of an even number the lower of the two in the middle; NaN
        if none is known), n_suspect (images with a remark).
    """
    check_acquisition(table)
    rows = []
    for center, part in table.groupby("center", sort=False):
        suspect = int((part["remark"] != "").sum())
        for name, parameter in PARAMETERS.items():
            known = part[name].dropna()
            row = {"center": center, "parameter": name, "unit": parameter.unit, "n": len(part), "n_known": len(known)}
            rows.append(row | {"median": known.quantile(0.5, interpolation="lower"), "n_suspect": suspect})
    return pd.DataFrame(rows)


def check_acquisition(table: pd.DataFrame) -> None:
    """Raise unless the table is one of `read_acquisition`: its columns, numbers or NaN, every subject once.

    Raises
    ------
    KeyError, TypeError, ValueError
        That name the column or the subject, what was expected and what came.
    """
    require_kind("table", table, pd.DataFrame, such_as="read_acquisition gives")
    require_columns(table, ACQUISITION_COLUMNS)
    if table.empty:
        raise ValueError("the table has no rows; expected at least one image")
    twice = table["subject"].duplicated()
    if twice.any():
        raise ValueError(f"subject {table.loc[twice, 'subject'].iloc[0]!r} is listed twice; expected one row an image")
    for name in PARAMETERS:
        if not pd.api.types.is_numeric_dtype(table[name]):
            came = show_value(table[name].iloc[0])
            raise TypeError(f"column {name!r} must hold numbers in {PARAMETERS[name].unit} or NaN, got {came}")
