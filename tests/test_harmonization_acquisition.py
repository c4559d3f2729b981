"""Acquisition: what headers say and what they must not, protocols, compliance held against a subtraction, the gate."""

import gzip
import json
import os
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dqc_lib.cohort import Cohort
from dqc_lib.harmonization import (
    ACQUISITION_COLUMNS,
    ALL,
    PARAMETERS,
    Protocol,
    admit,
    check_compliance,
    read_acquisition,
    summarize_acquisition,
    summarize_compliance,
)
from dqc_lib.harmonization.headers import MAX_BYTES, MAX_FILES
from dqc_lib.simulation import write_headers

HOSTILE = "<img src=x onerror=alert(1)>"
GOOD = {"RepetitionTime": 2.3, "EchoTime": 0.003, "FlipAngle": 9, "MagneticFieldStrength": 3}
PROTOCOL = Protocol({"repetition_time": (2.3, 0.1), "flip_angle": (9.0, 1.0)})


def write_nifti(path, spacing=(1.0, 1.2, 2.0), packed=True):
    """Write a NIfTI file of 2 x 2 x 2 voxels by hand."""
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, 2, 2, 2, 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, 2, 8)
    struct.pack_into("<8f", header, 76, 1.0, *spacing, 0, 0, 0, 0)
    struct.pack_into("<f", header, 108, 352.0)
    header[344:347] = b"n+1"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(bytes(header) + bytes(8)) if packed else bytes(header) + bytes(8))


def make_cohort(root, centers, *, roles=None, session="", entities=""):
    """Return a cohort with images: subject 1, 2, ... at the centers given."""
    rows = []
    for number, center in enumerate(centers, start=1):
        name = f"sub-{number}"
        folder = root / name / session if session else root / name
        path = folder / "anat" / f"{name}{entities}_T1w.nii.gz"
        write_nifti(path)
        rows.append((name, center, number % 2, "F", 60.0, "A", str(path)))
    table = pd.DataFrame(rows, columns=["subject", "center", "diagnosis", "sex", "age", "scanner", "path"])
    return Cohort(table if roles is None else table.assign(role=roles), Path(root))


