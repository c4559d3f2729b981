"""Attempts in the order in which they were made: what was decided, how large the updates were, what verification said.

All of them take the table of `Ledger.to_frame`. The rows of the stages "control" and "closing" are drawn, or all rows
where there are none of these.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dqc_lib.figures.style import DECISION_COLORS, DECISION_SYMBOLS, PALETTE, escape, start_figure

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

DENOMINATORS = {
    "standard": {"fp": "n_neg", "fn": "n_pos"},
    "published": {"fp": "n_pos", "fn": "n_neg"},
}
MOST_NAMED = 6  # subjects named when an attempt is pointed at


def draw_decisions(ledger: pd.DataFrame, *, title: str) -> Figure:
    """Return every attempt as a mark in the row of its center, from left to right in order, coloured by decision."""
    rows = _number_attempts(ledger)
    centers = sorted(rows["center"].unique())
    counts = rows["decision"].value_counts()
    said = ", ".join(f"{counts[name]} {name}" for name in DECISION_COLORS if name in counts)
    alt = f"{len(rows)} attempts in {len(centers)} centers: {said}."
    figure = start_figure(title=title, alt=alt, height=120 + 26 * len(centers))
    _add_decisions(figure, rows, y=rows["center"].map(escape))
    ticks = {"categoryorder": "array", "categoryarray": [escape(center) for center in centers]}
    figure.update_yaxes(title="center", type="category", autorange="reversed", automargin=True, **ticks)
    _mark_cycles(figure, rows)
    return figure


def draw_update_norms(
    ledger: pd.DataFrame,
    *,
    title: str,
    harmful: Collection[str] = frozenset(),
    limits: Mapping[int, float] | None = None,
) -> Figure:
    """Return the update norm of every attempt (log axis), coloured by decision, with the limits of the rule.

    Parameters
    ----------
    ledger : DataFrame
    title : str
    harmful : collection of str
        Subjects known to be harmful, the ground truth; attempts that contain one are ringed.
    limits : mapping of int to float, optional
        Limit by number of images, such as `CalibratedRule.limits`; those that the ledger recorded unless given.

    Raises
    ------
    ValueError
        If no attempt has a positive update norm, because the engine did not measure them.
    """
    rows = _number_attempts(ledger)
    rows = rows[np.isfinite(rows["update_norm"]) & (rows["update_norm"] > 0)]
    if rows.empty:
        raise ValueError("no attempt has a positive update norm; expected a run whose updates were measured")
    known = rows.dropna(subset=["norm_limit"])
    limits = dict(zip(known["n"], known["norm_limit"], strict=True)) if limits is None else limits
    held = ", ".join(f"{limits[n]:.3g} for n = {n}" for n in sorted(limits)) or "none"
    span = f"{rows['update_norm'].min():.3g} to {rows['update_norm'].max():.3g}"
    alt = f"{len(rows)} attempts, update norms {span}; limits of the rule: {held}."
    figure = start_figure(title=title, alt=alt, height=440)
    _add_rings(figure, rows[[not set(harmful).isdisjoint(subjects) for subjects in rows["subjects"]]])
    _add_decisions(figure, rows, y=rows["update_norm"], said="update norm %{y:.3g}")
    _add_limits(figure, limits, ends=[rows["attempt"].min() - 0.5, rows["attempt"].max() + 0.5])
    figure.update_yaxes(title="update norm (log scale)", type="log", exponentformat="power", dtick=1)
    _mark_cycles(figure, rows)
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


def _add_limits(figure: Figure, limits: Mapping[int, float], *, ends: list[float]) -> None:
    """Add a dashed line for the limit of every number of images, all under one entry of the legend."""
    import plotly.graph_objects as go

    for at, (n, limit) in enumerate(sorted(limits.items())):
        figure.add_trace(
            go.Scatter(
                x=ends,
                y=[limit, limit],
                mode="lines",
                name="limit, by number of images",
                line={"color": PALETTE["grey"], "dash": "dash", "width": 1.5},
                hovertemplate=f"limit for {n} image{'s' * (n != 1)}: {limit:.3g}<extra></extra>",
                legendgroup="limit",
                showlegend=at == 0,
            )
        )


def draw_rates(ledger: pd.DataFrame, *, title: str, denominators: str = "standard") -> Figure:
    """Return the error rates at verification before and after every attempt (0 to 1, higher is worse).

    A coloured mark is the rate after the attempt, a black dash the rate before it, and the grey band above the dash
    what the rule tolerates in either rate. (The calibrated rule tolerates nothing, but in the sum of the two.)

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
    if denominators not in DENOMINATORS:
        raise KeyError(f"denominators is {denominators!r}; expected one of {list(DENOMINATORS)}")
    rows = _number_attempts(ledger)
    rows = rows[rows["fp"].notna()]
    if rows.empty:
        raise ValueError("no attempt was verified, so there are no rates; expected a run under a rule that verifies")
    alt = f"{len(rows)} verified attempts, {(rows['decision'] != 'accepted').sum()} of them rejected."
    figure = start_figure(title=title, alt=alt, height=560, barmode="overlay", bargap=0)
    figure.set_subplots(2, 1, shared_xaxes=True, vertical_spacing=0.06)
    for row, (count, total) in enumerate(DENOMINATORS[denominators].items(), start=1):
        before, after = (_divide(rows[f"{prefix}{count}"], rows[f"{prefix}{total}"]) for prefix in ("reference_", ""))
        rate = "false-positive rate" if count == "fp" else "false-negative rate"
        _add_references(figure, rows, before=before, row=row)
        _add_decisions(figure, rows, y=after, said=f"{rate} %{{y:.3f}}", row=row)
        figure.update_yaxes(title=rate, rangemode="tozero", row=row, col=1)
    _mark_cycles(figure, rows, row=2)
    return figure


