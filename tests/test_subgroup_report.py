"""The subgroup report: values, bootstrap intervals, gaps and what shuffled groups would give."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from fairlearn.metrics import MetricFrame
from scipy import stats
from sklearn import metrics

from dqc_lib.evaluation import METRICS, evaluate_subgroups, resampling, subgroup_report

HOSTILE = "<img src=x onerror=alert(1)>"
KEYS = ["subgroup", "group", "metric"]


def make_predictions(n=80, *, effect=0.35, seed=1, **columns):
    """Return one set of predictions; scores are whole hundredths, so that ties occur."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "subject": [f"sub-{at:03d}" for at in range(n)],
            "sex": rng.choice(["F", "M"], n),
            "age": rng.uniform(40, 90, n),
            "scanner": rng.choice(["A", "B"], n),
            "diagnosis": rng.integers(0, 2, n),
        }
    ).assign(**columns)
    return table.assign(score=np.round(effect * table["diagnosis"] + (1 - effect) * rng.random(n), 2))


def report(table, **settings):
    return subgroup_report(table, **{"n_resamples": 1000, "by": ["sex"]} | settings)


def pick(table, **wanted):
    """Return the one row that has the values wanted."""
    mask = np.logical_and.reduce([table[name] == value for name, value in wanted.items()])
    assert mask.sum() == 1, f"{mask.sum()} rows have {wanted}"
    return table[mask].iloc[0]


@pytest.fixture
def tiny():
    """Four women, two patients and two controls, of whom one each is called right; a man of either kind, both right."""
    return pd.DataFrame(
        {
            "subject": list("abcdef"),
            "sex": ["F"] * 4 + ["M"] * 2,
            "diagnosis": [1, 1, 0, 0, 1, 0],
            "score": [0.9, 0.2, 0.1, 0.6, 0.8, 0.3],
        }
    )


def test_values_and_gaps_equal_hand_counts(tiny):
    found = report(tiny, min_n=1, min_class=1)
    women = found.groups[found.groups["group"] == "F"]
    assert list(women["metric"]) == list(METRICS)
    # Pairs of women ranked right: 0.9 above both controls, 0.2 above one of them.
    assert list(women["value"]) == [0.5, 0.5, 0.5, 0.5, 0.75]
    assert list(found.groups.loc[found.groups["group"] == "M", "value"]) == [1.0] * 5
    assert list(found.groups.iloc[0][["subgroup", "group", "n", "n_positive", "n_negative"]]) == [
        "overall",
        "all",
        6,
        3,
        3,
    ]
    assert list(found.gaps["gap"]) == [0.5, 0.5, 0.5, 0.5, 0.25]
    assert set(found.gaps["highest"]) == {"M"} and set(found.gaps["lowest"]) == {"F"}
    assert set(found.gaps["n_groups"]) == {2}


def test_the_interval_of_one_right_of_two_reaches_from_none_to_all(tiny):
    # Two draws of two: none right in a quarter of the resamples, both right in another.
    women = pick(report(tiny, min_n=1, min_class=1).groups, group="F", metric="sensitivity")
    assert (women["low"], women["high"], women["note"]) == (0.0, 1.0, "")


def test_where_all_resamples_agree_shares_get_the_exact_interval_and_others_none(tiny):
    men = report(tiny, min_n=1, min_class=1).groups.query("group == 'M'").set_index("metric")
    # Clopper and Pearson for n of n: the probability p whose n-th power is 0.025.
    assert list(men.loc["accuracy", ["low", "high"]]) == pytest.approx([math.sqrt(0.025), 1.0])
    assert list(men.loc["sensitivity", ["low", "high"]]) == pytest.approx([0.025, 1.0])
    assert men.loc["accuracy", "note"] == "exact interval: all resamples agree"
    half = report(tiny, min_n=1, min_class=1, confidence=0.5).groups.query("group == 'M'").set_index("metric")
    assert list(half.loc["accuracy", ["low", "high"]]) == pytest.approx([math.sqrt(0.25), 1.0])
    assert men.loc[["f1", "auroc"], ["low", "high"]].isna().all(axis=None)
    assert set(men.loc[["f1", "auroc"], "note"]) == {"no interval: all resamples agree"}