def write_sidecar(root, content, *, name="sub-1_T1w.json", folder="sub-1/anat"):
    path = root / folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def write_dicom(path, **values):
    """Write a DICOM file with these values and a patient."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = values.pop("syntax", ExplicitVRLittleEndian)
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = MRImageStorage, "1.2.3"
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.is_little_endian, dataset.is_implicit_VR = True, False
    patient = {"PatientName": "Doe^Jane", "PatientID": "SECRET-7", "PatientBirthDate": "19500101"}
    for name, value in (patient | values).items():
        setattr(dataset, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, write_like_original=False)


def read_one(root, content):
    """Return the row of one image with this sidecar."""
    cohort = make_cohort(root, ["A"])
    write_sidecar(root, content)
    return read_acquisition(cohort).iloc[0]


def make_table(*rows):
    """Return an acquisition table from (subject, center, repetition time, flip angle)."""
    table = pd.DataFrame(rows, columns=["subject", "center", "repetition_time", "flip_angle"])
    filled = {"echo_time": 0.003, "voxel_i": 1.0, "voxel_j": 1.0, "voxel_k": 1.0, "field_strength": 3.0}
    return table.assign(**filled, source="", manufacturer="A", model="B", remark="")[list(ACQUISITION_COLUMNS)]


NAN = float("nan")
TABLE = make_table(
    ("a", "X", 2.3, 9.0), ("b", "X", 2.4, 10.0), ("c", "Y", 2.41, 9.0), ("d", "Y", NAN, 9.0), ("e", "Y", 2.2, 20.0)
)


def test_a_sidecar_gives_its_values_and_the_image_its_voxel_sizes(tmp_path):
    row = read_one(tmp_path, GOOD | {"Manufacturer": " Siemens ", "ManufacturersModelName": "Prisma"})
    assert row[list(PARAMETERS)].tolist() == [2.3, 0.003, 9.0, 1.0, pytest.approx(1.2), 2.0, 3.0]
    assert (row["manufacturer"], row["model"], row["remark"]) == ("Siemens", "Prisma", "")
    assert (row["subject"], row["center"], row["source"]) == ("sub-1", "A", "sub-1/anat/sub-1_T1w.json")


def test_a_path_is_read_as_a_bids_folder(tmp_path):
    make_cohort(tmp_path, ["A"])
    lines = ["participant_id\tsite\tdiagnosis\tsex\tage\tscanner", "sub-1\tA\tPD\tF\t60\tvendor"]
    (tmp_path / "participants.tsv").write_text("\n".join(lines))
    assert read_acquisition(tmp_path)["subject"].tolist() == ["sub-1"]


def test_an_image_without_any_header_has_voxel_sizes_and_nothing_else(tmp_path):
    row = read_acquisition(make_cohort(tmp_path, ["A"])).iloc[0]
    assert row[["repetition_time", "echo_time", "flip_angle", "field_strength"]].isna().all()
    assert row[["voxel_i", "voxel_k"]].tolist() == [1.0, 2.0]
    assert (row["manufacturer"], row["model"], row["source"], row["remark"]) == ("unknown", "unknown", "", "")


def test_sidecars_higher_up_apply_and_deeper_ones_win(tmp_path):
    cohort = make_cohort(tmp_path, ["A", "A"], session="ses-1", entities="_ses-1_acq-fast")
    write_sidecar(tmp_path, GOOD | {"FlipAngle": 5}, name="T1w.json", folder=".")
    write_sidecar(tmp_path, {"FlipAngle": 7}, name="acq-fast_T1w.json", folder="sub-1")
    write_sidecar(tmp_path, {"EchoTime": 0.004}, name="sub-1_ses-1_acq-fast_T1w.json", folder="sub-1/ses-1/anat")
    table = read_acquisition(cohort).set_index("subject")
    values = table[["repetition_time", "flip_angle", "echo_time"]]
    assert values.loc["sub-1"].tolist() == [2.3, 7.0, 0.004]
    assert values.loc["sub-2"].tolist() == [2.3, 5.0, 0.003]
    assert table.loc["sub-1", "source"].split(", ")[0] == "T1w.json"


def test_sidecars_of_other_images_do_not_apply(tmp_path):
    cohort = make_cohort(tmp_path, ["A"])
    write_sidecar(tmp_path, GOOD, name="T2w.json", folder=".")
    write_sidecar(tmp_path, GOOD, name="acq-fast_T1w.json", folder=".")
    write_sidecar(tmp_path, GOOD, name="sub-2_T1w.json")
    assert read_acquisition(cohort)["repetition_time"].isna().all()


def test_two_sidecars_of_one_folder_that_both_apply_are_refused(tmp_path):
    cohort = make_cohort(tmp_path, ["A"], entities="_acq-fast_run-1")
    write_sidecar(tmp_path, GOOD, name="acq-fast_T1w.json", folder=".")
    write_sidecar(tmp_path, GOOD, name="run-1_T1w.json", folder=".")
    with pytest.raises(ValueError, match="'acq-fast_T1w.json', 'run-1_T1w.json' all apply to 'sub-1_acq-fast_run-1_"):
        read_acquisition(cohort)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("RepetitionTime", 2300, "RepetitionTime is 2300; expected 0.0005 to 15 s (2300 ms are 2.3 s)"),
        ("EchoTime", 2.98, "EchoTime is 2.98; expected 1e-05 to 0.5 s (2.98 ms are 0.00298 s)"),
        ("RepetitionTime", -2.3, "RepetitionTime is -2.3; expected 0.0005 to 15 s"),
        ("RepetitionTime", 1e308, "RepetitionTime is 1e+308; expected"),
        ("RepetitionTime", 10**400, "RepetitionTime is a value of type int; expected"),
        ("RepetitionTime", float("nan"), "RepetitionTime is nan; expected"),
        ("EchoTime", float("inf"), "EchoTime is inf; expected"),
        ("FlipAngle", "9", "FlipAngle is '9'; expected 0.1 to 180 deg"),
        ("FlipAngle", True, "FlipAngle is True; expected"),
        ("EchoTime", [0.003, 0.006], "EchoTime is [0.003, 0.006]; expected"),
        ("MagneticFieldStrength", 30000, "MagneticFieldStrength is 30000; expected 0.001 to 21 T"),
        ("FlipAngle", {"a": HOSTILE}, "FlipAngle is {'a': '<img src=x onerror=alert(1)>'}; expected"),
    ],
)
def test_a_value_that_cannot_be_in_its_unit_is_missing_and_a_remark_names_the_file(tmp_path, key, value, words):
    row = read_one(tmp_path, GOOD | {key: value})
    assert row["remark"].startswith("sub-1/anat/sub-1_T1w.json: ")
    assert words in row["remark"]
    column = next(name for name, parameter in PARAMETERS.items() if parameter.key == key)
    assert np.isnan(row[column])
    assert row[list(PARAMETERS)].isna().sum() == 1, "the others are kept"


def test_a_remark_names_the_sidecar_that_says_it_and_not_a_deeper_one(tmp_path):
    cohort = make_cohort(tmp_path, ["A"])
    write_sidecar(tmp_path, {"RepetitionTime": 2300}, name="T1w.json", folder=".")
    write_sidecar(tmp_path, {"FlipAngle": 9})
    assert read_acquisition(cohort)["remark"].iloc[0].startswith("T1w.json: RepetitionTime is 2300")


def test_null_is_missing_without_a_remark(tmp_path):
    row = read_one(tmp_path, GOOD | {"EchoTime": None, "Manufacturer": None})
    assert (np.isnan(row["echo_time"]), row["remark"], row["manufacturer"]) == (True, "", "unknown")


def test_texts_are_cut_and_those_with_control_characters_unknown(tmp_path):
    row = read_one(tmp_path, {"Manufacturer": "x" * 1000, "ManufacturersModelName": "a\x1b[2J"})
    assert (row["manufacturer"], row["model"]) == ("x" * 64, "unknown")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not JSON in UTF-8"),
        ("", "not JSON in UTF-8"),
        ("[1, 2]", "not a JSON object"),
        ("[" * 100_000, "not JSON in UTF-8"),
        ('{"RepetitionTime": ' + "1" * 5000 + "}", "not JSON in UTF-8"),
        (" " * (MAX_BYTES + 1), f"{MAX_BYTES + 1} bytes; expected a sidecar of at most {MAX_BYTES}"),
    ],
    ids=["half a file", "nothing", "a list", "a deep list", "an endless number", "a huge file"],
)
def test_a_sidecar_that_is_none_is_refused_by_name(tmp_path, content, words):
    with pytest.raises(ValueError, match=r"sub-1_T1w\.json") as caught:
        read_one(tmp_path, content)
    assert words in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.timeout(20, method="signal")  # the fault is to wait for a writer who never comes
@pytest.mark.parametrize("name", ["T1w.json", "sub-1/anat/sub-1_T1w.json", "sourcedata/sub-1/1.dcm"])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path, name):
    cohort = make_cohort(tmp_path, ["A"])
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match="it is no regular file"):
        read_acquisition(cohort)


def test_a_link_that_leads_nowhere_is_refused_by_name(tmp_path):
    cohort = make_cohort(tmp_path, ["A"])
    (tmp_path / "T1w.json").symlink_to(tmp_path / "gone.json")
    with pytest.raises(ValueError, match=r"T1w\.json: it is no regular file; expected a BIDS sidecar"):
        read_acquisition(cohort)


def test_a_sidecar_that_is_a_folder_is_refused(tmp_path):
    cohort = make_cohort(tmp_path, ["A"])
    (tmp_path / "T1w.json").mkdir()
    with pytest.raises(ValueError, match="it is a folder"):
        read_acquisition(cohort)


def test_a_link_out_of_the_folder_is_not_followed_unless_trusted(tmp_path):
    cohort = make_cohort(tmp_path / "cohort", ["A"])
    outside = write_sidecar(tmp_path / "elsewhere", GOOD, folder=".")
    (tmp_path / "cohort" / "T1w.json").symlink_to(outside)
    with pytest.raises(ValueError, match="subject 'sub-1': .* lies outside"):
        read_acquisition(cohort)
    assert read_acquisition(cohort, trusted_folders=[tmp_path / "elsewhere"])["flip_angle"].tolist() == [9.0]


def test_dicom_files_outside_are_not_read_either(tmp_path):
    cohort = make_cohort(tmp_path / "cohort", ["A"])
    write_dicom(tmp_path / "elsewhere" / "1.dcm", RepetitionTime=2300)
    (tmp_path / "cohort" / "sourcedata").mkdir()
    (tmp_path / "cohort" / "sourcedata" / "sub-1").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="subject 'sub-1': .* lies outside"):
        read_acquisition(cohort)


def test_a_folder_of_a_subject_that_lies_elsewhere_is_not_looked_into(tmp_path):
    cohort = make_cohort(tmp_path / "cohort", ["A"])
    write_sidecar(tmp_path / "elsewhere", GOOD)
    (tmp_path / "headers").mkdir()
    (tmp_path / "headers" / "sub-1").symlink_to(tmp_path / "elsewhere" / "sub-1")
    with pytest.raises(ValueError, match="subject 'sub-1': .* lies outside"):
        read_acquisition(cohort, headers=tmp_path / "headers")


def test_headers_may_lie_in_a_folder_of_their_own(tmp_path):
    cohort = make_cohort(tmp_path / "cohort", ["A"])
    write_sidecar(tmp_path / "headers", GOOD)
    assert read_acquisition(cohort, headers=tmp_path / "headers")["flip_angle"].tolist() == [9.0]
    with pytest.raises(FileNotFoundError, match="no such folder"):
        read_acquisition(cohort, headers=tmp_path / "nowhere")


def test_an_image_outside_any_folder_of_its_subject_has_the_sidecar_beside_it(tmp_path):
    write_nifti(tmp_path / "scans" / "17.nii", packed=False)
    cohort = make_cohort(tmp_path, ["A"])
    cohort = cohort.replace(cohort.table.assign(path=str(tmp_path / "scans" / "17.nii")))
    write_sidecar(tmp_path, GOOD, name="17.json", folder="scans")
    row = read_acquisition(cohort).iloc[0]
    assert (row["flip_angle"], row["voxel_k"], row["source"]) == (9.0, 2.0, "17.json")


def test_dicom_times_are_milliseconds(tmp_path):
    cohort = make_cohort(tmp_path, ["A"])
    values = {"RepetitionTime": 2300, "EchoTime": 2.98, "FlipAngle": 9, "MagneticFieldStrength": 3}
    write_dicom(tmp_path / "sourcedata/sub-1/1.dcm", **values, Manufacturer="GE", ManufacturerModelName="MR750")
    row = read_acquisition(cohort).iloc[0]
    assert row[["repetition_time", "echo_time", "flip_angle", "field_strength"]].tolist() == pytest.approx(
        [2.3, 0.00298, 9.0, 3.0]
    )
    assert (row["manufacturer"], row["model"], row["source"], row["remark"]) == ("GE", "MR750", "DICOM file 1 of 1", "")


def test_a_dicom_time_in_seconds_is_suspect(tmp_path):
    cohort = make_cohort(tmp_path, ["A"])
    write_dicom(tmp_path / "sourcedata/sub-1/1.dcm", RepetitionTime=0.3)
    row = read_acquisition(cohort).iloc[0]
    assert np.isnan(row["repetition_time"])
    assert row["remark"] == "DICOM file 1 of 1: RepetitionTime is 0.3; expected 0.0005 to 15 s"


def test_a_sidecar_goes_before_dicom_which_fills_its_gaps(tmp_path):
    cohort = make_cohort(tmp_path, ["A"])
    write_sidecar(tmp_path, {"RepetitionTime": 2.3})
    write_dicom(tmp_path / "sourcedata/sub-1/1.dcm", RepetitionTime=1900, FlipAngle=12)
    row = read_acquisition(cohort).iloc[0]
    assert (row["repetition_time"], row["flip_angle"]) == (2.3, 12.0)
    assert row["source"] == "sub-1/anat/sub-1_T1w.json, DICOM file 1 of 1"


def test_values_in_which_the_files_of_an_image_differ_are_missing(tmp_path):
    cohort = make_cohort(tmp_path, ["A"])
    for number in (1, 2):
        write_dicom(tmp_path / f"sourcedata/sub-1/T1/{number}.dcm", RepetitionTime=2300, EchoTime=number)
    row = read_acquisition(cohort).iloc[0]
    assert row["repetition_time"] == pytest.approx(2.3)
    assert np.isnan(row["echo_time"])
    assert row["remark"] == "sub-1: EchoTime has 2 values in 2 files; expected one"


def test_no_tag_that_identifies_is_read_or_kept(tmp_path, monkeypatch):
    from pydicom import filereader

    seen, read = [], filereader.read_partial
    monkeypatch.setattr(filereader, "read_partial", lambda *args, **more: seen.append(read(*args, **more)) or seen[-1])
    cohort = make_cohort(tmp_path, ["A"])
    write_dicom(tmp_path / "sourcedata/sub-1/Doe_Jane/Doe_Jane_19500101.dcm", RepetitionTime=0.3, Manufacturer="GE")
    write_sidecar(tmp_path, {"PatientName": "Doe^Jane", "PatientID": "SECRET-7", "EchoTime": 3.0})
    table = read_acquisition(cohort)
    told = table.to_json() + str(table.attrs) + "".join(map(str, seen))
    assert len(seen) == 1 and "GE" in told and "RepetitionTime is 0.3" in told
    assert not [word for word in ("Doe", "Jane", "SECRET", "1950") if word in told]
    assert not {"PatientName", "PatientID", "PatientBirthDate"} & {element.keyword for element in seen[0]}


@pytest.mark.parametrize("content", [b"hello", None], ids=["a text", "a folder"])
def test_no_message_holds_the_name_of_a_dicom_file(tmp_path, content):
    cohort = make_cohort(tmp_path, ["A"])
    write_dicom(tmp_path / "sourcedata/sub-1/0.dcm", RepetitionTime=2300)
    path = tmp_path / "sourcedata" / "sub-1" / "Doe_Jane.dcm"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(ValueError, match="subject 'sub-1': DICOM file 2 of 2 below .*expected a DICOM file") as caught:
        read_acquisition(cohort)
    assert "Doe" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"hello", HOSTILE.encode() * 50], ids=["nothing", "a text", "a longer text with markup"]
)
def test_a_dicom_file_that_is_none_is_refused_by_name(tmp_path, content):
    cohort = make_cohort(tmp_path, ["A"])
    path = tmp_path / "sourcedata" / "sub-1" / "1.dcm"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"DICOM file 1 of 1 .*: unreadable \(InvalidDicomError\); expected a DICOM"):
        read_acquisition(cohort)


@pytest.mark.parametrize("content", [b"", b"\xff" * 50, bytes(range(256)) * 40], ids=["nothing", "ones", "all bytes"])
def test_a_dicom_file_of_noise_is_refused_or_says_nothing(tmp_path, content):
    cohort = make_cohort(tmp_path, ["A"])
    path = tmp_path / "sourcedata" / "sub-1" / "1.dcm"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\0" * 128 + b"DICM" + content)
    try:
        row = read_acquisition(cohort).iloc[0]
    except ValueError as error:
        assert "DICOM file 1 of 1" in str(error) and ": unreadable" in str(error)
    else:
        assert row[["repetition_time", "echo_time", "flip_angle", "field_strength"]].isna().all()


def test_a_dicom_file_that_would_be_unpacked_whole_is_refused(tmp_path):
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    cohort = make_cohort(tmp_path, ["A"])
    write_dicom(tmp_path / "sourcedata/sub-1/1.dcm", syntax=DeflatedExplicitVRLittleEndian, RepetitionTime=2300)
    with pytest.raises(ValueError, match=r"DICOM file 1 of 1 .*: unreadable \(all of it, after \d+\)"):
        read_acquisition(cohort)


def write_elements(path, *elements, meta=b""):
    """Write a DICOM file by hand, elements of (group, number, kind, length that it claims, bytes), with no end."""
    head = struct.pack("<HH2sH", 2, 0x10, b"UI", 20) + b"1.2.840.10008.1.2.1\0"
    parts = [
        struct.pack("<HH2sHI", group, number, kind, 0, length) + content
        for group, number, kind, length, content in elements
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\0" * 128 + b"DICM" + head + meta + b"".join(parts))


def find_peak(call):
    """Return the bytes that Python took at most while it was called."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


