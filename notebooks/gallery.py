"""Writes executed notebooks as static pages that open from the file system, without a kernel and without a network.

nbconvert renders the cells; the pages around them are those of `dqc_lib.pages`. Figures are stored in the notebooks as
data (`application/vnd.plotly.v1+json`) and drawn by one copy of plotly.js that lies beside the pages.
"""

import html
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import nbformat
from nbconvert import HTMLExporter
from nbconvert.filters import markdown2html
from plotly.offline import get_plotlyjs
from pygments.formatters import HtmlFormatter

from dqc_lib.pages import draw_figure, fill_page, find_requests, strip_tags, write_page

PLOTLY = "application/vnd.plotly.v1+json"
PLOTLY_FILE = "plotly.min.js"
WIDGET = "application/vnd.jupyter.widget-view+json"
WIDGET_STATE = "application/vnd.jupyter.widget-state+json"
THUMBNAIL_LIMIT = 400_000  # characters of figure data; a heavier figure would make the index slow

FOLDED_SOLUTION = """{%- extends 'basic/index.html.j2' -%}
{% block codecell %}{% if 'solution' in cell.metadata.get('tags', []) %}<details class="solution">
<summary>Show the solution</summary>{{ super() }}</details>{% else %}{{ super() }}{% endif %}{% endblock %}"""

STYLE = """
.highlight { background: none; } .anchor-link, .prompt { display: none; }
.input_area pre, .output pre { background: var(--card); border: 1px solid var(--line); border-radius: 6px;
  margin: .5rem 0; padding: .75rem; overflow-x: auto; font: .875rem/1.5 ui-monospace, monospace; }
.output { overflow-x: auto; } .output_stderr pre, .output_error pre { border-left: 4px solid var(--alarm); }
.ansi-red-fg, .ansi-red-intense-fg { color: var(--alarm); } .ansi-bold { font-weight: 600; }
.solution { border: 1px dashed var(--line); border-radius: 6px; padding: .5rem .75rem; margin: .75rem 0; }
.cards { list-style: none; padding: 0; display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 18rem), 1fr)); }
.cards li { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 1rem;
  display: flex; flex-direction: column; }
.cards h2 { font-size: 1.1rem; margin: .75rem 0 .25rem; } .cards p { margin: .25rem 0 .75rem; }
.cards .cost { color: var(--soft); margin: auto 0 0; }
.cards .picture { height: 190px; overflow: hidden; } .cards .picture > * { margin: 0; }
.cards .picture img { width: 100%; height: 100%; object-fit: contain; }
"""

HOME = '<a href="index.html">All notebooks</a>'


@dataclass(frozen=True)
class Entry:
    """What the index says about an executed notebook."""

    name: str
    title: str
    question: str
    picture: str
    run: dict


def describe_widget(model_id, state):
    """Returns the text of a widget: the labels of a progress bar, or where the control can be used."""
    model = state.get(model_id, {}).get("state", {})
    children = [state.get(child.removeprefix("IPY_MODEL_"), {}) for child in model.get("children", [])]
    if any(child.get("model_name") == "FloatProgressModel" for child in children):
        labels = [strip_tags(c["state"].get("value", "")) for c in children if c.get("model_name") == "HTMLModel"]
        return f"<p>{html.escape(' '.join(labels))}</p>"
    return "<p><em>A control that needs a kernel: open this notebook in JupyterLab (make lab).</em></p>"


def make_static(notebook):
    """Replaces figures and widgets in the outputs of `notebook` by HTML that needs no kernel.

    The state of the widgets goes: every live figure brings a copy of plotly's script in it.
    """
    state = notebook.metadata.pop("widgets", {}).get(WIDGET_STATE, {}).get("state", {})
    for output in [output for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output]:
        if PLOTLY in output.data:
            output.data = nbformat.from_dict({"text/html": draw_figure(output.data[PLOTLY])})
        elif WIDGET in output.data:
            output.data = nbformat.from_dict({"text/html": describe_widget(output.data[WIDGET]["model_id"], state)})


def find_picture(notebook):
    """Returns the first figure of the notebook as HTML for its card, or ''."""
    for data in [output.data for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output]:
        if PLOTLY in data and len(json.dumps(data[PLOTLY])) <= THUMBNAIL_LIMIT:
            return draw_figure(data[PLOTLY], thumbnail=True)
        if "image/png" in data:
            return f'<img alt="" src="data:image/png;base64,{html.escape("".join(data["image/png"].split()))}">'
    return ""


def read_entry(notebook, *, name):
    """Returns the Entry of a notebook: heading and first paragraph of its first markdown cell, picture and run."""
    cells = [c for c in notebook.cells if "papermill-error-cell-tag" not in c.metadata.get("tags", [])]
    text = next((cell.source for cell in cells if cell.cell_type == "markdown"), "")
    heading = re.search(r"^#+ +(.+)$", text, flags=re.M)
    paragraphs = [part for part in re.split(r"\n\s*\n", re.sub(r"^#.*$", "", text, flags=re.M)) if part.strip()]
    title = strip_tags(markdown2html(heading[1])) if heading else name
    question = strip_tags(markdown2html(paragraphs[0])) if paragraphs else ""
    return Entry(name, title, question, find_picture(notebook), notebook.metadata.get("dqc", {}))


