"""docs/lineage.md: what it links to is there, what it names exists, and its figures are those that the script draws."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "lineage.md").read_text(encoding="utf-8")


def test_what_the_page_links_to_is_there() -> None:
    links = re.findall(r"\]\(([^)]+)\)", PAGE)
    assert len(links) > 10
    assert [link for link in links if not (DOCS / link).exists()] == []


def test_the_tests_that_the_page_names_exist() -> None:
    tests = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert named and [name for name in named if f"def {name}(" not in tests] == []


def test_the_script_draws_the_figures_of_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    spec = importlib.util.spec_from_file_location("lineage_figures", DOCS / "figures.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.main([str(tmp_path)]) == 0
    shown = {Path(name).name for name in re.findall(r"\((figures/[^)]+)\)", PAGE)}
    assert {path.name for path in tmp_path.iterdir()} == shown
    for path in tmp_path.iterdir():
        assert 5_000 < path.stat().st_size < 150_000
    assert len(capsys.readouterr().out.splitlines()) == len(shown)
