"""What the study came to, as text: the goals first, then shares, arms and detectors, one line for each row."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import pandas as pd

from benchmarks.detection.tables import KEYS, check_goals, compare_arms, summarize_detectors, summarize_images

GROUPS = {
    "centers found": "harmful centers found",
    "center": "images of harmful centers",
    "single": "single harmful images",
    "good": "good images",
    "known": "good, mixed centers",
    "not met": "good, never met",
    "one class": "good, centers of one class",
    "one image": "good, centers of one image",
    "new scanner": "good, new scanners",
    "new scanners lost": "good centers, new scanners",
}
LEGEND = (
    "Detectors in the row 'no harm' tell good images at the places of harm from the rest: all they have to go by is\n"
    "that the pre-training never met them, as in a clean start. What a detector makes of that is no harm found.\n"
    "Brackets hold 95 % intervals over resampled seeds; one seed has none. Where all seeds agree they have no width;\n"
    "with 10 seeds that still leaves room for something that happens in up to 26 % of seeds."
)


def describe_results(tables: dict[str, pd.DataFrame]) -> str:
    """Return the tables of `tabulate` as text."""
    parts = [
        _head("Goals: the calibrated rule after a clean start", _list_goals(check_goals(tables))),
        _head("Images eliminated", _list_shares(summarize_images(tables["images"]))),
        _head("Test AUROC, its difference to the clean arm, and the cost of a run (means)", _list_arms(tables["runs"])),
        _head(
            "Detectors, judged with the pre-trained model: AUROC, average precision and prevalence",
            _list_detectors(summarize_detectors(tables["detectors"])),
        ),
        LEGEND,
    ]
    return "\n\n".join(parts)


def _head(title: str, lines: Iterable[str]) -> str:
    return "\n".join([title, "=" * len(title), *(list(lines) or ["(nothing yet)"])])


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _span(low: float, high: float, write: Callable[[float], str]) -> str:
    return "" if math.isnan(low) else f"[{write(low)}, {write(high)}]".replace(" %", "")


def _count_seeds(n: float) -> str:
    return f"{n:.0f} seed{'' if n == 1 else 's'}"


def _signed(value: float) -> str:
    return f"{value:+.3f}"


def _list_goals(goals: pd.DataFrame) -> list[str]:
    lines = []
    for row in goals.itertuples():
        write = _signed if "AUROC" in row.goal else _percent
        count = "" if math.isnan(row.n) or "AUROC" in row.goal else f"of {row.n:.0f}"
        seeds = "" if math.isnan(row.seeds) else _count_seeds(row.seeds)
        measured = "" if math.isnan(row.measured) else f"{write(row.measured)} {_span(row.low, row.high, write)}"
        wanted = f"{row.wanted} {write(row.limit)}"
        lines.append(f"{row.goal:37} {row.kind:10} {wanted:17} {measured:24} {count:8} {seeds:8}  {row.verdict}")
    return lines


def _by_case(frame: pd.DataFrame) -> Iterable[tuple[str, pd.DataFrame]]:
    """Yield a heading and the rows of each scenario, kind and number of harmful centers."""
    for (scenario, kind, n), rows in frame.groupby(["scenario", "kind", "n_centers"], sort=False):
        harm = f", {kind}, {n} harmful center{'' if n == 1 else 's'}"
        yield scenario + harm * (kind != "none"), rows


def _list_shares(shares: pd.DataFrame) -> Iterable[str]:
    shares = shares.assign(order=shares["group"].map({name: at for at, name in enumerate(GROUPS)}))
    for case, rows in _by_case(shares):
        yield case
        for row in rows.sort_values(["rule", "order"]).itertuples():
            share = f"{_percent(row.share):>8} {_span(row.low, row.high, _percent):16}"
            count = f"{f'{row.eliminated} of {row.n}':>14}  {_count_seeds(row.seeds)}"
            yield f"  {row.rule:15} {GROUPS.get(row.group, row.group):27} {share} {count}"


def _list_arms(runs: pd.DataFrame) -> Iterable[str]:
    keys = KEYS[:-1]
    if runs.empty:
        return
    means = runs.assign(drifted=runs["drifted"].astype(bool)).groupby(keys)
    costs = means.agg(
        runs=("seed", "size"),
        mean_auroc=("auroc", "mean"),
        attempts=("attempts", "mean"),
        verified=("verified", "mean"),
        seconds=("seconds", "mean"),
        drifted=("drifted", "sum"),
    ).reset_index()
    for case, rows in _by_case(costs.merge(compare_arms(runs), on=keys, how="left")):
        yield case
        for row in rows.itertuples():
            known = not math.isnan(row.difference)
            to_clean = f"{_signed(row.difference)} {_span(row.low, row.high, _signed)}" if known else ""
            cost = f"{row.attempts:.0f} attempts, {row.verified:.0f} verified, {row.seconds:.0f} s"
            drift = f", drifted in {row.drifted}" * bool(row.drifted)
            yield f"  {row.rule:15} {row.mean_auroc:.3f}  {to_clean:24} {_count_seeds(row.runs)}, {cost}{drift}"


def _list_detectors(detectors: pd.DataFrame) -> Iterable[str]:
    for case, rows in _by_case(detectors):
        yield case
        for row in rows.sort_values(["placement", "auroc"], ascending=[True, False]).itertuples():
            auroc = f"{row.auroc:.3f} {_span(row.low, row.high, '{:.3f}'.format)}"
            share = row.n / (row.n + row.n_good) if row.n else math.nan
            rest = f"{row.average_precision:.3f} at {_percent(share)}"
            yield f"  {row.placement:7} {row.detector:22} {auroc:21} {rest:17} {_count_seeds(row.seeds)}"
