"""All centers, one center, and why decisions fell: what stands where, what is left out, and what controls change."""

import json
import re
from functools import partial

import numpy as np
import pandas as pd
import pytest

from dqc_lib.cohort import Cohort
from dqc_lib.figures.attempts import draw_decisions, draw_update_norms
from dqc_lib.figures.labels import fold, shorten_names
from dqc_lib.figures.overview import SORTS, draw_center_overview
from dqc_lib.figures.style import DECISION_COLORS, DECISION_SYMBOLS, DIAGNOSIS_COLORS
from dqc_lib.figures.timeline import draw_center_timeline
from dqc_lib.figures.verification import draw_verification_surface
from dqc_lib.ledger import COLUMNS, Ledger

HOSTILE = '<img src=x onerror="alert(1)"><b>A & B</b> %{y}'
SHOWN = '&lt;img src=x onerror="alert(1)"&gt;&lt;b&gt;A &amp; B&lt;/b&gt; &#37;{y}'


def make_ledger(*rows):
    """Return the table of a ledger with the rows given, what they do not say filled in."""
    ledger = Ledger()
    usual = {"cycle": 3, "stage": "control", "level": "batch", "center": "A", "subjects": ["a1"], "seconds": 0.1}
    for row in rows:
        row = usual | {"decision": "accepted"} | row
        ledger.append(**dict.fromkeys(COLUMNS) | row | {"n": len(row["subjects"])})
    return ledger.to_frame()


def verify(fp, fn, *, before=(2, 2), n_neg=10, n_pos=5):
    after = {"fp": fp, "n_neg": n_neg, "fn": fn, "n_pos": n_pos}
    reference = dict(zip(after, (before[0], n_neg, before[1], n_pos), strict=True))
    return after | {f"reference_{name}": value for name, value in reference.items()}


LEDGER = make_ledger(
    {"stage": "pretraining", "cycle": 2, "subjects": ["a1"], "update_norm": 7.0},
    {"stage": "watch", "cycle": 2, "center": "B", "subjects": ["b2"], "update_norm": 9.0},
    {"subjects": ["a1", "a2"], "decision": "split", "update_norm": 5000.0, "norm_limit": 900.0, "tolerance": 0.0}
    | verify(4, 2),
    {"subjects": ["a1"], "level": "single", "update_norm": 300.0},
    {"subjects": ["a2"], "level": "single", "decision": "deferred", "update_norm": 7e3, "norm_limit": 800.0}
    | verify(3, 2)
    | {"tolerance": 0.0},
    {"center": "B", "subjects": ["b1"], "update_norm": 100.0},
    {"cycle": 5, "subjects": ["a1"], "update_norm": 850.0, "norm_limit": 800.0, "tolerance": 0.0} | verify(1, 2),
    {"cycle": 5, "subjects": ["a2"], "level": "revisit", "stage": "closing", "decision": "eliminated"}
    | {"update_norm": 6e3, "norm_limit": 800.0, "tolerance": 0.0}
    | verify(3, 2),
    {"cycle": 5, "center": "B", "subjects": ["b1"], "update_norm": 90.0},
)


def make_cohort(*rows):
    """Return a cohort of (subject, center, diagnosis, role)."""
    table = pd.DataFrame(rows, columns=["subject", "center", "diagnosis", "role"])
    return Cohort(table.assign(sex="F", age=60.0, scanner="S", path="/x.nii.gz"), ".")


COHORT = make_cohort(
    ("a1", "A", 1, "train"),
    ("a2", "A", 0, "train"),
    ("a3", "A", 0, "train"),
    ("a4", "A", 0, "train"),
    ("a5", "A", 1, "test"),
    ("b1", "B", 1, "train"),
    ("b2", "B", 1, "verification"),
    ("d1", "D", 0, "train"),
)


def hostile(ledger):
    subjects = [[HOSTILE if name == "a2" else name for name in names] for names in ledger["subjects"]]
    return ledger.assign(subjects=subjects, center=ledger["center"].replace("A", HOSTILE))


