"""Volumes: orthogonal slices at true proportions, and histograms of their intensities."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dqc_lib.figures.style import OTHER_COLORS, PALETTE, escape, start_figure

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

PLANES = {  # axes drawn to the right and up, the axis cut through, and what lies at the left, right, bottom and top
    "axial": (0, 1, 2, "LRPA"),
    "coronal": (0, 2, 1, "LRIS"),
    "sagittal": (1, 2, 0, "PAIS"),
}
MOST_COLUMNS = 5
GREYS = ((0, "#000000"), (1, "#ffffff"))  # linear in the intensity; plotly's "gray" is not
LARGEST = {"width": 900, "height": 640, "mm": 1.6}  # pixels in all, and of a millimetre
LINE, GAP, BOTTOM = 17, 6, 10  # pixels of a line of a heading, between slices, and below them
BETWEEN = 0.01  # of the width, between columns
PHONE = 50  # characters across a screen 400 pixels wide
HISTOGRAM_COLORS = (*OTHER_COLORS[:1], PALETTE["vermillion"], PALETTE["blue"], *OTHER_COLORS[1:])


def draw_slices(
    volumes: Mapping[str, tuple[np.ndarray, Sequence[float]]],
    *,
    title: str,
    planes: Sequence[str] = ("axial", "coronal", "sagittal"),
    position: Sequence[float] = (0.5, 0.5, 0.5),
    window: tuple[float, float] | None = None,
    in_rows: bool = False,
    cursor: bool = False,
) -> Figure:
    """Return orthogonal slices through volumes, all in the same millimetres and the same greys.

    One volume has its planes side by side and its label below the title; of several volumes each has a column (five to
    a row) and its planes stand below one another, or with `in_rows` a row. The subject's left is on the left. On a
    narrow screen slices shrink with the width, and on the package's own pages the figure's height with them.

    Parameters
    ----------
    volumes : mapping of str to (array, spacing)
        By the label shown above. Array (I, J, K) in RAS axis order, spacing in mm (`Volume.array`, `Volume.spacing`).
    title : str
    planes : sequence of str
        Among "axial", "coronal" and "sagittal".
    position : three floats
        Where the planes cut, from 0 (left, back, bottom) to 1 (right, front, top).
    window : (float, float), optional
        Intensities shown black and white; from 0 to the highest of all volumes unless given.
    in_rows : bool
        One row per volume, its planes side by side.
    cursor : bool
        Lines where the other planes cut.

    Raises
    ------
    ValueError
        If there is no volume or plane, one is not 3-D, or a spacing or position is out of range.
    """
    volumes = {label: _check_volume(label, *volume) for label, volume in volumes.items()}
    planes = list(planes)
    if not volumes or not planes or not set(planes) <= set(PLANES):
        raise ValueError(f"expected at least one volume and planes among {list(PLANES)}; came {len(volumes)}, {planes}")
    _check_position(position)
    low, high = window or (min(0, *(a.min() for a, _ in volumes.values())), max(a.max() for a, _ in volumes.values()))
    cells, n_rows, n_columns = _arrange(list(volumes), planes, in_rows=in_rows)
    extents = {plane: _find_extent(volumes.values(), plane) for plane in planes}
    widths, heights = np.zeros(n_columns), np.zeros(n_rows)
    for row, column, _, plane in cells:
        widths[column] = max(widths[column], extents[plane][0])
        heights[row] = max(heights[row], extents[plane][1])
    headings = {cell[:2]: _head_slice(*cell[2:], planes, volumes, in_rows) for cell in cells}
    alt = f"{', '.join(planes).capitalize()} slices of {', '.join(map(str, volumes))}, left of the subject on the left."
    figure = _start_slices(title=title, alt=alt, widths=widths, heights=heights, headings=headings)
    figure.update_layout(coloraxis={"colorscale": GREYS, "cmin": float(low), "cmax": float(high), "showscale": False})
    if len(volumes) == 1:
        subtitle = _wrap_label(next(iter(volumes)), PHONE)
        more = LINE * (1 + subtitle.count("<br>"))
        figure.update_layout(title_subtitle_text=subtitle, height=figure.layout.height + more)
        figure.update_layout(margin_t=figure.layout.margin.t + more)
    for row, column, label, plane in cells:
        array, spacing = volumes[label]
        at = row + 1, column + 1
        _add_slice(figure, array, spacing, plane=plane, share=position[PLANES[plane][2]], at=at)
        _frame_slice(figure, extents[plane], at=at)
        _label_slice(figure, headings[row, column], plane=plane, at=at, centered=not (in_rows and len(volumes) > 1))
    if cursor:
        figure.update_layout(shapes=draw_cursor(volumes, planes=planes, position=position, in_rows=in_rows))
    return figure


def _check_position(position: Sequence[float]) -> None:
    if len(position) != 3 or not all(0 <= share <= 1 for share in position):
        raise ValueError(f"position must be three shares from 0 to 1; came {position!r}")


def _head_slice(label: str, plane: str, planes: list[str], volumes: Mapping, in_rows: bool) -> str:
    """Return what stands above a slice: of several volumes their labels, above a column or where a row starts."""
    if len(volumes) == 1:
        return plane
    n_columns = 1 if in_rows else min(len(volumes), MOST_COLUMNS)
    return _wrap_label(label, PHONE // n_columns) if plane == planes[0] else ""


def _wrap_label(label: Any, width: int) -> str:
    """Return a label in lines of at most so many characters, but for longer words."""
    lines = textwrap.wrap(str(label), width, break_long_words=False, break_on_hyphens=False)
    return "<br>".join(escape(line) for line in lines)


def measure_headings(texts: Iterable[str]) -> int:
    """Return the pixels that the headings of slices take up above them."""
    return GAP + LINE * (1 + max(text.count("<br>") for text in texts))


def _start_slices(
    *, title: str, alt: str, widths: np.ndarray, heights: np.ndarray, headings: Mapping[tuple[int, int], str]
) -> Figure:
    """Return a figure with places for slices of these widths (columns) and heights (rows) in mm, no axes shown."""
    scale = min(LARGEST["mm"], LARGEST["width"] / widths.sum(), LARGEST["height"] / heights.sum())
    width, height = scale * widths.sum(), scale * heights.sum()
    head = measure_headings(headings.values())
    gap = head if any(heading for (row, _), heading in headings.items() if row) else GAP * (len(heights) > 1)
    room = height + gap * (len(heights) - 1)
    figure = start_figure(title=title, alt=alt, height=round(room + head) + BOTTOM, showlegend=False)
    figure.set_subplots(
        len(heights),
        len(widths),
        column_widths=widths.tolist(),
        row_heights=heights.tolist(),
        horizontal_spacing=BETWEEN,
        vertical_spacing=gap / room,
    )
    figure.update_layout(margin={"l": 10, "r": 10, "b": BOTTOM, "t": figure.layout.margin.t + head})
    # gaps are shares of the plot and shrink with it: it loses less height than the slices, so that headings keep room
    scaled = {"width": round(width / (1 - BETWEEN * (len(widths) - 1))), "height": round(height * (1 - gap / room))}
    figure.layout.meta = {**figure.layout.meta, "scaled": scaled}
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    return figure


def _check_volume(label: str, array: np.ndarray, spacing: Sequence[float]) -> tuple[np.ndarray, tuple[float, ...]]:
    array, spacing = np.asarray(array), tuple(float(length) for length in spacing)
    if array.ndim != 3 or array.size == 0 or len(spacing) != 3 or not min(spacing) > 0:
        raise ValueError(
            f"volume {label!r}: shape {array.shape}, spacing {spacing}; expected (I, J, K) and three mm > 0"
        )
    return array, spacing


def _arrange(
    labels: list[str], planes: list[str], *, in_rows: bool = False
) -> tuple[list[tuple[int, int, str, str]], int, int]:
    """Return (row, column, label, plane) of every slice, and the numbers of rows and columns."""
    if len(labels) == 1 or in_rows:
        cells = [(row, column, label, plane) for row, label in enumerate(labels) for column, plane in enumerate(planes)]
        return cells, len(labels), len(planes)
    n_columns = min(len(labels), MOST_COLUMNS)
    cells = [
        (at // n_columns * len(planes) + below, at % n_columns, label, plane)
        for at, label in enumerate(labels)
        for below, plane in enumerate(planes)
    ]
    return cells, max(cell[0] for cell in cells) + 1, n_columns


def _find_extent(volumes: Any, plane: str) -> tuple[float, float]:
    """Return width and height in mm that the plane needs in the largest volume."""
    across, up, *_ = PLANES[plane]
    sizes = [np.multiply(array.shape, spacing) for array, spacing in volumes]
    return max(size[across] for size in sizes), max(size[up] for size in sizes)


def cut_slice(array: np.ndarray, *, plane: str, share: float) -> np.ndarray:
    """Return the pixels of one slice, rows from the bottom up: where `share` (0 to 1) of the axis cut through lies."""
    across, up, through, _ = PLANES[plane]
    index = round(share * (array.shape[through] - 1))
    pixels = np.take(array, index, axis=through)  # the two axes that are left keep their order
    return np.ascontiguousarray(pixels.T if across < up else pixels)


def draw_cursor(
    volumes: Mapping[str, tuple[np.ndarray, Sequence[float]]],
    *,
    planes: Sequence[str],
    position: Sequence[float],
    in_rows: bool,
) -> list[dict]:
    """Return the lines of the cursor as plotly shapes: in every slice of `draw_slices`, a vertical and a horizontal."""
    cells, _, n_columns = _arrange(list(volumes), list(planes), in_rows=in_rows)
    shapes = []
    for row, column, label, plane in cells:
        array, spacing = volumes[label]
        number = row * n_columns + column + 1
        names = f"x{number if number > 1 else ''}", f"y{number if number > 1 else ''}"
        across, up, *_ = PLANES[plane]
        at = {axis: _find_place(array, spacing, axis=axis, share=position[axis]) for axis in (across, up)}
        line = {"type": "line", "line": {"color": PALETTE["orange"], "width": 1}, "opacity": 0.9}
        shapes.append({**line, "x0": at[across], "x1": at[across], "y0": 0, "y1": 1})
        shapes[-1] |= {"xref": names[0], "yref": f"{names[1]} domain"}
        shapes.append({**line, "x0": 0, "x1": 1, "y0": at[up], "y1": at[up]})
        shapes[-1] |= {"xref": f"{names[0]} domain", "yref": names[1]}
    return shapes


def _find_place(array: np.ndarray, spacing: Sequence[float], *, axis: int, share: float) -> float:
    """Return where the voxel nearest to a share (0 to 1) of an axis lies, in mm from the middle of the volume."""
    last = array.shape[axis] - 1
    return float((round(share * last) - last / 2) * spacing[axis])


def _add_slice(
    figure: Figure, array: np.ndarray, spacing: tuple[float, ...], *, plane: str, share: float, at: tuple[int, int]
) -> None:
    """Add one slice as a heatmap, axes in mm from the middle of the volume."""
    import plotly.graph_objects as go

    across, up, *_ = PLANES[plane]
    starts = {axis: -spacing[axis] * (array.shape[axis] - 1) / 2 for axis in (across, up)}
    figure.add_trace(
        go.Heatmap(
            z=cut_slice(array, plane=plane, share=share),
            **{"x0": starts[across], "dx": spacing[across], "y0": starts[up], "dy": spacing[up]},
            coloraxis="coloraxis",
            hovertemplate="%{x:.0f} mm, %{y:.0f} mm<br>intensity %{z:.4g}<extra></extra>",
        ),
        row=at[0],
        col=at[1],
    )


def _frame_slice(figure: Figure, extent: tuple[float, float], *, at: tuple[int, int]) -> None:
    """Give one slice the field of view of its plane, a millimetre as long across as up and as in all other slices.

    Where it needs less room than it has, it stays at the top, below its heading.
    """
    half_width, half_height = extent[0] / 2, extent[1] / 2
    place = {"row": at[0], "col": at[1]}
    first = at == (1, 1)
    figure.update_xaxes(range=[-half_width, half_width], constrain="domain", **place)
    figure.update_yaxes(range=[-half_height, half_height], constrain="domain", constraintoward="top", **place)
    figure.update_yaxes(scaleanchor="x", scaleratio=1, **place)
    if not first:
        figure.update_xaxes(scaleanchor="x", scaleratio=1, **place)


def _label_slice(figure: Figure, heading: str, *, plane: str, at: tuple[int, int], centered: bool) -> None:
    """Write the heading above a slice, in its middle or from its left edge on, and the directions inside its edges."""
    subplot = figure.get_subplot(*at)
    axes = {"xref": f"{subplot.xaxis.plotly_name.replace('axis', '')} domain"}
    axes["yref"] = f"{subplot.yaxis.plotly_name.replace('axis', '')} domain"
    left, right, *_ = PLANES[plane][3]
    for text, x, anchor in ((left, 0, "left"), (right, 1, "right")):
        figure.add_annotation(
            **{**axes, "x": x, "xanchor": anchor, "y": 0.5, "text": text, "showarrow": False},
            font={"size": 12, "color": "#ffffff"},
            bgcolor="rgba(0, 0, 0, 0.55)",
            borderpad=1,
        )
    if heading:
        place = {"x": 0.5, "xanchor": "center"} if centered else {"x": 0, "xanchor": "left", "align": "left"}
        figure.add_annotation(
            **{**axes, **place, "y": 1, "yanchor": "bottom", "text": heading, "showarrow": False},
            font={"size": 13},
            borderpad=0,
        )


def draw_histograms(
    volumes: Mapping[str, np.ndarray | tuple[np.ndarray, Sequence[float]]],
    *,
    title: str,
    bins: int = 64,
) -> Figure:
    """Return the intensity histograms of volumes as lines: share of the voxels (%, log axis) by intensity.

    Parameters
    ----------
    volumes : mapping of str to array, or to (array, spacing) as in `draw_slices`
        By the label in the legend; every voxel counts, the background too.
    title : str
    bins : int
        Of equal width, the same for all volumes.
    """
    import plotly.graph_objects as go

    arrays = {label: np.asarray(v[0] if isinstance(v, tuple) else v, dtype=float) for label, v in volumes.items()}
    low, high = min(array.min() for array in arrays.values()), max(array.max() for array in arrays.values())
    floor = 50 / max(array.size for array in arrays.values())  # half a voxel: where a log axis shows none
    edges = np.linspace(low, high if high > low else low + 1, bins + 1)
    means = "; ".join(
        f"{label}: mean {array.mean():.3g}, {array.min():.3g} to {array.max():.3g}" for label, array in arrays.items()
    )
    figure = start_figure(title=title, alt=f"Intensity histograms. {means}.", height=360)
    for (label, array), color in zip(arrays.items(), HISTOGRAM_COLORS * len(arrays), strict=False):
        share = 100 * np.histogram(array, edges)[0] / array.size
        figure.add_trace(
            go.Scatter(
                x=edges,
                y=np.maximum(np.append(share, share[-1]), floor),
                customdata=np.append(share, share[-1]),
                mode="lines",
                line={"shape": "hv", "width": 2, "color": color},
                name=escape(f"{label} (n = {array.size:,} voxels)"),
                hovertemplate="from intensity %{x:.4g} on<br>%{customdata:.3g} % of voxels"
                "<extra>%{fullData.name}</extra>",
            )
        )
    figure.update_xaxes(title="intensity")
    figure.update_yaxes(title="voxels (%, log scale)", type="log", dtick=1, exponentformat="none", ticksuffix=" %")
    figure.update_yaxes(range=[np.log10(floor), 2.1])
    return figure
