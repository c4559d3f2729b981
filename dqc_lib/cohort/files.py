"""Cohort files: BIDS folders, read and written, and the table of the published scripts."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from dqc_lib.arguments import require_kind, require_path, require_text, show_value
from dqc_lib.aside import write_aside, write_json
from dqc_lib.cohort.paths import check_inside, list_allowed, show_path
from dqc_lib.cohort.rows import MAX_BYTES, MISSING, read_rows
from dqc_lib.cohort.table import OPTIONAL, Cohort, check_column, quote_values
from dqc_lib.tables import write_table

BIDS_NAME = "'sub-' and letters or digits"
BIDS_PATTERN = r"sub-[A-Za-z0-9+_-]+"
HINTS = {
    "diagnosis": "other words: positive=... and negative=...",
    "sex": "other codes in a published table: sex_codes=...",
}
SEX_WORDS = {"F": "F", "M": "M", "female": "F", "male": "M"}
BIDS_COLUMNS = {"participant_id": "subject", "site": "center"} | {
    name: name for name in ("diagnosis", "sex", "age", "scanner", *OPTIONAL)
}
DESCRIPTIONS = {
    "participant_id": {"Description": "Subject, one row and one T1-weighted image each"},
    "site": {"Description": "Center that holds the subject"},
    "diagnosis": {"Description": "Diagnosis of the subject"},
    "sex": {"Description": "Sex", "Levels": {"F": "female", "M": "male"}},
    "age": {"Description": "Age at the scan", "Units": "year"},
    "scanner": {"Description": "Scanner of the image"},
    "role": {"Description": "What the subject serves for: train, verification or test"},
    "harm": {
        "Description": "Kind of harm done to the image or its label, n/a for none; ground truth that no rule may read"
    },
    "placement": {"Description": "Whether the harm covers the whole center or this single image, n/a for none"},
}
PUBLISHED_COLUMNS = {
    "Subject": "subject",
    "Study": "center",
    "Path": "path",
    "Group_bin": "diagnosis",
    "Sex": "sex",
    "Age": "age",
}


def read_cohort(
    path: str | os.PathLike,
    *,
    positive: str = "PD",
    negative: str = "HC",
    image_root: str | os.PathLike | None = None,
    sex_codes: Mapping[str, str] | None = None,
    trusted_folders: Iterable[str | os.PathLike] = (),
    max_bytes: int = MAX_BYTES,
) -> Cohort:
    """Return the cohort of a BIDS folder, or of a table in the layout of the published scripts.

    Parameters
    ----------
    path : path
        A folder is read by `read_bids`, a file by `read_published_csv`; see there for what they hold and raise.
    positive, negative : str
        For a BIDS folder.
    image_root, sex_codes
        For a published table.
    trusted_folders : iterable of path
        Where else images may lie, by an absolute path or a symbolic link; nowhere else unless given.
    max_bytes : int
        A table that is longer is refused; 64 MiB unless given.

    Raises
    ------
    FileNotFoundError
        If there is neither.
    """
    path = require_path("path", path)
    limits = {"trusted_folders": trusted_folders, "max_bytes": max_bytes}
    if path.is_dir():
        return read_bids(path, positive=positive, negative=negative, **limits)
    if not path.exists():
        where = os.path.abspath(path)
        raise FileNotFoundError(f"{where}: no such file or folder; expected a BIDS folder or a published CSV")
    return read_published_csv(path, image_root=image_root, sex_codes=sex_codes, **limits)


def read_bids(
    folder: str | os.PathLike,
    *,
    positive: str = "PD",
    negative: str = "HC",
    trusted_folders: Iterable[str | os.PathLike] = (),
    max_bytes: int = MAX_BYTES,
) -> Cohort:
    """Return the cohort of a BIDS folder.

    Parameters
    ----------
    folder : path
        Holds `participants.tsv` (participant_id, site, diagnosis, sex, age, scanner; optional role, harm, placement;
        other columns are left aside) and one `sub-*/anat/sub-*_T1w.nii.gz` (or `.nii`) per subject. "n/a" is missing.
    positive, negative : str
        The words for disease and control in the diagnosis column; 1 and 0 are understood too.
    trusted_folders : iterable of path
        Folders outside the cohort that its table and images may be symbolic links into; none unless given. Links that
        stay inside, such as those of DataLad, need no leave.
    max_bytes : int
        A table that is longer is refused before it is read; 64 MiB unless given.

    Raises
    ------
    FileNotFoundError
        If the table or a subject's image does not exist.
    ValueError
        If a subject has several images, the table or an image lies outside the folder, links followed, or the table is
        too long or has a fault (see `check_table`); if `positive` and `negative` are not two different words.
    """
    codes = _code_diagnoses(positive, negative)
    root = Path(os.path.abspath(require_path("folder", folder)))
    source = root / "participants.tsv"
    allowed = list_allowed(root, trusted_folders)
    check_inside(source, allowed, where="the table")
    table = read_rows(source, BIDS_COLUMNS, delimiter="\t", max_bytes=max_bytes)
    table = table.assign(scanner=table["scanner"].replace("", "unknown"))
    table = _decode_table(table, source, diagnosis=codes, sex=SEX_WORDS)
    table["path"] = [_find_image(root, subject, source, allowed) for subject in table["subject"]]
    return _build(table, root, source)


def _code_diagnoses(positive: str, negative: str) -> dict[str, int]:
    """Return what each word for a diagnosis means, or say why the two words cannot be told apart."""
    for name, word, other in (("positive", positive, "0"), ("negative", negative, "1")):
        require_text(name, word)
        if word.lower() in MISSING or word != word.strip() or word == other:
            raise ValueError(f"{name} is {word!r}; expected a word that means nothing else in a table")
    if positive.lower() == negative.lower():
        raise ValueError(f"positive and negative are {positive!r} and {negative!r}; expected two different words")
    return {positive: 1, negative: 0, "1": 1, "0": 0}


def _find_image(root: Path, subject: str, source: Path, allowed: list[Path]) -> str:
    """Return the path of a subject's one image; nobody looks into a folder that lies elsewhere."""
    if not _is_bids_name(subject):
        raise ValueError(f"{source}: participant_id is {subject!r}; expected {BIDS_NAME}")
    folder = root / subject / "anat"
    check_inside(folder, allowed, where=f"subject {subject!r}")
    found = []
    if os.path.isdir(folder):  # pathlib raises where a name is longer than a folder's can be
        found = sorted(path for ending in ("nii", "nii.gz") for path in folder.glob(f"{subject}*_T1w.{ending}"))
    if not found:
        raise FileNotFoundError(
            f"subject {subject!r}: no image {subject}*_T1w.nii.gz in {folder}; expected exactly one"
        )
    if len(found) > 1:
        names = quote_values(path.name for path in found)
        raise ValueError(f"subject {subject!r}: {len(found)} images in {folder} ({names}); expected exactly one")
    check_inside(found[0], allowed, where=f"subject {subject!r}")
    return str(found[0])


