"""Findings and the table of arms by criteria: texts, intervals by hand, and what was not measured."""

import numpy as np
import pytest

from dqc_lib.synthesis import CRITERIA, Finding, measure_change, summarize_repeats, tabulate_criteria

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("finding", "text"),
    [
        (Finding(0.0312, 0.0249, 0.0451), "0.03 [0.02, 0.05]"),
        (Finding(0.0012, 0.0005, 0.0021), "0.001 [0.001, 0.002]"),
        (Finding(5.034), "5.03"),
        (Finding(12.34, 9.87, 15.0), "12.3 [9.9, 15.0]"),
        (Finding(1234.5), "1234"),
        (Finding(-0.001, -0.02, 0.02), "0.00 [-0.02, 0.02]"),
        (Finding(0), "0.00"),
        (Finding(INF), "∞"),
        (Finding(), "not measured"),
    ],
)
def test_a_finding_says_its_value_and_its_interval(finding, text):
    assert str(finding) == text


def test_the_mean_of_three_seeds_has_the_interval_of_student():
    found = summarize_repeats([1.0, 2.0, 3.0])
    reach = 4.302653 * 1.0 / np.sqrt(3)  # the 97.5th percentile of t with 2 degrees of freedom, from a table
    assert (found.value, found.n, found.unit) == (2.0, 3, "seeds")
    assert (found.low, found.high) == pytest.approx((2 - reach, 2 + reach))


def test_one_repetition_has_no_interval_and_equal_ones_have_an_empty_one():
    assert str(summarize_repeats([0.25])) == "0.25"
    assert str(summarize_repeats([0.25, 0.25])) == "0.25 [0.25, 0.25]"


def test_what_is_undefined_once_stays_undefined():
    assert str(summarize_repeats([0.2, NAN])) == "not measured"
    assert str(summarize_repeats([INF, INF])) == "∞"


def test_a_change_is_measured_in_pairs():
    found = measure_change([0.1, 0.5, 0.9], [0.2, 0.6, 1.0])
    assert (found.value, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1)), "though the values lie far apart"


def test_the_table_has_a_row_for_each_arm_and_a_column_for_what_any_of_them_has():
    findings = {"averaging": {"time": Finding(0.1), "privacy": Finding(INF)}, "local": {"time": Finding(0.3, 0.2, 0.4)}}
    table = tabulate_criteria(findings)
    assert list(table.columns) == [CRITERIA["privacy"], CRITERIA["time"]], "in the order of the criteria"
    assert table.loc["averaging"].tolist() == ["∞", "0.10"]
    assert table.loc["local"].tolist() == ["not measured", "0.30 [0.20, 0.40]"]
    assert "not measured" in table._repr_html_()


@pytest.mark.parametrize(
    ("ask", "error", "said"),
    [
        (lambda: Finding("0.1"), TypeError, "Finding.value must be a number"),
        (lambda: Finding(0.1, 0.2, 0.1), ValueError, "low <= high"),
        (lambda: Finding(0.1, low=0.0), ValueError, "both ends"),
        (lambda: Finding(NAN, 0.0, 0.1), ValueError, "around a value"),
        (lambda: summarize_repeats([]), ValueError, "at least one number"),
        (lambda: summarize_repeats([1, 2], confidence=1), ValueError, "confidence must be above 0"),
        (lambda: measure_change([1], [1, 2]), ValueError, "same repetitions, got 1 and 2"),
        (lambda: tabulate_criteria({"A": {"speed": Finding(1)}}), KeyError, "'A'"),
        (lambda: tabulate_criteria({"A": {"time": 0.1}}), TypeError, "must be a Finding"),
        (lambda: tabulate_criteria({"A": {}}), ValueError, "at least one finding"),
    ],
)
def test_what_is_no_finding_is_refused(ask, error, said):
    with pytest.raises(error, match=said):
        ask()
