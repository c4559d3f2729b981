"""The explorers without a browser: what they choose, draw and say."""

import sys

import nibabel
import numpy as np
import pandas as pd
import pytest
from plotly.callbacks import InputDeviceState, Points

from dqc_lib.cohort import Cohort
from dqc_lib.ledger import COLUMNS, Ledger
from dqc_lib.volumes import Volume, write_volume
from dqc_lib.widgets import LedgerExplorer, SliceViewer, open_niivue
from dqc_lib.widgets.explorer import NOTHING, TEMPLATE

HOSTILE = "<img src=x onerror=alert(1)>"
COUNTED = {"fp": 2, "n_neg": 8, "fn": 1, "n_pos": 4, "tolerance": 0.02}
COUNTED |= {"reference_fp": 1, "reference_n_neg": 8, "reference_fn": 1, "reference_n_pos": 4}
ATTEMPTS = [  # cycle, level, center, subjects, decision
    (0, "batch", "A", "a1 a2 a3", "accepted"),
    (0, "batch", "B", "b1 b2", "split"),
    (0, "single", "B", "b1", "deferred"),
    (0, "single", "B", "b2", "accepted"),
    (1, "batch", "A", "a1 a2 a3", "split"),
    (1, "single", "A", "a2", "deferred"),
    (1, "revisit", "B", "b1", "eliminated"),
    (2, "batch", "C", "c1", "accepted"),
    (2, "batch", "B", "b2", "accepted"),
]


def make_ledger(attempts=ATTEMPTS, *, verified=True):
    ledger = Ledger()
    for cycle, level, center, subjects, decision in attempts:
        row = dict.fromkeys(COLUMNS) | {"cycle": cycle, "stage": "control", "level": level, "center": center}
        row |= {"subjects": subjects.split(), "n": len(subjects.split()), "decision": decision, "seconds": 0.1}
        ledger.append(**row | {"update_norm": 2.0} | (COUNTED if verified else {}))
    return ledger.to_frame()


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Six subjects whose images hold 10 times their row, in the middle of a dark background."""
    folder = tmp_path_factory.mktemp("images")
    rows = []
    for number, subject in enumerate(["a1", "a2", "a3", "b1", "b2", "c1"]):
        array = np.zeros((5, 6, 7), dtype=np.uint8)
        array[1:4, 1:5, 1:6] = 10 * (number + 1)
        write_volume(folder / f"{subject}.nii.gz", array, affine=np.diag([1.0, 2.0, 3.0, 1.0]))
        path = str(folder / f"{subject}.nii.gz")
        rows.append((subject, subject[0].upper(), number % 2, "F", 60.0, "scanner", path, "train", "inversion"))
    columns = ["subject", "center", "diagnosis", "sex", "age", "scanner", "path", "role", "harm"]
    return Cohort(pd.DataFrame(rows, columns=columns), folder)


@pytest.fixture
def explorer(cohort):
    return LedgerExplorer(make_ledger(), cohort=cohort)


def get_title(pane):
    return pane.widget.layout.title.text


def click(pane, *, holds):
    """Click the mark whose customdata begins with a value, as plotly's script reports a click."""
    for at, trace in enumerate(pane.widget.data):
        meant = [] if trace.customdata is None else [str(values[0]) for values in trace.customdata]
        if holds in meant:
            state = InputDeviceState(button=0)
            return trace._dispatch_on_click(Points([meant.index(holds)], xs=[0], ys=[0], trace_index=at), state)
    raise AssertionError(f"no mark stands for {holds!r}")


def list_values(dropdown):
    return [option[1] if isinstance(option, tuple) else option for option in dropdown.options]


# the explorer of a ledger


def test_it_opens_at_the_center_with_the_largest_share_rejected(explorer):
    assert explorer.center.options == ("A", "B", "C")
    assert explorer.center.value == "A"  # 2 of 3 attempts; B 3 of 5, C none of 1
    assert get_title(explorer._timeline) == "A, attempt by attempt"


