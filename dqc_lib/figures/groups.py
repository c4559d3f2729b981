"""Patient groups: how surely they are found again, and from which sites their subjects come."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from dqc_lib.figures.labels import fold, shorten_names
from dqc_lib.figures.style import PALETTE, escape, start_figure
from dqc_lib.harmonization.groups import DOUBTFUL, STABLE

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

NAMES = ("blue", "orange", "green", "purple", "sky blue", "yellow", "vermillion", "black", "grey")
GROUP_COLORS = tuple(PALETTE[name] for name in NAMES)
"""Colours of groups, in their order."""
QUIET = {"size": 12, "color": "#57606a"}


def draw_stability(stability: pd.DataFrame, *, title: str) -> Figure:
    """Return a bar per group: how like it is to what resamples find (mean Jaccard coefficient, higher is better).

    Parameters
    ----------
    stability : DataFrame
        Of `measure_stability`: columns group, n, jaccard, n_resamples, stability.
    title : str

    Raises
    ------
    ValueError
        If there is nothing to draw.
    """
    import plotly.graph_objects as go

    if stability.empty:
        raise ValueError("the table has no rows; expected at least one group")
    rows = list(stability.itertuples())
    figure = start_figure(title=title, alt=_tell_stability(rows), height=130 + 34 * len(rows), showlegend=False)
    told = [f"group {fold(row.group)} (n = {row.n})<br>{_tell_value(row)}" for row in rows]
    figure.add_trace(
        go.Bar(
            **{"x": stability["jaccard"], "y": np.arange(len(rows)), "orientation": "h", "width": 0.6},
            **{"customdata": told, "hovertemplate": "%{customdata}<extra></extra>"},
            marker={"color": [GROUP_COLORS[at % len(GROUP_COLORS)] for at in range(len(rows))]},
        )
    )
    for at, row in enumerate(rows):
        text = "undefined: one group" if np.isnan(row.jaccard) else f"{row.jaccard:.2f}"
        shift = {"x": np.nan_to_num(row.jaccard), "xanchor": "left", "xshift": 4}
        figure.add_annotation(**shift, y=at, text=text, font=QUIET, showarrow=False, bgcolor="#ffffff")
    for value, word in ((DOUBTFUL, "pattern"), (STABLE, "stable")):
        figure.add_vline(x=value, line={"color": "#57606a", "width": 1.5, "dash": "dot"})
        anchor = "right" if value == DOUBTFUL else "left"
        figure.add_annotation(
            **{"x": value, "xanchor": anchor, "y": 1, "yref": "paper", "yanchor": "bottom", "showarrow": False},
            **{"text": f"{word} from {value:g}", "font": QUIET},
        )
    figure.update_layout(margin_t=figure.layout.margin.t + 20)
    figure.update_xaxes(title={"text": "mean Jaccard coefficient", "font": {"size": 13}}, range=[0, 1.12], dtick=0.2)
    _label_rows(figure, [row.group for row in rows], [row.n for row in rows], title="group")
    return figure


def draw_groups_by_site(counts: pd.DataFrame, *, title: str) -> Figure:
    """Return a bar per site: which share of its subjects belongs to which group (%).

    Bars that look alike are what groups of patients give who are everywhere the same.

    Parameters
    ----------
    counts : DataFrame
        `SiteAssociation.counts`: subjects by site (index) and group (columns).
    title : str

    Raises
    ------
    ValueError
        If there is nothing to draw.
    """
    import plotly.graph_objects as go

    if counts.empty:
        raise ValueError("the table is empty; expected at least one site and one group")
    sizes = counts.sum(axis=1)
    shares = 100 * counts.div(sizes.where(sizes > 0), axis="index")
    alt = _tell_sites(counts)
    figure = start_figure(title=title, alt=alt, height=100 + 28 * len(counts) + 15 * counts.shape[1])
    figure.update_layout(barmode="stack", bargap=0.25, showlegend=True)
    for at, group in enumerate(counts):
        told = [
            f"{fold(site)}: {n} of {size} in group {escape(group)}"
            for site, n, size in zip(counts.index, counts[group], sizes, strict=True)
        ]
        figure.add_trace(
            go.Bar(
                **{"x": shares[group], "y": np.arange(len(counts)), "orientation": "h"},
                **{"customdata": told, "hovertemplate": "%{customdata}<extra></extra>"},
                name=f"{escape(group)} (n = {counts[group].sum()})",
                marker={"color": GROUP_COLORS[at % len(GROUP_COLORS)], "line": {"color": "#ffffff", "width": 1}},
            )
        )
    figure.update_xaxes(title={"text": "share of the site's subjects (%)", "font": {"size": 13}}, range=[0, 100])
    _label_rows(figure, list(counts.index), list(sizes), title="site")
    return figure


def _label_rows(figure: Figure, names: list, sizes: list[int], *, title: str) -> None:
    """Write names and n beside their rows, from the top."""
    short = shorten_names(names, longest=14)
    labels = [f"{escape(short[str(name)])} (n = {n})" for name, n in zip(names, sizes, strict=True)]
    figure.update_yaxes(
        **{"tickvals": np.arange(len(names)), "ticktext": labels, "range": [len(names) - 0.5, -0.5]},
        **{"title": {"text": title, "font": {"size": 13}}, "automargin": True, "showgrid": False, "zeroline": False},
    )


def _tell_value(row: tuple) -> str:
    if np.isnan(row.jaccard):
        return "undefined: one group"
    return f"{row.jaccard:.2f} over {row.n_resamples} resamples, {escape(row.stability)}"


def _tell_stability(rows: list[tuple]) -> str:
    """Return the alternative text: every group with its coefficient."""
    said = [f"{row.group} (n = {row.n}): {_tell_value(row)}" for row in rows]
    return f"Mean Jaccard coefficient of every group, stable from {STABLE:g}. {'; '.join(said)}."


def _tell_sites(counts: pd.DataFrame) -> str:
    """Return the alternative text: how many subjects of every site are in every group."""
    said = []
    for site, row in counts.iterrows():
        parts = ", ".join(f"{group} {n}" for group, n in row.items())
        said.append(f"{site} (n = {row.sum()}): {parts}")
    return f"Subjects of every site by group. {'; '.join(said)}."
