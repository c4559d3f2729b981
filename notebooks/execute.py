"""Executes the notebooks in order with papermill, prints what each cost and writes the gallery.

    python notebooks/execute.py [names ...] [-p name=value] [--timeout 300] [--output FOLDER] [--readme]

Without names every `notebooks/[0-9]*.ipynb` runs, then `your_own_cohort.ipynb`. A name may be short: `04` stands for
`04_quality_control`. Executed copies are written to `notebooks/` beside the gallery. With `--readme` seconds and memory
go into the table of README.md as well. Any error ends the run with exit status 1.
"""

import argparse
import ast
import csv
import difflib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import gallery
import nbformat
import psutil

FOLDER = Path(__file__).resolve().parent
OUTPUT = FOLDER.parent / "build" / "gallery"
PAPERMILL_TAGS = {"injected-parameters", "papermill-error-cell-tag"}
LOOK_EVERY = 0.5  # seconds between two looks at the memory of all processes


class OutOfTime(KeyboardInterrupt):
    """Raised by the alarm; a KeyboardInterrupt, so that no event loop swallows it and the kernel is shut down."""


@dataclass(frozen=True)
class NotebookRun:
    """What executing one notebook cost (wall seconds, peak memory of its processes in MB), and what went wrong."""

    name: str
    status: str
    seconds: float = float("nan")
    peak_mb: float = float("nan")
    problem: str = ""


def list_notebooks(folder):
    """Returns the paths of the notebooks in the order they are read in."""
    own = folder / "your_own_cohort.ipynb"
    return sorted(folder.glob("[0-9]*.ipynb")) + ([own] if own.exists() else [])


def select_notebooks(names, *, folder):
    """Returns the paths that `names` (whole or shortened; none: all) stand for, in reading order."""
    available = list_notebooks(folder)
    if not available:
        raise FileNotFoundError(f"no notebook [0-9]*.ipynb in {folder}")
    chosen = set()
    for name in names:
        stem = Path(name).name.removesuffix(".ipynb")
        matches = [path for path in available if path.stem == stem] or [p for p in available if p.stem.startswith(stem)]
        if len(matches) != 1:
            known = ", ".join(path.stem for path in available)
            raise ValueError(f"expected the name of one notebook, came '{name}', which fits {len(matches)} of: {known}")
        chosen.update(matches)
    return [path for path in available if path in chosen or not names]


def read_parameters(path):
    """Returns the literals assigned in the cell tagged `parameters`, by name."""
    cells = [c for c in nbformat.read(path, as_version=4).cells if "parameters" in c.metadata.get("tags", [])]
    try:
        statements = [node for cell in cells for node in ast.parse(cell.source).body]
        return {node.targets[0].id: ast.literal_eval(node.value) for node in statements}
    except (AttributeError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path.name}: expected only `name = literal` in the cell tagged parameters") from error


def parse_value(text, *, default, where):
    """Returns `text` as a value of the type of `default`; an int also where a float stands."""
    if isinstance(default, str):
        return text
    try:
        value = ast.literal_eval(text)
    except (SyntaxError, ValueError):
        value = text
    if type(default) is float and type(value) is int:
        value = float(value)
    if default is not None and type(value) is not type(default):
        raise ValueError(f"{where}: expected {type(default).__name__} like {default!r}, came {text!r}")
    return value


def check_parameters(assignments, *, notebooks):
    """Returns the parameters of every notebook (path -> name -> value) after checking that each notebook has them.

    papermill runs on with a name it does not know, so a misspelt one would change nothing and say nothing.
    """
    pairs = [assignment.partition("=") for assignment in assignments]
    for name, sign, _ in pairs:
        if not (sign and name.isidentifier()):
            raise ValueError(f"expected -p name=value, came -p {name}")
    checked = {}
    for path in notebooks:
        known = read_parameters(path) if pairs else {}
        for name, _, _ in pairs:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                hint = f" Did you mean '{close[0]}'?" if close else ""
                names = ", ".join(known) or "none"
                raise ValueError(f"{path.name} has no parameter '{name}'.{hint} Known parameters: {names}")
        where = f"{path.name}, parameter "
        checked[path] = {n: parse_value(text, default=known[n], where=f"{where}'{n}'") for n, _, text in pairs}
    return checked


def prepare_environment(folder):
    """Returns the environment of a kernel: this interpreter, no personal IPython profile, figures stored as data."""
    kernel = Path(folder) / "kernels" / "python3"
    kernel.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": command, "display_name": "Python 3", "language": "python"}))
    search = os.pathsep.join(filter(None, [str(folder), os.environ.get("JUPYTER_PATH")]))
    own = {"JUPYTER_PATH": search, "IPYTHONDIR": str(Path(folder) / "ipython"), "PLOTLY_RENDERER": "plotly_mimetype"}
    return os.environ | own


