"""What all figures share: colours, title, legend, alternative text, and no way out to a cloud."""

from __future__ import annotations

import html
import textwrap
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

PALETTE = MappingProxyType(
    {
        "black": "#000000",
        "orange": "#E69F00",
        "sky blue": "#56B4E9",
        "green": "#009E73",
        "yellow": "#F0E442",
        "blue": "#0072B2",
        "vermillion": "#D55E00",
        "purple": "#CC79A7",
        "grey": "#7F7F7F",
    }
)
"""Okabe and Ito's eight colours for colour-blind and other readers, and a grey for what is not the point."""
ARM_COLORS = MappingProxyType(
    {
        "pretraining": PALETTE["grey"],
        "clean": PALETTE["green"],
        "dirty": PALETTE["vermillion"],
        "qc": PALETTE["blue"],
        "calibrated": PALETTE["blue"],
        "published": PALETTE["purple"],
    }
)
"""Colour of an arm or a rule by the word in its name; a later word wins, so "qc published" is purple."""
DECISION_COLORS = MappingProxyType(
    {
        "accepted": PALETTE["sky blue"],
        "split": PALETTE["yellow"],
        "deferred": PALETTE["orange"],
        "eliminated": PALETTE["black"],
    }
)
DECISION_SYMBOLS = MappingProxyType({"accepted": "circle", "split": "square", "deferred": "diamond", "eliminated": "x"})
DIAGNOSIS_COLORS = MappingProxyType({"diseased": PALETTE["orange"], "control": PALETTE["sky blue"]})
OTHER_COLORS = tuple(PALETTE[name] for name in ("black", "orange", "sky blue", "yellow"))
PRIVATE = MappingProxyType({"showSendToCloud": False, "displaylogo": False, "plotlyServerURL": "", "responsive": True})
"""Settings of plotly.js: no button that uploads the figure, and nowhere to upload it to."""
UNUSED_BUTTONS = ("zoom", "pan", "select", "lasso", "zoomIn", "zoomOut", "autoScale")
"""Left out so that the title has room on a phone; dragging zooms in and the house resets."""
TITLE_WIDTH = 48  # characters to a line, as many as a screen 400 pixels wide has room for
TITLE_SIZE = 15  # pixels


def get_arm_color(name: str, *, position: int = 0) -> str:
    """Return the colour of an arm or a rule: that of the last word of `ARM_COLORS` in its name.

    A name without such a word gets one of the colours that no arm has, by its position among its like.

    Examples
    --------
    >>> get_arm_color("QC, published rule") == ARM_COLORS["published"]
    True
    """
    words = [word for word in ARM_COLORS if word in name.lower()]
    return ARM_COLORS[words[-1]] if words else OTHER_COLORS[position % len(OTHER_COLORS)]


def get_arm_colors(names: list[str]) -> dict[str, str]:
    """Return a colour for each arm or rule."""
    others = [name for name in names if not any(word in name.lower() for word in ARM_COLORS)]
    return {name: get_arm_color(name, position=others.index(name) if name in others else 0) for name in names}


def escape(value: Any) -> str:
    """Return a value as text that plotly shows as it is; tags and templates in it are not obeyed."""
    return html.escape(str(value), quote=False).replace("%{", "&#37;{")


def fade(color: str, opacity: float) -> str:
    """Return a colour like "#0072B2" with an opacity from 0 to 1."""
    red, green, blue = (int(color[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, {opacity})"


def start_figure(*, title: str, alt: str, height: int, **layout: Any) -> Figure:
    """Return an empty figure in the common style.

    Parameters
    ----------
    title : str
        The finding, shown as it is: wrapped, never read as markup.
    alt : str
        What the figure shows, for readers who do not see it; the title is put before it.
    height : int
        Pixels of the plot without its title.
    **layout
        More of plotly's layout.
    """
    from plotly.graph_objects import Figure

    _keep_private()
    lines = _wrap(str(title))
    top = 26 + 21 * len(lines)
    raised = 0.7 * TITLE_SIZE if len(lines) > 1 else 0  # plotly sets the first of several lines that much too high
    figure = Figure()
    figure.update_layout(
        template="plotly_white",
        title={
            "text": "<br>".join(escape(line) for line in lines),
            "font": {"size": TITLE_SIZE, "color": "#1c2128"},
            **{"x": 0, "xref": "container", "xanchor": "left", "pad": {"t": 12 + raised, "l": 12}},
            **{"y": 1, "yref": "container", "yanchor": "top"},
        },
        font={"family": "system-ui, sans-serif", "size": 13, "color": "#1c2128"},
        paper_bgcolor="#ffffff",
        legend={"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom", "traceorder": "normal"},
        margin={"l": 60, "r": 20, "t": top, "b": 50},
        height=height + top,
        hoverlabel={"align": "left"},
        modebar={"remove": list(UNUSED_BUTTONS)},
        meta={"alt": f"{' '.join(str(title).split())}. {alt}"},
        **layout,
    )
    return figure


def hang_legend(figure: Figure, *, n: int) -> None:
    """Hang the legend right below the title of the axis, with room for n entries in one column, as on a phone."""
    below, margin = 52, figure.layout.margin
    figure.update_layout(margin_b=below + 4 + 20 * n, showlegend=True)
    plot = figure.layout.height - margin.t - figure.layout.margin.b
    figure.update_layout(legend={"y": -below / plot, "yref": "paper", "yanchor": "top"})


def _wrap(title: str) -> list[str]:
    """Return a title in lines of about the same length, as few as fit."""
    text = " ".join(title.split())
    fewest = max(1, len(textwrap.wrap(text, TITLE_WIDTH)))
    widths = range(max(1, len(text) // fewest), TITLE_WIDTH + 1)
    return next((lines for width in widths if len(lines := textwrap.wrap(text, width)) == fewest), [text])


def _keep_private() -> None:
    """Take the button that sends a figure to plotly's servers off all that plotly shows: its renderers decide that."""
    import plotly.io

    for name in plotly.io.renderers:
        renderer = plotly.io.renderers[name]
        if hasattr(renderer, "config"):
            renderer.config = {**(renderer.config or {}), **PRIVATE}
