"""Two ranks, one of them slow, with a time budget end with equal weights."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lm_toys import write_corpus
from safetensors.torch import load_file

from audiotok.training.packed import write_packed

TESTS = Path(__file__).parent
CODEC = """
import sys, time
from safetensors.torch import save_file
from audiotok.training.packed import PackedClips
from audiotok.training.seanet import SeanetTrainer
from test_soundstream import small_recipe

folder, steps, minutes = sys.argv[1], sys.argv[2], float(sys.argv[3])
stages = ["quantize_from=3", "adversarial_from=5", "discriminator_lead=2", "noise=false"]
recipe = small_recipe("soundstream", f"steps={steps}", f"max_minutes={minutes}", *stages)
pack = PackedClips(folder + "/pack", 320)
trainer = SeanetTrainer(recipe, pack, pack, folder + "/run", device="cpu")
"""
TTS = """
import sys, time
from safetensors.torch import save_file
from test_lm_training import recipe
from tts_lm.training import trainer as module

folder, steps, minutes = sys.argv[1], sys.argv[2], float(sys.argv[3])
made = []
run = module.TtsTrainer.run
module.TtsTrainer.run = lambda self: made.append(self)
settings = recipe("ar", f"max_steps={steps}", f"max_minutes={minutes}", "optim.dropout=0.1", "data.prompted=0.3")
module.train_lm(settings, [folder + "/corpus"], folder + "/run", device="cpu")
trainer = made[0]
trainer.run = lambda: run(trainer)
trainer.training_model = trainer.bare
"""
END = """
rank, step = trainer.accelerator.process_index, trainer.train_step
def slow():
    if rank == 1:
        time.sleep(0.05)
    return step()
trainer.train_step = slow
assert trainer.accelerator.num_processes == 2
trainer.run()
weights = {name: value.contiguous().clone() for name, value in trainer.training_model.state_dict().items()}
save_file(weights, folder + f"/rank{rank}.safetensors", metadata={"step": str(trainer.step)})
print("ended at step", trainer.step, flush=True)
"""


def torchrun(code: str, folder: Path, steps: int, minutes: float) -> subprocess.CompletedProcess[str]:
    (folder / "ranks.py").write_text(code + END)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(folder / "ranks.py")]
    path = f"import sys; sys.path[:0] = [{str(TESTS)!r}, {str(TESTS.parent)!r}]\n"
    (folder / "ranks.py").write_text(path + code + END)
    command = [sys.executable, *launch, str(folder), str(steps), str(minutes)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.parametrize("kind", ["codec", "tts"])
@pytest.mark.parametrize(
    ("steps", "minutes"), [(6, 1.0), pytest.param(60, 0.15, marks=pytest.mark.slow)], ids=["short", "long"]
)
def test_ranks_end_with_the_same_weights(
    kind: str, steps: int, minutes: float, tmp_path: Path, make_speech: Callable[..., torch.Tensor]
) -> None:
    if kind == "codec":
        clips = [({"id": str(i)}, make_speech(1.0 + 0.1 * i, 8_000, seed=i)[0].numpy()) for i in range(5)]
        write_packed(tmp_path / "pack", clips)
    else:
        write_corpus(tmp_path / "corpus", rows=24)
    done = torchrun(CODEC if kind == "codec" else TTS, tmp_path, steps, minutes)
    assert done.returncode == 0, done.stderr[-3000:]
    ours, theirs = (load_file(tmp_path / f"rank{rank}.safetensors") for rank in (0, 1))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    ends = {line.rsplit(" ", 1)[1] for line in done.stdout.splitlines() if line.startswith("ended at step")}
    assert len(ends) == 1 and 0 < int(ends.pop()) <= steps
