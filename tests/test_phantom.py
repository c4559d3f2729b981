"""Phantoms: counted as published, the same bytes for the same seed, and each effect where it belongs."""

import csv
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dqc_lib.cohort import read_bids
from dqc_lib.phantom import (
    Recipe,
    draw_subjects,
    paint_phantom,
    painting,
    read_published_sites,
    write_phantoms,
    writing,
)
from dqc_lib.volumes import read_volume

ROOT = Path(__file__).parent.parent
BESIDE_THE_COHORT = {"README.md"}  # in data_samples/, written by hand
PLAIN = {"scanner": 0.0, "anatomy": 0.0, "ageing": 0.0, "sex": 0.0}
SMALL = Recipe(shape=(10, 12, 10))
WHO = {"center": "center-01", "diagnosis": 0, "sex": "F", "age": 64.0, "scanner": "vendor A"}


def paint(subject="sub-0001", *, recipe=None, **changes):
    """Return a volume with signed integers, so that differences can be taken."""
    return paint_phantom(subject, **WHO | changes, recipe=recipe or Recipe()).astype(np.int64)


def measure_distance(recipe, places):
    """Return each voxel's distance in mm to the nearest of the places, by way of the affine."""
    index = np.indices(recipe.shape).reshape(3, -1)
    points = recipe.affine[:3, :3] @ index + recipe.affine[:3, 3:]
    distances = [np.linalg.norm(points - np.reshape(place, (3, 1)), axis=0) for place in places]
    return np.min(distances, axis=0).reshape(recipe.shape)


# subjects


def read_sites():
    with (ROOT / "dqc_lib" / "data" / "sites_83.tsv").open(encoding="utf-8", newline="") as stream:
        return [
            {name: value if name in ("site", "scanner_vendor") else int(value) for name, value in row.items()}
            for row in csv.DictReader(stream, delimiter="\t")
        ]


def test_the_published_cohort_has_the_published_counts_by_center_role_class_and_sex():
    table = draw_subjects("published")
    drawn = Counter(zip(table["center"], table["role"], table["diagnosis"], strict=True))
    men = Counter(table.loc[table["sex"] == "M", ["center", "role"]].itertuples(index=False, name=None))
    for site in read_sites():
        for role in ("train", "test"):
            assert drawn[site["site"], role, 1] == site[f"{role}_pd"]
            assert drawn[site["site"], role, 0] == site[f"{role}_hc"]
            assert men[site["site"], role] == site[f"{role}_male"]
        assert set(table.loc[table["center"] == site["site"], "scanner"]) == {site["scanner_vendor"]}
    assert table["role"].value_counts().to_dict() == {"train": 1410, "test": 407}
    assert table["center"].nunique() == 83


def test_the_published_centers_are_as_lopsided_as_the_paper_says():
    sites = read_sites()
    sizes = sorted(site["train_pd"] + site["train_hc"] for site in sites)
    assert (sizes[0], sizes[41], sizes[-1]) == (1, 7, 190)
    assert (sizes.count(1), sum(size <= 5 for size in sizes)) == (12, 38)
    assert round(100 * sum(sizes[-10:]) / sum(sizes)) == 53
    assert sum(site["train_pd"] == 0 for site in sites) == 44
    assert sum(site["train_hc"] == 0 for site in sites) == 10


def test_the_sites_are_read_as_they_stand_in_the_file():
    assert read_published_sites().to_dict("records") == read_sites()


def test_the_sample_has_153_subjects_in_twelve_centers():
    table = draw_subjects("sample")
    assert len(table) == 153
    assert table["center"].nunique() == 12
    assert "role" not in table


