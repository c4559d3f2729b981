"""EEG and B-scans on the way to features: what preparation takes out, what it keeps, and that nothing is shared."""

import mne
import numpy as np
import pytest
import SimpleITK as sitk

from dqc_lib.harmonization import (
    BANDS,
    describe_texture,
    measure_bands,
    measure_profiles,
    prepare_eeg,
    prepare_scans,
    tabulate_bands,
)
from dqc_lib.simulation import EegRecipe, OctRecipe, simulate_eeg, simulate_oct
from dqc_lib.simulation.oct import DEPTH


@pytest.fixture(scope="module")
def recordings():
    return simulate_eeg(EegRecipe(n_subjects=8, n_sites=2, seconds=40))


def make_raw(signal, names, rate=128.0):
    raw = mne.io.RawArray(signal * 1e-6, mne.create_info(names, rate, "eeg"), verbose="error")
    return raw.set_montage("colin27_1020", verbose="error")


# EEG


def test_windows_are_against_their_average_and_the_recording_stays_as_it_is(recordings):
    raw = recordings.raw["sub-002"]
    before = raw.get_data().copy()
    epochs = prepare_eeg(raw, window=2.0)
    assert (raw.get_data() == before).all() and raw.info["bads"] == []
    assert epochs.get_data().shape == (20, 17, 256)
    np.testing.assert_allclose(epochs.get_data().mean(axis=1), 0, atol=1e-15)


def test_a_band_holds_the_power_of_a_wave_in_it_and_no_other_band_does():
    # a wave of 6 Hz and 10 microvolts has a power of 50: in theta, 4 to 8 Hz, a density of 12.5
    times = np.arange(128 * 20) / 128
    wave = 10 * np.sin(2 * np.pi * 6 * times)
    epochs = prepare_eeg(make_raw(np.stack([wave, -wave]), ["O1", "O2"]), window=4.0)
    bands = measure_bands(epochs)
    middle = bands.iloc[1:-1]
    np.testing.assert_allclose(10 ** middle["O1 theta"], 12.5, rtol=0.1)
    assert (10 ** middle[["O1 delta", "O1 alpha 2", "O1 beta"]] < 0.05).all(axis=None)


def test_welch_and_multitaper_agree_about_long_windows(recordings):
    epochs = prepare_eeg(recordings.raw["sub-001"], window=10.0)
    welch, multitaper = (measure_bands(epochs, method=method).mean() for method in ("welch", "multitaper"))
    assert np.abs(welch - multitaper).median() < 0.1


def test_elaborate_steps_find_the_loose_electrode_and_take_blinks_out(recordings):
    bad = recordings.truth.query("bad_channel != ''").iloc[0]
    raw = recordings.raw[bad.participant_id]
    light, elaborate = (prepare_eeg(raw, steps=steps).get_data() * 1e6 for steps in ("light", "elaborate"))
    at = raw.ch_names.index(bad.bad_channel)
    assert light[:, at].std() > 3 * elaborate[:, at].std()
    forehead = raw.ch_names.index("Fp1")
    assert np.ptp(light[:, forehead], axis=1).max() > 1.5 * np.ptp(elaborate[:, forehead], axis=1).max()


def test_windows_that_are_too_large_are_left_out_by_elaborate_steps_only():
    rng = np.random.default_rng(0)
    signal = 10 * rng.normal(size=(2, 128 * 20))
    signal[0, 128 * 9 : 128 * 9 + 64] += 2000 * np.sin(np.linspace(0, 4 * np.pi, 64))
    raw = make_raw(signal, ["O1", "O2"])
    assert len(prepare_eeg(raw)) == 10
    kept = prepare_eeg(raw, steps="elaborate").selection.tolist()
    assert 4 not in kept and {0, 1, 7, 8, 9} <= set(kept)


def test_a_recording_of_which_nothing_is_left_has_no_rows():
    raw = make_raw(2000 * np.random.default_rng(0).normal(size=(2, 1280)), ["O1", "O2"])
    epochs = prepare_eeg(raw, steps="elaborate")
    assert len(epochs) == 0
    assert measure_bands(epochs).shape == (0, 2 * len(BANDS))


def test_windows_of_a_second_are_long_enough(recordings):
    bands = measure_bands(prepare_eeg(recordings.raw["sub-001"], window=1.0))
    assert bands.shape == (40, 85) and np.isfinite(bands).all(axis=None)


def test_every_recording_is_prepared_by_itself(recordings):
    some = {name: recordings.raw[name] for name in ("sub-001", "sub-002")}
    both = tabulate_bands(some)
    alone = tabulate_bands({"sub-002": recordings.raw["sub-002"]})
    np.testing.assert_array_equal(both.loc["sub-002"], alone.loc["sub-002"])
    assert both.index.names == ["participant_id", "window"]
    assert both.loc["sub-001"].index.tolist() == list(range(20))


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"steps": "<b>best</b>"}, ValueError, "steps must be one of"),
        ({"window": 0.5}, ValueError, "window must be from 1 s to the recording's 40.0 s, got 0.5"),
        ({"window": 41}, ValueError, "window must be from 1 s"),
        ({"window": "2"}, TypeError, "window must be a number"),
        ({"seed": -1}, ValueError, "seed"),
    ],
)
def test_windows_and_steps_that_cannot_be_are_refused(recordings, given, error, said):
    with pytest.raises(error, match=said):
        prepare_eeg(recordings.raw["sub-001"], **given)