HUGE = 300 * 2**20
META = struct.pack("<HH2sHI", 2, 0x102, b"OB", 0, HUGE)


@pytest.mark.parametrize(
    ("elements", "meta"),
    [
        ([(8, 0x70, b"UT", HUGE, b"GE")], b""),
        ([(8, 0x5, b"UT", HUGE, b"")], b""),
        ([(8, 0x60, b"OB", 2**32 - 1, b"")], b""),
        ([], META),
    ],
    ids=["a manufacturer", "a character set", "a value without a length", "a value before the data"],
)
def test_a_dicom_file_that_claims_too_much_is_refused_before_memory_is_taken(tmp_path, elements, meta):
    cohort = make_cohort(tmp_path, ["A"])
    path = tmp_path / "sourcedata" / "sub-1" / "1.dcm"
    write_elements(path, *elements, meta=meta)
    os.truncate(path, HUGE + 2000)  # a hole, which takes no room on the disk

    def read():
        with pytest.raises(ValueError, match=r"DICOM file 1 of 1.*: unreadable \(.*\); expected a DICOM file"):
            read_acquisition(cohort)

    read()  # imports
    assert find_peak(read) < 8 * MAX_BYTES


def test_what_is_not_asked_for_is_passed_over_however_long(tmp_path):
    cohort = make_cohort(tmp_path, ["A"])
    path = tmp_path / "sourcedata" / "sub-1" / "1.dcm"
    write_elements(path, (9, 0x1001, b"OB", HUGE, b""))
    size = path.stat().st_size
    os.truncate(path, size + HUGE)
    with path.open("ab") as stream:
        stream.write(struct.pack("<HH2sH", 0x18, 0x80, b"DS", 4) + b"2300")
    read_acquisition(cohort)  # imports
    assert find_peak(lambda: read_acquisition(cohort)) < 8 * MAX_BYTES
    assert read_acquisition(cohort)["repetition_time"].tolist() == [pytest.approx(2.3)]


