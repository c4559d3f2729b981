"""The explorers in JupyterLab, driven as a reader would: notebook 05 in a real browser."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOK = "05_explore_flagged.ipynb"
SETTINGS = {  # every cell on the page, also those out of sight; no question about news
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
HOSTILE = "<img src=x onerror=alert(1)>"
STARTED, COMPUTED = 60, 600  # seconds to wait for the server, and for a notebook that trains first
pytestmark = [pytest.mark.tutorial, pytest.mark.timeout(STARTED + 2 * COMPUTED)]

HOSTILE_CODE = f"""
import numpy as np
import pandas as pd
import dqc_lib as dqc

ledger = dqc.Ledger()
row = dict.fromkeys(dqc.ledger.COLUMNS) | {{"cycle": 0, "stage": "control", "seconds": 0.1}}
center, subject = {HOSTILE!r}, {HOSTILE!r} + "</script>"
counts = {{"fp": 1, "n_neg": 4, "fn": 1, "n_pos": 4, "reference_fp": 0, "reference_n_neg": 4,
           "reference_fn": 1, "reference_n_pos": 4, "tolerance": 0.02, "update_norm": 3.0}}
for level, decision in (("batch", "split"), ("single", "deferred"), ("revisit", "eliminated")):
    told = {{"level": level, "decision": decision, "center": center, "subjects": [subject], "n": 1}}
    ledger.append(**row | counts | told)
columns = ["subject", "center", "diagnosis", "sex", "age", "scanner", "path", "role"]
values = (subject, center, 1, "F", 60.0, {HOSTILE!r}, "/nowhere/" + {HOSTILE!r}, "train")
table = pd.DataFrame([values], columns=columns)
display(dqc.LedgerExplorer(ledger.to_frame(), cohort=dqc.Cohort(table, ".")))
grey = np.linspace(0, 255, 16 * 16 * 16, dtype=np.float32).reshape(16, 16, 16)
volume = dqc.Volume(grey, np.diag([2.0, 3.0, 4.0, 1.0]))
display(dqc.SliceViewer({{{HOSTILE!r}: volume}}, title={HOSTILE!r}))
display(dqc.open_niivue(volume))
"""


def find_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab on a copy of the notebook, with the sample cohort and runs of its own: those of this checkout may
    just be computed by another worker; its address."""
    root = tmp_path_factory.mktemp("lab")
    (root / "notebooks").mkdir()
    shutil.copy(ROOT / "notebooks" / NOTEBOOK, root / "notebooks")
    (root / "data_samples").symlink_to(ROOT / "data_samples")
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    hostile = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(HOSTILE_CODE)], metadata=kernel)
    nbformat.write(hostile, root / "notebooks" / "hostile.ipynb")
    own = tmp_path_factory.mktemp("own")
    for name, values in SETTINGS.items():
        path = own / "settings" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    folders = {"JUPYTERLAB_SETTINGS_DIR": own / "settings", "JUPYTERLAB_WORKSPACES_DIR": own / "workspaces"}
    folders |= {"JUPYTER_CONFIG_DIR": own / "config", "JUPYTER_DATA_DIR": own / "data", "IPYTHONDIR": own / "ipython"}
    port, token = find_port(), secrets.token_hex(8)
    options = [f"--ServerApp.root_dir={root}", f"--ServerApp.port={port}", f"--IdentityProvider.token={token}"]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", *options]
    environment = os.environ | {name: str(folder) for name, folder in folders.items()}
    with (own / "server.log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_for_server(f"http://127.0.0.1:{port}/api/status?token={token}", server, own / "server.log")
            yield SimpleNamespace(address=f"http://127.0.0.1:{port}/lab/tree/notebooks", token=token)
        finally:
            server.terminate()
            server.wait(timeout=30)


def wait_for_server(address, server, log):
    end = time.monotonic() + STARTED
    while True:
        try:
            return urllib.request.urlopen(address).close()
        except (urllib.error.URLError, ConnectionError):
            assert server.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.2)


@pytest.fixture
def run_notebook(lab, chromium_page):
    """A function that opens a notebook of the lab, runs all its cells and returns the page when they are done."""

    def run(name):
        page = chromium_page(f"{lab.address}/{name}?token={lab.token}&reset", width=1400, height=1000)
        page.locator(".jp-Notebook .jp-Cell").first.wait_for(timeout=1000 * STARTED)
        page.get_by_text("Python 3 (ipykernel) | Idle").first.wait_for(timeout=1000 * STARTED)
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_text("Run All Cells", exact=True).click()
        last = "[...document.querySelectorAll('.jp-CodeCell .jp-InputArea-prompt')].at(-1).textContent"
        page.until(f"/\\[\\d+\\]/.test({last})", seconds=COMPUTED)
        return page

    return run