def test_what_is_no_recording_and_no_method_is_named(recordings):
    with pytest.raises(TypeError, match="raw must be one of MNE's recordings"):
        prepare_eeg(np.zeros((2, 100)))
    with pytest.raises(ValueError, match="method must be one of"):
        measure_bands(prepare_eeg(recordings.raw["sub-001"]), method="fft")
    with pytest.raises(ValueError, match="at least one recording, got none"):
        tabulate_bands({})


# B-scans


def make_scan(array, extent=(4.0, 0.64)):
    image = sitk.GetImageFromArray(np.asarray(array, dtype=np.float32))
    image.SetSpacing((extent[0] / image.GetSize()[0], extent[1] / image.GetSize()[1]))
    return image


def test_scans_of_other_pixels_come_to_one_grid_and_cover_the_same():
    # the same ramp along the scan, sampled coarsely and finely: on the grid both are the ramp again
    ramps = [make_scan(np.tile((np.arange(n) + 0.5) / n, (n // 2, 1))) for n in (64, 160)]
    both = prepare_scans(ramps, grid=(32, 16), smoothing="none", standardize=False)
    assert both.shape == (2, 16, 32) and both.dtype == np.float32
    for array in both:
        np.testing.assert_allclose(array[:, 2:-2], np.tile((np.arange(32) + 0.5) / 32, (16, 1))[:, 2:-2], atol=0.003)


def test_a_scan_on_its_own_grid_stays_as_it_is():
    array = np.random.default_rng(0).uniform(size=(20, 30)).astype(np.float32)
    np.testing.assert_allclose(
        prepare_scans([make_scan(array)], grid=(30, 20), smoothing="none", standardize=False)[0], array, atol=1e-5
    )


def test_a_machines_scale_and_offset_are_standardized_away():
    array = np.random.default_rng(1).uniform(size=(48, 64))
    first, second = prepare_scans([make_scan(array), make_scan(40 * array + 7)])
    np.testing.assert_allclose(first, second, atol=1e-4)
    assert (first.min(), first.max()) == (0, 1)


def test_a_scan_that_is_all_alike_is_black():
    assert not prepare_scans([make_scan(np.full((48, 64), 3.0))]).any()


@pytest.mark.parametrize("smoothing", ["median", "curvature flow"])
def test_smoothing_takes_speckle_and_leaves_the_image_given_alone(smoothing):
    image = simulate_oct(OctRecipe(n_subjects=2, n_scans=1)).images[1]
    before = sitk.GetArrayFromImage(image)
    rough, smooth = (prepare_scans([image], smoothing=how, standardize=False)[0] for how in ("none", smoothing))
    assert np.abs(np.diff(smooth, axis=1)).mean() < 0.8 * np.abs(np.diff(rough, axis=1)).mean()
    assert (sitk.GetArrayFromImage(image) == before).all()


def test_a_profile_starts_at_the_surface_wherever_it_lies():
    # dark, then a layer of 1 that is 160 micrometers thick, then 0.5; the surface is tilted
    array = np.zeros((64, 48), dtype=np.float32)
    for column in range(48):
        top = 10 + column // 4
        array[top : top + 16, column], array[top + 16 :, column] = 1.0, 0.5
    profile = measure_profiles(array[np.newaxis], depth=0.64).iloc[0]
    assert profile["depth 80 um"] == pytest.approx(1, abs=0.02)
    assert profile["depth 240 um"] == pytest.approx(0.5, abs=0.02)
    assert list(profile.index[:2]) == ["depth 0 um", "depth 8 um"]


def test_profiles_find_the_layer_that_disease_thins():
    scans = simulate_oct(OctRecipe(n_subjects=30, n_scans=4, effect=3), vendors=["vendor A"])
    profiles = measure_profiles(prepare_scans(scans.images), depth=DEPTH)
    mean = profiles.groupby(scans.table["participant_id"].to_numpy()).mean()
    thickness = scans.truth.set_index("participant_id")["thickness"][mean.index]
    alike = [abs(np.corrcoef(mean[name], thickness)[0, 1]) for name in mean]
    assert max(alike) > 0.6


def test_textures_are_shares_and_gradients():
    flat, striped = np.zeros((48, 64)), np.tile(np.arange(64) % 2, (48, 1)).astype(float)
    table = describe_texture(np.stack([flat, striped]))
    patterns = table[[f"pattern {number}" for number in range(10)]]
    np.testing.assert_allclose(patterns.sum(axis=1), 1)
    assert patterns.loc[0, "pattern 8"] == 1, "eight neighbours, none darker"
    assert len(table.columns) == 10 + 8 * 4 * 4


@pytest.mark.parametrize(
    ("images", "given", "error", "said"),
    [
        ([], {}, ValueError, "at least one B-scan, got none"),
        ([np.zeros((4, 4))], {}, TypeError, "image 0 must be a SimpleITK image"),
        ([sitk.Image(4, 4, 4, sitk.sitkFloat32)], {}, ValueError, "image 0 must have two dimensions, got 3"),
        ([make_scan(np.zeros((9, 9)))], {"grid": (4, 9)}, ValueError, "grid must be two sizes of at least 8"),
        ([make_scan(np.zeros((9, 9)))], {"grid": (9, 9, 9)}, ValueError, "grid must be two sizes"),
        ([make_scan(np.zeros((9, 9)))], {"smoothing": "more"}, ValueError, "smoothing must be one of"),
    ],
)
def test_what_is_no_scan_is_refused(images, given, error, said):
    with pytest.raises(error, match=said):
        prepare_scans(images, **given)