def test_images_of_the_center_are_listed_with_the_flagged_first(explorer):
    assert explorer.subject.options == (
        ("a2 (deferred once, kept)", "a2"),
        ("a1 (never flagged)", "a1"),
        ("a3 (never flagged)", "a3"),
    )
    explorer.center.value = "B"
    assert explorer.subject.options == (("b1 (eliminated in cycle 1)", "b1"), ("b2 (never flagged)", "b2"))
    assert get_title(explorer._timeline) == "B, attempt by attempt"


def test_the_image_stands_beside_one_of_its_center_that_was_never_flagged(explorer):
    assert (explorer.subject.value, explorer.beside.value) == ("a2", "a1")
    assert list(explorer._viewer.volumes) == ["a2", "a1"]
    assert list_values(explorer.beside) == ["a1", "a3", TEMPLATE, NOTHING]
    assert explorer._viewer.intensities == {"a2": 20, "a1": 10}
    explorer.beside.value = NOTHING
    assert list(explorer._viewer.volumes) == ["a2"]
    explorer.subject.value = "a3"
    assert list(explorer._viewer.volumes) == ["a3"], "who chose nothing keeps it"


def test_beside_the_only_image_of_a_center_stands_the_median_of_others(explorer):
    explorer.center.value = "C"
    assert explorer.subject.value == "c1"
    assert explorer.beside.value == TEMPLATE
    label = "median of 4 images never flagged"  # a1, a3, b2 and c1: 10, 30, 50 and 60
    assert explorer._viewer.intensities == {"c1": 60, label: 40}


def test_what_happened_to_an_image_is_told_in_words(explorer):
    assert explorer.describe("b1") == (
        "3 attempts; cycle 0: batch split; cycle 0: single deferred; cycle 1: revisit eliminated"
    )
    assert explorer.describe("c1") == "1 attempt; never rejected"
    explorer.center.value = "B"
    assert explorer._fate.value == explorer.describe("b1")


def test_the_histograms_are_those_of_the_images_shown(explorer):
    explorer.center.value = "B"
    names = [trace.name for trace in explorer._histogram.widget.data]
    assert names == ["b1 (n = 210 voxels)", "b2 (n = 210 voxels)"]


def test_fewer_cycles_leave_only_their_attempts(explorer):
    assert explorer.cycles.value == (0, 2)
    explorer.cycles.value = (0, 0)
    assert len(explorer.rows) == 4
    shares = {
        mark[0]: x
        for trace in explorer._overview.widget.data
        if trace.customdata is not None
        for mark, x in zip(trace.customdata, trace.x, strict=True)
    }
    assert shares["A"] == 0
    assert shares["B"] == pytest.approx(200 / 3)
    assert "cycles 0 to 0" in get_title(explorer._overview)
    explorer.cycles.value = (2, 2)
    explorer.center.value = "A"
    assert explorer._timeline.box.children == (explorer._timeline.words,), "the page of another center must not stay"
    assert "A made no attempt in cycles 2 to 2." in explorer._timeline.words.value


def test_cycles_without_any_attempt_are_said():
    explorer = LedgerExplorer(make_ledger([row for row in ATTEMPTS if row[0] != 1]))
    explorer.cycles.value = (1, 1)
    assert "no attempts in cycles 1 to 1" in explorer._overview.words.value
    assert explorer._overview.box.children == (explorer._overview.words,)
    explorer.cycles.value = (0, 1)
    assert explorer._overview.box.children == (explorer._overview.widget, explorer._overview.words)


def test_figures_are_told_in_words_too(explorer):
    assert "<summary>The figure in words</summary>Rejected attempts" in explorer._overview.words.value
    assert explorer._viewer._pane.words.value.count("slices of a2, a1") == 1


def test_verification_subjects_of_one_class_leave_no_verification_figure():
    one_class = make_ledger().assign(fn=0, n_pos=0, reference_fn=0, reference_n_pos=0)
    one_class[["false_negative_rate", "reference_false_negative_rate"]] = np.nan
    explorer = LedgerExplorer(one_class)
    assert explorer._surface.box.children == (explorer._surface.words,)
    assert "two defined rates" in explorer._surface.words.value


