"""Attempts in the order in which they were made: what was decided, how large the updates were, what verification said.

All of them take the table of `Ledger.to_frame` and draw the rows that `dqc_lib.figures.marks.choose_attempts` gives.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from dqc_lib.figures.labels import shorten_names
from dqc_lib.figures.marks import (
    RATE_NAMES,
    add_decisions,
    add_rate,
    check_denominators,
    list_lost_norms,
    mark_cycles,
    number_attempts,
)
from dqc_lib.figures.style import DECISION_COLORS, PALETTE, escape, start_figure

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


def draw_decisions(ledger: pd.DataFrame, *, title: str) -> Figure:
    """Return every attempt as a mark in the row of its center, from left to right in order, coloured by decision."""
    rows = number_attempts(ledger)
    centers = sorted(rows["center"].unique())
    counts = rows["decision"].value_counts()
    said = ", ".join(f"{counts[name]} {name}" for name in DECISION_COLORS if name in counts)
    alt = f"{len(rows)} attempts in {len(centers)} centers: {said}."
    figure = start_figure(title=title, alt=alt, height=120 + 26 * len(centers))
    add_decisions(figure, rows, y=rows["center"].map(escape))
    labels = {escape(center): escape(label) for center, label in shorten_names(centers).items()}
    ticks = {"categoryorder": "array", "categoryarray": list(labels)}
    ticks |= {"tickvals": list(labels), "ticktext": list(labels.values())}
    figure.update_yaxes(title="center", type="category", autorange="reversed", automargin=True, **ticks)
    mark_cycles(figure, rows)
    return figure


def draw_update_norms(
    ledger: pd.DataFrame,
    *,
    title: str,
    harmful: Collection[str] = frozenset(),
    limits: Collection[float] | None = None,
) -> Figure:
    """Return the update norm of every attempt (log axis), coloured by decision, with the limits of the rule.

    A rule may have two: a lower one holds at centers most of whose images are flagged.

    Parameters
    ----------
    ledger : DataFrame
    title : str
    harmful : collection of str
        Subjects known to be harmful, the ground truth; attempts that contain one are ringed.
    limits : collection of float, optional
        Such as `CalibratedRule.limit` alone; those that the ledger recorded unless given.

    Raises
    ------
    ValueError
        If no attempt has a positive, finite update norm: the engine did not measure them, or the training diverged.
    """
    everybody = number_attempts(ledger)
    rows = everybody[np.isfinite(everybody["update_norm"]) & (everybody["update_norm"] > 0)]
    lost = list_lost_norms(everybody, everybody)
    if rows.empty:
        raise ValueError(f"no attempt has a positive update norm that is finite: {'; '.join(lost)}")
    limits = sorted(set(rows["norm_limit"].dropna() if limits is None else limits))
    held = ", ".join(f"{limit:.3g}" for limit in limits) or "none"
    span = f"{rows['update_norm'].min():.3g} to {rows['update_norm'].max():.3g}"
    alt = f"{'; '.join([f'{len(rows)} attempts, update norms {span}', f'limits of the rule: {held}', *lost])}."
    figure = start_figure(title=title, alt=alt, height=440)
    _add_rings(figure, rows[[not set(harmful).isdisjoint(subjects) for subjects in rows["subjects"]]])
    add_decisions(figure, rows, y=rows["update_norm"], said="update norm %{y:.3g}")
    _add_limits(figure, limits, ends=[rows["attempt"].min() - 0.5, rows["attempt"].max() + 0.5])
    figure.update_yaxes(title="update norm (log scale)", type="log", exponentformat="power", dtick=1)
    mark_cycles(figure, rows)
    return figure


def _add_rings(figure: Figure, rows: pd.DataFrame) -> None:
    """Ring attempts that hold a harmful image."""
    import plotly.graph_objects as go

    if len(rows):
        figure.add_trace(
            go.Scatter(
                x=rows["attempt"],
                y=rows["update_norm"],
                mode="markers",
                name=f"holds a harmful image, in truth (n = {len(rows)})",
                marker={"symbol": "circle-open", "size": 13, "color": PALETTE["vermillion"], "line": {"width": 2}},
                hoverinfo="skip",
            )
        )


def _add_limits(figure: Figure, limits: list[float], *, ends: list[float]) -> None:
    """Add a dashed line for every limit, all under one entry of the legend."""
    import plotly.graph_objects as go

    for at, limit in enumerate(limits):
        figure.add_trace(
            go.Scatter(
                x=ends,
                y=[limit, limit],
                mode="lines",
                name="limit of the rule",
                line={"color": PALETTE["grey"], "dash": "dash", "width": 1.5},
                hovertemplate=f"limit {limit:.3g}<extra></extra>",
                legendgroup="limit",
                showlegend=at == 0,
            )
        )


def draw_rates(ledger: pd.DataFrame, *, title: str, denominators: str = "standard") -> Figure:
    """Return the error rates at verification before and after every attempt (0 to 1, higher is worse).

    A coloured mark is the rate after the attempt, a black dash the rate before it, and the grey band above the dash
    what the rule tolerates in either rate. (The calibrated rule tolerates no rise, and acquits where
    enough subjects change to the right side.)

    Parameters
    ----------
    ledger : DataFrame
        Attempts that were not verified are left out.
    title : str
    denominators : {"standard", "published"}
        What the rule divided by, see `Counts.rates`.

    Raises
    ------
    KeyError, ValueError
        If the denominators are unknown; if no attempt was verified.
    """
    check_denominators(denominators)
    rows = number_attempts(ledger)
    rows = rows[rows["fp"].notna()]
    if rows.empty:
        raise ValueError("no attempt was verified, so there are no rates; expected a run under a rule that verifies")
    alt = f"{len(rows)} verified attempts, {(rows['decision'] != 'accepted').sum()} of them rejected."
    figure = start_figure(title=title, alt=alt, height=560, barmode="overlay", bargap=0)
    figure.set_subplots(2, 1, shared_xaxes=True, vertical_spacing=0.06)
    for row, count in enumerate(RATE_NAMES, start=1):
        add_rate(figure, rows, count=count, denominators=denominators, row=row)
    mark_cycles(figure, rows, row=2)
    return figure
