"""The page: its sections in order, put together and written."""

from __future__ import annotations

import html
import os
from collections.abc import Iterable
from pathlib import Path

from dqc_lib.pages import fill_page, write_page
from dqc_lib.report.flagged import write_flagged
from dqc_lib.report.material import Material
from dqc_lib.report.outcome import write_curves, write_subgroups, write_summary
from dqc_lib.report.pseudonyms import check_key, rename_study, write_key
from dqc_lib.report.revealing import write_revealing
from dqc_lib.report.setting import write_data_check, write_run
from dqc_lib.travelling import Arm, Study

SECTIONS = {
    "summary": ("Summary", write_summary),
    "data-check": ("Data check", write_data_check),
    "training-curves": ("Training curves", write_curves),
    "flagged": ("Flagged centers and images", write_flagged),
    "subgroups": ("Subgroups", write_subgroups),
    "what-was-run": ("What was run", write_run),
    "revealed": ("What verification reveals", write_revealing),
}
STYLE = """
.pairs { display: grid; gap: 0 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); }
.pairs .plotly-figure { min-width: 0; }
section { margin-top: 2.5rem; } dt { font-weight: 600; margin-top: .5rem; } dd { margin: 0 0 0 1rem; }
@media print { .table.long { max-height: none; } nav, .controls { display: none; } }
"""
FOOTER = "<footer>Written by dqc. Quality control supports a decision; it does not replace one.</footer>"


def write_report(
    path: str | os.PathLike,
    *,
    study: Study,
    controlled: Arm,
    others: Iterable[Arm] = (),
    by: Iterable[str | tuple[str, ...]] = ("sex", "age_band"),
    title: str = "Quality control report",
    most_images: int = 6,
    pseudonymize: bool = False,
    key_path: str | os.PathLike | None = None,
) -> Path:
    """Write what quality control did to a study as one HTML file, and return its path.

    The file holds everything it shows, plotly.js included, and forbids the browser to load anything else. It names
    centers, scanners and subjects as the table of the cohort does, and shows slices of eliminated images; it says
    nothing of files, their headers, users or machines. Its last section tells what verification revealed of each
    center, and warns where fewer than five subjects stand behind a count. The ground truth on harm is not used. The
    same study gives the same bytes.

    Parameters
    ----------
    path : path
        Of the HTML file (some 5 MB, plotly.js included); missing folders are made, and an older file is replaced once
        the new one is complete.
    study : Study
    controlled : Arm
        The one under quality control, from `study.run("qc", rule=...)`.
    others : iterable of Arm
        Compared with it in the curves and subgroups.
    by : iterable of str or tuple of str
        Subgroups of the test subjects, see `subgroup_report`.
    title : str
    most_images : int
        Eliminated images shown, at most; 0 for a report without images. A slice of a head that was not defaced can show
        whose it is, whatever its subject is called.
    pseudonymize : bool
        Number subjects, centers and scanners in the order of the cohort's table (sub-0001, center-01, scanner-01; see
        `list_pseudonyms`), and leave out what describes centers of fewer than five subjects. Titles, arms and groups
        other than those are named in your words.
    key_path : path, optional
        Where to write which pseudonym stands for whom (CSV) once the report is written: a new file, outside the folder
        of the report. Nowhere unless given; it can be made again from the cohort.

    Raises
    ------
    TypeError, IsADirectoryError, FileExistsError
        If `by` or `others` is no list; if the path is a folder; if there is a file at `key_path`.
    KeyError, FileNotFoundError, ValueError
        If a column of `by` is not there; if an arm is not a run of this study, two arms share a name, or the controlled
        arm is under no rule or made no attempt; if a key is asked for without pseudonyms, or beside the report.
    """
    if isinstance(by, str) or isinstance(others, Arm):
        raise TypeError("by must be a list of columns and others a list of arms; came a single one")
    if Path(path).is_dir():
        raise IsADirectoryError(f"{path} is a folder; expected the name of a file in it, such as report.html")
    path, cohort = Path(path), study.cohort
    if key_path is not None and not pseudonymize:
        raise ValueError("key_path names a file for the key of pseudonyms; expected pseudonymize=True with it")
    if key_path is not None:
        check_key(Path(key_path), report=path)
    arms = [controlled, *others]
    if pseudonymize:
        study, arms = rename_study(study, arms)
    material = Material(study, arms[0], tuple(arms[1:]), tuple(by), most_images, pseudonymize)
    sections = [write(material, name, heading) for name, (heading, write) in SECTIONS.items()]
    links = " · ".join(f'<a href="#{name}">{html.escape(heading)}</a>' for name, (heading, _) in SECTIONS.items())
    page = fill_page(
        title=title,
        header=f'<header><nav aria-label="Sections">{links}</nav></header>',
        body="\n".join([f"<h1>{html.escape(title)}</h1>", *sections]),
        footer=FOOTER,
        style=STYLE,
    )
    write_page(path, page)
    if key_path is not None:
        write_key(cohort, Path(key_path))
    return path
