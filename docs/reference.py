"""Writes docs/reference.md and docs/programs.md from the docstrings and the parsers.

Knows nothing of what they say. The law it keeps: the same packages give the same pages, on every Python; a test
compares the pages in the checkout with what this writes.

    python docs/reference.py [FOLDER]      # default: docs, beside this file
"""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PACKAGES = ("audiotok", "tts_lm")
PROGRAMS = {"audiotok": "audiotok.cli.main", "tts-lm": "tts_lm.cli.main"}
SECTIONS = ("Args", "Attributes", "Returns", "Yields", "Raises", "Source")
_NOTE = "<!-- Written by docs/reference.py; change the docstrings, then run it. -->"


def plain(text: str) -> str:
    """A docstring's reST in Markdown: ``:class:`~a.b.C``` and double backticks become code."""
    text = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"`\1`", text)
    return re.sub(r"``([^`]+)``", r"`\1`", text)


def markdown(docstring: str) -> list[str]:
    """A Google docstring as Markdown lines: its sections become lists."""
    lines: list[str] = []
    section = ""
    for line in inspect.cleandoc(docstring).splitlines():
        head = re.fullmatch(rf"({'|'.join(SECTIONS)}):(.*)", line)
        if head:
            section = head[1]
            lines += [f"*{section}*{':' + head[2] if head[2] else ''}", ""]
        elif section and line.startswith("    ") and not line.startswith("     "):
            item = re.match(r"    ([\w*, .]+?): (.*)", line)
            named = item and section not in ("Returns", "Yields", "Source")
            lines.append(f"- `{item[1]}`: {item[2]}" if item and named else f"- {line.strip()}")
        elif section and line.strip():
            lines.append(f"  {line.strip()}" if line.startswith("    ") else line)
        else:
            lines.append(line)
    return [plain(line) for line in _joined(lines)]


def _joined(lines: list[str]) -> list[str]:
    """Unnamed items of one section are one paragraph, not a list of its lines."""
    out: list[str] = []
    for line in lines:
        unnamed = line.startswith("- ") and not line.startswith("- `")
        out.append(f"  {line[2:]}" if unnamed and out and out[-1].startswith(("- ", "  ")) else line)
    return out


def signature(function: Any) -> str:
    """Arguments and result as they are written, without ``self``."""
    found = inspect.signature(function)
    words, keyword_only = [], False
    for name, p in found.parameters.items():
        if name in ("self", "cls"):
            continue
        if p.kind is p.KEYWORD_ONLY and not keyword_only:
            words.append("*")
        keyword_only |= p.kind in (p.KEYWORD_ONLY, p.VAR_POSITIONAL)
        stars = {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "")
        kind = f": {p.annotation}" if isinstance(p.annotation, str) else ""
        default = "" if p.default is p.empty else f" = {p.default!r}".replace("<factory>", "...")
        words.append(f"{stars}{name}{kind}{default}")
    result = f" -> {found.return_annotation}" if isinstance(found.return_annotation, str) else ""
    return f"({', '.join(words)}){result}"


def fields(cls: type) -> Iterator[str]:
    """Attributes that a class declares and explains in the line below."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    for here, below in zip(body.body, body.body[1:], strict=False):
        if isinstance(here, ast.AnnAssign) and isinstance(below, ast.Expr):
            if isinstance(below.value, ast.Constant) and isinstance(below.value.value, str):
                kind = ast.unparse(here.annotation)
                said = " ".join(below.value.value.split())
                yield f"- `{ast.unparse(here.target)}: {kind}`: {plain(said)}"


def members(cls: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties of a class and of our classes that it is made of, by name."""
    seen: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if base.__module__.split(".")[0] in PACKAGES:
            seen |= {name: value for name, value in vars(base).items() if not name.startswith("_")}
    for name, value in sorted(seen.items()):
        value = getattr(value, "__func__", value)
        if isinstance(value, property) or inspect.isfunction(value):
            if inspect.getdoc(value):
                yield name, value


def _property(name: str, value: property) -> str:
    """One property as an item: its first paragraph."""
    first = (inspect.getdoc(value) or "").split("\n\n")[0]
    return f"- `{name}`: {plain(' '.join(first.split()))}"


def described(package: str, name: str) -> list[str]:
    """The entry of one public name."""
    value = getattr(importlib.import_module(package), name)
    if inspect.ismodule(value):
        return [f"### `{name}`", "", *markdown(value.__doc__ or ""), ""]
    if not callable(value):
        return [f"### `{name}`", "", f"A {type(value).__name__}.", ""]
    takes = "" if inspect.isclass(value) and issubclass(value, Exception) else signature(value)
    lines = [f"### `{name}`", "", "```", f"{name}{takes}", "```", ""]
    lines += [*markdown(value.__doc__ or ""), ""]
    if inspect.isclass(value):
        found = list(members(value))
        attributes = [
            *fields(value),
            *(_property(n, what) for n, what in found if isinstance(what, property)),
        ]
        lines += [*attributes, *([""] if attributes else [])]
        for method, what in found:
            if not isinstance(what, property):
                lines += [f"#### `{name}.{method}`", "", "```", f"{method}{signature(what)}", "```", ""]
                lines += [*markdown(inspect.getdoc(what) or ""), ""]
    return lines


def reference() -> str:
    """The page of the packages' public names."""
    lines = [
        "# Reference",
        "",
        _NOTE,
        "",
        "What `audiotok.__all__` and `tts_lm.__all__` hold. Letters: B batch, C channels, N samples, T frames,",
        "K codebooks, V codebook size, D width, S ids. The options of the programs: [programs.md](programs.md).",
        "",
    ]
    for package in PACKAGES:
        lines += [f"## {package}", ""]
        for name in sorted(importlib.import_module(package).__all__, key=str.lower):
            if not name.startswith("__"):
                lines += described(package, name)
    return "\n".join(line.rstrip() for line in lines).rstrip() + "\n"


def options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The options of a verb as table rows."""
    for action in parser._actions:
        if action.dest == "help":
            continue
        names = ", ".join(action.option_strings) or str(action.metavar or action.dest)
        wants = action.metavar or (action.dest.upper() if action.option_strings and action.nargs != 0 else "")
        if action.choices is not None:
            wants = ", ".join(map(str, action.choices))
        wants = " ".join(wants) if isinstance(wants, tuple) else wants
        said = (action.help or "").replace("%(default)s", str(action.default)).replace("%%", "%")
        cells = (f"`{names}`", wants if action.option_strings else "", said)
        yield "| " + " | ".join(str(cell).replace("|", "\\|").replace("*", "\\*") for cell in cells) + " |"


def programs() -> str:
    """The page of the programs' verbs and options."""
    lines = ["# Programs", "", _NOTE, "", "The same as `PROGRAM VERB --help` prints, on one page.", ""]
    for name, module in PROGRAMS.items():
        program = importlib.import_module(module).PROGRAM
        lines += [f"## {name}", "", program.description, ""]
        for verb in program.verbs:
            groups = program.build_parser(verb)._subparsers._group_actions
            parser = groups[0].choices[verb]
            lines += [f"### {name} {verb}", "", str(parser.description or ""), ""]
            lines += ["| option | takes | |", "|---|---|---|", *options(parser), ""]
    return "\n".join(line.rstrip() for line in lines).rstrip() + "\n"


def main(argv: list[str]) -> int:
    """Write both pages into a folder."""
    folder = Path(argv[0]) if argv else Path(__file__).parent
    for name, page in (("reference.md", reference()), ("programs.md", programs())):
        (folder / name).write_text(page, encoding="utf-8")
        print(folder / name)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
