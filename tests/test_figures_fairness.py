"""Subgroups as figures: dots with intervals, notes in place of what is not defined, gaps beside what chance gives."""

import re
from functools import partial

import numpy as np
import pandas as pd
import pytest

from dqc_lib.figures.fairness import draw_elimination, draw_forest, draw_gaps
from dqc_lib.figures.style import ARM_COLORS

HOSTILE = '<img src=x onerror="alert(1)"> %{y}'
NAN = float("nan")


def make_groups(*rows, arm=None):
    """Return a table of groups from (subgroup, group, n, n_positive, value, low, high, note), metric sensitivity."""
    table = pd.DataFrame(rows, columns=["subgroup", "group", "n", "n_positive", "value", "low", "high", "note"])
    table = table.assign(n_negative=table["n"] - table["n_positive"], metric="sensitivity")
    return table if arm is None else table.assign(arm=arm)


ROWS = (
    ("overall", "all", 30, 14, 0.8, 0.6, 0.9, ""),
    ("sex", "F", 16, 5, 0.6, 0.4, 0.8, ""),
    ("sex", "M", 14, 9, 1.0, NAN, NAN, "no interval: all resamples agree"),
    ("age band", "<55", 3, 1, NAN, NAN, NAN, "3 subjects, fewer than 10"),
)
GROUPS = make_groups(*ROWS)
ARMS = pd.concat([make_groups(*ROWS, arm="qc"), make_groups(*ROWS, arm="dirty")])


def make_gaps(gaps, *, arm=None, subgroup="sex", start=0, metric="auroc"):
    """Return a table of gaps, their intervals 0.1 to both sides, 0.15 by chance."""
    table = pd.DataFrame({"gap": gaps, "cycle": np.arange(start, start + len(gaps))})
    table = table.assign(low=table["gap"] - 0.1, high=table["gap"] + 0.1, by_chance=0.15, n_groups=2)
    table = table.assign(subgroup=subgroup, metric=metric)
    return table if arm is None else table.assign(arm=arm)


GAPS = pd.concat([make_gaps([0.3, 0.4, 0.2], arm="qc"), make_gaps([0.3, 0.4, 0.5], arm="dirty")])

ELIMINATION = pd.DataFrame(
    [
        *(("all", "sex", "F", 20, 3, 0.15, 0.05, 0.36), ("all", "sex", "M", 10, 0, 0.0, 0.0, 0.28)),
        *(("good", "sex", "F", 18, 1, 0.06, 0.01, 0.26), ("good", "sex", "M", 10, 0, 0.0, 0.0, 0.28)),
        *(("harmful", "sex", "F", 2, 2, 1.0, 0.34, 1.0), ("harmful", "sex", "M", 0, 0, NAN, NAN, NAN)),
        ("all", "center", "A", 30, 3, 0.1, 0.03, 0.26),
    ],
    columns=["images", "subgroup", "group", "n", "eliminated", "share", "low", "high"],
)

DRAWINGS = {
    "forest": lambda title: draw_forest(
        ARMS.replace({"arm": {"dirty": HOSTILE}, "subgroup": {"sex": HOSTILE}, "group": {"F": HOSTILE}}),
        metric="sensitivity",
        title=title,
    ),
    "gaps": lambda title: draw_gaps(
        GAPS.replace({"arm": {"dirty": HOSTILE}, "subgroup": {"sex": HOSTILE}}), metric="auroc", title=title
    ),
    "elimination": lambda title: draw_elimination(
        ELIMINATION.replace({"subgroup": {"sex": HOSTILE}, "group": {"F": HOSTILE}}), title=title
    ),
}
every_figure = pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)


def list_dots(figure):
    """Return the traces of dots or lines by their names."""
    return {trace.name: trace for trace in figure.data if trace.name and trace.x is not None and trace.x[0] is not None}


def list_written(figure):
    """Return what is written in the plot, by height."""
    return {
        y: text for trace in figure.data if trace.mode == "text" for y, text in zip(trace.y, trace.text, strict=True)
    }


# What holds for all


@every_figure
def test_title_and_alternative_text_are_there_and_names_are_text(draw, list_texts):
    figure = draw(f"Title {HOSTILE}")
    assert figure.layout.meta["alt"].startswith(f"Title {HOSTILE}. ")
    texts = list_texts(figure)
    assert not [text for text in texts if re.search(r"<(?!/?extra>|br>)", text)]
    assert any("&lt;img" in text for text in texts)
    assert not [trace for trace in figure.data if "img" in (trace.hovertemplate or "")]


@every_figure
def test_axes_have_titles(draw):
    figure = draw("t")
    assert all(axis.title.text for axis in [*figure.select_xaxes(), *figure.select_yaxes()] if not axis.matches)


# Forest


