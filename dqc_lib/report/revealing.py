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
    says = "What each center gave away in verifying and measuring, and where that points at one person."
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
    told.append(_tell_cycles(material))
    told += _tell_norms(material)
    if material.verifying != "full":
        told.append(
            f"Attempts were verified by few images ({material.verifying!r}): for that, the scores of single verifying "
            "subjects of all centers were compared in one place, which tells far more than counts."
        )
    told.append(
        "The run keeps the sums over all centers and shows no counts of one center; whoever adds them up has seen them."
    )
    told += _tell_test(material)
    return told


def _tell_cycles(material: Material) -> str:
    """Return in words how often all centers verify, whatever the rule."""
    schedule = material.study.schedule
    return (
        f"Whatever the rule, all centers verify the model also after every cycle, {schedule.pretraining_cycles} in the "
        f"pre-training and {schedule.control_cycles} in every arm, and after a closing revisit, unless its counts are "
        "known from an attempt: these are four integers again."
    )


def _tell_norms(material: Material) -> list[str]:
    """Return in words which update norms left a center: those of the watched cycle, always, and those that the rule
    asked for."""
    table = material.study.cohort.table
    n_train = int((table["role"] == "train").sum()) - len(material.settings[material.controlled.name]["held_back"])
    n_verifying = int((table["role"] == "verification").sum())
    told = [
        "The cycle that only watches, at the end of the pre-training, wrote one update norm per image into the ledger "
        f"of the pre-training, by name and center, for {count(n_train, 'training subject')} and "
        f"{count(n_verifying, 'verification subject')}: it tells how unusual each single one is to the model. The "
        "squared gradients of these training images, by which norms are measured, were added up over all centers."
    ]
    norms = material.attempts["update_norm"]
    if not (np.isfinite(norms) & (norms > 0)).any():
        return told
    told.append(
        "The center that trained also answered with the update norm of each attempt: one number, decided by the "
        "most unusual of its images; where an image was tried alone, it tells how unusual this one is to the model."
    )
    told.append(
        "At the start of every cycle and of a closing revisit, and again where an attempt stood just above the limit, "
        "every center that verifies answered with the sum of the logarithms of the update norms of its verification "
        f"images. {_tell_alone(material)}"
    )
    return told


def _tell_alone(material: Material) -> str:
    """Return in words where a sum over verification images is one image's own number."""
    sizes = _count_verifiers(material).sum(axis=1)
    alone = [str(center) for center, n in sizes.items() if n == 1]
    said = "With one verification subject that sum is this subject's own update norm, cycle by cycle"
    if not alone:
        return f"{said}; no center here has only one."
    named = ", ".join(alone[:12]) + f" and {len(alone) - 12} more" * (len(alone) > 12)
    return f"{said}: so it is at {count(len(alone), 'center')} ({named})."


def _tell_test(material: Material) -> list[str]:
    """Return in words what is kept of test subjects."""
    n = int((material.study.cohort.table["role"] == "test").sum())
    if not n:
        return []
    return [
        f"The score of each of {count(n, 'test subject')} after every cycle is kept in the folder of the run, by name "
        "and center: a prediction, which is more than a count."
    ]


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