def test_nothing_behind_the_last_value_is_read(tmp_path):
    cohort = make_cohort(tmp_path, ["A"])
    path = tmp_path / "sourcedata" / "sub-1" / "1.dcm"
    write_elements(path, (8, 0x70, b"UT", 2, b"GE"), (0x5200, 0x9230, b"SQ", 2**32 - 1, b"\xff" * 100))
    assert read_acquisition(cohort)["manufacturer"].tolist() == ["GE"]


def test_a_dicom_value_that_is_no_number_is_missing_and_remarked(tmp_path):
    cohort = make_cohort(tmp_path, ["A"])
    path = tmp_path / "sourcedata/sub-1/1.dcm"
    write_dicom(path, RepetitionTime=2300, EchoTime="3.14159")
    path.write_bytes(path.read_bytes().replace(b"3.14159", b"three-0"))
    row = read_acquisition(cohort).iloc[0]
    assert np.isnan(row["echo_time"])
    assert row["remark"] == "DICOM file 1 of 1: EchoTime is 'three-0'; expected 1e-05 to 0.5 s"


def test_a_folder_of_too_many_dicom_files_is_refused(tmp_path):
    cohort = make_cohort(tmp_path, ["A"])
    folder = tmp_path / "sourcedata" / "sub-1"
    folder.mkdir(parents=True)
    for number in range(MAX_FILES + 1):
        (folder / f"{number}.dcm").touch()
    with pytest.raises(ValueError, match=f"{MAX_FILES + 1} DICOM files; expected at most {MAX_FILES}"):
        read_acquisition(cohort)


