"""How a phantom is made: the template warped, aged, diseased and scanned."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from zlib import crc32

import numpy as np

from dqc_lib.arguments import require_number, require_sizes, require_whole

FIELD_OF_VIEW = (160.0, 192.0, 160.0)  # mm, as the published 160 x 192 x 160 volumes of 1 mm
CENTRE = (0.0, -18.0, 4.0)  # mm in MNI space: the middle of the field of view
VENTRICLES = ((-10.0, -12.0, 20.0), (10.0, -12.0, 20.0))  # bodies of the lateral ventricles, mm
DEEP_REGION = ((-22.0, 2.0, 0.0), (22.0, 2.0, 0.0))  # putamen, mm


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
        require_sizes("Recipe.shape", self.shape)
        require_whole("Recipe.seed", self.seed, least=0)
        for name in ("disease", "ageing", "sex", "scanner", "anatomy"):
            require_number(f"Recipe.{name}", getattr(self, name))
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
def load_template() -> tuple[np.ndarray, np.ndarray]:
    """Return the template at 2 mm, smoothed against aliasing, in [0, 1]; and its inverse affine."""
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

    template, inverse = load_template()
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
