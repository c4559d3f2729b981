"""How much the model's travels put on the wire, beside what federated averaging would."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from dqc_lib.federation.weights import Start

AVERAGING = "federated averaging"
COLUMNS = ("cycle", "call", "calls", "out_mb", "back_mb")


def count_traffic(
    traffic: list[dict[str, Any]], cycle: int, call: str, *, calls: int = 0, out: int = 0, back: int = 0
) -> None:
    """Add to the row of that call in that cycle, or begin one: how many calls there were, and the bytes of weights, and
    of the scale, that went out from the server to all sites and came back.

    What packing and encryption add is not in it, nor are names and counts.
    """
    row = next((row for row in traffic if (row["cycle"], row["call"]) == (cycle, call)), None)
    if row is None:
        traffic.append({"cycle": cycle, "call": call, "calls": calls, "out": out, "back": back})
    else:
        row |= {"calls": row["calls"] + calls, "out": row["out"] + out, "back": row["back"] + back}


def compare_traffic(traffic: Sequence[Mapping[str, Any]], start: Start, *, n_sites: int) -> pd.DataFrame:
    """Return the traffic of a run by cycle and call, beside that of federated averaging with a round per cycle.

    Parameters
    ----------
    traffic : sequence of mapping
        `RemoteCenters.traffic`, as it is or read back from `traffic.json`.
    start : Start
        Any state of the model.
    n_sites : int

    Returns
    -------
    DataFrame
        Columns "cycle" (0: before the first one), "call", "calls", "out_mb" and "back_mb", in 10⁶ bytes. A round of
        federated averaging sends the model without its optimizer to every site and has it back (McMahan et al. 2017).

    Examples
    --------
    >>> import numpy as np
    >>> start = Start({}, (np.zeros(250_000, np.float32), np.float32(0.1)), 1, 1, 1, trained_at=(), statistics_at=())
    >>> traffic = [{"cycle": 1, "call": "train", "calls": 2, "out": 6_000_000, "back": 6_000_000}]
    >>> compare_traffic(traffic, start, n_sites=3)
       cycle                 call  calls  out_mb  back_mb
    0      1                train      2     6.0      6.0
    1      1  federated averaging      1     3.0      3.0
    """
    one_way = n_sites * start.own_layout.n_bytes
    rows = []
    for cycle in sorted({row["cycle"] for row in traffic}):
        rows += [row for row in traffic if row["cycle"] == cycle]
        if cycle:
            rows.append({"cycle": cycle, "call": AVERAGING, "calls": 1, "out": one_way, "back": one_way})
    table = pd.DataFrame(rows, columns=["cycle", "call", "calls", "out", "back"])
    return table.assign(out_mb=table["out"] / 1e6, back_mb=table["back"] / 1e6)[list(COLUMNS)]
