"""Cross-validation by subject and by record, its intervals, its null and the comparison of two pipelines."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.feature_selection import SelectKBest
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV, RidgeClassifier
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import (
    GridSearchCV,
    RandomizedSearchCV,
    StratifiedGroupKFold,
    StratifiedKFold,
    cross_val_score,
)
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dqc_lib.harmonization import (
    compare_folds,
    compare_to_chance,
    cross_validate,
    estimate_intervals,
    fit_site_scores,
    permute_labels,
    predict_held_out,
    score_folds,
    tune_inside,
)

NEAREST = KNeighborsClassifier(1)


def draw_records(*, n_subjects=40, n_each=10, effect=0.0, seed=0):
    """Return records that resemble each other within a subject, labels and subjects."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n_subjects) % 2)
    own = 3 * rng.normal(size=(n_subjects, 8)) + effect * labels[:, np.newaxis]
    subjects = np.repeat([f"sub-{number}" for number in range(n_subjects)], n_each)
    return np.repeat(own, n_each, axis=0) + rng.normal(size=(len(subjects), 8)), np.repeat(labels, n_each), subjects


RECORDS, LABELS, SUBJECTS = draw_records()


@pytest.mark.parametrize(("split", "kind"), [("subject", StratifiedGroupKFold), ("record", StratifiedKFold)])
def test_accuracies_are_those_of_scikit_learn_on_the_same_folds(split, kind):
    found = cross_validate(RECORDS, LABELS, SUBJECTS, split=split, folds=4, seed=3)
    model, folds = make_pipeline(StandardScaler(), LogisticRegression()), kind(4, shuffle=True, random_state=3)
    groups = {"groups": SUBJECTS} if split == "subject" else {}
    for name in ("accuracy", "balanced_accuracy"):
        expected = cross_val_score(model, RECORDS, LABELS, cv=folds, scoring=name, **groups)
        np.testing.assert_allclose(found[name], expected, atol=0.02)
    expected = cross_val_score(model, RECORDS, LABELS, cv=folds, scoring="roc_auc", **groups)
    np.testing.assert_allclose(found["auroc"], expected, atol=1e-3)


def test_without_an_effect_a_split_by_record_is_nearly_perfect_and_one_by_subject_is_chance():
    by_record = cross_validate(RECORDS, LABELS, SUBJECTS, split="record", model=NEAREST, seed=0)
    by_subject = cross_validate(RECORDS, LABELS, SUBJECTS, split="subject", model=NEAREST, seed=0, repeats=4)
    assert by_record["accuracy"].mean() > 0.98
    assert by_subject["accuracy"].mean() == pytest.approx(0.5, abs=0.12)


def test_a_fold_tells_what_stood_on_either_side():
    found = cross_validate(RECORDS, LABELS, SUBJECTS, folds=4, seed=0, repeats=2)
    assert found[["repeat", "fold"]].to_numpy().tolist() == [list(at) for at in itertools.product(range(2), range(4))]
    assert (found["n_train"] + found["n_test"] == 400).all()
    assert found.groupby("repeat")["n_test"].sum().tolist() == [400, 400]
    assert (found["n_subjects_train"] + found["n_subjects_test"] == 40).all()
    assert (found["n_subjects_shared"] == 0).all()
    by_record = cross_validate(RECORDS, LABELS, SUBJECTS, split="record", folds=4, seed=0)
    assert (by_record["n_subjects_shared"] == by_record["n_subjects_test"]).all()


def test_every_record_is_held_out_once_a_repeat_and_repeats_differ():
    found = predict_held_out(RECORDS, LABELS, SUBJECTS, seed=0, repeats=3)
    for _, part in found.groupby("repeat"):
        assert sorted(part["record"]) == list(range(400))
    assert (found["label"] == LABELS[found["record"]]).all() and (found["subject"] == SUBJECTS[found["record"]]).all()
    folds = [part.sort_values("record")["fold"].tolist() for _, part in found.groupby("repeat")]
    assert folds[0] != folds[1] != folds[2]
    again = predict_held_out(RECORDS, LABELS, SUBJECTS, seed=0, repeats=3)
    pd.testing.assert_frame_equal(found, again)


