"""Figures as data: what is drawn where, in which colour, with which n; and that names are text."""

import json
import re

import numpy as np
import pandas as pd
import plotly.io
import pytest

from dqc_lib import figures, pages
from dqc_lib.figures import ARM_COLORS, DECISION_COLORS, PALETTE
from dqc_lib.ledger import COLUMNS, Ledger

HOSTILE = '<img src=x onerror="alert(1)"><b>A & B</b> %{y}'
SHOWN = '&lt;img src=x onerror="alert(1)"&gt;&lt;b&gt;A &amp; B&lt;/b&gt; &#37;{y}'


def make_ledger(*rows):
    """Return the table of a ledger with the rows given, what they do not say filled in."""
    ledger = Ledger()
    usual = {"cycle": 3, "stage": "control", "level": "batch", "center": "A", "subjects": ["s1"], "seconds": 0.1}
    for row in rows:
        row = usual | {"decision": "accepted"} | row
        ledger.append(**dict.fromkeys(COLUMNS) | row | {"n": len(row["subjects"])})
    return ledger.to_frame()


def verify(fp, fn, *, before=(0, 0), n_neg=10, n_pos=5):
    after = {"fp": fp, "n_neg": n_neg, "fn": fn, "n_pos": n_pos}
    reference = dict(zip(after, (before[0], n_neg, before[1], n_pos), strict=True))
    return after | {f"reference_{name}": value for name, value in reference.items()}


LEDGER = make_ledger(
    {"stage": "pretraining", "cycle": 2, "update_norm": 7.0} | verify(9, 5),
    {"stage": "watch", "update_norm": 8.0},
    {"center": "B", "subjects": ["b1", "b2"], "update_norm": 100.0} | verify(1, 1) | {"tolerance": 0.04},
    {"subjects": ["a1", "a2"], "decision": "split", "update_norm": 5000.0, "norm_limit": 900.0}
    | verify(4, 1, before=(1, 1))
    | {"tolerance": 0.04},
    {"subjects": ["a1"], "level": "single", "update_norm": 300.0},
    {"subjects": ["a2"], "level": "single", "decision": "deferred", "update_norm": 7000.0, "norm_limit": 800.0},
    {"cycle": 4, "center": "B", "subjects": ["b1", "b2"], "update_norm": 90.0},
    {
        "cycle": 4,
        "stage": "closing",
        "level": "revisit",
        "subjects": ["a2"],
        "decision": "eliminated",
        "update_norm": 6e3,
    },
)


def make_history(values, *, arm="clean", start=0, subgroup="overall", group="all"):
    rows = [{"arm": arm, "cycle": start + at, "auroc": value} for at, value in enumerate(values)]
    counts = {"n": 9, "n_positive": 4, "n_negative": 5}
    return pd.DataFrame(rows).assign(subgroup=subgroup, group=group, sensitivity=0.5, **counts)


HISTORY = pd.concat(
    [make_history([0.5, 0.7, end], arm=arm) for arm, end in {"clean": 0.9, "dirty": 0.6, "qc": 0.8}.items()]
)
CENTERS = pd.DataFrame(
    {"n_positive": [3, 0], "n_negative": [2, 4], "scanner": ["X", HOSTILE]}, index=pd.Index(["A", HOSTILE])
)
TRUTH = pd.DataFrame(
    {"n": [10, 0, 40], "eliminated": [9, 0, 2], "share": [0.9, np.nan, 0.05]},
    index=["harmful in whole centers", "harmful single images", "good images"],
)
VOLUME = (np.arange(24, dtype=np.uint8).reshape(2, 3, 4), (1.0, 2.0, 3.0))
DRAWINGS = {
    "slices": lambda title: figures.draw_slices({HOSTILE: VOLUME, "other": VOLUME}, title=title),
    "histograms": lambda title: figures.draw_histograms({HOSTILE: VOLUME}, title=title),
    "centers": lambda title: figures.draw_centers(CENTERS, title=title),
    "history": lambda title: figures.draw_history(HISTORY.replace({"arm": {"qc": HOSTILE}}), title=title),
    "decisions": lambda title: figures.draw_decisions(hostile(LEDGER), title=title),
    "update norms": lambda title: figures.draw_update_norms(hostile(LEDGER), title=title, harmful={"a2"}),
    "rates": lambda title: figures.draw_rates(hostile(LEDGER), title=title),
    "truth": lambda title: figures.draw_truth({HOSTILE: TRUTH}, title=title),
}
every_figure = pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)


