"""Quality control: from counts to decisions, checked by hand, and nobody is forgotten or tried twice."""

import math
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dqc_lib.ledger import COLUMNS, Ledger
from dqc_lib.quality import (
    CalibratedRule,
    Counts,
    Docket,
    DriftGuard,
    PublishedRule,
    Verdict,
    WatchingRule,
    accumulate_evidence,
    add_counts,
    rank_among,
    replay,
)
from dqc_lib.quality.rules import describe_rule

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


@pytest.mark.parametrize(
    ("counts", "call"),
    [
        (Counts(0, 4, 5, 5), "healthy"),
        (Counts(4, 4, 0, 5), "diseased"),
        (Counts(1, 4, 5, 5), ""),
        (Counts(0, 4, 4, 5), ""),
        (Counts(4, 4, 5, 5), ""),
        (Counts(0, 4, 0, 0), ""),
        (Counts(0, 0, 5, 5), ""),
    ],
)
def test_a_model_that_calls_everybody_the_same_is_told_by_its_counts(counts, call):
    assert counts.one_call == call


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


def make_watch(*logs, n=1):
    """Return watched rows of attempts with n images from log update norms."""
    return pd.DataFrame({"n": n, "update_norm": np.exp(np.array(logs, dtype=float))})


def test_the_limits_follow_from_median_and_ninetieth_percentile():
    # logs 0 to 10: median 5, 90th percentile 9, so the limit is exp(9 + 4 x 4) = exp(25)
    rule = CalibratedRule.from_watch(make_watch(*range(11)))
    assert math.log(rule.limit) == pytest.approx(25.0)
    assert math.log(rule.pooled_limit) == pytest.approx(17.0), "halfway from the percentile to the limit"
    # logs 0, 0, 2, 6: median 1, 90th percentile 2 + 0.7 x 4 = 4.8, so exp(4.8 + 0.5 x 3.8)
    uneven = CalibratedRule.from_watch(make_watch(6, 0, 2, 0), reach=0.5)
    assert (math.log(uneven.limit), math.log(uneven.pooled_limit)) == pytest.approx((6.7, 5.75))


def test_the_limit_is_not_below_what_was_watched_but_for_three_percent():
    # 100 logs: 88 at 0, 12 at 1 to 12; the 90th percentile 2.1 (median 0) gives 8.4, and but for three the largest is 9
    rule = CalibratedRule.from_watch(make_watch(*np.zeros(88), *range(1, 13)), reach=3.0)
    assert math.log(rule.limit) == pytest.approx(9.0)
    assert math.log(rule.pooled_limit) == pytest.approx((9.0 + 2.1) / 2)
    assert rule.level == pytest.approx(5 / 101), "four lie at or above it"


def test_the_level_is_the_share_of_watched_images_at_or_above_the_limit_the_new_one_counted_too():
    watched = make_watch(*range(11))
    assert CalibratedRule.from_watch(watched).level == pytest.approx(1 / 12), "none of 11 lies above exp(25)"
    assert CalibratedRule.from_watch(watched, reach=0.1).level == pytest.approx(2 / 12), "the largest, 10, is the limit"
    assert CalibratedRule.from_watch(watched, reach=0).limit <= CalibratedRule.from_watch(watched, reach=0.1).limit
    assert CalibratedRule.from_watch(make_watch(3.0), reach=1.0).level == 1, "equal norms lie at it"


def test_attempts_with_several_images_do_not_count_in_the_calibration():
    single = make_watch(*range(11))
    mixed = pd.concat([make_watch(50, 60, 70, n=2), single, make_watch(-40, n=5)], ignore_index=True)
    assert CalibratedRule.from_watch(mixed) == CalibratedRule.from_watch(single)
    assert CalibratedRule.with_guarantee(mixed, alpha=0.5) == CalibratedRule.with_guarantee(single, alpha=0.5)
    with pytest.raises(ValueError, match="no image alone with a positive, finite update norm came"):
        CalibratedRule.from_watch(make_watch(50, 60, 70, n=2))


def test_three_percent_of_harmful_images_hardly_move_the_limit():
    good = np.random.default_rng(0).normal(5.0, 0.5, 190)
    clean = CalibratedRule.from_watch(make_watch(*good))
    mixed = CalibratedRule.from_watch(make_watch(*good, *np.full(5, 14.0)))
    assert clean.limit < mixed.limit < 1.5 * clean.limit
    assert clean.pooled_limit < mixed.pooled_limit < 1.2 * clean.pooled_limit
    assert mixed.suspects(n=1, update_norm=math.exp(14.0))
    assert not any(mixed.suspects(n=1, update_norm=math.exp(log)) for log in good)


