"""The README's code runs, offline, as it stands there, and the Chinese README is its equal.

Blocks marked ``python`` and ``sh`` are executed, each in a new folder with the network refused; trainings and
benchmarks in tiny form (``tests/pages.py`` says how). Blocks marked ``bash`` are not: the two that install are what
``.ci/run`` runs on a clean clone, and the third needs a cluster or a GPU (``test_pages.py`` runs its like on the
cluster page). That the lines of all blocks are ones the programs take is tested in ``test_pages.py``, for every page.
"""

from __future__ import annotations

import io
import re
import tokenize
from collections import Counter
from pathlib import Path

import pytest
import soundfile
from pages import ROOT, Block, read_blocks
from test_pages import reader

README = (ROOT / "README.md").read_text(encoding="utf-8")
CHINESE = (ROOT / "README.zh.md").read_text(encoding="utf-8")
BLOCKS = read_blocks(ROOT / "README.md")
PYTHON = [block for block in BLOCKS if block.language == "python"]
SHELL = [block for block in BLOCKS if block.language == "sh"]
__all__ = ["reader"]


def first_line(block: Block) -> str:
    return block.text.splitlines()[0]


@pytest.mark.parametrize("block", PYTHON, ids=first_line)
def test_python_runs(block, reader, capsys):
    reader().work_through(block)
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("block", SHELL, ids=first_line)
def test_shell_runs(block, reader):
    reader().work_through(block)
    for name in re.findall(r"[\w-]+\.(?:wav|png|atok)\b", block.text):
        assert Path(name).stat().st_size > 100
        if name.endswith(".wav"):
            assert soundfile.info(name).samplerate == 16_000


def test_the_first_screen_speaks_and_shows_code():
    lines = README.splitlines()
    assert "tts-lm say" in "".join(lines[:12]) and "```python" in lines[:12]
    # One line each, to paste: a fresh clone speaks with the first and tests with the second.
    first, second = re.findall(r"^python3 -m venv .*$", README, flags=re.MULTILINE)
    assert "-c constraints.txt" in first and first.endswith("-o hello.wav")
    assert "-c constraints.txt" in second and second.endswith("pytest -n auto")


def test_the_first_screen_has_a_picture_that_opens_quickly():
    (picture,) = re.findall(r"^!\[.+\]\((\S+)\)$", README, flags=re.MULTILINE)
    assert README.index(picture) < README.index("\n## ")
    assert 5_000 < (ROOT / picture).stat().st_size < 60_000


def test_paths_named_in_the_tree_exist():
    (tree,) = (block.text for block in BLOCKS if not block.language)
    folder = ""
    for line in tree.splitlines():
        first = line.split()[0]
        if not line.startswith(" "):
            folder = first
        places = (
            [folder]
            if first == folder
            else [folder + w for w in line.split() if re.fullmatch(r"\w+(\.py|/)", w)]
        )
        for place in places:
            assert (ROOT / place).exists(), place


def test_no_machine_or_index_is_named():
    text = (ROOT / "constraints.txt").read_text()
    assert all(
        re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in text.splitlines() if not line.startswith("#")
    )
    assert "torch==2.13.0" in text.splitlines()
    for name in ("pyproject.toml", "Dockerfile", ".pre-commit-config.yaml"):
        text += (ROOT / name).read_text(encoding="utf-8")
    assert not re.search(r"https?://(?!127\.0\.0\.1)|--(extra-)?index|--find-links", text)


# ---- the Chinese README


def code(block: Block) -> str:
    """A block without its comments."""
    if block.language == "python":
        tokens = tokenize.generate_tokens(io.StringIO(block.text).readline)
        kept = [token.string for token in tokens if token.type not in (tokenize.COMMENT, tokenize.NL)]
        return " ".join(kept)
    return block.text


def sections(page: str) -> list[str]:
    """The parts of a page between its headings, without blocks of code."""
    return re.split(
        r"^## .*$", re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL), flags=re.MULTILINE
    )


def numbers(text: str) -> list[str]:
    """Numbers of a text, links left out: 1,024 and 1024 are one."""
    text = re.sub(r"\]\([^)]*\)", "]", text)
    return [found.replace(",", "").rstrip(".") for found in re.findall(r"\d[\d,]*(?:\.\d+)*", text)]


def rows(section: str) -> list[list[list[str]]]:
    """The numbers of a section's tables, cell by cell; a translation may turn their order round."""
    return [
        [sorted(numbers(cell)) for cell in line.split("|")]
        for line in section.splitlines()
        if line.startswith("|")
    ]


def prose(section: str) -> Counter[str]:
    """The numbers of a section outside tables."""
    return Counter(numbers("\n".join(line for line in section.splitlines() if not line.startswith("|"))))


def test_the_chinese_readme_has_the_same_code():
    theirs = read_blocks(ROOT / "README.zh.md")
    assert [block.language for block in theirs] == [block.language for block in BLOCKS]
    for ours, other in zip(BLOCKS, theirs, strict=True):
        assert code(other) == code(ours), f"{other} is not {ours}"


def test_the_chinese_readme_has_the_same_numbers():
    pairs = list(zip(sections(README), sections(CHINESE), strict=True))
    assert sum(len(prose(ours)) for ours, _ in pairs) > 30
    for ours, theirs in pairs:
        where = ours.strip().splitlines()[0][:60]
        for line, (want, got) in enumerate(zip(rows(ours), rows(theirs), strict=True), 1):
            assert got == want, (
                f"README.zh.md, the table below {where!r}, line {line}: {got}, README.md has {want}"
            )
        assert prose(theirs) == prose(ours), (
            f"README.zh.md, the section of {where!r}: only there {sorted((prose(theirs) - prose(ours)).elements())}, "
            f"only in README.md {sorted((prose(ours) - prose(theirs)).elements())}"
        )


def test_the_chinese_readme_links_to_the_same_pages():
    links = [set(re.findall(r"\]\(([^)]+)\)", page)) for page in (README, CHINESE)]
    assert links[0] ^ links[1] == {"README.md", "README.zh.md"}
