"""What is proved and what is found: epsilon of hospitals, curves of attacks, records read back, and what privacy costs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from dqc_lib.figures.labels import fold
from dqc_lib.figures.rules import LINES
from dqc_lib.figures.style import PALETTE, escape, start_figure
from dqc_lib.privacy.membership import MembershipAttack, bound_true_positive_rate, measure_membership

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

MAXIMUM = PALETTE["grey"]  # behind the hospitals, that of which it is shows through
BOUND = PALETTE["black"]
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star")
AXES = {"noise_multiplier": "noise multiplier (× clipping norm)", "steps": "steps", "sampling_rate": "sampling rate"}
CODES = ((0.0, "#ffffff"), (1.0, PALETTE["blue"]))
DASHES = ("dot", "dash", "dashdot")  # of references, which share a colour
HOVER = "%{customdata}<extra></extra>"


def draw_epsilons(table: pd.DataFrame, *, title: str, by: str = "noise_multiplier") -> Figure:
    """Return epsilon (log axis, lower is better) of every hospital over what was chosen, and the maximum over them.

    Parameters
    ----------
    table : DataFrame
        Rows of `tabulate_epsilons`, of several settings one below the other. Infinite ones are told in words, and have
        no place on the axis.
    title : str
    by : str
        One of noise_multiplier, steps, sampling_rate.
    """
    import plotly.graph_objects as go

    _require_columns(table, ["hospital", "n_patients", "delta", "epsilon", by])
    if by not in AXES:
        raise ValueError(f"by must be one of {', '.join(AXES)}, got {by!r}")
    hospitals = list(table["hospital"].unique())
    if not 0 < len(hospitals) <= len(LINES):
        raise ValueError(f"expected from one to {len(LINES)} hospitals, got {len(hospitals)}")
    worst = table.groupby(by)["epsilon"].max()
    told = [f"{by.replace('_', ' ')} {value:g}: {_tell_epsilon(worst[value])}" for value in worst.index]
    figure = start_figure(title=title, alt=f"Maximum epsilon over hospitals. {'; '.join(told)}.", height=430)
    finite = worst[np.isfinite(worst)]
    looks = {"color": MAXIMUM, "width": 9}
    figure.add_trace(
        go.Scatter(
            **{"x": finite.index, "y": finite, "mode": "lines", "line": looks, "opacity": 0.3},
            **{"name": "maximum over hospitals", "hoverinfo": "skip"},
        )
    )
    for at, hospital in enumerate(hospitals):
        own = table[(table["hospital"] == hospital) & np.isfinite(table["epsilon"])].sort_values(by)
        n = int(table.loc[table["hospital"] == hospital, "n_patients"].iloc[0])
        color, dash = LINES[at]
        said = [f"{fold(hospital)}, n = {n}<br>epsilon {value:.3g}" for value in own["epsilon"]]
        figure.add_trace(
            go.Scatter(
                **{"x": own[by], "y": own["epsilon"], "mode": "lines+markers", "line": {"color": color, "dash": dash}},
                **{"marker": {"symbol": SYMBOLS[at], "size": 8}, "name": f"{escape(hospital)} (n = {n})"},
                **{"customdata": said, "hovertemplate": HOVER},
            )
        )
    deltas = table["delta"].unique()
    at_delta = f" at delta {deltas[0]:.2g}" if len(deltas) == 1 else ""
    figure.update_xaxes(title=AXES[by], type="log", tickvals=list(finite.index))
    figure.update_yaxes(title=f"epsilon of a patient{at_delta}", type="log", dtick="D2" if len(finite) else None)
    return figure


def _tell_epsilon(value: float) -> str:
    return "infinite" if math.isinf(value) else f"{value:.3g}"


def draw_membership(
    attacks: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    title: str,
    false_positive_rate: float = 0.01,
    epsilon: float | None = None,
    delta: float | None = None,
    seed: int = 0,
) -> Figure:
    """Return ROC curves of attacks with log axes; the rate of members found at few false positives has an interval.

    Parameters
    ----------
    attacks : mapping of str to two ndarrays of float
        Scores of members and of non-members, as in `measure_membership`.
    title : str
    false_positive_rate : float
        Where the rate is marked.
    epsilon, delta : float, optional
        Of a training; the bound that it puts on all attacks against it is drawn.
    seed : int
        Of the bootstrap.
    """
    import plotly.graph_objects as go

    if not 0 < len(attacks) <= len(LINES):
        raise ValueError(f"expected from one to {len(LINES)} attacks, got {len(attacks)}")
    if (epsilon is None) != (delta is None):
        raise ValueError("expected epsilon and delta, or neither")
    found = {
        name: measure_membership(*scores, false_positive_rate=false_positive_rate, seed=seed)
        for name, scores in attacks.items()
    }
    alt = "; ".join(f"{name}: {_tell_attack(attack)}" for name, attack in found.items())
    figure = start_figure(title=title, alt=f"ROC curves, log axes. {alt}.", height=520)
    least = min(0.5 / max(attack.n_nonmembers for attack in found.values()), false_positive_rate / 2)
    for at, (name, attack) in enumerate(found.items()):
        _add_curve(figure, name, attacks[name], attack, at=at)
    rates = np.geomspace(least, 1, 200)
    line = {"color": PALETTE["grey"], "width": 1.5, "dash": "dot"}
    figure.add_trace(go.Scatter(x=rates, y=rates, mode="lines", name="chance", line=line, hoverinfo="skip"))
    if epsilon is not None and delta is not None:
        bound = bound_true_positive_rate(rates, epsilon=epsilon, delta=delta)
        line = {"color": BOUND, "width": 2.5, "dash": "longdash"}
        said = f"most that epsilon {_tell_epsilon(epsilon)}, delta {delta:.2g} allow"
        figure.add_trace(go.Scatter(x=rates, y=bound, mode="lines", name=said, line=line, hoverinfo="skip"))
    ticks = {"tickvals": [0.001, 0.01, 0.1, 1], "ticktext": ["0.1 %", "1 %", "10 %", "100 %"], "type": "log"}
    figure.update_xaxes(title="non-members accused", range=[math.log10(least), 0.03], **ticks)
    figure.update_yaxes(title="members found", range=[math.log10(least), 0.06], **ticks)
    return figure


def _add_curve(
    figure: Figure, name: str, scores: tuple[np.ndarray, np.ndarray], attack: MembershipAttack, *, at: int
) -> None:
    """Add the curve of an attack, and its marked rate with an interval."""
    import plotly.graph_objects as go

    color, dash = LINES[at]
    members, nonmembers = (np.sort(np.asarray(part, dtype=float)) for part in scores)
    limits = np.unique(np.concatenate([members, nonmembers]))[::-1]
    x, y = (1 - np.searchsorted(part, limits, "left") / len(part) for part in (nonmembers, members))
    shown = (x > 0) & (y > 0)
    legend = f"{escape(name)}: AUROC {attack.auroc:.2f} ({attack.auroc_low:.2f} to {attack.auroc_high:.2f}), n = "
    legend += f"{attack.n_members} and {attack.n_nonmembers}"
    points = zip(x[shown], y[shown], strict=True)
    told = [f"{fold(name)}<br>{found:.1%} of members, {accused:.1%} of others" for accused, found in points]
    common = {"legendgroup": str(at), "hovertemplate": HOVER}
    figure.add_trace(
        go.Scatter(
            **{"x": x[shown], "y": y[shown], "mode": "lines", "line": {"color": color, "dash": dash, "width": 2.5}},
            **{"name": legend, "customdata": told, **common},
        )
    )
    if not attack.true_positive_rate > 0:
        return  # has no place on a log axis; it is told in words
    ends = {"array": [attack.tpr_high - attack.true_positive_rate], "symmetric": False, "thickness": 2, "width": 6}
    ends |= {"arrayminus": [attack.true_positive_rate - attack.tpr_low], "type": "data", "color": color}
    figure.add_trace(
        go.Scatter(
            **{"x": [attack.false_positive_rate * (1 + 0.06 * at)], "y": [attack.true_positive_rate]},
            **{"mode": "markers", "error_y": ends},
            **{"marker": {"size": 11, "color": color, "symbol": SYMBOLS[at]}, "showlegend": False},
            **{"customdata": [f"{fold(name)}<br>{fold(_tell_attack(attack))}"], **common},
        )
    )


def _tell_attack(attack: MembershipAttack) -> str:
    rate, low, high = attack.true_positive_rate, attack.tpr_low, attack.tpr_high
    found = "too few non-members for a rate" if math.isnan(rate) else f"{rate:.1%} ({low:.1%} to {high:.1%}) found"
    area = f"AUROC {attack.auroc:.2f} ({attack.auroc_low:.2f} to {attack.auroc_high:.2f})"
    n = f"n = {attack.n_members} and {attack.n_nonmembers}"
    return f"{area}, members at {attack.false_positive_rate:.1%} false positives: {found}, {n}"


def draw_inversion(records: Mapping[str, np.ndarray], *, title: str) -> Figure:
    """Return heat maps of codes by visits: a record, and what came back of it under each setting.

    Parameters
    ----------
    records : mapping of str to ndarray, (visits, codes)
        The first is the truth. Values from 0 to 1; what lies outside, as after noise, has the colour of the end.
    title : str
    """
    import plotly.graph_objects as go

    if not records:
        raise ValueError("expected at least one record to draw, got none")
    arrays = {name: np.asarray(array, dtype=float) for name, array in records.items()}
    truth = next(iter(arrays.values()))
    for name, array in arrays.items():
        if array.ndim != 2 or array.shape != truth.shape:
            raise ValueError(f"{name} has the shape {array.shape}; expected (visits, codes), {truth.shape}")
    shares = {name: float(((array > 0.5) == (truth > 0.5)).mean()) for name, array in arrays.items()}
    first, *others = arrays
    told = "; ".join(f"{name}: {shares[name]:.0%} of codes right" for name in others)
    alt = f"{first}, {truth.shape[0]} visits and {truth.shape[1]} codes. {told}."
    figure = start_figure(title=title, alt=alt, height=90 + 150 * len(arrays))
    heads = [fold(first), *(f"{fold(name)}: {shares[name]:.0%} of codes right" for name in others)]
    figure.set_subplots(len(arrays), 1, shared_xaxes=True, subplot_titles=heads, vertical_spacing=0.28 / len(arrays))
    figure.update_annotations(font_size=13, x=0, xanchor="left")
    scale = {"colorscale": [list(part) for part in CODES], "zmin": 0, "zmax": 1, "xgap": 1, "ygap": 1}
    ends = np.arange(1, truth.shape[1] + 1), np.arange(1, truth.shape[0] + 1)
    for row, array in enumerate(arrays.values(), start=1):
        bar = {"title": {"text": "code"}, "tickvals": [0, 1], "ticktext": ["absent", "present"], "thickness": 12}
        bar |= {"len": 180, "lenmode": "pixels", "y": 1, "yanchor": "top"}
        said = "code %{x}, visit %{y}: %{z:.2f}<extra></extra>"
        maps = go.Heatmap(z=array, x=ends[0], y=ends[1], hovertemplate=said, showscale=row == 1, colorbar=bar, **scale)
        figure.add_trace(maps, row=row, col=1)
    figure.update_yaxes(title="visit", autorange="reversed", showgrid=False, dtick=max(1, truth.shape[0] // 3))
    figure.update_xaxes(showgrid=False)
    figure.update_xaxes(title="code", row=len(arrays), col=1)
    return figure


def draw_privacy_utility(
    table: pd.DataFrame, *, title: str, axis: str, references: Mapping[str, float] | None = None
) -> Figure:
    """Return what is left of a measure at each epsilon, with intervals; without noise stands at the right, at infinity.

    Parameters
    ----------
    table : DataFrame
        Columns arm, epsilon (maximum over hospitals, above 0 or infinite), value, low, high, n.
    title, axis : str
        Of the figure and of the measure, which says which direction is better.
    references : mapping of str to float, optional
        Up to three lines by name, such as the value of chance.
    """
    import plotly.graph_objects as go

    _require_columns(table, ["arm", "epsilon", "value", "low", "high", "n"])
    references = dict(references or {})
    if len(references) > len(DASHES):
        raise ValueError(f"expected up to {len(DASHES)} references, got {len(references)}")
    arms = list(table["arm"].unique())
    if not 0 < len(arms) <= len(LINES) or not (table["epsilon"] > 0).all():
        raise ValueError(f"expected from one to {len(LINES)} arms, and epsilons above 0; got {len(arms)} arms")
    finite = table.loc[np.isfinite(table["epsilon"]), "epsilon"]
    end = 4 * float(finite.max()) if len(finite) else 1.0
    rows = table.to_dict("records")
    told = [f"{row['arm']}, {_tell_cost(row)}" for row in rows]
    told += [f"{name}: {value:.3g}" for name, value in references.items()]
    figure = start_figure(title=title, alt=f"{axis} by epsilon. {'; '.join(told)}.", height=420)
    for at, arm in enumerate(arms):
        own = table[table["arm"] == arm].sort_values("epsilon")
        color, dash = LINES[at]
        x = np.where(np.isinf(own["epsilon"]), end, own["epsilon"]) * (1 + 0.04 * at)
        ends = {"type": "data", "symmetric": False, "thickness": 2, "width": 5, "color": color}
        ends |= {"array": own["high"] - own["value"], "arrayminus": own["value"] - own["low"]}
        told = [f"{fold(arm)}<br>{fold(_tell_cost(row))}" for row in own.to_dict("records")]
        figure.add_trace(
            go.Scatter(
                **{"x": x, "y": own["value"], "error_y": ends, "mode": "lines+markers", "name": escape(arm)},
                **{"line": {"color": color, "dash": dash}, "marker": {"size": 9, "symbol": SYMBOLS[at]}},
                **{"customdata": told, "hovertemplate": HOVER},
            )
        )
    for (name, value), dash in zip(references.items(), DASHES, strict=False):
        line = {"color": PALETTE["grey"], "width": 1.5, "dash": dash}
        figure.add_hline(y=value, line=line, name=f"{escape(name)}: {value:.2g}", showlegend=True)
    ticks = sorted(set(finite))
    named = [f"{value:.2g}" for value in ticks]
    if np.isinf(table["epsilon"]).any():
        ticks, named = [*ticks, end], [*named, "∞ (no noise)"]
    figure.update_xaxes(title="epsilon, maximum over hospitals", type="log", tickvals=ticks, ticktext=named)
    figure.update_yaxes(title=escape(axis))
    figure.update_layout(showlegend=True)
    return figure


def _tell_cost(row: Mapping[str, object]) -> str:
    value, low, high = (float(row[name]) for name in ("value", "low", "high"))
    return f"epsilon {_tell_epsilon(float(row['epsilon']))}: {value:.3g} ({low:.3g} to {high:.3g}), n = {row['n']}"


def _require_columns(table: pd.DataFrame, names: list[str]) -> None:
    if missing := [name for name in names if name not in table]:
        raise KeyError(f"missing columns {missing}; the table has {list(table.columns)}")
    if table.empty:
        raise ValueError("expected at least one row to draw, got none")
