"""What a study came to: metrics over the cycles, and how well the eliminations fit the truth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pandas as pd

from dqc_lib.figures.style import ARM_COLORS, PALETTE, escape, get_arm_colors, start_figure

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

METRIC_NAMES = {
    "auroc": "AUROC",
    "f1": "F1",
    "accuracy": "accuracy",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
}
BASES = {"sensitivity": "n_positive", "specificity": "n_negative"}  # the count a metric rests on; n for the others
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")


def draw_history(
    history: pd.DataFrame,
    *,
    title: str,
    metric: str = "auroc",
    subgroup: str = "overall",
    control_start: int | None = None,
) -> Figure:
    """Return a metric on the test subjects (0 to 1, higher is better) against the cycle, one line per arm and group.

    Parameters
    ----------
    history : DataFrame
        Rows of `evaluate_cycles` (`Arm.history`) of one or several arms, with the column arm.
    title : str
    metric : str
        accuracy, sensitivity, specificity, f1 or auroc. Undefined values leave a gap.
    subgroup : str
        "overall", or one of the subgroups; its groups differ in the dash of the line.
    control_start : int, optional
        First cycle after the pre-training. The cycles before it are shaded and drawn once, in grey.

    Raises
    ------
    KeyError, ValueError
        If the metric is unknown, or the history has no such subgroup.
    """
    import plotly.graph_objects as go

    if metric not in METRIC_NAMES:
        raise KeyError(f"metric is {metric!r}; expected one of {list(METRIC_NAMES)}")
    rows = history[history["subgroup"] == subgroup]
    if rows.empty:
        raise ValueError(
            f"the history has no subgroup {subgroup!r}; expected one of {list(history['subgroup'].unique())}"
        )
    name = METRIC_NAMES[metric]
    lines = _list_lines(rows, control_start)
    figure = start_figure(title=title, alt=_tell_lines(lines, metric), height=420)
    for (label, group), part, color, dash in lines:
        text = f"{label} ({'' if group == 'all' else f'{group}, '}{_tell_n(part.iloc[-1], metric)})"
        figure.add_trace(
            go.Scatter(
                x=part["cycle"],
                y=part[metric],
                name=escape(text),
                mode="lines+markers",
                line={"color": color, "dash": dash, "width": 2},
                marker={"size": 6},
                hovertemplate=f"cycle %{{x}}<br>{name} %{{y:.3f}}<extra>%{{fullData.name}}</extra>",
            )
        )
    values = rows[metric].dropna()
    floor = min([0.45 if metric == "auroc" else 0.0, *values - 0.05])
    first, last = rows["cycle"].min(), rows["cycle"].max()
    figure.update_xaxes(title="cycle", range=[first - 0.5, last + 0.5], tickangle=0, zeroline=False)
    if last - first < 12:
        figure.update_xaxes(dtick=1)  # of few cycles plotly would show halves; of many, as many as there is room for
    figure.update_yaxes(title=f"test {name}", range=[max(floor, -0.02), 1.02])
    if metric == "auroc":
        figure.add_hline(y=0.5, line={"color": PALETTE["grey"], "width": 1, "dash": "dot"})
        figure.add_annotation(
            x=1, xref="paper", xanchor="right", y=0.5, yanchor="bottom", text="chance", showarrow=False
        )
    if control_start is not None and first < control_start:
        figure.add_vrect(x0=first - 0.5, x1=control_start - 0.5, fillcolor="#000000", opacity=0.07, line_width=0)
        figure.add_annotation(
            **{"x": first - 0.3, "xanchor": "left", "y": 1, "yref": "paper", "yanchor": "top"},
            text="pre-training",
            showarrow=False,
        )
    return figure


def _list_lines(rows: pd.DataFrame, control_start: int | None) -> list[tuple]:
    """Return (arm, group), rows, colour and dash of every line; the cycles that all arms share come first, once."""
    arms = [arm for arm in rows["arm"].unique() if arm != "pretraining"]
    colors = get_arm_colors(arms)
    dashes = {group: DASHES[at % len(DASHES)] for at, group in enumerate(rows["group"].unique())}
    keys = [(arm, group) for arm in arms for group in dashes]
    parts = [rows[(rows["arm"] == arm) & (rows["group"] == group)].sort_values("cycle") for arm, group in keys]
    lines = []
    if control_start is not None or not arms:
        start = float("inf") if control_start is None else control_start
        shared = rows[(rows["cycle"] < start) & (rows["arm"] == rows["arm"].iloc[0])]
        for group, part in shared.groupby("group", sort=False, observed=True):
            lines.append((("pre-training", group), part.sort_values("cycle"), ARM_COLORS["pretraining"], dashes[group]))
        parts = [part[part["cycle"] >= start - 1] for part in parts]
    return lines + [
        (key, part, colors[key[0]], dashes[key[1]]) for key, part in zip(keys, parts, strict=True) if len(part)
    ]


def _tell_n(row: pd.Series, metric: str) -> str:
    """Return the number of subjects that a metric rests on, in words."""
    if metric in BASES:
        return f"n = {row[BASES[metric]]} {'diseased' if metric == 'sensitivity' else 'controls'}"
    return f"n = {row['n']}"


def _tell_lines(lines: list[tuple], metric: str) -> str:
    """Return in words where every line starts and ends."""
    said = []
    for (label, group), part, *_ in lines:
        first, last = part.iloc[0], part.iloc[-1]
        who = label if group == "all" else f"{label}, {group}"
        said.append(
            f"{who}: {first[metric]:.2f} in cycle {first['cycle']} to {last[metric]:.2f} in cycle {last['cycle']}"
        )
    return f"Line chart of the test {METRIC_NAMES[metric]} by cycle. {'; '.join(said)}."


def draw_truth(comparisons: Mapping[str, pd.DataFrame], *, title: str) -> Figure:
    """Return the share of images eliminated (%), by what they truly are, one bar per rule.

    Parameters
    ----------
    comparisons : mapping of str to DataFrame
        For every rule the table of `compare_to_truth`. Wanted high for harmful images and low for good ones.
    title : str
    """
    import plotly.graph_objects as go

    alt = "; ".join(
        f"{rule}: " + ", ".join(f"{row.eliminated} of {row.n} {row.Index}" for row in table.itertuples())
        for rule, table in comparisons.items()
    )
    figure = start_figure(title=title, alt=f"Bar chart of eliminated images. {alt}.", height=400, barmode="group")
    for (rule, table), color in zip(comparisons.items(), get_arm_colors(list(comparisons)).values(), strict=True):
        figure.add_trace(
            go.Bar(
                x=[escape(images) for images in table.index],
                y=100 * table["share"],
                name=escape(f"{rule} (n = {table['n'].sum()} images)"),
                marker={"color": color},
                text=[f"{row.eliminated} of {row.n}" for row in table.itertuples()],
                textposition="outside",
                cliponaxis=False,
                hovertemplate="%{x}<br>%{text} eliminated, %{y:.0f} %<extra>%{fullData.name}</extra>",
            )
        )
    figure.update_yaxes(title="eliminated (% of images)", range=[0, 110], tickvals=list(range(0, 101, 20)))
    figure.update_xaxes(title="what the images truly are")
    return figure
