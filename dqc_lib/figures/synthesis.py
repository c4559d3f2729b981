"""Synthetic patients: how far hospitals are apart, what the arms keep of real records, and what that is good for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from dqc_lib.figures.confounding import add_line
from dqc_lib.figures.harmonization import QUIET, SMALL
from dqc_lib.figures.labels import fold, shorten_names
from dqc_lib.figures.style import OTHER_COLORS, PALETTE, escape, hang_legend, start_figure

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

SYNTHESIS_COLORS = MappingProxyType(
    {
        "real": PALETTE["black"],
        "shuffled": PALETTE["grey"],
        "centralized": PALETTE["sky blue"],
        "local": PALETTE["orange"],
        "averaging": PALETTE["vermillion"],
        "matched averaging": PALETTE["purple"],
        "distribution-aware": PALETTE["green"],
        "travelling": PALETTE["blue"],
    }
)
"""Colour of an arm by the longest of these words in its name; real records and their shuffled copy have one too."""
SYMBOLS = ("circle", "circle-open", "diamond", "diamond-open", "square", "square-open")
MEASURE_NAMES = MappingProxyType(
    {
        "jensen_shannon": "Jensen-Shannon divergence (bits)",
        "mmd_squared": "MMD, squared",
        "classifier_auroc": "classifier, AUROC",
        "classifier_accuracy": "classifier, balanced accuracy",
        "prevalence_gap": "prevalence, gap",
        "prevalence_r2": "prevalence, R²",
        "cooccurrence_gap": "co-occurrence, gap",
        "persistence_gap": "persistence, gap",
        "autocorrelation_gap": "autocorrelation, gap",
        "onset_gap": "onset of another code, gap",
        "order_gap": "which code comes first, gap",
        "trend_gap": "trend over visits, gap",
    }
)
CLEAR = 3.0  # standard deviations beyond what is found without a shift


def get_arm_looks(names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the colour and the symbol of every arm: variants of one arm share the colour.

    Examples
    --------
    >>> get_arm_looks(["averaging", "averaging, own starts"])["averaging, own starts"]
    {'color': '#D55E00', 'symbol': 'circle-open'}
    """
    looks, used, n_others = {}, [], 0
    for name in dict.fromkeys(names):
        words = sorted((word for word in SYNTHESIS_COLORS if word in str(name).lower()), key=len)
        color = SYNTHESIS_COLORS[words[-1]] if words else OTHER_COLORS[(n_others + 3) % len(OTHER_COLORS)]
        n_others += not words
        looks[name] = {"color": color, "symbol": SYMBOLS[used.count(color) % len(SYMBOLS)]}
        used.append(color)
    return looks


def require_rows(table: pd.DataFrame, columns: Sequence[str]) -> None:
    """Raise unless the table has the columns, and rows to draw."""
    if missing := [name for name in columns if name not in table]:
        raise KeyError(f"missing columns {missing}; the table has {list(table.columns)}")
    if table.empty:
        raise ValueError("expected at least one row to draw, got none")


def tell(row: Mapping[str, float], *, digits: int = 3) -> str:
    """Return "0.123 (0.100 to 0.150)", the value alone without an interval, and "not defined" without a value."""
    if np.isnan(row["value"]):
        return "not defined"
    span = "" if np.isnan(row["low"]) else f" ({row['low']:.{digits}f} to {row['high']:.{digits}f})"
    return f"{row['value']:.{digits}f}{span}"