def test_a_center_is_drawn_once_when_it_is_chosen(explorer, monkeypatch):
    read = []
    monkeypatch.setattr(explorer, "_read", lambda subject: read.append(subject) or make_volume())
    explorer.center.value = "B"
    assert read == ["b1", "b2"]


def test_the_template_is_made_once_from_images_of_one_shape(cohort, tmp_path):
    table = cohort.table.copy()
    path = str(tmp_path / "a3.nii.gz")
    write_volume(path, np.arange(8.0, dtype=np.float32).reshape(2, 2, 2), affine=np.eye(4))
    table.loc[table["subject"] == "a3", "path"] = path
    table.loc[table["subject"] == "b2", "path"] = "/nowhere/b2.nii.gz"
    explorer = LedgerExplorer(make_ledger(), cohort=cohort.replace(table))
    explorer.beside.value = TEMPLATE
    assert list(explorer._viewer.volumes) == ["a2", "median of 2 images never flagged"]  # a1 and c1
    assert explorer._viewer.volumes["median of 2 images never flagged"][1] == (1.0, 2.0, 3.0)
    template = explorer._template
    explorer.center.value = "B"
    assert explorer.beside.value == TEMPLATE
    assert explorer._template is template


def test_the_acquitted_corner_is_that_of_the_rule():
    frame = make_ledger().assign(tolerance=0.0, norm_limit=1.0)
    corners = [LedgerExplorer(frame, acquittal=n)._surface.widget.to_json() for n in (2, 7)]
    assert corners[0] != corners[1]


def test_the_overview_is_sorted_as_asked(explorer):
    explorer.sort_by.value = "eliminated"
    assert list(explorer._overview.widget.layout.yaxis.categoryarray)[0] == "B"
    explorer.sort_by.value = "name"
    assert list(explorer._overview.widget.layout.yaxis.categoryarray) == ["A", "B", "C"]


def test_a_click_on_a_center_leads_to_its_page_and_one_on_a_subject_to_its_image(explorer):
    click(explorer._overview, holds="B")
    assert explorer.center.value == "B"
    assert explorer.subject.value == "b1"
    click(explorer._timeline, holds="b2")
    assert explorer.subject.value == "b2"
    assert list(explorer._viewer.volumes)[0] == "b2"


def test_attempts_that_were_not_verified_are_said_in_place_of_a_figure():
    explorer = LedgerExplorer(make_ledger(verified=False))
    assert explorer._surface.box.children == (explorer._surface.words,)
    assert "no attempt was verified" in explorer._surface.words.value
    verified = LedgerExplorer(make_ledger())
    assert verified._surface.box.children == (verified._surface.widget, verified._surface.words)


def test_without_a_cohort_there_is_no_image_page():
    explorer = LedgerExplorer(make_ledger())
    assert explorer.subject not in explorer.widget.children
    assert "share diseased" not in explorer.sort_by.options
    explorer.center.value = "C"
    assert get_title(explorer._timeline) == "C, attempt by attempt"


def test_a_missing_image_is_said_and_the_next_one_shown(cohort):
    table = cohort.table.copy()
    table.loc[table["subject"] == "a2", "path"] = f"/nowhere/{HOSTILE}.nii.gz"
    explorer = LedgerExplorer(make_ledger(), cohort=cohort.replace(table))
    assert explorer._message.value.startswith("<b>An image cannot be shown.</b> ")
    assert "no such file" in explorer._message.value
    assert HOSTILE not in explorer._message.value
    assert explorer._image_box.children == ()
    explorer.subject.value = "a1"
    assert explorer._message.value == ""
    assert list(explorer._viewer.volumes) == ["a1", "a3"]


