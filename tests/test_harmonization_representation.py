"""Encoders of images and what a linear reader makes of them: the loss by hand, what training sees, who is tested."""

import numpy as np
import pandas as pd
import pytest

from dqc_lib.harmonization import (
    LabelledScans,
    augment_scans,
    build_encoder,
    contrast_probes,
    encode,
    fit_components,
    measure_nt_xent,
    pretrain_contrastive,
    probe_encoders,
    summarize_probes,
    train_supervised,
)
from dqc_lib.networks import import_keras

SHAPE = (16, 24)


def draw_images(n, seed=0):
    return np.random.default_rng(seed).uniform(size=(n, *SHAPE)).astype(np.float32)


def make_scans(n, *, per=2, seed=0, first=0, gap=0.3):
    """Returns scans of n subjects, noise whose brightness differs by `gap` between the classes."""
    labels = np.arange(n) % 2
    images = 0.6 * draw_images(n * per, seed) + gap * np.repeat(labels, per)[:, np.newaxis, np.newaxis]
    return LabelledScans(images, np.repeat(labels, per), np.repeat([f"s{first + k:03d}" for k in range(n)], per))


def compute_nt_xent(first, second, temperature):
    """Equation 1 of Chen et al. 2020, one view and one partner after the other."""
    views = np.concatenate([first, second])
    n, losses = len(first), []
    cosine = lambda a, b: a @ b / np.linalg.norm(a) / np.linalg.norm(b)  # noqa: E731
    for i in range(2 * n):
        partner = (i + n) % (2 * n)
        others = sum(np.exp(cosine(views[i], views[k]) / temperature) for k in range(2 * n) if k != i)
        losses.append(-np.log(np.exp(cosine(views[i], views[partner]) / temperature) / others))
    return (np.array(losses[:n]) + losses[n:]) / 2


# The loss


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_the_loss_is_that_of_the_paper(temperature):
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 7, 5)).astype(np.float32)
    found = import_keras().ops.convert_to_numpy(measure_nt_xent(first, second, temperature=temperature))
    np.testing.assert_allclose(found, compute_nt_xent(first, second, temperature), rtol=1e-4)


def test_only_directions_count_and_a_view_of_zeros_gives_no_nan():
    rng = np.random.default_rng(1)
    first, second = rng.normal(size=(2, 4, 3)).astype(np.float32)
    convert = import_keras().ops.convert_to_numpy
    plain = convert(measure_nt_xent(first, second, temperature=0.5))
    np.testing.assert_allclose(convert(measure_nt_xent(3 * first, second / 7, temperature=0.5)), plain, rtol=1e-4)
    assert np.isfinite(convert(measure_nt_xent(0 * first, second, temperature=0.5))).all()


def test_two_pairs_that_are_told_apart_cost_what_a_hand_computes():
    # partners alike, strangers at right angles: -log(e^2 / (e^2 + 1 + 1)) for a temperature of 0.5
    eye = np.eye(2, dtype=np.float32)
    found = import_keras().ops.convert_to_numpy(measure_nt_xent(eye, eye, temperature=0.5))
    np.testing.assert_allclose(found, -np.log(np.e**2 / (np.e**2 + 2)), rtol=1e-5)


# Views


def test_a_view_is_the_image_moved_mirrored_and_shaded_from_0_to_1():
    images = draw_images(50)
    views = augment_scans(images, np.random.default_rng(0))
    assert views.shape == images.shape and views.dtype == np.float32
    assert views.min() >= 0 and views.max() <= 1
    assert (augment_scans(images, np.random.default_rng(0)) == views).all()
    black = augment_scans(np.zeros((3, *SHAPE)), np.random.default_rng(0))
    assert not black.any(), "speckle multiplies"


def test_a_view_moves_by_an_eighth_at_most():
    images = np.zeros((200, 32, 64), dtype=np.float32)
    images[:, 16, 32] = 1
    _, deep, across = np.nonzero(augment_scans(images, np.random.default_rng(0)))
    assert len(deep) == 200
    assert set(deep - 16) == set(range(-4, 5))
    assert set(np.minimum(abs(across - 32), abs(across - 31))) == set(range(9)), "as it is, or mirrored"


