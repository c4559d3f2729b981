"""Clinical tables of several sites: with patient groups that are there, with sites that measure otherwise, or both.

Simulated. Five scores that a clinic for movement disorders would write down are drawn from normal distributions, in the
units of their names, rounded, and not clipped to the scales' ends. True groups differ in several scores by a common
distance. Sites are of two schools that measure otherwise: another time since the last dose, another version of a test.
No real patient and no real site was looked at.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from zlib import crc32

import numpy as np
import pandas as pd

from dqc_lib.arguments import require_number, require_sizes, require_whole

SCORES = {
    "motor": (32.0, 9.0),
    "cognition": (25.0, 2.5),
    "mood": (5.0, 2.5),
    "sleep": (6.0, 2.8),
    "smell": (18.0, 6.0),
}
"""Mean and standard deviation of every score over all patients, in points of its scale."""
DIRECTIONS = ((0, 0, 0, 0, 0), (1, -1, 0.6, 0.8, -0.8), (-0.8, 0.2, 1, 1, 0.6), (0.6, 1, -1, 0.8, 0.6))
"""Where the true groups lie, in standard deviations of the scores for a distance of 1."""
SCHOOL = (-1.0, 0.8, 0.0, 0.0, 0.9)
"""By how much the second school measures otherwise, in standard deviations for a strength of 1."""


@dataclass(frozen=True)
class ClinicalRecipe:
    """What a clinical table is made of.

    Parameters
    ----------
    subjects : tuple of int
        Patients at every site.
    n_groups : int
        True groups, 1 to 4; with 1 there are none.
    distance : float
        Between true groups, in standard deviations (see `DIRECTIONS`); 0 is no group.
    site : float
        How differently the second school measures, in standard deviations; 0 is one way everywhere. Sites 1, 3, 5, ...
        are of the first school.
    confounding : float
        Probability, 0 to 1, that a patient is of the group that its site attracts, in turns; with 0 the groups are
        equally frequent at every site.
    seed : int
    """

    subjects: tuple[int, ...] = (40, 40, 30, 30, 20, 20)
    n_groups: int = 1
    distance: float = 0.0
    site: float = 0.0
    confounding: float = 0.0
    seed: int = 2025

    def __post_init__(self) -> None:
        object.__setattr__(self, "subjects", require_sizes("ClinicalRecipe.subjects", self.subjects))
        if not self.subjects or min(self.subjects) < 1:
            raise ValueError(f"ClinicalRecipe.subjects must be at least one for every site, got {self.subjects!r}")
        require_whole("ClinicalRecipe.seed", self.seed, least=0)
        require_whole("ClinicalRecipe.n_groups", self.n_groups, least=1)
        if self.n_groups > len(DIRECTIONS):
            raise ValueError(f"ClinicalRecipe.n_groups must be at most {len(DIRECTIONS)}, got {self.n_groups!r}")
        for name in ("distance", "site", "confounding"):
            require_number(f"ClinicalRecipe.{name}", getattr(self, name))
            if not (np.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"ClinicalRecipe.{name} must be a finite number >= 0, got {getattr(self, name)!r}")
        if self.confounding > 1:
            raise ValueError(f"ClinicalRecipe.confounding must be at most 1, got {self.confounding!r}")


@dataclass(frozen=True, eq=False)
class ClinicalData:
    """A clinical table, the sites, and the truth, all with the subjects as index.

    Parameters
    ----------
    scores : DataFrame
        One column per score, in points.
    sites : Series
        The site of every subject.
    truth : DataFrame
        group ("group-1", ...) and school (1 or 2): what an analysis must not see.
    """

    scores: pd.DataFrame
    sites: pd.Series
    truth: pd.DataFrame


def simulate_clinical(recipe: ClinicalRecipe | None = None) -> ClinicalData:
    """Return the clinical table of a recipe; the same recipe gives the same table.

    Examples
    --------
    >>> data = simulate_clinical(ClinicalRecipe(subjects=(3, 2)))
    >>> data.sites.tolist()
    ['site-1', 'site-1', 'site-1', 'site-2', 'site-2']
    """
    recipe = recipe or ClinicalRecipe()
    n, rng = sum(recipe.subjects), np.random.default_rng([recipe.seed, crc32(b"clinical")])
    index = pd.Index([f"sub-{number:04d}" for number in range(1, n + 1)], name="subject")
    site = np.repeat(np.arange(len(recipe.subjects)), recipe.subjects)
    group = np.concatenate([rng.permutation(np.arange(size) % recipe.n_groups) for size in recipe.subjects])
    noise = rng.standard_normal((n, len(SCORES)))
    group = np.where(rng.random(n) < recipe.confounding, site % recipe.n_groups, group)
    place = noise + recipe.distance * np.array(DIRECTIONS)[group] + recipe.site * np.outer(site % 2, SCHOOL)
    means, spreads = np.array(list(SCORES.values())).T
    scores = pd.DataFrame((means + spreads * place).round(1), index=index, columns=list(SCORES))
    truth = pd.DataFrame({"group": _name("group", group), "school": site % 2 + 1}, index=index)
    return ClinicalData(scores, pd.Series(_name("site", site), index=index, name="site"), truth)


def _name(kind: str, numbers: Iterable[int]) -> list[str]:
    """Return "site-1" for 0 and so on."""
    return [f"{kind}-{number + 1}" for number in numbers]
