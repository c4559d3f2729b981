"""The size of an update: the gradient comes back from Adam's moments, and is measured against good images only."""

import math

import numpy as np
import pytest

from dqc_lib.fisher import (
    FLOOR,
    LEAST_MISFIT,
    GradientScale,
    divide_by_misfit,
    forget_momentum,
    read_gradient,
    read_moments,
)
from dqc_lib.networks import build_sfcn, freeze_normalization

SHAPE = (16, 16, 16)


def build():
    return build_sfcn(SHAPE, width=0.0625, dropout=0.0, learning_rate=1e-3)


def make_batch(n, *, seed):
    rng = np.random.default_rng(seed)
    return rng.uniform(0, 255, (n, *SHAPE, 1)).astype(np.float32), (np.arange(n).reshape(n, 1) % 2).astype(np.float32)


def compute_gradient(model, images, labels):
    """Return the gradient of the mean cross-entropy by TensorFlow's tape, Keras left out."""
    import tensorflow as tf

    with tf.GradientTape() as tape:
        score = model(images, training=True)
        loss = -tf.reduce_mean(labels * tf.math.log(score) + (1 - labels) * tf.math.log(1 - score))
    gradients = tape.gradient(loss, [variable.value for variable in model.trainable_variables])
    return np.concatenate([gradient.numpy().ravel() for gradient in gradients])


@pytest.mark.parametrize("steps_before", [0, 3])
def test_the_gradient_read_from_the_moments_is_that_of_the_loss(steps_before):
    model = build()
    freeze_normalization(model)  # otherwise the tape's pass would move the statistics
    for step in range(steps_before):
        model.train_on_batch(*make_batch(2, seed=step))
    images, labels = make_batch(3, seed=9)
    expected = compute_gradient(model, images, labels)
    before = read_moments(model)
    model.train_on_batch(images, labels)
    gradient = read_gradient(model, before)
    assert gradient.shape == (sum(math.prod(variable.shape) for variable in model.trainable_variables),)
    assert np.linalg.norm(expected) > 0
    assert np.linalg.norm(gradient - expected) < 1e-4 * np.linalg.norm(expected)
    np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_the_gradient_does_not_depend_on_the_learning_rate():
    model = build()
    freeze_normalization(model)
    images, labels = make_batch(2, seed=1)
    expected = compute_gradient(model, images, labels)
    model.optimizer.learning_rate.assign(0.0)
    before, weights = read_moments(model), model.get_weights()
    model.train_on_batch(images, labels)
    assert np.linalg.norm(read_gradient(model, before) - expected) < 1e-4 * np.linalg.norm(expected)
    trained = [(a == b).all() for a, b in zip(model.get_weights(), weights, strict=True)]
    assert all(trained[:-1]), "at a learning rate of 0 nothing moves but the seed of the dropout layer"


def test_the_moments_before_the_first_step_are_zero():
    assert not read_moments(build()).any()


def test_forgetting_momentum_sets_the_first_moments_to_zero_and_nothing_else():
    model = build()
    model.train_on_batch(*make_batch(2, seed=1))
    before = {v.path: v.numpy() for v in (*model.variables, *model.optimizer.variables)}
    forget_momentum(model)
    now = {v.path: v.numpy() for v in (*model.variables, *model.optimizer.variables)}
    assert not read_moments(model).any()
    changed = {path for path in now if (now[path] != before[path]).any()}
    assert len(changed) > 20
    assert all(path.endswith("_momentum") for path in changed)


def test_an_optimizer_without_moments_is_refused():
    model = build()
    model.compile("sgd", "binary_crossentropy")
    with pytest.raises(ValueError, match="update norms need Adam, got SGD"):
        read_moments(model)


def make_scale(**gradients):
    """Return a scale that knows lists of gradients by fold."""
    scale = GradientScale()
    for fold, several in gradients.items():
        for gradient in several:
            scale.add(np.array(gradient), fold=fold)
    return scale


def test_the_update_norm_is_the_length_in_units_of_the_mean_square():
    scale = make_scale(A=[[1.0, 2.0], [3.0, 2.0]], B=[[2.0, 4.0]])
    # F = ((1 + 9 + 4) / 3, (4 + 4 + 16) / 3) = (14 / 3, 8), floor = 1e-4 times the median (19 / 3)
    floor = FLOOR * 19 / 3
    expected = math.sqrt(5**2 / (14 / 3 + floor) + 1**2 / (8 + floor))
    assert scale.measure(np.array([5.0, -1.0])) == pytest.approx(expected, rel=1e-12)


def test_every_image_counts_the_same_whatever_its_fold():
    one, two = make_scale(A=[[1.0], [2.0], [3.0]]), make_scale(A=[[1.0]], B=[[2.0], [3.0]])
    assert (
        one.measure(np.array([4.0])) == two.measure(np.array([4.0])) == pytest.approx(4 / math.sqrt(14 / 3), rel=1e-3)
    )


