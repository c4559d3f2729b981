"""Whether images were made by a protocol, and the gate before the model travels.

The protocol travels to the centers; each compares its own images with it and sends counts. dicompare judges a value
against reference and tolerance. It judges an acquisition as a whole, though, and one deviating image among a hundred
would fail them all: so it is asked about one image at a time.
"""

from __future__ import annotations

import html
import math
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import pandas as pd

from dqc_lib.arguments import require_kind, require_number, require_text, show_value
from dqc_lib.cohort import Cohort
from dqc_lib.evaluation.groups import require_columns
from dqc_lib.harmonization.acquisition import check_acquisition
from dqc_lib.harmonization.headers import PARAMETERS
from dqc_lib.harmonization.protocol import Protocol

VERDICTS = ("within", "deviates", "missing")
STATUS = MappingProxyType({"ok": "within", "error": "deviates", "na": "missing"})  # dicompare's words, and ours
ALL = "all parameters"
ROUNDING = 1e-9  # so that 2.4 s is within 0.1 s of 2.3 s


def check_compliance(table: pd.DataFrame, protocol: Protocol) -> pd.DataFrame:
    """Return for every image and every parameter of a protocol what was expected, what was found, and the verdict.

    Parameters
    ----------
    table : DataFrame
        Of `read_acquisition`.
    protocol : Protocol

    Returns
    -------
    DataFrame
        One row per image and parameter: subject, center, parameter, unit, expected, tolerance, found, verdict
        ("within", "deviates", or "missing", which is not compliant), remark (of the image, on values it lost).
    """
    check_acquisition(table)
    require_kind("protocol", protocol, Protocol, such_as="Protocol.from_summary gives")
    judged: dict[tuple, dict[str, str]] = {}  # most images of a center have the same values
    rows = []
    for image in table.astype(dict.fromkeys(protocol.limits, np.float64)).itertuples():
        found = tuple(None if math.isnan(value := getattr(image, name)) else value for name in protocol.limits)
        if found not in judged:
            judged[found] = _judge(found, protocol)
        shared = {"subject": image.subject, "center": image.center, "remark": image.remark}
        for name, (reference, width) in protocol.limits.items():
            told = {"parameter": name, "unit": PARAMETERS[name].unit, "expected": reference, "tolerance": width}
            rows.append(shared | told | {"found": getattr(image, name), "verdict": judged[found][name]})
    columns = ["subject", "center", "parameter", "unit", "expected", "tolerance", "found", "verdict", "remark"]
    return pd.DataFrame(rows, columns=columns)


def _judge(values: tuple[float | None, ...], protocol: Protocol) -> dict[str, str]:
    """Return dicompare's verdict on every parameter of one image."""
    from dicompare import check_acquisition_compliance

    fields = [
        {"field": name, "value": reference, "tolerance": width + ROUNDING}
        for name, (reference, width) in protocol.limits.items()
    ]
    known = {name: value for name, value in zip(protocol.limits, values, strict=True) if value is not None}
    records = check_acquisition_compliance(pd.DataFrame([known]), {"fields": fields})  # no column: "na", missing
    return {record["field"]: STATUS[record["status"]] for record in records}


def summarize_compliance(compliance: pd.DataFrame) -> pd.DataFrame:
    """Return how many images of every center keep to the protocol, by parameter: what a center sends.

    Counts only, as many rows for a center with three images as for one with three thousand.

    Parameters
    ----------
    compliance : DataFrame
        Of `check_compliance`.

    Returns
    -------
    DataFrame
        One row per center and parameter, and one for all parameters together (`ALL`): center, parameter, n (images),
        within, deviates, missing (counts), share (within of n, 0 to 1, higher is better), low and high (its 95 %
        Wilson interval). An image counts once under `ALL`: as missing if anything is missing and nothing deviates.
    """
    _check_compliance(compliance)
    worst = pd.Categorical(compliance["verdict"], ["within", "missing", "deviates"], ordered=True)
    whole = compliance.assign(verdict=worst).groupby(["center", "subject"], sort=False)["verdict"].max().reset_index()
    parts = pd.concat([compliance, whole.assign(parameter=ALL, verdict=whole["verdict"].astype(str))])
    rows = []
    for center in compliance["center"].unique():
        for parameter, part in parts[parts["center"] == center].groupby("parameter", sort=False):
            counts = {verdict: int((part["verdict"] == verdict).sum()) for verdict in VERDICTS}
            low, high = _find_interval(counts["within"], len(part))
            share = counts["within"] / len(part)
            row = {"center": center, "parameter": parameter, "n": len(part), **counts}
            rows.append(row | {"share": share, "low": low, "high": high})
    return pd.DataFrame(rows)


