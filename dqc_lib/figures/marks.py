"""Marks of attempts that several figures share: in order, coloured by decision, with the rates before and after.

The rows of the stages "control" and "closing" are drawn, or all rows where there are none of these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dqc_lib.figures.labels import fold
from dqc_lib.figures.style import DECISION_COLORS, DECISION_SYMBOLS, PALETTE

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

DENOMINATORS = {
    "standard": {"fp": "n_neg", "fn": "n_pos"},
    "published": {"fp": "n_pos", "fn": "n_neg"},
}
RATE_NAMES = {"fp": "false-positive rate", "fn": "false-negative rate"}
MOST_NAMED = 6  # subjects named when an attempt is pointed at


def choose_attempts(ledger: pd.DataFrame) -> pd.DataFrame:
    """Return the rows to draw: those under control, or all where there are none of these."""
    rows = ledger[ledger["stage"].isin(("control", "closing"))]
    rows = ledger if rows.empty else rows
    if rows.empty:
        raise ValueError("the ledger has no attempts; expected at least one")
    return rows


def number_attempts(ledger: pd.DataFrame) -> pd.DataFrame:
    """Return the rows to draw with a column `attempt` that counts from 1."""
    rows = choose_attempts(ledger)
    return rows.assign(attempt=np.arange(1, len(rows) + 1))


def add_decisions(
    figure: Figure,
    rows: pd.DataFrame,
    *,
    y: Any,
    said: str = "",
    row: int | None = None,
    size: Any = 8,
    names: Any = None,
) -> None:
    """Add one trace of marks per decision.

    Parameters
    ----------
    figure : Figure
    rows : DataFrame
        Of `number_attempts`; an attempt may have several.
    y : sequence
        Height of every row.
    said : str
        What a mark tells of its height.
    row : int, optional
        Row of subplots, of which the first has the legend.
    size : number or sequence
        Pixels, of all marks or of each.
    names : sequence, optional
        Of the subject that every mark stands for: the customdata begins with it as it is, and it is the first one that
        the mark tells.
    """
    import plotly.graph_objects as go

    y, size = pd.Series(np.asarray(y), index=rows.index), pd.Series(size, index=rows.index)
    keys = [[]] * len(rows) if names is None else [[name] for name in names]
    where = {} if row is None else {"row": row, "col": 1}
    for decision, color in DECISION_COLORS.items():
        chosen = (rows["decision"] == decision).to_numpy()
        if not chosen.any():
            continue
        part = rows[chosen]
        own = [key for key, taken in zip(keys, chosen, strict=True) if taken]
        told = [_describe_attempt(*pair) for pair in zip(part.to_dict("records"), own, strict=True)]
        figure.add_trace(
            go.Scatter(
                x=part["attempt"],
                y=y[chosen],
                mode="markers",
                name=f"{decision} (n = {part['attempt'].nunique()})",
                marker={
                    **{"color": color, "symbol": DECISION_SYMBOLS[decision], "size": size[chosen], "opacity": 1},
                    "line": {"width": 0.7, "color": "#444444"},
                },
                customdata=[[*key, text] for key, text in zip(own, told, strict=True)],
                hovertemplate=f"%{{customdata[{len(own[0])}]}}<br>{said}{'<br>' * bool(said)}{decision}<extra></extra>",
                legendgroup=decision,
                showlegend=row in (None, 1),
            ),
            **where,
        )


def add_key(figure: Figure, name: str, marker: dict, *, group: str | None = None) -> None:
    """Add an entry of the legend with a mark of ordinary size, for marks whose sizes or colours differ."""
    import plotly.graph_objects as go

    look = {"x": [None], "y": [None], "mode": "markers", "marker": {"size": 9, **marker}}
    figure.add_trace(go.Scatter(name=name, legendgroup=group, hoverinfo="skip", **look))


def _describe_attempt(attempt: dict, first: list[str]) -> str:
    """Return an attempt in words, names shown as they are, that of the subject pointed at first."""
    subjects = list(dict.fromkeys([*first, *attempt["subjects"]]))[:MOST_NAMED]
    more = [f"and {attempt['n'] - MOST_NAMED} more"] * (attempt["n"] > MOST_NAMED)
    where = f"cycle {attempt['cycle']}, {attempt['level']} at {fold(attempt['center'])}"
    return f"{where}, {attempt['n']} image{'s' * (attempt['n'] != 1)}<br>{fold(', '.join(subjects + more))}"


def list_lost_norms(rows: pd.DataFrame, everybody: pd.DataFrame) -> list[str]:
    """Return why update norms have no mark on a log axis, such as "2 of 5 update norms are 0"; nothing if all have one.

    NaN is what nobody measured, and what a training gives that diverged. An engine measures every update or none: where
    any row of `everybody` has a norm, or the limit of one, NaN means the latter.
    """
    if everybody[["update_norm", "norm_limit"]].isna().all(axis=None):
        return ["update norms were not measured"]
    lost = int((~np.isfinite(rows["update_norm"])).sum())
    still = int((rows["update_norm"] == 0).sum())
    notes = [f"{lost} of {len(rows)} update norms infinite or NaN: the training diverged"] * (lost > 0)
    return notes + [f"{still} of {len(rows)} update norms are 0"] * (still > 0)


def mark_cycles(figure: Figure, rows: pd.DataFrame, *, row: int | None = None) -> None:
    """Label the axis of the attempts with the cycles, a line at the end of each."""
    spans = rows.assign(closing=rows["stage"] == "closing").groupby(["cycle", "closing"])["attempt"].agg(["min", "max"])
    where = {} if row is None else {"row": row, "col": 1}
    figure.update_xaxes(
        title="cycle (attempts in order)",
        tickvals=spans.mean(axis=1).tolist(),
        ticktext=["closing" if closing else str(cycle) for cycle, closing in spans.index],
        showgrid=False,
        **where,
    )
    figure.update_xaxes(range=[rows["attempt"].min() - 1, rows["attempt"].max() + 1], showgrid=False)
    for end in spans["max"].iloc[:-1]:
        figure.add_vline(x=end + 0.5, line={"color": "#d0d7de", "width": 1}, layer="below")


def check_denominators(denominators: str) -> None:
    """Raise a KeyError for denominators other than "standard" and "published"."""
    if denominators not in DENOMINATORS:
        raise KeyError(f"denominators is {denominators!r}; expected one of {list(DENOMINATORS)}")


def divide_counts(rows: pd.DataFrame, *, count: str, denominators: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a rate ("fp" or "fn") before and after every attempt, 0 to 1; NaN where it is unknown or undefined."""
    total = DENOMINATORS[denominators][count]
    return tuple(_divide(rows[f"{prefix}{count}"], rows[f"{prefix}{total}"]) for prefix in ("reference_", ""))


