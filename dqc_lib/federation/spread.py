"""A cohort dealt out to sites, for a federation that is played on one machine: each site a BIDS folder of its own."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Mapping
from functools import partial
from hashlib import file_digest, sha256
from pathlib import Path

import numpy as np

from dqc_lib.arguments import require_kind, require_names, require_path, require_whole, show_value
from dqc_lib.aside import write_aside, write_json
from dqc_lib.cohort import Cohort, check_roles, write_bids
from dqc_lib.notes import claim_folder

NOTE = "sites.json"
SITE_PATTERN = "[A-Za-z0-9](-?[A-Za-z0-9]){0,62}"
RESERVED = ("server", "admin")  # FLARE's own
ENDINGS = (".nii.gz", ".nii")


def spread_cohort(
    cohort: Cohort, folder: str | os.PathLike, sites: int | Mapping[str, Iterable[str]]
) -> dict[str, Path]:
    """Write a folder for each site that holds its own centers and nothing else, and return the folders by site.

    Each is a BIDS folder, readable with `read_bids`: copies of the images, and a table with their roles, without the
    ground truth on harm. A folder that holds just this is read instead of written again, and one that was cut short is
    completed.

    Parameters
    ----------
    cohort : Cohort
        With roles, subjects named "sub-...".
    folder : path
        Gets a subfolder per site.
    sites : int or mapping of str to iterable of str
        How many, named "site-1" and so on, which get about as many centers each, in the order of the table; or the
        centers of each by name.

    Raises
    ------
    ValueError, TypeError
        If a center is unknown, dealt out twice or to nobody; if a site has no center, or a name that FLARE does not
        take; if the cohort has no roles.
    FileExistsError
        If the folder holds anything else.
    """
    require_kind("cohort", cohort, Cohort, such_as="read_cohort gives")
    root = require_path("folder", folder).resolve()
    check_roles(cohort)
    shares = _deal(cohort.centers, sites)
    parts = {site: cohort.blinded().select(centers=centers) for site, centers in shares.items()}
    endings = {row.subject: _find_ending(row.subject, row.path) for row in cohort.table.itertuples()}
    wanted = {"sites": shares, "cohort": fingerprint_cohort(cohort.blinded())}
    found = claim_folder(root, NOTE, wanted, of="sites", beside=("whole",))
    if found is not None and found.get("whole") is True:
        return {site: root / site for site in shares}
    for site, part in parts.items():
        for row in part.table.itertuples():
            name = f"{row.subject}_T1w{endings[row.subject]}"
            _copy(Path(row.path), root / site / row.subject / "anat" / name)
        write_bids(part, root / site, overwrite=True)
    write_json(root / NOTE, wanted | {"whole": True})
    return {site: root / site for site in shares}


def fingerprint_cohort(cohort: Cohort) -> str:
    """Return the fingerprint (SHA-256) of a table and its images, wherever these lie."""
    images = []
    for path in cohort.table["path"]:
        with open(path, "rb") as stream:
            images.append(file_digest(stream, "sha256").hexdigest())
    return sha256(cohort.table.assign(path=images).to_csv(index=False).encode()).hexdigest()


def _deal(centers: list[str], sites: int | Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    """Return the centers of each site, or say what is wrong with the way they are dealt out."""
    if not isinstance(sites, Mapping):
        require_whole("sites", sites, least=1)
        if sites > len(centers):
            raise ValueError(f"sites must be at most {len(centers)}, as many as there are centers, got {sites}")
        groups = np.array_split(np.arange(len(centers)), int(sites))
        return {f"site-{at}": [centers[number] for number in group] for at, group in enumerate(groups, start=1)}
    shares = {site: require_names(f"the centers of site {site!r}", names) for site, names in sites.items()}
    homes: dict[str, str] = {}
    for site, names in shares.items():
        check_site(site)
        if not names:
            raise ValueError(f"site {site!r} has no center; expected at least one")
        for center in names:
            if center not in centers:
                raise ValueError(f"site {site!r}: no center {center!r} in the cohort; expected among {centers}")
            if center in homes:
                raise ValueError(f"center {center!r} is at the sites {homes[center]!r} and {site!r}; expected one")
            homes[center] = site
    if len({site.lower() for site in shares}) < len(shares):
        raise ValueError(
            f"sites differ in capitals only: {list(shares)}; their folders would be the same on some disks"
        )
    if missing := [center for center in centers if center not in homes]:
        raise ValueError(f"no site holds the centers {missing}; to leave them out, select the others from the cohort")
    return shares


def check_site(site: object) -> None:
    """Raise a ValueError unless FLARE takes the name for a client and every file system for a folder."""
    if not isinstance(site, str) or not re.fullmatch(SITE_PATTERN, site) or site.lower() in RESERVED:
        raise ValueError(
            f"{show_value(site)} cannot be a site's name; expected up to 63 letters and digits, with single dashes "
            f"between them, and not {' or '.join(RESERVED)}"
        )


def _find_ending(subject: str, path: str) -> str:
    for ending in ENDINGS:
        if path.lower().endswith(ending):
            return ending
    raise ValueError(f"subject {subject!r}: {path} is no NIfTI file by its name; expected {' or '.join(ENDINGS)}")


def _copy(source: Path, target: Path) -> None:
    if not target.exists():  # from a time that was cut short
        target.parent.mkdir(parents=True, exist_ok=True)
        write_aside(target, partial(shutil.copyfile, source), durable=False)
