"""The house: modules import downwards only, heavy packages load late, and everything public is described."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = (
    ("arguments", "aside", "artefacts", "tables", "checkpoints"),
    ("notes",),
    ("cohort", "volumes", "ledger", "marks"),
    ("quality", "networks", "snapshots", "fisher", "phantom", "harm", "simulation"),
    ("evaluation", "detection"),
    ("harmonization", "privacy", "synthesis"),
    ("figures", "travelling", "pages"),
    ("widgets", "federation", "report"),
)
FLOOR = {part: number for number, parts in enumerate(FLOORS) for part in parts}
BACKENDS = {"tensorflow", "torch", "jax"}
HEAVY = {"keras", "SimpleITK", "plotly", "scipy", "sklearn", "nilearn", "fairlearn", "ipywidgets", "cleanlab"}
HEAVY |= {"dicompare", "mne", "neuroCombat", "pydicom", "skimage", "statsmodels", "sdmetrics", "dp_accounting"}
MOST_LINES = 350


def name_module(path, root):
    """Return the dotted name of a file below `root`; a package has that of its folder."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_module(path, ROOT): path for path in sorted((ROOT / "dqc_lib").rglob("*.py"))}
every_module = pytest.mark.parametrize("module", FILES)


def parse(module):
    return ast.parse(FILES[module].read_text(encoding="utf-8"))


def walk_on_loading(node):
    """Yield what is run as soon as a module is imported: not functions, and nothing for type checkers alone."""
    yield node
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return
    for_checkers = isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
    for child in node.orelse if for_checkers else ast.iter_child_nodes(node):
        yield from walk_on_loading(child)


def list_imports(nodes, module, *, is_package=False):
    """Return all that the nodes import, as dotted names: `from a import b` gives "a.b"."""
    parts = module.split(".")
    found = []
    for node in nodes:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = parts[: len(parts) + is_package - node.level] if node.level else []
            found += [".".join([*base, *filter(None, [node.module]), alias.name]) for alias in node.names]
    return found


def find_module(name, modules):
    """Return the module that an imported name is, or is in."""
    return name if name in modules else name.rpartition(".")[0]


def list_own_imports(module):
    """Return the modules of dqc_lib that a module imports anywhere."""
    names = list_imports(ast.walk(parse(module)), module, is_package=FILES[module].name == "__init__.py")
    return {find_module(name, FILES) for name in names if name.split(".")[0] == "dqc_lib"}


def get_packages(names):
    return {name.split(".")[0] for name in names}


def test_the_reader_of_imports_sees_every_form():
    tree = ast.parse(
        "import a.b, c as d\nfrom e import f\nfrom . import g\nfrom .h import i\nfrom ..j import k\n"
        "if TYPE_CHECKING:\n    import l\nelse:\n    import m\nclass C:\n    import n\ndef o():\n    import p"
    )
    late, early = {"l", "p"}, {"a.b", "c", "e.f", "top.g", "top.h.i", "j.k", "m", "n"}
    assert set(list_imports(ast.walk(tree), "top.module")) == early | late
    assert {"top.module.g", "top.j.k"} < set(list_imports(ast.walk(tree), "top.module", is_package=True))
    assert set(list_imports(walk_on_loading(tree), "top.module")) == early


@every_module
def test_a_module_imports_from_lower_floors_only(module):
    if module == "dqc_lib":
        return  # the roof: it may show what is on any floor
    part = module.split(".")[1]
    assert part in FLOOR, f"{part} is on no floor; expected one of {list(FLOOR)}"
    for name in list_own_imports(module):
        assert name != "dqc_lib", f"{module} imports dqc_lib itself; expected the module that it needs"
        other = name.split(".")[1]
        assert other == part or FLOOR[other] < FLOOR[part], f"{module} on floor {FLOOR[part]} imports {name}"


def test_imports_go_round_in_no_circle():
    TopologicalSorter({module: list_own_imports(module) for module in FILES}).prepare()


@every_module
def test_no_module_names_a_keras_backend(module):
    # where TensorFlow has a shorter way than the one that serves every backend, which stands beside it
    allowed = {"tensorflow"} if module == "dqc_lib.snapshots" else set()
    assert get_packages(list_imports(ast.walk(parse(module)), module)) & BACKENDS == allowed


@every_module
def test_heavy_packages_are_imported_where_they_are_used(module):
    assert not get_packages(list_imports(walk_on_loading(parse(module)), module)) & HEAVY


def test_importing_the_library_loads_no_network_and_no_figures():
    code = "import sys, dqc_lib; print(*{'tensorflow', 'keras', 'plotly'}.intersection(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


@every_module
def test_modules_and_their_public_names_are_described(module):
    tree = parse(module)
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    public = [node for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]
    silent = [node.name for node in public if not ast.get_docstring(node)]
    assert ast.get_docstring(tree), f"{module} has no docstring"
    assert not silent, f"{module}: no docstring in {silent}"


@every_module
def test_a_module_fits_on_a_few_screens(module):
    assert len(FILES[module].read_text(encoding="utf-8").splitlines()) <= MOST_LINES
