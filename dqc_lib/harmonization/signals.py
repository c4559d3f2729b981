"""EEG on the way to a table of features: MNE prepares the recordings and measures the power of the bands.

Two ways to prepare a recording, a light one that costs a second and an elaborate one of many steps, so that they can be
compared. The steps are MNE's (Gramfort et al. 2013, doi 10.3389/fnins.2013.00267); here is only their order.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from dqc_lib.arguments import require_number, require_whole, show_value

if TYPE_CHECKING:
    import mne

BANDS = MappingProxyType(
    {"delta": (1.0, 4.0), "theta": (4.0, 8.0), "alpha 1": (8.0, 10.0), "alpha 2": (10.0, 13.0), "beta": (13.0, 30.0)}
)
"""Hz, from and to; alpha in two halves, so that a peak that moves is seen."""
PASSED = (1.0, 40.0)  # Hz
LARGEST = 150e-6  # volts from peak to peak, above which a window is left out
FOREHEAD = ("Fp1", "Fp2")
NEIGHBOURS = 8  # channels that a channel is compared with
STEPS = ("light", "elaborate")
METHODS = ("welch", "multitaper")


def prepare_eeg(raw: mne.io.BaseRaw, *, steps: str = "light", window: float = 2.0, seed: int = 0) -> mne.Epochs:
    """Return a recording cut into windows, without overlap, the channels against their average.

    Parameters
    ----------
    raw : mne.io.BaseRaw
        EEG channels with positions; stays as it is.
    steps : "light" or "elaborate"
        "light": band-pass 1 to 40 Hz and average reference. "elaborate": besides, a notch at the mains' frequency, bad
        channels found by the local outlier factor and interpolated, independent components that follow the forehead
        channels taken out (blinks), and windows of more than 150 microvolts left out.
    window : float
        Seconds.
    seed : int
        Of the independent components.

    Returns
    -------
    mne.Epochs
        All windows, or, after elaborate steps, those that are left, possibly none.
    """
    import mne

    if not isinstance(raw, mne.io.BaseRaw):
        raise TypeError(f"raw must be one of MNE's recordings, such as mne.io.RawArray, got {show_value(raw)}")
    if steps not in STEPS:
        raise ValueError(f"steps must be one of {STEPS}, got {show_value(steps)}")
    require_number("window", window)
    require_whole("seed", seed, least=0)
    if not 1 <= window <= raw.duration:
        raise ValueError(f"window must be from 1 s to the recording's {raw.duration:.1f} s, got {window!r}")
    with mne.utils.use_log_level("error"):
        ready = raw.copy().load_data().pick("eeg")
        if steps == "elaborate":
            ready = _interpolate_bad(_remove_hum(ready))
        ready = ready.filter(*PASSED).set_eeg_reference("average")
        if steps == "elaborate":
            ready = _remove_blinks(ready, seed=seed)
        epochs = mne.make_fixed_length_epochs(ready, duration=window, preload=True)
        return epochs.drop_bad(reject={"eeg": LARGEST}) if steps == "elaborate" else epochs


def _remove_hum(raw: mne.io.BaseRaw) -> mne.io.BaseRaw:
    """Return the recording after a notch at the mains' frequency, if it says which that is."""
    mains = raw.info["line_freq"]
    return raw if mains is None or mains >= raw.info["sfreq"] / 2 else raw.notch_filter(mains)


def _interpolate_bad(raw: mne.io.BaseRaw) -> mne.io.BaseRaw:
    """Return the recording with channels that are unlike the others interpolated.

    A flat channel is the reference, not a bad one: it comes back when all are put against their average. A forehead
    channel is unlike the others whenever the person blinks; that is left to the components.
    """
    from mne.preprocessing import find_bad_channels_lof

    flat = {name for name, values in zip(raw.ch_names, raw.get_data(), strict=True) if np.ptp(values) == 0}
    asked = [name for name in raw.ch_names if name not in flat.union(FOREHEAD)]
    if len(asked) > NEIGHBOURS:
        raw.info["bads"] = find_bad_channels_lof(raw.copy().filter(*PASSED), NEIGHBOURS, picks=asked)
    return raw.interpolate_bads()


def _remove_blinks(raw: mne.io.BaseRaw, *, seed: int) -> mne.io.BaseRaw:
    """Return the recording without the independent components that follow a forehead channel."""
    import mne

    forehead = [name for name in FOREHEAD if name in raw.ch_names]
    if not forehead:
        return raw
    ica = mne.preprocessing.ICA(n_components=0.99, method="infomax", max_iter=100, random_state=seed)
    ica.fit(raw, decim=3)  # a third of the samples is enough for waves below 40 Hz at 128 Hz and more
    follow = {"measure": "correlation", "threshold": 0.7}  # a z score is never above 3 among so few components
    found = {number for name in forehead for number in ica.find_bads_eog(raw, ch_name=name, **follow)[0]}
    return ica.apply(raw, exclude=sorted(found))


def measure_bands(epochs: mne.BaseEpochs, *, method: str = "welch") -> pd.DataFrame:
    """Return the power of every band at every channel, one row per window.

    Parameters
    ----------
    epochs : mne.BaseEpochs
    method : "welch" or "multitaper"
        How the spectrum of a window is estimated.

    Returns
    -------
    DataFrame
        Columns "O1 theta" and so on, the mean density of the band as log10 of microvolts squared per Hz; row n is
        window n. No rows for no windows.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}, got {show_value(method)}")
    columns = [f"{channel} {band}" for channel in epochs.ch_names for band in BANDS]
    if len(epochs) == 0:
        return pd.DataFrame(columns=columns, dtype=float)
    if method == "welch":
        segment = min(len(epochs.times), round(2 * epochs.info["sfreq"]))  # half a Hz apart, where windows allow
        how = {"n_fft": segment, "n_per_seg": segment, "n_overlap": segment // 2}
    else:
        how = {"normalization": "full"}  # densities; MNE's default leaves them unscaled
    spectrum = epochs.compute_psd(method, fmin=PASSED[0], fmax=PASSED[1], verbose="error", **how)
    density, frequencies = spectrum.get_data(return_freqs=True)
    inside = [(low <= frequencies) & (frequencies < high) for low, high in BANDS.values()]
    power = np.stack([density[..., band].mean(axis=-1) for band in inside], axis=-1) * 1e12
    return pd.DataFrame(np.log10(power).reshape(len(power), -1), columns=columns)


def tabulate_bands(
    recordings: Mapping[str, mne.io.BaseRaw], *, steps: str = "light", window: float = 2.0, method: str = "welch"
) -> pd.DataFrame:
    """Return the power of the bands in all windows of all recordings, prepared one by one.

    Nothing is learnt from one recording for another, so that preparing them before they are split leaks nothing.

    Returns
    -------
    DataFrame
        Columns as in `measure_bands`; index participant_id and window (its place in the recording).
    """
    if not recordings:
        raise ValueError("recordings must hold at least one recording, got none")
    tables = {}
    for subject, raw in recordings.items():
        epochs = prepare_eeg(raw, steps=steps, window=window)
        tables[subject] = measure_bands(epochs, method=method).set_axis(epochs.selection, axis=0)
    return pd.concat(tables, names=["participant_id", "window"])
