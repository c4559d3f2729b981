"""Centers on machines of their own: the same ledger, and no answer is believed unchecked."""

import json
import math
import threading
from collections import Counter
from importlib.util import find_spec
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from dqc_lib.cohort import Cohort, read_bids, split_by_subject
from dqc_lib.federation import (
    CenterError,
    Layout,
    RemoteCenters,
    Site,
    SiteError,
    Start,
    Task,
    compare_traffic,
    federate,
    spread_cohort,
)
from dqc_lib.fisher import GradientScale
from dqc_lib.ledger import Ledger
from dqc_lib.networks import build_sfcn, freeze_normalization
from dqc_lib.quality import CalibratedRule, PublishedRule
from dqc_lib.travelling import LocalCenters, group_by_center, plan_cycles, travel, watch
from dqc_lib.travelling.batches import predict_subjects
from dqc_lib.volumes import VolumeCache

SAMPLES = Path(__file__).parent.parent / "data_samples"
NARROW = 0.0625  # 2-4-8-16-16-4 filters
RATES = (1e-5, 1e-5)
CENTERS = 4  # of the sample cohort, two per site


class SiteLink:
    """Sites in this process; answers may be falsified on the way, by site and call. A site that is silent gives none to
    so many calls."""

    def __init__(self, sites):
        self._sites, self.sites, self.falsify, self.sent, self.silent = sites, list(sites), {}, [], Counter()

    def ask(self, site, name, **arguments):
        if self.silent[site]:
            self.silent[site] -= 1
            raise SiteError([site], f"no answer to {name!r}")
        answer = getattr(self._sites[site], name)(**arguments)
        self.sent += [(name, arguments), (name, answer)]
        return self.falsify.get((site, name), lambda given: given)(answer)

    def ask_all(self, sites, name, **arguments):
        answers = {}
        for site in sites:
            try:
                answers[site] = self.ask(site, name, **arguments)
            except SiteError as error:
                answers[site] = error
        return answers


@pytest.fixture(scope="module")
def cohort():
    """Some subjects of four centers of the sample cohort."""
    table = split_by_subject(read_bids(SAMPLES)).table
    table = table[table["center"].isin(table["center"].unique()[:CENTERS]) & (table["role"] != "test")]
    few = table.groupby(["center", "role", "diagnosis"], sort=False).head(3).index
    return Cohort(table.loc[few].sort_index(), SAMPLES)


