"""Who is in a phantom cohort: centers, diagnoses, sexes, ages and scanner vendors, without images."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files
from zlib import crc32

import numpy as np
import pandas as pd

from dqc_lib.arguments import require_whole, show_value

SAMPLE_CENTERS = ((15, 15), (12, 10), (9, 9), (10, 6), (6, 10), (7, 5), (5, 6), (0, 9), (8, 0), (3, 3), (0, 3), (1, 1))
"""Subjects with and without the disease in each of the twelve centers of `data_samples/`."""


def read_published_sites() -> pd.DataFrame:
    """Return the 83 centers of the published cohort: vendor, and subjects by role, class and sex.

    Returns
    -------
    DataFrame
        One row per site: site, scanner_vendor, train_pd, train_hc, train_male, test_pd, test_hc, test_male (counts of
        subjects). Source: the site counts of the repository RaissaSouza/fedTM, as plain numbers.
    """
    return pd.read_csv(str(files("dqc_lib") / "data" / "sites_83.tsv"), sep="\t")


def draw_subjects(
    sites: str | Iterable[tuple[int, int]] = "sample", *, seed: int = 2025, first: int = 1
) -> pd.DataFrame:
    """Return the participants of a phantom cohort, without images.

    Parameters
    ----------
    sites : "sample", "published" or iterable of (int, int)
        The twelve centers of `data_samples/`, the 83 published centers (1,410 training and 407 test subjects, with a
        `role` column), or the numbers of subjects with and without the disease in each center.
    seed : int
        Seed of age, sex and scanner vendor.
    first : int
        Number of the first subject, at least 1. A phantom's anatomy follows from its name, so a cohort numbered from
        beyond the last subject of another holds other brains, at the same centers with the same scanners.

    Returns
    -------
    DataFrame
        Columns subject, center, diagnosis (1 = disease), sex, age (years), scanner, and role for the published sites.
    """
    require_whole("first", first)
    require_whole("seed", seed, least=0)
    if first < 1:
        raise ValueError(f"first must be a number from 1, got {first!r}")
    rng = np.random.default_rng([seed, crc32(b"subjects"), *([first] if first > 1 else [])])
    if isinstance(sites, str) and sites == "published":
        rows = _published_rows(rng)
    elif isinstance(sites, str) and sites != "sample":
        raise ValueError(f"sites must be 'sample', 'published' or pairs of counts, got {sites!r}")
    else:
        rows = _rows_of_counts(SAMPLE_CENTERS if isinstance(sites, str) else _list_counts(sites), rng)
    table = pd.DataFrame(rows)
    table.insert(0, "subject", [f"sub-{number:04d}" for number in range(first, first + len(table))])
    table["age"] = np.round(np.clip(rng.normal(64.0, 9.0, len(table)), 40.0, 88.0), 1)
    return table


def _list_counts(sites: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the pairs of counts, or say what is wrong with them."""
    if not isinstance(sites, Iterable):
        raise TypeError(f"sites must be 'sample', 'published' or pairs of counts, got {show_value(sites)}")
    pairs = [tuple(pair) if isinstance(pair, Iterable) else (pair,) for pair in sites]
    for pair in pairs:
        if len(pair) != 2:
            raise ValueError(f"sites must hold pairs of counts, got {show_value(pair)} among them")
        for count in pair:
            require_whole("each count of sites", count, least=0)
    if not any(map(sum, pairs)):
        raise ValueError(f"sites must hold at least one subject, got {show_value(pairs)}")
    return pairs


def _published_rows(rng: np.random.Generator) -> list[dict]:
    rows = []
    for site in read_published_sites().itertuples():
        for role in ("train", "test"):
            n_disease, n_control, n_male = (getattr(site, f"{role}_{name}") for name in ("pd", "hc", "male"))
            diagnoses = np.r_[np.ones(n_disease, int), np.zeros(n_control, int)]
            sexes = rng.permutation(np.r_[np.full(n_male, "M"), np.full(len(diagnoses) - n_male, "F")])
            rows += [
                {
                    "center": site.site,
                    "diagnosis": diagnosis,
                    "sex": str(sex),
                    "scanner": site.scanner_vendor,
                    "role": role,
                }
                for diagnosis, sex in zip(diagnoses, sexes, strict=True)
            ]
    return rows


def _rows_of_counts(counts: list[tuple[int, int]], rng: np.random.Generator) -> list[dict]:
    rows = []
    for number, (n_disease, n_control) in enumerate(counts, start=1):
        vendor = f"vendor {'ABC'[(number - 1) % 3]}"
        for diagnosis in [1] * n_disease + [0] * n_control:
            sex = "M" if rng.random() < (0.6 if diagnosis else 0.45) else "F"
            rows.append({"center": f"center-{number:02d}", "diagnosis": diagnosis, "sex": sex, "scanner": vendor})
    return rows
