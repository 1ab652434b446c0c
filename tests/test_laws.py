"""Codes are a function of the audio alone: random cases of the batch, padding, thread and chunking laws."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from exact_reference import reference_codes
from torch import Tensor

from audiotok import AudioCodec, load_codec
from audiotok.cli.main import main
from audiotok.codec.exact import ExactAudioCodec
from audiotok.codec.laws import LAWS, Agreement, check_case, compare


def check(codec: AudioCodec, wavs: list[Tensor], cases: int) -> dict[str, Agreement]:
    found = dict.fromkeys(LAWS, Agreement())
    for seed in range(cases):
        for law, agreement in check_case(codec, wavs, seed).items():
            found[law] += agreement
    return found


@pytest.mark.parametrize("exact", [False, True], ids=["float", "exact"])
def test_laws(tiny_codec_dir: Path, make_speech: Callable[..., Tensor], exact: bool) -> None:
    codec = load_codec(tiny_codec_dir, exact=exact)
    found = check(codec, [make_speech(2, seed=seed) for seed in range(3)], 15)
    assert all(agreement.failures == 0 for agreement in found.values()), found
    assert all(agreement.cases >= 15 and agreement.frames > 100 for agreement in found.values())
    assert not exact or sum(agreement.ties for agreement in found.values()) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "default"])
@pytest.mark.parametrize("exact", [False, True], ids=["float", "exact"])
def test_laws_in_a_thousand_cases(
    tiny_codec_dir: Path, make_speech: Callable[..., Tensor], name: str, exact: bool
) -> None:
    codec = load_codec(tiny_codec_dir if name == "tiny" else name, exact=exact)
    found = check(codec, [make_speech(3, seed=seed) for seed in range(20)], 1000)
    print(name, "exact" if exact else "float", found)
    assert all(agreement.failures == 0 for agreement in found.values()), found
    assert not exact or sum(agreement.ties for agreement in found.values()) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "default"])
def test_a_thousand_cases_equal_an_integer_reference(
    tiny_codec_dir: Path, make_speech: Callable[..., Tensor], name: str
) -> None:
    codec = load_codec(tiny_codec_dir if name == "tiny" else name, exact=True)
    assert isinstance(codec, ExactAudioCodec)
    wavs = [make_speech(3, seed=seed) for seed in range(20)]
    generator = torch.Generator().manual_seed(0)
    for case in range(1000):
        size, start, level = torch.rand(3, generator=generator).tolist()
        wav = wavs[case % 20][:, int(30_000 * start) :][None, :, : 1 + int(4800 * size)] * 10 ** (
            0.3 - 2 * level
        )
        assert torch.equal(codec.encode(wav).audio_codes, reference_codes(codec, wav)), case


@torch.no_grad()
def test_a_difference_is_a_tie_or_a_failure(
    tiny_codec: AudioCodec, make_speech: Callable[..., Tensor]
) -> None:
    wav = make_speech(1)[None]
    books = tiny_codec.quantizer.codebooks
    books[1, 1:] = 100.0
    books[1, 1] = books[1, 0]
    codes = tiny_codec.encode(wav).audio_codes
    assert not codes[:, 1].any()
    tied = codes.clone()
    tied[:, 1, 3] = 1
    assert compare(tiny_codec, wav, codes, tied) == Agreement(1, codes.shape[-1], ties=1)
    wrong = tied.clone()
    wrong[:, 2, 7] = (wrong[:, 2, 7] + 1) % 64
    assert compare(tiny_codec, wav, codes, wrong) == Agreement(1, codes.shape[-1], ties=1, failures=1)
    assert compare(tiny_codec, wav, codes, codes[..., 1:]).failures == 1

    exact = ExactAudioCodec(tiny_codec.config)
    exact.load_state_dict(tiny_codec.state_dict())
    assert compare(exact, wav, codes, tied).failures == 1


def test_laws_verb(
    tiny_codec_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["laws", "--codec", str(tiny_codec_dir), "--cases", "2", "--device", "cpu"]
    assert main([*command, "--exact", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["law"] for row in rows] == list(LAWS)
    assert all(row["is_exact"] and row["frames"] and not row["ties"] + row["failures"] for row in rows)
    with pytest.raises(SystemExit):
        main([*command, "--cases", "0"])

    encode = AudioCodec.encode

    def depends_on_the_batch(self: AudioCodec, wav: Tensor, *args: object, **kwargs: object) -> object:
        return encode(self, wav * (1.0 if wav.shape[0] == 1 else -0.5), *args, **kwargs)

    monkeypatch.setattr(AudioCodec, "encode", depends_on_the_batch)
    assert main(command) == 1
    table = capsys.readouterr().out.splitlines()
    assert table[0].split() == ["law", "cases", "frames", "ties", "failures"]
    failures = {line.split()[0]: int(line.split()[4]) for line in table[1:]}
    assert failures["batch"] > 0 and failures["padding"] > 0
    assert failures["threads"] == failures["chunks"] == 0
