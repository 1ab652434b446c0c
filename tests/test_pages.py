"""The code of README.md and of the documentation runs; commands that are only shown are ones the programs take."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import soundfile
from conftest import speech_like
from pages import ROOT, parse, program_commands, read_blocks, run_block, write_base_model

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "README.zh.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
TEXTS = "The garden is quiet this morning.|Nobody knew what to say.|The boats were in.|She said no.".split(
    "|"
)
# Pages that tests of their own run: they need a server, a longer training, or ONNX.
ELSEWHERE = {"serve.md", "add-speech-to-an-llm.md", "fine-tune-with-lora.md", "export-to-onnx.md"}
RUN = [
    page
    for page in PAGES
    if page.name not in ELSEWHERE | {"README.zh.md"}
    and {"python", "sh"} & {block.language for block in read_blocks(page)}
]


def names_of(pages: list[Path]) -> list[str]:
    return [str(page.relative_to(ROOT)) for page in pages]


def write_speech(folder: Path) -> None:
    """A folder of recordings with metadata.csv: six clips of speech-like sound, two of them held out."""
    folder.mkdir()
    rows = ["file_name,transcription,speaker_id,language,split"]
    for index, split in enumerate(["train"] * 4 + ["validation", "test"]):
        soundfile.write(folder / f"{index}.wav", speech_like(1.6 + 0.3 * index, seed=index)[0], 16_000)
        rows.append(f"{index}.wav,{TEXTS[index % 4]},anna,en,{split}")
    (folder / "metadata.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def write_codecs(folder: Path) -> None:
    """Small codecs with random weights where the pages name a hub id and a folder."""
    from codec_toys import SMALL, random_encodec
    from transformers import DacConfig, DacModel

    random_encodec(SMALL["24k"]).save_pretrained(folder / "facebook/encodec_24khz")
    sizes = {"encoder_hidden_size": 4, "decoder_hidden_size": 16, "n_codebooks": 2, "codebook_size": 16}
    DacModel(DacConfig(downsampling_ratios=[2, 4], upsampling_ratios=[4, 2], **sizes)).save_pretrained(
        folder / "my-dac"
    )


@pytest.mark.parametrize("page", RUN, ids=names_of(RUN))
def test_the_code_of_a_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: list
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(ROOT / "data")
    (tmp_path / "lines.txt").write_text("\n".join(TEXTS[:2]) + "\n", encoding="utf-8")
    soundfile.write("hello.wav", speech_like(3.2, seed=9)[0], 16_000)
    write_speech(tmp_path / "my-speech")
    write_base_model(tmp_path, TEXTS)
    if page.name == "lineage.md":
        write_codecs(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    for block in read_blocks(page):
        run_block(block, names)
    assert not no_network


@pytest.mark.parametrize("page", PAGES, ids=names_of(PAGES))
def test_every_command_is_one_the_programs_take(page: Path) -> None:
    for block in read_blocks(page):
        for words in program_commands(block):
            try:
                parse(words)
            except SystemExit as left:
                assert not left.code, f"{block.page}:{block.line}: {' '.join(words)}"


@pytest.mark.parametrize("page", PAGES, ids=names_of(PAGES))
def test_what_a_page_links_to_or_names_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = [ROOT / name for name in re.findall(r"`((?:audiotok|tts_lm|tests|docs|data)/[\w/.-]+)`", text)]
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", prose) if "://" not in link]
    paths = [*named, *(page.parent / link for link in links if link)]
    assert [path for path in paths if not path.exists()] == []


def test_both_readmes_show_the_same_code() -> None:
    english, chinese = ([(b.language, b.text) for b in read_blocks(page)] for page in PAGES[:2])
    assert english == chinese


def test_every_reason_for_dropping_a_row_is_explained() -> None:
    from audiotok.corpus.checks import REASONS

    page = (DOCS / "how-to/prepare-a-dataset.md").read_text(encoding="utf-8")
    assert [reason for reason in REASONS if f"`{reason}`" not in page] == []
