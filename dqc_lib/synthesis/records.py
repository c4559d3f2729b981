"""What records are: codes of patients over visits, checked at the border, and what is counted for one patient."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dqc_lib.arguments import require_kind, show_value

SHAPE = "(patients, visits, codes)"


def require_visits(name: str, visits: object) -> np.ndarray:
    """Return records as float32 of 0 and 1, shape (patients, visits, codes), or say what is wrong with them."""
    if not isinstance(visits, np.ndarray):
        raise TypeError(f"{name} must be an array {SHAPE}, got {show_value(visits)}")
    if visits.ndim != 3 or 0 in visits.shape:
        raise ValueError(f"{name} must have the shape {SHAPE}, none of them 0, got {visits.shape}")
    if visits.dtype.kind not in "biuf":
        raise TypeError(f"{name} must hold 0 and 1, got {visits.dtype}")
    if (wrong := ~((visits == 0) | (visits == 1))).any():
        patient, visit, code = (int(at) for at in np.argwhere(wrong)[0])
        place = f"patient {patient}, visit {visit}, code {code}"
        raise ValueError(f"{name} must hold 0 and 1 alone, got {visits[patient, visit, code]} ({place})")
    return visits.astype(np.float32)


def require_hospitals(name: str, hospitals: object) -> dict[str, np.ndarray]:
    """Return the records of every hospital, checked: the same number of visits and codes everywhere."""
    require_kind(name, hospitals, Mapping, such_as="Hospitals.visits of simulate_hospitals")
    found = {hospital: require_visits(f"{name}[{hospital!r}]", visits) for hospital, visits in hospitals.items()}
    if not found:
        raise ValueError(f"{name} must hold the records of at least one hospital, got none")
    first = next(iter(found))
    for hospital, visits in found.items():
        require_alike(f"{name}[{hospital!r}]", visits, f"{name}[{first!r}]", found[first])
    return found


def require_alike(name: str, visits: np.ndarray, other_name: str, other: np.ndarray) -> None:
    """Raise a ValueError unless two records have the same visits and codes."""
    if visits.shape[1:] != other.shape[1:]:
        raise ValueError(
            f"{name} must have the visits and codes of {other_name}, {other.shape[1:]}, got {visits.shape[1:]}"
        )


def describe_patients(visits: np.ndarray) -> np.ndarray:
    """Return two numbers a code of every patient: the share of visits that have it, and the share of steps from a visit
    to the next at which it stays; float64 (patients, 2 * codes), from 0 to 1.

    The second half sees time: a patient with the same codes at shuffled visits has other numbers. With one visit there
    is no step and they are 0.

    Examples
    --------
    >>> describe_patients(np.array([[[1], [1], [0], [0]]], dtype=float)).round(2)
    array([[0.5 , 0.33]])
    """
    stays = visits[:, 1:] * visits[:, :-1]
    steps = max(visits.shape[1] - 1, 1)
    return np.concatenate([visits.mean(axis=1, dtype=np.float64), stays.sum(axis=1, dtype=np.float64) / steps], axis=1)
