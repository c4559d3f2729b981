"""Ways for hospitals to make one generator of patients: pooled, each its own, averaged, aligned, or travelling.

All arms take the same number of gradient steps altogether, and begin with the same weights unless asked otherwise.
"""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from zlib import crc32

import numpy as np

from dqc_lib.arguments import require_kind, require_number, require_whole, show_value
from dqc_lib.synthesis.averaging import average_weights, split_steps, weigh_by_distribution
from dqc_lib.synthesis.matching import Weights, apply_permutations, match_units
from dqc_lib.synthesis.networks import FIXED, Generator, GeneratorShape, draw_weights, sample_patients
from dqc_lib.synthesis.records import require_hospitals
from dqc_lib.synthesis.traffic import Traffic
from dqc_lib.synthesis.training import Rows, State, open_trainer, prepare_rows

ARMS = ("centralized", "local", "averaging", "matched averaging", "distribution-aware", "travelling")
STAGES = ("autoencoder", "temporal")
EVERYBODY = "all hospitals"
"""Name under which a generator stands that hospitals share."""


@dataclass(frozen=True)
class TrainingSchedule:
    """How long all arms train, and from where.

    Parameters
    ----------
    rounds : int
        In which every hospital trains once; also the tours of the travelling model.
    epochs : int
        Passes of a hospital over its patients in a round, for each of the two stages.
    batch : int
        Visits of patients to a step; every hospital makes at least one step.
    starts : str
        "shared": all hospitals begin with the same untrained weights; "independent": each with its own.
    optimizer : str
        "fresh": Adam begins anew wherever a model arrives; "travels": its two moments go along with the travelling
        model, which makes it three times as heavy.
    strength : float
        Of `weigh_by_distribution`.
    seed : int
    """

    rounds: int = 12
    epochs: int = 1
    batch: int = 512
    starts: str = "shared"
    optimizer: str = "fresh"
    strength: float = 10.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("rounds", 1), ("epochs", 1), ("batch", 1), ("seed", 0)):
            require_whole(f"TrainingSchedule.{name}", getattr(self, name), least=least)
        for name, words in (("starts", ("shared", "independent")), ("optimizer", ("fresh", "travels"))):
            if getattr(self, name) not in words:
                raise ValueError(f"TrainingSchedule.{name} must be one of {words}, got {getattr(self, name)!r}")
        require_number("TrainingSchedule.strength", self.strength)


@dataclass(frozen=True, eq=False)
class TrainedArm:
    """What an arm came to, and what it took.

    Parameters
    ----------
    arm : str
    schedule : TrainingSchedule
    generators : dict of str to Generator
        By hospital, or one under `EVERYBODY`.
    sizes : dict of str to int
        Patients by hospital.
    traffic : Traffic
        All that was sent, weights and summaries, until every hospital had its generator.
    n_steps : int
        Gradient steps of both stages and all hospitals.
    seconds : float
        Of training, on the clock, in one process; compiling the networks, which serve all arms, is no part of it.
    """

    arm: str
    schedule: TrainingSchedule
    generators: dict[str, Generator]
    sizes: dict[str, int]
    traffic: Traffic
    n_steps: int
    seconds: float

    def _repr_html_(self) -> str:
        steps = f"{self.n_steps} steps in {self.seconds:.1f} s, {self.traffic.megabytes:.2f} MB sent"
        return f"<b>TrainedArm</b>: {html.escape(self.arm)}, {self.schedule.starts} starts: {steps}"


