"""Headers of a simulated cohort: BIDS sidecars and DICOM files, with the faults that real cohorts have.

Simulated through and through. The parameters say nothing of the phantoms beside them: no contrast was computed from a
repetition time. What is true is the table that `write_headers` returns; a reader sees the files alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from zlib import crc32

import numpy as np
import pandas as pd

from dqc_lib.arguments import require_kind, require_path, require_whole
from dqc_lib.aside import write_aside
from dqc_lib.cohort import BIDS_NAME, BIDS_PATTERN, Cohort, check_column
from dqc_lib.cohort.paths import check_inside, list_own_folders
from dqc_lib.notes import claim_folder

FAULTS = ("deviating", "milliseconds", "incomplete", "changed")
STUDY = {"repetition_time": 2.3, "echo_time": 0.003, "flip_angle": 9.0, "field_strength": 3.0}
SPREAD = {"repetition_time": 0.03, "echo_time": 0.0002, "flip_angle": 0.0, "field_strength": 0.0}
"""How far centers that keep to the protocol lie from it at most: vendors round differently."""
OTHERS = ({"flip_angle": 15.0}, {"repetition_time": 1.9, "echo_time": 0.0041, "field_strength": 1.5})
"""What deviating centers have instead, in turns."""
CHANGED = {"echo_time": 0.0045}
"""What the second half of a center's images has after an upgrade."""
KEYS = {
    "repetition_time": "RepetitionTime",
    "echo_time": "EchoTime",
    "flip_angle": "FlipAngle",
    "field_strength": "MagneticFieldStrength",
}
LEFT_OUT = ("flip_angle", "field_strength")  # of incomplete sidecars


@dataclass(frozen=True)
class HeaderRecipe:
    """How many centers have which fault; all others keep to the protocol of the study.

    Parameters
    ----------
    deviating : int
        Centers with another protocol.
    milliseconds : int
        Centers that write times in ms where BIDS asks for s; the protocol is kept.
    incomplete : int
        Centers whose sidecars lack flip angle and field strength; the protocol is kept.
    changed : int
        Centers whose protocol changed half-way: the second half of their images, by the subjects' names, deviates.
    dicom : int
        Centers with DICOM files in place of sidecars; the protocol is kept, and the files name a patient.
    seed : int
    """

    deviating: int = 2
    milliseconds: int = 1
    incomplete: int = 1
    changed: int = 1
    dicom: int = 2
    seed: int = 2025

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            require_whole(f"HeaderRecipe.{name}", value, least=0)


def draw_headers(cohort: Cohort, *, recipe: HeaderRecipe | None = None) -> pd.DataFrame:
    """Return how every image of a cohort was acquired in truth, and what is wrong with its headers.

    Parameters
    ----------
    cohort : Cohort
        A fault is drawn for centers with at least two subjects. The order of rows changes nothing.
    recipe : HeaderRecipe, optional

    Returns
    -------
    DataFrame
        One row an image: subject, center, fault ("" for none, or one of `FAULTS`), dicom (whether the headers are DICOM
        files), repetition_time and echo_time (s), flip_angle (degrees), field_strength (T).

    Raises
    ------
    ValueError
        If there are fewer such centers than the recipe asks for.
    """
    require_kind("cohort", cohort, Cohort, such_as="read_cohort gives")
    recipe = recipe or HeaderRecipe()
    require_kind("recipe", recipe, HeaderRecipe, such_as="HeaderRecipe(seed=2025)")
    faults = _draw_faults(cohort, recipe)
    rows = []
    for center, part in cohort.table.sort_values("subject").groupby("center", sort=False):
        fault, own = faults.get(center, ("", {}))
        rng = np.random.default_rng([recipe.seed, crc32(center.encode())])
        usual = {name: round(value + SPREAD[name] * rng.uniform(-1, 1), 5) for name, value in STUDY.items()} | own
        for at, row in enumerate(part.itertuples()):
            late = fault == "changed" and at >= len(part) / 2
            told = {"subject": row.subject, "center": center, "dicom": fault == "dicom"}
            rows.append(told | {"fault": fault if fault in FAULTS else ""} | usual | (CHANGED if late else {}))
    table = pd.DataFrame(rows).set_index("subject").loc[cohort.table["subject"]].reset_index()
    return table[["subject", "center", "fault", "dicom", *STUDY]]


