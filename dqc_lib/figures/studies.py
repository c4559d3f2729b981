"""The tables of a study over many seeds: who was eliminated under which rule, and what other detectors see."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from dqc_lib.figures.labels import fold, shorten_names
from dqc_lib.figures.rows import Rows, add_headings, add_intervals, add_texts, label_rows, place_marks, stack_rows
from dqc_lib.figures.style import PALETTE, escape, get_arm_colors, start_figure

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

GROUP_NAMES = {
    "centers found": "harmful centers",
    "center": "in harmful centers",
    "single": "harmful singles",
    "good": "good images",
    "known": "good, known center",
    "one class": "good, one class",
    "one image": "good, one image",
    "new scanner": "good, new scanner",
    "new scanners lost": "new scanners lost",
}
"""What a study's groups of images are called beside their rows."""
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "x", "star")
PLACEMENTS = {
    "center": ("in whole centers", {"color": PALETTE["vermillion"], "symbol": "diamond"}),
    "single": ("single images", {"color": PALETTE["orange"], "symbol": "circle"}),
}
SMALL_WIDTH = 24  # characters to a line of small letters, so that a screen 400 pixels wide keeps room for the plot


def draw_study(
    summary: pd.DataFrame, *, title: str, panel: str = "kind", groups: Iterable[str] = ("center", "single", "good")
) -> Figure:
    """Return the share of images eliminated (%) by rule, dots with intervals, in rows by group of images.

    Wanted high for harmful images and low for good ones.

    Parameters
    ----------
    summary : DataFrame
        One row per panel, rule and group of images: columns group, rule, n, eliminated, share, low, high (0 to 1),
        seeds, and `panel`.
    title : str
    panel : str
        The column whose values head the panels.
    groups : iterable of str
        Groups of images to draw, in this order; those that no row has are left out.

    Raises
    ------
    KeyError, ValueError
        If a column is missing, no row has one of the groups, or two rows share panel, rule and group.
    """
    chosen = list(groups)
    rows = _rename(summary, panel, chosen)
    rules = list(summary.loc[summary["group"].isin(chosen), "rule"].unique())
    if len(rules) > len(SYMBOLS):
        raise ValueError(f"expected at most {len(SYMBOLS)} rules; came {rules}")
    places = stack_rows(rows, n_marks=len(rules))
    figure = start_figure(title=title, alt=_tell_shares(rows), height=120 + places.height)
    add_headings(figure, places)
    for at, (rule, color) in enumerate(get_arm_colors(rules).items()):
        own = rows[rows["rule"] == rule]
        y = place_marks(own, places, at=at, of=len(rules))
        told = [f"{fold(f'{row.group}, {rule}')}<br>{_tell_share(row)}" for row in own.itertuples()]
        name = f"{escape(rule)} ({_count_seeds(own['seeds'])})"
        look = {"color": color, "symbol": SYMBOLS[at]}
        add_intervals(figure, 100 * own[["share", "low", "high"]], y, told=told, name=name, look=look)
        add_texts(figure, x=106.0, y=y, texts=[f"{row.eliminated} of {row.n}" for row in own.itertuples()])
    label_rows(figure, places, dict.fromkeys(places.groups), counted="")
    figure.update_layout(margin_r=92)
    figure.update_xaxes(title={"text": "eliminated (%)", "font": {"size": 13}}, range=[-3, 106])
    return figure


def _rename(summary: pd.DataFrame, panel: str, groups: list[str]) -> pd.DataFrame:
    """Return the rows of the groups, in their order within each panel, as `stack_rows` wants them."""
    needed = [panel, "group", "rule", "n", "eliminated", "share", "low", "high", "seeds"]
    if missing := [name for name in needed if name not in summary]:
        raise KeyError(f"the summary has no columns {missing}; expected {needed}")
    rows = summary[summary["group"].isin(groups)]
    if rows.empty:
        raise ValueError(f"the summary has no row of the groups {groups}; it has {list(summary['group'].unique())}")
    if (twice := rows.duplicated([panel, "rule", "group"])).any():
        found = rows.loc[twice, [panel, "rule", "group"]].iloc[0].to_list()
        raise ValueError(f"the summary has several rows of {found}; choose one scenario and one number of centers")
    order = rows[panel].map({name: at for at, name in enumerate(rows[panel].unique())})
    rows = rows.assign(_panel=order, _group=rows["group"].map({name: at for at, name in enumerate(groups)}))
    rows = rows.sort_values(["_panel", "_group"], kind="stable")
    names = rows["group"].map(lambda name: GROUP_NAMES.get(name, name))
    return rows.assign(subgroup=rows[panel].astype(str), group=names)


def _count_seeds(seeds: pd.Series) -> str:
    low, high = seeds.min(), seeds.max()
    return f"n = {low} seeds" if low == high else f"n = {low} to {high} seeds"


