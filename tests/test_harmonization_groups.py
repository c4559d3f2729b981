"""Patient groups: found where they are, unstable where they are not, and held against sites."""

import math

import numpy as np
import pandas as pd
import pytest

from dqc_lib.harmonization import Groups, associate_with_site, find_groups, judge_groups, measure_stability
from dqc_lib.harmonization.groups import _match
from dqc_lib.simulation import ClinicalRecipe, simulate_clinical
from dqc_lib.simulation.clinical import SCHOOL, SCORES

HOSTILE = "<img src=x onerror=alert(1)>"
TRUE = ClinicalRecipe(n_groups=3, distance=3.0)
SITES = ClinicalRecipe(site=3.0)


def make_series(text):
    """Return one letter a subject."""
    return pd.Series(list(text), index=[f"s{number}" for number in range(len(text))])


def make_blobs(*sizes, apart=20.0, seed=0):
    """Return a table of clouds of points far apart, and the number of everybody's cloud."""
    rng = np.random.default_rng(seed)
    cloud = np.repeat(np.arange(len(sizes)), sizes)
    values = rng.standard_normal((len(cloud), 2)) + apart * np.column_stack([cloud, cloud % 2])
    return pd.DataFrame(values, columns=["x", "y"], index=[f"s{number}" for number in range(len(cloud))]), cloud


def agree(labels, truth):
    """Return whether two partitions are the same but for names."""
    return len(set(zip(labels, truth, strict=True))) == len(set(labels)) == len(set(truth))


# simulation


def test_the_same_recipe_gives_the_same_patients_and_another_seed_others():
    first, again, other = (simulate_clinical(ClinicalRecipe(seed=seed)).scores for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(first, again)
    assert not first.equals(other)


def test_without_groups_and_schools_scores_have_the_means_they_are_named_with():
    scores = simulate_clinical(ClinicalRecipe(subjects=(20_000,))).scores
    for name, (mean, spread) in SCORES.items():
        assert scores[name].mean() == pytest.approx(mean, abs=0.05 * spread)
        assert scores[name].std() == pytest.approx(spread, rel=0.05)


def test_the_second_school_measures_otherwise_by_what_is_said():
    data = simulate_clinical(ClinicalRecipe(subjects=(10_000, 10_000), site=2.0))
    means = data.scores.groupby(data.truth["school"]).mean()
    spreads = np.array([spread for _, spread in SCORES.values()])
    np.testing.assert_allclose((means.loc[2] - means.loc[1]) / spreads, 2.0 * np.array(SCHOOL), atol=0.06)
    assert data.sites[data.truth["school"] == 2].unique().tolist() == ["site-2"]


def test_true_groups_are_equally_frequent_at_every_site():
    data = simulate_clinical(ClinicalRecipe(subjects=(9, 6), n_groups=3, distance=1.0))
    counts = pd.crosstab(data.sites, data.truth["group"])
    assert counts.loc["site-1"].tolist() == [3, 3, 3]
    assert counts.loc["site-2"].tolist() == [2, 2, 2]


def test_with_full_confounding_every_site_has_the_group_it_attracts():
    data = simulate_clinical(ClinicalRecipe(subjects=(5, 5, 5, 5), n_groups=3, distance=1.0, confounding=1.0))
    counts = pd.crosstab(data.sites, data.truth["group"])
    assert counts.to_numpy().tolist() == [[5, 0, 0], [0, 5, 0], [0, 0, 5], [5, 0, 0]]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"confounding": 1.1}, ValueError, "confounding must be at most 1, got 1.1"),
        ({"subjects": ()}, ValueError, "at least one for every site"),
        ({"subjects": (3, 0)}, ValueError, "at least one for every site"),
        ({"subjects": 7}, TypeError, "subjects must be sizes"),
        ({"n_groups": 5}, ValueError, "at most 4, got 5"),
        ({"n_groups": 0}, ValueError, "at least 1, got 0"),
        ({"distance": math.nan}, ValueError, "distance must be a finite number >= 0, got nan"),
        ({"site": -1}, ValueError, "site must be a finite number >= 0, got -1"),
        ({"seed": 0.5}, TypeError, "seed must be a whole number"),
    ],
)
def test_a_clinical_recipe_that_cannot_be_is_refused_by_name(arguments, error, words):
    with pytest.raises(error, match=words):
        ClinicalRecipe(**arguments)


