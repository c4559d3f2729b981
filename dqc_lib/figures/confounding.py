"""What a result turns into while a knob is turned, and what harmonization gives for what it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from dqc_lib.figures.harmonization import QUIET, SMALL, get_way_looks
from dqc_lib.figures.labels import fold
from dqc_lib.figures.style import PALETTE, escape, fade, start_figure

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


def draw_knob(table: pd.DataFrame, *, title: str, x: str, y: str, level: float | None = None, said: str = "") -> Figure:
    """Return one line with its band for every way, over a knob that is turned.

    Parameters
    ----------
    table : DataFrame
        One row a way and place of the knob: columns way, knob, value, low, high, n (studies behind each; NaN for what
        was not measured, a theory, which is drawn as a dotted line).
    title : str
    x, y : str
        Names of the axes, with units.
    level : float, optional
        Where a dotted line lies; `said` tells what it means.
    """
    import plotly.graph_objects as go

    measured = table[table["n"].notna()]
    looks = get_way_looks(list(pd.unique(measured["way"])))
    ends = table[table["knob"] == table["knob"].max()].set_index("way")["value"]
    told = ", ".join(f"{way} {end:.2f}" for way, end in ends.items())
    alt = f"Lines of {y} over {x}. At {table['knob'].max():g}: {told}."
    figure = start_figure(title=title, alt=alt, height=390)
    lines = {way: part.sort_values("knob") for way, part in table[table["n"].isna()].groupby("way", sort=False)}
    if level is not None:
        span = [table["knob"].min(), table["knob"].max()]
        lines[said] = pd.DataFrame({"knob": span, "value": [level, level]})
    for name, line in lines.items():
        drawn = {"x": line["knob"], "y": line["value"], "mode": "lines", "line": QUIET}
        figure.add_trace(go.Scatter(**drawn, name=escape(name), hoverinfo="skip"))
    for way, look in looks.items():
        add_line(figure, measured[measured["way"] == way].sort_values("knob"), way, look)
    figure.update_xaxes(title={"text": escape(x), "font": SMALL})
    figure.update_yaxes(title={"text": escape(y), "font": SMALL})
    figure.update_layout(margin_b=56 + 20 * (len(looks) + len(lines)))
    return figure


def add_line(figure: Figure, part: pd.DataFrame, way: str, look: dict[str, str]) -> None:
    """Add a way's line over its band."""
    import plotly.graph_objects as go

    band = {"x": [*part["knob"], *part["knob"][::-1]], "y": [*part["high"], *part["low"][::-1]], "fill": "toself"}
    quiet = {"hoverinfo": "skip", "showlegend": False, "legendgroup": escape(way)}
    figure.add_trace(go.Scatter(**band, mode="lines", fillcolor=fade(look["color"], 0.13), line={"width": 0}, **quiet))
    hover = "%{customdata}<br>%{x}: %{y:.2f}<extra></extra>"
    figure.add_trace(
        go.Scatter(
            **{"x": part["knob"], "y": part["value"], "mode": "lines+markers", "marker": {"size": 8, **look}},
            **{"line": {"color": look["color"], "width": 2}, "legendgroup": escape(way), "hovertemplate": hover},
            customdata=[fold(way)] * len(part),
            name=f"{escape(way)} (n = {part['n'].max():.0f})",
        )
    )


def draw_trade(
    table: pd.DataFrame, lineage: pd.DataFrame | None = None, *, title: str, lineage_name: str = ""
) -> Figure:
    """Return how well the diagnosis and how well the scanner is found, an arrow from raw to harmonized.

    Wanted: up (diagnosis) and to the left (scanner).

    Parameters
    ----------
    table : DataFrame
        Two rows, before and after: columns way, n, accuracy, low, high, scanner_accuracy, scanner_low, scanner_high
        (shares).
    lineage : DataFrame, optional
        Two rows of somebody else's: way, accuracy, scanner_accuracy; drawn in grey.
    title, lineage_name : str
    """
    import plotly.graph_objects as go

    told = "; ".join(
        f"{row.way}: diagnosis {100 * row.accuracy:.0f} %, scanner {100 * row.scanner_accuracy:.0f} %, n = {row.n}"
        for row in table.itertuples()
    )
    figure = start_figure(title=title, alt=f"{told}.", height=400)
    looks = get_way_looks(list(table["way"]))
    for row in table.itertuples():
        x, y = 100 * row.scanner_accuracy, 100 * row.accuracy
        spread = {
            f"error_{axis}": {
                **{"type": "data", "symmetric": False, "array": [100 * high - value], "width": 0, "thickness": 1.5},
                "arrayminus": [value - 100 * low],
            }
            for axis, value, low, high in (("x", x, row.scanner_low, row.scanner_high), ("y", y, row.low, row.high))
        }
        marks = {"size": 12, "line": {"width": 0.7, "color": "#444444"}, **looks[row.way]}
        figure.add_trace(
            go.Scatter(x=[x], y=[y], mode="markers", marker=marks, name=f"{escape(row.way)} (n = {row.n})", **spread)
        )
    _add_arrow(figure, table, color=PALETTE["black"])
    if lineage is not None:
        x, y = 100 * lineage["scanner_accuracy"], 100 * lineage["accuracy"]
        marks = {"size": 10, "color": PALETTE["grey"], "symbol": ["circle-open", "diamond-open"]}
        figure.add_trace(go.Scatter(x=x, y=y, mode="markers", marker=marks, name=escape(lineage_name)))
        _add_arrow(figure, lineage, color=PALETTE["grey"])
    figure.update_xaxes(title={"text": "accuracy of the scanner (%), lower is better", "font": SMALL}, range=[0, 102])
    figure.update_yaxes(title={"text": "accuracy of the diagnosis (%)", "font": SMALL}, range=[40, 102])
    figure.update_layout(margin_b=56 + 20 * (len(table) + (lineage is not None)))
    return figure


def _add_arrow(figure: Figure, table: pd.DataFrame, *, color: str) -> None:
    (ax, ay), (x, y) = (100 * table[["scanner_accuracy", "accuracy"]]).to_numpy()
    figure.add_annotation(
        **{"x": x, "y": y, "ax": ax, "ay": ay, "xref": "x", "yref": "y", "axref": "x", "ayref": "y", "text": ""},
        **{
            "showarrow": True,
            "arrowhead": 2,
            "arrowwidth": 1.5,
            "arrowcolor": color,
            "standoff": 8,
            "startstandoff": 8,
        },
    )
