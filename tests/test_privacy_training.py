"""Private training: gradients of patients by another route, the bound of clipping, and noise as accounted for."""

import math

import numpy as np
import pytest

from dqc_lib.networks import import_keras
from dqc_lib.privacy import (
    PatientGradients,
    PrivateRecipe,
    add_noise,
    clip_gradients,
    draw_patients,
    measure_epsilon,
    train_privately,
)

RNG = np.random.default_rng(0)
VISITS = (RNG.random((9, 5, 6)) < 0.4).astype(np.float32)


def surprise(codes, logits):
    """Return minus the log likelihood of every row."""
    ops = import_keras().ops
    return ops.sum(ops.softplus(logits) - codes * logits, axis=-1)


def build(widths=(6, 4, 6), *, rate=0.5, seed=1):
    """Return a dense autoencoder with tanh inside, and random weights."""
    keras = import_keras()
    first = keras.Input((widths[0],))
    x = first
    for at, width in enumerate(widths[1:]):
        x = keras.layers.Dense(width, activation="tanh" if at < len(widths) - 2 else None)(x)
    model = keras.Model(first, x)
    model.compile(optimizer=keras.optimizers.SGD(rate), loss=surprise)
    rng = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(0, 0.5, variable.shape))
    return model


def read(model):
    return [np.array(variable.numpy(), dtype=np.float64) for variable in model.trainable_variables]


def propagate(weights, rows):
    """Return the gradient of the mean surprise of rows, written out in NumPy for one hidden layer of tanh."""
    kernel, bias, last, last_bias = weights
    rows = rows.astype(np.float64)
    hidden = np.tanh(rows @ kernel + bias)
    error = (1 / (1 + np.exp(-(hidden @ last + last_bias))) - rows) / len(rows)
    inner = (error @ last.T) * (1 - hidden**2)
    parts = (rows.T @ inner, inner.sum(axis=0), hidden.T @ error, error.sum(axis=0))
    return np.concatenate([part.ravel() for part in parts])


def same(chosen, generator):
    """Give the chosen patients, to be told again."""
    return VISITS[chosen], VISITS[chosen]


# gradients


@pytest.mark.parametrize("at_once", [1, 4, 9, 16])
def test_the_gradient_of_every_patient_is_that_of_a_backpropagation_by_hand(at_once):
    model = build()
    expected = np.array([propagate(read(model), record) for record in VISITS])
    found = PatientGradients(model, at_once=at_once).compute(VISITS, VISITS)
    assert found.shape == (9, 6 * 4 + 4 + 4 * 6 + 6)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_gradients_follow_the_weights_and_leave_them_as_they_are():
    model = build()
    gradients = PatientGradients(model, at_once=4)
    gradients.compute(VISITS, VISITS)
    for variable in model.trainable_variables:
        variable.assign(-variable.numpy())
    weights = read(model)
    found = gradients.compute(VISITS[:2], VISITS[:2])
    np.testing.assert_allclose(found[1], propagate(weights, VISITS[1]), rtol=1e-4, atol=1e-6)
    assert all(np.array_equal(before, after) for before, after in zip(weights, read(model), strict=True))


def test_a_patient_whose_visits_are_one_row_is_asked_as_one():
    flat = VISITS.reshape(9, -1)
    model = build((30, 3, 30))
    expected = [propagate(read(model), record[None]) for record in flat]
    np.testing.assert_allclose(PatientGradients(model).compute(flat, flat), expected, rtol=1e-4, atol=1e-6)


def build_variational():
    """Return a network with two inputs, drawn numbers, a layer that looks at columns and one that does not learn."""
    keras = import_keras()
    codes, noise = keras.Input((6,)), keras.Input((2,))
    told = keras.layers.Dense(4, use_bias=False)(codes)
    drawn = keras.layers.Lambda(lambda parts: parts[0][:, :2] + keras.ops.exp(parts[0][:, 2:]) * parts[1])
    x = keras.layers.Concatenate()([drawn([told, noise]), codes])
    x = keras.layers.Dense(5, activation="elu", trainable=False)(x)
    model = keras.Model([codes, noise], keras.layers.Dense(6)(x))
    model.compile(optimizer="sgd", loss=surprise)
    return model


def test_the_gradient_of_a_network_with_drawn_numbers_is_that_of_finite_differences():
    model, noise = build_variational(), RNG.standard_normal((9, 5, 2)).astype(np.float32)
    found = PatientGradients(model, at_once=4).compute([VISITS, noise], VISITS)
    kernel, last = model.trainable_variables[0], model.trainable_variables[1]
    assert found.shape == (9, 24 + 30 + 6)
    for variable, place, column in ((kernel, (2, 3), 2 * 4 + 3), (last, (4, 1), 24 + 4 * 6 + 1)):
        slopes = []
        for step in (1e-2, -1e-2):
            before = np.array(variable.numpy())
            variable.assign(before + step * (np.indices(before.shape).T == place).all(axis=-1).T)
            slopes.append([float(model.test_on_batch([VISITS[at], noise[at]], VISITS[at])) for at in range(9)])
            variable.assign(before)
        expected = (np.array(slopes[0]) - slopes[1]) / 2e-2
        np.testing.assert_allclose(found[:, column], expected, atol=3e-3)


