"""The travelling loop: visit, train, verify, roll back, revisit, eliminate. It reads like the paper's workflow figure.

The loop speaks to the centers only through `Engine`, and leaves every decision to a rule.
"""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from dqc_lib.ledger import COLUMNS, COUNTS, LEVELS, Ledger
from dqc_lib.quality import Counts, Docket, Rule, Verdict, WatchingRule, add_counts
from dqc_lib.travelling.engine import Engine
from dqc_lib.travelling.plan import Cycle


@dataclass(frozen=True)
class _Reading:
    """What a verification came to, and whether every verification subject was looked at for it."""

    counts: Counts
    exact: bool


@dataclass
class _Journey:
    """What the loop carries along: the parties, the books, a copy of the last accepted model and its counts (None: not
    copied, not verified), whether the model has moved since the unit of the norms was measured, and the attempts that
    the ledger has of a run that was cut short and the model has not."""

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
    written: deque[Mapping[str, Any]] = field(default_factory=deque)
    look_again: bool = False

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
    completed: int = 0,
    look_again: bool = False,
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
        Where the attempts are written. One that holds attempts of these cycles, or of the closing revisit, is that of a
        run which was cut short: after the completed cycles they are gone through again, so that the model learns what
        it had learnt, and only then new ones are written.
    stage : str
        "pretraining" or "control", for the ledger.
    revisit_after : int
        See `Docket`.
    closing_revisit : bool
        Try those who still wait when the last cycle is over, so that every flag is judged; the published code does not.
    completed : int
        How many cycles of the plan the model has behind it.
    look_again : bool
        Verify again what the ledger has counts of. That is not needed where verification looks at every image; one that
        foresees goes by what it has seen before.
    after_cycle : callable, optional
        Called with the number of each finished cycle, and the counts of the model where they are known, else None.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Ledger, Docket
        Every attempt, and who waits or has been eliminated.

    Raises
    ------
    ValueError
        If the ledger does not hold the completed cycles whole, or an attempt that is gone through again does not come
        out as it has it.
    """
    from tqdm.auto import tqdm

    cycles, out = tuple(plan), frozenset(exclude)
    sizes = [sum(len(visit.batches) for visit in cycle.visits) for cycle in cycles]
    ledger, extent = Ledger() if ledger is None else ledger, {"total": sum(sizes), "initial": sum(sizes[:completed])}
    with tqdm(**extent, desc=stage, unit="batch", disable=not progress) as bar:
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
        journey.look_again = look_again
        _catch_up(journey, cycles[:completed], cycles[completed:], out)
        if completed and look_again and rule is not None:
            journey.verify()  # as when the last of them ended, so that as much is foreseen from here on
        for cycle in cycles[completed:]:
            _travel_cycle(journey, cycle, out)
            _end_cycle(journey, after_cycle)
        if closing_revisit and docket.due:
            journey.stage = "closing"
            engine.adjust_unit()
            journey.moved = False
            _revisit(journey, docket.call())
            _end_cycle(journey, after_cycle)
    return ledger, docket


def _catch_up(
    journey: _Journey, completed: tuple[Cycle, ...], ahead: tuple[Cycle, ...], exclude: frozenset[str]
) -> None:
    """Take over what the ledger says of the completed cycles, and lay ready what it says of those ahead."""
    rows = defaultdict(list)
    for row in journey.ledger:
        if row["stage"] in (journey.stage, "closing"):
            rows[row["stage"], row["cycle"]].append(row)
    for cycle in completed:
        journey.cycle = cycle.number  # for a closing revisit that is all there is to come
        admitted = [tuple(journey.docket.admit(batch)) for visit in cycle.visits for batch in visit.batches]
        wanted = [left for batch in admitted if (left := tuple(name for name in batch if name not in exclude))]
        due, found = journey.docket.call(cycle.number), rows[journey.stage, cycle.number]
        for row in found:
            journey.decisions[row["decision"]] += 1
            if row["decision"] == "deferred":
                journey.docket.defer(row["subjects"][0], cycle=row["cycle"])
            elif row["level"] == "revisit":
                journey.docket.close(row["subjects"][0], harmful=row["decision"] == "eliminated")
        tried = {level: [tuple(row["subjects"]) for row in found if row["level"] == level] for level in LEVELS}
        split = [name for row in found if row["decision"] == "split" for name in row["subjects"]]
        if tried != {"batch": wanted, "single": [(name,) for name in split], "revisit": [(name,) for name in due]}:
            raise ValueError(
                f"{_place(journey.ledger)}the attempts of cycle {cycle.number} are not all there, or others are, "
                "though its model is; the run cannot be continued: choose another folder"
            )
    for cycle in ahead:
        journey.written.extend(rows[journey.stage, cycle.number])
    journey.written.extend(row for (stage, _), found in rows.items() if stage == "closing" for row in found)


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
    """Tell of the cycle; counts that were partly foreseen are made sure of first, so that the next cycle begins from
    the model alone, whatever was seen on the way."""
    if journey.accepted is not None and not (journey.accepted.exact and journey.engine.exact):
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
    written = journey.written.popleft() if journey.written else None
    reference, after, verdict = None, None, Verdict(False)
    if rule.suspects(n=n, update_norm=update.norm, pooled=pooled):
        judge = partial(rule.judge, n=n, update_norm=update.norm, pooled=pooled)
        readings = None if written is None or journey.look_again else _read_counts(written)
        reference, after = readings or _verify_step(journey, before, center, subjects, judge)
        verdict = judge(before=reference.counts, after=after.counts)
    if verdict.harmful:
        engine.restore(journey.saved)
        journey.accepted = reference
    else:
        journey.saved, journey.accepted = None, None if rule.isolates else after
        journey.moved = True
    decision = rejected if verdict.harmful else "accepted"
    journey.decisions[decision] += 1
    row = (
        _row(journey, center, subjects, level=level, norm=update.norm, decision=decision)
        | _columns_of(after)
        | {f"reference_{name}": value for name, value in _columns_of(reference).items()}
        | {"exact": None if after is None else reference.exact and after.exact}
        | {"tolerance": verdict.tolerance, "norm_limit": verdict.norm_limit}
    )
    if written is None:
        journey.ledger.append(**row | {"seconds": time.perf_counter() - started})
    else:
        _compare(row, written, journey.ledger)
    return not verdict.harmful


def _read_counts(row: Mapping[str, Any]) -> tuple[_Reading, _Reading] | None:
    """Return what a row of a ledger says of the model before the step and after it; None where it does not say all."""
    if not row["exact"] or row["loss"] is not None:  # a mean does not give back the sum bit for bit
        return None
    before, after = (Counts(*(row[f"{of}{name}"] for name in COUNTS)) for of in ("reference_", ""))
    return _Reading(before, True), _Reading(after, True)


def _compare(row: Mapping[str, Any], written: Mapping[str, Any], ledger: Ledger) -> None:
    """Raise a ValueError unless the attempt came out as it is written."""
    for name, value in row.items():
        if name != "seconds" and not _is_same(value, written[name]):
            raise ValueError(
                f"{_place(ledger)}attempt on {row['subjects']} in cycle {row['cycle']}: {name} is {written[name]!r} in "
                f"the ledger and {value!r} now; the run was begun by other code or on another kind of machine and "
                "cannot be continued here: choose another folder"
            )


def _place(ledger: Ledger) -> str:
    return "" if ledger.path is None else f"{ledger.path}: "


def _is_same(value: Any, other: Any) -> bool:
    return value == other or value != value and other != other  # no norm of a model that diverged is a number


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
