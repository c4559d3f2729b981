"""ComBat-seq against statsmodels, enumeration and simulated truth, and z-scores within sites."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy.stats import nbinom

from dqc_lib.harmonization import fit_combat_seq, fit_site_scores, score_within_sites
from dqc_lib.harmonization.negative_binomial import GRID, estimate_dispersions, fit_means, map_counts

SITES = np.repeat(["A", "B", "C"], 40)
AT = np.repeat([0, 1, 2], 40)
PATIENT = np.tile([0.0, 1.0], 60)
SPREAD = np.array([0.05, 0.2, 0.4])


def draw_counts(*, n_genes=200, shift=0.5, spread=SPREAD, seed=0):
    """Return counts (120, genes), the true logarithms of what sites do to genes, and library sizes relative to one."""
    rng = np.random.default_rng(seed)
    level, shifts = rng.normal(4, 1, n_genes), rng.normal(0, shift, (3, n_genes))
    shifts -= shifts.mean(axis=0)
    libraries = rng.uniform(0.6, 1.6, 120)
    ill = np.where(np.arange(n_genes) < 50, 1.0, 0.0)
    means = np.exp(level + shifts[AT] + np.outer(PATIENT, ill)) * libraries[:, np.newaxis]
    size = np.broadcast_to(1 / spread[AT][:, np.newaxis], means.shape)
    return rng.negative_binomial(size, size / (size + means)), shifts, libraries


COUNTS, SHIFTS, LIBRARIES = draw_counts()
COVARIATES = pd.DataFrame({"patient": PATIENT})
FITTED = fit_combat_seq(COUNTS, SITES, COVARIATES, library_sizes=LIBRARIES)
EVEN = FITTED.apply(COUNTS, SITES, COVARIATES, library_sizes=LIBRARIES)


def average_logs(counts, inside):
    return np.log(counts[inside].mean(axis=0) / LIBRARIES[inside].mean())


def spread_sites(counts):
    """Return the standard deviation over sites of each gene's log mean."""
    return np.std([average_logs(counts, SITES == site) for site in "ABC"], axis=0)


def test_effects_of_sites_and_of_disease_are_found():
    assert np.corrcoef(FITTED.shifts.ravel(), SHIFTS.ravel())[0, 1] > 0.97
    assert np.abs(FITTED.shifts - SHIFTS).mean() < 0.07  # a standard error of log means of 40 samples
    assert FITTED.slopes[0, :50].mean() == pytest.approx(1, abs=0.05)
    assert FITTED.slopes[0, 50:].mean() == pytest.approx(0, abs=0.05)
    assert np.median(FITTED.dispersions, axis=1) == pytest.approx(SPREAD, rel=0.1)


def test_effects_of_sites_are_removed_and_that_of_disease_is_kept():
    assert spread_sites(EVEN).mean() < 0.1 * spread_sites(COUNTS).mean()
    kept = average_logs(EVEN, PATIENT == 1) - average_logs(EVEN, PATIENT == 0)
    assert kept[:50].mean() == pytest.approx(1, abs=0.06)
    assert kept[50:].mean() == pytest.approx(0, abs=0.06)


def test_scatter_becomes_alike():
    def scatter(counts, site):
        part = counts[(SITES == site)][:, 50:] / LIBRARIES[SITES == site][:, np.newaxis]
        return np.median(part.std(axis=0) / part.mean(axis=0))

    before = [scatter(COUNTS, site) for site in "ABC"]
    after = [scatter(EVEN, site) for site in "ABC"]
    assert max(before) / min(before) > 1.8
    assert max(after) / min(after) < 1.1


def test_counts_stay_whole_and_zeros_stay_zeros():
    assert EVEN.dtype == np.int64
    assert ((EVEN == 0) == (COUNTS == 0)).all() and (COUNTS == 0).any() and (EVEN >= 0).all()


