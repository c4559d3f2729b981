"""The ledger: what happened is written at once, and only rows of the fixed schema get in."""

import json

import numpy as np
import pandas as pd
import pytest

from dqc_lib.ledger import COLUMNS, Ledger, summarize_centers, summarize_subjects


def make_row(**changes):
    row = {
        "cycle": 3,
        "stage": "control",
        "level": "batch",
        "center": "A",
        "subjects": ["sub-1", "sub-2"],
        "n": 2,
        "update_norm": 210.5,
        "fp": 1,
        "n_neg": 8,
        "fn": 3,
        "n_pos": 4,
        "loss": 0.61,
        "reference_fp": 2,
        "reference_n_neg": 8,
        "reference_fn": 0,
        "reference_n_pos": 4,
        "reference_loss": 0.6,
        "exact": True,
        "tolerance": 0.02,
        "norm_limit": 740.0,
        "decision": "accepted",
        "seconds": 0.25,
    }
    return row | changes


def make_single(subject, **changes):
    return make_row(level="single", subjects=[subject], n=1, **changes)


SKIPPED = dict.fromkeys(
    ["update_norm", "loss", "reference_loss", "exact", "tolerance", "norm_limit", "fp", "n_neg", "fn", "n_pos"]
)
SKIPPED |= dict.fromkeys(["reference_fp", "reference_n_neg", "reference_fn", "reference_n_pos"])


def test_the_schema_is_the_agreed_one_in_the_agreed_order():
    assert list(COLUMNS) == list(make_row())


def test_a_row_is_in_the_file_as_soon_as_it_is_appended(tmp_path):
    path = tmp_path / "new" / "ledger.jsonl"
    ledger = Ledger(path)
    ledger.append(**make_row())
    assert json.loads(path.read_text()) == make_row()
    ledger.append(**make_row(cycle=4))
    assert path.read_text().count("\n") == 2
    assert len(ledger) == 2
    assert [row["cycle"] for row in ledger] == [3, 4]
    assert isinstance(ledger.rows, tuple)


def test_a_ledger_without_a_path_lives_in_memory():
    ledger = Ledger()
    ledger.append(**make_row())
    assert ledger.rows == (make_row(),)


def test_numpy_numbers_and_tuples_are_written_as_plain_values(tmp_path):
    path = tmp_path / "ledger.jsonl"
    Ledger(path).append(
        **make_row(cycle=np.int64(3), fp=np.int32(1), loss=np.float32(0.5), subjects=("sub-1", "sub-2"))
    )
    assert json.loads(path.read_text()) == make_row(loss=0.5)


