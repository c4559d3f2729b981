"""Figures of folds, intervals, spectra, B-scans and readers: what stands where, what is told, hostile names."""

import re

import numpy as np
import pandas as pd
import pytest

from dqc_lib.figures import (
    draw_bscans,
    draw_fold_differences,
    draw_folds,
    draw_interval_rows,
    draw_probes,
    draw_spectra,
)
from dqc_lib.harmonization import ChanceComparison

HOSTILE = '<img src=x onerror="alert(1)"> %{y}'


def make_folds(values, *, split="subject", repeats=1):
    """Returns a table as `cross_validate` gives it: 20 subjects with 5 records each, 4 of them tested in a fold."""
    n = len(values)
    columns = {"repeat": np.arange(n) // (n // repeats), "fold": np.arange(n) % (n // repeats), "split": split}
    columns |= {"seed": 0, "n_train": 80, "n_test": 20, "accuracy": values}
    if split == "record":
        columns |= {"n_subjects_train": 20, "n_subjects_test": 15, "n_subjects_shared": 15}
    else:
        columns |= {"n_subjects_train": 16, "n_subjects_test": 4, "n_subjects_shared": 0}
    return pd.DataFrame(columns)


def make_chance(null, metric="accuracy"):
    return ChanceComparison(0.5, np.array(null), 0.5, metric, "subject", 20, 100)


INTERVALS = pd.DataFrame(
    [
        {"row": "one", "mark": "subject", "value": 0.6, "low": 0.4, "high": 0.8, "n_subjects": 20},
        {"row": "one", "mark": "record", "value": 0.6, "low": 0.55, "high": 0.65, "n_subjects": 20},
        {"row": "two", "mark": "subject", "value": 0.7, "low": np.nan, "high": np.nan, "n_subjects": 4},
    ]
)
PROBES = pd.DataFrame(
    {"encoder": ["a", "a", "b", "b"], "n_labelled": [4, 8, 4, 8], "n_repeats": 3, "n_subjects": 30}
    | {"auroc": [0.5, 0.6, 0.7, 0.8], "low": [0.4, 0.5, 0.6, np.nan], "high": [0.6, 0.7, 0.8, np.nan]}
)
SPECTRA = {"s1": (np.arange(1.0, 31), np.ones((2, 30)) + 9 * (np.arange(1.0, 31) == 10))}
DRAWINGS = {
    "folds": lambda title, name: draw_folds(
        {name: make_folds([0.5, 0.6])}, chance={name: make_chance([0.4, 0.6])}, title=title
    ),
    "differences": lambda title, name: draw_fold_differences(
        {name: (make_folds([0.5, 0.6]), make_folds([0.6, 0.6]))}, names=(name, name), title=title
    ),
    "intervals": lambda title, name: draw_interval_rows(INTERVALS.assign(row=name, mark=name), title=title),
    "spectra": lambda title, name: draw_spectra({name: SPECTRA["s1"]}, title=title, place=name),
    "bscans": lambda title, name: draw_bscans({name: np.eye(8)}, title=title),
    "probes": lambda title, name: draw_probes(PROBES.assign(encoder=name).drop_duplicates("n_labelled"), title=title),
}


@pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)
def test_names_are_shown_and_never_obeyed(draw, list_texts):
    texts = list_texts(draw(HOSTILE, HOSTILE))
    assert any("&lt;img" in text for text in texts)
    assert not [text for text in texts if re.search(r"<img|%\{y\}", text)]


@pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)
def test_the_alternative_text_starts_with_the_finding(draw):
    assert draw("It is so", "a name").layout.meta["alt"].startswith("It is so. ")


# Folds


def test_a_row_has_its_folds_their_mean_and_the_band_of_shuffled_labels():
    results = {"by record": make_folds([0.9, 1.0], split="record"), "by subject": make_folds([0.4, 0.6])}
    null = np.linspace(0.3, 0.7, 41)
    figure = draw_folds(results, chance={"by subject": make_chance(null)}, title="T")
    band = figure.data[0]
    assert (band.base[0], band.base[0] + band.x[0]) == (pytest.approx(0.31), pytest.approx(0.69))
    assert list(band.y) == [1]
    dots = [trace for trace in figure.data[1:] if len(trace.x) == 2]
    assert [list(trace.x) for trace in dots] == [[0.9, 1.0], [0.4, 0.6]]
    assert [list(trace.x) for trace in figure.data[1:] if len(trace.x) == 1] == [[0.95], [0.5]]
    assert list(figure.layout.yaxis.ticktext) == ["by record<br>(n = 20)", "by subject<br>(n = 20)"]
    assert "by subject (n = 20 subjects): mean 0.50, folds 0.40 to 0.60" in figure.layout.meta["alt"]
    assert "15 of 15 subjects also in training" in dots[0].customdata[0]


def test_the_legend_names_every_kind_of_mark_once():
    results = {name: make_folds([0.4, 0.6]) for name in "abc"}
    chance = {name: make_chance([0.4, 0.6]) for name in "ab"}
    figure = draw_folds(results, chance=chance, title="T")
    names = [trace.name for trace in figure.data if trace.showlegend]
    assert names == ["labels shuffled among subjects (95 %)", "split by subject: folds"]


def test_folds_without_a_value_are_left_out():
    figure = draw_folds({"a": make_folds([np.nan, np.nan])}, title="T")
    assert figure.layout.annotations[0].text == ""


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"results": {}}, ValueError, "at least one cross-validation"),
        ({"metric": "f1"}, ValueError, "metric must be one of accuracy"),
        ({"results": {"a": pd.DataFrame({"split": ["subject"]})}}, KeyError, "a: missing columns"),
        ({"chance": {"b": make_chance([0.5])}}, ValueError, "chance of 'b'"),
        ({"chance": {"a": make_chance([0.5], "auroc")}}, ValueError, "chance of 'a' is of auroc; expected accuracy"),
    ],
)
def test_folds_that_cannot_be_drawn_are_refused(given, error, said):
    given = {"results": {"a": make_folds([0.5, 0.6])}, "title": "T"} | given
    with pytest.raises(error, match=said):
        draw_folds(given.pop("results"), **given)


