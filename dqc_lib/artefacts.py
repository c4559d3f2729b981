"""Imaging artefacts as plain array functions: what goes wrong in a scanner, a protocol or a file.

All public functions have one signature, ``f(image, *, strength, maximum, generator)``, and what is said here holds for
each; their own pages say what `strength` means and what else they use.

Parameters
----------
image : ndarray of float64, of shape (I, J, K)
    RAS axis order (to the right, to the front, to the top), intensities from 0 to `maximum`.
strength : float
    0 is no harm, more is more.
maximum : float
    Top of the intensity scale, 255 for 8 bits.
generator : numpy.random.Generator
    What random parameters are drawn from: first, and the same ones whatever the strength.

Returns
-------
ndarray of float64, of shape (I, J, K)
    A new array, neither rounded nor clipped: `dqc_lib.harm.apply_harm` does that, and checks what comes in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

PUBLISHED_NOISE_SD = 25.0
PUBLISHED_MAXIMUM = 255.0
NOISE_FLOOR = 0.01
HEAD_THRESHOLD = 0.1

# Intensity on a T1-weighted scan (share of the brightest tissue) and what a T2-weighted scan shows there instead:
# air, fluid, grey matter, white matter, fat and vessels.
T1_LEVELS = (0.0, 0.05, 0.25, 0.65, 0.9, 1.0)
T2_LEVELS = (0.0, 0.05, 1.0, 0.55, 0.3, 0.25)


def invert(image: np.ndarray, *, strength: float, maximum: float, generator: np.random.Generator) -> np.ndarray:
    """Return the image with dark and bright exchanged, ``maximum - x`` at strength 1.

    Parameters
    ----------
    strength : float
        From 0 to 1: the weight of the inverted image in a linear blend with the original. At 0.5 the image is flat.
    maximum : float
        The intensity that becomes 0.
    """
    return (1.0 - strength) * image + strength * (maximum - image)


def add_noise(image: np.ndarray, *, strength: float, maximum: float, generator: np.random.Generator) -> np.ndarray:
    """Return the image plus independent normal noise in every voxel.

    Parameters
    ----------
    strength : float
        Standard deviation in units of the published one: ``25 * strength`` on a scale from 0 to 255.
    maximum : float
        Top of the intensity scale. The standard deviation is proportional to it.
    generator : Generator
        Draws the noise.
    """
    noise = generator.standard_normal(image.shape)
    return image + noise * (strength * PUBLISHED_NOISE_SD * maximum / PUBLISHED_MAXIMUM)


def replace_by_noise(
    image: np.ndarray, *, strength: float, maximum: float, generator: np.random.Generator
) -> np.ndarray:
    """Return a field of view that holds receiver noise in place of the head.

    The magnitude of complex normal noise follows a Rayleigh distribution (Gudbjartsson and Patz 1995,
    doi 10.1002/mrm.1910340618). Its root mean square is that of the non-zero voxels, so it is as bright as the head.

    Parameters
    ----------
    strength : float
        From 0 to 1: the weight of the noise in a linear blend with the original. At 1 no anatomy is left.
    generator : Generator
        Draws the noise.
    """
    noise = generator.rayleigh(size=image.shape)
    head = image[image > 0]
    level = np.sqrt(np.mean(head**2) / 2.0) if head.size else 0.0
    return (1.0 - strength) * image + strength * level * noise


def swap_axes(image: np.ndarray, *, strength: float, maximum: float, generator: np.random.Generator) -> np.ndarray:
    """Return the volume as a reader with a wrong idea of the axes would see it.

    Parameters
    ----------
    strength : float
        1: left and right are exchanged. 2: the second and third axis are exchanged as well, so the head lies on its
        back; the result is cut or filled with zeros around its middle to keep the shape. Whole numbers only.
    """
    mirrored = image[::-1]
    return mirrored.copy() if strength < 2 else _fit_shape(mirrored.swapaxes(1, 2), image.shape)


def _fit_shape(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return a copy of the array cut, or filled with zeros, around its middle to the shape asked for."""
    result = np.zeros(shape, dtype=array.dtype)
    source, target = [], []
    for have, want in zip(array.shape, shape, strict=True):
        length = min(have, want)
        source.append(slice((have - length) // 2, (have - length) // 2 + length))
        target.append(slice((want - length) // 2, (want - length) // 2 + length))
    result[tuple(target)] = array[tuple(source)]
    return result


def blank(image: np.ndarray, *, strength: float, maximum: float, generator: np.random.Generator) -> np.ndarray:
    """Return a scan whose signal is gone: nothing but the noise floor of the receiver.

    A file of equal voxels is a file error that reading refuses; a scan with an unplugged coil is not, it holds faint
    noise. That is what this is: Rayleigh noise with a scale of 1 % of `maximum`.

    Parameters
    ----------
    strength : float
        From 0 to 1: the share of the signal that is lost.
    maximum : float
        Top of the intensity scale; the noise floor is proportional to it.
    generator : Generator
        Draws the noise.
    """
    noise = generator.rayleigh(size=image.shape)
    return (1.0 - strength) * image + strength * NOISE_FLOOR * maximum * noise


def add_ghosts(image: np.ndarray, *, strength: float, maximum: float, generator: np.random.Generator) -> np.ndarray:
    """Return the image with ghosts of the head along the phase-encoding axis, here the second (front to back).

    Periodic motion gives the lines of k-space a periodic phase. Line ``m`` of ``N`` is multiplied by
    ``exp(i * strength * sin(2 pi m d / N + phase))``, and the magnitude is taken: copies appear at multiples of the
    distance ``d`` in voxels, with weights J0(strength), J1(strength), ... (Jacobi-Anger expansion), wrapping around at
    the border as scans do. The factors have modulus 1, so the energy of the image is kept (Parseval).

    Parameters
    ----------
    strength : float
        Amplitude of the phase in radians. At 1 the head keeps 0.77 of its intensity, the first ghosts have 0.44.
    generator : Generator
        Draws the distance, between a sixth and a third of the axis, and the phase.
    """
    n_lines = image.shape[1]
    distance = generator.integers(max(1, n_lines // 6), max(2, n_lines // 3 + 1))
    phase = generator.uniform(0.0, 2.0 * np.pi)
    angle = strength * np.sin(2.0 * np.pi * np.arange(n_lines) * distance / n_lines + phase)
    spectrum = np.fft.fft(image, axis=1) * np.exp(1j * angle)[None, :, None]
    return np.abs(np.fft.ifft(spectrum, axis=1))


def shade(image: np.ndarray, *, strength: float, maximum: float, generator: np.random.Generator) -> np.ndarray:
    """Return the image under a smooth multiplicative bias field, as a badly placed receive coil gives.

    The field is ``exp(-strength * p)``, where ``p`` is a polynomial of second order in the three voxel positions
    with random normal coefficients, moved and scaled to run from 0 to 1 over the head (voxels above 10 % of the
    brightest one; over everything where there are none).

    Parameters
    ----------
    strength : float
        Natural logarithm of the ratio between the least and the most shaded place of the head. The least shaded
        keeps its intensity.
    generator : Generator
        Draws nine coefficients: three linear, three square, three mixed.
    """
    coefficients = generator.standard_normal(9)
    i, j, k = np.meshgrid(*(np.linspace(-1.0, 1.0, length) for length in image.shape), indexing="ij", sparse=True)
    terms = (i, j, k, i * i, j * j, k * k, i * j, i * k, j * k)
    polynomial = np.zeros(image.shape)
    for coefficient, term in zip(coefficients, terms, strict=True):
        polynomial += coefficient * term
    inside = polynomial[_find_head(image)]
    span = np.ptp(inside)
    return image * np.exp(-strength * (polynomial - inside.min()) / (span if span > 0 else 1.0))


def _find_head(image: np.ndarray) -> np.ndarray:
    """Return a mask of the voxels above 10 % of the brightest one, or of all voxels where the image is empty."""
    mask = image > HEAD_THRESHOLD * image.max()
    return mask if mask.any() else np.ones(image.shape, dtype=bool)


def change_contrast(
    image: np.ndarray, *, strength: float, maximum: float, generator: np.random.Generator
) -> np.ndarray:
    """Return the image with the tissue order of a T2-weighted scan: fluid bright, white matter dark, air black.

    A piecewise linear map of intensity (`T1_LEVELS` to `T2_LEVELS`), anchored at the 99th percentile of the head.
    Unlike inversion it leaves the background dark, as a wrong sequence in the protocol would.

    Parameters
    ----------
    strength : float
        From 0 to 1: the weight of the changed image in a linear blend with the original.
    """
    brightest = np.percentile(image[_find_head(image)], 99)
    if brightest <= 0:
        return image.copy()
    changed = brightest * np.interp(image / brightest, T1_LEVELS, T2_LEVELS)
    return (1.0 - strength) * image + strength * changed


def crop_field_of_view(
    image: np.ndarray, *, strength: float, maximum: float, generator: np.random.Generator
) -> np.ndarray:
    """Return the image with the top or the bottom of the head outside the field of view (zeros).

    Parameters
    ----------
    strength : float
        Share of the head's height that is lost, from 0 to below 1. The height is the range of slices with a voxel
        above 10 % of the brightest one.
    generator : Generator
        Draws the side, top or bottom.
    """
    from_top = generator.random() < 0.5
    slices = np.flatnonzero(_find_head(image).any(axis=(0, 1)))
    bottom, top = slices[0], slices[-1] + 1
    lost = int(np.floor(strength * (top - bottom) + 0.5))
    result = image.copy()
    if lost:
        result[:, :, slice(top - lost, None) if from_top else slice(None, bottom + lost)] = 0.0
    return result


@dataclass(frozen=True)
class HarmKind:
    """One kind of harm and what its strength means.

    Attributes
    ----------
    name, summary : str
        The key in `HARMS`, and one line on what happens.
    default_strength, max_strength : float
        Strengths run from 0 (no harm) to `max_strength`; a larger one is more harm.
    strength_means : str
        What the number stands for.
    artefact : callable, optional
        The function that harms the voxels; None where the diagnosis is harmed.
    whole_steps : bool
        True if only whole numbers mean something.
    """

    name: str
    summary: str
    default_strength: float
    max_strength: float
    strength_means: str
    artefact: Callable[..., np.ndarray] | None = field(repr=False)
    whole_steps: bool = False

    @property
    def image(self) -> bool:
        """True if the voxels are harmed, False if the diagnosis is."""
        return self.artefact is not None


_BLEND = "weight of the harmed image in a blend with the original"
_KINDS = (
    HarmKind("inversion", "dark and bright are exchanged (published)", 1.0, 1.0, _BLEND, invert),
    HarmKind(
        "additive noise", "normal noise in every voxel (published)", 1.0, 20.0, "SD in units of 25 of 255", add_noise
    ),
    HarmKind("noise only", "noise takes the place of the head", 1.0, 1.0, _BLEND, replace_by_noise),
    HarmKind("label flip", "the diagnosis is exchanged, the image is good", 1.0, 1.0, "1: flipped", None, True),
    HarmKind(
        "axis swap", "a wrong header", 2.0, 2.0, "1: left and right, 2: second and third axis as well", swap_axes, True
    ),
    HarmKind("blank", "no signal, only the noise floor", 1.0, 1.0, "share of the signal lost", blank),
    HarmKind("motion ghosting", "copies of the head, front to back", 0.7, 2.0, "phase amplitude, radians", add_ghosts),
    HarmKind("bias field", "smooth shading", 2.0, 5.0, "log of largest over least gain in the head", shade),
    HarmKind("wrong contrast", "tissues as on a T2-weighted scan", 1.0, 1.0, _BLEND, change_contrast),
    HarmKind(
        "cropped field of view", "top or bottom is cut off", 0.4, 0.9, "share of the head's height", crop_field_of_view
    ),
)
HARMS: Mapping[str, HarmKind] = MappingProxyType({kind.name: kind for kind in _KINDS})
