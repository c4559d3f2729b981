"""What crosses the wire when sites are processes on NVIDIA FLARE: every byte that they send is recorded and read.

FLARE's simulator connects its processes by TCP without TLS, and FLARE does not compress: what is recorded where Python
hands bytes to a socket is what the other side gets. Two tests list what our own calls and answers may hold; `PATTERNS`
and `WORDS` are what FLARE may add.
"""

import gzip
import json
import os
import re
import shutil
import struct
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from dqc_lib.cohort import Cohort, read_bids, split_by_subject, write_bids
from dqc_lib.federation import Start, Task, Terms, write_task
from dqc_lib.federation.server import read_sessions
from dqc_lib.ledger import Ledger
from dqc_lib.networks import build_sfcn, freeze_normalization
from dqc_lib.quality import CalibratedRule, PublishedRule
from dqc_lib.travelling import LocalCenters, group_by_center, plan_cycles, watch
from dqc_lib.travelling.batches import predict_subjects
from dqc_lib.volumes import VolumeCache

if find_spec("nvflare") is None:
    reason = "NVIDIA FLARE, of the extra 'federation', is not installed"
    pytest.skip(reason, allow_module_level=True)

SAMPLES = Path(__file__).parent.parent / "data_samples"
SITES = ("site-1", "site-2")  # two centers each
PLAN = {"learning_rates": (1e-5,), "batch_size": 2}

# Python loads a module of this name whenever it starts, so each process of a run records what it sends.
RECORDER = """
import os, socket, sys, weakref
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path

folder, numbers, files = Path(os.environ["DQC_WIRE"]), count(), weakref.WeakKeyDictionary()

def record(end, data, kind):
    owner, path = files.get(end, (None, None))
    if owner != os.getpid():  # a child that was forked has a copy of what its parent knew
        path = folder / f"{os.getpid()}-{next(numbers)}.{kind}"
        files[end] = os.getpid(), path
    with path.open("ab") as file:
        file.write(data)

def record_part(name):
    plain = getattr(socket.socket, name)

    def send(self, data, *rest):
        n = plain(self, data, *rest)
        record(self, bytes(memoryview(data).cast("B")[:n]), "socket")
        return n

    setattr(socket.socket, name, send)

def record_all(kind, name, suffix):
    plain = getattr(kind, name)

    def send(self, data, *rest):
        record(self, b"".join(map(bytes, data)) if name == "sendmsg" else bytes(data), suffix)
        return plain(self, data, *rest)

    setattr(kind, name, send)

record_part("send")
record_part("sendto")
record_all(socket.socket, "sendall", "socket")
record_all(socket.socket, "sendmsg", "socket")
record_all(Connection, "_send", "pipe")

def note(event, arguments):
    if event == "socket.connect":
        with (folder / f"{os.getpid()}.connected").open("a") as file:
            print(arguments[1], file=file)

sys.addaudithook(note)
"""

SIMULATED = """
import sys
from pathlib import Path
from nvflare.recipe import SimEnv
from dqc_lib.federation.flare import make_recipe

folder, sites = Path(sys.argv[1]), sys.argv[2:]
recipe = make_recipe(folder / "server", {site: folder / "data" / site for site in sites})
recipe.execute(SimEnv(clients=sites, workspace_root=str(folder / "workspace"), log_config="concise"))
"""


@pytest.fixture(scope="module")
def cohort():
    """A few subjects of four centers of the sample cohort."""
    table = split_by_subject(read_bids(SAMPLES)).table
    table = table[table["center"].isin(table["center"].unique()[: 2 * len(SITES)]) & (table["role"] != "test")]
    groups, train = table.groupby(["center", "role", "diagnosis"], sort=False), table["role"] == "train"
    return Cohort(table[groups.cumcount() < np.where(train, 1, 2)], SAMPLES)


def list_verifying(cohort):
    return list(cohort.table.query("role == 'verification'")["subject"])


