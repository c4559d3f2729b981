"""A consortium from its startup kits: who may do what, what a center settles by itself, and a run from end to end."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import uuid
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from test_federation import NARROW, SAMPLES, compare

from dqc_lib.cohort import Cohort, read_bids, split_by_subject, write_bids
from dqc_lib.federation import Start
from dqc_lib.federation.guard import MARK, end_marked, list_marked
from dqc_lib.federation.premises import CLASSES, find_cohort, may_pretrain, write_policy, write_settings
from dqc_lib.federation.server import END, FAULT, LEDGER
from dqc_lib.ledger import Ledger
from dqc_lib.networks import build_sfcn, freeze_normalization
from dqc_lib.quality import PublishedRule
from dqc_lib.travelling import LocalCenters, group_by_center, plan_cycles, travel
from dqc_lib.volumes import VolumeCache

README = Path(__file__).parent.parent / "dqc_lib" / "federation" / "README.md"
SITES = ("center-a", "center-b")
ADMIN = "researcher@example.org"
needs_flare = pytest.mark.skipif(
    find_spec("nvflare") is None, reason="NVIDIA FLARE, of the extra 'federation', is not installed"
)


@pytest.fixture(scope="module")
def parts():
    """A cohort of two centers, one at each site, and the parts of it."""
    table = split_by_subject(read_bids(SAMPLES)).table
    table = table[table["center"].isin(table["center"].unique()[:2]) & (table["role"] != "test")]
    few = table.groupby(["center", "role", "diagnosis"], sort=False).head(2).index
    cohort = Cohort(table.loc[few].sort_index(), SAMPLES)
    return cohort, {site: cohort.select(centers=[center]) for site, center in zip(SITES, cohort.centers, strict=True)}


def write_images(part, folder):
    """Write a BIDS folder of its own."""
    write_bids(part, folder)
    for row in part.table.itertuples():
        shutil.copytree(SAMPLES / row.subject / "anat", folder / row.subject / "anat")


def test_a_site_finds_its_images_where_its_own_file_says(parts, tmp_path):
    cohort, by_site = parts
    write_images(by_site["center-a"], tmp_path / "images")
    write_settings(tmp_path, tmp_path / "images")
    found = find_cohort(tmp_path, site="center-a")
    assert found.centers == cohort.centers[:1]
    write_settings(tmp_path, {"center-a": tmp_path / "elsewhere", "center-b": tmp_path / "images"})
    assert find_cohort(tmp_path, site="center-b").centers == cohort.centers[:1]


FAULTS = {
    "no file": (None, FileNotFoundError, "dqc.json: no such file; expected the note of where the images of 'center-a'"),
    "not JSON": ("{", ValueError, "dqc.json: damaged, not JSON in UTF-8"),
    "no folder in it": ('{"path": "/data"}', ValueError, "dqc.json: damaged, no 'folder' in it"),
    "another site": ('{"folder": {"b": "/data"}}', ValueError, "expected the whole path of the folder of 'center-a'"),
    "part of a path": ('{"folder": "data"}', ValueError, "expected the whole path .* came 'data'"),
    "no such folder": ('{"folder": "HERE/none"}', NotADirectoryError, "none: no such folder; .*dqc.json says that"),
    "no table": ('{"folder": "HERE"}', FileNotFoundError, "participants.tsv"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_file_that_leads_to_no_images_is_refused_with_what_was_expected(name, tmp_path):
    text, kind, words = FAULTS[name]
    if text is not None:
        (tmp_path / "dqc.json").write_text(text.replace("HERE", tmp_path.as_posix()), encoding="utf-8")
    with pytest.raises(kind, match=words) as caught:
        find_cohort(tmp_path, site="center-a")
    assert "\n" not in str(caught.value)


def find_free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def kits(tmp_path_factory):
    """The startup kits of a consortium on this machine, made with FLARE's own tool."""
    from dqc_lib.federation.project import write_project

    folder = tmp_path_factory.mktemp("consortium")
    members = {"host": "localhost", "port": find_free_port(), "sites": SITES, "admin": ADMIN}
    write_project(folder / "project.yml", storage=folder / "storage", **members)
    command = [sys.executable, "-m", "nvflare.cli", "provision", "-p", "project.yml", "-w", "kits"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "kits" / "dqc" / "prod_00"


@needs_flare
def test_a_job_holds_settings_and_no_code_and_names_only_classes_that_a_site_permits(tmp_path):
    from dqc_lib.federation.flare import make_recipe

    make_recipe(tmp_path / "run").export(str(tmp_path / "job"))
    files = [path for path in (tmp_path / "job").rglob("*") if path.is_file()]
    assert {path.name for path in files} == {"meta.json", "config_fed_client.json", "config_fed_server.json"}
    assert not list((tmp_path / "job").rglob("custom")), "FLARE takes a job with this folder for one that brings code"
    named = re.findall(r'"path": "(.*?)"', "".join(path.read_text() for path in files))
    assert sorted(named) == sorted(CLASSES)
    (server,) = (path for path in files if path.name == "config_fed_server.json")
    patience = json.loads(server.read_text())["dead_client_grace_period"]
    assert patience > 10 * 365 * 24 * 3600, "whether a run goes on without a site that died is not for FLARE to decide"


@needs_flare
def test_a_site_answers_calls_that_tell_of_single_persons_only_where_its_own_file_says_so(tmp_path):
    from dqc_lib.federation import flare

    class Site:
        def sum_squares(self, **arguments):
            return "squares"

        def verify(self, **arguments):
            return "counts"

    for note, answer in (({}, {"fault": "PermissionError"}), ({"pretraining": True}, {"answer": "squares"})):
        (tmp_path / "dqc.json").write_text(json.dumps({"folder": "/data"} | note))
        client = flare.TravellingClient()
        client._site, client._pretrains = Site(), may_pretrain(tmp_path)
        assert client.sum_squares(b"", ["sub-1"]) == answer
        assert client.verify(b"", False) == {"answer": "counts"}
        assert client.verify(b"", True) == (answer if "fault" in answer else {"answer": "counts"}), "a sum of losses"
    for note in ({"pretraining": "yes"}, {"pretraining": 1}, {"pretraining": False}):
        (tmp_path / "dqc.json").write_text(json.dumps(note))
        assert not may_pretrain(tmp_path)
    assert {"open", "train", "verify", "measure"}.isdisjoint(flare.PRETRAINING)


@needs_flare
def test_each_kit_has_a_certificate_of_the_project_and_both_ends_must_show_theirs(kits):
    from cryptography import x509

    root = x509.load_pem_x509_certificate((kits / "localhost" / "startup" / "rootCA.pem").read_bytes())
    for name, kind in (("localhost", "server"), *((site, "client") for site in (*SITES, ADMIN))):
        startup = kits / name / "startup"
        certificate = x509.load_pem_x509_certificate((startup / f"{kind}.crt").read_bytes())
        certificate.verify_directly_issued_by(root)
        names = certificate.subject.get_attributes_for_oid(x509.oid.NameOID.COMMON_NAME)
        assert [part.value for part in names] == [name]
        assert (startup / "rootCA.pem").read_bytes() == (kits / "localhost" / "startup" / "rootCA.pem").read_bytes()
    server = json.loads((kits / "localhost" / "startup" / "fed_server.json").read_text())
    client = json.loads((kits / "center-a" / "startup" / "fed_client.json").read_text())
    assert server["servers"][0]["connection_security"] == client["client"]["connection_security"] == "mtls"
    assert server["require_signed_jobs"] is client["require_signed_jobs"] is True


@needs_flare
def test_no_role_may_bring_code_to_a_site_or_read_its_files(kits):
    from nvflare.fuel.sec.authz import AuthzContext, Person
    from nvflare.security.security import FLAuthorizer

    policy = json.loads((kits / "center-a" / "local" / "authorization.json.default").read_text())
    authorizer = FLAuthorizer("center_a", policy)

    def may(role, right):
        user = Person("someone", "coordination", role)
        return authorizer.authorize(AuthzContext(right, user, submitter=user))[0]

    roles = ("project_admin", "lead", "org_admin", "member")
    assert [role for role in roles if may(role, "submit_job")] == ["project_admin", "lead"]
    for right in ("byoc", "cat", "ls", "tail", "grep", "head", "pwd", "server-predeployed-flwr"):
        assert not any(may(role, right) for role in roles), right
    assert may("project_admin", "shutdown") and not may("lead", "shutdown")


@needs_flare
def test_a_site_builds_no_other_class_and_keeps_its_logs(kits):
    from nvflare.apis.fl_exception import UnsafeComponentError
    from nvflare.apis.workspace import Workspace
    from nvflare.app_common.widgets.component_path_authorizer import ComponentPathAuthorizer

    workspace, authorizer = Workspace(str(kits / "center-a"), "center-a"), ComponentPathAuthorizer()
    for name in CLASSES:
        authorizer.authorize_component_config({"path": name}, workspace=workspace)
    for name in ("subprocess.Popen", "nvflare.app_common.np.np_trainer.NPTrainer", "dqc_lib.federation.flare"):
        with pytest.raises(UnsafeComponentError, match="not in allow_list"):
            authorizer.authorize_component_config({"path": name}, workspace=workspace)
    assert json.loads((kits / "center-a/local/resources.json.default").read_text())["allow_log_streaming"] is False


def test_a_policy_is_written_where_there_is_no_kit_too(tmp_path):
    write_policy(tmp_path)
    assert json.loads((tmp_path / "resources.json.default").read_text())["class_allow_list"] == list(CLASSES)


@needs_flare
def test_the_files_that_the_readme_names_are_those_of_the_kits(kits):
    text = README.read_text(encoding="utf-8")
    named = re.findall(r"^\| `((?:KIT|SERVER|CONSOLE)/\S+)` \|", text, re.MULTILINE)
    assert len(named) > 10
    for name in named:
        owner, _, path = name.partition("/")
        folders = {"KIT": [kits / site for site in SITES], "SERVER": [kits / "localhost"], "CONSOLE": [kits / ADMIN]}
        missing = [str(folder / path) for folder in folders[owner] if not (folder / path).is_file()]
        assert bool(missing) == (path == "local/dqc.json"), missing  # which the center makes
    assert (README.parent / "project.yml").is_file()


def read_script(number):
    """Return a block of Python from the README."""
    return re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)[number]


