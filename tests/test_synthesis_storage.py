"""Trained arms as files: what is read is what was written, other records are trained anew, and damage is told."""

from dataclasses import replace

import numpy as np
import pytest

from dqc_lib.synthesis import TrainingSchedule, load_arm, sample_arm, save_arm, train_arm, train_or_load

SHORT = TrainingSchedule(rounds=1, batch=8)
VISITS = {"A": (np.random.default_rng(0).random((6, 3, 4)) < 0.4).astype(float), "B": np.ones((2, 3, 4))}


@pytest.mark.parametrize("arm", ["local", "averaging"])
def test_an_arm_is_read_as_it_was_written(tmp_path, arm):
    trained = train_arm(arm, VISITS, schedule=SHORT)
    found = load_arm(save_arm(trained, tmp_path / "new" / "arm.npz"))
    for name in ("arm", "schedule", "sizes", "n_steps", "seconds", "traffic"):
        assert getattr(found, name) == getattr(trained, name), name
    assert list(found.generators) == list(trained.generators)
    assert (sample_arm(found, 20) == sample_arm(trained, 20)).all()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["arm.npz"]


def test_the_same_is_trained_once_and_anything_else_anew(tmp_path):
    ask = {"folder": tmp_path, "schedule": SHORT}
    first = train_or_load("averaging", VISITS, **ask)
    assert train_or_load("averaging", VISITS, **ask).seconds == first.seconds
    assert len(list(tmp_path.iterdir())) == 1
    other = VISITS | {"B": VISITS["B"] * [[[1, 1, 1, 0]]]}
    train_or_load("averaging", other, **ask)
    train_or_load("averaging", VISITS, folder=tmp_path, schedule=replace(SHORT, seed=1))
    train_or_load("travelling", VISITS, **ask)
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("name", ["FORMAT", "LEARNING_RATE"])
def test_another_format_and_another_learning_rate_train_anew(tmp_path, monkeypatch, name):
    train_or_load("averaging", VISITS, folder=tmp_path, schedule=SHORT)
    monkeypatch.setattr(f"dqc_lib.synthesis.storage.{name}", 77)
    train_or_load("averaging", VISITS, folder=tmp_path, schedule=SHORT)
    assert len(list(tmp_path.iterdir())) == 2


def test_what_is_no_trained_arm_is_told(tmp_path):
    path = tmp_path / "arm.npz"
    with pytest.raises(FileNotFoundError, match=r"arm.npz: no such file; expected one of save_arm"):
        load_arm(path)
    path.write_bytes(b"PK")
    with pytest.raises(ValueError, match="arm.npz: damaged .*; expected a zip archive"):
        load_arm(path)
    np.savez(path, note=np.array("{}"))
    with pytest.raises(ValueError, match="arm.npz: damaged .*; expected a file of save_arm"):
        load_arm(path)


def test_weights_of_other_shapes_than_the_note_says_are_refused(tmp_path):
    path = save_arm(train_arm("local", VISITS, schedule=SHORT), tmp_path / "arm.npz")
    with np.load(path) as held:
        arrays = dict(held)
    np.savez(path, **arrays | {"1-3": arrays["1-3"][:-1]})
    with pytest.raises(ValueError, match="arm.npz: damaged .*the weights of 'B' have other shapes"):
        load_arm(path)


def test_a_file_that_claims_too_much_is_not_unpacked(tmp_path, monkeypatch):
    path = save_arm(train_arm("averaging", VISITS, schedule=SHORT), tmp_path / "arm.npz")
    monkeypatch.setattr("dqc_lib.synthesis.storage.MOST_BYTES", 1000)
    with pytest.raises(ValueError, match=r"arm.npz: \d+ bytes unpacked; expected at most 1000"):
        load_arm(path)
