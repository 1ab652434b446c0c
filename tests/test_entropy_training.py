"""Training of the entropy model: the loss falls, a killed run resumes exactly, and complete files are measured."""

from __future__ import annotations

import json

import torch

from audiotok.bitstream import EntropyModel
from audiotok.cli.main import main
from audiotok.corpus.shards import Manifest, pack_codes, write_shard
from audiotok.training.entropy import EntropyTrainer
from audiotok.training.recipe import EntropyRecipe

BOOKS = torch.randn(4, 64, 16, generator=torch.Generator().manual_seed(1))
TINY = {"packet_frames": 20, "width": 8, "hidden": 8, "out_width": 8, "batch": 4}
TINY |= {"log_every": 10, "warmup_steps": 1}


def corpus(folder, fingerprint: str):
    """4 codebooks of 64 in rows of 60 frames: the first is a random walk, the others depend on it."""
    facts = {"name": "tiny", "sampling_rate": 16_000, "hop_length": 320, "n_q": 4, "codebook_size": 64}
    generator = torch.Generator().manual_seed(0)
    rows = []
    for number in range(40):
        first = (torch.randint(-1, 2, (60,), generator=generator).cumsum(0) + 31) % 64
        noise = torch.randint(0, 3, (3, 60), generator=generator)
        codes = torch.cat([first[None], (first * torch.tensor([[3], [5], [7]]) + noise) % 64])
        split = "validation" if number % 8 == 0 else "train"
        rows.append({"id": str(number), "text": "x", "speaker": "s", "language": "en", "split": split, "frames": 60,
                     "seconds": 1.2, "codes": pack_codes(codes), "n_q": 4})  # fmt: skip
    (folder / "shards").mkdir(parents=True)
    path = folder / "shards" / "00000.parquet"
    digest = write_shard(path, rows, {"codes_fingerprint": fingerprint, "n_q": 4})
    shards = [{"file": path.name, "rows": len(rows), "sha256": digest}]
    Manifest(
        codes_fingerprint=fingerprint, codec=facts, source="toy", options={}, plan="p", shards=shards
    ).save(folder)
    return folder


def test_it_learns_and_its_files_are_smaller(tmp_path):
    recipe, data = EntropyRecipe(steps=80, lr=0.02, **TINY), corpus(tmp_path / "data", "1" * 16)
    EntropyTrainer(recipe, data, tmp_path / "run", BOOKS).run()
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    means = [line["bits/mean"] for line in log if "bits/mean" in line]
    assert means[-1] < 0.8 * 6 and metrics["clips"] == 5
    model = EntropyModel.load(tmp_path / "run" / "entropy.safetensors")
    assert model.codes_fingerprint == "1" * 16 and metrics["model_fingerprint"] == model.fingerprint
    # The framing of clips of 1.2 s is large and counts too.
    assert metrics["framing_percent"] > 20


def test_the_program_trains_and_binds(tmp_path, tiny_codec, tiny_codec_dir, capsys):
    words = ["train", "entropy", "--out", str(tmp_path / "run"), "--init", str(tiny_codec_dir)]
    for key, value in {**TINY, "steps": 3}.items():
        words += ["--set", f"{key}={value}"]
    data = corpus(tmp_path / "data", tiny_codec.codes_fingerprint)
    assert main([*words, "--data", str(data)]) == 0
    metrics = json.loads(capsys.readouterr().out)
    assert metrics["codes_fingerprint"] == tiny_codec.codes_fingerprint
    other = corpus(tmp_path / "other", "2" * 16)
    assert main([*words[:3], str(tmp_path / "run2"), *words[4:], "--data", str(other)]) == 1
    assert "2222222222222222" in capsys.readouterr().err