def test_a_gap_that_no_resample_changes_has_no_interval():
    table = make_predictions(40).assign(sex=["F", "M"] * 20)
    table["score"] = table["diagnosis"]
    gaps = report(table).gaps
    assert list(gaps["gap"]) == [0.0] * 5 and gaps[["low", "high"]].isna().all(axis=None)
    assert set(gaps["highest"]) == set(gaps["lowest"]) == {""}
    assert list(gaps["by_chance"]) == [0.0] * 5 and list(gaps["p_value"]) == [1.0] * 5


def test_values_equal_fairlearn_and_scikit_learn_where_they_are_defined():
    table = make_predictions(120)
    found = report(table, by=[("sex", "scanner")], threshold=0.4).groups
    expected = MetricFrame(
        metrics={
            "accuracy": metrics.accuracy_score,
            "sensitivity": metrics.recall_score,
            "specificity": lambda truth, called: metrics.recall_score(truth, called, pos_label=0),
            "f1": metrics.f1_score,
        },
        y_true=table["diagnosis"],
        y_pred=(table["score"] >= 0.4).astype(int),
        sensitive_features=table[["sex", "scanner"]],
    ).by_group
    for (sex, scanner), row in expected.iterrows():
        inside = table[(table["sex"] == sex) & (table["scanner"] == scanner)]
        of_group = found[found["group"] == f"{sex}, {scanner}"].set_index("metric")["value"]
        assert dict(of_group[list(expected)]) == pytest.approx(dict(row))
        assert of_group["auroc"] == pytest.approx(metrics.roc_auc_score(inside["diagnosis"], inside["score"]))


def test_values_are_those_of_evaluate_subgroups():
    table = make_predictions(200)
    found = report(table, by=["sex", "scanner"], min_n=1, min_class=1).groups
    wide = evaluate_subgroups(table, by=["sex", "scanner"])
    long = wide.melt(["subgroup", "group"], list(METRICS), var_name="metric")
    both = found.merge(long, on=KEYS)
    assert len(both) == 20 and list(both["value_x"]) == pytest.approx(list(both["value_y"]))


def test_weighted_metrics_equal_those_of_subjects_written_out():
    rng = np.random.default_rng(3)
    positive, negative = rng.integers(0, 6, (2, 7)) / 5, rng.integers(0, 6, (2, 5)) / 5
    weights = [resampling.draw_weights(n, 20, rng) for n in (7, 5)]
    assert all((of.sum(axis=0) == len(of)).all() for of in weights)
    found = resampling.measure_weighted(positive, negative, weights=tuple(weights), threshold=0.6)
    for run, at in np.ndindex(2, 20):
        copies = [np.repeat(of[run], w[:, at].astype(int)) for of, w in zip((positive, negative), weights, strict=True)]
        truth, score = np.repeat([1, 0], [7, 5]), np.concatenate(copies)
        called = score >= 0.6
        expected = [
            metrics.accuracy_score(truth, called),
            metrics.recall_score(truth, called),
            metrics.recall_score(truth, called, pos_label=0),
            metrics.f1_score(truth, called),
            metrics.roc_auc_score(truth, score),
        ]
        assert list(found[run, :, at]) == pytest.approx(expected)


def test_intervals_agree_with_a_bootstrap_that_draws_subjects_one_by_one():
    table = make_predictions(60)
    truth, score = table["diagnosis"].to_numpy(), table["score"].to_numpy()
    rng = np.random.default_rng(9)
    drawn = []
    for _ in range(1000):
        at = np.concatenate([rng.choice(np.flatnonzero(truth == kind), (truth == kind).sum()) for kind in (0, 1)])
        called = score[at] >= 0.5
        f1 = metrics.f1_score(truth[at], called)
        drawn.append([(called == truth[at]).mean(), f1, metrics.roc_auc_score(truth[at], score[at])])
    expected = np.quantile(drawn, [0.025, 0.975], axis=0)
    found = report(table, by=(), n_resamples=4000).groups.set_index("metric")
    # A 2.5 % percentile of 1,000 draws has a standard error near 0.085 standard deviations, here 0.06: four of them.
    for at, name in enumerate(["accuracy", "f1", "auroc"]):
        assert list(found.loc[name, ["low", "high"]]) == pytest.approx(list(expected[:, at]), abs=0.02)


