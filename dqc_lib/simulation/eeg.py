"""Simulated EEG at rest: every subject with a spectrum and a topography of their own, whatever the diagnosis.

What is true in it: alpha peak, slope of the spectrum and strength of each rhythm differ between people and stay the
same from one window to the next, which is why windows of one person are alike (an "EEG fingerprint"); alpha is
strongest at the back; blinks are seen at the forehead; sites differ in mains hum, gain and reference. What is not:
there is no volume conduction through a head model, no sleep, no medication, no task, and no real amplifier. The numbers
are of a plausible size, not fitted to recordings.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np
import pandas as pd

from dqc_lib.arguments import require_number, require_whole

if TYPE_CHECKING:
    import mne

CHANNELS = ("Fp1", "Fp2", "F7", "F3", "Fz", "F4", "F8", "T7", "C3", "Cz", "C4", "T8", "P3", "Pz", "P4", "O1", "O2")
"""Seventeen electrodes of the international 10-20 system."""
RATE = 128.0  # Hz
MAINS = 50.0  # Hz
REFERENCES = ("average", "Cz", "T7")  # what the sites record against, one after the other
RHYTHMS = {"theta": (6.0, 1.0, 2.5), "alpha": (10.0, 0.9, 7.0), "beta": (20.0, 3.0, 2.0)}
"""Peak (Hz), width (Hz, one standard deviation) and strength (microvolts, root mean square) of an average subject."""


@dataclass(frozen=True)
class EegRecipe:
    """What the recordings are made of; the same recipe gives the same recordings.

    Parameters
    ----------
    n_subjects : int
        Half of them patients, as far as every site can be halved.
    n_sites : int
        Subjects come to them in turn, patients and controls alike, so that no site says who is ill.
    seconds : float
        Length of a recording, one per subject.
    effect : float
        Difference between patients and controls of the latent slowing, which lowers the alpha peak and raises theta,
        in standard deviations of people at individuality 1. 0: the diagnosis leaves no trace. At individuality 1 it is
        Cohen's d, and no reader of this trait can do better than an AUROC of Phi(d / sqrt(2)).
    individuality : float
        Factor on how far subjects differ from each other: rhythms, slope, topography. 0: all the same but for chance,
        and for what the effect puts in, which it does not scale.
    site : float
        Factor on the differences between sites (hum, gain, reference); 0: none.
    artefacts : float
        Factor on blinks, and on the chance that a recording has a bad channel (0.4); 0: neither.
    seed : int
    """

    n_subjects: int = 40
    n_sites: int = 4
    seconds: float = 60.0
    effect: float = 0.0
    individuality: float = 1.0
    site: float = 1.0
    artefacts: float = 1.0
    seed: int = 2025

    def __post_init__(self) -> None:
        for name, least in (("n_subjects", 2), ("n_sites", 1), ("seed", 0)):
            require_whole(f"EegRecipe.{name}", getattr(self, name), least=least)
        for name in ("seconds", "effect", "individuality", "site", "artefacts"):
            require_number(f"EegRecipe.{name}", getattr(self, name))
            if not (np.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"EegRecipe.{name} must be a finite number >= 0, got {getattr(self, name)!r}")
        if self.seconds < 4:
            raise ValueError(f"EegRecipe.seconds must be at least 4, for slow waves to show, got {self.seconds!r}")


@dataclass(frozen=True, eq=False)
class Recordings:
    """Simulated recordings, with who was recorded where, and the truth apart from both.

    Parameters
    ----------
    raw : dict of str to mne.io.RawArray
        One recording per participant_id; volts.
    participants : DataFrame
        Columns participant_id, site, diagnosis (1: patient).
    truth : DataFrame
        Columns participant_id, slowing (latent trait), alpha_peak (Hz), bad_channel ("" where all are good). No
        analysis may read it.
    """

    raw: dict[str, mne.io.RawArray]
    participants: pd.DataFrame
    truth: pd.DataFrame

    def __len__(self) -> int:
        return len(self.raw)

    def __iter__(self) -> Iterator[tuple[str, mne.io.RawArray]]:
        return iter(self.raw.items())


def simulate_eeg(recipe: EegRecipe | None = None) -> Recordings:
    """Return the simulated recordings of a recipe, the default one unless another is given.

    A subject's recording follows from the recipe's seed and the subject's number, so that subject 3 is the same person
    in a study of 10 and in one of 40, with an effect and without.

    Examples
    --------
    >>> recordings = simulate_eeg(EegRecipe(n_subjects=4, n_sites=2, seconds=4))
    >>> len(recordings), recordings.participants["site"].tolist(), recordings.participants["diagnosis"].tolist()
    (4, ['site-1', 'site-2', 'site-1', 'site-2'], [1, 0, 0, 1])
    >>> recordings.raw["sub-001"].get_data().shape
    (17, 512)
    """
    recipe = EegRecipe() if recipe is None else recipe
    if not isinstance(recipe, EegRecipe):
        raise TypeError(f"recipe must be an EegRecipe, got {type(recipe).__name__}")
    places, info = place_electrodes()
    numbers = np.arange(recipe.n_subjects)
    participants = pd.DataFrame(
        {
            "participant_id": [f"sub-{number + 1:03d}" for number in numbers],
            "site": [f"site-{number % recipe.n_sites + 1}" for number in numbers],
            "diagnosis": 1 - (numbers // recipe.n_sites + numbers % recipe.n_sites) % 2,
        }
    )
    raw, truth = {}, []
    for row in participants.itertuples():
        signal, true = _record(row.participant_id, row.site, row.diagnosis, places=places, recipe=recipe)
        truth.append({"participant_id": row.participant_id, **true})
        raw[row.participant_id] = _wrap(signal, info=info, subject=row.participant_id)
    return Recordings(raw, participants, pd.DataFrame(truth))


def place_electrodes() -> tuple[np.ndarray, mne.Info]:
    """Return where the electrodes are, (channels, 3) in head radii (right, front, up), and the channels for MNE."""
    import mne

    # the 10-20 positions, which MNE called "standard_1020" before version 1.13
    montage = mne.channels.make_standard_montage("colin27_1020")
    info = mne.create_info(list(CHANNELS), RATE, "eeg")
    info.set_montage(montage)
    places = np.array([montage.get_positions()["ch_pos"][name] for name in CHANNELS])
    places -= places.mean(axis=0)
    return places / np.linalg.norm(places, axis=1).max(), info


def _seed(recipe: EegRecipe, name: str) -> np.random.Generator:
    return np.random.default_rng([recipe.seed, crc32(name.encode())])


def _record(
    subject: str, site: str, diagnosis: int, *, places: np.ndarray, recipe: EegRecipe
) -> tuple[np.ndarray, dict[str, object]]:
    """Return a recording in microvolts, (channels, samples), and what is true of it."""
    trait, noise = (_seed(recipe, f"{what} {subject}") for what in ("trait", "noise"))
    slowing = recipe.individuality * trait.normal() + recipe.effect * (diagnosis - 0.5)
    n = round(recipe.seconds * RATE)
    own = recipe.individuality
    slope = 1.2 + 0.15 * own * trait.normal()
    skin = np.exp(0.15 * own * trait.normal(size=len(CHANNELS)))  # contact and skull, electrode by electrode
    signal = _mix(places, width=0.6) @ _draw_pink(noise, len(CHANNELS), n, slope=slope) * 6.0
    for name, (centre, width, strength) in RHYTHMS.items():
        shift = {"alpha": -0.5 * slowing, "theta": 0.0, "beta": 1.5 * own * trait.normal()}[name]  # Hz
        gain = np.exp(0.35 * own * trait.normal() + (0.15 * slowing if name == "theta" else 0.0))
        for side in _draw_topography(trait, name, places=places, own=own):
            wave = _draw_rhythm(noise, n, centre=centre + shift, width=width)
            signal += strength * gain * side[:, np.newaxis] * wave
    signal *= skin[:, np.newaxis]
    signal += recipe.artefacts * _blink(noise, places, n)
    bad = _spoil(signal, noise, recipe=recipe)
    true = {"slowing": slowing, "alpha_peak": RHYTHMS["alpha"][0] - 0.5 * slowing, "bad_channel": bad}
    return _receive(signal, site, recipe=recipe, noise=noise), true


def _mix(places: np.ndarray, *, width: float) -> np.ndarray:
    """Return how much of the noise at each place is seen at each other, (channels, channels); rows of length 1."""
    apart = np.linalg.norm(places[:, np.newaxis] - places, axis=-1)
    near = np.exp(-0.5 * (apart / width) ** 2)
    return near / np.linalg.norm(near, axis=1, keepdims=True)


def _draw_pink(rng: np.random.Generator, rows: int, n: int, *, slope: float) -> np.ndarray:
    """Return noise whose power falls with frequency to the power `slope`, (rows, n), standard deviation 1."""
    frequencies = np.fft.rfftfreq(n, 1 / RATE)
    shape = np.maximum(frequencies, 0.5) ** (-slope / 2)
    wave = np.fft.irfft(np.fft.rfft(rng.normal(size=(rows, n)), axis=1) * shape, n=n, axis=1)
    return wave / wave.std(axis=1, keepdims=True)


def _draw_rhythm(rng: np.random.Generator, n: int, *, centre: float, width: float) -> np.ndarray:
    """Return a rhythm that waxes and wanes, (n,), standard deviation 1: noise in a Gaussian band (Hz)."""
    frequencies = np.fft.rfftfreq(n, 1 / RATE)
    wave = np.fft.irfft(np.fft.rfft(rng.normal(size=n)) * np.exp(-0.5 * ((frequencies - centre) / width) ** 2), n=n)
    return wave / wave.std()


def _draw_topography(rng: np.random.Generator, name: str, *, places: np.ndarray, own: float) -> list[np.ndarray]:
    """Return how strongly each electrode sees the rhythm, one array (channels,) for the left and one for the right."""
    middle = {"alpha": (0.35, -0.75, 0.2), "theta": (0.15, 0.5, 0.5), "beta": (0.5, 0.0, 0.5)}[name]
    sides = []
    for sign in (-1, 1):
        source = np.array(middle) * (sign, 1, 1) + 0.2 * own * rng.normal(size=3)
        sides.append(np.exp(-0.5 * (np.linalg.norm(places - source, axis=1) / 0.55) ** 2))
    return sides


def _blink(rng: np.random.Generator, places: np.ndarray, n: int) -> np.ndarray:
    """Return blinks of about 100 microvolts at the forehead, one in five seconds, (channels, n)."""
    forehead = np.exp(4.0 * (places[:, 1] - places[:, 1].max()))
    times = np.arange(n) / RATE
    starts = rng.uniform(0, times[-1], size=rng.poisson(times[-1] / 5))
    course = sum((np.exp(-0.5 * ((times - start) / 0.08) ** 2) for start in starts), np.zeros(n))
    return 100.0 * forehead[:, np.newaxis] * course


def _spoil(signal: np.ndarray, rng: np.random.Generator, *, recipe: EegRecipe) -> str:
    """Loosen one electrode in some recordings, in place, and return its name, or ""."""
    chance, which = rng.uniform(), rng.integers(2, len(CHANNELS))  # not at the forehead, where blinks are looked for
    if chance >= 0.4 * recipe.artefacts:
        return ""
    signal[which] += 80.0 * _draw_pink(rng, 1, signal.shape[1], slope=0.5)[0]
    return CHANNELS[which]


def _receive(signal: np.ndarray, site: str, *, recipe: EegRecipe, noise: np.random.Generator) -> np.ndarray:
    """Return what the site's amplifier writes: its gain, its hum, and against its reference."""
    rng = _seed(recipe, f"amplifier {site}")
    gain = np.exp(0.15 * recipe.site * rng.normal())
    hum = recipe.site * rng.uniform(2.0, 12.0) * np.exp(0.4 * rng.normal(size=len(CHANNELS)))
    times, phase = np.arange(signal.shape[1]) / RATE, noise.uniform(0, 2 * np.pi)
    signal = gain * signal + hum[:, np.newaxis] * np.sin(2 * np.pi * MAINS * times + phase)
    reference = REFERENCES[(int(site.removeprefix("site-")) - 1) % len(REFERENCES)] if recipe.site else "average"
    against = signal.mean(axis=0) if reference == "average" else signal[CHANNELS.index(reference)]
    return signal - against


def _wrap(signal: np.ndarray, *, info: mne.Info, subject: str) -> mne.io.RawArray:
    """Return the recording as MNE's object, in volts."""
    import mne

    raw = mne.io.RawArray(signal * 1e-6, info.copy(), verbose="error")
    raw.info["subject_info"] = {"his_id": subject}
    raw.info["line_freq"] = MAINS
    return raw
