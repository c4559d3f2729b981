"""How a call reaches a site, and what comes of one that does not."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from dqc_lib.federation.answers import SiteError


class Link(Protocol):
    """How a call reaches a site. Whatever keeps it from being answered becomes a `SiteError`."""

    sites: Sequence[str]

    def ask(self, site: str, name: str, **arguments: Any) -> Any:
        """Return a site's answer to a call of this name, see `Site`, or raise a `SiteError`."""

    def ask_all(self, sites: Sequence[str], name: str, **arguments: Any) -> dict[str, Any]:
        """Return the answers of these sites to the same call; in place of one that did not come, its `SiteError`."""


class ClockedLink:
    """A link that keeps how long it waited for answers.

    Attributes
    ----------
    seconds : dict of str to float
        By call. What several sites are asked at once counts once, until the last of them has answered.
    """

    def __init__(self, link: Link) -> None:
        self._link, self.sites, self.seconds = link, link.sites, {}

    def ask(self, site: str, name: str, **arguments: Any) -> Any:
        """Return a site's answer, see `Link`."""
        with self._clock(name):
            return self._link.ask(site, name, **arguments)

    def ask_all(self, sites: Sequence[str], name: str, **arguments: Any) -> dict[str, Any]:
        """Return the answers of these sites, see `Link`."""
        with self._clock(name):
            return self._link.ask_all(sites, name, **arguments)

    @contextmanager
    def _clock(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


def join_errors(errors: Iterable[SiteError]) -> SiteError:
    """Return one error for all."""
    errors = list(errors)
    whats = "; ".join(dict.fromkeys(error.what for error in errors))
    return SiteError([site for error in errors for site in error.sites], whats)