DRAWINGS = {
    "overview": lambda title: draw_center_overview(hostile(LEDGER), title=title, controls=True),
    "timeline": lambda title: draw_center_timeline(hostile(LEDGER), HOSTILE, title=title),
    "surface": lambda title: draw_verification_surface(hostile(LEDGER), title=title),
}
every_figure = pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)


def list_marks(figure):
    """Return the traces that are no mere entry of the legend, by what the legend calls their group."""
    return {trace.legendgroup: trace for trace in figure.data if trace.x is not None and list(trace.x) != [None]}


def list_entries(figure):
    return [trace.name for trace in figure.data if trace.showlegend is not False]


# What holds for all


@every_figure
def test_title_and_alternative_text_are_there(draw):
    figure = draw("Center A misleads")
    assert figure.layout.title.text == "Center A misleads"
    assert figure.layout.meta["alt"].startswith("Center A misleads. ")


@every_figure
def test_names_are_shown_as_text_not_obeyed_as_markup(draw, list_texts):
    # the name that a mark carries for a click is not shown
    texts = list_texts(draw(f"Title {HOSTILE}"), but=r"/customdata(/\d+)+/0$")
    assert not [text for text in texts if re.search(r"<(?!/?extra>|br>)", text)]
    assert any("&lt;img" in text for text in texts)


@every_figure
def test_no_name_is_inside_a_hover_template(draw):
    assert not [trace for trace in draw("t").data if "img" in (trace.hovertemplate or "")]


@every_figure
def test_entries_of_the_legend_say_n_and_axes_have_titles(draw):
    figure = draw("t")
    assert list_entries(figure) and not [entry for entry in list_entries(figure) if "n = " not in entry]
    lowest = [axis for axis in [*figure.select_xaxes(), *figure.select_yaxes()] if not axis.matches]
    assert all(axis.title.text for axis in lowest)


# All centers


def test_a_center_stands_at_the_share_of_its_attempts_that_were_rejected():
    figure = draw_center_overview(LEDGER, title="t")
    marks = figure.data[0]
    assert dict(zip(marks.y, marks.x, strict=True)) == {"A": 60.0, "B": 0.0}  # 3 of 5; 0 of 2
    assert dict(zip(marks.y, marks.text, strict=True)) == {"A": "1 of 2 eliminated", "B": ""}
    assert list_entries(figure) == ["centers (n = 2)"]
    assert "highest: A 60 %, B 0 %. Eliminated images: 1 of 2 at A." in figure.layout.meta["alt"]


def test_a_mark_carries_the_name_of_its_center_and_tells_everything():
    marks = draw_center_overview(hostile(LEDGER), title="t", sort_by="name").data[0]
    told = dict(marks.customdata)
    assert told[HOSTILE].split("<br>") == [
        *(SHOWN, "training images: 2", "rejected: 3 of 5 attempts", "images deferred: 1, eliminated: 1")
    ]


def test_only_the_cycles_asked_for_count():
    marks = draw_center_overview(LEDGER, title="t", cycles=(3, 4)).data[0]
    assert marks.x[list(marks.y).index("A")] == pytest.approx(200 / 3)  # 2 of 3
    assert set(marks.text) == {""}
    with pytest.raises(ValueError, match="no attempts in cycles 7 to 9; expected some of 3 to 5"):
        draw_center_overview(LEDGER, title="t", cycles=(7, 9))