def test_intervals_of_sensitivity_agree_with_scipy():
    table = make_predictions(90)
    called = (table.loc[table["diagnosis"] == 1, "score"] >= 0.5).to_numpy(dtype=float)
    rng = np.random.default_rng(0)
    expected = stats.bootstrap((called,), np.mean, n_resamples=4000, method="percentile", rng=rng).confidence_interval
    found = pick(report(table, by=(), n_resamples=4000).groups, metric="sensitivity")
    # One step of the lattice: a percentile may fall on the neighbouring count.
    assert [found["low"], found["high"]] == pytest.approx(list(expected), abs=1.01 / len(called))


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    def covers(seed):
        patient = np.random.default_rng(seed).random(40) < 0.8
        table = pd.DataFrame({"subject": range(50), "diagnosis": [1] * 40 + [0] * 10, "score": [*patient, *[0] * 10]})
        found = pick(report(table.astype({"score": float}), by=()).groups, metric="sensitivity")
        return found["low"] <= 0.8 <= found["high"]

    # Percentile intervals of 40 patients hold it in about 93 %; of 60, fewer than 82 % is beyond three standard errors.
    assert np.mean([covers(seed) for seed in range(60)]) >= 0.82


@pytest.mark.parametrize(("women", "men"), [(0.8, 0.8), (0.9, 0.7)])
def test_intervals_of_the_gap_of_two_groups_hold_the_true_difference_as_often_as_they_say(women, men):
    # Patients whose scores are normal and lie d above those of controls have an AUROC of Phi(d / sqrt(2)).
    table = pd.DataFrame({"subject": range(200), "sex": ["F"] * 100 + ["M"] * 100, "diagnosis": [0, 1] * 100})
    above = np.sqrt(2) * stats.norm.ppf(np.repeat([women, men], 100)) * table["diagnosis"].to_numpy()
    scores = above + np.random.default_rng(5).normal(size=(100, 200))
    runs = [table.assign(arm=f"{at}", score=score) for at, score in enumerate(scores)]  # an arm is a study repeated
    gaps = report(pd.concat(runs, ignore_index=True)).gaps.query("metric == 'auroc'")
    truth = np.where(gaps["highest"] == "M", men - women, women - men)
    held = (gaps["low"] <= truth) & (truth <= gaps["high"])
    # Percentile intervals of 50 patients and 50 controls hold it in about 94 %. Fewer than 86 of 100 studies would be
    # three standard errors off, and so would all of them.
    assert len(held) == 100 and 0.86 <= held.mean() < 1


def test_the_interval_of_a_gap_is_that_of_the_difference_between_the_two_groups_named():
    table = make_predictions(120, effect=0.3)
    table["scanner"] = np.resize(["A", "B", "C"], 120)
    gap = pick(report(table, by=["scanner"], n_resamples=4000).gaps, metric="sensitivity")
    called = [
        (table.query("scanner == @name and diagnosis == 1")["score"] >= 0.5).to_numpy(dtype=float)
        for name in (gap["highest"], gap["lowest"])
    ]
    assert gap["gap"] == pytest.approx(called[0].mean() - called[1].mean())
    expected = stats.bootstrap(
        called, lambda a, b, axis: a.mean(axis) - b.mean(axis), n_resamples=4000, method="percentile", rng=1
    ).confidence_interval
    assert [gap["low"], gap["high"]] == pytest.approx(list(expected), abs=0.06)  # a patient weighs 0.05


def test_groups_that_are_level_have_an_interval_on_both_sides_of_zero():
    table = pd.DataFrame({"subject": range(60), "sex": ["F", "M", "X"] * 20, "diagnosis": 1})
    table["score"] = [1.0] * 30 + [0.0] * 30
    gap = pick(report(table).gaps, metric="sensitivity")
    assert (gap["gap"], gap["highest"], gap["lowest"]) == (0.0, "", "")
    # Of two shares of 10 in 20 the difference has a standard error of 0.158; 1.96 of them are 0.31.
    assert [gap["low"], gap["high"]] == pytest.approx([-0.31, 0.31], abs=0.05)