def _add_references(figure: Figure, rows: pd.DataFrame, *, before: np.ndarray, row: int) -> None:
    """Add the rates before every attempt and the band up to the highest rate tolerated."""
    import plotly.graph_objects as go

    tolerance = rows["tolerance"].fillna(0.0)
    where = {"row": row, "col": 1}
    shared = {"x": rows["attempt"], "showlegend": row == 1}
    said = [
        f"before {rate:.3f}, tolerated up to {rate + more:.3f}" for rate, more in zip(before, tolerance, strict=True)
    ]
    figure.add_trace(
        go.Bar(
            y=tolerance,
            base=before,
            width=1,
            name="tolerated increase",
            marker={"color": "#d0d0d0", "line": {"width": 0}},
            hoverinfo="skip",
            legendgroup="tolerance",
            **shared,
        ),
        **where,
    )
    figure.add_trace(
        go.Scatter(
            y=before,
            mode="markers",
            name=f"before the attempt (n = {len(rows)})",
            marker={"symbol": "line-ew-open", "size": 6, "color": PALETTE["black"], "line": {"width": 1}},
            customdata=said,
            hovertemplate="%{customdata}<extra></extra>",
            legendgroup="before",
            **shared,
        ),
        **where,
    )


def _divide(counts: pd.Series, totals: pd.Series) -> np.ndarray:
    """Return rates, NaN where a count is not known or the denominator is 0."""
    totals = totals.astype("Float64").to_numpy(dtype=float, na_value=np.nan)
    return counts.astype("Float64").to_numpy(dtype=float, na_value=np.nan) / np.where(totals > 0, totals, np.nan)


def _number_attempts(ledger: pd.DataFrame) -> pd.DataFrame:
    """Return the rows to draw with a column `attempt` that counts from 1."""
    rows = ledger[ledger["stage"].isin(("control", "closing"))]
    rows = ledger if rows.empty else rows
    if rows.empty:
        raise ValueError("the ledger has no attempts; expected at least one")
    return rows.assign(attempt=np.arange(1, len(rows) + 1))


def _add_decisions(figure: Figure, rows: pd.DataFrame, *, y: Any, said: str = "", row: int | None = None) -> None:
    """Add one trace of marks per decision; `said` is what a mark tells of its height."""
    import plotly.graph_objects as go

    y = pd.Series(np.asarray(y), index=rows.index)
    where = {} if row is None else {"row": row, "col": 1}
    for name, color in DECISION_COLORS.items():
        part = rows[rows["decision"] == name]
        if len(part):
            figure.add_trace(
                go.Scatter(
                    x=part["attempt"],
                    y=y[part.index],
                    mode="markers",
                    name=f"{name} (n = {len(part)})",
                    marker={
                        **{"color": color, "symbol": DECISION_SYMBOLS[name], "size": 8},
                        "line": {"width": 0.7, "color": "#444444"},
                    },
                    customdata=[[_describe_attempt(attempt)] for attempt in part.to_dict("records")],
                    hovertemplate=f"%{{customdata[0]}}<br>{said}{'<br>' * bool(said)}{name}<extra></extra>",
                    legendgroup=name,
                    showlegend=row in (None, 1),
                ),
                **where,
            )


def _describe_attempt(attempt: dict) -> str:
    """Return an attempt in words, names shown as they are."""
    subjects = [escape(subject) for subject in attempt["subjects"][:MOST_NAMED]]
    more = [f"and {attempt['n'] - MOST_NAMED} more"] * (attempt["n"] > MOST_NAMED)
    where = f"cycle {attempt['cycle']}, {attempt['level']} at {escape(attempt['center'])}"
    return f"{where}, {attempt['n']} image{'s' * (attempt['n'] != 1)}<br>{', '.join(subjects + more)}"


def _mark_cycles(figure: Figure, rows: pd.DataFrame, *, row: int | None = None) -> None:
    """Label the axis of the attempts with the cycles, a line at the end of each."""
    spans = rows.assign(closing=rows["stage"] == "closing").groupby(["cycle", "closing"])["attempt"].agg(["min", "max"])
    where = {} if row is None else {"row": row, "col": 1}
    figure.update_xaxes(
        title="cycle (every mark is one attempt, in order)",
        tickvals=spans.mean(axis=1).tolist(),
        ticktext=["closing" if closing else str(cycle) for cycle, closing in spans.index],
        showgrid=False,
        **where,
    )
    figure.update_xaxes(range=[rows["attempt"].min() - 1, rows["attempt"].max() + 1], showgrid=False)
    for end in spans["max"].iloc[:-1]:
        figure.add_vline(x=end + 0.5, line={"color": "#d0d7de", "width": 1}, layer="below")
