"""Simulated EEG and B-scans: what is true in them can be measured, and what is switched off is gone."""

import mne
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from dqc_lib.simulation import EegRecipe, OctRecipe, simulate_eeg, simulate_oct
from dqc_lib.simulation.eeg import CHANNELS, RATE
from dqc_lib.simulation.oct import DEPTH, LAYERS, THINNED, VENDORS, WIDTH

QUIET = {"site": 0, "artefacts": 0}


def measure_density(raw, channel):
    """Returns frequencies and densities of a channel by scipy's periodogram, not MNE's."""
    from scipy.signal import welch

    return welch(raw.get_data(picks=[channel])[0] * 1e6, RATE, nperseg=512)


# EEG


def test_recordings_are_mnes_with_positions_a_subject_and_the_mains_frequency():
    recordings = simulate_eeg(EegRecipe(n_subjects=2, n_sites=1, seconds=5))
    for subject, raw in recordings:
        assert isinstance(raw, mne.io.RawArray)
        assert (raw.ch_names, raw.info["sfreq"], raw.n_times) == (list(CHANNELS), RATE, 640)
        assert raw.info["subject_info"]["his_id"] == subject
        assert raw.info["line_freq"] == 50
        assert raw.get_montage() is not None
        assert 1e-6 < raw.get_data().std() < 1e-4, "volts"


def test_the_same_recipe_gives_the_same_recordings_and_another_seed_others():
    recipe = EegRecipe(n_subjects=3, seconds=4)
    first, again, other = (
        simulate_eeg(r).raw["sub-002"].get_data() for r in (recipe, recipe, EegRecipe(3, seconds=4, seed=1))
    )
    assert (first == again).all()
    assert not np.allclose(first, other)


def test_a_subject_is_the_same_person_in_a_larger_study():
    few, many = (simulate_eeg(EegRecipe(n_subjects=n, seconds=4)) for n in (3, 6))
    assert (few.raw["sub-003"].get_data() == many.raw["sub-003"].get_data()).all()


@pytest.mark.parametrize("n_sites", [1, 2, 3, 4])
def test_every_site_has_as_many_patients_as_controls(n_sites):
    participants = simulate_eeg(EegRecipe(n_subjects=4 * n_sites, n_sites=n_sites, seconds=4)).participants
    assert (participants.groupby("site")["diagnosis"].agg(["size", "sum"]).to_numpy() == [4, 2]).all()


def test_without_effect_the_diagnosis_changes_nothing_and_with_one_only_patients_slow_down():
    traits = {
        effect: simulate_eeg(EegRecipe(n_subjects=8, seconds=4, effect=effect)).truth["slowing"] for effect in (0, 2)
    }
    diagnosis = simulate_eeg(EegRecipe(n_subjects=8, seconds=4)).participants["diagnosis"]
    np.testing.assert_allclose(traits[2] - traits[0], np.where(diagnosis == 1, 1, -1))


def test_the_spectrum_peaks_where_the_truth_says():
    recordings = simulate_eeg(EegRecipe(n_subjects=6, seconds=60, **QUIET))
    for truth in recordings.truth.itertuples():
        frequencies, density = measure_density(recordings.raw[truth.participant_id], "O1")
        inside = (frequencies > 7) & (frequencies < 13)
        mean = np.average(frequencies[inside], weights=density[inside] ** 2)
        assert abs(mean - truth.alpha_peak) < 0.6


def test_alpha_is_strongest_at_the_back():
    raw = simulate_eeg(EegRecipe(n_subjects=1 + 1, n_sites=1, seconds=30, individuality=0, **QUIET)).raw["sub-001"]
    power = {}
    for channel in ("O1", "O2", "F3", "F4"):
        frequencies, density = measure_density(raw, channel)
        power[channel] = density[(frequencies > 8) & (frequencies < 12)].mean()
    assert min(power["O1"], power["O2"]) > 2 * max(power["F3"], power["F4"])


def test_sites_differ_in_hum_and_reference_and_without_site_they_do_not():
    recordings = simulate_eeg(EegRecipe(n_subjects=3, n_sites=3, seconds=10, artefacts=0))
    average, central, temporal = (recordings.raw[f"sub-00{number}"].get_data() for number in (1, 2, 3))
    np.testing.assert_allclose(average.sum(axis=0), 0, atol=1e-12)
    assert np.ptp(central[CHANNELS.index("Cz")]) == 0 == np.ptp(temporal[CHANNELS.index("T7")])
    frequencies, density = measure_density(recordings.raw["sub-001"], "O1")
    hum = density[np.abs(frequencies - 50) < 0.5].max() / np.median(density[frequencies > 40])
    assert hum > 20
    still = simulate_eeg(EegRecipe(n_subjects=3, n_sites=3, seconds=10, **QUIET)).raw["sub-002"]
    np.testing.assert_allclose(still.get_data().sum(axis=0), 0, atol=1e-12)


def test_without_individuality_and_effect_all_subjects_have_one_trait():
    truth = simulate_eeg(EegRecipe(n_subjects=4, seconds=4, individuality=0)).truth
    assert (truth["slowing"] == 0).all() and (truth["alpha_peak"] == 10).all()


