"""Fidelity of records: every measure by hand or by brute force, and which of them see that time was shuffled."""

import math
import warnings
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from sdmetrics.single_column import TVComplement

from dqc_lib.simulation import HospitalRecipe, simulate_hospitals
from dqc_lib.synthesis import (
    estimate_fidelity_intervals,
    measure_fidelity,
    measure_with_sdmetrics,
    shuffle_visits,
    tabulate_autocorrelation,
    tabulate_codes,
    tabulate_with_control,
)
from dqc_lib.synthesis.fidelity import FIDELITY_COLUMNS, MEASURES

REAL = simulate_hospitals(HospitalRecipe(patients=(150,))).visits["hospital-1"]
OTHER = simulate_hospitals(HospitalRecipe(patients=(120,), sample=1)).visits["hospital-1"]
SHUFFLED = shuffle_visits(REAL, seed=1)


def get_values(table):
    return table.set_index("measure")["value"]


def repeat(*patterns):
    """Return twenty patients of every pattern, written as visits of codes: "10 11" is two visits of two codes."""
    rows = [[[int(letter) for letter in visit] for visit in pattern.split()] for pattern in patterns]
    return np.repeat(np.array(rows, dtype=np.float32), 20, axis=0)


# the control


def test_a_shuffle_keeps_what_was_recorded_at_a_visit_and_every_patient():
    for real, shuffled in zip(REAL[:20], SHUFFLED[:20], strict=True):
        assert sorted(map(tuple, real)) == sorted(map(tuple, shuffled))
    assert (REAL != SHUFFLED).any()


def test_a_shuffle_draws_every_order_equally_often():
    visits = np.tile(np.eye(3, dtype=np.float32), (6000, 1, 1))
    orders = shuffle_visits(visits, seed=0).argmax(axis=2)
    counts = [np.all(orders == order, axis=1).sum() for order in permutations(range(3))]
    assert sum(counts) == 6000 and max(abs(count - 1000) for count in counts) < 150


def test_shuffles_of_one_seed_are_the_same():
    np.testing.assert_array_equal(SHUFFLED, shuffle_visits(REAL, seed=1))
    assert (SHUFFLED != shuffle_visits(REAL, seed=2)).any()


# measures by hand


def test_records_against_themselves_are_perfect():
    table = measure_fidelity(REAL, REAL)
    assert list(table.columns) == list(FIDELITY_COLUMNS) and table["measure"].tolist() == list(MEASURES)
    np.testing.assert_allclose(table["value"], table["best"], atol=1e-12)
    assert table["direction"].tolist() == ["higher" if best else "lower" for best in table["best"]]


def test_prevalence_by_hand():
    values = get_values(measure_fidelity(repeat("10 10 00 00"), repeat("10 00 00 00")))
    assert values["prevalence_gap"] == pytest.approx(0.25 / 2)  # 2/4 against 1/4, and 0 against 0
    assert values["prevalence_r2"] == pytest.approx(1 - 0.25**2 / (2 * 0.25**2))


def test_prevalences_that_are_all_the_same_explain_nothing():
    assert math.isnan(get_values(measure_fidelity(repeat("11 00"), repeat("10 00")))["prevalence_r2"])


def test_persistence_by_hand():
    # real: 3 records that a visit follows, 2 stay; synthetic: 2, none stays
    table = measure_fidelity(repeat("1 1 1 0"), repeat("1 0 1 0")).set_index("measure")
    assert table.at["persistence_gap", "value"] == pytest.approx(2 / 3)
    assert table.at["persistence_gap", "n"] == 1


def test_onset_by_hand():
    # real: the second code begins at one of two visits with the first and without it; synthetic: at none of three
    values = get_values(measure_fidelity(repeat("10 10 01"), repeat("10 10 10", "01 00 00")))
    real, synthetic = {(0, 1): 1 / 2, (1, 0): np.nan}, {(0, 1): 0.0, (1, 0): 0.0}
    expected = np.nanmean([abs(real[pair] - synthetic[pair]) for pair in real])
    assert values["onset_gap"] == pytest.approx(expected)


def test_order_by_hand():
    # real: all 40 patients have the first code first; synthetic: half of them, and the others the second
    values = get_values(measure_fidelity(repeat("10 01", "10 01"), repeat("10 01", "01 10")))
    assert values["order_gap"] == pytest.approx(1.0)


def test_order_of_fewer_than_thirty_patients_is_not_defined():
    table = measure_fidelity(repeat("10 01"), repeat("01 10")).set_index("measure")
    assert math.isnan(table.at["order_gap", "value"]) and table.at["order_gap", "n"] == 0


def test_trend_by_hand():
    values = get_values(measure_fidelity(repeat("1 1 0 0"), repeat("0 0 1 1")))
    assert values["trend_gap"] == pytest.approx(1.0)  # from 1 to 0 around 1/2, and from 0 to 1
    assert values["prevalence_gap"] == 0


