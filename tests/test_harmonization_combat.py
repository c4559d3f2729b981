"""ComBat from site summaries, against neuroCombat on pooled subjects, and what it refuses."""

import warnings
from dataclasses import fields

import numpy as np
import pandas as pd
import pytest

from dqc_lib.harmonization import (
    Coding,
    agree_coding,
    find_site_effect,
    fit_combat,
    pool_variance,
    solve_coefficients,
    sum_squared_residuals,
    summarize_site,
)

SIZES = {"A": 30, "B": 20, "C": 25}


def draw_subjects(sizes, *, n_features=12, size=1.0, level=0.0, seed=0):
    """Return values with effects of sites, age and sex, the sites, and the covariates."""
    rng = np.random.default_rng(seed)
    sites = np.repeat(list(sizes), list(sizes.values()))
    n, at = len(sites), np.repeat(np.arange(len(sizes)), list(sizes.values()))
    covariates = pd.DataFrame({"age": rng.normal(65, 9, n), "sex": rng.choice(["F", "M"], n)})
    covariates["diagnosis"] = rng.choice(["AD", "MCI", "control"], n)
    scale = rng.uniform(0.6, 1.6, (len(sizes), n_features)) * rng.uniform(0.5, 2, n_features)
    values = rng.normal(size=(n, n_features)) * scale[at] + rng.normal(size=(len(sizes), n_features))[at]
    values += 0.05 * np.outer(covariates["age"] - 65, rng.normal(size=n_features))
    return level + size * values, sites, covariates


def ask_neurocombat(values, sites, covariates=None, *, reference=None, **options):
    """Return what neuroCombat makes of pooled subjects: values (n, features) and its estimates."""
    from neuroCombat import neuroCombat

    table = pd.DataFrame({"site": sites}) if covariates is None else covariates.assign(site=sites)
    with pytest.MonkeyPatch.context() as patched, warnings.catch_warnings():
        patched.setattr(np, "int", int, raising=False)  # neuroCombat 0.2.12 uses a name that NumPy has dropped
        warnings.simplefilter("ignore")  # it divides by 0 in places; what comes out is compared
        found = neuroCombat(
            values.T.copy(),
            table,
            "site",
            categorical_cols=[name for name in ("sex", "diagnosis") if name in table],
            continuous_cols=[name for name in ("age",) if name in table],
            ref_batch=reference,
            **options,
        )
    return found["data"].T, found["estimates"]


WAYS = [
    {"eb": eb, "parametric": parametric, "mean_only": mean_only}
    for eb, parametric in ((True, True), (True, False), (False, True))
    for mean_only in (False, True)
]


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("reference", [None, "B"])
@pytest.mark.parametrize("names", [("age", "sex", "diagnosis"), ("age",), ()])
def test_it_equals_neurocombat_on_pooled_subjects(way, reference, names):
    values, sites, covariates = draw_subjects(SIZES)
    table = covariates[list(names)] if names else None
    ours = {"empirical_bayes": way["eb"], "parametric": way["parametric"], "mean_only": way["mean_only"]}
    combat = fit_combat(values, sites, table, reference=reference, **ours)
    expected, estimates = ask_neurocombat(values, sites, table, reference=reference, **way)
    np.testing.assert_allclose(combat.apply(values, sites, table), expected, rtol=0, atol=1e-10)
    for at, site in enumerate(SIZES):
        effect = combat.site_effects[site]
        np.testing.assert_allclose(effect.shift, estimates["gamma.star"][at], rtol=0, atol=1e-10)
        np.testing.assert_allclose(effect.scale, estimates["delta.star"][at], rtol=0, atol=1e-10)


@pytest.mark.parametrize("sizes", [{"A": 4, "B": 3, "C": 50, "D": 12}, {"A": 2, "B": 2, "C": 40}], ids=str)
def test_small_sites_and_large_values_change_nothing_about_it(sizes):
    values, sites, covariates = draw_subjects(sizes, level=3000.0, size=400.0, seed=4)
    found = fit_combat(values, sites, covariates).apply(values, sites, covariates)
    expected, _ = ask_neurocombat(values, sites, covariates)
    np.testing.assert_allclose(found / 400, expected / 400, rtol=0, atol=1e-10)


