"""Two ranks, one of them slow, with a time budget end with equal weights."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lm_toys import write_corpus
from safetensors import safe_open
from safetensors.torch import load_file

from audiotok.training.packed import write_packed

TESTS = Path(__file__).parent
CODE = """
import sys, time
from safetensors.torch import save_file
from audiotok.training.packed import PackedClips
from audiotok.training.seanet import SeanetTrainer
from test_lm_training import recipe
from test_seanet_training import small_recipe
from tts_lm.training import trainer as module

folder, steps, minutes = sys.argv[1], sys.argv[2], float(sys.argv[3])

def slow_run(self, name, run):
    rank, step = self.accelerator.process_index, self.train_step
    def slow():
        time.sleep(0.02 * rank)
        return step()
    self.train_step = slow
    assert self.accelerator.num_processes == 2
    run(self)
    model = getattr(self, "bare", None) or self.training_model
    weights = {key: value.contiguous().clone() for key, value in model.state_dict().items()}
    save_file(weights, f"{folder}/{name}{rank}.safetensors", metadata={"step": str(self.step)})

stages = ["quantize_from=2", "adversarial_from=2", "discriminator_warmup=1", "noise=false", "crop_frames=8", "batch=2"]
stages += ["eval_clips=1", "model.filters=2"]
chosen = small_recipe("soundstream", f"steps={steps}", f"max_minutes={minutes}", *stages)
pack = PackedClips(folder + "/pack", 320)
trainer = SeanetTrainer(chosen, pack, pack, folder + "/codec", device="cpu")
slow_run(trainer, "codec", SeanetTrainer.run)

run = module.TtsTrainer.run
module.TtsTrainer.run = lambda self: slow_run(self, "tts", run)
settings = recipe("ar", f"max_steps={steps}", f"max_minutes={minutes}", "optim.dropout=0.1", "data.prompted=0.3")
module.train_lm(settings, [folder + "/corpus"], folder + "/tts", device="cpu")
"""


@pytest.mark.parametrize(
    ("steps", "minutes"), [(5, 1.0), pytest.param(60, 0.15, marks=pytest.mark.slow)], ids=["short", "long"]
)
def test_ranks_end_with_the_same_weights(
    steps: int, minutes: float, tmp_path: Path, make_speech: Callable[..., torch.Tensor]
) -> None:
    clips = [({"id": str(i)}, make_speech(0.5, 8_000, seed=i)[0].numpy()) for i in range(2)]
    write_packed(tmp_path / "pack", clips)
    write_corpus(tmp_path / "corpus", rows=8, longest=2)
    path = f"import sys; sys.path[:0] = [{str(TESTS)!r}, {str(TESTS.parent)!r}]\n"
    (tmp_path / "ranks.py").write_text(path + CODE)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(tmp_path / "ranks.py")]
    command = [sys.executable, *launch, str(tmp_path), str(steps), str(minutes)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for name in ("codec", "tts"):
        files = [tmp_path / f"{name}{rank}.safetensors" for rank in (0, 1)]
        ours, theirs = map(load_file, files)
        assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
        ends = {safe_open(file, "pt").metadata()["step"] for file in files}
        assert len(ends) == 1 and 0 < int(ends.pop()) <= steps
