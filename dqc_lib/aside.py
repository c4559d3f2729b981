"""Files that are whole or not there: written beside their place and put there by renaming."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

PREFIX = "partial."


def write_aside(path: Path, write: Callable[[Path], object], *, durable: bool = True) -> Path:
    """Let a file be written beside its place, put it there when it is whole, and return its path.

    Whatever moment the process is killed at, there is the whole file, or what was there before. What a process that is
    gone left half-written of this file is removed, and an error removes its own.

    Parameters
    ----------
    path : path
        In a folder that exists. An older file is replaced.
    write : callable
        Called with the path to write to, in the same folder and with the same endings.
    durable : bool
        Wait until the disk has it, so that it outlives a power cut as well: some milliseconds a file.

    Raises
    ------
    OSError
        If it cannot be written; the older file is as it was then.

    Notes
    -----
    The path to write to names the process, so that two that write the same file do not meet in half of one.
    """
    aside = name_aside(path)
    try:
        write(aside)
        if durable:
            with aside.open("r+b") as stream:  # Windows needs leave to write for it
                os.fsync(stream.fileno())
        aside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # the error at hand tells more
            aside.unlink(missing_ok=True)
        raise
    if durable:
        _sync_folder(path.parent)
    _remove_leftovers(path)
    return path


def write_json(path: Path, content: Any) -> Path:
    """Write a value as JSON in UTF-8, whole or not at all, and return the path."""
    text = json.dumps(content, indent=2) + "\n"
    return write_aside(path, lambda aside: aside.write_text(text, encoding="utf-8", newline="\n"))


def name_aside(path: Path, *, process: int | None = None) -> Path:
    """Return where a process, this one unless given, writes a file until it is whole: no two files share the place."""
    return path.with_name(f"{PREFIX}{os.getpid() if process is None else process}.{path.name}")


def is_aside(path: Path) -> bool:
    """Return whether a file is one that was not finished, by its name."""
    return path.name.startswith(PREFIX)


def _sync_folder(folder: Path) -> None:
    """Have the disk keep the new name too; Windows and some network disks know no such thing."""
    if os.name != "posix":
        return
    with contextlib.suppress(OSError):  # the file is whole and in its place, whatever the disk says to this
        entry = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(entry)
        finally:
            os.close(entry)


def _remove_leftovers(path: Path) -> None:
    """Remove what killed processes left of a file; where it cannot be told who is gone (Windows), nothing."""
    pattern = re.compile(rf"{re.escape(PREFIX)}(\d+)\.{re.escape(path.name)}")
    with os.scandir(path.parent) as entries:
        found = [match for entry in entries if (match := pattern.fullmatch(entry.name))]
    for match in found:
        if not _is_running(int(match[1])):
            with contextlib.suppress(OSError):  # it takes room, and no more
                path.with_name(match[0]).unlink()


def _is_running(process: int) -> bool:
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)  # sends nothing
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # somebody else's
    return True
