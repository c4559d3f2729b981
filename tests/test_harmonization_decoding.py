"""How well sites are told apart, and how a model does at a site that it has never seen."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dqc_lib.harmonization import cross_validate, decode_sites, evaluate_leave_site_out, fit_combat

SITES = np.repeat(["A", "B", "C"], [60, 40, 20])
AT = np.repeat([0, 1, 2], [60, 40, 20])


def draw_features(*, apart=0.0, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(120, 6)) + apart * rng.normal(size=(3, 6))[AT]


def test_sites_that_lie_apart_are_all_found_and_intervals_are_exact():
    found = decode_sites(draw_features(apart=50.0), SITES, seed=0)
    assert (found.accuracy, found.balanced_accuracy) == (1.0, 1.0)
    # Clopper and Pearson by hand: 120 of 120 subjects
    assert (found.accuracy_low, found.accuracy_high) == (pytest.approx(0.025 ** (1 / 120)), 1.0)
    assert found.sites["found"].tolist() == [1.0] * 3 and found.sites["taken_for"].tolist() == [""] * 3


def test_sites_that_do_not_differ_are_found_by_chance_which_has_two_names():
    found = decode_sites(draw_features(), SITES, seed=0)
    assert found.majority == 0.5 and found.uniform == pytest.approx(1 / 3)
    assert found.accuracy_low < found.majority + 0.05 and found.balanced_low < found.uniform < found.balanced_high
    assert (found.n, found.n_subjects) == (120, 120)


def test_rates_are_those_of_the_predictions():
    found = decode_sites(draw_features(apart=0.6), SITES, seed=0)
    table = found.predictions
    assert sorted(table["record"]) == list(range(120)) and (table["label"] == SITES[table["record"]]).all()
    assert found.accuracy == (table["label"] == table["predicted"]).mean()
    assert found.balanced_accuracy == pytest.approx(balanced_accuracy_score(table["label"], table["predicted"]))
    confusion = pd.crosstab(table["label"], table["predicted"])
    for row in found.sites.itertuples():
        others = confusion.loc[row.site].drop(row.site)
        assert row.found == pytest.approx(confusion.loc[row.site, row.site] / confusion.loc[row.site].sum())
        assert others[row.taken_for] == others.max()
    assert found.sites[["n", "n_subjects"]].to_numpy().tolist() == [[60, 60], [40, 40], [20, 20]]
    assert found.accuracy_low < found.accuracy < found.accuracy_high
    # as many independent subjects: the interval is about that of a share
    width = stats.norm.ppf(0.975) * np.sqrt(found.accuracy * (1 - found.accuracy) / 120)
    assert (found.accuracy_high - found.accuracy_low) / 2 == pytest.approx(width, rel=0.3)


def test_records_of_a_subject_are_never_on_both_sides():
    rng = np.random.default_rng(1)
    own = 5 * rng.normal(size=(30, 4))
    records = np.repeat(own, 10, axis=0) + 0.1 * rng.normal(size=(300, 4))
    sites, subjects = np.repeat(["A", "B"], 150), np.repeat(np.arange(30), 10)
    nearest = KNeighborsClassifier(1)
    known = decode_sites(records, sites, seed=0, model=nearest)
    new = decode_sites(records, sites, groups=subjects, seed=0, model=nearest)
    assert known.accuracy == 1.0  # subjects give their site away
    assert new.accuracy < 0.8 and (new.n, new.n_subjects) == (300, 30)
    assert new.accuracy_high - new.accuracy_low > 0.15
    assert not new.predictions.groupby("subject")["fold"].nunique().gt(1).any()


def test_a_subject_who_was_at_two_sites_belongs_to_both():
    features = draw_features(apart=5.0)[:100]
    found = decode_sites(features, SITES[:100], groups=np.arange(100) % 40, folds=4, seed=0)
    assert found.sites["n_subjects"].tolist() == [40, 40] and found.n_subjects == 40
    assert found.accuracy > 0.9


def test_a_small_site_counts_in_the_folds_that_it_is_in():
    features = np.vstack([draw_features(apart=50.0), np.full((2, 6), 500.0)])
    found = decode_sites(features, [*SITES, "D", "D"], seed=0)
    assert found.sites.set_index("site").loc["D", "n"] == 2
    assert "D 1.00" in found._repr_html_()
    assert found.note == "interval too narrow: 2 subjects of class 'D', fewer than 5"
    assert "interval too narrow: 2 subjects of class &#x27;D&#x27;" in found._repr_html_()
    assert decode_sites(features[:120], SITES, seed=0).note == "exact interval: all resamples agree"


def test_a_linear_model_does_not_see_scatter_and_another_does():
    rng = np.random.default_rng(2)
    features = rng.normal(size=(400, 8)) * np.repeat([1.0, 4.0], 200)[:, np.newaxis]
    sites = np.repeat(["A", "B"], 200)
    linear = decode_sites(features, sites, seed=0)
    near = decode_sites(np.abs(features), sites, seed=0)
    assert linear.accuracy < 0.6 and near.accuracy > 0.9


def test_combat_fitted_to_training_subjects_hides_the_sites_of_others():
    features, train = draw_features(apart=2.0), np.arange(120) % 2 == 0
    even = fit_combat(features[train], SITES[train]).apply(features[~train], SITES[~train])
    before = decode_sites(features[~train], SITES[~train], seed=0)
    after = decode_sites(even, SITES[~train], seed=0)
    assert before.balanced_accuracy > 0.85
    assert after.balanced_low < after.uniform + 0.05


def test_sites_in_another_order_than_their_subjects_are_refused():
    names = [f"sub-{number}" for number in range(120)]
    features, sites = pd.DataFrame(draw_features(apart=50.0), index=names), pd.Series(SITES, index=names)
    assert decode_sites(features, sites, seed=0).accuracy == 1.0
    with pytest.raises(ValueError, match="sites and features must be of the same subjects; row 0: 'sub-119'"):
        decode_sites(features, sites.iloc[::-1], seed=0)
    with pytest.raises(ValueError, match="sites and features must be of the same subjects; row 0: 'sub-119'"):
        evaluate_leave_site_out(features, np.arange(120) % 2, sites.iloc[::-1], seed=0)


def test_it_shows_itself_without_running_what_names_say():
    page = decode_sites(draw_features(), np.where(SITES == "A", "<script>", SITES), seed=0)._repr_html_()
    assert "<script>" not in page and "&lt;script&gt;" in page and "120 records of 120 subjects" in page


def test_harmonization_inside_the_folds_is_fitted_to_training_rows():
    features, dealt = draw_features(apart=2.0), []

    def harmonize(train, test):
        dealt.append((set(train), set(test)))
        combat = fit_combat(features[train], SITES[train])
        return combat.apply(features[train], SITES[train]), combat.apply(features[test], SITES[test])

    assert decode_sites(features, SITES, seed=0).balanced_accuracy > 0.85
    after = decode_sites(features, SITES, seed=0, prepare=harmonize)
    # an artefact, no proof that the sites are gone: those that the model learns from are centred
    assert after.balanced_accuracy == pytest.approx(after.uniform, abs=0.05)
    of_fold = after.predictions.groupby("fold")["record"].agg(set)
    assert [test for _, test in dealt] == of_fold.tolist() and len(dealt) == 5
    assert all(train == set(range(120)) - test for train, test in dealt)


def test_what_is_made_for_a_site_is_made_from_the_others():
    labels, dealt = np.arange(120) % 2, []

    def standardize(train, test):
        dealt.append((train, test))
        features = draw_features() + labels[:, np.newaxis]
        return features[train], features[test]

    found = evaluate_leave_site_out(np.zeros((120, 1)), labels, SITES, seed=0, prepare=standardize)
    assert (found["auroc"] > 0.8).all()
    for site, (train, test) in zip("ABC", dealt, strict=True):
        assert set(SITES[test]) == {site} and site not in SITES[train] and len(train) + len(test) == 120
    with pytest.raises(ValueError, match="sites must be among .*those of the fit; got 'A'"):
        evaluate_leave_site_out(
            draw_features(),
            labels,
            SITES,
            seed=0,
            prepare=lambda train, test: (
                draw_features()[train],
                fit_combat(draw_features()[train], SITES[train]).apply(draw_features()[test], SITES[test]),
            ),
        )


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"sites": ["A"] * 120}, ValueError, r"expected records of two or more sites, got \['A'\]"),
        ({"sites": ["A"] * 119 + ["B"]}, ValueError, "every site needs two subjects and one of them 5.*'B' has 1"),
        ({"folds": 61}, ValueError, "one of them 61, as many as folds; 'C' has 20 and 'A' 60"),
        ({"sites": SITES[:3]}, ValueError, "sites must have one entry for each of 120 records, got 3"),
        ({"groups": [1]}, ValueError, "groups must have one entry for each of 120 records, got 1"),
        ({"features": np.full((120, 2), np.nan)}, ValueError, "features must be finite; record 0 is not"),
        ({"features": "all"}, TypeError, "features must be numbers"),
        ({"features": 3}, TypeError, "features must be numbers"),
        ({"folds": 1}, ValueError, "folds must be a whole number of at least 2"),
        ({"seed": None}, TypeError, "seed must be a whole number"),
        ({"confidence": 2}, ValueError, "confidence must lie between 0 and 1"),
    ],
)
def test_what_cannot_be_decoded_is_refused(change, error, message):
    with pytest.raises(error, match=message):
        decode_sites(**({"features": draw_features(), "sites": SITES, "seed": 0} | change))


def test_a_site_is_scored_by_a_model_of_all_others():
    rng = np.random.default_rng(3)
    labels = rng.integers(2, size=120)
    features = rng.normal(size=(120, 6)) + labels[:, np.newaxis]
    found = evaluate_leave_site_out(features, labels, SITES, seed=0).set_index("site")
    for site in "ABC":
        test = SITES == site
        model = make_pipeline(StandardScaler(), LogisticRegression()).fit(features[~test], labels[~test])
        score = model.predict_proba(features[test])[:, 1]
        row = found.loc[site]
        assert row["auroc"] == pytest.approx(roc_auc_score(labels[test], score), abs=0.02)
        assert row["accuracy"] == pytest.approx((model.predict(features[test]) == labels[test]).mean(), abs=0.05)
        assert row["low"] <= row["auroc"] <= row["high"]
        counts = [row["n"], row["n_positive"], row["n_negative"], row["n_train"]]
        assert counts == [test.sum(), labels[test].sum(), (labels[test] == 0).sum(), (~test).sum()]


def test_what_site_and_label_share_does_not_help_at_a_new_site():
    rng = np.random.default_rng(4)
    share = np.repeat([0.2, 0.8] * 3, 100)
    sites, labels = np.repeat(list("ABCDEF"), 100), (rng.uniform(size=600) < share).astype(int)
    # no disease shows in the features: what two scanners do shows, and where patients are many is the one of them
    features = rng.normal(size=(600, 4)) + 3 * share[:, np.newaxis]
    pooled = cross_validate(features, labels, np.arange(600), seed=0)["auroc"].mean()
    found = evaluate_leave_site_out(features, labels, sites, seed=0)
    assert pooled > 0.75
    assert found["auroc"].mean() == pytest.approx(0.5, abs=0.05)
    assert ((found["low"] < 0.5) & (found["high"] > 0.5)).sum() >= 5


def test_an_auroc_of_two_patients_has_no_interval():
    labels = np.arange(120) % 2
    labels[AT == 2] = np.arange(20) < 2
    found = evaluate_leave_site_out(draw_features(), labels, SITES, seed=0).set_index("site")
    assert found.loc["C", ["low", "high"]].isna().all() and not np.isnan(found.loc["C", "auroc"])
    assert found.loc["C", "note"] == "no interval: 2 subjects of class 1, fewer than 5"
    assert found.loc["A", "note"] == "" and not np.isnan(found.loc["A", "low"])


def test_where_there_is_one_class_there_is_no_auroc():
    labels = np.where(SITES == "A", 1, np.arange(120) % 2)
    found = evaluate_leave_site_out(draw_features(), labels, SITES, seed=0).set_index("site")
    assert found.loc["A", ["auroc", "low", "high"]].isna().all() and found.loc["A", "note"] == "one class at the site"
    assert found.loc["A", "n_negative"] == 0 and not np.isnan(found.loc["A", "accuracy"])
    only = np.where(SITES == "B", np.arange(120) % 2, 1)
    found = evaluate_leave_site_out(draw_features(), only, SITES, seed=0).set_index("site")
    assert found.loc["B", ["accuracy", "auroc"]].isna().all()
    assert found.loc["B", "note"] == "one class at all other sites"


def test_subjects_who_travelled_are_not_trained_on_where_they_are_tested():
    rng = np.random.default_rng(6)
    # who a record is of shows, and nothing else: half of them were at all three sites, the others at A alone
    own, labels = 5 * rng.normal(size=(80, 4)), rng.permutation(np.arange(80) % 2)
    subjects = np.concatenate([np.tile(np.arange(40), 3), np.arange(40, 80)])
    sites = np.repeat(["A", "B", "C", "A"], 40)
    records = own[subjects] + 0.1 * rng.normal(size=(160, 4))
    settings = {"model": KNeighborsClassifier(1), "seed": 0}
    known = evaluate_leave_site_out(records, labels[subjects], sites, **settings).set_index("site")
    new = evaluate_leave_site_out(records, labels[subjects], sites, subjects=subjects, **settings).set_index("site")
    assert known.loc["B", "auroc"] == 1.0 and known.loc["B", "n_train"] == 120
    assert new.loc[["B", "C"], "auroc"].between(0.3, 0.7).all()
    assert new["n_subjects_travelled"].tolist() == [40, 40, 40] and new["n_train"].tolist() == [0, 40, 40]
    assert np.isnan(new.loc["A", "auroc"]) and new.loc["A", "note"] == "everybody at other sites was at this one, too"


def test_intervals_are_over_subjects():
    rng = np.random.default_rng(5)
    own = rng.normal(size=(60, 3)) + 0.7 * (np.arange(60) % 2)[:, np.newaxis]
    records, labels = np.repeat(own, 20, axis=0), np.repeat(np.arange(60) % 2, 20)
    sites, subjects = np.repeat(["A", "B"], 600), np.repeat(np.arange(60), 20)
    whole = evaluate_leave_site_out(records, labels, sites, subjects=subjects, seed=0)
    single = evaluate_leave_site_out(own, np.arange(60) % 2, np.repeat(["A", "B"], 30), seed=0)
    false = evaluate_leave_site_out(records, labels, sites, seed=0)
    np.testing.assert_allclose(whole["auroc"], single["auroc"], atol=0.02)
    assert whole["n_subjects"].tolist() == [30, 30]
    # copies of a record add nothing to what is known
    widths = [table["high"] - table["low"] for table in (whole, single, false)]
    np.testing.assert_allclose(widths[0], widths[1], rtol=0.2)
    assert (widths[2] < 0.4 * widths[0]).all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"labels": np.arange(120) % 3}, ValueError, r"expected two classes and two or more sites, got \[0, 1, 2\]"),
        ({"sites": ["A"] * 120}, ValueError, r"at \['A'\]"),
        ({"subjects": ["p"] * 120}, ValueError, "all records of a subject must have one label; those of 'p'"),
        ({"labels": np.ones(3)}, ValueError, "labels must have one entry for each of 120 records, got 3"),
        ({"confidence": "high"}, TypeError, "confidence must be a number"),
        ({"seed": 0.5}, TypeError, "seed must be a whole number"),
    ],
)
def test_what_cannot_be_left_out_is_refused(change, error, message):
    given = {"features": draw_features(), "labels": np.arange(120) % 2, "sites": SITES, "seed": 0} | change
    with pytest.raises(error, match=message):
        evaluate_leave_site_out(**given)