@pytest.mark.parametrize("spacing", [(0.0, 1.0, 1.0), (NAN, 1.0, 1.0), (1.0, -1.0, 1.0), (1.0, 1.0, 1e30)])
def test_an_image_whose_header_makes_no_sense_is_refused_by_name(tmp_path, spacing):
    cohort = make_cohort(tmp_path, ["A"])
    write_nifti(Path(cohort.table["path"].iloc[0]), spacing)
    with pytest.raises(ValueError, match="subject 'sub-1': .*damaged header, spacing"):
        read_acquisition(cohort)


def test_an_image_that_is_damaged_is_refused_by_name(tmp_path):
    cohort = make_cohort(tmp_path, ["A"])
    path = Path(cohort.table["path"].iloc[0])
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ValueError, match="subject 'sub-1': .*compressed data are damaged"):
        read_acquisition(cohort)


def test_voxels_in_another_unit_are_suspect(tmp_path):
    cohort = make_cohort(tmp_path, ["A"])
    write_nifti(Path(cohort.table["path"].iloc[0]), (1000.0, 1000.0, 1000.0))
    row = read_acquisition(cohort).iloc[0]
    assert row[["voxel_i", "voxel_j", "voxel_k"]].isna().all()
    assert "sub-1_T1w.nii.gz: voxel_i is 1000.0; expected 0.05 to 20 mm" in row["remark"]


