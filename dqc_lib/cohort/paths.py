"""Where files of a cohort may lie: inside it, or where the user says."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def list_allowed(root: str | os.PathLike, trusted_folders: Iterable[str | os.PathLike]) -> list[Path]:
    """Return the folders in which files may lie, symbolic links followed: the cohort's own, then those trusted.

    Raises
    ------
    TypeError
        If `trusted_folders` is a single path.
    """
    if isinstance(trusted_folders, str | os.PathLike):
        raise TypeError(f"trusted_folders must be a list of folders, came a single path {str(trusted_folders)!r}")
    return [Path(os.path.realpath(folder)) for folder in (root, *trusted_folders)]


def show_path(path: str | os.PathLike) -> str:
    """Return a path for a message: as it is, or as Python writes it if a terminal would obey to a part of it.

    Examples
    --------
    >>> show_path("a.nii"), show_path("a\\x1b[2J.nii")
    ('a.nii', "'a\\\\x1b[2J.nii'")
    """
    text = os.fspath(path)
    return text if text.isprintable() else repr(text)


def list_own_folders(image: str | os.PathLike, subject: str) -> tuple[str, ...]:
    """Return the names of the folders from the subject's own to the image's; none where no folder is the subject's.

    Examples
    --------
    >>> list_own_folders("cohort/sub-1/ses-2/anat/sub-1_ses-2_T1w.nii.gz", "sub-1")
    ('sub-1', 'ses-2', 'anat')
    """
    folders = Path(image).parts[:-1]
    return folders[len(folders) - 1 - folders[::-1].index(subject) :] if subject in folders else ()


def check_inside(path: str | os.PathLike, allowed: Iterable[Path], *, where: str) -> None:
    """Raise unless a path lies inside one of the folders of `list_allowed`, ".." and symbolic links followed.

    It need not exist: what it would be is decided before anybody looks whether it is there.

    Parameters
    ----------
    path : path
    allowed : iterable of Path
    where : str
        Begins the error message.

    Raises
    ------
    ValueError
        If it lies elsewhere, or is no path at all.
    """
    if "\0" in os.fspath(path):
        raise ValueError(f"{where}: path {os.fspath(path)!r} holds a null character; expected the path of a file")
    real = Path(os.path.realpath(path))
    if not any(real.is_relative_to(folder) for folder in allowed):
        meant = "" if os.fspath(path) == str(real) else f" (that is, {show_path(real)})"
        inside = ", ".join(str(folder) for folder in allowed)
        raise ValueError(
            f"{where}: {show_path(path)}{meant} lies outside {inside}; expected a file inside, or its folder among "
            "trusted_folders"
        )
