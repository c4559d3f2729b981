"""What the study consists of: cells, each one a cohort and a rule, in the order in which they matter."""

from __future__ import annotations

from dataclasses import dataclass

from dqc_lib.artefacts import HARMS

RULES = ("calibrated", "guaranteed", "published 0.02", "published 0.01", "published 0.05")
MAIN_KINDS = ("inversion", "noise only")
FRACTIONS = (1, 2, 4, 6)  # of 19 centers: 5, 11, 21 and 32 %
LARGE_SEEDS = (0, 1)


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
        Each rule is one cell; so are "clean" and "dirty", the arms that nobody guards, and "detectors".
    n_centers : int
        Wholly harmful centers.
    """

    scenario: str
    kind: str
    seed: int
    rules: tuple[str, ...]
    n_centers: int = 2

    @property
    def name(self) -> str:
        """What its files are called."""
        return f"{self.scenario}-{self.kind}-{self.n_centers}-{self.seed}".replace(" ", "_")


def list_tasks(seeds: tuple[int, ...], *, quick: bool = False) -> list[Task]:
    """Return the tasks of the study: the main rows of all seeds first. With `quick`, a handful on one seed."""
    if quick:
        few = ("calibrated", "published 0.02", "clean", "dirty", "detectors")
        return [Task("clean start", "inversion", seeds[0], few), Task("no harm", "none", seeds[0], ("calibrated",), 0)]
    unguarded, tasks = ("dirty", "detectors"), []
    for kinds in (MAIN_KINDS, tuple(kind for kind in HARMS if kind not in MAIN_KINDS)):
        for seed in seeds:
            first = kinds is MAIN_KINDS
            tasks += [Task("no harm", "none", seed, ("clean", *RULES), 0)] if first else []
            tasks += [Task("clean start", kind, seed, (*unguarded, *RULES)) for kind in kinds]
        if first:
            tasks += _list_side_rows(seeds)
    return tasks


def _list_side_rows(seeds: tuple[int, ...]) -> list[Task]:
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
    tasks += [Task("83 centers", "inversion", seed, ("clean", "dirty", *pair), 4) for seed in LARGE_SEEDS]
    return tasks
