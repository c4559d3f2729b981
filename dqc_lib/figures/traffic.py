"""What a federated run sends, cycle by cycle, beside what federated averaging would."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from dqc_lib.figures.style import PALETTE, escape, start_figure

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

AVERAGING = "federated averaging"
CALL_COLORS = {"open": "purple", "measure": "sky blue", "train": "blue", "verify": "orange", AVERAGING: "grey"}
OTHER = "green"  # what is gathered before the quality control


def draw_traffic(table: pd.DataFrame, *, title: str) -> Figure:
    """Return what was sent out and back in each cycle (10⁶ bytes): a bar stacked by call, one of federated averaging.

    Parameters
    ----------
    table : DataFrame
        `FederatedRun.traffic`; of cycle 0, before the first one, nothing is drawn.
    title : str

    Raises
    ------
    ValueError
        If there is no cycle.
    """
    import plotly.graph_objects as go

    rows = table[table["cycle"] > 0].assign(mb=lambda rows: rows["out_mb"] + rows["back_mb"])
    if rows.empty:
        raise ValueError("the table has no row of a cycle from 1 on; expected the traffic of a FederatedRun")
    sent = rows.groupby("call", sort=False)["mb"].sum()
    said = ", ".join(f"{call} {mb:.1f} MB" for call, mb in sent.items())
    alt = f"Bar chart of {rows['cycle'].nunique()} cycles, two bars each. In all: {said}."
    figure = start_figure(title=title, alt=alt, height=400, barmode="stack", bargap=0.3)
    for call in sorted(sent.index, key=lambda call: call == AVERAGING):
        part = rows[rows["call"] == call]
        n = "a round per cycle" if call == AVERAGING else f"n = {part['calls'].sum()} calls"
        figure.add_trace(
            go.Bar(
                x=part["cycle"],
                y=part["mb"],
                name=escape(f"{call} ({n})"),
                offsetgroup="averaging" if call == AVERAGING else "travelling",
                marker={"color": PALETTE[CALL_COLORS.get(call, OTHER)]},
                hovertemplate="cycle %{x}: %{y:.2f} MB<extra>%{fullData.name}</extra>",
            )
        )
    figure.update_xaxes(title="cycle of the run", dtick=1)
    figure.update_yaxes(title="sent out and back (MB)", rangemode="tozero")
    return figure
