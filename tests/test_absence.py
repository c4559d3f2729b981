"""Centers that fail while the model travels: the run ends, or goes on without them, and the ledger says so."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dqc_lib.ledger import Ledger
from dqc_lib.quality import CalibratedRule, Counts, PublishedRule
from dqc_lib.travelling import CenterError, Cycle, Update, Visit, travel

CENTERS = {"north": ("n1", "n2"), "south": ("s1", "s2"), "east": ("e1",)}
VERIFIED = {"north": (2, 2), "south": (3, 1), "east": (4, 5)}  # controls and patients
PLAN = [
    Cycle(
        number, 1e-4, (Visit("north", (("n1", "n2"),)), Visit("south", (("s1",), ("s2",))), Visit("east", (("e1",),)))
    )
    for number in (1, 2, 3)
]


class FailingCenters:
    """A model that is the list of the subjects it was trained on, and centers that fail when they are told to.

    Each harmful subject in the model costs one false positive at every center, and has a large update norm; that of
    "s2" lies just above the limit. The unit of norms depends on the model and on who is present. `faults` says whom
    which call, counted from 0 over all calls, loses; those are back so many cycles later.
    """

    def __init__(self, *, harmful=(), faults=(), back=1):
        self.model, self.harmful, self.faults, self.back = [], set(harmful), dict(faults), back
        self.calls, self.tried, self.out, self.asked, self.cycles, self.unit = 0, [], {}, [], 0, 1.0

    def _call(self, what, centers):
        at, self.calls = self.calls, self.calls + 1
        self.asked.append((what, *sorted(centers)))
        lost = [center for center in self.faults.get(at, ()) if center in centers]
        if lost:
            raise CenterError(" and ".join(lost), f"no answer to {what!r}", lost)

    def _present(self):
        return [center for center in CENTERS if center not in self.out]

    def train(self, center, subjects, *, alone=False):
        assert center not in self.out, "nobody asks a center that is left out"
        self._call("train", [center])
        self.model = self.model + list(subjects)
        self.tried.append(tuple(subjects))
        norm = 100.0 if set(subjects) & self.harmful else 15.0 if "s2" in subjects else 1.0
        return Update(0.5, norm / self.unit)

    def verify(self, asks, harmful=None):
        self._call("verify", self._present())
        risen = min(2, len(set(self.model) & self.harmful))
        return {center: Counts(risen, VERIFIED[center][0], 0, VERIFIED[center][1]) for center in self._present()}

    @property
    def exact(self):
        return True

    def snapshot(self):
        return list(self.model)

    def restore(self, snapshot):
        self.model = list(snapshot)

    def set_learning_rate(self, rate):
        self.cycles += 1

    def adjust_unit(self):
        self._call("measure", self._present())
        self.unit = 1 + len(self._present()) / 100 + len(self.model) / 1000
        return self.unit

    def leave_out(self, centers):
        self.out |= dict.fromkeys(centers, self.cycles)

    def call_back(self):
        return [center for center, since in self.out.items() if self.cycles - since >= self.back]

    def take_back(self, centers):
        self.out = {center: since for center, since in self.out.items() if center not in centers}


def run(engine, ledger=None, *, rule=None, plan=PLAN, **options):
    options = {"on_fault": "continue", "revisit_after": 1, "progress": False} | options
    return travel(engine, plan, rule=rule or PublishedRule(tolerance=0.01), ledger=ledger, **options)


def list_rows(ledger):
    """Return all that is written but how long it took, presences in their place."""
    rows = [(at, 1, {name: value for name, value in row.items() if name != "seconds"}) for at, row in enumerate(ledger)]
    return sorted([*rows, *((at.after, 0, at) for at in ledger.presences)], key=lambda part: part[:2])


def find_call(what, *centers, skip=0):
    """Return the number of a call of an undisturbed run."""
    engine = FailingCenters()
    run(engine)
    return [at for at, (name, *asked) in enumerate(engine.asked) if name == what and set(centers) <= set(asked)][skip]


def test_a_fault_ends_the_run_unless_it_is_to_go_on_and_what_is_written_stays():
    engine, ledger = FailingCenters(faults={find_call("train", "south", skip=1): ["south"]}), Ledger()
    with pytest.raises(CenterError, match="south: no answer to 'train'") as caught:
        run(engine, ledger, on_fault="stop")
    assert caught.value.centers == ("south",)
    assert [row["subjects"] for row in ledger] == [["n1", "n2"], ["s1"]]
    assert engine.model == ["n1", "n2", "s1"], "the last accepted model"
    (fault,) = ledger.presences
    assert (fault.after, fault.center, fault.present) == (2, "south", True), "who ended the run, and is counted on"
    assert fault.reason == "south: no answer to 'train'"
    whole, _ = run(FailingCenters())
    found, _ = run(FailingCenters(), ledger, on_fault="stop")
    assert [row for row in list_rows(found) if row[1]] == list_rows(whole) and found.presences == (fault,)


def test_a_word_for_what_to_do_that_is_none_is_refused():
    with pytest.raises(ValueError, match="on_fault must be one of .*'continue'.*, got 'ignore'"):
        run(FailingCenters(), on_fault="ignore")


def test_without_the_center_that_cannot_train_the_others_go_on_until_it_is_back():
    engine = FailingCenters(faults={find_call("train", "south", skip=1): ["south"]}, back=2)
    ledger, _ = run(engine)
    tried = [(row["cycle"], *row["subjects"]) for row in ledger]
    assert tried[:4] == [(1, "n1", "n2"), (1, "s1"), (1, "e1"), (2, "n1", "n2")]
    assert tried[4:] == [(2, "e1"), (3, "n1", "n2"), (3, "s1"), (3, "s2"), (3, "e1")], "back for the third cycle"
    assert [(at.after, at.cycle, at.center, at.present) for at in ledger.presences] == [
        (2, 1, "south", False),
        (5, 3, "south", True),
    ]
    assert ledger.presences[0].reason == "south: no answer to 'train'" and ledger.presences[1].reason == ""


def test_rates_are_of_those_who_are_there():
    ledger, _ = run(FailingCenters(faults={find_call("train", "south", skip=1): ["south"]}, back=2))
    assert [row["n_neg"] for row in ledger] == [9, 9, 6, 6, 6, 9, 9, 9, 9]
    assert all(row["n_neg"] == row["reference_n_neg"] and row["n_pos"] == row["reference_n_pos"] for row in ledger)


def test_a_center_that_cannot_verify_is_left_out_and_the_attempt_of_another_is_begun_again():
    engine = FailingCenters(faults={find_call("verify", "east", skip=2): ["east"]})
    ledger, _ = run(engine)
    first = [row for row in ledger if row["cycle"] == 1]
    assert [row["subjects"] for row in first] == [["n1", "n2"], ["s1"], ["s2"]], "each once, none of the east"
    assert [(row["reference_n_pos"], row["n_pos"]) for row in first] == [(8, 8), (3, 3), (3, 3)]
    assert engine.tried[1] == engine.tried[2] == ("s1",) and engine.model.count("s1") == 3, (
        "once per cycle in the model"
    )


def test_several_can_fail_at_once_and_at_the_measuring_too():
    ledger, _ = run(FailingCenters(faults={find_call("measure", skip=1): ["north", "east"]}))
    second = [row["subjects"] for row in ledger if row["cycle"] == 2]
    assert second == [["s1"], ["s2"]]
    assert [(at.cycle, at.center, at.present) for at in ledger.presences] == [
        (2, "north", False),
        (2, "east", False),
        (3, "north", True),
        (3, "east", True),
    ]


@pytest.mark.parametrize("lost", [["north", "south", "east"], ["north", "east"]], ids=len)
def test_a_run_that_nobody_is_left_to_verify_ends_and_says_who_is_missing(monkeypatch, lost):
    monkeypatch.setitem(VERIFIED, "south", (3, 0))
    engine, ledger = FailingCenters(faults={find_call("verify"): lost}), Ledger()
    words = "nobody is left to train" if len(lost) == 3 else "without them 3 controls and 0 diseased subjects are left"
    with pytest.raises(CenterError, match=f"absent, and {words}"):
        run(engine, ledger)
    assert {at.center for at in ledger.presences} == set(lost)
    engine.back = 0  # some hours later all are there, and the run goes on where it ended
    found, _ = run(engine, ledger)
    assert [at.present for at in found.presences] == [False] * len(lost) + [True] * len(lost)
    assert [row["subjects"] for row in found if row["cycle"] == 1] == [["n1", "n2"], ["s1"], ["s2"], ["e1"]]


def test_the_revisit_of_somebody_whose_center_is_absent_is_put_off():
    # both visits of s1 in cycle 1 are rejected; when its revisit is due, at the end of cycle 2, the south is away
    plain = FailingCenters(harmful=["s1"])
    undisturbed, docket = run(plain)
    assert [row["cycle"] for row in undisturbed if row["level"] == "revisit"] == [2] and docket.eliminated == {"s1"}
    at = [number for number, (what, *_) in enumerate(plain.asked) if what == "measure"][1]
    ledger, docket = run(FailingCenters(harmful=["s1"], faults={at: ["south"]}))
    assert [row["cycle"] for row in ledger if row["level"] == "revisit"] == [3]
    assert docket.eliminated == {"s1"}


def test_who_waits_at_a_center_that_does_not_come_back_still_waits_in_the_end():
    ledger, docket = run(FailingCenters(harmful=["s1"], faults={9: ["south"]}, back=9))
    assert [row["decision"] for row in ledger if row["subjects"] == ["s1"]] == ["split", "deferred"]
    assert list(docket.due) == ["s1"] and not docket.eliminated


FAULTS = st.dictionaries(st.integers(0, 40), st.lists(st.sampled_from(list(CENTERS)), min_size=1, max_size=2))
RULES = st.sampled_from([PublishedRule(tolerance=0.01), CalibratedRule(limit=10.0, acquittal=1)])


class CutError(Exception):
    """What ends a run in the middle."""


class CutLedger(Ledger):
    """A ledger whose process ends when it would write down an attempt after so many lines."""

    def __init__(self, path, lines):
        super().__init__(path)
        self.lines = lines

    def _write(self, row):
        if self.lines <= 0 and "decision" in row:
            raise CutError
        self.lines -= 1
        super()._write(row)


@given(faults=FAULTS, harmful=st.sets(st.sampled_from(["n1", "s1", "s2", "e1"])), rule=RULES, lines=st.integers(0, 20))
def test_a_run_with_absences_that_was_cut_anywhere_is_continued_to_the_same_end(
    tmp_path_factory, faults, harmful, rule, lines
):
    """Centers fail at the same attempt, each time it is taken for the first time."""
    folder = tmp_path_factory.mktemp("cut")
    script = {"harmful": harmful, "faults": faults}
    try:
        whole, docket = run(FailingCenters(**script), Ledger(folder / "whole.jsonl"), rule=rule)
    except CenterError:
        return  # nobody was left
    engine = FailingCenters(**script)
    try:
        run(engine, CutLedger(folder / "cut.jsonl", lines), rule=rule)
    except CutError:
        pass
    if any(at >= engine.calls for at in faults):
        return  # those that come later come at other calls, since some are made twice
    found, again = run(FailingCenters(harmful=harmful), Ledger(folder / "cut.jsonl"), rule=rule)
    assert list_rows(found) == list_rows(whole)
    assert (again.due, again.eliminated) == (docket.due, docket.eliminated)