def _divide(counts: pd.Series, totals: pd.Series) -> np.ndarray:
    """Return rates, NaN where a count is not known or the denominator is 0."""
    totals = totals.astype("Float64").to_numpy(dtype=float, na_value=np.nan)
    return counts.astype("Float64").to_numpy(dtype=float, na_value=np.nan) / np.where(totals > 0, totals, np.nan)


def add_rate(
    figure: Figure, rows: pd.DataFrame, *, count: str, denominators: str, row: int, legend_row: int = 1
) -> None:
    """Add one error rate ("fp" or "fn") of verified attempts to a row of subplots: before, tolerated and after.

    What the legend says of it comes from the row `legend_row`.
    """
    before, after = divide_counts(rows, count=count, denominators=denominators)
    _add_references(figure, rows, before=before, row=row, in_legend=row == legend_row)
    add_decisions(figure, rows, y=after, said=f"{RATE_NAMES[count]} %{{y:.3f}}", row=row)
    tops = np.concatenate([before + rows["tolerance"].fillna(0.0), after])
    top = max([0.1, *tops[np.isfinite(tops)]])
    title = RATE_NAMES[count].replace(" ", "<br>")
    figure.update_yaxes(title={"text": title, "font": {"size": 13}}, range=[-0.05 * top, 1.08 * top], row=row, col=1)


def _add_references(figure: Figure, rows: pd.DataFrame, *, before: np.ndarray, row: int, in_legend: bool) -> None:
    """Add the rates before every attempt and, where anything is tolerated, the band up to the highest such rate."""
    import plotly.graph_objects as go

    tolerance = rows["tolerance"].fillna(0.0)
    where = {"row": row, "col": 1}
    shared = {"x": rows["attempt"], "showlegend": in_legend}
    said = [
        f"before {rate:.3f}, tolerated up to {rate + more:.3f}" for rate, more in zip(before, tolerance, strict=True)
    ]
    if (tolerance > 0).any():
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
