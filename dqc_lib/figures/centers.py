"""Centers: how many subjects of which class each of them holds, and the scanner."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from dqc_lib.figures.style import DIAGNOSIS_COLORS, escape, start_figure

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

MANY = 25  # centers, above which rows get narrow
LONGEST = 16  # characters of a scanner's name beside its bar; pointing at the bar shows all


def draw_centers(by_center: pd.DataFrame, *, title: str) -> Figure:
    """Return one row per center: its diseased and control subjects as stacked bars, and its scanner.

    Parameters
    ----------
    by_center : DataFrame
        Index center, columns n_positive, n_negative and, where known, scanner, as `Cohort.by_center` gives; drawn from
        the top in the order of the table.
    title : str
    """
    import plotly.graph_objects as go

    scanners = [str(scanner) for scanner in by_center["scanner"]] if "scanner" in by_center else []
    names = [escape(center) for center in by_center.index]
    totals = by_center["n_positive"] + by_center["n_negative"]
    one_class = int(((by_center["n_positive"] == 0) | (by_center["n_negative"] == 0)).sum())
    alt = (
        f"Bar chart of {len(names)} centers with {totals.min()} to {totals.max()} subjects; {one_class} have one class."
    )
    row = 12 if len(names) > MANY else 26
    figure = start_figure(title=title, alt=alt, height=110 + row * len(names), barmode="stack", bargap=0.25)
    for label, column in (("diseased", "n_positive"), ("control", "n_negative")):
        figure.add_trace(
            go.Bar(
                x=by_center[column],
                y=names,
                orientation="h",
                name=f"{label} (n = {by_center[column].sum()})",
                marker={"color": DIAGNOSIS_COLORS[label]},
                customdata=[f"<br>{escape(scanner)}" for scanner in scanners] or [""] * len(names),
                hovertemplate=f"%{{y}}<br>%{{x}} {label}%{{customdata}}<extra></extra>",
            )
        )
    if scanners:
        short = [name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…" for name in scanners]
        size = 11 if row > 20 else 9
        figure.add_trace(
            go.Scatter(
                x=totals,
                y=names,
                mode="text",
                text=[f" {escape(name)}" for name in short],
                textposition="middle right",
                textfont={"size": size, "color": "#57606a"},
                cliponaxis=False,
                hoverinfo="skip",
                showlegend=False,
            )
        )
        figure.update_layout(margin_r=20 + 0.65 * size * max(map(len, short)))  # about as wide as the longest
    figure.update_xaxes(title="subjects", range=[0, totals.max() * 1.02])
    ticks = {"tickmode": "array", "tickvals": names, "tickfont": {"size": 12 if row > 20 else 9}}
    figure.update_yaxes(
        title="center", type="category", range=[len(names) - 0.4, -0.6], automargin=True, ticklabelstandoff=4, **ticks
    )
    return figure