def test_no_test_record_shapes_what_another_is_called():
    changed = RECORDS.copy()
    found = predict_held_out(RECORDS, LABELS, SUBJECTS, seed=0).set_index("record")
    test = found.index[found["fold"] == 0]
    changed[test[1:]] += 1e6
    again = predict_held_out(changed, LABELS, SUBJECTS, seed=0).set_index("record")
    assert again.loc[test[0], "score"] == found.loc[test[0], "score"]


def test_features_selected_outside_the_folds_find_an_effect_in_noise_and_inside_do_not():
    rng = np.random.default_rng(1)
    noise, labels, subjects = rng.normal(size=(60, 3000)), np.arange(60) % 2, np.arange(60)
    chosen = SelectKBest(k=20).fit(noise, labels).transform(noise)
    outside = cross_validate(chosen, labels, subjects, seed=0)["accuracy"].mean()
    inside = make_pipeline(SelectKBest(k=20), StandardScaler(), LogisticRegression())
    found = cross_validate(noise, labels, subjects, model=inside, seed=0, repeats=2)["accuracy"].mean()
    assert outside > 0.85
    assert found == pytest.approx(0.5, abs=0.15)


def test_what_harmonizes_inside_a_fold_is_given_its_rows_and_the_model_what_it_makes():
    met, dealt = [], []

    def name_fold(train, test):
        dealt.append((set(train), set(test)))
        return train[:, np.newaxis] + 0.5, pd.DataFrame({"x": test + 0.5})

    options = {"model": Acquaintance(met), "folds": 4, "seed": 0, "repeats": 2, "prepare": name_fold}
    made = predict_held_out(RECORDS, LABELS, SUBJECTS, **options)
    assert met == [0] * 8 and len(dealt) == 8
    for (_, part), (train, test) in zip(made.groupby(["repeat", "fold"]), dealt, strict=True):
        assert set(part["record"]) == test and train == set(range(400)) - test
    compare_to_chance(RECORDS, LABELS, SUBJECTS, seed=0, folds=2, permutations=3, prepare=name_fold)
    assert len(dealt) == 8 + 2 * 4


def test_harmonized_inside_the_folds_no_test_subject_shapes_what_another_is_called():
    sites = np.where(np.arange(40) % 4 < 2, "A", "B")[np.repeat(np.arange(40), 10)]
    fitted = []

    def scale_sites(values):
        def prepare(train, test):
            scores = fit_site_scores(values[train], sites[train])
            fitted.append(scores)
            return scores.apply(values[train], sites[train]), scores.apply(values[test], sites[test])

        return prepare

    options = {"seed": 0, "prepare": scale_sites(RECORDS)}
    found = predict_held_out(RECORDS, LABELS, SUBJECTS, **options).set_index("record")
    test = found.index[found["fold"] == 0]
    changed = RECORDS.copy()
    changed[test[1:]] += 1e6
    again = predict_held_out(RECORDS, LABELS, SUBJECTS, seed=0, prepare=scale_sites(changed)).set_index("record")
    assert again.loc[test[0], "score"] == found.loc[test[0], "score"]
    np.testing.assert_array_equal(fitted[5].means, fitted[0].means)


@pytest.mark.parametrize(
    ("prepare", "error", "message"),
    [
        ("combat", TypeError, "prepare must be a function of training and test rows, got 'combat'"),
        (lambda train, test: RECORDS[train], TypeError, "prepare must return the values of training and of test"),
        (lambda train, test: (RECORDS[test], RECORDS[test]), ValueError, "training rows must have one entry for each"),
        (
            lambda train, test: (RECORDS[train], np.nan * RECORDS[test]),
            ValueError,
            "test values of prepare must be fin",
        ),
    ],
)
def test_what_harmonizes_wrongly_is_refused(prepare, error, message):
    with pytest.raises(error, match=message):
        cross_validate(RECORDS, LABELS, SUBJECTS, seed=0, prepare=prepare)


