"""A federated run from its start to its end: the same as in one process, whatever cuts it short, and nothing left."""

import json
import math
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml
from filelock import FileLock

from dqc_lib.cohort import Cohort, read_bids, split_by_subject
from dqc_lib.federation import (
    CenterError,
    FederatedRun,
    Site,
    SiteError,
    Start,
    Task,
    Terms,
    conduct,
    federate,
    pull_out,
    spread_cohort,
    write_task,
)
from dqc_lib.federation import link as link_module
from dqc_lib.federation import runs as module
from dqc_lib.federation.guard import MARK, list_marked
from dqc_lib.federation.link import ClockedLink
from dqc_lib.federation.task import read_task
from dqc_lib.ledger import COLUMNS, Ledger
from dqc_lib.networks import load_sfcn
from dqc_lib.quality import CalibratedRule, PublishedRule, WatchingRule
from dqc_lib.travelling import Schedule, Study

ROOT = Path(__file__).parent.parent
SAMPLES = ROOT / "data_samples"
SCHEDULE = Schedule(
    warm_cycles=1, calm_cycles=1, control_cycles=2, width=0.0625, calm_learning_rate=3e-4, batch_size=3, revisit_after=1
)
HALVES = 2  # sites, of two centers each
on_flare = pytest.mark.skipif(
    find_spec("nvflare") is None, reason="NVIDIA FLARE, of the extra 'federation', is not installed"
)


@pytest.fixture(scope="module")
def cohort():
    """Some subjects of four centers of the sample cohort."""
    table = split_by_subject(read_bids(SAMPLES)).table
    table = table[table["center"].isin(table["center"].unique()[:4])]
    few = table.groupby(["center", "role", "diagnosis"], sort=False).head(2).index
    return Cohort(table.loc[few].sort_index(), SAMPLES)


@pytest.fixture(scope="module")
def study(cohort, tmp_path_factory):
    return Study(cohort, schedule=SCHEDULE, folder=tmp_path_factory.mktemp("study"), progress=False)


@pytest.fixture(scope="module")
def rule(study):
    """A calibrated rule that suspects some images."""
    watched = study.pretrain().ledger.query("stage == 'watch'")
    return CalibratedRule(limit=float(watched["update_norm"].quantile(0.7)), acquittal=1)


@pytest.fixture(scope="module")
def arm(study, rule):
    """The same run in one process."""
    arm = study.run("qc", rule=rule)
    decisions = set(arm.ledger.query("stage != 'watch'")["decision"])
    assert decisions == {"accepted", "split", "deferred", "eliminated"}, "too tame to compare with"
    return arm


@pytest.fixture(scope="module")
def task(study, rule):
    return Task.of(study, rule)


@pytest.fixture(scope="module")
def untrained():
    """A task that nobody runs."""
    arrays = (np.zeros(3, np.float32), np.float32(1e-3))
    start = Start({"shape": [4, 4, 4]}, arrays, rate_at=1, steps_at=1, n_variables=1, trained_at=(0,), statistics_at=())
    return Task(start, CalibratedRule(2.5), [1e-3, 5e-4], scale=b"scale")


@pytest.fixture(scope="module")
def sites(cohort, tmp_path_factory):
    return spread_cohort(cohort, tmp_path_factory.mktemp("spread"), HALVES)


def compare(folder, arm):
    """Attempt by attempt: equal but for seconds, norms up to the order in which logarithms were added up; the model bit
    for bit."""
    run = FederatedRun.read(folder)
    mine, expected = (table.drop(columns="seconds").reset_index(drop=True) for table in (run.ledger, arm.ledger))
    pd.testing.assert_frame_equal(mine, expected[expected["stage"] != "watch"].reset_index(drop=True), rtol=1e-12)
    assert run.eliminated == arm.eliminated
    last = Start.of(load_sfcn(sorted(arm.folder.glob("cycle-*.keras"))[-1]))
    for array, theirs in zip(Start.of(run.model()).arrays, last.arrays, strict=True):
        np.testing.assert_array_equal(array, theirs)
    return run


