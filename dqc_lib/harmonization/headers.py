"""What the headers of an image say about its acquisition: BIDS sidecars with their inheritance, and DICOM files.

Only the values of `PARAMETERS` and `TEXTS` are kept. pydicom is told to parse these tags and no others, so the name of
a patient is never decoded; that is why dicompare's own loaders, which read every element of a file, are not used. The
name of a DICOM file may be a patient's, too: such files go by their number.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

from dqc_lib.arguments import show_value
from dqc_lib.cohort.paths import check_inside, list_own_folders, show_path
from dqc_lib.notes import read_note

MAX_BYTES = 1024**2
"""Of a sidecar, and of what is read of a DICOM file; real ones have some kilobytes."""
MAX_VALUE = 4096
"""Bytes of a value that is read of a DICOM file. pydicom strips a text in a time that grows with the square of them."""
MAX_FILES = 512
"""DICOM files of one image; more are refused."""
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Parameter:
    """A number of an acquisition: its key, its unit, and what it can be.

    Parameters
    ----------
    key : str
        In a BIDS sidecar and, as pydicom's keyword, in a DICOM file; "" for what stands in the image's own header.
    unit : str
    low, high : float
        Anything outside is taken for another unit or a fault.
    per_dicom : float
        What one unit of DICOM is in ours: DICOM has times in ms, BIDS in s.
    """

    key: str
    unit: str
    low: float
    high: float
    per_dicom: float = 1.0


PARAMETERS: Mapping[str, Parameter] = MappingProxyType(
    {
        "repetition_time": Parameter("RepetitionTime", "s", 0.0005, 15.0, per_dicom=0.001),
        "echo_time": Parameter("EchoTime", "s", 0.00001, 0.5, per_dicom=0.001),
        "flip_angle": Parameter("FlipAngle", "deg", 0.1, 180.0),
        "voxel_i": Parameter("", "mm", 0.05, 20.0),
        "voxel_j": Parameter("", "mm", 0.05, 20.0),
        "voxel_k": Parameter("", "mm", 0.05, 20.0),
        "field_strength": Parameter("MagneticFieldStrength", "T", 0.001, 21.0),
    }
)
TEXTS = MappingProxyType({"manufacturer": "Manufacturer", "model": "ManufacturersModelName"})
"""Texts of an acquisition by their keys in a BIDS sidecar."""
DICOM_KEYWORDS = MappingProxyType(
    {name: parameter.key for name, parameter in PARAMETERS.items() if parameter.key}
    | {"manufacturer": "Manufacturer", "model": "ManufacturerModelName"}
)
"""The only tags that are parsed."""
LAST_TAG = (0x0018, 0x1314)
"""The last of them, the flip angle. Elements stand in rising order (DICOM PS3.5, 7.1): there is none behind it."""
LONGEST_TEXT = 64  # characters, as many as DICOM's long strings have


def check_number(name: str, value: Any, *, source: str, scale: float = 1.0) -> tuple[float, str]:
    """Return a parameter's value in our unit, and "" or why it is NaN.

    A number outside the range of `PARAMETERS` is not converted: nobody knows which unit was meant. It becomes NaN, and
    the remark says what came from which file. 25 ms given as 25 is 25 s and is caught; 7 ms given as 7 passes for 7 s,
    and deviates from any protocol.

    Examples
    --------
    >>> check_number("repetition_time", 2300, source="sub-1_T1w.json")
    (nan, 'sub-1_T1w.json: RepetitionTime is 2300; expected 0.0005 to 15 s (2300 ms are 2.3 s)')
    """
    parameter = PARAMETERS[name]
    key, expected = parameter.key or name, f"expected {parameter.low:g} to {parameter.high:g} {parameter.unit}"
    if value is None:
        return math.nan, ""
    if isinstance(value, bool) or not isinstance(value, Real):
        return math.nan, f"{source}: {key} is {show_value(value)}; {expected}"
    if parameter.low / scale <= value <= parameter.high / scale:  # a whole number may be too long for a float
        return float(value) * scale, ""
    in_ms = parameter.unit == "s" and scale == 1 and 1000 * parameter.low <= value <= 1000 * parameter.high
    hint = f" ({value:g} ms are {value / 1000:g} s)" if in_ms else ""
    return math.nan, f"{source}: {key} is {show_value(value)}; {expected}{hint}"


def check_text(value: Any) -> str:
    """Return a text stripped, or "unknown" where there is none that could be shown."""
    text = value.strip() if isinstance(value, str) else ""
    return text[:LONGEST_TEXT] if text.isprintable() and text else UNKNOWN


def read_sidecars(
    image: str, subject: str, root: Path, allowed: list[Path]
) -> tuple[dict[str, tuple[Any, str]], list[str]]:
    """Return what sidecars say of an image, by key with the file that says it, and all files, the topmost first.

    A sidecar applies if it lies in the image's folder or above, has the image's suffix, and all its entities are among
    the image's; what lies deeper wins (BIDS 1.9, the inheritance principle).

    Parameters
    ----------
    image : str
        Path of the image; its folders below the subject's are looked for below `root`.
    subject : str
    root : path
        Folder of the dataset.
    allowed : list of path
        Of `list_allowed`.

    Raises
    ------
    ValueError
        If a sidecar lies outside, is no regular file, is too long or no JSON object, or two of one folder apply.
    """
    stem = Path(image).name.removesuffix(".gz").removesuffix(".nii")
    below = list_own_folders(image, subject)
    found, files = {}, []
    for depth in range(len(below) + 1):
        folder = root.joinpath(*below[:depth])
        check_inside(folder, allowed, where=f"subject {subject!r}")
        applying = [path for path in sorted(folder.glob("*.json")) if _applies(path.stem, stem)]
        if len(applying) > 1:
            names = ", ".join(repr(path.name) for path in applying)
            raise ValueError(f"{folder}: {names} all apply to {stem!r}; expected at most one sidecar in a folder")
        for path in applying:
            files.append(path.relative_to(root).as_posix())
            note = _read_sidecar(path, subject, allowed)
            found |= {key: (value, files[-1]) for key, value in note.items()}
    return found, files


def _applies(sidecar: str, image: str) -> bool:
    """Return whether a sidecar says something of an image, by their names without endings."""
    *entities, suffix = sidecar.split("_")
    *whole, wanted = image.split("_")
    return suffix == wanted and set(entities) <= set(whole)


def _read_sidecar(path: Path, subject: str, allowed: list[Path]) -> dict[str, Any]:
    check_inside(path, allowed, where=f"subject {subject!r}")
    _require_file(path, show_path(path), such_as="a BIDS sidecar")
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ValueError(f"{show_path(path)}: {size} bytes; expected a sidecar of at most {MAX_BYTES}")
    note = read_note(path, of="an acquisition, a BIDS sidecar")
    return {key: note[key] for key in _list_keys() if key in note}  # whatever else it says of a patient stays there


def _require_file(path: Path, name: str, *, such_as: str) -> None:
    """Raise unless a path is a file that has an end; to open a named pipe is to wait for whoever writes to it."""
    if not path.is_file():
        came = "a folder" if path.is_dir() else "no regular file"
        raise ValueError(f"{name}: it is {came}; expected {such_as}")


def _list_keys() -> list[str]:
    return [parameter.key for parameter in PARAMETERS.values() if parameter.key] + list(TEXTS.values())


def read_dicom(folder: Path, subject: str, allowed: list[Path]) -> tuple[dict[str, Any], list[str], list[str]]:
    """Return what the DICOM files (`*.dcm`) below a folder say, by our names, which were read, and remarks.

    All files are one image. A value in which they differ is None, and a remark says so. Values of enhanced
    (multi-frame) files, which stand in nested groups, are not read and count as missing.

    Raises
    ------
    ValueError
        If a file lies outside, is not DICOM or claims values of more than `MAX_VALUE` bytes, or there are more than
        `MAX_FILES`.
    """
    check_inside(folder, allowed, where=f"subject {subject!r}")
    paths = sorted(folder.rglob("*.dcm")) if folder.is_dir() else []
    if len(paths) > MAX_FILES:
        raise ValueError(f"{show_path(folder)}: {len(paths)} DICOM files; expected at most {MAX_FILES} for one image")
    names = [f"DICOM file {number} of {len(paths)}" for number in range(1, len(paths) + 1)]
    rows = []
    for path, name in zip(paths, names, strict=True):
        check_inside(path, allowed, where=f"subject {subject!r}")
        rows.append(_read_tags(path, f"subject {subject!r}: {name} below {show_path(folder)}"))
    found, remarks = {}, []
    for name in DICOM_KEYWORDS if rows else ():
        values = {repr(row[name]): row[name] for row in rows}
        found[name] = next(iter(values.values())) if len(values) == 1 else None
        if len(values) > 1:
            came = f"{len(values)} values in {len(rows)} files"
            remarks.append(f"{show_path(folder.name)}: {DICOM_KEYWORDS[name]} has {came}; expected one")
    return found, names[:1], remarks


def _read_tags(path: Path, name: str) -> dict[str, Any]:
    """Return the values of `DICOM_KEYWORDS`, None where there is none; numbers are floats, texts are texts."""
    from pydicom.filereader import read_partial

    _require_file(path, name, such_as="a DICOM file")
    with warnings.catch_warnings(), path.open("rb") as stream:
        warnings.simplefilter("ignore", UserWarning)  # pydicom's, on values that the standard forbids: we check ours
        try:
            dataset = read_partial(
                _Sip(stream),
                stop_when=lambda tag, kind, length: tag > LAST_TAG,
                specific_tags=list(DICOM_KEYWORDS.values()),
            )
            values = {key: dataset.get(keyword) for key, keyword in DICOM_KEYWORDS.items()}
        except Exception as error:  # pydicom lets through whatever a damaged file provokes in it
            kind = str(error) if isinstance(error, _TooMuchError) else type(error).__name__
            raise ValueError(f"{name}: unreadable ({kind}); expected a DICOM file") from None
    return {key: _simplify(value) for key, value in values.items()}


class _TooMuchError(Exception):
    """A file asks for more than a header has."""


class _Sip:
    """A file of which little is read, whatever it claims: values of some bytes, and some of them.

    What is passed over is not read. So a file packed as a whole ("deflated"), which would be unpacked in one piece, is
    refused as well.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._left = stream, MAX_BYTES
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= min(MAX_VALUE, self._left):
            asked = "all of it" if size < 0 else f"{size} bytes at once"
            raise _TooMuchError(f"{asked}, after {MAX_BYTES - self._left}")
        content = self._stream.read(size)
        self._left -= len(content)
        return content


def _simplify(value: Any) -> Any:
    """Return pydicom's number or text as Python's own, so that nothing of the file hangs on to it."""
    if isinstance(value, Real):
        return float(value)
    return value if value is None else str(value)