def hostile(ledger):
    subjects = [[HOSTILE if name == "b1" else name for name in names] for names in ledger["subjects"]]
    return ledger.assign(subjects=subjects, center=ledger["center"].replace("B", HOSTILE))


def get_trace(figure, name):
    """Return the one trace whose name in the legend starts like this."""
    found = [trace for trace in figure.data if trace.name and trace.name.startswith(name)]
    assert len(found) == 1, [trace.name for trace in figure.data]
    return found[0]


def get_title(figure):
    return figure.layout.title.text


# What holds for all


@every_figure
def test_the_title_is_the_callers_and_the_alternative_text_begins_with_it(draw):
    figure = draw("Center A misleads")
    assert get_title(figure) == "Center A misleads"
    alt = figure.layout.meta["alt"]
    assert alt.startswith("Center A misleads. ") and len(alt) > 40


@every_figure
def test_names_and_titles_are_shown_as_text_not_obeyed_as_markup(draw, list_texts):
    figure = draw(f"Title {HOSTILE}")
    texts = list_texts(figure)
    assert not [text for text in texts if re.search(r"<(?!/?extra>|br>)", text)]
    templates = [trace.hovertemplate or "" for trace in figure.data]
    assert not [text for text in templates if "&lt;" in text], "a name inside a template would be read as one"
    assert any("&lt;img" in text for text in texts)


@every_figure
def test_a_drawn_figure_cannot_send_itself_to_a_cloud(draw):
    figure = draw("t")
    for name in ("plotly_mimetype", "jupyterlab", "vscode", "notebook", "browser", "iframe"):
        assert plotly.io.renderers[name].config["showSendToCloud"] is False
        assert plotly.io.renderers[name].config["displaylogo"] is False
    bundle = plotly.io.renderers["plotly_mimetype"].to_mimebundle(figure.to_dict())
    config = bundle["application/vnd.plotly.v1+json"]["config"]
    assert (config["showSendToCloud"], config["displaylogo"], config["plotlyServerURL"]) == (False, False, "")


@every_figure
def test_its_size_is_fixed_and_its_axes_have_titles(draw):
    figure = draw("t")
    assert 150 < figure.layout.height < 1000
    if figure.data[0].type != "heatmap":
        axes = [*figure.select_xaxes(), *figure.select_yaxes()]
        lowest = [axis for axis in axes if not axis.matches]
        assert all(axis.title.text for axis in lowest)


@pytest.mark.parametrize("name", [name for name in DRAWINGS if name != "slices"])
def test_every_entry_of_the_legend_says_n(name):
    figure = DRAWINGS[name]("t")
    entries = [trace.name for trace in figure.data if trace.showlegend is not False]
    assert entries
    assert not [entry for entry in entries if "n = " not in entry and entry not in (LIMIT, TOLERATED)]


LIMIT, TOLERATED = "limit of the rule", "tolerated increase"


def test_a_long_title_is_wrapped_into_lines_of_like_length():
    words = " ".join(["quality"] * 14)
    lines = get_title(figures.draw_truth({"r": TRUTH}, title=words)).split("<br>")
    assert " ".join(lines) == words
    assert max(map(len, lines)) <= 48
    assert max(map(len, lines)) - min(map(len, lines)) < 20


# Colours


def test_all_colours_are_those_of_okabe_and_ito():
    known = {"#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7"}
    assert set(PALETTE.values()) - known == {"#7F7F7F"}
    assert set(ARM_COLORS.values()) | set(DECISION_COLORS.values()) <= set(PALETTE.values())


