"""Arms in rows: how faithful the records of each are beside a copy without time, and what each is good for."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from dqc_lib.figures.harmonization import SMALL
from dqc_lib.figures.labels import fold, shorten_names
from dqc_lib.figures.rows import add_intervals
from dqc_lib.figures.style import PALETTE, escape, hang_legend, start_figure
from dqc_lib.figures.synthesis import MEASURE_NAMES, get_arm_looks, require_rows, tell

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

ROW = 22  # pixels
REAL = "real"
REFERENCES = {
    "control": ("real records, visits shuffled", {"color": PALETTE["grey"], "dash": "dot", "width": 2}),
    "floor": ("other real patients", {"color": PALETTE["black"], "dash": "solid", "width": 1.5}),
}


def draw_fidelity(table: pd.DataFrame, *, title: str, measures: Sequence[str] | None = None) -> Figure:
    """Return a panel for every measure with a row for every arm, beside what real records would get.

    Parameters
    ----------
    table : DataFrame
        One row an arm and measure: columns arm, measure, value, low, high, direction, n_synthetic, and, where there are
        such, control and floor (of `tabulate_with_control`; low and high of `estimate_fidelity_intervals`).
    title : str
    measures : sequence of str, optional
        Which to draw, from the top; all of the table unless given.

    Raises
    ------
    KeyError, ValueError
        If a column is missing, a measure is not in the table, or there is nothing to draw.
    """
    from plotly.subplots import make_subplots

    require_rows(table, ("arm", "measure", "value", "low", "high", "direction", "n_synthetic"))
    measures = list(table["measure"].unique()) if measures is None else list(measures)
    if unknown := [name for name in measures if name not in set(table["measure"])]:
        raise ValueError(f"measures must be of the table, {list(table['measure'].unique())}, got {unknown[0]!r}")
    arms = list(table["arm"].unique())
    panel = 62 + ROW * len(arms)
    alt = " ".join(_tell_panel(table[table["measure"] == name], name) for name in measures)
    figure = start_figure(title=title, alt=alt, height=50 + panel * len(measures))
    names = [
        f"{MEASURE_NAMES.get(name, name)} ({table.loc[table['measure'] == name, 'direction'].iloc[0]} is better)"
        for name in measures
    ]
    panels = make_subplots(rows=len(measures), cols=1, vertical_spacing=44 / (panel * len(measures)))
    panels.update_layout(figure.layout.to_plotly_json())
    for row, (measure, name) in enumerate(zip(measures, names, strict=True), start=1):
        _fill_panel(panels, table[table["measure"] == measure], arms, row=row)
        axis = panels.layout[f"yaxis{'' if row == 1 else row}"]
        place = {"x": 0, "xref": "paper", "xanchor": "left", "y": axis.domain[1], "yref": "paper", "yanchor": "bottom"}
        panels.add_annotation(text=f"<b>{escape(name)}</b>", showarrow=False, font={"size": 13}, **place)
    _add_keys(panels, table)
    panels.update_layout(margin_t=figure.layout.margin.t + 24, margin_b=90, height=figure.layout.height + 60)
    return panels


def _tell_panel(part: pd.DataFrame, measure: str) -> str:
    """Return a measure's values in words, with those of the references."""
    said = ", ".join(f"{row['arm']} {tell(row)}" for row in part.to_dict("records"))
    beside = [
        f"{word} {part[column].iloc[0]:.3f}"
        for column, (word, _) in REFERENCES.items()
        if column in part and part[column].notna().any()
    ]
    return f"{MEASURE_NAMES.get(measure, measure)}: {'; '.join([said, *beside])}."


def _fill_panel(panels: Figure, part: pd.DataFrame, arms: list[str], *, row: int) -> None:
    """Add the dots of a measure, and lines for its references, to a row of subplots."""
    import plotly.graph_objects as go

    short = shorten_names(arms)
    for at, (arm, look) in enumerate(get_arm_looks(arms).items()):
        own = part[part["arm"] == arm]
        ends = {"array": own["high"] - own["value"], "arrayminus": own["value"] - own["low"]}
        spread = {"type": "data", "symmetric": False, "thickness": 2, "width": 0, "color": look["color"], **ends}
        told = [f"{fold(arm)}<br>{tell(one)}, n = {one['n_synthetic']}" for one in own.to_dict("records")]
        dots = {"x": own["value"], "y": [at] * len(own), "mode": "markers", "marker": {"size": 10, **look}}
        hover = {"customdata": told, "hovertemplate": "%{customdata}<extra></extra>", "showlegend": False}
        panels.add_trace(go.Scatter(**dots, **hover, error_x=spread), row=row, col=1)
    for column, (word, line) in REFERENCES.items():
        if column in part and part[column].notna().any():
            level = float(part[column].dropna().iloc[0])
            ends = {"x": [level, level], "y": [-0.5, len(arms) - 0.5], "mode": "lines", "line": line}
            hover = {"hovertemplate": f"{word}: {level:.3f}<extra></extra>", "showlegend": False}
            panels.add_trace(go.Scatter(**ends, **hover), row=row, col=1)
    ticks = {"tickvals": list(range(len(arms))), "ticktext": [escape(short[arm]) for arm in arms]}
    grid = {"showgrid": False, "zeroline": False, "automargin": True}
    panels.update_yaxes(**ticks, **grid, range=[len(arms) - 0.5, -0.5], tickfont={"size": 12}, row=row, col=1)
    kept = [name for name in ("value", "low", "high", *REFERENCES) if name in part]
    held = [*part[kept].to_numpy(dtype=float).ravel(), *([0.0] if part["direction"].iloc[0] == "lower" else [1.0])]
    low, room = np.nanmin(held), 0.05 * (np.nanmax(held) - np.nanmin(held)) or 0.05
    panels.update_xaxes(range=[low - room, np.nanmax(held) + room], tickfont={"size": 11}, row=row, col=1)


