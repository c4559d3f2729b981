"""The ledger: an append-only record of attempts and decisions, one JSON line each.

An attempt is one optimizer step on a batch or a single image, followed by what a rule decided about it. Rows are
written as they happen, so that a killed run loses the attempt under way and nothing else.
"""

from dqc_lib.ledger.records import Ledger
from dqc_lib.ledger.schema import COLUMNS, COUNTS, LEVELS, Presence, check_row
from dqc_lib.ledger.summaries import require_rows, summarize_centers, summarize_subjects

__all__ = [
    "COLUMNS",
    "COUNTS",
    "LEVELS",
    "Ledger",
    "Presence",
    "check_row",
    "require_rows",
    "summarize_centers",
    "summarize_subjects",
]