def test_norms_that_are_zero_or_not_finite_are_left_out():
    watched = pd.concat([make_watch(*range(11)), pd.DataFrame({"n": 1, "update_norm": [0.0, math.inf, math.nan, -1]})])
    assert CalibratedRule.from_watch(watched) == CalibratedRule.from_watch(make_watch(*range(11)))
    assert CalibratedRule.from_watch(make_watch(*range(11)).astype({"update_norm": object})).limit > 0


@pytest.mark.parametrize("make", [CalibratedRule.from_watch, CalibratedRule.with_guarantee], ids=["reach", "alpha"])
@pytest.mark.parametrize("norms", [[], [math.nan], [0.0, math.inf]], ids=str)
def test_a_cycle_that_measured_nothing_cannot_calibrate(make, norms):
    watched = pd.DataFrame({"n": 1, "update_norm": pd.Series(norms, dtype=float)})
    with pytest.raises(ValueError, match="a calibrated rule needs a watched cycle"):
        make(watched)


@pytest.mark.parametrize("reach", [-0.1, math.nan])
def test_a_limit_below_the_ninetieth_percentile_is_refused(reach):
    with pytest.raises(ValueError, match=f"reach must be at least 0, got {reach}"):
        CalibratedRule.from_watch(make_watch(*range(11)), reach=reach)


def test_an_update_at_its_limit_is_no_suspect_and_one_that_diverged_is_whatever_its_size():
    rule = CalibratedRule(10.0)
    norms = [0.0, 10.0, 10.000001, math.inf, math.nan]
    for n in (1, 5):
        assert [rule.suspects(n=n, update_norm=norm) for norm in norms] == [False, False, True, True, True]


def test_at_a_pooled_center_the_lower_limit_holds_if_there_is_one():
    counts, rule = Counts(1, 8, 1, 4), CalibratedRule(10.0, 4.0)
    found = [(rule.suspects(n=1, update_norm=x), rule.suspects(n=1, update_norm=x, pooled=True)) for x in (4, 5, 11)]
    assert found == [(False, False), (False, True), (True, True)]
    options = {"n": 2, "update_norm": 5.0, "before": counts, "after": counts}
    assert rule.judge(**options, pooled=True) == Verdict(True, tolerance=0.0, norm_limit=4.0)
    assert rule.judge(**options, pooled=False) == Verdict(False, tolerance=0.0, norm_limit=10.0)
    assert not CalibratedRule(10.0).suspects(n=1, update_norm=5.0, pooled=True)
    assert CalibratedRule(10.0).judge(**options, pooled=True).norm_limit == 10.0


def test_a_pooled_center_changes_nothing_for_the_other_rules():
    before, after = Counts(1, 8, 1, 4), Counts(2, 8, 1, 4)
    for rule in (WatchingRule(), WatchingRule(verifies=False), PublishedRule(0.0), PublishedRule(0.2)):
        assert rule.suspects(n=1, update_norm=None) == rule.suspects(n=1, update_norm=None, pooled=True)
        said = [rule.judge(n=1, update_norm=None, before=before, after=after, pooled=pooled) for pooled in (0, 1)]
        assert said[0] == said[1]


def test_a_suspect_is_acquitted_only_if_enough_subjects_are_righted_and_neither_error_rises():
    rule = CalibratedRule(10.0, acquittal=2)
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
    rule = CalibratedRule(10.0)
    assert judge(rule, (5, 1), (1, 1), update_norm=11.0)
    assert not judge(rule, (5, 1), (0, 1), update_norm=11.0)
    for make in (CalibratedRule.from_watch, CalibratedRule.with_guarantee):
        watched = make_watch(*range(100))
        assert make(watched).acquittal == 5
        assert make(watched, acquittal=3).acquittal == 3
    with pytest.raises(ValueError, match="acquittal must be at least 1 verification subject, got 0"):
        CalibratedRule(10.0, acquittal=0)


def test_acquittal_counts_the_defined_rate_alone_where_the_other_is_undefined():
    rule = CalibratedRule(10.0, acquittal=1)
    before, better = Counts(0, 0, 3, 5), Counts(0, 0, 2, 5)
    assert not rule.judge(n=1, update_norm=11.0, before=before, after=better).harmful
    assert rule.judge(n=1, update_norm=11.0, before=before, after=before).harmful
    nobody = Counts(0, 0, 0, 0)
    assert rule.judge(n=1, update_norm=11.0, before=nobody, after=nobody).harmful, "nobody is there to acquit"


def test_only_the_calibrated_rule_wants_steps_without_the_momentum_of_others():
    rules = WatchingRule(), PublishedRule(), CalibratedRule(10.0)
    assert [rule.isolates for rule in rules] == [False, False, True]


