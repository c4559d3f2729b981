"""Hostile data: tables that point elsewhere, files that unpack without end, formulas, models that would run code."""

import ast
import gzip
import io
import json
import re
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from dqc_lib import networks
from dqc_lib.checkpoints import DAMAGES, MAX_BYTES, check_model, open_archive
from dqc_lib.cohort import Cohort, read_bids, read_cohort, read_published_csv, write_bids
from dqc_lib.cohort.rows import MAX_BYTES as MAX_TABLE
from dqc_lib.fisher import GradientScale
from dqc_lib.harmonization import headers as header_files
from dqc_lib.ledger import COUNTS
from dqc_lib.quality import Counts
from dqc_lib.report.revealing import FEWEST
from dqc_lib.tables import guard_text, read_table, unguard_text, write_table
from dqc_lib.travelling import RunFolder
from dqc_lib.volumes import VolumeCache, header, read_volume

ROOT = Path(__file__).parent.parent
TSV = "participant_id\tsite\tdiagnosis\tsex\tage\tscanner\n"
CSV = "Subject,Study,Path,Group_bin,Sex,Age\n"
UNSEEN = [f"a{chr(code)}b" for code in (0x200B, 0x200C, 0x200D, 0x200E, 0x200F, 0x2060, 0x061C, 0xFEFF, 0xAD, 0x180E)]
UNSEEN += ["a\u2028b", "a\u2066b", "a\U000e0041b", "\ufeffa"]
FORMULAS = ["=1+1", "+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "=cmd|' /C calc'!A0", "＝1+1", "'=1", "''=1", "-"]


# where a table may point


@pytest.fixture
def places(tmp_path):
    """Two folders with an image each: `cohort`, and `secret`, which no table may reach by itself."""
    for name in ("cohort", "secret"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.nii.gz").write_bytes(b"image")
    return tmp_path


def write_csv(folder, path):
    (folder / "table.csv").write_text(f'{CSV}P1,A,"{path}",1,F,60\n')
    return folder / "table.csv"


def make_bids(folder, subject="sub-1"):
    folder.mkdir(exist_ok=True)
    (folder / "participants.tsv").write_text(f"{TSV}{subject}\tA\tPD\tF\t60\tX\n")
    return folder


@pytest.mark.parametrize(
    "path", ["../secret/a.nii.gz", "x/../../secret/a.nii.gz", "{root}/secret/a.nii.gz", "/etc/hosts"]
)
def test_a_path_that_leaves_the_cohort_is_refused_and_the_subject_named(places, path):
    table = write_csv(places / "cohort", path.format(root=places))
    with pytest.raises(ValueError, match="subject 'P1': .* lies outside .*cohort; expected .* trusted_folders"):
        read_published_csv(table)


@pytest.mark.parametrize("path", ["../nowhere/a.nii.gz", "/nowhere/a.nii.gz"])
def test_a_table_does_not_learn_which_files_there_are_elsewhere(places, path):
    with pytest.raises(ValueError, match="lies outside"):
        read_published_csv(write_csv(places / "cohort", path))


def test_a_path_with_a_null_character_is_no_path(places):
    with pytest.raises(ValueError, match="subject 'P1': path .* holds a null character"):
        read_published_csv(write_csv(places / "cohort", "a\0.nii.gz"))


@pytest.mark.parametrize("path", ["a.nii.gz", "./x/../a.nii.gz", "{root}/cohort/a.nii.gz", "../cohort/a.nii.gz"])
def test_a_path_inside_is_read_relative_or_absolute(places, path):
    table = write_csv(places / "cohort", path.format(root=places))
    assert read_published_csv(table).table["path"].tolist() == [str(places / "cohort" / "a.nii.gz")]


def test_absolute_paths_elsewhere_need_a_root_or_a_trusted_folder(places):
    table, wanted = write_csv(places / "cohort", f"{places}/secret/a.nii.gz"), [str(places / "secret" / "a.nii.gz")]
    assert read_published_csv(table, image_root=places / "secret").table["path"].tolist() == wanted
    for trusted in ([places / "secret"], [places], ["/"], [str(places / "nowhere"), str(places / "secret")]):
        assert read_cohort(table, trusted_folders=trusted).table["path"].tolist() == wanted
    with pytest.raises(ValueError, match="lies outside .*cohort, .*nowhere; expected"):
        read_cohort(table, trusted_folders=[places / "nowhere"])
    with pytest.raises(TypeError, match="trusted_folders must be a list of folders, came a single path '/'"):
        read_cohort(table, trusted_folders="/")


def test_a_folder_whose_name_only_begins_alike_is_elsewhere(places):
    (places / "cohort-2").mkdir()
    (places / "cohort-2" / "a.nii.gz").touch()
    with pytest.raises(ValueError, match="lies outside"):
        read_published_csv(write_csv(places / "cohort", "../cohort-2/a.nii.gz"))


def link_image(folder, secret):
    (folder / "sub-1" / "anat").mkdir(parents=True)
    (folder / "sub-1" / "anat" / "sub-1_T1w.nii.gz").symlink_to(secret / "a.nii.gz")


def link_folder(folder, secret):
    (secret / "anat").mkdir()
    (secret / "anat" / "sub-1_T1w.nii.gz").touch()
    (folder / "sub-1").symlink_to(secret)


def link_twice(folder, secret):
    (folder / "sub-1").mkdir()
    (folder / "inside").symlink_to(secret)
    (folder / "sub-1" / "anat").symlink_to("../inside")
    (secret / "sub-1_T1w.nii.gz").touch()


@pytest.mark.parametrize("link", [link_image, link_folder, link_twice])
def test_a_symbolic_link_that_leaves_a_bids_folder_is_refused_unless_trusted(places, link):
    folder = make_bids(places / "cohort")
    link(folder, places / "secret")
    with pytest.raises(ValueError, match="subject 'sub-1': .*that is, .*secret.* lies outside .*cohort; expected"):
        read_bids(folder)
    assert len(read_cohort(folder, trusted_folders=[places / "secret"])) == 1


@pytest.mark.parametrize("names", [(), ("sub-1_T1w.nii.gz",), ("sub-1_private_T1w.nii", "sub-1_T1w.nii.gz")])
@pytest.mark.parametrize("there", [True, False])
def test_the_answer_does_not_tell_what_lies_behind_a_linked_folder(places, names, there):
    folder, outside = make_bids(places / "cohort"), places / "secret" / "anat"
    if there:
        outside.mkdir()
        for name in names:
            (outside / name).touch()
    (folder / "sub-1").mkdir()
    (folder / "sub-1" / "anat").symlink_to(outside)
    with pytest.raises(ValueError) as caught:
        read_bids(folder)
    assert str(caught.value) == (
        f"subject 'sub-1': {folder}/sub-1/anat (that is, {outside}) lies outside {folder}; expected a file inside, "
        "or its folder among trusted_folders"
    )


def test_a_link_of_the_published_table_that_leaves_is_refused(places):
    (places / "cohort" / "b.nii.gz").symlink_to(places / "secret" / "a.nii.gz")
    with pytest.raises(ValueError, match="subject 'P1': .*that is, .*secret"):
        read_published_csv(write_csv(places / "cohort", "b.nii.gz"))


def test_a_table_that_is_a_link_to_elsewhere_is_not_opened(places):
    (places / "secret" / "participants.tsv").write_text("a secret")
    (places / "cohort" / "participants.tsv").symlink_to(places / "secret" / "participants.tsv")
    with pytest.raises(ValueError, match="the table: .* lies outside .*cohort") as caught:
        read_bids(places / "cohort")
    assert "a secret" not in str(caught.value)


def test_links_that_stay_inside_and_a_linked_folder_itself_are_read(places):
    folder = make_bids(places / "cohort")
    (folder / "sub-1" / "anat").mkdir(parents=True)
    (folder / ".git" / "annex").mkdir(parents=True)
    (folder / ".git" / "annex" / "object.nii.gz").touch()
    (folder / "sub-1" / "anat" / "sub-1_T1w.nii.gz").symlink_to("../../.git/annex/object.nii.gz")
    (places / "shortcut").symlink_to(folder)
    for root in (folder, places / "shortcut"):
        assert len(read_bids(root)) == 1


@pytest.mark.parametrize("subject", ["sub-/../../secret", "../secret", "/etc", "sub-1/..", "sub-*", "sub-1\u202e", "."])
def test_a_subject_that_is_no_name_of_a_folder_is_refused(places, subject):
    with pytest.raises(ValueError, match="participant_id is .*; expected 'sub-' and letters or digits"):
        read_bids(make_bids(places / "cohort", subject))


@pytest.mark.parametrize("column", ["subject", "center", "scanner"])
@pytest.mark.parametrize("name", ["a\tb", "a\rb", "a\nb", "a\x1b[2Jb", "a\u202eb", "\x7f", *UNSEEN])
def test_names_with_characters_that_are_not_seen_are_refused(column, name):
    row = {"subject": "s", "center": "A", "diagnosis": 1, "sex": "F", "age": 60.0, "scanner": "X", "path": "a.nii"}
    with pytest.raises(ValueError, match=f"{column} is .*; expected a text without control characters"):
        Cohort(pd.DataFrame([row | {column: name}]), ".")


@pytest.mark.parametrize("name", ["Klinikum Süd", "北京", "مستشفى", "בית חולים", "a\u00a0b", "e\u0301", "🏥"])
def test_names_of_all_scripts_are_taken(name):
    row = {"diagnosis": 1, "sex": "F", "age": 60.0, "path": "a.nii"}
    assert Cohort(pd.DataFrame([row | dict.fromkeys(["subject", "center", "scanner"], name)]), ".").centers == [name]


@pytest.mark.parametrize("name", ["a\x1b[2J.nii.gz", "a\nb.nii.gz", "a\x9b.nii.gz", "a\u202e.nii.gz"])
@pytest.mark.parametrize("place", ["", "../secret/", "nowhere/"])
def test_no_message_holds_control_characters_of_a_path(places, name, place):
    if not place:
        (places / "cohort" / name).touch()
    with pytest.raises((ValueError, FileNotFoundError), match="subject 'P1'") as caught:
        read_published_csv(write_csv(places / "cohort", place + name))
    assert str(caught.value).isprintable()


def test_no_message_holds_control_characters_of_an_image_in_a_bids_folder(places):
    folder = make_bids(places / "cohort")
    (folder / "sub-1" / "anat").mkdir(parents=True)
    (folder / "sub-1" / "anat" / "sub-1\x1b[2J_T1w.nii.gz").touch()
    with pytest.raises(ValueError, match="path is .*; expected a path without control characters") as caught:
        read_bids(folder)
    assert str(caught.value).isprintable()


def test_a_folder_named_with_a_joiner_is_read(tmp_path):
    name = "می\u200cخواهم"  # as Persian is written
    (tmp_path / name).mkdir()
    (tmp_path / name / "a.nii.gz").touch()
    assert len(read_published_csv(write_csv(tmp_path / name, "a.nii.gz"))) == 1


def test_a_byte_order_mark_begins_a_file_and_is_no_part_of_a_name(places):
    table = write_csv(places / "cohort", "a.nii.gz")
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes())
    assert read_published_csv(table).table["subject"].tolist() == ["P1"]
    table.write_text(f"{CSV}P1,\ufeffA,a.nii.gz,1,F,60\n", encoding="utf-8-sig")
    with pytest.raises(ValueError, match=r"center is '\\ufeffA'; expected a text without control characters or others"):
        read_published_csv(table)


# how long a table may be


@pytest.mark.parametrize("read", [read_published_csv, read_cohort])
def test_a_table_may_be_as_long_as_agreed_and_no_longer(places, read):
    path = write_csv(places / "cohort", "a.nii.gz")
    length = len(path.read_bytes())
    assert len(read(path, max_bytes=length)) == 1
    with pytest.raises(ValueError) as caught:
        read(path, max_bytes=length - 1)
    assert str(caught.value) == f"{path}: {length} bytes; expected a table of at most {length - 1} (max_bytes)"


def test_a_table_of_one_line_without_end_is_not_read(places, monkeypatch):
    path = make_bids(places / "cohort") / "participants.tsv"
    with path.open("r+b") as stream:
        stream.truncate(MAX_TABLE + 1)  # a sparse file, which takes no room
    monkeypatch.setattr(Path, "open", None)  # would be a TypeError
    for read in (read_bids, read_cohort):
        with pytest.raises(ValueError, match=rf"participants.tsv: {MAX_TABLE + 1} bytes; expected .* \(max_bytes\)"):
            read(places / "cohort")
    with pytest.raises(TypeError, match="max_bytes must be a whole number, got '1'"):
        read_bids(places / "cohort", max_bytes="1")


def test_a_header_of_very_many_columns_is_told_in_a_few(places):
    path = make_bids(places / "cohort") / "participants.tsv"
    path.write_text("\t".join(f"column {at}" for at in range(200_000)) + "\n")
    with pytest.raises(ValueError, match="column 'participant_id' is missing; .* and 199988 more$"):
        read_bids(places / "cohort")


# what a file may unpack to


def make_header(*, shape=(4, 5, 6), code=2):
    made = nibabel.Nifti1Header()
    made.set_data_shape(shape)
    made["datatype"], made["bitpix"], made["vox_offset"], made["magic"] = code, 8, 352, b"n+1"
    made["pixdim"][1:4] = 1
    return made.binaryblock + b"\0\0\0\0"


def pack_zeros(n_mebibytes):
    """Return gzip members that together unpack to so many MiB, a thousandth of that long."""
    return gzip.compress(bytes(2**20), compresslevel=9) * n_mebibytes


class CountingReader(io.RawIOBase):
    """Counts the bytes that are unpacked."""

    def __init__(self, stream):
        self.stream, self.n_bytes = stream, 0

    def read(self, size=-1):
        piece = self.stream.read(size)
        self.n_bytes += len(piece)
        return piece

    def seek(self, place, whence=0):
        return self.stream.seek(place, whence)


def read_counting(path, monkeypatch, **options):
    """Read a volume and return it, or the error, with how many bytes the check unpacked."""
    readers, open_gzip = [], gzip.open

    def open_counting(*arguments):
        readers.append(CountingReader(open_gzip(*arguments)))
        return readers[-1]

    monkeypatch.setattr(header.gzip, "open", open_counting)
    try:
        found = read_volume(path, **options)
    except ValueError as error:
        found = error
    return found, sum(reader.n_bytes for reader in readers)


def test_a_bomb_behind_a_header_that_claims_little_is_not_unpacked(tmp_path, monkeypatch):
    path = tmp_path / "bomb.nii.gz"
    payload = np.arange(120, dtype=np.uint8)
    path.write_bytes(gzip.compress(make_header() + payload.tobytes()) + pack_zeros(4096))
    found, n_unpacked = read_counting(path, monkeypatch, orientation=None)
    np.testing.assert_array_equal(found.array, payload.reshape((4, 5, 6), order="F"))
    assert n_unpacked < 4 * 2**20, "of 4 GiB"


def test_a_bomb_that_claims_all_of_itself_is_refused_by_its_header(tmp_path, monkeypatch):
    path = tmp_path / "bomb.nii.gz"
    path.write_bytes(gzip.compress(make_header(shape=(1024, 1024, 1024))) + pack_zeros(1024))
    found, n_unpacked = read_counting(path, monkeypatch)
    assert "1073741824 voxels, sizes (1024, 1024, 1024); expected at most 134217728 (max_voxels)" in str(found)
    assert n_unpacked == header.HEADER_BYTES


def test_the_limit_is_one_argument_of_reader_and_cache(tmp_path):
    path = tmp_path / "a.nii"
    path.write_bytes(make_header() + bytes(range(120)))
    assert read_volume(path, max_voxels=120).shape == (4, 5, 6)
    cache = {limit: VolumeCache({"sub-1": path}, max_voxels=limit) for limit in (119, 120)}
    assert cache[120].shape == (4, 5, 6)
    with pytest.raises(ValueError, match=r"subject 'sub-1': .*120 voxels.*at most 119 \(max_voxels\)"):
        cache[119].check()


def test_voxels_that_begin_behind_a_bomb_are_not_sought(tmp_path, monkeypatch):
    path = tmp_path / "bomb.nii.gz"
    start = bytearray(make_header())
    start[108:112] = struct.pack("<f", 2**30)
    path.write_bytes(gzip.compress(bytes(start)) + pack_zeros(1025))
    found, n_unpacked = read_counting(path, monkeypatch)
    assert "damaged header" in str(found) and n_unpacked == header.HEADER_BYTES


def test_a_file_that_is_of_two_formats_is_read_as_the_one_that_was_checked(tmp_path):
    plain, path = tmp_path / "plain.h5", tmp_path / "both.nii"
    sitk.WriteImage(sitk.Image([10, 9, 8], sitk.sitkUInt8), str(plain))
    with h5py.File(plain) as source, h5py.File(path, "w", userblock_size=512) as target:
        for name in source:
            source.copy(name, target)
    payload = np.arange(120, dtype=np.uint8)
    with path.open("r+b") as stream:
        stream.write(make_header() + payload.tobytes())
    assert sitk.ReadImage(str(path)).GetSize() == (10, 9, 8), "the bait works"
    found = read_volume(path, orientation=None, max_voxels=120)
    np.testing.assert_array_equal(found.array, payload.reshape((4, 5, 6), order="F"))


@pytest.mark.skipif(sys.platform != "linux", reason="memory of a process is limited by RLIMIT_AS on Linux alone")
def test_a_bomb_is_read_within_the_memory_of_its_header(tmp_path):
    path = tmp_path / "bomb.nii.gz"
    path.write_bytes(gzip.compress(make_header() + bytes(range(120))) + pack_zeros(2048))
    code = (
        "import resource, sys; from pathlib import Path; import SimpleITK; from dqc_lib.volumes import read_volume\n"
        "used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 400 * 2**20,) * 2)\n"
        "print(read_volume(sys.argv[1]).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "(4, 5, 6)", done.stderr


NAN, INFINITY = float("nan"), float("inf")
ABSURD = [
    ("no spacing", 80, "<f", [0.0], "spacing 0, 1, 1 mm; expected 1e-06 to 1000"),
    ("negative spacing", 84, "<f", [-1.0], "spacing 1, -1, 1 mm"),
    ("spacing that is no number", 88, "<f", [NAN], "spacing 1, 1, nan mm"),
    ("infinite spacing", 80, "<f", [INFINITY], "spacing inf, 1, 1 mm"),
    ("spacing of a city", 80, "<f", [1e6], "spacing 1e+06, 1, 1 mm"),
    ("negative size", 42, "<h", [-4], "damaged header, 3 dimensions, sizes (-4, 5, 6)"),
    ("negative number of dimensions", 40, "<h", [-3], "damaged header, -3 dimensions"),
    ("largest sizes", 42, "<3h", [32767] * 3, "voxels, sizes (32767, 32767, 32767); expected at most"),
    ("voxels before the header ends", 108, "<f", [0.0], "voxels at 0; expected 3-D"),
    ("voxels at no number", 108, "<f", [NAN], "voxels at nan; expected 3-D"),
    ("voxels beyond the file", 108, "<f", [5000.0], "truncated, 0 bytes of voxels; expected 120"),
    ("voxels at the other end of the disk", 108, "<f", [1e30], "voxels at 1e+30; expected 3-D"),
    ("place that is no number", 252, "<2h12x3f", [1, 0, NAN, 0.0, 0.0], "qform holds"),
    ("axes that are no number", 254, "<h24xf", [1, NAN], "sform holds"),
    ("values scaled without end", 112, "<2f", [INFINITY, 0.0], "values scaled by inf and 0"),
    ("values moved by no number", 112, "<2f", [2.0, NAN], "values scaled by 2 and nan"),
]


@pytest.mark.parametrize("absurd", ABSURD, ids=[case[0] for case in ABSURD])
def test_an_absurd_header_is_refused_before_the_image_is_read(tmp_path, absurd, monkeypatch):
    import SimpleITK

    _, offset, form, values, message = absurd
    content = bytearray(make_header() + bytes(range(120)))
    content[offset : offset + struct.calcsize(form)] = struct.pack(form, *values)
    path = tmp_path / "absurd.nii"
    path.write_bytes(content)
    monkeypatch.setattr(SimpleITK, "ReadImage", None)  # would be a TypeError
    with pytest.raises(ValueError) as caught:
        read_volume(path, subject="sub-1")
    assert str(caught.value).startswith(f"subject 'sub-1': {path}: ") and message in str(caught.value)


# formulas


@pytest.mark.parametrize("text", FORMULAS)
def test_no_text_is_a_formula_and_every_text_comes_back(text):
    guarded = guard_text(text)
    assert guarded == "'" + text and unguard_text(guarded) == text


@pytest.mark.parametrize("text", ["", "sub-1", "a=b", "1-2", "'tis", "''", "12", " =1", "Klinikum Süd", "<b>"])
def test_other_texts_are_left_alone(text):
    assert guard_text(text) == text == unguard_text(text)


LETTERS = st.one_of(st.sampled_from("'=+-@\t\r\n,;\" ＝a1"), st.characters(codec="utf-8", exclude_characters="\0"))
TEXTS = st.text(LETTERS)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.tuples(TEXTS, st.floats(allow_nan=False), st.integers(-(2**60), 2**60)), min_size=1, max_size=5))
def test_a_table_comes_back_equal_with_its_numbers_as_numbers(tmp_path_factory, rows):
    table = pd.DataFrame(rows, columns=["subject", "-score", "n"])
    path = write_table(table, tmp_path_factory.mktemp("tables") / "a.csv")
    back = read_table(path, dtype={"subject": str}, keep_default_na=False)
    pd.testing.assert_frame_equal(back, table, check_exact=True)