def _draw_faults(cohort: Cohort, recipe: HeaderRecipe) -> dict[str, tuple[str, dict[str, float]]]:
    """Return fault and values of their own for the centers that are drawn."""
    kinds = [kind for kind in (*FAULTS, "dicom") for _ in range(getattr(recipe, kind))]
    sizes = cohort.table["center"].value_counts()
    able = sorted(sizes.index[sizes >= 2])
    if len(kinds) > len(able):
        raise ValueError(f"{len(able)} centers have two subjects or more; expected {len(kinds)}, one for every fault")
    drawn = np.random.default_rng([recipe.seed, crc32(b"faults")]).permutation(able)[: len(kinds)]
    faults = {str(center): (kind, {}) for center, kind in zip(drawn, kinds, strict=True)}
    for turn, center in enumerate(center for center, (kind, _) in faults.items() if kind == "deviating"):
        faults[center] = ("deviating", OTHERS[turn % len(OTHERS)])
    return faults


def write_headers(
    cohort: Cohort, folder: str | os.PathLike, *, recipe: HeaderRecipe | None = None
) -> tuple[Path, pd.DataFrame]:
    """Write simulated headers of a cohort's images beside no image, and return the folder and the truth.

    Sidecars lie where a BIDS folder has them, in folders named as those of the images (`sub-*/anat/sub-*_T1w.json`; one
    `T1w.json` for all), DICOM files without pixels in `sourcedata/sub-*`. A folder that holds the same headers, values
    and vendors included, is completed, not written anew.

    Parameters
    ----------
    cohort : Cohort
        Its subjects are named "sub-...", its images lie in the folders of their subjects.
    folder : path
        Made if missing.
    recipe : HeaderRecipe, optional

    Returns
    -------
    Path, DataFrame
        The folder, and the table of `draw_headers`.

    Raises
    ------
    FileExistsError
        If the folder holds other headers, or anything else.
    ValueError
        If a subject has another name, an image lies in no folder of its subject, or a file would lie outside `folder`.
    """
    recipe = recipe or HeaderRecipe()
    truth = draw_headers(cohort, recipe=recipe)
    table = cohort.table
    check_column(table, "subject", table["subject"].str.fullmatch(BIDS_PATTERN), f"{BIDS_NAME}, for a folder's name")
    folders = [list_own_folders(path, subject) for path, subject in table[["path", "subject"]].values]
    check_column(table, "path", [bool(one) for one in folders], "an image in a folder named after its subject")
    root = require_path("folder", folder).resolve()
    images = truth.assign(scanner=table["scanner"])
    images["file"] = [_name_header(*row) for row in zip(truth.itertuples(), table["path"], folders, strict=True)]
    for row in images.itertuples():
        check_inside(root / row.file, [root], where=f"subject {row.subject!r}")
    wanted = {"recipe": asdict(recipe), "images": images.sort_values("subject").to_dict("records")}
    claim_folder(root, "headers.json", wanted, of="headers")
    note = {"Modality": "MR", "AcquisitionIsSimulated": True}
    _write_missing(root / "T1w.json", partial(_write_sidecar, content=note))
    for row in images.itertuples():
        write = partial(_write_dicom, row=row) if row.dicom else partial(_write_sidecar, content=_fill_sidecar(row))
        _write_missing(root / row.file, write)
    return root, truth


def _name_header(row: tuple, image: str, folders: tuple[str, ...]) -> str:
    """Return where below its folder the header of an image lies."""
    stem = Path(image).name.removesuffix(".gz").removesuffix(".nii")
    return f"sourcedata/{row.subject}/0001.dcm" if row.dicom else "/".join([*folders, f"{stem}.json"])


def _write_missing(path: Path, write: Callable[[Path], object]) -> None:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_aside(path, write, durable=False)  # many small files that can be written again at any time


def _write_sidecar(path: Path, *, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8", newline="\n")


def _fill_sidecar(row: tuple) -> dict:
    """Return the content of a sidecar, with its fault."""
    values = {name: getattr(row, name) for name in KEYS}
    if row.fault == "milliseconds":
        values |= {name: round(1000 * values[name], 3) for name in ("repetition_time", "echo_time")}
    kept = [name for name in KEYS if row.fault != "incomplete" or name not in LEFT_OUT]
    return {"Manufacturer": row.scanner, "ManufacturersModelName": "simulated"} | {
        KEYS[name]: values[name] for name in kept
    }


def _write_dicom(path: Path, *, row: tuple) -> None:
    """Write a DICOM file without pixels that names its patient, as files from a scanner do."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, MRImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[row.center, row.subject])  # no clock in it
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.is_little_endian, dataset.is_implicit_VR = True, False
    dataset.SOPClassUID, dataset.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
    dataset.PatientName, dataset.PatientID = f"Invented^{row.subject}", row.subject
    dataset.PatientBirthDate = "19500101"
    dataset.Modality, dataset.Manufacturer, dataset.ManufacturerModelName = "MR", row.scanner, "simulated"
    dataset.RepetitionTime, dataset.EchoTime = round(1000 * row.repetition_time, 3), round(1000 * row.echo_time, 3)
    dataset.FlipAngle, dataset.MagneticFieldStrength = row.flip_angle, row.field_strength
    dataset.save_as(path, write_like_original=False)
