"""Volumes to leaf through on a page without a kernel: slices under sliders, with a cursor and greys to choose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from dqc_lib.figures.images import PLANES, cut_slice, draw_cursor, draw_slices, measure_headings

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

SLIDERS = {"sagittal": "left to right", "coronal": "back to front", "axial": "bottom to top"}
"""The planes by the axis that they cut, in the order of the axes."""
CONTROL_HEIGHT = 62  # pixels of a slider with its label
MENU_HEIGHT = 44
MOST_VOXELS = 64  # along an axis


def draw_viewer(
    volumes: Mapping[str, tuple[np.ndarray, Sequence[float]]],
    *,
    title: str,
    position: Sequence[float] = (0.5, 0.5, 0.5),
) -> Figure:
    """Return three orthogonal slices of every volume, a row each, with a slider for each plane and a choice of greys.

    The planes cut all volumes at the same place, and the cursor shows where. Everything is in the figure: it works in a
    notebook, in its exported page and without a kernel. So that the page stays small, of volumes with more than 64
    voxels along an axis only every second (third, ...) voxel is drawn. In JupyterLab, `dqc_lib.widgets.SliceViewer`
    shows every voxel.

    Parameters
    ----------
    volumes : mapping of str to (array, spacing)
        As in `draw_slices`; at most four, all of the same shape, since a step of a slider stands for one slice.
    title : str
    position : three floats
        Where the planes cut first, from 0 (left, back, bottom) to 1 (right, front, top).

    Raises
    ------
    ValueError
        As `draw_slices`; if there are more than four volumes, or shapes differ.
    """
    shapes = {label: np.shape(array) for label, (array, _) in volumes.items()}
    if len(volumes) > 4 or len(set(shapes.values())) > 1:
        raise ValueError(f"expected at most four volumes of one shape; came {shapes}")
    volumes = {label: _thin_volume(np.asarray(array), spacing) for label, (array, spacing) in volumes.items()}
    figure = draw_slices(volumes, title=title, position=position, in_rows=True, cursor=True)
    sliders = [_build_slider(volumes, plane, position=position) for plane in SLIDERS]
    head = measure_headings(mark.text for mark in figure.layout.annotations)
    above = CONTROL_HEIGHT * len(sliders) + MENU_HEIGHT
    shown = figure.layout.height - figure.layout.margin.t - figure.layout.margin.b
    plot = max(shown, (head + above) / 2)  # plotly puts controls at most two heights of the plot above it
    for number, slider in enumerate(reversed(sliders), start=1):
        slider |= {"y": 1 + (head + CONTROL_HEIGHT * number) / plot, "yanchor": "top", "x": 0.02, "len": 0.96}
    menu = {"y": 1 + (head + above) / plot, "yanchor": "top", "x": 0.02, "xanchor": "left"}
    figure.update_layout(
        sliders=sliders,
        updatemenus=[{**menu, "name": "greys", "direction": "down", "buttons": _list_windows(volumes)}],
        height=figure.layout.height + above + plot - shown,
        margin={"t": figure.layout.margin.t + above},
    )
    return figure


def _thin_volume(array: np.ndarray, spacing: Sequence[float]) -> tuple[np.ndarray, list[float]]:
    """Return every k-th voxel of all axes and their spacing, with the least k that leaves at most `MOST_VOXELS`."""
    step = max(1, *(-(-length // MOST_VOXELS) for length in array.shape))
    return array[(slice(None, None, step),) * array.ndim], [step * length for length in spacing]


def _build_slider(volumes: Mapping, plane: str, *, position: Sequence[float]) -> dict:
    """Return the slider that moves one plane through all volumes, and the cursor of the other planes with it."""
    axis = PLANES[plane][2]
    arrays = [np.asarray(array) for array, _ in volumes.values()]
    n_slices = arrays[0].shape[axis]
    planes = list(PLANES)
    traces = [row * len(planes) + planes.index(plane) for row in range(len(arrays))]
    steps = []
    for index in range(n_slices):
        share = index / max(n_slices - 1, 1)
        pixels = [_thin(cut_slice(array, plane=plane, share=share)) for array in arrays]
        moved = [share if at == axis else position[at] for at in range(3)]
        lines = draw_cursor(volumes, planes=planes, position=moved, in_rows=True)
        steps.append(
            {
                "method": "update",
                "label": str(index + 1),
                "args": [{"z": pixels}, _list_moves(lines, axis=axis, n_volumes=len(arrays)), traces],
            }
        )
    return {
        "name": f"{plane} slice",
        "steps": steps,
        "active": round(position[axis] * (n_slices - 1)),
        "currentvalue": {"prefix": f"{plane} slice, {SLIDERS[plane]}: ", "font": {"size": 12, "color": "#1c2128"}},
        "pad": {"t": 4, "b": 4},
        "tickcolor": "rgba(0, 0, 0, 0)",  # a label at every slice would be a smear
        "font": {"color": "rgba(0, 0, 0, 0)", "size": 1},
        "minorticklen": 0,
    }


def _thin(pixels: np.ndarray) -> list:
    """Return pixels as nested lists with no more digits than greys can show."""
    if np.issubdtype(pixels.dtype, np.integer):
        return pixels.tolist()
    return [[float(f"{value:.4g}") for value in row] for row in pixels.tolist()]


def _list_moves(lines: list[dict], *, axis: int, n_volumes: int) -> dict[str, float]:
    """Return the layout update that moves those lines of the cursor which lie across the axis; no other."""
    moves = {}
    for row in range(n_volumes):
        for column, plane in enumerate(PLANES):
            across, up, *_ = PLANES[plane]
            at = 2 * (row * len(PLANES) + column)
            if axis == across:
                moves |= {f"shapes[{at}].x0": lines[at]["x0"], f"shapes[{at}].x1": lines[at]["x1"]}
            elif axis == up:
                moves |= {f"shapes[{at + 1}].y0": lines[at + 1]["y0"], f"shapes[{at + 1}].y1": lines[at + 1]["y1"]}
    return moves


def _list_windows(volumes: Mapping) -> list[dict]:
    """Return the choices of greys: what is shown black, and what white."""
    values = np.concatenate([np.ravel(array) for array, _ in volumes.values()]).astype(float)
    low, high = min(0.0, values.min()), values.max()
    inner = np.quantile(values, [0.01, 0.99])
    middle = low + (high - low) / 2
    windows = {
        "greys: full range": (low, high),
        "greys: 1st to 99th percentile": tuple(inner),
        "greys: lower half, bright": (low, middle),
        "greys: upper half, dark": (middle, high),
    }
    return [
        {
            "label": label,
            "method": "relayout",
            "args": [{"coloraxis.cmin": float(black), "coloraxis.cmax": float(max(white, black + 1e-9))}],
        }
        for label, (black, white) in windows.items()
    ]