@pytest.mark.parametrize("parametric", [True, False])
def test_a_site_with_one_subject_is_refused_unless_only_the_shift_is_taken_out(parametric):
    values, sites, _ = draw_subjects({"A": 1, "B": 20, "C": 15})
    with pytest.raises(ValueError, match="site 'A' has one subject, which has no spread; .* or mean_only=True"):
        fit_combat(values, sites, parametric=parametric)
    found = fit_combat(values, sites, mean_only=True, parametric=parametric).apply(values, sites)
    expected, _ = ask_neurocombat(values, sites, mean_only=True, parametric=parametric)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)


def test_the_nonparametric_way_is_finite_where_likelihoods_underflow():
    values, sites, _ = draw_subjects({"A": 700, "B": 600}, n_features=6, seed=2)
    broken, _ = ask_neurocombat(values, sites, parametric=False)
    found = fit_combat(values, sites, parametric=False).apply(values, sites)
    assert np.isnan(broken).any() and np.isfinite(found).all()
    # by hand, in logarithms, for one feature of one site
    combat = fit_combat(values, sites, parametric=False)
    effect, standard = combat.site_effects["A"], values[:700] - combat.coefficients.grand_mean
    own = (standard / np.sqrt(combat.variance))[:, 0]
    pairs = list(zip(effect.shift_found[1:], effect.scale_found[1:], strict=True))
    logs = np.array([-350 * np.log(d) - ((own - g) ** 2).sum() / (2 * d) for g, d in pairs])
    weights = np.exp(logs - logs.max())
    assert effect.shift[0] == pytest.approx(weights @ effect.shift_found[1:] / weights.sum(), abs=1e-9)


def test_a_reference_stays_as_it_is_bit_for_bit():
    values, sites, covariates = draw_subjects(SIZES)
    found = fit_combat(values, sites, covariates, reference="B").apply(values, sites, covariates)
    assert (found[sites == "B"] == values[sites == "B"]).all()
    assert not np.isclose(found[sites != "B"], values[sites != "B"]).any()


def test_subjects_with_unknown_covariates_are_treated_as_neurocombat_treats_new_ones():
    from neuroCombat import neuroCombatFromTraining

    values, sites, covariates = draw_subjects(SIZES)
    new, new_sites, new_covariates = draw_subjects({"A": 5, "C": 6}, seed=9)
    combat = fit_combat(values, sites, covariates)
    _, estimates = ask_neurocombat(values, sites, covariates)
    estimates["batches"] = np.array(["A", "B", "C"])  # it has numbered the sites and forgotten their names
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Conversion of an array with ndim > 0", DeprecationWarning)
        with pytest.MonkeyPatch.context() as patched:
            patched.setitem(neuroCombatFromTraining.__globals__, "int", lambda array: array.item())
            expected = neuroCombatFromTraining(new.T, new_sites, estimates)["data"].T
    unknown = ("age", "sex", "diagnosis")
    np.testing.assert_allclose(combat.apply(new, new_sites, unknown=unknown), expected, rtol=0, atol=1e-10)
    known = combat.apply(new, new_sites, new_covariates)
    assert np.abs(known - expected).max() > 1e-3


def test_of_covariates_the_unknown_alone_are_at_their_means():
    values, sites, covariates = draw_subjects(SIZES)
    covariates = covariates.assign(diagnosis=(covariates["diagnosis"] == "AD").astype(float))
    combat = fit_combat(values, sites, covariates)
    found = combat.apply(values, sites, covariates.drop(columns="diagnosis"), unknown=["diagnosis"])
    at_mean = covariates.assign(diagnosis=combat.coefficients.mean_covariates[2])
    # the mean is rounded to float32 as a covariate, and not as a mean
    np.testing.assert_allclose(found, combat.apply(values, sites, at_mean), rtol=0, atol=1e-6)
    nothing = combat.apply(values, sites, unknown=["age", "sex", "diagnosis"])
    assert np.abs(found - nothing).max() > 1e-2


def test_held_out_subjects_do_not_shape_what_is_taken_from_them():
    values, sites, covariates = draw_subjects(SIZES)
    train = np.arange(len(sites)) % 3 > 0
    fitted = fit_combat(values[train], sites[train], covariates[train])
    alone = fitted.apply(values[~train][:1], sites[~train][:1], covariates[~train][:1])
    together = fitted.apply(values[~train], sites[~train], covariates[~train])
    np.testing.assert_array_equal(alone[0], together[0])