def test_the_largest_number_that_a_column_holds_is_written_and_tabulated(tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.append(**make_row(cycle=2**63 - 1))
    assert Ledger.read(ledger.path).to_frame()["cycle"].tolist() == [2**63 - 1]


def test_one_error_of_one_subject_is_a_rate_of_1():
    ledger = Ledger()
    ledger.append(**make_row(fp=1, n_neg=1, fn=0, n_pos=0))
    frame = ledger.to_frame()
    assert frame["false_positive_rate"].tolist() == [1.0]
    assert frame["false_negative_rate"].isna().tolist() == [True], "of nobody there is none"


def test_a_whole_line_that_only_begins_like_a_row_is_no_row_that_was_cut_short(tmp_path):
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(b'{"cycle": 3, "stage"\n')
    with pytest.raises(ValueError, match="line 1: not JSON"):
        Ledger.read(path)


def test_a_diverged_update_is_recorded_and_read_back(tmp_path):
    path = tmp_path / "ledger.jsonl"
    Ledger(path).append(**make_row(update_norm=float("inf"), loss=float("nan")))
    row = Ledger.read(path).rows[0]
    assert row["update_norm"] == float("inf")
    assert np.isnan(row["loss"])


BAD = [
    ({"colour": "red"}, ValueError, "unknown key 'colour'; expected cycle, stage"),
    ({"stage": "warmup"}, ValueError, "stage is 'warmup'; expected one of pretraining, watch, control, closing"),
    ({"level": "image"}, ValueError, "level is 'image'; expected one of batch, single, revisit"),
    (
        {"decision": "ignored"},
        ValueError,
        "decision is 'ignored'; expected one of accepted, split, deferred, eliminated",
    ),
    ({"decision": None}, ValueError, "decision is None; expected one of"),
    ({"center": ""}, TypeError, "center holds ''; expected a name"),
    ({"center": 3}, TypeError, "center holds 3; expected a name"),
    ({"subjects": "sub-1"}, TypeError, "subjects is 'sub-1'; expected a list"),
    ({"subjects": []}, TypeError, r"subjects is \[\]; expected a list of at least one"),
    ({"subjects": ["sub-1", 2]}, TypeError, "subjects holds 2; expected a name"),
    ({"n": 3}, ValueError, "n is 3; expected 2, the number of subjects"),
    ({"n": None}, TypeError, "n is None; expected an integer"),
    ({"cycle": 1.5}, TypeError, "cycle is 1.5; expected an integer"),
    ({"cycle": True}, TypeError, "cycle is True; expected an integer"),
    ({"cycle": -1}, ValueError, "cycle is -1; expected an integer from 0"),
    ({"fp": 0.2}, TypeError, "fp is 0.2; expected an integer"),
    ({"fp": 9}, ValueError, "fp is 9 and n_neg is 8; expected .* fp at most n_neg"),
    ({"fn": None}, ValueError, "fn is None and n_pos is 4; expected both or neither"),
    ({"reference_n_pos": None}, ValueError, "reference_fn is 0 and reference_n_pos is None; expected both"),
    ({"fp": 1, "n_neg": 0}, ValueError, "fp is 1 and n_neg is 0; expected .* fp at most n_neg"),
    ({"cycle": None}, TypeError, "cycle is None; expected an integer"),
    ({"cycle": 2**63}, ValueError, "cycle is 9223372036854775808; expected an integer from 0"),
    ({"loss": "low"}, TypeError, "loss is 'low'; expected a number"),
    ({"seconds": None}, TypeError, "seconds is None; expected a number"),
    ({"exact": 1}, TypeError, "exact is 1; expected True or False"),
]


@pytest.mark.parametrize(("changes", "kind", "message"), BAD, ids=[str(case[0]) for case in BAD])
def test_a_bad_row_is_refused_by_column_and_nothing_is_written(tmp_path, changes, kind, message):
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path)
    with pytest.raises(kind, match=message):
        ledger.append(**make_row(**changes))
    assert path.read_text() == ""
    assert len(ledger) == 0


@pytest.mark.parametrize("name", COLUMNS)
def test_every_key_is_required(name):
    row = make_row()
    del row[name]
    with pytest.raises(ValueError, match=f"key '{name}' is missing; expected"):
        Ledger().append(**row)


def test_rates_are_counts_over_their_denominators_and_nan_where_undefined():
    ledger = Ledger()
    ledger.append(**make_row())
    ledger.append(**make_row(fn=0, n_pos=0))
    ledger.append(**make_row(**SKIPPED))
    frame = ledger.to_frame()
    assert list(frame.columns[: len(COLUMNS)]) == list(COLUMNS)
    np.testing.assert_array_equal(frame["false_positive_rate"], [0.125, 0.125, np.nan])
    np.testing.assert_array_equal(frame["false_negative_rate"], [0.75, np.nan, np.nan])
    np.testing.assert_array_equal(frame["reference_false_positive_rate"], [0.25, 0.25, np.nan])
    np.testing.assert_array_equal(frame["reference_false_negative_rate"], [0.0, 0.0, np.nan])
    assert frame["fp"].dtype == "Int64"
    assert frame["fp"].isna().tolist() == [False, False, True]
    assert frame["loss"].dtype == frame["false_positive_rate"].dtype == float


def test_an_empty_ledger_has_the_columns_and_no_rows():
    frame = Ledger().to_frame()
    assert frame.empty
    assert "false_positive_rate" in frame
    assert summarize_centers(frame).empty
    assert summarize_subjects(frame).empty


def write_rows(path, n=3):
    ledger = Ledger(path)
    for cycle in range(n):
        ledger.append(**make_row(cycle=cycle))
    return path


def test_an_existing_file_is_continued(tmp_path):
    path = write_rows(tmp_path / "ledger.jsonl")
    ledger = Ledger(path)
    assert len(ledger) == 3
    ledger.append(**make_row(cycle=3))
    assert [row["cycle"] for row in Ledger.read(path)] == [0, 1, 2, 3]


