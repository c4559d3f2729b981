"""What every notebook keeps to, read from the files; and all of them, executed."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from dqc_lib.phantom import Recipe, write_phantoms

FOLDER = Path(__file__).parent.parent / "notebooks"
EXPECTED = [
    "00_start_here",
    "01_meet_the_centers",
    "02_harmful_samples",
    "03_travelling_model",
    "04_quality_control",
    "05_explore_flagged",
    "06_subgroup_fairness",
    "07_choosing_the_rule",
    "08_real_federation",
    "09_harmonize_without_pooling",
    "10_split_by_subject",
    "11_synthetic_patients",
    "12_privacy_proved_and_attacked",
    "your_own_cohort",
]
MOST_MEMORY = {"08_real_federation": 4000}  # MB, of its kernel, server and sites together
OTHERWISE = 2000
FOUND = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
ENDING = ["summary", "exercise", "next"]
every_notebook = pytest.mark.parametrize("name", sorted({*EXPECTED, *FOUND}))


def read(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def read_code(name, tag=None):
    """Returns the sources of the code cells, or of those with `tag`."""
    cells = [cell for cell in read(name).cells if cell.cell_type == "code"]
    return [cell.source for cell in cells if tag is None or tag in cell.metadata.get("tags", [])]


def read_prose(name):
    return [cell.source for cell in read(name).cells if cell.cell_type == "markdown"]


def is_literal(node):
    try:
        ast.literal_eval(node)
    except ValueError:
        return False
    return True


def test_the_expected_notebooks_exist():
    assert set(EXPECTED) <= set(FOUND)


@every_notebook
def test_it_is_valid_and_runs_on_the_kernel_python3(name):
    notebook = read(name)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook.metadata.kernelspec.language == "python"


@every_notebook
def test_it_is_stored_without_outputs(name):
    cells = [cell for cell in read(name).cells if cell.cell_type == "code"]
    assert not [cell.source for cell in cells if cell.outputs or cell.execution_count]
    assert "widgets" not in read(name).metadata


@every_notebook
def test_it_starts_with_a_heading_and_a_question(name):
    first = read(name).cells[0]
    assert first.cell_type == "markdown"
    heading, *rest = first.source.splitlines()
    assert heading.startswith("# ")
    assert "?" in first.source


@every_notebook
def test_it_has_one_parameters_cell_with_literals_only(name):
    cells = read_code(name, "parameters")
    assert len(cells) == 1
    statements = ast.parse(cells[0]).body
    assert statements
    for node in statements:
        assert isinstance(node, ast.Assign), ast.unparse(node)
        assert [type(target) for target in node.targets] == [ast.Name], ast.unparse(node)
        assert is_literal(node.value), ast.unparse(node)


@every_notebook
def test_it_asserts_its_claims(name):
    claims = read_code(name, "claim")
    assert claims
    for source in claims:
        assert any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(source))), source


def is_parameters(name, source):
    return source in read_code(name, "parameters")


@every_notebook
def test_its_code_cells_are_short(name):
    assert not [source for source in read_code(name) if len(source.splitlines()) > 15 + 5 * is_parameters(name, source)]


@every_notebook
def test_it_installs_nothing_and_names_no_place_on_a_machine(name):
    forbidden = re.compile(r"pip3? install|conda install|[\"'`(](?:/(?!/)[\w.]+/|~/|[A-Z]:\\)")
    assert not [source for source in read_code(name) + read_prose(name) if forbidden.search(source)]


@every_notebook
def test_its_prose_needs_no_typesetting(name):
    latex = re.compile(r"\$\$|\\\(|\\\[|\$[^$\n]*\\[a-z]+[^$\n]*\$")
    assert not [source for source in read_prose(name) if latex.search(source)]


@every_notebook
def test_it_ends_with_summary_exercise_and_next(name):
    headings = [line for source in read_prose(name) for line in source.splitlines() if re.match(r"##+ ", line)]
    assert [re.sub(r"\W", "", line.split()[1]).lower() for line in headings[-3:]] == ENDING


@every_notebook
def test_it_holds_a_solution_to_its_exercise(name):
    cells = read(name).cells
    solutions = [number for number, cell in enumerate(cells) if "solution" in cell.metadata.get("tags", [])]
    exercise = next(number for number, cell in enumerate(cells) if re.search(r"^##+ Exercise", cell.source, flags=re.M))
    assert solutions
    assert min(solutions) > exercise


@pytest.fixture(scope="module")
def execution(tmp_path_factory):
    """All notebooks, executed: the folder of the gallery, and what the runner printed."""
    gallery = tmp_path_factory.mktemp("executed") / "gallery"
    command = [sys.executable, str(FOLDER / "execute.py"), "--output", str(gallery), "--timeout", "900"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return gallery, done.stdout


@pytest.mark.tutorial
@pytest.mark.timeout(2700)
def test_every_notebook_runs_and_the_gallery_is_written(execution):
    gallery, said = execution
    rows = [[cell.strip() for cell in line.split("|")] for line in said.splitlines() if line.count("|") == 3]
    assert rows[0] == ["notebook", "seconds", "peak memory MB", "status"]
    costs = {name: (float(seconds), float(peak), status) for name, seconds, peak, status in rows[1:]}
    assert set(EXPECTED) <= set(costs)
    assert {status for _, _, status in costs.values()} == {"ok"}
    assert not [name for name, (_, peak, _) in costs.items() if peak >= MOST_MEMORY.get(name, OTHERWISE)]
    pages = sorted(path.stem for path in gallery.glob("*.html"))
    assert pages == sorted([*costs, "index"])


@pytest.mark.tutorial
@pytest.mark.timeout(2700)
@pytest.mark.parametrize("width", [1400, 400])
@pytest.mark.parametrize("name", ["index", *EXPECTED])
def test_a_page_of_the_gallery_shows_its_figures_and_asks_the_network_for_nothing(
    execution, chromium_page, name, width
):
    page = chromium_page(execution[0] / f"{name}.html", width=width, color_scheme="dark" if width == 400 else "light")
    drawn = "[...document.querySelectorAll('.plotly-figure')].every((box) => box.querySelector('.main-svg'))"
    page.until(drawn, seconds=60)
    figures = page.locator(".plotly-figure:not(.thumbnail)")
    labels = figures.evaluate_all("boxes => boxes.map((box) => box.getAttribute('aria-label'))")
    assert all(label.startswith("Figure: ") and len(label) > 40 for label in labels), "every figure is told in words"
    if name == "index":
        assert page.locator(".cards li").count() == len(EXPECTED)
        assert page.locator(".cards .picture").count() == len(EXPECTED)
    else:
        copy = nbformat.read(execution[0].parent / "notebooks" / f"{name}.ipynb", as_version=4)
        outputs = [output for cell in copy.cells for output in cell.get("outputs", [])]
        stored = ["application/vnd.plotly.v1+json" in output.get("data", {}) for output in outputs]
        assert len(labels) == sum(stored) > 0
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing sticks out sideways"
    controls = page.locator(".plotly-figure select, .plotly-figure input")
    for number in range(controls.count()):
        controls.nth(number).focus()
        assert controls.nth(number).evaluate("(control) => control === document.activeElement")
    assert not page.seen.errors
    assert all(url.startswith(("file:", "data:", "blob:")) for url in page.seen.requests), page.seen.requests


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("parameter", "said"),
    [
        (
            "data={folder}",
            "FileNotFoundError: {folder}/participants.tsv: no such file; expected a table with the columns",
        ),
        ("data={folder}/none", "FileNotFoundError: {folder}/none: no such file or folder; expected a BIDS folder"),
        ("subgroups=['hospital']", "KeyError: \"missing columns ['hospital']; the table has"),
        (
            "rule=strict",
            "ValueError: rule must be a rule or one of ('calibrated', 'guaranteed', 'published'), got 'strict'",
        ),
        ("trusted_centers=['nowhere']", "ValueError: no row has center 'nowhere'; expected among 'center-01', "),
    ],
)
def test_a_mistake_in_your_own_cohort_ends_in_one_clear_error(tmp_path, parameter, said):
    folder = tmp_path / "cohort"
    folder.mkdir()
    command = [sys.executable, str(FOLDER / "execute.py"), "your_own_cohort", "--output", str(tmp_path / "gallery")]
    command += ["-p", parameter.format(folder=folder), "-p", f"build={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert said.format(folder=folder) in done.stderr
    copy = nbformat.read(tmp_path / "notebooks" / "your_own_cohort.ipynb", as_version=4)
    outputs = [output for cell in copy.cells for output in cell.get("outputs", []) if output.output_type == "error"]
    shown = "\n".join(line for output in outputs for line in output.traceback)
    assert said.format(folder=folder) in re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert "Traceback" not in shown and "dqc_lib" not in shown, "no stack of notebook internals"


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """A cohort of 24 small phantoms as a BIDS folder, and as a published table with numbers for the sex."""
    folder = tmp_path_factory.mktemp("foreign") / "bids"
    sites, recipe = [(5, 5), (4, 4), (3, 3)], Recipe(shape=(16, 16, 16))
    table = write_phantoms(folder, sites=sites, recipe=recipe, progress=False).table
    published = {"Subject": table["subject"], "Study": table["center"], "Path": table["path"]}
    published |= {"Group_bin": table["diagnosis"], "Sex": table["sex"].map({"F": 0, "M": 1}), "Age": table["age"]}
    pd.DataFrame(published).to_csv(folder.parent / "published.csv", index=False)
    return folder.parent


@pytest.mark.tutorial
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("data", "more"),
    [
        (
            "bids",
            [
                "rule=published",
                "trusted_centers=['center-01', 'center-02']",
                "subgroups=['sex', ('sex', 'age_band'), 'scanner']",
            ],
        ),
        ("published.csv", ["screen=True", "sex_codes={'0': 'F', '1': 'M'}", "subgroups=['sex']", "most_images=0"]),
    ],
)
def test_your_own_cohort_takes_other_cohorts_by_its_parameters_alone(foreign, tmp_path, data, more):
    command = [sys.executable, str(FOLDER / "execute.py"), "your_own_cohort", "--output", str(tmp_path / "gallery")]
    short = ["warm_cycles=1", "calm_cycles=1", "control_cycles=2", "seed=1"]
    for parameter in (f"data={foreign / data}", f"build={tmp_path}", *short, *more):
        command += ["-p", parameter]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "24 subjects of 3 centers" in page
    assert f"the {'published' if data == 'bids' else 'calibrated'} rule" in page
    assert ("vendor A" in page) == (data == "bids"), "a published table knows no scanners"
    assert str(foreign) not in page
