"""Looking at volumes: linked orthogonal slices with a cursor, and a stronger viewer where it is installed."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from dqc_lib.figures import draw_slices
from dqc_lib.figures.images import PLANES, cut_slice, draw_cursor
from dqc_lib.figures.viewer import SLIDERS
from dqc_lib.volumes import Volume, write_volume
from dqc_lib.widgets.pane import FigurePane, make_resizer

if TYPE_CHECKING:
    import ipywidgets

MOST_VOLUMES = 4


class SliceViewer:
    """Three linked slices of one or several volumes, a row each: sliders, cursor, window and level.

    The planes cut all volumes at the same place: a click in a slice moves the cursor there, in every volume. Displays
    itself in Jupyter.

    Parameters
    ----------
    volumes : mapping of str to Volume
        By label, at most four; read as RAS (`read_volume` does by default). Spacings and shapes may differ.
    title : str

    Raises
    ------
    ValueError
        If there is no volume, or more than four.

    Attributes
    ----------
    sliders : dict of str to ipywidgets.FloatSlider
        By plane; 0 (left, back, bottom) to 1 (right, front, top) of the axis that it cuts, in %.
    window, level : ipywidgets.FloatSlider
        Span of the intensities between black and white, and the middle of it.
    """

    def __init__(self, volumes: Mapping[str, Volume], *, title: str = "Slices") -> None:
        import ipywidgets

        wide = ipywidgets.Layout(width="auto", min_width="16rem", flex="1 1 16rem")
        style = {"description_width": "8rem"}
        self.sliders = {
            plane: ipywidgets.FloatSlider(
                value=50,
                min=0,
                max=100,
                step=1,
                readout_format=".0f",
                description=f"{plane} (%)",
                tooltip=way,
                layout=wide,
                style=style,
            )
            for plane, way in SLIDERS.items()
        }
        common = {"layout": wide, "style": style, "readout_format": ".4g"}
        self.window = ipywidgets.FloatSlider(description="window", tooltip="contrast: span of intensities", **common)
        self.level = ipywidgets.FloatSlider(description="level", tooltip="brightness: middle of the span", **common)
        self._said = ipywidgets.HTML()
        self._pane = FigurePane()
        self._quiet = False
        rows = [ipywidgets.HBox(list(part), layout={"flex_flow": "row wrap"}) for part in self._arrange_controls()]
        self.widget: ipywidgets.VBox = ipywidgets.VBox([*rows, self._said, self._pane.box, make_resizer()])
        self.show(volumes, title=title)
        for slider in self.sliders.values():
            slider.observe(self._move, names="value")
        for slider in (self.window, self.level):
            slider.observe(self._shade, names="value")

    def _arrange_controls(self) -> tuple[tuple, tuple]:
        return tuple(self.sliders.values()), (self.window, self.level)

    def show(self, volumes: Mapping[str, Volume], *, title: str = "Slices") -> None:
        """Show other volumes at the same place, in their own range of greys."""
        strange = {label: type(volume).__name__ for label, volume in volumes.items() if not isinstance(volume, Volume)}
        if strange:
            raise TypeError(f"expected a Volume for every label, such as read_volume gives; came {strange}")
        if not 1 <= len(volumes) <= MOST_VOLUMES:
            raise ValueError(f"expected one to {MOST_VOLUMES} volumes, came {len(volumes)}: {list(volumes)}")
        self.volumes = {label: (volume.array, volume.spacing) for label, volume in volumes.items()}
        low = min(0.0, *(float(array.min()) for array, _ in self.volumes.values()))
        high = max(float(array.max()) for array, _ in self.volumes.values())
        span = max(high - low, 1e-6)
        self._quiet = True
        for slider, least, most, value in (
            (self.window, span / 100, span, span),
            (self.level, low, high, low + span / 2),
        ):
            slider.min, slider.max = min(slider.min, least), max(slider.max, most)  # never a minimum above the maximum
            slider.min, slider.max, slider.step, slider.value = least, max(most, least + 1e-6), span / 200, value
        self._quiet = False
        figure = draw_slices(
            self.volumes, title=title, position=self.position, window=self.greys, in_rows=True, cursor=True
        )
        figure.update_layout(hovermode="closest")
        self._pane.show(figure)
        for trace in self._pane.widget.data:
            trace.on_click(self._jump)
        self._tell()

    @property
    def position(self) -> tuple[float, float, float]:
        """Where the planes cut, from 0 (left, back, bottom) to 1 (right, front, top)."""
        return tuple(self.sliders[plane].value / 100 for plane in SLIDERS)

    @property
    def greys(self) -> tuple[float, float]:
        """The intensities shown black and white."""
        return self.level.value - self.window.value / 2, self.level.value + self.window.value / 2

    @property
    def intensities(self) -> dict[str, float]:
        """The intensity of every volume at the cursor."""
        return {
            label: float(array[tuple(_find_index(array, self.position))]) for label, (array, _) in self.volumes.items()
        }

    def _move(self, _change: Any = None) -> None:
        """Cut anew where the sliders say."""
        if self._quiet:
            return
        cells = [(array, plane) for array, _ in self.volumes.values() for plane in PLANES]
        figure = self._pane.widget
        with figure.batch_update():
            for trace, (array, plane) in zip(figure.data, cells, strict=True):
                trace.z = cut_slice(array, plane=plane, share=self.position[PLANES[plane][2]])
            figure.layout.shapes = draw_cursor(self.volumes, planes=list(PLANES), position=self.position, in_rows=True)
        self._tell()

    def _shade(self, _change: Any = None) -> None:
        """Set the greys that window and level say."""
        if not self._quiet:
            black, white = self.greys
            self._pane.widget.update_layout(coloraxis={"cmin": black, "cmax": white})

    def _jump(self, trace: Any, points: Any, _state: Any) -> None:
        """Move the cursor to the place that was clicked."""
        if not points.xs:
            return
        row, column = divmod(list(self._pane.widget.data).index(trace), len(PLANES))
        array, spacing = list(self.volumes.values())[row]
        across, up, *_ = list(PLANES.values())[column]
        self._quiet = True  # two sliders move, one drawing follows
        for axis, millimetres in ((across, points.xs[0]), (up, points.ys[0])):
            last = array.shape[axis] - 1
            share = 0.5 + millimetres / (spacing[axis] * last) if last else 0.5
            self.sliders[list(SLIDERS)[axis]].value = 100 * min(max(share, 0.0), 1.0)
        self._quiet = False
        self._move()

    def _tell(self) -> None:
        """Write the intensities at the cursor below the controls."""
        said = "; ".join(f"{html.escape(label)}: <b>{value:.4g}</b>" for label, value in self.intensities.items())
        self._said.value = f"intensity at the cursor: {said}"

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self.widget)


def _find_index(array: np.ndarray, position: Sequence[float]) -> list[int]:
    """Return the voxel nearest to a position in shares of the axes."""
    return [round(share * (length - 1)) for share, length in zip(position, array.shape, strict=True)]


def open_niivue(volume: Volume) -> Any:
    """Return a viewer of NiiVue with the volume: rendering, oblique planes and measuring, on the browser's GPU.

    An extra: `pip install dqc-lib[viewer]`. The volume goes from the kernel to the browser, and nowhere else.

    Raises
    ------
    ModuleNotFoundError
        If ipyniivue is not installed.
    """
    try:
        import ipyniivue
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "open_niivue needs the package ipyniivue; install the extra 'viewer' of dqc-lib, or use SliceViewer"
        ) from None
    with TemporaryDirectory() as folder:
        path = Path(folder) / "volume.nii.gz"
        write_volume(path, volume.array, affine=volume.affine)
        content = path.read_bytes()
    viewer = ipyniivue.NiiVue()
    viewer.load_volumes([{"name": "volume.nii.gz", "data": content}])
    return viewer
