"""Notes: a folder is claimed by what will be written into it, and nobody else's folder is touched."""

import hashlib
import json

import pytest

from dqc_lib.aside import name_aside
from dqc_lib.notes import claim_folder, fingerprint_file, read_note

WANTED = {"seed": 1, "shape": (2, 3)}


def claim(folder, wanted=WANTED, **options):
    return claim_folder(folder, "made.json", wanted, of="shapes", **options)


def test_an_empty_folder_gets_the_note_before_anything_else(tmp_path):
    assert claim(tmp_path / "new" / "one") is None
    assert [path.name for path in (tmp_path / "new" / "one").iterdir()] == ["made.json"]
    assert json.loads((tmp_path / "new" / "one" / "made.json").read_text()) == {"seed": 1, "shape": [2, 3]}


def test_a_folder_that_is_claimed_for_the_same_gives_its_note_back(tmp_path):
    claim(tmp_path)
    (tmp_path / "half-way.txt").touch()
    assert claim(tmp_path) == {"seed": 1, "shape": [2, 3]}


@pytest.mark.parametrize(
    ("wanted", "differs"),
    [({"seed": 2, "shape": [2, 3]}, "seed"), ({"seed": 1}, "shape"), ({**WANTED, "unit": "mm"}, "unit")],
    ids=["another value", "one part less", "one part more"],
)
def test_what_differs_is_named_and_the_note_stays(tmp_path, wanted, differs):
    claim(tmp_path)
    with pytest.raises(FileExistsError, match=rf"holds other shapes \(other {differs}\); expected a folder of its own"):
        claim(tmp_path, wanted)
    assert read_note(tmp_path / "made.json", of="shapes") == {"seed": 1, "shape": [2, 3]}


def test_of_a_mapping_the_first_entry_that_differs_is_named(tmp_path):
    claim(tmp_path, {"seed": 1, "source": {"sub-01": "a", "sub-02": "b", "sub-03": "c"}})
    for source, entry in (
        ({"sub-01": "a", "sub-02": "x", "sub-03": "y"}, "sub-02"),
        ({"sub-01": "a", "sub-02": "b"}, "sub-03"),
        ({"sub-00": "a", "sub-01": "a", "sub-02": "b", "sub-03": "c"}, "sub-00"),
    ):
        with pytest.raises(FileExistsError, match=rf"\(other source: '{entry}'\)"):
            claim(tmp_path, {"seed": 1, "source": source})
    with pytest.raises(FileExistsError, match=r"\(other seed, source\)"):
        claim(tmp_path, {"seed": 2, "source": None})


def test_none_is_something_else_than_nothing_at_all(tmp_path):
    claim(tmp_path / "none", {"unit": None, "of": {"a": None}})
    assert claim(tmp_path / "none", {"unit": None, "of": {"a": None}}) is not None
    with pytest.raises(FileExistsError, match=r"\(other of: 'a', unit\)"):
        claim(tmp_path / "none", {"of": {}})
    claim(tmp_path / "nothing", {})
    with pytest.raises(FileExistsError, match=r"\(other unit\)"):
        claim(tmp_path / "nothing", {"unit": None})


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_number_that_json_does_not_know_claims_nothing(tmp_path, number):
    with pytest.raises(ValueError, match="not JSON compliant"):
        claim(tmp_path / "new", {"seed": number})
    assert not (tmp_path / "new").exists()


def test_a_file_where_the_folder_belongs_is_refused_by_name(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    for folder in (tmp_path / "thesis.txt", tmp_path / "thesis.txt" / "one" / "two"):
        with pytest.raises(FileExistsError, match=r"thesis\.txt is a file; expected a folder of its own"):
            claim(folder)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_how_far_the_work_has_come_is_not_compared(tmp_path):
    (tmp_path / "made.json").write_text(json.dumps(WANTED | {"whole": True}))
    assert claim(tmp_path, beside=("whole",))["whole"] is True
    with pytest.raises(FileExistsError, match="other whole"):
        claim(tmp_path)


def test_files_of_somebody_else_are_left_alone_but_for_what_a_writer_left_half_way(tmp_path):
    name_aside(tmp_path / "made.json").write_text("{")
    assert claim(tmp_path) is None
    (tmp_path / "made.json").unlink()
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(FileExistsError, match="holds files already, and no made.json"):
        claim(tmp_path)
    assert not (tmp_path / "made.json").exists()


def test_a_file_has_the_fingerprint_that_anybody_can_compute(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 1000)
    assert fingerprint_file(tmp_path / "a") == hashlib.sha256(b"abc" * 1000).hexdigest()
    assert fingerprint_file(tmp_path / "b") == fingerprint_file(tmp_path) == "missing"
