"""Exploring a ledger: from the centers to one center, to its attempts, to an image."""

from __future__ import annotations

import html
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dqc_lib.cohort import Cohort
from dqc_lib.figures import draw_center_overview, draw_center_timeline, draw_histograms, draw_verification_surface
from dqc_lib.figures.overview import SORTS
from dqc_lib.ledger import summarize_subjects
from dqc_lib.quality import CalibratedRule
from dqc_lib.volumes import Volume, read_volume
from dqc_lib.widgets.pane import FigurePane, make_resizer
from dqc_lib.widgets.slices import SliceViewer

if TYPE_CHECKING:
    import ipywidgets

MOST_IN_TEMPLATE = 15
TEMPLATE = "the median of images that were never flagged"
NOTHING = "nothing"


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
    acquittal : int
        That of the calibrated rule of the run, see `draw_verification_surface`.

    Raises
    ------
    TypeError, ValueError
        If `ledger` is no table or `cohort` no Cohort; if the ledger holds no attempts, or names subjects that the
        cohort does not have, or has at another center.

    Attributes
    ----------
    cycles : ipywidgets.IntRangeSlider
        Cycles that the pages show.
    sort_by, center, subject, beside : ipywidgets.Dropdown
        The order of the overview, the center, its image, and the image next to it.
    """

    def __init__(
        self,
        ledger: pd.DataFrame,
        *,
        cohort: Cohort | None = None,
        denominators: str = "standard",
        acquittal: int = CalibratedRule.acquittal,
    ) -> None:
        if not isinstance(ledger, pd.DataFrame):
            raise TypeError(f"ledger is of type {type(ledger).__name__}; expected a DataFrame such as arm.ledger")
        if not isinstance(cohort, Cohort | None):
            raise TypeError(f"cohort is of type {type(cohort).__name__}; expected a Cohort such as study.cohort")
        self._ledger = ledger[ledger["stage"] != "watch"]
        if self._ledger.empty:
            raise ValueError("the ledger holds no attempts; expected at least one to explore")
        self._cohort = None if cohort is None else cohort.blinded()
        self._denominators, self._acquittal = denominators, acquittal
        self._fates = summarize_subjects(self._ledger)
        self._paths = {} if cohort is None else cohort.table.set_index("subject")["path"].to_dict()
        self._refuse_strangers()
        flagged = (self._fates["deferred"] > 0) | self._fates["eliminated"]
        self.unflagged = list(self._fates.index[~flagged])
        self._viewer: SliceViewer | None = None
        self._template: tuple[str, Volume] | None = None
        self._filling = False
        self._overview, self._timeline, self._surface, self._histogram = (FigurePane() for _ in range(4))
        self._build_controls()
        self.widget: ipywidgets.VBox = self._lay_out()
        self._wire()
        self._draw_centers()
        self._turn_to_center()

    def _refuse_strangers(self) -> None:
        """Raise where the ledger names subjects that the cohort does not have, or has at another center."""
        if self._cohort is None:
            return
        centers = self._cohort.table.set_index("subject")["center"]
        moved = [name for name in self._fates.index if centers.get(name, "") != self._fates["center"][name]]
        strangers = [name for name in moved if name not in self._paths]
        if moved and not strangers:
            there, here = centers[moved[0]], self._fates["center"][moved[0]]
            raise ValueError(
                f"subject {moved[0]!r} is of center {here!r} in the ledger and of {there!r} in the cohort; expected "
                "the cohort of the run"
            )
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
        self._image_box = ipywidgets.VBox([])

    def _lay_out(self) -> ipywidgets.VBox:
        import ipywidgets

        def head(text: str) -> ipywidgets.HTML:
            return ipywidgets.HTML(f"<h3 style='margin: 0.5em 0 0'>{text}</h3>")

        pages = [
            *(head("All centers"), self.cycles, self.sort_by, self._overview.box),
            *(head("One center"), self.center, self._timeline.box),
            *(head("What verification said"), self._surface.box),
        ]
        if self._cohort is not None:
            pages += [head("One image"), self.subject, self._fate, self.beside, self._message, self._image_box]
        return ipywidgets.VBox([*pages, make_resizer()])

    def _wire(self) -> None:
        """Let controls and clicks call what answers them."""
        self._overview.on_pick(lambda name: self._choose(self.center, name))
        self._timeline.on_pick(lambda name: self._choose(self.subject, name))
        for control, answer in (
            (self.cycles, self._draw_all),
            (self.sort_by, self._draw_centers),
            (self.center, self._turn_to_center),
            (self.subject, self._turn_to_image),
            (self.beside, self._draw_image),
        ):
            control.observe(lambda _change, answer=answer: self._filling or answer(), names="value")

    @contextmanager
    def _fill(self) -> Iterator[None]:
        """Change lists without answering each change."""
        self._filling = True
        try:
            yield
        finally:
            self._filling = False

    @property
    def rows(self) -> pd.DataFrame:
        """The attempts of the cycles chosen."""
        first, last = self.cycles.value
        return self._ledger[self._ledger["cycle"].between(first, last)]

    def describe(self, subject: str) -> str:
        """Return in words what happened to a subject, over all cycles; KeyError for one that was never tried."""
        if subject not in self._fates.index:
            raise KeyError(f"subject {subject!r} is in no attempt of the ledger")
        rows = self._ledger[[subject in subjects for subjects in self._ledger["subjects"]]]
        steps = [
            f"cycle {cycle}: {level} {decision}"
            for cycle, level, decision in zip(rows["cycle"], rows["level"], rows["decision"], strict=True)
            if decision != "accepted"
        ]
        return f"{len(rows)} attempt{'s' * (len(rows) != 1)}; " + ("; ".join(steps) if steps else "never rejected")

    def _choose(self, control: ipywidgets.Dropdown, name: str) -> None:
        """Choose what a mark stands for, if the list has it."""
        if name in [option[1] if isinstance(option, tuple) else option for option in control.options]:
            control.value = name

    def _draw_all(self) -> None:
        self._draw_centers()
        self._draw_center()

    def _draw_centers(self) -> None:
        """Draw the pages that show all centers."""
        rows, (first, last) = self.rows, self.cycles.value
        self._overview.try_to_show(
            lambda: draw_center_overview(
                self._ledger,
                title=f"Rejected attempts, cycles {first} to {last}",
                cohort=self._cohort,
                cycles=(first, last),
                sort_by=self.sort_by.value,
            )
        )
        self._surface.try_to_show(
            lambda: draw_verification_surface(
                rows,
                title="How verified attempts moved the rates",
                denominators=self._denominators,
                acquittal=self._acquittal,
            )
        )

    def _draw_center(self) -> None:
        rows, name, (first, last) = self.rows, self.center.value, self.cycles.value

        def draw() -> Any:
            if not (rows["center"] == name).any():
                raise ValueError(f"{name} made no attempt in cycles {first} to {last}.")
            title = f"{name}, attempt by attempt"
            return draw_center_timeline(rows, name, title=title, denominators=self._denominators)

        self._timeline.try_to_show(draw)

    def _turn_to_center(self) -> None:
        """Show the center chosen, and list its images."""
        self._draw_center()
        if self._cohort is None:
            return
        there = self._fates[self._fates["center"] == self.center.value]
        order = there.sort_values(["eliminated", "deferred"], ascending=False, kind="stable")
        with self._fill():
            self.subject.options = [(f"{name} ({_name_fate(row)})", name) for name, row in order.iterrows()]
            self.subject.value = order.index[0]
        self._turn_to_image()

    def _turn_to_image(self) -> None:
        """Show the image chosen beside one of the same center; who chose the template or nothing keeps it."""
        subject, before = self.subject.value, self.beside.value
        self._fate.value = html.escape(self.describe(subject))
        near = [name for name in self.unflagged if self._fates["center"][name] == self.center.value and name != subject]
        options = [(f"{name} (never flagged, same center)", name) for name in near]
        options += [(TEMPLATE, TEMPLATE)] if self.unflagged else []
        with self._fill():
            self.beside.options = [*options, (NOTHING, NOTHING)]
            self.beside.value = before if before in (TEMPLATE, NOTHING) else self.beside.options[0][1]
        self._draw_image()

    def _draw_image(self) -> None:
        """Draw slices and histograms of the image and of what is beside it; what cannot be read is said."""
        subject = self.subject.value
        volumes, self._message.value = {}, ""
        for read in (lambda: (subject, self._read(subject)), self._read_neighbour):
            try:
                label, volume = read()
            except (FileNotFoundError, ValueError) as error:
                self._message.value = f"<b>An image cannot be shown.</b> {html.escape(str(error))}"
                break
            volumes |= {} if volume is None else {label: volume}
        if not volumes:
            self._image_box.children = []
            return
        title = f"{subject}, slice by slice"
        if self._viewer is None:
            self._viewer = SliceViewer(volumes, title=title)
        else:
            self._viewer.show(volumes, title=title)
        arrays = {label: volume.array for label, volume in volumes.items()}
        self._histogram.show(draw_histograms(arrays, title="How often each intensity occurs"))
        self._image_box.children = [self._viewer.widget, self._histogram.box]

    def _read_neighbour(self) -> tuple[str, Volume | None]:
        """Return label and volume of what is to be shown beside the image."""
        if self.beside.value == NOTHING:
            return NOTHING, None
        if self.beside.value == TEMPLATE:
            self._template = self._template or self._make_template()
            return self._template
        return self.beside.value, self._read(self.beside.value)

    def _make_template(self) -> tuple[str, Volume]:
        """Return the voxelwise median of some images that were never flagged, spread over the ledger.

        Images that cannot be read, or have another shape than the first, are left out.
        """
        found: list[Volume] = []
        for name in self.unflagged[:: max(1, len(self.unflagged) // MOST_IN_TEMPLATE)]:
            try:
                volume = self._read(name)
            except (FileNotFoundError, ValueError):
                continue  # its own page says what is wrong with it
            if len(found) < MOST_IN_TEMPLATE and (not found or volume.shape == found[0].shape):
                found.append(volume)
        if not found:
            raise ValueError("no image that was never flagged can be read, so there is no median of them")
        median = np.median(np.stack([volume.array for volume in found]), axis=0).astype(np.float32)
        return f"median of {len(found)} images never flagged", Volume(median, found[0].affine)

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
