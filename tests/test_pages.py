"""Pages: what they show in a real browser, with whose hands, and that nothing comes from or goes to a network."""

import base64
import re
from html import escape

import numpy as np
import pandas as pd
import pytest
from plotly.offline import get_plotlyjs

from dqc_lib import pages

HOSTILE = '</script><img src=x onerror="alert(1)">%{y}'
ESCAPED = "&lt;img src=x onerror=alert(1)&gt;"
PLOT = "document.querySelectorAll('.js-plotly-plot')[0]"


def encode(values):
    """Return an array of bytes as plotly's Python writes arrays."""
    array = np.array(values, dtype=np.uint8)
    return {"dtype": "u1", "bdata": base64.b64encode(array.tobytes()).decode(), "shape": "{}, {}".format(*array.shape)}


def make_slider(steps, **more):
    return {"name": "slice", "active": 0, "steps": steps, **more}


def make_figure(**layout):
    """Return a heatmap of zeros, 2 x 3, 400 pixels high with the usual margins."""
    layout = {"title": {"text": "Zeros"}, "height": 400, "margin": {"t": 60, "b": 50}, **layout}
    return {"data": [{"type": "heatmap", "z": [[0, 0, 0], [0, 0, 0]]}], "layout": layout}


SLICES = [encode(np.full((2, 3), k)) for k in range(4)]
STEPS = [{"label": f"{k + 1}", "method": "restyle", "args": [{"z": [z]}, [0]]} for k, z in enumerate(SLICES)]
SORTING = {
    "name": "sort by",
    "active": 1,
    "buttons": [
        {"label": label, "method": "relayout", "args": ["title.text", f"by {label}"]} for label in ("name", "size")
    ],
}


@pytest.fixture
def open_figures(chromium_page, tmp_path):
    """A function that writes figures into a page, opens it and returns it when all is drawn."""

    def open_page(*figures, thumbnail=False, **options):
        body = "\n".join(pages.draw_figure(figure, thumbnail=thumbnail) for figure in figures)
        path = pages.write_page(tmp_path / "page.html", pages.fill_page(title="t", body=f"<h1>t</h1>{body}"))
        page = chromium_page(path, **options)
        wait_until_drawn(page, len(figures), n_controls=0 if thumbnail else sum(map(count_controlled, figures)))
        return page

    return open_page


def count_controlled(figure):
    return bool(figure["layout"].get("sliders") or figure["layout"].get("updatemenus"))


def wait_until_drawn(page, n_figures, *, n_controls=0):
    page.until(f"document.querySelectorAll('.js-plotly-plot .main-svg').length >= {n_figures}")
    page.until(f"document.querySelectorAll('.controls').length === {n_controls}")


def read_pixels(page):
    """Return the values that the first figure shows."""
    return page.evaluate(f"{PLOT}.calcdata[0][0].z.map(row => Array.from(row))")


def read_size(page):
    """Return height of the first figure and of its plot, both in pixels."""
    return page.evaluate(f"[{PLOT}._fullLayout.height, {PLOT}._fullLayout._size.h]")


# controls


def test_a_slider_of_plotly_becomes_one_of_html_that_arrow_keys_move(open_figures):
    page = open_figures(make_figure(sliders=[make_slider(STEPS, currentvalue={"prefix": "axial slice: "})]))
    slider = page.get_by_role("slider", name="axial slice", exact=True)
    assert (slider.get_attribute("min"), slider.get_attribute("max")) == ("0", "3")
    assert slider.get_attribute("aria-valuetext") == "1"
    slider.focus()
    slider.press("ArrowRight")
    page.until(f"{PLOT}.calcdata[0][0].z[0][0] === 1")
    assert read_pixels(page) == [[1, 1, 1], [1, 1, 1]], "an encoded array is decoded"
    slider.press("End")
    page.until(f"{PLOT}.calcdata[0][0].z[0][0] === 3")
    assert slider.get_attribute("aria-valuetext") == "4"
    assert page.locator("output").text_content() == "4"
    assert page.seen.errors == []


def test_a_slider_may_go_back_to_where_it_was(open_figures):
    page = open_figures(make_figure(sliders=[make_slider(STEPS, active=3)]))
    slider = page.get_by_label("slice")
    assert slider.input_value() == "3"
    for key, shown in (("ArrowLeft", 2), ("Home", 0), ("ArrowRight", 1), ("ArrowLeft", 0)):
        slider.press(key)
        page.until(f"{PLOT}.calcdata[0][0].z[1][2] === {shown}")