def _tell_share(row: tuple) -> str:
    """Return a share with its interval in words."""
    span = "" if np.isnan(row.low) else f" ({100 * row.low:.1f} to {100 * row.high:.1f})"
    return f"{row.eliminated} of {row.n} eliminated, {100 * row.share:.1f} %{span}"


def _tell_shares(rows: pd.DataFrame) -> str:
    """Return the alternative text: how many of how many, for every group and rule."""
    said = []
    for (heading, group), part in rows.groupby(["subgroup", "group"], sort=False):
        said.append(f"{heading}, {group}: " + ", ".join(f"{row.rule} {_tell_share(row)}" for row in part.itertuples()))
    return f"Eliminated images by rule. {'; '.join(said)}."


def draw_detectors(
    summary: pd.DataFrame, *, title: str, sees: Mapping[str, str] | None = None, panel: str = "kind"
) -> Figure:
    """Return the AUROC (0 to 1, 0.5 is chance) of every detector, dots with intervals, the best one first.

    Parameters
    ----------
    summary : DataFrame
        One row per panel, detector and placement of the harm ("center", "single"): columns detector, placement, auroc,
        low, high, seeds, and `panel`. Rows without an AUROC are left out.
    title : str
    sees : mapping of str to str, optional
        What a detector has to look at, written below its name.
    panel : str
        The column whose values head the panels.

    Raises
    ------
    ValueError
        If no AUROC is defined.
    """
    rows = _order_detectors(summary, panel)
    placements = [name for name in PLACEMENTS if (rows["placement"] == name).any()]
    small = {name: textwrap.wrap(str(seen), SMALL_WIDTH) for name, seen in (sees or {}).items()}
    places = stack_rows(rows, n_marks=max(len(placements), *(1 + len(lines) for lines in small.values()), 1))
    figure = start_figure(title=title, alt=_tell_detectors(rows), height=110 + places.height)
    add_headings(figure, places)
    for at, placement in enumerate(placements):
        own, (name, look) = rows[rows["placement"] == placement], PLACEMENTS[placement]
        told = [f"{fold(row.group)}, {name}<br>AUROC {_tell_auroc(row)}" for row in own.itertuples()]
        y = place_marks(own, places, at=at, of=len(placements))
        entry = f"{name} ({_count_seeds(own['seeds'])})"
        add_intervals(figure, own[["auroc", "low", "high"]], y, told=told, name=entry, look=look)
    _label_detectors(figure, places, small)
    chance = {"color": PALETTE["grey"], "width": 1, "dash": "dot"}
    figure.add_shape(type="line", x0=0.5, x1=0.5, y0=0, y1=places.height, line=chance, layer="below")
    figure.update_xaxes(title={"text": "AUROC (dotted: chance)", "font": {"size": 13}}, range=[-0.02, 1.03])
    return figure


def _order_detectors(summary: pd.DataFrame, panel: str) -> pd.DataFrame:
    """Return the rows with an AUROC, the best detector of each panel first, as `stack_rows` wants them."""
    known = summary.dropna(subset="auroc")
    if known.empty:
        raise ValueError("no detector has an AUROC; expected one or more")
    rows = known.rename(columns={"detector": "group"}).assign(subgroup=known[panel].astype(str))
    order = {name: at for at, name in enumerate(rows["subgroup"].unique())}
    best = rows.groupby(["subgroup", "group"])["auroc"].transform("mean")
    rows = rows.assign(_panel=rows["subgroup"].map(order), _best=best)
    return rows.sort_values(["_panel", "_best"], ascending=[True, False], kind="stable")


def _label_detectors(figure: Figure, places: Rows, small: Mapping[str, list[str]]) -> None:
    """Write the detectors beside their rows, and lines of small letters below them."""
    label_rows(figure, places, dict.fromkeys(places.groups), counted="")
    short = shorten_names((group for _, group in places.groups), longest=SMALL_WIDTH)
    labels = []
    for _, group in places.groups:
        lines = "<br>".join(map(escape, small.get(group, ())))
        labels.append(escape(short[group]) + f'<br><span style="font-size:10px">{lines}</span>' * bool(lines))
    figure.update_yaxes(ticktext=labels, title={"text": "detector"})


def _tell_auroc(row: tuple) -> str:
    """Return an AUROC with its interval in words."""
    return f"{row.auroc:.2f}" + ("" if np.isnan(row.low) else f" ({row.low:.2f} to {row.high:.2f})")


def _tell_detectors(rows: pd.DataFrame) -> str:
    """Return the alternative text: the AUROC of every detector by placement."""
    said = []
    for (heading, detector), part in rows.groupby(["subgroup", "group"], sort=False):
        values = ", ".join(f"{_tell_auroc(row)} {PLACEMENTS[row.placement][0]}" for row in part.itertuples())
        said.append(f"{heading}, {detector}: {values}")
    return f"AUROC by detector. {'; '.join(said)}."
