"""Tests of the set-up: the pins, the commands and the files a new user meets first."""

import re
import shutil
import subprocess
import tomllib
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
GPL = re.compile(r"(?<!L)GPL|(?<!Lesser )General Public", re.I)
PIN = re.compile(r"([a-z0-9-]+)==([\w.]+)")


def read_pins(lines):
    """Returns the pins as {name: version}; anything else than a pin fails."""
    found = [PIN.fullmatch(line.strip()) for line in lines]
    assert all(found), [line for line, pin in zip(lines, found, strict=True) if not pin]
    return {pin[1]: pin[2] for pin in found}


def read_constraints():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return read_pins([line for line in lines if line and not line.startswith("#")])


def read_environment():
    return yaml.safe_load((ROOT / "environment.yml").read_text())


def list_requirements():
    """Returns what the environment is installed from: the dependencies and the `dev` group."""
    return [Requirement(text) for text in PROJECT["dependencies"] + PYPROJECT["dependency-groups"]["dev"]]


def test_conda_users_get_the_same_pins():
    *_, from_pip = read_environment()["dependencies"]
    *pins, package = from_pip["pip"]
    assert package == "-e ."
    assert read_pins(pins) == read_constraints()


def test_the_conda_environment_takes_only_python_and_pip_from_conda():
    environment = read_environment()
    assert environment["dependencies"][:-1] == ["python=3.11", "pip"]
    assert environment["channels"] == ["conda-forge"]


@pytest.mark.parametrize("requirement", list_requirements(), ids=lambda requirement: requirement.name)
def test_every_dependency_is_pinned_within_its_range(requirement):
    pins = read_constraints()
    name = canonicalize_name(requirement.name)
    assert name in pins
    assert requirement.specifier.contains(pins[name])


def test_the_extras_and_the_group_are_the_expected_ones():
    extras = PROJECT["optional-dependencies"]
    assert sorted(extras) == ["detectors", "federation", "gpu", "harmonization", "synthesis", "viewer"]
    assert list(PYPROJECT["dependency-groups"]) == ["dev"]
    assert extras["gpu"] == ["tensorflow[and-cuda]"]


def list_installed(names):
    """Returns the distributions that a default install of these brings, by name, as far as they are installed here."""
    found, left = {}, [Requirement(name) for name in names]
    while left:
        wanted = left.pop()
        name = canonicalize_name(wanted.name)
        extras = ["", *sorted(wanted.extras)]
        if (name, *extras) in found:
            continue
        try:
            found[(name, *extras)] = one = distribution(name)
        except PackageNotFoundError:
            continue
        for text in one.requires or ():
            need = Requirement(text)
            if not need.marker or any(need.marker.evaluate({"extra": extra}) for extra in extras):
                need.marker = None
                left.append(need)
    return {key[0]: one for key, one in found.items()}


def read_licence(one):
    """Returns what a distribution says its licence is: the expression, or the classifiers and the first line."""
    said = one.metadata.get("License-Expression")
    classifiers = [text for text in one.metadata.get_all("Classifier") or () if text.startswith("License ::")]
    return said or "; ".join(classifiers) or (one.metadata.get("License") or "").strip().partition("\n")[0]


@pytest.mark.parametrize(
    ("names", "brought"),
    [
        (PROJECT["dependencies"], {"numpy", "scikit-learn", "tensorflow", "traitlets"}),
        (PROJECT["optional-dependencies"]["harmonization"], {"mne", "statsmodels", "scikit-image", "pooch", "patsy"}),
    ],
    ids=["default install", "harmonization"],
)
def test_an_install_brings_nothing_under_the_gpl(names, brought):
    found = {name: read_licence(one) for name, one in list_installed(names).items()}
    assert brought <= set(found), "what is needed by others is looked at"
    assert {name: licence for name, licence in found.items() if GPL.search(licence)} == {}
    silent = {name for name, licence in found.items() if not licence}
    assert silent <= {"namex"}, "whose licence, Apache 2.0, is a file alone"


@pytest.mark.parametrize(
    ("licence", "strict"),
    [
        *(("GPL-3.0-or-later", True), ("GNU General Public License v3 (GPLv3)", True), ("AGPL-3.0-only", True)),
        *(("LGPL-2.1", False), ("GNU Lesser General Public License v3 (LGPLv3)", False), ("BSD-3-Clause", False)),
    ],
)
def test_the_gpl_is_told_from_its_lesser_sister(licence, strict):
    assert bool(GPL.search(licence)) == strict


def test_the_environment_the_tests_run_in_is_the_pinned_one():
    pins = read_constraints()
    names = [canonicalize_name(requirement.name) for requirement in list_requirements()]
    assert {name: version(name) for name in names} == {name: pins[name] for name in names}


@pytest.mark.parametrize("target", ["tutorial", "test", "lab", "env", "clean", "clean-all"])
def test_the_makefile_has_the_target(target):
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(rf"^{target}:", makefile, flags=re.M)
    assert re.search(rf"^\.PHONY:.*\s{target}(\s|$)", makefile, flags=re.M)


def test_make_says_what_is_wrong_with_an_old_python(tmp_path):
    if not shutil.which("make"):
        pytest.skip("make is not installed")
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    old = tmp_path / "old-python"
    old.write_text('#!/bin/sh\ntest "$1" = --version && echo Python 3.9.1 && exit 0\nexit 1\n')
    old.chmod(0o755)
    command = ["make", "-C", str(tmp_path), "test", f"PYTHON={old}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert f"dqc needs Python 3.11, 3.12 or 3.13; {old} is Python 3.9.1." in done.stderr
    assert "make test PYTHON=" in done.stderr


@pytest.mark.parametrize("command", ["make tutorial", "make test", "make lab"])
def test_the_readme_names_the_command(command):
    assert command in (ROOT / "README.md").read_text()


def test_ci_runs_make_test():
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    *_, last = script.read_text().splitlines()
    assert last.startswith('make test ARGS="-n 2 --dist loadfile --cov=dqc_lib --cov-branch ')
    assert last.endswith(' --cov-fail-under=95"')


def test_the_citation_names_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    paper = citation["preferred-citation"]
    assert (paper["doi"], paper["year"], len(paper["authors"])) == ("10.1038/s41746-025-01499-0", 2025, 12)
