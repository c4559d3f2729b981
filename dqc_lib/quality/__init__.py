"""The rule of quality control: from counts and the size of an update to a decision, and who is tried again when.

Everything here is pure: no image, no model, no ground truth. A rule sees what an attempt did and answers whether it
looks harmful; the `Docket` remembers who waits for a revisit and who is out. The published rule is that of Souza et
al. 2025, doi 10.1038/s41746-025-01499-0.
"""

from dqc_lib.quality.calibrated import CalibratedRule
from dqc_lib.quality.counts import DENOMINATORS, Counts, add_counts
from dqc_lib.quality.docket import Docket
from dqc_lib.quality.drift import DriftGuard
from dqc_lib.quality.evidence import accumulate_evidence, rank_among
from dqc_lib.quality.replaying import replay
from dqc_lib.quality.rules import PublishedRule, Rule, Verdict, WatchingRule

__all__ = [
    "DENOMINATORS",
    "CalibratedRule",
    "Counts",
    "Docket",
    "DriftGuard",
    "PublishedRule",
    "Rule",
    "Verdict",
    "WatchingRule",
    "accumulate_evidence",
    "add_counts",
    "rank_among",
    "replay",
]
