"""What an argument may be, by its name: the checks that every public border shares.

Ranges are checked where they are known; here it is said, in one wording, that a text came where a number belongs.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from numbers import Integral, Real
from pathlib import Path
from typing import Any

LONGEST = 80  # characters of a value in a message


def require_number(name: str, value: object) -> None:
    """Raise a TypeError unless the value is a real number; True and False are none."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {show_value(value)}")


def require_whole(name: str, value: object, *, least: int | None = None) -> None:
    """Raise a TypeError unless the value is a whole number, and a ValueError if it is below `least`."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be a whole number, got {show_value(value)}")
    if least is not None and value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")


def require_text(name: str, value: object) -> None:
    """Raise a TypeError unless the value is a text."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a text, got {show_value(value)}")


def require_names(name: str, values: object) -> list[str]:
    """Return the values as a list; a TypeError for a single text, which would be taken letter by letter, for anything
    else that is no list, and for a value that is no text."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be a list of names, got {show_value(values)}")
    listed = list(values)
    for value in listed:
        if not isinstance(value, str):
            raise TypeError(f"{name} must be a list of names, got {show_value(value)} among them")
    return listed


def require_sizes(name: str, value: object) -> tuple[int, ...]:
    """Return the value as a tuple of whole numbers, or raise a TypeError."""
    sizes = tuple(value) if isinstance(value, Iterable) else (None,)
    if any(isinstance(size, bool) or not isinstance(size, Integral) for size in sizes):
        raise TypeError(f"{name} must be sizes along three axes, whole numbers, got {show_value(value)}")
    return sizes


def require_path(name: str, value: object) -> Path:
    """Return the value as a path, or raise a TypeError."""
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{name} must be a path, got {show_value(value)}")
    return Path(value)


def require_kind(name: str, value: object, kind: type, *, such_as: str) -> None:
    """Raise a TypeError unless the value is of the kind; `such_as` says where one comes from."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be a {kind.__name__}, such as {such_as}, got {show_value(value)}")


def is_writable(text: str) -> bool:
    """Return whether UTF-8, in which all files here are written, has a form for the text: not for half a character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def show_value(value: Any) -> str:
    """Return the value as Python writes it, or its type where that is long.

    Examples
    --------
    >>> show_value("0.5"), show_value(range(100)), show_value(list(range(100)))
    ("'0.5'", 'range(0, 100)', 'a value of type list')
    """
    text = repr(value)
    return text if len(text) <= LONGEST and "\n" not in text else f"a value of type {type(value).__name__}"
