"""One cycle of quality control at the published scale: `python -m benchmarks.published_scale --shape 40 48 40`.

The 83 published centers, 1,410 training and 407 verification subjects, as phantoms (or random images, which need no
painting and no files: `--images random`, for a GPU that is lent for minutes). After a short pre-training one cycle
runs under the published rule, which verifies every attempt, or the calibrated one, which verifies what its update makes
suspicious. From the throughput measured, or one named for another device, follows what 20 cycles would
take on the volumes and the network of the paper.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from zlib import crc32

import numpy as np

import dqc_lib as dqc
from benchmarks.cost import Parts
from dqc_lib.networks import PRECISIONS, WIDTHS, build_sfcn
from dqc_lib.travelling import group_by_center, plan_cycles, travel, watch
from dqc_lib.travelling.batches import count_at_once
from dqc_lib.volumes import VolumeCache

PUBLISHED = {"shape": (160, 192, 160), "width": 1.0, "cycles": 20}
GOALS = {"full": 6 * 60, "certain": 6 * 60, "nearest": 2 * 60}  # seconds, at 40 x 48 x 40 on 2 cores
MOST_MEMORY = 3.0  # GB
BARE = 0.5  # of the throughput of bare convolutions, on a GPU
KEEP = 8 * 1024**3  # bytes of random images that stay in memory


class RandomVolumes(VolumeCache):
    """Random images, made where a VolumeCache would read them."""

    def _read(self, subject: str) -> np.ndarray:
        return np.random.default_rng(crc32(subject.encode())).integers(0, 256, self.shape, dtype=np.uint8)


def make_cohort(images: str, shape: Sequence[int], build: Path) -> tuple[dqc.Cohort, VolumeCache | None]:
    """Return the cohort of the 83 centers, all held-out subjects verifying, and its volumes."""
    if images == "random":
        table = dqc.draw_subjects("published", seed=83)
        cohort = dqc.Cohort(table.assign(path=table["subject"]), build)
        volumes = RandomVolumes(dict.fromkeys(table["subject"], ""), shape=tuple(shape), max_bytes=KEEP)
    else:
        folder = build / f"phantoms-83-{'x'.join(map(str, shape))}"
        recipe = dqc.Recipe(shape=tuple(shape), seed=83, disease=2.0)
        cohort, volumes = dqc.write_phantoms(folder, sites="published", recipe=recipe), None
    roles = cohort.table["role"].replace("test", "verification")
    return cohort.replace(cohort.table.assign(role=roles)), volumes


def list_convolutions(shape: Sequence[int], width: float) -> list[tuple]:
    """Return of each convolution of the network the sizes of its input with channels, and those of its kernel."""
    filters = [max(1, round(width * count)) for count in WIDTHS]
    found, before, sizes = [], 1, tuple(shape)
    for block, count in enumerate(filters, start=1):
        edge = 1 if block == len(filters) else 3
        found.append(((*sizes, before), (edge, edge, edge, before, count)))
        before, sizes = count, tuple(-(-size // 2) for size in sizes)
    return found


def count_operations(shape: Sequence[int], width: float) -> float:
    """Return the multiplications and additions of one forward pass through the convolutions."""
    return sum(2.0 * math.prod(sizes[:3]) * math.prod(kernel) for sizes, kernel in list_convolutions(shape, width))


def measure_convolutions(shape: Sequence[int], width: float, *, precision: str, repeats: int = 5) -> float:
    """Return the operations per second that the library reaches on these convolutions with nothing around them.

    Each runs alone on as many images as are passed at once, the first time uncounted, and its median time counts.
    """
    import keras

    dtype, n, seconds = precision, count_at_once(tuple(shape)), 0.0
    for sizes, kernel in list_convolutions(shape, width):
        images, weights = keras.ops.ones((n, *sizes), dtype=dtype), keras.ops.ones(kernel, dtype=dtype)
        times = []
        for _ in range(repeats + 1):
            started = time.perf_counter()
            out = keras.ops.conv(images, weights, padding="same")
            keras.ops.convert_to_numpy(out[0, 0, 0, 0, :1])  # waits for a device that works on its own
            times.append(time.perf_counter() - started)
        seconds += float(np.median(times[1:]))
    return n * count_operations(shape, width) / seconds


def run_cycle(engine: dqc.LocalCenters, cycle, rule) -> dict:
    """Return what one cycle of control came to, by part."""
    parts = Parts(engine)
    before, started = engine.passes, time.perf_counter()
    ledger, _ = travel(engine, [cycle], rule=rule, closing_revisit=False)
    seconds = time.perf_counter() - started
    frame = ledger.to_frame()
    return {
        "seconds": seconds,
        "attempts": len(frame),
        "rejected": int((frame["decision"] != "accepted").sum()),
        "passes": engine.passes - before,
        "steps": int(sum(len(batch) for batch in parts.batches)),
        "gradients": parts.gradients,
        "parts": {name: round(part, 2) for name, part in parts.seconds.items()},
    }


def project(run: dict, *, shape: Sequence[int], width: float, throughput: float | None) -> dict:
    """Return the hours that 20 cycles like this one would take at the published shape and width, and the throughput in
    operations per second that this goes by: the one measured, a step and a gradient counted as three forward passes.

    Operations are those of convolutions. What else there is weighs less in wide networks, so from a narrow one the
    hours come out too long.
    """
    passes = run["passes"] + 3 * (run["steps"] + run["gradients"])
    busy = sum(run["parts"].get(name, 0.0) for name in ("forward passes", "step", "gradients"))
    measured = count_operations(shape, width) * passes / busy
    there = count_operations(PUBLISHED["shape"], PUBLISHED["width"]) * passes
    rate = throughput or measured
    return {"operations_per_second": rate, "hours": PUBLISHED["cycles"] * there / rate / 3600}


def main(arguments: list[str] | None = None) -> None:
    """Paint, pre-train, control, project."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.published_scale", description=__doc__)
    parser.add_argument("--shape", type=int, nargs=3, default=(40, 48, 40))
    parser.add_argument("--width", type=float, default=0.25, help="a factor on the published numbers of filters")
    parser.add_argument("--rule", choices=("published", "calibrated"), default="published")
    parser.add_argument("--verifying", choices=("full", "certain", "nearest"), default="full")
    parser.add_argument("--warm", type=int, default=6, help="cycles of pre-training before the normalization is frozen")
    parser.add_argument("--precision", choices=tuple(PRECISIONS), default="float32")
    parser.add_argument("--images", choices=("phantoms", "random"), default="phantoms")
    parser.add_argument("--throughput", type=float, help="operations per second of the device to project for")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--build", type=Path, default=Path("build/published_scale"))
    options = parser.parse_args(arguments)
    cohort, volumes = make_cohort(options.images, options.shape, options.build)
    model = build_sfcn(options.shape, width=options.width, seed=options.seed, precision=options.precision)
    engine = dqc.LocalCenters(cohort, model, volumes=volumes, verifying=options.verifying)
    rates = [3e-4] * options.warm + [1e-4] * 2
    cycles = plan_cycles(group_by_center(engine.cohort), learning_rates=rates, seed=options.seed)
    started = time.perf_counter()
    travel(engine, cycles[: options.warm], stage="pretraining")
    engine.freeze()
    travel(engine, cycles[options.warm : -1], stage="pretraining")
    rule = dqc.PublishedRule(tolerance=0.02)
    if options.rule == "calibrated":
        rule = dqc.CalibratedRule.from_watch(watch(engine, cycles[-1]))
    trained = time.perf_counter() - started
    run = run_cycle(engine, cycles[-1], rule)
    bare = measure_convolutions(options.shape, options.width, precision=options.precision)
    reached = count_operations(options.shape, options.width) * run["passes"] / run["parts"]["forward passes"]
    unit = 1 if sys.platform == "darwin" else 1024
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
    shape, width = options.shape, options.width
    projected = project(run, shape=shape, width=width, throughput=options.throughput)
    goal, n = GOALS[options.verifying], sum(len(members) for members in engine.verification.values())
    print(f"{os.cpu_count()} cores, {'x'.join(map(str, shape))}, width {width:g}, {n} verification subjects")
    print(f"before: {trained:.0f} s of pre-training; {options.rule} rule, verification {options.verifying}:")
    verdict = "met" if run["seconds"] <= goal else "missed"
    told = f"; goal on 2 cores {goal} s: {verdict}" if tuple(shape) == (40, 48, 40) else ""
    print(f"one cycle: {run['seconds']:.0f} s{told}")
    print(f"memory: {memory:.2f} GB at most; goal {MOST_MEMORY:g} GB: {'met' if memory <= MOST_MEMORY else 'missed'}")
    rate, hours = projected["operations_per_second"], projected["hours"]
    verdict = "met" if reached >= BARE * bare else "missed"
    print(f"verification: {reached / bare:.2f} of what bare convolutions reach; goal on a GPU {BARE:g}: {verdict}")
    print(f"20 cycles at 160x192x160 and full width: {hours:.1f} h at {rate / 1e9:.1f} billion operations a second")
    measured = {"memory_gb": round(memory, 3), "of_bare_convolutions": round(reached / bare, 3)}
    print(json.dumps(run | measured | projected))


if __name__ == "__main__":
    main()
