"""Harmonization: what sites look like before and after, what is kept of the truth, and what still tells them apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from dqc_lib.figures.labels import fold, shorten_names
from dqc_lib.figures.rows import Rows, add_headings, add_intervals, add_texts, label_rows, stack_rows
from dqc_lib.figures.style import PALETTE, escape, start_figure

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

RAW, TRUTH = PALETTE["vermillion"], PALETTE["green"]
HARMONIZED = tuple(PALETTE[name] for name in ("blue", "purple", "orange", "sky blue", "black"))
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "x", "star")
SMALL = {"size": 13}
QUIET = {"color": PALETTE["grey"], "width": 1.5, "dash": "dot"}


def get_way_looks(ways: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return colour and symbol of every way to treat the data: "raw" and "truth" have theirs, others go by their place.

    Examples
    --------
    >>> get_way_looks(["raw", "ComBat"])["raw"]["color"] == RAW
    True
    """
    others = [way for way in ways if way != "raw" and not way.startswith("truth")]
    looks = {}
    for way in ways:
        at = others.index(way) + 1 if way in others else 0
        color = HARMONIZED[(at - 1) % len(HARMONIZED)] if at else TRUTH if way.startswith("truth") else RAW
        looks[way] = {"color": color, "symbol": SYMBOLS[at % len(SYMBOLS)]}
    return looks


