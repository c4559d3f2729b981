"""Simulated hospitals: alike without a shift, with a course in time, and other patients of the same hospitals."""

import numpy as np
import pytest

from dqc_lib.simulation import HospitalRecipe, simulate_hospitals
from dqc_lib.simulation.hospitals import PHENOTYPES, PRACTICE, STAY, _list_siblings, _write_down

MANY = HospitalRecipe(patients=(4000,), seed=3)


def locate(data, kind):
    """Return the positions of the codes of a kind."""
    return [at for at, code in enumerate(data.codes) if code.startswith(kind)]


def test_the_same_recipe_gives_the_same_records_and_another_seed_or_sample_others():
    first, again, seed, sample = (
        simulate_hospitals(HospitalRecipe(patients=(30, 20), **other)) for other in ({}, {}, {"seed": 1}, {"sample": 1})
    )
    for name in first.visits:
        np.testing.assert_array_equal(first.visits[name], again.visits[name])
        assert (first.visits[name] != seed.visits[name]).any()
        assert (first.visits[name] != sample.visits[name]).any()


def test_records_have_the_shape_the_type_and_the_names_that_are_said():
    data = simulate_hospitals(HospitalRecipe(patients=(5, 3), n_visits=7))
    assert {name: part.shape for name, part in data.visits.items()} == {
        "hospital-1": (5, 7, 24),
        "hospital-2": (3, 7, 24),
    }
    assert all(part.dtype == np.float32 and set(np.unique(part)) <= {0, 1} for part in data.visits.values())
    assert data.truth["hospital"].tolist() == ["hospital-1"] * 5 + ["hospital-2"] * 3
    assert data.truth["phenotype"].between(1, 4).all() and data.truth.index.is_unique
    kinds = [code[:-3] for code in data.codes]
    assert [kinds.count(kind) for kind in ("chronic", "acute", "progressive", "rare")] == [8, 8, 4, 4]
    assert data.codes[:2] == ("chronic-01", "chronic-02")


def test_a_code_stays_from_a_visit_to_the_next_as_often_as_its_kind_says():
    data = simulate_hospitals(MANY)
    visits = data.visits["hospital-1"].astype(bool)
    for kind, expected in STAY.items():
        part = visits[:, :, locate(data, kind)]
        assert part[:, 1:][part[:, :-1]].mean() == pytest.approx(expected, abs=0.03)


def test_a_progressive_code_comes_after_its_parent():
    data = simulate_hospitals(MANY)
    visits = data.visits["hospital-1"].astype(bool)
    progressive, parent = locate(data, "progressive"), locate(data, "chronic")[:4]
    assert not visits[:, 0, progressive].any()
    first = np.where(visits.any(axis=1), visits.argmax(axis=1), 99)
    later = [
        (first[had, parent[at]] < first[had, code]).mean()
        for at, code in enumerate(progressive)
        for had in [first[:, code] < 99]
    ]
    assert min(later) > 0.75


def test_without_a_shift_all_hospitals_have_the_shares_that_are_said():
    data = simulate_hospitals(HospitalRecipe(patients=(4000, 4000)))
    shares = data.truth.groupby("hospital")["phenotype"].value_counts(normalize=True).unstack()
    np.testing.assert_allclose(shares.to_numpy(), [PHENOTYPES, PHENOTYPES], atol=0.03)
    means = [part.mean(axis=(0, 1)) for part in data.visits.values()]
    np.testing.assert_allclose(*means, atol=0.03)


def test_a_shift_changes_case_mix_and_what_is_recorded_of_the_same_phenotype():
    data = simulate_hospitals(HospitalRecipe(patients=(3000, 3000), shift=1.0))
    shares = data.truth.groupby("hospital")["phenotype"].value_counts(normalize=True).unstack(fill_value=0)
    assert np.abs(shares.iloc[0] - shares.iloc[1]).max() > 0.15
    of = {name: data.truth.loc[data.truth["hospital"] == name, "phenotype"].to_numpy() for name in data.visits}
    same = [part[of[name] == 2].mean(axis=(0, 1)) for name, part in data.visits.items()]
    assert np.abs(same[0] - same[1]).max() > 0.1


