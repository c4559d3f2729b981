"""The travelling loop: visit, train, verify, roll back, revisit, eliminate. It reads like the paper's workflow figure.

The loop speaks to the centers only through `Engine`, and leaves every decision to a rule.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Any

from dqc_lib.ledger import LEVELS, Ledger
from dqc_lib.quality import Counts, Docket, Rule, Verdict, WatchingRule
from dqc_lib.travelling.engine import CenterError, Engine
from dqc_lib.travelling.journey import Journey, Reading, compare, list_columns, name_ledger, read_counts
from dqc_lib.travelling.plan import Cycle

ON_FAULT = ("stop", "continue")


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
    on_fault: str = "stop",
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
    on_fault : "stop" or "continue"
        What becomes of a center that cannot take part: its error, which the ledger holds, ends the run, which can be
        resumed; or the model travels on without it. Then it is asked again as each cycle begins, its revisits are put
        off, error rates and the unit of update norms are of the verification subjects of those who are present, and the
        ledger says who was absent, since when and why.
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
    CenterError
        If a center cannot take part and the run is to stop then; if nobody is left who verifies controls, or diseased
        subjects; if one that is absent took part in attempts that are gone through again.
    """
    from tqdm.auto import tqdm

    if on_fault not in ON_FAULT:
        raise ValueError(f"on_fault must be one of {ON_FAULT}, got {on_fault!r}")

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
        journey = Journey(engine, rule or WatchingRule(verifies=False), ledger, docket, stage, bar)
        journey.look_again, journey.goes_on = look_again, on_fault == "continue"
        _catch_up(journey, cycles[:completed], cycles[completed:], out)
        if completed and look_again and rule is not None:
            journey.verify()  # as when the last of them ended, so that as much is foreseen from here on
        for cycle in cycles[completed:]:
            _travel_cycle(journey, cycle, out)
            _end_cycle(journey, after_cycle)
        if closing_revisit and docket.due:
            journey.stage = "closing"
            journey.call_roll()
            journey.insist(journey.adjust_unit)
            _revisit(journey, docket.call())
            _end_cycle(journey, after_cycle)
    return ledger, docket


def _catch_up(
    journey: Journey, completed: tuple[Cycle, ...], ahead: tuple[Cycle, ...], exclude: frozenset[str]
) -> None:
    """Take over what the ledger says of the completed cycles, and lay ready what it says of those ahead."""
    rows, presences = defaultdict(list), defaultdict(list)
    for row in journey.ledger:
        if row["stage"] in (journey.stage, "closing"):
            rows[row["stage"], row["cycle"]].append(row)
    for at in journey.ledger.presences:
        presences[at.stage, at.cycle].append(at)
    for cycle in completed:
        journey.cycle = cycle.number  # for a closing revisit that is all there is to come
        missed = journey.catch_up_presences(presences[journey.stage, cycle.number])
        _catch_up_cycle(journey, cycle, rows[journey.stage, cycle.number], missed, exclude)
    for cycle in ahead:
        journey.written.extend(rows[journey.stage, cycle.number])
        journey.presences.extend(presences[journey.stage, cycle.number])
    journey.written.extend(row for (stage, _), found in rows.items() if stage == "closing" for row in found)
    journey.presences.extend(at for (stage, _), found in presences.items() if stage == "closing" for at in found)
    journey.resumed = bool(rows or presences)


def _catch_up_cycle(
    journey: Journey, cycle: Cycle, found: list[dict[str, Any]], missed: set[str], exclude: frozenset[str]
) -> None:
    """Take over what became of each subject in a completed cycle."""
    docket = journey.docket
    admitted = [tuple(docket.admit(batch)) for visit in cycle.visits for batch in visit.batches]
    tried = {level: [tuple(row["subjects"]) for row in found if row["level"] == level] for level in LEVELS}
    split = [name for row in found if row["decision"] == "split" for name in row["subjects"]]
    due = docket.call(cycle.number)
    for row in found:
        journey.decisions[row["decision"]] += 1
        if row["decision"] == "deferred":
            docket.defer(row["subjects"][0], cycle=row["cycle"])
        elif row["level"] == "revisit":
            docket.close(row["subjects"][0], harmful=row["decision"] == "eliminated")
    wanted = {
        "batch": [left for batch in admitted if (left := tuple(name for name in batch if name not in exclude))],
        "single": [(name,) for name in split],
        "revisit": [(name,) for name in due],
    }
    kept = {
        level: [names for names in groups if names in tried[level] or docket.homes[names[0]] not in missed]
        for level, groups in wanted.items()
    }
    if tried != kept:
        raise ValueError(
            f"{name_ledger(journey.ledger)}the attempts of cycle {cycle.number} are not all there, or others are, "
            "though its model is; the run cannot be continued: choose another folder"
        )
    for names in wanted["revisit"]:
        if names not in tried["revisit"]:
            docket.defer(names[0], cycle=cycle.number)