def test_a_menu_of_plotly_becomes_a_select(open_figures):
    page = open_figures(make_figure(updatemenus=[SORTING]))
    menu = page.get_by_role("combobox", name="sort by")
    assert menu.input_value() == "size"
    assert menu.locator("option").all_text_contents() == ["name", "size"]
    menu.select_option("name")
    page.until(f"{PLOT}.layout.title.text === 'by name'")
    menu.focus()
    menu.press("ArrowDown")
    page.until(f"{PLOT}.layout.title.text === 'by size'")


def test_two_controls_of_a_figure_and_those_of_another_do_not_mix(open_figures):
    figure = make_figure(updatemenus=[SORTING], sliders=[make_slider(STEPS)])
    page = open_figures(figure, figure)
    page.get_by_label("slice").nth(1).press("ArrowRight")
    page.get_by_label("sort by").nth(0).select_option("name")
    page.until(f"{PLOT}.layout.title.text === 'by name'")
    found = page.evaluate(
        "[...document.querySelectorAll('.js-plotly-plot')].map(p => [p.layout.title.text, p.calcdata[0][0].z[0][0]])"
    )
    assert found == [["by name", 0], ["Zeros", 1]]


def test_update_changes_traces_and_layout_at_once(open_figures):
    args = [{"z": [[[7]]]}, {"title.text": "Seven"}, [0]]
    steps = [STEPS[0], {"label": "seven", "method": "update", "args": args}]
    page = open_figures(make_figure(sliders=[make_slider(steps)]))
    page.get_by_label("slice").press("ArrowRight")
    page.until(f"{PLOT}.layout.title.text === 'Seven'")
    assert read_pixels(page) == [[7]]


def test_labels_are_text_whatever_they_hold(open_figures):
    steps = [STEPS[0] | {"label": ESCAPED}, STEPS[1] | {"label": HOSTILE}]
    menu = SORTING | {"name": HOSTILE, "buttons": [SORTING["buttons"][0] | {"label": ESCAPED}]}
    page = open_figures(
        make_figure(updatemenus=[menu | {"active": 0}], sliders=[make_slider(steps, currentvalue={"prefix": ESCAPED})])
    )
    assert page.locator("option").all_text_contents() == ["<img src=x onerror=alert(1)>"]
    assert page.locator("output").text_content() == "<img src=x onerror=alert(1)>"
    page.get_by_role("slider").press("ArrowRight")
    page.until("document.querySelector('output').textContent !== '<img src=x onerror=alert(1)>'")
    assert page.locator("output").text_content() == HOSTILE
    assert page.locator("img").count() == 0
    assert page.seen.dialogs == []


@pytest.mark.parametrize("width", [400, 1400])
def test_what_plotly_drew_is_gone_and_leaves_no_hole(open_figures, width):
    plain = read_size(open_figures(make_figure(), width=width))
    below, above = 120, 50
    layout = {
        "height": 400 + below + above,
        "margin": {"t": 60 + above, "b": 50 + below},
        "sliders": [make_slider(STEPS, y=0, yanchor="top", pad={"t": 50}, currentvalue={"prefix": "slice "})],
        "updatemenus": [SORTING | {"y": 1, "yanchor": "bottom", "x": 0, "xanchor": "left", "pad": {"b": 8}}],
    }
    page = open_figures(make_figure(**layout), width=width)
    assert page.locator(".slider-container, .updatemenu-container").count() == 0
    height, plot = read_size(page)
    assert plot == pytest.approx(plain[1], abs=25), "the plot keeps its height"
    assert height - plain[0] < 75, "of 170 pixels of margin only what was no control's is left"
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_plotly_keeps_controls_that_html_cannot_stand_for(open_figures):
    animated = make_slider([{"label": "go", "method": "animate", "args": [None]}])
    hidden = make_slider(STEPS, visible=False)
    figure = make_figure(sliders=[make_slider(STEPS), animated, hidden])
    page = open_figures(figure)
    assert page.locator("input[type=range]").count() == 1
    assert page.evaluate(f"{PLOT}.layout.sliders.map(s => s.steps[0].method + s.visible)") == [
        "animateundefined",
        "restylefalse",
    ]


LONG_TITLE = "A finding that takes many words to say, and more of them than a phone has room for in a line"


