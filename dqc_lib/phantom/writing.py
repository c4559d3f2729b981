"""Phantom cohorts on disk, as BIDS folders."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from dqc_lib.arguments import require_kind, require_path
from dqc_lib.cohort import Cohort, read_bids, write_bids
from dqc_lib.notes import claim_folder
from dqc_lib.phantom.painting import Recipe, load_template, paint_phantom
from dqc_lib.phantom.subjects import draw_subjects
from dqc_lib.volumes import write_volume


def write_phantoms(
    folder: str | Path, *, sites="sample", recipe: Recipe | None = None, first: int = 1, progress: bool = True
) -> Cohort:
    """Write a phantom cohort as a BIDS folder, or read it if it is there already.

    Parameters
    ----------
    folder : path
        Where the cohort lives; made if missing. A folder with the same recipe is read, not written again, and one
        that was left half-way is finished.
    sites, first : as in `draw_subjects`
    recipe : Recipe, optional
    progress : bool
        Show a progress bar.

    Returns
    -------
    Cohort

    Raises
    ------
    FileExistsError
        If the folder holds a cohort of another recipe, or anything else.
    """
    folder, recipe = require_path("folder", folder), recipe or Recipe()
    require_kind("recipe", recipe, Recipe, such_as="Recipe(seed=2025)")
    sites = sites if isinstance(sites, str) else [tuple(pair) for pair in sites]
    table = draw_subjects(sites, seed=recipe.seed, first=first)
    numbered = {"first": first} if first > 1 else {}  # a cohort numbered from 1 keeps the note it always had
    claim_folder(folder, "recipe.json", {"sites": sites, **asdict(recipe), **numbered}, of="phantoms")
    if not (folder / "participants.tsv").exists():
        table["path"] = [str(folder.resolve() / name / "anat" / f"{name}_T1w.nii.gz") for name in table["subject"]]
        _write_images(table, recipe=recipe, progress=progress)
        write_bids(Cohort(table, folder), folder)  # last: its presence says that every image is there
    return read_bids(folder)


def _write_images(table: pd.DataFrame, *, recipe: Recipe, progress: bool) -> None:
    from tqdm.auto import tqdm

    def write(row) -> None:
        if not Path(row.path).exists():
            array = paint_phantom(
                row.subject,
                center=row.center,
                diagnosis=row.diagnosis,
                sex=row.sex,
                age=row.age,
                scanner=row.scanner,
                recipe=recipe,
            )
            write_volume(row.path, array, affine=recipe.affine)

    load_template()  # once, before the threads ask for it
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # scipy.ndimage releases the interpreter lock
        rows = list(table.itertuples())
        for _ in tqdm(pool.map(write, rows), total=len(rows), desc="phantoms", unit="volume", disable=not progress):
            pass
