"""Names as labels: cut where they are too long for their place, never two alike, and whole where one points."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from os.path import commonprefix

from dqc_lib.figures.style import escape

LONGEST = 18  # characters of a label; more would leave no plot on a screen 400 pixels wide
HOVER_WIDTH = 56  # characters to a line, as many as a screen 400 pixels wide has room for


def shorten_names(names: Iterable[str], *, longest: int = LONGEST) -> dict[str, str]:
    """Return a label for every name, of at most `longest` characters and no two alike; not escaped.

    A long name loses its middle. Names that look the same then show the place where they begin to differ, and those
    that still do are numbered.

    Examples
    --------
    >>> names = ["Siemens_Prisma_fit_Neuro_3T", "GE"]
    >>> list(shorten_names(names).values())
    ['Siemens_P…Neuro_3T', 'GE']
    """
    whole = list(dict.fromkeys(map(str, names)))
    cut = {name: _cut_middle(name, longest) for name in whole}
    for label in list(dict.fromkeys(cut.values())):
        alike = [name for name in whole if cut[name] == label]
        if len(alike) > 1:
            start = max(len(commonprefix(alike)) - 2, 0)
            cut |= {name: _cut_around(name, start, longest) for name in alike}
    found: dict[str, str] = {}
    taken = {name for name in whole if len(name) <= longest}
    for name in whole:
        label = cut[name]
        number = 2
        while label in taken and label != name:
            mark = f"…{number}"
            label, number = f"{cut[name][: longest - len(mark)]}{mark}", number + 1
        found[name] = label
        taken.add(label)
    return found


def _cut_middle(name: str, longest: int) -> str:
    """Return a name as it is, or its beginning and its end with an ellipsis between."""
    head = longest // 2
    return name if len(name) <= longest else f"{name[:head]}…{name[len(name) - longest + head + 1 :]}"


def _cut_around(name: str, start: int, longest: int) -> str:
    """Return the first letters of a name and what follows from `start`, as much of it as fits."""
    head = longest // 4
    if start <= head or len(name) <= longest:
        return _cut_middle(name, longest)
    return f"{name[:head]}…{_cut_middle(name[start:], longest - head - 1)}"


def fold(text: str) -> str:
    """Return a text for the box beside a mark: escaped, and broken into lines that fit on a narrow screen."""
    return "<br>".join(escape(line) for line in textwrap.wrap(str(text), HOVER_WIDTH, break_on_hyphens=False))