def test_no_decision_has_the_colour_of_an_arm():
    assert len(set(DECISION_COLORS.values())) == 4
    assert not set(DECISION_COLORS.values()) & set(ARM_COLORS.values())


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("clean", "clean"),
        ("Dirty arm", "dirty"),
        ("qc", "qc"),
        ("QC, calibrated rule", "qc"),
        ("QC, published rule", "published"),
        ("published rule (tolerance 0.02)", "published"),
    ],
)
def test_an_arm_keeps_its_colour_whatever_else_its_name_says(name, word):
    assert figures.get_arm_color(name) == ARM_COLORS[word]


def test_arms_without_a_colour_of_their_own_differ_from_each_other_and_from_the_known():
    figure = figures.draw_truth(dict.fromkeys(("one", "qc", "two"), TRUTH), title="t")
    colors = [trace.marker.color for trace in figure.data]
    assert len(set(colors)) == 3 and colors[1] == ARM_COLORS["qc"]
    assert not {colors[0], colors[2]} & set(ARM_COLORS.values())


# Slices and histograms


def test_slices_show_the_voxels_of_each_plane_with_left_on_the_left():
    array, spacing = np.arange(3 * 5 * 7).reshape(3, 5, 7), (1.0, 2.0, 4.0)
    axial, coronal, sagittal = figures.draw_slices({"v": (array, spacing)}, title="t").data
    assert np.array_equal(axial.z, array[:, :, 3].T)  # rows from back to front, columns from left to right
    assert np.array_equal(coronal.z, array[:, 2, :].T)
    assert np.array_equal(sagittal.z, array[1, :, :].T)
    assert (axial.dx, axial.dy) == (1.0, 2.0)
    assert (coronal.dx, coronal.dy) == (1.0, 4.0)
    assert (sagittal.dx, sagittal.dy) == (2.0, 4.0)
    assert (axial.x0, axial.y0) == (-1.0, -4.0)


def test_slices_are_at_true_proportions_in_every_panel():
    figure = figures.draw_slices(
        {"v": (np.ones((3, 5, 7)), (1.0, 2.0, 4.0)), "w": (np.ones((6, 5, 7)), (0.5, 2, 4))}, title="t"
    )
    anchors = {axis.scaleanchor for axis in [*figure.select_xaxes(), *figure.select_yaxes()]}
    assert anchors == {None, "x"}  # all but the first axis itself keep to it
    assert [axis.scaleanchor for axis in figure.select_xaxes()].count(None) == 1
    assert {axis.scaleratio for axis in figure.select_yaxes()} == {1}
    first = figure.get_subplot(1, 1)
    assert first.xaxis.range == (-1.5, 1.5) and first.yaxis.range == (-5.0, 5.0)


def test_slices_say_where_left_and_right_and_front_and_back_are():
    figure = figures.draw_slices({"v": VOLUME}, title="t")
    marks = [(mark.text, mark.x, mark.xref) for mark in figure.layout.annotations if len(mark.text) == 1]
    assert marks == [
        *[("L", 0, "x domain"), ("R", 1, "x domain")],
        *[("L", 0, "x2 domain"), ("R", 1, "x2 domain")],
        *[("P", 0, "x3 domain"), ("A", 1, "x3 domain")],
    ]
    assert [mark.text for mark in figure.layout.annotations if len(mark.text) > 1] == ["axial", "coronal", "sagittal"]
    assert figure.layout.title.subtitle.text == "v"


def test_several_volumes_stand_side_by_side_under_their_labels_in_the_same_greys():
    other = VOLUME[0] + np.uint8(100)
    figure = figures.draw_slices({"one": VOLUME, HOSTILE: (other, VOLUME[1])}, title="t")
    assert len(figure.data) == 6
    assert {trace.coloraxis for trace in figure.data} == {"coloraxis"}
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (0, 123)
    headings = [mark.text for mark in figure.layout.annotations if len(mark.text) > 1]
    assert [heading.replace("<br>", " ") for heading in headings] == ["one", SHOWN]