def test_a_bad_channel_is_far_above_the_others_and_told_in_the_truth_only():
    recordings = simulate_eeg(EegRecipe(n_subjects=12, seconds=10, site=0))
    bad = recordings.truth.query("bad_channel != ''")
    assert 0 < len(bad) < 12
    for row in bad.itertuples():
        # against the median channel: the average reference carries what one loose electrode picks up
        spread = recordings.raw[row.participant_id].get_data().std(axis=1)
        assert spread[CHANNELS.index(row.bad_channel)] > 3 * np.median(spread)
    assert set(recordings.participants) == {"participant_id", "site", "diagnosis"}
    assert (simulate_eeg(EegRecipe(n_subjects=12, seconds=4, artefacts=0)).truth["bad_channel"] == "").all()


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        ({"n_subjects": 1}, ValueError, "EegRecipe.n_subjects must be a whole number of at least 2"),
        ({"n_subjects": 2.5}, TypeError, "EegRecipe.n_subjects"),
        ({"n_sites": 0}, ValueError, "EegRecipe.n_sites"),
        ({"effect": -1}, ValueError, "EegRecipe.effect must be a finite number >= 0, got -1"),
        ({"site": np.nan}, ValueError, "EegRecipe.site"),
        ({"seconds": 3}, ValueError, "at least 4"),
        ({"seed": -1}, ValueError, "EegRecipe.seed"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(wrong, error, said):
    with pytest.raises(error, match=said):
        EegRecipe(**wrong)


def test_only_recipes_are_simulated():
    with pytest.raises(TypeError, match="recipe must be an EegRecipe, got dict"):
        simulate_eeg({})
    with pytest.raises(TypeError, match="recipe must be an OctRecipe, got EegRecipe"):
        simulate_oct(EegRecipe())


# OCT


def read(image):
    return sitk.GetArrayFromImage(image)


def test_scans_are_images_with_the_vendors_pixels_over_the_same_millimetres():
    scans = simulate_oct(OctRecipe(n_subjects=2, n_scans=1))
    for image, vendor in zip(scans.images, scans.table["vendor"], strict=True):
        assert image.GetSize() == VENDORS[vendor]["size"]
        np.testing.assert_allclose(np.multiply(image.GetSize(), image.GetSpacing()), [WIDTH, DEPTH])
        assert image.GetPixelID() == sitk.sitkFloat32
        assert 0 <= read(image).min() < read(image).max() <= 255


def test_the_same_recipe_gives_the_same_scans_and_every_scan_has_speckle_of_its_own():
    recipe = OctRecipe(n_subjects=2, n_scans=2)
    first, again = simulate_oct(recipe), simulate_oct(recipe)
    assert all((read(a) == read(b)).all() for a, b in zip(first.images, again.images, strict=True))
    assert (read(first.images[0]) != read(first.images[1])).any()


def test_the_same_retina_can_be_scanned_by_either_vendor():
    recipe = OctRecipe(n_subjects=4, n_scans=1)
    first, second = (simulate_oct(recipe, vendors=[vendor]) for vendor in VENDORS)
    pd.testing.assert_frame_equal(first.truth, second.truth)
    assert set(first.table["vendor"]) == {"vendor A"} and set(second.table["vendor"]) == {"vendor B"}


def test_vendors_see_as_many_patients_as_controls():
    table = simulate_oct(OctRecipe(n_subjects=8, n_scans=1)).table
    assert (table.groupby("vendor")["diagnosis"].agg(["size", "sum"]).to_numpy() == [4, 2]).all()


def test_speckle_is_that_of_the_looks():
    # of the mean of L exponential variables the standard deviation is mean / sqrt(L); the vitreous is all alike
    scans = simulate_oct(OctRecipe(n_subjects=20, n_scans=1, individuality=0), vendors=["vendor A"])
    vitreous = np.concatenate([read(image)[:4].ravel() for image in scans.images])
    assert vitreous.std() / vitreous.mean() == pytest.approx(1 / np.sqrt(VENDORS["vendor A"]["looks"]), rel=0.1)


def test_without_a_difference_between_vendors_only_the_pixels_differ():
    recipe = OctRecipe(n_subjects=2, n_scans=3, vendor=0, individuality=0)
    means = [np.mean([read(i).mean() for i in simulate_oct(recipe, vendors=[name]).images]) for name in VENDORS]
    assert means[0] == pytest.approx(means[1], rel=0.03)
    apart = [
        np.mean([read(i).mean() for i in simulate_oct(OctRecipe(2, 3, individuality=0), vendors=[name]).images])
        for name in VENDORS
    ]
    assert apart[1] > 1.2 * apart[0]


def test_disease_thins_one_layer_by_a_tenth_per_standard_deviation():
    healthy, ill = (simulate_oct(OctRecipe(n_subjects=8, n_scans=1, effect=effect)).truth for effect in (0, 2))
    np.testing.assert_allclose(healthy["thickness"], LAYERS[THINNED][0] * np.exp(-0.1 * healthy["severity"]))
    np.testing.assert_allclose(np.abs(np.log(ill["thickness"] / healthy["thickness"])), 0.1)


def test_scans_of_one_eye_are_more_alike_than_those_of_two():
    scans = simulate_oct(OctRecipe(n_subjects=6, n_scans=4), vendors=["vendor A"])
    smooth = np.stack([read(sitk.Median(image, (2, 2))).ravel() for image in scans.images])
    alike = np.corrcoef(smooth)
    own = np.equal.outer(*2 * [scans.table["participant_id"].to_numpy()])
    assert alike[own & ~np.eye(len(own), dtype=bool)].mean() > alike[~own].mean() + 0.05


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"n_subjects": 1}, "OctRecipe.n_subjects"),
        ({"n_scans": 0}, "OctRecipe.n_scans"),
        ({"effect": np.inf}, "OctRecipe.effect must be a finite number >= 0, got inf"),
        ({"vendor": -1}, "OctRecipe.vendor"),
    ],
)
def test_scans_that_cannot_be_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        OctRecipe(**wrong)


@pytest.mark.parametrize("vendors", [[], ["<img src=x onerror=alert(1)>"]])
def test_unknown_vendors_are_named(vendors):
    with pytest.raises(ValueError, match="vendors must be some of"):
        simulate_oct(OctRecipe(n_subjects=2), vendors=vendors)
