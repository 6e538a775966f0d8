"""Imports point down the layers only, and nothing ever unpickles."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import sessiondb

ROOT = Path(sessiondb.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))

# What each layer may import of ours. "top" is every module beside the packages: db, session and what they are
# made of; they know stores by their contract alone, never by kind.
CORE = ("sessiondb.core",)
STORES = (*CORE, "sessiondb.stores")
WRAPPERS = (
    "sessiondb.stores._near_siblings",
    "sessiondb.stores.announcing",
    "sessiondb.stores.chaining",
    "sessiondb.stores.coalescing",
    "sessiondb.stores.encrypting",
    "sessiondb.stores.feed",
    "sessiondb.stores.gathering",
    "sessiondb.stores.near_cache",
    "sessiondb.stores.recovering",
)
CONTRACT = (*CORE, "sessiondb.stores.base", *WRAPPERS)
FACES = ("sessiondb",)
ALLOWED = {"core": CORE, "stores": STORES, "web": FACES, "security": FACES, "ops": FACES, "testing": FACES}
ALLOWED["__main__"] = FACES  # python -m sessiondb: the command line
ABOVE = ("sessiondb.web", "sessiondb.security", "sessiondb.ops", "sessiondb.testing")
# Tools look at the rest; nothing that serves a request may need them.
TOOLS = {
    "web": ("sessiondb.ops", "sessiondb.testing"),
    "security": ("sessiondb.ops", "sessiondb.testing"),
    "ops": ("sessiondb.testing",),
}

# JSON alone is decoded (CVE-2019-17206, CVE-2021-33026): these run code from what they read.
UNSAFE = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "yaml"}


def name_of(path: Path) -> str:
    parts = ("sessiondb", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> Iterator[str]:
    """Every module that ``path`` imports, anywhere in it; names imported from a package count as its modules."""
    package = name_of(path) if path.name == "__init__.py" else name_of(path).rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names if is_module(f"{module}.{alias.name}"))


def is_module(name: str) -> bool:
    path = ROOT.parent / Path(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_downwards(path: Path) -> None:
    name = name_of(path)
    ours = [found for found in imports_of(path) if within(found, ("sessiondb",))]
    layer = name.split(".")[1] if name.count(".") else ""
    if layer in ALLOWED:
        wrong = [found for found in ours if not within(found, ALLOWED[layer]) or within(found, TOOLS.get(layer, ()))]
    elif name == "sessiondb":
        wrong = [found for found in ours if within(found, ("sessiondb.ops", "sessiondb.testing"))]
    else:
        wrong = [
            found
            for found in ours
            if within(found, ABOVE) or (within(found, ("sessiondb.stores",)) and not within(found, CONTRACT))
        ]
        # `from sessiondb.stores.base import x` names the package too; only what is in it decides.
        wrong = [found for found in wrong if found != "sessiondb.stores"]
    if layer in ("core", "stores"):
        wrong += [found for found in ours if found == "sessiondb"]
    assert not wrong, f"{name} imports {sorted(set(wrong))}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_nothing_imports_a_decoder_that_runs_code(path: Path) -> None:
    assert not {found.split(".")[0] for found in imports_of(path)} & UNSAFE


def test_core_does_no_io() -> None:
    waiting = {"asyncio", "anyio", "socket", "sqlite3", "threading", "time", "os", "pathlib", "logging"}
    for path in (ROOT / "core").rglob("*.py"):
        assert not {found.split(".")[0] for found in imports_of(path)} & waiting, path.name
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        assert not any(isinstance(node, (ast.AsyncFunctionDef, ast.Await)) for node in nodes), path.name


def test_the_parser_of_imports_sees_what_is_there() -> None:
    # A layering test that cannot see an import would pass for ever.
    assert name_of(ROOT / "core" / "__init__.py") == "sessiondb.core"
    assert "sessiondb.core.codec" in set(imports_of(ROOT / "core" / "change.py"))
    assert "sessiondb.core" in set(imports_of(ROOT / "core" / "change.py"))
    assert "importlib" in set(imports_of(ROOT / "stores" / "base.py"))