def test_folds_of_a_repeat_are_not_those_of_the_next_seed():
    def list_folds(seed):
        made = predict_held_out(RECORDS[:, :1], LABELS, SUBJECTS, seed=seed, repeats=2)
        return [tuple(part.sort_values("record")["fold"]) for _, part in made.groupby("repeat")]

    assert list_folds(0)[1] != list_folds(1)[0]


class Acquaintance(ClassifierMixin, BaseEstimator):
    """Notes in a list how many subjects of what it is asked were in its training; column 0 says who it is."""

    def __init__(self, met, depth=1):
        self.met, self.depth = met, depth

    def __sklearn_clone__(self):
        return type(self)(self.met, self.depth)

    def fit(self, records, labels):
        self.classes_, self.known_ = np.unique(labels), set(records[:, 0])
        return self

    def predict(self, records):
        self.met.append(len(self.known_.intersection(records[:, 0])))
        return np.full(len(records), self.classes_[0])

    def decision_function(self, records):
        return np.zeros(len(records))


def test_tuning_inside_a_fold_splits_by_subject_again():
    met = []
    records = np.column_stack([[int(name[4:]) for name in SUBJECTS], RECORDS])
    tuned = tune_inside(Acquaintance(met), {"depth": [1, 2]}, folds=3, seed=0)
    cross_validate(records, LABELS, SUBJECTS, model=tuned, folds=4, seed=0)
    assert met == [0] * (4 * (2 * 3 + 1))
    cross_validate(records, LABELS, SUBJECTS, model=Acquaintance(met), split="record", folds=4, seed=0)
    assert min(met[-4:]) > 30


NEIGHBORS = {"n_neighbors": [1, 5]}


@pytest.mark.parametrize(
    ("model", "culprit"),
    [
        (GridSearchCV(NEAREST, NEIGHBORS, cv=3), "GridSearchCV"),
        (RandomizedSearchCV(NEAREST, NEIGHBORS, n_iter=2), "RandomizedSearchCV"),
        (make_pipeline(StandardScaler(), GridSearchCV(NEAREST, NEIGHBORS, cv=3)), "GridSearchCV"),
        (make_pipeline(StandardScaler(), tune_inside(NEAREST, NEIGHBORS, seed=0)), "GridSearchCV"),
        (LogisticRegressionCV(cv=3), "LogisticRegressionCV"),
        (make_pipeline(StandardScaler(), LogisticRegressionCV(cv=3)), "LogisticRegressionCV"),
        (tune_inside(GridSearchCV(NEAREST, NEIGHBORS, cv=3), {"cv": [2, 3]}, seed=0), "GridSearchCV"),
    ],
    ids=str,
)
def test_what_would_tune_by_record_is_refused_and_told_how(model, culprit):
    with pytest.raises(ValueError, match=f"{culprit} splits the training records once more.*tune_inside\\(pipeline"):
        cross_validate(RECORDS, LABELS, SUBJECTS, model=model, seed=0)


def test_with_one_record_a_subject_any_search_splits_by_subject():
    records, labels, subjects = draw_records(n_each=1)
    for model in (GridSearchCV(NEAREST, NEIGHBORS, cv=3), tune_inside(NEAREST, NEIGHBORS, seed=0)):
        assert len(cross_validate(records, labels, subjects, model=model, seed=0)) == 5


class SignOfColumn(ClassifierMixin, BaseEstimator):
    """Says 1 where a column is above 0, and learns nothing."""

    def __init__(self, column=0):
        self.column = column

    def fit(self, records, labels):
        self.classes_ = np.unique(labels)
        return self

    def predict(self, records):
        return (records[:, self.column] > 0).astype(int)

    def decision_function(self, records):
        return records[:, self.column]


def test_choosing_on_the_test_fold_flatters_and_choosing_inside_does_not():
    noise, labels = np.random.default_rng(2).normal(size=(60, 50)), np.arange(60) % 2
    # a rule that learns nothing is as right in folds as in all: the best of 50 by chance
    best = max(float(((column > 0) == labels).mean()) for column in noise.T)
    chosen = tune_inside(SignOfColumn(), {"column": list(range(50))}, seed=0)
    inside = cross_validate(noise, labels, np.arange(60), model=chosen, seed=0)["accuracy"].mean()
    assert best > 0.62
    assert inside < 0.55  # if anything too low: what is above chance among 48 of these 60 is below it among the others


