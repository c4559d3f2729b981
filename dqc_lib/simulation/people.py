"""Who is in a simulated study of several sites, and what such a study comes with: the truth, apart from the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dqc_lib.arguments import require_number, require_sizes, require_whole

SITES = (40, 34, 28, 22, 16, 12, 8, 6)
"""Subjects at each of eight sites: unequal, and some as small as sites of consortia are."""


@dataclass(frozen=True, eq=False)
class Simulated:
    """A simulated study: what its sites measured, and, apart from it, the truth that no analysis may read.

    Parameters
    ----------
    values : DataFrame
        One row a subject, one column a feature, as the sites measured it.
    people : DataFrame
        The same subjects: site, diagnosis (1 = disease), sex ("F", "M") and age (years).
    clean : DataFrame
        The same subjects measured by one ideal machine: `values` without the effects of sites.
    truth : DataFrame
        One row a feature: its true effects.
    site_truth : DataFrame
        One row a site and feature: what the site does to the feature.
    """

    values: pd.DataFrame
    people: pd.DataFrame
    clean: pd.DataFrame
    truth: pd.DataFrame
    site_truth: pd.DataFrame

    def _repr_html_(self) -> str:
        n_sites, n_disease = self.people["site"].nunique(), int(self.people["diagnosis"].sum())
        return (
            f"<b>Simulated</b> {len(self.people)} subjects ({n_disease} with the disease) of {n_sites} sites, "
            f"{self.values.shape[1]} features"
        )


def check_sites(name: str, sites: Sequence[int]) -> None:
    """Raise unless `sites` holds the number of subjects of at least one site, each at least 1."""
    require_sizes(name, sites)
    if not len(sites) or min(sites) < 1:
        raise ValueError(f"{name} must hold at least one site of at least one subject each, got {tuple(sites)!r}")


def check_factors(recipe: object, names: Sequence[str]) -> None:
    """Raise unless the named fields of a recipe are finite numbers that are not negative."""
    for name in names:
        value = getattr(recipe, name)
        require_number(f"{type(recipe).__name__}.{name}", value)
        if not (np.isfinite(value) and value >= 0):
            raise ValueError(f"{type(recipe).__name__}.{name} must be a finite number >= 0, got {value!r}")


def check_share(name: str, value: float) -> None:
    """Raise unless the value is a number from 0 to 1."""
    require_number(name, value)
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be a number from 0 to 1, got {value!r}")


def draw_people(
    sites: Sequence[int] = SITES, *, confounding: float = 0.0, seed: int | np.random.SeedSequence = 0
) -> pd.DataFrame:
    """Return the people of a simulated study.

    Parameters
    ----------
    sites : sequence of int
        Subjects at each site.
    confounding : float
        How far the site tells the diagnosis. At 0 half of every site has the disease; at 1 all of every first and
        nobody of every second site; between, the shares are (1 + confounding) / 2 and (1 - confounding) / 2, rounded to
        whole subjects.
    seed : int or SeedSequence
        Age and sex follow from it alone: another `confounding` gives other diagnoses to the same people.

    Returns
    -------
    DataFrame
        Index subject ("sub-0001"), columns site ("site-01"), diagnosis (1 = disease), sex ("F", "M"; even) and age
        (years; normal with mean 64 and standard deviation 9, cut off at 40 and 88), which no diagnosis changes.

    Examples
    --------
    >>> draw_people([10, 10], confounding=0.6).groupby("site")["diagnosis"].sum().to_dict()
    {'site-01': 8, 'site-02': 2}
    """
    check_sites("sites", sites)
    check_share("confounding", confounding)
    if not isinstance(seed, np.random.SeedSequence):
        require_whole("seed", seed, least=0)
        seed = np.random.SeedSequence(seed)
    person_draw, order_draw = (np.random.default_rng(child) for child in seed.spawn(2))
    total = sum(sites)
    people = pd.DataFrame(
        {
            "site": np.repeat([f"site-{number:02d}" for number in range(1, len(sites) + 1)], sites),
            "diagnosis": 0,
            "sex": np.where(person_draw.random(total) < 0.5, "F", "M"),
            "age": np.round(np.clip(person_draw.normal(64.0, 9.0, total), 40.0, 88.0), 1),
        },
        index=pd.Index([f"sub-{number:04d}" for number in range(1, total + 1)], name="subject"),
    )
    diagnoses = []
    for number, n in enumerate(sites):
        share = 0.5 + 0.5 * confounding * (1 if number % 2 == 0 else -1)
        n_disease = int(np.floor(share * n + 0.5))
        diagnoses.append(order_draw.permutation(np.r_[np.ones(n_disease, int), np.zeros(n - n_disease, int)]))
    return people.assign(diagnosis=np.concatenate(diagnoses))