def test_more_volumes_than_fit_in_a_row_go_on_in_the_next():
    volumes = {f"v{at}": VOLUME for at in range(7)}
    figure = figures.draw_slices(volumes, title="t", planes=["axial"])
    assert len(figure.data) == 7
    assert figure.get_subplot(2, 2) is not None
    headings = {mark.text for mark in figure.layout.annotations if len(mark.text) > 1}
    assert headings == set(volumes)


def test_position_and_window_are_the_callers():
    array = np.arange(24.0).reshape(2, 3, 4)
    figure = figures.draw_slices(
        {"v": (array, (1, 1, 1))}, title="t", planes=["axial"], position=(0, 0, 1), window=(5, 9)
    )
    assert np.array_equal(figure.data[0].z, array[:, :, 3].T)
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (5, 9)


@pytest.mark.parametrize(
    ("volumes", "options", "said"),
    [
        ({}, {}, "at least one volume"),
        ({"v": VOLUME}, {"planes": ["oblique"]}, "planes among"),
        ({"v": VOLUME}, {"position": (0, 0, 2)}, "position"),
        ({"v": (np.ones((2, 2)), (1, 1, 1))}, {}, "volume 'v': shape"),
        ({"v": (np.ones((2, 2, 2)), (1, 0, 1))}, {}, "volume 'v': shape"),
    ],
)
def test_slices_refuse_what_they_cannot_draw(volumes, options, said):
    with pytest.raises(ValueError, match=said):
        figures.draw_slices(volumes, title="t", **options)


def test_histograms_share_their_bins_and_count_every_voxel():
    low, high = np.array([0.0, 0.0, 0.0, 1.0]), np.array([4.0, 4.0, 1.0, 0.0])
    figure = figures.draw_histograms({"low": low, "high": high}, title="t", bins=4)
    assert [list(trace.x) for trace in figure.data] == [[0, 1, 2, 3, 4]] * 2
    assert list(figure.data[0].customdata) == [75, 25, 0, 0, 0]
    assert list(figure.data[1].customdata) == [25, 25, 0, 50, 50]  # the last edge repeats its bin
    assert min(figure.data[0].y) == 12.5  # half a voxel: a log axis has no 0
    assert figure.data[0].name == "low (n = 4 voxels)"
    assert figure.layout.yaxis.type == "log"


def test_a_histogram_of_equal_voxels_is_one_peak():
    figure = figures.draw_histograms({"flat": np.full((2, 2, 2), 7.0)}, title="t", bins=2)
    assert list(figure.data[0].customdata) == [100, 0, 0]


# Centers


def test_centers_are_rows_of_diseased_and_controls_with_their_scanner():
    figure = figures.draw_centers(CENTERS, title="t")
    diseased, control, scanners = figure.data
    assert (diseased.name, list(diseased.x)) == ("diseased (n = 3)", [3, 0])
    assert (control.name, list(control.x)) == ("control (n = 6)", [2, 4])
    assert list(diseased.y) == ["A", SHOWN]
    assert [text.strip() for text in scanners.text] == ["X", "&lt;img src=x oner…"]  # 16 characters and no more
    assert list(diseased.customdata) == ["<br>X", f"<br>{SHOWN}"], "pointing at the bar tells all of it"
    assert diseased.marker.color != control.marker.color
    assert figure.layout.barmode == "stack"
    assert figure.layout.yaxis.range == (1.6, -0.6)  # from the top
    assert "1 have one class" in figure.layout.meta["alt"]


def test_centers_can_do_without_scanners():
    figure = figures.draw_centers(CENTERS.drop(columns="scanner"), title="t")
    assert len(figure.data) == 2
    assert list(figure.data[0].customdata) == ["", ""]
    assert figure.layout.margin.r == 20


def test_the_longest_scanner_beside_the_longest_bar_has_its_own_room_at_the_right():
    scanners = CENTERS.assign(scanner=["Siemens Prisma 3 T", "B"])
    figure = figures.draw_centers(scanners, title="t")
    assert figure.data[2].cliponaxis is False
    assert figure.layout.margin.r > 20 + 16 * 6  # 16 characters, 6 pixels each
    assert figure.layout.xaxis.range == (0, 5.1)


# History