def test_numbers_that_begin_with_a_sign_stay_numbers_in_the_file(tmp_path):
    table = pd.DataFrame({"subject": ["-1", "+2"], "score": [-0.5, 1e-7], "n": [-3, 4]})
    path = write_table(table, tmp_path / "a.csv")
    assert path.read_text() == "subject,score,n\n'-1,-0.5,-3\n'+2,1e-07,4\n"
    pd.testing.assert_frame_equal(read_table(path, dtype={"subject": str}), table)


def find_formulas(path, *, separator):
    """Return the cells of a file that a spreadsheet would compute, numbers left aside."""
    import csv

    with path.open(newline="", encoding="utf-8") as stream:
        cells = [cell for line in csv.reader(stream, delimiter=separator) for cell in line]
    return [cell for cell in cells if cell[:1] in tuple("=+-@\t\r\n＝＋－＠") and not is_number(cell)]


def is_number(text):
    try:
        return float(text) is not None
    except ValueError:
        return False


PRINTABLE = [text for text in FORMULAS if text.isprintable()]


def make_hostile_cohort(folder):
    rows = [
        (f"sub-{at}", text, at % 2, "F", 60.0, text, str(folder / f"sub-{at}" / "anat" / f"sub-{at}_T1w.nii.gz"))
        for at, text in enumerate(PRINTABLE)
    ]
    columns = ["subject", "center", "diagnosis", "sex", "age", "scanner", "path"]
    return Cohort(pd.DataFrame(rows, columns=columns), folder)


