"""Who may import whom: the layers of the design as a table. A new room is entered here before it is used."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Room -> the rooms it may import. A room is a module or a folder of them; inside a room only circles are
# forbidden.
AUDIOTOK = {
    "files": set(),
    "hub": set(),
    "machine": set(),
    "program": {"files", "machine"},
    "pictures": {"files"},
    "wav": set(),
    "audio": {"files", "wav"},
    "pipes": {"files", "wav", "audio"},
    "state": {"files"},
    "recipes": {"files"},
    "codec": {"files", "hub", "wav", "machine"},
    "export": {"files", "codec"},
    "tokens": {"files", "audio", "codec"},
    "bitstream": {"files"},
    "corpus": {"files", "hub", "program", "wav", "audio", "codec", "tokens"},
    "metrics": {"files", "audio"},
    "training": {"files", "state", "recipes", "audio", "codec", "tokens", "bitstream", "corpus", "metrics"},
    "search": {"codec", "training"},
    "evaluate": {"files", "audio", "codec", "tokens", "corpus", "metrics", "search"},
}
AUDIOTOK["cli"] = set(AUDIOTOK)
AUDIOTOK["__init__"] = set(AUDIOTOK) - {"cli"}
AUDIOTOK["cli"] |= {"__init__"}  # for the version


def modules(package: str) -> dict[str, Path]:
    """Dotted name -> file of every module under a top-level package."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts)] = path
    return found


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(module: str, path: Path) -> set[str]:
    """Dotted names that a module imports, wherever in the file; relative ones resolved."""
    found: set[str] = set()
    package = module.split(".")[:-1]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            target = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{target}.{alias.name}" for alias in node.names}
    return found


def resolve(name: str, known: set[str]) -> str | None:
    """The module of ours that an imported name means: itself, its package, or the module that holds it."""
    while name:
        if name in known:
            return name
        if f"{name}.__init__" in known:
            return f"{name}.__init__"
        name = name.rpartition(".")[0]
    return None


def graph(package: str) -> dict[str, set[str]]:
    """Module -> modules of the same package that it imports."""
    files = modules(package)
    return {
        module: {target for name in imports(module, path) if (target := resolve(name, set(files)))} - {module}
        for module, path in files.items()
    }


def room(module: str) -> str:
    """``audiotok.codec.model`` -> ``codec``."""
    return module.split(".")[1]


def test_audiotok_imports_run_downward():
    wrong = [
        f"{module} imports {target}"
        for module, targets in graph("audiotok").items()
        for target in sorted(targets)
        if room(target) != room(module) and room(target) not in AUDIOTOK.get(room(module), set())
    ]
    assert wrong == []


@pytest.mark.parametrize("package", ["audiotok", "tts_lm"])
def test_no_circle(package):
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


def test_audiotok_knows_nothing_of_what_stands_on_it():
    wrong = [
        f"{module} imports {name}"
        for module, path in modules("audiotok").items()
        for name in imports(module, path)
        if name.split(".")[0] in ("tts_lm", "data", "tests")
    ]
    assert wrong == []


def test_tts_lm_uses_public_names_only():
    import audiotok

    wrong = [
        f"{module} imports {name}"
        for module, path in modules("tts_lm").items()
        for name in imports(module, path)
        if name.split(".")[0] in ("data", "tests", "audiotok")
        if name != "audiotok" and name.removeprefix("audiotok.") not in audiotok.__all__
    ]
    assert wrong == []


def test_siblings_are_imported_by_name():
    """``from .x import Y``, never ``import audiotok.x``: one spelling, and no package half initialised."""
    wrong = []
    for package in ("audiotok", "tts_lm"):
        for path in modules(package).values():
            for node in ast.walk(tree(path)):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and node.level == 0:
                    names = [node.module or ""]
                if package in {name.split(".")[0] for name in names}:
                    wrong.append(f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}")
    assert wrong == []


def test_the_public_face_is_whole():
    import audiotok

    assert set(audiotok.__all__) <= set(dir(audiotok))
    assert [name for name in audiotok.__all__ if getattr(audiotok, name, None) is None] == []
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = audiotok.nonsense