def test_scores_may_be_decisions_and_labels_may_be_texts():
    names = np.where(LABELS == 1, "patient", "control")
    found = cross_validate(RECORDS, names, SUBJECTS, model=RidgeClassifier(), seed=0)
    expected = cross_validate(RECORDS, LABELS, SUBJECTS, model=RidgeClassifier(), seed=0)
    pd.testing.assert_frame_equal(found, expected)
    assert found["auroc"].notna().all()


def test_metrics_of_a_fold_by_hand_and_where_they_are_undefined():
    row = {"repeat": 0, "fold": 0, "split": "record", "seed": 0, "n_train": 9, "n_subjects_train": 3}
    rows = {"label": [0, 0, 0, 1], "predicted": [0, 0, 1, 1], "score": [0.1, 0.2, 0.9, 0.8], "subject": list("aabc")}
    table = pd.DataFrame({**row, "n_subjects_shared": 1, **rows})
    found = score_folds(table).iloc[0]
    assert found["accuracy"] == 0.75 and found["balanced_accuracy"] == pytest.approx((2 / 3 + 1) / 2)
    assert found["auroc"] == pytest.approx(2 / 3) and found["n_subjects_test"] == 3
    one_class = score_folds(table[:3]).iloc[0]
    assert math.isnan(one_class["auroc"]) and one_class["accuracy"] == pytest.approx(2 / 3)


def test_three_classes_have_an_accuracy_and_no_auroc():
    labels = np.repeat(np.arange(42) % 3, 5)
    records = labels[:, np.newaxis] + np.random.default_rng(0).normal(0, 0.1, (210, 2))
    found = cross_validate(records, labels, np.repeat(np.arange(42), 5), seed=0)
    assert (found["accuracy"] == 1).all() and found["auroc"].isna().all()


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "auroc"])
@pytest.mark.parametrize("unit", ["subject", "record"])
def test_an_interval_is_that_of_drawing_units_one_by_one(metric, unit):
    predictions = predict_held_out(RECORDS, LABELS, SUBJECTS, seed=0)
    row = estimate_intervals(predictions, metric=metric, units=[unit], n_resamples=4000).iloc[0]
    rng, found = np.random.default_rng(7), []
    parts = [part.groupby(unit) for _, part in predictions.groupby("label")]
    pieces = [[piece for _, piece in part] for part in parts]
    if unit == "subject":
        for _ in range(100):
            drawn = [pd.concat([part[at] for at in rng.integers(len(part), size=len(part))]) for part in pieces]
            found.append(measure(pd.concat(drawn), metric))
    else:
        rows = [part.obj.reset_index(drop=True) for part in parts]
        for _ in range(100):
            drawn = [part.iloc[rng.integers(len(part), size=len(part))] for part in rows]
            found.append(measure(pd.concat(drawn), metric))
    assert row["value"] == pytest.approx(measure(predictions, metric))
    width = row["high"] - row["low"]
    np.testing.assert_allclose([row["low"], row["high"]], np.quantile(found, [0.025, 0.975]), atol=0.25 * width)
    assert (row["n_subjects"], row["n_records"]) == (40, 400)


def measure(table, metric):
    """Return a metric of predictions by scikit-learn."""
    if metric == "auroc":
        return roc_auc_score(table["label"], table["score"])
    if metric == "balanced_accuracy":
        return balanced_accuracy_score(table["label"], table["predicted"])
    return (table["label"] == table["predicted"]).mean()


def test_the_interval_over_records_is_far_too_narrow():
    predictions = predict_held_out(RECORDS, LABELS, SUBJECTS, model=NEAREST, seed=0)
    widths = estimate_intervals(predictions).set_index("unit").eval("high - low")
    assert widths["subject"] > 2 * widths["record"]