def test_another_sample_is_of_the_same_hospitals():
    first, other = (
        simulate_hospitals(HospitalRecipe(patients=(3000, 3000), shift=1.0, sample=number)).visits for number in (0, 1)
    )
    means = {name: (first[name].mean(axis=(0, 1)), other[name].mean(axis=(0, 1))) for name in first}
    for mean, again in means.values():
        np.testing.assert_allclose(mean, again, atol=0.025)
    assert np.abs(means["hospital-1"][0] - means["hospital-2"][0]).max() > 0.15


def test_siblings_are_of_one_kind_and_none_has_two():
    kinds = np.array(["chronic"] * 5 + ["rare"] * 2)
    assert _list_siblings(kinds) == [(0, 2), (1, 3), (5, 6)]


COURSE = [[1, 0, 0, 1], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
THREE_AND_ONE = np.array(["chronic"] * 3 + ["acute"])


def write_down(course, *, swapped=(False,) * 4, seed=0, **shares):
    """Return what is recorded of courses of four codes, with one share for all codes, 0 for what is not named."""
    practice = {way: np.broadcast_to(shares.get(way, 0.0), 4) for way in PRACTICE}
    drawn = {"swapped": np.array(swapped), "rng": np.random.default_rng(seed)}
    return _write_down(np.array(course, dtype=bool), THREE_AND_ONE, practice=practice, **drawn)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, COURSE),
        ({"omitted": 1.0}, [[0] * 4] * 4),
        ({"omitted": [0, 0, 1, 0]}, [[1, 0, 0, 1], [0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]),
        ({"copied": 1.0}, [[1, 0, 0, 1], [1, 0, 1, 1], [0, 1, 1, 0], [0, 1, 0, 0]]),
        ({"copied": [0, 0, 1, 0]}, [[1, 0, 0, 1], [0, 0, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]),
        ({"copied": 1.0, "omitted": 1.0}, [[0] * 4] * 4),  # what is left out cannot be copied
        ({"sibling": 1.0}, [[0, 1, 0, 1], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]]),
        ({"sibling": 1.0, "swapped": [True] * 4}, [[1, 0, 0, 1], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]]),
    ],
)
def test_each_way_of_coding_alone_writes_what_it_says(options, expected):
    # the first two codes are siblings; the third and the fourth have none
    np.testing.assert_array_equal(write_down([COURSE, COURSE], **options), [expected, expected])


def test_shares_of_coding_are_those_of_records_and_of_patients():
    course = np.zeros((4000, 2, 4))
    course[:, 0] = 1
    left = write_down(course, omitted=0.3)
    assert left[:, 0].mean() == pytest.approx(0.7, abs=0.02) and not left[:, 1].any()
    copied = write_down(course, copied=0.3)
    assert copied[:, 0].all() and copied[:, 1].mean() == pytest.approx(0.3, abs=0.02)
    always = np.ones((4000, 2, 4)) * [1, 0, 1, 1]
    moved = write_down(always, sibling=0.3)
    assert moved[:, :, 1].mean() == pytest.approx(0.3, abs=0.03)
    np.testing.assert_array_equal(moved[:, 0], moved[:, 1], err_msg="a patient is written one way at all visits")
    np.testing.assert_array_equal(moved[:, :, 0] + moved[:, :, 1], 1, err_msg="as one of the siblings")


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"patients": ()}, ValueError, "a number for at least one hospital, got none"),
        ({"patients": (3, 0)}, ValueError, "patients of hospital 2 must be a whole number of at least 1, got 0"),
        ({"patients": 7}, TypeError, "patients must be a number for each hospital, got 7"),
        ({"patients": "12"}, TypeError, "patients must be a number for each hospital"),
        ({"patients": (3.5,)}, TypeError, "patients of hospital 1 must be a whole number.*got 3.5"),
        ({"n_visits": 1}, ValueError, "n_visits must be a whole number of at least 2"),
        ({"n_codes": 5}, ValueError, "n_codes must be a whole number of at least 6"),
        ({"shift": 1.1}, ValueError, "shift must be from 0 to 1, got 1.1"),
        ({"shift": float("nan")}, ValueError, "shift must be from 0 to 1"),
        ({"shift": "much"}, TypeError, "shift must be a number"),
        ({"sample": -1}, ValueError, "sample"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(arguments, error, words):
    with pytest.raises(error, match=words):
        HospitalRecipe(**arguments)


def test_one_patient_and_the_fewest_codes_are_enough():
    data = simulate_hospitals(HospitalRecipe(patients=(1,), n_visits=2, n_codes=6, shift=1.0))
    assert data.visits["hospital-1"].shape == (1, 2, 6)
