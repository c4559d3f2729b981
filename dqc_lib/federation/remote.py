"""Centers on other machines: the engine of the travelling loop at the server, which holds the model and no image."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from dqc_lib.federation.answers import (
    Declared,
    SiteError,
    read_counts,
    read_declared,
    read_measures,
    read_step,
    refuse,
)
from dqc_lib.federation.gathering import gather_features, gather_names, gather_norms, gather_squares, list_sites
from dqc_lib.federation.link import Link, join_errors
from dqc_lib.federation.traffic import count_traffic
from dqc_lib.federation.weights import Arrays, Start, pack_scale, unpack_scale
from dqc_lib.fisher import GradientScale, number_parts
from dqc_lib.quality import Counts
from dqc_lib.travelling import CenterError, Update


@dataclass(frozen=True)
class State:
    """The model's arrays, never written to, and whether all centers have verified them."""

    arrays: Arrays
    verified: bool = False


class RemoteCenters:
    """The centers of all sites that a link reaches.

    The server is the model's home: a training call brings it and its optimizer to one site and back, a verification the
    model alone to all of them. To go back to a copy is then to take up other arrays, and costs nothing.

    Parameters
    ----------
    link : Link
    start : Start
        The model to set out with.
    scale : bytes, optional
        The file of a `GradientScale`, handed to the sites; without it nothing is measured.
    reference : float
        The scale's own, see `GradientScale`.
    threshold, batch_size
        See `LocalCenters`.
    declared : mapping of str to Declared, optional
        What the centers declared when the run began: those that declare it again take part, and no others.
    patient : bool
        Begin without sites that do not answer, instead of raising their error.

    Attributes
    ----------
    centers : dict of str to Declared
        What each center declared when the run began, in the order of sites and their tables.
    absent : set of str
        Those of them that are left out.
    missing : dict of str to SiteError
        The sites that did not open, and why.
    cycle : int
        How many cycles have begun; whoever resumes a run sets it to those that are completed.
    traffic : list of dict
        What was sent so far, see `count_traffic`.

    Notes
    -----
    A site is sent the model even if it has just sent it itself, and so needs no memory. One that kept its last two
    states would save at most what goes out to train, nearly half of that call's traffic, and its own share of what goes
    out to verify.
    """

    def __init__(
        self,
        link: Link,
        start: Start,
        *,
        scale: bytes | None = None,
        reference: float = math.nan,
        threshold: float = 0.5,
        batch_size: int = 1,
        declared: Mapping[str, Declared] | None = None,
        patient: bool = False,
    ) -> None:
        self._link, self._start, self._rate_at, self._n_variables = link, start, start.rate_at, start.n_variables
        self._layout, self._own_layout = start.layout, start.own_layout
        self._terms = {"threshold": threshold, "batch_size": batch_size}
        self._state, self._first_size, self._unit = State(start.arrays), 0, 1.0
        self._scale, self._reference = scale, reference
        self.cycle, self.traffic = 0, []
        self.absent, self.missing = set(), {}
        found = self._open(link.sites)
        if self.missing and not patient:
            raise join_errors(self.missing.values())
        self.centers = dict(found if declared is None else declared)
        self._admit(found)

    def _open(self, sites: Sequence[str]) -> dict[str, Declared]:
        """Have sites make themselves ready for a model of this design, note who does not, and return what the others
        declare."""
        centers, scale = {}, self._scale
        self._count("open", calls=1, out=len(scale or b"") * len(sites))
        answers = self._link.ask_all(sites, "open", design=self._start.design, scale=scale, **self._terms)
        for site in sites:
            self.missing.pop(site, None)
            try:
                if isinstance(answers[site], SiteError):
                    raise answers[site]
                for center, declared in read_declared(site, answers[site]).items():
                    if center in centers:
                        raise SiteError([site], f"declares {center!r}, which {centers[center].site!r} holds too")
                    centers[center] = declared
            except SiteError as error:
                self.missing[site] = error
        return centers

    def _admit(self, found: Mapping[str, Declared]) -> None:
        """Hold those sites that opened to what their centers declared when the run began."""
        for center, declared in self.centers.items():
            if declared.site not in self.missing and found.get(center) != declared:
                raise refuse(center, f"{declared.site!r} declares something else than when the run began, or nothing")

    def _open_again(self) -> None:
        found = self._open(self._link.sites)
        if self.missing:
            raise join_errors(self.missing.values())
        self._admit(found)

    def leave_out(self, centers: Iterable[str]) -> None:
        """Do without these centers from now on."""
        self.absent |= set(centers)
        self._state = replace(self._state, verified=False)

    def call_back(self) -> list[str]:
        """Have the sites of the centers that were left out open again, and return the centers of those that do."""
        away = [center for center in self.centers if center in self.absent]
        sites = list(dict.fromkeys(self.centers[center].site for center in away))
        found = self._open(sites) if sites else {}
        return [center for center in away if found.get(center) == self.centers[center]]

    def take_back(self, centers: Iterable[str]) -> None:
        """Count on these centers again."""
        self.absent -= set(centers)
        self._state = replace(self._state, verified=False)

    @property
    def _present(self) -> dict[str, Declared]:
        return {center: of for center, of in self.centers.items() if center not in self.absent}

    def _ask_present(self, name: str, **arguments: Any) -> dict[str, Any]:
        """Return what the sites of all present centers answer to a call that takes the model along, without what they
        say of absent centers."""
        sites, answers = self._list_present(), {}
        gone = [self.missing[site] for site in sites if site in self.missing]
        if not gone:
            answers = self._link.ask_all(sites, name, weights=self._pack_own(name, len(sites)), **arguments)
        # whoever was first to answer: sums in this order come out the same to the last digit when a run is resumed
        answers = {site: answers[site] for site in sites if site in answers}
        failed = gone or [answer for answer in answers.values() if isinstance(answer, SiteError)]
        if failed:
            raise join_errors(failed)
        return {
            site: {key: part for key, part in answer.items() if key not in self.absent}
            if isinstance(answer, Mapping)
            else answer
            for site, answer in answers.items()
        }

    def _list_present(self) -> list[str]:
        return list(dict.fromkeys(of.site for of in self._present.values()))

    @contextmanager
    def _naming_centers(self) -> Iterator[None]:
        """Have the error of a site name the centers that cannot take part for it."""
        try:
            yield
        except SiteError as error:
            raise error.name_centers(self._present) from None

    @property
    def arrays(self) -> Arrays:
        """The model as it stands."""
        return self._state.arrays

    @property
    def model(self) -> Start:
        """The model as it stands, to save or to set out with again."""
        return replace(self._start, arrays=self.arrays)

    def group_subjects(self) -> dict[str, list[str]]:
        """Return the training subjects by center, as `plan_cycles` takes them."""
        return {center: list(declared.train) for center, declared in self.centers.items() if declared.train}

    def train(self, center: str, subjects: Iterable[str], *, alone: bool = False) -> Update:
        """Send the model to the center, and take over the one that comes back."""
        subjects, declared = list(subjects), self.centers[center]
        self._first_size = self._first_size or len(subjects)
        weights = self._layout.pack(self.arrays)
        options = {"center": center, "subjects": subjects, "alone": alone, "sizes": [self._first_size]}
        with self._naming_centers():
            if declared.site in self.missing:
                raise self.missing[declared.site]
            self._count("train", calls=1, out=len(weights))
            answer = self._link.ask(declared.site, "train", weights=weights, **options)
        arrays, update = read_step(center, answer, self._layout, squares_at=self._start.squares_at)
        if arrays[self._rate_at] != self.arrays[self._rate_at]:
            raise refuse(center, "the weights come back with another learning rate")
        taken = arrays[self._start.steps_at] - self.arrays[self._start.steps_at]
        if taken != 1:  # Adam's next step divides by what this comes to, at another center
            raise refuse(center, f"the weights come back {taken} steps on, expected 1")
        if self._scale is not None and update.norm is None:
            raise refuse(center, "expected an update norm, came none")
        self._count("train", back=len(answer["weights"]))
        self._state = State(arrays)
        return update if update.norm is None else replace(update, norm=update.norm / self._unit)

    def verify(
        self, asks: frozenset[str] = frozenset(), harmful: Callable[[Counts], bool | None] | None = None
    ) -> dict[str, Counts]:
        """Return the counts of each center that is present; every verification subject is looked at."""
        loss, counts = "loss" in asks, {}
        with self._naming_centers():
            answers = self._ask_present("verify", loss=loss)
            for site, answer in answers.items():
                counts |= read_counts(site, answer, self._present, loss=loss)
        self._state = replace(self._state, verified=True)
        return {center: counts[center] for center in self.centers if center in counts}

    @property
    def exact(self) -> bool:
        """Whether all centers have verified the model as it stands."""
        return self._state.verified

    def snapshot(self) -> State:
        """Return the model as it stands; arrays are never changed in place, so it is no copy."""
        return self._state

    def restore(self, snapshot: State) -> None:
        """Take up that model again."""
        self._state = snapshot

    def set_learning_rate(self, rate: float) -> None:
        """Set Adam's learning rate, with which a cycle begins."""
        arrays = list(self.arrays)
        arrays[self._rate_at] = np.array(rate, dtype=arrays[self._rate_at].dtype)
        self._state = replace(self._state, arrays=tuple(arrays))  # which moves no score
        self.cycle += 1

    def adjust_unit(self) -> float:
        """Have the verification images measured, see `LocalCenters.adjust_unit`."""
        if self._scale is not None:
            with self._naming_centers():
                answers = self._ask_present("measure")
                pairs = [read_measures(site, answer, self._present) for site, answer in answers.items()]
            total, n = sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)
            known = n > 0 and math.isfinite(self._reference)
            self._unit = math.exp(total / n) / self._reference if known else 1.0
        return self._unit

    def rehearse(self, size: int) -> None:
        """Have sites make their graphs as a run does that takes its first step on so many images, see
        `LocalCenters.rehearse`; the step that is taken first unless this is called."""
        self._first_size = size

    def freeze(self, *, exclude: Iterable[str] = ()) -> None:
        """Recalibrate the normalization on the training images of all centers but the excluded, layer by layer, and
        freeze it, see `LocalCenters.freeze`.

        Every center answers, for each layer, with sums of its features, see `Site.sum_features`. They are added center
        by center, in one process batch by batch: where a center has more than a batch of images, the last digit may be
        another. A fault leaves the model as it was.
        """
        before, out = self._state, frozenset(exclude)
        try:
            for layer, places in enumerate(self._start.statistics_at):
                weights, arrays = self._pack_own("sum_features", len(self._link.sites)), list(self.arrays)
                options = {"layer": layer, "filters": arrays[places[0]].size, "exclude": out}
                sums = gather_features(self._link, self.centers, weights, **options)
                for at, statistic in zip(places, sums.average(), strict=True):
                    arrays[at] = statistic.astype(arrays[at].dtype)
                self._state = State(tuple(arrays))
        except CenterError:
            self._state = before
            raise
        self._start = replace(self._start, design=self._start.design | {"frozen": True})
        self._first_size = 0  # graphs are made anew for a model that is frozen
        self._open_again()

    @property
    def scale(self) -> GradientScale | None:
        """What updates are measured against, as the sites have it; None until a cycle was watched."""
        return None if self._scale is None else unpack_scale(self._scale)

    @scale.setter
    def scale(self, scale: GradientScale) -> None:
        self._scale, self._reference = pack_scale(scale), scale.reference
        self._open_again()

    @cached_property
    def verification(self) -> dict[str, list[str]]:
        """The verification subjects of each center, asked for when a cycle is watched."""
        return gather_names(self._link, self.centers)

    def make_scale(self) -> GradientScale:
        """Return an empty scale for gradients of this model."""
        return GradientScale(number_parts([self.arrays[at].shape for at in self._start.trained_at]))

    def sum_squares(self, images: Sequence[tuple[str, str]]) -> np.ndarray:
        """Return the sum of the squared gradients of training images, each given by its center and subject: each site
        adds up those of its centers, see `Site.sum_squares`."""
        n_sites, n = len(list_sites(self.centers, images)), sum(self.arrays[at].size for at in self._start.trained_at)
        weights = self._pack_own("sum_squares", n_sites)
        squares = gather_squares(self._link, self.centers, weights, images, n_weights=n)
        self._count("sum_squares", back=squares.nbytes * n_sites)
        return squares

    def measure_images(
        self, images: Sequence[tuple[str, str]], *, scale: GradientScale, without: int | None = None
    ) -> Iterator[float]:
        """Yield the update norms of images, see `Site.measure_images`; all sites are asked before the first."""
        if not images:
            return iter(())
        n_sites, content = len(list_sites(self.centers, images)), pack_scale(scale, without=without)
        weights = self._pack_own("measure_images", n_sites)
        self._count("measure_images", out=len(content) * n_sites)
        return iter(gather_norms(self._link, self.centers, weights, images, scale=content))

    def _pack_own(self, call: str, n_sites: int) -> bytes:
        """Return the model without its optimizer, which goes to so many sites."""
        weights = self._own_layout.pack(self.arrays[: self._n_variables])
        self._count(call, calls=1, out=len(weights) * n_sites)
        return weights

    def _count(self, call: str, **amounts: int) -> None:
        count_traffic(self.traffic, self.cycle, call, **amounts)