def correlate(first, second):
    return np.corrcoef(first.ravel(), second.ravel())[0, 1]


def test_cooccurrence_and_autocorrelation_are_numpys_correlations():
    sides = [part[:, :, :5] for part in (REAL, OTHER)]
    values = get_values(measure_fidelity(*sides))
    pairs = list(permutations(range(5), 2))
    together = [[correlate(part[:, :, a], part[:, :, b]) for a, b in pairs] for part in sides]
    assert values["cooccurrence_gap"] == pytest.approx(np.abs(np.subtract(*together)).mean())
    again = [
        [correlate(part[:, lag:, c], part[:, :-lag, c]) for lag in range(1, 7) for c in range(5)] for part in sides
    ]
    assert values["autocorrelation_gap"] == pytest.approx(np.abs(np.subtract(*again)).mean())


# what sees time


def test_measures_see_a_shuffle_exactly_where_they_say():
    table = tabulate_with_control(REAL, SHUFFLED, seed=1)
    blind = table[~table["sees_time"]]
    np.testing.assert_allclose(blind["value"], blind["best"], atol=1e-12)
    np.testing.assert_array_equal(table["value"], table["control"])
    assert (table.loc[table["sees_time"], "value"] > 0.01).all()


def test_a_shuffled_copy_is_far_from_what_other_real_patients_show():
    table = tabulate_with_control(REAL, OTHER, seed=1, other_real=OTHER).set_index("measure")
    for name in ("persistence_gap", "autocorrelation_gap", "onset_gap", "order_gap", "trend_gap"):
        assert table.at[name, "control"] > table.at[name, "floor"], name
    assert table.at["persistence_gap", "control"] > 3 * table.at["persistence_gap", "floor"]
    assert table["floor"].tolist() == table["value"].tolist()
    assert tabulate_with_control(REAL, OTHER)["floor"].isna().all()


def test_autocorrelation_falls_with_the_lag_and_is_flat_where_time_is_shuffled():
    table = tabulate_autocorrelation({"real": REAL, "shuffled": SHUFFLED}, lags=4)
    real, shuffled = (table.loc[table["sample"] == name, "value"].to_numpy() for name in ("real", "shuffled"))
    assert (np.diff(real) < 0).all() and real[0] - real[-1] > 0.15
    assert np.ptp(shuffled) < 0.06
    assert table["lag"].tolist() == [1, 2, 3, 4] * 2 and (table["n_patients"] == 150).all()


# rare codes and few patients


def test_rare_codes_are_left_out_and_counted():
    real = np.zeros((40, 4, 3), dtype=np.float32)
    real[:20, :, 0] = real[20:30, :3, 1] = real[:9, 0, 2] = 1  # the third is recorded nine times
    table = measure_fidelity(real, real).set_index("measure")
    assert table["n"].to_dict() == {
        "prevalence_gap": 3,
        "prevalence_r2": 3,
        "cooccurrence_gap": 2,
        "persistence_gap": 2,
        "autocorrelation_gap": 5,  # three lags of the first; of the second two, as nobody has it three visits later
        "onset_gap": 4,
        "order_gap": 0,
        "trend_gap": 12,
    }


def test_records_without_a_code_have_prevalences_and_nothing_else():
    empty = np.zeros((30, 4, 3), dtype=np.float32)
    values = get_values(measure_fidelity(REAL[:, :4, :3], empty))
    defined = {"prevalence_gap", "prevalence_r2", "trend_gap"}
    assert {name for name, value in values.items() if not math.isnan(value)} == defined
    assert get_values(measure_fidelity(empty, empty))["prevalence_gap"] == 0


def test_one_patient_has_values_and_no_interval():
    one = REAL[:1]
    table = estimate_fidelity_intervals(one, one, n_resamples=3)
    assert table.at[0, "value"] == 0 and table[["low", "high"]].isna().all(axis=None)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((REAL.tolist(), REAL), TypeError, "real must be an array"),
        ((REAL, REAL[0]), ValueError, r"synthetic must have the shape \(patients, visits, codes\)"),
        ((REAL, REAL[:0]), ValueError, "none of them 0"),
        ((REAL, REAL + 1), ValueError, "synthetic must hold 0 and 1 alone, got 2.0"),
        ((REAL, np.where(REAL > 0, np.nan, 0)), ValueError, "synthetic must hold 0 and 1 alone, got nan"),
        ((REAL, REAL.astype(str)), TypeError, "synthetic must hold 0 and 1"),
        ((REAL, REAL[:, :3]), ValueError, r"visits and codes of real, \(12, 24\), got \(3, 24\)"),
        ((REAL[:, :1], REAL[:, :1]), ValueError, "at least 2 visits"),
    ],
)
def test_records_that_are_none_are_refused(arguments, error, words):
    with pytest.raises(error, match=words):
        measure_fidelity(*arguments)