def draw_shift(table: pd.DataFrame, *, title: str) -> Figure:
    """Return a map of hospital pairs for every measure of shift, darker where they are further apart.

    Numbers that are more than 3 standard deviations beyond what hospitals without a shift would show are bold.

    Parameters
    ----------
    table : DataFrame
        Of `report_shift` or `measure_shift`.
    title : str
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    require_rows(table, ("first", "second", "measure", "value", "low", "high", "no_shift", "z", "n_first", "n_second"))
    measures = list(table["measure"].unique())
    sizes = dict(zip(table["first"], table["n_first"], strict=True))
    sizes |= dict(zip(table["second"], table["n_second"], strict=True))
    short = shorten_names(sizes, longest=10)
    n_rows = -(-len(measures) // 2)
    alt = f"Every two of {len(sizes)} hospitals. {'; '.join(_tell_measure(table, name) for name in measures)}."
    figure = start_figure(title=title, alt=alt, height=70 + (110 + 30 * len(sizes)) * n_rows)
    panels = make_subplots(
        rows=n_rows,
        cols=min(2, len(measures)),
        **{"subplot_titles": [escape(MEASURE_NAMES.get(name, name)) for name in measures]},
        **{"vertical_spacing": 0.5 / n_rows, "horizontal_spacing": 0.24},
    )
    panels.update_annotations(font={"size": 12})
    panels.update_layout(figure.layout.to_plotly_json())
    for at, measure in enumerate(measures):
        part = table[table["measure"] == measure]
        where = {"row": at // 2 + 1, "col": at % 2 + 1}
        top = max(float(part["value"].max()), float(part["no_shift"].max()) + 1e-9)
        tones = [[0, "#ffffff"], [1, PALETTE["sky blue"]]]
        sides = [part["first"], part["second"]]
        places = [[f"{escape(short[name])} ({sizes[name]})" for name in side] for side in sides]
        digits = 2 if measure.startswith("classifier") else 3
        texts = [f"{value:z.{digits}f}" for value in part["value"]]
        texts = [f"<b>{text}</b>" if z > CLEAR else text for text, z in zip(texts, part["z"], strict=True)]
        told = [_tell_pair(row) for row in part.to_dict("records")]
        common = {"x": places[0], "y": places[1], "customdata": told, "hovertemplate": "%{customdata}<extra></extra>"}
        scale = {"zmin": float(part["no_shift"].min()), "zmax": top, "colorscale": tones, "showscale": False}
        written = {"text": texts, "texttemplate": "%{text}", "textfont": {"size": 10}}
        panels.add_trace(go.Heatmap(z=part["value"], **written, **common, **scale), **where)
    panels.update_xaxes(tickfont={"size": 10}, tickangle=-45, showgrid=False)
    panels.update_yaxes(tickfont={"size": 10}, autorange="reversed", showgrid=False, automargin=True)
    note = {"x": 0, "xref": "paper", "xanchor": "left", "y": 0, "yref": "container", "yanchor": "bottom"}
    words = f"bold: more than {CLEAR:.0f} standard deviations beyond what no shift shows"
    panels.update_layout(legend=note | {"title": {"text": words, "font": {"size": 11}}}, showlegend=True)
    _add_key(panels)
    panels.update_layout(margin_t=figure.layout.margin.t + 24, margin_b=110, height=figure.layout.height + 60)
    return panels


def _add_key(panels: Figure) -> None:
    """Add an entry without a name, as plotly shows no legend, and so no title of one, without any."""
    import plotly.graph_objects as go

    panels.add_trace(go.Scatter(x=[None], y=[None], mode="lines", line={"width": 0}, name=" "))


def _tell_measure(table: pd.DataFrame, measure: str) -> str:
    part = table[table["measure"] == measure]
    clear = int((part["z"] > CLEAR).sum())
    return (
        f"{MEASURE_NAMES.get(measure, measure)}: {part['value'].min():.3f} to {part['value'].max():.3f}, {clear} of"
        f" {len(part)} pairs clearly beyond no shift"
    )


def _tell_pair(row: Mapping[str, object]) -> str:
    said = f"{fold(row['first'])} (n = {row['n_first']})<br>{fold(row['second'])} (n = {row['n_second']})<br>"
    return f"{said}{tell(row, digits=4)}<br>without a shift {row['no_shift']:.4f}, z = {row['z']:.1f}"


def draw_autocorrelation(table: pd.DataFrame, *, title: str) -> Figure:
    """Return the mean autocorrelation of codes over the visits between, a line for every sample.

    Parameters
    ----------
    table : DataFrame
        Of `tabulate_autocorrelation`. A sample that is called "shuffled" is the control and dotted.
    title : str
    """
    import plotly.graph_objects as go

    require_rows(table, ("sample", "lag", "value", "low", "high", "n_codes", "n_patients"))
    looks = get_arm_looks(list(table["sample"]))
    parts = {name: table[table["sample"] == name].sort_values("lag") for name in looks}
    alt = f"Mean autocorrelation of codes over the visits between. {'; '.join(map(_tell_ends, parts.values()))}."
    figure = start_figure(title=title, alt=alt, height=360)
    for name, look in looks.items():
        part, rows = parts[name], parts[name].to_dict("records")
        told = [
            f"{fold(name)}<br>{row['value']:.2f} after {row['lag']} visits<br>middle half of {row['n_codes']} codes:"
            f" {row['low']:.2f} to {row['high']:.2f}"
            for row in rows
        ]
        line = {"color": look["color"], "width": 2, "dash": "dot" if "shuffled" in str(name).lower() else "solid"}
        legend = f"{escape(name)} (n = {rows[0]['n_patients']})"
        marks = {"x": part["lag"], "y": part["value"], "mode": "lines+markers", "line": line, "name": legend}
        hover = {"customdata": told, "hovertemplate": "%{customdata}<extra></extra>"}
        figure.add_trace(go.Scatter(**marks, **hover, marker={"size": 8, **look}))
    figure.update_xaxes(title={"text": "visits between", "font": SMALL}, dtick=1)
    figure.update_yaxes(title={"text": "autocorrelation, mean over codes", "font": SMALL}, rangemode="tozero")
    hang_legend(figure, n=len(looks))
    return figure


def _tell_ends(part: pd.DataFrame) -> str:
    """Return a sample's first and last autocorrelation in words."""
    ends = ", ".join(f"{row.value:.2f} after {row.lag}" for row in part.iloc[[0, -1]].itertuples())
    return f"{part['sample'].iloc[0]}: {ends}"


