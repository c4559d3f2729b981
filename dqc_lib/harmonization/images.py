"""A cohort's images made comparable, in a BIDS folder of their own, and what tells the images of centers apart."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dqc_lib.arguments import require_kind, require_names, require_path
from dqc_lib.aside import write_json
from dqc_lib.cohort import BIDS_NAME, BIDS_PATTERN, Cohort, check_column, update_bids
from dqc_lib.harmonization.intensity import (
    PERCENTILES,
    IntensityStandard,
    combine_landmarks,
    correct_bias,
    measure_landmarks,
    standardize_intensity,
    summarize_landmarks,
)
from dqc_lib.notes import claim_folder, fingerprint_file
from dqc_lib.volumes import read_volume, write_volume

IMAGE_STEPS = ("bias", "intensity")
"""What can be done to the images, in this order: N4 (`correct_bias`), and `standardize_intensity`."""
NOTE = "harmonization.json"
METHOD = 1
"""Raised whenever the same images would be written otherwise, so that folders of before are not taken for it."""
WORK = "derivatives"
HALVES = (("left", "right"), ("back", "front"), ("low", "high"))


def harmonize_images(
    cohort: Cohort,
    folder: str | os.PathLike,
    *,
    steps: Iterable[str] = IMAGE_STEPS,
    progress: Callable[[int, int], None] | None = None,
) -> Cohort:
    """Write a cohort's images, harmonized, and return the cohort that points at them; the images read stay as they are.

    Each center works on its own images. All that leaves it are `summarize_landmarks` of its training images, eleven
    numbers and how many images they are of; images of other roles are brought to the standard, which never sees them.
    A folder that holds the same is read instead of written again, and one that was left half-way is finished. Where the
    cohort says something else of its subjects now, a diagnosis or a mark, the table follows and the images stay.

    Parameters
    ----------
    cohort : Cohort
        Where there are no roles, all subjects help to find the standard.
    folder : path
        Becomes a BIDS folder, readable with `read_bids`; ``harmonization.json`` notes what made it, and
        ``participants.tsv`` is written last. Images have RAS axis order, voxel type and place in space (mm) as read;
        integers are rounded to and clipped at what their type holds.
    steps : iterable of str
        Any of `IMAGE_STEPS`, done in that order.
    progress : callable, optional
        Called as ``progress(done, total)`` after every image.

    Returns
    -------
    Cohort
        All subjects, with the paths of the new images and the rest as it was, marks of harm included.

    Raises
    ------
    FileExistsError, ValueError
        If the folder holds anything else or its table is damaged; if a step is unknown or there is none, a subject is
        not named "sub-...", or an image is negative somewhere or without contrast, which is named. Nothing is written
        before all images are checked.
    """
    require_kind("cohort", cohort, Cohort, such_as="read_cohort gives")
    asked = require_names("steps", steps)
    if not asked or set(asked) - set(IMAGE_STEPS):
        raise ValueError(f"steps must be some of {IMAGE_STEPS}, got {asked!r}")
    root = require_path("folder", folder).resolve()
    table = cohort.table.copy()
    named = table["subject"].str.fullmatch(BIDS_PATTERN)
    check_column(table, "subject", named, f"{BIDS_NAME}, the folder being a BIDS folder")
    wanted = {"steps": [step for step in IMAGE_STEPS if step in asked], "method": METHOD}
    training = table["subject"][table["role"] == "train"] if "role" in table else table["subject"]
    wanted["training"] = sorted(training)
    wanted["source"] = {row.subject: fingerprint_file(row.path) for row in table.itertuples()}
    sources = table.set_index("subject")["path"].to_dict()
    if not (root / NOTE).exists():  # before the folder is claimed for these files: one of them may have to be mended
        _for_each(partial(_measure_image, sources), list(sources))
    claim_folder(root, NOTE, wanted, of="harmonized images")
    there = (root / "participants.tsv").exists()
    table["path"] = [str(root / name / "anat" / f"{name}_T1w.nii.gz") for name in table["subject"]]
    if not there:
        _write_images(cohort.replace(table), sources, root, wanted, progress=progress)
    else:
        update_bids(Cohort(table, root), root)  # what it says of the subjects may have been corrected
    return cohort.replace(table)


def _write_images(
    cohort: Cohort, sources: Mapping[str, str], root: Path, wanted: Mapping[str, Any], *, progress
) -> None:
    """Write what is missing: images without their bias field first, since the standard is learnt from those."""
    subjects, work = list(sources), root / WORK
    if "bias" in wanted["steps"]:
        corrected = {name: str(work / f"{name}_T1w.nii.gz") for name in subjects}
        _for_each(partial(_correct_image, sources, corrected), subjects)
    else:
        corrected = sources
    standard = None
    if "intensity" in wanted["steps"]:
        standard = _find_standard(cohort, corrected, set(wanted["training"]))
        write_json(
            root / "standard.json", {"percentiles": PERCENTILES, "landmarks": standard.landmarks, "n": standard.n}
        )
    targets = cohort.table.set_index("subject")["path"].to_dict()
    _for_each(partial(_finish_image, sources, corrected, targets, standard), subjects, progress=progress)
    update_bids(Cohort(cohort.table, root), root)  # last: its presence says that every image is there
    shutil.rmtree(work, ignore_errors=True)


def _for_each(work: Callable[[str], object], subjects: list[str], *, progress=None) -> list:
    """Return what the work gives for every subject, several at a time: SimpleITK releases the interpreter lock."""
    results = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done, result in enumerate(pool.map(work, subjects), start=1):
            results.append(result)
            if progress is not None:
                progress(done, len(subjects))
    return results


def _measure_image(paths: Mapping[str, str], subject: str) -> np.ndarray:
    """Return the landmarks of a subject's image, or say why it cannot be harmonized."""
    return _name_culprit(subject, measure_landmarks, read_volume(paths[subject], subject=subject).array)