def read_published_csv(
    path: str | os.PathLike,
    *,
    image_root: str | os.PathLike | None = None,
    sex_codes: Mapping[str, str] | None = None,
    trusted_folders: Iterable[str | os.PathLike] = (),
    max_bytes: int = MAX_BYTES,
) -> Cohort:
    """Return the cohort of a table in the layout of the published scripts.

    A Path may be absolute, as in the published tables, or relative; either way the image has to lie inside `image_root`
    or a trusted folder. A table from elsewhere cannot point at other files of the reader's machine.

    Parameters
    ----------
    path : path
        CSV with the columns Subject, Study (the center), Path, Group_bin (1 = disease), Sex and Age.
    image_root : path, optional
        What a relative Path starts from, and where images lie; the folder of the CSV unless given.
    sex_codes : mapping, optional
        Meaning of numeric codes, for instance {0: "F", 1: "M"}. The words F, M, female and male need none.
    trusted_folders : iterable of path
        Where else images may lie, for instance ["/mnt/data"]; ["/"] trusts every path of the table.
    max_bytes : int
        A table that is longer is refused before it is read; 64 MiB unless given.

    Raises
    ------
    FileNotFoundError
        If the CSV or a subject's image does not exist.
    ValueError
        If an image lies elsewhere, ".." and symbolic links followed, or the table is too long or has a fault (see
        `check_table`).
    """
    source = Path(os.path.abspath(require_path("path", path)))
    if sex_codes is not None:
        require_kind("sex_codes", sex_codes, Mapping, such_as="{0: 'F', 1: 'M'}")
    table = read_rows(source, PUBLISHED_COLUMNS, delimiter=",", max_bytes=max_bytes).assign(scanner="unknown")
    codes = {str(code): word for code, word in (sex_codes or {}).items()}
    if unknown := [word for word in codes.values() if word not in ("F", "M")]:
        raise ValueError(f"sex_codes has the meaning {show_value(unknown[0])}; expected 'F' or 'M'")
    table = _decode_table(table, source, diagnosis={"1": 1, "0": 0}, sex=SEX_WORDS | codes)
    root = Path(os.path.abspath(require_path("image_root", image_root))) if image_root is not None else source.parent
    table["path"] = [os.path.abspath(root / value) for value in table["path"]]
    allowed = list_allowed(root, trusted_folders)
    for subject, image in zip(table["subject"], table["path"], strict=True):
        check_inside(image, allowed, where=f"{source}: subject {subject!r}")
        if not os.path.isfile(image):  # pathlib raises where a name is longer than a file's can be
            raise FileNotFoundError(
                f"subject {subject!r}: no image {show_path(image)}; expected a file, as named by {source}"
            )
    return _build(table, root, source)


