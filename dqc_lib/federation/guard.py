"""A command of which nothing outlives the process that runs it, however that process ends.

FLARE's processes leave their parents and their sessions, so that neither a signal to a group nor the tree of processes
reaches all of them. What each inherits is its environment: a mark in it says what belongs to the command. Between the
command and the process that runs it stands a guard, which is this file as a program: when the command ends, or the
process that runs it does, it ends whatever bears the mark. Should the guard itself be killed, that process does it;
should both be killed at once, the next run in the same folder does.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

MARK = "DQC_FEDERATION_RUN"
GRACE = 4.0
"""Seconds between the request to end and the end by force."""


@contextmanager
def run_guarded(command: Sequence[str], *, mark: str, output: Path) -> Iterator[subprocess.Popen]:
    """Run a command; when the context is left, whichever way, nothing of it is left, nor of its temporary files.

    Parameters
    ----------
    command : sequence of str
        Its temporary files belong into the folder that the variable `TMPDIR` names, which is removed with it.
    mark : str
        Value of the variable `DQC_FEDERATION_RUN` of the command and all that it starts, no other command's: whatever
        bears it is ended.
    output : path
        What the command says is added to this file.

    Yields
    ------
    subprocess.Popen
        The guard, which ends when the command has, with its exit status.
    """
    with TemporaryDirectory(prefix="dqc-", ignore_cleanup_errors=True) as scratch, output.open("ab") as stream:
        guard = subprocess.Popen(
            [sys.executable, "-P", __file__, scratch, *command],  # not as a module, which would load the library
            stdin=subprocess.PIPE,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=os.environ | {MARK: mark, "TMPDIR": scratch},
            start_new_session=True,  # what is typed at a terminal is for us alone
        )
        try:
            yield guard
        finally:
            guard.stdin.close()
            try:
                with suppress(subprocess.TimeoutExpired):
                    guard.wait(2 * GRACE)
            finally:
                end_marked(mark)
                guard.wait()


def end_marked(mark: str) -> None:
    """End all processes that bear the mark but this one, and return when there is none."""
    import psutil

    deadline, asked = time.monotonic() + GRACE, set()
    while found := list_marked(mark):  # again after each round: who was asked may have started another
        for process in found:
            with suppress(psutil.NoSuchProcess):
                if time.monotonic() > deadline:
                    process.kill()
                elif process not in asked:
                    process.terminate()
        asked.update(found)
        time.sleep(0.05)


def list_marked(mark: str) -> list[psutil.Process]:
    """Return the processes that bear the mark but this one; not those that have ended and wait to be collected."""
    import psutil

    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # gone meanwhile, or somebody else's
            if process.pid != os.getpid() and process.environ().get(MARK) == mark:
                if process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
    return found


def main(scratch: str, *command: str) -> int:
    """Run the command until it ends, or the process at the other end of standard input does; return its status."""
    ends: SimpleQueue = SimpleQueue()
    parent = os.getppid()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ends.put(None))
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    for wait in (sys.stdin.buffer.read, process.wait):
        threading.Thread(target=lambda wait=wait: ends.put(wait()), daemon=True).start()
    while os.getppid() == parent:  # a copy of the pipe's end may live on in a process that the parent forked
        with suppress(Empty):
            ends.get(timeout=1)
            break
    status = process.poll()
    end_marked(os.environ[MARK])
    shutil.rmtree(scratch, ignore_errors=True)
    return 1 if status is None or status < 0 else status


if __name__ == "__main__":
    os._exit(main(*sys.argv[1:]))  # a thread may still be reading