def test_no_patient_has_no_gradient():
    assert PatientGradients(build()).compute(VISITS[:0], VISITS[:0]).shape == (0, 58)


def test_networks_and_arrays_that_do_not_fit_are_refused_by_name():
    keras = import_keras()
    with pytest.raises(ValueError, match="the model is not compiled"):
        PatientGradients(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]))
    with pytest.raises(TypeError, match="functional or sequential keras.Model, got str"):
        PatientGradients("model")
    with pytest.raises(TypeError, match="functional or sequential keras.Model, got Own"):
        PatientGradients(type("Own", (keras.Model,), {})())
    other = keras.Sequential([keras.Input((4, 3)), keras.layers.GRU(2, name="gated")])
    other.compile(loss="mse")
    with pytest.raises(ValueError, match="layer 'gated' is a GRU that learns; expected Dense alone"):
        PatientGradients(other)
    gradients = PatientGradients(build())
    with pytest.raises(ValueError, match="the model has 1 inputs, got 2 arrays"):
        gradients.compute([VISITS, VISITS], VISITS)
    with pytest.raises(ValueError, match=r"shape \(9, 5, 3\); expected \(patients, rows, 6\)"):
        gradients.compute(VISITS[..., :3], VISITS)
    with pytest.raises(ValueError, match="9 patients and the targets 8"):
        gradients.compute(VISITS, VISITS[1:])
    with pytest.raises(ValueError, match="at least one row"):
        gradients.compute(VISITS[:, :0], VISITS[:, :0])


@pytest.mark.parametrize("options", [{"center": False, "scale": False}, {"trainable": False}])
def test_a_layer_by_which_patients_mix_is_refused_though_it_does_not_learn(options):
    keras = import_keras()
    mixing = keras.layers.BatchNormalization(name="mixing", **options)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4), mixing, keras.layers.Dense(6)])
    model.compile(optimizer="sgd", loss=surprise)
    with pytest.raises(ValueError, match="layer 'mixing' is a BatchNormalization that keeps numbers.*patients mix"):
        PatientGradients(model)


def test_a_layer_that_keeps_nothing_but_a_seed_is_none_of_those():
    keras = import_keras()
    layers = [keras.layers.Dense(4), keras.layers.Dropout(0.5, seed=1), keras.layers.Dense(6)]
    model = keras.Sequential([keras.Input((6,)), *layers])
    model.compile(optimizer="sgd", loss=surprise)
    assert PatientGradients(model).n_weights == 58


@pytest.mark.parametrize("kind", ["kernel_regularizer", "bias_regularizer", "activity_regularizer"])
def test_a_penalty_beside_the_loss_is_refused_and_not_left_out(kind):
    keras = import_keras()
    layers = [keras.layers.Dense(4), keras.layers.Dense(6, name="penalized", **{kind: "l2"})]
    model = keras.Sequential([keras.Input((6,)), *layers])
    model.compile(optimizer="sgd", loss=surprise)
    with pytest.raises(ValueError, match=f"layer 'penalized' has a {kind}.*expected layers without"):
        PatientGradients(model)


@pytest.mark.parametrize("reduction", ["sum", None])
def test_a_loss_that_is_no_mean_over_rows_is_refused(reduction):
    model, loss = build(), import_keras().losses.MeanSquaredError(reduction=reduction)
    for told in (loss, [loss]):
        model.compile(optimizer="sgd", loss=told)
        with pytest.raises(ValueError, match=f"the loss has reduction={reduction!r}; expected a mean over rows"):
            PatientGradients(model)


def test_a_mean_is_the_same_under_its_three_names():
    model, losses = build(), import_keras().losses
    found = []
    for reduction in ("sum_over_batch_size", "mean", "mean_with_sample_weight"):
        model.compile(optimizer="sgd", loss=losses.MeanSquaredError(reduction=reduction))
        found.append(PatientGradients(model, at_once=4).compute(VISITS, VISITS))
    np.testing.assert_allclose(found[1:], [found[0]] * 2, rtol=1e-6)


# clipping