def test_sites_that_are_truly_separate_reach_the_same_with_messages_alone():
    values, sites, covariates = draw_subjects(SIZES)
    held = {site: (values[sites == site], covariates[sites == site].reset_index(drop=True)) for site in SIZES}
    coding = Coding((("age", None), ("sex", ("F", "M")), ("diagnosis", ("AD", "MCI", "control"))))
    summaries = [summarize_site(*held[site], site=site, coding=coding) for site in SIZES]
    coefficients = solve_coefficients(summaries)
    sums = {site: sum_squared_residuals(*held[site], site=site, coefficients=coefficients) for site in SIZES}
    variance = pool_variance(coefficients, sums)
    expected, estimates = ask_neurocombat(values, sites, covariates)
    np.testing.assert_allclose(variance, estimates["var.pooled"].ravel(), rtol=1e-10)
    for at, site in enumerate(SIZES):
        effect = find_site_effect(sums[site], site=site, coefficients=coefficients, variance=variance)
        np.testing.assert_allclose(effect.shift, estimates["gamma.star"][at], rtol=0, atol=1e-10)
        own, table = held[site]
        model = coefficients.grand_mean + coding.encode(table) @ coefficients.slopes
        even = (own - model - effect.shift * np.sqrt(variance)) / np.sqrt(effect.scale) + model
        np.testing.assert_allclose(even, expected[sites == site], rtol=0, atol=1e-10)


def count_numbers(message):
    """Return how many numbers a message holds, whatever its fields are called."""
    if isinstance(message, np.ndarray):
        return message.size
    return sum(np.size(getattr(message, field.name)) for field in fields(message) if field.name not in NAMES)


NAMES = ("site", "features", "coding")


def test_what_is_sent_does_not_grow_with_the_number_of_subjects():
    found = {}
    for n in (10, 1000):
        values, _, covariates = draw_subjects({"A": n})
        summary = summarize_site(values, covariates, site="A", coding=agree_coding(covariates))
        found[n] = count_numbers(summary)
        assert summary.n_numbers == found[n] == 2 + 4 + 12 + 16 + 48
    values, sites, covariates = draw_subjects(SIZES)
    combat = fit_combat(values, sites, covariates)
    up = combat.sent[combat.sent["direction"] == "to the server"]
    assert up["n_numbers"].tolist() == [82, 82, 82, 12, 12, 12]
    assert up["n"].tolist() == [30, 20, 25] * 2


def test_what_comes_back_to_sites_is_listed_and_counted():
    values, sites, covariates = draw_subjects(SIZES)
    combat = fit_combat(values, sites, covariates)
    down = combat.sent[combat.sent["direction"] == "to the site"]
    assert down["site"].tolist() == ["A", "B", "C"] * 2 and down["round"].tolist() == [1, 1, 1, 2, 2, 2]
    names = ("counts", "intercepts", "slopes", "grand_mean", "mean_covariates")
    numbers = sum(np.size(getattr(combat.coefficients, name)) for name in names)
    assert down["n_numbers"].tolist() == [numbers] * 3 + [combat.variance.size] * 3
    assert down["n"].tolist() == [75] * 6 and down["smallest_group"].tolist() == [20, 25, 20] * 2
    assert f"{3 * (82 + 12)} numbers sent" in combat._repr_html_()


def test_a_site_of_one_is_told_of_to_the_others():
    values, sites, _ = draw_subjects({"A": 1, "B": 20, "C": 15})
    combat = fit_combat(values, sites, mean_only=True)
    np.testing.assert_allclose(combat.coefficients.intercepts[0], values[0])  # the subject, as every site gets it
    down = combat.sent[(combat.sent["direction"] == "to the site")].drop_duplicates("site").set_index("site")
    note = "tells of another site of 1, fewer than 5 subjects"
    assert down["note"].to_dict() == {"A": "", "B": note, "C": note}


@pytest.mark.parametrize(
    ("covariates", "smallest"),
    [
        # one woman has the disease, of 15 women and 15 ill
        ({"sex": ["F"] * 15 + ["M"] * 15, "ill": ["no"] * 14 + ["yes"] * 15 + ["no"]}, 1),
        ({"sex": ["F"] * 15 + ["M"] * 15, "ill": ["no", "yes"] * 15}, 7),
        ({"score": [0] * 28 + [1, 1000]}, 1),  # X'Y over 1000 is the subject
        ({"score": [0] * 20 + [1] * 4 + [2] * 6}, 4),
        ({"score": [0] * 20 + [1] * 10, "sex": ["F"] * 17 + ["M"] * 13}, 3),
        ({"age": np.arange(30.0) + 50}, 30),
        ({"age": [*np.arange(29.0), 1000]}, 1),
        ({"age": [50.0, 50.0, *np.arange(28.0)]}, 30),
    ],
)
def test_the_smallest_group_is_that_of_all_cells_that_sums_tell_of(covariates, smallest):
    table = pd.DataFrame(covariates)
    summary = summarize_site(VALUES[:30], table, site="A", coding=agree_coding(table))
    assert summary.smallest_group == smallest


