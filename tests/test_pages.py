"""The code of every page runs, what a page links to is there, and pages that are written by programs are fresh.

``tests/pages.py`` says what running means: blocks marked ``python`` and ``sh`` are executed in tiny form, those
marked ``bash`` are parsed. README.md is worked through in ``test_readme.py``; ``ELSEWHERE`` names pages that a test
of their own runs.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import soundfile
from conftest import speech_like
from pages import PROGRAMS, ROOT, Reader, machinery, parse, programs_lines, read_blocks, simple_commands

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "README.zh.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
# Page -> the sound that working through it must leave behind.
WORKED_THROUGH = {
    "tutorial.md": ["row.wav", "rabbit.wav", "mine.wav"],
    "prepare-a-corpus.md": [],
    "train-a-codec.md": [],
    "stream.md": [],
    "how-it-works.md": [],
}
ELSEWHERE = {
    "speech-in-your-llm.md": "test_processor_finetune.py",
    "finetune-lora.md": "test_finetune_lora.py",
    "serve.md": "test_serve_page.py",
    "onnx.md": "test_export.py",
    "lineage.md": "test_pages.py",
    "cluster.md": "test_pages.py",
}
TEXTS = [
    "The garden is quiet this morning.",
    "Nobody knew what to say.",
    "The boats were in.",
    "She said no.",
]


def write_speech(folder: Path) -> None:
    """A folder of recordings with metadata.csv: six clips of speech-like sound, two of them held out."""
    folder.mkdir()
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["file_name", "transcription", "speaker_id", "language", "split"])
        for index, split in enumerate(["train"] * 4 + ["validation", "test"]):
            wav = speech_like(1.6 + 0.3 * index, seed=index)[0].numpy()
            soundfile.write(folder / f"{index}.wav", wav, 16_000)
            rows.writerow([f"{index}.wav", TEXTS[index % 4], "anna", "en", split])


def furnish(folder: Path) -> None:
    """Put into a folder what pages expect to lie there, and what they would make with flite."""
    (folder / "data").symlink_to(ROOT / "data")
    (folder / "lines.txt").write_text("\n".join(TEXTS[:2]) + "\n", encoding="utf-8")
    soundfile.write(folder / "clip.wav", speech_like(3.2, seed=9)[0].numpy(), 16_000)
    write_speech(folder / "my-speech")


@pytest.fixture
def reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: list
) -> Iterator[Callable[..., Reader]]:
    """``reader()``: someone in a furnished folder without a network."""
    environment = machinery(tmp_path / "bin")
    (tmp_path / "desk").mkdir()
    monkeypatch.chdir(tmp_path / "desk")

    def sit_down() -> Reader:
        furnish(tmp_path / "desk")
        return Reader(environment)

    yield sit_down
    assert not no_network


@pytest.mark.parametrize("name", WORKED_THROUGH)
def test_a_page_can_be_worked_through(name: str, reader: Callable[..., Reader]) -> None:
    blocks = read_blocks(DOCS / name)
    someone = reader()
    for block in blocks:
        someone.work_through(block)
    for sound in WORKED_THROUGH[name]:
        assert soundfile.info(sound).samplerate == 16_000


def test_the_codecs_on_the_lineage_page_open(reader: Callable[..., Reader]) -> None:
    """Random weights lie where the page names a hub id and a folder."""
    from encodec_toys import SMALL, random_encodec
    from transformers import DacConfig, DacModel

    someone = reader()
    random_encodec(SMALL["24k"]).save_pretrained("facebook/encodec_24khz")
    sizes = {"encoder_hidden_size": 4, "decoder_hidden_size": 16, "n_codebooks": 2, "codebook_size": 16}
    DacModel(DacConfig(downsampling_ratios=[2, 4], upsampling_ratios=[4, 2], **sizes)).save_pretrained(
        "my-dac"
    )
    (block,) = (block for block in read_blocks(DOCS / "lineage.md") if block.language == "python")
    someone.work_through(block)
    assert type(someone.names["codec"]).__name__ != "SeanetCodec"


def test_every_page_with_code_is_run() -> None:
    known = {*WORKED_THROUGH, *ELSEWHERE}
    ran = {"python", "sh"}
    for page in DOCS.glob("*.md"):
        if ran & {block.language for block in read_blocks(page)}:
            assert page.name in known, (
                f"{page.name}: add it to WORKED_THROUGH, or to ELSEWHERE with a test of its own"
            )
    for name, test in ELSEWHERE.items():
        if (DOCS / name).exists():
            assert name in (ROOT / "tests" / test).read_text(encoding="utf-8"), f"{test} does not run {name}"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_command_is_one_the_programs_take(page: Path) -> None:
    for block, words in programs_lines(read_blocks(page)):
        try:
            parse(words)
        except SystemExit as left:
            if left.code:
                raise AssertionError(f"{block}: {' '.join(words)}") from None


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_what_a_page_links_to_is_there(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert [link for link in links if link and not (page.parent / link).exists()] == []


def test_the_index_names_every_page() -> None:
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in DOCS.glob("*.md") if f"({page.name})" not in index] == ["README.md"]


# ---- pages that programs write


def load_script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


@pytest.mark.parametrize("page", ["reference", "programs"])
def test_the_reference_is_that_of_the_code(page: str) -> None:
    written = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    fresh = getattr(load_script("reference"), page)()
    assert written == fresh, (
        f"docs/{page}.md is of other docstrings or options; run: python docs/reference.py"
    )


def test_a_docstring_becomes_markdown() -> None:
    text = """Cut ``x``, see :func:`~a.b.knife`.

    Args:
        x: [B, C, N] float32,
            any N.

    Returns:
        [B] int64, and a line
        more.

    Raises:
        ValueError, TypeError: it is no bread.
    """
    assert load_script("reference").markdown(text) == [
        "Cut `x`, see `knife`.", "", "*Args*", "", "- `x`: [B, C, N] float32,", "  any N.", "",
        "*Returns*", "", "- [B] int64, and a line", "  more.", "",
        "*Raises*", "", "- `ValueError, TypeError`: it is no bread.",
    ]  # fmt: skip


# ---- tables that must not lag behind the code


def table(page: str, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its head."""
    text = (DOCS / page).read_text(encoding="utf-8").split(f"\n## {heading}\n")[1]
    lines = [line for line in text.split("\n## ")[0].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_reasons_for_dropping_a_row_are_all_explained() -> None:
    from audiotok.corpus.checks import REASONS

    shown = re.findall(
        r"`(\w+)`", " ".join(row[0] for row in table("prepare-a-corpus.md", "Which rows are dropped"))
    )
    assert sorted(shown) == sorted(REASONS)


@pytest.mark.parametrize(("column", "name"), [(2, "encodec"), (3, "dac"), (4, "mimi")])
def test_the_words_of_the_glossary_are_those_of_transformers(column: int, name: str) -> None:
    """What stands in backquotes before any bracket is an attribute of the configuration, or a field of an output."""
    from transformers.models import dac, encodec, mimi

    home = {"encodec": encodec, "dac": dac, "mimi": mimi}[name]
    config = {"encodec": "EncodecConfig", "dac": "DacConfig", "mimi": "MimiConfig"}[name]
    modelling = importlib.import_module(f"{home.__name__}.modeling_{name}")
    known = set(dir(getattr(home, config)()))
    for made in vars(modelling).values():
        known |= set(getattr(made, "__dataclass_fields__", ()))
    known |= {"input_values", "codebook_dim"} | ({"downsampling_ratios"} if name == "dac" else set())
    elsewhere = {"bandwidth", "Balancer", "threshold_ema_dead_code", "threshold_usage_ratio", "q_dropout"}
    found = [
        word
        for row in table("glossary.md", "Codecs")
        for word in re.findall(r"`([a-z_]+)`", row[column].split("(")[0])
        if word not in elsewhere
    ]
    assert len(found) >= 8 and [word for word in found if word not in known] == []


def test_every_word_of_the_glossary_is_explained() -> None:
    for heading in ("Codecs", "Language models", "Data and files", "Measures"):
        for word, meaning, *_ in table("glossary.md", heading):
            assert meaning.endswith(".") and len(meaning) > 10, f"{heading}: {word}"


def test_the_words_of_the_glossary_are_ours() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "audiotok").rglob("*.py"))
    source += "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tts_lm").rglob("*.py"))
    rows = [
        row
        for heading in ("Codecs", "Language models", "Data and files")
        for row in table("glossary.md", heading)
    ]
    words = {word for row in rows for word in re.findall(r"`([a-z_]+)`", row[0])}
    assert len(words) >= 15 and [word for word in words if not re.search(rf"\b{word}\b", source)] == []