def wait_for(true):
    """Return what the condition gives when it holds; what never comes is ended by the limit of every test."""
    while not (found := true()):
        time.sleep(0.02)
    return found


def count_rows(folder):
    path = folder / "ledger.jsonl"
    return path.read_bytes().count(b'"decision"') if path.exists() else 0  # the other lines are about presence


def list_left(folder):
    return list_marked(module.mark_folder(folder))


def list_clients(folder):
    return [process for process in list_left(folder) if "site-2" in process.cmdline()]


RUN = """
import json, signal, sys
from pathlib import Path
from dqc_lib.federation import federate
from dqc_lib.federation.task import read_task

signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell takes from what runs in its background
federate(read_task(Path(sys.argv[1]))[0], json.loads(sys.argv[2]), folder=sys.argv[3], **json.loads(sys.argv[4]))
"""


def start_elsewhere(task, sites, folder, **options):
    """Start the run in another process, which can be killed."""
    write_task(folder / "task", task, Terms(["any"]))
    places = json.dumps({site: str(path) for site, path in sites.items()})
    arguments = [str(folder / "task"), places, str(folder / "server"), json.dumps({"progress": False} | options)]
    return subprocess.Popen([sys.executable, "-c", RUN, *arguments], cwd=ROOT, stderr=subprocess.PIPE, text=True)


@on_flare
def test_over_simulated_sites_the_arm_of_a_study_comes_out_the_same(arm, task, sites, tmp_path):
    federate(task, sites, folder=tmp_path / "server", progress=False)
    run = compare(tmp_path / "server", arm)
    assert not list_left(run.folder)
    assert run.traffic.groupby("call")["calls"].sum()["train"] >= len(run.ledger) and run.presences.empty
    assert min(run.seconds.values()) > 0
    again = federate(task, sites, folder=run.folder, progress=False)  # read, not run: in no time
    assert again.seconds == run.seconds
    with pytest.raises(ValueError, match="another run, with other rule; choose another folder"):
        federate(Task(**vars(task) | {"rule": CalibratedRule(1.0)}), sites, folder=run.folder)


