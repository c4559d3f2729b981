"""Networks: the published architecture, normalization that freezes, and snapshots that replay bit for bit."""

import gc
import os
import subprocess
import sys

import numpy as np
import pytest

from dqc_lib import snapshots
from dqc_lib.networks import (
    build_sfcn,
    freeze_normalization,
    import_keras,
    load_sfcn,
    name_backend,
    recalibrate_normalization,
)
from dqc_lib.snapshots import restore_snapshot, take_snapshot

SHAPE = (16, 16, 16)
NARROW = 0.0625  # 2-4-8-16-16-4 filters


def make_batch(n=3, *, seed=0, shape=SHAPE):
    rng = np.random.default_rng(seed)
    return rng.uniform(0, 255, (n, *shape, 1)).astype(np.float32), np.arange(n).reshape(n, 1).astype(np.float32) % 2


def build(**options):
    return build_sfcn(SHAPE, **{"width": NARROW, "learning_rate": 1e-2} | options)


def read_variables(model):
    return [variable.numpy() for variable in (*model.variables, *model.optimizer.variables)]


def are_equal(first, second):
    return [bool((a == b).all()) for a, b in zip(first, second, strict=True)]


def take_steps(model, *, n=2, seed=1):
    """Train on fresh batches and return the losses."""
    return [float(model.train_on_batch(*make_batch(seed=seed + step))) for step in range(n)]


def find_variables(model, ending):
    return {variable.path: variable.numpy() for variable in model.variables if variable.path.endswith(ending)}


# the architecture


def test_the_published_network_has_the_published_number_of_parameters():
    assert build_sfcn((160, 192, 160)).count_params() == 2_952_705


def test_the_parameters_are_those_counted_by_hand():
    filters, parameters, below = (2, 4, 8, 16, 16, 4), 0, 1
    for block, count in enumerate(filters):
        kernel = 27 if block < 5 else 1
        parameters += kernel * below * count + count + 4 * count  # kernel, bias; scale, shift, mean, variance
        below = count
    assert build().count_params() == parameters + 4 + 1  # 16 voxels are halved five times: one feature a filter


def read_filters(model):
    return [layer.filters for layer in model.layers if layer.name.startswith("conv")]


@pytest.mark.parametrize(
    ("width", "filters"),
    [
        (1, [32, 64, 128, 256, 256, 64]),
        (0.25, [8, 16, 32, 64, 64, 16]),
        (0.001, [1, 1, 1, 1, 1, 1]),
        ((8, 16, 32, 64, 64, 32), [8, 16, 32, 64, 64, 32]),
        ([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6]),
    ],
    ids=str,
)
def test_width_is_a_factor_or_the_numbers_of_filters(width, filters):
    assert read_filters(build(width=width)) == filters


def test_blocks_follow_one_another_as_published():
    names = [layer.name for layer in build_sfcn((64, 64, 64), width=NARROW).layers]
    blocks = [f"{part}{block}" for block in range(1, 6) for part in ("conv", "norm", "pool", "relu")]
    assert names == ["volume", *blocks, "conv6", "norm6", "relu6", "average", "dropout", "flatten", "dense"]


@pytest.mark.parametrize(
    ("shape", "features"),
    [((160, 192, 160), 2 * 3 * 2 * 64), ((64, 64, 64), 64), ((16, 16, 16), 64), ((40, 48, 40), 64)],
    ids=str,
)
def test_what_is_left_before_the_last_layer_follows_from_halving_five_times_and_averaging(shape, features):
    model = build_sfcn(shape, width=(1, 1, 1, 1, 1, 64))
    assert model.get_layer("dense").kernel.shape == (features, 1)


def test_the_answer_is_one_probability_per_volume():
    images, _ = make_batch(4)
    scores = build().predict_on_batch(images)
    assert scores.shape == (4, 1)
    assert ((scores > 0) & (scores < 1)).all()


def test_the_same_seed_gives_the_same_network_and_another_seed_another():
    first, again, other = (read_variables(build(seed=seed)) for seed in (3, 3, 4))
    assert all(are_equal(first, again))
    kernels = [at for at, variable in enumerate(build().variables) if variable.path.endswith("kernel")]
    assert len(kernels) == 7
    assert not any((first[at] == other[at]).all() for at in kernels)


