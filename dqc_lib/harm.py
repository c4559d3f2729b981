"""Harmful samples: what they are, where they are placed in a cohort, and how they are written.

A sample is harmful if training on it raises misdiagnosis. The published study used two kinds, inversion and additive
noise, in two placements: whole centers that hold nothing else, and single images in otherwise good centers. The
artefacts are in `dqc_lib.artefacts`; the marks ``harm`` and ``placement`` are ground truth that no rule reads.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import partial
from zlib import crc32

import numpy as np
import pandas as pd

from dqc_lib.arguments import require_kind, require_names, require_number, require_path, require_whole
from dqc_lib.artefacts import HARMS
from dqc_lib.artefacts import HarmKind as HarmKind
from dqc_lib.cohort import BIDS_NAME, BIDS_PATTERN, Cohort, check_column, update_bids
from dqc_lib.marks import check_strength, describe_harm, parse_harm
from dqc_lib.notes import claim_folder, fingerprint_file
from dqc_lib.volumes import read_volume, write_volume

NOTE = "harm.json"


def apply_harm(
    array: np.ndarray,
    kind: str,
    *,
    strength: float | None = None,
    seed: int | np.random.SeedSequence | np.random.Generator = 0,
    maximum: float = 255,
) -> np.ndarray:
    """Return a harmed copy of an image; the array given is not changed.

    Parameters
    ----------
    array : ndarray of shape (I, J, K)
        Real, finite intensities from 0 to `maximum`, RAS axis order.
    kind : str
        A key of `HARMS`. "label flip" acts on the diagnosis (see `flip_label`) and leaves the image as it is.
    strength : float, optional
        From 0 (an equal copy) to the kind's `max_strength`; the kind's default if not given.
    seed : int, SeedSequence or Generator
        What random kinds draw from.
    maximum : float
        Top of the intensity scale. The noise is proportional to it, and everything is clipped to [0, maximum].

    Returns
    -------
    ndarray of shape (I, J, K)
        Same dtype as `array`; rounded to the nearest integer if that is an integer type.

    Raises
    ------
    KeyError
        If the kind is unknown.
    ValueError
        If the array is not 3-D and real, the strength is out of range, or `maximum` is not positive and finite.

    Notes
    -----
    What the published noise, N(0, 25) clipped to [0, 255], does depends on the intensity scale: a brain at 120 keeps
    its anatomy (signal 5 times the noise), one at 800 saturates to a white shape, one at 1 drowns. The scale assumed
    here is 0 to 255. The published uint8 conversion cuts decimals off; this one rounds, so it does not darken.

    Examples
    --------
    >>> apply_harm(np.array([[[0, 100, 255]]], dtype=np.uint8), "inversion").tolist()
    [[[255, 155, 0]]]
    """
    strength = check_strength(kind, strength)
    array = np.asarray(array)
    if array.ndim != 3 or array.size == 0 or array.dtype.kind not in "uif":
        raise ValueError(f"expected real voxels of shape (I, J, K); came {array.dtype} of shape {array.shape}")
    _check_maximum(maximum)
    if strength == 0 or not HARMS[kind].image:
        return array.copy()
    generator = np.random.default_rng(seed)
    image = array.astype(np.float64)
    harmed = HARMS[kind].artefact(image, strength=strength, maximum=maximum, generator=generator)
    if array.dtype.kind in "ui":
        np.rint(harmed, out=harmed)
        maximum = min(maximum, np.iinfo(array.dtype).max)
    return np.clip(harmed, 0, maximum).astype(array.dtype)


def _check_maximum(maximum: float) -> None:
    require_number("maximum", maximum)
    if not 0 < maximum < np.inf:
        raise ValueError(f"maximum must be positive and finite; came {maximum}")


def flip_label(diagnosis: int) -> int:
    """Return the other diagnosis: 0 for 1 (disease), 1 for 0 (control); a ValueError for anything else."""
    if diagnosis not in (0, 1):
        raise ValueError(f"diagnosis must be 1 (disease) or 0 (control); came {diagnosis!r}")
    return 1 - int(diagnosis)


def place_harm(
    cohort: Cohort,
    *,
    kind: str,
    centers: Iterable[str] | int = (),
    n_single: int = 0,
    strength: float | None = None,
    seed: int = 0,
    among: str = "train",
) -> Cohort:
    """Return the cohort with marks that say which subjects become harmful; `write_harmful` then does the harm.

    Call it again with another kind to mark more: a center with a harmful subject is not drawn from again.

    Parameters
    ----------
    cohort : Cohort
        Good, or marked by earlier calls. Where there are no roles, all subjects count as `among`.
    kind, strength
        As in `apply_harm`. A strength that is not the default is noted in the mark (`describe_harm`).
    centers : iterable of str, or int
        Centers that become harmful as a whole, by name, or how many to draw; placement "center".
    n_single : int
        Number of single harmful images, drawn without replacement from different good centers with at least two
        subjects; every subject there is equally likely once its center is drawn; placement "single".
    seed : int
        What is drawn depends on it, on the kind and on the names in the table, not on the order of rows.
    among : str
        Role in which harm is placed.

    Returns
    -------
    Cohort
        With ``harm`` (the mark, "" for good subjects) and ``placement`` ("", "center", "single").

    Raises
    ------
    KeyError, TypeError, ValueError
        If the kind is unknown; if `centers` is a single text; if the strength is out of range, no harm is asked for,
        a center is unknown, has no subject in that role or holds harm, or more is asked for than can be placed.
    """
    require_kind("cohort", cohort, Cohort, such_as="read_cohort gives")
    require_whole("n_single", n_single)
    require_whole("seed", seed, least=0)
    mark = describe_harm(kind, strength)
    if strength == 0 or (n_single == 0 and not centers):
        raise ValueError("expected some harm: a strength above 0, and centers or n_single; came none")
    table = cohort.table.copy()
    for column in ("harm", "placement"):
        table[column] = table.get(column, "")
    candidates = table[table["role"] == among] if "role" in table else table
    good = sorted(set(candidates["center"]) - set(table.loc[table["harm"] != "", "center"]))
    stream = np.random.SeedSequence([seed, crc32(kind.encode())])
    center_draw, single_draw = (np.random.default_rng(child) for child in stream.spawn(2))
    named = _choose_centers(good, cohort.centers, centers, center_draw)
    whole = candidates["center"].isin(named)
    table.loc[candidates.index[whole], ["harm", "placement"]] = [mark, "center"]
    rest = candidates[candidates["center"].isin(set(good) - set(named))]
    singles = _choose_singles(rest, n_single, single_draw)
    table.loc[table["subject"].isin(singles), ["harm", "placement"]] = [mark, "single"]
    return cohort.replace(table)


def _choose_centers(
    good: list[str], known: list[str], centers: Iterable[str] | int, generator: np.random.Generator
) -> list[str]:
    """Return the centers named, or as many as asked for drawn from the good ones."""
    if isinstance(centers, (int, np.integer)):
        if not 0 <= centers <= len(good):
            raise ValueError(f"expected 0 to {len(good)} centers, as many as are good and in that role; came {centers}")
        return [good[at] for at in generator.choice(len(good), size=centers, replace=False)]
    if isinstance(centers, str):
        raise TypeError(f"centers must be a list of names or a number; came the text {centers!r}")
    named = require_names("centers", centers)
    unknown = sorted(set(named) - set(known))
    if unknown:
        raise ValueError(f"unknown centers {unknown}; the cohort has {known}")
    refused = sorted(set(named) - set(good))
    if refused:
        raise ValueError(f"centers {refused} hold harmful subjects already, or no subject in that role")
    return named


def _choose_singles(table: pd.DataFrame, n_single: int, generator: np.random.Generator) -> list[str]:
    """Return subjects drawn from the table, each from another center with at least two subjects."""
    groups = [sorted(group) for _, group in table.groupby("center")["subject"] if len(group) >= 2]
    if not 0 <= n_single <= len(groups):
        raise ValueError(
            f"{len(groups)} single harmful images are possible (one in each good center with at least two subjects in "
            f"that role); came n_single={n_single}"
        )
    drawn = [groups[at] for at in generator.choice(len(groups), size=n_single, replace=False)] if n_single else []
    return [group[generator.integers(len(group))] for group in drawn]


def write_harmful(
    cohort: Cohort,
    folder: str | os.PathLike,
    *,
    seed: int = 0,
    maximum: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Cohort:
    """Write the images of the harmful subjects, harmed, and return the cohort that points at them.

    Do it once, after all calls of `place_harm`: a second time would harm what is harmed already. A folder that holds
    the same harm of the same files is read instead of written again; where center, sex, age, scanner, role or placement
    are others now, its table follows.

    Parameters
    ----------
    cohort : Cohort
        Marked by `place_harm`; its paths point at the good images.
    folder : path
        Becomes a BIDS folder of the harmful subjects alone, readable with `read_bids`; its ``participants.tsv`` is
        written last. Images have RAS axis order, voxel type and place in space (mm) as read. The image of a flipped
        label is written as it is.
    seed : int
        With the subject's name it gives the subject's random numbers, whatever the order and company.
    maximum : float, optional
        Top of the intensity scale. If not given, 255 for 8-bit images, and for all others the 99.9th percentile of
        their positive voxels.
    progress : callable, optional
        Called as ``progress(done, total)`` after every image.

    Returns
    -------
    Cohort
        All subjects: paths of harmful ones in `folder`, diagnoses of flipped labels exchanged, the rest as it was.

    Raises
    ------
    FileExistsError, KeyError, ValueError
        If the folder holds another cohort, other harm, any other file or a damaged table; if a mark is not one of
        `describe_harm`; if no subject is harmful or one is not named "sub-...", `maximum` is not positive and finite,
        an image is negative somewhere, or harming leaves it without contrast. Nothing is written before arguments,
        marks, names, folder and images are checked.
    """
    require_kind("cohort", cohort, Cohort, such_as="place_harm gives")
    require_whole("seed", seed, least=0)
    if maximum is not None:
        _check_maximum(maximum)
    root = require_path("folder", folder).resolve()
    if not cohort.harmful:
        raise ValueError("expected harmful subjects (place_harm marks them), came none")
    table = cohort.table.copy()
    rows = table.index[table["subject"].isin(cohort.harmful)]
    named = table.loc[rows, "subject"].str.fullmatch(BIDS_PATTERN)
    check_column(table.loc[rows], "subject", named, f"{BIDS_NAME}, the folder being a BIDS folder")
    marks = {row: parse_harm(table.at[row, "harm"]) for row in rows}
    wanted = {
        "seed": seed,
        "maximum": maximum,
        "harm": dict(cohort.table.loc[rows, ["subject", "harm"]].values),
        "diagnosis": {table.at[row, "subject"]: int(table.at[row, "diagnosis"]) for row in rows},
        "source": {table.at[row, "subject"]: fingerprint_file(table.at[row, "path"]) for row in rows},
    }
    harm = partial(_harm_image, seed=seed, maximum=maximum)
    if not (root / NOTE).exists():  # before the folder is claimed for these files: one of them may have to be mended
        for row in rows:
            harm(table.at[row, "path"], *marks[row], subject=table.at[row, "subject"])
    claim_folder(root, NOTE, wanted, of="harm")
    there = (root / "participants.tsv").exists()
    for done, row in enumerate(rows, start=1):
        (kind, strength), subject = marks[row], table.at[row, "subject"]
        path = root / subject / "anat" / f"{subject}_T1w.nii.gz"
        if not there:
            array, affine = harm(table.at[row, "path"], kind, strength, subject=subject)
            write_volume(path, array, affine=affine)
        table.at[row, "path"] = str(path)
        if not HARMS[kind].image:
            table.at[row, "diagnosis"] = flip_label(table.at[row, "diagnosis"])
        if progress is not None:
            progress(done, len(rows))
    update_bids(Cohort(table.loc[rows], root), root)
    return cohort.replace(table)


def _harm_image(
    source: str, kind: str, strength: float, *, seed: int, maximum: float | None, subject: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the harmed image of a subject and its affine, or say why it cannot be harmed."""
    volume = read_volume(source, subject=subject)
    top = _find_maximum(volume.array, subject=subject) if maximum is None else maximum
    stream = np.random.SeedSequence([seed, crc32(subject.encode())])
    array = apply_harm(volume.array, kind, strength=strength, seed=stream, maximum=top)
    if array.min() == array.max():
        raise ValueError(f"subject {subject!r}: {kind!r} at strength {strength:g} leaves an image without contrast")
    return array, volume.affine


def _find_maximum(array: np.ndarray, *, subject: str) -> float:
    """Return the top of an image's intensity scale: 255 for 8 bits, otherwise what is bright in it."""
    if array.min() < 0:
        raise ValueError(f"subject {subject!r}: expected intensities from 0 up, came {array.min()}; rescale it first")
    return 255.0 if array.dtype == np.uint8 else float(np.percentile(array[array > 0], 99.9))
