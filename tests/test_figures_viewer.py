"""Slices and the viewer: which voxels and which place each step shows, by hand, and in a real browser."""

import json
import re

import numpy as np
import pytest

from dqc_lib import figures, pages
from dqc_lib.figures.images import cut_slice, draw_cursor

HOSTILE = "<img src=x onerror=alert(1)>"
SHOWN = "&lt;img src=x onerror=alert(1)&gt;"
PLOT = "document.querySelector('.js-plotly-plot')"
SIDE, UP, FORTH = np.meshgrid(range(3), range(2), range(4), indexing="ij")
CODED = (100 * SIDE + UP + 10 * FORTH).transpose(0, 2, 1).astype(np.uint8)  # voxel (i, j, k) is 100 i + 10 j + k
CODED_AT = {"v": (CODED, (1.0, 2.0, 5.0))}
TWO = {"one": (CODED, (1.0, 2.0, 5.0)), "two": (255 - CODED, (2.0, 1.0, 1.0))}
PLANES = ["axial", "coronal", "sagittal"]


def get_slider(figure, plane):
    """Return the slider of a plane as plain values."""
    found = [slider for slider in figure.to_plotly_json()["layout"]["sliders"] if slider["name"] == f"{plane} slice"]
    assert len(found) == 1
    return found[0]


# Slices


@pytest.mark.parametrize(
    ("plane", "share", "pixels"),
    [
        ("axial", 0.5, [[0, 100, 200], [10, 110, 210], [20, 120, 220], [30, 130, 230]]),  # of two voxels the lower
        ("axial", 0.51, [[1, 101, 201], [11, 111, 211], [21, 121, 221], [31, 131, 231]]),
        ("coronal", 0.0, [[0, 100, 200], [1, 101, 201]]),
        ("coronal", 0.5, [[20, 120, 220], [21, 121, 221]]),  # of four voxels the third
        ("coronal", 1.0, [[30, 130, 230], [31, 131, 231]]),
        ("sagittal", 0.5, [[100, 110, 120, 130], [101, 111, 121, 131]]),  # of three voxels the second
    ],
)
def test_a_slice_holds_the_voxels_nearest_to_the_place_rows_from_the_bottom_up(plane, share, pixels):
    assert cut_slice(CODED, plane=plane, share=share).tolist() == pixels


def test_cursor_lines_cross_in_the_middle_of_the_voxel_shown_in_mm():
    lines = draw_cursor(CODED_AT, planes=PLANES, position=(1, 0, 0.5), in_rows=True)
    right, back, bottom = 1.0, -3.0, -2.5  # voxels 2 of 3 at 1 mm, 0 of 4 at 2 mm, 0 of 2 at 5 mm
    upright = [(line["xref"], line["yref"], line["x0"], line["x1"]) for line in lines[::2]]
    level = [(line["xref"], line["yref"], line["y0"], line["y1"]) for line in lines[1::2]]
    assert upright == [
        ("x", "y domain", right, right),
        ("x2", "y2 domain", right, right),
        ("x3", "y3 domain", back, back),
    ]
    assert level == [
        ("x domain", "y", back, back),
        ("x2 domain", "y2", bottom, bottom),
        ("x3 domain", "y3", bottom, bottom),
    ]
    assert {(line["y0"], line["y1"]) for line in lines[::2]} == {(0, 1)}, "from edge to edge"


def test_the_cursor_follows_each_volumes_own_voxels_in_columns_too():
    coarse = {"fine": (np.zeros((5, 5, 5)), (1, 1, 1)), "coarse": (np.zeros((2, 2, 2)), (3, 3, 3))}
    lines = draw_cursor(coarse, planes=["axial", "coronal"], position=(0.75, 0.5, 0.5), in_rows=False)
    places = [(line["xref"], line["x0"]) for line in lines[::2]]
    # columns: x and x3 are the first volume's, at voxel 3 of 0 to 4; the other's voxel 1 of 0 to 1
    assert places == [("x", 1.0), ("x3", 1.0), ("x2", 1.5), ("x4", 1.5)]


def test_slices_have_a_cursor_only_if_asked_for():
    assert len(figures.draw_slices(CODED_AT, title="t", cursor=True).layout.shapes) == 6
    assert not figures.draw_slices(CODED_AT, title="t").layout.shapes


