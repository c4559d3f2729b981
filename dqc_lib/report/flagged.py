"""The section on flagged centers and images: decisions, evidence, and the images themselves."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest

import numpy as np
import pandas as pd

from dqc_lib.figures import draw_decisions, draw_rates, draw_slices, draw_update_norms
from dqc_lib.ledger import summarize_centers
from dqc_lib.pages import draw_table
from dqc_lib.report.material import Material, count, find_worst_center, show, write_paragraph, write_section
from dqc_lib.volumes import read_volume

EVENTS = {"split": "batch rejected", "deferred": "deferred", "eliminated": "eliminated", "accepted": "accepted again"}


def write_flagged(material: Material, name: str, heading: str) -> str:
    """Return the section: every decision, its evidence, tables of centers and images, and slices of the eliminated."""
    attempts = material.attempts
    parts = [
        show(draw_decisions(attempts, title=_tell_decisions(material))),
        *_draw_evidence(material),
        draw_table(_list_centers(attempts), caption="Centers, those with most rejected attempts first"),
    ]
    flagged = list_flagged(material)
    if flagged.empty:
        parts.append(write_paragraph("No image was flagged: none was deferred, none eliminated."))
    else:
        parts.append(draw_table(flagged, caption="Flagged images: deferred at least once, the eliminated first"))
    parts += _draw_images(material)
    says = "Every attempt under the rule and what was decided, then centers and images that stood out."
    return write_section(name, heading=heading, says=says, parts=parts)


def _tell_decisions(material: Material) -> str:
    if not material.subjects["eliminated"].any():
        return "No image was eliminated"
    center, most, held = find_worst_center(material)
    return f"{center} lost most images: {most} of its {held} were eliminated"


def _draw_evidence(material: Material) -> Iterator[str]:
    """Yield the figure of what the rule looked at: update norms where it has a limit for them, else the error rates."""
    attempts = material.attempts
    rejected, norms = attempts["decision"] != "accepted", attempts["update_norm"]
    verified = int(attempts["fp"].notna().sum())
    measured = (np.isfinite(norms) & (norms > 0)).any()
    if measured and (attempts["norm_limit"].notna().any() or not verified):
        ratio = norms[rejected].median() / norms[~rejected].median()
        title = f"Rejected updates are {_tell_size(ratio)} times as large as accepted ones (medians)"
        title = title if np.isfinite(ratio) else "Update norms of all attempts"
        yield show(draw_update_norms(attempts, title=title))
    elif verified:
        title = f"{int(rejected.sum())} of {count(verified, 'verified attempt')} were rejected"
        swapped = "published" if "denominators='published'" in material.rule else "standard"
        yield show(draw_rates(attempts, title=title, denominators=swapped))


def _list_centers(attempts: pd.DataFrame) -> pd.DataFrame:
    """Return attempts, rejections and eliminations by center."""
    found = summarize_centers(attempts).sort_values(["share_rejected", "attempts"], ascending=False, kind="stable")
    return pd.DataFrame(
        {
            "attempts": found["attempts"],
            "rejected": found["rejected"],
            "share rejected (%)": 100 * found["share_rejected"],
            "images": found["subjects"],
            "deferred": found["deferred"],
            "eliminated": found["eliminated"],
        }
    )


def list_flagged(material: Material) -> pd.DataFrame:
    """Return one row per image that was deferred at least once: center, outcome, history and evidence, in words."""
    found = material.subjects[(material.subjects["deferred"] > 0) | material.subjects["eliminated"]]
    found = found.sort_values(["eliminated", "center"], ascending=[False, True], kind="stable")
    long = material.attempts.explode("subjects")
    rows = {}
    for subject, row in found.iterrows():
        own = long[long["subjects"] == subject]
        alone = own[own["level"] != "batch"].iloc[-1]
        waits = "waits for its revisit" if alone["decision"] == "deferred" else "returned to visits"
        judged = own[(own["level"] != "batch") & (own["decision"] != "accepted")].iloc[-1]
        rows[subject] = {
            "center": row["center"],
            "outcome": "eliminated" if row["eliminated"] else waits,
            "what happened": _tell_history(own),
            "update norm": _tell_norm(judged),
            "error rates": _tell_rates(judged),
        }
    columns = ["center", "outcome", "what happened", "update norm", "error rates"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("image")


def _tell_history(own: pd.DataFrame) -> str:
    """Return what was decided about an image in which cycle; acceptance only where it is news."""
    told = {}
    for row in own.to_dict("records"):
        if row["decision"] != "accepted" or row["level"] == "revisit":
            closing = " at the end" if row["stage"] == "closing" else ""
            told.setdefault(f"cycle {row['cycle']}{closing}", []).append(EVENTS[row["decision"]])
    return "; ".join(f"{when}: {', '.join(events)}" for when, events in told.items())


def _tell_norm(attempt: pd.Series) -> str:
    if pd.isna(attempt["update_norm"]):
        return "not measured"
    limit = "" if pd.isna(attempt["norm_limit"]) else f", limit {_tell_size(attempt['norm_limit'])}"
    return f"{_tell_size(attempt['update_norm'])}{limit}"


def _tell_size(size: float) -> str:
    """Return a positive number with three digits, or all before the point."""
    return f"{size:,.0f}" if size >= 100 else f"{size:.3g}"


def _tell_rates(attempt: pd.Series) -> str:
    """Return the counts at verification before and after the attempt."""
    if pd.isna(attempt["fp"]) or pd.isna(attempt["reference_fp"]):
        return "not verified"
    told = [
        f"{words} {attempt[f'reference_{key}']} to {attempt[key]} of {attempt[total]}"
        for words, key, total in (("false positives", "fp", "n_neg"), ("false negatives", "fn", "n_pos"))
    ]
    return ", ".join(told)


def _draw_images(material: Material) -> list[str]:
    """Return slices of eliminated images, each beside one that was not flagged, or a sentence where there are none."""
    gone = material.subjects[material.subjects["eliminated"]]
    if gone.empty:
        return [write_paragraph("No image was eliminated.")]
    chosen = choose_images(gone, most=material.most_images)
    if not chosen:
        return [write_paragraph(f"{count(len(gone), 'image')} eliminated; this report was asked to show none of them.")]
    said = (
        f"{len(chosen)} of {count(len(gone), 'eliminated image')}, each in the same greys as one that was not flagged, "
        "which is not to say that the latter is good."
    )
    figures = [f'<div class="pairs">{"".join(_draw_pair(material, subject) for subject in chosen)}</div>']
    return [f"<h3>Eliminated images</h3>\n{write_paragraph(said)}", *figures]


def choose_images(gone: pd.DataFrame, *, most: int) -> list[str]:
    """Return up to `most` subjects of the table of eliminated ones, taken from the centers in turn."""
    groups = [list(part.index) for _, part in gone.groupby("center", sort=False)]
    turns = [subject for turn in zip_longest(*groups) for subject in turn if subject is not None]
    return turns[:most]


def _draw_pair(material: Material, subject: str) -> str:
    """Return one eliminated image beside one that was not flagged, of the same center where there is one."""
    rows = material.training
    good = rows.drop(index=material.subjects.index[material.subjects["deferred"] > 0])
    center = rows.loc[subject, "center"]
    near = good[good["center"] == center]
    shown = {f"{subject}: eliminated": subject}
    if len(good):
        other = (near if len(near) else good).iloc[0]
        where = "" if len(near) else f" ({other['center']})"
        shown[f"{other['subject']}{where}: not flagged"] = other["subject"]
    volumes = {label: read_volume(rows.loc[one, "path"], subject=one) for label, one in shown.items()}
    told = "" if len(near) else "; no image of this center passed"
    shown = {label: (volume.array, volume.spacing) for label, volume in volumes.items()}
    return show(draw_slices(shown, title=f"{subject} of {center}{told}"))