# ---- several machines


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def cluster_line(what: str) -> str:
    """The one line of the cluster page with ``--machine_rank 0``, or ``--node-rank 0``, and these words."""
    text = (DOCS / "cluster.md").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = {" ".join(line.split()) for line in text.splitlines() if "rank 0" in line and "MAIN" in line}
    (line,) = (line for line in lines if what in line)
    return line


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["prepare", "train speech-16k", "train ar"])
def test_two_nodes_do_what_the_cluster_page_says(verb: str, tmp_path: Path) -> None:
    """The page's lines behind the page's launcher for machines without GPUs: two nodes on this one, in tiny form."""
    launcher = cluster_line("torchrun").split(" -m ")[0]
    line = cluster_line("torchrun" if verb == "prepare" else f"main {verb} ")
    tiny = "--set steps=2 --set batch=2 --set quantize_from=1 --set adversarial_from=1 --set kmeans_crops=4"
    tiny += " --set eval_every=2 --set log_every=1"
    rest = line.split(" -m ")[1].replace("train speech-16k", f"train tiny {tiny}")
    rest = rest.replace(
        "train ar", "train ar-tiny --set max_steps=2 --set model.hidden_size=32 --set log_every=1"
    )
    launcher = launcher.replace("MAIN", "127.0.0.1").replace("29500", str(free_port()))
    launcher = launcher.replace("torchrun", f"{sys.executable} -m torch.distributed.run")
    rest = rest.replace("/shared/", f"{tmp_path}/")
    rest += " --rows-per-shard 2" if verb == "prepare" else " --device cpu"
    furnish(tmp_path)
    speech = str((tmp_path / "my-speech").rename(tmp_path / "speech"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}

    def alone(*words: str) -> None:
        subprocess.run(
            [sys.executable, "-m", *words], env=environment, check=True, capture_output=True, timeout=600
        )

    if verb == "train speech-16k":
        packed = ["--out", str(tmp_path / "pack"), "--pack-only"]
        alone(PROGRAMS["audiotok"], "train", "tiny", "--data", speech, *packed)
    elif verb == "train ar":
        alone(PROGRAMS["audiotok"], "prepare", speech, "--out", str(tmp_path / "tokens"))
    running = [
        subprocess.Popen(
            f"{launcher.replace('rank 0', f'rank {rank}')} -m {rest}".split(),
            cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    said = [process.communicate(timeout=600)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], "\n".join(said)
    out = Path(rest.split(" --out ")[1].split()[0])
    made = {
        "prepare": "manifest.json",
        "train speech-16k": "codec/config.json",
        "train ar": "model/config.json",
    }
    assert (out / made[verb]).is_file()
    if verb == "prepare":
        alone(PROGRAMS["audiotok"], "verify", str(out))
        assert all("encode: 6 of 6" not in part for part in said)  # each did its share, not all
    else:
        # Only the first process of a group keeps the log: each step stands there once.
        rows = [json.loads(row) for row in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
        steps = [row["step"] for row in rows if "train/steps_per_s" in row or "optim/lr" in row]
        assert steps == [1, 2]


def test_no_option_on_the_page_of_programs_is_left_unexpanded() -> None:
    assert "%(" not in (DOCS / "programs.md").read_text(encoding="utf-8")


def test_a_shell_line_is_cut_into_its_commands() -> None:
    script = 'audiotok encode a b --meta text="x > y"  # why\naudiotok train x && cp a \\\n  b\n'
    script += "arecord | audiotok encode - -\n"
    assert list(simple_commands(script)) == [
        (["audiotok", "encode", "a", "b", "--meta", "text=x > y"], None),
        (["audiotok", "train", "x"], None),
        (["cp", "a", "b"], None),
        (["arecord"], "arecord | audiotok encode - -"),
        (["audiotok", "encode", "-", "-"], "arecord | audiotok encode - -"),
    ]