def test_a_cohort_gives_training_images_and_class_mix():
    figure = draw_center_overview(LEDGER, title="t", cohort=COHORT)
    marks = list_marks(figure)
    both, one = marks["both classes"], marks["one class"]
    assert (list(both.y), list(both.marker.color)) == (["A"], [25.0])  # 1 of 4; the test subject does not count
    assert dict(zip(one.y, one.marker.color, strict=True)) == {"B": 100.0, "D": 0.0}
    assert both.marker.symbol != one.marker.symbol
    assert list(both.text) == ["1 of 4 eliminated"]
    sizes = dict(zip([*both.y, *one.y], [*both.marker.size, *one.marker.size], strict=True))
    assert sizes["A"] == pytest.approx(2 * sizes["B"])  # four images, one image: the area is theirs
    axis = figure.layout.coloraxis
    assert (axis.cmin, axis.cmax) == (0, 100)
    assert [color for _, color in axis.colorscale][::2] == [DIAGNOSIS_COLORS["control"], DIAGNOSIS_COLORS["diseased"]]
    assert list_entries(figure) == ["both classes (n = 1 centers)", "one class (n = 2 centers)"]
    assert "1 had no attempts. 2 have one class." in figure.layout.meta["alt"]


def test_a_center_without_attempts_has_no_mark_but_says_so():
    figure = draw_center_overview(LEDGER, title="t", cohort=COHORT)
    one, idle = list_marks(figure)["one class"], figure.data[-1]
    assert dict(zip(one.y, one.x, strict=True)) == {"B": 0.0, "D": None}
    assert idle.text == "no attempts" and dict(zip(idle.y, idle.x, strict=True)) == {"A": None, "B": None, "D": 0.0}


@pytest.mark.parametrize(
    ("sort_by", "order"),
    [
        ("name", ["A", "B", "D"]),
        ("images", ["A", "B", "D"]),
        ("share diseased", ["B", "A", "D"]),
        ("share rejected", ["A", "B", "D"]),
        ("eliminated", ["A", "B", "D"]),
    ],
)
def test_centers_are_sorted_largest_first_and_what_is_unknown_last(sort_by, order):
    figure = draw_center_overview(LEDGER, title="t", cohort=COHORT, sort_by=sort_by)
    assert list(figure.layout.yaxis.categoryarray) == order
    assert figure.layout.yaxis.range == (2.6, -0.6)  # from the top
    assert sort_by in figure.layout.yaxis.title.text


def test_equal_centers_are_sorted_by_name():
    rows = [{"center": name, "subjects": [name]} for name in ("c", "a", "b")]
    figure = draw_center_overview(make_ledger(*rows), title="t", sort_by="eliminated")
    assert list(figure.layout.yaxis.categoryarray) == ["a", "b", "c"]


def test_an_overview_refuses_what_it_cannot_sort_by_and_a_cohort_of_others():
    with pytest.raises(KeyError, match="sort_by is 'size'; expected one of"):
        draw_center_overview(LEDGER, title="t", sort_by="size")
    with pytest.raises(ValueError, match="expected a cohort"):
        draw_center_overview(LEDGER, title="t", sort_by="share diseased")
    with pytest.raises(ValueError, match=r"no training image of \['A'\]"):
        draw_center_overview(LEDGER, title="t", cohort=make_cohort(("b1", "B", 1, "train")))
    with pytest.raises(ValueError, match="no attempts"):
        draw_center_overview(LEDGER.iloc[:0], title="t")


def test_an_overview_of_one_center_and_of_many():
    assert list(draw_center_overview(LEDGER[LEDGER["center"] == "B"], title="t").data[0].y) == ["B"]
    many = make_ledger(*({"center": f"c{at:03d}", "subjects": [f"s{at}"]} for at in range(83)))
    assert len(draw_center_overview(many, title="t", controls=True).data[0].y) == 83


def test_controls_are_plain_and_do_not_touch_the_same_things():
    layout = draw_center_overview(LEDGER, title="t", cohort=COHORT, controls=True).layout
    menu, slider = layout.updatemenus[0], layout.sliders[0]
    assert (menu.name, slider.currentvalue.prefix) == ("sort by", "cycles up to ")
    assert [button.label for button in menu.buttons] == list(SORTS)
    assert menu.buttons[menu.active].label == "share rejected"
    assert [step.label for step in slider.steps] == ["3", "5"] and slider.active == 1
    assert {button.method for button in menu.buttons} == {"relayout"}
    assert {step.method for step in slider.steps} == {"restyle"}
    assert {key for button in menu.buttons for key in button.args[0]} == {"yaxis.categoryarray", "yaxis.title.text"}
    assert {key for step in slider.steps for key in step.args[0]} == {"x", "text", "textposition", "customdata"}
    assert json.loads(json.dumps([*(b.args for b in menu.buttons), *(s.args for s in slider.steps)]))