def test_the_calibrated_rule_cannot_do_without_the_update_norm():
    with pytest.raises(ValueError, match=r"needs the update norm: call watch\(\) on the engine first"):
        CalibratedRule(10.0).suspects(n=1, update_norm=None)


@pytest.mark.parametrize("limit", [0.0, -2.0, math.nan])
def test_a_limit_that_cannot_be_is_refused(limit):
    with pytest.raises(ValueError, match=f"limit must be a positive update norm, got {limit}"):
        CalibratedRule(limit)


@pytest.mark.parametrize("pooled_limit", [0.0, -1.0, 10.5, math.nan])
def test_a_pooled_limit_that_cannot_be_is_refused(pooled_limit):
    with pytest.raises(ValueError, match=f"pooled_limit must be positive and at most limit, 10.0; got {pooled_limit}"):
        CalibratedRule(10.0, pooled_limit)


# the guarantee


def test_the_guaranteed_limit_is_the_watched_norm_that_the_level_allows_to_be_reached():
    norms = np.random.default_rng(1).permutation(np.arange(1.0, 90.0))  # 89 of them
    watched = pd.DataFrame({"n": 1, "update_norm": norms})
    rule = CalibratedRule.with_guarantee(watched)  # alpha 0.05 over 9 looks: level 1/90, so above all 89
    assert (rule.limit, rule.pooled_limit) == (89.0, None)
    assert rule.level == pytest.approx(1 / 90)
    loose = CalibratedRule.with_guarantee(watched, alpha=0.2, looks=8)  # level 0.05: 4.5 of 90, so 4, or 3 others above
    assert loose.limit == 86.0
    assert loose.level == pytest.approx(4 / 90)


def test_a_norm_equal_to_the_guaranteed_limit_passes():
    watched = pd.DataFrame({"n": 1, "update_norm": [1.0] * 30 + [7.0] * 9})  # p of 7 is 10/40, of more 1/40
    rule = CalibratedRule.with_guarantee(watched, alpha=0.2, looks=8)  # level 0.05, that is 2/40
    assert rule.limit == 7.0
    assert not rule.suspects(n=1, update_norm=7.0)
    assert rule.suspects(n=1, update_norm=np.nextafter(7.0, 8.0))


@given(m=st.integers(1, 400), alpha=st.floats(0.001, 0.999), looks=st.integers(1, 40), seed=st.integers(0, 9))
def test_the_level_never_exceeds_what_alpha_allows_and_is_that_of_the_limit(m, alpha, looks, seed):
    norms = np.random.default_rng(seed).integers(1, 1 + m, m).astype(float)  # with ties
    watched = pd.DataFrame({"n": 1, "update_norm": norms})
    try:
        rule = CalibratedRule.with_guarantee(watched, alpha=alpha, looks=looks)
    except ValueError as error:
        assert "watched images" in str(error)
        assert 1 / (m + 1) > 2 * alpha / looks * (1 - 1e-6), "no p-value is that small"
        return
    assert rule.level <= 2 * alpha / looks + 1e-9
    above = np.nextafter(rule.limit, math.inf)  # the smallest norm that is suspicious
    assert rule.suspects(n=1, update_norm=above)
    assert (1 + (norms >= above).sum()) / (m + 1) <= rule.level
    assert rule.bound(looks) <= alpha + 1e-9 * looks
    assert rule.level + 1 / (m + 1) > min(2 * alpha / looks, m / (m + 1)) - 1e-9, "a lower limit would not do"


@given(alpha=st.floats(0.005, 0.6), looks=st.integers(2, 40))
@example(alpha=0.07, looks=7)
@example(alpha=0.05, looks=9)
@example(alpha=0.1, looks=3)
def test_as_many_images_as_the_error_asks_for_suffice_and_one_less_does_not(alpha, looks):
    def calibrate(m):
        return CalibratedRule.with_guarantee(make_watch(*np.linspace(0, 5, m)), alpha=alpha, looks=looks)

    try:
        calibrate(1)
    except ValueError as error:
        said = re.search(r"needs at least (\d+) watched images, got 1; choose a larger alpha, or watch", str(error))
        needed = int(said[1])
        assert needed == pytest.approx(looks / (2 * alpha) - 1, abs=1)
        assert calibrate(needed).level == 1 / (needed + 1)
        with pytest.raises(ValueError, match=f"needs at least {needed} watched images, got {needed - 1};"):
            calibrate(needed - 1)
    else:
        assert 1 / 2 <= 2 * alpha / looks + 1e-9


