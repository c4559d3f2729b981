"""The travelling model: the loop does what the paper's figure says, whoever the engine is; a run is made once."""

import json
import math
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from dqc_lib.aside import name_aside
from dqc_lib.cohort import Cohort, read_bids, write_bids
from dqc_lib.fisher import FLOOR, GradientScale
from dqc_lib.ledger import Ledger
from dqc_lib.networks import build_sfcn, load_sfcn
from dqc_lib.quality import CalibratedRule, Counts, DriftGuard, PublishedRule, Verdict, WatchingRule, replay
from dqc_lib.travelling import (
    Cycle,
    LocalCenters,
    RunFolder,
    Schedule,
    Study,
    Update,
    Visit,
    batches,
    group_by_center,
    outlook,
    plan_cycles,
    study,
    travel,
    watch,
    watching,
)
from dqc_lib.volumes import write_volume

SHAPE = (16, 16, 16)
NARROW = 0.0625  # 2-4-8-16-16-4 filters


class ScriptedCenters:
    """An engine without a network: the model is the tuple of the steps it took, and `answer` maps it to counts.

    A step without momentum is noted as "alone" in calls and in the model.
    """

    def __init__(self, answer=None, *, norms=None):
        self.answer, self.norms = answer or (lambda steps: Counts(0, 10, 0, 10)), norms or {}
        self.steps, self.calls = (), []

    def train(self, center, subjects, *, alone=False):
        self.calls.append(("alone" if alone else "train", center, tuple(subjects)))
        self.steps += (("alone", *subjects) if alone else tuple(subjects),)
        return Update(0.5, self.norms.get(tuple(subjects)))

    exact = True

    def verify(self, asks, harmful=None):
        self.calls.append(("verify", asks))
        counts = self.answer(self.steps)
        return {"A": counts, "B": Counts(0, 0, 0, 0, 0.0)}

    def snapshot(self):
        self.calls.append(("snapshot",))
        return self.steps

    def restore(self, snapshot):
        self.calls.append(("restore",))
        self.steps = snapshot

    def set_learning_rate(self, rate):
        self.calls.append(("rate", rate))

    def adjust_unit(self):
        self.calls.append(("unit",))
        return 1.0

    def names(self):
        """Return the calls by name alone."""
        return [call[0] for call in self.calls]


def count_harm(*harmful, per_step=2):
    """Return an answer in which every step on a harmful subject adds false positives out of ten."""

    def answer(steps):
        bad = sum(subject in harmful for step in steps for subject in step)
        return Counts(min(10, per_step * bad), 10, 0, 10)

    return answer


def make_plan(*cycles, rate=0.1):
    """Return cycles of one visit per batch; a batch is written "A: a1 a2"."""
    return tuple(
        Cycle(
            number,
            rate,
            tuple(Visit(center, (tuple(names.split()),)) for center, names in (text.split(":") for text in batches)),
        )
        for number, batches in enumerate(cycles)
    )


def run_loop(engine, plan, *, rule=None, **options):
    return travel(engine, plan, rule=rule, progress=False, **options)


def read_rows(ledger):
    """Return the ledger as short texts, such as "0 batch a1 bad: split"."""
    return [f"{row['cycle']} {row['level']} {' '.join(row['subjects'])}: {row['decision']}" for row in ledger.rows]


# the loop


def test_a_rejected_batch_is_rolled_back_and_its_images_are_tried_alone():
    engine = ScriptedCenters(count_harm("bad"))
    ledger, docket = run_loop(
        engine, make_plan(["A: a1 bad"]), rule=PublishedRule(tolerance=0.05), closing_revisit=False
    )
    assert read_rows(ledger) == ["0 batch a1 bad: split", "0 single a1: accepted", "0 single bad: deferred"]
    asked = ("verify", frozenset())
    whole = [("snapshot",), ("train", "A", ("a1", "bad"))]
    # nobody had verified the model before that step
    before = [("snapshot",), ("restore",), asked, ("snapshot",), ("restore",), asked]
    first = [("train", "A", ("a1",)), asked]  # the copy of the model is still there
    second = [("snapshot",), ("train", "A", ("bad",)), asked, ("restore",)]
    assert engine.calls == [("rate", 0.1), ("unit",), *whole, *before, ("restore",), *first, *second]
    assert engine.steps == (("a1",),), "only the accepted image may stay in the model"
    assert docket.due == {"bad": 2}


def test_a_deferred_image_is_left_out_for_two_cycles_tried_again_and_never_trained_once_eliminated():
    engine = ScriptedCenters(count_harm("bad"))
    plan = make_plan(*[["A: a1 bad", "B: b1"]] * 5)
    ledger, docket = run_loop(engine, plan, rule=PublishedRule(tolerance=0.05), revisit_after=2)
    assert read_rows(ledger) == [
        "0 batch a1 bad: split",
        "0 single a1: accepted",
        "0 single bad: deferred",
        "0 batch b1: accepted",
        "1 batch a1: accepted",
        "1 batch b1: accepted",
        "2 batch a1: accepted",
        "2 batch b1: accepted",
        "2 revisit bad: eliminated",
        "3 batch a1: accepted",
        "3 batch b1: accepted",
        "4 batch a1: accepted",
        "4 batch b1: accepted",
    ]
    assert (docket.eliminated, docket.due) == ({"bad"}, {})
    assert not any("bad" in step for step in engine.steps)


def test_an_image_that_passes_its_revisit_stays_in_the_model_and_returns_to_visits():
    def answer(steps):  # the image harms a young model only
        return Counts(10 if len(steps) < 3 and any("odd" in step for step in steps) else 0, 10, 0, 10)

    engine = ScriptedCenters(answer)
    plan = make_plan(*[["A: a1 odd"]] * 3)
    ledger, docket = run_loop(engine, plan, rule=PublishedRule(tolerance=0.05), revisit_after=1)
    assert read_rows(ledger) == [
        "0 batch a1 odd: split",
        "0 single a1: accepted",
        "0 single odd: deferred",
        "1 batch a1: accepted",
        "1 revisit odd: accepted",
        "2 batch a1 odd: accepted",
    ]
    assert engine.steps == (("a1",), ("a1",), ("odd",), ("a1", "odd"))
    assert (docket.eliminated, docket.due) == (set(), {})


def test_who_still_waits_at_the_end_is_tried_in_a_closing_revisit():
    finished = []
    engine = ScriptedCenters(count_harm("bad", "worse"))
    ledger, docket = run_loop(
        engine,
        make_plan(["A: a1 bad", "B: worse b1"]),
        rule=PublishedRule(tolerance=0.05),
        after_cycle=lambda cycle, counts: finished.append((cycle, counts and counts.fp)),
    )
    assert read_rows(ledger)[-2:] == ["0 revisit bad: eliminated", "0 revisit worse: eliminated"]
    assert [row["stage"] for row in ledger.rows] == ["control"] * 6 + ["closing"] * 2
    assert [row["center"] for row in ledger.rows[-2:]] == ["A", "B"]
    assert docket.eliminated == {"bad", "worse"}
    assert finished == [(0, 0), (0, 0)], "the model changes in the closing revisit, so the cycle is reported once more"


def test_without_a_closing_revisit_the_last_flags_stay_open():
    finished = []
    ledger, docket = run_loop(
        ScriptedCenters(count_harm("bad")),
        make_plan(["A: a1 bad"]),
        rule=PublishedRule(tolerance=0.05),
        closing_revisit=False,
        after_cycle=lambda cycle, counts: finished.append((cycle, counts and counts.fp)),
    )
    assert read_rows(ledger)[-1] == "0 single bad: deferred"
    assert (docket.due, docket.eliminated, finished) == ({"bad": 2}, set(), [(0, 0)])


def test_excluded_subjects_are_never_trained_on_and_an_emptied_batch_is_no_attempt():
    engine = ScriptedCenters()
    plan = make_plan(["A: a1 out a2", "B: out2"], ["B: out2 b1", "A: out"])
    ledger, _ = run_loop(engine, plan, exclude=["out", "out2"])
    assert read_rows(ledger) == ["0 batch a1 a2: accepted", "1 batch b1: accepted"]
    assert engine.steps == (("a1", "a2"), ("b1",))


def test_a_model_that_travels_unguarded_is_never_verified_and_never_rolled_back():
    engine = ScriptedCenters(count_harm("bad"))
    ledger, docket = run_loop(engine, make_plan(["A: a1 bad", "B: b1"], ["A: bad"]))
    assert engine.names() == ["rate", "unit", "train", "train", "rate", "unit", "train"]
    assert all(row["fp"] is None and row["reference_fp"] is None for row in ledger.rows)
    assert not docket.due


def test_a_rule_that_watches_verifies_every_attempt_and_accepts_it():
    engine = ScriptedCenters(count_harm("bad", "worse"))
    ledger, _ = run_loop(engine, make_plan(["A: a1 bad", "B: worse"]), rule=WatchingRule())
    assert read_rows(ledger) == ["0 batch a1 bad: accepted", "0 batch worse: accepted"]
    assert [(row["reference_fp"], row["fp"]) for row in ledger.rows] == [(0, 2), (2, 4)]
    assert engine.steps == (("a1", "bad"), ("worse",))


def test_the_reference_is_the_last_accepted_attempt_so_that_slow_decay_passes():
    engine = ScriptedCenters(count_harm("slow", per_step=1))
    plan = make_plan(["A: slow", "A: slow", "A: slow slow slow", "A: slow"])
    ledger, docket = run_loop(engine, plan, rule=PublishedRule(tolerance=0.1), closing_revisit=False)
    assert [(row["reference_fp"], row["fp"], row["decision"]) for row in ledger.rows] == [
        (0, 1, "accepted"),
        (1, 2, "accepted"),
        (2, 5, "accepted"),  # 0.2 + 3 x 0.1, not more
        (5, 6, "accepted"),
    ]
    assert not docket.due


def test_after_a_rejected_attempt_the_reference_is_what_it_was():
    script = {1: 4, 2: 9, 3: 4, 4: 0}  # false positives by number of the training call

    class Numbered(ScriptedCenters):
        def verify(self, asks, harmful=None):
            trained = self.names().count("train") if self.steps else 0
            self.calls.append(("verify", asks))
            return {"A": Counts(script.get(trained, 4), 10, 0, 10)}

    ledger, _ = run_loop(
        Numbered(),
        make_plan(["A: a1", "A: a2", "A: a3"]),
        rule=PublishedRule(tolerance=0.1),
        closing_revisit=False,
    )
    assert [(row["level"], row["reference_fp"], row["fp"], row["decision"]) for row in ledger.rows] == [
        ("batch", 4, 4, "accepted"),
        ("batch", 4, 9, "split"),
        ("single", 4, 4, "accepted"),
        ("batch", 4, 0, "accepted"),
    ]


