"""Signals and scans, and what is learnt from them: spectra of windows, B-scans, readers of few labelled subjects."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from dqc_lib.figures.labels import fold
from dqc_lib.figures.style import PALETTE, escape, fade, start_figure

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

COLORS = tuple(PALETTE[name] for name in ("blue", "vermillion", "green", "orange", "purple", "black"))
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star")
GREYS = ((0, "#000000"), (1, "#ffffff"))
COLUMNS = 2  # B-scans side by side
PHONE = 24  # characters above a B-scan, for a screen 400 pixels wide


def draw_spectra(spectra: Mapping[str, tuple[np.ndarray, np.ndarray]], *, title: str, place: str) -> Figure:
    """Return a line for each window's spectrum, coloured by subject, with the mean of each subject on top.

    Parameters
    ----------
    spectra : mapping of str to (frequencies, densities)
        By subject: Hz, (f,), and microvolts squared per Hz, (windows, f).
    title : str
    place : str
        The channel, for the axis.
    """
    import plotly.graph_objects as go

    if not spectra:
        raise ValueError("expected the spectra of at least one subject, got none")
    said, decibel = [], {}
    for name, (frequencies, densities) in spectra.items():
        decibel[name] = 10 * np.log10(densities)
        inside = (frequencies >= 7) & (frequencies <= 13)
        peak = frequencies[inside][decibel[name].mean(axis=0)[inside].argmax()]
        said.append(f"{name}: highest between 7 and 13 Hz at {peak:.1f} Hz, {len(densities)} windows")
    figure = start_figure(title=title, alt=f"Spectra at {place}. {'; '.join(said)}.", height=330)
    for at, (name, (frequencies, _)) in enumerate(spectra.items()):
        color = COLORS[at % len(COLORS)]
        across = np.tile([*frequencies, np.nan], len(decibel[name]))
        up = np.concatenate([[*window, np.nan] for window in decibel[name]])
        common = {"mode": "lines", "legendgroup": str(at), "hoverinfo": "skip"}
        thin = {"x": across, "y": up, "line": {"color": fade(color, 0.25), "width": 1}, "showlegend": False}
        figure.add_trace(go.Scatter(**thin, **common))
        label = f"{escape(name)} ({len(decibel[name])} windows)"
        mean = {"x": frequencies, "y": decibel[name].mean(axis=0), "line": {"color": color, "width": 3}}
        figure.add_trace(go.Scatter(**mean, **common, name=label))
    figure.update_xaxes(title={"text": "frequency (Hz)", "font": {"size": 13}})
    figure.update_yaxes(title={"text": f"density at {escape(place)} (dB, 1 µV²/Hz)", "font": {"size": 13}})
    return figure


def draw_bscans(scans: Mapping[str, np.ndarray], *, title: str) -> Figure:
    """Return B-scans side by side, two to a row, each in its own greys from its 1st to its 99.5th percentile.

    Parameters
    ----------
    scans : mapping of str to ndarray, (deep, across)
        By what stands above them; the inside of the eye is at the top. Depth is stretched, as it is on devices.
    title : str

    Raises
    ------
    ValueError
        If there is no scan, or one is not two-dimensional.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    if not scans or any(np.ndim(scan) != 2 for scan in scans.values()):
        raise ValueError("expected at least one scan, each (deep, across)")
    columns = min(COLUMNS, len(scans))
    n_rows = -(-len(scans) // columns)
    headings = ["<br>".join(escape(line) for line in textwrap.wrap(str(name), PHONE)) for name in scans]
    lines = max(heading.count("<br>") for heading in headings) + 1
    sizes = ", ".join(f"{name} ({np.shape(scan)[1]} x {np.shape(scan)[0]} pixels)" for name, scan in scans.items())
    height = n_rows * (125 + 18 * lines)
    figure = start_figure(title=title, alt=f"B-scans, depth downwards: {sizes}.", height=height + 12)
    top = figure.layout.margin.t
    gap = 18 * lines / max(height - 18 * lines, 1)
    grid = make_subplots(n_rows, columns, horizontal_spacing=0.03, vertical_spacing=gap + 0.02 if n_rows > 1 else 0)
    figure.update_layout({name: grid.layout[name] for name in grid.layout if name.startswith(("xaxis", "yaxis"))})
    for at, (heading, scan) in enumerate(zip(headings, scans.values(), strict=True)):
        row, column = divmod(at, columns)
        number = "" if at == 0 else str(at + 1)
        values = np.asarray(scan, dtype=np.float64)
        low, high = np.percentile(values, [1, 99.5])
        shades = np.rint(255 * np.clip((values - low) / max(high - low, 1e-12), 0, 1)).astype(np.uint8)
        look = {"colorscale": GREYS, "zmin": 0, "zmax": 255, "showscale": False, "hoverinfo": "skip"}
        figure.add_trace(go.Heatmap(z=shades, **look, xaxis=f"x{number}", yaxis=f"y{number}"))
        domain = figure.layout[f"yaxis{number}"].domain[1], figure.layout[f"xaxis{number}"].domain[0]
        place = {"x": domain[1], "xref": "paper", "xanchor": "left", "y": domain[0], "yref": "paper"}
        figure.add_annotation(**place, yanchor="bottom", text=heading, showarrow=False, align="left")
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False, autorange="reversed")
    figure.update_layout(margin={"l": 12, "r": 12, "t": top + 18 * lines, "b": 12}, height=top + height + 12)
    return figure