def test_a_change_is_measured_between_the_two_groups_of_either_arm():
    rng = np.random.default_rng(2)
    right = {"clean": {"F": 22, "M": 20}, "dirty": {"F": 20, "M": 23}}  # of 40
    called = {
        arm: {sex: rng.permutation([1.0] * n + [0.0] * (40 - n)) for sex, n in of.items()} for arm, of in right.items()
    }
    table = pd.DataFrame({"subject": range(80), "sex": ["F"] * 40 + ["M"] * 40, "diagnosis": 1})
    runs = [table.assign(arm=arm, score=np.concatenate([of["F"], of["M"]])) for arm, of in called.items()]
    found = report(pd.concat(runs), n_resamples=4000)
    assert list(found.gaps.query("metric == 'sensitivity'")["highest"]) == ["F", "M"]
    change = pick(found.changes, metric="sensitivity")
    assert change["change"] == pytest.approx(3 / 40 - 2 / 40)
    # Men minus women in the dirty arm, minus women minus men in the clean one: the sums of both arms, men minus women.
    men, women = (called["clean"][sex] + called["dirty"][sex] for sex in "MF")
    expected = stats.bootstrap(
        (men, women), lambda a, b, axis: a.mean(axis) - b.mean(axis), n_resamples=4000, method="percentile", rng=1
    ).confidence_interval
    assert [change["low"], change["high"]] == pytest.approx(list(expected), abs=0.051)  # two steps of 1/40


def test_no_number_depends_on_the_order_of_rows_of_by_or_of_calls():
    table = make_predictions(90)
    one = report(table, by=["sex", "scanner"])
    other = report(table.sample(frac=1, random_state=2), by=["scanner", "sex"])
    for name, keys in (("groups", KEYS), ("gaps", ["subgroup", "metric"])):
        ordered = [getattr(found, name).sort_values(keys, ignore_index=True) for found in (one, other)]
        pd.testing.assert_frame_equal(*ordered)


def test_another_seed_draws_others_and_the_same_seed_the_same():
    table = make_predictions(90)
    first, again, other = (report(table, seed=seed).groups for seed in (4, 4, 5))
    pd.testing.assert_frame_equal(first, again)
    assert not first["low"].equals(other["low"])
    assert first["value"].equals(other["value"])


def test_arms_and_cycles_stand_side_by_side_on_the_same_draws():
    table = make_predictions(90)
    alone = report(table)
    worse = table.assign(score=np.round(table["score"] * 0.8, 2))
    runs = [("dirty", 10, table), ("clean", 10, table), ("clean", 2, worse)]
    found = report(pd.concat([of.assign(arm=arm, cycle=cycle) for arm, cycle, of in runs]))
    order = found.groups[["arm", "cycle"]].drop_duplicates()
    assert list(order.itertuples(index=False, name=None)) == [("dirty", 10), ("clean", 2), ("clean", 10)]
    for arm in ("dirty", "clean"):
        part = found.groups[(found.groups["arm"] == arm) & (found.groups["cycle"] == 10)]
        pd.testing.assert_frame_equal(part.drop(columns=["arm", "cycle"]).reset_index(drop=True), alone.groups)
    assert list(found.gaps.columns[:4]) == ["arm", "cycle", "subgroup", "metric"]


