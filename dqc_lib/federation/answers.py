"""What the server believes of an answer: every one is checked before it is used, and the center named that sent it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dqc_lib.federation.weights import Arrays, Layout
from dqc_lib.networks import FeatureSums
from dqc_lib.quality import Counts
from dqc_lib.travelling import CenterError, Update

LARGEST_LOG = 300.0
"""No update norm has a logarithm further from 0: a unit made of it is neither 0 nor infinite."""
LARGEST = 10**9
"""More subjects than this no center has."""


class SiteError(CenterError):
    """Sites that did not answer.

    Attributes
    ----------
    sites : tuple of str
    """

    def __init__(self, sites: Sequence[str], what: str) -> None:
        super().__init__(", ".join(sites), what)
        self.sites = tuple(sites)

    def name_centers(self, declared: Mapping[str, Declared]) -> CenterError:
        """Return the error of the centers that these sites hold."""
        return CenterError(self.place, self.what, [name for name, of in declared.items() if of.site in self.sites])


@dataclass(frozen=True)
class Declared:
    """What a center said it has before the run began; it is held to that."""

    site: str
    train: tuple[str, ...]
    n_neg: int
    n_pos: int


def read_declared(site: str, answer: Any) -> dict[str, Declared]:
    """Return the centers that a site declares."""
    _check_kind(site, answer, Mapping, "its centers by name")
    centers = {}
    for center, parts in answer.items():
        if not (isinstance(center, str) and center):
            raise SiteError([site], f"expected its centers by name, came {center!r}")
        if not isinstance(parts, Mapping) or set(parts) != {"train", "verification"}:
            raise SiteError([site], f"expected of {center!r} its training subjects and two numbers, and nothing else")
        names, numbers = parts["train"], parts["verification"]
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) and name for name in names):
            raise SiteError([site], f"expected of {center!r} the names of its training subjects")
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise SiteError([site], f"{center!r} names {twice[:12]} more than once")
        if not isinstance(numbers, list | tuple) or len(numbers) != 2 or not all(map(_is_count, numbers)):
            raise SiteError([site], f"expected of {center!r} two numbers of verification subjects, came {numbers!r}")
        centers[center] = Declared(site, tuple(names), *numbers)
    return centers


def refuse(center: str, what: str) -> CenterError:
    """Return the error of one center whose answer cannot be used."""
    return CenterError(f"center {center!r}", what, [center])


def read_step(center: str, answer: Any, layout: Layout, *, squares_at: Sequence[int] = ()) -> tuple[Arrays, Update]:
    """Return the weights and the evidence that a center answers a training call with; see `Start` for `squares_at`."""
    if not isinstance(answer, Mapping):
        raise refuse(center, f"expected weights and norm, came {type(answer).__name__}")
    missing = {"weights", "norm"} ^ set(answer)
    if missing:
        raise refuse(center, f"expected weights and norm, and nothing else; {sorted(map(str, missing))} differ")
    try:
        arrays = layout.unpack(answer["weights"])
    except ValueError as error:
        raise refuse(center, str(error)) from None
    for number in squares_at:
        if (arrays[number] < 0).any():  # finite, but the next center's step would not be
            raise refuse(center, f"array {number} of the weights holds mean squares, and some are below 0")
    norm = answer["norm"]
    if norm is not None and not (isinstance(norm, float) and norm >= 0):  # inf may be one, NaN not
        raise refuse(center, f"expected an update norm from 0 on, came {norm!r}")
    return arrays, Update(None, norm)


def read_counts(site: str, answer: Any, declared: Mapping[str, Declared], *, loss: bool) -> dict[str, Counts]:
    """Return the counts of the centers of a site, which must be of just the subjects that they declared."""
    expected = {name: of for name, of in declared.items() if of.site == site and of.n_neg + of.n_pos}
    _check_kind(site, answer, Mapping, "counts by center")
    if set(answer) != set(expected):
        raise SiteError([site], f"expected counts of {sorted(expected)}, came those of {sorted(map(str, answer))}")
    return {name: _read_count(name, answer[name], of, loss=loss) for name, of in expected.items()}


def _read_count(center: str, numbers: Any, declared: Declared, *, loss: bool) -> Counts:
    if not isinstance(numbers, list | tuple) or len(numbers) != 5 or not all(map(_is_whole, numbers[:4])):
        raise refuse(center, f"expected fp, n_neg, fn, n_pos and a sum of losses, came {numbers!r}")
    fp, n_neg, fn, n_pos, total = numbers
    if (n_neg, n_pos) != (declared.n_neg, declared.n_pos):
        raise refuse(
            center,
            f"counts are of {n_neg} controls and {n_pos} diseased subjects, it declared {declared.n_neg} and "
            f"{declared.n_pos}",
        )
    if not (0 <= fp <= n_neg and 0 <= fn <= n_pos):
        raise refuse(center, f"{fp} false positives of {n_neg} and {fn} false negatives of {n_pos} cannot be")
    if not loss and total is not None:
        raise refuse(center, "answers with a sum of losses, which it was not asked for")
    if loss and not (_is_finite(total) and total >= 0):
        raise refuse(center, f"expected a finite sum of losses from 0 on, came {total!r}")
    return Counts(fp, n_neg, fn, n_pos, total)


def read_measures(site: str, answer: Any, declared: Mapping[str, Declared]) -> tuple[float, int]:
    """Return the sum of logarithms over the centers of a site that verify, and how many images it is of."""
    expected = {name for name, of in declared.items() if of.site == site and of.n_neg + of.n_pos}
    _check_kind(site, answer, Mapping, "sums of logarithms by center")
    if set(answer) != expected:
        came = sorted(map(str, answer))
        raise SiteError([site], f"expected sums of logarithms of {sorted(expected)}, came those of {came}")
    total, n = 0.0, 0
    for center, numbers in answer.items():
        pair = isinstance(numbers, list | tuple) and len(numbers) == 2
        if not pair or not _is_finite(numbers[0]) or not _is_count(numbers[1]):
            raise refuse(center, f"expected a sum of logarithms and a number of images, came {numbers!r}")
        most = declared[center].n_neg + declared[center].n_pos
        if numbers[1] > most:
            raise refuse(center, f"measured {numbers[1]} images, it declared {most}")
        if abs(numbers[0]) > LARGEST_LOG * numbers[1]:
            raise refuse(center, f"{numbers[0]!r} cannot be the sum of logarithms of {numbers[1]} update norms")
        total, n = total + numbers[0], n + numbers[1]
    return total, n


def read_features(
    site: str, answer: Any, declared: Mapping[str, Declared], *, filters: int, exclude: Collection[str] = ()
) -> dict[str, FeatureSums]:
    """Return what the centers of a site tell of a layer's features, each of its training images but the excluded."""
    kept = {name: len(set(of.train) - set(exclude)) for name, of in declared.items() if of.site == site}
    expected = {name: n for name, n in kept.items() if n}
    _check_kind(site, answer, Mapping, "sums of features by center")
    if set(answer) != set(expected):
        raise SiteError([site], f"expected features of {sorted(expected)}, came those of {sorted(map(str, answer))}")
    return {name: _read_sums(name, answer[name], n, filters=filters) for name, n in expected.items()}