@pytest.fixture(scope="module")
def parts(cohort):
    """The cohort of each site, two centers each."""
    halves = {"site-1": cohort.centers[: CENTERS // 2], "site-2": cohort.centers[CENTERS // 2 :]}
    return {site: cohort.select(centers=centers) for site, centers in halves.items()}


@pytest.fixture(scope="module")
def start(cohort):
    """An untrained model whose scores lie around the threshold, so that steps turn calls round."""
    volumes = VolumeCache(cohort.table.set_index("subject")["path"].to_dict())
    model = build_sfcn(volumes.shape, width=NARROW, learning_rate=RATES[0])
    freeze_normalization(model)
    scores = predict_subjects(model, volumes, list(cohort.table.query("role == 'verification'")["subject"]))
    middle = np.median(scores.astype(np.float64))
    model.get_layer("dense").bias.assign([np.log(1 / middle - 1)])
    return Start.of(model)


def plan(cohort):
    return plan_cycles(group_by_center(cohort), learning_rates=RATES, batch_size=3)


def list_rows(ledger):
    """Return the attempts without how long they took."""
    return [{name: value for name, value in row.items() if name != "seconds"} for row in ledger]


def compare(ledger, other):
    """Attempt by attempt: everything equal, norms up to the order in which logarithms were added up."""
    mine, theirs = list_rows(ledger), list_rows(other)
    assert len(mine) == len(theirs)
    for row, expected in zip(mine, theirs, strict=True):
        norm, wanted = row.pop("update_norm"), expected.pop("update_norm")
        assert row == expected
        assert (norm is None) == (wanted is None)
        assert norm is None or norm == pytest.approx(wanted, rel=1e-12, nan_ok=True)


@pytest.fixture(scope="module")
def calibrated(cohort, start, tmp_path_factory):
    """The scale of a watched cycle as a file, and a rule that suspects about a third of the images."""
    engine = LocalCenters(cohort, start.build())
    watched = watch(engine, plan(cohort)[0], progress=False)
    path = tmp_path_factory.mktemp("scale") / "scale.npz"
    engine.scale.save(path)
    return path, CalibratedRule(limit=float(watched["update_norm"].quantile(0.66)), acquittal=1)


def run_locally(cohort, start, rule, *, scale=None):
    engine = LocalCenters(cohort, start.build(), batch_size=5)
    engine.scale = None if scale is None else GradientScale.load(scale)
    ledger, _ = travel(engine, plan(cohort), rule=rule, revisit_after=1, progress=False)
    return ledger, Start.of(engine.model).arrays


def open_remote(start, parts, *, scale=None):
    link = SiteLink({site: Site(part) for site, part in parts.items()})
    options = {} if scale is None else {"scale": scale.read_bytes(), "reference": GradientScale.load(scale).reference}
    return RemoteCenters(link, start, batch_size=5, **options), link


def test_the_published_rule_decides_the_same_over_sites_and_the_model_ends_bit_for_bit_the_same(cohort, start, parts):
    expected, arrays = run_locally(cohort, start, PublishedRule(tolerance=0.03))
    engine, _ = open_remote(start, parts)
    assert engine.group_subjects() == group_by_center(cohort)
    ledger, _ = travel(engine, plan(cohort), rule=PublishedRule(tolerance=0.03), revisit_after=1, progress=False)
    compare(ledger, expected)
    assert len({row["decision"] for row in ledger}) > 1, "nothing was rejected, so nothing was rolled back"
    for mine, theirs in zip(engine.arrays, arrays, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_the_calibrated_rule_decides_the_same_over_sites(cohort, start, parts, calibrated):
    scale, rule = calibrated
    expected, _ = run_locally(cohort, start, rule, scale=scale)
    engine, _ = open_remote(start, parts, scale=scale)
    ledger, _ = travel(engine, plan(cohort), rule=rule, revisit_after=1, progress=False)
    compare(ledger, expected)
    assert any(row["fp"] is not None for row in ledger) and any(row["fp"] is None for row in ledger)


def list_leaves(value):
    """Return all that a message holds, its keys included."""
    if isinstance(value, dict):
        return [leaf for pair in value.items() for part in pair for leaf in list_leaves(part)]
    if isinstance(value, list | tuple):
        return [leaf for part in value for leaf in list_leaves(part)]
    return [value]


def test_what_is_sent_is_weights_names_and_numbers_and_no_image_path_or_score(cohort, start, parts, calibrated):
    scale, _ = calibrated
    engine, link = open_remote(start, parts, scale=scale)
    center, subjects = next(iter(engine.group_subjects().items()))
    engine.adjust_unit()
    engine.train(center, subjects[:2])
    counts = engine.verify(frozenset())
    known = {*cohort.table["subject"], *cohort.centers}
    words = {"train", "verification", "weights", "loss", "norm", "design", "threshold", "batch_size", "scale", "center"}
    words |= {"subjects", "alone", "sizes", "shape", "width", "dropout", "precision", "frozen", "float32"}
    n_bytes = {"open": len(scale.read_bytes()), "train": start.layout.n_bytes}
    for call, message in link.sent:
        for leaf in list_leaves(message):
            if isinstance(leaf, bytes):
                assert len(leaf) == n_bytes.get(call, start.own_layout.n_bytes), call
            elif isinstance(leaf, str):
                assert leaf in known | words, call
            else:
                assert type(leaf) in (int, float, bool, type(None)), call
    held = cohort.table[cohort.table["role"] == "verification"]
    numbers = [leaf for call, message in link.sent[-2 * len(parts) :] for leaf in list_leaves(message)]
    assert sum(type(leaf) is int for leaf in numbers) == 4 * len(counts) < len(held) * 4
    assert not any(type(leaf) is float for leaf in numbers), "no score"


def test_the_unit_of_norms_is_the_same_to_the_last_digit_whichever_site_answers_first():
    sums = {"north": 0.1, "south": 0.2, "east": 0.3}
    assert (0.1 + 0.2) + 0.3 != (0.3 + 0.2) + 0.1, "the order matters"
    answers = {"open": lambda site: {site: {"train": ["sub-1"], "verification": [1, 0]}}}
    answers |= {"measure": lambda site: {site: [sums[site], 1]}}

    class HastyLink:
        sites = list(sums)

        def __init__(self, order):
            self.order = order

        def ask_all(self, sites, name, **arguments):
            return {site: answers[name](site) for site in self.order}

    start = Start({}, (np.zeros(1, np.float32), np.float32(0.1)), 1, 1, 1, trained_at=(0,), statistics_at=())
    engines = [RemoteCenters(HastyLink(order), start, scale=b"scale", reference=1.0) for order in permutations(sums)]
    assert {engine.adjust_unit() for engine in engines} == {math.exp((0.1 + 0.2 + 0.3) / 3)}


@pytest.fixture(scope="module")
def underway(start, parts, calibrated):
    """What opens the first site; two of its subjects; the weights after two steps, so that Adam remembers something;
    and the model's own part of them."""
    center, subjects = next(iter(group_by_center(parts["site-1"]).items()))

    def open_site():
        site = Site(parts["site-1"])
        site.open(start.design, threshold=0.5, batch_size=5, scale=calibrated[0].read_bytes())
        return site

    site, weights = open_site(), start.layout.pack(start.arrays)
    for _ in range(2):
        weights = site.train(weights, center, subjects[:2], sizes=[2])["weights"]
    n_own = sum(np.asarray(variable).nbytes for variable in start.build().variables)
    return open_site, (center, subjects[:2]), weights, weights[:n_own]


def test_calls_in_any_order_are_answered_as_if_each_were_the_first(underway):
    open_site, step, weights, own = underway
    calls = {
        "train": lambda site: site.train(weights, *step, sizes=[2]),
        "verify": lambda site: site.verify(own, loss=True),
        "measure": lambda site: site.measure(own),
    }
    first = {name: call(open_site()) for name, call in calls.items()}
    site = open_site()
    for name in ("verify", "train", "train", "measure", "train", "verify", "measure", "verify", "train"):
        assert calls[name](site) == first[name], name


def test_who_looks_at_images_gets_no_optimizer_and_who_takes_a_step_does(underway):
    open_site, step, weights, own = underway
    site = open_site()
    for look in (site.verify, site.measure):
        with pytest.raises(ValueError, match=f"expected weights of {len(own)} bytes, came {len(weights)}"):
            look(weights)
    with pytest.raises(ValueError, match=f"expected weights of {len(weights)} bytes, came {len(own)}"):
        site.train(own, *step)


def test_traffic_is_counted_by_cycle_and_call_beside_that_of_averaging(start, parts, calibrated):
    scale, _ = calibrated
    engine, _ = open_remote(start, parts, scale=scale)
    center, subjects = next(iter(engine.group_subjects().items()))
    engine.set_learning_rate(RATES[0])
    engine.adjust_unit()
    for _ in range(2):
        engine.train(center, subjects[:2])
    engine.verify()
    engine.set_learning_rate(RATES[1])
    engine.verify()
    whole = sum(array.nbytes for array in start.arrays)
    own = sum(np.asarray(variable).nbytes for variable in start.build().variables)
    assert whole / own == pytest.approx(3, rel=0.05)
    # two sites; a step goes to one of them and comes back
    expected = [
        (0, "open", 1, 2 * scale.stat().st_size, 0),
        (1, "measure", 1, 2 * own, 0),
        (1, "train", 2, 2 * whole, 2 * whole),
        (1, "verify", 1, 2 * own, 0),
        (1, "federated averaging", 1, 2 * own, 2 * own),
        (2, "verify", 1, 2 * own, 0),
        (2, "federated averaging", 1, 2 * own, 2 * own),
    ]
    table = compare_traffic(json.loads(json.dumps(engine.traffic)), start, n_sites=2)
    assert list(table[["cycle", "call", "calls"]].itertuples(index=False, name=None)) == [row[:3] for row in expected]
    assert table["out_mb"].tolist() == pytest.approx([row[3] / 1e6 for row in expected])
    assert table["back_mb"].tolist() == pytest.approx([row[4] / 1e6 for row in expected])


@pytest.fixture(scope="module")
def remote(start, parts):
    return open_remote(start, parts)


def set_number(at, value):
    """Return what sets one number of the weights that a site answers with."""

    def falsify(answer):
        data = np.frombuffer(answer["weights"], np.uint8).copy()
        data[4 * at : 4 * at + 4] = np.frombuffer(np.float32(value).tobytes(), np.uint8)
        return answer | {"weights": data.tobytes()}

    return falsify


def change_count(at, value):
    def falsify(answer):
        center = next(iter(answer))
        numbers = list(answer[center])
        numbers[at] = value
        return answer | {center: numbers}

    return falsify


STEPS = {
    "NaN weights": (set_number(0, math.nan), "1 of the 54 numbers of array 0 of the weights are not finite"),
    "infinite weights": (set_number(3, -math.inf), "not finite"),
    "too few weights": (lambda answer: answer | {"weights": answer["weights"][:-4]}, "expected weights of"),
    "weights of another kind": (lambda answer: answer | {"weights": [1.0]}, "bytes, came list"),
    "a negative norm": (lambda answer: answer | {"norm": -1.0}, "expected an update norm from 0 on, came -1.0"),
    "more than was asked for": (lambda answer: answer | {"image": b""}, "and nothing else"),
    "nothing": (lambda answer: None, "expected weights and norm, came NoneType"),
}


def make_mean_squares_negative(start, number):
    """Return what sets the first number of one array of the weights below 0."""

    def falsify(answer):
        arrays = [array.copy() for array in start.layout.unpack(answer["weights"])]
        arrays[number].flat[0] = -1e-3
        return answer | {"weights": start.layout.pack(arrays)}

    return falsify


def test_mean_squares_below_zero_are_refused_before_another_center_steps_on_them(remote, cohort, start):
    engine, link = remote
    model = start.build()
    adam = [variable.path for variable in model.optimizer.variables]
    assert len(start.squares_at) == len(start.statistics_at) + sum("velocity" in path for path in adam)
    assert {at for _, at in start.statistics_at} < set(start.squares_at)
    center, subjects = next(iter(group_by_center(cohort).items()))
    before = engine.snapshot()
    for number in (start.squares_at[0], start.squares_at[-1]):
        link.falsify = {("site-1", "train"): make_mean_squares_negative(start, number)}
        try:
            with pytest.raises(
                CenterError, match=f"array {number} of the weights holds mean squares, and some are bel"
            ):
                engine.train(center, subjects[:2])
        finally:
            link.falsify = {}
    assert engine.snapshot() is before


@pytest.mark.parametrize("taken", [0, 2, -1])
def test_weights_that_count_other_steps_are_refused_before_another_center_divides_by_them(
    remote, cohort, start, taken
):
    engine, link = remote
    center, subjects = next(iter(group_by_center(cohort).items()))
    before = engine.snapshot()

    def falsify(answer):
        arrays = [array.copy() for array in start.layout.unpack(answer["weights"])]
        arrays[start.steps_at] += taken - 1
        return answer | {"weights": start.layout.pack(arrays)}

    link.falsify = {("site-1", "train"): falsify}
    try:
        with pytest.raises(CenterError, match=f"center {center!r}: the weights come back {taken} steps on, expected 1"):
            engine.train(center, subjects[:2])
    finally:
        link.falsify = {}
    assert engine.snapshot() is before


@pytest.mark.parametrize("name", STEPS)
def test_a_step_that_cannot_be_used_is_refused_by_the_name_of_its_center_and_leaves_the_model(remote, cohort, name):
    engine, link = remote
    center, subjects = next(iter(group_by_center(cohort).items()))
    falsify, words = STEPS[name]
    before, link.falsify = engine.snapshot(), {("site-1", "train"): falsify}
    try:
        with pytest.raises(CenterError, match=words) as caught:
            engine.train(center, subjects[:2])
    finally:
        link.falsify = {}
    assert center in caught.value.place
    assert engine.snapshot() is before


COUNTS = {
    "a negative count": (change_count(0, -1), "cannot be"),
    "more errors than subjects": (change_count(2, 10**6), "cannot be"),
    "more subjects than declared": (change_count(1, 99), "counts are of 99 controls"),
    "a count that is no whole number": (change_count(0, 0.5), "expected fp, n_neg, fn, n_pos"),
    "scores instead of counts": (change_count(0, [0.1, 0.9]), "expected fp, n_neg, fn, n_pos"),
    "scores in the place of losses": (change_count(4, [0.1, 0.9]), "which it was not asked for"),
    "losses that nobody asked for": (change_count(4, 0.5), "which it was not asked for"),
}


@pytest.mark.parametrize("name", COUNTS)
def test_counts_that_cannot_be_are_refused_by_the_name_of_their_center(remote, cohort, name):
    engine, link = remote
    falsify, words = COUNTS[name]
    link.falsify = {("site-1", "verify"): falsify}
    try:
        with pytest.raises(CenterError, match=words) as caught:
            engine.verify(frozenset())
    finally:
        link.falsify = {}
    assert cohort.centers[0] in caught.value.place


def declare(**change):
    """Return what changes what the first center of a site declares."""

    def falsify(answer):
        center = next(iter(answer))
        return answer | {center: answer[center] | change}

    return falsify


DECLARED = {
    "no centers": (lambda answer: ["center-01"], "expected its centers by name, came list"),
    "a center without a name": (lambda answer: answer | {"": next(iter(answer.values()))}, "by name, came ''"),
    "a center that is a number": (lambda answer: answer | {7: next(iter(answer.values()))}, "by name, came 7"),
    "something else of a center": (lambda answer: dict.fromkeys(answer, 5), "and two numbers, and nothing else"),
    "scores as well": (declare(scores=[0.5]), "and two numbers, and nothing else"),
    "a number of subjects for their names": (declare(train=5), "the names of its training subjects"),
    "a text for a list of names": (declare(train="abc"), "the names of its training subjects"),
    "a subject without a name": (declare(train=["a", ""]), "the names of its training subjects"),
    "a subject twice": (declare(train=["a", "b", "a"]), r"names \['a'\] more than once"),
    "fewer than no controls": (declare(verification=[-1, 2]), r"two numbers of verification subjects, came \[-1, 2\]"),
    "more than anybody has": (declare(verification=[1, 10**19]), "two numbers of verification subjects"),
    "one number": (declare(verification=3), "two numbers of verification subjects, came 3"),
}


@pytest.mark.parametrize("name", DECLARED)
def test_a_declaration_that_cannot_be_is_refused_by_the_name_of_its_site(start, parts, name):
    falsify, words = DECLARED[name]
    link = SiteLink({site: Site(part) for site, part in parts.items()})
    link.falsify = {("site-1", "open"): falsify}
    with pytest.raises(SiteError, match=words) as caught:
        RemoteCenters(link, start)
    assert caught.value.sites == ("site-1",)


def measured(*numbers):
    """Return what changes what the first center of a site measured."""
    return lambda answer: answer | {next(iter(answer)): list(numbers)}


MEASURES = {
    "no numbers": (measured("high", 1), "expected a sum of logarithms and a number of images"),
    "NaN": (measured(math.nan, 1), "expected a sum of logarithms"),
    "a logarithm that no norm has": (measured(1e6, 1), "1000000.0 cannot be the sum of logarithms of 1 update norms"),
    "one far below that": (measured(-1e6, 1), "cannot be the sum of logarithms"),
    "a sum of nothing": (measured(1.0, 0), "1.0 cannot be the sum of logarithms of 0 update norms"),
    "more images than declared": (measured(1.0, 99), "measured 99 images, it declared"),
}


@pytest.mark.parametrize("name", MEASURES)
def test_a_unit_that_cannot_be_is_refused_by_the_name_of_its_center(start, parts, calibrated, cohort, name):
    engine, link = open_remote(start, parts, scale=calibrated[0])
    falsify, words = MEASURES[name]
    link.falsify = {("site-1", "measure"): falsify}
    with pytest.raises(CenterError, match=words) as caught:
        engine.adjust_unit()
    assert cohort.centers[0] in caught.value.place


@pytest.mark.parametrize("falsify", [lambda answer: {}, lambda answer: answer | {"elsewhere": [0.0, 1]}])
def test_a_unit_is_measured_by_all_centers_of_a_site_and_no_others(start, parts, calibrated, falsify):
    engine, link = open_remote(start, parts, scale=calibrated[0])
    link.falsify = {("site-2", "measure"): falsify}
    with pytest.raises(CenterError, match="site-2: expected sums of logarithms of .*, came those of"):
        engine.adjust_unit()


def test_a_site_without_verification_subjects_trains_and_is_judged_by_the_others(cohort, start, calibrated):
    table = cohort.table
    lone = table["center"] == cohort.centers[-1]
    short = Cohort(table[~lone | (table["role"] == "train")], SAMPLES)
    parts = {"site-1": short.select(centers=short.centers[:-1]), "site-2": short.select(centers=short.centers[-1:])}
    scale, rule = calibrated
    for judged, options in ((PublishedRule(tolerance=0.03), {}), (rule, {"scale": scale})):
        engine, _ = open_remote(start, parts, **options)
        ledger, _ = travel(engine, plan(short), rule=judged, revisit_after=1, progress=False)
        expected, _ = run_locally(short, start, judged, **options)
        compare(ledger, expected)
        assert short.centers[-1] in {row["center"] for row in ledger}
        assert any(row["fp"] is not None for row in ledger), "somebody was asked to verify"


def test_a_site_that_answers_for_centers_it_does_not_hold_is_refused(remote):
    engine, link = remote
    link.falsify = {("site-2", "verify"): lambda answer: answer | {"elsewhere": [0, 1, 0, 1, None]}}
    try:
        with pytest.raises(CenterError, match="expected counts of") as caught:
            engine.verify(frozenset())
    finally:
        link.falsify = {}
    assert caught.value.place == "site-2"


def test_two_sites_cannot_hold_the_same_center(start, parts):
    link = SiteLink({"site-1": Site(parts["site-1"]), "site-2": Site(parts["site-1"])})
    with pytest.raises(CenterError, match="holds too"):
        RemoteCenters(link, start)


def test_a_start_is_read_back_as_it_was_written(start, tmp_path):
    start.save(tmp_path / "start.npz")
    read = Start.load(tmp_path / "start.npz")
    assert (read.design, read.rate_at, read.steps_at) == (start.design, start.rate_at, start.steps_at)
    assert start.build().optimizer.iterations.path.endswith("iteration") and start.arrays[start.steps_at].shape == ()
    assert read.n_variables == start.n_variables == len(start.build().variables)
    assert Layout.of(read.arrays) == Layout.of(start.arrays)
    for mine, theirs in zip(Start.of(read.build()).arrays, start.arrays, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.skipif(find_spec("nvflare") is None, reason="NVIDIA FLARE, of the extra 'federation', is not installed")
def test_a_run_of_processes_on_flare_decides_as_one_process_does(cohort, start, parts, tmp_path):
    rule = PublishedRule(tolerance=0.03)
    expected, arrays = run_locally(cohort, start, rule)
    task = Task(start, rule, learning_rates=RATES, batch_size=3, revisit_after=1)
    sites = spread_cohort(cohort, tmp_path / "sites", {site: part.centers for site, part in parts.items()})
    run = federate(task, sites, folder=tmp_path / "server", progress=False)
    compare(Ledger.read(run.folder / "ledger.jsonl"), expected)
    for mine, theirs in zip(Start.of(run.model()).arrays, arrays, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_site_that_is_silent_is_left_out_with_all_its_centers_and_taken_back_when_it_opens_again(
    cohort, start, parts
):
    engine, link = open_remote(start, parts)
    link.silent["site-2"] = 1
    cycles = plan_cycles(engine.group_subjects(), learning_rates=RATES, batch_size=3)
    first = next(visit.center for visit in cycles[0].visits)
    lost = parts["site-2"].centers
    options = {"rule": PublishedRule(tolerance=0.03), "revisit_after": 1, "progress": False, "on_fault": "continue"}
    ledger, _ = travel(engine, cycles, **options)
    absent, back = ledger.presences[: len(lost)], ledger.presences[len(lost) :]
    assert [at.center for at in absent] == [at.center for at in back] == lost
    assert {(at.cycle, at.present, at.reason) for at in absent} == {(0, False, absent[0].reason)}
    assert absent[0].reason in ("site-2: no answer to 'train'", "site-2: no answer to 'verify'")
    assert {(at.cycle, at.present) for at in back} == {(1, True)}
    assert not engine.absent and not engine.missing
    of_cycle = {number: {row["center"] for row in ledger if row["cycle"] == number} for number in (0, 1)}
    assert of_cycle[0] == set(parts["site-1"].centers) and of_cycle[1] == set(cohort.centers), first
    roles = cohort.table[cohort.table["role"] == "verification"]
    here = roles[~roles["center"].isin(lost)]
    counted = {(row["cycle"], row["n_neg"], row["n_pos"]) for row in ledger}
    expected = {
        number: [int((of["diagnosis"] == label).sum()) for label in (0, 1)] for number, of in ((0, here), (1, roles))
    }
    assert counted == {(number, *of) for number, of in expected.items()}


def test_a_center_whose_weights_cannot_be_used_is_left_out_and_its_neighbor_at_the_site_goes_on(start, parts):
    engine, link = open_remote(start, parts)
    culprit, neighbor = parts["site-1"].centers
    plain = link.ask

    def ask(site, name, **arguments):
        answer = plain(site, name, **arguments)
        return set_number(0, math.nan)(answer) if arguments.get("center") == culprit else answer

    link.ask = ask
    cycles = plan_cycles(engine.group_subjects(), learning_rates=RATES[:1], batch_size=3)
    ledger, _ = travel(engine, cycles, rule=PublishedRule(tolerance=1.0), progress=False, on_fault="continue")
    assert [(at.center, at.present) for at in ledger.presences] == [(culprit, False)]
    assert "not finite" in ledger.presences[0].reason
    assert neighbor in {row["center"] for row in ledger} and culprit not in {row["center"] for row in ledger}
    assert all(np.isfinite(array).all() for array in engine.arrays if array.dtype.kind == "f")


def test_a_run_may_begin_without_a_site_and_refuses_to_unless_it_is_told_so(start, parts):
    link = SiteLink({site: Site(part) for site, part in parts.items()})
    link.silent["site-2"] = 2
    with pytest.raises(CenterError, match="site-2: no answer to 'open'"):
        RemoteCenters(link, start)
    engine = RemoteCenters(link, start, patient=True)
    assert list(engine.centers) == parts["site-1"].centers and list(engine.missing) == ["site-2"]
    assert engine.verify().keys() <= set(parts["site-1"].centers)


def test_what_was_not_sent_is_not_counted(start, parts):
    link = SiteLink({site: Site(part) for site, part in parts.items()})
    engine = RemoteCenters(link, start)
    engine.missing["site-2"] = SiteError(["site-2"], "did not open")
    with pytest.raises(CenterError, match="did not open"):
        engine.verify()
    center = parts["site-2"].centers[0]
    with pytest.raises(CenterError, match="did not open"):
        engine.train(center, list(engine.centers[center].train[:1]))
    assert [row["call"] for row in engine.traffic] == ["open"]


def test_a_site_that_is_opened_again_waits_for_the_call_that_is_still_running(start, parts):
    turn = threading.Lock()
    first, second = (Site(parts["site-1"], turn=turn) for _ in range(2))
    first.open(start.design, threshold=0.5, batch_size=5)
    answers = []
    with turn:  # the first is answering
        opening = threading.Thread(
            target=lambda: answers.append(second.open(start.design, threshold=0.5, batch_size=5))
        )
        opening.start()
        opening.join(0.5)
        assert opening.is_alive() and not answers
    opening.join()
    assert answers == [first.declare()]


def test_a_site_that_comes_back_with_other_subjects_is_not_taken_back(start, parts):
    engine, link = open_remote(start, parts)
    engine.leave_out(parts["site-2"].centers)
    fewer = parts["site-2"].table.drop(index=parts["site-2"].table.query("role == 'train'").index[0])
    link._sites["site-2"] = Site(parts["site-2"].replace(fewer))
    assert engine.call_back() == parts["site-2"].centers[1:], "the first center has lost a subject"