def test_with_one_record_a_subject_both_intervals_are_the_same():
    records, labels, subjects = draw_records(n_each=1)
    predictions = predict_held_out(records, labels, np.arange(40), seed=0)
    both = estimate_intervals(predictions)
    assert both.loc[0, ["low", "high"]].tolist() == both.loc[1, ["low", "high"]].tolist()


def test_where_all_resamples_agree_the_interval_is_exact_or_there_is_none():
    records = np.repeat(np.arange(20.0) % 2, 3)[:, np.newaxis]
    predictions = predict_held_out(records, records[:, 0].astype(int), np.repeat(np.arange(20), 3), seed=0)
    both = estimate_intervals(predictions)
    assert both["value"].tolist() == [1.0, 1.0] and both["high"].tolist() == [1.0, 1.0]
    # Clopper and Pearson by hand: n of n right
    assert both["low"].tolist() == pytest.approx([0.025 ** (1 / 20), 0.025 ** (1 / 60)])
    assert set(both["note"]) == {"exact interval: all resamples agree"}
    none = estimate_intervals(predictions, metric="auroc").iloc[0]
    assert math.isnan(none["low"]) and none["note"] == "no interval: all resamples agree"


def test_shuffled_labels_keep_subjects_and_classes_whole():
    labels, subjects = np.array([1, 1, 0, 0, 0, 1]), np.array(list("aabbcd"))
    seen = {tuple(permute_labels(labels, subjects, seed=seed)) for seed in range(300)}
    # two of the four subjects have label 1: six ways, and each of them comes up
    expected = {(a, a, b, b, c, d) for a, b, c, d in itertools.product((0, 1), repeat=4) if a + b + c + d == 2}
    assert seen == expected


def test_shuffled_labels_stay_within_their_stratum():
    labels, subjects = np.array([1, 1, 0, 0, 0, 1]), np.array(list("aabbcd"))
    strata = ["A", "A", "A", "A", "B", "B"]
    seen = {tuple(permute_labels(labels, subjects, seed=seed, strata=strata)) for seed in range(100)}
    assert seen == {(1, 1, 0, 0, 0, 1), (0, 0, 1, 1, 0, 1), (1, 1, 0, 0, 1, 0), (0, 0, 1, 1, 1, 0)}


def test_the_null_of_a_split_by_record_is_as_high_as_what_is_observed():
    found = compare_to_chance(RECORDS, LABELS, SUBJECTS, split="record", model=NEAREST, seed=0, permutations=19)
    assert found.observed > 0.98 and found.null.min() > 0.97 and found.p_value > 0.05
    assert (found.n_subjects, found.n_records, len(found.null)) == (40, 400, 19)
    assert "shuffled among 40 subjects (400 records)" in found._repr_html_()


def test_a_true_effect_is_beyond_its_null_and_no_p_value_is_0():
    records, labels, subjects = draw_records(effect=4.0)
    found = compare_to_chance(records, labels, subjects, model=NEAREST, seed=0, permutations=19)
    assert found.p_value == 1 / 20 and found.null.max() < found.observed
    fewer = compare_to_chance(records, labels, subjects, model=NEAREST, seed=0, permutations=3)
    assert found.null[:3].tolist() == fewer.null.tolist()


def test_an_undefined_metric_has_no_p_value():
    labels, subjects = np.arange(30) % 3, np.arange(30)
    records = labels[:, np.newaxis] + np.random.default_rng(0).normal(size=(30, 2))
    found = compare_to_chance(records, labels, subjects, seed=0, metric="auroc", permutations=3, folds=2)
    assert math.isnan(found.observed) and math.isnan(found.p_value) and "p = nan" in found._repr_html_()


def test_without_an_effect_p_values_are_spread_over_all_of_0_to_1():
    found = []
    for seed in range(12):
        records, labels, subjects = draw_records(n_subjects=20, n_each=3, seed=seed)
        model = {"model": NEAREST, "folds": 2, "metric": "auroc"}
        found.append(compare_to_chance(records, labels, subjects, seed=seed, permutations=9, **model).p_value)
    assert stats.kstest(found, "uniform").pvalue > 0.01 and min(found) < 0.25 and max(found) > 0.75


