"""The unusual image: the gradient of its logit is that of the tape, and is measured against good images only."""

import math

import numpy as np
import pytest

from dqc_lib.fisher import FLOOR, LEFT_OUT, GradientScale, LogitProbe, forget_momentum
from dqc_lib.networks import build_sfcn, freeze_normalization

SHAPE = (16, 16, 16)


def build(*, dropout=0.5, steps=0):
    """Return a frozen model that has learned for some steps, so that no moment and no statistic is as it began."""
    model = build_sfcn(SHAPE, width=0.0625, dropout=dropout, learning_rate=1e-3)
    for step in range(steps):
        model.train_on_batch(*make_batch(2, seed=step))
    freeze_normalization(model)
    return model


def make_batch(n, *, seed):
    rng = np.random.default_rng(seed)
    return rng.uniform(0, 255, (n, *SHAPE, 1)).astype(np.float32), (np.arange(n).reshape(n, 1) % 2).astype(np.float32)


def make_image(seed):
    return make_batch(1, seed=seed)[0]


def read_state(model):
    """Return copies of all that a model and its optimizer hold, by name."""
    return {v.path: v.numpy().copy() for v in (*model.variables, *model.optimizer.variables)}


def assert_same_state(model, state):
    now = read_state(model)
    assert now.keys() == state.keys()
    assert [path for path in now if now[path].tobytes() != state[path].tobytes()] == []


def compute_gradient(model, image, *, of_score=False):
    """Return the gradient of the logit by TensorFlow's tape: from the features before dropout and the last layer's own
    weights; or that of the score, from the whole model without dropout."""
    import keras
    import tensorflow as tf

    dense = model.get_layer("dense")
    features = keras.Model(model.input, model.get_layer("average").output)
    with tf.GradientTape() as tape:
        flat = tf.reshape(features(image, training=False), (1, -1))
        logit = tf.reduce_sum(tf.matmul(flat, dense.kernel.value) + dense.bias.value)
        value = tf.reduce_sum(model(image, training=False)) if of_score else logit
    parts = tape.gradient(value, [variable.value for variable in model.trainable_variables])
    return np.concatenate([part.numpy().ravel() for part in parts])


def assert_close(gradient, expected):
    assert np.linalg.norm(expected) > 0
    assert np.linalg.norm(gradient - expected) < 1e-5 * np.linalg.norm(expected)
    np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())


# the probe


@pytest.mark.parametrize("steps", [0, 3])
def test_what_is_read_is_the_gradient_of_the_logit_without_dropout(steps):
    model = build(steps=steps)
    probe = LogitProbe(model)
    for seed in (7, 8):
        gradient = probe.read(make_image(seed))
        assert gradient.shape == (sum(math.prod(variable.shape) for variable in model.trainable_variables),)
        assert gradient.dtype == np.float32
        assert_close(gradient, compute_gradient(model, make_image(seed)))


def test_the_gradient_of_the_score_is_that_of_the_logit_times_the_slope_of_the_sigmoid():
    model, image = build(steps=2), make_image(7)
    score = float(model(image, training=False)[0, 0])
    assert 0.01 < score < 0.99
    gradient = LogitProbe(model).read(image)
    of_score = compute_gradient(model, image, of_score=True)
    assert np.linalg.norm(score * (1 - score) * gradient - of_score) < 1e-3 * np.linalg.norm(of_score)


@pytest.mark.parametrize(("bias", "score"), [(200.0, 1.0), (-200.0, 0.0)])
def test_an_image_that_the_model_is_sure_of_has_the_gradient_of_its_logit_all_the_same(bias, score):
    model, image = build(steps=2), make_image(7)
    kernel = model.get_layer("dense").kernel
    model.get_layer("dense").bias.assign([bias])
    kernel.assign(3 * kernel.value)
    assert np.asarray(model(image, training=False))[0, 0] == np.float32(score), "saturated in 32 bits"
    assert not compute_gradient(model, image, of_score=True).any(), "the score itself says nothing any more"
    assert_close(LogitProbe(model).read(image), compute_gradient(model, image))