def train_arm(
    arm: str,
    visits: Mapping[str, np.ndarray],
    *,
    schedule: TrainingSchedule | None = None,
    shape: Mapping[str, int] | None = None,
) -> TrainedArm:
    """Return what one of `ARMS` makes of hospitals' records.

    centralized
        Records are pooled. The bound for the others, not an option.
    local
        Every hospital trains its own generator, each with the same share of the steps.
    averaging
        In every round each hospital trains the common weights, and they are averaged by numbers of patients (FedAvg).
    matched averaging
        The same, but hidden units are matched first, layer by layer, to those that were sent out; after independent
        starts to those of the largest hospital.
    distribution-aware
        Matched, and in stage 2 hospitals whose codes lie off count less (`weigh_by_distribution`).
    travelling
        One model goes from hospital to hospital, the largest first, round after round.

    Parameters
    ----------
    arm : str
    visits : mapping of str to ndarray of 0 and 1, (patients, visits, codes)
        By hospital.
    schedule : TrainingSchedule, optional
    shape : mapping of str to int, optional
        latent, hidden and noise of `GeneratorShape`, where they should be others.

    Raises
    ------
    KeyError, TypeError, ValueError
        If there is no such arm, or records are not as said.
    """
    if arm not in ARMS:
        raise KeyError(f"arm must be one of {ARMS}, got {show_value(arm)}")
    records, schedule = require_hospitals("visits", visits), schedule or TrainingSchedule()
    require_kind("schedule", schedule, TrainingSchedule, such_as="TrainingSchedule(rounds=12)")
    n_visits, n_codes = next(iter(records.values())).shape[1:]
    run = _Run(arm, records, schedule, GeneratorShape(n_codes, n_visits, **(shape or {})))
    for stage in STAGES:
        open_trainer(run.shape, stage, batch=run.schedule.batch)  # or the first arm of a process would pay for all
    began = time.perf_counter()
    generators = _WAYS.get(arm, _train_rounds)(run)
    seconds = time.perf_counter() - began
    return TrainedArm(arm, schedule, generators, run.sizes, run.traffic, run.n_steps, seconds)


class _Run:
    """What the training of an arm has at hand: records, schedule, trainers, and the counts of steps and bytes."""

    def __init__(
        self, arm: str, records: dict[str, np.ndarray], schedule: TrainingSchedule, shape: GeneratorShape
    ) -> None:
        self.arm, self.schedule, self.shape = arm, schedule, shape
        largest = sorted(records, key=lambda name: -len(records[name]))
        self.records = {name: records[name] for name in largest}
        self.sizes = {name: len(records[name]) for name in largest}
        rows = schedule.epochs * shape.n_visits
        self.steps = split_steps(self.sizes, rows=rows, batch=schedule.batch)
        self.traffic, self.n_steps = Traffic(), 0

    @property
    def all_steps(self) -> int:
        """Steps of a stage in any arm."""
        return self.schedule.rounds * sum(self.steps.values())

    def start(self, stage: str, name: str = "") -> State:
        """Return the untrained state, of a hospital where each has its own."""
        own = crc32(name.encode()) if name and self.schedule.starts == "independent" else 0
        return State(draw_weights(self.shape, stage, seed=[self.schedule.seed, STAGES.index(stage), own]))

    def train(self, state: State, stage: str, rows: Rows, *, name: str, number: int) -> State:
        """Return the state after a hospital's steps of a round."""
        n_steps, rounds = self.steps[name], self.schedule.rounds
        self.n_steps += n_steps
        trainer = open_trainer(self.shape, stage, batch=self.schedule.batch)
        seed = [self.schedule.seed, STAGES.index(stage), crc32(name.encode()), number]
        return trainer.train(state, rows, n_steps=n_steps, seed=seed, span=(number / rounds, (number + 1) / rounds))

    def train_alone(self, visits: np.ndarray, name: str, *, n_steps: int) -> list[Weights]:
        """Return the weights of both stages, trained on some records from beginning to end."""
        self.n_steps += n_steps * len(STAGES)
        weights: list[Weights] = []
        for number, stage in enumerate(STAGES):
            trainer = open_trainer(self.shape, stage, batch=self.schedule.batch)
            rows, start = prepare_rows(visits, *weights), self.start(stage, "" if name == EVERYBODY else name)
            seed = [self.schedule.seed, number, crc32(name.encode())]
            weights.append(trainer.train(start, rows, n_steps=n_steps, seed=seed).weights)
        return weights


def _train_pooled(run: _Run) -> dict[str, Generator]:
    """Pool the records, as bits, train, and give every hospital the generator."""
    for visits in run.records.values():
        run.traffic.record("up", [np.packbits(visits.astype(bool))])
    weights = run.train_alone(np.concatenate(list(run.records.values())), EVERYBODY, n_steps=run.all_steps)
    for arrays in weights:
        run.traffic.record("down", arrays, times=len(run.records))
    return {EVERYBODY: Generator(run.shape, *weights)}


def _train_local(run: _Run) -> dict[str, Generator]:
    """Train a generator at every hospital, all with the same number of steps but for a remainder of one."""
    shares = np.diff(np.linspace(0, run.all_steps, len(run.records) + 1).round().astype(int)).tolist()
    return {
        name: Generator(run.shape, *run.train_alone(visits, name, n_steps=n_steps))
        for (name, visits), n_steps in zip(run.records.items(), shares, strict=True)
    }


