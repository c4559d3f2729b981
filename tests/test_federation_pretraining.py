"""What comes before the quality control, over sites: pre-training, frozen normalization, the watched cycle."""

import inspect
import math
from functools import reduce
from importlib.util import find_spec
from operator import add

import numpy as np
import pytest
from test_federation import CENTERS, NARROW, SAMPLES, SiteLink, list_leaves, list_rows

from dqc_lib.cohort import Cohort, read_bids, split_by_subject
from dqc_lib.federation import CenterError, RemoteCenters, Site, Start
from dqc_lib.ledger import Ledger
from dqc_lib.networks import build_sfcn, load_sfcn
from dqc_lib.quality import CalibratedRule
from dqc_lib.travelling import LocalCenters, Schedule, Study, group_by_center, plan_cycles, travel, watch
from dqc_lib.volumes import VolumeCache

SCHEDULE = Schedule(warm_cycles=1, calm_cycles=1, control_cycles=2, batch_size=3, revisit_after=1, width=NARROW)


@pytest.fixture(scope="module")
def cohort():
    """A few subjects of four centers of the sample cohort."""
    table = split_by_subject(read_bids(SAMPLES)).table
    table = table[table["center"].isin(table["center"].unique()[:CENTERS])]
    few = table.groupby(["center", "role", "diagnosis"], sort=False).head(2).index
    return Cohort(table.loc[few].sort_index(), SAMPLES)


@pytest.fixture(scope="module")
def out(cohort):
    """Subjects that the pre-training leaves out: all of one center, and one of another."""
    first, second, *_ = group_by_center(cohort).values()
    return frozenset([*first, second[0]])


@pytest.fixture(scope="module")
def start(cohort):
    """An untrained model, whose normalization goes by each batch."""
    shape = VolumeCache(cohort.table.set_index("subject")["path"].to_dict()).shape
    return Start.of(build_sfcn(shape, width=SCHEDULE.width, dropout=SCHEDULE.dropout, seed=SCHEDULE.seed))


def open_sites(cohort, start, *, halves=2, **options):
    """Return the engine and its link, with the centers dealt out to so many sites in their order."""
    n = math.ceil(len(cohort.centers) / halves)
    parts = {f"site-{part}": cohort.centers[part * n : (part + 1) * n] for part in range(halves)}
    link = SiteLink({site: Site(cohort.select(centers=centers)) for site, centers in parts.items()})
    return RemoteCenters(link, start, batch_size=SCHEDULE.batch_size, **options), link


def plan(cohort):
    return plan_cycles(group_by_center(cohort), learning_rates=[1e-3], batch_size=3)