def test_without_an_effect_of_sites_counts_hardly_change():
    counts, _, libraries = draw_counts(shift=0.0, spread=np.array([0.2, 0.2, 0.2]))
    found = fit_combat_seq(counts, SITES, COVARIATES, library_sizes=libraries)
    even = found.apply(counts, SITES, COVARIATES, library_sizes=libraries)
    # the site's mean of 40 samples is off by 7 %, which is what is taken for an effect
    assert np.abs(even - counts).mean() / counts.mean() < 0.08
    assert np.corrcoef(np.log1p(even).ravel(), np.log1p(counts).ravel())[0, 1] > 0.995


def test_coefficients_are_those_of_statsmodels():
    design = np.column_stack([SITES == "A", SITES == "B", SITES == "C", PATIENT]).astype(float)
    dispersion = np.full(COUNTS.shape, 0.2)
    found, means = fit_means(COUNTS, design, offset=np.log(LIBRARIES), dispersion=dispersion)
    for gene in (0, 49, 50, 199):
        family = sm.families.NegativeBinomial(alpha=0.2)
        fit = sm.GLM(COUNTS[:, gene], design, family=family, offset=np.log(LIBRARIES)).fit(tol=1e-12)
        np.testing.assert_allclose(found[:, gene], fit.params, rtol=0, atol=1e-6)
        np.testing.assert_allclose(means[:, gene], fit.fittedvalues, rtol=1e-6)


def test_with_a_dispersion_of_every_site_the_likelihood_has_no_slope_left():
    design = np.column_stack([SITES == "A", SITES == "B", SITES == "C", PATIENT]).astype(float)
    dispersion = np.broadcast_to(SPREAD[AT][:, np.newaxis], COUNTS.shape)
    _, means = fit_means(COUNTS, design, offset=np.log(LIBRARIES), dispersion=dispersion)
    slope = design.T @ ((COUNTS - means) / (1 + dispersion * means))
    size = np.abs(design.T @ (COUNTS / (1 + dispersion * means)))
    assert (np.abs(slope) < 1e-4 * size).all()


def test_the_dispersion_of_many_samples_is_that_of_statsmodels():
    rng = np.random.default_rng(3)
    counts = rng.negative_binomial(4, 4 / (4 + 30), size=(4000, 6))
    means = np.broadcast_to(counts.mean(axis=0), counts.shape)
    found = estimate_dispersions(counts, means, np.ones((4000, 1)))
    for gene in range(6):
        fit = sm.NegativeBinomial(counts[:, gene], np.ones(4000)).fit(disp=False)
        assert found[gene] == pytest.approx(fit.params[1], rel=0.01)


def test_counts_that_scatter_less_than_poisson_get_the_smallest_dispersion():
    found = estimate_dispersions(np.full((30, 2), 10), np.full((30, 2), 10.0), np.ones((30, 1)))
    assert (found == GRID[0]).all()


def quantile_by_enumeration(count, old, new):
    """Return 1 plus the smallest number up to which the new distribution holds as much as the old one below count."""
    if count <= 1:
        return count
    size, mean = 1 / old[1], old[0]
    held = sum(nbinom.pmf(at, size, size / (size + mean)) for at in range(count))
    if 1 - held < 1e-4:
        return count
    size, mean, at = 1 / new[1], new[0], 0
    total = nbinom.pmf(0, size, size / (size + mean))
    while total < held * (1 - 1e-9):
        at += 1
        total += nbinom.pmf(at, size, size / (size + mean))
    return 1 + at


@pytest.mark.parametrize("old", [(8.0, 0.3), (2.0, 1.0)])
@pytest.mark.parametrize("new", [(8.0, 0.3), (20.0, 0.1), (1.0, 0.5)])
def test_quantiles_are_those_of_enumeration(old, new):
    counts = np.arange(60)[:, np.newaxis]
    means, other = np.full(counts.shape, old[0]), np.full(counts.shape, new[0])
    found = map_counts(counts, means, other, dispersion=np.full(counts.shape, old[1]), dispersion_without=new[1])
    assert found.ravel().tolist() == [quantile_by_enumeration(count, old, new) for count in range(60)]


