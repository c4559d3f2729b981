"""Records of several hospitals: codes over visits, with a course in time, and hospitals that differ by one knob.

Simulated. A patient belongs to one of four hidden phenotypes. Chronic codes, once begun, mostly stay; acute codes come
in bursts; a progressive code follows its parent, a chronic code, and hardly ever comes before it; rare codes are rare.
Hospitals differ in whom they treat (case mix) and in how they write it down (coding practice), both by `shift`. The
codes are made up, and so are their rates: no real patient, hospital or coding system was looked at.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from types import MappingProxyType
from zlib import crc32

import numpy as np
import pandas as pd

from dqc_lib.arguments import require_number, require_whole, show_value

PHENOTYPES = (0.4, 0.3, 0.2, 0.1)
"""Share of every hidden phenotype, at every hospital where the shift is 0."""
PATTERN = ("chronic", "acute", "chronic", "progressive", "acute", "rare")
"""Kinds of codes, in turns: of 24 codes 8 are chronic, 8 acute, 4 progressive and 4 rare."""
KINDS = tuple(dict.fromkeys(PATTERN))
STAY = MappingProxyType({"chronic": 0.95, "acute": 0.65, "progressive": 0.92, "rare": 0.30})
"""Probability that a code of a visit is there at the next one, by kind."""
BEGIN = MappingProxyType({"chronic": (0.05, 0.008), "acute": (0.08, 0.03), "rare": (0.006, 0.006)})
"""Probability that a code which is not there begins at a visit: in the phenotype it belongs to, and in others."""
AT_FIRST = MappingProxyType({"chronic": (0.35, 0.05), "acute": (0.18, 0.08), "rare": (0.008, 0.008)})
"""Probability of a code at the first visit, likewise; no progressive code is there."""
PROGRESS = (0.002, 0.14)
"""Probability that a progressive code begins: before its parent was ever there, and at any visit after."""
TILT = 2.0  # standard deviation of the log odds of phenotypes over hospitals, for a shift of 1
PRACTICE = MappingProxyType({"sibling": 0.9, "omitted": 0.4, "copied": 0.5})
"""At most this share, for a shift of 1: patients whose code is written as its sibling, records of a code that are left
out, and records that are copied forward into the next visit. Every hospital draws its own share of it."""


@dataclass(frozen=True)
class HospitalRecipe:
    """What the records of several hospitals are made of.

    Parameters
    ----------
    patients : tuple of int
        At every hospital.
    n_visits : int
        Of every patient, at least 2.
    n_codes : int
        At least 6, so that there is one of every kind.
    shift : float
        From 0 (all hospitals alike) to 1: how much they differ in case mix and in coding practice.
    seed : int
        Of the hospitals and their patients. The same seed draws the same chances at every shift, so that only the shift
        differs.
    sample : int
        Other patients of the same hospitals: 0 to train with and 1 to test with, say.
    """

    patients: tuple[int, ...] = (600, 300, 200, 120, 60)
    n_visits: int = 12
    n_codes: int = 24
    shift: float = 0.0
    seed: int = 2025
    sample: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.patients, str) or not isinstance(self.patients, Iterable):
            raise TypeError(
                f"HospitalRecipe.patients must be a number for each hospital, got {show_value(self.patients)}"
            )
        object.__setattr__(self, "patients", tuple(self.patients))
        for number, n in enumerate(self.patients, start=1):
            require_whole(f"HospitalRecipe.patients of hospital {number}", n, least=1)
        if not self.patients:
            raise ValueError("HospitalRecipe.patients must hold a number for at least one hospital, got none")
        require_whole("HospitalRecipe.n_visits", self.n_visits, least=2)
        require_whole("HospitalRecipe.n_codes", self.n_codes, least=len(PATTERN))
        require_whole("HospitalRecipe.seed", self.seed, least=0)
        require_whole("HospitalRecipe.sample", self.sample, least=0)
        require_number("HospitalRecipe.shift", self.shift)
        if not 0 <= self.shift <= 1:
            raise ValueError(f"HospitalRecipe.shift must be from 0 to 1, got {self.shift!r}")


@dataclass(frozen=True, eq=False)
class Hospitals:
    """Records of several hospitals, and the truth.

    Parameters
    ----------
    visits : dict of str to float32 ndarray, shape (patients, visits, codes)
        1 where a code was recorded, 0 elsewhere, by hospital.
    codes : tuple of str
        Names of the last axis: "chronic-01", "acute-01", ...
    truth : DataFrame
        Index patient, columns hospital and phenotype (1 to 4), in the order of the arrays: what no analysis may see.
    """

    visits: dict[str, np.ndarray]
    codes: tuple[str, ...]
    truth: pd.DataFrame


def simulate_hospitals(recipe: HospitalRecipe | None = None) -> Hospitals:
    """Return the records of a recipe; the same recipe gives the same records.

    Examples
    --------
    >>> data = simulate_hospitals(HospitalRecipe(patients=(3, 2), n_codes=6))
    >>> {name: visits.shape for name, visits in data.visits.items()}
    {'hospital-1': (3, 12, 6), 'hospital-2': (2, 12, 6)}
    >>> data.codes
    ('chronic-01', 'chronic-02', 'acute-01', 'acute-02', 'progressive-01', 'rare-01')
    """
    recipe = recipe or HospitalRecipe()
    kinds = _list_kinds(recipe.n_codes)
    visits, parts = {}, []
    for number, n in enumerate(recipe.patients, start=1):
        name = f"hospital-{number}"
        house = np.random.default_rng([recipe.seed, crc32(name.encode())])
        rng = np.random.default_rng([recipe.seed, crc32(name.encode()), recipe.sample + 1])
        odds = np.array(PHENOTYPES) * np.exp(TILT * recipe.shift * house.standard_normal(len(PHENOTYPES)))
        practice = {way: recipe.shift * most * house.random(len(kinds)) for way, most in PRACTICE.items()}
        swapped = house.random(len(kinds)) < 0.5
        phenotype = np.searchsorted(np.cumsum(odds)[:-1] / odds.sum(), rng.random(n), side="right")
        course = _run_course(phenotype, kinds, rng.random((n, recipe.n_visits, len(kinds))))
        visits[name] = _write_down(course, kinds, practice=practice, swapped=swapped, rng=rng)
        parts.append(pd.DataFrame({"hospital": name, "phenotype": phenotype + 1}))
    truth = pd.concat(parts, ignore_index=True)
    truth.index = pd.Index([f"patient-{number:05d}" for number in range(1, len(truth) + 1)], name="patient")
    return Hospitals(visits, _name_codes(kinds), truth)


def _list_kinds(n_codes: int) -> np.ndarray:
    """Return the kind of every code, codes of a kind together."""
    kinds = [PATTERN[at % len(PATTERN)] for at in range(n_codes)]
    return np.array(sorted(kinds, key=KINDS.index))


def _name_codes(kinds: np.ndarray) -> tuple[str, ...]:
    ranks = [int((kinds[:at] == kind).sum()) + 1 for at, kind in enumerate(kinds)]
    return tuple(f"{kind}-{rank:02d}" for kind, rank in zip(kinds, ranks, strict=True))


def _run_course(phenotype: np.ndarray, kinds: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """Return what patients have at every visit, bool; `chance` holds a uniform number for every place."""
    own = _find_own(phenotype, kinds)
    first, begin = (_choose(table, kinds, own) for table in (AT_FIRST, BEGIN))
    stay = np.array([STAY[kind] for kind in kinds])
    progressive, parent = np.flatnonzero(kinds == "progressive"), np.flatnonzero(kinds == "chronic")
    parent = parent[np.arange(len(progressive)) % len(parent)]
    course = np.zeros(chance.shape, dtype=bool)
    course[:, 0] = chance[:, 0] < first
    begun = course[:, 0].copy()
    for visit in range(1, chance.shape[1]):
        begin[:, progressive] = np.where(begun[:, parent], PROGRESS[1], PROGRESS[0])
        course[:, visit] = chance[:, visit] < np.where(course[:, visit - 1], stay, begin)
        begun |= course[:, visit]
    return course


def _find_own(phenotype: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Return whether a code belongs to a patient's phenotype; codes of a kind belong to the phenotypes in turns."""
    rank = np.array([(kinds[:at] == kind).sum() for at, kind in enumerate(kinds)])
    return (rank % len(PHENOTYPES))[np.newaxis] == phenotype[:, np.newaxis]


