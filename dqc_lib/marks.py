"""Marks of harm: what the column ``harm`` of a cohort says, a kind and its strength in one text."""

from __future__ import annotations

from dqc_lib.arguments import require_number, require_text
from dqc_lib.artefacts import HARMS


def check_strength(kind: str, strength: float | None) -> float:
    """Return the strength, the kind's default for None; refuse an unknown kind and a strength out of range."""
    if kind not in HARMS:
        raise KeyError(f"unknown kind of harm {kind!r}; expected one of {list(HARMS)}")
    harm = HARMS[kind]
    if strength is not None:
        require_number("strength", strength)
    strength = harm.default_strength if strength is None else float(strength)
    if not 0 <= strength <= harm.max_strength or (harm.whole_steps and strength != int(strength)):
        numbers = "a whole number" if harm.whole_steps else "a number"
        raise ValueError(f"strength of {kind!r} must be {numbers} from 0 to {harm.max_strength:g}; came {strength}")
    return strength


def describe_harm(kind: str, strength: float | None = None) -> str:
    """Return the mark for the ``harm`` column: the kind, and its strength where that is not the default.

    Examples
    --------
    >>> describe_harm("inversion"), describe_harm("additive noise", 0.5)
    ('inversion', 'additive noise @ 0.5')
    """
    strength = check_strength(kind, strength)
    return kind if strength == HARMS[kind].default_strength else f"{kind} @ {strength!r}".removesuffix(".0")


def parse_harm(mark: str) -> tuple[str, float]:
    """Return kind and strength of a mark in the ``harm`` column, the inverse of `describe_harm`.

    Raises
    ------
    KeyError, TypeError, ValueError
        If the kind is unknown; if the mark is no text; if the strength is not a number in its range.

    Examples
    --------
    >>> parse_harm("additive noise @ 0.5")
    ('additive noise', 0.5)
    """
    require_text("mark", mark)
    kind, at, strength = mark.partition(" @ ")
    try:
        return kind, check_strength(kind, float(strength) if at else None)
    except ValueError as error:
        expected = "expected a kind, or a kind and its strength after ' @ '"
        raise ValueError(f"harm is {mark!r}; {expected} ({error})") from None