def test_what_is_simulated_is_what_is_read(tmp_path):
    cohort = make_cohort(tmp_path / "cohort", [center for center in "ABCDEFGH" for _ in range(3)])
    folder, truth = write_headers(cohort, tmp_path / "headers")
    table = read_acquisition(cohort, headers=folder)
    plain = truth["fault"].isin(["", "deviating", "changed"])
    names = ["repetition_time", "echo_time", "flip_angle", "field_strength"]
    assert plain.sum() == 18
    np.testing.assert_allclose(table.loc[plain, names], truth.loc[plain, names], rtol=1e-12)
    assert table.loc[truth["fault"] == "milliseconds", ["repetition_time", "echo_time"]].isna().all(axis=None)
    assert table.loc[truth["fault"] == "incomplete", ["flip_angle", "field_strength"]].isna().all(axis=None)
    assert (table["remark"] != "").equals(truth["fault"] == "milliseconds")


def test_a_summary_has_medians_and_counts_and_no_image():
    summary = summarize_acquisition(TABLE).set_index(["center", "parameter"])
    assert summary.loc[("X", "repetition_time"), ["n", "n_known", "median"]].tolist() == [2, 2, 2.3]
    assert summary.loc[("Y", "repetition_time"), ["n", "n_known", "median"]].tolist() == [3, 2, 2.2]
    assert len(summary) == 2 * len(PARAMETERS)
    assert not set(TABLE["subject"]) & set(summary.reset_index().astype(str).to_numpy().ravel())


def test_a_summary_counts_the_images_that_have_a_remark():
    summary = summarize_acquisition(TABLE.assign(remark=["", "odd", "odd", "", "odd; odd"]))
    assert summary.groupby("center")["n_suspect"].agg(["min", "max"]).to_numpy().tolist() == [[1, 1], [2, 2]]


def test_a_reference_is_a_value_that_some_scanner_has():
    table = make_table(("a", "X", 2.3, 9.0), ("b", "X", 2.5, 9.0), ("c", "Y", 1.9, 15.0))
    summary = summarize_acquisition(table.assign(field_strength=[3.0, 3.0, 1.5]))
    limits = Protocol.from_summary(summary).limits
    assert [limits[name][0] for name in ("field_strength", "flip_angle", "repetition_time")] == [1.5, 9.0, 1.9]


def test_what_a_center_sends_does_not_grow_with_its_images():
    one = make_table(("a", "X", 2.3, 9.0))
    many = make_table(*((f"s{number}", "X", 2.3, 9.0) for number in range(50)))
    for table in (one, many):
        assert len(summarize_acquisition(table)) == len(PARAMETERS)
        assert len(summarize_compliance(check_compliance(table, PROTOCOL))) == len(PROTOCOL.limits) + 1


def test_a_parameter_that_no_image_has_is_nan_in_the_summary_and_no_part_of_the_protocol():
    summary = summarize_acquisition(make_table(("a", "X", NAN, 9.0)))
    row = summary[summary["parameter"] == "repetition_time"].iloc[0]
    assert (row["n"], row["n_known"], np.isnan(row["median"])) == (1, 0, True)
    assert "repetition_time" not in Protocol.from_summary(summary).limits
    assert "flip_angle" in Protocol.from_summary(summary).limits


def test_every_center_has_one_voice_in_the_protocol():
    rows = [(f"a{number}", "large", 1.9, 9.0) for number in range(20)]
    table = make_table(*rows, ("b", "small", 2.3, 9.0), ("c", "other", 2.4, 9.0))
    assert table["repetition_time"].median() == 1.9
    assert Protocol.from_summary(summarize_acquisition(table)).limits["repetition_time"] == (2.3, 0.1)


def test_a_protocol_comes_from_a_schema_of_dicompare():
    from dicompare import load_bundled_schema

    acquisitions = load_bundled_schema("abcd_schema_cleaned.json")[1]["acquisitions"]
    found = Protocol.from_dicompare(acquisitions["T1-weighted 3D MPRAGE"]).limits
    assert found["repetition_time"] == (pytest.approx(2.5), pytest.approx(0.1))
    assert found["echo_time"] == (pytest.approx(0.0029), pytest.approx(0.0005))
    assert found["voxel_k"] == (1.0, 0.1)
    assert (found["flip_angle"], found["field_strength"]) == ((8.0, 1.0), (3.0, 0.3))


def test_voxels_that_are_not_alike_are_not_taken_from_a_schema():
    fields = [
        {"field": "PixelSpacing", "value": [1, 1], "tolerance": 0.1},
        {"field": "SliceThickness", "value": 3, "tolerance": 0.1},
        {"field": "FlipAngle", "value": 8, "tolerance": 1},
        {"field": "EchoTime", "value": 3},
    ]
    assert dict(Protocol.from_dicompare({"fields": fields}).limits) == {"flip_angle": (8.0, 1.0)}