def test_centers_can_be_given_as_counts_of_diseased_and_controls():
    table = draw_subjects([(2, 1), (0, 3)])
    assert table["subject"].tolist() == [f"sub-000{number}" for number in range(1, 7)]
    assert table["center"].tolist() == ["center-01"] * 3 + ["center-02"] * 3
    assert table["diagnosis"].tolist() == [1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize("sites", ["sample", "published"])
def test_subjects_are_named_once_and_are_40_to_88_years_old(sites):
    table = draw_subjects(sites)
    assert table["subject"].is_unique
    assert table["age"].between(40, 88).all()
    assert set(table["sex"]) == {"F", "M"}


def test_the_same_seed_draws_the_same_subjects_and_another_seed_others():
    pd.testing.assert_frame_equal(draw_subjects("published", seed=1), draw_subjects("published", seed=1))
    first, other = draw_subjects("published", seed=1), draw_subjects("published", seed=2)
    assert (first["age"] != other["age"]).mean() > 0.9
    assert (first["sex"] != other["sex"]).any()
    assert first["diagnosis"].equals(other["diagnosis"])


def test_unknown_sites_are_refused():
    with pytest.raises(ValueError, match="sites must be 'sample', 'published' or pairs of counts, got 'everywhere'"):
        draw_subjects("everywhere")


# volumes


def test_a_cohort_numbered_from_elsewhere_holds_other_subjects_of_the_same_centers():
    usual, later = draw_subjects(), draw_subjects(first=5001)
    assert list(later["subject"][:2]) == ["sub-5001", "sub-5002"]
    assert not set(usual["subject"]) & set(later["subject"])
    for column in ("center", "diagnosis", "scanner"):
        assert list(usual[column]) == list(later[column])
    assert (usual["age"] != later["age"]).mean() > 0.9
    with pytest.raises(ValueError, match="first must be a number from 1, got 0"):
        draw_subjects(first=0)


def test_a_folder_of_phantoms_numbered_otherwise_is_refused(tmp_path):
    options = {"sites": [(1, 1)], "recipe": SMALL, "progress": False}
    cohort = write_phantoms(tmp_path / "later", first=41, **options)
    assert list(cohort.table["subject"]) == ["sub-0041", "sub-0042"]
    assert "first" not in (write_phantoms(tmp_path / "usual", **options).root / "recipe.json").read_text()
    with pytest.raises(FileExistsError, match=r"holds other phantoms \(other first\)"):
        write_phantoms(tmp_path / "later", **options)


def test_a_phantom_has_eight_bits_and_an_empty_background():
    volume = paint_phantom("sub-0001", **WHO, recipe=Recipe())
    assert (volume.dtype, volume.shape) == (np.uint8, (40, 48, 40))
    corners = volume[[0, 0, -1, -1], [0, -1, 0, -1], [0, 0, -1, -1]]
    assert not corners.any()
    brain = volume[volume > 0]
    assert 0.2 < len(brain) / volume.size < 0.6
    assert 90 < np.median(brain) < 150


def test_the_same_subject_and_seed_give_the_same_volume_and_others_another():
    first = paint()
    assert (paint() == first).all()
    assert (paint(recipe=Recipe(seed=1)) != first).mean() > 0.1
    assert (paint("sub-0002") != first).mean() > 0.1


def test_the_field_of_view_is_the_same_at_every_resolution():
    for shape in ((40, 48, 40), (20, 24, 20), (10, 16, 8)):
        affine = Recipe(shape=shape).affine
        low, high = (affine @ [*corner, 1] for corner in ((-0.5, -0.5, -0.5), np.array(shape) - 0.5))
        np.testing.assert_allclose((high - low)[:3], [160, 192, 160])
        np.testing.assert_allclose((high + low)[:3] / 2, painting.CENTRE)


@pytest.mark.parametrize("subject", ["sub-0001", "sub-0002", "sub-0003"])
def test_the_diseased_twin_differs_near_the_deep_region_only(subject):
    recipe = Recipe()
    change = paint(subject, diagnosis=1, recipe=recipe) - paint(subject, diagnosis=0, recipe=recipe)
    distance = measure_distance(recipe, painting.DEEP_REGION)
    near, far = np.abs(change[distance < 25]), np.abs(change[distance > 45])
    assert near.max() >= 5
    assert far.max() <= 1, "at most a voxel that was about to be rounded the other way"
    assert not change[distance > 70].any()
    assert change[distance < 15].mean() < 0, "the region is darker"


def test_without_the_disease_effect_the_diagnosis_does_not_show():
    recipe = Recipe(disease=0.0)
    assert (paint(diagnosis=1, recipe=recipe) == paint(diagnosis=0, recipe=recipe)).all()
    assert (paint(diagnosis=1) != paint(diagnosis=0)).any()


def test_without_the_scanner_effect_the_center_does_not_matter():
    recipe = Recipe(scanner=0.0)
    here, with_effect = paint(recipe=recipe), paint()
    for number, vendor in ((2, "A"), (3, "B"), (4, "C"), (5, "C"), (6, "A"), (7, "B")):
        elsewhere = {"center": f"center-{number:02d}", "scanner": f"vendor {vendor}"}
        assert (paint(recipe=recipe, **elsewhere) == here).all()
        assert (paint(**elsewhere) != with_effect).mean() > 0.1


def test_center_and_vendor_have_each_a_share_in_the_scanner_effect():
    assert (paint(center="center-02") != paint()).mean() > 0.1
    assert (paint(scanner="vendor B") != paint()).mean() > 0.1


def test_without_ageing_all_years_look_alike():
    recipe = Recipe(ageing=0.0)
    assert (paint(age=85.0, recipe=recipe) == paint(age=45.0, recipe=recipe)).all()


def test_without_the_sex_effect_women_and_men_look_alike():
    recipe = Recipe(sex=0.0)
    assert (paint(sex="M", recipe=recipe) == paint(sex="F", recipe=recipe)).all()


def test_men_have_larger_heads():
    assert (paint(sex="M") > 0).sum() > 1.05 * (paint(sex="F") > 0).sum()


def test_without_anatomy_subjects_differ_by_their_severity_alone():
    recipe = Recipe(**PLAIN)
    change = np.abs(paint("sub-0001", recipe=recipe) - paint("sub-0002", recipe=recipe))
    distance = measure_distance(recipe, painting.DEEP_REGION)
    assert change[distance < 25].max() >= 3
    assert not change[distance > 70].any()


def test_ageing_widens_the_ventricles():
    recipe = Recipe(scanner=0.0)
    near = measure_distance(recipe, painting.VENTRICLES) < 20
    young, middle, old = (paint(age=age, recipe=recipe)[near] for age in (45.0, 64.0, 85.0))
    dark = [int((voxels < 70).sum()) for voxels in (young, middle, old)]
    assert dark[0] < dark[1] < dark[2]
    assert old.mean() < middle.mean() < young.mean()


def test_severity_separates_the_diagnoses_as_far_as_the_effect_size_allows():
    recipe = Recipe(disease=1.8, shape=(20, 24, 20), **PLAIN)
    deep = measure_distance(recipe, painting.DEEP_REGION) < 15
    brightness = [
        [paint(f"{diagnosis} {number}", diagnosis=diagnosis, recipe=recipe)[deep].mean() for number in range(150)]
        for diagnosis in (0, 1)
    ]
    auroc = np.mean(np.subtract.outer(*brightness) > 0)
    bayes = 0.5 * (1 + math.erf(1.8 / math.sqrt(2) / math.sqrt(2)))  # Phi(d / sqrt(2)) = 0.898
    assert auroc == pytest.approx(bayes, abs=0.05)


@pytest.mark.parametrize("seed", range(8))
def test_the_warp_folds_nothing(seed):
    warp = painting._draw_warp(np.random.default_rng(seed), strength=1.0)
    spacing = np.divide(painting.FIELD_OF_VIEW, warp.shape[1:])
    jacobian = np.stack([np.stack(np.gradient(component, *spacing)) for component in warp])
    determinant = np.linalg.det(np.moveaxis(jacobian, (0, 1), (-2, -1)) + np.eye(3))
    assert determinant.min() > 0
    assert np.abs(warp).max() > 2, "and moves something, in mm"


def test_a_warp_without_strength_moves_nothing():
    assert not painting._draw_warp(np.random.default_rng(0), strength=0.0).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"disease": -0.1}, "Recipe.disease must be a finite number >= 0, got -0.1"),
        ({"ageing": float("nan")}, "Recipe.ageing must be a finite number >= 0, got nan"),
        ({"sex": float("inf")}, "Recipe.sex must be a finite number >= 0, got inf"),
        ({"scanner": -1.0}, "Recipe.scanner must be a finite number >= 0, got -1.0"),
        ({"anatomy": -1.0}, "Recipe.anatomy must be a finite number >= 0, got -1.0"),
        ({"shape": (40, 48)}, r"Recipe.shape must be three sizes of at least 8 voxels, got \(40, 48\)"),
        ({"shape": (40, 48, 7)}, r"Recipe.shape must be three sizes of at least 8 voxels, got \(40, 48, 7\)"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**options)