def test_differences_are_the_second_minus_the_first_with_the_verdict():
    pair = make_folds([0.5, 0.6, 0.7, 0.6]), make_folds([0.6, 0.6, 0.6, 0.7])
    figure = draw_fold_differences({"a": pair}, names=("light", "elaborate"), title="T")
    np.testing.assert_allclose(figure.data[0].x, [0.1, 0, -0.1, 0.1])
    # the mean 0.025; s = 0.0957; (1/4 + 20/80) of its square; 3.182 of them on 3 degrees of freedom
    assert figure.data[1].x[0] == pytest.approx(0.025)
    spread = np.std([0.1, 0, -0.1, 0.1], ddof=1)
    assert figure.data[1].error_x.array[0] == pytest.approx(3.18245 * np.sqrt(0.5) * spread, rel=1e-5)
    assert figure.layout.annotations[0].text == "not distinguishable"
    assert "(n = 16 subjects, 4 folds): +0.025" in figure.layout.meta["alt"]
    assert figure.layout.xaxis.range[0] == -figure.layout.xaxis.range[1]
    with pytest.raises(ValueError, match="at least one pair"):
        draw_fold_differences({}, names=("a", "b"), title="T")


# Intervals


def test_marks_of_a_row_have_their_intervals_and_none_where_there_is_none():
    figure = draw_interval_rows(INTERVALS, title="T")
    subject, record = figure.data
    assert list(subject.x) == [0.6, 0.7] and list(record.x) == [0.6]
    np.testing.assert_allclose(subject.error_x.array, [0.2, np.nan])
    np.testing.assert_allclose(record.error_x.arrayminus, [0.05])
    assert subject.y[0] < record.y[0] < subject.y[1], "one below the other, and the next row below both"
    assert list(figure.layout.yaxis.ticktext) == ["one<br>(n = 20)", "two<br>(n = 4)"]
    assert "two, subject: 0.70, n = 4 subjects" in figure.layout.meta["alt"]


def test_intervals_that_cannot_be_drawn_are_refused():
    with pytest.raises(KeyError, match="missing columns \\['mark'\\]"):
        draw_interval_rows(INTERVALS.drop(columns="mark"), title="T")
    with pytest.raises(ValueError, match="expected rows to draw"):
        draw_interval_rows(INTERVALS[:0], title="T")


# Spectra


def test_a_spectrum_is_in_decibel_a_line_for_each_window_and_the_mean():
    figure = draw_spectra(SPECTRA, title="T", place="O1")
    windows, mean = figure.data
    assert np.isnan(windows.y).sum() == 2, "two windows, each ended by a gap"
    np.testing.assert_allclose(mean.y[np.array(mean.x) == 10], 10)
    np.testing.assert_allclose(mean.y[np.array(mean.x) == 20], 0)
    assert "s1: highest between 7 and 13 Hz at 10.0 Hz, 2 windows" in figure.layout.meta["alt"]
    with pytest.raises(ValueError, match="at least one subject"):
        draw_spectra({}, title="T", place="O1")


# B-scans


def test_scans_are_drawn_two_to_a_row_from_black_to_white_the_eye_inside_up():
    scans = {name: np.linspace(0, 50, 12).reshape(3, 4) for name in "abc"}
    figure = draw_bscans(scans, title="T")
    assert [(trace.z.min(), trace.z.max()) for trace in figure.data] == 3 * [(0, 255)]
    assert figure.layout.yaxis.autorange == "reversed"
    left, right, below = (figure.layout[f"xaxis{number}"].domain for number in ("", "2", "3"))
    assert left[1] < right[0] and left == below
    assert figure.layout.yaxis3.domain[1] < figure.layout.yaxis.domain[0]
    assert [note.text for note in figure.layout.annotations] == ["a", "b", "c"]
    assert "a (4 x 3 pixels)" in figure.layout.meta["alt"]


def test_a_scan_that_is_all_alike_is_drawn():
    assert not draw_bscans({"a": np.full((3, 4), 7.0)}, title="T").data[0].z.any()


@pytest.mark.parametrize("scans", [{}, {"a": np.zeros(3)}, {"a": np.zeros((2, 2, 2))}])
def test_what_is_no_scan_is_refused(scans):
    with pytest.raises(ValueError, match="at least one scan, each \\(deep, across\\)"):
        draw_bscans(scans, title="T")


# Readers


def test_every_encoder_has_a_line_over_the_numbers_of_labelled_subjects():
    figure = draw_probes(PROBES, title="T")
    first, second = figure.data
    assert list(first.y) == [0.5, 0.6] and list(second.y) == [0.7, 0.8]
    assert list(figure.layout.xaxis.ticktext) == ["4", "8"]
    assert np.round(first.x).tolist() == [0, 1] and (np.array(first.x) < second.x).all(), "side by side"
    np.testing.assert_allclose(second.error_y.array, [0.1, np.nan])
    assert "b, 8 labelled: AUROC 0.80, 3 draws" in figure.layout.meta["alt"]
    assert "n = 30" in figure.layout.yaxis.title.text


def test_readers_that_cannot_be_drawn_are_refused():
    with pytest.raises(KeyError, match="missing columns"):
        draw_probes(PROBES.drop(columns="low"), title="T")
    with pytest.raises(ValueError, match="no rows"):
        draw_probes(PROBES[:0], title="T")