# groups


@pytest.mark.parametrize("method", ["kmeans", "mixture"])
def test_groups_far_apart_are_found_and_so_is_their_number(method):
    clinical, cloud = make_blobs(30, 20, 25)
    found = find_groups(clinical, method=method)
    assert agree(found.labels, cloud)
    assert found.n_groups == 3
    assert found.labels.value_counts().to_dict() == {"A": 30, "B": 25, "C": 20}, "named by size"
    assert found.criterion.loc[found.criterion["chosen"], "n_groups"].tolist() == [3]


def test_the_true_groups_of_a_simulation_are_found():
    data = simulate_clinical(TRUE)
    assert agree(find_groups(data.scores).labels, data.truth["group"])


def test_k_means_finds_groups_in_noise_and_the_mixture_does_not():
    noise = simulate_clinical(ClinicalRecipe()).scores
    assert find_groups(noise, method="kmeans").n_groups >= 2
    assert find_groups(noise, method="mixture").n_groups == 1


def test_no_unit_decides():
    clinical, cloud = make_blobs(30, 20, apart=8.0)
    scaled = clinical.assign(x=1e9 * clinical["x"] - 5, y=1e-6 * clinical["y"])
    assert find_groups(scaled).labels.equals(find_groups(clinical).labels)


def test_a_number_that_is_given_is_kept_and_nothing_is_judged():
    clinical, _ = make_blobs(30, 20)
    found = find_groups(clinical, n_groups=4)
    assert found.n_groups == 4
    assert found.criterion["n_groups"].tolist() == [4] and found.criterion["value"].isna().all()
    assert find_groups(clinical, n_groups=1).labels.unique().tolist() == ["A"]


def test_subjects_who_repeat_make_no_more_groups_than_there_are():
    clinical = pd.DataFrame({"x": [0.0] * 6 + [1.0] * 4}, index=[f"s{number}" for number in range(10)])
    found = find_groups(clinical)
    assert found.labels.tolist() == ["A"] * 6 + ["B"] * 4
    assert found.criterion["value"].isna().tolist() == [False, True, True, True, True]


CLINICAL = make_blobs(10, 10)[0]


@pytest.mark.parametrize(
    ("clinical", "options", "error", "words"),
    [
        ([[1.0]], {}, TypeError, "clinical must be a DataFrame"),
        (CLINICAL.iloc[:0], {}, ValueError, "0 rows and 2 columns"),
        (CLINICAL[[]], {}, ValueError, "20 rows and 0 columns"),
        (CLINICAL.assign(x=1.0), {}, ValueError, "column 'x' is 1.0 for all"),
        (CLINICAL.assign(x="a"), {}, TypeError, "column 'x' must hold numbers, got 'a'"),
        (CLINICAL.assign(x=[math.nan, *range(19)]), {}, ValueError, "subject 's0': x is missing or infinite"),
        (CLINICAL.assign(x=[math.inf, *range(19)]), {}, ValueError, "subject 's0': x is missing or infinite"),
        (CLINICAL.assign(x=[1e308, -1e308] * 10), {}, ValueError, "column 'x' has a standard deviation of"),
        (pd.concat([CLINICAL, CLINICAL.iloc[:1]]), {}, ValueError, "subject 's0' is there twice"),
        (CLINICAL.iloc[:6], {}, ValueError, "6 subjects; expected more than 6"),
        (CLINICAL, {"n_groups": 20}, ValueError, "20 subjects; expected more than 20"),
        (CLINICAL, {"n_groups": 27}, ValueError, "at most 26 groups"),
        (CLINICAL, {"n_groups": 0}, ValueError, "n_groups must be a whole number of at least 1"),
        (CLINICAL, {"most": 1}, ValueError, "most must be a whole number of at least 2"),
        (CLINICAL, {"method": "magic"}, ValueError, "method is 'magic'; expected one of"),
        (CLINICAL, {"seed": -1}, ValueError, "seed must be a whole number of at least 0"),
    ],
)
def test_clinical_data_that_cannot_be_grouped_are_refused_by_name(clinical, options, error, words):
    with pytest.raises(error, match=words):
        find_groups(clinical, **options)


