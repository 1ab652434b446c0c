"""What a reader is promised: docstrings, named errors, short files and functions, one spelling."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(path for folder in ("audiotok", "tts_lm", "data") for path in (ROOT / folder).rglob("*.py"))
Function = ast.FunctionDef | ast.AsyncFunctionDef
# The verbs' entries turn errors into exit codes; what a forward pass may be called with, its class says.
NO_RAISES_NEEDED = {"add_parser", "run", "main", "forward", "backward"}
# Other words for what the design names once.
FORBIDDEN = {"sample_rate", "samplerate", "num_codebooks", "n_codebooks", "num_quantizers", "codebook_bins"}
SHAPE = re.compile(r"\[[^\]]*\]|scalar|as in|[Ss]ee |same shape")
each_file = pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def public(node: ast.AST, outer: str = "") -> Iterator[tuple[str, ast.ClassDef | Function, str]]:
    """Public classes, functions and methods of a module: name, node, docstrings of what they stand in."""
    docs = outer + (ast.get_docstring(node) or "" if isinstance(node, ast.Module | ast.ClassDef) else "")
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | Function) and not child.name.startswith("_"):
            yield child.name, child, docs
            if isinstance(child, ast.ClassDef):
                yield from ((f"{child.name}.{name}", *rest) for name, *rest in public(child, docs))


def is_property(node: ast.AST) -> bool:
    return any(isinstance(d, ast.Name) and d.id == "property" for d in getattr(node, "decorator_list", ()))


def own_raises(function: ast.AST) -> Iterator[str]:
    """Names of the errors that a function itself raises, outside functions inside it."""
    for child in ast.iter_child_nodes(function):
        if isinstance(child, Function | ast.Lambda | ast.ClassDef):
            continue
        if isinstance(child, ast.Raise) and isinstance(child.exc, ast.Call):
            name = ast.unparse(child.exc.func).lstrip("_")
            if name[0].isupper():  # a lower-case name is a function that builds the error
                yield name
        yield from own_raises(child)


@each_file
def test_module_says_what_it_is(path):
    assert ast.get_docstring(tree(path)), (
        "expected a docstring: what it is, what it knows nothing about, its law"
    )


@each_file
def test_public_callables_have_docstrings(path):
    """A property may be explained among the attributes of its class instead."""
    bare = [
        name
        for name, node, outer in public(tree(path))
        if not ast.get_docstring(node) and not (is_property(node) and re.search(rf"\b{node.name}\b", outer))
    ]
    assert bare == []


@each_file
def test_errors_raised_by_public_functions_are_documented(path):
    missing = []
    for name, node, _ in public(tree(path)):
        if isinstance(node, Function) and node.name not in NO_RAISES_NEEDED:
            text = ast.get_docstring(node) or ""
            missing += [
                f"{name} raises {error}" for error in sorted(set(own_raises(node))) if error not in text
            ]
    assert missing == []


@each_file
def test_arguments_are_annotated(path):
    bare = [
        f"{name}({arg.arg})"
        for name, node, _ in public(tree(path))
        if isinstance(node, Function)
        for arg in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
        if arg.annotation is None and arg.arg not in ("self", "cls")
    ]
    assert bare == []


@each_file
def test_tensors_have_shapes(path):
    """Where a Tensor goes in or out, the docstring of function, class or module says the shape."""
    silent = []
    for name, node, outer in public(tree(path)):
        if isinstance(node, Function):
            signature = ast.unparse(node.args) + (ast.unparse(node.returns) if node.returns else "")
            text = (ast.get_docstring(node) or "") + outer
            if re.search(r"\bTensor\b", signature) and not SHAPE.search(text):
                silent.append(name)
    assert silent == []


@each_file
def test_files_and_functions_are_short(path):
    """At most 400 lines a file and 60 a function, its docstring not counted."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
    long = []
    for node in ast.walk(tree(path)):
        if isinstance(node, Function):
            first = node.body[1 if ast.get_docstring(node) and len(node.body) > 1 else 0]
            if (lines := (node.end_lineno or 0) - first.lineno + 1) > 60:
                long.append(f"{node.name}: {lines} lines")
    assert long == []


@each_file
def test_one_word_per_thing(path):
    """Arguments that we name use the design's words; what other libraries call theirs is not looked at."""
    ours = {
        arg.arg
        for node in ast.walk(tree(path))
        if isinstance(node, Function)
        for arg in (*node.args.args, *node.args.kwonlyargs)
    }
    assert sorted(ours & FORBIDDEN) == []


@each_file
def test_nothing_is_left_for_later_or_pickled(path):
    text = path.read_text(encoding="utf-8")
    assert re.findall(r"\b(?:TODO|FIXME|XXX|HACK)\b|NotImplementedError|breakpoint\(", text) == []
    assert re.findall(r"\bpickle\.(?:load|dump)\(|torch\.(?:load|save)\(", text) == []
