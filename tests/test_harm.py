"""Harmful samples: the artefacts, their placement in a cohort, and the files."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from scipy.special import jv

from dqc_lib import artefacts
from dqc_lib.cohort import Cohort, read_bids, write_bids
from dqc_lib.harm import HARMS, HarmKind, apply_harm, describe_harm, flip_label, parse_harm, place_harm, write_harmful
from dqc_lib.volumes import read_volume, write_volume

KINDS = list(HARMS)
IMAGE_KINDS = [name for name, kind in HARMS.items() if kind.image]
LEVELS = {"air": 0, "fluid": 50, "grey": 130, "white": 190}


def make_head(shape=(20, 24, 18)):
    """A head of three shells, white matter, grey matter, fluid, with a pool of fluid on the left; air around."""
    axes = np.meshgrid(*(np.linspace(-1.1, 1.1, n) for n in shape), indexing="ij")
    radius = np.sqrt(sum(axis**2 for axis in axes))
    pool = (axes[0] < -0.2) & (radius < 0.5)
    return np.select([pool, radius < 0.6, radius < 0.85, radius < 1.0], [50, 190, 130, 50], 0).astype(np.uint8)


@pytest.fixture
def head():
    return make_head()


def test_the_ten_kinds_are_there_and_cannot_be_changed():
    assert len(HARMS) == 10
    assert [name for name, kind in HARMS.items() if not kind.image] == ["label flip"]
    assert all(0 < kind.default_strength <= kind.max_strength for kind in HARMS.values())
    assert all(kind.name == name and kind.summary and kind.strength_means for name, kind in HARMS.items())
    with pytest.raises(TypeError):
        HARMS["inversion"] = HarmKind("x", "x", 1.0, 1.0, "x", None)


@pytest.mark.parametrize("kind", KINDS)
def test_strength_zero_returns_an_equal_copy(kind, head):
    harmed = apply_harm(head, kind, strength=0)
    assert np.array_equal(harmed, head) and harmed is not head and not np.shares_memory(harmed, head)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strongest", [False, True])
def test_shape_type_and_range_are_kept_and_the_input_is_not_touched(kind, dtype, strongest, head):
    image = head.astype(dtype)
    harmed = apply_harm(image, kind, strength=HARMS[kind].max_strength if strongest else None, seed=4)
    assert (harmed.shape, harmed.dtype) == (image.shape, image.dtype)
    assert harmed.min() >= 0 and harmed.max() <= 255 and np.isfinite(harmed).all()
    assert np.array_equal(image, head)
    assert np.array_equal(harmed, image) == (kind == "label flip")


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_harm(kind, head):
    assert np.array_equal(apply_harm(head, kind, seed=7), apply_harm(head, kind, seed=7))


@pytest.mark.parametrize("kind", ["additive noise", "noise only", "blank", "motion ghosting", "bias field"])
def test_another_seed_gives_other_random_harm(kind, head):
    assert not np.array_equal(apply_harm(head, kind, seed=7), apply_harm(head, kind, seed=8))


@pytest.mark.parametrize("kind", IMAGE_KINDS)
def test_more_strength_moves_the_image_further_away(kind, head):
    top = HARMS[kind].max_strength
    steps = [1.0, 2.0] if kind == "axis swap" else [0.25 * top, 0.5 * top]
    low, high = (np.abs(apply_harm(head, kind, strength=s, seed=1) - head.astype(float)).mean() for s in steps)
    assert 0 < low < high


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_field_of_view_is_no_error(kind):
    harmed = apply_harm(np.zeros((4, 5, 6), dtype=np.uint8), kind)
    assert harmed.shape == (4, 5, 6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_voxel_is_no_error(kind):
    assert apply_harm(np.full((1, 1, 1), 9.0, dtype=np.float32), kind).shape == (1, 1, 1)


def test_an_unknown_kind_lists_the_kinds(head):
    with pytest.raises(KeyError, match="'rust'.*inversion.*cropped field of view"):
        apply_harm(head, "rust")


@pytest.mark.parametrize("kind", KINDS)
def test_a_strength_out_of_range_is_refused(kind, head):
    for strength in (-0.1, HARMS[kind].max_strength + 0.1, float("nan")):
        with pytest.raises(ValueError, match=f"strength of '{kind}' must be .* from 0 to"):
            apply_harm(head, kind, strength=strength)


@pytest.mark.parametrize("kind", ["label flip", "axis swap"])
def test_half_a_step_is_refused(kind, head):
    with pytest.raises(ValueError, match=r"must be a whole number from 0 to \d; came 0.5"):
        apply_harm(head, kind, strength=0.5)


def test_arrays_that_are_no_image_are_refused(head):
    for array in (head[0], head[None], head.astype(complex), head > 0, np.zeros((0, 2, 2))):
        with pytest.raises(ValueError, match="expected real voxels of shape"):
            apply_harm(array, "inversion")
    with pytest.raises(ValueError, match="maximum must be positive and finite; came 0"):
        apply_harm(head, "inversion", maximum=0)


def test_inversion_equals_that_of_simpleitk(head):
    oracle = sitk.InvertIntensityImageFilter()
    oracle.SetMaximum(255)
    expected = sitk.GetArrayFromImage(oracle.Execute(sitk.GetImageFromArray(head)))
    assert np.array_equal(apply_harm(head, "inversion"), expected)


def test_inversion_at_half_strength_is_flat(head):
    assert np.allclose(apply_harm(head.astype(np.float32), "inversion", strength=0.5), 127.5)


@pytest.mark.parametrize("strength", [0.5, 1.0, 2.0])
def test_additive_noise_has_the_published_spread(strength):
    flat = np.full((40, 40, 40), 127.0)
    noise = apply_harm(flat, "additive noise", strength=strength, seed=2, maximum=255) - 127.0
    assert noise.std() == pytest.approx(25 * strength, rel=0.02) and noise.mean() == pytest.approx(0, abs=0.6)


def test_additive_noise_follows_the_intensity_scale():
    small, large = np.full((20, 20, 20), 0.5), np.full((20, 20, 20), 500.0)
    ours = [apply_harm(flat, "additive noise", seed=2, maximum=top) for flat, top in ((small, 1), (large, 1000))]
    assert np.allclose(1000 * ours[0], ours[1])


def test_additive_noise_on_8_bits_is_rounded_and_clipped():
    dark = apply_harm(np.zeros((40, 40, 40), dtype=np.uint8), "additive noise", seed=3)
    # The positive half of N(0, 25) has mean 25 / sqrt(2 pi); cutting decimals off would lose a quarter more.
    assert dark.mean() == pytest.approx(25 / np.sqrt(2 * np.pi), abs=0.15)
    assert (dark == 0).mean() == pytest.approx(0.508, abs=0.01)


def test_noise_only_leaves_no_anatomy_and_keeps_the_level(head):
    image = head.astype(np.float64) / 4
    noise = apply_harm(image, "noise only", seed=5)
    assert abs(np.corrcoef(noise.ravel(), image.ravel())[0, 1]) < 0.05
    assert np.sqrt((noise**2).mean()) == pytest.approx(np.sqrt((image[image > 0] ** 2).mean()), rel=0.03)
    assert noise.std() / noise.mean() == pytest.approx(np.sqrt(4 / np.pi - 1), rel=0.03)  # Rayleigh


def test_axis_swap_mirrors_then_exchanges_axes():
    cube = np.arange(27).reshape(3, 3, 3)
    mirrored, swapped = (apply_harm(cube, "axis swap", strength=s) for s in (1, 2))
    assert mirrored[0, 1, 2] == cube[2, 1, 2]
    assert swapped[0, 1, 2] == cube[2, 2, 1]


def test_axis_swap_keeps_the_middle_where_axes_differ():
    image = np.zeros((2, 6, 4), dtype=np.uint8)
    image[0, :, 0] = [1, 2, 3, 4, 5, 6]
    swapped = apply_harm(image, "axis swap")
    # The second axis becomes the third, where four voxels of six fit; the third lies in the middle of the second.
    assert swapped[1].tolist() == [[0] * 4, [2, 3, 4, 5], [0] * 4, [0] * 4, [0] * 4, [0] * 4]
    assert swapped[0].sum() == 0


def test_a_blank_scan_holds_the_noise_floor_alone(head):
    blank = apply_harm(head, "blank", seed=1)
    # Rayleigh with scale 2.55: mean 3.2, and above 20 once in 10 ** 13.
    assert blank.mean() == pytest.approx(2.55 * np.sqrt(np.pi / 2), abs=0.1)
    assert blank.max() < 20 and blank.min() < blank.max()


@pytest.mark.parametrize("strength", [0.5, 1.2, 2.0])
def test_ghosts_keep_the_energy_of_the_image(strength, head):
    image = head.astype(np.float64) / 10
    ghosted = apply_harm(image, "motion ghosting", strength=strength, seed=6)
    assert (ghosted**2).sum() == pytest.approx((image**2).sum(), rel=1e-9)
    lines = [(np.abs(np.fft.fft(each, axis=1)) ** 2).sum() for each in (image, ghosted)]
    assert lines[0] == pytest.approx(lines[1], rel=1e-9)


def test_ghosts_of_a_point_have_the_weights_of_bessel_functions():
    point = np.zeros((3, 101, 3))
    point[1, 50, 1] = 100.0
    ghosted = apply_harm(point, "motion ghosting", strength=0.5, seed=0)
    line = ghosted[1, :, 1]
    assert ghosted.sum() == pytest.approx(line.sum())
    first = np.flatnonzero(np.isclose(line, 100 * jv(1, 0.5), rtol=1e-3))
    assert line[50] == pytest.approx(100 * jv(0, 0.5), rel=1e-3)
    assert len(first) == 2 and first.sum() == 100 and 16 <= 50 - first[0] <= 33


def test_the_bias_field_is_a_polynomial_of_second_order_and_spans_its_strength():
    ball = make_head((14, 15, 16)) > 0
    image = np.where(ball, 100.0, 1e-3)
    log_gain = np.log(apply_harm(image, "bias field", strength=1.5, seed=9, maximum=1e9) / image)
    i, j, k = (axis.ravel() for axis in np.indices(image.shape, dtype=float))
    basis = np.stack([np.ones_like(i), i, j, k, i * i, j * j, k * k, i * j, i * k, j * k], axis=1)
    fitted = basis @ np.linalg.lstsq(basis, log_gain.ravel(), rcond=None)[0]
    assert np.allclose(fitted, log_gain.ravel(), atol=1e-8)
    assert (log_gain[ball].min(), log_gain[ball].max()) == pytest.approx((-1.5, 0.0))


def test_wrong_contrast_turns_the_order_of_tissues_and_leaves_air_dark(head):
    changed = apply_harm(head, "wrong contrast")
    fluid, grey, white = (np.unique(changed[head == LEVELS[name]]) for name in ("fluid", "grey", "white"))
    assert len(fluid) == len(grey) == len(white) == 1
    assert fluid[0] > grey[0] > white[0] > 0
    assert (changed[head == 0] == 0).all()


@pytest.mark.parametrize(("strength", "lost"), [(0.25, 5), (0.5, 10), (0.9, 18)])
def test_a_cropped_field_of_view_loses_its_share_of_the_head(strength, lost):
    image = np.zeros((4, 4, 30), dtype=np.uint8)
    image[:, :, 5:25] = 100
    sides = set()
    for seed in range(12):
        kept = np.flatnonzero(apply_harm(image, "cropped field of view", strength=strength, seed=seed).any(axis=(0, 1)))
        assert len(kept) == 20 - lost and np.ptp(kept) == len(kept) - 1
        sides.add("bottom" if kept[-1] == 24 else "top")
    assert sides == {"bottom", "top"}


def test_a_label_flips_to_the_other_diagnosis():
    assert (flip_label(0), flip_label(np.int8(1))) == (1, 0)
    with pytest.raises(ValueError, match="came 2"):
        flip_label(2)


@pytest.mark.parametrize(
    ("kind", "strength", "mark"),
    [
        ("inversion", None, "inversion"),
        ("additive noise", 1, "additive noise"),
        ("additive noise", 4, "additive noise @ 4"),
        ("cropped field of view", 0.125, "cropped field of view @ 0.125"),
    ],
)
def test_a_mark_names_kind_and_unusual_strength(kind, strength, mark):
    assert describe_harm(kind, strength) == mark
    assert parse_harm(mark) == (kind, HARMS[kind].default_strength if strength is None else strength)


def test_marks_of_nothing_known_are_refused():
    with pytest.raises(KeyError, match="rust"):
        parse_harm("rust")
    with pytest.raises(ValueError, match="from 0 to 1; came 7"):
        parse_harm("inversion @ 7")


def make_cohort(sizes, *, roles=True):
    """A cohort with so many training subjects per center, and one test subject more in each."""
    rows = [
        {"subject": f"sub-{center}{at}", "center": center, "role": "train" if at < size else "test"}
        for center, size in sizes.items()
        for at in range(size + 1)
    ]
    table = pd.DataFrame(rows).assign(sex="F", age=60.0, scanner="unknown")
    table["diagnosis"] = np.arange(len(table)) % 2
    table["path"] = [f"/nowhere/{subject}.nii.gz" for subject in table["subject"]]
    return Cohort(table if roles else table[table["role"] == "train"].drop(columns="role"), Path("/nowhere"))


@pytest.fixture
def cohort():
    return make_cohort({"A": 3, "B": 2, "C": 4, "D": 1, "E": 5})


def test_named_centers_become_harmful_in_training_alone(cohort):
    table = place_harm(cohort, kind="inversion", centers=["B", "D"]).table
    marked = table[table["harm"] == "inversion"]
    assert set(marked["subject"]) == {"sub-B0", "sub-B1", "sub-D0"}
    assert set(marked["placement"]) == {"center"} and set(marked["role"]) == {"train"}
    assert (table.loc[table["harm"] == "", "placement"] == "").all() and "harm" not in cohort.table


def test_singles_come_from_different_good_centers_of_two_or_more(cohort):
    table = place_harm(cohort, kind="blank", centers=["E"], n_single=3).table
    singles = table[table["placement"] == "single"]
    assert sorted(singles["center"]) == ["A", "B", "C"] and set(singles["role"]) == {"train"}


def test_every_subject_of_a_center_can_be_drawn(cohort):
    drawn = set()
    for seed in range(60):
        drawn |= place_harm(cohort, kind="blank", n_single=1, seed=seed).harmful
    assert drawn == set(cohort.table.query("role == 'train' and center != 'D'")["subject"])


def test_a_number_of_centers_is_drawn(cohort):
    table = place_harm(cohort, kind="inversion", centers=2, seed=3).table
    harmed = table[table["harm"] != ""]
    assert harmed["center"].nunique() == 2
    train = table[table["role"] == "train"]
    assert (train[train["center"].isin(harmed["center"])]["harm"] == "inversion").all()


def test_all_centers_can_be_harmful(cohort):
    assert len(place_harm(cohort, kind="inversion", centers=5).harmful) == 15


def test_what_is_drawn_does_not_depend_on_the_order_of_rows(cohort):
    turned = cohort.replace(cohort.table.iloc[::-1])
    marks = [place_harm(each, kind="inversion", centers=1, n_single=2, seed=5).harmful for each in (cohort, turned)]
    assert marks[0] == marks[1]


def test_repeated_calls_never_touch_a_center_that_holds_harm(cohort):
    first = place_harm(cohort, kind="inversion", centers=["E"], n_single=1)
    second = place_harm(first, kind="additive noise", strength=4, n_single=2)
    table = second.table[second.table["harm"] != ""]
    assert first.harmful < second.harmful and len(second.harmful) == 5 + 1 + 2
    assert sorted(table.loc[table["placement"] == "single", "center"]) == ["A", "B", "C"]
    assert (table["harm"] == "additive noise @ 4").sum() == 2
    with pytest.raises(ValueError, match=r"^0 single harmful images are possible.*n_single=1"):
        place_harm(second, kind="inversion", n_single=1)
    with pytest.raises(ValueError, match=r"centers \['E'\] hold harmful subjects already"):
        place_harm(second, kind="inversion", centers=["E"])


def test_without_roles_all_subjects_count():
    cohort = make_cohort({"A": 3, "B": 2}, roles=False)
    assert len(place_harm(cohort, kind="inversion", centers=["A"], n_single=1).harmful) == 4


def test_a_blinded_cohort_shows_no_trace_of_harm(cohort):
    blind = place_harm(cohort, kind="inversion", centers=2).blinded()
    assert list(blind.table.columns) == list(cohort.table.columns)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"centers": ["A", "Z"]}, r"unknown centers \['Z'\]; the cohort has \['A', 'B', 'C', 'D', 'E'\]"),
        ({"centers": 6}, "expected 0 to 5 centers.*came 6"),
        ({"centers": -1}, "expected 0 to 5 centers.*came -1"),
        ({"n_single": 5}, "^4 single harmful images are possible.*n_single=5"),
        ({"centers": ["A"], "n_single": 4}, "^3 single harmful images are possible"),
        ({"n_single": -1}, "n_single=-1"),
        ({}, "expected some harm"),
        ({"n_single": 1, "strength": 0}, "expected some harm"),
        ({"n_single": 1, "strength": 2}, "strength of 'inversion'"),
        ({"n_single": 1, "among": "verification"}, "^0 single"),
    ],
)
def test_harm_that_cannot_be_placed_is_refused(cohort, asked, words):
    with pytest.raises(ValueError, match=words):
        place_harm(cohort, kind="inversion", **asked)


def test_placing_an_unknown_kind_or_a_single_name_is_refused(cohort):
    with pytest.raises(KeyError, match="unknown kind of harm 'rust'"):
        place_harm(cohort, kind="rust", n_single=1)
    with pytest.raises(TypeError, match="came the text 'A'"):
        place_harm(cohort, kind="inversion", centers="A")


@pytest.fixture
def good(tmp_path):
    """A cohort of two centers with real files, heads of different sizes on an oblique-free grid of 2 x 3 x 4 mm."""
    cohort = make_cohort({"A": 2, "B": 3})
    affine = np.array([[2.0, 0, 0, -20], [0, 3.0, 0, -30], [0, 0, 4.0, -40], [0, 0, 0, 1]])
    paths = []
    for at, subject in enumerate(cohort.table["subject"]):
        paths.append(tmp_path / "good" / subject / "anat" / f"{subject}_T1w.nii.gz")
        write_volume(paths[-1], make_head((12, 14, 10)) - np.uint8(at) * (make_head((12, 14, 10)) > 0), affine=affine)
    return Cohort(cohort.table.assign(path=[str(path) for path in paths]), tmp_path / "good")


def test_harmful_files_hold_the_harm_and_good_paths_stay(good, tmp_path):
    marked = place_harm(good, kind="inversion", centers=["A"])
    seen = []
    dirty = write_harmful(marked, tmp_path / "dirty", progress=lambda *done: seen.append(done))
    before, after = good.table.set_index("subject"), dirty.table.set_index("subject")
    assert seen == [(1, 2), (2, 2)]
    for subject in after.index:
        if subject not in {"sub-A0", "sub-A1"}:
            assert after.at[subject, "path"] == before.at[subject, "path"]
            continue
        old, new = (sitk.ReadImage(table.at[subject, "path"]) for table in (before, after))
        assert np.array_equal(sitk.GetArrayFromImage(new), 255 - sitk.GetArrayFromImage(old))
        assert new.GetPixelID() == sitk.sitkUInt8
        for place in ("GetOrigin", "GetSpacing", "GetDirection"):
            assert getattr(new, place)() == pytest.approx(getattr(old, place)())
    assert (after["diagnosis"] == before["diagnosis"]).all() and dirty.harmful == marked.harmful


def test_the_folder_reads_as_a_cohort_of_the_harmful_subjects(good, tmp_path):
    marked = place_harm(good, kind="additive noise", strength=2, centers=["A"], n_single=1)
    dirty = write_harmful(marked, tmp_path / "dirty")
    again = read_bids(tmp_path / "dirty").table
    expected = dirty.table[dirty.table["harm"] != ""].reset_index(drop=True)
    pd.testing.assert_frame_equal(again[expected.columns.tolist()], expected, check_dtype=False)
    assert set(again["harm"]) == {"additive noise @ 2"}


def test_a_flipped_label_changes_the_diagnosis_and_not_the_image(good, tmp_path):
    dirty = write_harmful(place_harm(good, kind="label flip", centers=["B"]), tmp_path / "dirty")
    before, after = good.table.set_index("subject"), dirty.table.set_index("subject")
    flipped = (after["harm"] == "label flip").to_numpy()
    assert (after["diagnosis"] + before["diagnosis"])[flipped].tolist() == [1, 1, 1]
    assert (after["diagnosis"] == before["diagnosis"])[~flipped].all()
    images = [read_volume(table.at["sub-B0", "path"]).array for table in (before, after)]
    assert np.array_equal(*images)


def test_noise_depends_on_seed_and_subject_and_on_nothing_else(good, tmp_path):
    marked = place_harm(good, kind="noise only", centers=["A", "B"])
    few = marked.replace(marked.table[marked.table["subject"].isin(["sub-B1", "sub-A0"])].iloc[::-1])
    cohorts = [write_harmful(each, tmp_path / name, seed=3) for each, name in ((marked, "all"), (few, "few"))]
    cohorts.append(write_harmful(few, tmp_path / "other", seed=4))
    images = [read_volume(each.table.set_index("subject").at["sub-B1", "path"]).array for each in cohorts]
    assert np.array_equal(images[0], images[1]) and not np.array_equal(images[0], images[2])
    other = read_volume(cohorts[0].table.set_index("subject").at["sub-A0", "path"]).array
    assert not np.array_equal(images[0] > 100, other > 100)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_be_written_and_read_again(kind, good, tmp_path):
    dirty = write_harmful(place_harm(good, kind=kind, centers=["A"]), tmp_path / "dirty")
    for path in dirty.select(centers=["A"], role="train").table["path"]:
        assert read_volume(path).array.dtype == np.uint8


def rewrite(good, array):
    """The cohort with the first image replaced, marked as harmful by inversion."""
    path = good.table["path"].iloc[0]
    write_volume(path, array, affine=np.eye(4))
    marked = place_harm(good, kind="inversion", centers=["A"])
    return marked.replace(marked.table.iloc[:1])


def test_other_scales_are_harmed_in_their_own_units(good, tmp_path):
    image = (make_head((12, 14, 10)) * np.float32(10)).astype(np.int16)
    dirty = write_harmful(rewrite(good, image), tmp_path / "dirty")
    assert np.array_equal(read_volume(dirty.table["path"].iloc[0]).array, 1900 - image)
    dirty = write_harmful(rewrite(good, image), tmp_path / "fixed", maximum=2000)
    assert np.array_equal(read_volume(dirty.table["path"].iloc[0]).array, 2000 - image)


def test_negative_intensities_are_refused_by_subject(good, tmp_path):
    cohort = rewrite(good, make_head((12, 14, 10)).astype(np.float32) - 100)
    with pytest.raises(ValueError, match="subject 'sub-A0': expected intensities from 0 up, came -100"):
        write_harmful(cohort, tmp_path / "dirty")


def test_harm_that_leaves_no_contrast_is_refused_by_subject(good, tmp_path):
    cohort = rewrite(good, make_head((12, 14, 10)).astype(np.float32))
    cohort = cohort.replace(cohort.table.assign(harm="inversion @ 0.5"))
    with pytest.raises(ValueError, match="subject 'sub-A0': 'inversion' at strength 0.5 leaves"):
        write_harmful(cohort, tmp_path / "dirty")
    assert not (tmp_path / "dirty" / "participants.tsv").exists()


def test_an_image_that_could_not_be_harmed_is_mended_and_the_same_folder_taken(good, tmp_path):
    marked = place_harm(good, kind="inversion", centers=["A"])
    path = marked.table.query("subject == 'sub-A1'")["path"].iloc[0]
    image = read_volume(path).array.astype(np.float32)
    write_volume(path, image - 100, affine=np.eye(4))
    with pytest.raises(ValueError, match="subject 'sub-A1': expected intensities from 0 up, came -100"):
        write_harmful(marked, tmp_path / "dirty")
    assert not (tmp_path / "dirty").exists()
    write_volume(path, image, affine=np.eye(4))
    assert len(write_harmful(marked, tmp_path / "dirty").harmful) == 2


def test_nothing_is_written_where_marks_or_folder_are_wrong(good, tmp_path):
    marked = place_harm(good, kind="inversion", centers=["A"])
    write_bids(good, tmp_path / "taken")
    with pytest.raises(FileExistsError, match="holds files already, and no harm.json"):
        write_harmful(marked, tmp_path / "taken")
    with pytest.raises(ValueError, match="expected harmful subjects"):
        write_harmful(good, tmp_path / "none")
    with pytest.raises(KeyError, match="rust"):
        write_harmful(marked.replace(marked.table.replace("inversion", "rust")), tmp_path / "none")
    assert not (tmp_path / "none").exists() and not (tmp_path / "taken" / "sub-A0").exists()


@pytest.mark.parametrize("maximum", [-5.0, 0, float("nan"), float("inf")])
def test_a_maximum_that_is_none_claims_no_folder(good, tmp_path, maximum):
    marked = place_harm(good, kind="inversion", centers=["A"])
    with pytest.raises(ValueError, match=f"maximum must be positive and finite; came {maximum}"):
        write_harmful(marked, tmp_path / "dirty", maximum=maximum)
    assert not (tmp_path / "dirty").exists()
    assert len(write_harmful(marked, tmp_path / "dirty", maximum=255).harmful) == 2


def test_what_is_corrected_about_harmful_subjects_is_in_the_table_and_the_images_stay(good, tmp_path):
    marked = place_harm(good, kind="label flip", centers=["A"])
    first = write_harmful(marked, tmp_path / "dirty")
    times = {path: Path(path).stat().st_mtime_ns for path in first.table["path"]}
    table = marked.table.copy()
    table.loc[0, ["center", "sex", "age", "scanner", "role", "placement"]] = ["C", "M", 71.5, "=x", "test", "single"]
    write_harmful(marked.replace(table), tmp_path / "dirty")
    read = read_bids(tmp_path / "dirty").table
    assert read.loc[0, table.columns.drop(["diagnosis", "path"])].tolist() == (
        ["sub-A0", "C", "M", 71.5, "=x", "test", "label flip", "single"]
    )
    assert read["diagnosis"].tolist() == [1 - table.at[0, "diagnosis"], 1 - table.at[1, "diagnosis"]]
    assert {path: Path(path).stat().st_mtime_ns for path in times} == times


def test_artefacts_import_nothing_of_the_library():
    tree = ast.parse(Path(artefacts.__file__).read_text(encoding="utf-8"))
    modules = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not [module for module in modules if module.startswith("dqc_lib")]


def read_files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_harm_cut_short_between_any_two_files_is_done_again(good, tmp_path, killed_at):
    marked = place_harm(good, kind="inversion", centers=["A"])
    write_harmful(marked, tmp_path / "whole")
    expected = read_files(tmp_path / "whole")
    assert len(expected) == 2 + 4, "two images; harm, participants, their dictionary and description"
    for at in range(len(expected)):
        folder = tmp_path / str(at)
        with killed_at(at):
            write_harmful(marked, folder)
        assert not (folder / "participants.tsv").exists()
        write_harmful(marked, folder)
        assert read_files(folder) == expected, "and what was left half-written is gone"


@pytest.mark.parametrize("n_bytes", [0, 50])
def test_a_disk_that_is_full_at_the_first_file_leaves_a_folder_that_can_be_used(good, tmp_path, full_disk, n_bytes):
    marked = place_harm(good, kind="inversion", centers=["A"])
    with full_disk(n_bytes):
        write_harmful(marked, tmp_path / "harmed")
    assert len(write_harmful(marked, tmp_path / "harmed").harmful) == 2


def test_the_same_harm_is_written_once_and_other_harm_refused(good, tmp_path):
    marked = place_harm(good, kind="inversion", centers=["A"])
    first = write_harmful(marked, tmp_path / "harmed", seed=1)
    times = {path: Path(path).stat().st_mtime_ns for path in first.table["path"]}
    again = write_harmful(marked, tmp_path / "harmed", seed=1)
    assert again.table.equals(first.table)
    assert {path: Path(path).stat().st_mtime_ns for path in again.table["path"]} == times
    with pytest.raises(FileExistsError, match=r"other harm \(other seed\)"):
        write_harmful(marked, tmp_path / "harmed", seed=2)
    stronger = marked.replace(marked.table.replace("inversion", "inversion @ 0.9"))
    with pytest.raises(FileExistsError, match=r"other harm \(other harm: 'sub-A0'\)"):
        write_harmful(stronger, tmp_path / "harmed", seed=1)
