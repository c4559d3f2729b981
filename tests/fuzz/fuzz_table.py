"""Coverage-guided fuzzing of the readers of participants tables; see CONTRIBUTING.md for how to run it.

Whatever the bytes of the file, reading gives a cohort that survives being written and read again, or one error that
names the file or the subject without an image.
"""

import atexit
import os
import shutil
import sys
import tempfile
from functools import cache
from pathlib import Path
from random import Random

HEADERS = (b"participant_id\tsite\tdiagnosis\tsex\tage\tscanner\trole\tharm\tplacement\n",)
HEADERS += (b"Subject,Study,Path,Group_bin,Sex,Age\n",)
SEEDS = (
    b"\0"
    + HEADERS[0]
    + b"sub-1\tA\tPD\tF\t61.5\tX\ttrain\tn/a\tn/a\nsub-2\tB\tHC\tmale\t58\tn/a\ttest\tblank\tsingle\n",
    b"\1" + HEADERS[1] + b"P1,S1,a.nii.gz,1,F,61\nP2,S2,./a.nii.gz,0.0,M,5e1\n",
    b'\2sub-1\tA\t"PD"\tF\t61\tX\ttrain\t\t\n\nsub-2\t"A ""B"""\t0\tm\t0\tX\tverification\t\t\n',
    b"\3P1,A," + b"x" * 300 + b".nii,1,F,61\n",
    b"\3P1,\xc3\x85,a.nii.gz,1,F,61\r\nP2,S2,a.nii.gz,0,M,58\r\n",
)


@cache
def make_folder() -> Path:
    """Return a folder with the images of sub-1 to sub-3, and one for a published table."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-table-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name in ("sub-1", "sub-2", "sub-3"):
        for root in (folder, folder / "again"):
            (root / name / "anat").mkdir(parents=True, exist_ok=True)
            (root / name / "anat" / f"{name}_T1w.nii.gz").touch()
    (folder / "a.nii.gz").touch()
    return folder


def check(data: bytes) -> None:
    """Read the bytes as a table, the first of them saying as which and whether a header is put before, and raise if
    anything comes of it but a cohort or an error that names its culprit."""
    from dqc_lib.cohort import read_bids, read_cohort, write_bids

    folder, mode, content = make_folder(), data[0] if data else 0, data[1:]
    path = folder / ("cohort.csv" if mode & 1 else "participants.tsv")
    path.write_bytes((HEADERS[mode & 1] if mode & 2 else b"") + content)
    try:
        cohort = read_cohort(path if mode & 1 else folder)
    except (ValueError, FileNotFoundError) as error:
        assert type(error) in (ValueError, FileNotFoundError), f"not an error of ours: {error!r}"
        assert str(folder) in str(error) or "image" in str(error), f"no culprit in {error!r}"
        assert error.__suppress_context__ or error.__context__ is None, f"two errors: {error.__context__!r} too"
        return
    try:
        write_bids(cohort, folder / "again", overwrite=True)
    except ValueError as error:
        assert "expected" in str(error), f"nothing expected in {error!r}"
        return
    if not mode & 1:
        again = read_bids(folder / "again").table.drop(columns="path")
        assert again.equals(cohort.table.drop(columns="path")), "written and read is not the same"


TOKENS = (
    *(
        b"",
        b"n/a",
        b"NaN",
        b"sub-1",
        b"sub-2",
        b"sub-9",
        b"../a",
        b"PD",
        b"hc",
        b"1",
        b"0.0",
        b"F",
        b"male",
        b"61",
        b"1e3",
    ),
    *(
        b"6_1",
        b"-0",
        b"nan",
        b"inf",
        b'"',
        b'""',
        b'"\t"',
        b"\xc2\xa0",
        b"\xff",
        b"\0",
        b"\xef\xbb\xbf",
        b"train",
        b"test",
    ),
    *(b"none", b"blank", b"single", b"a.nii.gz", b"./a.nii.gz", b" A ", b"\xe2\x80\xa8", b"\r", b"x" * 200_000),
)


def mutate(data: bytes, seed: int) -> bytes:
    """Return the table with one cell changed, or one row or cell more or less."""
    random, mode, lines = Random(seed), data[:1], data[1:].split(b"\n")
    delimiter = b"," if data[:1] in (b"\1", b"\3") else b"\t"
    at = random.randrange(len(lines))
    cells = lines[at].split(delimiter)
    cell, kind = random.randrange(len(cells)), random.randrange(6)
    if kind == 0:
        del cells[cell]
    elif kind == 1:
        lines.insert(at, lines[random.randrange(len(lines))])
    else:
        token = random.choice(TOKENS)
        cells[cell] = token if kind < 4 else cells[cell] + token
    lines[at] = delimiter.join(cells)
    return mode + b"\n".join(lines)


def main() -> None:
    """Fuzz until told to stop; the first argument is the folder of the corpus, the others are those of libFuzzer."""
    import atheris

    with atheris.instrument_imports(include=["dqc_lib"]):
        import dqc_lib.cohort  # noqa: F401
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
