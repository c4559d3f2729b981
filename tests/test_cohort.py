"""The cohort: what is wrong with a table is said by name, and splits keep every subject in one role."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dqc_lib.cohort import (
    Cohort,
    check_roles,
    check_table,
    divide_held_out,
    read_bids,
    read_cohort,
    read_published_csv,
    split_by_subject,
    update_bids,
    write_bids,
)

ROW = {"diagnosis": 1, "sex": "F", "age": 61.5, "scanner": "vendor A", "path": "/data/image.nii.gz"}


def make_table(sizes=None, **columns):
    """Return a table with `sizes[center] = (controls, diseased)`."""
    sizes = {"A": (2, 2), "B": (1, 1)} if sizes is None else sizes
    rows = []
    for center, counts in sizes.items():
        for diagnosis, n in enumerate(counts):
            rows += [ROW | {"center": center, "diagnosis": diagnosis} for _ in range(n)]
    table = pd.DataFrame(rows)
    table.insert(0, "subject", [f"sub-{i:03d}" for i in range(len(table))])
    return table.assign(**columns)


def make_cohort(sizes=None, **columns):
    return Cohort(make_table(sizes, **columns), Path("study"))


def change(column, value, row=1):
    table = make_table(role="train", harm="", placement="").astype({column: object})
    table.loc[row, column] = value
    return table


BAD_TABLES = [
    (
        "no subject column",
        make_table().drop(columns="subject"),
        "column 'subject' is missing; expected .* came 'diagnosis', 'sex'",
    ),
    ("no age column", make_table().drop(columns="age"), "column 'age' is missing; expected"),
    ("unknown column", make_table(colour="red"), "column 'colour' is unknown; expected"),
    ("no rows", make_table().iloc[:0], "no rows; expected at least one subject"),
    ("duplicate", change("subject", "sub-000"), "subject 'sub-000' is listed 2 times; expected one row"),
    (
        "two roles",
        change("subject", "sub-000").assign(role=["train", "test", "train", "train", "train", "train"]),
        "subject 'sub-000' is in 2 roles, 'train', 'test'; expected one row with one role",
    ),
    ("empty subject", change("subject", " "), "row 2: subject is empty .*expected a name"),
    ("missing subject", change("subject", None), "row 2: subject is empty .*expected a name"),
    ("number as subject", change("subject", 7), "row 2: subject is empty or not a text .7.; expected"),
    ("empty center", change("center", ""), "subject 'sub-001'.*center is ''; expected the name of a center"),
    ("missing center", change("center", np.nan), "subject 'sub-001'.*center is missing; expected the name"),
    ("third diagnosis", change("diagnosis", 2), "subject 'sub-001' .center 'A'.: diagnosis is 2; expected 1 .*or 0"),
    ("missing diagnosis", change("diagnosis", np.nan), "'sub-001'.*diagnosis is missing; expected 1"),
    ("diagnosis as text", change("diagnosis", "PD"), "'sub-001'.*diagnosis is 'PD'; expected 1"),
    ("unknown sex", change("sex", "X"), "'sub-001'.*sex is 'X'; expected 'F' or 'M'"),
    ("missing sex", change("sex", None), "'sub-001'.*sex is missing; expected 'F' or 'M'"),
    ("missing age", change("age", np.nan), "'sub-001'.*age is missing; expected a number of years from 0 to 130"),
    ("negative age", change("age", -1.0), "'sub-001'.*age is -1.0; expected"),
    ("infinite age", change("age", np.inf), "'sub-001'.*age is inf; expected"),
    ("age in days", change("age", 22000), "'sub-001'.*age is 22000; expected"),
    ("age as words", change("age", "89+"), "'sub-001'.*age is '89.'; expected a number"),
    ("missing scanner", change("scanner", None), "'sub-001'.*scanner is missing; expected a text"),
    ("missing path", change("path", None), "'sub-001'.*path is missing; expected a text"),
    ("unknown role", change("role", "validation"), "'sub-001'.*role is 'validation'; expected 'train', 'verification'"),
    ("missing role", change("role", None), "'sub-001'.*role is missing; expected 'train', 'verification', 'test'"),
    ("missing harm", change("harm", np.nan), "'sub-001'.*harm is missing; expected a text"),
    (
        "unknown placement",
        change("placement", "site"),
        "'sub-001'.*placement is 'site'; expected '', 'center', 'single'",
    ),
]


@pytest.mark.parametrize(("table", "message"), [case[1:] for case in BAD_TABLES], ids=[case[0] for case in BAD_TABLES])
def test_a_bad_table_is_refused_by_subject_and_column(table, message):
    with pytest.raises(ValueError, match=message):
        check_table(table)
    with pytest.raises(ValueError, match=message):
        Cohort(table, Path("study"))


@pytest.mark.parametrize("age", [0, 130, 64.25, "71"])
def test_the_ends_of_the_age_range_are_allowed(age):
    cohort = make_cohort({"A": (1, 0)}, age=[age])
    assert cohort.table["age"].tolist() == [float(age)]


def test_a_cohort_keeps_its_own_table_in_the_declared_order_and_types():
    table = make_table()[["path", "age", "sex", "center", "diagnosis", "scanner", "subject"]].set_index(
        [pd.Index(range(9, 15))]
    )
    cohort = Cohort(table, "study")
    table.loc[9, "center"] = "Z"
    assert list(cohort.table) == ["subject", "center", "diagnosis", "sex", "age", "scanner", "path"]
    assert cohort.table.dtypes[["diagnosis", "age"]].tolist() == [np.int8, np.float64]
    assert list(cohort.table.index) == list(range(6))
    assert cohort.centers == ["A", "B"]
    assert len(cohort) == 6


def test_centers_come_by_first_appearance_and_selections_keep_the_order_of_the_table():
    cohort = make_cohort({"Z": (1, 1), "A": (1, 1)}, role=["train", "test", "train", "train"])
    assert cohort.centers == ["Z", "A"]
    assert cohort.select(role="train").table["subject"].tolist() == ["sub-000", "sub-002", "sub-003"]
    assert cohort.select(role=("test", "train"), centers=["Z"]).table["subject"].tolist() == ["sub-000", "sub-001"]
    assert cohort.select(subjects={"sub-003", "sub-001"}).table["subject"].tolist() == ["sub-001", "sub-003"]


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({"subjects": ["sub-9"]}, "subject 'sub-9'; expected among 'sub-000'"),
        ({"centers": "C"}, "center 'C'; expected among 'A', 'B'"),
        ({"role": "verification"}, "role 'verification'; expected among 'train'"),
        ({"centers": "B", "subjects": ["sub-000"]}, "no subject meets all conditions"),
    ],
)
def test_a_selection_of_nobody_is_refused(conditions, message):
    with pytest.raises(ValueError, match=message):
        make_cohort(role="train").select(**conditions)


def test_a_selection_by_role_needs_roles():
    with pytest.raises(ValueError, match="no column 'role'; expected one"):
        make_cohort().select(role="train")


def test_a_blinded_cohort_has_lost_the_ground_truth():
    harm = ["", "inversion", "", "", "label flip", ""]
    cohort = make_cohort(role="train", harm=harm, placement=["", "center", "", "", "single", ""])
    assert cohort.harmful == {"sub-001", "sub-004"}
    assert list(cohort.blinded().table) == [*make_cohort().table, "role"]
    assert cohort.blinded().harmful == frozenset()


def test_the_table_by_center_counts_what_is_there():
    cohort = make_cohort({"A": (1, 2), "B": (0, 1)}, sex=["F", "M", "M", "F"], age=[60.0, 70, 80, 50])
    table = cohort.by_center()
    assert table.index.tolist() == ["A", "B"]
    assert table[["n", "n_positive", "n_negative"]].to_numpy().tolist() == [[3, 2, 1], [1, 1, 0]]
    np.testing.assert_allclose(table["share_female"], [1 / 3, 1])
    np.testing.assert_allclose(table["mean_age"], [70, 50])
    assert table["scanner"].tolist() == ["vendor A", "vendor A"]


def test_a_cohort_shows_itself_escaped():
    cohort = Cohort(make_table(), Path("<script>"))
    assert "&lt;script&gt;: 6 subjects (3 disease, 3 control), 2 centers" in cohort._repr_html_()


def make_bids(folder, lines, images=("sub-1", "sub-2"), header="participant_id\tsite\tdiagnosis\tsex\tage\tscanner"):
    folder.mkdir(exist_ok=True)
    (folder / "participants.tsv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    for subject in images:
        (folder / subject / "anat").mkdir(parents=True, exist_ok=True)
        (folder / subject / "anat" / f"{subject}_T1w.nii.gz").touch()
    return folder


GOOD = ["sub-1\tA\tPD\tF\t61.5\tvendor A", "sub-2\tB\tHC\tmale\t58\tn/a"]


def test_a_bids_folder_is_read(tmp_path):
    cohort = read_bids(make_bids(tmp_path / "study", GOOD))
    expected = pd.DataFrame(
        {
            "subject": ["sub-1", "sub-2"],
            "center": ["A", "B"],
            "diagnosis": np.array([1, 0], dtype="int8"),
            "sex": ["F", "M"],
            "age": [61.5, 58.0],
            "scanner": ["vendor A", "unknown"],
            "path": [str(tmp_path / "study" / s / "anat" / f"{s}_T1w.nii.gz") for s in ("sub-1", "sub-2")],
        }
    )
    pd.testing.assert_frame_equal(cohort.table, expected)
    assert cohort.root == tmp_path / "study"


def test_words_numbers_cases_and_further_columns_of_a_bids_table_are_understood(tmp_path):
    header = "handedness\tparticipant_id\tsite\tdiagnosis\tsex\tage\tscanner\trole\tharm\tplacement"
    lines = [
        "right\tsub-1\tNA-1\tpatient\tFEMALE\t61\tx\ttrain\tinversion\tsingle",
        "n/a\tsub-2\t7\t0\tm\t5e1\tx\ttest\tn/a\tn/a",
        "left\tsub-3\t7\t1.0\tM\t50.0\tx\tverification\t\t",
    ]
    folder = make_bids(tmp_path, lines, ["sub-1", "sub-2", "sub-3"], header)
    (tmp_path / "sub-3" / "anat" / "sub-3_T1w.nii.gz").rename(tmp_path / "sub-3" / "anat" / "sub-3_run-1_T1w.nii")
    table = read_bids(folder, positive="Patient", negative="volunteer").table
    assert table["center"].tolist() == ["NA-1", "7", "7"]
    assert table["diagnosis"].tolist() == [1, 0, 1]
    assert table["sex"].tolist() == ["F", "M", "M"]
    assert table["age"].tolist() == [61, 50, 50]
    assert table["harm"].tolist() == ["inversion", "", ""]
    assert table["placement"].tolist() == ["single", "", ""]
    assert Path(table["path"][2]).name == "sub-3_run-1_T1w.nii"


BAD_BIDS = [
    ("unknown label", ["sub-1\tA\tAD\tF\t61\tx"], "'sub-1': diagnosis is 'AD'; expected 'PD', 'HC', '1', '0'"),
    ("missing label", ["sub-1\tA\tn/a\tF\t61\tx"], "'sub-1': diagnosis is missing; expected 'PD', 'HC'"),
    ("third label", ["sub-1\tA\t2\tF\t61\tx"], "'sub-1': diagnosis is '2'; expected"),
    ("unknown sex", ["sub-1\tA\tPD\tX\t61\tx"], "'sub-1': sex is 'X'; expected 'F', 'M'"),
    ("missing sex", ["sub-1\tA\tPD\tn/a\t61\tx"], "'sub-1': sex is missing; expected 'F', 'M'"),
    ("sex as an undeclared code", ["sub-1\tA\tPD\t1\t61\tx"], "'sub-1': sex is '1'; expected"),
    ("missing age", ["sub-1\tA\tPD\tF\tn/a\tx"], "'sub-1'.*age is missing; expected a number"),
    ("age as words", ["sub-1\tA\tPD\tF\t89+\tx"], "'sub-1'.*age is '89.'; expected a number"),
    ("missing center", ["sub-1\tn/a\tPD\tF\t61\tx"], "'sub-1'.*center is ''; expected the name"),
    ("missing subject", ["n/a\tA\tPD\tF\t61\tx"], "participant_id is ''; expected 'sub-'"),
    (
        "subject that leaves the folder",
        ["sub-/../x\tA\tPD\tF\t61\tx"],
        "participant_id is 'sub-/../x'; expected 'sub-'",
    ),
    ("duplicate", [GOOD[0], GOOD[0]], "'sub-1' is listed 2 times; expected one row"),
    ("short line", [GOOD[0], "sub-2\tA"], "line 3: 2 values; expected 6"),
    ("long line", [GOOD[0] + "\tx"], "line 2: 7 values; expected 6"),
    ("short line after an empty one", ["", GOOD[0], "", "sub-2\tA"], "line 5: 2 values; expected 6"),
    ("no lines", [], "no rows; expected at least one subject"),
]


@pytest.mark.parametrize(("lines", "message"), [case[1:] for case in BAD_BIDS], ids=[case[0] for case in BAD_BIDS])
def test_a_bad_bids_table_is_refused_by_file_and_subject(tmp_path, lines, message):
    folder = make_bids(tmp_path, lines)
    with pytest.raises(ValueError, match=message) as caught:
        read_bids(folder)
    assert str(tmp_path / "participants.tsv") in str(caught.value)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (
            "participant_id\tcenter\tdiagnosis\tsex\tage\tscanner",
            "column 'site' is missing; expected .*came .*'center'",
        ),
        ("participant_id,site,diagnosis,sex,age,scanner", "column 'participant_id' is missing; expected"),
        ("participant_id\tsite\tdiagnosis\tsex\tage\tage\tscanner", "column 'age' is there more than once"),
        ("participant_id\tsite\tdiagnosis\tsex\tage\tscanner\trole\trole", "column 'role' is there more than once"),
        (
            "participant_id\tsite\tdiagnosis\tsex\tage\tscanner\tRole",
            "column 'Role' is not spelled as expected.*'role'",
        ),
        ("", "column 'participant_id' is missing"),
    ],
)
def test_a_bad_header_is_refused_by_column(tmp_path, header, message):
    with pytest.raises(ValueError, match=f"participants.tsv: {message}"):
        read_bids(make_bids(tmp_path, GOOD, header=header))


def test_a_table_that_is_missing_or_no_text_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="participants.tsv: no such file; expected a table"):
        read_bids(tmp_path)
    (tmp_path / "participants.tsv").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(ValueError, match="participants.tsv: not a table in UTF-8"):
        read_bids(tmp_path)


def test_a_subject_has_exactly_one_image(tmp_path):
    folder = make_bids(tmp_path, GOOD, ["sub-1"])
    with pytest.raises(
        FileNotFoundError, match=r"'sub-2': no image sub-2\*_T1w.nii.gz in .*anat; expected exactly one"
    ):
        read_bids(folder)
    make_bids(tmp_path, GOOD)
    (tmp_path / "sub-1" / "anat" / "sub-1_run-2_T1w.nii").touch()
    with pytest.raises(ValueError, match="'sub-1': 2 images in .*sub-1_T1w.nii.gz.*expected exactly one"):
        read_bids(folder)


def make_csv(folder, lines, header="Subject,Study,Path,Group_bin,Sex,Age"):
    (folder / "images").mkdir(exist_ok=True)
    for name in ("a", "b"):
        (folder / "images" / f"{name}.nii.gz").touch()
    (folder / "cohort.csv").write_text("\n".join([header, *lines]) + "\n")
    return folder / "cohort.csv"


def test_the_published_csv_is_read(tmp_path):
    path = make_csv(tmp_path, ["P1,S1,images/a.nii.gz,1,F,61.5", f"P2,S2,{tmp_path}/images/b.nii.gz,0.0,M,58"])
    cohort = read_published_csv(path)
    assert cohort.table["path"].tolist() == [str(tmp_path / "images" / f"{name}.nii.gz") for name in "ab"]
    assert cohort.table["diagnosis"].tolist() == [1, 0]
    assert cohort.table["scanner"].tolist() == ["unknown", "unknown"]
    assert cohort.centers == ["S1", "S2"]
    elsewhere = make_csv(tmp_path, ["P1,S1,a.nii.gz,1,F,61.5"])
    assert read_published_csv(elsewhere, image_root=tmp_path / "images").table["path"].tolist() == [
        str(tmp_path / "images" / "a.nii.gz")
    ]


def test_a_folder_is_read_as_bids_and_a_file_as_the_published_table(tmp_path):
    path = make_csv(tmp_path, ["P1,S1,images/a.nii.gz,1,1,61", "P2,S2,images/b.nii.gz,0,0,58"])
    assert list(read_cohort(path, sex_codes={"0": "F", "1": "M"}).table["sex"]) == ["M", "F"]
    (tmp_path / "bids").mkdir()
    make_bids(tmp_path / "bids", ["sub-1\tA\tyes\tF\t61\tX", "sub-2\tB\tno\tM\t58\tY"])
    folder = read_cohort(tmp_path / "bids", positive="yes", negative="no")
    assert list(folder.table["diagnosis"]) == [1, 0]
    with pytest.raises(FileNotFoundError, match="none: no such file or folder; expected a BIDS folder or a published"):
        read_cohort(tmp_path / "none")


def test_numeric_sex_codes_mean_what_the_caller_says(tmp_path):
    path = make_csv(tmp_path, ["P1,S1,images/a.nii.gz,1,1,61", "P2,S2,images/b.nii.gz,0,0.0,58"])
    assert read_published_csv(path, sex_codes={"0": "F", "1": "M"}).table["sex"].tolist() == ["M", "F"]
    with pytest.raises(ValueError, match="cohort.csv: subject 'P1': sex is '1'; expected 'F', 'M'"):
        read_published_csv(path)


@pytest.mark.parametrize(
    ("line", "kind", "message"),
    [
        ("P1,S1,images/a.nii.gz,3,F,61", ValueError, "cohort.csv: subject 'P1': diagnosis is '3'; expected '1', '0'"),
        ("P1,S1,images/a.nii.gz,1,,61", ValueError, "cohort.csv: subject 'P1': sex is missing; expected"),
        ("P1,S1,images/a.nii.gz,1,F,", ValueError, "cohort.csv: subject 'P1'.*age is missing; expected"),
        ("P1,,images/a.nii.gz,1,F,61", ValueError, "cohort.csv: subject 'P1'.*center is ''; expected"),
        (",S1,images/a.nii.gz,1,F,61", ValueError, "cohort.csv: row 1: subject is empty"),
        ("P1,S1,images/none.nii.gz,1,F,61", FileNotFoundError, "'P1': no image .*none.nii.gz; expected .*cohort.csv"),
        ("P1,S1,,1,F,61", FileNotFoundError, "'P1': no image .*expected a file"),
    ],
)
def test_a_bad_published_csv_is_refused_by_file_and_subject(tmp_path, line, kind, message):
    with pytest.raises(kind, match=message):
        read_published_csv(make_csv(tmp_path, [line]))


def test_a_published_csv_without_a_column_is_refused(tmp_path):
    with pytest.raises(ValueError, match="cohort.csv: column 'Study' is missing; expected 'Subject', 'Study'"):
        read_published_csv(make_csv(tmp_path, [], header="Subject,Site,Path,Group_bin,Sex,Age"))


def test_what_is_written_is_read_back_alike(tmp_path):
    harm = {"role": ["train", "test"], "harm": ["label flip", ""], "placement": ["single", ""]}
    cohort = read_bids(make_bids(tmp_path / "a", GOOD))
    cohort = cohort.replace(cohort.table.assign(**harm))
    write_bids(cohort, make_bids(tmp_path / "b", GOOD), overwrite=True)
    again = read_bids(tmp_path / "b")
    pd.testing.assert_frame_equal(again.table.drop(columns="path"), cohort.table.drop(columns="path"))
    text = (tmp_path / "b" / "participants.tsv").read_text()
    assert text.splitlines()[2] == "sub-2\tB\tHC\tM\t58.0\tunknown\ttest\tn/a\tn/a"
    words = json.loads((tmp_path / "b" / "participants.json").read_text())
    assert list(words) == text.splitlines()[0].split("\t")
    assert words["diagnosis"]["Levels"] == {"PD": "disease", "HC": "control"}
    assert "BIDSVersion" in json.loads((tmp_path / "b" / "dataset_description.json").read_text())


def test_a_folder_that_holds_a_cohort_is_not_written_over(tmp_path):
    cohort = make_cohort()
    target = write_bids(cohort, tmp_path / "new")
    before = target.read_bytes()
    with pytest.raises(FileExistsError, match="participants.tsv: exists already; expected a folder without"):
        write_bids(make_cohort({"C": (1, 1)}), tmp_path / "new")
    assert target.read_bytes() == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "dataset_description.json").write_text("{}")
    write_bids(cohort, tmp_path / "mine")
    assert (tmp_path / "mine" / "dataset_description.json").read_text() == "{}"


def list_names(folder):
    return sorted(path.name for path in folder.iterdir())


BIDS_FILES = ["dataset_description.json", "participants.json", "participants.tsv"]


def test_a_table_that_says_the_same_stays_as_it_is_and_another_is_written_anew(tmp_path):
    target = update_bids(make_cohort(), tmp_path)
    assert list_names(tmp_path) == BIDS_FILES
    lines = target.read_text().splitlines()
    target.write_text("\n".join([f"{lines[0]}\tnote", *(f"{line}\tmine" for line in lines[1:])]))
    before = target.read_bytes()
    assert update_bids(make_cohort(), tmp_path) == target and target.read_bytes() == before
    update_bids(make_cohort(age=71.5), tmp_path)
    assert [line.split("\t")[4] for line in target.read_text().splitlines()] == ["age"] + ["71.5"] * 6
    target.write_text("torn")
    with pytest.raises(ValueError, match="participants.tsv: column 'participant_id' is missing"):
        update_bids(make_cohort(), tmp_path)
    assert target.read_text() == "torn"


@pytest.mark.parametrize("at", range(len(BIDS_FILES)))
def test_a_process_killed_between_any_two_files_of_a_cohort_leaves_no_table_or_the_older_one(tmp_path, killed_at, at):
    with killed_at(at):
        write_bids(make_cohort(), tmp_path)
    assert "participants.tsv" not in list_names(tmp_path)
    whole = write_bids(make_cohort(), tmp_path).read_bytes()
    assert list_names(tmp_path) == BIDS_FILES, "what was left half-written is gone"
    with killed_at(at):
        write_bids(make_cohort({"C": (9, 9)}), tmp_path, overwrite=True)
    assert (tmp_path / "participants.tsv").read_bytes() == whole
    write_bids(make_cohort({"C": (9, 9)}), tmp_path, overwrite=True)
    assert list_names(tmp_path) == BIDS_FILES


def test_a_full_disk_leaves_no_part_of_a_table(tmp_path, full_disk):
    sizes = {"A": (50, 50)}
    length = len(write_bids(make_cohort(sizes), tmp_path / "whole").read_bytes())
    others = max((tmp_path / "whole" / name).stat().st_size for name in BIDS_FILES[:2])
    for at, n_bytes in enumerate((0, 10, others, length - 1)):
        with full_disk(n_bytes):
            write_bids(make_cohort(sizes), tmp_path / str(at))
        assert "participants.tsv" not in list_names(tmp_path / str(at))
        write_bids(make_cohort(sizes), tmp_path / str(at))
        assert list_names(tmp_path / str(at)) == BIDS_FILES


def test_only_bids_names_are_written_as_bids(tmp_path):
    table = make_table({"A": (1, 0)}, subject=["P 1"])
    with pytest.raises(ValueError, match="'P 1'.*expected 'sub-'"):
        write_bids(Cohort(table, tmp_path), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def count_roles(cohort, *by):
    return cohort.table.groupby([*by, "role"]).size().unstack(fill_value=0)


def make_published_shape(seed=0):
    """Return a cohort with many small centers, most of one class, as in the published study."""
    rng = np.random.default_rng(seed)
    sizes = {}
    for i in range(60):
        n, kind = (
            int(rng.choice([1, 1, 2, 3, 5, 7, 12, 40, 190], p=[0.1, 0.1, 0.1, 0.2, 0.2, 0.1, 0.1, 0.08, 0.02])),
            i % 3,
        )
        positive = {0: 0, 1: n // 2, 2: 0 if i % 2 else n}[kind]
        sizes[f"site-{i}"] = (n - positive, positive)
    return make_cohort(sizes)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("verification", "test"), [(0.2, 0.2), (0.1, 0.3)])
def test_every_center_has_every_role_where_it_can_and_totals_are_as_asked(seed, verification, test):
    cohort = make_published_shape(seed)
    split = split_by_subject(cohort, verification=verification, test=test, seed=seed)
    counts = count_roles(split, "center")
    n = counts.sum(axis=1)
    assert (counts.loc[n >= 3] > 0).all(axis=None)
    assert (counts.loc[n == 2, ["train", "verification"]] == 1).all(axis=None)
    assert (counts.loc[n == 1, "train"] == 1).all()
    for role, share in (("verification", verification), ("test", test)):
        minimum = int((n >= (2 if role == "verification" else 3)).sum())
        assert counts[role].sum() == max(round(share * len(cohort)), minimum)
    by_class = count_roles(split, "diagnosis")
    shares = by_class.div(by_class.sum(axis=0), axis=1).loc[1]
    assert np.ptp(shares) < 0.08, "classes are shared out alike"


def test_a_mixed_center_is_divided_in_proportion_to_its_classes():
    split = split_by_subject(make_cohort({"A": (20, 10), "B": (5, 15)}))
    counts = count_roles(split, "center", "diagnosis")
    assert counts["verification"].tolist() == [4, 2, 1, 3]
    assert counts["test"].tolist() == [4, 2, 1, 3]


def test_a_split_changes_with_the_seed_and_not_with_the_order_of_rows():
    cohort = make_published_shape()
    roles = split_by_subject(cohort).table.set_index("subject")["role"]
    shuffled = cohort.replace(cohort.table.sample(frac=1, random_state=3))
    again = split_by_subject(shuffled).table.set_index("subject")["role"]
    pd.testing.assert_series_equal(again.reindex(roles.index), roles)
    assert (split_by_subject(cohort, seed=1).table["role"].to_numpy() != roles.to_numpy()).any()


@pytest.mark.parametrize(("verification", "test"), [(0, 0), (0.5, 0), (0, 0.5), (0.5, 0.49), (0.9, 0)])
@pytest.mark.parametrize("sizes", [{"A": (1, 0)}, {"A": (1, 1)}, {"A": (5, 4), "B": (0, 1)}])
def test_shares_at_their_limits_leave_a_training_subject_in_every_center(sizes, verification, test):
    split = split_by_subject(make_cohort(sizes), verification=verification, test=test)
    assert set(split.select(role="train").centers) == set(sizes)
    roles = set(split.table["role"])
    assert ("verification" in roles) <= (verification > 0)
    assert ("test" in roles) <= (test > 0)


@pytest.mark.parametrize(("verification", "test"), [(-0.1, 0.2), (0.2, -0.1), (0.5, 0.5), (float("nan"), 0.1)])
def test_impossible_shares_are_refused(verification, test):
    with pytest.raises(ValueError, match="expected shares from 0, less than 1 together"):
        split_by_subject(make_cohort(), verification=verification, test=test)


def test_a_cohort_is_not_split_twice():
    with pytest.raises(ValueError, match="roles already .'train'.; expected a table without them"):
        split_by_subject(make_cohort(role="train"))


def test_held_out_subjects_are_divided_and_all_others_stay_as_they_were():
    cohort = make_cohort({"A": (8, 4), "B": (2, 2)}, role=["train"] * 4 + ["test"] * 8 + ["train"] * 2 + ["test"] * 2)
    divided = divide_held_out(cohort)
    was_train = cohort.table["role"] == "train"
    assert (divided.table.loc[was_train, "role"] == "train").all()
    counts = count_roles(divided, "center", "diagnosis")
    assert counts["verification"].tolist() == [2, 2, 0, 1]
    assert counts["test"].tolist() == [2, 2, 0, 1]


def test_single_held_out_subjects_take_turns_within_each_diagnosis():
    sizes = {f"S{i}": (1, 0) for i in range(10)} | {f"T{i}": (0, 1) for i in range(6)}
    counts = count_roles(divide_held_out(make_cohort(sizes, role="test")), "diagnosis")
    assert counts["verification"].tolist() == [5, 3]
    assert counts["test"].tolist() == [5, 3]


def test_a_center_with_two_held_out_subjects_keeps_one_in_either_role():
    sizes = {f"S{i}": (1, 1) for i in range(8)}
    divided = divide_held_out(make_cohort(sizes, role="test"), seed=4)
    assert (count_roles(divided, "center") == 1).all(axis=None)
    assert (count_roles(divided, "diagnosis") == 4).all(axis=None)


@pytest.mark.parametrize(("share", "role"), [(0.0, "test"), (1.0, "verification")])
def test_a_share_of_none_or_all_is_taken_at_its_word(share, role):
    divided = divide_held_out(make_cohort(role="test"), verification=share)
    assert set(divided.table["role"]) == {role}


def test_dividing_needs_test_subjects_and_a_share():
    with pytest.raises(ValueError, match="no column 'role'"):
        divide_held_out(make_cohort())
    with pytest.raises(ValueError, match="role 'test'; expected among 'train'"):
        divide_held_out(make_cohort(role="train"))
    with pytest.raises(ValueError, match="verification is 1.5; expected a share"):
        divide_held_out(make_cohort(role="test"), verification=1.5)


def test_centers_without_verification_subjects_are_said_once():
    sizes = {"A": (2, 2), "B": (1, 0), "C": (0, 1)}
    roles = ["train", "verification", "verification", "test", "train", "train"]
    notes = check_roles(make_cohort(sizes, role=roles))
    assert notes == ["2 centers train without verification subjects, judged by the other centers: B, C."]
    roles = [*roles[:4], "verification", "test", "train", "verification"]
    assert check_roles(make_cohort({"A": (2, 2), "B": (2, 2)}, role=roles)) == []


def test_undefined_rates_and_absent_test_subjects_are_noted():
    notes = check_roles(make_cohort({"A": (2, 1)}, role=["train", "verification", "train"]))
    assert notes == [
        "Only one center trains, A: the model has nowhere to travel to.",
        "No verification subject has diagnosis 1, so the false-negative rate is undefined.",
        "No subject has the role 'test', so there are no test figures.",
    ]


@pytest.mark.parametrize("missing", ["train", "verification"])
def test_a_cohort_without_training_or_verification_subjects_is_refused(missing):
    role = {"train": "verification", "verification": "train"}[missing]
    with pytest.raises(ValueError, match=f"no subject has the role '{missing}'; expected at least one"):
        check_roles(make_cohort(role=role))
    with pytest.raises(ValueError, match="column 'role' is missing; expected"):
        check_roles(make_cohort())


@pytest.mark.parametrize("word", ["none", "No", "0", " good "])
def test_a_word_for_no_harm_is_not_taken_for_a_kind_of_harm(word):
    with pytest.raises(ValueError, match=r"harm is .*expected '' \(n/a in a file\) for a good image"):
        make_cohort(harm=["", word] + [""] * (len(make_table()) - 2))


def test_a_cohort_with_one_class_to_train_on_is_refused_before_it_trains():
    table = make_table()
    cohort = make_cohort(role=["verification"] + ["train"] * (len(table) - 1), diagnosis=1)
    with pytest.raises(ValueError, match="training subjects have the diagnosis disease; expected both classes"):
        check_roles(cohort)


def test_a_single_center_has_nowhere_to_send_the_model():
    cohort = split_by_subject(make_cohort({"A": (6, 6)}), seed=0)
    assert "Only one center trains, A: the model has nowhere to travel to." in check_roles(cohort)


def test_the_hint_says_how_to_name_other_words_and_codes(tmp_path):
    make_bids(tmp_path, ["sub-1\tA\tAD\tF\t61\tX", "sub-2\tB\tHC\tM\t58\tY"])
    with pytest.raises(ValueError, match=r"diagnosis is 'AD'; expected .*\(other words: positive=\.\.\. and negative="):
        read_bids(tmp_path)
    path = make_csv(tmp_path, ["P1,S1,images/a.nii.gz,1,1,61"])
    with pytest.raises(ValueError, match=r"sex is '1'; expected .*sex_codes="):
        read_published_csv(path)
    assert list(read_published_csv(path, sex_codes={0: "F", 1: "M"}).table["sex"]) == ["M"]


def test_a_name_that_is_longer_than_any_file_can_have_is_that_of_no_image(tmp_path):
    subject = "sub-" + "x" * 300
    (tmp_path / "participants.tsv").write_text(
        f"participant_id\tsite\tdiagnosis\tsex\tage\tscanner\n{subject}\tA\tPD\tF\t60\tX\n"
    )
    with pytest.raises(FileNotFoundError, match=f"^subject '{subject}': no image .* expected exactly one$"):
        read_bids(tmp_path)
    path = tmp_path / "cohort.csv"
    path.write_text(f"Subject,Study,Path,Group_bin,Sex,Age\nP1,A,{'x' * 300}.nii,1,F,60\n")
    with pytest.raises(FileNotFoundError, match="^subject 'P1': no image .*xxx.nii'?; expected a file, as named by"):
        read_published_csv(path)