SUSPECT = [  # the calibrated rule verifies the model before, and after the step without momentum
    *("snapshot", "train"),
    *("snapshot", "restore", "verify", "snapshot", "alone", "verify", "restore"),
]


def test_the_calibrated_rule_verifies_only_suspects_and_the_model_before_them():
    norms = {("a1",): 1.0, ("a2",): 19.0, ("a3",): 19.0, ("a4",): 5.0, ("a5",): 19.0}
    engine = ScriptedCenters(lambda steps: Counts(max(0, 8 - len(steps)), 10, 0, 10), norms=norms)
    plan = make_plan(["A: a1", "A: a2", "A: a3", "A: a4", "A: a5"])
    ledger, _ = run_loop(engine, plan, rule=CalibratedRule(5.0, acquittal=1))
    harmless = ["snapshot", "train"]
    assert engine.names() == ["rate", "unit", *harmless, *SUSPECT, *SUSPECT, *harmless, *SUSPECT]
    assert [(row["reference_fp"], row["fp"]) for row in ledger.rows] == [
        (None, None),
        (7, 6),
        (6, 5),
        (None, None),
        (4, 3),
    ]
    assert [row["norm_limit"] for row in ledger.rows] == [None, 5.0, 5.0, None, 5.0]
    assert [row["update_norm"] for row in ledger.rows] == [1.0, 19.0, 19.0, 5.0, 19.0]
    assert engine.steps == (("a1",), ("a2",), ("a3",), ("a4",), ("a5",)), "the steps with momentum stay"


def test_a_norm_that_is_close_to_the_limit_is_measured_again_on_the_model_as_it_is():
    """The unit of the norms was measured at the beginning of the cycle; one accepted step later it may be another."""

    class Growing(ScriptedCenters):
        def adjust_unit(self):
            if "train" in self.names():
                self.norms = {("a2",): 4.0, ("a3",): 19.0}
            return super().adjust_unit()

    engine = Growing(norms={("a1",): 1.0, ("a2",): 9.0, ("a3",): 19.0})
    ledger, _ = run_loop(engine, make_plan(["A: a1", "A: a2", "A: a3"]), rule=CalibratedRule(5.0, acquittal=1))
    assert [(row["update_norm"], row["decision"]) for row in ledger.rows[:3]] == [
        (1.0, "accepted"), (4.0, "accepted"), (19.0, "split"),
    ]  # fmt: skip
    names = engine.names()
    assert names[:9] == ["rate", "unit", "snapshot", "train", "snapshot", "train", "restore", "unit", "train"]
    assert names.count("unit") == 3, "not for the norm that is far beyond the limit, but before the closing revisit"
    assert engine.steps == (("a1",), ("a2",))


def test_a_close_norm_is_not_measured_again_while_the_model_has_not_moved():
    engine = ScriptedCenters(norms={("bad",): 9.0, ("worse",): 8.0})
    plan = make_plan(["A: bad", "A: worse"])
    run_loop(engine, plan, rule=CalibratedRule(5.0, acquittal=1), closing_revisit=False)
    assert engine.names().count("unit") == 1
    assert engine.steps == ()


def test_a_suspect_is_judged_by_its_step_without_the_momentum_of_others():
    def answer(steps):  # momentum alone harms
        return Counts(5 - sum(2 if "alone" in step else -1 for step in steps), 10, 0, 10)

    engine = ScriptedCenters(answer, norms={("a1",): 19.0})
    ledger, _ = run_loop(engine, make_plan(["A: a1"]), rule=CalibratedRule(5.0, acquittal=1))
    assert [(row["reference_fp"], row["fp"], row["decision"]) for row in ledger.rows] == [(5, 3, "accepted")]
    assert engine.steps == (("a1",),)


def test_a_suspect_that_is_not_acquitted_leaves_no_trace_in_the_model():
    engine = ScriptedCenters(norms={("a1",): 1.0, ("bad",): 19.0})
    plan, rule = make_plan(["A: a1", "A: bad", "A: a1"]), CalibratedRule(5.0, acquittal=1)
    ledger, docket = run_loop(engine, plan, rule=rule, closing_revisit=False)
    assert read_rows(ledger) == [
        "0 batch a1: accepted",
        "0 batch bad: split",
        "0 single bad: deferred",
        "0 batch a1: accepted",
    ]
    at = SUSPECT.index("verify")
    known = (SUSPECT.index("snapshot"), at, at + 1)  # the copy of the model before, its counts, the copy with them
    again = [name for number, name in enumerate(SUSPECT) if number not in known]
    assert engine.names() == [
        "rate", "unit", "snapshot", "train", *SUSPECT, "restore", *again, "restore", "train",
    ]  # fmt: skip
    assert engine.steps == (("a1",), ("a1",))
    assert set(docket.due) == {"bad"}
    assert [row["reference_fp"] for row in ledger.rows] == [None, 0, 0, None]


class NotingRule:
    """Flags whoever is named, and notes for every attempt whether its center was pooled."""

    asks, isolates = frozenset(), False

    def __init__(self, engine, *flagged):
        self.engine, self.flagged, self.noted = engine, set(flagged), []

    def suspects(self, *, n, update_norm, pooled=False):
        if self.engine.names()[-1] == "train":  # asked before the step too, whether there must be a way back
            _, center, subjects = self.engine.calls[-1]
            self.noted.append(("suspects", center, " ".join(subjects), pooled))
        return True

    def judge(self, *, n, update_norm, before, after, pooled=False):
        subjects = self.engine.steps[-1]
        self.noted.append(("judge", " ".join(subjects), pooled))
        return Verdict(not self.flagged.isdisjoint(subjects))


def test_the_rule_is_told_exactly_while_most_images_of_the_center_are_flagged():
    engine = ScriptedCenters()
    rule = NotingRule(engine, "a0", "a1", "a2")
    first = ["A: a0", "A: a1", "B: b0", "A: a2", "A: a3", "B: b0", "A: a4", "A: a5"]
    run_loop(engine, make_plan(first, ["A: a3", "B: b0"]), rule=rule, revisit_after=1, closing_revisit=False)
    asked = [note[1:] for note in rule.noted if note[0] == "suspects"]
    assert asked == [
        ("A", "a0", False), ("A", "a0", False), ("A", "a1", False), ("A", "a1", False), ("B", "b0", False),
        ("A", "a2", False), ("A", "a2", False),
        ("A", "a3", True), ("B", "b0", False), ("A", "a4", True), ("A", "a5", True),  # three of six are flagged
        ("A", "a3", True), ("B", "b0", False), ("A", "a0", True), ("A", "a1", True), ("A", "a2", True),  # the revisits
    ]  # fmt: skip
    judged = [note[1:] for note in rule.noted if note[0] == "judge"]
    assert judged == [(subject, pooled) for _, subject, pooled in asked]


def test_excluded_images_do_not_count_as_images_of_their_center():
    engine = ScriptedCenters()
    rule = NotingRule(engine, "a0", "a1", "a2")
    names = "a0", "a1", "a2", "a3", *(f"out{at}" for at in range(9))
    plan = make_plan([f"A: {name}" for name in names])
    run_loop(engine, plan, rule=rule, exclude=names[4:], closing_revisit=False)
    assert rule.noted[-1] == ("judge", "a3", True), "three of four"


def test_at_a_center_most_of_whose_images_are_flagged_the_calibrated_rule_is_stricter():
    norms = {("a0",): 20.0, ("a1",): 20.0, ("a2",): 20.0, ("a3",): 5.0, ("a4",): 5.0, ("b0",): 5.0, ("a5",): 3.0}
    batches = ["A: a0", "A: a3", "A: a1", "A: a2", "A: a4", "A: a5", "B: b0"]
    engine = ScriptedCenters(norms=norms)
    ledger, docket = run_loop(engine, make_plan(batches, ["A: a3"]), rule=CalibratedRule(10.0, 4.0), revisit_after=5)
    said = [f"{row['subjects'][0]} {row['decision']} {row['norm_limit']}" for row in ledger.rows]
    assert said == [
        "a0 split 10.0", "a0 deferred 10.0", "a3 accepted None", "a1 split 10.0", "a1 deferred 10.0",
        "a2 split 10.0", "a2 deferred 10.0", "a4 split 4.0", "a4 deferred 4.0", "a5 accepted None", "b0 accepted None",
        "a3 split 4.0", "a3 deferred 4.0",  # accepted before the center was pooled
        *(f"{name} eliminated 4.0" for name in ("a0", "a1", "a2", "a4", "a3")),
    ]  # fmt: skip
    assert docket.eliminated == {"a0", "a1", "a2", "a3", "a4"}
    calm, _ = run_loop(ScriptedCenters(norms=norms), make_plan(["A: a3", "A: a4", "A: a5"]), rule=CalibratedRule(10, 4))
    assert {row["decision"] for row in calm.rows} == {"accepted"}


def test_the_unit_of_update_norms_is_adjusted_before_every_cycle_and_the_closing_revisit():
    engine = ScriptedCenters(norms={("a1",): 1.0, ("bad",): 19.0})
    plan = make_plan(["A: a1"], ["A: a1", "A: bad"])
    run_loop(engine, plan, rule=CalibratedRule(5.0))
    names = [name for name in engine.names() if name in ("rate", "unit", "train")]
    assert names == ["rate", "unit", "train", "rate", "unit", *["train"] * 3, "unit", "train"]
    calm = ScriptedCenters()
    run_loop(calm, make_plan(["A: a1"], []), rule=PublishedRule())
    assert calm.names().count("unit") == 2, "nobody waits, so nothing is closed"


def test_losses_are_asked_for_only_by_a_rule_that_wants_them():
    engine = ScriptedCenters(lambda steps: Counts(1, 4, 1, 4, loss_sum=2.0 + 2.0 * len(steps)))
    ledger, _ = run_loop(engine, make_plan(["A: a1"]), rule=WatchingRule(asks=frozenset({"loss"})))
    assert [call for call in engine.calls if call[0] == "verify"] == [("verify", frozenset({"loss"}))] * 2
    assert (ledger.rows[0]["reference_loss"], ledger.rows[0]["loss"]) == (0.25, 0.5)