def _choose(table: MappingProxyType, kinds: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Return the probability of every patient and code, 0 where the table has none."""
    pairs = np.array([table.get(kind, (0.0, 0.0)) for kind in kinds])
    return np.where(own, pairs[:, 0], pairs[:, 1])


def _write_down(
    course: np.ndarray, kinds: np.ndarray, *, practice: dict, swapped: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Return what a hospital records of what its patients have, float32 0 and 1."""
    n, n_visits, n_codes = course.shape
    patient, record, copy = rng.random((n, n_codes)), rng.random(course.shape), rng.random(course.shape)
    recorded = course & (record >= practice["omitted"])
    copied = recorded[:, :-1] & (copy[:, 1:] < practice["copied"])
    recorded[:, 1:] |= copied
    for first, second in _list_siblings(kinds):
        source, target = (second, first) if swapped[first] else (first, second)
        moved = patient[:, first] < practice["sibling"][first]
        recorded[moved, :, target] |= recorded[moved, :, source]
        recorded[moved, :, source] = False
    return recorded.astype(np.float32)


def _list_siblings(kinds: np.ndarray) -> list[tuple[int, int]]:
    """Return pairs of codes of a kind of which a hospital may write one for the other."""
    found = []
    for kind in KINDS:
        places = np.flatnonzero(kinds == kind).tolist()
        half = len(places) // 2
        found += list(zip(places[:half], places[half : 2 * half], strict=True))
    return found