def draw_site_distributions(stages: Mapping[str, pd.Series], sites: Sequence[str], *, title: str, axis: str) -> Figure:
    """Return one box per site and stage: how a feature is distributed at every site, one panel a stage.

    Parameters
    ----------
    stages : mapping of str to Series
        The feature of the same subjects as measured, harmonized, ...
    sites : sequence of str
        The subjects' sites.
    title : str
    axis : str
        The feature and its unit.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    where = np.asarray(sites)
    names = list(pd.unique(where))
    short = shorten_names(names, longest=10)
    medians = {
        stage: [float(np.median(np.asarray(values)[where == name])) for name in names]
        for stage, values in stages.items()
    }
    told = (f"{stage}: medians of sites from {min(found):.3g} to {max(found):.3g}" for stage, found in medians.items())
    alt = f"Box plots of {axis} at {len(names)} sites. {'; '.join(told)}."
    figure = start_figure(title=title, alt=alt, height=70 + 190 * len(stages))
    panels = make_subplots(rows=len(stages), cols=1, shared_xaxes=True, vertical_spacing=0.09, subplot_titles=[*stages])
    for note in panels.layout.annotations:
        note.update(text=escape(note.text), x=0, xanchor="left", font={"size": 13, "weight": 700})
    panels.update_layout(figure.layout.to_plotly_json())
    for row, (stage, look) in enumerate(get_way_looks(list(stages)).items(), start=1):
        for name in names:
            own = np.asarray(stages[stage], dtype=float)[where == name]
            label = f"{escape(short[name])}<br>{len(own)}"
            box = go.Box(
                **{"y": own, "x": [label] * len(own), "name": label, "marker": {"color": look["color"], "size": 4}},
                **{"line": {"width": 1.5}, "boxpoints": "all" if len(own) < 10 else "outliers", "showlegend": False},
            )
            panels.add_trace(box, row=row, col=1)
        panels.update_yaxes(title={"text": escape(axis), "font": SMALL}, row=row, col=1)
    low = min(float(np.min(values)) for values in stages.values())
    high = max(float(np.max(values)) for values in stages.values())
    panels.update_yaxes(range=[low - 0.05 * (high - low), high + 0.05 * (high - low)])
    panels.update_xaxes(tickfont={"size": 9}, tickangle=0)
    panels.update_xaxes(title={"text": "site, and n of its subjects", "font": SMALL}, row=len(stages), col=1)
    panels.update_layout(margin_t=figure.layout.margin.t + 20, height=figure.layout.height + 20)
    return panels


def draw_effects(table: pd.DataFrame, *, title: str, axis: str) -> Figure:
    """Return the estimated effect of every feature against the true one, a mark for each way; on the line they agree.

    Parameters
    ----------
    table : DataFrame
        One row a way and feature: columns way, feature, truth, estimate.
    title : str
    axis : str
        The effect and its unit.
    """
    import plotly.graph_objects as go

    looks = get_way_looks(list(pd.unique(table["way"])))
    errors = {
        way: float(np.sqrt(((part["estimate"] - part["truth"]) ** 2).mean())) for way, part in table.groupby("way")
    }
    told = ", ".join(f"{way} {errors[way]:.2f}" for way in looks)
    figure = start_figure(title=title, alt=f"Estimates against the truth; root mean square error: {told}.", height=430)
    span = [table[["truth", "estimate"]].min().min(), table[["truth", "estimate"]].max().max()]
    span = [span[0] - 0.06 * (span[1] - span[0]), span[1] + 0.06 * (span[1] - span[0])]
    figure.add_trace(
        go.Scatter(
            **{"x": span, "y": span, "mode": "lines", "line": QUIET, "name": "estimate = truth"}, hoverinfo="skip"
        )
    )
    for way, look in looks.items():
        part = table[table["way"] == way]
        marks = {"size": 8, "opacity": 0.8, "line": {"width": 0.7, "color": "#444444"}, **look}
        figure.add_trace(
            go.Scatter(
                **{"x": part["truth"], "y": part["estimate"], "mode": "markers", "marker": marks},
                name=f"{escape(way)} (n = {len(part)}, error {errors[way]:.2f})",
                customdata=[fold(name) for name in part["feature"]],
                hovertemplate="%{customdata}<br>true %{x:.2f}, estimated %{y:.2f}<extra></extra>",
            )
        )
    figure.update_xaxes(title={"text": f"true {escape(axis)}", "font": SMALL})
    figure.update_yaxes(title={"text": f"estimated {escape(axis)}", "font": SMALL}, range=span)
    figure.update_layout(margin_b=50 + 20 * (len(looks) + 1))
    return figure


def draw_ways(table: pd.DataFrame, *, title: str, axis: str, chance: str = "chance") -> Figure:
    """Return dots with intervals, a row for every way under the heading of what was measured, and ticks for chance.

    Parameters
    ----------
    table : DataFrame
        One row a heading and way: columns measured (the heading), way, value, low, high (shares), n, and, where there
        is one, by_chance.
    title : str
    axis : str
        What the shares are of, shown in %.
    chance : str
        What the ticks are called.
    """
    import plotly.graph_objects as go

    rows = table.rename(columns={"measured": "subgroup", "way": "group"})
    places = stack_rows(rows, n_marks=1)
    told = "; ".join(f"{row.subgroup}, {row.group}: {_tell(row)}" for row in rows.itertuples())
    figure = start_figure(title=title, alt=f"{told}.", height=90 + places.height)
    add_headings(figure, places)
    for way, look in get_way_looks(list(pd.unique(rows["group"]))).items():
        own = rows[(rows["group"] == way) & rows["value"].notna()]
        y = np.array([places.groups[key] for key in zip(own["subgroup"], own["group"], strict=True)])
        hover = [f"{fold(f'{row.subgroup}, {row.group}')}<br>{_tell(row)}" for row in own.itertuples()]
        add_intervals(figure, 100 * own[["value", "low", "high"]], y, told=hover, name=escape(way), look=look)
        add_texts(figure, x=104.0, y=y, texts=[f"{100 * row.value:.0f} % of {row.n}" for row in own.itertuples()])
    if "by_chance" in rows:
        x, y = _outline_ticks(rows, places)
        figure.add_trace(
            go.Scatter(x=x, y=y, mode="lines", line={**QUIET, "width": 2}, name=escape(chance), hoverinfo="skip")
        )
    label_rows(figure, places, dict.fromkeys(places.groups), counted="")
    figure.update_yaxes(title=None)
    figure.update_xaxes(title={"text": f"{escape(axis)} (%)", "font": {"size": 13}}, range=[-3, 104])
    figure.update_layout(margin_r=92, showlegend="by_chance" in rows)
    for trace in figure.data:
        trace.showlegend = trace.mode == "lines"  # the rows name the ways
    return figure


def _tell(row) -> str:
    if np.isnan(row.value):
        return f"not defined, of {row.n}"
    by_chance = getattr(row, "by_chance", np.nan)
    said = f"{100 * row.value:.0f} % ({100 * row.low:.0f} to {100 * row.high:.0f}) of {row.n}"
    return said if np.isnan(by_chance) else f"{said}, chance {100 * by_chance:.0f} %"


def _outline_ticks(rows: pd.DataFrame, places: Rows) -> tuple[list, list]:
    """Return upright lines at the chance of every row."""
    x, y = [], []
    for row in rows.itertuples():
        middle = places.groups[row.subgroup, row.group]
        x += [100 * row.by_chance, 100 * row.by_chance, None]
        y += [middle - 13, middle + 13, None]
    return x, y