def test_with_one_look_nobody_can_be_eliminated_and_any_alpha_will_do():
    rule = CalibratedRule.with_guarantee(make_watch(*range(5)), alpha=0.9, looks=1)
    assert rule.level <= 1
    assert rule.bound(1) <= 0.5


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, math.nan])
def test_an_alpha_that_is_no_chance_is_refused(alpha):
    with pytest.raises(ValueError, match=f"alpha must be above 0 and below 1, got {alpha}"):
        CalibratedRule.with_guarantee(make_watch(*range(99)), alpha=alpha)


def test_a_run_without_looks_is_refused():
    with pytest.raises(ValueError, match="looks must be at least 1, got 0"):
        CalibratedRule.with_guarantee(make_watch(*range(99)), looks=0)


def same_look(rng, watched, looks, level):
    """An image that looks the same every time."""
    return np.full(looks, rng.lognormal(3.0, 1.5))


def new_looks(rng, watched, looks, level):
    """An image whose looks have nothing to do with one another."""
    return rng.lognormal(3.0, 1.5, looks)


def worst_looks(rng, watched, looks, level):
    """An image that is out of place at two looks of its run, and at which two is drawn: what Markov's bound allows."""
    m = len(watched)
    edges = np.concatenate([[0.5 * watched.min()], np.sort(watched), [2 * watched.max()]])
    rank = rng.integers(m + 1)  # how many watched norms lie below; at every look each rank is as likely as another
    shift = round(level * (m + 1))
    ranks = (rank + shift * (np.arange(looks) // 2)) % (m + 1)
    return (edges[ranks] + edges[ranks + 1]) / 2


LOOKS = {"always the same": (same_look, 0.05), "new ones": (new_looks, None), "the worst": (worst_looks, 0.2)}


@pytest.mark.parametrize(("draw", "expected"), LOOKS.values(), ids=LOOKS)
def test_a_good_image_is_eliminated_as_rarely_as_promised(draw, expected):
    rng, runs, alpha, looks, m = np.random.default_rng(5), 3000, 0.2, 8, 39
    gone = 0
    for _ in range(runs):
        watched = rng.lognormal(3.0, 1.5, m)
        rule = CalibratedRule.with_guarantee(pd.DataFrame({"n": 1, "update_norm": watched}), alpha=alpha, looks=looks)
        norms = draw(rng, watched, looks, rule.level)
        gone += sum(rule.suspects(n=1, update_norm=float(norm)) for norm in norms) >= 2
    assert gone / runs <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / runs)
    if expected is not None:
        assert gone / runs == pytest.approx(expected, abs=3.5 * math.sqrt(expected * (1 - expected) / runs))


def test_the_bound_is_that_of_the_image_and_where_centers_are_pooled_that_of_its_center():
    assert CalibratedRule(10.0, level=0.02).bound(9) == pytest.approx(0.09)
    assert CalibratedRule(10.0, 5.0, level=0.02).bound(9) == pytest.approx(0.09 + 0.36)
    assert CalibratedRule(10.0, 5.0, level=0.1).bound(9) == 1
    assert CalibratedRule(10.0, level=0.02).bound(0) == 0
    assert math.isnan(CalibratedRule(10.0).bound(9)), "a limit set by hand promises nothing"


# evidence


def rank_slowly(norms, watched):
    """Return conformal p-values by counting."""
    found = []
    for norm in norms:
        at_least = 1
        for other in watched:
            at_least += other >= norm
        found.append(at_least / (1 + len(watched)))
    return found


SMALL = st.lists(st.integers(0, 6).map(float), min_size=1, max_size=12)


@given(norms=SMALL, watched=SMALL)
def test_a_p_value_is_the_share_of_watched_norms_at_least_as_large(norms, watched):
    assert rank_among(norms, watched).tolist() == rank_slowly(norms, watched)


def test_p_values_by_hand():
    assert rank_among([0.0, 2.0, 2.5, 9.0], watched=[2.0, 1.0, 2.0]).tolist() == [1.0, 0.75, 0.25, 0.25]
    assert rank_among([], watched=[1.0]).shape == (0,)
    assert rank_among(iter([3.0]), watched=iter([1.0, 5.0])).tolist() == [2 / 3]


def test_a_norm_that_diverged_is_as_unusual_as_can_be():
    assert rank_among([math.nan, math.inf, -math.inf], watched=[1.0, 2.0, 3.0]).tolist() == [0.25, 0.25, 1.0]
    assert rank_among([2.0], watched=[math.nan, 1.0, math.inf, 3.0]).tolist() == [2 / 3], "two can be compared with"


@pytest.mark.parametrize("watched", [[], [math.nan], [math.inf, -math.inf]], ids=str)
def test_nothing_can_be_ranked_among_nothing(watched):
    with pytest.raises(ValueError, match="ranks among watched update norms, and no finite one came"):
        rank_among([1.0], watched)


@given(values=st.lists(st.integers(0, 6).map(float), min_size=2, max_size=12))
def test_whichever_of_exchangeable_norms_is_the_new_one_small_p_values_are_as_rare_as_they_say(values):
    p = [rank_among([value], values[:at] + values[at + 1 :])[0] for at, value in enumerate(values)]
    for t in np.arange(1, len(values) + 1) / len(values):
        assert np.mean(np.array(p) <= t) <= t
        if len(set(values)) == len(values):
            assert np.mean(np.array(p) <= t) == t, "without ties they are uniform"


def test_the_average_counts_the_looks_that_pass_the_level_over_those_planned():
    # each p-value of at most 0.1 counts 10, out of 4 looks
    assert accumulate_evidence([0.1, 0.2, 0.05, 1.0], level=0.1).tolist() == [2.5, 2.5, 5.0, 5.0]
    assert accumulate_evidence([0.1, 0.05], level=0.1, planned=5).tolist() == [2.0, 4.0]
    assert accumulate_evidence([], level=0.1).shape == (0,)
    assert accumulate_evidence([0.5, 1.0], level=1.0).tolist() == [0.5, 1.0]


def test_the_product_multiplies_powers_of_the_p_values():
    level = math.exp(-2.0)  # so that the power is 1/2 and a look counts 0.5 / sqrt(p)
    found = accumulate_evidence([0.25, 0.01, 1.0], level=level, combine="product")
    assert found.tolist() == pytest.approx([1.0, 5.0, 2.5])
    assert accumulate_evidence([0.25, 0.5], level=0.5, combine="product").tolist() == [1.0, 1.0], "the power is 1 then"
    assert accumulate_evidence([0.25], level=1.0, combine="product").tolist() == [1.0]


def test_evidence_reaches_its_limit_with_the_second_look_that_passes_the_level_of_the_guarantee():
    rule = CalibratedRule.with_guarantee(make_watch(*range(89)), alpha=0.05, looks=9)
    passes = rule.level
    evidence = accumulate_evidence([1.0, passes, 0.5, passes, 1.0], level=rule.level, planned=9)
    assert (evidence >= 1 / 0.05 - 1e-9).tolist() == [False, False, False, True, True]


@pytest.mark.parametrize("same", [True, False], ids=["the same looks", "new looks"])
def test_the_average_of_valid_p_values_is_an_e_value_however_the_looks_hang_together(same):
    rng, runs, looks = np.random.default_rng(2), 4000, 6
    p = rng.integers(1, 101, (runs, 1 if same else looks)) / 100  # ranks among 99
    p = np.broadcast_to(p, (runs, looks))
    evidence = np.array([accumulate_evidence(row, level=0.1) for row in p])
    assert evidence[:, -1].mean() == pytest.approx(1.0, abs=3.5 * evidence[:, -1].std() / math.sqrt(runs))
    reached = (evidence.max(axis=1) >= 5).mean()
    assert reached <= 1 / 5


def test_the_product_of_looks_that_are_the_same_breaks_the_bound_that_the_average_keeps():
    # p uniform on 1/1000 to 1; nine looks, all alike; a good image should reach 20 at most once in 20
    shares = {}
    for combine in ("average", "product"):
        reached = [
            accumulate_evidence([k / 1000] * 9, level=0.05, combine=combine).max() >= 20 - 1e-9 for k in range(1, 1001)
        ]
        shares[combine] = np.mean(reached)
    assert shares["average"] == 0.05
    assert shares["product"] > 2 * 0.05


@pytest.mark.parametrize(
    ("p_values", "options", "message"),
    [
        ([0.1], {"level": 0.1, "combine": "sum"}, r"combine must be one of \('average', 'product'\), got 'sum'"),
        ([0.1], {"level": 0.0}, "level must be above 0 and at most 1, got 0.0"),
        ([0.1], {"level": 1.5}, "level must be above 0 and at most 1, got 1.5"),
        ([0.1], {"level": math.nan}, "level must be above 0 and at most 1, got nan"),
        ([0.1, 0.2], {"level": 0.1, "planned": 1}, "1 looks were planned, and 2 p-values came"),
        ([0.1, 0.0], {"level": 0.1}, r"p-values must be above 0 and at most 1, got \[0.1, 0.0\]"),
        ([math.nan], {"level": 0.1, "combine": "product"}, r"p-values must be above 0 and at most 1, got \[nan\]"),
        ([1.5], {"level": 0.1}, r"p-values must be above 0 and at most 1, got \[1.5\]"),
    ],
)
def test_evidence_that_cannot_be_is_refused(p_values, options, message):
    with pytest.raises(ValueError, match=message):
        accumulate_evidence(p_values, **options)


# drift


def test_drift_by_hand():
    guard = DriftGuard(Counts(4, 60, 0, 50))
    # 18 after 4: 14 / sqrt(22) = 2.98; 19 after 4: 15 / sqrt(23) = 3.13; 8 after none: 2.83; 9 after none: 3
    assert guard.find_drift(Counts(18, 60, 8, 50)) == ()
    assert guard.find_drift(Counts(19, 60, 8, 50)) == ("false positives",)
    assert guard.find_drift(Counts(18, 60, 9, 50)) == ("false negatives",)
    assert guard.find_drift(Counts(60, 60, 50, 50)) == ("false positives", "false negatives")
    assert DriftGuard(guard.floor, limit=2.0).find_drift(Counts(13, 60, 3, 50)) == ("false positives",)  # 9 / sqrt(17)


@given(before=st.integers(0, 40), after=st.integers(0, 40), other=st.integers(0, 40))
def test_positives_and_negatives_are_treated_alike_and_a_fall_is_never_drift(before, after, other):
    one = DriftGuard(Counts(before, 40, other, 40)).find_drift(Counts(after, 40, other, 40))
    two = DriftGuard(Counts(other, 40, before, 40)).find_drift(Counts(other, 40, after, 40))
    assert one in ((), ("false positives",))
    assert bool(one) == bool(two)
    back = DriftGuard(Counts(after, 40, other, 40)).find_drift(Counts(before, 40, other, 40))
    assert not (one and back)


def test_no_errors_before_and_after_and_no_subjects_at_all_are_no_drift():
    assert DriftGuard(Counts(0, 9, 0, 9)).find_drift(Counts(0, 9, 0, 9)) == ()
    assert DriftGuard(Counts(0, 0, 0, 0)).find_drift(Counts(0, 0, 0, 0)) == ()
    assert DriftGuard(Counts(0, 0, 0, 9)).find_drift(Counts(0, 0, 9, 9)) == ("false negatives",)


def test_whichever_subjects_changed_sides_their_score_is_at_least_the_one_that_counts():
    n = 12
    for before in range(n + 1):
        for after in range(before + 1, n + 1):
            least = min(
                (worse - better) / math.sqrt(worse + better)
                for better in range(before + 1)
                if 0 < (worse := after - before + better) <= n - before
            ) if after > before else 0.0  # fmt: skip
            guard = DriftGuard(Counts(before, n, 0, 0), limit=least + 1e-9)
            assert guard.find_drift(Counts(after, n, 0, 0)) == (), (before, after)


@pytest.mark.parametrize("now", [Counts(1, 8, 1, 4), Counts(1, 9, 1, 5), Counts(0, 0, 0, 0)], ids=str)
def test_drift_of_other_subjects_is_refused(now):
    with pytest.raises(ValueError, match="drift needs counts of the same subjects; the floor is .*n_neg=9.*, now "):
        DriftGuard(Counts(1, 9, 1, 4)).find_drift(now)


def test_a_limit_of_no_standard_error_is_refused():
    with pytest.raises(ValueError, match=r"^limit must be a positive number of standard errors, got 0$"):
        DriftGuard(Counts(1, 9, 1, 4), limit=0)


def test_a_slow_decay_that_the_published_rule_accepts_step_by_step_is_found():
    rule, guard = PublishedRule(tolerance=1 / 64), DriftGuard(Counts(0, 128, 5, 128))
    steps = [Counts(fp, 128, 5, 128) for fp in range(0, 15, 2)]  # two more every time, just as tolerated
    verdicts = [
        rule.judge(n=1, update_norm=None, before=before, after=after).harmful
        for before, after in zip(steps, steps[1:], strict=False)
    ]
    assert not any(verdicts)
    assert [bool(guard.find_drift(step)) for step in steps] == [False] * 5 + [True] * 3  # from 10 on: 10 / sqrt(10)


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


def make_docket(n, *, due=0, out=0, others=3):
    """Return a docket of a center "A" with n images, the first of which wait for a revisit or are eliminated, and of a
    center "B" of which nobody is flagged."""
    docket = Docket(homes={f"a{at}": "A" for at in range(n)} | {f"b{at}": "B" for at in range(others)})
    for at in range(due + out):
        docket.defer(f"a{at}", cycle=0)
    for at in range(due, due + out):
        docket.close(f"a{at}", harmful=True)
    return docket


def test_a_center_is_pooled_from_half_of_its_images_and_three_on():
    needed = {n: min((k for k in range(n + 1) if make_docket(n, due=k).pools("A")), default=None) for n in range(1, 11)}
    assert needed == {1: None, 2: None, 3: 3, 4: 3, 5: 3, 6: 3, 7: 4, 8: 4, 9: 5, 10: 5}


@pytest.mark.parametrize(("due", "out"), [(4, 0), (0, 4), (1, 3)])
def test_those_who_wait_and_those_who_are_out_count_alike(due, out):
    assert make_docket(8, due=due, out=out).pools("A")
    assert not make_docket(9, due=due, out=out).pools("A")


def test_flags_at_one_center_say_nothing_of_another():
    docket = make_docket(4, due=4)
    assert docket.pools("A")
    assert not docket.pools("B")
    assert not docket.pools("nowhere")
    assert not Docket().pools("A"), "without homes nobody knows who is whose"


def test_who_returns_from_a_revisit_is_no_longer_counted():
    docket = make_docket(6, due=3)
    assert docket.pools("A")
    docket.close("a1", harmful=False)
    assert not docket.pools("A")


def test_flagged_subjects_that_are_at_home_nowhere_do_not_pool_a_center():
    docket = make_docket(3, due=2)
    docket.defer("stranger", cycle=0)
    assert not docket.pools("A")


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


def test_counts_that_were_foreseen_in_part_say_nothing_of_another_rule():
    recorded = make_ledger(*RECORDED).assign(exact=pd.array([None, None, True, False, False, True, True, True]))
    said = replay(recorded, PublishedRule(tolerance=0.0))["replayed_harmful"]
    assert said.isna().tolist() == [False, True, True, False, False, False]


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
        (CalibratedRule(5.0, acquittal=1), [False, True, True, False, False, False]),
    ],
    ids=repr,
)
def test_replaying_with_another_rule_says_what_it_would_have_said(rule, harmful):
    replayed = replay(make_ledger(*RECORDED), rule)
    assert replayed["replayed_harmful"].tolist() == harmful
    assert replayed["harmful"].tolist() == [False, True, False, True, False, True]