@dataclass(frozen=True)
class Made:
    """What a run sets out with."""

    start: Start
    scale: bytes
    rule: CalibratedRule


@pytest.fixture(scope="module")
def made(cohort, tmp_path_factory):
    """An untrained model whose scores lie around the threshold, and a rule that has nearly every attempt verified."""
    volumes = VolumeCache(cohort.table.set_index("subject")["path"].to_dict())
    model = build_sfcn(volumes.shape, width=0.0625, learning_rate=PLAN["learning_rates"][0])
    freeze_normalization(model)
    scores = predict_subjects(model, volumes, list_verifying(cohort)).astype(np.float64)
    middle = np.sort(scores)[len(scores) // 2 - 1 :][:2].mean()  # and none is the threshold itself, which crosses
    model.get_layer("dense").bias.assign([np.log(1 / middle - 1)])
    start, engine = Start.of(model), LocalCenters(cohort, model)
    watched = watch(engine, plan_cycles(group_by_center(cohort), **PLAN)[0], progress=False)
    path = tmp_path_factory.mktemp("scale") / "scale.npz"
    engine.scale.save(path)
    rule = CalibratedRule(limit=float(watched["update_norm"].min()) / 4, acquittal=1)
    return Made(start, path.read_bytes(), rule)


def list_parts(cohort):
    """Return what each site holds."""
    return {
        site: cohort.select(centers=cohort.centers[2 * number : 2 * number + 2]) for number, site in enumerate(SITES)
    }


def write_data(cohort, folder):
    """Write each site's own folder."""
    for site, part in list_parts(cohort).items():
        write_bids(part, folder / site)
        for subject in part.table["subject"]:
            shutil.copytree(SAMPLES / subject / "anat", folder / site / subject / "anat")


def run_recorded(folder, start, *, rule, scale=None):
    """Run on FLARE with all that is sent recorded in the folder "wire", and return how the run ended."""
    write_task(folder / "server", Task(start, rule, scale=scale, revisit_after=1, **PLAN), Terms(list(SITES)))
    (folder / "wire").mkdir()
    (folder / "recorder").mkdir()
    (folder / "recorder" / "sitecustomize.py").write_text(RECORDER)
    paths = [str(folder / "recorder"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"DQC_WIRE": str(folder / "wire"), "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-c", SIMULATED, str(folder), *SITES]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=folder, env=environment)


@dataclass(frozen=True)
class Frame:
    """A frame, see `nvflare/fuel/f3/sfm/sfm_conn.py`: 16 bytes of lengths, type and number, then headers, then body."""

    number: int
    head: dict
    body: bytes


def read_frames(stream):
    """Return the frames of one end of a connection; the whole stream has to be frames."""
    from msgpack import unpackb

    at, frames = 0, []
    while at < len(stream):
        length, n_head, _, _, _, _, _, number = struct.unpack_from(">IHBBHHHH", stream, at)
        assert at + length <= len(stream), "the stream ends within a frame"
        head, body = stream[at + 16 : at + 16 + n_head], stream[at + 16 + n_head : at + length]
        frames.append(Frame(number, unpackb(head) if head else {}, body))
        at += length
    return frames


@dataclass(frozen=True)
class Message:
    """What a message says, and the headers it came with; a frame without a body says None."""

    head: dict
    says: object


def read_messages(frames):
    """Return the messages; those of more than 1 MiB come in several frames."""
    from msgpack import unpackb

    parts = defaultdict(list)
    for frame in frames:
        topic = frame.head.get("cn__topic")
        key = frame.head["sm__id"] if topic == "sm__DATA" else -frame.number - 1
        parts[key].append(frame)
    messages = []
    for of in parts.values():
        of.sort(key=lambda frame: frame.head.get("sm__sq", 0))
        body = b"".join(frame.body for frame in of)
        if of[0].head.get("sm__pe") == "fobs":  # marker, number of a type, length; then msgpack
            marker, _, length = struct.unpack_from(">BBQ", body)
            assert (marker, length) == (100, len(body) - 10), "something beside the message itself is in it"
            body = body[10:]
        messages.append(Message(of[0].head, unpackb(body, strict_map_key=False) if body else None))
    return messages


class Recording:
    """What all processes of a run sent."""

    def __init__(self, folder):
        wire = folder / "wire"
        self.streams = {path.stem: path.read_bytes() for path in sorted(wire.glob("*.socket"))}
        self.pipes = {path.stem: path.read_bytes() for path in sorted(wire.glob("*.pipe"))}
        self.frames = {name: read_frames(stream) for name, stream in self.streams.items()}
        self.sender = {}
        for name, frames in self.frames.items():
            (first,) = read_messages(frames[:1])  # who connects says who it is
            self.sender[name] = first.says["fqcn"].split(".")[0]
        self.messages = {
            party: [
                message
                for name, frames in self.frames.items()
                if self.sender[name] == party
                for message in read_messages(frames)
            ]
            for party in ("server", *SITES)
        }
        self.connected = {path.stem: path.read_text().splitlines() for path in sorted(wire.glob("*.connected"))}
        self.wire = b"\0".join(self.streams.values())
        self.all = b"\0".join([self.wire, *self.pipes.values()])  # the simulator's own talk with its children, too

    def list_calls(self):
        """Return (site, call, what it was asked, what it answered) of all calls."""
        asked = {
            message.head["sm__ri"]: (message.head["cn__destination"].split(".")[0], message.says)
            for message in self.messages["server"]
            if message.head.get("sm__tp") == "call"
        }
        calls = []
        for site in SITES:
            for message in self.messages[site]:
                if message.head.get("sm__tp") == "collab:call":
                    to, question = asked.pop(message.head["sm__ri"])
                    assert to == site
                    calls.append((site, question["method_name"], question["kwargs"], message.says["result"]))
        assert not asked, "calls without an answer"
        return calls


@pytest.fixture(scope="module")
def run(cohort, made, tmp_path_factory):
    """A run that ends well: its folder and what was recorded."""
    folder = tmp_path_factory.mktemp("well")
    write_data(cohort, folder / "data")
    done = run_recorded(folder, made.start, rule=made.rule, scale=made.scale)
    assert done.returncode == 0 and (folder / "server" / "end.npz").exists(), done.stderr[-3000:]
    return folder, Recording(folder)


def list_leaves(value):
    """Return all that a message holds, its keys included."""
    if isinstance(value, dict):
        return [leaf for pair in value.items() for part in pair for leaf in list_leaves(part)]
    if isinstance(value, list | tuple):
        return [leaf for part in value for leaf in list_leaves(part)]
    return [value]


def test_the_recording_is_all_that_was_sent(run):
    folder, recording = run
    assert Counter(recording.sender.values()) == {"server": 2, "site-1": 1, "site-2": 1}, "one connection per site"
    for name, frames in recording.frames.items():
        numbers = Counter(frame.number for frame in frames)  # threads take a number and then queue, so two may cross
        assert numbers == Counter(n % 2**16 for n in range(1, len(frames) + 1)), f"frames of {name} are missing"
    for name, sender in recording.sender.items():
        if sender != "server":
            opened = recording.connected[name.split("-")[0]]
            assert len(opened) == 1 and opened[0].startswith("('localhost'"), f"{sender} connects to {opened}"
    (session,), calls = read_sessions(folder / "server"), recording.list_calls()
    traffic = session["traffic"]
    assert {row["call"] for row in traffic} == {"open", "train", "verify", "measure"}
    for call in ("open", "train", "verify", "measure"):
        rows, seen = [row for row in traffic if row["call"] == call], [of for of in calls if of[1] == call]
        at_once = 1 if call == "train" else len(SITES)
        assert len(seen) == at_once * sum(row["calls"] for row in rows), call
        sent = [leaf for _, _, asked, _ in seen for leaf in list_leaves(asked) if isinstance(leaf, bytes)]
        back = [leaf for *_, answer in seen for leaf in list_leaves(answer) if isinstance(leaf, bytes)]
        assert sum(map(len, sent)) == sum(row["out"] for row in rows), call
        assert sum(map(len, back)) == sum(row["back"] for row in rows), call
    trained = sum(of[1] == "train" for of in calls)
    assert trained >= len(Ledger.read(folder / "server" / "ledger.jsonl"))


def test_a_site_answers_with_names_counts_sums_and_weights_only(run, cohort, made):
    _, recording = run
    table, n_bytes = cohort.table, made.start.layout.n_bytes
    for site, call, _, result in recording.list_calls():
        assert set(result) == {"answer"}, call
        answer, number = result["answer"], SITES.index(site)
        centers = cohort.centers[2 * number : 2 * number + 2]
        if call == "train":
            assert set(answer) == {"weights", "norm"}
            assert len(answer["weights"]) == n_bytes
            assert type(answer["norm"]) is float
            continue
        assert list(answer) == centers, call
        for center, said in answer.items():
            own = table[table["center"] == center]
            held = own[own["role"] == "verification"]
            n = [int((held["diagnosis"] == of).sum()) for of in (0, 1)]
            if call == "open":
                assert said == {"train": list(own[own["role"] == "train"]["subject"]), "verification": n}
            elif call == "verify":  # false positives, of how many; false negatives, of how many; no sum of losses
                assert [type(part) for part in said] == [int, int, int, int, type(None)]
                assert [said[1], said[3]] == n
            else:  # a sum of logarithms of norms, of how many images
                assert [type(part) for part in said] == [float, int] and said[1] <= sum(n)


def test_a_site_is_asked_with_the_model_and_names_of_its_own_training_subjects(run, cohort, made):
    _, recording = run
    training = group_by_center(cohort)
    for site, call, asked, _ in recording.list_calls():
        if call == "open":
            options = {
                "design": made.start.design,
                "threshold": 0.5,
                "batch_size": PLAN["batch_size"],
                "scale": made.scale,
            }
            assert asked == options
        elif call == "train":
            assert set(asked) == {"weights", "center", "subjects", "alone", "sizes"}
            assert len(asked["weights"]) == made.start.layout.n_bytes
            number = cohort.centers.index(asked["center"])
            assert number // 2 == SITES.index(site) and set(asked["subjects"]) <= set(training[asked["center"]])
            assert type(asked["alone"]) is bool and set(map(type, asked["sizes"])) == {int}
        else:
            assert len(asked["weights"]) == made.start.own_layout.n_bytes
            others = {name: value for name, value in asked.items() if name != "weights"}
            assert others == ({"loss": False} if call == "verify" else {})


# What FLARE itself has a site say: what the site is called, which job it is in, what it can be asked, that it is there.
PATTERNS = (
    r"__\w+__|(cn|sm|collab)__\w+",  # FLARE's own words
    r"nvflare(\.\w+)+",  # its classes
    r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",  # random names of messages and of the session
    r"(server|site-[12])(\.simulate_job)?|simulate_job|simulator_server",
    r"(aux_communication|server_command|collab|return_only)(:\w+)?",  # channels
)
WORDS = {
    "client_name", "ssid", "NA", "project_name", "fqcn", "endpoint_name", "timestamp",
    "req", "ok", "OK", "fobs", "bytes", "none", "", "value", "mask", "last_task_id", "task_name",
    "sync", "setup", "get_task", "submit_update", "call", "controller", "tuple",
    "collab_interface", "client_interfaces", "server_fqcn", "client", "server", "result",
    "name", "kind", "required", "POSITIONAL_OR_KEYWORD", "bye", "cellnet.channel",
}  # fmt: skip
CALLS = {"open", "train", "verify", "measure", "sum_features", "name_verification", "sum_squares", "measure_images"}
INTERFACE = CALLS | {
    "design", "threshold", "batch_size", "scale", "weights", "center", "subjects", "alone", "sizes", "loss", "layer",
    "exclude",
}  # fmt: skip


def test_what_flare_adds_says_nothing_of_a_machine_its_user_or_its_files(run):
    _, recording = run
    for site in SITES:
        for message in recording.messages[site]:
            says = message.says if message.head.get("sm__tp") != "collab:call" else sorted(message.says)
            leaves = list_leaves(message.head) + list_leaves(says)
            strange = {
                leaf
                for leaf in leaves
                if isinstance(leaf, str)
                and leaf not in WORDS | INTERFACE
                and not any(re.fullmatch(pattern, leaf) for pattern in PATTERNS)
            }
            assert not strange, f"{site} says {strange} in {message.head}"
            kinds = {type(leaf) for leaf in leaves}
            assert kinds <= {str, int, float, bool, type(None)}, f"{site} sends {kinds} in {message.head}"


def _shorten(words):
    """Return 16 bits that depend on all 64 of each word."""
    return (words * np.array([0x9E3779B97F4A7C15], "<u8")) >> np.uint64(48)


def find(needles, haystack):
    """Return the names of those needles, of at least 8 bytes, that occur anywhere."""
    by_start, first = defaultdict(list), {}
    for name, needle in needles:
        by_start[needle[:8]].append((name, needle))
        first[int.from_bytes(needle[:8], "little")] = needle[:8]
    starts, found = np.array(sorted(first), dtype="<u8"), set()
    known = np.zeros(2**16, bool)
    known[_shorten(starts)] = True
    for offset in range(8):
        words = np.frombuffer(haystack, "<u8", count=(len(haystack) - offset) // 8, offset=offset)
        likely = np.flatnonzero(known[_shorten(words)])
        nearest = starts[np.minimum(np.searchsorted(starts, words[likely]), len(starts) - 1)]
        for at in likely[nearest == words[likely]]:
            place = offset + 8 * int(at)
            found |= {name for name, of in by_start[first[int(words[at])]] if haystack.startswith(of, place)}
    return found


def list_paths(cohort, folder):
    """Return all that would tell of a site's files and of its table, but for the names of subjects that train."""
    texts = [str(folder), str(SAMPLES), "participants.tsv", "participant_id", "diagnosis", "_T1w.nii", "/anat/sub-"]
    for site in SITES:
        lines = (folder / "data" / site / "participants.tsv").read_text().splitlines()
        texts += [line[line.index("\t") :] for line in lines]
    texts += [f"{name}_T1w" for name in cohort.table["subject"]] + list_verifying(cohort)
    return [(text, text.encode()) for text in texts]


def spread_windows(line, size, n=4):
    """Return some windows of many values and without a zero, spread over a run of bytes."""
    windows = [line[at : at + size] for at in range(0, len(line) - size, size)]
    telling = [window for window in windows if len(set(window)) >= size // 2 and all(window)]
    assert len(telling) >= n
    return telling[:: len(telling) // n]


def list_images(cohort):
    """Return windows of all images in every form that they have on their way from file to network, and as lists."""
    from msgpack import packb

    needles = []
    table = cohort.table.set_index("subject")
    volumes = VolumeCache(table["path"].to_dict())
    for subject, path in table["path"].items():
        packed = Path(path).read_bytes()
        needles += [((subject, "file"), part) for part in spread_windows(packed, 32)]
        needles += [((subject, "unpacked file"), part) for part in spread_windows(gzip.decompress(packed)[352:], 16)]
        voxels = volumes[subject]
        assert voxels.dtype == np.uint8
        np.testing.assert_array_equal(volumes.batch([subject])[0, ..., 0], voxels)  # as the network gets it, in float32
        for part in spread_windows(voxels.tobytes(), 16):
            window = np.frombuffer(part, np.uint8)
            for kind in ("u1", "<i2", ">i2", "<i4", ">i4", "<f2", ">f2", "<f4", ">f4", "<f8", ">f8"):
                needles.append(((subject, kind), window.astype(kind).tobytes()))
            for kind in (int, float):
                numbers = [kind(number) for number in window]
                needles.append(((subject, kind, "packed"), packb(numbers)[1:]))
                needles.append(((subject, kind, "text"), json.dumps(numbers)[1:-1].encode()))
    return needles


def list_scores(cohort, start):
    """Return the scores of the verification subjects by the model that the run sets out with, up to rounding: one in 8
    bytes, two in a row in 4 each, and as text."""
    needles, model = [], start.build()
    for part in list_parts(cohort).values():
        rows = LocalCenters(part, model, part_of_cohort=True).score("verification")
        near = []
        for subject, score in zip(rows["subject"], rows["score"].to_numpy(np.float32), strict=True):
            down, up = np.nextafter(score, np.float32(0)), np.nextafter(score, np.float32(1))
            near.append(np.array([down, score, up]))
            for value in near[-1]:
                needles += [((subject, kind), np.array(value, kind).tobytes()) for kind in ("<f8", ">f8")]
                needles.append(((subject, "text"), f"{value:.9f}"[:10].encode()))
        for number, (one, other) in enumerate(zip(near, near[1:], strict=False)):
            pairs = [np.array([a, b]) for a in one for b in other]
            subject = rows["subject"].iloc[number]
            needles += [((subject, kind), pair.astype(kind).tobytes()) for pair in pairs for kind in ("<f4", ">f4")]
    return needles


def check_absent(needles, haystack):
    """None is in the haystack; and each is found once it is put there, so that finding none says something."""
    assert find(needles, haystack) == set()
    planted = haystack[:1003] + b"\0".join(needle for _, needle in needles) + haystack[1003:]
    assert find(needles, planted) == {name for name, _ in needles}


def test_no_path_no_file_name_and_nothing_of_the_table_but_training_names_crosses(run, cohort):
    folder, recording = run
    training = [name for names in group_by_center(cohort).values() for name in names]
    assert find([(name, name.encode()) for name in training], recording.wire) == set(training), "what crosses is found"
    check_absent(list_paths(cohort, folder), recording.wire)


def test_no_image_crosses(run, cohort, made):
    _, recording = run
    array = max(made.start.arrays, key=np.size).ravel()
    assert find([("weights", array[:8].tobytes())], recording.all) == {"weights"}, "what crosses is found"
    check_absent(list_images(cohort), recording.all)


def test_no_prediction_of_a_verification_subject_crosses(run, cohort, made):
    folder, recording = run
    first = next(asked for _, call, asked, _ in recording.list_calls() if call == "verify")
    own = b"".join(np.asarray(variable).tobytes() for variable in made.start.build().variables)
    assert first["weights"] == own, "the model that the run sets out with has been verified"
    check_absent(list_scores(cohort, made.start), recording.all)


def test_what_an_error_at_a_site_says_stays_there(cohort, made, tmp_path):
    write_data(cohort, tmp_path / "data")
    subject = list_verifying(list_parts(cohort)["site-2"])[-1]
    broken = tmp_path / "data" / "site-2" / subject / "anat" / f"{subject}_T1w.nii.gz"
    assert broken.exists()
    broken.write_bytes(b"no image")
    run_recorded(tmp_path, made.start, rule=PublishedRule(tolerance=0.03))
    recording = Recording(tmp_path)
    answers = [(site, result) for site, call, _, result in recording.list_calls() if call == "verify"]
    assert answers[-1] == ("site-2", {"fault": "ValueError"})
    assert not (tmp_path / "server" / "end.npz").exists()
    (logs,) = (tmp_path / "workspace").glob("*/site-2")
    assert str(broken) in (logs / "log.txt").read_text(), "the site's own log says which file it was"
    # which FLARE's start-up kits for real sites send to the server, unless `allow_log_streaming` is false
    assert broken.name not in (logs / "error_log.txt").read_text()
    check_absent(list_paths(cohort, tmp_path), recording.wire)
