"""Notes: the small JSON files that say of a folder what made it."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from hashlib import file_digest
from pathlib import Path
from typing import Any

from dqc_lib.arguments import show_value
from dqc_lib.aside import is_aside, write_json


def read_note(path: Path, *, of: str, keys: Mapping[str, type] | None = None) -> dict[str, Any]:
    """Return what a note says.

    Parameters
    ----------
    path : path
        JSON in UTF-8, one object.
    of : str
        What the note describes, for the message: "a run".
    keys : mapping of str to type, optional
        What it must hold.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged or holds anything else; it names the file.
    """
    try:
        note = json.loads(path.read_bytes().decode("utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file; expected the note of {of}") from None
    except (IsADirectoryError, ValueError, RecursionError) as error:
        reason = "it is a folder" if isinstance(error, IsADirectoryError) else str(error)
        raise ValueError(f"{path}: damaged, not JSON in UTF-8 ({reason}); expected the note of {of}") from None
    for name, kind in (keys or {}).items():
        if not isinstance(note, dict) or not isinstance(note.get(name), kind):
            raise ValueError(f"{path}: damaged, no {name!r} in it; expected the note of {of}")
    if not isinstance(note, dict):
        raise ValueError(f"{path}: damaged, not a JSON object; expected the note of {of}")
    return note


def claim_folder(
    root: Path, name: str, wanted: Mapping[str, Any], *, of: str, beside: Collection[str] = ()
) -> dict[str, Any] | None:
    """Return the note of a folder that says just what is wanted, or None after writing it into an empty one.

    The note is written before anything else, so that what was cut short is known again and completed.

    Parameters
    ----------
    root : path
        Made if missing.
    name : str
        File name of the note.
    wanted : mapping
        What decides on everything that will be written there, as JSON can hold it.
    of : str
        What lies there, for the message: "sites".
    beside : collection of str, optional
        What the note may say beside it: how far the work has come.

    Raises
    ------
    FileExistsError
        If the folder holds a note that says something else, which it names, or other files and no note; if it is a
        file, or would lie in one.
    ValueError
        If the note is damaged, or `wanted` holds a number that JSON does not know, such as NaN.
    """
    note, wanted = root / name, json.loads(json.dumps(wanted, allow_nan=False))
    if note.exists():
        found = read_note(note, of=of)
        told = {key: value for key, value in found.items() if key not in beside}
        asked = {key: value for key, value in wanted.items() if key not in beside}
        if differs := [_name_difference(key, told, asked) for key in sorted(_list_differences(told, asked))]:
            raise FileExistsError(f"{root} holds other {of} (other {', '.join(differs)}); expected a folder of its own")
        return found
    if files := [path for path in (root, *root.parents) if path.exists() and not path.is_dir()]:
        raise FileExistsError(f"{files[0]} is a file; expected a folder of its own")
    if root.exists() and not all(map(is_aside, root.iterdir())):
        raise FileExistsError(f"{root} holds files already, and no {name}; expected a folder of its own")
    root.mkdir(parents=True, exist_ok=True)
    write_json(note, wanted)
    return None


def _list_differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Return the keys that one of the two lacks or that mean something else in it, in the order of `wanted`."""
    absent = object()  # None is a value too
    keys = dict.fromkeys([*wanted, *found])
    return [key for key in keys if found.get(key, absent) != wanted.get(key, absent)]


def _name_difference(key: str, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Return the key, and of a mapping on both sides its first entry that differs as well."""
    parts = found.get(key), wanted.get(key)
    if not all(isinstance(part, Mapping) for part in parts):
        return key
    return f"{key}: {show_value(_list_differences(*parts)[0])}"


def fingerprint_file(path: str | Path) -> str:
    """Return the fingerprint (SHA-256) of a file, "missing" where reading it will say so."""
    if not Path(path).is_file():
        return "missing"
    with open(path, "rb") as stream:
        return file_digest(stream, "sha256").hexdigest()
