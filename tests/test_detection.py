"""Other ways to find harmful images: every score by hand, and what a detector must not touch or see."""

import json
import os
import subprocess
import sys
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from dqc_lib.cohort import Cohort
from dqc_lib.detection import DETECTORS, MEASURES, SIGHTS, Detector, measure_image, score_images, standardize
from dqc_lib.networks import build_sfcn, freeze_normalization, import_keras, recalibrate_normalization
from dqc_lib.volumes import VolumeCache, write_volume

SHAPE = (16, 16, 16)
CENTERS = ("A", "<img src=x onerror=alert(1)>", "C")
COLUMNS = ["subject", "center", "diagnosis", "sex", "age", "scanner", "path", "role"]
NEED_VERIFICATION = [name for name, detector in DETECTORS.items() if "verification images" in detector.sees]


def write_cohort(folder, *, brightness=1, n_train=7, n_verification=8):
    """Return subjects of three centers in turn, brighter for the diseased, the fourth of them all by a factor."""
    rng, rows = np.random.default_rng(3), []
    for number in range(n_train + n_verification):
        name, diagnosis = f"sub-{number:02d}", number // 2 % 2
        array = rng.integers(1, 120, SHAPE) + 70 * diagnosis
        array = (array * (brightness if number == 3 else 1)).astype(np.float32)
        path = write_volume(folder / f"{name}.nii.gz", array, affine=np.eye(4))
        role = "train" if number < n_train else "verification"
        rows.append((name, CENTERS[number % 3], diagnosis, "F", 60.0, "vendor A", str(path), role))
    return Cohort(pd.DataFrame(rows, columns=COLUMNS), folder)


def build(*, freeze=True):
    model = build_sfcn(SHAPE, width=0.125, dropout=0.3, learning_rate=1e-3)
    if freeze:
        freeze_normalization(model)
    return model


def load_batch(cohort, role):
    """Return images and labels of a role as the model takes them."""
    table = cohort.select(role=role).table
    images = VolumeCache(dict(zip(table["subject"], table["path"], strict=True))).batch(table["subject"])
    return images, table["diagnosis"].to_numpy(np.float32)[:, None]


def read_variables(model):
    keras = import_keras()
    return [keras.ops.convert_to_numpy(v).copy() for v in (*model.variables, *model.optimizer.variables)]


