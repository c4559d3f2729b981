"""Subgroups side by side: how well each is diagnosed, the gaps between them, and who was eliminated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from dqc_lib.figures.bands import add_gap, find_range, list_lines, make_chance_key, tell_gap
from dqc_lib.figures.labels import fold
from dqc_lib.figures.outcomes import BASES, METRIC_NAMES
from dqc_lib.figures.rows import (
    OVERALL,
    QUIET,
    Rows,
    add_headings,
    add_intervals,
    add_notes,
    add_texts,
    label_rows,
    place_marks,
    stack_rows,
)
from dqc_lib.figures.style import PALETTE, escape, fade, get_arm_colors, start_figure

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

IMAGE_LOOKS = {
    "harmful": {"color": PALETTE["vermillion"], "symbol": "diamond"},
    "good": {"color": PALETTE["green"], "symbol": "circle"},
    "all": {"color": PALETTE["grey"], "symbol": "square"},
}
"""Colour and symbol of images by what they are in truth, harmful ones as in `draw_update_norms`."""
COUNTED = {"n_positive": "patients", "n_negative": "controls", "n": "subjects"}
PANEL_HEIGHT, MOST_PANELS = 190, 4  # pixels; small multiples
NO_GAP = {
    **{"text": "no gap: fewer than two<br>groups are large enough", "font": QUIET, "showarrow": False},
    **{"x": 0.5, "xref": "x domain", "y": 0.5, "yref": "y domain"},
}


def draw_forest(groups: pd.DataFrame, *, metric: str, title: str) -> Figure:
    """Return a metric (0 to 1, higher is better) of every group as a dot with its interval, one per arm.

    Groups stand under the name of their subgroup; a thin vertical line is the value of all subjects. A group without a
    value has its note in place of a dot.

    Parameters
    ----------
    groups : DataFrame
        `SubgroupReport.groups` of one cycle: columns subgroup, group, n, n_positive, n_negative, metric, value, low,
        high, note, and arm where there are several.
    metric : str
        One of the column metric. The n beside a group is what the metric rests on: patients for sensitivity, controls
        for specificity, else subjects.
    title : str

    Raises
    ------
    KeyError, ValueError
        If the table does not have the metric; if it has several cycles.
    """
    rows = _choose_metric(groups, metric)
    colors = get_arm_colors(list(rows["arm"].unique()))
    base, name = BASES.get(metric, "n"), METRIC_NAMES.get(metric, str(metric))
    places = stack_rows(rows, n_marks=len(colors))
    figure = start_figure(title=title, alt=_tell_groups(rows, name, base), height=110 + places.height)
    add_headings(figure, places)
    for at, (arm, color) in enumerate(colors.items()):
        own = rows[rows["arm"] == arm]
        y = place_marks(own, places, at=at, of=len(colors))
        whole = own[own["subgroup"] == OVERALL]
        n = whole[base].iloc[0] if len(whole) else own.groupby("subgroup")[base].sum().max()
        _add_overall(figure, whole, places, color=color)
        told = [_tell_value(row, name, f"{getattr(row, base)} {COUNTED[base]}") for row in own.itertuples()]
        entry = f"{escape(arm)} (n = {n} {COUNTED[base]})"
        add_intervals(figure, own[["value", "low", "high"]], y, told=told, name=entry, look={"color": color})
    add_notes(figure, rows, places, arms=list(colors))
    labels = {(row.subgroup, row.group): getattr(row, base) for row in rows.itertuples()}
    label_rows(figure, places, labels, counted=COUNTED[base])
    more = ", line: all subjects" if (rows["subgroup"] == OVERALL).any() else ""
    figure.update_xaxes(title={"text": f"{escape(name)}{more}", "font": {"size": 13}}, range=[-0.02, 1.02])
    return figure


def draw_gaps(
    gaps: pd.DataFrame,
    *,
    metric: str,
    title: str,
    subgroup: str | None = None,
    control_start: int | None = None,
) -> Figure:
    """Return the largest gap between the groups of a subgroup by cycle (0 to 1, higher is less fair), a line per arm.

    A band is the interval of the difference between the two groups that lie furthest apart; where it reaches below 0,
    resamples turn them round. The dotted line is the mean gap that shuffled labels give: a gap is never below 0, and
    among small groups chance alone makes it large.

    Parameters
    ----------
    gaps : DataFrame
        `SubgroupReport.gaps`: columns cycle, subgroup, metric, gap, low, high, n_groups, by_chance, and arm where there
        are several. Undefined gaps leave a hole in the line.
    metric : str
        One of the column metric.
    title : str
    subgroup : str, optional
        The only one to draw; all unless given, at most four, one below the other.
    control_start : int, optional
        First cycle after the pre-training. The cycles before it are shaded and drawn once, in grey.

    Raises
    ------
    KeyError, ValueError
        If the table does not have the metric or the subgroup; if there are more than four subgroups.
    """
    rows = _choose_gaps(gaps, metric, subgroup)
    subgroups = list(rows["subgroup"].unique())
    name = METRIC_NAMES.get(metric, str(metric))
    plot = PANEL_HEIGHT * len(subgroups)
    figure = start_figure(title=title, alt=_tell_gaps(rows, name), height=plot + 110)
    heads = [f"{escape(group)} ({_count_groups(rows[rows['subgroup'] == group])})" for group in subgroups]
    figure.set_subplots(
        len(subgroups), 1, shared_xaxes=True, subplot_titles=heads, vertical_spacing=46 / plot if len(heads) > 1 else 0
    )
    figure.update_annotations(font_size=13, x=0, xanchor="left")
    figure.update_layout(margin_t=figure.layout.margin.t + 14)
    for row, group in enumerate(subgroups, start=1):
        for arm, part, color in list_lines(rows[rows["subgroup"] == group], control_start):
            add_gap(figure, part, name=escape(arm), color=color, row=row)
        if rows.loc[rows["subgroup"] == group, "gap"].isna().all():
            figure.add_annotation(**NO_GAP, row=row, col=1)
        figure.update_yaxes(title={"text": f"gap in {escape(name)}", "font": {"size": 13}}, row=row, col=1)
    figure.add_trace(make_chance_key())
    if control_start is not None:
        edge = control_start - 0.5
        span = {"x0": rows["cycle"].min() - 0.5, "x1": edge, "fillcolor": fade(PALETTE["grey"], 0.12), "line_width": 0}
        if edge > span["x0"]:
            figure.add_vrect(**span, layer="below")
    figure.update_yaxes(range=find_range(rows), zeroline=True, zerolinecolor="#57606a", zerolinewidth=1)
    figure.update_xaxes(
        dtick=1 if rows["cycle"].nunique() <= 12 else 2, range=[rows["cycle"].min() - 0.5, rows["cycle"].max() + 0.5]
    )
    figure.update_xaxes(title={"text": "cycle", "font": {"size": 13}}, row=len(subgroups), col=1)
    return figure


def draw_elimination(table: pd.DataFrame, *, title: str, subgroups: Sequence[str] | None = None) -> Figure:
    """Return the share of images eliminated (%) in every group as a dot with its interval, by what the images are.

    Beside each stands how many of how many. Wanted high for harmful images, low for good ones, and alike in all groups.

    Parameters
    ----------
    table : DataFrame
        Of `elimination_report`: columns images ("all", "good", "harmful"), subgroup, group, n, eliminated, share, low,
        high.
    title : str
    subgroups : sequence of str, optional
        Those to draw, in this order; all unless given.

    Raises
    ------
    KeyError, ValueError
        If a subgroup is not in the table; if there is nothing to draw.
    """
    rows = _choose_subgroups(table, subgroups)
    kinds = [kind for kind in IMAGE_LOOKS if (rows["images"] == kind).any()]
    places = stack_rows(rows, n_marks=len(kinds))
    figure = start_figure(title=title, alt=_tell_elimination(rows), height=110 + places.height)
    add_headings(figure, places)
    for at, kind in enumerate(kinds):
        own = rows[rows["images"] == kind]
        y = place_marks(own, places, at=at, of=len(kinds))
        told = [
            f"{fold(f'{row.group}, {kind}')}: {row.eliminated} of {row.n} eliminated<br>{100 * row.share:.0f} %"
            f" ({100 * row.low:.0f} to {100 * row.high:.0f} %)"
            for row in own.itertuples()
        ]
        n = own.groupby("subgroup")["n"].sum().max()
        values = 100 * own[["share", "low", "high"]]
        add_intervals(figure, values, y, told=told, name=f"{kind} images (n = {n})", look=IMAGE_LOOKS[kind])
        _add_counts(figure, own, y)
    label_rows(figure, places, dict.fromkeys(places.groups), counted="")
    figure.update_layout(margin_r=75)
    figure.update_xaxes(title={"text": "eliminated (% of images)", "font": {"size": 13}}, range=[-3, 106])
    return figure


def _choose_metric(groups: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return the rows of a metric, all of one cycle, with a column arm."""
    rows = groups[groups["metric"] == metric]
    if rows.empty:
        raise KeyError(f"metric is {metric!r}; expected one of {list(groups['metric'].unique())}")
    if "cycle" in rows and rows["cycle"].nunique() > 1:
        raise ValueError(f"the table has cycles {rows['cycle'].unique().tolist()}; expected the rows of one cycle")
    return rows if "arm" in rows else rows.assign(arm="model")


