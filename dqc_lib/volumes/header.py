"""NIfTI-1 files before they are read: a sane header, a complete payload, finite voxels."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

VOXEL_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
"""NIfTI-1 codes of the real voxel types."""
HEADER_BYTES = 348
ENDINGS = (".nii", ".nii.gz")
MAX_VOXELS = 512**3
"""Voxels of a volume unless told otherwise: what it unpacks to is bounded by its header, and its header by this."""
MAX_OFFSET = 16 * 1024**2  # bytes before the first voxel: room for extensions, none to unpack without end
SPACING = 1e-6, 1000.0  # least and most mm between voxels


class _Header(NamedTuple):
    sizes: tuple[int, ...]
    voxel: np.dtype
    offset: int

    @property
    def n_voxels(self) -> int:
        return math.prod(self.sizes)

    @property
    def n_bytes(self) -> int:
        return self.n_voxels * self.voxel.itemsize


def check_file(path: Path, where: str, max_voxels: int) -> None:
    """Raise unless the file is NIfTI with a sane header, a payload as long as the header says, and finite voxels.

    Of a compressed file no more is unpacked than the header claims and a MiB, piece by piece: whatever else it holds
    is never looked at.

    The voxels are looked at here because the reader behind SimpleITK silently turns NaN and infinity into 0.
    """
    if not path.name.endswith(ENDINGS):
        raise ValueError(f"{where}: not named as NIfTI; expected the ending {' or '.join(ENDINGS)}")
    with path.open("rb") as stream:
        packed = stream.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path) if packed else path.open("rb") as stream:
            header = _parse_header(stream.read(HEADER_BYTES), where, max_voxels)
            stream.seek(header.offset)
            n_there, n_bad = _scan_payload(stream, header)
    except EOFError:
        raise ValueError(f"{where}: truncated, its compressed data end too early; expected a complete file") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{where}: unreadable, its compressed data are damaged ({error}); expected gzip") from None
    if n_there < header.n_bytes:
        came = f"{n_there} bytes of voxels"
        raise ValueError(f"{where}: truncated, {came}; expected {header.n_bytes} for sizes {header.sizes}")
    if n_bad:
        raise ValueError(f"{where}: {n_bad} of {header.n_voxels} voxels are NaN or infinite; expected finite values")


def read_spacing(path: Path, where: str) -> tuple[float, float, float]:
    """Return the distance between voxels along the axes of the file, in mm; nothing but the header is read.

    Raises
    ------
    ValueError
        Begun with `where`, if the header is none of NIfTI-1 or makes no sense.
    """
    with path.open("rb") as stream:
        packed = stream.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path) if packed else path.open("rb") as stream:
            start = stream.read(HEADER_BYTES)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{where}: unreadable, its compressed data are damaged ({error}); expected gzip") from None
    _parse_header(start, where, MAX_VOXELS)
    order = "<" if start[:4] == struct.pack("<i", HEADER_BYTES) else ">"
    return struct.unpack(f"{order}3f", start[80:92])


def _scan_payload(stream: IO[bytes], header: _Header) -> tuple[int, int]:
    """Return how many bytes of voxels are there and how many of the voxels are not finite, reading by the MiB.

    Reading on for one piece after the last voxel lets gzip compare its checksum.
    """
    n_there = n_bad = 0
    while n_there <= header.n_bytes and (piece := stream.read(1 << 20)):
        usable = min(len(piece), header.n_bytes - n_there) // header.voxel.itemsize
        if header.voxel.kind == "f":
            n_bad += usable - int(np.isfinite(np.frombuffer(piece, header.voxel, usable)).sum())
        n_there += len(piece)
    return n_there, n_bad


def _parse_header(start: bytes, where: str, max_voxels: int) -> _Header:
    """Return what a NIfTI-1 header says, once it is known to make sense."""
    if len(start) < HEADER_BYTES:
        raise ValueError(f"{where}: truncated, {len(start)} bytes; expected a NIfTI header of {HEADER_BYTES}")
    order = "<" if start[:4] == struct.pack("<i", HEADER_BYTES) else ">"
    if start[:4] != struct.pack(f"{order}i", HEADER_BYTES) or start[344:347] != b"n+1":
        raise ValueError(f"{where}: unreadable, not a NIfTI-1 header; expected a single-file NIfTI-1 image")
    n_axes, *axes = struct.unpack(f"{order}8h", start[40:56])
    voxel_type = struct.unpack(f"{order}h", start[70:72])[0]
    offset = struct.unpack(f"{order}f", start[108:112])[0]
    sizes = tuple(axes[: max(n_axes, 0)])
    if not 1 <= n_axes <= 7 or min(sizes) < 1 or not HEADER_BYTES <= offset <= MAX_OFFSET:
        raise ValueError(
            f"{where}: damaged header, {n_axes} dimensions, sizes {sizes}, voxels at {offset:g}; expected 3-D"
        )
    if n_axes < 3 or any(n != 1 for n in sizes[3:]):
        raise ValueError(f"{where}: {n_axes}-D, sizes {sizes}; expected one 3-D volume")
    if math.prod(sizes) > max_voxels:
        raise ValueError(
            f"{where}: {math.prod(sizes)} voxels, sizes {sizes}; expected at most {max_voxels} (max_voxels)"
        )
    if voxel_type not in VOXEL_TYPES:
        raise ValueError(f"{where}: NIfTI voxel type {voxel_type}; expected one real integer or float per voxel")
    _check_geometry(start, order, where)
    return _Header(sizes, np.dtype(f"{order}{VOXEL_TYPES[voxel_type]}"), int(offset))


def _check_geometry(start: bytes, order: str, where: str) -> None:
    """Raise where spacing, place in space or scaling make no sense: the reader behind SimpleITK puts 1 mm, 0 or no
    scaling in their place without a word."""
    places = {"qform": (252, 256, 6), "sform": (254, 280, 12)}
    spacing = struct.unpack(f"{order}3f", start[80:92])
    if not all(SPACING[0] <= length <= SPACING[1] for length in spacing):
        came = ", ".join(f"{length:g}" for length in spacing)
        raise ValueError(f"{where}: damaged header, spacing {came} mm; expected {SPACING[0]:g} to {SPACING[1]:g}")
    for name, (code, first, count) in places.items():
        numbers = struct.unpack(f"{order}{count}f", start[first : first + 4 * count])
        if struct.unpack(f"{order}h", start[code : code + 2])[0] > 0 and not np.isfinite(numbers).all():
            raise ValueError(f"{where}: damaged header, {name} holds {numbers}; expected finite numbers")
    slope, intercept = struct.unpack(f"{order}2f", start[112:120])
    if math.isinf(slope) or (slope and math.isfinite(slope) and not math.isfinite(intercept)):
        raise ValueError(
            f"{where}: damaged header, values scaled by {slope:g} and {intercept:g}; expected finite numbers"
        )