def draw_persistence(tables: Mapping[str, pd.DataFrame], *, title: str) -> Figure:
    """Return the persistence of every code, synthetic against real, a mark for each arm; on the line they agree.

    Parameters
    ----------
    tables : mapping of str to DataFrame
        Of `tabulate_codes`, by arm.
    title : str
    """
    import plotly.graph_objects as go

    if not tables:
        raise ValueError("expected at least one arm to draw, got none")
    needed = ("code", "persistence_real", "persistence_synthetic", "n_real", "n_synthetic")
    parts, gaps = {}, {}
    for arm, table in tables.items():
        require_rows(table, needed)
        parts[arm] = table.dropna(subset=["persistence_real", "persistence_synthetic"])
        gaps[arm] = (parts[arm]["persistence_synthetic"] - parts[arm]["persistence_real"]).abs().mean()
    told = "; ".join(f"{arm} {gap:.3f} over {len(parts[arm])} codes" for arm, gap in gaps.items())
    alt = f"Probability that a code is there again at the next visit; mean gap: {told}."
    figure = start_figure(title=title, alt=alt, height=420)
    ends = {"mode": "lines", "line": QUIET, "name": "synthetic = real", "hoverinfo": "skip"}
    figure.add_trace(go.Scatter(x=[0, 1], y=[0, 1], **ends))
    for arm, look in get_arm_looks(list(tables)).items():
        part = parts[arm]
        told = [f"{fold(arm)}<br>{fold(row.code)}, n = {row.n_real} and {row.n_synthetic}" for row in part.itertuples()]
        figure.add_trace(
            go.Scatter(
                **{"x": part["persistence_real"], "y": part["persistence_synthetic"], "mode": "markers"},
                **{"marker": {"size": 9, "opacity": 0.85, **look}, "customdata": told},
                **{"name": f"{escape(arm)} (n = {len(part)} codes, gap {gaps[arm]:.2f})"},
                hovertemplate="%{customdata}<br>real %{x:.2f}, synthetic %{y:.2f}<extra></extra>",
            )
        )
    figure.update_xaxes(title={"text": "persistence in real records", "font": SMALL}, range=[-0.02, 1.02])
    figure.update_yaxes(title={"text": "persistence in synthetic records", "font": SMALL}, range=[-0.02, 1.02])
    hang_legend(figure, n=len(tables) + 1)
    return figure


def draw_arms_by_shift(table: pd.DataFrame, *, title: str, y: str, x: str = "shift between hospitals") -> Figure:
    """Return a line with its band for every arm over the knob that drives hospitals apart.

    Parameters
    ----------
    table : DataFrame
        One row an arm and shift: columns arm, shift, value, low, high, n (patients, or runs, behind each).
    title : str
    y, x : str
        Names of the axes, with units.
    """
    require_rows(table, ("arm", "shift", "value", "low", "high", "n"))
    looks = get_arm_looks(list(table["arm"]))
    ends = table[table["shift"] == table["shift"].max()].set_index("arm")
    told = ", ".join(f"{arm} {tell(row)}" for arm, row in ends.to_dict("index").items())
    alt = f"Lines of {y} over {x}. At {table['shift'].max():g}: {told}."
    figure = start_figure(title=title, alt=alt, height=max(380, 230 + 28 * len(looks)))
    for arm, look in looks.items():
        part = table[table["arm"] == arm].rename(columns={"shift": "knob"}).sort_values("knob")
        add_line(figure, part.fillna({"low": part["value"], "high": part["value"]}), arm, look)
    figure.update_xaxes(title={"text": escape(x), "font": SMALL})
    figure.update_yaxes(title={"text": escape(y), "font": SMALL})
    hang_legend(figure, n=len(looks))
    return figure
