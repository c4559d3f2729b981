"""Exploring a ledger: from the centers to one center, to its attempts, to an image."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dqc_lib.cohort import Cohort
from dqc_lib.figures import draw_center_overview, draw_center_timeline, draw_histograms, draw_verification_surface
from dqc_lib.figures.overview import SORTS
from dqc_lib.ledger import summarize_subjects
from dqc_lib.volumes import Volume, read_volume
from dqc_lib.widgets.pane import FigurePane, make_resizer
from dqc_lib.widgets.slices import SliceViewer

if TYPE_CHECKING:
    import ipywidgets

MOST_IN_TEMPLATE = 15
TEMPLATE = "the median of images that were never flagged"


class LedgerExplorer:
    """Four linked pages of one run: all centers, one center, what verification said, one image.

    A click on a center in the overview, or the list, leads to its page; a click on a subject there, or the list, to
    the image. Displays itself in Jupyter.

    Parameters
    ----------
    ledger : DataFrame
        `Ledger.to_frame()`, for instance `Arm.ledger`; rows of the stage "watch" are left aside.
    cohort : Cohort, optional
        For class mix and images; the columns `harm` and `placement` are not looked at. Without it there is no image
        page.
    denominators : {"standard", "published"}
        See `Counts.rates`.

    Raises
    ------
    ValueError
        If the ledger holds no attempts, or names subjects that the cohort does not have.

    Attributes
    ----------
    cycles : ipywidgets.IntRangeSlider
        Cycles that the pages show.
    sort_by, center, subject, beside : ipywidgets.Dropdown
        The order of the overview, the center, its image, and the image next to it.
    """

    def __init__(self, ledger: pd.DataFrame, *, cohort: Cohort | None = None, denominators: str = "standard") -> None:
        self._ledger = ledger[ledger["stage"] != "watch"]
        if self._ledger.empty:
            raise ValueError("the ledger holds no attempts; expected at least one to explore")
        self._cohort = None if cohort is None else cohort.blinded()
        self._refuse_strangers()
        self._denominators = denominators
        self._viewer: SliceViewer | None = None
        self._build_controls()
        self._overview, self._timeline, self._surface, self._histogram = (FigurePane() for _ in range(4))
        self.widget: ipywidgets.VBox = self._lay_out()
        self._overview.on_pick(lambda name: self._choose(self.center, name))
        self._timeline.on_pick(lambda name: self._choose(self.subject, name))
        self._draw_centers()
        self._turn_to_center()
        for control, answer in (
            (self.cycles, self._draw_all),
            (self.sort_by, self._draw_centers),
            (self.center, self._turn_to_center),
            (self.subject, self._turn_to_image),
            (self.beside, self._draw_image),
        ):
            control.observe(answer, names="value")

    def _refuse_strangers(self) -> None:
        """Raise where the ledger names subjects that the cohort does not have."""
        if self._cohort is None:
            return
        named = self._ledger["subjects"].explode()
        strangers = list(dict.fromkeys(named[~named.isin(self._cohort.table["subject"])]))
        if strangers:
            raise ValueError(
                f"the ledger names {len(strangers)} subjects that the cohort does not have, {strangers[0]!r} first; "
                "expected the cohort of the run"
            )

    def _build_controls(self) -> None:
        import ipywidgets

        style, wide = {"description_width": "7rem"}, ipywidgets.Layout(width="min(100%, 30rem)")
        common = {"style": style, "layout": wide}
        first, last = int(self._ledger["cycle"].min()), int(self._ledger["cycle"].max())
        self.cycles = ipywidgets.IntRangeSlider(
            value=(first, last), min=first, max=last, description="cycles", continuous_update=False, **common
        )
        sorts = [name for name in SORTS if self._cohort is not None or name != "share diseased"]
        self.sort_by = ipywidgets.Dropdown(options=sorts, value="share rejected", description="sort by", **common)
        rejected = (self._ledger["decision"] != "accepted").groupby(self._ledger["center"]).mean()
        centers = sorted(rejected.index)
        self.center = ipywidgets.Dropdown(options=centers, value=rejected.idxmax(), description="center", **common)
        self.subject = ipywidgets.Dropdown(description="image", **common)
        self.beside = ipywidgets.Dropdown(description="beside it", **common)
        self._fate, self._message = ipywidgets.HTML(), ipywidgets.HTML()

    def _lay_out(self) -> ipywidgets.VBox:
        import ipywidgets

        def head(text: str) -> ipywidgets.HTML:
            return ipywidgets.HTML(f"<h3 style='margin: 0.5em 0 0'>{text}</h3>")

        self._image_box, self._surface_box = ipywidgets.VBox([]), ipywidgets.VBox([])
        self._timeline_box, self._absent = ipywidgets.VBox([]), ipywidgets.HTML()
        self._unverified = ipywidgets.HTML("No attempt of these cycles was verified: no update was suspicious.")
        pages = [
            *(head("All centers"), self.cycles, self.sort_by, self._overview.widget),
            *(head("One center"), self.center, self._timeline_box),
            *(head("What verification said"), self._surface_box),
        ]
        if self._cohort is not None:
            pages += [head("One image"), self.subject, self._fate, self.beside, self._message, self._image_box]
        return ipywidgets.VBox([*pages, make_resizer()])

    @property
    def rows(self) -> pd.DataFrame:
        """The attempts of the cycles chosen."""
        first, last = self.cycles.value
        return self._ledger[self._ledger["cycle"].between(first, last)]

    @property
    def unflagged(self) -> list[str]:
        """Training subjects of the cohort that were never deferred or eliminated, in the order of its table."""
        subjects = summarize_subjects(self._ledger)
        flagged = set(subjects.index[(subjects["deferred"] > 0) | subjects["eliminated"]])
        return [name for name in subjects.index if name not in flagged and name in self._paths]

    @property
    def _paths(self) -> dict[str, str]:
        return {} if self._cohort is None else self._cohort.table.set_index("subject")["path"].to_dict()

    def describe(self, subject: str) -> str:
        """Return in words what happened to a subject, over all cycles."""
        rows = self._ledger[[subject in subjects for subjects in self._ledger["subjects"]]]
        steps = [
            f"cycle {cycle}: {level} {decision}"
            for cycle, level, decision in zip(rows["cycle"], rows["level"], rows["decision"], strict=True)
            if decision != "accepted"
        ]
        return f"{len(rows)} attempt{'s' * (len(rows) != 1)}; " + ("; ".join(steps) if steps else "never rejected")

    def _choose(self, control: ipywidgets.Dropdown, name: str) -> None:
        """Choose what a mark stands for, if the list has it."""
        values = [option[1] if isinstance(option, tuple) else option for option in control.options]
        if name in values:
            control.value = name

    def _draw_all(self, _change: Any = None) -> None:
        self._draw_centers()
        self._draw_center()

    def _draw_centers(self, _change: Any = None) -> None:
        """Draw the pages that show all centers."""
        chosen = self.cycles.value
        self._overview.show(
            draw_center_overview(
                self._ledger,
                title=f"Share of attempts rejected, cycles {chosen[0]} to {chosen[1]}",
                cohort=self._cohort,
                cycles=chosen,
                sort_by=self.sort_by.value,
            )
        )
        rows = self.rows
        verified = rows["fp"].notna().any()
        if verified:
            title = "How every verified attempt moved the error rates"
            self._surface.show(draw_verification_surface(rows, title=title, denominators=self._denominators))
        self._surface_box.children = [self._surface.widget if verified else self._unverified]

    def _turn_to_center(self, _change: Any = None) -> None:
        """Show the center chosen, and list its images."""
        self._draw_center()
        if self._cohort is None:
            return
        subjects = summarize_subjects(self._ledger[self._ledger["center"] == self.center.value])
        order = subjects.sort_values(["eliminated", "deferred"], ascending=False, kind="stable")
        self.subject.options = [
            (f"{name} ({_name_fate(row)})", name) for name, row in order.iterrows() if name in self._paths
        ]
        self.subject.value = next((name for _, name in self.subject.options), None)
        self._turn_to_image()

    def _draw_center(self) -> None:
        rows, name = self.rows, self.center.value
        there = bool((rows["center"] == name).any())
        if there:
            title = f"{name}, attempt by attempt"
            self._timeline.show(draw_center_timeline(rows, name, title=title, denominators=self._denominators))
        else:
            first, last = self.cycles.value
            self._absent.value = html.escape(f"{name} made no attempt in cycles {first} to {last}.")
        self._timeline_box.children = [self._timeline.widget if there else self._absent]

    def _turn_to_image(self, _change: Any = None) -> None:
        """Show the image chosen beside one of the same center."""
        subject = self.subject.value
        if subject is None:
            return
        self._fate.value = html.escape(self.describe(subject))
        centers = self._cohort.table.set_index("subject")["center"]
        near = [name for name in self.unflagged if centers[name] == self.center.value and name != subject]
        options = [(f"{name} (never flagged, same center)", name) for name in near]
        self.beside.options = [*options, (TEMPLATE, TEMPLATE), ("nothing", "")]
        self.beside.value = near[0] if near else TEMPLATE
        self._draw_image()

    def _draw_image(self, _change: Any = None) -> None:
        """Draw slices and histograms of the image and of what is beside it; what cannot be read is said instead."""
        subject, other = self.subject.value, self.beside.value
        if subject is None or other is None:
            return
        try:
            volumes = self.read_images(subject, other)
        except (FileNotFoundError, ValueError) as error:
            self._message.value = f"<b>The image cannot be shown.</b> {html.escape(str(error))}"
            self._image_box.children = []
            return
        self._message.value = ""
        title = f"{subject}, slice by slice"
        if self._viewer is None:
            self._viewer = SliceViewer(volumes, title=title)
        else:
            self._viewer.show(volumes, title=title)
        arrays = {label: volume.array for label, volume in volumes.items()}
        self._histogram.show(draw_histograms(arrays, title="How often each intensity occurs"))
        self._image_box.children = [self._viewer.widget, self._histogram.widget]

    def read_images(self, subject: str, other: str) -> Mapping[str, Volume]:
        """Return the subject's volume, and that of the other subject, or the median of images never flagged.

        Raises
        ------
        FileNotFoundError, ValueError
            If an image is missing or unreadable.
        """
        volumes = {subject: self._read(subject)}
        if other == TEMPLATE:
            names = [name for name in self.unflagged if name != subject]
            names = names[:: max(1, len(names) // MOST_IN_TEMPLATE)][:MOST_IN_TEMPLATE]
            if names:
                stack = np.stack([self._read(name).array for name in names])
                label = f"median of {len(names)} images never flagged"
                volumes[label] = Volume(np.median(stack, axis=0).astype(np.float32), volumes[subject].affine)
        elif other:
            volumes[other] = self._read(other)
        return volumes

    def _read(self, subject: str) -> Volume:
        return read_volume(self._paths[subject], subject=subject, allow_constant=True)

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self.widget)


def _name_fate(row: pd.Series) -> str:
    """Return what became of a subject."""
    if row["eliminated"]:
        return f"eliminated in cycle {row['eliminated_cycle']}"
    if not row["deferred"]:
        return "never flagged"
    return f"deferred {'once' if row['deferred'] == 1 else str(row['deferred']) + ' times'}, kept"
