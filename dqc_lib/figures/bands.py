"""Gaps over the cycles: a line with a band for its interval, and a dotted line for what chance gives."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import pandas as pd

from dqc_lib.figures.style import ARM_COLORS, PALETTE, fade, get_arm_colors

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


def list_lines(rows: pd.DataFrame, control_start: int | None) -> list[tuple[str, pd.DataFrame, str]]:
    """Return name, rows and colour of every line; the cycles before control come first, once, for all arms."""
    rows = rows.sort_values("cycle", kind="stable")
    arms = [arm for arm in rows["arm"].unique() if arm != "pretraining"]
    start = rows["cycle"].min() if control_start is None and arms else control_start
    shared = rows if start is None else rows[rows["cycle"] < start].drop_duplicates("cycle")
    lines = [("pre-training", shared, ARM_COLORS["pretraining"])] if len(shared) else []
    parts = {arm: rows[(rows["arm"] == arm) & (rows["cycle"] >= (start or 0) - 1)] for arm in arms}
    colors = get_arm_colors(arms)
    return lines + [(arm, part, colors[arm]) for arm, part in parts.items() if len(part)]


def add_gap(figure: Figure, rows: pd.DataFrame, *, name: str, color: str, row: int) -> None:
    """Add one line with its band, and what chance gives."""
    import plotly.graph_objects as go

    where, shared = {"row": row, "col": 1}, {"legendgroup": name, "hoverinfo": "skip", "showlegend": False}
    _add_band(figure, rows, color=color, group=name, row=row)
    dotted = {"color": color, "width": 1.5, "dash": "dot"}
    figure.add_trace(go.Scatter(x=rows["cycle"], y=rows["by_chance"], mode="lines", line=dotted, **shared), **where)
    figure.add_trace(
        go.Scatter(
            x=rows["cycle"],
            y=rows["gap"],
            mode="lines+markers",
            name=name,
            legendgroup=name,
            line={"color": color, "width": 2},
            marker={"size": 6},
            customdata=[_describe_gap(row) for row in rows.to_dict("records")],
            hovertemplate="%{customdata}<extra>%{fullData.name}</extra>",
            showlegend=name not in {trace.name for trace in figure.data},
        ),
        **where,
    )


def tell_gap(row: Mapping[str, float]) -> str:
    """Return "0.12 (-0.03 to 0.25)", or the gap alone where it has no interval."""
    gap = f"{row['gap']:.2f}"
    return gap if math.isnan(row["low"]) else f"{gap} ({row['low']:z.2f} to {row['high']:z.2f})"


def _describe_gap(row: Mapping[str, float]) -> str:
    """Return what a mark tells: cycle, gap, interval, and what chance gives."""
    said = f"cycle {row['cycle']}: gap {tell_gap(row)}"
    return f"{said}<br>between {row['n_groups']} groups, by chance {row['by_chance']:.2f}"


def find_range(rows: pd.DataFrame) -> list[float]:
    """Return the range of an axis of gaps that holds 0, all gaps, their intervals and what chance gives."""
    held = rows[["gap", "low", "high", "by_chance"]].melt()["value"].dropna()
    bottom, top = min([0.0, *held]), max([0.2, *held])
    room = 0.05 * (top - bottom)
    return [max(bottom - room, -1.02), min(top + room, 1.02)]


def _add_band(figure: Figure, rows: pd.DataFrame, *, color: str, group: str, row: int) -> None:
    """Add the band between the columns low and high along the cycles, to a row of subplots."""
    import plotly.graph_objects as go

    across, up = _outline_band(rows)
    look = {"mode": "lines", "fill": "toself", "fillcolor": fade(color, 0.15), "line": {"width": 0}}
    quiet = {"legendgroup": group, "hoverinfo": "skip", "showlegend": False}
    figure.add_trace(go.Scatter(x=across, y=up, **look, **quiet), row=row, col=1)


def _outline_band(rows: pd.DataFrame) -> tuple[list, list]:
    """Return the outline of the intervals, a closed piece for every run of cycles that have one."""
    known = rows[["low", "high"]].notna().all(axis=1)
    across, up = [], []
    for _, part in rows[known].groupby((~known).cumsum()[known]):
        cycles = part["cycle"].tolist()
        across += [*cycles, *cycles[::-1], None]
        up += [*part["high"], *part["low"][::-1], None]
    return across, up


def make_chance_key() -> dict:
    """Return the entry of the legend for the dotted lines."""
    line = {"color": PALETTE["grey"], "width": 1.5, "dash": "dot"}
    return {"type": "scatter", "x": [None], "y": [None], "mode": "lines", "line": line, "name": "by chance alone"}
