"""The volumes of many subjects, in bounded memory."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterable, Mapping

import numpy as np

from dqc_lib.volumes.files import read_volume


class VolumeCache:
    """The volumes of subjects by name, read when first asked for; the least recently used go when memory runs short.

    Parameters
    ----------
    paths : mapping of str to path
        Each subject's NIfTI file.
    shape : tuple of int, optional
        What every volume must have; that of the first volume read unless given.
    max_bytes : int
        Upper bound of what is kept, 2 GiB unless given. A volume that alone is larger is read every time.
    orientation : str or None
        See `read_volume`.
    allow_constant : bool
        See `read_volume`.

    Raises
    ------
    KeyError
        When a subject is asked for that has no path.
    ValueError
        When a volume is refused by `read_volume`, or differs in shape from the first one; both subjects are named.
    """

    def __init__(
        self,
        paths: Mapping[str, str | os.PathLike],
        *,
        shape: tuple[int, int, int] | None = None,
        max_bytes: int = 2 * 1024**3,
        orientation: str | None = "RAS",
        allow_constant: bool = False,
    ) -> None:
        if not paths:
            raise ValueError("no paths; expected one for at least one subject")
        self.paths = dict(paths)
        self.max_bytes = max_bytes
        self.nbytes = 0
        self._options = {"orientation": orientation, "allow_constant": allow_constant}
        self._required = None if shape is None else tuple(shape)
        self._first: tuple[str, tuple[int, int, int]] | None = None
        self._kept: OrderedDict[str, np.ndarray] = OrderedDict()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, subject: str) -> np.ndarray:
        """Return a subject's array (I, J, K), as stored and read-only."""
        if subject in self._kept:
            self._kept.move_to_end(subject)
            return self._kept[subject]
        array = self._read(subject)
        if array.nbytes <= self.max_bytes:
            while self.nbytes + array.nbytes > self.max_bytes:
                self.nbytes -= self._kept.popitem(last=False)[1].nbytes
            self._kept[subject] = array
            self.nbytes += array.nbytes
        return array

    def _read(self, subject: str) -> np.ndarray:
        if subject not in self.paths:
            raise KeyError(
                f"no path for subject {subject!r}; expected one of the {len(self.paths)} subjects of the cache"
            )
        array = read_volume(self.paths[subject], shape=self._required, subject=subject, **self._options).array
        self._first = self._first or (subject, array.shape)
        if array.shape != self._first[1]:
            expected = f"expected {self._first[1]}, the shape of subject {self._first[0]!r}"
            raise ValueError(f"subject {subject!r}: {self.paths[subject]}: shape {array.shape}; {expected}")
        array.setflags(write=False)
        return array

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape (I, J, K) that all volumes share; reads the first subject if none has been read."""
        if self._required is not None:
            return self._required
        return self._first[1] if self._first is not None else self[next(iter(self.paths))].shape

    def batch(self, subjects: Iterable[str]) -> np.ndarray:
        """Return the volumes of `subjects` in that order, float32 (n, I, J, K, 1)."""
        names = list(subjects)
        images = np.empty((len(names), *self.shape, 1), dtype=np.float32)
        for row, subject in enumerate(names):
            images[row, ..., 0] = self[subject]
        return images

    def check(self) -> None:
        """Read every volume once, keeping none, and raise at the first that is refused."""
        for subject in self.paths:
            self._read(subject)

    def _repr_html_(self) -> str:
        kept = f"{len(self._kept)} kept, {self.nbytes / 2**20:.1f} of at most {self.max_bytes / 2**20:.1f} MiB"
        return f"<b>VolumeCache</b> {len(self)} subjects, {kept}"
