"""Figures of synthetic patients: what stands where, what is told in words, and one colour for an arm everywhere."""

import numpy as np
import pandas as pd
import pytest

from dqc_lib.figures import (
    draw_arms_by_shift,
    draw_autocorrelation,
    draw_fidelity,
    draw_persistence,
    draw_shift,
    draw_utility,
)
from dqc_lib.figures.style import PALETTE
from dqc_lib.figures.synthesis import SYNTHESIS_COLORS, get_arm_looks

HOSTILE = '<img src=x onerror="alert(1)">'
SHOWN = '&lt;img src=x onerror="alert(1)"&gt;'


def find(figure, name):
    """Return the one trace whose legend begins with a name."""
    (trace,) = [trace for trace in figure.data if (trace.name or "").startswith(name)]
    return trace


# what is drawn, also by the test of hostile names


def make_shift():
    rows = []
    found = (("A", "B", 80, 0.1, 9.0), ("A", "C", 60, 0.02, 1.0), ("B", "C", 60, -0.001, 0.1))
    for first, second, n, value, z in found:
        sizes = {"n_first": 100 if first == "A" else 80, "n_second": n}
        pair = {"first": first, "second": second, "no_shift": 0.0, "noise": 0.01, "z": z, **sizes}
        rows.append(pair | {"measure": "mmd_squared", "value": value, "low": np.nan, "high": np.nan})
        rows.append(pair | {"measure": "classifier_auroc", "value": 0.75, "low": 0.7, "high": 0.8, "no_shift": 0.5})
    return pd.DataFrame(rows)


def draw_pairs(title, name=""):
    table = make_shift()
    return draw_shift(table.assign(first=table["first"] + name, second=table["second"] + name), title=title)


def make_lags(name=""):
    rows = []
    for sample, values in ((f"real{name}", (0.8, 0.4)), (f"shuffled{name}", (0.5, 0.5))):
        for lag, value in enumerate(values, start=1):
            span = {"low": value - 0.1, "high": value + 0.1, "n_codes": 24, "n_patients": 50}
            rows.append({"sample": sample, "lag": lag, "value": value, **span})
    return pd.DataFrame(rows)


def draw_lags(title, name=""):
    return draw_autocorrelation(make_lags(name), title=title)


def make_codes(name=""):
    columns = {"code": [f"a{name}", "b", "c"], "persistence_real": [0.9, 0.5, np.nan]}
    return pd.DataFrame(columns | {"persistence_synthetic": [0.7, 0.5, 0.2], "n_real": 40, "n_synthetic": 30})


def draw_codes(title, name=""):
    return draw_persistence({f"averaging{name}": make_codes(name), f"other{name}": make_codes(name)}, title=title)


def make_measures(name=""):
    rows = []
    for arm, values in ((f"averaging{name}", (0.1, 0.9)), (f"travelling{name}", (0.2, 0.8))):
        for measure, value in zip(("persistence_gap", "prevalence_r2"), values, strict=True):
            direction = "lower" if measure == "persistence_gap" else "higher"
            row = {"arm": arm, "measure": measure, "value": value, "low": value - 0.05, "high": value + 0.05}
            row |= {"direction": direction, "n_synthetic": 300, "control": 0.3 if direction == "lower" else 1.0}
            rows.append(row | {"floor": 0.02 if direction == "lower" else 0.97})
    return pd.DataFrame(rows)


def draw_measures(title, name=""):
    return draw_fidelity(make_measures(name), title=title)


def make_hospitals(name=""):
    rows = []
    for hospital, value in ((f"A{name}", 0.7), (f"B{name}", np.nan)):
        row = {"arm": f"local{name}", "hospital": hospital, "n_positive": 12, "n_negative": 30}
        for kind, at in (("tstr", value), ("trtr", value + 0.1)):
            row |= {kind: at, f"{kind}_low": at - 0.1, f"{kind}_high": at + 0.1}
        rows.append(row)
    return pd.DataFrame(rows)


def draw_hospitals(title, name=""):
    return draw_utility(make_hospitals(name), title=title)