def make_pooled(*steps):
    """Return a ledger of one center from steps (subject, level, decision), all of norm 5 and verified in vain."""
    ledger = Ledger()
    for subject, level, decision in steps:
        row = dict.fromkeys(COLUMNS) | {"cycle": 0, "stage": "control", "level": level, "center": "A", "seconds": 0.1}
        row |= {"subjects": [subject], "n": 1, "update_norm": 5.0, "decision": decision}
        row |= dict.fromkeys(("fp", "fn", "reference_fp", "reference_fn"), 0)
        ledger.append(**row | dict.fromkeys(("n_neg", "n_pos", "reference_n_neg", "reference_n_pos"), 4))
    return ledger.to_frame()


def test_a_center_that_was_pooled_is_replayed_as_pooled():
    three = [(f"a{at}", "single", "deferred") for at in range(3)]
    steps = [*three, ("a3", "batch", "accepted"), ("a0", "revisit", "eliminated"), ("a4", "batch", "accepted")]
    steps += [("a1", "revisit", "accepted"), ("a5", "batch", "accepted")]
    replayed = replay(make_pooled(*steps), CalibratedRule(10.0, 4.0))
    # six images, so three flags pool the center, from the fourth attempt until one of the three has returned
    assert replayed["replayed_harmful"].tolist() == [False] * 3 + [True] * 4 + [False]
    assert not replay(make_pooled(*steps), CalibratedRule(10.0))["replayed_harmful"].any()