def test_every_group_has_a_dot_with_its_interval_and_the_n_its_metric_rests_on():
    figure = draw_forest(GROUPS, metric="sensitivity", title="t")
    dots = list_dots(figure)["model (n = 14 patients)"]
    assert list(dots.x[:3]) == [0.8, 0.6, 1.0] and np.isnan(dots.x[3])
    assert dots.error_x.array[:2] == pytest.approx([0.1, 0.2])
    assert dots.error_x.arrayminus[:2] == pytest.approx([0.2, 0.2])
    assert np.isnan(dots.error_x.array[2])
    labels = dict(zip(figure.layout.yaxis.tickvals, figure.layout.yaxis.ticktext, strict=True))
    assert [labels[y] for y in dots.y] == ["all (n = 14)", "F (n = 5)", "M (n = 9)", "&lt;55 (n = 1)"]
    assert sorted(labels) == list(labels)  # from the top, where the axis begins
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1] == 0
    assert figure.layout.yaxis.title.text == "group (n = patients)"


@pytest.mark.parametrize(("metric", "n", "counted"), [("specificity", 11, "controls"), ("auroc", 16, "subjects")])
def test_the_n_is_that_of_the_metric(metric, n, counted):
    figure = draw_forest(GROUPS.assign(metric=metric), metric=metric, title="t")
    assert f"F (n = {n})" in figure.layout.yaxis.ticktext
    assert figure.layout.yaxis.title.text == f"group (n = {counted})"


def test_a_group_without_a_value_has_its_note_and_no_dot_at_zero():
    figure = draw_forest(GROUPS, metric="sensitivity", title="t")
    dots = list_dots(figure)["model (n = 14 patients)"]
    assert list_written(figure) == {dots.y[3]: "3 subjects, fewer than 10"}
    assert 0 not in list(dots.x)
    assert "age band <55 (n = 1): 3 subjects, fewer than 10." in figure.layout.meta["alt"]


def test_a_value_without_an_interval_is_told_with_its_note():
    dots = list_dots(draw_forest(GROUPS, metric="sensitivity", title="t"))["model (n = 14 patients)"]
    assert dots.customdata[2] == "M: sensitivity 1.00<br>9 patients<br>no interval: all resamples agree"
    assert dots.customdata[1] == "F: sensitivity 0.60 (0.40 to 0.80)<br>5 patients"


def test_subgroups_are_headed_and_the_value_of_all_subjects_is_a_line():
    figure = draw_forest(GROUPS, metric="sensitivity", title="t")
    assert [note.text for note in figure.layout.annotations] == ["sex", "age band"]
    lines = [(shape.x0, shape.x1) for shape in figure.layout.shapes if shape.x0 == shape.x1]
    assert lines == [(0.8, 0.8)]
    assert "line: all subjects" in figure.layout.xaxis.title.text
    without = draw_forest(GROUPS.iloc[1:], metric="sensitivity", title="t")
    assert not [shape for shape in without.layout.shapes if shape.x0 == shape.x1]
    assert list_dots(without)["model (n = 14 patients)"]  # those of one subgroup, not of all added up


def test_arms_stand_side_by_side_in_their_colours_and_share_a_note():
    figure = draw_forest(ARMS, metric="sensitivity", title="t")
    qc, dirty = list_dots(figure)["qc (n = 14 patients)"], list_dots(figure)["dirty (n = 14 patients)"]
    assert (qc.marker.color, dirty.marker.color) == (ARM_COLORS["qc"], ARM_COLORS["dirty"])
    middles = np.array(figure.layout.yaxis.tickvals)
    assert (qc.y + dirty.y) / 2 == pytest.approx(middles) and (dirty.y > qc.y).all()
    assert list_written(figure) == {middles[3]: "3 subjects, fewer than 10"}


def test_an_arm_that_alone_has_no_value_has_a_note_of_its_own():
    alone = ARMS.assign(value=ARMS["value"].where((ARMS["arm"] == "qc") | (ARMS["group"] != "F")))
    figure = draw_forest(alone, metric="sensitivity", title="t")
    dirty = list_dots(figure)["dirty (n = 14 patients)"]
    assert list_written(figure)[dirty.y[1]] == "dirty: not defined"


def test_a_forest_refuses_other_metrics_and_several_cycles():
    with pytest.raises(KeyError, match=r"metric is 'bleu'; expected one of \['sensitivity'\]"):
        draw_forest(GROUPS, metric="bleu", title="t")
    with pytest.raises(ValueError, match=r"the table has cycles \[1, 2\]; expected the rows of one cycle"):
        draw_forest(GROUPS.assign(cycle=[1, 1, 2, 2]), metric="sensitivity", title="t")
    assert draw_forest(GROUPS.assign(cycle=7), metric="sensitivity", title="t").data


