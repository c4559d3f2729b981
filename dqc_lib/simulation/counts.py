"""Simulated RNA-seq counts, as several sites sequence them.

What is true in them: counts are negative binomial, subjects have libraries of different size, and a site changes both
the mean and the dispersion of a gene. What is not: genes are independent, effects are the same for all people, and
there is no gene length, no contamination and no sample swapped.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from dqc_lib.arguments import require_whole
from dqc_lib.simulation.people import Simulated, check_factors, check_share, check_sites, draw_people

LIBRARY = 0.3  # standard deviation of the log of a library's size
FOLD = 1.0  # mean absolute effect of the disease on its genes, log2
SITE_FOLD = 0.5  # standard deviation of what a site adds to a gene's log2 mean
SITE_DISPERSION = 0.5  # standard deviation of what a site adds to the log of a gene's dispersion


@dataclass(frozen=True)
class CountRecipe:
    """What a simulated study of counts is made of; the same recipe gives the same counts.

    Parameters
    ----------
    sites : tuple of int
        Subjects at each site.
    genes : int
    disease_genes : float
        Share of the genes that the disease changes, from 0 to 1; half of them up, half down.
    effect : float
        Factor on the effect of the disease, 1 for a log2 fold change of about 1; 0 for none.
    fold, dispersion : float
        Factors on what sites do to the mean and to the dispersion; 0 for ideal sites.
    confounding : float
        How far the site tells the diagnosis, from 0 to 1; see `draw_people`.
    seed : int
        The same people, genes and sites whatever the factors.
    """

    sites: tuple[int, ...] = (40, 30, 20, 12)
    genes: int = 300
    disease_genes: float = 0.1
    effect: float = 1.0
    fold: float = 1.0
    dispersion: float = 1.0
    confounding: float = 0.0
    seed: int = 2025

    def __post_init__(self) -> None:
        check_sites("CountRecipe.sites", self.sites)
        require_whole("CountRecipe.genes", self.genes, least=1)
        check_factors(self, ("disease_genes", "effect", "fold", "dispersion"))
        check_share("CountRecipe.disease_genes", self.disease_genes)
        check_share("CountRecipe.confounding", self.confounding)
        require_whole("CountRecipe.seed", self.seed, least=0)


def simulate_counts(recipe: CountRecipe | None = None) -> Simulated:
    """Return simulated counts of genes, sequenced at several sites.

    Parameters
    ----------
    recipe : CountRecipe, optional

    Returns
    -------
    Simulated
        `values` and `clean`, subjects by genes, whole numbers of reads: the same random numbers with and without the
        sites. `people` has the column library as well (size factor, mean about 1). `truth` by gene: mean (reads in a
        library of size 1), dispersion (variance = mean + dispersion * mean^2) and disease (log2 fold change).
        `site_truth` by site and gene: fold (log2) and dispersion (factor).

    Examples
    --------
    >>> study = simulate_counts(CountRecipe(sites=(12, 8), genes=50))
    >>> study.values.shape, study.values.dtypes.unique().tolist(), int((study.truth["disease"] != 0).sum())
    ((20, 50), [dtype('int64')], 5)
    """
    recipe = recipe or CountRecipe()
    people_seed, gene_seed, site_seed, read_seed = np.random.SeedSequence(recipe.seed).spawn(4)
    people = draw_people(recipe.sites, confounding=recipe.confounding, seed=people_seed)
    reads = np.random.default_rng(read_seed)
    people["library"] = np.exp(reads.normal(0.0, LIBRARY, len(people)))
    truth = _tabulate_truth(recipe, np.random.default_rng(gene_seed))
    fold, dispersion = _draw_sites(recipe, truth, np.random.default_rng(site_seed))
    mean = truth["mean"].to_numpy() * np.exp2(np.outer(people["diagnosis"], truth["disease"]))
    mean *= people["library"].to_numpy()[:, None]
    chance = reads.random(mean.shape)
    own, at = truth["dispersion"].to_numpy(), people["site"]
    clean = _count_reads(mean, own, chance)
    values = _count_reads(mean * np.exp2(fold.loc[at].to_numpy()), own * dispersion.loc[at].to_numpy(), chance)
    names = {"index": people.index, "columns": truth.index}
    site_truth = pd.DataFrame({"fold": fold.stack(), "dispersion": dispersion.stack()}).rename_axis(["site", "gene"])
    return Simulated(pd.DataFrame(values, **names), people, pd.DataFrame(clean, **names), truth, site_truth)


def _tabulate_truth(recipe: CountRecipe, generator: np.random.Generator) -> pd.DataFrame:
    """Return one row a gene: mean, dispersion and the disease's effect."""
    n = recipe.genes
    mean, dispersion = np.exp(generator.normal(np.log(150.0), 1.2, n)), np.exp(generator.normal(np.log(0.15), 0.4, n))
    size, order = generator.uniform(0.7, 1.3, n), generator.permutation(n)
    chosen = order < round(recipe.disease_genes * n)
    disease = np.where(chosen, recipe.effect * FOLD * size * np.where(order % 2 == 0, 1.0, -1.0), 0.0)
    width = max(3, len(str(n)))
    index = pd.Index([f"gene-{at:0{width}d}" for at in range(1, n + 1)], name="gene")
    return pd.DataFrame({"mean": mean, "dispersion": dispersion, "disease": disease}, index=index)


def _draw_sites(
    recipe: CountRecipe, truth: pd.DataFrame, generator: np.random.Generator
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return log2 fold and factor of the dispersion of every site, sites by genes."""
    shape = len(recipe.sites), len(truth)
    names = {"index": [f"site-{at:02d}" for at in range(1, shape[0] + 1)], "columns": truth.index}
    fold = recipe.fold * SITE_FOLD * generator.normal(size=shape)
    log_dispersion = recipe.dispersion * SITE_DISPERSION * generator.normal(size=shape)
    return pd.DataFrame(fold, **names), pd.DataFrame(np.exp(log_dispersion), **names)


def _count_reads(mean: np.ndarray, dispersion: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """Return the counts at the given quantiles of negative binomials, whole numbers."""
    from scipy.stats import nbinom

    size = 1.0 / np.broadcast_to(dispersion, mean.shape)
    return nbinom.ppf(chance, size, size / (size + mean)).astype(np.int64)