def test_layers_of_one_network_start_from_different_numbers():
    model = build(width=(4, 4, 4, 4, 4, 4))
    second, third = (model.get_layer(name).kernel.numpy() for name in ("conv2", "conv3"))
    assert not np.allclose(second, third)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (16, 16)}, r"shape must be three positive sizes, got \(16, 16\)"),
        ({"shape": (16, 0, 16)}, r"shape must be three positive sizes, got \(16, 0, 16\)"),
        ({"width": 0}, "width must be a factor greater than 0 or six numbers of filters, got 0"),
        ({"width": -1.0}, "width must be a factor greater than 0 or six numbers of filters, got -1.0"),
        ({"width": float("nan")}, "width must be a factor greater than 0 or six numbers of filters, got nan"),
        ({"width": float("inf")}, "width must be a factor greater than 0 or six numbers of filters, got inf"),
        ({"width": (8, 16, 32)}, r"width must be .* or six numbers of filters, got \(8, 16, 32\)"),
        ({"width": (8, 16, 32, 64, 0, 32)}, r"width must be .* or six numbers of filters, got \(8, 16"),
    ],
)
def test_a_network_that_cannot_be_built_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build_sfcn(**{"shape": SHAPE} | options)


# normalization


def test_freezing_keeps_the_moving_statistics_while_scale_and_shift_learn():
    model = build()
    take_steps(model)
    freeze_normalization(model)
    mean, variance, gamma, beta = (
        find_variables(model, ending) for ending in ("moving_mean", "moving_variance", "gamma", "beta")
    )
    take_steps(model)
    for before in (mean, variance):
        now = find_variables(model, next(iter(before)).rpartition("/")[2])
        assert all((now[path] == before[path]).all() for path in before)
    for before in (gamma, beta):
        now = find_variables(model, next(iter(before)).rpartition("/")[2])
        assert len(before) == 6
        assert all((now[path] != before[path]).any() for path in before)


def test_without_freezing_the_moving_statistics_follow_the_batches():
    model = build()
    before = find_variables(model, "moving_mean")
    take_steps(model)
    now = find_variables(model, "moving_mean")
    assert all((now[path] != before[path]).any() for path in before)


def test_a_frozen_network_trains_on_what_it_predicts_with():
    model = build(dropout=0.0)
    take_steps(model)
    images, labels = make_batch(4, seed=9)
    scores = model.predict_on_batch(images).astype(np.float64)
    entropy = -np.mean(labels * np.log(scores) + (1 - labels) * np.log(1 - scores))
    loose = float(model.train_on_batch(images, labels))
    model = build(dropout=0.0)
    take_steps(model)
    freeze_normalization(model)
    frozen = float(model.train_on_batch(images, labels))
    assert frozen == pytest.approx(entropy, rel=1e-4)
    assert loose != pytest.approx(entropy, rel=1e-2), "statistics of the batch give another loss"


def test_freezing_keeps_the_optimizer_state():
    model = build()
    take_steps(model)
    before = read_variables(model)
    freeze_normalization(model)
    assert all(are_equal(before, read_variables(model)))
    assert int(model.optimizer.iterations) == 2


def compute_layer_inputs(model, images, name):
    """Return the input of a layer by going through the layers one by one, in float32 as the network does."""
    value = images
    for layer in model.layers[1:]:
        if layer.name == name:
            return np.asarray(value, dtype=np.float64)
        value = layer(value, training=False)
    raise KeyError(name)