# Encoders


def test_an_encoder_gives_as_many_features_as_its_last_convolution_has_filters():
    encoder = build_encoder(SHAPE, widths=(4, 6), seed=3)
    # 3 x 3 x 1 x 4 + 4 and 3 x 3 x 4 x 6 + 6
    assert encoder.count_params() == 40 + 222
    features = encode(encoder, draw_images(5))
    assert features.shape == (5, 6) and features.dtype == np.float64
    np.testing.assert_array_equal(encode(build_encoder(SHAPE, widths=(4, 6), seed=3), draw_images(5)), features)
    assert not np.allclose(encode(build_encoder(SHAPE, widths=(4, 6), seed=4), draw_images(5)), features)


def test_many_images_are_encoded_in_parts_as_they_are_one_by_one():
    encoder, images = build_encoder(SHAPE, widths=(4,)), draw_images(300)
    alone = np.concatenate([encode(encoder, images[at : at + 1]) for at in (0, 255, 256, 299)])
    np.testing.assert_allclose(encode(encoder, images)[[0, 255, 256, 299]], alone, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("with_subjects", [False, True])
def test_contrastive_training_repeats_itself_and_learns(with_subjects):
    images = draw_images(12)
    settings = {"epochs": 2, "batch": 6, "seed": 5} | ({"subjects": list("aabbccddeeff")} if with_subjects else {})
    first, again = (encode(pretrain_contrastive(images, **settings), images) for _ in range(2))
    np.testing.assert_allclose(first, again, rtol=1e-5, atol=1e-6)
    assert not np.allclose(first, encode(build_encoder(SHAPE, seed=5), images)), "it has moved from its start"


def test_pretraining_by_subject_makes_scans_of_a_subject_alike():
    # each subject has a stripe somewhere, and every scan noise of its own
    rng, images = np.random.default_rng(0), 0.5 * draw_images(40)
    subjects = np.repeat(np.arange(10), 4)
    for subject in range(10):
        images[subjects == subject, :, 2 * subject : 2 * subject + 3] += 0.5 * rng.uniform(0.2, 1.0)
    encoder = pretrain_contrastive(images, subjects=subjects, epochs=30, batch=10, seed=0)

    def separate(features):
        alike = np.corrcoef((features - features.mean(axis=0)) / (features.std(axis=0) + 1e-9))
        own = np.equal.outer(subjects, subjects)
        return alike[own & ~np.eye(40, dtype=bool)].mean() - alike[~own].mean()

    assert separate(encode(encoder, images)) > separate(encode(build_encoder(SHAPE, seed=0), images))


def test_an_encoder_trained_on_labels_separates_what_is_easy():
    scans = make_scans(16)
    encoder = train_supervised(scans.images, scans.labels, epochs=10, batch=8, seed=0)
    again = train_supervised(scans.images, scans.labels, epochs=10, batch=8, seed=0)
    np.testing.assert_allclose(encode(encoder, scans.images), encode(again, scans.images), rtol=1e-5, atol=1e-6)
    features = encode(encoder, scans.images)
    apart = np.abs(features[scans.labels == 1].mean(axis=0) - features[scans.labels == 0].mean(axis=0))
    assert (apart / (features.std(axis=0) + 1e-9)).max() > 1


def test_components_are_those_of_the_singular_values():
    images = draw_images(10)
    flat = images.reshape(10, -1)
    _, values, right = np.linalg.svd(flat - flat.mean(axis=0), full_matrices=False)
    found = encode(fit_components(images, n_components=3), images)
    expected = (flat - flat.mean(axis=0)) @ right[:3].T
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-3)
    assert encode(fit_components(images, n_components=500), images).shape == (10, 10), "at most as many as images"


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: encode(None, np.zeros((2, 3))), ValueError, "images must be numbers"),
        (lambda: fit_components(np.full((2, *SHAPE), 2.0)), ValueError, "images must be from 0 to 1, got"),
        (lambda: fit_components(np.full((2, *SHAPE), np.nan)), ValueError, "images must be from 0 to 1"),
        (lambda: fit_components(np.zeros((0, *SHAPE))), ValueError, "n above 0"),
        (lambda: build_encoder((8,)), ValueError, "shape must be two sizes"),
        (lambda: build_encoder(SHAPE, widths=()), ValueError, "widths at least one number"),
        (lambda: pretrain_contrastive(draw_images(1)), ValueError, "two or more images, got 1"),
        (lambda: pretrain_contrastive(draw_images(2), subjects=["a", "a"]), ValueError, "two or more subjects, got 1"),
        (lambda: pretrain_contrastive(draw_images(2), subjects=["a"]), ValueError, "one entry for each of 2 images"),
        (lambda: pretrain_contrastive(draw_images(4), batch=1), ValueError, "batch must be .* at least 2"),
        (lambda: pretrain_contrastive(draw_images(4), temperature=0), ValueError, "temperature must be a finite"),
        (lambda: train_supervised(draw_images(2), [1, 1]), ValueError, "labels must be 0 or 1, both among them"),
        (lambda: train_supervised(draw_images(2), [0, 2]), ValueError, "labels must be 0 or 1"),
        (lambda: train_supervised(draw_images(2), [0, 1], learning_rate=np.inf), ValueError, "learning_rate"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused(call, error, said):
    with pytest.raises(error, match=said):
        call()


# Readers


class Brightness:
    """An encoder that a hand can follow: the mean of an image, under scikit-learn's name for what is fitted."""

    components_ = None

    def transform(self, flat):
        return flat.mean(axis=1, keepdims=True)


def test_labelled_subjects_are_drawn_whole_half_of_either_class():
    scans = make_scans(20, per=3)
    drawn = scans.draw(6, seed=1)
    classes = pd.Series(drawn.labels).groupby(drawn.subjects).agg(["size", "first"])
    assert (classes["size"] == 3).all() and classes["first"].sum() == 3 and len(classes) == 6
    assert set(scans.draw(6, seed=1).subjects) == set(drawn.subjects) != set(scans.draw(6, seed=2).subjects)
    assert pd.Series(scans.draw(5, seed=1).labels).value_counts().to_dict() == {1: 9, 0: 6}


def test_a_reader_finds_what_the_features_hold_and_nothing_where_there_is_nothing():
    train, test = make_scans(20, seed=1), make_scans(40, seed=2, first=100)
    blank = make_scans(40, seed=3, first=200, gap=0.0)
    for tested, low, high in ((test, 0.99, 1.0), (blank, 0.25, 0.75)):
        read = probe_encoders({"brightness": Brightness()}, train, tested, n_labelled=[4, 10], repeats=2)
        assert list(read) == ["encoder", "n_labelled", "repeat", "subject", "n_images", "label", "score"]
        assert len(read) == 2 * 2 * 40 and (read["n_images"] == 2).all()
        assert summarize_probes(read)["auroc"].between(low, high).all()


def test_an_encoder_that_is_trained_sees_the_labelled_subjects_only():
    train, test = make_scans(12, seed=1), make_scans(6, seed=2, first=100)
    seen = []

    def learn(few, seed):
        seen.append((len(np.unique(few.subjects)), set(few.subjects) <= set(train.subjects), seed))
        return Brightness()

    probe_encoders({"learnt": learn}, train, test, n_labelled=[2, 4], repeats=2, seed=7)
    assert seen == [(2, True, 7), (2, True, 8), (4, True, 7), (4, True, 8)]


def test_all_encoders_get_the_same_labelled_subjects():
    train, test = make_scans(12, seed=1, gap=0.05), make_scans(6, seed=2, first=100, gap=0.05)
    read = probe_encoders({"one": Brightness(), "two": Brightness()}, train, test, n_labelled=[4], repeats=3)
    one, two = (read[read["encoder"] == name]["score"].to_numpy() for name in ("one", "two"))
    np.testing.assert_array_equal(one, two)
    table = contrast_probes(read, "one", "two")
    assert table.loc[0, ["difference", "low", "high"]].tolist() == [0, 0, 0]
    assert table.loc[0, "verdict"] == "not distinguishable"


def make_predictions(scores, labels, *, encoder="e", n_labelled=4):
    """Returns predictions of one encoder: a row of scores for every repeat."""
    tables = []
    for repeat, row in enumerate(scores):
        columns = {"encoder": encoder, "n_labelled": n_labelled, "repeat": repeat}
        subjects = [f"s{number}" for number in range(len(row))]
        tables.append(pd.DataFrame(columns | {"subject": subjects, "label": labels, "score": row}))
    return pd.concat(tables, ignore_index=True)


def test_a_summary_is_the_mean_over_draws_with_its_counts():
    # the first draw puts both patients above both controls, the second one pair of four the wrong way round
    summary = summarize_probes(make_predictions([[0.9, 0.8, 0.1, 0.2], [0.9, 0.3, 0.1, 0.4]], [1, 1, 0, 0]))
    row = summary.iloc[0]
    assert row["auroc"] == pytest.approx((1 + 0.75) / 2)
    assert row[["n_repeats", "n_subjects", "n_positive", "n_negative"]].tolist() == [2, 4, 2, 2]
    assert row["low"] <= row["auroc"] <= row["high"]


def test_with_one_class_nothing_is_defined():
    row = summarize_probes(make_predictions([[0.1, 0.9]], [1, 1])).iloc[0]
    assert np.isnan(row[["auroc", "low", "high"]].to_numpy(dtype=float)).all() and row["n_negative"] == 0


def test_a_better_encoder_is_told_from_a_worse_one():
    rng, labels = np.random.default_rng(0), np.arange(60) % 2
    good = make_predictions([labels + 0.4 * rng.normal(size=60) for _ in range(3)], labels, encoder="good")
    poor = make_predictions([rng.normal(size=60) for _ in range(3)], labels, encoder="poor")
    both = pd.concat([good, poor])
    assert contrast_probes(both, "poor", "good").loc[0, "verdict"] == "second better"
    assert contrast_probes(both, "good", "poor").loc[0, "verdict"] == "first better"
    with pytest.raises(KeyError, match="no encoder 'best'; expected one of"):
        contrast_probes(both, "best", "poor")


def test_subjects_on_both_sides_are_named():
    scans = make_scans(8)
    with pytest.raises(ValueError, match="train and test must share no subject; 's000' is in both, 8 such in all"):
        probe_encoders({"brightness": Brightness()}, scans, scans)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"n_labelled": [40]}, "cannot draw 20 of 4 subjects with label 1"),
        ({"n_labelled": [1]}, "each of n_labelled must be a whole number of at least 2"),
        ({"repeats": 0}, "repeats must be a whole number of at least 1"),
        ({"encoders": {}}, "encoders must name at least one"),
    ],
)
def test_probes_that_cannot_be_are_refused(given, said):
    encoders = given.pop("encoders", {"brightness": Brightness()})
    with pytest.raises(ValueError, match=said):
        probe_encoders(encoders, make_scans(8), make_scans(4, first=50), **given)


@pytest.mark.parametrize(
    ("labels", "subjects", "said"),
    [
        ([0, 1], ["a"], "subjects must have one entry for each of 2 images"),
        ([0, 2], ["a", "b"], "labels must be 0 or 1"),
        ([0, 1], ["a", "a"], "all records of a subject must have one label; those of 'a' have several"),
    ],
)
def test_labels_that_cannot_be_are_refused(labels, subjects, said):
    with pytest.raises(ValueError, match=said):
        LabelledScans(draw_images(2), labels, subjects)