def _correct_image(sources: Mapping[str, str], targets: Mapping[str, str], subject: str) -> None:
    if not Path(targets[subject]).exists():
        volume = read_volume(sources[subject], subject=subject)
        corrected = _name_culprit(subject, correct_bias, volume.array)
        write_volume(targets[subject], corrected, affine=volume.affine, dtype=np.float32)


def _find_standard(cohort: Cohort, paths: Mapping[str, str], training: set[str]) -> IntensityStandard:
    """Return the standard of the training images, each center sending its summary."""
    chosen = cohort.table[cohort.table["subject"].isin(training)]
    measured = _for_each(partial(_measure_image, paths), list(chosen["subject"]))
    marks = dict(zip(chosen["subject"], measured, strict=True))
    homes = chosen.groupby("center", sort=False)["subject"]
    return combine_landmarks({center: summarize_landmarks(marks[name] for name in names) for center, names in homes})


def _finish_image(
    sources: Mapping[str, str],
    corrected: Mapping[str, str],
    targets: Mapping[str, str],
    standard: IntensityStandard | None,
    subject: str,
) -> None:
    if Path(targets[subject]).exists():
        return
    volume, kind = read_volume(corrected[subject], subject=subject), read_volume(sources[subject]).array.dtype
    array = volume.array.astype(np.float64)
    if standard is not None:
        array = _name_culprit(subject, standardize_intensity, array, standard)
    if kind.kind in "iu":
        array = np.clip(array, 0, np.iinfo(kind).max)
    write_volume(targets[subject], array, affine=volume.affine, dtype=kind)


def _name_culprit(subject: str, work: Callable[..., np.ndarray], *arguments) -> np.ndarray:
    try:
        return work(*arguments)
    except ValueError as error:
        raise ValueError(f"subject {subject!r}: {error}") from None


def describe_intensities(cohort: Cohort) -> pd.DataFrame:
    """Return what tells a cohort's images apart without knowing what is on them, one row a subject.

    Returns
    -------
    DataFrame
        Index subject; columns "percentile 1" to "percentile 99" of the foreground and "roughness" (mean absolute
        difference of neighbours in it: noise and blur), in intensity units, and "left back low" to "right front high",
        the mean of an eighth of it as a factor on that of all (shading; NaN where it holds none of it).
    """
    require_kind("cohort", cohort, Cohort, such_as="read_cohort gives")
    paths = cohort.table.set_index("subject")["path"].to_dict()

    def describe(subject: str) -> dict[str, float]:
        return _describe_image(read_volume(paths[subject], subject=subject).array)

    rows = dict(zip(paths, _for_each(describe, list(paths)), strict=True))
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("subject")


def _describe_image(array: np.ndarray) -> dict[str, float]:
    values = array.astype(np.float64)
    inside = values > 0
    marks = measure_landmarks(array)
    found = {f"percentile {percent:g}": mark for percent, mark in zip(PERCENTILES, marks, strict=True)}
    for number in range(8):
        sides = [(number >> axis) & 1 for axis in range(3)]
        part = tuple(
            slice(size // 2, None) if side else slice(size // 2) for size, side in zip(array.shape, sides, strict=True)
        )
        name = " ".join(pair[side] for pair, side in zip(HALVES, sides, strict=True))
        held = values[part][inside[part]]
        found[name] = held.mean() / values[inside].mean() if held.size else np.nan
    steps = [np.abs(np.diff(values, axis=axis))[_pair_up(inside, axis)] for axis in range(3)]
    found["roughness"] = np.concatenate(steps).mean()
    return found


def _pair_up(inside: np.ndarray, axis: int) -> np.ndarray:
    """Return where a voxel and the next one along an axis both are inside."""
    before, after = np.delete(inside, -1, axis), np.delete(inside, 0, axis)
    return before & after
