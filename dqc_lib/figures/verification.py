"""Why a decision fell: how far every attempt moved the two error rates, and what the rule tolerates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from dqc_lib.figures.marks import DENOMINATORS, RATE_NAMES, add_key, check_denominators, divide_counts, number_attempts
from dqc_lib.figures.style import DECISION_COLORS, DECISION_SYMBOLS, PALETTE, fade, start_figure
from dqc_lib.quality import CalibratedRule

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

LARGEST, SMALLEST = 22, 9  # pixels of a mark
ANGLES = {"accepted": 0, "split": 180, "deferred": 270, "eliminated": 0}
"""Where a mark stands that shares its point: below, above, right. The cross stays: plotly.js cannot shift it."""
ACCEPTED = PALETTE["green"]


@dataclass(frozen=True)
class _Region:
    """What a rule accepts: its outline from the left to the lower edge of the plot (None: at that edge)."""

    outline: list[tuple[float | None, float | None]]
    label: str


def draw_verification_surface(
    ledger: pd.DataFrame,
    *,
    title: str,
    denominators: str = "standard",
    acquittal: int = CalibratedRule.acquittal,
) -> Figure:
    """Return how much every verified attempt changed the two error rates (after minus before, above 0 is worse).

    Attempts on the same point are one mark per decision; its area grows with their number. Marks of several decisions
    on one point stand around it. The shaded part is what the rule accepts. Published rule: both changes up to the
    tolerance, which grows with the number of images. Calibrated rule: no rate rises, and enough verification subjects
    change to the right side.

    Parameters
    ----------
    ledger : DataFrame
        `Ledger.to_frame()`. How many attempts have no place here, because they were not verified or a rate is
        undefined, is said in the legend.
    title : str
    denominators : {"standard", "published"}
        What the rule divided by, see `Counts.rates`.
    acquittal : int
        Of the calibrated rule that wrote the ledger, which does not record it.

    Raises
    ------
    KeyError, ValueError
        If the denominators are unknown; if no attempt was verified with two defined rates.
    """
    check_denominators(denominators)
    rows = number_attempts(ledger)
    verified = rows[rows["fp"].notna()]
    changes = _measure_changes(verified, denominators)
    if changes.empty:
        raise ValueError("no attempt was verified with two defined rates; expected a run under a rule that verifies")
    spots = _merge_attempts(changes)
    left_out = {
        "not verified": len(rows) - len(verified),
        "verified, a rate is undefined": len(verified) - len(changes),
    }
    regions = _list_regions(changes, _count_verifiers(verified, denominators), acquittal)
    figure = start_figure(title=title, alt=_tell(changes, regions, left_out), height=560)
    spans = [
        _find_span(changes[count], [point[at] for r in regions for point in r.outline])
        for at, count in enumerate(RATE_NAMES)
    ]
    _add_regions(figure, regions, spans)
    _add_spots(figure, spots)
    for why, left in left_out.items():
        if left:
            add_key(figure, f"{why}, not shown (n = {left})", {"symbol": "circle-open", "color": PALETTE["grey"]})
    for axis, name, span in zip((figure.layout.xaxis, figure.layout.yaxis), RATE_NAMES.values(), spans, strict=True):
        text = f"change of the {name}<br>(higher is worse)"
        axis.update(title={"text": text, "font": {"size": 13}}, range=span, tickformat="+.2~f")
        axis.update(zeroline=True, zerolinecolor="#57606a", zerolinewidth=1.5)
    return figure


def _measure_changes(rows: pd.DataFrame, denominators: str) -> pd.DataFrame:
    """Return the attempts whose two rates are defined before and after, with the changes as columns fp and fn."""
    pairs = {count: divide_counts(rows, count=count, denominators=denominators) for count in RATE_NAMES}
    moves = {count: np.round(after - before, 9) + 0.0 for count, (before, after) in pairs.items()}
    return rows[["n", "decision", "tolerance", "norm_limit"]].assign(**moves).dropna(subset=list(moves))


def _merge_attempts(changes: pd.DataFrame) -> pd.DataFrame:
    """Return one row per point and decision: how many attempts there were, of which sizes, and whether it is shared."""
    groups = changes.groupby(["fp", "fn", "decision"])
    spots = groups.agg(attempts=("n", "size"), sizes=("n", _tell_sizes)).reset_index()
    return spots.assign(shared=spots.duplicated(["fp", "fn"], keep=False))


def _tell_sizes(sizes: pd.Series) -> str:
    counts = sizes.value_counts().sort_index()
    return ", ".join(f"{times} with {_count(n, 'image')}" for n, times in counts.items())


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _count_verifiers(rows: pd.DataFrame, denominators: str) -> tuple[int, int]:
    """Return how many subjects the changes of the two rates are out of."""
    return tuple(int(rows[DENOMINATORS[denominators][count]].max()) for count in RATE_NAMES)


def _list_regions(changes: pd.DataFrame, totals: tuple[int, int], acquittal: int) -> list[_Region]:
    """Return what the rule accepts, smallest first; empty where it accepts anything."""
    if changes["norm_limit"].notna().any():
        corners = [(-acquittal / totals[0], 0.0), (0.0, -acquittal / totals[1])]
        label = f"acquitted: no rate rises, and {acquittal} or<br>more subjects change to the right side"
        return [_Region([(None, 0.0), *corners, (0.0, None)], label)]
    known = changes.dropna(subset=["tolerance"])
    regions = []
    for tolerance, part in known.groupby(known["tolerance"].round(9)):
        low, high = part["n"].min(), part["n"].max()
        label = f"tolerated for {_count(high, 'image') if low == high else f'{low} to {high} images'}"
        regions.append(_Region([(None, tolerance), (tolerance, tolerance), (tolerance, None)], label))
    return regions


def _find_span(values: pd.Series, edges: list[float | None]) -> list[float]:
    """Return the range of an axis: all changes, what the rule accepts, zero, and room for the marks."""
    held = [0.0, *values, *(edge for edge in edges if edge is not None)]
    low, high = min(held), max(held)
    room = max(0.12 * (high - low), 0.02)
    return [low - room, high + room]


def _add_regions(figure: Figure, regions: list[_Region], spans: list[list[float]]) -> None:
    """Shade what is accepted, with an outline for every tolerance; the smallest and the largest are labelled."""
    (left, _), (bottom, _) = spans
    for at, region in enumerate(regions):
        points = [(left if x is None else x, bottom if y is None else y) for x, y in [*region.outline, (None, None)]]
        figure.add_shape(
            **{"type": "path", "path": f"M{' L'.join(f'{x:.9f},{y:.9f}' for x, y in points)} Z", "layer": "below"},
            **{"fillcolor": fade(ACCEPTED, 0.10), "line": {"color": ACCEPTED, "width": 1.5, "dash": "dot"}},
        )
        if at in (0, len(regions) - 1):
            place = {"y": bottom, "yanchor": "bottom"} if len(regions) == 1 else {"y": points[0][1]}
            place = {"yanchor": "bottom" if at else "top"} | place
            figure.add_annotation(
                **{"text": region.label, "showarrow": False, "align": "left", "font": {"size": 12, "color": "#00664b"}},
                **{"x": left, "xanchor": "left", "xshift": 4, **place},
            )


def _add_spots(figure: Figure, spots: pd.DataFrame) -> None:
    """Add the merged marks, one trace per decision."""
    import plotly.graph_objects as go

    size = np.maximum(SMALLEST, LARGEST * np.sqrt(spots["attempts"] / max(spots["attempts"].max(), 10)))
    spots = spots.assign(size=size, standoff=_stand_off(spots.assign(size=size)))
    for decision, color in DECISION_COLORS.items():
        part = spots[spots["decision"] == decision]
        if part.empty:
            continue
        look = {"color": color, "symbol": DECISION_SYMBOLS[decision], "line": {"width": 0.7, "color": "#444444"}}
        figure.add_trace(
            go.Scatter(
                x=part["fp"],
                y=part["fn"],
                mode="markers",
                marker=look
                | {"size": part["size"], "opacity": 1, "angle": ANGLES[decision], "standoff": part["standoff"]},
                customdata=[[_count(row.attempts, "attempt"), row.sizes] for row in part.itertuples()],
                hovertemplate=f"%{{customdata[0]}} {decision}: %{{customdata[1]}}<br>false-positive rate %{{x:+.3f}}"
                "<br>false-negative rate %{y:+.3f}<extra></extra>",
                legendgroup=decision,
                showlegend=False,
            )
        )
        add_key(figure, f"{decision} (n = {part['attempts'].sum()})", look, group=decision)


def _stand_off(spots: pd.DataFrame) -> np.ndarray:
    """Return by how many pixels marks leave a point that they share; the cross of the eliminated stays on it."""
    crosses = spots["size"].where(spots["decision"] == "eliminated", 0.0)
    in_the_middle = crosses.groupby([spots["fp"], spots["fn"]]).transform("max")
    moves = spots["shared"] & (spots["decision"] != "eliminated")
    return np.where(moves, 0.6 * spots["size"] + 0.5 * in_the_middle, 0.0)


def _tell(changes: pd.DataFrame, regions: list[_Region], left_out: dict[str, int]) -> str:
    """Return the alternative text: for every decision how many attempts moved the rates, and in which direction."""
    said = []
    for decision in DECISION_COLORS:
        part = changes[changes["decision"] == decision]
        if len(part):
            raised, still = (part[["fp", "fn"]] > 0).any(axis=1), (part[["fp", "fn"]] == 0).all(axis=1)
            said.append(
                f"{len(part)} {decision}: {raised.sum()} raised a rate, {still.sum()} changed neither,"
                f" {len(part) - raised.sum() - still.sum()} lowered one and raised none"
            )
    why = [f"{count} {reason}" for reason, count in left_out.items() if count]
    held = [region.label.replace("<br>", " ") + _tell_corner(region) for region in regions]
    most = max(abs(changes[["fp", "fn"]].to_numpy().ravel()), default=math.nan)
    return f"{len(changes)} verified attempts, changes up to {most:.2f}. {'; '.join([*said, *held, *why])}."


def _tell_corner(region: _Region) -> str:
    """Return up to which change the published rule tolerates."""
    return f": up to {region.outline[1][0]:.3g}" if len(region.outline) == 3 else ""