def test_history_has_a_line_per_arm_in_its_colour():
    figure = figures.draw_history(HISTORY, title="t")
    assert [trace.name for trace in figure.data] == ["clean (n = 9)", "dirty (n = 9)", "qc (n = 9)"]
    assert [trace.line.color for trace in figure.data] == [ARM_COLORS[arm] for arm in ("clean", "dirty", "qc")]
    assert list(figure.data[1].y) == [0.5, 0.7, 0.6]
    assert figure.layout.yaxis.title.text == "test AUROC"
    assert "dirty: 0.50 in cycle 0 to 0.60 in cycle 2" in figure.layout.meta["alt"]


def test_pretraining_is_drawn_once_and_shaded():
    figure = figures.draw_history(HISTORY, title="t", control_start=2)
    shared = get_trace(figure, "pre-training")
    assert (list(shared.x), shared.line.color) == ([0, 1], ARM_COLORS["pretraining"])
    assert list(get_trace(figure, "qc").x) == [1, 2]  # it starts where the pre-training ended
    shade = next(shape for shape in figure.layout.shapes if shape.type == "rect")
    assert (shade.x0, shade.x1) == (-0.5, 1.5)


@pytest.mark.parametrize(("n_cycles", "step"), [(1, 1), (12, 1), (13, None), (31, None)])
def test_history_shows_the_cycles_there_are_and_every_one_only_of_few(n_cycles, step):
    axis = figures.draw_history(make_history([0.5] * n_cycles, start=4), title="t").layout.xaxis
    assert axis.range == (3.5, 3.5 + n_cycles)
    assert (axis.dtick, axis.tickangle) == (step, 0)


def test_undefined_values_are_gaps_in_the_line():
    figure = figures.draw_history(make_history([0.5, np.nan, 0.7]), title="t")
    assert np.isnan(figure.data[0].y[1])
    assert not figure.data[0].connectgaps


def test_groups_of_an_arm_differ_in_dash_and_say_the_n_that_the_metric_rests_on():
    groups = [make_history([0.5, 0.6], subgroup="sex", group=group) for group in ("F", "M")]
    figure = figures.draw_history(pd.concat(groups), title="t", metric="sensitivity", subgroup="sex")
    assert [trace.name for trace in figure.data] == ["clean (F, n = 4 diseased)", "clean (M, n = 4 diseased)"]
    assert figure.data[0].line.color == figure.data[1].line.color
    assert figure.data[0].line.dash != figure.data[1].line.dash


def test_history_refuses_metrics_and_subgroups_that_are_not_there():
    with pytest.raises(KeyError, match="'bleu'; expected one of"):
        figures.draw_history(HISTORY, title="t", metric="bleu")
    with pytest.raises(ValueError, match="no subgroup 'sex'"):
        figures.draw_history(HISTORY, title="t", subgroup="sex")


# Attempts


def test_decisions_are_marks_in_the_order_of_the_attempts():
    figure = figures.draw_decisions(LEDGER, title="t")
    accepted = get_trace(figure, "accepted (n = 3)")
    assert (list(accepted.x), list(accepted.y)) == ([1, 3, 5], ["B", "A", "B"])
    for name, x in {"split": 2, "deferred": 4, "eliminated": 6}.items():
        trace = get_trace(figure, f"{name} (n = 1)")
        assert (list(trace.x), list(trace.y), trace.marker.color) == ([x], ["A"], DECISION_COLORS[name])
    assert list(figure.layout.yaxis.categoryarray) == ["A", "B"]
    assert list(figure.layout.xaxis.ticktext) == ["3", "4", "closing"]
    assert list(figure.layout.xaxis.tickvals) == [2.5, 5, 6]


def test_pointing_at_an_attempt_tells_who_was_in_it():
    trace = get_trace(figures.draw_decisions(hostile(LEDGER), title="t"), "accepted")
    assert trace.customdata[0][0] == f"cycle 3, batch at {SHOWN}, 2 images<br>{SHOWN}, b2"
    many = make_ledger({"subjects": [f"s{at}" for at in range(9)]})
    assert figures.draw_decisions(many, title="t").data[0].customdata[0][0].endswith("s4, s5, and 3 more")


