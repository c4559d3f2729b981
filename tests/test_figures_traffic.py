"""The traffic of a federated run as a figure: its bars are the table's sums, and averaging stands beside them."""

import pandas as pd
import pytest

from dqc_lib.figures.style import PALETTE
from dqc_lib.figures.traffic import draw_traffic

TRAFFIC = pd.DataFrame(
    [
        (0, "open", 1, 0.5, 0.0),
        (1, "train", 3, 6.0, 6.0),
        (1, "verify", 2, 4.0, 0.0),
        (1, "federated averaging", 1, 2.0, 2.0),
        (2, "train", 1, 2.0, 2.0),
        (2, "federated averaging", 1, 2.0, 2.0),
    ],
    columns=["cycle", "call", "calls", "out_mb", "back_mb"],
)


def test_a_cycle_has_one_bar_of_all_its_calls_and_one_of_averaging():
    figure = draw_traffic(TRAFFIC, title="T")
    train, verify, averaging = figure.data
    assert (list(train.x), list(train.y)) == ([1, 2], [12.0, 4.0])
    assert (list(verify.x), list(verify.y)) == ([1], [4.0])
    assert (list(averaging.x), list(averaging.y)) == ([1, 2], [4.0, 4.0])
    assert figure.layout.barmode == "stack"
    assert train.offsetgroup == verify.offsetgroup != averaging.offsetgroup
    assert [trace.name for trace in figure.data] == [
        "train (n = 4 calls)",
        "verify (n = 2 calls)",
        "federated averaging (a round per cycle)",
    ]
    assert averaging.marker.color == PALETTE["grey"] and train.marker.color != verify.marker.color


def test_its_words_tell_the_sums_over_all_cycles_without_the_opening():
    alt = draw_traffic(TRAFFIC, title="T").layout.meta["alt"]
    assert "2 cycles" in alt and "train 16.0 MB, verify 4.0 MB, federated averaging 8.0 MB" in alt and "open" not in alt


def test_a_run_without_a_cycle_is_refused():
    with pytest.raises(ValueError, match="no row of a cycle from 1 on"):
        draw_traffic(TRAFFIC[:1], title="T")