def test_in_rows_each_volume_has_a_row_of_planes_under_its_label():
    figure = figures.draw_slices(TWO, title="t", in_rows=True)
    assert [np.shape(trace.z) for trace in figure.data] == [(4, 3), (2, 3), (2, 4)] * 2
    assert [trace.yaxis for trace in figure.data] == ["y", "y2", "y3", "y4", "y5", "y6"]
    first, second = figure.get_subplot(1, 1).yaxis.domain, figure.get_subplot(2, 1).yaxis.domain
    assert first[0] > second[1]
    headings = [(mark.text, mark.xref, mark.x, mark.xanchor) for mark in figure.layout.annotations if mark.yanchor]
    assert headings == [("one", "x domain", 0, "left"), ("two", "x4 domain", 0, "left")]
    assert {axis.constraintoward for axis in figure.select_yaxes()} == {"top"}, "right below the headings"


def test_long_labels_above_narrow_columns_are_broken_between_words():
    volumes = {f"center-0{at}, vendor A": (CODED, (1, 1, 1)) for at in range(1, 4)}
    figure = figures.draw_slices(volumes, title="t", planes=["axial"])
    assert [mark.text for mark in figure.layout.annotations if mark.yanchor] == [
        f"center-0{at},<br>vendor A" for at in range(1, 4)
    ]


def test_a_figure_of_slices_says_how_much_of_it_shrinks_with_the_width():
    volume = np.zeros((100, 50, 25))
    layout = figures.draw_slices({"v": (volume, (2, 2, 2))}, title="t", planes=["axial"]).layout
    assert layout.meta["scaled"] == {"width": 320, "height": 160}  # 200 and 100 mm at 1.6 pixels each
    assert layout.height - layout.margin.t - layout.margin.b == 160


# The viewer


def test_a_slider_has_a_step_for_every_slice_and_starts_at_the_one_shown():
    figure = figures.draw_viewer(CODED_AT, title="t")
    assert [slider.name for slider in figure.layout.sliders] == ["sagittal slice", "coronal slice", "axial slice"]
    assert [len(slider.steps) for slider in figure.layout.sliders] == [3, 4, 2]
    assert [slider.active for slider in figure.layout.sliders] == [1, 2, 0]
    for plane, trace in zip(PLANES, figure.data, strict=True):
        slider = get_slider(figure, plane)
        assert slider["steps"][slider["active"]]["args"][0]["z"][0] == trace.z.tolist()
    assert [step.label for step in figure.layout.sliders[1].steps] == ["1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("plane", "step", "shown", "traces", "moves"),
    [
        (
            "coronal",
            3,
            [[30, 130, 230], [31, 131, 231]],
            [1, 4],  # the second of three slices in either row
            # the level line of the axial and the upright line of the sagittal slice; 4 voxels of 2 mm, then of 1 mm
            {"shapes[1].y": 3.0, "shapes[4].x": 3.0, "shapes[7].y": 1.5, "shapes[10].x": 1.5},
        ),
        (
            "sagittal",
            0,
            [[0, 10, 20, 30], [1, 11, 21, 31]],
            [2, 5],
            {"shapes[0].x": -1.0, "shapes[2].x": -1.0, "shapes[6].x": -2.0, "shapes[8].x": -2.0},
        ),
        (
            "axial",
            1,
            [[1, 101, 201], [11, 111, 211], [21, 121, 221], [31, 131, 231]],
            [0, 3],
            {"shapes[3].y": 2.5, "shapes[5].y": 2.5, "shapes[9].y": 0.5, "shapes[11].y": 0.5},
        ),
    ],
)
def test_a_step_shows_its_slice_in_every_volume_and_moves_the_lines_across_its_axis(plane, step, shown, traces, moves):
    update = get_slider(figures.draw_viewer(TWO, title="t", position=(0.2, 0.9, 0.1)), plane)["steps"][step]
    pixels, lines, where = update["args"]
    assert update["method"] == "update"
    assert pixels == {"z": [shown, (255 - np.array(shown)).tolist()]}
    assert where == traces
    assert lines == {f"{line}{end}": place for line, place in moves.items() for end in (0, 1)}


