"""A place for a figure that changes: one live plotly figure, filled anew."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dqc_lib.figures.style import PRIVATE

if TYPE_CHECKING:
    import ipywidgets
    from plotly.graph_objects import Figure

RESIZE = """
export default { render({ el }) {
  const tell = () => window.dispatchEvent(new Event("resize"));
  const seen = new ResizeObserver(tell);
  seen.observe(el);
  const late = [100, 500, 2000].map((wait) => setTimeout(tell, wait));  // figures may be drawn after this
  return () => { seen.disconnect(); late.forEach(clearTimeout); };
} };
"""
"""A live figure is drawn before it is on the page, so it cannot know how wide that is: tell it, now and on changes."""


def make_resizer() -> ipywidgets.DOMWidget:
    """Return an invisible widget that has the live figures of the page fit its width."""
    import anywidget

    return type("Resizer", (anywidget.AnyWidget,), {"_esm": RESIZE})()


class FigurePane:
    """A live figure that shows one plotly figure after another, with its alternative text to unfold below.

    Plotly's script is sent once for each pane, whatever it shows.

    Attributes
    ----------
    widget : plotly.graph_objects.FigureWidget
        The figure.
    words : ipywidgets.HTML
        The same in words; or alone, why there is no figure.
    box : ipywidgets.VBox
        What is displayed.
    """

    def __init__(self) -> None:
        import ipywidgets
        from plotly.graph_objects import FigureWidget

        self.widget, self.words, self.box = FigureWidget(), ipywidgets.HTML(), ipywidgets.VBox()
        self.widget._config = {**self.widget._config, **PRIVATE}  # plotly has no public way to configure a live figure
        self._picked: Callable[[Any], None] | None = None

    def show(self, figure: Figure) -> None:
        """Show a figure in place of what was there before."""
        with self.widget.batch_update():
            self.widget.data = []
            self.widget.layout = figure.layout
            self.widget.layout.autosize = True  # as wide as the page
            self.widget.add_traces(figure.data)
        for trace in self.widget.data:
            trace.on_click(self._pass_on)
        alt = html.escape(figure.layout.meta["alt"])
        self.words.value = f"<details><summary>The figure in words</summary>{alt}</details>"
        self.box.children = [self.widget, self.words]

    def try_to_show(self, draw: Callable[[], Figure]) -> None:
        """Show the figure, or say why the data give none: what a figure refuses, it refuses in a sentence."""
        try:
            self.show(draw())
        except ValueError as error:
            self.words.value = f"<p>{html.escape(str(error))}</p>"
            self.box.children = [self.words]

    def on_pick(self, callback: Callable[[Any], None]) -> None:
        """Call back with what a mark stands for, the first value of its customdata, when one is clicked."""
        self._picked = callback

    def _pass_on(self, trace: Any, points: Any, _state: Any) -> None:
        if self._picked is not None and points.point_inds and trace.customdata is not None:
            meant = trace.customdata[points.point_inds[0]]
            self._picked(str(meant[0]))
