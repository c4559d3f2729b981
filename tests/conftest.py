"""What several test files share: the texts of a figure, a browser that keeps a record, a process that dies while it
writes, a disk that is full, and how hypothesis draws."""

import json
import re
import shutil
import time
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, settings

# the same examples every time, and no judgement of how long one takes on a busy machine
slow = [HealthCheck.too_slow]
settings.register_profile("dqc", derandomize=True, deadline=None, database=None, suppress_health_check=slow)
settings.load_profile("dqc")


@pytest.fixture
def list_texts():
    """A function that returns every text in a figure, but for the alternative text, which is no markup, and what stands
    at paths that the pattern `but` finds."""

    def walk(value, path, but):
        if isinstance(value, dict):
            parts = [(key, part) for key, part in value.items() if key != "meta"]
        elif isinstance(value, list):
            parts = enumerate(value)
        else:
            return [value] if isinstance(value, str) else []
        kept = [(f"{path}/{key}", part) for key, part in parts if not (but and re.search(but, f"{path}/{key}"))]
        return [text for where, part in kept for text in walk(part, where, but)]

    return lambda figure, but="": walk(json.loads(figure.to_json()), "", but)


NO_PROCESS = 2**22 + 1  # Linux ends at 2**22


class KilledError(BaseException):
    """What ends the work in these tests, in place of SIGKILL."""


@pytest.fixture
def killed_at(monkeypatch):
    """A context in which the process dies when it has written so many files aside and put one less in its place; what
    it was writing is left there, half of it, under the name of a process that is gone."""
    from dqc_lib.aside import name_aside

    @contextmanager
    def kill(at):
        calls, replace = count(), Path.replace

        def die(self, target):
            if next(calls) != at:
                return replace(self, target)
            content = self.read_bytes()
            name_aside(Path(target), process=NO_PROCESS).write_bytes(content[: len(content) // 2])
            raise KilledError

        with monkeypatch.context() as patched, pytest.raises(KilledError):
            patched.setattr(Path, "replace", die)
            yield

    return kill


@pytest.fixture
def full_disk():
    """A context in which no file can grow beyond so many bytes."""
    resource = pytest.importorskip("resource", reason="files are limited by RLIMIT_FSIZE, which Windows does not have")

    @contextmanager
    def limit(n_bytes):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
        try:
            with pytest.raises(OSError, match="File too large"):
                yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limit


@pytest.fixture(scope="session")
def chromium():
    """A headless Chromium; tests that need it are skipped where playwright or Chromium is missing."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright, which drives the browser, is missing")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no chromium on the path to open pages with")
    with sync_api.sync_playwright() as driver:
        switches = ["--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader"]  # WebGL without a graphics card
        browser = driver.chromium.launch(executable_path=program, args=switches)
        yield browser
        browser.close()


def wait_until(page, expression, *, seconds=60):
    """Return when the expression is true on the page, or fail with what it is."""
    end = time.monotonic() + seconds
    while not (found := page.evaluate(expression)):
        assert time.monotonic() < end, f"after {seconds} s still {found!r}: {expression}"
        page.wait_for_timeout(20)


@pytest.fixture
def chromium_page(chromium):
    """A function that opens a file or an address and returns the page, 1000 pixels wide unless told otherwise.

    `page.seen` records what it does: `errors` (uncaught ones and those on the console), `requests` (their addresses),
    and `dialogs` (their messages; a script that got in would open one). `page.until(expression)` waits until a piece of
    JavaScript is true; playwright's own way needs `eval`, which our pages forbid.
    """
    contexts = []

    def open_page(address, *, width=1000, height=800, **options):
        contexts.append(chromium.new_context(viewport={"width": width, "height": height}, **options))
        page = contexts[-1].new_page()
        page.seen = seen = SimpleNamespace(errors=[], requests=[], dialogs=[])
        page.on("console", lambda message: seen.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: seen.errors.append(str(error)))
        page.on("request", lambda request: seen.requests.append(request.url))
        page.on("dialog", lambda dialog: (seen.dialogs.append(dialog.message), dialog.dismiss()))
        page.until = partial(wait_until, page)
        page.goto(str(address) if "://" in str(address) else f"file://{address}")
        return page

    yield open_page
    for context in contexts:
        context.close()
