"""What a report tells of persons: nothing but the names of the table, no names at all if asked for, and a warning."""

import base64
import getpass
import html
import json
import platform
import re
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from plotly.offline import get_plotlyjs
from test_report import (
    SHAPE,
    attempt,
    list_attempts,
    make_arm,
    make_cohort,
    make_study,
    read_table,
    read_words,
    verify,
)

import dqc_lib.tables
from dqc_lib.report import list_pseudonyms, write_report, writing
from dqc_lib.report.revealing import FEWEST

HEADER = {
    "descrip": "DOE^JANE 19500101",
    "db_name": "MRN 8675309",
    "aux_file": "doe_jane.dcm",
    "intent_name": "Dr. Who",
}
EXTENSION = "PatientBirthDate 1950-01-01"
FOLDER = "Doe_Jane-1950"
SERIAL = "Prisma SN 167024"
MEASURE = {"update_norm": 7.0}


@pytest.fixture
def identified(tmp_path):
    """A cohort whose images lie in folders of patients' names, say so in their headers, and have sidecars."""
    cohort = make_cohort(tmp_path)
    table, rng = cohort.table.copy(), np.random.default_rng(3)
    for at in table.index:
        image = nibabel.Nifti1Image(rng.integers(0, 100, SHAPE).astype(np.uint8), np.diag([2.0, 2.0, 2.0, 1.0]))
        for field, text in HEADER.items():
            image.header[field] = text.encode()
        image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", EXTENSION.encode()))
        folder = tmp_path / f"{FOLDER}-{at}"
        folder.mkdir()
        nibabel.save(image, folder / "doe_scan.nii.gz")
        (folder / "doe_scan.json").write_text(json.dumps({"PatientName": HEADER["descrip"]}))
        table.loc[at, "path"] = str(folder / "doe_scan.nii.gz")
    harm = np.where(table["subject"] == "sub-1", "inversion", "")
    return cohort.replace(table.assign(harm=harm))


def write(cohort, folder, *, arm=None, name="report.html", **options):
    """Write a report on the usual attempts and return its text, plotly.js left out."""
    arm = make_arm(folder, cohort) if arm is None else arm
    path = write_report(folder / "out" / name, study=make_study(cohort, folder), controlled=arm, **options)
    return path.read_text(encoding="utf-8").replace(get_plotlyjs(), "")


def find_secrets(page, secrets):
    """Return those of the texts that a page holds: as they are, escaped, in JSON, or in base64 at any offset."""
    spellings = {text: {text, html.escape(text), json.dumps(text)[1:-1]} for text in secrets}
    for text, found in spellings.items():
        for offset in range(3):
            coded = base64.b64encode(b"\0" * offset + text.encode()).decode()
            found.add(coded[4 if offset else 0 : -4])
    return [text for text, found in spellings.items() if any(one and one in page for one in found)]


def test_the_search_for_secrets_finds_each_spelling():
    for hidden in ("x a<b&c y", html.escape("a<b&c"), 'a"b'):
        assert find_secrets(f"<p>{hidden}</p>", ["a<b&c", 'a"b', "other"]) == [html.unescape(hidden).strip("xy ")]
    for offset in range(3):
        coded = base64.b64encode(b"1" * offset + b"PatientName^Doe" + b"22").decode()
        assert find_secrets(f'"{coded}"', ["PatientName^Doe"]) == ["PatientName^Doe"]


def test_no_header_path_or_sidecar_of_an_image_is_in_the_report(identified, tmp_path):
    page = write(identified, tmp_path)
    assert '"type":"heatmap"' in page.replace(" ", ""), "slices of eliminated images are shown"
    secrets = [*HEADER.values(), EXTENSION, FOLDER, "doe_scan", ".nii", "PatientName", "inversion", str(tmp_path)]
    assert find_secrets(page, [*secrets, platform.node()]) == []
    assert not re.search(rf"\b{re.escape(getpass.getuser())}\b", read_words(page))
    assert "sub-1" in page, "the name that the user gave"


