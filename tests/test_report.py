"""The report: what it says of a study whose numbers are known, in a browser, and with hostile names."""

import base64
import getpass
import html
import json
import platform
import re
import tempfile
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
from plotly.offline import get_plotlyjs

from dqc_lib import pages
from dqc_lib.cohort import Cohort
from dqc_lib.ledger import COLUMNS, Ledger
from dqc_lib.quality import Counts, PublishedRule
from dqc_lib.report import write_report
from dqc_lib.report.flagged import choose_images
from dqc_lib.travelling import Arm, Schedule, Study
from dqc_lib.volumes import write_volume

HOSTILE = "<img src=x onerror=alert(1)>"
CLOSING = "</script><script>alert(2)</script>"
SHAPE = (16, 16, 16)
SCHEDULE = Schedule(warm_cycles=1, calm_cycles=0, control_cycles=2, batch_size=2, revisit_after=1, width=0.0625)
ALL_DRAWN = "[...document.querySelectorAll('.plotly-figure')].every(box => box.querySelector('.main-svg'))"
PUBLISHED = "PublishedRule(tolerance=0.02, denominators='published')"
ROLES = {"train": 4, "verification": 2, "test": 10}
VERIFICATION = pd.DataFrame(columns=["cycle", "fp", "n_neg", "fn", "n_pos"], dtype=int)