@pytest.mark.parametrize(
    ("limits", "error", "words"),
    [
        ({}, ValueError, "at least one parameter"),
        ([1], TypeError, "limits must be a Mapping"),
        ({"TR": (2.3, 0.1)}, ValueError, "parameter 'TR'; expected some of"),
        ({"repetition_time": 2.3}, ValueError, "'repetition_time' must be a reference and a tolerance, got 2.3"),
        ({"repetition_time": (2300, 100)}, ValueError, "must lie from 0.0005 to 15 s, got 2300"),
        ({"repetition_time": ("2.3", 0.1)}, TypeError, "limits of 'repetition_time' must be a number, got '2.3'"),
        ({"repetition_time": (2.3, -0.1)}, ValueError, "must be a finite number of at least 0, got -0.1"),
        ({"repetition_time": (2.3, NAN)}, ValueError, "must be a finite number of at least 0, got nan"),
        ({"repetition_time": (NAN, 0.1)}, ValueError, "must lie from"),
    ],
)
def test_a_protocol_that_cannot_be_is_refused_by_name(limits, error, words):
    with pytest.raises(error, match=words):
        Protocol(limits)


def test_verdicts_are_what_a_comparison_by_hand_gives():
    found = check_compliance(TABLE, PROTOCOL).pivot(index="subject", columns="parameter", values="verdict")
    assert found["repetition_time"].tolist() == ["within", "within", "deviates", "missing", "within"]
    assert found["flip_angle"].tolist() == ["within", "within", "within", "within", "deviates"]


def test_whole_numbers_and_missing_ones_of_pandas_are_judged_alike():
    table = make_table(("a", "X", 2.3, 9.0), ("b", "X", 2.3, 20.0), ("c", "X", 2.3, NAN))
    table = table.astype({"flip_angle": "Int64"})
    found = check_compliance(table, Protocol({"flip_angle": (9.0, 1.0)}))
    assert found["verdict"].tolist() == ["within", "deviates", "missing"]


def test_an_image_without_any_value_is_missing_in_all():
    found = check_compliance(make_table(("a", "X", NAN, NAN)), PROTOCOL)
    assert found["verdict"].tolist() == ["missing", "missing"]
    assert found["found"].isna().all()


def test_verdicts_agree_with_a_subtraction_on_many_values():
    rng = np.random.default_rng(3)
    drawn = rng.uniform((2.1, 7), (2.5, 11), (200, 2))
    rows = [(f"s{number}", "X", *values) for number, values in enumerate(drawn)]
    rows[5], rows[9] = ("s5", "X", NAN, 9.0), ("s9", "X", 2.2, NAN)
    found = check_compliance(make_table(*rows), PROTOCOL)
    far = (found["found"] - found["expected"]).abs() > found["tolerance"] + 1e-12
    expected = np.where(found["found"].isna(), "missing", np.where(far, "deviates", "within"))
    assert found["verdict"].tolist() == expected.tolist()
    assert set(expected) == {"within", "deviates", "missing"}


def test_with_tolerance_zero_only_the_reference_is_within():
    exact = Protocol({"repetition_time": (2.3, 0.0)})
    verdicts = check_compliance(TABLE, exact)["verdict"].tolist()
    assert verdicts == ["within", "deviates", "deviates", "missing", "deviates"]


def test_the_summary_of_compliance_counts_and_its_shares_have_intervals():
    summary = summarize_compliance(check_compliance(TABLE, PROTOCOL)).set_index(["center", "parameter"])
    columns = ["n", "within", "deviates", "missing"]
    assert summary.loc[("X", ALL), columns].tolist() == [2, 2, 0, 0]
    assert summary.loc[("Y", "repetition_time"), columns].tolist() == [3, 1, 1, 1]
    assert summary.loc[("Y", ALL), columns].tolist() == [3, 0, 2, 1]
    assert summary.loc[("Y", "repetition_time"), "share"] == pytest.approx(1 / 3)
    z, n, p = 1.959963984540054, 3, 1 / 3  # Wilson's formula
    middle, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    ends = [(middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)]
    assert summary.loc[("Y", "repetition_time"), ["low", "high"]].tolist() == pytest.approx(ends)


def make_gate(*centers, verdicts, roles=None, root):
    """Return a cohort and its compliance in one parameter."""
    cohort = make_cohort(root, centers, roles=roles)
    table = cohort.table[["subject", "center"]].assign(parameter="flip_angle", verdict=verdicts, remark="")
    return cohort, table


def test_the_gate_leaves_out_images_that_deviate_or_say_nothing(tmp_path):
    verdicts = ["within", "within", "deviates", "missing"]
    cohort, compliance = make_gate("A", "A", "A", "A", verdicts=verdicts, root=tmp_path)
    found = admit(cohort, compliance)
    assert found.cohort.table["subject"].tolist() == ["sub-1", "sub-2"]
    assert found.left_out.to_dict("records") == [
        {"subject": "sub-3", "center": "A", "level": "image", "reason": "flip angle deviates"},
        {"subject": "sub-4", "center": "A", "level": "image", "reason": "flip angle missing"},
    ]
    assert found.centers.to_dict("records") == [{"center": "A", "n": 4, "compliant": 2, "share": 0.5, "admitted": True}]


