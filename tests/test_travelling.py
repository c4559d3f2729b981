"""The travelling model: the loop does what the paper's figure says, whoever the engine is; a run is made once."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dqc_lib.cohort import Cohort, read_bids, write_bids
from dqc_lib.fisher import GradientScale
from dqc_lib.ledger import Ledger
from dqc_lib.networks import build_sfcn
from dqc_lib.quality import CalibratedRule, Counts, PublishedRule, WatchingRule, replay
from dqc_lib.travelling import (
    Cycle,
    LocalCenters,
    RunFolder,
    Schedule,
    Study,
    Update,
    Visit,
    group_by_center,
    local,
    plan_cycles,
    study,
    travel,
    watch,
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

    def verify(self, asks):
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
    before = [("snapshot",), asked, ("restore",), asked, ("restore",)]  # nobody had verified the model before that step
    first = [("snapshot",), ("train", "A", ("a1",)), asked]
    second = [("snapshot",), ("train", "A", ("bad",)), asked, ("restore",)]
    assert engine.calls == [("rate", 0.1), *whole, *before, ("restore",), *first, *second]
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
        after_cycle=finished.append,
    )
    assert read_rows(ledger)[-2:] == ["0 revisit bad: eliminated", "0 revisit worse: eliminated"]
    assert [row["stage"] for row in ledger.rows] == ["control"] * 6 + ["closing"] * 2
    assert [row["center"] for row in ledger.rows[-2:]] == ["A", "B"]
    assert docket.eliminated == {"bad", "worse"}
    assert finished == [0, 0], "the model changes in the closing revisit, so the cycle is reported once more"


def test_without_a_closing_revisit_the_last_flags_stay_open():
    finished = []
    ledger, docket = run_loop(
        ScriptedCenters(count_harm("bad")),
        make_plan(["A: a1 bad"]),
        rule=PublishedRule(tolerance=0.05),
        closing_revisit=False,
        after_cycle=finished.append,
    )
    assert read_rows(ledger)[-1] == "0 single bad: deferred"
    assert (docket.due, docket.eliminated, finished) == ({"bad": 2}, set(), [0])


def test_excluded_subjects_are_never_trained_on_and_an_emptied_batch_is_no_attempt():
    engine = ScriptedCenters()
    plan = make_plan(["A: a1 out a2", "B: out2"], ["B: out2 b1", "A: out"])
    ledger, _ = run_loop(engine, plan, exclude=["out", "out2"])
    assert read_rows(ledger) == ["0 batch a1 a2: accepted", "1 batch b1: accepted"]
    assert engine.steps == (("a1", "a2"), ("b1",))


def test_a_model_that_travels_unguarded_is_never_verified_and_never_rolled_back():
    engine = ScriptedCenters(count_harm("bad"))
    ledger, docket = run_loop(engine, make_plan(["A: a1 bad", "B: b1"], ["A: bad"]))
    assert engine.names() == ["rate", "train", "train", "rate", "train"]
    assert all(row["fp"] is None and row["reference_fp"] is None for row in ledger.rows)
    assert not docket.due


def test_a_rule_that_watches_verifies_every_attempt_and_accepts_it():
    engine = ScriptedCenters(count_harm("bad"))
    ledger, _ = run_loop(engine, make_plan(["A: a1 bad", "B: bad"]), rule=WatchingRule())
    assert read_rows(ledger) == ["0 batch a1 bad: accepted", "0 batch bad: accepted"]
    assert [(row["reference_fp"], row["fp"]) for row in ledger.rows] == [(0, 2), (2, 4)]
    assert engine.steps == (("a1", "bad"), ("bad",))


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
        def verify(self, asks):
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
    *("snapshot", "restore", "verify", "alone", "verify", "restore"),
]


def test_the_calibrated_rule_verifies_only_suspects_and_the_model_before_them():
    norms = {("a1",): 1.0, ("a2",): 9.0, ("a3",): 9.0, ("a4",): 5.0, ("a5",): 9.0}
    engine = ScriptedCenters(lambda steps: Counts(max(0, 8 - len(steps)), 10, 0, 10), norms=norms)
    plan = make_plan(["A: a1", "A: a2", "A: a3", "A: a4", "A: a5"])
    ledger, _ = run_loop(engine, plan, rule=CalibratedRule({1: 5.0}, acquittal=1))
    harmless = ["snapshot", "train"]
    assert engine.names() == ["rate", *harmless, *SUSPECT, *SUSPECT, *harmless, *SUSPECT]
    assert [(row["reference_fp"], row["fp"]) for row in ledger.rows] == [
        (None, None),
        (7, 6),
        (6, 5),
        (None, None),
        (4, 3),
    ]
    assert [row["norm_limit"] for row in ledger.rows] == [None, 5.0, 5.0, None, 5.0]
    assert [row["update_norm"] for row in ledger.rows] == [1.0, 9.0, 9.0, 5.0, 9.0]
    assert engine.steps == (("a1",), ("a2",), ("a3",), ("a4",), ("a5",)), "the steps with momentum stay"


def test_a_suspect_is_judged_by_its_step_without_the_momentum_of_others():
    def answer(steps):  # momentum alone harms
        return Counts(5 - sum(2 if "alone" in step else -1 for step in steps), 10, 0, 10)

    engine = ScriptedCenters(answer, norms={("a1",): 9.0})
    ledger, _ = run_loop(engine, make_plan(["A: a1"]), rule=CalibratedRule({1: 5.0}, acquittal=1))
    assert [(row["reference_fp"], row["fp"], row["decision"]) for row in ledger.rows] == [(5, 3, "accepted")]
    assert engine.steps == (("a1",),)


def test_a_suspect_that_is_not_acquitted_leaves_no_trace_in_the_model():
    engine = ScriptedCenters(norms={("a1",): 1.0, ("bad",): 9.0})
    plan, rule = make_plan(["A: a1", "A: bad", "A: a1"]), CalibratedRule({1: 5.0}, acquittal=1)
    ledger, docket = run_loop(engine, plan, rule=rule, closing_revisit=False)
    assert read_rows(ledger) == [
        "0 batch a1: accepted",
        "0 batch bad: split",
        "0 single bad: deferred",
        "0 batch a1: accepted",
    ]
    again = [name for at, name in enumerate(SUSPECT) if at != SUSPECT.index("verify")]  # the model before is known now
    assert engine.names() == [
        "rate", "snapshot", "train", *SUSPECT, "restore", *again, "restore", "snapshot", "train",
    ]  # fmt: skip
    assert engine.steps == (("a1",), ("a1",))
    assert set(docket.due) == {"bad"}
    assert [row["reference_fp"] for row in ledger.rows] == [None, 0, 0, None]


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
    ledger, _ = run_loop(engine, plan, after_cycle=finished.append)
    imposed = [(c.number, v.center, list(batch)) for c in plan for v in c.visits for batch in v.batches]
    assert [(row["cycle"], row["center"], row["subjects"]) for row in ledger.rows] == imposed
    assert [call[1] for call in engine.calls if call[0] == "rate"] == [0.2, 0.1]
    assert finished == [0, 1]


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
        ({"learning_rate": 0.0}, "Schedule.learning_rate must be a finite number > 0, got 0.0"),
        ({"calm_learning_rate": float("nan")}, "Schedule.calm_learning_rate must be a finite number > 0, got nan"),
        ({"width": float("inf")}, "Schedule.width must be a finite number > 0, got inf"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Schedule(**options)


# centers in one process


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
    sizes, predict = [], engine.model.predict_on_batch
    monkeypatch.setattr(engine.model, "predict_on_batch", lambda images: sizes.append(len(images)) or predict(images))
    monkeypatch.setattr(local, "CHUNK", 4)
    assert engine.verify() == whole
    monkeypatch.setattr(local, "CHUNK_VOXELS", 3 * 16**3 + 1)
    assert engine.verify() == whole
    monkeypatch.setattr(local, "CHUNK_VOXELS", 1)
    assert engine.verify() == whole
    assert sizes == [4, 2] + [3, 3] + [1] * 6, "whatever a volume's size, one fits"


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


def test_an_update_cannot_be_read_before_a_watched_step(cohort, engine):
    fresh = LocalCenters(cohort, engine.model, volumes=engine.volumes)
    with pytest.raises(ValueError, match="no watched step has been taken"):
        fresh.read_update()


def test_watching_measures_every_image_and_batch_and_leaves_the_model_as_it_was(cohort):
    engine = LocalCenters(cohort, build_sfcn(SHAPE, width=NARROW))
    engine.set_learning_rate(0.01)
    engine.freeze()
    state = read_state(engine)
    east = Visit("east", (("sub-01", "sub-02", "sub-03"), ("sub-04",)))
    cycle = Cycle(0, 1e-3, (east, Visit("west", (("sub-08", "sub-09"), ("sub-10", "sub-11")))))
    ledger = Ledger()
    rows = watch(engine, cycle, exclude=["sub-01", "sub-10"], ledger=ledger, repeats=1, progress=False)
    assert_same_state(engine, state)
    assert [(row["level"], row["center"], row["subjects"]) for row in rows.to_dict("records")] == [
        ("single", "east", ["sub-02"]),
        ("single", "east", ["sub-03"]),
        ("single", "east", ["sub-04"]),
        ("single", "west", ["sub-08"]),
        ("single", "west", ["sub-09"]),
        ("single", "west", ["sub-11"]),
        ("batch", "east", ["sub-02", "sub-03"]),
        ("batch", "west", ["sub-08", "sub-09"]),
    ]
    assert (rows["update_norm"] > 0).all()
    assert set(rows["stage"]) == {"watch"}
    assert set(rows["decision"]) == {"accepted"}
    assert rows["fp"].isna().all()
    assert len(ledger) == len(rows)
    assert engine.train("east", ["sub-02"]).norm > 0, "from now on updates are measured"
    twice = watch(engine, cycle, exclude=["sub-01", "sub-10"], repeats=2, progress=False)
    assert list(twice["subjects"]) == 2 * list(rows["subjects"])


def test_a_watched_center_is_measured_against_the_others_only():
    gradients = {"a1": [1.0], "a2": [3.0], "b1": [10.0]}

    class Watched(ScriptedCenters):
        scale = "left over from an earlier watch"

        def train(self, center, subjects, *, watched):
            self.last = np.mean([gradients[subject] for subject in subjects], axis=0)
            return super().train(center, subjects)

        def read_update(self):
            return self.last

    engine = Watched()
    rows = watch(engine, make_plan(["A: a1 a2", "B: b1"])[0], progress=False)
    norms = {" ".join(subjects): norm for subjects, norm in zip(rows["subjects"], rows["update_norm"], strict=True)}
    # A against b1, mean square 100; B against a1 and a2, mean square 5; the batch has the mean gradient, 2
    expected = {"a1": 0.1, "a2": 0.3, "b1": 10 / math.sqrt(5), "a1 a2": 0.2}
    assert norms == pytest.approx(expected, rel=1e-3)
    assert engine.scale.measure(np.array([1.0])) == pytest.approx(1 / math.sqrt(110 / 3), rel=1e-3)
    assert engine.calls[1] == ("rate", 0.0)


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
    ran = []
    monkeypatch.setattr(study.Study, "_travel", lambda self, run, *args, **options: ran.append(run.path))
    monkeypatch.setattr(study, "watch", watch_nothing)
    tiny = open_study(cohort, tmp_path / "runs")
    tiny.pretrain()
    assert len(set(ran)) == 1
    tiny.pretrain()
    assert len(ran) == 2, "warm and calm cycles, once"
    write_volume(cohort.table["path"][0], np.arange(16**3).reshape(SHAPE).astype(np.float32), affine=np.eye(4))
    tiny.pretrain()
    assert len(set(ran)) == 2


def test_limits_far_above_all_watched_updates_are_warned_of(arms, cohort, caplog):
    tiny = open_study(cohort, arms[0])
    tiny.make_rule("calibrated", reach=0.0)
    assert not [record for record in caplog.records if "limits" in record.getMessage()]
    rule = tiny.make_rule("calibrated", reach=50.0)
    watched = tiny.pretrain().ledger.query("stage == 'watch'")["update_norm"].max()
    times = min(rule.limits.values()) / watched
    assert times > 10
    assert f"lie {times:.0f} times above the largest watched update" in caplog.records[-1].getMessage()


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


def test_the_same_seed_gives_the_same_ledger_apart_from_the_seconds(arms, cohort, tmp_path):
    again = open_study(cohort, tmp_path).run("qc", rule=STRICT)
    drop = {"columns": "seconds"}
    pd.testing.assert_frame_equal(again.ledger.drop(**drop), arms[1]["qc"].ledger.drop(**drop))
    pd.testing.assert_frame_equal(again.predictions, arms[1]["qc"].predictions)


def test_a_run_that_was_killed_is_begun_anew(arms, cohort, monkeypatch):
    folder, results = arms
    tiny = open_study(cohort, folder)

    def travel_half_way(engine, plan, **options):
        travel(engine, plan[:1], **options)
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


def test_the_calibrated_rule_takes_its_limits_from_the_watched_cycle(arms, cohort):
    folder, _ = arms
    tiny = open_study(cohort, folder)
    watched = tiny.pretrain().ledger.query("stage == 'watch'")
    rule = tiny.make_rule("calibrated")
    assert sorted(rule.limits) == sorted(watched["n"].unique())
    arm = tiny.run("qc", rule="calibrated", name="calibrated")
    assert (arm.ledger["update_norm"] > 0).all()
    suspicious = arm.ledger["update_norm"] > [rule.limit(n) for n in arm.ledger["n"]]
    assert suspicious.tolist() == arm.ledger["fp"].notna().tolist(), "suspects alone are verified"
    assert set(arm.predictions["arm"]) == {"calibrated"}


@pytest.mark.parametrize(
    ("arm", "rule", "message"),
    [
        ("filthy", None, r"arm must be one of \('clean', 'dirty', 'qc'\), got 'filthy'"),
        ("qc", None, "arm 'qc' needs a rule, got None"),
        ("dirty", STRICT, "arm 'dirty' needs no rule, got PublishedRule"),
        ("qc", "strict", "rule must be 'calibrated', 'published' or a rule, got 'strict'"),
    ],
)
def test_an_unknown_arm_or_rule_is_refused(arms, cohort, arm, rule, message):
    with pytest.raises(ValueError, match=message):
        open_study(cohort, arms[0]).run(arm, rule=rule)


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
    (tmp_path / "run.partial").write_text("{")
    RunFolder(tmp_path, {"name": "qc"}).finish()
    assert RunFolder(tmp_path, {"name": "qc"}).finished


def test_an_unfinished_run_folder_is_emptied_of_its_own_files_only(tmp_path):
    run = RunFolder(tmp_path, {"name": "qc"})
    for path in (run.ledger_path, run.model_path(3), tmp_path / "predictions.csv", tmp_path / "notes.txt"):
        path.write_text("old")
    again = RunFolder(tmp_path, {"name": "qc"})
    assert not again.finished
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "run.json"]


def test_predictions_keep_the_names_of_centers_as_they_are(tmp_path):
    class Scored:
        def save(self, path):
            Path(path).touch()

        def score(self, role):
            return pd.DataFrame(
                {"subject": ["01"], "center": ["007"], "scanner": ["NA"], "diagnosis": [1], "score": [0.5]}
            )

    run = RunFolder(tmp_path, {"name": "qc"})
    run.record_cycle(Scored(), arm="qc", cycle=0)
    run.record_cycle(Scored(), arm="qc", cycle=1)
    run.record_cycle(Scored(), arm="qc", cycle=1)
    predictions = run.read_predictions()
    assert predictions["cycle"].tolist() == [0, 1], "a cycle recorded again replaces itself"
    assert predictions.iloc[0].to_dict() == {
        "subject": "01", "center": "007", "scanner": "NA", "diagnosis": 1, "score": 0.5, "arm": "qc", "cycle": 0,
    }  # fmt: skip
