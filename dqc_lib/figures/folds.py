"""What a cross-validation found: every fold, what shuffled labels give, two pipelines fold by fold, and intervals."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from dqc_lib.figures.labels import fold
from dqc_lib.figures.style import PALETTE, escape, fade, start_figure
from dqc_lib.harmonization import ChanceComparison, compare_folds

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

SPLIT_COLORS = {"subject": PALETTE["blue"], "record": PALETTE["vermillion"]}
"""Colour of what was split, or drawn again: subjects or records."""
MARK_COLORS = tuple(PALETTE[name] for name in ("orange", "green", "purple", "black", "sky blue"))
MARK_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "x")
NAME_WIDTH = 15  # characters to a line beside a row, so that 400 pixels leave room for the plot
QUIET = {"size": 12, "color": "#57606a"}
SIDES = ("fold", "split", "n_test", "n_subjects_train", "n_subjects_test", "n_subjects_shared")
AXES = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "auroc": "AUROC"}


def draw_folds(
    results: Mapping[str, pd.DataFrame],
    *,
    title: str,
    chance: Mapping[str, ChanceComparison] | None = None,
    metric: str = "accuracy",
) -> Figure:
    """Return a row per cross-validation: a dot for each fold, their mean, and where shuffled labels end up.

    Parameters
    ----------
    results : mapping of str to DataFrame
        Of `cross_validate`, by what a row is called; higher is better.
    title : str
    chance : mapping of str to ChanceComparison, optional
        Of `compare_to_chance`, for rows that have one: a grey band from the 2.5th to the 97.5th percentile of what the
        same cross-validation finds when labels are shuffled among subjects.
    metric : str
        One of accuracy, balanced_accuracy and auroc.

    Raises
    ------
    KeyError, ValueError
        If there is nothing to draw, a table has no such column, or chance is of another row or metric.
    """
    import plotly.graph_objects as go

    chance = dict(chance or {})
    _check_folds(results, chance, metric)
    alt = _tell_folds(results, chance, metric)
    figure = start_figure(title=title, alt=alt, height=150 + 66 * len(results))
    for at, name in enumerate(chance):
        low, high = np.quantile(chance[name].null, [0.025, 0.975])
        told = f"{fold(name)}<br>{len(chance[name].null)} times shuffled: {low:.2f} to {high:.2f}"
        bar = {"x": [max(high - low, 0.004)], "base": [low], "y": [list(results).index(name)], "width": 0.56}
        look = {"marker": {"color": "#d0d7de"}, "showlegend": at == 0, "legendgroup": "chance"}
        words = {"name": "labels shuffled among subjects (95 %)", "customdata": [told]}
        figure.add_trace(
            go.Bar(**bar, **look, **words, orientation="h", hovertemplate="%{customdata}<extra></extra>")
        )
    shown = set()
    for at, (name, table) in enumerate(results.items()):
        split = str(table["split"].iloc[0])
        values, told = table[metric], [_tell_fold(name, row, metric) for row in table.to_dict("records")]
        look = {"color": SPLIT_COLORS[split], "legend": f"split by {split}: folds", "new": split not in shown}
        _add_folds(figure, values, at=at, told=told, **look)
        shown.add(split)
    counts = [f"n = {_count_subjects(table)}" for table in results.values()]
    _label_rows(figure, list(results), counts)
    _set_axis(figure, [*(table[metric] for table in results.values()), *(found.null for found in chance.values())])
    figure.update_xaxes(title={"text": f"{AXES[metric]} on held-out records", "font": {"size": 13}})
    return figure


def _check_folds(results: Mapping[str, pd.DataFrame], chance: Mapping[str, ChanceComparison], metric: str) -> None:
    if not results:
        raise ValueError("expected at least one cross-validation to draw, got none")
    if metric not in AXES:
        raise ValueError(f"metric must be one of {', '.join(AXES)}, got {metric!r}")
    for name, table in results.items():
        if missing := [column for column in (*SIDES, metric) if column not in table]:
            raise KeyError(f"{name}: missing columns {missing}; expected a table of cross_validate")
    for name, found in chance.items():
        if name not in results or found.metric != metric:
            raise ValueError(f"chance of {name!r} is of {found.metric}; expected {metric} of one of {list(results)}")


def _count_subjects(table: pd.DataFrame) -> int:
    """Return how many subjects there are on the two sides of a fold together."""
    first = table.iloc[0]
    return int(first["n_subjects_train"] + first["n_subjects_test"] - first["n_subjects_shared"])


def _add_folds(
    figure: Figure, values: pd.Series, *, at: int, told: list[str], color: str, legend: str, new: bool
) -> None:
    """Add a row of dots, each beside the last so that none hides another, and their mean with its value."""
    import plotly.graph_objects as go

    spread = np.tile([0.0, 0.12, -0.12], -(-len(values) // 3))[: len(values)]
    common = {"legendgroup": legend, "hovertemplate": "%{customdata}<extra></extra>"}
    marks = {"size": 8, "color": fade(color, 0.55), "line": {"width": 0.7, "color": "#444444"}}
    figure.add_trace(
        go.Scatter(
            **{"x": values, "y": at + spread, "mode": "markers", "marker": marks, "name": legend, "showlegend": new},
            **{"customdata": told, **common},
        )
    )
    mean = float(values.mean())
    figure.add_trace(
        go.Scatter(
            **{"x": [mean], "y": [at], "mode": "markers", "showlegend": False, "customdata": [f"mean {mean:.3f}"]},
            **{"marker": {"symbol": "line-ns", "size": 26, "line": {"width": 3, "color": color}}, **common},
        )
    )
    figure.add_annotation(
        **{"x": mean, "y": at, "yshift": 23, "text": "" if np.isnan(mean) else f"{mean:.2f}", "showarrow": False},
        font={"size": 12, "color": "#1c2128"},
    )


def _tell_fold(name: str, row: Mapping[str, object], metric: str) -> str:
    shared = f"{row['n_subjects_shared']} of {row['n_subjects_test']} subjects also in training"
    return f"{fold(name)}<br>fold {row['fold']}: {row[metric]:.3f}, {row['n_test']} records<br>{shared}"


def _tell_folds(
    results: Mapping[str, pd.DataFrame], chance: Mapping[str, ChanceComparison], metric: str
) -> str:
    """Return the alternative text: mean and range over the folds, and of shuffled labels."""
    said = []
    for name, table in results.items():
        values = table[metric]
        text = f"{name} (n = {_count_subjects(table)} subjects): mean {values.mean():.2f}, folds {values.min():.2f}"
        text += f" to {values.max():.2f}"
        if name in chance:
            low, high = np.quantile(chance[name].null, [0.025, 0.975])
            text += f", shuffled labels {low:.2f} to {high:.2f} (p = {chance[name].p_value:.3f})"
        said.append(text)
    return f"{AXES[metric].capitalize() if metric != 'auroc' else 'AUROC'} of every fold. {'; '.join(said)}."


def draw_fold_differences(
    pairs: Mapping[str, tuple[pd.DataFrame, pd.DataFrame]],
    *,
    title: str,
    names: tuple[str, str],
    metric: str = "accuracy",
) -> Figure:
    """Return a row per comparison: the difference of two pipelines in each fold, and its mean with an interval.

    Parameters
    ----------
    pairs : mapping of str to (DataFrame, DataFrame)
        Two tables of `cross_validate` on the same folds; the first is taken from the second.
    title : str
    names : (str, str)
        What the two pipelines are called.
    metric : str
        One of accuracy, balanced_accuracy and auroc. The interval is that of `compare_folds`.
    """
    import plotly.graph_objects as go

    if not pairs:
        raise ValueError("expected at least one pair to draw, got none")
    found = {name: compare_folds(first, second, metric=metric) for name, (first, second) in pairs.items()}
    apart = {name: second[metric].to_numpy() - first[metric].to_numpy() for name, (first, second) in pairs.items()}
    said = [
        f"{name} (n = {row.n_subjects} subjects, {row.n_folds} folds): {row.difference:+.3f} ({row.low:+.3f} to"
        f" {row.high:+.3f}), {row.verdict}"
        for name, row in found.items()
    ]
    first, second = names
    alt = f"{AXES[metric]} of {second} minus {first}, fold by fold. {'; '.join(said)}."
    figure = start_figure(title=title, alt=alt, height=150 + 78 * len(pairs))
    for at, (name, row) in enumerate(found.items()):
        told = [f"{fold(name)}<br>{value:+.3f}" for value in apart[name]]
        spread = 0.12 + np.tile([0.0, 0.1, 0.2], -(-len(told) // 3))[: len(told)]
        marks = {"size": 8, "color": fade(SPLIT_COLORS["subject"], 0.45), "line": {"width": 0.7, "color": "#444444"}}
        common = {"hovertemplate": "%{customdata}<extra></extra>", "showlegend": at == 0, "mode": "markers"}
        x = {"x": apart[name], "y": at + spread, "name": "a fold"}
        figure.add_trace(go.Scatter(**x, marker=marks, customdata=told, legendgroup="fold", **common))
        reach = {"type": "data", "array": [row.high - row.difference], "thickness": 2, "width": 6, "color": "#000000"}
        figure.add_trace(
            go.Scatter(
                **{"x": [row.difference], "y": [at - 0.1], "error_x": reach, "legendgroup": "mean", **common},
                **{"marker": {"size": 10, "symbol": "diamond", "color": "#000000"}},
                **{"name": "mean with 95 % interval", "customdata": [f"{fold(name)}<br>{escape(row.verdict)}"]},
            )
        )
        place = {"x": row.difference, "y": at - 0.1, "yshift": 14, "showarrow": False, "font": QUIET}
        figure.add_annotation(text=escape(row.verdict), **place)
    figure.add_vline(x=0, line={"color": "#57606a", "width": 1.5, "dash": "dot"})
    _label_rows(figure, list(pairs), [f"n = {row.n_subjects}" for row in found.values()])
    ends = [value for name, row in found.items() for value in (*apart[name], row.low, row.high)]
    reach = 1.15 * np.nanmax(np.abs(ends)) or 0.1
    axis = {"text": escape(f"{AXES[metric]}, {second} minus {first}"), "font": {"size": 13}}
    figure.update_xaxes(title=axis, range=[-reach, reach], tickformat="+.2~f")
    return figure


def draw_interval_rows(
    table: pd.DataFrame, *, title: str, metric: str = "accuracy", reference: float | None = 0.5
) -> Figure:
    """Return rows of values with intervals, the marks of a row one below the other.

    Parameters
    ----------
    table : DataFrame
        Columns row (what the row is called), mark (what the marks are told apart by), value, low, high (higher is
        better; a mark without a value is left out, one without an interval has none), n_subjects; drawn from the top.
    title : str
    metric : str
        One of accuracy, balanced_accuracy and auroc.
    reference : float, optional
        Where a dotted line stands; the value of a coin unless said.

    Raises
    ------
    KeyError, ValueError
        If a column is missing, or there is nothing to draw.
    """
    import plotly.graph_objects as go

    needed = ["row", "mark", "value", "low", "high", "n_subjects"]
    if missing := [name for name in needed if name not in table]:
        raise KeyError(f"missing columns {missing}; the table has {list(table.columns)}")
    if table.empty or metric not in AXES:
        raise ValueError(f"expected rows to draw and a metric among {list(AXES)}, got {len(table)} rows, {metric!r}")
    names, marks = list(table["row"].unique()), list(table["mark"].unique())
    rows = table.to_dict("records")
    alt = f"{AXES[metric]} with intervals. " + "; ".join(f"{row['row']}, {_tell_interval(row)}" for row in rows) + "."
    figure = start_figure(title=title, alt=alt, height=140 + (22 + 22 * len(marks)) * len(names))
    others = [mark for mark in marks if mark not in SPLIT_COLORS]
    for at, mark in enumerate(marks):
        own = table[table["mark"] == mark]
        color = SPLIT_COLORS.get(mark) or MARK_COLORS[others.index(mark) % len(MARK_COLORS)]
        ends = {"array": own["high"] - own["value"], "arrayminus": own["value"] - own["low"]}
        spread = {"type": "data", "symmetric": False, "thickness": 2, "width": 5, "color": color, **ends}
        y = [names.index(name) + (at - (len(marks) - 1) / 2) * 0.62 / max(len(marks), 2) for name in own["row"]]
        told = [f"{fold(row['row'])}<br>{fold(_tell_interval(row))}" for row in own.to_dict("records")]
        dots = {"size": 9, "color": color, "symbol": MARK_SYMBOLS[at % len(MARK_SYMBOLS)]}
        figure.add_trace(
            go.Scatter(
                **{"x": own["value"], "y": y, "mode": "markers", "marker": dots, "error_x": spread},
                **{"name": escape(mark), "customdata": told, "hovertemplate": "%{customdata}<extra></extra>"},
            )
        )
    if reference is not None:
        figure.add_vline(x=reference, line={"color": "#57606a", "width": 1.5, "dash": "dot"})
    counts = [f"n = {table.loc[table['row'] == name, 'n_subjects'].max()}" for name in names]
    _label_rows(figure, names, counts)
    _set_axis(figure, [table["value"], table["low"], table["high"], [] if reference is None else [reference]])
    figure.update_layout(showlegend=True)
    figure.update_xaxes(title={"text": f"{AXES[metric]}, with 95 % interval", "font": {"size": 13}})
    return figure


def _tell_interval(row: Mapping[str, object]) -> str:
    span = "" if np.isnan(row["low"]) else f" ({row['low']:.2f} to {row['high']:.2f})"
    return f"{row['mark']}: {row['value']:.2f}{span}, n = {row['n_subjects']} subjects"


def _label_rows(figure: Figure, names: Sequence[str], counts: Sequence[str]) -> None:
    """Write names and n beside their rows, from the top, in lines that leave room for the plot."""
    labels = []
    for name, count in zip(names, counts, strict=True):
        lines = [escape(line) for line in textwrap.wrap(str(name), NAME_WIDTH) or [""]]
        labels.append("<br>".join([*lines[:4], *(["…"] if len(lines) > 4 else []), f"({count})"]))
    ticks = {"tickvals": list(range(len(names))), "ticktext": labels, "tickfont": {"size": 12}}
    figure.update_yaxes(**ticks, range=[len(names) - 0.45, -0.6], automargin=True, showgrid=False, zeroline=False)


def _set_axis(figure: Figure, values: Sequence) -> None:
    """Let the axis hold all values, with room at both ends, and no more of 0 to 1 than they need."""
    held = np.concatenate([np.asarray(part, dtype=float) for part in values])
    held = held[~np.isnan(held)]
    low, high = (float(held.min()), float(held.max())) if len(held) else (0.0, 1.0)
    room = 0.06 * max(high - low, 0.2)
    figure.update_xaxes(range=[max(low - room, -0.03), min(high + room, 1.03)], zeroline=False)