def test_the_summary_of_two_subjects_by_hand():
    table = pd.DataFrame({"age": [60.0, 70.0]})
    summary = summarize_site(np.array([[1.0, 5.0], [3.0, 9.0]]), table, site="A", coding=agree_coding(table))
    assert (summary.mean_covariates, summary.products) == ([65.0], [[50.0]])
    assert summary.mean_values.tolist() == [2.0, 7.0]
    assert summary.cross_products.tolist() == [[10.0, 20.0]]


def test_the_site_effect_is_removed_and_the_effect_of_age_is_kept():
    rng = np.random.default_rng(5)
    n, at = 400, np.repeat([0, 1], 200)
    age = rng.normal(60 + 10 * at, 8)
    truth = -0.1 * age[:, np.newaxis] + rng.normal(size=(n, 20))
    values = truth + np.where(at == 1, 3.0, 0.0)[:, np.newaxis]
    sites, covariates = np.array(["A", "B"])[at], pd.DataFrame({"age": age})
    keeping = fit_combat(values, sites, covariates).apply(values, sites, covariates)
    dropping = fit_combat(values, sites).apply(values, sites)
    gap = truth[at == 1].mean() - truth[at == 0].mean()
    assert keeping[at == 1].mean() - keeping[at == 0].mean() == pytest.approx(gap, abs=0.15)
    assert abs(dropping[at == 1].mean() - dropping[at == 0].mean()) < 0.1  # what age did is gone with the site
    slope = np.polyfit(age, keeping.mean(axis=1), 1)[0]
    assert slope == pytest.approx(-0.1, abs=0.01)


def test_effects_are_in_the_units_of_the_features():
    values, sites, _ = draw_subjects({"A": 200, "B": 200}, seed=3)
    combat = fit_combat(values, sites, empirical_bayes=False)
    found = combat.effects.set_index(["site", "feature"])
    assert list(combat.effects) == ["site", "feature", "n", "shift_found", "shift", "scale_found", "scale"]
    assert found.loc[("A", "3"), "shift"] == pytest.approx((values[:200, 3] - values[:, 3].mean()).mean())
    pooled = np.concatenate([values[:200, 3] - values[:200, 3].mean(), values[200:, 3] - values[200:, 3].mean()]).std()
    assert found.loc[("B", "3"), "scale"] == pytest.approx(values[200:, 3].std(ddof=1) / pooled)
    assert set(found["n"]) == {200}


def test_names_come_back_and_subjects_may_stand_in_any_order():
    values, sites, covariates = draw_subjects(SIZES)
    subjects = [f"sub-{number}" for number in range(len(sites))]
    table = pd.DataFrame(values, index=subjects, columns=[f"region {number}" for number in range(12)])
    covariates = covariates.set_axis(subjects)
    combat = fit_combat(table, pd.Series(sites, index=subjects), covariates)
    found = combat.apply(table, sites, covariates)
    assert found.index.equals(table.index) and found.columns.equals(table.columns)
    order = np.random.default_rng(0).permutation(len(sites))
    again = fit_combat(table.iloc[order], sites[order], covariates.iloc[order])
    mixed = again.apply(table.iloc[order], sites[order], covariates.iloc[order])
    np.testing.assert_allclose(mixed.loc[subjects], found, rtol=0, atol=1e-10)
    assert combat.effects["feature"][0] == "region 0"


def test_covariates_are_rounded_to_float32_and_groups_coded_without_their_first_level():
    table = pd.DataFrame({"age": [0.1, 2.0], "sick": [True, False], "stage": [2, 1]})
    coding = agree_coding(table, categorical=["stage"])
    assert coding.columns == ("age", "sick=True", "stage=2")
    assert coding.encode(table).tolist() == [[float(np.float32(0.1)), 1.0, 1.0], [2.0, 0.0, 0.0]]


