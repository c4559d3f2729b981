"""The harnesses of fuzzing, run briefly without atheris: what is mutated at random keeps their promises too."""

import pytest
from fuzz import fuzz_ledger, fuzz_table

HARNESSES = {"table": fuzz_table, "ledger": fuzz_ledger}


@pytest.mark.parametrize("name", HARNESSES)
def test_mutated_files_are_read_or_refused_by_name(name):
    harness, grown = HARNESSES[name], list(HARNESSES[name].SEEDS)
    for number in range(300):
        harness.check(grown[number % len(grown)])
        grown.append(harness.mutate(grown[number * 7 % len(grown)], number))
    assert len(set(grown)) > 200, "mutations change something"


@pytest.mark.parametrize("name", HARNESSES)
def test_a_harness_tells_when_a_promise_is_broken(name, monkeypatch):
    reader = {"table": "dqc_lib.cohort.read_cohort", "ledger": "dqc_lib.ledger.Ledger.read"}[name]

    def fail(*arguments, **options):
        raise ValueError("something is wrong")

    monkeypatch.setattr(reader, fail)
    with pytest.raises(AssertionError, match="no culprit in"):
        HARNESSES[name].check(HARNESSES[name].SEEDS[0])
