"""The travelling loop: visit, train, verify, roll back, revisit, eliminate. It reads like the paper's workflow figure.

The loop speaks to the centers only through `Engine`, and leaves every decision to a rule.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pandas as pd

from dqc_lib.fisher import average_norms
from dqc_lib.ledger import COLUMNS, Ledger
from dqc_lib.quality import Counts, Docket, Rule, Verdict, WatchingRule, add_counts
from dqc_lib.travelling.engine import Engine
from dqc_lib.travelling.plan import Cycle

FOLDS = 10  # parts of the watched images, each measured against the others


@dataclass(frozen=True)
class _Reading:
    """What a verification came to, and whether every verification subject was looked at for it."""

    counts: Counts
    exact: bool


@dataclass
class _Journey:
    """What the loop carries along: the parties, the books, a copy of the last accepted model and its counts (None: not
    copied, not verified), and whether the model has moved since the unit of the norms was measured."""

    engine: Engine
    rule: Rule
    ledger: Ledger
    docket: Docket
    stage: str
    bar: Any
    saved: Any = None
    accepted: _Reading | None = None
    moved: bool = True
    cycle: int = 0
    decisions: Counter = field(default_factory=Counter)

    def verify(self, harmful: Callable[[Counts], bool | None] | None = None) -> _Reading:
        counts = add_counts(self.engine.verify(self.rule.asks, harmful))
        return _Reading(counts, self.engine.exact)


def travel(
    engine: Engine,
    plan: Iterable[Cycle],
    *,
    rule: Rule | None = None,
    exclude: Collection[str] = (),
    ledger: Ledger | None = None,
    stage: str = "control",
    revisit_after: int = 2,
    closing_revisit: bool = True,
    after_cycle: Callable[[int, Counts | None], None] | None = None,
    progress: bool = True,
) -> tuple[Ledger, Docket]:
    """Let the model travel through the cycles of a plan under a rule.

    Parameters
    ----------
    engine : Engine
        Holds the model, which is changed in place.
    plan : iterable of Cycle
        Imposed as it stands, but for subjects that are excluded, wait for a revisit, or have been eliminated.
    rule : Rule, optional
        If not given, the model travels unguarded and nothing is verified.
    exclude : collection of str
        Subjects never trained on.
    ledger : Ledger, optional
        Where the attempts are written.
    stage : str
        "pretraining" or "control", for the ledger.
    revisit_after : int
        See `Docket`.
    closing_revisit : bool
        Try those who still wait when the last cycle is over, so that every flag is judged; the published code does not.
    after_cycle : callable, optional
        Called with the number of each finished cycle, and the counts of the model where they are known, else None.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Ledger, Docket
        Every attempt, and who waits or has been eliminated.
    """
    from tqdm.auto import tqdm

    cycles, out = tuple(plan), frozenset(exclude)
    total = sum(len(visit.batches) for cycle in cycles for visit in cycle.visits)
    ledger = Ledger() if ledger is None else ledger
    with tqdm(total=total, desc=stage, unit="batch", disable=not progress) as bar:
        homes = {
            subject: visit.center
            for cycle in cycles
            for visit in cycle.visits
            for batch in visit.batches
            for subject in batch
            if subject not in out
        }
        docket = Docket(revisit_after, homes)
        journey = _Journey(engine, rule or WatchingRule(verifies=False), ledger, docket, stage, bar)
        for cycle in cycles:
            _travel_cycle(journey, cycle, out)
            _end_cycle(journey, after_cycle)
        if closing_revisit and docket.due:
            journey.stage = "closing"
            engine.adjust_unit()
            journey.moved = False
            _revisit(journey, docket.call())
            _end_cycle(journey, after_cycle)
    return ledger, docket


def _travel_cycle(journey: _Journey, cycle: Cycle, exclude: frozenset[str]) -> None:
    journey.cycle = cycle.number
    journey.engine.set_learning_rate(cycle.learning_rate)
    journey.engine.adjust_unit()
    journey.moved = False
    for visit in cycle.visits:
        for batch in visit.batches:
            admitted = tuple(subject for subject in journey.docket.admit(batch) if subject not in exclude)
            if admitted:
                _try_batch(journey, visit.center, admitted)
            _show(journey, visit.center)
    _revisit(journey, journey.docket.call(cycle.number))


def _end_cycle(journey: _Journey, after_cycle: Callable[[int, Counts | None], None] | None) -> None:
    """Tell of the cycle; counts that were partly foreseen are made sure of first."""
    if journey.accepted is not None and not journey.accepted.exact:
        journey.accepted = journey.verify()
    journey.saved = None  # the copy holds the learning rate of this cycle
    if after_cycle is not None:
        after_cycle(journey.cycle, None if journey.accepted is None else journey.accepted.counts)


def _try_batch(journey: _Journey, center: str, subjects: tuple[str, ...]) -> None:
    """Try the batch as a whole; if it looks harmful, each of its images alone, and put off those that look harmful
    again."""
    if not _attempt(journey, center, subjects, level="batch", rejected="split"):
        for subject in subjects:
            if not _attempt(journey, center, (subject,), level="single", rejected="deferred"):
                journey.docket.defer(subject, cycle=journey.cycle)


def _revisit(journey: _Journey, subjects: tuple[str, ...]) -> None:
    for subject in subjects:
        center = journey.docket.homes[subject]
        harmless = _attempt(journey, center, (subject,), level="revisit", rejected="eliminated")
        journey.docket.close(subject, harmful=not harmless)
        _show(journey, center, step=0)


def _attempt(journey: _Journey, center: str, subjects: tuple[str, ...], *, level: str, rejected: str) -> bool:
    """Train, verify if the rule is suspicious, and roll back if it says harmful; return whether the attempt was
    accepted."""
    started, engine, rule, n = time.perf_counter(), journey.engine, journey.rule, len(subjects)
    pooled = journey.docket.pools(center)
    # a rule that suspects nothing, however large the update, never needs the way back
    if journey.saved is None and rule.suspects(n=n, update_norm=math.inf):
        journey.saved = engine.snapshot()
    before = journey.saved
    update = engine.train(center, subjects)
    if journey.moved and _is_close(rule, n, update.norm, pooled=pooled):
        engine.restore(before)
        engine.adjust_unit()
        journey.moved = False
        update = engine.train(center, subjects)
    reference, after, verdict = None, None, Verdict(False)
    if rule.suspects(n=n, update_norm=update.norm, pooled=pooled):
        judge = partial(rule.judge, n=n, update_norm=update.norm, pooled=pooled)
        reference, after = _verify_step(journey, before, center, subjects, judge)
        verdict = judge(before=reference.counts, after=after.counts)
    if verdict.harmful:
        engine.restore(journey.saved)
        journey.accepted = reference
    else:
        journey.saved, journey.accepted = None, None if rule.isolates else after
        journey.moved = True
    decision = rejected if verdict.harmful else "accepted"
    journey.decisions[decision] += 1
    journey.ledger.append(
        **_row(journey, center, subjects, level=level, norm=update.norm, decision=decision)
        | _columns_of(after)
        | {f"reference_{name}": value for name, value in _columns_of(reference).items()}
        | {"exact": None if after is None else reference.exact and after.exact}
        | {"tolerance": verdict.tolerance, "norm_limit": verdict.norm_limit, "seconds": time.perf_counter() - started}
    )
    return not verdict.harmful


def _is_close(rule: Rule, n: int, norm: float | None, *, pooled: bool) -> bool:
    """Return whether the attempt is suspicious, but would not be with half the norm: too close to go by a unit that was
    measured some steps ago."""
    if norm is None or not rule.suspects(n=n, update_norm=norm, pooled=pooled):
        return False
    return not rule.suspects(n=n, update_norm=norm / 2, pooled=pooled)


def _verify_step(
    journey: _Journey, before: Any, center: str, subjects: tuple[str, ...], judge: Callable[..., Verdict]
) -> tuple[_Reading, _Reading]:
    """Return the counts of the model before the step and after it, and leave the model after it.

    A rule that isolates gets the counts after the step as it would have been without momentum, which is what the steps
    before it wanted.
    """
    engine, reference = journey.engine, journey.accepted

    def harmful(counts: Counts) -> bool:
        return judge(before=reference.counts, after=counts).harmful

    if reference is not None and not journey.rule.isolates:
        return reference, journey.verify(harmful)
    candidate = engine.snapshot()
    engine.restore(before)
    if reference is None:
        reference = journey.verify(lambda counts: None)
        journey.saved = engine.snapshot()  # so that its scores are known when the model is put back
    if journey.rule.isolates:
        engine.train(center, subjects, alone=True)
        after = journey.verify(harmful)
        engine.restore(candidate)
    else:
        engine.restore(candidate)
        after = journey.verify(harmful)
    return reference, after


def _columns_of(reading: _Reading | None) -> dict[str, Any]:
    if reading is None:
        return dict.fromkeys(("fp", "n_neg", "fn", "n_pos", "loss"))
    counts = reading.counts
    return {"fp": counts.fp, "n_neg": counts.n_neg, "fn": counts.fn, "n_pos": counts.n_pos, "loss": counts.loss}


def _row(
    journey: _Journey, center: str, subjects: tuple[str, ...], *, level: str, norm: float | None, decision: str
) -> dict[str, Any]:
    known = {
        "cycle": journey.cycle,
        "stage": journey.stage,
        "level": level,
        "center": center,
        "subjects": list(subjects),
    }
    return dict.fromkeys(COLUMNS) | known | {"n": len(subjects), "update_norm": norm, "decision": decision}


def _show(journey: _Journey, center: str, *, step: int = 1) -> None:
    if journey.bar.disable:
        return
    journey.bar.set_postfix({"cycle": journey.cycle, "center": center, **journey.decisions}, refresh=False)
    journey.bar.update(step)


def watch(
    engine: Any,
    cycle: Cycle,
    *,
    exclude: Collection[str] = (),
    ledger: Ledger | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Measure how unusual good images are to the model, and leave the model as it was.

    Training images teach the scale of the gradients (`engine.scale`), and are measured against it with their own tenth
    left out, so that no image vouches for itself. Verification images, which the model has never trained on, are
    measured as a new image would be.

    Parameters
    ----------
    engine : LocalCenters
        After pre-training, with frozen normalization.
    cycle : Cycle
        Its images are watched.
    exclude : collection of str
        Subjects left out.
    ledger : Ledger, optional
        Receives one row of stage "watch" per image.
    progress : bool
        Show a progress bar.

    Returns
    -------
    DataFrame
        Those rows, ready for `CalibratedRule.from_watch`.
    """
    from tqdm.auto import tqdm

    ledger, scale, out = Ledger() if ledger is None else ledger, engine.make_scale(), set(exclude)
    trained = [(visit.center, name) for visit in cycle.visits for batch in visit.batches for name in batch]
    trained = [(center, name) for center, name in trained if name not in out]
    unseen = [(center, name) for center, names in engine.verification.items() for name in names]
    # every tenth image in the order of visits, so that a fold has a few of each center and the scale changes rarely
    tries = [(center, name, fold) for fold in range(FOLDS) for center, name in trained[fold::FOLDS]]
    with tqdm(total=2 * len(tries) + len(unseen), desc="watch", unit="image", disable=not progress) as bar:
        for _, name, fold in tries:
            scale.add(engine.read_gradient(name), fold=fold)
            bar.update()
        journey = _Journey(engine, WatchingRule(), ledger, Docket(), "watch", bar, cycle=cycle.number)
        norms = []
        for center, name, fold in [*tries, *((*image, None) for image in unseen)]:
            started = time.perf_counter()
            norms.append(scale.measure(engine.read_gradient(name), without=fold))
            row = _row(journey, center, (name,), level="single", norm=norms[-1], decision="accepted")
            ledger.append(**row | {"seconds": time.perf_counter() - started})
            bar.update()
    scale.reference = average_norms(norms[len(tries) :])
    engine.scale = scale
    frame = ledger.to_frame()
    return frame[frame["stage"] == "watch"]