def test_the_same_distribution_moves_no_count_however_far_out():
    counts = np.array([0, 1, 2, 10, 1000, 100_000, 3_000_000])[:, np.newaxis]
    means, spread = np.full(counts.shape, 100.0), np.full(counts.shape, 0.5)
    found = map_counts(counts, means, means, dispersion=spread, dispersion_without=spread)
    assert (found == counts).all()


def test_a_count_of_which_no_probability_is_left_stays():
    counts, means = np.array([[10_000]]), np.array([[1.0]])
    found = map_counts(counts, means, 2 * means, dispersion=np.array([[0.01]]), dispersion_without=np.array([0.01]))
    assert found.tolist() == [[10_000]]


def test_genes_that_a_site_never_counts_stay_as_they_are():
    counts = COUNTS[:, :20].copy()
    counts[SITES == "B", 3] = 0
    found = fit_combat_seq(counts, SITES, library_sizes=LIBRARIES)
    even = found.apply(counts, SITES, library_sizes=LIBRARIES)
    assert found.unchanged.tolist() == [gene == 3 for gene in range(20)]
    assert (even[:, 3] == counts[:, 3]).all() and (even[:, 4] != counts[:, 4]).any()
    table = found.effects.set_index(["site", "gene"])
    assert np.isnan(table.loc[("A", "3"), "fold_change"]) and table.loc[("A", "4"), "n"] == 40
    assert "20 genes, 1 of them left as they are, 120 samples of 3 sites" in found._repr_html_()


def test_a_gene_that_only_controls_have_is_fitted_all_the_same():
    counts = COUNTS[:, :5].copy()
    counts[PATIENT == 1, 2] = 0
    found = fit_combat_seq(counts, SITES, COVARIATES, library_sizes=LIBRARIES)
    even = found.apply(counts, SITES, COVARIATES, library_sizes=LIBRARIES)
    assert np.isfinite(found.shifts).all() and (even[PATIENT == 1, 2] == 0).all()
    assert found.slopes[0, 2] < -10


def test_samples_that_were_not_in_the_fit_are_mapped_one_by_one():
    train = np.arange(120) % 4 > 0
    fitted = fit_combat_seq(COUNTS[train], SITES[train], COVARIATES[train], library_sizes=LIBRARIES[train])
    kept = {"library_sizes": LIBRARIES[~train], "unknown": ("patient",)}
    together = fitted.apply(COUNTS[~train], SITES[~train], **kept)
    alone = fitted.apply(
        COUNTS[~train][:1], SITES[~train][:1], library_sizes=LIBRARIES[~train][:1], unknown=["patient"]
    )
    assert (alone[0] == together[0]).all()
    assert (together != COUNTS[~train]).any()


def test_the_sum_of_counts_is_the_library_and_names_come_back():
    table = pd.DataFrame(COUNTS[:, :9], columns=[f"gene {number}" for number in range(9)])
    found = fit_combat_seq(table, SITES)
    again = fit_combat_seq(table, SITES, library_sizes=table.sum(axis=1))
    assert found.apply(table, SITES).equals(again.apply(table, SITES))
    assert list(found.apply(table, SITES).columns) == list(table.columns)


