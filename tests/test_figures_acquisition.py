"""Acquisition and patient groups as figures: every count is shown, what is missing is told, and names stay text."""

import numpy as np
import pandas as pd
import pytest

from dqc_lib.figures import draw_compliance, draw_groups_by_site, draw_parameter, draw_stability
from dqc_lib.figures.groups import GROUP_COLORS
from dqc_lib.harmonization import ACQUISITION_COLUMNS, ALL, Protocol, check_compliance

NAN = float("nan")
PROTOCOL = Protocol({"flip_angle": (9.0, 1.0)})
SUMMARY = pd.DataFrame(
    [
        *(("A", "flip_angle", 4, 2, 1, 1, 0.5), ("A", ALL, 4, 1, 2, 1, 0.25)),
        *(("B", "flip_angle", 3, 3, 0, 0, 1.0), ("B", ALL, 3, 3, 0, 0, 1.0)),
    ],
    columns=["center", "parameter", "n", "within", "deviates", "missing", "share"],
)
TABLE = pd.DataFrame(
    {
        "subject": ["a", "b", "c", "d", "e"],
        "center": ["A", "A", "A", "B", "B"],
        "flip_angle": [9.0, 10.0, 15.0, NAN, 8.0],
    }
).reindex(columns=ACQUISITION_COLUMNS)
STABILITY = pd.DataFrame(
    {
        "group": ["A", "B", "C"],
        "n": [30, 20, 10],
        "jaccard": [0.9, 0.65, 0.3],
        "n_resamples": [50, 50, 49],
        "stability": ["stable", "doubtful", "unstable"],
    }
)
COUNTS = pd.DataFrame([[8, 2], [0, 5], [0, 0]], index=["site-1", "site-2", "site-3"], columns=["A", "B"])


def list_annotations(figure):
    return [note.text for note in figure.layout.annotations]


def test_a_cell_has_its_share_and_how_many_are_within():
    figure = draw_compliance(SUMMARY, title="T")
    cells = figure.data[0]
    assert np.array(cells.z).tolist() == [[0.5, 0.25], [1.0, 1.0]]
    assert np.array(cells.text).tolist() == [["2?", "1?"], ["3", "3"]], "a question mark where values are missing"
    assert (cells.zmin, cells.zmax) == (0, 1)
    assert figure.layout.xaxis.ticktext == ("flip angle", "all")
    assert figure.layout.yaxis.ticktext == ("A (4)", "B (3)")
    assert cells.customdata[0][0] == "A<br>flip angle: 2 within, 1 deviate, 1 missing, n = 4"


def test_the_first_center_stands_at_the_top():
    low, high = draw_compliance(SUMMARY, title="T").layout.yaxis.range
    assert (low, high) == (1.5, -0.5)


def test_a_parameter_that_a_center_was_not_asked_for_is_empty_and_not_zero():
    figure = draw_compliance(SUMMARY.iloc[:3], title="T")
    assert np.isnan(np.array(figure.data[0].z, dtype=float)[1, 1])
    assert figure.data[0].text[1][1] == ""
    assert "was not looked at" in figure.data[0].customdata[1][1]


def test_many_centers_get_narrow_rows_without_counts():
    many = pd.concat([SUMMARY.replace({"center": {"A": f"A{number}", "B": f"B{number}"}}) for number in range(20)])
    figure = draw_compliance(many, title="T")
    assert figure.data[0].texttemplate == ""
    assert figure.layout.height < 40 * 26


def test_the_alternative_text_of_compliance_names_every_fault():
    alt = draw_compliance(SUMMARY, title="T").layout.meta["alt"]
    assert alt == "T. Images within the protocol by center. A 1 of 4: flip angle (1 deviate, 1 missing); B 3 of 3."


def test_a_parameter_has_a_mark_for_every_image_that_has_it():
    figure = draw_parameter(TABLE, "flip_angle", protocol=PROTOCOL, title="T")
    within, deviates = figure.data
    assert (within.name, deviates.name) == ("within (n = 3)", "deviates (n = 1)")
    assert list(within.x) == [9.0, 10.0, 8.0] and list(deviates.x) == [15.0]
    assert [round(y) for y in within.y] == [0, 0, 1]
    assert len(set(within.y)) == 3, "marks of one value do not hide each other"
    assert deviates.customdata == ("c, A<br>flip angle 15 deg",)
    assert list_annotations(figure) == [" 1 missing"]
    assert figure.layout.xaxis.title.text == "flip angle (deg), shaded: within the protocol"
    assert figure.layout.yaxis.ticktext == ("A (3)", "B (2)")


