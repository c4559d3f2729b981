"""All centers at a glance: how many of their attempts were rejected, and who lost images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from dqc_lib.figures.centers import MANY
from dqc_lib.figures.labels import fold, shorten_names
from dqc_lib.figures.marks import add_key, choose_attempts
from dqc_lib.figures.style import DIAGNOSIS_COLORS, PALETTE, escape, start_figure
from dqc_lib.ledger import summarize_centers

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from dqc_lib.cohort import Cohort

SORTS = {
    "name": None,
    "images": "images",
    "share diseased": "share_diseased",
    "share rejected": "share_rejected",
    "eliminated": "eliminated",
}
"""What centers can be sorted by: names alphabetically, columns of the table of centers with the largest on top."""
CLASS_SYMBOLS = {"both classes": "circle", "one class": "square"}
CLASS_SCALE = ((0, DIAGNOSIS_COLORS["control"]), (0.5, "#f2f2f2"), (1, DIAGNOSIS_COLORS["diseased"]))
COLOR_BAR_HEIGHT, SLIDER_HEIGHT, MENU_HEIGHT = 36, 80, 40  # pixels


def draw_center_overview(
    ledger: pd.DataFrame,
    *,
    title: str,
    cohort: Cohort | None = None,
    cycles: tuple[int, int] | None = None,
    sort_by: str = "share rejected",
    controls: bool = False,
) -> Figure:
    """Return every center as one mark: its row, and the share of its attempts that were rejected (%).

    The area of a mark is the number of training images, its colour the share of diseased ones, and beside it stands how
    many were eliminated in these cycles. Long names of centers lose their middle, and pointing at a mark shows them
    whole. The customdata of a mark begins with the name of its center.

    Parameters
    ----------
    ledger : DataFrame
        `Ledger.to_frame()`.
    title : str
    cohort : Cohort, optional
        Gives the training images and their classes; centers without attempts get a row too. Without it, the images are
        those that the ledger names, and all marks have one colour.
    cycles : (int, int), optional
        First and last cycle whose attempts count; all unless given.
    sort_by : {"share rejected", "name", "images", "share diseased", "eliminated"}
        Largest on top; what is equal or unknown goes by name.
    controls : bool
        Add a dropdown that sorts and a slider for the last cycle that counts, for pages without a kernel. The dropdown
        sorts by what all `cycles` came to, wherever the slider stands.

    Raises
    ------
    KeyError, ValueError
        If `sort_by` is unknown; if it asks for classes and there is no cohort, if there are no attempts in the cycles,
        or if the cohort has no training image of a center of the ledger.
    """
    attempts = choose_attempts(ledger)
    first, last = cycles or (attempts["cycle"].min(), attempts["cycle"].max())
    rows = attempts[attempts["cycle"].between(first, last)]
    if rows.empty:
        known = f"{attempts['cycle'].min()} to {attempts['cycle'].max()}"
        raise ValueError(f"no attempts in cycles {first} to {last}; expected some of {known}")
    images = _count_images(ledger, cohort)
    table = _tabulate(rows, images)
    sorts = {name: _sort_centers(table, name) for name in SORTS if cohort is not None or name != "share diseased"}
    if sort_by not in SORTS:
        raise KeyError(f"sort_by is {sort_by!r}; expected one of {list(SORTS)}")
    if sort_by not in sorts:
        raise ValueError("sort_by is 'share diseased'; expected a cohort too, for the ledger names no classes")
    tall = len(table) <= MANY
    figure = start_figure(
        title=title, alt=_tell_centers(table, (first, last)), height=185 + (26 if tall else 13) * max(len(table), 4)
    )
    traces = _add_centers(figure, table, tall=tall)
    _lay_out(figure, table, order=sorts[sort_by], sort_by=sort_by)
    if cohort is not None:
        _add_color_bar(figure)
    if controls:
        steps = {cycle: _tabulate(rows[rows["cycle"] <= cycle], images) for cycle in sorted(rows["cycle"].unique())}
        _add_controls(figure, sorts=sorts, sort_by=sort_by, steps=steps, traces=traces)
    return figure


def _count_images(ledger: pd.DataFrame, cohort: Cohort | None) -> pd.DataFrame:
    """Return one row per center: training images, and how many are diseased (NaN where nobody says so)."""
    named = ledger.explode("subjects").groupby("center")["subjects"].nunique()
    if cohort is None:
        return pd.DataFrame({"images": named, "n_positive": np.nan})
    table = cohort.table
    table = table[table["role"] == "train"] if "role" in table else table
    counted = table.groupby("center").agg(images=("diagnosis", "size"), n_positive=("diagnosis", "sum"))
    if unknown := sorted(set(named.index) - set(counted.index)):
        raise ValueError(f"the cohort has no training image of {unknown}; expected the cohort of the ledger")
    return counted.astype({"n_positive": float})


def _tabulate(rows: pd.DataFrame, images: pd.DataFrame) -> pd.DataFrame:
    """Return images, classes and what became of the attempts, one row per center; shares are NaN without attempts."""
    summary = summarize_centers(rows).drop(columns="subjects")
    table = images.join(summary)
    counts = ["attempts", "rejected", "deferred", "eliminated"]
    table = table.fillna(dict.fromkeys(counts, 0)).astype(dict.fromkeys(counts, int))
    share = table["n_positive"] / table["images"]
    mix = np.where(share.isna() | ((share > 0) & (share < 1)), "both classes", "one class")
    return table.assign(share_diseased=share, mix=mix)


def _sort_centers(table: pd.DataFrame, sort_by: str) -> list[str]:
    """Return the centers as they are shown from the top."""
    table, column = table.sort_index(), SORTS[sort_by]
    table = table if column is None else table.sort_values(column, ascending=False, kind="stable", na_position="last")
    return [escape(center) for center in table.index]


def _add_centers(figure: Figure, table: pd.DataFrame, *, tall: bool) -> list[int]:
    """Return the positions of the traces added: marks by class mix, and last who has no attempts."""
    import plotly.graph_objects as go

    size = np.maximum(6, (24 if tall else 14) * np.sqrt(table["images"] / table["images"].max()))
    known = table["share_diseased"].notna().any()
    traces = []
    for mix, values in _list_values(table).items():
        part = table["mix"] == mix
        look = {"symbol": CLASS_SYMBOLS[mix], "line": {"width": 1, "color": "#444444"}}
        color = {"color": 100 * table.loc[part, "share_diseased"], "coloraxis": "coloraxis"}
        traces.append(len(figure.data))
        figure.add_trace(
            go.Scatter(
                y=[escape(center) for center in table.index[part]],
                mode="markers+text",
                marker={**look, "size": size[part], "opacity": 1} | (color if known else {"color": PALETTE["grey"]}),
                textfont={"size": 12 if tall else 9, "color": "#57606a"},
                hovertemplate="%{customdata[1]}<extra></extra>",
                cliponaxis=False,
                legendgroup=mix,
                showlegend=False,
                **values,
            )
        )
        name = f"{mix} (n = {part.sum()} centers)" if known else f"centers (n = {part.sum()})"
        add_key(figure, name, {**look, "color": "#ffffff" if known else PALETTE["grey"]}, group=mix)
    figure.add_trace(
        go.Scatter(
            x=_list_idle(table),
            y=[escape(center) for center in table.index],
            mode="text",
            text="no attempts",
            textposition="middle right",
            textfont={"size": 12 if tall else 9, "color": "#57606a"},
            hoverinfo="skip",
            showlegend=False,
        )
    )
    return [*traces, len(figure.data) - 1]


def _list_values(table: pd.DataFrame) -> dict[str, dict[str, list]]:
    """Return for each class mix what depends on the cycles: position, text and hover of its marks, as plain lists."""
    values = {}
    for mix in CLASS_SYMBOLS:
        part = table[table["mix"] == mix]
        if len(part):
            share = (100 * part["share_rejected"]).round(6)
            values[mix] = {
                "x": share.astype(object).where(share.notna(), None).tolist(),
                "text": [_tell_eliminated(row) for row in part.itertuples()],
                "textposition": [f"middle {'left' if value > 50 else 'right'}" for value in share],
                "customdata": [[row.Index, _describe_center(row)] for row in part.itertuples()],
            }
    return values


def _list_idle(table: pd.DataFrame) -> list[float | None]:
    """Return where "no attempts" is written: at 0 for centers without any, nowhere for the others."""
    return [None if attempts else 0.0 for attempts in table["attempts"]]


def _tell_eliminated(row: tuple) -> str:
    return f"{row.eliminated} of {row.images} eliminated" if row.eliminated else ""


def _describe_center(row: tuple) -> str:
    """Return a center in words, its name shown as it is."""
    classes = (
        ""
        if np.isnan(row.n_positive)
        else f" ({row.n_positive:.0f} diseased, {row.images - row.n_positive:.0f} controls)"
    )
    return (
        f"{fold(row.Index)}<br>training images: {row.images}{classes}<br>"
        f"rejected: {row.rejected} of {row.attempts} attempts<br>"
        f"images deferred: {row.deferred}, eliminated: {row.eliminated}"
    )


def _tell_centers(table: pd.DataFrame, cycles: tuple[int, int]) -> str:
    """Return the alternative text: the range, who was rejected most, who lost images, and how many have one class."""
    shares = table["share_rejected"].dropna().sort_values(ascending=False, kind="stable")
    most = ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares.head(3).items())
    lost = table[table["eliminated"] > 0].sort_values("eliminated", ascending=False, kind="stable")
    out = ", ".join(f"{row.eliminated} of {row.images} at {row.Index}" for row in lost.itertuples()) or "none"
    text = (
        f"{len(table)} centers in cycles {cycles[0]} to {cycles[1]}; share of attempts rejected"
        f" {100 * shares.min():.0f} to {100 * shares.max():.0f} %, highest: {most}. Eliminated images: {out}."
    )
    if idle := (table["attempts"] == 0).sum():
        text += f" {idle} had no attempts."
    one_class = (table["mix"] == "one class").sum()
    return f"{text} {one_class} have one class." if table["share_diseased"].notna().any() else text


def _lay_out(figure: Figure, table: pd.DataFrame, *, order: list[str], sort_by: str) -> None:
    """Set the axes."""
    font, tall = {"size": 13}, len(table) <= MANY
    labels = {escape(center): escape(label) for center, label in shorten_names(table.index).items()}
    area = f"area: training images, {table['images'].min()} to {table['images'].max()}"
    title = {"text": f"attempts rejected (%)<br>{area}", "font": font}
    figure.update_xaxes(title=title, range=[-5, 105], tickvals=list(range(0, 101, 25)))
    figure.update_yaxes(
        title={"text": _title_rows(sort_by), "font": font},
        **{"type": "category", "categoryorder": "array", "categoryarray": order, "range": [len(order) - 0.4, -0.6]},
        **{"tickvals": list(labels), "ticktext": list(labels.values()), "tickfont": {"size": 12 if tall else 9}},
        **{"automargin": True, "ticklabelstandoff": 12},
    )


def _add_color_bar(figure: Figure) -> None:
    """Add the key of the colours above the plot, at a place of the container: elsewhere it would push the title out."""
    top = figure.layout.margin.t + COLOR_BAR_HEIGHT
    bar = {
        **{"orientation": "h", "lenmode": "pixels", "len": 170, "thickness": 10, "outlinewidth": 0.5, "ypad": 0},
        **{"tickvals": [0, 50, 100], "ticktext": ["0 %", "50 %", "100 % diseased"], "tickfont": {"size": 12}},
        **{"x": 0, "xanchor": "left", "yref": "container", "y": 1 - (top - 6) / figure.layout.height},
        **{"yanchor": "bottom"},
    }
    axis = {"cmin": 0, "cmax": 100, "colorscale": CLASS_SCALE, "colorbar": bar}
    figure.update_layout(margin_t=top, height=figure.layout.height + COLOR_BAR_HEIGHT, coloraxis=axis)


def _title_rows(sort_by: str) -> str:
    return f"center, by {sort_by}"


def _add_controls(
    figure: Figure, *, sorts: dict[str, list[str]], sort_by: str, steps: dict[int, pd.DataFrame], traces: list[int]
) -> None:
    """Add a dropdown that only reorders the rows and a slider that only moves, names and describes the marks."""
    buttons = [
        {
            "label": name,
            "method": "relayout",
            "args": [{"yaxis.categoryarray": order, "yaxis.title.text": _title_rows(name)}],
        }
        for name, order in sorts.items()
    ]
    slides = []
    for cycle, table in steps.items():
        values = [*_list_values(table).values(), {"x": _list_idle(table)}]
        change = {key: [value.get(key) for value in values[:-1]] for key in values[0] if key != "x"}
        moves = {"x": [value["x"] for value in values]}
        slides.append({"label": str(cycle), "method": "restyle", "args": [change | moves, traces]})
    place = {"x": 0, "xanchor": "left", "y": 0, "yanchor": "top"}
    slider = {"len": 1, "pad": {"t": 65}, "currentvalue": {"prefix": "cycles up to ", "font": {"size": 12}}}
    menu = {"pad": {"t": 65 + SLIDER_HEIGHT}, "direction": "up", "font": {"size": 12}}
    more = SLIDER_HEIGHT + MENU_HEIGHT
    figure.update_layout(
        updatemenus=[{**place, **menu, "name": "sort by", "buttons": buttons, "active": list(sorts).index(sort_by)}],
        sliders=[{**place, **slider, "name": "cycles", "steps": slides, "active": len(slides) - 1}],
        height=figure.layout.height + more,
        margin_b=figure.layout.margin.b + more,
    )