def test_a_viewer_starts_where_the_caller_says():
    figure = figures.draw_viewer(CODED_AT, title="t", position=(1, 0, 1))
    assert [slider.active for slider in figure.layout.sliders] == [2, 0, 1]
    assert figure.data[0].z.tolist() == [[1, 101, 201], [11, 111, 211], [21, 121, 221], [31, 131, 231]]
    assert (figure.layout.shapes[0].x0, figure.layout.shapes[1].y0) == (1.0, -3.0)


def test_steps_hold_no_more_digits_than_greys_can_show():
    figure = figures.draw_viewer({"v": (np.full((1, 1, 1), 1234.5678), (1, 1, 1))}, title="t")
    assert get_slider(figure, "axial")["steps"][0]["args"][0] == {"z": [[[1235.0]]]}


@pytest.mark.parametrize(
    ("values", "windows"),
    [
        (range(101), [(0, 100), (1, 99), (0, 50), (50, 100)]),
        (range(-50, 51), [(-50, 50), (-49, 49), (-50, 0), (0, 50)]),
        (range(100, 201), [(0, 200), (101, 199), (0, 100), (100, 200)]),  # black is 0, as in the slices at first
        ([0] * 101, [(0, 1e-9)] * 4),  # never a white that is no brighter than black
    ],
)
def test_greys_are_the_full_range_percentiles_or_half_of_it(values, windows):
    volume = np.array(values, dtype=float).reshape(1, 1, 101)
    figure = figures.draw_viewer({"v": (volume, (1, 1, 1))}, title="t")
    buttons = figure.to_plotly_json()["layout"]["updatemenus"][0]["buttons"]
    assert [button["label"].removeprefix("greys: ") for button in buttons] == [
        *["full range", "1st to 99th percentile", "lower half, bright", "upper half, dark"]
    ]
    assert {button["method"] for button in buttons} == {"relayout"}
    found = [(button["args"][0]["coloraxis.cmin"], button["args"][0]["coloraxis.cmax"]) for button in buttons]
    assert found == [pytest.approx(window) for window in windows]


@pytest.mark.parametrize("shape", [(2, 2, 2), (2, 5, 4), (1, 1, 1), (1, 6, 2)])
def test_thin_volumes_can_be_leafed_through(shape):
    volume = np.arange(np.prod(shape), dtype=float).reshape(shape)
    figure = figures.draw_viewer({"v": (volume, (1, 1, 1))}, title="t")
    for axis, plane in enumerate(("sagittal", "coronal", "axial")):
        steps = get_slider(figure, plane)["steps"]
        assert len(steps) == shape[axis]
        for index, step in enumerate(steps):
            assert step["args"][0]["z"][0] == np.take(volume, index, axis=axis).T.tolist()
    middle = (np.array([round(0.5 * (length - 1)) for length in shape]) - (np.array(shape) - 1) / 2).tolist()
    assert [figure.layout.shapes[0].x0, figure.layout.shapes[1].y0, figure.layout.shapes[3].y0] == middle


@pytest.mark.parametrize(
    ("volumes", "said"),
    [
        ({f"v{at}": TWO["one"] for at in range(5)}, r"at most four volumes of one shape; came \{'v0'"),
        ({"a": TWO["one"], "b": (CODED[:2], (1, 1, 1))}, r"one shape; came \{'a': \(3, 4, 2\), 'b': \(2, 4, 2\)\}"),
        ({}, "at least one volume"),
        ({"flat": (CODED[0], (1, 1, 1))}, "volume 'flat': shape"),
    ],
)
def test_the_viewer_refuses_what_its_sliders_cannot_move_through(volumes, said):
    with pytest.raises(ValueError, match=said):
        figures.draw_viewer(volumes, title="t")


def test_four_volumes_are_not_too_many():
    assert len(figures.draw_viewer({f"v{at}": TWO["one"] for at in range(4)}, title="t").data) == 12


def test_the_alternative_text_of_the_viewer_names_planes_and_volumes():
    alt = figures.draw_viewer(TWO, title="Bright where the neighbour is dark").layout.meta["alt"]
    assert alt == (
        "Bright where the neighbour is dark. "
        "Axial, coronal, sagittal slices of one, two, left of the subject on the left."
    )