def shake_hands(folder, kit=None):
    """Speak to the server of a run as a site with this startup kit does, or as somebody who has none."""
    project = yaml.safe_load((folder / "project.yml").read_text())
    port = next(member["fed_learn_port"] for member in project["participants"] if member["type"] == "server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # in which who is refused learns it in the handshake
    if kit is not None:
        context.load_cert_chain(kit / "client.crt", kit / "client.key")
    with socket.create_connection(("localhost", port), timeout=30) as connection:
        with context.wrap_socket(connection):
            return "accepted"


@on_flare
def test_over_processes_that_speak_mutual_tls_it_comes_out_the_same_too(arm, task, sites, tmp_path):
    folder, said = tmp_path / "server", []

    def knock(n_attempts):
        if not said:
            (kit,) = {Path(arg) for process in list_left(folder) for arg in process.cmdline() if is_kit(arg)}
            said.append(shake_hands(folder, kit / "startup"))
            with pytest.raises((ssl.SSLError, ConnectionError)):
                said.append(shake_hands(folder))
            write_certificate(tmp_path)  # one that nobody has signed
            with pytest.raises((ssl.SSLError, ConnectionError)):
                said.append(shake_hands(folder, tmp_path))

    def is_kit(arg):
        return arg.endswith("/site-1") and (Path(arg) / "startup" / "client.crt").exists()

    federate(task, sites, folder=folder, environment="processes", after_attempt=knock, progress=False)
    assert said == ["accepted"]
    compare(folder, arm)
    assert not list_left(folder)


def write_certificate(folder):
    """Write a certificate that says it is of the first site, and its key, which no project knows."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "site-1")])
    now = datetime.now(UTC)
    maker = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    maker = maker.serial_number(1).not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    (folder / "client.crt").write_bytes(maker.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "client.key").write_bytes(key.private_bytes(*plain))


@on_flare
def test_a_run_that_is_interrupted_leaves_nothing_and_is_resumed_to_the_same_end(arm, task, sites, tmp_path):
    folder = tmp_path / "server"
    process = start_elsewhere(task, sites, tmp_path)
    wait_for(lambda: list(folder.glob("cycle-*.npz")) or process.poll() is not None)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == -signal.SIGINT and "KeyboardInterrupt" in said, said
    assert not list_left(folder) and not (folder / "end.npz").exists()
    written = (folder / "cycle-002.npz").stat().st_mtime_ns
    federate(task, sites, folder=folder, progress=False)
    compare(folder, arm)
    assert (folder / "cycle-002.npz").stat().st_mtime_ns == written, "the finished cycle is not gone through again"


@on_flare
def test_when_the_process_that_started_it_is_killed_nothing_of_a_run_is_left(task, sites, tmp_path):
    process = start_elsewhere(task, sites, tmp_path)
    wait_for(lambda: count_rows(tmp_path / "server") or process.poll() is not None)
    assert len(list_left(tmp_path / "server")) > HALVES, "guard, launcher, server and sites"
    process.kill()
    process.communicate()
    wait_for(lambda: not list_left(tmp_path / "server"))


WRONG = {
    "another environment": ({"environment": "cloud"}, ValueError, "one of .'simulated', 'processes'., got 'cloud'"),
    "another way with faults": ({"on_fault": "ignore"}, ValueError, "one of .'stop', 'continue'., got 'ignore'"),
    "no time to answer": ({"seconds": 0}, ValueError, "seconds must be a finite number > 0, got 0"),
    "no site": ({"sites": {}}, ValueError, "at least one site"),
    "a site's name that is none": ({"sites": {"a/b": SAMPLES}}, ValueError, "'a/b' cannot be a site's name"),
    "a folder without roles": ({"sites": {"site-1": SAMPLES}}, ValueError, "site 'site-1': .* no column 'role'"),
    "a folder that is none": ({"sites": {"site-1": SAMPLES / "no"}}, FileNotFoundError, "participants.tsv"),
    "a study": ({"task": "study"}, TypeError, "task must be a Task"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_run_is_refused_before_anything_is_written(untrained, tmp_path, name):
    options, kind, words = WRONG[name]
    options = {"task": untrained, "sites": {"site-1": SAMPLES}, "folder": tmp_path / "server"} | options
    with pytest.raises(kind, match=words):
        federate(**options)
    assert not (tmp_path / "server").exists()


def test_two_sites_with_the_same_center_are_refused(untrained, sites, tmp_path):
    twice = {"site-1": sites["site-1"], "site-3": sites["site-1"]}
    with pytest.raises(ValueError, match="site 'site-3' holds the center 'center-01', as a site before it"):
        federate(untrained, twice, folder=tmp_path / "server")


def test_a_task_is_read_back_as_it_was_written_and_another_is_refused(untrained, tmp_path):
    write_task(tmp_path / "server", untrained, Terms(["north"], on_fault="continue", seconds=5.0))
    read, terms = read_task(tmp_path / "server")
    assert terms == Terms(["north"], on_fault="continue", seconds=5.0)
    assert read.describe() == untrained.describe() and read.rule.limit == 2.5 and math.isnan(read.rule.level)
    assert read.scale == b"scale"
    write_task(tmp_path / "server", untrained, Terms(["south"]))  # on other terms
    for change, words in (({"seed": 1}, "seed"), ({"scale": b"other"}, "scale"), ({"rule": PublishedRule()}, "rule")):
        with pytest.raises(ValueError, match=f"holds another run, with other {words}; choose another folder"):
            write_task(tmp_path / "server", Task(**vars(untrained) | change), Terms(["north"]))
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "thesis.txt").touch()
    with pytest.raises(ValueError, match="not a federated run"):
        write_task(tmp_path / "files", untrained, Terms(["north"]))


def test_a_task_needs_a_rule_that_the_server_can_be_told_of_and_a_scale_where_the_rule_asks_for_norms(untrained):
    with pytest.raises(TypeError, match="rule must be a PublishedRule or CalibratedRule.*got WatchingRule"):
        Task(untrained.start, WatchingRule(), [1e-4])
    with pytest.raises(ValueError, match="expected a scale"):
        Task(untrained.start, CalibratedRule(1.0), [1e-4])


def test_a_study_whose_verification_looks_ahead_cannot_be_federated(cohort, tmp_path):
    study = Study(cohort, schedule=SCHEDULE, folder=tmp_path, verifying="certain", progress=False)
    with pytest.raises(ValueError, match="verifying must be 'full'"):
        Task.of(study)


def test_a_run_that_did_not_come_to_its_end_is_not_read(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no end.npz"):
        FederatedRun.read(tmp_path)


def test_a_run_shows_itself_in_a_line_and_escapes_the_name_of_its_folder():
    calls = ["train", "federated averaging"]
    traffic = pd.DataFrame({"cycle": 1, "call": calls, "calls": 2, "out_mb": [3.25, 9.0], "back_mb": [1.0, 9.0]})
    run = FederatedRun(Path("<i>x"), Ledger().to_frame(), Ledger().list_presences(), traffic, {})
    shown = run._repr_html_()
    assert "&lt;i&gt;x" in shown and "<i>" not in shown and "3.2 MB sent" in shown and "0 attempts" in shown


FAKE = """
import json, sys, time
from pathlib import Path

folder, rows = Path(sys.argv[4]), json.loads(sys.argv[1])
(folder / "ledger.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in rows))
traffic = [{"cycle": at, "call": "train", "calls": 2, "out": 3_000_000, "back": 3_000_000} for at in (1, 2)]
traffic.append({"cycle": 2, "call": "verify", "calls": 1, "out": 1_000_000, "back": 0})
session = {"begun": 0, "opened": 1.5, "ended": 4, "batches": 3, "traffic": traffic, "waited": {"train": 2.5}}
(folder / "sessions.json").write_text(json.dumps([session]))
(folder / "cycle-000.npz").touch()
for name, text in json.loads(sys.argv[2]).items():
    (folder / name).write_text(text)
if sys.argv[3] == "hangs":
    time.sleep(600)
sys.exit(int(sys.argv[3]))
"""


@pytest.fixture
def play(monkeypatch, untrained, sites, tmp_path):
    """A function that runs a program in place of FLARE, which leaves two attempts and these files, and ends so."""
    known = {"cycle": 0, "stage": "control", "level": "batch", "center": "center-01", "n": 1, "seconds": 0.1}
    rows = [
        dict.fromkeys(COLUMNS) | known | {"subjects": [name], "decision": "accepted"} for name in ("sub-1", "sub-2")
    ]

    def run(*, files, status, **options):
        command = (sys.executable, "-c", FAKE, json.dumps(rows), json.dumps(files), str(status))
        monkeypatch.setattr(module, "LAUNCH", command)
        return federate(untrained, sites, folder=tmp_path / "server", **{"progress": False} | options)

    return run


def test_success_is_what_the_server_wrote_whatever_status_flare_ends_with(play):
    run = play(files={"end.npz": ""}, status=3)
    assert len(run.ledger) == 2 and run.eliminated == frozenset()
    assert (run.seconds["opening"], run.seconds["travel"]) == (1.5, 2.5)
    with pytest.raises(RuntimeError, match="FLARE ended before the run did"):
        (run.folder / "end.npz").unlink()
        play(files={}, status=0)


FAULTS = {
    "a site": ({"place": "site-2", "what": "no answer to 'train'"}, CenterError, "^site-2: no answer to 'train'. "),
    "anything else": ({"place": None, "what": "ValueError: no"}, RuntimeError, "^the server ended the run: ValueError"),
    "nobody knows what": (None, RuntimeError, "the server did not say why. "),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_ended_a_run_is_told_in_one_error_with_what_is_kept_and_where_the_log_is(play, tmp_path, name):
    fault, kind, words = FAULTS[name]
    with pytest.raises(kind, match=words) as caught:
        play(files={} if fault is None else {"fault.json": json.dumps(fault)}, status=0)
    kept = f"2 attempts and the models of 1 cycles are kept in {tmp_path / 'server'}"
    assert kept in str(caught.value) and str(tmp_path / "server" / "flare.log") in str(caught.value)
    assert not list_left(tmp_path / "server")


@pytest.mark.parametrize("name", ["an end", "a fault"])
def test_what_the_server_wrote_last_ends_the_run_though_flare_hangs(play, tmp_path, name):
    fault = {"fault.json": json.dumps({"place": "site-2", "what": "no answer to 'train'"})}
    if name == "an end":
        assert len(play(files={"end.npz": ""}, status="hangs").ledger) == 2
    else:
        with pytest.raises(CenterError, match="^site-2: no answer to 'train'"):
            play(files=fault, status="hangs")
    assert not list_left(tmp_path / "server")


def test_where_flare_is_not_installed_it_is_said_how_to_get_it(play, monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"needs NVIDIA FLARE: pip install dqc-lib\[federation\]"):
        play(files={}, status=1)


def test_the_bar_follows_the_ledger_and_ends_full(play, capsys):
    play(files={"end.npz": ""}, status=0, progress=True)
    last = capsys.readouterr().err.split("\r")[-1]
    assert "100%" in last and "3/3" in last and "accepted=2" in last and "center=center-01" in last


def test_the_traffic_of_a_run_is_told_by_cycle_and_call_beside_that_of_averaging(play):
    run = play(files={"end.npz": ""}, status=0)
    model = HALVES * 3 * 4 / 1e6  # three numbers of float32 to each site
    assert list(run.traffic.itertuples(index=False, name=None)) == [
        (1, "train", 2, 3.0, 3.0),
        (1, "federated averaging", 1, model, model),
        (2, "train", 2, 3.0, 3.0),
        (2, "verify", 1, 1.0, 0.0),
        (2, "federated averaging", 1, model, model),
    ]


def test_whoever_follows_a_run_is_told_how_many_attempts_there_are(play):
    told = []
    play(files={"end.npz": ""}, status=0, after_attempt=told.append)
    assert told[-1] == 2 and told == sorted(set(told))


def test_what_goes_wrong_in_following_a_run_ends_it(play, tmp_path):
    def refuse(n_attempts):
        raise KeyError(f"not at {n_attempts}")

    with pytest.raises(KeyError, match="not at 2"):
        play(files={"end.npz": ""}, status=0, after_attempt=refuse)
    assert not list_left(tmp_path / "server")


@pytest.fixture
def machines(untrained, tmp_path):
    """The folder of a run, and programs that bear its mark as FLARE's simulated clients do, by site."""
    write_task(tmp_path, untrained, Terms(["site-1", "site-2"]))
    command = [sys.executable, "-c", "import time; time.sleep(600)", "-m", "simulator_worker", "--client"]
    environment = os.environ | {MARK: module.mark_folder(tmp_path)}
    running = {site: subprocess.Popen([*command, site], env=environment) for site in ("site-1", "site-2")}
    yield tmp_path, running
    for process in running.values():
        process.kill()
        process.wait()


@pytest.mark.skipif(os.name != "posix", reason="signals are those of POSIX")
def test_a_site_that_is_pulled_out_is_gone_at_once_and_the_others_stay(machines):
    folder, running = machines
    assert pull_out(folder, "site-2") is True
    assert running["site-2"].wait() == -signal.SIGKILL
    assert pull_out(folder, "site-2") is False, "it is gone already"
    assert running["site-1"].poll() is None
    with pytest.raises(ValueError, match="no site 'site-3' in .*; expected one of .'site-1', 'site-2'."):
        pull_out(folder, "site-3")


def test_how_long_answers_took_is_kept_by_call(monkeypatch):
    class Answers:
        sites = ("north", "south")

        def ask(self, site, name, **arguments):
            return site, name, arguments

        def ask_all(self, sites, name, **arguments):
            raise KeyError(name)

    clock = iter([1.0, 3.0, 10.0, 14.0, 20.0, 21.0])
    monkeypatch.setattr(link_module, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    link = ClockedLink(Answers())
    assert link.sites == ("north", "south")
    assert link.ask("north", "train", alone=True) == ("north", "train", {"alone": True})
    with pytest.raises(KeyError, match="verify"):
        link.ask_all(["north"], "verify")
    link.ask("south", "train")
    assert link.seconds == {"train": 3.0, "verify": 4.0}


def test_a_folder_that_another_process_has_open_is_refused_unless_the_run_is_finished(play, tmp_path):
    (tmp_path / "server").mkdir()
    with FileLock(tmp_path / "server" / "run.lock"):
        with pytest.raises(RuntimeError, match="another process is computing this run"):
            play(files={"end.npz": ""}, status=0)
    play(files={"end.npz": ""}, status=0)
    with FileLock(tmp_path / "server" / "run.lock"):
        assert len(play(files={}, status=1).ledger) == 2


def test_a_finished_run_over_other_images_is_refused_by_the_name_of_the_center(play, cohort, untrained, tmp_path):
    run = play(files={"end.npz": ""}, status=0)
    table = cohort.table.assign(age=cohort.table["age"] + (cohort.table["center"] == "center-03"))
    other = spread_cohort(cohort.replace(table), tmp_path / "others", HALVES)
    with pytest.raises(ValueError, match="holds another run, with other tables or images of center-03; choose"):
        federate(untrained, other, folder=run.folder)


@on_flare
def test_a_site_that_dies_stops_the_run_which_names_it_and_keeps_what_there_is(task, sites, tmp_path):
    folder = tmp_path / "server"
    process = start_elsewhere(task, sites, tmp_path, seconds=20.0)
    wait_for(lambda: count_rows(folder) or process.poll() is not None)
    clients = list_clients(folder)
    for client in clients:
        client.kill()
    _, said = process.communicate()
    assert clients and process.returncode == 1
    assert "CenterError: site-2: no answer to" in said, said
    assert f"{count_rows(folder)} attempts" in said and str(folder / "flare.log") in said
    assert count_rows(folder) >= 1 and not list_left(folder)
    presences = Ledger.read(folder / "ledger.jsonl").list_presences()
    assert presences["present"].all() and presences["reason"].str.startswith("site-2: no answer to").all()
    assert presences["center"].tolist() == read_bids(sites["site-2"]).centers, "the ledger says who ended the run"


@on_flare
def test_a_run_goes_on_without_a_site_that_dies(cohort, task, sites, tmp_path):
    folder = tmp_path / "server"
    process = start_elsewhere(task, sites, tmp_path, seconds=20.0, opening=20.0, on_fault="continue")
    wait_for(lambda: count_rows(folder) or process.poll() is not None)
    clients = list_clients(folder)
    for client in clients:
        client.kill()
    _, said = process.communicate()
    assert clients and process.returncode == 0, said
    run, lost = FederatedRun.read(folder), read_bids(sites["site-2"]).centers
    assert run.presences["center"].tolist() == lost and not run.presences["present"].any()
    assert run.presences["reason"].str.startswith("site-2: no answer to").all()
    after = run.ledger.iloc[run.presences["after"].iloc[0] :]
    assert len(after) and not set(after["center"]) & set(lost)
    assert set(run.ledger["cycle"]) == {2, 3} and not list_left(folder)


@on_flare
def test_a_site_that_is_too_slow_is_left_out_and_is_back_in_the_next_cycle(task, sites, tmp_path):
    folder = tmp_path / "server"
    process = start_elsewhere(task, sites, tmp_path, seconds=4.0, opening=60.0, on_fault="continue")
    wait_for(lambda: count_rows(folder) or process.poll() is not None)
    clients = list_clients(folder)
    for client in clients:
        client.suspend()
    wait_for(lambda: b"timed out" in (folder / "ledger.jsonl").read_bytes() or process.poll() is not None)
    for client in clients:
        client.resume()
    _, said = process.communicate()
    assert clients and process.returncode == 0, said
    run, lost = FederatedRun.read(folder), read_bids(sites["site-2"]).centers
    assert run.presences["center"].tolist() == lost * 2
    assert run.presences["present"].tolist() == [False] * len(lost) + [True] * len(lost)
    back = run.presences.iloc[-1]
    assert back["cycle"] == 3 and set(run.ledger.iloc[back["after"] :]["center"]) & set(lost)
    assert not list_left(folder)


class SiteLink:
    """Sites in this process, which answer until the ledger has so many rows; some do not at all."""

    def __init__(self, sites, terms, folder, *, rows=math.inf, silent=()):
        self._sites = {site: Site(read_bids(path)) for site, path in sites.items()}
        self.sites, self._folder, self._rows, self._silent = list(terms.sites), folder, rows, silent

    def ask(self, site, name, **arguments):
        answer = self.ask_all([site], name, **arguments)[site]
        if isinstance(answer, SiteError):
            raise answer
        return answer

    def ask_all(self, sites, name, **arguments):
        gone = set(sites) if count_rows(self._folder) >= self._rows else set(self._silent)
        return {
            site: SiteError([site], f"no answer to {name!r}")
            if site in gone
            else getattr(self._sites[site], name)(**arguments)
            for site in sites
        }


def test_a_server_resumes_from_its_folder_where_it_was_cut_short(arm, task, sites, tmp_path):
    stages = list(arm.ledger.loc[arm.ledger["stage"] != "watch", "stage"])
    assert stages[-1] == "closing", "else the last cut is not in the closing revisit"
    write_task(tmp_path, task, Terms(list(sites)))
    for rows in (3, len(stages) - 1):  # in the first cycle, and when all cycles have left their model
        with pytest.raises(CenterError):
            conduct(tmp_path, lambda terms, rows=rows: SiteLink(sites, terms, tmp_path, rows=rows))
        fault = json.loads((tmp_path / "fault.json").read_text())
        assert fault["place"] in (*sites, ", ".join(sites)) and fault["what"].startswith("no answer to")
        assert count_rows(tmp_path) == rows
    assert [path.stem for path in sorted(tmp_path.glob("cycle-*.npz"))] == ["cycle-002", "cycle-003"]
    conduct(tmp_path, lambda terms: SiteLink(sites, terms, tmp_path))
    assert not (tmp_path / "fault.json").exists()
    compare(tmp_path, arm)


def test_a_run_that_begins_without_a_site_says_why_and_one_that_nobody_opens_for_begins_another_time(
    arm, task, sites, tmp_path
):
    write_task(tmp_path, task, Terms(list(sites), on_fault="continue"))
    with pytest.raises(
        CenterError, match="no answer to 'open'; without them there are 0 training subjects, and 0 contr"
    ):
        conduct(tmp_path, lambda terms: SiteLink(sites, terms, tmp_path, silent=tuple(sites)))
    assert not count_rows(tmp_path), "nobody is put down as absent from a run that has not begun"
    conduct(tmp_path, lambda terms: SiteLink(sites, terms, tmp_path))
    compare(tmp_path, arm)


def test_a_center_that_no_site_holds_is_put_down_as_absent(task, sites, tmp_path):
    lost = read_bids(sites["site-2"]).centers
    short = replace(task, learning_rates=task.learning_rates[: task.first + 1])
    for name, terms, words in (
        ("left out", Terms(["site-1"], on_fault="continue"), "no site declares training subjects of it"),
        ("silent", Terms(list(sites), on_fault="continue"), "site-2: no answer to 'open'"),
    ):
        folder = tmp_path / name
        write_task(folder, short, terms)
        conduct(folder, lambda terms, folder=folder: SiteLink(sites, terms, folder, silent=["site-2"]))
        presences = FederatedRun.read(folder).presences
        assert presences["center"].tolist() == lost and not presences["present"].any()
        assert set(presences["reason"]) == {words} and set(presences["after"]) == {0}


def test_a_run_that_began_without_a_site_goes_on_with_the_same_plan_also_when_faults_are_to_stop_it(
    task, sites, tmp_path
):
    write_task(tmp_path, task, Terms(list(sites), on_fault="continue"))
    with pytest.raises(CenterError):
        conduct(tmp_path, lambda terms: SiteLink(sites, terms, tmp_path, rows=3, silent=["site-2"]))
    begun = Ledger.read(tmp_path / "ledger.jsonl").to_frame()
    write_task(tmp_path, task, Terms(list(sites), on_fault="stop"))
    conduct(tmp_path, lambda terms: SiteLink(sites, terms, tmp_path))
    run = FederatedRun.read(tmp_path)
    pd.testing.assert_frame_equal(run.ledger.head(len(begun)), begun)
    assert len(run.ledger) > len(begun) == 3 and (tmp_path / "end.npz").exists()
    assert not set(run.ledger["center"]) & set(read_bids(sites["site-2"]).centers)


def test_a_center_of_the_task_that_no_site_holds_ends_a_run_that_is_to_stop(task, sites, tmp_path):
    write_task(tmp_path, task, Terms(["site-1"]))
    with pytest.raises(CenterError, match="center 'center-03': no site declares training subjects of it"):
        conduct(tmp_path, lambda terms: SiteLink(sites, terms, tmp_path))


@on_flare
def test_logs_are_kept_of_a_run_that_is_ended_by_a_signal(tmp_path):
    program = """
import os, signal, sys, time
from pathlib import Path
from dqc_lib.federation import launch


class Recipe:
    def execute(self, environment):
        for name, text in (("server/log.txt", "begun"), ("site-1/error_log.txt", "")):
            (Path(environment) / name).parent.mkdir()
            (Path(environment) / name).write_text(text)
        print("ready", flush=True)
        time.sleep(600)


launch.make_recipe = lambda folder, data: Recipe()
launch.ENVIRONMENTS = {"simulated": lambda sites, workspace: workspace}
launch.main(sys.argv[1], "simulated", "{}")
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    process.communicate()
    kept = {path.name: path.read_text() for path in (tmp_path / "logs").iterdir()}
    assert kept == {"server-log.txt": "begun", "site-1-error_log.txt": ""} and process.returncode == 1


@on_flare
@pytest.mark.timeout(600)
def test_over_processes_too_an_interrupt_leaves_nothing_though_a_site_is_lost_and_the_run_is_resumed_to_the_same_end(
    arm, task, sites, tmp_path
):
    folder, options = tmp_path / "server", {"environment": "processes", "progress": False}
    process = start_elsewhere(task, sites, tmp_path, **options)
    first = (arm.ledger["stage"] != "watch") & (arm.ledger["cycle"] == 2)
    wait_for(lambda: count_rows(folder) > first.sum() or process.poll() is not None)
    assert pull_out(folder, "site-2") is True
    wait_for(lambda: not pull_out(folder, "site-2"))
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == -signal.SIGINT and "KeyboardInterrupt" in said, said
    assert not list_left(folder) and not (folder / "cycle-003.npz").exists()
    federate(task, sites, folder=folder, **options)
    compare(folder, arm)
    assert not list_left(folder)
