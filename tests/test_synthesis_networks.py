"""The generator's two networks: NumPy against Keras, losses by hand, rows by hand, and what is drawn."""

import numpy as np
import pytest
from scipy import integrate, stats

from dqc_lib.networks import import_keras
from dqc_lib.synthesis import Generator, GeneratorShape, build_autoencoder, build_generator, sample_patients
from dqc_lib.synthesis.networks import (
    decode_latents,
    draw_weights,
    encode_visits,
    make_rows,
    measure_bound,
    measure_surprise,
    read_weights,
    tell_history,
    write_weights,
)

SHAPE = GeneratorShape(n_codes=5, n_visits=4, latent=3, hidden=6, noise=2)


def draw_codes(n, seed=0):
    return (np.random.default_rng(seed).random((n, SHAPE.n_codes)) < 0.3).astype(np.float32)


def make_generator(seed=0):
    """Return an untrained generator with biases, so that they are tested too."""
    rng, parts = np.random.default_rng(seed), []
    for stage in ("autoencoder", "temporal"):
        weights = draw_weights(SHAPE, stage, seed=seed)
        parts.append([array + 0.3 * rng.normal(size=array.shape).astype(np.float32) for array in weights])
    return Generator(SHAPE, *parts)


def to_numpy(value):
    return import_keras().ops.convert_to_numpy(value)


def test_what_numpy_computes_is_what_keras_computes():
    generator, codes = make_generator(), draw_codes(40)
    model = build_autoencoder(SHAPE)
    write_weights(model, SHAPE, "autoencoder", generator.autoencoder)
    expected = model.predict_on_batch(codes)
    found = decode_latents(generator.autoencoder, encode_visits(generator.autoencoder, codes))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_temporal_network_is_what_sampling_takes_it_for():
    generator, rng = make_generator(), np.random.default_rng(1)
    model = build_generator(SHAPE)
    write_weights(model, SHAPE, "temporal", generator.temporal)
    write_weights(model, SHAPE, "autoencoder", generator.autoencoder)
    latents, history, noise = (rng.normal(size=(7, size)).astype(np.float32) for size in (3, SHAPE.history, 2))
    told = model.predict_on_batch([latents, history, noise])
    bend = lambda x: np.where(x > 0, x, np.exp(x) - 1)  # noqa: E731
    (w1, b1, w2, b2, w3, b3, w4, b4), auto = generator.temporal, generator.autoencoder
    posterior = bend(np.hstack([latents, history]) @ w1 + b1) @ w2 + b2
    drawn = posterior[:, :2] + np.exp(posterior[:, 2:] / 2) * noise
    latent = bend(np.hstack([drawn, history]) @ w3 + b3) @ w4 + b4
    np.testing.assert_allclose(told[:, 5:], posterior, atol=1e-5)
    np.testing.assert_allclose(told[:, :5], bend(latent @ auto[4] + auto[5]) @ auto[6] + auto[7], atol=1e-4)


def test_the_decoder_within_the_temporal_network_does_not_learn():
    model = build_generator(SHAPE)
    learns = {variable.path.split("/")[-2] for variable in model.trainable_variables}
    assert learns == {"infer", "posterior", "tell", "next"}


def test_the_surprise_is_that_of_independent_coins():
    codes, odds = draw_codes(6), np.random.default_rng(2).normal(size=(6, 5)).astype(np.float32)
    expected = -stats.bernoulli.logpmf(codes, 1 / (1 + np.exp(-odds.astype(float)))).sum(axis=1)
    np.testing.assert_allclose(to_numpy(measure_surprise(codes, odds)), expected, rtol=1e-5)


def test_the_bound_is_the_surprise_and_the_divergence_as_an_integral():
    mean, log_variance = 0.7, -0.4
    codes, odds = np.float32([[1.0]]), np.float32([[0.2]])
    posterior = stats.norm(mean, np.exp(log_variance / 2))
    between = lambda x: posterior.pdf(x) * (posterior.logpdf(x) - stats.norm.logpdf(x))  # noqa: E731
    divergence = integrate.quad(between, -9, 9)[0]
    told = np.float32([[0.2, mean, log_variance]])
    expected = to_numpy(measure_surprise(codes, odds)) + divergence
    np.testing.assert_allclose(to_numpy(measure_bound(codes, told, n_codes=1)), expected, rtol=1e-5)