def read_scores(found, detector):
    return found.loc[found["detector"] == detector, "score"].to_numpy()


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return write_cohort(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def model(cohort):
    model = build()
    images, labels = load_batch(cohort, "verification")
    recalibrate_normalization(model, [images])  # otherwise most of its units are dead
    for _ in range(5):
        model.train_on_batch(images, labels)
    return model


@pytest.fixture(scope="module")
def found(model, cohort):
    return score_images(model, cohort)


@pytest.fixture(scope="module")
def gradients(model, cohort):
    """Gradients of the loss by TensorFlow's tape, Keras' training left out: of training and verification images."""
    import tensorflow as tf

    def compute_gradient(image, label):
        with tf.GradientTape() as tape:
            score = tf.cast(model(image[None], training=False), tf.float64)[0, 0]
            loss = -tf.math.log(score if label == 1 else 1 - score)
        parts = tape.gradient(loss, [variable.value for variable in model.trainable_variables])
        return np.concatenate([part.numpy().ravel() for part in parts]).astype(np.float64)

    batches = [load_batch(cohort, role) for role in ("train", "verification")]
    found = [np.array([compute_gradient(*pair) for pair in zip(*batch, strict=True)]) for batch in batches]
    assert (found[0] != 0).mean() > 0.1, "enough of the model is alive"
    return found


# The call


def test_every_detector_gives_every_training_image_one_finite_score(found, cohort):
    train = cohort.select(role="train").table
    assert list(found.columns) == ["subject", "center", "detector", "score", "seconds"]
    for name in DETECTORS:
        rows = found[found["detector"] == name]
        assert rows[["subject", "center"]].values.tolist() == train[["subject", "center"]].values.tolist()
    assert len(found) == len(DETECTORS) * len(train)
    assert np.isfinite(found["score"]).all()
    assert (found["seconds"] > 0).all()


@pytest.mark.parametrize("freeze", [True, False])
def test_the_model_is_the_same_bit_for_bit_and_trains_on_as_if_nothing_had_been_scored(cohort, freeze):
    scored, other = build(freeze=freeze), build(freeze=freeze)
    images, labels = load_batch(cohort, "train")
    for one in (scored, other):
        one.train_on_batch(images, labels)
    before = read_variables(scored)
    score_images(scored, cohort, detectors=DETECTORS if freeze else ["loss", "cleanlab outlier"])
    assert all((a == b).all() for a, b in zip(before, read_variables(scored), strict=True))
    for one in (scored, other):
        one.train_on_batch(images, labels)
    after = read_variables(scored)
    assert all((a == b).all() for a, b in zip(after, read_variables(other), strict=True))
    assert any((a != b).any() for a, b in zip(before, after, strict=True))


def test_scores_do_not_depend_on_the_order_of_the_table(model, tmp_path):
    """Not even where an image with a large gradient comes before one with a small gradient."""
    cohort = write_cohort(tmp_path, brightness=1e8)
    found, turned = (score_images(model, cohort.replace(table)) for table in (cohort.table, cohort.table[::-1]))
    both = found.merge(turned, on=["subject", "center", "detector"], validate="one_to_one")
    assert len(both) == len(found)
    sums = both["detector"] == "center influence"
    np.testing.assert_allclose(both["score_x"][~sums], both["score_y"][~sums], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(both["score_x"][sums], both["score_y"][sums], rtol=1e-4)


def test_marks_of_harm_change_nothing_and_no_detector_gets_to_see_them(model, cohort, found):
    marked = cohort.replace(cohort.table.assign(harm="inversion", placement="single"))
    columns = []

    def peep(material):
        columns.extend([*material.train.columns, *material.verification.columns])
        return np.zeros(len(material.train))

    again = score_images(model, marked, detectors=[*DETECTORS, Detector("peeping", (), "nothing", peep)])
    assert columns
    assert not {"harm", "placement"} & set(columns)
    ours = again[again["detector"] != "peeping"].drop(columns="seconds")
    pd.testing.assert_frame_equal(ours, found.drop(columns="seconds"))


def test_what_detectors_share_is_computed_once_and_counted_for_each(model, cohort, monkeypatch):
    """A clock that goes on by one at every look: a pass takes 1, and the detector around it 3, or 1 where it is
    remembered."""
    clock = count()
    for module in ("detectors", "material"):
        monkeypatch.setattr(f"dqc_lib.detection.{module}.perf_counter", lambda: next(clock))
    passes = []

    def compute(*_):
        passes.append(1)
        return np.zeros((7, 4))

    monkeypatch.setattr("dqc_lib.detection.material.compute_features", compute)
    pair = [Detector(name, ("features",), "", lambda material: material.features[:, 0]) for name in ("one", "two")]
    alone = Detector("three", (), "", lambda material: np.zeros(7))
    found = score_images(model, cohort, detectors=[*pair, alone])
    assert len(passes) == 1
    seconds = found.groupby("detector")["seconds"].first() * 7
    assert seconds.to_dict() == pytest.approx({"one": 3, "two": 1 + 1, "three": 1})


def test_detectors_can_be_chosen_by_name(model, cohort, found):
    some = score_images(model, cohort, detectors=["image quality", DETECTORS["loss"]])
    assert list(some["detector"].unique()) == ["image quality", "loss"]
    np.testing.assert_array_equal(read_scores(some, "loss"), read_scores(found, "loss"))
    assert set(score_images(model, cohort, detectors="loss")["detector"]) == {"loss"}


def test_a_detector_says_what_it_sees_and_what_leaves_a_center():
    assert all(name == detector.name and detector.sees and detector.leaves for name, detector in DETECTORS.items())
    assert {sight for detector in DETECTORS.values() for sight in detector.sees} == set(SIGHTS)
    assert [name for name, detector in DETECTORS.items() if "pixels" in detector.sees] == ["image quality"]
    with pytest.raises(ValueError, match=r"detector 'x' sees \['faces'\]; expected among"):
        Detector("x", ("labels", "faces"), "", lambda material: None)


@pytest.mark.parametrize(
    ("detectors", "error", "said"),
    [
        (["loss", "horoscope"], KeyError, "unknown detectors.*horoscope.*expected among"),
        (["loss", "loss"], ValueError, "each once; came.*'loss', 'loss'"),
        ([], ValueError, "one detector or more"),
        ([Detector("x", (), "", lambda material: [1.0])], ValueError, r"'x' gave scores of shape \(1,\); expected \(7"),
    ],
)
def test_detectors_that_cannot_be_used_are_refused(model, cohort, detectors, error, said):
    with pytest.raises(error, match=said):
        score_images(model, cohort, detectors=detectors)


def test_a_cohort_without_training_subjects_is_refused(model, cohort):
    with pytest.raises(ValueError, match="no training subjects; expected the role 'train'"):
        score_images(model, cohort.select(role="verification"))
    with pytest.raises(ValueError, match="no training subjects; expected the role 'train'"):
        score_images(model, cohort.replace(cohort.table.drop(columns="role")))


@pytest.mark.parametrize("name", NEED_VERIFICATION)
def test_without_verification_images_the_detectors_that_need_them_say_so(model, cohort, name):
    with pytest.raises(ValueError, match=rf"\['{name}'\] need verification images; no subject has the role 'verif"):
        score_images(model, cohort.select(role="train"), detectors=["loss", name])


def test_without_verification_images_the_others_score_as_before(model, cohort, found):
    names = [name for name in DETECTORS if name not in NEED_VERIFICATION]
    assert names == ["loss", "cleanlab label quality", "image quality"]
    alone = score_images(model, cohort.select(role="train"), detectors=names)
    for name in names:
        np.testing.assert_array_equal(read_scores(alone, name), read_scores(found, name))


def test_another_model_or_another_shape_is_refused(cohort):
    keras = import_keras()
    other = keras.Sequential([keras.Input((*SHAPE, 1)), keras.layers.Flatten(), keras.layers.Dense(2)], name="other")
    with pytest.raises(ValueError, match="expected a model from build_sfcn.*came 'other'"):
        score_images(other, cohort)
    with pytest.raises(ValueError, match=r"expects volumes of \(8, 8, 8\), those of the cohort have \(16, 16, 16\)"):
        score_images(build_sfcn((8, 8, 8), width=0.0625), cohort)


def test_a_model_that_diverged_is_refused(cohort):
    model = build()
    model.layers[1].kernel.assign(np.full(model.layers[1].kernel.shape, np.nan, dtype=np.float32))
    with pytest.raises(ValueError, match="the model 'sfcn' has weights that are not finite; has it diverged?"):
        score_images(model, cohort, detectors="loss")


@pytest.mark.parametrize("name", ["cleanlab label quality", "cleanlab outlier"])
def test_without_cleanlab_one_learns_how_to_install_it(model, cohort, monkeypatch, name):
    monkeypatch.setitem(sys.modules, "cleanlab", None)
    with pytest.raises(ImportError, match=r"pip install dqc-lib\[detectors\]"):
        score_images(model, cohort, detectors=name)


# What the model says


def test_the_loss_is_the_cross_entropy_of_the_label_in_the_table(model, cohort, found):
    images, labels = load_batch(cohort, "train")
    score = model.predict_on_batch(images).astype(np.float64)[:, 0]
    expected = [-np.log(p if label else 1 - p) for p, label in zip(score, labels[:, 0], strict=True)]
    np.testing.assert_allclose(read_scores(found, "loss"), expected, rtol=1e-4)
    flipped = cohort.replace(cohort.table.assign(diagnosis=1 - cohort.table["diagnosis"]))
    others = read_scores(score_images(model, flipped, detectors="loss"), "loss")
    np.testing.assert_allclose(np.exp(-others) + np.exp(-np.array(expected)), 1, rtol=1e-4)


def test_the_loss_does_not_saturate_where_the_model_is_sure(cohort):
    model = build()
    kernel, bias = model.layers[-1].get_weights()
    model.layers[-1].set_weights([np.zeros_like(kernel), bias + 200.0])  # a logit of 200: its score is rounded to 1
    losses = read_scores(score_images(model, cohort, detectors="loss"), "loss")
    sick = cohort.select(role="train").table["diagnosis"].to_numpy() == 1
    np.testing.assert_allclose(losses, np.where(sick, np.exp(-200), 200), rtol=1e-6)


def test_label_quality_is_the_probability_of_the_label_less_what_its_class_gets(model, cohort, found):
    images, labels = load_batch(cohort, "train")
    sick = labels[:, 0] == 1
    p = model.predict_on_batch(images).astype(np.float64)[:, 0]
    usual = np.array([(1 - p)[~sick].mean(), p[sick].mean()])
    adjusted = np.column_stack([1 - p, p]) - usual + usual.max()
    adjusted /= adjusted.sum(axis=1, keepdims=True)
    expected = 1 - np.where(sick, adjusted[:, 1], adjusted[:, 0])
    np.testing.assert_allclose(read_scores(found, "cleanlab label quality"), expected, rtol=1e-4)


def test_with_one_diagnosis_label_quality_is_undefined_and_the_rest_is_not(model, cohort):
    table = cohort.table.assign(diagnosis=1)
    found = score_images(model, cohort.replace(table))
    undefined = found.groupby("detector")["score"].agg(lambda scores: scores.isna().all())
    assert list(undefined.index[undefined]) == ["cleanlab label quality"]
    assert found["score"].isna().sum() == 7


def measure_cosine_distances(a, b):
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    return 1 - a @ b.T


@pytest.mark.parametrize("n", [8, 3, 2])
def test_the_outlier_score_is_the_distance_to_the_nearest_verification_images(model, cohort, n):
    keras = import_keras()
    keep = cohort.table[(cohort.table["role"] == "train") | (cohort.table["role"] == "verification").cumsum().le(n)]
    network = keras.Model(model.input, model.get_layer("flatten").output)
    train, known = (
        keras.ops.convert_to_numpy(network(load_batch(cohort, role)[0], training=False)).astype(np.float64)
        for role in ("train", "verification")
    )
    known = known[:n]
    assert (np.linalg.norm(np.concatenate([train, known]), axis=1) > 0).all(), "a cosine needs a direction"
    k = min(5, n - 1)
    among = np.sort(measure_cosine_distances(known, known) + 9 * np.eye(n), axis=1)[:, :k].mean(axis=1)
    away = np.sort(measure_cosine_distances(train, known), axis=1)[:, :k].mean(axis=1)
    scores = read_scores(score_images(model, cohort.replace(keep), detectors="cleanlab outlier"), "cleanlab outlier")
    np.testing.assert_allclose(scores, 1 - np.exp(-away / np.median(among)), rtol=1e-3, atol=1e-5)


def test_next_to_one_verification_image_nothing_is_an_outlier(model, cohort):
    keep = cohort.table[cohort.table["subject"].isin([f"sub-{number:02d}" for number in range(8)])]
    assert score_images(model, cohort.replace(keep), detectors="cleanlab outlier")["score"].isna().all()


# Gradients


def test_the_influence_is_the_dot_product_of_the_gradients(found, gradients):
    train, verification = gradients
    expected = -train @ verification.mean(axis=0)
    np.testing.assert_allclose(read_scores(found, "influence"), expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", [name for name, detector in DETECTORS.items() if "gradients" in detector.sees])
def test_gradients_of_a_model_whose_normalization_would_move_are_refused(cohort, name):
    with pytest.raises(ValueError, match="need a model with frozen normalization"):
        score_images(build(freeze=False), cohort, detectors=name)


def test_a_step_on_an_image_changes_the_verification_loss_by_its_influence(cohort):
    """The loss itself, before and after a small step along the gradient: score times step."""
    import tensorflow as tf

    model = build()
    images, labels = load_batch(cohort, "train")
    held_out, truth = load_batch(cohort, "verification")
    scores = read_scores(score_images(model, cohort, detectors="influence"), "influence")
    weights = [variable.numpy().astype(np.float64) for variable in model.trainable_variables]

    def measure_loss():
        score = model.predict_on_batch(held_out).astype(np.float64)
        return -np.mean(np.log(np.where(truth == 1, score, 1 - score)))

    for number in (0, 2, 5):
        with tf.GradientTape() as tape:
            score = model(images[[number]], training=False)[0, 0]
            loss = -tf.math.log(score if labels[number, 0] == 1 else 1 - score)
        parts = tape.gradient(loss, [variable.value for variable in model.trainable_variables])
        step = 2e-4 / abs(scores[number])
        losses = []
        for sign in (-1, 1):
            for variable, weight, part in zip(model.trainable_variables, weights, parts, strict=True):
                variable.assign((weight - sign * step * part.numpy()).astype(np.float32))
            losses.append(measure_loss())
        assert (losses[1] - losses[0]) / (2 * step) == pytest.approx(scores[number], rel=0.05)


def test_the_alignment_is_the_mean_cosine_with_verification_images_of_the_same_diagnosis(found, gradients, cohort):
    train, verification = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in gradients)
    labels = [load_batch(cohort, role)[1][:, 0] for role in ("train", "verification")]
    cosines = train @ verification.T
    expected = [-row[labels[1] == label].mean() for row, label in zip(cosines, labels[0], strict=True)]
    np.testing.assert_allclose(read_scores(found, "gradient alignment"), expected, atol=1e-4)


def test_the_alignment_is_defined_where_the_model_is_too_sure_for_a_gradient(cohort):
    model = build()
    kernel, bias = model.layers[-1].get_weights()
    model.layers[-1].set_weights([kernel, bias + 500.0])
    found = score_images(model, cohort, detectors=["influence", "gradient alignment"])
    assert read_scores(found, "gradient alignment") == pytest.approx(
        read_scores(score_images(build(), cohort, detectors="gradient alignment"), "gradient alignment"), abs=1e-4
    )
    assert np.isfinite(read_scores(found, "influence")).all()


@pytest.mark.parametrize(
    ("name", "of", "how"), [("influence", "influence", sum), ("alignment", "gradient alignment", np.mean)]
)
def test_a_center_scores_what_its_images_score_together(found, name, of, how):
    images, centers = (found[found["detector"] == detector] for detector in (of, f"center {name}"))
    for center in CENTERS:
        expected = how(images.loc[images["center"] == center, "score"].tolist())
        assert centers.loc[centers["center"] == center, "score"].tolist() == pytest.approx(
            [expected] * (images["center"] == center).sum(), rel=1e-9
        )


def test_a_center_counts_what_is_defined_and_is_undefined_where_nothing_is():
    train = pd.DataFrame({"center": ["A", "B", "A", "B", "C"]})
    frame = pd.DataFrame({"product": [1.0, np.nan, 2.0, 5.0, np.nan], "cosine": [0.5, np.nan, -0.1, 0.3, np.nan]})
    material = SimpleNamespace(train=train, gradients=frame)
    influence, alignment = (DETECTORS[f"center {name}"].score(material) for name in ("influence", "alignment"))
    np.testing.assert_allclose(influence, [-3, -5, -3, -5, np.nan])
    np.testing.assert_allclose(alignment, [-0.2, -0.3, -0.2, -0.3, np.nan])


def test_one_center_gets_one_score(model, cohort):
    one = cohort.replace(cohort.table.assign(center="A"))
    found = score_images(model, one, detectors=["center influence", "center alignment"])
    assert found.groupby("detector")["score"].nunique().to_dict() == {"center influence": 1, "center alignment": 1}


def test_an_image_whose_diagnosis_no_verification_image_has_cannot_be_aligned(model, cohort):
    table = cohort.table
    healthy = table[(table["role"] == "train") | (table["diagnosis"] == 0)]
    only_sick = (table["center"] == "A") & (table["role"] == "train")
    healthy = healthy.assign(diagnosis=healthy["diagnosis"].where(~only_sick, 1))
    found = score_images(model, cohort.replace(healthy), detectors=["gradient alignment", "center alignment"])
    sick = healthy.loc[healthy["role"] == "train", "diagnosis"].to_numpy() == 1
    at_a = healthy.loc[healthy["role"] == "train", "center"].to_numpy() == "A"
    assert (np.isnan(read_scores(found, "gradient alignment")) == sick).all()
    assert (np.isnan(read_scores(found, "center alignment")) == at_a).all()
    assert 0 < at_a.sum() < sick.sum() < 7


# Image quality


def test_measures_of_three_classes_by_hand():
    array = np.zeros((4, 5, 10))
    array[:, :, 4], array[:, :, 5], array[:, :, 6], array[:, :, 7], array[:, :, 8:] = 2, 98, 102, 196, 204
    dark, middle, bright = (
        [0.0] * 80 + [2.0] * 20,
        [98.0] * 20 + [102.0] * 20,
        [196.0] * 20 + [204.0] * 40,
    )
    found = measure_image(array)
    sd = {name: np.std(values, ddof=1) for name, values in (("d", dark), ("m", middle), ("b", bright))}
    step = np.mean(bright) - 100
    assert found["signal_to_noise"] == pytest.approx(np.mean(bright) / sd["b"])
    assert found["contrast_to_noise"] == pytest.approx(step / np.sqrt(sd["d"] ** 2 + sd["m"] ** 2 + sd["b"] ** 2))
    assert found["joint_variation"] == pytest.approx((sd["m"] + sd["b"]) / step)
    energy = (20 * (98**2 + 102**2 + 196**2) + 40 * 204**2) / 100
    assert found["background_energy"] == pytest.approx(20 * 4 / 100 / energy)
    assert found["head_share"] == pytest.approx(0.5)


def test_no_measure_depends_on_the_scale_of_intensities():
    array = np.random.default_rng(0).gamma(2.0, size=(8, 9, 10))
    once, more = measure_image(array), measure_image(1000 * array)
    assert list(once) == list(MEASURES)
    assert more == pytest.approx(once, rel=1e-4)


def test_the_focus_entropy_runs_from_one_bright_voxel_to_all_alike():
    single = np.zeros((4, 4, 4))
    single[1, 2, 3] = 7.0
    assert measure_image(single)["focus_entropy"] == 0
    assert measure_image(np.full((4, 4, 4), 3.0))["focus_entropy"] == pytest.approx(1)


def test_the_border_is_the_median_of_the_faces():
    array = np.full((6, 6, 6), 100.0)
    array[0] = array[-1] = array[:, 0] = array[:, -1] = array[:, :, 0] = array[:, :, -1] = 25.0
    assert measure_image(array)["border"] == pytest.approx(0.25)


def test_the_border_has_six_faces():
    array = np.random.default_rng(4).random((4, 5, 6))
    faces = [
        value for at, value in np.ndenumerate(array) if any(x in (0, n - 1) for x, n in zip(at, (4, 5, 6), strict=True))
    ]
    assert len(faces) == 4 * 5 * 6 - 2 * 3 * 4
    assert measure_image(array)["border"] == pytest.approx(np.median(faces) / np.percentile(array, 95))


def test_the_kurtosis_of_two_values_that_are_equally_frequent_is_minus_two():
    array = np.zeros((4, 4, 8))
    array[:, :, 4:6], array[:, :, 6:] = 90.0, 110.0
    assert measure_image(array)["kurtosis"] == pytest.approx(-2)


@pytest.mark.parametrize("sigma", [1.0, 2.0])
def test_the_smoothness_of_blurred_noise_is_that_of_the_blur(sigma):
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(np.random.default_rng(1).standard_normal((64, 64, 64)), sigma, mode="wrap")
    assert measure_image(noise)["smoothness"] == pytest.approx(np.sqrt(8 * np.log(2)) * sigma, rel=0.05)


def test_where_neighbors_are_unlike_there_is_no_smoothness():
    checkered = np.indices((8, 8, 8)).sum(axis=0) % 2
    assert measure_image(checkered)["smoothness"] == 0


def test_symmetry_compares_left_and_right():
    array = np.random.default_rng(2).random((6, 5, 4))
    assert measure_image(array + array[::-1])["symmetry"] == pytest.approx(1)
    assert measure_image(array - array[::-1])["symmetry"] == pytest.approx(-1)


@pytest.mark.parametrize("array", [np.full((4, 4, 4), 3.0), np.zeros((4, 4, 4))])
def test_a_constant_volume_has_no_classes_to_measure(array):
    found = measure_image(array)
    assert [name for name in MEASURES if np.isfinite(found[name])] == (
        ["focus_entropy", "border"] if array.any() else []
    )


def test_two_intensities_leave_undefined_what_needs_three():
    found = measure_image(np.eye(4)[None].repeat(4, axis=0))
    assert all(
        np.isnan(found[name]) for name in ("signal_to_noise", "contrast_to_noise", "joint_variation", "kurtosis")
    )
    assert (found["background_energy"], found["head_share"]) == (0, 0.25)


def test_one_bright_voxel_leaves_undefined_only_what_needs_a_spread():
    array = np.zeros((4, 4, 4))
    array[1:3, 1:3, 1:3] = 50.0
    array[1, 1, 1] = 200.0
    found = measure_image(array)
    assert np.isnan(found["signal_to_noise"])
    assert found["head_share"] == pytest.approx(8 / 64)


def test_a_column_is_measured_by_its_median_deviation():
    values = np.array([[1.0, 5.0], [2.0, 5.0], [4.0, np.nan], [8.0, 5.0], [16.0, 5.0]])
    z = standardize(values)  # median 4, deviations 3, 2, 0, 4, 12, their median 3
    np.testing.assert_allclose(z[:, 0], np.array([-3, -2, 0, 4, 12]) / (1.4826 * 3))
    np.testing.assert_array_equal(z[:, 1], [0, 0, np.nan, 0, 0])


def test_where_most_are_alike_the_mean_deviation_takes_over():
    z = standardize(np.array([[0.0], [0.0], [0.0], [0.0], [10.0]]))  # median deviation 0, mean deviation 2
    np.testing.assert_allclose(z[:, 0], [0, 0, 0, 0, 10 / (1.2533 * 2)])


def test_a_measure_that_no_image_has_stays_undefined():
    z = standardize(np.array([[np.nan, 1.0], [np.nan, 2.0], [np.nan, 3.0]]))
    assert np.isnan(z[:, 0]).all()
    assert np.isfinite(z[:, 1]).all()


def make_material(qualities):
    """Return what `score_image_quality` reads of a material."""
    return SimpleNamespace(qualities=np.array(qualities, dtype=float))


def test_the_image_quality_is_the_most_unusual_measure():
    material = make_material([[1, 3], [2, 3], [4, np.nan], [8, 3], [16, 3]])
    expected = np.array([3, 2, 0, 4, 12]) / (1.4826 * 3)
    np.testing.assert_allclose(DETECTORS["image quality"].score(material), expected)


def test_an_image_without_any_measure_and_an_image_without_others_have_no_image_quality():
    scores = DETECTORS["image quality"].score(make_material([[1.0], [2.0], [np.nan], [3.0]]))
    np.testing.assert_array_equal(np.isnan(scores), [False, False, True, False])
    assert np.isnan(DETECTORS["image quality"].score(make_material([[5.0, 6.0]]))).all()


def test_a_brighter_image_is_of_no_other_quality(model, tmp_path, found):
    brighter = score_images(model, write_cohort(tmp_path, brightness=8), detectors="image quality")
    np.testing.assert_allclose(brighter["score"], read_scores(found, "image quality"), rtol=1e-4)


# Backends


def score_elsewhere(folder, backend):
    """Return the scores that another process computes with a backend, from weights in the folder."""
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", __file__, str(folder)],
        env=os.environ | {"KERAS_BACKEND": backend, "CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / f"{backend}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends_score_alike_and_leave_the_model_alone(model, tmp_path, backend):
    pytest.importorskip(backend, reason=f"{backend} is not installed (an optional backend)")
    np.savez(tmp_path / "weights.npz", *model.get_weights())
    theirs = score_elsewhere(tmp_path, backend)
    assert theirs["backend"] == backend
    assert theirs["unchanged"]
    ours = score_images(model, write_cohort(tmp_path))
    for name in DETECTORS:
        expected = read_scores(ours, name)
        np.testing.assert_allclose(
            theirs["scores"][name], expected, rtol=1e-2, atol=1e-4 * np.abs(expected).max(), err_msg=name
        )


if __name__ == "__main__":
    home = Path(sys.argv[1])
    network = build()
    with np.load(home / "weights.npz") as stored:
        network.set_weights([stored[key] for key in stored.files])
    start = read_variables(network)
    table = score_images(network, write_cohort(home))
    outcome = {
        "backend": import_keras().backend.backend(),
        "unchanged": all(bool((a == b).all()) for a, b in zip(start, read_variables(network), strict=True)),
        "scores": {name: read_scores(table, name).tolist() for name in DETECTORS},
    }
    (home / f"{outcome['backend']}.json").write_text(json.dumps(outcome), encoding="utf-8")