def test_reading_leaves_model_and_optimizer_as_they_are_bit_for_bit():
    model = build(steps=2)
    state = read_state(model)
    probe = LogitProbe(model)
    assert_same_state(model, state)
    for seed in range(3):
        probe.read(make_image(seed))
    assert_same_state(model, state)


def test_reading_between_two_steps_does_not_change_the_second():
    def train(*, read):
        model = build(steps=1)
        model.train_on_batch(*make_batch(2, seed=5))
        if read:
            LogitProbe(model).read(make_image(7))
        model.train_on_batch(*make_batch(2, seed=6))
        return [v.numpy() for v in (*model.variables, *model.optimizer.variables)]

    pairs = zip(train(read=True), train(read=False), strict=True)
    assert all((a == b).all() for a, b in pairs), "the state of dropout included"


def test_a_reading_repeats_bit_for_bit_whatever_was_read_in_between():
    probe = LogitProbe(build(steps=2))
    first = probe.read(make_image(7))
    probe.read(1e3 * make_image(8))
    again = probe.read(make_image(7))
    assert first.tobytes() == again.tobytes()
    assert (probe.read(make_image(8)) != first).any()


@pytest.mark.parametrize("voxel", [math.nan, math.inf, 3e38], ids=str)
def test_a_gradient_that_is_not_finite_spoils_neither_the_model_nor_the_next_reading(voxel):
    model = build(steps=2)
    state, probe = read_state(model), LogitProbe(model)
    first = probe.read(make_image(7))
    hostile = np.where(make_image(8) > 128, voxel, -voxel).astype(np.float32)
    assert not np.isfinite(probe.read(hostile)).all()
    assert_same_state(model, state)
    assert probe.read(make_image(7)).tobytes() == first.tobytes()


def test_after_the_model_learned_on_the_probe_reads_its_new_weights():
    model = build(dropout=0.0)
    probe = LogitProbe(model)
    before = probe.read(make_image(7))
    model.optimizer.learning_rate.assign(0.05)
    for step in range(3):
        model.train_on_batch(*make_batch(2, seed=step))
    after = probe.read(make_image(7))
    assert np.linalg.norm(after - before) > 0.1 * np.linalg.norm(before)
    assert_close(after, compute_gradient(model, make_image(7)))


def test_the_probe_follows_a_head_that_was_set_by_hand():
    model = build()
    probe, dense = LogitProbe(model), model.get_layer("dense")
    before = probe.read(make_image(7))
    dense.kernel.assign(-2 * dense.kernel.value)
    after = probe.read(make_image(7))
    own = math.prod(dense.kernel.shape) + 1  # the last layer's own gradient, the features, is not its weights' matter
    np.testing.assert_allclose(after[:-own], -2 * before[:-own], rtol=1e-4, atol=1e-5 * np.abs(before).max())
    np.testing.assert_allclose(after[-own:], before[-own:], rtol=1e-6)
    assert before[-1] == after[-1] == 1, "a step of the bias moves every logit alike"


def test_the_weights_that_lead_to_one_filter_are_a_part():
    model = build()
    parts = LogitProbe(model).parts
    sizes = [math.prod(variable.shape) for variable in model.trainable_variables]
    own = np.split(parts, np.cumsum(sizes)[:-1])
    last = -1
    for variable, numbers in zip(model.trainable_variables, own, strict=True):
        by_filter = numbers.reshape(variable.shape)
        n_filters = variable.shape[-1]
        assert (by_filter.reshape(-1, n_filters) == np.arange(last + 1, last + 1 + n_filters)).all()
        last += n_filters
    assert parts[-1] == last, "the bias of the last layer"


# momentum


def test_forgetting_momentum_sets_the_first_moments_to_zero_and_nothing_else():
    model = build(steps=1)
    before = read_state(model)
    forget_momentum(model)
    now = read_state(model)
    moments = [path for path in now if path.endswith("_momentum")]
    assert len(moments) == len(model.trainable_variables)
    assert not any(now[path].any() for path in moments)
    changed = {path for path in now if (now[path] != before[path]).any()}
    assert len(changed) > 20
    assert changed <= set(moments)


