"""The table of arms by criteria as a figure: tones by hand, texts, hostile names."""

import json

import numpy as np
import pytest

from dqc_lib.figures import draw_criteria
from dqc_lib.synthesis import Finding

HOSTILE = '<img src=x onerror="alert(1)"> %{y}'
FINDINGS = {
    "centralized": {"privacy": Finding(float("inf")), "time": Finding(0.05, 0.04, 0.06, n=3, unit="seeds")},
    "averaging": {"privacy": Finding(3.0), "time": Finding(0.10, 0.08, 0.12, n=3, unit="seeds")},
    "local": {"privacy": Finding(1.0), "time": Finding(0.25, 0.2, 0.3, n=3, unit="seeds")},
    "travelling": {"time": Finding(0.05), "traffic": Finding(2.5)},
}


def draw(findings=FINDINGS, title="Nothing is private by being aligned"):
    return draw_criteria(findings, title=title)


def test_tones_go_from_the_best_to_the_worst_of_a_column():
    tones = np.array(draw().data[0].z, dtype=float)
    np.testing.assert_allclose(tones[:, 1], [0, 0.25, 1, 0])
    np.testing.assert_allclose(tones[:, 0], [1, 1, 0, np.nan])
    np.testing.assert_allclose(tones[:, 2], [np.nan, np.nan, np.nan, 0])


def test_a_column_without_a_difference_has_no_tones_and_one_of_infinities_is_dark():
    alike = {name: {"privacy": Finding(float("inf")), "traffic": Finding(2.0)} for name in "AB"}
    assert np.array(draw(alike).data[0].z).tolist() == [[1, 0], [1, 0]]


def test_a_column_whose_intervals_all_overlap_has_no_tones():
    spans = {"A": (0.05, 0.01, 0.09), "B": (0.08, 0.04, 0.12), "C": (0.06, 0.03, 0.10)}
    held = {name: {"time": Finding(*ends, n=3)} for name, ends in spans.items()} | {"D": {"traffic": Finding(1.0)}}
    tones = np.array(draw(held).data[0].z, dtype=float)
    np.testing.assert_allclose(tones[:, 0], [0, 0, 0, np.nan])
    apart = held | {"C": {"time": Finding(0.2, 0.13, 0.3, n=3)}}
    assert np.array(draw(apart).data[0].z, dtype=float)[2, 0] == 1


def test_a_column_where_something_counted_has_no_interval_has_no_tones():
    held = {"A": {"time": Finding(0.05, 0.04, 0.06, n=3)}, "B": {"time": Finding(0.3, n=1)}}
    held["C"] = {"privacy": Finding(1.0)}
    np.testing.assert_allclose(np.array(draw(held).data[0].z, dtype=float)[:, 1], [0, 0, np.nan])
    follows = held | {"B": {"time": Finding(0.3)}}
    np.testing.assert_allclose(np.array(draw(follows).data[0].z, dtype=float)[:, 1], [0, 1, np.nan])


def test_a_negative_interval_is_written_with_words_between_its_ends():
    figure = draw({"A": {"heterogeneity": Finding(0.03, -0.03, 0.09, n=3)}})
    assert figure.layout.annotations[0].text == "0.03<br>[-0.03 to 0.09]"


def test_every_cell_is_written_and_told():
    figure = draw()
    texts = [note.text for note in figure.layout.annotations]
    assert len(texts) == 4 * 3
    assert "0.05<br>[0.04 to 0.06]" in texts and "∞" in texts
    assert texts.count("not<br>measured") == 4
    said = "averaging: privacy: epsilon 3.00, persistence gap 0.10 [0.08, 0.12]"
    assert said in figure.layout.meta["alt"]
    assert "n = 3 seeds" in figure.data[0].customdata[0][1]
    assert figure.layout.title.text == "Nothing is private by being aligned"


def test_names_are_shown_and_not_obeyed():
    figure = draw({HOSTILE: {"time": Finding(0.1, unit=HOSTILE, n=1)}}, title=HOSTILE)
    layout = figure.layout.to_plotly_json() | {"meta": None}
    shown = json.dumps({"layout": layout, "data": str(figure.data)}, default=str)
    assert "<img" not in shown


def test_nothing_to_draw_is_refused():
    with pytest.raises(ValueError, match="at least one finding"):
        draw({})