def test_what_the_table_calls_a_scanner_is_shown_unless_pseudonyms_are_asked_for(tmp_path):
    cohort = make_cohort(tmp_path)
    cohort = cohort.replace(cohort.table.assign(scanner=SERIAL))
    assert find_secrets(write(cohort, tmp_path), [SERIAL]) == [SERIAL]
    assert find_secrets(write(cohort, tmp_path, by=("scanner",), pseudonymize=True), [SERIAL]) == []


# pseudonyms


def name_persons(cohort):
    """Return the cohort with names of persons, hospitals and devices, and what stands for whom by hand."""
    table = cohort.table.copy()
    names = {
        "subject": [f"Doe^Jane{at:04d}x" for at in range(len(table), 0, -1)],
        "center": [f"Klinik {center}" for center in table["center"]],
        "scanner": [f"{SERIAL}{center}" for center in table["center"]],
    }
    return cohort.replace(table.assign(**names))


def test_with_pseudonyms_no_name_is_left_anywhere(tmp_path):
    cohort = name_persons(make_cohort(tmp_path))
    arm = make_arm(tmp_path, cohort, rows=list_attempts(cohort, norms=True))
    other = make_arm(tmp_path, cohort, name="dirty", arm="dirty", rule="None")
    page = write(cohort, tmp_path, arm=arm, others=[other], by=("center", "scanner", "sex"), pseudonymize=True)
    names = {name for kind in ("subject", "center", "scanner") for name in cohort.table[kind]}
    assert find_secrets(page, sorted(names)) == []
    assert not re.search(r"Doe|Jane|Klinik|Prisma|167024|\b(north|south|west)\b", page)
    plain = write(cohort, tmp_path, arm=arm, others=[other], by=("center", "scanner", "sex"), name="plain.html")
    assert len(find_secrets(plain, sorted(names))) > 10, "the search finds names where there are any"
    # the first subject of the first center was eliminated, see list_attempts
    assert [row[:3] for row in read_table(page, "Flagged images")[1:3]] == [
        ["sub-0001", "center-01", "eliminated"],
        ["sub-0017", "center-02", "eliminated"],
    ]
    assert read_table(page, "Centers of the cohort")[1][-1] == "scanner-01"
    assert read_table(page, "Test subjects by group")[-1][0].startswith("sex: ")


def test_but_for_the_names_a_report_with_pseudonyms_says_the_same(tmp_path):
    cohort = make_cohort(tmp_path)
    rows = [(("sub-1", "north"), ("sub-0001", "center-01")), (("sub-17", "south"), ("sub-0017", "center-02"))]
    plain, hidden = (read_table(write(cohort, tmp_path, pseudonymize=on), "Flagged images") for on in (False, True))
    for (old, new), before, after in zip(rows, plain[1:], hidden[1:], strict=False):
        assert (tuple(before[:2]), tuple(after[:2])) == (old, new)
        assert before[2:] == after[2:]


def test_the_same_study_gives_the_same_pseudonyms(tmp_path):
    cohort = name_persons(make_cohort(tmp_path))
    first = write(cohort, tmp_path, pseudonymize=True)
    assert first == write(cohort, tmp_path, pseudonymize=True)
    known = list_pseudonyms(cohort)
    more = cohort.table.iloc[:1].assign(subject="Abel", center="Aachen", scanner="A")
    grown = list_pseudonyms(cohort.replace(pd.concat([cohort.table, more])))
    assert grown.merge(known).equals(known), "who comes later leaves the others their numbers"
    assert grown.loc[grown["name"] == "Abel", "pseudonym"].tolist() == [f"sub-{len(cohort) + 1:04d}"]