CAMPUSES = {"F": "university-hospital-north-campus", "M": "university-hospital-south-campus"}


@pytest.mark.parametrize(
    "draw", [partial(draw_forest, GROUPS, metric="sensitivity"), partial(draw_elimination, ELIMINATION)]
)
def test_long_names_of_groups_lose_their_middle_and_stay_apart(draw):
    (table,) = draw.args
    figure = draw.func(table.replace({"group": CAMPUSES}), **draw.keywords, title="t")
    labels = [label.split(" (n")[0] for label in figure.layout.yaxis.ticktext]
    cut = [label for label in labels if label.startswith("univ") and label.endswith("campus")]
    assert len(cut) == len(set(cut)) == 2
    assert ["nort" in cut[0], "sout" in cut[1]] == [True, True]
    told = [text for trace in figure.data if trace.customdata is not None for text in trace.customdata]
    assert all(any(text.startswith(name) for text in told) for name in CAMPUSES.values())


# Gaps


def test_gaps_are_lines_by_arm_with_a_band_and_what_chance_gives():
    figure = draw_gaps(GAPS, metric="auroc", title="t")
    qc = list_dots(figure)["qc"]
    assert (list(qc.x), list(qc.y), qc.line.color) == ([0, 1, 2], [0.3, 0.4, 0.2], ARM_COLORS["qc"])
    band = next(trace for trace in figure.data if trace.fill == "toself")
    assert band.x == (0, 1, 2, 2, 1, 0, None)
    assert list(band.y)[:-1] == pytest.approx([0.4, 0.5, 0.3, 0.1, 0.3, 0.2])
    chance = [trace for trace in figure.data if trace.line.dash == "dot" and trace.x[0] is not None]
    assert [(list(trace.y), trace.line.color) for trace in chance] == [
        *(([0.15] * 3, ARM_COLORS["qc"]), ([0.15] * 3, ARM_COLORS["dirty"]))
    ]
    assert [t.name for t in figure.data if t.showlegend is not False] == ["qc", "dirty", "by chance alone"]
    assert figure.layout.annotations[0].text == "sex (n = 2 groups)"
    assert "sex, dirty: 0.50 (0.40 to 0.60) in cycle 2 between 2 groups, 0.15 by chance" in figure.layout.meta["alt"]
    assert qc.customdata[0] == "cycle 0: gap 0.30 (0.20 to 0.40)<br>between 2 groups, by chance 0.15"


def test_intervals_of_gaps_that_reach_below_zero_are_inside_the_axis_and_told():
    figure = draw_gaps(make_gaps([0.05, 0.1]).assign(low=[-0.25, -0.001]), metric="auroc", title="t")
    low, high = figure.layout.yaxis.range
    assert -0.35 < low < -0.25 and 0.2 <= high < 0.3
    assert figure.layout.yaxis.zeroline
    told = list_dots(figure)["model"].customdata
    assert told[0].startswith("cycle 0: gap 0.05 (-0.25 to 0.15)")
    assert told[1].startswith("cycle 1: gap 0.10 (0.00 to 0.20)")  # not -0.00
    alone = draw_gaps(make_gaps([0.05]).assign(low=NAN, high=NAN), metric="auroc", title="t")
    assert list_dots(alone)["model"].customdata[0].startswith("cycle 0: gap 0.05<br>")
    widest = draw_gaps(make_gaps([1.0]).assign(low=-1.0, high=1.0), metric="auroc", title="t").layout.yaxis.range
    assert widest == (-1.02, 1.02)


def test_an_undefined_gap_is_a_hole_in_line_and_band():
    figure = draw_gaps(make_gaps([0.3, NAN, 0.2, 0.2]), metric="auroc", title="t")
    assert np.isnan(list_dots(figure)["model"].y[1]) and not list_dots(figure)["model"].connectgaps
    band = next(trace for trace in figure.data if trace.fill == "toself")
    assert band.x == (0, 0, None, 2, 3, 3, 2, None)


def test_a_subgroup_without_any_gap_says_so():
    figure = draw_gaps(pd.concat([make_gaps([0.1]), make_gaps([NAN], subgroup="age band")]), metric="auroc", title="t")
    notes = [(note.text, note.yref) for note in figure.layout.annotations if "no gap" in note.text]
    assert notes == [("no gap: fewer than two<br>groups are large enough", "y2 domain")]
    assert "age band, model: no gap is defined" in figure.layout.meta["alt"]


def test_subgroups_are_panels_or_the_one_asked_for():
    table = pd.concat([make_gaps([0.1, 0.2], subgroup=name) for name in ("sex", "age band", "scanner")])
    assert len(list(draw_gaps(table, metric="auroc", title="t").select_yaxes())) == 3
    one = draw_gaps(table, metric="auroc", title="t", subgroup="scanner")
    assert [note.text for note in one.layout.annotations] == ["scanner (n = 2 groups)"]
    assert [trace.name for trace in one.data if trace.mode == "lines+markers"] == ["model"]