def test_the_dropdown_does_not_offer_classes_that_nobody_knows():
    menu = draw_center_overview(LEDGER, title="t", controls=True).layout.updatemenus[0]
    assert "share diseased" not in [button.label for button in menu.buttons]


def test_moving_the_slider_shows_what_a_figure_of_these_cycles_shows():
    moved = draw_center_overview(LEDGER, title="t", cohort=COHORT, controls=True)
    change, traces = moved.layout.sliders[0].steps[0].args
    assert len(traces) == 3
    for key, values in change.items():
        for trace, value in zip(traces, values, strict=False):
            moved.data[trace][key] = value
    for trace, other in zip(
        moved.data, draw_center_overview(LEDGER, title="t", cohort=COHORT, cycles=(3, 3)).data, strict=True
    ):
        for key in ("x", "text", "textposition", "customdata"):
            assert np.array_equal(trace[key], other[key]), (trace.legendgroup, key)


def test_choosing_an_order_shows_what_a_figure_in_that_order_shows():
    for button in draw_center_overview(LEDGER, title="t", cohort=COHORT, controls=True).layout.updatemenus[0].buttons:
        axis = draw_center_overview(LEDGER, title="t", cohort=COHORT, sort_by=button.label).layout.yaxis
        expected = {"yaxis.categoryarray": list(axis.categoryarray), "yaxis.title.text": axis.title.text}
        assert button.args[0] == expected


def test_a_browser_sorts_and_slides_in_any_order_and_a_click_leads_to_the_name(chromium_page, tmp_path):
    ledger = hostile(LEDGER).replace({"center": {"B": "!"}})
    figure = draw_center_overview(ledger, title="t", sort_by="name", controls=True)
    figure.write_html(tmp_path / "page.html", div_id="plot")
    page = chromium_page(tmp_path / "page.html")
    page.until("document.querySelectorAll('.slider-container').length === 1")
    menu, slider = figure.layout.updatemenus[0], figure.layout.sliders[0]
    sort = next(button for button in menu.buttons if button.label == "share rejected")
    before = page.evaluate("document.getElementById('plot')._fullLayout.yaxis._categories")
    for method, args in (("relayout", sort.args), ("restyle", slider.steps[0].args), ("relayout", sort.args)):
        page.evaluate("([method, args]) => Plotly[method]('plot', ...args)", [method, list(args)])
    shown = page.evaluate(
        "(({data, _fullLayout}) => [data[0].x, data[0].customdata, _fullLayout.yaxis._categories])"
        "(document.getElementById('plot'))"
    )
    assert (before, shown[2]) == (["!", SHOWN], [SHOWN, "!"])
    assert dict(zip([name for name, _ in shown[1]], shown[0], strict=True)) == {
        HOSTILE: pytest.approx(200 / 3, abs=1e-5),
        "!": 0,
    }
    assert not page.seen.errors and not page.seen.dialogs


# One center


def get_panel(figure, row, name):
    """Return the trace of a panel whose legend entry begins like this."""
    axis = "y" if row == 1 else f"y{row}"
    found = [t for t in figure.data if (t.yaxis or "y") == axis and t.name and t.name.startswith(name)]
    assert len(found) == 1, [(trace.yaxis, trace.name) for trace in figure.data]
    return found[0]