def test_pseudonyms_are_numbered_in_the_order_of_the_table(tmp_path):
    cohort = make_cohort(tmp_path, centers=["z", "a"], roles={"train": 1, "verification": 1})
    assert list_pseudonyms(cohort).to_numpy().tolist() == [
        *(["subject", f"sub-{at}", f"sub-{at:04d}"] for at in range(1, 5)),
        *(["center", "z", "center-01"], ["center", "a", "center-02"]),
        *(["scanner", "z scanner", "scanner-01"], ["scanner", "a scanner", "scanner-02"]),
    ]
    shuffled = cohort.replace(cohort.table.iloc[::-1])
    assert list_pseudonyms(shuffled)["pseudonym"].tolist() == list_pseudonyms(cohort)["pseudonym"].tolist()


def test_the_key_is_written_where_asked_and_never_beside_the_report(tmp_path):
    cohort = name_persons(make_cohort(tmp_path))
    cohort = cohort.replace(cohort.table.assign(center=[f"={name}" for name in cohort.table["center"]]))
    key = tmp_path / "safe" / "key.csv"
    write(cohort, tmp_path, pseudonymize=True, key_path=key)
    pd.testing.assert_frame_equal(dqc_lib.tables.read_table(key), list_pseudonyms(cohort))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["report.html"]
    for beside in ("out/key.csv", "out/deep/key.csv", "safe/../out/key.csv"):
        with pytest.raises(ValueError, match="the key .* would lie with the report .*expected a place"):
            write(cohort, tmp_path, name="second.html", pseudonymize=True, key_path=tmp_path / beside)
        assert not (tmp_path / beside).exists()
    with pytest.raises(ValueError, match="expected pseudonymize=True with it"):
        write(cohort, tmp_path, name="second.html", key_path=key)
    assert not (tmp_path / "out" / "second.html").exists()


