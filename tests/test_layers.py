"""Imports: downward between the parts of audiotok, without cycles, and tts_lm uses public names of audiotok only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import audiotok

ROOT = Path(__file__).parents[1]

# Modules and packages of audiotok, in an order in which each may import those before it.
ORDER = (
    "files hub machine program pictures containers audio state recipes codec export tokens bitstream corpus metrics "
    "training search evaluate __init__ cli"
).split()


def modules(package: str) -> dict[str, Path]:
    """Dotted name -> file of every module under a top-level package."""
    paths = sorted((ROOT / package).rglob("*.py"))
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths}


def imports(module: str, path: Path) -> set[str]:
    """Dotted names of all imports in a module; relative ones are resolved."""
    found: set[str] = set()
    package = module.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            target = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{target}.{alias.name}" for alias in node.names}
    return found


def resolve(name: str, known: dict[str, Path]) -> str | None:
    """The module of an imported name: itself, its package, or the module that defines it."""
    while name:
        for candidate in (name, f"{name}.__init__"):
            if candidate in known:
                return candidate
        name = name.rpartition(".")[0]
    return None


def graph(package: str) -> dict[str, set[str]]:
    """Module -> modules of the same package that it imports."""
    known = modules(package)
    return {
        module: {target for name in imports(module, path) if (target := resolve(name, known))} - {module}
        for module, path in known.items()
    }


def test_audiotok_imports_run_downward() -> None:
    def place(module: str) -> int:
        return ORDER.index(module.split(".")[1])

    edges = graph("audiotok")
    wrong = [f"{module} imports {t}" for module in edges for t in edges[module] if place(t) > place(module)]
    assert wrong == []


@pytest.mark.parametrize("package", ["audiotok", "tts_lm"])
def test_no_cycle(package: str) -> None:
    edges = graph(package)
    done: set[str] = set()

    def walk(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            for target in edges[module]:
                walk(target, (*path, module))
            done.add(module)

    for module in edges:
        walk(module, ())


def test_tts_lm_uses_public_names_and_audiotok_uses_none_of_its() -> None:
    public = {f"audiotok.{name}" for name in audiotok.__all__} | {"audiotok"}
    wrong = [
        f"{module} imports {name}"
        for package, forbidden in (("audiotok", ("tts_lm", "data", "tests")), ("tts_lm", ("data", "tests")))
        for module, path in modules(package).items()
        for name in imports(module, path)
        if name.split(".")[0] in forbidden
        or (package == "tts_lm" and name.split(".")[0] == "audiotok" and name not in public)
    ]
    assert wrong == []


def test_every_public_name_exists() -> None:
    assert [name for name in audiotok.__all__ if getattr(audiotok, name, None) is None] == []
    assert set(audiotok.__all__) <= set(dir(audiotok))
    with pytest.raises(AttributeError, match="nonsense"):
        _ = audiotok.nonsense
