"""MkDocs hooks: the reference pages are built from docstrings and from the parsers of the two programs.

``<!-- api: PACKAGE -->`` becomes a mkdocstrings block for every public name of a package, ``<!-- cli: PROGRAM -->`` the
help of all its commands.
"""

from __future__ import annotations

import argparse
import os
import re
from importlib import import_module
from typing import Any

PROGRAMS = {"audiotok": "audiotok.cli.main", "tts-lm": "tts_lm.cli.main"}


def api(package: str) -> str:
    """Blocks for the public classes and functions of a package, grouped by the module that defines them."""
    public = import_module(package)
    groups: dict[str, list[str]] = {}
    for name in public.__all__:
        value = getattr(public, name)
        if callable(value) and getattr(value, "__module__", "").startswith(package):
            group = ".".join(value.__module__.split(".")[:2])
            groups.setdefault(group, []).append(f"{value.__module__}.{value.__qualname__}")
    lines = []
    for group in sorted(groups):
        lines += [f"## {group}", ""]
        for path in sorted(groups[group]):
            lines += [f"::: {path}", ""]
    return "\n".join(lines)


def cli(program: str) -> str:
    """The help of every command of a program."""
    build = import_module(PROGRAMS[program]).build_parser

    def commands(verb: str | None) -> dict[str, argparse.ArgumentParser]:
        actions = build(verb)._actions
        return next(action.choices for action in actions if isinstance(action, argparse._SubParsersAction))

    sections = [
        f"## {program} {verb}\n\n```text\n{commands(verb)[verb].format_help().rstrip()}\n```\n"
        for verb in commands(None)
    ]
    return "\n".join(sections)


def on_page_markdown(markdown: str, **_: Any) -> str:
    os.environ["COLUMNS"] = "100"  # width of argparse's help
    markdown = re.sub(r"<!-- api: (\w+) -->", lambda found: api(found[1]), markdown)
    return re.sub(r"<!-- cli: ([\w-]+) -->", lambda found: cli(found[1]), markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Render the roles of docstrings (``:func:`~package.name```) as code."""
    return re.sub(r":\w+:<code>~?(?:[\w.]+\.)?(\w+)</code>", r"<code>\1</code>", html)