def test_a_written_cohort_holds_no_formula_and_reads_as_it_was(tmp_path):
    cohort = make_hostile_cohort(tmp_path)
    path = write_bids(cohort, tmp_path, positive="=PD", negative="-HC")
    for image in cohort.table["path"]:
        Path(image).parent.mkdir(parents=True)
        Path(image).touch()
    assert find_formulas(path, separator="\t") == []
    assert read_bids(tmp_path, positive="=PD", negative="-HC").table.equals(cohort.table)


def test_predictions_of_a_run_hold_no_formula_and_read_as_they_were(tmp_path):
    cohort = make_hostile_cohort(tmp_path)
    names = dict(zip(cohort.table["subject"], PRINTABLE, strict=True))
    scores = cohort.table.drop(columns="path").assign(subject=list(names.values()), score=0.25)

    class Engine:
        def save(self, path):
            path.write_bytes(b"")

        def score(self, role):
            return scores

    run = RunFolder(tmp_path / "run", {})
    for cycle in range(2):
        run.record_cycle(Engine(), arm="=arm", cycle=cycle, counts=Counts(1, 2, 3, 4))
    read = run.read_predictions()
    assert find_formulas(run.path / "predictions.csv", separator=",") == []
    assert read["subject"].tolist() == 2 * PRINTABLE
    assert read[["center", "scanner"]].to_numpy().tolist() == 2 * scores[["center", "scanner"]].to_numpy().tolist()
    assert set(read["arm"]) == {"=arm"} and read["score"].dtype == float
    assert run.read_verification()[list(COUNTS)].to_numpy().tolist() == 2 * [[1, 2, 3, 4]]