def choose(page, label, value):
    """Choose an option of the list with that label."""
    page.locator(f".widget-dropdown:has(label:text-is('{label}')) select").select_option(value)


def list_options(page, label):
    texts = page.locator(f".widget-dropdown:has(label:text-is('{label}')) option").all_text_contents()
    return [text.replace("\xa0", " ") for text in texts]


def find_figure(title):
    """Returns JavaScript for the last figure whose title holds the text."""
    figures = "[...document.querySelectorAll('.js-plotly-plot')]"
    return f"{figures}.filter((figure) => figure.layout?.title?.text?.includes('{title}')).at(-1)"


def check_quiet(page):
    """Assert that nothing went wrong in the browser and nothing left the machine."""
    assert not page.seen.errors
    assert not page.seen.dialogs
    abroad = [url for url in page.seen.requests if not url.startswith(("http://127.0.0.1:", "data:", "blob:"))]
    assert not abroad


def test_a_reader_goes_from_the_centers_to_an_image(run_notebook):
    page = run_notebook(NOTEBOOK)
    page.locator(".widget-dropdown:has(label:text-is('center'))").wait_for(timeout=60_000)
    page.until(f"{find_figure('center-02, attempt by attempt')} !== undefined", seconds=60)
    assert not page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.error']").count()

    labels = "[...document.querySelectorAll('.widget-dropdown > label')]"
    listed = f"{labels}.find((label) => label.textContent === 'image').parentElement.textContent"
    before = page.evaluate(listed)
    choose(page, "center", "center-10")
    page.until(f"{find_figure('center-10, attempt by attempt')} !== undefined && {listed} !== {json.dumps(before)}")
    images = list_options(page, "image")
    assert "(eliminated in cycle" in images[0], "what was flagged comes first"
    assert all("never flagged" in name for name in images[1:])
    flagged, neighbour = (name.split(" ")[0] for name in images[:2])
    page.until(f"{find_figure(f'{flagged}, slice by slice')} !== undefined")
    fate = page.locator(".widget-html-content").filter(has_text="attempts;")
    assert "revisit eliminated" in fate.inner_text()

    choose(page, "image", images[1])
    page.until(f"{find_figure(f'{neighbour}, slice by slice')} !== undefined")
    assert "deferred" not in fate.inner_text() and "eliminated" not in fate.inner_text()

    slices = find_figure(f"{neighbour}, slice by slice")
    before = page.evaluate(f"JSON.stringify([{slices}.data[0].z, {slices}.layout.shapes])")
    handle = page.locator(".widget-slider:has(label:text-is('axial (%)')) .noUi-handle")
    handle.focus()
    for _ in range(5):
        handle.press("ArrowRight")
    page.until(f"JSON.stringify([{slices}.data[0].z, {slices}.layout.shapes]) !== {json.dumps(before)}")
    assert page.locator(".widget-slider:has(label:text-is('axial (%)')) .widget-readout").inner_text() == "55"

    overview = find_figure("Rejected attempts")
    spot = page.evaluate(
        f"""(() => {{
          const figure = {overview};
          figure.scrollIntoView({{ block: "center" }});
          const trace = figure.data.findIndex((t) => t.customdata?.some?.((c) => c[0] === "center-02"));
          const mark = figure.data[trace].customdata.findIndex((c) => c[0] === "center-02");
          const {{ xaxis, yaxis }} = figure._fullLayout, box = figure.getBoundingClientRect();
          return [box.left + xaxis._offset + xaxis.c2p(figure.data[trace].x[mark]),
                  box.top + yaxis._offset + yaxis.c2p(yaxis.d2c(figure.data[trace].y[mark]))];
        }})()"""
    )
    page.mouse.move(*spot)
    page.mouse.click(*spot)
    page.until(f"{find_figure('center-02, attempt by attempt')} !== undefined && {slices} === undefined")
    chosen = page.locator(".widget-dropdown:has(label:text-is('center')) select").evaluate("e => e.value")
    assert chosen == "center-02"
    check_quiet(page)


def test_names_that_are_markup_are_text_in_the_explorers(run_notebook):
    page = run_notebook("hostile.ipynb")
    page.until(f"{find_figure('attempt by attempt')} !== undefined", seconds=60)
    assert HOSTILE in list_options(page, "center")
    assert page.get_by_text("An image cannot be shown.").count(), "a missing image is said, not raised"
    assert page.get_by_text(f"{HOSTILE}: ").count(), "the label of a volume"
    assert page.locator("img[src=x]").count() == 0
    page.locator("canvas").last.wait_for(timeout=30_000)  # of NiiVue
    check_quiet(page)
