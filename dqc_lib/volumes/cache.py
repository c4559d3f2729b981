"""The volumes of many subjects, in bounded memory."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from threading import Lock

import numpy as np

from dqc_lib.arguments import require_kind, require_sizes, require_whole
from dqc_lib.volumes.files import read_volume
from dqc_lib.volumes.header import MAX_VOXELS


class VolumeCache:
    """The volumes of subjects by name, read when first asked for, and kept as they are stored.

    When memory runs short those stay that are asked for most often, such as verification images; those that cycle after
    cycle are asked for alike stay as they came, since whatever is thrown out would be needed again before the next.

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
    max_voxels : int
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
        max_voxels: int = MAX_VOXELS,
    ) -> None:
        require_kind("paths", paths, Mapping, such_as="{'sub-1': '/data/sub-1.nii.gz'}")
        require_whole("max_bytes", max_bytes, least=0)
        if not paths:
            raise ValueError("no paths; expected one for at least one subject")
        self.paths = dict(paths)
        self.max_bytes = max_bytes
        self.nbytes = 0
        self._options = {"orientation": orientation, "allow_constant": allow_constant, "max_voxels": max_voxels}
        self._required = None if shape is None else require_sizes("shape", shape)
        self._first: tuple[str, tuple[int, int, int]] | None = None
        self._kept: dict[str, np.ndarray] = {}
        self._uses: Counter[str] = Counter()
        self._fewest = 0  # uses of what is kept, at least
        self._lock = Lock()  # a batch may be read ahead in another thread

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, subject: str) -> np.ndarray:
        """Return a subject's array (I, J, K), as stored and read-only."""
        with self._lock:
            self._uses[subject] += 1
            if subject in self._kept:
                return self._kept[subject]
        array = self._read(subject)
        with self._lock:
            if subject not in self._kept and self._make_room(subject, array.nbytes):
                self._kept[subject] = array
                self.nbytes += array.nbytes
                self._fewest = min(self._fewest, self._uses[subject])
        return array

    def _make_room(self, subject: str, nbytes: int) -> bool:
        """Throw out volumes that were used less often than the subject's was before now, until it fits or none is left;
        return whether it fits."""
        if nbytes > self.max_bytes:
            return False
        while self.nbytes + nbytes > self.max_bytes:
            if self._uses[subject] - 1 <= self._fewest:
                return False
            rarest = min(self._kept, key=self._uses.__getitem__)
            self._fewest = self._uses[rarest]
            if self._uses[subject] - 1 > self._fewest:
                self.nbytes -= self._kept.pop(rarest).nbytes
        return True

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

    def stream(self, groups: Iterable[Iterable[str]]) -> Iterator[np.ndarray]:
        """Yield the batch of each group of subjects; while the caller works on one, the next is read from disk."""
        groups = [list(group) for group in groups]
        with ThreadPoolExecutor(1) as reader:
            ahead = None
            for group, following in zip_longest(groups, groups[1:], fillvalue=()):
                images = self.batch(group) if ahead is None else ahead.result()
                missing = any(subject not in self._kept for subject in following)
                ahead = reader.submit(self.batch, following) if missing else None
                yield images

    def check(self) -> None:
        """Read every volume once, keeping none, and raise at the first that is refused."""
        for subject in self.paths:
            self._read(subject)

    def _repr_html_(self) -> str:
        kept = f"{len(self._kept)} kept, {self.nbytes / 2**20:.1f} of at most {self.max_bytes / 2**20:.1f} MiB"
        return f"<b>VolumeCache</b> {len(self)} subjects, {kept}"