def test_bool_and_float_records_are_the_same():
    pd.testing.assert_frame_equal(measure_fidelity(REAL, OTHER), measure_fidelity(REAL > 0, OTHER.astype(np.int8)))


# intervals


def test_intervals_hold_the_value_and_are_the_same_again():
    table = estimate_fidelity_intervals(REAL, OTHER, n_resamples=60, seed=1)
    assert ((table["low"] <= table["value"]) & (table["value"] <= table["high"])).all()
    assert (table.loc[table["best"] == 0, "low"] >= 0).all()
    pd.testing.assert_frame_equal(table, estimate_fidelity_intervals(REAL, OTHER, n_resamples=60, seed=1))
    pd.testing.assert_frame_equal(table.drop(columns=["low", "high"]), measure_fidelity(REAL, OTHER))


def test_an_interval_of_one_prevalence_is_as_wide_as_the_binomial_says():
    rng = np.random.default_rng(0)
    real, synthetic = ((rng.random((n, 2, 1)) < share) for n, share in ((400, 0.2), (300, 0.6)))
    real[:, 1], synthetic[:, 1] = real[:, 0], synthetic[:, 0]  # so that a patient counts once
    row = estimate_fidelity_intervals(real, synthetic, n_resamples=600).set_index("measure").loc["prevalence_gap"]
    error = math.sqrt(0.2 * 0.8 / 400 + 0.6 * 0.4 / 300)
    assert row["high"] - row["low"] == pytest.approx(2 * 1.96 * error, rel=0.2)


def test_identical_patients_have_an_interval_of_no_width():
    table = estimate_fidelity_intervals(repeat("10 11"), repeat("11 10"), n_resamples=9).set_index("measure")
    assert table.loc["prevalence_gap", ["low", "high"]].tolist() == [0.0, 0.0]


# codes


def test_codes_are_told_one_by_one():
    table = tabulate_codes(repeat("10 10 00"), repeat("10 00 00"), ["a", "b"])
    row = table.iloc[0]
    assert (row["code"], row["prevalence_real"], row["n_real"]) == ("a", pytest.approx(2 / 3), 40)
    assert (row["persistence_real"], row["persistence_synthetic"]) == (0.5, 0.0)
    assert math.isnan(table.at[1, "persistence_real"])
    assert tabulate_codes(REAL, OTHER)["code"].tolist()[:2] == ["code 1", "code 2"]
    with pytest.raises(ValueError, match="names of 24 codes, got 1"):
        tabulate_codes(REAL, OTHER, ["a"])


# sdmetrics


def test_most_metrics_of_the_library_cannot_see_a_shuffle():
    table = measure_with_sdmetrics(REAL, SHUFFLED, most_pairs=10, most_codes=4).set_index("measure")
    assert table.index[~table["sees_time"]].tolist() == [
        *("TVComplement", "ContingencySimilarity", "StatisticMSAS", "SequenceLengthSimilarity")
    ]
    np.testing.assert_allclose(table.loc[~table["sees_time"], "value"], 1.0)
    assert 0.8 < table.at["InterRowMSAS", "value"] < 0.995


def test_the_librarys_marginals_are_those_of_our_prevalences():
    table = measure_with_sdmetrics(REAL, OTHER, most_pairs=3, most_codes=2).set_index("measure")
    assert table.at["TVComplement", "value"] == pytest.approx(
        1 - get_values(measure_fidelity(REAL, OTHER))["prevalence_gap"], abs=1e-6
    )
    first = TVComplement.compute(pd.Series(REAL[:, :, 0].ravel()), pd.Series(OTHER[:, :, 0].ravel()))
    assert first == pytest.approx(1 - abs(REAL[:, :, 0].mean() - OTHER[:, :, 0].mean()), abs=1e-6)
    assert table["n"].tolist() == [24, 3, 2, 2, 1]


def test_two_codes_that_never_meet_differ_from_two_that_always_do_by_the_cells_that_moved():
    real, synthetic = repeat("11 00", "11 00"), repeat("10 01", "10 01")
    table = measure_with_sdmetrics(real, synthetic).set_index("measure")
    assert table.at["ContingencySimilarity", "value"] == pytest.approx(0.0)
    assert table.at["TVComplement", "value"] == pytest.approx(1.0)


def test_records_without_a_code_leave_the_library_nothing_to_measure():
    empty = np.zeros((4, 3, 2), dtype=np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = measure_with_sdmetrics(empty, empty).set_index("measure")
    assert table.drop(index="SequenceLengthSimilarity")["value"].isna().all()