def test_every_cut_of_the_last_line_loses_that_line_and_no_other(tmp_path):
    path = write_rows(tmp_path / "ledger.jsonl")
    whole = path.read_bytes()
    start = whole[:-1].rindex(b"\n") + 1
    for end in (start + 1, start + 40, len(whole) - 2):
        path.write_bytes(whole[:end])
        with pytest.warns(UserWarning, match="ledger.jsonl, line 3: cut short"):
            assert [row["cycle"] for row in Ledger.read(path)] == [0, 1]
        assert path.read_bytes() == whole[:end], "reading must not change the file"
        with pytest.warns(UserWarning, match="ledger.jsonl, line 3: cut short"):
            ledger = Ledger(path)
        ledger.append(**make_row(cycle=9))
        assert [row["cycle"] for row in Ledger.read(path)] == [0, 1, 9]


def test_a_whole_last_row_without_its_line_end_is_kept(tmp_path):
    path = write_rows(tmp_path / "ledger.jsonl")
    path.write_bytes(path.read_bytes()[:-1])
    assert len(Ledger.read(path)) == 3
    Ledger(path).append(**make_row(cycle=3))
    assert [row["cycle"] for row in Ledger.read(path)] == [0, 1, 2, 3]


@pytest.mark.parametrize("line", ["{half", "[1, 2]", '{"cycle": 1}', "", json.dumps(make_row(n=7))])
@pytest.mark.parametrize("open_ledger", [Ledger, Ledger.read])
def test_a_malformed_line_is_named_by_file_and_number_and_the_file_is_kept(tmp_path, line, open_ledger):
    path = write_rows(tmp_path / "ledger.jsonl")
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], line, lines[2]]) + "\n")
    before = path.read_bytes()
    with pytest.raises(ValueError, match="ledger.jsonl, line 2: .*expected"):
        open_ledger(path)
    assert path.read_bytes() == before


def test_a_missing_file_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.jsonl: no such file; expected a ledger"):
        Ledger.read(tmp_path / "none.jsonl")


def make_history():
    """Return a history: sub-1 is deferred and acquitted, sub-2 deferred and eliminated, center B never in doubt."""
    ledger = Ledger()
    ledger.append(**make_row(cycle=0, decision="split"))
    ledger.append(**make_single("sub-1", cycle=0, decision="deferred"))
    ledger.append(**make_single("sub-2", cycle=0, decision="deferred"))
    ledger.append(**make_row(cycle=0, center="B", subjects=["sub-3"], n=1))
    ledger.append(**make_single("sub-1", cycle=2) | {"level": "revisit"})
    ledger.append(**make_single("sub-2", cycle=2, decision="eliminated") | {"level": "revisit"})
    ledger.append(**make_row(cycle=3, subjects=["sub-1"], n=1))
    return ledger.to_frame()


def test_the_summary_by_center_counts_attempts_and_distinct_subjects():
    expected = pd.DataFrame(
        {
            "attempts": [6, 1],
            "rejected": [4, 0],
            "share_rejected": [4 / 6, 0.0],
            "subjects": [2, 1],
            "deferred": [2, 0],
            "eliminated": [1, 0],
        },
        index=pd.Index(["A", "B"], name="center"),
    )
    pd.testing.assert_frame_equal(summarize_centers(make_history()), expected, check_index_type=False)


def test_the_summary_by_subject_follows_each_one_to_its_end():
    expected = pd.DataFrame(
        {
            "center": ["A", "A", "B"],
            "visits": [4, 3, 1],
            "singles": [2, 2, 0],
            "deferred": [1, 1, 0],
            "eliminated": [False, True, False],
            "eliminated_cycle": pd.array([None, 2, None], dtype="Int64"),
            "last_decision": ["accepted", "eliminated", "accepted"],
        },
        index=pd.Index(["sub-1", "sub-2", "sub-3"], name="subject"),
    )
    pd.testing.assert_frame_equal(summarize_subjects(make_history()), expected, check_index_type=False)


