"""HTML pages that open from the file system: figures drawn from data, tables, light and dark, nothing from a network.

The gallery of notebooks and the report are made of them. Style sheet and script lie in `dqc_lib/data`. Every text that
comes from a cohort passes through `html.escape`, or into a figure's JSON, which no element can end.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd

from dqc_lib.aside import write_aside

LOADING = {"src", "srcset", "poster", "data", "xlink:href", "style"}  # attributes a browser follows by itself
HEIGHT, THUMBNAIL_HEIGHT = 450, 190  # pixels; plotly's own where a figure names none, and of a card's picture
PLOTLY_TAGS = r"(?:a|b|br|em|i|s|span|sub|sup|u)(?:\s[^<>]*)?"  # all other angle brackets plotly.js shows as they are
LONG, SHORT = 40, 20  # rows above which a table scrolls in a frame, characters up to which a text is not broken
SCRIPT, STYLE = ((files("dqc_lib") / "data" / f"pages.{kind}").read_text(encoding="utf-8") for kind in ("js", "css"))

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
{policy}<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<a class="skip" href="#content">Skip to the content</a>
{header}
<main id="content">
{body}
</main>
{footer}
{scripts}
</body>
</html>
"""


class RequestFinder(HTMLParser):
    """Collects what a page would load from elsewhere; links that wait for a click are no requests."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.inside = ""

    def handle_starttag(self, tag: str, attrs: list) -> None:
        """Look at the attributes that a browser follows."""
        values = dict(attrs)
        self.inside = tag if tag in ("style", "script") and "json" not in (values.get("type") or "") else ""
        for name in LOADING | ({"href"} if tag in ("link", "image", "use") else set()):
            self._collect(values.get(name) or "", pattern=r"(?:https?:)?//[^\s\"')]+")

    def handle_endtag(self, tag: str) -> None:
        """Leave a style sheet or a script."""
        self.inside = ""

    def handle_data(self, data: str) -> None:
        """Look at what a style sheet or a script names."""
        if self.inside:
            self._collect(data, pattern=r"https?://[^\s\"'`)]+")

    def _collect(self, text: str, *, pattern: str) -> None:
        self.found += [] if text.startswith("data:") else re.findall(pattern, text)


def find_requests(page: str) -> list[str]:
    """Return the addresses that an HTML page loads from a network when it is opened.

    An embedded plotly.js names addresses that it never asks for here: take it out first.
    """
    finder = RequestFinder()
    finder.feed(page)
    return finder.found


def embed_json(value: Any) -> str:
    """Return `value` as JSON that cannot end the script element around it."""
    return json.dumps(value).replace("<", "\\u003c")


def strip_tags(text: str, *, tags: str = r"\w[^>]*") -> str:
    """Return HTML as plain text on one line; `tags` is the pattern of what counts as a tag between "<" and ">"."""
    spaced = re.sub(r"<br ?/?>", " ", text)
    return " ".join(html.unescape(re.sub(rf"</?{tags}>", "", spaced)).split())


def describe_figure(figure: Mapping[str, Any]) -> str:
    """Return the alternative text of a plotly figure, plain text on one line.

    That is `layout.meta["alt"]` as it stands, for it is plain text, or else the title, whose markup is read as plotly
    reads it: what is no tag that plotly knows is text.
    """
    layout = figure.get("layout", {})
    meta, title = layout.get("meta"), layout.get("title")
    said = meta.get("alt") if isinstance(meta, dict) else None
    text = title.get("text") if isinstance(title, dict) else title
    shown = str(said) if said else strip_tags(text or "without a title", tags=PLOTLY_TAGS)
    return " ".join(shown.split())


def draw_figure(figure: Mapping[str, Any], *, thumbnail: bool = False) -> str:
    """Return the element that the page's script draws a figure in.

    Parameters
    ----------
    figure : mapping
        plotly's JSON, with data and layout. Its menus and sliders become HTML controls above it, if they do no more
        than restyle, relayout or update; no margin needs to be left for them.
    thumbnail : bool
        Small, without text and controls, and hidden from screen readers.
    """
    height = THUMBNAIL_HEIGHT if thumbnail else (figure.get("layout", {}).get("height") or HEIGHT)
    marks = f'class="plotly-figure" role="group" aria-label="Figure: {html.escape(describe_figure(figure))}"'
    if thumbnail:
        marks = 'class="plotly-figure thumbnail" aria-hidden="true"'
    content = {key: figure[key] for key in ("data", "layout", "frames") if key in figure}
    script = f'<script type="application/json">{embed_json(content)}</script>'
    return f'<div {marks}><div style="min-height: {height}px"></div>{script}</div>'


def draw_table(table: pd.DataFrame, *, caption: str, decimals: int = 1) -> str:
    """Return a table as HTML that scrolls by itself, with the keyboard too; every name and value in it is escaped.

    Parameters
    ----------
    table : DataFrame
        The index heads the rows. Numbers stand at the right; what is not defined is "n/a".
    caption : str
        What the table holds.
    decimals : int
        Of floats.
    """
    numeric = [kind.kind in "iuf" for kind in table.dtypes]
    heads = zip(table.columns, numeric, strict=True)
    cells = [_write_cell("th", table.index.name or "", scope="col")]
    cells += [_write_cell("th", name, scope="col", number=number) for name, number in heads]
    rows = []
    for head, *values in table.itertuples(name=None):
        shown = [f"{value:.{decimals}f}" if isinstance(value, float) else value for value in values]
        shown = ["n/a" if pd.isna(value) else text for value, text in zip(values, shown, strict=True)]
        row = [_write_cell("td", text, number=number) for text, number in zip(shown, numeric, strict=True)]
        rows.append(f"<tr>{_write_cell('th', head, scope='row')}{''.join(row)}</tr>")
    said = html.escape(caption)
    marks = f'class="table{" long" * (len(table) > LONG)}" tabindex="0" role="region" aria-label="Table: {said}"'
    body = "\n".join(rows)
    return (
        f'<figure class="tabular"><figcaption>{said}</figcaption>\n<div {marks}><table>\n'
        f"<thead><tr>{''.join(cells)}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div></figure>"
    )


def _write_cell(tag: str, value: Any, *, scope: str = "", number: bool = False) -> str:
    """Return one cell; short texts, such as names, stay on one line."""
    shown = str(value)
    kind = "number" if number else "name" if len(shown) <= SHORT else "text"
    where = f' scope="{scope}"' * bool(scope)
    return f'<{tag}{where} class="{kind}">{html.escape(shown)}</{tag}>'


def fill_page(
    *, title: str, body: str, header: str = "", footer: str = "", style: str = "", plotly: str | None = None
) -> str:
    """Return a whole HTML page.

    Parameters
    ----------
    title : str
        Plain text.
    body, header, footer : str
        HTML.
    style : str
        What this page adds to the style sheet that all pages share.
    plotly : str, optional
        Where plotly.js lies beside the page. If not given it becomes part of the page, which then forbids the browser
        to load anything at all and to run any script but those two.
    """
    draws = 'class="plotly-figure' in body
    inline = [SCRIPT] if draws else []
    if draws and plotly is None:
        from plotly.offline import get_plotlyjs

        inline.insert(0, get_plotlyjs())
    linked = [f'<script src="{html.escape(plotly)}"></script>'] if draws and plotly is not None else []
    return PAGE.format(
        title=html.escape(title),
        policy="" if plotly is not None else f"{_forbid_loading(inline)}\n",
        style=f"{STYLE}\n{style}",
        header=header,
        body=body,
        footer=footer,
        scripts="\n".join([*linked, *(f"<script>{script}</script>" for script in inline)]),
    )


def _forbid_loading(scripts: list[str]) -> str:
    """Return the element by which a browser runs only these scripts and asks no network for anything."""
    digests = [hashlib.sha256(script.encode("utf-8")).digest() for script in scripts]
    allowed = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests) or "'none'"
    policy = f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:"
    return f'<meta http-equiv="Content-Security-Policy" content="{policy}">'


def write_page(path: Path, page: str) -> Path:
    """Write a page aside and rename it, so that nobody meets half of one; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_aside(path, lambda aside: aside.write_text(page, encoding="utf-8", newline="\n"))