def _read_sums(center: str, parts: Any, n: int, *, filters: int) -> FeatureSums:
    if not isinstance(parts, list | tuple) or len(parts) != 3 or not _is_whole(parts[2]):
        raise refuse(center, "expected sums of means, sums of mean squares and a number of images")
    if parts[2] != n:
        raise refuse(center, f"features are of {parts[2]} images, it declared {n} that take part")
    for name, numbers in zip(("means", "mean squares"), parts[:2], strict=True):
        if not isinstance(numbers, list | tuple) or len(numbers) != filters or not all(map(_is_finite, numbers)):
            raise refuse(center, f"expected {filters} finite numbers as the sums of {name}")
    mean, square = (np.array(numbers, dtype=np.float64) for numbers in parts[:2])
    if (square * n < mean**2 * (1 - 1e-6)).any():  # no numbers have a smaller mean square; but for rounding
        raise refuse(center, "the sums of mean squares are too small for those of the means")
    return FeatureSums(mean, square, n)


def read_verifying(site: str, answer: Any, declared: Mapping[str, Declared]) -> dict[str, list[str]]:
    """Return the names of the verification subjects of a site, as many as each center declared."""
    expected = {name: of for name, of in declared.items() if of.site == site and of.n_neg + of.n_pos}
    _check_kind(site, answer, Mapping, "names by center")
    if set(answer) != set(expected):
        raise SiteError([site], f"expected names from {sorted(expected)}, came those from {sorted(map(str, answer))}")
    for center, of in expected.items():
        names, n = answer[center], of.n_neg + of.n_pos
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) and name for name in names):
            raise refuse(center, "expected the names of its verification subjects")
        if len(names) != n or len(set(names)) != n:
            raise refuse(center, f"expected {n} names of verification subjects, came {len(set(names))}")
        if both := sorted(set(names) & set(of.train)):
            raise refuse(center, f"names {both[:12]} both for training and for verification")
    return {center: list(answer[center]) for center in expected}


def read_squares(site: str, answer: Any, n_weights: int) -> np.ndarray:
    """Return the sum of squared gradients that a site answers with, float32 (n_weights,)."""
    try:
        (squares,) = Layout(((n_weights,),), ("<f4",)).unpack(answer)
    except ValueError as error:
        raise SiteError([site], f"squared gradients, sent like weights: {error}") from None
    if (squares < 0).any():
        raise SiteError([site], f"{int((squares < 0).sum())} of the {n_weights} squared gradients are below 0")
    return squares


def read_norms(site: str, answer: Any, n: int) -> list[float]:
    """Return the update norms of images, as many as a site was asked for; inf may be one, NaN not."""
    if not isinstance(answer, list | tuple) or len(answer) != n:
        came = len(answer) if isinstance(answer, list | tuple) else type(answer).__name__
        raise SiteError([site], f"expected {n} update norms, came {came}")
    for norm in answer:
        if not (isinstance(norm, float) and norm >= 0):
            raise SiteError([site], f"expected update norms from 0 on, came {norm!r}")
    return list(answer)


def _check_kind(site: str, answer: Any, kind: type, expected: str) -> None:
    if not isinstance(answer, kind):
        raise SiteError([site], f"expected {expected}, came {type(answer).__name__}")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return _is_whole(value) and 0 <= value <= LARGEST


def _is_finite(value: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and math.isfinite(value)
