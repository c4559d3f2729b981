"""Saved files before they are loaded: known parts only, nothing that runs, no more bytes than agreed.

A `.keras` file is a zip archive of a configuration, which names classes, and of weights in HDF5. Keras's safe mode
refuses Python code in it but still looks up whatever class or function the configuration names; here it may name the
layers of an SFCN and nothing else.
"""

from __future__ import annotations

import io
import json
import math
import posixpath
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

MAX_BYTES = 2 * 1024**3
"""Of a file unpacked; the published network and its optimizer take 36 MB."""
MAX_CONFIG = 4 * 1024**2
NUMBERS = "biuf"  # kinds of NumPy; values of other kinds can be longer than they claim
MODEL_PARTS = frozenset({"metadata.json", "config.json", "model.weights.h5"})
CLASSES = frozenset(
    {
        ("dqc_lib.networks", "FreezableNormalization"),
        ("dqc_lib.networks", "ReplayableDropout"),
        ("keras", "DTypePolicy"),
        ("keras.optimizers", "Adam"),
        ("keras.src.models.functional", "Functional"),
        (None, "__keras_tensor__"),
        *(("keras.initializers", name) for name in ("GlorotUniform", "Ones", "Zeros")),
        *(
            ("keras.layers", name)
            for name in ("AveragePooling3D", "Conv3D", "Dense", "Flatten", "InputLayer", "MaxPooling3D", "ReLU")
        ),
    }
)
"""Module and name of all that a saved SFCN is made of."""
REGISTERED = frozenset({None, "Functional", "dqc_lib>FreezableNormalization", "dqc_lib>ReplayableDropout"})
DAMAGES = (zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError, SyntaxError, ValueError, TypeError)
DAMAGES += (LookupError, AttributeError, ArithmeticError, RuntimeError, OSError, EOFError)
"""What zipfile, json, h5py, NumPy and Keras raise on a file that is none of theirs, cut short or changed on purpose."""
LONGEST_REASON = 300  # characters of what they say
LONGEST_HEADER = 1024  # characters before the numbers of an array; ours have about 100


class Refusal(Exception):
    """What speaks against a file that can be read, in whole words; `name_file` adds its name."""


@contextmanager
def name_file(path: Path, *, expected: str) -> Iterator[None]:
    """Turn whatever goes wrong while a file is read into one ValueError that names it.

    Parameters
    ----------
    path : path
    expected : str
        What it should have been, for files that are damaged.

    Raises
    ------
    ValueError
        In place of a `Refusal` and of all `DAMAGES`.
    """
    try:
        yield
    except Refusal as refusal:
        raise ValueError(f"{path}: {refusal}") from None
    except DAMAGES as error:
        raise ValueError(f"{path}: damaged ({describe_error(error)}); expected {expected}") from None


def describe_error(error: Exception) -> str:
    """Return the kind of an error and what it says, on one line; some say nothing."""
    reason = " ".join(str(error).split())[:LONGEST_REASON]
    return f"{type(error).__name__}: {reason}" if reason else type(error).__name__


def check_model(path: str | Path, *, max_bytes: int = MAX_BYTES) -> Path:
    """Return the path of a saved SFCN that is safe to load.

    Parameters
    ----------
    path : path
        A `.keras` file. The older HDF5 and SavedModel formats are refused: safe mode does not hold there.
    max_bytes : int
        What it may hold unpacked, by what the archive and the HDF5 file in it claim; 2 GiB unless given.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no `.keras` file, damaged or larger than that, if it holds other files, names any other class or
        function (a Lambda layer, for instance), or has weights that lie in other files.
    """
    path = Path(path)
    if path.suffix != ".keras":
        raise ValueError(f"{path}: not named as a saved model; expected the ending .keras")
    with (
        open_archive(path, parts=MODEL_PARTS, max_bytes=max_bytes) as archive,
        name_file(path, expected="a model saved as .keras"),
    ):
        if archive.getinfo("config.json").file_size > MAX_CONFIG:
            raise Refusal(f"a configuration above {MAX_CONFIG} bytes; expected that of an SFCN")
        _check_config(json.loads(archive.read("config.json")))
        _check_weights(archive.read("model.weights.h5"), max_bytes)
    return path