def test_a_change_is_the_gap_of_the_arm_minus_that_of_the_reference():
    table = make_predictions(90)
    fooled = table.assign(score=table["score"].where(table["sex"] == "M", table["score"].mean()))
    runs = [("clean", 0, table), ("dirty", 0, fooled), ("copy", 0, table), ("dirty", 1, fooled)]
    predictions = pd.concat([of.assign(arm=arm, cycle=cycle) for arm, cycle, of in runs])
    found = report(predictions)
    assert list(found.changes.columns) == [
        "cycle",
        *["subgroup", "metric", "arm", "reference", "change", "low", "high"],
    ]
    # In cycle 1 there is no clean arm to compare with.
    assert set(found.changes["cycle"]) == {0} and set(found.changes["reference"]) == {"clean"}
    change = pick(found.changes, arm="dirty", metric="auroc")
    gaps = {arm: pick(found.gaps, arm=arm, cycle=0, metric="auroc")["gap"] for arm in ("clean", "dirty")}
    assert change["change"] == pytest.approx(gaps["dirty"] - gaps["clean"])
    assert 0 < change["low"] < change["change"] < change["high"]
    same = found.changes[found.changes["arm"] == "copy"]
    assert list(same["change"]) == [0.0] * 5 and same[["low", "high"]].isna().all(axis=None)
    turned = report(predictions, reference="dirty").changes
    assert pick(turned, arm="clean", metric="auroc")["change"] == pytest.approx(-change["change"])
    assert pick(turned, arm="clean", metric="auroc")["low"] == pytest.approx(-change["high"])


def test_one_arm_changes_nothing():
    for columns in ({}, {"arm": "clean"}, {"cycle": 3}):
        found = report(make_predictions(40).assign(**columns))
        assert len(found.changes) == 0
        assert list(found.changes.columns[-7:]) == ["subgroup", "metric", "arm", "reference", "change", "low", "high"]
        assert list(found.gaps.columns[: len(columns)]) == list(columns)


@pytest.mark.parametrize("most_weights", [4_000_000, 3_000])
def test_chance_equals_the_hand_count_of_all_shuffles(monkeypatch, most_weights):
    monkeypatch.setattr(resampling, "MOST_WEIGHTS", most_weights)  # also where resamples come in blocks
    table = pd.DataFrame(
        {
            "subject": list("abcdefgh"),
            "sex": ["F", "F", "M", "M"] * 2,
            "diagnosis": [1] * 4 + [0] * 4,
            "score": [0.9, 0.8, 0.1, 0.2, 0.3, 0.3, 0.3, 0.3],
        }
    )
    found = pick(report(table, min_n=1, min_class=1, n_resamples=2000).gaps, metric="sensitivity")
    # Two of four patients are called. Of six ways to give two patients to F, two give both called to one sex: gap 1.
    assert found["gap"] == 1.0
    # The mean of 2,000 shuffles has a standard error of 0.0105.
    assert found["by_chance"] == pytest.approx(1 / 3, abs=0.045)
    assert found["p_value"] == pytest.approx(1 / 3, abs=0.045)


def test_without_an_effect_p_values_are_spread_evenly():
    p_values = [
        pick(report(make_predictions(100, seed=seed), seed=seed).gaps, metric="auroc")["p_value"] for seed in range(40)
    ]
    # Of 40 even draws the mean has a standard error of 0.046, and 16 or more below 0.2 come once in 300.
    assert 0.3 < np.mean(p_values) < 0.7
    assert np.sum(np.array(p_values) < 0.2) < 16


def test_what_shuffled_groups_would_give_is_the_gap_of_such_groups_and_not_of_all_others():
    rng, sizes = np.random.default_rng(7), {"A": 6, "B": 6, "C": 30}
    rows = [(name, kind) for name, n in sizes.items() for kind in (0, 1) for _ in range(n)]
    table = pd.DataFrame(rows, columns=["center", "diagnosis"])
    table = table.assign(subject=range(len(table)), score=rng.random(len(table)))
    truth, score, center = (table[name].to_numpy() for name in ("diagnosis", "score", "center"))

    def draw_gap():
        shuffled = center.copy()
        for kind in (0, 1):
            shuffled[truth == kind] = rng.permutation(center[truth == kind])
        found = [metrics.roc_auc_score(truth[shuffled == name], score[shuffled == name]) for name in sizes]
        return max(found) - min(found)

    gaps = [draw_gap() for _ in range(400)]
    found = pick(report(table, by=["center"]).gaps, metric="auroc")
    assert found["by_chance"] == pytest.approx(np.mean(gaps), abs=0.03)
    assert np.std(gaps) / 20 < 0.01, "the mean of as many draws as there are is known to three such errors"


