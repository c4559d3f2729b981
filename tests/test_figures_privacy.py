"""Figures of privacy: what stands where, what is told in words, and that names are shown and not obeyed."""

import math

import numpy as np
import pandas as pd
import pytest

from dqc_lib.figures import draw_epsilons, draw_inversion, draw_membership, draw_privacy_utility

HOSTILE = '<img src=x onerror="alert(1)">'
SHOWN = '&lt;img src=x onerror="alert(1)"&gt;'


def find(figure, name):
    """Return the one trace whose legend begins with a name."""
    (trace,) = [trace for trace in figure.data if (trace.name or "").startswith(name)]
    return trace


def make_epsilons(**more):
    rows = [
        {"hospital": hospital, "n_patients": n, "delta": 1e-3, "noise_multiplier": noise, "epsilon": epsilon}
        for hospital, n, noise, epsilon in (
            ("A", 90, 1.0, 2.0), (HOSTILE, 9, 1.0, 8.0), ("A", 90, 2.0, 1.0), (HOSTILE, 9, 2.0, 3.0),
            ("A", 90, 0.0, math.inf), (HOSTILE, 9, 0.0, math.inf),
        )
    ]  # fmt: skip
    return pd.DataFrame([row | more for row in rows])


def test_every_hospital_has_a_line_and_the_maximum_lies_under_the_worst():
    figure = draw_epsilons(make_epsilons(), title="t")
    assert list(find(figure, "A (n = 90)").y) == [2.0, 1.0]
    assert list(find(figure, f"{SHOWN} (n = 9)").y) == [8.0, 3.0]
    worst = find(figure, "maximum over hospitals")
    assert (list(worst.x), list(worst.y)) == ([1.0, 2.0], [8.0, 3.0])
    alt = figure.layout.meta["alt"]
    assert "multiplier 0: infinite; noise multiplier 1: 8; noise multiplier 2: 3" in alt
    assert figure.layout.yaxis.title.text == "epsilon of a patient at delta 0.001"


def test_an_axis_that_there_is_not_and_a_table_without_epsilon_are_refused():
    with pytest.raises(ValueError, match="by must be one of noise_multiplier, steps, sampling_rate, got 'delta'"):
        draw_epsilons(make_epsilons(), title="t", by="delta")
    with pytest.raises(KeyError, match="missing columns"):
        draw_epsilons(make_epsilons().drop(columns="epsilon"), title="t")
    with pytest.raises(ValueError, match="at least one row"):
        draw_epsilons(make_epsilons().iloc[:0], title="t")


def test_a_curve_passes_where_it_should_and_the_rate_is_marked_with_its_interval():
    nonmembers = np.arange(200.0)
    figure = draw_membership({HOSTILE: (np.array([10.0, 197.5, 500.0, 600.0]), nonmembers)}, title="t")
    curve, mark = (trace for trace in figure.data if trace.legendgroup == "0")
    assert curve.name.startswith(SHOWN) and "n = 4 and 200" in curve.name
    points = dict(zip(np.round(curve.x, 6), curve.y, strict=True))
    assert points[0.005] == 0.5 and points[0.01] == 0.75 and points[1.0] == 1.0
    assert (list(mark.x), list(mark.y)) == ([0.01], [0.75])
    assert mark.error_y.array[0] >= 0 and mark.error_y.arrayminus[0] > 0.2
    assert "members at 1.0% false positives: 75.0%" in figure.layout.meta["alt"]
    assert figure.layout.xaxis.type == figure.layout.yaxis.type == "log"
    chance = find(figure, "chance")
    assert list(chance.x) == list(chance.y)


def test_the_bound_is_drawn_where_there_is_one():
    scores = {"a": (np.arange(5.0), np.arange(150.0))}
    figure = draw_membership(scores, title="t", epsilon=1.0, delta=0.01)
    bound = find(figure, "most that epsilon 1, delta 0.01 allow")
    at = 50
    first, second = math.e * bound.x[at] + 0.01, 1 - (0.99 - bound.x[at]) / math.e
    assert bound.y[at] == pytest.approx(min(first, second, 1))
    assert len(draw_membership(scores, title="t").data) == len(figure.data) - 1
    with pytest.raises(ValueError, match="expected epsilon and delta, or neither"):
        draw_membership(scores, title="t", epsilon=1.0)


def test_nobody_found_and_too_few_others_have_no_mark_and_are_told():
    figure = draw_membership({"a": (np.zeros(5), np.ones(200)), "b": (np.ones(5), np.zeros(20))}, title="t")
    assert [trace.mode for trace in figure.data] == ["lines", "lines", "lines"]
    assert "0.0% (0.0% to" in figure.layout.meta["alt"] and "too few non-members" in figure.layout.meta["alt"]


def test_a_record_and_what_came_back_stand_one_below_the_other_with_the_share_that_is_right():
    record = np.array([[1.0, 0, 0, 0], [0, 1, 0, 1]])
    wrong = record.copy()
    wrong[0, 0] = 0.2
    figure = draw_inversion({"record": record, HOSTILE: wrong}, title="t")
    assert [trace.z.shape for trace in figure.data] == [(2, 4), (2, 4)]
    assert "88% of codes right" in figure.layout.annotations[1].text
    assert "<img" not in figure.layout.annotations[1].text
    assert "2 visits and 4 codes" in figure.layout.meta["alt"]
    with pytest.raises(ValueError, match=r"b has the shape \(4,\)"):
        draw_inversion({"a": record, "b": record[0]}, title="t")
    with pytest.raises(ValueError, match="at least one record"):
        draw_inversion({}, title="t")


def test_a_measure_stands_at_its_epsilon_and_without_noise_at_infinity():
    rows = [
        {"arm": HOSTILE, "epsilon": epsilon, "value": value, "low": value - 0.1, "high": value + 0.2, "n": 60}
        for epsilon, value in ((1.0, 0.3), (10.0, 0.6), (math.inf, 0.9))
    ]
    beside = {HOSTILE: 0.5, "copies": 0.95}
    figure = draw_privacy_utility(pd.DataFrame(rows), title="t", axis="AUROC", references=beside)
    (line,) = figure.data
    assert line.name == SHOWN and list(line.y) == [0.3, 0.6, 0.9]
    assert list(line.x[:2]) == [1.0, 10.0] and figure.layout.xaxis.ticktext[-1] == "∞ (no noise)"
    np.testing.assert_allclose([line.error_y.array, line.error_y.arrayminus], [[0.2] * 3, [0.1] * 3])
    lines = [(shape.name, shape.y0, shape.y1, shape.line.dash) for shape in figure.layout.shapes]
    assert lines == [(f"{SHOWN}: 0.5", 0.5, 0.5, "dot"), ("copies: 0.95", 0.95, 0.95, "dash")]
    assert all(shape.showlegend for shape in figure.layout.shapes)
    assert "epsilon infinite: 0.9 (0.8 to 1.1), n = 60" in figure.layout.meta["alt"]
    assert "; copies: 0.95." in figure.layout.meta["alt"]
    with pytest.raises(ValueError, match="up to 3 references, got 4"):
        draw_privacy_utility(pd.DataFrame(rows), title="t", axis="AUROC", references=dict.fromkeys("abcd", 0.5))
    with pytest.raises(ValueError, match="epsilons above 0"):
        draw_privacy_utility(pd.DataFrame(rows).assign(epsilon=0), title="t", axis="AUROC")
