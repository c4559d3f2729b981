"""Matching hidden units: against all permutations, on shuffled copies, and what permuting leaves as it was."""

from itertools import permutations

import numpy as np
import pytest

from dqc_lib.synthesis import GeneratorShape, Layer, apply_permutations, match_units
from dqc_lib.synthesis.networks import FIXED, draw_weights

PLAIN = (Layer("in", (("x", 3),), (("a", 5),)), Layer("between", (("a", 5),), (("b", 4),)))
PLAIN += (Layer("out", (("b", 4),), (("y", 2),)),)


def draw(layers, seed):
    """Return normal weights and biases."""
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape) for layer in layers for shape in (layer.shape, layer.shape[1:])]


def run(weights, x):
    """Return what a plain chain of layers with a bend between them computes."""
    for number in range(0, len(weights), 2):
        x = np.tanh(x @ weights[number] + weights[number + 1])
    return x


def shuffle(weights, layers, seed, fixed):
    """Return weights with every hidden group in random order, and the orders that undo it."""
    rng, groups = np.random.default_rng(seed), {}
    for layer in layers:
        groups |= {name: size for name, size in layer.columns if name not in fixed}
    orders = {name: rng.permutation(size) for name, size in groups.items()}
    return apply_permutations(weights, orders, layers), {name: np.argsort(order) for name, order in orders.items()}


def test_permuted_units_compute_the_same():
    weights, x = draw(PLAIN, 0), np.random.default_rng(1).normal(size=(20, 3))
    moved, _ = shuffle(weights, PLAIN, 2, ("y",))
    assert not np.allclose(moved[0], weights[0])
    np.testing.assert_allclose(run(moved, x), run(weights, x), atol=1e-12)


def test_a_shuffled_copy_is_put_back_exactly():
    weights = draw(PLAIN, 0)
    moved, undone = shuffle(weights, PLAIN, 3, ("y",))
    found = match_units(weights, moved, PLAIN, fixed=("y",))
    assert {name: order.tolist() for name, order in found.items()} == {n: o.tolist() for n, o in undone.items()}
    for back, first in zip(apply_permutations(moved, found, PLAIN), weights, strict=True):
        np.testing.assert_array_equal(back, first)


@pytest.mark.parametrize("stage", ["autoencoder", "temporal"])
def test_shuffled_stages_of_a_generator_are_put_back_also_with_a_little_noise(stage):
    shape = GeneratorShape(n_codes=6, n_visits=3, latent=4, hidden=7, noise=3)
    layers, weights = shape.list_layers(stage), draw_weights(shape, stage, seed=1)
    moved, undone = shuffle(weights, layers, 4, FIXED[stage])
    rng = np.random.default_rng(5)
    noisy = [array + 0.01 * rng.normal(size=array.shape) for array in moved]
    found = match_units(weights, noisy, layers, fixed=FIXED[stage])
    assert set(found) == {"autoencoder": {"read", "latent", "write"}, "temporal": {"infer", "noise", "tell"}}[stage]
    assert all((found[name] == undone[name]).all() for name in undone)


@pytest.mark.parametrize("seed", range(4))
def test_a_group_is_matched_as_all_permutations_would_have_it(seed):
    layers = (Layer("in", (("x", 3),), (("a", 6),)), Layer("out", (("a", 6),), (("y", 2),)))
    first, second = draw(layers, seed), draw(layers, seed + 100)
    costs = {}
    for order in permutations(range(6)):
        at = list(order)
        costs[order] = ((first[0] - second[0][:, at]) ** 2).sum() + ((first[1] - second[1][at]) ** 2).sum()
    found = match_units(first, second, layers, fixed=("y",))
    assert list(found) == ["a"]
    assert tuple(found["a"].tolist()) == min(costs, key=costs.get)


def test_a_later_group_is_matched_after_the_earlier_one_has_been_put_in_order():
    first, second = draw(PLAIN, 0), draw(PLAIN, 7)
    order_a = match_units(first, second, PLAIN, fixed=("b", "y"))["a"]
    costs = {}
    for order in permutations(range(4)):
        kernel, bias = second[2][np.ix_(order_a, list(order))], second[3][list(order)]
        costs[order] = ((first[2] - kernel) ** 2).sum() + ((first[3] - bias) ** 2).sum()
    assert tuple(match_units(first, second, PLAIN, fixed=("y",))["b"].tolist()) == min(costs, key=costs.get)


def test_units_that_stand_twice_are_moved_alike_in_both_places():
    layers = (Layer("posterior", (("x", 2),), (("u", 3), ("u", 3))), Layer("tell", (("u", 3), ("x", 2)), (("y", 1),)))
    weights = [np.arange(12.0).reshape(2, 6), np.arange(6.0), np.arange(5.0)[:, np.newaxis], np.zeros(1)]
    kernel, bias, tell, _ = apply_permutations(weights, {"u": np.array([2, 0, 1])}, layers)
    assert kernel.tolist() == [[2, 0, 1, 5, 3, 4], [8, 6, 7, 11, 9, 10]]
    assert bias.tolist() == [2, 0, 1, 5, 3, 4]
    assert tell[:, 0].tolist() == [2, 0, 1, 3, 4], "what stands beside the group stays in its place"


def test_equal_networks_are_left_as_they_are():
    weights = draw(PLAIN, 0)
    found = match_units(weights, weights, PLAIN, fixed=("y",))
    assert all((order == np.arange(len(order))).all() for order in found.values())
    assert match_units(weights, weights, PLAIN, fixed=("a", "b", "y")) == {}


def test_a_single_unit_has_one_order():
    layers = (Layer("in", (("x", 2),), (("a", 1),)), Layer("out", (("a", 1),), (("y", 1),)))
    assert match_units(draw(layers, 0), draw(layers, 1), layers, fixed=("y",))["a"].tolist() == [0]


def test_weights_of_other_shapes_and_orders_that_are_none_are_refused():
    weights = draw(PLAIN, 0)
    with pytest.raises(ValueError, match="reference must be kernels and biases of the shapes"):
        match_units(weights[:-1], weights, PLAIN)
    with pytest.raises(ValueError, match=r"permutations\['a'\] must hold each of 0 to 4 once, got \[0, 0, 1, 2, 3\]"):
        apply_permutations(weights, {"a": [0, 0, 1, 2, 3]}, PLAIN)
    with pytest.raises(ValueError, match=r"permutations must be of the groups \['a', 'b', 'x', 'y'\], got 'c'"):
        apply_permutations(weights, {"c": [0]}, PLAIN)
    with pytest.raises(TypeError, match="a layer must be a Layer, such as one of GeneratorShape.list_layers"):
        apply_permutations(weights, {}, ["dense"])