def test_a_planted_effect_is_found_and_named():
    table = make_predictions(160, effect=0.6)
    table.loc[table["sex"] == "F", "score"] = np.random.default_rng(0).random((table["sex"] == "F").sum())
    found = pick(report(table).gaps, metric="auroc")
    assert (found["highest"], found["lowest"]) == ("M", "F")
    assert found["p_value"] < 0.01 and found["by_chance"] < 0.1 < found["low"]


def test_groups_that_are_too_small_say_why_and_count_in_no_gap():
    sizes = {"many": (10, 10), "few": (4, 3), "healthy": (0, 12), "ill": (12, 3)}
    rows = [(name, kind) for name, of in sizes.items() for kind, n in zip((1, 0), of, strict=True) for _ in range(n)]
    table = pd.DataFrame(rows, columns=["center", "diagnosis"])
    rng = np.random.default_rng(0)
    table = table.assign(subject=range(len(table)), score=rng.random(len(table)))
    table["center"] = pd.Categorical(table["center"], [*sizes, "empty"])
    found = report(table, by=["center"])
    reasons = found.too_small.set_index("group")[["metrics", "reason"]]
    assert dict(reasons["reason"]) == {
        "few": "7 subjects, fewer than 10",
        "healthy": "no patients",
        "ill": "3 controls, fewer than 5",
        "empty": "no subjects",
    }
    assert dict(reasons["metrics"]) == {
        "few": "all",
        "healthy": "sensitivity, f1, auroc",
        "ill": "specificity, auroc",
        "empty": "all",
    }
    gaps = found.gaps.set_index("metric")
    assert dict(gaps["n_groups"]) == {"accuracy": 3, "sensitivity": 2, "specificity": 2, "f1": 2, "auroc": 1}
    assert gaps.loc["auroc", ["gap", "low", "high", "by_chance", "p_value"]].isna().all()
    assert (gaps.loc["auroc", "highest"], gaps.loc["auroc", "lowest"]) == ("", "")
    assert gaps.drop("auroc")["gap"].notna().all()
    small = found.groups[found.groups["note"].isin(reasons["reason"])]
    assert small[["value", "low", "high"]].isna().all(axis=None) and len(small) == 5 + 3 + 2 + 5


def test_a_group_too_small_for_a_metric_does_not_widen_the_interval_of_its_gap():
    table = make_predictions(60).assign(sex=["F", "M"] * 30)
    others = make_predictions(15, seed=2).assign(sex="unknown", diagnosis=[1] * 12 + [0] * 3)
    others["subject"] = "other-" + others["subject"]
    both = report(pd.concat([table, others])).gaps.set_index("metric")
    alone = report(table).gaps.set_index("metric")
    assert (both.loc["specificity", "n_groups"], both.loc["sensitivity", "n_groups"]) == (2, 3)
    columns = ["gap", "low", "high", "highest", "lowest"]
    assert list(both.loc["specificity", columns]) == list(alone.loc["specificity", columns])


def test_groups_with_the_same_scores_are_drawn_apart():
    twins = [make_predictions(40).assign(sex=sex) for sex in ("F", "M")]
    twins[1]["subject"] = "twin-" + twins[1]["subject"]
    found = report(pd.concat(twins))
    assert list(found.gaps["gap"]) == [0.0] * 5
    assert (found.gaps["high"] > 0.05).all() and (found.gaps["low"] < -0.05).all()


def test_patients_and_controls_that_are_both_few_are_both_named(tiny):
    found = report(tiny, min_n=2, min_class=3, by=["sex"])
    women = pick(found.groups, group="F", metric="auroc")
    assert women["note"] == "2 patients, fewer than 3; 2 controls, fewer than 3"
    assert pick(found.too_small, group="M")["reason"] == "1 patient, fewer than 3; 1 control, fewer than 3"


def test_one_class_alone_leaves_the_other_metrics_undefined():
    table = make_predictions(30).assign(diagnosis=0)
    overall = report(table, by=()).groups.set_index("metric")
    assert overall.loc[["sensitivity", "f1", "auroc"], "value"].isna().all()
    assert overall.loc["specificity", "value"] == (table["score"] < 0.5).mean()