def tabulate(accuracies, **other):
    """Return a table of folds with these accuracies, 80 records to train and 20 to test."""
    table = pd.DataFrame({"repeat": 0, "fold": range(len(accuracies)), "split": "subject", "seed": 0})
    counts = {"n_train": 80, "n_test": 20, "n_subjects_train": 8, "n_subjects_test": 2, "n_subjects_shared": 0}
    return table.assign(**counts, accuracy=accuracies, auroc=np.nan, balanced_accuracy=accuracies).assign(**other)


def test_the_corrected_t_test_by_hand():
    first, second = [0.70, 0.75, 0.80, 0.65, 0.60], [0.74, 0.77, 0.86, 0.69, 0.60]
    found = compare_folds(tabulate(first), tabulate(second))
    # differences 0.04 0.02 0.06 0.04 0.00: mean 0.032, variance 0.00052
    t = 0.032 / math.sqrt((1 / 5 + 20 / 80) * 0.00052)
    assert found.t == pytest.approx(t)
    assert found.p_value == pytest.approx(2 * stats.t.sf(t, 4)) and found.p_value > 0.05
    assert found.verdict == "not distinguishable"  # with 1 / 5 alone p would be 0.035
    assert stats.ttest_rel(second, first).pvalue < 0.05
    assert (found.low + found.high) / 2 == pytest.approx(0.032) and found.low < 0
    assert (found.n_folds, found.n_subjects) == (5, 10)
    assert "+0.032" in found._repr_html_() and "5 folds of 10 subjects: not distinguishable" in found._repr_html_()


@pytest.mark.parametrize(
    ("second", "verdict"),
    [
        ([0.9, 0.91, 0.92], "second better"),
        ([0.1, 0.11, 0.12], "first better"),
        ([0.5, 0.5, 0.51], "not distinguishable"),
    ],
)
def test_verdicts(second, verdict):
    assert compare_folds(tabulate([0.5, 0.5, 0.5]), tabulate(second)).verdict == verdict


def test_the_same_pipeline_twice_is_not_distinguishable_and_has_no_p_value():
    table = tabulate([0.5, 0.7, 0.6])
    found = compare_folds(table, table)
    assert found.verdict == "not distinguishable" and found.difference == 0 and math.isnan(found.p_value)


def test_the_share_of_test_records_is_that_of_the_folds():
    first, second = [0.70, 0.75, 0.80], [0.74, 0.77, 0.86]
    sizes = {"n_train": 60, "n_test": 30}
    found = compare_folds(tabulate(first, **sizes), tabulate(second, **sizes))
    # differences 0.04 0.02 0.06: mean 0.04, variance 0.0004; 30 tested by 60 trained
    assert found.t == pytest.approx(0.04 / math.sqrt((1 / 3 + 1 / 2) * 0.0004))


@pytest.mark.parametrize("second", [[0.6, 0.6], [0.8, 0.8, 0.8]])
def test_folds_that_all_differ_by_the_same_show_no_scatter_and_no_certainty(second):
    found = compare_folds(tabulate([0.5] * len(second)), tabulate(second))
    assert found.difference == pytest.approx(second[0] - 0.5) and found.verdict == "not distinguishable"
    assert all(map(math.isnan, (found.low, found.high, found.t, found.p_value)))


def test_pipelines_are_compared_on_the_same_folds_only():
    table = tabulate([0.5, 0.7, 0.6])
    for other in (tabulate([0.5, 0.7]), tabulate([0.5, 0.7, 0.6], seed=1), tabulate([0.5, 0.7, 0.6], n_test=19)):
        with pytest.raises(ValueError, match="must have been tried on the same folds"):
            compare_folds(table, other)
    with pytest.raises(ValueError, match="expected two or more folds with a auroc for both, got 0"):
        compare_folds(table, table, metric="auroc")
    with pytest.raises(KeyError, match="missing columns"):
        compare_folds(table, table.drop(columns="seed"))


