"""Quality control: from counts to decisions, checked by hand, and nobody is forgotten or tried twice."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dqc_lib.ledger import COLUMNS, Ledger
from dqc_lib.quality import (
    CalibratedRule,
    Counts,
    Docket,
    PublishedRule,
    Verdict,
    WatchingRule,
    add_counts,
    replay,
)

# counts


def test_counts_of_centers_add_up():
    total = add_counts({"A": Counts(1, 4, 0, 2, 0.5), "B": Counts(2, 3, 5, 5, 1.5), "C": Counts(0, 0, 0, 1, 0.25)})
    assert total == Counts(3, 7, 5, 8, 2.25)
    assert total.loss == 2.25 / 15


def test_one_center_without_losses_leaves_the_sum_without():
    total = add_counts({"A": Counts(1, 4, 0, 2, 0.5), "B": Counts(2, 3, 5, 5)})
    assert total == Counts(3, 7, 5, 7)
    assert total.loss is None


def test_rates_have_standard_and_published_denominators():
    counts = Counts(fp=3, n_neg=12, fn=2, n_pos=8)
    assert counts.rates() == (3 / 12, 2 / 8)
    assert counts.rates("published") == (3 / 8, 2 / 12), "the published code has the two the other way round"


def test_a_rate_without_a_denominator_is_not_a_number():
    assert np.isnan(Counts(0, 0, 1, 2).rates()).tolist() == [True, False]
    assert np.isnan(Counts(1, 2, 0, 0).rates()).tolist() == [False, True]
    assert np.isnan(Counts(1, 2, 0, 0).rates("published")).tolist() == [True, False]
    assert np.isnan(add_counts({}).rates()).all()


@pytest.mark.parametrize("numbers", [(3, 2, 0, 1), (-1, 2, 0, 1), (0, 1, 2, 1), (0, 1, -1, 1), (0, -1, 0, 0)], ids=str)
def test_counts_beyond_their_denominator_are_refused(numbers):
    with pytest.raises(ValueError, match="expected 0 <= fp <= n_neg and 0 <= fn <= n_pos, got Counts"):
        Counts(*numbers)


# rules


def judge(rule, before, after, *, n=1, update_norm=None):
    """Return whether a rule calls it harmful that counts (fp of 8, fn of 4) went from one pair to the other."""
    before, after = (Counts(fp, 8, fn, 4) for fp, fn in (before, after))
    return rule.judge(n=n, update_norm=update_norm, before=before, after=after).harmful


def test_the_watching_rule_accepts_whatever_happens():
    assert not judge(WatchingRule(), (0, 0), (8, 4))
    assert WatchingRule().suspects(n=1, update_norm=None)
    assert not WatchingRule(verifies=False).suspects(n=1, update_norm=math.inf)


def test_a_rise_equal_to_the_tolerance_passes_and_the_next_subject_fails():
    rule = PublishedRule(tolerance=0.125)  # one false positive of eight
    assert not judge(rule, (2, 1), (3, 1))
    assert judge(rule, (2, 1), (4, 1))


def test_either_rate_alone_suffices():
    rule = PublishedRule(tolerance=0.125)
    assert judge(rule, (2, 1), (2, 2)), "one of four is 0.25"
    assert judge(rule, (8, 1), (0, 2)), "what the other rate gains does not count"
    assert not judge(rule, (8, 4), (0, 0))


def test_the_tolerance_scales_with_the_number_of_images():
    rule = PublishedRule(tolerance=0.0625)
    assert [judge(rule, (0, 0), (2, 0), n=n) for n in (1, 2, 3, 4, 5)] == [True, True, True, False, False]
    verdict = rule.judge(n=5, update_norm=None, before=Counts(0, 8, 0, 4), after=Counts(0, 8, 0, 4))
    assert verdict == Verdict(False, tolerance=0.3125)


def test_a_tolerance_of_zero_forbids_any_rise_and_one_of_one_forbids_none():
    strict, loose = PublishedRule(tolerance=0.0), PublishedRule(tolerance=1.0)
    assert not judge(strict, (3, 2), (3, 2))
    assert not judge(strict, (3, 2), (2, 2))
    assert judge(strict, (3, 2), (4, 2))
    assert not judge(loose, (0, 0), (8, 4))


def test_the_published_denominators_change_the_decision():
    before, after = (1, 1), (2, 1)  # one false positive more: 1 of 8 controls, but 1 of 4 diseased
    assert not judge(PublishedRule(tolerance=0.125), before, after)
    assert judge(PublishedRule(tolerance=0.125, denominators="published"), before, after)


def test_with_published_denominators_a_rate_may_pass_one():
    rule = PublishedRule(tolerance=1.0, denominators="published")
    assert not judge(rule, (0, 0), (4, 0))
    assert judge(rule, (0, 0), (5, 0)), "5 of 4 is a rise of 1.25"


@pytest.mark.parametrize("denominators", ["standard", "published"])
def test_an_undefined_rate_accuses_nobody(denominators):
    rule = PublishedRule(tolerance=0.0, denominators=denominators)
    nobody, no_controls = Counts(0, 0, 0, 0), Counts(0, 0, 0, 5)
    assert not rule.judge(n=1, update_norm=None, before=nobody, after=nobody).harmful
    assert not rule.judge(n=1, update_norm=None, before=no_controls, after=no_controls).harmful


def test_the_defined_rate_still_accuses_where_the_other_is_undefined():
    rule = PublishedRule(tolerance=0.0)
    assert rule.judge(n=1, update_norm=None, before=Counts(0, 0, 0, 5), after=Counts(0, 0, 1, 5)).harmful


def test_the_published_rule_verifies_everything_and_needs_no_losses():
    rule = PublishedRule()
    assert rule.suspects(n=1, update_norm=None)
    assert rule.suspects(n=5, update_norm=0.0)
    assert (rule.tolerance, rule.denominators, rule.asks) == (0.02, "standard", frozenset())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tolerance": -0.01}, "tolerance must be a finite number >= 0, got -0.01"),
        ({"tolerance": math.nan}, "tolerance must be a finite number >= 0, got nan"),
        ({"tolerance": math.inf}, "tolerance must be a finite number >= 0, got inf"),
        ({"denominators": "swapped"}, r"denominators must be one of \('standard', 'published'\), got 'swapped'"),
    ],
)
def test_a_published_rule_that_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PublishedRule(**options)


def make_watch(**logs):
    """Return watched rows from log update norms by attempt size, such as n3=[0, 1]."""
    rows = [(int(size[1:]), math.exp(log)) for size, values in logs.items() for log in values]
    return pd.DataFrame(rows, columns=["n", "update_norm"])


def calibrate(watched, *, reach=1.5, at_least=8):
    """Return the logs of the limits by size."""
    limits = CalibratedRule.from_watch(watched, reach=reach, at_least=at_least).limits
    return {size: math.log(limit) for size, limit in limits.items()}


def test_the_limit_of_a_size_follows_from_median_and_ninetieth_percentile():
    # logs 0 to 10: median 5, 90th percentile 9, so the limit is exp(9 + 1.5 x 4) = exp(15)
    assert calibrate(make_watch(n1=range(11))) == pytest.approx({1: 15.0})
    assert calibrate(make_watch(n1=range(11)), reach=0.0) == pytest.approx({1: 9.0})


def test_sizes_watched_often_have_a_limit_of_their_own():
    watched = make_watch(n1=[2 * x for x in range(11)], n5=range(11))
    assert calibrate(watched) == pytest.approx({1: 30.0, 5: 15.0})


def test_no_limit_exceeds_that_of_a_smaller_size():
    watched = make_watch(n1=range(11), n2=[2 * x for x in range(11)], n5=[3 * x for x in range(11)])
    assert calibrate(watched) == pytest.approx({1: 15.0, 2: 15.0, 5: 15.0})


def test_rare_sizes_are_taken_together_with_the_smaller_ones():
    watched = make_watch(n1=[20.0 + x for x in range(9)], n2=[24.0], n3=[24.0], n4=range(11), n5=[5.0])
    # median and 90th percentile: 24, 27.2; with one more 24: 24, 27.1; with two: 24, 27;
    # then, for the larger sizes, 0 to 10: 5, 9; with one more 5: 5, 8.9
    assert calibrate(watched) == pytest.approx({1: 32.0, 2: 31.75, 3: 31.5, 4: 15.0, 5: 14.75})


def test_how_often_is_often_can_be_chosen():
    watched = make_watch(n1=range(11), n2=[3.0, 3.0, 3.0])
    assert calibrate(watched, at_least=3)[2] == pytest.approx(3.0)
    assert calibrate(watched, at_least=4)[2] > 10


def test_five_percent_of_harmful_attempts_hardly_move_the_limit():
    good = np.random.default_rng(0).normal(5.0, 0.5, 190)
    harmful = np.full(10, 14.0)
    clean = CalibratedRule.from_watch(make_watch(n1=good), reach=1.5)
    mixed = CalibratedRule.from_watch(make_watch(n1=np.concatenate([good, harmful])), reach=1.5)
    assert clean.limits[1] < mixed.limits[1] < 2 * clean.limits[1]
    assert mixed.suspects(n=1, update_norm=math.exp(14.0))
    assert sum(mixed.suspects(n=1, update_norm=math.exp(log)) for log in good) <= 2, "one in a hundred good ones"


def test_norms_that_are_zero_or_not_finite_are_left_out():
    watched = pd.concat([make_watch(n1=range(11)), pd.DataFrame({"n": 1, "update_norm": [0.0, math.inf, math.nan]})])
    assert calibrate(watched.reset_index(drop=True)) == pytest.approx({1: 15.0})


@pytest.mark.parametrize("norms", [[], [math.nan], [0.0, math.inf]], ids=str)
def test_a_cycle_that_measured_nothing_cannot_calibrate(norms):
    watched = pd.DataFrame({"n": 1, "update_norm": pd.Series(norms, dtype=float)})
    with pytest.raises(ValueError, match="a calibrated rule needs a watched cycle"):
        CalibratedRule.from_watch(watched)


def test_a_size_without_a_limit_uses_the_nearest_smaller_one():
    rule = CalibratedRule({2: 10.0, 4: 20.0})
    assert [rule.limit(n) for n in (1, 2, 3, 4, 5, 100)] == [10.0, 10.0, 10.0, 20.0, 20.0, 20.0]


def test_an_update_at_its_limit_is_no_suspect_and_one_that_diverged_is():
    rule = CalibratedRule({1: 10.0})
    norms = [0.0, 10.0, 10.000001, math.inf, math.nan]
    assert [rule.suspects(n=1, update_norm=norm) for norm in norms] == [False, False, True, True, True]


def test_a_suspect_is_acquitted_only_if_enough_subjects_are_righted_and_neither_error_rises():
    rule = CalibratedRule({1: 10.0}, acquittal=2)
    large = {"update_norm": 11.0}
    assert judge(rule, (4, 3), (4, 3), **large), "no harm done is no acquittal"
    assert judge(rule, (4, 3), (3, 3), **large), "one subject more is chance"
    assert not judge(rule, (4, 3), (2, 3), **large)
    assert not judge(rule, (4, 3), (4, 1), **large)
    assert not judge(rule, (4, 3), (3, 2), **large)
    assert judge(rule, (2, 4), (3, 0), **large), "what one rate gains does not make up for the other"
    assert judge(rule, (4, 1), (0, 2), **large)
    assert judge(rule, (2, 1), (3, 2), **large)
    assert not judge(rule, (2, 1), (8, 4), update_norm=10.0), "who is no suspect needs no acquittal"


def test_five_righted_subjects_acquit_unless_told_otherwise():
    rule = CalibratedRule({1: 10.0})
    assert judge(rule, (5, 1), (1, 1), update_norm=11.0)
    assert not judge(rule, (5, 1), (0, 1), update_norm=11.0)
    watched = make_watch(n1=range(11))
    assert CalibratedRule.from_watch(watched).acquittal == 5
    assert CalibratedRule.from_watch(watched, acquittal=3).acquittal == 3
    with pytest.raises(ValueError, match="acquittal must be at least 1 verification subject, got 0"):
        CalibratedRule({1: 10.0}, acquittal=0)


def test_acquittal_counts_the_defined_rate_alone_where_the_other_is_undefined():
    rule = CalibratedRule({1: 10.0}, acquittal=1)
    before, better = Counts(0, 0, 3, 5), Counts(0, 0, 2, 5)
    assert not rule.judge(n=1, update_norm=11.0, before=before, after=better).harmful
    assert rule.judge(n=1, update_norm=11.0, before=before, after=before).harmful
    nobody = Counts(0, 0, 0, 0)
    assert rule.judge(n=1, update_norm=11.0, before=nobody, after=nobody).harmful, "nobody is there to acquit"


def test_the_verdict_of_the_calibrated_rule_names_its_limits():
    counts = Counts(1, 8, 1, 4)
    verdict = CalibratedRule({1: 10.0, 3: 30.0}).judge(n=5, update_norm=31.0, before=counts, after=counts)
    assert verdict == Verdict(True, tolerance=0.0, norm_limit=30.0)


def test_only_the_calibrated_rule_wants_steps_without_the_momentum_of_others():
    rules = WatchingRule(), PublishedRule(), CalibratedRule({1: 10.0})
    assert [rule.isolates for rule in rules] == [False, False, True]


def test_the_calibrated_rule_cannot_do_without_the_update_norm():
    with pytest.raises(ValueError, match=r"needs the update norm: call watch\(\) on the engine first"):
        CalibratedRule({1: 10.0}).suspects(n=1, update_norm=None)


@pytest.mark.parametrize("limits", [{}, {0: 1.0}, {1: 0.0}, {1: -2.0}, {1: math.nan}], ids=str)
def test_limits_that_cannot_be_are_refused(limits):
    with pytest.raises(ValueError, match="limits must give a positive update norm for attempt sizes >= 1"):
        CalibratedRule(limits)


# the docket


def test_who_is_deferred_is_left_out_for_two_cycles_and_called_at_the_end_of_the_second():
    docket = Docket(revisit_after=2)
    docket.defer("x", cycle=4)
    assert docket.admit(["w", "x", "y"]) == ("w", "y")
    assert docket.call(4) == ()
    assert docket.call(5) == ()
    assert docket.admit(["x"]) == ()
    assert docket.call(6) == ("x",)
    assert docket.admit(["x"]) == (), "until the revisit is settled"


def test_who_passes_the_revisit_is_admitted_again():
    docket = Docket(revisit_after=1)
    docket.defer("x", cycle=0)
    docket.close("x", harmful=False)
    assert docket.admit(["x"]) == ("x",)
    assert docket.call() == ()
    docket.defer("x", cycle=5)
    assert docket.call(6) == ("x",), "and may be deferred once more"


def test_who_fails_the_revisit_is_out_for_good():
    docket = Docket(revisit_after=1)
    docket.defer("x", cycle=0)
    docket.close("x", harmful=True)
    assert (docket.eliminated, docket.due, docket.call(), docket.admit(["x", "y"])) == ({"x"}, {}, (), ("y",))
    with pytest.raises(ValueError, match="subject 'x' has been eliminated and cannot be tried again"):
        docket.defer("x", cycle=2)
    with pytest.raises(ValueError, match="subject 'x' has been eliminated and cannot be tried again"):
        docket.close("x", harmful=False)


def test_calls_come_in_the_order_of_deferral():
    docket = Docket(revisit_after=2)
    for subject, cycle in (("b", 0), ("a", 0), ("c", 1)):
        docket.defer(subject, cycle=cycle)
    assert docket.call(2) == ("b", "a")
    assert docket.call(3) == ("b", "a", "c"), "who was due and not settled is still due"
    assert docket.call() == ("b", "a", "c")


def test_admission_keeps_the_order_of_the_batch():
    assert Docket().admit(["c", "a", "b"]) == ("c", "a", "b")


def test_a_revisit_of_somebody_who_does_not_wait_is_refused():
    with pytest.raises(KeyError, match="subject 'x' is not waiting for a revisit"):
        Docket().close("x", harmful=True)


@pytest.mark.parametrize("revisit_after", [0, -1])
def test_a_revisit_before_the_next_cycle_is_refused(revisit_after):
    with pytest.raises(ValueError, match=f"revisit_after must be at least 1 cycle, got {revisit_after}"):
        Docket(revisit_after)


SUBJECTS = ("a", "b", "c", "d")
FLAGS = st.lists(
    st.tuples(st.sets(st.sampled_from(SUBJECTS)), st.sets(st.sampled_from(SUBJECTS))), min_size=1, max_size=12
)


@given(cycles=FLAGS, revisit_after=st.integers(1, 4))
def test_nobody_is_both_eliminated_and_admitted_and_who_is_deferred_is_called_exactly_once(cycles, revisit_after):
    docket, waiting, out = Docket(revisit_after), {}, set()
    for cycle, (flagged, harmful) in enumerate(cycles):
        admitted = docket.admit(SUBJECTS)
        assert set(admitted) == set(SUBJECTS) - set(waiting) - out
        assert not set(admitted) & docket.eliminated
        for subject in admitted:
            if subject in flagged:
                docket.defer(subject, cycle=cycle)
                waiting[subject] = cycle
        called = docket.call(cycle)
        assert set(called) == {subject for subject, since in waiting.items() if since + revisit_after == cycle}
        assert len(called) == len(set(called))
        for subject in called:
            docket.close(subject, harmful=subject in harmful)
            del waiting[subject]
            out |= {subject} & harmful
        assert docket.eliminated == out
    assert set(docket.call()) == set(waiting), "who has not been called yet still waits"


# replay


def make_ledger(*rows):
    """Return a ledger of attempts given as (stage, n, reference fp of 8, fp of 8, update norm, decision)."""
    ledger = Ledger()
    for stage, n, reference_fp, fp, update_norm, decision in rows:
        row = dict.fromkeys(COLUMNS) | {"cycle": 0, "stage": stage, "level": "batch", "center": "A", "seconds": 0.1}
        row |= {"subjects": [f"s{i}" for i in range(n)], "n": n, "update_norm": update_norm, "decision": decision}
        for prefix, count in (("reference_", reference_fp), ("", fp)):
            if count is not None:
                row |= {f"{prefix}fp": count, f"{prefix}n_neg": 8, f"{prefix}fn": 1, f"{prefix}n_pos": 4}
        ledger.append(**row)
    return ledger.to_frame()


RECORDED = (  # as the published rule decides at a tolerance of 1/16
    ("pretraining", 1, None, None, 1.0, "accepted"),
    ("watch", 1, None, None, 1.0, "accepted"),
    ("control", 2, 0, 1, 1.0, "accepted"),
    ("control", 2, 1, 3, 9.0, "split"),
    ("control", 1, 1, 1, 9.0, "accepted"),
    ("control", 1, 1, 2, 1.0, "deferred"),
    ("closing", 1, 1, 0, 9.0, "accepted"),
    ("closing", 1, 0, 8, 1.0, "eliminated"),
)


def test_replaying_with_the_rule_that_decided_gives_the_recorded_decisions():
    replayed = replay(make_ledger(*RECORDED), PublishedRule(tolerance=1 / 16))
    assert replayed["decision"].tolist() == ["accepted", "split", "accepted", "deferred", "accepted", "eliminated"]
    assert replayed["harmful"].tolist() == [False, True, False, True, False, True]
    assert replayed["replayed_harmful"].tolist() == replayed["harmful"].tolist()


@pytest.mark.parametrize(
    ("rule", "harmful"),
    [
        (PublishedRule(tolerance=1 / 8), [False, False, False, False, False, True]),  # 2/8 <= 2 x 1/8
        (PublishedRule(tolerance=0.0), [True, True, False, True, False, True]),
        (WatchingRule(), [False] * 6),
        # large updates are the second, third and fifth: one rises, one stays, one falls
        (CalibratedRule({1: 5.0}, acquittal=1), [False, True, True, False, False, False]),
    ],
    ids=repr,
)
def test_replaying_with_another_rule_says_what_it_would_have_said(rule, harmful):
    replayed = replay(make_ledger(*RECORDED), rule)
    assert replayed["replayed_harmful"].tolist() == harmful
    assert replayed["harmful"].tolist() == [False, True, False, True, False, True]


def test_what_was_not_recorded_cannot_be_replayed():
    ledger = make_ledger(
        ("control", 1, None, None, 1.0, "accepted"),
        ("control", 1, None, 3, 9.0, "accepted"),
        ("control", 1, None, None, 9.0, "accepted"),
    )
    published = replay(ledger, PublishedRule())["replayed_harmful"]
    assert published.dtype == "boolean"
    assert published.isna().all()
    calibrated = replay(ledger, CalibratedRule({1: 5.0}, acquittal=1))["replayed_harmful"]
    assert calibrated.isna().tolist() == [False, True, True], "small updates would have passed without verification"
    assert not calibrated.iloc[0]


def test_replaying_the_calibrated_rule_needs_the_update_norms():
    with pytest.raises(ValueError, match="needs the update norm"):
        replay(make_ledger(("control", 1, 0, 1, None, "accepted")), CalibratedRule({1: 5.0}))


def test_an_empty_ledger_replays_to_nothing():
    replayed = replay(make_ledger(), PublishedRule())
    assert replayed.empty
    assert list(replayed.columns) == [
        "cycle", "level", "center", "subjects", "n", "decision", "harmful", "replayed_harmful",
    ]  # fmt: skip