def test_one_group_has_no_gap():
    gaps = report(make_predictions(40).assign(sex="F")).gaps
    assert gaps["gap"].isna().all() and set(gaps["n_groups"]) == {1}


def test_age_bands_are_made_from_ages():
    found = report(make_predictions(200), by=["age_band", ("sex", "age_band")])
    assert list(dict.fromkeys(found.groups["group"]))[:5] == ["all", "<55", "55-64", "65-74", "75+"]
    assert list(dict.fromkeys(found.gaps["subgroup"])) == ["age band", "sex x age band"]


def test_more_confidence_asks_for_wider_intervals():
    table = make_predictions(90)
    narrow, wide = (report(table, confidence=confidence).groups for confidence in (0.5, 0.99))
    assert ((wide["high"] - wide["low"]) > (narrow["high"] - narrow["low"])).all()


def test_the_table_shows_intervals_and_reasons_and_no_nan(tiny):
    predictions = pd.concat([tiny.assign(arm=arm, cycle=cycle) for arm in ("clean", "qc") for cycle in (1, 2)])
    found = report(predictions, min_n=3, min_class=2)
    table = found.table(metrics=["auroc", "sensitivity"])
    assert list(table.columns) == ["subgroup", "group", "arm", "n", "n_positive", "n_negative", "auroc", "sensitivity"]
    assert list(zip(table["group"], table["arm"], strict=True)) == [
        (group, arm) for group in ("all", "F", "M") for arm in ("clean", "qc")
    ]
    assert list(table.loc[2, ["sensitivity", "n"]]) == ["0.50 (0.00 to 1.00)", 4]
    assert table.loc[4, "auroc"] == "2 subjects, fewer than 3"
    assert "nan" not in found.table(cycle=1).to_string().lower()
    certain = report(tiny, min_n=1, min_class=1).table()
    assert "arm" not in certain and certain.loc[2, "auroc"] == "1.00 (no interval)"
    assert certain.loc[2, "accuracy"] == "1.00 (0.16 to 1.00)"


def test_the_table_is_of_the_cycle_asked_for_and_of_the_last_one_otherwise(tiny):
    turned = tiny.assign(score=1 - tiny["score"])
    found = report(pd.concat([turned.assign(cycle=2), tiny.assign(cycle=7)]), min_n=1, min_class=1)
    for cycle, alone in ((2, turned), (7, tiny), (None, tiny)):
        expected = report(alone, min_n=1, min_class=1).table()
        pd.testing.assert_frame_equal(found.table(cycle=cycle), expected)
        assert set(expected.columns) == {"subgroup", "group", "n", "n_positive", "n_negative", *METRICS}


def test_the_table_refuses_what_the_report_does_not_hold(tiny):
    found = report(pd.concat([tiny.assign(cycle=cycle) for cycle in (4, 2)]), min_n=1, min_class=1)
    with pytest.raises(ValueError, match="^cycle must be one of 2, 4; came 3$"):
        found.table(cycle=3)
    known = "accuracy, sensitivity, specificity, f1, auroc"
    with pytest.raises(ValueError, match=f"^metrics must be among {known}; came kappa, lift$"):
        found.table(metrics=["kappa", "auroc", "lift"])


def test_a_report_says_of_itself_how_many_groups_are_too_small(tiny):
    start = "<b>SubgroupReport</b>: 6 subjects; "
    ends = "too small for a metric; 90 % intervals from 1,000 resamples"
    for by, least, said in (
        (["sex"], 3, "2 groups by sex, 1 of them"),
        (["sex"], 1, "2 groups by sex, 0 of them"),
        (["sex", "scanner"], 7, "3 groups by sex, scanner, 3 of them"),
        ([], 1, "0 groups by nothing, 0 of them"),
    ):
        table = tiny.assign(scanner="A")
        shown = report(table, by=by, min_n=least, min_class=1, confidence=0.9)._repr_html_()
        assert shown == f"{start}{said} {ends}"


