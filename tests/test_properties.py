"""Properties that hold whatever comes: reading cohorts, the books of quality control, splits and metrics.

Hypothesis draws the inputs, the same ones every time. What should come out is computed here by a route of its own, by
scikit-learn or SciPy, or by trying everything.
"""

import csv
import itertools
import json
import math
import re
import tempfile
import unicodedata
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

import dqc_lib as dqc
from dqc_lib.evaluation.resampling import measure_weighted
from dqc_lib.quality import Counts, Verdict
from dqc_lib.travelling import Update, Visit

FEW, MANY = settings(max_examples=60), settings(max_examples=250)

# cohorts

HEADER = ("participant_id", "site", "diagnosis", "sex", "age", "scanner")
MISSING = ("", "n/a", "nan", "na")
NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]+)?", re.IGNORECASE)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)  # no halves of characters: UTF-8 has none
CELLS = {
    "participant_id": st.sampled_from([f"sub-{at}" for at in range(1, 6)]),
    "site": st.sampled_from(["A", "NA-1", "7", " Å "]),
    "diagnosis": st.sampled_from(["PD", "hc", "1", "0.0", "2", "1.0.0"]),
    "sex": st.sampled_from(["F", "m", "female", "MALE", "M.0", "X"]),
    "age": st.one_of(st.floats(-1, 140).map(repr), st.sampled_from(["61", "5e1", "6_1", "٦١", "1e999", "0x1F"])),
    "scanner": st.sampled_from(["X", "vendor\tA", '"', "n/a"]),
}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A BIDS folder with the images of sub-1 to sub-4."""
    folder = tmp_path_factory.mktemp("study")
    for at in range(1, 5):
        path = folder / f"sub-{at}" / "anat" / f"sub-{at}_T1w.nii.gz"
        path.parent.mkdir(parents=True)
        path.touch()
    return folder


def draw_rows(odd):
    """Rows of texts, of which about one in `odd` is any text at all."""
    cells = {
        name: st.integers(0, odd).flatmap(lambda at, usual=usual: TEXT if at == 0 else usual)
        for name, usual in CELLS.items()
    }
    return st.lists(st.fixed_dictionaries(cells), min_size=1, max_size=4)


def hides_characters(text):
    """Whether a text holds what is neither seen nor a space nor without a meaning in Unicode."""
    return any(not letter.isprintable() and unicodedata.category(letter) not in ("Zs", "Co", "Cn") for letter in text)


def expect(row):
    """Return what a row of texts means, and the columns in which it means nothing."""
    cell = {name: "" if value.strip().lower() in MISSING else value.strip() for name, value in row.items()}
    diagnosis = {"pd": 1, "hc": 0, "1": 1, "0": 0, "1.0": 1, "0.0": 0}.get(cell["diagnosis"].lower())
    sex = {"f": "F", "female": "F", "m": "M", "male": "M"}.get(cell["sex"].lower())
    age = float(cell["age"]) if NUMBER.fullmatch(cell["age"]) else math.nan
    bad = {"diagnosis"} if diagnosis is None else set()
    bad |= {"sex"} if sex is None else set()
    bad |= {"age"} if not 0 <= age <= 130 else set()
    bad |= {"center"} if not cell["site"] or hides_characters(cell["site"]) else set()
    bad |= {"scanner"} if hides_characters(cell["scanner"]) else set()
    bad |= {"participant_id"} if not re.fullmatch("sub-[A-Za-z0-9+_-]+", cell["participant_id"]) else set()
    values = (cell["participant_id"], cell["site"], diagnosis, sex, age, cell["scanner"] or "unknown")
    return values, bad


@given(rows=st.integers(1, 60).flatmap(draw_rows))
@MANY
def test_any_table_of_texts_reads_to_its_values_or_names_a_column_that_is_wrong(study, rows):
    rows = [row for row in rows if any(row.values())]  # a line without a text is none
    with (study / "participants.tsv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, delimiter="\t").writerows([HEADER, *([row[name] for name in HEADER] for row in rows)])
    values = [expect(row)[0] for row in rows]
    bad = set().union(*(expect(row)[1] for row in rows))
    names = [name for name, *_ in values]
    bad |= {"is listed"} if len(set(names)) < len(names) else set()
    bad |= {"no image"} if not set(names) <= {f"sub-{at}" for at in range(1, 5)} else set()
    bad |= {"no rows"} if not rows else set()
    try:
        table = dqc.read_bids(study).table
    except (ValueError, FileNotFoundError) as error:
        assert any(culprit in str(error) for culprit in bad), f"{error!r} where {bad} is wrong"
        assert isinstance(error, ValueError) or "no image" in bad
        assert str(study) in str(error)
    else:
        assert not bad
        columns = ["subject", "center", "diagnosis", "sex", "age", "scanner"]
        assert list(table[columns].itertuples(index=False, name=None)) == values


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 200), st.floats(), TEXT, st.just(pd.NA), st.just(pd.NaT), st.just(61j),
    st.lists(st.integers(), max_size=1), st.tuples(st.lists(st.none())), st.just({"F"}), st.just(np.array([1, 0])),
    st.sampled_from(["F", "M", "train", "single", "A"]), st.just(pd.Timestamp("2020-01-01")), st.binary(max_size=2),
)  # fmt: skip


def make_table(n=3):
    rows = [(f"sub-{at}", "A", at % 2, "F", 60.0, "X", "/a.nii", "train", "", "") for at in range(n)]
    return pd.DataFrame(
        rows,
        columns=["subject", "center", "diagnosis", "sex", "age", "scanner", "path", "role", "harm", "placement"],
    )


@given(column=st.sampled_from(list(make_table())), value=VALUES)
@MANY
def test_a_table_holds_what_it_was_given_or_the_column_is_named(column, value):
    table = make_table().astype({column: object})
    table.at[1, column] = value
    try:
        cohort = dqc.Cohort(table, Path("study"))
    except ValueError as error:
        assert column in str(error), f"{error} does not name {column}"
    else:
        kept = cohort.table.at[1, column]
        assert kept == float(value) if column in ("age", "diagnosis") else kept == value


COHORTS = st.lists(
    st.tuples(
        TEXT, st.integers(0, 1), st.sampled_from("FM"), st.floats(0, 130), TEXT,
        st.sampled_from(["train", "verification", "test"]),
        st.sampled_from(["", "inversion", "additive noise @ 0.5", "N/A", "a\tb"]), st.sampled_from(["", "single"]),
    ),
    min_size=1, max_size=4,
)  # fmt: skip


@given(rows=COHORTS)
@MANY
def test_what_is_written_reads_back_the_same_or_is_not_written(study, rows):
    columns = ["center", "diagnosis", "sex", "age", "scanner", "role", "harm", "placement"]
    table = pd.DataFrame(rows, columns=columns)
    table.insert(0, "subject", [f"sub-{at + 1}" for at in range(len(rows))])
    table["path"] = [str(study / name / "anat" / f"{name}_T1w.nii.gz") for name in table["subject"]]
    (study / "participants.tsv").unlink(missing_ok=True)
    try:
        cohort = dqc.Cohort(table, study)
        dqc.write_bids(cohort, study)
    except ValueError as error:
        assert re.search("center|scanner|harm", str(error))
        assert not (study / "participants.tsv").exists()
    else:
        expected = cohort.table.assign(scanner=cohort.table["scanner"].replace("", "unknown"))
        pd.testing.assert_frame_equal(dqc.read_bids(study).table, expected, check_exact=True)


# splits

SIZES = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)).filter(any), min_size=1, max_size=8)
SHARES = st.sampled_from([0, 0.05, 0.1, 0.2, 1 / 3, 0.45])


def make_cohort(sizes, **columns):
    """Return a cohort with so many controls and patients in each center."""
    rows = [
        (f"c{at}", diagnosis) for at, pair in enumerate(sizes) for diagnosis, n in enumerate(pair) for _ in range(n)
    ]
    table = pd.DataFrame(rows, columns=["center", "diagnosis"])
    table.insert(0, "subject", [f"sub-{at}" for at in range(len(rows))])
    return dqc.Cohort(table.assign(sex="F", age=60.0, scanner="X", path="/a.nii", **columns), Path("study"))


@given(sizes=SIZES, verification=SHARES, test=SHARES, seed=st.integers(0, 99))
@FEW
def test_a_split_gives_every_subject_one_role_and_every_center_the_roles_it_can_have(sizes, verification, test, seed):
    cohort = make_cohort(sizes)
    table = dqc.split_by_subject(cohort, verification=verification, test=test, seed=seed).table
    assert table.drop(columns="role").equals(cohort.table), "subjects come out as they went in, each once"
    counts = pd.crosstab(table["center"], table["role"])
    counts = counts.reindex(columns=["train", "verification", "test"], fill_value=0)
    n = counts.sum(axis=1)
    assert (counts["train"] >= 1).all()
    room = n - 1
    for role, share in (("verification", verification), ("test", test)):
        can = (room > 0) & (share > 0)
        assert (counts.loc[can, role] >= 1).all(), "one where there can be one"
        assert (counts.loc[~can, role] == 0).all()
        assert counts[role].sum() == max(can.sum(), min(round(share * len(cohort)), room.sum()))
        room = room - counts[role]
    shuffled = cohort.replace(cohort.table.sample(frac=1.0, random_state=seed))
    again = dqc.split_by_subject(shuffled, verification=verification, test=test, seed=seed).table
    assert again.set_index("subject")["role"].to_dict() == table.set_index("subject")["role"].to_dict()


@given(sizes=SIZES, share=st.sampled_from([0, 0.1, 0.5, 0.7, 1]), seed=st.integers(0, 99), data=st.data())
@FEW
def test_dividing_the_held_out_touches_nobody_else_and_keeps_both_roles_where_it_can(sizes, share, seed, data):
    cohort = make_cohort(sizes)
    roles = data.draw(st.lists(st.sampled_from(["train", "test"]), min_size=len(cohort), max_size=len(cohort)))
    roles[0] = "test"
    cohort = cohort.replace(cohort.table.assign(role=roles))
    table = dqc.divide_held_out(cohort, verification=share, seed=seed).table
    assert table.drop(columns="role").equals(cohort.table.drop(columns="role"))
    held_out = np.array(roles) == "test"
    assert (table.loc[~held_out, "role"] == "train").all()
    assert set(table.loc[held_out, "role"]) <= {"verification", "test"}
    for _, own in table[held_out].groupby("center"):
        assert len(own) == 1 or share in (0, 1) or set(own["role"]) == {"verification", "test"}
    assert share not in (0, 1) or set(table.loc[held_out, "role"]) == {"verification" if share else "test"}


# the books of quality control


class Tape:
    """An engine without a network: the model is the tuple of the batches it was trained on; whether a step is harmful
    is drawn beforehand, by the number of the step."""

    exact = True

    def __init__(self, errors, norms=(1.0,)):
        self.errors, self.norms = errors, norms
        self.model, self.trained = (), []

    def train(self, center, subjects, *, alone=False):
        self.trained.append(tuple(subjects))
        self.model += (("alone",) * alone + tuple(subjects),)
        return Update(0.5, self.norms[len(subjects[0]) * len(self.model) % len(self.norms)])

    def verify(self, asks, harmful=None):
        number = sum(map(len, itertools.chain.from_iterable(self.model)))  # of the model alone: restored is restored
        fp, fn = self.errors[number % len(self.errors)]
        return {"A": Counts(fp, 10, 0, 5), "B": Counts(0, 0, fn, 10)}

    def snapshot(self):
        return self.model

    def restore(self, snapshot):
        self.model = snapshot

    def set_learning_rate(self, rate):
        """Do nothing: no step has a length."""

    def adjust_unit(self):
        return 1.0


class DrawnRule:
    """A rule that says what was drawn, one verdict an attempt."""

    asks, isolates = frozenset(), False

    def __init__(self, verdicts):
        self.verdicts = itertools.cycle(verdicts)

    def suspects(self, *, n, update_norm, pooled=False):
        return True

    def judge(self, *, n, update_norm, before, after, pooled=False):
        return Verdict(next(self.verdicts))


@st.composite
def plans(draw):
    """Plans of a few cycles, whose visits and batches are any part of the subjects in any order."""
    homes = {f"{center}{at}": center for center in "AB" for at in range(draw(st.integers(1, 4)))}
    cycles = []
    for number in range(draw(st.integers(1, 6))):
        visits = []
        for center in draw(st.permutations("AB")):
            own = draw(st.permutations([name for name, home in homes.items() if home == center]))
            own = own[: draw(st.integers(0, len(own)))]
            size = draw(st.integers(1, 3))
            visits.append(Visit(center, tuple(tuple(own[at : at + size]) for at in range(0, len(own), size))))
        cycles.append(dqc.Cycle(number, 0.1, tuple(visits)))
    return tuple(cycles)


def travel(engine, cycles, rule, revisit_after=2, **options):
    ledger, docket = dqc.travel(engine, cycles, rule=rule, revisit_after=revisit_after, progress=False, **options)
    return ledger.rows, docket


@given(
    cycles=plans(),
    verdicts=st.lists(st.booleans(), min_size=1, max_size=20),
    revisit_after=st.integers(1, 4),
    closing=st.booleans(),
)
@MANY
def test_whoever_is_eliminated_is_never_trained_again_and_a_rejected_step_leaves_no_trace(
    cycles, verdicts, revisit_after, closing
):
    engine = Tape([(0, 0)])
    rows, docket = travel(engine, cycles, DrawnRule(verdicts), revisit_after, closing_revisit=closing)
    assert list(engine.model) == [tuple(row["subjects"]) for row in rows if row["decision"] == "accepted"]
    gone = set()
    for row in rows:
        assert gone.isdisjoint(row["subjects"])
        gone |= set(row["subjects"]) if row["decision"] == "eliminated" else set()
    assert gone == docket.eliminated
    assert gone.isdisjoint(docket.due)
    assert docket.due == {} or not closing


@given(
    cycles=plans(),
    verdicts=st.lists(st.booleans(), min_size=1, max_size=20),
    revisit_after=st.integers(1, 4),
    closing=st.booleans(),
)
@MANY
def test_a_deferred_subject_is_left_alone_and_revisited_once_when_its_time_has_come(
    cycles, verdicts, revisit_after, closing
):
    rows, docket = travel(Tape([(0, 0)]), cycles, DrawnRule(verdicts), revisit_after, closing_revisit=closing)
    waiting = {}
    for row in rows:
        for name in row["subjects"]:
            if row["level"] != "revisit":
                assert name not in waiting, "nobody is tried who waits"
            elif row["stage"] == "closing":
                assert waiting.pop(name) + revisit_after > cycles[-1].number
            else:
                assert waiting.pop(name) + revisit_after == row["cycle"]
        if row["decision"] == "deferred":
            waiting[row["subjects"][0]] = row["cycle"]
    assert {name: cycle + revisit_after for name, cycle in waiting.items()} == docket.due
    deferred, revisited = (
        Counter(name for row in rows if row[key] == word for name in row["subjects"])
        for key, word in (("decision", "deferred"), ("level", "revisit"))
    )
    assert deferred - revisited == Counter(list(docket.due)), "one revisit for every deferral, or it still waits"


RULES = st.one_of(
    st.builds(dqc.PublishedRule, st.sampled_from([0.0, 0.02, 0.1, 0.3]), st.sampled_from(["standard", "published"])),
    st.builds(dqc.CalibratedRule, st.just(5.0), st.sampled_from([None, 1.0, 5.0]), st.integers(1, 4)),
)


@given(
    cycles=plans(),
    rule=RULES,
    errors=st.lists(st.tuples(st.integers(0, 10), st.integers(0, 10)), min_size=1, max_size=7),
    norms=st.lists(st.sampled_from([0.5, 4.0, 6.0, 20.0, math.inf, math.nan]), min_size=1, max_size=7),
)
@MANY
def test_a_replayed_ledger_is_the_ledger_from_memory_and_from_its_file(cycles, rule, errors, norms):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.jsonl"
        ledger, _ = dqc.travel(Tape(errors, norms), cycles, rule=rule, ledger=dqc.Ledger(path), progress=False)
        read = dqc.Ledger.read(path)
    assert repr(read.rows) == repr(ledger.rows)
    replayed = dqc.replay(read.to_frame(), rule)
    assert len(replayed) == len(ledger)
    assert replayed["replayed_harmful"].tolist() == replayed["harmful"].tolist()
    assert replayed["harmful"].tolist() == [row["decision"] != "accepted" for row in ledger]


@given(rule=RULES, counts=st.tuples(*[st.integers(0, 9)] * 4), more=st.tuples(st.integers(0, 3), st.integers(0, 3)))
@MANY
def test_more_errors_never_make_an_attempt_harmless(rule, counts, more):
    fp, fn, fp_before, fn_before = counts
    errors = ((fp_before, fn_before), (fp, fn), (fp + more[0], fn + more[1]))
    before, after, worse = (Counts(a, 12, b, 12) for a, b in errors)
    asked = {"n": 1, "update_norm": 9.0, "before": before}
    assert rule.judge(after=worse, **asked).harmful >= rule.judge(after=after, **asked).harmful


class Books(RuleBasedStateMachine):
    """The docket beside plain lists: who waits since when, and who is out."""

    names = st.sampled_from(["a", "b", "c", "d"])

    def __init__(self):
        super().__init__()
        self.docket = dqc.Docket(2, {"a": "A", "b": "A", "c": "A", "d": "B"})
        self.cycle, self.waits, self.out = 0, [], []

    @rule()
    def pass_a_cycle(self):
        self.cycle += 1

    @rule(name=names)
    def defer(self, name):
        if name in self.out:
            with pytest.raises(ValueError, match=f"subject '{name}' has been eliminated"):
                self.docket.defer(name, cycle=self.cycle)
        elif name not in [waiting for waiting, _ in self.waits]:
            self.docket.defer(name, cycle=self.cycle)
            self.waits.append((name, self.cycle + 2))

    @precondition(lambda self: self.waits)
    @rule(harmful=st.booleans(), data=st.data())
    def revisit(self, harmful, data):
        name, _ = entry = data.draw(st.sampled_from(self.waits))
        self.docket.close(name, harmful=harmful)
        self.waits.remove(entry)
        self.out += [name] * harmful

    @rule(name=names)
    def revisit_nobody(self, name):
        if name not in [waiting for waiting, _ in self.waits]:
            with pytest.raises(ValueError if name in self.out else KeyError, match=f"subject '{name}'"):
                self.docket.close(name, harmful=True)

    @invariant()
    def the_books_agree(self):
        waiting = [name for name, _ in self.waits]
        assert self.docket.call() == tuple(waiting)
        assert self.docket.call(self.cycle) == tuple(name for name, due in self.waits if due <= self.cycle)
        assert self.docket.admit("abcd") == tuple(name for name in "abcd" if name not in [*waiting, *self.out])
        assert self.docket.eliminated == set(self.out)
        assert self.docket.pools("A") == ({"a", "b", "c"} <= {*waiting, *self.out})
        assert not self.docket.pools("B"), "one image says little of a center"


def test_the_docket_keeps_the_books_whatever_the_order_of_events():
    run_state_machine_as_test(Books, settings=settings(FEW, max_examples=40, stateful_step_count=25))


# the ledger's file


@pytest.fixture(scope="module")
def good_lines():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.jsonl"
        cycles = dqc.plan_cycles({"A": ["a1", "a2", "å"], "B": ["b1"]}, learning_rates=[0.1] * 2, batch_size=2)
        dqc.travel(
            Tape([(0, 0), (9, 0), (3, 3)]), cycles, rule=dqc.PublishedRule(), ledger=dqc.Ledger(path), progress=False
        )
        return path.read_bytes()


@given(data=st.data())
@MANY
def test_a_ledger_cut_anywhere_keeps_every_whole_row_and_can_be_continued(good_lines, data):
    end = data.draw(st.integers(0, len(good_lines)))
    kept = good_lines[:end]
    whole = kept.count(b"\n") + good_lines[end:].startswith(b"\n")  # the row is there, only its end is not
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        path = Path(folder) / "ledger.jsonl"
        path.write_bytes(kept)
        ledger = dqc.Ledger(path)
        ledger.append(**json.loads(good_lines.splitlines()[0]))
        assert len(dqc.Ledger.read(path)) == whole + 1
        assert path.read_bytes().startswith(b"\n".join(good_lines.split(b"\n")[:whole]))
    cut_short = bool(kept) and not kept.endswith(b"\n") and not good_lines[end:].startswith(b"\n")
    assert len(said) == cut_short


@given(data=st.data())
@MANY
def test_a_ledger_with_other_bytes_in_it_is_read_or_refused_by_line_and_stays_as_it_was(good_lines, data):
    at = data.draw(st.integers(0, len(good_lines)))
    noise = data.draw(
        st.one_of(st.binary(min_size=1, max_size=5), st.sampled_from([b"\n", b"{", b'""', b"null", b"1e999"]))
    )
    content = good_lines[:at] + noise + good_lines[at + data.draw(st.integers(0, 3)) :]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "ledger.jsonl"
        path.write_bytes(content)
        try:
            ledger = dqc.Ledger.read(path)
        except ValueError as error:
            assert re.search(r"ledger\.jsonl, line [0-9]+: ", str(error))
        else:
            ledger.to_frame()
        assert path.read_bytes() == content


# metrics

SCORES = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), st.floats(0, 1))
CALLED = st.lists(st.tuples(st.integers(0, 1), SCORES), min_size=1, max_size=25)


def score_by_sklearn(truth, score, threshold, weights=None):
    """Return the metrics of scikit-learn, NaN where they are undefined."""
    from sklearn import metrics

    called, truth = np.asarray(score) >= threshold, np.asarray(truth, dtype=bool)
    options = {"sample_weight": weights, "zero_division": np.nan}
    present = truth if weights is None else truth[np.asarray(weights) > 0]
    return {
        "accuracy": metrics.accuracy_score(truth, called, sample_weight=weights),
        "sensitivity": metrics.recall_score(truth, called, **options),
        "specificity": metrics.recall_score(~truth, ~called, **options),
        "f1": metrics.f1_score(truth, called, **options),
        "auroc": metrics.roc_auc_score(truth, score, sample_weight=weights) if len(set(present)) == 2 else math.nan,
    }


@given(cases=CALLED, threshold=SCORES)
@FEW
def test_the_metrics_are_those_of_scikit_learn(cases, threshold):
    truth, score = zip(*cases, strict=True)
    found = dqc.score_predictions(truth, score, threshold=threshold)
    assert (found.pop("n"), found.pop("n_positive"), found.pop("n_negative")) == (
        len(cases), sum(truth), len(cases) - sum(truth),
    )  # fmt: skip
    assert found == pytest.approx(score_by_sklearn(truth, score, threshold), nan_ok=True, abs=1e-12)


@given(
    cases=st.lists(
        st.tuples(st.integers(0, 1), SCORES, st.sampled_from("FM"), st.floats(20, 100)), min_size=1, max_size=25
    )
)
@settings(FEW, max_examples=25)
def test_the_metrics_of_a_group_are_those_of_its_members_alone(cases):
    table = dqc.add_age_band(pd.DataFrame(cases, columns=["diagnosis", "score", "sex", "age"]))
    found = dqc.evaluate_subgroups(table, by=["sex", "age_band", ("sex", "age_band")])
    bands = {"<55": (0, 55), "55-64": (55, 65), "65-74": (65, 75), "75+": (75, 131)}
    for row in found.to_dict("records"):
        parts = row["group"].split(", ")
        own = [
            case for case in cases
            if all(part == case[2] or (part in bands and bands[part][0] <= case[3] < bands[part][1]) for part in parts)
        ]  # fmt: skip
        assert row["n"] == len(own)
        if own:
            expected = score_by_sklearn([case[0] for case in own], [case[1] for case in own], 0.5)
            assert {name: row[name] for name in expected} == pytest.approx(expected, nan_ok=True, abs=1e-12)
    assert found.loc[found["subgroup"] == "sex", "n"].sum() == len(cases)


@given(
    cases=st.lists(st.tuples(st.integers(0, 1), SCORES, st.integers(0, 3)), min_size=2, max_size=15).filter(
        lambda cases: {case[0] for case in cases if case[2]} == {0, 1}
    )
)
@FEW
def test_weighted_metrics_are_those_of_scikit_learn_with_sample_weights(cases):
    truth, score, weight = (np.array(values, dtype=float) for values in zip(*cases, strict=True))
    groups = [truth == 1, truth == 0]
    weights = tuple(weight[own, np.newaxis].astype(np.float32) for own in groups)
    found = measure_weighted(*(score[np.newaxis, own] for own in groups), weights=weights, threshold=0.5)
    expected = score_by_sklearn(truth, score, 0.5, weight)
    assert found[0, :, 0].tolist() == pytest.approx(list(expected.values()), abs=1e-6)


@given(norms=st.lists(st.floats(0, 9), max_size=5), watched=st.lists(st.floats(0, 9), min_size=1, max_size=9))
@MANY
def test_a_rank_is_the_share_of_watched_norms_that_are_as_large(norms, watched):
    expected = [(1 + sum(other >= norm for other in watched)) / (1 + len(watched)) for norm in norms]
    assert dqc.rank_among(norms, watched).tolist() == pytest.approx(expected, abs=1e-15)


@given(
    wrong=st.sampled_from([0.0, 0.1, 0.5]), right=st.sampled_from([0.0, 0.2, 0.5]),
    sizes=st.tuples(st.integers(0, 4), st.integers(0, 3)), allowed=st.sampled_from([0.0, 0.2, 0.26, 0.6]),
)  # fmt: skip
@FEW
def test_the_chance_of_an_alarm_is_the_sum_over_everything_that_can_happen(wrong, right, sizes, allowed):
    chance = {1: wrong, -1: right, 0: 1 - wrong - right}
    expected = 0.0
    for fates in itertools.product(chance, repeat=sum(sizes)):
        rises = (sum(fates[: sizes[0]]), sum(fates[sizes[0] :]))
        if any(size and rise / size > allowed for rise, size in zip(rises, sizes, strict=True)):
            expected += math.prod(chance[fate] for fate in fates)
    effect = dqc.StepEffect(wrong=wrong, right=right)
    found = dqc.compute_alarm(effect, tolerance=allowed, n_neg=sizes[0], n_pos=sizes[1])
    assert found == pytest.approx(expected, abs=1e-12)


@given(n=st.integers(0, 30), gone=st.integers(0, 30), confidence=st.sampled_from([0.5, 0.9, 0.95, 0.99]))
@FEW
def test_the_interval_of_a_share_is_wilsons(n, gone, confidence):
    from scipy.stats import norm

    gone = min(n, gone)
    cohort = make_cohort([(n, 1)])
    names = list(cohort.table["subject"])[:gone]
    table = dqc.elimination_report(names, cohort, by=["diagnosis"], confidence=confidence)
    row = table[(table["group"] == "control") & (table["images"] == "all")]
    if n == 0:
        assert row.empty, "a cohort without controls has no such group"
        return
    row, z, share = row.iloc[0], norm.ppf((1 + confidence) / 2), gone / n
    middle, half = share + z**2 / (2 * n), z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    assert (row["n"], row["eliminated"], row["share"]) == (n, gone, share)
    assert row["low"] == pytest.approx(max(0, (middle - half) / (1 + z**2 / n)), abs=1e-12)
    assert row["high"] == pytest.approx(min(1, (middle + half) / (1 + z**2 / n)), abs=1e-12)


@given(
    norms=st.lists(st.floats(0.1, 99), min_size=1, max_size=60),
    looks=st.integers(1, 9),
    alpha=st.sampled_from([0.1, 0.3, 0.9]),
)
@FEW
def test_a_guaranteed_limit_lets_no_more_watched_images_pass_than_the_bound_allows(norms, looks, alpha):
    watched = pd.DataFrame({"n": 1, "update_norm": norms})
    allowed = math.floor(2 * alpha / looks * (len(norms) + 1) + 1e-9) - 1
    if allowed < 0:
        with pytest.raises(ValueError, match="needs at least"):
            dqc.CalibratedRule.with_guarantee(watched, alpha=alpha, looks=looks)
        return
    found = dqc.CalibratedRule.with_guarantee(watched, alpha=alpha, looks=looks)
    assert sum(norm > found.limit for norm in norms) <= allowed
    assert found.bound(looks) <= min(1.0, alpha) + 1e-9
