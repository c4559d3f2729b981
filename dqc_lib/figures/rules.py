"""What speaks for or against a rule: scores as ROC curves, evidence by visit, and false alarms by verification size."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from dqc_lib.evaluation.metrics import measure_auroc
from dqc_lib.figures.fairness import IMAGE_LOOKS
from dqc_lib.figures.labels import fold
from dqc_lib.figures.style import PALETTE, escape, fade, start_figure

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

LINES = tuple(
    zip(
        (PALETTE[name] for name in ("blue", "vermillion", "green", "purple", "orange", "black", "sky blue")),
        ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "solid"),
        strict=True,
    )
)
"""Colour and dash of the lines of a figure in which no line is an arm, so that neither alone tells them apart."""
PANEL_HEIGHT = 230  # pixels
ALARMS = {"detection": "harmful steps found", "false_alarm": "good steps accused"}


def draw_roc(scores: pd.DataFrame, *, harmful: Collection[str], title: str) -> Figure:
    """Return the ROC curve of every score: harmful images found against good ones accused, for all limits.

    Parameters
    ----------
    scores : DataFrame
        One row per image, the index its subject, one column per score; higher is more likely harmful. An image without
        a score (NaN) does not count for that curve, whose legend then says how many do.
    harmful : collection of str
        Subjects known to be harmful, the ground truth.
    title : str

    Raises
    ------
    ValueError
        If there is no score, or too many to tell apart; if a score knows only good or only harmful images.
    """
    import plotly.graph_objects as go

    if not 0 < len(scores.columns) <= len(LINES):
        raise ValueError(f"expected from one to {len(LINES)} scores; came {len(scores.columns)}")
    truth = scores.index.isin(set(harmful))
    curves = {str(name): _follow_curve(scores[name], truth) for name in scores}
    n = f"{truth.sum()} harmful, {(~truth).sum()} good images"
    told = [f"{name}: {_tell_curve(curve)}" for name, curve in curves.items()]
    figure = start_figure(title=title, alt=f"ROC curves of {n}. {'; '.join(told)}.", height=460)
    for at, (name, curve) in enumerate(curves.items()):
        color, dash = LINES[at]
        counted = "" if curve["n"] == (truth.sum(), (~truth).sum()) else ", n = {} and {}".format(*curve["n"])
        figure.add_trace(
            go.Scatter(
                x=curve["good"],
                y=curve["harmful"],
                mode="lines",
                name=f"{escape(name)}: AUROC {curve['auroc']:.2f}{counted}",
                # the first is the widest, so that curves that coincide all show
                line={"color": color, "dash": dash, "width": 2 + 0.8 * (len(curves) - 1 - at)},
                text=[fold(name)] * len(curve["good"]),  # a name in the template itself would be read as a part of it
                hovertemplate="%{text}<br>%{y:.2f} of harmful, %{x:.2f} of good<extra></extra>",
            )
        )
    chance = {"color": PALETTE["grey"], "width": 1, "dash": "dot"}
    figure.add_trace(
        go.Scatter(x=[0, 1], y=[0, 1], mode="lines", name=f"chance (n = {n})", line=chance, hoverinfo="skip")
    )
    figure.update_xaxes(title="share of good images accused", range=[-0.02, 1.02], zeroline=False)
    figure.update_yaxes(title="share of harmful images found", range=[-0.02, 1.02], zeroline=False)
    return figure


def _follow_curve(scores: pd.Series, truth: np.ndarray) -> dict:
    """Return the shares of good and harmful images at or above every limit, AUROC and (n harmful, n good)."""
    score = scores.to_numpy(dtype=float)
    known = ~np.isnan(score)
    score, truth = score[known], truth[known]
    n = (int(truth.sum()), int((~truth).sum()))
    if not all(n):
        raise ValueError(f"a ROC curve needs harmful and good images; score {scores.name!r} has {n[0]} and {n[1]}")
    limits = np.concatenate([[np.inf], np.unique(score)[::-1]])
    found, accused = ((score[part][None] >= limits[:, None]).mean(axis=1) for part in (truth, ~truth))
    if not (score == np.inf).any():
        return {"good": accused, "harmful": found, "auroc": measure_auroc(truth, score), "n": n}
    return {"good": [0, *accused], "harmful": [0, *found], "auroc": measure_auroc(truth, score), "n": n}


def _tell_curve(curve: dict) -> str:
    free = max(np.asarray(curve["harmful"])[np.asarray(curve["good"]) == 0])
    return f"AUROC {curve['auroc']:.2f}, finds {100 * free:.0f} % of the harmful before it accuses a good one"


def draw_evidence(evidence: pd.DataFrame, *, alpha: float, title: str) -> Figure:
    """Return the e-value of every image after each of its looks (log axis; 0 at the bottom), with a line at 1 / alpha.

    Parameters
    ----------
    evidence : DataFrame
        Columns subject, look (from 1), e_value (at least 0, higher speaks more for harm), harmful (the ground truth),
        and ``combine`` where looks are put together in several ways: one panel each, see `accumulate_evidence`.
    alpha : float
        Above 0, below 1.
    title : str

    Raises
    ------
    ValueError
        If there is no row, an e-value is negative or NaN, or alpha lies outside its range.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be above 0 and below 1; came {alpha!r}")
    values = evidence["e_value"].to_numpy(dtype=float)
    if not len(values) or not (values >= 0).all():
        raise ValueError("expected e-values of at least 0, one or more; came a negative one, NaN or none")
    rows = evidence if "combine" in evidence else evidence.assign(combine="e-value")
    ways = list(rows["combine"].unique())
    figure = start_figure(title=title, alt=_tell_evidence(rows, alpha), height=PANEL_HEIGHT * len(ways) + 110)
    heads = [escape(way) for way in ways] if len(ways) > 1 else None
    figure.set_subplots(len(ways), 1, shared_xaxes=True, subplot_titles=heads, vertical_spacing=0.12 / len(ways))
    figure.update_annotations(font_size=13, x=0, xanchor="left")
    line = {"color": PALETTE["black"], "width": 1.5, "dash": "dash"}
    for row, way in enumerate(ways, start=1):
        own = rows[rows["combine"] == way]
        floor = _scale_evidence(figure, own["e_value"].to_numpy(dtype=float), 1 / alpha, row=row)
        for kind in ("good", "harmful"):
            part = own[own["harmful"].astype(bool) == (kind == "harmful")]
            _add_evidence(figure, part, kind, floor=floor, row=row)
        figure.add_hline(y=1 / alpha, line=line, row=row, col=1)
    key = {"type": "scatter", "x": [None], "y": [None], "mode": "lines", "line": line, "hoverinfo": "skip"}
    figure.add_trace(key | {"name": f"1 / alpha = {1 / alpha:.3g}"}, row=1, col=1)
    looks = sorted(rows["look"].unique())
    figure.update_xaxes(range=[looks[0] - 0.4, looks[-1] + 0.4], dtick=1 if len(looks) <= 12 else None)
    figure.update_xaxes(title="look", row=len(ways), col=1)
    return figure