def test_few_subjects_behind_a_sum_are_named():
    values, sites, covariates = draw_subjects({"A": 4, "B": 30, "C": 30})
    covariates = covariates[["sex"]].assign(sick=[0.0] * 4 + [1.0] * 2 + [0.0] * 28 + [1.0] * 15 + [0.0] * 15)
    covariates["sex"] = (["F", "M"] * 32)[: len(sites)]
    combat = fit_combat(values, sites, covariates)
    of_site = combat.sent.drop_duplicates("site").set_index("site")
    assert of_site["smallest_group"].to_dict() == {"A": 2, "B": 1, "C": 7}
    assert of_site["note"].to_dict() == {
        "A": "tells of a group of 2, fewer than 5 subjects",
        "B": "tells of a group of 1, fewer than 5 subjects",
        "C": "",
    }
    assert "few subjects behind a sum of A, B" in combat._repr_html_()


def test_it_shows_itself_without_running_what_names_say():
    values, sites, covariates = draw_subjects({"<script>": 3, "B": 30})
    page = fit_combat(values, sites, covariates[["age"]].set_axis(["<b>age"], axis=1))._repr_html_()
    assert "<script>" not in page and "&lt;script&gt;" in page and "&lt;b&gt;age" in page
    assert "12 features, 33 subjects of 2 sites, smallest 3" in page


VALUES, SITES, COVARIATES = draw_subjects(SIZES)
AT = np.array([list(SIZES).index(site) for site in SITES])


def spoil(row, column, value):
    changed = VALUES.copy()
    changed[row, column] = value
    return changed


def name_rows(names):
    return pd.DataFrame(VALUES, index=names, columns=[f"f{number}" for number in range(VALUES.shape[1])])


ROWS = [f"s{number}" for number in range(len(SITES))]