def assert_equal_arrays(mine, theirs):
    assert len(mine) == len(theirs)
    for one, other in zip(mine, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.fixture(scope="module")
def warm(cohort, start, out):
    """The model after a cycle of pre-training in one process, and its ledger."""
    engine = LocalCenters(cohort, start.build(), batch_size=SCHEDULE.batch_size)
    ledger, _ = travel(engine, plan(cohort), exclude=out, stage="pretraining", progress=False)
    return Start.of(engine.model), ledger


@pytest.fixture(scope="module")
def frozen(cohort, warm, out):
    """The warm model, frozen in one process."""
    engine = LocalCenters(cohort, warm[0].build())
    engine.freeze(exclude=out)
    return Start.of(engine.model)


def test_a_pre_training_over_sites_ends_bit_for_bit_as_in_one_process(cohort, start, out, warm):
    engine, _ = open_sites(cohort, start)
    ledger, _ = travel(engine, plan(cohort), exclude=out, stage="pretraining", progress=False)
    assert list_rows(ledger) == list_rows(warm[1])
    assert_equal_arrays(engine.arrays, warm[0].arrays)
    assert not engine.model.design["frozen"]


def test_normalization_is_frozen_over_sites_as_in_one_process_and_every_call_is_counted(cohort, warm, frozen, out):
    engine, link = open_sites(cohort, warm[0])
    link.sent.clear()
    engine.freeze(exclude=out)
    assert_equal_arrays(engine.arrays, frozen.arrays)
    assert engine.model.design == frozen.design and frozen.design["frozen"]
    moved = [one for one, other in zip(engine.arrays, warm[0].arrays, strict=True) if (one != other).any()]
    assert len(moved) == 12, "mean and variance of six layers, and nothing else"
    own = sum(array.nbytes for array in warm[0].arrays[: warm[0].n_variables])
    rows = [row for row in engine.traffic if row["call"] == "sum_features"]
    assert rows == [{"cycle": 0, "call": "sum_features", "calls": 6, "out": 6 * 2 * own, "back": 0}]
    answers = [answer for name, answer in link.sent[1::2] if name == "sum_features"]
    first, *others = group_by_center(cohort)
    assert {center for answer in answers for center in answer} == set(others), "one center is left out"
    sums = [list_leaves(sums) for answer in answers for sums in answer.values()]
    assert sorted(map(len, sums)) == sorted((2 * n + 1) for n in warm[0].design["width"] for _ in others)
    assert {type(leaf) for leaves in sums for leaf in leaves} == {int, float}


def test_where_centers_have_more_than_a_batch_of_images_the_statistics_agree_but_for_rounding(
    cohort, warm, out, monkeypatch
):
    monkeypatch.setattr("dqc_lib.travelling.batches.CHUNK", 2)
    assert max(map(len, group_by_center(cohort).values())) > 2
    local = LocalCenters(cohort, warm[0].build())
    local.freeze(exclude=out)
    engine, _ = open_sites(cohort, warm[0])
    engine.freeze(exclude=out)
    for one, other in zip(engine.arrays, Start.of(local.model).arrays, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=0)


def test_sums_of_features_are_those_of_each_image_alone(cohort, warm):
    """An independent route: the first convolution by hand-picked layers, image by image."""
    center, members = next(iter(group_by_center(cohort).items()))
    site, model = Site(cohort.select(centers=[center])), warm[0].build()
    site.open(warm[0].design, threshold=0.5, batch_size=3)
    weights = warm[0].own_layout.pack(warm[0].arrays[: warm[0].n_variables])
    means, squares, n = site.sum_features(weights, 0)[center]
    volumes = VolumeCache(cohort.table.set_index("subject")["path"].to_dict())
    alone = [np.asarray(model.get_layer("conv1")(volumes.batch([name])), dtype=np.float64)[0] for name in members]
    assert n == len(members)
    np.testing.assert_allclose(means, reduce(add, (image.mean((0, 1, 2)) for image in alone)), rtol=1e-6)
    np.testing.assert_allclose(squares, reduce(add, ((image**2).mean((0, 1, 2)) for image in alone)), rtol=1e-6)


def test_normalization_needs_an_image_to_go_by(cohort, start):
    engine, _ = open_sites(cohort, start)
    with pytest.raises(ValueError, match="at least one image, got none"):
        engine.freeze(exclude=cohort.table["subject"])


@pytest.fixture(scope="module")
def watched(cohort, frozen, out):
    """The rows of a cycle watched in one process, and the engine."""
    engine = LocalCenters(cohort, frozen.build())
    return watch(engine, plan(cohort)[0], exclude=out, progress=False), engine


def test_a_cycle_is_watched_over_sites_as_in_one_process(cohort, frozen, out, watched):
    expected, local = watched
    engine, link = open_sites(cohort, frozen)
    link.sent.clear()
    rows = watch(engine, plan(cohort)[0], exclude=out, progress=False)
    compare_closely(rows, expected)
    assert (rows["update_norm"] > 0).any()
    assert CalibratedRule.from_watch(rows).limit == pytest.approx(CalibratedRule.from_watch(expected).limit, rel=1e-5)
    assert_equal_arrays(engine.arrays, frozen.arrays)
    assert engine.scale.reference == pytest.approx(local.scale.reference, rel=1e-5)
    assert engine.adjust_unit() == pytest.approx(1.0, rel=1e-9), "the model has not changed since"
    for call, message in link.sent:
        if call in ("sum_squares", "name_verification", "measure_images"):
            held = [leaf for leaf in list_leaves(message) if isinstance(leaf, str)]
            assert not out & set(held), "nobody asks of those who are left out"
    questions = [message for call, message in link.sent[::2] if call == "sum_squares"]
    asked = [name for message in questions for name in message["subjects"]]
    assert sorted(asked) == sorted(set(cohort.table.loc[cohort.table["role"] == "train", "subject"]) - out)


def test_at_one_site_the_watched_norms_are_those_of_one_process_bit_for_bit(cohort, frozen, out, watched):
    engine, _ = open_sites(cohort, frozen, halves=1)
    rows = watch(engine, plan(cohort)[0], exclude=out, progress=False)
    assert list(rows["update_norm"]) == list(watched[0]["update_norm"])


def test_what_a_watched_cycle_sends_is_counted(cohort, frozen, out):
    engine, link = open_sites(cohort, frozen)
    watch(engine, plan(cohort)[0], exclude=out, progress=False)
    trained = sum(array.size for array in (frozen.arrays[at] for at in frozen.trained_at))
    own = sum(array.nbytes for array in frozen.arrays[: frozen.n_variables])
    for call in ("sum_squares", "measure_images"):
        questions = [message for name, message in link.sent[::2] if name == call]
        (row,) = [row for row in engine.traffic if row["call"] == call]
        scales = sum(len(message.get("scale", b"")) for message in questions)
        assert row["out"] == own * len(questions) + scales
        assert row["back"] == (4 * trained * len(questions) if call == "sum_squares" else 0)


def test_a_whole_study_over_sites_decides_as_in_one_process(cohort, start, out, tmp_path):
    kept = sorted(set(cohort.table.loc[cohort.table["role"] == "train", "subject"]) - out)
    study = Study(cohort, schedule=SCHEDULE, folder=tmp_path, pretrain_on=kept, progress=False)
    rule = make_rule(study.pretrain().ledger)
    arm = study.run("qc", rule=rule)

    engine, link = open_sites(cohort, start)
    rates = [SCHEDULE.rate(number) for number in range(4)]
    cycles = plan_cycles(engine.group_subjects(), learning_rates=rates, batch_size=3, seed=SCHEDULE.seed)
    ledger, options = Ledger(), {"revisit_after": SCHEDULE.revisit_after, "progress": False}
    travel(engine, cycles[:1], exclude=out, stage="pretraining", ledger=ledger, **options)
    engine.freeze(exclude=out)
    travel(engine, cycles[1:2], exclude=out, stage="pretraining", ledger=ledger, **options)
    rows = watch(engine, cycles[-1], exclude=out, ledger=ledger, progress=False)
    compare_closely(ledger.to_frame(), study.pretrain().ledger)
    scale = engine.scale
    engine = RemoteCenters(link, engine.model, batch_size=SCHEDULE.batch_size)  # an arm sets out from there
    engine.scale = scale
    controlled, docket = travel(engine, cycles[2:], rule=make_rule(rows), **options)
    compare_closely(controlled.to_frame(), arm.ledger)
    assert docket.eliminated == arm.eliminated
    assert {"accepted", "split", "deferred"} <= set(arm.ledger["decision"]), "something was rejected"
    last = Start.of(load_sfcn(max(arm.folder.glob("cycle-*.keras"))))
    assert_equal_arrays(engine.arrays, last.arrays)


def make_rule(ledger):
    """Return a rule that suspects a tenth of the watched images."""
    return CalibratedRule.from_watch(ledger[ledger["stage"] == "watch"], reach=0.0, acquittal=1)


def compare_closely(frame, expected):
    """Everything equal, but for norms and limits, which differ by the order in which squares were added up."""
    norms = ["update_norm", "norm_limit"]
    rest = [name for name in expected if name not in (*norms, "seconds")]
    assert len(frame) == len(expected)
    assert list(frame[rest].astype(str).itertuples(index=False)) == list(
        expected[rest].astype(str).itertuples(index=False)
    )
    for name in norms:
        mine, theirs = (table[name].astype(float) for table in (frame, expected))
        np.testing.assert_allclose(mine, theirs, rtol=1e-5)


@pytest.fixture(scope="module")
def remote(cohort, frozen):
    return open_sites(cohort, frozen)


def change(at, value):
    """Return what sets one of the three parts that the first center answers with."""

    def falsify(answer):
        center = next(iter(answer))
        parts = list(answer[center])
        parts[at] = value(parts[at])
        return answer | {center: parts}

    return falsify


def set_square(value):
    return lambda answer: np.float32(value).tobytes() + answer[4:]


FEATURES = {
    "NaN": (change(0, lambda sums: [math.nan, *sums[1:]]), "expected 2 finite numbers as the sums of means"),
    "too few filters": (change(1, lambda sums: sums[1:]), "expected 2 finite numbers as the sums of mean squares"),
    "squares that cannot be": (change(1, lambda sums: [-1.0] * len(sums)), "mean squares are too small"),
    "more images than declared": (change(2, lambda n: n + 1), "it declared"),
    "a count that is no whole number": (change(2, float), "a number of images"),
    "a center less": (lambda answer: dict(list(answer.items())[1:]), "expected features of"),
    "nothing": (lambda answer: None, "expected sums of features by center, came NoneType"),
}


@pytest.mark.parametrize("name", FEATURES)
def test_features_that_cannot_be_are_refused_and_the_model_stays(remote, name):
    engine, link = remote
    falsify, words = FEATURES[name]
    before, link.falsify = engine.arrays, {("site-0", "sum_features"): falsify}
    try:
        with pytest.raises(CenterError, match=words):
            engine.freeze()
    finally:
        link.falsify = {}
    assert engine.arrays is before


SQUARES = {
    "NaN": (set_square(math.nan), "1 of the .* are not finite"),
    "a negative one": (set_square(-1.0), "1 of the .* squared gradients are below 0"),
    "too few": (lambda answer: answer[:-4], "expected weights of"),
    "a list": (lambda answer: [1.0], "bytes, came list"),
}


@pytest.mark.parametrize("name", SQUARES)
def test_squared_gradients_that_cannot_be_are_refused_by_the_name_of_their_site(remote, cohort, name):
    engine, link = remote
    falsify, words = SQUARES[name]
    link.falsify = {("site-0", "sum_squares"): falsify}
    center, subjects = next(iter(group_by_center(cohort).items()))
    try:
        with pytest.raises(CenterError, match=words) as caught:
            engine.sum_squares([(center, subjects[0])])
    finally:
        link.falsify = {}
    assert caught.value.place == "site-0"


NORMS = {
    "NaN": (lambda answer: [math.nan], "expected update norms from 0 on, came nan"),
    "a negative one": (lambda answer: [-1.0], "expected update norms from 0 on, came -1.0"),
    "one too many": (lambda answer: [*answer, 1.0], "expected 1 update norms, came 2"),
    "a text": (lambda answer: "1", "expected 1 update norms, came str"),
}


@pytest.mark.parametrize("name", NORMS)
def test_norms_that_cannot_be_are_refused_by_the_name_of_their_site(remote, cohort, watched, name):
    engine, link = remote
    falsify, words = NORMS[name]
    link.falsify = {("site-0", "measure_images"): falsify}
    center, subjects = next(iter(group_by_center(cohort).items()))
    try:
        with pytest.raises(CenterError, match=words) as caught:
            engine.measure_images([(center, subjects[0])], scale=watched[1].scale)
    finally:
        link.falsify = {}
    assert caught.value.place == "site-0"


def rename(names):
    """Return what changes the names that the first center gives."""
    return lambda answer: answer | {next(iter(answer)): names(next(iter(answer.values())))}


NAMES = {
    "one too few": (rename(lambda names: names[1:]), "names of verification subjects, came"),
    "one twice": (rename(lambda names: [names[0], *names[:-1]]), "names of verification subjects, came"),
    "a number": (rename(lambda names: [1, *names[1:]]), "expected the names of its verification subjects"),
    "of another site": (lambda answer: answer | {"elsewhere": ["sub-1"]}, "expected names from"),
}


@pytest.mark.parametrize("name", NAMES)
def test_names_that_cannot_be_are_refused(remote, name):
    engine, link = remote
    falsify, words = NAMES[name]
    link.falsify = {("site-0", "name_verification"): falsify}
    try:
        with pytest.raises(CenterError, match=words):
            assert engine.verification is None
    finally:
        link.falsify = {}


def test_a_name_for_training_and_verification_is_refused(remote, cohort):
    engine, link = remote
    center, subjects = next(iter(group_by_center(cohort).items()))
    link.falsify = {("site-0", "name_verification"): rename(lambda names: [subjects[0], *names[1:]])}
    try:
        with pytest.raises(CenterError, match="both for training and for verification") as caught:
            assert engine.verification is None
    finally:
        link.falsify = {}
    assert center in caught.value.place


def test_a_center_cannot_declare_something_else_when_its_site_is_opened_again(cohort, start):
    engine, link = open_sites(cohort, start)
    other = {cohort.centers[0]: {"train": [], "verification": [0, 0]}}
    link.falsify = {("site-0", "open"): lambda answer: answer | other}
    with pytest.raises(CenterError, match="declares something else than when the run began") as caught:
        engine.freeze()
    assert cohort.centers[0] in caught.value.place


def test_a_site_measures_no_test_subject_and_sums_up_no_verification_subject(cohort, frozen, watched):
    site = Site(cohort)
    site.open(frozen.design, threshold=0.5, batch_size=3)
    weights = frozen.own_layout.pack(frozen.arrays[: frozen.n_variables])
    by_role = {role: list(names["subject"]) for role, names in cohort.table.groupby("role")}
    with pytest.raises(ValueError, match="expected subjects for train at this site"):
        site.sum_squares(weights, by_role["verification"][:1])
    with pytest.raises(ValueError, match="expected subjects for train or verification at this site"):
        site.measure_images(weights, by_role["test"][:1], b"")


@pytest.mark.skipif(find_spec("nvflare") is None, reason="NVIDIA FLARE, of the extra 'federation', is not installed")
def test_flare_publishes_every_call_of_a_site_with_the_same_arguments():
    from nvflare.collab.api.decorators import get_param_names, is_publish

    from dqc_lib.federation.flare import TravellingClient

    published = {name: get_param_names(part) for name, part in vars(TravellingClient).items() if is_publish(part)}
    calls = {name: part for name, part in vars(Site).items() if inspect.isfunction(part) and not name.startswith("_")}
    del calls["declare"]  # what `open` answers
    assert published == {name: [*inspect.signature(part).parameters][1:] for name, part in calls.items()}
