"""What quality control costs beyond its arithmetic: `python -m benchmarks.cost`.

A run under the published rule, which verifies every attempt in full, and its floor, the same training steps and forward
passes bare, take turns on the cohort of data_samples. Ratios come from neighbouring turns, so that a slow moment of
the machine meets both; each is told as median, lowest and highest over the turns, for readers and then as JSON lines.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np

import dqc_lib as dqc
from dqc_lib.quality import Counts
from dqc_lib.travelling import Update, group_by_center, plan_cycles, travel
from dqc_lib.travelling.batches import predict_subjects

SAMPLES = Path(__file__).parent.parent / "data_samples"
GOALS = {"qc_over_floor": 1.10}
BOOK_KEEPING = 3.0  # milliseconds an attempt
RULE = dqc.PublishedRule(tolerance=0.02)


def open_centers(*, width: float, seed: int) -> dqc.LocalCenters:
    """Return the centers of data_samples with a model whose normalization is frozen."""
    from dqc_lib.networks import build_sfcn

    cohort = dqc.split_by_subject(dqc.read_bids(SAMPLES), seed=seed)
    shape = dqc.read_volume(cohort.table["path"].iloc[0]).shape
    engine = dqc.LocalCenters(cohort, build_sfcn(shape, width=width, seed=seed))
    engine.freeze()
    return engine


def plan(engine: dqc.LocalCenters, *, cycles: int, seed: int):
    """Return cycles over all training subjects."""
    return plan_cycles(group_by_center(engine.cohort), learning_rates=[1e-4] * cycles, seed=seed)


class Parts:
    """Seconds that a run spends in its parts, by name, and the steps, verifications and gradients in it.

    Images that another thread reads ahead cost nothing here unless they are waited for.
    """

    def __init__(self, engine: dqc.LocalCenters) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.batches: list[tuple[str, ...]] = []
        self.looks, self.gradients = 0, 0
        self._wrap(engine.volumes, "batch", "data")
        self._wrap(engine.model, "train_on_batch", "step")
        self._wrap(engine.model, "predict_on_batch", "forward passes")
        self._wrap(engine, "snapshot", "snapshot")
        self._wrap(engine, "restore", "snapshot")
        self._wrap(engine, "read_gradient", "gradients")
        train, verify, read = engine.train, engine.verify, engine.read_gradient

        def note_train(center, subjects, **options):
            self.batches.append(tuple(subjects))
            return train(center, subjects, **options)

        def note_verify(*arguments):
            self.looks += 1
            return verify(*arguments)

        def note_read(subject):
            self.gradients += 1
            return read(subject)

        engine.train, engine.verify, engine.read_gradient = note_train, note_verify, note_read

    def _wrap(self, owner, name: str, part: str) -> None:
        original = getattr(owner, name)

        def timed(*arguments, **options):
            started = time.perf_counter()
            try:
                return original(*arguments, **options)
            finally:
                if threading.current_thread() is threading.main_thread():
                    self.seconds[part] += time.perf_counter() - started

        setattr(owner, name, timed)


def run_control(engine: dqc.LocalCenters, cycles, folder: Path) -> tuple[float, dqc.Ledger]:
    """Return the seconds of a run under quality control, and its ledger, on disk as in a study."""
    path = folder / "ledger.jsonl"
    path.unlink(missing_ok=True)
    started = time.perf_counter()
    ledger, _ = travel(engine, cycles, rule=RULE, ledger=dqc.Ledger(path), progress=False)
    return time.perf_counter() - started, ledger


def run_floor(engine: dqc.LocalCenters, batches: list[tuple[str, ...]], looks: int) -> float:
    """Return the seconds of the same training steps and forward passes, all images at hand."""
    model, volumes, diagnosis = engine.model, engine.volumes, engine.cohort.table.set_index("subject")["diagnosis"]
    names = [name for members in engine.verification.values() for name in members]
    steps = [(volumes.batch(batch), diagnosis[list(batch)].to_numpy(np.float32)[:, None]) for batch in batches]
    chunks: list[np.ndarray] = []
    bare = type("Bare", (), {"predict_on_batch": staticmethod(lambda x: chunks.append(x) or np.zeros((len(x), 1)))})
    predict_subjects(bare, volumes, names)  # the chunks that a verification is cut into
    started = time.perf_counter()
    for images, labels in steps:
        model.train_on_batch(images, labels)
    for _ in range(looks):
        for chunk in chunks:
            model.predict_on_batch(chunk)
    return time.perf_counter() - started


def compare_with_floor(*, width: float, turns: int, cycles: int, seed: int) -> dict[str, list[float]]:
    """Return by name one ratio for each turn: the run over its floor, and each part's share of the run."""
    engine = open_centers(width=width, seed=seed)
    start, order = engine.snapshot(), plan(engine, cycles=cycles, seed=seed)
    parts = Parts(engine)
    ratios: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(turns + 1):
            engine.restore(start)
            parts.seconds.clear()
            parts.batches.clear()
            parts.looks = 0
            controlled, ledger = run_control(engine, order, Path(folder))
            shares = dict(parts.seconds)
            engine.restore(start)
            floor = run_floor(engine, parts.batches, parts.looks)
            if turn:  # the first one traces the network
                ratios["qc_over_floor"].append(controlled / floor)
                ratios["verifications_of_attempts"].append(parts.looks / len(ledger))
                for name in ("data", "step", "forward passes", "snapshot"):
                    ratios[f"{name.replace(' ', '_')}_of_run"].append(shares[name] / controlled)
                ratios["rest_of_run"].append(1 - sum(shares.values()) / controlled)
                seconds = np.array([row["seconds"] for row in ledger.rows])
                fifth = max(1, len(seconds) // 5)
                ratios["last_attempts_over_first"].append(seconds[-fifth:].mean() / seconds[:fifth].mean())
    return dict(ratios)


class EmptyCenters:
    """Centers without a network, so that nothing but the loop and the ledger takes time."""

    exact = True

    def train(self, center, subjects, *, alone=False) -> Update:
        return Update(0.0)

    def verify(self, asks, harmful=None) -> dict[str, Counts]:
        return {"A": Counts(0, 10, 0, 10)}

    def snapshot(self) -> None:
        return None

    def restore(self, snapshot) -> None:
        pass

    def set_learning_rate(self, rate) -> None:
        pass

    def adjust_unit(self) -> float:
        return 1.0


def time_book_keeping(*, attempts: int, seed: int) -> np.ndarray:
    """Return the milliseconds of each attempt but the first of a run without a network, shape (attempts - 1,)."""
    groups = {f"center-{at:02d}": [f"sub-{at:02d}-{number:03d}" for number in range(20)] for at in range(80)}
    cycles = plan_cycles(groups, learning_rates=[1e-4] * -(-attempts // 320), seed=seed)  # 320 batches of 5 in each
    ends: list[float] = []

    class Clocked(dqc.Ledger):
        def append(self, **row) -> None:
            super().append(**row)
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        travel(EmptyCenters(), cycles, rule=RULE, ledger=Clocked(Path(folder) / "ledger.jsonl"), progress=False)
    return 1000 * np.diff(ends)


def compare_book_keeping(*, turns: int, attempts: int, seed: int) -> tuple[dict[str, list[float]], float]:
    """Return how much longer the last tenth of the attempts took than the first, and the median milliseconds of one."""
    growth, medians = [], []
    for _ in range(turns):
        each = time_book_keeping(attempts=attempts, seed=seed)
        tenth = len(each) // 10
        growth.append(np.median(each[-tenth:]) / np.median(each[:tenth]))
        medians.append(np.median(each))
    return {"book_keeping_last_over_first": growth}, float(np.median(medians))


def compare_sizes(*, width: float, turns: int, seed: int) -> dict[str, list[float]]:
    """Return what verifying twice as many subjects costs for each of them, against half as many."""
    engine = open_centers(width=width, seed=seed)
    names = list(engine.cohort.table["subject"])
    names = (names * (1 + 256 // len(names)))[:256]
    ratios = []
    for turn in range(turns + 1):
        half = time_once(lambda: [predict_subjects(engine.model, engine.volumes, names[:128]) for _ in range(2)])
        whole = time_once(lambda: predict_subjects(engine.model, engine.volumes, names))
        if turn:
            ratios.append(whole / half)
    return {"twice_the_subjects_over_twice_the_time": ratios}


def time_once(work: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def describe(ratios: dict[str, list[float]]) -> list[str]:
    """Return one line for each ratio for readers, then one of JSON each."""
    lines, records = [], []
    for name, values in ratios.items():
        record = {"name": name, "ratio": np.median(values), "low": min(values), "high": max(values)}
        records.append(json.dumps({key: value if key == "name" else round(value, 4) for key, value in record.items()}))
        goal = GOALS.get(name)
        verdict = "" if goal is None else f"  goal {goal:.2f}: {'met' if record['ratio'] <= goal else 'missed'}"
        lines.append(f"{name:42} {record['ratio']:6.3f} [{record['low']:.3f}, {record['high']:.3f}]{verdict}")
    return lines + records


def main(arguments: list[str] | None = None) -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cost", description=__doc__)
    parser.add_argument("--width", type=float, default=0.25, help="of the network, a factor on the published filters")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--cycles", type=int, default=1, help="of the run")
    parser.add_argument("--attempts", type=int, default=10_000, help="of the run without a network")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    common = {"turns": options.turns, "seed": options.seed}
    ratios = compare_with_floor(width=options.width, cycles=options.cycles, **common)
    ratios |= compare_sizes(width=options.width, **common)
    growth, milliseconds = compare_book_keeping(attempts=options.attempts, **common)
    print(f"{os.cpu_count()} cores, width {options.width:g}, {options.turns} turns, seed {options.seed}")
    print(f"book-keeping: {milliseconds:.2f} ms an attempt; goal {BOOK_KEEPING:g} ms: ", end="")
    print("met" if milliseconds <= BOOK_KEEPING else "missed")
    print(*describe(ratios | growth), sep="\n")


if __name__ == "__main__":
    main()
