"""Groups in rows under the names of their subgroups: dots with intervals, notes and numbers beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from dqc_lib.figures.labels import shorten_names
from dqc_lib.figures.style import escape

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

OVERALL = "overall"
MARK_HEIGHT, ROW_GAP, HEADING_HEIGHT = 15, 11, 30  # pixels
QUIET = {"size": 12, "color": "#57606a"}


@dataclass(frozen=True)
class Rows:
    """Where groups and headings stand, in pixels from the top of the plot."""

    groups: Mapping[tuple[str, str], float]
    headings: Mapping[str, float]
    height: int


def stack_rows(rows: pd.DataFrame, *, n_marks: int) -> Rows:
    """Return the places of groups and headings from the top; all subjects together have no heading."""
    groups, headings, top = {}, {}, 4
    height = ROW_GAP + MARK_HEIGHT * n_marks
    for subgroup, part in rows.groupby("subgroup", sort=False):
        if subgroup != OVERALL:
            headings[subgroup] = top + HEADING_HEIGHT / 2
            top += HEADING_HEIGHT
        for group in part["group"].unique():
            groups[subgroup, group] = top + height / 2
            top += height
    return Rows(groups, headings, round(top) + 4)


def place_marks(rows: pd.DataFrame, places: Rows, *, at: int, of: int) -> np.ndarray:
    """Return the heights of the marks of one of several arms, side by side in the rows of their groups."""
    middles = [places.groups[key] for key in zip(rows["subgroup"], rows["group"], strict=True)]
    return np.array(middles) + MARK_HEIGHT * (at - (of - 1) / 2)


def add_headings(figure: Figure, places: Rows) -> None:
    """Write the names of the subgroups above their rows, with a line between."""
    for subgroup, y in places.headings.items():
        figure.add_annotation(
            **{"text": escape(subgroup), "font": {"size": 13, "weight": 700}, "showarrow": False},
            **{"x": 0, "xref": "paper", "xanchor": "left", "y": y, "yanchor": "middle", "bgcolor": "#ffffff"},
        )
        if y > HEADING_HEIGHT:
            line = y - HEADING_HEIGHT / 2
            figure.add_hline(y=line, line={"color": "#d0d7de", "width": 1}, layer="below")


def add_intervals(
    figure: Figure, values: pd.DataFrame, y: np.ndarray, *, told: list[str], name: str, look: dict[str, str]
) -> None:
    """Add dots with intervals; `values` has the columns value, low and high, in this order."""
    import plotly.graph_objects as go

    value, low, high = (values[column].to_numpy(dtype=float) for column in values)
    spread = {"type": "data", "symmetric": False, "array": high - value, "arrayminus": value - low}
    figure.add_trace(
        go.Scatter(
            x=value,
            y=y,
            mode="markers",
            name=name,
            legendgroup=name,
            marker={"size": 9, "line": {"width": 0.7, "color": "#444444"}, **look},
            error_x={**spread, "color": look["color"], "thickness": 2, "width": 0},
            customdata=told,
            hovertemplate="%{customdata}<extra></extra>",
        )
    )


def add_texts(figure: Figure, *, x: float, y: np.ndarray, texts: list[str]) -> None:
    """Write texts, which are shown as they are, to the right of a place in the plot."""
    import plotly.graph_objects as go

    if texts:
        figure.add_trace(
            go.Scatter(
                **{"x": [x] * len(texts), "y": y, "mode": "text", "text": texts, "textposition": "middle right"},
                **{"textfont": QUIET, "cliponaxis": False, "hoverinfo": "skip", "showlegend": False},
            )
        )


def label_rows(figure: Figure, places: Rows, counts: Mapping[tuple[str, str], int | None], *, counted: str) -> None:
    """Write groups and, where given, the n they rest on, beside their rows; long names lose their middle."""
    short = shorten_names(group for _, group in places.groups)
    labels = []
    for key in places.groups:
        name = escape(short[str(key[1])])
        labels.append(name if counts[key] is None else f"{name} (n = {counts[key]})")
    figure.update_yaxes(
        **{"tickvals": list(places.groups.values()), "ticktext": labels, "tickfont": {"size": 12}},
        **{"range": [places.height, 0], "showgrid": False, "zeroline": False, "automargin": True},
        **{"title": {"text": f"group (n = {counted})" if counted else "group", "font": {"size": 13}}},
    )


def add_notes(figure: Figure, rows: pd.DataFrame, places: Rows, *, arms: list[str]) -> None:
    """Write, in place of a dot, why a group has no value: once where that goes for all arms."""
    for key, part in rows[rows["value"].isna()].groupby(["subgroup", "group"], sort=False):
        notes = [note or "not defined" for note in part["note"]]
        if len(part) == len(arms) and len(set(notes)) == 1:
            add_texts(figure, x=0.0, y=[places.groups[key]], texts=[escape(notes[0])])
            continue
        for arm, note in zip(part["arm"], notes, strict=True):
            y = place_marks(part[part["arm"] == arm], places, at=arms.index(arm), of=len(arms))
            add_texts(figure, x=0.0, y=y, texts=[escape(f"{arm}: {note}")])
