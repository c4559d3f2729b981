"""The table of arms by criteria as a figure: what was measured, with intervals, and what was not."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from dqc_lib.figures.labels import fold, shorten_names
from dqc_lib.figures.style import PALETTE, escape, start_figure
from dqc_lib.synthesis.criteria import CRITERIA, NOT_MEASURED, Finding, check_findings, list_criteria

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

TONES = [[0, "#ffffff"], [1, "#f3b37a"]]
ROW = 52  # pixels
NARROW = 9  # characters to a line above a column, so that six columns stand side by side on 400 pixels
HEAD, SMALL = ({"size": size, "color": "#1c2128"} for size in (10, 11))


def draw_criteria(findings: Mapping[str, Mapping[str, Finding]], *, title: str) -> Figure:
    """Return a table with a row for each arm and a column for each criterion, darker where an arm does worse.

    Tones compare the arms within a column, from its lowest to its highest value; there are none where all are alike,
    where all intervals have a value in common, and where a finding that was counted (n above 0) has no interval. An
    infinite value is the darkest. Grey is what was not measured.

    Parameters
    ----------
    findings : mapping of str to mapping of str to Finding
        By arm and criterion, as in `tabulate_criteria`; of all criteria lower is better.
    title : str
    """
    import plotly.graph_objects as go

    held = check_findings(findings)
    asked, arms = list_criteria(held), list(held)
    cells = [[held[arm].get(name, Finding()) for name in asked] for arm in arms]
    said = "; ".join(f"{arm}: {_tell_row(asked, row)}" for arm, row in zip(arms, cells, strict=True))
    alt = f"Arms by criteria, lower is better, intervals in brackets. {said}."
    figure = start_figure(title=title, alt=alt, height=100 + ROW * len(arms), showlegend=False)
    tones = np.array([_shade([row[at] for row in cells]) for at in range(len(asked))]).T
    told = [
        [_tell_cell(arm, name, one) for name, one in zip(asked, row, strict=True)]
        for arm, row in zip(arms, cells, strict=True)
    ]
    look = {"colorscale": TONES, "zmin": 0, "zmax": 1, "showscale": False, "xgap": 2, "ygap": 2}
    places = {"x": list(range(len(asked))), "y": list(range(len(arms)))}
    hover = {"customdata": told, "hovertemplate": "%{customdata}<extra></extra>", "hoverongaps": True}
    figure.add_trace(go.Heatmap(z=tones, **places, **look, **hover))
    for down, row in enumerate(cells):
        for across, one in enumerate(row):
            text = str(one).replace(" [", "<br>[") if str(one) != NOT_MEASURED else "not<br>measured"
            color = PALETTE["grey"] if text.startswith("not") else "#1c2128"
            font = {"size": 10 if "[" in text or text.startswith("not") else 13, "color": color}
            figure.add_annotation(x=across, y=down, text=text.replace(", ", " to "), showarrow=False, font=font)
    heads = ["<br>".join(textwrap.wrap(CRITERIA[name], NARROW, break_long_words=False)) for name in asked]
    above = {"side": "top", "tickvals": places["x"], "ticktext": heads, "tickangle": 0, "tickfont": HEAD}
    figure.update_xaxes(**above, showgrid=False, zeroline=False, range=[-0.5, len(asked) - 0.5])
    names = ["<br>".join(map(escape, textwrap.wrap(short, 12))) for short in shorten_names(arms, longest=24).values()]
    beside = {"tickvals": places["y"], "ticktext": names, "tickfont": SMALL, "automargin": True}
    figure.update_yaxes(**beside, showgrid=False, zeroline=False, range=[len(arms) - 0.5, -0.5])
    lines = max(head.count("<br>") + 1 for head in heads)
    top = figure.layout.margin.t + 12 + 15 * lines
    size = {"margin": {"t": top, "b": 12, "l": 12, "r": 8}, "height": top + 20 + ROW * len(arms)}
    figure.update_layout(**size, plot_bgcolor="#eaeef2")  # what shows where there is no tone
    return figure


def _shade(column: list[Finding]) -> list[float]:
    """Return 0 for the best to 1 for the worst, NaN for what was not measured; all 0 where no order was found."""
    held = np.array([one.value for one in column], dtype=float)
    if not _has_order([one for one in column if not np.isnan(one.value)]):
        return np.where(np.isnan(held), np.nan, 0.0).tolist()
    finite = held[np.isfinite(held)]
    if not len(finite):
        return np.where(np.isnan(held), np.nan, 1.0).tolist()
    span = float(np.ptp(finite))
    shades = (held - finite.min()) / span if span else np.where(np.isfinite(held), 0.0, held)
    return np.where(np.isposinf(held), 1.0, shades).tolist()


def _has_order(measured: list[Finding]) -> bool:
    """Return whether tones may say an order: not if what was counted has no interval, nor if all intervals meet."""
    if any(one.n and np.isfinite(one.value) and np.isnan(one.low) for one in measured):
        return False
    ends = np.array([(one.low, one.high) for one in measured]).reshape(-1, 2)
    return bool(np.isnan(ends).any()) or ends[:, 0].max(initial=-np.inf) > ends[:, 1].min(initial=np.inf)


def _tell_cell(arm: str, name: str, one: Finding) -> str:
    n = f"<br>n = {one.n} {escape(one.unit)}" if one.n else ""
    return f"{fold(arm)}<br>{fold(CRITERIA[name])}<br>{one}{n}"


def _tell_row(asked: list[str], row: list[Finding]) -> str:
    return ", ".join(f"{CRITERIA[name]} {one}" for name, one in zip(asked, row, strict=True))