def test_no_patient_has_a_longer_gradient_than_the_norm_and_directions_stay():
    gradients = RNG.standard_normal((50, 20)) * np.geomspace(1e-3, 1e3, 50)[:, None]
    clipped = clip_gradients(gradients, 0.7)
    before, after = np.linalg.norm(gradients, axis=1), np.linalg.norm(clipped, axis=1)
    assert (after <= 0.7 * (1 + 1e-12)).all()
    np.testing.assert_allclose(after, np.minimum(before, 0.7))
    np.testing.assert_allclose(clipped / after[:, None], gradients / before[:, None])
    assert not clip_gradients(np.zeros((1, 3)), 1.0).any()


def test_hospitals_that_differ_by_a_patient_differ_by_the_norm_at_most():
    gradients = PatientGradients(build(), at_once=4).compute(VISITS, VISITS)
    norm = float(np.median(np.linalg.norm(gradients, axis=1)))
    total = clip_gradients(gradients, norm).sum(axis=0)
    apart = [
        np.linalg.norm(total - clip_gradients(np.delete(gradients, at, axis=0), norm).sum(axis=0)) for at in range(9)
    ]
    assert max(apart) <= norm * (1 + 1e-9) and max(apart) == pytest.approx(norm), "the bound is reached"


def test_visits_clipped_one_by_one_would_let_a_patient_move_the_sum_by_as_many_norms():
    model = build()
    gradients = PatientGradients(model).compute(VISITS[:, :1], VISITS[:, :1])  # nine visits of one person
    alike = np.repeat(gradients[:1], 12, axis=0)
    norm = 0.5 * float(np.linalg.norm(gradients[0]))
    assert np.linalg.norm(clip_gradients(alike, norm).sum(axis=0)) == pytest.approx(12 * norm)


def test_a_gradient_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="patient 1 of the batch is not finite"):
        clip_gradients(np.array([[1.0], [np.inf]]), 1.0)


# sampling and noise


def test_every_patient_takes_part_as_often_and_independently():
    rng = np.random.default_rng(3)
    drawn = [draw_patients(40, sampling_rate=0.25, generator=rng) for _ in range(4000)]
    sizes, counts = np.array(list(map(len, drawn))), np.bincount(np.concatenate(drawn), minlength=40)
    assert sizes.mean() == pytest.approx(10, abs=0.25)
    assert sizes.var() == pytest.approx(40 * 0.25 * 0.75, rel=0.12), "binomial: a batch of fixed size has no variance"
    assert abs(counts / 4000 - 0.25).max() < 0.035
    assert [len(draw_patients(7, sampling_rate=rate, generator=rng)) for rate in (0.0, 1.0)] == [0, 7]


def test_noise_has_the_standard_deviation_that_is_accounted_for():
    rng = np.random.default_rng(4)
    asked = {"noise_multiplier": 1.5, "clipping_norm": 2.0, "generator": rng}
    draws = np.array([add_noise(np.array([7.0, -1.0]), **asked) for _ in range(20_000)])
    np.testing.assert_allclose(draws.mean(axis=0), [7, -1], atol=0.1)
    np.testing.assert_allclose(draws.std(axis=0), [3, 3], rtol=0.03)
    assert abs(np.corrcoef(draws.T)[0, 1]) < 0.03


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda: clip_gradients(np.ones((2, 3)), -1), "clipping_norm must be > 0, got -1"),
        (lambda: clip_gradients(np.ones((2, 3)), math.nan), "clipping_norm must be > 0, got nan"),
        (lambda: draw_patients(5, sampling_rate=20, generator=RNG), "sampling_rate must lie between 0 and 1, got 20"),
        (lambda: draw_patients(-5, sampling_rate=0.1, generator=RNG), "n_patients must be a whole number"),
        (
            lambda: add_noise(np.ones(2), noise_multiplier=-1, clipping_norm=1.0, generator=RNG),
            "noise_multiplier must be a finite number >= 0, got -1",
        ),
        (
            lambda: add_noise(np.ones(2), noise_multiplier=1, clipping_norm=-1.0, generator=RNG),
            "clipping_norm must be > 0, got -1",
        ),
        (
            lambda: add_noise(np.ones(2), noise_multiplier=1, clipping_norm=math.inf, generator=RNG),
            "clipping_norm is infinite",
        ),
    ],
)
def test_what_guards_nothing_is_refused_by_name(ask, words):
    with pytest.raises(ValueError, match=words):
        ask()


# training