def _travel_cycle(journey: Journey, cycle: Cycle, exclude: frozenset[str]) -> None:
    journey.cycle = cycle.number
    journey.engine.set_learning_rate(cycle.learning_rate)
    journey.call_roll()
    journey.insist(journey.adjust_unit)
    for visit in cycle.visits:
        for batch in visit.batches:
            admitted = tuple(subject for subject in journey.docket.admit(batch) if subject not in exclude)
            if admitted:
                _try_batch(journey, visit.center, admitted)
            journey.show(visit.center)
    _revisit(journey, journey.docket.call(cycle.number))


def _end_cycle(journey: Journey, after_cycle: Callable[[int, Counts | None], None] | None) -> None:
    """Tell of the cycle; counts that were partly foreseen are made sure of first, so that the next cycle begins from
    the model alone, whatever was seen on the way."""
    journey.follow_presences()
    if journey.accepted is not None and not (journey.accepted.exact and journey.engine.exact):
        journey.accepted = journey.insist(journey.verify)
    journey.saved = None  # the copy holds the learning rate of this cycle
    if after_cycle is not None:
        after_cycle(journey.cycle, None if journey.accepted is None else journey.accepted.counts)


def _try_batch(journey: Journey, center: str, subjects: tuple[str, ...]) -> None:
    """Try the batch as a whole; if it looks harmful, each of its images alone, and put off those that look harmful
    again."""
    if _attempt(journey, center, subjects, level="batch", rejected="split") is False:
        for subject in subjects:
            if _attempt(journey, center, (subject,), level="single", rejected="deferred") is False:
                journey.docket.defer(subject, cycle=journey.cycle)


def _revisit(journey: Journey, subjects: tuple[str, ...]) -> None:
    for subject in subjects:
        center = journey.docket.homes[subject]
        harmless = _attempt(journey, center, (subject,), level="revisit", rejected="eliminated")
        if harmless is None:
            journey.docket.defer(subject, cycle=journey.cycle)
        else:
            journey.docket.close(subject, harmful=not harmless)
        journey.show(center, step=0)


def _attempt(journey: Journey, center: str, subjects: tuple[str, ...], *, level: str, rejected: str) -> bool | None:
    """Return whether an attempt was accepted; None if its center is absent. Should another center fail meanwhile, the
    attempt is begun again without that one."""
    while True:
        journey.follow_presences()
        if center in journey.absent:
            return None
        try:
            if journey.regrouped:  # at once, so that a run cut short here goes on in the same unit
                journey.adjust_unit()
            return _take_attempt(journey, center, subjects, level=level, rejected=rejected)
        except CenterError as error:
            if journey.saved is not None:
                journey.engine.restore(journey.saved)
            journey.go_on_without(error)


def _take_attempt(journey: Journey, center: str, subjects: tuple[str, ...], *, level: str, rejected: str) -> bool:
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
        journey.adjust_unit()
        update = engine.train(center, subjects)
    written = journey.written[0] if journey.written else None
    reference, after, verdict = None, None, Verdict(False)
    if rule.suspects(n=n, update_norm=update.norm, pooled=pooled):
        judge = partial(rule.judge, n=n, update_norm=update.norm, pooled=pooled)
        readings = None if written is None or journey.look_again else read_counts(written)
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
        journey.make_row(center, subjects, level=level, norm=update.norm, decision=decision)
        | list_columns(after)
        | {f"reference_{name}": value for name, value in list_columns(reference).items()}
        | {"exact": None if after is None else reference.exact and after.exact}
        | {"tolerance": verdict.tolerance, "norm_limit": verdict.norm_limit}
    )
    if written is None:
        journey.ledger.append(**row | {"seconds": time.perf_counter() - started})
    else:
        compare(row, written, journey.ledger)
        journey.written.popleft()
    return not verdict.harmful


def _is_close(rule: Rule, n: int, norm: float | None, *, pooled: bool) -> bool:
    """Return whether the attempt is suspicious, but would not be with half the norm: too close to go by a unit that was
    measured some steps ago."""
    if norm is None or not rule.suspects(n=n, update_norm=norm, pooled=pooled):
        return False
    return not rule.suspects(n=n, update_norm=norm / 2, pooled=pooled)


def _verify_step(
    journey: Journey, before: Any, center: str, subjects: tuple[str, ...], judge: Callable[..., Verdict]
) -> tuple[Reading, Reading]:
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