def test_the_subjects_of_a_center_are_rows_with_a_mark_for_every_attempt():
    figure = draw_center_timeline(LEDGER, "A", title="t")
    assert list(figure.layout.yaxis.categoryarray) == ["a1", "a2"]
    seen = {
        name: list(zip(get_panel(figure, 1, name).x, get_panel(figure, 1, name).y, strict=True))
        for name in DECISION_COLORS
    }
    assert seen == {
        "accepted": [(2, "a1"), (4, "a1")],
        "split": [(1, "a1"), (1, "a2")],
        "deferred": [(3, "a2")],
        "eliminated": [(5, "a2")],
    }
    assert get_panel(figure, 1, "split").name == "split (n = 1)"  # one attempt with two subjects
    for name, color in DECISION_COLORS.items():
        marker = get_panel(figure, 1, name).marker
        assert (marker.color, marker.symbol) == (color, DECISION_SYMBOLS[name])
    assert list(figure.layout.xaxis4.ticktext) == ["3", "5", "closing"]


def test_batches_are_small_and_single_images_and_revisits_large():
    figure = draw_center_timeline(LEDGER, "A", title="t")
    small = set(get_panel(figure, 1, "split").marker.size)
    large = set(get_panel(figure, 1, "deferred").marker.size) | set(get_panel(figure, 1, "eliminated").marker.size)
    assert len(small) == len(large) == 1 and max(small) < min(large)
    assert list(get_panel(figure, 1, "accepted").marker.size) == [*large, *small]


def test_a_mark_of_a_subject_carries_its_name_first():
    figure = draw_center_timeline(hostile(LEDGER), HOSTILE, title="t")
    split = get_panel(figure, 1, "split")
    assert [names[0] for names in split.customdata] == ["a1", HOSTILE]
    assert split.customdata[0][1] == f"cycle 3, batch at {SHOWN}, 2 images<br>a1, {SHOWN}"
    assert split.customdata[1][1] == f"cycle 3, batch at {SHOWN}, 2 images<br>{SHOWN}, a1"
    assert split.hovertemplate.startswith("%{customdata[1]}")


def test_pointing_at_a_subject_of_a_large_batch_names_it():
    table = make_ledger({"subjects": [f"a{at}" for at in range(9)]})
    accepted = get_panel(draw_center_timeline(table, "A", title="t"), 1, "accepted")
    assert [text.split("<br>")[1] for name, text in accepted.customdata if name == "a8"] == [
        "a8, a0, a1, a2, a3, a4, and 3 more"
    ]


def test_update_norms_stand_with_the_limit_of_each_attempt():
    figure = draw_center_timeline(LEDGER, "A", title="t")
    assert figure.layout.yaxis2.type == "log"
    assert list(get_panel(figure, 2, "accepted").y) == [300, 850]
    limits = get_panel(figure, 2, "limit")
    assert list(limits.x) == [1, 2, 3, 4, 5]
    assert list(limits.y) == [900, 900, 800, 800, 800]  # attempt 2 passed and recorded none: the larger one holds
    assert "Update norms 300 to 7e+03, 4 above the limit." in figure.layout.meta["alt"]


def test_rates_of_a_center_are_those_before_and_after_its_verified_attempts():
    figure = draw_center_timeline(LEDGER, "A", title="t")
    assert list(get_panel(figure, 3, "before").y) == [0.2] * 4 and list(get_panel(figure, 4, "before").y) == [0.4] * 4
    assert list(get_panel(figure, 3, "split").y) == [0.4] and list(get_panel(figure, 3, "eliminated").y) == [0.3]
    assert list(get_panel(figure, 3, "deferred").x) == [3]
    published = draw_center_timeline(LEDGER, "A", title="t", denominators="published")
    assert list(get_panel(published, 3, "split").y) == [0.8]  # 4 of 5 diseased
    assert "verified: 4 of 5 attempts" in figure.layout.annotations[0].text


def test_the_band_is_what_was_tolerated_and_missing_where_nothing_was():
    tolerant = LEDGER.assign(tolerance=LEDGER["tolerance"] + 0.02)
    band = get_panel(draw_center_timeline(tolerant, "A", title="t"), 3, "tolerated")
    assert (list(band.base), list(band.y)) == ([0.2] * 4, [0.02] * 4)
    assert not [t for t in draw_center_timeline(LEDGER, "A", title="t").data if t.name.startswith("tolerated")]