def _decode_table(table: pd.DataFrame, source: Path, **codes: Mapping[str, object]) -> pd.DataFrame:
    """Return the table with coded columns decoded (any case; "1.0" reads as "1") and ages as numbers."""
    decoded = {"age": [_read_number(value) for value in table["age"]]}
    for column, meanings in codes.items():
        lookup = {key.lower(): value for key, value in meanings.items()}
        keys = [re.sub(r"^(\d+)\.0$", r"\1", value.lower()) for value in table[column]]
        for subject, key, value in zip(table["subject"], keys, table[column], strict=True):
            if key not in lookup:
                came = f"is {value!r}" if value else "is missing"
                raise ValueError(
                    f"{source}: subject {subject!r}: {column} {came}; expected {quote_values(meanings)}"
                    f" ({HINTS[column]})"
                )
        decoded[column] = [lookup[key] for key in keys]
    return table.assign(**decoded)


def _read_number(text: str) -> float | str:
    """Return what a text of ASCII digits means; Python would also read "6_1" and other scripts' digits as numbers."""
    try:
        return float(text or "nan") if text.isascii() and "_" not in text else text
    except ValueError:
        return text


def _build(table: pd.DataFrame, root: Path, source: Path) -> Cohort:
    try:
        return Cohort(table, root)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None


def write_bids(
    cohort: Cohort, folder: str | os.PathLike, *, positive: str = "PD", negative: str = "HC", overwrite: bool = False
) -> Path:
    """Write `participants.tsv` with its dictionary and `dataset_description.json`; return the table's path.

    Images are not written here. Each file is written aside and renamed, the table last: whatever moment this is cut
    short at, there is a whole table with all that belongs to it, or none (with `overwrite`, the older one).

    Subjects must be named "sub-..." for `read_bids` to find theirs. A text that a spreadsheet would take for a formula
    gets an apostrophe before it (see `dqc_lib.tables`), which `read_bids` takes off again. A dataset description that
    is there already is kept unless `overwrite` is set.

    Raises
    ------
    FileExistsError
        If the folder holds a `participants.tsv` already and `overwrite` is not set.
    ValueError
        If a subject's name does not start with "sub-", or a text would be read back as another one or as missing.
    """
    require_kind("cohort", cohort, Cohort, such_as="read_cohort gives")
    folder = require_path("folder", folder)
    _code_diagnoses(positive, negative)
    target = folder / "participants.tsv"
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target}: exists already; expected a folder without another cohort, or overwrite=True")
    check_column(cohort.table, "subject", cohort.table["subject"].map(_is_bids_name), BIDS_NAME)
    for name in ("center", "scanner", "harm"):
        if name in cohort.table:
            kept = [_is_kept_by_a_file(value) for value in cohort.table[name]]
            check_column(cohort.table, name, kept, "a text that a file keeps: printable, not n/a, no space around it")
    table = cohort.table.rename(columns={ours: theirs for theirs, ours in BIDS_COLUMNS.items()})
    table = table[[name for name in BIDS_COLUMNS if name in table]]
    table = table.assign(diagnosis=table["diagnosis"].map({1: positive, 0: negative})).replace("", "n/a")
    dictionary = {name: DESCRIPTIONS[name] for name in table}
    dictionary["diagnosis"] = DESCRIPTIONS["diagnosis"] | {"Levels": {positive: "disease", negative: "control"}}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "participants.json", dictionary)
    description = folder / "dataset_description.json"
    if overwrite or not description.exists():
        write_json(description, {"Name": "Cohort of dqc_lib", "BIDSVersion": "1.9.0", "DatasetType": "raw"})
    return write_aside(target, partial(write_table, table, separator="\t"))  # last: it says that all is there


def update_bids(cohort: Cohort, folder: Path) -> Path:
    """Write the table of a BIDS folder as `write_bids` does, unless it says the same already; return its path.

    For folders that we made, whose images stay while the table may have been corrected since. Columns that are not ours
    are no difference, and are lost where there is one.

    Raises
    ------
    ValueError
        As in `write_bids`; if the table that is there is damaged.
    """
    target = folder / "participants.tsv"
    if target.exists():
        with TemporaryDirectory() as aside:
            wanted = read_rows(write_bids(cohort, aside), BIDS_COLUMNS, delimiter="\t")
        if read_rows(target, BIDS_COLUMNS, delimiter="\t").equals(wanted):
            return target
    return write_bids(cohort, folder, overwrite=True)


def _is_kept_by_a_file(text: str) -> bool:
    return text == "" or (text == text.strip() and text.isprintable() and text.lower() not in MISSING)


def _is_bids_name(subject: str) -> bool:
    return re.fullmatch(BIDS_PATTERN, subject) is not None