def open_archive(path: Path, *, parts: Collection[str] | None = None, max_bytes: int = MAX_BYTES) -> zipfile.ZipFile:
    """Return a zip archive, opened, that claims to hold no more than `max_bytes` and, if given, just these parts.

    No more than it claims is ever unpacked.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file; if it is no archive, is larger, or has other parts.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    with name_file(path, expected="a zip archive"):
        archive = zipfile.ZipFile(path)
    entries = archive.infolist()
    names = sorted(entry.filename for entry in entries)
    total = sum(entry.file_size for entry in entries)
    problem = f"{total} bytes unpacked; expected at most {max_bytes} (max_bytes)" if total > max_bytes else ""
    if any(entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for entry in entries):
        problem = "damaged (packed in an unusual way); expected parts that are stored or deflated"
    if parts is not None and names != sorted(parts):
        problem = f"it holds {names[:12]}; expected {sorted(parts)}"
    if problem:
        archive.close()
        raise ValueError(f"{path}: {problem}")
    return archive


def read_array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """Return an array of numbers, read only if its header claims just the bytes that there are."""
    content = archive.read(f"{name}.npy")
    stream = io.BytesIO(content)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError(f"{name!r} is written in another version than 1.0")
    shape, _, kind = np.lib.format.read_array_header_1_0(stream, max_header_size=LONGEST_HEADER)
    claimed, there = math.prod(shape) * kind.itemsize, len(content) - stream.tell()
    if not kind.hasobject and (claimed != there or kind.kind not in NUMBERS):  # objects are refused by NumPy itself
        raise ValueError(f"{name!r} claims {claimed} bytes of {kind}, expected {there} of numbers")
    stream.seek(0)
    return np.lib.format.read_array(stream, allow_pickle=False, max_header_size=LONGEST_HEADER)


def _check_config(config: Any) -> None:
    for part in _walk(config):
        if "class_name" in part or "module" in part:
            named = part.get("module"), part.get("class_name")
            known = all(isinstance(name, str | None) for name in named) and named in CLASSES
            if not known or part.get("registered_name") not in REGISTERED:
                raise Refusal(f"it names {named[1]!r} of {named[0]!r}; expected the layers of an SFCN alone")


def _walk(value: Any) -> Iterator[dict]:
    """Yield every mapping in a value read from JSON."""
    if isinstance(value, dict):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _walk(part)


def _check_weights(content: bytes, max_bytes: int) -> None:
    """Refuse weights that lie in another file, are no numbers, or all together claim more than `max_bytes`."""
    import h5py

    with h5py.File(io.BytesIO(content)) as weights:
        if _measure(weights, met=set()) > max_bytes:
            raise Refusal(f"weights above {max_bytes} bytes (max_bytes)")


def _measure(group: Any, *, met: set[int]) -> int:
    """Return how many bytes the weights of a group claim, each group counted once, however often it is linked to."""
    import h5py

    total = 0
    for name in group:
        where = posixpath.join(group.name, name)
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise Refusal(f"{where!r} is a link; expected weights in the file itself")
        part = group[name]
        if isinstance(part, h5py.Dataset):
            if part.external or part.is_virtual:
                raise Refusal(f"{where!r} lies in another file; expected weights in the file itself")
            if part.dtype.kind not in NUMBERS:
                raise Refusal(f"{where!r} holds other values than numbers; expected weights")
            total += part.nbytes
        elif not isinstance(part, h5py.Group):
            raise Refusal(f"{where!r} is a {type(part).__name__}; expected weights and groups of them")
        elif (address := h5py.h5o.get_info(part.id).addr) not in met:
            met.add(address)
            total += _measure(part, met=met)
    return total