def test_whoever_was_eliminated_before_still_counts_when_the_next_one_is():
    steps = [(f"a{at}", "single", "deferred") for at in range(3)]
    steps += [(f"a{at}", "revisit", "eliminated") for at in range(3)]
    steps += [(f"a{at}", "batch", "accepted") for at in (3, 4, 5)]
    replayed = replay(make_pooled(*steps), CalibratedRule(10.0, 4.0))
    assert replayed["replayed_harmful"].tolist() == [False] * 3 + [True] * 6, "three of six, from the fourth on"


def test_part_of_a_ledger_may_begin_with_the_revisit_of_somebody():
    steps = [("a0", "revisit", "accepted"), ("a1", "batch", "accepted")]
    assert replay(make_pooled(*steps), CalibratedRule(4.0))["replayed_harmful"].tolist() == [True, True]


RULES = (CalibratedRule(10.0, 4.0), PublishedRule(), WatchingRule())


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_an_attempt_is_of_a_center_that_is_not_flagged_unless_it_is_said(rule):
    same = Counts(0, 4, 0, 4)
    said = [rule.judge(n=1, update_norm=5.0, before=same, after=same, **at) for at in ({}, {"pooled": False})]
    assert said[0] == said[1]
    suspected = [rule.suspects(n=1, update_norm=5.0, **at) for at in ({}, {"pooled": False}, {"pooled": True})]
    assert suspected[0] == suspected[1]
    assert suspected[2] == (suspected[0] or type(rule) is CalibratedRule), "only a pooled limit is the lower one"