def test_a_ledger_shows_itself_escaped(tmp_path):
    ledger = Ledger(tmp_path / "<b>.jsonl")
    ledger.append(**make_row())
    assert ledger._repr_html_() == "<b>Ledger</b> &lt;b&gt;.jsonl: 1 attempts (1 accepted)"


def test_a_ledger_in_memory_counts_its_decisions():
    ledger = Ledger()
    assert ledger._repr_html_() == "<b>Ledger</b> in memory: 0 attempts"
    for row in (make_row(), make_row(decision="split"), make_row()):
        ledger.append(**row)
    assert ledger._repr_html_() == "<b>Ledger</b> in memory: 3 attempts (2 accepted, 1 split)"


def test_summaries_are_in_the_order_of_first_attempts():
    ledger = Ledger()
    ledger.append(**make_row(center="B", subjects=["z", "y"], n=2))
    ledger.append(**make_row(center="A", subjects=["x"], n=1))
    ledger.append(**make_row(center="B", subjects=["a"], n=1, decision="split"))
    centers, subjects = summarize_centers(ledger.to_frame()), summarize_subjects(ledger.to_frame())
    assert centers.index.tolist() == ["B", "A"] and centers["rejected"].tolist() == [1, 0]
    assert subjects.index.tolist() == ["z", "y", "x", "a"] and subjects["center"].tolist() == ["B", "B", "A", "B"]
    assert subjects["eliminated_cycle"].isna().all() and subjects["eliminated_cycle"].dtype == "Int64"


def test_who_was_absent_stands_between_the_attempts_and_counts_as_none(tmp_path):
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path)
    ledger.append(**make_row())
    ledger.note_presence(cycle=3, stage="control", center="B", present=False, reason="B: no answer")
    ledger.append(**make_row(cycle=4))
    ledger.note_presence(cycle=5, stage="closing", center="B", present=True)
    ledger.note_presence(cycle=5, stage="closing", center="A", present=True, reason="A: weights are not finite")
    assert len(ledger) == len(ledger.rows) == len(ledger.to_frame()) == 2
    for found in (ledger, Ledger.read(path), Ledger(path)):
        assert found.presences == ledger.presences
        assert [(at.after, at.cycle, at.stage, at.center, at.present, at.reason) for at in found.presences] == [
            (1, 3, "control", "B", False, "B: no answer"),
            (2, 5, "closing", "B", True, ""),
            (2, 5, "closing", "A", True, "A: weights are not finite"),
        ]
    table = ledger.list_presences()
    assert list(table.columns) == ["after", "cycle", "stage", "center", "present", "reason"]
    assert table["present"].tolist() == [False, True, True] and table["after"].tolist() == [1, 2, 2]
    assert Ledger().list_presences().empty and Ledger().list_presences()["present"].dtype == bool
    assert ledger._repr_html_().endswith("2 attempts (2 accepted; 1 center absent for a time)")


ABSENT = {"cycle": 3, "stage": "control", "center": "B", "present": False, "reason": "no answer"}
ODD = {
    "an unknown key": ({"colour": "red"}, "keys are .*colour; expected cycle, stage, center, present, reason"),
    "a word for present": ({"present": "no"}, "present is 'no'; expected True or False"),
    "no reason": ({"reason": ""}, "reason is ''; expected a text, empty for a center that is back"),
    "a number as a reason": ({"reason": 3}, "reason is 3; expected a text"),
    "no center": ({"center": ""}, "center holds ''; expected a name"),
    "an unknown stage": ({"stage": "lunch"}, "stage is 'lunch'; expected one of"),
    "half a cycle": ({"cycle": 0.5}, "cycle is 0.5; expected an integer"),
}


@pytest.mark.parametrize("name", ODD)
def test_an_absence_that_cannot_be_is_refused_in_a_file_and_on_the_way_into_it(tmp_path, name):
    changes, words = ODD[name]
    path = tmp_path / "ledger.jsonl"
    path.write_text(json.dumps(ABSENT | changes) + "\n")
    with pytest.raises(ValueError, match=f"line 1: {words}"):
        Ledger.read(path)
    if "colour" not in changes:
        ledger = Ledger(tmp_path / "new.jsonl")
        with pytest.raises((TypeError, ValueError), match=words):
            ledger.note_presence(**ABSENT | changes)
        assert not ledger.presences and ledger.path.read_text() == ""