def _train_rounds(run: _Run) -> dict[str, Generator]:
    """Train at all hospitals and make one of what comes back, round after round, stage after stage."""
    shares = {stage: dict(run.sizes) for stage in STAGES}
    if run.arm == "distribution-aware":
        shares["temporal"] = _share_marginals(run)
    weights = []
    for stage in STAGES:
        common = None
        rows = {name: prepare_rows(visits, *weights) for name, visits in run.records.items()}
        for number in range(run.schedule.rounds):
            held = {}
            for name, own in rows.items():
                state = run.start(stage, name) if common is None else State(common)
                if common is not None or run.schedule.starts == "shared":
                    run.traffic.record("down", state.weights)
                held[name] = run.train(state, stage, own, name=name, number=number).weights
                run.traffic.record("up", held[name])
            if run.arm != "averaging":
                held = _align(run, stage, held, common)
            common = average_weights(held, shares[stage])
        run.traffic.record("down", common, times=len(run.records))
        weights.append(common)
    return {EVERYBODY: Generator(run.shape, *weights)}


def _align(run: _Run, stage: str, held: dict[str, Weights], common: Weights | None) -> dict[str, Weights]:
    """Return hospitals' weights with their hidden units in the order of those that were sent out."""
    layers, fixed = run.shape.list_layers(stage), FIXED[stage]
    if common is None:
        shared = run.schedule.starts == "shared"
        common = run.start(stage).weights if shared else next(iter(held.values()))
    orders = {name: match_units(common, weights, layers, fixed=fixed) for name, weights in held.items()}
    return {name: apply_permutations(weights, orders[name], layers) for name, weights in held.items()}


def _share_marginals(run: _Run) -> dict[str, float]:
    """Return hospitals' shares by how their codes are distributed, which they send for it."""
    marginals = {name: visits.mean(axis=(0, 1)) for name, visits in run.records.items()}
    for values in marginals.values():
        run.traffic.record("up", [values])
    return weigh_by_distribution(marginals, run.sizes, strength=run.schedule.strength)


def _train_travelling(run: _Run) -> dict[str, Generator]:
    """Let one model go round; at the end the hospital that has it gives it to the others."""
    weights, moments_travel = [], run.schedule.optimizer == "travels"
    for stage in STAGES:
        rows = {name: prepare_rows(visits, *weights) for name, visits in run.records.items()}
        state, turns = run.start(stage), 0
        for number in range(run.schedule.rounds):
            for name, own in rows.items():
                if turns and len(run.records) > 1:
                    run.traffic.record("across", [*state.weights, *(state.moments or [])])
                state = run.train(state, stage, own, name=name, number=number)
                state, turns = (state if moments_travel else state.forget()), turns + 1
        run.traffic.record("across", state.weights, times=len(run.records) - 1)
        weights.append(state.weights)
    return {EVERYBODY: Generator(run.shape, *weights)}


_WAYS: dict[str, Callable[[_Run], dict[str, Generator]]] = {
    "centralized": _train_pooled,
    "local": _train_local,
    "travelling": _train_travelling,
}


def sample_arm(trained: TrainedArm, n: int, *, seed: int = 0, hospital: str | None = None) -> np.ndarray:
    """Return n patients of an arm, float32 of 0 and 1, (n, visits, codes).

    Parameters
    ----------
    trained : TrainedArm
    n : int
    seed : int
    hospital : str, optional
        Whose generator is asked. A generator that hospitals share knows none of them, and draws for each as for all.
        Without it local generators contribute by their hospitals' numbers of patients, in the order of `sizes`.

    Raises
    ------
    KeyError
        If there is no such hospital.
    """
    require_kind("trained", trained, TrainedArm, such_as="that of train_arm")
    require_whole("n", n, least=0)
    require_whole("seed", seed, least=0)
    if hospital is not None and hospital not in trained.sizes:
        raise KeyError(f"no hospital {hospital!r}; expected one of {list(trained.sizes)}")
    asked = {hospital or EVERYBODY: n}
    if EVERYBODY not in trained.generators and hospital is None:
        ends = np.cumsum([0, *trained.sizes.values()]) / sum(trained.sizes.values())
        asked = dict(zip(trained.sizes, np.diff((n * ends).round().astype(int)).tolist(), strict=True))
    parts = [
        sample_patients(
            trained.generators.get(name) or trained.generators[EVERYBODY], count, seed=[seed, crc32(name.encode())]
        )
        for name, count in asked.items()
    ]
    return np.concatenate(parts)