def test_a_fold_is_not_measured_against_itself():
    scale = make_scale(A=[[1.0], [1.0]], B=[[10.0], [10.0]])
    gradient = np.array([10.0])
    assert scale.measure(gradient, without="B") == pytest.approx(10 / math.sqrt(1 * (1 + FLOOR)), rel=1e-12)
    assert scale.measure(gradient, without="A") == pytest.approx(10 / math.sqrt(100 * (1 + FLOOR)), rel=1e-12)
    assert scale.measure(gradient) == pytest.approx(10 / math.sqrt(50.5 * (1 + FLOOR)), rel=1e-12)
    assert scale.measure(gradient, without="unknown") == scale.measure(gradient)


def test_where_only_one_fold_is_known_it_is_measured_against_itself():
    scale = make_scale(A=[[2.0]])
    assert scale.measure(np.array([6.0]), without="A") == pytest.approx(3 / math.sqrt(1 + FLOOR), rel=1e-12)


def test_what_is_added_later_counts_at_once():
    scale = make_scale(A=[[1.0]])
    first = scale.measure(np.array([1.0]))
    scale.add(np.array([7.0]), fold="A")
    assert scale.measure(np.array([1.0])) == pytest.approx(first / 5, rel=1e-12)  # mean square 25


def test_a_weight_that_no_good_image_moved_counts_by_the_floor():
    scale = make_scale(A=[[2.0, 0.0, 4.0]])
    floor = FLOOR * 10  # the median over the two weights that moved: (4 + 16) / 2
    assert scale.measure(np.array([0.0, 1.0, 0.0])) == pytest.approx(1 / math.sqrt(floor), rel=1e-12)


def test_a_scale_that_was_saved_measures_as_before(tmp_path):
    scale = make_scale(A=[[1.0, 2.0], [3.0, 2.0]], B=[[2.0, 4.0]])
    scale.save(tmp_path / "scale.npz")
    again = GradientScale.load(tmp_path / "scale.npz")
    gradient = np.array([5.0, -1.0])
    assert again.measure(gradient) == pytest.approx(scale.measure(gradient), rel=1e-12)
    again.add(np.array([2.0, 4.0]), fold="C")
    assert again.measure(gradient) != scale.measure(gradient)


def test_gradients_of_zero_give_a_finite_norm():
    scale = make_scale(A=[[0.0, 0.0]])
    assert scale.measure(np.array([0.0, 0.0])) == 0
    assert scale.measure(np.array([1.0, 0.0])) == pytest.approx(1 / math.sqrt(FLOOR), rel=1e-12)


def test_a_diverged_gradient_gives_no_finite_norm():
    scale = make_scale(A=[[1.0, 1.0]])
    assert scale.measure(np.array([np.inf, 0.0])) == math.inf
    assert math.isnan(scale.measure(np.array([np.nan, 0.0])))


def test_the_norm_grows_in_proportion_to_the_gradient():
    scale = make_scale(A=[[1.0, 2.0]], B=[[0.5, 3.0]])
    gradient = np.array([0.3, -2.0])
    assert scale.measure(7 * gradient) == pytest.approx(7 * scale.measure(gradient), rel=1e-12)


def test_nothing_can_be_measured_against_nothing():
    with pytest.raises(ValueError, match="no gradient of a good image has been added yet"):
        GradientScale().measure(np.array([1.0]))


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_without_the_misfit_the_gradient_of_one_image_is_that_of_its_logit(label):
    import tensorflow as tf

    model = build()
    freeze_normalization(model)
    image, _ = make_batch(1, seed=3)
    with tf.GradientTape() as tape:
        score = model(image, training=False)[0, 0]
        logit = tf.math.log(score) - tf.math.log(1 - score)
    parts = tape.gradient(logit, [variable.value for variable in model.trainable_variables])
    expected = np.concatenate([part.numpy().ravel() for part in parts]) * (1 if label == 0 else -1)
    before = read_moments(model)
    loss = float(model.train_on_batch(image, np.array([[label]], dtype=np.float32)))
    gradient = divide_by_misfit(read_gradient(model, before), loss)
    assert np.linalg.norm(gradient - expected) < 1e-3 * np.linalg.norm(expected)


def test_a_small_misfit_counts_as_the_least():
    gradient = np.array([1e-3, -2e-3])
    np.testing.assert_allclose(divide_by_misfit(gradient, 0.0), gradient / LEAST_MISFIT)
    np.testing.assert_allclose(divide_by_misfit(gradient, 1e-4), gradient / LEAST_MISFIT)
    np.testing.assert_allclose(divide_by_misfit(gradient, math.log(2)), gradient / 0.5)
    np.testing.assert_allclose(divide_by_misfit(gradient, 50.0), gradient)