def await_true(condition, *, seconds, log):
    """Return when the condition holds; fail with the end of the log."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, log.read_text()[-3000:] if log.exists() else f"no {log}"
        time.sleep(0.2)


@pytest.fixture
def launch():
    """A function that starts a command in the background; all that comes of it is ended with the test."""
    mark, started = str(uuid.uuid4()), []

    def start(command, *, cwd, output):
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # the kits' scripts call python3
        options = {"env": os.environ | {MARK: mark, "PATH": path}, "cwd": cwd, "start_new_session": True}
        with output.open("wb") as stream:
            started.append(subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, **options))
        return started[-1]

    start.list_running = lambda: list_marked(mark)
    yield start
    end_marked(mark)
    for process in started:
        process.wait()


CONSOLE = """
import sys
from nvflare.fuel.flare_api.flare_api import new_secure_session

kit, job = sys.argv[1:]
session = new_secure_session(kit, kit)
print("job:", session.wait_for_job(session.submit_job(job), timeout=100)["status"])
try:
    print("file:", session.cat_target("center-a", file="local/dqc.json"))
except Exception as error:
    print("file:", error)
session.shutdown("all")
"""


def write_bringing_code(job):
    """Write a job with a file of code in it, and return its folder."""
    from dqc_lib.federation.flare import make_recipe

    make_recipe(job / "none").export(str(job))
    (job / "travelling" / "app" / "custom").mkdir()
    (job / "travelling" / "app" / "custom" / "own.py").write_text("VALUE = 1\n")
    return job / "travelling"


def read_texts(*folders):
    """Return what is in the files of folders, by path."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {path: path.read_bytes().decode("utf-8", "replace") for path in files}