def test_without_noise_and_clipping_all_patients_take_plain_gradient_steps():
    model = build()
    weights = read(model)
    train_privately(model, same, n_patients=9, recipe=PrivateRecipe(0.0, math.inf, 1.0, 3))
    for _ in range(3):
        step = np.mean([propagate(weights, record) for record in VISITS], axis=0)
        parts = np.split(step, np.cumsum([part.size for part in weights])[:-1])
        weights = [own - 0.5 * part.reshape(own.shape) for own, part in zip(weights, parts, strict=True)]
    for found, expected in zip(read(model), weights, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


def test_in_a_step_of_training_every_patient_is_clipped_once_before_the_sum():
    model = build(rate=1.0)
    before = read(model)
    rows = VISITS.copy()
    rows[4] *= 30  # one patient would outweigh all others
    expected = np.array([propagate(before, record) for record in rows])
    lengths = np.linalg.norm(expected, axis=1)
    norm = float(np.median(lengths))
    assert lengths[4] > 10 * norm
    recipe = PrivateRecipe(0.0, norm, 1.0, 1)
    log = train_privately(model, lambda who, _: (rows[who], rows[who]), n_patients=9, recipe=recipe)
    moved = np.concatenate([(first - then).ravel() for first, then in zip(before, read(model), strict=True)])
    by_hand = sum(own * min(1.0, norm / length) for own, length in zip(expected, lengths, strict=True)) / 9
    np.testing.assert_allclose(moved, by_hand, rtol=1e-3, atol=1e-5)
    assert 4 <= log["n_clipped"].iloc[0] <= 5 and np.linalg.norm(moved) <= norm


def test_the_sum_is_divided_by_the_size_that_was_expected():
    model = build(rate=1.0)
    before = read(model)
    recipe = PrivateRecipe(0.0, math.inf, 0.4, 1)
    log = train_privately(model, same, n_patients=9, recipe=recipe, seed=5)
    who = draw_patients(9, sampling_rate=0.4, generator=np.random.default_rng(np.random.SeedSequence(5).spawn(3)[0]))
    assert log["n_patients"].tolist() == [len(who)] and len(who) not in (0, 9 * 0.4)
    moved = np.concatenate([(first - then).ravel() for first, then in zip(before, read(model), strict=True)])
    expected = sum(propagate(before, VISITS[at]) for at in who) / (0.4 * 9)
    np.testing.assert_allclose(moved, expected, rtol=1e-3, atol=1e-5)


def test_an_empty_step_moves_the_weights_by_noise_alone():
    model = build((6, 40, 6), rate=1.0)
    before = read(model)
    log = train_privately(model, same, n_patients=9, recipe=PrivateRecipe(2.0, 3.0, 1e-9, 1))
    assert log["n_patients"].tolist() == [0] and log["median_norm"].isna().all()
    moved = np.concatenate([(first - then).ravel() for first, then in zip(before, read(model), strict=True)])
    assert (moved * 9e-9).std() == pytest.approx(6.0, rel=0.15)


def test_a_seed_gives_the_same_training_and_another_seed_another():
    recipe = PrivateRecipe(1.0, 0.5, 0.5, 4)
    models = [build() for _ in range(3)]
    logs = [
        train_privately(model, same, n_patients=9, recipe=recipe, gradients=PatientGradients(model), seed=seed)
        for model, seed in zip(models, (1, 1, 2), strict=True)
    ]
    assert all(np.array_equal(*pair) for pair in zip(read(models[0]), read(models[1]), strict=True))
    assert not np.array_equal(read(models[0])[0], read(models[2])[0])
    assert logs[0].equals(logs[1])
    assert (logs[0]["n_clipped"] <= logs[0]["n_patients"]).all()


def test_gradients_of_another_model_are_refused():
    first, second = build(), build()
    with pytest.raises(ValueError, match="gradients are of another model"):
        train_privately(first, same, n_patients=9, recipe=PrivateRecipe(1.0), gradients=PatientGradients(second))


def test_training_learns_with_a_little_noise():
    model = build((6, 8, 6), rate=1.0)
    before = model.test_on_batch(VISITS.reshape(-1, 6), VISITS.reshape(-1, 6))
    train_privately(model, same, n_patients=9, recipe=PrivateRecipe(0.1, 5.0, 1.0, 60))
    assert model.test_on_batch(VISITS.reshape(-1, 6), VISITS.reshape(-1, 6)) < 0.8 * before


def test_a_recipe_tells_its_epsilon():
    expected = measure_epsilon(2.0, sampling_rate=0.1, steps=30, delta=1e-3)
    assert PrivateRecipe(2.0, 1.0, 0.1, 30).measure_epsilon(1e-3) == expected
    assert PrivateRecipe(0.0).measure_epsilon(1e-3) == math.inf


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"noise_multiplier": -1}, "noise_multiplier must be finite and >= 0, got -1"),
        ({"clipping_norm": 0}, "clipping_norm must be > 0, got 0"),
        ({"sampling_rate": 0}, "sampling_rate must be > 0 and <= 1, got 0"),
        ({"sampling_rate": 16}, "sampling_rate must be > 0 and <= 1, got 16"),
        ({"clipping_norm": math.inf}, "clipping_norm is infinite"),
        ({"steps": -1}, "PrivateRecipe.steps must be a whole number of at least 0"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused_by_name(arguments, words):
    with pytest.raises(ValueError, match=words):
        PrivateRecipe(**{"noise_multiplier": 1.0, **arguments})