# stability


def test_a_match_is_the_largest_jaccard_coefficient():
    members = np.array([True, True, True, False, False])
    labels = np.array([0, 0, 1, 1, 1])  # {0, 1} shares 2 of 3, {2, 3, 4} shares 1 of 5
    assert _match(members, labels) == pytest.approx(2 / 3)
    assert _match(members, members.astype(int)) == 1.0
    assert math.isnan(_match(np.zeros(5, dtype=bool), labels))


def test_groups_far_apart_are_found_in_every_resample():
    clinical, _ = make_blobs(30, 20, 25)
    found = measure_stability(clinical, find_groups(clinical, n_groups=3), n_resamples=20)
    assert found["jaccard"].tolist() == [1.0, 1.0, 1.0]
    assert found["stability"].tolist() == ["stable"] * 3
    assert (found["n"].tolist(), found["n_resamples"].tolist()) == ([30, 25, 20], [20, 20, 20])


def test_groups_found_in_noise_are_unstable():
    noise = simulate_clinical(ClinicalRecipe()).scores
    found = measure_stability(noise, find_groups(noise, n_groups=6), n_resamples=20)
    assert (found["jaccard"] < 0.6).all()
    assert set(found["stability"]) == {"unstable"}


def test_a_subject_drawn_twice_counts_once():
    clinical = pd.DataFrame({"x": [0.0, 10.0, 6.0, 0.5, 9.5, 1.0]}, index=list("abcdef"))
    labels = pd.Series(list("ABAABA"), index=clinical.index)  # c is nearer to b and e, and is found there again
    found = measure_stability(clinical, Groups(labels, "kmeans", pd.DataFrame(), 0), n_resamples=1, seed=19)
    drawn = sorted(np.random.default_rng(19).integers(6, size=6))
    assert [clinical.index[at] for at in drawn] == list("bcccdf"), "found again as b, c and d, f"
    assert found["jaccard"].tolist() == pytest.approx([2 / 3, 1 / 2]), "c, d, f with d, f; b with b, c"


def test_the_stability_of_one_group_is_undefined():
    found = measure_stability(CLINICAL, find_groups(CLINICAL, n_groups=1), n_resamples=5)
    assert found["jaccard"].isna().all()
    assert (found["n_resamples"].tolist(), found["stability"].tolist()) == ([0], ["undefined"])


def test_a_resample_without_a_group_does_not_count_for_it():
    clinical, cloud = make_blobs(20, 1, apart=50.0)
    found = measure_stability(clinical, find_groups(clinical, n_groups=2), n_resamples=40, seed=1)
    single = found[found["n"] == 1].iloc[0]
    rng = np.random.default_rng(1)
    assert single["n_resamples"] == sum(20 in rng.integers(21, size=21) for _ in range(40)) < 40


@pytest.mark.parametrize(
    ("value", "word"), [(0.75, "stable"), (0.7499, "doubtful"), (0.6, "doubtful"), (0.5999, "unstable")]
)
def test_the_words_begin_at_the_thresholds(value, word, monkeypatch):
    monkeypatch.setattr("dqc_lib.harmonization.groups._match", lambda members, labels: value)
    found = measure_stability(CLINICAL, find_groups(CLINICAL, n_groups=2), n_resamples=1)
    assert set(found["stability"]) == {word}


def test_stability_is_of_the_table_the_groups_were_found_in():
    groups = find_groups(CLINICAL, n_groups=2)
    with pytest.raises(ValueError, match="the groups are of other subjects"):
        measure_stability(CLINICAL.iloc[::-1], groups)
    with pytest.raises(TypeError, match="groups must be a Groups"):
        measure_stability(CLINICAL, groups.labels)


# sites


def test_the_statistic_is_that_of_scipy():
    from scipy.stats import chi2_contingency

    rng = np.random.default_rng(0)
    labels, sites = (make_series(rng.choice(list("abc"), 60)) for _ in range(2))
    found = associate_with_site(labels, sites, n_permutations=9)
    assert found.chi2 == pytest.approx(chi2_contingency(pd.crosstab(sites, labels), correction=False).statistic)
    pd.testing.assert_frame_equal(found.counts, pd.crosstab(sites, labels), check_names=False)
    assert found.n == 60


