"""Figures of harmonization: what stands where, what is told in words, and that names are shown and not obeyed."""

import numpy as np
import pandas as pd
import pytest

from dqc_lib.figures.confounding import draw_knob, draw_trade
from dqc_lib.figures.harmonization import RAW, TRUTH, draw_effects, draw_site_distributions, draw_ways, get_way_looks
from dqc_lib.figures.style import PALETTE

HOSTILE = '<img src=x onerror="alert(1)">'
SHOWN = '&lt;img src=x onerror="alert(1)"&gt;'


def find(figure, name):
    """Return the one trace whose legend begins with a name."""
    (trace,) = [trace for trace in figure.data if (trace.name or "").startswith(name)]
    return trace


def test_raw_and_truth_have_their_colours_and_no_two_others_look_alike():
    looks = get_way_looks(["raw", "truth, one machine", "raw, elsewhere", "a", "b", "c", "d"])
    assert looks["raw"]["color"] == RAW and looks["truth, one machine"]["color"] == TRUTH
    others = [tuple(looks[name].values()) for name in ("raw, elsewhere", "a", "b", "c", "d")]
    assert len(set(others)) == 5 and RAW not in {color for color, _ in others}


def test_every_site_has_a_box_in_every_panel_with_its_n_on_the_axis():
    values = pd.Series([1.0, 2.0, 3.0, 7.0, 8.0])
    figure = draw_site_distributions({"raw": values, "even": values - 1}, list("AAABB"), title="t", axis="ml")
    assert [len(box.y) for box in figure.data] == [3, 2, 3, 2]
    assert {box.x[0] for box in figure.data} == {"A<br>3", "B<br>2"}
    assert list(figure.data[3].y) == [6.0, 7.0]
    assert "raw: medians of sites from 2 to 7.5; even: medians of sites from 1 to 6.5" in figure.layout.meta["alt"]
    assert figure.layout.yaxis.range == figure.layout.yaxis2.range


def make_effects(name):
    truth, estimate = [0.0, 1.0], [0.3, 0.6]
    return pd.DataFrame({"way": "raw", "feature": ["f", name], "truth": truth, "estimate": estimate})


def make_knob(name):
    return pd.DataFrame([{"way": name, "knob": 0.0, "value": 1.0, "low": 1.0, "high": 1.0, "n": 1}])


def test_effects_stand_at_truth_and_estimate_and_the_legend_tells_the_error():
    figure = draw_effects(make_effects(HOSTILE), title="t", axis="effect")
    marks = find(figure, "raw")
    assert list(marks.x) == [0.0, 1.0] and list(marks.y) == [0.3, 0.6]
    assert marks.name == "raw (n = 2, error 0.35)"  # sqrt((0.09 + 0.16) / 2)
    assert list(marks.customdata)[1].replace("<br>", " ") == SHOWN
    line = find(figure, "estimate = truth")
    assert list(line.x) == list(line.y)


def make_ways(**more):
    rows = [
        {"measured": "site", "way": "raw", "value": 0.9, "low": 0.8, "high": 1.0, "n": 40, "by_chance": 0.25},
        {"measured": "site", "way": "even", "value": 0.3, "low": 0.2, "high": 0.4, "n": 40, "by_chance": 0.25},
    ]
    return pd.DataFrame([row | more for row in rows])


def test_ways_stand_in_rows_with_interval_n_and_chance():
    figure = draw_ways(make_ways(), title="t", axis="found", chance="largest")
    raw, even = find(figure, "raw"), find(figure, "even")
    assert list(raw.x) == [90.0] and raw.y[0] < even.y[0]
    assert raw.error_x.array[0] == pytest.approx(10) and raw.error_x.arrayminus[0] == pytest.approx(10)
    ticks = find(figure, "largest")
    assert {x for x in ticks.x if x is not None} == {25.0} and ticks.showlegend
    assert not raw.showlegend
    texts = [trace.text[0] for trace in figure.data if trace.mode == "text"]
    assert texts == ["90 % of 40", "30 % of 40"]
    assert "site, even: 30 % (20 to 40) of 40, chance 25 %" in figure.layout.meta["alt"]


def test_without_chance_there_are_no_ticks_and_no_legend():
    figure = draw_ways(make_ways().drop(columns="by_chance"), title="t", axis="found")
    assert all(trace.mode != "lines" for trace in figure.data) and not figure.layout.showlegend


def test_a_share_that_is_not_defined_has_no_mark_and_says_so():
    table = make_ways()
    table.loc[0, ["value", "low", "high"]] = np.nan
    figure = draw_ways(table, title="t", axis="found")
    assert list(find(figure, "raw").x) == []
    assert "site, raw: not defined, of 40" in figure.layout.meta["alt"]


def test_a_knob_has_a_line_and_a_band_for_what_was_measured_and_a_dotted_one_for_a_theory():
    rows = [{"way": "raw", "knob": k, "value": 0.5 + k, "low": 0.4 + k, "high": 0.6 + k, "n": 6} for k in (0.4, 0.0)]
    rows += [{"way": "theory", "knob": k, "value": 1.0, "low": np.nan, "high": np.nan, "n": np.nan} for k in (0.0, 0.4)]
    figure = draw_knob(pd.DataFrame(rows), title="t", x="knob", y="AUROC", level=0.5, said="chance")
    line = find(figure, "raw (n = 6)")
    assert list(line.x) == [0.0, 0.4] and list(line.y) == [0.5, 0.9]
    (band,) = [trace for trace in figure.data if trace.fill == "toself"]
    assert list(band.y) == pytest.approx([0.6, 1.0, 0.8, 0.4])
    assert find(figure, "theory").line.dash == "dot" and list(find(figure, "chance").y) == [0.5, 0.5]
    assert "At 0.4: raw 0.90, theory 1.00." in figure.layout.meta["alt"]


def make_trade(**names):
    shared = {"n": 50, "low": 0.6, "high": 0.8, "scanner_low": 0.3, "scanner_high": 0.7}
    ways = {"raw": (0.7, 0.5), "even": (0.75, 0.4)}
    return pd.DataFrame(
        [
            {"way": names.get(way, way), "accuracy": up, "scanner_accuracy": to} | shared
            for way, (up, to) in ways.items()
        ]
    )


def test_a_trade_is_an_arrow_from_before_to_after_beside_that_of_the_lineage():
    lineage = pd.DataFrame({"way": ["before", "after"], "accuracy": [0.72, 0.76], "scanner_accuracy": [0.53, 0.3]})
    figure = draw_trade(make_trade(), lineage, title="t", lineage_name="theirs")
    assert list(find(figure, "raw (n = 50)").x) == [50.0] and list(find(figure, "even").y) == [75.0]
    assert find(figure, "theirs").marker.color == PALETTE["grey"]
    own, other = figure.layout.annotations
    assert (own.ax, own.ay, own.x, own.y) == pytest.approx((50, 70, 40, 75))
    assert (other.ax, other.ay, other.x, other.y) == pytest.approx((53, 72, 30, 76))
    assert "even: diagnosis 75 %, scanner 40 %, n = 50" in figure.layout.meta["alt"]


def test_a_trade_needs_no_lineage():
    assert len(draw_trade(make_trade(), title="t").layout.annotations) == 1