def _add_keys(panels: Figure, table: pd.DataFrame) -> None:
    """Add what the lines mean to the legend."""
    import plotly.graph_objects as go

    for column, (word, line) in REFERENCES.items():
        if column in table and table[column].notna().any():
            panels.add_trace(go.Scatter(x=[None], y=[None], mode="lines", line=line, name=word))
    panels.update_layout(showlegend=True)


def draw_utility(table: pd.DataFrame, *, title: str) -> Figure:
    """Return, hospital by hospital, the AUROC of models trained on synthetic records beside those trained on real ones.

    Parameters
    ----------
    table : DataFrame
        Of `evaluate_utility`, with a column arm if there are several. The real reference is drawn once, of the first
        arm. What has no value is left out of the plot and told in words.
    title : str
    """
    columns = ("tstr", "tstr_low", "tstr_high", "trtr", "trtr_low", "trtr_high", "n_positive", "n_negative")
    require_rows(table, ("hospital", *columns))
    marks = _list_marks(table)
    hospitals, arms = list(table["hospital"].unique()), list(marks["arm"].unique())
    told = "; ".join(f"{row['hospital']}, {row['arm']}: {tell(row, digits=2)}" for row in marks.to_dict("records"))
    alt = f"AUROC on real test patients, with 95 % intervals. {told}."
    figure = start_figure(title=title, alt=alt, height=110 + (26 + 17 * len(arms)) * len(hospitals))
    for at, (arm, look) in enumerate(get_arm_looks(arms).items()):
        part = marks[(marks["arm"] == arm) & marks["value"].notna()]
        rows = np.array([hospitals.index(name) for name in part["hospital"]])
        y = rows + (at - (len(arms) - 1) / 2) * 0.7 / max(len(arms), 2)
        words = [f"{fold(row['hospital'])}<br>{fold(arm)}: {tell(row, digits=2)}" for row in part.to_dict("records")]
        add_intervals(figure, part[["value", "low", "high"]], y, told=words, name=escape(arm), look=look)
    figure.add_vline(x=0.5, line={"color": "#57606a", "width": 1.5, "dash": "dot"})
    first = table.drop_duplicates("hospital").set_index("hospital")
    ticks = [
        "<br>".join(
            [
                *(escape(line) for line in textwrap.wrap(shorten_names(hospitals)[name], 15)),
                f"({first.at[name, 'n_positive']} with, {first.at[name, 'n_negative']} without)",
            ]
        )
        for name in hospitals
    ]
    labels = {"tickvals": list(range(len(hospitals))), "ticktext": ticks, "tickfont": {"size": 12}}
    figure.update_yaxes(**labels, range=[len(hospitals) - 0.45, -0.55], automargin=True, showgrid=False, zeroline=False)
    held = pd.concat([marks["value"], marks["low"]]).dropna()
    figure.update_xaxes(title={"text": "AUROC on real test patients", "font": SMALL}, zeroline=False)
    figure.update_xaxes(range=[min([0.48, *(held - 0.02)]), 1.02])
    hang_legend(figure, n=len(arms))
    return figure


def _list_marks(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row a hospital and what was trained on: arm, hospital, value, low, high."""
    arms = table["arm"] if "arm" in table else pd.Series("synthetic", index=table.index)
    real = table[arms == arms.iloc[0]]
    parts = [(f"{REAL} patients", real, "trtr")]
    parts += [(str(arm), table[arms == arm], "tstr") for arm in arms.unique()]
    rows = []
    for arm, part, kind in parts:
        names = {kind: "value", f"{kind}_low": "low", f"{kind}_high": "high"}
        rows.append(part[["hospital", *names]].rename(columns=names).assign(arm=arm))
    return pd.concat(rows, ignore_index=True)