@pytest.mark.parametrize("labels", [[HOSTILE], [HOSTILE, "other"]])
def test_labels_of_the_viewer_are_text(labels):
    figure = figures.draw_viewer(dict.fromkeys(labels, TWO["one"]), title=HOSTILE)
    texts = [mark.text for mark in figure.layout.annotations] + [figure.layout.title.subtitle.text, get_title(figure)]
    assert not [text for text in texts if text and re.search(r"<(?!br>)", text)]
    assert len([text for text in texts if text == SHOWN]) == 2, "the title, and the heading or the subtitle"


def get_title(figure):
    return figure.layout.title.text


# In a browser


@pytest.fixture
def open_figure(chromium_page, tmp_path):
    """A function that opens a figure in a page as the gallery and the report have them."""

    def open_page(figure, **options):
        content = json.loads(figure.to_json())
        page = pages.fill_page(title="t", body=f"<h1>t</h1>{pages.draw_figure(content)}")
        opened = chromium_page(pages.write_page(tmp_path / "page.html", page), **options)
        opened.until(f"!!{PLOT}?._fullLayout && {PLOT}.querySelectorAll('.heatmaplayer image').length > 0")
        if content["layout"].get("sliders"):
            opened.until("document.querySelectorAll('.controls').length === 1")
        return opened

    return open_page


READ_GREYS = """async ([number, rows, columns]) => {
  const drawn = document.querySelectorAll('.js-plotly-plot .heatmaplayer image')[number];
  const image = Object.assign(new Image(), { src: drawn.getAttribute('href') ?? drawn.getAttribute('xlink:href') });
  await image.decode();
  const canvas = Object.assign(document.createElement('canvas'), { width: image.width, height: image.height });
  const pen = canvas.getContext('2d');
  pen.drawImage(image, 0, 0);
  const read = (row, column) => pen.getImageData(
    Math.floor((column + 0.5) / columns * image.width), Math.floor((rows - row - 0.5) / rows * image.height), 1, 1);
  return [...Array(rows).keys()].map((row) => [...Array(columns).keys()].map((column) => read(row, column).data[0]));
}"""


def read_greys(page, number, *, shape):
    """Return the greys (0 to 255) that are painted for each voxel of a slice, rows from the bottom up."""
    return page.evaluate(READ_GREYS, [number, *shape])


def test_the_axial_slider_moves_pixels_and_cursor_under_the_keyboard(open_figure):
    page = open_figure(figures.draw_viewer({"v": (CODED, (10, 20, 50))}, title="t"))
    slider = page.get_by_role("slider", name="axial slice, bottom to top", exact=True)
    assert (slider.get_attribute("max"), slider.get_attribute("aria-valuetext")) == ("1", "1")
    read_lines = f"{PLOT}._fullLayout.shapes.map(s => [s.x0, s.x1, s.y0, s.y1])"
    # voxel 1 of 3 at 10 mm, 2 of 4 at 20 mm, 0 of 2 at 50 mm
    before = [[0, 0, 0, 1], [0, 1, 10, 10], [0, 0, 0, 1], [0, 1, -25, -25], [10, 10, 0, 1], [0, 1, -25, -25]]
    assert page.evaluate(read_lines) == before
    at_bottom = read_greys(page, 0, shape=(4, 3))
    slider.press("ArrowRight")
    page.until(f"{PLOT}.calcdata[0][0].z[0][0] === 1")
    page.until(f"{PLOT}._fullLayout.shapes[3].y0 === 25")
    assert slider.get_attribute("aria-valuetext") == "2"
    after = [[0, 0, 0, 1], [0, 1, 10, 10], [0, 0, 0, 1], [0, 1, 25, 25], [10, 10, 0, 1], [0, 1, 25, 25]]
    assert page.evaluate(read_lines) == after
    painted = np.array(read_greys(page, 0, shape=(4, 3)))
    # black is 0 and white 231, the brightest voxel
    values = np.array([[1, 101, 201], [11, 111, 211], [21, 121, 221], [31, 131, 231]])
    assert np.abs(painted - 255 * values / 231).max() <= 1.5
    assert (painted > at_bottom).all()
    assert page.evaluate(f"{PLOT}.calcdata[1][0].z.map(row => Array.from(row))") == [[20, 120, 220], [21, 121, 221]]
    slider.press("ArrowLeft")
    page.until(f"{PLOT}._fullLayout.shapes[3].y0 === -25")
    assert read_greys(page, 0, shape=(4, 3)) == at_bottom
    assert page.seen.errors == []


