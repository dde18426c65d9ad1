"""pyproject.toml and constraints.txt belong together, and hold on every machine."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
CONSTRAINTS = (ROOT / "constraints.txt").read_text("utf-8").splitlines()


def test_every_direct_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    named = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    direct = {canonicalize_name(Requirement(line).name) for line in named} - {canonicalize_name(project["name"])}
    pinned = {canonicalize_name(line.split("==")[0]) for line in CONSTRAINTS}
    assert not direct - pinned


def test_constraints_are_plain_public_versions() -> None:
    # A path, a URL or a local version suffix (`+cpu`) would tie the file to one machine.
    plain = re.compile(r"[a-z0-9][a-z0-9.-]*==[0-9]+(\.[0-9a-z]+)*")
    assert [line for line in CONSTRAINTS if not plain.fullmatch(line)] == []


def test_no_package_is_pinned_twice() -> None:
    names = [canonicalize_name(line.split("==")[0]) for line in CONSTRAINTS]
    assert sorted(names) == sorted(set(names))
