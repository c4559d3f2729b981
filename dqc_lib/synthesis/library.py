"""The same question through sdmetrics, where its metrics measure what they say: most of them do not see time."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import combinations

import numpy as np
import pandas as pd

from dqc_lib.arguments import require_whole
from dqc_lib.synthesis.records import require_alike, require_visits

LIBRARY_COLUMNS = ("measure", "value", "direction", "best", "sees_time", "n", "n_real", "n_synthetic")


def measure_with_sdmetrics(
    real: np.ndarray, synthetic: np.ndarray, *, most_pairs: int = 60, most_codes: int = 12, seed: int = 0
) -> pd.DataFrame:
    """Return what five metrics of sdmetrics say, each the mean over codes or pairs of codes; higher is better.

    - TVComplement: 1 less the difference of a code's prevalence.
    - ContingencySimilarity: 1 less half the summed differences of the four cells of two codes within a visit.
    - StatisticMSAS (mean): 1 less the largest difference between the distributions of a patient's share of visits with
      a code. It is the library's metric of sequences, and no order of visits changes it.
    - InterRowMSAS: the same of the differences between a visit and the next: how often a code begins and ends.
    - SequenceLengthSimilarity: of numbers of visits, which are equal here: 1 whatever the records are.

    Parameters
    ----------
    real, synthetic : ndarray, shapes (patients, visits, codes) and (others, visits, codes)
    most_pairs, most_codes : int
        The metrics are slow: at most so many pairs and, for the two of sequences, codes, drawn among those that occur.
    seed : int
        Of that choice.

    Returns
    -------
    DataFrame
        Columns as of `measure_fidelity`. sees_time is whether an order of visits can change the metric at all, by its
        definition. NaN where no code occurs, or a code alone for pairs.
    """
    real, synthetic = require_visits("real", real), require_visits("synthetic", synthetic)
    require_alike("synthetic", synthetic, "real", real)
    require_whole("most_pairs", most_pairs, least=1)
    require_whole("most_codes", most_codes, least=1)
    require_whole("seed", seed, least=0)
    there = np.flatnonzero(real.any(axis=(0, 1)) | synthetic.any(axis=(0, 1)))
    rng = np.random.default_rng(seed)
    codes = _draw(list(there), most_codes, rng)
    pairs = _draw(list(combinations(there, 2)), most_pairs, rng)
    tables = [_list_rows(visits) for visits in (real, synthetic)]
    found = [
        ("TVComplement", False, _measure_each(_measure_marginal, tables, list(there))),
        ("ContingencySimilarity", False, _measure_each(_measure_pair, tables, pairs)),
        ("StatisticMSAS", False, _measure_each(_measure_share, tables, codes)),
        ("InterRowMSAS", real.shape[1] > 1, _measure_each(_measure_steps, tables, codes if real.shape[1] > 1 else [])),
        ("SequenceLengthSimilarity", False, [_measure_length(*tables)]),
    ]
    common = {"direction": "higher", "best": 1.0}
    counts = {"n_real": len(real), "n_synthetic": len(synthetic)}
    rows = [
        {"measure": name, "value": np.mean(values) if values else np.nan, "sees_time": sees, "n": len(values)}
        for name, sees, values in found
    ]
    return pd.DataFrame([row | common | counts for row in rows], columns=list(LIBRARY_COLUMNS))


def _draw(choices: list, most: int, rng: np.random.Generator) -> list:
    if len(choices) <= most:
        return choices
    return [choices[at] for at in np.sort(rng.choice(len(choices), most, replace=False))]


def _list_rows(visits: np.ndarray) -> pd.DataFrame:
    """Return one row a patient and visit: a column a code, and the patient's number under "patient"."""
    rows = pd.DataFrame(visits.reshape(-1, visits.shape[2]))
    return rows.assign(patient=np.repeat(np.arange(len(visits)), visits.shape[1]))


def _measure_each(measure: Callable, tables: list[pd.DataFrame], choices: list) -> list[float]:
    """Return a metric of every choice of codes; the first import of sdmetrics warns of what is not asked of it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="sdmetrics")
        return [float(measure(*tables, choice)) for choice in choices]


def _measure_marginal(real: pd.DataFrame, synthetic: pd.DataFrame, code: int) -> float:
    from sdmetrics.single_column import TVComplement

    return TVComplement.compute(real[code], synthetic[code])


def _measure_pair(real: pd.DataFrame, synthetic: pd.DataFrame, pair: tuple[int, int]) -> float:
    from sdmetrics.column_pairs import ContingencySimilarity

    return ContingencySimilarity.compute(real[list(pair)], synthetic[list(pair)])


def _measure_share(real: pd.DataFrame, synthetic: pd.DataFrame, code: int) -> float:
    from sdmetrics.column_pairs.statistical.statistic_msas import StatisticMSAS

    return StatisticMSAS.compute(*((table["patient"], table[code]) for table in (real, synthetic)), statistic="mean")


def _measure_steps(real: pd.DataFrame, synthetic: pd.DataFrame, code: int) -> float:
    from sdmetrics.column_pairs.statistical.inter_row_msas import InterRowMSAS

    return InterRowMSAS.compute(*((table["patient"], table[code]) for table in (real, synthetic)))


def _measure_length(real: pd.DataFrame, synthetic: pd.DataFrame) -> float:
    from sdmetrics.single_column.statistical.sequence_length_similarity import SequenceLengthSimilarity

    return float(SequenceLengthSimilarity.compute(real["patient"], synthetic["patient"]))
