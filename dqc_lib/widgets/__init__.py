"""Explorers for JupyterLab: controls wired to the figures of `dqc_lib.figures`.

What they show is computed by the figures and by the properties of the explorers; the widgets themselves only pass
choices on. They need a running kernel. Pages without one carry the same figures, see `dqc_lib.figures`.
"""

from dqc_lib.widgets.explorer import LedgerExplorer
from dqc_lib.widgets.slices import SliceViewer, open_niivue

__all__ = ["LedgerExplorer", "SliceViewer", "open_niivue"]
