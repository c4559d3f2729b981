"""Simulated B-scans of the macula: every subject with a retina of their own, seen by the machines of two vendors.

What is true in it: the retina is layered, with a pit in the middle; the layers' thickness, the pit, the curvature and
where the vessels run differ between people and are the same in all B-scans of an eye, which is why these are alike;
speckle multiplies; vendors differ in speckle, contrast, blur and pixel size. What is not: there is no optics, no real
device (vendor A and B are nobody's), no motion, no second eye and no pathology but the thinning of one layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np
import pandas as pd

from dqc_lib.arguments import require_number, require_whole

if TYPE_CHECKING:
    import SimpleITK

WIDTH, DEPTH = 4.0, 0.64  # mm across and into the retina
LAYERS = {"nerve fibers": (35, 0.8), "ganglion cells": (70, 0.5), "inner nuclear": (40, 0.3), "plexiform": (30, 0.55)}
LAYERS |= {"outer nuclear": (75, 0.2), "photoreceptors": (45, 0.9), "choroid": (150, 0.45)}
"""Thickness (micrometers) and reflectivity of the layers, from the inside out; behind the choroid it is dark."""
THINNED = "ganglion cells"
VENDORS = {
    "vendor A": {"size": (96, 64), "looks": 6.0, "gamma": 1.0, "blur": 0.5, "floor": 0.04},
    "vendor B": {"size": (128, 80), "looks": 2.5, "gamma": 0.6, "blur": 0.9, "floor": 0.10},
}
"""Pixels across and deep, looks (independent speckles averaged; more is smoother), contrast, blur (pixels), noise."""


@dataclass(frozen=True)
class OctRecipe:
    """What the B-scans are made of; the same recipe gives the same scans.

    Parameters
    ----------
    n_subjects : int
        Half of them patients; vendors take turns so that each sees as many patients as controls.
    n_scans : int
        B-scans of each subject, one beside the other, each with speckle of its own.
    effect : float
        Difference between patients and controls of the latent severity, which thins the ganglion cell layer by 10 % per
        standard deviation, of people at individuality 1. 0: the diagnosis leaves no trace. At individuality 1 it is
        Cohen's d, and no reader can do better than an AUROC of Phi(d / sqrt(2)).
    individuality : float
        Factor on how far subjects differ from each other; 0: all the same but for speckle, how a slice is placed, and
        what the effect puts in, which it does not scale.
    vendor : float
        Factor on how far vendor B is from vendor A in speckle, contrast and blur; its pixels differ in any case.
    seed : int
    """

    n_subjects: int = 60
    n_scans: int = 6
    effect: float = 0.0
    individuality: float = 1.0
    vendor: float = 1.0
    seed: int = 2025

    def __post_init__(self) -> None:
        for name, least in (("n_subjects", 2), ("n_scans", 1), ("seed", 0)):
            require_whole(f"OctRecipe.{name}", getattr(self, name), least=least)
        for name in ("effect", "individuality", "vendor"):
            require_number(f"OctRecipe.{name}", getattr(self, name))
            if not (np.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"OctRecipe.{name} must be a finite number >= 0, got {getattr(self, name)!r}")


@dataclass(frozen=True, eq=False)
class Scans:
    """Simulated B-scans, with whose they are, and the truth apart from both.

    Parameters
    ----------
    images : list of SimpleITK.Image
        One per row of `table`; float32, spacing in mm, first axis across the retina, second into it.
    table : DataFrame
        Columns participant_id, scan (from 1), vendor, diagnosis (1: patient).
    truth : DataFrame
        Columns participant_id, severity (latent trait), thickness (of the ganglion cell layer, micrometers). No
        analysis may read it.
    """

    images: list[SimpleITK.Image]
    table: pd.DataFrame
    truth: pd.DataFrame

    def __len__(self) -> int:
        return len(self.images)


def simulate_oct(recipe: OctRecipe | None = None, *, vendors: Sequence[str] | None = None) -> Scans:
    """Return the simulated B-scans of a recipe, the default one unless another is given.

    Parameters
    ----------
    recipe : OctRecipe
    vendors : sequence of str
        Who scans, of `VENDORS`; all of them unless said. A subject's retina follows from the recipe's seed and the
        subject's number, so that the same person can be scanned by either vendor.

    Examples
    --------
    >>> scans = simulate_oct(OctRecipe(n_subjects=4, n_scans=2))
    >>> len(scans), scans.table["vendor"].tolist()[::2], scans.table["diagnosis"].tolist()[::2]
    (8, ['vendor A', 'vendor B', 'vendor A', 'vendor B'], [1, 0, 0, 1])
    >>> scans.images[0].GetSize(), [round(mm, 4) for mm in scans.images[0].GetSpacing()]
    ((96, 64), [0.0417, 0.01])
    """
    recipe = OctRecipe() if recipe is None else recipe
    if not isinstance(recipe, OctRecipe):
        raise TypeError(f"recipe must be an OctRecipe, got {type(recipe).__name__}")
    vendors = list(VENDORS) if vendors is None else list(vendors)
    unknown = [name for name in vendors if name not in VENDORS]
    if unknown or not vendors:
        raise ValueError(f"vendors must be some of {tuple(VENDORS)}, got {unknown or vendors!r}")
    images, rows, truth = [], [], []
    for number in range(recipe.n_subjects):
        turn, place = divmod(number, len(vendors))
        subject, vendor, diagnosis = f"sub-{number + 1:03d}", vendors[place], 1 - (turn + place) % 2
        retina = _grow(subject, diagnosis, recipe=recipe)
        noise = _seed(recipe, f"noise {subject}")
        for scan in range(1, recipe.n_scans + 1):
            images.append(_scan(retina, noise, vendor=vendor, recipe=recipe))
            row = {"participant_id": subject, "scan": scan, "vendor": vendor, "diagnosis": diagnosis}
            rows.append(row)
        thickness = float(retina.thickness[list(LAYERS).index(THINNED)])
        truth.append({"participant_id": subject, "severity": retina.severity, "thickness": thickness})
    return Scans(images, pd.DataFrame(rows), pd.DataFrame(truth))


@dataclass(frozen=True, eq=False)
class _Retina:
    """What is the same in all B-scans of a subject."""

    severity: float
    thickness: np.ndarray  # micrometers, one per layer, outside the pit
    reflectivity: np.ndarray
    pit: tuple[float, float]  # micrometers deep, mm wide
    bend: tuple[float, float, float]  # mm: where it lies, its tilt and its curvature over half the width
    vessels: np.ndarray  # mm from the middle


def _seed(recipe: OctRecipe, name: str) -> np.random.Generator:
    return np.random.default_rng([recipe.seed, crc32(name.encode())])


def _grow(subject: str, diagnosis: int, *, recipe: OctRecipe) -> _Retina:
    """Return the retina of a subject; drawn in the same order whatever the recipe."""
    rng, own = _seed(recipe, f"retina {subject}"), recipe.individuality
    severity = own * rng.normal() + recipe.effect * (diagnosis - 0.5)
    usual, bright = np.array(list(LAYERS.values()), dtype=float).T
    thickness = usual * np.exp(0.08 * own * rng.normal(size=len(usual)))
    at = list(LAYERS).index(THINNED)
    thickness[at] = usual[at] * np.exp(-0.1 * severity)  # this layer's differences are the severity's alone
    return _Retina(
        severity=severity,
        thickness=thickness,
        reflectivity=np.clip(bright * np.exp(0.1 * own * rng.normal(size=len(bright))), 0.0, 1.2),
        pit=(110.0 * np.exp(0.15 * own * rng.normal()), 0.45 * np.exp(0.2 * own * rng.normal())),
        bend=tuple(np.array([0.12, 0.0, 0.04]) + own * np.array([0.015, 0.03, 0.03]) * rng.normal(size=3)),
        vessels=rng.uniform(-WIDTH / 2, WIDTH / 2, size=5) if own else np.linspace(-1.6, 1.6, 5),
    )


def _scan(retina: _Retina, rng: np.random.Generator, *, vendor: str, recipe: OctRecipe) -> SimpleITK.Image:
    """Return one B-scan: a slice of the retina near the middle, as the vendor's machine sees it."""
    import SimpleITK as sitk
    from scipy.ndimage import gaussian_filter

    device, usual = VENDORS[vendor], VENDORS["vendor A"]
    size = device["size"]
    looks, gamma, blur, floor = (
        usual[name] * (device[name] / usual[name]) ** recipe.vendor for name in ("looks", "gamma", "blur", "floor")
    )
    clean = gaussian_filter(_paint(retina, size=size, shift=rng.normal(size=3)), blur)
    # the mean of `looks` exponential intensities: speckle, fully developed (Goodman 1976, doi 10.1364/JOSA.66.001145)
    speckled = (clean + floor) * rng.gamma(looks, 1 / looks, size=clean.shape)
    image = sitk.GetImageFromArray((255.0 * np.clip(speckled, 0, 1.5) ** gamma / 1.5**gamma).astype(np.float32))
    image.SetSpacing((WIDTH / size[0], DEPTH / size[1]))
    return image