def test_a_ledger_that_only_watched_is_drawn_too_and_an_empty_one_is_refused():
    watched = LEDGER[LEDGER["stage"] == "watch"]
    assert list(figures.draw_decisions(watched, title="t").data[0].x) == [1]
    with pytest.raises(ValueError, match="no attempts"):
        figures.draw_decisions(LEDGER.iloc[:0], title="t")


def test_update_norms_are_on_a_log_axis_with_the_limits_of_the_rule():
    figure = figures.draw_update_norms(LEDGER, title="t")
    assert figure.layout.yaxis.type == "log"
    assert list(get_trace(figure, "accepted").y) == [100, 300, 90]
    limits = [trace for trace in figure.data if trace.name == LIMIT]
    assert [(trace.y[0], trace.showlegend) for trace in limits] == [(800, True), (900, False)]
    assert "limits of the rule: 800, 900" in figure.layout.meta["alt"]


def test_limits_given_take_the_place_of_the_recorded_ones():
    figure = figures.draw_update_norms(LEDGER, title="t", limits=[400.0])
    assert [trace.y[0] for trace in figure.data if trace.name == LIMIT] == [400]


def test_attempts_that_hold_a_harmful_image_are_ringed():
    rings = get_trace(figures.draw_update_norms(LEDGER, title="t", harmful={"a2"}), "holds a harmful image")
    assert list(rings.x) == [2, 4, 6]
    assert rings.name.endswith("(n = 3)")
    assert not [t for t in figures.draw_update_norms(LEDGER, title="t").data if t.name.startswith("holds")]


def test_update_norms_that_were_not_measured_are_refused():
    with pytest.raises(ValueError, match="no attempt has a positive update norm"):
        figures.draw_update_norms(LEDGER.assign(update_norm=np.nan), title="t")


def test_rates_are_shown_before_and_after_every_verified_attempt():
    figure = figures.draw_rates(LEDGER, title="t")
    bands = [trace for trace in figure.data if trace.type == "bar"]
    assert [list(band.base) for band in bands] == [[0.0, 0.1], [0.0, 0.2]]
    assert [list(band.y) for band in bands] == [[0.04, 0.04]] * 2
    assert [list(band.x) for band in bands] == [[1, 2]] * 2
    accepted = [trace for trace in figure.data if trace.name == "accepted (n = 1)"]
    split = [trace for trace in figure.data if trace.name == "split (n = 1)"]
    assert [trace.y[0] for trace in accepted] == [0.1, 0.2]
    assert [trace.y[0] for trace in split] == [0.4, 0.2]
    assert [trace.showlegend for trace in split] == [True, False]
    assert "2 verified attempts, 1 of them rejected" in figure.layout.meta["alt"]


def test_rates_can_be_those_of_the_published_denominators():
    figure = figures.draw_rates(LEDGER, title="t", denominators="published")
    assert [trace.y[0] for trace in figure.data if trace.name == "split (n = 1)"] == [0.8, 0.1]
    with pytest.raises(KeyError, match="denominators is 'other'"):
        figures.draw_rates(LEDGER, title="t", denominators="other")


def test_a_rate_without_a_denominator_is_not_drawn():
    figure = figures.draw_rates(make_ledger(verify(1, 0, n_pos=0)), title="t")
    rates = [trace.y[0] for trace in figure.data if trace.name.startswith("accepted")]
    assert rates[0] == 0.1 and np.isnan(rates[1])


def test_rates_need_an_attempt_that_was_verified():
    with pytest.raises(ValueError, match="no attempt was verified"):
        figures.draw_rates(make_ledger({}), title="t")


# Truth


def test_truth_has_a_bar_per_rule_and_says_how_many_of_how_many():
    figure = figures.draw_truth({"calibrated": TRUTH, "published": TRUTH}, title="t")
    calibrated, published = figure.data
    assert list(calibrated.y[[0, 2]]) == [90, 5]
    assert list(calibrated.text) == ["9 of 10", "0 of 0", "2 of 40"]
    assert calibrated.name == "calibrated (n = 50 images)"
    assert [trace.marker.color for trace in figure.data] == [ARM_COLORS["calibrated"], ARM_COLORS["published"]]
    assert np.isnan(published.y[1]), "no images of a kind: no bar, not a bar of height 0"
    assert figure.layout.yaxis.title.text == "eliminated (% of images)"