@pytest.mark.parametrize(("width", "n_lines"), [(400, 3), (1400, 1)])
def test_a_title_is_broken_where_the_screen_is_too_narrow_for_it(open_figures, width, n_lines):
    pad = {"t": 12, "l": 12}
    title = {"text": LONG_TITLE, "x": 0, "xref": "container", "xanchor": "left", "font": {"size": 15}, "pad": pad}
    title |= {"y": 1, "yref": "container", "yanchor": "top"}
    page = open_figures(make_figure(title=title), width=width)
    shown = page.evaluate(f"{PLOT}.layout.title.text")
    assert (shown.replace("<br>", " "), shown.count("<br>") + 1) == (LONG_TITLE, n_lines)
    frame, box = page.evaluate(
        f"[{PLOT}, {PLOT}.querySelector('.gtitle')].map(part => "
        "part.getBoundingClientRect()).map(box => [box.left, box.right, box.top, box.bottom])"
    )
    assert frame[0] <= box[0] and box[1] <= frame[1], "it is cut off neither left nor right"
    assert frame[2] <= box[2], "nor at the top"
    assert page.evaluate(f"{PLOT}._fullLayout._size.t") >= box[3] - frame[2], "and it stays above the plot"
    assert read_size(page)[1] == 400 - 60 - 50, "which keeps its height"


def test_a_title_with_markup_is_left_as_it_is(open_figures):
    text = f"<span style='color: red'>{LONG_TITLE}</span>"
    page = open_figures(make_figure(title={"text": text}), width=400)
    assert page.evaluate(f"{PLOT}.layout.title.text") == text


def test_a_thumbnail_has_no_controls(open_figures):
    page = open_figures(make_figure(sliders=[make_slider(STEPS)], updatemenus=[SORTING]), thumbnail=True)
    assert page.locator("select, input, .slider-container, .updatemenu-container").count() == 0
    assert read_size(page)[0] == 190


def test_the_figure_itself_keeps_its_controls_for_jupyterlab():
    figure = make_figure(sliders=[make_slider(STEPS)])
    before = repr(figure)
    element = pages.draw_figure(figure)
    assert repr(figure) == before
    assert '"sliders"' in element


# pages


def test_a_page_loads_nothing_and_says_nothing_on_the_console(open_figures):
    page = open_figures(make_figure(title={"text": "a < b"}, meta={"alt": "Three dots"}))
    assert page.seen.errors == []
    assert [address.partition("/")[0] for address in page.seen.requests if address[:5] != "data:"] == ["file:"]
    assert page.get_by_role("group", name="Figure: Three dots").count() == 1
    assert page.get_by_text("Skip to the content").get_attribute("href") == "#content"


def test_a_page_that_embeds_plotly_forbids_foreign_scripts_and_requests(chromium_page, tmp_path):
    body = pages.draw_figure(make_figure()) + (
        "<p onclick='document.title = 1'>press</p><img src=x onerror='document.title = 2'>"
        "<script>document.title = 3</script><img src='http://localhost:9/pixel.png'>"
    )
    page = chromium_page(pages.write_page(tmp_path / "page.html", pages.fill_page(title="before", body=body)))
    wait_until_drawn(page, 1)
    page.get_by_text("press").click()
    assert page.title() == "before"
    assert [error for error in page.seen.errors if "Content Security Policy" in error]


def test_plotly_is_embedded_once_or_referred_to_once_and_only_where_there_is_a_figure():
    figures = pages.draw_figure(make_figure()) * 2
    assert pages.fill_page(title="t", body=figures).count(get_plotlyjs()) == 1
    linked = pages.fill_page(title="t", body=figures, plotly="plotly.min.js")
    assert linked.count("plotly.min.js") == 1
    assert get_plotlyjs() not in linked
    assert "<script" not in pages.fill_page(title="t", body="<p>.plotly-figure</p>")


def test_texts_of_a_figure_cannot_leave_their_element(open_figures):
    figure = make_figure(title={"text": HOSTILE}, meta={"alt": f'"{HOSTILE}'})
    assert pages.draw_figure(figure).count("</script>") == 1
    page = open_figures(figure)
    assert page.locator("img").count() == 0
    assert page.seen.dialogs == []


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        (
            {"meta": {"alt": "Rejected: <img src=x onerror=alert(1)> 60 %"}},
            "Rejected: <img src=x onerror=alert(1)> 60 %",
        ),
        ({"meta": {"alt": "age band <55 (n = 3): 0.5;\n a > b &lt;"}}, "age band <55 (n = 3): 0.5; a > b &lt;"),
        ({"title": {"text": f"A <b>bold</b><br>claim on {ESCAPED}"}}, "A bold claim on <img src=x onerror=alert(1)>"),
        ({"title": {"text": "<span style='color: red'>age</span> <55, and >65"}}, "age <55, and >65"),
        ({"title": "short", "meta": {"alt": ""}}, "short"),
        ({"title": {}}, "without a title"),
    ],
)
def test_alternative_text_is_plain_and_a_title_is_read_as_plotly_shows_it(layout, said):
    assert pages.describe_figure({"layout": layout}) == said
    label = f'aria-label="Figure: {escape(said)}"'
    assert label in pages.draw_figure({"layout": layout})


