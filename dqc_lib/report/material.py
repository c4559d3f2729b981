"""What a report is written from: a study, the arm under quality control, and the arms it is compared with."""

from __future__ import annotations

import html
import json
import re
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pandas as pd

from dqc_lib.evaluation import SubgroupReport, evaluate_cycles, subgroup_report
from dqc_lib.ledger import summarize_subjects
from dqc_lib.pages import draw_figure
from dqc_lib.report.reading import read_settings
from dqc_lib.travelling import Arm, Study

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

RULE_NAMES = {"CalibratedRule": "the calibrated rule", "PublishedRule": "the published rule"}


@dataclass(frozen=True)
class Material:
    """A study and its arms, checked to belong together.

    Parameters
    ----------
    study : Study
    controlled : Arm
        The one under quality control.
    others : tuple of Arm
    by : tuple
        Subgroups, see `evaluate_subgroups`.
    most_images : int
        Eliminated images shown, at most.
    pseudonymized : bool
        Whether names are pseudonyms; what describes a handful of persons is left out then.

    Raises
    ------
    FileNotFoundError, ValueError
        If an arm has no run.json, or a damaged one, is of another study or has the name of another arm; if the
        controlled arm is under no rule or made no attempt.
    """

    study: Study
    controlled: Arm
    others: tuple[Arm, ...]
    by: tuple
    most_images: int
    pseudonymized: bool = False

    def __post_init__(self) -> None:
        names = [arm.name for arm in self.arms]
        if len(set(names)) < len(names):
            raise ValueError(f"arms must have different names, came {names}")
        if self.most_images < 0:
            raise ValueError(f"most_images must be at least 0, got {self.most_images!r}")
        for arm in self.arms:
            if self.settings[arm.name]["schedule"] != json.loads(json.dumps(asdict(self.study.schedule))):
                raise ValueError(
                    f"arm {arm.name!r} ran under another schedule than that of the study; expected its own"
                )
        if self.rule == "None":
            raise ValueError(f"arm {self.controlled.name!r} is under no rule; expected the one under quality control")
        if self.attempts.empty:
            raise ValueError(f"arm {self.controlled.name!r} made no attempt; expected at least one control cycle")

    @property
    def arms(self) -> tuple[Arm, ...]:
        """All arms, the controlled one first."""
        return (self.controlled, *self.others)

    @cached_property
    def settings(self) -> dict[str, dict[str, Any]]:
        """What each arm noted about its run, by the arm's name."""
        found = {}
        for arm in self.arms:
            note = arm.folder / "run.json"
            if not note.is_file():
                raise FileNotFoundError(f"arm {arm.name!r}: no {note}; expected the folder of a run of Study.run")
            found[arm.name] = read_settings(arm.folder)
        return found

    @property
    def rule(self) -> str:
        """The rule of the controlled arm as Python writes it, with six digits and without addresses in memory."""
        text = re.sub(r" at 0x[0-9a-fA-F]+", "", self.settings[self.controlled.name]["rule"])
        return re.sub(r"\d+\.\d{4,}", lambda number: f"{float(number[0]):.6g}", text)

    @property
    def verifying(self) -> str:
        """How attempts of the controlled arm were verified, see `Study`."""
        return self.settings[self.controlled.name].get("verifying", "full")

    @property
    def rule_name(self) -> str:
        """The rule in words."""
        kind = self.rule.partition("(")[0]
        return RULE_NAMES.get(kind, f"the rule {kind}")

    @cached_property
    def attempts(self) -> pd.DataFrame:
        """Rows of the controlled arm's ledger after the pre-training."""
        ledger = self.controlled.ledger
        return ledger[ledger["stage"].isin(("control", "closing"))]

    @cached_property
    def subjects(self) -> pd.DataFrame:
        """What became of every image that was tried, see `summarize_subjects`."""
        return summarize_subjects(self.attempts)

    @cached_property
    def training(self) -> pd.DataFrame:
        """Rows of the training subjects, ground truth on harm left out."""
        table = self.study.cohort.blinded().table
        return table[table["role"] == "train"].set_index("subject", drop=False)

    @cached_property
    def history(self) -> pd.DataFrame:
        """Metrics of all test subjects by arm and cycle; empty where nobody tests."""
        predictions = [arm.predictions for arm in self.arms if len(arm.predictions)]
        return evaluate_cycles(pd.concat(predictions), by=()) if predictions else pd.DataFrame()

    @cached_property
    def final(self) -> pd.DataFrame:
        """Predictions of every arm after its last cycle; empty where nobody tests."""
        predictions = [arm.predictions for arm in self.arms if len(arm.predictions)]
        last = [rows[rows["cycle"] == rows["cycle"].max()].drop(columns="cycle") for rows in predictions]
        return pd.concat(last, ignore_index=True) if last else pd.DataFrame()

    @cached_property
    def report(self) -> SubgroupReport | None:
        """The subgroup report on `final`; None where nobody tests."""
        return None if self.final.empty else subgroup_report(self.final, by=self.by)


def find_worst_center(material: Material) -> tuple[str, int, int]:
    """Return the center that lost most images, how many, and how many training images it held; where some are equal,
    the first by name."""
    lost = material.subjects.loc[material.subjects["eliminated"], "center"].value_counts().sort_index()
    return lost.idxmax(), int(lost.max()), int((material.training["center"] == lost.idxmax()).sum())


def show(figure: Figure) -> str:
    """Return a plotly Figure as the element that the page draws it in."""
    return draw_figure(json.loads(figure.to_json()))


def write_section(name: str, *, heading: str, says: str, parts: list[str]) -> str:
    """Return a section of the page.

    Parameters
    ----------
    name : str
        Of the link that leads there.
    heading, says : str
        Plain text; `says` tells what the section shows.
    parts : list of str
        HTML.
    """
    body = "\n".join(parts)
    return (
        f'<section id="{name}" aria-labelledby="{name}-heading">\n<h2 id="{name}-heading">{html.escape(heading)}</h2>\n'
        f"<p>{html.escape(says)}</p>\n{body}\n</section>"
    )


def write_paragraph(text: str) -> str:
    """Return plain text as a paragraph."""
    return f"<p>{html.escape(text)}</p>"


def write_list(texts: list[str]) -> str:
    """Return plain texts as a list."""
    return f"<ul>{''.join(f'<li>{html.escape(text)}</li>' for text in texts)}</ul>"


def count(n: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless it is one.

    Examples
    --------
    >>> count(1, "image"), count(0, "center")
    ('1 image', '0 centers')
    """
    return f"{n} {noun}{'s' * (n != 1)}"