def execute_in_this_process(request):
    """Executes one notebook and writes peak memory and the problem, if any, to `request["answer"]` (the child's side).

    The peak is that of the kernel and all that it started together, as far as it was seen, and at least that of the
    largest of them.
    """
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    def stop(*_):
        raise OutOfTime

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(request["timeout"])
    problem = ""
    try:
        with watching_memory() as seen:
            papermill.execute_notebook(
                request["source"],
                request["copy"],
                parameters=request["parameters"],
                kernel_name="python3",
                cwd=str(Path(request["source"]).parent),
                progress_bar=False,
            )
    except PapermillExecutionError as error:
        problem = f"{error.ename}: {first_line(error.evalue)}" if error.evalue else error.ename
    except OutOfTime:
        problem = f"out of time after {request['timeout']} s (--timeout)"
    except (CellTimeoutError, DeadKernelError) as error:
        problem = f"{type(error).__name__}: {first_line(error)} (a kernel that dies has often run out of memory)"
    signal.alarm(0)
    unit = 1 if sys.platform == "darwin" else 1024
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit / 1e6
    Path(request["answer"]).write_text(json.dumps({"peak_mb": max(largest, *seen), "problem": problem}))


@contextmanager
def watching_memory():
    """Yields a list that grows by what all processes below this one take together, in MB, at every look."""
    seen, over = [0.0], threading.Event()

    def watch():
        while not over.wait(LOOK_EVERY):
            seen.append(measure_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()


def measure_memory():
    """Returns what all processes below this one take together, in MB; what several of them share counts once."""
    total = 0
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # gone meanwhile
            memory = process.memory_full_info()
            total += getattr(memory, "pss", memory.uss)  # what is shared, by halves: Linux alone tells
    return total / 1e6


def first_line(message):
    """Returns the first line of a message that is not empty, or ''."""
    return next((line.strip() for line in str(message).splitlines() if line.strip()), "")


def find_culprit(notebook):
    """Returns (cell number, counted from 1 as in the source, and cell) where the execution stopped, or (0, None)."""
    cells = [c for c in notebook.cells if not PAPERMILL_TAGS & set(c.metadata.get("tags", []))]
    numbered = [(number, cell) for number, cell in enumerate(cells, start=1) if cell.cell_type == "code"]
    failed = [pair for pair in numbered if any(output.output_type == "error" for output in pair[1].get("outputs", []))]
    started = [pair for pair in numbered if pair[1].metadata.get("papermill", {}).get("start_time")]
    return (failed[:1] or started[-1:] or [(0, None)])[0]


def failed_line(cell):
    """Returns the line of the cell that raised, as the traceback marks it, or the cell's first line."""
    for output in cell.get("outputs", []):
        lines = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(output.get("traceback", []))).splitlines()
        marked = [found[1] for line in lines if (found := re.match(r"-+>\s*\d+\s+(.*)", line))]
        if marked:
            return marked[0].strip()
    return first_line(cell.source)


def describe_problem(problem, *, path, copy):
    """Returns the report on a failure: notebook, cell, line, error; for a claim, which one does not hold."""
    number, cell = find_culprit(nbformat.read(copy, as_version=4)) if copy.exists() else (0, None)
    if cell is None:
        return f"{path.name}: {problem}"
    line = failed_line(cell)
    if "claim" in cell.metadata.get("tags", []):
        said = problem.removeprefix("AssertionError").removeprefix(":").strip()
        problem = f"claim failed: {said or line}"
    return f"{path.name}, cell {number}: {problem}\n    {line}"


