"""Rules and studies as figures: ROC curves, evidence, power, shares over seeds, detectors."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from dqc_lib.evaluation import StepEffect, tabulate_alarms
from dqc_lib.figures.rules import draw_alarms, draw_evidence, draw_roc
from dqc_lib.figures.studies import draw_detectors, draw_study
from dqc_lib.figures.style import ARM_COLORS

HOSTILE = '<img src=x onerror="alert(1)"> %{y}'
NAN = float("nan")
SCORES = pd.DataFrame(
    {"norm": [1.0, 2.0, 3.0, 4.0], "loss": [4.0, 1.0, 2.0, 2.0], "known to few": [NAN, 1.0, 0.5, NAN]},
    index=["a", "b", "c", "d"],
)
HARMFUL = {"c", "d"}


def make_evidence(combine=None):
    """Two good images, one of them never suspicious, and a harmful one."""
    looks = {"a": [0.0, 0.0, 0.0], "b": [0.0, 5.0, 5.0], "c": [5.0, 10.0, 40.0]}
    rows = [(name, at, value) for name, values in looks.items() for at, value in enumerate(values, start=1)]
    table = pd.DataFrame(rows, columns=["subject", "look", "e_value"]).assign(
        harmful=lambda rows: rows["subject"] == "c"
    )
    return table if combine is None else table.assign(combine=combine)


ALARMS = tabulate_alarms([0, 10, 100], tolerances=[0.02, 0.1], harmless=StepEffect(0.01, 0.01), harmful=StepEffect(0.1))


def make_summary(*rows, **more):
    table = pd.DataFrame(rows, columns=["kind", "rule", "group", "n", "eliminated", "low", "high"])
    return table.assign(share=table["eliminated"] / table["n"], seeds=10, **more)


SUMMARY = make_summary(
    ("inversion", "published 0.02", "good", 200, 60, 0.2, 0.4),
    ("inversion", "calibrated", "good", 200, 1, 0.0, 0.01),
    ("inversion", "calibrated", "center", 50, 49, 0.94, 1.0),
    ("noise only", "calibrated", "new scanner", 20, 0, 0.0, 0.0),
    ("noise only", "calibrated", "center", 40, 20, NAN, NAN),
)
DETECTORS = pd.DataFrame(
    [
        ("inversion", "loss", "center", 0.6, 0.5, 0.7, 10),
        *(("inversion", "norm", "center", 1.0, 1.0, 1.0, 10), ("inversion", "norm", "single", 0.9, NAN, NAN, 1)),
        *(("flip", "norm", "center", NAN, NAN, NAN, 0), ("flip", "loss", "single", 0.8, 0.7, 0.85, 9)),
    ],
    columns=["kind", "detector", "placement", "auroc", "low", "high", "seeds"],
)

DRAWINGS = {
    "roc": lambda title: draw_roc(SCORES.rename(columns={"norm": HOSTILE}), harmful=HARMFUL, title=title),
    "evidence": lambda title: draw_evidence(make_evidence(HOSTILE).replace("a", HOSTILE), alpha=0.05, title=title),
    "alarms": lambda title: draw_alarms(ALARMS, title=title),
    "study": lambda title: draw_study(
        SUMMARY.replace({"inversion": HOSTILE, "published 0.02": HOSTILE, "good": HOSTILE}),
        groups=["center", HOSTILE],
        title=title,
    ),
    "detectors": lambda title: draw_detectors(
        DETECTORS.replace({"inversion": HOSTILE, "loss": HOSTILE}), sees={HOSTILE: HOSTILE}, title=title
    ),
}
every_figure = pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)


def pick(figure, name):
    found = [trace for trace in figure.data if trace.name and re.search(name, trace.name)]
    assert len(found) == 1, [trace.name for trace in figure.data]
    return found[0]


@every_figure
def test_every_figure_has_title_axes_and_words_and_hides_no_markup(draw, list_texts):
    figure = draw(f"Found {HOSTILE}")
    plain = json.loads(figure.to_json())
    assert "&lt;img" in figure.layout.title.text
    assert figure.layout.meta["alt"].startswith(f"Found {HOSTILE}. ")
    assert len(figure.layout.meta["alt"]) > 80
    for text in list_texts(figure):
        shown = re.sub(r"</?(?:br|sup|extra|span)(?: style=\"font-size:10px\")?>", "", text)
        assert "<" not in shown, text
    axes = [axis for name, axis in plain["layout"].items() if re.match(r"[xy]axis", name)]
    assert any(axis.get("title", {}).get("text") for axis in axes)


def test_a_roc_curve_goes_through_the_shares_at_every_limit():
    figure = draw_roc(SCORES[["norm", "loss"]], harmful=HARMFUL, title="T")
    norm, loss = pick(figure, "norm"), pick(figure, "loss")
    assert norm.name == "norm: AUROC 1.00"
    assert list(zip(norm.x, norm.y, strict=True)) == [(0, 0), (0, 0.5), (0, 1), (0.5, 1), (1, 1)]
    assert list(zip(loss.x, loss.y, strict=True)) == [(0, 0), (0.5, 0), (0.5, 1), (1, 1)], "ties step together"
    assert loss.name == "loss: AUROC 0.50"
    assert "norm: AUROC 1.00, finds 100 % of the harmful before it accuses a good one" in figure.layout.meta["alt"]
    assert "loss: AUROC 0.50, finds 0 %" in figure.layout.meta["alt"]
    assert pick(figure, "chance").name == "chance (n = 2 harmful, 2 good images)"
    looks = {(trace.line.color, trace.line.dash) for trace in figure.data}
    assert len(looks) == 3


def test_an_image_without_a_score_does_not_count_and_an_infinite_one_does():
    figure = draw_roc(SCORES[["known to few"]], harmful=HARMFUL, title="T")
    assert pick(figure, "few").name == "known to few: AUROC 0.00, n = 1 and 1"
    wild = pd.DataFrame({"norm": [1.0, np.inf, np.inf, 2.0]}, index=list("abcd"))
    curve = pick(draw_roc(wild, harmful=HARMFUL, title="T"), "norm")
    assert list(zip(curve.x, curve.y, strict=True))[:3] == [(0, 0), (0.5, 0.5), (0.5, 0.5)]
    assert curve.name == "norm: AUROC 0.62"


@pytest.mark.parametrize("harmful", [set(), set("abcd")])
def test_a_roc_curve_of_one_kind_of_image_is_refused(harmful):
    with pytest.raises(ValueError, match="needs harmful and good images; score 'norm' has"):
        draw_roc(SCORES[["norm"]], harmful=harmful, title="T")


def test_no_score_and_too_many_scores_are_refused():
    with pytest.raises(ValueError, match="from one to 7 scores; came 0"):
        draw_roc(SCORES[[]], harmful=HARMFUL, title="T")
    many = pd.DataFrame({str(at): SCORES["norm"] for at in range(8)})
    with pytest.raises(ValueError, match="came 8"):
        draw_roc(many, harmful=HARMFUL, title="T")


def test_evidence_has_one_line_per_image_and_says_who_reached_the_line():
    figure = draw_evidence(make_evidence(), alpha=0.05, title="T")
    good, bad = pick(figure, "^good images"), pick(figure, "^harmful images")
    assert (good.name, bad.name) == ("good images (n = 2)", "harmful images (n = 1)")
    assert list(bad.x) == [1, 2, 3, None]
    assert list(bad.y) == [5, 10, 40, None]
    assert list(good.x) == [1, 2, 3, None] * 2
    floor = good.y[0]
    assert floor == 10 ** min(np.log10(figure.layout.yaxis.tickvals)) < 5, (
        "a value of 0 has its own place at the bottom"
    )
    assert figure.layout.yaxis.ticktext[0] == "0"
    assert good.customdata[0] == "a: 0", "the mark tells the value itself"
    assert pick(figure, "alpha").name == "1 / alpha = 20"
    assert figure.layout.shapes[0].y0 == pytest.approx(20)
    low, high = figure.layout.yaxis.range
    assert low < np.log10(floor)
    assert high > np.log10(40)
    assert "1 harmful images: last e-value 40 to 40, 1 reached 1 / alpha" in figure.layout.meta["alt"]
    assert "2 good images: last e-value 0 to 5, 0 reached 1 / alpha" in figure.layout.meta["alt"]


def test_each_way_to_combine_has_a_panel_and_the_legend_names_each_kind_once():
    rows = pd.concat([make_evidence("average"), make_evidence("product")])
    figure = draw_evidence(rows, alpha=0.1, title="T")
    assert [note.text for note in figure.layout.annotations] == ["average", "product"]
    shown = [trace.name for trace in figure.data if trace.showlegend is not False]
    assert sorted(shown) == ["1 / alpha = 10", "good images (n = 2)", "harmful images (n = 1)"]
    assert len(figure.layout.shapes) == 2


def test_evidence_of_good_images_alone_and_of_zeros_alone_is_drawn():
    rows = make_evidence().query("not harmful").assign(e_value=0.0)
    figure = draw_evidence(rows, alpha=0.05, title="T")
    assert not [trace for trace in figure.data if trace.name.startswith("harmful")]
    assert "2 good images: last e-value 0 to 0, 0 reached" in figure.layout.meta["alt"]


@pytest.mark.parametrize(
    ("change", "alpha", "said"),
    [
        ({}, 0.0, "alpha must be above 0 and below 1; came 0.0"),
        ({}, 1.0, "alpha must be above 0 and below 1; came 1.0"),
        ({"e_value": -1.0}, 0.05, "expected e-values of at least 0"),
        ({"e_value": NAN}, 0.05, "expected e-values of at least 0"),
    ],
)
def test_evidence_that_is_none_is_refused(change, alpha, said):
    with pytest.raises(ValueError, match=said):
        draw_evidence(make_evidence().assign(**change), alpha=alpha, title="T")
    with pytest.raises(ValueError, match="expected e-values"):
        draw_evidence(make_evidence().iloc[:0], alpha=0.05, title="T")


def test_alarms_have_a_line_per_tolerance_in_each_panel():
    figure = draw_alarms(ALARMS, title="T")
    assert [trace.name for trace in figure.data] == ["tolerance 0.02", "tolerance 0.1"] * 2
    assert [trace.showlegend for trace in figure.data] == [True, True, False, False]
    assert all(list(trace.x) == [10, 100] for trace in figure.data), "no subject is no place on a log axis"
    part = ALARMS.query("tolerance == 0.1 and subjects > 0")
    assert list(figure.data[1].y) == part["detection"].tolist()
    assert list(figure.data[3].y) == part["false_alarm"].tolist()
    assert list(figure.layout.xaxis.tickvals) == [10, 20, 50, 100]
    assert f"tolerance 0.1: 10 subjects {part['detection'].iloc[0]:.2f} found" in figure.layout.meta["alt"]


def test_alarms_without_subjects_are_refused():
    with pytest.raises(ValueError, match="tolerances with subjects; came 0"):
        draw_alarms(ALARMS.query("subjects == 0"), title="T")


def test_a_study_has_a_dot_with_its_interval_for_every_rule_and_group():
    figure = draw_study(SUMMARY, groups=["center", "good", "new scanner"], title="T")
    calibrated, published = pick(figure, "^calibrated"), pick(figure, "^published")
    assert calibrated.name == "calibrated (n = 10 seeds)"
    assert list(calibrated.x) == pytest.approx([98.0, 0.5, 50.0, 0.0]), "in the order of the groups, panel by panel"
    assert list(published.x) == [30.0]
    assert list(published.error_x.array) == pytest.approx([10.0])
    assert list(published.error_x.arrayminus) == pytest.approx([10.0])
    assert (calibrated.marker.color, published.marker.color) == (ARM_COLORS["calibrated"], ARM_COLORS["published"])
    assert calibrated.marker.symbol != published.marker.symbol
    assert list(figure.layout.yaxis.ticktext) == [
        "in harmful centers",
        "good images",
        "in harmful centers",
        "good, new scanner",
    ]
    assert [note.text for note in figure.layout.annotations] == ["inversion", "noise only"]
    written = [text for trace in figure.data if trace.mode == "text" for text in trace.text]
    assert sorted(written) == ["0 of 20", "1 of 200", "20 of 40", "49 of 50", "60 of 200"]
    alt = figure.layout.meta["alt"]
    assert "inversion, good images: published 0.02 60 of 200 eliminated, 30.0 % (20.0 to 40.0), calibrated 1 of" in alt
    assert "noise only, in harmful centers: calibrated 20 of 40 eliminated, 50.0 %;" in alt


def test_rules_that_share_a_colour_differ_in_their_symbols():
    rows = pd.concat([SUMMARY.iloc[[0]].assign(rule=f"published {tolerance}") for tolerance in (0.01, 0.02, 0.05)])
    figure = draw_study(rows, title="T")
    marks = [trace.marker.symbol for trace in figure.data if trace.mode == "markers"]
    assert len(set(marks)) == 3


@pytest.mark.parametrize(
    ("table", "error", "said"),
    [
        (SUMMARY.drop(columns=["low", "rule"]), KeyError, r"no columns \['rule', 'low'\]"),
        (SUMMARY.query("group == 'new scanner'"), ValueError, "no row of the groups"),
        (pd.concat([SUMMARY, SUMMARY]), ValueError, "several rows of"),
    ],
)
def test_a_summary_that_cannot_be_drawn_is_refused(table, error, said):
    with pytest.raises(error, match=said):
        draw_study(table, title="T")


def test_detectors_are_ordered_by_what_they_find_and_say_what_they_see():
    figure = draw_detectors(DETECTORS, sees={"loss": "scores, labels"}, title="T")
    labels = list(figure.layout.yaxis.ticktext)
    assert labels == [
        "norm",
        'loss<br><span style="font-size:10px">scores, labels</span>',
        'loss<br><span style="font-size:10px">scores, labels</span>',
    ]
    center, single = pick(figure, "whole centers"), pick(figure, "single")
    assert center.name == "in whole centers (n = 10 seeds)"
    assert list(center.x) == pytest.approx([1.0, 0.6])
    assert list(center.error_x.array) == pytest.approx([0.0, 0.1])
    assert list(single.x) == pytest.approx([0.9, 0.8])
    assert single.name == "single images (n = 1 to 9 seeds)"
    assert np.isnan(single.error_x.array[0]), "one seed says nothing of others"
    assert "inversion, norm: 1.00 (1.00 to 1.00) in whole centers, 0.90 single images;" in figure.layout.meta["alt"]
    assert "inversion, loss: 0.60 (0.50 to 0.70) in whole centers" in figure.layout.meta["alt"]
    assert "flip, loss: 0.80 (0.70 to 0.85) single images" in figure.layout.meta["alt"]


def test_detectors_without_any_auroc_are_refused():
    with pytest.raises(ValueError, match="no detector has an AUROC"):
        draw_detectors(DETECTORS.assign(auroc=NAN), title="T")


def test_a_detector_whose_name_and_sights_are_long_keeps_whole_words_apart():
    rows = DETECTORS.replace({"loss": "a detector with a name that goes on and on"})
    sees = {"a detector with a name that goes on and on": "gradients, labels, verification images"}
    label = draw_detectors(rows, sees=sees, title="T").layout.yaxis.ticktext[1]
    name, *lines = re.split(r"<[^>]*>", label.replace("</span>", ""))
    assert len(name) <= 24
    assert "gradients, labels," in lines