def test_a_damaged_neighbour_is_said_too(cohort, tmp_path):
    table = cohort.table.copy()
    (tmp_path / "broken.nii.gz").write_bytes(b"no image")
    table.loc[table["subject"] == "a1", "path"] = str(tmp_path / "broken.nii.gz")
    explorer = LedgerExplorer(make_ledger(), cohort=cohort.replace(table))
    assert "a1" in explorer._message.value
    assert list(explorer._viewer.volumes) == ["a2"], "the flagged image is shown all the same"
    explorer.beside.value = "a3"
    assert explorer._message.value == ""


def test_the_ground_truth_is_not_looked_at(explorer, cohort):
    assert cohort.harmful
    assert "harm" not in explorer._cohort.table


def test_names_that_are_markup_are_escaped(cohort):
    table = cohort.table.replace({"subject": {"a2": HOSTILE}, "center": {"A": HOSTILE}})
    attempts = [(0, "single", "X", "x", "deferred")]
    frame = make_ledger(attempts).assign(center=HOSTILE)
    frame["subjects"] = [[HOSTILE]]
    explorer = LedgerExplorer(frame, cohort=cohort.replace(table))
    assert explorer.center.value == HOSTILE, "a list shows it as text"
    for text in (explorer._fate.value, explorer._message.value, explorer._viewer._said.value):
        assert "<img" not in text
    for pane in (explorer._overview, explorer._timeline, explorer._histogram, explorer._viewer._pane):
        layout = pane.widget.layout
        shown = [layout.title.text, *(note.text for note in layout.annotations), *(t.name for t in pane.widget.data)]
        assert not [text for text in shown if text and "<img" in text]


def test_an_empty_ledger_has_nothing_to_explore():
    with pytest.raises(ValueError, match="the ledger holds no attempts"):
        LedgerExplorer(make_ledger([]))
    watched = make_ledger().assign(stage="watch")
    with pytest.raises(ValueError, match="the ledger holds no attempts"):
        LedgerExplorer(watched)


def test_a_cohort_of_other_subjects_is_refused(cohort):
    with pytest.raises(ValueError, match="'z9'"):
        LedgerExplorer(make_ledger([(0, "batch", "A", "a1 z9", "accepted")]), cohort=cohort)


def test_a_cohort_with_a_subject_at_another_center_is_refused(cohort):
    table = cohort.table.replace({"center": {"B": "D"}})
    with pytest.raises(ValueError, match="subject 'b1' is of center 'B' in the ledger and of 'D' in the cohort"):
        LedgerExplorer(make_ledger(), cohort=cohort.replace(table))


def test_what_is_no_ledger_and_no_cohort_is_named(cohort):
    with pytest.raises(TypeError, match=r"ledger is of type Cohort; expected a DataFrame such as arm\.ledger"):
        LedgerExplorer(cohort)
    with pytest.raises(TypeError, match=r"cohort is of type str; expected a Cohort such as study\.cohort"):
        LedgerExplorer(make_ledger(), cohort="my_study")


def test_a_subject_that_was_never_tried_has_no_story(explorer):
    with pytest.raises(KeyError, match="subject 'z9' is in no attempt"):
        explorer.describe("z9")


# the viewer of volumes


def make_volume(shape=(3, 4, 5), spacing=(2.0, 3.0, 4.0), *, factor=1):
    array = factor * np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    return Volume(array, np.diag([*spacing, 1.0]))


def test_each_slider_cuts_its_own_plane():
    volume = make_volume()
    viewer = SliceViewer({"one": volume})
    axial, coronal, sagittal = viewer._pane.widget.data
    viewer.sliders["axial"].value = 100
    np.testing.assert_array_equal(axial.z, volume.array[:, :, 4].T)
    np.testing.assert_array_equal(sagittal.z, volume.array[1].T)
    viewer.sliders["sagittal"].value = 0
    np.testing.assert_array_equal(sagittal.z, volume.array[0].T)
    viewer.sliders["coronal"].value = 100
    np.testing.assert_array_equal(coronal.z, volume.array[:, 3].T)
    assert viewer.position == (0.0, 1.0, 1.0)
    assert viewer.intensities == {"one": volume.array[0, 3, 4]}


