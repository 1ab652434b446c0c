"""Shared fixtures: a tiny codec, synthetic speech, a blocked network. Everything is seeded and offline.

Two options select tests by their result in the previous full run: ``--last-skipped`` runs those that were skipped,
``--last-under SECONDS`` those that took less time than that.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if "PYTEST_XDIST_WORKER" in os.environ:  # one thread per worker, also in processes that tests start
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import numpy as np
import pytest
import torch
from torch import Tensor

if TYPE_CHECKING:
    from audiotok import AudioCodec

SAMPLING_RATE = 16_000


def speech_like(seconds: float, sampling_rate: int = SAMPLING_RATE, seed: int = 0) -> Tensor:
    """A wav [1, N] with what speech has: a moving pitch with harmonics, formants, syllables, breath."""
    rng = np.random.default_rng(seed)
    n = max(1, round(seconds * sampling_rate))
    t = np.arange(n) / sampling_rate
    pitch = 120 + 40 * rng.random() + 25 * np.sin(2 * np.pi * (1.3 + rng.random()) * t + rng.random())
    phase = 2 * np.pi * np.cumsum(pitch) / sampling_rate
    formants = rng.uniform((300, 900, 2200), (800, 1800, 3000))
    sound = np.zeros(n)
    for harmonic in range(1, int(3800 / pitch.max())):
        gain = sum(np.exp(-(((harmonic * pitch - f) / 250) ** 2)) for f in formants)
        sound += gain * np.sin(harmonic * phase) / np.sqrt(harmonic)
    syllables = np.clip(np.sin(2 * np.pi * 2.1 * t + 6 * rng.random()) + 0.4, 0, 1)
    sound = sound * syllables + 0.02 * rng.standard_normal(n)
    return torch.from_numpy((0.5 * sound / max(np.abs(sound).max(), 1e-6)).astype(np.float32))[None]


@pytest.fixture
def make_speech() -> Callable[..., Tensor]:
    """The function ``speech_like(seconds, sampling_rate=16000, seed=0) -> wav [1, N]``."""
    return speech_like


@pytest.fixture
def wav() -> Tensor:
    """One second and a bit, not a whole number of frames: [1, 16123] float32 at 16 kHz."""
    return speech_like(16_123 / SAMPLING_RATE)


LAST_RUN = "audiotok/last_run"  # in pytest's cache: {test id: [skipped, seconds]}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("audiotok")
    group.addoption("--last-skipped", action="store_true", help="run what the previous full run skipped")
    group.addoption(
        "--last-under", type=float, metavar="SECONDS", help="run what took less in the previous full run"
    )


def pytest_configure(config: pytest.Config) -> None:
    if not (hasattr(config, "workerinput") or config.option.last_skipped or config.option.last_under):
        config.pluginmanager.register(_Recorder(config))


class _Recorder:
    """Keeps which tests of a run were skipped and how long each took."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.results: dict[str, tuple[bool, float]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        skipped, seconds = self.results.get(report.nodeid, (False, 0.0))
        skipped |= report.skipped and not hasattr(report, "wasxfail")
        self.results[report.nodeid] = (skipped, seconds + report.duration)

    def pytest_sessionfinish(self) -> None:
        cache = getattr(self.config, "cache", None)  # missing under -p no:cacheprovider
        if self.results and cache:
            cache.set(LAST_RUN, self.results)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Select by the previous run, and leave out slow tests unless a file or ``-m`` asks for them."""
    option = config.option
    if option.last_skipped or option.last_under:
        cache = getattr(config, "cache", None)
        last = cache.get(LAST_RUN, {}) if cache else {}
        chosen = {
            name
            for name, (skipped, seconds) in last.items()
            if (skipped if option.last_skipped else seconds < option.last_under)
        }
        unwanted = [item for item in items if item.nodeid not in chosen]
    elif option.markexpr or any("::" in arg or arg.endswith(".py") for arg in config.args):
        unwanted = []
    else:
        unwanted = [item for item in items if item.get_closest_marker("slow")]
    config.hook.pytest_deselected(items=unwanted)
    dropped = set(unwanted)
    items[:] = [item for item in items if item not in dropped]


@pytest.fixture
def tiny_codec() -> AudioCodec:
    """:func:`build_tiny_codec`, anew for each test."""
    return build_tiny_codec()


def build_tiny_codec() -> AudioCodec:
    """A small codec with random weights: 16 kHz, hop 320, 4 codebooks of 64."""
    from audiotok import AudioCodec, CodecConfig

    config = CodecConfig(
        n_q=4,
        codebook_size=64,
        codebook_dim=16,
        encoder_banks=[
            {"window": 400, "low_hz": 0.0, "high_hz": 8000.0, "bands": 8, "snapshots": 4},
            {"window": 640, "low_hz": 50.0, "high_hz": 200.0, "bands": None, "snapshots": 1},
        ],
        encoder_dim=32,
        encoder_dilations=[1, 2],
        decoder_dim=32,
        decoder_layers=2,
        codec_name="tiny",
    )
    generator_state = torch.get_rng_state()
    torch.manual_seed(0)
    codec = AudioCodec(config).eval()
    # Latents of a random encoder are small; books of unit size would give every frame the same code.
    with torch.no_grad():
        latents = codec.encoder(speech_like(4.48)[None])
        codec.quantizer.codebooks.normal_().mul_(latents.std())
    torch.set_rng_state(generator_state)
    return codec


@pytest.fixture
def tiny_codec_dir(tiny_codec: AudioCodec, tmp_path: Path) -> Path:
    """A folder that ``load_codec`` and ``--codec`` open: the tiny codec, saved."""
    folder = tmp_path / "tiny-codec"
    tiny_codec.save_pretrained(folder)
    return folder


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """Refuse every connection; yields the list of addresses that were tried."""
    tried: list[object] = []

    def refuse(self: socket.socket, address: object, *_: object) -> None:
        tried.append(address)
        raise OSError(f"a test tried to reach the network at {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    yield tried
