"""The sections on what went in: the cohort, and what was run."""

from __future__ import annotations

import html
import platform
from importlib.metadata import version

import pandas as pd

from dqc_lib.cohort import ROLES, check_roles
from dqc_lib.figures import draw_centers
from dqc_lib.pages import draw_table
from dqc_lib.report.material import Material, count, show, write_list, write_paragraph, write_section
from dqc_lib.report.revealing import FEWEST

ARM_WORDS = {
    "clean": "without the images that are known to be harmful, unguarded",
    "dirty": "with all images, unguarded",
    "qc": "with all images, under quality control",
}
METHODS = {
    "eliminated": "An image whose step looked harmful as part of a batch, alone, and alone again in a revisit cycles "
    "later. It is never trained on again.",
    "share rejected": "Attempts with any decision but accepted, out of all attempts at the center. An attempt is one "
    "optimizer step on a batch or a single image.",
    "update norm": "How unusual the most unusual image of an attempt is to the model: the length of the gradient of "
    "its logit, where weights that good images hardly move count most. The limit comes from a cycle that only watched.",
    "error rates": "False positives out of controls and false negatives out of patients, summed over the verification "
    "subjects of all centers, before and after the step.",
    "AUROC and other metrics": "On the test subjects, after the last cycle, from the score that the model gives; "
    "patients are called at a score of 0.5 and above. A metric without cases to compute it from is not defined.",
    "intervals": "Of metrics: bootstrap within each group and diagnosis, with a fixed seed; groups too small are named "
    "with the reason and have no value. Of shares eliminated: Wilson's, as if images were independent.",
}


def write_data_check(material: Material, name: str, heading: str) -> str:
    """Return the section on the cohort: subjects, roles, volumes, centers."""
    cohort = material.study.cohort
    table = cohort.table
    shape = " x ".join(str(n) for n in material.study.volumes.shape)
    diseased = int(table["diagnosis"].sum())
    parts = [
        write_paragraph(
            f"{count(len(cohort), 'subject')} of {count(len(cohort.centers), 'center')}: {diseased} with the disease, "
            f"{len(cohort) - diseased} controls. Every volume has {shape} voxels."
        ),
        draw_table(_count_roles(table), caption="Subjects by role"),
        _write_notes(check_roles(cohort)),
    ]
    centers = cohort.by_center()
    one_class = int(((centers["n_positive"] == 0) | (centers["n_negative"] == 0)).sum())
    have = "has" if one_class == 1 else "have"
    title = f"{count(len(centers), 'center')} of {_span(centers['n'])} subjects; {one_class} {have} one class only"
    shown = pd.DataFrame(
        {
            "subjects": centers["n"],
            "diseased": centers["n_positive"],
            "controls": centers["n_negative"],
            "women (%)": 100 * centers["share_female"],
            "mean age (years)": centers["mean_age"],
            "scanner": centers["scanner"],
        }
    )
    caption = "Centers of the cohort"
    if material.pseudonymized:
        shown.loc[centers["n"] < FEWEST, ["women (%)", "mean age (years)"]] = float("nan")
        caption += f"; women and mean age where there are at least {FEWEST} subjects"
    parts += [
        show(draw_centers(centers, title=title)),
        draw_table(shown, caption=caption),
    ]
    says = "Who is in the cohort, what each subject serves for, and what the centers hold."
    return write_section(name, heading=heading, says=says, parts=parts)


def _count_roles(table: pd.DataFrame) -> pd.DataFrame:
    """Return subjects, classes and centers by role, every role named."""
    groups = table.groupby("role")
    counts = pd.DataFrame(
        {
            "subjects": groups.size(),
            "diseased": groups["diagnosis"].sum().astype(int),
            "controls": groups["diagnosis"].agg(lambda diagnosis: int((diagnosis == 0).sum())),
            "centers": groups["center"].nunique(),
        }
    )
    return counts.reindex(ROLES, fill_value=0).rename_axis("role")


def _write_notes(notes: list[str]) -> str:
    return (
        write_list(notes)
        if notes
        else write_paragraph("Every center that trains also verifies, and all of them together in both classes.")
    )


def _span(numbers: pd.Series) -> str:
    low, high = numbers.min(), numbers.max()
    return str(low) if low == high else f"{low} to {high}"


def write_run(material: Material, name: str, heading: str) -> str:
    """Return the section on rule, schedule, seed, versions, and how each number was obtained."""
    settings = material.settings[material.controlled.name]
    rows = settings["schedule"] | {"verification of attempts": material.verifying}
    schedule = pd.DataFrame(
        [(key.replace("_", " "), value if isinstance(value, str) else f"{value:g}") for key, value in rows.items()],
        columns=["setting", "value"],
    ).set_index("setting")
    arms = pd.DataFrame(
        [(arm.name, ARM_WORDS[material.settings[arm.name]["arm"]], str(len(arm.ledger))) for arm in material.arms],
        columns=["arm", "trained", "attempts"],
    ).set_index("arm")
    used = settings["versions"] | {"python": platform.python_version(), "plotly": version("plotly")}
    versions = pd.DataFrame({"version": used}).rename_axis("package")
    methods = "".join(f"<dt>{html.escape(word)}</dt><dd>{html.escape(text)}</dd>" for word, text in METHODS.items())
    parts = [
        draw_table(arms, caption="Arms; all start from the same pre-trained model and travel the same route"),
        f"<p>The rule: <code>{html.escape(material.rule)}</code></p>",
        draw_table(schedule, caption=f"Schedule of all arms, seed {settings['schedule']['seed']} included"),
        draw_table(versions, caption="Versions: of the run, and of Python and plotly that wrote this page"),
        write_paragraph(f"Fingerprint of cohort and images (SHA-256): {settings['cohort'][:16]}."),
        f"<h3>How each number was obtained</h3>\n<dl>{methods}</dl>",
    ]
    says = "Everything that determines the result, so that it can be repeated."
    return write_section(name, heading=heading, says=says, parts=parts)