def test_panels_without_data_are_left_out_and_the_figure_says_why():
    calm = draw_center_timeline(LEDGER, "B", title="t")
    assert len(list(calm.select_yaxes())) == 2
    assert "not verified: no update was suspicious" in calm.layout.annotations[0].text
    assert "not verified: no update was suspicious" in calm.layout.meta["alt"]
    plain = draw_center_timeline(make_ledger({}), "A", title="t")
    assert len(list(plain.select_yaxes())) == 1
    assert plain.layout.annotations[0].text.split("<br>") == [
        *("all are batches", "update norms were not measured", "not verified: nothing was in this run")
    ]


@pytest.mark.parametrize("norm", [np.inf, np.nan])
def test_update_norms_that_were_lost_when_the_training_diverged_are_not_called_unmeasured(norm):
    gone = LEDGER.assign(update_norm=norm)  # the limits they were held against are still there
    notes = draw_center_timeline(gone, "A", title="t").layout.annotations[0].text.replace("<br>", " ")
    assert "5 of 5 update norms infinite or NaN: the training diverged" in notes
    assert "not measured" not in notes
    with pytest.raises(ValueError, match="positive update norm that is finite: 7 of 7 update norms infinite or NaN"):
        draw_update_norms(gone, title="t")


def test_norms_that_are_lost_in_part_are_counted_beside_those_that_are_drawn():
    lost = LEDGER.assign(update_norm=LEDGER["update_norm"].replace({300.0: np.nan, 850.0: np.inf, 90.0: 0.0}))
    figure = draw_center_timeline(lost, "A", title="t")
    assert "2 of 5 update norms infinite or NaN: the training diverged" in figure.layout.meta["alt"]
    assert "y2" in {trace.yaxis for trace in figure.data}
    assert "1 of 2 update norms are 0" in draw_center_timeline(lost, "B", title="t").layout.meta["alt"]
    alt = draw_update_norms(lost, title="t").layout.meta["alt"]
    assert "2 of 7 update norms infinite or NaN: the training diverged; 1 of 7 update norms are 0." in alt


def test_norms_that_nobody_measured_are_called_so():
    with pytest.raises(ValueError, match="finite: update norms were not measured"):
        draw_update_norms(make_ledger({}), title="t")


def test_a_rate_that_is_never_defined_has_no_panel():
    figure = draw_center_timeline(make_ledger(verify(1, 0, n_pos=0, before=(1, 0))), "A", title="t")
    assert [axis.title.text for axis in figure.select_yaxes()] == ["subject", "false-positive<br>rate"]


def test_every_entry_of_the_timelines_legend_is_there_once():
    entries = list_entries(draw_center_timeline(LEDGER, "A", title="t"))
    assert len(entries) == len(set(entries)) == 6  # four decisions, the limit, the rates before


def test_a_timeline_needs_a_center_that_has_attempts():
    with pytest.raises(KeyError, match=r"no attempt at a center 'C'; expected one of \['A', 'B'\]"):
        draw_center_timeline(LEDGER, "C", title="t")
    with pytest.raises(KeyError, match="denominators is 'other'"):
        draw_center_timeline(LEDGER, "A", title="t", denominators="other")


# Names that are too long


CENTERS = {
    "A": "university-hospital-north-campus" + "-and-more" * 4,
    "B": "university-hospital-south-campus" + "-and-more" * 4,
}


def test_long_names_lose_their_middle_and_are_never_alike():
    assert shorten_names(["A" * 18, "B" * 19, ""]) == {"A" * 18: "A" * 18, "B" * 19: "BBBBBBBBB…BBBBBBBB", "": ""}
    north, south = shorten_names(CENTERS.values()).values()
    assert "nort" in north and "sout" in south and max(len(north), len(south)) <= 18