def make_knob(name=""):
    rows = [
        {"arm": f"{arm}{name}", "shift": shift, "value": shift + at, "low": shift + at - 0.1, "high": shift + at + 0.1}
        for at, arm in enumerate(("averaging", "matched averaging"))
        for shift in (1.0, 0.0)
    ]
    return pd.DataFrame(rows).assign(n=5)


def draw_over_shift(title, name=""):
    return draw_arms_by_shift(make_knob(name), title=title, y=f"gap{name}")


DRAWINGS = (draw_pairs, draw_lags, draw_codes, draw_measures, draw_hospitals, draw_over_shift)


# what stands where


def test_an_arm_has_its_colour_by_the_longest_word_and_variants_differ_by_symbol():
    names = ["averaging", "matched averaging", "averaging, independent starts", "Centralized", "mine", "yours"]
    looks = get_arm_looks(names)
    assert [looks[name]["color"] for name in names[:4]] == [
        *(SYNTHESIS_COLORS[word] for word in ("averaging", "matched averaging", "averaging", "centralized"))
    ]
    assert len({tuple(look.values()) for look in looks.values()}) == 6
    assert len(set(SYNTHESIS_COLORS.values())) == len(SYNTHESIS_COLORS)
    assert get_arm_looks(["travelling"])["travelling"] == get_arm_looks(["real", "travelling"])["travelling"]


def test_a_map_has_a_cell_for_every_pair_bold_where_it_is_beyond_chance():
    figure = draw_pairs("t")
    mmd, auroc = (trace for trace in figure.data if trace.type == "heatmap")
    assert figure.layout.legend.title.text.startswith("bold: more than 3 standard deviations")
    assert list(mmd.x) == ["A (100)", "A (100)", "B (80)"] and list(mmd.y) == ["B (80)", "C (60)", "C (60)"]
    assert list(mmd.text) == ["<b>0.100</b>", "0.020", "-0.001"]
    assert list(auroc.z) == [0.75] * 3 and auroc.zmin == 0.5
    assert "MMD, squared: -0.001 to 0.100, 1 of 3 pairs clearly beyond no shift" in figure.layout.meta["alt"]
    assert "0.7500 (0.7000 to 0.8000)" in auroc.customdata[0] and "without a shift 0.5000" in auroc.customdata[0]


def test_the_control_of_the_autocorrelation_is_dotted_and_grey():
    figure = draw_lags("t")
    real, shuffled = find(figure, "real (n = 50)"), find(figure, "shuffled (n = 50)")
    assert list(real.x) == [1, 2] and list(real.y) == [0.8, 0.4]
    assert (shuffled.line.dash, shuffled.line.color) == ("dot", PALETTE["grey"])
    assert "real: 0.80 after 1, 0.40 after 2" in figure.layout.meta["alt"]


def test_persistence_stands_against_real_and_codes_without_one_are_left_out():
    figure = draw_codes("t")
    marks = find(figure, "averaging")
    assert list(marks.x) == [0.9, 0.5] and list(marks.y) == [0.7, 0.5]
    assert marks.name == "averaging (n = 2 codes, gap 0.10)"
    assert "averaging 0.100 over 2 codes" in figure.layout.meta["alt"]


def test_every_measure_has_its_panel_with_control_and_floor():
    figure = draw_measures("t")
    dots = [trace for trace in figure.data if trace.mode == "markers"]
    assert [trace.x[0] for trace in dots] == [0.1, 0.2, 0.9, 0.8]
    assert dots[0].error_x.array[0] == pytest.approx(0.05)
    assert dots[1].marker.color == SYNTHESIS_COLORS["travelling"]
    levels = [trace.x[0] for trace in figure.data if trace.mode == "lines" and trace.x[0] is not None]
    assert levels == [0.3, 0.02, 1.0, 0.97]
    assert [note.text for note in figure.layout.annotations] == [
        "<b>persistence, gap (lower is better)</b>",
        "<b>prevalence, R² (higher is better)</b>",
    ]
    assert "averaging 0.100 (0.050 to 0.150)" in figure.layout.meta["alt"]
    assert "real records, visits shuffled 0.300; other real patients 0.020" in figure.layout.meta["alt"]


