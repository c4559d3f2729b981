"""Which hidden unit of one network does what which unit of another does: matching layer by layer, and permuting.

Hidden units have no names: permuting them, with the weights into and out of them, leaves a network's function as it
was. Networks that were trained from different starts have their units in different orders, and averaging them weight by
weight mixes units that have nothing to do with each other. Matching one layer after the other by the weights that lead
into it is how FedMA begins (Wang et al. 2020, arXiv:2002.06440); theirs may also add units, ours may not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dqc_lib.arguments import require_kind

Weights = Sequence[np.ndarray]
"""Kernel (incoming, outgoing) and bias (outgoing,) of every dense layer, in the order of their layers."""


@dataclass(frozen=True)
class Layer:
    """A dense layer by the groups of units that it connects.

    Parameters
    ----------
    name : str
    rows : tuple of (str, int)
        Name and size of the groups that lead in, side by side.
    columns : tuple of (str, int)
        The groups that lead out; a group that stands twice, as mean and variance of the same units do, is permuted
        alike in both places.
    """

    name: str
    rows: tuple[tuple[str, int], ...]
    columns: tuple[tuple[str, int], ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the kernel."""
        return sum(size for _, size in self.rows), sum(size for _, size in self.columns)


def match_units(
    reference: Weights, weights: Weights, layers: Sequence[Layer], *, fixed: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Return, for every group of hidden units, the order that brings them closest to those of a reference.

    Groups are matched in the order in which layers lead into them, each by its incoming weights and biases after the
    earlier groups have been put into order: the assignment with the smallest sum of squared differences, exact for each
    group (Hungarian method), not for all groups together.

    Parameters
    ----------
    reference, weights : sequence of ndarray
        Kernel and bias of every layer.
    layers : sequence of Layer
    fixed : sequence of str
        Groups that mean the same in both: inputs and outputs. What no layer leads into is fixed anyway.

    Returns
    -------
    dict of str to ndarray of int
        For `apply_permutations`: entry i is the unit of `weights` that takes place i.

    Raises
    ------
    ValueError
        If weights and layers do not fit.
    """
    from scipy.optimize import linear_sum_assignment

    _check_weights(reference, layers, "reference")
    _check_weights(weights, layers, "weights")
    found: dict[str, np.ndarray] = {}
    for group in dict.fromkeys(name for layer in layers for name, _ in layer.columns):
        if group in fixed:
            continue
        ordered = apply_permutations(weights, found, layers)
        theirs, ours = (_gather_incoming(part, layers, group) for part in (reference, ordered))
        apart = ((theirs[:, np.newaxis] - ours[np.newaxis]) ** 2).sum(axis=2)
        found[group] = linear_sum_assignment(apart)[1]
    return found


def _gather_incoming(weights: Weights, layers: Sequence[Layer], group: str) -> np.ndarray:
    """Return all that leads into each unit of a group, float64 (units, weights and biases)."""
    parts = []
    for number, layer in enumerate(layers):
        start = 0
        for name, size in layer.columns:
            if name == group:
                kernel, bias = weights[2 * number : 2 * number + 2]
                parts += [kernel[:, start : start + size], bias[np.newaxis, start : start + size]]
            start += size
    return np.concatenate(parts).T.astype(np.float64)


def apply_permutations(
    weights: Weights, permutations: Mapping[str, np.ndarray], layers: Sequence[Layer]
) -> list[np.ndarray]:
    """Return the weights with the units of each group in another order; what the network computes stays the same.

    Parameters
    ----------
    weights : sequence of ndarray
        Kernel and bias of every layer.
    permutations : mapping of str to ndarray of int
        By group, as `match_units` returns them; groups that are not in it stay as they are. A group that is an input or
        an output of the network must not be in it.
    layers : sequence of Layer

    Raises
    ------
    ValueError
        If weights and layers do not fit, an order is not one, or no layer has such a group.
    """
    _check_weights(weights, layers, "weights")
    groups = dict.fromkeys(group for layer in layers for group in (*layer.rows, *layer.columns))
    names = {name for name, _ in groups}
    if unknown := [name for name in permutations if name not in names]:
        raise ValueError(f"permutations must be of the groups {sorted(names)}, got {unknown[0]!r}")
    for name, size in groups:
        order = np.asarray(permutations.get(name, range(size)))
        if order.shape != (size,) or not np.array_equal(np.sort(order), np.arange(size)):
            raise ValueError(f"permutations[{name!r}] must hold each of 0 to {size - 1} once, got {order.tolist()}")
    moved = []
    for number, layer in enumerate(layers):
        rows, columns = (_index(groups, permutations) for groups in (layer.rows, layer.columns))
        kernel, bias = weights[2 * number : 2 * number + 2]
        moved += [kernel[np.ix_(rows, columns)], bias[columns]]
    return moved


def _index(groups: Sequence[tuple[str, int]], permutations: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return where the units of groups that stand side by side come from."""
    starts = np.cumsum([0, *(size for _, size in groups)])
    parts = [
        start + np.asarray(permutations.get(name, np.arange(size)))
        for start, (name, size) in zip(starts, groups, strict=False)
    ]
    return np.concatenate(parts)


def _check_weights(weights: Weights, layers: Sequence[Layer], name: str) -> None:
    for layer in layers:
        require_kind("a layer", layer, Layer, such_as="one of GeneratorShape.list_layers")
    expected = [shape for layer in layers for shape in (layer.shape, layer.shape[1:])]
    came = [np.shape(array) for array in weights]
    if came != expected:
        raise ValueError(f"{name} must be kernels and biases of the shapes {expected}, got {came}")
