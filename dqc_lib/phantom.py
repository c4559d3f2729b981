"""Brain phantoms of many centers: the MNI152 template, warped, aged, diseased and scanned.

Every subject is the MNI152 2009 T1 template under a random smooth diffeomorphic warp. Four effects are laid on top,
each with a strength of its own in `Recipe`: disease shrinks and darkens a deep bilateral region, ageing widens the
ventricles, sex scales the head, and each center's scanner has its own contrast, bias field, noise and resolution.
Nothing here is a patient: the phantoms show how a method behaves, not how a disease does.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from zlib import crc32

import numpy as np
import pandas as pd

from dqc_lib.cohort import Cohort, read_bids, write_bids
from dqc_lib.volumes import write_volume

FIELD_OF_VIEW = (160.0, 192.0, 160.0)  # mm, as the published 160 x 192 x 160 volumes of 1 mm
CENTRE = (0.0, -18.0, 4.0)  # mm in MNI space: the middle of the field of view
VENTRICLES = ((-10.0, -12.0, 20.0), (10.0, -12.0, 20.0))  # bodies of the lateral ventricles, mm
DEEP_REGION = ((-22.0, 2.0, 0.0), (22.0, 2.0, 0.0))  # putamen, mm
SAMPLE_CENTERS = ((15, 15), (12, 10), (9, 9), (10, 6), (6, 10), (7, 5), (5, 6), (0, 9), (8, 0), (3, 3), (0, 3), (1, 1))
"""Subjects with and without the disease in each of the twelve centers of `data_samples/`."""


@dataclass(frozen=True)
class Recipe:
    """What the phantoms are made of; the same recipe and seed give the same volumes, bit for bit.

    Parameters
    ----------
    disease : float
        Standardized difference (Cohen's d) of the latent severity between diseased and control subjects. No reader
        can do better than an AUROC of Phi(d / sqrt(2)): 0.90 for the default.
    ageing, sex, scanner, anatomy : float
        Factors on the default strength of the effect; 0 switches it off.
    shape : tuple of int
        Voxels along i, j, k; the field of view is always 160 x 192 x 160 mm.
    seed : int
        Seed of everything random.
    """

    disease: float = 1.8
    ageing: float = 1.0
    sex: float = 1.0
    scanner: float = 1.0
    anatomy: float = 1.0
    shape: tuple[int, int, int] = (40, 48, 40)
    seed: int = 2025

    def __post_init__(self) -> None:
        for name in ("disease", "ageing", "sex", "scanner", "anatomy"):
            if not (np.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"Recipe.{name} must be a finite number >= 0, got {getattr(self, name)!r}")
        if len(self.shape) != 3 or min(self.shape) < 8:
            raise ValueError(f"Recipe.shape must be three sizes of at least 8 voxels, got {self.shape!r}")

    @property
    def affine(self) -> np.ndarray:
        """Voxel index to mm (RAS), shape (4, 4)."""
        spacing = np.asarray(FIELD_OF_VIEW) / self.shape
        affine = np.diag([*spacing, 1.0])
        affine[:3, 3] = np.asarray(CENTRE) - spacing * (np.asarray(self.shape) - 1) / 2
        return affine


def read_published_sites() -> pd.DataFrame:
    """Return the 83 centers of the published cohort: vendor, and subjects by role, class and sex.

    Returns
    -------
    DataFrame
        One row per site: site, scanner_vendor, train_pd, train_hc, train_male, test_pd, test_hc, test_male (counts of
        subjects). Source: the site counts of the repository RaissaSouza/fedTM, as plain numbers.
    """
    return pd.read_csv(str(files("dqc_lib") / "data" / "sites_83.tsv"), sep="\t")


def draw_subjects(sites: str | Iterable[tuple[int, int]] = "sample", *, seed: int = 2025) -> pd.DataFrame:
    """Return the participants of a phantom cohort, without images.

    Parameters
    ----------
    sites : "sample", "published" or iterable of (int, int)
        The twelve centers of `data_samples/`, the 83 published centers (1,410 training and 407 test subjects, with a
        `role` column), or the numbers of subjects with and without the disease in each center.
    seed : int
        Seed of age, sex and scanner vendor.

    Returns
    -------
    DataFrame
        Columns subject, center, diagnosis (1 = disease), sex, age (years), scanner, and role for the published sites.
    """
    rng = np.random.default_rng([seed, crc32(b"subjects")])
    if isinstance(sites, str) and sites == "published":
        rows = _published_rows(rng)
    elif isinstance(sites, str) and sites != "sample":
        raise ValueError(f"sites must be 'sample', 'published' or pairs of counts, got {sites!r}")
    else:
        rows = _rows_of_counts(SAMPLE_CENTERS if isinstance(sites, str) else list(sites), rng)
    table = pd.DataFrame(rows)
    table.insert(0, "subject", [f"sub-{number:04d}" for number in range(1, len(table) + 1)])
    table["age"] = np.round(np.clip(rng.normal(64.0, 9.0, len(table)), 40.0, 88.0), 1)
    return table


def _published_rows(rng: np.random.Generator) -> list[dict]:
    rows = []
    for site in read_published_sites().itertuples():
        for role in ("train", "test"):
            n_disease, n_control, n_male = (getattr(site, f"{role}_{name}") for name in ("pd", "hc", "male"))
            diagnoses = np.r_[np.ones(n_disease, int), np.zeros(n_control, int)]
            sexes = rng.permutation(np.r_[np.full(n_male, "M"), np.full(len(diagnoses) - n_male, "F")])
            rows += [
                {
                    "center": site.site,
                    "diagnosis": diagnosis,
                    "sex": str(sex),
                    "scanner": site.scanner_vendor,
                    "role": role,
                }
                for diagnosis, sex in zip(diagnoses, sexes, strict=True)
            ]
    return rows


def _rows_of_counts(counts: list[tuple[int, int]], rng: np.random.Generator) -> list[dict]:
    rows = []
    for number, (n_disease, n_control) in enumerate(counts, start=1):
        vendor = f"vendor {'ABC'[(number - 1) % 3]}"
        for diagnosis in [1] * n_disease + [0] * n_control:
            sex = "M" if rng.random() < (0.6 if diagnosis else 0.45) else "F"
            rows.append({"center": f"center-{number:02d}", "diagnosis": diagnosis, "sex": sex, "scanner": vendor})
    return rows


def paint_phantom(
    subject: str, *, center: str, diagnosis: int, sex: str, age: float, scanner: str, recipe: Recipe
) -> np.ndarray:
    """Return the T1-weighted volume of one phantom.

    The same subject name always has the same anatomy, so that calling it with the other `diagnosis`, `age`, `sex` or
    `center` gives the counterfactual twin: the same brain, had it been healthy, older, or scanned elsewhere.

    Parameters
    ----------
    subject, center, scanner : str
        Names; they seed the anatomy, the center's machine and the vendor's contrast.
    diagnosis : int
        1 adds the disease, 0 does not.
    sex : {"F", "M"}
    age : float
        Years; the ventricles of a 64-year-old are those of the template.
    recipe : Recipe

    Returns
    -------
    ndarray of uint8, recipe.shape
        Intensities 0 to 255, brain around 120, background 0.
    """
    rng = np.random.default_rng([recipe.seed, crc32(f"subject {subject}".encode())])
    warp = _draw_warp(rng, strength=recipe.anatomy)
    severity = np.clip(rng.normal() + recipe.disease * (diagnosis - 0.5), -3.0, 3.0)
    size, noise_seed = rng.normal(), rng.integers(2**32)
    grid = _sample_grid(recipe)
    scale = 1.0 + recipe.sex * (0.02 if sex == "M" else -0.02) + recipe.anatomy * 0.015 * size
    points = _interpolate_warp(warp, grid) / scale
    points += _swell(
        points, VENTRICLES, radius=16.0, strength=recipe.ageing * np.clip(0.016 * (age - 64.0), -0.35, 0.35)
    )
    points += _swell(points, DEEP_REGION, radius=10.0, strength=-0.12 * severity)
    brain = _sample_template(points)
    brain *= 1.0 - 0.25 * severity * _proximity(points, DEEP_REGION, radius=10.0)
    return _scan(brain, center=center, scanner=scanner, recipe=recipe, rng=np.random.default_rng(noise_seed))


@lru_cache(maxsize=1)
def _template() -> tuple[np.ndarray, np.ndarray]:
    """The template at 2 mm, smoothed against aliasing, in [0, 1]; and its inverse affine."""
    from nilearn.datasets import load_mni152_template
    from scipy.ndimage import gaussian_filter

    image = load_mni152_template(resolution=2)
    return gaussian_filter(image.get_fdata().astype(np.float64), 0.6), np.linalg.inv(image.affine)


@lru_cache(maxsize=4)
def _sample_grid(recipe: Recipe) -> np.ndarray:
    """Positions of the voxels relative to the middle of the field of view, mm, shape (3, I, J, K)."""
    index = np.indices(recipe.shape, dtype=np.float64)
    spacing = np.diag(recipe.affine)[:3].reshape(3, 1, 1, 1)
    return (index - (np.asarray(recipe.shape).reshape(3, 1, 1, 1) - 1) / 2) * spacing


WARP_SHAPE = (20, 24, 20)  # the warp is smooth: 8 mm is enough


def _draw_warp(rng: np.random.Generator, *, strength: float) -> np.ndarray:
    """Displacement in mm on the coarse grid, (3, 20, 24, 20): the exponential of a smooth stationary velocity field,
    so a diffeomorphism.

    Scaling and squaring, Arsigny et al. 2006, doi 10.1007/11866565_113.
    """
    from scipy.ndimage import gaussian_filter, map_coordinates

    velocity = np.stack([gaussian_filter(rng.normal(size=WARP_SHAPE), 2.5, mode="constant") for _ in range(3)])
    velocity *= 2.8 * strength / velocity.std()
    voxel = np.asarray(FIELD_OF_VIEW) / WARP_SHAPE
    displacement = velocity / voxel.reshape(3, 1, 1, 1) / 2**4
    index = np.indices(WARP_SHAPE, dtype=np.float64)
    for _ in range(4):
        there = index + displacement
        displacement = displacement + np.stack(
            [map_coordinates(d, there, order=1, mode="nearest") for d in displacement]
        )
    return displacement * voxel.reshape(3, 1, 1, 1)


def _interpolate_warp(warp: np.ndarray, grid: np.ndarray) -> np.ndarray:
    from scipy.ndimage import map_coordinates

    voxel = np.asarray(FIELD_OF_VIEW).reshape(3, 1, 1, 1) / np.asarray(WARP_SHAPE).reshape(3, 1, 1, 1)
    index = grid / voxel + (np.asarray(WARP_SHAPE).reshape(3, 1, 1, 1) - 1) / 2
    return grid + np.stack([map_coordinates(component, index, order=1, mode="nearest") for component in warp])


def _proximity(points: np.ndarray, places: Iterable[tuple[float, float, float]], *, radius: float) -> np.ndarray:
    """Sum of Gaussians of the distance to the places (mm in MNI space), shape (I, J, K), close to 1 at each place."""
    offset = np.asarray(CENTRE)
    return sum(np.exp(-0.5 * _squared_distance(points, np.asarray(place) - offset) / radius**2) for place in places)


def _swell(
    points: np.ndarray, places: Iterable[tuple[float, float, float]], *, radius: float, strength: float
) -> np.ndarray:
    """Displacement (mm) of the sampling points that magnifies (strength > 0) or shrinks what lies within `radius` mm
    of the places."""
    shift = np.zeros_like(points)
    for place in places:
        offset = (np.asarray(place) - np.asarray(CENTRE)).reshape(3, 1, 1, 1)
        shift -= strength * (points - offset) * np.exp(-0.5 * _squared_distance(points, offset.ravel()) / radius**2)
    return shift


def _squared_distance(points: np.ndarray, place: np.ndarray) -> np.ndarray:
    return sum((component - coordinate) ** 2 for component, coordinate in zip(points, place, strict=True))


def _sample_template(points: np.ndarray) -> np.ndarray:
    from scipy.ndimage import map_coordinates

    template, inverse = _template()
    index = np.tensordot(inverse[:3, :3], points + np.asarray(CENTRE).reshape(3, 1, 1, 1), axes=1) + inverse[
        :3, 3
    ].reshape(3, 1, 1, 1)
    return map_coordinates(template, index, order=1, mode="constant", cval=0.0)


def _scan(brain: np.ndarray, *, center: str, scanner: str, recipe: Recipe, rng: np.random.Generator) -> np.ndarray:
    """Contrast, bias field, resolution and noise of the center's machine; background back to 0 (skull-stripped, as
    the paper's data)."""
    from scipy.ndimage import gaussian_filter

    vendor = np.random.default_rng([recipe.seed, crc32(f"vendor {scanner}".encode())])
    machine = np.random.default_rng([recipe.seed, crc32(f"center {center}".encode())])
    gamma = np.exp(recipe.scanner * (0.05 * vendor.normal() + 0.04 * machine.normal()))
    gain = np.exp(recipe.scanner * 0.04 * machine.normal())
    blur = recipe.scanner * machine.uniform(0.0, 0.4)
    noise = recipe.scanner * machine.uniform(1.5, 3.5)
    slope = recipe.scanner * 0.06 * machine.normal(size=6)
    mask = brain > 0.1
    u, v, w = (
        np.linspace(-1.0, 1.0, n).reshape(np.eye(3, dtype=int)[axis] * (n - 1) + 1)
        for axis, n in enumerate(brain.shape)
    )
    field = np.exp(slope[0] * u + slope[1] * v + slope[2] * w + slope[3] * u * v + slope[4] * v * w + slope[5] * w * w)
    image = 190.0 * gain * gaussian_filter(np.clip(brain, 0.0, None) ** gamma, blur) * field
    image += noise * rng.normal(size=image.shape)
    return np.where(mask, np.clip(np.rint(image), 1, 255), 0).astype(np.uint8)


def write_phantoms(
    folder: str | Path, *, sites="sample", recipe: Recipe | None = None, progress: bool = True
) -> Cohort:
    """Write a phantom cohort as a BIDS folder, or read it if it is there already.

    Parameters
    ----------
    folder : path
        Where the cohort lives; made if missing. A folder with the same recipe is read, not written again, and one
        that was left half-way is finished.
    sites : as in `draw_subjects`
    recipe : Recipe, optional
    progress : bool
        Show a progress bar.

    Returns
    -------
    Cohort

    Raises
    ------
    ValueError
        If the folder holds a cohort of another recipe, or anything else.
    """
    folder, recipe = Path(folder), recipe or Recipe()
    table = draw_subjects(sites, seed=recipe.seed)
    _claim_folder(folder, sites=sites, recipe=recipe)
    if not (folder / "participants.tsv").exists():
        table["path"] = [str(folder.resolve() / name / "anat" / f"{name}_T1w.nii.gz") for name in table["subject"]]
        _write_images(table, recipe=recipe, progress=progress)
        write_bids(Cohort(table, folder), folder)  # last: its presence says that every image is there
    return read_bids(folder)


def _claim_folder(folder: Path, *, sites, recipe: Recipe) -> None:
    note = folder / "recipe.json"
    wanted = json.loads(
        json.dumps({"sites": sites if isinstance(sites, str) else [list(pair) for pair in sites], **asdict(recipe)})
    )
    if note.exists():
        if json.loads(note.read_text()) != wanted:
            raise ValueError(
                f"{folder} holds phantoms of another recipe (see {note}); choose another folder or remove it"
            )
        return
    if folder.exists() and any(folder.glob("sub-*")):
        raise ValueError(
            f"{folder} holds a cohort that is not made of phantoms (no recipe.json); choose an empty folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(wanted, indent=2) + "\n")


def _write_images(table: pd.DataFrame, *, recipe: Recipe, progress: bool) -> None:
    from tqdm.auto import tqdm

    def write(row) -> None:
        if not Path(row.path).exists():
            array = paint_phantom(
                row.subject,
                center=row.center,
                diagnosis=row.diagnosis,
                sex=row.sex,
                age=row.age,
                scanner=row.scanner,
                recipe=recipe,
            )
            write_volume(row.path, array, affine=recipe.affine)

    _template()  # once, before the threads ask for it
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # scipy.ndimage releases the interpreter lock
        rows = list(table.itertuples())
        for _ in tqdm(pool.map(write, rows), total=len(rows), desc="phantoms", unit="volume", disable=not progress):
            pass


def main(arguments: list[str] | None = None) -> None:
    """Write a phantom cohort from the command line: `python -m dqc_lib.phantom data_samples`."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder")
    parser.add_argument("--sites", default="sample", choices=("sample", "published"))
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    options = parser.parse_args(arguments)
    write_phantoms(options.folder, sites=options.sites, recipe=Recipe(seed=options.seed))


if __name__ == "__main__":
    main()
