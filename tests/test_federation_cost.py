"""The benchmark of a federated run: what it adds up, and that it compares runs that decide the same; without FLARE."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from benchmarks import federation
from dqc_lib.aside import write_json
from dqc_lib.cohort import read_bids
from dqc_lib.federation import FederatedRun, Site, Terms, conduct, write_task
from dqc_lib.federation.guard import MARK
from dqc_lib.federation.runs import mark_folder
from dqc_lib.federation.server import SESSIONS, read_sessions


class SiteLink:
    """Sites in this process."""

    def __init__(self, sites):
        self._sites, self.sites = {site: Site(read_bids(path)) for site, path in sites.items()}, list(sites)

    def ask(self, site, name, **arguments):
        return getattr(self._sites[site], name)(**arguments)

    def ask_all(self, sites, name, **arguments):
        return {site: self.ask(site, name, **arguments) for site in sites}


def play(task, sites, *, folder, environment, progress):
    """What `federate` does, without FLARE: 4 seconds pass before the server begins, and 2 after its end."""
    assert environment == "simulated" and not progress
    write_task(folder, task, Terms(list(sites)))
    conduct(folder, lambda terms: SiteLink(sites))
    (session,) = read_sessions(folder)
    write_json(folder / SESSIONS, [session | {"launched": session["begun"] - 4, "closed": session["ended"] + 2}])
    return FederatedRun.read(folder)


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """The table of a quick run by quantity, its comments, and what was printed."""
    build = tmp_path_factory.mktemp("quick")
    committed = {path: path.read_bytes() for path in federation.RESULTS.glob("*")}
    with pytest.MonkeyPatch.context() as patch:
        said = io.StringIO()
        patch.setattr(federation, "federate", play)
        patch.setattr(federation, "version", lambda package: f"version of {package}")
        patch.setattr(sys, "stdout", said)
        federation.main(["--quick", "--build", str(build)])
    assert {path: path.read_bytes() for path in federation.RESULTS.glob("*")} == committed
    text = (build / "federation.csv").read_text(encoding="utf-8")
    return pd.read_csv(io.StringIO(text), comment="#"), text.splitlines()[:2], said.getvalue()


def test_the_quick_run_tells_what_made_it_and_prints_what_its_table_holds(quick):
    table, notes, said = quick
    assert list(table) == list(federation.COLUMNS)
    assert set(table["configuration"]) == {"quick"} and set(table["turn"]) == {0}
    assert notes[0] == "# python -m benchmarks.federation --quick"
    assert notes[1].startswith("# Python 3.") and notes[1].endswith("nvflare version of nvflare")
    printed = {line[2:34].strip() for line in said.splitlines() if line.startswith("  ")}
    assert printed == set(table["quantity"])


def test_what_a_run_cost_adds_up(quick):
    values = quick[0].set_index("quantity")["value"]
    assert values["start-up"] == pytest.approx(4, abs=1e-3) and values["shut-down"] == pytest.approx(2, abs=1e-3)
    steps = ["start-up", "opening", "travel", "shut-down"]
    assert values["whole run"] == pytest.approx(values[steps].sum(), abs=1e-3)
    alone = values["travel in one process"]
    assert values["whole run over one process"] == pytest.approx(values["whole run"] / alone, rel=0.01)
    assert values["travel over one process"] == pytest.approx(values["travel"] / alone, rel=0.01)
    assert values["attempts"] >= 4, "of four centers"
    assert values["attempts"] >= values["verifications"] >= values["taken back"] >= 0
    assert 0 < values["train, each"] < values["travel"]
    assert values["train, a cycle"] > values["federated averaging, a cycle"] > 0


ROWS = pd.DataFrame(
    [("A", 0, "travel", "s", 3.0), ("A", 1, "travel", "s", 1.0), ("A", 2, "travel", "s", 2.5), ("B", 0, "n", "n", 7.0)],
    columns=list(federation.COLUMNS),
)


def test_turns_are_summed_up_by_the_median_and_the_ends():
    summary = federation.summarize(ROWS)
    assert summary.values.tolist() == [["A", "travel", "s", 2.5, 1.0, 3.0], ["B", "n", "n", 7.0, 7.0, 7.0]]
    lines = federation.describe(summary).splitlines()
    assert [line.split() for line in lines if line] == [
        ["A"],
        ["travel", "2.5", "s", "[1,", "3]"],
        ["B"],
        ["n", "7", "n", "[7,", "7]"],
    ]


def test_runs_that_decide_otherwise_are_not_compared():
    row = {"cycle": 1, "level": "batch", "center": "A", "subjects": ["a"], "decision": "accepted", "seconds": 1.0}
    mine, other = (pd.DataFrame([row | change]) for change in ({"seconds": 2.0}, {"decision": "split"}))
    federation.check_decisions("A", mine, pd.DataFrame([row]))
    with pytest.raises(RuntimeError, match="A: the federated run decides otherwise"):
        federation.check_decisions("A", mine, other)


@pytest.mark.skipif(os.name != "posix", reason="the environment of another process is read as on POSIX")
def test_memory_is_that_of_all_processes_of_the_run(tmp_path):
    hold = "block = bytearray(100_000_000); print(flush=True); input()"
    environment = os.environ | {MARK: mark_folder(Path(tmp_path).resolve())}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "env": environment}
    running = [subprocess.Popen([sys.executable, "-c", hold], **pipes) for _ in range(2)]
    try:
        for process in running:
            process.stdout.readline()
        n, total = federation.measure_memory(tmp_path)
    finally:
        for process in running:
            process.communicate(b"\n")
    assert n == 2 and 0.2 < total < 0.5
    assert federation.measure_memory(tmp_path) == (0, 0.0)


def test_configurations_are_chosen_by_name():
    assert list(federation.choose(None, quick=False)) == list(federation.CONFIGURATIONS)
    assert list(federation.choose(["83 centers, 2 sites"], quick=False)) == ["83 centers, 2 sites"]
    assert list(federation.choose(None, quick=True)) == ["quick"]


def test_the_committed_table_is_of_three_turns_of_every_configuration_and_the_readme_says_what_it_says():
    table = pd.read_csv(federation.TABLE, comment="#")
    turns = table.groupby("configuration")["turn"].unique().map(sorted).to_dict()
    assert turns == {name: [0, 1, 2] for name in federation.CONFIGURATIONS}
    for _, rows in table.groupby(["configuration", "turn"]):
        values = rows.set_index("quantity")["value"]
        ratio = values["travel"] / values["travel in one process"]
        assert values["travel over one process"] == pytest.approx(ratio, rel=1e-3)
    middle = table.groupby(["configuration", "quantity"])["value"].median()
    many = middle["83 centers, 2 sites"]
    assert many["attempts"] > 83 and many["verifications"] >= many["taken back"] > 10 and many["memory"] < 4
    readme = (Path(federation.__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    counts = f"{many['attempts']:.0f} attempts, {many['verifications']:.0f} of them verified by all and "
    assert f"{counts}{many['taken back']:.0f} taken back" in readme
    for name in federation.CONFIGURATIONS:
        said = [
            f"{middle[name, 'travel over one process']:.1f} times",
            f"{middle[name, 'start-up'] + middle[name, 'opening']:.0f} s",
            f"{middle[name, 'train, each']:.2f} s",
            f"{middle[name, 'verify, each']:.2f} s",
            f"{middle[name, 'memory']:.1f} GB",
            f"{middle[name, 'federated averaging, a cycle']:.1f} MB",
        ]
        assert any(all(f"| {part} |" in line for part in said) for line in readme.splitlines()), name