def _paint(retina: _Retina, *, size: tuple[int, int], shift: np.ndarray) -> np.ndarray:
    """Return the reflectivity of a slice without speckle, (deep, across); `shift` is how this one is placed."""
    across = (np.arange(size[0]) + 0.5) / size[0] * WIDTH - WIDTH / 2
    deep = (np.arange(size[1]) + 0.5) / size[1] * DEPTH
    rest, tilt, curve = retina.bend
    top = rest + 0.012 * shift[0] + tilt * across / 2 + curve * (across / 2) ** 2
    depth, width = retina.pit
    away = 0.15 * shift[1]  # mm from the middle of the pit: slices beside it are shallower
    pit = depth * np.exp(-0.5 * ((across - 0.05 * shift[2]) ** 2 + away**2) / width**2)
    bounds = 1e-3 * np.concatenate([[0.0], np.cumsum(retina.thickness)])[:, np.newaxis]
    # the pit is made by the inner four layers, which lie aside there
    inner = 1e-3 * retina.thickness[:4].sum()
    bounds = top + np.where(bounds < inner, bounds * (1 - 1e-3 * pit / inner), bounds - 1e-3 * pit) + 1e-3 * pit
    layer = (deep[:, np.newaxis, np.newaxis] >= bounds).sum(axis=1)
    painted = np.concatenate([[0.02], retina.reflectivity, [0.05]])[layer]
    shadow = 1 - 0.5 * np.exp(-0.5 * ((across[:, np.newaxis] - retina.vessels) / 0.05) ** 2).max(axis=1)
    return np.where(deep[:, np.newaxis] > bounds[1], painted * shadow, painted)