def test_each_attempt_is_a_row_with_all_that_decided_it():
    engine = ScriptedCenters(count_harm("bad"))
    ledger, _ = run_loop(
        engine, make_plan(["A: a1 bad"]), rule=PublishedRule(tolerance=0.05), stage="pretraining", closing_revisit=False
    )
    row = dict(ledger.rows[0])
    assert row.pop("seconds") >= 0
    assert row == {
        "cycle": 0,
        "stage": "pretraining",
        "level": "batch",
        "center": "A",
        "subjects": ["a1", "bad"],
        "n": 2,
        "update_norm": None,
        "fp": 2,
        "n_neg": 10,
        "fn": 0,
        "n_pos": 10,
        "loss": None,
        "reference_fp": 0,
        "reference_n_neg": 10,
        "reference_fn": 0,
        "reference_n_pos": 10,
        "reference_loss": None,
        "exact": True,
        "tolerance": 0.1,
        "norm_limit": None,
        "decision": "split",
    }


def test_replaying_a_run_through_its_own_rule_gives_its_own_decisions():
    rule = PublishedRule(tolerance=0.05)
    ledger, _ = run_loop(ScriptedCenters(count_harm("bad")), make_plan(*[["A: a1 bad", "B: b1"]] * 4), rule=rule)
    replayed = replay(ledger.to_frame(), rule)
    assert replayed["harmful"].sum() == 3
    assert replayed["replayed_harmful"].tolist() == replayed["harmful"].tolist()


def test_an_imposed_plan_is_followed_to_the_letter():
    plan = plan_cycles({"A": ["a1", "a2", "a3"], "B": ["b1"]}, learning_rates=[0.2, 0.1], batch_size=2, seed=3)
    engine, finished = ScriptedCenters(), []
    ledger, _ = run_loop(engine, plan, after_cycle=lambda cycle, counts: finished.append((cycle, counts and counts.fp)))
    imposed = [(c.number, v.center, list(batch)) for c in plan for v in c.visits for batch in v.batches]
    assert [(row["cycle"], row["center"], row["subjects"]) for row in ledger.rows] == imposed
    assert [call[1] for call in engine.calls if call[0] == "rate"] == [0.2, 0.1]
    assert finished == [(0, None), (1, None)], "nothing was verified"


def test_an_empty_plan_leaves_everything_as_it_is():
    engine = ScriptedCenters()
    ledger, docket = run_loop(engine, (), rule=PublishedRule())
    assert (len(ledger), docket.due, engine.calls) == (0, {}, [])


def test_progress_tells_cycle_center_and_decisions(capsys):
    travel(ScriptedCenters(), make_plan(["A: a1"], ["B: b1"]))
    shown = capsys.readouterr().err
    assert "control: 100%" in shown
    assert "2/2" in shown
    assert "cycle=1, center=B, accepted=2" in shown


# the plan


SUBJECTS = {"A": [f"a{i}" for i in range(7)], "B": ["b0", "b1", "b2"], "C": ["c0"], "empty": []}


def test_every_training_subject_is_visited_once_per_cycle_at_its_center():
    for cycle in plan_cycles(SUBJECTS, learning_rates=[1e-3] * 4, batch_size=3):
        assert sorted(visit.center for visit in cycle.visits) == ["A", "B", "C"]
        for visit in cycle.visits:
            assert sorted(subject for batch in visit.batches for subject in batch) == SUBJECTS[visit.center]


def test_the_last_batch_of_a_center_holds_what_is_left():
    (cycle,) = plan_cycles(SUBJECTS, learning_rates=[1e-3], batch_size=3)
    sizes = {visit.center: [len(batch) for batch in visit.batches] for visit in cycle.visits}
    assert sizes == {"A": [3, 3, 1], "B": [3], "C": [1]}


def test_centers_and_subjects_come_in_a_new_order_every_cycle():
    first, second = plan_cycles(SUBJECTS, learning_rates=[1e-3, 1e-3], seed=1)
    assert (first.number, second.number) == (0, 1)
    assert first.visits != second.visits
    orders = {tuple(v.center for v in c.visits) for c in plan_cycles(SUBJECTS, learning_rates=[1e-3] * 20)}
    assert len(orders) == 6, "20 draws of 3 centers should show all 6 orders"


def test_the_same_seed_gives_the_same_plan_and_another_seed_another():
    rates = [1e-3] * 3
    assert plan_cycles(SUBJECTS, learning_rates=rates, seed=5) == plan_cycles(SUBJECTS, learning_rates=rates, seed=5)
    assert plan_cycles(SUBJECTS, learning_rates=rates, seed=5) != plan_cycles(SUBJECTS, learning_rates=rates, seed=6)


def test_a_longer_plan_begins_like_a_shorter_one():
    rates = [0.1, 0.2, 0.3, 0.4]
    assert plan_cycles(SUBJECTS, learning_rates=rates)[:2] == plan_cycles(SUBJECTS, learning_rates=rates[:2])


def test_a_plan_needs_a_training_subject():
    with pytest.raises(ValueError, match="at least one training subject, got none"):
        plan_cycles({"A": []}, learning_rates=[1e-3])


def test_learning_rates_decay_in_two_parts():
    schedule = Schedule(
        warm_cycles=2, calm_cycles=1, control_cycles=2, learning_rate=0.01, decay=0.5, calm_learning_rate=0.001,
        calm_decay=0.25,
    )  # fmt: skip
    expected = [0.01, 0.01 * math.exp(-0.5), 0.001, 0.001 * math.exp(-0.25), 0.001 * math.exp(-0.5)]
    assert [schedule.rate(cycle) for cycle in range(5)] == pytest.approx(expected, rel=1e-12)
    assert schedule.pretraining_cycles == 3


def test_an_arm_can_look_at_an_image_once_per_control_cycle_and_when_it_closes():
    assert Schedule(control_cycles=8).looks == 9
    assert Schedule(control_cycles=0).looks == 1
    bad = ScriptedCenters(norms={("bad",): 19.0})
    rule = CalibratedRule(5.0, acquittal=1)
    for cycles in range(1, 7):
        ledger, _ = run_loop(bad, make_plan(*[["A: bad"]] * cycles), rule=rule, revisit_after=1)
        looks = [row for row in ledger.rows if row["level"] != "batch"]
        assert len(looks) <= Schedule(control_cycles=cycles).looks


