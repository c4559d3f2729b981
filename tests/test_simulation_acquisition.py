"""Simulated headers: what is written is what was drawn, with the faults that the recipe asks for and no others."""

import json
from pathlib import Path

import pandas as pd
import pytest

from dqc_lib.cohort import Cohort
from dqc_lib.simulation import HeaderRecipe, draw_headers, write_headers

NONE = HeaderRecipe(deviating=0, milliseconds=0, incomplete=0, changed=0, dicom=0)


def make_cohort(root, *sizes):
    """Return a cohort without images: centers A, B, ... with so many subjects."""
    rows = [
        (f"sub-{center}{number}", center, number % 2, "F", 60.0, "vendor A", f"{root}/x/anat/x.nii")
        for center, size in zip("ABCDEFGHIJ", sizes, strict=False)
        for number in range(size)
    ]
    table = pd.DataFrame(rows, columns=["subject", "center", "diagnosis", "sex", "age", "scanner", "path"])
    table["path"] = [f"{root}/{name}/anat/{name}_T1w.nii.gz" for name in table["subject"]]
    return Cohort(table, Path(root))


def read_all(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def find_center(truth, fault):
    return truth[truth["fault"] == fault]


def test_without_faults_every_center_lies_near_the_protocol_of_the_study(tmp_path):
    truth = draw_headers(make_cohort(tmp_path, 3, 1, 2), recipe=NONE)
    assert (truth["fault"] == "").all() and not truth["dicom"].any()
    assert truth["repetition_time"].between(2.27, 2.33).all()
    assert truth["echo_time"].between(0.0028, 0.0032).all()
    assert truth[["flip_angle", "field_strength"]].eq([9.0, 3.0]).all(axis=None)
    assert truth.groupby("center")["echo_time"].nunique().eq(1).all(), "one protocol for a center"


def test_the_same_seed_gives_the_same_files_and_another_seed_others(tmp_path):
    cohort = make_cohort(tmp_path, 3, 3, 3, 3, 3, 3, 3)
    seeds = {"first": 1, "again": 1, "other": 2}
    for name, seed in seeds.items():
        write_headers(cohort, tmp_path / name, recipe=HeaderRecipe(seed=seed))
    first, again, other = (read_all(tmp_path / name) for name in seeds)
    assert first == again
    assert first != other


def test_no_center_depends_on_the_order_of_rows(tmp_path):
    cohort = make_cohort(tmp_path, 2, 2, 2, 2, 2, 2, 2)
    turned = cohort.replace(cohort.table.iloc[::-1])
    usual, other = (draw_headers(one).set_index("subject") for one in (cohort, turned))
    assert (usual["fault"] == "changed").any()
    pd.testing.assert_frame_equal(usual, other.loc[usual.index])
    write_headers(cohort, tmp_path / "headers")
    before = read_all(tmp_path / "headers")
    write_headers(turned, tmp_path / "headers")
    assert read_all(tmp_path / "headers") == before


def test_as_many_centers_have_a_fault_as_the_recipe_says(tmp_path):
    truth = draw_headers(make_cohort(tmp_path, 4, 4, 4, 4, 4, 4, 4, 1))
    centers = truth.groupby("center").agg({"fault": "first", "dicom": "first"})
    wanted = {"": 3, "deviating": 2, "milliseconds": 1, "incomplete": 1, "changed": 1}
    assert centers["fault"].value_counts().to_dict() == wanted
    assert centers["dicom"].sum() == 2
    assert centers.loc["H"].to_list() == ["", False], "a center with one subject has none"


def test_each_fault_is_what_it_is_called(tmp_path):
    cohort = make_cohort(tmp_path, 5, 5, 5, 5, 5, 5, 5)
    folder, truth = write_headers(cohort, tmp_path / "headers")
    notes = {path.parent.parent.name: json.loads(path.read_text()) for path in folder.glob("sub-*/anat/*.json")}
    for row in find_center(truth, "milliseconds").itertuples():
        assert notes[row.subject]["RepetitionTime"] == pytest.approx(1000 * row.repetition_time)
        assert notes[row.subject]["FlipAngle"] == row.flip_angle
    for row in find_center(truth, "incomplete").itertuples():
        assert not {"FlipAngle", "MagneticFieldStrength"} & set(notes[row.subject])
    assert find_center(truth, "changed")["echo_time"].eq(0.0045).tolist() == [False, False, False, True, True]
    angles = find_center(truth, "deviating").groupby("center")["flip_angle"].first()
    assert sorted(angles) == [9.0, 15.0]
    assert set(truth.loc[truth["dicom"], "subject"]) == {path.name for path in folder.glob("sourcedata/*")}
    assert set(notes) == set(truth.loc[~truth["dicom"], "subject"])


def test_dicom_files_are_readable_and_name_an_invented_patient(tmp_path):
    import pydicom

    folder, truth = write_headers(make_cohort(tmp_path, 2), tmp_path / "headers", recipe=HeaderRecipe(0, 0, 0, 0, 1))
    for row in truth.itertuples():
        dataset = pydicom.dcmread(folder / "sourcedata" / row.subject / "0001.dcm")
        assert dataset.PatientName == f"Invented^{row.subject}"
        assert float(dataset.EchoTime) == pytest.approx(1000 * row.echo_time)
        assert "PixelData" not in dataset


def test_a_folder_with_the_same_headers_is_completed_and_one_with_others_refused(tmp_path):
    cohort = make_cohort(tmp_path, 2, 2)
    folder, _ = write_headers(cohort, tmp_path / "headers", recipe=NONE)
    before = read_all(folder)
    (folder / "sub-A0" / "anat" / "sub-A0_T1w.json").unlink()
    write_headers(cohort, folder, recipe=NONE)
    assert read_all(folder) == before
    with pytest.raises(FileExistsError, match=r"other headers \(other images, recipe: 'seed'\)"):
        write_headers(cohort, folder, recipe=HeaderRecipe(0, 0, 0, 0, 0, seed=7))
    with pytest.raises(FileExistsError, match=r"other headers \(other images\)"):
        write_headers(make_cohort(tmp_path, 2, 3), folder, recipe=NONE)
    for name, value in {"scanner": "vendor B", "path": f"{tmp_path}/sub-A0/anat/sub-A0_acq-2_T1w.nii"}.items():
        table = cohort.table.copy()
        table.loc[0, name] = value
        with pytest.raises(FileExistsError, match=r"other headers \(other images\)"):
            write_headers(cohort.replace(table), folder, recipe=NONE)
    assert read_all(folder) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds files already"):
        write_headers(cohort, tmp_path / "mine", recipe=NONE)


def test_truth_is_what_the_files_say_after_a_second_writing_too(tmp_path):
    cohort = make_cohort(tmp_path, 3, 3, 3, 3, 3, 3, 3)
    write_headers(cohort, tmp_path / "headers")
    folder, truth = write_headers(cohort, tmp_path / "headers")
    for row in truth[~truth["dicom"] & truth["fault"].isin(["", "deviating", "changed"])].itertuples():
        note = json.loads((folder / row.subject / "anat" / f"{row.subject}_T1w.json").read_text())
        assert (note["EchoTime"], note["FlipAngle"]) == (row.echo_time, row.flip_angle)


def test_a_sidecar_lies_as_deep_as_its_image(tmp_path):
    cohort = make_cohort(tmp_path, 1)
    path = f"{tmp_path}/sub-A0/ses-1/anat/sub-A0_ses-1_T1w.nii.gz"
    folder, _ = write_headers(cohort.replace(cohort.table.assign(path=path)), tmp_path / "headers", recipe=NONE)
    assert {path for path in read_all(folder) if "/" in path} == {"sub-A0/ses-1/anat/sub-A0_ses-1_T1w.json"}


@pytest.mark.parametrize("dicom", [0, 1])
@pytest.mark.parametrize("subject", ["../../evil", "/nowhere/evil", "sub-1/../../../evil", "evil", "sub-\\evil"])
def test_a_subject_that_is_no_name_of_a_folder_gets_no_headers(tmp_path, subject, dicom):
    table = make_cohort(tmp_path, 2).table
    table.loc[0, ["subject", "path"]] = subject, f"{tmp_path}/{subject}/anat/{subject}_T1w.nii.gz"
    with pytest.raises(ValueError, match="subject .* is .*; expected 'sub-' and letters or digits, for a folder"):
        write_headers(Cohort(table, tmp_path), tmp_path / "a/b", recipe=HeaderRecipe(0, 0, 0, 0, dicom))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("{}/sub-A0/../../../../evil/sub-A0_T1w.nii", "lies outside"),
        ("{}/scans/sub-A0_T1w.nii", "path is .*; expected an image in a folder named after its subject"),
    ],
)
def test_headers_of_an_image_that_is_not_in_a_folder_of_its_subject_are_not_written(tmp_path, path, words):
    table = make_cohort(tmp_path, 2).table
    table.loc[0, "path"] = path.format(tmp_path)
    with pytest.raises(ValueError, match=f"subject 'sub-A0'.*{words}"):
        write_headers(Cohort(table, tmp_path), tmp_path / "headers", recipe=NONE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("folder", ["sub-A0", "sourcedata"])
def test_no_header_is_written_through_a_link(tmp_path, folder):
    (tmp_path / "elsewhere").mkdir()
    write_headers(cohort := make_cohort(tmp_path, 2), tmp_path / "headers", recipe=NONE)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / folder).symlink_to(tmp_path / "elsewhere")
    (tmp_path / "other" / "headers.json").write_bytes((tmp_path / "headers" / "headers.json").read_bytes())
    with pytest.raises(ValueError, match="subject 'sub-A0': .* lies outside"):
        write_headers(cohort, tmp_path / "other", recipe=HeaderRecipe(0, 0, 0, 0, int(folder == "sourcedata")))
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_more_faults_than_centers_are_refused(tmp_path):
    with pytest.raises(ValueError, match="2 centers have two subjects or more; expected 7"):
        draw_headers(make_cohort(tmp_path, 2, 2, 1))


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"dicom": -1}, ValueError, "HeaderRecipe.dicom must be a whole number of at least 0, got -1"),
        ({"changed": 1.5}, TypeError, "HeaderRecipe.changed must be a whole number, got 1.5"),
        ({"seed": "1"}, TypeError, "HeaderRecipe.seed must be a whole number, got '1'"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused_by_name(arguments, error, words):
    with pytest.raises(error, match=words):
        HeaderRecipe(**arguments)