# On a phone, and how it is painted


@pytest.fixture
def open_plain(chromium_page, tmp_path):
    """A function that opens a figure as plotly itself exports it."""

    def open_page(figure, *, width):
        path = tmp_path / "plain.html"
        figure.write_html(path, include_plotlyjs=True)
        page = chromium_page(path, width=width)
        page.until("!!document.querySelector('.js-plotly-plot .gtitle')")
        return page

    return open_page


MEASURE = """(name) => [...document.querySelectorAll(name)].map((part) => {
  const box = part.getBoundingClientRect();
  const frame = document.querySelector('.js-plotly-plot').getBoundingClientRect();
  return [box.left - frame.left, box.top - frame.top, frame.right - box.right];
})"""
PHONE = 400
SENTENCE = "A finding that takes some words to say, "


@pytest.mark.parametrize("repeats", [0, 1, 2], ids=["one line", "two lines", "three lines"])
def test_the_title_keeps_the_same_distance_from_the_top_however_many_lines_it_has(open_plain, repeats):
    title = SENTENCE * repeats + "A short one"
    figure = figures.draw_truth({"r": TRUTH}, title=title)
    assert get_title(figure).count("<br>") == repeats
    [(left, top, right)] = open_plain(figure, width=PHONE).evaluate(MEASURE, ".gtitle")
    assert top == pytest.approx(8.5, abs=1.5) and left == pytest.approx(12, abs=1.5)
    assert right > 0, "a line is no longer than a phone is wide"


@pytest.mark.parametrize("width", [280, PHONE])
@pytest.mark.parametrize("repeats", [0, 1, 2], ids=["one line", "two lines", "three lines"])
def test_a_page_that_breaks_the_title_again_keeps_that_distance(chromium_page, tmp_path, repeats, width):
    figure = figures.draw_truth({"r": TRUTH}, title=SENTENCE * repeats + "A short one")
    content = json.loads(figure.to_json())
    path = pages.write_page(tmp_path / "page.html", pages.fill_page(title="t", body=pages.draw_figure(content)))
    page = chromium_page(path, width=width)
    page.until("!!document.querySelector('.js-plotly-plot .gtitle')")
    [(_, top, right)] = page.evaluate(MEASURE, ".gtitle")
    assert top == pytest.approx(8.5, abs=1.5)
    assert right > 0


def test_the_scanner_beside_the_longest_bar_is_not_cut_on_a_phone(open_plain):
    table = pd.DataFrame(
        {"n_positive": [30, 1], "n_negative": [9, 1], "scanner": ["vendor A", "Siemens Magnetom Prisma"]},
        index=["center-01", "center-02"],
    )
    page = open_plain(figures.draw_centers(table, title="t"), width=PHONE)
    boxes = page.evaluate(MEASURE, ".textpoint text")
    assert len(boxes) == 2
    assert min(right for *_, right in boxes) > 0


@pytest.mark.parametrize("n_cycles", [2, 12, 31])
def test_cycles_stand_upright_and_there_are_no_others_on_a_phone(open_plain, n_cycles):
    figure = figures.draw_history(make_history(np.linspace(0.5, 0.9, n_cycles)), title="t")
    page = open_plain(figure, width=PHONE)
    ticks = page.evaluate("""[...document.querySelectorAll('.xtick text')].map((tick) => {
      const { left, right, height } = tick.getBoundingClientRect();
      return [tick.textContent, left, right, height];
    })""")
    assert len(ticks) >= 2 and {name for name, *_ in ticks} <= {str(cycle) for cycle in range(n_cycles)}
    assert max(height for *_, height in ticks) < 20, "none is turned"
    pairs = zip(ticks, ticks[1:], strict=False)
    assert all(one[2] < other[1] for one, other in pairs), "none lies on another"
