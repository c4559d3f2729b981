"""The sections on what came out: the summary, the training curves, and the subgroups."""

from __future__ import annotations

import pandas as pd

from dqc_lib.evaluation import elimination_report
from dqc_lib.figures import draw_history
from dqc_lib.figures.fairness import draw_forest
from dqc_lib.pages import draw_table
from dqc_lib.report.material import Material, count, find_worst_center, show, write_list, write_paragraph, write_section
from dqc_lib.travelling import Arm

METRICS = {"sensitivity": "Sensitivity", "specificity": "Specificity", "auroc": "AUROC"}
NO_TEST = "No subject has the role 'test', so there are no test figures."


def write_summary(material: Material, name: str, heading: str) -> str:
    """Return the section that says in words what happened."""
    gone = material.subjects[material.subjects["eliminated"]]
    table = material.training
    many = "No image was" if gone.empty else f"{len(gone)} of {count(len(table), 'training image')} "
    many += "" if gone.empty else "was" if len(gone) == 1 else "were"
    at = f", at {gone['center'].nunique()} of {count(table['center'].nunique(), 'center')}" * bool(len(gone))
    told = [f"{many} eliminated{at}, under {material.rule_name}."]
    if len(gone):
        center, most, held = find_worst_center(material)
        told.append(f"Most of them at {center}: {most} of its {count(held, 'training image')}.")
    deferred = int((material.subjects["deferred"] > 0).sum())
    rejected = int((material.attempts["decision"] != "accepted").sum())
    were = "was" if rejected == 1 else "were"
    told.append(
        f"{rejected} of {count(len(material.attempts), 'attempt')} {were} rejected, and {count(deferred, 'image')} "
        "deferred at least once."
    )
    told += [_tell_auroc(material, arm.name) for arm in material.arms] if len(material.final) else [NO_TEST]
    told += [_tell_drift(arm) for arm in material.arms if arm.floor is not None and len(arm.verification)]
    says = "What quality control did, and how well the model diagnoses test subjects at the end."
    return write_section(name, heading=heading, says=says, parts=[write_list(told)])


def _tell_drift(arm: Arm) -> str:
    """Return in words how the errors on verification subjects changed since the pre-training."""
    last, floor = arm.drift.iloc[-1], arm.floor
    errors = f"false positives from {floor.fp} to {last['fp']} of {floor.n_neg}, false negatives from {floor.fn} to "
    verdict = f"More {last['risen']} than chance explains." if last["risen"] else "No more than chance explains."
    return (
        f"Verification subjects of {arm.name} since the pre-training: {errors}{last['fn']} of {floor.n_pos}. {verdict}"
    )


def _tell_auroc(material: Material, arm: str) -> str:
    """Return the AUROC of an arm at the end in words, with its interval and what it rests on."""
    rows = material.history[material.history["arm"] == arm]
    last = rows.loc[rows["cycle"].idxmax()]
    n = f"n = {last['n']}: {last['n_positive']} diseased, {last['n_negative']} controls"
    if pd.isna(last["auroc"]):
        return f"Test AUROC of {arm}, cycle {last['cycle']}: not defined, all test subjects are of one class ({n})."
    groups = material.report.groups
    found = groups[(groups["arm"] == arm) & (groups["subgroup"] == "overall") & (groups["metric"] == "auroc")].iloc[0]
    interval = f"95 % interval {found['low']:.2f} to {found['high']:.2f}"
    interval = f"no interval: {found['note'].removeprefix('no interval: ')}" if pd.isna(found["low"]) else interval
    return f"Test AUROC of {arm}, cycle {last['cycle']}: {last['auroc']:.2f} ({n}; {interval})."


def write_curves(material: Material, name: str, heading: str) -> str:
    """Return the section with the test AUROC of every arm by cycle."""
    says = "Test AUROC after every cycle; the arms part where the shaded pre-training ends."
    history = material.history
    if history.empty:
        return write_section(name, heading=heading, says=says, parts=[write_paragraph(NO_TEST)])
    if history["auroc"].isna().all():
        said = "All test subjects are of one class, so AUROC is not defined."
        return write_section(name, heading=heading, says=says, parts=[write_paragraph(said)])
    last = history.loc[history.groupby("arm", sort=False)["cycle"].idxmax()]
    ends = ", ".join(f"{row.auroc:.2f} ({row.arm})" for row in last.itertuples())
    start = material.study.schedule.pretraining_cycles
    figure = draw_history(history, title=f"Test AUROC ends at {ends}", control_start=start)
    return write_section(name, heading=heading, says=says, parts=[show(figure)])