def test_cramers_v_is_bergsmas():
    found = associate_with_site(make_series("aaaaabbbbb"), make_series("xxxxyxyyyy"), n_permutations=9)
    chi2 = 10 * (4 * 4 - 1) ** 2 / 5**4  # n (ad - bc)^2 / the product of the margins
    phi2, smaller = chi2 / 10 - 1 / 9, 2 - 1 / 9
    assert found.cramers_v == pytest.approx(math.sqrt(phi2 / (smaller - 1)))


def test_groups_that_are_sites_have_a_v_of_one_and_those_that_are_not_of_zero():
    assert associate_with_site(make_series("aabb" * 10), make_series("xxyy" * 10)).cramers_v == pytest.approx(1.0)
    assert associate_with_site(make_series("aabb" * 10), make_series("xyxy" * 10)).cramers_v == 0.0


def test_the_p_value_nears_the_exact_one():
    # 2 of the 20 ways to deal three x among six subjects give each group its own site, 18 the tables 2, 1 / 1, 2
    separate = associate_with_site(make_series("aaabbb"), make_series("xxxyyy"), n_permutations=4999)
    assert separate.p_value == pytest.approx(0.1, abs=0.02)
    mixed = associate_with_site(make_series("aaabbb"), make_series("xxyxyy"), n_permutations=99)
    assert mixed.p_value == 1.0


def test_the_p_value_is_never_zero():
    found = associate_with_site(make_series("aabb" * 10), make_series("xxyy" * 10), n_permutations=99)
    assert found.p_value == pytest.approx(1 / 100)


def test_chance_finds_an_association_as_often_as_it_should():
    rng = np.random.default_rng(5)
    labels = make_series("ab" * 20)
    dealt = (make_series(rng.permutation(list("xxyz" * 10))) for _ in range(200))
    values = [associate_with_site(labels, sites, n_permutations=39, seed=at).p_value for at, sites in enumerate(dealt)]
    assert 0.005 <= np.mean(np.array(values) <= 0.05) <= 0.10


@pytest.mark.parametrize(("labels", "sites"), [("aabb", "xxxx"), ("aaaa", "xxyy"), ("a", "x")])
def test_one_site_or_one_group_says_nothing(labels, sites):
    found = associate_with_site(make_series(labels), make_series(sites))
    assert all(map(math.isnan, (found.chi2, found.p_value, found.cramers_v)))
    assert found.n == len(labels)


def test_one_subject_a_site_leaves_no_freedom():
    found = associate_with_site(make_series("aabb"), make_series("wxyz"), n_permutations=19)
    assert (found.p_value, found.chi2) == (1.0, pytest.approx(4.0))
    assert math.isnan(found.cramers_v)


def test_subjects_are_matched_by_name_and_not_by_place():
    labels, sites = make_series("aabb"), make_series("xxyy")
    assert associate_with_site(labels, sites.iloc[::-1]).counts.loc["x"].tolist() == [2, 0]


@pytest.mark.parametrize(
    ("labels", "sites", "error", "words"),
    [
        (make_series("ab"), make_series("xyz"), ValueError, "subject 's2' is in one of labels and sites only"),
        (make_series("ab"), pd.Series(["x", None], index=["s0", "s1"]), ValueError, "sites: subject 's1' has none"),
        (pd.concat([make_series("ab")] * 2), make_series("xy"), ValueError, "labels: subject 's0' is there twice"),
        (make_series(""), make_series(""), ValueError, "labels has no subject"),
        (["a", "b"], make_series("xy"), TypeError, "labels must be a Series"),
    ],
)
def test_labels_and_sites_that_do_not_match_are_refused_by_name(labels, sites, error, words):
    with pytest.raises(error, match=words):
        associate_with_site(labels, sites)


# verdicts


def judge(recipe, **options):
    """Return the verdicts on k-means groups of a simulation."""
    data = simulate_clinical(recipe)
    groups = find_groups(data.scores, **options)
    stability = measure_stability(data.scores, groups, n_resamples=20)
    return judge_groups(stability, groups.labels, data.sites, n_permutations=199)


def test_groups_of_patients_are_told_from_sites():
    assert set(judge(TRUE)["verdict"]) == {"found again, not tied to sites"}


