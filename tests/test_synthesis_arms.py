"""Arms: equal steps, traffic by hand, what is the same and what differs, and that something was learnt."""

import time
from types import SimpleNamespace
from zlib import crc32

import numpy as np
import pytest

from dqc_lib.synthesis import (
    ARMS,
    EVERYBODY,
    TrainingSchedule,
    apply_permutations,
    average_weights,
    sample_arm,
    train_arm,
    weigh_by_distribution,
)
from dqc_lib.synthesis.networks import GeneratorShape, draw_weights, measure_surprise
from dqc_lib.synthesis.training import LEARNING_RATE, State, open_trainer, prepare_rows

SMALL = {"latent": 4, "hidden": 8, "noise": 2}
SIZES = {"A": 40, "B": 20, "C": 6}
SHORT = TrainingSchedule(rounds=3, batch=64, seed=1)
N_AUTO = (6 * 8 + 8) + (8 * 4 + 4) + (4 * 8 + 8) + (8 * 6 + 6)
N_TEMPORAL = ((4 + 10) * 8 + 8) + (8 * 4 + 4) + ((2 + 10) * 8 + 8) + (8 * 4 + 4)
MEGABYTES = 4e-6 * (N_AUTO + N_TEMPORAL)


def make_visits(sizes=SIZES, *, n_visits=5, n_codes=6, seed=0, stay=0.9):
    """Return codes that begin with 0.3 and then stay as they are with `stay`, or are drawn anew."""
    rng, visits = np.random.default_rng(seed), {}
    for name, n in sizes.items():
        drawn = rng.random((n, n_visits, n_codes)) < 0.3
        for at in range(1, n_visits):
            drawn[:, at] = np.where(rng.random((n, n_codes)) < stay, drawn[:, at - 1], drawn[:, at])
        visits[name] = drawn.astype(np.float32)
    return visits


@pytest.fixture(scope="module")
def trained():
    """Every arm on the same records."""
    return {arm: train_arm(arm, make_visits(), schedule=SHORT, shape=SMALL) for arm in ARMS}


def get_weights(arm, name=EVERYBODY):
    return [*arm.generators[name].autoencoder, *arm.generators[name].temporal]


def are_same(first, second):
    return all(np.array_equal(a, b) for a, b in zip(get_weights(first), get_weights(second), strict=True))


def test_all_arms_make_the_same_number_of_steps(trained):
    # 200, 100 and 30 rows at 64 to a step: 3, 2 and 1 steps; of 3 rounds and 2 stages
    assert {arm: found.n_steps for arm, found in trained.items()} == dict.fromkeys(ARMS, 36)


def test_a_repetition_is_the_same_and_another_seed_is_not(trained):
    again = train_arm("averaging", make_visits(), schedule=SHORT, shape=SMALL)
    assert are_same(trained["averaging"], again)
    other = train_arm("averaging", make_visits(), schedule=TrainingSchedule(rounds=3, batch=64, seed=2), shape=SMALL)
    assert not are_same(trained["averaging"], other)


def test_the_order_in_which_hospitals_are_named_is_of_no_account(trained):
    other = dict(reversed(make_visits().items()))
    assert are_same(trained["travelling"], train_arm("travelling", other, schedule=SHORT, shape=SMALL))


def test_one_hospital_alone_is_averaged_with_nobody():
    alone, schedule = make_visits({"A": 40}), TrainingSchedule(rounds=1, batch=64)
    arms = [train_arm(arm, alone, schedule=schedule, shape=SMALL) for arm in ("averaging", "travelling")]
    assert are_same(*arms)
    assert arms[1].traffic.megabytes == 0, "and travels nowhere"


