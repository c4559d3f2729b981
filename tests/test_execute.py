"""Tests of the notebook runner and its gallery, on tiny notebooks."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import execute
import gallery
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from dqc_lib.pages import draw_figure, find_requests

RUNNER = Path(execute.__file__)
FIGURE = """import plotly.graph_objects as go
go.Figure(go.Bar(x=["a"], y=[2]), layout_title="Center <b>a</b> has 2 & more")"""


def tagged(source, tag):
    return new_code_cell(source, metadata={"tags": [tag]})


def write_notebook(folder, name, cells):
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path = folder / f"{name}.ipynb"
    nbformat.write(new_notebook(cells=cells, metadata=kernel), path)
    return path


def run(folder, *arguments, **environment):
    command = [sys.executable, str(RUNNER), "--folder", str(folder), "--output", str(folder / "build" / "gallery")]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, env=os.environ | environment)


def read_outputs(folder, name):
    cells = nbformat.read(folder / "build" / "notebooks" / f"{name}.ipynb", as_version=4).cells
    return [output for cell in cells for output in cell.get("outputs", [])]


def read_table(done):
    """Returns the printed table as rows of cells, without the rule under its header."""
    rows = [line.split("|") for line in done.stdout.split("\n\n")[1].splitlines()]
    return [[cell.strip() for cell in row] for row in rows if len(row) > 1]


@pytest.fixture(scope="module")
def tour(tmp_path_factory):
    """Two notebooks, executed with another seed on a machine where `python3` names a kernel that does not work."""
    folder = tmp_path_factory.mktemp("tour")
    look = "import os, sys\nprint(seed, sys.executable, os.getcwd())"
    solved = tagged("print('solved')", "solution")
    live = "from tqdm.notebook import tqdm\nfor _ in tqdm(range(3), desc='cycles'):\n    pass"
    question = "# Where to start\n\nWhat is a *center*?\n\nMore [next](01_b.ipynb), [data](../data.tsv)."
    first = [new_markdown_cell(question)]
    first += [tagged("seed = 0\nrate = 0.5", "parameters"), new_code_cell(look), new_code_cell(FIGURE), solved]
    first += [new_code_cell(live), new_code_cell("import pandas as pd\npd.DataFrame({'n': [12345]})")]
    write_notebook(folder, "00_a", first)
    memory = "import time\nblock = bytearray(400_000_000)\ntime.sleep(0.1)"
    second = [new_markdown_cell("# Next"), tagged("seed = 1", "parameters"), new_code_cell(memory)]
    write_notebook(folder, "01_b", second)
    kernel = folder / "other" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    broken = {"argv": ["/bin/false"], "display_name": "broken", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(broken))
    return folder, run(folder, "-p", "seed=7", JUPYTER_PATH=str(folder / "other"))


def test_a_good_run_ends_with_status_0_and_a_row_per_notebook(tour):
    _, done = tour
    assert done.returncode == 0, done.stderr
    header, *rows = read_table(done)
    assert header == ["notebook", "seconds", "peak memory MB", "status"]
    assert [(row[0], row[3]) for row in rows] == [("00_a", "ok"), ("01_b", "ok")]


def test_peak_memory_is_measured_per_notebook(tour):
    folder, _ = tour
    with (folder / "build" / "gallery" / "timings.csv").open() as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["00_a", "01_b"]
    assert 400 < float(rows["01_b"]["peak_mb"]) < 700
    assert 30 < float(rows["00_a"]["peak_mb"]) < 400
    assert float(rows["01_b"]["seconds"]) > 0.1


def test_memory_of_a_kernel_and_of_what_it_starts_is_added_up(tmp_path):
    hold = "block = bytearray(200_000_000); print(flush=True); input()"
    cells = [new_markdown_cell("# A"), tagged("seed = 1", "parameters")]
    start = f"import subprocess, sys, time\ncommand = [sys.executable, '-c', '{hold}']\n"
    start += "pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE}\n"
    start += "running = [subprocess.Popen(command, **pipes) for _ in range(3)]\n"
    start += "for process in running:\n    process.stdout.readline()\n"
    start += f"time.sleep({4 * execute.LOOK_EVERY})  # several looks\n"
    start += "for process in running:\n    process.communicate(b'\\n')"
    write_notebook(tmp_path, "00_a", [*cells, new_code_cell(start)])
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    assert 600 < float(read_table(done)[1][2]) < 1000


README = """# Name

