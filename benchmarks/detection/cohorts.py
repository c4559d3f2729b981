"""The cohorts of the study: phantoms of 19 centers, drawn anew for every seed, with places for harm."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

import dqc_lib as dqc
from dqc_lib.volumes import write_volume

MIXED = ((12, 12), (10, 10), (9, 9), (8, 8), (7, 7), (6, 6), (6, 6), (5, 5), (10, 10), (8, 8))
ONE_CLASS = ((0, 8), (8, 0), (0, 6))
ONE_IMAGE = ((1, 0), (0, 1), (1, 0), (0, 1))
NEW_SCANNER = ((6, 6), (5, 5))
GROUPS = (
    *("known" for _ in MIXED),
    *("one class" for _ in ONE_CLASS),
    *("one image" for _ in ONE_IMAGE),
    *("new scanner" for _ in NEW_SCANNER),
)
QUICK = (*((3, 3) for _ in MIXED), (0, 3), (3, 0), (0, 2), *ONE_IMAGE, (2, 2), (2, 2))
QUICK_SHAPE = (14, 17, 14)
SHAPE = (28, 34, 28)  # voxels of 5.7 mm: small, so that a thousand cells take hours, not days
DISEASE = 2.0
LARGE = {"shape": SHAPE, "disease": DISEASE, "seed": 83}
SINGLES = 5


def draw_cohort(seed: int, folder: Path, *, quick: bool = False) -> dqc.Cohort:
    """Return a good cohort with roles, its images still to be painted: mixed centers, some of one class, some of one
    image, two with new scanners; with `quick` the same centers, smaller."""
    sites = QUICK if quick else (*MIXED, *ONE_CLASS, *ONE_IMAGE, *NEW_SCANNER)
    table = dqc.draw_subjects(sites, seed=seed, first=1 + 1000 * seed)
    new = table["center"].map(find_groups(table)) == "new scanner"
    table.loc[new, "scanner"] = "vendor N" + table.loc[new, "center"].str[-1]  # no other center has it
    root = folder / f"phantoms-{seed}"
    table["path"] = [str((root / name / "anat" / f"{name}_T1w.nii.gz").resolve()) for name in table["subject"]]
    return dqc.split_by_subject(dqc.Cohort(table, root), seed=seed, verification=0.2, test=0.3)


def make_cohort(seed: int, folder: Path, *, quick: bool = False) -> dqc.Cohort:
    """Return a good cohort with roles and images; with `quick` these are smaller too."""
    recipe = dqc.Recipe(seed=2025 + seed, shape=QUICK_SHAPE if quick else SHAPE, disease=DISEASE)
    cohort = draw_cohort(seed, folder, quick=quick)
    for row in cohort.table.itertuples():
        if not Path(row.path).exists():
            person = {name: getattr(row, name) for name in ("center", "diagnosis", "sex", "age", "scanner")}
            write_volume(row.path, dqc.paint_phantom(row.subject, recipe=recipe, **person), affine=recipe.affine)
    return cohort


def make_large_cohort(seed: int, folder: Path) -> dqc.Cohort:
    """Return a good cohort of the 83 published centers, 1,410 training and 407 other subjects."""
    root = folder / "phantoms-83"
    cohort = dqc.write_phantoms(root, sites="published", recipe=dqc.Recipe(**LARGE), first=100001, progress=False)
    return dqc.divide_held_out(cohort, seed=seed)


def find_groups(table: pd.DataFrame) -> dict[str, str]:
    """Return what kind of center each one is: by its number, or where they are the published ones by class and size."""
    if table["center"].nunique() == len(GROUPS):
        return dict(zip(sorted(table["center"].unique()), GROUPS, strict=True))
    train = table[table["role"] == "train"].groupby("center")["diagnosis"].agg(["size", "nunique"])
    return {
        center: "one image" if row["size"] == 1 else "one class" if row["nunique"] == 1 else "known"
        for center, row in train.iterrows()
    }


def mark_slots(cohort: dqc.Cohort, *, seed: int, n_centers: int = 2, n_single: int = SINGLES) -> pd.DataFrame:
    """Return the training rows that become harmful, the same for every kind of harm: column placement is "center" or
    "single". With more centers the earlier ones stay."""
    table = cohort.table
    groups = find_groups(table)
    train = table[(table["role"] == "train") & (table["center"].map(groups) == "known")]
    sizes = train.groupby("center").size()
    rng = np.random.default_rng([seed, 7])
    order = [str(center) for center in rng.permutation(sorted(sizes.index))]
    whole, others = order[:n_centers], [center for center in order[::-1] if center not in order[:n_centers]]
    singles = [
        rng.choice(sorted(train.loc[train["center"] == center, "subject"]))
        for center in [center for center in others if sizes[center] >= 2][:n_single]
    ]
    placement = train["center"].map(lambda center: "center" if center in whole else "")
    placement = placement.mask(train["subject"].isin(singles), "single")
    return train.assign(placement=placement)[placement != ""]


@lru_cache(maxsize=32)
def find_places(seed: int, *, quick: bool = False) -> frozenset[str]:
    """Return the subjects that two whole centers and the single images take; a clean start does not train on them,
    whether they are harmed or not."""
    return frozenset(mark_slots(draw_cohort(seed, Path(), quick=quick), seed=seed)["subject"])


def write_marked(
    cohort: dqc.Cohort, slots: pd.DataFrame, *, kind: str, folder: Path, strengths: dict[str, float] | None = None
) -> dqc.Cohort:
    """Return the cohort with the marked images harmed; `strengths` by subject, the kind's default otherwise."""
    from dqc_lib.harm import describe_harm

    table = cohort.table.assign(harm="", placement="")
    for row in slots.itertuples():
        mark = describe_harm(kind, (strengths or {}).get(row.subject))
        table.loc[table["subject"] == row.subject, ["harm", "placement"]] = [mark, row.placement]
    return dqc.write_harmful(cohort.replace(table), folder)