def test_measures_may_be_chosen_and_references_may_be_missing():
    table = make_measures().drop(columns=["control", "floor"])
    figure = draw_fidelity(table, title="t", measures=["prevalence_r2"])
    assert [trace.mode for trace in figure.data] == ["markers", "markers"]
    with pytest.raises(ValueError, match="measures must be of the table.*'beauty'"):
        draw_fidelity(table, title="t", measures=["beauty"])


def test_a_hospital_has_a_mark_for_real_and_for_every_arm_and_says_where_there_is_none():
    figure = draw_hospitals("t")
    real, local = find(figure, "real patients"), find(figure, "local")
    assert list(real.x) == [pytest.approx(0.8)] and list(local.x) == [0.7]
    assert real.y[0] < 0 < local.y[0] and local.error_x.array[0] == pytest.approx(0.1)
    assert "A, local: 0.70 (0.60 to 0.80)" in figure.layout.meta["alt"]
    assert "B, local: not defined" in figure.layout.meta["alt"]
    assert figure.layout.yaxis.ticktext[0] == "A<br>(12 with, 30 without)"


def test_utility_of_one_arm_needs_no_name():
    figure = draw_utility(make_hospitals().drop(columns="arm"), title="t")
    assert list(find(figure, "synthetic").x) == [0.7]


def test_arms_have_lines_and_bands_over_the_knob():
    figure = draw_over_shift("t")
    line = find(figure, "matched averaging (n = 5)")
    assert list(line.x) == [0.0, 1.0] and list(line.y) == [1.0, 2.0]
    assert line.line.color == SYNTHESIS_COLORS["matched averaging"]
    bands = [trace for trace in figure.data if trace.fill == "toself"]
    assert list(bands[0].y) == pytest.approx([0.1, 1.1, 0.9, -0.1])
    assert "At 1: averaging 1.000 (0.900 to 1.100), matched averaging 2.000" in figure.layout.meta["alt"]


def test_a_line_without_intervals_has_a_band_of_no_width():
    figure = draw_arms_by_shift(make_knob().assign(low=np.nan, high=np.nan), title="t", y="gap")
    bands = [trace for trace in figure.data if trace.fill == "toself"]
    assert list(bands[0].y) == [0.0, 1.0, 1.0, 0.0]
    assert "averaging 1.000, matched" in figure.layout.meta["alt"]


@pytest.mark.parametrize("draw", [draw_lags, draw_codes, draw_hospitals, draw_over_shift])
def test_the_legend_hangs_below_the_axis_with_room_for_a_column_of_its_entries(draw):
    figure = draw("t")
    layout, legend = figure.layout, figure.layout.legend
    entries = [trace for trace in figure.data if trace.name and trace.showlegend is not False]
    plot = layout.height - layout.margin.t - layout.margin.b
    assert (legend.yref, legend.yanchor) == ("paper", "top")
    assert plot > 100 and -legend.y * plot == pytest.approx(52), "below the numbers and the title of the axis"
    assert layout.margin.b >= 52 + 20 * len(entries)


@pytest.mark.parametrize("draw", DRAWINGS)
def test_names_are_shown_and_not_obeyed(draw, list_texts):
    texts = list_texts(draw(f"Title {HOSTILE}", HOSTILE))
    assert not [text for text in texts if "<img" in text]
    assert [text for text in texts if SHOWN[:8] in text]


@pytest.mark.parametrize(
    ("draw", "table", "more"),
    [
        (draw_shift, make_shift(), {}),
        (draw_autocorrelation, make_lags(), {}),
        (draw_fidelity, make_measures(), {}),
        (draw_utility, make_hospitals(), {}),
        (draw_arms_by_shift, make_knob(), {"y": "gap"}),
    ],
)
def test_tables_without_a_column_and_without_a_row_are_refused(draw, table, more):
    kept = "tstr" if draw is draw_utility else "value"
    with pytest.raises(KeyError, match=f"missing columns.*{kept}"):
        draw(table.drop(columns=kept), title="t", **more)
    with pytest.raises(ValueError, match="at least one row to draw"):
        draw(table.iloc[:0], title="t", **more)


def test_no_arm_gives_no_figure_of_persistence():
    with pytest.raises(ValueError, match="at least one arm"):
        draw_persistence({}, title="t")