| notebook | question | seconds | peak memory MB |
|---|---|---:|---:|
| [00_a](notebooks/00_a.ipynb) | How many? | 9 | 8 |
| [b](notebooks/01_b.ipynb) | Which | | |

Begin with [00_a](notebooks/00_a.ipynb).
"""


@pytest.fixture
def documented(tmp_path):
    """A folder of two notebooks, and the README above it."""
    folder, readme = tmp_path / "notebooks", tmp_path / "README.md"
    folder.mkdir()
    for name in ("00_a", "01_b"):
        write_notebook(folder, name, [new_markdown_cell("# A"), tagged("seed = 1", "parameters")])
    readme.write_text(README)
    return folder, readme


def test_the_table_of_the_readme_comes_from_a_run_of_all_notebooks(documented):
    folder, readme = documented
    done = run(folder, "--readme")
    assert done.returncode == 0, done.stderr
    written = re.findall(r"\| (\d+) \| (\d+) \|\n", readme.read_text())
    for cells, printed in zip(written, read_table(done)[1:], strict=True):
        assert [int(cell) for cell in cells] == pytest.approx([float(cell) for cell in printed[1:3]], abs=0.55)
    first, second = (" | ".join(cells) for cells in written)
    assert readme.read_text() == README.replace("9 | 8", first).replace("Which | | |", f"Which | {second} |")


def test_a_readme_that_lacks_a_notebook_or_names_another_is_a_problem(documented):
    folder, readme = documented
    (folder / "01_b.ipynb").rename(folder / "02_c.ipynb")
    done = run(folder, "--readme")
    assert done.returncode == 1
    assert "error: README.md has no row for 02_c.ipynb" in done.stderr
    assert "error: README.md has a row for 01_b.ipynb, which is not there" in done.stderr
    assert "| [b](notebooks/01_b.ipynb) | Which | | |" in readme.read_text()


@pytest.mark.parametrize("choice", [("01",), ("-p", "seed=2")])
def test_no_part_of_the_notebooks_and_no_other_parameters_go_into_the_readme(choice, documented):
    folder, readme = documented
    done = run(folder, "--readme", *choice)
    assert done.returncode == 1
    assert done.stderr == "error: --readme is for all notebooks as they are; expected no names and no -p\n"
    assert readme.read_text() == README


def test_the_kernel_is_this_interpreter_in_the_folder_of_the_notebooks_with_the_given_parameter(tour):
    folder, _ = tour
    printed = read_outputs(folder, "00_a")[0].text.split()
    assert printed == ["7", sys.executable, str(folder)]


def test_every_page_opens_without_a_network(tour):
    folder, _ = tour
    pages = sorted((folder / "build" / "gallery").glob("*.html"))
    assert [page.name for page in pages] == ["00_a.html", "01_b.html", "index.html"]
    assert [find_requests(page.read_text()) for page in pages] == [[], [], []]
    assert "https://cdn" not in pages[0].read_text()
    assert (folder / "build" / "gallery" / "plotly.min.js").stat().st_size > 1_000_000


def test_a_figure_is_drawn_from_data_with_its_title_as_alternative_text(tour):
    folder, _ = tour
    page = (folder / "build" / "gallery" / "00_a.html").read_text()
    assert 'aria-label="Figure: Center a has 2 &amp; more"' in page
    assert page.count("plotly.min.js") == 1
    assert "showSendToCloud: false" in page
    data = json.loads(page.split('<script type="application/json">')[1].split("</script>")[0])["data"]
    assert data[0]["type"] == "bar"


def test_solutions_are_folded_links_point_to_pages_and_progress_bars_end_as_text(tour):
    folder, _ = tour
    page = (folder / "build" / "gallery" / "00_a.html").read_text()
    assert page.index("<details") < page.index("solved") < page.index("</details>")
    assert 'href="01_b.html"' in page
    assert 'href="../../../data.tsv"' in page
    assert "3/3" in page
    assert "<td>12345</td>" in page


def test_the_index_gives_title_question_picture_and_cost(tour):
    folder, _ = tour
    index = (folder / "build" / "gallery" / "index.html").read_text()
    assert '<a href="00_a.html">Where to start</a>' in index
    assert "<p>What is a center?</p>" in index
    assert index.count('class="plotly-figure thumbnail"') == 1
    assert index.count(" MB</p>") == 2


def test_an_error_stops_the_run_with_a_short_report(tmp_path):
    cells = [new_markdown_cell("# Break"), new_code_cell("1 + 1"), new_code_cell("n = 0\n1 / n")]
    write_notebook(tmp_path, "00_a", cells)
    write_notebook(tmp_path, "01_b", [new_markdown_cell("# Never")])
    done = run(tmp_path)
    assert done.returncode == 1
    assert done.stderr == "\nerror: 00_a.ipynb, cell 3: ZeroDivisionError: division by zero\n    1 / n\n"
    assert [row[3] for row in read_table(done)[1:]] == ["failed", "not run"]
    page = (tmp_path / "build" / "gallery" / "00_a.html").read_text()
    assert "ZeroDivisionError" in page
    assert "Failed" in (tmp_path / "build" / "gallery" / "index.html").read_text()


@pytest.mark.parametrize(
    ("claim", "report"),
    [
        ("harm = 0.2\nassert harm < 0.1, 'harm is 0.2\\nsecond line'", "claim failed: harm is 0.2"),
        ("assert 1 > 2", "claim failed: assert 1 > 2"),
    ],
)
def test_a_claim_that_does_not_hold_is_called_a_failed_claim(claim, report, tmp_path):
    write_notebook(tmp_path, "00_a", [tagged("seed = 0", "parameters"), tagged(claim, "claim")])
    done = run(tmp_path, "-p", "seed=3")
    assert done.returncode == 1
    assert done.stderr.startswith(f"\nerror: 00_a.ipynb, cell 2: {report}\n")


def test_a_notebook_that_takes_too_long_is_stopped(tmp_path):
    write_notebook(tmp_path, "00_a", [new_code_cell("import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(60)")])
    done = run(tmp_path, "--timeout", "4")
    assert done.returncode == 1
    assert "00_a.ipynb, cell 1: out of time after 4 s" in done.stderr
    kernel = int(read_outputs(tmp_path, "00_a")[0].text)
    assert not Path(f"/proc/{kernel}").exists()


def test_a_kernel_that_dies_is_reported(tmp_path):
    write_notebook(tmp_path, "00_a", [new_code_cell("import os\nos._exit(1)")])
    done = run(tmp_path)
    assert done.returncode == 1
    assert "00_a.ipynb, cell 1: DeadKernelError" in done.stderr


def test_an_unknown_parameter_is_refused_before_anything_runs(tmp_path, capsys):
    write_notebook(tmp_path, "00_a", [tagged("cycles = 3\nseed = 0", "parameters")])
    assert execute.main(["--folder", str(tmp_path), "--output", str(tmp_path / "gallery"), "-p", "cycle=4"]) == 1
    said = capsys.readouterr().err
    assert said == (
        "error: 00_a.ipynb has no parameter 'cycle'. Did you mean 'cycles'? Known parameters: cycles, seed\n"
    )
    assert not (tmp_path / "gallery").exists()


def test_a_parameter_has_the_type_of_its_default(tmp_path):
    source = "cycles = 3\nrate = 0.1\ncohort = 'sample'\nharm = None\nquick = True\ncenters = ['a']"
    path = write_notebook(tmp_path, "00_a", [tagged(source, "parameters")])
    given = ["cycles=4", "rate=1", "cohort=12", "harm='blank'", "quick=False", "centers=['b', 'c']"]
    values = {"cycles": 4, "rate": 1.0, "cohort": "12", "harm": "blank", "quick": False, "centers": ["b", "c"]}
    assert execute.check_parameters(given, notebooks=[path]) == {path: values}
    with pytest.raises(ValueError, match="00_a.ipynb, parameter 'cycles': expected int like 3, came 'three'"):
        execute.check_parameters(["cycles=three"], notebooks=[path])
    with pytest.raises(ValueError, match="expected -p name=value, came -p cycles"):
        execute.check_parameters(["cycles"], notebooks=[path])


def test_a_parameters_cell_that_computes_is_refused(tmp_path):
    path = write_notebook(tmp_path, "00_a", [tagged("cycles = 1 + len('ab')", "parameters")])
    with pytest.raises(ValueError, match="00_a.ipynb: expected only `name = literal`"):
        execute.check_parameters(["cycles=2"], notebooks=[path])


def test_notebooks_are_chosen_by_whole_or_shortened_name_in_reading_order(tmp_path):
    for name in ("01_meet", "00_start", "your_own_cohort", "draft"):
        write_notebook(tmp_path, name, [])
    assert [p.stem for p in execute.select_notebooks([], folder=tmp_path)] == ["00_start", "01_meet", "your_own_cohort"]
    chosen = execute.select_notebooks(["your", "notebooks/00_start.ipynb"], folder=tmp_path)
    assert [path.stem for path in chosen] == ["00_start", "your_own_cohort"]
    with pytest.raises(ValueError, match="'0', which fits 2 of: 00_start, 01_meet, your_own_cohort"):
        execute.select_notebooks(["0"], folder=tmp_path)
    with pytest.raises(FileNotFoundError, match="no notebook"):
        execute.select_notebooks([], folder=tmp_path / "empty")


def test_a_page_that_would_ask_the_network_is_named(tmp_path):
    notebook = new_notebook(cells=[new_markdown_cell("# Logo\n\n![logo](https://example.org/logo.png)")])
    copy = tmp_path / "00_a.ipynb"
    nbformat.write(notebook, copy)
    problems = gallery.write_gallery([copy], folder=tmp_path / "gallery", source=tmp_path)
    assert problems == ["00_a.html would load from a network: https://example.org/logo.png"]


def test_hostile_titles_and_figure_texts_show_as_text(tmp_path):
    hostile = "</script><script>alert(1)</script>"
    figure = {"data": [{"type": "bar", "name": hostile}], "layout": {"meta": {"alt": '"><b>x'}}}
    output = new_output("display_data", data={gallery.PLOTLY: figure})
    notebook = new_notebook(cells=[new_markdown_cell(f"# A & {hostile} B"), new_code_cell("", outputs=[output])])
    copy = tmp_path / "00_a.ipynb"
    nbformat.write(notebook, copy)
    gallery.write_gallery([copy], folder=tmp_path / "gallery", source=tmp_path)
    index = (tmp_path / "gallery" / "index.html").read_text()
    assert "<script>alert" not in index
    assert "A &amp; alert(1) B</a>" in index
    page = (tmp_path / "gallery" / "00_a.html").read_text()
    assert page.count("<script") == page.count("</script>") == 4  # the heading's (empty), the data, plotly.js, ours
    assert 'aria-label="Figure: &quot;&gt;&lt;b&gt;x"' in draw_figure(figure)


def test_a_control_is_replaced_by_a_sentence():
    assert "open this notebook in JupyterLab" in gallery.describe_widget("7", {"7": {"state": {}}})