def test_an_optimizer_without_momentum_of_that_kind_is_refused():
    model = build()
    model.compile("sgd", "binary_crossentropy")
    with pytest.raises(ValueError, match="only Adam's momentum can be forgotten, got SGD"):
        forget_momentum(model)


# the scale


def make_scale(**gradients):
    """Return a scale that knows lists of gradients by fold."""
    scale = GradientScale()
    for fold, several in gradients.items():
        for gradient in several:
            scale.add(np.array(gradient), fold=fold)
    return scale


def test_the_update_norm_is_the_length_in_units_of_the_mean_square():
    scale = make_scale(A=[[1.0, 2.0], [3.0, 2.0]], B=[[2.0, 4.0]])
    # F = ((1 + 9 + 4) / 3, (4 + 4 + 16) / 3) = (14 / 3, 8), floor a share of the median (19 / 3)
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


@pytest.mark.parametrize("reference", [2.5, 1e-300, math.inf], ids=str)
def test_a_scale_that_was_saved_knows_its_reference(tmp_path, reference):
    scale = make_scale(A=[[1.0, 2.0]])
    scale.reference = reference
    scale.save(tmp_path / "scale.npz")
    assert GradientScale.load(tmp_path / "scale.npz").reference == reference


def test_a_scale_without_a_reference_has_none_after_it_was_saved_either(tmp_path):
    scale = make_scale(A=[[1.0, 2.0]])
    assert math.isnan(scale.reference)
    scale.save(tmp_path / "scale.npz")
    assert math.isnan(GradientScale.load(tmp_path / "scale.npz").reference)


def make_scale_of_parts(parts):
    """Return a scale by which every weight counts as much as any other."""
    scale = GradientScale(np.array(parts))
    scale.add(np.ones(len(parts)), fold="all")
    return scale


ONE = 1 / math.sqrt(1 + FLOOR)  # the norm of a gradient of 1 by that scale


def test_the_parts_that_an_image_moves_most_are_left_out_whichever_they_are():
    scale = make_scale_of_parts([0, 1, 1, *range(2, LEFT_OUT + 3)])  # LEFT_OUT + 3 parts, the second of two weights
    moved = [1.0, 2.0, 2.0, 3.0, *[50.0] * LEFT_OUT]
    assert scale.measure(np.array(moved)) == pytest.approx(ONE * math.sqrt(1 + 4 + 4 + 9), rel=1e-12)
    louder = [*moved[:-1], 1e9]
    assert scale.measure(np.array(louder)) == scale.measure(np.array(moved)), "however much they are moved"
    quiet = np.array([1.0, 40.0, 40.0, *[3.0] * (LEFT_OUT + 1)])  # the part of two weights is the loudest now
    assert scale.measure(quiet) == pytest.approx(ONE * math.sqrt(1 + 9 + 9), rel=1e-12)


def test_one_part_more_than_is_left_out_counts():
    gradient = np.array([*[0.1] * 4, *[50.0] * (LEFT_OUT + 1)])
    parts = [0, 0, 0, 0, *range(1, LEFT_OUT + 2)]
    assert make_scale_of_parts(parts).measure(gradient) == pytest.approx(ONE * math.sqrt(2500.04), rel=1e-12)


def test_where_all_parts_are_left_out_nothing_is_unusual():
    assert make_scale_of_parts(range(LEFT_OUT)).measure(np.full(LEFT_OUT, 7.0)) == 0


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_part_that_diverged_is_not_left_out(value):
    gradient = np.ones(LEFT_OUT + 3)
    gradient[2] = value
    assert not math.isfinite(make_scale_of_parts(range(LEFT_OUT + 3)).measure(gradient))


def test_a_scale_that_was_saved_leaves_out_the_same_parts(tmp_path):
    scale = make_scale_of_parts([*range(LEFT_OUT + 2), 0])
    gradient = np.arange(LEFT_OUT + 3.0)
    scale.save(tmp_path / "scale.npz")
    assert GradientScale.load(tmp_path / "scale.npz").measure(gradient) == scale.measure(gradient) > 0
