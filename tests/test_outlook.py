"""Verification that looks at few images: what it foresees, when it stops, and that it decides as the full one does."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dqc_lib.quality import CalibratedRule, Counts, PublishedRule
from dqc_lib.travelling.outlook import FIRST, Outlook, look_ahead

HALF = {"threshold": 0.5, "reach": 4.0}


def score(logit):
    return 1 / (1 + np.exp(-np.asarray(logit, dtype=float)))


def healthy(like):
    return np.zeros(len(like), dtype=int)


class Model:
    """Scores by image number, and a record of the images it was shown."""

    def __init__(self, logit):
        self.score, self.shown = score(logit), []

    def __call__(self, numbers):
        self.shown.append([int(number) for number in numbers])
        return self.score[numbers]

    @property
    def n_shown(self):
        return sum(map(len, self.shown))


def never(best, worst):
    return False


def test_the_images_nearest_to_the_threshold_tell_where_the_others_went():
    before = np.linspace(-3, 3, 61)  # 0.1 apart, one of them on the threshold
    model = Model(before + 0.13)
    after = look_ahead(Outlook.of(score(before)), model, healthy(before), **HALF, settled=never)
    assert sorted(model.shown[0]) == [27, 28, 29, 30, 31, 32] or sorted(model.shown[0]) == [28, 29, 30, 31, 32, 33]
    assert model.n_shown <= 12
    np.testing.assert_allclose(after.score, score(before + 0.13), atol=1e-9)
    np.testing.assert_array_equal(after.score >= 0.5, before + 0.13 >= 0)
    assert ((after.spread == 0).sum(), after.exact) == (model.n_shown, False)


def test_images_that_move_apart_are_looked_at_in_greater_number():
    rng = np.random.default_rng(1)
    before, apart = rng.normal(0, 1, 200), rng.normal(0, 1, 200)
    shown = []
    for width in (0.0, 0.05, 0.2):
        model = Model(before + 0.1 + width * apart)
        after = look_ahead(Outlook.of(score(before)), model, healthy(before), **HALF, settled=never)
        np.testing.assert_array_equal(after.score >= 0.5, model.score >= 0.5)
        shown.append(model.n_shown)
    assert shown == sorted(shown)
    assert shown[0] < 20 and shown[2] > 60


def test_what_comes_nearer_is_looked_at_again_before_it_crosses():
    logit = np.array([0.01, -0.02, 0.03, -0.04, 0.05, -0.06, 0.8])
    outlook, seen = Outlook.of(score(logit)), []
    for _ in range(80):
        logit = logit - 0.012
        model = Model(logit)
        outlook = look_ahead(outlook, model, healthy(logit), **HALF, settled=never)
        np.testing.assert_array_equal(outlook.score >= 0.5, model.score >= 0.5)
        seen.append(6 in sum(model.shown, []))
    assert logit[-1] < 0, "it has crossed"
    assert not seen[0] and seen[-1]


def test_looking_ends_as_soon_as_the_question_is_settled():
    before = np.linspace(-0.1, 0.1, 50)
    model, asked = Model(before + 0.05), []
    settled = lambda best, worst: asked.append((best.sum(), worst.sum())) or len(asked) == 2  # noqa: E731
    look_ahead(Outlook.of(score(before)), model, healthy(before), threshold=0.5, reach=1e6, settled=settled)
    assert [len(numbers) for numbers in model.shown] == [6, 2]
    best, worst = zip(*asked, strict=True)
    assert best[0] <= best[1] and worst[0] >= worst[1], "the bounds close in"
    assert [high - low for low, high in asked] == [44, 42], "what was not looked at is open"


def test_where_only_a_look_counts_the_likeliest_errors_come_first_and_nobody_twice():
    before = np.linspace(-3, 3, 60)
    diagnosis = (np.arange(60) % 2).astype(int)
    model = Model(before + 0.01)
    after = look_ahead(Outlook.of(score(before)), model, diagnosis, threshold=0.5, reach=np.inf, settled=never)
    assert after.exact
    assert [len(numbers) for numbers in model.shown] == [6, 2, 4, 8, 16, 24], "twice as many each time"
    assert set(model.shown[1]) == {1, 58}, "the patient with the lowest score, the control with the highest"
    assert sorted(sum(model.shown, [])) == list(range(60))


def test_an_open_call_counts_as_right_at_best_and_as_wrong_at_worst():
    outlook = Outlook(score([-2.0, -0.1, 0.1, 2.0, 0.3]), np.array([0.1, 0.1, 0.1, 0.1, 0.0]))
    diagnosis = np.array([1, 0, 0, 0, 0])
    best, worst = outlook.bound(diagnosis, **HALF)
    assert best.tolist() == [True, False, False, True, True]
    assert worst.tolist() == [True, True, True, True, True]
    best, worst = outlook.bound(diagnosis, threshold=0.5, reach=np.inf)
    assert (best.tolist(), worst.tolist()) == ([False] * 4 + [True], [True] * 5)


@pytest.mark.parametrize("place", ["before", "after"])
def test_where_a_score_is_not_a_number_every_image_is_looked_at(place):
    before = np.linspace(-2, 2, 30)
    broken = np.where(np.arange(30) == 15, np.nan, before)
    model, start = Model(broken if place == "after" else before), Outlook.of(score(before))
    if place == "before":
        start = Outlook.of(score(broken))
    after = look_ahead(start, model, healthy(before), **HALF, settled=never)
    assert after.exact and sorted(sum(model.shown, [])) == list(range(30))
    np.testing.assert_array_equal(after.score, model.score)


def test_saturated_scores_are_foreseen_to_stay_so():
    before = np.array([0.0, 1e-40, 1.0, 0.5, 0.4, 0.6, 0.45, 0.55, 0.52])
    model = Model(np.zeros(9))
    model.score = np.array([0.0, 0.0, 1.0, 0.51, 0.41, 0.61, 0.46, 0.56, 0.53])
    after = look_ahead(Outlook.of(before), model, healthy(before), **HALF, settled=never)
    np.testing.assert_array_equal(after.score >= 0.5, model.score >= 0.5)
    assert np.isfinite(after.score).all() and model.n_shown == FIRST


def count(wrong, diagnosis):
    positive = diagnosis == 1
    sums = [np.sum(part) for part in (wrong & ~positive, ~positive, wrong & positive, positive)]
    return Counts(*(int(number) for number in sums))


@st.composite
def attempts(draw):
    n = draw(st.integers(1, 40))
    logits = st.lists(st.floats(-3, 3, allow_nan=False), min_size=n, max_size=n)
    before, change = np.array(draw(logits)), np.array(draw(logits))
    diagnosis = np.array(draw(st.lists(st.integers(0, 1), min_size=n, max_size=n)))
    rules = [PublishedRule(0.02), PublishedRule(0.2), PublishedRule(0.02, denominators="published")]
    return before, before + change, diagnosis, draw(st.sampled_from([*rules, CalibratedRule(1.0, acquittal=1)]))


@given(attempts())
def test_whatever_the_images_do_a_call_that_is_certain_is_that_of_a_full_verification(attempt):
    before, after, diagnosis, rule = attempt
    reference = count((before >= 0) != (diagnosis == 1), diagnosis)

    def harmful(wrong):
        options = {"n": 1, "update_norm": 2.0, "before": reference, "after": count(wrong, diagnosis)}
        return rule.judge(**options).harmful

    model, certain = Model(after), {"threshold": 0.5, "reach": np.inf}
    outlook = look_ahead(
        Outlook.of(score(before)), model, diagnosis, **certain, settled=lambda best, worst: harmful(best)
    )
    full = harmful((model.score >= 0.5) != (diagnosis == 1))
    assert harmful(outlook.bound(diagnosis, **certain)[0]) == full
    assert full or outlook.exact, "the counts of an accepted model are those of all images"