NORMS = pd.DataFrame({"stage": "watch", "n": 1, "update_norm": np.linspace(1.0, 2.0, 40), "center": "A", "cycle": 0})
WORDS = {
    "limit": lambda word: CalibratedRule(limit=word),
    "pooled_limit": lambda word: CalibratedRule(1.0, word),
    "acquittal": lambda word: CalibratedRule(1.0, acquittal=word),
    "reach": lambda word: CalibratedRule.from_watch(NORMS, reach=word),
    "alpha": lambda word: CalibratedRule.with_guarantee(NORMS, alpha=word),
    "looks": lambda word: CalibratedRule.with_guarantee(NORMS, looks=word),
    "denominators": lambda word: PublishedRule(denominators=[word]),
    "loss_sum": lambda word: Counts(1, 2, 1, 2, word),
    "revisit_after": lambda word: Docket(word),
    "floor": lambda word: DriftGuard(word),
    "limit ": lambda word: DriftGuard(Counts(1, 2, 1, 2), word),
    "watched": lambda word: rank_among([1.0], [word]),
    "norms": lambda word: rank_among([word], [1.0]),
    "level": lambda word: accumulate_evidence([0.5], level=word),
    "planned": lambda word: accumulate_evidence([0.5], level=0.1, planned=word),
    "p_values": lambda word: accumulate_evidence([word], level=0.1),
}


