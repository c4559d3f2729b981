"""The last features of a model: what its decision is made from, image by image."""

import numpy as np
import pandas as pd
import pytest

from dqc_lib.networks import build_sfcn
from dqc_lib.phantom import Recipe, write_phantoms
from dqc_lib.travelling import Arm, read_features
from dqc_lib.volumes import read_volume


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("features") / "phantoms"
    return write_phantoms(folder, sites=[(2, 1)], recipe=Recipe(shape=(16, 16, 16)), progress=False)


def make_arm(folder, *, shape=(16, 16, 16)):
    folder.mkdir()
    model = build_sfcn(shape, width=0.125, seed=3)
    model.save(folder / "cycle-000.keras")
    empty = pd.DataFrame()
    return Arm("qc", empty, empty, empty, folder), model


def test_the_decision_is_the_last_layer_applied_to_the_features(cohort, tmp_path):
    arm, model = make_arm(tmp_path / "run")
    features = read_features(arm, cohort)
    assert list(features.index) == list(cohort.table["subject"]) and features.index.name == "subject"
    weights, bias = model.get_layer("dense").get_weights()
    logit = features.to_numpy() @ weights[:, 0] + bias[0]
    images = np.stack([read_volume(path).array for path in cohort.table["path"]])
    expected = np.asarray(model.predict_on_batch(images[..., np.newaxis].astype(np.float32)))[:, 0]
    np.testing.assert_allclose(1 / (1 + np.exp(-logit)), expected, rtol=1e-4)


def test_volumes_of_another_shape_are_refused(cohort, tmp_path):
    arm, _ = make_arm(tmp_path / "run", shape=(20, 16, 16))
    with pytest.raises(ValueError, match="the arm's model expects volumes of"):
        read_features(arm, cohort)


def test_an_arm_whose_models_are_gone_is_refused(cohort, tmp_path):
    arm, _ = make_arm(tmp_path / "run")
    (arm.folder / "cycle-000.keras").unlink()
    with pytest.raises(FileNotFoundError, match="holds no model of any cycle"):
        read_features(arm, cohort)


def test_what_is_no_arm_or_no_cohort_is_refused(cohort, tmp_path):
    arm, _ = make_arm(tmp_path / "run")
    with pytest.raises(TypeError, match="arm must be a Arm"):
        read_features("qc", cohort)
    with pytest.raises(TypeError, match="cohort must be a Cohort"):
        read_features(arm, cohort.table)