def _choose_subgroups(table: pd.DataFrame, subgroups: Sequence[str] | None) -> pd.DataFrame:
    """Return the rows of the subgroups, in their order."""
    known = list(table["subgroup"].unique())
    wanted = known if subgroups is None else list(subgroups)
    if unknown := [name for name in wanted if name not in known]:
        raise KeyError(f"no subgroup {unknown}; expected some of {known}")
    if not wanted:
        raise ValueError(f"no subgroup to draw; expected some of {known}")
    return pd.concat([table[table["subgroup"] == name] for name in wanted])


def _add_overall(figure: Figure, rows: pd.DataFrame, places: Rows, *, color: str) -> None:
    """Add the value of all subjects as a thin line from top to bottom, where it is defined."""
    for value in rows["value"].dropna():
        line = {"color": color, "width": 1, "dash": "dot"}
        figure.add_shape(type="line", x0=value, x1=value, y0=0, y1=places.height, line=line, layer="below")


def _add_counts(figure: Figure, rows: pd.DataFrame, y: np.ndarray) -> None:
    """Write how many of how many images are out, to the right of the plot."""
    texts = [f"{row.eliminated} of {row.n}" if row.n else "no images" for row in rows.itertuples()]
    add_texts(figure, x=106.0, y=y, texts=texts)


