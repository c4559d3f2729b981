"""One center from its first attempt to its last: who took part, how large the updates were, what verification said."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from dqc_lib.figures.labels import shorten_names
from dqc_lib.figures.marks import (
    RATE_NAMES,
    add_decisions,
    add_rate,
    check_denominators,
    choose_attempts,
    divide_counts,
    list_lost_norms,
    mark_cycles,
    number_attempts,
)
from dqc_lib.figures.style import DECISION_COLORS, PALETTE, escape, start_figure

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

BATCH_SIZE, SINGLE_SIZE = 6, 11  # pixels of a mark
PANEL_HEIGHT, GAP = 140, 18
NOTE_WIDTH = 38  # characters to a line, as many as fit above a plot on a screen 400 pixels wide
NORMS = "update norm"


def draw_center_timeline(ledger: pd.DataFrame, center: str, *, title: str, denominators: str = "standard") -> Figure:
    """Return all attempts of one center in order: its subjects, the update norms and the error rates at verification.

    The uppermost panel has a row per subject and a mark for every attempt that the subject took part in, small for
    batches, large for single images and revisits. Below it stand, as far as there are any, the update norm (log axis)
    with the limit of the rule, and the error rates (0 to 1, higher is worse) as in `draw_rates`. What is not known has
    no panel; the figure says why. Long names of subjects lose their middle, and pointing at a mark shows them whole.
    The customdata of the subjects' marks begins with the subject's name.

    Parameters
    ----------
    ledger : DataFrame
        `Ledger.to_frame()`, of all centers.
    center : str
    title : str
    denominators : {"standard", "published"}
        What the rule divided by, see `Counts.rates`.

    Raises
    ------
    KeyError, ValueError
        If the center has no attempts, or the denominators are unknown; if the ledger has no attempts at all.
    """
    check_denominators(denominators)
    everybody = choose_attempts(ledger)
    rows = _choose_center(everybody, center)
    measured = rows[np.isfinite(rows["update_norm"]) & (rows["update_norm"] > 0)]
    verified = rows[rows["fp"].notna()]
    # an attempt that passed unverified recorded no limit: that of the rule, the lower one for flagged centers aside
    limits = measured["norm_limit"].fillna(everybody["norm_limit"].max()).astype(float)
    rates = [
        count
        for count in RATE_NAMES
        if np.isfinite(divide_counts(verified, count=count, denominators=denominators)[1]).any()
    ]
    panels = [NORMS] * (len(measured) > 0) + rates
    subjects = sorted(set(rows["subjects"].explode()))
    notes = _list_notes(rows, everybody, measured=measured, verified=verified)
    alt = _tell(rows, subjects, measured=measured, limits=limits, notes=notes)
    figure = _start_panels(title, alt=alt, n_subjects=len(subjects), n_panels=len(panels), notes=notes)
    _add_subjects(figure, rows, subjects)
    for row, panel in enumerate(panels, start=2):
        if panel == NORMS:
            _add_norms(figure, measured, limits, row=row)
        else:
            add_rate(
                figure, verified, count=panel, denominators=denominators, row=row, legend_row=2 + (NORMS in panels)
            )
    mark_cycles(figure, rows, row=1 + len(panels))
    return figure


def _choose_center(rows: pd.DataFrame, center: str) -> pd.DataFrame:
    """Return the attempts of the center, numbered from 1."""
    own = rows[rows["center"] == center]
    if own.empty:
        raise KeyError(f"no attempt at a center {center!r}; expected one of {sorted(rows['center'].unique())}")
    return number_attempts(own)


def _list_notes(
    rows: pd.DataFrame, everybody: pd.DataFrame, *, measured: pd.DataFrame, verified: pd.DataFrame
) -> list[str]:
    """Return what a reader must know of the panels: what the sizes mean, and what is not there and why."""
    levels = set(rows["level"])
    notes = []
    if "batch" in levels:
        notes += ["small: batch", "large: single image or revisit"] if len(levels) > 1 else ["all are batches"]
    notes += list_lost_norms(rows, everybody)
    if len(verified):
        notes.append(f"verified: {len(verified)} of {len(rows)} attempts")
    elif everybody["fp"].isna().all():
        notes.append("not verified: nothing was in this run")
    elif measured.empty:
        notes.append("not verified")
    else:
        notes.append("not verified: no update was suspicious")
    return notes


def _tell(
    rows: pd.DataFrame, subjects: list[str], *, measured: pd.DataFrame, limits: pd.Series, notes: list[str]
) -> str:
    """Return the alternative text: counts, spans and notes."""
    counts = rows["decision"].value_counts()
    said = ", ".join(f"{counts[name]} {name}" for name in DECISION_COLORS if name in counts)
    n_out = rows.loc[rows["decision"] == "eliminated", "subjects"].explode().nunique()
    text = f"{len(rows)} attempts in cycles {rows['cycle'].min()} to {rows['cycle'].max()}: {said}."
    text += f" {n_out} of {len(subjects)} subjects eliminated for good."
    if len(measured):
        norms = measured["update_norm"]
        above = int((norms > limits).sum())
        text += f" Update norms {norms.min():.3g} to {norms.max():.3g}, {above} above the limit."
    said = "; ".join(notes)
    return f"{text} {said[:1].upper()}{said[1:]}."


def _start_panels(title: str, *, alt: str, n_subjects: int, n_panels: int, notes: list[str]) -> Figure:
    """Return the figure with a tall panel for the subjects, the others below it, and the notes above them."""
    heights = [30 + (22 if n_subjects <= 25 else 13) * n_subjects, *[PANEL_HEIGHT] * n_panels]
    plot = sum(heights) + GAP * n_panels
    figure = start_figure(title=title, alt=alt, height=plot + 140, barmode="overlay", bargap=0)
    figure.set_subplots(
        1 + n_panels, 1, shared_xaxes=True, vertical_spacing=GAP / plot, row_heights=[h / plot for h in heights]
    )
    lines = [line for note in notes for line in textwrap.wrap(note, NOTE_WIDTH)]
    figure.update_layout(margin_t=figure.layout.margin.t + 16 * len(lines) - 8)
    figure.add_annotation(
        text="<br>".join(lines),
        **{"xref": "paper", "x": 0, "xanchor": "left", "yref": "paper", "y": 1, "yanchor": "bottom", "yshift": 4},
        **{"showarrow": False, "align": "left", "font": {"size": 12, "color": "#57606a"}},
    )
    return figure


def _add_subjects(figure: Figure, rows: pd.DataFrame, subjects: list[str]) -> None:
    """Add a row per subject with a mark for each of its attempts."""
    taken = rows.assign(subject=rows["subjects"]).explode("subject").reset_index(drop=True)
    labels = {escape(subject): escape(label) for subject, label in shorten_names(subjects).items()}
    size = np.where(taken["level"] == "batch", BATCH_SIZE, SINGLE_SIZE)
    add_decisions(figure, taken, y=taken["subject"].map(escape), row=1, size=size, names=taken["subject"])
    figure.update_yaxes(
        **{
            "title": {"text": "subject", "font": {"size": 13}},
            "type": "category",
            "automargin": True,
            "row": 1,
            "col": 1,
        },
        **{"categoryorder": "array", "categoryarray": list(labels), "tickvals": list(labels)},
        **{"ticktext": list(labels.values())},
        **{"range": [len(subjects) - 0.4, -0.6], "tickfont": {"size": 12 if len(subjects) <= 25 else 9}},
    )


def _add_norms(figure: Figure, rows: pd.DataFrame, limits: pd.Series, *, row: int) -> None:
    """Add the update norms and, as a dash for each attempt, the limit above which it was suspicious."""
    import plotly.graph_objects as go

    known = limits.dropna()
    if len(known):
        figure.add_trace(
            go.Scatter(
                x=rows.loc[known.index, "attempt"],
                y=known,
                mode="markers",
                name=f"limit of the update norm (n = {len(known)})",
                marker={"symbol": "line-ew-open", "size": 9, "color": PALETTE["grey"], "line": {"width": 2}},
                hovertemplate="limit %{y:.3g}<extra></extra>",
            ),
            row=row,
            col=1,
        )
    add_decisions(figure, rows, y=rows["update_norm"], said=f"{NORMS} %{{y:.3g}}", row=row)
    title = {"text": NORMS, "font": {"size": 13}}
    figure.update_yaxes(title=title, type="log", exponentformat="power", dtick=1, row=row, col=1)