def test_recalibration_gives_the_mean_and_variance_of_the_features_of_all_images():
    model = build()
    take_steps(model)
    images, _ = make_batch(7, seed=5)
    images[4:] *= 0.3  # the second center is darker, and smaller
    recalibrate_normalization(model, [images[:4], images[4:]])
    for block in range(1, 7):
        features = compute_layer_inputs(model, images, f"norm{block}")
        norm = model.get_layer(f"norm{block}")
        np.testing.assert_allclose(norm.moving_mean.numpy(), features.mean((0, 1, 2, 3)), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(norm.moving_variance.numpy(), features.var((0, 1, 2, 3)), rtol=1e-3, atol=1e-6)


def test_recalibration_does_not_depend_on_how_the_images_are_divided():
    images, _ = make_batch(6, seed=5)
    whole, parts = build(), build()
    recalibrate_normalization(whole, [images])
    recalibrate_normalization(parts, [images[:1], images[1:6]])
    for first, second in zip(read_variables(whole), read_variables(parts), strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-6)


def test_recalibration_moves_nothing_but_the_moving_statistics():
    model = build()
    take_steps(model)
    before = {v.path: v.numpy() for v in (*model.variables, *model.optimizer.variables)}
    recalibrate_normalization(model, [make_batch(3)[0]])
    moved = {v.path for v in (*model.variables, *model.optimizer.variables) if (v.numpy() != before[v.path]).any()}
    assert moved == {f"norm{block}/{name}" for block in range(1, 7) for name in ("moving_mean", "moving_variance")}


def test_images_without_contrast_give_a_variance_of_zero_and_no_error():
    model = build()
    recalibrate_normalization(model, [np.zeros((2, *SHAPE, 1), dtype=np.float32)])
    assert (model.get_layer("norm1").moving_variance.numpy() == 0).all()
    assert np.isfinite(model.predict_on_batch(make_batch()[0])).all()


def test_recalibration_without_images_is_refused():
    with pytest.raises(ValueError, match="recalibration needs at least one image, got none"):
        recalibrate_normalization(build(), [])


# snapshots


def test_in_bfloat16_the_layers_compute_with_less_and_the_weights_keep_what_they_learn(tmp_path):
    model, plain = build(precision="bfloat16"), build()
    images = make_batch()[0]
    recalibrate_normalization(model, [images])
    freeze_normalization(model)
    kinds = {layer.name: layer.compute_dtype for layer in model.layers}
    whole = {"conv4", "norm4", "pool4", "relu4"} | {"volume", "average", "dropout", "flatten", "dense"}
    assert kinds == {name: "float32" if name in whole else "bfloat16" for name in kinds}, "16 voxels are 2 before conv4"
    assert {variable.dtype for variable in model.trainable_variables} == {"float32"}
    assert all(are_equal(model.get_weights()[:2], plain.get_weights()[:2])), "they start alike"
    snapshot = take_snapshot(model)
    losses, after = take_steps(model), read_variables(model)
    assert all(np.isfinite(values).all() for values in after)
    for _ in range(20):  # a gradient that holds memory nobody wrote differs now and then
        restore_snapshot(model, snapshot)
        assert take_steps(model) == losses
        assert all(are_equal(read_variables(model), after))
    scores = model.predict_on_batch(images)
    assert scores.dtype == np.float32
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(load_sfcn(tmp_path / "model.keras").predict_on_batch(images), scores)


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match=r"precision must be one of \('float32', 'bfloat16'\), got 'half'"):
        build(precision="half")


@pytest.fixture(params=["tensorflow", "any backend"])
def way(request, monkeypatch):
    """TensorFlow's own way to copy variables, and the one that serves every backend."""
    monkeypatch.setattr("keras.backend.backend", lambda: request.param)


def test_a_step_after_a_restore_repeats_itself_bit_for_bit(way):
    model = build(dropout=0.5)
    take_steps(model)
    snapshot = take_snapshot(model)
    losses, after = take_steps(model, n=3, seed=20), read_variables(model)
    restore_snapshot(model, snapshot)
    assert take_steps(model, n=3, seed=20) == losses
    assert all(are_equal(read_variables(model), after))


def test_restoring_brings_back_every_variable_of_model_and_optimizer(way):
    model = build(dropout=0.5)
    take_steps(model)
    before, snapshot = read_variables(model), take_snapshot(model)
    take_steps(model)
    changed = are_equal(read_variables(model), before)
    assert changed.count(True) == 1, "a step changes everything but the learning rate"
    restore_snapshot(model, snapshot)
    assert all(are_equal(read_variables(model), before))


def test_a_snapshot_is_a_copy_that_later_steps_leave_alone(way):
    model = build()
    snapshot = take_snapshot(model)
    kept = [np.array(value) for value in snapshot.values]
    take_steps(model)
    restore_snapshot(model, snapshot)
    take_steps(model)
    assert all(are_equal([np.array(value) for value in snapshot.values], kept))


def test_a_model_that_is_gone_leaves_nothing_behind():
    gc.collect()  # models of other tests
    before = len(snapshots._COMPILED)
    model = build()
    snapshot = take_snapshot(model)
    restore_snapshot(model, snapshot)
    assert len(snapshots._COMPILED) == before + 1
    del model
    gc.collect()
    assert len(snapshots._COMPILED) == before


def test_weights_alone_do_not_repeat_a_step():
    model = build(dropout=0.5)
    take_steps(model)
    weights = model.get_weights()
    after = [take_steps(model, n=1, seed=20), read_variables(model)]
    model.set_weights(weights)
    again = [take_steps(model, n=1, seed=20), read_variables(model)]
    assert again[0] != after[0], "dropout has drawn other numbers"
    assert not all(are_equal(again[1], after[1]))


