"""Simulated volumes of brain regions, as several sites measure them.

The sizes of the regions and of their effects have the order of magnitude that adult brains have; they are no figures of
a study. What is true in them: every effect is known, sites are unequal and small, people share the size of their head.
What is not: effects are linear, errors normal, sites have no drift, no wrong segmentation and no other population.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from dqc_lib.arguments import require_whole
from dqc_lib.simulation.people import SITES, Simulated, check_factors, check_share, check_sites, draw_people

# Volume (mm^3), its standard deviation (share), change a year (share), and the disease's effect (standard deviations).
_KINDS = {
    "lateral ventricle": (11000, 0.14, 0.0100, 0.0),
    "thalamus": (7300, 0.09, -0.0030, -0.3),
    "caudate": (3500, 0.11, -0.0020, -0.5),
    "putamen": (4700, 0.11, -0.0035, -0.8),
    "pallidum": (1800, 0.11, -0.0020, -0.5),
    "hippocampus": (4000, 0.10, -0.0045, -0.4),
    "amygdala": (1600, 0.12, -0.0035, -0.4),
    "accumbens": (530, 0.13, -0.0045, -0.3),
    "superior frontal": (21000, 0.10, -0.0030, 0.0),
    "precentral": (12500, 0.10, -0.0025, 0.0),
    "superior temporal": (11500, 0.10, -0.0030, 0.0),
    "insula": (6800, 0.10, -0.0025, 0.0),
    "entorhinal": (1900, 0.13, -0.0030, 0.0),
    "precuneus": (9400, 0.11, -0.0030, 0.0),
    "lateral occipital": (11400, 0.11, -0.0020, 0.0),
}
REGIONS = tuple(f"{side} {kind}" for kind in _KINDS for side in ("left", "right"))
"""The thirty regions: fifteen, on either side."""
SEX = 0.07  # how much larger men's regions are, share of the volume
MIDDLE_AGE = 64.0  # years, at which a region has its volume of the table
HEAD = 0.4  # share of the variance between people that all regions have in common
SHIFT, SHIFT_SPREAD, GAIN_SPREAD = 0.5, 0.5, 0.15


@dataclass(frozen=True)
class RegionRecipe:
    """What a simulated study of region volumes is made of; the same recipe gives the same volumes.

    Parameters
    ----------
    sites : tuple of int
        Subjects at each site.
    effect : float
        Factor on the effect of the disease; 0 for none, 1 for up to 0.8 standard deviations (putamen).
    ageing, sex : float
        Factors on the effects of age and of sex.
    shift, gain : float
        Factors on what sites add to regions and on how they stretch them; 0 for ideal sites.
    confounding : float
        How far the site tells the diagnosis, from 0 to 1; see `draw_people`.
    seed : int
        The same people, brains and sites whatever the factors.
    """

    sites: tuple[int, ...] = SITES
    effect: float = 1.0
    ageing: float = 1.0
    sex: float = 1.0
    shift: float = 1.0
    gain: float = 1.0
    confounding: float = 0.0
    seed: int = 2025

    def __post_init__(self) -> None:
        check_sites("RegionRecipe.sites", self.sites)
        check_factors(self, ("effect", "ageing", "sex", "shift", "gain"))
        check_share("RegionRecipe.confounding", self.confounding)
        require_whole("RegionRecipe.seed", self.seed, least=0)


def simulate_regions(recipe: RegionRecipe | None = None) -> Simulated:
    """Return simulated volumes (mm^3) of thirty brain regions, measured at several sites.

    Parameters
    ----------
    recipe : RegionRecipe, optional

    Returns
    -------
    Simulated
        `values` and `clean` in mm^3, subjects by `REGIONS`. `truth` by region: volume and sd (mm^3), ageing (mm^3 a
        year), sex (mm^3, men less women), disease (mm^3) and disease_d (the same in sd). `site_truth` by site and
        region: shift (mm^3) and gain (factor).

    Notes
    -----
    A site measures ``volume + shift + gain * (true - volume)``: its gain stretches all that tells people apart, ageing
    and disease included, whereas ComBat's scale acts on the residuals alone. So no method here has its model given.
    A site's shifts have a mean of their own (standard deviation 0.5 sd of the region) and scatter over regions by as
    much; log gains have a standard deviation of 0.15, of which half of the variance is the site's.

    Examples
    --------
    >>> study = simulate_regions(RegionRecipe(sites=(20, 10)))
    >>> study.values.shape, study.people["site"].nunique(), float(study.truth.loc["left putamen", "disease_d"])
    ((30, 30), 2, -0.8)
    """
    recipe = recipe or RegionRecipe()
    people_seed, brain_seed, site_seed = np.random.SeedSequence(recipe.seed).spawn(3)
    people = draw_people(recipe.sites, confounding=recipe.confounding, seed=people_seed)
    truth = _tabulate_truth(recipe)
    clean = _grow_brains(people, truth, np.random.default_rng(brain_seed))
    shift, gain = _draw_machines(recipe, truth, np.random.default_rng(site_seed))
    volume, at = truth["volume"].to_numpy(), people["site"]
    values = volume + shift.loc[at].to_numpy() + gain.loc[at].to_numpy() * (clean - volume)
    site_truth = pd.DataFrame({"shift": shift.stack(), "gain": gain.stack()})
    return Simulated(values, people, clean, truth, site_truth.rename_axis(["site", "region"]))


def _tabulate_truth(recipe: RegionRecipe) -> pd.DataFrame:
    """Return one row a region: volume, sd and true effects."""
    kinds = np.array([_KINDS[region.partition(" ")[2]] for region in REGIONS])
    volume = kinds[:, 0]
    sd = volume * kinds[:, 1]
    effects = {
        "volume": volume,
        "sd": sd,
        "ageing": recipe.ageing * volume * kinds[:, 2],
        "sex": recipe.sex * volume * SEX,
        "disease": recipe.effect * sd * kinds[:, 3],
        "disease_d": recipe.effect * kinds[:, 3],
    }
    return pd.DataFrame(effects, index=pd.Index(REGIONS, name="region"))


def _grow_brains(people: pd.DataFrame, truth: pd.DataFrame, generator: np.random.Generator) -> pd.DataFrame:
    """Return the true volumes, subjects by regions, mm^3."""
    n = len(people)
    head, own = generator.normal(size=(n, 1)), generator.normal(size=(n, len(truth)))
    known = {
        "ageing": people["age"] - MIDDLE_AGE,
        "sex": np.where(people["sex"] == "M", 0.5, -0.5),
        "disease": people["diagnosis"],
    }
    effects = sum(np.outer(value, truth[name]) for name, value in known.items())
    between = truth["sd"].to_numpy() * (np.sqrt(HEAD) * head + np.sqrt(1 - HEAD) * own)
    return pd.DataFrame(truth["volume"].to_numpy() + effects + between, index=people.index, columns=truth.index)


def _draw_machines(
    recipe: RegionRecipe, truth: pd.DataFrame, generator: np.random.Generator
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return shift (mm^3) and gain of every site, sites by regions."""
    n_sites, n_regions = len(recipe.sites), len(truth)
    common, own = generator.normal(size=(n_sites, 1, 2)), generator.normal(size=(n_sites, n_regions, 2))
    names = {"index": [f"site-{at:02d}" for at in range(1, n_sites + 1)], "columns": truth.index}
    shift = recipe.shift * truth["sd"].to_numpy() * (SHIFT * common[..., 0] + SHIFT_SPREAD * own[..., 0])
    log_gain = recipe.gain * GAIN_SPREAD * (common[..., 1] + own[..., 1]) / np.sqrt(2)
    return pd.DataFrame(shift, **names), pd.DataFrame(np.exp(log_gain), **names)