def draw_probes(summary: pd.DataFrame, *, title: str) -> Figure:
    """Return the AUROC on test subjects by the number of labelled subjects, a line with intervals per encoder.

    Parameters
    ----------
    summary : DataFrame
        Of `summarize_probes`: columns encoder, n_labelled, n_repeats, n_subjects, auroc, low, high.
    title : str

    Raises
    ------
    KeyError, ValueError
        If a column is missing, or there is nothing to draw.
    """
    import plotly.graph_objects as go

    needed = ["encoder", "n_labelled", "n_repeats", "n_subjects", "auroc", "low", "high"]
    if missing := [name for name in needed if name not in summary]:
        raise KeyError(f"missing columns {missing}; the table has {list(summary.columns)}")
    if summary.empty:
        raise ValueError("the table has no rows; expected at least one encoder")
    counts, names = sorted(summary["n_labelled"].unique()), list(summary["encoder"].unique())
    figure = start_figure(title=title, alt=_tell_probes(summary), height=380)
    for at, name in enumerate(names):
        own = summary[summary["encoder"] == name].sort_values("n_labelled")
        color = COLORS[at % len(COLORS)]
        ends = {"array": own["high"] - own["auroc"], "arrayminus": own["auroc"] - own["low"]}
        spread = {"type": "data", "symmetric": False, "thickness": 1.5, "width": 3, "color": fade(color, 0.6), **ends}
        x = [counts.index(count) + 0.07 * (at - (len(names) - 1) / 2) for count in own["n_labelled"]]
        told = [fold(_tell_probe(row)) for row in own.itertuples()]
        marks = {"size": 9, "symbol": SYMBOLS[at % len(SYMBOLS)]}
        figure.add_trace(
            go.Scatter(
                **{"x": x, "y": own["auroc"], "mode": "lines+markers", "name": escape(name), "marker": marks},
                **{"line": {"color": color, "width": 2}, "error_y": spread, "customdata": told},
                hovertemplate="%{customdata}<extra></extra>",
            )
        )
    figure.add_hline(y=0.5, line={"color": "#57606a", "width": 1.5, "dash": "dot"})
    subjects = summary["n_subjects"].max()
    axis = {"tickvals": list(range(len(counts))), "ticktext": [str(count) for count in counts], "showgrid": False}
    figure.update_xaxes(title={"text": "labelled subjects", "font": {"size": 13}}, zeroline=False, **axis)
    figure.update_yaxes(title={"text": f"AUROC (n = {subjects} test subjects)", "font": {"size": 13}})
    figure.update_layout(showlegend=True)
    return figure


def _tell_probe(row: tuple) -> str:
    span = "" if np.isnan(row.low) else f" ({row.low:.2f} to {row.high:.2f})"
    return f"{row.encoder}, {row.n_labelled} labelled: AUROC {row.auroc:.2f}{span}, {row.n_repeats} draws"


def _tell_probes(summary: pd.DataFrame) -> str:
    """Return the alternative text: every value with its interval."""
    said = "; ".join(_tell_probe(row) for row in summary.itertuples())
    return f"AUROC of {summary['n_subjects'].max()} test subjects by the number of labelled ones. {said}."