def test_weights_alone_do_not_repeat_a_step_without_dropout_either():
    model = build(dropout=0.0)
    take_steps(model)
    weights = model.get_weights()
    first = take_steps(model, n=1, seed=20)
    trained = model.get_weights()
    model.set_weights(weights)
    assert take_steps(model, n=1, seed=20) == first, "the same weights give the same loss"
    assert not all(are_equal(model.get_weights(), trained)), "but Adam remembers the step that was undone"


def test_a_frozen_network_is_restored_too():
    model = build(dropout=0.5)
    take_steps(model)
    freeze_normalization(model)
    snapshot = take_snapshot(model)
    losses, after = take_steps(model, seed=20), read_variables(model)
    restore_snapshot(model, snapshot)
    assert take_steps(model, seed=20) == losses
    assert all(are_equal(read_variables(model), after))


def test_a_snapshot_of_another_architecture_is_refused_and_nothing_is_changed():
    import keras

    other = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    other.compile("adam", "mse")
    other.optimizer.build(other.trainable_variables)
    model = build()
    before = read_variables(model)
    with pytest.raises(ValueError, match="the snapshot has 8 variables, the model 93: it was taken of another model"):
        restore_snapshot(model, take_snapshot(other))
    assert all(are_equal(read_variables(model), before))


def test_a_snapshot_of_another_width_is_refused_and_nothing_is_changed():
    model = build(width=(2, 4, 8, 16, 16, 4))
    before, snapshot = read_variables(model), take_snapshot(build(width=(2, 4, 8, 16, 16, 5), seed=1))
    with pytest.raises(ValueError, match=r"conv6/kernel .*\(1, 1, 1, 16, 4\).* taken of another model"):
        restore_snapshot(model, snapshot)
    assert all(are_equal(read_variables(model), before))


# files


@pytest.mark.parametrize("frozen", [False, True])
def test_a_model_that_was_saved_and_loaded_goes_on_bit_for_bit(tmp_path, frozen):
    model = build(dropout=0.5)
    take_steps(model)
    if frozen:
        freeze_normalization(model)
        take_steps(model)
    model.save(tmp_path / "model.keras")
    loaded = load_sfcn(tmp_path / "model.keras")
    assert all(are_equal(read_variables(loaded), read_variables(model)))
    assert take_steps(loaded, n=3, seed=20) == take_steps(model, n=3, seed=20)
    assert all(are_equal(read_variables(loaded), read_variables(model)))
    assert loaded.get_layer("norm1").frozen == frozen


def test_a_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing.keras: no such file; expected a model from build_sfcn"):
        load_sfcn(tmp_path / "missing.keras")


def test_a_file_that_would_run_code_is_refused(tmp_path):
    import keras

    values = keras.Input((2,))
    model = keras.Model(values, keras.layers.Lambda(lambda value: value + 1)(values))
    model.save(tmp_path / "lambda.keras")
    with pytest.raises(ValueError, match="it names 'Lambda' of 'keras.layers'; expected the layers of an SFCN alone"):
        load_sfcn(tmp_path / "lambda.keras")


def test_the_backend_is_known_before_keras_is_started(tmp_path):
    code = "import sys; from dqc_lib.networks import name_backend; print(name_backend(), 'keras' in sys.modules)"

    def ask(**settings):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("KERAS_")} | settings
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert ask(KERAS_HOME=str(tmp_path)) == ["tensorflow", "False"]
    (tmp_path / "keras.json").write_text('{"backend": "jax"}')
    assert ask(KERAS_HOME=str(tmp_path)) == ["jax", "False"]
    assert ask(KERAS_HOME=str(tmp_path), KERAS_BACKEND="torch") == ["torch", "False"]
    (tmp_path / "keras.json").write_text("[]")
    assert ask(KERAS_HOME=str(tmp_path)) == ["tensorflow", "False"]
    keras = import_keras()
    assert name_backend() == keras.backend.backend()


def test_threads_that_ask_at_once_get_a_whole_keras():
    code = """
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from dqc_lib.networks import import_keras

gate = Barrier(4)
def ask(number):
    gate.wait()
    return float(import_keras().ops.sum(import_keras().ops.ones(number)))

with ThreadPoolExecutor(4) as pool:
    print(*pool.map(ask, [1, 2, 3, 4]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, ["1.0", "2.0", "3.0", "4.0"]), done.stderr