def test_the_title_of_a_page_is_text():
    assert "<title>&lt;b&gt;A &amp; B</title>" in pages.fill_page(title="<b>A & B", body="")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_the_page_in_either_colour_scheme(chromium_page, tmp_path, scheme):
    table = pages.draw_table(pd.DataFrame({"n": [1]}, index=["a"]), caption="Counts")
    body = f"<p><a href='#x'>link</a></p>{table}"
    page = chromium_page(
        pages.write_page(tmp_path / "p.html", pages.fill_page(title="t", body=body)), color_scheme=scheme
    )
    background = read_color(page, "body", "backgroundColor")
    assert (sum(background) < 100) == (scheme == "dark")
    for part in ("p", "a", "figcaption", "th", "td"):
        assert contrast(read_color(page, part, "color"), background) >= 4.5, part


def read_color(page, part, which):
    found = page.evaluate(f"getComputedStyle(document.querySelector('{part}')).{which}")
    return [int(value) for value in re.findall(r"\d+", found)[:3]]


def contrast(*colors):
    """Return the contrast of two colours as WCAG 2 defines it, 1 to 21."""
    linear = [[v / 3294.6 if v <= 10 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in color] for color in colors]
    low, high = sorted(0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in linear)
    return (high + 0.05) / (low + 0.05)


# tables


def test_a_table_names_its_rows_and_columns_and_escapes_every_value():
    table = pd.DataFrame({"n": [3, 0], "share": [0.123, np.nan], "<b>": [HOSTILE, None]}, index=["A", "<i>"])
    html = pages.draw_table(table.rename_axis("center & more"), caption='"Centers" <x>', decimals=2)
    assert '<th scope="col" class="name">center &amp; more</th>' in html
    assert '<th scope="row" class="name">&lt;i&gt;</th>' in html
    assert '<td class="number">0.12</td>' in html
    assert html.count(">n/a</td>") == 2, "what is not defined is not 0 and not nan"
    assert '<td class="number">0</td>' in html
    assert "<img" not in html and "<b>" not in html and "<x>" not in html


def test_missing_counts_are_not_zero():
    table = pd.DataFrame({"n": pd.array([1, None], dtype="Int64")}, index=["a", "b"])
    assert re.findall(r"<td[^>]*>(.*?)</td>", pages.draw_table(table, caption="c")) == ["1", "n/a"]


def test_a_wide_table_scrolls_by_itself_under_the_keyboard(chromium_page, tmp_path):
    table = pd.DataFrame({f"a long name of column {k}": ["word"] for k in range(12)}, index=["row"])
    body = pages.draw_table(table, caption="Wide")
    page = chromium_page(pages.write_page(tmp_path / "p.html", pages.fill_page(title="t", body=body)), width=400)
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    region = page.get_by_role("region", name="Table: Wide")
    region.focus()
    for _ in range(5):
        region.press("ArrowRight")
    page.until("document.querySelector('.table').scrollLeft > 0")


# files


def test_a_page_is_complete_or_not_there(tmp_path, monkeypatch):
    path = pages.write_page(tmp_path / "new" / "page.html", "first")
    assert (path, path.read_text()) == (tmp_path / "new" / "page.html", "first")
    with pytest.raises(UnicodeEncodeError):
        pages.write_page(path, "second \ud800")
    assert path.read_text() == "first"
    pages.write_page(path, "third")
    assert [file.name for file in path.parent.iterdir()] == ["page.html"]


@pytest.mark.parametrize(
    ("page", "requests"),
    [
        ('<a href="https://doi.org/1">paper</a> <link rel="icon" href="data:,">', []),
        ('<script src="https://cdn.example/require.js"></script>', ["https://cdn.example/require.js"]),
        ('<script src="//cdn.example/require.js"></script>', ["//cdn.example/require.js"]),
        ('<link rel="stylesheet" href="http://example.org/a.css">', ["http://example.org/a.css"]),
        ('<style>@import url("https://example.org/b.css");</style>', ["https://example.org/b.css"]),
        ('<script type="module">import("https://example.org/c.js")</script>', ["https://example.org/c.js"]),
        ('<p style="background: url(https://example.org/d.png)">', ["https://example.org/d.png"]),
        ('<script type="application/json">{"a": "https://example.org"}</script>', []),
        ('<script src="plotly.min.js"></script>', []),
        ('<img src="data:image/png;base64,iVBOR//w0KGgo="><pre>https://example.org</pre>', []),
    ],
)
def test_find_requests_tells_what_a_browser_loads_from_what_it_only_links_to(page, requests):
    assert pages.find_requests(page) == requests