def test_a_center_below_the_share_stays_out_with_its_good_images(tmp_path):
    verdicts = ["within", "deviates", "deviates", "within"]
    cohort, compliance = make_gate("A", "A", "A", "B", verdicts=verdicts, root=tmp_path)
    found = admit(cohort, compliance)
    assert found.cohort.table["subject"].tolist() == ["sub-4"]
    assert found.left_out["level"].tolist() == ["center"] * 3
    assert found.left_out["reason"].tolist()[0] == "1 of 3 images of the center comply"
    assert found.left_out["reason"].tolist()[1] == "flip angle deviates; 1 of 3 images of the center comply"
    assert "3 left out; centers that stay out: A" in found._repr_html_()


def test_the_reason_says_what_a_header_has_in_place_of_what_is_missing(tmp_path):
    verdicts = ["within", "missing", "missing", "within", "within"]
    cohort, compliance = make_gate(*"AAABB", verdicts=verdicts, root=tmp_path)
    remark = "T1w.json: RepetitionTime is 2300; expected 0.0005 to 15 s (2300 ms are 2.3 s)"
    found = admit(cohort, compliance.assign(remark=[remark, remark, "", remark, ""])).left_out
    assert found["reason"].tolist() == [
        "1 of 3 images of the center comply",
        f"flip angle missing; {remark}; 1 of 3 images of the center comply",
        "flip angle missing; 1 of 3 images of the center comply",
    ]


@pytest.mark.parametrize(("least", "n"), [(0.0, 3), (0.5, 3), (2 / 3, 3), (0.7, 1), (1.0, 1)])
def test_the_share_that_a_center_needs_is_reached_exactly(tmp_path, least, n):
    verdicts = ["within", "within", "deviates", "within"]
    cohort, compliance = make_gate("A", "A", "A", "B", verdicts=verdicts, root=tmp_path)
    assert len(admit(cohort, compliance, least=least).cohort) == n


def test_the_gate_judges_those_who_train_and_leaves_the_others(tmp_path):
    verdicts = ["deviates", "deviates", "deviates", "within", "within"]
    roles = ["train", "verification", "test", "train", "verification"]
    cohort, compliance = make_gate("A", "A", "A", "B", "B", verdicts=verdicts, roles=roles, root=tmp_path)
    found = admit(cohort, compliance)
    assert found.cohort.table["subject"].tolist() == ["sub-2", "sub-3", "sub-4", "sub-5"]
    assert found.centers["n"].tolist() == [1, 1]


def test_the_gate_refuses_what_it_cannot_judge(tmp_path):
    cohort, compliance = make_gate("A", "B", verdicts=["within", "deviates"], root=tmp_path)
    with pytest.raises(ValueError, match="subject 'sub-2': expected rows of center 'B', came none"):
        admit(cohort, compliance.iloc[:1])
    with pytest.raises(ValueError, match="subject 'sub-1': expected rows of center 'A', came center 'C'"):
        admit(cohort, compliance.replace({"center": {"A": "C"}}))
    with pytest.raises(ValueError, match="none of 2 images may train"):
        admit(cohort, compliance.assign(verdict="deviates"))
    with pytest.raises(ValueError, match="least must be a share from 0 to 1, got 2"):
        admit(cohort, compliance, least=2)
    with pytest.raises(ValueError, match="verdict is 'fine'; expected one of"):
        admit(cohort, compliance.assign(verdict="fine"))
    with pytest.raises(KeyError, match="missing columns \\['verdict'\\]"):
        admit(cohort, compliance.drop(columns="verdict"))


def test_names_of_centers_are_shown_as_they_are(tmp_path):
    cohort, compliance = make_gate(HOSTILE, "B", verdicts=["deviates", "within"], root=tmp_path)
    shown = admit(cohort, compliance)._repr_html_()
    assert "<img" not in shown and "&lt;img" in shown


def test_a_table_that_is_none_is_refused_by_name():
    with pytest.raises(TypeError, match="table must be a DataFrame, such as read_acquisition gives"):
        check_compliance([], PROTOCOL)
    with pytest.raises(KeyError, match="missing columns \\['remark'\\]"):
        summarize_acquisition(TABLE.drop(columns="remark"))
    with pytest.raises(ValueError, match="no rows"):
        check_compliance(TABLE.iloc[:0], PROTOCOL)
    with pytest.raises(ValueError, match="subject 'a' is listed twice"):
        check_compliance(TABLE.iloc[[0, 0]], PROTOCOL)
    with pytest.raises(TypeError, match="column 'flip_angle' must hold numbers in deg or NaN, got '9'"):
        check_compliance(TABLE.assign(flip_angle="9"), PROTOCOL)
    with pytest.raises(TypeError, match="protocol must be a Protocol"):
        check_compliance(TABLE, {"flip_angle": (9, 1)})
