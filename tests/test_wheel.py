"""The wheel is complete: built, installed elsewhere and moved, it works without a network."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import soundfile

ROOT = Path(__file__).parents[1]

_CODE = """
import socket
tried = []

def refuse(self, address, *_):
    if self.family != socket.AF_UNIX:
        tried.append(address)
        raise OSError(f"the network is refused here: {address}")

socket.socket.connect = refuse
socket.socket.connect_ex = refuse

import sys
import audiotok, tts_lm
place = sys.argv[1]
assert audiotok.__file__.startswith(place) and tts_lm.__file__.startswith(place), (audiotok.__file__, place)

from audiotok import checkpoint_dir, load_codec, load_tokenizer
from tts_lm.cli.main import main
assert main(["say", "The garden is quiet this morning.", "-o", "hello.wav", "--seed", "0"]) == 0

from transformers import AutoModel, AutoTokenizer
codec = AutoModel.from_pretrained(checkpoint_dir("default"))
assert codec.codes_fingerprint == load_codec().codes_fingerprint == load_tokenizer().codes_fingerprint
load_tokenizer().save_pretrained("tokenizer")
ids = AutoTokenizer.from_pretrained("tokenizer")("Hello.", add_special_tokens=False).input_ids
assert ids == load_tokenizer().encode_text("Hello.")
assert tried == [], tried
"""


def build(target: str, source: Path, folder: Path) -> Path:
    """A wheel or an sdist of a source tree, built without a network."""
    words = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)]
    subprocess.run(words, cwd=source, check=True, capture_output=True)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of this checkout."""
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


def test_the_wheel_holds_the_packages_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"audiotok", "tts_lm"}
    assert {"audiotok/py.typed", "tts_lm/py.typed"} <= set(names)
    assert not [name for name in names if "__pycache__" in name]
    held = {
        name.split("/")[1]
        for name in names
        if name.count("/") == 2 and name.endswith((".safetensors", ".yaml"))
    }
    assert held <= {"checkpoints", "training", "recipes"}
    assert wheel.stat().st_size < 60e6


def test_the_metadata_of_the_wheel(wheel):
    import audiotok

    archive = zipfile.ZipFile(wheel)
    (metadata, entries) = (
        archive.read(name).decode()
        for suffix in ("METADATA", "entry_points.txt")
        for name in archive.namelist()
        if name.endswith(f".dist-info/{suffix}")
    )
    assert f"\nVersion: {audiotok.__version__}\n" in metadata
    assert "audiotok = audiotok.cli.main:main" in entries and "tts-lm = tts_lm.cli.main:main" in entries
    licences = {name.split("/licenses/")[1] for name in archive.namelist() if ".dist-info/licenses/" in name}
    assert {"LICENSE", "NOTICE"} <= licences


def test_the_sdist_has_the_whole_checkout_and_makes_the_same_wheel(wheel, tmp_path):
    sdist = build("sdist", ROOT, tmp_path / "sdist")
    with tarfile.open(sdist) as archive:
        # `extractall(filter=...)` came with Python 3.11.4; before that the attribute is ignored.
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(tmp_path / "source")
    (source,) = (tmp_path / "source").iterdir()
    for name in ("README.zh.md", "CONTRIBUTING.md", "docs/index.md", "data/README.md", "tests/pages.py"):
        assert (source / name).is_file(), name
    again = build("wheel", source, tmp_path / "wheel")
    files = [zipfile.ZipFile(built).infolist() for built in (wheel, again)]
    ours, theirs = ({f.filename: f.CRC for f in each if not f.filename.endswith("RECORD")} for each in files)
    assert ours == theirs


def test_the_installed_wheel_works_offline_after_it_was_moved(wheel, tmp_path):
    options = ["--quiet", "--no-deps", "--no-index", "--no-compile", "--target", str(tmp_path / "first")]
    words = [sys.executable, "-m", "pip", "install", *options, str(wheel)]
    subprocess.run(words, check=True, capture_output=True)
    place = (tmp_path / "first").rename(tmp_path / "second")
    (tmp_path / "cwd").mkdir()
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "HF_"))}
    done = subprocess.run(
        [sys.executable, "-c", _CODE, str(place)],
        cwd=tmp_path / "cwd",
        env={**environment, "PYTHONPATH": str(place), "HF_HOME": str(tmp_path / "empty")},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    info = soundfile.info(tmp_path / "cwd" / "hello.wav")
    assert info.samplerate == 16_000
    # Speech takes 40 to 110 ms per letter.
    letters = sum(c.isalpha() for c in "The garden is quiet this morning.")
    assert 0.040 <= info.duration / letters <= 0.110
