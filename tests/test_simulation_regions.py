"""Simulated region volumes and counts: what is said to be in them is, and nothing else."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from dqc_lib.simulation import REGIONS, CountRecipe, RegionRecipe, draw_people, simulate_counts, simulate_regions

IDEAL = {"shift": 0.0, "gain": 0.0}


def test_the_same_recipe_gives_the_same_study_and_another_seed_another():
    first, again = simulate_regions(), simulate_regions()
    pd.testing.assert_frame_equal(first.values, again.values)
    pd.testing.assert_frame_equal(first.people, again.people)
    assert not np.allclose(first.values, simulate_regions(RegionRecipe(seed=7)).values)


def test_a_study_has_thirty_regions_and_sites_of_the_sizes_asked_for():
    study = simulate_regions(RegionRecipe(sites=(9, 4, 1)))
    assert study.values.shape == (14, 30) == study.clean.shape
    assert tuple(study.values.columns) == REGIONS == tuple(study.truth.index)
    assert study.people["site"].value_counts().to_dict() == {"site-01": 9, "site-02": 4, "site-03": 1}
    assert len(study.site_truth) == 3 * 30
    assert study.values.index.is_unique and (study.values.index == study.people.index).all()


def test_volumes_are_those_of_brains_above_zero():
    for seed in range(10):
        study = simulate_regions(RegionRecipe(seed=seed))
        assert study.values.min().min() > 0 and study.clean.min().min() > 0


def test_sites_without_an_effect_measure_the_truth():
    study = simulate_regions(RegionRecipe(**IDEAL))
    np.testing.assert_allclose(study.values, study.clean, rtol=1e-12)
    assert (study.site_truth["shift"] == 0).all() and (study.site_truth["gain"] == 1).all()


def test_what_a_site_does_is_what_its_truth_says():
    study = simulate_regions()
    for site in ("site-01", "site-08"):
        own = study.people.index[study.people["site"] == site]
        volume = study.truth.loc["left putamen", "volume"]
        done = study.site_truth.loc[(site, "left putamen")]
        expected = volume + done["shift"] + done["gain"] * (study.clean.loc[own, "left putamen"] - volume)
        np.testing.assert_allclose(study.values.loc[own, "left putamen"], expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["ageing", "sex", "disease"])
def test_a_regression_on_many_people_finds_the_true_effects(name):
    study = simulate_regions(RegionRecipe(sites=(4000, 4000)))
    people = study.people
    design = np.column_stack(
        [np.ones(len(people)), people["age"], people["sex"] == "M", people["diagnosis"] == 1]
    ).astype(float)
    found = np.linalg.lstsq(design, study.clean, rcond=None)[0]
    row = {"ageing": 1, "sex": 2, "disease": 3}[name]
    error = 1 / 9 if name == "ageing" else 2  # of the coefficient, in sd / sqrt(n)
    allowed = 5 * error * study.truth["sd"] / np.sqrt(len(people))
    assert (np.abs(found[row] - study.truth[name]) < allowed).all()


def test_an_effect_of_zero_leaves_the_same_brains_without_disease():
    with_effect, without = simulate_regions(), simulate_regions(RegionRecipe(effect=0.0))
    assert (without.truth["disease"] == 0).all()
    healthy = with_effect.people.index[with_effect.people["diagnosis"] == 0]
    pd.testing.assert_frame_equal(with_effect.values.loc[healthy], without.values.loc[healthy])
    gone = (with_effect.clean - without.clean).drop(healthy)
    np.testing.assert_allclose(gone, np.tile(with_effect.truth["disease"], (len(gone), 1)), atol=1e-8)


@pytest.mark.parametrize(
    ("confounding", "counts"), [(0.0, [10, 10, 3]), (0.6, [16, 4, 4]), (1.0, [20, 0, 5]), (0.05, [11, 10, 3])]
)
def test_the_knob_moves_patients_from_every_second_site(confounding, counts):
    people = draw_people([20, 20, 5], confounding=confounding)
    assert people.groupby("site")["diagnosis"].sum().tolist() == counts


def test_the_knob_moves_diagnoses_and_not_people():
    low, high = draw_people([30, 10], confounding=0.0, seed=3), draw_people([30, 10], confounding=1.0, seed=3)
    pd.testing.assert_frame_equal(low.drop(columns="diagnosis"), high.drop(columns="diagnosis"))


def test_sites_have_effects_that_no_chance_explains():
    study = simulate_regions(RegionRecipe(sites=(200, 200)))
    means = study.values.groupby(study.people["site"]).mean()
    apart = (means.iloc[0] - means.iloc[1]).abs() / study.truth["sd"]
    assert (apart > 5 * np.sqrt(2 / 200)).mean() > 0.5


def test_counts_are_whole_numbers_with_the_mean_and_variance_that_the_truth_says():
    recipe = CountRecipe(sites=(3000,), genes=8, disease_genes=0.5, fold=0.0, dispersion=0.0)
    study = simulate_counts(recipe)
    pd.testing.assert_frame_equal(study.values, study.clean)
    assert (study.values.dtypes == np.int64).all() and (study.values >= 0).all().all()
    healthy = study.people["diagnosis"] == 0
    scaled = study.values[healthy].div(study.people.loc[healthy, "library"], axis=0)
    mean, dispersion = study.truth["mean"], study.truth["dispersion"]
    np.testing.assert_allclose(scaled.mean(), mean, rtol=0.08)
    expected = mean * (1 / study.people.loc[healthy, "library"]).mean() + dispersion * mean**2
    np.testing.assert_allclose(scaled.var(), expected, rtol=0.25)


def test_the_disease_multiplies_its_genes_and_leaves_the_others():
    study = simulate_counts(CountRecipe(sites=(4000,), genes=20, disease_genes=0.2, fold=0.0, dispersion=0.0))
    assert (study.truth["disease"] != 0).sum() == 4
    assert np.sign(study.truth["disease"]).sum() == 0, "half up, half down"
    scaled = study.values.div(study.people["library"], axis=0).groupby(study.people["diagnosis"]).mean()
    np.testing.assert_allclose(np.log2(scaled.loc[1] / scaled.loc[0]), study.truth["disease"], atol=0.15)


def test_a_site_multiplies_counts_and_their_dispersion():
    study = simulate_counts(CountRecipe(sites=(3000, 3000), genes=6, effect=0.0))
    scaled = study.values.div(study.people["library"], axis=0).groupby(study.people["site"]).mean()
    fold = study.site_truth["fold"].unstack()[study.values.columns]
    expected = fold.loc["site-01"] - fold.loc["site-02"]
    np.testing.assert_allclose(np.log2(scaled.loc["site-01"] / scaled.loc["site-02"]), expected, atol=0.15)


def test_no_disease_gene_and_one_gene_and_one_subject_are_possible():
    assert (simulate_counts(CountRecipe(disease_genes=0.0, genes=5)).truth["disease"] == 0).all()
    assert simulate_counts(CountRecipe(sites=(1,), genes=1)).values.shape == (1, 1)
    assert simulate_regions(RegionRecipe(sites=(1,))).values.shape == (1, 30)


@pytest.mark.parametrize(
    ("kind", "change", "error", "said"),
    [
        (RegionRecipe, {"sites": ()}, ValueError, "RegionRecipe.sites must hold at least one site"),
        (RegionRecipe, {"sites": (5, 0)}, ValueError, "RegionRecipe.sites must hold at least one site"),
        (RegionRecipe, {"sites": "abc"}, TypeError, "RegionRecipe.sites"),
        (RegionRecipe, {"effect": -1.0}, ValueError, "RegionRecipe.effect must be a finite number >= 0, got -1.0"),
        (RegionRecipe, {"gain": float("nan")}, ValueError, "RegionRecipe.gain must be a finite number >= 0, got nan"),
        (RegionRecipe, {"confounding": 1.2}, ValueError, "confounding must be a number from 0 to 1, got 1.2"),
        (RegionRecipe, {"confounding": "much"}, TypeError, "RegionRecipe.confounding must be a number"),
        (RegionRecipe, {"seed": -1}, ValueError, "RegionRecipe.seed"),
        (CountRecipe, {"genes": 0}, ValueError, "CountRecipe.genes must be a whole number of at least 1"),
        (CountRecipe, {"disease_genes": 2.0}, ValueError, "CountRecipe.disease_genes must be a number from 0 to 1"),
        (CountRecipe, {"fold": True}, TypeError, "CountRecipe.fold must be a number, got True"),
    ],
)
def test_what_no_study_can_be_made_of_is_refused_by_name(kind, change, error, said):
    with pytest.raises(error, match=said):
        replace(kind(), **change)


def test_a_study_shows_how_large_it_is():
    shown = simulate_regions(RegionRecipe(sites=(10, 6)))._repr_html_()
    assert shown == "<b>Simulated</b> 16 subjects (8 with the disease) of 2 sites, 30 features"
