"""The section on what verification reveals of each center, and whom that points at."""

from __future__ import annotations

import numpy as np
import pandas as pd

from dqc_lib.pages import draw_table
from dqc_lib.report.material import Material, count, write_list, write_paragraph, write_section

FEWEST = 5
"""Subjects of one class, or of one center, below which a number points at persons: who knows the others knows the last.
It is the lowest limit in use for tables of patients; US Medicare (CMS) publishes none below 11."""
WORDS = {"controls": ("control", "controls"), "patients": ("patient", "patients")}


def write_revealing(material: Material, name: str, heading: str) -> str:
    """Return the section: what every center answered, and a warning where few subjects stand behind it."""
    small = list_small_centers(material)
    verifying = _count_verifiers(material)
    parts = [write_list(_tell_answers(material))]
    if small.empty:
        said = (
            f"At each of {count(len(verifying), 'verifying center')}, at least {FEWEST} subjects stand behind a count."
        )
        parts.append(write_paragraph(said))
    else:
        said = (
            f"Warning: at {len(small)} of {count(len(verifying), 'verifying center')}, fewer than {FEWEST} subjects "
            "stand behind a count. Where it is one, it tells how the model calls this person; where they are few, "
            "whoever knows the others learns it of the last one."
        )
        parts.append(f"<p><strong>{said}</strong></p>")
        parts.append(draw_table(small, caption=f"Centers with 1 to {FEWEST - 1} verifying subjects of a class"))
    parts += _warn_of_small_cohorts(material)
    says = "What each center gave away whenever the model was verified, and where that points at one person."
    return write_section(name, heading=heading, says=says, parts=parts)


def _count_verifiers(material: Material) -> pd.DataFrame:
    """Return controls and patients who verify, by center."""
    table = material.study.cohort.table
    groups = table[table["role"] == "verification"].groupby("center", sort=False)["diagnosis"]
    patients = groups.sum().astype(int)
    return pd.DataFrame({"controls": groups.size() - patients, "patients": patients})


def list_small_centers(material: Material) -> pd.DataFrame:
    """Return one row per center with 1 to `FEWEST` - 1 verifying controls or patients: how many, and whom that points
    at."""
    counts = _count_verifiers(material)
    small = counts[((counts > 0) & (counts < FEWEST)).any(axis=1)]
    told = []
    for row in small.to_dict("records"):
        few = {name: n for name, n in row.items() if 0 < n < FEWEST}
        told.append(
            ", ".join(f"one {WORDS[name][0]}" if n == 1 else f"{n} {WORDS[name][1]}" for name, n in few.items())
        )
    return small.assign(**{"points at": told})


def _tell_answers(material: Material) -> list[str]:
    """Return in words what centers answered in the run, read from its ledger and settings."""
    attempts = material.attempts
    verified = int(attempts["fp"].notna().sum())
    told = [
        f"{verified} of {count(len(attempts), 'attempt')} were verified. Each time, every center that verifies "
        "answered with four integers: its controls and those of them called diseased, its patients and those missed."
    ]
    if attempts["loss"].notna().any() or attempts["reference_loss"].notna().any():
        told.append(
            "The rule asked for the sum of the losses too. It tells more than counts: from a center with one verifying "
            "subject it is that subject's score."
        )
    else:
        told.append("The rule asked for no sum of losses.")
    norms = attempts["update_norm"]
    if (np.isfinite(norms) & (norms > 0)).any():
        told.append(
            "The center that trained also answered with the update norm of each attempt: one number, decided by the "
            "most unusual of its images; where an image was tried alone, it tells how unusual this one is to the model."
        )
    if material.verifying != "full":
        told.append(
            f"Attempts were verified by few images ({material.verifying!r}): for that, the scores of single verifying "
            "subjects of all centers were compared in one place, which tells far more than counts."
        )
    told.append(
        "The run keeps the sums over all centers and shows no counts of one center; whoever adds them up has seen them."
    )
    return told


def _warn_of_small_cohorts(material: Material) -> list[str]:
    """Return a warning where the table of centers describes a handful of persons."""
    sizes = material.study.cohort.table["center"].value_counts(sort=False)
    few = [str(center) for center, n in sizes.items() if n < FEWEST]
    if not few:
        return []
    named = ", ".join(few[:12]) + f" and {len(few) - 12} more" * (len(few) > 12)
    shown = "left out there" if material.pseudonymized else "nearly those of a person there"
    told = f"Warning: {count(len(few), 'center')} with fewer than {FEWEST} subjects ({named})"
    return [write_paragraph(f"{told}: mean age and share of women in the table of centers are {shown}.")]