# cohorts on disk


SITES = [(1, 1), (0, 2)]


def write(folder, *, sites=SITES, recipe=SMALL):
    return write_phantoms(folder, sites=sites, recipe=recipe, progress=False)


def read_files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def refuse_to_paint(*args, **options):
    raise AssertionError("nothing should be painted")


def test_a_cohort_is_written_as_a_bids_folder_of_painted_volumes(tmp_path):
    cohort = write(tmp_path / "cohort")
    drawn = draw_subjects(SITES, seed=SMALL.seed)
    pd.testing.assert_frame_equal(cohort.table[list(drawn.columns)], drawn, check_dtype=False, check_column_type=False)
    for row in cohort.table.itertuples():
        volume = read_volume(row.path)
        np.testing.assert_allclose(volume.affine, SMALL.affine, atol=1e-5)
        expected = paint(
            row.subject,
            recipe=SMALL,
            **{name: getattr(row, name) for name in ("center", "diagnosis", "sex", "age", "scanner")},
        )
        assert (volume.array == expected).all()


def test_the_same_recipe_gives_the_same_files_and_another_seed_others(tmp_path):
    for name in ("first", "second"):
        write(tmp_path / name)
    first = read_files(tmp_path / "first")
    assert len(first) == 4 + 4  # images; participants, their dictionary, description and recipe
    assert read_files(tmp_path / "second") == first
    write(tmp_path / "other", recipe=Recipe(shape=SMALL.shape, seed=1))
    other = read_files(tmp_path / "other")
    assert [name for name in first if first[name] == other[name]] == ["dataset_description.json", "participants.json"]