def write_subgroups(material: Material, name: str, heading: str) -> str:
    """Return the section on test metrics in subgroups, the gaps between them, and who was eliminated."""
    says = "How well each group of test subjects is diagnosed at the end, and whether elimination spared some groups."
    parts = [write_paragraph(NO_TEST)] if material.report is None else _write_groups(material)
    parts += _write_elimination(material)
    return write_section(name, heading=heading, says=says, parts=parts)


def _write_groups(material: Material) -> list[str]:
    """Return the figures and tables of the subgroup report."""
    report = material.report
    parts = []
    for metric in METRICS:
        if report.groups.loc[report.groups["metric"] == metric, "value"].notna().any():
            figure = draw_forest(report.groups, metric=metric, title=_tell_gap(material, metric))
            parts.append(show(figure))
    table = report.table(metrics=list(METRICS))
    shown = table.drop(columns=["subgroup", "group"]).set_index(_label_groups(table))
    parts.append(
        draw_table(
            shown.rename(columns={"n_positive": "diseased", "n_negative": "controls"} | METRICS),
            caption="Test subjects by group, with 95 % intervals",
        )
    )
    if report.gaps.empty:
        return parts
    parts.append(draw_table(_list_gaps(report.gaps), caption="Largest gap between groups"))
    said = (
        "A gap is never below 0 and grows by chance alone; 'by chance' is the mean gap between groups drawn at random."
    )
    return [*parts, write_paragraph(said)]


def _tell_gap(material: Material, metric: str) -> str:
    """Return the widest gap of the controlled arm as the title of a figure."""
    gaps, arm = material.report.gaps, material.controlled.name
    known = gaps[(gaps["arm"] == arm) & (gaps["metric"] == metric)].dropna(subset=["gap"])
    if known.empty:
        return f"{METRICS[metric]}: no two groups of a kind are large enough to compare"
    widest = known.loc[known["gap"].idxmax()]
    between = f"{widest['subgroup']}, {widest['highest']} above {widest['lowest']}"
    return f"{METRICS[metric]}: the widest gap of {arm} is {widest['gap']:.2f} ({between})"


def _list_gaps(gaps: pd.DataFrame) -> pd.DataFrame:
    """Return the gaps in words, by subgroup, metric and arm."""
    subgroups = list(gaps["subgroup"].unique())
    known = gaps[gaps["metric"].isin(METRICS)]
    places = zip(known["subgroup"].map(subgroups.index), known["metric"].map(list(METRICS).index), strict=True)
    known = known.iloc[sorted(range(len(known)), key=list(places).__getitem__)]
    rows = [
        {
            "subgroup": row.subgroup,
            "metric": METRICS[row.metric],
            "arm": row.arm,
            "gap": _tell_interval(row.gap, row.low, row.high),
            "highest": row.highest or "n/a",
            "lowest": row.lowest or "n/a",
            "groups compared": row.n_groups,
            "by chance": f"{row.by_chance:.2f}" if pd.notna(row.by_chance) else "n/a",
            "p": f"{row.p_value:.3f}" if pd.notna(row.p_value) else "n/a",
        }
        for row in known.itertuples()
    ]
    return pd.DataFrame(rows).set_index("subgroup")


def _label_groups(table: pd.DataFrame) -> pd.Index:
    """Return "sex: F" for every row of a table with the columns subgroup and group."""
    pairs = zip(table["subgroup"], table["group"], strict=True)
    return pd.Index([group if kind == "overall" else f"{kind}: {group}" for kind, group in pairs], name="group")


def _tell_interval(value: float, low: float, high: float, *, decimals: int = 2) -> str:
    if pd.isna(value):
        return "n/a"
    value, low, high = (f"{number:z.{decimals}f}" for number in (value, low, high))
    return value if low == "nan" else f"{value} ({low} to {high})"


def _write_elimination(material: Material) -> list[str]:
    """Return the table on who was eliminated, or nothing where nobody was."""
    gone = material.controlled.eliminated
    if not gone:
        return []
    found = elimination_report(gone, material.study.cohort.blinded(), by=material.by)
    shares = [_tell_interval(*(100 * row), decimals=1) for row in found[["share", "low", "high"]].to_numpy()]
    shown = pd.DataFrame(
        {"training images": found["n"], "eliminated": found["eliminated"], "share eliminated (%)": shares}
    ).set_index(_label_groups(found))
    return [draw_table(shown, caption="Who was eliminated, with 95 % intervals")]