@pytest.mark.parametrize(
    ("values", "sites", "covariates", "error", "message"),
    [
        (spoil(3, 2, np.nan), SITES, None, ValueError, "feature '2' of subject 3 is nan, 1 such values in all"),
        (spoil(3, 2, np.inf), SITES, None, ValueError, "feature '2' of subject 3 is inf"),
        (spoil(slice(None), 2, 7.0), SITES, None, ValueError, "feature '2' does not vary within any site"),
        (spoil(slice(None), 2, AT), SITES, None, ValueError, "feature '2' does not vary within any site"),
        (VALUES[:, :1], SITES, None, ValueError, "expected two or more of them, or empirical_bayes=False"),
        (VALUES[:, [0, 0]], SITES, None, ValueError, "site 'A': all features vary alike"),
        (VALUES[:0], SITES[:0], None, ValueError, "values must have subjects and features"),
        (VALUES[:, :0], SITES, None, ValueError, "values must have subjects and features"),
        (VALUES.astype(str), SITES, None, TypeError, "feature '0' must hold numbers"),
        (VALUES[0], SITES, None, TypeError, "values must be a DataFrame or an array"),
        (VALUES, SITES[:-1], None, ValueError, "sites must have one entry for each of 75 subjects, got 74"),
        (VALUES, "A", None, TypeError, "sites must be a sequence"),
        (VALUES, [*SITES[:-1], None], None, TypeError, "the site of subject 74 must be a name, got None"),
        (VALUES, np.full(75, "A"), None, ValueError, r"expected two or more sites to make comparable, got \['A'\]"),
        (name_rows(["s0", *ROWS[:-1]]), SITES, None, ValueError, "every subject must come once; 's0' comes 2 times"),
        (name_rows(ROWS), pd.Series(SITES), None, ValueError, "sites and values must be of the same subjects; row 0"),
        (name_rows(ROWS), SITES, COVARIATES, ValueError, "covariates and values must be of the same subjects; row 0"),
        (VALUES, SITES, COVARIATES[:-1], ValueError, "covariates must be of the 75 subjects of values, got 74"),
        (VALUES, SITES, COVARIATES.assign(age=np.nan), ValueError, "covariate 'age' is missing for 75 of 75 subjects"),
        (VALUES, SITES, COVARIATES.assign(age=1e300), ValueError, "covariate 'age' must be finite, also as float32"),
        (VALUES, SITES, COVARIATES.assign(age=61.0), ValueError, "covariate 'age' is 61 for all subjects"),
        (VALUES, SITES, COVARIATES.assign(sex="F"), ValueError, "covariate 'sex' is 'F' for all subjects"),
        (VALUES, SITES, COVARIATES.assign(half=COVARIATES["age"] / 2), ValueError, "'half' is determined by the site"),
        (
            VALUES,
            SITES,
            pd.DataFrame({"patient": (SITES == "B").astype(float)}),
            ValueError,
            r"covariate 'patient' does not vary within any site \('A': 0, 'B': 1, 'C': 0\), so its effect",
        ),
        (
            VALUES,
            SITES,
            pd.DataFrame({"group": np.where(SITES == "B", "AD", "control")}),
            ValueError,
            "covariate 'group=control' does not vary within any site",
        ),
        (VALUES[[0, 30, 31]], SITES[[0, 30, 31]], None, ValueError, "site 'A' has one subject"),
        (VALUES[[0, 30]], SITES[[0, 30]], None, ValueError, r"more subjects than coefficients \(2"),
    ],
)
def test_what_cannot_be_harmonized_is_refused_by_name(values, sites, covariates, error, message):
    with pytest.raises(error, match=message):
        fit_combat(values, sites, covariates)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"sites": ["Z"] * 75}, ValueError, r"sites must be among \['A', 'B', 'C'\], those of the fit; got 'Z'"),
        ({"values": VALUES[:, :3]}, ValueError, "features must be the 12 of the fit"),
        ({"covariates": None}, TypeError, "covariates must be a DataFrame"),
        ({"covariates": COVARIATES[["age", "sex"]]}, KeyError, r"missing covariates \['diagnosis'\]"),
        ({"covariates": COVARIATES.assign(sex="X")}, ValueError, "'sex' of subject 0 must be one of 'F', 'M', got 'X'"),
        ({"covariates": COVARIATES.assign(age="old")}, TypeError, "covariate 'age' must hold numbers"),
        ({"unknown": ("weight",)}, KeyError, "unknown must be among the covariates"),
        ({"unknown": "age"}, TypeError, "unknown must be a list of names"),
    ],
)
def test_what_was_not_fitted_is_not_applied(change, error, message):
    given = {"values": VALUES, "sites": SITES, "covariates": COVARIATES} | change
    combat = fit_combat(VALUES, SITES, COVARIATES)
    with pytest.raises(error, match=message):
        combat.apply(**given)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"categorical": ["weight"]}, KeyError, r"missing covariates \['weight'\]"),
        ({"categorical": "sex"}, TypeError, "categorical must be a list of names"),
        ({"reference": "Z"}, ValueError, r"reference must be one of \['A', 'B', 'C'\], got 'Z'"),
        ({"parametric": 1}, TypeError, "parametric must be a bool"),
        ({"covariates": COVARIATES.assign(sex=["F", 1] + ["M"] * 73)}, TypeError, "'sex' must hold values of one type"),
        ({"covariates": [1, 2]}, TypeError, "covariates must be a DataFrame"),
    ],
)
def test_settings_are_checked(change, error, message):
    with pytest.raises(error, match=message):
        fit_combat(**({"values": VALUES, "sites": SITES, "covariates": COVARIATES} | change))


def test_a_server_refuses_messages_that_do_not_go_together():
    summaries = [summarize_site(VALUES[SITES == site], site=site) for site in SIZES]
    with pytest.raises(ValueError, match="every site must send one summary; 'A' sent 2"):
        solve_coefficients([*summaries, summaries[0]])
    with pytest.raises(ValueError, match="sites must have the same features and coding; 'B' and 'A' differ"):
        solve_coefficients([summaries[0], summarize_site(VALUES[:9, :3], site="B")])
    coefficients = solve_coefficients(summaries)
    with pytest.raises(KeyError, match=r"missing sums of squared residuals of \['C'\]"):
        pool_variance(coefficients, {"A": np.ones(12), "B": np.ones(12)})


def test_a_feature_that_is_constant_at_one_site_keeps_its_spread_as_in_neurocombat():
    # 16 subjects: the mean of as many equal numbers is exact, so that neuroCombat sees a variance of 0
    values, sites, _ = draw_subjects({"A": 30, "B": 16})
    values[sites == "B", 2] = 5.0
    expected, estimates = ask_neurocombat(values, sites)
    combat = fit_combat(values, sites)
    assert combat.site_effects["B"].scale_found[2] == estimates["delta_hat"][1][2] == 1.0
    np.testing.assert_allclose(combat.apply(values, sites), expected, rtol=0, atol=1e-10)