def test_hostile_names_are_escaped_where_the_report_shows_itself():
    table = make_predictions(40).rename(columns={"sex": HOSTILE}).replace({HOSTILE: {"F": HOSTILE}})
    found = report(table, by=[HOSTILE])
    shown = found._repr_html_()
    assert "<img" not in shown and "&lt;img src=x" in shown
    assert "40 subjects; 2 groups" in shown and "95 % intervals from 1,000 resamples" in shown
    assert pick(found.gaps, metric="auroc")["subgroup"] == HOSTILE


def test_arms_with_other_subjects_diagnoses_or_groups_are_refused():
    table = make_predictions(20)
    clean = table.assign(arm="clean", cycle=0)
    with pytest.raises(ValueError, match="'sub-019' is in arm 'clean', cycle 0 and not in arm 'qc', cycle 0"):
        report(pd.concat([clean, table.iloc[:-1].assign(arm="qc", cycle=0)]))
    with pytest.raises(ValueError, match="'sub-020' is in arm 'qc', cycle 0 and not in arm 'clean', cycle 0"):
        extra = table.iloc[[0]].assign(subject="sub-020")
        report(pd.concat([clean, pd.concat([table, extra]).assign(arm="qc", cycle=0)]))
    turned = table.assign(diagnosis=[1 - table["diagnosis"][0], *table["diagnosis"][1:]])
    with pytest.raises(
        ValueError, match="one diagnosis.*'sub-000' is . in arm 'clean', cycle 0 and . in arm 'clean', cycle 1"
    ):
        report(pd.concat([clean, turned.assign(arm="clean", cycle=1)]))
    moved = table.assign(scanner=["C", *table["scanner"][1:]])
    with pytest.raises(ValueError, match="one scanner.*'sub-000' is .* and 'C' in arm 'qc', cycle 0"):
        report(pd.concat([clean, moved.assign(arm="qc", cycle=0)]), by=["scanner"])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"n_resamples": 999}, "n_resamples must be a whole number of at least 1,000; came 999"),
        ({"n_resamples": 1500.5}, "n_resamples must be a whole number"),
        ({"confidence": 0}, "confidence must lie between 0 and 1.*came 0"),
        ({"confidence": 1.0}, "confidence must lie between 0 and 1.*came 1.0"),
        ({"min_n": 0}, "min_n must be a whole number of at least 1; came 0"),
        ({"min_class": True}, "min_class must be a whole number of at least 1; came True"),
        ({"seed": -1}, "seed must be a whole number of at least 0; came -1"),
        ({"reference": "qc"}, r"reference must be one of the arms \['clean'\]; came 'qc'"),
        ({"threshold": float("nan")}, "threshold must be a number that scores can reach.*came nan"),
        ({"by": ["sex", "sex"]}, "nothing twice"),
        ({"by": [()]}, "at least one column at a time"),
    ],
)
def test_settings_outside_their_range_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        report(make_predictions(20).assign(arm="clean"), **settings)


@pytest.mark.parametrize("name", ["threshold", "confidence"])
def test_settings_that_are_no_numbers_are_refused(name):
    with pytest.raises(TypeError, match=f"{name} must be a number; came '0.5'"):
        report(make_predictions(20), **{name: "0.5"})


def test_predictions_that_cannot_be_counted_are_refused():
    table = make_predictions(20)
    with pytest.raises(KeyError, match="missing columns.*vendor"):
        report(table, by=["vendor"])
    with pytest.raises(KeyError, match="missing columns.*score"):
        report(table.drop(columns="score"))
    with pytest.raises(TypeError, match="came the string 'sex'"):
        report(table, by="sex")
    with pytest.raises(ValueError, match="subject 'sub-000' has several$"):
        report(pd.concat([table, table.head(1)]))
    with pytest.raises(ValueError, match="subject 'sub-000' has several in cycle 3"):
        report(pd.concat([table, table.head(1)]).assign(cycle=3))
    with pytest.raises(ValueError, match="came an empty table"):
        report(table.iloc[:0])
    with pytest.raises(ValueError, match="1 of 20 are NaN or infinite"):
        report(table.assign(score=[np.nan, *table["score"][1:]]))
    with pytest.raises(ValueError, match="column 'arm' is missing for 1 of 20 rows"):
        report(table.assign(arm=[None, *["clean"] * 19]))
