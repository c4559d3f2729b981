"""Screening: every image is judged by models that never met its center, and who is unusual is only put aside."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from dqc_lib.cohort import Cohort
from dqc_lib.travelling import Schedule, Study, screen_centers, screening
from dqc_lib.volumes import write_volume

SHAPE = (16, 16, 16)
SIZES = {"large": 6, "odd": 4, "small": 2, "tiny": 2}


def make_cohort(folder, *, sizes=None, one_class=()):
    """Return training subjects of both diagnoses by turns, with one verification subject of each at every center."""
    rng, rows = np.random.default_rng(0), []
    for center, size in (sizes or SIZES).items():
        for at in range(size + 2):
            name, diagnosis = f"sub-{center}{at}", 0 if center in one_class else at % 2
            voxels = rng.integers(0, 120, SHAPE).astype(np.uint8) + np.uint8(70 * diagnosis)
            path = write_volume(folder / f"{name}.nii.gz", voxels, affine=np.eye(4))
            role = "train" if at < size else "verification"
            rows.append((name, center, diagnosis, "F", 60.0, "vendor A", str(path), role))
    columns = ["subject", "center", "diagnosis", "sex", "age", "scanner", "path", "role"]
    return Cohort(pd.DataFrame(rows, columns=columns), folder)


@pytest.fixture
def cohort(tmp_path):
    return make_cohort(tmp_path)


class ScriptedStudy:
    """Knows the norm of every image and a limit; notes who pre-trained and who was measured."""

    made = []
    norms = {}

    def __init__(self, cohort, *, schedule, folder, pretrain_on, progress):
        assert "harm" not in cohort.table, "the truth is not there to be read"
        self.members, self.measured = list(pretrain_on), []
        self.limit = 10.0 * len(ScriptedStudy.made) + 10.0
        ScriptedStudy.made.append(self)

    def make_rule(self, name):
        assert name == "calibrated"
        return SimpleNamespace(limit=self.limit)

    def open_engine(self, *, measure):
        assert measure
        return SimpleNamespace(read_gradient=self.read, scale=SimpleNamespace(measure=lambda norm: norm))

    def read(self, subject):
        self.measured.append(subject)
        return ScriptedStudy.norms.get(subject, 1.0)


@pytest.fixture
def scripted(monkeypatch):
    monkeypatch.setattr(screening, "Study", ScriptedStudy)
    monkeypatch.setattr(ScriptedStudy, "made", [])
    monkeypatch.setattr(ScriptedStudy, "norms", {})
    return ScriptedStudy


def test_centers_are_dealt_by_size_and_no_model_judges_a_center_it_met(cohort, scripted):
    screened = screen_centers(cohort, groups=2)
    first, second = scripted.made
    assert {name[4:-1] for name in first.members} == {"large", "small"}, "the largest and the third"
    assert {name[4:-1] for name in second.members} == {"odd", "tiny"}
    for one, other in ((first, second), (second, first)):
        assert sorted(one.measured) == sorted(other.members)
    train = cohort.table.loc[cohort.table["role"] == "train", "subject"]
    assert list(screened["subject"]) == list(train)
    assert screened.groupby("center")["group"].first().to_dict() == {"large": 0, "odd": 1, "small": 0, "tiny": 1}


def test_an_image_is_suspicious_if_one_model_finds_it_beyond_its_own_limit(cohort, scripted):
    # three groups: large, tiny | odd | small; their limits are 10, 20 and 30
    scripted.norms = {"sub-odd0": 15.0, "sub-large0": 15.0, "sub-small0": 30.0, "sub-tiny0": 20.0}
    screened = screen_centers(cohort, groups=3).set_index("subject")
    assert screened.loc["sub-odd0", "excess"] == pytest.approx(1.5), "15 of 10, and 15 of 30"
    assert screened.loc["sub-large0", "excess"] == pytest.approx(0.75), "its own model, of limit 10, is not asked"
    assert screened.loc["sub-small0", "excess"] == pytest.approx(3.0)
    assert screened.loc["sub-tiny0", "excess"] == pytest.approx(1.0)
    assert set(screened.index[screened["suspicious"]]) == {"sub-odd0", "sub-small0"}, "at the limit is not beyond it"


def test_what_is_known_about_harm_changes_nothing(cohort, scripted):
    plain = screen_centers(cohort, groups=2)
    told = cohort.replace(cohort.table.assign(harm="inversion", placement="center"))
    pd.testing.assert_frame_equal(screen_centers(told, groups=2).drop(columns="excess"), plain.drop(columns="excess"))


@pytest.mark.parametrize("groups", [1, 5, 0])
def test_groups_that_cannot_be_are_refused(cohort, groups):
    with pytest.raises(ValueError, match=f"groups must be from 2 to 4, the number of centers that train, got {groups}"):
        screen_centers(cohort, groups=groups)


def test_a_group_of_one_diagnosis_is_refused_before_anything_is_trained(tmp_path, scripted):
    cohort = make_cohort(tmp_path, sizes={"a": 4, "b": 3}, one_class=("b",))
    with pytest.raises(
        ValueError, match="the group of b would train on one diagnosis only; choose fewer groups"
    ):
        screen_centers(cohort, groups=2)
    assert not scripted.made


def test_a_screened_start_runs_on_real_files(cohort, tmp_path):
    schedule = Schedule(warm_cycles=1, calm_cycles=1, control_cycles=1, width=0.0625)
    options = {"schedule": schedule, "folder": tmp_path / "runs", "progress": False}
    screened = screen_centers(cohort, groups=2, **options)
    assert np.isfinite(screened["excess"]).all()
    calm = screened.loc[~screened["suspicious"], "subject"]
    study = Study(cohort, pretrain_on=calm, **options)
    assert study.held_back == set(screened["subject"]) - set(calm)
    again = screen_centers(cohort, groups=2, **options)
    pd.testing.assert_frame_equal(again, screened)