def test_other_greys_are_painted_when_chosen(open_figure):
    page = open_figure(figures.draw_viewer({"v": (CODED, (10, 20, 50))}, title="t"))
    page.get_by_role("combobox", name="greys").select_option("greys: lower half, bright")
    page.until(f"{PLOT}._fullLayout.coloraxis.cmax === 115.5")
    painted = np.array(read_greys(page, 0, shape=(4, 3)))
    values = np.array([[0, 100, 200], [10, 110, 210], [20, 120, 220], [30, 130, 230]])
    assert np.abs(painted - np.minimum(255 * values / 115.5, 255)).max() <= 1.5


BRAIN = (np.tile(np.arange(40.0)[:, None, None], (1, 48, 40)), (4.0, 4.0, 4.0))
FIND_BOXES = f"""(() => {{
  const [page, ...images] = [{PLOT}, ...{PLOT}.querySelectorAll('.heatmaplayer image')];
  return [page, ...images].map((part) => part.getBoundingClientRect()).map((b) => [b.left, b.top, b.right, b.bottom]);
}})()"""
# six slices lie inside the figure; below a row there is room for a heading of 17 pixels or the margin, and no more
SETTLED = f"""(() => {{
  const [frame, ...boxes] = {FIND_BOXES};
  return innerWidth - frame[2] < 250 && boxes.length === 6
    && boxes.every((box) => box[0] >= frame[0] && box[2] <= frame[2])
    && boxes[3][1] - boxes[0][3] >= 17 && boxes[3][1] - boxes[0][3] < 40
    && frame[3] - boxes[3][3] >= 0 && frame[3] - boxes[3][3] < 40;
}})()"""
IN_ROWS = {"sub-0001 (eliminated)": BRAIN, "the usual image": BRAIN}
PHONE, DESK = 400, 1400


@pytest.mark.parametrize("draw", [figures.draw_slices, figures.draw_viewer], ids=["slices", "viewer"])
@pytest.mark.parametrize("widths", [(PHONE, DESK), (DESK, PHONE)], ids=["opened", "closed"])
def test_slices_leave_no_gap_on_a_narrow_screen_nor_when_its_width_changes(open_figure, draw, widths):
    options = {"in_rows": True} if draw is figures.draw_slices else {}
    page = open_figure(draw(IN_ROWS, title="t", **options), width=widths[0])
    for width in widths:
        page.set_viewport_size({"width": width, "height": 800})
        page.until(SETTLED)
        images = page.evaluate(FIND_BOXES)[1:]
        across, up = images[0][2] - images[0][0], images[0][3] - images[0][1]
        assert up / across == pytest.approx(48 / 40, abs=0.03), "a millimetre is as long across as up"
        assert images[0][1] == pytest.approx(images[1][1], abs=1), "slices of a row hang from one line"
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_large_volume_is_thinned_evenly_and_keeps_its_proportions():
    array = np.arange(100 * 130 * 20, dtype=np.int32).reshape(100, 130, 20)
    figure = figures.draw_viewer({"large": (array, (1.0, 2.0, 3.0))}, title="t")  # 130 voxels: every third of each axis
    axial = figure.data[0]
    np.testing.assert_array_equal(axial.z, array[::3, ::3, ::3][:, :, 3].T)  # 7 slices are left, the middle one is 3
    assert (axial.dx, axial.dy) == (3.0, 6.0)
    assert [len(slider.steps) for slider in figure.layout.sliders] == [34, 44, 7]


def test_a_volume_of_64_voxels_is_drawn_whole():
    array = np.arange(64 * 3 * 3, dtype=np.int32).reshape(64, 3, 3)
    figure = figures.draw_viewer({"v": (array, (1.0, 1.0, 1.0))}, title="t")
    assert len(figure.layout.sliders[0].steps) == 64
    assert figure.data[0].dx == 1.0