def test_a_schedule_plans_training_subjects_only(tmp_path):
    table = make_table().assign(path="image.nii.gz")
    plan = Schedule(warm_cycles=1, calm_cycles=1, control_cycles=1).plan(Cohort(table, tmp_path))
    planned = {subject for cycle in plan for visit in cycle.visits for batch in visit.batches for subject in batch}
    assert len(plan) == 3
    assert planned == set(table.loc[table["role"] == "train", "subject"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warm_cycles": -1}, "Schedule.warm_cycles must be >= 0, got -1"),
        ({"calm_cycles": -1}, "Schedule.calm_cycles must be >= 0, got -1"),
        ({"control_cycles": -2}, "Schedule.control_cycles must be >= 0, got -2"),
        ({"warm_cycles": 0, "calm_cycles": 0, "control_cycles": 0}, "Schedule needs at least one cycle, got none"),
        ({"decay": -0.1}, "Schedule.decay must be a finite number >= 0, got -0.1"),
        ({"calm_decay": float("nan")}, "Schedule.calm_decay must be a finite number >= 0, got nan"),
        ({"dropout": -0.2}, "Schedule.dropout must be a finite number >= 0, got -0.2"),
        ({"batch_size": 0}, "Schedule.batch_size must be >= 1, got 0"),
        ({"revisit_after": 0}, "Schedule.revisit_after must be >= 1, got 0"),
        ({"precision": "half"}, r"Schedule.precision must be one of \('float32', 'bfloat16'\), got 'half'"),
        ({"learning_rate": 0.0}, "Schedule.learning_rate must be a finite number > 0, got 0.0"),
        ({"calm_learning_rate": float("nan")}, "Schedule.calm_learning_rate must be a finite number > 0, got nan"),
        ({"width": float("inf")}, "Schedule.width must be a finite number > 0, got inf"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Schedule(**options)


# centers in one process


HOSTILE = "<img src=x onerror=alert(1)>"

ROLES = {"train": 4, "verification": 2, "test": 1}


def make_table(roles=ROLES, *, silent=("north",)):
    """Return 4 centers: seven subjects each, of alternating diagnosis; those of `silent` centers do not verify."""
    rows = []
    for center in ("east", "west", "south", "north"):
        for role, n in roles.items():
            for _ in range(n):
                number = len(rows) + 1
                kept = "train" if role == "verification" and center in silent else role
                rows.append((f"sub-{number:02d}", center, number % 2, "FM"[number % 3 > 0], 60.0, "vendor A", kept))
    table = pd.DataFrame(rows, columns=["subject", "center", "diagnosis", "sex", "age", "scanner", "role"])
    harm = np.where(table["subject"].isin(["sub-01", "sub-09"]), "inversion", "")
    return table.assign(harm=harm, placement=np.where(harm != "", "single", ""))


def write_cohort(folder, table=None, *, shape=SHAPE):
    """Write blurred random volumes, brighter for the diseased, and return their cohort."""
    table = make_table() if table is None else table
    rng = np.random.default_rng(7)
    table = table.assign(path=[str(folder / name / "anat" / f"{name}_T1w.nii.gz") for name in table["subject"]])
    for row in table.itertuples():
        array = rng.integers(0, 100, shape) + 60 * row.diagnosis + (90 if row.harm else 0)
        write_volume(row.path, array.astype(np.uint8), affine=np.eye(4))
    write_bids(Cohort(table, folder), folder)
    return read_bids(folder)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return write_cohort(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def engine(cohort):
    """Return centers that no test trains without putting the model back."""
    return LocalCenters(cohort, build_sfcn(SHAPE, width=NARROW))


def read_state(engine):
    return [v.numpy() for v in (*engine.model.variables, *engine.model.optimizer.variables)]


def assert_same_state(engine, state):
    for now, before in zip(read_state(engine), state, strict=True):
        np.testing.assert_array_equal(now, before)


def test_each_center_answers_with_its_four_integers_and_nothing_else(engine, cohort):
    answers = engine.verify()
    table = cohort.table[cohort.table["role"] == "verification"]
    assert list(answers) == ["east", "west", "south"]
    for center, counts in answers.items():
        own = table[table["center"] == center]
        images = np.stack([engine.volumes[subject] for subject in own["subject"]])[..., None].astype(np.float32)
        called = np.asarray(engine.model(images, training=False))[:, 0] >= 0.5
        diseased = own["diagnosis"].to_numpy() == 1
        expected = Counts(
            int((called & ~diseased).sum()),
            int((~diseased).sum()),
            int((~called & diseased).sum()),
            int(diseased.sum()),
        )
        assert counts == expected
        assert counts.loss_sum is None


def test_a_score_at_the_threshold_is_called_diseased(engine):
    state = engine.snapshot()
    for variable in engine.model.get_layer("dense").variables:
        variable.assign(np.zeros(variable.shape))
    try:
        at, above = engine.verify(), LocalCenters(engine.cohort, engine.model, threshold=0.51).verify()
        losses = engine.verify(frozenset({"loss"}))
    finally:
        engine.restore(state)
    assert at["east"] == Counts(1, 1, 0, 1), "every score is 0.5, so everybody is called diseased"
    assert above["east"] == Counts(0, 1, 1, 1)
    assert losses["east"].loss_sum == pytest.approx(2 * math.log(2), rel=1e-6)


def test_verification_in_several_passes_gives_the_same_counts(engine, monkeypatch):
    whole = engine.verify()
    monkeypatch.setitem(batches.RESIDENT, "shared", 0)
    sizes, predict = [], engine.model.predict_on_batch
    monkeypatch.setattr(engine.model, "predict_on_batch", lambda images: sizes.append(len(images)) or predict(images))
    monkeypatch.setattr(batches, "CHUNK", 4)
    assert engine.verify() == whole
    monkeypatch.setattr(batches, "CHUNK_VOXELS", 3 * 16**3 + 1)
    assert engine.verify() == whole
    monkeypatch.setattr(batches, "CHUNK_VOXELS", 1)
    assert engine.verify() == whole
    assert sizes == [4, 2] + [3, 3] + [1] * 6, "whatever a volume's size, one fits"


@pytest.mark.parametrize(
    ("device", "room"),
    [("/device:CPU:0", "shared"), ("TFRT_CPU_0", "shared"), ("/device:GPU:0", "own"), ("cuda:0", "own")],
)
def test_how_many_images_stay_goes_by_whose_memory_it_is(engine, device, room, monkeypatch):
    import keras

    monkeypatch.setattr(keras.ops, "convert_to_tensor", lambda _: SimpleNamespace(device=device))
    for name in batches.RESIDENT:
        monkeypatch.setitem(batches.RESIDENT, name, 0)
    assert not batches.fits(engine.volumes, 1)
    monkeypatch.setitem(batches.RESIDENT, room, 3 * 4 * 16**3)
    assert batches.fits(engine.volumes, 3) and not batches.fits(engine.volumes, 4)


@pytest.mark.parametrize(("verifying", "first", "rate"), [("certain", 2, 3e-3), ("nearest", 4, 1e-3)])
def test_looking_at_fewer_images_decides_as_looking_at_all_does(cohort, verifying, first, rate, monkeypatch):
    monkeypatch.setattr(outlook, "FIRST", first)
    monkeypatch.setattr(outlook, "NEXT", 1)
    plan = plan_cycles(group_by_center(cohort), learning_rates=[rate, rate], batch_size=2, seed=1)
    runs = {}
    for way in ("full", verifying):
        engine = LocalCenters(cohort, build_sfcn(SHAPE, width=NARROW), verifying=way)
        engine.freeze()
        ledger, docket = run_loop(engine, plan, rule=PublishedRule(tolerance=0.05))
        runs[way] = (ledger.to_frame(), docket.eliminated, engine.passes, read_state(engine))
    (full, gone, all_passes, state), (fewer, *others) = runs["full"], runs[verifying]
    assert set(full["decision"]) >= {"accepted", "split"}
    assert full["decision"].tolist() == fewer["decision"].tolist()
    accepted = full["decision"] == "accepted"
    assert full["exact"].all() and not fewer["exact"].all(), "the ledger tells which counts were foreseen in part"
    if verifying == "certain":
        counts = ["fp", "fn", "reference_fp", "reference_fn"]
        pd.testing.assert_frame_equal(full.loc[accepted, counts], fewer.loc[accepted, counts])
    assert (others[0], others[1] < all_passes) == (gone, True)
    assert all(np.array_equal(a, b) for a, b in zip(state, others[2], strict=True))


@pytest.mark.parametrize("verifying", ["certain", "nearest"])
def test_each_score_that_is_looked_at_is_that_of_its_own_image(cohort, verifying):
    engine = LocalCenters(cohort, build_sfcn(SHAPE, width=NARROW), verifying=verifying)
    plain = LocalCenters(cohort, engine.model, volumes=engine.volumes)
    engine.verify()
    for threshold in (0.4, 0.5, 0.55, 0.6):
        engine.train("east", ["sub-01"])
        engine.threshold = plain.threshold = threshold
        assert engine.verify(frozenset(), lambda counts: None) == plain.verify(), "six images: all are looked at"


def test_a_question_opens_the_eyes_once_and_a_verification_without_one_every_time(cohort):
    engine = LocalCenters(cohort, build_sfcn(SHAPE, width=NARROW), verifying="nearest")
    assert not engine.exact
    before, state = engine.verify(), engine.snapshot()
    assert (engine.exact, engine.passes) == (True, 6)
    engine.train("east", ["sub-01"])
    assert not engine.exact
    engine.verify()
    engine.restore(state)
    assert engine.exact
    assert (engine.verify(frozenset(), lambda counts: None), engine.passes) == (before, 12)
    assert (engine.verify(), engine.passes) == (before, 18), "without a question nothing is taken for granted"
    engine.freeze()
    assert not engine.exact, "other normalization, other scores"


@pytest.mark.parametrize("rule", [PublishedRule(tolerance=0.0), CalibratedRule(1e-9, acquittal=1)])
def test_what_is_known_of_a_model_is_known_again_when_it_is_put_back(cohort, rule, monkeypatch):
    monkeypatch.setattr(outlook, "FIRST", 2)
    engine = LocalCenters(cohort, build_sfcn(SHAPE, width=NARROW), verifying="nearest")
    engine.freeze()
    engine.scale = engine.make_scale()
    engine.scale.add(engine.read_gradient("sub-01"), fold="all")
    asked, verify = [], engine.verify
    engine.verify = lambda *question: asked.append((engine.passes, verify(*question), engine.passes)) or asked[-1][1]
    monkeypatch.setattr(type(rule), "suspects", lambda self, **evidence: True)
    monkeypatch.setattr(type(rule), "judge", lambda self, **evidence: Verdict(True))
    plan = plan_cycles(group_by_center(cohort), learning_rates=[1e-4], batch_size=2)
    ledger, _ = run_loop(engine, plan, rule=rule, closing_revisit=False)
    assert {row["decision"] for row in ledger.rows} == {"split", "deferred"}
    looked = [after - before for before, _, after in asked]
    assert looked[0] == 6, "nothing was known of the model"
    assert set(looked[1:]) == {2}, "then its scores are, however often it is put back"


def test_a_copy_of_the_model_serves_until_the_model_moves_and_never_brings_back_an_old_learning_rate(engine):
    class Rejecting(WatchingRule):
        def judge(self, **evidence):
            return Verdict(True)

    state, taken = engine.snapshot(), []
    plan = plan_cycles({"east": ["sub-01", "sub-02", "sub-03"]}, learning_rates=[0.25, 0.125], batch_size=3)
    snapshot = engine.snapshot
    engine.snapshot = lambda: taken.append(1) or snapshot()
    try:
        ledger, _ = run_loop(engine, plan, rule=Rejecting(), revisit_after=1)
        assert float(engine.model.optimizer.learning_rate) == 0.125
    finally:
        del engine.snapshot
        engine.restore(state)
    assert [row["decision"] for row in ledger.rows] == ["split"] + ["deferred"] * 3 + ["eliminated"] * 3
    assert len(taken) == 4, "one for each cycle, and for the first step, before which nobody had verified, two more"


def test_an_unknown_way_to_verify_is_refused(cohort, tmp_path):
    message = r"verifying must be one of \('full', 'certain', 'nearest'\), got 'some'"
    with pytest.raises(ValueError, match=message):
        LocalCenters(cohort, build_sfcn(SHAPE, width=NARROW), verifying="some")
    with pytest.raises(ValueError, match=message):
        Study(cohort, folder=tmp_path, verifying="some")


def test_the_ground_truth_on_harm_does_not_enter_the_engine(engine, cohort):
    assert cohort.harmful == {"sub-01", "sub-09"}
    assert not {"harm", "placement"} & set(engine.cohort.table)
    assert not {"harm", "placement", "path"} & set(engine.score("test"))


def test_scores_come_for_the_role_asked_for(engine, cohort):
    scores = engine.score("test")
    assert list(scores["subject"]) == list(cohort.table.loc[cohort.table["role"] == "test", "subject"])
    assert scores["score"].between(0, 1).all()


def test_a_subject_of_another_center_is_refused(engine):
    with pytest.raises(ValueError, match=r"center 'east' does not hold \['sub-08', 'nobody'\]"):
        engine.train("east", ["sub-01", "sub-08", "nobody"])


@pytest.mark.parametrize("subject", ["sub-05", "sub-07"], ids=["verification", "test"])
def test_a_subject_that_verifies_or_tests_is_never_trained_on(engine, subject):
    state = read_state(engine)
    with pytest.raises(ValueError, match=rf"center 'east' does not hold \['{subject}'\] as training subjects"):
        engine.train("east", ["sub-01", subject])
    assert_same_state(engine, state)


def test_a_center_without_verification_subjects_is_noted_once(engine):
    assert [note for note in engine.notes if "north" in note] == [
        "1 center trains without verification subjects, judged by the other centers: north."
    ]


def test_volumes_that_the_model_does_not_expect_are_refused(cohort):
    with pytest.raises(ValueError, match=r"model expects volumes of \(16, 16, 20\), those of the cohort have \(16, 16"):
        LocalCenters(cohort, build_sfcn((16, 16, 20), width=NARROW))


def test_a_cohort_without_roles_is_refused(cohort, engine):
    with pytest.raises(ValueError, match="column 'role' is missing"):
        LocalCenters(cohort.replace(cohort.table.drop(columns="role")), engine.model)


def test_subjects_are_grouped_by_center_in_the_order_of_the_table(cohort):
    groups = group_by_center(cohort, role="test")
    assert groups == {"east": ["sub-07"], "west": ["sub-14"], "south": ["sub-21"], "north": ["sub-28"]}


def test_a_step_at_a_center_moves_the_model_and_restoring_brings_it_back(engine):
    state, snapshot = read_state(engine), engine.snapshot()
    update = engine.train("east", ["sub-01", "sub-02"])
    assert update.norm is None, "no cycle has been watched, so nothing is measured"
    assert update.loss > 0
    assert any((now != before).any() for now, before in zip(read_state(engine), state, strict=True))
    engine.restore(snapshot)
    assert_same_state(engine, state)


def test_a_step_alone_follows_no_earlier_step(cohort):
    def step_after(earlier, *, alone):
        engine = LocalCenters(cohort, build_sfcn(SHAPE, width=NARROW, dropout=0.0))
        weights = engine.model.get_weights()
        if earlier:
            engine.train("west", earlier)
            engine.model.set_weights(weights)  # what stays of the earlier step is Adam's memory of it
        engine.train("east", ["sub-01"], alone=alone)
        state = engine.model.optimizer.variables
        return [[v.numpy() for v in state if v.path.endswith(ending)] for ending in ("momentum", "velocity")]

    def are_equal(first, second):
        return all((a == b).all() for a, b in zip(first, second, strict=True))

    fresh, alone = step_after([], alone=False), step_after(["sub-08"], alone=True)
    carried = step_after(["sub-08"], alone=False)
    assert are_equal(alone[0], fresh[0])
    assert not are_equal(carried[0], fresh[0])
    assert are_equal(alone[1], carried[1]), "the second moments are kept"
    assert not are_equal(alone[1], fresh[1])


@pytest.fixture(scope="module")
def watched(cohort):
    """Return centers that have watched a cycle, and its rows; no test leaves the model changed."""
    engine = LocalCenters(cohort, build_sfcn(SHAPE, width=NARROW))
    engine.freeze()
    cycle = Cycle(0, 1e-3, (EAST, Visit("west", (("sub-08", "sub-09"), ("sub-10", "sub-11")))))
    return engine, watch(engine, cycle, progress=False)


EAST = Visit("east", (("sub-01", "sub-02", "sub-03"), ("sub-04",)))


def test_a_batch_reports_the_norm_of_its_most_unusual_image_whatever_the_order(watched):
    engine, _ = watched
    snapshot = engine.snapshot()

    def measure(*subjects, **options):
        engine.restore(snapshot)
        return engine.train("east", subjects, **options).norm

    try:
        alone = {name: measure(name) for name in ("sub-01", "sub-02", "sub-03", "sub-04")}
        assert len(set(alone.values())) == 4
        for names in (("sub-01", "sub-02"), ("sub-02", "sub-01"), tuple(alone), tuple(reversed(alone))):
            assert measure(*names) == max(alone[name] for name in names)
            assert measure(*names, alone=True) == measure(*names), "measured before the step, momentum or not"
        engine.restore(snapshot)
        assert alone["sub-02"] == engine.scale.measure(engine.read_gradient("sub-02")) > 0
    finally:
        engine.restore(snapshot)


def test_labels_have_no_part_in_the_norm(watched, cohort):
    engine, _ = watched
    table = cohort.table.assign(diagnosis=1 - cohort.table["diagnosis"])
    other = LocalCenters(cohort.replace(table), engine.model, volumes=engine.volumes)
    other.scale = engine.scale
    snapshot = engine.snapshot()
    ours = engine.train("east", ["sub-01", "sub-02"])
    engine.restore(snapshot)
    theirs = other.train("east", ["sub-01", "sub-02"])
    engine.restore(snapshot)
    assert ours.norm == theirs.norm
    assert ours.loss != theirs.loss


def size_images(engine, monkeypatch, sizes):
    """Let the gradient of every image be a single number, and the mean square of good ones 1."""
    monkeypatch.setattr(engine, "read_gradient", lambda subject: np.array([sizes.get(subject, 2.0)]))
    scale = GradientScale()
    scale.add(np.array([1.0]), fold="all")
    monkeypatch.setattr(engine, "scale", scale)
    monkeypatch.setattr(engine, "_unit", 1.0)
    return scale


def test_the_unit_is_the_rise_of_the_typical_norm_of_verification_images(engine, monkeypatch):
    assert engine.adjust_unit() == 1.0, "nothing was watched, so there is nothing to compare with"
    verifying = ["sub-05", "sub-06", "sub-12", "sub-13", "sub-19", "sub-20"]
    sizes = dict(zip(verifying, [1.0, 2.0, 4.0, 8.0, 16.0, 32.0], strict=True)) | {"sub-01": 30.0}
    scale = size_images(engine, monkeypatch, sizes)
    one = 1 / math.sqrt(1 + FLOOR)  # the norm of a gradient of 1
    assert engine.measure_verification() == pytest.approx(2**2.5 * one)  # 1 x 2 x ... x 32 = 2**15, the sixth root
    scale.reference = 2**0.5 * one
    assert engine.adjust_unit() == pytest.approx(4.0)
    state, snapshot = read_state(engine), engine.snapshot()
    assert engine.train("east", ["sub-01", "sub-02"]).norm == pytest.approx(30 * one / 4)
    engine.restore(snapshot)
    assert_same_state(engine, state)
    scale.reference = 2**2.5 * one
    assert engine.adjust_unit() == pytest.approx(1.0), "the unit follows the model, not the unit before"


def test_a_unit_that_cannot_be_known_is_one(engine, monkeypatch, tmp_path):
    scale = size_images(engine, monkeypatch, {})
    scale.save(tmp_path / "scale.npz")
    monkeypatch.setattr(engine, "scale", GradientScale.load(tmp_path / "scale.npz"))
    assert math.isnan(engine.scale.reference)
    assert engine.adjust_unit() == 1.0
    engine.scale.reference = 1.0
    assert engine.adjust_unit() == pytest.approx(2.0, rel=1e-3)
    monkeypatch.setattr(engine, "read_gradient", lambda subject: np.array([math.nan]))
    assert engine.adjust_unit() == 1.0, "a model that diverged"
    monkeypatch.setattr(engine, "read_gradient", lambda subject: np.array([0.0]))
    assert engine.adjust_unit() == 1.0, "a model that is moved by nothing"


def test_verification_images_that_are_moved_by_nothing_or_diverged_do_not_count_in_the_unit(engine, monkeypatch):
    size_images(engine, monkeypatch, {"sub-05": 0.0, "sub-06": math.nan, "sub-12": math.inf, "sub-13": 32.0})
    assert engine.measure_verification() == pytest.approx(128 ** (1 / 3) / math.sqrt(1 + FLOOR))  # of 32, 2 and 2


def test_an_image_whose_gradient_diverged_makes_the_norm_of_its_batch_suspicious(engine, monkeypatch):
    size_images(engine, monkeypatch, {"sub-02": math.nan, "sub-03": math.inf})
    snapshot, rule = engine.snapshot(), CalibratedRule(1e9)
    for names in (["sub-01", "sub-02"], ["sub-02", "sub-03"], ["sub-03", "sub-01"]):
        norm = engine.train("east", names).norm
        engine.restore(snapshot)
        assert not math.isfinite(norm)
        assert rule.suspects(n=2, update_norm=norm)


def test_norms_of_a_model_that_has_not_changed_have_the_unit_one(watched):
    engine, _ = watched
    state = read_state(engine)
    assert engine.adjust_unit() == 1.0
    assert_same_state(engine, state)
    rows = [
        engine.scale.measure(engine.read_gradient(name)) for names in engine.verification.values() for name in names
    ]
    assert engine.scale.reference == pytest.approx(math.prod(rows) ** (1 / len(rows)))


def test_watching_measures_every_image_once_and_leaves_the_model_as_it_was(cohort):
    engine = LocalCenters(cohort, build_sfcn(SHAPE, width=NARROW))
    engine.set_learning_rate(0.01)
    engine.freeze()
    state = read_state(engine)
    cycle = Cycle(7, 1e-3, (EAST, Visit("west", (("sub-08", "sub-09"), ("sub-10", "sub-11")))))
    ledger = Ledger()
    rows = watch(engine, cycle, exclude=["sub-01", "sub-10"], ledger=ledger, progress=False)
    assert_same_state(engine, state)
    seen = [(row["center"], *row["subjects"]) for row in rows.to_dict("records")]
    trained = [("east", "sub-02"), ("east", "sub-03"), ("east", "sub-04"), ("west", "sub-08")]
    trained += [("west", "sub-09"), ("west", "sub-11")]
    unseen = [
        (center, name) for center, names in group_by_center(cohort, role="verification").items() for name in names
    ]
    assert sorted(seen) == sorted([*trained, *unseen])
    assert np.isfinite(rows["update_norm"]).all()
    assert (rows["update_norm"] > 0).sum() > 9, "at most one of them leaves every filter silent"
    assert (set(rows["stage"]), set(rows["decision"])) == ({"watch"}, {"accepted"})
    assert (set(rows["level"]), set(rows["n"]), set(rows["cycle"])) == ({"single"}, {1}, {7})
    assert rows["fp"].isna().all()
    assert len(ledger) == len(rows)
    snapshot = engine.snapshot()
    assert engine.train("east", ["sub-02"]).norm > 0, "from now on updates are measured"
    engine.restore(snapshot)
    again = watch(engine, cycle, exclude=["sub-01", "sub-10"], ledger=Ledger(), progress=False)
    pd.testing.assert_frame_equal(again.drop(columns="seconds"), rows.drop(columns="seconds"))


class WatchedCenters:
    """An engine of which each image's gradient is a number; v1 and v2 verify."""

    scale = "left over from an earlier watch"
    verification = {"A": ["v1"], "C": ["v2"]}
    gradients = {"a1": 1.0, "a2": 3.0, "b1": 10.0, "v1": 6.0, "v2": 1.5}

    def read_gradient(self, subject):
        return np.array([self.gradients[subject]])

    def make_scale(self):
        return GradientScale()

    sum_squares, measure_images = LocalCenters.sum_squares, LocalCenters.measure_images


def test_a_watched_image_is_not_measured_against_its_own_fold_and_a_verification_image_against_all(monkeypatch):
    monkeypatch.setattr(watching, "FOLDS", 2)  # a1 and b1; a2
    engine = WatchedCenters()
    rows = watch(engine, make_plan(["A: a1 a2", "B: b1"])[0], progress=False)
    norms = {" ".join(subjects): norm for subjects, norm in zip(rows["subjects"], rows["update_norm"], strict=True)}
    everybody = math.sqrt((1 + 9 + 100) / 3)
    expected = {"a1": 1 / 3, "b1": 10 / 3, "a2": 3 / math.sqrt(101 / 2), "v1": 6 / everybody, "v2": 1.5 / everybody}
    assert norms == pytest.approx(expected, rel=1e-3)
    assert dict(zip(rows["subjects"].str[0], rows["center"], strict=True))["v2"] == "C"
    assert engine.scale.measure(np.array([1.0])) == pytest.approx(1 / everybody, rel=1e-3)
    assert engine.scale.reference == pytest.approx(3 / everybody, rel=1e-3), "6 and 1.5 by the whole scale"


def test_few_watched_images_are_each_measured_against_all_others():
    rows = watch(WatchedCenters(), make_plan(["A: a1 a2", "B: b1"])[0], progress=False)
    norms = {" ".join(subjects): norm for subjects, norm in zip(rows["subjects"], rows["update_norm"], strict=True)}
    expected = {"a1": 1 / math.sqrt(109 / 2), "a2": 3 / math.sqrt(101 / 2), "b1": 10 / math.sqrt(5)}
    assert {name: norms[name] for name in expected} == pytest.approx(expected, rel=1e-3)


def test_freezing_averages_over_the_training_images_of_all_but_the_excluded(cohort):
    engine = LocalCenters(cohort, build_sfcn(SHAPE, width=NARROW))
    out = ["sub-01", "sub-22"]
    engine.freeze(exclude=out)
    rows = cohort.table[(cohort.table["role"] == "train") & ~cohort.table["subject"].isin(out)]
    images = np.stack([engine.volumes[subject] for subject in rows["subject"]])[..., None].astype(np.float32)
    features = np.asarray(engine.model.get_layer("conv1")(images), dtype=np.float64)
    norm = engine.model.get_layer("norm1")
    np.testing.assert_allclose(norm.moving_mean.numpy(), features.mean((0, 1, 2, 3)), rtol=1e-4)
    np.testing.assert_allclose(norm.moving_variance.numpy(), features.var((0, 1, 2, 3)), rtol=1e-4)
    assert norm.frozen


# studies


SCHEDULE = Schedule(
    warm_cycles=1,
    calm_cycles=1,
    control_cycles=2,
    learning_rate=1e-2,
    calm_learning_rate=3e-2,
    batch_size=3,
    revisit_after=1,
    width=NARROW,
)
STRICT = PublishedRule(tolerance=0.0)


def open_study(cohort, folder, schedule=SCHEDULE):
    return Study(cohort, schedule=schedule, folder=folder, progress=False)


@pytest.fixture(scope="module")
def arms(cohort, tmp_path_factory):
    """Return the folder and the three arms of a small study, computed once."""
    folder = tmp_path_factory.mktemp("runs")
    tiny = open_study(cohort, folder)
    return folder, {"clean": tiny.run("clean"), "dirty": tiny.run("dirty"), "qc": tiny.run("qc", rule=STRICT)}


def list_attempts(ledger):
    return list(zip(ledger["cycle"], ledger["center"], map(tuple, ledger["subjects"]), strict=True))


def test_the_clean_arm_is_the_dirty_arm_without_the_harmful_subjects(arms, cohort):
    dirty, clean = (list_attempts(arms[1][name].ledger) for name in ("dirty", "clean"))
    assert cohort.harmful & {subject for _, _, subjects in dirty for subject in subjects}
    without = [
        (cycle, center, tuple(s for s in subjects if s not in cohort.harmful)) for cycle, center, subjects in dirty
    ]
    assert clean == [attempt for attempt in without if attempt[2]]


def test_the_guarded_arm_meets_the_same_batches_in_the_same_order_until_it_rejects_one(arms):
    dirty, guarded = arms[1]["dirty"].ledger, arms[1]["qc"].ledger
    rejected = int((guarded["decision"] != "accepted").to_numpy().argmax())
    assert guarded["decision"].iloc[rejected] == "split"
    assert list_attempts(guarded)[: rejected + 1] == list_attempts(dirty)[: rejected + 1]


def test_an_arm_scores_subjects_of_another_cohort_with_the_model_of_each_of_its_cycles(arms, cohort):
    arm = arms[1]["qc"]
    tested = cohort.select(role="test")
    scored = arm.score(tested)
    known = arm.predictions[arm.predictions["cycle"] >= 2]
    assert list(scored.columns) == list(known.columns)
    keys = ["cycle", "subject"]
    both = scored.merge(known[[*keys, "score"]], on=keys, suffixes=("", "_then"))
    assert len(both) == len(scored) == len(known)
    np.testing.assert_allclose(both["score"], both["score_then"], rtol=1e-5)
    assert set(scored["arm"]) == {"qc"}


def test_an_arm_is_not_tested_on_subjects_it_trained_on(arms, cohort):
    with pytest.raises(ValueError, match="the arm 'clean' has met 1 of the subjects, 'sub-02' first"):
        arms[1]["clean"].score(cohort.select(subjects=["sub-02", "sub-07"]))


def test_an_arm_whose_models_are_gone_says_so(arms, cohort, tmp_path):
    arm = replace(arms[1]["clean"], folder=tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no model of any cycle"):
        arm.score(cohort.select(role="test"))


def test_an_arm_refuses_volumes_of_another_shape(arms, cohort, tmp_path):
    row = cohort.table[cohort.table["role"] == "test"].iloc[[0]].assign(path=str(tmp_path / "small.nii.gz"))
    write_volume(row["path"].iloc[0], np.arange(8.0, dtype=np.float32).reshape(2, 2, 2), affine=np.eye(4))
    with pytest.raises(ValueError, match=r"expects volumes of \(16, 16, 16\), came \(2, 2, 2\)"):
        arms[1]["clean"].score(cohort.replace(row))


def test_a_cohort_without_test_subjects_trains_and_has_no_history(cohort, tmp_path):
    table = cohort.table[cohort.table["role"] != "test"]
    arm = open_study(cohort.replace(table), tmp_path).run("dirty")
    assert len(arm.ledger)
    assert arm.history.empty
    assert {"arm", "cycle", "subgroup", "group", "n", "auroc"} <= set(arm.history.columns)
    assert math.isnan(arm.auroc())


def test_all_arms_start_from_the_same_clean_pretraining(arms, cohort):
    folder, results = arms
    start = open_study(cohort, folder).pretrain()
    assert set(start.ledger["stage"]) == {"pretraining", "watch"}
    assert not cohort.harmful & {subject for subjects in start.ledger["subjects"] for subject in subjects}
    early = start.predictions.drop(columns="arm").reset_index(drop=True)
    for name, arm in results.items():
        predictions = arm.predictions
        assert set(predictions["arm"]) == {name}
        assert sorted(predictions["cycle"].unique()) == [0, 1, 2, 3]
        before = predictions[predictions["cycle"] < 2].drop(columns="arm").reset_index(drop=True)
        pd.testing.assert_frame_equal(before, early)


def watch_nothing(engine, *args, **options):
    engine.scale = GradientScale()
    engine.scale.add(np.ones(3), fold="nowhere")


def test_harmful_images_have_no_part_in_the_frozen_statistics(cohort, tmp_path, monkeypatch):
    out = []
    monkeypatch.setattr(study.Study, "_travel", lambda *args, **options: None)
    monkeypatch.setattr(study, "watch", watch_nothing)
    monkeypatch.setattr(LocalCenters, "freeze", lambda self, *, exclude: out.append(exclude))
    open_study(cohort, tmp_path).pretrain()
    assert out == [cohort.harmful]


def test_an_arm_tells_its_metrics_and_whom_it_eliminated(arms):
    arm = arms[1]["qc"]
    gone = arm.ledger.loc[arm.ledger["decision"] == "eliminated", "subjects"]
    assert arm.eliminated == {subject for (subject,) in gone}
    last = arm.predictions[arm.predictions["cycle"] == 3]
    pairs = [
        (p > n) + 0.5 * (p == n)
        for p in last.loc[last["diagnosis"] == 1, "score"]
        for n in last.loc[last["diagnosis"] == 0, "score"]
    ]
    assert arm.auroc() == pytest.approx(np.mean(pairs))


def test_every_cycle_leaves_its_model(arms):
    for arm in arms[1].values():
        assert sorted(path.name for path in arm.folder.glob("*.keras")) == ["cycle-002.keras", "cycle-003.keras"]


def refuse_to_travel(*args, **options):
    raise AssertionError("nothing should be trained")


def test_a_finished_run_is_read_and_not_trained_again(arms, cohort, monkeypatch):
    folder, results = arms
    monkeypatch.setattr(study, "travel", refuse_to_travel)
    monkeypatch.setattr(study, "watch", refuse_to_travel)
    again = open_study(cohort, folder).run("qc", rule=STRICT)
    pd.testing.assert_frame_equal(again.ledger, results["qc"].ledger)
    pd.testing.assert_frame_equal(again.predictions, results["qc"].predictions)
    assert again.folder == results["qc"].folder


@pytest.mark.parametrize(
    "change", [{"learning_rate": 2e-2}, {"control_cycles": 3}, {"seed": 1}, {"revisit_after": 2}], ids=str
)
def test_another_schedule_is_another_run(arms, cohort, monkeypatch, change):
    monkeypatch.setattr(study, "travel", refuse_to_travel)
    settings = {**SCHEDULE.__dict__, **change}
    with pytest.raises(AssertionError, match="nothing should be trained"):
        open_study(cohort, arms[0], Schedule(**settings)).pretrain()


def test_another_rule_and_another_cohort_are_other_runs(arms, cohort, monkeypatch):
    folder, _ = arms
    monkeypatch.setattr(study, "travel", refuse_to_travel)
    with pytest.raises(AssertionError, match="nothing should be trained"):
        open_study(cohort, folder).run("qc", rule=PublishedRule(tolerance=0.01))
    other = cohort.replace(cohort.table.assign(harm="", placement=""))
    with pytest.raises(AssertionError, match="nothing should be trained"):
        open_study(other, folder).pretrain()


def test_an_image_with_other_voxels_makes_another_run(tmp_path, monkeypatch):
    cohort = write_cohort(tmp_path / "cohort")
    ran = collect_runs(monkeypatch)
    tiny = open_study(cohort, tmp_path / "runs")
    tiny.pretrain()
    assert len(set(ran)) == 1
    tiny.pretrain()
    assert len(ran) == 2, "warm and calm cycles, once"
    for number, runs in ((0, 1), (1, 2)):  # the first is harmful, and no part of the pre-training
        path = cohort.table["path"][number]
        write_volume(path, np.arange(16**3).reshape(SHAPE).astype(np.float32), affine=np.eye(4))
        tiny.pretrain()
        assert len(set(ran)) == runs


def test_a_limit_far_above_all_watched_updates_is_warned_of(arms, cohort, caplog):
    tiny = open_study(cohort, arms[0])
    tiny.make_rule("calibrated", reach=0.0)
    assert not [record for record in caplog.records if "limit" in record.getMessage()]
    rule = tiny.make_rule("calibrated", reach=50.0)
    watched = tiny.pretrain().ledger.query("stage == 'watch'")["update_norm"].max()
    times = rule.limit / watched
    assert times > 10
    assert f"lies {times:.0f} times above the largest watched update" in caplog.records[-1].getMessage()


def test_a_study_says_which_centers_cannot_verify(cohort, tmp_path, caplog):
    open_study(cohort, tmp_path)
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "1 center trains without verification subjects, judged by the other centers: north."
    ]


def test_two_arms_under_one_name_are_two_runs(arms, cohort, monkeypatch):
    folder, results = arms
    tiny = open_study(cohort, folder)
    recorded = []
    monkeypatch.setattr(study, "travel", lambda *args, **options: recorded.append(options["exclude"]))
    monkeypatch.setattr(RunFolder, "finish", lambda self: None)
    monkeypatch.setattr(study.Study, "_read", lambda self, name, run: results["dirty"])
    tiny.run("clean", name="mine")
    tiny.run("dirty", name="mine")
    assert recorded == [cohort.harmful, ()]
    assert len(list(folder.glob("mine-*"))) == 2


def test_the_same_seed_gives_every_arm_the_same_bits_again(arms, cohort, tmp_path):
    again, drop = open_study(cohort, tmp_path), {"columns": "seconds"}
    for name, arm in arms[1].items():
        other = again.run(name, rule=STRICT if name == "qc" else None)
        pd.testing.assert_frame_equal(other.ledger.drop(**drop), arm.ledger.drop(**drop), check_exact=True)
        pd.testing.assert_frame_equal(other.predictions, arm.predictions, check_exact=True)
        models = [load_sfcn(max(folder.glob("cycle-*.keras"))) for folder in (other.folder, arm.folder)]
        state = [[*model.variables, *model.optimizer.variables] for model in models]
        assert len(state[0]) == len(state[1]) > 20
        assert all(np.array_equal(one, two) for one, two in zip(*state, strict=True)), name


def test_a_run_that_was_interrupted_after_a_cycle_is_continued(arms, cohort, monkeypatch):
    folder, results = arms
    tiny = open_study(cohort, folder)

    def travel_half_way(engine, plan, *, closing_revisit=True, **options):
        travel(engine, plan[:1], closing_revisit=False, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(study, "travel", travel_half_way)
        with pytest.raises(KeyboardInterrupt):
            tiny.run("qc", rule=STRICT, name="killed")
    (half,) = folder.glob("killed-*")
    assert not json.loads((half / "run.json").read_text())["finished"]
    assert len(Ledger.read(half / "ledger.jsonl")) > 0
    arm = tiny.run("qc", rule=STRICT, name="killed")
    assert arm.folder == half
    assert json.loads((half / "run.json").read_text())["finished"]
    pd.testing.assert_frame_equal(arm.ledger.drop(columns="seconds"), results["qc"].ledger.drop(columns="seconds"))
    assert sorted(arm.predictions["cycle"].unique()) == [0, 1, 2, 3]


def test_the_calibrated_rule_takes_its_limit_from_the_watched_cycle(arms, cohort):
    folder, _ = arms
    tiny = open_study(cohort, folder)
    watched = tiny.pretrain().ledger.query("stage == 'watch'")
    rule = tiny.make_rule("calibrated")
    logs = np.sort(np.log(watched["update_norm"]))
    at = 0.9 * (len(logs) - 1)  # the 90th percentile lies between two of them
    high = logs[int(at)] + (at % 1) * (logs[int(at) + 1] - logs[int(at)])
    assert math.log(rule.pooled_limit) == pytest.approx((high + math.log(rule.limit)) / 2)
    assert math.log(rule.limit) == pytest.approx(high + 4 * (high - np.median(logs)))
    arm = tiny.run("qc", rule="calibrated", name="calibrated")
    assert (arm.ledger["update_norm"] >= 0).all()
    limits = arm.ledger["norm_limit"].fillna(rule.limit)
    assert set(limits) <= {rule.limit, rule.pooled_limit}
    assert (arm.ledger["update_norm"] > limits).tolist() == arm.ledger["fp"].notna().tolist(), "suspects are verified"
    assert set(arm.predictions["arm"]) == {"calibrated"}


def test_updates_are_measured_only_for_a_rule_that_asks_for_it(arms):
    assert all(arm.ledger["update_norm"].isna().all() for arm in arms[1].values())
    assert "update norm" not in STRICT.asks | WatchingRule().asks
    assert "update norm" in CalibratedRule(1.0).asks


def test_the_guaranteed_rule_knows_how_often_an_arm_can_look(arms, cohort):
    tiny = open_study(cohort, arms[0])
    watched = tiny.pretrain().ledger.query("stage == 'watch'")["update_norm"]
    m = len(watched)
    rule = tiny.make_rule("guaranteed", alpha=0.3)  # two control cycles, so three looks: level 0.2
    allowed = math.floor(0.2 * (m + 1))
    assert rule.level == pytest.approx(allowed / (m + 1))
    assert rule.limit == sorted(watched)[-allowed]
    assert rule.bound(tiny.schedule.looks) <= 0.3
    assert tiny.make_rule("guaranteed", alpha=0.3, looks=6).limit > rule.limit
    arm = tiny.run("qc", rule="guaranteed" if 2 * 0.05 / 3 * (m + 1) >= 1 else rule, name="guaranteed")
    assert arm.ledger["norm_limit"].dropna().isin([rule.limit]).all()
    with pytest.raises(ValueError, match=f"needs at least 149 watched images, got {m};"):
        tiny.make_rule("guaranteed", alpha=0.01)  # 0.02 / 3 is 1 / 150


RULE_NEEDED = r"rule must be a rule or one of \('calibrated', 'guaranteed', 'published'\), "


@pytest.mark.parametrize(
    ("arm", "rule", "message"),
    [
        ("filthy", None, r"arm must be one of \('clean', 'dirty', 'qc'\), got 'filthy'"),
        ("qc", None, "arm 'qc' needs a rule, got None"),
        ("dirty", STRICT, "arm 'dirty' needs no rule, got PublishedRule"),
        ("qc", "strict", RULE_NEEDED + "got 'strict'"),
    ],
)
def test_an_unknown_arm_or_rule_is_refused(arms, cohort, arm, rule, message):
    with pytest.raises(ValueError, match=message):
        open_study(cohort, arms[0]).run(arm, rule=rule)


# who is trusted at the start

QUICK = replace(SCHEDULE, warm_cycles=0, control_cycles=1)


def list_stages(arm):
    """Return the training subjects of the pre-training and those of the watch."""
    stages = arm.ledger.explode("subjects").groupby("stage")["subjects"].agg(set)
    return stages["pretraining"], stages["watch"]


@pytest.mark.parametrize("pretrain_on", ["good", "all", "named"])
def test_the_pretraining_and_the_watch_use_whom_they_are_told_to(cohort, tmp_path, pretrain_on):
    table = cohort.table
    train = set(table.loc[table["role"] == "train", "subject"])
    verification = set(table.loc[table["role"] == "verification", "subject"])
    named = ["sub-02", "sub-03", "sub-09", "sub-16"]  # the third is harmful
    expected = {"good": train - {"sub-01", "sub-09"}, "all": train, "named": set(named)}[pretrain_on]
    asked = {"pretrain_on": named if pretrain_on == "named" else pretrain_on}
    tiny = Study(cohort, schedule=QUICK, folder=tmp_path, progress=False, **asked)
    assert tiny.held_back == train - expected
    trained, watched = list_stages(tiny.pretrain())
    assert trained == expected
    assert watched == expected | verification


def test_a_cohort_that_knows_no_harm_is_pretrained_on_all(cohort, tmp_path):
    blind = cohort.replace(cohort.table.drop(columns=["harm", "placement"]))
    assert Study(blind, folder=tmp_path, progress=False).held_back == frozenset()


def test_harmful_subjects_that_do_not_train_are_not_held_back(cohort, tmp_path):
    table = cohort.table.assign(role=cohort.table["role"].mask(cohort.table["subject"] == "sub-09", "test"))
    assert Study(cohort.replace(table), folder=tmp_path, progress=False).held_back == {"sub-01"}


@pytest.mark.parametrize("kind", [list, tuple, set, frozenset, pd.Series, iter], ids=lambda kind: kind.__name__)
def test_the_trusted_can_come_in_any_collection(cohort, tmp_path, kind):
    tiny = Study(cohort, folder=tmp_path, pretrain_on=kind(["sub-02", "sub-03"]), progress=False)
    assert {"sub-02", "sub-03"} & tiny.held_back == set()
    assert len(tiny.held_back) == 18 - 2


@pytest.mark.parametrize(
    ("pretrain_on", "message"),
    [
        ("clean", r"pretrain_on must be one of \('good', 'all'\) or a collection of subjects, got 'clean'"),
        ("sub-02", r"pretrain_on must be one of \('good', 'all'\) or a collection of subjects, got 'sub-02'"),
        ([], "pretrain_on must name at least one training subject, got none"),
        (
            ["sub-02", "nobody", HOSTILE],
            rf"training subjects of the cohort; these are not: \['{re.escape(HOSTILE)}', 'nobody'\]",
        ),
        (["sub-05"], r"these are not: \['sub-05'\]"),
        (["sub-07"], r"these are not: \['sub-07'\]"),
    ],
    ids=["word", "one subject as text", "nobody", "unknown", "verification", "test"],
)
def test_trust_in_nobody_or_in_strangers_is_refused(cohort, tmp_path, pretrain_on, message):
    with pytest.raises(ValueError, match=message):
        Study(cohort, folder=tmp_path, pretrain_on=pretrain_on, progress=False)


def collect_runs(monkeypatch):
    """Let nothing be trained, and return a list that grows with the folders of runs that would have been."""
    ran = []
    monkeypatch.setattr(study.Study, "_travel", lambda self, run, *args, **options: ran.append(run.path))
    monkeypatch.setattr(study, "watch", watch_nothing)
    return ran


def test_another_trust_is_another_run_of_everything(cohort, tmp_path, monkeypatch):
    ran = collect_runs(monkeypatch)
    train = cohort.table.loc[cohort.table["role"] == "train", "subject"]
    good = sorted(set(train) - cohort.harmful)
    for pretrain_on in ("good", "all", good, good[1:]):
        tiny = Study(cohort, schedule=QUICK, folder=tmp_path, pretrain_on=pretrain_on, progress=False)
        tiny.run("dirty")
    starts, arms = ([path for path in dict.fromkeys(ran) if path.name.startswith(name)] for name in ("pre", "dirty"))
    assert (len(starts), len(arms)) == (3, 3), "the good by name are the good"


def test_cohorts_with_other_harm_at_the_same_subjects_share_their_pretraining_and_nothing_else(tmp_path, monkeypatch):
    cohort = write_cohort(tmp_path / "cohort")
    ran = collect_runs(monkeypatch)
    for number in range(2):
        write_volume(cohort.table["path"][0], np.arange(16**3).reshape(SHAPE) + np.float32(number), affine=np.eye(4))
        table = cohort.table.assign(harm=cohort.table["harm"].replace("inversion", f"harm {number}"))
        tiny = open_study(cohort.replace(table), tmp_path / "runs")
        tiny.run("dirty")
        tiny.run("dirty", name="pretraining")
    names = [path.name.rpartition("-")[0] for path in dict.fromkeys(ran)]
    assert names.count("dirty") == 2
    assert names.count("pretraining") == 1 + 2, "an arm of that name is an arm"


# drift


def write_verification(folder, *rows):
    columns = ["cycle", "fp", "n_neg", "fn", "n_pos"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "verification.csv", index=False)


def test_every_cycle_is_verified_once_more_for_the_record(arms, cohort):
    folder, results = arms
    start = open_study(cohort, folder).pretrain()
    assert start.verification["cycle"].tolist() == [0, 1]
    for arm in results.values():
        assert arm.verification["cycle"].tolist() == [2, 3]
        assert set(arm.verification["n_neg"]) == set(arm.verification["n_pos"]) == {3}
        row = start.verification.iloc[-1]
        assert arm.floor == Counts(row["fp"], row["n_neg"], row["fn"], row["n_pos"])
    unguarded = results["dirty"]
    rows = cohort.table[cohort.table["role"] == "verification"].drop(columns="role").assign(role="test")
    scores = replace(unguarded, ledger=unguarded.ledger.iloc[:0]).score(cohort.replace(rows))
    wrong = scores[(scores["score"] >= 0.5) != (scores["diagnosis"] == 1)]
    for row in unguarded.verification.itertuples():
        own = wrong[wrong["cycle"] == row.cycle]
        assert (row.fp, row.fn) == ((own["diagnosis"] == 0).sum(), (own["diagnosis"] == 1).sum())


def test_the_pretrained_model_is_the_floor_even_where_no_calm_cycle_followed_the_freezing(cohort, tmp_path):
    tiny = open_study(cohort, tmp_path, replace(SCHEDULE, calm_cycles=0, control_cycles=1))
    start = tiny.pretrain()
    counts = list(tiny.open_engine().verify().values())
    row = start.verification.iloc[-1]
    assert (row["fp"], row["fn"]) == (sum(c.fp for c in counts), sum(c.fn for c in counts))
    assert start.verification["cycle"].tolist() == [0]
    scores = tiny.open_engine().score("test")
    np.testing.assert_allclose(start.predictions["score"], scores["score"], rtol=1e-5)


def test_an_arm_tells_in_which_cycles_its_errors_stand_above_those_of_the_start(arms):
    rows = [(2, 4, 60, 9, 60), (3, 30, 60, 9, 60), (4, 30, 60, 40, 60), (5, 0, 60, 40, 60)]
    verification = pd.DataFrame(rows, columns=["cycle", "fp", "n_neg", "fn", "n_pos"], index=[7, 8, 9, 10])
    arm = replace(arms[1]["qc"], verification=verification, floor=Counts(4, 60, 9, 60))
    drift = arm.drift
    both = "false positives and false negatives"
    assert drift["risen"].tolist() == ["", "false positives", both, "false negatives"]
    pd.testing.assert_frame_equal(drift.drop(columns="risen"), verification)
    assert replace(arm, floor=None).drift["risen"].tolist() == [""] * 4, "nothing to compare with"
    assert replace(arm, verification=verification.iloc[:0]).drift["risen"].tolist() == []
    assert [bool(DriftGuard(arm.floor).find_drift(Counts(*row[1:]))) for row in rows] == [False, True, True, True]


def test_an_arm_that_drifted_is_warned_of_when_it_is_run_and_when_it_is_read(arms, cohort, tmp_path, caplog):
    folder = tmp_path / "runs"
    shutil.copytree(arms[0], folder)
    tiny = open_study(cohort, folder)
    calm = tiny.run("dirty")
    assert "drifted" not in caplog.text
    write_verification(tiny.pretrain().folder, (0, 60, 60, 60, 60), (1, 0, 60, 5, 60))
    write_verification(calm.folder, (2, 8, 60, 5, 60), (3, 9, 60, 60, 60))
    caplog.clear()
    arm = tiny.run("dirty")
    assert arm.floor == Counts(0, 60, 5, 60), "the last cycle of the pre-training"
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        (
            "WARNING",
            "The model of the arm 'dirty' has drifted: after the last cycle, 3, it makes more false positives and "
            "false negatives than the pre-trained model, beyond chance.",
        )
    ]
    write_verification(calm.folder, (2, 60, 60, 60, 60), (3, 1, 60, 5, 60))
    caplog.clear()
    assert tiny.run("dirty").drift["risen"].tolist() == ["false positives and false negatives", ""]
    assert not caplog.records, "what has come back is no decay"


def test_a_pre_trained_model_that_calls_everybody_the_same_is_warned_of_before_the_rule_goes_by_it(
    arms, cohort, tmp_path, caplog
):
    folder = tmp_path / "runs"
    shutil.copytree(arms[0], folder)
    tiny = open_study(cohort, folder)
    for row, call in (((1, 0, 3, 3, 3), "healthy"), ((1, 3, 3, 0, 3), "diseased"), ((1, 1, 3, 3, 3), None)):
        write_verification(tiny.pretrain().folder, (0, 1, 3, 1, 3), row)
        caplog.clear()
        tiny.run("qc", rule=STRICT)
        told = [record.getMessage() for record in caplog.records if "calls every" in record.getMessage()]
        assert [message.split(":")[0] for message in told] == (
            [f"The pre-trained model calls every verification subject {call}"] if call else []
        )
        tiny.run("dirty")
        assert sum("calls every" in record.getMessage() for record in caplog.records) == len(told), "no rule, no matter"


# folders of runs


def test_a_run_folder_refuses_another_run(tmp_path):
    RunFolder(tmp_path / "run", {"rate": 0.1, "name": "qc"}).finish()
    assert RunFolder(tmp_path / "run", {"rate": 0.1, "name": "qc"}).finished
    with pytest.raises(ValueError, match="holds another run, with other rate; choose another folder or remove it"):
        RunFolder(tmp_path / "run", {"rate": 0.2, "name": "qc"})
    with pytest.raises(ValueError, match="with other name, rate"):
        RunFolder(tmp_path / "run", {})


def test_a_run_folder_refuses_foreign_files_and_leaves_them(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="holds files that are not a run .* choose an empty folder"):
        RunFolder(tmp_path, {"name": "qc"})
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_run_killed_while_it_wrote_its_first_note_is_begun_anew(tmp_path):
    name_aside(tmp_path / "run.json", process=2**22 + 1).write_text("{")
    RunFolder(tmp_path, {"name": "qc"}).finish()
    assert RunFolder(tmp_path, {"name": "qc"}).finished


OWN = "predictions.csv", "verification.csv"


def test_before_the_first_cycle_nothing_was_verified(tmp_path):
    verification = RunFolder(tmp_path, {"name": "qc"}).read_verification()
    assert list(verification.columns) == ["cycle", "fp", "n_neg", "fn", "n_pos"]
    assert verification.empty


def test_an_unfinished_run_folder_keeps_what_it_holds(tmp_path):
    run = RunFolder(tmp_path, {"name": "qc"})
    paths = [run.ledger_path, run.model_path(3), *(tmp_path / name for name in OWN), tmp_path / "notes.txt"]
    with run.open():
        for path in paths:
            path.write_text("old")
    with (again := RunFolder(tmp_path, {"name": "qc"})).open():
        assert not again.finished
    assert {path.name for path in paths} | {"run.json"} == {path.name for path in tmp_path.iterdir()} - {"run.lock"}
    assert all(path.read_text() == "old" for path in paths)


def test_a_process_that_looked_before_the_run_was_finished_leaves_it_finished(tmp_path):
    first, second = (RunFolder(tmp_path, {"name": "qc"}) for _ in range(2))
    with first.open():
        for cycle in (999, 1000):
            first.model_path(cycle).write_text(f"after cycle {cycle}")
        (tmp_path / "closing.keras").write_text("after the closing revisit")
        first.finish()
    with second.open():
        assert second.finished
    RunFolder(tmp_path, {"name": "qc"})
    texts = {path.name: path.read_text() for path in tmp_path.glob("*.keras")}
    assert texts == {"cycle-999.keras": "after cycle 999", "cycle-1000.keras": "after the closing revisit"}


def test_a_model_is_saved_when_the_lines_that_led_to_it_lie_on_the_disk(tmp_path, monkeypatch):
    run, settled = RunFolder(tmp_path, {"name": "qc"}), []
    monkeypatch.setattr(os, "fsync", lambda number: settled.append(os.fstat(number).st_ino))
    engine = SimpleNamespace(
        save=lambda path: settled.append("saved") or path.touch(),
        score=lambda role: pd.DataFrame({"subject": ["a"], "diagnosis": [1], "score": [0.5]}),
    )
    run.ledger_path.touch()
    run.record_cycle(engine, arm="qc", cycle=0, counts=Counts(0, 1, 0, 1))
    assert run.ledger_path.stat().st_ino in settled[: settled.index("saved")]
    assert run.model_path(0).stat().st_ino in settled[settled.index("saved") :]


def test_predictions_keep_the_names_of_centers_as_they_are(tmp_path):
    class Scored:
        def save(self, path):
            Path(path).touch()

        def verify(self):
            return {"007": Counts(1, 4, 2, 3), "NA": Counts(0, 1, 1, 1)}

        def score(self, role):
            return pd.DataFrame(
                {"subject": ["01"], "center": ["007"], "scanner": ["NA"], "diagnosis": [1], "score": [0.5]}
            )

    run = RunFolder(tmp_path, {"name": "qc"})
    run.record_cycle(Scored(), arm="qc", cycle=0)
    run.record_cycle(Scored(), arm="qc", cycle=1)
    run.record_cycle(Scored(), arm="qc", cycle=1)
    predictions, verification = run.read_predictions(), run.read_verification()
    assert predictions["cycle"].tolist() == [0, 1], "a cycle recorded again replaces itself"
    assert verification.to_dict("records") == [{"cycle": at, "fp": 1, "n_neg": 5, "fn": 3, "n_pos": 4} for at in (0, 1)]
    assert predictions.iloc[0].to_dict() == {
        "subject": "01", "center": "007", "scanner": "NA", "diagnosis": 1, "score": 0.5, "arm": "qc", "cycle": 0,
    }  # fmt: skip
