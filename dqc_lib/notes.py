"""Notes: the small JSON files that say of a folder what made it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


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