def test_a_seed_gives_the_same_start_and_another_another():
    first, again, other = (read_weights(build_autoencoder(SHAPE, seed=s), SHAPE, "autoencoder") for s in (3, 3, 4))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert not (first[0] == other[0]).all()
    assert [array.shape for array in first] == [(5, 6), (6,), (6, 3), (3,), (3, 6), (6,), (6, 5), (5,)]


def test_a_patient_becomes_a_row_per_visit_that_is_told_of_earlier_visits_only():
    auto = make_generator().autoencoder
    visits = np.zeros((2, 4, 5), dtype=np.float32)
    visits[0, 0, 0] = visits[0, 1, 1] = visits[1, 2, 4] = 1
    codes, latents, history = make_rows(auto, visits)
    assert codes.shape == (8, 5) and latents.shape == (8, 3) and history.shape == (8, 8)
    np.testing.assert_array_equal(codes[[0, 2, 4, 6]], visits[0])
    np.testing.assert_allclose(latents, encode_visits(auto, codes), rtol=1e-6)
    np.testing.assert_array_equal(history[0], [0] * 6 + [0, 1])  # nothing before the first visit
    seen = np.array([[0, 1, 0, 0, 0], [0.5, 0.5, 0, 0, 0]])  # the second visit, and the mean of the first two
    np.testing.assert_allclose(history[4, :6], encode_visits(auto, seen).ravel(), rtol=1e-5)
    np.testing.assert_allclose(history[4, 6:], [2 / 3, 0], rtol=1e-6)
    later = visits.copy()
    later[:, 3] = 1
    assert (make_rows(auto, later)[2] == history).all(), "nobody is told of the visit to come"


def test_a_record_of_one_visit_has_no_history():
    auto = make_generator().autoencoder
    told = tell_history(auto, np.ones((1, 5)), np.ones((1, 5)), visit=0, n_visits=1)
    assert told.tolist() == [[0, 0, 0, 0, 0, 0, 0, 1]]


def test_patients_are_zeros_and_ones_and_the_same_for_a_seed():
    generator = make_generator()
    drawn = sample_patients(generator, 30, seed=1)
    assert drawn.shape == (30, 4, 5) and drawn.dtype == np.float32
    assert set(np.unique(drawn)) == {0.0, 1.0}
    assert (drawn == sample_patients(generator, 30, seed=1)).all()
    assert not (drawn == sample_patients(generator, 30, seed=2)).all()
    assert sample_patients(generator, 0).shape == (0, 4, 5)


def test_a_generator_without_weights_throws_a_coin_of_its_bias():
    parts = (make_generator().autoencoder, make_generator().temporal)
    zeros = [[np.zeros_like(array) for array in part] for part in parts]
    zeros[0][7] += np.log([1 / 9, 1, 9, 1e9, 1e-9]).astype(np.float32)
    drawn = sample_patients(Generator(SHAPE, *zeros), 4000, seed=0)
    np.testing.assert_allclose(drawn.mean(axis=(0, 1)), [0.1, 0.5, 0.9, 1, 0], atol=0.02)


def test_a_code_that_only_follows_itself_stays():
    """A decoder that says what was there at the visit before, and nothing else, built by hand."""
    shape = GeneratorShape(n_codes=1, n_visits=6, latent=1, hidden=1, noise=1)
    one = lambda *values: np.float32([[value] for value in values])  # noqa: E731
    zero = np.zeros(1, dtype=np.float32)
    auto = [one(1), zero, one(1), zero, one(1), zero, one(40), np.float32([-20])]
    # noise, previous, mean, place, first: the previous counts, and the first visit is a coin
    temporal = [np.zeros((5, 1)), zero, np.zeros((1, 2)), np.zeros(2), one(0, 1, 0, 0, 0.5), zero, one(1), zero]
    drawn = sample_patients(Generator(shape, auto, temporal), 500, seed=0)[:, :, 0]
    assert (drawn == drawn[:, :1]).all()
    assert 0.4 < drawn[:, 0].mean() < 0.6


@pytest.mark.parametrize(
    ("ask", "error", "said"),
    [
        (lambda: GeneratorShape(n_codes=0, n_visits=3), ValueError, "GeneratorShape.n_codes"),
        (lambda: build_autoencoder(SHAPE, learning_rate=0), ValueError, "learning_rate must be a finite number > 0"),
        (lambda: sample_patients(make_generator(), -1), ValueError, "n must be a whole number of at least 0"),
    ],
)
def test_what_cannot_be_is_refused(ask, error, said):
    with pytest.raises(error, match=said):
        ask()
