"""Harmonized images: what the standard and N4 do to one image, and what is written of a cohort."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dqc_lib.cohort import Cohort, read_bids
from dqc_lib.harmonization import (
    IntensityStandard,
    combine_landmarks,
    correct_bias,
    describe_intensities,
    harmonize_images,
    measure_landmarks,
    predict_harmonized,
    standardize_intensity,
    summarize_landmarks,
)
from dqc_lib.phantom import Recipe, draw_subjects, paint_phantom
from dqc_lib.simulation import RegionRecipe, simulate_regions
from dqc_lib.volumes import read_volume, write_volume

SHAPE = (20, 24, 20)
AFFINE = np.diag([8.0, 8.0, 8.0, 1.0])
STANDARD = IntensityStandard(tuple(np.linspace(50.0, 200.0, 11)), 3)


def make_head(seed=0, *, gain=1.0, shading=0.0):
    """A ball of two tissues with a little noise, air around; shaded from left to right by exp(shading * u)."""
    u, v, w = np.meshgrid(*(np.linspace(-1.1, 1.1, n) for n in SHAPE), indexing="ij")
    radius = np.sqrt(u**2 + v**2 + w**2)
    tissue = np.where(radius < 0.6, 150.0, 100.0) + np.random.default_rng(seed).normal(0, 3, SHAPE)
    return np.where(radius < 1.0, gain * tissue * np.exp(shading * u), 0.0)


def write_cohort(folder, *, harm=False, role=True, arrays=None):
    """Eight heads of two centers, the second brighter and shaded."""
    rows = []
    for number in range(8):
        center, name = "AB"[number // 4], f"sub-{number}"
        array = make_head(number, gain=1.0 + 0.3 * (center == "B"), shading=0.3 * (center == "B"))
        array = np.rint(np.clip(array, 0, 255)).astype(np.uint8) if arrays is None else arrays(array)
        path = write_volume(folder / name / "anat" / f"{name}_T1w.nii.gz", array, affine=AFFINE)
        row = {"subject": name, "center": center, "diagnosis": number % 2, "sex": "F", "age": 60.0 + number}
        row |= {"scanner": f"scanner {center}", "path": str(path)}
        row |= {"role": ("train", "train", "verification", "test")[number % 4]} if role else {}
        rows.append(
            row
            | (
                {"harm": "inversion" if number == 5 else "", "placement": "single" if number == 5 else ""}
                if harm
                else {}
            )
        )
    return Cohort(pd.DataFrame(rows), folder)


# One image


def test_landmarks_are_percentiles_of_the_foreground():
    array = np.zeros((10, 10, 10))
    array[2:8, 2:8, 2:8] = np.arange(216).reshape(6, 6, 6) + 1000.0
    wanted = np.percentile(np.arange(216) + 1000.0, [1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 99])
    np.testing.assert_allclose(measure_landmarks(array), wanted)


def test_a_site_sends_twelve_numbers_however_many_images_it_has():
    few, many = (summarize_landmarks([measure_landmarks(make_head(at)) for at in range(n)]) for n in (1, 6))
    assert len(few["landmarks"]) == len(many["landmarks"]) == 11
    assert (few["n"], many["n"]) == (1, 6)


def test_the_standard_of_separate_sites_is_that_of_all_images_pooled():
    marks = [measure_landmarks(make_head(at, gain=1 + 0.1 * at)) for at in range(7)]
    sites = {
        "A": summarize_landmarks(marks[:1]),
        "B": summarize_landmarks(marks[1:4]),
        "C": summarize_landmarks(marks[4:]),
    }
    apart = combine_landmarks(sites)
    pooled = np.mean([row / row[-1] for row in marks], axis=0) * 200
    np.testing.assert_allclose(apart.landmarks, pooled, rtol=1e-12)
    assert apart.n == 7


def test_a_standardized_image_has_the_landmarks_of_the_standard_and_its_own_order():
    image = make_head(3, gain=7.3)
    made = standardize_intensity(image, STANDARD)
    inside = image > 0
    found = np.percentile(made[inside], [1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 99])
    np.testing.assert_allclose(found, STANDARD.landmarks, rtol=0.005)
    order = np.argsort(image[inside], kind="stable")
    assert (np.diff(made[inside][order]) >= 0).all()
    assert (made[~inside] == 0).all()


def test_the_unit_of_an_image_falls_out():
    one, other = (standardize_intensity(make_head(1, gain=gain), STANDARD) for gain in (1.0, 1000.0))
    np.testing.assert_allclose(one, other, rtol=1e-4)


def test_an_image_of_two_levels_can_be_standardized():
    image = np.where(make_head() > 0, 40.0, 0.0)
    image[10, 12, 10] = 80.0
    made = standardize_intensity(image, STANDARD)
    assert np.isfinite(made).all() and made[0, 0, 0] == 0


def test_n4_takes_out_a_shading_that_is_known():
    flat, shaded = make_head(2), make_head(2, shading=0.4)
    inside = flat > 0
    corrected = correct_bias(shaded, shrink=2)
    left = [np.log(array[inside] / flat[inside]).std() for array in (shaded, corrected)]
    assert left[1] < 0.35 * left[0]
    assert (corrected[~inside] == 0).all()
    assert corrected[inside].mean() == pytest.approx(shaded[inside].mean(), rel=0.05)


def test_n4_gives_the_same_bits_twice_and_leaves_its_input_alone():
    image = make_head(4, shading=0.2)
    before = image.copy()
    assert np.array_equal(correct_bias(image), correct_bias(image))
    assert np.array_equal(image, before)


def test_n4_brings_a_phantom_nearer_to_the_one_without_a_bias_field():
    row = draw_subjects().iloc[95]
    who = {name: row[name] for name in ("center", "diagnosis", "sex", "age", "scanner")}
    scanned, ideal = (paint_phantom(row["subject"], recipe=Recipe(scanner=at), **who) for at in (1.0, 0.0))
    inside = (scanned > 60) & (ideal > 60)
    corrected = correct_bias(scanned)
    spread = [np.log(array[inside] / ideal[inside].astype(float)).std() for array in (scanned, corrected)]
    assert spread[1] < 0.8 * spread[0]


@pytest.mark.parametrize(
    "work", [measure_landmarks, correct_bias, lambda array: standardize_intensity(array, STANDARD)]
)
@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((8, 8)), "of shape"),
        (np.full((8, 8, 8), np.nan), "finite"),
        (np.full((8, 8, 8), 3.0), "not all the same"),
        (np.linspace(-1, 1, 512).reshape(8, 8, 8), "from 0 up"),
    ],
)
def test_what_is_no_image_is_refused(work, array, said):
    with pytest.raises(ValueError, match=said):
        work(array)


@pytest.mark.parametrize("landmarks", [(1.0, 2.0), (0.0, *range(1, 11)), (*range(11, 0, -1),), (np.nan,) * 11])
def test_a_standard_that_falls_or_holds_no_number_is_refused(landmarks):
    with pytest.raises(ValueError, match="landmarks"):
        IntensityStandard(landmarks, 3)


def test_nobody_gives_no_standard():
    with pytest.raises(ValueError, match="at least one image"):
        summarize_landmarks([])
    with pytest.raises(ValueError, match="at least one site"):
        combine_landmarks({})


# A cohort


def test_a_harmonized_cohort_is_a_bids_folder_and_the_origin_stays(tmp_path):
    cohort = write_cohort(tmp_path / "raw")
    before = {path: path.read_bytes() for path in (tmp_path / "raw").rglob("*.nii.gz")}
    made = harmonize_images(cohort, tmp_path / "even")
    assert all(path.read_bytes() == content for path, content in before.items())
    pd.testing.assert_frame_equal(made.table.drop(columns="path"), cohort.table.drop(columns="path"))
    read = read_bids(tmp_path / "even")
    assert list(read.table["subject"]) == list(cohort.table["subject"])
    for path, origin in zip(made.table["path"], cohort.table["path"], strict=True):
        image, source = read_volume(path), read_volume(origin)
        assert Path(path).is_relative_to(tmp_path / "even")
        assert image.array.dtype == source.array.dtype == np.uint8
        np.testing.assert_allclose(image.affine, source.affine)
    assert not (tmp_path / "even" / "derivatives").exists()


def test_centers_come_closer_than_they_were(tmp_path):
    cohort = write_cohort(tmp_path / "raw")
    made = harmonize_images(cohort, tmp_path / "even")
    apart = []
    for images in (cohort, made):
        found = describe_intensities(images).groupby(cohort.table.set_index("subject")["center"]).mean()
        apart.append((found.loc["A"] - found.loc["B"]).abs())
    assert (apart[1][["percentile 50", "percentile 90"]] < 0.1 * apart[0][["percentile 50", "percentile 90"]]).all()
    assert apart[1]["left back low"] < 0.5 * apart[0]["left back low"]


def test_the_standard_is_learnt_from_training_images_alone(tmp_path):
    cohort = write_cohort(tmp_path / "raw")
    other = cohort.table.copy()
    tested = other.index[other["role"] == "test"]
    for row in tested:
        path = tmp_path / "strange" / f"{row}.nii.gz"
        write_volume(path, 255 - read_volume(other.at[row, "path"]).array, affine=AFFINE)
        other.at[row, "path"] = str(path)
    one = harmonize_images(cohort, tmp_path / "one", steps=["intensity"])
    two = harmonize_images(cohort.replace(other), tmp_path / "two", steps=["intensity"])
    standards = [json.loads((tmp_path / name / "standard.json").read_text()) for name in ("one", "two")]
    assert standards[0] == standards[1] and standards[0]["n"] == 4
    trained = one.table.index[one.table["role"] == "train"]
    for row in trained:
        assert np.array_equal(
            read_volume(one.table.at[row, "path"]).array, read_volume(two.table.at[row, "path"]).array
        )


def test_without_roles_all_images_help_to_find_the_standard(tmp_path):
    harmonize_images(write_cohort(tmp_path / "raw", role=False), tmp_path / "even", steps=["intensity"])
    assert json.loads((tmp_path / "even" / "standard.json").read_text())["n"] == 8


def test_n4_alone_needs_no_standard(tmp_path):
    made = harmonize_images(write_cohort(tmp_path / "raw"), tmp_path / "even", steps=["bias"])
    assert not (tmp_path / "even" / "standard.json").exists()
    source = read_volume(tmp_path / "raw" / "sub-5" / "anat" / "sub-5_T1w.nii.gz").array
    wanted = np.clip(np.rint(correct_bias(source).astype(np.float32)), 0, 255)
    assert np.array_equal(read_volume(made.table.at[5, "path"]).array, wanted)


def test_marks_of_harm_stay(tmp_path):
    made = harmonize_images(write_cohort(tmp_path / "raw", harm=True), tmp_path / "even")
    assert made.harmful == {"sub-5"} == read_bids(tmp_path / "even").harmful


def test_real_numbers_stay_real_numbers(tmp_path):
    cohort = write_cohort(tmp_path / "raw", arrays=lambda array: (1000 * array).astype(np.float32))
    made = harmonize_images(cohort, tmp_path / "even", steps=["intensity"])
    image = read_volume(made.table.at[0, "path"]).array
    assert image.dtype == np.float32 and 195 < np.percentile(image[image > 0], 99) < 210


def test_what_is_there_is_read_and_what_was_left_half_way_is_finished(tmp_path):
    cohort = write_cohort(tmp_path / "raw")
    made = harmonize_images(cohort, tmp_path / "even")
    files = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (tmp_path / "even").rglob("*.nii.gz")}
    again = harmonize_images(cohort, tmp_path / "even")
    pd.testing.assert_frame_equal(made.table, again.table)
    assert all(path.stat().st_mtime_ns == when for path, (_, when) in files.items()), "nothing was written again"
    (tmp_path / "even" / "participants.tsv").unlink()
    lost = Path(made.table.at[3, "path"])
    lost.unlink()
    seen = []
    harmonize_images(cohort, tmp_path / "even", progress=lambda done, total: seen.append((done, total)))
    assert all(path.read_bytes() == content for path, (content, _) in files.items())
    assert seen == [(at, 8) for at in range(1, 9)]


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    cohort = write_cohort(tmp_path / "raw")
    harmonize_images(cohort, tmp_path / "even", steps=["intensity"])
    with pytest.raises(FileExistsError, match="other steps"):
        harmonize_images(cohort, tmp_path / "even")
    moved = cohort.table.assign(path=cohort.table["path"].to_numpy()[::-1])
    with pytest.raises(FileExistsError, match=r"other source: 'sub-0'"):
        harmonize_images(cohort.replace(moved), tmp_path / "even", steps=["intensity"])
    with pytest.raises(FileExistsError, match="holds files already"):
        harmonize_images(cohort, tmp_path / "raw")


def test_what_is_corrected_about_the_subjects_is_in_the_table_and_the_images_stay(tmp_path):
    cohort = write_cohort(tmp_path / "raw", harm=True)
    harmonize_images(cohort, tmp_path / "even", steps=["intensity"])
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "even").rglob("*") if path.is_file()}
    harmonize_images(cohort, tmp_path / "even", steps=["intensity"])
    assert files == {path: path.stat().st_mtime_ns for path in files}, "where nothing differs, nothing is written"
    table = cohort.table.copy()
    table.loc[0, ["center", "diagnosis", "sex", "age", "scanner"]] = ["B", 1, "M", 71.5, "scanner B"]
    table.loc[2, ["role", "harm", "placement"]] = ["test", "blank", "single"]
    corrected = harmonize_images(cohort.replace(table), tmp_path / "even", steps=["intensity"])
    read = read_bids(tmp_path / "even").table
    pd.testing.assert_frame_equal(read, corrected.table)
    assert read["diagnosis"].tolist() == [1, 1, 0, 1, 0, 1, 0, 1] and read.at[2, "harm"] == "blank"
    plain = cohort.replace(cohort.table.drop(columns=["harm", "placement"]))
    harmonize_images(plain, tmp_path / "even", steps=["intensity"])
    assert list(read_bids(tmp_path / "even").table) == list(plain.table)
    images = [path for path in files if path.name.endswith(".nii.gz")]
    assert len(images) == 8 and all(path.stat().st_mtime_ns == files[path] for path in images)


@pytest.mark.parametrize(
    ("steps", "error", "said"),
    [([], ValueError, "steps must be some of"), (["blur"], ValueError, "blur"), ("bias", TypeError, "list of names")],
)
def test_steps_that_are_none_are_refused_before_anything_is_written(tmp_path, steps, error, said):
    cohort = write_cohort(tmp_path / "raw")
    with pytest.raises(error, match=said):
        harmonize_images(cohort, tmp_path / "even", steps=steps)
    assert not (tmp_path / "even").exists()


def test_an_image_that_cannot_be_harmonized_is_named(tmp_path):
    cohort = write_cohort(tmp_path / "raw", arrays=lambda array: (array - 50).astype(np.float32))
    with pytest.raises(ValueError, match="subject 'sub-0': expected intensities from 0 up"):
        harmonize_images(cohort, tmp_path / "even")


def test_an_image_that_could_not_be_harmonized_is_mended_and_the_same_folder_taken(tmp_path):
    cohort = write_cohort(tmp_path / "raw", arrays=lambda array: array.astype(np.float32))
    path = cohort.table.at[7, "path"]
    good = read_volume(path).array
    write_volume(path, good - 50, affine=AFFINE)
    with pytest.raises(ValueError, match="subject 'sub-7': expected intensities from 0 up"):
        harmonize_images(cohort, tmp_path / "even", steps=["intensity"])
    assert not (tmp_path / "even").exists()
    write_volume(path, good, affine=AFFINE)
    assert len(harmonize_images(cohort, tmp_path / "even", steps=["intensity"])) == 8


def test_a_name_that_no_bids_folder_can_hold_is_refused(tmp_path):
    cohort = write_cohort(tmp_path / "raw")
    named = cohort.table.assign(subject=["../out", *cohort.table["subject"][1:]])
    with pytest.raises(ValueError, match="subject"):
        harmonize_images(cohort.replace(named), tmp_path / "even")
    assert not (tmp_path / "even").exists()


def test_shading_and_roughness_are_what_they_are_called(tmp_path):
    array = np.zeros(SHAPE, dtype=np.float32)
    array[2:18, 2:22, 2:18] = 100.0
    array[10:18, 2:22, 2:18] = 130.0  # to the right
    path = write_volume(tmp_path / "sub-1" / "anat" / "sub-1_T1w.nii.gz", array, affine=AFFINE)
    row = {
        "subject": "sub-1",
        "center": "A",
        "diagnosis": 1,
        "sex": "F",
        "age": 60.0,
        "scanner": "x",
        "path": str(path),
    }
    found = describe_intensities(Cohort(pd.DataFrame([row]), tmp_path)).loc["sub-1"]
    assert found["left front low"] == pytest.approx(100 / 115) and found["right back high"] == pytest.approx(130 / 115)
    # one step of 30 for every pair of neighbours across the middle: 320 of 15*20*16 + 16*19*16 + 16*20*15 pairs
    assert found["roughness"] == pytest.approx(30 * 320 / (4800 + 4864 + 4800))


# Whom ComBat was fitted on


@pytest.fixture(scope="module")
def confounded():
    return simulate_regions(RegionRecipe(sites=(30, 30, 24, 24), effect=0.0, confounding=0.8, seed=2))


def predict(study, **options):
    return predict_harmonized(
        study.values, study.people["diagnosis"], study.people["site"], study.people[["age"]], seed=1, **options
    )


def test_every_subject_is_predicted_once_in_the_same_folds_whatever_is_done(confounded):
    made = [predict(confounded, fitted_on=name) for name in ("nobody", "everybody", "training")]
    for table in made:
        assert sorted(table["subject"]) == sorted(confounded.people.index)
        assert table[["fold", "subject"]].equals(made[0][["fold", "subject"]])


def test_nothing_of_the_test_subjects_goes_into_a_fit_on_training_subjects(confounded):
    whole = predict(confounded, keep_labels=True)
    held = whole.loc[whole["fold"] == 0, "subject"]
    moved = confounded.values.copy()
    moved.loc[held.iloc[0]] *= 3.0
    labels = confounded.people["diagnosis"]
    again = predict_harmonized(
        moved, labels, confounded.people["site"], confounded.people[["age"]], keep_labels=True, seed=1
    )
    others = whole["fold"].eq(0) & whole["subject"].ne(held.iloc[0])
    np.testing.assert_allclose(again.loc[others, "score"], whole.loc[others, "score"])


def test_the_labels_of_test_subjects_do_not_reach_combat(confounded, monkeypatch):
    whole = predict(confounded, keep_labels=True)
    rows = [part["record"].to_numpy() for _, part in whole.groupby("fold")]
    dealt = [(np.setdiff1d(whole["record"], test), test) for test in rows]
    # folds are balanced by label: dealt here, they stay the same when labels are flipped
    monkeypatch.setattr("dqc_lib.harmonization.leakage.deal_folds", lambda *args, **options: dealt)
    flipped = confounded.people.copy()
    flipped.iloc[rows[0], flipped.columns.get_loc("diagnosis")] ^= 1
    again = predict(replace(confounded, people=flipped), keep_labels=True)
    tested = whole["fold"].eq(0)
    assert (again.loc[tested, "label"] != whole.loc[tested, "label"]).all()
    assert np.array_equal(again.loc[tested, "score"], whole.loc[tested, "score"])
    assert not np.allclose(again.loc[~tested, "score"], whole.loc[~tested, "score"]), "elsewhere they are trained on"


@pytest.mark.parametrize(("fitted_on", "moves"), [("nobody", False), ("training", False), ("everybody", True)])
def test_on_everybody_alone_a_test_subject_changes_the_scores_of_those_tested_beside_it(confounded, fitted_on, moves):
    whole = predict(confounded, fitted_on=fitted_on)
    # in other folds it is trained on, so that it moves their scores whatever ComBat was fitted on
    tested = whole["fold"].eq(0)
    moved = whole.loc[tested, "subject"].iloc[0]
    values = confounded.values.copy()
    values.loc[moved] *= 3.0
    again = predict(replace(confounded, values=values), fitted_on=fitted_on)
    beside = tested & whole["subject"].ne(moved)
    assert beside.sum() > 10
    assert np.allclose(again.loc[beside, "score"], whole.loc[beside, "score"]) is not moves


@pytest.mark.parametrize(
    ("options", "said"),
    [({"fitted_on": "all"}, "fitted_on must be one of"), ({"seed": -1}, "seed must be a whole number")],
)
def test_another_way_to_fit_is_refused(confounded, options, said):
    with pytest.raises(ValueError, match=said):
        predict_harmonized(
            confounded.values, confounded.people["diagnosis"], confounded.people["site"], **{"seed": 0} | options
        )


def test_a_covariate_may_not_be_called_label(confounded):
    with pytest.raises(ValueError, match="covariates must not have a column 'label'"):
        predict_harmonized(
            confounded.values,
            confounded.people["diagnosis"],
            confounded.people["site"],
            confounded.people[["age"]].rename(columns={"age": "label"}),
            keep_labels=True,
            seed=0,
        )