@pytest.mark.parametrize(
    "names",
    [
        [f"the-university-hospital-of-the-city-number-{at:02d}-department-of-radiology" for at in range(83)],
        ["x" * n for n in range(15, 45)],
        [f"{'a' * 20}{first}{'-' * 20}{second}{'z' * 20}" for first in "12" for second in "12"],
        ["xxxxxxxxx…xxxxxxxx", "x" * 40],
        [f"<img src=x onerror=alert({at})>" + "." * 30 for at in range(3)],
    ],
)
def test_no_two_labels_are_alike_and_none_is_too_long(names):
    labels = shorten_names(names)
    assert list(labels) == names
    assert len(set(labels.values())) == len(names)
    assert max(map(len, labels.values())) <= 18
    assert all(labels[name] == name for name in names if len(name) <= 18)


def test_a_text_for_pointing_at_is_broken_into_lines_and_loses_nothing():
    name = "<b>" + "x" * 70
    assert fold(name).replace("<br>", "") == "&lt;b&gt;" + "x" * 70
    assert [len(line) for line in fold("y" * 70).split("<br>")] == [56, 14]


@pytest.mark.parametrize("draw", [draw_center_overview, draw_decisions])
def test_labels_of_long_centers_are_short_and_pointing_at_them_tells_all(draw):
    figure = draw(LEDGER.assign(center=LEDGER["center"].replace(CENTERS)), title="t")
    axis = figure.layout.yaxis
    assert set(axis.tickvals) == set(axis.categoryarray) == set(CENTERS.values())
    assert max(map(len, axis.ticktext)) <= 18
    shown = dict(zip(axis.tickvals, axis.ticktext, strict=True))
    assert ["nort" in shown[CENTERS["A"]], "sout" in shown[CENTERS["B"]]] == [True, True]
    marks = [trace for trace in list_marks(figure).values() if trace.customdata is not None]
    told = "".join(point[-1] for trace in marks for point in trace.customdata).replace("<br>", "")
    assert all(name in told for name in CENTERS.values())


@pytest.mark.parametrize("draw", ["overview", "timeline"])
def test_long_names_leave_room_for_the_plot_on_a_narrow_screen(draw, chromium_page, tmp_path):
    subjects = [[f"sub-{'0123456789' * 6}-{name}" for name in names] for names in LEDGER["subjects"]]
    ledger = LEDGER.assign(center=LEDGER["center"].replace(CENTERS), subjects=subjects)
    drawings = {"overview": draw_center_overview, "timeline": partial(draw_center_timeline, center=CENTERS["A"])}
    drawings[draw](ledger, title="t").write_html(tmp_path / "page.html", div_id="plot")
    page = chromium_page(tmp_path / "page.html", width=400)
    page.until("document.querySelectorAll('#plot .main-svg').length > 0")
    assert page.evaluate("document.getElementById('plot')._fullLayout._size.w") > 150


# Why decisions fell


def read_path(shape):
    """Return the corners of a shape."""
    return [tuple(map(float, pair.split(","))) for pair in shape.path.strip("M Z").split(" L")]


PUBLISHED = make_ledger(
    *[verify(2, 2) | {"tolerance": 0.02}] * 3,
    {"subjects": ["a1", "a2"], "decision": "split", "tolerance": 0.04} | verify(3, 1),
    {"subjects": ["a1"], "level": "single", "decision": "deferred", "tolerance": 0.02} | verify(3, 1),
    {"subjects": ["a2", "a3"], "decision": "split", "tolerance": 0.04} | verify(3, 1),
    {"subjects": ["a4"], "tolerance": 0.02} | verify(1, 2, n_pos=0, before=(1, 0)) | {"fn": 0},
    {"subjects": ["a5"]},
)


def test_attempts_stand_where_they_moved_the_rates_merged_by_point_and_decision():
    figure = draw_verification_surface(PUBLISHED, title="t")
    marks = list_marks(figure)
    assert set(marks) == {"accepted", "split", "deferred"}
    accepted, split, deferred = (marks[name] for name in ("accepted", "split", "deferred"))
    assert (list(accepted.x), list(accepted.y)) == ([0.0], [0.0])
    assert (list(split.x), list(split.y)) == ([0.1], [-0.2]) == (list(deferred.x), list(deferred.y))
    assert list(accepted.customdata[0]) == ["3 attempts", "3 with 1 image"]
    assert list(split.customdata[0]) == ["2 attempts", "2 with 2 images"]
    assert accepted.marker.standoff[0] == 0 and split.marker.standoff[0] > 0  # it shares its point with the deferred


