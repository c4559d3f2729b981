"""What the study consists of: cells, each one a cohort and a rule, in the order in which they matter."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from dqc_lib.artefacts import HARMS

RULES = ("calibrated", "guaranteed", "published 0.02", "published 0.01", "published 0.05")
UNGUARDED = ("clean", "dirty")
MAIN_KINDS = ("inversion", "noise only")
FRACTIONS = (1, 2, 4, 6)  # of 19 centers: 5, 11, 21 and 32 %; one of 83 is 1 %
SEEDS = tuple(range(10))


@dataclass(frozen=True, order=True)
class Task:
    """One cohort and all that is run on it.

    Parameters
    ----------
    scenario : str
        "clean start" (the harm comes after the pre-training, as in the paper), "no harm", "harm from the first cycle",
        "trusted centers", "screened centers" and "second pass" (what may help against that), "fraction", "adversary",
        "83 centers".
    kind : str
        Of harm; "none".
    seed : int
    rules : tuple of str
        Each rule is one cell; so are "clean" and "dirty", the arms that nobody guards, and "detectors". In the row "no
        harm" these judge the places of harm against the rest: they were not pre-trained on, and that is all.
    n_centers : int
        Wholly harmful centers.
    quick : bool
        Fewer and smaller images, a narrower network and hardly any training: whether it runs, not what comes out.
    """

    scenario: str
    kind: str
    seed: int
    rules: tuple[str, ...]
    n_centers: int = 2
    quick: bool = False

    @property
    def name(self) -> str:
        """What its files are called."""
        return f"{self.scenario}-{self.kind}-{self.n_centers}-{self.seed}".replace(" ", "_")

    @property
    def large(self) -> bool:
        """Whether its cohort has the shape of the published one."""
        return self.scenario == "83 centers"


def list_tasks(seeds: Collection[int] = SEEDS, *, quick: bool = False) -> list[Task]:
    """Return the tasks of the study: the main rows of all seeds first. With `quick`, a handful of small ones."""
    if quick:
        return _list_quick_rows(seeds)
    unguarded, tasks = ("dirty", "detectors"), []
    for kinds in (MAIN_KINDS, tuple(kind for kind in HARMS if kind not in MAIN_KINDS)):
        for seed in seeds:
            first = kinds is MAIN_KINDS
            tasks += [Task("no harm", "none", seed, ("clean", "detectors", *RULES), 0)] if first else []
            tasks += [Task("clean start", kind, seed, (*unguarded, *RULES)) for kind in kinds]
        if first:
            tasks += _list_side_rows(seeds)
    return tasks


def _list_side_rows(seeds: Collection[int]) -> list[Task]:
    pair = ("calibrated", "published 0.02")
    tasks = []
    for seed in seeds:
        for kind in MAIN_KINDS:
            tasks += [
                Task("harm from the first cycle", kind, seed, ("dirty", "detectors", *pair)),
                Task("trusted centers", kind, seed, ("detectors", *pair)),
                Task("screened centers", kind, seed, ("calibrated",)),
                Task("second pass", kind, seed, ("calibrated",)),
            ]
        tasks += [Task("adversary", "inversion", seed, ("dirty", "detectors", *pair))]
        tasks += [Task("fraction", "inversion", seed, pair, count) for count in FRACTIONS]
    for seed in seeds:
        tasks += [Task("83 centers", "inversion", seed, ("clean", "dirty", *pair), 4)]
        tasks += [Task("83 centers", "inversion", seed, ("calibrated",), 1)]
    return tasks


def _list_quick_rows(seeds: Collection[int]) -> list[Task]:
    few = ("dirty", "detectors", "calibrated", "guaranteed", "published 0.02")
    tasks = []
    for seed in seeds:
        tasks += [
            Task("no harm", "none", seed, ("clean", "detectors", "calibrated"), 0, quick=True),
            Task("clean start", "inversion", seed, few, quick=True),
            Task("adversary", "inversion", seed, ("calibrated",), quick=True),
            Task("screened centers", "inversion", seed, ("calibrated",), quick=True),
        ]
    return tasks


def choose_tasks(
    tasks: list[Task], *, scenarios: Collection[str] | None = None, kinds: Collection[str] | None = None
) -> list[Task]:
    """Return the tasks of these scenarios and kinds, all of them where none are named.

    Raises
    ------
    ValueError
        If a name is unknown, or no task has both.
    """
    for word, wanted in (("scenario", scenarios), ("kind", kinds)):
        known = list(dict.fromkeys(getattr(task, word) for task in tasks))
        if unknown := [name for name in wanted or () if name not in known]:
            raise ValueError(f"unknown {word} {unknown[0]!r}; expected one of {known}")
    chosen = [task for task in tasks if task.scenario in (scenarios or [task.scenario])]
    chosen = [task for task in chosen if task.kind in (kinds or [task.kind])]
    if not chosen:
        there = sorted({task.kind for task in tasks if task.scenario in (scenarios or ())})
        raise ValueError(f"no task has one of the scenarios {scenarios} and of the kinds {kinds}; there are {there}")
    return chosen
