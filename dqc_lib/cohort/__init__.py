"""The participants table: reading it, checking it, and splitting it by subject.

One row is one subject with one image. Reading and checking happen here, once; everything above trusts the table.
"""

from dqc_lib.cohort.files import (
    BIDS_COLUMNS,
    BIDS_NAME,
    BIDS_PATTERN,
    DESCRIPTIONS,
    MISSING,
    SEX_WORDS,
    read_bids,
    read_cohort,
    read_published_csv,
    update_bids,
    write_bids,
)
from dqc_lib.cohort.splits import check_roles, divide_held_out, split_by_subject
from dqc_lib.cohort.table import (
    COLUMNS,
    MAX_AGE,
    OPTIONAL,
    PLACEMENTS,
    REQUIRED,
    ROLES,
    Cohort,
    check_column,
    check_table,
)

__all__ = [
    "BIDS_COLUMNS",
    "BIDS_NAME",
    "BIDS_PATTERN",
    "COLUMNS",
    "DESCRIPTIONS",
    "MAX_AGE",
    "MISSING",
    "OPTIONAL",
    "PLACEMENTS",
    "REQUIRED",
    "ROLES",
    "SEX_WORDS",
    "Cohort",
    "check_column",
    "check_roles",
    "check_table",
    "divide_held_out",
    "read_bids",
    "read_cohort",
    "read_published_csv",
    "split_by_subject",
    "update_bids",
    "write_bids",
]