def test_the_area_of_a_mark_grows_with_its_attempts():
    rows = [verify(2, 2)] * 40 + [verify(3, 2)] * 10
    sizes = list_marks(draw_verification_surface(make_ledger(*rows), title="t"))["accepted"].marker.size
    assert sizes[0] == pytest.approx(2 * sizes[1])


def test_who_has_no_place_is_counted_in_the_legend():
    entries = list_entries(draw_verification_surface(PUBLISHED, title="t"))
    assert entries == [
        *("accepted (n = 3)", "split (n = 2)", "deferred (n = 1)"),
        *("not verified, not shown (n = 1)", "verified, a rate is undefined, not shown (n = 1)"),
    ]


def test_the_published_rule_tolerates_a_rectangle_for_every_number_of_images():
    figure = draw_verification_surface(PUBLISHED, title="t")
    assert [read_path(shape)[1] for shape in figure.layout.shapes] == [(0.02, 0.02), (0.04, 0.04)]
    labels = [note.text for note in figure.layout.annotations]
    assert labels == ["tolerated for 1 image", "tolerated for 2 images"]
    low, high = figure.layout.xaxis.range
    assert low < 0 and high > 0.1 and read_path(figure.layout.shapes[0])[0][0] == pytest.approx(low)
    assert "tolerated for 2 images: up to 0.04" in figure.layout.meta["alt"]


def test_a_tolerance_of_zero_under_the_published_rule_is_the_quadrant_without_a_rise():
    figure = draw_verification_surface(make_ledger(verify(3, 2) | {"tolerance": 0.0}), title="t")
    assert [read_path(shape)[1] for shape in figure.layout.shapes] == [(0, 0)]
    assert figure.layout.annotations[0].text == "tolerated for 1 image"


@pytest.mark.parametrize(("acquittal", "corners"), [(1, [(-0.1, 0), (0, -0.2)]), (5, [(-0.5, 0), (0, -1)])])
def test_the_calibrated_rule_acquits_where_enough_subjects_change_to_the_right_side(acquittal, corners):
    figure = draw_verification_surface(LEDGER, title="t", acquittal=acquittal)  # of 10 controls and 5 diseased
    (shape,) = figure.layout.shapes
    assert read_path(shape)[1:3] == corners
    low, bottom = figure.layout.xaxis.range[0], figure.layout.yaxis.range[0]
    assert low < corners[0][0] and bottom < corners[1][1]
    assert read_path(shape)[0] == pytest.approx((low, 0)) and read_path(shape)[3] == pytest.approx((0, bottom))
    assert figure.layout.annotations[0].text.startswith(
        f"acquitted: no rate rises, and {acquittal} or<br>more subjects"
    )
    alt = figure.layout.meta["alt"]
    assert "1 accepted: 0 raised a rate, 0 changed neither, 1 lowered one and raised none" in alt
    assert "3 not verified" in alt


def test_a_rule_that_tolerates_anything_has_no_region():
    assert not draw_verification_surface(make_ledger(verify(3, 3)), title="t").layout.shapes


def test_changes_follow_the_denominators_of_the_rule():
    marks = list_marks(draw_verification_surface(PUBLISHED, title="t", denominators="published"))
    assert (marks["split"].x[0], marks["split"].y[0]) == (0.2, -0.1)
    with pytest.raises(KeyError, match="denominators is 'other'"):
        draw_verification_surface(PUBLISHED, title="t", denominators="other")


def test_a_surface_needs_an_attempt_whose_two_rates_are_defined():
    for rows in (make_ledger({}), make_ledger(verify(1, 0, n_pos=0, before=(1, 0)))):
        with pytest.raises(ValueError, match="no attempt was verified with two defined rates"):
            draw_verification_surface(rows, title="t")