def test_groups_that_are_sites_are_stable_and_unmasked():
    found = judge(SITES)
    assert (found["jaccard"] > 0.9).all(), "stability does not see it"
    assert set(found["verdict"]) == {"cannot be told from sites"}
    assert found["p_value"].tolist() == pytest.approx([2 / 200] * 2), "Holm over two groups"


def test_true_groups_that_sites_attract_cannot_be_told_from_them():
    found = judge(ClinicalRecipe(n_groups=3, distance=3.0, confounding=0.9))
    assert set(found["verdict"]) == {"cannot be told from sites"}


def test_groups_in_noise_are_not_found_again():
    assert set(judge(ClinicalRecipe(), n_groups=6)["verdict"]) == {"not found again"}


def test_one_group_has_no_verdict():
    assert judge(ClinicalRecipe(), n_groups=1)["verdict"].tolist() == ["undefined"]


def test_the_largest_site_and_its_share_are_counted():
    labels, sites = make_series("AAAABB"), make_series("xxxyyy")
    stability = pd.DataFrame({"group": ["A", "B"], "n": [4, 2], "jaccard": 0.7, "stability": "doubtful"})
    found = judge_groups(stability, labels, sites).set_index("group")
    assert found.loc["A", ["largest_site", "share", "expected"]].tolist() == ["x", 0.75, 0.5]
    assert found.loc["B", ["largest_site", "share", "expected"]].tolist() == ["y", 1.0, 0.5]
    even = judge_groups(stability, make_series("AABB" * 3), make_series("xyxy" * 3))
    assert even["cramers_v"].tolist() == [0.0, 0.0]
    assert set(even["verdict"]) == {"a doubtful pattern, not tied to sites"}


def make_stability(*names):
    return pd.DataFrame({"group": list(names), "n": 4, "jaccard": 0.9, "stability": "stable"})


def test_groups_that_are_sites_of_few_subjects_are_not_acquitted():
    labels, sites = make_series("AAABBB"), make_series("xxxyyy")
    found = judge_groups(make_stability("A", "B"), labels, sites)
    assert found["cramers_v"].tolist() == pytest.approx([1.0, 1.0]) and (found["p_value"] > 0.05).all()
    assert set(found["verdict"]) == {"too few subjects to tell"}


def test_permutations_that_could_show_nothing_are_refused():
    labels, sites = make_series("AABB" * 10), make_series("xxyy" * 10)
    with pytest.raises(ValueError, match="38 permutations give 2 groups a p value of at least 0.0513, and level is"):
        judge_groups(make_stability("A", "B"), labels, sites, n_permutations=38)
    found = judge_groups(make_stability("A", "B"), labels, sites, n_permutations=39)
    assert found["p_value"].tolist() == pytest.approx([0.05, 0.05])
    assert set(found["verdict"]) == {"cannot be told from sites"}
    with pytest.raises(ValueError, match="n_permutations must be a whole number of at least 1, got -1"):
        judge_groups(make_stability("A", "B"), labels, sites, n_permutations=-1)


def test_holm_multiplies_the_smallest_most():
    from dqc_lib.harmonization.sites import _correct

    assert _correct(np.array([0.04, 0.01, np.nan, 0.03])) == pytest.approx([0.06, 0.03, np.nan, 0.06], nan_ok=True)
    assert np.isnan(_correct(np.array([np.nan]))).all()


def test_a_stability_of_other_groups_is_refused():
    stability = pd.DataFrame({"group": ["A"], "n": [4], "jaccard": 0.7, "stability": "doubtful"})
    with pytest.raises(ValueError, match="same groups, got \\['A'\\] and \\['A', 'B'\\]"):
        judge_groups(stability, make_series("AABB"), make_series("xyxy"))
    with pytest.raises(KeyError, match="missing columns \\['jaccard'\\]"):
        judge_groups(stability.drop(columns="jaccard"), make_series("AABB"), make_series("xyxy"))


def test_objects_show_numbers_and_no_markup():
    groups = Groups(make_series("AAB"), HOSTILE, pd.DataFrame(), 0)
    assert "<img" not in groups._repr_html_() and "2 of 3 subjects" in groups._repr_html_()
    assert "n = 4" in associate_with_site(make_series("aabb"), make_series("xyxy"))._repr_html_()