def run_notebook(path, *, copy, parameters, timeout):
    """Executes one notebook in a process of its own and returns its NotebookRun; the executed notebook is `copy`."""
    with tempfile.TemporaryDirectory() as folder:
        request = {"source": str(path), "copy": str(copy), "parameters": parameters, "timeout": timeout}
        request["answer"] = str(Path(folder) / "answer.json")
        command = [sys.executable, str(Path(__file__).resolve()), "--request", json.dumps(request)]
        started = time.perf_counter()
        child = subprocess.run(command, env=prepare_environment(folder), capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - started
        if Path(request["answer"]).exists():
            answer = json.loads(Path(request["answer"]).read_text())
        else:
            last = (child.stderr.strip().splitlines() or ["no message"])[-1]
            answer = {"peak_mb": float("nan"), "problem": f"the runner stopped with status {child.returncode}: {last}"}
    problem = answer["problem"] and describe_problem(answer["problem"], path=path, copy=copy)
    run = NotebookRun(path.stem, "failed" if problem else "ok", seconds, answer["peak_mb"], problem)
    if copy.exists():
        notebook = nbformat.read(copy, as_version=4)
        notebook.metadata["dqc"] = {name: None if value != value else value for name, value in asdict(run).items()}
        nbformat.write(notebook, copy)
    return run


def run_all(parameters, *, copies, timeout):
    """Executes notebooks in order until one fails and returns a NotebookRun for each, also for those not reached."""
    copies.mkdir(parents=True, exist_ok=True)
    for path in parameters:
        (copies / path.name).unlink(missing_ok=True)
    runs = []
    for path, values in parameters.items():
        if any(run.status == "failed" for run in runs):
            runs.append(NotebookRun(path.stem, "not run"))
            continue
        print(f"{path.stem} ...", flush=True)
        runs.append(run_notebook(path, copy=copies / path.name, parameters=values, timeout=timeout))
    return runs


def format_table(runs):
    """Returns the runs as a text table: notebook, seconds, peak memory MB, status."""
    rows = [("notebook", "seconds", "peak memory MB", "status")]
    for run in runs:
        cost = ("", "") if run.status == "not run" else (f"{run.seconds:.1f}", f"{run.peak_mb:.0f}")
        rows.append((run.name, *cost, run.status))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [f"{a:<{widths[0]}} | {b:>{widths[1]}} | {c:>{widths[2]}} | {d}".rstrip() for a, b, c, d in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def write_timings(copies, *, path):
    """Writes name, seconds and peak_mb of every executed copy as CSV."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "seconds", "peak_mb"])
        for copy in copies:
            run = nbformat.read(copy, as_version=4).metadata["dqc"]
            peak = "" if run["peak_mb"] is None else f"{run['peak_mb']:.0f}"
            writer.writerow([run["name"], f"{run['seconds']:.1f}", peak])


def update_readme(path, *, runs):
    """Writes seconds and peak memory into the last two columns of the README's table, whose rows begin with a link to a
    notebook, and returns what is wrong with it: the notebooks without a row, and the rows without a notebook."""
    costs = {f"{run.name}.ipynb": f" {run.seconds:.0f} | {run.peak_mb:.0f} |" for run in runs}
    lines, found = path.read_text(encoding="utf-8").splitlines(keepends=True), set()
    for at, line in enumerate(lines):
        if row := re.match(r"(\| \[[^\]]*\]\(notebooks/([^)]*)\) \|[^|]*\|)[^|]*\|[^|]*\|$", line):
            found.add(row[2])
            lines[at] = row[1] + costs.get(row[2], " | |") + "\n"
    path.write_text("".join(lines), encoding="utf-8", newline="\n")
    missing = [f"{path.name} has no row for {name}" for name in costs if name not in found]
    return missing + [f"{path.name} has a row for {name}, which is not there" for name in sorted(found - set(costs))]


def parse_arguments(arguments):
    parser = argparse.ArgumentParser(description="Execute the notebooks in order and write the gallery.")
    parser.add_argument("names", nargs="*", help="notebooks, whole or shortened names (default: all)")
    parser.add_argument("-p", "--parameter", action="append", default=[], metavar="name=value", help="set a parameter")
    parser.add_argument("--timeout", type=int, default=300, help="seconds a notebook may take (default: 300)")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder of the gallery (default: build/gallery)")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="folder of the notebooks (default: notebooks)")
    parser.add_argument("--readme", action="store_true", help="update the table in README.md beside the notebooks")
    parser.add_argument("--request", type=json.loads, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments=None):
    """Runs the command line and returns its exit status."""
    options = parse_arguments(arguments)
    if options.request:
        execute_in_this_process(options.request)
        return 0
    folder, output = options.folder.resolve(), options.output.resolve()
    if options.readme and (options.names or options.parameter):
        print("error: --readme is for all notebooks as they are; expected no names and no -p", file=sys.stderr)
        return 1
    readme = folder.parent / "README.md"
    if options.readme and not readme.is_file():
        print(f"error: no {readme}; expected the README beside the folder of the notebooks", file=sys.stderr)
        return 1
    try:
        notebooks = select_notebooks(options.names, folder=folder)
        parameters = check_parameters(options.parameter, notebooks=notebooks)
    except (FileNotFoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    copies = output.parent / "notebooks"
    runs = run_all(parameters, copies=copies, timeout=options.timeout)
    executed = [copies / path.name for path in list_notebooks(folder) if (copies / path.name).exists()]
    problems = [run.problem for run in runs if run.problem]
    problems += gallery.write_gallery(executed, folder=output, source=folder)
    write_timings(executed, path=output / "timings.csv")
    if options.readme and not problems:
        problems += update_readme(readme, runs=runs)
    print(f"\n{format_table(runs)}\n\nGallery: {output / 'index.html'}", flush=True)
    for problem in problems:
        print(f"\nerror: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