def test_rows_that_name_themselves_must_name_the_same():
    rows = pd.MultiIndex.from_arrays([SUBJECTS, np.tile(np.arange(10), 40)], names=["participant_id", "window"])
    records, of_row = pd.DataFrame(RECORDS, index=rows), {"index": rows}
    expected = cross_validate(RECORDS, LABELS, SUBJECTS, seed=0)
    labels, subjects = pd.Series(LABELS, **of_row), pd.Series(SUBJECTS, **of_row)
    pd.testing.assert_frame_equal(cross_validate(records, labels, subjects, seed=0), expected)
    by_subject = pd.Series(LABELS, index=rows.get_level_values("participant_id"))
    pd.testing.assert_frame_equal(cross_validate(records, by_subject, SUBJECTS, seed=0), expected)
    for moved in (labels.iloc[::-1], by_subject.iloc[::-1], pd.Series(LABELS)):
        with pytest.raises(ValueError, match="labels and records must be of the same subjects; row 0: "):
            cross_validate(records, moved, subjects, seed=0)
    with pytest.raises(ValueError, match="subjects and labels must be of the same subjects; row 0: "):
        compare_to_chance(RECORDS, labels, subjects.iloc[::-1], seed=0, permutations=1)


TWO_LABELS = LABELS.copy()
TWO_LABELS[0] = 1 - TWO_LABELS[0]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"labels": TWO_LABELS}, ValueError, "must have one label; those of 'sub-0' have several"),
        ({"labels": LABELS[:-1]}, ValueError, "labels must have one entry for each of 400 records, got 399"),
        ({"labels": np.ones(400)}, ValueError, r"labels must be of two or more classes, got \[1.0\]"),
        ({"labels": [None, *LABELS[1:]]}, ValueError, "labels must have an entry for every record; record 0 has none"),
        ({"labels": ["x", *LABELS[1:]]}, TypeError, "labels must be of one type, got several"),
        ({"labels": "patient"}, TypeError, "labels must be a sequence"),
        ({"subjects": [np.nan] * 400}, ValueError, "subjects must have an entry for every record; record 0 has none"),
        ({"records": np.full((400, 2), np.nan)}, ValueError, "record 0 is not, 400 such in all"),
        ({"records": RECORDS[:, 0]}, TypeError, r"records must be numbers, \(records, features\)"),
        ({"records": RECORDS.astype(str)}, TypeError, "records must be numbers"),
        ({"split": "window"}, ValueError, "split must be one of subject, record, got 'window'"),
        ({"split": 1}, TypeError, "split must be a text"),
        ({"folds": 1}, ValueError, "folds must be a whole number of at least 2"),
        ({"folds": 21}, ValueError, "every class must have as many subjects as folds, 21; [01] has 20"),
        ({"seed": -1}, ValueError, "seed must be a whole number of at least 0"),
        ({"repeats": 0}, ValueError, "repeats must be a whole number of at least 1"),
        ({"model": "logistic"}, TypeError, "model must be a scikit-learn classifier, got 'logistic'"),
    ],
)
def test_what_cannot_be_split_is_refused_by_name(change, error, message):
    given = {"records": RECORDS, "labels": LABELS, "subjects": SUBJECTS, "seed": 0} | change
    with pytest.raises(error, match=message):
        cross_validate(**given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"metric": "f1"}, "metric must be one of accuracy, balanced_accuracy, auroc, got 'f1'"),
        ({"units": ["window"]}, "units must be among subject and record, got 'window'"),
        ({"confidence": 1}, "confidence must lie between 0 and 1"),
        ({"n_resamples": 0}, "n_resamples must be a whole number of at least 1"),
    ],
)
def test_settings_of_intervals_are_checked(given, message):
    predictions = predict_held_out(RECORDS[:, :1], LABELS, SUBJECTS, seed=0, folds=2)
    with pytest.raises(ValueError, match=message):
        estimate_intervals(predictions, **given)


def test_settings_of_a_null_are_checked():
    with pytest.raises(ValueError, match="permutations must be a whole number of at least 1"):
        compare_to_chance(RECORDS, LABELS, SUBJECTS, seed=0, permutations=0)
    with pytest.raises(ValueError, match="must have one label; those of 'sub-0' have several"):
        permute_labels(TWO_LABELS, SUBJECTS, seed=0)