# models


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    from dqc_lib.networks import build_sfcn

    path = tmp_path_factory.mktemp("model") / "good.keras"
    build_sfcn((16, 16, 16), width=0.0625).save(path)
    return path


def repack(source, target, **parts):
    """Copy a saved model with other contents of some of its parts, given by their names up to the first dot."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            key = name.partition(".")[0]
            if parts.get(key, b"") is not None:
                new.writestr(name, parts.get(key) or old.read(name))
        for name in set(parts) - {name.partition(".")[0] for name in old.namelist()}:
            new.writestr(name, parts[name])
    return target


def edit_config(source, target, edit):
    with zipfile.ZipFile(source) as archive:
        config = json.loads(archive.read("config.json"))
    edit(config)
    return repack(source, target, config=json.dumps(config).encode())


def test_a_model_that_we_saved_is_accepted(model_path):
    assert check_model(model_path) == model_path


def name_lambda(config):
    config["config"]["layers"][-1].update(class_name="Lambda")


def name_function(config):
    evil = {"module": "os", "class_name": "function", "config": "system", "registered_name": "system"}
    config["config"]["layers"][1]["config"]["activation"] = evil


def name_unknown_layer(config):
    config["config"]["layers"][1].update(module="torch.hub", class_name="load")


def name_inner_lambda(config):
    config["config"]["layers"][1]["config"]["x"] = [{"class_name": "__lambda__", "config": {"value": "aGk="}}]


def name_registered(config):
    config["config"]["layers"][1]["registered_name"] = "other>Conv3D"


def name_callable_in_compilation(config):
    config["compile_config"]["loss"] = {"module": "builtins", "class_name": "function", "config": "eval"}


def name_list(config):
    config["config"]["layers"][1]["class_name"] = ["Conv3D"]


EDITS = [name_lambda, name_function, name_unknown_layer, name_inner_lambda]
EDITS += [name_registered, name_callable_in_compilation, name_list]


@pytest.mark.parametrize("edit", EDITS)
def test_a_model_that_names_other_code_is_refused_before_keras_sees_it(model_path, tmp_path, edit, monkeypatch):
    import keras

    from dqc_lib.networks import load_sfcn

    path = edit_config(model_path, tmp_path / "evil.keras", edit)
    monkeypatch.setattr(keras.saving, "load_model", None)  # would be a TypeError
    with pytest.raises(ValueError, match="evil.keras: it names .*; expected the layers of an SFCN alone"):
        load_sfcn(path)


def make_weights(fill):
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        fill(file)
    return content.getvalue()


def link_outside(file):
    file["layers"] = h5py.ExternalLink("/etc/passwd", "/")


def link_softly(file):
    file["layers"] = h5py.SoftLink("/elsewhere")


def store_outside(file):
    file.create_dataset("w", (10,), dtype="u1", external=[("/etc/passwd", 0, 10)])


def store_virtually(file):
    layout = h5py.VirtualLayout((4,), dtype="f4")
    layout[:] = h5py.VirtualSource("/elsewhere.h5", "w", shape=(4,))
    file.create_virtual_dataset("w", layout)


def claim_much(file):
    file.create_dataset("w", (2**20, 2**20), dtype="f4", chunks=(1, 1024), compression="gzip")


def link_in_circles(file):
    """Each of 64 groups holds the next one twice: 2**64 ways through, and one back to the start."""
    group = file
    for _ in range(64):
        following = group.create_group("a")
        group["b"] = following
        group = following
    group["back"] = file["/"]


@pytest.mark.parametrize("fill", [link_outside, link_softly, store_outside, store_virtually, claim_much])
def test_weights_that_lie_elsewhere_or_claim_too_much_are_refused(model_path, tmp_path, fill):
    path = repack(model_path, tmp_path / "evil.keras", model=make_weights(fill))
    with pytest.raises(ValueError, match=r"evil\.keras: .*(link|another file|max_bytes)"):
        check_model(path)


def test_weights_linked_in_circles_are_counted_once(model_path, tmp_path):
    assert check_model(repack(model_path, tmp_path / "round.keras", model=make_weights(link_in_circles)))


def test_a_model_that_unpacks_to_more_than_allowed_or_holds_more_is_refused(model_path, tmp_path):
    with pytest.raises(ValueError, match=r"bytes unpacked; expected at most 1000 \(max_bytes\)"):
        check_model(model_path, max_bytes=1000)
    bomb = repack(model_path, tmp_path / "bomb.keras", config=b" " * 2**23)
    assert bomb.stat().st_size < 2**18
    with pytest.raises(ValueError, match="a configuration above 4194304 bytes"):
        check_model(bomb)
    with pytest.raises(ValueError, match=r"it holds \['../evil.py', .*; expected \['config.json'"):
        check_model(repack(model_path, tmp_path / "more.keras", **{"../evil.py": b"x"}))
    with pytest.raises(ValueError, match="it holds"):
        check_model(repack(model_path, tmp_path / "less.keras", metadata=None))


@pytest.mark.parametrize("config", [b"{", b"[" * 100_000, b"\xff\xfe"])
def test_a_model_with_a_damaged_configuration_is_refused(model_path, tmp_path, config):
    with pytest.raises(ValueError, match=r"a\.keras: damaged .*expected a model saved as \.keras"):
        check_model(repack(model_path, tmp_path / "a.keras", config=config))


def fill_plainly(file):
    for layer in ("conv1", "dense"):
        group = file.create_group(f"layers/{layer}/vars")
        for name in ("0", "1"):
            group.create_dataset(name, data=np.arange(6, dtype="f4").reshape(2, 3), track_times=False)


def pack_model(path, *, weights=None, packing=zipfile.ZIP_STORED):
    """Write a small archive with the parts of a saved model, the same bytes every time."""
    parts = {"metadata.json": b"{}", "config.json": b"{}"}
    parts["model.weights.h5"] = make_weights(fill_plainly) if weights is None else weights
    with zipfile.ZipFile(path, "w", packing) as archive:
        for name, content in parts.items():
            archive.writestr(zipfile.ZipInfo(name), content, packing)
    return path


def read_complaints(path, read, contents):
    """Return how many of the contents are read, and the kinds of errors told of the others; each must name the file."""
    n_read, kinds = 0, set()
    for content in contents:
        path.write_bytes(content)
        try:
            read(path)
            n_read += 1
        except ValueError as error:
            assert type(error) is ValueError and str(error).startswith(f"{path}: ")
            assert error.__suppress_context__ or error.__context__ is None
            kinds |= set(re.findall(r"damaged \((\w+)", str(error)))
    return n_read, kinds


def flip_bytes(content, *, every=1):
    """Yield the content with one byte changed, in its lowest bit and in all of them."""
    for place in range(0, len(content), every):
        for bits in (1, 255):
            yield content[:place] + bytes([content[place] ^ bits]) + content[place + 1 :]


def test_a_model_with_any_byte_of_its_archive_changed_is_read_or_named(tmp_path):
    path = pack_model(tmp_path / "a.keras", packing=zipfile.ZIP_DEFLATED)
    content = path.read_bytes()
    _, kinds = read_complaints(path, check_model, flip_bytes(content, every=2))
    assert {"BadZipFile", "error"} <= kinds, "zlib.error among them"
    _, kinds = read_complaints(path, check_model, (content[:end] for end in range(0, len(content), 7)))
    assert kinds == {"BadZipFile"}


def test_a_model_with_any_byte_of_its_weights_changed_is_read_or_named(tmp_path):
    """The checksum of the archive is right, as in a file that was made so."""
    weights = make_weights(fill_plainly)

    def list_models():
        for changed in flip_bytes(weights, every=11):
            yield pack_model(tmp_path / "source.keras", weights=changed).read_bytes()

    n_read, kinds = read_complaints(tmp_path / "a.keras", check_model, list_models())
    assert n_read > 100, "much of the file is not looked at here"
    assert {"RuntimeError", "KeyError", "OverflowError"} <= kinds


def edit_entry(path, *, flags=None, method=None):
    """Change what the directory at the end of an archive and each entry say of it."""
    content = bytearray(path.read_bytes())
    for magic, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        for match in re.finditer(re.escape(magic), bytes(content)):
            for value, place in ((flags, match.start() + at), (method, match.start() + at + 2)):
                if value is not None:
                    content[place : place + 2] = struct.pack("<H", value)
    path.write_bytes(content)
    return path


def test_a_model_that_is_encrypted_or_packed_unusually_is_named(tmp_path):
    path = edit_entry(pack_model(tmp_path / "locked.keras"), flags=1)
    with pytest.raises(ValueError, match=r"locked\.keras: damaged \(RuntimeError: .*encrypted.*expected a model saved"):
        check_model(path)
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, 99):
        path = edit_entry(pack_model(tmp_path / "odd.keras"), method=method)
        with pytest.raises(ValueError, match=r"odd\.keras: damaged \(packed in an unusual way\); expected"):
            check_model(path)


def name_a_type(file):
    file["layers"] = np.dtype("f4")


def hold_texts(file):
    """Each of a million values may be as long as the file, though the table of them is short."""
    file.create_dataset("w", data=["x"], dtype=h5py.string_dtype())


@pytest.mark.parametrize(
    ("fill", "words"), [(name_a_type, "'/layers' is a Datatype"), (hold_texts, "'/w' holds other values than numbers")]
)
def test_weights_that_are_no_numbers_are_refused(tmp_path, fill, words):
    with pytest.raises(ValueError, match=rf"a\.keras: {words}; expected weights"):
        check_model(pack_model(tmp_path / "a.keras", weights=make_weights(fill)))


def test_all_readers_of_saved_files_go_by_one_list_of_damages():
    named = {
        source.relative_to(ROOT).as_posix()
        for source in SOURCES
        if re.search(r"\b(BadZipFile|zlib\.error)\b", source.read_text(encoding="utf-8"))
    }
    assert named == {"dqc_lib/checkpoints.py", "dqc_lib/volumes/header.py"}, "the header's one is of gzip files"
    assert networks.DAMAGES is DAMAGES


def test_formats_in_which_safe_mode_does_not_hold_are_refused(tmp_path):
    for name in ("model.h5", "model.pkl", "saved_model"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(ValueError, match=f"{name}: not named as a saved model; expected the ending .keras"):
            check_model(tmp_path / name)
    (tmp_path / "a.keras").write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(ValueError, match="a.keras: damaged .*expected a zip archive"):
        check_model(tmp_path / "a.keras")


class Bait:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def test_a_scale_that_would_run_code_is_refused(tmp_path):
    bait = np.array([Bait(str(tmp_path / "caught"))], dtype=object)
    np.savez(tmp_path / "scale.npz", total=bait, count=1, reference=1.0)
    with pytest.raises(ValueError, match="allow_pickle"):
        GradientScale.load(tmp_path / "scale.npz")
    assert not (tmp_path / "caught").exists()
    np.load(tmp_path / "scale.npz", allow_pickle=True)["total"]
    assert (tmp_path / "caught").exists(), "the bait works"


def test_a_scale_that_unpacks_to_more_than_allowed_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "scale.npz", total=np.zeros(10_000), count=1, reference=1.0)
    with pytest.raises(ValueError, match=r"expected at most 1000 \(max_bytes\)"):
        open_archive(tmp_path / "scale.npz", max_bytes=1000)


def write_claim(path, header, *, n_bytes=40):
    """Write a scale whose first array begins with this header and holds so many bytes."""
    text = f"{header}\n".encode()
    with zipfile.ZipFile(path, "w") as archive:
        head = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text))
        archive.writestr("total.npy", head + text + bytes(n_bytes))
        for name in ("count", "reference"):
            content = io.BytesIO()
            np.save(content, 1)
            archive.writestr(f"{name}.npy", content.getvalue())
    return path


CLAIM = "{{'descr': {}, 'fortran_order': False, 'shape': {}}}"
CLAIMS = {
    "more than any memory": CLAIM.format("'<f8'", (500_000_000_000_000,)),
    "more than 64 bits count": CLAIM.format("'<f8'", (2**32, 2**32)),
    "less than there is": CLAIM.format("'<f8'", (4,)),
    "below nothing": CLAIM.format("'<f8'", (-5, -1)),
    "texts": CLAIM.format("'<U1'", (10,)),
    "objects": CLAIM.format("'|O'", (5,)),
    "fields": CLAIM.format("[('a', '<f8')]", (5,)),
    "no dictionary": "5",
    "no header": "'",
    "a header that nests": "-" * 9000 + "1",
}


@pytest.mark.parametrize("header", CLAIMS.values(), ids=CLAIMS)
def test_a_scale_that_claims_other_than_it_holds_is_refused_before_memory_is_taken(tmp_path, header):
    path = write_claim(tmp_path / "scale.npz", header)
    with pytest.raises(ValueError, match=r"scale\.npz: damaged \(ValueError: .*expected the scale of a watched cycle"):
        GradientScale.load(path)


def test_a_scale_that_claims_what_it_holds_is_read(tmp_path):
    scale = GradientScale.load(write_claim(tmp_path / "scale.npz", CLAIM.format("'<f8'", (5,))))
    assert scale.measure(np.zeros(5)) == 0


def test_a_scale_with_any_byte_changed_is_read_or_named(tmp_path):
    path = tmp_path / "scale.npz"
    np.savez(path, total=np.ones(3), count=1, reference=1.0, parts=np.arange(3))
    n_read, kinds = read_complaints(path, GradientScale.load, flip_bytes(path.read_bytes(), every=3))
    assert n_read > 0 and {"BadZipFile", "RuntimeError", "KeyError"} <= kinds


@pytest.mark.parametrize("parts", [[0, 1, 2**40], [0, -1, 1], [0.0, 1.0, 2.0]], ids=str)
def test_parts_of_a_scale_that_no_weight_can_have_are_refused(tmp_path, parts):
    np.savez(tmp_path / "scale.npz", total=np.ones(3), count=1, reference=1.0, parts=parts)
    with pytest.raises(ValueError, match=r"scale\.npz: damaged .*its parts do not fit each other"):
        GradientScale.load(tmp_path / "scale.npz")


# what the code itself may do

FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml", "subprocess"}
FORBIDDEN_MODULES |= {"pty", "ctypes", "xml", "urllib", "requests", "socket", "http", "ftplib", "code", "runpy"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "execfile", "input"}
FORBIDDEN_METHODS = {"os.system", "os.popen", "pd.read_pickle", "pd.eval", "pd.read_html", "pd.read_hdf", "torch.load"}
FORBIDDEN_IMPORTS = {"numpy.load", "pandas.eval", "pandas.read_html", "pandas.read_hdf"}  # by these names found again
FORBIDDEN_ATTRIBUTES = {"to_pickle", "read_pickle", "to_csv", "to_excel", "to_clipboard", "import_module"}
FORBIDDEN_ATTRIBUTES |= {"spawnv", "spawnve", "execv", "execve", "execvp", "execvpe", "posix_spawn", "posix_spawnp"}
FORBIDDEN_ATTRIBUTES |= {"enable_unsafe_deserialization", "unsafe_load", "extractall"}
SOURCES = sorted((ROOT / "dqc_lib").rglob("*.py"))


def find_dangers(tree):
    """Return what a module does that could run what it reads, as (line, what)."""
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from ((line, name) for name in whole if name in FORBIDDEN_METHODS | FORBIDDEN_IMPORTS)
            yield from ((line, alias.name) for alias in node.names if alias.name in FORBIDDEN_ATTRIBUTES)
        else:
            names = []
        yield from ((line, name) for name in names if name.split(".")[0] in FORBIDDEN_MODULES)
        if isinstance(node, ast.Attribute) and node.attr in FORBIDDEN_ATTRIBUTES:
            yield line, node.attr
        if isinstance(node, ast.Call):
            yield from ((line, what) for what in judge_call(node))


def judge_call(node):
    called = ast.unparse(node.func)
    keywords = {word.arg: ast.unparse(word.value) for word in node.keywords}
    if called in FORBIDDEN_CALLS or called in FORBIDDEN_METHODS:
        yield called
    if called.endswith(".load") and called.startswith(("np.", "numpy.")) and keywords.get("allow_pickle") != "False":
        yield "np.load without allow_pickle=False"
    if called.endswith("load_model") and keywords.get("safe_mode") != "True":
        yield "load_model without safe_mode=True"
    if called.endswith("load_weights") and not ast.unparse(node.args[0]).startswith("check_model("):
        yield "load_weights of a file that was not checked"
    if called.endswith((".query", ".eval")) and not isinstance(node.args[0], ast.Constant):
        yield f"{called} of an expression that is put together"
    if keywords.get("shell") == "True":
        yield "a shell"
    if keywords.get("escape") == "False":
        yield "HTML that is not escaped"


@pytest.mark.parametrize("source", SOURCES, ids=[str(path.relative_to(ROOT)) for path in SOURCES])
def test_the_library_runs_nothing_that_it_reads(source):
    found = list(find_dangers(ast.parse(source.read_text(encoding="utf-8"))))
    allowed = {("dqc_lib/tables.py", "to_csv")}  # the one place where tables are written
    allowed |= {("dqc_lib/travelling/study.py", "to_csv")}  # into a fingerprint, not into a file
    unchecked = "load_weights of a file that was not checked"
    allowed |= {("dqc_lib/networks.py", unchecked), ("dqc_lib/travelling/runs.py", unchecked)}  # `_naming` checks first
    allowed |= {("dqc_lib/__init__.py", "import_module")}  # of its own modules, by names that stand there
    allowed |= {("dqc_lib/federation/spread.py", "to_csv")}  # into a fingerprint, too
    allowed |= {(f"dqc_lib/federation/{name}.py", "subprocess") for name in ("guard", "runs")}  # FLARE
    allowed |= {("dqc_lib/federation/project.py", "yaml")}  # the project file that comes along, by the safe loader
    allowed |= {("dqc_lib/federation/flare.py", "socket")}  # asks which port is free
    name = source.relative_to(ROOT).as_posix()
    assert [danger for danger in found if (name, danger[1]) not in allowed] == []


@pytest.mark.parametrize(
    "code",
    [
        *("import pickle", "from joblib import load", "import yaml", "import xml.etree", "eval('1')", "exec(x)"),
        *("os.system('ls')", "np.load(path)", "np.load(path, allow_pickle=True)", "run(x, shell=True)"),
        *("keras.saving.load_model(path)", "keras.saving.load_model(path, safe_mode=False)", "table.to_csv(path)"),
        *("from pandas import read_pickle", "from numpy import load", "from os import system", "torch.load(path)"),
        *("importlib.import_module(name)", "os.execvpe(a, b, c)", "os.posix_spawn(a, b, c)", "from os import execve"),
        *("table.query(f'a == {b}')", "model.load_weights(path)", "table.to_html(escape=False)", "pd.read_pickle(x)"),
    ],
)
def test_the_search_for_dangers_finds_each(code):
    assert list(find_dangers(ast.parse(code)))


# what is said about it


def test_every_test_that_the_security_page_names_is_there():
    page = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    file, named = None, []
    for match in re.finditer(r"`(test_\w+\.py)?(?:::(test_\w+))?`", page):
        file = match[1] or file
        named.append((file, match[2]))
    assert len(named) > 15
    for file, test in named:
        text = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert test is None or f"def {test}(" in text, (file, test)


def test_the_limits_that_the_security_page_states_are_those_of_the_library():
    page = " ".join((ROOT / "SECURITY.md").read_text(encoding="utf-8").split())
    assert header.MAX_VOXELS == 512**3 and "at most 512³ voxels" in page
    assert header.MAX_OFFSET == 16 * 2**20 and "begin within 16 MiB" in page
    assert MAX_TABLE == 64 * 2**20 and "longer than 64 MiB" in page
    assert MAX_BYTES == 2 * 2**30 and "claim at most 2 GiB" in page
    assert header_files.MAX_BYTES == 2**20 and "sidecars above 1 MiB" in page and "at most 1 MiB is read" in page
    assert header_files.MAX_VALUE == 4 * 2**10 and "of a value at most 4 KiB" in page
    assert header_files.MAX_FILES == 512 and "more than 512 files" in page
    assert FEWEST == 5 and "warns below five subjects" in page
    for gap in ("A center that lies", "Gradient inversion"):
        assert gap in page.partition("What is not defended")[2]