def _tell_value(row: tuple, name: str, counted: str) -> str:
    """Return a value with its interval in words."""
    said = f"{fold(row.group)}: {escape(name)} {escape(_tell_interval(row))}<br>{counted}"
    return said + (f"<br>{escape(row.note)}" if row.note else "")


def _tell_groups(rows: pd.DataFrame, name: str, base: str) -> str:
    """Return the alternative text: every value with its interval and n, and the notes of groups without one."""
    said = []
    for (subgroup, group), part in rows.groupby(["subgroup", "group"], sort=False):
        values = dict.fromkeys(_tell_interval(row) for row in part.itertuples())
        each = [f"{row.arm} {_tell_interval(row)}" for row in part.itertuples()]
        who = "all" if subgroup == OVERALL else f"{subgroup} {group}"
        said.append(f"{who} (n = {part[base].iloc[0]}): {', '.join(values if len(values) == 1 else each)}")
    return f"Test {name} by group, n in {COUNTED[base]}. {'; '.join(said)}."


def _tell_interval(row: tuple) -> str:
    """Return a value with its interval, or why there is none."""
    if np.isnan(row.value):
        return row.note or "not defined"
    return f"{row.value:.2f}" + ("" if np.isnan(row.low) else f" ({row.low:.2f} to {row.high:.2f})")


def _tell_elimination(rows: pd.DataFrame) -> str:
    """Return the alternative text: how many of how many, for every group."""
    said = []
    for (subgroup, group), part in rows.groupby(["subgroup", "group"], sort=False):
        values = ", ".join(f"{row.eliminated} of {row.n} {row.images}" for row in part.itertuples())
        said.append(f"{subgroup} {group}: {values}")
    return f"Eliminated images by group. {'; '.join(said)}."


def _choose_gaps(gaps: pd.DataFrame, metric: str, subgroup: str | None) -> pd.DataFrame:
    """Return the rows of a metric and of one or all subgroups, with a column arm."""
    rows = gaps[gaps["metric"] == metric]
    if rows.empty:
        raise KeyError(f"metric is {metric!r}; expected one of {list(gaps['metric'].unique())}")
    known = list(rows["subgroup"].unique())
    subgroup = subgroup and subgroup.replace("_", " ")  # "age_band", as it was asked for
    if subgroup is not None and subgroup not in known:
        raise KeyError(f"subgroup is {subgroup!r}; expected one of {known}")
    rows = rows if subgroup is None else rows[rows["subgroup"] == subgroup]
    if rows["subgroup"].nunique() > MOST_PANELS:
        raise ValueError(f"the table has subgroups {known}; expected at most {MOST_PANELS}, or the choice of one")
    return rows if "arm" in rows else rows.assign(arm="model")


def _count_groups(rows: pd.DataFrame) -> str:
    """Return between how many groups the gaps are."""
    low, high = rows["n_groups"].min(), rows["n_groups"].max()
    return f"n = {low} groups" if low == high else f"n = {low} to {high} groups"


def _tell_gaps(rows: pd.DataFrame, name: str) -> str:
    """Return the alternative text: where every line ends, and what chance gives there."""
    said = []
    for (subgroup, arm), part in rows.groupby(["subgroup", "arm"], sort=False):
        known = part.dropna(subset=["gap"])
        if known.empty:
            said.append(f"{subgroup}, {arm}: no gap is defined")
            continue
        last = known.loc[known["cycle"].idxmax()]
        said.append(
            f"{subgroup}, {arm}: {tell_gap(last)} in cycle {last['cycle']} between {last['n_groups']} groups,"
            f" {last['by_chance']:.2f} by chance"
        )
    return f"Gap in {name} between groups by cycle. {'; '.join(said)}."
