"""A cohort dealt out to sites: each gets its own centers, and nothing else."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dqc_lib.cohort import Cohort, read_bids, split_by_subject
from dqc_lib.federation import spread_cohort
from dqc_lib.harm import place_harm

SAMPLES = Path(__file__).parent.parent / "data_samples"


@pytest.fixture(scope="module")
def cohort():
    """A few subjects of each of five centers, one center harmful by its marks."""
    table = split_by_subject(read_bids(SAMPLES)).table
    table = table[table["center"].isin(table["center"].unique()[:5])]
    few = Cohort(table.groupby(["center", "role", "diagnosis"], sort=False).head(1).sort_index(), SAMPLES)
    return place_harm(few, kind="inversion", centers=[few.centers[3]])


def list_files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_centers_are_dealt_out_in_order_and_in_about_equal_numbers(cohort, tmp_path):
    folders = spread_cohort(cohort, tmp_path / "sites", 2)
    assert list(folders) == ["site-1", "site-2"]
    found = {site: read_bids(folder) for site, folder in folders.items()}
    assert found["site-1"].centers == cohort.centers[:3] and found["site-2"].centers == cohort.centers[3:]
    table = pd.concat([part.table for part in found.values()], ignore_index=True)
    wanted = cohort.table.drop(columns=["path", "harm", "placement"])
    order = wanted["center"].map({name: at for at, name in enumerate(cohort.centers)}).sort_values(kind="stable").index
    pd.testing.assert_frame_equal(table.drop(columns="path"), wanted.loc[order].reset_index(drop=True))


def test_a_site_holds_the_images_of_its_own_subjects_and_no_other_file(cohort, tmp_path):
    centers = {"north": cohort.centers[1:], "south-2": cohort.centers[:1]}
    folders = spread_cohort(cohort, tmp_path / "sites", centers)
    own = cohort.table[cohort.table["center"] == cohort.centers[0]]
    images = [f"{name}/anat/{name}_T1w.nii.gz" for name in sorted(own["subject"])]
    tables = ["dataset_description.json", "participants.json", "participants.tsv"]
    assert list_files(folders["south-2"]) == sorted(tables + images)
    for row in own.itertuples():
        copy = folders["south-2"] / row.subject / "anat" / f"{row.subject}_T1w.nii.gz"
        assert copy.read_bytes() == Path(row.path).read_bytes()
    assert "harm" not in (folders["north"] / "participants.tsv").read_text()


def test_what_becomes_of_an_image_at_a_site_does_not_touch_the_one_it_was_copied_from(cohort, tmp_path):
    first = cohort.table.iloc[0]
    before = Path(first.path).read_bytes()
    folder = spread_cohort(cohort, tmp_path / "sites", 1)["site-1"]
    (folder / first.subject / "anat" / f"{first.subject}_T1w.nii.gz").write_bytes(b"broken for an exercise")
    assert Path(first.path).read_bytes() == before


def test_what_is_there_is_read_and_what_was_cut_short_is_completed(cohort, tmp_path, killed_at):
    with killed_at(6):
        spread_cohort(cohort, tmp_path / "sites", 2)
    folders = spread_cohort(cohort, tmp_path / "sites", 2)
    spread_cohort(cohort, tmp_path / "whole", 2)
    assert list_files(tmp_path / "sites") == list_files(tmp_path / "whole")
    before = {path: path.stat().st_mtime_ns for path in folders["site-1"].rglob("*")}
    assert spread_cohort(cohort, tmp_path / "sites", 2) == folders
    assert {path: path.stat().st_mtime_ns for path in folders["site-1"].rglob("*")} == before


def test_a_folder_of_something_else_is_refused(cohort, tmp_path):
    spread_cohort(cohort, tmp_path / "sites", 2)
    with pytest.raises(FileExistsError, match=r"other sites \(other sites: 'site-1'\)"):
        spread_cohort(cohort, tmp_path / "sites", 3)
    table = cohort.table.assign(age=cohort.table["age"] + 1)
    with pytest.raises(FileExistsError, match=r"other sites \(other cohort\)"):
        spread_cohort(cohort.replace(table), tmp_path / "sites", 2)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "thesis.txt").touch()
    with pytest.raises(FileExistsError, match="holds files already"):
        spread_cohort(cohort, tmp_path / "files", 2)


A, B, C, D, E = (f"center-0{number}" for number in range(1, 6))
WRONG = {
    "no site": (0, "at least 1"),
    "more sites than centers": (6, "at most 5"),
    "an unknown center": ({"a": [A, "center-99"], "b": [B, C, D, E]}, "site 'a': no center 'center-99'"),
    "a center twice": ({"a": [A, B, C], "b": [C, D, E]}, "'center-03' is at the sites 'a' and 'b'"),
    "a center left out": ({"a": [A, B], "b": [D, E]}, r"no site holds the centers \['center-03'\]"),
    "a site without a center": ({"a": [A, B, C, D, E], "b": []}, "site 'b' has no center"),
    "a name with a path in it": ({"../a": [A, B, C, D, E]}, r"'\.\./a' cannot be a site's name"),
    "FLARE's own name": ({"Server": [A, B, C, D, E]}, "and not server or admin"),
    "capitals alone": ({"a": [A, B, C], "A": [D, E]}, "differ in capitals only"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_dealt_out_is_refused_by_name_before_anything_is_written(cohort, tmp_path, name):
    assert cohort.centers == [A, B, C, D, E]
    sites, words = WRONG[name]
    with pytest.raises(ValueError, match=words):
        spread_cohort(cohort, tmp_path / "sites", sites)
    assert not (tmp_path / "sites").exists()


def test_a_cohort_without_roles_is_refused(cohort, tmp_path):
    with pytest.raises(ValueError, match="column 'role' is missing"):
        spread_cohort(cohort.replace(cohort.table.drop(columns="role")), tmp_path, 2)


def test_a_number_of_sites_may_be_one_of_numpy(cohort, tmp_path):
    assert list(spread_cohort(cohort, tmp_path / "sites", np.int64(1))) == ["site-1"]