def _find_interval(count: int, n: int) -> tuple[float, float]:
    from scipy.stats import binomtest

    interval = binomtest(count, n).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def _check_compliance(compliance: pd.DataFrame) -> None:
    require_kind("compliance", compliance, pd.DataFrame, such_as="check_compliance gives")
    require_columns(compliance, ("subject", "center", "parameter", "verdict"))
    if compliance.empty:
        raise ValueError("the table has no rows; expected at least one image")
    for verdict in compliance["verdict"].unique():
        if verdict not in VERDICTS:
            raise ValueError(f"verdict is {show_value(verdict)}; expected one of {list(VERDICTS)}")


@dataclass(frozen=True, eq=False)
class Admission:
    """Who may train, and who may not and why.

    Parameters
    ----------
    cohort : Cohort
        Everybody who is left; `Study` and `travel` take it as it is.
    left_out : DataFrame
        subject, center, level ("image", or "center" where the whole center stays out), reason (what deviates or is
        missing, and the remark on what its headers say in its place).
    centers : DataFrame
        center, n (images that were judged), compliant, share (compliant of n), admitted.
    """

    cohort: Cohort
    left_out: pd.DataFrame
    centers: pd.DataFrame

    def _repr_html_(self) -> str:
        n, out = int(self.centers["n"].sum()), len(self.left_out)
        shut = [html.escape(str(name)) for name in self.centers.loc[~self.centers["admitted"], "center"]]
        whole = f"; centers that stay out: {', '.join(shut)}" if shut else ""
        return f"<b>Admission</b> {n - out} of {n} images admitted, {out} left out{whole}"


def admit(cohort: Cohort, compliance: pd.DataFrame, *, least: float = 0.5, among: str = "train") -> Admission:
    """Return who may train: the gate before the model travels.

    An image may if it is within the protocol in every parameter; one whose parameters are missing may not. A center of
    whose images too few may stays out as a whole. The gate looks at headers, never at images: it knows how they were
    made, not whether that harms.

    Parameters
    ----------
    cohort : Cohort
    compliance : DataFrame
        Of `check_compliance`, with every subject that is judged.
    least : float
        Share of a center's images that has to comply, 0 to 1.
    among : str
        Role of the subjects that are judged; others stay as they are, so that the model is verified and tested on all.
        Where there are no roles, everybody is judged.

    Raises
    ------
    ValueError
        If a subject has no row in the compliance or another center there, or nobody would be left to train.
    """
    require_kind("cohort", cohort, Cohort, such_as="read_cohort gives")
    require_text("among", among)
    require_number("least", least)
    if not 0 <= least <= 1:
        raise ValueError(f"least must be a share from 0 to 1, got {least!r}")
    _check_compliance(compliance)
    require_columns(compliance, ("remark",))
    judged = cohort.select(role=among).table if "role" in cohort.table else cohort.table
    reasons = _find_reasons(judged, compliance)
    complies = judged["subject"].map(reasons) == ""
    shares = complies.groupby(judged["center"], sort=False).agg(["size", "sum", "mean"])
    centers = pd.DataFrame(
        {"center": shares.index, "n": shares["size"].values, "compliant": shares["sum"].values}
        | {"share": shares["mean"].values, "admitted": (shares["mean"] >= least).values}
    )
    shut = ~judged["center"].map(shares["mean"] >= least)
    out = judged.loc[shut | ~complies, ["subject", "center"]]
    if len(out) == len(judged):
        raise ValueError(f"none of {len(judged)} images may train; expected a protocol that some image keeps to")
    told = [_tell_reason(reasons[row.subject], shares.loc[row.center], shut[row.Index]) for row in out.itertuples()]
    out = out.assign(level=np.where(shut[out.index], "center", "image"), reason=told).reset_index(drop=True)
    return Admission(cohort.replace(cohort.table[~cohort.table["subject"].isin(out["subject"])]), out, centers)


def _find_reasons(judged: pd.DataFrame, compliance: pd.DataFrame) -> dict[str, str]:
    """Return for every subject what its image deviates in, and the remark on it; "" for one that complies."""
    parts = dict(list(compliance.groupby("subject", sort=False)))
    reasons = {}
    for row in judged.itertuples():
        if row.subject not in parts or (parts[row.subject]["center"] != row.center).any():
            came = "none" if row.subject not in parts else f"center {parts[row.subject]['center'].iloc[0]!r}"
            raise ValueError(f"subject {row.subject!r}: expected rows of center {row.center!r}, came {came}")
        part = parts[row.subject]
        faulty = part.loc[part["verdict"] != "within", ["parameter", "verdict"]].values
        faults = ", ".join(f"{name.replace('_', ' ')} {verdict}" for name, verdict in faulty)
        reasons[row.subject] = "; ".join(filter(None, [faults, part["remark"].iloc[0] if faults else ""]))
    return reasons


def _tell_reason(reason: str, share: pd.Series, whole: bool) -> str:
    center = f"{int(share['sum'])} of {int(share['size'])} images of the center comply"
    return "; ".join(filter(None, [reason, center if whole else ""]))