def _scale_evidence(figure: Figure, values: np.ndarray, line: float, *, row: int) -> float:
    """Give a panel a log axis that holds all values and the line, and return where on it a value of 0 is drawn."""
    known = np.append(values[(values > 0) & np.isfinite(values)], line)
    low, high = math.floor(np.log10(known.min())), math.ceil(np.log10(known.max()))
    step = max(1, math.ceil((high - low) / 4))
    bottom = low - 0.7 * step if (values == 0).any() else low - 0.1 * step
    powers = range(high - (high - low) // step * step, high + 1, step)
    ticks = {"tickvals": [10.0**power for power in powers], "ticktext": [f"10<sup>{power}</sup>" for power in powers]}
    if (values == 0).any():
        ticks = {"tickvals": [10.0**bottom, *ticks["tickvals"]], "ticktext": ["0", *ticks["ticktext"]]}
    figure.update_yaxes(type="log", range=[bottom - 0.15 * step, high + 0.15 * step], **ticks, row=row, col=1)
    figure.update_yaxes(title="e-value (log scale)", row=row, col=1)
    return 10.0**bottom


def _add_evidence(figure: Figure, rows: pd.DataFrame, kind: str, *, floor: float, row: int) -> None:
    """Add the images of a kind as one line each, in one trace."""
    import plotly.graph_objects as go

    look = IMAGE_LOOKS[kind]
    across, up, told = [], [], []
    for subject, part in rows.sort_values("look").groupby("subject", sort=False):
        across += [*part["look"], None]
        up += [*part["e_value"].where(part["e_value"] > 0, floor), None]
        told += [f"{fold(subject)}: {value:.3g}" for value in part["e_value"]] + [""]
    if across:
        figure.add_trace(
            go.Scatter(
                x=across,
                y=up,
                mode="lines+markers",
                name=f"{kind} images (n = {rows['subject'].nunique()})",
                legendgroup=kind,
                showlegend=row == 1,
                line={"color": fade(look["color"], 0.45), "width": 1.5},
                marker={"color": look["color"], "symbol": look["symbol"], "size": 6},
                customdata=told,
                hovertemplate="look %{x}, %{customdata}<extra></extra>",
            ),
            row=row,
            col=1,
        )


def _tell_evidence(rows: pd.DataFrame, alpha: float) -> str:
    """Return the alternative text: where the images of each kind end, and how many ever reached the line."""
    said = []
    for (way, harmful), part in rows.groupby(["combine", rows["harmful"].astype(bool)], sort=False):
        ends = part.sort_values("look").groupby("subject")["e_value"].last()
        reached = int((part.groupby("subject")["e_value"].max() >= 1 / alpha).sum())
        who = f"{way}, {len(ends)} {'harmful' if harmful else 'good'} images"
        said.append(f"{who}: last e-value {ends.min():.3g} to {ends.max():.3g}, {reached} reached 1 / alpha")
    return f"E-values by look, line at 1 / alpha = {1 / alpha:.3g}. {'; '.join(said)}."


def draw_alarms(table: pd.DataFrame, *, title: str) -> Figure:
    """Return how often the published rule finds a harmful step and accuses a good one, by number of verification
    subjects (log axis), a line per tolerance.

    Parameters
    ----------
    table : DataFrame
        Of `tabulate_alarms`: columns tolerance, subjects, false_alarm, detection.
    title : str

    Raises
    ------
    ValueError
        If the table has no row with subjects, or too many tolerances to tell apart.
    """
    import plotly.graph_objects as go

    rows = table[table["subjects"] > 0]
    tolerances = list(rows["tolerance"].unique())
    if not 0 < len(tolerances) <= len(LINES):
        raise ValueError(f"expected from one to {len(LINES)} tolerances with subjects; came {len(tolerances)}")
    figure = start_figure(title=title, alt=_tell_alarms(rows), height=2 * PANEL_HEIGHT + 120)
    heads = [f"{name} (wanted {want})" for name, want in zip(ALARMS.values(), ("high", "low"), strict=True)]
    figure.set_subplots(2, 1, shared_xaxes=True, subplot_titles=heads, vertical_spacing=0.09)
    figure.update_annotations(font_size=13, x=0, xanchor="left")
    for row, column in enumerate(ALARMS, start=1):
        for tolerance, (color, dash) in zip(tolerances, LINES, strict=False):
            part = rows[rows["tolerance"] == tolerance].sort_values("subjects")
            trace = go.Scatter(
                x=part["subjects"],
                y=part[column],
                mode="lines",
                name=f"tolerance {tolerance:g}",
                legendgroup=str(tolerance),
                showlegend=row == 1,
                line={"color": color, "dash": dash, "width": 2},
                hovertemplate="%{x} subjects: %{y:.3f}<extra>%{fullData.name}</extra>",
            )
            figure.add_trace(trace, row=row, col=1)
    low, high = rows["subjects"].min(), rows["subjects"].max()
    steps = [step * 10**power for power in range(8) for step in (1, 2, 5) if low <= step * 10**power <= high]
    figure.update_xaxes(type="log", tickvals=steps or [low])
    figure.update_xaxes(title="verification subjects (log scale)", row=2, col=1)
    figure.update_yaxes(title="probability", range=[-0.03, 1.03], zeroline=False)
    return figure


def _tell_alarms(rows: pd.DataFrame) -> str:
    """Return the alternative text: both chances with the fewest and the most subjects, for every tolerance."""
    said = []
    for tolerance, part in rows.groupby("tolerance", sort=False):
        ends = part.sort_values("subjects").iloc[[0, -1]]
        values = [
            f"{row.subjects} subjects {row.detection:.2f} found and {row.false_alarm:.2f} accused"
            for row in ends.itertuples()
        ]
        said.append(f"tolerance {tolerance:g}: {' to '.join(values)}")
    return f"Chance that a harmful step is found and a good one accused. {'; '.join(said)}."