def test_traffic_is_every_transfer_of_weights(trained):
    sent = {arm: {way: part / 1e6 for way, part in found.traffic.sent.items()} for arm, found in trained.items()}
    bits = sum(-(-n * 5 * 6 // 8) for n in SIZES.values()) / 1e6
    assert sent["centralized"] == pytest.approx({"up": bits, "down": 3 * MEGABYTES, "across": 0})
    assert trained["local"].traffic.megabytes == 0
    # 3 rounds to and from 3 hospitals, and the last average to each of them
    assert sent["averaging"] == pytest.approx({"up": 9 * MEGABYTES, "down": 12 * MEGABYTES, "across": 0})
    assert sent["matched averaging"] == sent["averaging"]
    summaries = 3 * 6 * 4e-6
    assert sent["distribution-aware"]["up"] == pytest.approx(9 * MEGABYTES + summaries)
    # 9 turns with 8 ways between them, and then to the two others
    assert sent["travelling"] == pytest.approx({"up": 0, "down": 0, "across": 10 * MEGABYTES})


def test_an_optimizer_that_travels_makes_the_model_three_times_as_heavy_and_trains_otherwise(trained):
    schedule = TrainingSchedule(rounds=3, batch=64, seed=1, optimizer="travels")
    found = train_arm("travelling", make_visits(), schedule=schedule, shape=SMALL)
    n_variables = 2 * 2  # besides the moments: the count of steps (8 bytes or 4) and the learning rate, twice
    moments = 8 * 3 * MEGABYTES + 2 * MEGABYTES
    assert moments < found.traffic.megabytes < moments + 8 * n_variables * 8e-6
    assert not are_same(trained["travelling"], found)


def test_independent_starts_need_no_first_broadcast():
    found = train_arm(
        "averaging", make_visits(), schedule=TrainingSchedule(rounds=3, batch=64, starts="independent"), shape=SMALL
    )
    assert found.traffic.transfers == {"up": 18, "down": 2 * (6 + 3), "across": 0}


def test_averaging_is_what_hospitals_send_averaged_by_patients():
    visits, schedule = make_visits({"A": 40, "B": 20}), TrainingSchedule(rounds=1, batch=64, starts="independent")
    shape = GeneratorShape(6, 5, **SMALL)
    found = train_arm("averaging", visits, schedule=schedule, shape=SMALL).generators[EVERYBODY]
    alone = {
        name: train_arm("averaging", {name: own}, schedule=schedule, shape=SMALL).generators[EVERYBODY].autoencoder
        for name, own in visits.items()
    }
    expected = [(2 * a + b) / 3 for a, b in zip(*alone.values(), strict=True)]
    for one, other in zip(found.autoencoder, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert found.shape == shape


def test_matching_after_independent_starts_lowers_the_distance_between_what_is_averaged():
    visits, schedule = make_visits({"A": 40, "B": 20}), TrainingSchedule(rounds=1, batch=64, starts="independent")
    matched, plain = (
        train_arm(arm, visits, schedule=schedule, shape=SMALL).generators[EVERYBODY].autoencoder
        for arm in ("matched averaging", "averaging")
    )
    # averages of vectors that point the same way are longer
    assert np.linalg.norm(matched[0]) > 1.1 * np.linalg.norm(plain[0])


def test_no_shift_makes_the_distribution_aware_arm_the_matched_one():
    own = make_visits({"A": 20})["A"]
    twins = {"A": own, "B": own.copy()}
    arms = [train_arm(arm, twins, schedule=SHORT, shape=SMALL) for arm in ("matched averaging", "distribution-aware")]
    assert are_same(*arms)


def test_hospitals_that_code_otherwise_change_what_the_distribution_aware_arm_averages_over_time():
    schedule = TrainingSchedule(rounds=1, batch=64, seed=1)
    visits = {"A": make_visits()["A"], "B": 1 - make_visits()["B"], "C": make_visits()["C"]}
    matched, aware = (
        train_arm(arm, visits, schedule=schedule, shape=SMALL).generators[EVERYBODY]
        for arm in ("matched averaging", "distribution-aware")
    )
    for one, other in zip(matched.autoencoder, aware.autoencoder, strict=True):
        np.testing.assert_array_equal(one, other, err_msg="the autoencoder is averaged by patients in both")
    # a round of the hospitals by themselves, from the same start and on the same autoencoder
    shape, seed = GeneratorShape(6, 5, **SMALL), schedule.seed
    start, trainer = draw_weights(shape, "temporal", seed=[seed, 1, 0]), open_trainer(shape, "temporal", batch=64)
    n_steps, held = {"A": 3, "B": 2, "C": 1}, {}
    for name, own in visits.items():
        rows = prepare_rows(own, aware.autoencoder)
        held[name] = trainer.train(State(start), rows, n_steps=n_steps[name], seed=[seed, 1, crc32(name.encode()), 0])
    marginals = {name: own.mean(axis=(0, 1)) for name, own in visits.items()}
    shares = {"distribution": weigh_by_distribution(marginals, SIZES), "patients": SIZES}
    assert shares["distribution"]["B"] < 0.1 < SIZES["B"] / sum(SIZES.values()), "B is the one that lies off"
    sent = {name: state.weights for name, state in held.items()}
    expected = {kind: average_weights(sent, own) for kind, own in shares.items()}
    for found, kind in ((aware, "distribution"), (matched, "patients")):
        for one, other in zip(found.temporal, expected[kind], strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)
    apart = [np.abs(one - other).max() for one, other in zip(matched.temporal, aware.temporal, strict=True)]
    assert max(apart) > 1e-3, "and that shows"


def test_local_generators_differ_and_contribute_by_patients(trained):
    local = trained["local"]
    assert list(local.generators) == ["A", "B", "C"]
    assert not np.array_equal(get_weights(local, "A")[0], get_weights(local, "B")[0])
    drawn = sample_arm(local, 66, seed=4)
    assert drawn.shape == (66, 5, 6)
    own = sample_arm(local, 40, seed=4, hospital="A")
    assert (drawn[:40] == own).all(), "the first 40 of 66 are of A, with 40 of 66 patients"


def test_a_shared_generator_draws_for_each_hospital_as_for_all(trained):
    found = trained["averaging"]
    assert sample_arm(found, 5, hospital="A").shape == (5, 5, 6)
    assert not (sample_arm(found, 50, hospital="A") == sample_arm(found, 50, hospital="B")).all(), "but not the same"
    assert sample_arm(found, 0).shape == (0, 5, 6)


@pytest.mark.parametrize("arm", ["centralized", "averaging", "travelling"])
def test_codes_that_stay_are_learnt_to_stay(arm):
    visits = make_visits({"A": 200, "B": 100}, stay=0.95)
    found = train_arm(arm, visits, schedule=TrainingSchedule(rounds=40, batch=256), shape={"latent": 8, "hidden": 24})
    drawn = sample_arm(found, 600, seed=0)
    assert abs(drawn.mean() - 0.3) < 0.1
    same = (drawn[:, 1:] == drawn[:, :-1]).mean()
    assert same > 0.8, "0.98 in the records, 0.58 if visits had nothing to do with each other"


def test_codes_that_are_never_there_are_never_drawn_for_long():
    zeros = {"A": np.zeros((30, 3, 4))}
    found = train_arm("centralized", zeros, schedule=TrainingSchedule(rounds=60, batch=64), shape=SMALL)
    assert sample_arm(found, 100).mean() < 0.05


def test_one_patient_is_enough_for_a_step():
    found = train_arm("travelling", {"A": np.ones((1, 2, 3))}, schedule=TrainingSchedule(rounds=1), shape=SMALL)
    assert found.n_steps == 2
    assert "travelling, shared starts: 2 steps" in found._repr_html_()


def test_the_first_arm_of_a_process_does_not_pay_for_compiling(monkeypatch):
    traced, looks = [], []

    def count(codes, logits):
        traced.append(logits)  # a loss is called in Python where a step is compiled, and never again
        return measure_surprise(codes, logits)

    def look():
        looks.append(len(traced))
        return float(len(looks))

    monkeypatch.setattr("dqc_lib.synthesis.networks.measure_surprise", count)
    monkeypatch.setattr("dqc_lib.synthesis.arms.time", SimpleNamespace(perf_counter=look))
    found = train_arm("averaging", make_visits(), schedule=SHORT, shape={"latent": 3, "hidden": 5, "noise": 1})
    assert found.seconds == 1.0
    assert looks[0] > 0 and looks == [looks[0]] * 2, "nothing is compiled between two looks at the clock"


def test_seconds_are_some_and_not_more_than_passed():
    began = time.perf_counter()
    found = train_arm("travelling", make_visits(), schedule=SHORT, shape=SMALL)
    assert 0 < found.seconds <= time.perf_counter() - began


def test_nothing_of_one_use_of_a_trainer_is_left_for_the_next():
    shape = GeneratorShape(6, 5, **SMALL)
    trainer, rows = open_trainer(shape, "autoencoder", batch=64), prepare_rows(make_visits()["A"])
    start = State(draw_weights(shape, "autoencoder", seed=0))
    first = trainer.train(start, rows, n_steps=4, seed=[1])
    trainer.train(first, rows, n_steps=5, seed=[2])
    again = trainer.train(start, rows, n_steps=4, seed=[1])
    assert all((a == b).all() for a, b in zip(first.weights, again.weights, strict=True))
    halves = trainer.train(start, rows, n_steps=4, seed=[1], span=(0.5, 1))
    assert not (halves.weights[0] == first.weights[0]).all(), "the learning rate falls with the span"


def test_the_first_step_of_adam_moves_every_weight_by_the_learning_rate():
    shape = GeneratorShape(6, 5, **SMALL)
    trainer, rows = open_trainer(shape, "autoencoder", batch=64), prepare_rows(make_visits()["A"])
    start = State(draw_weights(shape, "autoencoder", seed=0))
    moved = trainer.train(start, rows, n_steps=1, seed=[1]).weights
    apart = np.concatenate([np.abs(a - b).ravel() for a, b in zip(moved, start.weights, strict=True)])
    np.testing.assert_allclose(np.median(apart), LEARNING_RATE, rtol=0.01)


def test_average_of_permuted_copies_after_permuting_back_is_the_copy():
    shape = GeneratorShape(6, 5, **SMALL)
    layers, weights = shape.list_layers("autoencoder"), draw_weights(shape, "autoencoder", seed=0)
    order = {"read": np.random.default_rng(0).permutation(8)}
    moved = apply_permutations(weights, order, layers)
    back = apply_permutations(moved, {"read": np.argsort(order["read"])}, layers)
    for found, first in zip(average_weights({"A": weights, "B": back}, {"A": 1, "B": 3}), weights, strict=True):
        np.testing.assert_allclose(found, first, rtol=1e-6)


@pytest.mark.parametrize(
    ("ask", "error", "said"),
    [
        (lambda: train_arm("federated", make_visits()), KeyError, "arm must be one of"),
        (lambda: train_arm("local", {}), ValueError, "at least one hospital"),
        (lambda: train_arm("local", [np.zeros((2, 2, 2))]), TypeError, "visits must be a Mapping"),
        (lambda: train_arm("local", {"A": np.full((2, 2, 2), 0.5)}), ValueError, r"visits\['A'\] must hold 0 and 1"),
        (
            lambda: train_arm("local", {"A": np.zeros((2, 2, 2)), "B": np.zeros((2, 2, 3))}),
            ValueError,
            r"visits\['B'\] must have the visits and codes of visits\['A'\]",
        ),
        (lambda: train_arm("local", {"A": np.zeros((0, 2, 2))}), ValueError, r"visits\['A'\]"),
        (lambda: TrainingSchedule(rounds=0), ValueError, "TrainingSchedule.rounds"),
        (lambda: TrainingSchedule(starts="random"), ValueError, "TrainingSchedule.starts must be one of"),
        (lambda: TrainingSchedule(optimizer="sgd"), ValueError, "TrainingSchedule.optimizer must be one of"),
    ],
)
def test_what_cannot_be_trained_is_refused(ask, error, said):
    with pytest.raises(error, match=said):
        ask()


def test_a_hospital_that_is_not_there_has_no_patients(trained):
    with pytest.raises(KeyError, match="no hospital 'D'"):
        sample_arm(trained["local"], 3, hospital="D")
