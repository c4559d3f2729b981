"""The quality control report: one HTML file that opens anywhere and loads nothing."""

from dqc_lib.report.pseudonyms import list_pseudonyms
from dqc_lib.report.writing import write_report

__all__ = ["list_pseudonyms", "write_report"]