def point_at(entry):
    """Returns the address of a notebook's page, whatever the notebook is called."""
    return html.escape(quote(f"{entry.name}.html"))


def describe_cost(run):
    """Returns status, seconds and peak memory of a run as HTML."""
    cost = f"{run['seconds']:.0f} s" if run.get("seconds") is not None else ""
    cost += f", {run['peak_mb']:.0f} MB" if run.get("peak_mb") is not None else ""
    return f'<span class="failed">Failed</span> after {cost}' if run.get("status") == "failed" else cost


def point_links(body, *, pages, source, folder):
    """Returns `body` with its relative links, written for the folder of the notebooks, right for the gallery."""

    def point(match):
        target, mark, anchor = match[2].partition("#")
        if Path(target).suffix == ".ipynb" and Path(target).stem in pages:
            return f'{match[1]}"{Path(target).stem}.html{mark}{anchor}"'
        return f'{match[1]}"{Path(os.path.relpath(source / target, folder)).as_posix()}{mark}{anchor}"'

    return re.sub(r'(<a [^>]*?href=)"(?![a-z]+:|#|/)([^"]+)"', point, body)


def style_code():
    """Returns the style sheet of notebooks: code in colours, light and dark, and what cells and cards add."""
    light, dark = (HtmlFormatter(style=name).get_style_defs(".highlight") for name in ("default", "github-dark"))
    return f"{light}\n@media (prefers-color-scheme: dark) {{ {dark} }}\n{STYLE}"


def build_page(notebook, *, entry, entries, source, folder):
    """Returns the page of one executed notebook."""
    make_static(notebook)
    exporter = HTMLExporter(template_name="basic", raw_template=FOLDED_SOLUTION, embed_images=True)
    body, _ = exporter.from_notebook_node(notebook, resources={"metadata": {"path": str(source)}})
    body = point_links(body, pages={other.name for other in entries}, source=source, folder=folder)
    for box in ("<pre", '<div class="output"'):  # what scrolls sideways can be reached and scrolled with the keyboard
        body = body.replace(f"{box}>", f'{box} tabindex="0">')
    number = entries.index(entry)
    neighbours = [("Previous", e) for e in entries[max(number - 1, 0) : number]]
    neighbours += [("Next", e) for e in entries[number + 1 : number + 2]]
    links = [f'<a href="{point_at(e)}">{word}: {html.escape(e.title)}</a>' for word, e in neighbours]
    header = f'<header><nav aria-label="Notebooks">{" · ".join([HOME, *links])}</nav></header>'
    footer = f"<footer><span>{html.escape(entry.name)}</span><span>{describe_cost(entry.run)}</span></footer>"
    shared = {"style": style_code(), "plotly": PLOTLY_FILE}
    return fill_page(title=entry.title, header=header, body=body, footer=footer, **shared)


def build_index(entries):
    """Returns the page that lists the notebooks: picture, title, question, cost."""
    cards = []
    for entry in entries:
        picture = f'<div class="picture">{entry.picture}</div>' if entry.picture else ""
        heading = f'<h2><a href="{point_at(entry)}">{html.escape(entry.title)}</a></h2>'
        cost = f'<p class="cost">{describe_cost(entry.run)}</p>'
        cards.append(f"<li>{picture}{heading}<p>{html.escape(entry.question)}</p>{cost}</li>")
    body = f'<h1>dqc: the executed notebooks</h1>\n<ol class="cards">\n{"".join(cards)}\n</ol>'
    return fill_page(title="dqc: the executed notebooks", body=body, style=style_code(), plotly=PLOTLY_FILE)


def write_gallery(copies, *, folder, source):
    """Writes a page per executed notebook, the index and plotly.js into `folder`; returns one sentence per page that
    would ask the network for something. `source` is the folder the notebooks lie in."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.html"):
        old.unlink()
    notebooks = [nbformat.read(copy, as_version=4) for copy in copies]
    entries = [read_entry(notebook, name=copy.stem) for notebook, copy in zip(notebooks, copies, strict=True)]
    pages = {"index.html": build_index(entries)}
    for notebook, entry in zip(notebooks, entries, strict=True):
        pages[f"{entry.name}.html"] = build_page(notebook, entry=entry, entries=entries, source=source, folder=folder)
    for name, page in pages.items():
        write_page(folder / name, page)
    (folder / PLOTLY_FILE).write_text(get_plotlyjs(), encoding="utf-8")
    found = {name: sorted(set(find_requests(page))) for name, page in pages.items()}
    return [f"{name} would load from a network: {', '.join(urls)}" for name, urls in found.items() if urls]