def test_pretraining_is_drawn_once_in_grey_and_shaded():
    figure = draw_gaps(GAPS, metric="auroc", title="t", control_start=2)
    shared, dirty = list_dots(figure)["pre-training"], list_dots(figure)["dirty"]
    assert (list(shared.x), list(shared.y), shared.line.color) == ([0, 1], [0.3, 0.4], ARM_COLORS["pretraining"])
    assert (list(dirty.x), list(dirty.y)) == ([1, 2], [0.4, 0.5])  # it starts where the pre-training ended
    shade = next(shape for shape in figure.layout.shapes if shape.type == "rect")
    assert (shade.x0, shade.x1) == (-0.5, 1.5)
    late = draw_gaps(make_gaps([0.1, 0.2], arm="qc", start=5), metric="auroc", title="t", control_start=5)
    assert not late.layout.shapes and "pre-training" not in list_dots(late)


def test_numbers_of_groups_that_change_are_a_range():
    table = make_gaps([0.1, 0.2]).assign(n_groups=[2, 4])
    assert draw_gaps(table, metric="auroc", title="t").layout.annotations[0].text == "sex (n = 2 to 4 groups)"


def test_gaps_refuse_what_is_not_there_and_too_many_panels():
    with pytest.raises(KeyError, match=r"metric is 'bleu'; expected one of \['auroc'\]"):
        draw_gaps(GAPS, metric="bleu", title="t")
    with pytest.raises(KeyError, match=r"subgroup is 'age'; expected one of \['sex'\]"):
        draw_gaps(GAPS, metric="auroc", title="t", subgroup="age")
    five = pd.concat([make_gaps([0.1], subgroup=f"s{at}") for at in range(5)])
    with pytest.raises(ValueError, match="expected at most 4"):
        draw_gaps(five, metric="auroc", title="t")


# Elimination


def test_elimination_is_a_share_in_percent_with_its_interval_by_kind_of_image():
    figure = draw_elimination(ELIMINATION, title="t", subgroups=["sex"])
    dots = list_dots(figure)
    assert list(dots) == ["harmful images (n = 2)", "good images (n = 28)", "all images (n = 30)"]
    everyone, harmful = dots["all images (n = 30)"], dots["harmful images (n = 2)"]
    assert list(everyone.x) == pytest.approx([15, 0])
    assert list(everyone.error_x.array) == pytest.approx([21, 28])
    assert list(everyone.error_x.arrayminus) == pytest.approx([10, 0])
    assert len({trace.marker.color for trace in dots.values()}) == 3
    assert len({trace.marker.symbol for trace in dots.values()}) == 3
    assert harmful.marker.color == ARM_COLORS["dirty"]
    assert everyone.customdata[0] == "F, all: 3 of 20 eliminated<br>15 % (5 to 36 %)"


def test_how_many_of_how_many_stands_beside_and_no_images_are_no_share():
    figure = draw_elimination(ELIMINATION, title="t", subgroups=["sex"])
    harmful = list_dots(figure)["harmful images (n = 2)"]
    written = list_written(figure)
    assert [written[y] for y in harmful.y] == ["2 of 2", "no images"]
    assert np.isnan(harmful.x[1])
    assert sorted(written.values()) == sorted(["2 of 2", "no images", "1 of 18", "0 of 10", "3 of 20", "0 of 10"])
    assert "sex M: 0 of 10 all, 0 of 10 good, 0 of 0 harmful" in figure.layout.meta["alt"]


def test_groups_are_headed_by_subgroup_in_the_order_asked_for():
    figure = draw_elimination(ELIMINATION, title="t", subgroups=["center", "sex"])
    assert [note.text for note in figure.layout.annotations] == ["center", "sex"]
    assert list(figure.layout.yaxis.ticktext) == ["A", "F", "M"]
    assert list(draw_elimination(ELIMINATION, title="t").layout.yaxis.ticktext) == ["F", "M", "A"]


def test_elimination_without_known_truth_has_one_kind_of_images():
    figure = draw_elimination(ELIMINATION[ELIMINATION["images"] == "all"], title="t")
    assert list(list_dots(figure)) == ["all images (n = 30)"]


def test_elimination_refuses_subgroups_that_are_not_there():
    with pytest.raises(KeyError, match=r"no subgroup \['age'\]; expected some of \['sex', 'center'\]"):
        draw_elimination(ELIMINATION, title="t", subgroups=["sex", "age"])
    with pytest.raises(ValueError, match="no subgroup to draw"):
        draw_elimination(ELIMINATION, title="t", subgroups=[])