@pytest.mark.parametrize("form", ["table", "older key", "link to nowhere", "folder"])
def test_a_key_replaces_nothing_and_then_no_report_is_written(tmp_path, form):
    cohort, key = make_cohort(tmp_path), tmp_path / "study" / "participants.tsv"
    key.parent.mkdir()
    if form == "folder":
        key.mkdir()
    elif form == "link to nowhere":
        key.symlink_to(tmp_path / "study" / "later.csv")
    else:
        key.write_text("kind,name,pseudonym\n" if form == "older key" else "participant_id\n")
    before = sorted(path.name for path in key.parent.iterdir())
    with pytest.raises(FileExistsError, match=r"participants\.tsv is there already .*expected the name of a new file"):
        write(cohort, tmp_path, pseudonymize=True, key_path=key)
    assert sorted(path.name for path in key.parent.iterdir()) == before
    assert form not in ("table", "older key") or len(key.read_text().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_the_key_is_written_after_the_report(tmp_path, monkeypatch):
    cohort, key = make_cohort(tmp_path), tmp_path / "safe" / "key.csv"

    def fail(path, page):
        assert not key.exists()
        raise OSError("no space left")

    monkeypatch.setattr(writing, "write_page", fail)
    with pytest.raises(OSError, match="no space left"):
        write(cohort, tmp_path, pseudonymize=True, key_path=key)
    assert not key.exists()


@pytest.mark.parametrize("column", ["center", "subjects"])
def test_an_arm_of_strangers_is_refused_rather_than_named(tmp_path, column):
    cohort = make_cohort(tmp_path)
    arm = make_arm(tmp_path, cohort)
    stranger = "Doe" if column == "center" else [["Doe"]] * len(arm.ledger)
    arm = replace(arm, ledger=arm.ledger.assign(**{column: stranger}))
    with pytest.raises(ValueError, match=f"arm 'qc' names the {column.removesuffix('s')} 'Doe'; expected those of"):
        write(cohort, tmp_path, arm=arm, pseudonymize=True)


# what verification reveals


def read_revealed(page):
    return read_words(page.split('<section id="revealed"')[1].split("</section>")[0])


def test_four_integers_are_told_and_what_else_the_rule_asked_for(tmp_path):
    cohort = make_cohort(tmp_path)
    usual = read_revealed(write(cohort, tmp_path))
    assert "15 of 15 attempts were verified. Each time, every center that verifies answered with four integers" in usual
    assert "The rule asked for no sum of losses." in usual
    assert "The center that trained" not in usual and "sum of the logarithms" not in usual
    assert "the scores of single verifying subjects" not in usual
    rows = [row | {"loss": 0.5, "reference_loss": 0.4} for row in list_attempts(cohort)]
    asked = read_revealed(write(cohort, tmp_path, arm=make_arm(tmp_path, cohort, rows=rows)))
    assert "The rule asked for the sum of the losses too." in asked and "no sum of losses" not in asked
    rows = [
        attempt("north", "sub-1", "sub-2", **MEASURE),
        attempt("north", "sub-3", **MEASURE, **verify(0, 0, before=(0, 0))),
    ]
    measured = read_revealed(write(cohort, tmp_path, arm=make_arm(tmp_path, cohort, rows=rows)))
    assert "1 of 2 attempts were verified." in measured
    assert "The center that trained also answered with the update norm of each attempt" in measured
    by_few = make_arm(tmp_path, cohort, verifying="nearest")
    said = "verified by few images ('nearest'): for that, the scores of single verifying subjects"
    assert said in read_revealed(write(cohort, tmp_path, arm=by_few))


def test_it_is_told_that_all_centers_verify_after_every_cycle(tmp_path):
    cohort, arm = make_cohort(tmp_path), make_arm(tmp_path, make_cohort(tmp_path))
    said = read_revealed(write(cohort, tmp_path, arm=arm))
    assert (
        "Whatever the rule, all centers verify the model also after every cycle, 1 in the pre-training and 2 in every "
        "arm, and after a closing revisit, unless its counts are known from an attempt: these are four integers again."
    ) in said


def measure(rows):
    return [row | MEASURE for row in rows]


def test_it_is_told_that_a_center_with_one_verification_subject_gives_its_norm_away_every_cycle(tmp_path):
    counts = {"large": (5, 5), "one": (1, 0), "other": (0, 1), "silent": (0, 0)}
    cohort = make_verifiers(tmp_path, counts)
    rows = measure([attempt("large", "sub-1", "sub-2", **verify(0, 0, before=(0, 0)))])
    arm = make_arm(tmp_path, cohort, rows=rows)
    told = (
        "At the start of every cycle and of a closing revisit, and again where an attempt stood just above the limit, "
        "every center that verifies answered with the sum of the logarithms of the update norms of its verification "
        "images. With one verification subject that sum is this subject's own update norm, cycle by cycle"
    )
    said = read_revealed(write(cohort, tmp_path, arm=arm))
    assert f"{told}: so it is at 2 centers (one, other)." in said
    hidden = read_revealed(write(cohort, tmp_path, arm=arm, pseudonymize=True))
    assert f"{told}: so it is at 2 centers (center-02, center-03)." in hidden
    usual = make_cohort(tmp_path)  # two verify at each center
    measured = make_arm(tmp_path, usual, rows=measure(list_attempts(usual)))
    assert f"{told}; no center here has only one." in read_revealed(write(usual, tmp_path, arm=measured))
    assert "sum of the logarithms" not in read_revealed(write(usual, tmp_path)), "a rule that asks for no norms"


@pytest.mark.parametrize(("held_back", "n"), [([], 12), (["sub-1", "sub-2"], 10)])
@pytest.mark.parametrize("hidden", [False, True])
def test_it_is_told_that_the_watched_cycle_notes_a_norm_of_every_subject_by_name(tmp_path, held_back, n, hidden):
    cohort = make_cohort(tmp_path)
    arm = make_arm(tmp_path, cohort, held_back=held_back)
    assert (
        "The cycle that only watches, at the end of the pre-training, wrote one update norm per image into the ledger "
        f"of the pre-training, by name and center, for {n} training subjects and 6 verification subjects: it tells how "
        "unusual each single one is to the model. The squared gradients of these training images, by which norms are "
        "measured, were added up over all centers."
    ) in read_revealed(write(cohort, tmp_path, arm=arm, pseudonymize=hidden))


def test_it_is_told_that_scores_of_test_subjects_are_kept_by_name(tmp_path):
    cohort = make_cohort(tmp_path)
    told = (
        "The score of each of 30 test subjects after every cycle is kept in the folder of the run, by name and center: "
        "a prediction, which is more than a count."
    )
    assert told in read_revealed(write(cohort, tmp_path))
    table = cohort.table.assign(role=cohort.table["role"].replace("test", "verification"))
    assert "test subject" not in read_revealed(write(cohort.replace(table), tmp_path))


def test_the_readme_says_of_what_leaves_a_center_what_the_report_says():
    page = " ".join((Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8").split())
    section = page.partition("## What leaves a center")[2].partition("## ")[0]
    for told in (
        "after every cycle of every arm and of the pre-training",
        "one update norm per training and verification image, by name and center",
        "the sum of the logarithms of the update norms of its verification images",
        "with one verification subject that is this subject's own update norm",
        "The scores of test subjects after every cycle are kept by name",
    ):
        assert told in section


def make_verifiers(folder, counts):
    """Return a cohort of two training and two test subjects a center, and verifying (controls, patients) as given."""
    cohort = make_cohort(folder, centers=list(counts), roles={"train": 2, "test": 2})
    more = []
    for center, numbers in counts.items():
        row = cohort.table[cohort.table["center"] == center].iloc[0]
        for diagnosis, n in enumerate(numbers):
            for at in range(n):
                more.append({**row, "subject": f"v-{center}-{diagnosis}-{at}", "diagnosis": diagnosis})
    return cohort.replace(pd.concat([cohort.table, pd.DataFrame(more).assign(role="verification")]))


def test_centers_whose_counts_point_at_few_persons_are_warned_of(tmp_path):
    counts = {"large": (5, 9), "one": (5, 1), "few": (4, 2), "controls only": (8, 0), "silent": (0, 0)}
    page = write(make_verifiers(tmp_path, counts), tmp_path, arm=make_loose_arm(tmp_path, counts))
    assert read_table(page, "Centers with 1 to 4 verifying subjects of a class") == [
        ["center", "controls", "patients", "points at"],
        ["one", "5", "1", "one patient"],
        ["few", "4", "2", "4 controls, 2 patients"],
    ]
    assert "Warning: at 2 of 4 verifying centers, fewer than 5 subjects stand behind a count." in read_revealed(page)


def make_loose_arm(folder, counts):
    cohort = make_verifiers(folder, counts)
    center = next(iter(counts))
    return make_arm(folder, cohort, rows=[attempt(center, "sub-1", "sub-2", **verify(0, 0, before=(0, 0)))])


def test_no_warning_where_enough_subjects_stand_behind_every_count(tmp_path):
    assert FEWEST == 5
    counts = {"a": (5, 5), "b": (5, 0)}
    said = read_revealed(write(make_verifiers(tmp_path, counts), tmp_path, arm=make_loose_arm(tmp_path, counts)))
    assert "At each of 2 verifying centers, at least 5 subjects stand behind a count." in said
    assert "Warning" not in said


def test_the_mean_of_a_handful_is_warned_of_and_left_out_with_pseudonyms(tmp_path):
    counts = {"large": (5, 5), "tiny": (0, 0)}  # four subjects: two train, two test
    cohort, arm = make_verifiers(tmp_path, counts), make_loose_arm(tmp_path, counts)
    page = write(cohort, tmp_path, arm=arm)
    assert "Warning: 1 center with fewer than 5 subjects (tiny): mean age and share of women" in read_revealed(page)
    assert "n/a" not in read_table(page, "Centers of the cohort")[2]
    hidden = write(cohort, tmp_path, arm=arm, pseudonymize=True)
    rows = read_table(hidden, "Centers of the cohort; women and mean age where there are at least 5 subjects")
    assert rows[2][:1] + rows[2][4:6] == ["center-02", "n/a", "n/a"]
    assert "n/a" not in rows[1]
    assert "are left out there." in read_revealed(hidden)