def test_the_cursor_lies_where_the_planes_cut():
    viewer = SliceViewer({"one": make_volume()})
    viewer.sliders["sagittal"].value = 100  # the last of three voxels of 2 mm: 2 mm right of the middle
    vertical, horizontal = viewer._pane.widget.layout.shapes[:2]  # of the axial slice
    assert (vertical.x0, vertical.x1) == (2, 2)
    assert (horizontal.y0, horizontal.y1) == (1.5, 1.5)  # voxel 2 of 4, 3 mm each


def test_a_click_moves_the_cursor_in_every_volume():
    volumes = {"one": make_volume(), "two": make_volume((5, 5, 5), (1.0, 1.0, 1.0), factor=2)}
    viewer = SliceViewer(volumes)
    coronal_of_two = viewer._pane.widget.data[4]
    place = Points([0], xs=[-2.0], ys=[1.0], trace_index=4)  # mm: the first voxel across, the fourth of five up
    coronal_of_two._dispatch_on_click(place, InputDeviceState(button=0))
    assert viewer.position == (0.0, 0.5, 0.75)
    assert viewer.intensities == {"one": volumes["one"].array[0, 2, 3], "two": volumes["two"].array[0, 2, 3]}
    np.testing.assert_array_equal(viewer._pane.widget.data[0].z, volumes["one"].array[:, :, 3].T)


def test_window_and_level_set_the_greys():
    viewer = SliceViewer({"one": make_volume()})  # 0 to 59
    assert viewer.greys == (0, 59)
    viewer.window.value, viewer.level.value = 20, 30
    axis = viewer._pane.widget.layout.coloraxis
    assert (axis.cmin, axis.cmax) == pytest.approx((20, 40), abs=0.5)


@pytest.mark.parametrize("factor", [1000, 0.001, -1])
def test_other_volumes_bring_their_own_greys(factor):
    viewer = SliceViewer({"one": make_volume()})
    viewer.show({"other": make_volume(factor=factor)}, title="Another")
    low, high = sorted((0, 59 * factor))
    assert viewer.greys == pytest.approx((low, high), rel=1e-6)
    assert get_title(viewer._pane) == "Another"


def test_a_constant_volume_can_be_looked_at():
    blank = Volume(np.zeros((3, 3, 3), dtype=np.uint8), np.eye(4))
    viewer = SliceViewer({"blank": blank})
    assert viewer.intensities == {"blank": 0}
    assert viewer.greys[0] < viewer.greys[1]


@pytest.mark.parametrize("number", [0, 5])
def test_it_shows_one_to_four_volumes(number):
    with pytest.raises(ValueError, match=f"expected one to 4 volumes, came {number}"):
        SliceViewer({str(at): make_volume() for at in range(number)})


def test_what_is_no_volume_is_named():
    with pytest.raises(TypeError, match=r"expected a Volume for every label.*came \{'bad': 'ndarray'\}"):
        SliceViewer({"good": make_volume(), "bad": np.zeros((3, 3, 3))})


def test_it_displays_itself_as_a_widget(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    viewer = SliceViewer({"one": make_volume()})
    viewer._ipython_display_()
    explorer = LedgerExplorer(make_ledger())
    explorer._ipython_display_()
    assert shown == [viewer.widget, explorer.widget]


# NiiVue


def test_niivue_receives_the_volume_itself(tmp_path):
    volume = make_volume()
    viewer = open_niivue(volume)
    assert len(viewer.volumes) == 1
    path = tmp_path / "received.nii.gz"
    path.write_bytes(viewer.volumes[0].data)
    received = nibabel.load(path)
    np.testing.assert_array_equal(np.asarray(received.dataobj), volume.array)
    np.testing.assert_allclose(received.affine, volume.affine)


def test_without_ipyniivue_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipyniivue", None)
    with pytest.raises(ModuleNotFoundError, match="install the extra 'viewer' of dqc-lib, or use SliceViewer"):
        open_niivue(make_volume())
