"""Coverage-guided fuzzing of the reader of ledgers; see CONTRIBUTING.md for how to run it.

Whatever the bytes of the file, reading gives rows that can be tabulated, replayed and continued, or one error that
names the file and the line; and the file stays as it was.
"""

import atexit
import json
import os
import shutil
import sys
import tempfile
import warnings
from functools import cache
from pathlib import Path
from random import Random
from zlib import crc32

TABULATED = 16  # one of so many files that can be read is tabulated too: pandas takes most of the time
ROW = {
    "cycle": 3, "stage": "control", "level": "batch", "center": "A", "subjects": ["sub-1", "sub-2"], "n": 2,
    "update_norm": 210.5, "fp": 1, "n_neg": 8, "fn": 3, "n_pos": 4, "loss": 0.61, "reference_fp": 2,
    "reference_n_neg": 8, "reference_fn": 0, "reference_n_pos": 4, "reference_loss": 0.6, "exact": True,
    "tolerance": 0.02, "norm_limit": 740.0, "decision": "accepted", "seconds": 0.25,
}  # fmt: skip
PLAIN = dict.fromkeys(ROW) | {"cycle": 0, "stage": "closing", "level": "revisit", "center": "\u00e5", "n": 1}
PLAIN |= {"subjects": ["a"], "decision": "eliminated", "seconds": 0}
LINES = [json.dumps(row).encode() for row in (ROW, ROW | {"decision": "split"}, PLAIN, ROW | {"loss": float("nan")})]
ABSENT = {"cycle": 3, "stage": "control", "center": "A", "present": False, "reason": "A: no answer"}
PRESENCES = [json.dumps(row).encode() for row in (ABSENT, ABSENT | {"present": True, "reason": ""})]
SEEDS = (
    *(LINES[0] + b"\n", b"\n".join(LINES) + b"\n", LINES[2] + b"\n" + LINES[0][:50], LINES[3]),
    b"\n".join([LINES[0], PRESENCES[0], LINES[1], PRESENCES[1]]) + b"\n",
)


@cache
def make_folder() -> Path:
    """Return a folder for the file."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-ledger-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def check(data: bytes) -> None:
    """Read the bytes as a ledger, and raise if anything comes of it but rows or an error that names the line."""
    from dqc_lib.ledger import Ledger, summarize_centers, summarize_subjects
    from dqc_lib.quality import PublishedRule, replay

    path = make_folder() / "ledger.jsonl"
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ledger = Ledger.read(path)
        except ValueError as error:
            assert type(error) is ValueError, f"not an error of ours: {error!r}"
            assert f"{path}, line " in str(error), f"no culprit in {error!r}"
            assert error.__suppress_context__ or error.__context__ is None, f"two errors: {error.__context__!r} too"
            assert path.read_bytes() == data, "the file was changed"
            return
        assert path.read_bytes() == data, "the file was changed"
        str(ledger._repr_html_()).encode()
        if crc32(data) % TABULATED == 0:
            frame = ledger.to_frame()
            summarize_centers(frame)
            summarize_subjects(frame)
            assert len(replay(frame, PublishedRule())) == frame["stage"].isin(("control", "closing")).sum()
        continued = Ledger(path)
        assert repr(continued.rows) == repr(ledger.rows), "opened and read are not the same"
        assert continued.presences == ledger.presences, "those absent are not the same"
        continued.append(**ROW)
        assert repr(Ledger.read(path).rows) == repr(continued.rows), "the row that was appended is not there"


TOKENS = [
    None, True, 0, 1, -1, 2**63, 10**400, 0.5, float("nan"), float("inf"), "", "A", "sub-1", "\ud800", "\0", [], ["a"],
    ["a", "a"], [1], [[]], {}, "accepted", "eliminated", "deferred", "watch", "closing", "revisit", "single",
]  # fmt: skip


def mutate(data: bytes, seed: int) -> bytes:
    """Return the rows with one value, key or row changed; the bytes as they are where they are no rows."""
    random, lines = Random(seed), data.splitlines()
    try:
        at = random.randrange(len(lines))
        row = json.loads(lines[at])
        key = random.choice([*row, "colour"])
        kind = random.randrange(6)
        if kind == 0:
            del row[key]
        elif kind == 1:
            lines.insert(random.randrange(len(lines)), json.dumps(row).encode())
        else:
            row[key] = random.choice(TOKENS) if kind < 4 else random.choice([ROW, PLAIN])[key]
            if "subjects" in row and random.random() < 0.5:
                row["n"] = len(row["subjects"])
        lines[at] = json.dumps(row).encode()
    except (ValueError, TypeError, LookupError, AttributeError):
        return data
    return b"\n".join(lines) + b"\n" * random.randrange(2)


def main() -> None:
    """Fuzz until told to stop; the first argument is the folder of the corpus, the others are those of libFuzzer."""
    import atheris

    with atheris.instrument_imports(include=["dqc_lib"]):
        import dqc_lib.ledger
        import dqc_lib.quality  # noqa: F401
    corpus = Path(sys.argv[1])
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(SEEDS):
        (corpus / f"seed-{number}").write_bytes(seed)

    def change(data: bytes, most: int, seed: int) -> bytes:
        return mutate(data, seed)[:most] if seed % 2 else atheris.Mutate(data, most)

    atheris.Setup(sys.argv, check, custom_mutator=change)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
