"""Saved files before they are loaded: known parts only, nothing that runs, no more bytes than agreed.

A `.keras` file is a zip archive of a configuration, which names classes, and of weights in HDF5. Keras's safe mode
refuses Python code in it but still looks up whatever class or function the configuration names; here it may name the
layers of an SFCN and nothing else.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

MAX_BYTES = 2 * 1024**3
"""Of a file unpacked; the published network and its optimizer take 36 MB."""
MAX_CONFIG = 4 * 1024**2
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
    with open_archive(path, parts=MODEL_PARTS, max_bytes=max_bytes) as archive:
        if archive.getinfo("config.json").file_size > MAX_CONFIG:
            raise ValueError(f"{path}: a configuration above {MAX_CONFIG} bytes; expected that of an SFCN")
        try:
            _check_config(json.loads(archive.read("config.json")), path)
            _check_weights(archive.read("model.weights.h5"), path, max_bytes)
        except (zipfile.BadZipFile, OSError, RecursionError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path}: damaged ({error}); expected a model saved as .keras") from None
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
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise ValueError(f"{path}: damaged ({error}); expected a zip archive") from None
    names = [entry.filename for entry in archive.infolist()]
    total = sum(entry.file_size for entry in archive.infolist())
    problem = f"{total} bytes unpacked; expected at most {max_bytes} (max_bytes)" if total > max_bytes else ""
    if parts is not None and sorted(names) != sorted(parts):
        problem = f"it holds {sorted(names)[:12]}; expected {sorted(parts)}"
    if problem:
        archive.close()
        raise ValueError(f"{path}: {problem}")
    return archive


def _check_config(config: Any, path: Path) -> None:
    for part in _walk(config):
        if "class_name" in part or "module" in part:
            named = part.get("module"), part.get("class_name")
            known = all(isinstance(name, str | None) for name in named) and named in CLASSES
            if not known or part.get("registered_name") not in REGISTERED:
                raise ValueError(f"{path}: it names {named[1]!r} of {named[0]!r}; expected the layers of an SFCN alone")


def _walk(value: Any) -> Iterator[dict]:
    """Yield every mapping in a value read from JSON."""
    if isinstance(value, dict):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _walk(part)


def _check_weights(content: bytes, path: Path, max_bytes: int) -> None:
    """Raise where a weight lies in another file, or where all together claim more than `max_bytes`."""
    import h5py

    with h5py.File(io.BytesIO(content)) as weights:
        if _measure(weights, path, met=set()) > max_bytes:
            raise ValueError(f"{path}: weights above {max_bytes} bytes (max_bytes)")


def _measure(group: Any, path: Path, *, met: set[int]) -> int:
    """Return how many bytes the weights of a group claim, each group counted once, however often it is linked to."""
    import h5py

    total = 0
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"{path}: {group.name}/{name} is a link; expected weights in the file itself")
        part = group[name]
        if isinstance(part, h5py.Dataset) and (part.external or part.is_virtual):
            raise ValueError(f"{path}: {part.name} lies in another file; expected weights in the file itself")
        if isinstance(part, h5py.Dataset):
            total += part.nbytes
        elif (address := h5py.h5o.get_info(part.id).addr) not in met:
            met.add(address)
            total += _measure(part, path, met=met)
    return total