@needs_flare
@pytest.mark.timeout(600)
def test_a_run_from_the_kits_decides_as_one_process_does_and_a_site_without_images_is_named(
    kits, parts, launch, tmp_path
):
    kits = shutil.copytree(kits, tmp_path / "kits")
    cohort, by_site = parts
    model = build_sfcn(VolumeCache(cohort.table.set_index("subject")["path"].to_dict()).shape, width=NARROW)
    freeze_normalization(model)
    start, run = Start.of(model), tmp_path / "run-1"
    start.save(tmp_path / "start.npz")

    def work(script, *arguments, name):
        """Run a script where the kits are, and return what it said."""
        output, words = tmp_path / f"{name}.out", script.replace("/srv/dqc/run-1", str(run))
        words = words.replace('"start.npz"', repr(str(tmp_path / "start.npz"))).replace("[1e-4] * 5", "[1e-4]")
        process = launch([sys.executable, "-c", words, *map(str, arguments)], cwd=kits, output=output)
        await_true(lambda: process.poll() is not None, seconds=250, log=output)
        assert process.returncode == 0, output.read_text()
        return output.read_text()

    work(read_script(0), name="task")
    for site, part in by_site.items():
        write_images(part, tmp_path / f"images-of-{site}")
    for name in ("localhost", *SITES):
        launch(["bash", "startup/sub_start.sh", "--once"], cwd=kits / name, output=tmp_path / f"{name}.out")
    log = kits / "localhost" / "log.txt"
    for site in SITES:
        await_true(lambda site=site: log.exists() and f"New client {site}" in log.read_text(), seconds=100, log=log)

    assert "FINISHED:EXECUTION_EXCEPTION" in work(read_script(1), name="without")
    fault = {
        "place": "center-a, center-b",
        "what": "'open' ended in FileNotFoundError; what it says is in the log of the site",
    }
    assert json.loads((run / FAULT).read_text()) == fault
    (told,) = (kits / "center-a").glob("*/log.txt")
    assert told.read_text().count(f"cannot be used: {kits / 'center-a' / 'local' / 'dqc.json'}: no such file") == 1
    assert not (run / END).exists()

    for site in SITES:
        write_settings(kits / site / "local", tmp_path / f"images-of-{site}")
    assert "FINISHED:COMPLETED" in work(read_script(1), name="with")
    engine = LocalCenters(cohort, start.build(), batch_size=5)
    cycles = plan_cycles(group_by_center(cohort), learning_rates=[1e-4])
    ledger, _ = travel(engine, cycles, rule=PublishedRule(tolerance=0.02), progress=False)
    compare(Ledger.read(run / LEDGER), ledger)
    assert len(ledger) > 1
    for mine, theirs in zip(Start.load(run / END).arrays, Start.of(engine.model).arrays, strict=True):
        np.testing.assert_array_equal(mine, theirs)

    said = work(CONSOLE, ADMIN, write_bringing_code(tmp_path / "code"), name="console")
    assert re.search(r"^job: FINISHED:FAILED_TO_RUN$", said, re.MULTILINE), said
    assert re.search(r"^file: user not authorized", said, re.MULTILINE), said
    await_true(lambda: not launch.list_running(), seconds=60, log=log)
    assert "Failed to deploy app 'app': BYOC not permitted" in log.read_text()
    seen = read_texts(kits / "localhost", kits / ADMIN, run)
    assert not [path for path, text in seen.items() if "images-of-" in text or "_T1w" in text]
