"""How often the published rule accuses a step, against enumeration, simulation and numbers by hand."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest

from dqc_lib.evaluation import StepEffect, compute_alarm, find_fewest, repeat_alarm, tabulate_alarms
from dqc_lib.quality import Counts, PublishedRule


def accuses(rule, controls, patients, n):
    """Whether the rule accuses a step that changed the errors so, given as many errors before as were righted."""
    before = [min(len(changes), sum(change < 0 for change in changes)) for changes in (controls, patients)]
    after = [start + sum(changes) for start, changes in zip(before, (controls, patients), strict=True)]
    counts = [Counts(fp, len(controls), fn, len(patients)) for fp, fn in (before, after)]
    return rule.judge(n=n, update_norm=None, before=counts[0], after=counts[1]).harmful


def enumerate_alarms(effect, *, tolerance, n_neg, n_pos, n=1):
    """The chance from all that can become of every single subject, judged by the published rule itself."""
    rule, total = PublishedRule(tolerance), 0.0
    for changes in itertools.product((-1, 0, 1), repeat=n_neg + n_pos):
        chance = 1.0
        for at, change in enumerate(changes):
            wrong, right = (pair[int(at >= n_neg)] for pair in (effect.wrong, effect.right))
            chance *= {1: wrong, -1: right, 0: 1 - wrong - right}[change]
        if chance and accuses(rule, changes[:n_neg], changes[n_neg:], n):
            total += chance
    return total


@pytest.mark.parametrize("tolerance", [0.0, 0.02, 0.3, 0.5, 1.0])
@pytest.mark.parametrize(("n_neg", "n_pos"), [(4, 3), (5, 0), (0, 4), (1, 1), (0, 0)])
@pytest.mark.parametrize(
    "effect", [StepEffect(0.1, 0.05), StepEffect((0.3, 0.0), (0.1, 0.6)), StepEffect(0.0, 0.4), StepEffect(1.0)]
)
def test_it_equals_the_enumeration_of_all_subjects_under_the_rule_itself(effect, tolerance, n_neg, n_pos):
    held = {"tolerance": tolerance, "n_neg": n_neg, "n_pos": n_pos}
    assert compute_alarm(effect, **held) == pytest.approx(enumerate_alarms(effect, **held), abs=1e-12)


def test_a_batch_is_allowed_more_than_an_image():
    effect, held = StepEffect(0.2, 0.1), {"tolerance": 0.1, "n_neg": 4, "n_pos": 3}
    assert compute_alarm(effect, n=3, **held) == pytest.approx(enumerate_alarms(effect, n=3, **held), abs=1e-12)
    assert compute_alarm(effect, n=3, **held) < compute_alarm(effect, n=1, **held)


def test_it_equals_a_simulation_of_many_subjects():
    effect = StepEffect((0.02, 0.01), (0.015, 0.03))
    controls, patients, draws = 160, 90, 40_000
    rng = np.random.default_rng(1)
    rises = []
    for size, wrong, right in ((controls, 0.02, 0.015), (patients, 0.01, 0.03)):
        draw = rng.multinomial(size, [wrong, right, 1 - wrong - right], size=draws)
        rises.append(draw[:, 0] - draw[:, 1])
    share = np.mean((rises[0] > 0.01 * controls) | (rises[1] > 0.01 * patients))
    found = compute_alarm(effect, tolerance=0.01, n_neg=controls, n_pos=patients)
    assert abs(found - share) < 5 * math.sqrt(found * (1 - found) / draws)


def test_one_of_ten_more_is_accused_by_hand():
    held = {"tolerance": 0.02, "n_neg": 10, "n_pos": 10}
    assert compute_alarm(StepEffect((0.1, 0.0)), **held) == pytest.approx(1 - 0.9**10)
    assert compute_alarm(StepEffect(0.1), **held) == pytest.approx(1 - 0.9**20)


def test_a_rise_by_exactly_the_tolerance_is_no_alarm():
    always = StepEffect(1.0)
    assert compute_alarm(always, tolerance=1.0, n_neg=7, n_pos=3) == 0.0
    one = {"n_neg": 50, "n_pos": 0, "tolerance": 0.02}
    p = 1 / 50
    assert compute_alarm(StepEffect(p), **one) == pytest.approx(1 - (1 - p) ** 50 - 50 * p * (1 - p) ** 49)


def test_certain_and_impossible_changes():
    held = {"tolerance": 0.0, "n_neg": 6, "n_pos": 6}
    assert compute_alarm(StepEffect(0.0), **held) == 0.0
    assert compute_alarm(StepEffect(0.0, 1.0), **held) == 0.0
    assert compute_alarm(StepEffect(1.0), **held) == 1.0
    assert compute_alarm(StepEffect((0.0, 1.0)), **held) == 1.0
    assert compute_alarm(StepEffect((1.0, 0.0)), tolerance=0.0, n_neg=0, n_pos=6) == 0.0


def test_it_stays_a_probability_with_thousands_of_subjects():
    found = [compute_alarm(StepEffect(0.3, 0.3), tolerance=0.0, n_neg=size, n_pos=size) for size in (1, 500, 3000)]
    assert all(0 <= value <= 1 for value in found)
    assert found[-1] == pytest.approx(0.75, abs=0.02), "each rate rises about every other time"


def test_alarms_repeat_as_a_binomial():
    assert repeat_alarm(0.1, attempts=3) == pytest.approx(1 - 0.9**3)
    assert repeat_alarm(0.1, attempts=3, needed=2) == pytest.approx(3 * 0.01 * 0.9 + 0.001)
    assert repeat_alarm(0.5, attempts=2, needed=3) == 0.0
    assert repeat_alarm(0.5, attempts=0) == 0.0
    assert (repeat_alarm(0.0, attempts=9), repeat_alarm(1.0, attempts=9, needed=9)) == (0.0, 1.0)


def test_the_table_holds_every_tolerance_and_number():
    quiet, loud = StepEffect(0.01, 0.01), StepEffect(0.1, 0.02)
    table = tabulate_alarms([30, 10, 0, 5], tolerances=[0.05, 0.0], harmless=quiet, harmful=loud, n=2, patients=0.3)
    assert list(table.columns) == ["tolerance", "subjects", "n_neg", "n_pos", "false_alarm", "detection"]
    assert table["tolerance"].tolist() == [0.05] * 4 + [0.0] * 4
    assert table["subjects"].tolist() == [0, 5, 10, 30] * 2
    assert table["n_pos"].tolist() == [0, 2, 3, 9] * 2, "1.5 is rounded up"
    assert (table["n_neg"] + table["n_pos"] == table["subjects"]).all()
    row = table.iloc[6]
    held = {"tolerance": 0.0, "n_neg": 7, "n_pos": 3, "n": 2}
    assert row["false_alarm"] == compute_alarm(quiet, **held)
    assert row["detection"] == compute_alarm(loud, **held)
    assert table.loc[table["subjects"] == 0, ["false_alarm", "detection"]].eq(0).all(axis=None)


def test_a_table_of_one_image_and_of_patients_or_controls_alone():
    held = {"tolerances": [0.05], "harmless": StepEffect(0.01), "harmful": StepEffect(0.1, 0.02)}
    pd.testing.assert_frame_equal(tabulate_alarms([20], **held), tabulate_alarms([20], **held, n=1, patients=0.5))
    assert not tabulate_alarms([20], **held).equals(tabulate_alarms([20], **held, n=2))
    for patients, n_pos in ((0, 0), (1, 20)):
        table = tabulate_alarms([20], **held, patients=patients)
        assert table[["n_neg", "n_pos"]].to_numpy().tolist() == [[20 - n_pos, n_pos]]


def test_a_word_in_place_of_a_value_is_refused_by_the_name_of_its_argument():
    with pytest.raises(TypeError, match=r"^chance must be .*'three'"):
        repeat_alarm("three", attempts=3)
    with pytest.raises(TypeError, match=r"^patients must be .*'three'"):
        tabulate_alarms([20], tolerances=[0.1], harmless=StepEffect(0.0), harmful=StepEffect(0.1), patients="three")
    with pytest.raises(TypeError, match=r"^effect must be a StepEffect, such as StepEffect\(wrong=0.01\), got 0.1"):
        compute_alarm(0.1, tolerance=0.02, n_neg=4, n_pos=4)


def test_promises_are_kept_by_what_equals_them_and_tolerances_stay_in_their_order():
    table = pd.DataFrame(
        {"tolerance": [0.2, 0.1], "subjects": [10, 20], "false_alarm": [0.05, 0.05], "detection": [0.8, 0.8]}
    )
    found = find_fewest(table, false_alarm=0.05, detection=0.8)
    assert found.to_dict("list") == {"tolerance": [0.2, 0.1], "subjects": [10, 20]}
    assert found["subjects"].dtype == "Int64"


def test_the_fewest_subjects_hold_for_all_larger_numbers_too():
    table = pd.DataFrame(
        {
            "tolerance": [0.1] * 4 + [0.2] * 4 + [0.3] * 4,
            "subjects": [40, 10, 30, 20] * 3,
            "false_alarm": [0.01, 0.01, 0.01, 0.2] + [0.05] * 4 + [0.01, 0.0, 0.0, 0.0],
            "detection": [0.9, 0.9, 0.9, 0.9] + [0.9, 0.9, 0.85, 0.85] + [0.7, 0.99, 0.99, 0.99],
        }
    )
    found = find_fewest(table, false_alarm=0.05, detection=0.8)
    assert found["tolerance"].tolist() == [0.1, 0.2, 0.3]
    assert found["subjects"].tolist()[:2] == [30, 10]
    assert found["subjects"].isna().tolist() == [False, False, True]
    assert find_fewest(table.iloc[:0], false_alarm=0.05, detection=0.8).empty


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tolerance": -0.1}, "tolerance must be a finite number of at least 0; came -0.1"),
        ({"tolerance": math.inf}, "tolerance must be a finite number of at least 0; came inf"),
        ({"tolerance": math.nan}, "tolerance must be a finite number of at least 0; came nan"),
        ({"tolerance": "0.1"}, "tolerance must be a finite number of at least 0; came '0.1'"),
        ({"n_neg": -1}, "n_neg must be a whole number of at least 0; came -1"),
        ({"n_pos": 2.5}, "n_pos must be a whole number of at least 0; came 2.5"),
        ({"n": 0}, "n must be a whole number of at least 1; came 0"),
    ],
)
def test_a_number_out_of_range_gives_one_clear_error(change, said):
    with pytest.raises(ValueError, match=f"^{said}$"):
        compute_alarm(StepEffect(0.1), **{"tolerance": 0.02, "n_neg": 5, "n_pos": 5} | change)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"wrong": 1.2}, "wrong must be a probability, or one for controls and one for patients; came 1.2"),
        ({"wrong": 0.1, "right": math.nan}, "right must be a probability.*came nan"),
        ({"wrong": (0.1, 0.2, 0.3)}, "wrong must be a probability"),
        ({"wrong": "ab"}, "wrong must be a probability.*came 'ab'"),
        ({"wrong": None}, "wrong must be a probability.*came None"),
        ({"wrong": (0.1, 0.7), "right": 0.4}, "at most 1 together; came 0.7 and 0.4 for patients"),
        ({"wrong": (0.7, 0.1), "right": 0.4}, "at most 1 together; came 0.7 and 0.4 for controls"),
    ],
)
def test_an_effect_that_is_none_gives_one_clear_error(arguments, said):
    with pytest.raises(ValueError, match=said):
        StepEffect(**arguments)


def test_other_wrong_input_gives_one_clear_error():
    with pytest.raises(ValueError, match="chance must lie from 0 to 1; came 1.5"):
        repeat_alarm(1.5, attempts=2)
    with pytest.raises(ValueError, match="needed must be a whole number of at least 1; came 0"):
        repeat_alarm(0.5, attempts=2, needed=0)
    with pytest.raises(ValueError, match="attempts must be a whole number of at least 0; came -2"):
        repeat_alarm(0.5, attempts=-2)
    effects = {"harmless": StepEffect(0.1), "harmful": StepEffect(0.2)}
    with pytest.raises(ValueError, match="patients must be a share from 0 to 1; came 1.1"):
        tabulate_alarms([5], tolerances=[0.1], patients=1.1, **effects)
    with pytest.raises(ValueError, match="subjects must be a whole number of at least 0; came -5"):
        tabulate_alarms([-5], tolerances=[0.1], **effects)