@pytest.mark.parametrize("name", WORDS)
def test_a_word_in_place_of_a_value_is_refused_by_the_name_of_its_argument(name):
    with pytest.raises(TypeError, match=rf"^{name.strip()} must be .*'three'"):
        WORDS[name]("three")


def test_a_wrong_floor_is_told_what_one_looks_like():
    with pytest.raises(TypeError, match=r"such as Counts\(fp=4, n_neg=60, fn=10, n_pos=60\)"):
        DriftGuard(3)


def test_one_planned_look_is_divided_by_one():
    assert accumulate_evidence([0.01], level=0.05, planned=1).tolist() == [20.0]


def test_what_was_not_recorded_cannot_be_replayed():
    ledger = make_ledger(
        ("control", 1, None, None, 1.0, "accepted"),
        ("control", 1, None, 3, 9.0, "accepted"),
        ("control", 1, None, None, 9.0, "accepted"),
    )
    published = replay(ledger, PublishedRule())["replayed_harmful"]
    assert published.dtype == "boolean"
    assert published.isna().all()
    calibrated = replay(ledger, CalibratedRule(5.0, acquittal=1))["replayed_harmful"]
    assert calibrated.isna().tolist() == [False, True, True], "small updates would have passed without verification"
    assert not calibrated.iloc[0]


def test_replaying_the_calibrated_rule_needs_the_update_norms():
    with pytest.raises(ValueError, match="needs the update norm"):
        replay(make_ledger(("control", 1, 0, 1, None, "accepted")), CalibratedRule(5.0))


def test_an_update_norm_that_diverged_is_suspicious_when_it_is_replayed_too():
    rows = ("control", 1, 0, 0, math.nan, "split"), ("control", 1, 0, 0, 1.0, "accepted")
    assert replay(make_ledger(*rows), CalibratedRule(5.0))["replayed_harmful"].tolist() == [True, False]
    alone = make_ledger(rows[0]).assign(norm_limit=5.0)  # no other norm says that they were measured, but its limit
    assert replay(alone, CalibratedRule(5.0))["replayed_harmful"].tolist() == [True]


def test_an_empty_ledger_replays_to_nothing():
    replayed = replay(make_ledger(), PublishedRule())
    assert replayed.empty
    assert list(replayed.columns) == [
        "cycle", "level", "center", "subjects", "n", "decision", "harmful", "replayed_harmful",
    ]  # fmt: skip


# rules as texts


def test_a_rule_is_told_alike_by_every_process():
    rule = PublishedRule(tolerance=0.02)
    assert describe_rule(rule) == repr(rule)
    asks = frozenset({"update norm", "loss", "a", "b", "c"})
    told = describe_rule(WatchingRule(asks=asks))
    assert told == (
        "WatchingRule(verifies=True, asks=frozenset({'a', 'b', 'c', 'loss', 'update norm'}), isolates=False)"
    )


class Nameless:
    asks, isolates = frozenset(), False


class Named(Nameless):
    def __repr__(self):
        return "Named()"


def test_a_rule_that_tells_where_it_lies_instead_of_what_it_is_is_refused():
    assert describe_rule(Named()) == "Named()"
    with pytest.raises(ValueError, match=r"^the rule is <.*Nameless object at 0x") as caught:
        describe_rule(Nameless())
    assert str(caught.value).endswith("would not be found again; make it a dataclass, or give it a __repr__")