def change(row, column, value):
    changed = COUNTS[:, :9].astype(float)
    changed[row, column] = value
    return changed


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"counts": change(3, 2, -1.0)}, ValueError, "gene '2' of sample 3 is -1"),
        ({"counts": change(3, 2, 0.5)}, ValueError, "counts must be whole numbers of at least 0; gene '2' of sample 3"),
        ({"counts": change(3, 2, np.nan)}, ValueError, "feature '2' of subject 3 is nan"),
        ({"counts": change(3, 2, 1e300)}, ValueError, "gene '2' of sample 3 is 1e"),
        ({"counts": change(3, slice(None), 0.0)}, ValueError, "the library of sample 3 must have reads, got 0"),
        ({"counts": change(AT == 1, slice(None), 0.0)}, ValueError, "the library of sample 40 must have reads"),
        ({"library_sizes": [0.0] * 120}, ValueError, "the library of sample 0 must have reads, got 0"),
        ({"library_sizes": [1.0]}, ValueError, "library_sizes must have one entry for each of 120 subjects, got 1"),
        ({"sites": ["A"] * 120}, ValueError, r"expected two or more sites to make comparable, got \['A'\]"),
        (
            {"sites": ["A", *["B"] * 119]},
            ValueError,
            "site 'A' needs more samples than 1, its coefficients, for a dispersion; it has 1",
        ),
        ({"covariates": pd.DataFrame({"x": AT / 2.0})}, ValueError, "covariate 'x' does not vary within any site"),
        (
            {"counts": change(AT == 1, slice(None), 0.0), "library_sizes": [1.0] * 120},
            ValueError,
            "every one of 9 genes is 0 throughout a site",
        ),
    ],
)
def test_what_are_no_counts_is_refused_by_name(given, error, message):
    with pytest.raises(error, match=message):
        fit_combat_seq(**({"counts": COUNTS[:, :9], "sites": SITES} | given))


def test_what_was_not_fitted_is_not_applied():
    with pytest.raises(ValueError, match="genes must be the 200 of the fit"):
        FITTED.apply(COUNTS[:, :3], SITES, COVARIATES)
    with pytest.raises(ValueError, match=r"sites must be among \['A', 'B', 'C'\], those of the fit; got 'Z'"):
        FITTED.apply(COUNTS, ["Z"] * 120, COVARIATES)


def test_scores_within_sites_are_those_of_pandas():
    table = pd.DataFrame(COUNTS[:, :4].astype(float), columns=list("wxyz"))
    expected = table.groupby(SITES).transform(lambda part: (part - part.mean()) / part.std())
    pd.testing.assert_frame_equal(score_within_sites(table, SITES), expected)


def test_scores_are_undefined_for_one_subject_and_for_a_constant():
    values = np.array([[1.0, 4.0], [3.0, 4.0], [5.0, 6.0]])
    found = score_within_sites(values, ["A", "A", "B"])
    np.testing.assert_allclose(found, [[-(0.5**0.5), np.nan], [0.5**0.5, np.nan], [np.nan, np.nan]])


def test_scores_of_new_subjects_are_by_the_training_subjects_of_their_site():
    table = pd.DataFrame(COUNTS[:, :4].astype(float), columns=list("wxyz"))
    train = np.arange(120) % 2 == 0
    fitted = fit_site_scores(table[train], SITES[train])
    found = fitted.apply(table[~train], SITES[~train])
    for site in "ABC":
        own = table[train][SITES[train] == site]
        expected = (table[~train][SITES[~train] == site] - own.mean()) / own.std()
        pd.testing.assert_frame_equal(found[SITES[~train] == site], expected)
    assert fitted.counts.tolist() == [20, 20, 20] and "A 20, B 20, C 20" in fitted._repr_html_()
    with pytest.raises(ValueError, match=r"sites must be among \['A', 'B', 'C'\], those of the fit; got 'Z'"):
        fitted.apply(table, ["Z"] * 120)
    with pytest.raises(ValueError, match="features must be the 4 of the fit"):
        fitted.apply(COUNTS[:, :3], SITES)


def test_scores_within_sites_lose_what_sites_have_in_truth():
    rng = np.random.default_rng(1)
    ill = np.repeat([0.1, 0.9], 200) > rng.uniform(size=400)  # site A treats one patient in ten, B nine
    values = (rng.normal(size=400) + 2.0 * ill)[:, np.newaxis]
    found = score_within_sites(values, np.repeat(["A", "B"], 200))[:, 0]
    raw, left = (part[ill].mean() - part[~ill].mean() for part in (values[:, 0], found))
    assert raw == pytest.approx(2, abs=0.3)
    assert left < 0.6 * raw