def test_a_finished_cohort_is_read_and_not_painted_again(tmp_path, monkeypatch):
    first = write(tmp_path)
    before = read_files(tmp_path)
    monkeypatch.setattr(writing, "paint_phantom", refuse_to_paint)
    pd.testing.assert_frame_equal(write(tmp_path).table, first.table)
    assert read_files(tmp_path) == before


def test_a_cohort_left_half_way_is_finished(tmp_path, monkeypatch):
    cohort = write(tmp_path)
    before, painted = read_files(tmp_path), []
    (tmp_path / "participants.tsv").unlink()
    Path(cohort.table["path"][2]).unlink()

    def note(subject, **options):
        painted.append(subject)
        return paint_phantom(subject, **options)

    monkeypatch.setattr(writing, "paint_phantom", note)
    write(tmp_path)
    assert painted == ["sub-0003"]
    assert read_files(tmp_path) == before


def test_a_run_that_is_killed_leaves_no_participants_table(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "paint_phantom", refuse_to_paint)
    with pytest.raises(AssertionError, match="nothing should be painted"):
        write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.json"]
    monkeypatch.undo()
    assert len(write(tmp_path)) == 4


def test_a_run_killed_between_any_two_files_is_finished(tmp_path, killed_at):
    write(tmp_path / "whole")
    expected = read_files(tmp_path / "whole")
    for at in range(len(expected)):
        folder = tmp_path / str(at)
        with killed_at(at):
            write(folder)
        assert not (folder / "participants.tsv").exists()
        write(folder)
        assert read_files(folder) == expected, "and what was left half-written is gone"


@pytest.mark.parametrize("n_bytes", [0, 50])
def test_a_disk_that_is_full_at_the_first_file_leaves_a_folder_that_can_be_used(tmp_path, full_disk, n_bytes):
    with full_disk(n_bytes):
        write(tmp_path)
    assert len(write(tmp_path)) == 4


@pytest.mark.parametrize(
    "change", [{"recipe": Recipe(shape=SMALL.shape, disease=0.5)}, {"sites": [(1, 1)]}, {"sites": "sample"}], ids=str
)
def test_a_folder_of_another_recipe_is_refused(tmp_path, change):
    write(tmp_path)
    before = read_files(tmp_path)
    with pytest.raises(FileExistsError, match="holds other phantoms .* expected a folder of its own"):
        write(tmp_path, **change)
    assert read_files(tmp_path) == before


@pytest.mark.parametrize("name", ["sub-0001/anat/sub-0001_T1w.nii.gz", "participants.tsv", "thesis.txt"])
def test_a_folder_of_somebody_else_is_refused_and_left_as_it_is(tmp_path, name):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("not ours")
    with pytest.raises(FileExistsError, match="holds files already, and no recipe.json; expected a folder of its own"):
        write(tmp_path)
    assert read_files(tmp_path) == {name: b"not ours"}


def test_sites_may_come_one_by_one(tmp_path):
    cohort = write(tmp_path, sites=iter(SITES))
    assert len(cohort) == 4
    assert len(write(tmp_path, sites=SITES)) == 4, "a list and its iterator are the same recipe"


def test_the_sample_cohort_comes_out_of_its_command_byte_for_byte(tmp_path):
    again = tmp_path / "again"
    done = subprocess.run(
        [sys.executable, "-m", "dqc_lib.phantom", str(again)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    shipped = {
        name: content for name, content in read_files(ROOT / "data_samples").items() if name not in BESIDE_THE_COHORT
    }
    made = read_files(again)
    assert sorted(made) == sorted(shipped)
    assert [name for name in made if made[name] != shipped[name]] == []


def test_the_sample_cohort_is_small_and_readable():
    cohort = read_bids(ROOT / "data_samples")
    assert (len(cohort), len(cohort.centers)) == (153, 12)
    assert sum(len(content) for content in read_files(ROOT / "data_samples").values()) < 8e6