def test_the_verdicts_are_those_of_the_report_at_the_very_edge_too():
    edge = [10.0, 10.0 + 1e-9, 10.0 + 1.1e-9, NAN, 8.0 - 1e-6]
    table = TABLE.assign(flip_angle=edge)
    counts = check_compliance(table, PROTOCOL)["verdict"].value_counts()
    within, deviates = draw_parameter(table, "flip_angle", protocol=PROTOCOL, title="T").data
    assert (len(within.x), len(deviates.x)) == (counts["within"], counts["deviates"])


def test_the_band_reaches_from_reference_minus_to_plus_tolerance():
    band, line = draw_parameter(TABLE, "flip_angle", protocol=PROTOCOL, title="T").layout.shapes
    assert (band.x0, band.x1, line.x0) == (8.0, 10.0, 9.0)


@pytest.mark.parametrize("protocol", [None, Protocol({"echo_time": (0.003, 0.001)})])
def test_without_a_protocol_for_it_a_parameter_has_no_verdict(protocol):
    figure = draw_parameter(TABLE, "flip_angle", protocol=protocol, title="T")
    assert [trace.name for trace in figure.data] == ["images (n = 4)"]
    assert not figure.layout.shapes


def test_a_parameter_that_no_image_has_is_said_to_be_missing():
    figure = draw_parameter(TABLE.assign(flip_angle=NAN), "flip_angle", protocol=PROTOCOL, title="T")
    assert list_annotations(figure) == [" 3 missing", " 2 missing"]
    assert "A (n = 3) no value, 3 missing" in figure.layout.meta["alt"]


def test_the_alternative_text_of_a_parameter_has_its_ranges():
    alt = draw_parameter(TABLE, "flip_angle", protocol=PROTOCOL, title="T").layout.meta["alt"]
    assert alt == ("T. Flip angle in deg by center, protocol 9 ± 1. A (n = 3) 9 to 15; B (n = 2) 8 to 8, 1 missing.")


def test_a_parameter_that_is_none_is_refused():
    with pytest.raises(KeyError, match="parameter is 'TR'; expected one of"):
        draw_parameter(TABLE, "TR", title="T")


def test_every_group_has_a_bar_with_its_number():
    figure = draw_stability(STABILITY, title="T")
    assert list(figure.data[0].x) == [0.9, 0.65, 0.3]
    assert figure.layout.yaxis.ticktext == ("A (n = 30)", "B (n = 20)", "C (n = 10)")
    assert list_annotations(figure) == ["0.90", "0.65", "0.30", "pattern from 0.6", "stable from 0.75"]
    assert [shape.x0 for shape in figure.layout.shapes] == [0.6, 0.75]
    assert "C (n = 10): 0.30 over 49 resamples, unstable" in figure.layout.meta["alt"]


def test_a_stability_that_is_undefined_is_said_to_be_and_not_drawn_as_zero():
    one = STABILITY.iloc[:1].assign(jaccard=NAN, n_resamples=0, stability="undefined")
    figure = draw_stability(one, title="T")
    assert np.isnan(figure.data[0].x[0])
    assert list_annotations(figure)[0] == "undefined: one group"
    assert "A (n = 30): undefined: one group" in figure.layout.meta["alt"]


def test_bars_of_sites_are_shares_and_a_site_without_subjects_has_none():
    figure = draw_groups_by_site(COUNTS, title="T")
    assert [trace.name for trace in figure.data] == ["A (n = 8)", "B (n = 7)"]
    np.testing.assert_array_equal(figure.data[0].x, [80.0, 0.0, NAN])
    np.testing.assert_array_equal(figure.data[1].x, [20.0, 100.0, NAN])
    assert figure.layout.yaxis.ticktext == ("site-1 (n = 10)", "site-2 (n = 5)", "site-3 (n = 0)")
    assert figure.data[0].customdata[0] == "site-1: 8 of 10 in group A"
    assert "site-1 (n = 10): A 8, B 2" in figure.layout.meta["alt"]


def test_a_group_has_the_same_colour_in_both_figures():
    bars = draw_stability(STABILITY, title="T").data[0].marker.color
    stacks = [trace.marker.color for trace in draw_groups_by_site(COUNTS, title="T").data]
    assert list(bars[:2]) == stacks == list(GROUP_COLORS[:2])


@pytest.mark.parametrize(
    "draw",
    [
        lambda: draw_compliance(SUMMARY.iloc[:0], title="T"),
        lambda: draw_parameter(TABLE.iloc[:0], "flip_angle", title="T"),
        lambda: draw_stability(STABILITY.iloc[:0], title="T"),
        lambda: draw_groups_by_site(COUNTS.iloc[:0], title="T"),
    ],
    ids=["compliance", "parameter", "stability", "sites"],
)
def test_nothing_is_no_figure(draw):
    with pytest.raises(ValueError, match="expected at least one"):
        draw()
