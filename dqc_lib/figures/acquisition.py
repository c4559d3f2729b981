"""Acquisition by center: who keeps to the protocol, and the values of one parameter."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from dqc_lib.arguments import show_value
from dqc_lib.figures.labels import fold, shorten_names
from dqc_lib.figures.style import PALETTE, escape, fade, start_figure
from dqc_lib.harmonization import ALL, PARAMETERS, Protocol, check_compliance

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

MANY = 25  # centers, above which rows get narrow and lose their counts
SHADES = ((0.0, "#ffffff"), (0.5, "#8fbfdd"), (1.0, PALETTE["blue"]))
COLUMNS = {"voxel_i": "voxel i", "voxel_j": "voxel j", "voxel_k": "voxel k", "field_strength": "field", ALL: "all"}
"""Shorter names of parameters, for the head of a column."""
PLACES = {
    "within": {"color": PALETTE["blue"], "symbol": "circle"},
    "deviates": {"color": PALETTE["vermillion"], "symbol": "x"},
}
QUIET = {"size": 12, "color": "#57606a"}


def draw_compliance(summary: pd.DataFrame, *, title: str) -> Figure:
    """Return a heat map of centers by parameters: the share of images within the protocol, and how many they are.

    Dark is good; n stands beside the center. A question mark says that images lack the value; how many lack it and how
    many deviate is told where one points.

    Parameters
    ----------
    summary : DataFrame
        Of `summarize_compliance`: columns center, parameter, n, within, deviates, missing, share.
    title : str

    Raises
    ------
    ValueError
        If there is nothing to draw.
    """
    import plotly.graph_objects as go

    if summary.empty:
        raise ValueError("the table has no rows; expected at least one center")
    centers, parameters = list(summary["center"].unique()), list(summary["parameter"].unique())
    cells = summary.set_index(["center", "parameter"])
    keys = pd.MultiIndex.from_product([centers, parameters])
    cells = cells.reindex(keys)
    many = len(centers) > MANY
    row = 12 if many else 26
    figure = start_figure(title=title, alt=_tell_centers(summary), height=180 + row * len(centers))
    counts = [f"{cell.within:.0f}{'?' * (cell.missing > 0)}" if cell.n > 0 else "" for cell in cells.itertuples()]
    told = [_tell_cell(*key, cell) for key, cell in zip(keys, cells.itertuples(), strict=True)]
    shape = len(centers), len(parameters)
    figure.add_trace(
        go.Heatmap(
            **{"z": cells["share"].to_numpy().reshape(shape), "zmin": 0, "zmax": 1, "colorscale": SHADES},
            **{"x": np.arange(shape[1]), "y": np.arange(shape[0]), "xgap": 2, "ygap": 1 if many else 2},
            **{"text": np.reshape(counts, shape), "texttemplate": "" if many else "%{text}", "textfont": {"size": 10}},
            **{"customdata": np.reshape(told, shape), "hovertemplate": "%{customdata}<extra></extra>"},
            colorbar={
                **{"orientation": "h", "thickness": 10, "len": 0.9, "x": 0.5, "outlinewidth": 1},
                **{"tickvals": [0, 0.5, 1], "ticktext": ["0", "share within", "1"]},
                **{"y": 0, "yref": "container", "yanchor": "bottom"},
            },
        )
    )
    heads = [escape(COLUMNS.get(name, str(name).replace("_", " "))) for name in parameters]
    figure.update_xaxes(
        **{"tickvals": np.arange(shape[1]), "ticktext": heads, "tickangle": -50, "showgrid": False, "zeroline": False},
        **{"title": {"text": "parameter (images within, ? value missing)", "font": {"size": 13}}, "automargin": True},
    )
    sizes = summary.groupby("center")["n"].max()
    _label_centers(figure, centers, small=many, sizes=[sizes[center] for center in centers])
    return figure


def draw_parameter(table: pd.DataFrame, parameter: str, *, title: str, protocol: Protocol | None = None) -> Figure:
    """Return one mark per image: a parameter's values by center, with the protocol's reference and tolerance.

    How many images lack the value stands to the right.

    Parameters
    ----------
    table : DataFrame
        Of `read_acquisition`.
    parameter : str
        One of `PARAMETERS`.
    title : str
    protocol : Protocol, optional
        Values inside the shaded band are within it.

    Raises
    ------
    KeyError, ValueError
        If the parameter is unknown or there is nothing to draw.
    """
    import plotly.graph_objects as go

    if parameter not in PARAMETERS:
        raise KeyError(f"parameter is {show_value(parameter)}; expected one of {list(PARAMETERS)}")
    if table.empty:
        raise ValueError("the table has no rows; expected at least one image")
    name, unit = parameter.replace("_", " "), PARAMETERS[parameter].unit
    centers = list(table["center"].unique())
    limits = protocol.limits.get(parameter) if protocol else None
    if limits:
        verdict = check_compliance(table, Protocol({parameter: limits}))["verdict"].to_numpy()
    else:
        verdict = np.where(table[parameter].isna(), "missing", "within")
    rows = _place_images(table.assign(value=table[parameter]), centers, verdict)
    alt = _tell_values(rows, name, unit, limits)
    figure = start_figure(title=title, alt=alt, height=120 + (14 if len(centers) > MANY else 26) * len(centers))
    if limits:
        low, high = limits[0] - limits[1], limits[0] + limits[1]
        figure.add_vrect(x0=low, x1=high, fillcolor=fade(PALETTE["blue"], 0.12), line_width=0, layer="below")
        figure.add_vline(x=limits[0], line={"color": PALETTE["blue"], "width": 1.5, "dash": "dot"}, layer="below")
    for verdict, look in PLACES.items():
        part = rows[rows["verdict"] == verdict]
        entry = f"{verdict if limits else 'images'} (n = {len(part)})"
        told = [f"{fold(f'{row.subject}, {row.center}')}<br>{name} {row.value:g} {unit}" for row in part.itertuples()]
        if len(part):
            figure.add_trace(
                go.Scatter(
                    **{"x": part["value"], "y": part["y"], "mode": "markers", "name": entry, "customdata": told},
                    **{"marker": {**look, "size": 7, "opacity": 0.75}, "hovertemplate": "%{customdata}<extra></extra>"},
                )
            )
    _count_missing(figure, rows, centers)
    figure.update_layout(showlegend=True)
    band = ", shaded: within the protocol" if limits else ""
    figure.update_xaxes(title={"text": f"{name} ({unit}){band}", "font": {"size": 13}}, zeroline=False)
    sizes = table["center"].value_counts()
    _label_centers(figure, centers, small=len(centers) > MANY, sizes=[sizes[center] for center in centers])
    return figure


def _place_images(table: pd.DataFrame, centers: list[str], verdict: Iterable[str]) -> pd.DataFrame:
    """Return the images with their heights, spread within the row of their center, and verdicts."""
    rank = table.groupby("center").cumcount()
    size = table.groupby("center")["center"].transform("size")
    spread = 0.6 * ((rank + 0.5) / size - 0.5)
    return table.assign(y=table["center"].map(centers.index) + spread, verdict=verdict)


def _count_missing(figure: Figure, rows: pd.DataFrame, centers: list[str]) -> None:
    """Write how many images of a center lack the value, to the right of its row."""
    missing = rows[rows["verdict"] == "missing"]["center"].value_counts()
    for center, n in missing.items():
        figure.add_annotation(
            **{"x": 1, "xref": "paper", "xanchor": "left", "y": centers.index(center), "text": f" {n} missing"},
            **{"showarrow": False, "font": QUIET},
        )
    figure.update_layout(margin_r=80 if len(missing) else 20)


def _label_centers(figure: Figure, centers: list[str], *, small: bool, sizes: list[int]) -> None:
    """Write the names of the centers and their n beside their rows, from the top."""
    short = shorten_names(centers, longest=14)
    labels = [f"{escape(short[str(center)])} ({n})" for center, n in zip(centers, sizes, strict=True)]
    figure.update_yaxes(
        **{"tickvals": np.arange(len(centers)), "ticktext": labels},
        **{"range": [len(centers) - 0.5, -0.5], "automargin": True, "tickfont": {"size": 9 if small else 12}},
        **{"title": {"text": "center (n = images)", "font": {"size": 13}}, "showgrid": False, "zeroline": False},
    )


def _tell_cell(center: str, parameter: str, cell: tuple) -> str:
    """Return the counts of a center and a parameter in words."""
    if not cell.n > 0:
        return f"{fold(center)}: {escape(parameter)} was not looked at"
    counts = f"{cell.within:.0f} within, {cell.deviates:.0f} deviate, {cell.missing:.0f} missing, n = {cell.n:.0f}"
    return f"{fold(center)}<br>{escape(str(parameter).replace('_', ' '))}: {counts}"


def _tell_centers(summary: pd.DataFrame) -> str:
    """Return the alternative text: how many images of every center are within, and in what the others are not."""
    said = []
    for center, part in summary.groupby("center", sort=False):
        whole = part[part["parameter"] == ALL]
        faults = part[(part["parameter"] != ALL) & (part["within"] < part["n"])]
        least = f"{whole['within'].iloc[0]} of {whole['n'].iloc[0]}" if len(whole) else f"n = {part['n'].iloc[0]}"
        names = [
            f"{str(row.parameter).replace('_', ' ')} ({row.deviates} deviate, {row.missing} missing)"
            for row in faults.itertuples()
        ]
        said.append(f"{center} {least}{': ' if names else ''}{', '.join(names)}")
    return f"Images within the protocol by center. {'; '.join(said)}."


def _tell_values(rows: pd.DataFrame, name: str, unit: str, limits: tuple[float, float] | None) -> str:
    """Return the alternative text: the range of values of every center, and how many are missing."""
    said = []
    for center, part in rows.groupby("center", sort=False):
        known = part["value"].dropna()
        values = f"{known.min():g} to {known.max():g}" if len(known) else "no value"
        lost = f", {len(part) - len(known)} missing" if len(known) < len(part) else ""
        said.append(f"{center} (n = {len(part)}) {values}{lost}")
    asked = f", protocol {limits[0]:g} ± {limits[1]:g}" if limits else ""
    return f"{name.capitalize()} in {unit} by center{asked}. {'; '.join(said)}."