def make_cohort(folder, *, centers=("north", "south", "west"), roles=ROLES, names="sub-{}", diseased=lambda at: at % 2):
    """Return a cohort of noise volumes: at each center subjects 1, 2, ... by role, of alternating diagnosis and sex."""
    rows, rng = [], np.random.default_rng(3)
    for center in centers:
        for role in (role for role, n in roles.items() for _ in range(n)):
            at = len(rows) + 1
            path = folder / f"{at}.nii.gz"
            write_volume(path, rng.integers(0, 100, SHAPE).astype(np.uint8), affine=np.diag([2.0, 2.0, 2.0, 1.0]))
            row = (names.format(at), center, diseased(at), "FM"[at // 2 % 2], 50.0 + at % 30, f"{center} scanner")
            rows.append((*row, str(path), role))
    columns = ["subject", "center", "diagnosis", "sex", "age", "scanner", "path", "role"]
    return Cohort(pd.DataFrame(rows, columns=columns), folder)


def make_ledger(*rows):
    """Return the table of a ledger, what the rows do not say filled in."""
    ledger = Ledger()
    usual = {"cycle": 1, "stage": "control", "level": "batch", "decision": "accepted", "seconds": 0.1}
    for row in rows:
        ledger.append(**dict.fromkeys(COLUMNS) | usual | row | {"n": len(row["subjects"])})
    return ledger.to_frame()


def verify(fp, fn, *, before, tolerance=0.02):
    counts = {"fp": fp, "n_neg": 3, "fn": fn, "n_pos": 3}
    reference = {"reference_fp": before[0], "reference_n_neg": 3, "reference_fn": before[1], "reference_n_pos": 3}
    return counts | reference | {"tolerance": tolerance}


def attempt(center, *subjects, decision="accepted", **more):
    level = {"split": "batch", "deferred": "single", "eliminated": "revisit"}.get(decision, "batch")
    return {"center": center, "subjects": list(subjects), "decision": decision, "level": level} | more


def list_attempts(cohort, *, norms=False):
    """Return the rows of a ledger: at the first two centers the first image is eliminated, at the second the next too,
    at the third the first is deferred and returns."""
    train = cohort.table[cohort.table["role"] == "train"]
    held = {center: list(part["subject"]) for center, part in train.groupby("center", sort=False)}
    rows = [attempt(center, *subjects, **verify(0, 0, before=(0, 0))) for center, subjects in held.items()]
    sizes = {"split": 5000.0, "deferred": 6000.0, "eliminated": 7123.4, "accepted": 100.0}
    for center, subjects in held.items():
        number = list(held).index(center)
        for subject in subjects[: 2 if number == 1 else 1]:
            rows.append(attempt(center, subject, subjects[-1], decision="split", **verify(2, 0, before=(0, 0))))
            rows.append(attempt(center, subject, decision="deferred", **verify(1, 0, before=(0, 0))))
            final = "accepted" if number == 2 else "eliminated"
            counts = verify(0 if number == 2 else 3, 1, before=(0, 1))
            rows.append(attempt(center, subject, decision=final, **counts) | {"cycle": 2, "level": "revisit"})
    if norms:
        rows = [row | {"update_norm": sizes[row["decision"]], "norm_limit": 900.0} for row in rows]
    return rows


def make_arm(folder, cohort, *, name="qc", arm="qc", rule="PublishedRule(tolerance=0.02)", rows=None, wrong=(), **more):
    """Return an arm as if it had run: in the last cycle every test subject is scored right but for those named."""
    path = folder / name.replace("/", "")
    path.mkdir(exist_ok=True)
    settings = {"name": name, "arm": arm, "rule": rule, "schedule": asdict(SCHEDULE), "cohort": "c0ffee" * 10}
    settings |= {"versions": {"dqc-lib": "0.1.0", "keras": "3.15.1"}, "held_back": [], "order": "cafe" * 16} | more
    (path / "run.json").write_text(json.dumps({"finished": True, "settings": settings}))
    test = cohort.table[cohort.table["role"] == "test"].drop(columns="path")
    right = np.where(test["diagnosis"] == 1, 0.9, 0.1)
    score = np.where(test["subject"].isin(wrong), 1 - right, right)
    cycles = [test.assign(arm=name, cycle=cycle, score=score if cycle == 2 else 0.5) for cycle in range(3)]
    ledger = make_ledger(*(list_attempts(cohort) if rows is None else rows))
    return Arm(name, ledger, pd.concat(cycles), VERIFICATION, path)


def make_study(cohort, folder):
    return Study(cohort, schedule=SCHEDULE, folder=folder / "runs", progress=False)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return make_cohort(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def usual(cohort, tmp_path_factory):
    """The text of the report on the usual study, plotly.js left out."""
    folder = tmp_path_factory.mktemp("usual")
    path = write_report(folder / "r.html", study=make_study(cohort, folder), controlled=make_arm(folder, cohort))
    return path.read_text(encoding="utf-8").replace(get_plotlyjs(), "")


@pytest.fixture
def report(cohort, tmp_path):
    """A function that writes a report and returns its text, plotly.js left out; the usual one but for what is given."""

    def write(cohort=cohort, *, others=(), **options):
        arm = options.pop("controlled", None) or make_arm(tmp_path, cohort)
        study = make_study(cohort, tmp_path)
        path = write_report(tmp_path / "report.html", study=study, controlled=arm, others=others, **options)
        return path.read_text(encoding="utf-8").replace(get_plotlyjs(), "")

    return write


def read_words(page):
    """Return the text of a page, without scripts."""
    return pages.strip_tags(re.sub(r"<(script|style).*?</\1>", " ", page, flags=re.S).replace("<", " <"))


def read_table(page, caption):
    """Return the rows of the table whose caption begins so, heads included."""
    body = page.split(f"<figcaption>{html.escape(caption)}", 1)[1].split("</table>")[0]
    rows = re.findall(r"<tr>(.*?)</tr>", body)
    return [[html.unescape(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)] for row in rows]


def list_titles(page):
    """Return the titles of all figures."""
    data = re.findall(r'<script type="application/json">(.*?)</script>', page)
    return [" ".join(json.loads(text)["layout"]["title"]["text"].replace("<br>", " ").split()) for text in data]


# what it says


def test_the_summary_counts_images_centers_attempts_and_test_subjects(report, cohort, tmp_path):
    dirty = make_arm(tmp_path, cohort, name="dirty", arm="dirty", rule="None", wrong=["sub-7"])
    said = read_words(report(others=[dirty]))
    assert "3 of 12 training images were eliminated, at 2 of 3 centers, under the published rule." in said
    assert "Most of them at south: 2 of its 4 training images." in said
    assert "11 of 15 attempts were rejected, and 4 images deferred at least once." in said
    assert "Test AUROC of qc, cycle 2: 1.00 (n = 30: 15 diseased, 15 controls; " in said
    # sub-7, a patient, stands below all 15 controls: 14 of 15 patients stand above them
    assert "Test AUROC of dirty, cycle 2: 0.93 (n = 30: 15 diseased, 15 controls; 95 % interval " in said


def test_the_summary_says_whether_the_errors_have_risen_since_the_pre_training(report, cohort, tmp_path):
    verified = pd.DataFrame({"cycle": [1, 2], "fp": [3, 30], "n_neg": 40, "fn": [9, 8], "n_pos": 20})
    ours = make_arm(tmp_path, cohort)
    drifted = replace(ours, verification=verified, floor=Counts(2, 40, 9, 20))
    said = read_words(report(controlled=drifted))
    line = (
        "Verification subjects of qc since the pre-training: false positives from 2 to {} of 40, false negatives from 9"
    )
    assert f"{line.format(30)} to 8 of 20. More false positives than chance explains." in said
    calm = replace(drifted, verification=verified[:1])
    assert f"{line.format(3)} to 9 of 20. No more than chance explains." in read_words(report(controlled=calm))
    assert "since the pre-training" not in read_words(report(controlled=ours)), "a run of before has no such record"


def test_the_data_check_counts_roles_and_centers_and_names_the_silent(tmp_path, report):
    silent = make_cohort(tmp_path, centers=("north", "south"))
    table = silent.table.assign(role=silent.table["role"].where(silent.table["center"] == "north", "train"))
    page = report(silent.replace(table))
    assert read_table(page, "Subjects by role") == [
        ["role", "subjects", "diseased", "controls", "centers"],
        ["train", "20", "10", "10", "2"],
        ["verification", "2", "1", "1", "1"],
        ["test", "10", "5", "5", "1"],
    ]
    said = read_words(page)
    assert "1 center trains without verification subjects, judged by the other centers: south." in said
    assert "Every volume has 16 x 16 x 16 voxels." in said
    assert read_table(page, "Centers")[1] == ["north", "16", "8", "8", "50.0", "58.5", "north scanner"]


def test_the_curves_show_every_arm_and_where_they_end(report, cohort, tmp_path):
    dirty = make_arm(tmp_path, cohort, name="dirty", arm="dirty", rule="None", wrong=["sub-7"])
    assert "Test AUROC ends at 1.00 (qc), 0.93 (dirty)" in list_titles(report(others=[dirty]))


def test_flagged_centers_and_images_come_with_what_happened_to_them(usual):
    assert "south lost most images: 2 of its 4 were eliminated" in list_titles(usual)
    assert read_table(usual, "Centers, those") == [
        ["center", "attempts", "rejected", "share rejected (%)", "images", "deferred", "eliminated"],
        ["south", "7", "6", "85.7", "4", "2", "2"],
        ["north", "4", "3", "75.0", "4", "1", "1"],
        ["west", "4", "2", "50.0", "4", "1", "0"],
    ]
    heads, *rows = read_table(usual, "Flagged images")
    assert heads == ["image", "center", "outcome", "what happened", "update norm", "error rates"]
    assert [row[:3] for row in rows] == [
        ["sub-1", "north", "eliminated"],
        ["sub-17", "south", "eliminated"],
        ["sub-18", "south", "eliminated"],
        ["sub-33", "west", "returned to visits"],
    ]
    assert rows[0][3:] == [
        "cycle 1: batch rejected, deferred; cycle 2: eliminated",
        "not measured",
        "false positives 0 to 3 of 3, false negatives 1 to 1 of 3",
    ]
    assert rows[3][3] == "cycle 1: batch rejected, deferred; cycle 2: accepted again"


def test_update_norms_are_shown_where_the_rule_has_a_limit_for_them_and_error_rates_otherwise(
    usual, report, cohort, tmp_path
):
    assert "11 of 15 verified attempts were rejected" in list_titles(usual)
    measured = make_arm(tmp_path, cohort, rows=list_attempts(cohort, norms=True))
    page = report(controlled=measured)
    assert "Rejected updates are 60 times as large as accepted ones (medians)" in list_titles(page)
    assert "11 of 15 verified attempts were rejected" not in list_titles(page)
    assert read_table(page, "Flagged images")[1][4] == "7,123, limit 900"
    limitless = [row | {"norm_limit": None} for row in list_attempts(cohort, norms=True)]
    page = report(controlled=make_arm(tmp_path, cohort, rows=limitless))
    assert "11 of 15 verified attempts were rejected" in list_titles(page)
    assert read_table(page, "Flagged images")[1][4] == "7,123"


def test_the_rates_are_divided_as_the_rule_divided_them(report, cohort, tmp_path):
    rows = [attempt("north", "sub-1", **verify(1, 0, before=(0, 0)) | {"n_neg": 2, "reference_n_neg": 2})]
    swapped = make_arm(tmp_path, cohort, name="swapped", rows=rows, rule=PUBLISHED)
    for arm, rate in ((make_arm(tmp_path, cohort, rows=rows), 1 / 2), (swapped, 1 / 3)):
        figures = [json.loads(text) for text in re.findall(r'json">(.*?)</script>', report(controlled=arm))]
        verified = next(f for f in figures if "verified attempts" in f["layout"]["meta"]["alt"])
        marks = next(trace for trace in verified["data"] if trace.get("name", "").startswith("accepted"))
        assert decode(marks["y"]) == [pytest.approx(rate)]


def decode(values):
    """Return the numbers of an array that plotly's Python has written."""
    return list(np.frombuffer(base64.b64decode(values["bdata"]), values["dtype"])) if "bdata" in values else values


def test_an_image_that_was_deferred_and_never_tried_again_waits(report, cohort, tmp_path):
    rows = [attempt("north", "sub-1", decision="deferred", **verify(1, 0, before=(0, 0)))]
    page = report(controlled=make_arm(tmp_path, cohort, rows=rows))
    assert read_table(page, "Flagged images")[1][2] == "waits for its revisit"
    assert "No image was eliminated." in read_words(page)


def test_a_study_in_which_nothing_was_flagged_reads_well(report, cohort, tmp_path):
    rows = [attempt("north", "sub-1", "sub-2", update_norm=3.0)]
    page = report(controlled=make_arm(tmp_path, cohort, rows=rows))
    said = read_words(page)
    assert "No image was eliminated, under the published rule." in said
    assert "0 of 1 attempt were rejected, and 0 images deferred at least once." in said
    assert "No image was flagged: none was deferred, none eliminated." in said
    assert said.endswith("Quality control supports a decision; it does not replace one.")
    assert {"No image was eliminated", "Update norms of all attempts"} <= set(list_titles(page))
    assert "nan" not in said


def test_a_cohort_without_test_subjects_has_no_test_figures(tmp_path, report):
    untested = make_cohort(tmp_path, roles={"train": 4, "verification": 2})
    page = report(untested)
    assert read_words(page).count("No subject has the role 'test', so there are no test figures.") == 4
    assert read_table(page, "Subjects by role")[3] == ["test", "0", "0", "0", "0"]
    assert read_table(page, "Who was eliminated")[1][:3] == ["all", "12", "3"]


def test_test_subjects_of_one_class_have_no_auroc(tmp_path, report):
    controls = make_cohort(tmp_path, diseased=lambda at: int(at % 16 in (1, 5)))  # one trains and one verifies
    said = read_words(report(controls))
    assert "Test AUROC of qc, cycle 2: not defined, all test subjects are of one class (n = 30: 0 diseased" in said
    assert "All test subjects are of one class, so AUROC is not defined." in said


def test_a_single_center_makes_a_report(tmp_path, report):
    page = report(make_cohort(tmp_path, centers=["only"]))
    assert "1 center of 16 subjects; 0 have one class only" in list_titles(page)
    assert "1 of 4 training images was eliminated, at 1 of 1 center" in read_words(page)


def test_subgroups_have_values_or_the_reason_why_not(report, cohort, tmp_path):
    wrong = [f"sub-{at}" for at in (7, 8, 9)]
    page = report(controlled=make_arm(tmp_path, cohort, wrong=wrong), by=("sex", "scanner"))
    test = cohort.table[cohort.table["role"] == "test"]
    rows = {row[0]: row for row in read_table(page, "Test subjects by group")}
    for sex, part in test.groupby("sex"):
        patients = part[part["diagnosis"] == 1]
        sensitivity = 1 - patients["subject"].isin(wrong).mean()
        assert rows[f"sex: {sex}"][2:5] == [str(len(part)), str(len(patients)), str(len(part) - len(patients))]
        assert rows[f"sex: {sex}"][5].startswith(f"{sensitivity:.2f} (")
    small = report(by=("age_band",))
    bands = {row[0]: row[5] for row in read_table(small, "Test subjects by group")}
    for band, low, high in (("<55", 0, 54), ("75+", 75, 130)):
        n = test["age"].between(low, high).sum()
        assert bands[f"age band: {band}"] == (f"{n} subjects, fewer than 10" if n else "no subjects")


def test_subgroups_may_be_none_or_crossed(report):
    assert [row[0] for row in read_table(report(by=()), "Test subjects by group")[1:]] == ["all"]
    crossed = read_table(report(by=(("sex", "age_band"),)), "Test subjects by group")
    assert crossed[2][0].startswith("sex x age band: F, ")


def test_what_was_run_is_told_without_paths_users_or_machines(usual):
    said = read_words(usual)
    assert "PublishedRule(tolerance=0.02)" in said
    assert ["seed", "0"] in read_table(usual, "Schedule of all arms")
    assert ["keras", "3.15.1"] in read_table(usual, "Versions")
    assert "c0ffeec0ffeec0ff." in said
    for secret in (tempfile.gettempdir(), ".nii", platform.node()):
        assert secret not in usual
    assert not re.search(rf"\b{re.escape(getpass.getuser())}\b", said)


def test_the_report_does_not_depend_on_the_truth_or_on_the_day(usual, report, cohort, tmp_path):
    harm = np.where(cohort.table["subject"] == "sub-1", "inversion", "")
    known = cohort.replace(cohort.table.assign(harm=harm, placement=np.where(harm != "", "single", "")))
    assert usual == report() == report(known)
    assert [path.name for path in tmp_path.glob("*.html*")] == ["report.html"]


# images


def test_eliminated_images_stand_beside_one_of_their_center_that_was_not_flagged(usual):
    alts = [json.loads(t)["layout"]["meta"]["alt"] for t in re.findall(r'json">(.*?)</script>', usual)]
    slices = [alt for alt in alts if "slices of" in alt]
    assert len(slices) == 3
    assert "sub-1: eliminated, sub-2: not flagged" in slices[0]
    assert "sub-17: eliminated, sub-19: not flagged" in slices[1]
    assert "sub-18: eliminated, sub-19: not flagged" in slices[2]


def test_where_a_whole_center_was_flagged_the_image_beside_comes_from_another(report, cohort, tmp_path):
    rows = []
    for subject in ("sub-1", "sub-2", "sub-3", "sub-4"):
        rows.append(attempt("north", subject, decision="deferred"))
        rows.append(attempt("north", subject, decision="eliminated"))
    page = report(controlled=make_arm(tmp_path, cohort, rows=rows), most_images=1)
    assert "sub-1 of north; no image of this center passed" in list_titles(page)
    assert "sub-17 (south): not flagged" in html.unescape(page)
    assert "1 of 4 eliminated images" in read_words(page)


def test_images_are_taken_from_the_centers_in_turn_and_never_more_than_asked_for():
    gone = pd.DataFrame({"center": ["A", "A", "A", "B", "C", "C"]}, index=["a1", "a2", "a3", "b1", "c1", "c2"])
    assert choose_images(gone, most=4) == ["a1", "b1", "c1", "a2"]
    assert choose_images(gone, most=9) == ["a1", "b1", "c1", "a2", "c2", "a3"]
    assert choose_images(gone, most=0) == []


def test_a_report_can_leave_all_images_out(report):
    page = report(most_images=0)
    assert "slices of" not in page
    assert "3 images eliminated; this report was asked to show none of them." in read_words(page)


# in a browser


@pytest.mark.parametrize("width", [400, 1400])
def test_a_report_opens_from_one_file_and_fits_the_screen(chromium_page, report, tmp_path, width):
    measured = make_arm(tmp_path, make_cohort(tmp_path), rows=None)
    text = report(controlled=measured)
    path = tmp_path / "report.html"
    assert path.read_text().count(get_plotlyjs()) == 1
    assert pages.find_requests(text) == []
    page = chromium_page(path, width=width)
    n_figures = text.count('class="plotly-figure"')
    page.until(ALL_DRAWN)
    assert page.seen.errors == []
    assert [address for address in page.seen.requests if not address.startswith("data:")] == [f"file://{path}"]
    assert page.evaluate("document.documentElement.scrollWidth") == width
    headings = page.locator("h2").all_text_contents()
    links = page.locator("nav a").all_text_contents()
    assert (
        headings
        == links
        == [
            *("Summary", "Data check", "Training curves", "Flagged centers and images", "Subgroups", "What was run"),
            "What verification reveals",
        ]
    )
    assert page.get_by_role("group", name=re.compile("Figure: .{40}")).count() == n_figures


def test_hostile_names_show_as_text_everywhere(chromium_page, report, tmp_path):
    names = f"{HOSTILE}{CLOSING}{{}}"
    hostile = make_cohort(tmp_path, centers=[HOSTILE, CLOSING, "%{y}"], names=names)
    arm = make_arm(tmp_path, hostile, name=HOSTILE, rule=f"{CLOSING}(x=<b>)")
    other = make_arm(tmp_path, hostile, name=CLOSING, arm="dirty", rule="None")
    report(hostile, controlled=arm, others=[other], by=("scanner", "sex"), title=f"{CLOSING} & {HOSTILE}")
    page = chromium_page(tmp_path / "report.html")
    page.until(ALL_DRAWN)
    assert page.locator("img").count() == 0
    assert page.locator("script:not([type])").count() == 2
    assert (page.seen.dialogs, page.seen.errors) == ([], [])
    assert page.title() == f"{CLOSING} & {HOSTILE}"
    assert page.locator("th", has_text=HOSTILE).count() > 5
    assert page.locator("svg text", has_text=HOSTILE).count() > 0


# what is refused


def test_arms_that_do_not_fit_are_refused(cohort, tmp_path):
    study = make_study(cohort, tmp_path)
    good = make_arm(tmp_path, cohort)
    unguarded = make_arm(tmp_path, cohort, name="dirty", arm="dirty", rule="None")
    elsewhere = make_arm(tmp_path, cohort, name="late", schedule=asdict(replace(SCHEDULE, seed=1)))
    idle = make_arm(tmp_path, cohort, name="idle", rows=[])

    def refuse(error, message, **options):
        with pytest.raises(error, match=message):
            write_report(tmp_path / "no.html", study=study, **options)

    refuse(ValueError, "arm 'dirty' is under no rule; expected the one under quality control", controlled=unguarded)
    refuse(ValueError, "arm 'late' ran under another schedule", controlled=good, others=[elsewhere])
    refuse(ValueError, "arms must have different names, came \\['qc', 'qc'\\]", controlled=good, others=[good])
    refuse(ValueError, "arm 'idle' made no attempt; expected at least one control cycle", controlled=idle)
    refuse(ValueError, "most_images must be at least 0, got -1", controlled=good, most_images=-1)
    lost = replace(good, name="lost", folder=tmp_path / "nowhere")
    refuse(FileNotFoundError, "arm 'lost': no .*run.json; expected the folder of a run", controlled=lost)
    refuse(KeyError, "shoe size", controlled=good, by=["shoe size"])
    (good.folder / "run.json").write_text('{"finished": true, "settings": {"name": "qc"}}')
    refuse(ValueError, r"qc.run\.json: damaged, no 'rule' in its settings", controlled=good)
    assert not (tmp_path / "no.html").exists()


# a study that was run


def test_a_study_that_was_run_has_a_report(cohort, tmp_path):
    study = make_study(cohort, tmp_path)
    guarded = study.run("qc", rule=PublishedRule(tolerance=0.0))
    dirty = make_arm(tmp_path, cohort, name="dirty", arm="dirty", rule="None")
    path = write_report(tmp_path / "deep" / "r.html", study=study, controlled=guarded, others=[dirty])
    page = path.read_text().replace(get_plotlyjs(), "")
    said = read_words(page)
    n = len(guarded.eliminated)
    assert (f"{n} of 12 training images" if n else "No image was eliminated") in said
    assert f"Test AUROC of qc, cycle 2: {guarded.auroc():.2f} (n = 30" in said
    assert "PublishedRule(tolerance=0.0, denominators='standard'" in said
    assert read_table(page, "Arms")[2][1] == "with all images, unguarded"
    start = study.pretrain()
    watched = start.ledger[start.ledger["stage"] == "watch"]
    assert watched["update_norm"].notna().all() and watched["subjects"].str.len().eq(1).all()
    roles = watched["subjects"].str[0].map(cohort.table.set_index("subject")["role"]).value_counts()
    assert f"for {roles['train']} training subjects and {roles['verification']} verification subjects" in said
    n_before, n_after = len(start.verification), len(guarded.verification)
    assert f"after every cycle, {n_before} in the pre-training and {n_after} in every arm" in said
