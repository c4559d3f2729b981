"""What is gathered from the sites before the quality control: sums of features, of squared gradients, and norms.

Sites are asked one after the other, each for its own subjects, so that none learns the names of another's. Nothing is
added to hide what a number says, so each center gives away:

- to freeze the normalization, the mean and mean square of its images' features, filter by filter; with one training
  image, that person's own;
- to watch a cycle, the sums of its images' squared gradients by fold, together with the other centers of its site, and
  of each training and each verification image, by name, how unusual it is to the model. A fold is a tenth of the
  images, so that often it holds one of a site: its gradient but for the signs, which a step on it gives away whole.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import reduce
from operator import add

import numpy as np

from dqc_lib.federation.answers import Declared, read_features, read_norms, read_squares, read_verifying
from dqc_lib.federation.link import Link
from dqc_lib.networks import FeatureSums
from dqc_lib.travelling.watching import Images


def gather_features(
    link: Link,
    centers: Mapping[str, Declared],
    weights: bytes,
    *,
    layer: int,
    filters: int,
    exclude: Collection[str] = (),
) -> FeatureSums:
    """Return the sums of the features that reach a layer, over the training images of all centers but the excluded.

    They are added center by center, in the order of `centers`: it does not matter which sites hold them.
    """
    sums = {}
    for site in link.sites:
        own = [name for of in centers.values() if of.site == site for name in of.train if name in exclude]
        answer = link.ask(site, "sum_features", weights=weights, layer=layer, exclude=own)
        sums |= read_features(site, answer, centers, filters=filters, exclude=exclude)
    zeros = np.zeros(filters)
    return reduce(add, (sums[center] for center in centers if center in sums), FeatureSums(zeros, zeros, 0))


def gather_names(link: Link, centers: Mapping[str, Declared]) -> dict[str, list[str]]:
    """Return the names of the verification subjects of each center that has any."""
    names = {}
    for site in link.sites:
        names |= read_verifying(site, link.ask(site, "name_verification"), centers)
    return {center: names[center] for center in centers if center in names}


def list_sites(centers: Mapping[str, Declared], images: Images) -> list[str]:
    """Return the sites that hold these images, in the order of the images."""
    return list(dict.fromkeys(centers[center].site for center, _ in images))


def gather_squares(
    link: Link, centers: Mapping[str, Declared], weights: bytes, images: Images, *, n_weights: int
) -> np.ndarray:
    """Return the sum of the squared gradients of these training images, float32 (n_weights,)."""
    total = np.zeros(n_weights, dtype=np.float32)
    for site in list_sites(centers, images):
        own = [name for center, name in images if centers[center].site == site]
        total += read_squares(site, link.ask(site, "sum_squares", weights=weights, subjects=own), n_weights)
    return total


def gather_norms(
    link: Link, centers: Mapping[str, Declared], weights: bytes, images: Images, *, scale: bytes
) -> list[float]:
    """Return the update norm of each of these images against a scale, in their order."""
    norms = [0.0] * len(images)
    for site in list_sites(centers, images):
        at = [number for number, (center, _) in enumerate(images) if centers[center].site == site]
        own = [images[number][1] for number in at]
        answer = link.ask(site, "measure_images", weights=weights, subjects=own, scale=scale)
        for number, norm in zip(at, read_norms(site, answer, len(own)), strict=True):
            norms[number] = norm
    return norms
